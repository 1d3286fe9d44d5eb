"""
The ruling at one rule key, derived from all claims on it.

Pure: claims in, a ruling out.  It weighs per *exact key*; which key decides about a name is the
engine's question.  Operator's and analysts' claims beat feeds'; within a tier allow beats block
beats review.  Claims in shadow are weighed apart, by `shadowed`: to the others they are not there.

Feeds' exceptions (AdBlock ``@@``, ``rpz-passthru``) cancel only their own feed's rules.  They are
worked out here, so that nothing downstream has to know which feed said what: at the key of an
exception stands a *resolved* ruling, the strongest rule of the feeds that are left over that key,
or ``except`` if none is left.  Where ``subtree x`` has an exception, ``below x`` is resolved too,
because its rules are equally specific.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from urlguard import names
from urlguard.rules import SHADOW
from urlguard.verdict import FEED, Ruling

_ASIDE = ("except", SHADOW)
_STRENGTH = {"review": 0, "block": 1, "allow": 2}


class ActiveClaim(NamedTuple):
    """A claim in force, as the weighing needs it."""

    source: str
    action: str
    category: str
    serial: int


ClaimsAt = Callable[[str], Iterable[ActiveClaim]]


def plain(key: str, claims: Iterable[ActiveClaim]) -> Ruling | None:
    """The ruling at `key` by the claims at the key alone, without exceptions."""
    tier = [c for c in claims if c.action not in _ASIDE]
    if decided := [c for c in tier if not c.source.startswith(FEED)]:
        tier = decided
    if not tier:
        return None
    if len(tier) == 1:  # nearly always: one list has the name
        source, action, category, serial = tier[0]
        return Ruling(action, category, (source,), serial, *_split(key))
    return _merged(key, tier)


def effective(key: str, claims_at: ClaimsAt) -> Ruling | None:
    """
    The ruling at `key`, with exceptions resolved.

    `claims_at` gives the claims in force at any key; it is asked for the key's parents only where
    an exception stands at the key.
    """
    claims = _weighed(claims_at(key))
    kind, _, value = key.partition(" ")
    if any(not c.source.startswith(FEED) for c in claims) or kind in ("pattern", "url"):
        return plain(key, claims)
    here = [f"{kind} {value}"]
    if kind == "below":
        here.append(f"subtree {value}")
    excepted = any(c.action == "except" for at in here for c in claims_at(at))
    if not claims or not excepted:
        return plain(key, claims)
    return _resolved(kind, value, claims_at)


def shadowed(key: str, claims: Iterable[ActiveClaim]) -> Ruling | None:
    """What is counted at `key` by the claims in shadow there, of all sources together."""
    own = [c for c in claims if c.action == SHADOW]
    if not own:
        return None
    first = min(own, key=lambda c: (c.serial, c.source))
    sources = tuple(sorted(c.source for c in own))
    return Ruling(SHADOW, first.category, sources, first.serial, *_split(key))


def _weighed(claims: Iterable[ActiveClaim]) -> list[ActiveClaim]:
    return [c for c in claims if c.action != SHADOW]


def _of_feed(claim: ActiveClaim) -> bool:
    return claim.source.startswith(FEED)


def _resolved(kind: str, value: str, claims_at: ClaimsAt) -> Ruling:
    """The strongest feed rule over the key that its own feed does not cancel, or ``except``."""
    serials: list[int] = []
    sources: set[str] = set()
    cancelled: set[str] = set()  # feeds whose rules at this level and above are cancelled
    # From the most specific level upwards: a feed's exception cancels what comes after it.
    for level in _levels(kind, value):
        claims = [(k, c) for k in level for c in _weighed(claims_at(k)) if _of_feed(c)]
        for _, claim in claims:
            if claim.action == "except":
                cancelled.add(claim.source)
                sources.add(claim.source)
                serials.append(claim.serial)
        left = [(k, c) for k, c in claims if c.action != "except" and c.source not in cancelled]
        if left:
            strongest = max(left, key=lambda kc: _STRENGTH[kc[1].action])[1].action
            key = min(k for k, c in left if c.action == strongest)
            ruling = _merged(key, [c for k, c in left if k == key])
            return ruling._replace(resolved=True)
    return Ruling("except", "", tuple(sorted(sources)), min(serials), kind, value, resolved=True)


def _levels(kind: str, value: str) -> Iterable[list[str]]:
    """The keys that cover a key's whole region, by level, most specific first."""
    if kind == "domain":
        yield [f"domain {value}"]
        yield [f"subtree {value}"]
    elif kind == "subtree":
        yield [f"subtree {value}"]
    else:
        yield [f"below {value}", f"subtree {value}"]
    for parent in names.parents(value):
        yield [f"below {parent}", f"subtree {parent}"]


def _merged(key: str, claims: list[ActiveClaim]) -> Ruling:
    """One ruling from claims of one tier at one key."""
    action = max((c.action for c in claims if c.action != "except"), key=_STRENGTH.__getitem__)
    same = [c for c in claims if c.action == action]
    first = min(same, key=lambda c: (c.serial, c.source))
    sources = tuple(sorted({c.source for c in same}))
    return Ruling(action, first.category, sources, first.serial, *_split(key))


def _split(key: str) -> tuple[str, str]:
    kind, _, value = key.partition(" ")
    return kind, value


def same_world(before: Ruling | None, after: Ruling | None) -> bool:
    """True if nobody outside could tell the two apart: only sources or serial differ."""
    if before is None or after is None:
        return before is after
    return before._replace(sources=(), serial=0) == after._replace(sources=(), serial=0) and (
        before.operator == after.operator
    )
