"""
Who may be connected: bounds on connections, in number and in time, and TLS.

aiohttp bounds a request's line and headers.  It bounds neither the number of connections nor the
time that a client takes to send or to read, so `Gate` does.

How it works.  Each connection begins at a `_Door`, which knows the client's address, and does the
TLS handshake before aiohttp sees an octet.  When all places are taken, the newcomer gets the place
of somebody for whom the server waits, be it for a request or for the rest of its body; first of
those whose network or token has most: so many slow clients keep nobody out, and one network only
itself.  Whose request has come whole keeps his place until the answer is there.  If all are being
served, a few places more are there; what comes on them gets an answer at once, and one to its
question only if that is about health.
"""

import asyncio
import contextlib
import enum
import ssl
import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, cast

from aiohttp import web

from urlguard.access.attempts import network
from urlguard.api.connection import Connection, Turns

SPARE: Final = 16  # places for what must be answered at once
IDLE_S = 10.0  # for a request to come whole, or its answer to be read
BUSY_S = 60.0  # without any progress in a request that has begun


class _Stage(enum.Enum):
    """What a connection is at."""

    IDLE = enum.auto()  # no request has come, or its answer is being read
    READING = enum.auto()  # the server waits for the rest of a body
    SERVED = enum.auto()  # the client waits for the server


@dataclass(slots=True)
class _Place:
    """One connection's."""

    network: Hashable
    whose: Hashable  # the network's, or the token's that was sent last
    since: float  # monotonic: when it began to wait, or last made progress
    transport: asyncio.Transport
    stage: _Stage = _Stage.IDLE


class _Door(asyncio.Protocol):
    """A new connection, until it is one of aiohttp's."""

    def __init__(self, gate: "Gate") -> None:
        self._gate = gate
        self._early = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        gate = self._gate
        transport = cast(asyncio.Transport, transport)  # uvloop's are of no class of asyncio's
        if not gate.admit(self, transport):
            transport.abort()
            return
        if gate.tls is None:
            self._enter(transport)
            return
        transport.pause_reading()
        self._task = asyncio.create_task(self._encrypt(transport, gate.tls))

    async def _encrypt(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        try:
            secured = await loop.start_tls(
                transport, self, context, server_side=True, ssl_handshake_timeout=IDLE_S
            )
        except (OSError, TimeoutError):  # ssl.SSLError is an OSError
            secured = None
        if secured is None or secured.is_closing():
            self._gate.leave(self)
            transport.abort()
            return
        self._enter(secured)

    def _enter(self, transport: asyncio.Transport) -> None:
        connection = self._gate.make()
        if connection is None or not self._gate.moved(self, connection, transport):
            self._gate.leave(self)
            transport.abort()
            return
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if self._early:
            connection.data_received(self._early)

    def data_received(self, data: bytes) -> None:
        self._early += data  # between the handshake's end and our hearing of it

    def connection_lost(self, exc: Exception | None) -> None:
        self._gate.leave(self)


class Gate:
    """
    Bounds connections in number and in time.

    Args:
        most: connections that are served at once.
        options: for each of aiohttp's connections.
        finish: puts what all answers have on one.
    """

    def __init__(
        self, most: int, options: dict[str, Any], finish: Callable[[web.Response], web.Response]
    ) -> None:
        self.server: web.Server | None = None
        self.tls: ssl.SSLContext | None = None
        self._most = most
        self._options = options
        self._finish = finish
        self._turns = Turns()
        self._places: dict[object, _Place] = {}

    def door(self) -> asyncio.Protocol:
        """The protocol for a new connection."""
        return _Door(self)

    def make(self) -> Connection | None:
        """One of aiohttp's connections; None at the end."""
        if self.server is None:
            return None
        return Connection(self.server, self._turns, self._finish, **self._options)

    # Places

    def admit(self, door: object, transport: asyncio.Transport) -> bool:
        """Give a newcomer a place, if need be another's; False if there is none."""
        self._tidy()
        if len(self._places) >= self._most:
            waiting = [(k, p) for k, p in self._places.items() if p.stage is not _Stage.SERVED]
            if waiting:
                many = Counter(place.whose for _, place in waiting)
                key, _ = max(waiting, key=lambda kp: (many[kp[1].whose], -kp[1].since))
                self._end(key)
            elif len(self._places) >= self._most + SPARE:
                return False
        peer = transport.get_extra_info("peername")
        where = network(str(peer[0]).partition("%")[0] if peer else "")
        self._places[door] = _Place(where, where, time.monotonic(), transport)
        return True

    def moved(self, door: object, connection: object, transport: asyncio.Transport) -> bool:
        """What was at the door is one of aiohttp's connections now; False if it lost its place."""
        place = self._places.pop(door, None)
        if place is None:
            return False
        place.transport = transport
        self._places[connection] = place
        return True

    def leave(self, key: object) -> None:
        """A connection is gone."""
        self._places.pop(key, None)

    def begins(self, connection: object) -> bool:
        """A request's head has come; False if too many are being served already."""
        if place := self._places.get(connection):
            place.stage, place.since = _Stage.READING, time.monotonic()
            place.whose = place.network
        return self._served() < self._most

    def known(self, connection: object, number: int) -> None:
        """The request has a good token, of this number."""
        if place := self._places.get(connection):
            place.whose = ("token", number)

    def reads(self, connection: object) -> None:
        """The server waits for the rest of a body."""
        if place := self._places.get(connection):
            place.stage = _Stage.READING

    def serves(self, connection: object) -> bool:
        """What it waited for has come; False if too many are being served now."""
        if place := self._places.get(connection):
            place.stage, place.since = _Stage.SERVED, time.monotonic()
        return self._served() <= self._most

    def _served(self) -> int:
        return sum(place.stage is _Stage.SERVED for place in self._places.values())

    def ends(self, connection: object) -> None:
        """The answer is ready to be sent."""
        if place := self._places.get(connection):
            place.stage, place.since = _Stage.IDLE, time.monotonic()

    async def sweep(self) -> None:
        """Close what takes too long, once a second, for ever."""
        while True:
            await asyncio.sleep(min(1.0, IDLE_S / 2))
            self._tidy()
            now = time.monotonic()
            for key, place in list(self._places.items()):
                if now - place.since > (IDLE_S if place.stage is _Stage.IDLE else BUSY_S):
                    self._end(key)

    def _tidy(self) -> None:
        """Forget connections that are gone: aiohttp does not tell when one ends."""
        for key, place in list(self._places.items()):
            if place.transport.is_closing():
                del self._places[key]

    def _end(self, key: object) -> None:
        place = self._places.pop(key)
        if isinstance(key, Connection):
            key.force_close()
        with contextlib.suppress(OSError, RuntimeError):
            place.transport.abort()
