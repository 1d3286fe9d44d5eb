"""
A day in the life, through the public interface alone: the API, `dig` and the command line.

A crawler brings five thousand candidates, an analyst blocks one, its owner appeals and proves
that it is his, an approver upholds that, and everything can be told afterwards.
"""

import contextlib
import json
import random
import shutil
import socket
import subprocess
import threading
import time
import urllib.request

import pytest
from dnslib import QTYPE, RR, TXT, A, DNSRecord

from tests.running import UPSTREAM_ADDRESS, Upstream, wait_until
from tests.system.test_api import DIRECT, Api

# `benchmarks/candidates.py` brings a million.
COUNT, DUPLICATES, JUNK = 5_000, 500, 50
PORTS = 24
IN_FORCE_S = 0.2
JUNK_LINES = ['{"url": "no host"}', "not even JSON", '{"seen_at": 5}', '{"url": ""}', "[1, 2]"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.peer,
    pytest.mark.skipif(shutil.which("dig") is None, reason="needs dig"),
]


class Zone(Upstream):
    """An upstream whose TXT records the test sets."""

    def __init__(self):
        self.txt = {}
        super().__init__()

    def _run(self):
        self.sock.settimeout(0.1)
        while not self._stop:
            try:
                data, client = self.sock.recvfrom(4096)
            except TimeoutError:
                continue
            query = DNSRecord.parse(data)
            name = str(query.q.qname).rstrip(".").lower()
            self.asked.append(name)
            reply = query.reply()
            if query.q.qtype == QTYPE.A:
                reply.add_answer(RR(query.q.qname, QTYPE.A, rdata=A(UPSTREAM_ADDRESS), ttl=60))
            elif query.q.qtype == QTYPE.TXT and name in self.txt:
                record = TXT(self.txt[name])
                reply.add_answer(RR(query.q.qname, QTYPE.TXT, rdata=record, ttl=1))
            self.sock.sendto(reply.pack(), client)


@pytest.fixture
def upstream():
    """The world outside."""
    zone = Zone()
    yield zone
    zone.close()


def lines():
    """The crawler's day: duplicates and junk among new URLs, in any order."""
    dice = random.Random(5)
    words = ("login", "verify", "pay", "bank", "gift", "parcel", "shop", "points")
    urls = [
        f"http://{dice.choice(words)}-{n}.example/{n % 97}/in.php?u={n}"
        for n in range(COUNT - DUPLICATES - JUNK)
    ]
    found = [
        json.dumps({"url": url, "seen_at": int(time.time()), "context": "spam"}) for url in urls
    ]
    # The same again, as another program spells it.
    found += [
        json.dumps({"url": url.replace("http://", "HTTP://WWW.", 1).replace("WWW.", "")})
        for url in dice.sample(urls, DUPLICATES)
    ]
    found += [dice.choice(JUNK_LINES) for _ in range(JUNK)]
    dice.shuffle(found)
    return urls, found


def dig(running, name):
    """The addresses that `dig` prints; each call comes from another port."""
    command = ["dig", "+short", "+tries=1", "+time=2", "@127.0.0.1", "-p", str(running.port), name]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def everywhere(running, name):
    """What all workers answer, asked at once from so many ports that each is asked."""
    query = DNSRecord.question(name).pack()
    found = set()
    with contextlib.ExitStack() as stack:
        ports = [
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            for _ in range(PORTS)
        ]
        for port in ports:
            port.settimeout(5)
            port.connect(("127.0.0.1", running.port))
        for port in ports:
            port.send(query)
        for port in ports:
            records = DNSRecord.parse(port.recv(4096)).rr
            found |= {str(record.rdata) for record in records if record.rtype == QTYPE.A} or {""}
    return found


@pytest.mark.timing
def test_a_day(server, upstream):
    """
    From the crawler to the release, and the whole story afterwards.
    """
    running = server(more="[guard]\nblock_ttl_s = 0", workers=2, classify=True).start()
    api = Api(running)
    token = {
        name: running.run("token", "create", name, "--role", role).stdout.strip()
        for name, role in (("crawler-1", "crawler"), ("ann", "analyst"), ("bob", "approver"))
    }

    def ask(who, method, path, body=None, **headers):
        return api.ask(method, path, body, token[who], **headers)

    # The crawler.
    urls, body = lines()
    request = urllib.request.Request(f"{api.base}/v1/candidates", "\n".join(body).encode())
    request.add_header("Authorization", f"Bearer {token['crawler-1']}")
    request.add_header("Content-Type", "application/x-ndjson")
    with DIRECT.open(request, timeout=300) as answer:
        taken = json.load(answer)
    assert (taken["accepted"], taken["duplicate"]) == (len(urls), DUPLICATES)
    assert taken["invalid"] == JUNK
    assert len(taken["errors"]) == JUNK
    first = taken["errors"][0]
    assert body[first["line"] - 1] in JUNK_LINES
    status, mine = ask("crawler-1", "GET", "/v1/sources/crawler-1")
    assert (status, mine["accepted"], mine["invalid"]) == (200, len(urls), JUNK)

    def judged():
        return ask("crawler-1", "GET", "/v1/sources/crawler-1")[1]["waiting"] == 0

    wait_until(judged, 240)

    # The analyst.
    status, claimed = ask("ann", "POST", "/v1/cases/lease", {"count": 5})
    assert (status, len(claimed["items"])) == (200, 5)
    case = claimed["items"][0]
    name, number = f"www.{case['name']}", case["id"]
    status, whole = ask("ann", "GET", f"/v1/cases/{number}")
    assert whole["sources"] == ["crawler-1"]
    assert whole["reported"][0]["item"] in urls
    status, why = ask("ann", "GET", f"/v1/why?item={name}")
    assert (status, why["verdict"]["action"]) == (200, "none")
    assert dig(running, name) == [UPSTREAM_ADDRESS]
    before = time.time()
    time.sleep(1.1)  # moments are told apart in seconds
    decision = {"action": "block", "category": "phishing", "reason": "fake parcel service"}
    status, done = ask("ann", "POST", f"/v1/cases/{number}/decide", decision)
    answered = time.monotonic()
    addresses = everywhere(running, name)
    took = time.monotonic() - answered
    assert (status, done["pending_approval"]) == (200, False)
    assert addresses == {"127.0.0.1"}
    assert took < IN_FORCE_S
    assert dig(running, name) == ["127.0.0.1"]
    time.sleep(1.1)
    blocked = time.time()

    # The owner, who has no account.
    status, incident = ask("ann", "POST", "/v1/incidents", {"item": name})
    plea = {
        "incident": incident["incident"],
        "item": name,
        "contact": "owner@example.org",
        "text": "This is our parcel service.",
    }
    status, appeal = api.ask("POST", "/v1/appeals", plea, token="none")
    assert (status, appeal["state"]) == (200, "received")
    upstream.txt[appeal["proof"]["txt_name"]] = appeal["proof"]["txt_value"]
    status, proven = api.ask("POST", f"/v1/appeals/{appeal['id']}/check", token="none")
    assert (status, proven["state"], proven["txt"]) == (200, "proof_seen", "found")
    assert everywhere(running, name) == {"127.0.0.1"}  # a proof releases nothing

    # The second person.
    uphold = f"/v1/appeals/{appeal['id']}/uphold"
    word = {"reason": "seen the contract", "answer": "We are sorry."}
    assert ask("ann", "POST", uphold, word)[0] == 403
    status, upheld = ask("bob", "POST", uphold, word)
    assert (status, upheld["state"]) == (200, "upheld")
    assert dig(running, name) == [UPSTREAM_ADDRESS]
    assert everywhere(running, name) == {UPSTREAM_ADDRESS}
    status, seen = api.ask("GET", f"/v1/appeals/{appeal['id']}", token="none")
    assert (seen["state"], seen["answer"]) == ("upheld", "We are sorry.")

    # The whole story at each moment.
    for moment, action, by in (
        (before, "none", None),
        (blocked, "block", "ann"),
        (None, "allow", "bob"),
    ):
        at = "" if moment is None else f"&at={int(moment)}"
        status, why = ask("bob", "GET", f"/v1/why?item={name}{at}")
        assert (status, why["verdict"]["action"]) == (200, action)
        decisive = [claim for claim in why["claims"] if claim["decisive"]]
        assert [claim["actor"] for claim in decisive][:1] == ([by] if by else [])
    story = [(change["after"] or {}).get("action") for change in why["changes"]]
    assert story[:2] == ["allow", "block"]
    assert [c for c in why["claims"] if c["evidence"].startswith(f"case:{number}:")]
    status, whole = ask("bob", "GET", f"/v1/cases/{number}")
    assert {"decided", "note"} & {event["type"] for event in whole["events"]}
    assert running.run("log", "--verify").returncode == 0
    serial = ask("bob", "GET", "/v1/stats")[1]["serial"]
    assert running.stop() == 0  # and with that it signs the log
    audit = ["--verify", "--checkpoint", str(running.folder / "var" / "checkpoints"), "--json"]
    audited = json.loads(running.run("log", *audit).stdout)
    assert (audited["ok"], audited["checkpoints"]["fits"]) == (True, serial)
    checked = json.loads(running.run("check", "--json", name).stdout)
    assert checked["action"] == "allow"


def test_the_upstream_of_this_page_is_heard():
    """
    The world outside answers TXT only as it is told to.
    """
    zone = Zone()
    try:
        zone.txt["_urlguard.a.example"] = "x"
        query = DNSRecord.question("_urlguard.a.example", "TXT")
        done = []
        thread = threading.Thread(
            target=lambda: done.append(query.send("127.0.0.1", zone.port, timeout=5))
        )
        thread.start()
        thread.join()
        assert "x" in str(DNSRecord.parse(done[0]).rr[0].rdata)
    finally:
        zone.close()
