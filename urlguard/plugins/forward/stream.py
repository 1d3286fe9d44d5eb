"""
Connections to one upstream, over TCP (RFC 7766) or TLS (RFC 7858).

How it works
    Queries are pipelined and replies are taken in any order, by ID and question.  A second, third
    and fourth connection are opened while the others are busy, for some servers answer one query
    after the other.  Idle ones are closed.  When the server closes one, as it may at any time, the
    queries open on it go out once more on a new connection; what fails then has failed.
    After a failed attempt to connect nobody tries again for a while, at most 0.8 s.
    Nobody can forge what comes this way, so a name's spelling is not compared.  If it is not ours
    although ours was random, that proves that the upstream loses it.
"""

import asyncio
import errno
import ssl
from collections import Counter
from pathlib import Path
from typing import Final, Protocol, cast

from urlguard.errors import ConfigError
from urlguard.plugins.forward.qname_case import Random, same_name
from urlguard.plugins.forward.upstream import FLATTENS_S, Attempt, Upstream

CONNECTIONS: Final = 4  # to one upstream

_BUSY: Final = 32  # open queries on one connection until another is opened
_FULL: Final = 2000  # and until it takes no more
_IDLE_S: Final = 10.0
_WAIT_S: Final = (0.1, 0.8)  # before connecting again
_STRAYS: Final = 100  # messages that are no reply, until a connection is given up
_UNSENT: Final = 1 << 18  # octets that the server may leave unread


class Owner(Protocol):
    """Who sends queries and wants to know what comes of them."""

    counters: Counter[str]

    def replied(self, attempt: Attempt, data: bytes) -> None:
        """A reply with the right ID and question; the attempt is not open any more."""

    def broke(self, attempt: Attempt, reason: str) -> None:
        """The network failed; the attempt is not open any more."""


class Stream:
    """
    The connections to one upstream.

    Args:
        connect_s: seconds that connecting may take, with TLS.
    """

    def __init__(
        self,
        owner: Owner,
        upstream: Upstream,
        loop: asyncio.AbstractEventLoop,
        random: Random,
        connect_s: float,
    ) -> None:
        self.owner = owner
        self.upstream = upstream
        self.loop = loop
        self.random = random
        self.closed = False
        self._connect_s = connect_s
        self._connections: list[_Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed = 0  # attempts to connect, in a row
        self._again = float("-inf")  # loop time

    @property
    def ready(self) -> bool:
        """True if a query need not wait for a connection."""
        return any(connection.up for connection in self._connections)

    def send(self, attempt: Attempt) -> None:
        """
        Send `attempt.wire`, whose ID is replaced, or keep it until there is a connection.

        Raises:
            OSError: connecting failed just now, or all connections are full.
        """
        least = min(self._connections, key=lambda c: len(c.open), default=None)
        if least is None or (
            len(least.open) >= _BUSY and least.up and len(self._connections) < CONNECTIONS
        ):
            if self.loop.time() >= self._again and not self.closed:
                least = self._connect()
            elif least is None:
                raise OSError(errno.ECONNREFUSED, "connecting failed just now")
        if len(least.open) >= _FULL or least.stuck:
            raise OSError(errno.ENOBUFS, "the upstream reads too slowly")
        least.ask(attempt)

    def close(self) -> list[Attempt]:
        """Close all connections; what was open."""
        self.closed = True
        for task in list(self._tasks):
            task.cancel()
        ended: list[Attempt] = []
        for connection in self._connections:
            ended += connection.open.values()
            connection.open.clear()
            connection.shut()
        self._connections.clear()
        return ended

    def lost(self, connection: "_Connection", reason: str, connected: bool) -> None:
        """A connection ended; its open queries go out once more, or fail."""
        if connection in self._connections:
            self._connections.remove(connection)
        if not connected:
            low, high = _WAIT_S
            self._again = self.loop.time() + min(high, low * 2 ** min(self._failed, 10))
            self._failed += 1
        ended = list(connection.open.values())
        connection.open.clear()
        for attempt in ended:
            attempt.channel = None
        for attempt in ended:
            if connected and not attempt.retried and not self.closed:
                attempt.retried = True
                try:
                    self.send(attempt)
                except OSError:
                    pass
                else:
                    self.owner.counters["sent_again"] += 1
                    continue
            self.owner.broke(attempt, reason)

    def made(self) -> None:
        """A connection is there, with TLS if need be."""
        self._failed = 0

    def _connect(self) -> "_Connection":
        connection = _Connection(self)
        self._connections.append(connection)
        self.owner.counters["connections"] += 1
        task = self.loop.create_task(self._connecting(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return connection

    async def _connecting(self, connection: "_Connection") -> None:
        where = self.upstream.where
        try:
            async with asyncio.timeout(self._connect_s):
                await self.loop.create_connection(
                    lambda: connection,
                    where.address.host,
                    where.address.port,
                    ssl=self.upstream.context,
                    server_hostname=where.tls_name,
                )
        except ssl.SSLCertVerificationError as exc:
            reason = f"certificate: {exc.verify_message or exc.reason}"
            self.upstream.untrusted(reason, self.loop.time())
        except TimeoutError:
            reason = f"no connection in {self._connect_s:g} s"
        except OSError as exc:
            reason = exc.strerror or str(exc)
        except ValueError as exc:  # what cannot be a server's name
            reason = str(exc)
        else:
            return
        connection.shut()
        self.lost(connection, reason, False)


class _Connection(asyncio.Protocol):
    """One connection and the queries open on it, by ID."""

    def __init__(self, stream: Stream) -> None:
        self.open: dict[int, Attempt] = {}
        self.up = False
        self.stuck = False  # the server does not read
        self.strays = 0
        self._stream = stream
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        self._got = bytearray()
        self._used = 0.0
        self._heard = 0.0  # loop time of the latest octets
        self._idle: asyncio.TimerHandle | None = None

    def ask(self, attempt: Attempt) -> None:
        """Send the attempt's query under an ID that is free here."""
        ident = self._stream.random.number() & 0xFFFF
        while ident in self.open:
            ident = (ident + 40_503) & 0xFFFF
        self.open[ident] = attempt
        attempt.ident = ident
        attempt.channel = self
        wire = attempt.wire
        framed = len(wire).to_bytes(2) + ident.to_bytes(2) + wire[2:]
        self._used = self._stream.loop.time()
        if self._transport is not None:
            self._transport.write(framed)
        else:
            self._unsent.append(framed)

    def forget(self, attempt: Attempt) -> None:
        """Wait for the attempt's reply no longer."""
        self.open.pop(attempt.ident, None)
        if self.up and self._heard < attempt.sent:
            # Nothing at all came since it was asked.  A connection can die without a word, as far
            # as this side sees: the next query gets a new one.
            self.up = False
            if self._transport is not None:
                self._transport.abort()
            self._stream.lost(self, "silent", True)

    def shut(self) -> None:
        """Close it at once."""
        self.up = False
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._transport is not None:
            self._transport.abort()

    # ---- what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send what waited."""
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = transport = cast(asyncio.Transport, transport)
        if self._stream.closed:
            transport.abort()
            return
        transport.set_write_buffer_limits(_UNSENT)
        self.up = True
        self._heard = self._stream.loop.time()
        self._stream.made()
        self._idle = self._stream.loop.call_later(_IDLE_S, self._tidy)
        if self._unsent:
            transport.writelines(self._unsent)
            self._unsent.clear()

    def pause_writing(self) -> None:
        """The server reads too slowly; it gets no more."""
        self.stuck = True

    def resume_writing(self) -> None:
        """It has read on."""
        self.stuck = False

    def data_received(self, data: bytes) -> None:
        """Take the messages out of the stream, each with its length before it."""
        got = self._got
        got += data
        self._heard = self._stream.loop.time()
        at = 0
        while len(got) - at >= 2:
            end = at + 2 + int.from_bytes(got[at : at + 2])
            if len(got) < end:
                break
            self._message(bytes(got[at + 2 : end]))
            at = end
            if not self.up:
                return
        del got[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever closed it."""
        was_up = self.up
        self.up = False
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if was_up:
            self._stream.lost(self, str(exc) if exc else "connection closed", True)

    def _message(self, data: bytes) -> None:
        owner = self._stream.owner
        attempt = self.open.get(data[0] << 8 | data[1]) if len(data) > 12 else None
        got = b"" if attempt is None else data[12 : 12 + len(attempt.question)]
        if (
            attempt is None
            or data[2] & 0xF8 != 0x80
            or data[4:6] != b"\0\1"
            or not same_name(got, attempt.question)
        ):
            # Mostly replies that nobody waits for any more.
            owner.counters["unasked"] += 1
            self.strays += 1
            if self.strays >= _STRAYS and self._transport is not None:
                self._transport.abort()
                self.up = False
                self._stream.lost(self, "answers what was not asked", True)
            return
        self.strays = 0
        del self.open[attempt.ident]
        attempt.channel = None
        if got != attempt.question:
            upstream = self._stream.upstream
            upstream.flat_until = self._stream.loop.time() + FLATTENS_S
            upstream.counters["lost_spelling"] += 1
        owner.replied(attempt, data)

    def _tidy(self) -> None:
        """Close the connection if nobody has used it for a while."""
        loop = self._stream.loop
        left = self._used + _IDLE_S - loop.time()
        if self.open or left > 0:
            self._idle = loop.call_later(max(left, 1.0), self._tidy)
            return
        self._idle = None
        if self._transport is not None:
            self._transport.close()


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """
    TLS 1.2 or later, the certificate's name and its issuer checked.

    Args:
        ca_file: certificates of authorities in PEM, the only ones believed; None: the system's.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as exc:  # ssl's own errors derive from it
        reason = exc.strerror or str(exc)
        raise ConfigError(
            [f"[forward] ca_file = {str(ca_file)!r}: {reason}; must hold certificates in PEM"]
        ) from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["dot"])
    return context
