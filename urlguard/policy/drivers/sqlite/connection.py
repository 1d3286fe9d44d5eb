"""
A connection to a policy log's file, and transactions on it; WAL mode.

Every commit is synced (``synchronous=FULL``): a change that a command has confirmed survives a
power cut.  SQLite's errors become `PolicyError` here, also those that come while rows are read.
"""

import contextlib
import itertools
import sqlite3
import threading
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from urlguard import sqlite_file
from urlguard.errors import PolicyError
from urlguard.policy.drivers.sqlite.files import beside
from urlguard.policy.drivers.sqlite.schema import SCHEMA_VERSION, STATEMENTS
from urlguard.policy.store import UnusableLogError

_MAX_WAL: Final = 16 << 20  # octets of the write-ahead log that are kept between batches
_CHUNK: Final = 256  # rows that are read at once
_UNUSABLE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def read_only_mode(path: Path) -> str:
    """How SQLite is to open a log that is only read, as a parameter of its URI."""
    # Without a write-ahead log nobody is writing, and SQLite need not make its files.
    return "mode=ro" if beside(path, "-wal").exists() else "immutable=1"


class Connection:
    """One connection; use it from one thread at a time."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """
        Open the log, and unless `read_only` make it, for its owner alone, if it is not there.

        Raises:
            PolicyError: it cannot be opened, is no UrlGuard log, or has another version's schema.
        """
        self.path = path
        self.location = str(path)
        self._lock = threading.RLock()
        self._wal = beside(path, "-wal")
        with self.errors():
            if not read_only:
                sqlite_file.make_private(path)
                self._look()
            elif not path.exists():
                raise PolicyError(f"policy log {path}: not there")
            how = read_only_mode(path) if read_only else "mode=rwc"
            self._db = sqlite_file.connect(path, 60, how)
            try:
                self._prepare(read_only)
                self._file = _file(path)
            except BaseException:
                self._db.close()
                raise

    def _look(self) -> None:
        """Refuse another version's log before anything of it is changed."""
        version = 0
        # An error may come from a writer that began meanwhile; one of the file comes again.
        with contextlib.suppress(sqlite3.Error):
            how = read_only_mode(self.path)
            with contextlib.closing(sqlite_file.connect(self.path, 60, how)) as db:
                (version,) = db.execute("PRAGMA user_version").fetchone()
        if version:
            self._check_schema(version)

    def _check_schema(self, version: int) -> None:
        if version != SCHEMA_VERSION:
            older = "; use the version that wrote it, or begin anew with an empty state folder"
            raise UnusableLogError(
                f"policy log {self.path}: schema {version}; this version reads {SCHEMA_VERSION}"
                f"{older if 0 < version < SCHEMA_VERSION else ''}"
            )

    def _prepare(self, read_only: bool) -> None:
        db = self._db
        db.execute("PRAGMA busy_timeout = 60000")
        if not read_only:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute(f"PRAGMA journal_size_limit = {_MAX_WAL}")
        db.execute("PRAGMA cache_size = -65536")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0 and not read_only:
            with self.writing():
                # Another process may have made the tables while this one waited for the lock.
                if db.execute("PRAGMA user_version").fetchone() == (0,):
                    for statement in STATEMENTS:
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            version = SCHEMA_VERSION
        self._check_schema(version)

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Errors of SQLite and of the system become errors of ours."""
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            raise self._error(exc) from exc

    def _error(self, exc: Exception) -> PolicyError:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        kind = UnusableLogError if code in _UNUSABLE else PolicyError
        return kind(f"policy log {self.path}: {exc}")

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A write transaction: all of it or nothing.  Nests: an inner one joins the outer."""
        with self._lock:
            if self._within():
                yield
                return
            try:
                with sqlite_file.transaction(self._db):
                    yield
            except sqlite3.Error as exc:
                raise self._error(exc) from exc
            finally:
                self._shrink()

    def _shrink(self) -> None:
        """Give the disk back what a large batch, also one that failed, left in the journal."""
        with contextlib.suppress(OSError, sqlite3.Error):
            if self._wal.stat().st_size <= _MAX_WAL:
                return
            try:
                self._db.execute("PRAGMA busy_timeout = 0")  # who still reads may go on
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                self._db.execute("PRAGMA busy_timeout = 60000")

    def _within(self) -> bool:
        try:
            return self._db.in_transaction
        except sqlite3.Error as exc:  # it was closed
            raise self._error(exc) from exc

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """A read transaction: everything read within it is of one serial."""
        with self._lock:
            if self._within():
                yield
                return
            try:
                self._db.execute("BEGIN")
                try:
                    yield
                finally:
                    self._db.execute("COMMIT")
            except sqlite3.Error as exc:
                raise self._error(exc) from exc

    @contextlib.contextmanager
    def lenient_text(self) -> Iterator[None]:
        """Read text that is no UTF-8, too, its octets as surrogates."""
        self._db.text_factory = lambda octets: octets.decode(errors="surrogateescape")
        try:
            yield
        finally:
            self._db.text_factory = str

    def change_token(self) -> Hashable:
        """SQLite's number that changes when another connection has committed."""
        return self._one("PRAGMA data_version")

    def check_identity(self) -> None:
        """Make sure that the file is still the one that was opened."""
        try:
            found = _file(self.path)
        except OSError as exc:
            raise PolicyError(
                f"policy log {self.path}: {exc.strerror}; put it back or restart"
            ) from exc
        if found != self._file:
            raise PolicyError(f"policy log {self.path}: is another file than at the start; restart")

    def storage_problem(self) -> str | None:
        """What SQLite finds wrong with the file and its indexes, if anything."""
        row = self._one("PRAGMA integrity_check(1)")
        return None if row is None or row[0] == "ok" else str(row[0])

    def _run(self, sql: str, *arguments: Any) -> None:
        try:
            self._db.execute(sql, arguments)
        except sqlite3.Error as exc:
            raise self._error(exc) from exc

    def _run_each(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        try:
            self._db.executemany(sql, rows)
        except sqlite3.Error as exc:  # of ours alone: `rows` may raise what it likes
            raise self._error(exc) from exc

    def _one(self, sql: str, *arguments: Any) -> tuple[Any, ...] | None:
        try:
            row: tuple[Any, ...] | None = self._db.execute(sql, arguments).fetchone()
        except sqlite3.Error as exc:
            raise self._error(exc) from exc
        return row

    def _list(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(sql, arguments).fetchall()
        except sqlite3.Error as exc:
            raise self._error(exc) from exc

    def _each(self, sql: str, *arguments: Any) -> Iterator[tuple[Any, ...]]:
        """The rows, for results that may be too large for memory."""
        try:
            cursor = self._db.execute(sql, arguments)
        except sqlite3.Error as exc:
            raise self._error(exc) from exc
        return itertools.chain.from_iterable(self._chunks(cursor))

    def _chunks(self, cursor: sqlite3.Cursor) -> Iterator[list[tuple[Any, ...]]]:
        """The rows in lists, so that no Python code runs for each row."""
        while True:
            rows: list[tuple[Any, ...]] = []
            try:
                rows.extend(itertools.islice(cursor, _CHUNK))
            except sqlite3.Error as exc:
                yield rows  # what was read before the error is good
                raise self._error(exc) from exc
            if not rows:
                return
            yield rows


def _file(path: Path) -> tuple[int, int]:
    """Device and inode."""
    found = path.stat()
    return found.st_dev, found.st_ino
