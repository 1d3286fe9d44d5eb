"""
downloader: the bytes of a list, from a file or over HTTP(S), and the last good copy of them.

Runs in the refresh's child process, never in a worker.  A list is downloaded from where its
operator says, so a redirect or a DNS answer must not be able to turn the download towards the
ISP's own network: an address is judged when it is about to be connected to, at every hop.
Everything is bounded: time, redirects, octets on the wire and octets decompressed.  Knows nothing
of what a list says.
"""

import asyncio
import gzip
import hashlib
import ipaddress
import json
import os
import re
import socket
import stat
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from urlguard import __version__
from urlguard.config import Feed
from urlguard.errors import FeedError

if TYPE_CHECKING:
    import aiohttp
    import yarl

MAX_REDIRECTS = 5
_BLOCK = 1 << 16
_GZIP = b"\x1f\x8b"
# A file may be written twice within one tick of the file system's clock; only a modification time
# that was older than this when the file was read is taken for its identity.
_SETTLED_NS = 2_000_000_000

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE = ipaddress.ip_network("::/96")

_numeric = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+))*\.?", re.I).fullmatch

Progress = Callable[[int, int], None]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Cached:
    """What is remembered of the last good copy, to ask for a newer one."""

    source: str  # path or URL; what was learnt from one says nothing about another
    sha256: str  # of the decompressed list
    etag: str = ""
    last_modified: str = ""
    mtime_ns: int = 0  # 0 where it says nothing
    size: int = 0  # of the file, in octets


@dataclass(frozen=True)
class Fetched:
    """A list as it is now; without `data` if it is `unchanged`."""

    unchanged: bool
    data: bytes  # decompressed
    cached: Cached

    @property
    def sha256(self) -> str:
        """Digest of the decompressed list, in hexadecimal."""
        return self.cached.sha256

    @property
    def etag(self) -> str:
        """The server's ETag, as it was sent; "" if none."""
        return self.cached.etag

    @property
    def last_modified(self) -> str:
        """The server's Last-Modified, as it was sent; "" if none."""
        return self.cached.last_modified


@dataclass(frozen=True)
class LastGood:
    """The last good copy of a list."""

    data: bytes
    cached: Cached


def fetch(feed: Feed, cached: Cached | None = None, progress: Progress | None = None) -> Fetched:
    """
    Bring a list.

    Starts an event loop of its own for HTTP, so it must not be called from one.

    Args:
        feed: with a path or a URL.
        cached: what is remembered of the last good copy; a copy from elsewhere is disregarded.
        progress: called with octets received and octets announced (0: unknown).

    Returns:
        The list, or that it is unchanged: by the server's word (304), or by its digest.

    Raises:
        FeedError: it cannot be had, or must not be: see `docs/feeds.md` for what is refused.
    """
    if cached is not None and cached.source != _address(feed):
        cached = None
    if feed.path is not None:
        return _fetch_file(feed, feed.path, cached)
    return asyncio.run(_fetch_url(feed, cached, progress))


def _address(feed: Feed) -> str:
    return str(feed.path) if feed.path is not None else str(feed.url)


def _finish(feed: Feed, data: bytes, cached: Cached | None, **known: Any) -> Fetched:
    digest = hashlib.sha256(data).hexdigest()
    unchanged = cached is not None and cached.sha256 == digest
    now = Cached(source=_address(feed), sha256=digest, **known)
    return Fetched(unchanged, b"" if unchanged else data, now)


# -- files ---------------------------------------------------------------------------------------


def _fetch_file(feed: Feed, path: Path, cached: Cached | None) -> Fetched:
    where = f"feed {feed.name}: {path}"
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise FeedError(f"{where}: not a regular file")
            if (
                cached is not None
                and cached.mtime_ns
                and (cached.mtime_ns, cached.size) == (info.st_mtime_ns, info.st_size)
            ):
                return Fetched(True, b"", cached)
            read_at = time.time_ns()
            data = file.read(feed.max_bytes + 1)
    except OSError as exc:
        raise FeedError(f"{where}: {exc.strerror or exc}; must be a readable file") from exc
    if len(data) > feed.max_bytes:
        raise FeedError(f"{where}: {info.st_size} octets, max_bytes = {feed.max_bytes}")
    settled = info.st_mtime_ns + _SETTLED_NS < read_at
    return _finish(
        feed,
        _unpack(data, feed.max_bytes, where),
        cached,
        mtime_ns=info.st_mtime_ns if settled else 0,
        size=info.st_size,
    )


def _unpack(data: bytes, limit: int, where: str) -> bytes:
    """`data` decompressed, if it is gzip by its first octets."""
    return _inflate(data, 31, limit, where) if data.startswith(_GZIP) else data


def _inflate(data: bytes, wbits: int, limit: int, where: str) -> bytes:
    """
    Decompress; gzip may have several members (RFC 1952 section 2.2).

    Raises:
        FeedError: damaged, cut short, or more than `limit` octets come out.
    """
    parts: list[bytes] = []
    total = 0
    if not data:
        raise FeedError(f"{where}: empty; must be compressed data")
    rest = data
    try:
        while rest:
            engine = zlib.decompressobj(wbits)
            part = engine.decompress(rest, limit + 1 - total)
            total += len(part)
            if total > limit:
                raise FeedError(
                    f"{where}: {len(data)} octets decompress to more than {limit}, "
                    f"max_bytes = {limit}"
                )
            if not engine.eof:
                raise FeedError(f"{where}: compressed data ends early, after {total} octets")
            parts.append(part)
            rest = engine.unused_data
            if not (wbits == 31 and rest.startswith(_GZIP)):
                break  # padding, as tapes and some servers leave behind
    except zlib.error as exc:
        raise FeedError(f"{where}: damaged compressed data: {exc}") from exc
    return parts[0] if len(parts) == 1 else b"".join(parts)


# -- HTTP ----------------------------------------------------------------------------------------


def refusal(address: Address) -> str | None:
    """
    Why a list must not be fetched from an address, or None if it may.

    Only what is globally reachable may, and an IPv6 address that carries an IPv4 one (mapped,
    compatible, NAT64, 6to4, Teredo) only if that is reachable too.
    """
    inner: list[ipaddress.IPv4Address] = []
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return refusal(address.ipv4_mapped)
        if address in _NAT64:
            return refusal(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.sixtofour:
            inner.append(address.sixtofour)
        if address.teredo:
            inner.extend(address.teredo)
        if address in _COMPATIBLE:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.is_loopback:
        return "is a loopback address"
    if address.is_multicast:
        return "is a multicast address"
    if address.is_link_local:
        return "is a link-local address"
    if any(refusal(other) for other in inner):
        return "carries a private address"
    # is_reserved: Python calls 240.0.0.0/4 private, but not every reserved block of IPv6.
    return None if address.is_global and not address.is_reserved else "is not a public address"


def _check_address(where: str, text: str, feed: Feed) -> None:
    """
    Judge an address that is about to be connected to.

    Raises:
        FeedError: it is not public, and ``allow_private`` is not set.
    """
    if feed.allow_private:
        return
    why = refusal(ipaddress.ip_address(text.partition("%")[0]))
    if why:
        raise FeedError(f"{where}: address {text} {why}; must be public unless allow_private")


def _check_url(where: str, url: "yarl.URL", feed: Feed) -> None:
    """
    Judge a URL before it is asked for; its host, if it is a name, is judged by the resolver.

    Works on the very object that the client will use: two parsers that disagree on where the host
    stands would be a way around the check.

    Raises:
        FeedError: another scheme than HTTPS (or HTTP, if allowed), or an address that may not be.
    """
    if url.scheme == "http" and not feed.allow_http:
        raise FeedError(f"{where}: http://; must be https:// unless allow_http")
    host = url.host
    if url.scheme not in ("http", "https") or not host:
        raise FeedError(f"{where}: not an https:// address")
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        # Short, octal and hexadecimal forms mean an address to some functions and not to others.
        if ":" in host or _numeric(host):
            raise FeedError(f"{where}: host {host!a} is no plain address, and no name") from None
        return
    _check_address(where, host, feed)


def _shown(url: str) -> str:
    """A URL for a message: without user, password and query, which may be secrets."""
    try:
        parts = urlsplit(url)
        return ascii(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:200])[1:-1]
    except ValueError:
        return ascii(url[:40])


async def _resolve(host: str, port: int, family: int) -> list[tuple[int, str]]:
    """The addresses of a host by the system's resolver, with their families."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
    )
    return [(kind, str(address[0])) for kind, _, _, _, address in found]


def _connector(feed: Feed, where: str) -> "aiohttp.TCPConnector":
    import aiohttp.abc

    class Resolver(aiohttp.abc.AbstractResolver):
        """
        Gives only addresses that may be connected to.

        There is no gap between the check and its use: the connection is made to these very
        addresses, and nothing resolves the name a second time.
        """

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[aiohttp.abc.ResolveResult]:
            good: list[aiohttp.abc.ResolveResult] = []
            wrong: FeedError | None = None
            for kind, address in await _resolve(host, port, family):
                try:
                    _check_address(f"{where}: {host}", address, feed)
                except FeedError as exc:
                    wrong = wrong or exc
                else:
                    good.append(
                        aiohttp.abc.ResolveResult(
                            hostname=host,
                            host=address,
                            port=port,
                            family=kind,
                            proto=0,
                            flags=socket.AI_NUMERICHOST,
                        )
                    )
            if wrong and not good:
                raise wrong
            return good

        async def close(self) -> None:
            pass

    return aiohttp.TCPConnector(resolver=Resolver(), use_dns_cache=False, force_close=True)


async def _fetch_url(feed: Feed, cached: Cached | None, progress: Progress | None) -> Fetched:
    import aiohttp

    where = f"feed {feed.name}: {_shown(str(feed.url))}"
    headers = {
        "User-Agent": f"urlguard/{__version__}",
        "Accept-Encoding": "gzip, deflate",
        "Accept": "text/plain, */*;q=0.5",
    }
    if cached is not None and cached.etag:
        headers["If-None-Match"] = cached.etag
    if cached is not None and cached.last_modified:
        headers["If-Modified-Since"] = cached.last_modified
    try:
        async with (
            asyncio.timeout(feed.timeout_s),
            aiohttp.ClientSession(
                connector=_connector(feed, where),
                headers=headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # ours is bounded
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None),
            ) as session,
        ):
            return await _follow(session, feed, cached, progress)
    except TimeoutError as exc:
        raise FeedError(f"{where}: not done after {feed.timeout_s:g} s, timeout_s") from exc
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        raise FeedError(f"{where}: {str(exc) or type(exc).__name__}") from exc


async def _follow(
    session: "aiohttp.ClientSession", feed: Feed, cached: Cached | None, progress: Progress | None
) -> Fetched:
    """Ask, and follow redirects by hand, so that every hop is checked like the first."""
    import yarl

    url = yarl.URL(str(feed.url))
    for _ in range(MAX_REDIRECTS + 1):
        where = f"feed {feed.name}: {_shown(str(url))}"
        _check_url(where, url, feed)
        async with session.get(url, allow_redirects=False) as response:
            if response.status in (301, 302, 303, 307, 308):
                location = response.headers.get("Location")
                if not location:
                    raise FeedError(f"{where}: status {response.status} without a Location")
                url = url.join(yarl.URL(location))
                continue
            if response.status == 304 and cached is not None:
                return Fetched(True, b"", cached)
            if response.status != 200:
                raise FeedError(f"{where}: status {response.status}; must be 200")
            data = await _body(response.content.iter_chunked, response, feed, where, progress)
            return _finish(
                feed,
                data,
                cached,
                etag=response.headers.get("ETag", ""),
                last_modified=response.headers.get("Last-Modified", ""),
            )
    raise FeedError(
        f"feed {feed.name}: {_shown(str(feed.url))}: more than {MAX_REDIRECTS} redirects, "
        f"the last to {_shown(str(url))}"
    )


async def _body(
    chunks: Callable[[int], Any],
    response: "aiohttp.ClientResponse",
    feed: Feed,
    where: str,
    progress: Progress | None,
) -> bytes:
    """The body of an answer, with its encoding and its gzip undone."""
    limit = feed.max_bytes
    announced = response.content_length or 0
    if announced > limit:
        raise FeedError(f"{where}: {announced} octets announced, max_bytes = {limit}")
    body = bytearray()
    async for block in chunks(_BLOCK):
        body += block
        if len(body) > limit:
            raise FeedError(f"{where}: more than {limit} octets, max_bytes = {limit}")
        if progress is not None:
            progress(len(body), announced)
    data = bytes(body)
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("gzip", "x-gzip"):
        # Some servers announce the compression of the file itself and send it once, others twice.
        data = _inflate(data, 31, limit, where)
    elif encoding == "deflate":
        # zlib by RFC 9110 section 8.4.1.2, but bare deflate is seen too.
        zlib_header = len(data) > 1 and data[0] & 15 == 8 and (data[0] << 8 | data[1]) % 31 == 0
        data = _inflate(data, 15 if zlib_header else -15, limit, where)
    elif encoding not in ("", "identity"):
        raise FeedError(f"{where}: encoding {encoding[:40]!a}; must be gzip or deflate")
    return _unpack(data, limit, where)


# -- the last good copy --------------------------------------------------------------------------


def save_last_good(folder: Path, feed: Feed, fetched: Fetched) -> None:
    """
    Keep a list as the last good copy, ``NAME.gz``, and what is remembered of it, ``NAME.json``.

    Both are replaced atomically and are on the disk when this returns.  An unchanged list only
    renews what is remembered.

    Raises:
        FeedError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not fetched.unchanged:
            # mtime 0: the same list gives the same octets.
            _replace(folder / f"{feed.name}.gz", gzip.compress(fetched.data, 1, mtime=0))
        _replace(folder / f"{feed.name}.json", json.dumps(vars(fetched.cached), indent=1).encode())
    except OSError as exc:
        raise FeedError(
            f"feed {feed.name}: {exc.filename or folder}: {exc.strerror}; must be writable"
        ) from exc


def load_cached(folder: Path, feed: Feed) -> Cached | None:
    """What is remembered of the last good copy, or None if there is none, or none to be used."""
    try:
        if not (folder / f"{feed.name}.gz").is_file():
            return None
        cached = Cached(**json.loads((folder / f"{feed.name}.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return cached if cached.source == _address(feed) else None


def load_last_good(folder: Path, feed: Feed) -> LastGood | None:
    """
    The last good copy of a list, or None if there is none, or a damaged one.

    Between the two files of a copy there can have been a power cut; the data is good by its own
    checksum, and what is remembered is then forgotten, so that the next fetch is a whole one.
    """
    try:
        packed = (folder / f"{feed.name}.gz").read_bytes()
        data = _inflate(packed, 31, feed.max_bytes, f"feed {feed.name}: last good copy")
    except (OSError, FeedError):
        return None
    digest = hashlib.sha256(data).hexdigest()
    cached = load_cached(folder, feed)
    if cached is None or cached.sha256 != digest:
        cached = Cached(source=_address(feed), sha256=digest)
    return LastGood(data, cached)


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and onto the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
