"""
Random numbers for queries, and the random spelling of their names (0x20).

All of it comes from the generator of the operating system, some kilobytes at a time: neither ID,
port nor spelling may be foretold from earlier ones (RFC 5452 section 10).

How it works
    A name is compared without case (RFC 4343) and echoed with it, so that each letter of a question
    carries one bit that a forger must guess.  Letters differ from their other case in the bit 0x20,
    and the octets of a name that are no letters, its lengths among them (at most 63), must stay.
    One table turns a name into the mask of the bits that may change, and one number of random
    octets, cut down by the mask, changes about half of them.
"""

import os
from array import array
from typing import Final

_BULK: Final = 8192  # octets drawn at a time

_LETTERS: Final = bytes(0x20 if chr(i).isascii() and chr(i).isalpha() else 0 for i in range(256))


class Random:
    """Unpredictable numbers and spellings."""

    def __init__(self) -> None:
        self._numbers = array("Q")
        self._octets = b""
        self._at = 0

    def number(self) -> int:
        """A number of 64 random bits."""
        if not self._numbers:
            self._numbers.frombytes(os.urandom(_BULK))
        return self._numbers.pop()

    def spell(self, question: bytes) -> bytes:
        """
        The same question, each letter of its name in upper or lower case by chance.

        Args:
            question: name without compression, type and class; at most 259 octets.
        """
        size = len(question) - 4
        start, self._at = self._at, self._at + size
        if self._at > len(self._octets):
            self._octets = os.urandom(_BULK)
            start, self._at = 0, size
        flips = int.from_bytes(self._octets[start : start + size])
        name = question[:size]
        flips &= int.from_bytes(name.translate(_LETTERS))
        return (int.from_bytes(name) ^ flips).to_bytes(size) + question[size:]


def same_name(one: bytes, other: bytes) -> bool:
    """
    True if two questions differ in nothing but the case of their names.

    Type and class are compared as they are: types 65 and 97 differ as letters do in case.
    """
    return one[-4:] == other[-4:] and one[:-4].lower() == other[:-4].lower()
