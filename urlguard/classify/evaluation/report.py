"""
The evaluation's report: one HTML page with plots and tables.

Takes what an evaluation found, as the plain dataclasses below, and writes one page that needs
nothing from outside: no script, no style sheet, no picture, no font.  Knows measures and how to
show them; knows no models, no features, no data.  Needs matplotlib, which the extra ``train``
brings.

How it works.  matplotlib draws each plot as SVG with text left as text, with one fixed salt for its
identifiers and no date, so that the same figures give the same octets.  It draws in colours that
stand for roles; they are then replaced by CSS variables, so that a plot is readable on a light and
on a dark page.  A curve over hundreds of thousands of rows is thinned to what can be seen: the
first and the last point in each step of a fine grid along the axis as it is drawn.

Names are data of criminals: all text is escaped, and none becomes a link.
"""

import html
import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from urlguard.classify.evaluation import metrics
from urlguard.classify.evaluation.metrics import Curve, Floats, Interval, Point, Share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_OCTETS = 1_500_000
SHOWN_ERRORS = 60  # of each kind
SHOWN_FEATURES = 40
_SALT = "urlguard"
_GRID = 400  # steps along an axis
_LEAST_FPR = 1e-5

# What matplotlib is told to draw with, and the variable that stands there in the page.
_INK, _FAINT = "#010203", "#040506"
_ROLES = {_INK: "--ink", _FAINT: "--faint"}
_LINES = ("#0a0101", "#0a0102", "#0a0103", "#0a0104", "#0a0105", "#0a0106", "#0a0107", "#0a0108")
_ROLES |= {colour: f"--line{number}" for number, colour in enumerate(_LINES)}
_STYLES = ("-", "--", "-.", ":")


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
class Line:
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
class Case:
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
class Family:
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
    slices: Sequence[Line] = ()
    sources: Sequence[Line] = ()
    months: Sequence[Line] = ()
    features: Sequence[Gain] = ()
    benign_errors: Sequence[Case] = ()
    fraud_errors: Sequence[Case] = ()
    mutations: Sequence[Mutation] = ()
    families: Sequence[Family] = ()


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
    parts.append(_figure(f"r{number}roc", _roc(run), "ROC, false-positive rate on a log axis"))
    parts.append(_figure(f"r{number}pr", _recall(run), "Precision and recall among the test rows"))
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


def _lines(lines: Sequence[Line], what: str, heads: tuple[str, str]) -> str:
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


def _cases(cases: Sequence[Case]) -> str:
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


def _families(families: Iterable[Family]) -> str:
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
    plot = _figure(f"r{number}cal", _reliability(bins), caption)
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
    return html.escape(_shown(words))


def _shown(words: str) -> str:
    """Text with what has no picture, or turns the reading direction round, by its number."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)


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


# Plots


def _roc(run: Run) -> str:
    def draw(axes: "Axes") -> None:
        axes.set_xscale("log")
        axes.set_xlim(_LEAST_FPR, 1)
        rates = [_LEAST_FPR, 1e-4, 1e-3, 1e-2, 1e-1, 1]
        axes.set_xticks(rates, [f"{rate * 100:g} %" for rate in rates])
        axes.set_ylim(0, 1)
        axes.set_xlabel("false-positive rate")
        axes.set_ylabel("true-positive rate")
        for number, system in enumerate(run.systems):
            curve = metrics.roc_curve(run.labels, system.scores)
            x, y = thinned(curve, log=True)
            _line(axes, number, x, y, system.name)
        for each in run.systems[0].points:
            axes.axvline(each.target, color=_FAINT, linewidth=0.8, linestyle=":")
        axes.legend(loc="upper left", frameon=False, labelcolor=_INK)

    return _svg(draw)


def _recall(run: Run) -> str:
    def draw(axes: "Axes") -> None:
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        for number, system in enumerate(run.systems):
            curve, average = metrics.precision_recall(run.labels, system.scores)
            x, y = thinned(curve)
            _line(axes, number, x, y, f"{system.name}, average {average:.3f}")
        axes.legend(loc="lower left", frameon=False, labelcolor=_INK)

    return _svg(draw)


def _reliability(bins: Sequence[metrics.Bin]) -> str:
    def draw(axes: "Axes") -> None:
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("probability promised")
        axes.set_ylabel("share of fraud observed")
        axes.plot([0, 1], [0, 1], color=_FAINT, linewidth=0.8)
        promised, observed = [b.predicted for b in bins], [b.observed for b in bins]
        axes.plot(promised, observed, color=_LINES[0], marker="o", markersize=4, linewidth=1.2)

    return _svg(draw)


def thinned(curve: Curve, log: bool = False) -> tuple[Floats, Floats]:
    """
    A curve's points without those that cannot be seen.

    Of the points in one step of the x axis the first and the last stay, and those where y is least
    and greatest.

    Args:
        curve: with x rising.
        log: whether the x axis is logarithmic; points at 0 then stand at `_LEAST_FPR`.
    """
    x = np.maximum(curve.x, _LEAST_FPR) if log else curve.x
    place = np.log10(x) / -math.log10(_LEAST_FPR) if log else x
    step = np.floor(place * _GRID).astype(np.int64)
    starts = np.flatnonzero(np.diff(step, prepend=step[0] - 1))
    ends = np.append(starts[1:], step.size)
    kept: set[int] = set()
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        part = curve.y[start:end]
        kept |= {start, end - 1, start + int(part.argmin()), start + int(part.argmax())}
    order = np.array(sorted(kept), dtype=np.int64)
    return x[order], curve.y[order]


def _line(axes: "Axes", number: int, x: Floats, y: Floats, label: str) -> None:
    # The colours come round again with another dash, and ours is the bold one.
    dash = _STYLES[number // len(_LINES) % len(_STYLES)]
    width = 2.0 if number == 0 else 1.1
    colour = _LINES[number % len(_LINES)]
    shown = f" {_shown(label)}"  # matplotlib hides what begins with a "_"
    axes.plot(x, y, color=colour, linestyle=dash, linewidth=width, label=shown)


def _svg(draw: Callable[["Axes"], None]) -> str:
    """One plot as an SVG element in the page's colours."""
    # Not at the top: the page's tables and the dataclasses serve without it.
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    ink = ("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color")
    settings: dict[Any, Any] = {
        "svg.hashsalt": _SALT,
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "path.simplify": False,
        "text.parse_math": False,  # a dollar sign is a dollar sign
        **dict.fromkeys(ink, _INK),
    }
    out = io.StringIO()
    # From matplotlib's own defaults, whatever the user's settings say.
    with matplotlib.rc_context(), warnings.catch_warnings():
        # Text stays text, so it does not matter what matplotlib's own font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        figure = Figure(figsize=(7.2, 4.4), layout="tight")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.grid(visible=True, color=_FAINT, linewidth=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    return out.getvalue()


def _figure(name: str, svg: str, caption: str) -> str:
    """An SVG document as a part of the page, its identifiers made the page's own."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = re.sub(r"font-family: [^;]*; ?", "", body)  # the page's own
    for colour, role in _ROLES.items():
        body = body.replace(colour, f"var({role})")
    # A hundredth of a point is not seen.
    body = re.sub(r'\bd="[^"]*"', lambda d: re.sub(r"(\.\d\d)\d+", r"\1", d[0]), body)
    return f"<figure>{body}<figcaption>{_text(caption)}</figcaption></figure>"


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
