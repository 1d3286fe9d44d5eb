"""
The recipe: from a folder of labelled rows to a model that ships, and to what is known of it.

Knows every step and their order; prints nothing itself.

How it works.  Thrice the same steps, see `grow.fitted`:

    trial   on the rows that train (`rows.split`): its calibration comes from the rows that
            calibrate and its figures from the rows that test, which are newer and of other owners
    added   the same with the rows that may not train, to say what they would add; thrown away
    final   on every row that may train: this ships.  Each fold's rows are scored by trees without
            it, so that the curve and the thresholds rest on every harmless row instead of a few
"""

import hashlib
import json
import random
import tempfile
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import lightgbm
import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning

from urlguard.classify import features
from urlguard.classify.model import FORMAT
from urlguard.classify.mutations import MUTATIONS, URL_MUTATIONS
from urlguard.classify.tables import Tables
from urlguard.classify.training import boost, fit, grow, matrix, rows, thresholds
from urlguard.classify.training.grow import Fitted, Say
from urlguard.classify.training.matrix import Matrix
from urlguard.classify.training.rows import FOLDS, DataError, Ints, Rows, Split
from urlguard.classify.training.slices import slices

Floats = npt.NDArray[np.float64]

MUTATED_SAMPLE: Final = 8000  # fraud rows of the test that are mutated in each way
TOP: Final = 10_000  # popular names that the shipped model is tried on

Mutated = dict[str, tuple[int, int, int]]


@dataclass
class Added:
    """
    What rows under non-commercial licences would have added, had they trained.

    Test rows that neither model knows the owner of, with the margins of both.
    """

    label: npt.NDArray[np.int8]
    without: Floats
    beside: Floats


@dataclass
class Trial:
    """What the test rows say of the recipe; arrays are in the order of ``test``."""

    rows: Rows
    split: Split
    test: Ints
    label: npt.NDArray[np.int8]
    raw: Floats
    score: Floats
    hosting: npt.NDArray[np.bool_]
    thresholds: dict[str, dict[str, float]]
    gain: list[tuple[str, float]]
    # For each mutation: rows of fraud, how many are found at FPR 0.1 %, and how many mutated.
    mutated: Mutated
    unhardened: Mutated  # the same by trees that were grown without mutated copies


@dataclass
class Shipped:
    """The model that ships, and the scores of rows by trees that have not seen them."""

    chosen: Ints  # row numbers of ``score``
    score: Floats
    hosting: npt.NDArray[np.bool_]
    popular_blocked: tuple[int, int]  # of the most popular names, at ``block_at``; of how many
    gain: list[tuple[str, float]]


@dataclass
class Made:
    """All that a training makes; files lie in ``folder``, named by the card."""

    card: dict[str, Any]
    trial: Trial
    added: Added
    shipped: Shipped
    folder: Path


def train(kind: str, data: Path, folder: Path, version: str, command: str, say: Say) -> Made:
    """
    Train a model of a kind.

    Args:
        kind: ``name`` or ``url``.
        data: folder of the CSV files; see `rows.load`.
        folder: where the model's tables, booster and JSON card are written.
        version: a date.
        command: what the card says makes it again.
        say: gets a line for each step.

    Raises:
        DataError: the data is not what it should be.
    """
    found = rows.load(data, kind)
    other = rows.load(data, "url" if kind == "name" else "name")
    say(f"{len(found):,} rows, {int(found.label.sum()):,} of them fraud")
    with (
        tempfile.TemporaryDirectory(dir=folder) as work,
        matrix.pool() as workers,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)  # see `fit.STEPS`
        folders = [Path(work, name) for name in ("trial", "added", "final")]
        for one in folders:
            one.mkdir()
        trial_folder, added_folder, final_folder = folders
        steps = [partial(_prefixed, say, one.name) for one in folders]
        trial = _trial(found, other, trial_folder, workers, steps[0])
        added = _added(found, other, trial, added_folder, workers, steps[1])
        made = _final(found, other, final_folder, workers, steps[2])
        fitted, curve, limits, shipped = made
        name = f"{kind}-{version}"
        (folder / f"{name}.tables").write_bytes(fitted.whole.read_bytes())
        (folder / f"{name}.txt").write_text(fitted.booster.model_to_string(), "utf-8")
    card = {
        "format": FORMAT,
        "name": name,
        "kind": kind,
        "made": version,
        "command": command,
        "features": grow.feature_names(kind),
        "features_digest": features.digest(kind),
        "booster_sha256": _sha256(folder / f"{name}.txt"),
        "tables_sha256": _sha256(folder / f"{name}.tables"),
        "calibration": curve,
        "thresholds": limits,
        "prior": thresholds.PRIOR,
        "sources": _sources(found),
        "split": _said(found, trial.split),
    }
    return Made(card, trial, added, shipped, folder)


def _prefixed(say: Say, step: str, text: str) -> None:
    say(f"{step}: {text}")


def write_card(made: Made) -> Path:
    """Write the JSON card beside the model's other files; the model is complete then."""
    path = made.folder / f"{made.card['name']}.json"
    path.write_text(json.dumps(made.card, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return path


def _trial(found: Rows, other: Rows, folder: Path, workers: ProcessPoolExecutor, say: Say) -> Trial:
    parts = rows.split(found)
    _check(found, parts)
    hidden = {found.owner[n] for part in parts[1:] for n in part}
    words = _vocabulary(found, parts.train, other, hidden)
    fitted = grow.fitted(found, parts.train, words, folder, workers, say)
    raw = {
        name: boost.raw(fitted.booster, _whole(found, part, fitted, workers))
        for name, part in (("calibrate", parts.calibrate), ("test", parts.test))
    }
    curve = thresholds.calibrated(raw["calibrate"], found.label[parts.calibrate])
    known = Tables.open(fitted.whole)
    score = {name: thresholds.probabilities(values, curve) for name, values in raw.items()}
    hosting = {name: _hosting(known, found, part) for name, part in parts._asdict().items()}
    limits = thresholds.chosen(
        score["calibrate"],
        found.label[parts.calibrate] == 0,
        hosting["calibrate"],
        _groups(found, parts.calibrate),
    )
    say("calibrated and tested")
    label = found.label[parts.test]
    every = np.ones(len(fitted.chosen), bool)
    plain = grow.grown(found, fitted, every, np.zeros(len(fitted.copied), bool))
    mutated, unhardened = _mutated(found, parts.test, fitted, [fitted.booster, plain], workers)
    say("mutated")
    return Trial(
        found,
        parts,
        parts.test,
        label,
        raw["test"],
        score["test"],
        hosting["test"],
        limits,
        boost.gain(fitted.booster),
        mutated,
        unhardened,
    )


def _check(found: Rows, parts: Split) -> None:
    for name, part in parts._asdict().items():
        for label, what in ((1, "fraud"), (0, "harmless names")):
            if not (found.label[part] == label).any():
                raise DataError(
                    f"{found.kind}: no {what} to {name}: fraud first seen before "
                    f"{rows.CALIBRATE_FROM} trains, from {rows.TEST_FROM} on it tests, and what "
                    "lies between calibrates; harmless rows are parted by their owners"
                )


def _added(
    found: Rows,
    other: Rows,
    trial: Trial,
    folder: Path,
    workers: ProcessPoolExecutor,
    say: Say,
) -> Added:
    """Train once more, with the rows that may not, and throw the model away."""
    parts = rows.split(found, limited=True)
    hidden = {found.owner[n] for part in parts[1:] for n in part}
    words = _vocabulary(found, parts.train, other, hidden)
    fitted = grow.fitted(found, parts.train, words, folder, workers, say)
    both, here, _ = np.intersect1d(trial.test, parts.test, return_indices=True)
    raw = boost.raw(fitted.booster, _whole(found, both, fitted, workers))
    return Added(found.label[both], trial.raw[here], raw)


def _mutated(
    found: Rows,
    test: Ints,
    fitted: Fitted,
    boosters: list[lightgbm.Booster],
    workers: ProcessPoolExecutor,
) -> list[Mutated]:
    """How much fraud each booster finds at FPR 0.1 %, as it was and in each disguise."""
    matrices = {"": _whole(found, test, fitted, workers)}
    label = found.label[test]
    rng = random.Random(2)  # noqa: S311 - the same sample each time
    fraud = np.flatnonzero(label == 1)
    sample = sorted(rng.sample(fraud.tolist(), min(MUTATED_SAMPLE, len(fraud))))
    ways = MUTATIONS if found.kind == "name" else URL_MUTATIONS
    for name, mutate in ways.items():
        texts = [mutate(found.text[test[n]], rng) for n in sample]
        matrices[name] = matrix.extracted(workers, found.kind, texts, fitted.whole)
    kept: list[Mutated] = []
    for booster in boosters:
        raw = {name: boost.raw(booster, values) for name, values in matrices.items()}
        harmless = np.sort(raw[""][label == 0])[::-1]
        limit = harmless[len(harmless) // 1000]
        caught = int((raw[""][sample] > limit).sum())
        kept.append({n: (len(sample), caught, int((raw[n] > limit).sum())) for n in ways})
    return kept


def _final(
    found: Rows, other: Rows, folder: Path, workers: ProcessPoolExecutor, say: Say
) -> tuple[Fitted, thresholds.Knots, dict[str, dict[str, float]], Shipped]:
    limited = found.noncommercial
    learnt = np.flatnonzero(~limited)
    words = _vocabulary(found, learnt, other, set())
    fitted = grow.fitted(found, learnt, words, folder, workers, say)
    chosen = fitted.chosen
    raw = np.zeros(len(chosen))
    for number in range(FOLDS):
        here = fitted.fold == number
        raw[here] = boost.raw(fitted.without(found, number), fitted.features[here])
        say(f"trees without fold {number + 1} of {FOLDS}")
    # Harmless rows that may not train are new to the model as they are, unless it knows the owner.
    owners = {found.owner[n] for n in learnt}
    beside = np.array(
        [n for n in np.flatnonzero(limited & (found.label == 0)) if found.owner[n] not in owners],
        dtype=np.int64,
    )
    every = np.concatenate([chosen, beside])
    raw = np.concatenate([raw, boost.raw(fitted.booster, _whole(found, beside, fitted, workers))])
    label = found.label[every]
    curve = thresholds.calibrated(raw, label)
    score = thresholds.probabilities(raw, curve)
    hosting = _hosting(Tables.open(fitted.whole), found, every)
    limits = thresholds.chosen(score, label == 0, hosting, _groups(found, every))
    popular = rows.most_popular(found, every, TOP)
    blocked = np.where(hosting, limits["hosting"]["block_at"], limits["own"]["block_at"]) <= score
    shipped = Shipped(
        every,
        score,
        hosting,
        (int(blocked[popular].sum()), len(popular)),
        boost.gain(fitted.booster),
    )
    return fitted, curve, limits, shipped


def _groups(found: Rows, part: Ints) -> dict[str, npt.NDArray[np.bool_]]:
    return {name: flags[part] for name, flags in slices(found).items()}


def _vocabulary(found: Rows, chosen: Ints, other: Rows, hidden: set[str]) -> list[str]:
    """Words of the chosen rows, and of the other kind's rows that may train and are not hidden."""
    texts = [found.text[n] for n in chosen]
    texts += [
        other.text[n] for n in np.flatnonzero(~other.noncommercial) if other.owner[n] not in hidden
    ]
    return fit.vocabulary(texts)


def _whole(found: Rows, part: Ints, fitted: Fitted, workers: ProcessPoolExecutor) -> Matrix:
    texts = [found.text[n] for n in part]
    return matrix.extracted(workers, found.kind, texts, fitted.whole)


def _hosting(tables: Tables, found: Rows, part: Ints) -> npt.NDArray[np.bool_]:
    return np.array([tables.hosting(rows.host(found.text[n])) for n in part], dtype=bool)


def _sources(found: Rows) -> dict[str, dict[str, int]]:
    """For each source: rows in the data, and rows that trained."""
    used = Counter(found.source[n] for n in np.flatnonzero(~found.noncommercial))
    return {
        source: {"rows": count, "trained": used[source]}
        for source, count in sorted(Counter(found.source).items())
    }


def _said(found: Rows, parts: Split) -> dict[str, Any]:
    return {
        "calibrate_from": rows.CALIBRATE_FROM,
        "test_from": rows.TEST_FROM,
        "rows": {
            name: {"fraud": int(found.label[part].sum()), "harmless": _harmless(found, part)}
            for name, part in parts._asdict().items()
        },
    }


def _harmless(found: Rows, part: Ints) -> int:
    return int((found.label[part] == 0).sum())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
