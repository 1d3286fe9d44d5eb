"""
How heavy a change is: whether it may be made by one person, or waits for a second.

A change waits if a rule that it would newly block covers a public suffix, a popular or protected
name, a bank or a government, or if more than `MAX_SHARE` of the live queries would newly be
blocked.  A rule that lets through waits if it covers others' names: all below a public suffix, or
what many owners have; or if more than `MAX_SHARE` of the live queries would no longer be blocked.
Pure: the changes and samples of the queries come in, reasons in words go out.

A decision is judged by its sample of the last minutes, so it says what happens to people, not what
a rule looks like.  A sample of fewer than `MIN_SAMPLE` queries says nothing and is not asked; in
one of fewer than `GOOD_SAMPLE` the same share counts, and `MIN_HITS` make sure that it takes more
than one visitor of one page.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

from urlguard import names, wellknown
from urlguard.blocklist.patterns import PatternSet
from urlguard.impact.sample import Sampled
from urlguard.rules import PLANNED, Rule, from_planned

if TYPE_CHECKING:  # workers count without knowing the log
    from urlguard.policy.model import Change

MAX_SHARE: Final = 0.001  # of live queries that one person may have blocked, or let through
MIN_HITS: Final = 10  # sampled queries that make a share
MIN_SAMPLE: Final = 1_000  # queries; fewer are no sample
GOOD_SAMPLE: Final = 10_000  # fewer are a small one, and the words say so
SHOWN: Final = 3  # names that a pattern covers, in words


def reasons_to_hold(
    changes: Iterable["Change"],
    sample: Sampled | None = None,
    passed: Sampled | None = None,
) -> list[str]:
    """
    Why a change must wait for a second person, each reason in words; empty if it need not.

    Args:
        changes: what would be said; what ends a claim has no reason.
        sample: of the live queries, with what of them the changes would block; None if nobody
            could be asked: then names alone are judged.
        passed: the same for what they would let through.
    """
    changes = list(changes)
    found = [f"{rule.key}: {reason}" for rule in blocking(changes) for reason in touched(rule)]
    found += [f"{rule.key}: {reason}" for rule in passing(changes) for reason in wide(rule)]
    for part, verb in ((sample, "block"), (passed, "let through")):
        if part is not None and (reason := share_reason(part, verb)):
            found.append(reason)
    return found


def blocking(changes: Iterable["Change"]) -> list[Rule]:
    """The rules that changes would have block, at once or from later on; each once."""
    return _rules(changes, ("block",))


def passing(changes: Iterable["Change"]) -> list[Rule]:
    """The rules that changes would have pass what lists or models block; each once."""
    return _rules(changes, ("allow", "review"))


def _rules(changes: Iterable["Change"], actions: Sequence[str]) -> list[Rule]:
    keys = [change.rule for change in changes if change.action in actions]
    now = [from_planned(key)[1] if key.startswith(PLANNED) else key for key in keys]
    return [Rule.from_key(key) for key in dict.fromkeys(now)]


def touched(rule: Rule) -> list[str]:
    """The popular, protected, bank's or government's names that a rule covers, in words."""
    kind, value = rule
    if kind == "pattern":
        return _touched_by_pattern(value)
    if kind == "url":
        if not value.endswith("/") or value.count("/") > 1 or value.startswith("["):
            return []  # a page on a popular site is what URL rules are for; an address is nobody's
        kind, value = "subtree", value[:-1]
    reason = wellknown.hold_reason(kind, value) or wellknown.government(value)
    return [reason] if reason else []


def wide(rule: Rule) -> list[str]:
    """Why a rule that lets through covers more than one owner's names, in words."""
    kind, value = rule
    if kind == "pattern":
        return _touched_by_pattern(value)
    if kind not in ("subtree", "below"):
        return []
    if names.is_public_suffix(value):
        return ["public suffix"]
    # Popular by itself is no reason: one owner's names, which nobody should block.
    above = None if wellknown.hold_reason("domain", value) else wellknown.hold_reason(kind, value)
    return [above] if above else []


def _touched_by_pattern(text: str) -> list[str]:
    matching = PatternSet([text]).matching
    fit = [name for name in _known() if matching(f".{name}.")]
    if not fit:
        return []
    first = ", ".join(f"{name} ({wellknown.hold_reason('domain', name)})" for name in fit[:SHOWN])
    more = f" and {len(fit) - SHOWN:,} more" if len(fit) > SHOWN else ""
    return [f"fits {first}{more}"]


@cache
def _known() -> tuple[str, ...]:
    """The names that a pattern is tried on."""
    return tuple(sorted(n for n in wellknown.held_values() if wellknown.hold_reason("domain", n)))


def is_judged(sample: Sampled) -> bool:
    """True if the sample is large enough for its shares to mean anything."""
    return sample.total.queries >= MIN_SAMPLE


def share_reason(sample: Sampled, verb: str = "block") -> str | None:
    """
    The reason why what the sample says is too much for one person; None if it is not.

    Args:
        sample: of the queries.
        verb: what the change does to them, in words.
    """
    total, newly = sample.total, sample.newly
    if not is_judged(sample) or newly.queries < MIN_HITS or sample.share <= MAX_SHARE:
        return None
    small = "a small sample of " if total.queries < GOOD_SAMPLE else ""
    return (
        f"would {verb} {sample.share:.2%} of live queries ({newly.queries:,} of {small}"
        f"{total.queries:,}), of up to {newly.clients:,} clients; one person may {verb} "
        f"{MAX_SHARE:.1%}"
    )
