"""The UDP socket, with a fake upstream behind it and real clients before it."""

import asyncio
import contextlib
import errno
import shutil
import socket
import struct

import dns.asyncquery
import dns.edns
import dns.message
import pytest

from tests.worker.frontend import (
    Hits,
    Servers,
    loops,
    make,
    networks,
    on_both_loops,
    policy,
    proxied,
    raw,
    reload,
    tcp,
    texts,
    udp,
)
from urlguard import config
from urlguard.config import Endpoint, Segment
from urlguard.errors import ConfigError
from urlguard.plugins import Answer, Local
from urlguard.server.sockets import open_sockets
from urlguard.wire.cookie import Cookies
from urlguard.worker import packet_cache
from urlguard.worker.listeners import udp as listener

pytestmark = on_both_loops
event_loop_policy = loops(policy)


@pytest.fixture
async def serve():
    """Start both listeners on one address; everything is stopped afterwards."""
    async with Servers() as start:
        yield start


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


async def test_answers_of_the_packet_cache_are_the_same_as_the_first(serve):
    """
    The second datagram is answered from the table, octet for octet as the first but for the ID.
    """
    server = await serve()
    for edns in (False, 0):
        first, second = make("eViL.example", edns=edns), make("eViL.example", edns=edns)
        before = server.udp.counters["packet_cache"]
        one = (await udp(server, first)).to_wire()
        assert server.udp.counters["packet_cache"] == before
        two = (await udp(server, second)).to_wire()
        assert server.udp.counters["packet_cache"] == before + 1
        assert one[2:] == two[2:]
        assert b"\4eViL\7example" in two
        assert two[:2] == second.to_wire()[:2]


async def test_a_change_of_policy_empties_the_packet_cache(serve):
    """
    A name that is unblocked gets its true answer on the very next query, and the reverse.
    """
    server = await serve()
    for _ in range(2):
        assert texts(await udp(server, make("evil.example"))) == ["127.0.0.1"]
    assert len(server.frontend.packets)
    server.active.change("other.example")
    assert not len(server.frontend.packets)
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
async def test_only_plain_local_answers_are_stored(serve, message, stored):
    """
    Upstream answers, and queries with options that vary from client to client, are not kept.
    """
    server = await serve()
    await udp(server, message)
    assert bool(len(server.frontend.packets)) is stored


async def test_datagrams_with_trailing_octets_are_not_stored(serve):
    """
    A client cannot fill the table with large entries of its own making.
    """
    server = await serve()
    reply = await raw(server, make("evil.example").to_wire() + bytes(3000))
    assert dns.message.from_wire(reply).answer
    assert not len(server.frontend.packets)


async def test_the_packet_cache_is_bounded(serve, monkeypatch):
    """
    A full table is emptied rather than grown.
    """
    monkeypatch.setattr(packet_cache, "MAX_ENTRIES", 8)
    server = await serve()
    names = {f"n{i}.evil.example" for i in range(40)}
    server.active.change(*names)
    for name in names:
        assert texts(await udp(server, make(name))) == ["127.0.0.1"]
        assert len(server.frontend.packets) <= 8


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_refused_clients_get_nothing_from_the_packet_cache(serve, host):
    """
    Neither is the refusal kept for others, nor what others got given to the refused.
    """
    sections = {"acl": config.Acl(allow=networks("127.0.0.1/32"))}
    server = await serve(host, sections=sections)
    for source, rcode in [("127.0.0.9", 5), ("127.0.0.1", 0)] * 3:
        reply = await dns.asyncquery.udp(make("evil.example"), "127.0.0.1", 5, server.port, source)
        assert reply.rcode() == rcode


async def test_a_plugin_that_must_see_each_query_does(serve):
    """
    Above a plugin that is not cacheable no answer is stored.
    """

    class Seeing(Local):
        name = "seeing"
        count = 0

        def on_query(self, x):
            self.count += 1

    server = await serve(extra=(seeing := Seeing()))
    for _ in range(5):
        await udp(server, make("evil.example"))
    assert seeing.count == 5
    assert not len(server.frontend.packets)


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
    First, stored and forwarded answers leave from the address that the query went to.
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
    await serve("::")
    packed = socket.inet_pton(socket.AF_INET6, address)
    [(level, kind, data)] = listener._source(packed + struct.pack("=i", 3))
    assert (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)
    assert data == packed + struct.pack("=i", kept)


async def test_a_send_that_fails_is_counted_and_survived(serve, monkeypatch):
    """
    ENOBUFS, EPERM and a full buffer cost the answer and nothing else.
    """
    server = await serve()
    real = server.udp._send_to

    def failing(*args):
        raise next(errors)

    errors = iter([OSError(errno.ENOBUFS, ""), PermissionError(errno.EPERM, ""), BlockingIOError()])
    server.udp._send_to = failing
    for _ in range(3):
        assert await raw(server, make("evil.example").to_wire(), wait=0.05) is None
    server.udp._send_to = real
    assert server.udp.counters["send_failed"] == 3
    assert texts(await udp(server, make("evil.example"))) == ["127.0.0.1"]


async def test_drain_waits_for_answers_under_way_and_reads_no_more(serve):
    """
    A forwarded query is still answered; one that comes later is left to another worker.
    """
    server = await serve()
    waiting = asyncio.ensure_future(udp(server, make("slow.example")))
    while not server.udp.counters["forwarded"]:
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
    while not server.udp.counters["forwarded"]:
        await asyncio.sleep(0.005)
    assert not await server.udp.drain(0.05)
    assert (await waiting).rcode() == 2  # the forward's own timeout comes later


# ---- segments, fleeting answers and limits


HERE = networks("127.0.0.2/32")
STRICT = Segment(name="strict", networks=HERE, answer="nxdomain")


async def both(server, message):
    """What clients at 127.0.0.1 and 127.0.0.2 get for the same datagram."""
    one = await udp(server, message, source="127.0.0.1")
    two = await udp(server, message, source="127.0.0.2")
    return one, two


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_clients_of_different_segments_get_different_answers(serve, host):
    """
    To the same octets, from the first time on and each time after: stored answers do not mix.
    """
    server = await serve(host, sections={"segment": (STRICT,)})
    server.host = "127.0.0.1"
    message = make("evil.example")
    for _ in range(3):
        one, two = await both(server, message)
        assert (one.rcode(), texts(one)) == (0, ["127.0.0.1"])
        assert (two.rcode(), texts(two)) == (3, [])
    assert server.udp.counters["packet_cache"] == 4
    assert len(server.frontend.packets) == 2


async def test_a_change_of_policy_empties_the_packet_cache_of_all_segments(serve):
    """
    The very next query of each client is answered by the new policy.
    """
    server = await serve(sections={"segment": (STRICT,)})
    message = make("evil.example")
    await both(server, message)
    await both(server, message)
    server.active.change()
    assert len(server.frontend.packets) == 0
    for got in await both(server, message):
        assert texts(got) == ["192.0.2.7"]
    server.active.change("evil.example")
    one, two = await both(server, message)
    assert (texts(one), two.rcode()) == (["127.0.0.1"], 3)


CACHED = ("acl", "guard", "cache", "forward")


async def test_answers_from_the_cache_are_stored_for_a_second(serve):
    """
    Then they are put together anew, their TTLs a second lower.
    """
    server = await serve(plugins=CACHED)
    first = await udp(server, make())
    assert (first.answer[0].ttl, len(server.frontend.packets)) == (60, 0)
    second, third = await udp(server, make()), await udp(server, make())
    assert second.answer == third.answer == first.answer
    assert (len(server.frontend.packets), server.udp.counters["packet_cache"]) == (1, 1)
    await asyncio.sleep(1.1)
    assert len(server.frontend.packets) == 0
    later = await udp(server, make())
    assert texts(later) == texts(first)
    assert later.answer[0].ttl in (58, 59)
    assert len(server.upstream.asked) == 1


async def test_a_change_of_policy_empties_what_was_remembered_too(serve):
    """
    A name that is blocked now is not answered from the cache, nor from what the cache said.
    """
    server = await serve(plugins=CACHED)
    for _ in range(3):
        assert texts(await udp(server, make())) == ["192.0.2.7"]
    server.active.change("example.org")
    for _ in range(2):
        assert texts(await udp(server, make())) == ["127.0.0.1"]
    server.active.change()
    for _ in range(3):
        assert texts(await udp(server, make())) == ["192.0.2.7"]
    assert len(server.upstream.asked) == 1


async def test_limits_hold_for_the_packet_cache_too(serve):
    """
    A stored answer counts against what its client was granted, and beyond the limit there is TC.
    """
    limit = config.Limit(
        client_qps=2, burst_s=10, prefix_qps=0, client_misses=0, identical_qps=0, exempt=()
    )
    server = await serve(plugins=("acl", "limit", "guard", "forward"), sections={"limit": limit})
    got = [await udp(server, make("evil.example")) for _ in range(30)]
    curbed = [m for m in got if m.flags & 0x0200]
    assert all(texts(m) == ["127.0.0.1"] for m in got[:20])
    assert 5 <= len(curbed) <= 10
    assert all(m.answer == [] for m in curbed)
    assert server.udp.counters["packet_cache"] >= 10
    who = server.frontend.clients.known["127.0.0.1"]
    assert who.grant.left < 20
    # Another client has not used up anything.
    assert texts(await udp(server, make("evil.example"), source="127.0.0.2")) == ["127.0.0.1"]


async def test_a_stored_answer_is_charged_to_the_grant(serve):
    """
    What is left for the client goes down by one with each, and at zero the plugins are asked.
    """

    class Asked(Local):
        name, cacheable, count = "asked", True, 0

        def on_query(self, x):
            self.count += 1

    server = await serve(extra=(asked := Asked()))
    await udp(server, make("evil.example"))
    who = server.frontend.clients.known["127.0.0.1"]
    who.grant.left = 2
    for left in (1, 0):
        await udp(server, make("evil.example"))
        assert (who.grant.left, asked.count) == (left, 1)
    await udp(server, make("evil.example"))
    assert asked.count == 2
    assert len(server.frontend.packets) == 1
    # Without the plugin that grants more, what was used up is there again.
    await udp(server, make("evil.example"))
    assert asked.count == 2


# ---- what clients and front ends say


async def test_cookies_are_answered_and_not_kept(serve):
    """
    The client's cookie comes back with ours; with ours the address is proven (RFC 7873 5.2).
    """

    class Noting(Local):
        name, proven = "noting", ()

        def on_query(self, x):
            self.proven += (x.proven,)

    cookies = Cookies(bytes(16))
    server = await serve(extra=(noting := Noting()), frontend={"cookies": cookies})
    for name in ("evil.example", "example.org"):
        got = await udp(server, make(name, options=[dns.edns.CookieOption(b"12345678", b"")]))
        [option] = [o for o in got.options if o.otype == 10]
        assert (option.client, len(option.server)) == (b"12345678", 16)
        again = await udp(server, make(name, options=[option]))
        assert [o for o in again.options if o.otype == 10] == [option]
        # The same cookie from another address proves nothing.
        await udp(server, make(name, options=[option]), source="127.0.0.2")
    assert noting.proven == (False, True, False) * 2
    assert len(server.frontend.packets) == 0
    bad = dns.edns.GenericOption(10, b"1234567")
    assert (await udp(server, make("evil.example", options=[bad]))).rcode() == 1
    assert server.udp.counters["malformed"] == 1


async def test_without_cookies_the_option_is_ignored(serve):
    """
    As any option that a server does not know (RFC 6891 6.1.2).
    """
    server = await serve()
    unknown = dns.edns.GenericOption(65001, b"x")
    cookie = dns.edns.CookieOption(b"12345678", b"")
    got = await udp(server, make("evil.example", options=[cookie, unknown]))
    assert texts(got) == ["127.0.0.1"]
    assert [o for o in got.options if o.otype != 15] == []


FRONT = config.Server(proxy_from=networks("127.0.0.3/32"), ecs_from=networks("127.0.0.4/32"))
SCHOOL = Segment(name="school", networks=networks("198.51.100.0/24"), answer="nxdomain")
NAMED = {
    "server": FRONT,
    "segment": (SCHOOL,),
    "acl": config.Acl(allow=networks("127.0.0.0/8", "198.51.100.0/24")),
}


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_a_front_end_names_its_clients_in_a_header(serve, host):
    """
    Policy and acl are the client's that the PROXY header names; the answer goes to the front end.
    """
    server = await serve(host, sections=NAMED)
    server.host = "127.0.0.1"
    for _ in range(2):
        for client, rcode in [("198.51.100.7", 3), ("127.0.0.1", 0), ("203.0.113.1", 5)]:
            message = make("evil.example")
            datagram = proxied(client) + message.to_wire()
            got = dns.message.from_wire(await raw(server, datagram, source="127.0.0.3"))
            assert (got.id, got.rcode()) == (message.id, rcode)
    assert "203.0.113.1" in server.frontend.clients.known


async def test_a_front_end_may_ask_for_itself(serve):
    """
    Its health check (LOCAL) is answered as its own address would be.
    """
    server = await serve(sections=NAMED)
    datagram = proxied("198.51.100.7", command=0) + make("evil.example").to_wire()
    got = dns.message.from_wire(await raw(server, datagram, source="127.0.0.3"))
    assert texts(got) == ["127.0.0.1"]


async def test_a_header_is_expected_from_front_ends_and_believed_from_nobody_else(serve):
    """
    A front end that sends none, or half of one, is not answered; from others it is no query.
    """
    server = await serve(sections=NAMED)
    query = make("evil.example").to_wire()
    assert await raw(server, query, source="127.0.0.3") is None
    assert await raw(server, proxied("198.51.100.7")[:20], source="127.0.0.3") is None
    assert server.udp.counters["dropped"] == 2
    got = await raw(server, proxied("198.51.100.7") + query, source="127.0.0.2")
    assert got is None or dns.message.from_wire(got).rcode() in (1, 4)
    assert "198.51.100.7" not in server.frontend.clients.known


async def test_a_client_subnet_is_believed_from_front_ends_only(serve):
    """
    They get the subnet's policy and the option back, with its scope (RFC 7871 7.2.1).
    """
    server = await serve(sections=NAMED)
    subnet = dns.edns.ECSOption("198.51.100.0", 24)
    for name, rcode in (("evil.example", 3), ("example.org", 0)):
        got = await udp(server, make(name, options=[subnet]), source="127.0.0.4")
        assert got.rcode() == rcode
        [echo] = [o for o in got.options if o.otype == 8]
        assert (echo.address, echo.srclen, echo.scopelen) == ("198.51.100.0", 24, 24)
        got = await udp(server, make(name, options=[subnet]))
        assert got.rcode() == 0
        assert [o for o in got.options if o.otype == 8] == []
    got = await udp(server, make("evil.example"), source="127.0.0.4")
    assert texts(got) == ["127.0.0.1"]
    broken = dns.edns.GenericOption(8, b"\0\1\x21\0\1\2\3\4\5")
    got = await udp(server, make("evil.example", options=[broken]), source="127.0.0.4")
    assert got.rcode() == 1
    assert len(server.frontend.packets) == 0


# ---- silence, and the books


async def test_an_empty_answer_is_no_answer(serve):
    """
    Who is not allowed may get nothing at all, and is counted.
    """
    sections = {"acl": config.Acl(allow=HERE, otherwise="drop")}
    server = await serve(sections=sections)
    query = make("evil.example").to_wire()
    assert await raw(server, query, query) is None
    assert server.udp.counters["dropped"] == 2
    assert texts(await udp(server, make("evil.example"), source="127.0.0.2"))
    assert len(server.frontend.packets) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_the_hit_log_hears_of_every_hit(serve, host):
    """
    Of block and review, of stored answers too, each with the client that asked and its segment.
    """
    server = await serve(host, sections={"segment": (STRICT,)}, frontend={"hits": (hits := Hits())})
    server.host = "127.0.0.1"
    for _ in range(3):
        await udp(server, make("EVIL.example"))
        await udp(server, make("EVIL.example"), source="127.0.0.2")
        await udp(server, make("grey.example"))
        await udp(server, make("example.org"))
    assert server.udp.counters["packet_cache"] == 4
    evil = ("evil.example", 1, "block", "phishing", "subtree evil.example", ("feed:x",))
    grey = ("grey.example", 1, "review", "phishing", "subtree grey.example", ("feed:x",))
    assert sorted(hits.noted) == sorted(
        [("127.0.0.1", *evil, ""), ("127.0.0.2", *evil, "strict"), ("127.0.0.1", *grey, "")] * 3
    )


async def test_every_answer_is_counted_once(serve):
    """
    By source and segment, the packet cache apart.
    """
    server = await serve(sections={"segment": (STRICT,)})
    for _ in range(3):
        await udp(server, make("evil.example"))
        await udp(server, make("example.org"))
    stats = {kind: stat.count for kind, stat in server.frontend.packets._kinds.items()}
    blocked = ("block", "feed:x", "phishing", "")
    assert stats == {
        ("guard", *blocked): 1,
        ("packet_cache", *blocked): 2,
        ("forward", "none", "", "", ""): 3,
    }


async def test_a_reload_takes_the_next_query(serve):
    """
    New clients, segments and answers, nothing stored of before; what is under way is answered.
    """
    server = await serve()
    for _ in range(2):
        assert (await udp(server, make("evil.example"))).rcode() == 0
    waiting = asyncio.ensure_future(udp(server, make("slow.example")))
    while not server.udp.counters["forwarded"]:
        await asyncio.sleep(0.005)
    everyone = Segment(name="all", networks=networks("127.0.0.0/8"), answer="nxdomain")
    chain = reload(server, segment=(everyone,))
    try:
        for _ in range(2):
            assert (await udp(server, make("evil.example"))).rcode() == 3
        assert texts(await waiting) == ["192.0.2.7"]
    finally:
        chain.close()


# ---- sockets


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_workers_share_one_port(host):
    """
    Every worker gets a UDP and a TCP socket of its own on the same port.
    """
    workers = open_sockets(Endpoint(host, 0), 3)
    try:
        assert len({sock.getsockname()[1] for sockets in workers for _, sock in sockets}) == 1
        for sockets in workers:
            kinds = {transport: sock.type for transport, sock in sockets}
            assert kinds == {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}
    finally:
        for sockets in workers:
            for _, sock in sockets:
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
    assert repr(Answer(b"12", "guard")) == "<Answer from guard>"


async def test_limits_hold_for_whatever_is_answered(serve):
    """
    Other classes, meta types and messages that cannot be read count as much as questions do.
    """
    limit = config.Limit(client_qps=20, burst_s=1, over="drop", exempt=())
    server = await serve(
        sections={"limit": limit, "server": config.Server(identity="x" * 200)},
        plugins=("acl", "limit", "guard", "special", "cache", "rebind", "forward"),
    )
    chaos = make("id.server", "TXT", rdclass="CH").to_wire()
    transfer = make("evil.example", "AXFR").to_wire()
    status = b"\0\1\x10\0" + make("evil.example").to_wire()[4:]
    for wire in (chaos, transfer, status):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            for _ in range(100):
                sock.sendto(wire, ("127.0.0.1", server.port))
            await asyncio.sleep(0.2)
            answered = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    sock.recv(4096)
                    answered += 1
        assert answered <= 40


async def test_clients_to_be_dropped_get_no_error_either(serve):
    """
    What cannot be read says no more to them than what can.
    """
    acl = config.Acl(allow=networks("127.0.0.2/32"), otherwise="drop")
    server = await serve(sections={"acl": acl})
    status = b"\0\1\x10\0" + make("evil.example").to_wire()[4:]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto(status, ("127.0.0.1", server.port))
        await asyncio.sleep(0.1)
        with pytest.raises(BlockingIOError):
            sock.recv(4096)


# ---- a plugin that takes batches


async def test_a_plugin_with_a_batch_hook_gets_what_was_read_together(serve):
    """
    In one call for all that the packet cache has no answer to; each is answered, forwarded or not.
    """

    class Batching(Local):
        name, cacheable, sizes = "batching", True, ()

        def on_queries(self, batch):
            self.sizes += (len(batch),)
            return [None] * len(batch)

        def on_query(self, x):
            raise AssertionError("asked one by one")

    server = await serve(extra=(batching := Batching()))
    server.frontend.packets.queries.left = 100  # no query of the sample ends the batch
    names = ["evil.example", *(f"n{number}.example" for number in range(5))]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect((server.host, server.port))
        for name in names:
            sock.send(make(name).to_wire())
        loop = asyncio.get_running_loop()
        got = [await asyncio.wait_for(loop.sock_recv(sock, 4096), 5) for _ in names]
    answers = [dns.message.from_wire(wire) for wire in got]
    assert {one.question[0].name.to_text(True) for one in answers} == set(names)
    assert all(texts(one) for one in answers)
    assert batching.sizes == (6,)
    assert server.udp.counters["forwarded"] == 5
    await udp(server, make("evil.example"))
    assert server.udp.counters["packet_cache"] == 1
