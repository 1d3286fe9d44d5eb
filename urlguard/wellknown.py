"""
What is known of names beforehand: popularity, names that no feed may block, and a starter list.

Part of the vocabulary at the bottom.  Feeds ask `quarantine_reason` before they commit a rule, the
engine asks `popular_rank` before it asks the classifier.  Reads the files shipped in the package's
``data`` folder, each on the first question that needs it; knows nothing of the rules in force.

How it works.  Nearly every value that a feed brings is free to be blocked, so that is the quick
answer: one look into a set of every value that could be quarantined, whatever the kind of rule, and
one into the suffix list.  Only a hit is looked at closely.
"""

import gzip
from functools import cache
from pathlib import Path
from typing import NamedTuple

from urlguard import names

_DATA = Path(__file__).with_name("data")
_COVERING = ("subtree", "below")
_HOST_KINDS = ("domain", *_COVERING)

TOP = 10_000  # ranks that a feed may not block unless told otherwise


@cache
def popular() -> dict[str, int]:
    """Rank of each popular registrable domain that is shipped; 1 is the most popular."""
    lines = gzip.decompress((_DATA / "popular.txt.gz").read_bytes()).decode().split()
    return {name: rank for rank, name in enumerate(lines, 1)}


def popular_rank(name: str) -> int | None:
    """The rank of the owner of a canonical name, or None if it is not among the popular."""
    owner = names.registrable(name)
    return None if owner is None else popular().get(owner)


@cache
def _protected() -> dict[str, str]:
    """Each protected name, and why: ``infrastructure``, ``bank`` or ``protected name``."""
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


# First labels of public suffixes below which only a government's bodies are.
_GOVERNING = frozenset("gob gouv gov government govt gub gv mil parliament police".split())
# Others, and names that governments use without a suffix of their own.
_GOVERNMENTS = frozenset(
    "admin.ch bund.de europa.eu gc.ca go.ci go.cr go.id go.jp go.ke go.kr go.th go.tj go.tz go.ug"
    " gos.pk mod.gi nhs.uk".split()
)


@cache
def governing_suffixes() -> frozenset[str]:
    """What stands behind the names of governments, such as ``gov.cn`` and ``go.jp``."""
    listed = (s for s in names.listed_suffixes() if s.partition(".")[0] in _GOVERNING)
    return _GOVERNMENTS.union(listed)


def government(value: str) -> str | None:
    """Why a canonical name is a government's, in words; None if it is not known as one."""
    for name in (value, *names.parents(value)):
        if name in governing_suffixes():
            return f"government, {name}"
    return None


def starter_path() -> Path:
    """The starter list: gzip, CSV with the header ``domain,category``."""
    return _DATA / "starter.txt.gz"


class _Held(NamedTuple):
    """What the quick answer needs, and the words for a hit."""

    values: frozenset[str]  # every value that some kind of rule may not have
    itself: dict[str, str]  # value -> reason, for any kind
    above: dict[str, str]  # value -> reason, for kinds that cover what is below


@cache
def _held(top: int) -> _Held:
    reasons = dict(_protected())
    for name, rank in popular().items():
        if rank <= top:
            reasons.setdefault(name, f"popular name, rank {rank}")
    itself = {f"www.{name}": reason for name, reason in reasons.items()} | reasons
    above: dict[str, str] = {}
    for name, reason in reasons.items():
        for parent in names.parents(name):
            above.setdefault(parent, f"{reason}, below it: {name}")
    return _Held(names.listed_suffixes().union(itself, above), itself, above)


def quarantine_values(top: int = TOP) -> frozenset[str]:
    """
    The values that a feed's rules may not have, for a bulk import to intersect with.

    Names whose popularity rank is beyond `top` are free.  A member is only a candidate, as some are
    quarantined for `subtree` and `below` alone: ask `quarantine_reason`.  Three sorts of value have
    no end and are not in it: single labels, names directly below a wildcard suffix
    (`names.is_public_suffix`), and names directly below a government's suffix
    (`governing_suffixes`), also behind ``www.``.
    """
    return _held(top).values


def quarantine_reason(kind: str, value: str, top: int = TOP) -> str | None:
    """
    Why a feed's rule should be quarantined; None if it may go on.

    Args:
        kind: of the rule; only domain, subtree and below are ever quarantined.
        value: its canonical name.
        top: the popularity rank up to which names are quarantined.

    Returns:
        ``public suffix`` (also for any single label), ``infrastructure``, ``bank``, ``protected
        name``, ``popular name, rank N`` or ``government, SUFFIX``.  Where the value is not itself
        such a name but lies above one, the words end with that name.  A name below a protected or
        popular one is free, and so is a host of one of a government's bodies.
    """
    held = _held(top)
    governed = value.removeprefix("www.").partition(".")[2] in governing_suffixes()
    # What is beyond the set needs questions of its own.
    if value not in held.values and not governed and not names.is_public_suffix(value):
        return None
    if kind not in _HOST_KINDS:
        return None
    if value in held.itself:
        return held.itself[value]
    if names.is_public_suffix(value):
        return "public suffix"
    above = held.above.get(value) if kind in _COVERING else None
    return above or (government(value) if governed else None)
