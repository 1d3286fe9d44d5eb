"""
Fits the tables on labelled rows: the evidence of n-grams, keys and words.

Knows rows and the strings that `features` looks up; knows nothing of trees.

How it works.  Every string that is looked up is hashed once for all rows (`Hashed`).  A fit then
counts, and solves one logistic regression over the n-grams; it can be made on any part of the rows,
so that a row's own features can come from tables that have not seen it.  Odds are smoothed: two
names of one kind prove little, two hundred much.
"""

import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sparse
from sklearn.linear_model import LogisticRegression

from urlguard import urls
from urlguard.classify import strings
from urlguard.classify.brands import Brands
from urlguard.classify.tables import ODDS_UNIT, WEIGHT_UNIT, Tables
from urlguard.classify.training.dataset import Ints

WEIGHT_BITS: Final = 20  # places for n-grams
KEY_BITS: Final = 21
COMMON_BITS: Final = 17
# scikit-learn's C.  A URL's n-grams are scaled to length 1, for one has many times those of another
# URL; see `features.Extractor.url`.
REGULARISATION: Final = {"name": 0.05, "url": 3.0}
STEPS: Final = 40  # of the solver
SMOOTHING: Final = 2.0  # rows that every key is taken to have had before, at the common rate
LEAST: Final = 2  # rows with a key, for it to be remembered
WORDS: Final = 40_000
WORD_LEAST: Final = 10  # rows with a word, for it to be one
COMMON_STEPS: Final = 6  # of `common` for each doubling

_token = re.compile(r"[a-z]{3,15}").findall

Progress = Callable[[str], None]


def url_of(text: str) -> urls.Url:
    """The URL of a row."""
    return urls.parse(f"http://{text}")


@dataclass
class Hashed:
    """
    What is looked up for each row, hashed.

    ``grams`` has all rows' n-grams one after another, row n's from ``starts[n]`` on; ``common``
    and ``words`` are alike, of the label's trigrams and of words' numbers; ``keys`` has one column
    for each kind of key, and then the brand's, 0 if there is none.
    """

    kind: str
    grams: npt.NDArray[np.uint32]
    starts: Ints
    common: npt.NDArray[np.uint32]
    common_starts: Ints
    keys: npt.NDArray[np.uint32]
    words: Ints
    word_starts: Ints
    vocabulary: list[str]

    def __len__(self) -> int:
        return len(self.starts) - 1


def vocabulary(texts: Iterable[str]) -> list[str]:
    """The words of hosts and paths that occur in the most rows; labels do not matter here."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(_token(text)))
    found = [(count, word) for word, count in counts.items() if count >= WORD_LEAST]
    return sorted(word for _, word in sorted(found, reverse=True)[:WORDS])


def hashed(kind: str, texts: list[str], words: list[str], shared: frozenset[str]) -> Hashed:
    """Hash what is looked up for each row."""
    cut = Tables(
        {"weights": [0], "common": [0], "keys": [0], "word_odds": [0] * len(words)}, words, shared
    ).cut
    brands = Brands.load()
    grams, keys = array("I"), array("I")
    common, numbers = array("I"), array("q")
    starts, common_starts, word_starts = array("q", [0]), array("q", [0]), array("q", [0])
    for text in texts:
        if kind == "url":
            url = url_of(text)
            name = strings.host_of(url)
        else:
            name = text
        piece = strings.pieces(name, shared)
        label, before = piece.label.encode(), piece.before.encode()
        here = strings.label_grams(label)
        common.extend(here[: len(label)])
        grams.extend(here)
        grams.extend(strings.before_grams(before))
        grams.extend(strings.suffix_grams(piece.suffix))
        keys.extend(strings.keys(piece.suffix, label, before))
        seen = {number for part in (piece.label, piece.before) for _, number in cut(part)}
        hits = brands.find(piece.label) or brands.find(piece.before)
        if kind == "url":
            path, query, _ = strings.tail(url)
            grams.extend(strings.tail_grams(path, strings.IN_PATH))
            if query:
                grams.extend(strings.tail_grams(query, strings.IN_QUERY))
            keys.extend(strings.path_keys(path, query))
            seen.update(number for _, number in cut(path))
            hits = hits or brands.find(path)
        # The plainest, as `features` takes it.
        best = min(hits, key=lambda hit: hit.kind) if hits else None
        keys.append(strings.brand_key(best.brand) if best else 0)
        numbers.extend(seen)
        starts.append(len(grams))
        common_starts.append(len(common))
        word_starts.append(len(numbers))
    columns = len(keys) // max(len(texts), 1)
    return Hashed(
        kind,
        np.frombuffer(grams, np.uint32),
        np.frombuffer(starts, np.int64),
        np.frombuffer(common, np.uint32),
        np.frombuffer(common_starts, np.int64),
        np.frombuffer(keys, np.uint32).reshape(-1, columns),
        np.frombuffer(numbers, np.int64),
        np.frombuffer(word_starts, np.int64),
        words,
    )


def joined(parts: list[Hashed]) -> Hashed:
    """Hashes of consecutive rows, put together."""

    def starts(field: str) -> Ints:
        sizes = [np.diff(getattr(part, field)) for part in parts]
        return np.concatenate([[0], *sizes]).cumsum()

    def values(field: str) -> npt.NDArray[np.uint32]:
        return np.concatenate([getattr(part, field) for part in parts])

    return Hashed(
        parts[0].kind,
        values("grams"),
        starts("starts"),
        values("common"),
        starts("common_starts"),
        values("keys"),
        values("words").astype(np.int64),
        starts("word_starts"),
        parts[0].vocabulary,
    )


def fit(
    rows: Hashed,
    label: npt.NDArray[np.int8],
    chosen: Ints,
    weight: npt.NDArray[np.float64],
    shared: frozenset[str],
) -> Tables:
    """
    Tables that know the chosen rows and no others.

    Args:
        rows: all rows.
        label: 1 for fraud, of all rows.
        chosen: numbers of the rows to learn from.
        weight: of each row, all rows.
        shared: see `Tables`.
    """
    truth, mass = label[chosen], weight[chosen]
    return Tables(
        {
            "weights": _weights(rows, truth, chosen, mass),
            "common": _common(rows, chosen[truth == 0]),
            "keys": _keys(rows, truth, chosen, mass),
            "word_odds": _word_odds(rows, truth, chosen, mass),
        },
        rows.vocabulary,
        shared,
    )


def _gather(values: npt.NDArray[np.uint32], starts: Ints, chosen: Ints) -> tuple[Ints, Ints]:
    """The values of the chosen rows one after another, and how many each row has."""
    sizes = np.diff(starts)[chosen]
    ends = sizes.cumsum()
    places = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - sizes, sizes)
    return values[places + np.repeat(starts[chosen], sizes)].astype(np.int64), sizes


def _weights(
    rows: Hashed, truth: npt.NDArray[np.int8], chosen: Ints, mass: npt.NDArray[np.float64]
) -> "array[int]":
    size = 1 << WEIGHT_BITS
    grams, sizes = _gather(rows.grams, rows.starts, chosen)
    columns, inverse = np.unique(grams & (size - 1), return_inverse=True)
    scale = 1 / np.sqrt(sizes) if rows.kind == "url" else np.ones(len(sizes))
    matrix = sparse.csr_matrix(
        (
            np.repeat(scale.astype(np.float32), sizes),
            inverse.astype(np.int32),
            np.concatenate([[0], sizes.cumsum()]),
        ),
        shape=(len(chosen), len(columns)),
    )
    # The tolerance is never met: the number of steps bounds the work, and is part of the recipe.
    model = LogisticRegression(C=REGULARISATION[rows.kind], max_iter=STEPS, tol=0.0)
    model.fit(matrix, truth, sample_weight=mass)
    weights = np.zeros(size, np.int8)
    weights[columns] = np.clip(np.rint(model.coef_[0] / WEIGHT_UNIT), -127, 127)
    return array("b", weights.tobytes())


def _common(rows: Hashed, harmless: Ints) -> "array[int]":
    size = 1 << COMMON_BITS
    grams, _ = _gather(rows.common, rows.common_starts, harmless)
    counts = np.bincount(grams & (size - 1), minlength=size)
    steps = np.rint(np.log2(1 + counts) * COMMON_STEPS)
    return array("b", np.minimum(steps, 127).astype(np.int8).tobytes())


def _odds(fraud: npt.NDArray[Any], rows: npt.NDArray[Any], rate: float) -> Ints:
    """Smoothed log-odds against the common rate, in steps."""
    harmless = rows - fraud
    odds = np.log((fraud + SMOOTHING * rate) / (harmless + SMOOTHING * (1 - rate)))
    odds -= math.log(rate / (1 - rate))
    steps: Ints = np.clip(np.rint(odds / ODDS_UNIT), -127, 127).astype(np.int64)
    return steps


def _keys(
    rows: Hashed, truth: npt.NDArray[np.int8], chosen: Ints, mass: npt.NDArray[np.float64]
) -> "array[int]":
    rate = float(np.average(truth, weights=mass))
    found: list[npt.NDArray[np.int64]] = []
    for column in range(rows.keys.shape[1]):
        hashes, inverse = np.unique(rows.keys[chosen, column], return_inverse=True)
        counts = np.bincount(inverse, minlength=len(hashes))
        weighed = np.bincount(inverse, mass, minlength=len(hashes))
        fraud = np.bincount(inverse, mass * truth, minlength=len(hashes))
        odds = _odds(fraud, weighed, rate)
        kept = (counts >= LEAST) & (hashes != 0)
        evidence = np.minimum(np.rint(np.log2(counts + 1)), 12).astype(np.int64)
        found.append(np.stack([hashes.astype(np.int64), odds, evidence])[:, kept])
    hashes, odds, evidence = np.concatenate(found, axis=1)
    # Two keys at one place: the one that says more stays.
    order = np.argsort(np.abs(odds) * evidence, kind="stable")
    table = np.zeros(1 << KEY_BITS, np.uint32)
    entries = hashes >> 16 << 16 | odds + 128 << 8 | evidence  # as `Tables` reads them
    table[hashes[order] & (len(table) - 1)] = entries[order]
    return array("I", table.tobytes())


def _word_odds(
    rows: Hashed, truth: npt.NDArray[np.int8], chosen: Ints, mass: npt.NDArray[np.float64]
) -> "array[int]":
    size = len(rows.vocabulary)
    numbers, sizes = _gather(rows.words.astype(np.uint32), rows.word_starts, chosen)
    of = np.repeat(mass, sizes)
    weighed = np.bincount(numbers, of, minlength=size)
    fraud = np.bincount(numbers, of * np.repeat(truth, sizes), minlength=size)
    odds = _odds(fraud, weighed, float(np.average(truth, weights=mass)))
    return array("b", odds.astype(np.int8).tobytes())
