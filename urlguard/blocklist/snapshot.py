"""
Snapshots: the policy of one serial as a folder of files, immutable, shared by all workers.

    snapshots/0000000412-1/
        manifest.json     format version, serial, number of rules, whether filtering is paused
                          and until when, SHA-256 of each file
        names.*  urls.*   tables of name rules and URL rules
        patterns.*        patterns and their automaton
        shadow-*          tables of names and patterns in shadow, if there are any

A snapshot is written under a temporary name, synced and renamed, so a folder with a proper name is
whole; even so nothing is opened before its digests are checked.  Knows files; knows nothing of
claims, sources or how a ruling came about.
"""

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from urlguard.blocklist.patterns import PatternSet
from urlguard.blocklist.pause import NOT_PAUSED, pause_end
from urlguard.blocklist.suffixes import FILE as NAMES
from urlguard.blocklist.suffixes import Suffixes, backwards
from urlguard.blocklist.table import Cell, Table, TableBuilder
from urlguard.errors import SnapshotError
from urlguard.rules import PAUSE, SHADOWED
from urlguard.verdict import Ruling, from_parts

FORMAT = 1
_FOLDER = re.compile(r"(\d{10,})-(\d+)")
_URLS = "urls"
_PATTERN_RULINGS = "pattern-rulings"
_SHADOW = "shadow-"


class Snapshot:
    """One compiled policy, opened."""

    def __init__(
        self,
        serial: int,
        names: Suffixes,
        urls: Table,
        patterns: PatternSet,
        pattern_rulings: Table,
        *,
        paused_until: float = NOT_PAUSED,
        shadow: "Snapshot | None" = None,
    ) -> None:
        self.serial = serial
        self.names = names
        self.urls = urls
        self.patterns = patterns
        # The operator has paused filtering until then: seconds since 1970.
        self.paused_until = paused_until
        self.shadow = shadow  # the rules in shadow, if there are any
        self._pattern_rulings = pattern_rulings

    def __len__(self) -> int:
        return len(self.names) + len(self.urls) + len(self.patterns)

    def url(self, expression: str) -> Ruling | None:
        """The ruling of the URL rule at `expression`."""
        return _ruling(self.urls.get(expression), "url", expression)

    def pattern(self, text: str) -> Ruling | None:
        """The ruling of the pattern `text`."""
        return _ruling(self._pattern_rulings.get(text), "pattern", text)


def _ruling(cell: Cell, kind: str, value: str) -> Ruling | None:
    parts = cell.get(kind)
    return None if parts is None else from_parts(parts, kind, value)


def write(folder: Path, serial: int, rulings: Iterable[tuple[str, str]], history: str = "") -> Path:
    """
    Compile rulings into a new snapshot below `folder`.

    Args:
        folder: where snapshots live; made if missing.
        serial: the batch whose policy this is.
        rulings: rule keys with encoded rulings (`verdict.encode`), each key once.
        history: the batch's hash, which tells this log's serials from another's.

    Returns:
        The new snapshot's folder.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    names, urls, patterns = TableBuilder(), TableBuilder(), TableBuilder()
    aside = {NAMES: TableBuilder(), _PATTERN_RULINGS: TableBuilder()}
    texts: list[str] = []
    paused_until = NOT_PAUSED
    for key, ruling in rulings:
        kind, _, value = key.partition(" ")
        if kind == "url":
            urls.add(value, kind, ruling)
        elif kind == "pattern":
            patterns.add(value, kind, ruling)
            texts.append(value)
        elif key == PAUSE:
            paused_until = pause_end(json.loads(ruling)[1])
        elif key.startswith(SHADOWED):
            kind, _, value = value.partition(" ")
            if kind == "pattern":
                aside[_PATTERN_RULINGS].add(value, kind, ruling)
            elif kind != "url":  # which no query is counted for
                aside[NAMES].add(backwards(value), kind, ruling)
        else:
            names.add(backwards(value), kind, ruling)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
    try:
        paths = names.write(temporary, NAMES)
        paths += urls.write(temporary, _URLS)
        paths += patterns.write(temporary, _PATTERN_RULINGS)
        paths += PatternSet(texts).save(temporary)
        if any(map(len, aside.values())):
            for name, builder in aside.items():
                paths += builder.write(temporary, _SHADOW + name)
        manifest = temporary / "manifest.json"
        manifest.write_text(
            json.dumps(
                {
                    "format": FORMAT,
                    "serial": serial,
                    "history": history,
                    "rules": {"names": len(names), "urls": len(urls), "patterns": len(texts)},
                    "paused": paused_until != NOT_PAUSED,
                    # null: until somebody resumes.
                    "paused_until": int(paused_until) if math.isfinite(paused_until) else None,
                    "sha256": {path.name: _digest(path) for path in paths},
                },
                indent=1,
            )
        )
        for path in [*paths, manifest]:
            _sync(path)
        temporary.chmod(0o755)
        _sync(temporary)
        return _publish(temporary, folder, serial)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _publish(temporary: Path, folder: Path, serial: int) -> Path:
    """Give a finished snapshot its name: the serial and the next free number for it."""
    number = 1 + max((n for s, n, _ in _listed(folder) if s == serial), default=0)
    while True:
        path = folder / f"{serial:010}-{number}"
        try:
            temporary.rename(path)
        except OSError:
            if not path.exists():
                raise
            number += 1  # another compile of the same serial finished first
        else:
            _sync(folder)
            return path


def open_folder(folder: Path) -> Snapshot:
    """
    Check and open one snapshot.

    Raises:
        SnapshotError: wrong format version, a wrong digest, or a file that is missing or broken.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        version, digests = manifest["format"], dict(manifest["sha256"])
        serial = int(manifest["serial"])
        paused_until = _paused_until(manifest)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise SnapshotError(f"{folder.name}: no usable manifest: {exc}") from exc
    if version != FORMAT:
        raise SnapshotError(f"{folder.name}: format {version}; this build reads {FORMAT}")
    for path in folder.iterdir():
        if path.name not in digests and path.name != "manifest.json":
            raise SnapshotError(f"{folder.name}/{path.name}: no digest in the manifest")
    for name, wanted in digests.items():
        try:
            found = _digest(folder / Path(name).name)
        except OSError as exc:
            raise SnapshotError(f"{folder.name}/{name}: {exc.strerror}") from exc
        if found != wanted:
            raise SnapshotError(f"{folder.name}/{name}: digest {found[:8]}; must be {wanted[:8]}")
    return Snapshot(
        serial,
        Suffixes(Table.open(folder, NAMES)),
        Table.open(folder, _URLS),
        PatternSet.load(folder),
        Table.open(folder, _PATTERN_RULINGS),
        paused_until=paused_until,
        shadow=_shadow(folder, serial) if f"{_SHADOW}{NAMES}.trie" in digests else None,
    )


def _shadow(folder: Path, serial: int) -> Snapshot:
    """The rules in shadow of a snapshot that has some."""
    rulings = Table.open(folder, _SHADOW + _PATTERN_RULINGS)
    # No feed brings patterns: there are as many as people have written.
    patterns = PatternSet([text for text, _ in rulings.items()])
    names = Suffixes(Table.open(folder, _SHADOW + NAMES))
    return Snapshot(serial, names, Table(), patterns, rulings)


def _paused_until(manifest: dict[str, Any]) -> float:
    """
    When filtering goes on by a manifest; what nobody writes there means that it is on.

    Snapshots of before there were pauses say nothing, and those of before a pause carried its
    end do not say when.
    """
    if manifest.get("paused", False) is not True:
        return NOT_PAUSED
    until = manifest.get("paused_until")
    if until is None:
        return math.inf
    return float(until) if type(until) is int and abs(until) < 10**15 else NOT_PAUSED


def nothing() -> Snapshot:
    """A snapshot without rules, of serial 0; there are no files behind it."""
    return Snapshot(0, Suffixes(Table()), Table(), PatternSet(()), Table())


def newest(folder: Path) -> list[Path]:
    """Finished snapshots below `folder`, newest first."""
    return [path for _, _, path in sorted(_listed(folder), reverse=True)]


def history_of(folder: Path) -> str:
    """The hash of the batch that a snapshot was made of; "" if its manifest does not say."""
    try:
        return str(json.loads((folder / "manifest.json").read_bytes())["history"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def serial_of(folder: Path) -> int:
    """The serial that a finished snapshot's name tells."""
    return int(folder.name.partition("-")[0])


def prune(folder: Path, keep: int = 2) -> None:
    """Delete all but the newest snapshots, and what unfinished writers left behind."""
    for path in newest(folder)[keep:]:
        shutil.rmtree(path, ignore_errors=True)


def clear_unfinished(folder: Path) -> None:
    """Delete what writers that were killed left behind; call it while no compile is running."""
    for path in folder.glob(".writing-*"):
        shutil.rmtree(path, ignore_errors=True)


def _listed(folder: Path) -> list[tuple[int, int, Path]]:
    found = []
    if folder.is_dir():
        for path in folder.iterdir():
            if match := _FOLDER.fullmatch(path.name):
                found.append((int(match[1]), int(match[2]), path))
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
