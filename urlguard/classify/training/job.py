"""
One training as a whole: in a process of its own, from the data to files under their final names.

Knows the order of `pipeline`, `results` and `card`, and how a model's files are published; knows
nothing of terminals.

How it works.  Each model is trained in a fresh process: LightGBM's threads do not survive a fork,
and what one kind took of memory is given back before the next begins.  All files are written to a
folder of their own beside the final place and then renamed, the JSON card last.  Whoever reads a
model begins with that card and compares digests, so between two renames nobody takes half a model
for a whole one; and if one of them fails, what was there before is put back.

The folder holds a locked file as long as its training lives.  A training that was killed leaves the
folder and no lock, by which the next one knows what it may remove.
"""

import fcntl
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np

from urlguard.classify.evaluation import metrics, report
from urlguard.classify.feature_list import BY_KIND
from urlguard.classify.training import card, pipeline, results
from urlguard.errors import UrlGuardError
from urlguard.processes import lifetime

SUFFIXES: Final = (".tables", ".txt", ".md", ".json")  # in the order of publication

_PREFIX, _LOCK = ".training-", "lock"  # of the folder of one training, and the file in it

# Read by libraries when they are loaded.  Threads that wait by spinning starve each other where
# cores are shared; and sums in one thread come out the same however many cores there are.
THREADS: Final = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}

Say = Callable[[str], None]


class TrainingError(UrlGuardError):
    """A training did not come to its end; the message says of which model."""


@dataclass(frozen=True)
class Task:
    """
    What is to be made.

    ``folder`` is where the files are written, see `workplace`; ``command`` is what the card says
    makes them again; ``scores`` a file for the scores of the test rows, as `benchmarks.classify`
    reads them; ``rounds`` the draws for intervals.
    """

    kind: str
    data: Path
    folder: Path
    version: str
    command: str
    scores: Path | None = None
    rounds: int = metrics.ROUNDS

    @property
    def name(self) -> str:
        """Of the model."""
        return f"{self.kind}-{self.version}"


@dataclass(frozen=True)
class Result:
    """A model's card, what was asked of it, and its part of the report."""

    card: dict[str, Any]
    targets: list[report.Target]
    run: report.Run


def make(task: Task, say: Say) -> Result:
    """
    Train in this process; the model's four files are in the task's folder then.

    Raises:
        DataError: the data is not what it should be.
    """
    made = pipeline.train(task.kind, task.data, task.folder, task.version, task.command, say)
    trial, judged, added = made.trial, made.shipped.judged, made.added
    prior = made.card["prior"]
    tested = results.Scored(
        trial.rows, trial.test, trial.score, trial.hosting, trial.thresholds, prior
    )
    fitted = results.Scored(
        trial.rows, judged.chosen, judged.score, judged.hosting, judged.limits, prior
    )
    found = results.measure(tested, task.rounds)
    beside = results.measure(_undated(trial, prior), task.rounds)
    shipped = results.measure(fitted, rounds=0)
    popular = metrics.Share(*made.shipped.popular_blocked)
    say("measured")
    made.card["metrics"] = card.metrics(
        found,
        trial.mutated,
        trial.unhardened,
        trial.thresholds,
        beside,
        shipped,
        popular,
        {
            "without": results.ranking(added.label, added.without),
            "beside": results.ranking(added.label, added.beside),
        },
    )
    (task.folder / f"{task.name}.md").write_text(card.readable(made.card), "utf-8")
    pipeline.write_card(made)
    if task.scores is not None:
        texts = np.array([trial.rows.text[n] for n in trial.test], dtype=np.str_)
        np.savez_compressed(task.scores, text=texts, label=trial.label, score=trial.score)
    run = results.run(
        tested,
        found,
        task.name,
        _about(made.card),
        gains(task.kind, trial.gain),
        trial.mutated,
        trial.unhardened,
        popular,
        shipped.families,
    )
    return Result(made.card, list(run.targets), run)


def _undated(trial: pipeline.Trial, prior: float) -> results.Scored:
    """Fraud of which no day is known, among the harmless rows of the test."""
    harmless = np.flatnonzero(trial.label == 0)
    return results.Scored(
        trial.rows,
        np.concatenate([trial.test[harmless], trial.split.undated]),
        np.concatenate([trial.score[harmless], trial.undated_score]),
        np.concatenate([trial.hosting[harmless], trial.undated_hosting]),
        trial.thresholds,
        prior,
    )


def gains(kind: str, found: list[tuple[str, float]]) -> list[report.Gain]:
    """Features by their part of the whole gain."""
    defined = BY_KIND[kind]
    catches = {feature.name: feature.catches for feature in defined}
    whole = sum(gain for _, gain in found) or 1.0
    return [report.Gain(name, gain / whole, catches.get(name, "")) for name, gain in found]


def _about(made: dict[str, Any]) -> list[tuple[str, str]]:
    split = made["split"]
    parts = "; ".join(
        f"{name} {counts['fraud']:,} fraud, {counts['harmless']:,} harmless"
        for name, counts in split["rows"].items()
    )
    return [
        ("made by", made["command"]),
        (
            "what is measured",
            "a trial of the recipe on owners that it has not seen, and on fraud first seen from "
            f"{split['test_from']} on",
        ),
        ("rows", parts),
        ("features", f"{len(made['features'])}, digest {made['features_digest']}"),
    ]


def run(task: Task, say: Say) -> Result:
    """
    `make` in a process of its own.

    Raises:
        UrlGuardError: as `make`; or the process died.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(task, theirs))
    before = dict(os.environ)
    os.environ.update(THREADS)
    try:
        child.start()
    finally:
        for name in THREADS.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
    theirs.close()
    try:
        while True:
            what, value = ours.recv()
            if what == "progress":
                say(value)
            elif what == "made":
                result: Result = value
                return result
            else:
                raise value
    except EOFError:
        child.join()
        hint = "; was memory short? 12 GiB are enough" if child.exitcode == -signal.SIGKILL else ""
        raise TrainingError(
            f"{task.name}: the process that trained it ended with code {child.exitcode}{hint}"
        ) from None
    finally:
        child.terminate()
        child.join()
        ours.close()


def _child(task: Task, answers: Connection) -> None:
    # Whoever started us hears of Ctrl-C as well, and ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lifetime.watch_parent()
    try:
        answer: tuple[str, Any] = (
            "made",
            make(task, lambda words: answers.send(("progress", words))),
        )
    except (UrlGuardError, OSError) as exc:
        answer = ("failed", exc)
    answers.send(answer)


@contextmanager
def workplace(out: Path, say: Say) -> Iterator[Path]:
    """
    A folder for the files of one training, below the folder of models; removed at the end.

    Removes first what trainings that were killed have left there.
    """
    _sweep(out, say)
    folder, lock = _claimed(out)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _claimed(out: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=out))
        # Somebody who sweeps may take it for a leftover before it has its lock.
        if (lock := _locked(folder, os.O_CREAT)) is not None:
            return folder, lock


def _locked(folder: Path, flags: int = 0) -> int | None:
    """The open and locked lock of a folder; None if another holds it, or there is none."""
    path = folder / _LOCK
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between the two steps whoever held it may have removed it.
        if os.path.samestat(os.fstat(lock), path.stat()):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None


def _sweep(out: Path, say: Say) -> None:
    for folder in out.glob(f"{_PREFIX}*"):
        if folder.is_symlink() or not folder.is_dir():
            continue
        try:
            lock = _locked(folder)
        except OSError:  # somebody else's, who will have to remove it
            continue
        if lock is None:
            # Of one that lives; or of one that was killed before it had a lock, and is empty.
            # What else has no lock is none of ours, whatever its name.
            with suppress(OSError):
                folder.rmdir()
            continue
        try:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
        say(f"removed {folder.name}, which a training that was killed had left")


def existing(to: Path, name: str) -> list[Path]:
    """Those of a model's files that are in a folder already, the card first."""
    paths = [to / f"{name}{suffix}" for suffix in reversed(SUFFIXES)]
    return [path for path in paths if os.path.lexists(path)]


def publish(folder: Path, to: Path, name: str, *, force: bool = False) -> None:
    """
    Give a model's files their final place: all of them, or none.

    Args:
        folder: where they are, on the same file system.
        to: the folder of models.
        name: of the model.
        force: replace the files of that name.

    Raises:
        TrainingError: there are such files, and they must not be replaced.
        OSError: a file is not there or cannot be placed; what was in the place before is there
            again.
    """
    paths = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    there = existing(to, name)
    if there and not force:
        raise TrainingError(f"{there[0]}: is there already; must not be replaced without --force")
    before = Path(tempfile.mkdtemp(prefix="before-", dir=folder))
    for path in there:
        shutil.copy2(path, before)
    try:
        for path in paths:
            path.replace(to / path.name)
    except BaseException:
        # Ctrl-C and SIGTERM come here too.  The card is last again.
        for path in paths:
            kept = before / path.name
            if kept.exists():
                kept.replace(to / path.name)
            else:
                (to / path.name).unlink(missing_ok=True)
        raise
    place = os.open(to, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)
