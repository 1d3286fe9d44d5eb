"""
The fetching process's side of control: webhooks sent, proofs read and names looked up without
control meeting strangers.

Whoever wants something fetched awaits `Fetcher.post_webhook`, `proof_file`, `txt` or `addresses`;
the work is done by a child, see `fetching`.  Knows jobs, queues and one process; knows nothing of
HTTP, of who may set a webhook, or of what a proof must say.

How it works.  The child is started by the first job, ended after some minutes without one, and
started again if it dies or a job is over its time.  A proof or look-up that was under way is then
tried once more.  A webhook is not: it may have arrived, and whoever sends it has a schedule for
that.

Webhooks, proofs and look-ups have places of their own, so that receivers that let everybody wait do
not hold up owners who prove that a domain is theirs, nor the other way round.  If too many wait for
a place, the next is told to come back.
"""

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from urlguard import events
from urlguard.config import Config, Upstream
from urlguard.control import fetch_process
from urlguard.control.fetch_process import HEAD
from urlguard.errors import UrlGuardError
from urlguard.fetch.bounds import LOOKUP_S, RULES, Bounds, Fetched, FetchError
from urlguard.processes import child as process
from urlguard.system_resolvers import system_resolvers

PLACES: Final = 8  # of webhooks, and of proofs, that are under way
BATCHES: Final = 1  # of look-ups that are under way: many names each
MAX_WAITING: Final = 128  # of webhooks, of proofs, and of batches of look-ups
RETRY_S: Final = 10.0  # after which to ask again
PATIENCE_S: Final = 90.0  # for a job from its beginning to its end
GRACE_S: Final = 5.0  # beyond a job's own time, after which the child hangs
START_S: Final = 30.0  # for a child until it is at work
IDLE_S: Final = 300.0  # without a job, after which it is ended
EXIT_S: Final = 1.0  # for a child that has closed its pipes
BACKOFF_S: Final = (0.0, 0.2, 1.0, 5.0)  # before the next start, by failures in a row

# What the child's environment has of ours; anything else in it may be a secret.
KEPT: Final = (
    "LANG LC_ALL LD_LIBRARY_PATH PATH PYTHONHOME PYTHONPATH SSL_CERT_DIR SSL_CERT_FILE".split()
)


class BusyError(UrlGuardError):
    """Too much is waiting; ``retry_after_s`` says when to ask again."""

    retry_after_s = RETRY_S

    def __init__(self) -> None:
        super().__init__(f"too much is waiting to be fetched; try again in {RETRY_S:g} s")


class _Lane:
    """
    Jobs of one kind: some under way, some waiting.

    Args:
        places: how many are under way at most.
        again: they may be tried once more if the child dies.
    """

    def __init__(self, places: int, *, again: bool) -> None:
        self.places = places
        self.again = again
        self.busy = 0
        self.waiting: deque[_Job] = deque()


class _Job:
    """
    One thing to fetch.

    Args:
        limit_s: after which the child is taken to hang.
    """

    def __init__(self, lane: _Lane, what: int, body: bytes, limit_s: float) -> None:
        self.lane = lane
        self.what = what
        self.body = body
        self.limit_s = limit_s
        self.again = lane.again
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def fail(self, problem: str, *, refused: bool = False) -> None:
        if not self.done.done():
            self.done.set_exception(FetchError(problem, refused=refused))
            self.done.exception()  # told, also if nobody waits any more


class Fetcher:
    """
    Fetches.

    Args:
        config: whose upstreams are asked.
        bounds: the rules; a server has no others than the default.
        idle_s: without a job, after which the child is ended.
        grace_s: beyond a job's own time, after which the child is killed.
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
        self._idle_s = idle_s
        self._grace_s = grace_s
        self._webhooks = _Lane(PLACES, again=False)
        self._proofs = _Lane(PLACES, again=True)
        self._lookups = _Lane(BATCHES, again=True)
        self._lanes = (self._webhooks, self._proofs, self._lookups)
        self._wanted = asyncio.Event()
        self._child: asyncio.subprocess.Process | None = None
        self._ready = False
        self._ended = False
        self._problem = ""  # why the child was ended
        self._jobs: dict[int, tuple[_Job, asyncio.TimerHandle]] = {}
        self._count = 0
        self._rest: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        """The child's, while there is one."""
        return None if self._child is None else self._child.pid

    async def run(self) -> None:
        """Keep a child while there are jobs, until cancelled."""
        failures = 0
        try:
            while True:
                await self._wanted.wait()
                failures = 0 if await self._live() else failures + 1
                if failures > 1:
                    self._give_up("no fetching process can be started; the server's log says why")
                if not any(lane.waiting for lane in self._lanes):
                    self._wanted.clear()
                await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
        finally:
            self._ended = True
            self._give_up("the server ends")

    async def post_webhook(self, url: str, body: bytes, headers: Mapping[str, str]) -> Fetched:
        """
        Send a webhook, once.

        Args:
            url: over HTTPS, to a public address.
            body: at most `urlguard.fetch.bounds.MAX_SENT` octets.
            headers: among them those of `urlguard.fetch.signing.sign`.

        Returns:
            The answer's status, whichever but a redirect's, and the beginning of its body.

        Raises:
            FetchError: there is no answer; with `refused` there never will be one.
            BusyError: too much is waiting.
        """
        job = fetch_process.packed({"url": url, "headers": dict(headers)}, body)
        limit_s = self._bounds.total_s
        return _fetched(await self._done(self._webhooks, fetch_process.WEBHOOK, job, limit_s))

    async def proof_file(self, name: str) -> Fetched:
        """
        The proof file of a domain, over HTTPS or else HTTP.

        Returns:
            Status 200 and at most `urlguard.fetch.bounds.MAX_PROOF` octets, of whatever the
            domain's server gives at that place.

        Raises:
            FetchError: there is none.
            BusyError: too much is waiting.
        """
        job = fetch_process.packed({"name": name})
        limit_s = 2 * self._bounds.total_s
        return _fetched(await self._done(self._proofs, fetch_process.PROOF, job, limit_s))

    async def txt(self, name: str) -> list[str]:
        """
        The TXT records at ``_urlguard.NAME``, none if there is no such name.

        Raises:
            FetchError: nobody could say.
            BusyError: too much is waiting.
        """
        job = fetch_process.packed({"name": name})
        data = await self._done(self._proofs, fetch_process.TXT, job, LOOKUP_S)
        return [str(text) for text in fetch_process.unpacked(data)[0]["txt"]]

    async def addresses(self, names: Sequence[str]) -> dict[str, list[str]]:
        """
        The public addresses of names, the lowest first; of IPv6 where there are none of IPv4.

        Args:
            names: canonical; those beyond `fetching.MAX_NAMES` are left out.

        Returns:
            By name: an empty list if it has none, nothing if nobody could say within 5 s.

        Raises:
            FetchError: nothing could be asked.
            BusyError: too much is waiting.
        """
        job = fetch_process.packed({"names": list(names[: fetch_process.MAX_NAMES])})
        data = await self._done(self._lookups, fetch_process.ADDRESSES, job, LOOKUP_S)
        found = fetch_process.unpacked(data)[0]["addresses"]
        return {str(name): [str(one) for one in those] for name, those in found.items()}

    async def _done(self, lane: _Lane, what: int, body: bytes, limit_s: float) -> bytes:
        """What the child gives for a job."""
        if self._ended:
            raise FetchError("the server ends")
        if len(body) > fetch_process.MAX_BODY:
            raise FetchError(
                f"{len(body)} octets to fetch with, limit is {fetch_process.MAX_BODY}", refused=True
            )
        if len(lane.waiting) >= MAX_WAITING:
            raise BusyError
        job = _Job(lane, what, body, limit_s + self._grace_s)
        lane.waiting.append(job)
        self._wanted.set()
        self._dispatch()
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await job.done
        except TimeoutError:
            raise FetchError(f"not fetched within {PATIENCE_S:g} s") from None
        finally:
            job.done.cancel()
            with contextlib.suppress(ValueError):
                lane.waiting.remove(job)  # nobody waits for it any more

    def _dispatch(self) -> None:
        """Hand out what can be handed out; after `idle_s` without anything, let the child go."""
        if not self._ready:
            return
        for lane in self._lanes:
            while lane.waiting and lane.busy < lane.places:
                job = lane.waiting.popleft()
                if not job.done.done():
                    self._send(job)
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if not self._jobs:
            self._rest = asyncio.get_running_loop().call_later(self._idle_s, self._let_go)

    def _send(self, job: _Job) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        self._count = self._count % 0xFFFFFFFF + 1
        timer = asyncio.get_running_loop().call_later(job.limit_s, self._hung, job.limit_s)
        self._jobs[self._count] = (job, timer)
        job.lane.busy += 1
        # There are few places, so nothing piles up here.
        self._child.stdin.write(HEAD.pack(len(job.body), self._count, job.what) + job.body)

    def _hung(self, limit_s: float) -> None:
        self._problem = f"a job took more than {limit_s:g} s"
        self._kill()

    def _let_go(self) -> None:
        """End a child that has nothing to do: it ends with its standard input."""
        self._ready = False
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.close()

    def _kill(self) -> None:
        if self._child is not None and self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()

    async def _live(self) -> bool:
        """A child's life; False if it never got to work."""
        problem, worked, exiting, resting = "", False, False, False
        try:
            answers = await self._start()
            worked = self._ready = True
            while True:
                self._dispatch()
                self._answered(*await _frame(answers))
        except asyncio.IncompleteReadError:
            exiting = True
            resting = worked and not self._ready
        except TimeoutError:
            problem = f"was not ready within {START_S:g} s"
        except Exception as exc:  # whatever it is, the next one may do
            problem = str(exc) or repr(exc)
        finally:
            self._ready = False
            if self._rest is not None:
                self._rest.cancel()
            code = await self._end(exiting)
            left = self._left()
        if not resting:
            problem = problem or self._problem
            events.error("fetch.died", exit=code, jobs=left, error=problem)
        return worked

    async def _start(self) -> asyncio.StreamReader:
        """
        Start a child, and wait until it is at work.

        Raises:
            FetchError: it says why it cannot be.
            OSError, IncompleteReadError, TimeoutError: it says nothing.
        """
        pipe = asyncio.subprocess.PIPE
        self._problem = ""
        self._child = child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "urlguard.control.fetch_process"),
            stdin=pipe,
            stdout=pipe,
            env={name: os.environ[name] for name in KEPT if name in os.environ},
        )
        assert child.stdin is not None
        assert child.stdout is not None
        forward = self._config.forward
        orders: tuple[tuple[Upstream, ...], Path | None, Bounds] = (
            forward.endpoints or tuple(system_resolvers(self._config.server.listen)),
            forward.ca_file,
            self._bounds,
        )
        child.stdin.write(process.startup_message(orders))
        async with asyncio.timeout(START_S):
            _, answer, body = await _frame(child.stdout)
        if answer != fetch_process.READY:
            raise FetchError(body.decode(errors="replace"))
        return child.stdout

    def _answered(self, number: int, answer: int, body: bytes) -> None:
        """Take an answer."""
        job, timer = self._jobs.pop(number)
        timer.cancel()
        job.lane.busy -= 1
        if answer != fetch_process.DONE:
            job.fail(body.decode(errors="replace"), refused=answer == fetch_process.REFUSED)
        elif not job.done.done():
            job.done.set_result(body)

    async def _end(self, exiting: bool) -> int | None:
        """End the child, at once unless it is `exiting` by itself; its exit code."""
        if self._child is None:
            return None
        # To kill what is dead already would take its exit code from whoever waits for it.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXIT_S if exiting else 0):
                await self._child.wait()
        self._kill()
        code = await self._child.wait()
        self._child = None
        return code

    def _left(self) -> int:
        """See to the jobs that the child has not done; how many they were."""
        left = list(self._jobs.values())
        self._jobs.clear()
        for job, timer in left:
            timer.cancel()
            job.lane.busy -= 1
            if job.done.done():
                continue
            if job.again:
                job.again = False
                job.lane.waiting.appendleft(job)
            else:
                job.fail("the fetching process ended; whether it has arrived is not known")
        return len(left)

    def _give_up(self, problem: str) -> None:
        """Nobody will do what waits."""
        for lane in self._lanes:
            for job in lane.waiting:
                job.fail(problem)
            lane.waiting.clear()


async def _frame(answers: asyncio.StreamReader) -> tuple[int, int, bytes]:
    size, number, answer = HEAD.unpack(await answers.readexactly(HEAD.size))
    if size > fetch_process.MAX_BODY:
        raise ValueError(f"an answer of {size} octets, limit is {fetch_process.MAX_BODY}")
    return number, answer, await answers.readexactly(size)


def _fetched(data: bytes) -> Fetched:
    head, body = fetch_process.unpacked(data)
    return Fetched(int(head["status"]), body, str(head["scheme"]))
