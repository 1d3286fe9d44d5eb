"""
Labelled rows, who owns them, and which part of the training they may serve.

Reads the CSV files that ``urlguard train`` is given.  Knows nothing of features or models.

How it works.  The *owner* of a row is its registrable domain; on shared hosting the customer's own
name.  All rows of an owner serve the same part, so that no part knows another's owners.  Time parts
the fraud as well: what was first seen before `CALIBRATE_FROM` trains, what was first seen from
`TEST_FROM` on tests, as a model meets fraud that is newer than itself.  Dates of harmless rows are
those of somebody's snapshot and say nothing, so these are parted by the owner's hash alone.

Some dates of fraud are days on which a whole list was imported; what is listed may be years older.
Such a day is an upper bound.  One before `CALIBRATE_FROM` proves that a row may train; a later one
proves nothing, and these rows are a part of their own, *undated*, measured beside the test.  So are
names of domain generation algorithms: half of the families train, the others are undated.

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
from urlguard.classify.training.provenance import family
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
# Lists whose dates, and days on which all the lists, are those of an import; see the data's README.
UNDATED_SOURCES: Final = frozenset({"blocklistproject", "maltrail"})
IMPORT_DAYS: Final = frozenset({"2023-01-12", "2025-06-14", "2025-12-22"})

TOP: Final = 10_000  # popular names that are looked at apart

# The data admits two names of fraud for one owner: a domain with more of them has customers.
_MOST_OF_AN_OWNER = 2

TRAIN, CALIBRATE, TEST, UNDATED, UNUSED = range(5)

Ints = npt.NDArray[np.int64]


class DataError(UrlGuardError):
    """The training data is not what it should be; the message says where."""


@dataclass
class Rows:
    """
    Labelled names or URLs; arrays and lists of the same length.

    ``text`` is a canonical name, or a URL without scheme; ``label`` is 1 for fraud; ``first_seen``
    a day as text; ``shared`` the domains below which each name is somebody else's, as the rows that
    may train tell; ``rank`` the popularity of names.
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
    """Row numbers of each part; some rows are in none.  All that are undated are fraud."""

    train: Ints
    calibrate: Ints
    test: Ints
    undated: Ints


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
    fraud = [(row[0], row[3]) for row in found if row[1]]
    shared = shared_hosting(name for name, source in fraud if source not in NONCOMMERCIAL)
    # Whose a name is does not change with what may train.
    parted = shared_hosting(name for name, _ in fraud)
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
    owners = [owner(host(item), parted) for item in text]
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


def shared_hosting(fraud: Iterable[str]) -> frozenset[str]:
    """
    Domains whose customers own what is below them, as names of fraud tell.

    A domain that only harmless names have in common may be a large company's: its names are its
    own, and what is known of the company holds for each of them.
    """
    counts = Counter(
        domain for name in fraud if (domain := names.registrable(name)) and domain != name
    )
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


def most_popular(rows: Rows, chosen: Ints) -> Ints:
    """Places in `chosen` of the most popular harmless names, at most `TOP`."""
    ranked = [
        (rows.rank[rows.text[n]], place)
        for place, n in enumerate(chosen)
        if not rows.label[n] and rows.text[n] in rows.rank
    ]
    return np.array([place for _, place in sorted(ranked)[:TOP]], dtype=np.int64)


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
    first, undated = _first_seen(rows)
    part = np.full(len(rows), UNUSED, dtype=np.uint8)
    trains = set()
    for n, (who, label) in enumerate(zip(rows.owner, rows.label, strict=True)):
        if label:
            part[n] = _part_of_fraud(rows.source[n], first[who], who in undated)
            if limited[n] and part[n] in (TRAIN, CALIBRATE):
                part[n] = UNUSED
        elif who not in first:
            place = position(who)
            if limited[n]:
                part[n] = CALIBRATE if place * 1000 % 1 < 0.5 else TEST
            else:
                part[n] = TRAIN if place < 0.7 else CALIBRATE if place < 0.85 else TEST
        if part[n] == TRAIN:
            trains.add(who)
    # An owner of a limited row may own rows that train.
    for n in np.flatnonzero(limited & (part != UNUSED)).tolist():
        who = rows.owner[n]
        place = position(who)
        if who in trains:
            part[n] = UNUSED
        elif not rows.label[n] and place >= 0.7:
            part[n] = CALIBRATE if place < 0.85 else TEST
    return Split(*(np.flatnonzero(part == value) for value in range(UNUSED)))


def _first_seen(rows: Rows) -> tuple[dict[str, str], set[str]]:
    """When each owner of fraud was first seen, and of whom that is a day of import."""
    first: dict[str, str] = {}
    undated = set()
    for who, day, label, source in zip(
        rows.owner, rows.first_seen, rows.label, rows.source, strict=True
    ):
        if label:
            if day < first.get(who, "9"):
                first[who] = day
            if source in UNDATED_SOURCES or day in IMPORT_DAYS:
                undated.add(who)
    return first, undated


def _part_of_fraud(source: str, day: str, undated: bool) -> int:
    if which := family(source):
        return TRAIN if position("family " + which) < 0.5 else UNDATED
    if day < CALIBRATE_FROM:
        return TRAIN
    return UNDATED if undated else CALIBRATE if day < TEST_FROM else TEST


def folds(rows: Rows, chosen: Ints) -> npt.NDArray[np.int8]:
    """
    A fold for each chosen row, so that what is fitted without a fold has not seen its like.

    Harmless rows go by owner.  Fraud goes by the month in which its owner was first seen: campaigns
    register hundreds of sister names at once, and a fold that held half of them would promise more
    of memory than it can keep on the day when the next campaign begins.  Names of domain generation
    algorithms go by their family, whose month is that of a collection.
    """
    flock: dict[str, str] = {}  # of each owner of fraud: a month, or a family
    for n in chosen:
        if rows.label[n]:
            who, like = rows.owner[n], family(rows.source[n]) or rows.first_seen[n][:7]
            if like < flock.get(who, "~"):
                flock[who] = like
    sizes = Counter(flock.values())
    load_of = [0] * FOLDS
    fold_of: dict[str, int] = {}
    for like, count in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        fold_of[like] = min(range(FOLDS), key=load_of.__getitem__)
        load_of[fold_of[like]] += count
    return np.array(
        [
            fold_of[flock[who]]
            if (who := rows.owner[n]) in flock
            else int(position("fold " + who) * FOLDS)
            for n in chosen
        ],
        dtype=np.int8,
    )
