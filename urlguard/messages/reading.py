"""
A message as it is read: its signs in plain form, and where in the message each of them stands.

Knows Unicode; knows no names and no disguises made of several signs, which are the business of
`disguises`.

How it works.  Each sign is folded by itself: compatibility forms (NFKC) of letters, digits and of
the punctuation of URLs become ASCII, and so do circled and squared letters that have no such form;
signs that nobody sees go; every kind of dot, hyphen and picture becomes one sign of its kind.
Chinese punctuation stays what it is, since it ends a URL where its ASCII form would not.  A table
that fills itself makes this one look-up a sign.  While nothing was left out or added, positions are
those of the message and cost nothing; otherwise two lists are carried along.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

# Signs for private use (U+E000 to U+F8FF) never come out of a message, so that these are free.
TIGHT: Final = "\ue000"  # stood for a dot: an ideographic full stop or a middle dot, without spaces
SPELLED: Final = "\ue001"  # the same: 点, or ``dot`` without spaces
LOOSE: Final = "\ue002"  # the same: a dot, or the word, with spaces or pictures about it
COMMA: Final = "\ue003"  # the same: a comma
DOUBTFUL: Final = (LOOSE, COMMA, TIGHT, SPELLED)  # the most doubtful first
PICTURE: Final = "\ue004"  # any symbol: emoji, arrows, stars

_URL_SIGNS: Final = frozenset("./:@-_?=&%# ")
MIDDLE_DOTS: Final = (  # with the stroke of Chinese writing that looks like one
    "\u00b7\u0387\u2022\u2027\u2219\u22c5\u25cf\u30fb\uff65\u318d\u4e36"
)
_HYPHENS: Final = frozenset("\u2010\u2011\u2012\u2013\u2212")
_SLASHES: Final = {"\u2044": "/", "\u2215": "/", "\u29f8": "/", "\u2236": ":", "\ua789": ":"}

# Seen as nothing, or as a line through or round the sign before, besides the category Cf.
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

_MAX_TABLE = 20_000  # signs; a message of a hundred thousand different ones must not stay in memory


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


def _folded(sign: str) -> str:
    """One sign in plain form; ``""`` if nobody sees it."""
    if sign.isascii():
        return sign
    category = unicodedata.category(sign)
    if category in ("Co", "Cs"):
        return "\ufffd"
    if category == "Cf" or ord(sign) in _UNSEEN:
        return ""
    if enclosed := _ENCLOSED.get(sign) or _SLASHES.get(sign):
        return enclosed
    if sign in MIDDLE_DOTS:
        return "·"
    if sign in _HYPHENS:
        return "-"
    if found := _small_capital(unicodedata.name(sign, "")):
        return found[1].lower()
    plain = unicodedata.normalize("NFKC", sign)
    if plain == "\u3002":
        return plain
    if plain[:1] == "(" and plain[-1:] == ")" and plain[1:-1].isalnum():  # ⑴ ⒜
        plain = plain[1:-1]
    if plain.isascii():
        if category == "So" and len(plain) > 1 and not plain[0].isdigit():
            return PICTURE  # such as ™
        return plain if all(s.isalnum() or s in _URL_SIGNS for s in plain) else sign
    if category in ("So", "Sk") or "\u2190" <= sign <= "\u21ff":
        return PICTURE
    # Lower case must be as long as the sign itself, for both are read side by side.
    if len(plain) == len(plain.lower()) == 1:
        return plain
    return sign if len(sign.lower()) == 1 else unicodedata.normalize("NFD", sign)[0]


class _Folds(dict[str, str]):
    def __missing__(self, sign: str) -> str:
        plain = _folded(sign)
        if len(self) < _MAX_TABLE:
            self[sign] = plain
        return plain


_fold = _Folds().__getitem__

Edit = tuple[int, int, str]  # from, to, and what stands there instead


class Reading:
    """
    The text that is read, in upper and lower case (``cased``) and in lower case alone (``text``).

    ``starts`` and ``ends`` give for each sign where it begins and ends in the message.
    """

    __slots__ = ("cased", "ends", "starts", "text")

    def __init__(self, cased: str, starts: Sequence[int], ends: Sequence[int]) -> None:
        self.cased = cased
        self.text = cased.lower()
        self.starts = starts
        self.ends = ends

    def edited(self, edits: Iterable[Edit]) -> "Reading":
        """
        The reading with parts put in place of others.

        Args:
            edits: in order and without overlaps; each new sign stands for the whole old part.
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
        return Reading("".join(cased), starts, ends)


def read(message: str) -> Reading:
    """The message with every sign in plain form; never raises."""
    size = len(message)
    if message.isascii():
        return Reading(message, range(size), range(1, size + 1))
    signs = list(map(_fold, message))
    cased = "".join(signs)
    if len(cased) == size and "" not in signs:
        return Reading(cased, range(size), range(1, size + 1))
    places = [i for i, sign in enumerate(signs) for _ in sign]
    return Reading(cased, places, [i + 1 for i in places])
