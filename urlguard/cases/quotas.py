"""
How much a source may bring in a time: a token bucket, as arithmetic.

Knows no store; the level and the time of it are the store's to keep.
"""

from math import ceil
from typing import Final

from urlguard.access.buckets import Rate, filled
from urlguard.cases.model import Quota, QuotaError

AHEAD_S: Final = 60  # by so much a clock may have been ahead of this one


def spend(quota: Quota, level: float | None, at: float | None, count: int, now: float) -> float:
    """
    What is left in a source's bucket once it has brought `count` candidates.

    A bucket may go below nothing by one batch, which what flows in later pays for: otherwise a
    batch larger than the bucket could never be taken.

    Args:
        quota: how fast the bucket fills, and what it holds at most.
        level: what was left; None for a new source, which begins with a full one.
        at: when that was.
        count: candidates.
        now: the time.

    Raises:
        QuotaError: nothing is left; ``wait_s`` says for how long.
    """
    rate = Rate(quota.burst, quota.per_hour / 3600)
    if level is None or at is None or at > now + AHEAD_S:
        # A new one, or one whose last batch a wrong clock has dated: nobody waits for that day.
        level = rate.burst
    else:
        level = filled(level, at, rate, now)
    if level < 1:  # a fraction of a token is none, so a second's refill is not one more candidate
        wait = ceil((1 - level) / rate.per_s) if rate.per_s else 3600
        raise QuotaError(
            f"over the quota of {quota.per_hour} candidates an hour; again in {wait} s", wait
        )
    return level - count
