"""The TCP socket: pipelining, slow and broken clients, and what a front end says of its clients."""

import asyncio
import socket

import pytest

from tests.worker.frontend import (
    Hits,
    Servers,
    connect,
    framed,
    loops,
    make,
    networks,
    on_both_loops,
    policy,
    proxied,
    read,
    reload,
    tcp,
    texts,
)
from urlguard import config
from urlguard.config import Segment
from urlguard.worker.listeners.tcp import MAX_PIPELINED

pytestmark = on_both_loops
event_loop_policy = loops(policy)


@pytest.fixture
async def serve():
    """Start both listeners on one address; everything is stopped afterwards."""
    async with Servers() as start:
        yield start


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
        most = max(most, *(c.waiting for c in server.tcp.connections))
    assert ids == {m.id for m in messages}
    assert 0 < most <= MAX_PIPELINED
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
    server = await serve(tcp_idle_s=0.15)
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
    server = await serve(tcp_connections=3)
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
    assert len(server.tcp.connections) == 3
    for _, writer in streams:
        writer.close()


async def test_a_client_that_does_not_read_is_closed(serve):
    """
    Answers that nobody takes do not pile up: reading stops, and after the idle time all ends.
    """
    server = await serve(tcp_idle_s=0.3)
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
    assert not len(server.tcp.connections)


async def test_draining_tcp_answers_and_closes(serve):
    """
    Queries under way are answered, then connections end and new ones are refused.
    """
    server = await serve()
    reader, writer = await connect(server)
    writer.write(framed(make("slow.example")))
    while not any(c.waiting for c in server.tcp.connections):
        await asyncio.sleep(0.005)
    assert await server.tcp.drain(5)
    assert texts(await read(reader)) == ["192.0.2.7"]
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    with pytest.raises(OSError, match=r"refused|Connect"):
        await connect(server)


# ---- front ends and segments


SCHOOL = Segment(name="school", networks=networks("198.51.100.0/24"), answer="nxdomain")
NAMED = {
    "server": config.Server(proxy_from=networks("127.0.0.3/32")),
    "segment": (SCHOOL,),
    "acl": config.Acl(allow=networks("127.0.0.0/8", "198.51.100.0/24")),
}


@pytest.mark.parametrize("split", [0, 1, 15, 16, 20, 28])
async def test_a_front_end_names_its_client_once_for_a_connection(serve, split):
    """
    The PROXY header comes first, in whatever pieces, and holds for all queries after it.
    """
    server = await serve(sections=NAMED)
    reader, writer = await connect(server, "127.0.0.3")
    header = proxied("198.51.100.7", stream=True)
    writer.write(header[:split])
    await asyncio.sleep(0.02)
    writer.write(header[split:] + framed(make("evil.example")) * 2)
    for _ in range(2):
        assert (await asyncio.wait_for(read(reader), 5)).rcode() == 3
    writer.write(framed(make("example.org")))
    assert texts(await asyncio.wait_for(read(reader), 5)) == ["192.0.2.7"]
    writer.close()


async def test_a_front_end_may_ask_for_itself(serve):
    """
    LOCAL: the connection is its own.
    """
    server = await serve(sections=NAMED)
    reader, writer = await connect(server, "127.0.0.3")
    writer.write(proxied("198.51.100.7", stream=True, command=0) + framed(make("evil.example")))
    assert texts(await asyncio.wait_for(read(reader), 5)) == ["127.0.0.1"]
    writer.close()


@pytest.mark.parametrize("first", [b"\r\n\r\n\0\r\nQUIX\n", b"\0\x1d\0\1"])
async def test_a_front_end_without_a_header_is_cut_off(serve, first):
    """
    There is nobody to answer; the connection ends at once.
    """
    server = await serve(sections=NAMED)
    reader, writer = await connect(server, "127.0.0.3")
    writer.write(first)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await asyncio.wait_for(reader.readexactly(1), 5)
    assert server.tcp.counters["malformed"] == 1
    writer.close()


async def test_a_header_from_anybody_else_is_no_query(serve):
    """
    Nobody else can speak for others.
    """
    server = await serve(sections=NAMED)
    reader, writer = await connect(server, "127.0.0.2")
    writer.write(proxied("198.51.100.7", stream=True) + framed(make("evil.example")))
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    assert "198.51.100.7" not in server.frontend.clients.known
    writer.close()


async def test_a_reload_changes_what_is_known_of_open_connections(serve):
    """
    The next query on a connection is judged by the new segments, also where a front end named it.
    """
    server = await serve(sections=NAMED)
    direct, direct_writer = await connect(server)
    named, named_writer = await connect(server, "127.0.0.3")
    direct_writer.write(framed(make("evil.example")))
    assert (await asyncio.wait_for(read(direct), 5)).rcode() == 0
    named_writer.write(proxied("198.51.100.7", stream=True) + framed(make("evil.example")))
    assert (await asyncio.wait_for(read(named), 5)).rcode() == 3
    both = networks("198.51.100.0/24", "127.0.0.1/32")
    chain = reload(server, segment=(Segment(name="new", networks=both, answer="refused"),))
    try:
        for reader, writer in ((direct, direct_writer), (named, named_writer)):
            writer.write(framed(make("evil.example")))
            assert (await asyncio.wait_for(read(reader), 5)).rcode() == 5
            writer.close()
    finally:
        chain.close()


async def test_too_many_connections_of_one_client_are_refused(serve):
    """
    Others still get in.
    """
    server = await serve(tcp_per_client=2)
    streams = [await connect(server) for _ in range(3)]
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await asyncio.wait_for(streams[2][0].readexactly(1), 5)
    assert server.tcp.counters["closed_client"] == 1
    streams.append(await connect(server, "127.0.0.2"))
    for reader, writer in (streams[0], streams[1], streams[3]):
        writer.write(framed(make("evil.example")))
        assert texts(await asyncio.wait_for(read(reader), 5)) == ["127.0.0.1"]
    for _, writer in streams:
        writer.close()
    while server.tcp.connections.by_client:
        await asyncio.sleep(0.01)


async def test_clients_who_get_nothing_are_hung_up_on(serve):
    """
    They take no connection from those who may ask.
    """
    sections = {"acl": config.Acl(allow=networks("127.0.0.2/32"), otherwise="drop")}
    server = await serve(sections=sections)
    reader, writer = await connect(server)
    writer.write(framed(make("evil.example")))
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await asyncio.wait_for(reader.readexactly(1), 2)
    assert not len(server.tcp.connections)
    writer.close()


async def test_clients_that_may_not_ask_have_few_connections(serve):
    """
    A sixteenth of all; each gets REFUSED on its own, and the others are not kept from asking.
    """
    sections = {"acl": config.Acl(allow=networks("127.0.0.2/32"))}
    server = await serve(sections=sections, tcp_connections=32)
    first = [await connect(server) for _ in range(2)]
    reader, writer = await connect(server)
    assert await asyncio.wait_for(reader.read(1), 2) == b""
    for reader_, writer_ in first:
        writer_.write(framed(make("evil.example")))
        assert (await read(reader_)).rcode() == 5
        writer_.close()
    writer.close()


async def test_answers_over_tcp_are_booked_like_others(serve):
    """
    The hit log hears of them, and so do the figures.
    """
    server = await serve(frontend={"hits": (hits := Hits())})
    for _ in range(2):
        await tcp(server, make("evil.example"))
    assert [(hit[0], hit[1], hit[3]) for hit in hits.noted] == [
        ("127.0.0.1", "evil.example", "block")
    ] * 2
    [stat] = server.frontend.packets._kinds.values()
    assert stat.count == 2


async def test_who_has_most_makes_room_when_all_are_busy(serve):
    """
    An address that fills all connections with questions nobody answers keeps nobody else out.
    """
    server = await serve(tcp_connections=4, tcp_per_client=4)
    held = [await connect(server) for _ in range(4)]
    for _, writer in held:
        writer.write(framed(make("never.example")))
    while sum(c.waiting for c in server.tcp.connections) < 4:
        await asyncio.sleep(0.01)
    reader, writer = await connect(server, "127.0.0.2")
    writer.write(framed(make("evil.example")))
    assert texts(await asyncio.wait_for(read(reader), 5)) == ["127.0.0.1"]
    assert sum(c.host == "127.0.0.1" for c in server.tcp.connections) == 3
    for _, one in [*held, (reader, writer)]:
        one.close()
