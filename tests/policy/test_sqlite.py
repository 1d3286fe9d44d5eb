"""What only the SQLite driver of the policy log does: other schemas, rows that cannot be read."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.logs import open_file
from urlguard.errors import PolicyError
from urlguard.policy.drivers.sqlite.schema import SCHEMA_VERSION
from urlguard.policy.model import Change
from urlguard.policy.store import UnusableLogError


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Each file, and when it was changed."""
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("killed", [False, True])
def test_an_older_schema_is_refused_and_left_as_it_is(tmp_path, killed, read_only):
    """
    The error says what to do, and a write-ahead log that a killed process left stays there.
    """
    live, found = tmp_path / "live", tmp_path / "found"
    live.mkdir()
    db = sqlite3.connect(live / "policy.db", isolation_level=None)
    with contextlib.closing(db):
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE held (feed TEXT)")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION - 1}")
        if killed:
            shutil.copytree(live, found)
    if not killed:
        shutil.copytree(live, found)
    before = content(found)
    assert ("policy.db-wal" in before) == killed
    with pytest.raises(UnusableLogError) as caught:
        open_file(found / "policy.db", read_only=read_only)
    error = str(caught.value)
    assert f"schema {SCHEMA_VERSION - 1}; this version reads {SCHEMA_VERSION}; use the" in error
    assert "begin anew with an empty state folder" in error
    assert "\n" not in error
    after = content(found)
    # SQLite's index of the write-ahead log is in shared memory: readers note themselves in it.
    for files in (before, after):
        files.pop("policy.db-shm", None)
    assert after == before


@pytest.mark.parametrize("place", [0, 1, 255, 256, 257, 699])
def test_rows_before_an_unreadable_one_are_read(database, log, place):
    """
    However many are read at once: so `verify` can name the first batch that cannot be read.
    """
    keys = [f"domain n{i:04}.example" for i in range(700)]
    log.commit("feed:a", [Change(k, "block", "fraud") for k in keys], actor="t", reason="")
    with contextlib.closing(sqlite3.connect(database)) as db, db:
        db.execute("UPDATE effect SET after = CAST(x'ff' AS TEXT) WHERE key = ?", (keys[place],))
    read = []
    with contextlib.closing(open_file(database, read_only=True)) as reader:
        rows = reader.store.effects()
        with pytest.raises(PolicyError, match="UTF-8"):
            read.extend(row.key for row in rows)
    assert read == keys[:place]
