"""
How much fraud do the classifier and its rivals find at the same false-positive rates?

    python -m benchmarks.classify --ours FILE [--kind name|url] [--rivals plain,linear,cnn]
                                  [--data FOLDER] [--rows N] [--scores FILE] [--no-record]

Trains each rival on the rows that train ours, and scores the test rows that ours was scored on:
the split is that of ``urlguard train``, by owner and by time.  FILE holds our scores of them, as
``urlguard train --scores FOLDER`` writes them.  Prints ROC-AUC, the share of fraud found at a
false-positive rate of 1 %, 0.1 % and 0.01 %, and how many times a rival's share ours is, all with
intervals of 95 % by a bootstrap over owners that finds the threshold anew in each draw and draws
the same owners for all.  Then the same for ours together with each rival; see ``hybrid.py``.

``--rows N`` trains the rivals on N rows drawn from the training rows, to try things out: such a run
is never recorded.  ``--scores`` keeps everybody's scores.  Needs the extras ``train`` and, for the
CNN, ``rivals``.

The benchmark fails if our scores are not those of the test rows, if a rival cannot tell fraud from
benign at all, and, so that nobody's labels have leaked, if one tells them without a mistake.
"""

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import results
from benchmarks.classify import hybrid
from benchmarks.load import BenchmarkError
from urlguard.classify import measures
from urlguard.classify.measures import Interval, Point
from urlguard.classify.training import rows as training

SHARED = Path(__file__).parents[3] / "shared" / "data"
RATES = (0.01, 0.001, 0.0001)
RIVALS = {
    "plain": "LightGBM on hashed 2- to 4-grams and counts",
    "linear": "logistic regression on hashed 2- to 5-grams",
    "cnn": "character CNN in the manner of URLNet",
}
OURS = "UrlGuard"
ROUNDS, SEED = 1000, 1
# A classifier below the first has learnt nothing, one above the second knows the answers.
AUC_FLOOR, AUC_CEILING = 0.55, 0.9999

Floats = NDArray[np.float64]
Progress = Callable[[str, int, int], None]


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
    points: list[Point]
    ratios: list[tuple[float, Interval]]  # ours by this; empty for ours
    seconds: float  # to train and score; 0 where that is not ours to say


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
    found = []
    base: Floats | None = None
    for name, score in scores.items():
        auc = measures.roc_auc(task.wanted, score)
        if not AUC_FLOOR < auc < AUC_CEILING:
            raise BenchmarkError(f"{name}: ROC-AUC {auc:.4f}, must be {AUC_FLOOR} to {AUC_CEILING}")
        draws = measures.replicates(task.wanted, score, RATES, task.owners, rounds, SEED)
        points = [
            measures.point(task.wanted, score, rate, draws[:, place])
            for place, rate in enumerate(RATES)
        ]
        ratios = []
        if base is None:
            base, first = draws, points
        else:
            for place, (we, they) in enumerate(zip(first, points, strict=True)):
                ratios.append(ratio(we, they, base[:, place], draws[:, place]))
        found.append(Found(name, auc, points, ratios, seconds.get(name, 0.0)))
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


def record(kind: str, trained: int, tested: int, found: Sequence[Found]) -> list[dict[str, Any]]:
    """Rows for the record: the recall at each rate, and ours by theirs."""
    rows: list[dict[str, Any]] = []
    for each in found:
        about = {"server": each.name, "rules": trained, "queries": tested, "rounds": ROUNDS}
        about["seconds"] = f"{each.seconds:.1f}" if each.seconds else ""
        rows.append({**about, "case": f"{kind}: ROC-AUC", "value": f"{each.auc:.5f}"})
        for place, point in enumerate(each.points):
            assert point.bootstrap is not None
            rate = f"{kind}: TPR at FPR {point.target * 100:g} %"
            rows.append({**about, "case": rate, "value": f"{point.tpr:.5f}"})
            rows[-1] |= limits(point.bootstrap)
            if each.ratios:
                value, interval = each.ratios[place]
                rows.append({**about, "case": f"{rate}, {OURS} by it", "value": f"{value:.4f}"})
                rows[-1] |= limits(interval)
    return rows


def limits(interval: Interval) -> dict[str, str]:
    """The columns of an interval."""
    return {"value_low": f"{interval.low:.5f}", "value_high": f"{interval.high:.5f}"}


def show(found: Sequence[Found]) -> None:
    """Print the table: shares in per cent, ratios in brackets behind them."""
    width = max(len(each.name) for each in found)
    heads = "".join(f"{f'TPR at FPR {rate * 100:g} %':^46}" for rate in RATES)
    print(f"{'':{width}}   ROC-AUC {heads}       s")
    for each in found:
        line = f"{each.name:{width}}   {each.auc:7.4f} "
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


def told(words: str, done: int, total: int) -> None:
    """A line of progress at a terminal, every hundredth step."""
    if sys.stderr.isatty() and (done == total or done % max(1, total // 100) == 0):
        print(f"\r\033[K{words}: {done} of {total}", end="", file=sys.stderr, flush=True)
        if done == total:
            print(file=sys.stderr)


def main() -> None:
    """Train, score, measure, print and record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.classify")
    parser.add_argument("--ours", type=Path, required=True, help="our scores of the test rows")
    parser.add_argument("--kind", choices=("name", "url"), default="name")
    parser.add_argument("--rivals", default=",".join(RIVALS), help="which, with commas between")
    parser.add_argument("--data", type=Path, default=SHARED, help="folder of the CSV files")
    parser.add_argument("--rows", type=int, help="training rows at most; not recorded")
    parser.add_argument("--scores", type=Path, help="keep all scores in this file (npz)")
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args()
    wanted = [name for name in options.rivals.split(",") if name]
    if unknown := set(wanted) - RIVALS.keys():
        parser.error(f"no such rival: {', '.join(sorted(unknown))}; there are {', '.join(RIVALS)}")

    # Threads that wait by spinning starve each other where cores are shared; read when loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        task = problem(options.data, options.kind, options.rows)
        ours = our_scores(options.ours, task)
        counts = f"{len(task.items):,} training rows, {len(task.tests):,} test rows"
        print(f"{options.kind}: {counts}, {int(task.wanted.sum()):,} of them fraud")
        rivals, seconds = {}, {}
        for name in wanted:
            module = importlib.import_module(f"benchmarks.classify.{name}")
            begin = time.perf_counter()
            rivals[name] = module.fit_predict(task.items, task.labels, task.tests, told)
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


if __name__ == "__main__":
    main()
