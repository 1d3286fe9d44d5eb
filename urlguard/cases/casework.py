"""
All about cases in one process: the store and its threads, triage, decisions on their way, webhooks.

Made and run by the control process, used by the API.  Begins when the store can be opened and what
a crash has left is put in order; until then whoever asks is told so.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from urlguard import events
from urlguard.cases.appeal_service import AppealService
from urlguard.cases.decide import Decider
from urlguard.cases.drivers.sqlite import open_store
from urlguard.cases.model import Limits, Step, StoreError
from urlguard.cases.outbox import Outbox
from urlguard.cases.ports import Delivery, Policy, Verdicts
from urlguard.cases.store import Store
from urlguard.cases.threads import StoreThreads
from urlguard.cases.triage import Triage
from urlguard.errors import PolicyError
from urlguard.policy.model import Change

DATABASE: Final = "cases.db"
AGAIN_S: Final = 5.0  # after the store could not be opened
RECOVER_S: Final = 30.0  # between looks for decisions that were left on their way,
COUNT_S: Final = 5.0  # between two looks at what waits
GRACE_S: Final = 60.0  # which one is not before this

T = TypeVar("T")


class Waiting(NamedTuple):
    """What waits, as of some seconds ago."""

    candidates: int  # to be judged
    pending_approval: int  # decisions, for a second person; counted up to `store.MAX_PAGE`


class Casework:
    """
    Cases, from the queue to what is decided.

    Args:
        folder: holds the store's file.
        verdicts: checks items.
        policy: the policy log and the workers.
        delivery: sends webhook messages; without it they stay in the outbox.
        limits: of the store.
    """

    def __init__(
        self,
        folder: Path,
        *,
        verdicts: Verdicts,
        policy: Policy,
        delivery: Delivery | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._threads = StoreThreads(lambda: open_store(folder / DATABASE, limits))
        self._verdicts = verdicts
        self.waiting: Waiting | None = None  # not known yet, or not just now
        self._begun = False
        self._triage: Triage | None = None
        self._decider = Decider(self._threads, policy)
        self._appeal_service = AppealService(folder, self._threads, self._decider, policy, verdicts)
        self._outbox = None if delivery is None else Outbox(self._threads, delivery)

    @property
    def decider(self) -> Decider:
        """
        Who makes decisions.

        Raises:
            StoreError: not ready yet.
        """
        self._look()
        return self._decider

    @property
    def appeal_service(self) -> AppealService:
        """
        Who takes appeals.

        Raises:
            StoreError: not ready yet.
        """
        self._look()
        return self._appeal_service

    @property
    def ready(self) -> bool:
        """Whether it can be used."""
        return self._begun

    def _look(self) -> None:
        if not self._begun:
            raise StoreError("cases: not ready yet")

    async def store(self, work: Callable[[Store], T], *, bulk: bool = False) -> T:
        """
        What `work` makes of the store, on a thread.

        Raises:
            StoreError: it cannot be used; see `Store` for what else `work` may raise.
        """
        self._look()
        return await self._threads(work, bulk=bulk)

    async def needs_approval(self, changes: Sequence[Change]) -> Sequence[str]:
        """See `Decider.needs_approval`."""
        return await self._decider.needs_approval(changes)

    async def refuse_overruled(self, source: str, keys: Sequence[str]) -> None:
        """See `Decider.refuse_overruled`."""
        await self._decider.refuse_overruled(source, keys)

    def wake(self) -> None:
        """Something was reported: have it judged at once."""
        if self._triage is not None:
            self._triage.wake()

    async def run(self) -> None:
        """Work until cancelled; while the store cannot be opened, try again."""
        try:
            store = await self._opened()
            self._triage = Triage(store, self._verdicts)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._triage.run())
                group.create_task(self._recover())
                group.create_task(self._count())
                if self._outbox is not None:
                    group.create_task(self._outbox.run())
        finally:
            self._begun = False
            await asyncio.shield(asyncio.to_thread(self._threads.close))

    async def _opened(self) -> Store:
        said = False
        while True:
            try:
                store = await asyncio.to_thread(self._threads.opened)
                await self._decider.recover()
                self._begun = True
                return store
            except (StoreError, PolicyError) as exc:
                if not said:
                    said = True
                    events.error("cases.failed", error=str(exc), again_s=AGAIN_S)
            await asyncio.sleep(AGAIN_S)

    async def _recover(self) -> None:
        while True:
            await asyncio.sleep(RECOVER_S)
            # What stands in the way is told by triage, which meets it first.
            with contextlib.suppress(StoreError, PolicyError):
                done = await self._decider.recover(GRACE_S)
                if any(done):
                    events.info("cases.recovered", finished=done.finished, aborted=done.aborted)

    async def _count(self) -> None:
        while True:
            try:
                self.waiting = await self._threads(_waiting)
            except StoreError:
                self.waiting = None
            await asyncio.sleep(COUNT_S)


def _waiting(store: Store) -> Waiting:
    return Waiting(store.backlog(), len(store.decisions(Step.PENDING_APPROVAL)))
