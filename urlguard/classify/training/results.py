"""
Measures scored rows: metrics by slice, source, month and DGA family.

Takes rows with a model's probabilities and its thresholds; gives metrics, as plain JSON values for
the card and as dataclasses for the report.  Knows nothing of features and trees.

How it works.  All metrics cover all scored rows; the ranking is also computed over *commercial*
rows: those of sources whose licence allows them to train a model that ships.  Slices are of
harmless rows and give the share that would be blocked; sources and months are of fraud and give the
share that is found.  A row is classified by the thresholds of its own domain or of shared hosting,
as in the resolver; recall at a false-positive rate uses one threshold for all, as rivals have no
others.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from urlguard.classify.evaluation import bootstrap, metrics, report
from urlguard.classify.evaluation.metrics import Point, Share
from urlguard.classify.training.dataset import NONCOMMERCIAL, TOP, Ints, Rows, most_popular
from urlguard.classify.training.provenance import WORDS, family
from urlguard.classify.training.slices import LEAST, slices

RATES: Final = (0.01, 0.001, 0.0001)
FAMILY_FPR: Final = 0.0001
POPULAR: Final = f"popular, top {TOP:,}"
DIGITS: Final = 6

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Thresholds = Mapping[str, Mapping[str, float]]
Mutated = Mapping[str, tuple[int, int, int]]  # rows of fraud, found as they are, found mutated


@dataclass
class Scored:
    """
    Rows with what a model made of them.

    ``score`` and ``hosting`` are in the order of ``chosen``, which are numbers of ``rows``;
    ``hosting`` says which rows are on shared hosting; ``thresholds`` are a card's.
    """

    rows: Rows
    chosen: Ints
    score: Floats
    hosting: Flags
    thresholds: Thresholds
    prior: float

    @property
    def label(self) -> npt.NDArray[np.int8]:
        """1 for fraud, of each chosen row."""
        return self.rows.label[self.chosen]

    def reach(self, threshold: str) -> Flags:
        """Which rows are at or above ``block_at`` or ``review_at``."""
        own, hosting = (self.thresholds[where][threshold] for where in ("own", "hosting"))
        return self.score >= np.where(self.hosting, hosting, own)

    def of(self, column: Sequence[str]) -> npt.NDArray[np.str_]:
        """The values that a column of the rows has for the chosen ones."""
        return np.array([column[n] for n in self.chosen], dtype=np.str_)


@dataclass
class Ranked:
    """How well scores part fraud from the rest; without points where all rows have one label."""

    fraud: int
    harmless: int
    auc: float | None = None
    points: list[Point] = field(default_factory=list)


@dataclass
class Measured:
    """All figures of one set of scored rows."""

    everything: Ranked
    commercial: Ranked
    block: tuple[Share, Share]  # recall, false positives
    review: tuple[Share, Share]
    error: float | None  # expected calibration error at the prior
    slices: list[report.GroupRow]
    sources: list[report.GroupRow]
    months: list[report.GroupRow]
    families: list[report.FamilyRow]


def measure(scored: Scored, rounds: int = metrics.ROUNDS) -> Measured:
    """
    Measure.

    Args:
        scored: at least one row.
        rounds: draws of owners for the intervals of recall; 0 leaves these intervals out.
    """
    fraud = scored.label == 1
    everything = _ranked(scored, np.ones(len(fraud), dtype=np.bool_), rounds)
    source = scored.of(scored.rows.source)
    limited = np.isin(source, sorted(NONCOMMERCIAL))
    commercial = _ranked(scored, ~limited, rounds) if limited.any() else everything
    block, review = scored.reach("block_at"), scored.reach("review_at")
    both = everything.auc is not None
    return Measured(
        everything,
        commercial,
        (_share(block[fraud]), _share(block[~fraud])),
        (_share(review[fraud]), _share(review[~fraud])),
        metrics.calibration_error(metrics.reliability(scored.label, scored.score, scored.prior))
        if both
        else None,
        _slices(scored, block, review),
        _lines(source[fraud], block[fraud], review[fraud], limited[fraud]),
        _lines(
            np.array([day[:7] for day in scored.of(scored.rows.first_seen)[fraud]], dtype=np.str_),
            block[fraud],
            review[fraud],
        ),
        _families(scored, source) if both else [],
    )


def _share(hits: Flags) -> Share:
    return Share(int(hits.sum()), int(hits.size))


def _ranked(scored: Scored, here: Flags, rounds: int) -> Ranked:
    label, score = scored.label[here], scored.score[here]
    fraud = int(label.sum())
    harmless = len(label) - fraud
    if not fraud or not harmless:
        return Ranked(fraud, harmless)
    limits: list[metrics.Interval | None] = [None] * len(RATES)
    if rounds:
        # Numbers instead of names: an array of text takes the longest name's room for each.
        number: dict[str, int] = {}
        names = (scored.rows.owner[n] for n in scored.chosen[here])
        owners = np.array([number.setdefault(name, len(number)) for name in names])
        draws = bootstrap.tpr_draws(label, score, RATES, owners, rounds)
        limits = [bootstrap.percentiles(column) for column in draws.T]
    points = [
        metrics.tpr_at_fpr(label, score, rate, limit)
        for rate, limit in zip(RATES, limits, strict=True)
    ]
    return Ranked(fraud, harmless, metrics.roc_auc(label, score), points)


def _slices(scored: Scored, block: Flags, review: Flags) -> list[report.GroupRow]:
    found = slices(scored.rows, scored.chosen)
    popular = most_popular(scored.rows, scored.chosen)
    if len(popular):
        found = {POPULAR: np.isin(np.arange(len(block)), popular), **found}
    lines = []
    for name, here in found.items():
        note = "" if name == POPULAR or here.sum() >= LEAST else f"fewer than {LEAST:,} rows"
        lines.append(report.GroupRow(name, _share(block[here]), _share(review[here]), note))
    return lines


def _lines(
    group: npt.NDArray[np.str_], block: Flags, review: Flags, limited: Flags | None = None
) -> list[report.GroupRow]:
    blocked, reviewed = metrics.shares(group, block), metrics.shares(group, review)
    never = set(group[limited]) if limited is not None else set()
    return [
        report.GroupRow(
            name or "none", share, reviewed[name], "never trained" if name in never else ""
        )
        for name, share in blocked.items()
    ]


def _families(scored: Scored, source: npt.NDArray[np.str_]) -> list[report.FamilyRow]:
    threshold = metrics.threshold_at(scored.label, scored.score, FAMILY_FPR)
    found = []
    for name in np.unique(source[scored.label == 1]):
        if which := family(str(name)):
            share = metrics.share(scored.score[source == name], threshold)
            kind = "dictionary" if which in WORDS else "characters"
            found.append(report.FamilyRow(which, kind, share))
    return found


# For cards and other programs


def plain(
    found: Measured, mutated: Mutated | None = None, unhardened: Mutated | None = None
) -> dict[str, Any]:
    """
    The figures as JSON values; shares from 0 to 1 with six digits.

    Args:
        found: the figures.
        mutated: what mutations cost.
        unhardened: the same for a model that was trained without mutations.

    A share is ``{"hits", "rows", "value", "low", "high", "at_most"}``: Wilson's interval of 95 %,
    and Clopper and Pearson's one-sided bound.
    """
    return {
        "all": _plain_ranked(found.everything),
        "commercial": _plain_ranked(found.commercial),
        "block_at": {"recall": share(found.block[0]), "false_positives": share(found.block[1])},
        "review_at": {"recall": share(found.review[0]), "false_positives": share(found.review[1])},
        "calibration_error": _round(found.error),
        "slices": _plain_lines(found.slices),
        "sources": _plain_lines(found.sources),
        "months": _plain_lines(found.months),
        "families": {
            each.name: {"made_of": each.kind, **share(each.found)} for each in found.families
        },
        "mutations": _plain_mutated(mutated),
        "mutations_unhardened": _plain_mutated(unhardened),
    }


def _plain_mutated(mutated: Mutated | None) -> dict[str, Any]:
    return {
        name: {"before": share(Share(before, of)), "after": share(Share(after, of))}
        for name, (of, before, after) in (mutated or {}).items()
    }


def ranking(label: npt.NDArray[np.int8], score: Floats) -> dict[str, Any]:
    """How well scores part rows of both labels, as JSON values; without owners' intervals."""
    fraud = int(label.sum())
    points = [metrics.tpr_at_fpr(label, score, rate) for rate in RATES]
    auc = metrics.roc_auc(label, score)
    return _plain_ranked(Ranked(fraud, len(label) - fraud, auc, points))


def share(found: Share) -> dict[str, Any]:
    """A share as JSON values; see `plain`."""
    return {
        "hits": found.hits,
        "rows": found.rows,
        "value": _round(found.value),
        "low": _round(found.interval.low),
        "high": _round(found.interval.high),
        "at_most": _round(found.upper),
    }


def _plain_lines(lines: Sequence[report.GroupRow]) -> dict[str, Any]:
    found = {}
    for line in lines:
        found[line.name] = {"block_at": share(line.block)}
        if line.review is not None:
            found[line.name]["review_at"] = share(line.review)
    return found


def _plain_ranked(found: Ranked) -> dict[str, Any]:
    points = []
    for point in found.points:
        entry = {"fpr": point.target, "threshold": _round(point.threshold), **share(point.fraud)}
        if point.bootstrap is not None:
            entry["drawn_low"] = _round(point.bootstrap.low)
            entry["drawn_high"] = _round(point.bootstrap.high)
        points.append(entry)
    return {
        "fraud": found.fraud,
        "harmless": found.harmless,
        "auc": _round(found.auc),
        "tpr": points,
    }


def _round(value: float | None) -> float | None:
    # JSON knows neither infinity nor what is no number.
    return None if value is None or not math.isfinite(value) else round(value, DIGITS)


# For the report


def run(
    scored: Scored,
    found: Measured,
    title: str,
    about: Sequence[tuple[str, str]] = (),
    features: Sequence[report.Gain] = (),
    mutated: Mutated | None = None,
    unhardened: Mutated | None = None,
    popular: Share | None = None,
    families: Sequence[report.FamilyRow] = (),
) -> report.Run:
    """
    The part of the report on these rows.

    Args:
        scored, found: rows of both labels, and what `measure` made of them.
        title: of the part.
        about: facts to be stated first.
        features: by their part of the trees' gain.
        mutated, unhardened: as in `plain`.
        popular: popular names blocked by the model that ships, where that was measured.
        families: of domain generation algorithms, if they were measured on other rows.

    Raises:
        ValueError: all rows have one label.
    """
    if found.everything.auc is None:
        raise ValueError(f"{title}: a report needs fraud and harmless rows")
    facts = [*about]
    if found.commercial is not found.everything:
        facts.append(("sources that may train, alone", words(found.commercial)))
    facts += [
        ("at block_at", _both(found.block)),
        ("at review_at", _both(found.review)),
    ]
    return report.Run(
        title,
        scored.label,
        [report.System("UrlGuard", scored.score, found.everything.points)],
        facts,
        scored.score,
        scored.prior,
        targets(found, mutated, popular),
        found.slices,
        found.sources,
        found.months,
        features,
        _worst(scored, 0),
        _worst(scored, 1),
        [
            report.Mutation(name, Share(before, of), _soft(unhardened, name), Share(after, of))
            for name, (of, before, after) in (mutated or {}).items()
        ],
        families or found.families,
    )


def _soft(unhardened: Mutated | None, name: str) -> Share | None:
    if unhardened is None:
        return None
    of, _, after = unhardened[name]
    return Share(after, of)


def targets(
    found: Measured, mutated: Mutated | None = None, popular: Share | None = None
) -> list[report.Target]:
    """What was asked of the model and can be told from its own scores, met or not."""
    rows = []
    large = [e for e in found.slices if e.name != POPULAR and e.block.rows >= LEAST]
    if large:
        worst = max(large, key=lambda each: each.block.value)
        measured = f"{worst.name}: {percent(worst.block)}"
        what = f"harmless slices of {LEAST:,} rows or more, blocked"
        met = worst.block.value <= 0.0005
        rows.append(report.Target(what, "≤ 0.05 %", "≤ 0.02 %", measured, met))
    tops = {f"{POPULAR}, new owners": line.block for line in found.slices if line.name == POPULAR}
    if popular is not None and popular.rows:
        tops[f"{POPULAR}, the model that ships, out of fold"] = popular
    for what, block in tops.items():
        met = block.value <= 0.0003
        rows.append(report.Target(f"{what}: blocked", "≤ 0.03 %", "0", percent(block), met))
    if found.error is not None:
        met = found.error <= 0.03
        what = "expected calibration error at the prior"
        rows.append(report.Target(what, "≤ 0.03", "≤ 0.015", f"{found.error:.4f}", met))
    for name, (_, before, after) in (mutated or {}).items():
        kept = Share(min(before, after), before)
        met = kept.rows == 0 or kept.value >= 0.7
        what = f"recall kept when changed by {name}"
        rows.append(report.Target(what, "≥ 70 %", "≥ 90 %", percent(kept), met))
    return rows


def _worst(scored: Scored, label: int) -> list[report.Example]:
    """Harmless rows with the highest scores, or fraud with the lowest; the worst first."""
    places = np.flatnonzero(scored.label == label)
    score = scored.score[places]
    order = np.argsort(score if label else -score, kind="stable")[: report.SHOWN_ERRORS]
    rows = scored.rows
    return [
        report.Example(rows.text[n], float(scored.score[place]), rows.source[n], rows.first_seen[n])
        for place, n in ((place, scored.chosen[place]) for place in places[order])
    ]


# In words


def words(found: Ranked) -> str:
    """A ranking in one line."""
    counts = f"{found.fraud:,} fraud and {found.harmless:,} harmless rows"
    if found.auc is None:
        return counts
    rates = ", ".join(f"{_hundred(p.tpr)} at FPR {p.target * 100:g} %" for p in found.points)
    return f"{counts}: ROC-AUC {found.auc:.4f}, TPR {rates}"


def _both(found: tuple[Share, Share]) -> str:
    return f"recall {percent(found[0])}, false positives {percent(found[1])}"


def percent(found: Share) -> str:
    """A share with its interval and counts."""
    if not found.rows:
        return "no rows"
    low, high = _hundred(found.interval.low), _hundred(found.interval.high)
    return f"{_hundred(found.value)} [{low}, {high}] ({found.hits:,} of {found.rows:,})"


def _hundred(value: float) -> str:
    digits = 1 if value >= 0.1 or value == 0 else 2 if value >= 0.001 else 4
    return f"{value * 100:.{digits}f} %"
