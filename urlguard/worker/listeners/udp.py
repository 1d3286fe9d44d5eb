"""
The UDP socket that clients talk to: one for each address and worker.

Knows sockets and the frontend; knows no names and no policy.

How it works
    The socket's callback reads up to 64 datagrams and answers each before it reads the next, in
    plain function calls; only a forwarded query is answered later.
    The packet cache answers without parsing and without plugins, from within the read loop; the
    chain is asked for the rest, one query at a time.  An answer is in the packet cache before the
    next datagram is read, so of a burst of the same question the chain gets one.  Only if a plugin
    has ``on_queries`` are the queries of a batch collected and the chain asked about all of them:
    for plugins without it that costs more than it saves.
    A batch ends early at a query that belongs to the sample, which costs the others nothing.
    There is one read loop over two functions of the socket: `Receive` gives a datagram and its
    peer, `Send` answers a peer.  With an address of its own these are the socket's own C functions.
    A socket bound to a wildcard address learns from each datagram which of the machine's addresses
    it was sent to, and answers from there (RFC 3542 section 6.2), for clients drop replies from
    others: its two are closures, and a peer names that address too.
"""

import asyncio
import contextlib
import ipaddress
import socket
from collections import Counter
from collections.abc import Callable
from functools import partial
from struct import Struct
from time import perf_counter
from typing import Any, Final

from urlguard.config import Server
from urlguard.errors import WireError
from urlguard.plugins import Answer, Exchange
from urlguard.wire import answer
from urlguard.wire.query import MIN_UDP_SIZE, UDP, Transport, parse_query
from urlguard.worker.frontend import Frontend

BATCH: Final = 64  # queries of a socket answered in one go before the loop does something else
ASKED_BATCH: Final = 24  # of them, for which the chain is asked: about half a millisecond
MAX_QUERY: Final = 4096  # octets of a datagram that are read; no honest query has more
_MAX_SOURCES: Final = 1024  # addresses of this machine remembered by a wildcard socket

_IP_PKTINFO: Final = getattr(socket, "IP_PKTINFO", 8)  # Python names it from 3.14 on
_IPV4_INFO: Final = Struct("=i4s4s")  # interface, local address, destination: ip(7)
_IPV6_INFO: Final = Struct("=16si")  # destination, interface: RFC 3542 section 6.1

Ancillary = list[tuple[int, int, bytes]]
Peer = tuple[Any, ...]  # what a socket's `Send` needs to answer; first comes the address as text
Receive = Callable[[], tuple[bytes, Peer]]
Send = Callable[[bytes, Peer], Any]


class UdpListener:
    """
    Answer queries on a UDP socket.

    ``counters`` holds, since the start: ``queries``, ``packet_cache`` (answered from it),
    ``forwarded`` (to an upstream), ``dropped``, ``malformed``, ``truncated``, ``send_failed`` and
    ``read_failed``.
    """

    transport: Final[Transport] = UDP

    def __init__(
        self,
        sock: socket.socket,
        frontend: Frontend,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._sock = sock
        self._frontend = frontend
        self._loop = loop
        self._open = 0  # queries that an upstream was asked for
        self._forwarded = 0  # of the batch being read
        self._now = 0.0  # when it was begun, by the performance counter
        self._idle: asyncio.Future[None] | None = None
        sock.setblocking(False)
        wildcard = ipaddress.ip_address(sock.getsockname()[0]).is_unspecified
        self._receive, self._send_to = _wildcard(sock) if wildcard else _bound(sock)

    async def start(self) -> None:
        """Begin to read."""
        self._loop.add_reader(self._sock, self._read)

    def configure(self, server: Server) -> None:
        """Nothing of ``[server]`` that a reload may change concerns UDP."""

    async def drain(self, deadline_s: float) -> bool:
        """
        Stop reading and wait for the forwarded queries under way.

        Args:
            deadline_s: seconds to wait at most.

        Returns:
            True if all of them were answered.
        """
        self._loop.remove_reader(self._sock)
        if self._open:
            self._idle = self._loop.create_future()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle, deadline_s)
        return not self._open

    def close(self) -> None:
        """Stop reading and close the socket."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()

    def _read(self) -> None:
        """Read and answer a batch.  The few lines up to `_ask` are the hot path."""
        receive, send = self._receive, self._send_to
        packets = self._frontend.packets
        lookup, left = packets.lookup, packets.queries.left
        batch: list[Exchange] | None = [] if self._frontend.chain.batches else None
        started = self._now = perf_counter()
        count = asked = 0
        try:
            for _ in range(BATCH if left > BATCH else left):
                data, peer = receive()
                count += 1
                tail = lookup(data, peer[0])
                if tail is not None:
                    try:
                        send(data[:2] + tail, peer)
                    except OSError:
                        self.counters["send_failed"] += 1
                    continue
                self._ask(data, peer, batch)
                asked += 1
                if asked >= ASKED_BATCH:
                    break
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.counters["read_failed"] += 1
        if batch:
            for x, found in zip(batch, self._frontend.chain.local_batch(batch), strict=True):
                try:
                    self._answer(x, found)
                except Exception as exc:  # it must not cost the queries behind it their answers
                    problem = {"message": "an answer could not be sent", "exception": exc}
                    self._loop.call_exception_handler(problem)
        if count:
            self.counters["queries"] += count
            self.counters["packet_cache"] += count - asked
            each = (perf_counter() - started) / count
            self._frontend.inline.observe(each, count - self._forwarded)
            self._forwarded = 0
            if packets.sample(count):
                self._frontend.sample(data, peer[0])

    def _ask(self, data: bytes, peer: Peer, batch: list[Exchange] | None) -> None:
        """Parse a query and ask the chain, or add it to the batch that it is asked about later."""
        frontend = self._frontend
        client = frontend.clients.find(peer[0])
        try:
            if client.front == "proxy":
                data, client = frontend.unwrap(data, client)
            x = Exchange(parse_query(data), client, peer)
            if x.query.options:
                frontend.read_options(x)
        except WireError as exc:
            error = frontend.error_answer(data, exc.rcode, client)
            if error:
                self.counters["malformed"] += 1
                self._send(error, peer)
            else:
                self.counters["dropped"] += 1
            return
        if frontend.tap is not None:
            frontend.tap.query(x.host, x.query.data, UDP)
        if batch is None:
            self._answer(x, frontend.chain.local(x))
        else:
            batch.append(x)

    def _answer(self, x: Exchange, found: Answer | None) -> None:
        """Send what the chain gave, or have an upstream asked."""
        frontend = self._frontend
        if found is None:
            x.when = self._now
            self._open += 1
            self._forwarded += 1
            self.counters["forwarded"] += 1
            frontend.chain.resolve(x, self._resolved)
            return
        wire = self._fit(x, found)
        if found.storable and wire:
            frontend.packets.store(x, found, wire)
        frontend.packets.account(x, found)
        self._finish(x, wire)

    def _resolved(self, x: Exchange, found: Answer | None) -> None:
        self._open -= 1
        frontend = self._frontend
        frontend.forwarded.observe(perf_counter() - x.when)
        if found is not None and self._sock.fileno() >= 0:
            frontend.packets.account(x, found)
            self._finish(x, self._fit(x, found))
        if self._idle is not None and not self._open and not self._idle.done():
            self._idle.set_result(None)

    def _finish(self, x: Exchange, wire: bytes) -> None:
        if not wire:
            self.counters["dropped"] += 1
            return
        if self._frontend.tap is not None:
            self._frontend.tap.answer(x.host, wire, UDP)
        self._send(wire, x.peer)

    def _fit(self, x: Exchange, found: Answer) -> bytes:
        """The answer, or one that sends the client to TCP if it is too large for it."""
        wire = found.octets(x)
        if len(wire) <= MIN_UDP_SIZE or len(wire) <= x.query.udp_limit:
            return wire
        if found.reply is not None and found.wire is None and found.reply.counts[2]:
            # Additional records are a courtesy: without them it may fit (RFC 2181 section 9).
            found.reply = found.reply.without_additional()
            wire = found.octets(x)
            if len(wire) <= x.query.udp_limit:
                return wire
        self.counters["truncated"] += 1
        return answer.truncated(x, wire[3] & 15)

    def _send(self, wire: bytes, peer: Peer) -> None:
        # A full buffer, a firewall's EPERM, a client at port 0: the answer is lost, as datagrams
        # may be, and the loop goes on.
        try:
            self._send_to(wire, peer)
        except OSError:
            self.counters["send_failed"] += 1


def _bound(sock: socket.socket) -> tuple[Receive, Send]:
    """How a socket with an address of its own receives and sends; its peers are addresses."""
    return partial(sock.recvfrom, MAX_QUERY), sock.sendto


def _wildcard(sock: socket.socket) -> tuple[Receive, Send]:
    """The same for a wildcard address, where a peer also names the address to answer from."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    recvmsg, sendmsg = sock.recvmsg, sock.sendmsg
    sources: dict[bytes, Ancillary] = {}

    def receive() -> tuple[bytes, Peer]:
        data, received, _flags, address = recvmsg(MAX_QUERY, 64)
        info = received[0][2] if received else b""
        source = sources.get(info)
        if source is None:
            if len(sources) >= _MAX_SOURCES:
                sources.clear()
            source = sources[info] = _source(info)
        return data, (address[0], address, source)

    def send(wire: bytes, peer: Peer) -> None:
        sendmsg((wire,), peer[2], 0, peer[1])

    return receive, send


def _source(info: bytes) -> Ancillary:
    """What to send with a reply so that it leaves from the address that `info` names."""
    if len(info) == _IPV4_INFO.size:
        _, local, _ = _IPV4_INFO.unpack(info)
        # No interface: the way back is routing's business.
        return [(socket.IPPROTO_IP, _IP_PKTINFO, _IPV4_INFO.pack(0, local, bytes(4)))]
    if len(info) == _IPV6_INFO.size:
        local, interface = _IPV6_INFO.unpack(info)
        scoped = ipaddress.IPv6Address(local).is_link_local
        packed = _IPV6_INFO.pack(local, interface if scoped else 0)
        return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, packed)]
    return []
