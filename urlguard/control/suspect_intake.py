"""
What the workers' models suspect, handed over to the queue of cases.

Runs in the control process.  Each `PAUSE_S` the workers are asked for suspects that were asked for
since the last time (see `suspects`); they become candidates of the source `SOURCE`, with the number
of queries, so that a case's rank follows what the resolvers see.  Workers do not wait for any of
it: while the queue is full or the disk fails, suspects stay in their bounded memory.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Final

from urlguard import events
from urlguard.cases.casework import Casework
from urlguard.cases.model import Added, Candidate, FullError, StoreError
from urlguard.cases.store import Store
from urlguard.classify.suspects import Suspect, merged
from urlguard.control.verdict_pool import VerdictPool
from urlguard.control.workers import Workers
from urlguard.errors import UrlGuardError

SOURCE: Final = "resolver"
PAUSE_S: Final = 10.0
WAIT_S: Final = 2.0  # for the workers to tell
LOG_EVERY_S: Final = 600.0


class SuspectIntake:
    """
    The loop.

    Args:
        workers: who is asked.
        judges: read candidates, as of crawlers.
        casework: the queue.
    """

    def __init__(self, workers: Workers, judges: VerdictPool, casework: Casework) -> None:
        self._workers = workers
        self._judges = judges
        self._casework = casework
        self._log_throttle = events.Throttle(LOG_EVERY_S)

    async def run(self) -> None:
        """Hand over until cancelled."""
        while True:
            await asyncio.sleep(PAUSE_S)
            try:
                while await self.once():
                    pass
            except FullError:
                pass  # the queue says so itself; what is worth it is still there next time
            except UrlGuardError as exc:
                if self._log_throttle.due():
                    events.warning("cases.handover", error=str(exc), again_s=PAUSE_S)

    async def once(self) -> int:
        """
        Hand over what the workers tell at once; returns how many suspects.

        Raises:
            StoreError: the queue does not take them; nothing is marked.
            UrlGuardError: they cannot be read as candidates just now.
        """
        if not self._casework.ready:
            raise StoreError("cases: not ready yet")
        replies = await self._workers.ask({"op": "unreported"}, WAIT_S)
        rows = [(Suspect(*row[:-1]), int(row[-1])) for r in replies.values() for row in r["names"]]
        if not rows:
            return 0
        new: dict[str, int] = {}
        for one, count in rows:
            new[one.name] = new.get(one.name, 0) + count
        found = merged(one for one, _ in rows)
        intake = await self._judges.intake(b"\n".join(map(_line, found)))
        candidates = list(intake.rows())
        await self._casework.store(lambda store: _added(store, candidates, new), bulk=True)
        self._casework.wake()
        marks: dict[int, list[tuple[str, int]]] = {
            number: [(row[0], row[2]) for row in reply["names"]]
            for number, reply in replies.items()
        }
        for worker in self._workers:
            if worker.number in marks:
                worker.send({"op": "acknowledged", "names": marks[worker.number]})
        return len(found)


def _line(one: Suspect) -> bytes:
    context = f"{one.model}: score {one.score:.6f}, {one.action}; first asked for at {one.first}"
    return json.dumps({"url": one.name, "seen_at": one.last, "context": context}).encode()


def _added(store: Store, rows: Sequence[Candidate], new: dict[str, int]) -> Added:
    counted = [row._replace(queries=new.get(row.item, 0)) for row in rows]
    return store.add(SOURCE, counted, int(time.time()))
