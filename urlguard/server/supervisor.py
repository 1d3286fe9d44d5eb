"""
The supervisor: it opens the sockets, starts the other processes and starts them again.

It holds the listening sockets for as long as the server runs, so queries that arrive while a worker
restarts wait in the kernel and are answered.  Children are spawned as fresh interpreters, never
forked.  Knows processes and sockets; knows nothing of names and rules.
"""

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from urlguard import events
from urlguard.config import Config, Endpoint
from urlguard.errors import ConfigError
from urlguard.server import process
from urlguard.server.sockets import open_sockets
from urlguard.server.worker import DRAIN_S, Orders

_QUICK_S = 1.0  # a child that died sooner than this after its start
_OTHER_DESCRIPTORS = 512  # of a worker: sockets to upstreams, files, pipes
_MAX_DELAY_S = 10.0  # between starts of a child that keeps dying


class _Child:
    """One child process, and what it takes to start it again."""

    def __init__(self, name: str, module: str, orders: Any, descriptors: tuple[int, ...]) -> None:
        self.name = name
        self._module = module
        self._orders = orders
        self._descriptors = descriptors
        self.ready = asyncio.Event()
        self.process: asyncio.subprocess.Process | None = None

    async def keep(self, stop: asyncio.Event) -> None:
        """Run the child again whenever it ends, until `stop` is set."""
        delay = 0.0
        while not stop.is_set():
            started = time.monotonic()
            code: int | str
            try:
                code = await self._run()
            except OSError as exc:
                code = str(exc)  # it could not even be started
            if stop.is_set():
                return
            quick = time.monotonic() - started < _QUICK_S
            delay = min(max(delay * 2, 0.1), _MAX_DELAY_S) if quick else 0.0
            events.error(
                "process.died", process=self.name, exit=code, restarting_in_s=round(delay, 1)
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), delay)

    async def _run(self) -> int:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=self._descriptors,
        )
        self.process = child
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("a child was started without pipes")
        with contextlib.suppress(ConnectionError):
            child.stdin.write(process.orders(self._orders))
            await child.stdin.drain()
        async for line in child.stdout:
            if line == process.READY:
                self.ready.set()
        return await child.wait()

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)


class Supervisor:
    """A running server."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.addresses: list[Endpoint] = []
        self._sockets: list[list[tuple[socket.socket, socket.socket]]] = []
        self._lock: int | None = None

    def open(self) -> None:
        """
        Take the state folder and all addresses.

        Raises:
            ConfigError: another server has them, or they cannot be had.
        """
        _raise_descriptor_limit(self.config.server.tcp_connections)
        self._lock = _lock(self.config.state_dir)
        for where in self.config.server.listen:
            pairs = open_sockets(where, self.config.server.workers)
            self._sockets.append(pairs)
            self.addresses.append(Endpoint(where.host, pairs[0][0].getsockname()[1]))

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Run until SIGTERM or SIGINT; `on_ready` is called when every worker answers."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        control = _Child("control", "urlguard.server.control", self.config, ())
        workers = [self._worker(number) for number in range(self.config.server.workers)]
        children = [control, *workers]
        keeping = [asyncio.create_task(child.keep(stop)) for child in children]
        stopping = asyncio.create_task(stop.wait())
        for child in workers:
            ready = asyncio.create_task(child.ready.wait())
            await asyncio.wait([ready, stopping], return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
        if not stop.is_set():
            on_ready()
        await stopping
        for child in children:
            child.signal(signal.SIGTERM)
        _, late = await asyncio.wait(keeping, timeout=DRAIN_S + 2)
        if late:
            events.warning("server.killed_late_processes", count=len(late))
            for child in children:
                child.signal(signal.SIGKILL)
            await asyncio.wait(late, timeout=2)

    def _worker(self, number: int) -> _Child:
        pairs = [pairs[number] for pairs in self._sockets]
        numbers = tuple((udp.fileno(), tcp.fileno()) for udp, tcp in pairs)
        orders = Orders(self.config, number, numbers)
        flat = tuple(descriptor for pair in numbers for descriptor in pair)
        return _Child(f"worker {number}", "urlguard.server.worker", orders, flat)

    def close(self) -> None:
        """Close the sockets and leave the state folder."""
        for pairs in self._sockets:
            for udp, tcp in pairs:
                udp.close()
                tcp.close()
        if self._lock is not None:
            os.close(self._lock)


def _raise_descriptor_limit(connections: int) -> None:
    """Permit each child as many open files as the machine does: every TCP connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_DESCRIPTORS
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < wanted:
        events.warning(
            "server.few_descriptors",
            limit=soft,
            wanted=wanted,
            advice="raise the limit of open files, or lower [server] tcp_connections",
        )


def _lock(state_dir: Path) -> int:
    """Hold `state_dir` for this process; the kernel lets go of it however the process ends."""
    try:
        # Not for everyone: reasons and evidence in the log may be sensitive.
        state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        lock = os.open(state_dir / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise ConfigError([f"state_dir {state_dir}: {exc.strerror}; must be writable"]) from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise ConfigError(
            [f"state_dir {state_dir}: a server is running on it already, process {owner}"]
        ) from None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock
