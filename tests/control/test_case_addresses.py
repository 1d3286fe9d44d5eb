"""Names of cases looked up by a real fetching process, at an upstream on loopback."""

import asyncio
import contextlib
import time
from pathlib import Path

import dns.rcode
import pytest

from tests.cases.conftest import candidate
from tests.fetch.world import Names, on_loopback
from tests.running import wait_until
from urlguard import config, events
from urlguard.cases.drivers.sqlite import open_store
from urlguard.cases.model import Choice, Judged, StoreError
from urlguard.control import case_addresses
from urlguard.control.case_addresses import CaseAddresses
from urlguard.control.fetch_pool import FetchPool
from urlguard.fetch.bounds import Bounds, FetchError

ROOT = Path(__file__).parents[2]
ZONE = {
    ("a.example", "A"): ["127.1.0.9", "127.1.0.7", "10.0.0.1"],
    ("b.example", "A"): ["127.1.0.7"],
    ("www.c.example", "CNAME"): "b.example",
    ("inside.example", "A"): ["127.0.0.1"],
    ("host.corp.example", "A"): ["127.1.0.7"],
    ("x.onion", "A"): ["127.1.0.7"],
}
SHARED = "address:127.1.0.7"


@pytest.fixture(autouse=True)
def path_to_the_rules(monkeypatch):
    """For the child, which imports what tests take for public."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def said(monkeypatch):
    """Warnings."""
    found = []
    monkeypatch.setattr(events, "warning", lambda event, **keys: found.append((event, keys)))
    return found


class Casework:
    """As much of the real one as the loop uses, with a real store."""

    ready = True

    def __init__(self, folder):
        self.real = open_store(folder / "cases.db")

    async def store(self, work, *, bulk=False):
        assert bulk
        return await asyncio.to_thread(work, self.real)

    def bring(self, *items):
        """Open cases, the first with the highest priority."""
        now = int(time.time())
        count = len(items)
        rows = [
            candidate(name)._replace(queries=4 ** (count - n), seen_at=now)
            for n, name in enumerate(items)
        ]
        self.real.add("crawler", rows, now)
        while works := self.real.take(1000, 60, now):
            results = [Judged(w.id, False, 0.5, "none", "none", "", None) for w in works]
            self.real.judged(results, now)

    def shown(self):
        """The campaigns of all cases, by name."""
        return {case.name: case.campaign for case in self.real.cases(limit=1000).items}

    def waiting(self, later_s=0):
        """Names that are to be looked up."""
        return [name for _, name in self.real.unaddressed(1000, int(time.time()) + later_s)]


@pytest.fixture
def casework(tmp_path):
    made = Casework(tmp_path)
    yield made
    made.real.close()


@contextlib.asynccontextmanager
async def looking_up(names, casework, more=None):
    """The loop, not running by itself, with its fetcher at work."""
    forward = {"upstreams": [f"127.0.0.1:{names.port}"], "zones": {"corp.example": ["127.0.0.1:9"]}}
    made = config.parse({"forward": forward, **(more or {})}, ROOT / "x.toml")
    rules = Bounds(on_loopback)
    fetcher = FetchPool(made, bounds=rules)
    task = asyncio.create_task(fetcher.run())
    try:
        yield CaseAddresses(made, fetcher, casework, bounds=rules)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_cases_of_one_address_are_a_campaign(casework):
    """
    Names that lead to one public address are shown together, an item that is this address too;
    what is nobody's business is not asked for; each name is asked for once.
    """
    casework.bring("a.example", "b.example", "www.c.example", "inside.example", "none.example")
    casework.bring("host.corp.example", "x.onion")
    casework.real.add("crawler", [candidate("127.1.0.7")._replace(owner="127.1.0.7")], 1)
    casework.bring()
    async with Names(ZONE) as names, looking_up(names, casework) as loop:
        assert await loop.once() == 8
        assert casework.shown() == {
            "a.example": SHARED,
            "b.example": SHARED,
            "www.c.example": SHARED,
            "127.1.0.7": SHARED,
            "inside.example": None,
            "none.example": None,
            "host.corp.example": None,
            "x.onion": None,
        }
        asked = [name for name, kind, _ in names.asked if kind == "A"]
        assert sorted(asked) == sorted(
            ["a.example", "b.example", "inside.example", "none.example", "www.c.example"]
        )
        assert await loop.once() == 0
        assert casework.waiting(86_400 - 60) == []
        assert len(casework.waiting(86_400 + 60)) == 8


async def test_a_campaign_by_address_is_decided_as_one(casework):
    """
    Its list is what a decision about a campaign takes.
    """
    casework.bring("a.example", "b.example", "z.example")
    async with Names(ZONE) as names, looking_up(names, casework) as loop:
        await loop.once()
    ids = [case.id for case in casework.real.cases(campaign=SHARED, state="open").items]
    made = casework.real.begin(ids, "ann", Choice("block"), int(time.time()))
    assert len(made.cases) == 2
    assert casework.waiting() == []


async def test_the_most_urgent_first_and_no_more_than_a_batch(casework):
    """
    One turn asks for `BATCH` names; the rest waits for the next.
    """
    async with Names({}) as names, looking_up(names, casework) as loop:
        casework.bring(*(f"m{n}.example" for n in range(case_addresses.BATCH)))
        casework.bring(*(f"u{n}.example" for n in range(30)))
        top = {case.name for case in casework.real.cases(limit=case_addresses.BATCH).items}
        assert await loop.once() == case_addresses.BATCH
        assert {name for name, _, _ in names.asked} == top
        assert await loop.once() == 30
        assert await loop.once() == 0
    assert case_addresses.BATCH * 60 / case_addresses.PAUSE_S == case_addresses.PER_MINUTE


async def test_an_upstream_that_fails_takes_nothing_away(casework):
    """
    What is known stays, the names wait for an hour, and then come again.
    """
    casework.bring("a.example", "b.example")
    async with Names(ZONE) as names, looking_up(names, casework) as loop:
        await loop.once()
        ids = [case.id for case in casework.real.cases().items]
        casework.real.addressed(dict.fromkeys(ids), 0)  # it is time again
        names.rcode = dns.rcode.SERVFAIL
        assert await loop.once() == 2
        assert set(casework.shown().values()) == {SHARED}
        assert casework.waiting(3600 - 60) == []
        assert len(casework.waiting(3600 + 60)) == 2


async def test_it_goes_on(casework, said, monkeypatch):
    """
    Trouble is told once and tried again; while the store is not ready nothing is asked.
    """
    monkeypatch.setattr(case_addresses, "PAUSE_S", 0.01)
    monkeypatch.setattr(case_addresses, "AGAIN_S", 0.01)
    casework.bring("a.example", "b.example")
    async with Names(ZONE) as names, looking_up(names, casework) as loop:
        casework.ready = False
        real, problems = loop._fetcher.addresses, [FetchError("no process"), StoreError("full")]

        async def failing(those):
            if problems:
                raise problems.pop()
            return await real(those)

        monkeypatch.setattr(loop._fetcher, "addresses", failing)
        task = asyncio.create_task(loop.run())
        await asyncio.sleep(0.1)
        assert len(problems) == 2
        casework.ready = True
        async with asyncio.timeout(20):
            while set(casework.shown().values()) != {SHARED}:
                await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert said == [("cases.addresses", {"error": "full", "again_s": 0.01})]


async def test_it_can_be_switched_off(casework):
    """
    Then nobody is asked anything.
    """
    more = {"cases": {"look_up_addresses": False}}
    async with Names(ZONE) as names, looking_up(names, casework, more) as loop:
        await loop.run()
    assert names.asked == []


def test_a_running_server_looks_up(server, tmp_path, upstream):
    """
    The upstream is asked for an open case's name without anybody's doing.
    """
    (tmp_path / "var").mkdir()
    case = Casework(tmp_path / "var")
    case.bring("a.example")
    running = server().start()
    wait_until(lambda: "a.example" in upstream.asked, 40)
    wait_until(lambda: case.waiting() == [], 20)
    assert len(case.waiting(86_400 + 60)) == 1
    case.real.close()
    assert running.stop() == 0


async def test_a_server_takes_public_addresses_alone(casework):
    """
    By the rules that control gives it, neither loopback nor documents' addresses connect cases.
    """
    zone = {(f"{n}.example", "A"): ["192.0.2.7", "127.1.0.7"] for n in "ab"}
    casework.bring("a.example", "b.example")
    async with Names(zone) as names:
        made = config.parse({"forward": {"upstreams": [f"127.0.0.1:{names.port}"]}}, ROOT / "x")
        fetcher = FetchPool(made)
        task = asyncio.create_task(fetcher.run())
        assert await CaseAddresses(made, fetcher, casework).once() == 2
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert set(casework.shown().values()) == {None}
    assert casework.waiting() == []
