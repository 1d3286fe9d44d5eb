"""Who may decide appeals, and what comes of it."""

import json
import time

import pytest

from tests.api.court import BLOCK, DAY, FEED
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
    claim = court.log.store.active("analyst:my-approver", "subtree shop.example")
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
    So it is with patterns, wider rules, and rules that were scheduled.
    """
    court.say("analyst:my-approver", "pattern *shoes-shop*")
    plea = await court.plead("shoes-shop.example")
    assert (await court.judge(Role.APPROVER, plea["id"]))[0] == 409
    court.say("operator", "scheduled 0000000000000005 subtree later.example", actor="my-approver")
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
    assert made["pending_approval"]
    await court.ask(Role.APPROVER, "POST", f"/v1/decisions/{made['decision_id']}/approve", {})
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
    assert (whole["state"], whole["holder"]) == ("leased", "my-analyst")
    assert "appeal 1 upheld" in whole["events"][-1]["text"]
