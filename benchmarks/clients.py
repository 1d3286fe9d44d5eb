"""
Clients with addresses of their own: some ask steadily and time each answer, others flood.

dnsperf asks from one address and at full speed; limits, a cache and a flood see that otherwise
than many subscribers.  These are slower and run as processes of their own (`crowd`), beside the one
that starts, kills and measures.  All times are of `time.monotonic`, which processes share.
"""

import contextlib
import math
import multiprocessing
import random
import select
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from benchmarks import load, stub

PATIENCE_S = 3.0  # then a question is lost
SOON_S = 1.5  # until what was given to `crowd` may begin: its processes import this first
_TURN_S = 0.001  # between two looks at the clock


@contextlib.contextmanager
def crowd(count: int) -> Iterator[ProcessPoolExecutor]:
    """So many processes for `ask` and `flood`, ready to begin."""
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        for begun in [pool.submit(time.sleep, 0.1) for _ in range(count)]:
            begun.result()
        yield pool


def addresses(network: int, count: int) -> list[str]:
    """So many addresses of 127.`network`.0.0/16, in as many networks of 24 bits as can be."""
    return [f"127.{network}.{number % 256}.{1 + number // 256}" for number in range(count)]


def _bound(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 0))
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


def ask(
    port: int,
    names: Sequence[str],
    rate: float,
    begin: float,
    seconds: float,
    sources: Sequence[str] = ("127.0.0.1",),
    patience_s: float = PATIENCE_S,
) -> load.Series:
    """
    Ask for the names in turn, at an even rate, however late the answers are.

    Args:
        port: of 127.0.0.1.
        rate: questions a second, at most 20,000.
        begin: when.
        seconds: for how long.
        sources: addresses to ask from, in turn.
        patience_s: an answer that takes longer counts as none.

    Returns:
        All questions, with what `load.meaning` says of the answers.  What is no answer to the
        question that was sent from there is passed over.
    """
    series = load.Series()
    with contextlib.ExitStack() as stack, select.epoll() as poll:
        socks = [stack.enter_context(_bound(source, port)) for source in sources]
        by_number = {sock.fileno(): sock for sock in socks}
        for number in by_number:
            poll.register(number, select.EPOLLIN)
        under_way: dict[int, tuple[float, socket.socket, bytes]] = {}
        count, total = 0, int(rate * seconds)
        until = math.inf
        time.sleep(max(0.0, begin - time.monotonic()))
        while (now := time.monotonic()) < until and (count < total or under_way):
            while count < total and begin + count / rate <= now:
                ident = count & 0xFFFF
                if ident in under_way:
                    series.lose(under_way[ident][0])
                query = load.query(names[count % len(names)], ident)
                sock = socks[count % len(socks)]
                under_way[ident] = (time.monotonic(), sock, query)
                with contextlib.suppress(OSError):
                    sock.send(query)
                count += 1
            if count == total and until == math.inf:
                until = now + patience_s
            for number, _ in poll.poll(_TURN_S):
                _receive(by_number[number], under_way, series, patience_s)
        for when, _, _ in under_way.values():
            series.lose(when)
    return series


def _receive(
    sock: socket.socket,
    under_way: dict[int, tuple[float, socket.socket, bytes]],
    series: load.Series,
    patience_s: float,
) -> None:
    """Take what has come to one socket."""
    with contextlib.suppress(OSError):
        while True:
            reply = sock.recv(4096)
            now = time.monotonic()
            ident = int.from_bytes(reply[:2])
            when, its, query = under_way.get(ident, (0.0, None, b""))
            if its is not sock or reply[12 : len(query)] != query[12:]:
                continue
            del under_way[ident]
            if now - when > patience_s:
                series.lose(when)
            else:
                series.add(when, now - when, load.meaning(reply))


def flood(
    port: int, zone: str, rate: float, begin: float, seconds: float, sources: Sequence[str]
) -> int:
    """
    Ask for random names below a zone, from all of the sources, and read no answer.

    Returns:
        How many were sent; fewer than asked for if this process was not given the time.
    """
    rng = random.Random(1)
    tail = stub.wire(zone) + b"\0\1\0\1"
    head = b"\1\0\0\1\0\0\0\0\0\0\x0c"
    count, total = 0, int(rate * seconds)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(_bound(source, port)) for source in sources]
        for sock in socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel's least
        time.sleep(max(0.0, begin - time.monotonic()))
        while (now := time.monotonic()) < begin + seconds:
            due = min(total, int((now - begin) * rate))
            # What was missed is made up for, but not all at once.
            for number in range(count, min(due, count + 1000)):
                label = b"%012x" % rng.getrandbits(48)
                query = (number & 0xFFFF).to_bytes(2) + head + label + tail
                with contextlib.suppress(OSError):
                    socks[number % len(socks)].send(query)
            count = min(due, count + 1000)
            time.sleep(_TURN_S)
    return count
