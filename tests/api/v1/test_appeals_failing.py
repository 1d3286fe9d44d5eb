"""Appeals whose decision is cut short, contended or cannot be made."""

import asyncio
import json

from tests.api.court import BLOCK, FEED
from tests.api.world import BusyError
from urlguard.access.roles import Role
from urlguard.cases import incidents
from urlguard.cases.model import StoreError
from urlguard.cases.redress import MAX_ROUNDS
from urlguard.errors import PolicyError


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
    assert (whole["state"], whole["action"]) == ("decided", "block")
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
