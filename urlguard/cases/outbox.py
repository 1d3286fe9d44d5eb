"""
Sends the messages that wait for webhooks, each at least once.

Knows the store and a callable that posts; knows neither HTTP nor how a message is signed, which is
a callable's business too.

How it works.  Each webhook has a task of its own while anything is due for it, so one that is slow
keeps nobody else waiting; a few at a time are sent.  A message that has not arrived is sent again
after a time that doubles each time, and is given up after a day.  It keeps its ID, so its receiver
can tell that it has it already: whoever dies between sending and writing that down sends it again.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from urlguard import events
from urlguard.cases.model import StoreError
from urlguard.cases.ports import Delivery
from urlguard.cases.store import Store
from urlguard.cases.threads import StoreThreads
from urlguard.cases.webhooks import Letter, Webhook
from urlguard.errors import UrlGuardError

IDLE_S: Final = 1.0  # between looks for what is due
AGAIN_S: Final = 5.0  # after the store could not be used
AT_ONCE: Final = 4  # messages under way
BATCH: Final = 20  # of one webhook, between two looks
FIRST_S: Final = 10.0  # until a message is sent again; twice as long after each more
MOST_S: Final = 3 * 3600.0  # but not longer than this
KEPT_S: Final = 86_400.0  # then it is given up
MAX_ERROR: Final = 300  # characters
GONE: Final = 410  # the receiver wants no more of them


class Outbox:
    """
    The sender.

    Args:
        store: where the messages wait.
        delivery: signs and sends one.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        store: StoreThreads,
        delivery: Delivery,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._delivery = delivery
        self._clock = clock
        self._room = asyncio.Semaphore(AT_ONCE)
        self._busy: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Send until cancelled."""
        try:
            while True:
                try:
                    await self.look()
                    wait_s = IDLE_S
                except StoreError:  # triage meets it too, and tells
                    wait_s = AGAIN_S
                await asyncio.sleep(wait_s)
        finally:
            for task in self._busy.values():
                task.cancel()

    async def look(self) -> None:
        """
        Begin to send what is due, of webhooks that nothing is being sent to.

        Raises:
            StoreError: the store cannot be used.
        """
        now = self._clock()
        due = await self._store(lambda store: store.letters(now, BATCH))
        new = {number: letters for number, letters in due.items() if number not in self._busy}
        if not new:
            return
        webhooks = {one.number: one for one in await self._store(lambda store: store.webhooks())}
        for number, letters in new.items():
            if number in webhooks:
                task = asyncio.create_task(self._send_all(webhooks[number], letters))
                self._busy[number] = task
                task.add_done_callback(partial(self._ended, number))

    def _ended(self, number: int, _: asyncio.Task[None]) -> None:
        del self._busy[number]

    async def finish(self) -> None:
        """Wait until nothing is under way."""
        while self._busy:
            await asyncio.wait(list(self._busy.values()))

    async def _send_all(self, webhook: Webhook, letters: Sequence[Letter]) -> None:
        for letter in letters:
            try:
                async with self._room:
                    problem = await self._send(webhook, letter)
                await self._store(self._outcome(webhook, letter, problem))
            except StoreError:
                return  # it is sent again: at least once
            if problem:
                return  # the others would hardly do better now

    async def _send(self, webhook: Webhook, letter: Letter) -> str:
        """Send a message; what is wrong, in words, or nothing."""
        try:
            headers = self._delivery.sign(
                [webhook.secret], letter.id, int(self._clock()), letter.body
            )
            status = await self._delivery.post(
                webhook.url, letter.body, {"content-type": "application/json", **headers}
            )
        except UrlGuardError as exc:
            return str(exc)[:MAX_ERROR] or repr(exc)
        except Exception as exc:  # a fault of ours: it must not be tried each second
            return repr(exc)[:MAX_ERROR]
        return "" if 200 <= status < 300 else f"status {status}"

    def _outcome(self, webhook: Webhook, letter: Letter, problem: str) -> Callable[[Store], None]:
        """What to write down."""
        now = self._clock()
        if not problem:
            return lambda store: store.delivered(letter.number, int(now))
        due: float | None = now + min(FIRST_S * 2.0 ** min(letter.tries, 30), MOST_S)
        if now - letter.at >= KEPT_S or problem == f"status {GONE}":
            due = None
            events.warning("webhook.given_up", webhook=webhook.id, message=letter.id, error=problem)
        elif webhook.error is None:  # it did well until now
            events.info("webhook.failed", webhook=webhook.id, message=letter.id, error=problem)
        return lambda store: store.undelivered(letter.number, problem, due)
