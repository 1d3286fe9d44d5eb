"""
Child processes that do jobs for this process, kept running.

A pool starts its children, sends them jobs and passes on their answers; it restarts a child that
dies, and kills one that takes too long for a job.  Its `Queue` chooses the next job for a child and
receives back the jobs that a dead child has not done.  Knows frames and processes; knows nothing of
what a job is about.

How it works.  Children start when the first job comes, or after `warm_s`.  A child reads its
startup message and then jobs from its standard input, and writes frames to its standard output; see
`frames`.  After a failure the next start waits for `BACKOFF_S`.  With `idle_s`, a child without
jobs is ended by closing its standard input, and started again by the next job.
"""

import asyncio
import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, Protocol, TypeVar

from urlguard import events
from urlguard.processes import child, frames

BACKOFF_S: Final = (0.0, 0.2, 1.0, 5.0)  # before the next start, by failed starts in a row
EXIT_S: Final = 1.0  # for a child that has closed its pipes

T = TypeVar("T")


class Job(ABC, Generic[T]):
    """
    A job for a child.  ``done`` is its result, or the error; cancel it if nobody waits any more.

    Args:
        kind: 0 to 255; defined by the child.
        limit_s: after so many seconds the child counts as hung and is killed.
    """

    def __init__(self, kind: int, limit_s: float) -> None:
        self.kind = kind
        self.limit_s = limit_s
        self.retried = False  # a child died with it
        self.done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    @abstractmethod
    def encode(self) -> bytes:
        """The body of its frame; called when the job is sent."""

    @abstractmethod
    def decode(self, body: bytes) -> T:
        """The result in an answer; raises ValueError if it is none."""

    @abstractmethod
    def error(self, problem: str, refused: bool) -> Exception:
        """The exception for a job that has failed."""

    def answered(self, kind: int, body: bytes) -> None:
        """Set the result from an answer's frame."""
        if self.done.done():
            return
        if kind != frames.DONE:
            self.fail(body.decode(errors="replace"), refused=kind == frames.REFUSED)
            return
        try:
            self.done.set_result(self.decode(body))
        except ValueError as exc:
            self.fail(f"the answer cannot be read: {exc}")

    def fail(self, problem: str, *, refused: bool = False) -> None:
        """Set the error, unless the job is done."""
        if not self.done.done():
            self.done.set_exception(self.error(problem, refused))
            self.done.exception()  # retrieved: no warning if nobody waits any more


J = TypeVar("J", bound=Job[Any])


class Queue(Protocol[J]):
    """The jobs that wait."""

    def next(self, child: "Child[J]") -> J | None:
        """Remove the next job for a child that has started; None: it must not have one now."""

    def waiting(self) -> bool:
        """True if there are jobs."""

    def lost(self, job: J) -> None:
        """Queue a job again, or fail it: its child has died.  ``job.done`` may be done."""

    def fail(self, problem: str) -> None:
        """Fail all jobs that wait."""


class Child(Generic[J]):
    """One child process and its jobs."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ready = False  # has started and takes jobs
        self.failures = 0  # to start, in a row
        self.problem = ""  # why it was killed
        self._process: asyncio.subprocess.Process | None = None
        self._jobs: dict[int, tuple[J, asyncio.TimerHandle]] = {}
        self._last = 0  # job's number
        self._rest: asyncio.TimerHandle | None = None

    @property
    def jobs(self) -> list[J]:
        """The jobs that it has not answered."""
        return [job for job, _ in self._jobs.values()]

    @property
    def busy(self) -> int:
        """How many jobs it has."""
        return len(self._jobs)

    @property
    def broken(self) -> bool:
        """True if it could not be started again and again."""
        return self.failures > 1 and not self.ready

    @property
    def pid(self) -> int | None:
        """The process's ID, while there is one."""
        return None if self._process is None else self._process.pid

    async def start(
        self, module: str, startup: object, env: Mapping[str, str] | None
    ) -> asyncio.StreamReader:
        """
        Start the process; returns its standard output.

        Raises:
            OSError: it cannot be started.
        """
        pipe = asyncio.subprocess.PIPE
        self.problem = ""
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module), stdin=pipe, stdout=pipe, limit=1 << 20, env=env
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(child.startup_message(startup))
        return process.stdout

    def send(self, job: J) -> None:
        """Send a job; the process is killed if the answer takes longer than ``job.limit_s``."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._last = self._last % 0xFFFFFFFF + 1
        body = job.encode()
        timer = asyncio.get_running_loop().call_later(job.limit_s, self._hung, job.limit_s)
        self._jobs[self._last] = (job, timer)
        # Queues send few jobs at once, so what is not written yet is bounded.
        self._process.stdin.write(frames.pack(self._last, job.kind, body))

    def answered(self, number: int, kind: int, body: bytes) -> None:
        """
        Pass an answer on.

        Raises:
            KeyError: there is no job of that number.
        """
        job, timer = self._jobs.pop(number)
        timer.cancel()
        job.answered(kind, body)

    def rest_after(self, idle_s: float) -> None:
        """End the process if it has no job for so long from now."""
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if self.ready and not self._jobs:
            self._rest = asyncio.get_running_loop().call_later(idle_s, self._end_idle)

    def _end_idle(self) -> None:
        self.ready = False
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def _hung(self, limit_s: float) -> None:
        self.problem = f"a job took more than {limit_s:g} s"
        self.kill()

    def kill(self) -> None:
        """Kill the process, if it runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def end(self, exiting: bool) -> tuple[int | None, list[J]]:
        """
        End the process; at once, unless it is `exiting` by itself.

        Returns:
            Its exit code, and the jobs that it has not done.
        """
        code = None
        self.ready = False
        if self._rest is not None:
            self._rest.cancel()
        if self._process is not None:
            # Killing a process that is dead already would take its exit code from `wait`.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXIT_S if exiting else 0):
                    await self._process.wait()
            self.kill()
            code = await self._process.wait()
            self._process = None
        left = []
        for job, timer in self._jobs.values():
            timer.cancel()
            left.append(job)
        self._jobs.clear()
        return code, left


class ChildPool(Generic[J]):
    """
    Keeps children running and sends them jobs.

    Args:
        name: of the children, in events.
        module: is run by each child.
        startup: gives the startup message of the child with a number from 0, at each start.
        queue: the jobs.
        count: of children.
        max_body: octets of an answer.
        start_s: until a child must have started.
        warm_s: after which children start without a job; None: the first job starts them.
        idle_s: without a job, after which a child is ended; None: never.
        env: a child's environment; None: this process's.
    """

    def __init__(
        self,
        name: str,
        module: str,
        startup: Callable[[int], object],
        queue: Queue[J],
        *,
        count: int = 1,
        max_body: int,
        start_s: float,
        warm_s: float | None = None,
        idle_s: float | None = None,
        env: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        self._name = name
        self._module = module
        self._startup = startup
        self._queue = queue
        self._max_body = max_body
        self._start_s = start_s
        self._warm_s = warm_s
        self._idle_s = idle_s
        self._env = env
        self._wanted = asyncio.Event()
        self.children: list[Child[J]] = [Child(number) for number in range(count)]
        self.closed = False  # `run` has ended

    @property
    def broken(self) -> bool:
        """True if no child can be started."""
        return all(child.broken for child in self.children)

    @property
    def pids(self) -> list[int]:
        """The children's process IDs."""
        return [child.pid for child in self.children if child.pid is not None]

    async def run(self) -> None:
        """Keep the children running, until cancelled."""
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), self._warm_s)
            self._wanted.set()
            async with asyncio.TaskGroup() as group:
                for one in self.children:
                    group.create_task(self._keep(one))
        finally:
            self.closed = True
            self._queue.fail("the server ends")

    def wake(self) -> None:
        """Start children if none are there, and send them jobs: the queue has new ones."""
        self._wanted.set()
        self._dispatch()

    def _dispatch(self) -> None:
        """Send what can be sent, to the least busy child first."""
        for one in sorted(self.children, key=lambda one: one.busy):
            while one.ready and (job := self._queue.next(one)) is not None:
                one.send(job)
            if self._idle_s is not None:
                one.rest_after(self._idle_s)

    async def _keep(self, one: Child[J]) -> None:
        """Restart a child whenever it has ended."""
        while True:
            await self._wanted.wait()
            await self._live(one)
            if self.broken:
                self._queue.fail(f"no {self._name} process can be started; see the server's log")
            if self._idle_s is not None and not self._queue.waiting():
                self._wanted.clear()
            self._dispatch()
            await asyncio.sleep(BACKOFF_S[min(one.failures, len(BACKOFF_S) - 1)])

    async def _live(self, one: Child[J]) -> None:
        """Start a child and pass on its answers, until it ends."""
        problem, started, exiting, idle = "", False, False, False
        try:
            env = None if self._env is None else self._env()
            answers = await one.start(self._module, self._startup(one.number), env)
            async with asyncio.timeout(self._start_s):
                _, kind, body = await frames.read(answers, self._max_body)
            if kind == frames.READY:
                started = one.ready = True
                while True:
                    self._dispatch()
                    one.answered(*await frames.read(answers, self._max_body))
            problem, exiting = body.decode(errors="replace"), True
        except asyncio.IncompleteReadError:
            exiting = True
            idle = started and not one.ready
        except TimeoutError:
            problem = f"was not ready within {self._start_s:g} s"
        except Exception as exc:  # whatever it is, the next start may succeed
            problem = str(exc) or repr(exc)
        finally:
            one.failures = 0 if started else one.failures + 1
            code, left = await one.end(exiting)
            for job in left:
                self._queue.lost(job)
        if not idle:
            events.error(
                "process.died",
                process=f"{self._name} {one.number}",
                exit=code,
                jobs=len(left),
                error=problem or one.problem,
            )
