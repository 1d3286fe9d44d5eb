"""
One request to a third-party server, within `bounds`: send a webhook, or read a proof file.

Uses aiohttp; knows no DNS, since addresses come from a callable, and no policy.

How it works.  The name is resolved first.  If one of its addresses is not public nothing is sent: a
private address among others is a mistake or an attack.  aiohttp then gets a resolver that returns
these very addresses, so that the name is not looked up again, when it may lead elsewhere (DNS
rebinding).  Host, SNI and the check of the certificate use the name.

No redirects, proxies, cookies, decompression or reused connections.  The answer is read up to a
limit, and the request takes at most `Bounds.total_s`; aiohttp limits header lines.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import aiohttp
import aiohttp.abc
import yarl

from urlguard import names
from urlguard.errors import InputError
from urlguard.fetch import trust
from urlguard.fetch.bounds import (
    LOW_PORTS,
    MAX_ANSWER,
    MAX_PROOF,
    MAX_SENT,
    MAX_URL,
    RULES,
    Bounds,
    Fetched,
    FetchError,
)

Resolve = Callable[[str], Awaitable[list[str]]]  # a canonical name to its addresses

AGENT: Final = "urlguard"  # no version: third-party servers need not know it
# Headers that define the message's end, its host or the use of the connection.
RESERVED: Final = frozenset(
    "accept-encoding connection content-encoding content-length cookie expect host keep-alive "
    "proxy-authorization proxy-connection te trailer transfer-encoding upgrade user-agent".split()
)
MAX_HEADERS: Final = 4096  # characters of the caller's headers
_MAX_REASON: Final = 200  # characters

_is_plain = re.compile(r"[!-\[\]-~]+").fullmatch  # printable ASCII without the backslash
_has_user = re.compile(r"[^/?#]*//[^/?#]*@").match  # also one that is empty
_is_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch  # RFC 9110 section 5.6.2
_is_value = re.compile(r"[ -~]*").fullmatch


class Client:
    """
    Makes requests.

    Args:
        resolve: gives all addresses of a name; raises FetchError.
        bounds: the rules; a server has no others than the default.

    Raises:
        ConfigError: certificates of authorities cannot be read.
    """

    def __init__(self, resolve: Resolve, bounds: Bounds = RULES) -> None:
        self._resolve = resolve
        self._bounds = bounds
        self._context = trust.context(bounds.ca_file)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Fetched:
        """
        Send a webhook.

        Args:
            url: over HTTPS, to port 443 or one from 1024.
            body: at most `MAX_SENT` octets.
            headers: added to the request's own, and none of `RESERVED`.

        Raises:
            FetchError: the request was refused or failed, or the answer is a redirect.
        """
        target = check_webhook(url)
        if len(body) > MAX_SENT:
            raise FetchError(
                f"{_shown(target)}: {len(body)} octets to send, limit is {MAX_SENT}", refused=True
            )
        _check_headers(_shown(target), headers)
        return await self._request("POST", target, body, headers)

    async def get(self, url: str) -> Fetched:
        """
        Read a proof file.

        Args:
            url: over HTTPS or HTTP, to the usual port.

        Raises:
            FetchError: the request failed, the status is not 200, or the file is compressed or
                longer than `MAX_PROOF` octets.
        """
        target = _target(url, ("https", "http"))
        if not target.is_default_port():
            raise FetchError(
                f"{_shown(target)}: port {target.port}; must be 80 or 443", refused=True
            )
        found = await self._request("GET", target, None, {})
        if found.status != 200:
            raise FetchError(f"{_shown(target)}: status {found.status}; must be 200")
        return found

    async def _request(
        self, method: str, url: yarl.URL, body: bytes | None, headers: Mapping[str, str]
    ) -> Fetched:
        where = _shown(url)
        try:
            async with asyncio.timeout(self._bounds.total_s):
                pinned = _Pinned(await self._addresses(where, url.raw_host or ""))
                return await self._answer(method, url, body, headers, pinned)
        except FetchError:
            raise
        except TimeoutError as exc:
            raise FetchError(f"{where}: not done after {self._bounds.total_s:g} s") from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise FetchError(f"{where}: {_reason(exc)}") from exc

    async def _addresses(self, where: str, host: str) -> list[str]:
        """The addresses of a host, all of them public."""
        found = await self._resolve(host)
        for address in found:
            if not self._bounds.public(address):
                raise FetchError(
                    f"{where}: {host} leads to {address}; must lead to public addresses alone",
                    refused=True,
                )
        return found

    async def _answer(
        self,
        method: str,
        url: yarl.URL,
        body: bytes | None,
        headers: Mapping[str, str],
        pinned: "_Pinned",
    ) -> Fetched:
        bounds = self._bounds
        if method == "GET" and url.is_default_port():  # a test's servers have other ports
            url = url.with_port(bounds.https_port if url.scheme == "https" else bounds.http_port)
        connector = aiohttp.TCPConnector(
            resolver=pinned, use_dns_cache=False, force_close=True, ssl=self._context
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None),  # ours covers more
            ) as session,
            session.request(
                method,
                url,
                data=body,
                headers={**headers, "User-Agent": AGENT, "Accept-Encoding": "identity"},
                allow_redirects=False,
            ) as response,
        ):
            where = _shown(url)
            if 300 <= response.status < 400:
                raise FetchError(f"{where}: status {response.status}; redirects are not followed")
            if method == "POST":
                return Fetched(response.status, await _beginning(response), url.scheme)
            if response.status != 200:
                return Fetched(response.status, b"", url.scheme)
            encoding = response.headers.get("Content-Encoding", "identity")
            if encoding.lower() != "identity":
                raise FetchError(f"{where}: encoded as {encoding[:40]!a}; must be plain")
            data = await _beginning(response, MAX_PROOF + 1)
            if len(data) > MAX_PROOF:
                raise FetchError(
                    f"{where}: more than {MAX_PROOF} octets, the limit of a proof file"
                )
            return Fetched(response.status, data, url.scheme)


class _Pinned(aiohttp.abc.AbstractResolver):
    """Returns the addresses that were checked."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[aiohttp.abc.ResolveResult]:
        return [
            aiohttp.abc.ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        pass


def check_webhook(url: str) -> yarl.URL:
    """
    The URL of a webhook, with its host in canonical form; nothing is looked up.

    Raises:
        FetchError: the URL violates the rules.
    """
    target = _target(url, ("https",))
    port = target.port or 0
    if port != 443 and port < LOW_PORTS:
        raise FetchError(
            f"{_shown(target)}: port {port}; must be 443 or from {LOW_PORTS}", refused=True
        )
    return target


def _target(url: str, schemes: tuple[str, ...]) -> yarl.URL:
    """The parsed URL, of one of the schemes, with a name with a dot as host."""
    if len(url) > MAX_URL or not _is_plain(url):
        raise FetchError(
            f"url: {len(url)} characters, or one that is none of a URL; must be 1 to {MAX_URL}, "
            "printable ASCII without a backslash",
            refused=True,
        )
    try:
        parsed = yarl.URL(url)
        port = parsed.port
        host = names.canonical(parsed.raw_host or "")
    except (InputError, ValueError) as exc:
        raise FetchError(f"url: {exc}", refused=True) from exc
    allowed = " or ".join(schemes)
    if parsed.scheme not in schemes:
        raise FetchError(f"{_shown(parsed)}: must begin with {allowed}", refused=True)
    if _has_user(url):
        raise FetchError(f"{_shown(parsed)}: has user or password; must have none", refused=True)
    if "." not in host:
        raise FetchError(f"{_shown(parsed)}: a single label; must have a dot", refused=True)
    if not port:
        raise FetchError(f"{_shown(parsed)}: port {port}; must be from 1 to 65535", refused=True)
    return parsed.with_host(host).with_fragment(None)


def _check_headers(where: str, headers: Mapping[str, str]) -> None:
    """Refuse reserved headers and invalid ones."""
    for name, value in headers.items():
        if not _is_token(name) or name.lower() in RESERVED or not _is_value(value):
            raise FetchError(
                f"{where}: header {name[:40]!a} may not be set, or not to this value", refused=True
            )
    if sum(len(name) + len(value) for name, value in headers.items()) > MAX_HEADERS:
        raise FetchError(f"{where}: headers longer than {MAX_HEADERS} characters", refused=True)


async def _beginning(response: aiohttp.ClientResponse, limit: int = MAX_ANSWER) -> bytes:
    """The first octets of a body; the rest is not read, and the connection is closed."""
    data = bytearray()
    async for block in response.content.iter_chunked(limit):
        data += block
        if len(data) >= limit:
            break
    return bytes(data[:limit])


def _reason(exc: Exception) -> str:
    """The error in one line, without the URL that aiohttp adds."""
    cause: BaseException = exc
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        cause = exc.certificate_error
    elif isinstance(exc, aiohttp.ClientConnectorError):
        cause = exc.os_error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"certificate: {cause.verify_message}"
    if isinstance(cause, aiohttp.ClientResponseError):
        text = cause.message.partition("\n")[0].rstrip(":")
        return f"no answer in HTTP: {text[:_MAX_REASON]!a}"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    if isinstance(cause, aiohttp.InvalidURL):
        return "no URL to aiohttp"
    text = " ".join(str(cause).split()) or type(cause).__name__
    return text if text.isprintable() and len(text) <= _MAX_REASON else ascii(text[:_MAX_REASON])


def _shown(url: yarl.URL) -> str:
    """Scheme, host and port: paths of webhooks are often secrets."""
    port = "" if url.is_default_port() or url.port is None else f":{url.port}"
    return f"{url.scheme[:20]}://{(url.raw_host or '')[:253]}{port}"
