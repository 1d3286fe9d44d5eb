"""
The HTTP server of the control process: one address, the routes of the table, and their frame.

The address may be taken when the server starts, or the certificate missing: then it is tried again
and again, and DNS is answered all the same.
"""

import asyncio
import contextlib
import logging
import ssl
import time

from aiohttp import web

from urlguard import events
from urlguard.access import tokens
from urlguard.access.attempts import Attempts
from urlguard.api import connections
from urlguard.api.auth import Keyring
from urlguard.api.connections import Gate
from urlguard.api.log_reader import LogReader
from urlguard.api.pipeline import Frame
from urlguard.api.public import Public
from urlguard.api.routes import Router
from urlguard.api.services import Deciding, Judging, Previewing, Services, Source
from urlguard.api.table import routes
from urlguard.cases.appeal_service import Proving
from urlguard.cases.casework import Casework
from urlguard.config import Api, Config, Endpoint

MAX_HEADER = 8192  # octets of the request line, and of one header
MAX_HEADERS = 64
RETRY_S = 5.0  # while the address is taken

# What clients send wrongly is answered with 400 and is no news; one line each would be a way to
# fill the disk.
_quiet = logging.getLogger("urlguard.api.http")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class ApiServer:
    """
    The server on one address.

    Args:
        options: ``[api]``.
        services: what the routes may use; closed at the end.
    """

    def __init__(self, options: Api, services: Services) -> None:
        self.address: Endpoint | None = None  # where it listens now
        self._options = options
        self._services = services
        self._frame = Frame(Router(routes(options.metrics_token_file)), services, options)
        limits = {
            "access_log": None,
            "logger": _quiet,
            "keepalive_timeout": connections.IDLE_S,
            "max_line_size": MAX_HEADER,
            "max_field_size": MAX_HEADER,
            "max_headers": MAX_HEADERS,
            "lingering_time": 1.0,
            "auto_decompress": False,
        }
        self._gate = Gate(options.connections, limits, self._frame.finish)
        self._frame.gate = self._gate

    async def run(self) -> None:
        """Serve until cancelled; while the address cannot be had, try again."""
        handling = web.Server(self._frame, handler_cancellation=True)
        self._gate.server = handling
        try:
            server = await self._listen()
            self.address = Endpoint(*server.sockets[0].getsockname()[:2])
            events.info("api.listening", address=str(self.address), tls=self._gate.tls is not None)
            try:
                await self._gate.sweep()
            finally:
                self.address = None
                server.close()
        finally:
            self._gate.server = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2.0):
                    handling.pre_shutdown()
                    await handling.shutdown(1.0)
                    await self._frame.close()
            if self._services.log is not None:
                self._services.log.close()
            if self._services.tokens is not None:
                await asyncio.to_thread(self._services.tokens.close)

    async def _listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        where = self._options.listen
        said = False
        while True:
            try:
                self._gate.tls = await asyncio.to_thread(_context, self._options)
                return await loop.create_server(
                    self._gate.door, where.host, where.port, backlog=self._options.connections
                )
            except OSError as exc:  # also what is wrong with the certificate
                if not said:
                    said = True
                    events.error(
                        "api.unavailable",
                        address=str(where),
                        error=exc.strerror or str(exc),
                        retry_s=RETRY_S,
                    )
            await asyncio.sleep(RETRY_S)


def of(
    config: Config,
    source: Source,
    *,
    deciding: Deciding,
    judging: Judging | None,
    casework: Casework | None,
    previewing: Previewing | None,
    proving: Proving | None = None,
) -> ApiServer:
    """
    The server of a control process.

    Args:
        config: the whole configuration.
        source: who knows how the server is.
        deciding: who commits to the policy log.
        judging: who gives verdicts.
        casework: the cases.
        previewing: who says what would change.
        proving: who looks for proofs.
    """
    services = Services(
        source=source,
        judging=judging,
        deciding=deciding,
        tokens=Keyring(config.state_dir / tokens.DATABASE),
        attempts=Attempts(time.monotonic),
        log=LogReader(config),
        casework=casework,
        previewing=previewing,
        cases=config.cases,
        public=Public(config.cases) if config.cases.public else None,
        state_dir=config.state_dir,
        proving=proving,
    )
    return ApiServer(config.api, services)


def _context(options: Api) -> ssl.SSLContext | None:
    """
    For TLS with the certificate of the configuration; None without one.

    Raises:
        OSError: it cannot be read, or does not fit its key.
    """
    if options.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # A key with a passphrase is an error, not a question at a terminal that nobody sits at.
    context.load_cert_chain(options.tls_cert, options.tls_key, password=lambda: "")
    return context
