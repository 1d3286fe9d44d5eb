"""
Labelled rows, who owns them, and which part of the training they may serve.

Reads the CSV files that ``urlguard train`` is given.  Knows nothing of features or models.

How it works.  The *owner* of a row is its registrable domain; on shared hosting the customer's own
name.  All rows of an owner serve the same part, so that no part knows another's owners.  Time parts
the fraud as well: what was first seen before `CALIBRATE_FROM` trains, what was first seen from
`TEST_FROM` on tests, as a model meets fraud that is newer than itself.  Dates of harmless rows are
those of somebody's snapshot and say nothing, so these are parted by the owner's hash alone.

Rows of sources with a non-commercial licence never train.  They are measured on: the harmless ones
calibrate and test, the fraud tests, and so stands for feeds that the model has never seen.
"""

import csv
import gzip
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from urlguard import names
from urlguard.errors import UrlGuardError

CALIBRATE_FROM: Final = "2025-07-01"
TEST_FROM: Final = "2025-09-01"
FOLDS: Final = 5

# By the licence column of the data's README; "unverified" claims are taken for true.
NONCOMMERCIAL: Final = frozenset(
    {
        "cloudflare-radar",
        "deepurlbench",
        "deepurlbench-benign",
        "disconnect",
        "duckduckgo-tds",
        "gsb-inversion",
        "phishing.army-2023",
    }
)
UNUSED: Final = 255

# More hosts than the data admits for one owner: what is below must have owners of its own.
_MOST_OF_AN_OWNER = 4

Ints = npt.NDArray[np.int64]


class DataError(UrlGuardError):
    """The training data is not what it should be; the message says where."""


@dataclass
class Rows:
    """
    Labelled names or URLs; arrays and lists of the same length.

    ``text`` is a canonical name, or a URL without scheme; ``label`` is 1 for fraud; ``first_seen``
    a day as text; ``shared`` the domains below which each name is somebody else's; ``rank`` the
    popularity of names.
    """

    kind: str
    text: list[str]
    label: npt.NDArray[np.int8]
    category: list[str]
    source: list[str]
    first_seen: list[str]
    owner: list[str]
    shared: frozenset[str]
    rank: dict[str, int]

    def __len__(self) -> int:
        return len(self.text)

    @property
    def month(self) -> list[str]:
        """``YYYY-MM`` of each row."""
        return [day[:7] for day in self.first_seen]

    @property
    def noncommercial(self) -> npt.NDArray[np.bool_]:
        """True for rows that must not train what is shipped."""
        return np.array([source in NONCOMMERCIAL for source in self.source], dtype=bool)


class Split(NamedTuple):
    """Row numbers of each part; some rows are in none."""

    train: Ints
    calibrate: Ints
    test: Ints


def load(folder: Path, kind: str) -> Rows:
    """
    The rows of ``train_domains.csv.gz`` or ``train_urls.csv.gz``, with the popular names.

    Args:
        folder: of the CSV files.
        kind: ``name`` or ``url``.

    Raises:
        DataError: a file is missing, its header is another, or a label is neither 0 nor 1.
    """
    found = list(_read(folder / "train_domains.csv.gz", "domain"))
    shared = shared_hosting(row[0] for row in found)
    rank: dict[str, int] = {}
    known = {row[0] for row in found}
    for line in _lines(folder / "popular_fqdns.csv.gz", "fqdn"):
        name = line["fqdn"].removeprefix("www.")
        rank.setdefault(name, int(line["rank"]))
        if name not in known:
            known.add(name)
            found.append((name, 0, "popular", "umbrella", "2026-07-24"))
    if kind == "url":
        found = list(_read(folder / "train_urls.csv.gz", "url"))
    text, label, category, source, first_seen = map(list, zip(*found, strict=True))
    owners = [owner(host(item), shared) for item in text]
    labels = np.array(label, dtype=np.int8)
    return Rows(kind, text, labels, category, source, first_seen, owners, shared, rank)


Row = tuple[str, int, str, str, str]


def _read(path: Path, column: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(path, column), 2):
        if line["label"] not in ("0", "1"):
            raise DataError(f"{path}, line {number}: label {line['label']!r}; must be 0 or 1")
        yield (
            line[column],
            int(line["label"]),
            line["category"],
            line["source"],
            line["first_seen"],
        )


def _lines(path: Path, column: str) -> Iterator[dict[str, str]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if column not in (reader.fieldnames or ()):
                raise DataError(f"{path}: no column {column!r} in its header {reader.fieldnames}")
            yield from reader
    except EOFError as exc:
        raise DataError(f"{path}: it ends too early") from exc
    except OSError as exc:
        raise DataError(f"{path}: {exc.strerror or exc}") from exc


def host(item: str) -> str:
    """The host of a row's text."""
    return item.partition("/")[0].partition("?")[0]


def shared_hosting(hosts: Iterable[str]) -> frozenset[str]:
    """Domains with more hosts than one owner may have in the data: their customers own them."""
    counts = Counter(names.registrable(name) or name for name in hosts)
    return frozenset(name for name, count in counts.items() if count > _MOST_OF_AN_OWNER)


def owner(name: str, shared: frozenset[str]) -> str:
    """Whose name it is: the registrable domain, or one label more on shared hosting."""
    domain = names.registrable(name)
    if domain is None or domain == name:
        return name
    if domain not in shared:
        return domain
    below = name[: -len(domain) - 1].rpartition(".")[2]
    return f"{below}.{domain}"


def most_popular(rows: Rows, chosen: Ints, count: int) -> Ints:
    """Places in `chosen` of the most popular harmless names, at most `count`."""
    ranked = [
        (rows.rank[rows.text[n]], place)
        for place, n in enumerate(chosen)
        if not rows.label[n] and rows.text[n] in rows.rank
    ]
    return np.array([place for _, place in sorted(ranked)[:count]], dtype=np.int64)


def position(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def split(rows: Rows, *, limited: bool = False) -> Split:
    """
    Owner- and time-disjoint parts of the rows; see the module's text.

    Args:
        rows: to split.
        limited: treat rows under non-commercial licences like all others, to find out what they
            would add; what comes of it may not ship.
    """
    if limited:
        return _split(rows, np.zeros(len(rows), dtype=bool))
    return _split(rows, rows.noncommercial)


def _split(rows: Rows, limited: npt.NDArray[np.bool_]) -> Split:
    part = np.full(len(rows), UNUSED, dtype=np.uint8)
    first: dict[str, str] = {}
    for who, day, label in zip(rows.owner, rows.first_seen, rows.label, strict=True):
        if label and day < first.get(who, "9"):
            first[who] = day
    trains = set()
    for n, (who, label) in enumerate(zip(rows.owner, rows.label, strict=True)):
        if label:
            day = first[who]
            part[n] = 0 if day < CALIBRATE_FROM else 1 if day < TEST_FROM else 2
            if limited[n]:
                part[n] = 2 if part[n] == 2 else UNUSED
        else:
            place = position(who)
            if limited[n]:
                part[n] = 1 if place * 1000 % 1 < 0.5 else 2
            else:
                part[n] = 0 if place < 0.7 else 1 if place < 0.85 else 2
        if part[n] == 0:
            trains.add(who)
    # An owner of a limited row may own rows that train.
    for n in np.flatnonzero(limited & (part != UNUSED)).tolist():
        who = rows.owner[n]
        place = position(who)
        if who in trains:
            part[n] = UNUSED
        elif not rows.label[n] and place >= 0.7:
            part[n] = 1 if place < 0.85 else 2
    return Split(*(np.flatnonzero(part == value) for value in range(3)))


def folds(rows: Rows, chosen: Ints) -> npt.NDArray[np.int8]:
    """
    A fold for each chosen row, so that what is fitted without a fold has not seen its like.

    Harmless rows go by owner.  Fraud goes by the month in which its owner was first seen: campaigns
    register hundreds of sister names at once, and a fold that held half of them would promise more
    of memory than it can keep on the day when the next campaign begins.
    """
    months: Counter[str] = Counter()
    first: dict[str, str] = {}
    for n in chosen:
        if rows.label[n]:
            who, month = rows.owner[n], rows.first_seen[n][:7]
            if month < first.get(who, "9"):
                first[who] = month
    for month in first.values():
        months[month] += 1
    load_of = [0] * FOLDS
    fold_of: dict[str, int] = {}
    for month, count in sorted(months.items(), key=lambda item: (-item[1], item[0])):
        fold_of[month] = min(range(FOLDS), key=load_of.__getitem__)
        load_of[fold_of[month]] += count
    return np.array(
        [
            fold_of[first[rows.owner[n]]]
            if rows.label[n]
            else int(position("fold " + rows.owner[n]) * FOLDS)
            for n in chosen
        ],
        dtype=np.int8,
    )
