"""
The monitor: values of `/metrics`, `/healthz` and `/readyz`, from the workers and the log.

Runs in the control process.  Workers and log are asked at most once per second, however many
clients there are.  A worker or a log that does not reply within a second counts as down.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from urlguard import __version__
from urlguard.api.services import Family
from urlguard.blocklist.pause import pause_end
from urlguard.cases.casework import Waiting
from urlguard.config import Config
from urlguard.control.workers import Workers
from urlguard.errors import UrlGuardError
from urlguard.feeds import schedule
from urlguard.feeds.status import Status
from urlguard.metrics import BOUNDS, METRICS
from urlguard.policy.log import PolicyLog
from urlguard.rules import PAUSE

ANSWER_S: Final = 1.0  # timeout of workers and log
FRESH_S: Final = 1.0  # age up to which a result is reused
# A change too large for the overlay comes with the next snapshot; a worker that waits for it
# is behind and may still count as ready.
MAX_BEHIND_S: Final = 120.0
MAX_OVERDUE_S: Final = 15.0  # of an expiry or a scheduled start; normally within a second


@dataclass
class ControlState:
    """The state of the control process, shared by its parts."""

    ready: bool = False  # the first policy has been prepared, or has failed
    snapshot_serial: int = 0  # of the newest
    overlay_keys: int = 0
    compile_seconds: float | None = None
    compile_failures: int = 0
    hit_rows: int = 0
    hits_dropped: int = 0
    waiting: Waiting | None = None  # None while the cases cannot be read


class FeedState(NamedTuple):
    """The state of one feed."""

    name: str
    rules: int
    quarantined: int
    good_at: float  # seconds since 1970; 0: never
    failing: bool


@dataclass
class LogState:
    """The state of the log, as read last."""

    serial: int = 0
    paused: bool = False
    next_expiry: int | None = None  # seconds since 1970: of the next expiry or scheduled start
    feeds: list[FeedState] = field(default_factory=list)


class _Round(NamedTuple):
    """The replies to one round of requests."""

    at: float  # monotonic
    workers: dict[int, dict[str, Any]]  # metrics by worker
    log: LogState
    log_answers: bool


class Monitor:
    """
    Collects the values for the HTTP routes.

    Args:
        config: of the server.
        workers: those that are connected.
        log: the policy log.
        in_log: runs a function on the log's thread.
        state: returns the state of the control process.
    """

    def __init__(
        self,
        config: Config,
        workers: Workers,
        log: PolicyLog,
        in_log: Callable[[Callable[[], LogState]], Awaitable[LogState]],
        state: Callable[[], ControlState],
    ) -> None:
        self._config = config
        self._workers = workers
        self._log = log
        self._in_log = in_log
        self._state = state
        self._last: _Round | None = None
        self._asking: asyncio.Task[_Round] | None = None
        self._reading: asyncio.Future[LogState] | None = None
        self._read = LogState()
        self._good_at: dict[str, float] = {}

    # For the routes

    async def families(self) -> list[Family]:
        """All metrics of the table that have values."""
        found = await self._round()
        samples: dict[str, list[tuple[tuple[str, ...], Any]]] = {name: [] for name in METRICS}
        for number, values in sorted(found.workers.items()):
            for kind in ("counters", "gauges", "histograms"):
                for name, series in values.get(kind, {}).items():
                    if name in METRICS:
                        samples[name] += [((str(number), *ls), value) for ls, value in series]
        self._own(found, samples)
        return [
            Family(
                name,
                metric.kind,
                metric.help,
                ("worker", *metric.labels) if metric.worker else metric.labels,
                samples[name],
                BOUNDS if metric.kind == "histogram" else (),
            )
            for name, metric in METRICS.items()
            if samples[name]
        ]

    async def health(self) -> dict[str, Any]:
        """``ok`` if at least one worker answers."""
        found = await self._round()
        return {
            "ok": bool(found.workers),
            "workers": self._config.server.workers,
            "answering": len(found.workers),
        }

    async def readiness(self) -> dict[str, Any]:
        """``ready`` if every worker answers and enforces the log's policy; else ``why`` not."""
        found = await self._round()
        state = self._state()
        why = []
        if not state.ready:
            why.append("the first policy is being prepared")
        elif not found.log.serial or not state.snapshot_serial:
            why.append("there is no policy")
        if not found.log_answers:
            why.append("the policy log does not answer")
        due = found.log.next_expiry
        if due is not None and time.time() - due > MAX_OVERDUE_S:
            why.append(
                "policy log cannot be written: what ended is still in force, and what was to begin "
                f"is not; overdue for {round(time.time() - due)} s, {MAX_OVERDUE_S:g} s are allowed"
            )
        connected = {worker.number: worker for worker in self._workers}
        for number in range(self._config.server.workers):
            if number not in connected:
                why.append(f"worker {number} is not connected")
                continue
            worker = connected[number]
            if number not in found.workers:
                why.append(f"worker {number} does not answer")
            if not worker.ready_sent and state.ready:
                why.append(f"worker {number} still waits for the first policy")
            since = worker.behind_since
            if since is not None and time.monotonic() - since > MAX_BEHIND_S:
                behind = round(time.monotonic() - since)
                why.append(
                    f"worker {number} is at serial {worker.acked} of {found.log.serial}, "
                    f"behind for {behind} s; {MAX_BEHIND_S:g} s are allowed"
                )
        return {
            "ready": not why,
            "why": why,
            "paused": found.log.paused,
            "serial": found.log.serial,
            "workers": {str(number): worker.acked for number, worker in connected.items()},
        }

    # Asking

    async def _round(self) -> _Round:
        last = self._last
        if last is not None and time.monotonic() - last.at < FRESH_S:
            return last
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        # Shielded: a client that disconnects must not cancel the others' request.
        return await asyncio.shield(self._asking)

    async def _ask(self) -> _Round:
        replies, answers = await asyncio.gather(
            self._workers.ask({"op": "metrics"}, ANSWER_S), self._read_log()
        )
        values = {
            number: reply["metrics"]
            for number, reply in replies.items()
            if isinstance(reply.get("metrics"), dict)
        }
        self._last = _Round(time.monotonic(), values, self._read, answers)
        return self._last

    async def _read_log(self) -> bool:
        """Read the log's state; False if that takes too long or fails."""
        # If a read hangs, the next call waits for the same one.
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._in_log(self._look))
        done, _ = await asyncio.wait([self._reading], timeout=ANSWER_S)
        if not done:
            return False
        reading, self._reading = self._reading, None
        try:
            self._read = reading.result()
        except UrlGuardError:
            return False
        return True

    def _look(self) -> LogState:
        with self._log.store.reading():
            serial = self._log.serial
            ruling = self._log.ruling(PAUSE)
            due = self._log.store.next_expiry()
            feeds = [self._feed(feed.name) for feed in schedule.feeds(self._config)]
        paused = ruling is not None and time.time() < pause_end(ruling.category)
        return LogState(serial, paused, due, feeds)

    def _feed(self, name: str) -> FeedState:
        status = Status.read(self._log, name)
        if status.error is None:
            self._good_at[name] = status.checked_at
        # After a restart, a failing feed counts as good at its last batch.
        good_at = max(self._good_at.get(name, 0.0), status.changed_at)
        return FeedState(name, status.rules, status.quarantined, good_at, status.error is not None)

    # Control's own metrics

    def _own(self, found: _Round, samples: dict[str, list[tuple[tuple[str, ...], Any]]]) -> None:
        state = self._state()

        def put(name: str, value: float, *labels: str) -> None:
            samples[name].append((labels, float(value)))

        known = {*range(self._config.server.workers), *(w.number for w in self._workers)}
        for number in sorted(known):
            put("urlguard_worker_up", number in found.workers, str(number))
        put("urlguard_build_info", 1, __version__)
        put("urlguard_filtering_paused", found.log.paused)
        put("urlguard_policy_log_up", found.log_answers)
        put("urlguard_policy_log_serial", found.log.serial)
        put("urlguard_newest_snapshot_serial", state.snapshot_serial)
        put("urlguard_overlay_keys", state.overlay_keys)
        if state.compile_seconds is not None:
            put("urlguard_compile_duration_seconds", state.compile_seconds)
        put("urlguard_compile_failures_total", state.compile_failures)
        if state.waiting is not None:
            put("urlguard_candidates_pending", state.waiting.candidates)
            put("urlguard_decisions_pending_approval", state.waiting.pending_approval)
        put("urlguard_hit_log_rows_total", state.hit_rows)
        put("urlguard_hit_log_dropped_rows_total", state.hits_dropped)
        for feed in found.log.feeds:
            put("urlguard_feed_rules", feed.rules, feed.name)
            put("urlguard_feed_quarantined_rules", feed.quarantined, feed.name)
            put("urlguard_feed_failing", feed.failing, feed.name)
            if feed.good_at:
                put("urlguard_feed_age_seconds", max(0.0, time.time() - feed.good_at), feed.name)

    async def close(self) -> None:
        """Cancel requests."""
        for task in (self._asking, self._reading):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
