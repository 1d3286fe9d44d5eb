"""
The plain rival: LightGBM on hashed character 2- to 4-grams and simple counts, 300 rounds.

What an afternoon gives: no odds, no priors, no words, no brands, no memory.  It is what the
targets of the classifier are stated against, so it is built with care: as many rows and as many
threads as the model that it is compared with, and settings as large as such a model takes.  The
n-grams are counted into 16,384 columns by CRC-32, which is the same on every machine.
"""

import itertools
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import lightgbm
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Progress = Callable[[str, int, int], None]

# Of 1,024, 4,096 and 16,384 the best, learnt on 20,000 and 50,000 of the training rows and measured
# on others of them.
COLUMNS = 16384
GRAMS = (2, 3, 4)
ROUNDS = 300
SETTINGS = {
    "objective": "binary",
    "learning_rate": 0.1,
    "num_leaves": 63,
    "min_data_in_leaf": 50,
    "max_bin": 63,
    "num_threads": 2,
    "seed": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
COUNTS = 16  # what `counts` gives


def fit_predict(
    items: Sequence[str],
    labels: Sequence[int],
    tests: Sequence[str],
    progress: Progress = lambda words, done, total: None,
) -> NDArray[np.float64]:
    """
    Learn from labelled rows and score others; see `linear.fit_predict` for arguments.

    Returns:
        Log-odds, one for each test; higher is worse.
    """
    progress("plain: counting n-grams", 0, ROUNDS)
    data = lightgbm.Dataset(table(items), np.asarray(labels), free_raw_data=True)

    def report_progress(state: lightgbm.callback.CallbackEnv) -> None:
        progress("plain: boosting", state.iteration + 1, ROUNDS)

    booster = lightgbm.train(SETTINGS, data, ROUNDS, callbacks=[report_progress])
    scores = booster.predict(table(tests), raw_score=True, num_threads=2)
    return np.asarray(scores, dtype=np.float64)


def table(items: Sequence[str]) -> sparse.csr_matrix:
    """A row for each item: how often each hashed n-gram stands in it, then `counts`."""
    columns: list[NDArray[np.int32]] = []
    values: list[NDArray[np.float32]] = []
    ends = np.zeros(len(items) + 1, dtype=np.int64)
    known: dict[str, int] = {}
    for number, item in enumerate(items):
        found: Counter[int] = Counter()
        for gram in grams(item):
            place = known.get(gram)
            if place is None:
                place = known[gram] = zlib.crc32(gram.encode()) % COLUMNS
            found[place] += 1
        more = counts(item)
        columns.append(
            np.fromiter(itertools.chain(found, range(COLUMNS, COLUMNS + COUNTS)), dtype=np.int32)
        )
        values.append(np.fromiter(itertools.chain(found.values(), more), dtype=np.float32))
        ends[number + 1] = ends[number] + columns[-1].size
    if not len(items):
        return sparse.csr_matrix((0, COLUMNS + COUNTS), dtype=np.float32)
    shape = (len(items), COLUMNS + COUNTS)
    made = sparse.csr_matrix((np.concatenate(values), np.concatenate(columns), ends), shape=shape)
    made.sort_indices()
    return made


def grams(item: str) -> Iterator[str]:
    """All n-grams of an item, its begin and end marked."""
    marked = f"^{item}$"
    for size in GRAMS:
        for start in range(len(marked) - size + 1):
            yield marked[start : start + size]


def counts(item: str) -> list[float]:
    """
    Lengths, kinds of characters, and entropy in bits a character; of the host and of the rest.
    """
    place = min((n for n in (item.find("/"), item.find("?")) if n >= 0), default=len(item))
    host, rest = item[:place], item[place:]
    labels = host.split(".")
    length = max(1, len(host))
    digits = sum(map(str.isdigit, host))
    return [
        len(host),
        len(labels),
        max(map(len, labels)),
        digits,
        digits / length,
        host.count("-"),
        host.count("xn--"),
        sum(host.count(vowel) for vowel in "aeiou") / length,
        _entropy(host),
        len(rest),
        rest.count("/"),
        rest.count("=") + rest.count("&"),
        rest.count("%"),
        rest.count("."),
        sum(map(str.isdigit, rest)),
        _entropy(rest),
    ]


def _entropy(text: str) -> float:
    if not text:
        return 0.0
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())
