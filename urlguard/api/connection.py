"""
One connection: aiohttp's, except for what the framing of a body may cost.

aiohttp reads chunks (RFC 9112 section 7.1) of any size, however long their extensions, and any
number of trailers.  A megabyte of chunks of one octet takes it 50 ms, in which nothing else is
done.  Knows no routes, and nothing of other connections but how much of the loop they take.

How it works.  What comes is handed to aiohttp slice by slice.

*Overhead.*  Of each slice of a body, what is not payload counts as overhead, and payload pays for
as much of it.  Nothing is saved up.  Whoever owes more than `OVERHEAD` is told that the body is
badly chunked, and nothing more is read.  So chunks may be small, as those of a client that sends
each line by itself, but not smaller than their framing; and extensions and trailers are short.

*Time.*  Whoever has taken more than `TURN_S` of processor time, of which `EACH` is forgiven, waits
for his turn: all who do take `SHARE` of the loop together.  Whoever sends large chunks never does.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from aiohttp import StreamReader, web

from urlguard.api.problems import CONTENT_TYPE, Problem

SLICE: Final = 4_096  # octets that are read before it is looked what they were
OVERHEAD: Final = 4_096  # octets that are no payload, beyond as much as there is payload
TURN_S: Final = 0.002  # processor time
EACH: Final = 0.05  # seconds a second of one connection, for which it need not wait
SHARE: Final = 0.2  # seconds a second of all together that wait


def response(problem: Problem) -> web.Response:
    """The answer that tells a problem."""
    found = web.Response(
        status=problem.status,
        body=msgspec.json.encode(problem.document),
        content_type=CONTENT_TYPE,
        headers=problem.headers,
    )
    if problem.headers.get("Connection") == "close":
        found.force_close()
    return found


class Turns:
    """When it is whose turn, of the connections that take much time."""

    def __init__(self) -> None:
        self._next = 0.0

    def wait(self, spent_s: float) -> float:
        """How long somebody waits who has taken so much; in seconds."""
        now = time.monotonic()
        self._next = max(self._next, now) + spent_s / SHARE
        return self._next - now


class Connection(web.RequestHandler):
    """
    One connection.

    Args:
        server: aiohttp's.
        turns: of all connections.
        finish: puts what all answers have on one.
        options: aiohttp's.
    """

    def __init__(
        self,
        server: web.Server,
        turns: Turns,
        finish: Callable[[web.Response], web.Response],
        **options: Any,
    ) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._turns = turns
        self._finish = finish
        self._body: StreamReader | None = None  # of the request whose head came last
        self._overhead = 0
        self._held = b""  # what is not handed on yet
        self._turn: asyncio.TimerHandle | None = None
        self._spent = 0.0
        self._spent_at = time.monotonic()

    def data_received(self, data: bytes) -> None:
        """Read what has come; aiohttp calls it with nothing to go on after a pause."""
        data, self._held = self._held + data, b""
        if self._turn is not None:
            self._held = data
            self._pause_transport_reading()
            return
        began = time.thread_time()
        at = 0
        while True:
            piece = data[at : at + SLICE]
            at += len(piece)
            if not self._read(piece):
                return
            spent = time.thread_time() - began
            if spent > TURN_S or at >= len(data):
                break
            # Of aiohttp's pauses, that for many requests still stands while it asks for more.
            if self._reading_paused or len(self._messages) >= self._max_msg_queue_size:
                break
        self._held = data[at:]
        self._spends(spent)

    def _read(self, piece: bytes) -> bool:
        """Hand a slice on to aiohttp; False if no more may come."""
        body = self._body
        inside = body is not None and not body.is_eof()
        before = body.total_bytes if body is not None else 0
        super().data_received(piece)
        if self._close or self._force_close:
            return False
        if self._messages and self._messages[-1][1] is not body:
            self._body, self._overhead = self._messages[-1][1], 0
        elif inside and body is not None and not body.is_eof():
            payload = body.total_bytes - before
            self._overhead = max(self._overhead + len(piece) - 2 * payload, 0)
            # While aiohttp pauses, it may hold some of the slice back.
            if self._overhead > OVERHEAD and not self._reading_paused:
                self._refuse(body)
                return False
        else:
            self._overhead = 0
        return True

    def _refuse(self, body: StreamReader) -> None:
        """Read no more; whoever reads the body is told, and the connection closed after that."""
        body.set_exception(web.RequestPayloadError("more framing than payload"))
        self.close()
        self._pause_transport_reading()

    def _spends(self, spent: float) -> None:
        now = time.monotonic()
        self._spent = max(self._spent - (now - self._spent_at) * EACH, 0.0) + spent
        self._spent_at = now
        if self._spent > TURN_S:
            wait = self._turns.wait(self._spent)
            self._spent = 0.0
            self._turn = self._loop.call_later(wait, self._go_on)
            self._pause_transport_reading()

    def _go_on(self) -> None:
        self._turn = None
        if self.transport is None:
            return
        if not self._reading_paused and not self._buffer_paused:
            self._resume_transport_reading()
        self.data_received(b"")

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget what was not read."""
        if self._turn is not None:
            self._turn.cancel()
        self._held = b""
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what aiohttp could not read, or to an error of ours outside of handlers."""
        if request.writer.output_size > 0:
            raise ConnectionError("half an answer was sent already")
        if status >= 500:
            problem = Problem("internal", "the server failed")
        else:
            problem = Problem("malformed", "the request is no HTTP/1.1 that this server reads")
        found = self._finish(response(problem))
        found.force_close()
        return found
