"""
What was asked of the classifier beside its rivals, and whether it came.

How many times a rival's share of fraud ours must be, and should be, at a false-positive rate of the
same test rows.  The ratio itself decides, as it was asked for; its interval stands beside it, and
tells how sure that is.
"""

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.classify.comparison import RATES, Found
from urlguard.classify.evaluation.metrics import Interval


class Must(NamedTuple):
    """One figure that was asked for."""

    rival: str
    fpr: float
    least: float  # ours by theirs
    aim: float


MUSTS = {
    "name": (
        Must("plain", 0.001, 1.35, 1.7),
        Must("plain", 0.0001, 1.3, 1.8),
        Must("cnn", 0.001, 1.3, 1.6),
    ),
    "url": (
        Must("plain", 0.001, 1.13, 1.25),
        Must("plain", 0.0001, 1.5, 1.9),
    ),
}


class Evaluated(NamedTuple):
    """A must and what was measured; None if that rival did not run."""

    must: Must
    measured: tuple[float, Interval] | None

    @property
    def met(self) -> bool | None:
        """Whether it is met; None if it was not measured."""
        # What is no number, as of nothing by nothing, meets nothing.
        return None if self.measured is None else self.measured[0] >= self.must.least

    def __str__(self) -> str:
        must = self.must
        what = f"TPR at FPR {must.fpr * 100:g} % by that of {must.rival}"
        wanted = f"must ≥ {must.least:g}, aim ≥ {must.aim:g}"
        if self.measured is None:
            return f"not measured: {what}: {wanted}"
        value, interval = self.measured
        figure = f"{value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
        return f"{'met' if self.met else 'missed'}: {what}: {figure}; {wanted}"


def evaluated(kind: str, found: Sequence[Found]) -> list[Evaluated]:
    """All musts of a kind, each with the ratio that was measured."""
    ratios = {
        (each.name, rate): measured
        for each in found
        for rate, measured in zip(RATES, each.ratios, strict=False)  # ours has none
    }
    return [Evaluated(must, ratios.get((must.rival, must.fpr))) for must in MUSTS[kind]]
