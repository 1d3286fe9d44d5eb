"""Redress over HTTP: appeals without an account, their proofs, and who may decide them."""

import asyncio
import dataclasses
import ipaddress
import json
import time

import pytest

from tests.api.world import BusyError, World, client, serving
from urlguard.access.buckets import Buckets, Rate
from urlguard.access.roles import Role
from urlguard.api import limits as bounds
from urlguard.api.limits import Limits
from urlguard.cases import incidents
from urlguard.cases.redress import MAX_ROUNDS
from urlguard.cases.store import StoreError
from urlguard.errors import PolicyError, UrlGuardError
from urlguard.policy.log import Change

FREE = Rate(1e9, 1e9)
BLOCK = {"decision": "block", "category": "phishing"}
DAY = 86_400


class Free(Limits):
    """No limits."""

    def __init__(self):
        for name in ("_appeal", "_see", "_prove", "_prove_one"):
            setattr(self, name, Buckets(time.monotonic, FREE, FREE))


class File:
    """A proof file."""

    def __init__(self, body):
        self.body = body


class Places:
    """What stands at the places of proofs."""

    def __init__(self):
        self.records = {}
        self.files = {}
        self.asked = []
        self.wait_s = 0.0

    async def txt(self, name):
        self.asked.append(name)
        await asyncio.sleep(self.wait_s)
        if isinstance(found := self.records.get(name, []), Exception):
            raise found
        return found

    async def proof_file(self, name):
        if name not in self.files:
            raise UrlGuardError("404")
        return File(self.files[name])


class Court(World):
    """The server's surroundings, and short ways to appeal."""

    def __init__(self, folder):
        super().__init__(folder)
        self.places = Places()
        self.often = Free()
        self.tokens.create("second", Role.APPROVER, "test")
        self.second = self.tokens.create("third", Role.APPROVER, "test")

    def services(self):
        return dataclasses.replace(super().services(), proving=self.places, limits=self.often)

    async def ask(self, role, method, path, body=None):
        """Status and document of a request in a role; None: without a token."""
        headers = {} if role is None else self.head(role)
        if role == "third":
            headers = {"Authorization": f"Bearer {self.second}"}
        more = {"json": body} if body is not None else {}
        async with (
            client() as http,
            http.request(method, self.base + path, headers=headers, **more) as answer,
        ):
            return answer.status, await answer.json(content_type=None)

    def head(self, role, **more):
        return {} if role == "third" else super().head(role, **more)

    async def number(self, item):
        """An incident number from the help desk."""
        status, found = await self.ask(Role.ANALYST, "POST", "/v1/incidents", {"item": item})
        assert status == 200
        return found["incident"]

    async def plead(self, item, **more):
        """An appeal that was taken."""
        body = {"incident": await self.number(item), "item": item, "contact": "me@shop.example"}
        status, found = await self.ask(None, "POST", "/v1/appeals", {**body, **more})
        assert status == 200, found
        return found

    async def judge(self, role, ident, what="uphold", **body):
        return await self.ask(role, "POST", f"/v1/appeals/{ident}/{what}", body)

    async def says(self, *items):
        """What checks say of items."""
        body = {"items": list(items)}
        _, found = await self.ask(Role.ANALYST, "POST", "/v1/check", body)
        return [one["action"] for one in found["results"]]

    def say(self, source, *keys, action="block", actor=None, **more):
        """Have the log say something."""
        changes = [Change(key, action, "phishing" if action == "block" else "") for key in keys]
        return self.log.commit(
            source, changes, actor=actor or source.rpartition(":")[2], reason="because"
        )


@pytest.fixture
async def court(tmp_path):
    """A running server."""
    made = Court(tmp_path)
    async with serving(made.services()) as made.base:
        yield made
    made.close()


# -- with an incident number, without an account ---------------------------------------------------


async def test_from_the_block_to_the_release(court):
    """
    Blocked by an analyst's decision about a case, appealed, upheld by an approver: it resolves, the
    case is decided otherwise, and all of it is on the record.
    """
    (case,) = (await court.bring("http://www.shop.example/a")).values()
    await court.ask(Role.ANALYST, "POST", f"/v1/cases/{case}/decide", BLOCK)
    assert await court.says("www.shop.example", "shop.example") == ["block", "block"]
    plea = await court.plead("www.shop.example", text="We sell shoes.\nSince 1990.")
    assert plea["state"] == "received"
    status, page = await court.ask(Role.AUDITOR, "GET", "/v1/appeals?state=received")
    assert [(a["id"], a["owner"]) for a in page["items"]] == [(plea["id"], "shop.example")]
    status, done = await court.judge(
        Role.APPROVER, plea["id"], reason="a shop indeed", answer="Sorry for that."
    )
    assert (status, done["state"], done["rules"]) == (200, "upheld", ["subtree shop.example"])
    assert await court.says("www.shop.example", "shop.example") == ["allow", "allow"]
    claim = court.log.store.standing("analyst:my-approver", "subtree shop.example")
    assert claim.evidence == f"appeal:{done['number']}:{done['decisions'][0]}"
    assert claim.from_serial == done["serial"]
    assert claim.expires_at == pytest.approx(time.time() + 365 * DAY, abs=60)
    assert court.log.store.standing("analyst:my-analyst", "subtree shop.example").action == "block"
    (batch,) = court.log.store.batches(done["serial"] - 1, 1)
    assert (batch.actor, batch.reason) == ("my-approver", "appeal 1: a shop indeed")
    _, seen = await court.ask(None, "GET", f"/v1/appeals/{plea['id']}")
    assert (seen["state"], seen["answer"]) == ("upheld", "Sorry for that.")
    _, whole = await court.ask(Role.ANALYST, "GET", f"/v1/cases/{case}")
    assert (whole["state"], whole["decision"]) == ("decided", "allow")
    assert [e["text"] for e in whole["events"] if e["what"] == "appeal"] == [
        "appeal 1 came",
        "appeal 1 upheld: a shop indeed",
    ]
    _, file = await court.ask(Role.ANALYST, "GET", f"/v1/appeals/{plea['id']}/file")
    assert (file["contact"], file["case"], file["by"]) == ("me@shop.example", case, "my-approver")
    assert [e["what"] for e in file["events"]] == ["received", "upheld"]
    assert court.log.verify() is None


async def test_nobody_learns_what_is_blocked(court):
    """
    Of blocked and unblocked items all answers have the same status and the same shape.
    """
    court.say("feed:x", "subtree blocked.example")
    answers = []
    for item in ("blocked.example", "harmless.example"):
        number = await court.number(item)
        told = []
        for body in (
            {"incident": number, "item": item, "contact": "a@b.example"},
            {"incident": number, "item": f"www.{item}", "contact": "a@b.example"},
            {"incident": await court.number("third.example"), "item": item, "contact": "abc"},
            {"incident": "UG-0000-0000-000", "item": item, "contact": "abc"},
            {"incident": number[:-1] + "!", "item": item, "contact": "abc"},
        ):
            status, found = await court.ask(None, "POST", "/v1/appeals", body)
            told.append((status, shape(found, item)))
            if status == 200:
                path = f"/v1/appeals/{found['id']}"
                for method, at in (("GET", path), ("POST", f"{path}/check")):
                    status, found = await court.ask(None, method, at)
                    told.append((status, shape(found, item)))
        answers.append(told)
    assert answers[0] == answers[1]
    assert {status for status, _ in answers[0]} == {200, 422}


def shape(found, item):
    """A document without what is of this one item or this one moment."""
    if isinstance(found, dict):
        return {
            key: type(value).__name__
            if key in ("id", "received_at", "txt_value", "file_text")
            else shape(value, item)
            for key, value in found.items()
        }
    if isinstance(found, list):
        return [shape(one, item) for one in found]
    return found.replace(item, "ITEM") if isinstance(found, str) else found


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"incident": "UG-0000"}, 422, "incident"),
        ({"incident": ""}, 422, "incident"),
        ({"incident": "x" * 41}, 422, "incident"),
        ({"incident": "\ud7ff" * 14}, 422, "incident"),
        ({"item": "other.example"}, 422, "incident"),
        ({"item": "nodot"}, 422, "item"),
        ({"item": ""}, 422, "item"),
        ({"item": "http://" + "a" * 8192}, 422, "item"),
        ({"item": "javascript:alert(1)"}, 422, "item"),
        ({"contact": "ab"}, 422, "contact"),
        ({"contact": "a\r\nBcc: all@b.example"}, 422, "contact"),
        ({"contact": "x" * 201}, 422, "contact"),
        ({"text": "x" * 4001}, 422, "text"),
        ({"text": "\u0000"}, 422, "text"),
        ({"rule": "x"}, 422, "rule"),
        ({"text": "<script>alert(1)</script> ' OR 1=1 --\n\t汉字"}, 200, None),
        ({"item": "HTTP://user:pw@WWW.shop.example:80/%2e%2e/x#y"}, 200, None),
    ],
)
async def test_what_is_taken(court, change, status, field):
    """
    What does not fit is told by its field, and nothing of it is kept.
    """
    body = {
        "incident": await court.number("shop.example"),
        "item": "shop.example",
        "contact": "me@shop.example",
        **change,
    }
    got, found = await court.ask(None, "POST", "/v1/appeals", body)
    assert got == status, found
    if field is not None:
        assert found["errors"][0]["field"] == field
    _, page = await court.ask(Role.ADMIN, "GET", "/v1/appeals")
    assert len(page["items"]) == (status == 200)


async def test_an_old_number(court, monkeypatch):
    """
    After 90 days a number is none any more.
    """
    key = incidents.key(court.folder)
    old = incidents.mint(key, "shop.example", time.time() - 92 * DAY)
    body = {"incident": old, "item": "shop.example", "contact": "abc"}
    status, found = await court.ask(None, "POST", "/v1/appeals", body)
    assert (status, found["errors"][0]["field"]) == (422, "incident")


async def test_what_the_public_sees(court):
    """
    Never a rule, a source, a score, a contact or who decided; and nothing under another id.
    """
    court.say("feed:secret-list", "subtree shop.example")
    plea = await court.plead("shop.example", contact="+86 10 5555 0100")
    await court.judge(Role.APPROVER, plea["id"], "reject", reason="inner words", answer="No.")
    _, seen = await court.ask(None, "GET", f"/v1/appeals/{plea['id']}")
    assert set(seen) == {"id", "state", "received_at", "decided_at", "answer", "proof"}
    text = json.dumps(seen)
    for hidden in ("secret-list", "inner words", "5555", "my-approver", "subtree"):
        assert hidden not in text
    assert (await court.ask(None, "GET", "/v1/appeals/other"))[0] == 404
    assert (await court.ask(None, "POST", "/v1/appeals/1/check"))[0] == 404
    assert (await court.ask(None, "GET", f"/v1/appeals/{plea['id']}/file"))[0] == 401


async def test_contacts_are_not_for_auditors(court):
    """
    Who checks decisions needs no telephone number; whoever answers does.
    """
    plea = await court.plead("shop.example")
    for role in Role:
        status, file = await court.ask(role, "GET", f"/v1/appeals/{plea['id']}/file")
        if role in (Role.REPORTER, Role.CRAWLER):
            assert status == 403
        else:
            assert (file["contact"] is None) == (role is Role.AUDITOR)


# -- floods ----------------------------------------------------------------------------------------


async def test_a_flood_from_one_address(tmp_path):
    """
    After some appeals, good or bad, a network has to wait; others do not.
    """
    court = Court(tmp_path)
    court.often = Limits(time.monotonic)
    loopback = (ipaddress.ip_network("127.0.0.0/8"),)
    async with serving(court.services(), proxy_from=loopback) as court.base, client() as http:
        bad = {"incident": "UG-0000-0000-000", "item": "shop.example", "contact": "abc"}

        async def post(address, path="/v1/appeals", method="POST"):
            body = {"json": bad} if path == "/v1/appeals" else {}
            async with http.request(
                method, court.base + path, headers={"X-Forwarded-For": address}, **body
            ) as answer:
                return answer.status, answer.headers.get("Retry-After")

        got = [await post("2001:db8::%x" % n) for n in range(14)]  # noqa: UP031 - short
        assert [status for status, _ in got] == [422] * 10 + [429] * 4
        assert int(got[-1][1]) > 30
        assert (await post("192.0.2.1"))[0] == 422
        many = [(await post(f"198.51.100.{n}"))[0] for n in range(120)]
        assert many.count(422) < 110
        assert many[-1] == 429
        checks = [(await post("192.0.2.9", "/v1/appeals/x/check"))[0] for _ in range(6)]
        assert checks == [404] * 3 + [429] * 3
        looks = [(await post("192.0.2.8", "/v1/appeals/x", "GET"))[0] for _ in range(70)]
        assert looks.count(429) >= 5
        staff = await court.ask(Role.APPROVER, "GET", "/v1/appeals")
        assert staff[0] == 200
    court.close()


async def test_a_flood_about_one_owner(court):
    """
    Three open appeals of an owner, and ten in 90 days; whoever else appeals is not concerned.
    """
    kept = [await court.plead(f"w{n}.shop.example") for n in range(3)]
    body = {
        "incident": await court.number("shop.example"),
        "item": "shop.example",
        "contact": "abc",
    }
    assert (await court.ask(None, "POST", "/v1/appeals", body))[0] == 409
    await court.plead("other.example")
    for _ in range(7):
        await court.judge(Role.APPROVER, kept.pop()["id"], "reject")
        kept.append(await court.plead("shop.example"))
    await court.judge(Role.APPROVER, kept.pop()["id"], "reject")
    status, problem = await court.ask(None, "POST", "/v1/appeals", body)
    assert (status, "limit is 10" in problem["detail"]) == (409, True)


async def test_too_many_wait(court, monkeypatch):
    """
    At the limit of all that wait the next is told to come back.
    """
    monkeypatch.setattr("urlguard.cases.drivers.sqlite.appeals.MAX_OPEN", 2)
    await court.plead("a.example")
    await court.plead("b.example")
    body = {"incident": await court.number("c.example"), "item": "c.example", "contact": "abc"}
    assert (await court.ask(None, "POST", "/v1/appeals", body))[0] == 429


# -- proofs ----------------------------------------------------------------------------------------


async def test_a_perfect_proof_releases_nothing(court):
    """
    A fraudster is in control of his domain: both proofs move his appeal up, and he stays blocked.
    """
    court.say("analyst:ann", "subtree evil.example")
    first = await court.plead("first.example")
    plea = await court.plead("www.evil.example")
    proof = plea["proof"]
    assert proof["txt_name"] == "_urlguard.evil.example"
    assert proof["file_url"] == "https://evil.example/.well-known/urlguard-proof.txt"
    serial = court.log.serial
    court.places.records["evil.example"] = ["v=spf1 -all", proof["txt_value"]]
    court.places.files["evil.example"] = f"{proof['file_text']}\r\n".encode()
    _, looked = await court.ask(None, "POST", f"/v1/appeals/{plea['id']}/check")
    assert (looked["state"], looked["txt"], looked["file"]) == ("proof_seen", "found", "found")
    assert looked["proof"]["seen"] == "txt"
    assert court.log.serial == serial
    assert await court.says("www.evil.example") == ["block"]
    _, page = await court.ask(Role.APPROVER, "GET", "/v1/appeals?state=received")
    assert [a["id"] for a in page["items"]] == [plea["id"], first["id"]]
    _, again = await court.ask(None, "POST", f"/v1/appeals/{plea['id']}/check")
    assert (again["state"], again["txt"], len(court.places.asked)) == ("proof_seen", None, 1)


@pytest.mark.parametrize(
    ("records", "file", "said"),
    [
        ([], None, ("none", "failed", None)),
        (["v=spf1"], b"hello", ("other", "other", None)),
        (UrlGuardError("refused"), b"a\nPROOF", ("failed", "found", "file")),
        (["PROOF"], b"<html>PROOF</html>", ("found", "other", "txt")),
        ([" PROOF "], b"", ("found", "other", "txt")),
        (["xPROOF", "PROOFx"], b"x\n" * 200 + b"PROOF", ("other", "other", None)),
        ([], b"\xff\xfe\r\n  PROOF\t\r\n", ("none", "found", "file")),
    ],
)
async def test_what_is_a_proof(court, records, file, said):
    """
    The whole text of a record, or a whole line among the first of a file.
    """
    plea = await court.plead("shop.example")
    value = plea["proof"]["txt_value"]
    if isinstance(records, list):
        records = [record.replace("PROOF", value) for record in records]
    court.places.records["shop.example"] = records
    if file is not None:
        court.places.files["shop.example"] = file.replace(b"PROOF", value.encode())
    _, looked = await court.ask(None, "POST", f"/v1/appeals/{plea['id']}/check")
    assert (looked["txt"], looked["file"], looked["proof"]["seen"]) == said


async def test_somebody_elses_proof(court):
    """
    What proves one appeal proves no other.
    """
    one, other = await court.plead("a.example"), await court.plead("b.example")
    court.places.records["b.example"] = [one["proof"]["txt_value"]]
    _, looked = await court.ask(None, "POST", f"/v1/appeals/{other['id']}/check")
    assert looked["proof"]["seen"] is None


async def test_a_place_that_lets_wait(court, monkeypatch):
    """
    Whoever does not answer costs some seconds, and nobody else's time.
    """
    monkeypatch.setattr("urlguard.cases.redress.PROOF_S", 0.05)
    court.places.wait_s = 30
    plea = await court.plead("shop.example")
    _, looked = await court.ask(None, "POST", f"/v1/appeals/{plea['id']}/check")
    assert looked["txt"] == "failed"


async def test_an_address(court):
    """
    It can be appealed about and released, and there is nobody to prove anything.
    """
    court.say("analyst:ann", "url 192.0.2.7/pay")
    plea = await court.plead("http://192.0.2.7/pay")
    assert plea["proof"] is None
    assert (await court.ask(None, "POST", f"/v1/appeals/{plea['id']}/check"))[0] == 409
    _, done = await court.judge(Role.APPROVER, plea["id"])
    assert done["rules"] == ["url 192.0.2.7/pay"]
    assert await court.says("http://192.0.2.7/pay") == ["allow"]


# -- deciding --------------------------------------------------------------------------------------

FEED, ANN, WWW = "feed:list", "analyst:ann", "www.shop.example"


@pytest.mark.parametrize(
    ("item", "said", "rules"),
    [
        ("www.shop.example", [(FEED, "subtree shop.example")], ["subtree shop.example"]),
        ("www.shop.example", [(FEED, "domain www.shop.example")], ["subtree shop.example"]),
        ("www.shop.example", [(ANN, "subtree shop.example")], ["subtree shop.example"]),
        ("www.shop.example", [(ANN, "below shop.example")], ["below shop.example"]),
        ("www.shop.example", [(ANN, "below example")], ["subtree shop.example"]),
        (WWW, [("operator", f"domain {WWW}")], [f"domain {WWW}"]),
        (
            "http://www.shop.example/a",
            [(ANN, "domain www.shop.example"), (FEED, "subtree shop.example")],
            ["domain www.shop.example", "subtree shop.example"],
        ),
        ("http://shop.example/a/b?c", [(FEED, "url shop.example/a/")], ["url shop.example/a/"]),
        ("http://shop.example/a?c", [(ANN, "url shop.example/a?c")], ["url shop.example/a?c"]),
        ("http://[2001:db8::1]/x", [(FEED, "url [2001:db8::1]/")], ["url [2001:db8::1]/"]),
        ("shoes-shop.example", [(FEED, "pattern *shoes-shop*")], ["subtree shoes-shop.example"]),
        ("shoes-shop.example", [(ANN, "pattern *shoes-shop*")], ["subtree shoes-shop.example"]),
        ("http://shop.example/wp/x.php", [(ANN, "pattern */wp/*.php")], ["subtree shop.example"]),
        ("x.shop.pages.dev", [(FEED, "subtree pages.dev")], ["subtree shop.pages.dev"]),
        ("x.shop.pages.dev", [(ANN, "subtree pages.dev")], ["subtree shop.pages.dev"]),
        ("http://shop.pages.dev/x", [(ANN, "url pages.dev/")], ["url shop.pages.dev/x"]),
        ("pages.dev", [(ANN, "subtree pages.dev")], ["domain pages.dev"]),
    ],
)  # fmt: skip
async def test_whatever_blocks_it(court, item, said, rules):
    """
    Lists', patterns', people's, wide and narrow rules: the item, its host and its owner are let
    through, in one batch, and others are not.
    """
    for source, key in said:
        court.say(source, key)
    assert await court.says(item) == ["block"]
    plea = await court.plead(item)
    serial = court.log.serial
    status, done = await court.judge(Role.APPROVER, plea["id"])
    assert (status, done["rules"], done["serial"]) == (200, rules, serial + 1)
    assert await court.says(item) == ["allow"]


async def test_an_exact_name_below_an_allowance(court):
    """
    A block at the very name stands out of an allowance of all: it is overruled where it is.
    """
    court.say("operator", "subtree shop.example", action="allow", actor="root")
    court.say(ANN, "domain www.shop.example")
    plea = await court.plead("www.shop.example")
    _, done = await court.judge(Role.APPROVER, plea["id"])
    assert done["rules"] == ["domain www.shop.example"]
    assert await court.says("www.shop.example", "shop.example") == ["allow", "allow"]


async def test_an_admin_overrules_the_operators_own_claim(court):
    """
    Admins share a source: the block of one gives way to the allowance of another, in the log too.
    """
    court.say("operator", "subtree shop.example", actor="another")
    plea = await court.plead("shop.example")
    status, _ = await court.judge(Role.ADMIN, plea["id"])
    assert (status, await court.says("shop.example")) == (200, ["allow"])
    assert [c.action for c in court.log.store.history("subtree shop.example")] == ["block", "allow"]


async def test_what_a_model_blocks(court):
    """
    Nobody is behind a model's word; a rule overrules it.
    """
    plain = court.judging.check

    async def check(items, **more):
        found = [json.loads(one) for one in await plain(items, **more)]
        for one in found:
            if one["action"] == "none" and one["name"] == "phishy.example":
                one.update(action="block", reason="classifier", score=0.99)
        return [json.dumps(one).encode() for one in found]

    court.casework.redress._check = check
    plea = await court.plead("phishy.example")
    status, done = await court.judge(Role.APPROVER, plea["id"])
    assert (status, done["rules"]) == (200, ["subtree phishy.example"])
    assert await court.says("phishy.example") == ["allow"]


async def test_nothing_blocks_it_any_more(court):
    """
    Upheld all the same, without a batch.
    """
    plea = await court.plead("shop.example")
    serial = court.log.serial
    status, done = await court.judge(Role.APPROVER, plea["id"], answer="It is not blocked.")
    assert (status, done["state"], done["serial"], done["rules"]) == (200, "upheld", None, [])
    assert court.log.serial == serial


async def test_blocked_for_what_it_leads_to(court):
    """
    No verdict on a name knows where its answers lead: an approver may allow it all the same, once.
    """
    plea = await court.plead("www.shop.example")
    status, done = await court.judge(Role.APPROVER, plea["id"], anyway=True)
    assert (status, done["rules"]) == (200, ["subtree shop.example"])
    assert await court.says("www.shop.example") == ["allow"]
    court.say(ANN, "domain www.other.example")
    plea = await court.plead("www.other.example")
    _, done = await court.judge(Role.APPROVER, plea["id"], anyway=True)
    assert done["rules"] == ["domain www.other.example", "subtree other.example"]


async def test_what_has_an_end_of_its_own(court):
    """
    The allowance ends when its maker says so.
    """
    court.say(FEED, "subtree shop.example")
    plea = await court.plead("shop.example")
    until = int(time.time()) + 30 * DAY
    assert (await court.judge(Role.APPROVER, plea["id"], expires_at=5))[0] == 422
    await court.judge(Role.APPROVER, plea["id"], expires_at=until)
    claim = court.log.store.standing("analyst:my-approver", "subtree shop.example")
    assert claim.expires_at == until


@pytest.mark.parametrize("what", ["uphold", "reject"])
@pytest.mark.parametrize(
    ("source", "actor"),
    [
        ("analyst:my-approver", "my-approver"),
        ("analyst:MY-Approver", "x"),
        ("operator", "my-approver"),
        ("analyst:ann", "ann, my-approver"),
        ("operator", "My-Approver, root"),
    ],
)
async def test_nobody_decides_about_his_own_block(court, what, source, actor):
    """
    Neither the maker of a block nor who agreed to it upholds or rejects; another person does.
    """
    court.say(source, "subtree shop.example", actor=actor)
    plea = await court.plead("shop.example")
    status, problem = await court.judge(Role.APPROVER, plea["id"], what)
    assert (status, "blocked it" in problem["detail"]) == (409, True)
    assert await court.says("shop.example") == ["block"]
    assert (await court.judge("third", plea["id"], what))[0] == 200
    assert await court.says("shop.example") == ["allow" if what == "uphold" else "block"]


async def test_a_pattern_has_a_maker_too(court):
    """
    So it is with patterns, wider rules, and rules that were planned.
    """
    court.say("analyst:my-approver", "pattern *shoes-shop*")
    plea = await court.plead("shoes-shop.example")
    assert (await court.judge(Role.APPROVER, plea["id"]))[0] == 409
    court.say("operator", "planned 0000000000000005 subtree later.example", actor="my-approver")
    court.log.expire()
    assert await court.says("later.example") == ["block"]
    plea = await court.plead("later.example")
    assert (await court.judge(Role.APPROVER, plea["id"]))[0] == 409
    assert (await court.judge("third", plea["id"]))[0] == 200


async def test_held_and_agreed_to(court):
    """
    Both who decided and who agreed are behind a block of a well-known name.
    """
    (case,) = (await court.bring("http://www.icbc.com.cn/")).values()
    _, made = await court.ask(Role.ADMIN, "POST", f"/v1/cases/{case}/decide", BLOCK)
    assert made["held"]
    await court.ask(Role.APPROVER, "POST", f"/v1/decisions/{made['decision']}/approve", {})
    plea = await court.plead("www.icbc.com.cn")
    for role in (Role.ADMIN, Role.APPROVER):
        assert (await court.judge(role, plea["id"]))[0] == 409
    assert (await court.judge("third", plea["id"]))[0] == 200
    assert await court.says("www.icbc.com.cn") == ["allow"]


async def test_rejected_stays_blocked(court):
    """
    It is told so, the case is told, and another appeal shows this one.
    """
    court.say(FEED, "subtree evil.example")
    plea = await court.plead("evil.example")
    serial = court.log.serial
    status, done = await court.judge(
        Role.APPROVER, plea["id"], "reject", reason="it is", answer="It copies a bank."
    )
    assert (status, done["state"], done["serial"]) == (200, "rejected", None)
    assert (court.log.serial, await court.says("evil.example")) == (serial, ["block"])
    _, seen = await court.ask(None, "GET", f"/v1/appeals/{plea['id']}")
    assert (seen["state"], seen["answer"]) == ("rejected", "It copies a bank.")
    assert (await court.judge("third", plea["id"]))[0] == 409
    again = await court.plead("evil.example")
    _, file = await court.ask(Role.APPROVER, "GET", f"/v1/appeals/{again['id']}/file")
    assert [one["id"] for one in file["earlier"]] == [plea["id"]]
    _, looked = await court.ask(None, "POST", f"/v1/appeals/{plea['id']}/check")
    assert (looked["state"], court.places.asked) == ("rejected", [])


async def test_undone_it_waits_again(court):
    """
    Undoing what released it blocks it again, and its appeal waits; the case is open.
    """
    (case,) = (await court.bring("http://shop.example/")).values()
    await court.ask(Role.ANALYST, "POST", f"/v1/cases/{case}/decide", BLOCK)
    plea = await court.plead("shop.example")
    _, done = await court.judge(Role.APPROVER, plea["id"])
    undo = f"/v1/decisions/{done['decisions'][0]}/undo"
    assert (await court.ask(Role.ADMIN, "POST", undo, {"reason": "we were fooled"}))[0] == 200
    assert await court.says("shop.example") == ["block"]
    _, seen = await court.ask(None, "GET", f"/v1/appeals/{plea['id']}")
    assert (seen["state"], seen["answer"], seen["decided_at"]) == ("received", "", None)
    _, whole = await court.ask(Role.ANALYST, "GET", f"/v1/cases/{case}")
    assert whole["state"] == "open"
    status, done = await court.judge(Role.APPROVER, plea["id"], "reject")
    assert (status, done["state"]) == (200, "rejected")


async def test_cases_in_other_hands(court):
    """
    A case that somebody has is left to him, with a note; the release does not wait for it.
    """
    cases = await court.bring("http://shop.example/")
    court.say(FEED, "subtree shop.example")
    await court.ask(Role.ANALYST, "POST", "/v1/cases/claim", {"count": 5})
    plea = await court.plead("shop.example")
    assert (await court.judge(Role.APPROVER, plea["id"]))[0] == 200
    _, whole = await court.ask(Role.ANALYST, "GET", f"/v1/cases/{cases['shop.example']}")
    assert (whole["state"], whole["holder"]) == ("claimed", "my-analyst")
    assert "appeal 1 upheld" in whole["events"][-1]["text"]


# -- when it fails ---------------------------------------------------------------------------------


async def test_the_end_between_commit_and_word(court, monkeypatch):
    """
    Released, but nobody wrote down that the appeal is upheld: the same request closes it, with the
    first one's serial and no second batch; nobody can reject it meanwhile.
    """
    court.say(FEED, "subtree shop.example")
    plea = await court.plead("shop.example")
    close, redress = court.casework.redress._close, court.casework.redress

    async def lost(*_):
        raise StoreError("the power fails")

    monkeypatch.setattr(redress, "_close", lost)
    assert (await court.judge(Role.APPROVER, plea["id"]))[0] == 503
    monkeypatch.setattr(redress, "_close", close)
    assert await court.says("shop.example") == ["allow"]
    assert (await court.judge(Role.APPROVER, plea["id"], "reject"))[0] == 409
    serial = court.log.serial
    for role, expected in ((Role.APPROVER, 200), (Role.APPROVER, 200), ("third", 409)):
        status, done = await court.judge(role, plea["id"])
        assert status == expected
        if status == 200:
            assert (done["serial"], done["rules"]) == (serial, ["subtree shop.example"])
    assert court.log.serial == serial


async def test_the_end_between_commit_and_the_decisions_word(court, monkeypatch):
    """
    The log has it, the store does not say so: it is put in order, and then closed.
    """
    court.say(FEED, "subtree shop.example")
    plea = await court.plead("shop.example")
    store = court.casework._threads.opened()
    finish = store.finish

    def lost(*_):
        raise StoreError("the power fails")

    monkeypatch.setattr(store, "finish", lost)
    assert (await court.judge(Role.APPROVER, plea["id"]))[0] == 503
    monkeypatch.setattr(store, "finish", finish)
    status, problem = await court.judge(Role.APPROVER, plea["id"])
    assert (status, "on its way" in problem["detail"]) == (409, True)
    assert (await court.casework.decider.recover()).finished == 1
    status, done = await court.judge(Role.APPROVER, plea["id"])
    assert (status, done["serial"]) == (200, court.log.serial)


async def test_a_log_that_fails(court):
    """
    Nothing is changed, the appeal waits, and it goes once the log can be written.
    """
    (case,) = (await court.bring("http://shop.example/")).values()
    await court.ask(Role.ANALYST, "POST", f"/v1/cases/{case}/decide", BLOCK)
    plea = await court.plead("shop.example")
    court.error = PolicyError("policy log: disk full")
    assert (await court.judge(Role.APPROVER, plea["id"]))[0] == 503
    court.error = None
    _, whole = await court.ask(Role.ANALYST, "GET", f"/v1/cases/{case}")
    assert (whole["state"], whole["decision"]) == ("decided", "block")
    assert (await court.judge(Role.APPROVER, plea["id"]))[0] == 200


async def test_judges_that_are_busy(court):
    """
    Without verdicts nothing is decided.
    """
    plea = await court.plead("shop.example")
    court.judging.error = BusyError("too much")
    assert (await court.judge(Role.APPROVER, plea["id"]))[0] == 503
    court.judging.error = None
    assert (await court.judge(Role.APPROVER, plea["id"]))[0] == 200


async def test_somebody_goes_on_blocking(court, monkeypatch):
    """
    A rule that comes meanwhile is overruled too; with no end to it, it is told, and waits.
    """
    court.say(FEED, "subtree shop.example")
    plea = await court.plead("shop.example")
    decide, later = court.casework.decider._commit, ["domain shop.example"]

    async def commit(*args, **more):
        done = await decide(*args, **more)
        if later:
            court.say(f"analyst:bob{len(later)}", later.pop())
        return done

    monkeypatch.setattr(court.casework.decider, "_commit", commit)
    status, done = await court.judge(Role.APPROVER, plea["id"])
    assert (status, len(done["decisions"])) == (200, 2)
    assert await court.says("shop.example") == ["allow"]
    plain = court.judging.check

    async def stubborn(items, **more):
        found = [json.loads(one) for one in await plain(items, **more)]
        return [json.dumps({**one, "action": "block"}).encode() for one in found]

    monkeypatch.setattr(court.casework.redress, "_check", stubborn)
    plea = await court.plead("other.example")
    before = court.log.serial
    status, problem = await court.judge(Role.APPROVER, plea["id"])
    assert (status, "still blocked" in problem["detail"]) == (409, True)
    assert court.log.serial <= before + MAX_ROUNDS


async def test_two_approvers_at_once(court):
    """
    One decides; the other is told so.
    """
    court.say(FEED, "subtree shop.example")
    plea = await court.plead("shop.example")
    court.wait_s = 0.05
    got = await asyncio.gather(
        court.judge(Role.APPROVER, plea["id"]),
        court.judge("third", plea["id"], "reject"),
        court.judge(Role.ADMIN, plea["id"]),
    )
    assert sorted(status for status, _ in got) == [200, 409, 409]


async def test_a_damaged_key(court):
    """
    Without the key no number is given or taken, and nothing else is concerned.
    """
    (court.folder / incidents.FILE).write_bytes(b"x")
    status, _ = await court.ask(Role.ANALYST, "POST", "/v1/incidents", {"item": "shop.example"})
    assert status == 503


async def test_pages(court):
    """
    Every appeal once, the proven ones first, whatever the size of a page.
    """
    made = [await court.plead(f"n{n}.example") for n in range(9)]
    for n in (7, 3):
        court.places.records[f"n{n}.example"] = [made[n]["proof"]["txt_value"]]
        await court.ask(None, "POST", f"/v1/appeals/{made[n]['id']}/check")
    seen, cursor = [], ""
    while True:
        _, page = await court.ask(Role.AUDITOR, "GET", f"/v1/appeals?limit=2{cursor}")
        seen += [a["owner"] for a in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert seen == [f"n{n}.example" for n in (3, 7, 0, 1, 2, 4, 5, 6, 8)]


def test_limits_are_as_the_page_says():
    """
    The limits that docs/appeals.md promises.
    """
    assert bounds.APPEAL[0].burst == 10
    assert bounds.APPEAL[0].per_s == pytest.approx(1 / 60)
