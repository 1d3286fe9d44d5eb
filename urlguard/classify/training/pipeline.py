"""
The training pipeline: from a folder of labelled rows to a model, its card and its measurements.

Knows every step and their order; prints nothing itself.

How it works.  The same steps run three times (`fit_model.fitted`):

    trial   on the training rows (`dataset.split`), measured on the test rows, which are newer and
            belong to other owners
    added   the same with the rows that may not train, to measure what they would add; discarded
    final   on every row that may train: this model ships

Calibration curve and thresholds of the trial and the final model are made in the same way, so the
trial's metrics hold for the model that ships (`_calibrated`).  The rows of each fold are scored by
tables and trees that were fitted without it, together with rows that train nothing: in the trial
the calibration rows, in the final run the harmless rows under non-commercial licences.  The
harmless rows must have the same mix as those that the thresholds are for.  In the final run they
do: they are all of the data.  In the trial they are the calibration rows alone, because the
training rows come from fewer sources than the test rows.
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
from urlguard.classify.evaluation.mutations import MUTATIONS, URL_MUTATIONS
from urlguard.classify.model import FORMAT
from urlguard.classify.tables import Tables
from urlguard.classify.training import boost, dataset, fit_model, fit_tables, matrix, thresholds
from urlguard.classify.training.dataset import FOLDS, DataError, Ints, Rows, Split
from urlguard.classify.training.fit_model import Fitted, Say
from urlguard.classify.training.matrix import Matrix
from urlguard.classify.training.slices import slices

Floats = npt.NDArray[np.float64]

MUTATED_SAMPLE: Final = 8000  # fraud rows of the test that are mutated in each way

Mutated = dict[str, tuple[int, int, int]]


@dataclass
class Ablation:
    """
    What rows under non-commercial licences would have added, had they trained.

    Test rows that neither model knows the owner of, with the margins of both.
    """

    label: npt.NDArray[np.int8]
    without: Floats
    beside: Floats


@dataclass
class Calibrated:
    """Rows that what scored them has not seen, and the curve and thresholds chosen on them."""

    chosen: Ints
    score: Floats
    hosting: npt.NDArray[np.bool_]
    curve: thresholds.Knots
    limits: dict[str, dict[str, float]]


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
    undated_score: Floats  # of the split's undated rows
    undated_hosting: npt.NDArray[np.bool_]
    gain: list[tuple[str, float]]
    # For each mutation: rows of fraud, how many are found at FPR 0.1 %, and how many mutated.
    mutated: Mutated
    unhardened: Mutated  # the same by trees that were grown without mutated copies


@dataclass
class Shipped:
    """The model that ships, and rows by trees that have not seen them."""

    judged: Calibrated
    popular_blocked: tuple[int, int]  # of the most popular names, at ``block_at``; of how many
    gain: list[tuple[str, float]]


@dataclass
class Made:
    """All that a training makes; files lie in ``folder``, named by the card."""

    card: dict[str, Any]
    trial: Trial
    added: Ablation
    shipped: Shipped
    folder: Path


def train(kind: str, data: Path, folder: Path, version: str, command: str, say: Say) -> Made:
    """
    Train a model of a kind.

    Args:
        kind: ``name`` or ``url``.
        data: folder of the CSV files; see `dataset.load`.
        folder: where the model's tables, booster and JSON card are written.
        version: a date.
        command: what the card says makes it again.
        say: gets a line for each step.

    Raises:
        DataError: the data is not what it should be.
    """
    found = dataset.load(data, kind)
    other = dataset.load(data, "url" if kind == "name" else "name")
    say(f"{len(found):,} rows, {int(found.label.sum()):,} of them fraud")
    with (
        tempfile.TemporaryDirectory(dir=folder) as work,
        matrix.pool() as workers,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)  # see `fit_tables.STEPS`
        folders = [Path(work, name) for name in ("trial", "added", "final")]
        for one in folders:
            one.mkdir()
        trial_folder, added_folder, final_folder = folders
        steps = [partial(_prefixed, say, one.name) for one in folders]
        trial = _trial(found, other, trial_folder, workers, steps[0])
        added = _added(found, other, trial, added_folder, workers, steps[1])
        fitted, shipped = _final(found, other, final_folder, workers, steps[2])
        name = f"{kind}-{version}"
        (folder / f"{name}.tables").write_bytes(fitted.whole.read_bytes())
        (folder / f"{name}.txt").write_text(fitted.booster.model_to_string(), "utf-8")
    card = {
        "format": FORMAT,
        "name": name,
        "kind": kind,
        "made": version,
        "command": command,
        "features": fit_model.feature_names(kind),
        "features_digest": features.digest(kind),
        "booster_sha256": _sha256(folder / f"{name}.txt"),
        "tables_sha256": _sha256(folder / f"{name}.tables"),
        "calibration": shipped.judged.curve,
        "thresholds": shipped.judged.limits,
        "prior": thresholds.PRIOR,
        "sources": _sources(found),
        "split": _counts(found, trial.split),
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
    parts = dataset.split(found)
    _check(found, parts)
    fitted = _tried(found, parts, other, limited=False, folder=folder, workers=workers, say=say)
    judged = _calibrated(found, fitted, parts.calibrate, workers, say, harmless=False)
    known = Tables.open(fitted.whole)
    raw, undated = (
        boost.raw(fitted.booster, _whole(found, part, fitted, workers))
        for part in (parts.test, parts.undated)
    )
    say("tested")
    every = np.ones(len(fitted.chosen), bool)
    plain = fit_model.grown(found, fitted, every, np.zeros(len(fitted.copied), bool))
    mutated, unhardened = _mutated(found, parts.test, fitted, [fitted.booster, plain], workers)
    say("mutated")
    return Trial(
        found,
        parts,
        parts.test,
        found.label[parts.test],
        raw,
        thresholds.probabilities(raw, judged.curve),
        _hosting(known, found, parts.test),
        judged.limits,
        thresholds.probabilities(undated, judged.curve),
        _hosting(known, found, parts.undated),
        boost.gain(fitted.booster),
        mutated,
        unhardened,
    )


def _tried(
    found: Rows,
    parts: Split,
    other: Rows,
    *,
    limited: bool,
    folder: Path,
    workers: ProcessPoolExecutor,
    say: Say,
) -> Fitted:
    """Fit on the rows that train, and on words that these know or the other kind's of the time."""
    hidden = {found.owner[n] for part in parts[1:] for n in part}
    beside = dataset.split(other, limited=limited).train
    words = fit_tables.vocabulary(
        [found.text[n] for n in parts.train]
        + [other.text[n] for n in beside if other.owner[n] not in hidden]
    )
    return fit_model.fitted(found, parts.train, words, folder, workers, say)


def _calibrated(
    found: Rows,
    fitted: Fitted,
    beside: Ints,
    workers: ProcessPoolExecutor,
    say: Say,
    *,
    harmless: bool,
) -> Calibrated:
    """
    Score what the trees grew from, each fold without itself, and other rows `beside`.

    `harmless` says whether harmless rows that the trees grew from count.
    """
    raw = np.zeros(len(fitted.chosen))
    for number in range(FOLDS):
        here = fitted.fold == number
        raw[here] = boost.raw(fitted.without(found, number), fitted.features[here])
        say(f"trees without fold {number + 1} of {FOLDS}")
    counted = harmless | (found.label[fitted.chosen] == 1)
    every = np.concatenate([fitted.chosen[counted], beside])
    others = boost.raw(fitted.booster, _whole(found, beside, fitted, workers))
    raw = np.concatenate([raw[counted], others])
    label = found.label[every]
    curve = thresholds.calibrated(raw, label)
    score = thresholds.probabilities(raw, curve)
    hosting = _hosting(Tables.open(fitted.whole), found, every)
    groups = {name: flags[every] for name, flags in slices(found).items()}
    limits = thresholds.chosen(score, label == 0, hosting, groups)
    return Calibrated(every, score, hosting, curve, limits)


def _check(found: Rows, parts: Split) -> None:
    for name in ("train", "calibrate", "test"):
        part = getattr(parts, name)
        for label, what in ((1, "fraud"), (0, "harmless names")):
            if not (found.label[part] == label).any():
                raise DataError(
                    f"{found.kind}: no {what} to {name}: fraud first seen before "
                    f"{dataset.CALIBRATE_FROM} trains, from {dataset.TEST_FROM} on it tests, and "
                    "what lies between calibrates; harmless rows are parted by their owners"
                )


def _added(
    found: Rows,
    other: Rows,
    trial: Trial,
    folder: Path,
    workers: ProcessPoolExecutor,
    say: Say,
) -> Ablation:
    """Train once more, with the rows that may not, and throw the model away."""
    parts = dataset.split(found, limited=True)
    fitted = _tried(found, parts, other, limited=True, folder=folder, workers=workers, say=say)
    both, here, _ = np.intersect1d(trial.test, parts.test, return_indices=True)
    raw = boost.raw(fitted.booster, _whole(found, both, fitted, workers))
    return Ablation(found.label[both], trial.raw[here], raw)


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
) -> tuple[Fitted, Shipped]:
    limited = found.noncommercial
    learnt = np.flatnonzero(~limited)
    beside = np.flatnonzero(~other.noncommercial)
    words = fit_tables.vocabulary([found.text[n] for n in learnt] + [other.text[n] for n in beside])
    fitted = fit_model.fitted(found, learnt, words, folder, workers, say)
    # Harmless rows that may not train are new to the model as they are, unless it knows the owner.
    owners = {found.owner[n] for n in learnt}
    new = [n for n in np.flatnonzero(limited & (found.label == 0)) if found.owner[n] not in owners]
    judged = _calibrated(found, fitted, np.array(new, dtype=np.int64), workers, say, harmless=True)
    popular = dataset.most_popular(found, judged.chosen)
    block_at = [judged.limits[where]["block_at"] for where in ("own", "hosting")]
    blocked = judged.score >= np.where(judged.hosting, block_at[1], block_at[0])
    counts = (int(blocked[popular].sum()), len(popular))
    return fitted, Shipped(judged, counts, boost.gain(fitted.booster))


def _whole(found: Rows, part: Ints, fitted: Fitted, workers: ProcessPoolExecutor) -> Matrix:
    texts = [found.text[n] for n in part]
    return matrix.extracted(workers, found.kind, texts, fitted.whole)


def _hosting(tables: Tables, found: Rows, part: Ints) -> npt.NDArray[np.bool_]:
    return np.array([tables.hosting(dataset.host(found.text[n])) for n in part], dtype=bool)


def _sources(found: Rows) -> dict[str, dict[str, int]]:
    """For each source: rows in the data, and rows that trained."""
    used = Counter(found.source[n] for n in np.flatnonzero(~found.noncommercial))
    return {
        source: {"rows": count, "trained": used[source]}
        for source, count in sorted(Counter(found.source).items())
    }


def _counts(found: Rows, parts: Split) -> dict[str, Any]:
    return {
        "calibrate_from": dataset.CALIBRATE_FROM,
        "test_from": dataset.TEST_FROM,
        "rows": {
            name: {"fraud": int(found.label[part].sum()), "harmless": _harmless(found, part)}
            for name, part in parts._asdict().items()
        },
    }


def _harmless(found: Rows, part: Ints) -> int:
    return int((found.label[part] == 0).sum())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
