"""
Metrics of a classifier: ROC, recall at a false-positive rate, slices, calibration.

For training, evaluation and the rivals' benchmark; nothing that serves imports it.  Knows labels
(1 fraud, 0 benign) and scores (higher is worse); knows no owners, names, models or files.
`bootstrap` estimates the same metrics over draws of owners.

How it works.  **Thresholds.**  A row is classified as fraud if its score is at least the threshold.
The threshold for a false-positive rate is the smallest score in the data at which the share of
benign rows classified as fraud is at most that rate.  Rows with equal scores stay together, so ties
keep the rate and lower the recall.  The threshold is infinite if no score keeps the rate.

**Intervals** are of 95 %.  Wilson's takes the threshold as given and rows as independent: how well
is the recall at this threshold known?  A bootstrap over owners finds the threshold again in each
draw: how much could the whole measurement vary?  At a rate of 0.01 % the threshold depends on a
handful of benign rows, and the second interval is much wider.  A `Point` has both.

**Shares** of slices have Wilson's interval and Clopper and Pearson's one-sided bound (rows taken as
independent), which is valid even without a hit.

**Calibration** is measured in bins of equal mass, with rows weighted so that fraud has the stated
prior: a probability depends on the population.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution
ROUNDS = 1000  # bootstrap draws
BINS = 15
SLACK = 1e-9  # 0.29 is no binary fraction: 0.29 of 100 rows are 29, not 28


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Share:
    """
    So many hits in so many rows.

    Attributes:
        hits: rows at or above a threshold, or any other count.
        rows: rows looked at, at least `hits`; 0 gives a share of NaN and the interval from 0 to 1.
    """

    hits: int
    rows: int

    @property
    def value(self) -> float:
        """Hits per row, from 0 to 1."""
        return self.hits / self.rows if self.rows else math.nan

    @property
    def interval(self) -> Interval:
        """Wilson's interval of 95 %, two-sided."""
        return wilson(self.hits, self.rows)

    @property
    def upper(self) -> float:
        """Clopper and Pearson's upper bound, one-sided 95 %."""
        return upper_bound(self.hits, self.rows)


@dataclass(frozen=True, slots=True)
class Point:
    """
    One place on a ROC curve, the one that `tpr_at_fpr` finds.

    Attributes:
        target: the false-positive rate that was allowed.
        threshold: scores from here on are called fraud; infinite if no score keeps the rate.
        benign: false positives and benign rows.
        fraud: what was caught and fraud rows.
        bootstrap: the recall's interval over draws of owners, the threshold found anew in each;
            None if no draws were asked for.
    """

    target: float
    threshold: float
    benign: Share
    fraud: Share
    bootstrap: Interval | None = None

    @property
    def tpr(self) -> float:
        """The recall at the threshold, from 0 to 1."""
        return self.fraud.value


@dataclass(frozen=True, slots=True)
class Curve:
    """
    A curve over falling thresholds.

    Attributes:
        x: false-positive rate, or recall.
        y: true-positive rate, or precision.
        thresholds: the distinct scores, falling; place i is "called fraud from here on".
    """

    x: Floats
    y: Floats
    thresholds: Floats


@dataclass(frozen=True, slots=True)
class Bin:
    """
    Rows of neighbouring probabilities.

    Attributes:
        low, high: the least and the greatest probability in it.
        predicted: their mean, weighted to the prior.
        observed: the weighted share of fraud.
        mass: the bin's part of all weight; the masses add up to 1.
        rows: how many there are.
    """

    low: float
    high: float
    predicted: float
    observed: float
    mass: float
    rows: int


def wilson(hits: int, rows: int, z: float = Z95) -> Interval:
    """
    Wilson's score interval for a share.

    Args:
        hits: from 0 to `rows`.
        rows: 0 gives the interval from 0 to 1.
        z: standard deviations to either side.

    Raises:
        ValueError: hits outside 0 to rows.
    """
    _counts(hits, rows)
    if not rows:
        return Interval(0.0, 1.0)
    share, square = hits / rows, z * z
    middle = (share + square / (2 * rows)) / (1 + square / rows)
    spread = z / (1 + square / rows)
    spread *= math.sqrt(share * (1 - share) / rows + square / (4 * rows * rows))
    # At the ends the formula gives 0 and 1 but for rounding.
    low = 0.0 if hits == 0 else max(0.0, middle - spread)
    high = 1.0 if hits == rows else min(1.0, middle + spread)
    return Interval(low, high)


def upper_bound(hits: int, rows: int, confidence: float = 0.95) -> float:
    """
    Clopper and Pearson's one-sided upper bound for a share.

    It is the share under which `hits` or fewer would be seen with a chance of only
    1 - `confidence`; with no hit in n rows that is about 3/n.

    Raises:
        ValueError: hits outside 0 to rows.
    """
    _counts(hits, rows)
    if hits == rows:
        return 1.0
    # log of C(rows, i) for i from 0 to hits, each from the one before.
    i = np.arange(1, hits + 1, dtype=np.float64)
    choose = np.concatenate([[0.0], np.cumsum(np.log((rows - i + 1) / i))])
    taken = np.arange(hits + 1, dtype=np.float64)
    wanted = math.log(1 - confidence)
    low, high = hits / rows, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        terms = choose + taken * math.log(middle) + (rows - taken) * math.log1p(-middle)
        peak = float(terms.max())
        if peak + math.log(float(np.exp(terms - peak).sum())) > wanted:
            low = middle
        else:
            high = middle
    return high


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """
    The chance that a fraud row scores above a benign one, a tie counting half.

    Raises:
        ValueError: see `tpr_at_fpr`.
    """
    fraud, score = checked(labels, scores)
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]  # a tie's rows share its mean rank
    bad = int(fraud.sum())
    good = fraud.size - bad
    return float((ranks[fraud].sum() - bad * (bad + 1) / 2) / (bad * good))


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> Curve:
    """
    True- against false-positive rate at every distinct score.

    Raises:
        ValueError: see `tpr_at_fpr`.
    """
    fraud, score = checked(labels, scores)
    thresholds, bad, good = _falling(fraud, score)
    return Curve(good / good[-1], bad / bad[-1], thresholds)


def precision_recall(
    labels: ArrayLike, scores: ArrayLike, prior: float | None = None
) -> tuple[Curve, float]:
    """
    Precision against recall at every distinct score, and the average precision.

    Args:
        labels, scores: see `tpr_at_fpr`.
        prior: the share of fraud among what will be asked; None takes the data's own.

    Returns:
        The curve (x is recall), and the mean of the precision over the recall gained, which is the
        area under the curve as a step function.

    Raises:
        ValueError: see `tpr_at_fpr`; a prior outside 0 to 1.
    """
    fraud, score = checked(labels, scores)
    thresholds, bad, good = _falling(fraud, score)
    share = bad[-1] / (bad[-1] + good[-1]) if prior is None else _prior(prior)
    recall = bad / bad[-1]
    caught = recall * share
    precision = caught / (caught + good / good[-1] * (1 - share))
    gained = np.diff(recall, prepend=0.0)
    return Curve(recall, precision, thresholds), float((gained * precision).sum())


def threshold_at(labels: ArrayLike, scores: ArrayLike, fpr: float) -> float:
    """
    The smallest score from which on at most `fpr` of the benign rows lie.

    Args:
        labels, scores: see `tpr_at_fpr`.
        fpr: the rate allowed, from 0 to 1.

    Returns:
        One of the scores, of whichever label; infinite if none keeps the rate.

    Raises:
        ValueError: see `tpr_at_fpr`.
    """
    fraud, score = checked(labels, scores)
    return _threshold(np.sort(score), np.sort(score[~fraud]), fpr)


def tpr_at_fpr(
    labels: ArrayLike,
    scores: ArrayLike,
    fpr: float,
    bootstrap: Interval | None = None,
) -> Point:
    """
    The recall at the threshold that allows a false-positive rate.

    Args:
        labels: 1 or True for fraud, else benign; there must be rows of both.
        scores: one for each label; higher is worse; finite.
        fpr: the rate allowed, from 0 to 1.
        bootstrap: the recall's interval, if owners were drawn for it; see `bootstrap.tpr_draws`.

    Returns:
        The point with its counts and intervals.

    Raises:
        ValueError: labels of one kind only, labels and scores of different lengths, a score that
            is not a finite number, or a rate outside 0 to 1.
    """
    fraud, score = checked(labels, scores)
    threshold = _threshold(np.sort(score), np.sort(score[~fraud]), fpr)
    benign = share(score[~fraud], threshold)
    return Point(fpr, threshold, benign, share(score[fraud], threshold), bootstrap)


def share(scores: ArrayLike, threshold: float) -> Share:
    """How many of the rows score at least the threshold."""
    score = np.asarray(scores, dtype=np.float64)
    return Share(int((score >= threshold).sum()), int(score.size))


def shares(groups: Iterable[str], hits: ArrayLike) -> dict[str, Share]:
    """
    The share of hits in each group, by the group's name.

    Args:
        groups: each row's slice, source or month.
        hits: whether each row counts.

    Raises:
        ValueError: groups and hits of different lengths.
    """
    flags = np.asarray(hits, dtype=np.bool_)
    names = np.asarray(list(groups), dtype=np.str_)
    if names.size != flags.size:
        raise ValueError(f"{names.size} groups for {flags.size} rows")
    kinds, inverse = np.unique(names, return_inverse=True)
    rows = np.bincount(inverse, minlength=kinds.size)
    hit = np.bincount(inverse[flags], minlength=kinds.size)
    return {str(name): Share(int(h), int(n)) for name, h, n in zip(kinds, hit, rows, strict=True)}


def reliability(
    labels: ArrayLike, probabilities: ArrayLike, prior: float | None = None, bins: int = BINS
) -> list[Bin]:
    """
    What probabilities promised and what came, in bins of equal mass.

    Args:
        labels: see `tpr_at_fpr`.
        probabilities: one for each label, from 0 to 1.
        prior: the share of fraud that the probabilities are meant for; rows are weighted to it.
            None takes the data's own.
        bins: how many at most.  Rows of one probability share a bin, so there may be fewer.

    Raises:
        ValueError: see `tpr_at_fpr`; a probability or prior outside 0 to 1; no bins.
    """
    fraud, chance = checked(labels, probabilities)
    weight, place = binned(fraud, chance, prior, bins)
    found = []
    for number in np.unique(place):
        rows = place == number
        part = weight[rows]
        total = float(part.sum())
        found.append(
            Bin(
                low=float(chance[rows].min()),
                high=float(chance[rows].max()),
                predicted=float((part * chance[rows]).sum() / total),
                observed=float((part * fraud[rows]).sum() / total),
                mass=total,
                rows=int(rows.sum()),
            )
        )
    return found


def binned(
    labels: ArrayLike, probabilities: ArrayLike, prior: float | None = None, bins: int = BINS
) -> tuple[Floats, Ints]:
    """
    What `reliability` makes its bins of: the weight of each row, and the number of its bin.

    The weights add up to 1, and those of fraud to the prior; numbers begin at 0.

    Raises:
        ValueError: see `reliability`.
    """
    fraud, chance = checked(labels, probabilities)
    if chance.min() < 0 or chance.max() > 1:
        raise ValueError(f"probabilities from {chance.min()} to {chance.max()}: must be 0 to 1")
    if bins < 1:
        raise ValueError(f"{bins} bins: at least 1")
    own = float(fraud.mean())
    wanted = own if prior is None else _prior(prior)
    weight = np.where(fraud, wanted / own, (1 - wanted) / (1 - own)) / fraud.size
    _, inverse = np.unique(chance, return_inverse=True)
    mass = np.bincount(inverse, weight)
    # A tie belongs where its middle lies.
    place = np.minimum(((np.cumsum(mass) - mass / 2) * bins).astype(np.int64), bins - 1)
    return weight, place[inverse]


def calibration_error(bins: Iterable[Bin]) -> float:
    """
    The expected calibration error: the mean difference of predicted and observed, by mass.

    From 0 to 1.  It depends on the bins: state them with it.
    """
    return sum(each.mass * abs(each.predicted - each.observed) for each in bins)


def checked(labels: ArrayLike, scores: ArrayLike) -> tuple[Flags, Floats]:
    """
    Labels as flags and scores as numbers, validated for all metrics.

    Raises:
        ValueError: see `tpr_at_fpr`.
    """
    fraud = np.asarray(labels).astype(np.bool_)
    score = np.asarray(scores, dtype=np.float64)
    if fraud.shape != score.shape or fraud.ndim != 1:
        raise ValueError(f"labels of shape {fraud.shape}, scores of shape {score.shape}")
    if fraud.all() or not fraud.any():
        raise ValueError(f"{int(fraud.sum())} fraud rows of {fraud.size}: both kinds are needed")
    if not np.isfinite(score).all():
        raise ValueError(f"{int((~np.isfinite(score)).sum())} scores are not finite numbers")
    return fraud, score


def _counts(hits: int, rows: int) -> None:
    if not 0 <= hits <= rows:
        raise ValueError(f"{hits} hits in {rows} rows")


def check_rate(fpr: float) -> None:
    """Raise a ValueError for a false-positive rate outside 0 to 1."""
    if not 0 <= fpr <= 1:
        raise ValueError(f"a false-positive rate of {fpr}: must be 0 to 1")


def _prior(prior: float) -> float:
    if not 0 < prior < 1:
        raise ValueError(f"a prior of {prior}: must be above 0 and below 1")
    return prior


def _threshold(scores: Floats, benign: Floats, fpr: float) -> float:
    """See `threshold_at`; both arrays sorted, rising."""
    check_rate(fpr)
    allowed = math.floor(fpr * benign.size + SLACK)
    if allowed >= benign.size:
        return float(scores[0])
    # The highest benign row that may not be called fraud; the threshold is the next score.
    place = int(np.searchsorted(scores, benign[benign.size - 1 - allowed], side="right"))
    return float(scores[place]) if place < scores.size else math.inf


def _falling(fraud: Flags, score: Floats) -> tuple[Floats, Floats, Floats]:
    """The distinct scores, falling, and how many fraud and benign rows lie at or above each."""
    order = np.argsort(-score, kind="stable")
    ordered, flags = score[order], fraud[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), ordered.size - 1)  # of each tie
    bad = np.cumsum(flags, dtype=np.float64)[last]
    return ordered[last], bad, last + 1.0 - bad
