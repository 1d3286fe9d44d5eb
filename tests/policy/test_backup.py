"""Copies of the log, and putting one back."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading

import pytest

from tests.logs import SqliteLocation, open_file
from urlguard.errors import PolicyError
from urlguard.policy import backup as copies
from urlguard.policy.model import Change


def fill(path, *names, source="operator"):
    """Commit one batch for each name; returns the head."""
    log = open_file(path)
    with contextlib.closing(log):
        for name in names:
            change = Change(f"subtree {name}.example", "block", "fraud")
            log.commit(source, [change], actor="test", reason="")
        return log.store.head()


def content(path):
    """What stands in a log, after its chain was verified."""
    log = open_file(path, read_only=True)
    with contextlib.closing(log):
        assert log.verify() is None
        with log.store.reading():
            return log.serial, [key.removeprefix("subtree ") for key, _ in log.rulings()]


def restore(database, source, above=0, **more):
    return copies.restore(SqliteLocation(database), source, above=above, actor="test", **more)


@pytest.fixture
def saved(tmp_path, database):
    """A log that went on after its backup: a and b were saved, c came after."""
    fill(database, "a", "b")
    path = tmp_path / "saved.db"
    copies.backup(SqliteLocation(database), path)
    fill(database, "c")
    return path


# -- backup ----------------------------------------------------------------------------------------


def test_a_backup_is_one_file_for_its_owner_alone(tmp_path, database):
    """
    Mode 0600, nothing beside it, whole without the log's other files.
    """
    head = fill(database, "a", "b")
    path = tmp_path / "copies" / "saved.db"
    path.parent.mkdir()
    steps = []
    got = copies.backup(SqliteLocation(database), path, step=lambda *step: steps.append(step))
    assert got == (2, 2, head.hash)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["saved.db"]
    assert content(path) == (2, ["a.example", "b.example"])
    assert [p.name for p in path.parent.iterdir()] == ["saved.db"]
    assert steps[-1][0] == "copying"


def test_a_backup_is_of_one_moment_while_others_write(tmp_path, database):
    """
    What is committed while it runs is not in it, and does not wait for it.
    """
    feed = [Change(f"domain n{i:06}.example", "block", "fraud") for i in range(40_000)]
    log = open_file(database)
    with contextlib.closing(log):
        log.commit("feed:a", feed, actor="t", reason="")
        during = []

        def commit(words, done, pages):
            if words == "copying" and len(during) < 3 and done < pages:
                fill(database, f"n{len(during)}")
                during.append(done)

        got = copies.backup(SqliteLocation(database), tmp_path / "saved.db", step=commit)
        assert (got.serial, log.serial) == (1, 1 + len(during))
        assert during


def test_a_file_that_is_there_is_kept_without_force(tmp_path, database):
    """
    Yesterday's backup is not lost to a slip of the finger; --force replaces it whole.
    """
    fill(database, "a")
    path = tmp_path / "saved.db"
    path.write_text("precious")
    with pytest.raises(PolicyError, match="is there already; --force"):
        copies.backup(SqliteLocation(database), path)
    assert path.read_text() == "precious"
    copies.backup(SqliteLocation(database), path, force=True)
    assert content(path)[0] == 1


@pytest.mark.parametrize("ending", ["", "-wal", "-shm"])
def test_the_log_itself_is_no_place_for_a_backup(database, ending):
    """
    Also not by force, under whatever name.
    """
    fill(database, "a")
    (database.parent / "link").symlink_to(database.parent)
    target = database.parent / "link" / (database.name + ending)
    with pytest.raises(PolicyError, match="must be another file"):
        copies.backup(SqliteLocation(database), target, force=True)
    assert content(database)[0] == 1


def test_a_damaged_log_gives_no_backup(tmp_path, database):
    """
    The batch is named, and nothing is left behind that could be taken for a backup.
    """
    fill(database, "a", "b")
    with contextlib.closing(sqlite3.connect(database)) as db, db:
        db.execute("UPDATE claim SET category = 'x' WHERE from_serial = 2")
    folder = tmp_path / "copies"
    folder.mkdir()
    with pytest.raises(PolicyError, match="batch 2: its claims do not fit"):
        copies.backup(SqliteLocation(database), folder / "saved.db")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("name", "said"), [("no/where.db", "No such file"), (".", "is a folder")])
def test_where_a_backup_cannot_be(tmp_path, database, name, said):
    """
    A folder that is missing, or a folder.
    """
    fill(database, "a")
    with pytest.raises(PolicyError, match=said):
        copies.backup(SqliteLocation(database), tmp_path / name)


def test_nothing_to_back_up(tmp_path, database):
    """
    Asking for a backup makes no log.
    """
    with pytest.raises(PolicyError, match="nothing to back up"):
        copies.backup(SqliteLocation(database), tmp_path / "saved.db")
    assert list(tmp_path.iterdir()) == []


# -- restore ---------------------------------------------------------------------------------------


def test_a_restored_log_says_what_the_backup_did(database, saved):
    """
    It goes on with an audited batch above every serial that there was, and the chain holds.
    """
    done = restore(database, saved)
    assert (done.batches, done.serial) == (2, 4)
    assert content(database) == (4, ["a.example", "b.example"])
    log = open_file(database, read_only=True)
    with contextlib.closing(log):
        *_, before, last = log.store.batches()
        assert (before.serial, last.serial, last.source, last.actor) == (2, 4, "restore", "test")
        assert last.reason == "restored saved.db, made at batch 2, in place of batch 3"
    fill(database, "d")
    assert content(database) == (5, ["a.example", "b.example", "d.example"])


def test_the_replaced_log_is_kept(database, saved):
    """
    Beside the new one, with the time in its name; it can be restored in its turn.
    """
    kept = restore(database, saved).kept
    assert kept.parent == database.parent
    assert kept.name.startswith("policy.db.replaced-2")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert content(kept) == (3, ["a.example", "b.example", "c.example"])
    assert restore(database, kept).serial == 5
    assert content(database)[1] == ["a.example", "b.example", "c.example"]


def test_serials_known_from_elsewhere_are_jumped(database, saved):
    """
    What a zone or a snapshot has published counts, also without any log.
    """
    database.unlink()
    assert restore(database, saved, above=412) == (2, 413, None)
    assert content(database)[0] == 413


def test_a_restored_log_can_be_backed_up_and_restored(tmp_path, database, saved):
    """
    A gap in the serials before a restore's batch is no damage, however often.
    """
    restore(database, saved, above=100)
    fill(database, "d")
    copies.backup(SqliteLocation(database), tmp_path / "again.db")
    restore(database, tmp_path / "again.db", above=200)
    assert content(database) == (201, ["a.example", "b.example", "d.example"])


def test_a_gap_before_any_other_batch_is_damage(database, saved):
    """
    Only a restore leaves serials out, and not by taking batches away.
    """
    restore(database, saved, above=100)
    fill(database, "d")
    with contextlib.closing(sqlite3.connect(database)) as db, db:
        db.execute("DELETE FROM batch WHERE serial = 2")
        db.execute("DELETE FROM claim WHERE from_serial = 2")
        db.execute("DELETE FROM effect WHERE serial = 2")
    log = open_file(database, read_only=True)
    with contextlib.closing(log):
        assert log.verify() == (101, "it does not follow from the batch before it")


def test_a_damaged_backup_is_refused(database, saved):
    """
    The batch is named, and the log is as it was.
    """
    with contextlib.closing(sqlite3.connect(saved)) as db, db:
        db.execute("UPDATE effect SET after = NULL WHERE serial = 2")
    with pytest.raises(PolicyError, match=r"saved\.db: damaged, batch 2: its effects"):
        restore(database, saved)
    assert content(database)[0] == 3
    assert not list(database.parent.glob("*.replaced-*"))


@pytest.mark.parametrize("rubbish", [b"", b"no database" * 1000])
def test_what_is_no_backup_is_refused(database, saved, rubbish):
    """
    Rubbish, an empty file, no file, the log itself.
    """
    saved.write_bytes(rubbish)
    with pytest.raises(PolicyError, match=r"saved\.db"):
        restore(database, saved)
    with pytest.raises(PolicyError, match="not there"):
        restore(database, saved.with_name("none.db"))
    with pytest.raises(PolicyError, match="is the policy log itself"):
        restore(database, database)
    assert content(database)[0] == 3


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"no database any more" * 1000),
        lambda path: path.write_bytes(path.read_bytes()[:4096] + b"\xa5" * 40_000),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
    ],
    ids=["rubbish", "pages overwritten", "cut off"],
)
def test_a_log_that_cannot_be_used_any_more_is_replaced(database, saved, spoil):
    """
    It is put aside, whatever is left of it, and the new one begins far above what it may have said.
    """
    spoil(database)
    database.with_name("policy.db-wal").write_bytes(b"left by a crash")
    was = database.read_bytes()
    done = restore(database, saved, above=3)
    assert done.serial > 3 + copies.MARGIN
    assert done.kept.read_bytes() == was
    assert content(database) == (done.serial, ["a.example", "b.example"])
    assert not list(database.parent.glob("*.restoring*"))


def test_a_command_that_writes_meanwhile_loses_nothing(database, saved):
    """
    A decision that comes while the log is being replaced waits, and then is in the new one.
    """
    writers = []

    def step(words, done, total):
        if words == "restoring claim" and not writers:
            writers.append(threading.Thread(target=fill, args=(database, "z")))
            writers[0].start()

    assert restore(database, saved, step=step).serial == 4
    writers[0].join(30)
    assert content(database) == (5, ["a.example", "b.example", "z.example"])


CHILD = """
import json, os, resource, signal, sys
from pathlib import Path
from urlguard.policy import backup
from urlguard.policy.drivers.sqlite.location import SqliteLocation
database, source, kill_at, limit = json.loads(sys.argv[1])

def step(words, done, total):
    if words == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
backup.restore(SqliteLocation(Path(database)), Path(source), above=0, actor="test", step=step)
"""


def child(*arguments):
    """A restore in a process of its own."""
    words = [str(a) if isinstance(a, os.PathLike) else a for a in arguments]
    command = [sys.executable, "-c", CHILD, json.dumps(words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "kill_at",
    ["keeping the old log", "restoring batch", "restoring effect", "restoring quarantined"],
)
def test_killed_in_the_middle_the_old_log_is_there(database, saved, kill_at):
    """
    kill -9 at any step leaves the log as it was, and the next restore works.
    """
    assert child(database, saved, kill_at, 0).returncode == -signal.SIGKILL
    assert content(database) == (3, ["a.example", "b.example", "c.example"])
    assert restore(database, saved).serial == 4
    assert content(database) == (4, ["a.example", "b.example"])


@pytest.mark.parametrize("old", ["large", "small"])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_full_disk_leaves_the_old_log(tmp_path, database, share, old):
    """
    Whether the old log finds no room to be kept or the new one none to be written: the log is the
    old one and whole, and nothing is left behind.
    """
    feed = [Change(f"domain n{i:05}.example", "block", "fraud") for i in range(20_000)]
    log = open_file(database)
    with contextlib.closing(log):
        log.commit("feed:a", feed, actor="t", reason="")
    saved = tmp_path / "saved.db"
    copies.backup(SqliteLocation(database), saved)
    if old == "small":
        database.unlink()
    head = fill(database, "c")
    done = child(database, saved, "", int(saved.stat().st_size * share))
    assert "PolicyError: policy log" in done.stderr, done.stderr
    assert content(database)[0] == head.serial
    assert not list(database.parent.glob("*.replaced-*"))
    assert restore(database, saved).serial == head.serial + 1


def test_a_log_in_use_elsewhere_can_be_the_source(tmp_path, saved):
    """
    Any policy log will do, also one with a write-ahead log beside it, and it is only read.
    """
    other = tmp_path / "other" / "policy.db"
    log = open_file(other)
    with contextlib.closing(log):
        log.commit("operator", [Change("subtree x.example", "block")], actor="t", reason="")
        assert other.with_name("policy.db-wal").stat().st_size
        target = tmp_path / "new" / "policy.db"
        restore(target, other)
        assert content(target) == (2, ["x.example"])
        assert log.serial == 1


def test_logs_of_before_there_were_plans_are_read(tmp_path, database, saved):
    """
    Their tables are the same; the index that they lack is made when they are next written to.
    """
    for path in (saved, database):
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("DROP INDEX claim_scheduled")
    old = shutil.copy(database, tmp_path / "old.db")
    log = open_file(old, read_only=True)
    with contextlib.closing(log):
        assert log.store.scheduled() == []
    restore(database, saved)
    assert content(database)[0] == 4
