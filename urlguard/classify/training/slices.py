"""
Slices: kinds of harmless names in which a model must have few false positives.

Knows sources of the data and public suffixes; knows no features and no scores.

How it works.  A row belongs to a slice by its source or by its host's suffix; it may be in several,
and a row in none is in ``other web``.  Only harmless rows are in slices.  Without a source, as in
another person's file, only suffixes are used.
"""

import re
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from urlguard import names
from urlguard.classify import strings
from urlguard.classify.training.dataset import Ints, Rows, host

LEAST: Final = 6_000  # rows, for a slice to bind the threshold; a smaller one reports its bound

Flags = npt.NDArray[np.bool_]

SOURCES: Final = {
    "popular": {"umbrella", "cloudflare-radar", "majestic10k", "tranco10k"},
    "Chinese": {"dnsmasq-china-list", "jdm", "chinese-blogs", "ruanyf-weekly"},
    "government": {"dotgov"},
    "universities": {"university-domains"},
    "cloud, CDN and trackers": {
        "adguard-cname-trackers",
        "disconnect",
        "duckduckgo-tds",
        "frogeye-trackers",
        "jawz101-subdomains",
    },
    "small web": {"smallweb"},
    "services": {
        "v2fly",
        "twofactorauth",
        "free-programming-books",
        "awesome-selfhosted",
        "public-apis",
    },
    "searched and visited web": {
        "ada-kasztp",
        "pdd-legitimate",
        "phishstorm-valid",
        "iscx2016-benign",
    },
}
CHINESE_CATEGORIES: Final = {"china", "longtail-zh"}  # v2fly has Chinese services among others
HOSTING: Final = "shared hosting"
OTHER: Final = "other web"

# Suffixes under which only such institutions get names.  .中国 and .公司 are Chinese by registry.
_SUFFIXES: Final = {
    "Chinese": re.compile(r"(^|\.)(cn|xn--fiqs8s|xn--fiqz9s|xn--55qx5d)$"),
    "government": re.compile(
        r"(^|\.)((gov|gob|gouv|gub|govt|mil)(\.[a-z]{2})?|go\.(jp|kr|th|id|ke|tz|ug)|gc\.ca|gv\.at)$"
    ),
    "universities": re.compile(r"(^|\.)(edu(\.[a-z]{2})?|ac\.[a-z]{2})$"),
}


def slices(rows: Rows, chosen: Ints | None = None) -> dict[str, Flags]:
    """
    Which rows are in which slice.

    Args:
        rows: all rows.
        chosen: numbers of the rows to look at; None takes all.

    Returns:
        By the slice's name, a flag for each chosen row; slices without a row are left out.  A
        threshold must keep its bound in those of at least `LEAST` rows.
    """
    numbers = np.arange(len(rows)) if chosen is None else chosen
    harmless = rows.label[numbers] == 0
    source = np.array([rows.source[n] for n in numbers], dtype=np.str_)
    category = np.array([rows.category[n] for n in numbers], dtype=np.str_)
    found = {name: np.isin(source, sorted(known)) for name, known in SOURCES.items()}
    found["Chinese"] |= np.isin(category, sorted(CHINESE_CATEGORIES))
    found[HOSTING] = np.zeros(len(numbers), dtype=np.bool_)
    for place in np.flatnonzero(harmless):
        name = host(rows.text[numbers[place]])
        for kind in _kinds(names.split(name)[0]):
            found[kind][place] = True
        if strings.on_hosting(name, rows.shared):
            found[HOSTING][place] = True
    placed = np.zeros(len(numbers), dtype=np.bool_)
    for flags in found.values():
        flags &= harmless
        placed |= flags
    found[OTHER] = harmless & ~placed
    return {name: flags for name, flags in found.items() if flags.any()}


@lru_cache(16384)
def _kinds(suffix: str) -> tuple[str, ...]:
    return tuple(kind for kind, pattern in _SUFFIXES.items() if pattern.search(suffix))
