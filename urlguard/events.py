"""
Log lines as events with keys, to stderr: readable at a terminal, one JSON object a line otherwise.

Written on the standard library: structlog's import alone costs each worker about 100 ms of start-up
time, and this is all of it that we need.

    events.info("snapshot.swapped", serial=412, was=411, worker=2)
"""

import json
import sys
import time
from typing import Any

_COLOURS = {"info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}
_common: dict[str, Any] = {}


def bind(**keys: Any) -> None:
    """Add keys to every later line of this process, such as its role."""
    _common.update(keys)


def info(event: str, **keys: Any) -> None:
    """Something an operator may want to know happened."""
    _write("info", event, keys)


def warning(event: str, **keys: Any) -> None:
    """Something is not as it should be, and UrlGuard goes on."""
    _write("warning", event, keys)


def error(event: str, **keys: Any) -> None:
    """Something failed; what stays in force is said in the keys."""
    _write("error", event, keys)


def _write(level: str, event: str, keys: dict[str, Any]) -> None:
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
    fields = {**_common, **keys}
    if sys.stderr.isatty():
        text = " ".join(f"{k}={_bare(v)}" for k, v in fields.items())
        line = f"{stamp[11:]} {_COLOURS[level]}{level:7}\x1b[0m \x1b[1m{event}\x1b[0m {text}"
    else:
        line = json.dumps({"time": stamp, "level": level, "event": event, **fields}, default=str)
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except OSError:
        pass  # a full disk or a closed pipe must never stop the resolver


def _bare(value: Any) -> str:
    text = str(value)
    return json.dumps(text) if " " in text or '"' in text or not text.isprintable() else text
