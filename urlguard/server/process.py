"""
What the supervisor's children have in common: how they get their orders, and how they end.

A child reads its orders, a pickle, from its standard input, which stays open: its end of file means
that the supervisor is gone, however it went, and the child must go too, or it would go on answering
beside the next server.
"""

import asyncio
import contextlib
import os
import pickle
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

READY = b"ready\n"  # what a child writes to its standard output once it is at work


def orders(value: Any) -> bytes:
    """The bytes that `handed` reads."""
    data = pickle.dumps(value)
    return len(data).to_bytes(8, "big") + data


def handed() -> Any:
    """This process's orders, from its parent through a private pipe."""
    size = int.from_bytes(_exactly(8), "big")
    return pickle.loads(_exactly(size))  # noqa: S301


def _exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(0, size - len(data))  # unbuffered: the rest stays in the pipe
        if not part:
            raise SystemExit(0)  # the parent died before it could say what to do
        data += part
    return data


def run(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `work` on uvloop; its event is set on SIGTERM, SIGINT, or the supervisor's end."""

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_reader(0, _parent, loop, stop)
        await work(stop)

    uvloop.run(main())


def _parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    if not os.read(0, 4096):
        loop.remove_reader(0)
        stop.set()


def say_ready() -> None:
    """Tell the supervisor that this child is at work."""
    with contextlib.suppress(OSError):
        os.write(1, READY)
