"""
The features that the models see: their one definition, for training and for serving.

A name or URL in, a list of numbers out.  Knows strings and `tables`; knows neither models nor
packets, and nothing of where a string came from.

How it works.  A name is cut into three pieces: the *suffix* that anybody may register below, the
*label* that somebody chose and paid for, and what stands *before* it.  On shared hosting the
service's domain is the suffix and the customer's name the label.  Each group of features reads the
pieces in one or two passes; those that were learnt look hashed strings up in `Tables`.  All numbers
are integers or rounded, so that the same input gives the same list on every machine.

The order of the list is that of `NAME` and `URL`; `digest` tells models made for another one.
"""

import hashlib
import math
import re
from functools import cache
from typing import Final, NamedTuple
from zlib import crc32

from urlguard import names, urls
from urlguard.classify import confusables
from urlguard.classify.brands import Brands
from urlguard.classify.tables import ODDS_UNIT, WEIGHT_UNIT, Tables, _private


class Feature(NamedTuple):
    """A number that a model sees: its name, and what it catches."""

    name: str
    catches: str


_SHAPE: Final = (
    Feature("length", "long names, in which a brand's name is only the beginning"),
    Feature("label_length", "labels that are longer or shorter than people choose"),
    Feature("before_length", "long names before the domain, which push it out of a narrow screen"),
    Feature("before_labels", "many labels before the domain"),
    Feature("suffix_labels", "suffixes of several labels, such as shared hosting"),
    Feature("suffix_length", "long suffixes: services and new top-level domains"),
    Feature("hosting", "a place on shared hosting instead of a domain that was bought"),
    Feature("digits", "digits in the label"),
    Feature("digit_runs", "digits scattered over the label"),
    Feature("digit_longest", "serial numbers, dates and phone numbers"),
    Feature("digit_share", "labels that are mostly digits"),
    Feature("digit_first", "a digit at the label's beginning"),
    Feature("digit_last", "a number at the label's end, as of a series of names"),
    Feature("hyphens", "words strung together by hyphens"),
    Feature("token_longest", "the longest part between hyphens"),
    Feature("token_shortest", "the shortest part between hyphens"),
    Feature("vowel_share", "few vowels among the letters: generated names and abbreviations"),
    Feature("consonants_longest", "runs of consonants that nobody can say"),
    Feature("repeat_longest", "the same sign several times"),
    Feature("entropy", "signs spread as evenly as in random names"),
    Feature("distinct", "how many different signs the label has"),
    Feature("hexadecimal", "labels of hexadecimal digits alone"),
    Feature("before_digits", "digits before the domain"),
    Feature("before_digit_longest", "serial numbers before the domain"),
    Feature("before_hyphens", "hyphens before the domain"),
    Feature("before_consonants", "unspeakable runs before the domain"),
)
_GRAMS: Final = (
    Feature("grams", "n-grams of all pieces, weighed together"),
    Feature("grams_label", "n-grams of the label"),
    Feature("grams_before", "n-grams before the domain"),
    Feature("grams_suffix", "what the suffix and the top-level domain speak for"),
    Feature("grams_mean", "n-grams of the label, for one sign of it"),
    Feature("gram_worst", "the label's n-gram that speaks most for fraud"),
    Feature("gram_best", "the label's n-gram that speaks most against it"),
    Feature("gram_before_worst", "the same before the domain, where brands are put"),
    Feature("common", "trigrams that harmless names have, in the mean; low is gibberish"),
    Feature("common_least", "the label's least common trigram"),
)
_WORDS: Final = (
    Feature("words", "known words in the label"),
    Feature("words_share", "how much of the label is known words"),
    Feature("word_longest", "the longest known word"),
    Feature("word_worst", "the word that speaks most for fraud: login, bonus, wallet"),
    Feature("word_best", "the word that speaks most against it"),
    Feature("words_odds", "what the words of the label speak for, together"),
    Feature("unknown_longest", "the longest stretch that is no word"),
    Feature("before_words", "known words before the domain"),
    Feature("before_word_worst", "the word before the domain that speaks most for fraud"),
    Feature("before_words_odds", "what the words before the domain speak for, together"),
    Feature("pinyin_longest", "the longest run of pinyin syllables"),
    Feature("pinyin_whole", "a label of pinyin syllables alone"),
)
_BRANDS: Final = (
    Feature("brand", "a brand in the label, and how it is written, 1 (plain) to 6; 0: none"),
    Feature("brand_share", "how much of the label is the brand"),
    Feature("brand_odds", "how often that brand stands in fraud"),
    Feature("brand_before", "a brand before the domain, and how it is written"),
    Feature("brand_before_odds", "how often that brand stands in fraud"),
    Feature("brand_own", "a brand's own domain"),
    Feature("brands", "how many brands the name has"),
)
_FOREIGN: Final = (
    Feature("foreign_labels", "labels in other scripts than Latin"),
    Feature("foreign_mixed", "labels that mix scripts as no writing system does"),
    Feature("foreign_alike", "signs that look like Latin letters and are none"),
    Feature("foreign_brand", "a brand in what a foreign label looks like"),
)

# What the memory of campaigns keeps: a letter that keeps kinds apart, and what it is.
_KEYS: Final = (
    ("shape", "names of the label's shape, letter for letter and digit for digit, on this suffix"),
    ("series", "the same label with other numbers"),
    ("begins", "the label's first five signs, on this suffix"),
    ("ends", "the label's last five signs, on this suffix"),
    ("begins_anywhere", "the label's first six signs, on any suffix"),
    ("ends_anywhere", "the label's last six signs, on any suffix"),
    ("begins_longer", "the label's first eight signs, on any suffix"),
    ("pattern", "labels with these runs of letters and digits, and the same beginning"),
    ("before_series", "the same names before the domain, with other numbers"),
    ("whole_shape", "names of the same shape in all pieces, on this suffix"),
    ("suffix", "this suffix"),
    ("top_level", "this top-level domain"),
    ("label", "the same label on other suffixes"),
)
_MEMORY: Final = tuple(
    Feature(f"{name}_{what}", f"{words}: {text}")
    for name, text in _KEYS
    for what, words in (("odds", "how often fraud"), ("evidence", "how many known"))
)

_PATH: Final = (
    Feature("path_length", "long paths, where tokens and addresses hide"),
    Feature("path_depth", "segments of the path"),
    Feature("path_digits", "digits in the path"),
    Feature("path_digit_longest", "serial numbers in the path"),
    Feature("path_hyphens", "hyphens in the path: titles of articles"),
    Feature("path_uppercase", "capitals in the path"),
    Feature("path_entropy", "paths of random signs"),
    Feature("path_longest", "the longest segment"),
    Feature("path_random", "the longest run of letters and digits mixed: tokens and hashes"),
    Feature("path_dots", "dots in the path, as of names put into it"),
    Feature("path_escaped", "percent signs: what is hidden from the eye"),
    Feature("path_tilde", "somebody's folder on a shared machine"),
    Feature("path_ends_slash", "a folder instead of a page"),
    Feature("path_double", "a second scheme or slashes inside: an address within the address"),
    Feature("path_name", "a host name inside the path"),
    Feature("path_mail", "an at sign: a victim's e-mail address"),
    Feature("file_odds", "what the file's name speaks for: login.php, index.html"),
    Feature("file_evidence", "how often that file's name is known"),
    Feature("type_odds", "what the file's type speaks for"),
    Feature("first_odds", "what the first segment speaks for: wp-content, blog"),
    Feature("first_evidence", "how often that segment is known"),
    Feature("shape_path_odds", "what paths of the same shape are"),
    Feature("shape_path_evidence", "how many paths of that shape are known"),
    Feature("path_series_odds", "what the same path with other numbers is, on any host"),
    Feature("path_series_evidence", "how many hosts have it: a fraudster's kit"),
    Feature("query_length", "long queries, where tokens and addresses hide"),
    Feature("query_parameters", "how many parameters"),
    Feature("query_longest", "the longest value"),
    Feature("query_digits", "digits in the query"),
    Feature("query_address", "an address in the query: redirectors"),
    Feature("query_mail", "an e-mail address in the query"),
    Feature("query_odds", "what queries with these parameters are"),
    Feature("grams_path", "n-grams of the path"),
    Feature("grams_query", "n-grams of the query"),
    Feature("gram_path_worst", "the path's n-gram that speaks most for fraud"),
    Feature("grams_url", "n-grams of host, path and query, weighed together"),
    Feature("words_path", "known words in the path"),
    Feature("words_path_worst", "the word in the path that speaks most for fraud"),
    Feature("words_path_odds", "what the words of the path speak for, together"),
    Feature("brand_path", "a brand in the path, and how it is written"),
    Feature("brand_path_odds", "how often that brand stands in fraud"),
    Feature("address", "an IP address instead of a name"),
    Feature("bare", "no path at all"),
)

NAME: Final[tuple[Feature, ...]] = _SHAPE + _GRAMS + _WORDS + _BRANDS + _FOREIGN + _MEMORY
URL: Final[tuple[Feature, ...]] = NAME + _PATH

_BEFORE = 0x5BD1E995  # start of hashes of n-grams before the domain: they mean something else there
IN_PATH, IN_QUERY = 0x1B873593, 0x38B34AE5
_MOST_BEFORE, _MOST_PATH, _MOST_QUERY = 100, 200, 120  # signs that are looked at

# entropy: count * log2(count), rounded so that no library's last digit shows.
_LOG = [0.0] + [round(math.log2(n), 9) for n in range(1, 512)]
_COUNTED = [round(n * math.log2(n), 9) if n else 0.0 for n in range(512)]

_SHAPES = bytes(48 if 48 <= c < 58 else 97 if 97 <= c < 123 else c for c in range(256))
_digits = re.compile(rb"[0-9]+")
_vowels = re.compile(rb"[aeiou]").findall
_consonants = re.compile(rb"[bcdfghjklmnpqrstvwxz]{2,}").findall
_repeats = re.compile(rb"(.)\1+").finditer
_runs = re.compile(rb"(a)a+|(0)0+").sub
_hexadecimal = re.compile(rb"[0-9a-f]{6,}").fullmatch
_pinyin = re.compile(
    rb"(?:(?:[bpmf]|[zcs]h?|[dtnlgkhrjqxyw])"
    rb"(?:uang|iang|iong|ang|eng|ong|ian|iao|ing|uai|uan|ai|ei|ao|ou|an|en|ia|ie|iu|in|ua|uo|ue|ui"
    rb"|un|a|o|e|i|u)|ang|ai|an|ao|en|er|ou|a|o|e)+"
).findall
_mixed_run = re.compile(r"(?:[a-z]+[0-9]+|[0-9]+[a-z]+)[a-z0-9]*").findall
_inner_name = re.compile(r"[a-z0-9-]+\.(?:com|net|org|cn|ru|de|fr|uk|br|info|io|co)\b").search
_letters = re.compile(r"[a-z]{3,}").findall


class Pieces(NamedTuple):
    """A name cut up; see the module's text."""

    name: str
    suffix: str
    label: str
    before: str
    hosting: bool


def pieces(name: str, shared: frozenset[str]) -> Pieces:
    """Cut a canonical name; a leading ``www.`` says nothing and is dropped."""
    if name.startswith("www.") and name.count(".") > 1:
        name = name[4:]
    suffix, domain = names.split(name)
    if domain is None:
        return Pieces(name, "", name, "", False)
    if domain in shared and len(domain) < len(name):
        before, _, label = name[: -len(domain) - 1].rpartition(".")
        return Pieces(name, domain, label, before[-_MOST_BEFORE:], True)
    label = domain[: -len(suffix) - 1]
    return Pieces(name, suffix, label, name[: -len(domain) - 1][-_MOST_BEFORE:], _private(suffix))


# -- what is looked up: the same strings for fitting and for serving -------------------------------


def label_grams(label: bytes) -> list[int]:
    """Hashes of the label's n-grams of 3 to 6 signs, its ends marked; the trigrams come first."""
    text = b"^" + label + b"$"
    end = len(text) + 1
    return [crc32(text[at : at + n]) for n in (3, 4, 5, 6) for at in range(end - n)]


def before_grams(before: bytes) -> list[int]:
    """Hashes of n-grams of 3 to 5 signs before the domain; one that says so if nothing is there."""
    text = b"^" + before + b"$"
    end = len(text) + 1
    grams = [crc32(text[at : at + n], _BEFORE) for n in (3, 4, 5) for at in range(end - n)]
    return grams or [crc32(b"^$", _BEFORE)]


def suffix_grams(suffix: str) -> list[int]:
    """Hashes of the suffix and of the top-level domain."""
    return [crc32(suffix.encode(), 7), crc32(suffix.rpartition(".")[2].encode(), 8)]


def tail_grams(text: str, start: int) -> list[int]:
    """Hashes of n-grams of 3 to 5 signs of a path or query."""
    data = b"^" + text.encode(errors="replace") + b"$"
    end = len(data) + 1
    return [crc32(data[at : at + n], start) for n in (3, 4, 5) for at in range(end - n)]


def keys(suffix: str, label: bytes, before: bytes) -> list[int]:
    """Hashes of the keys of `_KEYS`, in that order."""
    below = b"|" + suffix.encode()
    shape = label.translate(_SHAPES)
    top = below[below.rfind(b".") + 1 :] if b"." in below else below[1:]
    return [
        crc32(b"a" + shape + below),
        crc32(b"b" + _digits.sub(b"0", label)),
        crc32(b"c" + label[:5] + below),
        crc32(b"d" + label[-5:] + below),
        crc32(b"e" + label[:6]),
        crc32(b"f" + label[-6:]),
        crc32(b"g" + label[:8]),
        crc32(b"h" + _runs(rb"\1\2", shape) + label[:3] + below),
        crc32(b"i" + _digits.sub(b"0", before)),
        crc32(b"j" + shape + b"|" + before.translate(_SHAPES) + below),
        crc32(b"k" + below),
        crc32(b"l" + top),
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
    series = _digits.sub(b"0", data)
    parameters = ",".join(sorted([part.partition("=")[0] for part in query.split("&")]))
    return [
        crc32(b"o" + _digits.sub(b"0", last.encode(errors="replace"))),
        crc32(b"p" + (last.rpartition(".")[2] if "." in last else "").encode(errors="replace")),
        crc32(b"q" + segments[1 if len(segments) > 1 else 0].encode(errors="replace")),
        crc32(b"r" + _runs(rb"\1\2", data.translate(_SHAPES))),
        crc32(b"s" + series),
        crc32(b"t" + _digits.sub(b"0", parameters.encode(errors="replace"))),
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


# -- reading ---------------------------------------------------------------------------------------


class Extractor:
    """Features over one set of tables."""

    def __init__(self, tables: Tables, brands: Brands | None = None) -> None:
        self.tables = tables
        self.brands = Brands.load() if brands is None else brands
        self._weights, self._weights_mask = tables.weights, len(tables.weights) - 1
        self._common, self._common_mask = tables.common, len(tables.common) - 1
        self._keys, self._keys_mask = tables.keys, len(tables.keys) - 1
        self._cut, self._word_odds = tables.cut, tables.word_odds

    def name(self, name: str) -> list[float]:
        """The features `NAME` of a canonical name."""
        cut = pieces(name, self.tables.shared)
        label, before = cut.label.encode(), cut.before.encode()
        return (
            self._shape(cut, label, before)
            + self._grams(cut, label, before)
            + self._words(cut, label)
            + self._brands(cut)
            + self._foreign(cut.name)
            + self._remembered(keys(cut.suffix, label, before))
        )

    def url(self, url: urls.Url) -> list[float]:
        """The features `URL` of a URL."""
        row = self.name(host_of(url))
        return row + self._path(url, tail(url), row[len(_SHAPE)])

    def _shape(self, cut: Pieces, label: bytes, before: bytes) -> list[float]:
        size = len(label)
        digits = _digits.findall(label)
        lengths = list(map(len, digits))
        many = sum(lengths)
        hyphens = label.count(b"-")
        letters = size - many - hyphens
        tokens = list(map(len, label.split(b"-"))) if hyphens else (size,)
        signs = set(label)
        spread = sum([_COUNTED[label.count(sign)] for sign in signs])
        before_digits = list(map(len, _digits.findall(before))) if before else ()
        return [
            len(cut.name),
            size,
            len(before),
            cut.before.count(".") + 1 if before else 0,
            cut.suffix.count("."),
            len(cut.suffix),
            cut.hosting,
            many,
            len(lengths),
            max(lengths, default=0),
            round(many / size, 3),
            48 <= label[0] < 58,
            48 <= label[-1] < 58,
            hyphens,
            max(tokens),
            min(tokens),
            round(len(_vowels(label)) / letters, 3) if letters else -1,
            max(map(len, _consonants(label)), default=0),
            max([m.end() - m.start() for m in _repeats(label)], default=1),
            round(_LOG[size] - spread / size, 3),
            len(signs),
            _hexadecimal(label) is not None,
            sum(before_digits),
            max(before_digits, default=0),
            before.count(b"-"),
            max(map(len, _consonants(before)), default=0) if before else 0,
        ]

    def _grams(self, cut: Pieces, label: bytes, before: bytes) -> list[float]:
        weights, mask = self._weights, self._weights_mask
        hashes = label_grams(label)
        ours = [weights[h & mask] for h in hashes]
        theirs = [weights[h & mask] for h in before_grams(before)]
        there = sum([weights[h & mask] for h in suffix_grams(cut.suffix)])
        common, common_mask = self._common, self._common_mask
        size = len(label)
        known = [common[h & common_mask] for h in hashes[:size]]
        here, earlier = sum(ours), sum(theirs)
        return [
            (here + earlier + there) * WEIGHT_UNIT,
            here * WEIGHT_UNIT,
            earlier * WEIGHT_UNIT,
            there * WEIGHT_UNIT,
            round(here / size * WEIGHT_UNIT, 3),
            max(ours) * WEIGHT_UNIT,
            min(ours) * WEIGHT_UNIT,
            max(theirs) * WEIGHT_UNIT,
            round(sum(known) / size, 2),
            min(known),
        ]

    def _words(self, cut: Pieces, label: bytes) -> list[float]:
        odds, found = self._word_odds, self.tables.words
        at = covered = longest = gap = 0
        said = []
        for last, number in self._cut(cut.label):
            length = len(found[number])
            if last + 1 - length - at > gap:
                gap = last + 1 - length - at
            at = last + 1
            covered += length
            if length > longest:
                longest = length
            said.append(odds[number])
        if len(label) - at > gap:
            gap = len(label) - at
        earlier = [odds[number] for _, number in self._cut(cut.before)] if cut.before else []
        pinyin = max(map(len, _pinyin(label)), default=0)
        return [
            len(said),
            round(covered / len(label), 3),
            longest,
            max(said, default=0) * ODDS_UNIT,
            min(said, default=0) * ODDS_UNIT,
            sum(said) * ODDS_UNIT,
            gap,
            len(earlier),
            max(earlier, default=0) * ODDS_UNIT,
            sum(earlier) * ODDS_UNIT,
            pinyin,
            pinyin == len(label),
        ]

    def _brands(self, cut: Pieces) -> list[float]:
        here = self.brands.find(cut.label)
        earlier = self.brands.find(cut.before) if cut.before else ()
        if not here and not earlier:
            return [0, 0, 0, 0, 0, self.brands.own(cut.name) is not None, 0]
        row: list[float] = [0, 0, 0, 0, 0, self.brands.own(cut.name) is not None]
        if here:
            best = min(here, key=lambda hit: hit.kind)
            share = (best.end - best.start) / len(cut.label)
            row[:3] = best.kind + 1, round(share, 2), self._odds(brand_key(best.brand))
        if earlier:
            best = min(earlier, key=lambda hit: hit.kind)
            row[3:5] = best.kind + 1, self._odds(brand_key(best.brand))
        return [*row, len(here) + len(earlier)]

    def _foreign(self, name: str) -> list[float]:
        if "xn--" not in name:
            return [0, 0, 0, 0]
        labels = [text for part in name.split(".") if (text := confusables.decode(part))]
        shown = [confusables.skeleton(text) for text in labels]
        alike = sum(
            sign.isascii()
            for text, seen in zip(labels, shown, strict=True)
            for sign, was in zip(seen, text, strict=False)
            if not was.isascii()
        )
        brand = any(self.brands.find(seen) for seen in shown)
        return [len(labels), any(map(confusables.mixed, labels)), alike, brand]

    def _remembered(self, hashes: list[int]) -> list[float]:
        table, mask = self._keys, self._keys_mask
        row: list[float] = []
        for h in hashes:
            found = table[h & mask]
            if found and found >> 16 == h >> 16:
                row.append(((found >> 8 & 255) - 128) * ODDS_UNIT)
                row.append(found & 255)
            else:
                row += (0, 0)
        return row

    def _odds(self, key: int) -> float:
        return self._remembered([key])[0]

    def _path(self, url: urls.Url, after: Tail, host_grams: float) -> list[float]:
        path, query, written = after
        segments = path.split("/")
        data = path.encode(errors="replace")
        size = len(data)
        digits = list(map(len, _digits.findall(data)))
        spread = sum([_COUNTED[data.count(sign)] for sign in set(data)])
        inner = path[1:]
        file, kind, first, shape, series, parameters = (
            self._remembered([key]) for key in path_keys(path, query)
        )
        values = [part.partition("=")[2] for part in query.split("&")] if query else []
        weights, mask = self._weights, self._weights_mask
        in_path = [weights[h & mask] for h in tail_grams(path, IN_PATH)]
        in_query = [weights[h & mask] for h in tail_grams(query, IN_QUERY)] if query else []
        of_path, of_query = sum(in_path) * WEIGHT_UNIT, sum(in_query) * WEIGHT_UNIT
        words = [self._word_odds[number] for _, number in self._cut(path)]
        brands = self.brands.find(path)
        best = min(brands, key=lambda hit: hit.kind) if brands else None
        return [
            size,
            len(segments) - 1,
            sum(digits),
            max(digits, default=0),
            path.count("-"),
            sum(map(str.isupper, written)),
            round(_LOG[size] - spread / size, 3),
            max(map(len, segments)),
            max(map(len, _mixed_run(path)), default=0),
            path.count("."),
            path.count("%"),
            "~" in path,
            path.endswith("/"),
            "//" in inner or "http" in inner,
            _inner_name(path) is not None,
            "@" in path,
            *file,
            kind[0],
            *first,
            *shape,
            *series,
            len(query),
            len(values),
            max(map(len, values), default=0),
            sum(map(str.isdigit, query)),
            "http" in query or "%2f%2f" in query or "//" in query,
            "@" in query or "%40" in query,
            parameters[0],
            of_path,
            of_query,
            max(in_path) * WEIGHT_UNIT,
            host_grams + of_path + of_query,
            len(words),
            max(words, default=0) * ODDS_UNIT,
            sum(words) * ODDS_UNIT,
            0 if best is None else best.kind + 1,
            0 if best is None else self._odds(brand_key(best.brand)),
            url.is_ip,
            path == "/" and not query,
        ]


# -- the digest ------------------------------------------------------------------------------------

_PROBES = (
    "example.com",
    "www.paypal-login.secure-update01.top",
    "xn--80ak6aa92e.com",
    "shop.customer-7.pages.dev",
    "a1b2c3d4e5f6.xyz",
    "zhongguoyinhang95566.com.cn",
    "xn--fiqs8s.cn",
    "1cbc-anquan.vip",
    "m.facebook.com.account-verify.weebly.com",
)
_PROBE_TAILS = (
    "/",
    "/wp-content/login.php?user=a@b.c&id=7",
    "/2024/05/how-to-do-it.html",
    "/a//b~%41",
)


@cache
def digest(kind: str) -> str:
    """
    The sha256 of what the features of this kind are: their names, and what they give on probes.

    Tables of a fixed pattern stand in for fitted ones, so that a change of what is looked up shows.
    """
    pattern = [(n * 2654435761 >> 7) % 251 - 125 for n in range(4096)]
    words = ("secure", "login", "update", "shop", "account", "content", "zhongguo")
    tables = Tables(
        {
            "weights": pattern,
            "common": pattern,
            "keys": [0] * 4096,
            "word_odds": pattern[: len(words)],
        },
        words,
        frozenset(("weebly.com",)),
    )
    found = hashlib.sha256()
    extract = Extractor(tables)
    rows: list[object] = [[feature.name for feature in (NAME if kind == "name" else URL)]]
    for name in _PROBES:
        cut = pieces(name, tables.shared)
        rows.append(keys(cut.suffix, cut.label.encode(), cut.before.encode()))
        if kind == "name":
            rows.append(list(map(float, extract.name(name))))
            continue
        for end in _PROBE_TAILS:
            url = urls.parse(f"{name}{end}")
            rows.append(list(map(float, extract.url(url))))
            rows.append(path_keys(*tail(url)[:2]))
    found.update(repr(rows).encode())
    return found.hexdigest()
