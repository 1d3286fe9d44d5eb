"""TCP for what does not fit or is doubtful, and TLS: whom to believe, and what servers may do."""

import asyncio
import json
import ssl
import time
import warnings

import dns.message
import pytest
import uvloop

from tests.plugins.forward_upstreams import (
    Authority,
    Recursor,
    ask,
    asking,
    codes,
    good,
    reply,
    silent,
    start,
    texts,
    until,
)
from urlguard.config import Config, Upstream
from urlguard.config import Forward as Options
from urlguard.errors import ConfigError
from urlguard.plugins.base import Parts
from urlguard.plugins.clients import Clients
from urlguard.plugins.forward import Forward

__all__ = ["start"]

# The hook that is to replace this fixture is newer than the oldest pytest-asyncio that we permit.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the:pytest.PytestDeprecationWarning")


@pytest.fixture(
    scope="module",
    params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy],
    ids=["asyncio", "uvloop"],
)
def event_loop_policy(request):
    """The loop of the standard library, and the workers': they differ in streams and errors."""
    return request.param()


def cut(data):
    """A truncated reply, except to probes."""
    return [reply(data, flags=0x0200)]


def large(data):
    """A reply with 200 addresses."""
    return [reply(data, many=200)]


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_truncated_reply_is_fetched_over_tcp(start, query, tcp):
    """
    Whoever asked, and however, gets the whole answer: it is kept for many.
    """
    recursor = await Recursor(cut, large).start(tcp=True)
    forward, _ = await start(recursor, timeout_ms=2000)
    got = await ask(forward, query(tcp=tcp))
    assert len(texts(got)) == 200
    assert not got.flags & 0x0200
    assert forward.counters["over_tcp"] == 1


async def test_queries_share_connections_and_replies_may_come_in_any_order(start, query):
    """
    A hundred queries need at most four connections, and each gets its own answer.
    """
    held = []
    recursor = await Recursor(cut, lambda data: held.append(data)).start(tcp=True)
    forward, _ = await start(recursor, timeout_ms=3000)
    names = [f"{chr(97 + n % 9)}{n}.example" for n in range(100)]
    futures = [asyncio.ensure_future(ask(forward, query(name))) for name in names]
    await until(lambda: len(held) == 100)
    assert 1 <= recursor.connections <= 4
    recursor.over_tcp = good
    for writer in recursor.writers:
        for data in reversed(held):
            wire = reply(data, f"192.0.2.{data[13] & 15}")
            writer.write(len(wire).to_bytes(2, "big") + wire)
    got = await asyncio.gather(*futures)
    assert [texts(one) for one in got] == [[f"192.0.2.{ord(name[0]) & 15}"] for name in names]
    assert recursor.connections <= 4


@pytest.mark.parametrize(("others", "rcode", "ede"), [((), 2, [23]), ((good,), 0, [])])
async def test_an_upstream_that_truncates_and_has_no_tcp_failed(start, query, others, rcode, ede):
    """
    The next upstream is asked; it is no sign that the first is down.
    """
    forward, _ = await start(cut, *others)
    for _ in range(4):
        got = await ask(forward, query())
        assert (got.rcode(), codes(got)) == (rcode, ede)
    assert all(state["up"] for state in forward.upstreams_state())


async def test_an_upstream_that_loses_the_spelling_is_found_out_over_tcp(start, query):
    """
    A reply in another spelling is not believed over UDP; the same over TCP proves that the upstream
    does so, and from then on it is asked as the client spelled it.
    """

    def flat(data):
        return [reply(data[:12] + data[12:24].lower() + data[24:])]

    recursor = await Recursor(flat).start(tcp=True)
    forward, _ = await start(recursor, timeout_ms=2000)
    assert texts(await ask(forward, query("abcdefg.example"))) == ["192.0.2.7"]
    assert forward.counters["wrong_case"] == 1
    assert len(recursor.streamed) == 1
    for _ in range(5):
        assert texts(await ask(forward, query("abcdefg.example"))) == ["192.0.2.7"]
    assert len(recursor.streamed) == 1
    assert recursor.seen[-1][12:].startswith(b"\7abcdefg\7example\0")
    assert forward.upstreams_state()[0]["lost_spelling"] == 1


async def test_many_datagrams_that_fit_nothing_send_a_late_query_to_tcp(start, query):
    """
    If somebody may be forging, the answer is fetched where it cannot be forged.
    """

    def forging(data):
        return [bytes([data[0], n ^ data[1]]) + reply(data)[2:] for n in range(1, 20)]

    recursor = await Recursor(forging, good).start(tcp=True)
    forward, _ = await start(recursor, timeout_ms=1000)
    assert texts(await ask(forward, query())) == ["192.0.2.7"]
    assert forward.counters["wrong_id"] >= 19
    assert len(recursor.streamed) == 1


async def test_queries_under_way_are_sent_once_more_when_the_server_hangs_up(start, query):
    """
    A server may close a connection at any time (RFC 7766 section 6.2.3); no answer is lost by it.
    """
    recursor = await Recursor(cut, silent).start(tcp=True)
    forward, _ = await start(recursor, timeout_ms=3000)
    futures = [asking(forward, query(f"n{n}.example")) for n in range(10)]
    await until(lambda: len(recursor.streamed) == 10)
    recursor.over_tcp = good
    recursor.hang_up()
    assert [a.reply.rcode for a in await asyncio.gather(*futures)] == [0] * 10
    assert forward.counters["sent_again"] == 10
    assert len(recursor.streamed) == 20


async def test_a_connection_that_went_silent_is_replaced(start, query):
    """
    It is open, as far as this side sees, and nothing comes: the next query gets a new one.
    """
    dead = set()

    def over_tcp(data):
        return [] if recursor.connections in dead else large(data)

    recursor = await Recursor(cut, over_tcp).start(tcp=True)
    forward, _ = await start(recursor, timeout_ms=400)
    assert len(texts(await ask(forward, query("one.example")))) == 200
    dead.add(1)  # the connection that there is
    await ask(forward, query("two.example"))
    assert len(texts(await ask(forward, query("three.example")))) == 200
    assert recursor.connections == 2


async def test_a_reply_cut_over_tcp_is_no_answer(start, query):
    """
    Part of an answer must not look like the whole of it.
    """
    recursor = await Recursor(cut, cut).start(tcp=True)
    forward, _ = await start(recursor, timeout_ms=500)
    assert (await ask(forward, query())).rcode() == 2
    assert forward.counters["malformed"] == 1


async def test_a_server_that_always_hangs_up_ends_in_servfail(start, query):
    """
    Once more is enough.
    """

    def hangs_up(data):
        recursor.hang_up()
        return []

    recursor = await Recursor(cut, hangs_up).start(tcp=True)
    forward, _ = await start(recursor, timeout_ms=1000)
    assert codes(await ask(forward, query())) == [23]
    assert len(recursor.streamed) == 2


async def test_idle_connections_are_closed(start, query, monkeypatch):
    """
    A connection that nobody uses goes, and the next query opens another.
    """
    monkeypatch.setattr("urlguard.plugins.forward.stream._IDLE_S", 0.1)
    recursor = await Recursor(cut, good).start(tcp=True)
    forward, _ = await start(recursor, timeout_ms=2000)
    await ask(forward, query())
    assert recursor.writers
    await until(lambda: not recursor.writers)
    assert texts(await ask(forward, query())) == ["192.0.2.7"]
    assert recursor.connections == 2


@pytest.mark.parametrize(
    "garbage",
    [
        lambda data: [b""],
        lambda data: [b"x"] * 200,
        lambda data: [bytes(65535)],
        lambda data: [bytes([data[0] ^ 1]) + reply(data)[1:]] * 200,
        lambda data: [data],
        lambda data: [reply(data, "203.0.113.1").replace(b"\7", b"\6", 1)],
    ],
)
async def test_what_is_no_reply_on_a_stream_is_passed_over(start, query, garbage):
    """
    Rubbish on a connection harms nobody for longer than a query's time.
    """
    recursor = await Recursor(cut, garbage).start(tcp=True)
    forward, _ = await start(recursor, timeout_ms=300)
    assert (await ask(forward, query())).rcode() == 2
    recursor.over_tcp = good
    assert texts(await ask(forward, query())) == ["192.0.2.7"]
    assert forward.in_flight == 0


async def test_a_stream_cut_into_single_octets_is_put_together(start, query):
    """
    Messages have no relation to segments.
    """
    recursor = await Recursor(cut, silent).start(tcp=True)
    forward, _ = await start(recursor, timeout_ms=3000)
    future = asking(forward, x := query())
    await until(lambda: recursor.streamed)
    wire = reply(recursor.streamed[0])
    (writer,) = recursor.writers
    for octet in len(wire).to_bytes(2, "big") + wire:
        writer.write(bytes([octet]))
        await writer.drain()
        await asyncio.sleep(0)
    assert texts(dns.message.from_wire((await future).octets(x))) == ["192.0.2.7"]


# ---- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """Who signs certificates."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
async def over_tls(active):
    """A forward made from the configuration, with the CA file given, for recursors over TLS."""
    made = []

    def run(authority_file, *recursors, name="dns.example", plain=(), **options):
        upstreams = [str(Upstream(r.where, name)) for r in recursors]
        upstreams += [str(r.where) for r in plain]
        table = Options(
            upstreams=tuple(upstreams), ca_file=authority_file, **{"timeout_ms": 2000, **options}
        )
        config = Config(forward=table)
        loop = asyncio.get_running_loop()
        forward = Forward.from_config(table, Parts(config, active, loop, Clients(config)))
        made.append(forward)
        made.extend((*recursors, *plain))
        return forward

    yield run
    for thing in made:
        (thing.close if isinstance(thing, Forward) else thing.stop)()
    await asyncio.sleep(0.05)


async def test_an_upstream_over_tls_answers(over_tls, query, authority):
    """
    Queries are pipelined over TLS 1.2 or later, none goes out in the clear.
    """
    recursor = await Recursor().start(context=authority.server("dns.example"))
    forward = over_tls(authority.file, recursor)
    got = await asyncio.gather(*[ask(forward, query(f"n{n}.example")) for n in range(50)])
    assert all(texts(one) == ["192.0.2.7"] for one in got)
    assert recursor.seen == []
    assert len(recursor.streamed) == 50
    assert recursor.connections <= 4
    assert forward.upstreams_state()[0]["upstream"].startswith("tls://127.0.0.1:")


REFUSED = {
    "other name": (lambda ca: ca.server("other.example"), True, "name"),
    "unknown authority": (lambda ca: ca.server("dns.example"), False, "issuer"),
    "expired": (lambda ca: ca.server("dns.example", expired=True), True, "expired"),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_certificate_that_proves_nothing_is_refused(
    over_tls, query, authority, tmp_path, capsys, kind
):
    """
    Neither another's certificate, nor one of an unknown authority, nor an expired one is taken; the
    operator is told why, once, and the next upstream answers.
    """
    make, known, reason = REFUSED[kind]
    (tmp_path / "other").mkdir()
    trusted = authority if known else Authority(tmp_path / "other")
    impostor = await Recursor(lambda data: [reply(data, "203.0.113.1")]).start(
        context=make(authority)
    )
    honest = await Recursor().start()
    forward = over_tls(trusted.file, impostor, plain=[honest])
    for _ in range(20):
        assert texts(await ask(forward, query())) == ["192.0.2.7"]
        await asyncio.sleep(0.01)
    said, until = capsys.readouterr().err, time.monotonic() + 5
    while "upstream.refused" not in said and time.monotonic() < until:
        await asyncio.sleep(0.05)  # on a busy machine the handshake takes longer than 20 answers
        said += capsys.readouterr().err
    assert impostor.streamed == []
    lines = [json.loads(x) for x in said.splitlines() if x.startswith("{")]
    refused = [line for line in lines if line["event"] == "upstream.refused"]
    assert len(refused) == 1
    assert reason in refused[0]["reason"].lower()
    assert refused[0]["level"] == "error"


async def test_tls_that_is_too_old_is_refused(over_tls, query, authority):
    """
    TLS 1.1 is not spoken.
    """
    context = authority.server("dns.example")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is the point
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    recursor = await Recursor().start(context=context)
    forward = over_tls(authority.file, recursor)
    assert codes(await ask(forward, query())) == [23]


async def test_a_tls_server_that_comes_back_is_used_again(over_tls, query, authority):
    """
    Two seconds after its return at the latest, it answers.
    """
    context = authority.server("dns.example")
    recursor = await Recursor().start(context=context)
    forward = over_tls(authority.file, recursor)
    assert (await ask(forward, query())).rcode() == 0
    recursor.stop()
    await asyncio.sleep(0.05)
    for _ in range(5):
        assert (await ask(forward, query())).rcode() == 2
        await asyncio.sleep(0.1)
    await recursor.start(context=context)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while (await ask(forward, query())).rcode():
        assert loop.time() < begun + 2
        await asyncio.sleep(0.02)


async def test_a_server_that_never_shakes_hands_is_given_up(over_tls, query, authority):
    """
    Connecting is bounded by timeout_ms, and the query by twice that.
    """
    quiet = await Recursor(silent, silent).start(tcp=True)
    forward = over_tls(authority.file, quiet, timeout_ms=300)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    assert (await ask(forward, query())).rcode() == 2
    assert loop.time() - begun < 1.0


@pytest.mark.parametrize(("text", "reason"), [(None, "No such file"), ("rubbish", "PEM")])
async def test_authorities_that_cannot_be_read_are_an_error(over_tls, tmp_path, text, reason):
    """
    The error says where, what, and what is allowed.
    """
    file = tmp_path / "ca.pem"
    if text is not None:
        file.write_text(text)
    recursor = await Recursor().start()
    with pytest.raises(ConfigError, match=rf"\[forward\] ca_file = '.*ca.pem': .*{reason}"):
        over_tls(file, recursor)
    recursor.stop()
