"""
The variance of a whole measurement: metrics over bootstrap draws of owners.

For training, evaluation and the rivals' benchmark, as `metrics`, whose definitions of thresholds,
ties and bins it shares.  Knows labels, scores and who owns a row; knows no names, no models, no
files.

How it works.  A bootstrap (Efron, 1979) in clusters: each draw takes as many owners as there are,
with replacement and each with all of its rows, because rows of one owner are no evidence apart from
each other.  Fraud owners and benign owners are drawn apart, so that both counts of owners stay as
they are.  No row is copied: an owner's count of draws is the weight of its rows, and metrics are
sums of weights over rows that were put in order once.

Equal seeds draw equal owners, whatever is measured.  So draws of two classifiers on the same rows
may be divided by each other, and what they have in common falls out of the ratio.

An interval of 95 % is the middle 95 % of the draws (`percentiles`).  For a calibration error that
is cautious at its lower end: a distance cannot be below nothing, so the chance in a draw adds to
it, and the draws of a well-calibrated classifier lie above its own figure.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from urlguard.classify.evaluation import metrics
from urlguard.classify.evaluation.metrics import BINS, ROUNDS, Flags, Floats, Interval, Ints

Owners = Sequence[object] | NDArray[np.generic]


def tpr_draws(
    labels: ArrayLike,
    scores: ArrayLike,
    fprs: Sequence[float],
    owners: Owners,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> Floats:
    """
    Recalls over draws of owners, with the threshold found anew in each draw.

    Args:
        labels, scores: see `metrics.tpr_at_fpr`.
        fprs: the rates allowed, at least one.
        owners: who owns each row.  Numbers spare memory: an array of text takes the longest name's
            room for each.
        rounds: draws.
        seed: of the draws; equal seeds draw equal owners from equal rows.

    Returns:
        An array of shape (rounds, len(fprs)).  The rows of two classifiers for the same labels,
        owners and seed belong together, so their ratio may be taken row by row.

    Raises:
        ValueError: see `metrics.tpr_at_fpr`; owners of another length; no rounds or no rates.
    """
    fraud, score = metrics.checked(labels, scores)
    if not fprs:
        raise ValueError("no rates: at least one of them")
    for fpr in fprs:
        metrics.check_rate(fpr)
    good, bad = _sides(fraud, score, owners, rounds)
    # How many fraud rows score strictly above each benign row, and so above its tie: all that a
    # threshold just above that benign row would catch.
    above = np.searchsorted(-bad.score, -good.score, side="left")

    out = np.empty((rounds, len(fprs)))
    for row, (benign, caught) in zip(out, _weights(good, bad, rounds, seed), strict=True):
        called, hit = np.cumsum(benign), _summed(caught)
        for place, fpr in enumerate(fprs):
            # The first benign row with which the rate is broken; its tie goes with it, and the
            # threshold lies just above that.
            allowed = math.floor(fpr * called[-1] + metrics.SLACK)
            broken = int(np.searchsorted(called, allowed, side="right"))
            hits = hit[-1] if broken == called.size else hit[above[broken]]
            row[place] = hits / hit[-1]
    return out


def auc_draws(
    labels: ArrayLike,
    scores: ArrayLike,
    owners: Owners,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> Floats:
    """
    Areas under the ROC curve, as `metrics.roc_auc`, over draws of owners.

    Args:
        labels, scores, owners, rounds, seed: see `tpr_draws`, whose draws are the same.

    Returns:
        An array of `rounds` areas.

    Raises:
        ValueError: see `metrics.tpr_at_fpr`; owners of another length; no rounds.
    """
    fraud, score = metrics.checked(labels, scores)
    good, bad = _sides(fraud, score, owners, rounds)
    # For each fraud row: benign rows above it, and those with its score as well.
    above = np.searchsorted(-good.score, -bad.score, side="left")
    level = np.searchsorted(-good.score, -bad.score, side="right")
    out = np.empty(rounds)
    for place, (benign, caught) in enumerate(_weights(good, bad, rounds, seed)):
        higher = _summed(benign)
        # A tie counts half: once among those above, once among those that are not.
        lost = float(caught @ (higher[above] + higher[level])) / 2
        out[place] = 1 - lost / (float(higher[-1]) * float(caught.sum()))
    return out


def calibration_draws(
    labels: ArrayLike,
    probabilities: ArrayLike,
    prior: float | None,
    owners: Owners,
    rounds: int = ROUNDS,
    seed: int = 0,
    bins: int = BINS,
) -> Floats:
    """
    Expected calibration errors, as `metrics.calibration_error`, over draws of owners.

    The bins are those of `metrics.reliability` for all rows, and stay; their mass is that of the
    draw.

    Args:
        labels, owners, rounds, seed: see `tpr_draws`, whose draws are the same.
        probabilities: one for each label, from 0 to 1.
        prior: the share of fraud that the probabilities are meant for; each draw is weighted to
            it.  None takes each draw's own.
        bins: how many at most.

    Returns:
        An array of `rounds` errors, from 0 to 1.

    Raises:
        ValueError: see `metrics.reliability`; owners of another length; no rounds.
    """
    fraud, chance = metrics.checked(labels, probabilities)
    _, place = metrics.binned(fraud, chance, prior, bins)
    good, bad = _sides(fraud, chance, owners, rounds)
    good_place, bad_place = place[~fraud][good.order], place[fraud][bad.order]
    out = np.empty(rounds)
    for number, (benign, caught) in enumerate(_weights(good, bad, rounds, seed)):
        rows, hits = float(benign.sum()), float(caught.sum())
        part = hits / (rows + hits) if prior is None else prior
        # A bin's mass times the distance in it is the distance of two sums over its rows.
        promised = np.bincount(good_place, benign * good.score, bins) * ((1 - part) / rows)
        lacking = np.bincount(bad_place, caught * (1 - bad.score), bins) * (part / hits)
        out[number] = np.abs(promised - lacking).sum()
    return out


def percentiles(draws: Floats) -> Interval:
    """
    The middle 95 % of a bootstrap's draws.

    A draw that is not a number, as a ratio of nothing to nothing is, counts for neither end.
    """
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return Interval(float(low), float(high))


class _Side(NamedTuple):
    """The rows of one label, by falling score; ``order`` are their numbers before."""

    order: Ints
    score: Floats
    owner: Ints  # the number of each row's
    owners: int  # how many there are

    @classmethod
    def of(cls, score: Floats, owners: NDArray[np.generic]) -> "_Side":
        order = np.argsort(-score, kind="stable")
        # Numbered by name, so that they do not depend on the scores.
        kinds, numbers = np.unique(owners, return_inverse=True)
        return cls(order, score[order], numbers[order].astype(np.int64), int(kinds.size))

    def drawn(self, random: np.random.Generator) -> Ints:
        """How often each row's owner is drawn in as many draws as there are owners."""
        picks = random.integers(0, self.owners, self.owners)
        return np.bincount(picks, minlength=self.owners)[self.owner]


def _sides(fraud: Flags, score: Floats, owners: Owners, rounds: int) -> tuple[_Side, _Side]:
    """The benign rows and the fraud."""
    if len(owners) != score.size:
        raise ValueError(f"{len(owners)} owners for {score.size} rows")
    if rounds < 1:
        raise ValueError(f"{rounds} rounds: at least one of them")
    holder = np.asarray(owners)
    return _Side.of(score[~fraud], holder[~fraud]), _Side.of(score[fraud], holder[fraud])


def _weights(good: _Side, bad: _Side, rounds: int, seed: int) -> Iterator[tuple[Ints, Ints]]:
    """
    How often each benign and each fraud row stands in a draw, draw by draw.

    All metrics take their draws from here, so that equal seeds give all of them equal owners.
    """
    random = np.random.default_rng(seed)
    for _ in range(rounds):
        yield good.drawn(random), bad.drawn(random)


def _summed(weights: Ints) -> Ints:
    """The weight of the first 0, 1, 2 … rows."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(weights)])
