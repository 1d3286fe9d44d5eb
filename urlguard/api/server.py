"""
The HTTP server of the control process: the application, and the limits on who uses it.

Routes stand in modules of their own and are handed to `application`.  The address may be taken when
the server starts: then it is tried again and again, and DNS is answered all the same.

aiohttp bounds a request's line and headers.  It bounds neither the number of connections nor the
time that a client takes to send or to read, so `_Gate` does.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web

from urlguard import events
from urlguard.api import health, metrics
from urlguard.api.source import Source
from urlguard.config import Api, Endpoint

MAX_CONNECTIONS = 64
MAX_HEADER = 4096  # octets of the request line, and of one header
MAX_HEADERS = 64
IDLE_S = 10.0  # for a request to come whole, or its answer to be read
REQUEST_S = 30.0  # for a request to be worked out
RETRY_S = 5.0  # while the address is taken
_LOG_EVERY_S = 10.0

# What clients send wrongly is answered with 400 and is no news; one line each would be a way to
# fill the disk.
_quiet = logging.getLogger("urlguard.api.http")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(routes: Iterable[web.RouteDef], gate: "_Gate | None" = None) -> web.Application:
    """An application of `routes`, in which nothing that a route raises gets out."""

    logged = -_LOG_EVERY_S

    @web.middleware
    async def outermost(request: web.Request, handler: _Handler) -> web.StreamResponse:
        nonlocal logged
        if gate is not None:
            gate.begins(request.protocol)
        try:
            return await handler(request)
        except web.HTTPException as exc:
            return web.json_response({"error": exc.reason.lower()}, status=exc.status)
        except Exception as exc:
            now = time.monotonic()
            if now - logged >= _LOG_EVERY_S:
                logged = now
                error = f"{type(exc).__name__}: {exc}"
                events.error("api.failed", path=request.path[:100], error=error)
            return web.json_response({"error": "internal error"}, status=500)
        finally:
            if gate is not None:
                gate.ends(request.protocol)

    app = web.Application(middlewares=[outermost], client_max_size=65_536)
    app.add_routes(routes)
    return app


class _Refused(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _Gate:
    """Bounds connections in number and in time."""

    def __init__(self) -> None:
        self.server: web.Server | None = None
        self._idle: dict[object, float] = {}  # since when
        self._busy: dict[object, float] = {}

    def begins(self, connection: object) -> None:
        """A request has come in whole."""
        self._idle.pop(connection, None)
        self._busy[connection] = time.monotonic()

    def ends(self, connection: object) -> None:
        """Its answer is ready to be sent."""
        self._busy.pop(connection, None)
        self._idle[connection] = time.monotonic()

    def connect(self) -> asyncio.Protocol:
        """The protocol for a new connection."""
        if self.server is None or len(self.server.connections) >= MAX_CONNECTIONS:
            return _Refused()
        connection = self.server()
        self._idle[connection] = time.monotonic()
        return connection

    async def sweep(self) -> None:
        """Close what takes too long, once a second, for ever."""
        while True:
            await asyncio.sleep(min(1.0, IDLE_S / 2))
            if self.server is None:
                continue
            alive = set(self.server.connections)
            now = time.monotonic()
            for times, limit in ((self._idle, IDLE_S), (self._busy, REQUEST_S)):
                for connection, since in list(times.items()):
                    late = now - since > limit
                    if connection not in alive:
                        # Just made and not connected yet, or gone.
                        if late:
                            del times[connection]
                    elif late and isinstance(connection, web.RequestHandler):
                        connection.force_close()
                        if connection.transport is not None:
                            connection.transport.abort()


class ApiServer:
    """The server on one address."""

    def __init__(self, options: Api, source: Source) -> None:
        """`options`: ``[api]``; `source`: who knows what the routes tell."""
        self.address: Endpoint | None = None  # where it listens now
        self._options = options
        self._gate = _Gate()
        self._app = application(
            [
                *metrics.routes(source, options.metrics_token_file),
                *health.routes(source),
            ],
            self._gate,
        )

    async def run(self) -> None:
        """Serve until cancelled; while the address cannot be had, try again."""
        runner = web.AppRunner(
            self._app,
            access_log=None,
            logger=_quiet,
            keepalive_timeout=IDLE_S,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
            max_headers=MAX_HEADERS,
            lingering_time=1.0,
            handle_signals=False,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        self._gate.server = runner.server
        try:
            server = await self._listen()
            self.address = Endpoint(*server.sockets[0].getsockname()[:2])
            events.info("api.listening", address=str(self.address))
            try:
                await self._gate.sweep()
            finally:
                self.address = None
                server.close()
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2.0):
                    await runner.cleanup()

    async def _listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        where = self._options.listen
        said = False
        while True:
            try:
                return await loop.create_server(
                    self._gate.connect, where.host, where.port, backlog=MAX_CONNECTIONS
                )
            except OSError as exc:
                if not said:
                    said = True
                    events.error(
                        "api.unavailable",
                        address=str(where),
                        error=exc.strerror or str(exc),
                        retry_s=RETRY_S,
                    )
            await asyncio.sleep(RETRY_S)
