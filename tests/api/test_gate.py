"""Floods by the front door: half bodies, framing without payload, and clients as they should be."""

import asyncio
import dataclasses
import json
import shutil
import types

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol

from tests.api.backend import Backend, closed, connect, serving
from urlguard.access.roles import Role
from urlguard.api import bodies, connection, connections, limits, pipeline
from urlguard.api.connections import Gate
from urlguard.api.public import Public
from urlguard.config import Cases

APPEAL = b"POST /v1/appeals HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = APPEAL + b"Transfer-Encoding: chunked\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
NDJSON = {"Content-Type": "application/x-ndjson"}
LINE = b'{"url":"http://evil.example/a"}\n'


@pytest.fixture
async def few(tmp_path, monkeypatch):
    """A server with four places."""
    monkeypatch.setattr(connections, "SPARE", 2)
    backend = Backend(tmp_path)
    async with serving(backend.services(), connections=4) as backend.base:
        yield backend
    backend.close()


@pytest.fixture
def unhurried(monkeypatch):
    """Limits that nobody reaches, so that bodies are read."""
    monkeypatch.setattr(limits.Limits, "appeals", lambda self, address: None)


async def ask(http, backend, path="/v1/rules", role=Role.ANALYST):
    """The status of a request."""
    async with http.get(backend.base + path, headers=backend.head(role)) as answer:
        return answer.status


async def flood(backend, head, count):
    """Connections that have sent so much."""
    held = []
    for _ in range(count):
        reader, writer = await connect(backend.base)
        writer.write(head)
        held.append((reader, writer))
        await asyncio.sleep(0.01)
    return held


def end(held):
    """Close them."""
    for _, writer in held:
        writer.close()


def upload(backend, *more):
    """An upload's head, and the beginning of its body."""
    head = (
        b"POST /v1/candidates HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/x-ndjson\r\nAuthorization: Bearer "
        + backend.token[Role.CRAWLER].encode()
    )
    return head + b"\r\n\r\n" + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in more)


async def broken(writer, data, wait_s):
    """Whether the other side closes the connection before so much was sent 100 times."""
    try:
        async with asyncio.timeout(5.0):
            for _ in range(100):
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(wait_s)
    except ConnectionError:
        return True
    except TimeoutError:
        pass
    return False


async def answered(reader):
    """The status of an answer, and its headers and body."""
    async with asyncio.timeout(5.0):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split()[1]) for line in head.lower().splitlines() if b"content-length" in line
        )
        return int(head.split()[1]), head, await reader.readexactly(length)


# Places


@pytest.mark.parametrize(
    "head",
    [
        APPEAL + b"Content-Length: 2000\r\n\r\n{",
        HEALTH + b"Content-Length: 2000\r\n\r\n",
        HEALTH + b"Transfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["half a body", "a body for health", "a chunked body for health"],
)
async def test_who_sends_half_a_body_keeps_nobody_out(http, few, unhurried, head):
    """
    However many begin a body and do not go on, others and health are served.
    """
    held = await flood(few, head, 12)
    for _ in range(5):
        assert await ask(http, few) == 200
        assert await ask(http, few, "/healthz") == 200
        held += await flood(few, head, 2)
    end(held)


async def test_a_half_body_that_stays(http, few, unhurried):
    """
    While nobody needs the place, a body may take its time.
    """
    body = json.dumps({"incident": "UG-0000-0000-000", "item": "x.example", "contact": "abc"})
    reader, writer = await connect(few.base)
    writer.write(APPEAL + b"Content-Length: %d\r\n\r\n" % len(body))
    for octet in body.encode():
        writer.write(bytes([octet]))
        await asyncio.sleep(0.005)
    assert (await answered(reader))[0] == 422  # there is no such number
    writer.close()


class Transport(asyncio.Transport):
    """One from an address."""

    def __init__(self, address):
        super().__init__({"peername": (address, 1)})
        self.ended = False

    def abort(self):
        self.ended = True

    def is_closing(self):
        return self.ended


def test_who_gives_way():
    """
    Whoever waits, first of the network or token that has most; nobody whose request is whole.
    """
    gate = Gate(6, {}, lambda found: found)
    came = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1", "192.0.2.2", "192.0.2.3"]
    doors = {address: (object(), Transport(address)) for address in came}

    def gone():
        return [address for address, (_, transport) in doors.items() if transport.ended]

    for key, transport in doors.values():
        assert gate.admit(key, transport)
    gate.begins(doors["2001:db8::1"][0])
    gate.serves(doors["2001:db8::1"][0])
    gate.begins(doors["192.0.2.3"][0])
    assert gate.admit(object(), Transport("198.51.100.1"))
    assert gone() == ["2001:db8::2"]  # one of two of the /64 that wait
    for address in ("192.0.2.2", "192.0.2.3"):
        gate.known(doors[address][0], 7)
    assert gate.admit(object(), Transport("198.51.100.2"))
    assert gone() == ["2001:db8::2", "192.0.2.2"]  # two of one token
    gate.serves(doors["192.0.2.3"][0])
    gate.reads(doors["192.0.2.3"][0])  # the rest of an upload
    for n in range(3, 20):
        assert gate.admit(object(), Transport(f"198.51.100.{n}"))
    assert set(doors) - set(gone()) == {"2001:db8::1"}


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/healthz"), ("HEAD", "/v1/rules"), ("DELETE", "/v1/rules/1")],
)
async def test_no_body_is_waited_for_where_none_belongs(few, method, path):
    """
    The answer comes at once, and the connection is closed.
    """
    for framing in (b"Content-Length: 2000", b"Transfer-Encoding: chunked"):
        reader, writer = await connect(few.base)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + framing)
        writer.write(b"\r\n\r\n")
        async with asyncio.timeout(0.9):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.split()[1] == b"400"
        assert b"connection: close" in head.lower()
        assert await closed(reader)
        writer.close()


@pytest.mark.parametrize("path", ["/v1/appeals", "/v1/submissions"])
async def test_limits_are_asked_before_the_body(tmp_path, monkeypatch, path):
    """
    Half bodies count, and who has sent too many is told so before any more of it.
    """
    monkeypatch.setattr(limits, "APPEAL", (limits.Rate(2, 0.001), limits.APPEAL[1]))
    backend = Backend(tmp_path)
    cases = Cases(public=True, public_per_address=2)
    services = dataclasses.replace(backend.services(), cases=cases, public=Public(cases))
    async with serving(services) as backend.base:
        head = APPEAL.replace(b"/v1/appeals", path.encode()) + b"Content-Length: 2000\r\n\r\n{"
        held = await flood(backend, head, 3)
        async with asyncio.timeout(0.9):
            assert (await held[2][0].readline()).split()[1] == b"429"
        assert not await closed(held[0][0], 0.1)
        end(held)
    backend.close()


# Uploads


async def test_uploads_of_one_token_are_bounded(http, few, monkeypatch):
    """
    So many at once, and no more; and of all together half of the places.
    """
    monkeypatch.setattr(pipeline, "UPLOADS", 1)
    held = await flood(few, upload(few, LINE), 1)
    head = few.head(Role.CRAWLER, **NDJSON)
    async with http.post(f"{few.base}/v1/candidates", data=LINE, headers=head) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
    monkeypatch.setattr(pipeline, "UPLOADS", 8)
    held += await flood(few, upload(few, LINE), 1)
    async with http.post(f"{few.base}/v1/candidates", data=LINE, headers=head) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    for reader, writer in held:
        writer.write(b"0\r\n\r\n")
        assert (await answered(reader))[0] == 200
    async with http.post(f"{few.base}/v1/candidates", data=LINE, headers=head) as answer:
        assert answer.status == 200
    end(held)


async def test_uploads_that_stand_still_give_way(http, few):
    """
    One token's uploads that only just go on keep nobody out.
    """
    held = await flood(few, upload(few, b" "), 8)
    for _ in range(10):
        for _, writer in held:
            writer.write(b"1\r\n \r\n")
        assert await ask(http, few) == 200
    end(held)


async def test_an_upload_must_come_with_some_speed(few, monkeypatch):
    """
    A trickle is told so and closed, however much came before; one that is fast enough goes on.
    """
    monkeypatch.setattr(bodies, "PACE_S", 0.3)
    monkeypatch.setattr(bodies, "PACE", 200)
    ((reader, writer),) = await flood(few, upload(few, LINE * 1000), 1)
    for _ in range(12):
        writer.write(b"%x\r\n%b\r\n" % (len(LINE), LINE))
        await asyncio.sleep(0.05)
    assert not reader.at_eof()
    trickle = asyncio.create_task(broken(writer, b"1\r\n \r\n", 0.05))
    status, _, body = await answered(reader)
    assert (status, b"octets came" in body) == (400, True)
    assert await trickle
    writer.close()


# Framing


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"", b"1\r\na\r\n"),
        (b"", b"00000002\r\naa\r\n"),
        (b"2;", b"a"),
        (b"2\r\n{}\r\n", b"2;%b\r\n{}\r\n" % (b"a" * 500)),
        (b"2\r\n{}\r\n0\r\n", b"X-A: %b\r\n" % (b"a" * 900)),
        (b"8000\r\n%b\r\n0\r\n" % (b" " * 32768), b"X-A: %b\r\n" % (b"a" * 900)),
    ],
    ids=["tiny", "zeros", "extension", "extensions", "trailers", "trailers of much"],
)
async def test_framing_without_payload(http, few, unhurried, begin, more):
    """
    It is told to be badly chunked after some kilobytes, and no more of it is read.
    """
    _, writer = await connect(few.base)
    writer.write(CHUNKED + begin)
    assert await broken(writer, more * (65_536 // len(more)), 0.01)
    assert await ask(http, few) == 200
    writer.close()


@pytest.mark.parametrize(
    "sent",
    [b"1\r\n \r\n" * 2000, b"2;" + b"a" * 9000, b"0\r\n" + (b"X-A: " + b"a" * 900 + b"\r\n") * 10],
    ids=["tiny", "extension", "trailers"],
)
async def test_it_is_said(few, unhurried, sent):
    """
    The answer comes while more could be sent, and says what is wrong.
    """
    reader, writer = await connect(few.base)
    writer.write(CHUNKED + sent)
    status, _, body = await answered(reader)
    assert (status, b"badly chunked" in body) == (400, True)
    assert await closed(reader)
    writer.close()


async def test_a_pipelined_body_is_looked_at_too(few, unhurried):
    """
    What comes behind a request that is being worked on is bounded as well.
    """
    few.source.health_s = 1.0
    reader, writer = await connect(few.base)
    writer.write(HEALTH + b"\r\n" + CHUNKED + b"1\r\n \r\n" * 2000)
    assert (await answered(reader))[0] == 200
    assert await closed(reader)
    writer.close()


async def test_an_upload_in_tiny_chunks(few):
    """
    Much that was well framed is no credit for what is not.
    """
    ((reader, writer),) = await flood(few, upload(few, *[LINE * 1000] * 10), 1)
    writer.write(b"1\r\n \r\n" * 3000)
    status, _, body = await answered(reader)
    assert (status, b"badly chunked" in body) == (400, True)
    writer.close()


@pytest.mark.parametrize(
    "coding",
    [b"gzip, chunked", b"chunked\r\nTransfer-Encoding: chunked", b"identity, chunked", b"gzip"],
)
async def test_other_transfer_codings(few, coding):
    """
    Only chunked is taken.
    """
    reader, writer = await connect(few.base)
    writer.write(APPEAL + b"Transfer-Encoding: " + coding + b"\r\n\r\n0\r\n\r\n")
    assert (await answered(reader))[0] == 400
    assert await closed(reader)
    writer.close()


async def test_small_chunks_wait_for_their_turn(http, few, monkeypatch):
    """
    Chunks that are only just large enough come in, a little at a time, and all of them do.
    """
    monkeypatch.setattr(connection, "TURN_S", 0.0005)
    turns = []
    wait = connection.Turns.wait
    monkeypatch.setattr(
        connection.Turns, "wait", lambda self, spent: turns.append(spent) or wait(self, spent)
    )
    count = 4000
    body = b"".join(b"%x\r\n%b\r\n" % (len(LINE), LINE) for _ in range(count))
    ((reader, writer),) = await flood(few, upload(few) + body + b"0\r\n\r\n", 1)
    assert await ask(http, few) == 200
    async with asyncio.timeout(20.0):
        head = await reader.readuntil(b"\r\n\r\n")
        found = json.loads(await reader.readuntil(b"}"))
    assert head.split()[1] == b"200"
    assert found["accepted"] + found["duplicate"] == count
    assert turns
    assert max(turns) < 0.1
    writer.close()


async def test_a_client_that_goes_away_is_no_fault(few, unhurried, capfd):
    """
    Nothing is logged when connections end in the middle of a body, whoever ends them.
    """
    for head in (APPEAL + b"Content-Length: 2000\r\n\r\n{", upload(few, LINE)):
        end(await flood(few, head, 3))
        held = await flood(few, head, 12)
        for _, writer in held:
            writer.write(b" ")
            writer.transport.abort()
    await asyncio.sleep(0.3)
    assert "api.failed" not in capfd.readouterr().err


async def test_what_aiohttp_says_of_a_client_that_is_gone():
    """
    It is told as a lost connection, which is logged nowhere.
    """
    loop = asyncio.get_running_loop()
    protocol = BaseProtocol(loop)
    content = StreamReader(protocol, 64, loop=loop)
    request = types.SimpleNamespace(
        content=content, protocol=protocol, headers={}, content_length=None
    )
    with pytest.raises(ConnectionResetError):
        await bodies.whole(request, 10)
    with pytest.raises(ConnectionResetError):
        await anext(bodies.pieces(request))
    protocol.transport = object()
    content.set_exception(RuntimeError("something else"))
    with pytest.raises(RuntimeError):
        await bodies.whole(request, 10)


# Clients as they should be


async def pieces(count, size=65_536, wait_s=0.0):
    """Lines, in pieces."""
    for n in range(count):
        await asyncio.sleep(wait_s)
        line = b'{"url":"http://e%d.example/"}\n' % n
        yield line * (size // len(line))


@pytest.mark.parametrize(("count", "size"), [(40, 65_536), (400, 4096), (3000, 40)])
@pytest.mark.slow
async def test_chunked_uploads(http, few, count, size):
    """
    Large pieces, small ones, and each line by itself.
    """
    head = few.head(Role.CRAWLER, **NDJSON)
    async with http.post(
        f"{few.base}/v1/candidates", data=pieces(count, size), headers=head
    ) as answer:
        found = await answer.json()
    assert answer.status == 200
    assert found["accepted"] == count
    assert found["invalid"] == 0


async def test_a_slow_mobile(few):
    """
    2 KiB a second, in small packets, are enough for a body of ordinary size.
    """
    body = json.dumps({"items": [f"n{n}.example" for n in range(100)]}).encode()
    reader, writer = await connect(few.base)
    writer.write(
        b"POST /v1/check HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer " + few.token[Role.ANALYST].encode()
    )
    writer.write(b"\r\nContent-Length: %d\r\n\r\n" % len(body))
    for at in range(0, len(body), 102):
        writer.write(body[at : at + 102])
        await asyncio.sleep(0.05)
    assert (await answered(reader))[0] == 200
    writer.close()


async def test_expect_continue(http, few):
    """
    Who waits for a word gets it, with either framing.
    """
    body = json.dumps({"items": ["a.example"]}).encode()

    async def chunked():
        yield body

    for data in (body, chunked()):
        head = few.head(Role.ANALYST, **{"Content-Type": "application/json"})
        async with http.post(
            f"{few.base}/v1/check", data=data, headers=head, expect100=True
        ) as answer:
            assert answer.status == 200


async def test_pipelining_and_keeping_alive(few):
    """
    Two requests at once get two answers, and a third one comes after them.
    """
    body = json.dumps({"items": ["a.example"]}).encode()
    head = (
        b"POST /v1/check HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer " + few.token[Role.ANALYST].encode() + b"\r\n"
    )
    plain = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body
    chunked += b"\r\n0\r\n\r\n"
    reader, writer = await connect(few.base)
    for together in ((plain, chunked), (chunked, plain, HEALTH + b"\r\n"), (plain,)):
        writer.write(b"".join(together))
        for _ in together:
            assert (await answered(reader))[0] == 200
    writer.close()


async def test_many_at_once(few):
    """
    More requests than aiohttp reads ahead are all answered, and what comes after them.
    """
    reader, writer = await connect(few.base)
    for count, more in ((100, b""), (300, b"X: %b\r\n" % (b"x" * 1000)), (1, b"")):
        writer.write((HEALTH + more + b"\r\n") * count)
        for _ in range(count):
            assert (await answered(reader))[0] == 200
    writer.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize(
    "more", [[], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect: 100-continue"]]
)
@pytest.mark.slow
async def test_curl(few, tmp_path, more):
    """
    curl sends a large body with a length, in chunks, and with a word before.
    """
    path = tmp_path / "lines"
    path.write_bytes(LINE * 100_000)
    process = await asyncio.create_subprocess_exec(
        *("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*", *more),
        *("-H", f"Authorization: Bearer {few.token[Role.CRAWLER]}"),
        *("-H", "Content-Type: application/x-ndjson", "-T", str(path), "-X", "POST"),
        f"{few.base}/v1/candidates",
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert out == b"200"
