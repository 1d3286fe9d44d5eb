"""Asking upstreams: what counts as a reply, and what happens when none comes."""

import asyncio
import errno
import socket

import dns.message
import dns.rrset
import pytest

from urlguard.config import Config, Endpoint
from urlguard.config import Forward as Options
from urlguard.plugins import Parts
from urlguard.plugins.forward import Forward, system_resolvers


class Upstream(asyncio.DatagramProtocol):
    """A recursor on loopback; `behave` gets the query and returns the datagrams to send."""

    def __init__(self, behave):
        self.behave = behave
        self.seen = []
        self.ports = set()

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.seen.append(data)
        self.ports.add(addr[1])
        for wire in self.behave(data) or ():
            self.transport.sendto(wire, addr)


def reply(data, address="192.0.2.7", rcode=0, flags=0, many=1):
    """A reply to the query in `data`."""
    asked = dns.message.from_wire(data)
    made = dns.message.make_response(asked, recursion_available=True)
    made.flags |= flags
    made.set_rcode(rcode)
    if not rcode and not flags:
        texts = [address] if many == 1 else [f"192.0.2.{i}" for i in range(many)]
        made.answer.append(dns.rrset.from_text(asked.question[0].name, 60, "IN", "A", *texts))
    return made.to_wire(max_size=65535)


def good(data):
    """One true reply."""
    return [reply(data)]


def silent(data):
    """Nothing."""
    return []


def refusing(rcode):
    """An upstream that says no."""
    return lambda data: [reply(data, rcode=rcode)]


@pytest.fixture
async def start():
    """Start upstreams and a forward that asks them in order; all are stopped afterwards."""
    made = []

    async def run(*behaviours, host="127.0.0.1", **options):
        loop = asyncio.get_running_loop()
        upstreams, addresses = [], []
        for behave in behaviours:
            if behave is None:  # a port where nobody listens
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.bind((host, 0))
                    addresses.append(Endpoint(*sock.getsockname()[:2]))
                continue
            transport, upstream = await loop.create_datagram_endpoint(
                lambda behave=behave: Upstream(behave), local_addr=(host, 0)
            )
            made.append(transport)
            upstreams.append(upstream)
            addresses.append(Endpoint(*transport.get_extra_info("sockname")[:2]))
        forward = Forward(addresses, loop, **{"timeout_ms": 100, **options})
        made.append(forward)
        return forward, upstreams

    yield run
    for thing in made:
        thing.close()
    await asyncio.sleep(0)


async def ask(forward, q):
    """The answer as dnspython reads it."""
    return dns.message.from_wire((await asyncio.wait_for(forward.resolve(q), 5)).wire)


def texts(message):
    """The addresses in an answer."""
    return [r.to_text() for rrset in message.answer for r in rrset]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_upstreams_answer_comes_back_under_the_clients_id(start, query, host):
    """
    The answer carries the client's ID and records of the upstream.
    """
    forward, (upstream,) = await start(good, host=host)
    q = query("ExAmple.ORG")
    got = await ask(forward, q)
    assert (got.id, got.rcode(), texts(got)) == (q.id, 0, ["192.0.2.7"])
    assert b"\7ExAmple\3ORG" in upstream.seen[0]
    assert forward.in_flight == 0


async def test_ids_and_ports_vary(start, query):
    """
    Neither ID nor source port of a query can be told from the one before (RFC 5452).
    """
    forward, (upstream,) = await start(good)
    await asyncio.gather(*[ask(forward, query()) for _ in range(200)])
    assert len(upstream.seen) >= 50
    assert len({data[:2] for data in upstream.seen}) > 0.9 * len(upstream.seen)
    assert len(upstream.ports) >= 12


def flip(data, at, octet=1):
    """`data` with some bits of one octet changed."""
    return data[:at] + bytes([data[at] ^ octet]) + data[at + 1 :]


FORGERIES = {
    "wrong id": lambda data: flip(reply(data, "203.0.113.1"), 1),
    "other name": lambda data: flip(reply(data, "203.0.113.1"), 13),
    "other type": lambda data: flip(reply(data, "203.0.113.1"), 26),
    "other class": lambda data: flip(reply(data, "203.0.113.1"), 28, 2),
    # Types 65 and 97 differ by the bit that upper and lower case differ by.
    "type in other case": lambda data: flip(reply(data, "203.0.113.1"), 26, 0x20),
    "a query": lambda data: flip(reply(data, "203.0.113.1"), 2, 0x80),
    "other opcode": lambda data: flip(reply(data, "203.0.113.1"), 2, 0x08),
    "two questions": lambda data: flip(reply(data, "203.0.113.1"), 5, 3),
    "two octets": lambda data: data[:2],
    "header alone": lambda data: data[:2] + b"\x81\x80" + bytes(8),
}


@pytest.mark.parametrize("kind", FORGERIES)
async def test_what_is_no_reply_is_ignored_and_the_true_one_taken(start, query, kind):
    """
    A forgery does not end the wait: the reply after it counts.
    """
    forward, _ = await start(lambda data: [FORGERIES[kind](data), reply(data)])
    got = await ask(forward, query(qtype="HTTPS" if kind == "type in other case" else "A"))
    assert texts(got) == ["192.0.2.7"]
    assert forward.counters["ignored"] == 1


async def test_replies_from_elsewhere_are_never_seen(start, query):
    """
    A reply with the right ID and question from another address does not count.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.2", 0))
        forward, (upstream,) = await start(silent)
        future = forward.resolve(query())
        while not upstream.seen:
            await asyncio.sleep(0.001)
        for port in upstream.ports:
            stranger.sendto(reply(upstream.seen[0]), ("127.0.0.1", port))
        got = dns.message.from_wire((await future).wire)
    assert got.rcode() == 2


async def test_spelling_of_the_reply_does_not_matter(start, query):
    """
    Names are compared without case, and the client sees its own spelling.
    """
    forward, _ = await start(lambda data: [reply(data[:12] + data[12:24].lower() + data[24:])])
    q = query("EXAMPLE.ORG")
    wire = (await forward.resolve(q)).wire
    assert q.question in wire


@pytest.mark.parametrize(
    ("behaviours", "rcode", "ede"),
    [
        ((silent, good), 0, []),
        ((None, good), 0, []),
        ((refusing(2), good), 0, []),
        ((refusing(5), good), 0, []),
        ((silent, silent, good), 0, []),
        ((lambda data: [reply(data)[:-14]], good), 0, []),  # cut short
        ((refusing(3), good), 3, []),  # NXDOMAIN is an answer
        ((refusing(2),), 2, []),
        ((refusing(5), silent), 5, []),  # better than our own SERVFAIL
        ((silent, refusing(5)), 5, []),
        ((silent,), 2, [22]),
        ((silent, silent), 2, [22]),
        ((None,), 2, [23]),
        ((), 2, [23]),
    ],
)
async def test_the_next_upstream_is_asked_if_one_fails(start, query, behaviours, rcode, ede):
    """
    Silence, no route, SERVFAIL and REFUSED move on; if all fail the client is told why.
    """
    forward, _ = await start(*behaviours)
    got = await ask(forward, query())
    assert got.rcode() == rcode
    assert [o.code for o in got.options] == ede
    assert texts(got) == (["192.0.2.7"] if rcode == 0 else [])
    assert forward.in_flight == 0


async def test_a_silent_upstream_is_no_longer_asked_first(start, query):
    """
    After one timeout without a sign of life, queries begin with the next upstream.
    """
    forward, (dead, alive) = await start(silent, good)
    for _ in range(5):
        await ask(forward, query())
    assert (len(dead.seen), len(alive.seen)) == (1, 5)


async def test_an_upstream_that_answers_others_stays_first(start, query):
    """
    One lost datagram is no reason to leave an upstream that works.
    """
    lossy = lambda data: [] if b"\4lost" in data else [reply(data)]  # noqa: E731
    forward, (first, second) = await start(lossy, good)
    lost = asyncio.ensure_future(ask(forward, query("lost.example")))
    for _ in range(20):
        await ask(forward, query())
        await asyncio.sleep(0.01)
    await lost
    assert (len(first.seen), len(second.seen)) == (21, 1)


async def test_more_than_max_in_flight_get_servfail(start, query):
    """
    A slow upstream cannot make the worker keep more queries than it was told to.
    """
    forward, (upstream,) = await start(silent, max_in_flight=3)
    answers = await asyncio.gather(*[ask(forward, query()) for _ in range(10)])
    assert all(a.rcode() == 2 for a in answers)
    assert len(upstream.seen) == 3
    assert forward.counters["refused_load"] == 7
    assert forward.in_flight == 0


async def test_a_truncated_reply_reaches_a_udp_client_truncated(start, query):
    """
    TC is passed on, so that the client comes again over TCP.
    """
    forward, _ = await start(lambda data: [reply(data, flags=0x0200)])
    got = await ask(forward, query())
    assert got.flags & 0x0200
    assert (got.answer, got.edns) == ([], 0)


async def test_a_truncated_reply_to_a_tcp_client_is_fetched_over_tcp(query):
    """
    A client over TCP gets the whole answer.
    """
    loop = asyncio.get_running_loop()

    async def serve(reader, writer):
        data = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        wire = reply(data, many=200)
        writer.write(len(wire).to_bytes(2, "big") + wire)
        await writer.drain()
        writer.close()

    # UDP first, and TCP on its port; another test's socket may have that port, then once more.
    for attempt in range(10):
        udp, _ = await loop.create_datagram_endpoint(
            lambda: Upstream(lambda data: [reply(data, flags=0x0200)]), local_addr=("127.0.0.1", 0)
        )
        where = udp.get_extra_info("sockname")
        try:
            server = await asyncio.start_server(serve, *where)
            break
        except OSError:
            udp.close()
            assert attempt < 9
    forward = Forward([Endpoint(*where)], loop)
    try:
        got = await ask(forward, query(tcp=True))
        assert len(texts(got)) == 200
        assert forward.counters["over_tcp"] == 1
    finally:
        forward.close()
        udp.close()
        server.close()
        await server.wait_closed()


async def test_tcp_that_fails_means_servfail(start, query):
    """
    An upstream that truncates and has no TCP is one that failed.
    """
    forward, _ = await start(lambda data: [reply(data, flags=0x0200)])
    got = await ask(forward, query(tcp=True))
    assert (got.rcode(), [o.code for o in got.options]) == (2, [23])


async def test_a_client_that_is_gone_does_no_harm(start, query):
    """
    A cancelled future is left alone when the reply comes.
    """
    forward, _ = await start(good)
    forward.resolve(query()).cancel()
    assert texts(await ask(forward, query())) == ["192.0.2.7"]
    assert forward.in_flight == 0


async def test_closing_answers_what_is_under_way(start, query):
    """
    Nobody waits for a reply that can no longer come.
    """
    forward, _ = await start(silent, silent, timeout_ms=60_000)
    futures = [forward.resolve(query()) for _ in range(5)]
    forward.close()
    assert [dns.message.from_wire((await f).wire).rcode() for f in futures] == [2] * 5
    assert forward.in_flight == 0
    assert (await ask(forward, query())).rcode() == 2


async def test_a_send_that_fails_moves_on(start, query, monkeypatch):
    """
    A full socket buffer is one more way for an upstream to fail.
    """
    forward, _ = await start(good)
    monkeypatch.setattr(
        forward, "_open", lambda upstream: (_ for _ in ()).throw(OSError(errno.ENETUNREACH, ""))
    )
    assert [o.code for o in (await ask(forward, query())).options] == [23]


@pytest.mark.parametrize(
    ("lines", "listen", "found"),
    [
        ("nameserver 192.0.2.1\nnameserver 2001:db8::1", "127.0.0.1:5300", "192.0.2.1 2001:db8::1"),
        ("# nameserver 192.0.2.9\nsearch example\n nameserver\t192.0.2.1 # x", "", "192.0.2.1"),
        ("nameserver 127.0.0.1\nnameserver 192.0.2.1", "127.0.0.1:53", "192.0.2.1"),
        ("nameserver 127.0.0.53\nnameserver 192.0.2.1", "0.0.0.0:53", "192.0.2.1"),
        ("nameserver 127.0.0.53", "0.0.0.0:5300", "127.0.0.53"),
        ("nameserver nonsense\nnameserver\n\nnameserver 192.0.2.1\nnameserver 192.0.2.1", "",
         "192.0.2.1"),
        ("", "", ""),
    ],
)  # fmt: skip
def test_the_systems_resolvers_are_read_without_ourselves(tmp_path, lines, listen, found):
    """
    The nameserver lines count, each once, and asking ourselves would be a loop.
    """
    path = tmp_path / "resolv.conf"
    path.write_text(lines)
    own = [Endpoint(*listen.split(":")[:1], int(listen.split(":")[1]))] if listen else []
    assert system_resolvers(own, path) == [Endpoint(host, 53) for host in found.split()]
    assert system_resolvers(own, tmp_path / "missing") == []


async def test_the_configuration_names_the_upstreams(live):
    """
    Addresses without a port mean port 53.
    """
    config = Config(forward=Options(upstreams=("192.0.2.1", "[2001:db8::1]:5353")))
    parts = Parts(config, live, asyncio.get_running_loop())
    forward = Forward.from_config(config.forward, parts)
    assert [str(u.address) for u in forward._upstreams] == ["192.0.2.1:53", "[2001:db8::1]:5353"]
