"""Bringing lists: files, HTTP with everything that can go wrong, and the last good copy."""

import asyncio
import contextlib
import gzip
import ipaddress
import os
import threading
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator

import pytest
import yarl
from aiohttp import web

from urlguard import __version__
from urlguard.config import Feed
from urlguard.errors import FeedError
from urlguard.feeds import downloader

LIST = b"evil.example\n" * 1000
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def packed(data: bytes) -> bytes:
    """`data` in gzip, the same at any time."""
    return gzip.compress(data, mtime=0)


def brief(value: object) -> str | None:
    """A short name for a case made of octets."""
    return f"{len(value)}-octets" if isinstance(value, bytes) else None


@contextlib.contextmanager
def serve(handler: Handler, host: str = "127.0.0.1") -> Iterator[str]:
    """A real HTTP server in a thread of its own, for `fetch` runs a loop of its own."""
    loop = asyncio.new_event_loop()
    started: list[str] = []

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, host, 0)
        await site.start()
        started.append(f"http://{host}:{runner.addresses[0][1]}")
        return runner

    runner = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield started[0]
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def feed(url: str, **options: object) -> Feed:
    return Feed(name="t", url=url, **{"allow_http": True, "allow_private": True, **options})  # type: ignore[arg-type]


def sends(body: bytes = LIST, status: int = 200, **headers: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(
            body=body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )

    return handler


# -- HTTP ----------------------------------------------------------------------------------------


def test_a_list_is_fetched_with_its_tags():
    """
    A plain download gives the octets, their digest, and what to ask with the next time.
    """
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response(body=LIST, headers={"ETag": '"1"', "Last-Modified": "then"})

    progress: list[tuple[int, int]] = []
    with serve(handler) as url:
        got = downloader.fetch(feed(url + "/l"), None, lambda *a: progress.append(a))
    assert (got.unchanged, got.data, got.etag, got.last_modified) == (False, LIST, '"1"', "then")
    assert len(got.sha256) == 64
    assert seen[0].headers["User-Agent"] == f"urlguard/{__version__}"
    assert "Cookie" not in seen[0].headers
    assert progress[-1] == (len(LIST), len(LIST))


def test_a_list_is_asked_for_only_if_it_is_newer():
    """
    ETag and Last-Modified are sent back; 304 is an unchanged list without data.
    """

    async def handler(request: web.Request) -> web.Response:
        if request.headers.get("If-None-Match") == '"1"':
            assert request.headers["If-Modified-Since"] == "then"
            return web.Response(status=304)
        return web.Response(body=LIST, headers={"ETag": '"1"', "Last-Modified": "then"})

    with serve(handler) as url:
        first = downloader.fetch(feed(url))
        second = downloader.fetch(feed(url), first.cached)
        elsewhere = downloader.fetch(feed(url + "/other"), first.cached)
    assert (second.unchanged, second.data, second.cached) == (True, b"", first.cached)
    assert not elsewhere.unchanged, "the tag of one address says nothing about another"


def test_the_same_octets_are_unchanged_without_tags():
    """
    A server without ETag still gives an unchanged list, by its digest.
    """
    with serve(sends()) as url:
        first = downloader.fetch(feed(url))
        assert downloader.fetch(feed(url), first.cached).unchanged


def test_304_without_having_asked_is_an_error():
    """
    304 to a request without conditions is refused: there is no copy that it could mean.
    """
    with serve(sends(b"", 304)) as url, pytest.raises(FeedError, match="status 304; must be 200"):
        downloader.fetch(feed(url))


@pytest.mark.parametrize("status", [204, 401, 404, 500, 503])
def test_other_statuses_are_errors(status):
    """
    Only 200 brings a list; the message has the status and no query, which may be a secret.
    """
    with (
        serve(sends(b"" if status == 204 else b"no", status)) as url,
        pytest.raises(FeedError, match=f"^feed t: {url}/l: status {status}; must be 200$"),
    ):
        downloader.fetch(feed(url + "/l?token=secret"))


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (packed(LIST), ""),  # a .gz file
        (packed(LIST), "gzip"),
        (packed(packed(LIST)), "gzip"),
        (packed(LIST[:100]) + packed(LIST[100:]), ""),  # two members
        (packed(LIST) + b"\0" * 512, ""),
        (zlib.compress(LIST), "deflate"),
        (zlib.compress(LIST)[2:-4], "deflate"),  # bare
        (LIST, "identity"),
    ],
    ids=brief,
)
def test_compression_is_undone(body, encoding):
    """
    Files in gzip and encodings of HTTP are both undone, also on top of each other.
    """
    headers = {"Content_Encoding": encoding} if encoding else {}
    with serve(sends(body, **headers)) as url:
        assert downloader.fetch(feed(url)).data == LIST


@pytest.mark.parametrize(
    ("body", "encoding", "message"),
    [
        (packed(bytes(10_000_000)), "", "decompress to more than 20000, max_bytes = 20000"),
        (packed(bytes(10_000_000)), "gzip", r"\d+ octets decompress to more than 20000"),
        (zlib.compress(bytes(10_000_000)), "deflate", "decompress to more than 20000"),
        (packed(packed(bytes(9_000_000))), "gzip", "decompress to more than 20000"),
        (packed(b"\n" * 15_000) * 2, "", "decompress to more than 20000"),
        (bytes(20_001), "", "20001 octets announced, max_bytes = 20000"),
        (packed(LIST)[:-9], "", "ends early"),
        (packed(LIST)[:-8] + b"\0" * 8, "", "damaged compressed data"),
        (b"not gzip", "gzip", "damaged compressed data"),
        (b"x", "br", "encoding 'br'; must be gzip or deflate"),
    ],
    ids=brief,
)
def test_bombs_and_damage_are_refused(body, encoding, message):
    """
    What decompresses to more than ``max_bytes`` is refused before it is there, as is damage.
    """
    headers = {"Content_Encoding": encoding} if encoding else {}
    with serve(sends(body, **headers)) as url, pytest.raises(FeedError, match=message):
        downloader.fetch(feed(url, max_bytes=20_000))


def test_an_endless_body_is_cut():
    """
    A body of unannounced length is dropped as soon as it is too long.
    """

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(bytes(10_000))
        return response

    with serve(handler) as url, pytest.raises(FeedError, match="more than 50000 octets"):
        downloader.fetch(feed(url, max_bytes=50_000))


def test_a_body_that_ends_early_is_refused():
    """
    Half a list is no list.
    """

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(LIST))})
        await response.prepare(request)
        await response.write(LIST[:100])
        assert request.transport is not None
        request.transport.close()
        return response

    with serve(handler) as url, pytest.raises(FeedError, match=r"^feed t: http://127"):
        downloader.fetch(feed(url))


@pytest.mark.timing
def test_a_slow_server_times_out():
    """
    The time for the whole download is bounded, also when octets keep dripping in.
    """

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b"x")
                await asyncio.sleep(0.02)
        return response

    start = time.monotonic()
    with serve(handler) as url:
        with pytest.raises(FeedError, match=r"not done after 0\.3 s, timeout_s"):
            downloader.fetch(feed(url, timeout_s=0.3))
        assert time.monotonic() - start < 5


def test_nobody_listens():
    """
    A refused connection is a FeedError.
    """
    with serve(sends()) as url:
        pass
    with pytest.raises(FeedError, match=r"^feed t: "):
        downloader.fetch(feed(url))


def test_the_proxy_of_the_environment_is_not_used(monkeypatch):
    """
    Whoever can set an environment variable does not get to see or change the lists.
    """
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9/")
    with serve(sends()) as url:
        assert downloader.fetch(feed(url)).data == LIST


# -- redirects and addresses ----------------------------------------------------------------------


def redirects(times: int) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        hop = int(request.path.strip("/") or 0)
        if hop >= times:
            return web.Response(body=LIST)
        return web.Response(status=302, headers={"Location": f"/{hop + 1}"})

    return handler


def test_five_redirects_are_followed():
    """
    Five redirects are followed, relative ones too; a sixth is not.
    """
    with serve(redirects(5)) as url:
        assert downloader.fetch(feed(url)).data == LIST
    with serve(redirects(6)) as url, pytest.raises(FeedError, match="more than 5 redirects"):
        downloader.fetch(feed(url))


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("file:///etc/passwd", "not an https:// address"),
        ("ftp://192.0.2.1/l", "not an https:// address"),
        ("http:///l", "."),
        ("http://[::1", "."),
        (None, "status 302 without a Location"),
    ],
)
def test_redirects_to_elsewhere_are_refused(location, message):
    """
    A redirect leads to HTTP(S) or nowhere.
    """
    headers = {"Location": location} if location else {}
    with serve(sends(b"", 302, **headers)) as url, pytest.raises(FeedError, match=message):
        downloader.fetch(feed(url))


@pytest.mark.parametrize(
    "location", ["http://127.0.0.2:{port}/", "http://[::ffff:127.0.0.2]:{port}/", "http://in.test/"]
)
def test_a_redirect_to_a_private_address_is_refused(monkeypatch, location):
    """
    Every hop is judged like the first: neither a literal nor a name leads into the own network.
    """
    hits: list[str] = []

    async def inside(request: web.Request) -> web.Response:
        hits.append(request.path)
        return web.Response(body=LIST)

    async def resolve(host: str, port: int, family: int) -> list[tuple[int, str]]:
        return [(2, "127.0.0.2")]

    # For this test, 127.0.0.1 is the public internet.
    real = downloader.refusal
    public = ipaddress.ip_address("127.0.0.1")
    monkeypatch.setattr(downloader, "refusal", lambda a: None if a == public else real(a))
    monkeypatch.setattr(downloader, "_resolve", resolve)
    with serve(inside, "127.0.0.2") as target:
        to = location.format(port=target.rpartition(":")[2])
        with (
            serve(sends(b"", 302, Location=to)) as url,
            pytest.raises(FeedError, match=r"address \S+ is a loopback address; must be public"),
        ):
            downloader.fetch(feed(url, allow_private=False))
    assert not hits


def test_a_name_is_resolved_once_and_judged(monkeypatch):
    """
    The connection goes to the very address that was judged; a second answer is never asked for.
    """
    answers = ["127.0.0.1", "127.0.0.3"]

    async def resolve(host: str, port: int, family: int) -> list[tuple[int, str]]:
        assert host == "lists.test"
        return [(2, answers.pop(0))]

    public = ipaddress.ip_address("127.0.0.1")
    monkeypatch.setattr(downloader, "refusal", lambda a: None if a == public else "is private")
    monkeypatch.setattr(downloader, "_resolve", resolve)
    with serve(sends()) as url:
        port = url.rpartition(":")[2]
        got = downloader.fetch(feed(f"http://lists.test:{port}/", allow_private=False))
        assert got.data == LIST
        assert answers == ["127.0.0.3"]
        with pytest.raises(FeedError, match=r"lists\.test: address 127\.0\.0\.3 is private"):
            downloader.fetch(feed(f"http://lists.test:{port}/", allow_private=False))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1/", "address 127.0.0.1 is a loopback address"),
        ("http://[::1]/", "address ::1 is a loopback address"),
        ("http://10.0.0.1/", "address 10.0.0.1 is not a public address"),
        ("http://127.1/", "no plain address|loopback"),
        ("http://2130706433/", "no plain address|loopback"),
        ("http://0x7f.0.0.1/", "no plain address|loopback"),
        ("http://0177.0.0.1/", "no plain address|loopback"),
        ("http://localhost:1/", "is a loopback address"),
        ("http://127.0.0.1\\@lists.test/", "."),
    ],
)
def test_private_addresses_are_refused(url, message):
    """
    No way of writing an address leads into the own network unless ``allow_private`` is set.
    """
    with pytest.raises(FeedError, match=message):
        downloader.fetch(feed(url, allow_private=False, timeout_s=5.0))


def test_http_is_refused_unless_allowed():
    """
    Unencrypted HTTP is refused, also where a redirect leads to it.
    """
    with serve(sends()) as url, pytest.raises(FeedError, match="must be https:// unless allow_h"):
        downloader.fetch(feed(url, allow_http=False))


@pytest.mark.parametrize(
    ("url", "allow_http", "refused"),
    [
        ("https://lists.test/", False, False),
        ("http://lists.test/", False, True),
        ("http://lists.test/", True, False),
        ("HTTP://lists.test/", False, True),
    ],
)
def test_every_hop_must_be_https_unless_allowed(url, allow_http, refused):
    """
    The check that each hop passes refuses the step from https:// down to http://.
    """
    outcome = pytest.raises(FeedError) if refused else contextlib.nullcontext()
    with outcome:
        downloader._check_url("t", yarl.URL(url), feed(url, allow_http=allow_http))


@pytest.mark.parametrize(
    ("address", "refused"),
    [
        ("9.9.9.9", False),
        ("2620:fe::fe", False),
        ("0.0.0.0", True),
        ("10.1.2.3", True),
        ("100.64.0.1", True),  # carrier-grade NAT: the ISP's own customers
        ("127.0.0.1", True),
        ("169.254.169.254", True),  # a cloud's metadata
        ("172.16.0.1", True),
        ("192.168.1.1", True),
        ("192.0.2.1", True),
        ("224.0.0.1", True),
        ("240.0.0.1", True),
        ("255.255.255.255", True),
        ("::", True),
        ("::1", True),
        ("::7f00:1", True),
        ("fe80::1", True),
        ("fc00::1", True),
        ("ff02::1", True),
        ("::ffff:10.0.0.1", True),
        ("::ffff:9.9.9.9", False),
        ("64:ff9b::a00:1", True),
        ("64:ff9b::909:909", False),
        ("64:ff9b:1::a00:1", True),
        ("2002:a00:1::1", True),
        ("2001:0:a00:1::1", True),
    ],
)
def test_which_addresses_are_public(address, refused):
    """
    Only globally reachable addresses may be connected to, also where IPv6 carries IPv4.
    """
    assert (downloader.refusal(ipaddress.ip_address(address)) is not None) is refused


# -- files ---------------------------------------------------------------------------------------


def test_a_file_is_read_plain_or_gzip(tmp_path):
    """
    A file is recognised as gzip by its octets, not by its name.
    """
    for name, data in (("a.txt", LIST), ("b.txt", packed(LIST))):
        (tmp_path / name).write_bytes(data)
        assert downloader.fetch(Feed(name="t", path=tmp_path / name)).data == LIST


def test_an_untouched_file_is_unchanged_and_a_touched_one_is_read(tmp_path):
    """
    Size and time of a settled file are enough; the digest decides where they differ.
    """
    path = tmp_path / "l"
    path.write_bytes(LIST)
    os.utime(path, ns=(10**18, 10**18))
    this = Feed(name="t", path=path)
    first = downloader.fetch(this)
    assert downloader.fetch(this, first.cached).unchanged
    path.touch()
    again = downloader.fetch(this, first.cached)
    assert again.unchanged
    assert again.cached.mtime_ns == 0, "a file just written may be written again within one tick"
    path.write_bytes(LIST.replace(b"evil", b"good"))
    assert downloader.fetch(this, again.cached).data.startswith(b"good")


def test_files_that_cannot_be_read(tmp_path):
    """
    A missing file, a folder, a FIFO and a file too large are FeedErrors that name the path.
    """
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(bytes(101))
    cases = {
        "missing": "No such file or directory; must be a readable file",
        "": "must be a readable file|not a regular file",
        "fifo": "not a regular file",
        "large": "101 octets, max_bytes = 100",
    }
    for name, message in cases.items():
        with pytest.raises(FeedError, match=f"^feed t: {tmp_path}.*({message})"):
            downloader.fetch(Feed(name="t", path=tmp_path / name, max_bytes=100))


# -- the last good copy --------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path):
    """A feed and its fetched list, kept in a folder."""
    this = feed("https://lists.test/l")
    cached = downloader.Cached(source="https://lists.test/l", sha256="", etag='"1"')
    got = downloader._finish(this, LIST, None, etag=cached.etag)
    downloader.save_last_good(tmp_path / "feeds", this, got)
    return tmp_path / "feeds", this, got


def test_the_last_good_copy_comes_back(kept):
    """
    What was kept is read again, with what is remembered of it, and no temporary files stay.
    """
    folder, this, got = kept
    last = downloader.load_last_good(folder, this)
    assert last is not None
    assert (last.data, last.cached) == (LIST, got.cached)
    assert downloader.load_cached(folder, this) == got.cached
    assert sorted(p.name for p in folder.iterdir()) == ["t.gz", "t.json"]


def test_an_unchanged_list_keeps_the_copy_and_renews_the_tag(kept):
    """
    An unchanged list has no data, and must not overwrite the copy with nothing.
    """
    folder, this, got = kept
    now = downloader.Cached(source=got.cached.source, sha256=got.sha256, etag='"2"')
    downloader.save_last_good(folder, this, downloader.Fetched(True, b"", now))
    last = downloader.load_last_good(folder, this)
    assert last is not None
    assert (last.data, last.cached.etag) == (LIST, '"2"')


def test_a_copy_whose_halves_differ_is_fetched_anew(kept):
    """
    After a power cut between the two files, the list is used and its tag is not.
    """
    folder, this, _ = kept
    (folder / "t.gz").write_bytes(packed(b"other.example\n"))
    last = downloader.load_last_good(folder, this)
    assert last is not None
    assert (last.data, last.cached.etag) == (b"other.example\n", "")


@pytest.mark.parametrize("damage", [b"", b"\x1f\x8b", b"plain.example\n"], ids=brief)
def test_a_damaged_copy_is_none(kept, damage):
    """
    A damaged copy is not used.
    """
    folder, this, _ = kept
    (folder / "t.gz").write_bytes(damage)
    assert downloader.load_last_good(folder, this) is None


def test_no_copy(tmp_path):
    """
    Without a copy there is none, and what is remembered of one does not stand alone.
    """
    this = feed("https://lists.test/l")
    assert downloader.load_last_good(tmp_path, this) is None
    (tmp_path / "t.json").write_text('{"source": "https://lists.test/l", "sha256": "x"}')
    assert downloader.load_cached(tmp_path, this) is None


def test_a_copy_of_another_address_is_not_asked_with(kept):
    """
    When the configuration names another address, the old copy's tag is forgotten.
    """
    folder, _, _ = kept
    assert downloader.load_cached(folder, feed("https://other.test/l")) is None


def test_a_folder_that_cannot_be_written(tmp_path, kept):
    """
    A disk that does not take the copy is a FeedError that names the file.
    """
    _, this, got = kept
    (tmp_path / "file").write_text("")
    with pytest.raises(FeedError, match="must be writable"):
        downloader.save_last_good(tmp_path / "file", this, got)
