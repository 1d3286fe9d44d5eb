"""
Limits on guessing tokens: how long an address has to wait before it may try again.

Knows addresses and a clock, no tokens and no HTTP.  That no guess succeeds is due to a token's 256
random bits; the limits keep guessing from costing the server anything, and make it seen.

How it works
    A token is looked up first, which costs next to nothing, and whoever has a valid one is served,
    whatever `Attempts.wait` says: so nobody is locked out by what others do behind the same NAT or
    reverse proxy, or by a script there that goes on with a revoked token.  Who has no valid one is
    asked to wait (429, Retry-After) if `wait` is above 0, and that does not count; otherwise
    `failed` counts it, and the caller learns that the token is none (401).

    *By network.*  An IPv4 address stands for itself, an IPv6 address for its /64, all of which one
    host may have.  `FREE` failures cost nothing; people mistype.  Each further one doubles the
    wait, from 1 s to `MAX_WAIT_S`.  A failure is forgiven for each `FORGIVE_S` without another, and
    for each success, of which a network of many people has more than failures.

    *By all.*  More failures than `TOGETHER` allows, of all networks together, keep everybody who
    fails waiting: many addresses do not get around the limit.

    Memory is bounded.  Of more than `MAX_NETWORKS`, the one with the fewest failures is forgotten
    among the `LOOKED_AT` that have been quiet longest, so nobody washes his record away with single
    failures from many addresses.
"""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import islice
from typing import Final

from urlguard import events
from urlguard.access.buckets import Bucket, Rate

FREE: Final = 5  # failures without a wait
MAX_WAIT_S: Final = 60.0
FORGIVE_S: Final = 120.0  # for one failure; no wait is longer, so who goes on is not forgiven
TOGETHER: Final = Rate(burst=100.0, per_s=20.0)  # failures of all networks together
MAX_NETWORKS: Final = 4096
LOOKED_AT: Final = 64  # of them, to find one to forget: 20 µs
LOG_EVERY_S: Final = 60.0

_ENOUGH: Final = FREE + 7  # more failures than this are not counted: the wait is the longest

_Network = str | int | None  # IPv4; the upper half of an IPv6 address; no IP at all


class Attempts:
    """
    Who has failed how often.  For one thread; waits for nothing.

    Args:
        clock: the time in seconds, that never goes back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # How often, and when last; who has been quiet longest comes first.
        self._failed: dict[_Network, tuple[int, float]] = {}
        self._together = Bucket(clock, TOGETHER)
        self._log_throttle = events.Throttle(LOG_EVERY_S, clock)
        self._unlogged = 0

    def wait(self, address: str) -> float:
        """
        How long to wait before a try without a valid token, in seconds; 0: it may be made now.

        Args:
            address: an IP address; all that are none, such as "", count as one.
        """
        now = self._clock()
        count, last = self._standing(network(address), now)
        return max(last + _penalty(count) - now, self._together.wait(), 0.0)

    def failed(self, address: str) -> None:
        """A try from an address failed."""
        where = network(address)
        now = self._clock()
        count = min(self._standing(where, now)[0] + 1, _ENOUGH)
        self._together.drain()
        self._failed.pop(where, None)
        if len(self._failed) >= MAX_NETWORKS:
            quiet = islice(self._failed, LOOKED_AT)
            del self._failed[min(quiet, key=lambda one: self._standing(one, now)[0])]
        self._failed[where] = (count, now)
        if count > FREE or self._together.wait() > 0:
            self._unlogged += 1
            if self._log_throttle.due():
                events.warning(
                    "access.guessing",
                    network=_shown(where),
                    wait_s=round(self.wait(address), 1),
                    failures=self._unlogged,
                )
                self._unlogged = 0

    def succeeded(self, address: str) -> None:
        """A valid token came from an address."""
        if not self._failed:
            return
        where = network(address)
        count, last = self._failed.pop(where, (0, 0.0))
        if count > 1:
            self._failed[where] = (count - 1, last)

    def _standing(self, network: _Network, now: float) -> tuple[int, float]:
        """Failures that are not forgiven yet, and when the last was."""
        count, last = self._failed.get(network, (0, now))
        return max(count - int((now - last) / FORGIVE_S), 0), last


def _penalty(count: int) -> float:
    """The wait after so many failures, in seconds."""
    return 0.0 if count <= FREE else min(2.0 ** (count - FREE - 1), MAX_WAIT_S)


def network(address: str) -> _Network:
    """What shares a limit with an address: itself in IPv4, its /64 in IPv6; None if it is none."""
    try:
        found = ip_address(address)
    except ValueError:
        return None
    if isinstance(found, IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:  # ::ffff:192.0.2.1, RFC 4291 section 2.5.5.2
        return str(found.ipv4_mapped)
    return int(found) >> 64


def _shown(network: _Network) -> str:
    if isinstance(network, int):
        return f"{IPv6Address(network << 64)}/64"
    return network or "none"
