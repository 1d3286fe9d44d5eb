"""
SQLite files of this machine: opening one, and transactions on it.

For the SQLite drivers of the policy log and of cases, and for the files that stay local by design;
``tests/test_layers.py`` lists them.  Statements are committed one by one unless they stand in a
`transaction`.  Who opens a file turns `Error` into an error of its own; this module raises
SQLite's.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from sqlite3 import Connection, DatabaseError, Error, OperationalError

__all__ = [
    "Connection",
    "DatabaseError",
    "Error",
    "OperationalError",
    "connect",
    "make_private",
    "transaction",
]


def make_private(path: Path) -> None:
    """Make an empty file for its owner alone, and its folder, unless it is there."""
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    # SQLite gives the files beside it the same mode.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def connect(path: Path, wait_s: float, how: str = "mode=rwc") -> Connection:
    """
    Open a file.

    Args:
        path: of the file.
        wait_s: seconds to wait for other writers.
        how: parameters of SQLite's URI, such as ``mode=rw``: the file must be there.

    Returns:
        A connection that threads may share if they take turns.
    """
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}",
        timeout=wait_s,
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )


@contextlib.contextmanager
def transaction(db: Connection) -> Iterator[None]:
    """A write transaction: all of it or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        # SQLite has rolled back by itself after some errors, such as a full disk.
        with contextlib.suppress(Error):
            if db.in_transaction:
                db.execute("ROLLBACK")
        raise
