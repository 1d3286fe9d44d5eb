"""
Hostile input, without sockets: broken queries, streams and replies, thousands of each.

``URLGUARD_FUZZ=50`` does fifty times as much, ``URLGUARD_FUZZ_SEED=7`` something else; a failure
prints the seed and the octets.
"""

import asyncio
import os
import random
import time
from collections import Counter

import dns.exception
import dns.flags
import dns.message
import dns.name
import pytest

from tests.fuzz import corpus
from tests.fuzz.harness import CLIENT, DISALLOWED, FRONT, SUBNETS, Harness
from tests.fuzz.mutate import Mutator, shape
from tests.fuzz.upstream import Liar
from urlguard.config import Config, Endpoint, Upstream
from urlguard.errors import WireError
from urlguard.plugins import Chain, Exchange
from urlguard.plugins.cache import Cache
from urlguard.plugins.forward import Forward
from urlguard.plugins.rebind import Rebind
from urlguard.wire.query import Query, parse_query
from urlguard.wire.reply import read_reply, render

TIMES = int(os.environ.get("URLGUARD_FUZZ", "1"))
SEED = int(os.environ.get("URLGUARD_FUZZ_SEED", "3"))

MAX_TCP = 0xFFFF


def broken(data: bytes, why: str, number: int = -1) -> str:
    """What a failure prints."""
    return f"{why}; seed {SEED}, number {number}: {data.hex()}"


def understood(data: bytes) -> dns.message.Message | None:
    """A message as dnspython reads it; None if it does not."""
    try:
        return dns.message.from_wire(data)
    except (dns.exception.DNSException, ValueError, NotImplementedError):
        return None


def without_header(data: bytes) -> bytes:
    """What a front end's datagram carries."""
    if data[:12] != corpus.PROXY or len(data) < 16:
        return b""
    return data[16 + int.from_bytes(data[14:16]) :]


def limit_of(data: bytes) -> int:
    """The largest answer that a datagram permits."""
    try:
        return parse_query(data).udp_limit
    except WireError:
        return 512


def check_answer(data: bytes, sent: bytes, limit: int, number: int) -> dns.message.Message:
    """What holds for every answer to whatever was sent."""
    assert len(data) >= 12, broken(data, "an answer to less than a header", number)
    assert not data[2] & 0x80, broken(data, "an answer to a response", number)
    assert sent[:2] == data[:2], broken(data, "another ID", number)
    assert sent[2] & 0x80, broken(data, "QR is clear", number)
    assert sent[2] & 0x78 == data[2] & 0x78, broken(data, "another opcode", number)
    assert not sent[2] & 0x04, broken(data, "AA is set", number)
    assert len(sent) <= limit, broken(data, f"{len(sent)} octets, {limit} allowed", number)
    read = understood(sent)
    assert read is not None, broken(data, f"not to be read: {sent.hex()}", number)
    asked = sent[4:6] == b"\0\1"
    if asked:
        spelled = sent[12 : 12 + len(data) - 12]
        end = 12 + len(read.question[0].name.to_wire()) + 4  # type: ignore[arg-type]
        assert spelled[: end - 12] == data[12:end], broken(data, "another question", number)
    return read


def spoil_ids(mutator: Mutator) -> bytes:
    """A broken query with an ID of chance."""
    data = mutator.one()
    return mutator.rng.randbytes(2) + data[2:] if len(data) > 1 else data


def test_the_corpus_is_mostly_right_and_mutations_are_mostly_wrong():
    """
    What fuzzing begins with is well-formed enough to get far, and what comes of it differs.
    """
    messages = corpus.queries()
    assert sum(understood(m) is not None for m in messages) > len(messages) * 0.6
    mutator = Mutator(messages, SEED)
    made = [mutator.one() for _ in range(2000)]
    assert len(set(made)) > 1600
    read = sum(understood(m) is not None for m in made)
    assert 200 < read < 1200
    assert made == [m.one() for m in [Mutator(messages, SEED)] for _ in range(2000)]


@pytest.mark.parametrize("host", [CLIENT, DISALLOWED, FRONT, SUBNETS])
def test_broken_datagrams_get_a_right_answer_or_none(host):
    """
    Whatever a datagram holds: at most one answer, with its ID, no larger than permitted, readable,
    never to a response; no plugin raises, and a well-formed query is answered.
    """
    harness = Harness()
    mutator = Mutator(corpus.queries(), SEED)
    for number in range(3000 * TIMES):
        data = spoil_ids(mutator)
        if host == FRONT and mutator.rng.random() < 0.7 and data[:12] != corpus.PROXY:
            data = corpus.proxied(data)
        sent = harness.datagram(data, host)
        inner = without_header(data) if host == FRONT else data
        assert len(sent) <= 1, broken(data, f"{len(sent)} answers", number)
        for one in sent:
            # Each client subnet of a front end is echoed; see the test of a row of them.
            limit = limit_of(inner)
            check_answer(inner, one, limit, number)
        read = understood(inner)
        if not sent and host != FRONT and read is not None:
            assert read.flags & dns.flags.QR, broken(data, "no answer to a query", number)
        if number % 50 == 0:
            harness.loop.pass_s(0.7)
    assert harness.chain.failures == 0
    assert harness.udp.counters["read_failed"] == 0
    assert harness.udp.counters["queries"] == 3000 * TIMES
    honest = corpus.head(7, ar=1) + corpus.question("honest.example") + corpus.opt()
    [sent] = harness.datagram(corpus.proxied(honest) if host == FRONT else honest, host)
    read = dns.message.from_wire(sent)
    assert read.rcode() == (5 if host == DISALLOWED else 0)
    assert (corpus.HONEST in sent) is (host != DISALLOWED)


def test_a_row_of_client_subnets_does_not_make_an_answer_too_large():
    """
    A front end's query with 80 client subnet options gets no more than the 512 octets it permits.
    """
    query = corpus.head(1, ar=1) + corpus.question("honest.example")
    query += corpus.opt(corpus.SUBNET * 80, size=512)
    [sent] = Harness().datagram(query, SUBNETS)
    assert len(sent) <= 512


def test_ready_answers_are_the_same_as_fresh_ones():
    """
    A datagram that comes again gets what it got before, but for its ID and TTLs.
    """
    harness, fresh = Harness(prefetch=False), Harness(prefetch=False)
    mutator = Mutator(corpus.queries(), SEED + 1)
    for number in range(1500 * TIMES):
        data = spoil_ids(mutator)
        first = harness.datagram(data)
        again = harness.datagram(data)
        other = fresh.datagram(data)
        fresh.frontend.packets.clear()
        flat = [list(map(flattened, sent)) for sent in (first, again, other)]
        assert flat[0] == flat[1] == flat[2], broken(data, "another answer", number)
        harness.loop.pass_s(0.05)
        fresh.loop.pass_s(0.05)
    assert harness.udp.counters["packet_cache"] > 100


def flattened(wire: bytes) -> bytes:
    """The message with all TTLs zero: one from the packet cache may be a second old."""
    flat = bytearray(wire)
    for at in shape(wire).ttls:
        flat[at : at + 4] = bytes(4)
    return bytes(flat)


async def test_broken_streams_get_framed_answers_to_what_they_asked():
    """
    Whatever a connection carries, in whatever pieces: what comes back are whole messages, each
    under the ID of a query in it, and nothing that the client sends is kept beyond a message.
    """
    harness = Harness()
    await harness.start()
    mutator = Mutator([q for q in corpus.queries() if q[:1] != b"\r"], SEED)
    rng = mutator.rng
    for number in range(600 * TIMES):
        host = FRONT if number % 7 == 0 else CLIENT
        messages = [spoil_ids(mutator) for _ in range(rng.choice((1, 1, 3, 30, 200)))]
        framed = [len(m).to_bytes(2) + m for m in messages]
        if rng.random() < 0.3:  # a length that lies
            at = rng.randrange(len(framed))
            size = rng.choice((0, 1, 11, len(messages[at]) + 1, 4096, 0xFFFF))
            framed[at] = size.to_bytes(2) + messages[at]
        stream = b"".join(framed)
        if host == FRONT:
            stream = mutator.one(corpus.proxied(b"")) + stream
        transport = harness.connect(host)
        taken, at = b"", 0
        while at < len(stream) and not transport.closed:
            size = rng.choice((1, 2, 3, 100, 1460, 1 << 16))
            if not transport.paused:
                transport.protocol.data_received(stream[at : at + size])
                at += size
            assert len(transport.protocol._messages) <= MAX_TCP + 2 + (1 << 16)
            if rng.random() < 0.5:
                harness.upstream.answer()
            harness.loop.pass_s(0.0)
            if rng.random() < 0.7 or transport.paused:
                taken += transport.take()
                harness.upstream.answer()
        if not transport.closed and rng.random() < 0.5 and not transport.protocol.eof_received():
            transport.close()
        for _ in range(20):
            harness.upstream.answer()
            harness.loop.pass_s(0.0)
            taken += transport.take()
        harness.loop.pass_s(30)
        assert transport.closed, broken(stream, "never closed", number)
        check_stream(stream, taken, number)
    assert harness.chain.failures == 0
    assert not len(harness.tcp.connections)
    assert not harness.tcp.connections.by_client


def frames(taken: bytes) -> list[bytes]:
    """The messages in what a connection brought."""
    found = []
    while taken:
        size = int.from_bytes(taken[:2])
        assert len(taken) >= 2 + size, f"half an answer: {taken.hex()}"
        found.append(taken[2 : 2 + size])
        taken = taken[2 + size :]
    return found


def check_stream(stream: bytes, taken: bytes, number: int) -> None:
    """What came back are whole answers to what the stream asked, if it was a row of messages."""
    answers = Counter[bytes]()
    for one in frames(taken):
        read = understood(one)
        assert read is not None, broken(stream, f"not to be read: {one.hex()}", number)
        assert read.flags & dns.flags.QR
        answers[one[:2]] += 1
    if stream.startswith(corpus.PROXY[:2]):
        return
    asked = Counter[bytes]()
    at = 0
    while at + 2 < len(stream):
        size = int.from_bytes(stream[at : at + 2])
        asked[stream[at + 2 : at + 4]] += 1
        at += 2 + size
    assert answers <= asked, broken(stream, "answers to what nobody asked", number)


async def test_a_row_of_queries_before_an_end_is_answered_to_the_last():
    """
    A client that pipelines 300 queries and then ends its side still gets 300 answers (RFC 7766
    6.2.3), whether they are answered at once or have to wait.
    """
    for name in (corpus.BLOCKED, "honest{}.example"):
        harness = Harness()
        await harness.start()
        transport = harness.connect()
        queries = [corpus.head(i) + corpus.question(name.format(i)) for i in range(300)]
        transport.protocol.data_received(b"".join(len(q).to_bytes(2) + q for q in queries))
        if not transport.protocol.eof_received():
            transport.close()
        taken = b""
        for _ in range(100):
            harness.upstream.answer()
            harness.loop.pass_s(0.0)
            taken += transport.take()
        assert len(set(frames(taken))) == 300
        assert transport.closed


def test_a_large_reply_of_pointers_does_not_hold_up_the_loop():
    """
    A reply of 64 KiB whose every owner stands at the end of 7,000 pointers is refused at once, and
    one of 4,000 addresses is read in a moment.
    """
    asked = corpus.question("www.honest.example")
    begun = time.process_time()
    with pytest.raises(WireError, match="pointer"):
        read_reply(corpus.large(asked, 0, "deep"), 12 + len(asked), corpus.A)
    reply = read_reply(corpus.large(asked, 0, "many"), 12 + len(asked), corpus.A)
    assert time.process_time() - begun < 0.2
    assert len(reply.addresses) == 4000


async def test_what_a_lying_upstream_says_of_other_names_is_never_cached():
    """
    Broken replies come through the real `forward` and cache: names that nobody asked for get
    nothing in the cache, what is in it is what the reply said of the name, and names that upstreams
    are honest about resolve all the while.
    """
    loop = asyncio.get_running_loop()
    rng = random.Random(SEED)
    transport, _ = await loop.create_datagram_endpoint(Liar, local_addr=("127.0.0.1", 0))
    where = Upstream(Endpoint(*transport.get_extra_info("sockname")[:2]))
    forward = Forward([where], loop, timeout_ms=300, ports=16)
    cache = Cache(Config().cache, loop)
    rebind = Rebind(Config().rebind)
    chain = Chain([cache, rebind, forward], loop)

    async def ask(name: str) -> bytes:
        q = parse_query(
            corpus.head(rng.randrange(65_536), ar=1) + corpus.question(name) + corpus.opt()
        )
        x = Exchange(q)
        found = chain.local(x)
        if found is None:
            done: asyncio.Future[bytes] = loop.create_future()
            chain.resolve(x, lambda x, a: done.set_result(b"" if a is None else a.octets(x)))
            wire = await asyncio.wait_for(done, 5)
        else:
            wire = found.octets(x)
        read = understood(wire)
        if read is not None:
            assert read.id == q.id
            assert read.question[0].name.to_text() == f"{name}."
        return wire

    async def some(numbers: range) -> None:
        for number in numbers:
            name = f"mad{number * 2 + SEED * 10**6}.lie{number}.example"
            first = await ask(name)
            if number % 5 == 0:
                again = await ask(name)
                if first[3] & 15 == again[3] & 15 == 0:
                    assert first[12:].count(corpus.HONEST) == again[12:].count(corpus.HONEST), name
            if number % 10 == 0:
                truth = await ask(f"honest{number}.example")
                if truth[3] & 15 == 2:  # a busy machine: the upstream shares this loop
                    await asyncio.sleep(1.5)
                    truth = await ask(f"honest{number}.example")
                assert corpus.HONEST in truth

    try:
        each = 24 * TIMES
        await asyncio.gather(*(some(range(n * each, (n + 1) * each)) for n in range(25)))
        assert {key[0] for key in cache._entries} <= {
            *(f"mad{n * 2 + SEED * 10**6}.lie{n}.example" for n in range(25 * each)),
            *(f"honest{n}.example" for n in range(0, 25 * each, 10)),
        }
        held = len(cache)
        assert held > 5 * each
        truth = await ask(corpus.VICTIM)
        assert corpus.HONEST in truth
        assert corpus.FORGED not in truth
        assert forward.in_flight == 0
        assert chain.failures == 0
    finally:
        chain.close()
        transport.close()


ASKED = [
    parse_query(corpus.head(1) + corpus.question("www.honest.example")),
    parse_query(
        corpus.head(2, flags=0, ar=1) + corpus.question("wWw.hOnEsT.eXaMpLe") + corpus.opt()
    ),
    parse_query(
        corpus.head(3, ar=1)
        + corpus.question("WWW.HONEST.EXAMPLE")
        + corpus.opt(corpus.COOKIE, do=True)
    ),
]


def records(message: dns.message.Message) -> list[list[str]]:
    """The records of answer and authority without their TTLs."""
    return [
        sorted(f"{rrset.name} {rrset.rdtype} {r}".lower() for rrset in section for r in rrset)
        for section in (message.answer, message.authority)
    ]


def lax(data: bytes) -> dns.message.Message | None:
    """The same as `understood`, but octets may follow the message, as many servers permit."""
    try:
        return dns.message.from_wire(data, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError, NotImplementedError):
        return None


@pytest.mark.parametrize("qtype", [corpus.A, corpus.AAAA, corpus.HTTPS, corpus.CNAME])
def test_broken_replies_are_refused_or_passed_on_whole(qtype):
    """
    A reply is refused with a WireError, or its records are given as they are, whatever the client's
    spelling, EDNS and the time that has passed; where it can be read, so can what we make of it.
    """
    asked = corpus.question("www.honest.example", qtype)
    start = 12 + len(asked)
    messages = [m for _, m in corpus.replies(asked) if m[12:start] == asked]
    mutator = Mutator(messages, SEED + qtype, fixed=start)
    taken = 0
    for number in range(1500 * TIMES):
        data = mutator.one()
        if mutator.rng.random() < 0.5:  # counts and flags too
            data = data[:2] + mutator.one(data)[2:12] + data[12:]
        try:
            reply = read_reply(data, start, qtype)
        except WireError:
            continue
        taken += 1
        q = ASKED[number % 3]
        q.qtype = qtype
        # Of the long ones a few: reading them takes dnspython a while.
        readable = len(data) < 1000 or number % 20 == 0
        check_rendered(data, lax(data) if readable else None, reply, q, number)
    assert taken > 200


def check_rendered(data, original, reply, q: Query, number: int) -> None:
    """What a client gets of a reply, at several ages."""
    made = render(reply, Exchange(q))
    assert made[:2] == q.id.to_bytes(2), broken(data, "another ID", number)
    assert made[4:6] == b"\0\1"
    assert made[12 : q.question_end] == q.question
    if original is None or not original.question:
        return
    # The questions of `ASKED` were made for type A; the reply's may be of another.
    asked = q.question[:-4] + data[q.question_end - 4 : q.question_end]
    later = (
        render(reply, Exchange(q), age=40)
        if number % 2
        else render(reply, Exchange(q), ede=3, flat_ttl=30)
    )
    for wire in (made, later):
        read = understood(wire[:12] + asked + wire[q.question_end :])
        assert read is not None, broken(data, f"not to be read: {wire.hex()}", number)
        # A pointer may lead into a TTL, and then a name changes with it.
        same = bytearray(data)
        for at in shape(data).ttls:
            if at + 4 <= len(wire):
                same[at : at + 4] = wire[at : at + 4]
        expected = lax(bytes(same))
        assert expected is not None
        assert records(read) == records(expected), broken(data, "other records", number)
        assert read.rcode() == original.rcode() & 15
        assert (read.edns == 0) is q.has_opt
