"""
What is looked up about a name or URL: its pieces, its n-grams and its keys, as strings and hashes.

The same functions feed the fitting of tables and the features that are served, so what was learnt
is what is found.  Knows public suffixes; knows neither weights nor features.
"""

import re
from collections.abc import Callable
from functools import cache, lru_cache
from itertools import repeat
from operator import itemgetter
from typing import NamedTuple
from zlib import crc32

from urlguard import names, urls

_BEFORE = 0x5BD1E995  # start of hashes of n-grams before the domain: they mean something else there
IN_PATH, IN_QUERY = 0x1B873593, 0x38B34AE5
_MOST_BEFORE, _MOST_PATH, _MOST_QUERY = 100, 200, 120  # signs that are looked at
_MOST_SUFFIXES = 2048  # that are remembered; 99 of 100 collected names have one of the top 2,048
SHAPES = bytes(48 if 48 <= c < 58 else 97 if 97 <= c < 123 else c for c in range(256))
_letter_runs, _digit_runs = re.compile(rb"aa+").sub, re.compile(rb"00+").sub
_digits = re.compile(rb"[0-9]+").sub


class Pieces(NamedTuple):
    """A name cut up; see the module's text."""

    name: str
    suffix: str
    label: str
    before: str
    hosting: bool


def pieces(name: str, shared: frozenset[str]) -> Pieces:
    """Cut a canonical name; a leading ``www.`` says nothing and is dropped."""
    return divide(name, shared)[0]


def divide(name: str, shared: frozenset[str]) -> tuple[Pieces, str, str | None]:
    """The pieces of a name, and its public suffix and registrable domain."""
    if name.startswith("www.") and name.count(".") > 1:
        name = name[4:]
    suffix, domain = names.split(name)
    if domain is None:
        return Pieces(name, "", name, "", False), suffix, None
    if domain in shared and len(domain) < len(name):
        before, _, label = name[: -len(domain) - 1].rpartition(".")
        return Pieces(name, domain, label, before[-_MOST_BEFORE:], True), suffix, domain
    label = domain[: -len(suffix) - 1]
    before = name[: -len(domain) - 1][-_MOST_BEFORE:] if len(domain) < len(name) else ""
    return Pieces(name, suffix, label, before, ending(suffix).private), suffix, domain


def on_hosting(name: str, shared: frozenset[str]) -> bool:
    """True if a canonical name is somebody's place on shared hosting, not a domain bought."""
    suffix, domain = names.split(name)
    return ending(suffix).private or (
        domain is not None and domain in shared and len(domain) < len(name)
    )


class Ending(NamedTuple):
    """What a suffix alone says."""

    private: bool  # its owner gives names below it away
    labels: int  # below the first
    length: int
    below: bytes  # behind a key, where the key counts on this suffix alone
    grams: tuple[int, int]
    keys: tuple[int, int]


@lru_cache(_MOST_SUFFIXES)
def ending(suffix: str) -> Ending:
    top = suffix.rpartition(".")[2].encode()
    below = b"|" + suffix.encode()
    return Ending(
        names.is_private_suffix(suffix),
        suffix.count("."),
        len(suffix),
        below,
        (crc32(below[1:], 7), crc32(top, 8)),
        (crc32(b"k" + below), crc32(b"l" + top)),
    )


def label_grams(label: bytes) -> list[int]:
    """Hashes of the label's n-grams of 3 to 6 signs, its ends marked; the trigrams come first."""
    text = b"^%b$" % label
    size = len(text)
    if 4 <= size < _WINDOWED:
        return list(map(crc32, _windows(size, 6)(text)))
    return [crc32(text[at : at + n]) for n in (3, 4, 5, 6) for at in range(size + 1 - n)]


def before_grams(before: bytes) -> list[int]:
    """Hashes of n-grams of 3 to 5 signs before the domain; one that says so if nothing is there."""
    return _to_five(before, _BEFORE) if before else [crc32(b"^$", _BEFORE)]


def suffix_grams(suffix: str) -> tuple[int, int]:
    """Hashes of the suffix and of the top-level domain."""
    return ending(suffix).grams


def tail_grams(text: str, start: int) -> list[int]:
    """Hashes of n-grams of 3 to 5 signs of a path or query."""
    return _to_five(text.encode(errors="replace"), start)


def gram_count(name: str, shared: frozenset[str]) -> int:
    """How many n-grams a name has: those of label, suffix and what stands before."""
    cut = pieces(name, shared)
    label, before = len(cut.label) + 2, len(cut.before) + 2
    found = sum([max(label + 1 - n, 0) for n in (3, 4, 5, 6)]) + 2
    return found + (sum([max(before + 1 - n, 0) for n in (3, 4, 5)]) if cut.before else 1)


def _to_five(data: bytes, start: int) -> list[int]:
    text = b"^%b$" % data
    size = len(text)
    if 4 <= size < _WINDOWED:
        return list(map(crc32, _windows(size, 5)(text), repeat(start)))
    return [crc32(text[at : at + n], start) for n in (3, 4, 5) for at in range(size + 1 - n)]


_WINDOWED = 128  # octets of a text whose n-grams are cut in one go


@cache
def _windows(size: int, longest: int) -> Callable[[bytes], tuple[bytes, ...]]:
    """Cuts a text of this size into its n-grams from 3 signs to `longest`."""
    return itemgetter(
        *[slice(at, at + n) for n in range(3, longest + 1) for at in range(size + 1 - n)]
    )


def _collapsed(shape: bytes) -> bytes:
    """A shape with each run of letters or digits as one."""
    return _digit_runs(b"0", _letter_runs(b"a", shape))


def keys(suffix: str, label: bytes, before: bytes) -> list[int]:
    """Hashes of the keys of `_KEYS`, in that order."""
    end = ending(suffix)
    below = end.below
    shape = label.translate(SHAPES)
    if shape.strip(b"a"):
        runs = _collapsed(shape)
        series = _digits(b"0", label)
    else:  # letters alone, as most are
        runs, series = b"a", label
    earlier, rest = (before.translate(SHAPES), _digits(b"0", before)) if before else (b"", b"")
    return [
        crc32(b"a%b%b" % (shape, below)),
        crc32(b"b" + series),
        crc32(b"c%b%b" % (label[:5], below)),
        crc32(b"d%b%b" % (label[-5:], below)),
        crc32(b"e" + label[:6]),
        crc32(b"f" + label[-6:]),
        crc32(b"g" + label[:8]),
        crc32(b"h%b%b%b" % (runs, label[:3], below)),
        crc32(b"i" + rest),
        crc32(b"j%b|%b%b" % (shape, earlier, below)),
        *end.keys,
        crc32(b"m" + label),
    ]


def brand_key(brand: int) -> int:
    """The hash under which a brand's odds stand; by its number in the file of brands."""
    return crc32(b"n%d" % brand)


def path_keys(path: str, query: str) -> list[int]:
    """Hashes of: file name, file type, first segment, path's shape, path's series, parameters."""
    segments = path.split("/")
    last = segments[-1]
    data = path.encode(errors="replace")
    series = _digits(b"0", data)
    parameters = ",".join(sorted([part.partition("=")[0] for part in query.split("&")]))
    return [
        crc32(b"o" + _digits(b"0", last.encode(errors="replace"))),
        crc32(b"p" + (last.rpartition(".")[2] if "." in last else "").encode(errors="replace")),
        crc32(b"q" + segments[1 if len(segments) > 1 else 0].encode(errors="replace")),
        crc32(b"r" + _collapsed(data.translate(SHAPES))),
        crc32(b"s" + series),
        crc32(b"t" + _digits(b"0", parameters.encode(errors="replace"))),
    ]


def host_of(url: urls.Url) -> str:
    """A URL's host as a name; one that can be none, such as an address, counts as one label."""
    return url.name or url.host.replace(".", "-")[: names.MAX_NAME]


class Tail(NamedTuple):
    """Path and query of a URL, lower case and bounded, and the path as written."""

    path: str
    query: str
    written: str


def tail(url: urls.Url) -> Tail:
    """What follows a URL's host."""
    written = url.path[:_MOST_PATH]
    return Tail(written.lower(), (url.query or "")[:_MOST_QUERY].lower(), written)
