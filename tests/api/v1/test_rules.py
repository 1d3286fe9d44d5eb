"""Rules, the log and figures over HTTP."""

import time

import msgspec
import pytest

from tests.api.backend import seconds
from urlguard.access.roles import Role
from urlguard.api import paging
from urlguard.api.problems import Problem
from urlguard.api.schemas import utc
from urlguard.api.services import Family
from urlguard.api.v1.log import Stats
from urlguard.errors import PolicyError
from urlguard.policy.model import Change
from urlguard.rules import PAUSE


async def call(http, backend, method, path, role=Role.ANALYST, **more):
    """Status and document."""
    request = http.request(method, backend.base + path, headers=backend.head(role), **more)
    async with request as answer:
        return answer.status, await answer.json(content_type=None)


async def every(http, backend, path, limit=2):
    """The items of all pages."""
    found, cursor = [], ""
    while cursor is not None:
        at = f"{path}{'&' if '?' in path else '?'}limit={limit}"
        at += f"&cursor={cursor}" if cursor else ""
        status, page = await call(http, backend, "GET", at)
        assert status == 200
        assert len(page["items"]) <= limit
        assert page["items"] or page["next"] is None
        found += page["items"]
        cursor = page["next"]
    return found


async def test_a_rule_and_its_end(http, backend):
    """
    Made, shown, made again without a change, and withdrawn; each is in the log with its maker.
    """
    body = {"rule": "*.Evil.example", "category": "phishing", "reason": "ticket 3"}
    status, made = await call(http, backend, "POST", "/v1/rules", json=body)
    assert (status, made["changed"], made["serial"], made["in_force"]) == (200, True, 1, 2)
    (shown,) = await every(http, backend, "/v1/rules")
    assert seconds(made["expires_at"]) % 86_400 == 0
    assert shown == {
        "id": made["id"],
        "kind": "below",
        "value": "evil.example",
        "action": "block",
        "category": "phishing",
        "source": "analyst:my-analyst",
        "evidence": "ticket 3",
        "serial": 1,
        "begins_at": None,
        "expires_at": made["expires_at"],
    }
    assert (await call(http, backend, "POST", "/v1/rules", json=body))[1]["changed"] is False
    path = f"/v1/rules/{made['id']}?reason=mistake"
    assert (await call(http, backend, "DELETE", path))[1]["changed"] is True
    assert (await call(http, backend, "DELETE", path))[0] == 404
    assert await every(http, backend, "/v1/rules") == []
    batches = await every(http, backend, "/v1/log")
    assert [(b["serial"], b["actor"], b["reason"]) for b in batches] == [
        (1, "my-analyst", "ticket 3"),
        (2, "my-analyst", "mistake"),
    ]


async def test_who_withdraws_whose(http, backend):
    """
    An analyst his own, an approver anybody's, nobody a list's.
    """
    _, mine = await call(http, backend, "POST", "/v1/rules", json={"rule": "a.example"})
    _, admins = await call(
        http, backend, "POST", "/v1/rules", Role.ADMIN, json={"rule": "b.example"}
    )
    backend.log.commit("feed:x", [Change("subtree c.example", "block")], actor="x", reason="")
    (lists,) = await every(http, backend, "/v1/rules?source=feed:x")
    assert (await call(http, backend, "DELETE", f"/v1/rules/{admins['id']}"))[0] == 403
    assert (await call(http, backend, "DELETE", f"/v1/rules/{lists['id']}", Role.ADMIN))[0] == 403
    for made in (mine, admins):
        path = f"/v1/rules/{made['id']}"
        assert (await call(http, backend, "DELETE", path, Role.APPROVER))[0] == 200
    assert [c.source for c in backend.log.store.history("subtree b.example")] == ["operator"]


async def test_pages_and_filters(http, backend):
    """
    Pages have each rule once, in order; a list's are shown on demand; a pause is no rule.
    """
    backend.log.commit("operator", [Change(PAUSE, "allow")], actor="x", reason="")
    for source in ("operator", "analyst:b", "feed:x"):
        changes = [Change(f"subtree n{n}.example", "block") for n in range(5)]
        backend.log.commit(source, changes, actor="x", reason="")
    found = await every(http, backend, "/v1/rules", 3)
    wanted = [(s, f"n{n}.example") for s in ("analyst:b", "operator") for n in range(5)]
    assert [(r["source"], r["value"]) for r in found] == wanted
    for limit in (1, 2, 4, 5, 6, 9, 10, 11):
        assert await every(http, backend, "/v1/rules", limit) == found
    found = await every(http, backend, "/v1/rules?source=feed:x")
    assert [r["value"] for r in found] == [f"n{n}.example" for n in range(5)]
    found = await every(http, backend, "/v1/rules?rule=N3.example", 1)
    assert [r["source"] for r in found] == ["analyst:b", "feed:x", "operator"]
    found = await every(http, backend, "/v1/rules?rule=N3.example&source=operator")
    assert len(found) == 1
    assert (await call(http, backend, "GET", "/v1/rules?rule=no%20name"))[0] == 422


async def test_times(http, backend):
    """
    Seconds, times and durations; a scheduled rule shows when it begins.
    """
    soon = int(time.time()) + 3600
    body = {"rule": "a.example", "begins_at": soon, "expires_at": "2d", "action": "review"}
    status, _ = await call(http, backend, "POST", "/v1/rules", json=body)
    assert status == 200
    (scheduled,) = await every(http, backend, "/v1/rules?rule=a.example")
    assert (scheduled["begins_at"], scheduled["expires_at"]) == (
        utc(soon),
        utc(soon + 2 * 86_400),
    )
    assert (scheduled["kind"], scheduled["value"]) == ("subtree", "a.example")
    status, _ = await call(http, backend, "DELETE", f"/v1/rules/{scheduled['id']}")
    assert status == 200
    body = {"rule": "b.example", "expires_at": "2090-01-31T12:00Z"}
    await call(http, backend, "POST", "/v1/rules", json=body)
    (ends,) = await every(http, backend, "/v1/rules?rule=b.example")
    assert ends["expires_at"] == "2090-01-31T12:00:00Z"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"rule": "no name"}, 422, "rule"),
        ({"rule": ""}, 422, "rule"),
        ({"rule": "x" * 2049}, 422, "rule"),
        ({"rule": "a.example", "expires_at": 1}, 422, "expires_at"),
        ({"rule": "a.example", "expires_at": "soon"}, 422, "expires_at"),
        ({"rule": "a.example", "begins_at": "2d", "expires_at": 1}, 422, "expires_at"),
        ({"rule": "a.example", "action": "except"}, 422, "action"),
        ({"rule": "a.example", "category": "No!"}, 422, "category"),
        ({"rule": "a.example", "reason": "a\nb"}, 422, "reason"),
    ],
)
async def test_rules_that_are_refused(http, backend, body, status, field):
    """
    The field is named, and the log stays as it was.
    """
    found, document = await call(http, backend, "POST", "/v1/rules", json=body)
    assert (found, document["errors"][0]["field"]) == (status, field)
    assert backend.log.serial == 0


@pytest.mark.parametrize("rule", ["google.com", "co.uk", "gov.cn", "*.gov.cn"])
async def test_a_rule_that_waits_for_a_second_person(http, backend, rule):
    """
    Nothing is in force until an approver has agreed; then it is, under the name of who made it.
    """
    body = {"rule": rule, "reason": "an order", "expires_at": "1d"}
    status, held = await call(http, backend, "POST", "/v1/rules", json=body)
    assert (status, held["changed"], held["in_force"]) == (200, False, 0)
    assert held["decision"]["pending_approval"] is True
    assert rule.removeprefix("*.") in held["decision"]["approval_reason"]
    assert backend.log.serial == 0
    path = f"/v1/decisions/{held['decision']['decision_id']}/approve"
    status, agreed = await call(http, backend, "POST", path, Role.APPROVER, json={})
    assert (status, agreed["serial"]) == (200, 1)
    (batch,) = backend.log.store.batches(0, 10)
    assert (batch.source, batch.actor, batch.reason) == (
        "analyst:my-analyst",
        "my-analyst, my-approver",
        "an order",
    )
    (claim,) = backend.log.store.active_after("analyst:my-analyst", "", 10)
    assert (claim.action, claim.category) == ("block", "fraud")
    assert claim.expires_at > time.time() + 80_000
    assert _ident_of(claim) == held["id"]


@pytest.mark.parametrize(
    ("role", "body", "days"),
    [
        (Role.ANALYST, {"category": "malware"}, 90),
        (Role.ANALYST, {}, 365),
        (Role.APPROVER, {"category": "phishing"}, 180),
        (Role.ANALYST, {"expires_at": "2d"}, 2),
        (Role.ADMIN, {}, None),
        (Role.ANALYST, {"action": "allow"}, 365),
        (Role.ANALYST, {"action": "review", "category": "malware"}, 90),
        (Role.ADMIN, {"action": "allow"}, None),
    ],
)
async def test_an_analysts_rule_ends(http, backend, role, body, days):
    """
    After the time of its category, unless it says when; an operator's stands until he ends it.
    """
    body = {"rule": "evil.example", **body}
    status, made = await call(http, backend, "POST", "/v1/rules", role, json=body)
    assert status == 200
    if days is None:
        assert made["expires_at"] is None
    else:
        assert -60 < seconds(made["expires_at"]) - time.time() - days * 86_400 <= 86_400
    (claim,) = backend.log.store.history("subtree evil.example")
    assert utc(claim.expires_at) == made["expires_at"]


def _ident_of(claim):
    from urlguard.api.v1.rules import _ident

    return _ident(claim.source, claim.rule)


async def test_a_rule_that_waits_already(http, backend):
    """
    Asked for again, it is the same one that waits; another person's is another.
    """
    body = {"rule": "google.com"}
    first = (await call(http, backend, "POST", "/v1/rules", json=body))[1]["decision"][
        "decision_id"
    ]
    again = (await call(http, backend, "POST", "/v1/rules", json=body))[1]["decision"][
        "decision_id"
    ]
    other = await call(http, backend, "POST", "/v1/rules", Role.APPROVER, json=body)
    assert again == first != other[1]["decision"]["decision_id"]
    _, page = await call(http, backend, "GET", "/v1/decisions?step=pending_approval")
    assert len(page["items"]) == 2


async def test_a_rule_in_shadow(http, backend):
    """
    Stands under its own action, needs no second person, and changes no verdict.
    """
    body = {"rule": "google.com", "action": "shadow"}
    status, made = await call(http, backend, "POST", "/v1/rules", json=body)
    assert (status, made["changed"], made["decision"], made["expires_at"]) == (
        200,
        True,
        None,
        None,
    )
    (shown,) = await every(http, backend, "/v1/rules")
    assert (shown["action"], shown["category"]) == ("shadow", "fraud")
    _, checked = await call(http, backend, "POST", "/v1/check", json={"items": ["www.google.com"]})
    assert checked["results"][0]["action"] != "block"


async def test_a_popular_name_may_be_allowed(http, backend):
    """
    Only blocking one is held.
    """
    body = {"rule": "google.com", "action": "allow"}
    assert (await call(http, backend, "POST", "/v1/rules", json=body))[0] == 200


@pytest.mark.parametrize("ident", ["x", "AAAA", "b3BlcmF0b3I", "b3BlcmF0b3IK"])
async def test_ids_that_are_none(http, backend, ident):
    """
    An id that no list gave is of no rule.
    """
    assert (await call(http, backend, "DELETE", f"/v1/rules/{ident}"))[0] == 404


async def test_a_log_that_cannot_be_written(http, backend):
    """
    The answer says so, and what is wrong.
    """
    backend.error = PolicyError("policy log: disk full")
    status, document = await call(http, backend, "POST", "/v1/rules", json={"rule": "a.example"})
    assert (status, document["detail"]) == (503, "policy log: disk full")


async def test_the_log_in_pages(http, backend):
    """
    Batches after a serial, whole, oldest first.
    """
    for n in range(7):
        backend.log.commit(
            "operator", [Change(f"subtree n{n}.example", "block")], actor="a", reason=""
        )
    found = await every(http, backend, "/v1/log?since=2")
    assert [b["serial"] for b in found] == [3, 4, 5, 6, 7]
    rows = [b._asdict() for b in backend.log.store.batches(2)]
    assert found == [{"committed_at": utc(b.pop("time") // 1000)} | b for b in rows]
    assert await every(http, backend, "/v1/log?since=7") == []


async def test_a_log_that_is_gone(http, backend):
    """
    Reading it is 503, not an error of ours.
    """
    for path in backend.folder.glob("policy.db*"):
        path.unlink()
    status, document = await call(http, backend, "GET", "/v1/log")
    assert (status, document["type"]) == (503, "/docs#problem-unavailable")


async def test_stats(http, backend, monkeypatch):
    """
    Figures of the workers added up, by action, category and source, and of the lists.
    """

    async def families():
        hits = [(("0", "block", "operator"), 3), (("1", "block", "feed:x"), 2)]
        hits.append((("1", "review", "feed:x"), 5))
        return [
            Family("urlguard_worker_up", "gauge", "", ("worker",), [(("0",), 1.0), (("1",), 1.0)]),
            Family(
                "urlguard_queries_total",
                "counter",
                "",
                ("worker", "transport"),
                [(("0", "udp"), 10), (("1", "udp"), 20), (("1", "tcp"), 1)],
            ),
            Family("urlguard_hits_total", "counter", "", ("worker", "action", "rule_source"), hits),
            Family("urlguard_feed_rules", "gauge", "", ("feed",), [(("x",), 7.0)]),
            Family("urlguard_feed_failing", "gauge", "", ("feed",), [(("x",), 1.0)]),
        ]

    monkeypatch.setattr(backend.source, "families", families)
    status, document = await call(http, backend, "GET", "/v1/stats")
    assert status == 200
    found = msgspec.convert(document, Stats)
    assert (found.workers, found.queries) == (2, 31)
    assert found.hits == {"block": 5, "review": 5}
    assert found.sources == {"operator": 3, "feed:x": 2}
    (feed,) = found.feeds
    assert (feed.name, feed.rules, feed.failing, feed.age_s) == ("x", 7, True, None)


def test_cursors():
    """
    A cursor comes back as the values it was made of, and as no others.
    """
    for values, kind in (((1,), tuple[int]), (("a", "b\nc"), tuple[str, str])):
        assert paging.decode(paging.encode(*values), kind) == values
    assert paging.decode(None, tuple[int]) is None
    for text in ("", "=", "é", "AAAA", paging.encode("a"), paging.encode(1, 2)):
        with pytest.raises(Problem):
            paging.decode(text, tuple[int])
