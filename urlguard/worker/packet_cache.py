"""
Ready answers: what is given again to the same datagram without parsing it or asking a plugin.

The chain marks the answers that depend on nothing but the datagram's octets, the client's segment
and the policy.  They are kept under the octets after the query's ID, for each segment apart.  A
change of policy takes out what it may concern on the same thread, so that no answer of an old
policy can be stored after it.  What comes from the cache counts its TTLs down, so it stays for a
second only.  Knows octets and what they depend on; knows neither sockets nor rules.
"""

import asyncio
from collections.abc import Collection, Iterable
from typing import Any, Final

MAX_READY: Final = 8192  # kept in all; then all are forgotten, which takes 0.5 ms
FLEETING_S: Final = 1.0  # an answer from the cache is given again for


class Stat:
    """How many answers of one kind were given."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Ready:
    """
    A ready answer: all octets after the ID, who counts it, and what the hit log wants of it.

    ``names``: those whose rules it depends on, each as ``.name`` and a line's end.
    """

    __slots__ = ("hit", "names", "stat", "tail")

    def __init__(
        self, tail: bytes, stat: Stat, hit: tuple[Any, ...] | None, names: Iterable[str]
    ) -> None:
        self.tail = tail
        self.stat = stat
        self.hit = hit
        self.names = "".join([f".{name}\n" for name in names])


class ReadyAnswers:
    """
    The ready answers of one worker.

    ``tables`` holds a dictionary for each segment; clients have their own in hand (`Client.ready`),
    so the dictionaries are emptied and never replaced.
    """

    def __init__(
        self, tables: dict[str, dict[bytes, Any]], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._tables = tables
        self._loop = loop
        self._count = 0
        # By the table's identity, so that one kept again stands there once.
        self._fleeting: dict[tuple[int, bytes], dict[bytes, Any]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return sum(map(len, self._tables.values()))

    def put(self, table: dict[bytes, Any], key: bytes, ready: Ready, fleeting: bool) -> None:
        """Keep an answer in one segment's table."""
        if self._count >= MAX_READY:
            self.clear()
        if key not in table:
            self._count += 1
        table[key] = ready
        if fleeting:
            self._fleeting[id(table), key] = table
            if self._timer is None:
                self._timer = self._loop.call_later(FLEETING_S, self._tick)

    def clear(self) -> None:
        """Forget all: the policy has changed."""
        for table in self._tables.values():
            table.clear()
        self._fleeting.clear()
        self._count = 0

    def changed(self, names: Collection[str] | None = None) -> None:
        """
        Forget what may be answered differently now: all, or what depends on `names` or names below.

        Looking through all of them takes half a millisecond, and leaves nearly all where they are:
        a decision now and then must not send every client the long way.
        """
        if names is None:
            self.clear()
            return
        parts = [f".{name}\n" for name in names]
        for table in self._tables.values():
            for part in parts:
                for key in [key for key, ready in table.items() if part in ready.names]:
                    del table[key]
                    self._count -= 1

    def close(self) -> None:
        """Keep nothing more."""
        self.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        """A second is over: what came from the cache is a second older now."""
        self._timer = None
        for (_, key), table in self._fleeting.items():
            if table.pop(key, None) is not None:
                self._count -= 1
        self._fleeting.clear()
