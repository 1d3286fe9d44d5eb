"""What is the same for all routes: hosts, methods, parameters, bodies, headers, errors."""

import asyncio
import io
import json

import msgspec
import pytest

from tests.api.backend import closed, connect, serving
from urlguard.access.roles import Role
from urlguard.api import bodies, paging, pipeline
from urlguard.api.problems import KINDS, Problem
from urlguard.api.v1 import checks


async def post(http, backend, path="/v1/check", role=Role.ANALYST, **more):
    """Status and document of a POST."""
    headers = backend.head(role, **more.pop("headers", {}))
    async with http.post(backend.base + path, headers=headers, **more) as answer:
        return answer.status, await answer.json(content_type=None)


async def get(http, backend, path, role=Role.AUDITOR):
    """Status and document of a GET."""
    async with http.get(backend.base + path, headers=backend.head(role)) as answer:
        return answer.status, await answer.json(content_type=None)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8530", 200),
        ("127.0.0.1", 200),
        ("192.0.2.7:80", 200),
        ("[::1]:8530", 200),
        ("urlguard.isp.example", 200),
        ("URLGUARD.isp.example.:8530", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("1.2.3", 421),
        ("", 400),
        ("a b", 400),
        ("localhost:port", 400),
        ("user@localhost", 400),
    ],
)
async def test_hosts(http, backend, host, status):
    """
    Addresses, localhost and configured names are served; health under any name.
    """
    async with serving(backend.services(), hosts=("urlguard.isp.example",)) as base:
        async with http.get(f"{base}/openapi.json", headers={"Host": host}) as answer:
            assert answer.status == status
        async with http.get(f"{base}/healthz", headers={"Host": host}) as answer:
            assert answer.status == 200


@pytest.mark.parametrize("hosts", [b"", b"Host: localhost\r\nHost: localhost\r\n"])
async def test_one_host_header(backend, hosts):
    """
    None and two are refused.
    """
    reader, writer = await connect(backend.base)
    writer.write(b"GET /openapi.json HTTP/1.1\r\n" + hosts + b"\r\n")
    assert (await reader.readline()).split()[1] == b"400"
    writer.close()


async def test_methods(http, backend):
    """
    Another method gets 405 with those that there are; HEAD is as GET without a body.
    """
    async with http.patch(f"{backend.base}/v1/rules") as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET, POST, HEAD"
    async with http.head(f"{backend.base}/docs") as answer:
        assert answer.status == 200
        assert await answer.read() == b""
    async with http.get(f"{backend.base}/v1/rules/%ff", headers=backend.head()) as answer:
        assert answer.status == 404


@pytest.mark.parametrize("path", ["/docs", "/nowhere", "/healthz", "/v1/check"])
async def test_headers(http, backend, path):
    """
    Every answer forbids a browser to keep, guess, frame and run.
    """
    async with http.get(backend.base + path) as answer:
        said = answer.headers
        assert said["Cache-Control"] == "no-store"
        assert said["X-Content-Type-Options"] == "nosniff"
        assert said["Content-Security-Policy"].startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in said["Content-Security-Policy"]
        assert said["Server"] == "urlguard"


@pytest.mark.parametrize(
    ("body", "status", "field", "words"),
    [
        (b"", 400, None, ""),
        (b"{", 400, None, ""),
        (b"\xff", 400, None, ""),
        (b'{"items": ["\xff"]}', 400, None, ""),
        (b'{"items": ["\\ud800"]}', 400, None, ""),
        (b"[" * 100_000, 422, "", "expected object, got array"),
        (b"null", 422, "", "expected object, got null"),
        (b"{}", 422, "items", "missing"),
        (b'{"items": 7}', 422, "items", "expected array, got int"),
        (b'{"items": ["a.example", 7]}', 422, "items[1]", "expected str, got int"),
        (b'{"items": [], "wyh": true}', 422, "wyh", "unknown field"),
        (b'{"items": [], "why": 1}', 422, "why", "expected bool, got int"),
        (b'{"items": ["' + b"x" * 65_537 + b'"]}', 422, "items[0]", "length <= 65536"),
        (json.dumps({"items": ["x"] * 10_001}).encode(), 422, "items", "length <= 10000"),
        (json.dumps({"items": ["x"] * 101, "why": True}).encode(), 422, "items", "at most 100"),
        (b'{"items": []' + b" " * (8 << 20) + b"}", 413, None, ""),
    ],
    ids=range(16),
)
async def test_bodies_that_do_not_fit(http, backend, body, status, field, words):
    """
    What is wrong is said with the field, and no judge is asked.
    """
    found, document = await post(
        http, backend, data=io.BytesIO(body), headers={"Content-Type": "application/json"}
    )
    assert (found, document["status"]) == (status, status)
    if field is not None:
        (error,) = document["errors"]
        assert error["field"] == field
        assert words in error["error"]
    assert not backend.judging.asked


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/json"}, 200),
        ({"Content-Type": "Application/JSON; charset=UTF-8"}, 200),
        ({"Content-Type": 'application/json;charset="utf-8"'}, 200),
        ({"Content-Type": "application/json; charset=latin-1"}, 415),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-ndjson"}, 415),
        ({}, 415),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "application/json", "Expect": "100-continue"}, 200),
    ],
)
async def test_content_types(http, backend, headers, status):
    """
    JSON in UTF-8, as it is, and nothing else.
    """
    data = b'{"items": []}'
    request = {"data": data, "headers": headers, "skip_auto_headers": ["Content-Type"]}
    assert (await post(http, backend, **request))[0] == status


async def test_a_body_where_none_belongs(http, backend):
    """
    It is refused and not passed over.
    """
    headers = backend.head()
    async with http.get(f"{backend.base}/v1/stats", data=b"x", headers=headers) as answer:
        assert answer.status == 400


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=ten", "limit"),
        ("limit=1&limit=2", "limit"),
        ("since=-1", "since"),
        ("sinse=1", "sinse"),
        ("cursor=%21", "cursor"),
        ("cursor=AAAA", "cursor"),
        ("cursor=" + paging.encode("text"), "cursor"),
        ("cursor=" + paging.encode(1, 2), "cursor"),
    ],
)
async def test_parameters_that_do_not_fit(http, backend, query, field):
    """
    What is wrong is said with the parameter's name.
    """
    status, document = await get(http, backend, f"/v1/log?{query}")
    assert status == 422
    assert [error["field"] for error in document["errors"]] == [field]


@pytest.mark.parametrize("path", ["/openapi.json?x=1", "/v1/stats?x=1", "/v1/check?x=1"])
async def test_unknown_parameters(http, backend, path):
    """
    A parameter that a route does not have is an error.
    """
    ask = post if "check" in path else get
    status, document = await ask(http, backend, path)
    assert (status, document["errors"][0]["field"]) == (422, "x")


@pytest.mark.parametrize(
    ("said", "field", "words"),
    [
        ("Expected `str`, got `int` - at `$.items[3]`", "items[3]", "expected str, got int"),
        ("Object missing required field `id` - at `$.messages[0]`", "messages[0].id", "missing"),
        ("Object contains unknown field `a.b`", "a.b", "unknown field"),
        ("Expected `object`, got `array`", "", "expected object, got array"),
    ],
)
def test_the_place_of_an_error(said, field, words):
    """
    msgspec's message in our words.
    """
    assert bodies.place(said) == (field, words)


LONG = "x" * 1000
CHECK, MESSAGES = (route for route in checks.ROUTES)


@pytest.mark.parametrize(
    ("route", "body", "field", "words"),
    [
        (CHECK, {"items": [*[LONG] * 300, 7]}, "items[300]", "expected str, got int"),
        (CHECK, {"items": [*[LONG] * 300, "x" * 65_537]}, "items[300]", "length <= 65536"),
        (CHECK, {"items": ["x" * 20] * 10_001}, "items", "length <= 10000"),
        (CHECK, {"items": [LONG] * 300, "wyh": 1}, "wyh", "unknown field"),
        (CHECK, {"itms": [LONG] * 300}, "itms", "unknown field"),
        (CHECK, {"items": LONG * 300}, "items", "expected array, got str"),
        (CHECK, [LONG] * 300, "", "expected object, got array"),
        (CHECK, {"items": [1] * 100_000}, "items[0]", "expected str, got int"),
        (
            MESSAGES,
            {"messages": [*[{"id": 1, "text": LONG}] * 300, {"id": 1}]},
            "messages[300].text",
            "missing",
        ),
    ],
    ids=range(9),
)
async def test_long_bodies_that_do_not_fit(route, body, field, words):
    """
    Read in slices, a body is refused with the same place as if it were read at once.
    """
    data = json.dumps(body).encode()
    assert len(data) > bodies._AT_ONCE
    with pytest.raises(Problem) as sliced:
        await bodies.read(data, route)
    with pytest.raises(Problem) as whole:
        bodies.decoded(data, route.body)
    assert sliced.value.errors == whole.value.errors
    ((place, said),) = sliced.value.errors
    assert place == field
    assert words in said


@pytest.mark.parametrize("broken", [b"\xff", b"\\ud800", b'" "'])
async def test_long_bodies_that_are_no_json(broken):
    """
    Also where only one slice is broken.
    """
    data = json.dumps({"items": [LONG] * 300 + ["?"]}).encode().replace(b"?", broken)
    with pytest.raises(Problem) as caught:
        await bodies.read(data, CHECK)
    assert caught.value.kind == "malformed"


async def test_long_bodies_are_read_whole():
    """
    In slices as at once: everything, in order, with what stands beside the list.
    """
    items = ["", *(f"n{n}.example/诈" * (n % 50) for n in range(3000)), "x" * 65_536, '\n"]']
    for asked in ({"items": items}, {"why": True, "items": items, "score": True}):
        data = json.dumps(asked).encode()
        assert len(data) > bodies._AT_ONCE
        assert await bodies.read(data, CHECK) == bodies.decoded(data, CHECK.body)
    messages = {"messages": [{"id": n, "text": LONG} for n in range(1000)]}
    data = json.dumps(messages).encode()
    assert await bodies.read(data, MESSAGES) == bodies.decoded(data, MESSAGES.body)


@pytest.mark.parametrize("count", [0, 1, 100, 101, 1000])
async def test_long_pages_are_written_whole(count):
    """
    In slices as at once.
    """

    class Row(msgspec.Struct):
        id: int
        name: str | None

    class Rows(msgspec.Struct):
        first: str
        items: list[Row]
        next: str | None = None

    page = Rows("?", [Row(n, None if n % 2 else "诈") for n in range(count)], "more")
    assert await pipeline._encoded(page) == msgspec.json.encode(page)


def test_what_the_places_are_made_of():
    """
    msgspec still speaks as `bodies.place` understands it.
    """

    class Inner(msgspec.Struct, forbid_unknown_fields=True):
        text: str

    class Outer(msgspec.Struct):
        inner: list[Inner]

    for data, field in (
        (b'{"inner": [{"text": 1}]}', "inner[0].text"),
        (b'{"inner": [{}]}', "inner[0].text"),
        (b'{"inner": [{"text": "", "more": 1}]}', "inner[0].more"),
    ):
        with pytest.raises(Problem) as caught:
            bodies.decoded(data, Outer)
        assert caught.value.errors[0][0] == field


async def test_a_body_that_does_not_come(http, backend, monkeypatch):
    """
    Half a body is waited for a while; then the connection is closed, and the problem told.
    """
    monkeypatch.setattr(bodies, "BODY_S", 0.2)
    reader, writer = await connect(backend.base)
    token = backend.token[Role.ANALYST]
    writer.write(
        b"POST /v1/check HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer " + token.encode() + b"\r\nContent-Length: 100\r\n\r\n{"
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    assert await closed(reader)
    writer.close()


async def test_a_body_that_is_too_large(http, backend):
    """
    It is refused as soon as that is known: by its length before it comes, or in the middle.
    """

    async def pieces():
        for _ in range(9):
            yield b" " * (1 << 20)

    headers = {"Content-Type": "application/json"}
    status, _ = await post(http, backend, data=pieces(), headers=headers)
    assert status == 413
    reader, writer = await connect(backend.base)
    token = backend.token[Role.ANALYST]
    writer.write(
        b"POST /v1/check HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer " + token.encode() + b"\r\nContent-Length: 9000000\r\n\r\n"
    )
    async with asyncio.timeout(2):
        assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    writer.close()


async def test_broken_chunks(backend):
    """
    A body that is badly chunked is a problem of the client's.
    """
    reader, writer = await connect(backend.base)
    token = backend.token[Role.ANALYST]
    writer.write(
        b"POST /v1/check HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer " + token.encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"nonsense\r\n"
    )
    assert (await reader.readline()).split()[1] == b"400"
    writer.close()


def test_problems_are_documents():
    """
    Every kind has a status of an error and says something; Retry-After is in whole seconds.
    """
    for kind, (status, title, words) in KINDS.items():
        assert 400 <= status < 600
        assert title
        assert words.endswith(".")
        assert Problem(kind, "x").document.kind == f"/docs#problem-{kind}"
    for seconds, said in ((0.0, "1"), (0.2, "1"), (1.0, "1"), (1.2, "2"), (60, "60")):
        assert Problem("rate", "x", retry_after_s=seconds).headers["Retry-After"] == said


async def test_many_at_once(http, backend):
    """
    Requests side by side get their own answers.
    """
    found = await asyncio.gather(
        *(post(http, backend, json={"items": [f"n{n}.example"]}) for n in range(40))
    )
    inputs = [document["results"][0]["input"] for _, document in found]
    assert inputs == [f"n{n}.example" for n in range(40)]
