"""
The supervisor: it opens the sockets, starts the other processes and starts them again.

It holds the listening sockets for as long as the server runs, so queries that arrive while a worker
restarts wait in the kernel and are answered.  Children are spawned as fresh interpreters, never
forked; one that ends is started again, and one that falls silent is killed first.  On SIGHUP it
reads the configuration anew and hands it to them.  Knows processes and sockets; knows nothing of
names and rules.
"""

import asyncio
import contextlib
import dataclasses
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

from urlguard import config as configuration
from urlguard import events
from urlguard.config import Config, Endpoint
from urlguard.errors import ConfigError
from urlguard.processes import child as process
from urlguard.server import reload, systemd
from urlguard.server.sockets import descriptors, open_sockets
from urlguard.worker.worker import DRAIN_S, Orders

WORKER = "urlguard.worker.worker"
CONTROL = "urlguard.control.control"

HANG_S = 15.0  # a child at work that has been silent for this long is killed
START_S = 120.0  # one that is not at work yet: it may be reading a large log
RELOAD_S = 5.0  # how long a reload waits for the workers, and for the control process to be back

_QUICK_S = 1.0  # a child that died sooner than this after its start
_MAX_DELAY_S = 10.0  # between starts of a child that keeps dying
_GRACE_S = 5.0  # for a killed child to be gone; after that systemd is told nothing
_LOOK_S = 1.0  # between two looks at the children
_RESTARTED = "restarted"  # the answer of a child that died: it starts on the new orders


class _Child:
    """One child process, and what it takes to start it again."""

    def __init__(self, name: str, module: str, orders: Any, descriptors: tuple[int, ...]) -> None:
        self.name = name
        self.orders = orders  # for the next start
        self.ready = asyncio.Event()  # it has been at work once
        self.process: asyncio.subprocess.Process | None = None
        self._module = module
        self._descriptors = descriptors
        self._limit = START_S
        self._heard = 0.0  # when it last gave a sign of life, or was started
        self._alive = asyncio.Event()  # the one that runs now has given one
        self._hung = False  # it was killed for having given none
        self._replaced = False  # it ends because we want it to
        self._told = 0  # the number of the last later order
        self._answer: asyncio.Future[str] | None = None

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
            self._gone()
            if stop.is_set():
                return
            if self._replaced:
                self._replaced = False
                delay = 0.0
                continue
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
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("a child was started without pipes")
        # No waiting between these: later orders come after the first ones.
        child.stdin.write(process.orders(self.orders))
        self._limit, self._heard, self._hung = START_S, time.monotonic(), False
        self.process = child
        while True:
            try:
                line = await child.stdout.readline()
            except ValueError:
                continue  # no line of ours: a plugin from outside printed something endless
            if not line:
                return await child.wait()
            self._hear(line)

    def _hear(self, line: bytes) -> None:
        self._heard = time.monotonic()
        if not self._replaced:
            self._alive.set()
        if line == process.READY:
            self._limit = HANG_S
            self.ready.set()
        for word in (process.RELOADED, process.REFUSED):
            if line.startswith(word):
                number, _, why = line.removeprefix(word).decode(errors="replace").partition(" ")
                # Number 0: it could not even read which one it was.
                if number.strip() in (str(self._told), "0"):
                    self._answered(why.strip() or "refused" if word == process.REFUSED else "")

    def _answered(self, answer: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def _gone(self) -> None:
        self.process = None
        self._alive.clear()
        self._answered(_RESTARTED)

    def tell(self, orders: Any) -> "asyncio.Future[str] | None":
        """
        Hand over new orders, now if it runs and at its next start.

        Returns:
            Its answer to come: empty once it has taken them over, or why it did not.  None if it is
            not at work, and so has nothing to take over yet.
        """
        self.orders = orders
        child = self.process
        if child is None or child.stdin is None:
            return None
        self._told += 1
        child.stdin.write(process.later_orders(self._told, orders))
        if self._limit != HANG_S:
            return None
        self._answer = asyncio.get_running_loop().create_future()
        return self._answer

    async def replace(self, orders: Any) -> None:
        """Have it end in good order and start on new orders; returns once it gives signs again."""
        self.orders = orders
        child = self.process
        if child is not None:
            self._replaced = True
            self.signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(child.wait(), DRAIN_S + 2)
            except TimeoutError:
                events.warning("server.killed_late_processes", count=1)
                self.signal(signal.SIGKILL)
                await child.wait()
            self._alive.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._alive.wait(), RELOAD_S)

    def look(self, now: float) -> bool:
        """Kill it if it is silent for too long; False if that did not help."""
        if self.process is None or self._replaced:
            return True
        silent = now - self._heard
        if silent > self._limit and not self._hung:
            self._hung = True
            events.error(
                "process.hung", process=self.name, silent_s=round(silent, 1), limit_s=self._limit
            )
            self.signal(signal.SIGKILL)
        return silent <= self._limit + _GRACE_S

    def pardon(self, now: float) -> None:
        """Begin to count its silence anew."""
        self._heard = now

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)


class Supervisor:
    """
    A running server.

    ``config`` is the configuration in force: after a reload, the new one with the keys that need a
    restart as they were.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.addresses: list[Endpoint] = []
        self._sockets: list[list[tuple[socket.socket, socket.socket]]] = []
        self._lock: int | None = None
        self._systemd = systemd.Notifier(os.environ)
        self._reload = asyncio.Event()
        self._terminal = _has_terminal()
        self._workers: list[_Child] = []
        self._control = _Child("control", CONTROL, config, ())

    def open(self) -> None:
        """
        Take the state folder and all addresses.

        Raises:
            ConfigError: another server has them, or they cannot be had.
        """
        # Until the loop runs; by default it would end the server.
        signal.signal(signal.SIGHUP, lambda *_: self._reload.set())
        _raise_descriptor_limit(self.config)
        self._lock = _lock(self.config.state_dir)
        for where in self.config.server.listen:
            pairs = open_sockets(where, self.config.server.workers)
            self._sockets.append(pairs)
            self.addresses.append(Endpoint(where.host, pairs[0][0].getsockname()[1]))

    async def run(self, on_ready: Callable[[], None]) -> None:
        """
        Run until SIGTERM or SIGINT; `on_ready` is called when every worker answers.

        SIGHUP reloads the configuration, at any time.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up, stop)
        self._systemd.status("starting")
        self._workers = [self._worker(number) for number in range(self.config.server.workers)]
        children = [self._control, *self._workers]
        keeping = [asyncio.create_task(child.keep(stop)) for child in children]
        beside = [
            asyncio.create_task(self._watch(children)),
            asyncio.create_task(self._reloads()),
        ]
        stopping = asyncio.create_task(stop.wait())
        for child in self._workers:
            ready = asyncio.create_task(child.ready.wait())
            await asyncio.wait([ready, stopping], return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
        if not stop.is_set():
            on_ready()
            self._systemd.ready(self._status())
        await stopping
        self._systemd.stopping()
        for task in beside:
            task.cancel()
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
        return _Child(f"worker {number}", WORKER, orders, flat)

    def _status(self) -> str:
        where = ", ".join(str(address) for address in self.addresses)
        return f"answers DNS on {where} with {len(self._workers)} workers"

    # Watching

    async def _watch(self, children: list[_Child]) -> None:
        """Look after silent children, and tell systemd that somebody does."""
        wanted = self._systemd.watchdog_s
        every = min(_LOOK_S, HANG_S / 4, wanted / 3 if wanted else _LOOK_S)
        last = time.monotonic()
        while True:
            await asyncio.sleep(every)
            now = time.monotonic()
            if now - last > every + _GRACE_S:
                # We slept ourselves: the machine, or this process, was stopped.
                for child in children:
                    child.pardon(now)
            last = now
            fine = [child.look(now) for child in children]
            if wanted and all(fine):
                self._systemd.alive()

    # Reloading

    def _hung_up(self, stop: asyncio.Event) -> None:
        if self._terminal and not _has_terminal():
            stop.set()  # the window that it ran in was closed
        else:
            self._reload.set()

    async def _reloads(self) -> None:
        """One reload at a time; signals that come during one make one more after it."""
        while True:
            await self._reload.wait()
            self._reload.clear()
            self._systemd.reloading()
            try:
                status = await self._reload_once()
            except Exception as exc:  # whatever it is, the server goes on as it was
                problems = exc.problems if isinstance(exc, ConfigError) else [repr(exc)]
                events.error("config.refused", problems=problems, using="the one before")
                status = f"the configuration in force is the one before: {'; '.join(problems)}"
            if all(child.ready.is_set() for child in self._workers):
                self._systemd.ready(status)
            else:
                self._systemd.status("starting")

    async def _reload_once(self) -> str:
        """
        Read the configuration again and put it in force.

        Raises:
            ConfigError: it is wrong; nothing was changed.
        """
        started = time.monotonic()
        # In threads: the children's signs of life are heard meanwhile.
        read = await asyncio.to_thread(configuration.load, self.config.path)
        changed = reload.differences(self.config, read)
        config = reload.in_force(self.config, read)
        for text in await asyncio.to_thread(reload.examine, config):
            events.warning("config.warning", warning=text)
        self.config = config
        self._permit_descriptors()
        answers = {
            child: child.tell(dataclasses.replace(child.orders, config=config))
            for child in self._workers
        }
        at_work = {child: answer for child, answer in answers.items() if answer is not None}
        if at_work:
            await asyncio.wait(at_work.values(), timeout=RELOAD_S)
        swapped = 0
        for child, answer in at_work.items():
            if not answer.done():
                events.warning("config.late", process=child.name, waited_s=RELOAD_S)
            elif answer.result() in ("", _RESTARTED):
                swapped += 1
            else:
                events.error("config.not_taken", process=child.name, error=answer.result())
        events.info(
            "config.reloaded",
            changed=[str(d) for d in changed if not d.restart],
            at_restart=[str(d) for d in changed if d.restart],
            workers=f"{swapped} of {len(self._workers)}",
            took_ms=round((time.monotonic() - started) * 1000),
        )
        await self._control.replace(config)
        return self._status()

    def _permit_descriptors(self) -> None:
        """Let the running children have as many open files as the new configuration needs."""
        _raise_descriptor_limit(self.config)
        for child in self._workers:
            if child.process is not None:
                with contextlib.suppress(OSError, ValueError):
                    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
                    resource.prlimit(child.process.pid, resource.RLIMIT_NOFILE, limit)

    def close(self) -> None:
        """Close the sockets and leave the state folder."""
        for pairs in self._sockets:
            for udp, tcp in pairs:
                udp.close()
                tcp.close()
        if self._lock is not None:
            os.close(self._lock)


def _has_terminal() -> bool:
    """Whether this process belongs to a terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _raise_descriptor_limit(config: Config) -> None:
    """Permit each child as many open files as the machine does: every TCP connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = descriptors(config)
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
