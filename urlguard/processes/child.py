"""
What the supervisor's children have in common: their orders, their signs of life, and how they end.

A child reads its orders, a pickle, from its standard input, which stays open: later orders come the
same way, and its end of file means that the supervisor is gone, however it went, and the child must
go too, or it would go on answering beside the next server.

On its standard output a child says one line at a time: ``ready`` once, ``alive`` every second from
a timer of its event loop, so that a loop that hangs is silent, and ``reloaded N`` or
``refused N why`` in answer to later order N.
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

TURN_S = 0.0001
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # numbers of the system call

READY = b"ready\n"  # what a child writes to its standard output once it is at work
ALIVE = b"alive\n"
ALIVE_S = 1.0  # between two signs of life
RELOADED = b"reloaded "
REFUSED = b"refused "
MAX_ORDERS = 1 << 28  # octets of one order: a configuration with a million networks fits

_MAX_WHY = 1000  # octets of a refusal: a line this short is written to a pipe whole or not at all
_HEAD = 8  # octets of the length before each order


def orders(value: Any) -> bytes:
    """The bytes that `handed` reads."""
    data = pickle.dumps(value)
    return len(data).to_bytes(_HEAD, "big") + data


def later_orders(number: int, value: Any) -> bytes:
    """The bytes that bring `value` into a running child's `Inbox` as order `number`."""
    return orders((number, value))


def handed() -> Any:
    """This process's orders, from its parent through a private pipe."""
    # SIGHUP is for the supervisor; one to the whole group must not end its children.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    size = int.from_bytes(_exactly(_HEAD), "big")
    return pickle.loads(_exactly(size))  # noqa: S301


def _exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(0, size - len(data))  # unbuffered: the rest stays in the pipe
        if not part:
            raise SystemExit(0)  # the parent died before it could say what to do
        data += part
    return data


class Inbox:
    """
    Orders that come after the first.

    Only the newest counts: one that was not fetched is replaced by the next, so it holds one at
    most.  Each one fetched is answered by `accept` or `refuse`, in this process's time.
    """

    def __init__(self) -> None:
        self._there = asyncio.Event()
        self._newest: Any = None
        self._newest_number = 0
        self._number = 0  # of the one fetched last

    async def get(self) -> Any:
        """The newest order that was not fetched yet; waits for one."""
        await self._there.wait()
        self._there.clear()
        value, self._newest = self._newest, None
        self._number = self._newest_number
        return value

    def accept(self) -> None:
        """Tell the supervisor that the order fetched last is carried out."""
        _say(RELOADED + b"%d\n" % self._number)

    def refuse(self, why: object) -> None:
        """Tell the supervisor that it cannot be, and that the one before stays in force."""
        _refuse(self._number, why)

    def put(self, number: int, value: Any) -> None:
        """Take in order `number`."""
        self._newest_number, self._newest = number, value
        self._there.set()


def run(work: Callable[[asyncio.Event], Awaitable[None]], inbox: Inbox | None = None) -> None:
    """
    Run `work` on uvloop; its event is set on SIGTERM, SIGINT, or the supervisor's end.

    Args:
        work: the child's work; returns once it has ended in good order.
        inbox: takes in the orders that come later; a child without one is started anew instead.
    """

    events.in_background()

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        os.set_blocking(0, False)
        # A supervisor that does not read must not hold up a child's loop.
        os.set_blocking(1, False)
        loop.add_reader(0, _Pipe(loop, stop, inbox).read)
        # Comes about when the loop first turns, so after whatever `work` does before it waits.
        loop.call_soon(_alive, loop)
        await work(stop)

    uvloop.run(main())


class _Pipe:
    """Standard input while the child works."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event, inbox: Inbox | None
    ) -> None:
        self._loop = loop
        self._stop = stop
        self._inbox = inbox
        self._data = bytearray()

    def read(self) -> None:
        """Take what has come."""
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
            if size > MAX_ORDERS:
                self._end()  # out of step; the supervisor starts it anew
                return
            if len(self._data) < _HEAD + size:
                return
            order = bytes(self._data[_HEAD : _HEAD + size])
            del self._data[: _HEAD + size]
            self._take(order)

    def _take(self, order: bytes) -> None:
        if self._inbox is None:
            return
        try:
            number, value = pickle.loads(order)  # noqa: S301
        except Exception as exc:  # the package was replaced beneath a running server
            _refuse(0, f"{type(exc).__name__}: {exc}")
        else:
            self._inbox.put(number, value)

    def _end(self) -> None:
        self._loop.remove_reader(0)
        self._stop.set()


def say_ready() -> None:
    """Tell the supervisor that this child is at work."""
    _say(READY)


def _alive(loop: asyncio.AbstractEventLoop) -> None:
    _say(ALIVE)
    loop.call_later(ALIVE_S, _alive, loop)


def _refuse(number: int, why: object) -> None:
    text = " ".join(str(why).split()).encode(errors="replace")[:_MAX_WHY]
    _say(REFUSED + b"%d %b\n" % (number, text))


def _say(line: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody reads, or nobody is there
        os.write(1, line)


def short_turns() -> None:
    """
    Give way within `TURN_S` to whoever wakes up, and so do all threads and children to come.

    A process that computes is left alone by the kernel until its turn is over, some 3 ms by
    default, also where one that answers queries and has a better nice value waits for the core.
    Linux before 6.12, and other machines than these, go on as before.  See sched_setattr(2), and
    Documentation/scheduler/sched-eevdf.rst of the kernel.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None or sys.platform != "linux":
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    # size, policy (the usual one), flags, nice, priority, runtime in ns, deadline, period
    attributes = struct.pack("=IIQiIQQQ", 48, 0, 0, nice, 0, int(TURN_S * 1e9), 0, 0)
    ctypes.CDLL(None).syscall(number, 0, ctypes.create_string_buffer(attributes, 48), 0)


async def child(command: list[str], stdin: bytes, limit_s: float | None = None) -> int:
    """
    Run a command to its end; it does not outlive a cancelled wait, or `limit_s`.

    Args:
        command: program and arguments.
        stdin: what it reads.
        limit_s: seconds that it may take.

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
