"""
An upstream that lies, for a real server: ``python -m tests.fuzz.upstream`` prints its port.

What it does is in the first label of the name that it is asked for: ``mad7`` gets a broken reply,
``many``, ``full`` and ``deep`` are truncated and then fetched over TCP, ``twice`` and ``other`` get
a second, forged reply beside the true one, ``loop`` an endless CNAME, ``stuck`` nothing more once
TCP is there.  All other names are answered truly.  Ends when its standard input does.
"""

import asyncio
import contextlib
import re
import sys
from typing import Any, Final

from tests.fuzz import corpus
from tests.fuzz.mutate import Mutator

_TRUE: Final = corpus.HERE + b"\0\1\0\1\0\0\0\x3c\0\4" + corpus.HONEST
_NAMES: Final = b"\0\6nobody\7invalid\0"
_SOA: Final = corpus.record(b"\0", corpus.SOA, _NAMES + bytes(16) + b"\0\0\0\x3c", 60)
_LARGE: Final = ("many", "full", "deep", "stuck")


class Liar(asyncio.DatagramProtocol):
    """Both transports."""

    transport: Any

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        for wire in self.answers(data, tcp=False):
            self.transport.sendto(wire, addr)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                size = int.from_bytes(await reader.readexactly(2))
                for wire in self.answers(await reader.readexactly(size), tcp=True):
                    writer.write(len(wire).to_bytes(2) + wire)
                    await writer.drain()
        writer.close()

    def answers(self, data: bytes, tcp: bool) -> list[bytes]:
        """What is said to a query."""
        end = 12
        while data[end]:
            end += data[end] + 1
        end += 5
        asked = data[12:end]
        label = asked[1 : 1 + asked[0]].decode("latin-1").lower()
        ident = int.from_bytes(data[:2])
        if asked[-4:] == b"\0\1\0\1":
            true = corpus.head(ident, 0x8180, 1, 1) + asked + _TRUE
        else:
            true = corpus.head(ident, 0x8180, 1, 0, 1) + asked + _SOA
        kind = re.match(r"(mad|many|full|deep|stuck|twice|other|loop)(\d*)$", label)
        if kind is None:
            return [true]
        if kind[1] in _LARGE:
            if not tcp:
                return [corpus.head(ident, 0x8380, 1) + asked]
            return [] if kind[1] == "stuck" else [corpus.large(asked, ident, kind[1])]
        if kind[1] == "mad":
            messages = [m for _, m in corpus.replies(asked, ident) if m[12:end] == asked]
            fixed = 2 if int(kind[2] or 0) % 3 == 0 else len(asked) + 12
            return [Mutator(messages, int(kind[2] or 0), fixed).one()]
        forged = corpus.record(corpus.name(corpus.VICTIM), corpus.A, corpus.FORGED)
        victim = corpus.question(corpus.VICTIM)
        there = corpus.record(corpus.HERE, corpus.A, corpus.FORGED)
        if kind[1] == "twice":
            return [true, true[: len(true) - 4] + corpus.FORGED, true]
        if kind[1] == "other":
            return [
                corpus.head(ident, 0x8180, 1, 1) + victim + there,
                corpus.head(ident, 0x8180, 1, 1, 0, 1) + asked + true[end:] + forged,
            ]
        return [dict(corpus.replies(asked, ident))["loop"]]


async def run() -> None:
    """Serve until the end of standard input."""
    loop = asyncio.get_running_loop()
    liar = Liar()
    for _ in range(20):
        transport, _ = await loop.create_datagram_endpoint(
            lambda: liar, local_addr=("127.0.0.1", 0)
        )
        port = transport.get_extra_info("sockname")[1]
        try:
            await asyncio.start_server(liar.serve, "127.0.0.1", port)
        except OSError:  # that port is another's
            transport.close()
        else:
            break
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(run())
