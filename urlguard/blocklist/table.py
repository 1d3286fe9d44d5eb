"""
An mmapped table from a text key to the rulings that stand there.

How it works.  The keys are in a succinct trie (marisa), which numbers them 0 to n-1; about 8 bytes
a name on real lists.  An array of 32-bit numbers leads from key number to *cell*: the rulings of
all rule kinds at that key, as one JSON text.  A feed of a million names in one category needs one
cell, so cells are few; they are decoded when first hit and kept.  Everything is opened with mmap:
opening copies nothing, and all workers share the pages.  The trie stores the keys themselves, so a
hit is the name and never a hash that collides with it.
"""

import array
import json
import mmap
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import marisa_trie

from urlguard.errors import SnapshotError

# What stands at one key: rule kind → the list that `verdict.encode` writes.
Cell = Mapping[str, list[Any]]

EMPTY: Cell = {}
_CACHED_CELLS = 65_536


class Table:
    """Keys with their cells, read-only."""

    def __init__(self) -> None:
        """An empty table, which needs no files."""
        self._trie = marisa_trie.Trie()
        self._index = memoryview(b"").cast("I")
        self._ends = memoryview(b"").cast("Q")
        self._cells: mmap.mmap | bytes = b""
        self._decoded: dict[int, Cell] = {}
        # One call on the packet path: all keys that are a prefix of the argument, with numbers.
        self.prefixes = self._trie.iter_prefixes_with_ids

    @classmethod
    def open(cls, folder: Path, name: str) -> Self:
        """
        Open the files `name`.trie, .idx, .cells and .ends in `folder`.

        Raises:
            SnapshotError: a file is missing or the files do not fit one another.
        """
        table = cls()
        try:
            table._trie.mmap(str(folder / f"{name}.trie"))
            table._index = _numbers(folder / f"{name}.idx", "I")
            table._ends = _numbers(folder / f"{name}.ends", "Q")
            table._cells = _mapped(folder / f"{name}.cells")
        except (OSError, RuntimeError, ValueError, TypeError) as exc:
            raise SnapshotError(f"{folder.name}/{name}: {exc}; must be a readable table") from exc
        if len(table._index) != len(table._trie):
            raise SnapshotError(
                f"{folder.name}/{name}.idx: {len(table._index)} entries; "
                f"the trie has {len(table._trie)} keys"
            )
        return table

    def __len__(self) -> int:
        return len(self._index)

    def get(self, key: str) -> Cell:
        """The cell of `key`, empty if there is none."""
        number = self._trie.get(key)
        return EMPTY if number is None else self.cell(number)

    def items(self) -> Iterable[tuple[str, Cell]]:
        """All keys with their cells, in no particular order."""
        for key, number in self._trie.iteritems():
            yield key, self.cell(number)

    def cell(self, key_number: int) -> Cell:
        """The cell of the key that the trie gave this number."""
        number = self._index[key_number]
        cell = self._decoded.get(number)
        if cell is None:
            start = self._ends[number - 1] if number else 0
            cell = json.loads(bytes(self._cells[start : self._ends[number]]))
            if len(self._decoded) >= _CACHED_CELLS:
                self._decoded.clear()
            self._decoded[number] = cell
        return cell


class TableBuilder:
    """Collects keys and writes the files of a `Table`."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._numbers: dict[str, int] = {}
        self._keys: dict[str, int] = {}
        self._merged: dict[tuple[int, str], int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: str, kind: str, ruling: str) -> None:
        """Put the encoded `ruling` of a rule `kind` at `key`."""
        text = f'"{kind}":{ruling}'
        before = self._keys.get(key)
        if before is None:
            self._keys[key] = self._number(text)
            return
        both = self._merged.get((before, text))
        if both is None:
            both = self._merged[before, text] = self._number(f"{self._texts[before]},{text}")
        self._keys[key] = both

    def write(self, folder: Path, name: str) -> list[Path]:
        """Write the table's files and return their paths."""
        trie = marisa_trie.Trie(self._keys, order=marisa_trie.LABEL_ORDER)
        index = array.array("I", bytes(4 * len(self._keys)))
        # Keys arrive sorted often enough that the trie's pages stay warm.
        key_id = trie.key_id
        for key, number in self._keys.items():
            index[key_id(key)] = number
        ends = array.array("Q")
        cells = bytearray()
        for text in self._texts:
            cells += f"{{{text}}}".encode()
            ends.append(len(cells))
        paths = [folder / f"{name}.{end}" for end in ("trie", "idx", "ends", "cells")]
        try:
            trie.save(str(paths[0]))
        except RuntimeError as exc:  # how marisa says that the disk is full
            raise OSError(f"{paths[0].name}: {str(exc).splitlines()[0]}") from exc
        for path, data in zip(
            paths[1:], (_little(index), _little(ends), bytes(cells)), strict=True
        ):
            path.write_bytes(data)
        return paths

    def _number(self, text: str) -> int:
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self._texts)
            self._texts.append(text)
        return number


def _little(numbers: "array.array[int]") -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _mapped(path: Path) -> "mmap.mmap | bytes":
    with path.open("rb") as file:
        if path.stat().st_size == 0:  # mmap refuses an empty file
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _numbers(path: Path, code: str) -> "memoryview[int]":
    if sys.byteorder == "big":
        raise SnapshotError("snapshots are little-endian; this machine is not")
    return memoryview(_mapped(path)).cast(code)  # type: ignore[call-overload, no-any-return]
