"""Listeners on loopback, with a fake upstream behind them and real clients before them."""

import asyncio
import dataclasses
import errno
import shutil
import socket
import struct
from types import SimpleNamespace

import dns.asyncquery
import dns.edns
import dns.message
import dns.query
import dns.rrset
import pytest
import uvloop

from urlguard import config
from urlguard.config import Config, Endpoint
from urlguard.errors import ConfigError
from urlguard.plugins import Answer, Chain, Local, Parts
from urlguard.server import listener
from urlguard.server.listener import TcpListener, UdpListener
from urlguard.server.sockets import open_sockets
from urlguard.verdict import Ruling

BLOCK = Ruling("block", "phishing", ("feed:x",), 3, "subtree", "evil.example")


# The hook that is to replace this fixture is newer than the oldest pytest-asyncio that we permit.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the:pytest.PytestDeprecationWarning")


@pytest.fixture(
    scope="module",
    params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy],
    ids=["asyncio", "uvloop"],
)
def event_loop_policy(request):
    """Each event loop in turn: workers run on uvloop, whose transports are classes of their own."""
    return request.param()


class Live:
    """A stand-in for the worker's cell that blocks one name."""

    def __init__(self):
        self.blocked = {"evil.example"}
        self.engine = SimpleNamespace(decide=lambda n: BLOCK if n in self.blocked else None)
        self.callbacks = []

    def subscribe(self, callback):
        self.callbacks.append(callback)

    def change(self, *blocked):
        """Block these names and no others from now on."""
        self.blocked = set(blocked)
        for callback in self.callbacks:
            callback()


class Upstream(asyncio.DatagramProtocol):
    """
    A recursor: ``many.example`` has 100 addresses, ``slow.example`` takes 100 ms.

    ``never.example`` gets no reply.
    """

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        wire, name = answered(data)
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


@pytest.fixture
async def serve():
    """Start both listeners on one address; everything is stopped afterwards."""
    stack = []

    async def run(host="127.0.0.1", plugins=("acl", "guard", "forward"), extra=None, **tcp):
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Upstream, local_addr=("127.0.0.1", 0))
        where = "{}:{}".format(*transport.get_extra_info("sockname"))
        made = dataclasses.replace(
            Config(), plugins=plugins, forward=config.Forward((where,), timeout_ms=400)
        )
        live = Live()
        chain = Chain.build(made, Parts(made, live, loop))
        if extra is not None:
            chain = Chain([extra, *chain.plugins], loop)
        [(udp_sock, tcp_sock)] = open_sockets(Endpoint(host, 0), 1)
        port = udp_sock.getsockname()[1]
        udp = UdpListener(udp_sock, chain, live, loop)
        tcp = TcpListener(tcp_sock, chain, loop, **tcp)
        udp.start()
        await tcp.start()
        stack.extend([udp, tcp, chain, transport])
        return SimpleNamespace(udp=udp, tcp=tcp, chain=chain, live=live, host=host, port=port)

    yield run
    for thing in stack:
        thing.close()
    await asyncio.sleep(0.01)


def make(name="example.org", qtype="A", edns=0, **keys):
    """A query message."""
    return dns.message.make_query(name, qtype, use_edns=edns, **keys)


async def udp(server, message, host=None):
    """The answer over UDP."""
    return await dns.asyncquery.udp(message, host or server.host, 5, server.port)


async def tcp(server, message):
    """The answer over TCP."""
    return await dns.asyncquery.tcp(message, server.host, 5, server.port)


def texts(message):
    """The addresses in an answer."""
    return [r.to_text() for rrset in message.answer for r in rrset]


async def test_the_loop_is_the_one_asked_for(event_loop_policy):
    """
    The tests below really run on either loop.
    """
    wanted = type(event_loop_policy).__module__.partition(".")[0]
    assert type(asyncio.get_running_loop()).__module__.partition(".")[0] == wanted


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("over", [udp, tcp])
@pytest.mark.parametrize(
    ("name", "address"), [("evil.example", "127.0.0.1"), ("example.org", "192.0.2.7")]
)
async def test_queries_are_answered(serve, host, over, name, address):
    """
    Blocked names get the sinkhole and others the upstream's answer, each time they are asked.
    """
    server = await serve(host)
    for _ in range(3):
        assert texts(await over(server, make(name))) == [address]


async def test_ready_answers_are_the_same_as_the_first(serve):
    """
    The second datagram is answered from the table, octet for octet as the first but for the ID.
    """
    server = await serve()
    for edns in (False, 0):
        first, second = make("eViL.example", edns=edns), make("eViL.example", edns=edns)
        before = server.udp.counters["ready"]
        one = (await udp(server, first)).to_wire()
        assert server.udp.counters["ready"] == before
        two = (await udp(server, second)).to_wire()
        assert server.udp.counters["ready"] == before + 1
        assert one[2:] == two[2:]
        assert b"\4eViL\7example" in two
        assert two[:2] == second.to_wire()[:2]


async def test_a_change_of_policy_empties_the_ready_answers(serve):
    """
    A name that is unblocked gets its true answer on the very next query, and the reverse.
    """
    server = await serve()
    for _ in range(2):
        assert texts(await udp(server, make("evil.example"))) == ["127.0.0.1"]
    assert server.udp.ready
    server.live.change("other.example")
    assert not server.udp.ready
    assert texts(await udp(server, make("evil.example"))) == ["192.0.2.7"]
    assert texts(await udp(server, make("other.example"))) == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("message", "stored"),
    [
        (make("evil.example"), True),
        (make("evil.example", edns=False), True),
        (make("example.org"), False),  # an upstream's answer is not ours to keep
        (make("evil.example", options=[dns.edns.CookieOption(b"12345678", b"")]), False),
        (make("evil.example", "AXFR"), False),
    ],
)
async def test_only_plain_local_answers_become_ready(serve, message, stored):
    """
    Upstream answers, and queries with options that vary from client to client, are not kept.
    """
    server = await serve()
    await udp(server, message)
    assert bool(server.udp.ready) is stored


async def test_trailing_octets_do_not_become_ready_answers(serve):
    """
    A client cannot fill the table with large entries of its own making.
    """
    server = await serve()
    reply = await raw(server, make("evil.example").to_wire() + bytes(3000))
    assert dns.message.from_wire(reply).answer
    assert not server.udp.ready


async def test_ready_answers_are_bounded(serve, monkeypatch):
    """
    A full table is emptied rather than grown.
    """
    monkeypatch.setattr(listener, "MAX_READY", 8)
    server = await serve()
    names = {f"n{i}.evil.example" for i in range(40)}
    server.live.blocked = names
    for name in names:
        assert texts(await udp(server, make(name))) == ["127.0.0.1"]
        assert len(server.udp.ready) <= 8


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_refused_clients_get_no_ready_answers(serve, host):
    """
    Neither is the refusal kept for others, nor what others got given to the refused.
    """
    server = await serve(host)
    acl = server.chain.plugins[0]
    acl.allows = lambda host: host == "127.0.0.1"
    for source, rcode in [("127.0.0.9", 5), ("127.0.0.1", 0)] * 3:
        reply = await dns.asyncquery.udp(make("evil.example"), "127.0.0.1", 5, server.port, source)
        assert reply.rcode() == rcode


async def test_a_plugin_that_must_see_each_query_does(serve):
    """
    Above a plugin that is not cacheable no answer is ready.
    """

    class Seeing(Local):
        name = "seeing"
        count = 0

        def on_query(self, q):
            self.count += 1

    server = await serve(extra=(seeing := Seeing()))
    for _ in range(5):
        await udp(server, make("evil.example"))
    assert seeing.count == 5
    assert not server.udp.ready


async def raw(server, *datagrams, wait=0.3):
    """Send datagrams; the first reply, or None if none comes."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect((server.host, server.port))
        for datagram in datagrams:
            await loop.sock_sendall(sock, datagram)
        try:
            return await asyncio.wait_for(loop.sock_recv(sock, 65535), wait)
        except TimeoutError:
            return None


@pytest.mark.parametrize(
    ("datagram", "rcode"),
    [
        (b"", None),
        (b"x", None),
        (b"\0\1\x81\x80" + bytes(8), None),
        (b"\0\1\1\0" + bytes(8), 1),
        (b"\0\1\x28\0\0\1" + bytes(6), 4),
    ],
)
async def test_broken_datagrams_are_answered_or_dropped(serve, datagram, rcode):
    """
    What is no query is dropped, what is a broken one gets its rcode, and service goes on.
    """
    server = await serve()
    reply = await raw(server, datagram)
    assert (reply and reply[3] & 15) == rcode
    assert texts(await udp(server, make("evil.example"))) == ["127.0.0.1"]


async def test_badvers_names_the_version_we_speak(serve):
    """
    EDNS version 1 gets BADVERS with an OPT record of version 0 (RFC 6891 6.1.3).
    """
    server = await serve()
    got = dns.message.from_wire(await raw(server, make(edns=1).to_wire()))
    assert (got.rcode(), got.edns) == (16, 0)


@pytest.mark.parametrize(("edns", "limit"), [(False, 512), (0, 1232)])
async def test_large_answers_send_the_client_to_tcp(serve, edns, limit):
    """
    What exceeds the client's size comes with TC and no records, and whole over TCP.
    """
    server = await serve()
    message = make("many.example", edns=edns)
    over_udp = await udp(server, message)
    assert over_udp.flags & 0x0200
    assert over_udp.answer == []
    assert len(texts(await tcp(server, message))) == 100
    assert server.udp.counters["truncated"] == 1


@pytest.mark.parametrize("asked", ["127.0.0.2", "127.0.0.3"])
@pytest.mark.parametrize("name", ["evil.example", "example.org"])
async def test_a_wildcard_socket_answers_from_the_address_asked(serve, asked, name):
    """
    First, ready and forwarded answers leave from the address that the query went to.
    """
    server = await serve("0.0.0.0")
    for _ in range(3):  # dnspython fails if the reply comes from elsewhere
        assert texts(await udp(server, make(name), asked))


async def test_an_ipv6_wildcard_socket_answers_over_ipv6(serve):
    """
    The same for ``::``, where IPv4 clients do not arrive.
    """
    server = await serve("::")
    for _ in range(2):
        assert texts(await udp(server, make("evil.example"), "::1")) == ["127.0.0.1"]
    server.host = "127.0.0.1"
    with pytest.raises(OSError, match="refused"):
        await raw(server, make().to_wire())


@pytest.mark.parametrize(
    ("address", "kept"),
    [("2001:db8::53", 0), ("fe80::53", 3)],  # the interface received on is 3
)
async def test_replies_name_the_ipv6_address_asked(serve, address, kept):
    """
    The interface is routing's business, except for a link-local address, which needs it.
    """
    server = await serve("::")
    packed = socket.inet_pton(socket.AF_INET6, address)
    [(level, kind, data)] = server.udp._source(packed + struct.pack("=i", 3))
    assert (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)
    assert data == packed + struct.pack("=i", kept)


async def test_a_send_that_fails_is_counted_and_survived(serve, monkeypatch):
    """
    ENOBUFS, EPERM and a full buffer cost the answer and nothing else.
    """
    server = await serve()
    real = server.udp._sock

    class Failing:
        fileno, recvfrom = real.fileno, real.recvfrom

        def sendto(self, *args):
            raise next(errors)

    errors = iter([OSError(errno.ENOBUFS, ""), PermissionError(errno.EPERM, ""), BlockingIOError()])
    server.udp._sock = Failing()
    for _ in range(3):
        assert await raw(server, make("evil.example").to_wire(), wait=0.05) is None
    server.udp._sock = real
    assert server.udp.counters["send_failed"] == 3
    assert texts(await udp(server, make("evil.example"))) == ["127.0.0.1"]


async def test_drain_waits_for_answers_under_way_and_reads_no_more(serve):
    """
    A forwarded query is still answered; one that comes later is left to another worker.
    """
    server = await serve()
    waiting = asyncio.ensure_future(udp(server, make("slow.example")))
    while not server.udp.counters["waited"]:
        await asyncio.sleep(0.005)
    assert await server.udp.drain(5)
    assert texts(await waiting) == ["192.0.2.7"]
    assert await raw(server, make().to_wire(), wait=0.1) is None


async def test_drain_gives_up_at_the_deadline(serve):
    """
    An upstream that never answers does not hold up the end.
    """
    server = await serve()
    waiting = asyncio.ensure_future(udp(server, make("never.example")))
    while not server.udp.counters["waited"]:
        await asyncio.sleep(0.005)
    assert not await server.udp.drain(0.05)
    assert (await waiting).rcode() == 2  # the forward's own timeout comes later


# ---- TCP


def framed(message):
    """A message with its length before it."""
    wire = message if isinstance(message, bytes) else message.to_wire()
    return struct.pack("!H", len(wire)) + wire


async def read(reader):
    """The next message."""
    length = struct.unpack("!H", await reader.readexactly(2))[0]
    return dns.message.from_wire(await reader.readexactly(length))


async def connect(server):
    """A stream to the server."""
    return await asyncio.open_connection(server.host, server.port)


async def test_pipelined_queries_are_answered_as_answers_come(serve):
    """
    A slow upstream does not hold up the queries after it (RFC 7766 6.2.1.1).
    """
    server = await serve()
    reader, writer = await connect(server)
    messages = [make(n) for n in ("slow.example", "example.org", "evil.example")]
    writer.write(b"".join(map(framed, messages)))
    got = [(await read(reader)).id for _ in messages]
    assert got == [messages[2].id, messages[1].id, messages[0].id]
    writer.close()


async def test_many_pipelined_queries_are_all_answered(serve):
    """
    Reading pauses while many queries are open, and then goes on until all have their answers.
    """
    server = await serve()
    reader, writer = await connect(server)
    messages = [make("slow.example" if i % 2 else "evil.example") for i in range(400)]
    writer.write(b"".join(map(framed, messages)))
    most = 0
    ids = set()
    for _ in messages:
        ids.add((await asyncio.wait_for(read(reader), 5)).id)
        most = max(most, *(c.waiting for c in server.tcp.open))
    assert ids == {m.id for m in messages}
    assert 0 < most <= listener.MAX_PIPELINED
    writer.close()


async def test_messages_may_arrive_octet_by_octet(serve):
    """
    TCP has no message boundaries.
    """
    server = await serve()
    reader, writer = await connect(server)
    for octet in framed(make("evil.example")) * 2:
        writer.write(bytes([octet]))
        await asyncio.sleep(0)
    for _ in range(2):
        assert texts(await read(reader)) == ["127.0.0.1"]
    writer.close()


async def test_a_client_that_asks_no_more_still_gets_its_answers(serve):
    """
    Closing one direction ends the questions, not the answers.
    """
    server = await serve()
    reader, writer = await connect(server)
    writer.write(framed(make("slow.example")))
    writer.write_eof()
    assert texts(await read(reader)) == ["192.0.2.7"]
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


@pytest.mark.parametrize("octets", [b"\0\0", b"\0\5abcde", b"\0\x0c\0\1\x81\x80" + bytes(8)])
async def test_what_deserves_no_answer_ends_the_connection(serve, octets):
    """
    An empty message, a short one or a response is not from a DNS client.
    """
    server = await serve()
    reader, writer = await connect(server)
    writer.write(octets)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await asyncio.wait_for(read(reader), 5)
    writer.close()


async def test_broken_queries_are_answered_over_tcp_too(serve):
    """
    A query that can be answered with an error is, and the connection stays.
    """
    server = await serve()
    reader, writer = await connect(server)
    writer.write(framed(b"\0\1\1\0" + bytes(8)) + framed(make("evil.example")))
    assert (await read(reader)).rcode() == 1
    assert texts(await read(reader)) == ["127.0.0.1"]
    writer.close()


@pytest.mark.parametrize("sent", [b"", b"\0", b"\0\x20partial"])
async def test_idle_connections_are_closed(serve, sent):
    """
    A connection without a whole query for the idle time ends, also if octets keep dripping in.
    """
    server = await serve(idle_s=0.15)
    reader, writer = await connect(server)
    began = asyncio.get_running_loop().time()
    writer.write(sent)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await asyncio.wait_for(reader.readexactly(1), 5)
    assert 0.1 < asyncio.get_running_loop().time() - began < 2
    assert server.tcp.counters["closed_idle"] == 1
    writer.close()


async def test_too_many_connections_close_the_longest_idle(serve):
    """
    A new client is let in at the cost of the one that has been idle longest.
    """
    server = await serve(connections=3)
    streams = []
    for _ in range(4):
        streams.append(await connect(server))
        streams[-1][1].write(framed(make("evil.example")))
        await read(streams[-1][0])
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await asyncio.wait_for(streams[0][0].readexactly(1), 5)
    for reader, writer in streams[1:]:
        writer.write(framed(make("evil.example")))
        assert texts(await read(reader))
    assert len(server.tcp.open) == 3
    for _, writer in streams:
        writer.close()


async def test_a_client_that_does_not_read_is_closed(serve):
    """
    Answers that nobody takes do not pile up: reading stops, and after the idle time all ends.
    """
    server = await serve(idle_s=0.3)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, (server.host, server.port))
        burst = framed(make("evil.example")) * 2000

        async def flood():
            while True:
                await loop.sock_sendall(sock, burst)

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(flood(), 10)
    assert server.tcp.counters["closed_slow"] == 1
    assert not server.tcp.open


async def test_draining_tcp_answers_and_closes(serve):
    """
    Queries under way are answered, then connections end and new ones are refused.
    """
    server = await serve()
    reader, writer = await connect(server)
    writer.write(framed(make("slow.example")))
    while not any(c.waiting for c in server.tcp.open):
        await asyncio.sleep(0.005)
    assert await server.tcp.drain(5)
    assert texts(await read(reader)) == ["192.0.2.7"]
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    with pytest.raises(OSError, match=r"refused|Connect"):
        await connect(server)


# ---- sockets


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_workers_share_one_port(host):
    """
    Every worker gets a UDP and a TCP socket of its own on the same port.
    """
    pairs = open_sockets(Endpoint(host, 0), 3)
    try:
        assert len({s.getsockname()[1] for pair in pairs for s in pair}) == 1
        assert {(u.type, t.type) for u, t in pairs} == {(socket.SOCK_DGRAM, socket.SOCK_STREAM)}
    finally:
        for sock in sum(pairs, ()):
            sock.close()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
@pytest.mark.parametrize("shared", [False, True])
def test_a_port_in_use_is_said_to_be(kind, shared):
    """
    Another program's port is refused even if that program would share it with us.
    """
    with socket.socket(socket.AF_INET, kind) as other:
        if shared:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}.*already in use"):
            open_sockets(Endpoint("127.0.0.1", port), 2)


def test_an_address_of_another_machine_is_said_to_be():
    """
    The message names the address and what it must be.
    """
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:5300.*not an address of this machine"):
        open_sockets(Endpoint("192.0.2.1", 5300), 1)


# ---- real clients


async def run(*command):
    """The output of a command, which must succeed."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, out.decode()
    return out.decode()


@pytest.mark.peer
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("transport", [(), ("+tcp",)])
@pytest.mark.parametrize("edns", [("+noedns",), ("+edns", "+dnssec"), ("+bufsize=4096",)])
@pytest.mark.parametrize("program", ["dig", "kdig"])
async def test_real_clients_understand_the_answers(serve, host, transport, edns, program):
    """
    dig and kdig read our answers without a warning.
    """
    server = await serve(host)
    common = [program, f"@{host}", "-p", str(server.port), *transport, *edns]
    for name, address in (("evil.example", "127.0.0.1"), ("example.org", "192.0.2.7")):
        out = await run(*common, name, "A")
        assert address in out
        assert "NOERROR" in out
        assert "warning" not in out.lower()
    if program == "dig" and edns != ("+noedns",):
        assert "EDE: 4 (Forged Answer)" in await run(*common, "evil.example", "A")
        assert "EDE: 15 (Blocked)" in await run(*common, "evil.example", "HTTPS")


@pytest.mark.peer
async def test_dig_comes_again_over_tcp_for_a_large_answer(serve):
    """
    TC does what it is for.
    """
    server = await serve()
    out = await run("dig", "@127.0.0.1", "-p", str(server.port), "many.example", "A")
    assert "Truncated, retrying in TCP mode" in out
    assert "ANSWER: 100" in out


def test_an_answer_shows_where_it_came_from():
    """
    What a debugger prints names the plugin.
    """
    assert repr(Answer(b"12", "guard")) == "<Answer from guard, 2 octets>"
