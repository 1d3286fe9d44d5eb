"""
The clients: queries as a scenario writes them, from any address of loopback or through a front end.
"""

import ipaddress
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import dns.edns
import dns.flags
import dns.message
import dns.rdataclass
import dns.rdatatype

from tests.clock import SimulatedLoop
from tests.scenario.vocabulary import Ask, ScenarioError

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_COOKIE = 10


@dataclass
class Asked:
    """A query on its way, and what came back: ``wire`` is None while nothing did."""

    ask: Ask
    sent: bytes
    at: float  # loop time
    wire: bytes | None = None
    came: float = 0.0
    cookie: bytes = b""
    more: list[bytes] = field(default_factory=list)  # second answers, which nobody may send
    hang_up: Callable[[], None] = lambda: None

    def take(self, wire: bytes, now: float) -> None:
        """An answer."""
        if self.wire is None:
            self.wire, self.came = wire, now
        else:
            self.more.append(wire)


class Clients:
    """
    All clients of a scenario.

    Args:
        udp: the resolver's address.
        tcp: the same for TCP.
    """

    def __init__(self, loop: SimulatedLoop, udp: tuple[str, int], tcp: tuple[str, int]) -> None:
        self._loop = loop
        self._udp = udp
        self._tcp = tcp
        self._number = 0
        self._cookies: dict[str, bytes] = {}  # what each client shows
        self._open: set[socket.socket] = set()
        self._streams: dict[str, _Stream] = {}

    def send(self, ask: Ask, client: str, via: str | None) -> Asked:
        """
        Send a query.

        Args:
            client: whom it is from.
            via: the front end that passes it on, with a PROXY header; None: nobody.
        """
        self._number = self._number % 0xFFFF + 1
        cookie = b""
        if ask.cookie is not None:
            fresh = struct.pack(
                "!Q", 0xC00C1E0000000000 + int(ipaddress.ip_address(client)) % 2**40
            )
            cookie = bytes.fromhex(ask.cookie) or self._cookies.setdefault(client, fresh)
        wire = _query(ask, self._number, cookie)
        header = b"" if via is None else _proxy(client, tcp=ask.tcp)
        asked = Asked(ask, wire, self._loop.now, cookie=cookie)
        source = via or client
        if ask.tcp:
            self._over_tcp(asked, header, source)
        else:
            self._over_udp(asked, header + wire, source)
        return asked

    def learn(self, asked: Asked, client: str, answer: dns.message.Message) -> bytes:
        """Remember the server's cookie, as a client does; returns it, empty without one."""
        for option in answer.options:
            if option.otype == _COOKIE:
                data: bytes = option.to_wire()
                if asked.ask.cookie == "":
                    self._cookies[client] = data
                return data
        return b""

    def close(self) -> None:
        """Close all sockets."""
        for sock in list(self._open):
            self._shut(sock)
        for stream in self._streams.values():
            stream.close()

    def _shut(self, sock: socket.socket) -> None:
        self._open.discard(sock)
        if sock.fileno() >= 0:
            self._loop.remove_reader(sock)
            sock.close()

    def _over_udp(self, asked: Asked, data: bytes, source: str) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind((source, 0))
        sock.connect(self._udp)
        self._open.add(sock)
        asked.hang_up = partial(self._shut, sock)

        def readable() -> None:
            try:
                asked.take(sock.recv(65536), self._loop.now)
            except OSError:
                return

        self._loop.add_reader(sock, readable)
        sock.send(data)

    def _over_tcp(self, asked: Asked, header: bytes, source: str) -> None:
        stream = self._streams.get(source)
        if stream is None or stream.over or not asked.ask.keepopen:
            stream = _Stream(self._loop, self._tcp, source, header)
            if asked.ask.keepopen:
                self._streams[source] = stream
            else:
                self._open.add(stream.sock)
                asked.hang_up = partial(self._shut, stream.sock)
        stream.ask(asked)


class _Stream:
    """A TCP connection of a client."""

    def __init__(
        self, loop: SimulatedLoop, server: tuple[str, int], source: str, header: bytes
    ) -> None:
        self.over = False
        self._loop = loop
        self._buffer = b""
        self._open: dict[bytes, Asked] = {}
        self.sock = sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind((source, 0))
        sock.connect(server)  # the kernel accepts it at once
        sock.setblocking(False)
        loop.add_reader(sock, self._readable)
        if header:
            sock.send(header)

    def ask(self, asked: Asked) -> None:
        """Send a query on it."""
        self._open[asked.sent[:2]] = asked
        self.sock.send(len(asked.sent).to_bytes(2, "big") + asked.sent)

    def close(self) -> None:
        """Close it."""
        self.over = True
        if self.sock.fileno() >= 0:
            self._loop.remove_reader(self.sock)
            self.sock.close()

    def _readable(self) -> None:
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._buffer += data
        while len(self._buffer) >= 2:
            end = 2 + int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < end:
                return
            wire, self._buffer = self._buffer[2:end], self._buffer[end:]
            if wire[:2] in self._open:
                self._open[wire[:2]].take(wire, self._loop.now)


def _query(ask: Ask, number: int, cookie: bytes) -> bytes:
    """The octets of a query, good or not."""
    flags = (ask.qr << 15) | (ask.opcode << 11) | (ask.rd << 8) | (ask.ad << 5) | (ask.cd << 4)
    labels = [] if ask.name == "." else ask.name.encode("latin-1").split(b".")
    question = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    question += struct.pack(
        "!HH", dns.rdatatype.from_text(ask.rtype), dns.rdataclass.from_text(ask.rclass)
    )
    has_opt = ask.edns is not None
    wire = struct.pack("!HHHHHH", number, flags, ask.qdcount, 0, 0, has_opt)
    wire += question * ask.qdcount
    if not has_opt:
        return wire
    options = _option(_COOKIE, cookie) if cookie else b""
    if ask.subnet is not None:
        network = ipaddress.ip_network(ask.subnet)
        family = 1 if network.version == 4 else 2
        octets = network.network_address.packed[: (network.prefixlen + 7) // 8]
        options += _option(8, struct.pack("!HBB", family, network.prefixlen, 0) + octets)
    if ask.option is not None:
        code, _, content = ask.option.partition(":")
        try:
            options += _option(int(code), bytes.fromhex(content))
        except ValueError as exc:
            raise ScenarioError(f"ask: +option={ask.option}: must be CODE:hexadecimal") from exc
    opt = struct.pack("!BHHBBHH", 0, 41, ask.bufsize, 0, ask.edns, ask.do << 15, len(options))
    return wire + opt + options


def _option(code: int, content: bytes) -> bytes:
    return struct.pack("!HH", code, len(content)) + content


def _proxy(client: str, *, tcp: bool) -> bytes:
    """A PROXY header, version 2, for a client."""
    address = ipaddress.ip_address(client)
    family = 0x10 if address.version == 4 else 0x20
    addresses = address.packed + bytes(len(address.packed)) + struct.pack("!HH", 40_000, 53)
    return (
        _SIGNATURE
        + struct.pack("!BBH", 0x21, family | (1 if tcp else 2), len(addresses))
        + addresses
    )
