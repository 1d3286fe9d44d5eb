"""
The hit log's key of the day, from which workers make pseudonyms of clients.

The key is valid for one day in UTC.  It is kept in a file of mode 0600, so that a restart keeps the
day's pseudonyms, and destroyed after the day.  Knows the file; knows nothing of hits.
"""

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from urlguard import events
from urlguard.hitlog.buffer import KEY_OCTETS, day_of
from urlguard.processes.channel import Message


class DayKey:
    """
    The key of the day (UTC), in a file so that a restart keeps the day's pseudonyms.

    Args:
        folder: the hit log's; made if it is missing.
        clock: seconds since 1970, UTC.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = folder / "key"
        self._clock = clock
        self._day = ""
        self._key = b""

    @property
    def message(self) -> Message | None:
        """The message with the key for workers; None before the first `rotate`."""
        if not self._day:
            return None
        return {"op": "hitkey", "day": self._day, "key": self._key.hex()}

    @property
    def due(self) -> bool:
        """True if the day of the key is over."""
        return day_of(self._clock()) != self._day

    def rotate(self) -> None:
        """
        Use today's key: the one in the file, or a new one that replaces an older day's.

        Reads and writes the disk.  A key that cannot be written is used all the same; pseudonyms
        then change at a restart.
        """
        today = day_of(self._clock())
        found = self._read()
        if found is not None and found[0] == today:
            self._day, self._key = found
            return
        self._day, self._key = today, secrets.token_bytes(KEY_OCTETS)
        try:
            self.destroy()
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:
                file.write(json.dumps({"day": today, "key": self._key.hex()}).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as exc:
            events.warning(
                "hits.key", file=str(self._path), error=exc.strerror or str(exc), using="memory"
            )

    def destroy(self) -> None:
        """
        Overwrite the file and remove it, if it exists.

        Raises:
            OSError: the disk fails.
        """
        with contextlib.suppress(FileNotFoundError):
            with self._path.open("r+b") as file:
                file.write(bytes(os.fstat(file.fileno()).st_size))
                file.flush()
                os.fsync(file.fileno())
            self._path.unlink()

    def _read(self) -> tuple[str, bytes] | None:
        try:
            found = json.loads(self._path.read_bytes()[:1024])
            day, key = str(found["day"]), bytes.fromhex(found["key"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # no file, or an incomplete one
        return (day, key) if len(key) == KEY_OCTETS else None
