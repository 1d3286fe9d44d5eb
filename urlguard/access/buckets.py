"""
Limits on what anybody may ask for without a token: token buckets by network, and one for all.

Knows keys and a clock, no HTTP.  Whose a key is, the caller says: `attempts.network` makes one of
an address, so that all who share a network share a bucket.

How it works.  A bucket holds as many tokens as may be used at once, and gets new ones at a steady
rate.  A request takes one from its network's and one from the bucket for all, or none from either:
who is refused costs the others nothing.  Memory is bounded: of more than `MAX_KEYS` networks the
one that asked longest ago is forgotten.  Whoever has that many networks is held up by the bucket
for all.
"""

from collections.abc import Callable, Hashable
from typing import Final, NamedTuple

MAX_KEYS: Final = 4096


class Rate(NamedTuple):
    """So many at once, and so many a second after that."""

    burst: float
    per_s: float


class Bucket:
    """
    One bucket.  For one thread; waits for nothing.

    Args:
        clock: the time in seconds, that never goes back.
        rate: of what it gives.
    """

    def __init__(self, clock: Callable[[], float], rate: Rate) -> None:
        self._clock = clock
        self._rate = rate
        self._level = (rate.burst, clock())

    def wait(self) -> float:
        """The seconds until there is a token; 0 or less: there is one."""
        return (1 - self._now()) / self._rate.per_s

    def take(self) -> float:
        """0 if it may be done now; else the seconds until it may, and nothing is taken."""
        wait = self.wait()
        if wait > 0:
            return wait
        self._level = (self._now() - 1, self._clock())
        return 0.0

    def drain(self) -> None:
        """Take a token, or what is left of one: for events that have happened already."""
        self._level = (max(self._now() - 1, 0.0), self._clock())

    def give_back(self) -> None:
        """Return a token whose request was not carried out."""
        self._level = (min(self._now() + 1, self._rate.burst), self._clock())

    def _now(self) -> float:
        return filled(*self._level, self._rate, self._clock())


class Buckets:
    """
    Buckets of one sort of request.  For one thread; waits for nothing.

    Args:
        clock: the time in seconds, that never goes back.
        each: of one network.
        together: of all.
    """

    def __init__(self, clock: Callable[[], float], each: Rate, together: Rate) -> None:
        self._clock = clock
        self._each = each
        # Level and when; who asked longest ago comes first.
        self._levels: dict[Hashable, tuple[float, float]] = {}
        self._all = Bucket(clock, together)

    def take(self, key: Hashable) -> float:
        """0 if it may be done now; else the seconds until it may, and nothing is taken."""
        now = self._clock()
        mine = filled(*self._levels.get(key, (self._each.burst, now)), self._each, now)
        wait = max((1 - mine) / self._each.per_s, self._all.wait())
        if wait > 0 or (wait := self._all.take()) > 0:
            return wait
        self._levels.pop(key, None)
        if len(self._levels) >= MAX_KEYS:
            del self._levels[next(iter(self._levels))]
        self._levels[key] = (mine - 1, now)
        return 0.0


def filled(level: float, at: float, rate: Rate, now: float) -> float:
    """Tokens at `now` of a bucket that held `level` at `at`; a clock set back adds none."""
    return min(level + max(0.0, now - at) * rate.per_s, rate.burst)
