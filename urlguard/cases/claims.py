"""
What decisions say in the policy log: which claims they make, which stand, and which are in the way.

Reads the log and commits nothing; knows no store.  People's claims are weighed together, so one
person's block may have no effect where another one allows; that is found here before anybody is
told that something is blocked.
"""

import ipaddress
from collections.abc import Sequence
from typing import Final

from urlguard import names, rules, urls
from urlguard.cases.model import Act, Case, Choice, Decision
from urlguard.policy.log import PolicyLog
from urlguard.policy.model import Change, ClaimRow
from urlguard.rules import SCHEDULED, from_scheduled
from urlguard.verdict import FEED

MAX_SHOWN: Final = 5  # claims that are in the way


def rules_of(case: Case, choice: Choice, items: Sequence[str]) -> list[str]:
    """
    The keys of the claims that a decision about a case makes.

    Of a domain: the owner's name and all below it; all URLs of an address, for it has no name.  Of
    URLs alone: these; of a reported name without a URL, that name and nothing below it.
    """
    if choice.act not in (Act.BLOCK, Act.ALLOW):
        return []
    if choice.scope == "domain":
        return [whole(case.owner)]
    keys = [
        rules.Rule("url", urls.rule_value(item)) if "://" in item else rules.Rule("domain", item)
        for item in items or [case.item]
    ]
    return list(dict.fromkeys(rule.key for rule in keys))


def whole(owner: str) -> str:
    """The key of all that an owner has: his name and all below it, or the URLs of an address."""
    if (host := _as_host(owner)) is not None:
        return rules.Rule("url", urls.rule_value(f"http://{host}/")).key
    return rules.Rule("subtree", owner).key


def _as_host(owner: str) -> str | None:
    """An address as it stands in a URL; None for a name."""
    try:
        address = ipaddress.ip_address(owner)
    except ValueError:
        return None
    return str(address) if address.version == 4 else f"[{address}]"


def claims_of(made: Decision) -> list[Change]:
    """What the log is to take; the same rule of two cases once."""
    choice = made.choice
    claims = {
        key: Change(key, choice.act, choice.category, made.evidence(case), choice.expires_at)
        for case, key in reversed(made.rules)
    }
    return [claims[key] for key in sorted(claims)]


def reversal(log: PolicyLog, made: Decision, now: int) -> list[Change]:
    """The changes that undo a decision, as far as its claims still stand."""
    changes: dict[str, Change] = {}
    mine = {made.evidence(case) for case, _ in made.rules}
    for key in dict.fromkeys(key for _, key in made.rules):
        claim = log.store.active(made.source, key)
        if claim is None or claim.evidence not in mine:
            continue
        changes[key] = Change(key, None)
        for before in log.store.history(key):
            over = before.expires_at is not None and before.expires_at <= now
            if (before.source, before.to_serial) == (made.source, claim.from_serial) and not over:
                said = (before.action, before.category, before.evidence, before.expires_at)
                changes[key] = Change(key, *said)
    return list(changes.values())


def overruled(log: PolicyLog, source: str, keys: Sequence[str]) -> list[str]:
    """
    Whose word stands in the way of blocks, in words; at most `MAX_SHOWN`.

    People's claims of one key are weighed together, and there allow and review come before block;
    of a name with all below it, so does a claim about the name itself.
    """
    others = [name for name in log.store.sources() if name != source and not name.startswith(FEED)]
    found: list[str] = []
    for key in keys:
        rule = rules.Rule.from_key(key)
        same = [key, f"domain {rule.value}"] if rule.kind == "subtree" else [key]
        for other in others:
            for claim in (log.store.active(other, at) for at in same):
                if claim is not None and claim.action in ("allow", "review"):
                    found.append(_words(claim))
                    if len(found) >= MAX_SHOWN:
                        return found
    return found


def unblocked(log: PolicyLog, keys: Sequence[str]) -> list[str]:
    """Which blocks concern what was released on appeal, in words: one person takes none back."""
    people = [name for name in log.store.sources() if not name.startswith(FEED)]
    found: list[str] = []
    for key in keys:
        rule = from_scheduled(key)[1] if key.startswith(SCHEDULED) else key
        kind, _, value = rule.partition(" ")
        if kind not in ("domain", "subtree", "below"):
            continue
        above = [f"{k} {p}" for p in names.parents(value) for k in ("subtree", "below")]
        claims = (
            log.store.active(source, at)
            for at in (f"domain {value}", f"subtree {value}", *above)
            for source in people
        )
        found += (
            f"{kind} {value}: was released on appeal ({claim.rule}, batch {claim.from_serial})"
            for claim in claims
            if claim is not None and claim.evidence.startswith("appeal:")
        )
    return found[:MAX_SHOWN]


def _words(claim: ClaimRow) -> str:
    verb = "allows it" if claim.action == "allow" else "has it reviewed"
    reason = f" ({claim.evidence})" if claim.evidence else ""
    return (
        f"{claim.rule}: {claim.source} {verb} since batch {claim.from_serial}{reason};"
        " end that first"
    )


def standing(log: PolicyLog, unfinished: Sequence[Decision]) -> dict[tuple[int, int], int]:
    """Decision and case of claims that stand, with the serial that made them."""
    found = {}
    for made in unfinished:
        mine = {made.evidence(case) for case, _ in made.rules}
        for case, key in made.rules:
            claim = log.store.active(made.source, key)
            if claim is not None and claim.evidence in mine:
                found[made.number, case] = claim.from_serial
    return found
