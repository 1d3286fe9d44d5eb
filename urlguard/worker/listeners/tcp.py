"""
The TCP socket that clients talk to (RFC 7766).

Knows sockets and the frontend; knows no names and no policy.  How messages stand on a stream is
`stream`'s, and how many connections there may be is `connections`'.
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
from urlguard.wire.query import SERVFAIL, TCP, Transport, parse_query
from urlguard.worker.frontend import Frontend
from urlguard.worker.listeners.connections import Connections
from urlguard.worker.listeners.stream import MAX_MESSAGE, MessageReader, frame

BATCH: Final = 8  # queries of a connection answered in one go before others get a chance
SLICE_S: Final = 0.001  # for all connections with more to ask, before the loop does another thing
MAX_PIPELINED: Final = 64  # queries open on one connection before reading pauses
_WRITE_LIMIT: Final = 65_536  # octets that a client may leave unread before reading pauses


class TcpListener:
    """
    Answer queries on a TCP socket (RFC 7766).

    Queries of one connection are worked on side by side and answered as answers come.  Everything
    that a client can make us keep is bounded: connections, open queries on one, octets it does not
    read.

    ``counters`` holds, since the start: ``connections``, ``queries``, ``malformed``,
    ``closed_idle``, ``closed_full`` (to stay below the limit), ``closed_client`` (too many from one
    address, or of a client that may not ask) and ``closed_slow`` (the client did not read).

    Args:
        connections: the worker's table, which its listeners share.
        idle_s: seconds after which an idle connection is closed.
    """

    transport: Final[Transport] = TCP

    def __init__(
        self,
        sock: socket.socket,
        frontend: Frontend,
        loop: asyncio.AbstractEventLoop,
        connections: Connections,
        *,
        idle_s: float = Server.tcp_idle_s,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.frontend = frontend
        self.loop = loop
        self.connections = connections
        self.idle_s = idle_s
        self._sock = sock
        self._server: asyncio.Server | None = None
        self._mine: dict[_Connection, None] = {}
        self._queue: deque[_Connection] = deque()

    async def start(self) -> None:
        """Begin to accept."""
        self._server = await self.loop.create_server(
            lambda: _Connection(self), sock=self._sock, backlog=512
        )

    def configure(self, server: Server) -> None:
        """Take over the limits of ``[server]``."""
        self.idle_s = server.tcp_idle_s
        self.connections.limit = server.tcp_connections
        self.connections.per_client = server.tcp_per_client

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
        for connection in self._mine:
            connection.stop()
        until = self.loop.time() + deadline_s
        while (busy := any(c.waiting for c in self._mine)) and self.loop.time() < until:
            await asyncio.sleep(0.01)
        self.close()
        return not busy

    def close(self) -> None:
        """Stop accepting and close all connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._mine):
            connection.close()

    def admit(self, connection: "_Connection") -> bool:
        """Count a new connection in, if there is room for it; see `Connections.admit`."""
        self.counters["connections"] += 1
        admitted, event = self.connections.admit(connection, self.frontend.clients)
        if event is not None:
            self.counters[event] += 1
        if admitted:
            self._mine[connection] = None
        return admitted

    def queue(self, connection: "_Connection") -> None:
        """Let a connection that has more to ask go on after those that were queued before."""
        self._queue.append(connection)
        if len(self._queue) == 1:
            self.loop.call_soon(self._resume_queued)

    def _resume_queued(self) -> None:
        # A hundred clients that send without end must not keep the loop from everybody else, so
        # that all of them together get one slice of time and no more.
        queue = self._queue
        until = perf_counter() + SLICE_S
        try:
            for _ in range(len(queue)):
                try:
                    queue[0].resume()
                finally:
                    queue.popleft()
                if perf_counter() >= until:
                    break
        finally:
            if queue:
                self.loop.call_soon(self._resume_queued)

    def forget(self, connection: "_Connection") -> None:
        """Count a connection out."""
        self.connections.forget(connection)
        self._mine.pop(connection, None)


class _Connection(asyncio.Protocol):
    """One TCP connection."""

    def __init__(self, listener: TcpListener) -> None:
        self.waiting = 0
        self._listener = listener
        self._messages = MessageReader()
        self._transport: asyncio.Transport | None = None
        self._client: tuple[Any, ...] = ("", 0)
        self.host = ""
        self.disallowed = False
        self._named: str | None = None  # whom a front end speaks for; empty for itself
        self._headed = False  # a PROXY header must come first
        self._active = 0.0  # loop time of the latest whole query or answer
        self._blocked = False  # the client does not read
        self._stopped = False  # we read no more
        self._paused = False
        self._ended = False  # the client will send no more
        self._queued = False  # others are served first
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, for uvloop's transports are no subclasses of asyncio's.
        self._transport = transport = cast(asyncio.Transport, transport)
        self._client = transport.get_extra_info("peername") or ("", 0)
        self.host = str(self._client[0])
        self._headed = self._listener.frontend.clients.find(self.host).front == "proxy"
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
        self._messages.feed(data)
        self._read()

    def eof_received(self) -> bool:
        """A client that will ask no more still gets its answers (RFC 7766 section 6.2.3)."""
        self._ended = True
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
        """Close once the buffered answers were sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._listener.forget(self)
        if self._transport is not None:
            _discard_unread(self._transport)
            self._transport.abort()

    def resume(self) -> None:
        """Go on after the others that were queued."""
        self._queued = False
        if self._transport is None:
            self._messages.clear()  # the client is gone
        else:
            self._read()

    def _read(self) -> None:
        """Answer the whole messages in the buffer, as many as may be open."""
        messages = self._messages
        if self._queued or (self._headed and not self._read_header()):
            return
        answered = 0
        while not self._full and (data := messages.next()) is not None:
            if not self._query(data):
                messages.clear()
                self.abort()
                return
            answered += 1
            if answered >= BATCH:
                self._queued = True
                self._listener.queue(self)
        self._throttle()
        if self._answered:
            self.close()

    def _read_header(self) -> bool:
        """Take off a front end's PROXY header; False if it is not there yet, or is none."""
        head = self._messages.peek(proxy.MAX_HEADER)
        try:
            if len(head) < proxy.size(head):
                return False
            host, _port, start = proxy.read(head)
        except WireError:
            self._listener.counters["malformed"] += 1
            self.abort()
            return False
        self._named = host
        self._messages.skip(start)
        self._headed = False
        return True

    @property
    def _full(self) -> bool:
        return self._blocked or self._stopped or self._queued or self.waiting >= MAX_PIPELINED

    @property
    def _answered(self) -> bool:
        """True if the client will ask no more, and nothing that it asked is left to answer."""
        if not self._ended or self.waiting:
            return False
        return self._stopped or self._headed or not self._messages.whole

    def _query(self, data: bytes) -> bool:
        """Answer one message; False if it deserves no answer, nor does the connection."""
        listener = self._listener
        frontend = listener.frontend
        listener.counters["queries"] += 1
        who = self._client_of(frontend)
        try:
            x = Exchange(parse_query(data), who, self._client, TCP)
            if x.query.options:
                frontend.read_options(x)
        except WireError as exc:
            listener.counters["malformed"] += 1
            error = frontend.error_answer(data, exc.rcode, who)
            self._write(error)
            return error != b""
        self._touch()
        if frontend.tap is not None:
            frontend.tap.query(x.host, x.query.data, TCP)
        found = frontend.chain.local(x)
        if found is None:
            x.when = perf_counter()
            self.waiting += 1
            frontend.chain.resolve(x, self._resolved)
        else:
            self._answer(x, found)
        return True

    def _client_of(self, frontend: Frontend) -> Client:
        # Found anew for each query: a reload may have changed its policy.
        if self._named:
            return frontend.clients.find(self._named)
        who = frontend.clients.find(self.host)
        return who if self._named is None else frontend.without_front(who)

    def _resolved(self, x: Exchange, found: Answer | None) -> None:
        full = self._full
        self.waiting -= 1
        if self._transport is None:
            return
        if found is not None:
            self._listener.frontend.forwarded.observe(perf_counter() - x.when)
            self._answer(x, found)
        self._touch()
        if self._answered:
            self.close()
        elif full:
            # Not from here: this may be inside `_read`'s own loop.
            self._listener.loop.call_soon(self._read)

    def _answer(self, x: Exchange, found: Answer) -> None:
        frontend = self._listener.frontend
        frontend.packets.account(x, found)
        wire = found.octets(x)
        if not wire:
            return  # dropped: the client will give up on it
        if len(wire) > MAX_MESSAGE:  # an upstream's largest, and our options
            wire = answer.error(x, SERVFAIL)
        if frontend.tap is not None:
            frontend.tap.answer(x.host, wire, TCP)
        self._write(wire)

    def _write(self, wire: bytes) -> None:
        if self._transport is not None and wire:
            self._transport.write(frame(wire))

    def _throttle(self) -> None:
        """Let the kernel hold what the client sends while we have enough of it."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._full == self._paused:
            return
        if self._ended:
            return  # there is nothing more to read, and to resume would bring the end once more
        self._paused = self._full
        if self._paused:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def _touch(self) -> None:
        self._active = self._listener.loop.time()
        self._listener.connections.touch(self)

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
