"""
A resolver worker: one process, one event loop, its own sockets on every address.

It opens the newest good snapshot by itself and takes everything newer from the control process.  If
that is gone it keeps answering on its last good policy and tries to reach it again.  Only a start
waits for it, and not for long: a decision that a command confirmed before a restart must be in
force after it.
"""

import asyncio
import contextlib
import gc
import socket
from dataclasses import dataclass
from pathlib import Path

from urlguard import events
from urlguard.blocklist import snapshot
from urlguard.blocklist.overlay import Overlay
from urlguard.config import Config
from urlguard.engine import Engine, Live
from urlguard.errors import SnapshotError
from urlguard.plugins import Chain
from urlguard.plugins.base import Parts
from urlguard.server import channel, process
from urlguard.server.channel import Message
from urlguard.server.listener import TcpListener, UdpListener
from urlguard.verdict import Ruling, decode

WAIT_S = 3.0  # for the control process's word, when there is a snapshot to begin with
FIRST_POLICY_S = 600.0  # when there is none, or it says so: the first import has to end
DRAIN_S = 5.0
_RETRY_S = 0.2


@dataclass(frozen=True)
class Orders:
    """What the supervisor tells a worker: its number and its inherited sockets' descriptors."""

    config: Config
    number: int
    sockets: tuple[tuple[int, int], ...]  # UDP and TCP, for each address


class Worker:
    """A worker's state."""

    def __init__(self, orders: Orders) -> None:
        self.config = orders.config
        self.number = orders.number
        self.sockets = orders.sockets
        self._snapshot = ""  # the name of the one in use
        self.live = Live(self._open_newest())
        self._next_snapshot = ""
        self._next: Engine | None = None  # opened, and not yet as far as the one in use
        self._ready = asyncio.Event()
        self._ready_at: int | None = None  # the serial that makes this worker ready
        self._told_to_wait = False
        self._urgent: list[tuple[int, list[tuple[str, Ruling | None]]]] = []

    @property
    def has_policy(self) -> bool:
        """False until there is any policy at all."""
        return self.live.engine.serial > 0

    def _open_newest(self) -> Engine:
        folder = self.config.state_dir / "snapshots"
        for path in snapshot.newest(folder):
            try:
                engine = Engine(snapshot.open_folder(path))
                self._snapshot = path.name
                return engine
            except SnapshotError as exc:
                events.error("snapshot.refused", error=str(exc), using="the one before")
        return Engine(snapshot.nothing())

    async def run(self, stop: asyncio.Event) -> None:
        """Answer queries until `stop` is set, then finish those under way."""
        loop = asyncio.get_running_loop()
        following = asyncio.create_task(self._follow())
        stopping = asyncio.create_task(stop.wait())
        # Queries meanwhile wait in the sockets, which the supervisor opened.
        ready = asyncio.create_task(self._ready.wait())
        await asyncio.wait([ready, stopping], timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        if self._told_to_wait or not self.has_policy:
            await asyncio.wait(
                [ready, stopping], timeout=FIRST_POLICY_S, return_when=asyncio.FIRST_COMPLETED
            )
        ready.cancel()
        if not self._ready.is_set() and not stop.is_set():
            events.warning("worker.alone", serial=self.live.engine.serial, using="last_good")
        chain = Chain.build(self.config, Parts(self.config, self.live, loop))
        listeners: list[UdpListener | TcpListener] = []
        for udp, tcp in self.sockets:
            listeners.append(UdpListener(socket.socket(fileno=udp), chain, self.live, loop))
            listeners.append(
                TcpListener(
                    socket.socket(fileno=tcp),
                    chain,
                    loop,
                    idle_s=self.config.server.tcp_idle_s,
                    connections=self.config.server.tcp_connections,
                )
            )
        for listener in listeners:
            if isinstance(listener, UdpListener):
                listener.start()
            else:
                await listener.start()
        # What is there now stays: the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        process.say_ready()
        await stop.wait()
        await asyncio.gather(*(listener.drain(DRAIN_S) for listener in listeners))
        following.cancel()
        chain.close()
        for listener in listeners:
            listener.close()

    # Policy

    async def _follow(self) -> None:
        """Stay connected to the control process."""
        path = channel.socket_path(self.config.state_dir)
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

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._next = None
        serial = self.live.engine.serial
        writer.write(
            channel.encode(
                {"op": "hello", "worker": self.number, "serial": serial, "snapshot": self._snapshot}
            )
        )
        pending: list[list[str | None]] = []
        try:
            while (message := await channel.read(reader)) is not None:
                match message["op"]:
                    case "wait":
                        self._told_to_wait = True
                    case "ready":
                        self._ready_at = int(message["serial"])
                    case "snapshot":
                        await self._open(Path(message["path"]), bool(message["anew"]), writer)
                    case "change":
                        pending += message["changes"]
                        if "serial" in message:
                            self._apply(pending, int(message["serial"]))
                            pending = []
                            self._say_serial(writer)
                    case "urgent":
                        self._apply_urgent(message["changes"], int(message["serial"]))
                        self._say_serial(writer, urgent=int(message["serial"]))
                reached = max([self.live.engine.serial, *(u[0] for u in self._urgent)])
                if self._ready_at is not None and reached >= self._ready_at:
                    self._ready.set()
        finally:
            writer.close()

    async def _open(self, path: Path, anew: bool, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            # In a thread: hashing the files and bringing their pages in takes some milliseconds.
            opened = await asyncio.to_thread(snapshot.open_folder, path)
        except SnapshotError as exc:
            events.error("snapshot.refused", error=str(exc), using="last_good")
            self._say_serial(writer, refused=True)
            return
        self._next_snapshot = path.name
        self._next = Engine(opened, Overlay(opened.serial))
        for serial, changes in self._urgent:
            if serial > opened.serial:
                self._next.overlay.apply(changes, opened.serial)
        self._swap(anew)
        events.info(
            "snapshot.swapped",
            serial=opened.serial,
            rules=len(opened),
            open_ms=round((loop.time() - started) * 1000, 1),
            worker=self.number,
        )
        self._say_serial(writer)

    def _apply(self, changes: list[list[str | None]], serial: int) -> None:
        engine = self._next or self.live.engine
        engine.overlay.apply(
            ((str(key), decode(after, str(key))) for key, after in changes), serial
        )
        if self._next is None:
            self.live.changed()
        else:
            self._swap()

    def _apply_urgent(self, changes: list[list[str | None]], serial: int) -> None:
        """Take a decision over at once that stands behind a change too large for the overlay."""
        decoded = [(str(key), decode(after, str(key))) for key, after in changes]
        # Until a snapshot holds it, each new one has to be told again.
        self._urgent = [u for u in self._urgent if u[0] > self.live.engine.serial]
        self._urgent.append((serial, decoded))
        for engine in (self.live.engine, self._next):
            if engine is not None:
                engine.overlay.apply(decoded, engine.serial)
        self.live.changed()

    def _swap(self, anew: bool = False) -> None:
        """
        Use the new engine once it knows all that the old one does: nothing is ever undone.

        `anew`: the one in use is of another log's history, so its serial means nothing.
        """
        if self._next is not None and (anew or self._next.serial >= self.live.engine.serial):
            self._snapshot = self._next_snapshot
            self.live.swap(self._next)
            self._next = None

    def _say_serial(
        self, writer: asyncio.StreamWriter, *, refused: bool = False, urgent: int | None = None
    ) -> None:
        message: Message = {"serial": self.live.engine.serial}
        if urgent is not None:
            message["urgent"] = urgent
        if refused:
            message["refused"] = True
        writer.write(channel.encode(message))


def main() -> None:
    """Entry point of a worker process."""
    orders: Orders = process.handed()
    events.bind(role="worker", worker=orders.number)
    process.run(lambda stop: Worker(orders).run(stop))


if __name__ == "__main__":
    main()
