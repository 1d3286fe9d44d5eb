"""Bodies of any size: handlers that read them piece by piece."""

import asyncio
import dataclasses

import pytest

from tests.api.backend import Backend, closed, connect, serving
from urlguard.access.roles import Role
from urlguard.api import bodies, connections, server
from urlguard.api.openapi import document
from urlguard.api.routes import JSON, NDJSON, Call, Nothing, Route
from urlguard.api.table import ROUTES


@pytest.fixture
def counted(monkeypatch):
    """A route that counts lines; what it was given is in the list."""
    seen = []

    async def count(call: Call[Nothing, Nothing]) -> dict:
        lines = 0
        async for piece in call.chunks:
            lines += piece.count(b"\n")
            seen.append(len(piece))
        return {"lines": lines, "by": call.holder.name}

    route = Route(
        method="POST",
        path="/v1/count",
        roles=frozenset({Role.CRAWLER}),
        tag="Test",
        summary="Count lines",
        streams=True,
        takes=(JSON, NDJSON),
        answer=dict,
        handler=count,
    )
    before = server.routes
    monkeypatch.setattr(server, "routes", lambda file: (*before(file), route))
    return seen


@pytest.fixture
async def backend(counted, tmp_path):
    """A server with that route."""
    made = Backend(tmp_path)
    async with serving(made.services()) as made.base:
        yield made
    made.close()


async def lines(count, wait_s=0.0):
    """So many lines, in pieces."""
    for at in range(0, count, 1000):
        await asyncio.sleep(wait_s)
        yield b'{"url":"a.example"}\n' * min(1000, count - at)


async def send(http, backend, data, **headers):
    """Status, document, and whether it is an answer of before."""
    headers = backend.head(Role.CRAWLER, **{"Content-Type": NDJSON, **headers})
    async with http.post(f"{backend.base}/v1/count", data=data, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None), answer.headers


async def test_a_long_body(http, backend, counted, monkeypatch):
    """
    It is read as it comes, without a limit on its size or on its time while it moves.
    """
    monkeypatch.setattr(connections, "BUSY_S", 0.4)
    monkeypatch.setattr(connections, "IDLE_S", 0.4)
    status, document, _ = await send(http, backend, lines(20_000, 0.05))
    assert (status, document) == (200, {"lines": 20_000, "by": "my-crawler"})
    assert max(counted) < 200_000


async def test_the_same_again(http, backend, counted):
    """
    Under a key, the same body gets the same answer without being worked on; another is refused.
    """
    first = await send(http, backend, lines(5000), **{"Idempotency-Key": "k"})
    pieces = len(counted)
    again = await send(http, backend, lines(5000), **{"Idempotency-Key": "k"})
    assert again[:2] == first[:2]
    assert again[2]["Idempotency-Replayed"] == "true"
    other = await send(http, backend, lines(5001), **{"Idempotency-Key": "k"})
    assert other[0] == 422
    assert len(counted) == pieces


async def test_a_large_answer_is_kept(http, backend, counted):
    """
    However large an answer is, the same body is not worked on again, and another is refused.
    """
    key = {"Idempotency-Key": "k"}
    junk = b"junk\n" * 2000

    async def bring(data):
        headers = backend.head(Role.CRAWLER, **{"Content-Type": NDJSON, **key})
        async with http.post(f"{backend.base}/v1/candidates", data=data, headers=headers) as answer:
            return answer.status, await answer.text(), answer.headers

    first = await bring(junk)
    assert first[0] == 200
    assert len(first[1]) > 65_536
    read = len(backend.judging.pieces)
    again = await bring(junk)
    assert again[:2] == first[:2]
    assert again[2]["Idempotency-Replayed"] == "true"
    assert (await bring(junk + b"more\n"))[0] == 422
    assert len(backend.judging.pieces) == read


def test_no_streamed_body_is_worked_on_again():
    """
    A route that streams cannot promise that it changes nothing: its body is used up.
    """
    with pytest.raises(ValueError, match="cannot be worked on again"):
        dataclasses.replace(ROUTES[0], streams=True)


async def test_a_body_that_stops(backend, monkeypatch):
    """
    Who sends nothing for a while is told so and closed.
    """
    monkeypatch.setattr(bodies, "CHUNK_S", 0.2)
    reader, writer = await connect(backend.base)
    writer.write(
        b"POST /v1/count HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
        b"Authorization: Bearer " + backend.token[Role.CRAWLER].encode() + b"\r\n"
        b"Content-Length: 100\r\n\r\n{}\n"
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    assert await closed(reader)
    writer.close()


async def test_who_may_not_sends_nothing(http, backend, counted):
    """
    A caller whose role is another's is refused before the body, also one who waits for a word.
    """
    headers = {**backend.head(Role.REPORTER), "Content-Type": NDJSON}
    async with http.post(
        f"{backend.base}/v1/count", data=lines(100_000, 0.01), headers=headers, expect100=True
    ) as answer:
        assert answer.status == 403
    assert not counted


async def test_it_is_described():
    """
    A streamed body of two types is in the document.
    """
    route = dataclasses.replace(
        ROUTES[0], streams=True, reads=False, takes=(JSON, NDJSON), path="/v1/other"
    )
    found = document((route,))["paths"]["/v1/other"]["post"]["requestBody"]["content"]
    assert set(found) == {JSON, NDJSON}
