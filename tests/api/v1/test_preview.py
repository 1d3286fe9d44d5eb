"""Dry runs and lists over HTTP."""

import dataclasses

import pytest

from tests.api.v1.test_rules import call
from urlguard.access.roles import Role
from urlguard.api.v1.feeds import without_secrets
from urlguard.config import Feed
from urlguard.feeds.refresh import refresh
from urlguard.impact.sample import Count, Sampled
from urlguard.policy.model import Change


@pytest.fixture
def lists(backend, tmp_path):
    """A list in force and one in shadow, refreshed."""
    feeds = []
    for name, lines, shadow in (
        ("old", "evil.example\ngoogle.com\n", False),
        ("new", "evil.example\nfar.example\nx.council.gov.cn\nicbc.com.cn\n", True),
    ):
        path = tmp_path / f"{name}.txt"
        path.write_text(lines)
        feeds.append(Feed(name=name, path=path, format="domains", shadow=shadow))
    object.__setattr__(backend.config, "feed", tuple(feeds))
    for feed in feeds:
        refresh(backend.log, feed, tmp_path)
    return feeds


async def test_a_list_in_shadow(http, backend, lists):
    """
    What it would change, what it touches, which rules are quarantined, and why it would wait.
    """
    far = {"subtree far.example": Count(30, 300.0, 7)}
    backend.live = Sampled(Count(12_000, 120_000.0, 90), Count(30, 300.0, 7), far)
    status, found = await call(http, backend, "GET", "/v1/preview?feed=new", Role.AUDITOR)
    assert status == 200
    assert backend.sampled == [(None, "feed:new")]
    since = found["shadow"].pop("started_at")
    assert since > "2023-11-14T22:13:20Z"
    assert found == {
        "feed": "new",
        "action": "shadow",
        "rules": 3,
        "new": 2,
        "covered": 1,
        "exact": True,
        "sample": {
            "queries": 12_000,
            "clients": 90,
            "newly_blocked": 30,
            "newly_blocked_clients": 7,
            "share": 0.0025,
            "sufficient": True,
            "rules": [{"rule": "subtree far.example", "queries": 30, "clients": 7}],
        },
        "protected": [{"rule": "subtree x.council.gov.cn", "reason": "government, gov.cn"}],
        "quarantined": [{"rule": "subtree icbc.com.cn", "reason": "bank"}],
        "needs_approval": [
            "subtree x.council.gov.cn: government, gov.cn",
            "would block 0.25% of live queries (30 of 12,000), of up to 7 clients; "
            "one person may block 0.1%",
        ],
        "shadow": {"queries": 0, "clients": 0, "complete": True},
    }


async def test_a_list_in_force(http, backend, lists):
    """
    Would change nothing, and has no shadow.
    """
    status, found = await call(http, backend, "GET", "/v1/preview?feed=old")
    assert (status, found["action"], found["rules"], found["new"]) == (200, "block", 1, 0)
    assert found["shadow"] is None


async def test_no_such_list(http, backend, lists):
    """
    404 with the names that there are; a name that no list can have is refused.
    """
    status, found = await call(http, backend, "GET", "/v1/preview?feed=other")
    assert (status, found["detail"]) == (404, "feed 'other': not configured; known: old, new")
    for path in ("/v1/preview", "/v1/preview?feed=a%20b"):
        assert (await call(http, backend, "GET", path))[0] == 422


@pytest.mark.parametrize(
    ("role", "source"),
    [(Role.ANALYST, "analyst:my-analyst"), (Role.ADMIN, "operator")],
)
async def test_rules_that_nobody_has_said(http, backend, role, source):
    """
    Counted as if the caller said them, each once; nothing is changed.
    """
    backend.log.commit(
        "operator", [Change("subtree evil.example", "block")], actor="test", reason=""
    )
    body = {"rules": ["evil.example", "www.EVIL.example", "a.example", "a.example.", "a.example/b"]}
    status, found = await call(http, backend, "POST", "/v1/preview", role, json=body)
    assert (status, found["feed"], found["action"]) == (200, None, "none")
    assert (found["rules"], found["new"]) == (4, 2)
    rules = ["subtree evil.example", "subtree www.evil.example", "subtree a.example"]
    assert backend.sampled == [([*rules, "url a.example/b"], source)]
    assert found["sample"]["sufficient"] is False
    assert found["needs_approval"] == []
    assert backend.log.serial == 1


async def test_rules_that_are_none(http, backend):
    """
    The first that cannot be read is named.
    """
    body = {"rules": ["evil.example", "no rule"]}
    status, found = await call(http, backend, "POST", "/v1/preview", json=body)
    assert status == 422
    assert found["errors"][0]["field"] == "rules[1]"
    for rules in ([], ["a.example"] * 501):
        answer = await call(http, backend, "POST", "/v1/preview", json={"rules": rules})
        assert answer[0] == 422


async def test_lists_with_what_is_held_back(http, backend, lists):
    """
    Each list with its state; the rules that are held back are there with the reason.
    """
    status, found = await call(http, backend, "GET", "/v1/feeds", Role.AUDITOR)
    assert status == 200
    old, new = found["items"]
    assert (old["name"], old["shadow"], old["rules"], old["quarantined"]) == (
        "old",
        False,
        1,
        1,
    )
    assert old["quarantined_rules"] == [{"rule": "subtree google.com", "reason": "protected name"}]
    assert (new["name"], new["shadow"], new["error"]) == ("new", True, None)
    assert new["serial"] == 2


async def test_a_list_that_was_never_refreshed(http, backend, lists):
    """
    Is shown as such, before there is any log.
    """
    added = dataclasses.replace(lists[0], name="later")
    object.__setattr__(backend.config, "feed", (added,))
    (found,) = (await call(http, backend, "GET", "/v1/feeds"))[1]["items"]
    assert (found["name"], found["checked_at"], found["quarantined_rules"]) == (
        "later",
        None,
        [],
    )


@pytest.mark.parametrize(
    ("where", "shown"),
    [
        ("/etc/urlguard/list.txt", "/etc/urlguard/list.txt"),
        ("https://lists.example/a.txt", "https://lists.example/a.txt"),
        ("https://me:secret@lists.example:8443/a?key=1#x", "https://lists.example:8443/a?…"),
    ],
)
def test_addresses_keep_their_secrets(where, shown):
    """
    Whoever may read the lists need not know the key that they are fetched with.
    """
    assert without_secrets(where) == shown
