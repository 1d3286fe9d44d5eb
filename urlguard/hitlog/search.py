"""
Search in the hit log: the hits of a name around a moment.

Files have up to gigabytes.  Rows are roughly in the order of time, so a plain file is searched by
bisection; a compressed one must be read from its start.  At most `MAX_OCTETS` are read, and the
result says whether that was all.  Clients' pseudonyms are left out: they explain no verdict.
"""

import contextlib
import datetime
import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from urlguard.rules import SHADOW

AROUND_S: Final = 3600.0  # searched before and after the moment
MAX_OCTETS: Final = 64 << 20  # read in all, after decompression
MAX_HITS: Final = 50
_LATE_S: Final = 60.0  # a delayed worker's rows may stand behind newer ones
_PIECE: Final = 1 << 20
_FILE: Final = re.compile(r"(\d{4}-\d\d-\d\d)(?:\.(\d{1,6}))?\.jsonl(?:\.gz)?")
_TIME: Final = re.compile(rb'"time":"([^"]{20})"')


class Seen(NamedTuple):
    """A hit, as clients met it in one second."""

    time: int  # seconds since 1970
    action: str
    rule: str  # a key; ``model NAME`` for a model's
    category: str
    sources: tuple[str, ...]


def around(folder: Path, name: str, moment: float) -> tuple[list[tuple[Seen, int]], bool]:
    """
    The hits of a name nearest to a moment, newest first, each with its number.

    Args:
        folder: of the hit log; need not exist.
        name: canonical.
        moment: seconds since 1970.

    Returns:
        At most `MAX_HITS`, and whether these are all within `AROUND_S`.
    """
    start, end = moment - AROUND_S, moment + AROUND_S
    found: Counter[Seen] = Counter()
    room = MAX_OCTETS
    for path in _files(folder, start, end):
        # A file may be deleted or compressed meanwhile; the others still count.
        with contextlib.suppress(OSError, EOFError):
            for piece in _pieces(path, start, end):
                room -= len(piece)
                for seen, count in _rows(piece, name):
                    # Shadow hits had no effect on clients.
                    if start <= seen.time <= end and seen.action != SHADOW:
                        found[seen] += count
                if room <= 0:
                    break
        if room <= 0:
            break
    nearest = sorted(found, key=lambda seen: abs(seen.time - moment))[:MAX_HITS]
    newest = sorted(nearest, key=lambda seen: seen.time, reverse=True)
    return [(seen, found[seen]) for seen in newest], room > 0 and len(found) <= MAX_HITS


def _files(folder: Path, start: float, end: float) -> list[Path]:
    """The files of the days, the newest first."""
    ends = (datetime.datetime.fromtimestamp(at, datetime.UTC) for at in (start, end))
    days = {at.date().isoformat() for at in ends}
    found = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            match = _FILE.fullmatch(path.name)
            if match and match[1] in days:
                found.append((match[1], int(match[2] or 0), path))
    return [path for *_, path in sorted(found, reverse=True)]


def _pieces(path: Path, start: float, end: float) -> Iterator[bytes]:
    """Whole lines from about `start` to about `end`, about 1 MiB at a time."""
    with path.open("rb") as raw:
        file: IO[bytes] = raw
        if path.suffix == ".gz":
            file = gzip.GzipFile(fileobj=raw)  # type: ignore[assignment]  # it reads like a file
        else:
            raw.seek(_place(raw, start - _LATE_S))
        while piece := file.read(_PIECE) + file.readline():
            yield piece
            if (first := _time(piece)) is not None and first > end + _LATE_S:
                return


def _place(file: IO[bytes], moment: float) -> int:
    """The offset of the first line at or after a time, or of a line before it."""
    low, high = 0, os.fstat(file.fileno()).st_size
    while high - low > _PIECE:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline()
        place = file.tell()
        at = _time(file.readline())
        if at is None or at >= moment or place >= high:
            high = middle
        else:
            low = place
    return low


def _time(lines: bytes) -> int | None:
    """The first row's time in seconds since 1970; None without one."""
    match = _TIME.search(lines, 0, 4096)
    if match is None:
        return None
    try:
        return _seconds(match[1].decode())
    except ValueError:
        return None


def _seconds(text: str) -> int:
    when = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    return int(when.replace(tzinfo=datetime.UTC).timestamp())


def _rows(piece: bytes, name: str) -> Iterator[tuple[Seen, int]]:
    """The rows of a name in some whole lines."""
    sought = b'"name":' + json.dumps(name).encode() + b","
    at = piece.find(sought)
    while at >= 0:
        end = piece.find(b"\n", at)
        line = piece[piece.rfind(b"\n", 0, at) + 1 : end if end >= 0 else len(piece)]
        # An incomplete line after a crash, or not written by us.
        with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError):
            yield _row(json.loads(line))
        at = -1 if end < 0 else piece.find(sought, end)


def _row(row: dict[str, Any]) -> tuple[Seen, int]:
    action, rule, category = (str(row[key]) for key in ("action", "rule", "category"))
    sources = tuple(str(source) for source in row["sources"])
    return Seen(_seconds(row["time"]), action, rule, category, sources), int(row["count"])
