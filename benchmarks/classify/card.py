"""
The rivals' figures in the card of the model that they were measured beside.

Writes ``metrics.rivals`` of the JSON card and the readable card that belongs to it.  Knows cards
and what was found; measures nothing but whether the scores are the card's.

How it works.  A card belongs to scores if both have the same rows and the same ROC-AUC: figures of
one model must not stand in the card of another.  This is found out before rivals train, and so is
whether the readable card can be written.  Both files are written beside their places and renamed,
the JSON card last, as ``urlguard train`` does it.
"""

import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.classify import musts
from benchmarks.classify.comparison import RATES, Floats, Found, Problem
from benchmarks.load import BenchmarkError
from urlguard.classify.evaluation import metrics
from urlguard.classify.evaluation.metrics import Interval
from urlguard.classify.training import card, results

DIGITS = 6  # of a figure, as of all others in a card
_SAME = 2 * 10.0**-DIGITS  # so far may two figures lie apart that were rounded


def figures(
    kind: str, found: Sequence[Found], rivals: Sequence[str], command: str
) -> dict[str, Any]:
    """
    What a card says under ``metrics.rivals``.

    Args:
        kind: ``name`` or ``url``.
        found: ours and the rivals; blends of both are left out.
        rivals: their names.
        command: that measures them again.

    Returns:
        For each rival: ``auc`` with its interval ``auc_drawn``; ``tpr``, shares as elsewhere in a
        card, ``drawn_low`` to ``drawn_high`` by draws of owners; ``ratio``, ours by theirs, with
        ``must``, ``aim`` and ``met`` where so much was asked for.  Then ``command``.  What is
        infinite or no number is null.
    """
    asked = {(each.must.rival, each.must.fpr): each for each in musts.evaluated(kind, found)}
    entries: dict[str, Any] = {}
    for each in found:
        if each.name not in rivals:
            continue
        points, ratios = [], []
        for rate, point, (value, interval) in zip(RATES, each.points, each.ratios, strict=True):
            assert point.bootstrap is not None
            drawn = dict(zip(("drawn_low", "drawn_high"), _ends(point.bootstrap), strict=True))
            points.append({"fpr": rate, **results.share(point.fraud), **drawn})
            low, high = _ends(interval)
            ratios.append({"fpr": rate, "value": _round(value), "low": low, "high": high})
            if evaluated := asked.get((each.name, rate)):
                must = evaluated.must
                ratios[-1] |= {"must": must.least, "aim": must.aim, "met": evaluated.met}
        entries[each.name] = {
            "auc": _round(each.auc),
            "auc_drawn": _ends(each.area),
            "tpr": points,
            "ratio": ratios,
        }
    return {**entries, "command": command}


def read(path: Path, kind: str, task: Problem, ours: Floats) -> bytes:
    """
    The card as it is, after it was found to be that of these scores.

    Raises:
        BenchmarkError: it is no card of this version, or one of another kind or of other scores.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    try:
        found = json.loads(data)
        card.readable(found)
        trial = found["metrics"]["trial"]["all"]
        name, its = found["name"], found["kind"]
        theirs = (trial["fraud"], trial["harmless"], float(trial["auc"]))
    except KeyError as exc:
        raise BenchmarkError(f"{path.name}: no {exc.args[0]!r}; a card must have it") from exc
    except (ValueError, TypeError, AttributeError, RecursionError) as exc:
        raise BenchmarkError(f"{path.name}: not a card: {exc}") from exc
    if (name, its) != (path.stem, kind):
        raise BenchmarkError(f"{path.name}: of {its} model {name}; must be of {kind} {path.stem}")
    fraud = int(task.wanted.sum())
    here = (fraud, len(task.wanted) - fraud, metrics.roc_auc(task.wanted, ours))
    if theirs[:2] != here[:2] or abs(theirs[2] - here[2]) > _SAME:
        raise BenchmarkError(
            f"{path.name}: its trial has {_words(*theirs)}; the scores have {_words(*here)}"
        )
    return data


def write(path: Path, before: bytes, rivals: dict[str, Any]) -> None:
    """
    Put the rivals into a card and the readable card beside it; those in there before are gone.

    Args:
        path: of the JSON card.
        before: what `read` found there.
        rivals: what `figures` makes.

    Raises:
        BenchmarkError: the card has changed since.
        OSError: it cannot be written; the cards are as before, or the readable one is newer.
    """
    if path.read_bytes() != before:
        raise BenchmarkError(f"{path.name}: has changed since the rivals began; they are not in it")
    entries = json.loads(before)
    entries["metrics"]["rivals"] = rivals
    pages = {
        path.with_suffix(".md"): card.readable(entries),
        # As `pipeline.write_card`.
        path: json.dumps(entries, indent=1, ensure_ascii=False) + "\n",
    }
    # With a dot before the name, so that nobody takes them for models.
    partial = {place: place.with_name(f".{place.name}.new") for place in pages}
    try:
        for place, text in pages.items():
            with partial[place].open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if place.exists():
                shutil.copymode(place, partial[place])
        for place in pages:
            partial[place].replace(place)
    finally:
        for each in partial.values():
            each.unlink(missing_ok=True)


def _words(fraud: int, harmless: int, auc: float) -> str:
    return f"{fraud:,} fraud and {harmless:,} harmless rows, ROC-AUC {auc:.{DIGITS}f}"


def _ends(interval: Interval) -> tuple[float | None, float | None]:
    return _round(interval.low), _round(interval.high)


def _round(value: float) -> float | None:
    # JSON knows neither infinity nor what is no number.
    return round(value, DIGITS) if math.isfinite(value) else None
