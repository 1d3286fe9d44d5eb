"""What was acknowledged is on disk; what could not be written is not there in part."""

import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import time

import pytest

from tests.cases.conftest import NOW, candidate
from urlguard.cases.drivers.sqlite import SqliteStore
from urlguard.cases.drivers.sqlite.schema import APPLICATION, VERSION
from urlguard.cases.model import Choice, StoreError

# Adds batches of twenty and says the number of each once it was acknowledged.
WRITER = """
import sys
from pathlib import Path
from tests.cases.conftest import NOW, candidate
from urlguard.cases.drivers.sqlite import SqliteStore
store, round = SqliteStore(Path(sys.argv[1])), sys.argv[2]
for batch in range(10**6):
    rows = [candidate(f"r{round}b{batch}n{n}.example") for n in range(20)]
    store.add("crawler", rows, NOW)
    print(batch, flush=True)
    if batch % 3 == 2:
        works = store.take(7, 60, NOW)
        store.failed([work.id for work in works], "try again", NOW)
"""


def test_killed_at_any_moment(tmp_path):
    """
    A writer is killed twenty times: every batch that it acknowledged is there, none in part.
    """
    path = tmp_path / "cases.db"
    promised = 0
    for number in range(20):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        with writer:
            assert writer.stdout.readline() == "0\n"
            time.sleep(0.003 * number)
            writer.send_signal(signal.SIGKILL)
            acknowledged = 1 + writer.stdout.read().count("\n")
        store = SqliteStore(path)
        for batch in range(acknowledged + 2):
            there = [store.item(f"r{number}b{batch}n{n}.example") is not None for n in range(20)]
            assert all(there) or (not any(there) and batch >= acknowledged)
            promised += all(there)
        assert store.backlog() == promised * 20 == store.source("crawler").accepted
        store.close()


def test_a_full_disk(tmp_path, harness):
    """
    A limit on the file's size stands for it: a clear error, nothing in part, and on it goes once
    there is room.
    """
    harness.bring("a.example")
    (case,) = harness.store.lease("ann", 1, 600, NOW)
    rows = [candidate(f"n{n}.example", context="x" * 500) for n in range(2000)]
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = max(p.stat().st_size for p in harness.folder.iterdir()) + 20_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, old[1]))
    try:
        with pytest.raises(StoreError, match=r"cases .*cases\.db: (disk|database)"):
            harness.store.add("crawler", rows, NOW)
        assert harness.store.backlog() == 0
        assert harness.store.item("n0.example") is None
        assert harness.only().state == "leased"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert harness.store.source("crawler").accepted == 1
    assert harness.store.add("crawler", rows, NOW).accepted == 2000
    made = harness.store.begin([case.id], "ann", Choice("dismiss"), NOW)
    assert harness.store.finish(made.number, None, NOW).step == "done"


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_for_its_owner_alone(tmp_path, mask):
    """
    The file and those beside it, whatever the umask.
    """
    before = os.umask(mask)
    try:
        store = SqliteStore(tmp_path / "new" / "cases.db")
        store.add("x", [candidate("a.example")], NOW)
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "new").iterdir()}
        store.close()
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("cases.db", "cases.db-wal", "cases.db-shm"), 0o600)


def foreign(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()


def newer(path):
    SqliteStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()


def older(path):
    SqliteStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {VERSION - 1}")
    db.close()


def no_tables(path):
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        db.execute(f"PRAGMA user_version = {VERSION}")
    db.close()


def cut(path):
    store = SqliteStore(path)
    store.add("x", [candidate(f"n{n}.example") for n in range(1000)], NOW)
    store.close()
    os.truncate(path, 4096)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_text("a text file, long enough to be looked at\n" * 99), "not a"),
        (foreign, "another program's"),
        (newer, "this version reads"),
        (older, "this version reads"),
        (no_tables, "no such table"),
        (cut, "malformed"),
        (lambda path: path.mkdir(), "directory|unable to open"),
    ],
    ids=["text", "foreign", "newer", "older", "no tables", "cut", "a folder"],
)
def test_what_is_no_store(tmp_path, spoil, words):
    """
    A clear error that names the file, and the file is left alone.
    """
    path = tmp_path / "cases.db"
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError, match=words) as caught:
        SqliteStore(path)
    assert str(path) in str(caught.value)
    assert before is None or path.read_bytes() == before


def test_damaged_while_in_use(tmp_path):
    """
    A page of rubbish is an error where it is met, not a wrong answer, and not the end of the rest.
    """
    path = tmp_path / "cases.db"
    store = SqliteStore(path)
    store.add("x", [candidate(f"n{n}.example") for n in range(20_000)], NOW)
    store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 10)
        file.write(os.urandom(size * 8 // 10))
    store = SqliteStore(path)
    with pytest.raises(StoreError, match="cases"):
        assert all(store.item(f"n{n}.example").name == f"n{n}.example" for n in range(20_000))
    with pytest.raises(StoreError, match="cases"):
        store.add("x", [candidate(f"n{n}.example") for n in range(20_000, 40_000)], NOW)
    store.close()


def test_writing_is_refused_on_a_locked_store(tmp_path, monkeypatch):
    """
    Somebody else's long transaction ends in an error after a while, not in waiting for ever.
    """
    monkeypatch.setattr("urlguard.cases.drivers.sqlite.connection.BUSY_S", 0.05)
    store = SqliteStore(tmp_path / "cases.db")
    other = sqlite3.connect(tmp_path / "cases.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        store.add("x", [candidate("a.example")], NOW)
    assert store.backlog() == 0  # reading goes on
    other.execute("ROLLBACK")
    other.close()
    assert store.add("x", [candidate("a.example")], NOW).accepted == 1
    store.close()
