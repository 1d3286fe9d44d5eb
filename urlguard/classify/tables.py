"""
The trained tables of strings, in one file: n-grams, keys, words.

Knows hashes and places; knows neither the meaning of strings nor their use in features.
`training.fit_tables` makes the tables, `features` reads them.

How it works.  Four parts, each in fixed-size arrays, so that a look-up costs one step, and the file
is used as it was read:

    weights   a weight for each hashed character n-gram, from one linear model over all of them
    common    how common each hashed trigram is among harmless names, as a power of two
    keys      odds and evidence for each hashed key: a suffix, the shape of a label, its beginning
              ... the memory of campaigns; a part of the hash beside it detects collisions
    words     the vocabulary that labels are cut into, with the odds of each word

All numbers are small integers: features come out the same on every machine, and steps this coarse
do not tell a tree which rows a table was fitted on.  The file: ``MAGIC``, the length of a JSON head
in four octets (big-endian), the head with the place of each array, then the arrays (little-endian,
each at a multiple of 64 octets).
"""

import json
import sys
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import ahocorasick

from urlguard.classify import strings
from urlguard.errors import UrlGuardError

MAGIC: Final = b"UGTABLE1"
WEIGHT_UNIT: Final = 1 / 32  # log-odds of one step of a weight
ODDS_UNIT: Final = 0.25  # of one step of a key's or word's odds
MAX_HEAD: Final = 16 << 20

_ALIGN = 64
_SIZES = {"b": 1, "I": 4}  # octets
_ARRAYS: dict[str, Literal["b", "I"]] = {
    "weights": "b",
    "common": "b",
    "keys": "I",
    "word_odds": "b",
}


class TablesError(UrlGuardError):
    """A file of tables is damaged or not one; the message says where."""


class Tables:
    """
    Fitted tables; immutable.

    ``weights``, ``common`` and ``keys`` have a power of two places each.  An entry of ``keys`` is
    ``check << 16 | odds + 128 << 8 | evidence``, 0 if empty.
    """

    def __init__(
        self,
        arrays: Mapping[str, Sequence[int]],
        words: Sequence[str],
        shared: frozenset[str],
    ) -> None:
        self.weights = arrays["weights"]
        self.common = arrays["common"]
        self.keys = arrays["keys"]
        self.word_odds = arrays["word_odds"]
        self.words = words
        self.shared = shared
        for name in ("weights", "common", "keys"):
            if (size := len(arrays[name])) & (size - 1) or not size:
                raise TablesError(f"{name}: {size} places; must be a power of two")
        if len(words) != len(self.word_odds):
            raise TablesError(f"{len(words)} words with {len(self.word_odds)} odds")
        automaton = ahocorasick.Automaton(ahocorasick.STORE_INTS)
        for number, word in enumerate(words):
            automaton.add_word(word, number)
        automaton.make_automaton()
        # Without a word there is no automaton, only a trie, which refuses to search.
        self.cut = automaton.iter_long if words else lambda _: iter(())

    @classmethod
    def open(cls, path: Path) -> "Tables":
        """
        The tables in a file.

        Raises:
            TablesError: it cannot be read or is not whole.
        """
        try:
            return cls.of(path.read_bytes())
        except OSError as exc:
            raise TablesError(f"{path}: {exc.strerror or exc}") from exc
        except TablesError as exc:
            raise TablesError(f"{path}: {exc}") from exc

    @classmethod
    def of(cls, octets: bytes) -> "Tables":
        """
        The tables in the octets of a file, which they go on to use.

        Raises:
            TablesError: they are not whole.
        """
        if sys.byteorder != "little":
            raise TablesError("this machine is big-endian; tables are little-endian")
        data = memoryview(octets)
        if bytes(data[:8]) != MAGIC:
            raise TablesError("not a file of tables")
        length = int.from_bytes(data[8:12])
        if length > min(MAX_HEAD, len(data)):
            raise TablesError(f"its head is {length} octets; the file has {len(data)}")
        try:
            head = json.loads(bytes(data[12 : 12 + length]))
            arrays: dict[str, Sequence[int]] = {}
            for name, kind in _ARRAYS.items():
                start, count = (int(number) for number in head["arrays"][name])
                end = start + count * _SIZES[kind]
                if not 0 <= start <= end <= len(data) or start % _ALIGN:
                    raise TablesError(f"array {name} is beyond the file's end")
                arrays[name] = data[start:end].cast(kind)
            words = [str(word) for word in head["words"]]
            if not all(words):
                raise TablesError("a word is empty")
            return cls(arrays, words, frozenset(map(str, head["shared"])))
        except (ValueError, KeyError, TypeError) as exc:
            raise TablesError(f"its head is damaged: {exc!r}") from exc

    def write(self, path: Path) -> None:
        """Write the file; whoever publishes it sees to syncing and renaming."""
        arrays = {name: array(kind, getattr(self, name)) for name, kind in _ARRAYS.items()}
        places: dict[str, tuple[int, int]] = dict.fromkeys(_ARRAYS, (0, 0))
        head: dict[str, Any] = {
            "arrays": places,
            "words": list(self.words),
            "shared": sorted(self.shared),
        }
        # Places are numbers of a fixed width, so that the head's length does not depend on them.
        size = len(json.dumps(head)) + len(_ARRAYS) * 40
        at = -(-(12 + size) // _ALIGN) * _ALIGN
        for name, values in arrays.items():
            places[name] = (at, len(values))
            at = -(-(at + len(values) * values.itemsize) // _ALIGN) * _ALIGN
        text = json.dumps(head).encode().ljust(size)
        with path.open("wb") as file:
            file.write(MAGIC + size.to_bytes(4) + text)
            for name, values in arrays.items():
                file.write(b"\0" * (places[name][0] - file.tell()))
                values.tofile(file)

    def hosting(self, name: str) -> bool:
        """True if a canonical name is somebody's place on shared hosting, not a domain bought."""
        return strings.on_hosting(name, self.shared)
