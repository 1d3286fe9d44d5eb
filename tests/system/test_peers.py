"""Real DNS servers and clients beside ours, from Debian's packages."""

import csv
import gzip
import random
import shutil
import socket
import subprocess
import textwrap
import time
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest

from tests.client import ask_many, read
from tests.running import UPSTREAM_ADDRESS, Server
from urlguard import wellknown

pytestmark = pytest.mark.peer

MILLION = Path(__file__).parents[3] / "shared" / "data" / "blocklist_1m.csv.gz"
QTYPES = ("A", "AAAA", "HTTPS", "SVCB", "ANY", "MX", "TXT", "NS")


def needs(*programs):
    """The programs' paths, or a skip that names what is missing."""
    paths = [shutil.which(p) or shutil.which(p, path="/usr/sbin:/sbin") for p in programs]
    missing = [p for p, path in zip(programs, paths, strict=True) if path is None]
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)}")
    return paths


def free_port():
    """A port that is free for UDP and TCP now."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            port = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Peer:
    """A server of another maker, run in the foreground on a port of its own."""

    def __init__(self, command, port):
        self.port = port
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        until = time.monotonic() + 20
        query = dns.message.make_query("started.example", "A")
        while True:
            try:
                dns.query.udp(query, "127.0.0.1", port=port, timeout=0.3)
                return
            except (dns.exception.Timeout, OSError):
                if self.process.poll() is not None or time.monotonic() > until:
                    self.close()
                    raise AssertionError(self.error) from None

    def close(self):
        """End it."""
        self.process.terminate()
        _, self.error = self.process.communicate(timeout=15)


@pytest.fixture
def peers():
    """Starts peers; they are ended after the test."""
    started = []

    def start(command, port):
        started.append(Peer(command, port))
        return started[-1]

    yield start
    for peer in started:
        if peer.process.poll() is None:
            peer.close()


def unbound(folder, port, forward_to, more=""):
    """The command of an Unbound that forwards everything to one port."""
    path = folder / "unbound.conf"
    path.write_text(
        textwrap.dedent(f"""
        server:
            interface: 127.0.0.1@{port}
            port: {port}
            directory: "{folder}"
            username: ""
            chroot: ""
            pidfile: ""
            use-syslog: no
            do-daemonize: no
            do-not-query-localhost: no
            module-config: "iterator"
            local-zone: "test." nodefault
            {more}
        forward-zone:
            name: "."
            forward-addr: 127.0.0.1@{forward_to}
        """)
    )
    return [*needs("unbound"), "-d", "-c", str(path)]


def named(folder, port, body):
    """The command of a BIND with these statements."""
    path = folder / "named.conf"
    path.write_text(
        textwrap.dedent(f"""
        options {{
            directory "{folder}";
            pid-file none;
            session-keyfile none;
            listen-on port {port} {{ 127.0.0.1; }};
            listen-on-v6 {{ none; }};
            dnssec-validation no;
            {body[0]}
        }};
        controls {{ }};
        {body[1]}
        """)
    )
    return [*needs("named"), "-g", "-n", "1", "-c", str(path)]


@pytest.mark.parametrize("maker", ["unbound", "named"])
def test_a_resolver_that_forwards_to_us_hands_the_sinkhole_on(server, peers, tmp_path, maker):
    """
    Unbound and BIND as clients: blocked names get our answer through them, also negative ones.
    """
    running = server().start()
    port = free_port()
    if maker == "unbound":
        command = unbound(tmp_path, port, running.port)
    else:
        option = f"forward only; forwarders port {running.port} {{ 127.0.0.1; }};"
        command = named(tmp_path, port, (option, ""))
    peers(command, port)
    for qtype, expected in (("A", ["127.0.0.1"]), ("AAAA", ["::1"]), ("MX", []), ("HTTPS", [])):
        reply = dns.query.udp(
            dns.message.make_query("www.evil.example", qtype), "127.0.0.1", port=port, timeout=5
        )
        assert reply.rcode() == dns.rcode.NOERROR
        assert [r.to_text() for rrset in reply.answer for r in rrset] == expected
    reply = dns.query.udp(
        dns.message.make_query("fine.example", "A"), "127.0.0.1", port=port, timeout=5
    )
    assert reply.answer[0][0].to_text() == UPSTREAM_ADDRESS


@pytest.mark.parametrize("tcp", [[], ["+tcp"]])
def test_dig_shows_the_answer_and_the_extended_error(server, tcp):
    """
    dig over UDP and TCP: the sinkhole address, EDE 4, and no warning about the message.
    """
    (dig,) = needs("dig")
    running = server().start()
    command = [dig, "@127.0.0.1", "-p", str(running.port), "evil.example", *tcp]
    text = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    assert "status: NOERROR" in text
    assert "127.0.0.1" in text
    assert "EDE: 4 (Forged Answer)" in text
    assert ";; WARNING" not in text


def test_kdig_reads_every_type(server):
    """
    kdig finds nothing malformed in the answers for a blocked name.
    """
    (kdig,) = needs("kdig")
    running = server().start()
    for qtype in (*QTYPES, "SOA", "CNAME", "DS", "TYPE65534"):
        command = [kdig, "@127.0.0.1", "-p", str(running.port), "evil.example", qtype, "+edns"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert done.returncode == 0
        assert "WARNING" not in done.stdout + done.stderr, (qtype, done.stdout, done.stderr)
        assert "status: NOERROR" in done.stdout


def sample(count):
    """Listed names at random: of the million where they are at hand, else of the starter list."""
    path = MILLION if MILLION.exists() else wellknown.starter_path()
    with gzip.open(path, "rt") as file:
        listed = [row["domain"] for row in csv.DictReader(file)]
    return path, random.Random(20).sample(listed, min(count, len(listed)))


@pytest.mark.slow
async def test_no_listed_name_ever_gets_an_upstream_address(tmp_path, upstream):
    """
    20,000 listed names at random, each asked for 8 types: every address is the sinkhole's, and no
    question about them reaches the upstream.
    """
    path, listed = sample(20_000)
    text = (
        f'[forward]\nupstreams = ["127.0.0.1:{upstream.port}"]\n'
        f'[server]\nlisten = ["127.0.0.1:0"]\n[[feed]]\nname = "list"\npath = "{path}"\n'
        'format = "csv"\nallow_popular = true\n'
    )
    running = Server(tmp_path, text)
    try:
        running.start(120)
        questions = [(name, qtype) for name in listed for qtype in QTYPES]
        answers = await ask_many(("127.0.0.1", running.port), questions)
        assert not {name.lower() for name in upstream.asked} & set(listed)
        for (name, qtype), wire in zip(questions, answers, strict=True):
            assert wire is not None, (name, qtype)
            # RCODE 0; counts say the rest without reading 160,000 messages in Python.
            assert wire[3] & 0x0F == 0, (name, qtype)
            count = int.from_bytes(wire[6:8], "big")
            assert count == (1 if qtype in ("A", "AAAA", "ANY") else 0), (name, qtype)
            if qtype in ("A", "ANY"):
                assert wire.endswith(b"\x7f\0\0\1"), (name, qtype)
            elif qtype == "AAAA":
                assert wire.endswith(bytes(15) + b"\1"), (name, qtype)
    finally:
        running.kill_all()


@pytest.mark.slow
async def test_unlisted_names_get_what_the_upstream_says(tmp_path, peers):
    """
    20,000 unlisted names of a real BIND's zone, asked through UrlGuard and directly: the same
    RCODE and the same records.
    """
    zone = tmp_path / "fine.example.zone"
    zone.write_text(
        "$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.53\n"
        "$GENERATE 0-2999 a$ A 192.0.2.1\n$GENERATE 0-2999 aaaa$ AAAA 2001:db8::$\n"
        '$GENERATE 0-2999 cname$ CNAME a$\n$GENERATE 0-2999 mx$ MX "10 a$"\n'
        "$GENERATE 0-2999 txt$ TXT text-$\n"
        "$GENERATE 0-19 many A 192.0.2.$\n"
        "$GENERATE 0-199 *.w$ A 192.0.2.9\n"
    )
    port = free_port()
    body = ("recursion no; minimal-responses yes;", "")
    zone_text = 'zone "fine.example" { type primary; file "fine.example.zone"; };'
    peers(named(tmp_path, port, (body[0], zone_text)), port)
    text = (
        f'[server]\nlisten = ["127.0.0.1:0"]\n[forward]\nupstreams = ["127.0.0.1:{port}"]\n'
        '[[feed]]\nname = "list"\npath = "list.txt"\nformat = "domains"\n'
    )
    (tmp_path / "list.txt").write_text("evil.example\n")
    running = Server(tmp_path, text)
    choose = random.Random(7)
    kinds = ("a", "aaaa", "cname", "mx", "txt", "none", "w", "many")
    questions = []
    for _ in range(20_000):
        kind = choose.choice(kinds)
        name = f"{kind}{choose.randrange(3000)}.fine.example"
        if kind == "w":
            name = f"x{choose.randrange(99)}.w{choose.randrange(200)}.fine.example"
        if kind == "many":
            name = "many.fine.example"
        questions.append((name, choose.choice(("A", "AAAA", "MX", "TXT", "CNAME", "HTTPS"))))
    try:
        running.start()
        ours = await ask_many(("127.0.0.1", running.port), questions)
        theirs = await ask_many(("127.0.0.1", port), questions)
    finally:
        running.kill_all()
    kinds_seen = set()
    for question, our, their in zip(questions, ours, theirs, strict=True):
        mine, direct = read(our), read(their)
        assert mine.rcode() == direct.rcode(), question
        assert mine.answer == direct.answer, question
        assert mine.authority == direct.authority, question
        kinds_seen.add((mine.rcode(), len(mine.answer)))
    # NXDOMAIN, NODATA, one record, and a CNAME with what it leads to were all among them.
    assert {(3, 0), (0, 0), (0, 1), (0, 2)} <= kinds_seen
