"""
How ours and the rivals compare on the same test rows: shares found, and ours divided by theirs.

Knows scores, labels and owners; knows no files and no rival.  Intervals are of 95 % by a bootstrap
over owners, who are the same for all classifiers in each draw, so that a ratio is taken draw by
draw.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.classify import hybrid
from benchmarks.load import BenchmarkError
from urlguard.classify.evaluation import bootstrap, metrics
from urlguard.classify.evaluation.metrics import Interval, Point

RATES = (0.01, 0.001, 0.0001)
OURS = "UrlGuard"
ROUNDS, SEED = 1000, 1
# A classifier below the first has learnt nothing, one above the second knows the answers.
AUC_FLOOR, AUC_CEILING = 0.55, 0.9999

Floats = NDArray[np.float64]


class Problem(NamedTuple):
    """What is to be learnt and what is to be scored."""

    items: list[str]
    labels: NDArray[np.int8]
    tests: list[str]
    wanted: NDArray[np.int8]
    owners: NDArray[np.str_]


class Found(NamedTuple):
    """What one classifier or blend reached."""

    name: str
    auc: float
    area: Interval  # of the AUC
    points: list[Point]  # at `RATES`
    ratios: list[tuple[float, Interval]]  # ours by this at `RATES`; empty for ours
    seconds: float  # to train and score; 0 where that is not ours to say


def compare(
    task: Problem,
    ours: Floats,
    rivals: Mapping[str, Floats],
    seconds: Mapping[str, float],
    rounds: int = ROUNDS,
) -> list[Found]:
    """
    Everything that is measured: ours, each rival, ours with each rival.

    Args:
        task: the test rows.
        ours: probabilities.
        rivals: log-odds by the rival's name.
        seconds: that each took.
        rounds: of the bootstrap.

    Raises:
        BenchmarkError: a classifier that has learnt nothing or knows the answers.
    """
    scores = {OURS: ours, **rivals}
    for name, theirs in rivals.items():
        scores[f"{OURS} and {name}, ranks"] = hybrid.mean_of_ranks(ours, theirs)
        both = hybrid.blend(task.wanted, hybrid.log_odds(ours), theirs, task.owners)
        scores[f"{OURS} and {name}, blend"] = both
    # Numbers: an array of text takes the longest name's room for each, and is slow to sort.
    _, owners = np.unique(task.owners, return_inverse=True)
    found: list[Found] = []
    base: Floats | None = None
    for name, score in scores.items():
        auc = metrics.roc_auc(task.wanted, score)
        if not AUC_FLOOR < auc < AUC_CEILING:
            raise BenchmarkError(f"{name}: ROC-AUC {auc:.4f}, must be {AUC_FLOOR} to {AUC_CEILING}")
        areas = bootstrap.auc_draws(task.wanted, score, owners, rounds, SEED)
        draws = bootstrap.tpr_draws(task.wanted, score, RATES, owners, rounds, SEED)
        points = [
            metrics.tpr_at_fpr(task.wanted, score, rate, bootstrap.percentiles(column))
            for rate, column in zip(RATES, draws.T, strict=True)
        ]
        ratios = []
        if base is None:
            base, first = draws, points
        else:
            for place, (we, they) in enumerate(zip(first, points, strict=True)):
                ratios.append(ratio(we, they, base[:, place], draws[:, place]))
        area = bootstrap.percentiles(areas)
        found.append(Found(name, auc, area, points, ratios, seconds.get(name, 0.0)))
    return found


def ratio(we: Point, they: Point, ours: Floats, theirs: Floats) -> tuple[float, Interval]:
    """How many times their recall ours is; infinite where they find nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = ours / theirs
        value = float(np.float64(we.tpr) / np.float64(they.tpr))
    # A draw in which nobody finds anything says nothing; infinite ones count as the largest.
    draws = draws[~np.isnan(draws)]
    if not draws.size:
        return value, Interval(0.0, np.inf)
    low, high = np.quantile(draws, [0.025, 0.975], method="nearest")
    return value, Interval(float(low), float(high))
