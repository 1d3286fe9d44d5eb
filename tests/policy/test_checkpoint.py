"""Signed checkpoints: a log that was rewritten is found, although every hash in it fits."""

import contextlib
import itertools
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tests.logs import SqliteLocation, open_file
from urlguard.errors import InputError, PolicyError
from urlguard.policy import backup as copies
from urlguard.policy import chain, checkpoint, note
from urlguard.policy.checkpoint import Checkpoint
from urlguard.policy.model import BatchRow, Change, ClaimRow, EffectRow

ORIGIN = "urlguard.invalid/log/test"
X = "subtree x.example"
TABLES = {"batch": BatchRow, "claim": ClaimRow, "effect": EffectRow}


def commit(path, *names, source="operator"):
    """One batch for each name."""
    with contextlib.closing(open_file(path)) as log:
        for name in names:
            change = Change(f"subtree {name}.example", "block", "fraud")
            log.commit(source, [change], actor="test", reason="")


def sign(path, state=None, now=None):
    with contextlib.closing(open_file(path, read_only=True)) as log:
        return checkpoint.sign(log, state or path.parent, now)


def audit(path, checkpoints):
    with contextlib.closing(open_file(path, read_only=True)) as log:
        return checkpoint.audit(log, checkpoints)


def edit(path, *statements):
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        for sql in statements:
            db.execute(sql)


def reseal(path):
    """Make every hash fit again, as somebody would who can write the file and knows our code."""
    with contextlib.closing(open_file(path)) as log, log.store.writing():
        claims, effects = list(log.store.starts_and_ends()), list(log.store.effects())
        previous = chain.GENESIS
        for row in list(log.store.batches()):
            digests = (
                chain.sha256(chain._claim_line_found(c) for c in claims if c[0] == row.serial),
                chain.sha256(chain.effect_line(e) for e in effects if e.serial == row.serial),
            )
            new = chain.sealed(row.serial, row.time, row[2:5], digests, previous)
            log.store._db.execute("DELETE FROM batch WHERE serial = ?", (row.serial,))
            log.store.add_batch(new)
            log.store.add_source(row.source)
            previous = new.hash


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A log of six batches with a bit of everything, and the checkpoint of each of them."""
    path = tmp_path_factory.mktemp("checkpoints") / "policy.db"
    log = open_file(path)
    batches = [
        ("feed:a", [Change(X, "block", "fraud"), Change("domain b.example", "block", "scam")]),
        ("operator", [Change(X, "allow", "", "ticket 1", 1)]),
        ("feed:b", [Change("domain b.example", "except"), Change("url x.example/p", "review")]),
        ("feed:a", [Change(X, "block", "phishing"), Change("domain b.example", None)]),
        ("operator", [Change(X, None), Change("domain c.example", "block", "", "call", 1 << 40)]),
        ("feed:a", [Change("domain b.example", "block", "scam")]),
    ]
    for source, changes in batches:
        log.commit(source, changes, actor="somebody", reason="a reason")
    signed = {row.serial: Checkpoint(ORIGIN, row.serial, row.hash) for row in log.store.batches()}
    log.close()
    reseal(path)  # changes nothing, or the tests below would show nothing
    assert audit(path, signed.values()) == (None, 6, None, "", ())
    return path, signed


@pytest.fixture
def copy(written, tmp_path):
    """A copy of that log, to be rewritten."""
    return Path(shutil.copy(written[0], tmp_path / "policy.db"))


def some(written, *serials):
    return [written[1][serial] for serial in serials]


# -- auditing --------------------------------------------------------------------------------------


# Made of the rest: made again they are what they were.
DERIVED = {("batch", c) for c in ("payload_sha256", "effect_sha256", "prev_hash", "hash")}


@pytest.mark.parametrize(
    ("table", "column"), [(t, c) for t, row in TABLES.items() for c in row._fields]
)
def test_every_column_rewritten_with_all_hashes_is_found(written, copy, table, column):
    """
    An edit in batch 4 after which every hash was made again: the chain holds or not, but the log is
    not the one that was signed, and the first bad batch is where the edit was.
    """
    key = "from_serial" if table == "claim" else "serial"
    with contextlib.closing(sqlite3.connect(copy)) as db, db:
        value = db.execute(f"SELECT {column} FROM {table} WHERE {key} = 4 LIMIT 1").fetchone()[0]
        new = value + 1 if isinstance(value, int) else f"{value or ''}x"
        if (table, column) == ("batch", "serial"):
            new = 40
        elif column == "to_serial":
            new = 5
        sql = f"UPDATE {table} SET {column} = ? WHERE {key} = 4 AND {column} IS ?"
        assert db.execute(sql, (new, value)).rowcount
    if (table, column) not in DERIVED:
        reseal(copy)
    found = audit(copy, some(written, 1, 3, 5, 6))
    assert not found.ok
    assert found.fits == 3
    assert (found.damage.serial if found.damage else found.differs) in (4, 5), found


@pytest.mark.parametrize(
    ("first", "signed"),
    [(n, s) for n in range(1, 7) for s in ((1, 2, 3, 4, 5, 6), (3,), (2, 5), (6,), (1, 6))],
)
def test_a_log_rewritten_from_a_batch_on(written, copy, first, signed):
    """
    Rewritten from batch N on with a chain that holds: the last checkpoint before N fits, the first
    one at N or behind does not.
    """
    edit(copy, f"UPDATE batch SET reason = 'another' WHERE serial = {first}")
    reseal(copy)
    found = audit(copy, some(written, *signed))
    fits = max((s for s in signed if s < first), default=0)
    differs = min((s for s in signed if s >= first), default=None)
    assert (found.damage, found.fits, found.differs) == (None, fits, differs)
    assert found.ok is (differs is None)
    if differs is None:
        return
    if not fits:
        assert f"at or before the first checkpoint, serial {differs}," in found.what
    elif differs == fits + 1:
        assert f"batch {differs} is the first bad one" in found.what
    else:
        assert found.what == (
            f"the first bad batch is between the last checkpoint that fits, serial {fits}, "
            f"and the first that does not, serial {differs}"
        )


def cut(path, after):
    """Take the batches behind `after` out with all that belongs to them."""
    edit(
        path,
        f"DELETE FROM batch WHERE serial > {after}",
        f"DELETE FROM claim WHERE from_serial > {after}",
        f"UPDATE claim SET to_serial = NULL WHERE to_serial > {after}",
        f"DELETE FROM effect WHERE serial > {after}",
    )


@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_a_tail_cut_off_is_found(written, copy, after):
    """
    The chain holds, and ends before a checkpoint: the first batch that is missing is named.
    """
    cut(copy, after)
    found = audit(copy, some(written, 1, 3, 6))
    assert found.damage is None
    assert found.fits == max(s for s in (0, 1, 3) if s <= after)
    assert found.differs == min(s for s in (1, 3, 6) if s > after)
    assert f"batch {after + 1} is missing: the log ends at serial {after}," in found.what


def test_a_tail_cut_off_and_grown_again_is_found(written, copy):
    """
    Other batches in the place of those that were cut off.
    """
    cut(copy, 4)
    commit(copy, "y", "z", "more")
    found = audit(copy, some(written, 4, 6))
    assert (found.damage, found.fits, found.differs) == (None, 4, 6)


def test_a_broken_chain_names_its_batch_and_what_was_rewritten_before(written, copy):
    """
    Checkpoints before the break are looked at, those behind it say nothing more.
    """
    edit(copy, "UPDATE claim SET category = 'x' WHERE from_serial = 4")
    found = audit(copy, some(written, 2, 3, 5, 6))
    assert (found.damage.serial, found.fits, found.differs) == (4, 3, None)
    edit(copy, "UPDATE batch SET reason = 'x' WHERE serial = 2")
    reseal(copy)
    edit(copy, "UPDATE claim SET category = 'y' WHERE from_serial = 4")
    found = audit(copy, some(written, 1, 3, 5, 6))
    assert (found.damage.serial, found.fits, found.differs) == (4, 1, 3)


def test_a_key_that_signed_two_histories(written):
    """
    Two checkpoints of one serial that differ cannot both be honest.
    """
    (good,) = some(written, 5)
    found = audit(written[0], [good, good._replace(hash="0" * 64)])
    assert (found.ok, found.differs) == (False, 5)
    assert "two histories" in found.what


@pytest.mark.parametrize(
    ("table", "column"), [("batch", "reason"), ("claim", "category"), ("effect", "after")]
)
def test_octets_are_not_the_text_that_shows_them(written, copy, table, column):
    """
    What Python shows for octets could stand in a text; for the hash they are two things.
    """
    key = "from_serial" if table == "claim" else "serial"
    edit(copy, f"UPDATE {table} SET {column} = 'b' || char(39) || 'x' || char(39) WHERE {key} = 4")
    reseal(copy)
    assert audit(copy, []).ok
    edit(copy, f"UPDATE {table} SET {column} = CAST('x' AS BLOB) WHERE {key} = 4")
    assert audit(copy, []).damage.serial == 4


def test_garbage_is_damage_not_a_crash(written, copy):
    """
    Pages overwritten with rubbish, and octets where texts belong.
    """
    data = bytearray(copy.read_bytes())
    for page in range(1, len(data) // 4096):
        bad = bytearray(data)
        bad[page * 4096 : page * 4096 + 4096] = b"\xa5" * 4096
        copy.write_bytes(bad)
        with contextlib.suppress(PolicyError):
            audit(copy, some(written, 1, 6))
    for table, row in TABLES.items():
        for column in row._fields:
            copy.write_bytes(data)
            with contextlib.suppress(sqlite3.IntegrityError):
                which = "rule = 'domain c.example'" if table == "claim" else "serial = 3"
                edit(copy, f"UPDATE {table} SET {column} = x'ff' WHERE {which}")
                assert not audit(copy, some(written, 1, 6)).ok, (table, column)


# -- after a restore -------------------------------------------------------------------------------


def restored(tmp_path):
    """A log that went on after its backup and was then restored, with a checkpoint of each time."""
    path = tmp_path / "policy.db"
    commit(path, "a", "b")
    before = sign(path).checkpoint
    copies.backup(SqliteLocation(path), tmp_path / "saved.db")
    commit(path, "c", "d")
    gone = sign(path).checkpoint
    copies.restore(SqliteLocation(path), tmp_path / "saved.db", above=0, actor="test")
    return path, before, gone


def test_a_restored_log_still_verifies(tmp_path):
    """
    The restore is on record, the server goes on signing, and that excuses what was left behind.
    """
    path, before, gone = restored(tmp_path)
    after = sign(path).checkpoint
    assert (before.serial, gone.serial, after.serial) == (2, 4, 5)
    assert audit(path, [before, after]) == (None, 5, None, "", ())
    assert audit(path, [before, gone, after]) == (None, 5, None, "", ((4, 5),))
    commit(path, "e")
    assert sign(path).checkpoint.serial == 6


def test_a_restore_alone_excuses_nothing(tmp_path):
    """
    Anybody who can write the file can write a batch that says it was restored.
    """
    path, before, gone = restored(tmp_path)
    found = audit(path, [before, gone])
    assert (found.damage, found.fits, found.differs) == (None, 2, 4)
    assert "batch 5, a restore, leaves out" in found.what


def test_a_log_rewritten_before_a_restore_is_found(tmp_path):
    """
    What stands before the gap is bound by the checkpoints behind it as well.
    """
    path, before, gone = restored(tmp_path)
    after = sign(path).checkpoint
    edit(path, "UPDATE batch SET reason = 'x' WHERE serial = 2")
    reseal(path)
    found = audit(path, [before, gone, after])
    assert (found.damage, found.fits, found.differs) == (None, 0, 2)


# -- signing ---------------------------------------------------------------------------------------


def test_signing(tmp_path, database):
    """
    Head, file, key: the same head gives the same checkpoint, and no second file.
    """
    commit(database, "a", "b")
    first = sign(database)
    assert first.made_key
    assert first.checkpoint.serial == 2
    assert first.path.read_text() == first.note
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("log.key", "log.pub")]
    assert [*modes, stat.S_IMODE(first.path.stat().st_mode)] == [0o600, 0o644, 0o644]
    assert checkpoint.public_keys(tmp_path / "log.pub") == [first.public]
    assert sign(database) == first._replace(made_key=False)
    commit(database, "c")
    second = sign(database)
    assert checkpoint.kept(tmp_path) == [second.path, first.path]
    keys = checkpoint.public_keys(tmp_path / "log.pub")
    found = checkpoint.read([tmp_path / "checkpoints"], keys)
    assert found == [first.checkpoint, second.checkpoint]
    assert audit(database, found).ok
    assert not list(tmp_path.rglob(".*"))


def test_an_empty_log_is_not_signed(tmp_path, log):
    """
    Nor is a key made for it.
    """
    assert checkpoint.sign(log, tmp_path) is None
    assert not (tmp_path / "log.key").exists()


def rewritten(path):
    edit(path, "UPDATE batch SET reason = 'x' WHERE serial = 2")
    reseal(path)


def changed(path):
    """Batch 4 is not what its hash says."""
    edit(path, "UPDATE batch SET reason = 'x' WHERE serial = 4")


def exchanged(path):
    """Batch 4 has a hash that fits, but is not the one that 5 follows."""
    with contextlib.closing(open_file(path)) as log, log.store.writing():
        (row,) = log.store.batches(3, 1)
        log.store._db.execute("DELETE FROM batch WHERE serial = 4")
        log.store.add_batch(chain.sealed(4, row.time + 1, row[2:5], row[5:7], row.prev_hash))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (rewritten, "batch 3 does not follow"),
        (changed, "batch 4 does not follow"),
        (exchanged, "batch 5 does not follow"),
        (lambda path: cut(path, 2), "its end, which is too early, does not follow"),
        (lambda path: (cut(path, 2), commit(path, "y", "z")), "batch 3 does not follow"),
        (lambda path: edit(path, "DELETE FROM batch WHERE serial = 3"), "batch 4 does not follow"),
        (lambda path: edit(path, "UPDATE batch SET prev_hash = x'00' WHERE serial = 5"),
         "batch 5 does not follow"),
    ],
)  # fmt: skip
def test_what_does_not_follow_is_not_signed(database, what, said):
    """
    A log that signs two histories has signed nothing.
    """
    commit(database, "a", "b", "c")
    first = sign(database)
    commit(database, "d", "e")
    what(database)
    for _ in range(2):
        with pytest.raises(chain.InconsistentError, match=said) as told:
            sign(database)
    assert str(first.path) in str(told.value)
    assert checkpoint.kept(database.parent) == [first.path]


def test_a_damaged_checkpoint_does_not_stand_in_the_way(database):
    """
    The one before it is looked at instead.
    """
    commit(database, "a")
    sign(database)
    commit(database, "b")
    sign(database).path.write_text("rubbish\n")
    commit(database, "c")
    assert sign(database).checkpoint.serial == 3
    rewritten(database)
    checkpoint.kept(database.parent)[0].unlink()
    assert sign(database).checkpoint.serial == 3  # serial 1, which fits, is the last known


def test_old_checkpoints_are_thinned_out(tmp_path, database, monkeypatch):
    """
    The recent ones all, the last of each day before, and so many days.
    """
    monkeypatch.setattr(checkpoint, "RECENT", 3)
    monkeypatch.setattr(checkpoint, "DAYS", 2)
    day = 86_400
    for number, when in enumerate((0, 1, day, day + 1, 2 * day, 2 * day + 1, *[3 * day] * 3)):
        commit(database, f"n{number}")
        sign(database, now=when)
    assert [checkpoint.serial_of(p) for p in checkpoint.kept(tmp_path)] == [9, 8, 7, 6, 4]
    assert checkpoint.kept(tmp_path)[-1].name == "0000000004-19700102T000001Z.txt"


def test_what_a_kill_leaves_is_cleared_away(tmp_path, database):
    """
    Not at once: another process may be about to give it its name.
    """
    commit(database, "a")
    sign(database)
    old, new = tmp_path / "checkpoints" / ".x.part", tmp_path / ".log.key.y.part"
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (0, time.time() - 61))
    commit(database, "b")
    sign(database)
    assert (old.exists(), new.exists()) == (False, True)


KILLED = """
import os, signal, sys, contextlib
from pathlib import Path
from urlguard.policy import checkpoint
from urlguard.policy.location import open_file

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(Path, sys.argv[2], killed)
database = Path(sys.argv[1])
with contextlib.closing(open_file(database, read_only=True)) as log:
    checkpoint.sign(log, database.parent)
"""


@pytest.mark.parametrize(
    ("call", "left"), [("replace", ["log.key", "log.pub"]), ("hardlink_to", [])]
)
def test_killed_before_a_file_has_its_name(tmp_path, database, call, left):
    """
    No half checkpoint and no half key; the next one goes through.
    """
    commit(database, "a")
    done = subprocess.run([sys.executable, "-c", KILLED, database, call], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.rglob(".*.part"))) == 1
    assert sorted(p.name for p in tmp_path.glob("log.*")) == left
    assert checkpoint.kept(tmp_path) == []
    signed = sign(database)
    assert signed.made_key is (not left)
    keys = checkpoint.public_keys(tmp_path / "log.pub")
    assert checkpoint.read([tmp_path / "checkpoints"], keys) == [signed.checkpoint]


# -- keys ------------------------------------------------------------------------------------------


def test_a_key_is_never_written_over(tmp_path):
    """
    Ten at once make one key, and whoever comes later finds it.
    """
    start = threading.Barrier(10)
    found, failed = [], []

    def get():
        start.wait()
        try:
            key, made = checkpoint.private_key(tmp_path)
            found.append((str(note.public_key(key)), made))
        except PolicyError as exc:
            failed.append(exc)

    threads = [threading.Thread(target=get) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len({public for public, _ in found}) == 1
    assert sum(made for _, made in found) == 1
    assert not list(tmp_path.glob(".*"))
    content = (tmp_path / "log.key").read_bytes()
    assert checkpoint.private_key(tmp_path)[1] is False
    assert (tmp_path / "log.key").read_bytes() == content


def test_the_public_half_is_made_again(tmp_path):
    """
    It follows from the key, name included.
    """
    checkpoint.private_key(tmp_path)
    public = (tmp_path / "log.pub").read_text()
    (tmp_path / "log.pub").unlink()
    checkpoint.private_key(tmp_path)
    assert (tmp_path / "log.pub").read_text() == public


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_key_that_others_can_reach_is_refused(tmp_path, mode):
    """
    Whoever can read it can sign.
    """
    checkpoint.private_key(tmp_path)
    (tmp_path / "log.key").chmod(mode)
    with pytest.raises(PolicyError, match=f"mode {mode:04o}; must be 0600"):
        checkpoint.private_key(tmp_path)


def test_a_key_that_is_gone_is_not_made_anew_in_silence(tmp_path):
    """
    Auditors know the old one.
    """
    checkpoint.private_key(tmp_path)
    (tmp_path / "log.key").unlink()
    with pytest.raises(PolicyError, match=r"move log\.pub away to begin with a new key"):
        checkpoint.private_key(tmp_path)
    (tmp_path / "log.pub").rename(tmp_path / "old.pub")
    assert checkpoint.private_key(tmp_path)[1]


def test_halves_of_two_keys(tmp_path):
    """
    What is signed would verify nowhere.
    """
    for name in ("a", "b"):
        checkpoint.private_key(tmp_path / name)
    shutil.copy(tmp_path / "b" / "log.pub", tmp_path / "a" / "log.pub")
    with pytest.raises(PolicyError, match=r"log\.pub: is not of "):
        checkpoint.private_key(tmp_path / "a")


def pem(key, password=None):
    how = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    pkcs8 = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, pkcs8, how)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"rubbish",
        pem(ec.generate_private_key(ec.SECP256R1())),
        pem(ed25519.Ed25519PrivateKey.generate(), b"secret"),
        pem(ed25519.Ed25519PrivateKey.generate())[:-40],
    ],
    ids=["empty", "rubbish", "another sort", "encrypted", "cut off"],
)
def test_what_is_no_key(tmp_path, content):
    """
    One error that says what it must be; the file stays.
    """
    path = tmp_path / "log.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(PolicyError, match="must be an Ed25519 key in PEM"):
        checkpoint.private_key(tmp_path)
    assert path.read_bytes() == content


def test_a_new_key_begins_anew(tmp_path, database):
    """
    Checkpoints of the key before stay, and count with both public keys.
    """
    commit(database, "a")
    old = sign(database)
    for name in ("log.key", "log.pub"):
        (tmp_path / name).rename(tmp_path / f"old-{name}")
    commit(database, "b")
    new = sign(database)
    assert new.public != old.public
    folder = tmp_path / "checkpoints"
    keys = [*checkpoint.public_keys(tmp_path / "old-log.pub"), new.public]
    assert checkpoint.read([folder], keys) == [old.checkpoint, new.checkpoint]
    with pytest.raises(InputError, match=r"0000000001-.*, line 1: .* must be signed by"):
        checkpoint.read([folder], [new.public])


@pytest.mark.parametrize(
    ("what", "said"), [("nothing", "No such file"), ("folder", r"has no file \*\.txt")]
)
def test_what_cannot_be_read(tmp_path, what, said):
    """
    A file that is not there, a folder without checkpoints.
    """
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=said):
        checkpoint.read([tmp_path / what], [])


def test_the_chain_of_checkpoints_has_room_for_large_serials(tmp_path):
    """
    Names are in the order of serials, however many digits these have.
    """
    (tmp_path / "checkpoints").mkdir()
    serials = [1, 9_999_999_999, 10_000_000_000, 123_456_789_012]
    for serial in itertools.chain(serials[::2], serials[1::2]):
        name = f"{serial:010}-20260101T000000Z.txt"
        (tmp_path / "checkpoints" / name).touch()
    assert [checkpoint.serial_of(p) for p in checkpoint.kept(tmp_path)] == serials[::-1]
