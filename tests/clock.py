"""
An event loop whose time is a number.

`time()` stands still while anything is left to do and then leaps to the next timer, never past the
moment that the test asked for.  A day of timers takes as long as the work in it.

Sockets are real ones on loopback, where a datagram lies in the other socket as soon as it is sent,
except on a busy machine, where that may take a moment.  So the sockets in use count what leaves and
what arrives (`counted`), and the clock does not leap while something is on its way.
"""

import asyncio
import contextlib
import selectors
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")

_GRACE_S = 0.05  # of real time: a datagram that has not arrived by then never will
_STREAM_GRACE_S = 0.01  # the same for a stream, of which nobody counts anything
_REAL_S = 10.0  # that one leap may take, so that two who keep each other busy come to an end


class StuckError(Exception):
    """The loop did not come to rest."""


class SimulatedLoop(asyncio.SelectorEventLoop):
    """
    The loop.

    Args:
        start: its time to begin with, in seconds.
    """

    def __init__(self, start: float = 0.0) -> None:
        self.now = start
        self._limit = start
        self._enough: Callable[[], bool] | None = None
        self._gives_up = float("inf")
        super().__init__(_Leaping(self))

    def time(self) -> float:
        """The simulated time in seconds."""
        return self.now

    def run_until(self, when: float, unless: Callable[[], bool] | None = None) -> None:
        """
        Do all that is due up to `when` and what follows from it, and stop there.

        Args:
            when: in seconds of `time`; not in the past.
            unless: looked at each time that nothing is left to do: True ends the run early.

        Raises:
            StuckError: there is no end to what is to be done at one moment.
        """
        assert when >= self.now, f"{when} is {self.now - when} s ago"
        self._limit, self._enough = when, unless
        self._gives_up = time.monotonic() + _REAL_S
        try:
            self.run_forever()
        finally:
            self._enough = None

    def settle(self) -> None:
        """Do all that is due now."""
        self.run_until(self.now)

    def finish(self, work: Coroutine[Any, Any, T], limit_s: float = 0.0) -> T:
        """What a coroutine returns that needs at most `limit_s` simulated seconds."""
        task = self.create_task(work)
        self.run_until(self.now + limit_s, unless=task.done)
        assert task.done(), f"not done after {limit_s} s"
        return task.result()

    def idle(self) -> None:
        """Nothing is left to do at this moment: leap, or stop."""
        if time.monotonic() > self._gives_up:
            raise StuckError(f"busy for {_REAL_S} s of real time at {self.now}")
        if self._enough is not None and self._enough():
            self.stop()
            return
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        due = timers[0].when() if timers else float("inf")
        if due <= self._limit:
            self.now = max(self.now, due)
        else:
            self.now = self._limit
            self.stop()


class _Leaping(selectors.DefaultSelector):
    """Where the loop would sleep, it is told that nothing is left to do."""

    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        found = super().select(0)
        if found or (timeout is not None and timeout <= 0):
            return found
        wait = _Counted.wait_s()
        if wait:
            found = super().select(wait)
            if found:
                return found
            _Counted.forget()
        self._loop.idle()
        return []


class _Counted(socket.socket):
    """A socket that counts, for all sockets together, what is on its way."""

    datagrams: ClassVar[int] = 0
    streams: ClassVar[bool] = False

    @classmethod
    def wait_s(cls) -> float:
        """Real seconds to wait for what is on its way; 0 if nothing is."""
        return _GRACE_S if cls.datagrams > 0 else _STREAM_GRACE_S if cls.streams else 0.0

    @classmethod
    def forget(cls) -> None:
        """What has not arrived is lost."""
        cls.datagrams, cls.streams = 0, False

    def _sent(self) -> None:
        if self.type == socket.SOCK_DGRAM:
            _Counted.datagrams += 1
        else:
            _Counted.streams = True

    def _came(self) -> None:
        if self.type == socket.SOCK_DGRAM and _Counted.datagrams:
            _Counted.datagrams -= 1

    def send(self, *arguments: Any) -> int:
        sent = super().send(*arguments)
        self._sent()
        return sent

    def sendto(self, *arguments: Any) -> int:
        sent = super().sendto(*arguments)
        self._sent()
        return sent

    def sendmsg(self, *arguments: Any) -> int:
        sent = super().sendmsg(*arguments)
        self._sent()
        return sent

    def recv(self, *arguments: Any) -> bytes:
        return self._received(super().recv, arguments)

    def recvfrom(self, *arguments: Any) -> Any:
        return self._received(super().recvfrom, arguments)

    def recvmsg(self, *arguments: Any) -> Any:
        return self._received(super().recvmsg, arguments)

    def _received(self, receive: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        try:
            got = receive(*arguments)
        except BlockingIOError:
            raise
        except OSError:  # what ICMP says of a datagram that was sent
            self._came()
            raise
        self._came()
        return got

    def connect(self, address: Any) -> None:
        _Counted.streams |= self.type == socket.SOCK_STREAM
        super().connect(address)

    def shutdown(self, how: int) -> None:
        _Counted.streams = True
        super().shutdown(how)

    def close(self) -> None:
        _Counted.streams |= self.fileno() >= 0 and self.type == socket.SOCK_STREAM
        super().close()


@contextlib.contextmanager
def counted() -> Iterator[None]:
    """Have all sockets made from here on counted, whoever makes them."""
    real = socket.socket
    _Counted.forget()
    socket.socket = _Counted  # type: ignore[misc]
    try:
        yield
    finally:
        socket.socket = real  # type: ignore[misc]
        _Counted.forget()
