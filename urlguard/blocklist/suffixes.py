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

    def __len__(self) -> int:
        return len(self._table)

    def covering(self, name: str) -> dict[str, Cell]:
        """
        The cells of every rule value that is `name` or a parent of it, by value.

        A cell may hold kinds that do not apply, such as ``domain`` at a parent.
        """
        get = self._table.get
        return {
            key[-2::-1]: get(key)  # without the final dot, forwards again
            for key in self._table.prefixes(backwards(name))
        }

    def any_covering(self, name: str) -> bool:
        """True if `covering` would find a cell; about 1 µs."""
        return bool(self._table.prefixes(name[::-1] + "."))

    def get(self, name: str) -> Cell:
        """The cell at exactly this value."""
        return self._table.get(backwards(name))

    def items(self) -> Iterator[tuple[str, Cell]]:
        """All values with their cells."""
        for key, cell in self._table.items():
            yield key[-2::-1], cell


def parents(name: str) -> Iterable[str]:
    """`name` and each of its parents, longest first, without the root."""
    yield name
    at = name.find(".")
    while at >= 0:
        yield name[at + 1 :]
        at = name.find(".", at + 1)
