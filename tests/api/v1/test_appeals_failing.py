"""Appeals whose decision is cut short, contended or cannot be made."""

import asyncio
import json

from tests.api.appeals_backend import BLOCK, FEED
from urlguard.access.roles import Role
from urlguard.cases import incidents
from urlguard.cases.appeal_service import MAX_ROUNDS
from urlguard.cases.model import StoreError
from urlguard.cases.ports import BusyError
from urlguard.errors import PolicyError


async def test_the_end_between_commit_and_word(api, monkeypatch):
    """
    Released, but nobody wrote down that the appeal is upheld: the same request closes it, with the
    first one's serial and no second batch; nobody can reject it meanwhile.
    """
    api.say(FEED, "subtree shop.example")
    plea = await api.plead("shop.example")
    close, appeal_service = api.casework.appeal_service._close, api.casework.appeal_service

    async def lost(*_):
        raise StoreError("the power fails")

    monkeypatch.setattr(appeal_service, "_close", lost)
    assert (await api.judge(Role.APPROVER, plea["id"]))[0] == 503
    monkeypatch.setattr(appeal_service, "_close", close)
    assert await api.says("shop.example") == ["allow"]
    assert (await api.judge(Role.APPROVER, plea["id"], "reject"))[0] == 409
    serial = api.log.serial
    for role, expected in ((Role.APPROVER, 200), (Role.APPROVER, 200), ("third", 409)):
        status, done = await api.judge(role, plea["id"])
        assert status == expected
        if status == 200:
            assert (done["serial"], done["rules"]) == (serial, ["subtree shop.example"])
    assert api.log.serial == serial


async def test_the_end_between_commit_and_the_decisions_word(api, monkeypatch):
    """
    The log has it, the store does not say so: it is put in order, and then closed.
    """
    api.say(FEED, "subtree shop.example")
    plea = await api.plead("shop.example")
    store = api.casework._threads.opened()
    finish = store.finish

    def lost(*_):
        raise StoreError("the power fails")

    monkeypatch.setattr(store, "finish", lost)
    assert (await api.judge(Role.APPROVER, plea["id"]))[0] == 503
    monkeypatch.setattr(store, "finish", finish)
    status, problem = await api.judge(Role.APPROVER, plea["id"])
    assert (status, "on its way" in problem["detail"]) == (409, True)
    assert (await api.casework.decider.recover()).finished == 1
    status, done = await api.judge(Role.APPROVER, plea["id"])
    assert (status, done["serial"]) == (200, api.log.serial)


async def test_a_log_that_fails(api):
    """
    Nothing is changed, the appeal waits, and it goes once the log can be written.
    """
    (case,) = (await api.bring("http://shop.example/")).values()
    await api.ask(Role.ANALYST, "POST", f"/v1/cases/{case}/decide", BLOCK)
    plea = await api.plead("shop.example")
    api.error = PolicyError("policy log: disk full")
    assert (await api.judge(Role.APPROVER, plea["id"]))[0] == 503
    api.error = None
    _, whole = await api.ask(Role.ANALYST, "GET", f"/v1/cases/{case}")
    assert (whole["state"], whole["action"]) == ("decided", "block")
    assert (await api.judge(Role.APPROVER, plea["id"]))[0] == 200


async def test_judges_that_are_busy(api):
    """
    Without verdicts nothing is decided.
    """
    plea = await api.plead("shop.example")
    api.judging.error = BusyError(2.5)
    assert (await api.judge(Role.APPROVER, plea["id"]))[0] == 503
    api.judging.error = None
    assert (await api.judge(Role.APPROVER, plea["id"]))[0] == 200


async def test_somebody_goes_on_blocking(api, monkeypatch):
    """
    A rule that comes meanwhile is overruled too; with no end to it, it is told, and waits.
    """
    api.say(FEED, "subtree shop.example")
    plea = await api.plead("shop.example")
    decide, later = api.commit, ["domain shop.example"]

    async def commit(*args, **more):
        done = await decide(*args, **more)
        if later:
            api.say(f"analyst:bob{len(later)}", later.pop())
        return done

    monkeypatch.setattr(api, "commit", commit)
    status, done = await api.judge(Role.APPROVER, plea["id"])
    assert (status, len(done["decisions"])) == (200, 2)
    assert await api.says("shop.example") == ["allow"]
    plain = api.judging.check

    async def stubborn(items, **more):
        found = [json.loads(one) for one in await plain(items, **more)]
        return [json.dumps({**one, "action": "block"}).encode() for one in found]

    monkeypatch.setattr(api.judging, "check", stubborn)
    plea = await api.plead("other.example")
    before = api.log.serial
    status, problem = await api.judge(Role.APPROVER, plea["id"])
    assert (status, "still blocked" in problem["detail"]) == (409, True)
    assert api.log.serial <= before + MAX_ROUNDS


async def test_two_approvers_at_once(api):
    """
    One decides; the other is told so.
    """
    api.say(FEED, "subtree shop.example")
    plea = await api.plead("shop.example")
    api.wait_s = 0.05
    got = await asyncio.gather(
        api.judge(Role.APPROVER, plea["id"]),
        api.judge("third", plea["id"], "reject"),
        api.judge(Role.ADMIN, plea["id"]),
    )
    assert sorted(status for status, _ in got) == [200, 409, 409]


async def test_a_damaged_key(api):
    """
    Without the key no number is given or taken, and nothing else is concerned.
    """
    (api.folder / incidents.FILE).write_bytes(b"x")
    status, _ = await api.ask(Role.ANALYST, "POST", "/v1/incidents", {"item": "shop.example"})
    assert status == 503
