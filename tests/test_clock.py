"""The loop whose time is a number."""

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest

from tests import clock
from tests.clock import SimulatedLoop, StuckError, counted


@pytest.fixture
def loop() -> Iterator[SimulatedLoop]:
    """A loop at 100 s."""
    with counted():
        made = SimulatedLoop(100.0)
        yield made
        made.close()


def test_a_day_takes_no_time(loop: SimulatedLoop) -> None:
    """
    Timers fire in their order, each at its own moment, however far away.
    """
    fired: list[tuple[str, float]] = []
    for name, after in (("c", 86_400.0), ("a", 0.5), ("b", 3600.0)):
        loop.call_later(after, lambda name=name: fired.append((name, loop.time())))
    started = time.process_time()
    loop.run_until(100.0 + 86_400)
    assert fired == [("a", 100.5), ("b", 3700.0), ("c", 86_500.0)]
    assert time.process_time() - started < 1


def test_time_stops_where_it_was_told_to(loop: SimulatedLoop) -> None:
    """
    What is due at the last moment is done, what is due after it is not.
    """
    fired: list[int] = []
    loop.call_at(105.0, fired.append, 1)
    loop.call_at(105.001, fired.append, 2)
    loop.run_until(105.0)
    assert (fired, loop.time()) == ([1], 105.0)
    loop.run_until(104.0 + 2)
    assert (fired, loop.time()) == ([1, 2], 106.0)


def test_time_stands_still_while_something_arrives(loop: SimulatedLoop) -> None:
    """
    A datagram is read at the moment at which it was sent, before any later timer.
    """
    one, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    one.bind(("127.0.0.1", 0))
    one.setblocking(False)
    seen: list[tuple[str, float]] = []

    def read() -> None:
        one.recv(100)
        seen.append(("datagram", loop.time()))

    def send() -> None:
        other.sendto(b"x", one.getsockname())

    loop.add_reader(one, read)
    loop.call_later(1.0, send)
    loop.call_later(1.001, lambda: seen.append(("timer", loop.time())))
    loop.run_until(102.0)
    assert seen == [("datagram", 101.0), ("timer", 101.001)]
    loop.remove_reader(one)
    one.close()
    other.close()


def test_streams_work(loop: SimulatedLoop) -> None:
    """
    A TCP connection is made, used and closed without time passing.
    """

    async def talk() -> bytes:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readexactly(4))[::-1])
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"ping")
        got = await reader.read()
        writer.close()
        server.close()
        return got

    assert loop.finish(talk()) == b"gnip"
    assert loop.time() == 100.0


def test_an_early_end(loop: SimulatedLoop) -> None:
    """
    A run ends as soon as what it waits for has happened, at that moment.
    """
    seen: list[int] = []
    loop.call_later(3.0, seen.append, 1)
    loop.call_later(4.0, seen.append, 2)
    loop.run_until(200.0, unless=lambda: bool(seen))
    assert (seen, loop.time()) == ([1], 103.0)


def test_two_who_keep_each_other_busy(loop: SimulatedLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A timer that starts another at once, for ever, ends with an error.
    """
    monkeypatch.setattr(clock, "_REAL_S", 0.05)

    def again() -> None:
        loop.call_later(1e-6, again)

    again()
    with pytest.raises(StuckError, match=r"busy for 0\.05 s"):
        loop.run_until(1e9)


def test_the_real_socket_comes_back() -> None:
    """
    Outside, sockets are what they were.
    """
    before = socket.socket
    with counted():
        assert socket.socket is not before
    assert socket.socket is before
