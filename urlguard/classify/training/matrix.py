"""
Feature rows in bulk: each row from tables that have not seen it.

Runs the extractor that serves, in processes of their own; see `features`.
"""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from urlguard.classify.feature_list import BY_KIND
from urlguard.classify.features import Extractor
from urlguard.classify.tables import Tables
from urlguard.classify.training import fit_tables
from urlguard.classify.training.dataset import Ints
from urlguard.processes import lifetime

Matrix = npt.NDArray[np.float32]
CHUNK = 20_000

_extractors: dict[Path, Extractor] = {}


def pool() -> ProcessPoolExecutor:
    """Processes for `extracted` and `hashed`; fresh ones, for LightGBM's threads do not fork."""
    return ProcessPoolExecutor(
        os.cpu_count(),
        multiprocessing.get_context("spawn"),
        initializer=lifetime.watch_parent,
    )


def hashed(
    workers: ProcessPoolExecutor,
    kind: str,
    texts: list[str],
    words: list[str],
    shared: frozenset[str],
) -> fit_tables.Hashed:
    """`fit_tables.hashed` in several processes."""
    pending = [
        workers.submit(fit_tables.hashed, kind, part, words, shared)
        for part in _chunks(texts, 50_000)
    ]
    return fit_tables.joined([one.result() for one in pending])


def extracted(workers: ProcessPoolExecutor, kind: str, texts: list[str], tables: Path) -> Matrix:
    """The features of each text, from the tables in a file."""
    pending = [workers.submit(_rows, kind, part, tables) for part in _chunks(texts, CHUNK)]
    width = len(BY_KIND[kind])
    return np.concatenate([one.result() for one in pending] or [np.zeros((0, width), np.float32)])


def out_of_fold(
    workers: ProcessPoolExecutor,
    kind: str,
    texts: list[str],
    chosen: Ints,
    fold: npt.NDArray[np.int8],
    tables: list[Path],
) -> Matrix:
    """The features of the chosen rows, those of fold n from ``tables[n]``."""
    width = len(BY_KIND[kind])
    found = np.zeros((len(chosen), width), np.float32)
    for number, path in enumerate(tables):
        here = np.flatnonzero(fold == number)
        found[here] = extracted(workers, kind, [texts[n] for n in chosen[here]], path)
    return found


def _chunks(texts: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(texts), size):
        yield texts[start : start + size]


def _rows(kind: str, texts: list[str], tables: Path) -> Matrix:
    extractor = _extractors.get(tables)
    if extractor is None:
        extractor = _extractors[tables] = Extractor(Tables.open(tables))
    if kind == "name":
        return np.array([extractor.name(text) for text in texts], np.float32)
    return np.array([extractor.url(fit_tables.url_of(text)) for text in texts], np.float32)
