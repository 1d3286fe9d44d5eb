"""
Impact as counted on the workers' samples of live queries.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from urlguard.processes.channel import Message


class Count(NamedTuple):
    """Some of the sampled queries."""

    queries: int = 0  # in the sample
    weight: float = 0.0  # live queries that they stand for
    clients: int = 0  # at most: one that several workers answer is counted by each


class Sampled(NamedTuple):
    """
    A sample of the live queries, and what of it a change would concern.

    ``newly``: what would be blocked and is not, or, for a change that lets through, the other way.
    """

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
        """The share of the live queries that it would concern; 0 without a sample."""
        return self.newly.weight / self.total.weight if self.total.weight else 0.0


def merged(replies: Sequence[Message]) -> Sampled:
    """What all workers say together."""
    rules: dict[str, Count] = {}
    for reply in replies:
        for key, count in reply["rules"].items():
            rules[str(key)] = _sum([rules.get(key, Count()), count])
    total, newly = (_sum([reply[part] for reply in replies]) for part in ("total", "newly"))
    return Sampled(total, newly, rules)


def _sum(counts: Iterable[Sequence[Any]]) -> Count:
    found = Count()
    for queries, weight, clients in counts:
        found = Count(
            found.queries + int(queries), found.weight + float(weight), found.clients + int(clients)
        )
    return found


MAX_RULES: Final = 500  # in one question
