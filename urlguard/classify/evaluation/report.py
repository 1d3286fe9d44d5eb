"""
The evaluation's report: one HTML page with plots and tables.

Takes the results of an evaluation, as the plain dataclasses below, and writes one page that loads
nothing else: no script, style sheet, picture or font.  Knows metrics and how to show them; knows no
models, features or data.  `plots` draws.

The names come from criminals: all text is escaped, and none becomes a link.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from urlguard.classify.evaluation import metrics, plots
from urlguard.classify.evaluation.metrics import Floats, Interval, Point, Share

MAX_OCTETS = 1_500_000
SHOWN_ERRORS = 60  # of each kind
SHOWN_FEATURES = 40


@dataclass(frozen=True, slots=True)
class System:
    """
    One classifier's scores of the run's test rows: ours, a rival, or a blend.

    Attributes:
        name: as the tables show it.
        scores: one for each of the run's labels; higher is worse.
        points: recall at the rates of interest, from `metrics.tpr_at_fpr`.
        ratios: our recall divided by this one's at the same rates, with its interval, by
            `Point.target`; empty for ours.
        note: what it is, in a few words.
    """

    name: str
    scores: Floats
    points: Sequence[Point]
    ratios: Mapping[float, tuple[float, Interval]] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class GroupRow:
    """
    A slice, source or month: how many of its rows lie at or above each threshold.

    Attributes:
        name: of the slice.
        block: at `block_at`.
        review: at `review_at`; None leaves the cell empty.
        note: for example the bound that the slice must keep.
    """

    name: str
    block: Share
    review: Share | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Gain:
    """A feature with its part of the booster's whole gain, 0 to 1, and what it catches."""

    name: str
    part: float
    catches: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """A row that the model got wrong."""

    text: str
    score: float
    source: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Mutation:
    """
    What one hostile mutation costs.

    Attributes:
        name: of the mutation.
        plain: recall on the rows as they were, before they were mutated.
        before: recall on them mutated, by a model that was trained without mutations; None if
            there is none.
        after: the same by the model of the report.
    """

    name: str
    plain: Share
    before: Share | None
    after: Share


@dataclass(frozen=True, slots=True)
class FamilyRow:
    """Recall of a DGA family that was held out whole; `kind`: characters or dictionary."""

    name: str
    kind: str
    found: Share


@dataclass(frozen=True, slots=True)
class Target:
    """What was asked for and what was measured, in words, with whether it is met."""

    what: str
    must: str
    aim: str
    measured: str
    met: bool


@dataclass(frozen=True, slots=True)
class Run:
    """
    The evaluation of one model.

    Attributes:
        title: of its part of the page, for example ``name-2026-11-24``.
        about: facts in order, such as command, split, sources: what is stated and its words.
        labels: 1 fraud, 0 benign, one for each test row.
        systems: ours first.
        probabilities: ours, calibrated, one for each label; None leaves calibration out.
        prior: the share of fraud that they are meant for; None takes the data's own.
        targets, slices, sources, months, features, benign_errors, fraud_errors, mutations,
            families: the tables, in the order in which they shall stand; an empty one is said to
            be not measured.  Slices are of benign rows; sources and months of fraud rows.
    """

    title: str
    labels: Sequence[int] | np.typing.NDArray[np.generic]
    systems: Sequence[System]
    about: Sequence[tuple[str, str]] = ()
    probabilities: Floats | None = None
    prior: float | None = None
    targets: Sequence[Target] = ()
    slices: Sequence[GroupRow] = ()
    sources: Sequence[GroupRow] = ()
    months: Sequence[GroupRow] = ()
    features: Sequence[Gain] = ()
    benign_errors: Sequence[Example] = ()
    fraud_errors: Sequence[Example] = ()
    mutations: Sequence[Mutation] = ()
    families: Sequence[FamilyRow] = ()


def write(path: Path, runs: Sequence[Run], title: str = "The classifier, measured") -> None:
    """
    Write the report.

    The same runs give the same octets with the same matplotlib.

    Args:
        path: of the page; its folder must exist.
        runs: in the order of the page.
        title: of the page.

    Raises:
        ValueError: a run that cannot be measured, see `metrics.tpr_at_fpr`; no run, or a run
            without a system; or a page of more than `MAX_OCTETS`.
        OSError: the page cannot be written.
    """
    text = page(runs, title)
    octets = text.encode()
    if len(octets) > MAX_OCTETS:
        raise ValueError(f"{path.name}: {len(octets)} octets, at most {MAX_OCTETS}")
    path.write_bytes(octets)


def page(runs: Sequence[Run], title: str = "The classifier, measured") -> str:
    """The page that `write` writes; for its errors see there."""
    if not runs or not all(run.systems for run in runs):
        raise ValueError("a report needs a run, and each run a system")
    parts = [f"<h1>{_text(title)}</h1>", _READING]
    if len(runs) > 1:
        parts.append(
            "<nav>"
            + " · ".join(f'<a href="#run{n}">{_text(r.title)}</a>' for n, r in enumerate(runs))
            + "</nav>"
        )
    parts += [_run(number, run) for number, run in enumerate(runs)]
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_CSS}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


_READING = (
    "<p>TPR is the share of fraud that is found, FPR the share of benign rows called fraud. "
    "An interval in brackets holds the true figure with 95 % confidence. Behind a TPR at an FPR "
    "stand two: Wilson's, with the threshold as it is, and that of a bootstrap over owners that "
    "finds the threshold anew. Shares carry Wilson's; “at most” is Clopper and "
    "Pearson's one-sided bound of 95 %.</p>"
)


def _run(number: int, run: Run) -> str:
    ours = run.systems[0]
    fraud = int(np.asarray(run.labels).astype(bool).sum())
    counts = f"{fraud:,} fraud and {len(run.labels) - fraud:,} benign"
    about = _definitions([*run.about, ("test rows", counts)])
    parts = [f'<h2 id="run{number}">{_text(run.title)}</h2>', about]
    parts += _section("Targets", _targets(run.targets))
    parts += _section("Recall at low false-positive rates", _systems(run))
    systems = [(system.name, system.scores) for system in run.systems]
    parts.append(
        _figure(
            f"r{number}roc",
            plots.roc(run.labels, systems, [each.target for each in run.systems[0].points]),
            "ROC, false-positive rate on a log axis",
        )
    )
    parts.append(
        _figure(
            f"r{number}pr",
            plots.recall(run.labels, systems),
            "Precision and recall among the test rows",
        )
    )
    parts += _section("Calibration", _calibration(number, run))
    heads = ("share at block_at", "share at review_at")
    parts += _section("Benign slices: false positives", _lines(run.slices, "slice", heads))
    heads = ("recall at block_at", "recall at review_at")
    parts += _section("Fraud by source", _lines(run.sources, "source", heads))
    parts += _section("Fraud by month of first_seen", _lines(run.months, "month", heads))
    parts += _section("Strongest features", _features(run.features))
    parts += _section(f"Benign rows that {ours.name} scores highest", _cases(run.benign_errors))
    parts += _section(f"Fraud rows that {ours.name} scores lowest", _cases(run.fraud_errors))
    parts += _section("Hostile mutations", _mutations(run.mutations))
    parts += _section("DGA families held out whole", _families(run.families))
    return "\n".join(parts)


def _section(title: str, content: str) -> list[str]:
    return [f"<h3>{_text(title)}</h3>", content or "<p>Not measured in this run.</p>"]


# Tables


def _targets(targets: Iterable[Target]) -> str:
    rows = []
    for each in targets:
        words = [_text(each.what), _text(each.must), _text(each.aim), _text(each.measured)]
        rows.append([*words, "met" if each.met else "<strong>missed</strong>"])
    return _table(["figure", "must", "aim", "measured", ""], rows, left=range(5))


def _systems(run: Run) -> str:
    ours = run.systems[0]
    rates = [each.target for each in ours.points]
    head = ["classifier", "ROC-AUC"]
    for rate in rates:
        head += [f"TPR at FPR {rate * 100:g} %", f"{ours.name} ÷ it"]
    rows = []
    for system in run.systems:
        row = [_text(system.name), f"{metrics.roc_auc(run.labels, system.scores):.4f}"]
        found = {each.target: each for each in system.points}
        for rate in rates:
            row.append(_point(found.get(rate)))
            ratio, interval = system.ratios.get(rate, (math.nan, Interval(math.nan, math.nan)))
            row.append("" if math.isnan(ratio) else f"{ratio:.2f} {_interval(interval, '.2f')}")
        rows.append(row)
    notes = [(each.name, each.note) for each in run.systems if each.note]
    return _table([_text(each) for each in head], rows) + _definitions(notes)


def _lines(lines: Sequence[GroupRow], what: str, heads: tuple[str, str]) -> str:
    head = [what, "rows", heads[0], "at most", heads[1], ""]
    rows = []
    for line in lines:
        row = [_text(line.name), f"{line.block.rows:,}", _share(line.block)]
        row.append(_percent(line.block.upper))
        row += ["" if line.review is None else _share(line.review), _text(line.note)]
        rows.append(row)
    return _table(head, rows, left=(0, 5))


def _features(features: Sequence[Gain]) -> str:
    strongest = sorted(features, key=lambda each: (-each.part, each.name))[:SHOWN_FEATURES]
    rows = [[_text(f.name), _percent(f.part), _text(f.catches)] for f in strongest]
    return _table(["feature", "part of the gain", "catches"], rows, left=(0, 2))


def _cases(cases: Sequence[Example]) -> str:
    rows = [
        [f"<code>{_text(c.text)}</code>", f"{c.score:.6f}", _text(c.source), _text(c.note)]
        for c in cases[:SHOWN_ERRORS]
    ]
    return _table(["row", "score", "source", ""], rows, left=(0, 2, 3))


def _mutations(mutations: Iterable[Mutation]) -> str:
    rows = []
    for each in mutations:
        row = [_text(each.name), _share(each.plain)]
        row.append("" if each.before is None else _kept(each.before, each.plain))
        rows.append([*row, _kept(each.after, each.plain)])
    head = ["mutation", "recall unchanged", "mutated, trained without", "mutated, trained with"]
    return _table(head, rows)


def _kept(after: Share, plain: Share) -> str:
    if not plain.hits:
        return _share(after)
    return f"{_share(after)}, {after.value / plain.value:.0%} kept"


def _families(families: Iterable[FamilyRow]) -> str:
    rows = [
        [_text(each.name), _text(each.kind), f"{each.found.rows:,}", _share(each.found)]
        for each in sorted(families, key=lambda each: (each.kind, each.name))
    ]
    return _table(["family", "made of", "names", "recall"], rows, left=(0, 1))


def _calibration(number: int, run: Run) -> str:
    if run.probabilities is None:
        return ""
    bins = metrics.reliability(run.labels, run.probabilities, run.prior)
    error = metrics.calibration_error(bins)
    prior = "the test rows' own prior" if run.prior is None else f"a prior of {run.prior:.2%}"
    words = f"Expected calibration error {error:.4f} in {len(bins)} bins of equal mass, at "
    rows = [
        [
            f"{each.low:.4f} to {each.high:.4f}",
            f"{each.rows:,}",
            _percent(each.mass),
            f"{each.predicted:.4f}",
            f"{each.observed:.4f}",
        ]
        for each in bins
    ]
    table = _table(["probability", "rows", "mass", "mean promised", "fraud observed"], rows)
    caption = "Promised and observed; the straight line is perfection"
    plot = _figure(f"r{number}cal", plots.reliability(bins), caption)
    return f"<p>{words}{prior}.</p>\n{plot}\n{table}"


def _definitions(pairs: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<dt>{_text(key)}</dt><dd>{_text(words)}</dd>" for key, words in pairs)
    return f"<dl>{items}</dl>" if items else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """A table of cells that are HTML already; columns of words are set `left`."""
    if not rows:
        return ""

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = [f'{tag} class="w"' if n in left else tag for n in range(len(cells))]
        both = zip(kinds, cells, strict=True)
        return f"<tr>{''.join(f'<{kind}>{cell}</{tag}>' for kind, cell in both)}</tr>"

    lines = [line("th", head), *(line("td", row) for row in rows)]
    return '<div class="t"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _text(words: str) -> str:
    """Text from anywhere, fit to stand in the page."""
    return html.escape(plots.printable(words))


def _percent(share: float) -> str:
    if math.isnan(share):
        return "–"
    hundred = share * 100
    digits = 1 if hundred >= 10 or hundred == 0 else 2 if hundred >= 0.1 else 4
    return f"{hundred:.{digits}f} %".replace(".0 %", " %")


def _share(share: Share) -> str:
    if not share.rows:
        return "–"
    low, high = _percent(share.interval.low), _percent(share.interval.high)
    return f"{_percent(share.value)} <small>[{low}, {high}]</small>"


def _point(point: Point | None) -> str:
    if point is None:
        return "–"
    words = _share(point.fraud)
    if point.bootstrap is not None:
        low, high = _percent(point.bootstrap.low), _percent(point.bootstrap.high)
        words += f" <small>[{low}, {high}]</small>"
    return words


def _interval(interval: Interval, digits: str) -> str:
    return f"<small>[{interval.low:{digits}}, {interval.high:{digits}}]</small>"


def _figure(name: str, svg: str, caption: str) -> str:
    return f"<figure>{plots.embedded(name, svg)}<figcaption>{_text(caption)}</figcaption></figure>"


_CSS = """
:root { color-scheme: light dark; --ink: #222; --faint: #999; --paper: #fff;
  --line0: #c1121f; --line1: #0061a8; --line2: #2a7f2e; --line3: #8a4f00; --line4: #6a3d9a;
  --line5: #007a7a; --line6: #a8327d; --line7: #5a5a5a }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --faint: #777; --paper: #161616;
  --line0: #ff6b6b; --line1: #6cb6ff; --line2: #7bd47f; --line3: #e0a458; --line4: #c3a0f0;
  --line5: #5fd0d0; --line6: #f08cc8; --line7: #b5b5b5 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin-top: 3rem; border-top: 2px solid var(--faint); padding-top: 1rem }
a { color: var(--line1) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; font-size: .9rem }
dt { font-weight: 600 } dd { margin: 0; overflow-wrap: anywhere }
.t { overflow-x: auto } table { border-collapse: collapse; font-size: .85rem }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid var(--faint);
  vertical-align: top; font-variant-numeric: tabular-nums }
.w { text-align: left } code { overflow-wrap: anywhere; word-break: break-all }
small { opacity: .75; white-space: nowrap }
figure { margin: 1rem 0 } figure svg { max-width: 100%; height: auto }
figcaption { font-size: .85rem; opacity: .75 }
"""
