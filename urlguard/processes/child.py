"""
The child's side of the supervisor's protocol, and commands run as children.

A child reads its startup message, a pickle, from its standard input, which stays open: updates come
the same way, and its end of file means that the supervisor is gone.  The child then ends too; else
it would go on answering beside the next server.

On its standard output a child writes one line at a time: ``ready`` once; ``alive`` every second
from a timer of its event loop, so that a loop that hangs sends no heartbeat; and ``reloaded N`` or
``refused N reason`` in reply to update N.
"""

import asyncio
import contextlib
import ctypes
import os
import pickle
import platform
import signal
import struct
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from urlguard import events

TIME_SLICE_S = 0.0001
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # numbers of the system call

READY = b"ready\n"
HEARTBEAT = b"alive\n"
HEARTBEAT_S = 1.0  # between two heartbeats
RELOADED = b"reloaded "
REFUSED = b"refused "
MAX_MESSAGE = 1 << 28  # octets of one message: a configuration with a million networks fits

_MAX_REASON = 1000  # octets: a line this short is written to a pipe whole or not at all
_HEAD = 8  # octets of the length before each message


def startup_message(value: Any) -> bytes:
    """The octets from which `read_startup` makes `value`."""
    data = pickle.dumps(value)
    return len(data).to_bytes(_HEAD, "big") + data


def update_message(number: int, value: Any) -> bytes:
    """The octets that put `value` into a running child's `Updates` as update `number`."""
    return startup_message((number, value))


def read_startup() -> Any:
    """
    The value that the parent passed to `startup_message`, read from standard input.

    Raises:
        SystemExit: the parent ended before it had written all of it.
    """
    # SIGHUP is for the supervisor; one to the whole group must not end its children.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    size = int.from_bytes(_exactly(_HEAD), "big")
    return pickle.loads(_exactly(size))  # noqa: S301


def _exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(0, size - len(data))  # unbuffered: the rest stays in the pipe
        if not part:
            raise SystemExit(0)
        data += part
    return data


class Updates:
    """
    Messages that come after the first, such as a reloaded configuration.

    Holds the newest one only: an update that was not fetched is replaced by the next.  Whoever
    fetches one replies with `accept` or `refuse`, after any time.
    """

    def __init__(self) -> None:
        self._there = asyncio.Event()
        self._newest: Any = None
        self._newest_number = 0
        self._number = 0  # of the one fetched last

    async def get(self) -> Any:
        """The newest update that was not fetched yet; waits for one."""
        await self._there.wait()
        self._there.clear()
        value, self._newest = self._newest, None
        self._number = self._newest_number
        return value

    def accept(self) -> None:
        """Report that the update fetched last is in force."""
        _write(RELOADED + b"%d\n" % self._number)

    def refuse(self, reason: object) -> None:
        """Report that the update fetched last was refused and the one before stays in force."""
        _refuse(self._number, reason)

    def put(self, number: int, value: Any) -> None:
        """Add update `number`."""
        self._newest_number, self._newest = number, value
        self._there.set()


def main_loop(
    work: Callable[[asyncio.Event], Awaitable[None]], updates: Updates | None = None
) -> None:
    """
    Run `work` on uvloop; its event is set on SIGTERM, SIGINT, or the supervisor's end.

    Args:
        work: the child's work; returns once it has shut down.
        updates: receives updates; without it they are ignored, and the supervisor restarts the
            child instead.
    """

    events.in_background()

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        os.set_blocking(0, False)
        # A supervisor that does not read must not block a child's loop.
        os.set_blocking(1, False)
        loop.add_reader(0, _Pipe(loop, stop, updates).read)
        # Runs in the loop's first iteration, so after whatever `work` does before it waits.
        loop.call_soon(_heartbeat, loop)
        await work(stop)

    uvloop.run(main())


class _Pipe:
    """Standard input while the child works."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event, updates: Updates | None
    ) -> None:
        self._loop = loop
        self._stop = stop
        self._updates = updates
        self._data = bytearray()

    def read(self) -> None:
        """Read what has arrived."""
        try:
            part = os.read(0, 1 << 16)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        self._data += part
        if not part:
            self._end()
        while len(self._data) >= _HEAD:
            size = int.from_bytes(self._data[:_HEAD], "big")
            if size > MAX_MESSAGE:
                self._end()  # out of step; the supervisor restarts the child
                return
            if len(self._data) < _HEAD + size:
                return
            message = bytes(self._data[_HEAD : _HEAD + size])
            del self._data[: _HEAD + size]
            self._update(message)

    def _update(self, message: bytes) -> None:
        if self._updates is None:
            return
        try:
            number, value = pickle.loads(message)  # noqa: S301
        except Exception as exc:  # the package was replaced beneath a running server
            _refuse(0, f"{type(exc).__name__}: {exc}")
        else:
            self._updates.put(number, value)

    def _end(self) -> None:
        self._loop.remove_reader(0)
        self._stop.set()


def report_ready() -> None:
    """Tell the supervisor that this child has started."""
    _write(READY)


def _heartbeat(loop: asyncio.AbstractEventLoop) -> None:
    _write(HEARTBEAT)
    loop.call_later(HEARTBEAT_S, _heartbeat, loop)


def _refuse(number: int, reason: object) -> None:
    text = " ".join(str(reason).split()).encode(errors="replace")[:_MAX_REASON]
    _write(REFUSED + b"%d %b\n" % (number, text))


def _write(line: bytes) -> None:
    with contextlib.suppress(OSError):  # the supervisor does not read, or is gone
        os.write(1, line)


def request_short_time_slice() -> None:
    """
    Ask the kernel for time slices of `TIME_SLICE_S`, also for threads and children to come.

    By default a process that computes keeps its core until its slice is over, some 3 ms, even if a
    process with a better nice value wakes up to answer a query.  Does nothing on Linux before 6.12
    and on other machines than these.  See sched_setattr(2), and the kernel's
    Documentation/scheduler/sched-eevdf.rst.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None or sys.platform != "linux":
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    # size, policy (the usual one), flags, nice, priority, runtime in ns, deadline, period
    attributes = struct.pack("=IIQiIQQQ", 48, 0, 0, nice, 0, int(TIME_SLICE_S * 1e9), 0, 0)
    ctypes.CDLL(None).syscall(number, 0, ctypes.create_string_buffer(attributes, 48), 0)


async def run_command(command: list[str], stdin: bytes, limit_s: float | None = None) -> int:
    """
    Run a command to its end; it is killed if the wait is cancelled or takes longer than `limit_s`.

    Args:
        command: program and arguments.
        stdin: is written to its standard input.
        limit_s: seconds; None: no limit.

    Returns:
        Its exit code, or -9 if it took too long.
    """
    running = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(limit_s):
            await running.communicate(stdin)
    except TimeoutError:
        return -signal.SIGKILL
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    return int(running.returncode or 0)
