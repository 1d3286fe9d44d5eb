"""
From margins to probabilities, and from probabilities to what is blocked.

Knows margins, labels and groups of harmless rows; knows neither strings nor trees.

How it works.  A logistic curve maps margins to probabilities at a stated prior, as rows count so
much that fraud has the prior's share.  A curve of two numbers keeps the order of all margins, also
of the highest, where steps would throw thousands of names together.  A threshold is the lowest
probability that keeps the wrong blocks of all harmless rows, and of each large group of them, below
what an operator can answer for.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Knots = list[tuple[float, float]]

PRIOR: Final = 0.05  # share of fraud among names that no rule knows, as analysts meet them
BLOCK_FPR, BLOCK_SLICE_FPR = 0.0001, 0.0005
REVIEW_FPR = 0.005
SLICE_ROWS: Final = 6000  # harmless rows that a group must have to be held to its own rate
# A threshold that just keeps a rate here will not keep it on the next rows.
MARGIN: Final = 0.75

_SPAN, _STEP = 24.0, 0.25  # of the margins that the curve's knots cover


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


def lowest(harmless: Floats, rate: float) -> float:
    """The lowest probability that at most `rate` of the harmless rows reach."""
    allowed = int(rate * len(harmless))
    if not len(harmless):
        return 1.0
    # What may not be reached any more is the score just behind the allowed ones.
    worst = np.sort(harmless)[::-1][min(allowed, len(harmless) - 1)]
    return min(round(float(worst) + 1e-6, 6), 1.0)


def chosen(
    score: Floats, harmless: Mask, hosting: Mask, groups: Mapping[str, Mask]
) -> dict[str, dict[str, float]]:
    """
    ``block_at`` and ``review_at`` for own domains and for shared hosting.

    Args:
        score: probabilities of all rows.
        harmless: which rows are.
        hosting: which rows are on shared hosting.
        groups: of rows; those with `SLICE_ROWS` harmless ones bound `block_at`.
    """
    found = {}
    for name, here in (("own", harmless & ~hosting), ("hosting", harmless & hosting)):
        block = lowest(score[here], BLOCK_FPR * MARGIN)
        for group in groups.values():
            if (group & harmless).sum() >= SLICE_ROWS and (group & here).any():
                # The group's rate is over both kinds; so is the allowance, by its share.
                block = max(block, lowest(score[group & here], BLOCK_SLICE_FPR * MARGIN))
        review = min(lowest(score[here], REVIEW_FPR), block)
        found[name] = {"block_at": block, "review_at": review}
    return found
