"""
What releases a name or URL: which claims block it, who made them, and which rules to allow.

Reads the policy log; commits nothing.  Which rule decides is the engine's word, which the caller
brings; here is only what follows from how rules are weighed.

How it works.  A block is not withdrawn but overruled.  What its maker said stays in the log as it
was, beside who overruled it and why, and lists and models would bring their blocks back anyway.
People's claims come before lists, patterns and models, so one rule that allows all of the owner's
overrules any of those.  Among people's claims the most specific key decides, and at one key allow
comes before block; so a person's block is overruled at its own key, as long as that key is the
owner's alone, and so is a rule about URLs, since the rest of the site was never blocked.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from urlguard import names, rules, urls
from urlguard.cases.appeals import Plea, is_address
from urlguard.cases.claims import whole
from urlguard.policy.log import PolicyLog
from urlguard.policy.model import ClaimRow
from urlguard.rules import SCHEDULED
from urlguard.verdict import FEED

_ANALYST: Final = "analyst:"
_SERVER: Final = "urlguard"  # the actor of batches that time has made
_TOGETHER: Final = ", "  # between the actors of one batch


def items(plea: Plea) -> list[str]:
    """What has to be let through: the item, its host's name, and its owner's."""
    found = [plea.item]
    if not is_address(plea.owner):
        found += [plea.name, plea.owner]
    return list(dict.fromkeys(found))


def overruling(log: PolicyLog, plea: Plea, decisive: Iterable[str]) -> tuple[set[str], list[str]]:
    """Who is behind what blocks an item, and the keys that let it through; arguments as below."""
    claims = blocks(log, plea, decisive)
    return makers(log, claims), allowing(plea, claims)


def blocks(log: PolicyLog, plea: Plea, decisive: Iterable[str]) -> list[ClaimRow]:
    """
    The claims that block what somebody appeals about, also where others overrule them.

    Args:
        log: within ``store.reading()``.
        plea: the appeal's.
        decisive: keys that are known to decide; the only way to find patterns.
    """
    keys = dict.fromkeys([*decisive, *_covering(plea)])
    found = (
        log.store.active(source, key) for source in log.store.sources() for key in sorted(keys)
    )
    return [claim for claim in found if claim is not None and claim.action == "block"]


def makers(log: PolicyLog, claims: Iterable[ClaimRow]) -> set[str]:
    """
    Who is behind claims: people by their names, case-folded.  Nobody is behind a list's.

    Where one person decided and another agreed, both.
    """
    found: set[str] = set()
    for claim in claims:
        if claim.source.startswith(FEED):
            continue
        if claim.source.startswith(_ANALYST):
            found.add(claim.source.removeprefix(_ANALYST))
        actors = _actors(log, claim.from_serial)
        if _SERVER in actors:
            for scheduled in _scheduled(log, claim):
                actors |= _actors(log, scheduled.from_serial)
        found |= actors - {_SERVER}
    return {name.casefold() for name in found}


def allowing(plea: Plea, claims: Sequence[ClaimRow]) -> list[str]:
    """
    The keys at which an allowance lets through what somebody appeals about.

    Args:
        plea: the appeal's.
        claims: all that block it; none where a model does.
    """
    found = {_overruling(plea, claim) for claim in claims}
    return sorted(found or {everything(plea)})


def _overruling(plea: Plea, claim: ClaimRow) -> str:
    kind, _, value = claim.rule.partition(" ")
    person = not claim.source.startswith(FEED)
    host = value.partition("/")[0].strip("[]") if kind == "url" else value
    own = host == plea.owner or host.endswith(f".{plea.owner}")
    if kind == "url" and own:
        return claim.rule
    if kind == "url" and person:
        # Of a host above the owner's: nothing but the item's own URL is more specific for sure.
        return f"url {urls.rule_value(plea.item)}"
    if kind in ("domain", "subtree", "below") and person and own and not _is_suffix(plea):
        return claim.rule
    return everything(plea)


def everything(plea: Plea) -> str:
    """The key of all that an owner has."""
    # Below a public suffix are others' names, which may be blocked with good reason.
    return f"domain {plea.owner}" if _is_suffix(plea) else whole(plea.owner)


def _is_suffix(plea: Plea) -> bool:
    return not is_address(plea.owner) and names.is_public_suffix(plea.owner)


def _covering(plea: Plea) -> Iterable[str]:
    """The keys of rules for names and URLs that cover the items."""
    if "://" in plea.item:
        for expression in urls.expressions(urls.parse(plea.item)):
            yield f"url {expression}"
    if is_address(plea.owner):
        return
    for name in (plea.name, plea.owner):
        yield f"domain {name}"
        yield f"subtree {name}"
        for parent in names.parents(name):
            yield f"subtree {parent}"
            yield f"below {parent}"


def _actors(log: PolicyLog, serial: int) -> set[str]:
    batch = log.store.last_upto(serial)
    return set() if batch is None else set(batch.actor.split(_TOGETHER))


def _scheduled(log: PolicyLog, claim: ClaimRow) -> Iterable[ClaimRow]:
    """The claims that were made for later and became this one."""
    for key in log.store.rules_ever(SCHEDULED):
        if rules.from_scheduled(key)[1] == claim.rule:
            for row in log.store.history(key):
                if (row.source, row.to_serial) == (claim.source, claim.from_serial):
                    yield row
