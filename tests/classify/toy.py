"""
A small model: real LightGBM trees over four features, with the interface of the real features.

Names with "pay" are fraud, names with "log" are so half of the time, all others are good.
"""

import hashlib
import json
import random
import sys
import types
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from urlguard.classify import model


class Feature(NamedTuple):
    """As in the real features."""

    name: str
    catches: str


NAME = tuple(Feature(n, "") for n in ("length", "digits", "hyphens", "lure"))
URL = NAME

BAD, GREY, GOOD = "pay-secure-1.com", "my-log-7.net", "garden.org"


def digest(kind: str) -> str:
    """Of the definition of the features."""
    return hashlib.sha256(f"toy {kind}".encode()).hexdigest()


class Tables:
    """What the features were fitted on: here, nothing but the names of shared hosting."""

    def __init__(self, octets: bytes) -> None:
        self._hosting = set(json.loads(octets)["hosting"])

    @classmethod
    def of(cls, octets: bytes) -> "Tables":
        return cls(octets)

    def hosting(self, name: str) -> bool:
        return any(name.endswith(f".{zone}") for zone in self._hosting)


class Brands:
    """One brand, with a domain that looks like fraud."""

    @classmethod
    def load(cls) -> "Brands":
        return cls()

    def own(self, name: str) -> int | None:
        return 0 if name == "brand-pay.com" else None


class Extractor:
    """Names and URLs to rows."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def name(self, name: str) -> list[float]:
        lure = 2.0 if "pay" in name else 1.0 if "log" in name else 0.0
        digits = sum(c in "0123456789" for c in name)
        return [float(len(name)), float(digits), float(name.count("-")), lure]

    def url(self, url: Any) -> list[float]:
        return self.name(url.canonical.partition("://")[2])

    def of_names(self, names: Sequence[str]) -> list[list[float]]:
        return list(map(self.name, names))

    def of_urls(self, urls: Sequence[Any]) -> list[list[float]]:
        return list(map(self.url, urls))


def install(into: dict[str, Any] = sys.modules) -> None:
    """Stand in for the real features, tables and brands in this process."""
    features = types.ModuleType("urlguard.classify.features")
    features.__dict__.update(Extractor=Extractor, BY_KIND={"name": NAME, "url": URL}, digest=digest)
    tables = types.ModuleType("urlguard.classify.tables")
    tables.__dict__.update(Tables=Tables)
    brands = types.ModuleType("urlguard.classify.brands")
    brands.__dict__.update(Brands=Brands)
    into["urlguard.classify.brands"] = brands
    into["urlguard.classify.features"] = features
    into["urlguard.classify.tables"] = tables


def read(kind: str, tables: bytes) -> model.Reading:
    """What `model.reading` makes of this module in the place of the real one."""
    opened = Tables.of(tables)
    extractor = Extractor(opened)
    return model.Reading(
        tuple(f.name for f in NAME),
        digest(kind),
        extractor.name if kind == "name" else extractor.url,
        extractor.of_names if kind == "name" else extractor.of_urls,
        opened.hosting,
        lambda name: Brands().own(name) is not None,
    )


def names(count: int, seed: int = 1) -> list[str]:
    """Names of all sorts, the same each time."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        word = "".join(rng.choices("abcdefghijklmnoprstuvw-0123456789", k=rng.randint(3, 20)))
        made.append(f"{word}{rng.choice(['pay', 'log', '', ''])}x.{rng.choice(['com', 'net'])}")
    return made


@cache
def trees(rounds: int = 40, seed: int = 1) -> bytes:
    """Trees, as LightGBM writes them."""
    import lightgbm
    import numpy

    rng = random.Random(seed)
    row = Extractor.name
    rows = [row(None, name) for name in names(4000, seed)]  # type: ignore[arg-type]
    labels = [(r[3] == 2) or (r[3] == 1 and rng.random() < 0.5) for r in rows]
    data = lightgbm.Dataset(numpy.array(rows), numpy.array(labels, dtype=float))
    parameters = {"objective": "binary", "num_leaves": 15, "verbosity": -1, "num_threads": 1}
    made = lightgbm.train({**parameters, "seed": seed}, data, rounds)
    return str(made.model_to_string()).encode()


def write(
    folder: Path, name: str = "name-2026-11-24", /, *, rounds: int = 40, **changes: Any
) -> Path:
    """
    Write a model's files; returns the card's path.

    Keys of the card may be given otherwise; the thresholds are block_at 0.9 and review_at 0.2, and
    0.9999 and 0.999 on shared hosting.
    """
    folder.mkdir(parents=True, exist_ok=True)
    booster, tables = trees(rounds), b'{"hosting": ["pages.dev"]}'
    (folder / f"{name}.txt").write_bytes(booster)
    (folder / f"{name}.tables").write_bytes(tables)
    kind = name.partition("-")[0]
    card = {
        "format": 1,
        "kind": kind,
        "name": name,
        "features": [f.name for f in NAME],
        "features_digest": digest(kind),
        "booster_sha256": hashlib.sha256(booster).hexdigest(),
        "tables_sha256": hashlib.sha256(tables).hexdigest(),
        "calibration": [[-2.0, 0.01], [0.0, 0.5], [2.0, 0.99]],
        "thresholds": {
            "own": {"block_at": 0.9, "review_at": 0.2},
            "hosting": {"block_at": 0.9999, "review_at": 0.999},
        },
        **changes,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(card))
    return path
