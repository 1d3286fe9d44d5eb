"""
A worker's listeners and plugins with nothing below and above them: no sockets, and time on demand.

The same objects that serve, on a loop that only remembers what it was asked for; so that a hundred
thousand messages go through all of it in a minute, and one that breaks something breaks it again.
"""

import asyncio
import contextlib
import dataclasses
import heapq
import ipaddress
import itertools
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tests.fuzz import corpus
from urlguard.config import Config
from urlguard.errors import WireError
from urlguard.plugins import BUILTIN, Chain
from urlguard.plugins.base import Answer, Done, Exchange, Parts
from urlguard.plugins.clients import Clients
from urlguard.verdict import Ruling
from urlguard.wire.cookie import Cookies
from urlguard.wire.query import SERVFAIL, Query
from urlguard.wire.reply import failure, read_reply
from urlguard.worker.frontend import Frontend
from urlguard.worker.listeners.connections import Connections
from urlguard.worker.listeners.tcp import TcpListener
from urlguard.worker.listeners.udp import UdpListener

BLOCK = Ruling("block", "phishing", ("feed:x",), 1, "subtree", corpus.BLOCKED)

# Who asks: an ordinary client, one that is refused, and front ends of both kinds.
CLIENT, DISALLOWED, FRONT, SUBNETS = "192.0.2.1", "203.0.113.1", "192.0.2.20", "192.0.2.30"


class Loop:
    """As much of an event loop as listeners and plugins use."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.readers: dict[Any, Callable[[], None]] = {}
        self.factory: Callable[[], Any] | None = None
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._number = itertools.count()

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def call_soon(self, callback: Any, *arguments: Any, context: Any = None) -> Any:
        return self.call_at(self.now, callback, *arguments)

    def call_later(self, delay: float, callback: Any, *arguments: Any) -> Any:
        return self.call_at(self.now + delay, callback, *arguments)

    def call_at(self, when: float, callback: Any, *arguments: Any) -> Any:
        handle = asyncio.TimerHandle(when, callback, arguments, self)  # type: ignore[arg-type]
        heapq.heappush(self._timers, (when, next(self._number), handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise context["exception"]

    def add_reader(self, sock: Any, callback: Callable[[], None]) -> None:
        self.readers[sock] = callback

    def remove_reader(self, sock: Any) -> None:
        self.readers.pop(sock, None)

    async def create_server(self, factory: Callable[[], Any], **_: Any) -> Any:
        self.factory = factory
        return SimpleNamespace(close=lambda: None)

    def pass_s(self, seconds: float) -> None:
        """Let time pass, and call what is due meanwhile."""
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            when, _, handle = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            if not handle.cancelled():
                # Not `Handle._run`, which keeps exceptions to itself.
                handle._callback(*handle._args)  # type: ignore[attr-defined]
        self.now = end


class Socket:
    """A UDP socket that gives what is put into ``incoming`` and keeps what is sent."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.incoming: list[tuple[bytes, tuple[str, int]]] = []
        self.sent: list[bytes] = []

    def setblocking(self, flag: bool) -> None:
        pass

    def getsockname(self) -> tuple[str, int]:
        return ("192.0.2.53", 53)

    def fileno(self) -> int:
        return 7

    def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int]]:
        if not self.incoming:
            raise BlockingIOError
        data, client = self.incoming.pop(0)
        return data[:size], client

    def sendto(self, data: bytes, client: Any) -> int:
        self.sent.append(bytes(data))
        return len(data)

    def close(self) -> None:
        pass


class Transport:
    """A TCP connection's other end: it keeps what is written and says when it has enough."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.written = bytearray()
        self.closed = False
        self.paused = False
        self.high = 1 << 16
        self.protocol: Any = None
        self.full = False

    def get_extra_info(self, what: str) -> Any:
        return (self.host, 4000) if what == "peername" else None

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after closing"
        self.written += data
        if len(self.written) > self.high and not self.full:
            self.full = True
            self.protocol.pause_writing()

    def take(self) -> bytes:
        """Read all, as a client does after a while."""
        taken = bytes(self.written)
        self.written.clear()
        if self.full:
            self.full = False
            self.protocol.resume_writing()
        return taken

    def pause_reading(self) -> None:
        assert not self.paused, "paused twice"
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused, "resumed without a pause"
        self.paused = False

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.protocol.connection_lost(None)

    abort = close


class Answers:
    """Stands last, as `forward` does; a function of the query says what upstreams sent."""

    name = "forward"

    def __init__(self, says: Callable[[Query], bytes]) -> None:
        self.says = says
        self.open: list[tuple[Exchange, Done]] = []
        self.inline = False

    def ask(self, x: Exchange, done: Done) -> None:
        self.open.append((x, done))
        if self.inline:
            self.answer()

    def answer(self) -> None:
        """Answer all that are open."""
        waiting, self.open = self.open, []
        for x, done in waiting:
            q = x.query
            try:
                reply = read_reply(self.says(q), q.question_end, q.qtype)
            except WireError:
                reply = failure(SERVFAIL, 22)
            done(x, Answer(None, "forward", reply=reply))


def honest(q: Query) -> bytes:
    """What a true upstream says to a question: one of many shapes, always the same for a name."""
    kinds = dict(corpus.replies(q.question, q.id))
    if q.qtype not in (corpus.A, corpus.AAAA):
        return kinds["nodata"]
    if q.name == "honest.example":
        return kinds["edns"]
    shapes = ("address", "addresses", "signed", "chain", "nxdomain", "nodata", "servfail", "ede")
    return kinds[shapes[sum(q.name.encode("latin-1")) % len(shapes)]]


class Harness:
    """
    One worker.

    Args:
        says: what upstreams answer.
        prefetch: names in demand are asked for again before they expire.
    """

    def __init__(self, says: Callable[[Query], bytes] = honest, *, prefetch: bool = True) -> None:
        self.loop = Loop()
        loop: Any = self.loop
        plain = Config()
        network = ipaddress.ip_network
        self.config = config = dataclasses.replace(
            plain,
            acl=dataclasses.replace(plain.acl, allow=(network("192.0.2.0/24"),)),
            server=dataclasses.replace(
                plain.server,
                version="1",
                proxy_from=(network(FRONT),),
                ecs_from=(network(SUBNETS),),
            ),
            cache=dataclasses.replace(plain.cache, max_mb=1, prefetch=prefetch),
        )
        active: Any = SimpleNamespace(
            engine=SimpleNamespace(
                decide=lambda n: BLOCK if f".{n}".endswith(f".{corpus.BLOCKED}") else None,
                paused=False,
                shadow=lambda: None,
            ),
            subscribe=lambda callback: None,
            unsubscribe=lambda callback: None,
        )
        self.clients = Clients(config)
        parts = Parts(config, active, loop, self.clients)
        self.upstream = Answers(says)
        mine = [BUILTIN[n].from_config(getattr(config, n), parts) for n in config.plugins[:-1]]
        self.chain = Chain([*mine, self.upstream], loop)
        [self.cache] = [p for p in mine if p.name == "cache"]
        self.frontend = Frontend(
            self.chain, self.clients, loop, cookies=Cookies(bytes(16)), clock=self.loop.time
        )
        self.sock = Socket()
        self.udp = UdpListener(self.sock, self.frontend, loop)  # type: ignore[arg-type]
        with contextlib.suppress(StopIteration):
            self.udp.start().send(None)  # which waits for nothing
        self.tcp = TcpListener(self.sock, self.frontend, loop, Connections())  # type: ignore[arg-type]

    async def start(self) -> None:
        """Begin to accept connections."""
        await self.tcp.start()

    def datagram(self, data: bytes, host: str = CLIENT) -> list[bytes]:
        """What is sent for a datagram."""
        self.sock.incoming.append((data, (host, 4000)))
        self.loop.readers[self.sock]()
        self.upstream.answer()
        sent, self.sock.sent = self.sock.sent, []
        return sent

    def connect(self, host: str = CLIENT) -> Transport:
        """A connection; ``protocol`` is our end of it."""
        transport = Transport(host)
        assert self.loop.factory is not None
        transport.protocol = self.loop.factory()
        transport.protocol.connection_made(transport)
        return transport
