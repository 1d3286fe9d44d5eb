"""The evaluation's report: one page, self-contained, deterministic, harmless."""

import html.parser
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="plots are drawn by matplotlib, of the extra train")

from urlguard.classify.evaluation import metrics, plots, report
from urlguard.classify.evaluation.metrics import Interval, Share

ROOT = Path(__file__).parents[3]
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(html.parser.HTMLParser):
    """What stands in a page: its tags with their attributes, its text, and what is not closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open, self.wrong = [], [], [], []
        self.feed(text)
        self.close()

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def made(**more):
    """A run of 400 rows and two classifiers."""
    random = np.random.default_rng(1)
    labels = np.arange(400) % 2
    systems = []
    for name, distance in (("ours", 2.0), ("linear", 1.0)):
        scores = np.round(random.normal(labels * distance, 1), 3)
        points = [metrics.tpr_at_fpr(labels, scores, fpr) for fpr in (0.1, 0.01)]
        ratios = {} if name == "ours" else {0.1: (1.5, Interval(1.25, 1.75))}
        systems.append(report.System(name, scores, points, ratios))
    return report.Run("name-2000-01-01", labels, systems, **more)


def full():
    """A run with something in every table."""
    chance = np.where(np.arange(400) % 2 == 1, 0.75, 0.25)
    return made(
        about=[("command", "urlguard evaluate")],
        probabilities=chance,
        prior=0.02,
        targets=[report.Target("slice", "≤ 0.05 %", "≤ 0.02 %", "0.06 %", met=False)],
        slices=[report.GroupRow("universities", Share(1, 8000), Share(30, 8000), "kept")],
        sources=[report.GroupRow("a-feed", Share(40, 100))],
        months=[report.GroupRow("2025-12", Share(0, 0))],
        features=[report.Gain("weak", 0.1), report.Gain("strong", 0.9, "what it catches")],
        benign_errors=[report.Example("good.example", 0.99, "a-list")],
        fraud_errors=[report.Example("bad.example", 0.01, "a-feed")],
        mutations=[report.Mutation("homoglyph", Share(50, 100), Share(10, 100), Share(45, 100))],
        families=[
            report.FamilyRow("suppobox", "dictionary", Share(5, 50)),
            report.FamilyRow("conficker", "characters", Share(48, 50)),
        ],
    )


def test_the_page_needs_nothing_from_outside():
    """
    No tag loads anything, no style imports anything, and all references are within the page.
    """
    text = report.page([full(), full()])
    page = Page(text)
    assert not page.open
    assert not page.wrong
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe", "object"})
    for _, attributes in page.tags:
        for key in ("src", "href", "xlink:href"):
            assert attributes.get(key, "#").startswith("#")
        assert not any(key.startswith("on") for key in attributes)
    assert "@import" not in text
    assert "url(http" not in text
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    wanted = {a["href"][1:] for _, a in page.tags if "href" in a}
    wanted |= {a["xlink:href"][1:] for _, a in page.tags if "xlink:href" in a}
    assert wanted <= set(names)


def test_every_figure_stands_in_its_table():
    """
    What an evaluation hands over is found on the page, with intervals and in order.
    """
    text = Page(report.page([full()])).text
    for words in [
        *("urlguard evaluate", "200 fraud and 200 benign", "missed", "universities", "kept"),
        *("0.0125 %", "1.50 [1.25, 1.75]", "a-feed", "40 % [", "what it catches", "a prior of 2"),
        *("good.example", "bad.example", "90% kept", "20% kept", "TPR at FPR 1 %"),
    ]:
        assert words in text
    assert text.index("strong") < text.index("weak")
    assert text.index("conficker") < text.index("suppobox")
    # Of no rows there is no share.
    month = text.index("2025-12")
    assert text[month:].startswith("2025-12 0 – 100 %")


def test_what_was_not_measured_is_said():
    """
    An empty table is no table of zeros.
    """
    text = Page(report.page([made()])).text
    assert text.count("Not measured in this run.") == 10


HOSTILE = "<script>alert(1)</script>&amp;\"'\u202e\x1b[31m$x^2$密码"


def test_rows_and_names_cannot_write_the_page():
    """
    Names are criminals' data: no tag, no control and no turned reading direction comes through.
    """
    run = made(
        about=[(HOSTILE, HOSTILE)],
        targets=[report.Target(*[HOSTILE] * 4, met=True)],
        slices=[report.GroupRow(HOSTILE, Share(0, 1), note=HOSTILE)],
        features=[report.Gain(HOSTILE, 0.1, HOSTILE)],
        benign_errors=[report.Example(HOSTILE, 0.9, HOSTILE, HOSTILE)],
        mutations=[report.Mutation(HOSTILE, Share(1, 2), None, Share(1, 2))],
        families=[report.FamilyRow(HOSTILE, HOSTILE, Share(1, 2))],
    )
    ours = run.systems[0]
    hostile = report.System(HOSTILE, ours.scores, ours.points, note=HOSTILE)
    text = report.page([report.Run(HOSTILE, run.labels, [hostile]), run], HOSTILE)
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script>alert(1)</script>&amp;\"'\\u202e\\x1b[31m$x^2$密码" in page.text
    assert "\u202e" not in text
    assert "\x1b" not in text


def test_the_same_run_gives_the_same_octets(tmp_path):
    """
    Also in another process with another hash seed, time zone and settings of matplotlib's.
    """
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9\naxes.grid: True\n")
    code = (
        "import sys, pathlib; from tests.classify.evaluation.test_report import full\n"
        "from urlguard.classify.evaluation import report\n"
        "report.write(pathlib.Path(sys.argv[1]), [full()])"
    )
    pages = []
    for seed, zone in (("1", "UTC"), ("2", "Asia/Shanghai")):
        path = tmp_path / f"{seed}.html"
        extra = {"PYTHONHASHSEED": seed, "TZ": zone}
        if seed == "2":
            extra["MATPLOTLIBRC"] = str(tmp_path / "matplotlibrc")
        environment = {**os.environ, **extra}
        subprocess.run([sys.executable, "-c", code, path], check=True, env=environment, cwd=ROOT)
        pages.append(path.read_bytes())
    assert pages[0] == pages[1]


def test_a_page_too_large_is_not_written(tmp_path, monkeypatch):
    """
    The report is kept in the repository, so its size is bounded.
    """
    monkeypatch.setattr(report, "MAX_OCTETS", 1000)
    with pytest.raises(ValueError, match="at most 1000"):
        report.write(tmp_path / "r.html", [made()])
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize("runs", [[], [report.Run("empty", [0, 1], [])]])
def test_a_report_of_nothing_is_refused(runs):
    """
    There is no page without a measured classifier.
    """
    with pytest.raises(ValueError, match="needs a run"):
        report.page(runs)


@pytest.mark.parametrize("log", [True, False])
def test_thinned_curves_keep_their_shape(log):
    """
    Far fewer points, the same ends, and nowhere further off than a step of the grid.
    """
    random = np.random.default_rng(2)
    labels = np.arange(100_000) % 2
    curve = metrics.roc_curve(labels, random.normal(labels, 1))
    x, y = plots.thinned(curve, log)
    assert x.size < 2000 < curve.x.size
    assert (np.diff(x) >= 0).all()
    assert (x[-1], y[-1]) == (curve.x[-1], curve.y[-1])
    seen = curve.x >= 1e-4
    assert np.abs(np.interp(curve.x[seen], x, y) - curve.y[seen]).max() < 0.01
