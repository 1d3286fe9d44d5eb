"""
Counts of shadow hits in the hit log.

Knows the hit log's files and rows; knows no policy.  Files of up to gigabytes are read from the
newest back, at most `MAX_OCTETS` in all; the result says whether that was all.
"""

import contextlib
import datetime
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

MAX_OCTETS: Final = 256 << 20  # read in all, after decompression
_PIECE: Final = 1 << 20
_FILE: Final = re.compile(r"(\d{4}-\d\d-\d\d)(?:\.(\d{1,6}))?\.jsonl(?:\.gz)?")
_SOUGHT: Final = b'"action":"shadow"'


class ShadowCount(NamedTuple):
    """Queries that rules in shadow would have blocked."""

    queries: int
    clients: int  # by pseudonym, so a client counts once per day
    complete: bool  # False: older rows were not read


def of(folder: Path, source: str, since: int) -> ShadowCount:
    """
    The hits of one source's rules in shadow.

    Args:
        folder: of the hit log; need not exist.
        source: such as ``feed:NAME``.
        since: seconds since 1970; older hits do not count.
    """
    start = _text(since)
    queries, room = 0, MAX_OCTETS
    clients: set[tuple[str, str | None]] = set()
    for path in _files(folder, start[:10]):
        # A file may be deleted or compressed meanwhile; the others still count.
        with contextlib.suppress(OSError, EOFError):
            for piece in _pieces(path):
                room -= len(piece)
                for row in _rows(piece):
                    if source in row["sources"] and row["time"] >= start:
                        queries += int(row["count"])
                        clients.add((row["time"][:10], row["client"]))
                if room <= 0:
                    return ShadowCount(queries, len(clients), False)
    return ShadowCount(queries, len(clients), True)


def _files(folder: Path, first: str) -> list[Path]:
    """The files of a day and later ones, the newest first."""
    found = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            match = _FILE.fullmatch(path.name)
            if match and match[1] >= first:
                found.append((match[1], int(match[2] or 0), path))
    return [path for *_, path in sorted(found, reverse=True)]


def _pieces(path: Path) -> Iterator[bytes]:
    """Whole lines, about 1 MiB at a time."""
    with path.open("rb") as raw:
        file: IO[bytes] = raw
        if path.suffix == ".gz":
            file = gzip.GzipFile(fileobj=raw)  # type: ignore[assignment]  # it reads like a file
        while piece := file.read(_PIECE) + file.readline():
            yield piece


def _rows(piece: bytes) -> Iterator[dict[str, Any]]:
    """The shadow rows in some whole lines; other lines are not parsed."""
    at = piece.find(_SOUGHT)
    while at >= 0:
        end = piece.find(b"\n", at)
        line = piece[piece.rfind(b"\n", 0, at) + 1 : end if end >= 0 else len(piece)]
        # An incomplete line after a crash, or not written by us.
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            if row["action"] == "shadow":
                yield row
        at = -1 if end < 0 else piece.find(_SOUGHT, end)


def _text(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
