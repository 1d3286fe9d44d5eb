"""
Reads CSV files of labelled names or URLs, as untrusted input.

Knows the columns and their values; knows nothing of training.  `check` validates the files of a
training run before it begins, so that an invalid line is reported in the first minute and not in
the fortieth; `read` reads a file for ``urlguard evaluate``.

How it works.  A file is streamed, never held in memory, and everything in it is bounded: its size
after decompression, since a megabyte of gzip can hold a gigabyte; its rows; and the length of each.
Only `Labels` remembers more than one row: it finds an item that carries both labels.
"""

import csv
import gzip
import io
import os
import re
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

from urlguard import names, urls
from urlguard.classify.training.dataset import DataError, host
from urlguard.errors import InputError

TRAINING: Final = {"name": "train_domains.csv.gz", "url": "train_urls.csv.gz"}
POPULAR: Final = "popular_fqdns.csv.gz"  # names, the most asked for first
COLUMNS: Final = {"domain": "name", "url": "url"}  # and the kind of rows that they hold

MAX_OCTETS: Final = 1 << 30  # of one file, decompressed; a million names are 60 MB
MAX_ROWS: Final = 10_000_000  # of one file
MAX_ROW: Final = 1 << 20  # characters, over all of its lines

_REQUIRED = ("category", "source", "first_seen")
_SHOWN = 80  # signs of a line's text in a message
_EVERY = 50_000  # lines between two words of progress
_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 16  # octets that are decompressed at a time

_rank = re.compile(r"[0-9]{1,9}").fullmatch
_day = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])").fullmatch

Say = Callable[[str], None]


class Line(NamedTuple):
    """One row: ``text`` as in `dataset.Rows`, canonical, with its label and origin."""

    text: str
    label: int
    category: str
    source: str
    first_seen: str


class Labels:
    """
    The label of each item that was read, and where; one for all files that are read together.

    An item is a canonical name, or what a URL says without its scheme: whoever writes it otherwise
    means the same.
    """

    def __init__(self) -> None:
        self._paths: list[Path] = []
        self._first: dict[str, int] = {}  # item: place in `_paths`, line and label in one number

    def note(self, path: Path, number: int, item: str, label: int) -> None:
        """
        An item stands in a line of a file with a label.

        Raises:
            DataError: it had the other label before.
        """
        if not self._paths or self._paths[-1] != path:
            self._paths.append(path)
        this = len(self._paths) - 1 << 40 | number << 1 | label
        before = self._first.setdefault(item, this)
        if before & 1 != label:
            there, line = self._paths[before >> 40], before >> 1 & (1 << 39) - 1
            where = f"line {line}" if there == path else f"{there}, line {line},"
            raise DataError(
                f"{path}, line {number}: {_short(item)} has label {label}, and {1 - label} in "
                f"{where}; must have one label"
            )


def kind_of(path: Path) -> str:
    """
    Whether a file holds names or URLs, by its header.

    Raises:
        DataError: it cannot be read, or has neither or both of the columns.
    """
    for _, row in _rows(path):
        found = [column for column in COLUMNS if column in row]
        if len(found) != 1:
            raise DataError(
                f"{path}: columns {_short(', '.join(row))}; exactly one of {', '.join(COLUMNS)} "
                "must be there"
            )
        return COLUMNS[found[0]]
    raise DataError(f"{path}: no rows; there must be a header and one line at least")


def read(path: Path, labels: Labels | None = None) -> Iterator[Line]:
    """
    The rows of a file, plain or gzip, in order.

    ``domain`` or ``url``, and ``label``, must be there.  Names and URLs are brought into canonical
    form; a URL's scheme is dropped, as training data has none.

    Args:
        path: of the file, UTF-8 with or without a byte order mark.
        labels: what was read before from other files of the same kind.

    Raises:
        DataError: see `kind_of`; or a line has another label than 0 or 1, no name or URL, a
            first_seen that is no day, or too few columns; or an item has both labels; or the file
            is larger than `MAX_OCTETS`, `MAX_ROWS` and `MAX_ROW` admit.
    """
    labels = Labels() if labels is None else labels
    kind = kind_of(path)
    for number, row in _rows(path):
        yield _line(path, number, kind, row, labels)


def check(folder: Path, say: Say = lambda words: None) -> dict[str, int]:
    """
    Look through the files that train models; each kind of model needs all of them.

    Returns:
        Rows by the file's name.

    Raises:
        DataError: a file is missing or has a line that must not train; see `read`.  Text must be
            canonical already, columns for category, source and first_seen must be there, and rows
            of both labels.
    """
    found = {}
    for column, kind in COLUMNS.items():
        path = folder / TRAINING[kind]
        counts, labels = [0, 0], Labels()
        for number, row in _rows(path):
            if not any(counts) and (lacking := [c for c in (column, *_REQUIRED) if c not in row]):
                raise DataError(f"{path}: no column {', '.join(lacking)}; training needs them")
            line = _line(path, number, kind, row, labels)
            given = row[column]
            if host(given) != host(line.text):
                raise DataError(
                    f"{path}, line {number}: {_short(given)}; must be {host(line.text)}"
                )
            if not line.first_seen or not line.source:
                raise DataError(f"{path}, line {number}: no source or first_seen; must have both")
            counts[line.label] += 1
            if number % _EVERY == 0:
                say(f"{path.name}: {number:,} lines")
        if not all(counts):
            raise DataError(
                f"{path}: {counts[1]} rows of fraud, {counts[0]} harmless; must be both"
            )
        found[path.name] = sum(counts)
    path = folder / POPULAR
    count = 0
    for number, row in _rows(path):
        if not _rank(row.get("rank", "")) or "fqdn" not in row:
            raise DataError(
                f"{path}, line {number}: needs the columns rank, a number of at most nine digits, "
                "and fqdn"
            )
        _name(path, number, row["fqdn"])
        count += 1
    found[path.name] = count
    return found


def _line(path: Path, number: int, kind: str, row: dict[str, str], labels: Labels) -> Line:
    label, day = row.get("label", ""), row.get("first_seen", "")
    if label not in ("0", "1"):
        raise DataError(f"{path}, line {number}: label {_short(label)}; must be 0 or 1")
    if day and not _day(day):
        raise DataError(
            f"{path}, line {number}: first_seen {_short(day)}; must be a day such as 2025-06-14"
        )
    if kind == "name":
        text = item = _name(path, number, row["domain"])
    else:
        text, item = _url(path, number, row["url"])
    labels.note(path, number, item, int(label))
    return Line(text, int(label), row.get("category", ""), row.get("source", ""), day)


def _name(path: Path, number: int, text: str) -> str:
    try:
        return names.canonical(text)
    except InputError as exc:
        raise DataError(f"{path}, line {number}: {exc}") from exc


def _url(path: Path, number: int, given: str) -> tuple[str, str]:
    """A URL's text as in `Line`, and the one form of all that mean the same."""
    bare = "://" not in given
    try:
        url = urls.parse(f"http://{given}" if bare else given)
    except InputError as exc:
        raise DataError(f"{path}, line {number}: {exc}") from exc
    # One without scheme is kept as it stands: the model's side parses it once more, and so do the
    # rivals.
    text = f"{url.host}{given[len(host(given)) :]}" if bare else url.expression
    return text, url.expression


def _short(text: str) -> str:
    return repr(text[:_SHOWN] + ("…" if len(text) > _SHOWN else ""))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row by its column's name, with the number of the line that it ends on."""
    try:
        with _opened(path) as file:
            lines = _BoundedLines(path, file)
            reader = csv.reader(lines, strict=True)
            header = next(reader, [])
            for name, times in Counter(header).most_common(1):
                if times > 1:
                    raise DataError(f"{path}: {times} columns {_short(name)}; may have one")
            lines.taken = 0
            for count, cells in enumerate(reader, 1):
                lines.taken = 0
                if not cells:
                    continue
                if count > MAX_ROWS:
                    raise DataError(f"{path}: more than {MAX_ROWS:,} rows; may have {MAX_ROWS:,}")
                if len(cells) != len(header):
                    raise DataError(
                        f"{path}, line {reader.line_num}: {len(cells)} columns; the header has "
                        f"{len(header)}"
                    )
                yield reader.line_num, dict(zip(header, cells, strict=True))
    except OSError as exc:
        raise DataError(f"{path}: {exc.strerror or exc}") from exc
    except (EOFError, zlib.error) as exc:
        raise DataError(f"{path}: not a whole gzip file: {exc}") from exc
    except UnicodeDecodeError as exc:
        raise DataError(f"{path}: not UTF-8: {exc}") from exc
    except csv.Error as exc:
        raise DataError(f"{path}: not CSV: {exc}") from exc


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """The text of a file, decompressed if it is gzip, without a byte order mark."""
    # A pipe without a writer would be waited for; and no pipe can be read twice, as files are here.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DataError(f"{path}: is no regular file; must be one")
        packed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        octets = _Octets(path, gzip.GzipFile(fileobj=file) if packed else file)
        yield io.TextIOWrapper(io.BufferedReader(octets, _CHUNK), "utf-8-sig", newline="")


class _Octets(io.RawIOBase):
    """What comes out of a file, up to `MAX_OCTETS`."""

    def __init__(self, path: Path, file: Any) -> None:
        self._path = path
        self._file = file
        self._left = MAX_OCTETS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._file.readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise DataError(
                f"{self._path}: more than {MAX_OCTETS:,} octets, decompressed; may have "
                f"{MAX_OCTETS:,}"
            )
        return count


class _BoundedLines:
    """
    A text's lines, as long as a row may be.

    ``taken`` is what the row so far has taken; who reads rows sets it back to 0 after each.
    """

    def __init__(self, path: Path, file: TextIO) -> None:
        self.taken = 0
        self._path = path
        self._read = file.readline
        self._number = 0

    def __iter__(self) -> "_BoundedLines":
        return self

    def __next__(self) -> str:
        line = self._read(MAX_ROW + 1)
        if not line:
            raise StopIteration
        self._number += 1
        self.taken += len(line)
        if self.taken > MAX_ROW:
            raise DataError(
                f"{self._path}, line {self._number}: a row of more than {MAX_ROW:,} characters; "
                f"may have {MAX_ROW:,}; is a quotation mark left open?"
            )
        return line
