"""
The sockets that clients talk to: one UDP and one TCP socket for each address and worker.

Knows sockets and the chain of plugins; knows no names and no policy.

How it works
    A UDP socket's callback reads up to 64 datagrams and answers each before it reads the next, in
    plain function calls; only a forwarded query is answered later.
    A *ready* answer costs neither parsing nor plugins.  Answers of local plugins that the chain
    marked as ready are kept under the query's octets after its ID, and given again, behind the new
    ID, to clients that the acl is known to allow.  Any change of policy empties the table.  Both
    happen on the event loop's thread, so no answer of the old policy can be stored after it.
    A socket bound to a wildcard address learns from each datagram which of the machine's addresses
    it was sent to, and answers from there (RFC 3542 section 6.2): clients drop replies from others.
"""

import asyncio
import contextlib
import ipaddress
import socket
from collections import Counter
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, cast

from urlguard.config import Server
from urlguard.errors import WireError
from urlguard.plugins import Answer, Chain
from urlguard.wire import answer
from urlguard.wire.query import MIN_UDP_SIZE, Query, parse_query

if TYPE_CHECKING:
    from urlguard.engine import Live

BATCH: Final = 64  # queries of a socket answered in one go before the loop does something else
MAX_QUERY: Final = 4096  # octets of a datagram that are read; no honest query has more
MAX_READY: Final = 8192  # ready answers kept; then all are forgotten, which takes 0.5 ms
MAX_PIPELINED: Final = 64  # queries open on one TCP connection before reading pauses
_BARE_OPT: Final = 11  # octets of an OPT record without options
_MAX_SOURCES: Final = 1024  # addresses of this machine remembered by a wildcard socket
_WRITE_LIMIT: Final = 65_536  # octets that a TCP client may leave unread before reading pauses

_IP_PKTINFO: Final = getattr(socket, "IP_PKTINFO", 8)  # Python names it from 3.14 on
_IPV4_INFO: Final = Struct("=i4s4s")  # interface, local address, destination: ip(7)
_IPV6_INFO: Final = Struct("=16si")  # destination, interface: RFC 3542 section 6.1

Ancillary = list[tuple[int, int, bytes]]


class UdpListener:
    """
    Answer queries on a UDP socket.

    ``counters`` holds, since the start: ``queries``, ``ready`` (answered from ready answers),
    ``waited`` (forwarded), ``dropped``, ``malformed``, ``truncated``, ``send_failed``,
    ``read_failed``, and ``answer.NAME`` for each plugin that answered.
    """

    def __init__(
        self,
        sock: socket.socket,
        chain: Chain,
        live: "Live",
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.ready: dict[bytes, bytes] = {}
        self._sock = sock
        self._chain = chain
        self._loop = loop
        self._waiting = 0
        self._idle: asyncio.Future[None] | None = None
        self._sources: dict[bytes, Ancillary] = {}
        sock.setblocking(False)
        self._wildcard = ipaddress.ip_address(sock.getsockname()[0]).is_unspecified
        if self._wildcard and sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        elif self._wildcard:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        live.subscribe(self.ready.clear)

    def start(self) -> None:
        """Begin to read."""
        self._loop.add_reader(self._sock, self._read_any if self._wildcard else self._read)

    async def drain(self, deadline_s: float) -> bool:
        """
        Stop reading and wait for the forwarded queries under way.

        Args:
            deadline_s: seconds to wait at most.

        Returns:
            True if all of them were answered.
        """
        self._loop.remove_reader(self._sock)
        if self._waiting:
            self._idle = self._loop.create_future()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle, deadline_s)
        return not self._waiting

    def close(self) -> None:
        """Stop reading and close the socket."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()

    def _read(self) -> None:
        """Read and answer a batch.  The few lines up to `_slow` are the hot path."""
        sock = self._sock
        receive, send, get = sock.recvfrom, sock.sendto, self.ready.get
        allowed = self._chain.allowed
        count = ready = 0
        try:
            for _ in range(BATCH):
                data, client = receive(MAX_QUERY)
                count += 1
                tail = get(data[2:])
                if tail is not None and client[0] in allowed:
                    ready += 1
                    try:
                        send(data[:2] + tail, client)
                    except OSError:
                        self.counters["send_failed"] += 1
                else:
                    self._slow(data, client, None)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.counters["read_failed"] += 1
        self.counters["queries"] += count
        self.counters["ready"] += ready

    def _read_any(self) -> None:
        """The same for a wildcard address, where replies must leave from the address asked."""
        sock = self._sock
        receive, send, get = sock.recvmsg, sock.sendmsg, self.ready.get
        allowed, sources = self._chain.allowed, self._sources
        count = ready = 0
        try:
            for _ in range(BATCH):
                data, received, _flags, client = receive(MAX_QUERY, 64)
                count += 1
                info = received[0][2] if received else b""
                via = sources.get(info)
                if via is None:
                    via = self._source(info)
                tail = get(data[2:])
                if tail is not None and client[0] in allowed:
                    ready += 1
                    try:
                        send((data[:2], tail), via, 0, client)
                    except OSError:
                        self.counters["send_failed"] += 1
                else:
                    self._slow(data, client, via)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.counters["read_failed"] += 1
        self.counters["queries"] += count
        self.counters["ready"] += ready

    def _slow(self, data: bytes, client: tuple[Any, ...], via: Ancillary | None) -> None:
        """Parse a query and ask the chain."""
        try:
            q = parse_query(data, client)
        except WireError as exc:
            if exc.rcode is None:
                self.counters["dropped"] += 1
            else:
                self.counters["malformed"] += 1
                self._send(answer.error_raw(data, exc.rcode), client, via)
            return
        q.via = via
        found = self._chain.local(q)
        if found is None:
            self._waiting += 1
            self.counters["waited"] += 1
            self._chain.resolve(q, self._resolved)
            return
        # Only a question with at most a bare OPT record: a client's cookie would make each of its
        # queries a new entry, and padding would make entries as large as somebody likes.
        plain = q.question_end + _BARE_OPT if q.has_opt else q.question_end
        if found.ready and len(data) == plain and client[0] in self._chain.allowed:
            if len(self.ready) >= MAX_READY:
                self.ready.clear()
            self.ready[data[2:]] = self._fit(q, found)[2:]
        self._answer(q, found)

    def _resolved(self, q: Query, found: Answer | None) -> None:
        self._waiting -= 1
        if found is not None and self._sock.fileno() >= 0:
            self._answer(q, found)
        if self._idle is not None and not self._waiting and not self._idle.done():
            self._idle.set_result(None)

    def _answer(self, q: Query, found: Answer) -> None:
        self.counters["answer." + found.source] += 1
        self._send(self._fit(q, found), q.client, q.via)

    def _fit(self, q: Query, found: Answer) -> bytes:
        """The answer, or one that sends the client to TCP if it is too large for it."""
        wire = found.wire
        if len(wire) > MIN_UDP_SIZE and len(wire) > q.udp_limit:
            self.counters["truncated"] += 1
            return answer.truncated(q, wire[3] & 15)
        return wire

    def _send(self, wire: bytes, client: tuple[Any, ...], via: Ancillary | None) -> None:
        # A full buffer, a firewall's EPERM, a client at port 0: the answer is lost, as datagrams
        # may be, and the loop goes on.
        try:
            if via is None:
                self._sock.sendto(wire, client)
            else:
                self._sock.sendmsg((wire,), via, 0, client)
        except OSError:
            self.counters["send_failed"] += 1

    def _source(self, info: bytes) -> Ancillary:
        """What to send with a reply so that it leaves from the address that `info` names."""
        via: Ancillary = []
        if len(info) == _IPV4_INFO.size:
            _, local, _ = _IPV4_INFO.unpack(info)
            # No interface: the way back is routing's business.
            via = [(socket.IPPROTO_IP, _IP_PKTINFO, _IPV4_INFO.pack(0, local, bytes(4)))]
        elif len(info) == _IPV6_INFO.size:
            local, interface = _IPV6_INFO.unpack(info)
            scoped = ipaddress.IPv6Address(local).is_link_local
            packed = _IPV6_INFO.pack(local, interface if scoped else 0)
            via = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, packed)]
        if len(self._sources) >= _MAX_SOURCES:
            self._sources.clear()
        self._sources[info] = via
        return via


class TcpListener:
    """
    Answer queries on a TCP socket (RFC 7766).

    Queries of one connection are worked on side by side and answered as answers come.  Everything
    that a client can make us keep is bounded: connections, open queries on one, octets it does not
    read.

    ``counters`` holds, since the start: ``connections``, ``queries``, ``malformed``,
    ``closed_idle``, ``closed_full`` (to stay below the limit), ``closed_slow`` (the client did not
    read) and ``answer.NAME``.
    """

    def __init__(
        self,
        sock: socket.socket,
        chain: Chain,
        loop: asyncio.AbstractEventLoop,
        *,
        idle_s: float = Server.tcp_idle_s,
        connections: int = Server.tcp_connections,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.chain = chain
        self.loop = loop
        self.idle_s = idle_s
        # A dictionary for its order: who was active longest ago comes first.
        self.open: dict[_Connection, None] = {}
        self._limit = connections
        self._sock = sock
        self._server: asyncio.Server | None = None

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
        if len(self.open) >= self._limit:
            self.counters["closed_full"] += 1
            # Looking at a few is enough: if so many of the oldest are busy, we are overloaded.
            for other, _ in zip(self.open, range(64), strict=False):
                if not other.waiting:
                    other.abort()
                    break
            else:
                return False
        self.open[connection] = None
        return True


class _Connection(asyncio.Protocol):
    """One TCP connection: two octets of length, one message, and so on."""

    def __init__(self, listener: TcpListener) -> None:
        self.waiting = 0
        self._listener = listener
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._client: tuple[Any, ...] = ("", 0)
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
        if not self._listener.admit(self):
            transport.abort()
            return
        transport.set_write_buffer_limits(high=_WRITE_LIMIT)
        self._active = self._listener.loop.time()
        self._timer = self._listener.loop.call_later(self._listener.idle_s, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._listener.open.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._read()

    def eof_received(self) -> bool:
        """A client that will ask no more still gets its answers (RFC 7766 section 6.2.3)."""
        self._last_words = True
        self.stop()
        return self.waiting > 0

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
        self._listener.open.pop(self, None)
        if self._transport is not None:
            self._transport.abort()

    def _read(self) -> None:
        """Answer the whole messages in the buffer, as many as may be open."""
        buffer = self._buffer
        at = answered = 0
        self._yielding = False
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
                # A client that sends without end must not keep the loop from everybody else.
                self._yielding = True
                self._listener.loop.call_soon(self._read)
        del buffer[:at]
        self._throttle()

    @property
    def _full(self) -> bool:
        return self._blocked or self._stopped or self._yielding or self.waiting >= MAX_PIPELINED

    def _query(self, data: bytes) -> bool:
        """Answer one message; False if it deserves no answer, nor does the connection."""
        listener = self._listener
        listener.counters["queries"] += 1
        try:
            q = parse_query(data, self._client, tcp=True)
        except WireError as exc:
            listener.counters["malformed"] += 1
            if exc.rcode is None:
                return False
            self._write(answer.error_raw(data, exc.rcode))
            return True
        self._touch()
        found = listener.chain.local(q)
        if found is None:
            self.waiting += 1
            listener.chain.resolve(q, self._resolved)
        else:
            self._answer(found)
        return True

    def _resolved(self, q: Query, found: Answer | None) -> None:
        full = self._full
        self.waiting -= 1
        if self._transport is None:
            return
        if found is not None:
            self._answer(found)
        self._touch()
        if self._last_words and not self.waiting:
            self.close()
        elif full:
            # Not from here: this may be inside `_read`'s own loop.
            self._listener.loop.call_soon(self._read)

    def _answer(self, found: Answer) -> None:
        self._listener.counters["answer." + found.source] += 1
        self._write(found.wire)

    def _write(self, wire: bytes) -> None:
        if self._transport is not None and len(wire) <= 0xFFFF:
            self._transport.write(len(wire).to_bytes(2, "big") + wire)

    def _throttle(self) -> None:
        """Let the kernel hold what the client sends while we have enough of it."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._full == self._paused:
            return
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
