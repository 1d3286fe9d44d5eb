"""
The control process's Unix socket: connections of workers, and what commands ask.

A connection whose first message is ``hello`` is a worker's and stays; any other is a command's, and
each of its messages gets one reply.  Knows the channel and the operations; the answers come from
the policy push and the workers.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Final

from urlguard import events
from urlguard.control.log_thread import LogThread
from urlguard.control.monitor import ControlState
from urlguard.control.policy_push import PolicyPush
from urlguard.control.worker_queries import WorkerQueries
from urlguard.control.workers import WorkerConnection, Workers
from urlguard.errors import UrlGuardError
from urlguard.hitlog.files import HitLog
from urlguard.policy.model import Change
from urlguard.processes import channel
from urlguard.processes.channel import Message

OPERATIONS: Final = "apply, sync, status, flush, suspects, sample"


class CommandSocket:
    """
    Serves the socket.

    Args:
        path: of the socket; one that a killed process left is replaced.
        workers: connections are added here.
        queries: asks all workers.
        push: commits, and brings workers up to date.
        log: the policy log.
        hits: receives the workers' hits.
        state: of the control process.
    """

    def __init__(
        self,
        path: Path,
        *,
        workers: Workers,
        queries: WorkerQueries,
        push: PolicyPush,
        log: LogThread,
        hits: HitLog,
        state: ControlState,
    ) -> None:
        self._path = path
        self._workers = workers
        self._queries = queries
        self._push = push
        self._log = log
        self._hits = hits
        self._state = state
        self._connections: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    async def listen(self) -> asyncio.Server:
        """
        Begin to accept connections.

        Raises:
            OSError: the socket cannot be bound.
        """
        return await asyncio.start_unix_server(
            self._connected, sock=channel.listen(self._path), limit=channel.MAX_LINE
        )

    def close(self) -> list[asyncio.Task[Any]]:
        """Close all connections and remove the socket; the tasks returned end by themselves."""
        for writer in self._connections.values():
            writer.close()
        with contextlib.suppress(OSError):
            self._path.unlink()
        return list(self._connections)

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
                writer.write(channel.encode(await self._reply(message)))
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
        worker = WorkerConnection(
            int(hello["worker"]), int(hello["serial"]), str(hello["snapshot"]), writer
        )
        self._workers.add(worker)
        if not self._state.ready and not self._push.has_snapshot():
            worker.send({"op": "wait"})
        if key := self._hits.key_message:
            worker.send(key)
        try:
            await self._push.push()
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
                    await self._push.refused(worker)
                await self._workers.moved(worker)
        finally:
            self._workers.remove(worker)

    async def _reply(self, message: Message) -> Message:
        try:
            match message.get("op"):
                case "apply":
                    return await self._apply(message)
                case "sync":
                    return (await self._push.sync())._asdict()
                case "status":
                    return {
                        "ready": self._state.ready,
                        "serial": await self._log.run(lambda: self._log.log.serial),
                        "workers": {str(worker.number): worker.acked for worker in self._workers},
                    }
                case "flush":
                    names, everything = message.get("names", []), bool(message.get("all"))
                    return await self._queries.flush(names, everything)
                case "suspects":
                    return await self._queries.suspects(int(message["count"]))
                case "sample":
                    rules, source = message["rules"], str(message["source"])
                    return {"sample": await self._queries.sample(rules, source)}
                case other:
                    return {"error": f"operation {other!r}; known: {OPERATIONS}"}
        except (UrlGuardError, KeyError, TypeError, ValueError) as exc:
            return {"error": str(exc)}

    async def _apply(self, message: Message) -> Message:
        changes = [Change(*change) for change in message["changes"]]
        source, actor, reason = (str(message[k]) for k in ("source", "actor", "reason"))
        done = await self._push.commit(source, changes, actor=actor, reason=reason)
        return {
            **done.synced._asdict(),
            "batch": done.batch,
            "changed": done.changed,
            "effects": done.effects,
        }
