"""
Normalizes a message character by character, and keeps the position of each in the message.

Knows Unicode; knows no names, and no obfuscation that takes several characters: see `defanging`.

How it works.  Each character is folded by itself: compatibility forms (NFKC) of letters, digits and
URL punctuation become ASCII, and so do circled and squared letters that have no such form;
invisible characters are dropped; each kind of dot, hyphen and picture becomes one character.
Chinese punctuation is kept, since it ends a URL where its ASCII form would not.  A table that fills
itself makes this one look-up per character.  As long as nothing was dropped or added, positions are
those of the message and cost nothing; otherwise two lists carry them.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

# Placeholders.  No character for private use (U+E000 to U+F8FF) is left in a normalized message.
TIGHT: Final = "\ue000"  # replaced a dot: an ideographic full stop or a middle dot, without spaces
SPELLED: Final = "\ue001"  # the same: 点, or ``dot`` without spaces
LOOSE: Final = "\ue002"  # the same: a dot, or the word, with spaces or pictures about it
COMMA: Final = "\ue003"  # the same: a comma
DOUBTFUL: Final = (LOOSE, COMMA, TIGHT, SPELLED)  # the most doubtful first
PICTURE: Final = "\ue004"  # any symbol: emoji, arrows, stars

_URL_CHARS: Final = frozenset("./:@-_?=&%# ")
MIDDLE_DOTS: Final = (  # with the stroke of Chinese writing that looks like one
    "\u00b7\u0387\u2022\u2027\u2219\u22c5\u25cf\u30fb\uff65\u318d\u4e36"
)
_HYPHENS: Final = frozenset("\u2010\u2011\u2012\u2013\u2212")
_SLASHES: Final = {"\u2044": "/", "\u2215": "/", "\u29f8": "/", "\u2236": ":", "\ua789": ":"}

# Seen as nothing, or as a line through or round the character before, besides the category Cf.
_UNSEEN: Final = frozenset(
    [
        *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0),
        *range(0x0334, 0x0339),
        *range(0x180B, 0x1810),
        *range(0x20D0, 0x20F1),
        *range(0xFE00, 0xFE10),
        *range(0xE0100, 0xE01F0),
    ]
)

_MAX_TABLE = 20_000  # characters; bounds the memory that unusual messages can fill


def _letters(first: int, start: str = "a", count: int = 26) -> dict[str, str]:
    return {chr(first + i): chr(ord(start) + i) for i in range(count)}


# What has no compatibility form: white on black, in circles and in squares.
_ENCLOSED: Final = {
    **_letters(0x1F150),
    **_letters(0x1F170),
    **_letters(0x2776, "1", 9),
    **_letters(0x2780, "1", 9),
    **_letters(0x278A, "1", 9),
    **_letters(0x24F5, "1", 9),
    "\u277f": "10",
    "\u24ff": "0",
    "\U0001f10b": "0",
    "\U0001f10c": "0",
}


_small_capital = re.compile("LATIN LETTER SMALL CAPITAL ([A-Z])").fullmatch


def _folded(char: str) -> str:
    """One character, folded; ``""`` if it is invisible."""
    if char.isascii():
        return char
    category = unicodedata.category(char)
    if category in ("Co", "Cs"):
        return "\ufffd"
    if category == "Cf" or ord(char) in _UNSEEN:
        return ""
    if enclosed := _ENCLOSED.get(char) or _SLASHES.get(char):
        return enclosed
    if char in MIDDLE_DOTS:
        return "·"
    if char in _HYPHENS:
        return "-"
    if found := _small_capital(unicodedata.name(char, "")):
        return found[1].lower()
    plain = unicodedata.normalize("NFKC", char)
    if plain == "\u3002":
        return plain
    if plain[:1] == "(" and plain[-1:] == ")" and plain[1:-1].isalnum():  # ⑴ ⒜
        plain = plain[1:-1]
    if plain.isascii():
        if category == "So" and len(plain) > 1 and not plain[0].isdigit():
            return PICTURE  # such as ™
        return plain if all(s.isalnum() or s in _URL_CHARS for s in plain) else char
    if category in ("So", "Sk") or "\u2190" <= char <= "\u21ff":
        return PICTURE
    # Lower case must be as long as the character itself, for both are read side by side.
    if len(plain) == len(plain.lower()) == 1:
        return plain
    return char if len(char.lower()) == 1 else unicodedata.normalize("NFD", char)[0]


class _Folds(dict[str, str]):
    def __missing__(self, char: str) -> str:
        plain = _folded(char)
        if len(self) < _MAX_TABLE:
            self[char] = plain
        return plain


_fold = _Folds().__getitem__

Edit = tuple[int, int, str]  # from, to, and what stands there instead


class Normalized:
    """
    A normalized text, with its case (``cased``) and in lower case (``text``).

    ``starts`` and ``ends`` have the position in the message where each character begins and ends.
    """

    __slots__ = ("cased", "ends", "starts", "text")

    def __init__(self, cased: str, starts: Sequence[int], ends: Sequence[int]) -> None:
        self.cased = cased
        self.text = cased.lower()
        self.starts = starts
        self.ends = ends

    def edited(self, edits: Iterable[Edit]) -> "Normalized":
        """
        The text after replacements.

        Args:
            edits: in order and without overlaps; each new character gets the position of the whole
                part that it replaces.
        """
        cased: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        at = 0
        for start, end, new in edits:
            cased += self.cased[at:start], new
            starts += self.starts[at:start]
            ends += self.ends[at:start]
            starts += [self.starts[start]] * len(new)
            ends += [self.ends[end - 1]] * len(new)
            at = end
        if not at:
            return self
        cased.append(self.cased[at:])
        starts += self.starts[at:]
        ends += self.ends[at:]
        return Normalized("".join(cased), starts, ends)


def normalized(message: str) -> Normalized:
    """The message with every character folded; never raises."""
    size = len(message)
    if message.isascii():
        return Normalized(message, range(size), range(1, size + 1))
    chars = list(map(_fold, message))
    cased = "".join(chars)
    if len(cased) == size and "" not in chars:
        return Normalized(cased, range(size), range(1, size + 1))
    places = [i for i, char in enumerate(chars) for _ in char]
    return Normalized(cased, places, [i + 1 for i in places])
