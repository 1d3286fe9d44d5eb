"""The child pool: children that answer, fail, hang, die and idle, with a queue of a few lines."""

import asyncio
import contextlib
import os
import signal
import sys
import textwrap
from collections import deque

import pytest

from urlguard import events
from urlguard.processes import child_pool
from urlguard.processes.child_pool import ChildPool, Job

ECHO, FAIL, REFUSE, HANG, EXIT, ENDLESS = 1, 2, 3, 4, 5, 6

# Echoes each body; the startup message is (number, whether to start).
CHILD = """
import os, sys, time
from urlguard.processes import child, frames
number, fit = child.read_startup()
if fit == "crash":
    sys.exit(7)
out = lambda *frame: os.write(1, frames.pack(*frame))
if fit != "yes":
    out(0, frames.FAILED, fit.encode())
    sys.exit(8)
out(0, frames.READY)
while head := sys.stdin.buffer.read(frames.HEAD.size):
    size, job, kind = frames.HEAD.unpack(head)
    body = sys.stdin.buffer.read(size)
    if kind == 1:
        out(job, frames.DONE, b"%d " % os.getpid() + body)
    elif kind == 2:
        out(job, frames.FAILED, body)
    elif kind == 3:
        out(job, frames.REFUSED, body)
    elif kind == 4:
        time.sleep(60)
    elif kind == 5:
        os._exit(9)
    elif kind == 6:
        os.write(1, frames.HEAD.pack(1 << 30, job, frames.DONE))
"""


class Echo(Job[bytes]):
    """A job with a body."""

    def __init__(self, kind, body=b"", limit_s=5.0):
        super().__init__(kind, limit_s)
        self.body = body

    def encode(self):
        return self.body

    def decode(self, body):
        if body.endswith(b"junk"):
            raise ValueError("junk")
        return body

    def error(self, problem, refused):
        return RuntimeError(problem, refused)


class Line:
    """A queue that gives each child one job at a time and retries once."""

    def __init__(self):
        self.jobs = deque()

    def next(self, child):
        while self.jobs and not child.busy:
            job = self.jobs.popleft()
            if not job.done.done():
                return job
        return None

    def waiting(self):
        return bool(self.jobs)

    def lost(self, job):
        if job.retried:
            job.fail("lost twice")
        else:
            job.retried = True
            self.jobs.append(job)

    def fail(self, problem):
        while self.jobs:
            self.jobs.popleft().fail(problem)


@pytest.fixture(autouse=True)
def logged(monkeypatch):
    """The errors that were logged."""
    found = []
    monkeypatch.setattr(events, "error", lambda event, **keys: found.append((event, keys)))
    return found


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """Starts a pool; everything is ended at the end of its block."""
    (tmp_path / "echo_child.py").write_text(textwrap.dedent(CHILD))
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    monkeypatch.setenv("PYTHONPATH", path)

    @contextlib.asynccontextmanager
    async def start(fit=lambda: "yes", **options):
        queue = Line()
        options = {"max_body": 1 << 20, "start_s": 20.0, **options}
        made = ChildPool("echo", "echo_child", lambda number: (number, fit()), queue, **options)
        task = asyncio.create_task(made.run())

        async def ask(*args, **keys):
            job = Echo(*args, **keys)
            queue.jobs.append(job)
            made.wake()
            return await asyncio.wait_for(job.done, 30)

        try:
            yield made, ask
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert made.pids == []
            assert made.closed

    return start


async def until(condition):
    """Wait for something to become true."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_answers(pool, logged):
    """
    Children start with the first job; a result, an error and a refusal come back, in parallel.
    """
    async with pool(count=2) as (made, ask):
        await asyncio.sleep(0.1)
        assert made.pids == []
        found = await asyncio.gather(*(ask(ECHO, b"%d" % n) for n in range(50)))
        assert [body.split()[1] for body in found] == [b"%d" % n for n in range(50)]
        for kind, refused in ((FAIL, False), (REFUSE, True)):
            with pytest.raises(RuntimeError) as caught:
                await ask(kind, b"no")
            assert caught.value.args == ("no", refused)
        with pytest.raises(RuntimeError, match="the answer cannot be read: junk"):
            await ask(ECHO, b"junk")
        await until(lambda: len(made.pids) == 2)
    assert logged == []


async def test_warm(pool):
    """
    Without a job children start after `warm_s`.
    """
    async with pool(warm_s=0.1) as (made, _):
        await until(lambda: made.children[0].ready)


@pytest.mark.parametrize(
    ("kind", "code", "problem"),
    [
        (EXIT, 9, ""),
        (HANG, -signal.SIGKILL, "a job took more than 0.3 s"),
        (ENDLESS, -signal.SIGKILL, "a frame of 1073741824 octets, limit is 1048576"),
    ],
)
async def test_a_child_is_replaced(pool, logged, kind, code, problem):
    """
    One that dies, hangs or breaks the protocol: its job is handed back, and others go on.
    """
    async with pool() as (made, ask):
        first = (await ask(ECHO)).split()[0]
        bad = asyncio.create_task(ask(kind, limit_s=0.3))
        await until(lambda: made.children[0].busy or bad.done())
        good = asyncio.create_task(ask(ECHO))
        with pytest.raises(RuntimeError, match="lost twice"):
            await bad
        assert (await good).split()[0] != first
    died = {"process": "echo 0", "exit": code, "jobs": 1, "error": problem}
    assert logged == [("process.died", died)] * 2


async def test_an_idle_child_is_ended(pool, logged):
    """
    That is no failure, and the next job starts another.
    """
    async with pool(idle_s=0.1) as (made, ask):
        first = (await ask(ECHO)).split()[0]
        await until(lambda: made.pids == [])
        assert (await ask(ECHO)).split()[0] != first
    assert logged == []


@pytest.mark.parametrize(
    ("fit", "code", "problem"), [("crash", 7, ""), ("no file", 8, "no file"), ("slow", -9, None)]
)
async def test_no_child_can_be_started(pool, logged, monkeypatch, fit, code, problem):
    """
    After two attempts the jobs fail; the reason is logged, and later attempts may succeed.
    """
    monkeypatch.setattr(child_pool, "BACKOFF_S", (0.0, 0.05))
    state = ["yes" if fit == "slow" else fit]
    options = {"start_s": 0.001} if fit == "slow" else {}
    async with pool(lambda: state[0], **options) as (made, ask):
        with pytest.raises(RuntimeError, match="no echo process can be started"):
            await ask(ECHO)
        assert made.broken
        made._start_s = 20.0
        state[0] = "yes"
        await until(lambda: made.children[0].ready)
        assert await ask(ECHO)
        assert not made.broken
    problem = "was not ready within 0.001 s" if problem is None else problem
    assert logged[0] == (
        "process.died",
        {"process": "echo 0", "exit": code, "jobs": 0, "error": problem},
    )


async def test_waiting_jobs_fail_at_the_end(pool):
    """
    When the pool ends, a job under way and one that waits both fail.
    """
    async with pool() as (made, ask):
        jobs = [asyncio.create_task(ask(HANG)), asyncio.create_task(ask(ECHO))]
        await until(lambda: made.children[0].busy)
    found = await asyncio.gather(*jobs, return_exceptions=True)
    assert [one.args[0] for one in found] == ["the server ends"] * 2
