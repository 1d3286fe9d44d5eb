"""
Computes the features that models see: one definition, for training and for serving.

Takes a name or URL, gives a list of numbers.  Knows strings and `tables`; knows neither models nor
packets, and not where a string came from.  `feature_list` has the names and their order.

How it works.  A name has three pieces: the *suffix*, below which anybody may register; the *label*
that was registered; and the labels *before* it.  On shared hosting the service's domain is the
suffix and the customer's name the label.  Each group of features reads the pieces in one or two
passes; the trained ones look hashed strings up in `Tables`.  All numbers are integers or rounded,
so the same input gives the same list on every machine.

A resolver waits for each new name.  So features that are absent from most names (digits, hyphens,
labels before the domain) cost them one test, results that depend on the suffix alone are cached,
and loops over characters and n-grams run in C.  Batches are processed group by group: the tables of
all groups exceed a processor's near caches, the tables of one group do not.

`digest` identifies the definition, so that a model made for another one is refused.
"""

import hashlib
import math
import re
from collections.abc import Sequence
from functools import cache
from operator import itemgetter

from urlguard import urls
from urlguard.classify import confusables
from urlguard.classify.brands import BrandMatch, Brands
from urlguard.classify.feature_list import BY_KIND, SHAPE
from urlguard.classify.strings import (
    IN_PATH,
    IN_QUERY,
    SHAPES,
    Ending,
    Pieces,
    Tail,
    before_grams,
    brand_key,
    divide,
    ending,
    gram_count,
    host_of,
    keys,
    label_grams,
    path_keys,
    pieces,
    tail,
    tail_grams,
)
from urlguard.classify.tables import ODDS_UNIT, WEIGHT_UNIT, Tables

# entropy: count * log2(count), rounded so that no library's last digit shows.
_LOG = [0.0] + [round(math.log2(n), 9) for n in range(1, 512)]
_COUNTED = [round(n * math.log2(n), 9) if n else 0.0 for n in range(512)]
_counted = _COUNTED.__getitem__
# What part of a label some of its signs are: by the label's length and their number.  Of nothing it
# is -1.  Kept, because rounding costs more than all else about a share.
_SHARES = [[-1.0]]
_SHARES += [[round(part / whole, 3) for part in range(whole + 1)] for whole in range(1, 64)]

# An odds octet as it stands in an entry of the memory of campaigns, in log-odds.
_ODDS = [(octet - 128) * ODDS_UNIT for octet in range(256)]

_DIGIT = ord("0")  # in a shape
_GRAMS = len(SHAPE)  # where ``grams`` stands in a row
_digits = re.compile(rb"[0-9]+")
_consonants = re.compile(rb"[bcdfghjklmnpqrstvwxz]{2,}").findall
_repeats = re.compile(rb"(.)\1+").finditer
_hexadecimal = re.compile(rb"[0-9a-f]{6,}").fullmatch
# Of finals that begin alike the longest is taken.
_pinyin = re.compile(
    rb"(?:(?:[zcs]h?|[bpmfdtnlgkhrjqxyw])"
    rb"(?:a(?:ng?|[io])?|e(?:ng?|i)?|i(?:a(?:ng?|o)?|ong|ng?|[eu])?|o(?:ng|u)?"
    rb"|u(?:a(?:ng?|i)?|[noei])?)"
    rb"|a(?:ng?|[io])?|e[nr]?|ou?)+"
).findall
_mixed_run = re.compile(r"(?:[a-z]+[0-9]+|[0-9]+[a-z]+)[a-z0-9]*").findall
_inner_name = re.compile(r"[a-z0-9-]+\.(?:com|net|org|cn|ru|de|fr|uk|br|info|io|co)\b").search


# -- reading ---------------------------------------------------------------------------------------


def _share(part: int, whole: int) -> float:
    """What part of a whole something is, to three digits; -1 if the whole is nothing."""
    return _SHARES[whole][part] if whole < len(_SHARES) else round(part / whole, 3)


_plainness = itemgetter(BrandMatch._fields.index("kind"))  # quicker than a lambda


class Extractor:
    """Features over one set of tables."""

    def __init__(self, tables: Tables, brands: Brands | None = None) -> None:
        self.tables = tables
        self.brands = Brands.load() if brands is None else brands
        self._shared = tables.shared
        self._weights, self._weights_mask = tables.weights, len(tables.weights) - 1
        self._common, self._common_mask = tables.common, len(tables.common) - 1
        self._keys, self._keys_mask = tables.keys, len(tables.keys) - 1
        self._cut = tables.cut
        self._word_odds, self._word_lengths = list(tables.word_odds), list(map(len, tables.words))
        self._nothing_before = tables.weights[before_grams(b"")[0] & self._weights_mask]

    def name(self, name: str) -> list[float]:
        """The features `NAME` of a canonical name."""
        cut, suffix, domain = divide(name, self._shared)
        label, before = cut.label.encode(), cut.before.encode()
        end = ending(cut.suffix)
        return [
            *self._shape(cut, end, label, before),
            *self._grams(end, label, before),
            *self._words(cut, label),
            *self._brands(cut, self.brands.owner(suffix, domain) is not None),
            *self._foreign(cut.name),
            *self._remembered(keys(cut.suffix, label, before)),
        ]

    def of_names(self, names: Sequence[str]) -> list[list[float]]:
        """The features of many canonical names, each row the same as from `name`."""
        owner = self.brands.owner
        asked = []
        for name in names:
            cut, suffix, domain = divide(name, self._shared)
            label, before = cut.label.encode(), cut.before.encode()
            own = owner(suffix, domain) is not None
            asked.append((cut, ending(cut.suffix), label, before, own))
        groups = (
            [self._shape(cut, end, label, before) for cut, end, label, before, _ in asked],
            [self._grams(end, label, before) for _, end, label, before, _ in asked],
            [self._words(cut, label) for cut, _, label, _, _ in asked],
            [self._brands(cut, own) for cut, _, _, _, own in asked],
            [self._foreign(cut.name) for cut, *_ in asked],
            [
                self._remembered(keys(cut.suffix, label, before))
                for cut, _, label, before, _ in asked
            ],
        )
        return [[*a, *b, *c, *d, *e, *f] for a, b, c, d, e, f in zip(*groups, strict=True)]

    def url(self, url: urls.Url) -> list[float]:
        """The features `URL` of a URL."""
        name = host_of(url)
        row = self.name(name)
        return row + self._path(url, tail(url), row[_GRAMS], gram_count(name, self._shared))

    def of_urls(self, urls: Sequence[urls.Url]) -> list[list[float]]:
        """The features of many URLs, each row the same as from `url`."""
        hosts = list(map(host_of, urls))
        return [
            row + self._path(url, tail(url), row[_GRAMS], gram_count(host, self._shared))
            for url, host, row in zip(urls, hosts, self.of_names(hosts), strict=True)
        ]

    def _shape(self, cut: Pieces, end: Ending, label: bytes, before: bytes) -> list[float]:
        size = len(label)
        shape = label.translate(SHAPES)
        digits = shape.count(b"0")
        runs = longest = 0
        if digits:
            found = _digits.findall(label)
            runs, longest = len(found), max(map(len, found))
        hyphens = label.count(b"-")
        token_longest = token_shortest = size
        if hyphens:
            tokens = list(map(len, label.split(b"-")))
            token_longest, token_shortest = max(tokens), min(tokens)
        vowels = size - len(label.translate(None, b"aeiou"))
        consonants = _consonants(label)
        repeated = [len(run[0]) for run in _repeats(label)]
        signs = set(label)
        spread = sum(map(_counted, map(label.count, signs)))
        before_labels = before_digits = before_longest = before_hyphens = before_consonants = 0
        if before:
            before_labels = cut.before.count(".") + 1
            before_hyphens = before.count(b"-")
            if found := _digits.findall(before):
                lengths = list(map(len, found))
                before_digits, before_longest = sum(lengths), max(lengths)
            if found := _consonants(before):
                before_consonants = max(map(len, found))
        return [
            len(cut.name),
            size,
            len(before),
            before_labels,
            end.labels,
            end.length,
            cut.hosting,
            digits,
            runs,
            longest,
            _share(digits, size),
            shape[0] == _DIGIT,
            shape[-1] == _DIGIT,
            hyphens,
            token_longest,
            token_shortest,
            _share(vowels, size - digits - hyphens),
            max(map(len, consonants)) if consonants else 0,
            max(repeated) if repeated else 1,
            round(_LOG[size] - spread / size, 3),
            len(signs),
            _hexadecimal(label) is not None,
            before_digits,
            before_longest,
            before_hyphens,
            before_consonants,
        ]

    def _grams(self, end: Ending, label: bytes, before: bytes) -> list[float]:
        weights, mask = self._weights, self._weights_mask
        hashes = label_grams(label)
        ours = [weights[h & mask] for h in hashes]
        suffix, top = end.grams
        there = weights[suffix & mask] + weights[top & mask]
        common, common_mask = self._common, self._common_mask
        size = len(label)
        known = [common[h & common_mask] for h in hashes[:size]]
        here = sum(ours)
        earlier = worst = self._nothing_before
        if before:
            theirs = [weights[h & mask] for h in before_grams(before)]
            earlier, worst = sum(theirs), max(theirs)
        return [
            (here + earlier + there) * WEIGHT_UNIT,
            here * WEIGHT_UNIT,
            earlier * WEIGHT_UNIT,
            there * WEIGHT_UNIT,
            round(here / size * WEIGHT_UNIT, 3),
            max(ours) * WEIGHT_UNIT,
            min(ours) * WEIGHT_UNIT,
            worst * WEIGHT_UNIT,
            round(sum(known) / size, 2),
            min(known),
        ]

    def _words(self, cut: Pieces, label: bytes) -> list[float]:
        odds, lengths = self._word_odds, self._word_lengths
        size = len(label)
        at = covered = longest = gap = 0
        word_odds = []
        for last, number in self._cut(cut.label):
            length = lengths[number]
            free = last + 1 - length - at
            if free > gap:
                gap = free
            at = last + 1
            covered += length
            if length > longest:
                longest = length
            word_odds.append(odds[number])
        if size - at > gap:
            gap = size - at
        earlier = [odds[number] for _, number in self._cut(cut.before)] if cut.before else ()
        runs = _pinyin(label)
        pinyin = max(map(len, runs)) if runs else 0
        return [
            len(word_odds),
            _share(covered, size),
            longest,
            max(word_odds) * ODDS_UNIT if word_odds else 0,
            min(word_odds) * ODDS_UNIT if word_odds else 0,
            sum(word_odds) * ODDS_UNIT,
            gap,
            len(earlier),
            max(earlier) * ODDS_UNIT if earlier else 0,
            sum(earlier) * ODDS_UNIT,
            pinyin,
            pinyin == size,
        ]

    def _brands(self, cut: Pieces, own: bool) -> list[float]:
        here = self.brands.find(cut.label)
        earlier = self.brands.find(cut.before) if cut.before else ()
        row: list[float] = [0, 0, 0, 0, 0, own, len(here) + len(earlier)]
        if here:
            best = min(here, key=_plainness)
            share = (best.end - best.start) / len(cut.label)
            row[:3] = best.kind + 1, round(share, 2), self._odds(brand_key(best.brand))
        if earlier:
            best = min(earlier, key=_plainness)
            row[3:5] = best.kind + 1, self._odds(brand_key(best.brand))
        return row

    def _foreign(self, name: str) -> Sequence[float]:
        if "xn--" not in name:
            return (0, 0, 0, 0)
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
            # The upper halves are the same, so that these bits are not another key's.
            if found and found ^ h < 0x10000:
                row.append(_ODDS[found >> 8 & 255])
                row.append(found & 255)
            else:
                row += (0, 0)
        return row

    def _odds(self, key: int) -> float:
        return self._remembered([key])[0]

    def _path(self, url: urls.Url, after: Tail, host_grams: float, count: int) -> list[float]:
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
        count += len(in_path) + len(in_query)
        words = [self._word_odds[number] for _, number in self._cut(path)]
        brands = self.brands.find(path)
        best = min(brands, key=_plainness) if brands else None
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
            round((host_grams + of_path + of_query) / math.sqrt(count), 4),
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
    rows: list[object] = [[feature.name for feature in BY_KIND[kind]]]
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
