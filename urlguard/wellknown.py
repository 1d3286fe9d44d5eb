"""
Data on well-known names: popularity ranks, names that no feed may block, and a starter list.

Part of the vocabulary.  Feeds call `quarantine_reason` before they commit a rule; the engine calls
`popular_rank` before the classifier scores a name.  Reads the files in the package's ``data``
folder, each at first use; knows nothing of the rules in force.

How it works.  Almost all values of a feed may be blocked, so the common case needs two look-ups:
one in a set of all values that some kind of rule may not have, one in the suffix list.  Only a hit
needs further checks.
"""

import gzip
from functools import cache
from pathlib import Path
from typing import NamedTuple

from urlguard import names

_DATA = Path(__file__).with_name("data")
_COVERING = ("subtree", "below")
_HOST_KINDS = ("domain", *_COVERING)

TOP = 10_000  # ranks that a feed may not block by default


@cache
def popular() -> dict[str, int]:
    """Rank of each popular registrable domain in the package's data; 1 is the most popular."""
    lines = gzip.decompress((_DATA / "popular.txt.gz").read_bytes()).decode().split()
    return {name: rank for rank, name in enumerate(lines, 1)}


def popular_rank(name: str) -> int | None:
    """The rank of the owner of a canonical name, or None if it is not popular."""
    owner = names.registrable(name)
    return None if owner is None else popular().get(owner)


@cache
def _protected() -> dict[str, str]:
    """The reason for each protected name: ``infrastructure``, ``bank`` or ``protected name``."""
    reason = ""
    found: dict[str, str] = {}
    for line in (_DATA / "protected.txt").read_text("utf-8").splitlines():
        if line.startswith("# == "):
            reason = line[5:].partition(":")[0]
        elif line and not line.startswith("#"):
            found[line] = reason
    return found


@cache
def protected() -> frozenset[str]:
    """The canonical names that no feed may block, without those that differ by ``www.`` only."""
    return frozenset(_protected())


# First labels of public suffixes that are reserved for government bodies.
_GOVERNING = frozenset("gob gouv gov government govt gub gv mil parliament police".split())
# Others, and names that governments use without a suffix of their own.
_GOVERNMENTS = frozenset(
    "admin.ch bund.de europa.eu gc.ca go.ci go.cr go.id go.jp go.ke go.kr go.th go.tj go.tz go.ug"
    " gos.pk mod.gi nhs.uk".split()
)


@cache
def governing_suffixes() -> frozenset[str]:
    """Suffixes that are reserved for governments, such as ``gov.cn`` and ``go.jp``."""
    listed = (s for s in names.listed_suffixes() if s.partition(".")[0] in _GOVERNING)
    return _GOVERNMENTS.union(listed)


def government(value: str) -> str | None:
    """The reason why a canonical name is a government's, or None if it is not known as one."""
    for name in (value, *names.parents(value)):
        if name in governing_suffixes():
            return f"government, {name}"
    return None


def starter_path() -> Path:
    """The starter list: gzip, CSV with the header ``domain,category``."""
    return _DATA / "starter.txt.gz"


class _Quarantine(NamedTuple):
    """The set for the common case, and the reasons for its members."""

    values: frozenset[str]  # every value that some kind of rule may not have
    itself: dict[str, str]  # value -> reason, for any kind
    above: dict[str, str]  # value -> reason, for kinds that cover the names below


@cache
def _quarantine(top: int) -> _Quarantine:
    reasons = dict(_protected())
    for name, rank in popular().items():
        if rank <= top:
            reasons.setdefault(name, f"popular name, rank {rank}")
    itself = {f"www.{name}": reason for name, reason in reasons.items()} | reasons
    above: dict[str, str] = {}
    for name, reason in reasons.items():
        for parent in names.parents(name):
            above.setdefault(parent, f"{reason}, below it: {name}")
    return _Quarantine(names.listed_suffixes().union(itself, above), itself, above)


def quarantine_values(top: int = TOP) -> frozenset[str]:
    """
    The values that a feed's rules may not have; a bulk import intersects its values with them.

    Names with a popularity rank above `top` are not included.  A member is only a candidate, since
    some are quarantined for `subtree` and `below` only: `quarantine_reason` decides.  Three sorts
    of value cannot be enumerated and are not included: single labels, names directly below a
    wildcard suffix (`names.is_public_suffix`), and names directly below a government's suffix
    (`governing_suffixes`), also behind ``www.``.
    """
    return _quarantine(top).values


def quarantine_reason(kind: str, value: str, top: int = TOP) -> str | None:
    """
    The reason to quarantine a feed's rule, or None if it may be committed.

    Args:
        kind: the rule's kind; only domain, subtree and below are ever quarantined.
        value: the rule's canonical name.
        top: the popularity rank up to which names are quarantined.

    Returns:
        ``public suffix`` (also for any single label), ``infrastructure``, ``bank``, ``protected
        name``, ``popular name, rank N`` or ``government, SUFFIX``.  If the value is a
        parent of such a name, the text ends with that name.  Names below a protected or popular
        name, and hosts of a government body, are not quarantined.
    """
    quarantine = _quarantine(top)
    governed = value.removeprefix("www.").partition(".")[2] in governing_suffixes()
    # Government and public suffixes by wildcard are not in the set.
    if value not in quarantine.values and not governed and not names.is_public_suffix(value):
        return None
    if kind not in _HOST_KINDS:
        return None
    if value in quarantine.itself:
        return quarantine.itself[value]
    if names.is_public_suffix(value):
        return "public suffix"
    above = quarantine.above.get(value) if kind in _COVERING else None
    return above or (government(value) if governed else None)
