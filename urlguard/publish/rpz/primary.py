"""
The policy as a response policy zone: the primary from which other resolvers transfer it.

Part of the control process.  Answers SOA over UDP and TCP, AXFR and IXFR over TCP, to whom ``[rpz]
allow`` names and, if there are keys, only to signed requests.  What the zone holds and what it
cannot say is `zone`'s part, keeping it `store`'s, the messages `transfer`'s; here are the sockets.

How it works.  After every change of policy the zone file follows the log on a thread of its own; a
change that is too large for that is built in a process of its own.  A transfer reads the zone of
one serial in chunks on another thread and waits for the secondary between them, so a slow one costs
a file handle and a few hundred kilobytes.  The packet path never waits for anything here.
"""

import asyncio
import contextlib
import gc
import ipaddress
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

from urlguard import events
from urlguard.config import Config, Endpoint
from urlguard.errors import PolicyError, UrlGuardError
from urlguard.policy.location import log_location, open_url, reading_log
from urlguard.policy.log import PolicyLog
from urlguard.processes import lifetime
from urlguard.publish.rpz import transfer
from urlguard.publish.rpz.store import State, TooMuchError, ZoneStore, packed
from urlguard.publish.rpz.transfer import AXFR, IXFR, NOERROR, REFUSED, SERVFAIL, SOA, Look, Request
from urlguard.publish.rpz.zone import KINDS, collect, flat, why_not
from urlguard.rules import SHADOWED

MAX_CONNECTIONS = 64
MAX_OF_ONE = 16  # of one address, so that it cannot keep the others out
MAX_TRANSFERS = 4  # at a time; one more waits for `SLOT_S`, then gets SERVFAIL and tries again
SLOT_S = 10.0
IDLE_S = 10.0  # for the next request on a connection
CHUNK = 200_000  # octets, about; a secondary must take one within `CHUNK_S`
CHUNK_S = 30.0
TRANSFER_S = 3600.0  # the whole: as long as it runs, SQLite keeps the old pages
RETRY_S = 10.0  # after a failure
IXFR_ALWAYS = 1000  # changed nodes up to which IXFR is taken whatever the zone's size
LOG_EVERY_S = 10.0


def zone_file(config: Config) -> Path:
    """Where the zone's nodes are kept."""
    return config.state_dir / "rpz.db"


# Without a server


def unsayable(config: Config) -> Iterator[tuple[str, str]]:
    """The keys of rules in force that the zone cannot say, each with the reason."""
    zone = Look(config).zone
    with reading_log(config) as log:
        for key, _ in log.rulings():
            if key.startswith(SHADOWED):
                continue  # it blocks nothing here either
            kind, _, value = key.partition(" ")
            if reason := why_not(kind, value, zone):
                yield key, reason


def overview(config: Config) -> list[tuple[str, str]]:
    """
    What the zone is and holds, in rows of words and value; reads the whole policy.

    Raises:
        UrlGuardError: the policy log cannot be read, or the zone's name is not one.
    """
    look = Look(config)
    records: Counter[str] = Counter()
    with reading_log(config) as log:
        serial = _serial(config, log)
        left_out = _left_out(log, look.zone)
        for node in flat(collect(log.rulings())):
            for line in look.lines(node.name, packed(node)):
                records["pass" if line.endswith("rpz-passthru.\n") else "block"] += 1
    listen = ", ".join(map(str, config.rpz.listen))
    return [
        ("zone", look.zone),
        ("serial", str(serial)),
        ("listens on", listen or "nothing; set [rpz] listen"),
        ("keys", ", ".join(key.name for key in config.rpz.tsig) or "none: loopback only"),
        ("records that block", str(records["block"])),
        ("records that pass", str(records["pass"])),
        ("left out: patterns", str(left_out["pattern"])),
        ("left out: URL rules", str(left_out["url"])),
        ("left out: names", str(left_out["name"])),
    ]


def write_zone(config: Config, file: TextIO) -> int:
    """
    Write the zone as a zone file (RFC 1035 section 5); returns the number of policy records.

    Raises:
        UrlGuardError: the policy log cannot be read, or the zone's name is not one.
    """
    look = Look(config)
    count = 0
    with reading_log(config) as log:
        file.write(look.head(_serial(config, log)))
        for node in flat(collect(log.rulings())):
            for line in look.lines(node.name, packed(node)):
                file.write(line)
                count += 1
    return count


def _serial(config: Config, log: PolicyLog) -> int:
    """The zone's serial: the published one, if the zone is of the log's last batch."""
    head = log.store.head()
    if head and zone_file(config).exists():
        with contextlib.suppress(UrlGuardError), ZoneStore(zone_file(config), read_only=True) as s:
            state = s.state()
            if (state.at, state.hash) == (head.serial, head.hash):
                return state.serial
    return log.store.last_effect_serial(KINDS)


# The primary


class Primary:
    """Keeps the zone in step with the log, and serves it."""

    def __init__(self, config: Config) -> None:
        """
        What ``[rpz]`` says.

        Raises:
            ConfigError: a key's file or the zone's name is wrong.
        """
        self.look = Look(config)
        self.endpoints: list[Endpoint] = []  # where it listens
        self.state: State | None = None  # of the zone; None until it is there
        self.transfers: Counter[str] = Counter()  # begun, by what was sent
        self._config = config.rpz
        self._log = log_location(config)
        self._path = zone_file(config)
        self._keys = transfer.keys(config.rpz.tsig)
        self._news = asyncio.Event()
        self._follower = ThreadPoolExecutor(1, "rpz-zone")
        self._senders = ThreadPoolExecutor(MAX_TRANSFERS, "rpz-transfer")
        self._slots = asyncio.Semaphore(MAX_TRANSFERS)
        self._servers: list[asyncio.Server] = []
        self._udp: list[asyncio.DatagramTransport] = []
        self._connections: dict[asyncio.Task[Any], str] = {}  # with the client's address
        self._following: asyncio.Task[None] | None = None
        self._log_throttle = events.Throttle(LOG_EVERY_S)

    async def start(self) -> None:
        """
        Listen, and begin to follow the log.

        Raises:
            OSError: an address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        try:
            for host, port in self._config.listen:
                server = await asyncio.start_server(self._connected, host, port)
                self._servers.append(server)
                port = server.sockets[0].getsockname()[1]
                udp, _ = await loop.create_datagram_endpoint(
                    lambda: _Datagrams(self), local_addr=(host, port)
                )
                self._udp.append(udp)
                self.endpoints.append(Endpoint(host, port))
        except OSError:
            await self.stop()
            raise
        self._following = asyncio.create_task(self._follow())
        events.info("rpz.listening", zone=self.look.zone, on=[str(e) for e in self.endpoints])

    async def stop(self) -> None:
        """Close every socket and end every transfer."""
        for server in self._servers:
            server.close()
        for udp in self._udp:
            udp.close()
        tasks = [*self._connections, *([self._following] if self._following else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._follower.shutdown(wait=True)
        self._senders.shutdown(wait=True)

    def changed(self) -> None:
        """The log may have news."""
        self._news.set()

    # Following the log

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._news.clear()
            wait: float | None = None
            try:
                try:
                    state, seen = await loop.run_in_executor(self._follower, self._catch_up)
                except TooMuchError:
                    await self._build()
                    state, seen = await loop.run_in_executor(self._follower, self._catch_up)
                self._publish(state, seen)
            except (UrlGuardError, OSError, TooMuchError) as exc:
                events.error("rpz.failed", error=str(exc) or "zone not built", using="last_good")
                wait = RETRY_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), wait)

    def _catch_up(self) -> tuple[State, bool]:
        log = PolicyLog(self._log.open())
        with contextlib.closing(log), ZoneStore(self._path) as store:
            fresh = store.state().at == 0
            if store.follow(log).at and fresh:
                _report(log, store, self.look.zone)
            return store.look(self.look.digest)

    def _publish(self, state: State, seen: bool) -> None:
        if not seen:
            events.warning(
                "rpz.unseen",
                serial=state.serial,
                hint="blocks are written in another way now, and no batch has come since: "
                "secondaries see it after the next one, or after a retransfer by hand",
            )
        if self.state and state.serial < self.state.serial:
            events.warning("rpz.serial_went_back", serial=state.serial, was=self.state.serial)
        self.state = state

    async def _build(self) -> None:
        """Build the zone in another process."""
        started = time.monotonic()
        arguments = (str(self._path), self.look.zone)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "urlguard.publish.rpz.primary", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            await process.communicate(self._log.url.encode())
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if code:
            raise PolicyError(f"zone: its build ended with {code}")
        events.info("rpz.rebuilt", seconds=round(time.monotonic() - started, 2))

    # Answering

    def answer(self, wire: bytes, client: str, *, udp: bool) -> bytes | Request | None:
        """The reply to one message; a `Request` if it asks for a transfer over TCP."""
        if not self._may(client):
            return _refusal(wire)
        try:
            request = transfer.read(wire, self._keys)
        except transfer.RefusedError as exc:
            self._warn(str(exc), client)
            return exc.reply
        if request.zone != self.look.zone or request.kind not in (SOA, AXFR, IXFR):
            return request.reply(REFUSED)
        if self.state is None:
            return request.reply(SERVFAIL)
        if not udp and request.kind != SOA:
            return request
        if request.kind == AXFR:
            return request.reply(transfer.FORMERR)  # not over UDP, RFC 5936 section 4.2
        # IXFR over UDP: our SOA alone says "take TCP" where it is newer (RFC 1995 section 4).
        reply = request.reply(NOERROR, [self.look.soa(self.state.serial)])
        return request.truncated() if udp and len(reply) > request.max_udp else reply

    def _may(self, client: str) -> bool:
        address = ipaddress.ip_address(client.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self._config.allow)

    def _warn(self, why: str, client: str) -> None:
        """At most one warning of a sort in ten seconds: anybody in the network can cause them."""
        if self._log_throttle.due(why):
            events.warning("rpz.refused", client=client, why=why)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection's callback runs in a task"
        client = str(writer.get_extra_info("peername")[0])
        self._connections[task] = client
        try:
            mine = sum(other == client for other in self._connections.values())
            if len(self._connections) <= MAX_CONNECTIONS and mine <= MAX_OF_ONE:
                await self._serve(reader, writer, client)
        except asyncio.IncompleteReadError:
            pass  # the secondary has no more requests; it may still be reading the last reply
        except (TimeoutError, OSError, RuntimeError):  # uvloop's word for a closed transport
            writer.transport.abort()  # gone or too slow; it will come again
        except UrlGuardError as exc:
            events.error("rpz.transfer_failed", client=client, error=str(exc))
            writer.transport.abort()
        except asyncio.CancelledError:
            writer.transport.abort()  # the server stops, and nobody awaits this task
        finally:
            writer.close()
            try:
                async with asyncio.timeout(CHUNK_S):
                    await writer.wait_closed()
            except (TimeoutError, OSError):
                writer.transport.abort()
            self._connections.pop(task, None)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: str
    ) -> None:
        while True:
            async with asyncio.timeout(IDLE_S):
                size = int.from_bytes(await reader.readexactly(2), "big")
                wire = await reader.readexactly(size)
            reply = self.answer(wire, client, udp=False)
            if isinstance(reply, Request):
                await self._transfer(reply, writer, client)
            elif reply is None:
                return
            else:
                await _send(writer, _framed(reply))

    async def _transfer(self, request: Request, writer: asyncio.StreamWriter, client: str) -> None:
        try:
            await asyncio.wait_for(self._slots.acquire(), SLOT_S)
        except TimeoutError:
            self._warn(f"{MAX_TRANSFERS} transfers under way", client)
            await _send(writer, _framed(request.reply(SERVFAIL)))
            return
        loop = asyncio.get_running_loop()
        started, size = time.monotonic(), 0
        source: _Source | None = None
        try:
            async with asyncio.timeout(TRANSFER_S):
                source = _Source(self.look, self._path, request)
                await loop.run_in_executor(self._senders, source.open)
                self.transfers[source.what] += 1
                while chunk := await loop.run_in_executor(self._senders, source.read):
                    size += len(chunk)
                    await _send(writer, chunk)
            events.info(
                "rpz.sent",
                what=source.what,
                client=client,
                serial=source.serial,
                octets=size,
                seconds=round(time.monotonic() - started, 2),
            )
        except (TimeoutError, OSError) as exc:
            events.warning("rpz.broken_off", client=client, octets=size, error=repr(exc)[:100])
            raise
        finally:
            self._slots.release()
            if source is not None:
                # Not here: a read that a cancelled wait left behind may be running.
                self._senders.submit(source.close)


class _Source:
    """The messages of one transfer, read from the zone as it was when the transfer began."""

    def __init__(self, look: Look, path: Path, request: Request) -> None:
        self.what = ""
        self.serial = 0
        self._look = look
        self._path = path
        self._request = request
        self._store: ZoneStore | None = None
        self._messages: Iterator[bytes] = iter(())
        self._busy = threading.Lock()  # a wait may be cancelled while its read goes on

    def open(self) -> None:
        """Open the zone and decide what to send (RFC 1995 section 4)."""
        with self._busy:
            self._open()

    def _open(self) -> None:
        self._store = store = ZoneStore(self._path, read_only=True)
        self.serial = serial = store.state().serial
        asked = self._request.serial
        items = None
        if asked is not None:
            lag = (serial - asked) & 0xFFFFFFFF  # RFC 1982
            since = serial - lag
            if lag == 0 or lag > 1 << 31:
                self.what, items = "soa", iter((self._look.soa(serial),))
            elif store.leads_from(since):
                count = store.count_changes(since)
                if count <= IXFR_ALWAYS or store.larger_than(count):
                    self.what = "ixfr"
                    items = transfer.change_items(self._look, store, since, serial)
        if items is None:
            self.what, items = "axfr", transfer.zone_items(self._look, store, serial)
        self._messages = self._request.replies(items)

    def read(self) -> bytes:
        """The next messages, each with its length in front; empty at the end."""
        chunk = bytearray()
        with self._busy:
            for message in self._messages:
                chunk += _framed(message)
                if len(chunk) >= CHUNK:
                    break
        return bytes(chunk)

    def close(self) -> None:
        """Let go of the zone."""
        with self._busy:
            self._messages = iter(())
            if self._store is not None:
                self._store.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, primary: Primary) -> None:
        self._primary = primary
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self._primary.answer(data, addr[0], udp=True)
        if isinstance(reply, bytes) and self._transport is not None:
            self._transport.sendto(reply, addr)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    async with asyncio.timeout(CHUNK_S):
        await writer.drain()


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


def _refusal(wire: bytes) -> bytes | None:
    """REFUSED for somebody whose message is not even read: the header alone."""
    if len(wire) < 12 or wire[2] & 0x80:
        return None
    return wire[:2] + bytes((0x80 | wire[2] & 0x79, REFUSED)) + bytes(8)


def _report(log: PolicyLog, store: ZoneStore, zone: str) -> None:
    """Log what the zone holds, and how many rules it leaves out."""
    with log.store.reading():
        left_out = _left_out(log, zone)
    events.info(
        "rpz.built",
        zone=zone,
        serial=store.state().serial,
        nodes=store.count(),
        left_out_patterns=left_out["pattern"],
        left_out_urls=left_out["url"],
        left_out_names=left_out["name"],
        listed_by="urlguard rpz",
    )


def _left_out(log: PolicyLog, zone: str) -> Counter[str]:
    """How many rules in force the zone cannot say, by sort."""
    found: Counter[str] = Counter()
    for key, _ in log.rulings():
        kind, _, value = key.partition(" ")
        if not key.startswith(SHADOWED) and why_not(kind, value, zone):
            found[kind if kind in ("pattern", "url", "pause") else "name"] += 1
    return found


async def start(config: Config) -> Primary | None:
    """The primary at work if ``[rpz]`` wants one; what keeps it from work is logged."""
    if not config.rpz.listen:
        return None
    try:
        primary = Primary(config)
        await primary.start()
    except (UrlGuardError, OSError) as exc:
        events.error("rpz.off", error=str(exc))
        return None
    return primary


def main() -> int:
    """
    Entry point of the process that builds the zone.

    Its arguments are the zone's file and name; the URL of the policy log is on standard input.
    """
    lifetime.die_with_parent()
    url = sys.stdin.read()
    os.nice(10)
    gc.disable()  # millions of small objects, none in a cycle, and the process ends soon
    path, zone = sys.argv[1:]
    try:
        with contextlib.closing(open_url(url)) as log, ZoneStore(Path(path)) as store:
            store.build(log)
            _report(log, store, zone)
    except UrlGuardError as exc:
        events.error("rpz.not_built", error=str(exc))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
