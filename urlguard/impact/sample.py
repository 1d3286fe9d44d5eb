"""Impact of rules, counted by the workers on their samples of live queries."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from urlguard.processes.channel import Message


class Count(NamedTuple):
    """A number of sampled queries."""

    queries: int = 0  # in the sample
    weight: float = 0.0  # live queries that they represent
    clients: int = 0  # an upper bound: a client is counted by each worker that answers it


class Sampled(NamedTuple):
    """
    A sample of the live queries, and the part of it that a change affects.

    ``newly``: queries that would be blocked and are not; for an allow, the other way round.
    """

    total: Count = Count()
    newly: Count = Count()
    rules: Mapping[str, Count] = {}  # of `newly`, by the key of the deciding rule

    @classmethod
    def read(cls, parts: Sequence[Any]) -> "Sampled":
        """A sample from the list that it is as JSON."""
        total, newly, rules = parts
        return cls(Count(*total), Count(*newly), {key: Count(*one) for key, one in rules.items()})

    @property
    def share(self) -> float:
        """The share of the live queries that is affected, 0 to 1; 0 without a sample."""
        return self.newly.weight / self.total.weight if self.total.weight else 0.0


def merged(replies: Sequence[Message]) -> Sampled:
    """The sum of all workers' samples."""
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
