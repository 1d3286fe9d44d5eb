"""Candidates over HTTP: bodies of any size, what they become, and where they end."""

import asyncio
import contextlib
import dataclasses
import io
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.api.backend import Backend, connect, serving, until
from urlguard.access.roles import Role
from urlguard.api.routes import JSON, NDJSON
from urlguard.api.v1 import candidates
from urlguard.api.v1.candidates import PIECE, Cutter
from urlguard.cases import ndjson
from urlguard.cases.drivers.sqlite import open_store
from urlguard.cases.model import MAX_FAILURES, Limits, StoreError
from urlguard.cases.ndjson import MAX_LINE
from urlguard.config import Cases

HUGE = b'{"url":"' + b"a" * 1_000_000 + b'.example"}\n'


def lines(*items):
    """Items as lines of JSON."""
    return b"".join(json.dumps({"url": item}).encode() + b"\n" for item in items)


def many(count, start=0):
    """So many items, no two alike."""
    return lines(*(f"http://n{n}.example/a/path/that/is/{n}" for n in range(start, start + count)))


async def post(http, backend, data, role=Role.CRAWLER, media=NDJSON, **more):
    """Status, document and headers."""
    headers = backend.head(role, **{"Content-Type": media, **more})
    body = io.BytesIO(data if isinstance(data, bytes) else data.encode())
    async with http.post(f"{backend.base}/v1/candidates", data=body, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None), answer.headers


async def get(http, backend, path, role=Role.ANALYST):
    """Status and document."""
    async with http.get(f"{backend.base}{path}", headers=backend.head(role)) as answer:
        return answer.status, await answer.json(content_type=None)


def kept(backend):
    """What lies on disk, seen by another reader."""
    store = open_store(backend.folder / "cases.db")
    try:
        return store.sources()
    finally:
        store.close()


@pytest.fixture
async def limited(tmp_path):
    """What makes backends with other limits."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(limits=None, **options):
            backend = Backend(tmp_path, limits=limits)
            services = dataclasses.replace(backend.services(), cases=Cases(**options))
            backend.base = await stack.enter_async_context(serving(services))
            stack.callback(backend.close)
            return backend

        yield make


async def test_lines(http, backend):
    """
    New ones, duplicates and lines that are none are counted, with the places of these.
    """
    data = lines("http://evil.example/a", "evil.example") + b'{"url": 7}\n\nnonsense\n'
    data += lines("EVIL.example.", "localhost")
    status, found, _ = await post(http, backend, data)
    assert status == 200
    assert (found["accepted"], found["duplicate"], found["invalid"]) == (2, 1, 3)
    assert [error["line"] for error in found["errors"]] == [3, 5, 7]
    assert found["errors"][0]["error"] == "url: Expected `str`, got `int`"
    (source,) = kept(backend)
    assert (source.name, source.accepted, source.invalid) == ("my-crawler", 2, 3)
    status, again, _ = await post(http, backend, data)
    assert (again["accepted"], again["duplicate"]) == (0, 3)


@pytest.mark.parametrize(
    ("data", "counts"),
    [
        ({"url": "a.example"}, (1, 0, 0)),
        ([{"url": "a.example", "seen_at": 1_750_000_000}, {"url": "http://a.example/"}], (2, 0, 0)),
        ([{"url": "a.example", "seen_at": "2026-05-01T12:00:00Z", "context": "x"}], (1, 0, 0)),
        ([{"url": "a.example", "other": 1}, {"url": "nodot"}], (1, 0, 1)),
        ([{"url": "a.example", "seen_at": "yesterday"}], (0, 0, 1)),
        ([], (0, 0, 0)),
    ],
)
async def test_plain_json(http, backend, data, counts):
    """
    One object or a list are taken as well; an item that is no candidate costs only itself.
    """
    status, found, _ = await post(http, backend, json.dumps(data), media=JSON)
    assert status == 200
    assert (found["accepted"], found["duplicate"], found["invalid"]) == counts


async def test_plain_json_that_does_not_fit(http, backend):
    """
    What is of the wrong type is refused as a whole, and so is what is too large.
    """
    status, found, _ = await post(http, backend, '[{"url": "a.example"}, {"url": 1}]', media=JSON)
    assert (status, found["errors"][0]["field"]) == (422, "[1].url")
    assert kept(backend) == []
    status, _, _ = await post(http, backend, b"[" + b" " * (1 << 18) + b"]", media=JSON)
    assert status == 413


async def test_a_long_list(http, backend):
    """
    It is read in slices and taken in pieces: as a whole or not at all, and places are the list's.
    """
    made = [{"url": f"http://n{n}.example/" + "x" * 50, "seen_at": 5} for n in range(2500)]
    made[2100]["url"] = 1
    status, found, _ = await post(http, backend, json.dumps(made), media=JSON)
    assert (status, found["errors"][0]["field"]) == (422, "[2100].url")
    assert kept(backend) == []
    made[2100]["url"] = "nodot"
    status, found, _ = await post(http, backend, json.dumps(made), media=JSON)
    assert (status, found["accepted"], found["invalid"]) == (200, 2499, 1)
    assert [error["line"] for error in found["errors"]] == [2101]


async def test_a_long_body(http, backend):
    """
    It is taken in pieces, and the lines are numbered through.
    """
    data = many(30_000) + b"nonsense\n" + many(10, 30_000)
    status, found, _ = await post(http, backend, data)
    assert (status, found["accepted"], found["invalid"]) == (200, 30_010, 1)
    assert found["errors"][0]["line"] == 30_001
    assert len(backend.judging.pieces) > 3
    assert max(backend.judging.pieces) <= PIECE


async def test_many_errors(http, backend):
    """
    A thousand are told; all are counted.
    """
    status, found, _ = await post(http, backend, b"nonsense\n" * 40_000)
    assert (status, found["invalid"], len(found["errors"])) == (200, 40_000, 1000)
    assert found["errors"][-1]["line"] == 1000


async def test_a_line_without_an_end(http, backend):
    """
    Of a line that is too long only its beginning is held; those around it are taken.
    """
    data = lines("a.example") + HUGE * 3 + lines("b.example")
    status, found, _ = await post(http, backend, data)
    assert (status, found["accepted"], found["invalid"]) == (200, 2, 3)
    assert [error["line"] for error in found["errors"]] == [2, 3, 4]
    assert "limit is 16384" in found["errors"][0]["error"]
    assert sum(backend.judging.pieces) < 4 * MAX_LINE


@given(
    st.lists(st.one_of(st.binary(max_size=40), st.just(b"x" * (MAX_LINE + 9))), max_size=30),
    st.integers(1, 50_000),
)
def test_cutting_loses_nothing(parts, size):
    """
    However a body comes in, its pieces are its lines; of one too long there is enough to tell.
    """
    data = b"\n".join(part.replace(b"\n", b"") for part in parts)
    cutter, found = Cutter(), b""
    for at in range(0, len(data), size):
        for piece in cutter.feed(data[at : at + size]):
            assert piece.endswith(b"\n")
            assert len(piece) <= PIECE
            found += piece
    found += cutter.rest()
    for line, whole in zip(found.split(b"\n"), data.split(b"\n"), strict=True):
        assert line == whole or (len(line) > MAX_LINE and whole.startswith(line))


async def test_the_queue_is_full(http, limited):
    """
    429 with Retry-After; what is in is told, and to send all of it again does no harm.
    """
    backend = await limited(Limits(backlog=5000, share=1.0, wait_s=7.0))
    backend.judging.deaf = True
    data = many(20_000)
    status, found, headers = await post(http, backend, data)
    assert (status, headers["Retry-After"]) == (429, "7")
    (source,) = kept(backend)
    assert source.accepted >= 5000
    assert f"lines 1 to {source.accepted} are taken" in found["detail"]
    assert found["errors"][-1]["field"] == f"line {source.accepted + 1}"
    status, _, _ = await post(http, backend, data)
    assert status == 429
    assert kept(backend)[0].accepted == source.accepted


async def test_over_the_quota(http, limited):
    """
    A crawler's is its own; staff have none.
    """
    backend = await limited(crawler_per_hour=3600, crawler_burst=10)
    assert (await post(http, backend, many(11)))[0] == 200
    status, found, headers = await post(http, backend, many(1, 11))
    assert status == 429
    assert 1 <= int(headers["Retry-After"]) <= 3
    assert "quota of 3600" in found["detail"]
    assert (await post(http, backend, many(30, 20), Role.ANALYST))[0] == 200
    assert (await post(http, backend, many(30, 60), Role.ANALYST))[0] == 200


async def test_busy_judges(http, backend, monkeypatch):
    """
    Where they have too much to do, it takes longer; where they cannot work, it is told.
    """
    monkeypatch.setattr(candidates, "_BUSY_S", 0.01)
    backend.judging.busy = 5
    status, found, _ = await post(http, backend, many(10_000))
    assert (status, found["accepted"]) == (200, 10_000)
    monkeypatch.setattr(candidates, "PATIENCE_S", 0.0)
    backend.judging.busy = 5
    status, _, headers = await post(http, backend, many(1))
    assert (status, headers["Retry-After"]) == (503, "3")


async def test_the_disk_fails(http, backend, monkeypatch):
    """
    503, and what was stored before is told.
    """
    store = await backend.casework.store(lambda found: found)
    real, calls = store.add, []

    def add(*arguments, **more):
        calls.append(arguments)
        if len(calls) == 3:
            raise StoreError("the disk is full")
        return real(*arguments, **more)

    monkeypatch.setattr(store, "add", add)
    status, found, _ = await post(http, backend, many(30_000))
    assert status == 503
    assert f"lines 1 to {kept(backend)[0].accepted} are taken" in found["detail"]


async def test_the_same_under_a_key(http, backend):
    """
    An answer that was lost is given again.
    """
    first = await post(http, backend, many(100), **{"Idempotency-Key": "k"})
    again = await post(http, backend, many(100), **{"Idempotency-Key": "k"})
    assert again[:2] == first[:2]
    assert again[2]["Idempotency-Replayed"] == "true"


async def test_what_became_of_one(http, backend):
    """
    By any spelling: its state, its case, and who reported it in which words.
    """
    await backend.bring("http://evil.example/A", source="crawler-2")
    await post(http, backend, lines("HTTP://EVIL.example:80/A#x"))
    status, found = await get(http, backend, "/v1/candidates?item=http%3A%2F%2Fevil.example%2FA")
    assert (status, found["item"], found["name"]) == (200, "http://evil.example/A", "evil.example")
    assert found["case"] is not None
    assert [r["source"] for r in found["reports"]] == ["crawler-2", "my-crawler"]
    assert found["reports"][1]["raw"] == "HTTP://EVIL.example:80/A#x"
    assert (await get(http, backend, "/v1/candidates?item=other.example"))[0] == 404
    assert (await get(http, backend, "/v1/candidates?item=nodot"))[0] == 422


async def test_the_dead_and_their_return(http, backend):
    """
    What cannot be judged is listed with the reason, and waits again when somebody says so.
    """

    def bury(store):
        now = int(time.time())
        rows = [ndjson.candidate(f"dead{n}.example", 0) for n in range(3)]
        store.add("x", rows, now)
        ids = [store.item(row.item).id for row in rows]
        for _ in range(MAX_FAILURES):
            store.failed(ids, "made two judges die", now + 9999)
        return ids

    backend.judging.deaf = True
    ids = await backend.casework.store(bury)
    status, page = await get(http, backend, "/v1/candidates/dead?limit=2")
    assert (status, [one["error"] for one in page["items"]]) == (200, ["made two judges die"] * 2)
    assert page["items"][0]["state"] == "dead"
    _, rest = await get(http, backend, f"/v1/candidates/dead?limit=2&cursor={page['next']}")
    assert ([one["id"] for one in rest["items"]], rest["next"]) == (ids[2:], None)
    async with http.post(
        f"{backend.base}/v1/candidates/retry", json={"ids": [*ids, 999]}, headers=backend.head()
    ) as answer:
        assert await answer.json() == {"retried": 3}
    assert (await get(http, backend, "/v1/candidates/dead"))[1]["items"] == []


async def test_sources(http, backend):
    """
    Staff see all, a crawler itself alone.
    """
    await backend.bring("a.example", "b.example", source="crawler-2")
    await post(http, backend, lines("b.example", "c.example"))
    status, page = await get(http, backend, "/v1/sources?limit=1")
    assert (status, [one["name"] for one in page["items"]]) == (200, ["crawler-2"])
    _, rest = await get(http, backend, f"/v1/sources?cursor={page['next']}")
    assert [one["name"] for one in rest["items"]] == ["my-crawler"]
    status, mine = await get(http, backend, "/v1/sources/my-crawler", Role.CRAWLER)
    assert (status, mine["accepted"], mine["duplicate"], mine["reputation"]) == (200, 1, 1, 0.5)
    assert (await get(http, backend, "/v1/sources/crawler-2", Role.CRAWLER))[0] == 404
    assert (await get(http, backend, "/v1/sources/crawler-2", Role.AUDITOR))[0] == 200
    _, own = await get(http, backend, "/v1/sources", Role.CRAWLER)
    assert [one["name"] for one in own["items"]] == ["my-crawler"]


async def test_nobody_blocks_by_reporting(http, backend):
    """
    However much one source reports, and how often: no rule follows.
    """
    for _ in range(3):
        await post(http, backend, lines(*(f"http://shop.example/{n}" for n in range(500))))
    await backend.bring("shop.example", source="my-crawler")
    assert backend.log.serial == 0


async def test_a_client_that_goes_away(http, backend, capsys):
    """
    What it has brought until then may be in; nothing fails, and it may send all of it again.
    """
    data = many(20_000)
    _, writer = await connect(backend.base)
    head = (
        f"POST /v1/candidates HTTP/1.1\r\nHost: localhost\r\nContent-Type: {NDJSON}\r\n"
        f"Authorization: Bearer {backend.token[Role.CRAWLER]}\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    writer.write(head.encode() + data[:-100])
    await writer.drain()
    await until(lambda: len(backend.judging.pieces) >= 3)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    status, found, _ = await post(http, backend, data)
    assert (status, found["accepted"] + found["duplicate"]) == (200, 20_000)
    assert "api.failed" not in capsys.readouterr().err


async def test_many_at_once(http, backend):
    """
    Streams side by side are each taken whole, and an item of two counts once.
    """
    found = await asyncio.gather(
        *(post(http, backend, many(8000, n * 4000), Role.ADMIN) for n in range(6))
    )
    assert [status for status, _, _ in found] == [200] * 6
    assert sum(one["accepted"] for _, one, _ in found) == 28_000
    assert sum(one["duplicate"] for _, one, _ in found) == 20_000
