"""
Domain, subtree and below rules: which of them cover a name.

Names stand in the table backwards, with a dot at the end (``elpmaxe.live.``), so that the rules
which cover ``www.evil.example`` are exactly the keys that are a prefix of ``elpmaxe.live.www.``:
one call into the trie, and the dot makes a match end at a label's edge.
"""

from collections.abc import Iterable, Iterator

from urlguard.blocklist.table import Cell, Table

FILE = "names"


def backwards(name: str) -> str:
    """The table key of a canonical name."""
    return name[::-1] + "."


class Suffixes:
    """The name rules of one snapshot."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.cell = table.cell  # the cell of one number that `keys` found

    def __len__(self) -> int:
        return len(self._table)

    def keys(self, name: str) -> list[tuple[str, int]]:
        """
        The table's keys that are `name` or a parent of it, with their numbers; about 1 µs.

        Any characters may stand in `name`; what no rule can spell finds nothing.
        """
        return list(self._table.prefixes(name[::-1] + "."))

    def cells(self, keys: Iterable[tuple[str, int]]) -> dict[str, Cell]:
        """
        The cells of keys that `keys` found, by rule value, shortest first.

        A cell may hold kinds that do not apply, such as ``domain`` at a parent.
        """
        cell = self._table.cell
        return {key[-2::-1]: cell(number) for key, number in keys}  # forwards, without the dot

    def covering(self, name: str) -> dict[str, Cell]:
        """The cells of every rule value that is `name` or a parent of it, by value."""
        return self.cells(self.keys(name))

    def get(self, name: str) -> Cell:
        """The cell at exactly this value."""
        return self._table.get(backwards(name))

    def items(self) -> Iterator[tuple[str, Cell]]:
        """All values with their cells."""
        for key, cell in self._table.items():
            yield key[-2::-1], cell
