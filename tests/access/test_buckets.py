"""Token buckets: how often one network may ask, and how often all together."""

import pytest

from urlguard.access.attempts import network
from urlguard.access.buckets import MAX_KEYS, Bucket, Buckets, Rate


class Clock:
    """A time that a test sets, in seconds."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_burst_and_then_a_rate(clock):
    """
    So many at once, then one each time that the bucket has another; waiting longer gains no more.
    """
    buckets = Buckets(clock, Rate(3, 0.1), Rate(100, 10))
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 0]
    assert buckets.take("a") == pytest.approx(10)
    assert buckets.take("b") == 0
    clock.now += 10.01
    assert buckets.take("a") == 0
    assert buckets.take("a") > 9
    clock.now += 10_000
    assert sum(buckets.take("a") == 0 for _ in range(10)) == 3


def test_many_networks_share_one_bucket(clock):
    """
    However many they are, all together get what all together may; the refused pay nothing.
    """
    buckets = Buckets(clock, Rate(2, 0.1), Rate(50, 5))
    assert sum(buckets.take(n) == 0 for n in range(1000)) == 50
    clock.now += 1.001
    assert sum(buckets.take(n) == 0 for n in range(900, 1000)) == 5
    clock.now += 20
    assert [buckets.take(999), buckets.take(999)] == [0, 0]


def test_what_was_for_nothing(clock):
    """
    It is there again, and no more than that.
    """
    bucket = Bucket(clock, Rate(2, 0.1))
    bucket.give_back()
    assert [bucket.take(), bucket.take()] == [0, 0]
    assert bucket.take() == pytest.approx(10)
    bucket.give_back()
    assert bucket.take() == 0
    assert bucket.take() > 9


def test_memory_is_bounded(clock):
    """
    Of too many networks the one that asked longest ago is forgotten.
    """
    buckets = Buckets(clock, Rate(1, 0.001), Rate(1e9, 1e9))
    for n in range(3 * MAX_KEYS):
        assert buckets.take(n) == 0
    assert len(buckets._levels) == MAX_KEYS
    assert buckets.take(3 * MAX_KEYS - 1) > 0
    assert buckets.take(0) == 0


def test_networks():
    """
    An IPv4 address is one, mapped or not; an IPv6 /64 is one; what is no address is one.
    """
    assert network("192.0.2.1") == network("::ffff:192.0.2.1") != network("192.0.2.2")
    assert network("2001:db8::1") == network("2001:db8::ffff:1") != network("2001:db8:0:1::1")
    assert network("") == network("nonsense")
