"""
The control process's connections to its workers: their serials, and requests to all of them.

A worker's messages with an ``id`` are replies to `Workers.ask`; others report its serial or hits.
Knows the channel; knows nothing of the policy log.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterator

from urlguard.processes import channel
from urlguard.processes.channel import Message

# A worker that has not read so much is sent no requests; policy changes are always sent, since it
# could never catch up without them.
MAX_UNREAD = 1 << 20  # octets


class WorkerConnection:
    """A worker's connection and its serials."""

    def __init__(
        self, number: int, serial: int, snapshot: str, writer: asyncio.StreamWriter
    ) -> None:
        self.number = number
        self.sent = serial  # the serial up to which changes were sent
        self.acked = serial
        self.urgent = 0  # the last batch whose urgent changes it has confirmed
        self.snapshot = snapshot  # the name of the one in use, or sent last
        self.ready_sent = False
        self.behind_since: float | None = None  # monotonic; None while it is at the log's serial
        self._writer = writer
        self._asked: dict[int, asyncio.Future[Message]] = {}

    def send(self, message: Message) -> None:
        """Send a message, unless the connection is closing."""
        if not self._writer.is_closing():
            self._writer.write(channel.encode(message))

    def ask(self, message: Message, number: int) -> "asyncio.Future[Message] | None":
        """Send a request; the reply to come, or None if too much is unread."""
        if self._writer.is_closing() or self._writer.transport.get_write_buffer_size() > MAX_UNREAD:
            return None
        self._asked[number] = future = asyncio.get_running_loop().create_future()
        self.send({**message, "id": number})
        return future

    def replied(self, message: Message) -> None:
        """Set the reply to `ask`; a late one is dropped."""
        future = self._asked.pop(int(message["id"]), None)
        if future is not None and not future.done():
            future.set_result(message)

    def forget(self, number: int) -> None:
        """Stop waiting for the reply to a request."""
        self._asked.pop(number, None)

    def measure(self, serial: int) -> None:
        """Record since when it is behind the log's `serial`."""
        if max(self.acked, self.urgent) >= serial:
            self.behind_since = None
        elif self.behind_since is None:
            self.behind_since = time.monotonic()


class Workers:
    """All workers that are connected."""

    def __init__(self) -> None:
        self._connected: set[WorkerConnection] = set()
        self._moved = asyncio.Condition()
        self._numbers = itertools.count(1)
        self._serial = 0  # the log's, when it was last looked at

    def __iter__(self) -> Iterator[WorkerConnection]:
        return iter(sorted(self._connected, key=lambda worker: worker.number))

    def __len__(self) -> int:
        return len(self._connected)

    def add(self, worker: WorkerConnection) -> None:
        """Add a worker that has connected."""
        self._connected.add(worker)

    def remove(self, worker: WorkerConnection) -> None:
        """Remove a worker that has disconnected."""
        self._connected.discard(worker)

    def measure(self, serial: int) -> None:
        """Record which workers are behind the log's `serial`, and since when."""
        self._serial = serial
        for worker in self._connected:
            worker.measure(serial)

    async def moved(self, worker: WorkerConnection) -> None:
        """Wake those who wait for a worker that has reported its serial."""
        worker.measure(self._serial)
        async with self._moved:
            self._moved.notify_all()

    def reached(self, serial: int) -> int:
        """How many workers are at `serial`."""
        return sum(max(w.acked, w.urgent) >= serial for w in self._connected)

    async def wait_for(self, serial: int, count: int, timeout_s: float) -> int:
        """Wait until `count` workers are at `serial`; returns how many are."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._moved:
                await self._moved.wait_for(lambda: self.reached(serial) >= count)
        return self.reached(serial)

    def send(self, message: Message) -> None:
        """Send every worker a message."""
        for worker in self:
            worker.send(message)

    async def ask(self, message: Message, timeout_s: float) -> dict[int, Message]:
        """
        Send every worker a request.

        Returns:
            The replies within `timeout_s`, by the worker's number.
        """
        number = next(self._numbers)
        asked = [(w, future) for w in self if (future := w.ask(message, number)) is not None]
        if asked:
            await asyncio.wait([future for _, future in asked], timeout=timeout_s)
        replies = {}
        for worker, future in asked:
            worker.forget(number)
            if future.done():
                replies[worker.number] = future.result()
            else:
                future.cancel()
        return replies
