"""
dnstap: queries and answers as frames to a collector on a Unix socket, without the client.

How it works.  `DnsTap.query` and `DnsTap.answer` are called by the listeners.  Each makes a frame
(dnstap.proto, encoded by hand: a dozen fields) and adds it to a buffer.  A task keeps a connection
to the collector, shakes hands as Frame Streams asks (READY, ACCEPT, START), and writes the buffer
ten times a second.  The buffer is bounded: without a collector, or with a slow one, frames are
dropped and counted; an answer never waits.

What a frame must not hold is who asked:

* The address is a pseudonym, a network, or missing, as ``[dnstap] addresses`` says.
* The port is never there: with the time it names a subscriber behind a carrier's NAT (RFC 6302).
* EDNS options identify clients too: cookies (RFC 7873), client subnets (RFC 7871), and what home
  routers add, such as the device's MAC address.  All but extended errors (RFC 8914) are turned into
  as much padding (RFC 7830), so that no offset in the message changes.
* A signature names its key.  A message with TSIG (RFC 8945) or SIG(0) (RFC 2931), one with records
  that no ordinary query has, and one that cannot be read to its end are left out of their frame.
"""

import asyncio
import contextlib
import ipaddress
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import Final

from urlguard import __version__, config, events
from urlguard.errors import WireError
from urlguard.processes import channel
from urlguard.wire import query as wire
from urlguard.wire.query import TCP, UDP, Transport

MAX_BUFFER: Final = 2 << 20  # octets of frames that wait; one more is dropped and counted
MAX_UNREAD: Final = 1 << 20  # octets in the kernel's buffer that the collector has not read
FLUSH_S: Final = 0.1
HANDSHAKE_S: Final = 5.0
FINISH_S: Final = 1.0  # for the collector to confirm the end
RETRY_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_S: Final = 60.0  # a connection that lasted so long is retried from the beginning

CONTENT_TYPE: Final = b"protobuf:dnstap.Dnstap"
ACCEPT, START, STOP, READY, FINISH = 1, 2, 3, 4, 5  # control frames
_FIELD_CONTENT_TYPE: Final = 1
_MAX_CONTROL: Final = 512  # octets of a control frame, as in the reference implementation

CLIENT_QUERY: Final = 5
CLIENT_RESPONSE: Final = 6

_PADDING: Final = 12
_KEPT_OPTIONS: Final = frozenset({15})  # extended errors
_SIGNATURES: Final = frozenset({24, 250})  # SIG, TSIG

_PROTOCOLS: Final[dict[Transport, int]] = {UDP: 1, TCP: 2}  # SocketProtocol in dnstap.proto

_u32 = Struct("!I")
_u16x2 = Struct("!HH")
_fixed32 = Struct("<I")


def masked(message: bytes, *, is_query: bool) -> bytes | None:
    """
    A DNS message without what identifies the client.

    Args:
        message: as it was received or sent.
        is_query: it has one question and at most an OPT record, or is left out.

    Returns:
        The message up to its last record's end, or None if it must not be shown.
    """
    if len(message) < 12:
        return None
    _, _, questions, answers, authorities, additionals = wire.header(message)
    # An answer to what could not be read has no question.
    if questions > 1 or (is_query and (not questions or answers or authorities or additionals > 1)):
        return None
    changed: bytearray | None = None
    try:
        at = wire.skip_name(message, 12) + 4 if questions else 12
        for _ in range(answers + authorities + additionals):
            rtype, _, _, data, at = wire.read_record(message, at)
            if rtype in _SIGNATURES or (is_query and rtype != wire.OPT):
                return None
            if rtype == wire.OPT and data < at:
                changed = changed or bytearray(message)
                _mask_options(changed, data, at)
    except WireError:
        return None
    if at > len(message):  # the question ends after the message
        return None
    return (message if changed is None else bytes(changed))[:at]


def _mask_options(message: bytearray, at: int, end: int) -> None:
    """
    Turn the options between two offsets into padding.

    Raises:
        WireError: one ends after `end`.
    """
    while at < end:
        if end - at < 4:
            raise WireError("EDNS option: ends after the record", None)
        code, length = _u16x2.unpack_from(message, at)
        after = at + 4 + length
        if after > end:
            raise WireError("EDNS option: ends after the record", None)
        if code not in _KEPT_OPTIONS:
            _u16x2.pack_into(message, at, _PADDING, length)
            message[at + 4 : after] = bytes(length)
        at = after


def network(client: str) -> bytes:
    """The client's network: the address with only its first 24 (IPv4) or 48 (IPv6) bits."""
    try:
        packed = ipaddress.ip_address(client.partition("%")[0]).packed
    except ValueError:
        return b""
    return packed[:3] + b"\0" if len(packed) == 4 else packed[:6] + bytes(10)


def no_address(client: str) -> bytes:
    """An empty address, for ``addresses = "none"``."""
    return b""


def _varint(number: int) -> bytes:
    octets = bytearray()
    while number > 127:
        octets.append(number & 127 | 128)
        number >>= 7
    octets.append(number)
    return bytes(octets)


def _number(field: int, number: int) -> bytes:
    return _varint(field << 3) + _varint(number)


def _octets(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _when(field: int, nanoseconds: int) -> bytes:
    """Seconds in `field`, the rest in the one after it."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return _number(field, seconds) + _varint((field + 1) << 3 | 5) + _fixed32.pack(rest)


def control_frame(kind: int, content_type: bytes | None = None) -> bytes:
    """A control frame of Frame Streams."""
    body = _u32.pack(kind)
    if content_type is not None:
        body += _u32.pack(_FIELD_CONTENT_TYPE) + _u32.pack(len(content_type)) + content_type
    return _u32.pack(0) + _u32.pack(len(body)) + body


async def read_control(reader: asyncio.StreamReader) -> tuple[int, list[bytes]]:
    """
    The next control frame: its kind, and the content types in it.

    Raises:
        ValueError: what comes is none.
        EOFError: the connection ends before.
    """
    escape, length = Struct("!II").unpack(await reader.readexactly(8))
    if escape or not 4 <= length <= _MAX_CONTROL:
        raise ValueError(f"no control frame: escape {escape}, {length} octets; 0 and 4 to 512")
    body = await reader.readexactly(length)
    types, at = [], 4
    while at + 8 <= length:
        field, size = Struct("!II").unpack_from(body, at)
        at += 8 + size
        if field != _FIELD_CONTENT_TYPE or at > length:
            raise ValueError(f"control frame: field {field} of {size} octets")
        types.append(body[at - size : at])
    return _u32.unpack_from(body)[0], types


class DnsTap:
    """
    The frames of one worker, and the connection to their collector.

    ``counters`` holds, since the start: ``queued``, ``sent`` and ``dropped`` frames, and
    ``left_out`` messages.

    Args:
        options: ``[dnstap]``, with a socket.
        pseudonym: from a client's address to 4 or 16 octets; none while there is no key.
        clock_ns: nanoseconds since 1970.
    """

    def __init__(
        self,
        options: config.Dnstap,
        pseudonym: Callable[[str], bytes],
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        if options.socket is None:
            raise ValueError("dnstap: no socket; must have one")
        self.counters: Counter[str] = Counter()
        self.connected = False
        self._path: Path = options.socket
        self._address = {"pseudonym": pseudonym, "network": network, "none": no_address}[
            options.addresses
        ]
        self._clock_ns = clock_ns
        identity = options.identity.encode()
        head = _octets(1, identity) if identity else b""
        self._head = head + _octets(2, f"urlguard {__version__}".encode())
        self._tail = _number(15, 1)  # a message, the only kind there is
        self._frames: list[bytes] = []
        self._size = 0
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        # Everything of a message before its address, for each family and transport.
        self._kinds = {
            (kind, six, transport): _number(1, kind) + _number(2, 1 + six) + _number(3, number)
            for kind in (CLIENT_QUERY, CLIENT_RESPONSE)
            for six in (False, True)
            for transport, number in _PROTOCOLS.items()
        }

    def query(self, client: str, message: bytes, transport: Transport) -> None:
        """Show a query as it was received; `client` is the socket's address."""
        if self._size >= MAX_BUFFER:
            self.counters["dropped"] += 1
            return
        body = [self._from(CLIENT_QUERY, client, transport), _when(8, self._clock_ns())]
        shown = masked(message, is_query=True)
        if shown is None:
            self.counters["left_out"] += 1
        else:
            body.append(_octets(10, shown))
        self._queue(b"".join(body))

    def answer(self, client: str, message: bytes, transport: Transport, asked_ns: int = 0) -> None:
        """Show an answer as it is sent; `asked_ns`: when the query came, 0 if unknown."""
        if self._size >= MAX_BUFFER:
            self.counters["dropped"] += 1
            return
        body = [self._from(CLIENT_RESPONSE, client, transport)]
        if asked_ns:
            body.append(_when(8, asked_ns))
        body.append(_when(12, self._clock_ns()))
        shown = masked(message, is_query=False)
        if shown is None:
            self.counters["left_out"] += 1
        else:
            body.append(_octets(14, shown))
        self._queue(b"".join(body))

    def _from(self, kind: int, client: str, transport: Transport) -> bytes:
        address = self._address(client)
        head = self._kinds[kind, ":" in client, transport]
        return head + _octets(4, address) if address else head

    def _queue(self, message: bytes) -> None:
        frame = self._head + _octets(14, message) + self._tail
        self._frames.append(_u32.pack(len(frame)) + frame)
        self._size += len(frame) + 4
        self.counters["queued"] += 1

    # The connection

    def start(self) -> None:
        """Begin to connect; call it on the worker's loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Send the rest of the buffer and end the stream, within about `FINISH_S`."""
        self._closing.set()
        if self._task is not None:
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(self._task, 2 * FINISH_S)
            self._task = None

    async def _run(self) -> None:
        """Stay connected to the collector until `close`."""
        loop = asyncio.get_running_loop()
        tries = 0
        logged = False
        while not self._closing.is_set():
            began = loop.time()
            error = "the collector closed the connection"
            try:
                await self._converse()
            except (OSError, ValueError, EOFError) as exc:
                error = str(exc) or type(exc).__name__
            if self._closing.is_set():
                return
            if self.connected or not logged:
                logged = True
                events.warning("dnstap.lost", socket=str(self._path), error=error)
            self.connected = False
            tries = 0 if loop.time() - began > STEADY_S else tries + 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), RETRY_S[min(tries, len(RETRY_S) - 1)])

    async def _converse(self) -> None:
        """One connection, from READY to its end."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            with channel.ShortPath(self._path) as short:
                await asyncio.wait_for(
                    asyncio.get_running_loop().sock_connect(sock, short), HANDSHAKE_S
                )
            reader, writer = await asyncio.open_unix_connection(sock=sock, limit=4096)
        except BaseException:
            sock.close()
            raise
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                writer.write(control_frame(READY, CONTENT_TYPE))
                kind, types = await read_control(reader)
                if kind != ACCEPT or (types and CONTENT_TYPE not in types):
                    raise ValueError(f"the collector sent frame {kind} with types {types}"[:200])
                writer.write(control_frame(START, CONTENT_TYPE))
                await writer.drain()
            self.connected = True
            events.info("dnstap.connected", socket=str(self._path))
            await self._pump(reader, writer)
        finally:
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Write the buffer until the collector disconnects or `close`; then end the stream."""
        ended = asyncio.create_task(read_control(reader))  # it has nothing to say before STOP
        closing = asyncio.create_task(self._closing.wait())
        try:
            while not ended.done():
                if writer.transport.get_write_buffer_size() <= MAX_UNREAD:
                    self._write(writer)
                if closing.done():
                    break
                await asyncio.wait([ended, closing], timeout=FLUSH_S)
                if not ended.done() and writer.is_closing():
                    raise ConnectionError("the connection broke")
            if not ended.done():
                writer.write(control_frame(STOP))
                async with asyncio.timeout(FINISH_S):
                    await writer.drain()
                    await ended
            else:
                ended.result()
        finally:
            for task in (ended, closing):
                task.cancel()
            await asyncio.gather(ended, closing, return_exceptions=True)

    def _write(self, writer: asyncio.StreamWriter) -> None:
        if self._frames:
            frames, self._frames, self._size = self._frames, [], 0
            writer.write(b"".join(frames))
            self.counters["sent"] += len(frames)
