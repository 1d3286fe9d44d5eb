"""Limits on guessing: whom they hold up, for how long, and whom not."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urlguard.access import attempts as module
from urlguard.access.attempts import (
    FORGIVE_S,
    FREE,
    LOOKED_AT,
    MAX_NETWORKS,
    MAX_WAIT_S,
    TOGETHER,
    Attempts,
)  # fmt: skip

ONE, OTHER = "192.0.2.1", "192.0.2.2"


class Clock:
    """A time that a test sets, in seconds."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def attempts(clock):
    return Attempts(clock)


def fail(attempts, address, times):
    for _ in range(times):
        attempts.failed(address)


def test_waits_grow_up_to_a_limit(attempts, clock):
    """
    Some failures cost nothing, then each doubles the wait; nobody waits longer than the limit.
    """
    waits = []
    for _ in range(FREE + 9):
        attempts.failed(ONE)
        waits.append(attempts.wait(ONE))
        clock.now += waits[-1]
        assert attempts.wait(ONE) == 0
    assert waits == [0] * FREE + [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert max(waits) == MAX_WAIT_S


def test_a_wait_runs_down(attempts, clock):
    """
    What is left of it is told, and asking does not lengthen it.
    """
    fail(attempts, ONE, FREE + 4)
    assert attempts.wait(ONE) == 8
    clock.now += 5
    assert [attempts.wait(ONE) for _ in range(100)] == [3] * 100
    clock.now += 3
    assert attempts.wait(ONE) == 0


def test_others_do_not_wait(attempts):
    """
    Limits are each network's own.
    """
    fail(attempts, ONE, FREE + 5)
    assert attempts.wait(ONE) > 0
    for other in (OTHER, "2001:db8::1", "", "unknown"):
        assert attempts.wait(other) == 0


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", True),
        ("2001:db8:0:1::1", "2001:0DB8::1:0:0:0:2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("", "@", True),
    ],
)
def test_what_one_host_may_have_counts_as_one(attempts, first, second, same):
    """
    An IPv4 address in either spelling; an IPv6 /64; all that is no address.
    """
    fail(attempts, first, FREE + 1)
    assert (attempts.wait(second) > 0) is same


def test_time_forgives(attempts, clock):
    """
    One failure for each stretch without another; who goes on as fast as he may is not forgiven.
    """
    fail(attempts, ONE, FREE + 3)
    clock.now += 2 * FORGIVE_S
    attempts.failed(ONE)
    assert attempts.wait(ONE) == 2  # two forgiven, one new
    clock.now += 100 * FORGIVE_S
    fail(attempts, ONE, FREE)
    assert attempts.wait(ONE) == 0
    for _ in range(20):
        attempts.failed(ONE)
        clock.now += attempts.wait(ONE)
    attempts.failed(ONE)
    assert attempts.wait(ONE) == MAX_WAIT_S


def test_success_forgives(attempts):
    """
    One failure each: who has a token and guesses at another's is no faster for it.
    """
    fail(attempts, ONE, FREE + 3)
    attempts.succeeded(ONE)
    assert attempts.wait(ONE) == 2
    for _ in range(100):
        attempts.succeeded(ONE)
        attempts.succeeded(OTHER)
    assert attempts.wait(ONE) == 0
    assert not attempts._failed
    fail(attempts, ONE, FREE + 1)  # no credit for later
    assert attempts.wait(ONE) == 1


def test_many_addresses_are_no_way_around(attempts, clock):
    """
    However many networks try, failures stay below the ceiling in the long run.
    """
    failures = 0
    for number in range(60_000):  # one a millisecond, each from a network of its own
        address = f"2001:db8:{number:x}::1"
        if attempts.wait(address) == 0:
            attempts.failed(address)
            failures += 1
        clock.now += 0.001
    burst, per_s = TOGETHER
    assert burst + 59 * per_s <= failures <= burst + 61 * per_s
    assert 0 < attempts.wait(ONE) <= 1 / per_s + 1e-9
    clock.now += 1
    assert attempts.wait(ONE) == 0


def test_memory_is_bounded(attempts, clock):
    """
    Also after more networks than are remembered.
    """
    for number in range(3 * MAX_NETWORKS):
        attempts.failed(f"2001:db8:{number:x}::1")
        clock.now += 0.01
    assert len(attempts._failed) == MAX_NETWORKS


def test_nobody_washes_his_record_away(attempts, clock):
    """
    Single failures from ten thousand networks do not make the server forget who failed often.
    """
    old = [f"198.51.100.{number}" for number in range(LOOKED_AT - 1)]
    for address in old:
        fail(attempts, address, FREE + 7)
    for number in range(10_000):
        attempts.failed(f"2001:db8:{number:x}::1")
        clock.now += 0.001
    assert len(attempts._failed) == MAX_NETWORKS
    assert all(attempts.wait(address) > 49 for address in old)


def test_old_records_make_room(attempts, clock):
    """
    What time has forgiven is forgotten first, however much it was: the table is never clogged.
    """
    old = [f"198.51.100.{number}" for number in range(LOOKED_AT - 1)]
    for address in old:
        fail(attempts, address, FREE + 7)
    clock.now += 100 * FORGIVE_S
    for number in range(MAX_NETWORKS):
        attempts.failed(f"2001:db8:{number:x}::1")
    assert not any(address in attempts._failed for address in old)


@given(st.text() | st.ip_addresses().map(str))
def test_any_text_may_be_an_address(text):
    """
    Whatever a listener says its client is.
    """
    attempts = Attempts(Clock())
    fail(attempts, text, FREE + 1)
    assert attempts.wait(text) == 1
    attempts.succeeded(text)
    assert attempts.wait(text) == 0


@given(st.data())
def test_limits_hold_whatever_happens(data):
    """
    A wait is never negative nor above the limit, and once it is over a try is free.
    """
    clock = Clock()
    attempts = Attempts(clock)
    addresses = [ONE, OTHER, "2001:db8::1", ""]
    for _ in range(data.draw(st.integers(0, 60))):
        address = data.draw(st.sampled_from(addresses))
        getattr(attempts, data.draw(st.sampled_from(["failed", "failed", "succeeded"])))(address)
        clock.now += data.draw(st.floats(0, 300))
        for one in addresses:
            assert 0 <= attempts.wait(one) <= MAX_WAIT_S
    clock.now += max(attempts.wait(one) for one in addresses) + 1e-6
    assert all(attempts.wait(one) == 0 for one in addresses)


def test_guessing_is_seen(attempts, clock, capfd):
    """
    A line when somebody has to wait, one a minute at most, with how many there were meanwhile.
    """
    fail(attempts, "2001:db8:0:1::5", FREE)
    assert capfd.readouterr().err == ""
    fail(attempts, "2001:db8:0:1::5", 3)
    said = capfd.readouterr().err
    assert said.count("access.guessing") == 1
    assert "2001:db8:0:1::/64" in said
    assert '"failures": 1' in said
    clock.now += module.LOG_EVERY_S
    fail(attempts, ONE, FREE + 1)
    said = capfd.readouterr().err
    assert "192.0.2.1" in said
    assert '"failures": 3' in said
    clock.now += module.LOG_EVERY_S
    fail(attempts, "no address", FREE + 1)
    assert '"network": "none"' in capfd.readouterr().err


def test_it_costs_microseconds(attempts, clock):
    """
    Also with a full table, under attack.
    """
    order = random.Random(1)
    networks = [f"2001:db8:{order.randrange(1 << 16):x}::1" for _ in range(3 * MAX_NETWORKS)]
    for address in networks:
        attempts.failed(address)
    costs = []
    for start in range(0, 5000, 500):
        began = time.thread_time()
        for address in networks[start : start + 500]:
            attempts.wait(address)
            attempts.failed(address)
        costs.append((time.thread_time() - began) / 500)
    assert min(costs) < 200e-6
