"""
The fetching process: a child of control, and the only process that talks to strangers' servers.

Started by `fetcher`, which hands it the upstreams and then jobs through its standard input, and
reads what came of them from its standard output.  Knows the four jobs below and nothing else: no
configuration, no policy, no secret.  A webhook's signature is made before it comes here.

How it works.  Once all is imported and the authorities' certificates are read, it gives up files
and privileges, see `confining`.  Then each frame is a task of its own; control sees to it that
there are not too many.  What is wrong with a job is its answer, so this process has nothing to say
itself.
"""

import asyncio
import contextlib
import json
import os
import signal
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from urlguard.config import Upstream
from urlguard.errors import UrlGuardError
from urlguard.fetch.bounds import MAX_PROOF, MAX_SENT, Bounds, Fetched, FetchError
from urlguard.processes import child, lifetime, sandbox

if TYPE_CHECKING:  # control imports this module for its frames, and has no use for these
    from urlguard.fetch.http import Client
    from urlguard.fetch.lookup import Lookup

# A frame: octets of its body, the job's number, and what it is; then the body.
HEAD: Final = struct.Struct(">IIB")
MAX_BODY: Final = max(MAX_SENT, MAX_PROOF) + (64 << 10)  # with what stands before it
WEBHOOK, PROOF, TXT, ADDRESSES = 1, 2, 3, 4  # jobs
READY, DONE, FAILED, REFUSED = 1, 2, 3, 4  # answers

MAX_NAMES: Final = 100  # of one job: each has a socket of its own while it is asked
NICE: Final = 5  # answering queries comes first


def packed(head: Mapping[str, Any], body: bytes = b"") -> bytes:
    """A frame's body: an object in one line of JSON, and octets."""
    return json.dumps(head).encode() + b"\n" + body


def unpacked(data: bytes) -> tuple[dict[str, Any], bytes]:
    """
    What `packed` has put together.

    Raises:
        ValueError: it has not.
    """
    head, _, body = data.partition(b"\n")
    found = json.loads(head)
    if not isinstance(found, dict):
        raise ValueError("a frame without an object")
    return found, body


class Service:
    """
    Jobs as they come.

    Args:
        client: for webhooks and proof files.
        lookup: for TXT records and addresses.
        bounds: say which addresses are public.
        outward: takes the answers.
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
        Work until the parent is gone, or has no more to do.

        Raises:
            IncompleteReadError: so it is.
            ValueError: it is out of step.
        """
        while True:
            size, number, what = HEAD.unpack(await inward.readexactly(HEAD.size))
            if size > MAX_BODY:
                raise ValueError(f"a job of {size} octets, limit is {MAX_BODY}")
            body = await inward.readexactly(size)
            task = asyncio.create_task(self._answer(number, what, body))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, number: int, what: int, body: bytes) -> None:
        try:
            answer, found = DONE, await self._work(what, body)
        except FetchError as exc:
            answer, found = REFUSED if exc.refused else FAILED, str(exc).encode(errors="replace")
        except Exception as exc:  # the job's fault or ours: the next may do well
            answer, found = FAILED, f"{type(exc).__name__}: {exc}".encode(errors="replace")[:1000]
        self.send(number, answer, found)

    async def _work(self, what: int, body: bytes) -> bytes:
        from urlguard.fetch import leads, proof

        head, data = unpacked(body)
        if what == WEBHOOK:
            return _shown(await self._client.post(head["url"], data, head["headers"]))
        if what == PROOF:
            return _shown(await proof.file(self._client, head["name"]))
        if what == TXT:
            return packed({"txt": await proof.txt(self._lookup, head["name"])})
        if what == ADDRESSES:
            asked = head["names"][:MAX_NAMES]
            return packed({"addresses": await leads.addresses(self._lookup, asked, self._public)})
        raise FetchError(f"job {what}: must be from {WEBHOOK} to {ADDRESSES}", refused=True)

    def send(self, number: int, answer: int, body: bytes = b"") -> None:
        """Send a frame; what waits to be read is as much as there are jobs, so it is not much."""
        self._outward.write(HEAD.pack(len(body), number, answer) + body)


def _shown(found: Fetched) -> bytes:
    return packed({"status": found.status, "scheme": found.scheme}, found.body)


async def _serve(
    inward: IO[bytes],
    outward: IO[bytes],
    upstreams: tuple[Upstream, ...],
    ca_file: Path | None,
    bounds: Bounds,
) -> None:
    from urlguard.fetch import leads, proof  # noqa: F401, for later, when no file can be read
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
        writer.write(HEAD.pack(len(problem), 0, FAILED) + problem)
        writer.close()
        return
    "example.org".encode("idna")  # the codec that TLS wants for the name, imported by its first use
    sandbox.enter(NICE)
    service = Service(client, lookup, bounds, writer)
    service.send(0, READY)
    with contextlib.suppress(asyncio.IncompleteReadError):
        await service.run(reader)


def main() -> int:
    """Entry point of the fetching process."""
    lifetime.die_with_parent()
    # The control process ends its child; a terminal's Ctrl-C is for the supervisor.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    upstreams, ca_file, bounds = child.read_startup()
    # Whatever a library prints must not get between the frames.
    outward = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    inward = os.fdopen(0, "rb", buffering=0)
    asyncio.run(_serve(inward, outward, upstreams, ca_file, bounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
