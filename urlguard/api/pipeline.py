"""
From a request to its answer: what is the same for all routes.

How it works, in this order: the transfer coding; the route and its method, and whether it may have
a body; the ``Host`` header; whether there is room; the token and its role; parameters; the route's
own limit; the body; the idempotency key; the handler; its answer as JSON.  So nobody is listened to
for longer than he may speak.  Whatever is wrong on the way becomes a problem document.  What a
handler raises by mistake becomes 500 without a word of it: an event has the words.

A handler that changes something is never cut short: a client that goes away in the middle does not
leave half a change behind.  One that only reads ends with its client.
"""

import asyncio
import contextlib
import hashlib
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import HttpVersion11, web

from urlguard import events
from urlguard.access.tokens import Holder
from urlguard.api import auth, bodies
from urlguard.api.connection import response
from urlguard.api.connections import Gate
from urlguard.api.idempotency import Answers, Kept, checked, digest
from urlguard.api.problems import Problem
from urlguard.api.routes import NDJSON, Call, Encoded, Nothing, Route, Router
from urlguard.api.services import Services
from urlguard.cases.submissions import Pseudonyms
from urlguard.config import Api
from urlguard.errors import UrlGuardError

REQUEST_S = 30.0  # for a request to be worked out
BUSY_RETRY_S: Final = 1.0
UPLOADS: Final = 8  # streamed bodies under way, of one token; of all, half of the places
_LOG_EVERY_S: Final = 10.0
_READ_AGAIN: Final = 65_536  # octets; a larger answer that changed nothing is worked out again
_ITEMS: Final = 100  # of a page that are put into JSON in one turn of the loop
_PIECE: Final = 65_536  # octets that are handed to the connection in one turn of the loop
_IN_THREAD: Final = 262_144  # octets; hashing less takes no millisecond

# Nothing here is for a browser to run, to frame, to guess at or to keep.
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "urlguard",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_TLS_HEADERS: Final = {"Strict-Transport-Security": "max-age=31536000"}

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")
_IPV4 = re.compile(r"\d{1,3}(\.\d{1,3}){3}")

_STRANGERS: Final = Pseudonyms()

T = TypeVar("T")


class Frame:
    """
    The handler of aiohttp's server.

    Args:
        router: the routes.
        services: what their handlers may use.
        options: ``[api]``.
    """

    def __init__(self, router: Router, services: Services, options: Api) -> None:
        self.gate: Gate | None = None
        self._router = router
        self._services = services
        self._options = options
        self._hosts = {"localhost", *(host.lower() for host in options.hosts)}
        folder = services.state_dir
        self._answers = None if folder is None else Answers(folder / "api.db")
        self._changing: set[asyncio.Task[Any]] = set()
        self._log_throttle = events.Throttle(_LOG_EVERY_S)
        self._uploads: Counter[int] = Counter()  # by token

    async def close(self) -> None:
        """Let changes that are under way finish, and let go of what is open."""
        if self._changing:
            await asyncio.wait(self._changing, timeout=2.0)
        if self._answers is not None:
            await self._answers.close()

    def finish(self, found: web.Response) -> web.Response:
        """Put on an answer what all have."""
        for name, value in _HEADERS.items():
            found.headers.setdefault(name, value)
        if self._options.tls_cert is not None:
            found.headers.update(_TLS_HEADERS)
        return found

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to one request; raises nothing but what ends a connection."""
        room = self.gate is None or self.gate.begins(request.protocol)
        try:
            return self.finish(await self._answer(request, room))
        except Problem as exc:
            found = response(exc)
        except ConnectionError:
            raise
        except Exception as exc:
            found = response(self._failed(request, exc))
        finally:
            if self.gate is not None:
                self.gate.ends(request.protocol)
        return self.finish(found)

    def _failed(self, request: web.BaseRequest, exc: Exception) -> Problem:
        if self._log_throttle.due():
            error = f"{type(exc).__name__}: {exc}"
            events.error("api.failed", path=request.path[:100], error=error[:500])
        return Problem("internal", "the server failed; its log says more")

    async def _answer(self, request: web.BaseRequest, room: bool) -> web.Response:
        _look_at_coding(request)
        methods, in_path = self._router.find(request.rel_url.raw_path)
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        if not (methods and all(r.health for r in methods.values())):
            self._look_at_host(request)
        if not methods:
            raise Problem("not-found", "there is nothing at this path")
        if route is None:
            allowed = ", ".join(sorted(methods) + (["HEAD"] if "GET" in methods else []))
            raise Problem("method", f"this path knows {allowed}", headers={"Allow": allowed})
        if request.body_exists and request.method != "POST":
            words = f"a {request.method} request takes no body"
            raise Problem("malformed", words, headers=bodies.CLOSE)
        if not room and not route.health:
            raise _full()
        address = auth.client(request, self._options.proxy_from)
        holder: Holder | None = None
        if route.roles is not None and not self._open(route, request):
            holder = await auth.caller(request, address, self._services)
            if self.gate is not None:
                self.gate.known(request.protocol, holder.number)
            if holder.role not in route.roles:
                raise Problem("forbidden", f"a token of role {holder.role} may not do this")
        params: Any = Nothing()
        if route.params is not Nothing or request.rel_url.raw_query_string:
            params = bodies.params(request, in_path, route)
        call: Call[Any, Any] = Call(
            route,
            self._services,
            request,
            address,
            holder,
            params,
            Nothing(),
            self._router.routes,
        )
        key = None
        if route.method == "POST":
            key = _idempotency_key(request)
        if route.limit is not None:
            route.limit(call)
        if route.streams:
            bodies.media_type(request, route)
            with self._upload(call.holder.number):
                return await self._stream(call, key)
        data = b""
        if route.has_body:
            media = bodies.media_type(request, route)
            data = await bodies.whole(request, route.max_body)
            if media != NDJSON:
                call.body = await bodies.read(data, route)
        elif request.body_exists:
            data = b"" if request.content_length else await bodies.whole(request, route.max_body)
            if data or request.content_length:
                raise Problem("malformed", "this operation takes no body", headers=bodies.CLOSE)
        if self.gate is not None and not self.gate.serves(request.protocol) and not route.health:
            raise _full()
        if key is None or self._answers is None:
            return await self._run(call)
        return await self._once(call, key, data, self._answers)

    def _open(self, route: Route, request: web.BaseRequest) -> bool:
        """Whether a request needs no token; one that brings any is treated as its holder's."""
        return (
            route.anonymous
            and self._services.public is not None
            and "Authorization" not in request.headers
        )

    def _look_at_host(self, request: web.BaseRequest) -> None:
        """
        Refuse names that nobody gave this server.

        Raises:
            Problem: a page of somebody else's may have led a browser here under its own name
                (DNS rebinding).
        """
        given = request.headers.getall("Host", ())
        if len(given) != 1 or not (match := _HOST.fullmatch(given[0])):
            raise Problem("malformed", "there must be one Host header, a host with or without port")
        host = match[1].lower().removesuffix(".")
        if host not in self._hosts and not host.startswith("[") and not _IPV4.fullmatch(host):
            raise Problem("host", "[api] hosts does not have the name in the Host header")

    # Running a handler

    async def _run(self, call: Call[Any, Any]) -> web.Response:
        """The answer of the route's handler."""
        work = self._bounded(call)
        if call.route.method != "GET" and not call.route.reads:
            work = self._whole(work)
        return _response(call.route, *await work)

    async def _bounded(self, call: Call[Any, Any]) -> tuple[int, bytes]:
        """What the handler says, in time, checked and encoded."""
        limit = None if call.route.streams else REQUEST_S
        try:
            async with asyncio.timeout(limit) as scope:
                found = await call.route.handler(call)
        except TimeoutError:
            if not scope.expired():
                raise
            raise Problem(
                "unavailable",
                f"this took more than {REQUEST_S:g} s",
                retry_after_s=BUSY_RETRY_S,
            ) from None
        except web.HTTPException:
            raise RuntimeError("handlers raise Problem") from None
        except UrlGuardError as exc:
            retry = getattr(exc, "retry_after_s", None)
            if retry is None:
                raise
            raise Problem("unavailable", str(exc), retry_after_s=retry) from exc
        status = 200
        if isinstance(found, web.Response):
            raise RuntimeError("handlers return data")
        if isinstance(found, tuple):
            status, found = found
        return status, found.body if isinstance(found, Encoded) else await _encoded(found)

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which goes on to its end though the client may go away."""
        task = asyncio.create_task(work)
        self._changing.add(task)
        task.add_done_callback(self._changing.discard)
        return await asyncio.shield(task)

    # Doing it once

    async def _once(
        self, call: Call[Any, Any], key: str, data: bytes, answers: Answers
    ) -> web.Response:
        """The answer under an idempotency key: the one given before, or a new one."""
        caller = _caller(call)
        mine = await _digest(call.request, data)

        async def work() -> web.Response:
            # All of it here: the key must stay in use, and the answer be kept, if the client goes.
            with answers.under_way(caller, key):
                kept = await answers.find(caller, key)
                if kept is not None:
                    _look_at_digest(kept, mine)
                    if kept.body is not None or not call.route.reads:
                        return _replayed(call.route, kept)
                status, body = await self._bounded(call)
                await answers.keep(caller, key, _to_keep(call.route, mine, status, body))
                return _response(call.route, status, body)

        return await (work() if call.route.reads else self._whole(work()))

    async def _stream(self, call: Call[Any, Any], key: str | None) -> web.Response:
        """The answer of a handler that reads the body itself."""
        answers = self._answers
        pieces = self._told(bodies.pieces(call.request), call.request)
        if key is None or answers is None:
            call.chunks = pieces
            return await self._run(call)
        caller = _caller(call)
        hashed = _Hashed(call.request, pieces)

        async def work() -> web.Response:
            with answers.under_way(caller, key):
                kept = await answers.find(caller, key)
                if kept is not None:
                    await hashed.finish()
                    _look_at_digest(kept, hashed.digest)
                    return _replayed(call.route, kept)
                call.chunks = hashed.read()
                status, body = await self._bounded(call)
                await hashed.finish()
                kept = _to_keep(call.route, hashed.digest, status, body)
                await answers.keep(caller, key, kept)
                return _response(call.route, status, body)

        return await self._whole(work())

    async def _told(
        self, pieces: AsyncIterator[bytes], request: web.BaseRequest
    ) -> AsyncIterator[bytes]:
        """The pieces; the gate hears who waits for whom."""
        while True:
            if self.gate is not None:
                self.gate.reads(request.protocol)
            piece = await anext(pieces, b"")
            if self.gate is not None:
                self.gate.serves(request.protocol)
            if not piece:
                return
            yield piece

    @contextlib.contextmanager
    def _upload(self, number: int) -> Iterator[None]:
        """
        A streamed body is under way.

        Raises:
            Problem: too many are, of this token or of all.
        """
        if self._uploads[number] >= UPLOADS:
            words = f"{UPLOADS} uploads of this token are under way"
            raise Problem("rate", words, retry_after_s=BUSY_RETRY_S)
        if self._uploads.total() >= max(self._options.connections // 2, 1):
            words = "too many uploads are under way"
            raise Problem("unavailable", words, retry_after_s=BUSY_RETRY_S)
        self._uploads[number] += 1
        try:
            yield
        finally:
            self._uploads[number] -= 1
            self._uploads += Counter()  # keeps only those that have some


class _Hashed:
    """A body's pieces, and their digest when all were read."""

    def __init__(self, request: web.BaseRequest, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._hash = hashlib.sha256(digest(request.method, request.rel_url.raw_path_qs, b""))

    async def read(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces:
            self._hash.update(piece)
            yield piece

    async def finish(self) -> None:
        async for _ in self.read():
            pass

    @property
    def digest(self) -> bytes:
        return self._hash.digest()


def _full() -> Problem:
    return Problem("unavailable", "too many requests are being served", retry_after_s=BUSY_RETRY_S)


def _look_at_coding(request: web.BaseRequest) -> None:
    """
    Refuse transfer codings that nobody needs.

    Raises:
        Problem: the connection is closed with it.
    """
    coding = [value.lower() for value in request.headers.getall("Transfer-Encoding", ())]
    if coding and (coding != ["chunked"] or request.version < HttpVersion11):
        words = "the only transfer coding is chunked, in HTTP/1.1"
        raise Problem("malformed", words, headers=bodies.CLOSE)


def _idempotency_key(request: web.BaseRequest) -> str | None:
    given = request.headers.getall("Idempotency-Key", ())
    if len(given) > 1:
        raise Problem("malformed", "two idempotency keys; one is allowed")
    return checked(given[0]) if given else None


def _caller(call: Call[Any, Any]) -> str:
    """Whose an idempotency key is; it is written down, and no client's address may be."""
    if call.caller is not None:
        return f"token {call.caller.number}"
    return f"address {_STRANGERS.of(call.address, time.time())}"


async def _digest(request: web.BaseRequest, data: bytes) -> bytes:
    target = request.rel_url.raw_path_qs
    if len(data) < _IN_THREAD:
        return digest(request.method, target, data)
    return await asyncio.to_thread(digest, request.method, target, data)


def _look_at_digest(kept: Kept, digest: bytes) -> None:
    if kept.digest != digest:
        raise Problem(
            "key-reused",
            "the idempotency key was used for another request",
            errors=[("Idempotency-Key", "was used with another body or path")],
        )


def _to_keep(route: Route, digest: bytes, status: int, body: bytes) -> Kept:
    """What is kept of an answer: all of it, but for secrets and what is better worked out again."""
    again = route.reads and len(body) > _READ_AGAIN
    return Kept(digest, status, None if route.secret or again else body)


def _replayed(route: Route, kept: Kept) -> web.Response:
    if kept.body is None:
        why = "it has a secret, which is told once" if route.secret else "it was too large"
        raise Problem(
            "done-before",
            f"the request was done before, and its answer is not kept: {why}",
            errors=[("Idempotency-Key", "was used, and the request was done")],
        )
    found = _response(route, kept.status, kept.body)
    found.headers["Idempotency-Replayed"] = "true"
    return found


async def _encoded(found: Any) -> bytes:
    """An answer as JSON; a page some items at a time, so that the loop is free in between."""
    items = getattr(found, "items", None)
    if not isinstance(items, list) or len(items) <= _ITEMS:
        return msgspec.json.encode(found)
    parts = []
    for at in range(0, len(items), _ITEMS):
        parts.append(msgspec.json.encode(items[at : at + _ITEMS])[1:-1])
        await asyncio.sleep(0)
    whole = msgspec.Raw(b"[%b]" % b",".join(parts))
    return msgspec.json.encode(msgspec.structs.replace(found, items=whole))


def _response(route: Route, status: int, body: bytes) -> web.Response:
    if status != 200 and status not in route.also:
        raise RuntimeError(f"{route.path} answered {status}, which the table does not have")
    if len(body) <= _PIECE:
        found = web.Response(status=status, body=body)
    else:
        found = web.Response(status=status, body=_pieces(body))
        found.headers["Content-Length"] = str(len(body))
    found.headers["Content-Type"] = route.media
    found.headers.update(dict(route.headers))
    return found


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    """A long answer, so that nobody copies all of it at once; waits for whoever reads it."""
    for at in range(0, len(body), _PIECE):
        yield body[at : at + _PIECE]
        await asyncio.sleep(0)
