"""Asking upstreams: what counts as a reply, and what happens when none comes."""

import asyncio
import errno
import socket
from collections import Counter

import pytest

from tests.plugins.forward_upstreams import (
    Recursor,
    ask,
    asking,
    codes,
    good,
    refusing,
    reply,
    silent,
    start,
    texts,
)
from urlguard.config import Config, Endpoint, Upstream
from urlguard.config import Forward as Options
from urlguard.plugins.base import Parts
from urlguard.plugins.clients import Clients
from urlguard.plugins.forward import Forward, system_resolvers

__all__ = ["start"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_upstreams_answer_comes_back_under_the_clients_id(start, query, host):
    """
    The answer carries the client's ID and spelling, and records of the upstream.
    """
    forward, (upstream,) = await start(good, host=host)
    x = query("ExAmple.ORG")
    got = await ask(forward, x)
    assert (got.id, got.rcode(), texts(got)) == (x.query.id, 0, ["192.0.2.7"])
    assert x.query.question in got.to_wire()
    assert upstream.seen[0][12:].lower().startswith(b"\7example\3org\0")
    assert (forward.in_flight, forward._domains) == (0, {})


async def test_ids_ports_and_spellings_vary(start, query):
    """
    Neither ID nor source port nor spelling can be told from the query before (RFC 5452).
    """
    forward, (upstream,) = await start(good, ports=256, timeout_ms=5000)
    for _ in range(8):  # more at once would not fit the stub's socket
        await asyncio.gather(
            *[ask(forward, query("www.example-of-letters.org")) for _ in range(50)]
        )
    seen = upstream.seen
    assert len({data[:2] for data in seen}) > 0.9 * len(seen)
    # On a busy machine some are sent twice, with another ID and in the same spelling.
    assert len({data[12:-15] for data in seen}) > 0.9 * 400
    assert 180 <= len(upstream.ports) <= 256
    assert max(upstream.ports) - min(upstream.ports) > 30_000
    assert min(upstream.ports) >= 16_384


async def test_ports_are_drawn_again(start, query, monkeypatch):
    """
    A port serves some hundred queries, and another takes its place; no query is lost by that.
    """
    monkeypatch.setattr("urlguard.plugins.forward.udp._QUERIES", (3, 3))
    forward, (upstream,) = await start(good, ports=16)
    for _ in range(10):
        got = await asyncio.gather(*[ask(forward, query()) for _ in range(40)])
        assert all(texts(one) for one in got)
    assert len(upstream.ports) > 60
    pool = next(iter(forward._upstreams.values())).ports
    assert sum(c is not None for c in pool._slots) <= 16
    assert not pool._retired


async def test_a_reply_to_a_retired_port_still_counts(start, query, monkeypatch):
    """
    What was asked from a port before its retirement is answered there.
    """
    monkeypatch.setattr("urlguard.plugins.forward.udp._QUERIES", (1, 0))
    forward, (upstream,) = await start(good, ports=16, timeout_ms=2000)
    upstream.delay = 0.05
    got = await asyncio.gather(*[ask(forward, query()) for _ in range(16)])
    assert all(texts(one) for one in got)
    assert len(upstream.seen) == len(upstream.ports) == 16


def flip(data, at, octet=1):
    """`data` with some bits of one octet changed."""
    return data[:at] + bytes([data[at] ^ octet]) + data[at + 1 :]


FORGERIES = {
    "wrong id": ("wrong_id", lambda data: flip(reply(data, "203.0.113.1"), 1)),
    "other name": ("wrong_question", lambda data: flip(reply(data, "203.0.113.1"), 13)),
    "other type": ("wrong_question", lambda data: flip(reply(data, "203.0.113.1"), 26)),
    "other class": ("wrong_question", lambda data: flip(reply(data, "203.0.113.1"), 28, 2)),
    # Types 65 and 97 differ by the bit that upper and lower case differ by.
    "type in other case": (
        "wrong_question",
        lambda data: flip(reply(data, "203.0.113.1"), 26, 0x20),
    ),
    "spelling": ("wrong_case", lambda data: flip(reply(data, "203.0.113.1"), 13, 0x20)),
    "a query": ("malformed", lambda data: flip(reply(data, "203.0.113.1"), 2, 0x80)),
    "other opcode": ("malformed", lambda data: flip(reply(data, "203.0.113.1"), 2, 0x08)),
    "two questions": ("malformed", lambda data: flip(reply(data, "203.0.113.1"), 5, 3)),
    "two octets": ("malformed", lambda data: data[:2]),
    "header alone": ("malformed", lambda data: data[:2] + b"\x81\x80" + bytes(8)),
}


@pytest.mark.parametrize("kind", FORGERIES)
async def test_what_is_no_reply_is_counted_and_the_true_one_taken(start, query, kind):
    """
    A forgery does not end the wait: the reply after it counts.
    """
    counter, forge = FORGERIES[kind]
    forward, _ = await start(lambda data: [forge(data), reply(data)])
    got = await ask(forward, query(qtype="HTTPS" if kind == "type in other case" else "A"))
    assert texts(got) == ["192.0.2.7"]
    wrong = ("wrong_id", "wrong_port", "wrong_question", "wrong_case", "malformed", "headless")
    assert {name: forward.counters[name] for name in wrong if forward.counters[name]} == {
        counter: 1
    }


async def test_a_datagram_for_a_port_where_nothing_is_open_is_counted_apart(start, query):
    """
    Who guesses ports and hits one of ours that asked nothing is counted, and the port is given up.
    """
    forward, (upstream,) = await start(lambda data: [reply(data)] * 40, ports=16)
    await ask(forward, query())
    await asyncio.sleep(0.05)
    assert forward.counters["wrong_port"] >= 16
    port = next(iter(upstream.ports))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", port))  # nobody has it any more


async def test_replies_from_elsewhere_are_never_seen(start, query):
    """
    A reply with the right ID and question from another address does not count.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.2", 0))
        forward, (upstream,) = await start(silent)
        future = asking(forward, x := query())
        while not upstream.seen:
            await asyncio.sleep(0.001)
        for port in upstream.ports:
            stranger.sendto(reply(upstream.seen[0]), ("127.0.0.1", port))
        assert (await future).reply.rcode == 2
    assert x.query.id is not None
    assert forward.counters["answered"] == 0


async def test_without_random_spelling_any_spelling_counts_only_as_asked(start, query):
    """
    The question goes out as the client spelled it, and must come back so.
    """
    forward, (upstream,) = await start(good, randomize_case=False)
    x = query("eXample.ORG")
    assert texts(await ask(forward, x)) == ["192.0.2.7"]
    assert upstream.seen[0][12 : x.query.question_end] == x.query.question


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
        ((None, None), 2, [23]),
        ((), 2, [23]),
    ],
)
async def test_the_next_upstream_is_asked_if_one_fails(start, query, behaviours, rcode, ede):
    """
    Silence, no route, SERVFAIL and REFUSED move on; if all fail the client is told why.
    """
    forward, _ = await start(*behaviours)
    x = query()
    found = await asyncio.wait_for(asking(forward, x), 5)
    assert found.reply is not None  # a failure of upstreams is theirs, and may be remembered
    got = await ask(forward, query())
    assert got.rcode() == rcode
    assert codes(got) == ede
    assert texts(got) == (["192.0.2.7"] if rcode == 0 else [])
    assert forward.in_flight == 0


async def test_a_lost_datagram_is_sent_again(start, query):
    """
    One upstream alone is asked a second time, under another ID, before its time is over.
    """
    lost = []

    def first_lost(data):
        lost.append(data)
        return [] if len(lost) == 1 else [reply(data)]

    forward, (upstream,) = await start(first_lost, timeout_ms=2000)
    begun = asyncio.get_running_loop().time()
    assert texts(await ask(forward, query())) == ["192.0.2.7"]
    assert asyncio.get_running_loop().time() - begun < 1
    assert len(upstream.seen) == 2
    assert upstream.seen[0][:2] != upstream.seen[1][:2]


async def test_a_late_reply_still_counts(start, query):
    """
    The next upstream is asked while the first may answer, and the first good reply is taken.
    """
    forward, (slow, dead) = await start(good, silent, timeout_ms=2000)
    slow.delay = 0.7
    assert texts(await ask(forward, query())) == ["192.0.2.7"]
    assert forward.counters["late"] >= 1
    assert len(slow.seen) + len(dead.seen) >= 2


async def test_more_than_max_in_flight_get_servfail(start, query):
    """
    A slow upstream cannot make the worker keep more queries than it was told to.
    """
    forward, (upstream,) = await start(silent, max_in_flight=3, zone_share=1)
    queries = [query() for _ in range(10)]
    answers = await asyncio.gather(*[asking(forward, x) for x in queries])
    assert [a.octets(x)[3] & 15 for a, x in zip(answers, queries, strict=True)] == [2] * 10
    assert sum(a.reply is None for a in answers) == 7  # nothing is known of the name
    assert len({data[12:] for data in upstream.seen}) <= 3
    assert forward.counters["refused_load"] == 7
    assert forward.in_flight == 0


async def test_one_domain_cannot_take_all_slots(start, query):
    """
    A flood of random names below one domain leaves room for everybody else.
    """
    forward, _ = await start(
        lambda data: [] if b"victim" in data.lower() else [reply(data)],
        max_in_flight=100,
        zone_share=0.1,
        timeout_ms=1000,
    )
    flood = [asking(forward, query(f"r{n}.deep.victim.example")) for n in range(200)]
    assert forward.counters["refused_zone"] == 190
    assert forward.in_flight == 10
    for n in range(50):
        assert texts(await ask(forward, query(f"www.honest{n}.example"))) == ["192.0.2.7"]
    answers = await asyncio.gather(*flood)
    assert sum(a.reply is None for a in answers) == 190
    assert forward._domains == {}


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("a.b.victim.co.uk", "victim.co.uk"),
        ("x" + ".a" * 60 + ".victim.com", "victim.com"),
        ("com", "com"),
        ("", ""),
        ("1.2.0.192.in-addr.arpa", "192.in-addr.arpa"),
        ("r\\046x.victim.example", "victim.example"),
    ],
)
def test_names_count_for_their_owner(name, owner):
    """
    What is one domain is what the public suffix list says.
    """
    from urlguard.plugins.forward import _owner

    assert _owner(name) == owner


@pytest.mark.parametrize("trusted", [False, True])
async def test_ad_comes_from_trusted_upstreams_only(start, query, trusted):
    """
    AD is asked for and passed on only where the operator said that upstreams validate.
    """
    forward, (upstream,) = await start(lambda data: [reply(data, ad=True)], trust_ad=trusted)
    found = await asking(forward, query())
    assert found.reply.ad is trusted
    assert bool(upstream.seen[0][3] & 0x20) is trusted


@pytest.mark.parametrize("bare", [False, True])
async def test_an_upstream_without_edns_is_asked_without(start, query, bare):
    """
    FORMERR without an OPT record, even a bare header, means EDNS is too new; it is remembered.
    """

    def old(data):
        if data[11]:
            head = data[:2] + b"\x81\x81\0" + (b"\0" if bare else b"\1") + bytes(6)
            return [head if bare else head + data[12:-11]]
        return [reply(data)]

    forward, (upstream,) = await start(old)
    assert texts(await ask(forward, query())) == ["192.0.2.7"]
    assert texts(await ask(forward, query())) == ["192.0.2.7"]
    assert [data[11] for data in upstream.seen] == [1, 0, 0]


async def test_zones_have_upstreams_of_their_own(query):
    """
    The longest zone decides, by whole labels; a zone's failure does not send its names elsewhere.
    """
    inner, outer, other = Recursor(good), Recursor(good), Recursor(good)
    for recursor in (inner, outer, other):
        await recursor.start()
    forward = Forward(
        [Upstream(other.where)],
        asyncio.get_running_loop(),
        timeout_ms=200,
        zones={
            "corp.example": [Upstream(outer.where)],
            "lab.corp.example": [Upstream(inner.where)],
        },
    )
    for name, wanted in [
        ("corp.example", outer),
        ("www.CORP.example", outer),
        ("lab.corp.example", inner),
        ("a.lab.corp.example", inner),
        ("notcorp.example", other),
        ("example", other),
    ]:
        await ask(forward, query(name))
        assert [len(r.seen) for r in (inner, outer, other)] == [
            int(r is wanted) for r in (inner, outer, other)
        ], name
        for recursor in (inner, outer, other):
            recursor.seen.clear()
    inner.behave = refusing(5)
    assert (await ask(forward, query("x.lab.corp.example"))).rcode() == 5
    assert not other.seen
    forward.close()
    for recursor in (inner, outer, other):
        recursor.stop()
    await asyncio.sleep(0.01)


async def test_closing_answers_what_is_under_way(start, query):
    """
    Nobody waits for a reply that can no longer come, and what comes later fails at once.
    """
    forward, _ = await start(silent, silent, timeout_ms=60_000)
    futures = [asking(forward, query()) for _ in range(5)]
    forward.close()
    assert [(await f).reply.rcode for f in futures] == [2] * 5
    assert forward.in_flight == 0
    assert (await ask(forward, query())).rcode() == 2


async def test_a_socket_that_cannot_be_opened_is_one_more_failure(start, query, monkeypatch):
    """
    No route means SERVFAIL with EDE 23.
    """
    forward, _ = await start(good)

    def fails(number):
        def open_socket(self):
            raise OSError(number, "no")

        return open_socket

    monkeypatch.setattr("urlguard.plugins.forward.udp.Ports._open", fails(errno.ENETUNREACH))
    assert codes(await ask(forward, query())) == [23]
    assert forward.upstreams_state()[0]["errors"] >= 1
    assert forward.in_flight == 0


async def test_without_descriptors_fewer_ports_are_used(start, query, monkeypatch):
    """
    At the limit of open files the sockets that there are go on, and no upstream is called down.
    """
    forward, (upstream,) = await start(good, ports=64)
    for _ in range(3):
        await ask(forward, query())

    def none_left(self):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("urlguard.plugins.forward.udp.Ports._open", none_left)
    for _ in range(50):
        assert texts(await ask(forward, query())) == ["192.0.2.7"]
    assert 1 <= len(upstream.ports) <= 3
    forward.close()
    assert forward.in_flight == 0
    other, _ = await start(good)
    for _ in range(5):
        assert (await ask(other, query())).rcode() == 2
    assert other.upstreams_state()[0]["up"]


async def test_reload_takes_over_what_was_learnt(start, query):
    """
    The plugin of a new configuration knows who is fast and who is down, and speaks for them.
    """
    old, (one, two) = await start(good, good)
    for _ in range(10):
        await ask(old, query())
    new = Forward([Upstream(one.where), Upstream(two.where)], asyncio.get_running_loop())
    new.adopt(old)
    new.adopt(object())
    assert [s["srtt_ms"] for s in new.upstreams_state()] == [
        s["srtt_ms"] for s in old.upstreams_state()
    ]
    assert any(s["srtt_ms"] is not None for s in new.upstreams_state())
    assert texts(await ask(new, query())) == ["192.0.2.7"]
    new.close()


async def test_the_configuration_names_the_upstreams(active):
    """
    Every key of the section arrives; addresses without a port mean port 53.
    """
    config = Config(
        forward=Options(
            upstreams=("192.0.2.1", "[2001:db8::1]:5353"),
            zones={"corp.example": ("192.0.2.1", "192.0.2.9")},
            ports=32,
            trust_ad=True,
            randomize_case=False,
            max_in_flight=1000,
            zone_share=0.1,
        )
    )
    parts = Parts(config, active, asyncio.get_running_loop(), Clients(config))
    forward = Forward.from_config(config.forward, parts)
    assert [s["upstream"] for s in forward.upstreams_state()] == [
        "192.0.2.1:53",
        "[2001:db8::1]:5353",
        "192.0.2.9:53",
    ]
    assert (forward._per_domain, forward._trust_ad, forward._randomize) == (100, True, False)
    assert list(forward._zones) == ["corp.example"]
    assert Forward.descriptors(config.forward) >= 3 * 32
    assert isinstance(forward.counters, Counter)
    forward.close()


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
    assert system_resolvers(own, path) == [Upstream(Endpoint(host, 53)) for host in found.split()]
    assert system_resolvers(own, tmp_path / "missing") == []
