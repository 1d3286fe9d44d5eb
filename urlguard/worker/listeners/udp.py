"""
The UDP socket that clients talk to: one for each address and worker.

Knows sockets and the edge; knows no names and no policy.

How it works
    The socket's callback reads up to 64 datagrams and answers each before it reads the next, in
    plain function calls; only a query that must be asked upstream is answered later.
    A *ready* answer costs neither parsing nor plugins: a known client, within its limits, gets what
    lies in its segment's table under the query's octets after the ID; see `ready`.
    A batch ends early at a query that belongs to the sample, which costs the others nothing; see
    `sampling`.
    A socket bound to a wildcard address learns from each datagram which of the machine's addresses
    it was sent to, and answers from there (RFC 3542 section 6.2): clients drop replies from others.
"""

import asyncio
import contextlib
import ipaddress
import socket
from collections import Counter
from struct import Struct
from time import perf_counter
from typing import Any, Final

from urlguard.errors import WireError
from urlguard.plugins import Answer, Exchange
from urlguard.plugins.clients import Client
from urlguard.wire import answer
from urlguard.wire.query import MIN_UDP_SIZE, parse_query
from urlguard.worker.frontend import Edge

BATCH: Final = 64  # queries of a socket answered in one go before the loop does something else
SLOW_BATCH: Final = 24  # of them, that are not ready: about half a millisecond
MAX_QUERY: Final = 4096  # octets of a datagram that are read; no honest query has more
_MAX_SOURCES: Final = 1024  # addresses of this machine remembered by a wildcard socket

_IP_PKTINFO: Final = getattr(socket, "IP_PKTINFO", 8)  # Python names it from 3.14 on
_IPV4_INFO: Final = Struct("=i4s4s")  # interface, local address, destination: ip(7)
_IPV6_INFO: Final = Struct("=16si")  # destination, interface: RFC 3542 section 6.1

Ancillary = list[tuple[int, int, bytes]]


class UdpListener:
    """
    Answer queries on a UDP socket.

    ``counters`` holds, since the start: ``queries``, ``ready`` (answered from ready answers),
    ``waited`` (asked upstream), ``dropped``, ``malformed``, ``truncated``, ``send_failed`` and
    ``read_failed``.
    """

    def __init__(
        self,
        sock: socket.socket,
        edge: Edge,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._sock = sock
        self._edge = edge
        self._loop = loop
        self._waiting = 0
        self._waited = 0  # of the batch being read
        self._now = 0.0  # when it was begun, by the performance counter
        self._idle: asyncio.Future[None] | None = None
        self._sources: dict[bytes, Ancillary] = {}
        sock.setblocking(False)
        self._wildcard = ipaddress.ip_address(sock.getsockname()[0]).is_unspecified
        if self._wildcard and sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        elif self._wildcard:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)

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
        sock, edge = self._sock, self._edge
        receive, send, hits = sock.recvfrom, sock.sendto, edge.hits
        known = edge.clients.known.get
        started = self._now = perf_counter()
        count = ready = slow = 0
        left = edge.sample.left
        try:
            for _ in range(BATCH if left > BATCH else left):
                data, client = receive(MAX_QUERY)
                count += 1
                who = known(client[0])
                if who is not None and who.left > 0:
                    kept = who.ready.get(data[2:])
                    if kept is not None:
                        who.left -= 1
                        ready += 1
                        kept.stat.count += 1
                        try:
                            send(data[:2] + kept.tail, client)
                        except OSError:
                            self.counters["send_failed"] += 1
                        if kept.hit is not None and hits is not None:
                            hits.add(who.host, *kept.hit)
                        continue
                self._slow(data, client, None, who)
                slow += 1
                if slow >= SLOW_BATCH:
                    break
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.counters["read_failed"] += 1
        if self._count(count, ready, started):
            edge.note(data, client[0])

    def _read_any(self) -> None:
        """The same for a wildcard address, where replies must leave from the address asked."""
        sock, edge = self._sock, self._edge
        receive, send, hits = sock.recvmsg, sock.sendmsg, edge.hits
        known, sources = edge.clients.known.get, self._sources
        started = self._now = perf_counter()
        count = ready = slow = 0
        left = edge.sample.left
        try:
            for _ in range(BATCH if left > BATCH else left):
                data, received, _flags, client = receive(MAX_QUERY, 64)
                count += 1
                info = received[0][2] if received else b""
                via = sources.get(info)
                if via is None:
                    via = self._source(info)
                who = known(client[0])
                if who is not None and who.left > 0:
                    kept = who.ready.get(data[2:])
                    if kept is not None:
                        who.left -= 1
                        ready += 1
                        kept.stat.count += 1
                        try:
                            send((data[:2], kept.tail), via, 0, client)
                        except OSError:
                            self.counters["send_failed"] += 1
                        if kept.hit is not None and hits is not None:
                            hits.add(who.host, *kept.hit)
                        continue
                self._slow(data, client, via, who)
                slow += 1
                if slow >= SLOW_BATCH:
                    break
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.counters["read_failed"] += 1
        if self._count(count, ready, started):
            edge.note(data, client[0])

    def _count(self, count: int, ready: int, started: float) -> bool:
        """Book a batch; True if its last query belongs to the sample."""
        if not count:
            return False
        self.counters["queries"] += count
        self.counters["ready"] += ready
        each = (perf_counter() - started) / count
        self._edge.at_once.observe(each, count - self._waited)
        self._waited = 0
        sample = self._edge.sample
        sample.left -= count
        return sample.left <= 0

    def _slow(
        self, data: bytes, client: tuple[Any, ...], via: Ancillary | None, who: Client | None
    ) -> None:
        """Parse a query and ask the chain."""
        edge = self._edge
        if who is None:
            who = edge.clients.find(client[0])
        try:
            if who.front == "proxy":
                data, who = edge.unwrap(data, who)
            x = Exchange(parse_query(data), who, client)
            if x.query.options:
                edge.read_options(x)
        except WireError as exc:
            said = edge.complaint(data, exc.rcode, who)
            if said:
                self.counters["malformed"] += 1
                self._send(said, client, via)
            else:
                self.counters["dropped"] += 1
            return
        x.via = via
        if edge.tap is not None:
            edge.tap.query(x.host, x.query.data, False)
        found = edge.chain.local(x)
        if found is None:
            x.when = self._now
            self._waiting += 1
            self._waited += 1
            self.counters["waited"] += 1
            edge.chain.resolve(x, self._resolved)
            return
        wire = self._fit(x, found)
        if found.ready and wire:
            edge.keep(x, found, wire)
        edge.book(x, found)
        self._finish(x, wire)

    def _resolved(self, x: Exchange, found: Answer | None) -> None:
        self._waiting -= 1
        edge = self._edge
        edge.waited.observe(perf_counter() - x.when)
        if found is not None and self._sock.fileno() >= 0:
            edge.book(x, found)
            self._finish(x, self._fit(x, found))
        if self._idle is not None and not self._waiting and not self._idle.done():
            self._idle.set_result(None)

    def _finish(self, x: Exchange, wire: bytes) -> None:
        if not wire:
            self.counters["dropped"] += 1
            return
        if self._edge.tap is not None:
            self._edge.tap.answer(x.host, wire, False)
        self._send(wire, x.peer, x.via)

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
