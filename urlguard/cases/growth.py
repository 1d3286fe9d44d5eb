"""
How a case grows: what a judged item changes about the case of its owner.

The one place that says when a case opens again.  Works on plain data, so that every driver does the
same; knows no SQL.

How it works.  An item that a rule covers tells nothing new.  Any other opens a case that is new or
known.  A case that people have dismissed, or left standing as allowed or watched, opens again only
for more than they knew: another source, or an item that is clearly worse than all they saw.  So a
crawler that brings the same site every day does not bring it back to the analysts' desks.  A
blocked one opens again for whatever its rule does not cover.  While somebody has a case, the item
that stands for it stays: he decides what he has seen.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from urlguard.cases import priority
from urlguard.cases.model import Act, State

WORSE: Final = 0.1  # by so much must the score of a new item exceed what people saw


@dataclass(slots=True)
class Standing:
    """A case while it grows; sources are numbers of the store's."""

    id: int
    owner: str
    item: str
    name: str
    created_at: int
    state: str = State.KNOWN
    action: str | None = None
    score: float | None = None
    pattern: str | None = None
    queries: int = 0
    items: int = 0
    seen_at: int = 0
    decided_at: int | None = None
    sources: set[int] = field(default_factory=set)
    added: set[int] = field(default_factory=set)  # sources that it did not have before
    reopened: str = ""  # why, if it was


class Evidence(NamedTuple):
    """A judged item, and who has reported it so far."""

    item: str
    name: str
    sources: tuple[int, ...]
    new: bool  # not judged before
    queries: int  # since it was judged before
    seen_at: int
    known: bool
    score: float | None
    pattern: str | None


def grow(case: Standing, found: Evidence) -> None:
    """Add what was found to a case."""
    strange = not case.sources.issuperset(found.sources)
    worse = found.score is not None and found.score > (case.score or 0.0) + WORSE
    if not found.known:
        if case.state == State.KNOWN:
            case.state = State.OPEN
            if case.items:
                case.reopened = "an item that no rule covers"
        elif case.state in (State.DECIDED, State.DISMISSED):
            if case.action == Act.BLOCK:
                case.reopened = "an item that the block does not cover"
            elif strange:
                case.reopened = "another source reports it"
            elif worse:
                case.reopened = "a worse item"
            if case.reopened:
                case.state = State.OPEN
    if strange:
        more = set(found.sources) - case.sources
        case.added |= more
        case.sources |= more
    if not case.items or (
        found.score is not None and (case.score is None or found.score > case.score)
    ):
        case.score = found.score
        if case.state != State.LEASED:
            case.item, case.name = found.item, found.name
    case.items += found.new
    case.pattern = case.pattern or found.pattern
    case.queries += found.queries
    case.seen_at = max(case.seen_at, found.seen_at)


def rank(case: Standing, reputations: dict[int, float]) -> float:
    """Its priority, given the reputation of each of its sources."""
    trust = [reputations[source] for source in case.sources]
    return priority.rank(case.queries, case.score, trust, case.seen_at)
