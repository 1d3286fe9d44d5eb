"""
Copies of a policy log's file, and putting one back, row by row.
"""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from urlguard import sqlite_file
from urlguard.errors import PolicyError
from urlguard.policy.drivers.sqlite.connection import Connection, read_only_mode
from urlguard.policy.drivers.sqlite.schema import TABLES
from urlguard.policy.model import BatchRow
from urlguard.policy.store import Progress

_COPY_PAGES: Final = 256  # between two calls for the progress of a copy: 1 MiB


class Copies(Connection):
    """The part of the store that copies all of it."""

    def copy_to(self, target: Path, progress: Progress | None = None) -> None:
        """Copy the log as it is at this moment; others may go on writing."""

        def step(_: int, left: int, pages: int) -> None:
            if progress:
                progress(pages - left, pages)

        with self.errors(), self.reading(), contextlib.closing(sqlite3.connect(target)) as copy:
            self._one("SELECT 1 FROM batch")  # a transaction sees the moment of its first read
            # Nobody wants a copy that was cut off, so nothing is synced before the end.
            copy.execute("PRAGMA synchronous = OFF")
            self._db.backup(copy, pages=_COPY_PAGES, progress=step)
            # One file without others beside it, to be carried away.
            copy.execute("PRAGMA journal_mode = DELETE")
        with self.errors(), target.open("rb") as file:
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def restoring(
        self, backup: Path, head: BatchRow | None, step: Callable[[str], None]
    ) -> Iterator[None]:
        """
        A write transaction that begins by putting a backup's rows in the place of all rows here.

        So whatever happens in the middle, a kill or a full disk, leaves the old log or the new one,
        and a command that writes at the same time waits and then writes to the new one.
        """
        try:
            file = f"{backup.absolute().as_uri()}?{read_only_mode(backup)}"
            self._db.execute("ATTACH ? AS other", (file,))
        except sqlite3.Error as exc:
            raise PolicyError(f"policy log {backup}: {exc}") from exc
        try:
            with self.writing():
                row = self._one("SELECT * FROM batch ORDER BY serial DESC LIMIT 1")
                if row != head:
                    raise PolicyError(f"policy log {self.path}: changed meanwhile; try again")
                for table in TABLES:
                    step(table)
                    self._run(f"DELETE FROM main.{table}")  # noqa: S608
                    self._run(f"INSERT INTO main.{table} SELECT * FROM other.{table}")  # noqa: S608
                yield
        finally:
            with contextlib.suppress(sqlite3.Error):  # `close` lets go of it anyway
                self._db.execute("DETACH other")


def last_serial(path: Path) -> int:
    """The last serial of a broken log, 0 if it cannot be told."""
    with (
        contextlib.suppress(sqlite3.Error, TypeError, ValueError),
        contextlib.closing(sqlite_file.connect(path, 5, "mode=ro")) as db,
    ):
        return int(db.execute("SELECT max(serial) FROM batch").fetchone()[0])
    return 0
