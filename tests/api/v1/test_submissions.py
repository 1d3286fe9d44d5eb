"""Submissions over HTTP: what a sender is told, and what a stranger is not."""

import contextlib
import dataclasses
import ipaddress
import sqlite3
import time

import pytest

from tests.api.backend import Backend, serving
from urlguard.access.roles import Role
from urlguard.api.public import AT_ONCE, LOOKS, Public
from urlguard.api.table import ROUTES
from urlguard.cases import ndjson
from urlguard.cases.model import Limits
from urlguard.cases.ports import BusyError
from urlguard.config import Cases
from urlguard.policy.model import Change

PATH = "/v1/submissions"
PROXY = (ipaddress.ip_network("127.0.0.0/8"),)


async def send(http, backend, body, role=Role.REPORTER, **headers):
    """Status, document and headers; without a token if there is no role."""
    token = {} if role is None else backend.head(role)
    async with http.post(backend.base + PATH, json=body, headers={**token, **headers}) as answer:
        return answer.status, await answer.json(content_type=None), answer.headers


async def look(http, backend, ident, role=Role.REPORTER, **headers):
    """Status and document."""
    token = {} if role is None else backend.head(role)
    url = f"{backend.base}{PATH}/{ident}"
    async with http.get(url, headers={**token, **headers}) as answer:
        return answer.status, await answer.json(content_type=None)


async def judged(backend):
    """The cases, once all is judged."""
    return await backend.bring()


async def decide(http, backend, case, act="block"):
    """Decide a case; the answer."""
    url = f"{backend.base}/v1/cases/{case}/decide"
    async with http.post(url, json={"action": act}, headers=backend.head(Role.ANALYST)) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


@pytest.fixture
async def served(tmp_path):
    """What makes backends with other options, the public's among them."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(limits=None, public=True, **options):
            backend = Backend(tmp_path, limits=limits)
            cases = Cases(public=public, **options)
            services = dataclasses.replace(
                backend.services(), cases=cases, public=Public(cases) if public else None
            )
            backend.base = await stack.enter_async_context(serving(services, proxy_from=PROXY))
            stack.callback(backend.close)
            return backend

        yield make


async def test_from_the_first_word_to_the_last(http, backend):
    """
    An ID at once; then what was decided, for its sender, the staff, and nobody else.
    """
    body = {
        "url": "http://Evil.example/login",
        "comment": "it asks for my card",
        "evidence": ["您的包裹", {"kind": "sms", "text": "from +0 00"}],
        "tlp": "green",
    }
    status, sent, _ = await send(http, backend, body)
    assert (status, sent["state"], sent["verdict"]) == (200, "queued", None)
    assert sent["item"] == "http://evil.example/login"
    cases = await judged(backend)
    await decide(http, backend, cases["evil.example"])
    status, mine = await look(http, backend, sent["id"])
    assert (status, mine["state"], mine["action"]) == (200, "decided", "block")
    assert mine["evidence"] == [
        {"text": "您的包裹", "kind": "text"},
        {"text": "from +0 00", "kind": "sms"},
    ]
    assert (mine["case"], mine["network"], mine["tlp"]) == (None, None, "green")
    _, theirs = await look(http, backend, sent["id"], Role.AUDITOR)
    assert (theirs["case"], theirs["source"]) == (cases["evil.example"], "my-reporter")
    assert (await look(http, backend, sent["id"], Role.CRAWLER))[0] == 403
    other = backend.tokens.create("other", Role.REPORTER, "test")
    url = f"{backend.base}{PATH}/{sent['id']}"
    async with http.get(url, headers={"Authorization": f"Bearer {other}"}) as answer:
        assert answer.status == 404


async def test_a_known_one_is_answered_at_once(http, backend):
    """
    With the verdict, where a rule stands; also if it allows.
    """
    backend.log.commit(
        "operator", [Change("subtree evil.example", "block", "phishing")], actor="a", reason=""
    )
    backend.log.commit("operator", [Change("domain good.example", "allow")], actor="a", reason="")
    for url, decision in (("http://www.evil.example/a", "block"), ("good.example", "allow")):
        status, sent, _ = await send(http, backend, {"url": url})
        assert (status, sent["state"], sent["action"]) == (200, "known", decision)
        assert sent["verdict"]["action"] == decision
        assert sent["verdict"]["rule"]["sources"] == ["operator"]
        assert (await look(http, backend, sent["id"]))[1]["state"] == "known"


async def test_judges_that_cannot_say(http, backend, monkeypatch):
    """
    Where a verdict cannot be had, it is told later; where not even the URL can be read, 503.
    """
    monkeypatch.setattr(backend.judging, "check", failing)
    status, sent, _ = await send(http, backend, {"url": "evil.example"})
    assert (status, sent["state"]) == (200, "queued")
    monkeypatch.setattr(backend.judging, "intake", failing)
    status, _, headers = await send(http, backend, {"url": "evil.example"})
    assert (status, headers["Retry-After"]) == (503, "3")


async def failing(*_, **__):
    """Judges with too much to do."""
    raise BusyError(2.5)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"url": "nodot"}, "url"),
        ({"url": "mailto:a@b.example"}, "url"),
        ({"url": "a.example", "tlp": "white"}, "tlp"),
        ({"url": "a.example", "evidence": ["x"] * 21}, "evidence"),
        ({"url": "a.example", "evidence": [{"kind": "A B", "text": ""}]}, "evidence[0].kind"),
        ({"url": "a.example", "comment": "x" * 2001}, "comment"),
        ({"url": "a.example", "other": 1}, "other"),
    ],
)
async def test_what_does_not_fit(http, backend, body, field):
    """
    422, and the field's name.
    """
    status, found, _ = await send(http, backend, body)
    assert (status, found["errors"][0]["field"]) == (422, field)


@pytest.mark.parametrize(
    "url",
    [
        "http://me:geheim@evil.example/a",
        "me:geheim@evil.example/a",
        "HTTPS:\\\\me:geheim@evil.example#x",
    ],
)
async def test_passwords_are_not_kept(http, backend, url):
    """
    What stands before an @ is in no column, nor is it anywhere in the files.
    """
    status, _, _ = await send(http, backend, {"url": url})
    assert status == 200
    for path in backend.folder.glob("cases.db*"):
        assert b"geheim" not in path.read_bytes()


async def test_lists(http, backend):
    """
    Reporters see their own, the staff all; the newest first.
    """
    for n in range(3):
        await send(http, backend, {"url": f"n{n}.example"}, Role.REPORTER)
    await send(http, backend, {"url": "a.example"}, Role.ANALYST)

    async def page(role, query=""):
        async with http.get(backend.base + PATH + query, headers=backend.head(role)) as answer:
            return await answer.json()

    mine = await page(Role.REPORTER, "?limit=2")
    assert [one["item"] for one in mine["items"]] == ["n2.example", "n1.example"]
    rest = await page(Role.REPORTER, f"?cursor={mine['next']}")
    assert ([one["item"] for one in rest["items"]], rest["next"]) == (["n0.example"], None)
    assert len((await page(Role.AUDITOR))["items"]) == 4


async def test_quotas(http, served):
    """
    A reporter's is its own; staff have none.
    """
    backend = await served(public=False, reporter_per_hour=60, reporter_burst=2)
    said = [(await send(http, backend, {"url": f"n{n}.example"}))[0] for n in range(3)]
    assert said == [200, 200, 429]
    for n in range(5):
        assert (await send(http, backend, {"url": f"m{n}.example"}, Role.ANALYST))[0] == 200


async def test_the_queue_is_full(http, served):
    """
    429 with Retry-After, and nothing is kept.
    """
    backend = await served(Limits(backlog=1, share=1.0, wait_s=7.0))
    backend.judging.deaf = True
    await backend.casework.store(fill)
    status, _, headers = await send(http, backend, {"url": "b.example"}, None)
    assert (status, headers["Retry-After"]) == (429, "7")


def fill(store):
    """Have one candidate wait."""
    store.add("x", [ndjson.candidate("a.example", 0)], int(time.time()))


# -- the public ------------------------------------------------------------------------------------


async def test_off_by_default(http, backend):
    """
    Without a token nobody submits, and nobody asks.
    """
    assert (await send(http, backend, {"url": "a.example"}, None))[0] == 401
    assert (await look(http, backend, "x", None))[0] == 401
    assert Cases().public is False


async def test_what_is_open_where_it_is_on(http, served):
    """
    Two operations and no more; a bad token is none, and a wrong role no stranger.
    """
    assert {(r.method, r.path) for r in ROUTES if r.anonymous} == {
        ("POST", PATH),
        ("GET", PATH + "/{id}"),
    }
    backend = await served()
    for route in ROUTES:
        if route.roles is not None and not route.anonymous:
            path = route.path.replace("{id}", "1")
            async with http.request(route.method, backend.base + path) as answer:
                assert answer.status == 401
    bad = {"Authorization": "Bearer ug_nothing"}
    assert (await send(http, backend, {"url": "a.example"}, None, **bad))[0] == 401
    assert (await send(http, backend, {"url": "a.example"}, Role.CRAWLER))[0] == 403


async def test_it_is_no_oracle(http, served):
    """
    Whether a name is known, blocked or suspected, a stranger is told the same, now and later.
    """
    backend = await served(public_per_address=1000)
    backend.log.commit(
        "operator", [Change("subtree evil.example", "block", "phishing")], actor="a", reason=""
    )
    asked = len(backend.judging.asked)
    answers = []
    for url in ("evil.example", "unknown.example", "unknown.example"):
        status, sent, _ = await send(http, backend, {"url": url}, None)
        answers.append(sent)
        assert status == 200
    assert len(backend.judging.asked) - asked <= 3  # by triage alone
    told = [{**sent, "id": ""} for sent in answers]
    assert (
        told == [{"id": "", "state": "received", "item": None, "action": None, "verdict": None}] * 3
    )
    cases = await judged(backend)
    for sent in answers:
        _, found = await look(http, backend, sent["id"], None)
        assert found["state"] == "received"
        assert {k for k, v in found.items() if v} == {"id", "state"}
    await decide(http, backend, cases["unknown.example"])
    _, found = await look(http, backend, answers[1]["id"], None)
    assert found["state"] == "decided"
    assert {k for k, v in found.items() if v} == {"id", "state"}
    _, staff = await look(http, backend, answers[1]["id"], Role.ANALYST)
    assert (staff["action"], staff["source"]) == ("block", "(public)")
    assert len({sent["id"] for sent in answers}) == 3
    assert all(len(sent["id"]) == 24 for sent in answers)


@pytest.mark.parametrize("act", ["block", "dismiss", "watch", "allow"])
async def test_what_was_decided_before_is_no_oracle(http, served, act):
    """
    A stranger who sends again what people have decided learns nothing until they decide anew.
    """
    backend = await served(public_per_address=1000)
    _, first, _ = await send(http, backend, {"url": "http://evil.example/"}, None)
    (case,) = (await judged(backend)).values()
    made = await decide(http, backend, case, act)
    assert (await look(http, backend, first["id"], None))[1]["state"] == "decided"
    again = []
    for url in ("http://evil.example/", "http://evil.example/b", "http://never.example/"):
        _, sent, _ = await send(http, backend, {"url": url}, None)
        again.append(sent["id"])
    cases = await judged(backend)
    told = [(await look(http, backend, ident, None))[1]["state"] for ident in again]
    assert told == ["received"] * 3
    undo = f"{backend.base}/v1/decisions/{made['decision_id']}/undo"
    async with http.post(undo, json={}, headers=backend.head(Role.ADMIN)) as answer:
        assert answer.status == 200, await answer.text()
    assert (await look(http, backend, first["id"], None))[1]["state"] == "received"
    await decide(http, backend, cases["evil.example"])
    told = [(await look(http, backend, ident, None))[1]["state"] for ident in again]
    assert told == ["decided", "decided", "received"]


async def test_a_token_s_submission_is_nobody_else_s(http, served):
    """
    Its ID opens it to no stranger.
    """
    backend = await served()
    _, sent, _ = await send(http, backend, {"url": "a.example"})
    assert (await look(http, backend, sent["id"], None))[0] == 404


async def test_limits_by_address_and_in_all(http, served):
    """
    An IPv4 address has its own, an IPv6 /64 too; together there is an end as well.
    """
    backend = await served(public_burst=AT_ONCE + 3)

    async def say(address, n):
        body = {"url": f"n{n}.example"}
        answer = await send(http, backend, body, None, **{"X-Forwarded-For": address})
        if answer[0] == 429:
            assert int(answer[2]["Retry-After"]) >= 1
        return answer[0]

    assert [await say("192.0.2.1", n) for n in range(AT_ONCE + 1)] == [200] * AT_ONCE + [429]
    assert await say("2001:db8::1", 20) == 200
    assert [await say(f"2001:db8:0:{n}::1", 30 + n) for n in range(1, 4)] == [200, 200, 429]
    assert await say("192.0.2.1", 40) == 429


async def test_looking_has_limits_too(http, served):
    """
    Whoever tries IDs has to wait.
    """
    backend = await served()
    said = [(await look(http, backend, f"x{n}", None))[0] for n in range(int(LOOKS.burst) + 1)]
    assert set(said[:-1]) == {404}
    assert said[-1] == 429


async def test_no_address_on_disk(http, served):
    """
    Neither with the submission nor with its idempotency key.
    """
    backend = await served()
    headers = {"X-Forwarded-For": "192.0.2.77", "Idempotency-Key": "k"}
    first = await send(http, backend, {"url": "a.example"}, None, **headers)
    again = await send(http, backend, {"url": "a.example"}, None, **headers)
    assert first[1] == again[1]
    assert again[2]["Idempotency-Replayed"] == "true"
    for path in backend.folder.rglob("*"):
        if path.is_file():
            assert b"192.0.2.77" not in path.read_bytes(), path
    with contextlib.closing(sqlite3.connect(backend.folder / "cases.db")) as db:
        ((network, public),) = db.execute("SELECT network, public FROM submissions").fetchall()
    assert (len(network), public) == (16, 1)


async def test_nobody_blocks_by_submitting(http, served):
    """
    Neither a reporter nor any number of strangers: no rule follows.
    """
    backend = await served(public_per_address=10_000, public_burst=1000, reporter_burst=1000)
    backend.judging.wait_s = 0.0
    for role in (Role.REPORTER, None):
        for n in range(AT_ONCE):
            await send(http, backend, {"url": f"http://shop.example/{n}"}, role)
    cases = await judged(backend)
    assert "shop.example" in cases
    assert backend.log.serial == 0
