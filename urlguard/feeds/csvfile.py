"""
Reader for CSV lists with named columns, such as URLhaus's or ``domain,category``.

The header is a row of names, also behind ``#``.  A row is a line: quoted cells may hold the
delimiter, not a line end.
"""

import csv
import re
from collections.abc import Sequence

from urlguard.config import Feed
from urlguard.errors import FeedError, InputError
from urlguard.feeds.parsed import NAME, Parsed, is_address, loose_key

# Looked for in this order: where a row has both, its URL says more than its host.
VALUE_COLUMNS = ("url", "domain", "host", "hostname", "fqdn", "name", "indicator", "ioc")
CATEGORY_COLUMNS = ("category", "threat")
_DELIMITERS = ",;\t"

_CATEGORY = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}\Z")
_BLANKS = re.compile(r"\s+")


class Categories(dict[str, str]):
    """Normalised categories by the text in the list; remembers which texts were unusable."""

    def __init__(self) -> None:
        super().__init__({"": ""})
        self.unusable: set[str] = set()

    def __missing__(self, text: str) -> str:
        value = _BLANKS.sub("_", text.strip().lower())
        if not _CATEGORY.match(value):
            if value:
                self.unusable.add(text)
            value = ""
        self[text] = value
        return value


def cells(text: str, delimiter: str) -> list[str]:
    """
    The cells of one row.

    Raises:
        InputError: its quotes do not match.
    """
    if '"' not in text:
        return text.split(delimiter)
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True, skipinitialspace=True))
    except csv.Error as exc:
        raise InputError(f"not a CSV row: {exc}") from exc


def header(text: str, wanted: str | None = None) -> list[str] | None:
    """
    The column names in a row, in lower case, or None if it is not a header.

    A header has a column `wanted`, or one that we know, and no cell with a dot or a slash in it.
    """
    text = text.lstrip("# \ufeff").rstrip()
    try:
        found = [c.strip().lower() for c in cells(text, delimiter(text))]
    except InputError:
        return None
    known = (wanted.lower(),) if wanted else VALUE_COLUMNS
    if any(name in found for name in known) and not any(re.search(r"[./]", c) for c in found):
        return found
    return None


def delimiter(text: str) -> str:
    """The character that separates the cells of a row; a comma in case of doubt."""
    return max(_DELIMITERS, key=text.count)


class Csv:
    """A row a line; see `Reader`."""

    comments: tuple[str, ...] = ("#",)

    def __init__(self, feed: Feed, out: Parsed, sample: Sequence[str]) -> None:
        """
        Find the columns, from the first lines of the list.

        Raises:
            FeedError: a column that the configuration names is not there, or none can be found.
        """
        self.feed = feed
        self.out = out
        self.rules = out.rules
        self.categories = Categories()
        self.header: str | None = None
        names: list[str] | None = None
        row = ""
        for line in sample:
            comment = line.startswith("#")
            found = header(line, feed.column)
            if comment:
                # The last one before the rows: comments above it may well have a comma.
                names = found or names
            elif line.strip():
                row = line
                if found and not (names and feed.column is None and is_value(line)):
                    names, self.header = found, line.rstrip()
                break
        self.delimiter = delimiter(self.header or row)
        self.value, self.category = self._columns(names, row)
        self._set_run(names, row)

    def _columns(self, names: list[str] | None, row: str) -> tuple[int, int]:
        """Where value and category stand; -1 for no category."""
        where = f"feed {self.feed.name}"
        if names is None:
            if self.feed.column or self.feed.category_column:
                wanted = self.feed.column or self.feed.category_column
                raise FeedError(
                    f"{where}: no header row with a column {wanted!r}; "
                    f"the first row is {row[:80]!a}"
                )
            try:
                first = cells(row.rstrip(), self.delimiter)
            except InputError:
                first = []
            for index, cell in enumerate(first):
                if is_value(cell):
                    return index, -1
            if not row:
                return 0, -1
            raise FeedError(
                f"{where}: no header row, and no name or URL in the first row {row[:80]!a}; "
                f"the header must have one of {', '.join(VALUE_COLUMNS)}, or column be set"
            )
        if self.feed.column:
            value = names.index(self.feed.column.lower())
        else:
            value = next(names.index(name) for name in VALUE_COLUMNS if name in names)
        if wanted := self.feed.category_column:
            if wanted.lower() not in names:
                raise FeedError(f"{where}: no column {wanted!r}; there are {', '.join(names)}")
            return value, names.index(wanted.lower())
        return value, next((names.index(n) for n in CATEGORY_COLUMNS if n in names), -1)

    def _set_run(self, names: list[str] | None, row: str) -> None:
        """The pattern of a run of plain rows: no quotes, as many cells as the header."""
        self.width = len(names) if names else len(row.split(self.delimiter))
        mark = re.escape(self.delimiter)
        each = [rf'[^"\n{mark}]*+'] * self.width
        each[self.value] = NAME
        if self.category >= 0:
            each[self.category] = r"[a-z0-9_.-]*+"
        self.run = re.compile(f"(?:(?!#){mark.join(each)}\n)*")

    def fast(self, chunk: str, start: int) -> int:
        """The run of plain rows from `start` on; see `Reader`."""
        match = self.run.match(chunk, start)
        assert match is not None, "an empty run matches too"
        end = match.end()
        if end == start:
            return end
        text = chunk[start : end - 1]
        if self.value == 0:  # the usual case, and no string has to be made twice
            text = "subtree " + text.replace("\n", f"{self.delimiter}subtree ")
        else:
            text = text.replace("\n", self.delimiter)
        parts = text.split(self.delimiter)
        keys = parts[self.value :: self.width]
        if self.value:
            keys = ["subtree " + key for key in keys]
        if self.category < 0:
            self.rules.update(dict.fromkeys(keys, ""))
            return end
        found = parts[self.category :: self.width]
        self.rules.update(zip(keys, map(self.categories.__getitem__, found), strict=True))
        if unusable := self.categories.unusable:
            self.out.bad_categories += sum(map(unusable.__contains__, found))
        return end

    def line(self, text: str) -> bool:
        """One row; see `Reader`."""
        if text == self.header:
            self.header = None
            return False
        row = cells(text, self.delimiter)
        if len(row) <= self.value:
            raise InputError(f"{len(row)} cells; the name or URL stands in cell {self.value + 1}")
        key = loose_key(row[self.value].strip())
        found = row[self.category] if 0 <= self.category < len(row) else ""
        self.rules[key] = self.categories[found]
        if found in self.categories.unusable:
            self.out.bad_categories += 1
        return True

    def finish(self) -> None:
        """Nothing is left over; see `Reader`."""


def is_value(text: str) -> bool:
    """True if a cell looks like a name, an address or a URL."""
    text = text.strip().strip('"')
    return is_address(text) or (
        re.fullmatch(r"(?:[a-z][a-z0-9+.-]*://\S+|(?:\*\.)?[^\s/,;:]+\.[^\s/,;:.]+\.?)", text, re.I)
        is not None
    )
