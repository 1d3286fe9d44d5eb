"""
The plots of the evaluation's report, as SVG.

Knows metrics and how to draw them; knows no models and no page.  Needs matplotlib, which the extra
``train`` brings.

How it works.  Text stays text, the salt for identifiers is fixed and there is no date, so the same
metrics give the same octets.  matplotlib draws in placeholder colours, which `embedded` replaces by
CSS variables: a plot is readable on a light and on a dark page.  A curve over hundreds of thousands
of rows is thinned to the points that can be seen.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from urlguard.classify.evaluation import metrics
from urlguard.classify.evaluation.metrics import Curve, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

System = tuple[str, ArrayLike]  # what was measured: its name, and its scores

_SALT = "urlguard"
_GRID = 400  # steps along an axis
_LEAST_FPR = 1e-5

# The placeholder colours, and the CSS variables that replace them.
_INK, _FAINT = "#010203", "#040506"
_ROLES = {_INK: "--ink", _FAINT: "--faint"}
_LINES = ("#0a0101", "#0a0102", "#0a0103", "#0a0104", "#0a0105", "#0a0106", "#0a0107", "#0a0108")
_ROLES |= {colour: f"--line{number}" for number, colour in enumerate(_LINES)}
_STYLES = ("-", "--", "-.", ":")


def roc(labels: ArrayLike, systems: Sequence[System], rates: Iterable[float]) -> str:
    """The ROC curves as SVG; vertical lines mark the false-positive `rates`."""

    def draw(axes: "Axes") -> None:
        axes.set_xscale("log")
        axes.set_xlim(_LEAST_FPR, 1)
        ticks = [_LEAST_FPR, 1e-4, 1e-3, 1e-2, 1e-1, 1]
        axes.set_xticks(ticks, [f"{tick * 100:g} %" for tick in ticks])
        axes.set_ylim(0, 1)
        axes.set_xlabel("false-positive rate")
        axes.set_ylabel("true-positive rate")
        for number, (name, scores) in enumerate(systems):
            curve = metrics.roc_curve(labels, scores)
            x, y = thinned(curve, log=True)
            _line(axes, number, x, y, name)
        for rate in rates:
            axes.axvline(rate, color=_FAINT, linewidth=0.8, linestyle=":")
        axes.legend(loc="upper left", frameon=False, labelcolor=_INK)

    return _svg(draw)


def recall(labels: ArrayLike, systems: Sequence[System]) -> str:
    """The precision-recall curves as SVG, with the average precision of each."""

    def draw(axes: "Axes") -> None:
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        for number, (name, scores) in enumerate(systems):
            curve, average = metrics.precision_recall(labels, scores)
            x, y = thinned(curve)
            _line(axes, number, x, y, f"{name}, average {average:.3f}")
        axes.legend(loc="lower left", frameon=False, labelcolor=_INK)

    return _svg(draw)


def reliability(bins: Sequence[metrics.Bin]) -> str:
    """The calibration as SVG: the share of fraud by predicted probability."""

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
    A curve without the points that cannot be seen.

    In each of 400 steps of the x axis the first and last point are kept, and those with the least
    and greatest y.

    Args:
        curve: with x rising.
        log: whether the x axis is logarithmic; points at 0 are then drawn at `_LEAST_FPR`.
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
    shown = f" {printable(label)}"  # matplotlib hides what begins with a "_"
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


def embedded(name: str, svg: str) -> str:
    """An SVG document as a part of a page; its identifiers begin with `name`."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = re.sub(r"font-family: [^;]*; ?", "", body)  # the page's own
    for colour, role in _ROLES.items():
        body = body.replace(colour, f"var({role})")
    # A hundredth of a point is not seen.
    return re.sub(r'\bd="[^"]*"', lambda d: re.sub(r"(\.\d\d)\d+", r"\1", d[0]), body)


def printable(text: str) -> str:
    """Text with control, format and bidirectional characters as their numbers."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
