"""
The names that a model suspects and no rule covers, in a worker's memory.

The classifier policy notes them here; the worker lists them for a command and reports them to the
control process, which opens cases.  Memory is bounded and holds no client.  Knows neither models
nor queries.
"""

import time
from collections.abc import Callable, Iterable
from math import log2
from operator import attrgetter
from typing import Final, NamedTuple

MAX_SUSPECTS: Final = 4096  # in one worker
MAX_TOP: Final = 500  # listed at once: finding these takes under a millisecond
WEEK_S: Final = 7 * 86_400  # without a query, after which a suspect's worth has halved


class Suspect(NamedTuple):
    """A name that a model suspects and nobody blocked; times are seconds since 1970."""

    name: str
    score: float
    asked: int  # times that the resolver was asked; what was answered from memory is not in it
    first: int
    last: int
    action: str  # what the model would do: review, or block where it may not
    model: str


def merged(found: Iterable[Suspect]) -> list[Suspect]:
    """The suspects of several workers as one list, the highest score first."""
    whole: dict[str, Suspect] = {}
    for one in found:
        other = whole.get(one.name)
        if other is not None:
            newer = max(one, other, key=lambda suspect: suspect.last)
            first = min(one.first, other.first)
            one = newer._replace(asked=one.asked + other.asked, first=first)
        whole[one.name] = one
    return sorted(whole.values(), key=lambda one: (-one.score, -one.asked, one.name))


class _Kept:
    """A suspect while it is kept."""

    __slots__ = (
        *("action", "asked", "at", "first", "last", "model", "name", "score", "reported", "worth"),
    )

    def __init__(self, name: str, now: int) -> None:
        self.name = name
        self.first = now
        self.asked = 0
        self.reported = 0  # of `asked`, what the control process has acknowledged
        self.at = 0  # in the heap

    def note(self, now: int, score: float, action: str, model: str) -> None:
        """Count a query."""
        self.asked += 1
        self.last, self.score, self.action, self.model = now, score, action, model
        self.worth = log2(max(score, 1e-6) * self.asked) + now / WEEK_S


class SuspectMemory:
    """
    The suspects of one worker; when it is full, the suspect with the lowest worth is dropped.

    A suspect's worth is its score times its number of queries, halved for each week since the last
    one.  So neither the names of a flood, with one query each, nor the favourites of last month
    displace the names that people query now.

    How it works.  The logarithm of the worth, plus the weeks from 1970 to the last query, does not
    change while time passes, so it orders a binary heap, the lowest first.  A query moves its
    suspect in the heap in a dozen steps at most.

    Args:
        limit: suspects that are kept.
        clock: seconds since 1970.
    """

    def __init__(self, limit: int = MAX_SUSPECTS, clock: Callable[[], float] = time.time) -> None:
        self._found: dict[str, _Kept] = {}
        self._heap: list[_Kept] = []
        self._limit = limit
        self._clock = clock

    def __len__(self) -> int:
        return len(self._found)

    def note(self, name: str, score: float, action: str, model: str) -> None:
        """Count a query for a suspect."""
        now = int(self._clock())
        kept, heap = self._found.get(name), self._heap
        if kept is None:
            kept = self._found[name] = _Kept(name, now)
            if len(heap) < self._limit:
                kept.at = len(heap)
                heap.append(kept)
            else:
                del self._found[heap[0].name]
                heap[0] = kept
        kept.note(now, score, action, model)
        self._move(kept)

    def top(self, count: int = MAX_TOP) -> list[Suspect]:
        """The suspects with the highest scores, highest first; at most `MAX_TOP`."""
        most = sorted(self._heap, key=attrgetter("score"), reverse=True)
        return [
            Suspect(k.name, k.score, k.asked, k.first, k.last, k.action, k.model)
            for k in most[: max(0, min(count, MAX_TOP))]
        ]

    def unreported(self, count: int) -> list[tuple[Suspect, int]]:
        """
        Suspects queried since they were last acknowledged, each with the number of queries since.

        Those that were noted first come first, so that a call costs little and every suspect is
        reported in the end.  The receiver confirms with `acknowledge`.
        """
        found: list[tuple[Suspect, int]] = []
        for k in self._found.values():
            if k.asked > k.reported:
                one = Suspect(k.name, k.score, k.asked, k.first, k.last, k.action, k.model)
                found.append((one, k.asked - k.reported))
                if len(found) >= count:
                    break
        return found

    def acknowledge(self, name: str, asked: int) -> None:
        """A suspect was reported, with all queries up to the count `asked`."""
        if (kept := self._found.get(name)) is not None:
            kept.reported = max(kept.reported, min(asked, kept.asked))

    def _move(self, kept: _Kept) -> None:
        """Put a suspect where its worth belongs."""
        heap, at, worth = self._heap, kept.at, kept.worth
        end = len(heap)
        while (child := 2 * at + 1) < end:
            if child + 1 < end and heap[child + 1].worth < heap[child].worth:
                child += 1
            if heap[child].worth >= worth:
                break
            heap[at] = heap[child]
            heap[at].at = at
            at = child
        while at and heap[parent := (at - 1) // 2].worth > worth:
            heap[at] = heap[parent]
            heap[at].at = at
            at = parent
        heap[at] = kept
        kept.at = at
