"""
The TCP socket that clients talk to (RFC 7766).

Knows sockets and the edge; knows no names and no policy.
"""

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections import Counter, deque
from time import perf_counter
from typing import Any, Final, cast

from urlguard.config import Server
from urlguard.errors import WireError
from urlguard.plugins import Answer, Exchange
from urlguard.plugins.clients import Client
from urlguard.wire import answer, proxy
from urlguard.wire.query import SERVFAIL, TCP, parse_query
from urlguard.worker.frontend import Edge

BATCH: Final = 8  # queries of a connection answered in one go before it is others' turn
SLICE_S: Final = 0.001  # for turns, in all, before the loop does something else
MAX_PIPELINED: Final = 64  # queries open on one connection before reading pauses
STRANGERS: Final = 16  # of so many connections, one may be of a client that may not ask
_STRANGER: Final = "*"  # under which all of those are counted, beside their addresses
_WRITE_LIMIT: Final = 65_536  # octets that a client may leave unread before reading pauses


class TcpListener:
    """
    Answer queries on a TCP socket (RFC 7766).

    Queries of one connection are worked on side by side and answered as answers come.  Everything
    that a client can make us keep is bounded: connections, open queries on one, octets it does not
    read.

    ``counters`` holds, since the start: ``connections``, ``queries``, ``malformed``,
    ``closed_idle``, ``closed_full`` (to stay below the limit), ``closed_client`` (too many from one
    address, or a stranger) and ``closed_slow`` (the client did not read).

    Args:
        connections: at most, with those of the listeners ``beside``.
        per_client: of them, from one address.
        beside: another listener of this worker, which has the same connections in view.
    """

    def __init__(
        self,
        sock: socket.socket,
        edge: Edge,
        loop: asyncio.AbstractEventLoop,
        *,
        idle_s: float = Server.tcp_idle_s,
        connections: int = Server.tcp_connections,
        per_client: int = Server.tcp_per_client,
        beside: "TcpListener | None" = None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.edge = edge
        self.loop = loop
        self.idle_s = idle_s
        self.per_client = per_client
        # A dictionary for its order: who was active longest ago comes first.
        self.open: dict[_Connection, None] = {} if beside is None else beside.open
        self.by_client: Counter[str] = Counter() if beside is None else beside.by_client
        self.limit = connections
        self._sock = sock
        self._server: asyncio.Server | None = None
        self._turns: deque[_Connection] = deque()

    async def start(self) -> None:
        """Begin to accept."""
        self._server = await self.loop.create_server(
            lambda: _Connection(self), sock=self._sock, backlog=512
        )

    async def drain(self, deadline_s: float) -> bool:
        """
        Stop accepting and reading, wait for the queries under way, then close all connections.

        Args:
            deadline_s: seconds to wait at most.

        Returns:
            True if all of them were answered.
        """
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in self.open:
            connection.stop()
        until = self.loop.time() + deadline_s
        while (busy := any(c.waiting for c in self.open)) and self.loop.time() < until:
            await asyncio.sleep(0.01)
        self.close()
        return not busy

    def close(self) -> None:
        """Stop accepting and close all connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self.open):
            connection.close()

    def admit(self, connection: "_Connection") -> bool:
        """Count a new connection in, at the cost of the longest idle one if there are too many."""
        self.counters["connections"] += 1
        who = self.edge.clients.find(connection.host)
        stranger = not who.allowed and who.front is None
        if stranger and (
            self.edge.clients.silent or self.by_client[_STRANGER] >= max(1, self.limit // STRANGERS)
        ):
            # They get REFUSED, if anything: not at the cost of those who may ask.
            self.counters["closed_client"] += 1
            return False
        # A front end speaks for many clients.
        if self.by_client[connection.host] >= self.per_client and who.front is None:
            self.counters["closed_client"] += 1
            return False
        if len(self.open) >= self.limit:
            self.counters["closed_full"] += 1
            # Looking at a few is enough: if so many of the oldest are busy, we are overloaded.
            for other, _ in zip(self.open, range(64), strict=False):
                if not other.waiting:
                    other.abort()
                    break
            else:
                if not self._make_room(connection.host):
                    return False
        self.open[connection] = None
        self.by_client[connection.host] += 1
        connection.stranger = stranger
        if stranger:
            self.by_client[_STRANGER] += 1
        return True

    def _make_room(self, newcomer: str) -> bool:
        """
        All are busy: one of the address with most of them goes, unless the newcomer has as many.
        """
        find = self.edge.clients.find
        host, most = max(
            ((h, n) for h, n in self.by_client.items() if h != _STRANGER and not find(h).front),
            key=lambda item: item[1],
            default=("", 0),
        )
        if most <= self.by_client[newcomer] + 1:
            return False
        next(other for other in self.open if other.host == host).abort()
        return True

    def queue(self, connection: "_Connection") -> None:
        """Let a connection that has more to ask go on when it is its turn."""
        self._turns.append(connection)
        if len(self._turns) == 1:
            self.loop.call_soon(self._take_turns)

    def _take_turns(self) -> None:
        # A hundred clients that send without end must not keep the loop from everybody else, so
        # that all of them together get one slice of time and no more.
        turns = self._turns
        until = perf_counter() + SLICE_S
        try:
            for _ in range(len(turns)):
                try:
                    turns[0].turn()
                finally:
                    turns.popleft()
                if perf_counter() >= until:
                    break
        finally:
            if turns:
                self.loop.call_soon(self._take_turns)

    def forget(self, connection: "_Connection") -> None:
        """Count a connection out."""
        if connection in self.open:
            del self.open[connection]
            for key in (connection.host, _STRANGER) if connection.stranger else (connection.host,):
                self.by_client[key] -= 1
                if not self.by_client[key]:
                    del self.by_client[key]


class _Connection(asyncio.Protocol):
    """One TCP connection: two octets of length, one message, and so on."""

    def __init__(self, listener: TcpListener) -> None:
        self.waiting = 0
        self._listener = listener
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._client: tuple[Any, ...] = ("", 0)
        self.host = ""
        self.stranger = False
        self._named: str | None = None  # whom a front end speaks for; empty for itself
        self._headed = False  # a PROXY header must come first
        self._active = 0.0  # loop time of the latest whole query or answer
        self._blocked = False  # the client does not read
        self._stopped = False  # we read no more
        self._paused = False
        self._last_words = False  # the client will send no more
        self._yielding = False  # it is other clients' turn
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, for uvloop's transports are no subclasses of asyncio's.
        self._transport = transport = cast(asyncio.Transport, transport)
        self._client = transport.get_extra_info("peername") or ("", 0)
        self.host = str(self._client[0])
        self._headed = self._listener.edge.clients.find(self.host).front == "proxy"
        if not self._listener.admit(self):
            transport.abort()
            return
        transport.set_write_buffer_limits(high=_WRITE_LIMIT)
        self._active = self._listener.loop.time()
        self._timer = self._listener.loop.call_later(self._listener.idle_s, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._listener.forget(self)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._read()

    def eof_received(self) -> bool:
        """A client that will ask no more still gets its answers (RFC 7766 section 6.2.3)."""
        self._last_words = True
        self._read()
        return not self._answered

    def pause_writing(self) -> None:
        self._blocked = True
        self._throttle()

    def resume_writing(self) -> None:
        self._blocked = False
        self._touch()
        self._read()

    def stop(self) -> None:
        """Read no more, but answer what was asked."""
        self._stopped = True
        self._throttle()

    def close(self) -> None:
        """Close after what is buffered was sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._listener.forget(self)
        if self._transport is not None:
            _discard_unread(self._transport)
            self._transport.abort()

    def turn(self) -> None:
        """Go on after others had their turn."""
        self._yielding = False
        if self._transport is None:
            self._buffer.clear()  # nobody is there to get the answers
        else:
            self._read()

    def _read(self) -> None:
        """Answer the whole messages in the buffer, as many as may be open."""
        buffer = self._buffer
        if self._yielding or (self._headed and not self._read_header()):
            return
        at = answered = 0
        while not self._full and len(buffer) - at >= 2:
            end = at + 2 + (buffer[at] << 8 | buffer[at + 1])
            if len(buffer) < end:
                break
            data = bytes(buffer[at + 2 : end])
            at = end
            if not self._query(data):
                buffer.clear()
                self.abort()
                return
            answered += 1
            if answered >= BATCH:
                self._yielding = True
                self._listener.queue(self)
        del buffer[:at]
        self._throttle()
        if self._answered:
            self.close()

    def _read_header(self) -> bool:
        """Take off a front end's PROXY header; False if it is not there yet, or is none."""
        head = bytes(self._buffer[: proxy.MAX_HEADER])
        try:
            if len(head) < proxy.size(head):
                return False
            host, _port, start = proxy.read(head)
        except WireError:
            self._listener.counters["malformed"] += 1
            self.abort()
            return False
        self._named = host
        del self._buffer[:start]
        self._headed = False
        return True

    @property
    def _full(self) -> bool:
        return self._blocked or self._stopped or self._yielding or self.waiting >= MAX_PIPELINED

    @property
    def _answered(self) -> bool:
        """True if the client will ask no more, and nothing that it asked is left to answer."""
        if not self._last_words or self.waiting:
            return False
        buffer = self._buffer
        return (
            self._stopped
            or self._headed
            or len(buffer) < 2
            or len(buffer) < 2 + (buffer[0] << 8 | buffer[1])
        )

    def _query(self, data: bytes) -> bool:
        """Answer one message; False if it deserves no answer, nor does the connection."""
        listener = self._listener
        edge = listener.edge
        listener.counters["queries"] += 1
        who = self._client_of(edge)
        try:
            x = Exchange(parse_query(data), who, self._client, TCP)
            if x.query.options:
                edge.read_options(x)
        except WireError as exc:
            listener.counters["malformed"] += 1
            said = edge.complaint(data, exc.rcode, who)
            self._write(said)
            return said != b""
        self._touch()
        if edge.tap is not None:
            edge.tap.query(x.host, x.query.data, True)
        found = edge.chain.local(x)
        if found is None:
            x.when = perf_counter()
            self.waiting += 1
            edge.chain.resolve(x, self._resolved)
        else:
            self._answer(x, found)
        return True

    def _client_of(self, edge: Edge) -> Client:
        # Found anew for each query: a reload may have changed what is known of it.
        if self._named:
            return edge.clients.find(self._named)
        who = edge.clients.find(self.host)
        return who if self._named is None else edge.without_front(who)

    def _resolved(self, x: Exchange, found: Answer | None) -> None:
        full = self._full
        self.waiting -= 1
        if self._transport is None:
            return
        if found is not None:
            self._listener.edge.waited.observe(perf_counter() - x.when)
            self._answer(x, found)
        self._touch()
        if self._answered:
            self.close()
        elif full:
            # Not from here: this may be inside `_read`'s own loop.
            self._listener.loop.call_soon(self._read)

    def _answer(self, x: Exchange, found: Answer) -> None:
        edge = self._listener.edge
        edge.book(x, found)
        wire = found.octets(x)
        if not wire:
            return  # dropped: the client will give up on it
        if len(wire) > 0xFFFF:  # an upstream's largest, and our options
            wire = answer.error(x, SERVFAIL)
        if edge.tap is not None:
            edge.tap.answer(x.host, wire, True)
        self._write(wire)

    def _write(self, wire: bytes) -> None:
        if self._transport is not None and wire:
            self._transport.write(len(wire).to_bytes(2, "big") + wire)

    def _throttle(self) -> None:
        """Let the kernel hold what the client sends while we have enough of it."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._full == self._paused:
            return
        if self._last_words:
            return  # there is nothing more to read, and to resume would bring the end once more
        self._paused = self._full
        if self._paused:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def _touch(self) -> None:
        self._active = self._listener.loop.time()
        opened = self._listener.open
        if self in opened:  # to the end of the line
            del opened[self]
            opened[self] = None

    def _look(self) -> None:
        """Close the connection if it was idle, or the client did not read, for too long."""
        listener = self._listener
        left = self._active + listener.idle_s - listener.loop.time()
        if left > 0 or (self.waiting and not self._blocked):
            self._timer = listener.loop.call_later(max(left, 0.05), self._look)
            return
        # Half a query an hour is idle too: octets alone do not count.
        listener.counters["closed_slow" if self._blocked else "closed_idle"] += 1
        self.abort()


def _discard_unread(transport: asyncio.Transport) -> None:
    """
    Have the connection reset, and not ended, if the client has not received all of its answers.

    Else the kernel keeps what it has of them, some megabytes, for minutes after we closed.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return
    with contextlib.suppress(OSError):
        unread = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
        if unread != bytes(4):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
