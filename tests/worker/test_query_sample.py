"""The sample of live queries: who is in it, and what is counted in it."""

import asyncio
import dataclasses
import random
from collections import Counter
from types import SimpleNamespace

import pytest

from tests.worker.frontend import Servers, make, networks, proxied, raw, udp
from urlguard import config
from urlguard.blocklist import snapshot
from urlguard.blocklist.overlay import Overlay
from urlguard.engine import ActiveEngine, Engine
from urlguard.impact.sample import MAX_RULES, Count, Sampled, merged
from urlguard.rules import SHADOWED
from urlguard.verdict import Ruling
from urlguard.worker import query_sample
from urlguard.worker.query_sample import Sample, SampleQueries, answer


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self):
        return self.now


def ruling(key, action="block", source="feed:x"):
    kind, _, value = key.partition(" ")
    return Ruling(action, "fraud", (source,), 1, kind, value)


def engine(*rules, shadow=()):
    """An engine with rules in force and rules in shadow, given as key, action and source."""
    found = Engine(snapshot.nothing(), Overlay(0))
    changes = [(rule[0], ruling(*rule)) for rule in rules]
    changes += [(SHADOWED + key, ruling(key, "shadow", source)) for key, source in shadow]
    found.overlay.apply(changes, 1)
    return found


def holding(*queries):
    """A sample with queries, each a name and a client, and if need be a weight."""
    sample = Sample()
    for name, client, *weight in queries:
        sample.add(name, client, *weight or (1.0,))
    return sample


async def counted(sample, found, **message):
    reply = await answer({"op": "sample", "rules": None, **message}, sample, found)
    return merged([reply])


def read(sample, batches, names):
    """Read batches as the listener does; returns how often each name was taken."""
    taken = Counter()
    waiting = 0
    for size in batches:
        waiting += size
        while waiting:
            count = min(waiting, 64, sample.left)
            waiting -= count
            sample.left -= count
            asked = [next(names) for _ in range(count)]
            if sample.left <= 0:
                taken[asked[-1]] += sample.gap
                sample.draw()
    return taken


def test_every_query_has_the_same_chance(monkeypatch):
    """
    A name asked for in quiet moments and one that comes in the midst of bursts weigh what they are.
    """
    monkeypatch.setattr(query_sample.random, "random", random.Random(4).random)
    clock = Clock()
    sample = Sample(clock)
    rounds = 6000

    def names():
        while True:
            yield "alone.example"
            yield "opens.example"
            yield from ["follows.example"] * 30

    asked = names()

    def batches():
        for _ in range(rounds):
            clock.now += 0.01
            yield 1  # a query in a quiet moment
            clock.now += 0.01
            yield 31  # a page with all that it brings

    taken = read(sample, batches(), asked)
    total = sum(taken.values())
    assert total == pytest.approx(rounds * 32, rel=0.05)
    for name, share in (("alone", 1 / 32), ("opens", 1 / 32), ("follows", 30 / 32)):
        assert taken[f"{name}.example"] / total == pytest.approx(share, rel=0.15), name
    assert sample.gap > 16


def test_the_gap_follows_the_load():
    """
    A busy server takes about as many queries a second as a quiet one that has so many.
    """
    clock = Clock()
    sample = Sample(clock)
    for per_second, taken in ((20_000, 18), (100, 18), (2, 2)):
        counts = []
        for _ in range(2000):
            clock.now += 1
            counts.append(0)
            left = per_second
            while left:
                step = min(left, sample.left)
                left -= step
                sample.left -= step
                if not sample.left:
                    counts[-1] += 1
                    sample.draw()
        # In the first half it may get used to the load.
        assert sum(counts[1000:]) / 1000 == pytest.approx(taken, rel=0.3), per_second


def test_the_sample_is_bounded():
    """
    New queries push the oldest out.
    """
    sample = Sample()
    for i in range(query_sample.SIZE + 5):
        sample.add(f"n{i}.example", "192.0.2.1", 1.0)
    assert len(sample) == query_sample.SIZE
    assert sample.entries()[0].name == "n5.example"


def test_no_address_is_kept():
    """
    A client is a hash under the process's own key: the same here, another one elsewhere.
    """
    one, other = (holding(("a.example", "192.0.2.1"), ("b.example", "192.0.2.1")) for _ in "ab")
    a, b = one.entries()
    assert a.client == b.client != other.entries()[0].client
    assert b"192.0.2.1" not in a.client


QUERIES = [
    ("evil.example", "192.0.2.1"),
    ("www.evil.example", "192.0.2.1"),
    ("www.evil.example", "192.0.2.2"),
    ("a.b.other.example", "192.0.2.3"),
    ("good.example", "192.0.2.3"),
]


@pytest.mark.parametrize(
    ("rules", "queries", "clients"),
    [
        (["subtree evil.example"], 3, 2),
        (["domain evil.example"], 1, 1),
        (["below evil.example"], 2, 2),
        (["below evil.example", "domain a.b.other.example"], 3, 3),
        (["pattern *.other.*"], 1, 1),
        (["pattern keyword:evil"], 3, 2),
        (["url evil.example/"], 0, 0),
        (["subtree vil.example", "domain b.other.example"], 0, 0),
        (["subtree " + "x." * 200 + "example"], 0, 0),
        ([], 0, 0),
    ],
)
async def test_what_rules_would_newly_block(rules, queries, clients):
    """
    Rules of every kind are counted as the resolver would apply them.
    """
    found = await counted(holding(*QUERIES), engine(), rules=rules)
    assert found.total == Count(5, 5.0, 3)
    assert found.newly == Count(queries, float(queries), clients)
    assert sum(one.queries for one in found.rules.values()) == queries


@pytest.mark.parametrize(
    ("standing", "source", "queries"),
    [
        (("subtree evil.example", "block", "feed:x"), "operator", 0),
        (("subtree evil.example", "review", "feed:x"), "operator", 3),
        (("domain www.evil.example", "block", "feed:x"), "operator", 1),
        (("subtree evil.example", "allow", "operator"), "feed:x", 0),
        (("subtree evil.example", "allow", "operator"), "operator", 3),
        (("domain www.evil.example", "allow", "operator"), "analyst:eve", 1),
        (("domain www.evil.example", "allow", "feed:y"), "analyst:eve", 3),
        (("domain www.evil.example", "allow", "feed:y"), "feed:x", 1),
    ],
)
async def test_only_what_would_change_is_counted(standing, source, queries):
    """
    What is blocked already is not new, and what stronger rules let through stays so.
    """
    rules = ["subtree evil.example"]
    found = await counted(holding(*QUERIES), engine(standing), rules=rules, source=source)
    assert found.newly.queries == queries


async def test_what_a_shadow_would_block():
    """
    Without rules, those that the source has in shadow are counted, and no others'.
    """
    shadow = [
        ("subtree evil.example", "feed:x"),
        ("subtree good.example", "feed:y"),
        ("pattern *.other.*", "feed:x"),
    ]
    found = await counted(holding(*QUERIES), engine(shadow=shadow), source="feed:x")
    assert found.newly.queries == 4
    assert found.rules.keys() == {"subtree evil.example", "pattern *.other.*"}
    assert (await counted(holding(*QUERIES), engine(), source="feed:x")).newly == Count()


async def test_what_a_rule_would_let_through():
    """
    What is blocked now and would not be; what passes anyway does not count.
    """
    queries = [(f"www.n{n}.evil.example", f"192.0.2.{n}") for n in range(4)]
    queries += [("www.good.example", "192.0.2.9")]
    one = engine(
        ("subtree evil.example", "block", "feed:x"),
        ("domain www.n1.evil.example", "allow", "operator"),
    )
    found = await counted(
        holding(*queries), one, rules=["subtree example", "subtree n2.evil.example"], action="allow"
    )
    assert (found.total.queries, found.newly.queries) == (5, 3)
    assert found.rules["subtree n2.evil.example"].queries == 1


async def test_entries_count_what_they_stand_for():
    """
    Workers under different load are put together by weight.
    """
    busy, quiet = holding(("evil.example", "192.0.2.1", 100.0)), holding(*QUERIES[3:])
    message = {"rules": ["subtree evil.example"]}
    found = merged([await answer(message, one, engine()) for one in (busy, quiet)])
    assert found.total == Count(3, 102.0, 2)
    assert found.share == pytest.approx(100 / 102)
    assert merged([]) == Sampled()


async def test_counting_leaves_room_for_queries():
    """
    A full sample is looked through in pieces of less than a millisecond, however it is asked.
    """
    sample = Sample()
    for i in range(query_sample.SIZE):
        sample.add(f"www.a{i}.shop.example", f"192.0.2.{i % 250}", 1.0)
    rules = [f"subtree a{i}.shop.example" for i in range(MAX_RULES)]
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    found = await counted(sample, engine(), rules=[*rules, "subtree beyond.example"])
    beside.cancel()
    assert turns >= query_sample.SIZE / query_sample.PIECE
    assert found.newly.queries == len(found.rules) == MAX_RULES


async def test_only_counts_leave():
    """
    The reply to control holds no client and no name that was asked for.
    """
    written = []
    writer = SimpleNamespace(write=written.append, is_closing=lambda: False)
    asked = SampleQueries(holding(*QUERIES), ActiveEngine(engine()))
    await asked({"op": "sample", "id": 7, "rules": ["subtree evil.example"]}, writer)
    while not written:
        await asyncio.sleep(0)
    assert b'"id":7' in written[0]
    assert b"192.0.2" not in written[0]
    assert b"www" not in written[0]
    assert b"good" not in written[0]


async def test_the_listener_samples():
    """
    Those from the packet cache and forwarded ones are taken alike, behind a PROXY header too; those
    of clients that may not ask are not.
    """
    sections = {
        "acl": config.Acl(networks("127.0.0.0/8", "192.0.2.0/24")),
        "server": dataclasses.replace(config.Server(), proxy_from=networks("127.0.0.9")),
    }
    async with Servers() as start:
        server = await start(sections=sections)
        for name in ("evil.example", "evil.example", "EVIL.example", "far.example"):
            await udp(server, make(name))
        front = make("behind.example").to_wire()
        for host in ("192.0.2.7", "198.51.100.7"):
            await raw(server, proxied(host) + front, source="127.0.0.9")
        await raw(server, b"no query at all", b"\0" * 12)
        entries = server.frontend.packets.queries.entries()
        names = [entry.name for entry in entries]
        assert names == ["evil.example"] * 3 + ["far.example", "behind.example"]
        assert len({entry.client for entry in entries}) == 2
        assert server.udp.counters["packet_cache"] == 1
        assert server.udp.counters["queries"] == 8


async def test_the_listener_reads_on_whatever_is_in_the_sample():
    """
    Under a gap no query is lost, and each batch counts towards the next entry.
    """
    async with Servers() as start:
        server = await start()
        server.frontend.packets.queries.left = 40
        datagrams = [make("evil.example", id=i).to_wire() for i in range(100)]
        assert await raw(server, *datagrams)
        await asyncio.sleep(0.05)
        assert server.udp.counters["queries"] == 100
        assert len(server.frontend.packets.queries) > 16  # the 40th, and more after it
