"""What `forward` is made of: chance and spelling, the timer, an upstream's measures."""

import asyncio
import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urlguard.config import Endpoint
from urlguard.config import Upstream as Where
from urlguard.plugins.forward import system_resolvers
from urlguard.plugins.forward.qname_case import Random, same_name
from urlguard.plugins.forward.timer_wheel import TICK_S, TimerWheel
from urlguard.plugins.forward.upstream import Attempt, Flight, Group, Upstream

TAIL = b"\0\x41\0\1"  # type 65, whose last octet is a letter


@given(st.lists(st.binary(min_size=1, max_size=63), max_size=3))
def test_a_random_spelling_is_the_same_name(labels):
    """
    Only letters change, only in case, and type and class stay.
    """
    question = b"".join(bytes([len(p)]) + p for p in labels) + b"\0" + TAIL
    spelled = Random().spell(question)
    assert spelled.lower() == question.lower()
    assert spelled[-4:] == TAIL
    assert same_name(spelled, question)
    for got, was in zip(spelled, question, strict=True):
        assert got == was or (got ^ was == 0x20 and chr(was).isascii() and chr(was).isalpha())


def test_each_letter_is_turned_about_half_of_the_time():
    """
    Every letter is worth one bit to a forger, whatever case the client used.
    """
    random = Random()
    question = b"\7aBcDeFg\5horst\0" + TAIL
    spelled = [random.spell(question) for _ in range(2000)]
    for at in (*range(1, 8), *range(9, 14)):
        upper = sum(one[at] < 0x60 for one in spelled)
        assert 850 < upper < 1150
    assert len(set(spelled)) > 1400  # of 4096 possible ones


def test_numbers_do_not_repeat():
    """
    Sixty-four bits from the operating system, however many are taken.
    """
    random = Random()
    assert len({random.number() for _ in range(5000)}) == 5000


class Clock(asyncio.SelectorEventLoop):
    """A loop's time and timers, moved by hand."""

    def __init__(self):
        super().__init__()
        self.now = 1000.0
        self.timers = []
        self.count = 0

    def time(self):
        return self.now

    def call_later(self, delay, callback, *args, context=None):
        return self.call_at(self.now + delay, callback, *args)

    def call_soon(self, callback, *args, context=None):
        return self.call_at(self.now, callback, *args)

    def call_at(self, when, callback, *args, context=None):
        handle = asyncio.TimerHandle(when, callback, args, self)
        self.count += 1
        heapq.heappush(self.timers, (when, self.count, handle))
        return handle

    def _timer_handle_cancelled(self, handle):
        pass

    def pass_until(self, now):
        """Let time pass, timer by timer."""
        while self.timers and self.timers[0][0] <= now:
            when, _, handle = heapq.heappop(self.timers)
            self.now = max(self.now, when)
            if not handle.cancelled():
                handle._run()
        self.now = now


@pytest.fixture
def clock():
    """A clock to be moved by hand."""
    made = Clock()
    yield made
    made.close()


def test_the_wheel_hands_over_in_time(clock):
    """
    Nothing comes early, nothing later than two ticks after its time, and nothing twice.
    """
    came = {}
    wheel = TimerWheel(clock, lambda thing, now: came.setdefault(thing, []).append(now))
    wanted = {n: 1000.0 + (n * 37 % 200) / 90 for n in range(500)}
    for n, when in wanted.items():
        wheel.add(n, when)
    for step in range(300):
        clock.pass_until(1000.0 + step * 0.01)
    assert came.keys() == wanted.keys()
    for n, when in wanted.items():
        assert len(came[n]) == 1
        assert when <= came[n][0] <= when + 3 * TICK_S
    assert clock.timers == [] or all(h.cancelled() for _, _, h in clock.timers)


def test_the_wheel_survives_a_leap_of_the_clock(clock):
    """
    After a day without a turn, all that is due comes; the timer rests while nothing waits.
    """
    came = []
    wheel = TimerWheel(clock, lambda thing, now: came.append(thing))
    wheel.add("a", 1000.5)
    wheel.add("b", 1001.5)
    clock.now = 90_000.0
    clock.pass_until(90_001.0)
    assert came == ["a", "b"]
    wheel.add("c", 90_001.2)
    clock.pass_until(90_002.0)
    assert came == ["a", "b", "c"]
    assert clock.timers == [] or all(h.cancelled() for _, _, h in clock.timers)


def test_the_wheel_hands_over_a_few_at_a_time(clock):
    """
    Ten thousand due at once do not block the loop; what is added meanwhile comes too.
    """
    came = []

    def due(thing, now):
        came.append(thing)
        if thing == 5:
            wheel.add("more", now)

    wheel = TimerWheel(clock, due)
    for n in range(10_000):
        wheel.add(n, 1000.1)
    clock.pass_until(1000.09)
    assert came == []
    for _ in range(3):
        when, _, handle = heapq.heappop(clock.timers)
        clock.now = max(clock.now, when)
        handle._run()
    assert len(came) <= 300
    clock.pass_until(1001.0)
    assert len(came) == 10_001
    wheel.close()
    wheel.add("late", 1001.0)
    clock.pass_until(1002.0)
    assert len(came) == 10_001


def upstreams(*srtts):
    """Upstreams with measured times in seconds, in one group."""
    made = []
    for number, srtt in enumerate(srtts):
        one = Upstream(number, Where(Endpoint("192.0.2.1", 53 + number)))
        if srtt is not None:
            one.replied(attempt(one, 0.0), srtt)
        made.append(one)
    return Group(made), made


def attempt(upstream, now, probe=False):
    """An attempt sent at a time."""
    made = Attempt(Flight(None, None, b"", "", None, now), upstream, now)
    made.probe = probe
    return made


def test_the_lowest_score_is_picked():
    """
    The fastest first, then the next; one that failed lately later; one that is down never, while
    any is up.
    """
    group, (a, b, c) = upstreams(0.03, 0.01, 0.02)
    assert group.pick(0) is b
    assert group.pick(b.bit) is c
    assert group.pick(a.bit | b.bit | c.bit) is None
    b.silent(attempt(b, 1.0))
    assert group.pick(0) is c
    for _ in range(3):
        c.unreachable("refused")
    assert (c.down, group.up) == (True, 2)
    assert group.pick(a.bit | b.bit) is None
    for one in (a, b):
        for _ in range(3):
            one.unreachable("refused")
    assert group.up == 0
    assert group.pick(0) is not None
    a.replied(attempt(a, 9.0), 9.1)
    assert (a.down, group.up, group.pick(0)) == (False, 1, a)


def test_silence_counts_only_if_nothing_was_heard_since():
    """
    A slow name is no failure of an upstream that answers others.
    """
    _, (one,) = upstreams(0.01)
    late = attempt(one, 5.0)
    one.replied(attempt(one, 5.1), 5.2)
    assert one.silent(late) is False
    assert one.failures == 0


def test_an_upstream_is_down_only_if_a_probe_failed_too():
    """
    Any number of names may time out; only the root's name servers prove silence.
    """
    _, (one,) = upstreams(0.01)
    for n in range(50):
        one.silent(attempt(one, 10.0 + n))
    assert not one.down
    one.silent(attempt(one, 61.0, probe=True))
    assert one.down


def test_the_time_until_a_reply_is_late_follows_what_was_measured():
    """
    Steady upstreams are given little more than they need, erratic ones more.
    """
    _, (steady, erratic) = upstreams(0.2, 0.2)
    for n in range(100):
        steady.replied(attempt(steady, float(n)), n + 0.2)
        erratic.replied(attempt(erratic, float(n)), n + (0.02 if n % 2 else 0.4))
    assert 0.2 < steady.rto() < 0.25
    assert erratic.rto() > 0.6


def test_the_systems_resolvers_without_ourselves(tmp_path, monkeypatch):
    """
    Lines that are no address are left out, and on a wildcard whatever the machine itself has.
    """
    ours = Endpoint("192.0.2.7", 53)
    monkeypatch.setattr("urlguard.config.values._is_ours", lambda host: host == ours.host)
    file = tmp_path / "resolv.conf"
    file.write_text(
        "# nameserver 192.0.2.1\nsearch example.org\nnameserver\nnameserver dns.example\n"
        "nameserver 127.0.0.53\nnameserver 192.0.2.7\nnameserver 192.0.2.8\n"
        "nameserver 2001:db8::8\nnameserver 192.0.2.8\n"
    )

    def found(*listen):
        return [str(one) for one in system_resolvers(listen, file)]

    others = ["192.0.2.8:53", "[2001:db8::8]:53"]
    assert found(Endpoint("0.0.0.0", 53)) == others
    assert found(ours) == ["127.0.0.53:53", *others]
    assert found(Endpoint("0.0.0.0", 5300)) == ["127.0.0.53:53", "192.0.2.7:53", *others]
    assert system_resolvers((), tmp_path / "missing") == []
