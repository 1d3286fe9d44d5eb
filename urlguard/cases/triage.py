"""
Triage: items leave the queue, are judged, and join the cases of their owners.

Two loops beside the store and whoever judges.  Knows neither how verdicts come about nor where
cases are kept: it is given a callable that answers items with check objects, as ``urlguard check
--json`` writes them, and a `Store`, which it uses from a thread of its own since a store waits for
the disk.

How it works.  A URL is asked about with its host's name, so that both models have their say, and
the worse score counts.  What a rule blocks or allows is known and nobody's work; what a model would
block is not, because people decide.  An item that cannot be judged is tried alone, so that it takes
no others with it, and is dead after some failures; but where nothing at all can be judged, no item
is to blame, and the loops wait.  A process that dies in between loses nothing: leases lapse, and
items are taken again.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from urlguard import events
from urlguard.cases import campaigns
from urlguard.cases.model import BY_RULE, Judged, StoreError, Work
from urlguard.cases.ports import BusyError, Verdicts
from urlguard.cases.store import Store
from urlguard.errors import UrlGuardError

BATCH: Final = 1000  # items taken at once
LEASE_S: Final = 120.0
IDLE_S: Final = 1.0  # between looks into an empty queue that nobody has announced anything for
TIDY_S: Final = 5.0
BUSY_S: Final = 0.2  # after whoever judges had too much to do
LOOPS: Final = 2  # so that the store writes while the next batch is judged
AGAIN_S: Final = 5.0  # after the store could not be used

T = TypeVar("T")

_PROBE: Final = "example.com"  # which whoever judges anything can judge


class OutageError(UrlGuardError):
    """Whoever judges cannot judge anything just now."""


class Triage:
    """
    The loops.

    Args:
        store: where items wait.
        verdicts: checks items.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        store: Store,
        verdicts: Verdicts,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._verdicts = verdicts
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="triage")
        self._work = asyncio.Event()
        self._tidied = 0.0
        self._failing = False

    def wake(self) -> None:
        """Something was added: look at once."""
        self._work.set()

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(LOOPS):
                    group.create_task(self._loop())
        finally:
            self._thread.shutdown(wait=False)

    async def _loop(self) -> None:
        while True:
            self._work.clear()
            try:
                done = await self.round()
                if self._failing:
                    waiting = await self._apart(self._store.backlog)
                    if self._failing:  # else the other loop has logged it meanwhile
                        self._failing = False
                        events.info("cases.resumed", waiting=waiting)
            except (StoreError, OutageError) as exc:
                if not self._failing:
                    self._failing = True
                    events.error("cases.failed", error=str(exc), again_s=AGAIN_S)
                await asyncio.sleep(AGAIN_S)
                continue
            if not done:
                # Not `wait_for`: before Python 3.12 it loses an end that comes with the work.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_S):
                        await self._work.wait()

    async def round(self) -> int:
        """
        Judge one batch.

        Returns:
            how many items were taken.

        Raises:
            StoreError: the store cannot be used.
            OutageError: nothing can be judged; what was taken comes back when its lease lapses.
        """
        now = self._clock()
        if not self._tidied <= now < self._tidied + TIDY_S:
            self._tidied = now
            await self._apart(self._store.tidy, int(now))
        works = await self._apart(self._store.take, BATCH, LEASE_S, now)
        if works:
            await self._judge(works)
        return len(works)

    async def _judge(self, works: list[Work]) -> None:
        asked, places = questions(works)
        try:
            objects = await self._answers(asked)
            await self._apart(self._settle, works, places, objects)
        except (StoreError, OutageError):
            raise
        except (UrlGuardError, ValueError, KeyError, TypeError, IndexError) as exc:
            await self._probe(exc)
            if len(works) == 1:
                dead = await self._apart(
                    self._store.failed, [works[0].id], str(exc) or repr(exc), self._clock()
                )
                if dead:
                    events.warning("cases.dead", item=works[0].item, error=str(exc))
                return
            # One of them is to blame, and halves find it soon.
            half = len(works) // 2
            await self._judge(works[:half])
            await self._judge(works[half:])

    async def _answers(self, asked: Sequence[str]) -> Sequence[bytes]:
        while True:
            try:
                return await self._verdicts.check(asked, score=True)
            except BusyError:
                await asyncio.sleep(BUSY_S)

    async def _probe(self, problem: Exception) -> None:
        """Raise unless something can be judged, so that the items are to blame for `problem`."""
        try:
            (found,) = await self._answers([_PROBE])
            if json.loads(found)["error"] is not None:
                raise OutageError(f"nothing can be judged: {problem}")
        except (UrlGuardError, ValueError, KeyError, TypeError) as exc:
            raise OutageError(f"nothing can be judged: {problem}") from exc

    def _settle(self, works: list[Work], places: list[int], objects: Sequence[bytes]) -> None:
        """Hand in what was found; in the thread, as is reading the objects."""
        said = [json.loads(found) for found in objects]
        results = [
            judged(work, said[start:end])
            for work, start, end in zip(works, places, [*places[1:], len(said)], strict=True)
        ]
        self._store.judged(results, int(self._clock()))

    async def _apart(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, function, *arguments)


def questions(works: Sequence[Work]) -> tuple[list[str], list[int]]:
    """What to ask about items, and where each one's questions begin."""
    asked: list[str] = []
    places = []
    for work in works:
        places.append(len(asked))
        asked.append(work.item)
        if work.name != work.item and "." in work.name and not work.name[-1].isdigit():
            asked.append(work.name)
    return asked, places


def judged(work: Work, said: Sequence[dict[str, Any]]) -> Judged:
    """
    What came of an item.

    Args:
        work: the item.
        said: the check object of the item itself, and of its host's name where that was asked.

    Raises:
        ValueError: the item is none, or has no object.
    """
    own = said[0]
    if own["error"] is not None:
        raise ValueError(str(own["error"]))
    scores = [found["score"] for found in said if found["score"] is not None]
    worst = max(said, key=lambda found: -1.0 if found["score"] is None else found["score"])
    known = own["action"] in ("block", "allow") and own["reason"] in BY_RULE
    return Judged(
        work.id,
        known,
        max(scores, default=None),
        own["action"],
        own["reason"],
        worst["model"] or "",
        campaigns.pattern(work.item, work.owner),
    )
