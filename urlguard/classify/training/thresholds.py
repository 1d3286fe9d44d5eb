"""
From margins to probabilities, and from probabilities to what is blocked.

Knows margins, labels and groups of harmless rows; knows neither strings nor trees.

How it works.  A logistic curve maps margins to probabilities at a stated prior, as rows count so
much that fraud has the prior's share.  A curve of two numbers keeps the order of all margins, also
of the highest, where steps would throw thousands of names together.

Domains of their own and shared hosting have a threshold each if each has harmless rows enough to
tell.  They are chosen together: of all pairs that keep the wrong blocks of all harmless rows, and
of each large group of them, below what an operator can answer for, the one that finds the most
fraud.  One threshold for both is such a pair, so two are not worse.  A threshold above 1 lets
everything through.

What just keeps a rate on these rows will miss it on every second lot of new ones.  So fewer wrong
blocks are allowed than the rate says (`allowed`): as many as leave a chance of one in twenty that
more than the rate would be among as many new rows.  Of few rows that is half of the rate, of very
many nearly all of it.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import nbinom
from sklearn.linear_model import LogisticRegression

from urlguard.classify.training.slices import LEAST

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Knots = list[tuple[float, float]]

PRIOR: Final = 0.05  # share of fraud among names that no rule knows, as analysts meet them
BLOCK_FPR, BLOCK_SLICE_FPR = 0.0001, 0.0005
REVIEW_FPR = 0.005
RISK: Final = 0.05  # of more wrong blocks than a rate allows, among as many new rows

_SPAN, _STEP = 24.0, 0.25  # of the margins that the curve's knots cover
_STEP_OF_SCORE: Final = 1e-6
NEVER: Final = 1.0 + _STEP_OF_SCORE  # a threshold that no score reaches
# One kind may be wronged more often than all rows are, but not by more than this.
UNEVEN: Final = 10


def calibrated(raw: Floats, label: npt.NDArray[np.int8], prior: float = PRIOR) -> Knots:
    """Knots of the curve from margin to probability; see the module's text."""
    fraud = label == 1
    weight = np.where(fraud, prior / fraud.sum(), (1 - prior) / (~fraud).sum()) * len(raw)
    curve = LogisticRegression(C=1e6).fit(raw[:, None], label, sample_weight=weight)
    slope, shift = float(curve.coef_[0][0]), float(curve.intercept_[0])
    if slope <= 0:
        raise ValueError("the model ranks fraud below harmless rows")
    margins = np.arange(-_SPAN, _SPAN + _STEP, _STEP)
    found = 1 / (1 + np.exp(-(slope * margins + shift)))
    return [(float(m), round(float(p), 9)) for m, p in zip(margins, found, strict=True)]


def probabilities(raw: Floats, knots: Knots) -> Floats:
    """What the card's knots make of margins, as `model.Model.probability` does."""
    return np.round(np.interp(raw, [m for m, _ in knots], [p for _, p in knots]), 6)


def allowed(rate: float, rows: int) -> int:
    """How many of so many harmless rows may be wronged here; see the module's text."""
    limit = int(rate * rows + 1e-9)
    # What is seen says of the next count, by Jeffreys' prior, that it is negative binomial.
    seen = np.arange(limit + 1)
    return max(int((nbinom.sf(limit, seen + 0.5, 0.5) <= RISK).sum()) - 1, 0)


class _Group:
    """The harmless rows and the fraud of one kind, by falling score."""

    def __init__(self, score: Floats, harmless: Mask, groups: Mapping[str, Mask]) -> None:
        self._fraud = np.sort(score[~harmless])
        self._harmless = np.sort(score[harmless])
        self._groups = {name: np.sort(score[group & harmless]) for name, group in groups.items()}

    @property
    def rows(self) -> int:
        """Harmless ones."""
        return len(self._harmless)

    def steps(self, most: int) -> list[float]:
        """Where 0, 1, 2 … and at last `most` harmless rows are reached; the highest first."""
        worst = self._harmless[::-1][: most + 1]
        return sorted({_above(float(one)) for one in worst}, reverse=True) or [NEVER]

    def lowest(self, most: int, groups: Mapping[str, int]) -> float:
        """The lowest threshold that reaches no more than so many harmless rows."""
        found = [_lowest(self._harmless, most)]
        found += [_lowest(self._groups[name], allowed) for name, allowed in groups.items()]
        return max(found)

    def wrong(self, threshold: float, group: str | None = None) -> int:
        """How many harmless rows a threshold reaches, of all or of a group."""
        return _reached(self._harmless if group is None else self._groups[group], threshold)

    def found(self, threshold: float) -> int:
        """How much fraud it reaches."""
        return _reached(self._fraud, threshold)


def chosen(
    score: Floats, harmless: Mask, hosting: Mask, groups: Mapping[str, Mask]
) -> dict[str, dict[str, float]]:
    """
    ``block_at`` and ``review_at`` for own domains and for shared hosting.

    Args:
        score: probabilities of all rows, rounded as those that are served.
        harmless: which rows are; the others are fraud.
        hosting: which rows are on shared hosting.
        groups: of rows; those with `LEAST` harmless ones bound `block_at`.
    """
    large = {name: group for name, group in groups.items() if (group & harmless).sum() >= LEAST}
    if min((harmless & ~hosting).sum(), (harmless & hosting).sum()) < LEAST:
        hosting = np.zeros_like(hosting)
    own, shared = (
        _Group(score[here], harmless[here], {name: group[here] for name, group in large.items()})
        for here in (~hosting, hosting)
    )
    bounds = {
        name: allowed(BLOCK_SLICE_FPR, int((group & harmless).sum()))
        for name, group in large.items()
    }
    pairs = {
        "block_at": _pair(own, shared, BLOCK_FPR, bounds),
        "review_at": _pair(own, shared, REVIEW_FPR, {}),
    }
    if not hosting.any():
        pairs = {name: (threshold, threshold) for name, (threshold, _) in pairs.items()}
    return {
        name: {
            "block_at": pairs["block_at"][side],
            "review_at": min(pair[side] for pair in pairs.values()),
        }
        for side, name in enumerate(("own", "hosting"))
    }


def _pair(
    own: _Group, shared: _Group, rate: float, groups: Mapping[str, int]
) -> tuple[float, float]:
    """The pair that finds the most fraud; of equals the one with the higher threshold for own."""
    best, found = (NEVER, NEVER), -1
    most = allowed(rate, own.rows + shared.rows)
    for here in own.steps(min(most, int(UNEVEN * rate * own.rows))):
        left = min(most - own.wrong(here), int(UNEVEN * rate * shared.rows))
        beside = {name: bound - own.wrong(here, name) for name, bound in groups.items()}
        if left < 0 or any(bound < 0 for bound in beside.values()):
            continue
        there = shared.lowest(left, beside)
        caught = own.found(here) + shared.found(there)
        if caught > found:
            best, found = (here, there), caught
    return best


def _reached(rising: Floats, threshold: float) -> int:
    return len(rising) - int(np.searchsorted(rising, threshold))


def _lowest(rising: Floats, most: int) -> float:
    """The lowest threshold that at most `most` of the scores reach."""
    return _above(float(rising[-1 - most])) if most < len(rising) else _STEP_OF_SCORE


def _above(score: float) -> float:
    """The next score that can be served; see `probabilities`."""
    return round(score + _STEP_OF_SCORE, 6)
