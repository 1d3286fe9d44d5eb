"""Triage with the real store, the real check and no server."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress

import pytest

from tests.cases.conftest import NOW, candidate
from urlguard.blocklist import snapshot
from urlguard.cases import triage
from urlguard.cases.drivers.sqlite import SqliteStore
from urlguard.cases.model import MAX_FAILURES, StoreError, Work
from urlguard.cases.ports import BusyError
from urlguard.check import inspect_all
from urlguard.engine import Engine
from urlguard.errors import UrlGuardError
from urlguard.verdict import Ruling


def an_engine():
    """One that blocks bad.example, by a feed, and allows good.example."""
    engine = Engine(snapshot.nothing())
    rulings = [
        Ruling("block", "phishing", ("feed:x",), 1, "subtree", "bad.example"),
        Ruling("allow", "", ("operator",), 1, "subtree", "good.example"),
    ]
    engine.overlay.apply(((f"{r.kind} {r.value}", r) for r in rulings), 1)
    return engine


class Checking:
    """What judges do, in this process; `poison` makes whole batches fail."""

    def __init__(self):
        self.engine = an_engine()
        self.poison = ""
        self.down = False
        self.busy = 0
        self.asked = []
        self.scores = {}

    async def check(self, items: Sequence[str], *, score: bool = False) -> Sequence[bytes]:
        assert score
        if self.busy:
            self.busy -= 1
            raise BusyError(1.0)
        if self.poison in items or self.down:
            raise UrlGuardError("a judge died of it")
        self.asked += items
        objects = inspect_all(self.engine, list(items))
        for found in objects:
            found["score"] = self.scores.get(found["input"])
            found["model"] = found["score"] and "name-1"
        return [json.dumps(found).encode() for found in objects]


@pytest.fixture
def check():
    """The real check without a model."""
    return Checking()


@pytest.fixture
def work(harness, check):
    """A triage on the store whose clock a test may set."""

    class Made(triage.Triage):
        now = NOW

    made = Made(harness.store, check, clock=lambda: made.now)
    yield made
    made._thread.shutdown()


async def test_verdicts_become_cases(harness, check, work):
    """
    Rules make known cases, the worse of two scores counts, and the host's name is asked about too.
    """
    rows = [
        candidate("www.bad.example", "/login"),
        candidate("good.example"),
        candidate("new.example", "/x"),
        candidate("plain.example"),
    ]
    check.scores = {"http://new.example/x": 0.3, "new.example": 0.7}
    harness.store.add("x", rows, NOW)
    assert await work.round() == 4
    assert await work.round() == 0
    found = {case.owner: case for case in harness.store.cases().items}
    states = {owner: case.state for owner, case in found.items()}
    assert states == {
        "bad.example": "known",
        "good.example": "known",
        "new.example": "open",
        "plain.example": "open",
    }
    assert (found["new.example"].score, found["new.example"].item) == (0.7, "http://new.example/x")
    assert found["plain.example"].score is None
    item = harness.store.item("http://www.bad.example/login")
    assert (item.action, item.reason, item.model) == ("block", "blocklist", "")
    assert harness.store.item("http://new.example/x").model == "name-1"
    assert sorted(check.asked) == sorted(
        {row.item for row in rows} | {"www.bad.example", "new.example"}
    )


async def test_one_bad_item_takes_no_others_with_it(harness, check, work, capsys):
    """
    The batch is halved until it is found; the others are judged at once, it is dead in the end.
    """
    names = [f"n{n}.example" for n in range(300)]
    check.poison = "n77.example"
    harness.store.add("x", [candidate(name) for name in names], NOW)
    for turn in range(MAX_FAILURES):
        await work.round()
        assert harness.store.backlog() == (turn < MAX_FAILURES - 1)
        work.now += 86_400
    (dead,) = harness.store.dead()
    assert (dead.item, dead.error) == ("n77.example", "a judge died of it")
    assert len(harness.store.cases(limit=1000).items) == 299
    assert "cases.dead" in capsys.readouterr().err


async def test_what_is_no_item_after_all_is_dead(harness, check, work):
    """
    An object with an error is a failure of that item.
    """
    harness.store.add("x", [candidate("a.example")._replace(item="no item at all")], NOW)
    for _ in range(MAX_FAILURES):
        await work.round()
        work.now += 86_400
    assert [i.item for i in harness.store.dead()] == ["no item at all"]


async def test_busy_judges_are_nobodys_failure(harness, check, work, monkeypatch):
    """
    What was taken is asked again in a moment.
    """
    monkeypatch.setattr(triage, "BUSY_S", 0.01)
    check.busy = 3
    harness.store.add("x", [candidate("a.example"), candidate("b.example")], NOW)
    await until(work, lambda: harness.store.backlog() == 0)
    assert harness.store.dead() == []
    assert len(harness.store.cases().items) == 2


async def test_no_item_is_blamed_for_an_outage(harness, check, work, monkeypatch, capsys):
    """
    However long nothing can be judged, nothing is dead; once it can, all are.
    """
    harness.store.add("x", [candidate(f"n{n}.example") for n in range(50)], NOW)
    check.down = True
    for _ in range(MAX_FAILURES + 2):
        with pytest.raises(triage.OutageError, match="a judge died of it"):
            await work.round()
        work.now += 86_400
    assert (harness.store.dead(), harness.store.backlog()) == ([], 50)
    check.down = False
    assert await work.round() == 50
    assert harness.store.backlog() == 0


async def test_the_store_fails_and_comes_back(harness, check, work, monkeypatch, capsys):
    """
    The loop goes on, and says so once.
    """
    monkeypatch.setattr(triage, "AGAIN_S", 0.01)
    real, calls = harness.store.take, []

    def take(*arguments):
        calls.append(arguments)
        if len(calls) < 4:
            raise StoreError("the disk is full")
        return real(*arguments)

    monkeypatch.setattr(harness.store, "take", take)
    harness.store.add("x", [candidate("a.example")], NOW)
    await until(work, lambda: harness.store.backlog() == 0)
    said = capsys.readouterr().err
    assert said.count("cases.failed") == 1
    assert said.count("cases.resumed") == 1


async def test_woken(harness, check, work, monkeypatch):
    """
    What is announced is judged at once, not at the next look.
    """
    monkeypatch.setattr(triage, "IDLE_S", 60.0)
    running = asyncio.create_task(work.run())
    await asyncio.sleep(0.1)
    harness.store.add("x", [candidate("a.example")], NOW)
    work.wake()
    for _ in range(200):
        await asyncio.sleep(0.01)
        if harness.store.backlog() == 0:
            break
    assert harness.only().state == "open"
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_it_ends_though_work_comes_at_that_moment(harness, check, work, monkeypatch):
    """
    Whichever turn of the loop the work comes in, an end that is asked for is an end.
    """
    monkeypatch.setattr(triage, "IDLE_S", 60.0)
    for turns in range(5):
        running = asyncio.create_task(work._loop())
        await asyncio.sleep(0.05)
        work.wake()
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        done, _ = await asyncio.wait([running], timeout=2)
        assert done, turns


async def test_leases_lapse_by_themselves(harness, check, work):
    """
    Nobody need claim for a lapsed lease to be seen.
    """
    harness.bring("a.example")
    harness.store.lease("ann", 1, 60, NOW)
    work.now = NOW + 61
    await work.round()
    assert harness.only().state == "open"


async def until(work, done):
    """Run the loop until something is so."""
    running = asyncio.create_task(work.run())
    for _ in range(500):
        await asyncio.sleep(0.01)
        if done() or running.done():
            break
    await asyncio.sleep(0.05)
    assert done()
    assert not running.done()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def test_questions():
    """
    A URL with its host's name, but for addresses.
    """
    works = [
        Work(1, "a.example", "a.example", "a.example"),
        Work(2, "http://b.example/", "b.example", "b.example"),
        Work(3, "http://192.0.2.1/", "192.0.2.1", "192.0.2.1"),
        Work(4, "http://[2001:db8::1]/", "2001:db8::1", "2001:db8::1"),
    ]
    asked, places = triage.questions(works)
    assert places == [0, 1, 3, 4]
    assert asked == [
        "a.example",
        "http://b.example/",
        "b.example",
        "http://192.0.2.1/",
        "http://[2001:db8::1]/",
    ]


def test_the_driver_is_a_store(tmp_path):
    """
    Types say so at each call, this does at run time.
    """
    store = SqliteStore(tmp_path / "cases.db")
    assert triage.Triage(store, Checking())
    store.close()
