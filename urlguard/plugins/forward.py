"""
forward: ask the upstream recursors and bring their answer back.

Stands last and is the only plugin that waits: `resolve` returns a future that callbacks of the
sockets fulfil, so that no task is made for a query over UDP.

How it works
    Each upstream has a few connected UDP sockets, each with a source port that the kernel chose.  A
    query goes out on a random one with a random ID (RFC 5452 sections 9.2 and 10).  A reply counts
    only if it came from the connected address, on the socket that asked, with that ID and that
    question; anything else is counted and ignored, and the true reply may still come.
    Each socket keeps its open queries in a dictionary in order of sending.  All wait equally long,
    so the oldest is always first, and one timer that looks at the first few of each dictionary
    serves all queries.
    No reply in time, no route, SERVFAIL or REFUSED: the next upstream is asked.  A truncated reply
    is passed on to a client that came over UDP, who will come again over TCP; for a client over TCP
    it is asked for again over TCP.
"""

import asyncio
import errno
import ipaddress
import os
import socket
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from urlguard import config
from urlguard.config import Endpoint, endpoint
from urlguard.errors import WireError
from urlguard.plugins.base import Answer, Parts
from urlguard.wire import answer
from urlguard.wire.query import QR, REFUSED, SERVFAIL, TC, Query, forwarded, header

SOCKETS: Final = 16  # for each upstream: as many source ports to guess from
BATCH: Final = 64  # replies read in one go before the loop may do something else
_SIZE: Final = 4096  # octets; more than the 1232 that we ask for
_SWEEPS: Final = 20  # times in one timeout that the timer looks
_OPCODE: Final = 0x7800

RESOLV_CONF: Final = Path("/etc/resolv.conf")


class _Flight:
    """One query on its way."""

    __slots__ = ("attempts", "deadline", "future", "ident", "last", "network", "query", "upstream")

    def __init__(self, query: Query, future: "asyncio.Future[Answer]", upstream: int) -> None:
        self.query = query
        self.future = future
        self.upstream = upstream  # the one being asked
        self.attempts = 0
        self.ident = 0
        self.deadline = 0.0
        self.last: bytes | None = None  # an upstream's refusal, given if nobody knows better
        self.network = False  # the latest attempt failed at the network, not in silence


class _Upstream:
    """One upstream's address and sockets."""

    def __init__(self, address: Endpoint) -> None:
        self.address = address
        self.channels: list[_Channel | None] = [None] * SOCKETS
        self.answered = 0.0  # loop time of its latest reply


class _Channel:
    """One connected socket and the queries open on it, by ID, oldest first."""

    __slots__ = ("open", "recv", "send", "sock", "upstream")

    def __init__(self, sock: socket.socket, upstream: _Upstream) -> None:
        self.sock = sock
        self.send = sock.send
        self.recv = sock.recv
        self.upstream = upstream
        self.open: dict[int, _Flight] = {}


class Forward:
    """
    Ask upstreams, one after the other.

    ``counters`` holds, since the start: ``sent``, ``answered``, ``ignored`` (datagrams that were no
    reply to an open query), ``malformed``, ``timeouts``, ``unreachable``, ``failed`` (queries that
    got our SERVFAIL), ``over_tcp`` and ``refused_load`` (above ``max_in_flight``).
    """

    name = "forward"

    def __init__(
        self,
        upstreams: Sequence[Endpoint],
        loop: asyncio.AbstractEventLoop,
        *,
        timeout_ms: int = 2000,
        max_in_flight: int = 10_000,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.in_flight = 0
        self._upstreams = [_Upstream(address) for address in upstreams]
        self._loop = loop
        self._timeout_s = timeout_ms / 1000
        self._max_in_flight = max_in_flight
        self._first = 0  # the upstream that is asked first
        self._random = array("I")
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    def from_config(cls, table: config.Forward, parts: Parts) -> Self:
        """The plugin for ``[forward]``; without upstreams, the system's resolvers."""
        upstreams = table.endpoints or system_resolvers(parts.config.server.listen)
        return cls(
            upstreams,
            parts.loop,
            timeout_ms=table.timeout_ms,
            max_in_flight=table.max_in_flight,
        )

    def resolve(self, q: Query) -> "asyncio.Future[Answer]":
        """The upstream's answer; SERVFAIL if there is none."""
        future: asyncio.Future[Answer] = self._loop.create_future()
        if self.in_flight >= self._max_in_flight:
            self.counters["refused_load"] += 1
            future.set_result(Answer(answer.error(q, SERVFAIL), "forward"))
        elif not self._upstreams or self._closed:
            self.counters["failed"] += 1
            future.set_result(Answer(answer.error(q, SERVFAIL, answer.EDE_NETWORK), "forward"))
        else:
            self.in_flight += 1
            self._send(_Flight(q, future, self._first))
        return future

    def close(self) -> None:
        """Close the sockets; queries under way get SERVFAIL."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._tasks:
            task.cancel()
        for upstream in self._upstreams:
            channels, upstream.channels = upstream.channels, [None] * SOCKETS
            for channel in channels:
                if channel is not None:
                    self._drop(channel)

    # ---- sending

    def _send(self, flight: _Flight) -> None:
        """Send the query to its upstream, or to the next ones if that cannot be reached."""
        while True:
            upstream = self._upstreams[flight.upstream]
            flight.attempts += 1
            try:
                channel, ident = self._channel(upstream)
                channel.send(forwarded(flight.query, ident))
            except OSError as exc:
                self.counters["unreachable"] += 1
                flight.network = exc.errno not in (errno.EAGAIN, errno.ENOBUFS)
                if not self._next(flight):
                    self._fail(flight)
                    return
                continue
            self.counters["sent"] += 1
            flight.ident = ident
            flight.deadline = self._loop.time() + self._timeout_s
            channel.open[ident] = flight
            if self._timer is None:
                self._timer = self._loop.call_later(self._timeout_s / _SWEEPS, self._sweep)
            return

    def _channel(self, upstream: _Upstream) -> tuple[_Channel, int]:
        """A random socket of the upstream, opened if need be, and a random ID not in use there."""
        if not self._random:
            # The generator of the operating system, a thousand numbers at a time: neither ID nor
            # port may be foretold from earlier ones (RFC 5452 section 10).
            self._random.frombytes(os.urandom(4096))
        number = self._random.pop()
        slot = (number >> 16) % SOCKETS
        channel = upstream.channels[slot]
        if channel is None:
            channel = upstream.channels[slot] = self._open(upstream)
        ident = number & 0xFFFF
        while ident in channel.open:
            if len(channel.open) > 60_000:
                raise OSError(errno.ENOBUFS, "all IDs are in use")
            ident = (ident + 40_503) & 0xFFFF  # odd, so that every ID is tried
        return channel, ident

    def _open(self, upstream: _Upstream) -> _Channel:
        family = socket.AF_INET6 if ":" in upstream.address.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.connect(upstream.address)
        except OSError:
            sock.close()
            raise
        channel = _Channel(sock, upstream)
        self._loop.add_reader(sock, self._readable, channel)
        return channel

    # ---- receiving

    def _readable(self, channel: _Channel) -> None:
        recv, flights = channel.recv, channel.open
        for _ in range(BATCH):
            try:
                reply = recv(_SIZE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                # ICMP said that nobody listens there: no need to wait for the timeout.
                self.counters["unreachable"] += 1
                for flight in list(flights.values()):
                    flights.pop(flight.ident)
                    flight.network = True
                    self._retry(flight)
                return
            flight_or_none = flights.get(reply[0] << 8 | reply[1]) if len(reply) > 12 else None
            if flight_or_none is None or not _matches(reply, flight_or_none.query):
                self.counters["ignored"] += 1
                continue
            del flights[flight_or_none.ident]
            channel.upstream.answered = self._loop.time()
            self._replied(flight_or_none, reply)
            if not flights:
                return  # nothing more to come, so no need to ask the kernel

    def _replied(self, flight: _Flight, reply: bytes) -> None:
        q = flight.query
        rcode = reply[3] & 15
        if reply[2] & TC >> 8:
            if q.tcp:
                task = self._loop.create_task(self._over_tcp(flight))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self._finish(flight, answer.truncated(q, rcode))
            return
        if rcode in (SERVFAIL, REFUSED) and flight.last is None:
            flight.last = reply
            if self._next(flight):
                self._send(flight)
                return
        self._deliver(flight, reply)

    def _deliver(self, flight: _Flight, reply: bytes) -> None:
        try:
            wire = answer.rewrite_upstream(reply, flight.query)
        except WireError:
            self.counters["malformed"] += 1
            flight.last = None
            self._retry(flight)
        else:
            self._finish(flight, wire)

    async def _over_tcp(self, flight: _Flight) -> None:
        """Ask the same upstream again over TCP (RFC 7766)."""
        self.counters["over_tcp"] += 1
        address = self._upstreams[flight.upstream].address
        ident = int.from_bytes(os.urandom(2), "big")
        ask = forwarded(flight.query, ident)
        writer = None
        reply = b""
        try:
            async with asyncio.timeout(self._timeout_s):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(len(ask).to_bytes(2, "big") + ask)
                length = int.from_bytes(await reader.readexactly(2), "big")
                reply = await reader.readexactly(length)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            flight.network = True
        except asyncio.CancelledError:
            self._fail(flight)
            raise
        finally:
            if writer is not None:
                writer.close()
        if len(reply) > 12 and reply[:2] == ask[:2] and _matches(reply, flight.query):
            self._deliver(flight, reply)
        else:
            self._retry(flight)

    # ---- going on

    def _next(self, flight: _Flight) -> bool:
        """Point the flight at the next upstream; False if all have been asked."""
        if flight.attempts >= len(self._upstreams) or self._closed:
            return False
        flight.upstream = (flight.upstream + 1) % len(self._upstreams)
        return True

    def _retry(self, flight: _Flight) -> None:
        if self._next(flight):
            self._send(flight)
        else:
            self._fail(flight)

    def _fail(self, flight: _Flight) -> None:
        """No upstream gave an answer: give the refusal that one gave, or SERVFAIL."""
        if flight.last is not None:
            last, flight.last = flight.last, None
            self._deliver(flight, last)
            return
        self.counters["failed"] += 1
        ede = answer.EDE_NETWORK if flight.network else answer.EDE_NO_REACHABLE
        self._finish(flight, answer.error(flight.query, SERVFAIL, ede))

    def _finish(self, flight: _Flight, wire: bytes) -> None:
        self.in_flight -= 1
        self.counters["answered"] += 1
        if not flight.future.done():  # the client's connection may be gone
            flight.future.set_result(Answer(wire, "forward"))

    def _sweep(self) -> None:
        """Take out the queries that waited long enough; come again while any is open."""
        now = self._loop.time()
        late: list[_Flight] = []
        more = False
        for upstream in self._upstreams:
            for channel in upstream.channels:
                if channel is None:
                    continue
                flights = channel.open
                while flights:
                    flight = next(iter(flights.values()))
                    if flight.deadline > now:
                        more = True
                        break
                    del flights[flight.ident]
                    late.append(flight)
        self._timer = None
        if more:
            self._timer = self._loop.call_later(self._timeout_s / _SWEEPS, self._sweep)
        for flight in late:
            self.counters["timeouts"] += 1
            flight.network = False
            silent = self._upstreams[flight.upstream]
            if flight.upstream == self._first and silent.answered < now - self._timeout_s:
                # Nothing at all came from it meanwhile: begin with the next one from now on.
                self._first = (self._first + 1) % len(self._upstreams)
            self._retry(flight)

    def _drop(self, channel: _Channel) -> None:
        self._loop.remove_reader(channel.sock)
        channel.sock.close()
        flights = list(channel.open.values())
        channel.open.clear()
        for flight in flights:
            self._fail(flight)


def _matches(reply: bytes, q: Query) -> bool:
    """
    True if `reply` is a response to the question of `q`, in any spelling of the name (RFC 4343).

    Type and class are compared as they are: 65 and 97 differ as letters do in case.
    """
    _, flags, questions, *_ = header(reply)
    if flags & (QR | _OPCODE) != QR or questions != 1:
        return False
    end = q.question_end
    asked = q.data[12:end]
    got = reply[12:end]
    return got == asked or (got[-4:] == asked[-4:] and got[:-4].lower() == asked[:-4].lower())


def system_resolvers(listen: Sequence[Endpoint], path: Path = RESOLV_CONF) -> list[Endpoint]:
    """
    The ``nameserver`` lines of resolv.conf, without ourselves: that would be a loop.

    Args:
        listen: our own addresses; a wildcard on port 53 stands for all of loopback.
    """
    found = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            upstream = endpoint(words[1] if ":" not in words[1] else f"[{words[1]}]", 53)
        except ValueError:
            continue
        own = upstream in listen or (
            upstream.loopback and any(e.port == 53 and _wildcard(e.host) for e in listen)
        )
        if not own and upstream not in found:
            found.append(upstream)
    return found


def _wildcard(host: str) -> bool:
    return ipaddress.ip_address(host).is_unspecified
