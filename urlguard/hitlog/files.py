"""
The control process's part of the hit log: its files.

    state_dir/hits/key                 the day and its key; see `day_key`
    state_dir/hits/2026-11-23.jsonl    a JSON object a line; the next file is 2026-11-23.1.jsonl
    state_dir/hits/2026-11-22.jsonl.gz a finished day

Workers send rows with pseudonyms in place of addresses.  A thread writes the files: if the disk is
full or slow, rows are dropped and counted, and nothing else waits.  All files together are limited
to ``total_mb``, since clients choose how many hits there are.
"""

import asyncio
import contextlib
import datetime
import gzip
import json
import os
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Final

import dns.rdatatype

from urlguard import events
from urlguard.config import Hits
from urlguard.hitlog.buffer import day_of
from urlguard.hitlog.day_key import DayKey
from urlguard.processes.channel import Message

MAX_PENDING: Final = 100_000  # rows that wait for the disk
TIDY_S: Final = 60.0  # between looks for files to compress and delete
RESUME: Final = 64  # once full, 1/64 must be free before writing resumes, so events are few
GRACE_S: Final = 300.0  # after midnight, for hits of the day before; later ones are dropped
_FILE = re.compile(r"(\d{4}-\d\d-\d\d)(?:\.(\d{1,6}))?\.jsonl(\.gz)?")
_PART = re.compile(r"\d{4}-\d\d-\d\d(?:\.\d{1,6})?\.jsonl\.gz\.part")
_unprintable = re.compile(r"[^!-~]").sub


def folder_of(state_dir: Path) -> Path:
    """The hit log's folder."""
    return state_dir / "hits"


class HitFiles:
    """
    The files of the hit log.  Its methods use the disk and belong on one thread, `tidy` on any.

    ``counters`` since the start: ``written`` and ``dropped`` rows.
    """

    def __init__(
        self,
        folder: Path,
        options: Hits,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock`: seconds since 1970, UTC; `steady`: monotonic seconds."""
        self.counters: Counter[str] = Counter()
        self._folder = folder
        self.limit = options.max_mb << 20  # octets of one file, and at most one row more
        self.total_limit = options.total_mb << 20  # octets of all files
        self._options = options
        self._clock = clock
        self._steady = steady
        # Guards all below, and every unlink: `tidy` must not remove a file that is written to.
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._path: Path | None = None  # of the open file
        self._day = ""
        self._size = 0
        self._used = 0.0  # when the open file was last written to, by `steady`
        self._packing: Path | None = None  # the file that `tidy` compresses
        self._total: int | None = None  # octets of all files, an upper bound; None: must be counted
        self._failing = False
        self._full = False

    def write(self, rows: list[list[Any]]) -> None:
        """Append rows as `HitBuffer.lines` sends them; rows that cannot be written are counted."""
        with self._lock:
            self._check()
            self._write(rows)

    def _write(self, rows: list[list[Any]]) -> None:
        days: dict[str, list[bytes]] = {}
        finished = day_of(self._clock() - GRACE_S)
        for row in rows:
            try:
                day, line = self._line(row)
            except (ValueError, TypeError, OverflowError, OSError):
                day, line = "", b""
            if day < finished:
                self.counters["dropped"] += 1
            else:
                days.setdefault(day, []).append(line)
        for day, lines in days.items():
            kept = lines
            try:
                kept = lines[: self._fitting(lines)]
                self.counters["dropped"] += len(lines) - len(kept)
                if not kept:
                    continue
                self._append(day, kept)
                self.counters["written"] += len(kept)
            except OSError as exc:
                self._close()
                self._total = None
                self.counters["dropped"] += len(kept)
                if not self._failing:
                    self._failing = True
                    events.warning(
                        "hits.dropped",
                        folder=str(self._folder),
                        error=exc.strerror or str(exc),
                        using="memory only; hits are counted and lost",
                    )
            else:
                if self._failing:
                    self._failing = False
                    events.info("hits.resumed", dropped=self.counters["dropped"])

    def _check(self) -> None:
        """Close the open file if it was renamed or deleted."""
        if self._file is None or self._path is None:
            return
        try:
            there, mine = self._path.stat(), os.fstat(self._file.fileno())
        except OSError:
            self._close()
            return
        if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            self._close()
        else:
            self._size = mine.st_size  # it may have been truncated

    def _fitting(self, lines: list[bytes]) -> int:
        """How many of `lines` fit into ``total_mb``, after old files have been deleted."""
        size = sum(map(len, lines))
        if self._total is None or self._total + size > self.total_limit:
            self._total = self._make_room(size)
        room = self.total_limit - self._total
        if self._full and room < self.total_limit // RESUME:
            return 0
        count = len(lines)
        while size > room:
            count -= 1
            size -= len(lines[count])
            if not count:
                break
        if count < len(lines) and not self._full:
            self._full = True
            events.warning(
                "hits.full",
                folder=str(self._folder),
                total_mb=self._options.total_mb,
                using="memory only; hits are counted and lost",
            )
        elif count == len(lines) and self._full:
            self._full = False
            events.info("hits.resumed", dropped=self.counters["dropped"])
        return count

    def _make_room(self, size: int) -> int:
        """
        Delete files of other days, the oldest first, until `size` octets more fit.

        Returns:
            The octets of the remaining files.
        """
        today = day_of(self._clock())
        sizes: dict[Path, int] = {}
        finished: list[tuple[str, int, Path]] = []
        for day, number, _, path in self._files():
            with contextlib.suppress(FileNotFoundError):
                sizes[path] = path.stat().st_size
                if day != today and path != self._path:
                    finished.append((day, number, path))
        total = sum(sizes.values())
        for _, _, path in sorted(finished):
            if total + size <= self.total_limit:
                break
            path.unlink(missing_ok=True)
            total -= sizes[path]
        return total

    def _line(self, row: list[Any]) -> tuple[str, bytes]:
        second, client, name, qtype, action, category, rule, sources, segment, count = row
        when = datetime.datetime.fromtimestamp(second, datetime.UTC)
        found = {
            "time": when.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "client": client,
            "segment": segment or None,
            "name": presentation(name),
            "qtype": dns.rdatatype.to_text(qtype),
            "action": action,
            "category": category,
            "rule": rule,
            "sources": list(sources),
            "count": count,
        }
        return when.date().isoformat(), json.dumps(found, separators=(",", ":")).encode() + b"\n"

    def _append(self, day: str, lines: list[bytes]) -> None:
        limit = self.limit
        start = 0
        while start < len(lines):
            if day != self._day or self._file is None or self._size >= limit:
                self._open(day)
            assert self._file is not None
            end, size = start, self._size
            # At least one line, even if the limit is smaller than a line.
            while end < len(lines) and (end == start or size + len(lines[end]) <= limit):
                size += len(lines[end])
                end += 1
            data = b"".join(lines[start:end])
            written = 0
            try:
                while written < len(data):
                    written += self._file.write(data[written:])
            except OSError:
                with contextlib.suppress(OSError):  # leave no incomplete line
                    self._file.truncate(self._size)
                raise
            self._size, start = size, end
            self._used = self._steady()
            if self._total is not None:
                self._total += len(data)

    def _open(self, day: str) -> None:
        """Open the last file of a day that has room, or the next."""
        self._close()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        numbers = {
            part: zipped or path == self._packing
            for at, part, zipped, path in self._files()
            if at == day
        }
        last = max(numbers, default=0)
        number = last + 1 if numbers.get(last) else last  # a compressed one is finished
        while True:
            path = self._folder / (f"{day}.{number}.jsonl" if number else f"{day}.jsonl")
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            file = open(descriptor, "ab", buffering=0)  # noqa: SIM115
            try:
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    size += file.write(b"\n")  # a crash left an incomplete line
            except OSError:
                file.close()
                raise
            if size < self.limit:
                self._file, self._path, self._day, self._size = file, path, day, size
                return
            file.close()
            number += 1

    def _files(self) -> Iterator[tuple[str, int, bool, Path]]:
        """Day, number, whether compressed, and path of each file."""
        with contextlib.suppress(FileNotFoundError):
            for path in sorted(self._folder.iterdir()):
                if match := _FILE.fullmatch(path.name):
                    yield match[1], int(match[2] or 0), bool(match[3]), path

    def tidy(self) -> None:
        """
        Delete files older than ``keep_days`` and compress those of finished days.

        Does not touch the file that is written to, whatever the clock says; a file of an earlier
        day counts as that for ten minutes more, in case the clock has jumped and is corrected.

        Raises:
            OSError: the disk is full or fails; the next call tries again.
        """
        now = self._clock()
        oldest = day_of(now - self._options.keep_days * 86_400)
        growing = day_of(now - 2 * GRACE_S)  # files of earlier days are finished
        with contextlib.suppress(FileNotFoundError):
            for path in self._folder.iterdir():
                if _PART.fullmatch(path.name):
                    path.unlink(missing_ok=True)  # left by a killed process
        with self._lock:
            if self._day < growing and self._steady() - self._used >= 2 * GRACE_S:
                self._close()
        try:
            for day, _, zipped, path in list(self._files()):
                with self._lock:
                    if path == self._path:
                        continue
                    if day < oldest:
                        path.unlink(missing_ok=True)
                        continue
                    if zipped or day >= growing or not path.exists():
                        continue
                    self._packing = path  # the writer opens another file, even for the same day
                _compress(path)
            with self._lock:
                self._make_room(0)
        finally:
            with self._lock:
                self._packing = self._total = None

    def close(self) -> None:
        """Close the file that is open."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = self._path = None


def presentation(name: str) -> str:
    """A `Query.name` with what is not printable ASCII as ``\\DDD`` (RFC 1035 section 5.1)."""
    return _unprintable(lambda found: f"\\{ord(found[0]):03d}", name)


def _compress(path: Path) -> None:
    """Replace `path` by ``path.gz``, atomically."""
    part = path.with_name(path.name + ".gz.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as raw:
            with path.open("rb") as source, gzip.GzipFile("", "wb", 6, raw, 0) as target:
                shutil.copyfileobj(source, target, 1 << 18)
            raw.flush()
            os.fsync(raw.fileno())
        part.rename(part.with_suffix(""))
    except OSError:
        part.unlink(missing_ok=True)
        if not path.exists():
            return  # deleted meanwhile by `_make_room`
        raise
    path.unlink(missing_ok=True)


class HitLog:
    """
    Rotates the key and writes the files, in the control process.

    Args:
        state_dir: of the server.
        options: ``[hits]``.
        keyed: whether workers need pseudonyms even if the log is disabled: for dnstap.
        changed: called with the message for the workers when the key changes.
        clock: seconds since 1970, UTC.
    """

    def __init__(
        self,
        state_dir: Path,
        options: Hits,
        *,
        keyed: bool,
        changed: Callable[[Message], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        folder = folder_of(state_dir)
        self._options = options
        self._keyed = keyed or options.enabled
        self._changed = changed
        self._key = DayKey(folder, clock)
        self._files = HitFiles(folder, options, clock)
        self._pending: list[list[Any]] = []
        self._lost = 0

    @property
    def key_message(self) -> Message | None:
        """The message with the key for a new worker; None without a key, or before there is one."""
        return self._key.message if self._keyed else None

    @property
    def written(self) -> int:
        """Rows written since the start."""
        return self._files.counters["written"]

    @property
    def dropped(self) -> int:
        """Rows dropped since the start."""
        return self._files.counters["dropped"] + self._lost

    def take(self, message: Message) -> None:
        """
        Queue a worker's rows; they are written within a second.

        Raises:
            ValueError: the message has no rows.
        """
        rows = message["rows"]
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            raise ValueError("hits: rows must be lists")
        if not self._options.enabled:
            return
        room = MAX_PENDING - len(self._pending)
        self._pending += rows[:room]
        self._lost += max(0, len(rows) - room)

    async def run(self) -> None:
        """Rotate keys, write and tidy until cancelled; then write the remaining rows."""
        loop = asyncio.get_running_loop()
        writing = ThreadPoolExecutor(1, "hits")
        tidying = ThreadPoolExecutor(1, "hits-tidy")
        tidied = -TIDY_S
        failed = False
        sweep: asyncio.Future[None] | None = None
        try:
            if not self._keyed:
                with contextlib.suppress(OSError):
                    await loop.run_in_executor(writing, self._key.destroy)
            while True:
                if self._keyed and self._key.due:
                    await loop.run_in_executor(writing, self._key.rotate)
                    if message := self._key.message:
                        self._changed(message)
                if self._pending:
                    rows, self._pending = self._pending, []
                    await loop.run_in_executor(writing, self._files.write, rows)
                # On another thread: compressing a day of gigabytes takes long.
                if sweep is not None and sweep.done():
                    error, sweep = sweep.exception(), None
                    if error is not None and not failed:
                        events.warning("hits.untidy", error=str(error), retry_s=TIDY_S)
                    failed = error is not None
                if sweep is None and time.monotonic() - tidied >= TIDY_S:
                    tidied = time.monotonic()
                    sweep = loop.run_in_executor(tidying, self._files.tidy)
                await asyncio.sleep(0.5)
        finally:
            if self._pending:
                writing.submit(self._files.write, self._pending)
            writing.submit(self._files.close)
            writing.shutdown(wait=False)
            tidying.shutdown(wait=False, cancel_futures=True)
