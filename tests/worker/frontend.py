"""Listeners on loopback with a fake upstream behind them, for tests that send real packets."""

import asyncio
import dataclasses
import ipaddress
import socket
import struct
from types import SimpleNamespace

import dns.asyncquery
import dns.message
import dns.rrset
import pytest
import uvloop

from urlguard import config
from urlguard.config import Config, Endpoint
from urlguard.plugins import Chain, Parts
from urlguard.plugins.clients import Clients
from urlguard.server.sockets import open_sockets
from urlguard.verdict import Ruling
from urlguard.worker.frontend import Frontend
from urlguard.worker.listeners.connections import Connections
from urlguard.worker.listeners.tcp import TcpListener
from urlguard.worker.listeners.udp import UdpListener

BLOCK = Ruling("block", "phishing", ("feed:x",), 3, "subtree", "evil.example")
REVIEW = Ruling("review", "phishing", ("feed:x",), 3, "subtree", "grey.example")
ADS = Ruling("block", "ads", ("feed:x",), 3, "subtree", "ads.example")

# The hook that is to replace this fixture is newer than the oldest pytest-asyncio that we permit.
on_both_loops = pytest.mark.filterwarnings("ignore:Overriding the:pytest.PytestDeprecationWarning")
loops = pytest.fixture(
    scope="module",
    name="event_loop_policy",
    params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy],
    ids=["asyncio", "uvloop"],
)


def policy(request):
    """Each event loop in turn: workers run on uvloop, whose transports are classes of their own."""
    return request.param()


class ActiveEngine:
    """A stand-in for the worker's cell that blocks one name."""

    def __init__(self):
        self.rulings = {"evil.example": BLOCK, "grey.example": REVIEW, "ads.example": ADS}
        self.engine = SimpleNamespace(
            decide=lambda n: self.rulings.get(n), paused=False, shadow=lambda: None
        )
        self.callbacks = []

    def subscribe(self, callback):
        self.callbacks.append(callback)

    def unsubscribe(self, callback):
        self.callbacks.remove(callback)

    def change(self, *blocked):
        """Block these names and no others from now on."""
        self.rulings = dict.fromkeys(blocked, BLOCK)
        for callback in self.callbacks:
            callback(None)


class Upstream(asyncio.DatagramProtocol):
    """
    A recursor: ``many.example`` has 100 addresses, ``slow.example`` takes 100 ms.

    ``never.example`` gets no reply.
    """

    def __init__(self):
        self.asked = []

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        wire, name = answered(data)
        self.asked.append(name)
        if name.startswith("never"):
            return
        delay = 0.1 if name.startswith("slow") else 0
        asyncio.get_running_loop().call_later(delay, self.send, wire, addr)

    def send(self, wire, addr):
        if not self.transport.is_closing():
            self.transport.sendto(wire, addr)


def answered(data):
    """A recursor's reply to the query in `data`, and the name asked for."""
    asked = dns.message.from_wire(data)
    made = dns.message.make_response(asked, recursion_available=True)
    name = asked.question[0].name.to_text().lower()
    count = 100 if name.startswith("many") else 1
    addresses = [f"192.0.2.{i + 7}" for i in range(count)]
    made.answer.append(dns.rrset.from_text(asked.question[0].name, 60, "IN", "A", *addresses))
    return made.to_wire(max_size=65535), name


class Hits:
    """A hit log that remembers what it is told."""

    def __init__(self):
        self.noted = []

    def add(self, *hit):
        self.noted.append(hit)


class Servers:
    """Starts servers; leaving the context stops them all."""

    def __init__(self):
        self._stack = []

    async def __aenter__(self):
        return self.start

    async def __aexit__(self, *_):
        for close in self._stack:
            close()
        await asyncio.sleep(0.01)

    async def start(
        self,
        host="127.0.0.1",
        plugins=("acl", "guard", "forward"),
        extra=None,
        frontend=None,
        sections=None,
        **limits,
    ):
        """
        Both listeners on one address.

        `frontend` are further arguments of the Frontend, `sections` sections of the configuration,
        and `limits` keys of ``[server]`` for the listeners.
        """
        loop = asyncio.get_running_loop()
        transport, upstream = await loop.create_datagram_endpoint(
            Upstream, local_addr=("127.0.0.1", 0)
        )
        where = "{}:{}".format(*transport.get_extra_info("sockname"))
        # Retries stay below the timeout of the clients in these tests.
        forward = config.Forward((where,), timeout_ms=200, ports=16)
        made = dataclasses.replace(
            Config(), plugins=plugins, **{"forward": forward, **(sections or {})}
        )
        active, clients = ActiveEngine(), Clients(made)
        chain = Chain.build(made, Parts(made, active, loop, clients))
        if extra is not None:
            chain = Chain([extra, *chain.plugins], loop)
        shared = Frontend(chain, clients, loop, **(frontend or {}))
        active.subscribe(shared.packets.changed)
        [[(_, udp_sock), (_, tcp_sock)]] = open_sockets(Endpoint(host, 0), 1)
        port = udp_sock.getsockname()[1]
        udp = UdpListener(udp_sock, shared, loop)
        tcp = TcpListener(tcp_sock, shared, loop, Connections())
        for listener in (udp, tcp):
            listener.configure(dataclasses.replace(made.server, **limits))
            await listener.start()
        self._stack += [udp.close, tcp.close, shared.packets.close, chain.close, transport.close]
        return SimpleNamespace(
            udp=udp,
            tcp=tcp,
            frontend=shared,
            active=active,
            config=made,
            upstream=upstream,
            host=host,
            port=port,
        )


def reload(server, **sections):
    """Another configuration from now on, as a worker takes it; its chain, which is to be closed."""
    made = dataclasses.replace(server.config, **sections)
    loop = asyncio.get_running_loop()
    clients = Clients(made)
    chain = Chain.build(made, Parts(made, server.active, loop, clients))
    chain.adopt(server.frontend.chain)
    server.frontend.replace(chain, clients)
    server.config = made
    return chain


def networks(*texts):
    """Networks from texts."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def make(name="example.org", qtype="A", edns=0, **keys):
    """A query message."""
    return dns.message.make_query(name, qtype, use_edns=edns, **keys)


async def udp(server, message, host=None, source=None):
    """The answer over UDP."""
    return await dns.asyncquery.udp(message, host or server.host, 5, server.port, source)


async def tcp(server, message):
    """The answer over TCP."""
    return await dns.asyncquery.tcp(message, server.host, 5, server.port)


async def raw(server, *datagrams, wait=0.3, source=None):
    """Send datagrams; the first reply, or None if none comes."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        if source:
            sock.bind((source, 0))
        sock.connect((server.host, server.port))
        for datagram in datagrams:
            await loop.sock_sendall(sock, datagram)
        try:
            return await asyncio.wait_for(loop.sock_recv(sock, 65535), wait)
        except TimeoutError:
            return None


def texts(message):
    """The addresses in an answer."""
    return [r.to_text() for rrset in message.answer for r in rrset]


def framed(message):
    """A message with its length before it."""
    wire = message if isinstance(message, bytes) else message.to_wire()
    return struct.pack("!H", len(wire)) + wire


async def read(reader):
    """The next message of a stream."""
    length = struct.unpack("!H", await reader.readexactly(2))[0]
    return dns.message.from_wire(await reader.readexactly(length))


async def connect(server, source=None):
    """A stream to the server."""
    local = (source, 0) if source else None
    return await asyncio.open_connection(server.host, server.port, local_addr=local)


def proxied(host, stream=False, command=1):
    """A PROXY v2 header that names a client (or, with command 0, the front end itself)."""
    address = ipaddress.ip_address(host)
    family = (0x10 if address.version == 4 else 0x20) | (1 if stream else 2)
    rest = address.packed + bytes(len(address.packed)) + struct.pack("!HH", 40000, 53)
    head = b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x20 | command, family])
    return head + struct.pack("!H", len(rest)) + rest
