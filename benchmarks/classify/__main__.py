"""
How much fraud do the classifier and its rivals find at the same false-positive rates?

    python -m benchmarks.classify --ours FILE [--kind name|url] [--rivals plain,linear,cnn]
                                  [--data FOLDER] [--card FILE] [--scores FILE]
                                  [--rows N] [--no-record]

Trains each rival on the rows that train ours, and scores the test rows that ours was scored on:
the split is that of ``urlguard train``, by owner and by time; undated fraud is on neither side.
FILE holds our scores of the test rows, as ``urlguard train --scores FOLDER`` writes them.  Prints
ROC-AUC, the share of fraud found at a false-positive rate of 1 %, 0.1 % and 0.01 %, and how many
times a rival's share ours is, all with intervals of 95 % by a bootstrap over owners that finds the
threshold anew in each draw and draws the same owners for all.  Then the same for ours together with
each rival; see ``hybrid.py``.  At the end it says of each ratio that was asked for whether it was
reached; see ``musts.py``.

``--card`` writes the rivals' figures into the card of the model whose trial gave our scores, and
the readable card beside it anew; see ``card.py``.  ``--rows N`` trains the rivals on N rows drawn
from the training rows, to try things out: such a run is never recorded.  ``--scores`` keeps
everybody's scores.  Needs the extras ``train`` and, for the CNN, ``rivals``.

The benchmark fails if our scores are not those of the test rows or of the card, if a rival cannot
tell fraud from benign at all, and, so that nobody's labels have leaked, if one tells them without a
mistake; and once all is written, if a ratio was missed.
"""

import argparse
import importlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.classify import card, musts
from benchmarks.classify.comparison import (
    OURS,
    RATES,
    ROUNDS,
    SEED,
    Floats,
    Found,
    Problem,
    compare,
)
from benchmarks.load import BenchmarkError
from urlguard.classify.evaluation.metrics import Interval
from urlguard.classify.training import dataset as training

SHARED = Path(__file__).parents[3] / "shared" / "data"
RIVALS = {
    "plain": "LightGBM on hashed 2- to 4-grams and counts",
    "linear": "logistic regression on hashed 2- to 5-grams",
    "cnn": "character CNN in the manner of URLNet",
}

Progress = Callable[[str, int, int], None]


def problem(folder: Path, kind: str, limit: int | None = None) -> Problem:
    """
    The training rows, `limit` of them at most, and the test rows.

    Raises:
        training.DataError: the data cannot be read.
    """
    rows = training.load(folder, kind)
    parts = training.split(rows)
    train = parts.train
    if limit is not None and limit < train.size:
        train = np.sort(np.random.default_rng(SEED).choice(train, limit, replace=False))
    return Problem(
        [rows.text[n] for n in train],
        rows.label[train],
        [rows.text[n] for n in parts.test],
        rows.label[parts.test],
        np.array([rows.owner[n] for n in parts.test], dtype=np.str_),
    )


def our_scores(path: Path, task: Problem) -> Floats:
    """
    Our scores in the order of the test rows.

    Args:
        path: with the arrays ``text``, ``label`` and ``score``, a row for each test row in any
            order.

    Raises:
        BenchmarkError: other rows, other labels, or a score that is no probability.
        OSError: the file cannot be read.
    """
    with np.load(path, allow_pickle=False) as file:
        if lacking := {"text", "label", "score"} - set(file.files):
            raise BenchmarkError(f"{path.name}: no array {', '.join(sorted(lacking))}")
        text, label, score = file["text"], file["label"], file["score"]
    given = {str(t): (int(y), float(s)) for t, y, s in zip(text, label, score, strict=True)}
    out = np.empty(len(task.tests))
    for place, (test, wanted) in enumerate(zip(task.tests, task.wanted, strict=True)):
        if test not in given:
            raise BenchmarkError(
                f"{path.name}: no score for test row {test!r}; made from other data?"
            )
        labelled, out[place] = given[test]
        if labelled != wanted:
            raise BenchmarkError(f"{path.name}: {test!r} has label {labelled}, here it is {wanted}")
    if text.size != len(task.tests):
        raise BenchmarkError(f"{path.name}: {text.size} rows, {len(task.tests)} are tested")
    if not ((out >= 0) & (out <= 1)).all():
        raise BenchmarkError(f"{path.name}: scores from {out.min()} to {out.max()}; must be 0 to 1")
    return out


def record(kind: str, trained: int, tested: int, found: Sequence[Found]) -> list[dict[str, Any]]:
    """Rows for the record: the recall at each rate, and ours by theirs, passed or not."""
    met = {(each.must.rival, each.must.fpr): each.met for each in musts.evaluated(kind, found)}
    rows: list[dict[str, Any]] = []
    for each in found:
        about = {"server": each.name, "rules": trained, "queries": tested, "rounds": ROUNDS}
        about["seconds"] = f"{each.seconds:.1f}" if each.seconds else ""
        rows.append({**about, "case": f"{kind}: ROC-AUC", "value": f"{each.auc:.5f}"})
        rows[-1] |= limits(each.area)
        for place, point in enumerate(each.points):
            assert point.bootstrap is not None
            rate = f"{kind}: TPR at FPR {point.target * 100:g} %"
            rows.append({**about, "case": rate, "value": f"{point.tpr:.5f}"})
            rows[-1] |= limits(point.bootstrap)
            if each.ratios:
                value, interval = each.ratios[place]
                rows.append({**about, "case": f"{rate}, {OURS} by it", "value": f"{value:.4f}"})
                rows[-1] |= limits(interval)
                passed = met.get((each.name, point.target))
                rows[-1]["passed"] = "" if passed is None else "yes" if passed else "no"
    return rows


def limits(interval: Interval) -> dict[str, str]:
    """The columns of an interval."""
    return {"value_low": f"{interval.low:.5f}", "value_high": f"{interval.high:.5f}"}


def show(found: Sequence[Found]) -> None:
    """Print the table: shares in per cent, ratios in brackets behind them."""
    width = max(len(each.name) for each in found)
    heads = "".join(f"{f'TPR at FPR {rate * 100:g} %':^46}" for rate in RATES)
    print(f"{'':{width}}   {'ROC-AUC':^24} {heads}       s")
    for each in found:
        line = f"{each.name:{width}}   {each.auc:.4f} [{each.area.low:.4f}, {each.area.high:.4f}] "
        for place, point in enumerate(each.points):
            assert point.bootstrap is not None
            low, high = point.bootstrap.low * 100, point.bootstrap.high * 100
            cell = f"{point.tpr * 100:5.2f} [{low:5.2f}, {high:5.2f}]"
            if each.ratios:
                value, interval = each.ratios[place]
                cell += f"  ×{value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
            line += f"  {cell:44}"
        print(f"{line}{f'{each.seconds:8.0f}' if each.seconds else ''}")
    print(f"In brackets 95 % over {ROUNDS} draws of owners; × is {OURS}'s share by this one's.")


def report_progress(words: str, done: int, total: int) -> None:
    """A line of progress at a terminal, every hundredth step."""
    if sys.stderr.isatty() and (done == total or done % max(1, total // 100) == 0):
        print(f"\r\033[K{words}: {done} of {total}", end="", file=sys.stderr, flush=True)
        if done == total:
            print(file=sys.stderr)


def command(options: argparse.Namespace) -> str:
    """What measures again, without the place of anybody's folders."""
    words = ["python", "-m", "benchmarks.classify"]
    for name in ("ours", "card", "data"):
        path = getattr(options, name)
        if path is not None and path != SHARED:
            words += [f"--{name}", path.name if path.is_absolute() else str(path)]
    words += ["--kind", options.kind]
    if options.rivals != ",".join(RIVALS):
        words += ["--rivals", options.rivals]
    return shlex.join(words)


def main() -> None:
    """Train, score, measure, print, record; ends with an error if a ratio was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.classify")
    parser.add_argument("--ours", type=Path, required=True, help="our scores of the test rows")
    parser.add_argument("--kind", choices=("name", "url"), default="name")
    parser.add_argument("--rivals", default=",".join(RIVALS), help="which, with commas between")
    parser.add_argument("--data", type=Path, default=SHARED, help="folder of the CSV files")
    parser.add_argument("--card", type=Path, help="write the rivals' figures into this JSON card")
    parser.add_argument("--rows", type=int, help="training rows at most; not recorded")
    parser.add_argument("--scores", type=Path, help="keep all scores in this file (npz)")
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args()
    wanted = [name for name in options.rivals.split(",") if name]
    if unknown := set(wanted) - RIVALS.keys():
        parser.error(f"no such rival: {', '.join(sorted(unknown))}; there are {', '.join(RIVALS)}")
    if options.card and options.rows is not None:
        parser.error("--card takes no figures of rivals that trained on --rows only")

    # Threads that wait by spinning starve each other where cores are shared; read when loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        task = problem(options.data, options.kind, options.rows)
        ours = our_scores(options.ours, task)
        before = card.read(options.card, options.kind, task, ours) if options.card else b""
        counts = f"{len(task.items):,} training rows, {len(task.tests):,} test rows"
        print(f"{options.kind}: {counts}, {int(task.wanted.sum()):,} of them fraud")
        rivals, seconds = {}, {}
        for name in wanted:
            module = importlib.import_module(f"benchmarks.classify.{name}")
            begin = time.perf_counter()
            rivals[name] = module.fit_predict(task.items, task.labels, task.tests, report_progress)
            seconds[name] = time.perf_counter() - begin
            print(f"{name}: {RIVALS[name]}, {seconds[name]:.0f} s", flush=True)
        found = compare(task, ours, rivals, seconds)
    except (BenchmarkError, training.DataError, OSError) as exc:
        raise SystemExit(f"benchmarks.classify: {exc}") from exc
    show(found)
    if options.scores:
        arrays = {"text": np.array(task.tests), "label": task.wanted, "ours": ours, **rivals}
        np.savez_compressed(options.scores, **arrays)
    if not options.no_record and options.rows is None:
        made = record(options.kind, len(task.items), len(task.tests), found)
        results.write("classify", made)
    if options.card:
        try:
            rivals_found = card.figures(options.kind, found, wanted, command(options))
            card.write(options.card, before, rivals_found)
        except (BenchmarkError, OSError) as exc:
            raise SystemExit(f"benchmarks.classify: {exc}") from exc
        print(f"written into {options.card} and its readable card")
    evaluated = musts.evaluated(options.kind, found)
    for each in evaluated:
        print(each)
    if missed := [str(each) for each in evaluated if each.met is False]:
        raise SystemExit("; ".join(missed))


if __name__ == "__main__":
    main()
