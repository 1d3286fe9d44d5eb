"""
Log lines: events with keys on stderr, as text at a terminal, otherwise one JSON object per line.

Uses the standard library alone: importing structlog would add about 100 ms to each worker's start.
A server's processes write from a thread.  If the reader of the log stops reading, lines are dropped
and counted, and queries are answered all the same.

    events.info("snapshot.swapped", serial=412, was=411, worker=2)
"""

import atexit
import contextlib
import json
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, Final

MAX_WAITING: Final = 1000  # lines that are not written yet
MAX_LINE: Final = 16_384  # characters
FINISH_S: Final = 1.0  # timeout for the last lines at the end of the process
MAX_KEYS: Final = 100  # of one `Throttle`

_COLOURS = {"info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}
_common: dict[str, Any] = {}
_writer: "_Writer | None" = None


def bind(**keys: Any) -> None:
    """Add keys to every later line of this process, such as its role."""
    _common.update(keys)


def info(event: str, **keys: Any) -> None:
    """Log an event that an operator may want to know of."""
    _write("info", event, keys)


def warning(event: str, **keys: Any) -> None:
    """Log a problem that UrlGuard handles."""
    _write("warning", event, keys)


def error(event: str, **keys: Any) -> None:
    """Log a failure; the key ``using`` has what stays in force."""
    _write("error", event, keys)


class Throttle:
    """
    Limits how often a recurring event is logged.  For one thread, or where a lost line is harmless.

    Args:
        interval_s: seconds between two lines with the same key.
        clock: the time in seconds; must not go back.
    """

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._logged: dict[Hashable, float] = {}

    def due(self, key: Hashable = None) -> bool:
        """
        True if the event is to be logged now; then it is not due again for `interval_s`.

        Args:
            key: has an interval of its own, such as a plugin's name.  Beyond `MAX_KEYS` keys all
                are forgotten, so a key from outside cannot exhaust memory.
        """
        now = self._clock()
        if now - self._logged.get(key, -math.inf) < self._interval_s:
            return False
        if len(self._logged) >= MAX_KEYS:
            self._logged.clear()
        self._logged[key] = now
        return True

    def reset(self) -> None:
        """Make every key due at once, after the condition has ended."""
        self._logged.clear()


def _write(level: str, event: str, keys: dict[str, Any]) -> None:
    line = _line(level, event, keys)
    if _writer is not None:
        _writer.put(line)
        return
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except OSError:
        pass  # a full disk or a closed pipe must never stop the resolver


def _line(level: str, event: str, keys: dict[str, Any]) -> str:
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
    fields = {**_common, **keys}
    if sys.stderr.isatty():
        text = " ".join(f"{k}={_bare(v)}" for k, v in fields.items())
        return f"{stamp[11:]} {_COLOURS[level]}{level:7}\x1b[0m \x1b[1m{event}\x1b[0m {text}"
    return json.dumps({"time": stamp, "level": level, "event": event, **fields}, default=str)


class _Writer(threading.Thread):
    """Writes lines to stderr; beyond `MAX_WAITING` of them, they are counted instead."""

    def __init__(self) -> None:
        super().__init__(name="events", daemon=True)
        self._lines: queue.Queue[str] = queue.Queue(MAX_WAITING)
        self._lost = 0

    def put(self, line: str) -> None:
        """Have a line written."""
        try:
            self._lines.put_nowait(line[:MAX_LINE])
        except queue.Full:
            self._lost += 1

    def run(self) -> None:
        """Write, for as long as the process lives."""
        while True:
            line = self._lines.get()
            lost, self._lost = self._lost, 0
            if lost:
                line += "\n" + _line("warning", "events.lost", {"lines": lost})
            # Past Python's own buffer: its lock, held while a write hangs, would hang the exit.
            with contextlib.suppress(OSError):
                data = (line + "\n").encode(errors="replace")
                while data:
                    data = data[os.write(2, data) :]
            self._lines.task_done()

    def finish(self) -> None:
        """Wait at most `FINISH_S` until all lines are written."""
        until = time.monotonic() + FINISH_S
        while self._lines.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.005)


def in_background() -> None:
    """Write from a thread from now on, until the process ends."""
    global _writer
    if _writer is None:
        _writer = _Writer()
        _writer.start()
        atexit.register(_writer.finish)


def _bare(value: Any) -> str:
    text = str(value)
    return json.dumps(text) if " " in text or '"' in text or not text.isprintable() else text
