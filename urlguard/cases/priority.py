"""
How urgent a case is, what a source's word is worth, and when people look again.

Plain arithmetic; knows no store.  Nothing here decides anything: a reputation moves a case up or
down in a queue that people work through, so no reporter can have anything blocked.
"""

from collections.abc import Iterable
from math import log2
from typing import Final

DAY_S: Final = 86_400
HALF_LIFE_S: Final = (
    7 * DAY_S
)  # in which a case that nobody reports any more loses half its urgency
EPOCH: Final = 1_767_225_600  # 2026-01-01; only to keep the figures short
UNSCORED: Final = 0.5  # where no model runs
_LEAST_SCORE: Final = 0.001
# Before anything is decided a source's word is worth one half, as if two of four had been right.
_PRIOR: Final = 2.0

RECHECK_S: Final = {
    "malware": 90 * DAY_S,  # often on sites that were broken into, and are cleaned
    "phishing": 180 * DAY_S,  # names are dropped, and bought by others
    "scam": 365 * DAY_S,
    "fraud": 365 * DAY_S,
    "gambling": 365 * DAY_S,
}
RECHECK_OTHER_S: Final = 180 * DAY_S
WATCH_S: Final = 7 * DAY_S
ALLOW_S: Final = 365 * DAY_S


def reputation(right: int, wrong: int) -> float:
    """
    The share of a source's decided reports that were right, between 0 and 1.

    The mean of a Beta distribution with the prior Beta(2, 2), so that one decision says little.
    """
    return (right + _PRIOR) / (right + wrong + 2 * _PRIOR)


def rank(queries: int, score: float | None, reputations: Iterable[float], seen_at: int) -> float:
    """
    The priority of a case: the logarithm to base 2 of its expected victims, for comparing.

        victims  = (1 + queries) × score × trust × recency
        queries  that the resolvers saw of it, 0 until they report any
        score    the worst that a model gave to its names and URLs; 0.5 where no model runs
        trust    the sum of its sources' reputations: independent sources add up, bad ones hardly
        recency  halves each week after it was last seen

    All cases lose by recency at the same rate, so their order does not change while time goes by.
    Instead of the loss until now, which would have to be worked out for each case again and again,
    the figure holds the gain since a fixed day (forward decay; Cormode and others, ICDE 2009).  One
    more is twice the victims, or seen a week later.

    A tenth is as fine as it gets, 7 % of victims.  Finer would pretend to know more, and would have
    each case of a batch written to another page of an index.  Of those alike the oldest is first.
    """
    trust = sum(reputations)
    worst = UNSCORED if score is None else max(score, _LEAST_SCORE)
    victims = (1 + queries) * worst * max(trust, _LEAST_SCORE)
    return round(log2(victims) + (seen_at - EPOCH) / HALF_LIFE_S, 1)


def recheck_at(act: str, category: str, expires_at: int | None, now: int) -> int | None:
    """
    When a decided case is opened again: at the decision's own end, or a time for its category.

    None for a dismissed one, which only new evidence opens.
    """
    if act == "dismiss":
        return None
    if expires_at is not None:
        return expires_at
    if act == "watch":
        return now + WATCH_S
    if act == "allow":
        return now + ALLOW_S
    return now + RECHECK_S.get(category, RECHECK_OTHER_S)
