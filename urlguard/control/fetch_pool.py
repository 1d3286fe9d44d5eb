"""
The fetch pool: webhooks sent, proofs read and names looked up by a process of its own, so that the
control process never connects to third-party servers.

Callers await `FetchPool.post_webhook`, `proof_file`, `txt` or `addresses`.  Knows jobs and their
queue; the child is in `fetch_process`, and `urlguard.processes.child_pool` keeps it running.  Knows
nothing of HTTP, of who may set a webhook, or of what a proof must say.

How it works.  The child is started by the first job and ended after `IDLE_S` without one.  If it
dies or hangs, a proof or look-up under way is tried once more.  A webhook is not: it may have
arrived, and its sender retries by a schedule.

Webhooks, proofs and look-ups have separate limits on how many are under way, so slow receivers of
webhooks do not delay proofs, nor vice versa.  If too many wait, `FetchBusyError` is raised.
"""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from urlguard.config import Config
from urlguard.control import fetch_process
from urlguard.errors import UrlGuardError
from urlguard.fetch.bounds import LOOKUP_S, RULES, Bounds, Fetched, FetchError
from urlguard.processes.child_pool import Child, ChildPool, Job
from urlguard.system_resolvers import system_resolvers

SLOTS: Final = 8  # webhooks, and proofs, that are under way
BATCHES: Final = 1  # of look-ups that are under way: many names each
MAX_WAITING: Final = 128  # of webhooks, of proofs, and of batches of look-ups
RETRY_S: Final = 10.0  # after which to ask again
TIMEOUT_S: Final = 90.0  # for a job, with the time that it waits
GRACE_S: Final = 5.0  # beyond a job's own limit, after which the child counts as hung
START_S: Final = 30.0  # for a child until it has started
IDLE_S: Final = 300.0  # without a job, after which the child is ended

# The variables that the child gets of our environment; any other may hold a secret.
KEPT: Final = (
    "LANG LC_ALL LD_LIBRARY_PATH PATH PYTHONHOME PYTHONPATH SSL_CERT_DIR SSL_CERT_FILE".split()
)


class FetchBusyError(UrlGuardError):
    """Too much is waiting; ``retry_after_s`` says when to ask again."""

    retry_after_s = RETRY_S

    def __init__(self) -> None:
        super().__init__(f"too much is waiting to be fetched; try again in {RETRY_S:g} s")


class _FetchJob(Job[bytes]):
    """One thing to fetch."""

    def __init__(self, lane: "_Lane", kind: int, body: bytes, limit_s: float) -> None:
        super().__init__(kind, limit_s)
        self.lane = lane
        self.body = body

    def encode(self) -> bytes:
        return self.body

    def decode(self, body: bytes) -> bytes:
        return body

    def error(self, problem: str, refused: bool) -> FetchError:
        return FetchError(problem, refused=refused)


class _Lane:
    """
    Jobs of one kind that wait.

    Args:
        slots: how many may be under way.
        retry: if the child dies, they may be tried once more.
    """

    def __init__(self, slots: int, *, retry: bool) -> None:
        self.slots = slots
        self.retry = retry
        self.waiting: deque[_FetchJob] = deque()


class _FetchQueue:
    """The jobs of all lanes."""

    def __init__(self, lanes: Sequence[_Lane]) -> None:
        self._lanes = lanes

    def next(self, child: Child[_FetchJob]) -> _FetchJob | None:
        """The next job of a lane with a free slot; see `child_pool.Queue`."""
        sent = child.jobs
        for lane in self._lanes:
            free = lane.slots - sum(job.lane is lane for job in sent)
            while free > 0 and lane.waiting:
                job = lane.waiting.popleft()
                if not job.done.done():
                    return job
        return None

    def waiting(self) -> bool:
        """True if there are jobs."""
        return any(lane.waiting for lane in self._lanes)

    def lost(self, job: _FetchJob) -> None:
        """Retry a job whose child has died, if it may be retried."""
        if job.lane.retry and not job.retried:
            job.retried = True
            if not job.done.done():
                job.lane.waiting.appendleft(job)
        else:
            job.fail("the fetch process ended; whether it has arrived is not known")

    def fail(self, problem: str) -> None:
        """Fail all jobs that wait."""
        for lane in self._lanes:
            for job in lane.waiting:
                job.fail(problem)
            lane.waiting.clear()


class FetchPool:
    """
    Fetches by a child process.

    Args:
        config: whose upstreams are asked.
        bounds: the rules; a server has no others than the default.
        idle_s: without a job, after which the child is ended.
        grace_s: beyond a job's own limit, after which the child is killed.
    """

    def __init__(
        self,
        config: Config,
        *,
        bounds: Bounds = RULES,
        idle_s: float = IDLE_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self._config = config
        self._bounds = bounds
        self._grace_s = grace_s
        self._webhooks = _Lane(SLOTS, retry=False)
        self._proofs = _Lane(SLOTS, retry=True)
        self._lookups = _Lane(BATCHES, retry=True)
        self._pool: ChildPool[_FetchJob] = ChildPool(
            "fetch",
            "urlguard.control.fetch_process",
            self._startup,
            _FetchQueue((self._webhooks, self._proofs, self._lookups)),
            max_body=fetch_process.MAX_BODY,
            start_s=START_S,
            idle_s=idle_s,
            env=_environment,
        )

    @property
    def pid(self) -> int | None:
        """The child's process ID, while there is one."""
        return self._pool.children[0].pid

    async def run(self) -> None:
        """Keep a child running while there are jobs, until cancelled."""
        await self._pool.run()

    def _startup(self, _: int) -> object:
        forward = self._config.forward
        upstreams = forward.endpoints or tuple(system_resolvers(self._config.server.listen))
        return upstreams, forward.ca_file, self._bounds

    async def post_webhook(self, url: str, body: bytes, headers: Mapping[str, str]) -> Fetched:
        """
        Send a webhook, once.

        Args:
            url: over HTTPS, to a public address.
            body: at most `urlguard.fetch.bounds.MAX_SENT` octets.
            headers: among them those of `urlguard.fetch.signing.sign`.

        Returns:
            The answer's status, other than a redirect's, and the beginning of its body.

        Raises:
            FetchError: there is no answer; with `refused` there never will be one.
            FetchBusyError: too much is waiting.
        """
        job = fetch_process.packed({"url": url, "headers": dict(headers)}, body)
        limit_s = self._bounds.total_s
        return _fetched(await self._result(self._webhooks, fetch_process.WEBHOOK, job, limit_s))

    async def proof_file(self, name: str) -> Fetched:
        """
        The proof file of a domain, over HTTPS or else HTTP.

        Returns:
            Status 200 and at most `urlguard.fetch.bounds.MAX_PROOF` octets.

        Raises:
            FetchError: there is none.
            FetchBusyError: too much is waiting.
        """
        job = fetch_process.packed({"name": name})
        limit_s = 2 * self._bounds.total_s
        return _fetched(await self._result(self._proofs, fetch_process.PROOF, job, limit_s))

    async def txt(self, name: str) -> list[str]:
        """
        The TXT records at ``_urlguard.NAME``, none if there is no such name.

        Raises:
            FetchError: no upstream has answered.
            FetchBusyError: too much is waiting.
        """
        job = fetch_process.packed({"name": name})
        data = await self._result(self._proofs, fetch_process.TXT, job, LOOKUP_S)
        return [str(text) for text in fetch_process.unpacked(data)[0]["txt"]]

    async def addresses(self, names: Sequence[str]) -> dict[str, list[str]]:
        """
        The public addresses of names, the lowest first; of IPv6 where there are none of IPv4.

        Args:
            names: canonical; those beyond `fetch_process.MAX_NAMES` are left out.

        Returns:
            By name: an empty list if it has no address; no entry if no upstream answered in 5 s.

        Raises:
            FetchError: no upstream could be asked.
            FetchBusyError: too much is waiting.
        """
        job = fetch_process.packed({"names": list(names[: fetch_process.MAX_NAMES])})
        data = await self._result(self._lookups, fetch_process.ADDRESSES, job, LOOKUP_S)
        found = fetch_process.unpacked(data)[0]["addresses"]
        return {str(name): [str(one) for one in those] for name, those in found.items()}

    async def _result(self, lane: _Lane, kind: int, body: bytes, limit_s: float) -> bytes:
        """The child's answer to a job."""
        if self._pool.closed:
            raise FetchError("the server ends")
        if len(body) > fetch_process.MAX_BODY:
            raise FetchError(
                f"{len(body)} octets to fetch with, limit is {fetch_process.MAX_BODY}", refused=True
            )
        if len(lane.waiting) >= MAX_WAITING:
            raise FetchBusyError
        job = _FetchJob(lane, kind, body, limit_s + self._grace_s)
        lane.waiting.append(job)
        self._pool.wake()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await job.done
        except TimeoutError:
            raise FetchError(f"not fetched within {TIMEOUT_S:g} s") from None
        finally:
            job.done.cancel()
            with contextlib.suppress(ValueError):
                lane.waiting.remove(job)


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in KEPT if name in os.environ}


def _fetched(data: bytes) -> Fetched:
    head, body = fetch_process.unpacked(data)
    return Fetched(int(head["status"]), body, str(head["scheme"]))
