"""
The judges' side of the control process: verdicts without work on its event loop.

Whoever wants verdicts awaits `Judges.check`, `Judges.messages` or `Judges.intake`; the work is done
by children, see `judging`.  Knows jobs, queues and processes; knows nothing of policy or models.

How it works.  A request becomes jobs: one that fits into one piece is a single, urgent job, and a
long one is cut into many, of which each judge has one at a time, those of several requests in turn.
Urgent jobs are sent at once, and a judge does them between two pieces of a long one, so that an
analyst's question waits for some milliseconds while a crawler's thousands are worked on.  Requests
are put into words, and answers taken apart, job by job, so that the loop is never held up for long.

Who asks for more than the judges can do in `QUEUE_S` is told to come back.  A judge that dies, or
is over its time, is replaced; its jobs are tried once more, each alone with a judge, so that one
which kills judges takes no other with it.  Judges are started by the first request, or a moment
after the server, whichever is sooner: a server that is not asked does not pay for them.
"""

import asyncio
import contextlib
import functools
import itertools
import json
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

from urlguard import events
from urlguard.cases import ndjson
from urlguard.cases.ndjson import Intake
from urlguard.config import Config
from urlguard.control import verdict_process
from urlguard.control.verdict_process import HEAD
from urlguard.errors import UrlGuardError
from urlguard.processes import child as process

T = TypeVar("T")

QUEUE_S: Final = 8.0  # of work that may wait, by the costs below
QUEUE_OCTETS: Final = 64 << 20  # of requests that wait
MAX_URGENT: Final = 512  # jobs that wait
JOB_S: Final = 15.0  # for a job of some 40 ms, on a machine that has better to do
START_S: Final = 60.0  # for a judge until it is at work
PATIENCE_S: Final = 60.0  # for a request from its beginning to its end
WARM_S: Final = 5.0  # after which judges are started without being asked for
BACKOFF_S: Final = (0.0, 0.2, 1.0, 5.0)  # before a judge's next start, by failures in a row
EXIT_S: Final = 1.0  # for a judge that has closed its pipes
SENT: Final = 8  # urgent jobs that one judge has at once

# What a job holds at most, so that it takes some 40 ms; and what each thing costs, in seconds.
ITEMS, EXPLAINED, TEXTS, LETTERS, OCTETS = 500, 10, 64, 32_768, 65_536
_ITEM_S, _WHY_S, _TEXT_S, _LINES_S = 80e-6, 5e-3, 2e-4, 4e-7  # the last for an octet


class BusyError(UrlGuardError):
    """Too much is waiting; ``retry_after_s`` says when to ask again."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"too many checks are waiting; try again in {retry_after_s:g} s")
        self.retry_after_s = retry_after_s


class JudgeError(UrlGuardError):
    """There is no verdict: the judges cannot work, or cannot do with what they got."""

    retry_after_s = 5.0


class _Job(Generic[T]):
    """A piece of a request; ``make`` puts it into words when it is sent."""

    def __init__(
        self,
        what: int,
        size: int,
        cost_s: float,
        make: Callable[[], bytes],
        read: Callable[[bytes], T],
    ) -> None:
        self.what = what
        self.size = size  # characters or octets
        self.cost_s = cost_s
        self.make = make
        self.read = read
        self.done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.tried = False  # by a judge that died of it, or beside it

    @property
    def urgent(self) -> bool:
        return bool(self.what & verdict_process.URGENT)

    def fail(self, problem: str) -> None:
        if not self.done.done():
            self.done.set_exception(JudgeError(problem))
            self.done.exception()  # told, also if nobody waits any more


class _Judge:
    """One child and what it has to do."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ready = False
        self.alone = False  # has a job that is tried again
        self.failures = 0  # to start, in a row
        self.problem = ""  # why the last one was ended
        self.jobs: dict[int, tuple[_Job[Any], asyncio.TimerHandle]] = {}
        self._child: asyncio.subprocess.Process | None = None
        self._count = 0

    @property
    def broken(self) -> bool:
        """True if it fails again and again, and is not at work now."""
        return self.failures > 1 and not self.ready

    @property
    def bulk(self) -> bool:
        """True if it has a job that is not urgent."""
        return any(not job.urgent for job, _ in self.jobs.values())

    @property
    def pid(self) -> int | None:
        """The child's, while there is one."""
        return None if self._child is None else self._child.pid

    async def start(self, config: Config) -> asyncio.StreamReader:
        """
        Start a child.

        Raises:
            OSError: that cannot be.
        """
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-m", "urlguard.control.verdict_process"]
        self.problem = ""
        self._child = child = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, limit=1 << 20
        )
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(process.startup_message((config, self.number)))
        return child.stdout

    def send(self, job: _Job[Any], limit_s: float) -> None:
        """Hand it a job; it is killed if that takes longer than `limit_s`."""
        assert self._child is not None
        assert self._child.stdin is not None
        self._count = self._count % 0xFFFFFFFF + 1
        body = job.make()
        timer = asyncio.get_running_loop().call_later(limit_s, self._hung, limit_s)
        self.jobs[self._count] = (job, timer)
        # What it was not sent before is in few jobs: nothing piles up here.
        self._child.stdin.write(HEAD.pack(len(body), self._count, job.what) + body)

    def answered(self, number: int, what: int, body: bytes) -> None:
        """Take an answer."""
        job, timer = self.jobs.pop(number)
        timer.cancel()
        self.alone = False
        if job.done.done():
            return  # whoever asked has gone
        if what != verdict_process.DONE:
            job.fail(body.decode(errors="replace"))
            return
        try:
            job.done.set_result(job.read(body))
        except ValueError as exc:
            job.fail(f"a judge's answer cannot be read: {exc}")

    def _hung(self, limit_s: float) -> None:
        self.problem = f"a job took more than {limit_s:g} s"
        self.kill()

    def kill(self) -> None:
        """End the child at once."""
        if self._child is not None and self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()

    async def end(self, exiting: bool) -> tuple[int | None, list[_Job[Any]]]:
        """
        End the child, at once unless it is `exiting` by itself.

        Returns:
            Its exit code, and the jobs that it has not done.
        """
        code = None
        self.ready = self.alone = False
        if self._child is not None:
            # To kill what is dead already would take its exit code from whoever waits for it.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXIT_S if exiting else 0):
                    await self._child.wait()
            self.kill()
            code = await self._child.wait()
            self._child = None
        left = []
        for job, timer in self.jobs.values():
            timer.cancel()
            left.append(job)
        self.jobs.clear()
        return code, left


class Judges:
    """
    Those who give verdicts.

    Args:
        config: whose policy and models.
        count: of children; 0: one for each core that may be used, at most 2.
        limit_s: for one job.
        warm_s: after which children are started without being asked for.
    """

    def __init__(
        self, config: Config, count: int = 0, *, limit_s: float = JOB_S, warm_s: float = WARM_S
    ) -> None:
        self._config = config
        self._limit_s = limit_s
        self._warm_s = warm_s
        count = count or min(2, len(os.sched_getaffinity(0)))
        self._judges = [_Judge(number) for number in range(count)]
        self._wanted = asyncio.Event()
        self._urgent: deque[_Job[Any]] = deque()
        self._bulk: deque[deque[_Job[Any]]] = deque()  # of several requests, in turn
        self._again: deque[_Job[Any]] = deque()
        self._cost_s = 0.0  # of long requests that are not done
        self._octets = 0

    @property
    def pids(self) -> list[int]:
        """The children's."""
        return [judge.pid for judge in self._judges if judge.pid is not None]

    async def run(self) -> None:
        """Keep the children alive, until cancelled."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wanted.wait(), self._warm_s)
        try:
            async with asyncio.TaskGroup() as group:
                for judge in self._judges:
                    group.create_task(self._keep(judge))
        finally:
            self._give_up("the server ends")

    async def check(
        self, items: Sequence[str], *, why: bool = False, score: bool = False
    ) -> list[bytes]:
        """
        Verdicts on names, URLs and addresses.

        Args:
            items: as somebody typed or found them.
            why: explain them, which takes milliseconds each.
            score: run the models on every item, also where a rule decides.

        Returns:
            The object of ``urlguard check --json`` for each item, in order, as ASCII.

        Raises:
            BusyError: too much is waiting.
            JudgeError: no judge can work, or none can do with this.
        """
        what = verdict_process.CHECK | verdict_process.WHY * why | verdict_process.SCORE * score
        single, most = (
            (verdict_process.EXPLAINED, EXPLAINED) if why else (verdict_process.ITEMS, ITEMS)
        )
        each_s = _WHY_S if why else _ITEM_S
        jobs = [
            _Job(what, size, len(part) * each_s, functools.partial(_as_json, part), _objects)
            for part, size in _parts(items, most)
        ]
        urgent = len(items) <= single
        found = await self._done(jobs, urgent)
        return list(itertools.chain.from_iterable(found))

    async def messages(self, texts: Sequence[str]) -> list[bytes]:
        """
        What messages lead to.

        Returns:
            For each text a JSON object as ASCII, without its first brace: ``action``, the strictest
            of all, and in ``found`` what `urlguard.messages.find` finds: ``start``, ``end``,
            ``text`` as written, ``item``, and ``verdict``, the item's object as of `check`.

        Raises:
            BusyError: too much is waiting.
            JudgeError: no judge can work, or none can do with this.
        """
        jobs = [
            _Job(
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
        found = await self._done(jobs, urgent)
        return list(itertools.chain.from_iterable(found))

    async def intake(self, data: bytes) -> Intake:
        """
        Candidates out of lines of JSON, see `urlguard.cases.ndjson`.

        Args:
            data: whole lines; the last one may lack its end.

        Raises:
            BusyError: too much is waiting.
            JudgeError: no judge can work.
        """
        jobs = [
            _Job(
                verdict_process.INTAKE,
                end - start,
                (end - start) * _LINES_S,
                functools.partial(_slice, data, start, end),
                ndjson.decoded,
            )
            for start, end in _cuts(data, OCTETS)
        ]
        urgent = len(data) <= verdict_process.OCTETS
        return ndjson.joined(await self._done(jobs, urgent))

    async def _done(self, jobs: list[_Job[T]], urgent: bool) -> list[T]:
        """The results of a request's jobs, in order."""
        if not jobs:
            return []
        self._wanted.set()
        if all(judge.broken for judge in self._judges):
            raise JudgeError("no judge can be started; the server's log says why")
        cost_s = sum(job.cost_s for job in jobs)
        octets = sum(job.size for job in jobs)
        self._admit(urgent, cost_s, octets)
        if urgent:
            jobs[0].what |= verdict_process.URGENT
            self._urgent.append(jobs[0])
        else:
            self._bulk.append(deque(jobs))
            self._cost_s += cost_s
            self._octets += octets
        self._dispatch()
        try:
            async with asyncio.timeout(PATIENCE_S):
                # As they end; the first that fails ends all.
                return list(await asyncio.gather(*(job.done for job in jobs)))
        except TimeoutError:
            raise JudgeError(f"no verdict within {PATIENCE_S:g} s") from None
        finally:
            for job in jobs:
                job.done.cancel()
            if not urgent:
                self._cost_s -= cost_s
                self._octets -= octets

    def _admit(self, urgent: bool, cost_s: float, octets: int) -> None:
        """Raise BusyError if there is too much already; what is alone is always taken."""
        if urgent:
            if len(self._urgent) >= MAX_URGENT:
                raise BusyError(1.0)
            return
        count = len(self._judges)
        too_long = self._cost_s and (self._cost_s + cost_s) / count > QUEUE_S
        if too_long or (self._octets and self._octets + octets > QUEUE_OCTETS):
            raise BusyError(float(max(1, math.ceil(self._cost_s / count))))

    def _dispatch(self) -> None:
        """Hand out what can be handed out."""
        # The least busy first, which matters to urgent jobs alone.
        for judge in sorted(self._judges, key=lambda judge: len(judge.jobs)):
            while judge.ready and not judge.alone and (job := self._next(judge)) is not None:
                judge.send(job, self._limit_s)

    def _next(self, judge: _Judge) -> _Job[Any] | None:
        """The next job for a judge that may have more."""
        if _first(self._again) is not None:
            if judge.jobs:
                return None  # one of the judges has to be alone with it
            judge.alone = True
            return self._again.popleft()
        if len(judge.jobs) < SENT and _first(self._urgent) is not None:
            return self._urgent.popleft()
        if judge.bulk:
            return None
        while self._bulk:
            request = self._bulk.popleft()
            if (job := _first(request)) is not None:
                request.popleft()
                self._bulk.append(request)
                return job
        return None

    async def _keep(self, judge: _Judge) -> None:
        """Start a child again whenever it has ended."""
        while True:
            problem, exiting = "", False
            try:
                await self._serve(judge)
            except asyncio.IncompleteReadError:
                problem, exiting = judge.problem, True
            except TimeoutError:
                problem = f"was not ready within {START_S:g} s"
            except Exception as exc:  # whatever it is, the next one may do
                problem = repr(exc)
            finally:
                judge.failures = 0 if judge.ready else judge.failures + 1
                code, left = await judge.end(exiting)
                for job in left:
                    self._retry(job)
            events.error("judge.died", judge=judge.number, exit=code, jobs=len(left), error=problem)
            if all(one.broken for one in self._judges):
                self._give_up("no judge can be started; the server's log says why")
            self._dispatch()
            await asyncio.sleep(BACKOFF_S[min(judge.failures, len(BACKOFF_S) - 1)])

    async def _serve(self, judge: _Judge) -> None:
        """
        Start a child and take its answers, until it ends.

        Raises:
            IncompleteReadError: it has.
            TimeoutError: it was not ready in time.
            ValueError: it says what cannot be.
        """
        answers = await judge.start(self._config)
        async with asyncio.timeout(START_S):
            await _frame(answers)
        judge.ready = True
        while True:
            self._dispatch()
            judge.answered(*await _frame(answers))

    def _retry(self, job: _Job[Any]) -> None:
        """What becomes of a job whose judge has died."""
        if job.tried:
            job.fail("two judges died of it, or took too long")
        elif not job.done.done():
            job.tried = True
            self._again.append(job)

    def _give_up(self, problem: str) -> None:
        """Nobody will do what waits."""
        for queue in (self._urgent, self._again, *self._bulk):
            for job in queue:
                job.fail(problem)
            queue.clear()
        self._bulk.clear()


async def _frame(answers: asyncio.StreamReader) -> tuple[int, int, bytes]:
    size, number, what = HEAD.unpack(await answers.readexactly(HEAD.size))
    if size > verdict_process.MAX_BODY:
        raise ValueError(f"an answer of {size} octets")
    return number, what, await answers.readexactly(size)


def _first(queue: "deque[_Job[Any]]") -> _Job[Any] | None:
    """The first job that somebody still waits for; those before it are dropped."""
    while queue:
        if not queue[0].done.done():
            return queue[0]
        queue.popleft()
    return None


def _parts(texts: Sequence[str], most: int) -> Iterator[tuple[Sequence[str], int]]:
    """Texts in parts of so many and of about `LETTERS` characters, each with its size."""
    for at in range(0, len(texts), most):
        part = texts[at : at + most]
        size = sum(map(len, part))
        # Long texts are few; by themselves they are never too long for a judge.
        each = len(part) if size <= LETTERS else max(1, len(part) * LETTERS // size)
        for begin in range(0, len(part), each):
            yield part[begin : begin + each], size * each // len(part)


def _cuts(data: bytes, size: int) -> Iterator[tuple[int, int]]:
    """Where to cut lines into parts of about a size, at their ends."""
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
