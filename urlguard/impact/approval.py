"""
Whether a change needs the approval of a second person.

A block needs approval if it covers a public suffix, a popular or protected name, a bank or a
government, or if more than `MAX_SHARE` of the live queries would newly be blocked.  An allow needs
it if it covers names of several owners (all below a public suffix, or below a name under which many
have theirs), or if more than `MAX_SHARE` of the live queries would no longer be blocked.  Pure:
changes and samples of queries come in, reasons as text go out.

Impact is measured on sampled live queries of the last minutes, not on the rule's shape.  Samples of
fewer than `MIN_SAMPLE` queries are ignored; in one of fewer than `GOOD_SAMPLE` the same share
counts.  `MIN_HITS` excludes a share that a single visitor of a page would make.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

from urlguard import names, wellknown
from urlguard.blocklist.patterns import PatternSet
from urlguard.impact.sample import Sampled
from urlguard.rules import SCHEDULED, Rule, from_scheduled

if TYPE_CHECKING:  # workers count without knowing the log
    from urlguard.policy.model import Change

MAX_SHARE: Final = 0.001  # of live queries that one person may block, or allow
MIN_HITS: Final = 10  # sampled queries; with fewer the share is ignored
MIN_SAMPLE: Final = 1_000  # queries; a smaller sample is ignored
GOOD_SAMPLE: Final = 10_000  # queries; the reason says that a smaller sample is small
SHOWN: Final = 3  # names that a pattern covers, in a reason


def reasons_for_approval(
    changes: Iterable["Change"],
    sample: Sampled | None = None,
    passed: Sampled | None = None,
) -> list[str]:
    """
    Why a change needs approval, a text for each reason; empty if it does not.

    Args:
        changes: to the policy; one that ends a claim never needs approval.
        sample: of the live queries, with those that the changes would block; None without a
            sample: then names alone count.
        passed: the same for what they would allow.
    """
    changes = list(changes)
    found = [
        f"{rule.key}: {reason}"
        for rule in blocked_rules(changes)
        for reason in protected_names(rule)
    ]
    found += [
        f"{rule.key}: {reason}" for rule in allowed_rules(changes) for reason in too_broad(rule)
    ]
    for part, verb in ((sample, "block"), (passed, "let through")):
        if part is not None and (reason := share_reason(part, verb)):
            found.append(reason)
    return found


def blocked_rules(changes: Iterable["Change"]) -> list[Rule]:
    """The rules that changes block, at once or as scheduled; each once."""
    return _rules(changes, ("block",))


def allowed_rules(changes: Iterable["Change"]) -> list[Rule]:
    """The rules by which changes allow what feeds or models block; each once."""
    return _rules(changes, ("allow", "review"))


def _rules(changes: Iterable["Change"], actions: Sequence[str]) -> list[Rule]:
    keys = [change.rule for change in changes if change.action in actions]
    now = [from_scheduled(key)[1] if key.startswith(SCHEDULED) else key for key in keys]
    return [Rule.from_key(key) for key in dict.fromkeys(now)]


def protected_names(rule: Rule) -> list[str]:
    """The popular, protected, bank's or government's names that a rule covers, as texts."""
    kind, value = rule
    if kind == "pattern":
        return _protected_by_pattern(value)
    if kind == "url":
        if not value.endswith("/") or value.count("/") > 1 or value.startswith("["):
            return []  # URL rules are for pages on popular sites; addresses are not protected
        kind, value = "subtree", value[:-1]
    reason = wellknown.quarantine_reason(kind, value) or wellknown.government(value)
    return [reason] if reason else []


def too_broad(rule: Rule) -> list[str]:
    """Why an allow rule covers more than one owner's names, as texts; empty if it does not."""
    kind, value = rule
    if kind == "pattern":
        return _protected_by_pattern(value)
    if kind not in ("subtree", "below"):
        return []
    if names.is_public_suffix(value):
        return ["public suffix"]
    # A popular name with one owner is no reason.
    above = (
        None
        if wellknown.quarantine_reason("domain", value)
        else wellknown.quarantine_reason(kind, value)
    )
    return [above] if above else []


def _protected_by_pattern(text: str) -> list[str]:
    matching = PatternSet([text]).matching
    fit = [name for name in _known() if matching(f".{name}.")]
    if not fit:
        return []
    first = ", ".join(
        f"{name} ({wellknown.quarantine_reason('domain', name)})" for name in fit[:SHOWN]
    )
    more = f" and {len(fit) - SHOWN:,} more" if len(fit) > SHOWN else ""
    return [f"fits {first}{more}"]


@cache
def _known() -> tuple[str, ...]:
    """The names against which a pattern is matched."""
    return tuple(
        sorted(n for n in wellknown.quarantine_values() if wellknown.quarantine_reason("domain", n))
    )


def is_sufficient(sample: Sampled) -> bool:
    """True if the sample is large enough for its shares to count."""
    return sample.total.queries >= MIN_SAMPLE


def share_reason(sample: Sampled, verb: str = "block") -> str | None:
    """
    The reason for approval if the change affects more than `MAX_SHARE` of queries; else None.

    Args:
        sample: of the live queries.
        verb: what the change does to them, for the text.
    """
    total, newly = sample.total, sample.newly
    if not is_sufficient(sample) or newly.queries < MIN_HITS or sample.share <= MAX_SHARE:
        return None
    small = "a small sample of " if total.queries < GOOD_SAMPLE else ""
    return (
        f"would {verb} {sample.share:.2%} of live queries ({newly.queries:,} of {small}"
        f"{total.queries:,}), of up to {newly.clients:,} clients; one person may {verb} "
        f"{MAX_SHARE:.1%}"
    )
