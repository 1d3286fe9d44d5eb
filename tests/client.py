"""A DNS client that keeps many queries in flight, for comparing whole lists of names."""

import asyncio
import struct
from collections.abc import Sequence

import dns.message
import dns.name
import dns.rdatatype

Question = tuple[str, str]  # name, type


def query(name: str, qtype: str, number: int = 0) -> bytes:
    """A plain query with RD set."""
    wire = b"".join(bytes([len(label)]) + label.encode("latin-1") for label in name.split("."))
    header = struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0)
    return header + wire + b"\0" + struct.pack("!HH", dns.rdatatype.from_text(qtype), 1)


class _Client(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[bytes]] = {}
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, _address: object) -> None:
        future = self.waiting.pop(int.from_bytes(data[:2], "big"), None)
        if future is not None and not future.done():
            future.set_result(data)


async def ask_many(
    address: tuple[str, int], questions: Sequence[Question], window: int = 100, sockets: int = 4
) -> list[bytes | None]:
    """The answers to `questions` in order; None where none came after three tries."""
    answers: list[bytes | None] = [None] * len(questions)
    loop = asyncio.get_running_loop()
    numbers = iter(range(len(questions)))

    async def work(client: _Client, number: int) -> None:
        for index in numbers:
            wire = query(*questions[index], number)
            for _ in range(3):
                future = client.waiting[number] = loop.create_future()
                client.transport.sendto(wire)  # type: ignore[union-attr]
                try:
                    answers[index] = await asyncio.wait_for(future, 2)
                    break
                except TimeoutError:
                    continue

    clients = []
    for _ in range(sockets):
        _transport, client = await loop.create_datagram_endpoint(_Client, remote_addr=address)
        clients.append(client)
    each = window // sockets
    await asyncio.gather(*(work(c, n) for c in clients for n in range(each)))
    for client in clients:
        client.transport.close()  # type: ignore[union-attr]
    return answers


def read(wire: bytes | None) -> dns.message.Message:
    """The message in an answer that must be there."""
    assert wire is not None, "no answer"
    return dns.message.from_wire(wire)
