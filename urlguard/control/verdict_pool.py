"""
The verdict pool: verdicts computed by child processes, not on the control process's event loop.

Callers await `VerdictPool.check`, `messages` or `intake`.  Knows jobs and their queue; the children
are in `verdict_process`, and `urlguard.processes.child_pool` keeps them running.  Knows nothing of
policy or models.

How it works.  A request becomes jobs.  One that fits into a piece is a single, urgent job; a longer
one is cut into many, of which each child has one at a time, those of several requests in turn.
Urgent jobs are sent at once, and a child does them between two pieces of a long one, so an
analyst's question waits for some milliseconds while a crawler's thousands are worked on.  Requests
are encoded, and answers decoded, job by job, so that the event loop is never blocked for long.

A request is refused with `BusyError` if more than `QUEUE_S` of work would wait.  If a child dies or
exceeds its time, its jobs are tried once more, each as the only job of a child, so that a job which
kills children takes no other with it.  Children are started by the first request or `WARM_S` after
the server, whichever is sooner.
"""

import asyncio
import functools
import itertools
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

from urlguard.cases import ndjson
from urlguard.cases.ndjson import Intake
from urlguard.cases.ports import BusyError
from urlguard.config import Config
from urlguard.control import verdict_process
from urlguard.errors import UrlGuardError
from urlguard.processes.child_pool import Child, ChildPool, Job

T = TypeVar("T")

QUEUE_S: Final = 8.0  # of work that may wait, by the costs below
QUEUE_OCTETS: Final = 64 << 20  # of requests that wait
MAX_URGENT: Final = 512  # jobs that wait
JOB_S: Final = 15.0  # limit for a job of some 40 ms: the machine may be busy
START_S: Final = 60.0  # for a child until it has started
TIMEOUT_S: Final = 60.0  # for a request
WARM_S: Final = 5.0  # after which children are started without a request
SENT: Final = 8  # urgent jobs that one child has at once

# What a job holds at most, so that it takes some 40 ms; and the cost of each kind, in seconds.
ITEMS, EXPLAINED, TEXTS, LETTERS, OCTETS = 500, 10, 64, 32_768, 65_536
_ITEM_S, _WHY_S, _TEXT_S, _LINES_S = 80e-6, 5e-3, 2e-4, 4e-7  # the last per octet


class VerdictError(UrlGuardError):
    """There is no verdict: no child can be started, or none can do the job."""

    retry_after_s = 5.0


class _VerdictJob(Job[T]):
    """A piece of a request."""

    def __init__(
        self,
        kind: int,
        size: int,
        cost_s: float,
        encode: Callable[[], bytes],
        decode: Callable[[bytes], T],
    ) -> None:
        super().__init__(kind, JOB_S)
        self.size = size  # characters or octets
        self.cost_s = cost_s
        self._encode = encode
        self._decode = decode

    @property
    def urgent(self) -> bool:
        return bool(self.kind & verdict_process.URGENT)

    def encode(self) -> bytes:
        return self._encode()

    def decode(self, body: bytes) -> T:
        return self._decode(body)

    def error(self, problem: str, refused: bool) -> VerdictError:
        return VerdictError(problem)


class _VerdictQueue:
    """Jobs that wait: retried ones, urgent ones, and those of long requests in turn."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._retried: deque[_VerdictJob[Any]] = deque()
        self._urgent: deque[_VerdictJob[Any]] = deque()
        self._bulk: deque[deque[_VerdictJob[Any]]] = deque()  # one for each request
        self.cost_s = 0.0  # of long requests that are not done
        self.octets = 0

    def add(self, jobs: list[_VerdictJob[Any]], urgent: bool) -> None:
        """
        Queue the jobs of a request.

        Raises:
            BusyError: too much is waiting; a request that is alone is always taken.
        """
        if urgent:
            if len(self._urgent) >= MAX_URGENT:
                raise BusyError(1.0)
            jobs[0].kind |= verdict_process.URGENT
            self._urgent.append(jobs[0])
            return
        cost_s, octets = _size(jobs)
        too_long = self.cost_s and (self.cost_s + cost_s) / self._count > QUEUE_S
        if too_long or (self.octets and self.octets + octets > QUEUE_OCTETS):
            raise BusyError(float(max(1, math.ceil(self.cost_s / self._count))))
        self._bulk.append(deque(jobs))
        self.cost_s += cost_s
        self.octets += octets

    def remove(self, jobs: list[_VerdictJob[Any]], urgent: bool) -> None:
        """Cancel what is not done of a request."""
        for job in jobs:
            job.done.cancel()
        if not urgent:
            cost_s, octets = _size(jobs)
            self.cost_s -= cost_s
            self.octets -= octets

    def next(self, child: Child[_VerdictJob[Any]]) -> _VerdictJob[Any] | None:
        """The next job for a child; see `child_pool.Queue`."""
        jobs = child.jobs
        if any(job.retried for job in jobs):
            return None
        if _first(self._retried) is not None:
            # One of the children must have no other job.
            return None if jobs else self._retried.popleft()
        if len(jobs) < SENT and _first(self._urgent) is not None:
            return self._urgent.popleft()
        if any(not job.urgent for job in jobs):
            return None
        while self._bulk:
            request = self._bulk.popleft()
            if (job := _first(request)) is not None:
                request.popleft()
                self._bulk.append(request)
                return job
        return None

    def waiting(self) -> bool:
        """True if there are jobs."""
        return bool(self._retried or self._urgent or self._bulk)

    def lost(self, job: _VerdictJob[Any]) -> None:
        """Retry a job whose child has died, once."""
        if job.retried:
            job.fail("two processes died with it, or took too long")
        elif not job.done.done():
            job.retried = True
            self._retried.append(job)

    def fail(self, problem: str) -> None:
        """Fail all jobs that wait."""
        for queue in (self._urgent, self._retried, *self._bulk):
            for job in queue:
                job.fail(problem)
            queue.clear()
        self._bulk.clear()


class VerdictPool:
    """
    Verdicts by child processes.

    Args:
        config: the children's policy and models.
        count: of children; 0: one for each core that may be used, at most 2.
        limit_s: for one job.
        warm_s: after which children are started without a request.
    """

    def __init__(
        self, config: Config, count: int = 0, *, limit_s: float = JOB_S, warm_s: float = WARM_S
    ) -> None:
        count = count or min(2, len(os.sched_getaffinity(0)))
        self._limit_s = limit_s
        self._queue = _VerdictQueue(count)
        self._pool: ChildPool[_VerdictJob[Any]] = ChildPool(
            "verdict",
            "urlguard.control.verdict_process",
            lambda number: (config, number),
            self._queue,
            count=count,
            max_body=verdict_process.MAX_BODY,
            start_s=START_S,
            warm_s=warm_s,
        )

    @property
    def children(self) -> list[Child[_VerdictJob[Any]]]:
        """The child processes."""
        return self._pool.children

    @property
    def pids(self) -> list[int]:
        """The children's process IDs."""
        return self._pool.pids

    async def run(self) -> None:
        """Keep the children running, until cancelled."""
        await self._pool.run()

    async def check(
        self, items: Sequence[str], *, why: bool = False, score: bool = False
    ) -> list[bytes]:
        """
        Verdicts on names, URLs and addresses.

        Args:
            items: as typed or found; need not be valid.
            why: explain the scores, which takes milliseconds per item.
            score: run the models on every item, also where a rule decides.

        Returns:
            The object of ``urlguard check --json`` for each item, in order, as ASCII.

        Raises:
            BusyError: too much is waiting.
            VerdictError: no child can be started, or none can do this.
        """
        kind = verdict_process.CHECK | verdict_process.WHY * why | verdict_process.SCORE * score
        single, most = (
            (verdict_process.EXPLAINED, EXPLAINED) if why else (verdict_process.ITEMS, ITEMS)
        )
        each_s = _WHY_S if why else _ITEM_S
        jobs = [
            _VerdictJob(kind, size, len(part) * each_s, functools.partial(_as_json, part), _objects)
            for part, size in _parts(items, most)
        ]
        urgent = len(items) <= single
        found = await self._results(jobs, urgent)
        return list(itertools.chain.from_iterable(found))

    async def messages(self, texts: Sequence[str]) -> list[bytes]:
        """
        Verdicts on what is in messages.

        Returns:
            For each text a JSON object as ASCII, without its first brace: ``action``, the strictest
            of all, and ``found``, the findings of `urlguard.messages.find`: ``start``, ``end``,
            ``text`` as written, ``item``, and ``verdict``, the item's object as of `check`.

        Raises:
            BusyError: too much is waiting.
            VerdictError: no child can be started, or none can do this.
        """
        jobs = [
            _VerdictJob(
                verdict_process.MESSAGES,
                size,
                len(part) * _TEXT_S,
                functools.partial(_as_json, part),
                _objects,
            )
            for part, size in _parts(texts, TEXTS)
        ]
        urgent = (
            len(texts) <= verdict_process.TEXTS and sum(map(len, texts)) <= verdict_process.OCTETS
        )
        found = await self._results(jobs, urgent)
        return list(itertools.chain.from_iterable(found))

    async def intake(self, data: bytes) -> Intake:
        """
        Candidates parsed from lines of JSON; see `urlguard.cases.ndjson`.

        Args:
            data: whole lines; the last one may lack its end.

        Raises:
            BusyError: too much is waiting.
            VerdictError: no child can be started.
        """
        jobs = [
            _VerdictJob(
                verdict_process.INTAKE,
                end - start,
                (end - start) * _LINES_S,
                functools.partial(_slice, data, start, end),
                ndjson.decoded,
            )
            for start, end in _cuts(data, OCTETS)
        ]
        urgent = len(data) <= verdict_process.OCTETS
        return ndjson.joined(await self._results(jobs, urgent))

    async def _results(self, jobs: list[_VerdictJob[T]], urgent: bool) -> list[T]:
        """The results of a request's jobs, in order."""
        if not jobs:
            return []
        if self._pool.broken:
            raise VerdictError("no verdict process can be started; see the server's log")
        for job in jobs:
            job.limit_s = self._limit_s
        self._queue.add(jobs, urgent)
        self._pool.wake()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                # The first job that fails ends the request.
                return list(await asyncio.gather(*(job.done for job in jobs)))
        except TimeoutError:
            raise VerdictError(f"no verdict within {TIMEOUT_S:g} s") from None
        finally:
            self._queue.remove(jobs, urgent)


def _size(jobs: Iterable[_VerdictJob[Any]]) -> tuple[float, int]:
    """The cost of jobs in seconds, and their octets."""
    return sum(job.cost_s for job in jobs), sum(job.size for job in jobs)


def _first(queue: "deque[_VerdictJob[Any]]") -> _VerdictJob[Any] | None:
    """The first job whose result is still awaited; cancelled ones before it are dropped."""
    while queue:
        if not queue[0].done.done():
            return queue[0]
        queue.popleft()
    return None


def _parts(texts: Sequence[str], most: int) -> Iterator[tuple[Sequence[str], int]]:
    """Texts in parts of at most `most` and about `LETTERS` characters, each with its size."""
    for at in range(0, len(texts), most):
        part = texts[at : at + most]
        size = sum(map(len, part))
        # Long texts are few; by themselves they never make a job too long.
        each = len(part) if size <= LETTERS else max(1, len(part) * LETTERS // size)
        for begin in range(0, len(part), each):
            yield part[begin : begin + each], size * each // len(part)


def _cuts(data: bytes, size: int) -> Iterator[tuple[int, int]]:
    """Start and end of parts of about `size` octets that end at line ends."""
    start = 0
    while start < len(data):
        end = data.rfind(b"\n", start, start + size) + 1 or data.find(b"\n", start) + 1
        end = len(data) if not end or start + size >= len(data) else end
        yield start, end
        start = end


def _slice(data: bytes, start: int, end: int) -> bytes:
    return data[start:end]


def _as_json(texts: Iterable[str]) -> bytes:
    # ASCII, so that halves of surrogate pairs pass too.
    return json.dumps(list(texts)).encode()


def _objects(body: bytes) -> list[bytes]:
    return body.split(b"\n")
