"""
``Idempotency-Key``: a POST that is sent again, because its answer was lost, is done once.

The first answer of 2xx under a key is kept for 24 hours, in ``state_dir/api.db``, and given again
to the same caller for the same request.  Another request under the same key is refused, and so is a
second one while the first is under way.  After an error the key is free again: nothing was done.

How it works.  An answer is written down before it is sent.  A process that dies in between has done
something that nobody was told of; then the request is done again, and what is behind the route has
to bear that: a rule that stands already, a candidate that is known.  Keys under way are in memory
alone.  What is kept is bounded in number and size, the oldest go first.

After the draft of the IETF's HTTPAPI group, draft-ietf-httpapi-idempotency-key-header.
"""

import asyncio
import contextlib
import hashlib
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from urlguard import events
from urlguard.api.problems import Problem

KEPT_S: Final = 86_400
MAX_KEPT: Final = 100_000  # answers of all callers
MAX_EACH: Final = 20_000  # of one caller, so that nobody pushes out what others rely on
MAX_BODY: Final = 65_536  # octets of an answer; a larger one is not kept, see `Answers.keep`
MAX_KEY: Final = 255  # characters
KEY: Final = rf'^"?[!#-~]{{1,{MAX_KEY}}}"?$'  # the draft has quotes around it
_TIDY_S: Final = 60.0
_LOG_EVERY_S: Final = 60.0

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS answer (
    caller TEXT NOT NULL, key TEXT NOT NULL, digest BLOB NOT NULL,
    status INTEGER NOT NULL, body BLOB, at INTEGER NOT NULL,
    PRIMARY KEY (caller, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answer_at ON answer (at);
"""

T = TypeVar("T")


class Kept(NamedTuple):
    """An answer that was given before."""

    digest: bytes
    status: int
    body: bytes | None  # None: it was too large to keep, and its route changes nothing


def checked(key: str) -> str:
    """
    The key, without the quotes that the draft's syntax has.

    Raises:
        Problem: it is empty, too long, or holds anything but printable ASCII.
    """
    if not re.fullmatch(KEY, key):
        words = f"must have 1 to {MAX_KEY} printable ASCII characters without spaces"
        raise Problem(
            "malformed", "the idempotency key does not fit", errors=[("Idempotency-Key", words)]
        )
    return key.strip('"')


def digest(method: str, target: str, body: bytes) -> bytes:
    """What tells two requests apart."""
    found = hashlib.sha256(f"{method} {target}\n".encode(errors="replace"))
    found.update(body)
    return found.digest()


class Answers:
    """
    The answers of the last 24 hours.

    Args:
        path: the database; made when the first key comes.
        clock: seconds since 1970.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._db: sqlite3.Connection | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._under_way: set[tuple[str, str]] = set()
        self._tidied = 0.0
        self._said = -_LOG_EVERY_S

    @contextlib.contextmanager
    def under_way(self, caller: str, key: str) -> Iterator[None]:
        """
        While this lasts, nobody else may use the key.

        Raises:
            Problem: somebody does.
        """
        if (caller, key) in self._under_way:
            raise Problem(
                "conflict",
                "a request with this idempotency key is under way",
                errors=[("Idempotency-Key", "is in use")],
                retry_after_s=1,
            )
        self._under_way.add((caller, key))
        try:
            yield
        finally:
            self._under_way.discard((caller, key))

    async def find(self, caller: str, key: str) -> Kept | None:
        """
        The answer that was given under a key.

        Raises:
            Problem: it cannot be said; the request must not be done.
        """
        try:
            return await self._in_thread(lambda: self._find(caller, key))
        except (sqlite3.Error, OSError) as exc:
            self._tell(exc)
            raise Problem(
                "unavailable",
                "idempotency keys cannot be looked up; without one, the request is done",
                retry_after_s=5,
            ) from exc

    async def keep(self, caller: str, key: str, answer: Kept) -> None:
        """
        Keep an answer; where that fails, an event says so, and sent again it would be done again.
        """
        if answer.body is not None and len(answer.body) > MAX_BODY:
            answer = answer._replace(body=None)
        try:
            await self._in_thread(lambda: self._keep(caller, key, answer))
        except (sqlite3.Error, OSError) as exc:
            self._tell(exc)

    async def close(self) -> None:
        """Close the database."""
        if self._thread is not None:
            await self._in_thread(self._close)
            self._thread.shutdown(wait=False)
            self._thread = None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "api-answers")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            self._path.touch(mode=0o600)  # answers are for their callers alone
            db = sqlite3.connect(self._path, isolation_level=None, timeout=5.0)
            try:
                db.executescript(
                    f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {_SCHEMA}"
                )
            except sqlite3.Error:
                db.close()
                raise
            self._db = db
        return self._db

    def _find(self, caller: str, key: str) -> Kept | None:
        row = (
            self._open()
            .execute(
                "SELECT digest, status, body FROM answer WHERE caller = ? AND key = ? AND at > ?",
                (caller, key, int(self._clock()) - KEPT_S),
            )
            .fetchone()
        )
        return Kept(*row) if row else None

    def _keep(self, caller: str, key: str, answer: Kept) -> None:
        db = self._open()
        now = int(self._clock())
        db.execute(
            "INSERT OR REPLACE INTO answer VALUES (?,?,?,?,?,?)", (caller, key, *answer, now)
        )
        if time.monotonic() - self._tidied >= _TIDY_S:
            self._tidied = time.monotonic()
            self.tidy(db, now)

    def tidy(self, db: sqlite3.Connection, now: int) -> None:
        """Delete what is too old, and of what is too much the oldest."""
        db.execute("DELETE FROM answer WHERE at <= ?", (now - KEPT_S,))
        many = db.execute(
            "SELECT caller, count(*) - ?1 FROM answer GROUP BY caller HAVING count(*) > ?1",
            (MAX_EACH,),
        ).fetchall()
        for caller, surplus in many:
            db.execute(
                "DELETE FROM answer WHERE caller = ?1 AND key IN"
                " (SELECT key FROM answer WHERE caller = ?1 ORDER BY at LIMIT ?2)",
                (caller, surplus),
            )
        (count,) = db.execute("SELECT count(*) FROM answer").fetchone()
        if count > MAX_KEPT:
            db.execute(
                "DELETE FROM answer WHERE (caller, key) IN"
                " (SELECT caller, key FROM answer ORDER BY at LIMIT ?)",
                (count - MAX_KEPT,),
            )

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _tell(self, exc: Exception) -> None:
        now = time.monotonic()
        if now - self._said >= _LOG_EVERY_S:
            self._said = now
            events.error("api.idempotency", file=str(self._path), error=str(exc))
