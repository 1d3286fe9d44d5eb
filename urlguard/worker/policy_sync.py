"""
A worker's policy: the newest good snapshot, and everything newer from the control process.

While the control process is gone the worker keeps its policy and tries to connect again.  Other
requests of the control process come on the same connection; their handlers register here.  Knows
the channel, snapshots and overlays; knows no packets.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from urlguard import events
from urlguard.blocklist import snapshot
from urlguard.blocklist.overlay import Overlay
from urlguard.engine import ActiveEngine, Engine
from urlguard.errors import SnapshotError
from urlguard.metrics import MetricsWriter
from urlguard.processes import channel
from urlguard.processes.channel import Message
from urlguard.rules import SHADOWED
from urlguard.verdict import Ruling, decode

MANY: Final = (
    1  # changes at once, up to which subscribers get the names: each costs half a millisecond
)
_RETRY_S = 0.2

Handler = Callable[[Message, asyncio.StreamWriter], Awaitable[None]]


class PolicySync:
    """
    The policy of one worker.

    ``active`` holds the engine in use.  ``ready`` is set once the worker is as far as the
    control process wants it to be before it answers; ``must_wait`` if that may take minutes.
    ``handlers`` deal with further operations, by name; ``background`` are run as long as there
    is a connection, with its writer.
    """

    def __init__(self, state_dir: Path, number: int) -> None:
        self.ready = asyncio.Event()
        self.must_wait = False
        self.handlers: dict[str, Handler] = {}
        self.background: list[Callable[[asyncio.StreamWriter], Awaitable[None]]] = []
        self._state_dir = state_dir
        self._number = number
        self._snapshot = ""  # the name of the one in use
        self._taken_up = time.monotonic()
        self._swaps = 0
        self._swap_s = 0.0
        self.active = ActiveEngine(self._open_newest())
        self._next_snapshot = ""
        self._next: Engine | None = None  # opened, and not yet as far as the one in use
        self._ready_at: int | None = None  # the serial that makes this worker ready
        self._urgent: list[tuple[int, list[tuple[str, Ruling | None]]]] = []

    @property
    def has_policy(self) -> bool:
        """False until there is any policy at all."""
        return self.active.engine.serial > 0

    async def run(self) -> None:
        """Stay connected to the control process, until cancelled."""
        path = channel.socket_path(self._state_dir)
        while True:
            with (
                contextlib.suppress(OSError, ValueError),
                channel.connect(path, 1.0) as client,
            ):
                client.setblocking(False)
                reader, writer = await asyncio.open_unix_connection(
                    sock=client, limit=channel.MAX_LINE
                )
                await self._listen(reader, writer)
            await asyncio.sleep(_RETRY_S)

    def metrics(self, out: MetricsWriter) -> None:
        """Write which policy is in force, and what swaps took."""
        engine = self.active.engine
        out.gauge("urlguard_policy_serial", engine.serial)
        out.gauge("urlguard_snapshot_serial", engine.snapshot.serial)
        out.gauge("urlguard_snapshot_age_seconds", time.monotonic() - self._taken_up)
        out.count("urlguard_snapshot_swaps_total", self._swaps)
        out.gauge("urlguard_snapshot_swap_duration_seconds", self._swap_s)

    def _open_newest(self) -> Engine:
        for path in snapshot.newest(self._state_dir / "snapshots"):
            try:
                engine = Engine(snapshot.open_folder(path))
                self._snapshot = path.name
                return engine
            except SnapshotError as exc:
                events.error("snapshot.refused", error=str(exc), using="the one before")
        return Engine(snapshot.nothing())

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._next = None
        serial = self.active.engine.serial
        hello = {"op": "hello", "worker": self._number, "serial": serial}
        writer.write(channel.encode({**hello, "snapshot": self._snapshot}))
        background = [asyncio.ensure_future(work(writer)) for work in self.background]
        pending: list[tuple[str, Ruling | None]] = []
        try:
            while (message := await channel.read(reader)) is not None:
                match message["op"]:
                    case "wait":
                        self.must_wait = True
                    case "ready":
                        self._ready_at = int(message["serial"])
                    case "snapshot":
                        await self._open(Path(message["path"]), bool(message["anew"]), writer)
                    case "change":
                        pending += [(str(k), decode(a, str(k))) for k, a in message["changes"]]
                        if "serial" in message:
                            await self._apply(pending, int(message["serial"]))
                            pending = []
                            self._acknowledge(writer)
                        else:
                            # The next message may be in the buffer: reading it would not wait.
                            await asyncio.sleep(0)
                    case "urgent":
                        self._apply_urgent(message["changes"], int(message["serial"]))
                        self._acknowledge(writer, urgent=int(message["serial"]))
                    case other if handler := self.handlers.get(other):
                        await handler(message, writer)
                reached = max([self.active.engine.serial, *(u[0] for u in self._urgent)])
                if self._ready_at is not None and reached >= self._ready_at:
                    self.ready.set()
        finally:
            for task in background:
                task.cancel()
            writer.close()

    async def _open(self, path: Path, anew: bool, writer: asyncio.StreamWriter) -> None:
        started = time.perf_counter()
        try:
            # In a thread: hashing the files and bringing their pages in takes some milliseconds.
            opened = await asyncio.to_thread(snapshot.open_folder, path)
        except SnapshotError as exc:
            events.error("snapshot.refused", error=str(exc), using="last_good")
            self._acknowledge(writer, refused=True)
            return
        self._next_snapshot = path.name
        self._next = Engine(opened, Overlay(opened.serial))
        for serial, changes in self._urgent:
            if serial > opened.serial:
                self._next.overlay.apply(changes, opened.serial)
        self._swap(anew)
        self._swap_s = time.perf_counter() - started
        events.info(
            "snapshot.swapped",
            serial=opened.serial,
            rules=len(opened),
            open_ms=round(self._swap_s * 1000, 1),
            worker=self._number,
        )
        self._acknowledge(writer)

    async def _apply(self, changes: list[tuple[str, Ruling | None]], serial: int) -> None:
        """
        Take changes over, in pieces between which queries are answered.

        The serial moves with the last piece: whatever ends this early, all of it is sent again.
        """
        engine = self._next or self.active.engine
        for at in range(0, max(1, len(changes)), channel.CHUNK):
            piece, last = changes[at : at + channel.CHUNK], at + channel.CHUNK >= len(changes)
            engine.overlay.apply(piece, serial if last else engine.serial)
            if self._next is None:
                self.active.changed(_names(piece))
            elif last:
                self._swap()
            if not last:
                await asyncio.sleep(0)

    def _apply_urgent(self, changes: list[list[str | None]], serial: int) -> None:
        """Apply a decision at once that is queued behind a change too large for the overlay."""
        decoded = [(str(key), decode(after, str(key))) for key, after in changes]
        # Each new engine needs it again until a snapshot holds it.
        self._urgent = [u for u in self._urgent if u[0] > self.active.engine.serial]
        self._urgent.append((serial, decoded))
        for engine in (self.active.engine, self._next):
            if engine is not None:
                engine.overlay.apply(decoded, engine.serial)
        self.active.changed(_names(decoded))

    def _swap(self, anew: bool = False) -> None:
        """
        Use the new engine once it knows all that the old one does: nothing is ever undone.

        `anew`: the one in use is of another log's history, so its serial means nothing.
        """
        if self._next is not None and (anew or self._next.serial >= self.active.engine.serial):
            self._snapshot = self._next_snapshot
            self.active.swap(self._next)
            self._next = None
            self._taken_up = time.monotonic()
            self._swaps += 1

    def _acknowledge(
        self, writer: asyncio.StreamWriter, *, refused: bool = False, urgent: int | None = None
    ) -> None:
        message: Message = {"serial": self.active.engine.serial}
        if urgent is not None:
            message["urgent"] = urgent
        if refused:
            message["refused"] = True
        writer.write(channel.encode(message))


def _names(changes: Sequence[tuple[str, Ruling | None]]) -> list[str] | None:
    """The names that rule changes speak about; None if they may concern any name."""
    if len(changes) > MANY:
        return None
    names = []
    for key, _ in changes:
        kind, _, value = key.removeprefix(SHADOWED).partition(" ")
        if kind in ("domain", "subtree", "below"):
            names.append(value)
        elif kind != "url":  # which never blocks its host
            return None
    return names
