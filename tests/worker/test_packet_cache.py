"""The packet cache: who gets its answers, how long they stay, and that they stay few."""

import time

import pytest

from tests.worker.frontend import networks
from urlguard.config import Acl, Config, Segment
from urlguard.plugins import Answer, Exchange
from urlguard.plugins.clients import Clients
from urlguard.wire.query import parse_query
from urlguard.worker import packet_cache
from urlguard.worker.packet_cache import PacketCache

HOME, OTHER, SCHOOL = "192.0.2.1", "192.0.2.2", "198.51.100.7"
WHOLE = Config(
    acl=Acl(allow=networks("192.0.2.0/24", "198.51.100.0/24")),
    segment=(Segment(name="school", networks=networks("198.51.100.0/24")),),
    plugins=("acl", "forward"),
)


class Loop:
    """An event loop's timers, fired by hand."""

    def __init__(self):
        self.timers = []

    def call_later(self, delay, callback):
        timer = Timer(delay, callback)
        self.timers.append(timer)
        return timer

    def fire(self):
        """Call what is due next."""
        timer = self.timers.pop(0)
        if not timer.cancelled:
            timer.callback()


class Timer:
    def __init__(self, delay, callback):
        self.delay, self.callback, self.cancelled = delay, callback, False

    def cancel(self):
        self.cancelled = True


@pytest.fixture
def loop():
    """A loop without time."""
    return Loop()


@pytest.fixture
def packets(loop):
    """A packet cache whose clients, of two segments, have asked before."""
    clients = Clients(WHOLE)
    for host in (HOME, OTHER, SCHOOL):
        clients.find(host)
    return PacketCache(clients, loop)


def asked(name):
    """A query's octets."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return b"\0\1\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"


def put(packets, name, host=HOME, text=b"answer", names=(), *, fleeting=False):
    """Store an answer as the listener does."""
    x = Exchange(parse_query(asked(name)), packets._clients.find(host))
    found = Answer(b"id" + text, "guard")
    found.depends_on, found.fleeting = tuple(names), fleeting
    packets.store(x, found, found.wire)


def held(packets, names, host=HOME):
    """The names among these to whose queries there is an answer."""
    return {name for name in names if packets.lookup(asked(name), host) is not None}


def test_answers_stay_until_the_policy_changes(packets, loop):
    """
    In the table that they were put into, which is emptied and not replaced: clients hold it.
    """
    put(packets, "a.example")
    put(packets, "a.example", SCHOOL)
    table = packets._clients.find(SCHOOL).grant.answers
    assert (len(packets), loop.timers) == (2, [])
    packets.clear()
    assert len(packets) == 0
    assert packets.lookup(asked("a.example"), SCHOOL) is None
    put(packets, "b.example", SCHOOL)
    assert packets._clients.find(SCHOOL).grant.answers is table
    assert len(table) == 1


def test_answers_are_shared_within_a_segment_only(packets):
    """
    A client of the segment gets them once an answer was stored for it; nobody else ever does.
    """
    put(packets, "a.example", HOME, b"home")
    put(packets, "a.example", SCHOOL, b"school")
    put(packets, "b.example", OTHER, b"home")
    assert packets.lookup(asked("a.example"), HOME) == b"home"
    assert packets.lookup(asked("a.example"), OTHER) == b"home"
    assert packets.lookup(asked("a.example"), SCHOOL) == b"school"
    assert packets.lookup(asked("b.example"), SCHOOL) is None
    for host in ("203.0.113.5", "192.0.2.99"):  # not allowed; not known
        put(packets, "a.example", "203.0.113.5")
        assert packets.lookup(asked("a.example"), host) is None


def test_each_answer_is_charged_to_the_grant(packets):
    """
    A client whose grant is used up is for the chain; without limits a grant is given anew.
    """
    put(packets, "a.example")
    grant = packets._clients.find(HOME).grant
    grant.left = 2
    assert [packets.lookup(asked("a.example"), HOME) for _ in range(3)] == [b"answer"] * 2 + [None]
    assert packets.lookup(asked("b.example"), HOME) is None
    assert grant.left == 0
    put(packets, "a.example")
    assert grant.left > 0


def test_answers_are_counted_by_kind(packets):
    """
    Those of the packet cache under its own name, beside those of the chain.
    """
    put(packets, "a.example")
    for _ in range(3):
        packets.lookup(asked("a.example"), HOME)
    x = Exchange(parse_query(asked("a.example")), packets._clients.find(SCHOOL))
    packets.account(x, Answer(b"", "guard"))
    counted = {kind: counter.count for kind, counter in packets._kinds.items()}
    assert counted == {
        ("packet_cache", "none", "", "", ""): 3,
        ("guard", "none", "", "", "school"): 1,
    }


def test_a_batch_ends_with_a_query_of_the_sample(packets):
    """
    `sample` counts by batches and says when the next one is due.
    """
    packets.queries.left = 5
    assert [packets.sample(2), packets.sample(2), packets.sample(1)] == [False, False, True]


def test_fleeting_answers_stay_for_a_second_at_most(packets, loop):
    """
    One timer for all of them, and none while there are none; others stay.
    """
    names = ("lasting.example", "a.example", "b.example", "c.example")
    put(packets, names[0])
    for name in names[1:3]:
        put(packets, name, fleeting=True)
    assert [timer.delay for timer in loop.timers] == [1.0]
    loop.fire()
    assert held(packets, names) == {"lasting.example"}
    assert loop.timers == []
    put(packets, names[3], fleeting=True)
    assert len(loop.timers) == 1


def test_a_change_of_policy_forgets_the_fleeting_ones_too(packets, loop):
    """
    An answer put in after it is not taken for one of before.
    """
    put(packets, "a.example", fleeting=True)
    packets.clear()
    put(packets, "a.example", text=b"new")
    loop.fire()
    assert packets.lookup(asked("a.example"), HOME) == b"new"


def test_they_are_bounded_over_all_tables(packets, monkeypatch):
    """
    A full set is emptied rather than grown; putting the same again does not fill it.
    """
    monkeypatch.setattr(packet_cache, "MAX_ENTRIES", 10)
    for number in range(100):
        put(packets, f"n{number}.example", (HOME, SCHOOL)[number % 2], fleeting=number % 3 == 0)
        assert len(packets) <= 10
        assert len(packets._fleeting) <= 10
    packets.clear()
    put(packets, "x.example")
    for _ in range(50):
        put(packets, "same.example")
    assert held(packets, ("x.example", "same.example")) == {"x.example", "same.example"}


def test_the_same_fleeting_answer_again_does_not_grow_either(packets):
    """
    A client at its limit has its answer put in again and again within one second.
    """
    for _ in range(1000):
        put(packets, "same.example", fleeting=True)
    assert len(packets._fleeting) <= 10


def test_forgetting_all_takes_no_time(packets):
    """
    The event loop is not held up for a millisecond.
    """
    for number in range(packet_cache.MAX_ENTRIES):
        put(packets, f"n{number}.example")
    assert len(packets) == packet_cache.MAX_ENTRIES
    began = time.process_time()
    packets.clear()
    assert time.process_time() - began < 0.02


def test_closed_there_is_no_timer_left(packets, loop):
    """
    Nor any answer.
    """
    put(packets, "a.example", fleeting=True)
    packets.close()
    assert packets.lookup(asked("a.example"), HOME) is None
    assert all(timer.cancelled for timer in loop.timers)


def test_other_clients_begin_with_nothing(packets, loop):
    """
    After a reload; fleeting answers of after it have a timer of their own.
    """
    put(packets, "a.example", fleeting=True)
    packets.replace(Clients(WHOLE))
    packets._clients.find(HOME)
    assert packets.lookup(asked("a.example"), HOME) is None
    put(packets, "a.example", fleeting=True)
    assert [timer.cancelled for timer in loop.timers] == [True, False]
    loop.timers.pop(0)
    loop.fire()
    assert packets.lookup(asked("a.example"), HOME) is None


def test_a_change_takes_out_what_depends_on_the_name(packets):
    """
    The name, those below it, and answers that lead there; all others stay.
    """
    kept = {
        "evil.example": (),
        "www.evil.example": (),
        "fine.example": ("cdn.evil.example",),
        "notevil.example": (),
        "example": (),
        "evil.example.org": (),
    }
    for name, names in kept.items():
        for host in (HOME, SCHOOL):
            put(packets, name, host, names=names, fleeting=bool(names))
    packets.changed(["evil.example"])
    for host in (HOME, SCHOOL):
        assert held(packets, kept, host) == {"notevil.example", "example", "evil.example.org"}
    assert len(packets) == 6
    packets.changed([])
    assert len(packets) == 6
    packets.changed(None)
    assert len(packets) == 0
