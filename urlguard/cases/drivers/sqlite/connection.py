"""
The file of cases in SQLite: opening it, its tables, transactions.

WAL, and every commit is synced (``synchronous=FULL``): what was acknowledged survives a power cut,
at the price of one sync a batch.  Two connections, one that writes and one that reads, so that a
list does not wait for a batch; between processes SQLite's own locks do the rest.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from urlguard import sqlite_file
from urlguard.cases.drivers.sqlite import schema
from urlguard.cases.model import Limits, StoreError

BUSY_S: Final = 10.0  # to wait for another writer
_OLDEST: Final = (3, 35, 0)  # of SQLite: RETURNING
# A batch touches pages all over the index of items.  The log takes many batches before they are
# written into their places, each page once.
_CHECKPOINT_PAGES: Final = 16_384
_WAL_KEPT: Final = 16 << 20  # octets, between batches
_CACHE_KIB: Final = 65_536

# An `Item` without its reports.
ITEM: Final = (
    "SELECT id, item, name, CASE WHEN error IS NOT NULL THEN 'dead' WHEN EXISTS"
    " (SELECT 1 FROM queue WHERE queue.item = items.id) THEN 'waiting' ELSE 'judged' END,"
    " case_id, score, action, reason, model, queries, seen_at, added_at, error FROM items"
)


class Connection:
    """The file, and transactions on it."""

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        """
        Open the store, and make it, for its owner alone, if it is not there.

        Args:
            path: of the file; two more stand beside it while it is in use.
            limits: what it holds at most.

        Raises:
            StoreError: it cannot be opened, is no store of cases, or is of a newer version.
        """
        self.path = path
        self.limits = limits or Limits()
        self._write_lock = threading.RLock()
        self._read_lock = threading.RLock()
        if sqlite3.sqlite_version_info < _OLDEST:
            raise StoreError(f"SQLite {sqlite3.sqlite_version}; must be 3.35 or newer")
        with contextlib.ExitStack() as opened:
            try:
                sqlite_file.make_private(path)
                self._db = self._connect()
                opened.callback(self._db.close)
                self._prepare()
                self._reader = self._connect()
                opened.callback(self._reader.close)
                self._reader.execute("PRAGMA query_only = 1")
            except (sqlite3.Error, OSError) as exc:
                raise StoreError(f"cases {path}: {exc}") from exc
            opened.pop_all()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite_file.connect(self.path, BUSY_S)
        db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        return db

    def _prepare(self) -> None:
        db = self._db
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (owner,) = db.execute("PRAGMA application_id").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if (owner or version or tables) and owner != schema.APPLICATION:
            raise StoreError(f"cases {self.path}: is another program's database")
        if version and version != schema.VERSION:
            raise StoreError(
                f"cases {self.path}: schema {version}; this version reads {schema.VERSION}; use the"
                " version that wrote it, or move the file away"
            )
        if version:
            db.execute("SELECT waiting FROM tally").fetchone()  # before anything is changed
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        db.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT}")
        if not version:
            with self.writing():
                # Another process may have made the tables while this one waited for the lock.
                (version,) = db.execute("PRAGMA user_version").fetchone()
                for statement in schema.TABLES.split(";\n") if not version else ():
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {schema.APPLICATION}")
                db.execute(f"PRAGMA user_version = {schema.VERSION}")

    def close(self) -> None:
        """Close the connections."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._db.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """
        A write transaction: all of it or nothing, and on disk at its end.

        Raises:
            StoreError: it cannot be written.
        """
        with self._write_lock:
            db = self._db
            try:
                with sqlite_file.transaction(db):
                    yield db
            except sqlite3.Error as exc:
                raise StoreError(f"cases {self.path}: {exc}") from exc

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """
        A read transaction: all that is read within it is of one moment.

        Raises:
            StoreError: it cannot be read.
        """
        with self._read_lock:
            db = self._reader
            try:
                db.execute("BEGIN")
                try:
                    yield db
                finally:
                    if db.in_transaction:
                        db.execute("COMMIT")
            except sqlite3.Error as exc:
                raise StoreError(f"cases {self.path}: {exc}") from exc

    def plan(self, sql: str, values: Mapping[str, Any] | None = None) -> list[str]:
        """How SQLite would go about a query, for tests of the indexes."""
        with self.reading() as db:
            return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values or {})]


def add_events(
    db: sqlite3.Connection, cases: Iterable[int], now: int, who: str, what: str, text: str
) -> None:
    """Write down what happens to cases."""
    db.executemany(
        "INSERT INTO events (case_id, at, who, what, text) VALUES (?,?,?,?,?)",
        [(case, now, who, what, text) for case in cases],
    )


def clean(text: str, limit: int) -> str:
    """Text as it may be stored: halves of surrogate pairs are no UTF-8; shortened."""
    text = text[:limit]
    return text if text.isascii() else text.encode(errors="replace").decode()


def numbers(values: Sequence[int] | set[int]) -> str:
    """Numbers for ``json_each``, which takes any count of them in one parameter."""
    return f"[{','.join(map(str, values))}]"


def count_waiting(db: sqlite3.Connection, waiting: dict[int, int]) -> None:
    """So many more items of each source wait in the queue; also less than none."""
    db.execute("UPDATE tally SET waiting = waiting + ?", (sum(waiting.values()),))
    db.executemany(
        "UPDATE sources SET waiting = waiting + ? WHERE id = ?",
        [(count, source) for source, count in waiting.items()],
    )
