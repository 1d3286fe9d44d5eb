"""
How heavy a change is: whether it may be made by one person, or waits for a second.

A change waits if a rule that it would newly block covers a public suffix, a popular or protected
name, a bank or a government, or if more than `MAX_SHARE` of the live queries would newly be
blocked.  Pure: the changes and a sample of the queries come in, reasons in words go out.

A decision is judged by its sample of the last minutes, so it says what happens to people, not what
a rule looks like.  A sample of fewer than `MIN_SAMPLE` queries says nothing and is not asked; in
one of fewer than `GOOD_SAMPLE` the same share counts, and `MIN_HITS` make sure that it takes more
than one visitor of one page.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from urlguard import wellknown
from urlguard.blocklist.patterns import PatternSet
from urlguard.rules import PLANNED, Rule, from_planned

if TYPE_CHECKING:  # workers count without knowing the log
    from urlguard.policy.log import Change

MAX_SHARE: Final = 0.001  # of live queries that one person may have blocked
MIN_HITS: Final = 10  # sampled queries that make a share
MIN_SAMPLE: Final = 1_000  # queries; fewer are no sample
GOOD_SAMPLE: Final = 10_000  # fewer are a small one, and the words say so
SHOWN: Final = 3  # names that a pattern covers, in words


class Count(NamedTuple):
    """Some of the sampled queries."""

    queries: int = 0  # in the sample
    weight: float = 0.0  # live queries that they stand for
    clients: int = 0  # at most: one that several workers answer is counted by each


class Sampled(NamedTuple):
    """A sample of the live queries, and what of it a change would block that is not blocked now."""

    total: Count = Count()
    newly: Count = Count()
    rules: Mapping[str, Count] = {}  # of `newly`, by the key of the rule that would decide

    @classmethod
    def read(cls, parts: Sequence[Any]) -> "Sampled":
        """What became JSON."""
        total, newly, rules = parts
        return cls(Count(*total), Count(*newly), {key: Count(*one) for key, one in rules.items()})

    @property
    def share(self) -> float:
        """The share of the live queries that would newly be blocked; 0 without a sample."""
        return self.newly.weight / self.total.weight if self.total.weight else 0.0


def reasons_to_hold(changes: Iterable["Change"], sample: Sampled | None = None) -> list[str]:
    """
    Why a change must wait for a second person, each reason in words; empty if it need not.

    Args:
        changes: what would be said; what blocks nothing has no reason.
        sample: of the live queries, with what of them the changes would block; None if nobody
            could be asked: then names alone are judged.
    """
    found = [f"{rule.key}: {reason}" for rule in blocking(changes) for reason in touched(rule)]
    if sample is not None and (reason := share_reason(sample)):
        found.append(reason)
    return found


def blocking(changes: Iterable["Change"]) -> list[Rule]:
    """The rules that changes would have block, at once or from later on; each once."""
    keys = [change.rule for change in changes if change.action == "block"]
    now = [from_planned(key)[1] if key.startswith(PLANNED) else key for key in keys]
    return [Rule.from_key(key) for key in dict.fromkeys(now)]


def touched(rule: Rule) -> list[str]:
    """The popular, protected, bank's or government's names that a rule covers, in words."""
    kind, value = rule
    if kind == "pattern":
        return _touched_by_pattern(value)
    if kind == "url":
        if not value.endswith("/") or value.count("/") > 1:
            return []  # a page on a popular site is what URL rules are for
        kind, value = "subtree", value[:-1]
    reason = wellknown.hold_reason(kind, value) or wellknown.government(value)
    return [reason] if reason else []


def _touched_by_pattern(text: str) -> list[str]:
    matching = PatternSet([text]).matching
    names = [name for name in _known() if matching(f".{name}.")]
    if not names:
        return []
    first = ", ".join(f"{name} ({wellknown.hold_reason('domain', name)})" for name in names[:SHOWN])
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return [f"fits {first}{more}"]


@cache
def _known() -> tuple[str, ...]:
    """The names that a pattern is tried on."""
    return tuple(sorted(n for n in wellknown.held_values() if wellknown.hold_reason("domain", n)))


def is_judged(sample: Sampled) -> bool:
    """True if the sample is large enough for its shares to mean anything."""
    return sample.total.queries >= MIN_SAMPLE


def share_reason(sample: Sampled) -> str | None:
    """The reason why what the sample says is too much for one person; None if it is not."""
    total, newly = sample.total, sample.newly
    if not is_judged(sample) or newly.queries < MIN_HITS or sample.share <= MAX_SHARE:
        return None
    small = "a small sample of " if total.queries < GOOD_SAMPLE else ""
    return (
        f"would block {sample.share:.2%} of live queries ({newly.queries:,} of {small}"
        f"{total.queries:,}), of up to {newly.clients:,} clients; one person may block "
        f"{MAX_SHARE:.1%}"
    )
