"""A DNS client that keeps many queries in flight, for comparing whole lists of names."""

import asyncio
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
        name = self.name
        if isinstance(name, str):
            name = dns.name.from_text(name)
        flags = self.opcode << 11
        for wanted, flag in (
            (self.rd, dns.flags.RD),
            (self.ad, dns.flags.AD),
            (self.cd, dns.flags.CD),
        ):
            flags |= int(flag) if wanted else 0
        octets = struct.pack("!HHHHHH", 0, flags, 1, 0, 0, 0 if self.size is None else 1)
        # By octets: dnspython would refuse a few of the names that a hostile client may send.
        octets += b"".join(bytes([len(label)]) + label for label in name.labels)
        octets += struct.pack(
            "!HH", dns.rdatatype.from_text(self.qtype), dns.rdataclass.from_text(self.qclass)
        )
        if self.size is not None:
            octets += struct.pack(
                "!BHHBBHH",
                *(0, 41, self.size, 0, self.version, 0x8000 if self.do else 0, len(self.options)),
            )
        return octets + self.options


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
        for _ in range(3):
            future = self.waiting[number] = asyncio.get_running_loop().create_future()
            self.transport.sendto(wire)  # type: ignore[union-attr]
            try:
                return await asyncio.wait_for(future, WAIT_S)
            except TimeoutError:
                continue
        return None

    def close(self) -> None:
        self.transport.close()  # type: ignore[union-attr]


class _Stream(asyncio.Protocol):
    """Queries over one TCP connection, in any order (RFC 7766 section 6.2.1.1)."""

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[bytes]] = {}
        self.transport: asyncio.Transport | None = None
        self._octets = b""

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
        for future in self.waiting.values():
            if not future.done():
                future.cancel()

    async def ask(self, wire: bytes, number: int) -> bytes | None:
        future = self.waiting[number] = asyncio.get_running_loop().create_future()
        self.transport.write(len(wire).to_bytes(2, "big") + wire)  # type: ignore[union-attr]
        done, _ = await asyncio.wait([future], timeout=TCP_WAIT_S)
        # None also where the server closed the connection: an answer was due.
        return None if not done or future.cancelled() else future.result()

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

    A query over UDP is tried three times, one over TCP once.
    """
    answers: list[bytes | None] = [None] * len(wires)
    loop = asyncio.get_running_loop()
    numbers = iter(range(len(wires)))

    async def work(client: _Client | _Stream, number: int) -> None:
        ident = number.to_bytes(2, "big")
        for index in numbers:
            answers[index] = await client.ask(ident + wires[index][2:], number)

    clients: list[_Client | _Stream] = []
    for _ in range(sockets):
        if tcp:
            clients.append((await loop.create_connection(_Stream, *address))[1])
        else:
            clients.append((await loop.create_datagram_endpoint(_Client, remote_addr=address))[1])
    each = window // sockets
    await asyncio.gather(*(work(c, n) for c in clients for n in range(each)))
    for client in clients:
        client.close()
    return answers


async def ask_many(
    address: tuple[str, int], questions: Sequence[Question], window: int = 100, sockets: int = 4
) -> list[bytes | None]:
    """The answers to plain `questions` in order; None where none came after three tries."""
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
