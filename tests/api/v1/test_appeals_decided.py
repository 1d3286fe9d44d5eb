"""Who may decide appeals, and what comes of it."""

import json
import time

import pytest

from tests.api.appeals_backend import BLOCK, DAY, FEED
from urlguard.access.roles import Role

ANN, WWW = "analyst:ann", "www.shop.example"


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
async def test_whatever_blocks_it(api, item, said, rules):
    """
    Lists', patterns', people's, wide and narrow rules: the item, its host and its owner are let
    through, in one batch, and others are not.
    """
    for source, key in said:
        api.say(source, key)
    assert await api.says(item) == ["block"]
    plea = await api.plead(item)
    serial = api.log.serial
    status, done = await api.judge(Role.APPROVER, plea["id"])
    assert (status, done["rules"], done["serial"]) == (200, rules, serial + 1)
    assert await api.says(item) == ["allow"]


async def test_an_exact_name_below_an_allowance(api):
    """
    A block at the very name stands out of an allowance of all: it is overruled where it is.
    """
    api.say("operator", "subtree shop.example", action="allow", actor="root")
    api.say(ANN, "domain www.shop.example")
    plea = await api.plead("www.shop.example")
    _, done = await api.judge(Role.APPROVER, plea["id"])
    assert done["rules"] == ["domain www.shop.example"]
    assert await api.says("www.shop.example", "shop.example") == ["allow", "allow"]


async def test_an_admin_overrules_the_operators_own_claim(api):
    """
    Admins share a source: the block of one gives way to the allowance of another, in the log too.
    """
    api.say("operator", "subtree shop.example", actor="another")
    plea = await api.plead("shop.example")
    status, _ = await api.judge(Role.ADMIN, plea["id"])
    assert (status, await api.says("shop.example")) == (200, ["allow"])
    assert [c.action for c in api.log.store.history("subtree shop.example")] == [
        "block",
        "allow",
    ]


async def test_what_a_model_blocks(api):
    """
    Nobody is behind a model's word; a rule overrules it.
    """
    plain = api.judging.check

    async def check(items, **more):
        found = [json.loads(one) for one in await plain(items, **more)]
        for one in found:
            if one["action"] == "none" and one["name"] == "phishy.example":
                one.update(action="block", reason="classifier", score=0.99)
        return [json.dumps(one).encode() for one in found]

    api.judging.check = check
    plea = await api.plead("phishy.example")
    status, done = await api.judge(Role.APPROVER, plea["id"])
    assert (status, done["rules"]) == (200, ["subtree phishy.example"])
    assert await api.says("phishy.example") == ["allow"]


async def test_nothing_blocks_it_any_more(api):
    """
    Upheld all the same, without a batch.
    """
    plea = await api.plead("shop.example")
    serial = api.log.serial
    status, done = await api.judge(Role.APPROVER, plea["id"], answer="It is not blocked.")
    assert (status, done["state"], done["serial"], done["rules"]) == (200, "upheld", None, [])
    assert api.log.serial == serial


async def test_blocked_for_what_it_leads_to(api):
    """
    No verdict on a name knows where its answers lead: an approver may allow it all the same, once.
    """
    plea = await api.plead("www.shop.example")
    status, done = await api.judge(Role.APPROVER, plea["id"], anyway=True)
    assert (status, done["rules"]) == (200, ["subtree shop.example"])
    assert await api.says("www.shop.example") == ["allow"]
    api.say(ANN, "domain www.other.example")
    plea = await api.plead("www.other.example")
    _, done = await api.judge(Role.APPROVER, plea["id"], anyway=True)
    assert done["rules"] == ["domain www.other.example", "subtree other.example"]


async def test_what_has_an_end_of_its_own(api):
    """
    The allowance ends when its maker says so.
    """
    api.say(FEED, "subtree shop.example")
    plea = await api.plead("shop.example")
    until = int(time.time()) + 30 * DAY
    assert (await api.judge(Role.APPROVER, plea["id"], expires_at=5))[0] == 422
    await api.judge(Role.APPROVER, plea["id"], expires_at=until)
    claim = api.log.store.active("analyst:my-approver", "subtree shop.example")
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
async def test_nobody_decides_about_his_own_block(api, what, source, actor):
    """
    Neither the maker of a block nor who agreed to it upholds or rejects; another person does.
    """
    api.say(source, "subtree shop.example", actor=actor)
    plea = await api.plead("shop.example")
    status, problem = await api.judge(Role.APPROVER, plea["id"], what)
    assert (status, "blocked it" in problem["detail"]) == (409, True)
    assert await api.says("shop.example") == ["block"]
    assert (await api.judge("third", plea["id"], what))[0] == 200
    assert await api.says("shop.example") == ["allow" if what == "uphold" else "block"]


async def test_a_pattern_has_a_maker_too(api):
    """
    So it is with patterns, wider rules, and rules that were scheduled.
    """
    api.say("analyst:my-approver", "pattern *shoes-shop*")
    plea = await api.plead("shoes-shop.example")
    assert (await api.judge(Role.APPROVER, plea["id"]))[0] == 409
    api.say("operator", "scheduled 0000000000000005 subtree later.example", actor="my-approver")
    api.log.expire()
    assert await api.says("later.example") == ["block"]
    plea = await api.plead("later.example")
    assert (await api.judge(Role.APPROVER, plea["id"]))[0] == 409
    assert (await api.judge("third", plea["id"]))[0] == 200


async def test_held_and_agreed_to(api):
    """
    Both who decided and who agreed are behind a block of a well-known name.
    """
    (case,) = (await api.bring("http://www.icbc.com.cn/")).values()
    _, made = await api.ask(Role.ADMIN, "POST", f"/v1/cases/{case}/decide", BLOCK)
    assert made["pending_approval"]
    await api.ask(Role.APPROVER, "POST", f"/v1/decisions/{made['decision_id']}/approve", {})
    plea = await api.plead("www.icbc.com.cn")
    for role in (Role.ADMIN, Role.APPROVER):
        assert (await api.judge(role, plea["id"]))[0] == 409
    assert (await api.judge("third", plea["id"]))[0] == 200
    assert await api.says("www.icbc.com.cn") == ["allow"]


async def test_rejected_stays_blocked(api):
    """
    It is told so, the case is told, and another appeal shows this one.
    """
    api.say(FEED, "subtree evil.example")
    plea = await api.plead("evil.example")
    serial = api.log.serial
    status, done = await api.judge(
        Role.APPROVER, plea["id"], "reject", reason="it is", answer="It copies a bank."
    )
    assert (status, done["state"], done["serial"]) == (200, "rejected", None)
    assert (api.log.serial, await api.says("evil.example")) == (serial, ["block"])
    _, seen = await api.ask(None, "GET", f"/v1/appeals/{plea['id']}")
    assert (seen["state"], seen["answer"]) == ("rejected", "It copies a bank.")
    assert (await api.judge("third", plea["id"]))[0] == 409
    again = await api.plead("evil.example")
    _, file = await api.ask(Role.APPROVER, "GET", f"/v1/appeals/{again['id']}/file")
    assert [one["id"] for one in file["earlier"]] == [plea["id"]]
    _, looked = await api.ask(None, "POST", f"/v1/appeals/{plea['id']}/check")
    assert (looked["state"], api.places.asked) == ("rejected", [])


async def test_undone_it_waits_again(api):
    """
    Undoing what released it blocks it again, and its appeal waits; the case is open.
    """
    (case,) = (await api.bring("http://shop.example/")).values()
    await api.ask(Role.ANALYST, "POST", f"/v1/cases/{case}/decide", BLOCK)
    plea = await api.plead("shop.example")
    _, done = await api.judge(Role.APPROVER, plea["id"])
    undo = f"/v1/decisions/{done['decisions'][0]}/undo"
    assert (await api.ask(Role.ADMIN, "POST", undo, {"reason": "we were fooled"}))[0] == 200
    assert await api.says("shop.example") == ["block"]
    _, seen = await api.ask(None, "GET", f"/v1/appeals/{plea['id']}")
    assert (seen["state"], seen["answer"], seen["decided_at"]) == ("received", "", None)
    _, whole = await api.ask(Role.ANALYST, "GET", f"/v1/cases/{case}")
    assert whole["state"] == "open"
    status, done = await api.judge(Role.APPROVER, plea["id"], "reject")
    assert (status, done["state"]) == (200, "rejected")


async def test_cases_in_other_hands(api):
    """
    A case that somebody has is left to him, with a note; the release does not wait for it.
    """
    cases = await api.bring("http://shop.example/")
    api.say(FEED, "subtree shop.example")
    await api.ask(Role.ANALYST, "POST", "/v1/cases/lease", {"count": 5})
    plea = await api.plead("shop.example")
    assert (await api.judge(Role.APPROVER, plea["id"]))[0] == 200
    _, whole = await api.ask(Role.ANALYST, "GET", f"/v1/cases/{cases['shop.example']}")
    assert (whole["state"], whole["holder"]) == ("leased", "my-analyst")
    assert "appeal 1 upheld" in whole["events"][-1]["text"]
