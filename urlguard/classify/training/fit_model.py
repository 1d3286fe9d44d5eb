"""
Fits tables, features and trees on a set of rows: the steps that trial and final model share.

Knows rows, tables, features and trees; knows nothing of tests and thresholds.

How it works.  Tables are fitted for each fold of the rows and for all of them; each row's features
come from tables that have not seen it; trees are trained on these.  Rows have weights (`weights`):
sites of ordinary people count more, as they are few and most like the names that must not be
blocked; old fraud counts less, as its campaigns are over.  Copies of fraud, mutated as an adversary
would, train beside the originals.
"""

import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import lightgbm
import numpy as np
import numpy.typing as npt

from urlguard.classify.evaluation.mutations import MUTATIONS, URL_MUTATIONS
from urlguard.classify.feature_list import BY_KIND
from urlguard.classify.training import boost, dataset, fit_tables, matrix
from urlguard.classify.training.boost import Floats
from urlguard.classify.training.dataset import FOLDS, DataError, Ints, Rows
from urlguard.classify.training.matrix import Matrix

Say = Callable[[str], None]
Flags = npt.NDArray[np.bool_]

_ORDINARY = """
    ada-kasztp awesome-selfhosted chinese-blogs dotgov free-programming-books jdm majestic10k
    pdd-legitimate phishstorm-valid public-apis ruanyf-weekly smallweb tranco10k twofactorauth
    university-domains v2fly
"""
ORDINARY: Final = frozenset(_ORDINARY.split())
ORDINARY_WEIGHT: Final = 4.0
OLD_BEFORE, OLD_WEIGHT = "2023-02", 0.5
MUTATED_SHARE, MUTATED_WEIGHT = 0.15, 0.5  # copies of so much of the fraud, and how they count

# What is chosen odds of may only speak for fraud as they rise.
_RISING = frozenset(("word_worst", "word_best", "words_odds", "before_word_worst"))
_FALLING = frozenset(("common", "common_least", "brand_own"))


def weights(found: Rows, chosen: Ints) -> Floats:
    """How much each chosen row counts."""
    return np.array(
        [
            (OLD_WEIGHT if found.first_seen[n] < OLD_BEFORE else 1.0)
            if found.label[n]
            else (ORDINARY_WEIGHT if found.source[n] in ORDINARY else 1.0)
            for n in chosen
        ]
    )


def constraints(kind: str) -> list[int]:
    """For each feature 1 if more of it may only raise the score, -1 if only lower it, else 0."""
    return [
        1
        if name.startswith("gram") or name.endswith("_odds") or name in _RISING
        else -1
        if name in _FALLING
        else 0
        for name in feature_names(kind)
    ]


def feature_names(kind: str) -> list[str]:
    """The features' names, in order."""
    return [feature.name for feature in BY_KIND[kind]]


@dataclass
class Fitted:
    """Tables and trees over some rows, and the features that they were made from."""

    chosen: Ints
    fold: npt.NDArray[np.int8]
    tables: list[Path]  # one for each fold, without it
    whole: Path
    features: Matrix
    copies: Matrix  # of mutated fraud
    copied: Ints  # which of the chosen rows they are copies of
    booster: lightgbm.Booster = field(init=False)

    def without(self, found: Rows, number: int) -> lightgbm.Booster:
        """Trees that have not seen a fold."""
        return grown(found, self, self.fold != number, self.fold[self.copied] != number)


def fitted(
    found: Rows,
    chosen: Ints,
    words: list[str],
    folder: Path,
    workers: ProcessPoolExecutor,
    say: Say,
) -> Fitted:
    """
    Fit tables and train trees.

    Args:
        found: all rows.
        chosen: numbers of those to learn from.
        words: the vocabulary.
        folder: where tables are written.
        workers: see `matrix.pool`.
        say: gets a line for each step.
    """
    kind, label = found.kind, found.label[chosen]
    fold = dataset.folds(found, chosen)
    if len(np.unique(fold[label == 1])) < 2:
        raise DataError(f"{kind}: fraud of one month; must have been first seen in two at least")
    weight = weights(found, chosen)
    texts = [found.text[n] for n in chosen]
    hashed = matrix.hashed(workers, kind, texts, words, found.shared)
    say(f"hashed {len(hashed.grams):,} n-grams of {len(chosen):,} rows")

    def one(number: int) -> Path:
        path = folder / f"{number}.tables"
        fit_tables.fit(hashed, label, np.flatnonzero(fold != number), weight, found.shared).write(
            path
        )
        say(f"tables {number + 1} of {FOLDS + 1}")
        return path

    # In threads: numpy and scipy let go of the interpreter where it takes long.
    with ThreadPoolExecutor(2) as threads:
        *tables, whole = threads.map(one, range(FOLDS + 1))  # no row is in the last fold
    own = matrix.out_of_fold(workers, kind, found.text, chosen, fold, tables)
    copied, mutated = _copies(kind, texts, label)
    copies = np.zeros((len(copied), own.shape[1]), np.float32)
    for number, path in enumerate(tables):
        here = np.flatnonzero(fold[copied] == number)
        copies[here] = matrix.extracted(workers, kind, [mutated[n] for n in here], path)
    say("features of all rows")
    made = Fitted(chosen, fold, tables, whole, own, copies, copied)
    every = np.ones(len(chosen), bool)
    made.booster = grown(found, made, every, np.ones(len(copied), bool))
    say("trees")
    return made


def grown(
    found: Rows,
    made: Fitted,
    own: Flags,
    copies: Flags,
) -> lightgbm.Booster:
    """Trees over some of the rows and of the copies."""
    weight = weights(found, made.chosen)
    label = found.label[made.chosen]
    return boost.train(
        np.concatenate([made.features[own], made.copies[copies]]),
        np.concatenate([label[own], np.ones(int(copies.sum()), np.int8)]),
        np.concatenate([weight[own], MUTATED_WEIGHT * weight[made.copied[copies]]]),
        feature_names(found.kind),
        constraints(found.kind),
    )


def _copies(kind: str, texts: list[str], label: npt.NDArray[np.int8]) -> tuple[Ints, list[str]]:
    """Mutated copies of a part of the fraud: whose copy each is, and its text."""
    ways = list((MUTATIONS if kind == "name" else URL_MUTATIONS).values())
    rng = random.Random(1)  # noqa: S311 - the same copies each time
    copied, mutated = [], []
    for n in np.flatnonzero(label):
        if rng.random() < MUTATED_SHARE:
            copied.append(int(n))
            mutated.append(rng.choice(ways)(texts[n], rng))
    return np.array(copied, dtype=np.int64), mutated
