"""Why something is blocked, or was at any moment, over HTTP."""

import time
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from tests.api.backend import seconds
from tests.hitlog.test_search import row, written
from urlguard.access.roles import Role
from urlguard.api.schemas import utc
from urlguard.api.v1 import why
from urlguard.errors import PolicyError
from urlguard.policy.model import Change
from urlguard.rules import PAUSE

EVIL = "subtree evil.example"


@pytest.fixture
def clock(monkeypatch):
    """The time that batches get, in seconds; an hour ago at first."""
    found = SimpleNamespace(now=float(int(time.time()) - 3600))
    found.time = lambda: found.now
    monkeypatch.setattr("urlguard.policy.log.time", found)
    return found


@pytest.fixture
def ask(http, backend):
    """``await ask(item=…, at=…)``: status and document."""

    async def asked(role=Role.ANALYST, **params):
        texts = {key: str(value) for key, value in params.items()}
        request = http.get(f"{backend.base}/v1/why", params=texts, headers=backend.head(role))
        async with request as answer:
            return answer.status, await answer.json(content_type=None)

    return asked


def say(backend, source, *claims, evidence="", actor="ada", reason="ticket", until=None):
    """Commit one batch of ``ACTION KIND VALUE``; ``end`` withdraws."""
    parts = [claim.split(" ", 1) for claim in claims]
    changes = [
        Change(key, None) if action == "end" else Change(key, action, "fraud", evidence, until)
        for action, key in parts
    ]
    backend.log.commit(source, changes, actor=actor, reason=reason)


def brief(document):
    """Action, reason and the rule's key."""
    rule = document["rule"]
    return document["action"], document["reason"], rule and f"{rule['kind']} {rule['value']}"


async def test_blocked_then_allowed(ask, backend, clock):
    """
    Now it is allowed; before it was blocked, by whom, why and in which case; before that, nothing.
    """
    start = clock.now
    say(backend, "feed:a", "block subtree example")
    clock.now = start + 60
    say(backend, "operator", f"block {EVIL}", evidence="case:17:4", reason="phishing kit")
    clock.now = start + 120
    say(backend, "operator", f"allow {EVIL}", actor="bob", reason="appeal")
    status, now = await ask(item="http://www.Evil.example./a")
    assert status == 200
    assert (now["canonical"], now["kind"]) == ("http://www.evil.example/a", "url")
    assert (now["name"], now["serial"]) == ("www.evil.example", 3)
    assert brief(now["verdict"]) == ("allow", "allowlist", EVIL)
    assert now["verdict"]["input"] == now["input"] == "http://www.Evil.example./a"
    assert (now["case"], now["note"], now["paused"]) == (None, None, False)
    status, then = await ask(item="www.evil.example", at=int(start) + 61)
    assert (status, then["serial"], then["at"]) == (200, 2, utc(start + 61))
    assert brief(then["verdict"]) == ("block", "blocklist", EVIL)
    assert then["case"] == 17
    assert then["claims"] == [
        {
            "kind": "subtree",
            "value": "evil.example",
            "action": "block",
            "category": "fraud",
            "source": "operator",
            "evidence": "case:17:4",
            "case": 17,
            "serial": 2,
            "made_at": utc(start + 60),
            "actor": "ada",
            "reason": "phishing kit",
            "ended_serial": 3,
            "ended_at": utc(start + 120),
            "expires_at": None,
            "decisive": True,
        },
        {
            "kind": "subtree",
            "value": "example",
            "action": "block",
            "category": "fraud",
            "source": "feed:a",
            "evidence": "",
            "case": None,
            "serial": 1,
            "made_at": utc(start),
            "actor": "ada",
            "reason": "ticket",
            "ended_serial": None,
            "ended_at": None,
            "expires_at": None,
            "decisive": False,
        },
    ]
    changes = [(c["serial"], brief(c["before"]), brief(c["after"])) for c in then["changes"]]
    blocked, wide = ("block", "blocklist", EVIL), ("block", "blocklist", "subtree example")
    assert changes == [
        (3, blocked, ("allow", "allowlist", EVIL)),
        (2, wide, blocked),
        (1, ("none", "none", None), wide),
    ]
    last = then["changes"][0]
    assert (last["actor"], last["source"], last["reason"]) == ("bob", "operator", "appeal")
    assert not then["more_changes"]
    assert (await ask(item="www.evil.example", serial=2))[1]["claims"] == then["claims"]


async def test_before_the_log_begins(ask, backend, clock):
    """
    Nothing is known of then, and the answer says so; what came later is in the list.
    """
    say(backend, "operator", f"block {EVIL}")
    status, then = await ask(item="evil.example", at=int(clock.now) - 1)
    assert (status, then["serial"], then["claims"]) == (200, 0, [])
    assert brief(then["verdict"]) == ("none", "none", None)
    assert then["note"] == why._EMPTY
    assert [change["serial"] for change in then["changes"]] == [1]


async def test_an_expired_rule(ask, backend, clock):
    """
    It stood until the batch that ended it, and has its end beside it.
    """
    start, ends = clock.now, int(clock.now) + 60
    say(backend, "analyst:eve", f"review {EVIL}", until=ends)
    clock.now = start + 61
    assert backend.log.expire(clock.now)
    _, then = await ask(item="evil.example", at=ends)
    (claim,) = then["claims"]
    assert (claim["expires_at"], claim["ended_at"], claim["ended_serial"]) == (
        utc(ends),
        utc(ends + 1),
        2,
    )
    assert brief(then["verdict"]) == ("review", "blocklist", EVIL)
    _, now = await ask(item="evil.example")
    assert now["claims"] == []
    last = now["changes"][0]
    assert (last["actor"], last["reason"], last["after"]["rule"]) == ("urlguard", "expired", None)


async def test_a_list_that_was_refreshed(ask, backend):
    """
    What it dropped, what it kept in another category, and its exception.
    """
    say(backend, "feed:a", f"block {EVIL}", "block subtree other.example", reason="refresh 1")
    backend.log.commit(
        "feed:a",
        [Change(EVIL, None), Change("subtree other.example", "block", "malware")],
        actor="urlguard",
        reason="refresh 2",
    )
    say(backend, "feed:a", "except domain www.other.example", reason="refresh 3")
    _, then = await ask(item="evil.example", serial=1)
    assert (then["verdict"]["action"], then["claims"][0]["ended_serial"]) == ("block", 2)
    assert (await ask(item="evil.example", serial=2))[1]["verdict"]["action"] == "none"
    _, kept = await ask(item="other.example", serial=2)
    assert [(c["category"], c["serial"]) for c in kept["claims"]] == [("malware", 2)]
    assert [c["serial"] for c in kept["changes"]] == [2, 1]
    _, freed = await ask(item="www.other.example", serial=3)
    assert freed["verdict"]["action"] == "none"
    found = [(c["action"], c["value"], c["decisive"]) for c in freed["claims"]]
    assert found == [("except", "www.other.example", False), ("block", "other.example", False)]


async def test_urls_and_patterns(ask, backend):
    """
    A rule for a URL speaks of the URL alone; a pattern decides where no name's rule does.
    """
    say(backend, "operator", "block url good.example/evil/")
    say(backend, "analyst:eve", "block pattern *paypal*", "review pattern */login/*.php")
    _, found = await ask(item="https://good.example/evil/a?b=1", serial=2)
    assert brief(found["verdict"]) == ("block", "blocklist", "url good.example/evil/")
    _, found = await ask(item="good.example", serial=2)
    assert (found["verdict"]["action"], found["claims"]) == ("none", [])
    _, found = await ask(item="my-paypal.example", serial=2)
    assert brief(found["verdict"]) == ("block", "pattern", "pattern *paypal*")
    assert (await ask(item="my-paypal.example", serial=1))[1]["verdict"]["action"] == "none"
    _, found = await ask(item="http://a.example/login/x.php", serial=2)
    assert brief(found["verdict"]) == ("review", "pattern", "pattern */login/*.php")


async def test_an_address(ask, backend):
    """
    Alone it is covered by no rule; as a URL's host by one for the URL.
    """
    say(backend, "operator", "block url 192.0.2.1/")
    _, found = await ask(item="192.0.2.1")
    assert (found["kind"], found["verdict"]["action"], found["name"]) == ("ip", "none", None)
    _, found = await ask(item="http://192.0.2.1/a")
    assert brief(found["verdict"]) == ("block", "blocklist", "url 192.0.2.1/")


async def test_while_filtering_was_paused(ask, backend, clock):
    """
    The verdict is what rules said, and the answer says that nothing was blocked.
    """
    say(backend, "operator", f"block {EVIL}")
    ends = int(clock.now) + 60
    pause = Change(PAUSE, "allow", f"until {ends}", "", ends)
    backend.log.commit("operator", [pause], actor="ada", reason="")
    found = [(await ask(item="evil.example", at=at))[1] for at in (ends - 1, ends)]
    assert [(f["paused"], f["verdict"]["action"]) for f in found] == [
        (True, "block"),
        (False, "block"),
    ]


async def test_a_model_is_asked_about_now(ask, backend):
    """
    An item without a rule gets the whole object of a check, with the model's reasons.
    """
    say(backend, "operator", f"block {EVIL}")
    item = "paypal-account-verify-secure-login.xyz"
    status, found = await ask(item=item)
    assert status == 200
    verdict = found["verdict"]
    assert verdict["model"]
    assert verdict["score"] > 0.1
    assert verdict["why"][0]["words"]["en"]
    assert found["note"] is None
    assert backend.judging.asked == [1]
    await ask(item="evil.example")
    await ask(item=item, serial=1)
    assert backend.judging.asked == [1]  # a rule decides; of the past no model of now is asked
    backend.judging.error = PolicyError("no judge answers")
    assert (await ask(item=item))[0] == 503
    assert (await ask(item="evil.example"))[0] == 200


async def test_a_model_in_the_past(ask, backend, clock):
    """
    Only the hit log knows it: it names the model shortly before the moment, and never the score.
    """
    say(backend, "operator", f"block {EVIL}")
    now = int(clock.now) + 1800
    _, found = await ask(item="new.example", at=now)
    assert (found["verdict"]["action"], found["verdict"]["model"]) == ("none", None)
    assert found["note"] == why._UNKNOWN
    rows = [row(now - 5, "new.example", "model name-1"), row(now + 5, "new.example", "model x")]
    rows.append(row(now - 9, "new.example", "subtree example", action="review", count=3))
    written(backend.folder / "hits", rows, now)
    _, found = await ask(item="new.example", at=now)
    assert brief(found["verdict"]) == ("block", "classifier", None)
    assert (found["verdict"]["model"], found["verdict"]["score"]) == ("name-1", None)
    assert found["note"] == why._SEEN
    assert [
        (seconds(hit["seen_at"]) - now, hit["rule"], hit["count"]) for hit in found["hits"]
    ] == [
        (5, "model x", 1),
        (-5, "model name-1", 1),
        (-9, "subtree example", 3),
    ]
    assert not found["more_hits"]
    _, found = await ask(item="http://new.example/", at=now)
    assert (found["verdict"]["model"], len(found["hits"])) == (None, 3)
    _, found = await ask(item="evil.example", at=now)
    assert found["verdict"]["reason"] == "blocklist"


async def test_a_popular_name(ask, backend):
    """
    Which names are popular is this version's word, also of the past.
    """
    say(backend, "operator", f"block {EVIL}")
    _, found = await ask(item="google.com", serial=1)
    assert (found["verdict"]["reason"], found["note"]) == ("popular", why._POPULAR)


async def test_ways_to_say_when(ask, backend, clock):
    """
    Seconds, a time with or without an offset, whose plus sign may have got lost, and a duration.
    """
    say(backend, "operator", f"block {EVIL}")
    at = int(clock.now) + 600
    text = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    later = datetime.fromtimestamp(at + 28_800, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    for form in (at, f"{at}.25", f"{text}Z", text, f"{later}+08:00", f"{later} 08:00"):
        status, found = await ask(item="evil.example", at=form)
        assert (status, found["at"], found["serial"]) == (200, utc(at), 1), form
    status, found = await ask(item="evil.example", at="2h")
    assert abs(seconds(found["at"]) - (time.time() - 7200)) < 5
    assert found["serial"] == 0


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "item"),
        ({"item": ""}, "item"),
        ({"item": "no name"}, "item"),
        ({"item": "a" * 7000}, "item"),
        ({"item": "evil.example", "at": "soon"}, "at"),
        ({"item": "evil.example", "at": ""}, "at"),
        ({"item": "evil.example", "at": "-1"}, "at"),
        ({"item": "evil.example", "at": "9999999999"}, "at"),
        ({"item": "evil.example", "at": "999999999999999999"}, "at"),
        ({"item": "evil.example", "at": "2090-01-31T12:00Z"}, "at"),
        ({"item": "evil.example", "at": "1969-01-31"}, "at"),
        ({"item": "evil.example", "at": "0001-01-01"}, "at"),
        ({"item": "evil.example", "at": "999999999w"}, "at"),
        ({"item": "evil.example", "serial": "0"}, "serial"),
        ({"item": "evil.example", "serial": "2"}, "serial"),
        ({"item": "evil.example", "serial": "x"}, "serial"),
        ({"item": "evil.example", "serial": "1", "at": "1"}, "serial"),
        ({"item": "evil.example", "when": "1"}, "when"),
    ],
)
async def test_what_is_refused(ask, backend, params, field):
    """
    The field is named.
    """
    say(backend, "operator", f"block {EVIL}")
    status, document = await ask(**params)
    assert (status, document["errors"][0]["field"]) == (422, field)


async def test_an_item_beyond_all_bounds(ask):
    """
    A line that long is not read.
    """
    assert (await ask(item="a" * 9000))[0] == 400


async def test_the_longest_name_and_url(ask, backend):
    """
    Hundreds of keys are asked for at once.
    """
    name = ".".join(["a"] * 127)
    say(backend, "operator", f"block below {name[-5:]}")
    _, found = await ask(item=name)
    assert found["verdict"]["rule"]["kind"] == "below"
    _, found = await ask(item=f"http://{name}/" + "b/" * 1500)
    assert found["verdict"]["rule"]["kind"] == "below"


async def test_a_log_without_a_batch(ask, backend):
    """
    Everything is before its beginning; a serial is none of its.
    """
    status, found = await ask(item="evil.example", at="0s")
    assert (status, found["serial"], found["changes"]) == (200, 0, [])
    assert (await ask(item="evil.example", serial=1))[0] == 422


async def test_a_log_that_lacks_a_batch(ask, backend):
    """
    A damaged log is 503, as elsewhere, and not an error of ours.
    """
    say(backend, "operator", f"block {EVIL}")
    say(backend, "operator", "block subtree other.example")
    backend.log.store._db.execute("DELETE FROM batch WHERE serial = 1")
    assert (await ask(item="evil.example"))[0] == 503


async def test_many_changes(ask, backend):
    """
    The newest are given, and that there are older ones.
    """
    for n in range(why.MAX_CHANGES + 1):
        say(backend, "operator", f"{'block' if n % 2 else 'allow'} {EVIL}")
    _, found = await ask(item="evil.example")
    assert len(found["changes"]) == why.MAX_CHANGES
    assert found["changes"][0]["serial"] == why.MAX_CHANGES + 1
    assert found["more_changes"]
