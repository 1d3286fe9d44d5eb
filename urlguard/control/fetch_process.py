"""
The fetch process: a child of control, and the only process that talks to third-party servers.

The fetch pool starts it and sends it the upstreams and then jobs through standard input; the
answers go to standard output, see `urlguard.processes.frames`.  Knows the four jobs below and
nothing else: no configuration, no policy, no secret.  Webhooks are signed before they come here.

How it works.  Once all modules are imported and the authorities' certificates are read, the process
enters the sandbox, see `urlguard.processes.sandbox`.  Then each job is a task; control limits their
number.  A job's error is its answer, so this process logs nothing.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from urlguard.config import Upstream
from urlguard.errors import UrlGuardError
from urlguard.fetch.bounds import MAX_PROOF, MAX_SENT, Bounds, Fetched, FetchError
from urlguard.processes import child, frames, lifetime, sandbox

if TYPE_CHECKING:  # control imports this module for its constants, and has no use for these
    from urlguard.fetch.http import Client
    from urlguard.fetch.lookup import Lookup

MAX_BODY: Final = max(MAX_SENT, MAX_PROOF) + (64 << 10)  # octets of a frame, with its JSON
WEBHOOK, PROOF, TXT, ADDRESSES = 1, 2, 3, 4  # jobs

MAX_NAMES: Final = 100  # of one job: each look-up has a socket of its own
NICE: Final = 5  # answering queries comes first


def packed(head: Mapping[str, Any], body: bytes = b"") -> bytes:
    """A frame's body: an object in one line of JSON, and octets."""
    return json.dumps(head).encode() + b"\n" + body


def unpacked(data: bytes) -> tuple[dict[str, Any], bytes]:
    """
    The object and octets in a frame's body; see `packed`.

    Raises:
        ValueError: the body does not begin with a JSON object.
    """
    head, _, body = data.partition(b"\n")
    found = json.loads(head)
    if not isinstance(found, dict):
        raise ValueError("a frame without an object")
    return found, body


class Service:
    """
    Does jobs as they arrive.

    Args:
        client: for webhooks and proof files.
        lookup: for TXT records and addresses.
        bounds: define which addresses are public.
        outward: the answers are written there.
    """

    def __init__(
        self,
        client: "Client",
        lookup: "Lookup",
        bounds: Bounds,
        outward: asyncio.WriteTransport,
    ) -> None:
        self._client = client
        self._lookup = lookup
        self._public = bounds.public
        self._outward = outward
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, inward: asyncio.StreamReader) -> None:
        """
        Work until the parent closes the pipe.

        Raises:
            IncompleteReadError: the pipe is closed.
            ValueError: the frames are out of step.
        """
        while True:
            task = asyncio.create_task(self._answer(*await frames.read(inward, MAX_BODY)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, number: int, kind: int, body: bytes) -> None:
        try:
            answer, found = frames.DONE, await self._work(kind, body)
        except FetchError as exc:
            answer = frames.REFUSED if exc.refused else frames.FAILED
            found = str(exc).encode(errors="replace")
        except Exception as exc:  # the next job may succeed
            answer = frames.FAILED
            found = f"{type(exc).__name__}: {exc}".encode(errors="replace")[:1000]
        self.send(number, answer, found)

    async def _work(self, kind: int, body: bytes) -> bytes:
        from urlguard.fetch import leads, proof

        head, data = unpacked(body)
        if kind == WEBHOOK:
            return _shown(await self._client.post(head["url"], data, head["headers"]))
        if kind == PROOF:
            return _shown(await proof.file(self._client, head["name"]))
        if kind == TXT:
            return packed({"txt": await proof.txt(self._lookup, head["name"])})
        if kind == ADDRESSES:
            asked = head["names"][:MAX_NAMES]
            return packed({"addresses": await leads.addresses(self._lookup, asked, self._public)})
        raise FetchError(f"job {kind}: must be from {WEBHOOK} to {ADDRESSES}", refused=True)

    def send(self, number: int, answer: int, body: bytes = b"") -> None:
        """Send a frame; the number of jobs bounds what waits to be read."""
        self._outward.write(frames.pack(number, answer, body))


def _shown(found: Fetched) -> bytes:
    return packed({"status": found.status, "scheme": found.scheme}, found.body)


async def _serve(
    inward: IO[bytes],
    outward: IO[bytes],
    upstreams: tuple[Upstream, ...],
    ca_file: Path | None,
    bounds: Bounds,
) -> None:
    from urlguard.fetch import leads, proof  # noqa: F401, used when no file can be read any more
    from urlguard.fetch.http import Client
    from urlguard.fetch.lookup import Lookup, preload

    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), inward)
    writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, outward)
    try:
        preload()
        lookup = Lookup(upstreams, ca_file)
        client = Client(lookup.addresses, bounds)
    except UrlGuardError as exc:
        problem = str(exc).encode(errors="replace")
        writer.write(frames.pack(0, frames.FAILED, problem))
        writer.close()
        return
    "example.org".encode("idna")  # TLS needs the codec; its first use imports it
    sandbox.enter(NICE)
    service = Service(client, lookup, bounds, writer)
    service.send(0, frames.READY)
    with contextlib.suppress(asyncio.IncompleteReadError):
        await service.run(reader)


def main() -> int:
    """Entry point of the fetch process; returns its exit code."""
    lifetime.die_with_parent()
    # The control process ends its child; a terminal's Ctrl-C is for the supervisor.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    upstreams, ca_file, bounds = child.read_startup()
    # What a library prints must not get between the frames.
    outward = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    inward = os.fdopen(0, "rb", buffering=0)
    asyncio.run(_serve(inward, outward, upstreams, ca_file, bounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
