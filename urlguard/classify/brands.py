"""
Brands that fraudsters imitate: where one stands in a text, how it is written, and what is its own.

Knows the brands of ``urlguard/data/brands.txt``, their spellings and their own domains; knows
nothing of models, rules or packets, and nothing of who asks.  It does not say that a name is fraud:
most names with a brand in them belong to dealers, fans and partners.

What counts as a brand's name, from the plainest to the best disguised (`Spelling`):

    exact      paypal-login, icbc, 95588; in decoded labels also the Chinese name
    hyphen     pay-pal: the name with hyphens inside
    homoglyph  paypa1, rnicrosoft, g00gle, 1cbc, 1oo86: signs that look like others
    digit      pay9pal, 955888: a digit or two pushed in
    typo       payapl, payypal, mcrosoft: letters swapped, doubled or missing
    keyboard   oaypal: a letter's neighbour on the keyboard

How it works.  All tokens and their variants stand in one Aho–Corasick automaton, which runs once
over the text; a text that has hyphens, or digits between letters, is searched a second time without
them.  Words that are part of other words need borders: an *ordinary* token ("apple", anything of
four characters or fewer) and every variant of one counts only as a whole token, or with a lure word
at its side ("verifyapple").  Variants in letters are made only for tokens of six letters and more,
for a shorter one's are words; those that popular names contain are dropped or need borders as well,
as the file's section of noise says.  Of hits that overlap one is kept.  The result is a function of
the text alone.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import NamedTuple

import ahocorasick

from urlguard import names

_FILE = Path(__file__).parents[1] / "data" / "brands.txt"
NOISE = "# == noise"  # the heading in the file that the generated part begins with

_CATEGORIES = (
    "bank charity crypto device education energy gambling game government health insurance mail "
    "media parcel payment shop social software telecom travel"
)
CATEGORIES = frozenset(_CATEGORIES.split())

# What stands beside a brand when somebody wants to be believed, in English and pinyin.  A token
# beside one of these is taken for a whole one, so none is an ending of ordinary words.
_LURES = (
    "account activate airdrop alert app auth bank billing bonus card care center centre claim "
    "client confirm connect customer delivery express gift help invoice kyc login logon mail "
    "member mobile notice official online parcel pay payment portal promo recover recovery refund "
    "reward secure security service services shop signin store support team track tracking "
    "transfer unlock update verify verification verified wallet web anquan bangzhu denglu "
    "duihuan fuwu guanfang guanwang jifen kefu renzheng shangcheng shouji xiazai yinhang yanzheng "
    "zhongxin zhifu zhuce"
)
LURES = tuple(_LURES.split())

_SHORT = 4  # characters; a token of no more is ordinary
_LONG = 6  # letters; only a token of so many has variants in letters,
_LONGEST = 12  # and of no more: nobody mistypes one letter of "gongshangyinhang" for others' profit
_FREE = 8  # letters; a variant of so many counts without borders

# Signs that are taken for each other at a glance.
_TO_DIGIT = dict(zip("abegilostz", "4839110572", strict=True))
_TO_LETTER = {"i": ("l",), "l": ("i",), "m": ("rn", "nn"), "w": ("vv",), "d": ("cl",), "q": ("g",)}
_TO_LETTER |= {"rn": ("m",), "vv": ("w",), "cl": ("d",), "u": ("v",), "v": ("u",)}
_FROM_DIGIT = {"0": ("o",), "1": ("l", "i"), "5": ("s",), "8": ("b",)}

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")

_HYPHEN = re.compile("-")
# Begins with the digit, so that the search is one for digits.
_DIGIT_INSIDE = re.compile(r"[0-9](?<=[a-z].)[0-9]?(?=[a-z])")
_HAN = re.compile("[㐀-鿿]{3,}")
_TOKEN = re.compile(r"~?[a-z0-9]{2,40}")


class Spelling(IntEnum):
    """How a brand is written where it was found; the smaller, the plainer."""

    EXACT = 0
    HYPHEN = 1
    HOMOGLYPH = 2
    DIGIT = 3
    TYPO = 4
    KEYBOARD = 5


_KINDS = tuple(Spelling)  # by number; quicker than calling the class


class BrandMatch(NamedTuple):
    """A brand in a text: at `text[start:end]` the one of index `brand`, written as `kind` says."""

    brand: int
    kind: Spelling
    start: int
    end: int


class Brand(NamedTuple):
    """One line of the file."""

    key: str  # the first token, by which people refer to the brand
    tokens: tuple[str, ...]
    ordinary: frozenset[str]  # those of the tokens that need borders
    category: str
    name: str  # as people write it
    domains: tuple[str, ...]  # its own: registrable domains, or suffixes that it runs


class BrandError(ValueError):
    """The file of brands is not as its head says; a fault of the package, not of the user."""


class Brands:
    """All brands with their automaton; immutable."""

    def __init__(self, brands: Iterable[Brand], noise: Collection[str] = ()) -> None:
        """
        Build the automaton.

        Args:
            brands: in the order in which a variant that two of them have is given away.
            noise: ``-variant`` to drop one, ``~variant`` to have it need borders.

        Raises:
            BrandError: none, or a token or a domain stands with two.
        """
        self._brands = tuple(brands)
        self._own: dict[str, int] = {}
        for index, brand in enumerate(self._brands):
            for domain in brand.domains:
                if self._own.setdefault(domain, index) != index:
                    raise BrandError(f"domain {domain!r} of {brand.key!r} is another brand's")
        self._run = {name: i for name, i in self._own.items() if names.is_public_suffix(name)}
        dropped = frozenset(line[1:] for line in noise if line.startswith("-"))
        wary = frozenset(line[1:] for line in noise if line.startswith("~"))
        automaton = ahocorasick.Automaton(ahocorasick.STORE_INTS)
        for text, index, kind, bordered in _words(self._brands):
            # The first to come keeps the place: tokens, then the variants of earlier brands.
            if text in automaton or text in dropped:
                continue
            bordered = bordered or text in wary
            # One integer, not an object: there are tens of thousands.
            automaton.add_word(text, index << 16 | kind << 12 | bordered << 8 | len(text))
        if not automaton:
            raise BrandError("no brands")  # an automaton of nothing cannot be asked
        automaton.make_automaton()
        self._iter: Callable[[str], Iterator[tuple[int, int]]] = automaton.iter
        self.words = len(automaton)  # tokens and variants

    @classmethod
    @cache
    def load(cls) -> "Brands":
        """
        The brands that ship with UrlGuard; the same object each time.

        Raises:
            BrandError: the file breaks a rule of its head.
        """
        brands, noise = read(_FILE.read_text("utf-8"))
        return cls(brands, noise)

    def __len__(self) -> int:
        return len(self._brands)

    def __getitem__(self, index: int) -> Brand:
        return self._brands[index]

    def find(self, text: str) -> list[BrandMatch]:
        """
        The brands in a text, in its order, no two overlapping.

        Where hits overlap, a plain one of a token that is not ordinary wins, then the longest, then
        the plainest.

        Args:
            text: lower case: a label, a whole name, a URL's path; also a decoded label or its
                skeleton (`confusables`).
        """
        found = list(self._iter(text))
        if not found and text.isalpha():
            return []
        hits = []
        for last, word in found:
            end = last + 1
            start = end - (word & 0xFF)
            if not word & 0x100 or is_bounded(text, start, end):
                hits.append((word, BrandMatch(word >> 16, _KINDS[word >> 12 & 0xF], start, end)))
        if "-" in text:
            hits += self._across(text, text.replace("-", ""), Spelling.HYPHEN)
        if _DIGIT_INSIDE.search(text):
            hits += self._across(text, _DIGIT_INSIDE.sub("", text), Spelling.DIGIT)
        if len(hits) < 2:
            return [hit for _, hit in hits]
        return _disjoint(hits)

    def own(self, name: str) -> int | None:
        """
        The brand whose own domain a canonical name is or stands below; None if nobody's.

        Customers' names below a private suffix are not the brand's.
        """
        return self.owner(*names.split(name))

    def owner(self, suffix: str, domain: str | None) -> int | None:
        """As `own`, of a name that was split: its public suffix and its registrable domain."""
        if domain is not None and (brand := self._own.get(domain)) is not None:
            return brand
        # A state's agencies have suffixes of their own below its: ``service.gov.uk``.
        if (brand := self._run.get(suffix)) is not None or "." not in suffix:
            return brand
        return next((self._run[name] for name in names.parents(suffix) if name in self._run), None)

    def _across(self, text: str, rest: str, kind: Spelling) -> list[tuple[int, BrandMatch]]:
        """Whole tokens that come together in the rest of a text from which signs were taken."""
        hits: list[tuple[int, BrandMatch]] = []
        places: list[int] = []  # of the rest's signs in the text, once somebody wants to know
        for last, word in self._iter(rest):
            length = word & 0xFF
            if word & 0xF100 or length < _LONG:  # a variant, or ordinary: too easily by chance
                continue
            places = places or _places(text, kind)
            start, end = places[last - length + 1], places[last] + 1
            if end - start > length and is_bounded(text, start, end):
                hits.append((word | kind << 12, BrandMatch(word >> 16, kind, start, end)))
        return hits


def _places(text: str, kind: Spelling) -> list[int]:
    """Where the signs stand that are left of a text without hyphens or digits inside."""
    pattern = _DIGIT_INSIDE if kind == Spelling.DIGIT else _HYPHEN
    gone = {at for match in pattern.finditer(text) for at in range(*match.span())}
    return [at for at in range(len(text)) if at not in gone]


def is_bounded(text: str, start: int, end: int) -> bool:
    """
    True if a word begins and ends at these places, or one of the two and the other at a lure word.

    Between a letter and a digit there is a border ("apple2024"), except for words of three
    characters and fewer, which chance puts beside digits too often.
    """
    strict = end - start < _SHORT
    left = not start or _border(text[start - 1], text[start], strict)
    right = end == len(text) or _border(text[end], text[end - 1], strict)
    # Between two lure words stands too often what is neither: "account-ing-web".
    return (
        (left and right)
        or (right and text.endswith(LURES, 0, start))
        or (left and text.startswith(LURES, end))
    )


def _border(outer: str, inner: str, strict: bool) -> bool:
    if not outer.isalnum():
        return True
    return not strict and outer.isdigit() is not inner.isdigit()


def _disjoint(hits: list[tuple[int, BrandMatch]]) -> list[BrandMatch]:
    """Of hits that overlap, one; see `Brands.find`."""

    def rank(item: tuple[int, BrandMatch]) -> tuple[int, ...]:
        word, hit = item
        plain = hit.kind == Spelling.EXACT and not word & 0x100
        return not plain, hit.start - hit.end, hit.kind, hit.start, hit.brand

    kept: list[BrandMatch] = []
    for _, hit in sorted(hits, key=rank):
        if all(hit.end <= other.start or other.end <= hit.start for other in kept):
            kept.append(hit)
    return sorted(kept, key=lambda hit: hit.start)


# -- spellings -------------------------------------------------------------------------------------


def _words(brands: tuple[Brand, ...]) -> Iterator[tuple[str, int, Spelling, bool]]:
    """Every string to look for, tokens first: its brand, its kind, whether it needs borders."""
    tokens: dict[str, int] = {}
    for index, brand in enumerate(brands):
        chinese = (brand.name,) if _HAN.fullmatch(brand.name) else ()
        for token in (*brand.tokens, *chinese):
            if tokens.setdefault(token, index) != index:
                raise BrandError(f"token {token!r} of {brand.key!r} is another brand's")
            short = len(token) <= _SHORT or token.isdigit()
            yield (
                token,
                index,
                Spelling.EXACT,
                token in brand.ordinary or (short and token.isascii()),
            )
    for index, brand in enumerate(brands):
        for token in brand.tokens:
            ordinary = token in brand.ordinary
            for text, kind in variants(token, ordinary):
                # In letters alone it is soon a part of some word.
                short = len(text) < (_FREE if text.isalpha() else _LONG)
                yield text, index, kind, ordinary or short or token.isdigit()


def variants(token: str, ordinary: bool = False) -> Iterator[tuple[str, Spelling]]:
    """
    Other spellings of a token, the plainest kinds first; some come more than once.

    Args:
        token: lower-case letters and digits.
        ordinary: leaves out those that have letters for letters, for they may be words.
    """
    if token.isdigit():
        yield from ((text, Spelling.HOMOGLYPH) for text in _replaced(token, _FROM_DIGIT))
        for at in range(len(token) + 1):
            for digit in "0123456789":
                yield token[:at] + digit + token[at:], Spelling.DIGIT
        return
    if len(token) < _SHORT:
        return
    yield from ((text, Spelling.HOMOGLYPH) for text in _replaced(token, _TO_DIGIT))
    if ordinary or not _LONG <= len(token) <= _LONGEST or not token.isalpha():
        return
    yield from ((text, Spelling.HOMOGLYPH) for text in _replaced(token, _TO_LETTER))
    for at in range(1, len(token)):
        before, sign, after = token[: at - 1], token[at - 1], token[at]
        if sign != after:
            yield before + after + sign + token[at + 1 :], Spelling.TYPO
    for at, sign in enumerate(token):
        # Without its first letter a word is too often another: cloud, mobile, trade.
        if at:
            yield token[:at] + token[at + 1 :], Spelling.TYPO
        # A doubled first or last letter leaves the token whole.
        if 0 < at < len(token) - 1:
            yield token[:at] + sign + token[at:], Spelling.TYPO
    for at, sign in enumerate(token):
        for near in _neighbours().get(sign, ""):
            yield token[:at] + near + token[at + 1 :], Spelling.KEYBOARD


def _replaced(token: str, table: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The token with one sign replaced, with all of one sign, and with every one."""
    for sign, others in table.items():
        if sign not in token:
            continue
        for other in others:
            at = token.find(sign)
            while at >= 0:
                yield token[:at] + other + token[at + len(sign) :]
                at = token.find(sign, at + 1)
            yield token.replace(sign, other)
    whole = "".join([table.get(sign, (sign,))[0] for sign in token])
    if whole != token:
        yield whole


@cache
def _neighbours() -> dict[str, str]:
    """
    The letters beside each on a QWERTY keyboard.

    Those above and below are slips of the finger too, but rarer, and would double the automaton.
    """
    near: dict[str, str] = {}
    for row in _ROWS:
        for sign, left, right in zip(row, " " + row, row[1:] + " ", strict=False):
            near[sign] = (left + right).strip()
    return near


# -- the file --------------------------------------------------------------------------------------


def read(text: str) -> tuple[list[Brand], list[str]]:
    """
    The brands and the noise of a file in the format that its head describes.

    Raises:
        BrandError: with the number of the line that is wrong.
    """
    brands: list[Brand] = []
    noise: list[str] = []
    in_noise = False
    for number, line in enumerate(text.splitlines(), 1):
        in_noise = in_noise or line == NOISE
        if not line or line.startswith("#"):
            continue
        if in_noise:
            noise.append(line)
            continue
        try:
            brands.append(_brand(line))
        except BrandError as exc:
            raise BrandError(f"line {number}: {exc}") from exc
    return brands, noise


def _brand(line: str) -> Brand:
    cells = [cell.strip() for cell in line.split("|")]
    if len(cells) != 4 or not all(cells):
        raise BrandError("must be: tokens | category | display name | own domains")
    marked, category, name, domains = cells
    tokens = marked.split()
    if wrong := [token for token in tokens if not _TOKEN.fullmatch(token)]:
        raise BrandError(f"token {wrong[0]!r}: must be 2 to 40 lower-case letters and digits")
    if category not in CATEGORIES:
        raise BrandError(f"category {category!r} is not known")
    own = () if domains == "-" else tuple(domains.split())
    plain = tuple(token.removeprefix("~") for token in tokens)
    ordinary = frozenset(token[1:] for token in tokens if token.startswith("~"))
    return Brand(plain[0], plain, ordinary, category, name, own)
