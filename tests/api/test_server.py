"""The HTTP server: its routes, who may use them, and how much one client may take."""

import asyncio
import json
import socket

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.api.backend import Fixed, closed, connect, serving, until
from urlguard.api import connections, metrics, pipeline, server
from urlguard.api.metrics import Token
from urlguard.api.server import ApiServer
from urlguard.api.services import Services
from urlguard.config import Api, Endpoint

TOKEN = "0123456789abcdef-secret"


async def test_metrics_in_prometheus_text(http):
    """
    Counters, gauges and histograms come out as Prometheus's own parser reads them.
    """
    async with serving(Fixed()) as base, http.get(f"{base}/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        found = {f.name: f for f in text_string_to_metric_families(await answer.text())}
    (sample,) = found["urlguard_a"].samples
    assert (sample.labels, sample.value) == ({"x": 'q"\\\n'}, 3)
    assert found["urlguard_b"].samples[0].value == 1.5
    assert [(s.name, s.labels.get("le"), s.value) for s in found["urlguard_c"].samples] == [
        ("urlguard_c_bucket", "0.1", 1),
        ("urlguard_c_bucket", "+Inf", 2),
        ("urlguard_c_count", None, 2),
        ("urlguard_c_sum", None, 0.3),
    ]


@pytest.mark.parametrize(("path", "key"), [("/healthz", "ok"), ("/readyz", "ready")])
@pytest.mark.parametrize(("good", "status"), [(True, 200), (False, 503)])
async def test_health(http, path, key, good, status):
    """
    Health is JSON with 200 or 503.
    """
    source = Fixed()
    setattr(source, key, good)
    async with serving(source) as base, http.get(base + path) as answer:
        assert (answer.status, (await answer.json())[key]) == (status, good)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1", 404), ("POST", "/metrics", 405), ("GET", "/x", 404)],
)
async def test_other_paths(http, method, path, status):
    """
    What does not exist is said to in a problem document.
    """
    async with serving(Fixed()) as base, http.request(method, base + path) as answer:
        assert answer.status == status
        assert answer.content_type == "application/problem+json"
        assert (await answer.json())["status"] == status


# From elsewhere: as a proxy on this machine passes it on.
ELSEWHERE = {"X-Forwarded-For": "192.0.2.9"}


@pytest.mark.parametrize(
    ("token", "headers", "status"),
    [
        (None, {}, 200),
        (None, ELSEWHERE, 403),
        (TOKEN, {}, 200),
        (TOKEN, ELSEWHERE, 401),
        (TOKEN, {**ELSEWHERE, "Authorization": f"Bearer {TOKEN}"}, 200),
        (TOKEN, {**ELSEWHERE, "Authorization": f"bearer {TOKEN}"}, 200),
        (TOKEN, {**ELSEWHERE, "Authorization": f"Bearer {TOKEN}x"}, 401),
        (TOKEN, {**ELSEWHERE, "Authorization": f"Basic {TOKEN}"}, 401),
        (TOKEN, {**ELSEWHERE, "Authorization": "Bearer "}, 401),
        (TOKEN, {"Forwarded": "for=192.0.2.9"}, 401),
        ("", {**ELSEWHERE, "Authorization": "Bearer "}, 401),
        ("short", {**ELSEWHERE, "Authorization": "Bearer short"}, 401),
        ("two words and more", {**ELSEWHERE, "Authorization": "Bearer two words and more"}, 401),
    ],
)
async def test_who_may_read_metrics(http, tmp_path, token, headers, status):
    """
    This machine always; others with the token; a file without a proper token lets nobody in.
    """
    file = None
    if token is not None:
        file = tmp_path / "token"
        file.write_text(token + "\n")
    async with (
        serving(Fixed(), metrics_token_file=file) as base,
        http.get(f"{base}/metrics", headers=headers) as answer,
    ):
        assert answer.status == status


def test_the_token_is_read_again_when_the_file_changes(tmp_path, capsys):
    """
    A new token holds from the next request on; a file that is gone lets nobody in, and one event
    says so.
    """
    file = tmp_path / "token"
    token = Token(file)
    assert not token.fits(TOKEN)
    assert not token.fits("")
    file.write_text(TOKEN)
    assert token.fits(TOKEN)
    file.write_text(TOKEN[::-1])
    assert not token.fits(TOKEN)
    assert token.fits(TOKEN[::-1])
    file.write_text("x" * (metrics.MAX_TOKEN + 1))
    assert not token.fits("x" * (metrics.MAX_TOKEN + 1))
    assert not token.fits("x" * metrics.MAX_TOKEN)
    file.unlink()
    assert not token.fits(TOKEN[::-1])
    said = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert said == ["api.token"] * 3


async def test_an_error_inside_stays_inside(http, capsys):
    """
    A route that raises answers 500 without saying what; one event in ten seconds does.
    """
    source = Fixed()
    source.error = RuntimeError("disk on fire")
    async with serving(source) as base:
        for _ in range(3):
            async with http.get(f"{base}/metrics") as answer:
                assert answer.status == 500
                assert "fire" not in await answer.text()
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [e["event"] for e in said] == ["api.listening", "api.failed"]
    assert "disk on fire" in said[1]["error"]


async def test_a_taken_address_is_tried_again(http, monkeypatch, capsys):
    """
    It is said once that the address is taken; when it becomes free, the server is there.
    """
    monkeypatch.setattr(server, "RETRY_S", 0.02)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = Endpoint(*taken.getsockname())
        api = ApiServer(Api(listen=where), Services(source=Fixed()))
        task = asyncio.create_task(api.run())
        await asyncio.sleep(0.1)
        assert api.address is None
    await until(lambda: api.address)
    task.cancel()
    await asyncio.wait([task])
    said = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert said == ["api.unavailable", "api.listening"]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["silent", "half a header", "half a body", "idle after an answer"],
)
async def test_slow_clients_are_closed(monkeypatch, sent):
    """
    Whoever does not send a whole request in time, or none after the last, is closed.
    """
    monkeypatch.setattr(connections, "IDLE_S", 0.3)
    async with serving(Fixed()) as base:
        reader, writer = await connect(base)
        writer.write(sent)
        assert await closed(reader)
        writer.close()


async def test_a_request_that_takes_too_long_is_closed(monkeypatch):
    """
    A route that hangs does not keep its connection for ever.
    """
    monkeypatch.setattr(pipeline, "REQUEST_S", 0.3)
    monkeypatch.setattr(connections, "IDLE_S", 0.3)
    source = Fixed()
    source.wait_s = 30.0
    async with serving(source) as base:
        reader, writer = await connect(base)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await closed(reader)
        writer.close()


async def test_connections_are_bounded(http):
    """
    Whoever comes when all places are taken gets that of the one who has waited longest.
    """
    async with serving(Fixed(), connections=5) as base:
        held = [await connect(base) for _ in range(5)]
        await asyncio.sleep(0.05)
        request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        for number in (1, 0):  # who was served waits again, from then on
            held[number][1].write(request)
            assert (await held[number][0].readline()).startswith(b"HTTP/1.1 200")
        for number in (2, 3, 4, 1, 0):
            reader, writer = await connect(base)
            writer.write(request)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            assert await closed(held[number][0], 1.0)
            held.append((reader, writer))
        for _, other in held:
            other.close()


async def test_health_answers_while_all_places_are_used(http):
    """
    As many requests as may be hang: others are told to come back, and health is told at once.
    """
    source = Fixed()
    source.wait_s = 30.0
    async with serving(source, connections=3) as base:
        held = [await connect(base) for _ in range(3)]
        for _, writer in held:
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.sleep(0.1)
        async with asyncio.timeout(2.0):
            async with http.get(f"{base}/metrics") as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            async with http.get(f"{base}/healthz") as answer:
                assert answer.status == 200
        for _, writer in held:
            writer.close()


async def test_more_than_the_spare_places_are_refused(monkeypatch):
    """
    When the spare places are taken too, a connection is closed at once.
    """
    monkeypatch.setattr(connections, "SPARE", 1)
    source = Fixed()
    source.health_s = 30.0
    async with serving(source, connections=1) as base:
        held = []
        for _ in range(2):
            held.append(await connect(base))
            held[-1][1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.sleep(0.05)
        held.append(await connect(base))
        assert await closed(held[2][0], 1.0)
        assert not await closed(held[1][0], 0.1)
        assert not await closed(held[0][0], 0.1)
        for _, writer in held:
            writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 10_000 + b"\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
    ],
    ids=["long line", "long header", "many headers", "TLS", "version"],
)
async def test_oversized_and_broken_requests(http, capfd, head):
    """
    They are answered with an error and closed, without a line on stderr, and others are served.
    """
    async with serving(Fixed()) as base:
        reader, writer = await connect(base)
        writer.write(head)
        first = await reader.readline()
        assert first.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
        writer.close()
        async with http.get(f"{base}/healthz") as answer:
            assert answer.status == 200
    lines = capfd.readouterr().err.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["api.listening"]
