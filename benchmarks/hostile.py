"""
Does anything that a client sends bring a server down, make it grow, or keep others waiting?

    python -m benchmarks.hostile [DATAGRAMS] [STREAMS] [--rate N] [--seed N] [--late-ms N]

Starts ``urlguard serve`` before an upstream that lies about some names, sends it 1,000,000 broken
datagrams and then 10,000 broken TCP streams and slow readers, and asks honest questions meanwhile,
from a process of its own: blocked names, cached ones and new ones, over UDP and TCP.  Prints how
long these took with and without the hostile traffic, and the workers' memory and descriptors.
Fails if an honest answer was lost, wrong or later than ``--late-ms``, if a worker was restarted or
grew, if a plugin raised, or if a slow connection was not closed.

Attackers have machines of their own; here they share the CPUs with the server and with whatever
else runs.  So the time that the worker, the upstream and the honest client spent waiting for a CPU
(``/proc/PID/schedstat``) while a query was under way is taken off what it took; both are printed.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz import corpus
from tests.fuzz.mutate import Mutator
from tests.running import Server, descendants

IDLE_S = 1.0  # the server's tcp_idle_s
HELD_S = 8.0  # a connection that the server has not closed by then was forgotten
SOURCES = [f"127.0.0.{n}" for n in range(2, 34)]
PROBE = "127.0.0.99"  # the honest client's address
TICK_S = 0.004
AT_ONCE = 64  # streams
GROWTH_KB = 8192  # of a worker's memory after it has warmed up
SPARE_FDS = 24


class FailedError(Exception):
    """The server did not do what it must."""


@dataclass
class Waits:
    """
    How long honest queries took, in ms, and those that got no answer or a wrong one.

    ``own_ms`` is the same without the time that processes waited for a CPU.
    """

    ms: list[float] = field(default_factory=list)
    own_ms: list[float] = field(default_factory=list)
    lost: int = 0
    wrong: list[str] = field(default_factory=list)  # the replies in hexadecimal

    def late(self, limit_ms: float) -> int:
        """How many took longer, by ``own_ms``."""
        return sum(ms > limit_ms for ms in self.own_ms)

    def __str__(self) -> str:
        return (
            f"{len(self.ms)} honest answers in p50 {_at(self.ms, 0.5)}, p99 {_at(self.ms, 0.99)}, "
            f"max {_at(self.ms, 1)} ms; without waiting for a CPU p50 {_at(self.own_ms, 0.5)}, "
            f"p99 {_at(self.own_ms, 0.99)}, p99.9 {_at(self.own_ms, 0.999)}, "
            f"max {_at(self.own_ms, 1)} ms; {self.lost} lost, {len(self.wrong)} wrong"
        )


def _at(ms: list[float], share: float) -> float:
    ordered = sorted(ms)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 2) if ordered else 0.0


def waited_ms(pid: int | str) -> float:
    """How long a process has waited for a CPU so far."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e6


# ---- the honest client, a process of its own


def ask_honestly(port: int, upstream: int, workers: list[int]) -> None:
    """Ask until standard input ends; then print how it went."""
    waits = Waits()
    address = ("127.0.0.1", port)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((PROBE, 0))
    sock.settimeout(2.0)
    os.set_blocking(0, False)
    salt = os.getpid()
    for number in itertools.count():
        with contextlib.suppress(BlockingIOError):
            if os.read(0, 1) == b"":
                break
        name, expected = [
            (corpus.BLOCKED, b"\x7f\0\0\1"),
            ("honest.example", corpus.HONEST),
            (f"n{number}.probe{salt}x{number}.example", corpus.HONEST),
            (f"www{number}.{corpus.BLOCKED}", b"\x7f\0\0\1"),
        ][number % 4]
        query = corpus.head(number & 0xFFFF, ar=1) + corpus.question(name) + corpus.opt()
        waited = [waited_ms(pid) for pid in ("self", upstream, *workers)]
        begun = time.perf_counter()
        try:
            if number % 8 < 6:
                sock.sendto(query, address)
                reply = sock.recv(4096)
                while reply[:2] != query[:2]:  # of one given up before
                    reply = sock.recv(4096)
            else:
                with socket.create_connection(address, 2.0, (PROBE, 0)) as stream:
                    stream.sendall(len(query).to_bytes(2) + query)
                    reply = stream.recv(4096)[2:]
        except OSError:
            waits.lost += 1
            continue
        took = (time.perf_counter() - begun) * 1000
        pids = ("self", upstream, *workers)
        here, there, *each = (waited_ms(p) - w for p, w in zip(pids, waited, strict=True))
        waits.ms.append(took)
        waits.own_ms.append(max(0.0, took - here - there - max(each)))
        if expected not in reply:
            waits.wrong.append(reply.hex())
        time.sleep(0.01)
    print(json.dumps(vars(waits)))


@contextlib.contextmanager
def honest(server: Server) -> Iterator[Waits]:
    """Honest queries while the block runs; the result is there when it has ended."""
    waits = Waits()
    ours = descendants(os.getpid())
    pids = [pid for pid, line in ours.items() if "tests.fuzz.upstream" in line]
    pids += server.pids("urlguard.worker.worker")
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.hostile", "--honest", str(server.port), *map(str, pids)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield waits
        said, _ = process.communicate(timeout=30)
        vars(waits).update(json.loads(said))
    finally:
        process.kill()
        process.communicate()


# ---- the server


@dataclass
class Size:
    """A worker's resident memory in KiB and its open descriptors."""

    rss_kb: int
    fds: int


def sizes(server: Server) -> dict[int, Size]:
    """Each worker's, by process."""
    found = {}
    for pid in server.pids("urlguard.worker.worker"):
        status = Path(f"/proc/{pid}/status").read_text()
        rss = int(status.partition("VmRSS:")[2].split()[0])
        found[pid] = Size(rss, len(os.listdir(f"/proc/{pid}/fd")))  # noqa: PTH208
    return found


def check_log(server: Server) -> None:
    """Nothing raised, in any process."""
    log = server.log.read_text()
    for bad in ("plugin.failed", "Traceback", "exited", "Exception", "Task exception"):
        if bad in log:
            raise FailedError(f"{bad} in the log:\n{log[-4000:]}")


@contextlib.contextmanager
def lying_upstream() -> Iterator[int]:
    """The port of `tests.fuzz.upstream`, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.upstream"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.communicate()


@contextlib.contextmanager
def serving(folder: Path, workers: int = 2, timeout_ms: int = 2000) -> Iterator[Server]:
    """A real server that blocks one name, and waits so long for its upstream."""
    with lying_upstream() as port:
        (folder / "list.txt").write_text(f"{corpus.BLOCKED}\n")
        server = Server(
            folder,
            f'[server]\nlisten = ["127.0.0.1:0"]\nworkers = {workers}\ntcp_idle_s = {IDLE_S}\n'
            f'[forward]\nupstreams = ["127.0.0.1:{port}"]\nports = 16\n'
            f"timeout_ms = {timeout_ms}\n"
            "[cache]\nmax_mb = 4\n"
            '[[feed]]\nname = "list"\npath = "list.txt"\nformat = "domains"\n',
        )
        try:
            yield server.start()
        finally:
            if server.process is not None:
                server.kill_all()


# ---- datagrams


def datagrams(seed: int) -> Iterator[bytes]:
    """Broken queries without end; some of them for names that the upstream lies about."""
    mutator = Mutator(corpus.queries(), seed)
    rng = mutator.rng
    lies = ("mad{}", "mad{}", "twice{}", "other{}", "loop{}", "many", "full", "deep", "stuck{}")
    while True:
        draw = rng.random()
        if draw < 0.02:
            # Those for TCP are few: each costs an upstream connection's worth of octets.
            kind = rng.choice(lies[:5] if draw < 0.0199 else lies)
            text = kind.format(rng.randrange(100_000)) + f".lie{rng.randrange(1000)}.example"
            data = corpus.head(ar=1) + corpus.question(text) + corpus.opt()
        else:
            data = mutator.one()
        yield rng.randbytes(2) + data[2:]


def flood(port: int, messages: Iterator[bytes], count: int, rate: float) -> Counter[str]:
    """Send so many at a bounded rate, and read what comes back; what was sent and received."""
    seen: Counter[str] = Counter()
    socks = []
    for source in SOURCES:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        socks.append(sock)
    begun = time.perf_counter()
    turn = itertools.cycle(socks)
    while seen["sent"] < count:
        due = min(count, int((time.perf_counter() - begun) * rate) + 1)
        for _ in range(min(due - seen["sent"], int(rate * TICK_S * 4) + 1)):
            with contextlib.suppress(OSError):
                next(turn).send(next(messages))
            seen["sent"] += 1
        for sock in socks:
            seen["received"] += _drain(sock)
        time.sleep(TICK_S)
    time.sleep(0.5)
    for sock in socks:
        seen["received"] += _drain(sock)
        sock.close()
    seen["seconds"] = round(time.perf_counter() - begun)
    return seen


def _drain(sock: socket.socket) -> int:
    for count in range(10_000):
        try:
            sock.recv(4096)
        except OSError:
            return count
    return 10_000


# ---- streams


def framed(*messages: bytes) -> bytes:
    """Messages as they stand in a stream."""
    return b"".join(len(m).to_bytes(2) + m for m in messages)


class Streams:
    """
    Clients over TCP that do not behave.

    ``ended`` counts how each kind ended: ``closed`` by the server, ``done`` by us, or ``held``: the
    server still had it after 8 s, although nobody used it.
    """

    def __init__(self, port: int, seed: int) -> None:
        self.ended: Counter[tuple[str, str]] = Counter()
        self._address = ("127.0.0.1", port)
        self._rng = random.Random(seed)
        self._mutator = Mutator(corpus.queries(), seed)
        self._loop = asyncio.get_running_loop()
        self._good = corpus.head(7, ar=1) + corpus.question(corpus.BLOCKED) + corpus.opt()
        self._kinds = {
            "mutated": 30,
            "lying length": 10,
            "reset": 10,
            "half": 10,
            "flood and reset": 8,
            "last words": 8,
            "proxy": 5,
            "http": 3,
            "tls": 3,
            "nothing in it": 3,
            "responses": 3,
            "silent": 3,
            "drip": 2,
            "unread": 2,
        }

    async def run(self, count: int) -> None:
        """Open so many, some at a time."""
        kinds, weights = list(self._kinds), list(self._kinds.values())
        drawn = iter(self._rng.choices(kinds, weights, k=count))

        async def work() -> None:
            for kind in drawn:
                self.ended[kind, await self.one(kind)] += 1

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))

    async def one(self, kind: str) -> str:
        """One connection; how it ended."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        if kind == "unread":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            sock.bind((self._rng.choice(SOURCES), 0))
            await self._loop.sock_connect(sock, self._address)
            async with asyncio.timeout(HELD_S * 4 if kind == "unread" else HELD_S):
                return await self._behave(kind, sock)
        except TimeoutError:
            return "held"
        except OSError:
            return "closed"
        finally:
            sock.close()

    async def _behave(self, kind: str, sock: socket.socket) -> str:
        send = self._loop.sock_sendall
        rng, good = self._rng, framed(self._good)
        if kind == "mutated":
            messages = [self._mutator.one() for _ in range(rng.choice((1, 3, 20)))]
            await send(sock, framed(*messages))
            return await self._until_closed(sock)
        if kind == "lying length":
            await send(sock, rng.choice((0, 5, 11, 300, 0xFFFF)).to_bytes(2) + self._good)
            return await self._until_closed(sock)
        if kind in ("reset", "half", "flood and reset"):
            octets = good * 300 if kind == "flood and reset" else good[: rng.randrange(len(good))]
            await send(sock, octets)
            if kind == "half":
                sock.shutdown(socket.SHUT_WR)
                return await self._until_closed(sock)
            await asyncio.sleep(rng.choice((0, 0, 0.002)))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return "done"
        if kind == "last words":
            await send(sock, good * 200)
            sock.shutdown(socket.SHUT_WR)
            got = await self._read_all(sock)
            return "closed" if got.count(good[2:4] + b"\x81\x80") == 200 else "unanswered"
        if kind == "drip":
            for octet in good * 2:
                await send(sock, bytes([octet]))
                await asyncio.sleep(0.25)
            return "held"
        if kind == "unread":
            # An answer of nearly 64 KiB each: they soon fill all buffers on the way.
            large = framed(corpus.head(8) + corpus.question("full.fat.example", corpus.TXT))
            await send(sock, large * 400)
            while True:
                await asyncio.sleep(0.1)
                sock.getpeername()
        octets = {
            "silent": b"",
            "proxy": corpus.proxied(good),
            "http": b"GET /dns-query?dns=AAAB HTTP/1.1\r\nHost: dns.example\r\n\r\n",
            "tls": b"\x16\x03\x01\2\0\1\0\1\xfc\x03\x03" + bytes(500),
            "nothing in it": b"\0\0" * 500,
            "responses": framed(corpus.head(1, 0x8180) + corpus.question("a.example")) * 5,
        }[kind]
        await send(sock, octets)
        return await self._until_closed(sock)

    async def _until_closed(self, sock: socket.socket) -> str:
        await self._read_all(sock)
        return "closed"

    async def _read_all(self, sock: socket.socket) -> bytes:
        got = b""
        while data := await self._loop.sock_recv(sock, 65_536):
            got += data
        return got


async def crowd(port: int, count: int) -> int:
    """How many of so many idle connections from one address the server closes at once."""
    loop = asyncio.get_running_loop()
    socks = []
    for _ in range(count):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.bind(("127.0.0.60", 0))
        await loop.sock_connect(sock, ("127.0.0.1", port))
        socks.append(sock)
    await asyncio.sleep(IDLE_S / 3)
    closed = 0
    for sock in socks:
        try:
            closed += sock.recv(1) == b""
        except BlockingIOError:
            pass
        except OSError:
            closed += 1
        sock.close()
    return closed


def break_streams(port: int, count: int, seed: int) -> Counter[tuple[str, str]]:
    """Run `Streams`; how they ended."""

    async def run() -> Counter[tuple[str, str]]:
        streams = Streams(port, seed)
        await streams.run(count)
        return streams.ended

    return asyncio.run(run())


# ---- the run


def compare(before: dict[int, Size], after: dict[int, Size]) -> str:
    """A line about what became of the workers; raises if they are others, or grew."""
    if set(before) != set(after):
        raise FailedError(f"workers were restarted: {sorted(before)} became {sorted(after)}")
    for pid, size in after.items():
        if size.rss_kb > before[pid].rss_kb + GROWTH_KB:
            raise FailedError(f"worker {pid} grew from {before[pid]} to {size}")
        if size.fds > before[pid].fds + SPARE_FDS:
            raise FailedError(f"worker {pid} leaks descriptors: {before[pid]} became {size}")
    return "; ".join(
        f"worker {n}: {before[pid].rss_kb} to {after[pid].rss_kb} KiB, "
        f"{before[pid].fds} to {after[pid].fds} descriptors"
        for n, pid in enumerate(sorted(after))
    )


def main() -> None:
    """Run and print; exit code 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("datagrams", nargs="?", type=int, default=1_000_000)
    parser.add_argument("streams", nargs="?", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=6000, help="broken datagrams a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--late-ms", type=float, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--honest", type=int, nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.honest:
        port, upstream, *workers = args.honest
        ask_honestly(port, upstream, workers)
        return
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), args.workers) as server:
        try:
            run(server, args)
        except FailedError as exc:
            sys.exit(f"failed: {exc}")


def run(server: Server, args: argparse.Namespace) -> None:
    """All of it, against a server that runs."""
    port = server.port
    with honest(server) as quiet:
        time.sleep(5)
    print(f"quiet:     {quiet}", flush=True)
    messages = datagrams(args.seed)
    warm = flood(port, messages, args.datagrams // 5, args.rate)
    time.sleep(1)
    before = sizes(server)
    with honest(server) as beside:
        seen = flood(port, messages, args.datagrams - warm["sent"], args.rate)
    time.sleep(2)
    total = warm["sent"] + seen["sent"]
    print(f"datagrams: {total} sent, {warm['received'] + seen['received']} answered")
    print(f"           {beside}", flush=True)
    print(f"           {compare(before, sizes(server))}", flush=True)
    break_streams(port, args.streams // 10, args.seed + 1)
    time.sleep(IDLE_S * 2)
    before = sizes(server)
    with honest(server) as meanwhile:
        begun = time.monotonic()
        ended = break_streams(port, args.streams - args.streams // 10, args.seed)
        seconds = time.monotonic() - begun
    closed = asyncio.run(crowd(port, 400))
    time.sleep(IDLE_S * 2)
    print(f"streams:   {ended.total()} in {seconds:.0f} s, {closed} of a crowd of 400 closed")
    for (kind, how), count in sorted(ended.items()):
        print(f"           {kind}: {count} {how}")
    print(f"           {meanwhile}", flush=True)
    print(f"           {compare(before, sizes(server))}", flush=True)
    check_log(server)
    for waits in (beside, meanwhile):
        if waits.lost or waits.wrong or waits.late(args.late_ms):
            late = waits.late(args.late_ms)
            raise FailedError(
                f"honest queries: {late} later than {args.late_ms} ms; {waits}; {waits.wrong[:5]}; "
                f"the log ends with\n{server.log.read_text()[-2000:]}"
            )
    for how in ("held", "unanswered"):
        if bad := [kind for kind, end in ended if end == how]:
            raise FailedError(f"connections {how}: {bad}")
    if not closed:
        raise FailedError("one client may open any number of connections")
    code = server.stop()
    if code:
        raise FailedError(f"the server ended with code {code}")


if __name__ == "__main__":
    main()
