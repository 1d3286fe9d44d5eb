"""
``Idempotency-Key``: a POST that is sent again, because its answer was lost, is done once.

The first answer of 2xx under a key is kept for 24 hours, in ``state_dir/api.db``, and given again
to the same caller for the same request.  Another request under the same key is refused, and so is a
second one while the first is under way.  After an error the key is free again: nothing was done.

How it works.  An answer is written down before it is sent.  A process that dies in between has done
something that nobody was told of; then the request is done again, and what is behind the route has
to bear that: a rule that stands already, a candidate that is known.  Keys under way are in memory
alone.

The file stays on this machine: a key protects the retries of one caller to one server, for a day.

What is kept is bounded in number and size.  Of too many answers the oldest are forgotten.  Where
they are too large together, the oldest lose their bodies and nothing else: it stays known that the
request was done, so that it is not done again.

After the draft of the IETF's HTTPAPI group, draft-ietf-httpapi-idempotency-key-header.
"""

import asyncio
import contextlib
import hashlib
import re
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from urlguard import events, sqlite_file
from urlguard.api.problems import Problem

KEPT_S: Final = 86_400
MAX_KEPT: Final = 100_000  # answers of all callers
MAX_EACH: Final = 20_000  # of one caller, so that nobody pushes out what others rely on
MAX_BODY: Final = 16 << 20  # octets of an answer; of a larger one is kept that it was given
MAX_OCTETS: Final = 256 << 20  # of all bodies as they lie there, which is packed
MAX_EACH_OCTETS: Final = 64 << 20  # of one caller's
_PACKED: Final = 1024  # octets from which a body is packed
_TIDY_OCTETS: Final = 16 << 20  # as many may come on top before it is tidied up
MAX_KEY: Final = 255  # characters
KEY: Final = rf'^"?[!#-~]{{1,{MAX_KEY}}}"?$'  # the draft has quotes around it
_TIDY_S: Final = 60.0
_LOG_EVERY_S: Final = 60.0

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS answer (
    caller TEXT NOT NULL, key TEXT NOT NULL, digest BLOB NOT NULL,
    status INTEGER NOT NULL, body BLOB, at INTEGER NOT NULL, packed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (caller, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answer_at ON answer (at);
"""
_ADDED: Final = "ALTER TABLE answer ADD COLUMN packed INTEGER NOT NULL DEFAULT 0"

T = TypeVar("T")


class Kept(NamedTuple):
    """An answer that was given before."""

    digest: bytes
    status: int
    body: bytes | None  # None: it is not kept, only that the request was done


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


def _unpacked(body: bytes | None) -> bytes | None:
    """A body as it was given; damaged it is as good as not kept."""
    if body is None:
        return None
    try:
        return zlib.decompress(body)
    except zlib.error:
        return None


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
        self._db: sqlite_file.Connection | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._under_way: set[tuple[str, str]] = set()
        self._tidied = 0.0
        self._octets = 0  # that came since
        self._log_throttle = events.Throttle(_LOG_EVERY_S)

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
        except (sqlite_file.Error, OSError) as exc:
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
        try:
            await self._in_thread(lambda: self._keep(caller, key, answer))
        except (sqlite_file.Error, OSError) as exc:
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

    def _open(self) -> sqlite_file.Connection:
        if self._db is None:
            sqlite_file.make_private(self._path)  # answers are for their callers alone
            db = sqlite_file.connect(self._path, 5.0)
            try:
                db.executescript(
                    f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {_SCHEMA}"
                )
                if "packed" not in {row[1] for row in db.execute("PRAGMA table_info(answer)")}:
                    db.execute(_ADDED)
            except sqlite_file.Error:
                db.close()
                raise
            self._db = db
        return self._db

    def _find(self, caller: str, key: str) -> Kept | None:
        row = (
            self._open()
            .execute(
                "SELECT digest, status, body, packed FROM answer"
                " WHERE caller = ? AND key = ? AND at > ?",
                (caller, key, int(self._clock()) - KEPT_S),
            )
            .fetchone()
        )
        if row is None:
            return None
        found = Kept(*row[:3])
        return found._replace(body=_unpacked(found.body)) if row[3] else found

    def _keep(self, caller: str, key: str, answer: Kept) -> None:
        db = self._open()
        now = int(self._clock())
        body = answer.body
        if body is not None and len(body) > MAX_BODY:
            body = None
        packed = body is not None and len(body) >= _PACKED
        if body is not None and packed:
            body = zlib.compress(body, 1)
        db.execute(
            "INSERT OR REPLACE INTO answer (caller, key, digest, status, body, at, packed)"
            " VALUES (?,?,?,?,?,?,?)",
            (caller, key, answer.digest, answer.status, body, now, packed),
        )
        self._octets += len(body or b"")
        if time.monotonic() - self._tidied >= _TIDY_S or self._octets >= _TIDY_OCTETS:
            self._tidied, self._octets = time.monotonic(), 0
            self.tidy(db, now)

    def tidy(self, db: sqlite_file.Connection, now: int) -> None:
        """Delete what is too old, and of what is too much the oldest, or their bodies."""
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
        (octets,) = db.execute("SELECT total(length(body)) FROM answer").fetchone()
        if octets <= MAX_EACH_OCTETS:
            return
        for each, limit in ((True, MAX_EACH_OCTETS), (False, MAX_OCTETS)):
            db.execute(
                "UPDATE answer SET body = NULL, packed = 0 WHERE (caller, key) IN (SELECT caller,"
                " key FROM (SELECT caller, key, sum(length(body)) OVER (PARTITION BY"
                " CASE WHEN ?1 THEN caller END ORDER BY at DESC, caller, key) AS octets"
                " FROM answer WHERE body IS NOT NULL) WHERE octets > ?2)",
                (each, limit),
            )

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _tell(self, exc: Exception) -> None:
        if self._log_throttle.due():
            events.error("api.idempotency", file=str(self._path), error=str(exc))
