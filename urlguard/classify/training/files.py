"""
CSV files of labelled names or URLs, read with suspicion.

Knows the columns and what may stand in them; knows nothing of training.  `check` looks through the
files of a training run before it begins, so that a bad line is told in the first minute and not in
the fortieth; `read` reads anybody's file for ``urlguard evaluate``.
"""

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from urlguard import names, urls
from urlguard.classify.training.rows import DataError, host
from urlguard.errors import InputError

TRAINING: Final = {"name": "train_domains.csv.gz", "url": "train_urls.csv.gz"}
POPULAR: Final = "popular_fqdns.csv.gz"  # names, the most asked for first
COLUMNS: Final = {"domain": "name", "url": "url"}  # and the kind of rows that they hold

_REQUIRED = ("category", "source", "first_seen")
_SHOWN = 80  # signs of a line's text in a message
_EVERY = 50_000  # lines between two words of progress
_GZIP = b"\x1f\x8b"

_day = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])").fullmatch

Say = Callable[[str], None]


class Line(NamedTuple):
    """One row: ``text`` as in `rows.Rows`, canonical, and what is said of it."""

    text: str
    label: int
    category: str
    source: str
    first_seen: str


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
                f"{path}: columns {', '.join(row)}; exactly one of {', '.join(COLUMNS)} must be "
                "there"
            )
        return COLUMNS[found[0]]
    raise DataError(f"{path}: no rows; there must be a header and one line at least")


def read(path: Path) -> Iterator[Line]:
    """
    The rows of a file, plain or gzip, in order.

    ``domain`` or ``url``, and ``label``, must be there.  Names and URLs are brought into canonical
    form; a URL's scheme is dropped, as training data has none.

    Raises:
        DataError: see `kind_of`; or a line has another label than 0 or 1, no name or URL, a
            first_seen that is no day, or too few columns.
    """
    kind = kind_of(path)
    for number, row in _rows(path):
        yield _line(path, number, kind, row)


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
        labels = [0, 0]
        for number, row in _rows(path):
            if not any(labels) and (lacking := [c for c in (column, *_REQUIRED) if c not in row]):
                raise DataError(f"{path}: no column {', '.join(lacking)}; training needs them")
            line = _line(path, number, kind, row)
            given = row[column]
            if host(given) != host(line.text):
                raise DataError(
                    f"{path}, line {number}: {_short(given)}; must be {host(line.text)}"
                )
            if not line.first_seen or not line.source:
                raise DataError(f"{path}, line {number}: no source or first_seen; must have both")
            labels[line.label] += 1
            if number % _EVERY == 0:
                say(f"{path.name}: {number:,} lines")
        if not all(labels):
            raise DataError(
                f"{path}: {labels[1]} rows of fraud, {labels[0]} harmless; must be both"
            )
        found[path.name] = sum(labels)
    path = folder / POPULAR
    count = 0
    for number, row in _rows(path):
        if not row.get("rank", "").isdecimal() or "fqdn" not in row:
            raise DataError(f"{path}, line {number}: needs the columns rank, a number, and fqdn")
        _name(path, number, row["fqdn"])
        count += 1
    found[path.name] = count
    return found


def _line(path: Path, number: int, kind: str, row: dict[str, str]) -> Line:
    label, day = row.get("label", ""), row.get("first_seen", "")
    if label not in ("0", "1"):
        raise DataError(f"{path}, line {number}: label {_short(label)}; must be 0 or 1")
    if day and not _day(day):
        raise DataError(
            f"{path}, line {number}: first_seen {_short(day)}; must be a day such as 2025-06-14"
        )
    if kind == "name":
        text = _name(path, number, row["domain"])
    else:
        text = _url(path, number, row["url"])
    return Line(text, int(label), row.get("category", ""), row.get("source", ""), day)


def _name(path: Path, number: int, text: str) -> str:
    try:
        return names.canonical(text)
    except InputError as exc:
        raise DataError(f"{path}, line {number}: {exc}") from exc


def _url(path: Path, number: int, text: str) -> str:
    try:
        return urls.parse(text).expression if "://" in text else _without_scheme(text)
    except InputError as exc:
        raise DataError(f"{path}, line {number}: {exc}") from exc


def _without_scheme(text: str) -> str:
    # Kept as it stands: the model's side parses it once more, and so do the rivals.
    return f"{urls.parse(f'http://{text}').host}{text[len(host(text)) :]}"


def _short(text: str) -> str:
    return repr(text[:_SHOWN] + ("…" if len(text) > _SHOWN else ""))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row by its column's name, with the number of the line that it ends on."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP
        opener = gzip.open if packed else open
        with opener(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            for cells in reader:
                if not cells:
                    continue
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
