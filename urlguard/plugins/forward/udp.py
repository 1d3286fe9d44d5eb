"""
The source ports to one upstream.

How it works
    A pool of connected UDP sockets, each on a port drawn by chance from all that an ordinary
    process may have.  A query leaves on a random one with a random ID.  After some hundred queries
    or some minutes, how many nobody can tell, a socket is retired: its place in the pool gets
    another port, and it is closed when the last query open on it has ended.  So is a socket that
    gets more than a few datagrams which are no reply to anything: whoever has found a port has few
    tries to guess the rest.
    A reply counts if it comes from the upstream's address and port (the kernel sees to that) to the
    socket that asked, with the ID that is open there, and with the question octet for octet, its
    spelling included (RFC 5452 section 9.1).  What does not is counted by what is wrong with it,
    and the wait goes on.
"""

import asyncio
import errno
import socket
from collections import Counter
from typing import Final, Protocol

from urlguard.config import Endpoint
from urlguard.plugins.forward.qname_case import Random, same_name
from urlguard.plugins.forward.upstream import Attempt

BATCH: Final = 16  # datagrams read in one go before the loop may do something else
STRAYS: Final = 32  # datagrams that are no reply, until a socket is retired

_SIZE: Final = 4096  # octets; more than the 1232 that we ask for
# Below are the ports that services of this machine have, and want back when they restart.
_LOWEST: Final = 16_384
_PORTS: Final = 65_536 - _LOWEST
_DRAWS: Final = 32  # ports that may be taken before the kernel chooses
_QUERIES: Final = (200, 800)  # a socket serves from 200 up to 1000 queries
_AGE_S: Final = (60, 240)
_FULL: Final = 60_000  # IDs open on one socket


class Owner(Protocol):
    """Who sends queries and wants to know what comes of them."""

    counters: Counter[str]

    def replied(self, attempt: Attempt, data: bytes) -> None:
        """A reply with the right ID and question; the attempt is not open any more."""

    def broke(self, attempt: Attempt, reason: str) -> None:
        """The network failed; the attempt is not open any more."""

    def misspelled(self, attempt: Attempt) -> None:
        """A reply that was right but for its spelling; the attempt is still open."""

    def headless(self, attempt: Attempt) -> None:
        """A FORMERR or NOTIMP of a bare header under the right ID; the attempt is still open."""


class Channel:
    """One connected socket and the queries open on it, by ID."""

    __slots__ = (
        "left",
        "open",
        "pool",
        "recv",
        "retired",
        "send",
        "slot",
        "sock",
        "strays",
        "until",
    )

    def __init__(
        self, sock: socket.socket, pool: "Ports", slot: int, left: int, until: float
    ) -> None:
        self.sock = sock
        self.slot = slot  # its place in the pool
        self.send = sock.send
        self.recv = sock.recv
        self.pool = pool
        self.open: dict[int, Attempt] = {}
        self.left = left  # queries until it is retired
        self.until = until  # loop time
        self.strays = 0
        self.retired = False

    def forget(self, attempt: Attempt) -> None:
        """Wait for the attempt's reply no longer."""
        self.open.pop(attempt.ident, None)
        if self.retired and not self.open:
            self.pool.shut(self)


class Ports:
    """
    The pool.

    Args:
        count: sockets; they are opened when they are first needed.
    """

    def __init__(
        self,
        owner: Owner,
        address: Endpoint,
        count: int,
        loop: asyncio.AbstractEventLoop,
        random: Random,
    ) -> None:
        self._owner = owner
        self._address = address
        self._loop = loop
        self._random = random
        self._count = count
        self._slots: list[Channel | None] = [None] * count
        self._retired: set[Channel] = set()

    def take(self, attempt: Attempt, number: int, now: float) -> Channel:
        """
        Open the attempt on a random socket under a random ID.

        Args:
            number: 48 random bits.

        Raises:
            OSError: no socket can be opened, or all IDs are in use.
        """
        slot = (number >> 16 & 0xFFFFFFFF) % self._count
        channel = self._slots[slot]
        if channel is None or channel.left <= 0 or now > channel.until:
            channel = self._renew(slot, channel, now)
        channel.left -= 1
        ident = number & 0xFFFF
        flights = channel.open
        while ident in flights:
            if len(flights) > _FULL:
                raise OSError(errno.ENOBUFS, "all IDs are in use")
            ident = (ident + 40_503) & 0xFFFF  # odd, so that every ID is tried
        flights[ident] = attempt
        attempt.ident = ident
        attempt.channel = channel
        attempt.strays = channel.strays
        return channel

    def refused(self, channel: Channel, reason: str) -> None:
        """
        The network refused what was sent on a socket: end all that is open there, and the socket.

        libuv stops watching a socket that had an error: it would be deaf from now on.
        """
        ended = list(channel.open.values())
        for attempt in ended:
            attempt.channel = None
        self.shut(channel)
        for attempt in ended:
            # Later: what is sent in its place may find the next socket refused, and so on.
            self._loop.call_soon(self._owner.broke, attempt, reason)

    def close(self) -> list[Attempt]:
        """Close all sockets; what was open."""
        channels = {channel for channel in self._slots if channel is not None} | self._retired
        self._slots = [None] * self._count
        ended: list[Attempt] = []
        for channel in channels:
            ended += channel.open.values()
            self.shut(channel)
        return ended

    def shut(self, channel: Channel) -> None:
        """Close one socket."""
        self._retired.discard(channel)
        if self._slots[channel.slot] is channel:
            self._slots[channel.slot] = None
        channel.open.clear()
        channel.retired = True
        if channel.sock.fileno() >= 0:
            self._loop.remove_reader(channel.sock)
            channel.sock.close()

    def _renew(self, slot: int, old: Channel | None, now: float) -> Channel:
        """Another port for a place in the pool."""
        if old is not None and old.open and len(self._retired) >= spare(self._count):
            return old  # descriptors are bounded; it goes on until others have ended
        try:
            sock = self._open()
        except OSError as exc:
            if exc.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            # No descriptor is left: fewer ports are better than no answers.
            if old is None:
                old = next((channel for channel in self._slots if channel is not None), None)
            if old is None:
                raise
            return old
        left, until = self._random.number(), self._random.number()
        channel = Channel(
            sock,
            self,
            slot,
            _QUERIES[0] + left % (_QUERIES[1] + 1),
            now + _AGE_S[0] + until % _AGE_S[1],
        )
        self._loop.add_reader(sock, self._readable, channel)
        self._slots[slot] = channel
        if old is not None:
            old.retired = True
            if old.open:
                self._retired.add(old)
            else:
                self.shut(old)
        return channel

    def _open(self) -> socket.socket:
        six = ":" in self._address.host
        sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            for _ in range(_DRAWS):
                port = _LOWEST + self._random.number() % _PORTS
                if port == self._address.port:
                    continue  # on loopback it is the upstream's own
                try:
                    sock.bind(("::" if six else "0.0.0.0", port))  # noqa: S104 - connected below
                except OSError as exc:
                    if exc.errno not in (errno.EADDRINUSE, errno.EACCES):
                        raise
                else:
                    break
            sock.connect(self._address)
        except OSError:
            sock.close()
            raise
        return sock

    # ---- receiving

    def _readable(self, channel: Channel) -> None:
        recv, flights = channel.recv, channel.open
        for _ in range(BATCH):
            try:
                data = recv(_SIZE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                # ICMP reported that nobody listens there: no need to wait for the timeout.
                self.refused(channel, exc.strerror or "refused")
                return
            attempt = flights.get(data[0] << 8 | data[1]) if len(data) >= 12 else None
            if (
                attempt is None
                or data[12 : 12 + len(attempt.question)] != attempt.question
                or data[2] & 0xF8 != 0x80  # a response to a query
                or data[4:6] != b"\0\1"
            ):
                self._stray(channel, attempt, data)
                if channel.retired and not flights:
                    return
                continue
            del flights[attempt.ident]
            attempt.channel = None
            if channel.retired and not flights:
                self.shut(channel)
            self._owner.replied(attempt, data)
            if not flights:
                return  # nothing more to come, so no need to ask the kernel

    def _stray(self, channel: Channel, attempt: Attempt | None, data: bytes) -> None:
        """Count what is no reply; many of them make the socket's port known to an attacker."""
        kind = "malformed"
        if len(data) >= 12 and data[2] & 0xF8 == 0x80:
            if attempt is None:
                kind = "wrong_id" if channel.open else "wrong_port"
            elif len(data) == 12 and data[3] & 15 in (1, 4):
                kind = "headless"
            elif data[4:6] == b"\0\1":
                got = data[12 : 12 + len(attempt.question)]
                kind = "wrong_case" if same_name(got, attempt.question) else "wrong_question"
        self._owner.counters[kind] += 1
        channel.strays += 1
        if channel.strays >= STRAYS:
            channel.left = 0
            if not channel.open:
                # Nobody waits here: whatever comes is for nobody, and the kernel can say so.
                self.shut(channel)
        if attempt is not None and kind == "wrong_case":
            attempt.odd = True
            self._owner.misspelled(attempt)
        elif attempt is not None and kind == "headless":
            self._owner.headless(attempt)


def spare(count: int) -> int:
    """How many retired sockets a pool of `count` may have."""
    return max(16, count // 4)
