"""
Suspect intake: names that the workers' models suspect become candidates for cases.

Every `PAUSE_S` the control process asks the workers for unreported suspects, adds them as
candidates of the source `SOURCE` with their numbers of queries, and acknowledges them.  So a case's
priority follows the queries that the resolvers see.  While the queue is full or the disk fails,
suspects stay unreported in the workers' bounded memory; no worker waits.
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
WAIT_S: Final = 2.0  # timeout of the workers' replies
LOG_EVERY_S: Final = 600.0


class SuspectIntake:
    """
    Moves suspects from the workers to the queue of candidates.

    Args:
        workers: those that are connected.
        verdicts: parses candidates, as it does those of crawlers.
        casework: has the queue.
    """

    def __init__(self, workers: Workers, verdicts: VerdictPool, casework: Casework) -> None:
        self._workers = workers
        self._verdicts = verdicts
        self._casework = casework
        self._log_throttle = events.Throttle(LOG_EVERY_S)

    async def run(self) -> None:
        """Move suspects until cancelled."""
        while True:
            await asyncio.sleep(PAUSE_S)
            try:
                while await self.once():
                    pass
            except FullError:
                pass  # the queue has logged it; the suspects stay with the workers
            except UrlGuardError as exc:
                if self._log_throttle.due():
                    events.warning("cases.suspects", error=str(exc), again_s=PAUSE_S)

    async def once(self) -> int:
        """
        Move one reply of each worker; returns the number of suspects.

        Raises:
            StoreError: the queue cannot be written; nothing is acknowledged.
            UrlGuardError: the verdict pool cannot parse them now.
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
        intake = await self._verdicts.intake(b"\n".join(map(_line, found)))
        candidates = list(intake.rows())
        await self._casework.store(lambda store: _added(store, candidates, new), bulk=True)
        self._casework.wake()
        reported: dict[int, list[tuple[str, int]]] = {
            number: [(row[0], row[2]) for row in reply["names"]]
            for number, reply in replies.items()
        }
        for worker in self._workers:
            if worker.number in reported:
                worker.send({"op": "acknowledged", "names": reported[worker.number]})
        return len(found)


def _line(one: Suspect) -> bytes:
    context = f"{one.model}: score {one.score:.6f}, {one.action}; first asked for at {one.first}"
    return json.dumps({"url": one.name, "seen_at": one.last, "context": context}).encode()


def _added(store: Store, rows: Sequence[Candidate], new: dict[str, int]) -> Added:
    counted = [row._replace(queries=new.get(row.item, 0)) for row in rows]
    return store.add(SOURCE, counted, int(time.time()))
