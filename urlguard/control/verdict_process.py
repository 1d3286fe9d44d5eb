"""
A verdict process: a child of the control process that computes verdicts.

The verdict pool starts it and sends it the configuration and then jobs through standard input; the
answers go to standard output, see `urlguard.processes.frames`.  Knows the policy, models, messages
and lines of candidates; knows no HTTP, and writes no files.

How it works.  A job is one frame: check items, find items in messages, or parse lines of
candidates.  It is done in pieces of some milliseconds; between two pieces the process looks for
urgent jobs and does those first.  Verdicts are those of ``urlguard check``.

The policy is the newest snapshot and an overlay, as in a worker, but the process reads changes from
the log itself.  Before each job it asks the log whether another process has committed, which takes
some microseconds, and applies the effects above its serial; so a job sees every batch that was
committed before the job was sent.  Of a change that is too large for an overlay, only people's
decisions apply before its snapshot is there.  If the log cannot be read, the policy stays as it is.
"""

import contextlib
import gc
import itertools
import json
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Generator, Hashable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from urlguard import check, events, local_policy
from urlguard.blocklist import overlay, snapshot
from urlguard.cases import ndjson
from urlguard.config import Config
from urlguard.errors import PolicyError, UrlGuardError
from urlguard.policy.location import log_location, open_log
from urlguard.policy.log import PolicyLog
from urlguard.processes import child, frames, lifetime
from urlguard.verdict import decode

if TYPE_CHECKING:
    from urlguard.messages import Found

MAX_BODY: Final = 1 << 28  # octets of a frame
CHECK, MESSAGES, INTAKE = 1, 2, 3  # jobs
KINDS = 15
WHY, SCORE, URGENT = 16, 32, 64  # flags beside them

NICE: Final = 10  # answering queries comes first, and so does the control process
# The piece of a job between two looks for urgent ones: 1 to 4 ms.
ITEMS, EXPLAINED, TEXTS, OCTETS = 32, 1, 8, 4096
IDLE_S: Final = 1.0  # between two looks for a new snapshot
LOG_EVERY_S: Final = 60.0
STREAK: Final = 8  # urgent pieces in a row, then a long job's next: it must not starve

Work = Generator[None, None, bytes]


class FollowedPolicy:
    """The policy in force; ``engine`` has it, and is kept up to date from the log's effects."""

    def __init__(self, config: Config) -> None:
        """
        Open snapshot and log.

        Raises:
            PolicyError: the log is damaged.
        """
        self._config = config
        self._location = log_location(config)
        self._folder = config.state_dir / "snapshots"
        self._log: PolicyLog | None = None
        self._log_throttle = events.Throttle(LOG_EVERY_S)
        self._looked = 0.0
        self._open()

    def update(self) -> None:
        """Apply what was committed since; if the log cannot be read, the policy stays."""
        with self._logged():
            self._update()

    def refresh(self) -> None:
        """Open a newer snapshot if there is one; looks at most once in `IDLE_S`."""
        now = time.monotonic()
        if now < self._looked + IDLE_S:
            return
        self._looked = now
        with self._logged():
            if _newest(self._folder) != self._snapshot:
                self._open()

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        try:
            yield
        except (UrlGuardError, OSError) as exc:
            if self._log_throttle.due():
                events.error("verdicts.policy", error=str(exc), using="last_good")

    def _open(self) -> None:
        """Open snapshot and log anew."""
        newest, identity = _newest(self._folder), self._location.identity()
        engine = local_policy.open_engine(self._config)
        log = None if identity is None else open_log(self._config, read_only=True)
        if self._log is not None:
            self._log.close()
        self.engine, self._log = engine, log
        self._snapshot, self._identity = newest, identity
        self._token: Hashable = None
        self._decided: int | None = None  # the serial up to which only decisions are applied

    def _update(self) -> None:
        identity = self._location.identity()
        if identity != self._identity:
            if identity is None:
                raise PolicyError(f"policy log {self._location}: is gone; put it back")
            self._open()
        if self._log is None:
            return
        token = self._log.store.change_token()
        if token == self._token:
            return
        with self._log.store.reading():
            stale = self._log.serial < self.engine.serial
            if not stale:
                self._catch_up(self._log)
        if stale:  # another history
            self._open()
        else:
            self._token = token

    def _catch_up(self, log: PolicyLog) -> None:
        serial, engine = log.serial, self.engine
        if serial == engine.serial:
            return
        if self._decided is None:
            effects = log.store.effects(engine.serial)
            found = list(itertools.islice(effects, overlay.MAX_KEYS + 1))
            if len(found) <= overlay.MAX_KEYS:
                changes = {row.key: row.after for row in found}
                engine.overlay.apply(((k, decode(a, k)) for k, a in changes.items()), serial)
                return
            self._decided = engine.serial
        decided = log.store.decided(self._decided, overlay.MAX_KEYS)
        # The serial stays: the feeds' changes come with the next snapshot.
        engine.overlay.apply([(k, decode(a, k)) for k, a in decided], engine.serial)
        self._decided = serial


def _newest(folder: Path) -> str:
    return next((path.name for path in snapshot.newest(folder)), "")


class _Models(check.Classifier):
    """The models; those that explain use the ones that `beside` has opened."""

    def __init__(self, config: Config, beside: "_Models | None" = None) -> None:
        super().__init__(config, why=beside is not None)
        if beside is not None:
            self._opened = beside._opened

    def hosting(self) -> ndjson.Hosting | None:
        """The shared hosting names of the model for names."""
        model = self._model("name")
        return None if model is None else model.hosting


class Jobs:
    """Does jobs: the policy and models of one process, without its pipes."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.policy = FollowedPolicy(config)
        self.models = _Models(config)
        self._explaining: _Models | None = None
        self._encode = json.JSONEncoder(check_circular=False).encode

    def warm_up(self) -> None:
        """Open what the first job would otherwise wait for."""
        self.models.score = self._config.classify.mode != "off"
        self._objects(["example.com", "http://example.com/a?b=c"], self.models)
        self.models.score = False
        self.models.hosting()

    def work(self, kind: int, body: bytes) -> Work:
        """
        Do a job, piece by piece; the generator's value is the answer.

        Raises:
            Exception: the job cannot be done; raised by one of the pieces.
        """
        self.policy.update()
        self.policy.refresh()
        job = kind & KINDS
        if job == CHECK:
            return (yield from self._check(json.loads(body), bool(kind & WHY), bool(kind & SCORE)))
        if job == MESSAGES:
            return (yield from self._messages(json.loads(body)))
        if job == INTAKE:
            return (yield from self._intake(body))
        raise ValueError(f"job {job}")

    def _check(self, items: list[str], why: bool, score: bool) -> Work:
        size = EXPLAINED if why else ITEMS
        models = self._to_explain() if why else self.models
        found: list[bytes] = []
        for at in range(0, len(items), size):
            if at:
                yield
            models.score = score  # other jobs come between
            found += self._objects(items[at : at + size], models)
        return b"\n".join(found)

    def _messages(self, texts: list[str]) -> Work:
        """
        The objects of the messages, without their first brace: the caller puts the message's ID
        there, and need not parse the rest.
        """
        from urlguard import messages  # most processes never get one

        results: list[bytes] = []
        for at in range(0, len(texts), TEXTS):
            if at:
                yield
            found = [messages.find(text) for text in texts[at : at + TEXTS]]
            items = [m.item for one in found for m in one]
            verdicts: list[dict[str, Any]] = []
            for begin in range(0, len(items), ITEMS):
                if begin:
                    yield
                self.models.score = False  # other jobs come between
                part = items[begin : begin + ITEMS]
                verdicts += check.inspect_all(self.policy.engine, part, self.models)
            left = iter(verdicts)
            results += [self._message([(m, next(left)) for m in one]) for one in found]
        return b"\n".join(results)

    def _message(self, mentions: "list[tuple[Found, dict[str, Any]]]") -> bytes:
        actions = {verdict["action"] for _, verdict in mentions}
        action = next((act for act in ("block", "review") if act in actions), "none")
        found = [
            {"start": m.start, "end": m.end, "text": m.text, "item": m.item, "verdict": verdict}
            for m, verdict in mentions
        ]
        return self._encode({"action": action, "found": found}).encode("ascii")[1:]

    def _intake(self, data: bytes) -> Work:
        hosting = self.models.hosting()
        reader = ndjson.Reader(time.time(), hosting)
        start = 0
        while start < len(data):
            if start:
                yield
            end = data.find(b"\n", start + OCTETS) + 1 or len(data)
            reader.feed(data[start:end])
            start = end
        return reader.encoded()

    def _to_explain(self) -> _Models:
        if self._explaining is None:
            self._explaining = _Models(self._config, self.models)
        return self._explaining

    def _objects(self, items: list[str], models: _Models) -> list[bytes]:
        found = check.inspect_all(self.policy.engine, items, models)
        return [self._encode(one).encode("ascii") for one in found]


class FramePipes:
    """Frames over two pipes, without an event loop."""

    def __init__(self, inward: int, outward: int) -> None:
        self._in, self._out = inward, outward
        self._data = bytearray()
        self._poll = select.poll()
        self._poll.register(inward, select.POLLIN)

    def arrived(self, wait_s: float) -> list[tuple[int, int, bytes]]:
        """
        The whole frames that have arrived, as number, kind and body; waits at most `wait_s`.

        Raises:
            EOFError: the parent is gone, or out of step.
        """
        found: list[tuple[int, int, bytes]] = []
        data = self._data
        while self._poll.poll(0 if found else wait_s * 1000):
            part = os.read(self._in, 1 << 16)
            if not part:
                raise EOFError
            data += part
            while len(data) >= frames.HEAD.size:
                size, number, kind = frames.HEAD.unpack_from(data)
                if size > MAX_BODY:
                    raise EOFError
                end = frames.HEAD.size + size
                if len(data) < end:
                    break
                found.append((number, kind, bytes(data[frames.HEAD.size : end])))
                del data[:end]
        return found

    def send(self, number: int, kind: int, body: bytes = b"") -> None:
        """
        Send a frame; waits until there is room for it.

        Raises:
            EOFError: the parent is gone.
        """
        data = memoryview(frames.pack(number, kind, body))
        try:
            while data:
                data = data[os.write(self._out, data) :]
        except BrokenPipeError:
            raise EOFError from None


class JobLoop:
    """Does jobs as they arrive, urgent ones before others."""

    def __init__(self, jobs: Jobs, pipes: FramePipes) -> None:
        self._jobs = jobs
        self._pipes = pipes
        self._urgent: deque[tuple[int, Work]] = deque()
        self._bulk: deque[tuple[int, Work]] = deque()
        self._log_throttle = events.Throttle(LOG_EVERY_S)

    def run(self) -> None:
        """
        Work until the parent is gone.

        Raises:
            EOFError: the parent is gone.
        """
        urgent, bulk = self._urgent, self._bulk
        streak = 0
        while True:
            arrived = self._pipes.arrived(0 if urgent or bulk else IDLE_S)
            for number, kind, body in arrived:
                job = (number, self._jobs.work(kind, body))
                (urgent if kind & URGENT else bulk).append(job)
            queue = urgent if urgent and (streak < STREAK or not bulk) else bulk
            if queue:
                streak = 0 if queue is bulk else streak + 1
                if self._ends(*queue[0]):
                    queue.popleft()
            elif not arrived:
                self._jobs.policy.refresh()
                self._jobs.policy.update()

    def _ends(self, number: int, work: Work) -> bool:
        """Do a job's next piece; True if the job has ended, with or without a result."""
        try:
            next(work)
        except StopIteration as end:
            self._pipes.send(number, frames.DONE, end.value)
            return True
        except Exception as exc:  # the next job may succeed
            problem = f"{type(exc).__name__}: {exc}"
            if self._log_throttle.due():
                events.error("verdicts.failed", error=problem)
            self._pipes.send(number, frames.FAILED, problem.encode(errors="replace")[:1000])
            return True
        return False


def main() -> int:
    """Entry point of a verdict process; returns its exit code."""
    lifetime.die_with_parent()
    # The control process ends its children; a terminal's Ctrl-C is for the supervisor.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    config, process_number = child.read_startup()
    os.nice(max(0, NICE - os.nice(0)))
    events.bind(role="verdict", process=process_number)
    # What a library prints must not get between the frames.
    pipes = FramePipes(0, os.dup(1))
    os.dup2(2, 1)
    try:
        jobs = Jobs(config)
        jobs.warm_up()
    except UrlGuardError as exc:
        events.error("verdicts.unusable", error=str(exc))
        return 1
    if process_number == 0:
        for problem in jobs.models.refused:
            events.error("model.refused", error=problem, using="rules alone")
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 1000)
    with contextlib.suppress(EOFError):
        pipes.send(0, frames.READY)
        JobLoop(jobs, pipes).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
