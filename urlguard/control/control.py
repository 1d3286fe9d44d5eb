"""
The control process: it writes the policy log and keeps the workers up to date.

What a worker holds is a snapshot and an overlay; whatever it lacks is read from the log's effects
and sent to it.  So it does not matter who committed: this process on behalf of a command, a feed's
refresh in a process of its own, or a command that found no server.  Also ends expired claims within
a second, refreshes feeds when they are due, has a snapshot compiled when the overlay grows, keeps
the hit log, signs checkpoints of the log, and serves metrics and health over HTTP.

The packet path never waits for anything here.
"""

import asyncio
import contextlib
import importlib
import os
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from urlguard import compile as compiling
from urlguard import events
from urlguard.access import tokens
from urlguard.api.services import Decided
from urlguard.blocklist import overlay, snapshot
from urlguard.cases.casework import Casework
from urlguard.cases.model import Limits
from urlguard.config import Config
from urlguard.control.case_addresses import CaseAddresses
from urlguard.control.checkpoints import Checkpoints
from urlguard.control.feed_refresher import FeedRefresher
from urlguard.control.fetch_pool import FetchPool
from urlguard.control.monitor import ControlState, Monitor
from urlguard.control.previews import Previews
from urlguard.control.suspect_intake import SuspectIntake
from urlguard.control.verdict_pool import BusyError, VerdictPool
from urlguard.control.worker_queries import WorkerQueries
from urlguard.control.workers import Worker, Workers
from urlguard.errors import PolicyError, UrlGuardError
from urlguard.fetch import signing
from urlguard.hitlog.files import HitLog
from urlguard.policy.location import log_location, open_log
from urlguard.policy.log import PolicyLog
from urlguard.policy.model import Change
from urlguard.processes import channel, child
from urlguard.processes.channel import Message
from urlguard.publish.rpz import primary

T = TypeVar("T")

ACK_S = 2.0  # how long a command waits until every worker has confirmed
LOG_EVERY_S = 60.0  # for the same trouble with the log
POLL_S = 0.25  # how often to look for commits of other processes and for expired claims
COMPILE_KEYS = 5_000  # an overlay of this size is compiled at once,
COMPILE_AFTER_S = 600.0  # a smaller one after this long
RETRY_S = 60.0  # after a failed compile
UNUSABLE_S = 1.0  # before the next start, if the log cannot be opened
API_AFTER_S = 2.0  # workers wait for the first policy; importing aiohttp comes after it, or now


class Control:
    """The control process's state."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.snapshots = config.state_dir / "snapshots"
        self._location = log_location(config)
        compiling.refuse_a_new_log(self._location, self.snapshots)
        self.log = open_log(config)
        self.workers = Workers()
        self._asking = WorkerQueries(self.workers, config.server.workers)
        self.ready = False  # the first policy is there, or will not come
        self.facts = ControlState()
        self._begun = asyncio.Event()  # set with `ready`
        self._database = ThreadPoolExecutor(1, "policy-log")
        self._feeding = FeedRefresher(config, self.log, self._in_log)
        self._push = asyncio.Lock()
        self._compiling: asyncio.Task[None] | None = None
        self._stopping = False
        self._compiled_at = time.monotonic()
        self._compile_failed_at = -RETRY_S
        self._foreign: set[str] = set()  # snapshots of another history that workers may have
        self._tasks: list[asyncio.Task[None]] = []
        self._rpz: primary.Primary | None = None
        self._connections: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self._hits = HitLog(
            config.state_dir,
            config.hits,
            keyed=config.dnstap.socket is not None,
            changed=self.workers.send,
        )
        self._signing = Checkpoints(config)
        self._judges = VerdictPool(config)
        self._fetcher = FetchPool(config)
        self._casework = Casework(
            config.state_dir,
            check=partial(self._judges.check, score=True),
            busy=BusyError,
            commit=self._decide,
            read=self._read_log,
            weigh=self._asking.weigh,
            limits=Limits(backlog=config.cases.backlog),
            post=self._post,
            sign=signing.sign,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set."""
        path = channel.socket_path(self.config.state_dir)
        server = await asyncio.start_unix_server(
            self._connected, sock=channel.listen(path), limit=channel.MAX_LINE
        )
        self._rpz = await primary.start(self.config)
        async with server:
            self._tasks = [
                asyncio.create_task(self._first_policy()),
                asyncio.create_task(self._watch()),
                asyncio.create_task(self._hits.run()),
                asyncio.create_task(self._signing.run()),
                asyncio.create_task(self._judges.run()),
                asyncio.create_task(self._fetcher.run()),
                asyncio.create_task(self._casework.run()),
                asyncio.create_task(
                    SuspectIntake(self.workers, self._judges, self._casework).run()
                ),
                asyncio.create_task(
                    CaseAddresses(self.config, self._fetcher, self._casework).run()
                ),
                asyncio.create_task(self._serve_http()),
                asyncio.create_task(asyncio.to_thread(tokens.first_start, self.config.state_dir)),
            ]
            child.report_ready()
            await stop.wait()
        self._stopping = True
        if self._rpz is not None:
            await self._rpz.stop()
        if self._compiling is not None:
            self._tasks.append(self._compiling)
        for task in self._tasks:
            task.cancel()
        # A reader whose connection is closed ends by itself.
        for writer in self._connections.values():
            writer.close()
        await asyncio.wait([*self._tasks, *self._connections], timeout=2)
        with contextlib.suppress(OSError):
            path.unlink()
        await self._signing.finish()
        self._database.shutdown(wait=True)
        self.log.close()

    async def _in_log(self, work: Callable[[], T]) -> T:
        """Run `work` on the log's one thread: it may wait for the disk or another writer."""
        return await asyncio.get_running_loop().run_in_executor(self._database, work)

    # Keeping the log in motion

    async def _first_policy(self) -> None:
        """
        Make the policy whole: snapshots of this log, feeds that were never brought in.

        Only a start without any policy waits for its feeds.  Lists that are no longer configured
        are withdrawn after their successors are there.
        """
        try:
            self._foreign = await self._in_log(lambda: compiling.foreign(self.log, self.snapshots))
            if self._foreign:
                events.warning("snapshot.foreign", replacing=sorted(self._foreign))
                await self._compile()
            if await self._feeding.nothing_imported():
                await self._feeding.bring_in_new()
                await self._compile()
            elif not snapshot.newest(self.snapshots):
                await self._compile()
        except UrlGuardError as exc:
            events.error("policy.first", error=str(exc), using="what there is")
        self.ready = True
        self._begun.set()
        os.nice(5)  # from now on, answering queries comes first
        try:
            await self.push()
            await self._feeding.bring_in_new()
            await self._feeding.end_unconfigured()
            await self.push()
        except UrlGuardError as exc:
            events.error("policy.first", error=str(exc), using="what there is")
        for feed in self._feeding.feeds:
            if feed.refresh_s:
                fresh = self._feeding.keep_fresh(feed, self.push)
                self._tasks.append(asyncio.create_task(fresh))

    async def _watch(self) -> None:
        """End expired claims, and notice what other processes committed."""
        token: Hashable = None
        newest = None
        throttle = events.Throttle(LOG_EVERY_S)
        while True:
            try:
                await self._in_log(self.log.store.check_identity)
                due = await self._in_log(self._expire)
                found_token = await self._in_log(self.log.store.change_token)
                found = snapshot.newest(self.snapshots)[:1]
                if due or found_token != token or found != newest:
                    token, newest = found_token, found
                    await self.push()
            except Exception as exc:  # whatever it is, the next look may succeed
                if throttle.due():
                    error = str(exc) if isinstance(exc, UrlGuardError) else repr(exc)
                    events.error("policy.watch", error=error, using="last_good")
            await asyncio.sleep(POLL_S)

    def _expire(self) -> int:
        due = self.log.store.next_expiry()
        if due is None or due > time.time():
            return 0
        return len(self.log.expire())

    async def _compile(self) -> None:
        await self._in_log(self.log.store.check_identity)
        started = time.monotonic()
        url = self._location.url.encode()
        if await child.run_command(compiling.command(self.snapshots), url) != 0:
            self.facts.compile_failures += 1
            raise PolicyError("compile failed; the snapshot in use stays")
        self._compiled_at = time.monotonic()
        self.facts.compile_seconds = self._compiled_at - started
        events.info("snapshot.compiled", seconds=round(self._compiled_at - started, 2))

    async def _compile_and_push(self) -> None:
        try:
            await self._compile()
        except Exception as exc:
            events.error("snapshot.failed", error=str(exc), using="last_good")
            self._compile_failed_at = time.monotonic()
        finally:
            self._compiling = None
        with contextlib.suppress(UrlGuardError):  # the next look will tell
            await self.push()

    def _compile_soon(self) -> None:
        waited = time.monotonic() - self._compile_failed_at
        if self._compiling is None and waited >= RETRY_S and not self._stopping:
            self._compiling = asyncio.create_task(self._compile_and_push())

    # Keeping the workers up to date

    async def push(self) -> int:
        """Send every worker what it lacks; returns the serial that they are brought to."""
        if self._rpz is not None:
            self._rpz.changed()
        async with self._push:
            newest = next(iter(snapshot.newest(self.snapshots)), None)
            base = snapshot.serial_of(newest) if newest else 0
            serial = await self._in_log(lambda: self.log.serial)
            self.facts.snapshot_serial = base
            self.workers.measure(serial)
            for worker in self.workers:
                if newest and newest.name != worker.snapshot:
                    foreign = worker.snapshot in self._foreign or worker.acked > serial
                    worker.snapshot, worker.sent = newest.name, base
                    worker.send({"op": "snapshot", "path": str(newest), "anew": foreign})
            lacking = min((w.sent for w in self.workers), default=serial)
            await self._send_changes(lacking, serial)
            for worker in self.workers:
                if self.ready and not worker.told_ready:
                    worker.told_ready = True
                    worker.send({"op": "ready", "serial": serial})
            pending = await self._in_log(lambda: self.log.store.count_effects(base))
            self.facts.overlay_keys = pending
            patterns = await self._in_log(lambda: self.log.store.count_effects(base, "pattern"))
            waited = time.monotonic() - self._compiled_at
            if self.ready and (
                pending >= COMPILE_KEYS
                or patterns > overlay.MAX_PATTERNS
                or (pending and waited > COMPILE_AFTER_S)
            ):
                self._compile_soon()
            return serial

    async def _send_changes(self, lacking: int, serial: int) -> None:
        if lacking >= serial or not self.workers:
            return
        if await self._in_log(lambda: self.log.store.count_effects(lacking)) > overlay.MAX_KEYS:
            # Too much for every worker to keep beside its snapshot: the next one brings it.
            if self.ready:
                self._compile_soon()
            await self._send_urgent(serial)
            return
        changes = await self._in_log(lambda: list(self.log.store.changes(lacking)))
        for worker in self.workers:
            mine = [[key, after] for key, after, at in changes if at > worker.sent]
            parts = [mine[i : i + channel.CHUNK] for i in range(0, len(mine), channel.CHUNK)]
            for part in parts[:-1]:
                worker.send({"op": "change", "changes": part})
            last = parts[-1] if parts else []
            worker.send({"op": "change", "changes": last, "serial": serial})
            worker.sent = serial

    async def _send_urgent(self, serial: int) -> None:
        """
        Send people's decisions to workers that a large change keeps behind.

        They do not move a worker's serial: it keeps them until its snapshot has reached `serial`.
        """
        for worker in self.workers:
            since = worker.sent
            if since >= serial:
                continue
            decided = await self._in_log(partial(self._decided, since))
            for i in range(0, len(decided), channel.CHUNK):
                part = decided[i : i + channel.CHUNK]
                worker.send({"op": "urgent", "changes": part, "serial": serial})

    def _decided(self, since: int) -> list[list[str | None]]:
        found = self.log.store.decided(since, overlay.MAX_KEYS)
        return [[key, after] for key, after in found]

    # Telling how things are

    async def _serve_http(self) -> None:
        """Serve ``[api]``; what goes wrong there must not stop the rest."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._begun.wait(), API_AFTER_S)
        observer = Monitor(self.config, self.workers, self.log, self._in_log, self._facts)
        try:
            # In a thread: the import takes a good part of a second, and decisions go on meanwhile.
            server = await asyncio.to_thread(importlib.import_module, "urlguard.api.server")
            api = server.of(
                self.config,
                observer,
                deciding=self._decide,
                judging=self._judges,
                casework=self._casework,
                previewing=Previews(self.config, self._asking.sample),
                proving=self._fetcher,
            )
            await api.run()
        except Exception as exc:
            events.error("api.unavailable", address=str(self.config.api.listen), error=repr(exc))
        finally:
            await observer.close()

    def _facts(self) -> ControlState:
        self.facts.ready = self.ready
        self.facts.hit_rows = self._hits.written
        self.facts.hits_dropped = self._hits.dropped
        self.facts.waiting = self._casework.waiting
        return self.facts

    # Connections

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection's callback runs in a task")
        self._connections[task] = writer
        try:
            while (message := await channel.read(reader)) is not None:
                if message.get("op") == "hello":
                    await self._worker(message, reader, writer)
                    break
                writer.write(channel.encode(await self._answer(message)))
                await writer.drain()
        except (
            *(ValueError, KeyError, TypeError, ArithmeticError),
            *(RecursionError, ConnectionError, UrlGuardError),
        ) as exc:
            events.warning("control.bad_message", error=str(exc)[:200])
        finally:
            del self._connections[task]
            writer.close()

    async def _worker(
        self, hello: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        worker = Worker(int(hello["worker"]), int(hello["serial"]), str(hello["snapshot"]), writer)
        self.workers.add(worker)
        if not self.ready and not snapshot.newest(self.snapshots):
            worker.send({"op": "wait"})
        if key := self._hits.key_message:
            worker.send(key)
        try:
            await self.push()
            while (message := await channel.read(reader)) is not None:
                if "id" in message:
                    worker.replied(message)
                    continue
                if message.get("op") == "hits":
                    self._hits.take(message)
                    continue
                worker.acked = int(message["serial"])
                worker.urgent = int(message.get("urgent", worker.urgent))
                if message.get("refused"):
                    # It could not open the snapshot and keeps its own: bring that one forward,
                    # and replace the bad one.
                    worker.sent = worker.acked
                    await self.push()
                    self._compile_soon()
                await self.workers.moved(worker)
        finally:
            self.workers.remove(worker)

    async def _answer(self, message: Message) -> Message:
        try:
            match message.get("op"):
                case "apply":
                    return await self._apply(message)
                case "sync":
                    return await self._synced(await self.push())
                case "status":
                    return {
                        "ready": self.ready,
                        "serial": await self._in_log(lambda: self.log.serial),
                        "workers": {str(worker.number): worker.acked for worker in self.workers},
                    }
                case "flush":
                    return await self._asking.flush(
                        message.get("names", []), bool(message.get("all"))
                    )
                case "grey":
                    return await self._asking.grey(int(message["count"]))
                case "sample":
                    found = await self._asking.sample(message["rules"], str(message["source"]))
                    return {"sample": found}
                case other:
                    known = "apply, sync, status, flush, grey, sample"
                    return {"error": f"operation {other!r}; known: {known}"}
        except (UrlGuardError, KeyError, TypeError, ValueError) as exc:
            return {"error": str(exc)}

    async def _apply(self, message: Message) -> Message:
        changes = [Change(*change) for change in message["changes"]]
        source, actor, reason = (str(message[k]) for k in ("source", "actor", "reason"))
        batch = await self._in_log(
            lambda: self.log.commit(source, changes, actor=actor, reason=reason)
        )
        synced = await self._synced(await self.push())
        return {
            **synced,
            "batch": batch.serial if batch else synced["serial"],
            "changed": bool(batch),
            "effects": len(batch.effects) if batch else 0,
        }

    async def _decide(
        self, source: str, changes: Sequence[Change], *, actor: str, reason: str
    ) -> Decided:
        """What somebody decides through the API: in force on return, as by a command."""
        said = {"source": source, "changes": changes, "actor": actor, "reason": reason}
        done = await self._apply(said)
        return Decided(done["batch"], done["changed"], done["in_force"], done["workers"])

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Send a webhook; the status of the answer."""
        return (await self._fetcher.post_webhook(url, body, headers)).status

    async def _read_log(self, work: Callable[[PolicyLog], T]) -> T:
        """What `work` finds in the log, all of it of one serial."""

        def read() -> T:
            with self.log.store.reading():
                return work(self.log)

        return await self._in_log(read)

    async def _synced(self, serial: int) -> Message:
        count = self.config.server.workers
        acked = await self.workers.wait_for(serial, count, ACK_S)
        return {"serial": serial, "workers": count, "in_force": acked}


def main() -> None:
    """Entry point of the control process."""
    config: Config = child.read_startup()
    events.bind(role="control")
    child.request_short_time_slice()
    try:
        control = Control(config)
    except PolicyError as exc:
        # The supervisor starts the next one; meanwhile workers go on with what they have.
        events.error("policy.unusable", error=str(exc), using="last_good")
        time.sleep(UNUSABLE_S)
        sys.exit(1)
    child.main_loop(control.run)


if __name__ == "__main__":
    main()
