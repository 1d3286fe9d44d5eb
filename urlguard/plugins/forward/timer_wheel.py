"""
One timer for all that waits.

Thousands of queries wait at once, nearly all are answered long before their time, and a
hundredth of a second more or less does not matter.  So what is due in the same hundredth lies in
one list, nothing is ever taken out early, and one timer of the loop looks at the lists.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

TICK_S: Final = 0.01
_TICKS: Final = 100  # in a second
_AT_ONCE: Final = 50  # things handed over before the loop may do something else


class TimerWheel(Generic[T]):
    """
    Things that are due later.

    Args:
        due: called with each thing and the loop's time, at its time or up to two ticks later.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, due: Callable[[T, float], None]) -> None:
        self._loop = loop
        self._due = due
        self._slots: dict[int, list[T]] = {}
        self._ready: deque[T] = deque()
        self._handle: asyncio.Handle | None = None
        self._closed = False
        self._tick = 0  # the last one that was looked at

    def add(self, thing: T, when: float) -> None:
        """Hand `thing` over at `when`, in seconds of the loop's time."""
        if self._closed:
            return
        tick = int(when * _TICKS) + 1
        slot = self._slots.get(tick)
        if slot is not None:
            slot.append(thing)
            return
        self._slots[tick] = [thing]
        if tick <= self._tick:
            self._tick = tick - 1
        if self._handle is None:
            self._tick = min(tick, int(self._loop.time() * _TICKS)) - 1
            self._handle = self._loop.call_later(TICK_S, self._turn)

    def close(self) -> None:
        """Forget everything, and take no more."""
        self._closed = True
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._slots.clear()
        self._ready.clear()

    def _turn(self) -> None:
        slots, ready = self._slots, self._ready
        now = self._loop.time()
        tick = int(now * _TICKS)
        passed = tick - self._tick
        if passed > len(slots):  # the clock leapt, or little waits
            for at in sorted(at for at in slots if at <= tick):
                ready.extend(slots.pop(at))
        else:
            for at in range(self._tick + 1, tick + 1):
                if found := slots.pop(at, None):
                    ready.extend(found)
        self._tick = tick
        # Set before anything is handed over, so that `add` starts no second timer.
        self._handle = self._loop.call_later(TICK_S, self._turn)
        for _ in range(min(_AT_ONCE, len(ready))):
            if ready:  # closing empties it
                self._due(ready.popleft(), now)
        if self._closed:
            return
        if ready or not slots:
            self._handle.cancel()
            self._handle = self._loop.call_soon(self._turn) if ready else None
