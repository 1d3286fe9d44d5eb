"""
The supervisor: opens the sockets, starts the other processes and restarts them.

It holds the listening sockets for as long as the server runs, so queries that arrive while a worker
restarts wait in the kernel and are answered.  Children are spawned as fresh interpreters, never
forked.  A child that ends is restarted; one that sends no heartbeat is killed first.  SIGHUP
reloads the configuration and sends it to the children.  Knows processes and sockets; knows nothing
of names and rules.
"""

import asyncio
import contextlib
import dataclasses
import fcntl
import itertools
import os
import resource
import signal
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
from urlguard.server.sockets import Bound, descriptors, open_sockets
from urlguard.worker.worker import DRAIN_S, Startup

WORKER = "urlguard.worker.worker"
CONTROL = "urlguard.control.control"

HANG_S = 15.0  # without a heartbeat, after which a child that has started is killed
START_S = 120.0  # the same for one that is still starting: it may be reading a large log
RELOAD_S = 5.0  # how long a reload waits for the workers, and for the control process to be back

_QUICK_S = 1.0  # a child that died sooner than this after its start is restarted after a delay
_MAX_DELAY_S = 10.0  # between starts of a child that keeps dying
_GRACE_S = 5.0  # for a killed child to be gone; after that systemd gets no heartbeat either
_CHECK_S = 1.0  # between two checks of the children's heartbeats
_RESTARTED = "restarted"  # the reply of a child that died: it restarts with the update


class _Child:
    """One child process, kept running; ``startup`` is its startup message."""

    def __init__(self, name: str, module: str, startup: Any, descriptors: tuple[int, ...]) -> None:
        self.name = name
        self.startup = startup
        self.ready = asyncio.Event()  # has started at least once
        self.process: asyncio.subprocess.Process | None = None
        self._module = module
        self._descriptors = descriptors
        self._limit = START_S
        self._last_heartbeat = 0.0  # or the start; monotonic
        self._alive = asyncio.Event()  # the running process has sent a heartbeat
        self._hung = False  # it was killed for sending none
        self._restarting = False  # `restart` ends it
        self._update_number = 0  # of the last update
        self._reply: asyncio.Future[str] | None = None

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
            self._ended()
            if stop.is_set():
                return
            if self._restarting:
                self._restarting = False
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
            # Ctrl-C at a terminal goes to the supervisor alone, which stops its children in order;
            # one that still imports would answer it with a traceback.
            start_new_session=True,
        )
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("a child was started without pipes")
        # No await between these: updates come after the startup message.
        child.stdin.write(process.startup_message(self.startup))
        self._limit, self._last_heartbeat, self._hung = START_S, time.monotonic(), False
        self.process = child
        while True:
            try:
                line = await child.stdout.readline()
            except ValueError:
                continue  # not our protocol: a third-party plugin printed an endless line
            if not line:
                return await child.wait()
            self._received(line)

    def _received(self, line: bytes) -> None:
        self._last_heartbeat = time.monotonic()
        if not self._restarting:
            self._alive.set()
        if line == process.READY:
            self._limit = HANG_S
            self.ready.set()
        for word in (process.RELOADED, process.REFUSED):
            if line.startswith(word):
                number, _, why = line.removeprefix(word).decode(errors="replace").partition(" ")
                # Number 0: the child could not even read the number.
                if number.strip() in (str(self._update_number), "0"):
                    reason = why.strip() or "refused"
                    self._replied(reason if word == process.REFUSED else "")

    def _replied(self, reply: str) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(reply)

    def _ended(self) -> None:
        self.process = None
        self._alive.clear()
        self._replied(_RESTARTED)

    def update(self, startup: Any) -> "asyncio.Future[str] | None":
        """
        Send an update to the running child, and use it for the next start.

        Returns:
            The reply to come: empty if the update is in force, else the reason for its refusal.
            None if the child is still starting.
        """
        self.startup = startup
        child = self.process
        if child is None or child.stdin is None:
            return None
        self._update_number += 1
        child.stdin.write(process.update_message(self._update_number, startup))
        if self._limit != HANG_S:
            return None
        self._reply = asyncio.get_running_loop().create_future()
        return self._reply

    async def restart(self, startup: Any) -> None:
        """Shut the child down and restart it; returns at its first heartbeat."""
        self.startup = startup
        child = self.process
        if child is not None:
            self._restarting = True
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

    def check_heartbeat(self, now: float) -> bool:
        """Kill the child if its heartbeat is overdue; False if it is still not gone after that."""
        if self.process is None or self._restarting:
            return True
        silent = now - self._last_heartbeat
        if silent > self._limit and not self._hung:
            self._hung = True
            events.error(
                "process.hung", process=self.name, silent_s=round(silent, 1), limit_s=self._limit
            )
            self.signal(signal.SIGKILL)
        return silent <= self._limit + _GRACE_S

    def reset_heartbeat(self, now: float) -> None:
        """Count the time without a heartbeat from now on."""
        self._last_heartbeat = now

    def signal(self, number: int) -> None:
        """Send a signal, if the child still runs."""
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
        self._sockets: list[list[list[Bound]]] = []  # by address and worker
        self._lock: int | None = None
        self._systemd = systemd.Notifier(os.environ)
        self._reload = asyncio.Event()
        self._terminal = _has_terminal()
        self._workers: list[_Child] = []
        self._control = _Child("control", CONTROL, config, ())

    def open(self) -> None:
        """
        Lock the state folder and bind all addresses.

        Raises:
            ConfigError: another server holds them, or the system refuses.
        """
        # Until the loop runs: by default SIGHUP would end the server.
        signal.signal(signal.SIGHUP, lambda *_: self._reload.set())
        _raise_descriptor_limit(self.config)
        self._lock = _lock(self.config.state_dir)
        for where in self.config.server.listen:
            opened = open_sockets(where, self.config.server.workers)
            self._sockets.append(opened)
            _, first = opened[0][0]
            self.addresses.append(Endpoint(where.host, first.getsockname()[1]))

    async def run(self, on_ready: Callable[[], None]) -> None:
        """
        Run until SIGTERM or SIGINT; `on_ready` is called when every worker answers.

        SIGHUP reloads the configuration, at any time.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup, stop)
        self._systemd.status("starting")
        self._workers = [self._worker(number) for number in range(self.config.server.workers)]
        children = [self._control, *self._workers]
        kept = [asyncio.create_task(child.keep(stop)) for child in children]
        tasks = [
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
        for task in tasks:
            task.cancel()
        for child in children:
            child.signal(signal.SIGTERM)
        _, late = await asyncio.wait(kept, timeout=DRAIN_S + 2)
        if late:
            events.warning("server.killed_late_processes", count=len(late))
            for child in children:
                child.signal(signal.SIGKILL)
            await asyncio.wait(late, timeout=2)

    def _worker(self, number: int) -> _Child:
        sockets = tuple(
            (transport, sock.fileno())
            for workers in self._sockets
            for transport, sock in workers[number]
        )
        startup = Startup(self.config, number, sockets)
        descriptors = tuple(descriptor for _, descriptor in sockets)
        return _Child(f"worker {number}", WORKER, startup, descriptors)

    def _status(self) -> str:
        where = ", ".join(str(address) for address in self.addresses)
        return f"answers DNS on {where} with {len(self._workers)} workers"

    # Watching

    async def _watch(self, children: list[_Child]) -> None:
        """Check the children's heartbeats, and send systemd's watchdog one while all are alive."""
        wanted = self._systemd.watchdog_s
        every = min(_CHECK_S, HANG_S / 4, wanted / 3 if wanted else _CHECK_S)
        last = time.monotonic()
        while True:
            await asyncio.sleep(every)
            now = time.monotonic()
            if now - last > every + _GRACE_S:
                # This process was suspended, or the machine was: the children may be alive.
                for child in children:
                    child.reset_heartbeat(now)
            last = now
            alive = [child.check_heartbeat(now) for child in children]
            if wanted and all(alive):
                self._systemd.heartbeat()

    # Reloading

    def _on_hangup(self, stop: asyncio.Event) -> None:
        if self._terminal and not _has_terminal():
            stop.set()  # its terminal was closed
        else:
            self._reload.set()

    async def _reloads(self) -> None:
        """Reload on each SIGHUP, one after the other; those during a reload make one more."""
        while True:
            await self._reload.wait()
            self._reload.clear()
            self._systemd.reloading()
            try:
                status = await self._reload_once()
            except Exception as exc:  # whatever it is, the configuration in force stays
                problems = exc.problems if isinstance(exc, ConfigError) else [repr(exc)]
                events.error("config.refused", problems=problems, using="the one before")
                status = f"the configuration in force is the one before: {'; '.join(problems)}"
            if all(child.ready.is_set() for child in self._workers):
                self._systemd.ready(status)
            else:
                self._systemd.status("starting")

    async def _reload_once(self) -> str:
        """
        Read the configuration file again and put it in force.

        Returns:
            The status line for systemd.

        Raises:
            ConfigError: the configuration is invalid; the one in force stays.
        """
        started = time.monotonic()
        # In threads: heartbeats are read meanwhile.
        read = await asyncio.to_thread(configuration.load, self.config.path)
        changed = reload.differences(self.config, read)
        config = reload.in_force(self.config, read)
        for text in await asyncio.to_thread(reload.examine, config):
            events.warning("config.warning", warning=text)
        self.config = config
        self._permit_descriptors()
        replies = {
            child: reply
            for child in self._workers
            if (reply := child.update(dataclasses.replace(child.startup, config=config)))
        }
        if replies:
            await asyncio.wait(replies.values(), timeout=RELOAD_S)
        reloaded = 0
        for child, reply in replies.items():
            if not reply.done():
                events.warning("config.late", process=child.name, waited_s=RELOAD_S)
            elif reply.result() in ("", _RESTARTED):
                reloaded += 1
            else:
                events.error("config.not_taken", process=child.name, error=reply.result())
        events.info(
            "config.reloaded",
            changed=[str(d) for d in changed if not d.restart],
            at_restart=[str(d) for d in changed if d.restart],
            workers=f"{reloaded} of {len(self._workers)}",
            took_ms=round((time.monotonic() - started) * 1000),
        )
        await self._control.restart(config)
        return self._status()

    def _permit_descriptors(self) -> None:
        """Raise the running workers' limit of open files to what the new configuration needs."""
        _raise_descriptor_limit(self.config)
        for child in self._workers:
            if child.process is not None:
                with contextlib.suppress(OSError, ValueError):
                    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
                    resource.prlimit(child.process.pid, resource.RLIMIT_NOFILE, limit)

    def close(self) -> None:
        """Close the sockets and unlock the state folder."""
        for workers in self._sockets:
            for _, sock in itertools.chain.from_iterable(workers):
                sock.close()
        if self._lock is not None:
            os.close(self._lock)


def _has_terminal() -> bool:
    """Whether this process still has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _raise_descriptor_limit(config: Config) -> None:
    """Raise the limit of open files as far as the system permits, if `config` needs more."""
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
    """Lock `state_dir` for this process; the kernel unlocks it however the process ends."""
    try:
        # Reasons and evidence in the log may be sensitive.
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
