"""A DNS client that keeps many queries in flight, for comparing whole lists of names."""

import asyncio
import functools
import struct
from collections.abc import Sequence
from typing import NamedTuple

import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype

Question = tuple[str, str]  # name, type

WAIT_S = 3.0  # for one answer over UDP, before the query is sent again
TCP_WAIT_S = 10.0
TRIES = 5  # as many as a stub resolver and the people before it


def query(name: str, qtype: str, number: int = 0) -> bytes:
    """A plain query with RD set."""
    wire = b"".join(bytes([len(label)]) + label.encode("latin-1") for label in name.split("."))
    header = struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0)
    return header + wire + b"\0" + struct.pack("!HH", dns.rdatatype.from_text(qtype), 1)


class Ask(NamedTuple):
    """
    A question and all that a client may say beside it.

    `name` is in presentation format, with escapes for odd octets, or the name itself where case
    matters; `size` is the OPT record's UDP size, None for a query without EDNS.
    """

    name: str | dns.name.Name
    qtype: str = "A"
    rd: bool = True
    ad: bool = False
    cd: bool = False
    do: bool = False
    size: int | None = None
    tcp: bool = False
    qclass: str = "IN"
    version: int = 0
    opcode: int = 0
    options: bytes = b""

    def wire(self) -> bytes:
        """The query, its ID zero."""
        return _written(self) if isinstance(self.name, str) else _write(self)

    def question(self) -> bytes:
        """The query's question section."""
        wire = self.wire()
        return wire[12:] if self.size is None else wire[12 : -11 - len(self.options)]


def _write(one: Ask) -> bytes:
    """The octets of a query."""
    name = one.name
    if isinstance(name, str):
        name = dns.name.from_text(name)
    flags = one.opcode << 11
    for wanted, flag in ((one.rd, dns.flags.RD), (one.ad, dns.flags.AD), (one.cd, dns.flags.CD)):
        flags |= int(flag) if wanted else 0
    octets = struct.pack("!HHHHHH", 0, flags, 1, 0, 0, 0 if one.size is None else 1)
    # By octets: dnspython would refuse a few of the names that a hostile client may send.
    octets += b"".join(bytes([len(label)]) + label for label in name.labels)
    octets += struct.pack(
        "!HH", dns.rdatatype.from_text(one.qtype), dns.rdataclass.from_text(one.qclass)
    )
    if one.size is not None:
        octets += struct.pack(
            "!BHHBBHH",
            *(0, 41, one.size, 0, one.version, 0x8000 if one.do else 0, len(one.options)),
        )
    return octets + one.options


# Tests ask the same questions many times.  Not of a `dns.name.Name`: it is equal to itself in other
# letters.
_written = functools.cache(_write)


class _Client(asyncio.DatagramProtocol):
    """Queries over UDP: one connected socket."""

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[bytes]] = {}
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, _address: object) -> None:
        future = self.waiting.pop(int.from_bytes(data[:2], "big"), None)
        if future is not None and not future.done():
            future.set_result(data)

    async def ask(self, wire: bytes, number: int) -> bytes | None:
        future = self.waiting[number] = asyncio.get_running_loop().create_future()
        self.transport.sendto(wire)  # type: ignore[union-attr]
        done, _ = await asyncio.wait([future], timeout=WAIT_S)
        return future.result() if done else None

    def closed(self) -> bool:
        return False

    def close(self) -> None:
        self.transport.close()  # type: ignore[union-attr]


class _Stream(asyncio.Protocol):
    """Queries over one TCP connection, in any order (RFC 7766 section 6.2.1.1)."""

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[bytes]] = {}
        self.transport: asyncio.Transport | None = None
        self._octets = b""
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        octets = self._octets + data
        at = 0
        while len(octets) >= at + 2:
            end = at + 2 + int.from_bytes(octets[at : at + 2], "big")
            if len(octets) < end:
                break
            message = octets[at + 2 : end]
            at = end
            future = self.waiting.pop(int.from_bytes(message[:2], "big"), None)
            if future is not None and not future.done():
                future.set_result(message)
        self._octets = octets[at:]

    def connection_lost(self, _exc: Exception | None) -> None:
        self._lost = True
        for future in self.waiting.values():
            if not future.done():
                future.cancel()

    async def ask(self, wire: bytes, number: int) -> bytes | None:
        future = self.waiting[number] = asyncio.get_running_loop().create_future()
        self.transport.write(len(wire).to_bytes(2, "big") + wire)  # type: ignore[union-attr]
        done, _ = await asyncio.wait([future], timeout=TCP_WAIT_S)
        # None also where the server closed the connection.
        return None if not done or future.cancelled() else future.result()

    def closed(self) -> bool:
        return self._lost

    def close(self) -> None:
        self.transport.close()  # type: ignore[union-attr]


async def exchange(
    address: tuple[str, int],
    wires: Sequence[bytes],
    *,
    tcp: bool = False,
    window: int = 100,
    sockets: int = 4,
) -> list[bytes | None]:
    """
    The answers to queries in order, each under an ID of ours; None where none came.

    A query without an answer is sent again, `TRIES` times in all, over TCP on a new connection if
    the server has closed the first (RFC 7766 section 6.2.4).
    """
    answers: list[bytes | None] = [None] * len(wires)
    loop = asyncio.get_running_loop()
    numbers = iter(range(len(wires)))

    made: list[_Client | _Stream] = []

    async def connect() -> _Client | _Stream:
        client: _Client | _Stream
        if tcp:
            client = (await loop.create_connection(_Stream, *address))[1]
        else:
            client = (await loop.create_datagram_endpoint(_Client, remote_addr=address))[1]
        made.append(client)
        return client

    async def work(slot: int, number: int) -> None:
        ident = number.to_bytes(2, "big")
        for index in numbers:
            for _ in range(TRIES):
                if clients[slot].closed():
                    clients[slot] = await connect()
                answers[index] = await clients[slot].ask(ident + wires[index][2:], number)
                if answers[index] is not None:
                    break

    clients = [await connect() for _ in range(sockets)]
    await asyncio.gather(*(work(s, n) for s in range(sockets) for n in range(window // sockets)))
    for client in made:
        client.close()
    return answers


async def ask_many(
    address: tuple[str, int], questions: Sequence[Question], window: int = 100, sockets: int = 4
) -> list[bytes | None]:
    """The answers to plain `questions` in order; None where none came."""
    wires = [query(*question) for question in questions]
    return await exchange(address, wires, window=window, sockets=sockets)


async def ask_all(
    address: tuple[str, int], asks: Sequence[Ask], *, window: int = 100, sockets: int = 4
) -> list[bytes | None]:
    """The answers to `asks` in order: first those over UDP, then those over TCP."""
    answers: list[bytes | None] = [None] * len(asks)
    for tcp in (False, True):
        chosen = [index for index, one in enumerate(asks) if one.tcp == tcp]
        wires = [asks[index].wire() for index in chosen]
        if wires:
            got = await exchange(address, wires, tcp=tcp, window=window, sockets=sockets)
            for index, wire in zip(chosen, got, strict=True):
                answers[index] = wire
    return answers


def read(wire: bytes | None) -> dns.message.Message:
    """The message in an answer that must be there."""
    assert wire is not None, "no answer"
    return dns.message.from_wire(wire)
