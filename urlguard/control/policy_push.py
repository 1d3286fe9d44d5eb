"""
Keeping the workers at the log's serial: changes, urgent decisions and snapshots.

A worker holds a snapshot and an overlay of changes since.  `PolicyPush.push` compares each worker's
serial with the log's and sends the difference; it does not matter which process has committed.
Knows the log, snapshots and the workers' connections; knows no sockets, feeds or commands.

How it works.  Changes go to the workers as they are in the log, as long as they fit into an overlay
(`overlay.MAX_KEYS`).  A larger change waits for the next snapshot; until then workers get people's
decisions ahead of their serial ("urgent").  A snapshot is compiled, in a process of its own, when
the overlay has `COMPILE_KEYS` keys or is `COMPILE_AFTER_S` old.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from urlguard import compile as compiling
from urlguard import events
from urlguard.blocklist import overlay, snapshot
from urlguard.control.log_thread import LogThread
from urlguard.control.monitor import ControlState
from urlguard.control.workers import WorkerConnection, Workers
from urlguard.errors import PolicyError, UrlGuardError
from urlguard.policy.model import Change
from urlguard.policy.store import LogLocation
from urlguard.processes import channel, child

ACK_S: Final = 2.0  # timeout for the workers' confirmations
COMPILE_KEYS: Final = 5_000  # an overlay of this size is compiled at once,
COMPILE_AFTER_S: Final = 600.0  # a smaller one after this time
RETRY_S: Final = 60.0  # after a failed compile


class Synced(NamedTuple):
    """``in_force``: how many of ``workers`` enforce the policy of ``serial``."""

    serial: int
    workers: int
    in_force: int


class CommitResult(NamedTuple):
    """A commit: ``batch`` is its serial, or the log's last if nothing ``changed``."""

    batch: int
    changed: bool
    effects: int
    synced: Synced


class PolicyPush:
    """
    Brings workers up to date.

    Args:
        location: of the log, for the compile process.
        snapshots: their folder.
        log: the policy log.
        workers: those that are connected.
        count: how many workers there should be.
        state: ``ready`` is read; what is known of snapshot, overlay and compiles is written.
    """

    def __init__(
        self,
        location: LogLocation,
        snapshots: Path,
        log: LogThread,
        workers: Workers,
        count: int,
        state: ControlState,
    ) -> None:
        self.on_push: Callable[[], None] | None = None  # called at each push
        self._location = location
        self._snapshots = snapshots
        self._log = log
        self._store = log.log.store
        self._workers = workers
        self._count = count
        self._state = state
        self._lock = asyncio.Lock()
        self._foreign: set[str] = set()  # snapshots of another log that workers may have
        self._compiling: asyncio.Task[None] | None = None
        self._compiled_at = time.monotonic()
        self._compile_failed_at = -RETRY_S
        self._stopped = False

    async def push(self) -> int:
        """
        Send every worker what it lacks; returns the serial of the log.

        Raises:
            PolicyError: the log cannot be read.
        """
        if self.on_push is not None:
            self.on_push()
        async with self._lock:
            newest = next(iter(snapshot.newest(self._snapshots)), None)
            base = snapshot.serial_of(newest) if newest else 0
            serial = await self._log.run(lambda: self._log.log.serial)
            self._state.snapshot_serial = base
            self._workers.measure(serial)
            for worker in self._workers:
                if newest and newest.name != worker.snapshot:
                    foreign = worker.snapshot in self._foreign or worker.acked > serial
                    worker.snapshot, worker.sent = newest.name, base
                    worker.send({"op": "snapshot", "path": str(newest), "anew": foreign})
            oldest = min((w.sent for w in self._workers), default=serial)
            await self._send_changes(oldest, serial)
            for worker in self._workers:
                if self._state.ready and not worker.ready_sent:
                    worker.ready_sent = True
                    worker.send({"op": "ready", "serial": serial})
            await self._compile_if_due(base)
            return serial

    async def sync(self) -> Synced:
        """Push, and wait at most `ACK_S` until all workers have confirmed."""
        serial = await self.push()
        confirmed = await self._workers.wait_for(serial, self._count, ACK_S)
        return Synced(serial, self._count, confirmed)

    async def commit(
        self, source: str, changes: Sequence[Change], *, actor: str, reason: str
    ) -> CommitResult:
        """
        Commit changes to the log and bring the workers up to date.

        Raises:
            PolicyError: the log refuses the changes, or cannot be written.
        """
        batch = await self._log.run(
            lambda: self._log.log.commit(source, changes, actor=actor, reason=reason)
        )
        synced = await self.sync()
        if batch is None:
            return CommitResult(synced.serial, False, 0, synced)
        return CommitResult(batch.serial, True, len(batch.effects), synced)

    async def refused(self, worker: WorkerConnection) -> None:
        """A worker could not open its snapshot and keeps the one before: replace the bad one."""
        worker.sent = worker.acked
        await self.push()
        self._compile_soon()

    def has_snapshot(self) -> bool:
        """True if there is a snapshot."""
        return bool(snapshot.newest(self._snapshots))

    async def replace_foreign(self) -> None:
        """
        Compile if there are snapshots of another log.

        Raises:
            PolicyError: the log cannot be read, or the compile failed.
        """
        self._foreign = await self._log.run(
            lambda: compiling.foreign(self._log.log, self._snapshots)
        )
        if self._foreign:
            events.warning("snapshot.foreign", replacing=sorted(self._foreign))
            await self.compile()

    async def compile(self) -> None:
        """
        Compile a snapshot of the log.

        Raises:
            PolicyError: that failed; the snapshot in use stays.
        """
        await self._log.run(self._store.check_identity)
        started = time.monotonic()
        url = self._location.url.encode()
        if await child.run_command(compiling.command(self._snapshots), url) != 0:
            self._state.compile_failures += 1
            raise PolicyError("compile failed; the snapshot in use stays")
        self._compiled_at = time.monotonic()
        self._state.compile_seconds = self._compiled_at - started
        events.info("snapshot.compiled", seconds=round(self._compiled_at - started, 2))

    def stop(self) -> list[asyncio.Task[None]]:
        """Begin no compile any more, and cancel the one under way; returns its task to wait for."""
        self._stopped = True
        if self._compiling is None:
            return []
        self._compiling.cancel()
        return [self._compiling]

    async def _send_changes(self, since: int, serial: int) -> None:
        if since >= serial or not self._workers:
            return
        if await self._log.run(lambda: self._store.count_effects(since)) > overlay.MAX_KEYS:
            # Too much for an overlay: the next snapshot has it.
            if self._state.ready:
                self._compile_soon()
            await self._send_urgent(serial)
            return
        changes = await self._log.run(lambda: list(self._store.changes(since)))
        for worker in self._workers:
            lacking = [[key, after] for key, after, at in changes if at > worker.sent]
            parts = [lacking[i : i + channel.CHUNK] for i in range(0, len(lacking), channel.CHUNK)]
            for part in parts[:-1]:
                worker.send({"op": "change", "changes": part})
            last = parts[-1] if parts else []
            worker.send({"op": "change", "changes": last, "serial": serial})
            worker.sent = serial

    async def _send_urgent(self, serial: int) -> None:
        """
        Send people's decisions to workers that a large change keeps behind.

        They do not change a worker's serial; it keeps them until its snapshot has reached `serial`.
        """
        for worker in self._workers:
            if worker.sent >= serial:
                continue
            decided = await self._log.run(
                partial(self._store.decided, worker.sent, overlay.MAX_KEYS)
            )
            changes = [[key, after] for key, after in decided]
            for i in range(0, len(changes), channel.CHUNK):
                part = changes[i : i + channel.CHUNK]
                worker.send({"op": "urgent", "changes": part, "serial": serial})

    async def _compile_if_due(self, base: int) -> None:
        keys = await self._log.run(lambda: self._store.count_effects(base))
        self._state.overlay_keys = keys
        patterns = await self._log.run(lambda: self._store.count_effects(base, "pattern"))
        age = time.monotonic() - self._compiled_at
        if self._state.ready and (
            keys >= COMPILE_KEYS
            or patterns > overlay.MAX_PATTERNS
            or (keys and age > COMPILE_AFTER_S)
        ):
            self._compile_soon()

    def _compile_soon(self) -> None:
        since = time.monotonic() - self._compile_failed_at
        if self._compiling is None and since >= RETRY_S and not self._stopped:
            self._compiling = asyncio.create_task(self._compile_and_push())

    async def _compile_and_push(self) -> None:
        try:
            await self.compile()
        except Exception as exc:
            events.error("snapshot.failed", error=str(exc), using="last_good")
            self._compile_failed_at = time.monotonic()
        finally:
            self._compiling = None
        with contextlib.suppress(UrlGuardError):  # the next push reports it
            await self.push()
