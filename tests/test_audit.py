"""The audit on the command line: signing checkpoints, and checking a log against them offline."""

import contextlib
import json
import shutil
import sqlite3

import pytest
from click.testing import CliRunner

from tests.logs import SqliteLocation, open_file
from urlguard.cli import main
from urlguard.policy import backup, chain, checkpoint
from urlguard.policy.model import Change


class Folder:
    """A state folder, with its log, and the command."""

    def __init__(self, path):
        self.path = path
        self.config = path / "urlguard.toml"
        self.config.write_text('state_dir = "var"\n')
        self.state = path / "var"
        self.database = self.state / "policy.db"

    def run(self, *arguments):
        done = CliRunner().invoke(main, [*map(str, arguments), "--config", str(self.config)])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout, done.stderr

    def out(self, *arguments):
        code, out, err = self.run(*arguments)
        assert code == 0, err
        return out

    def commit(self, *names):
        with contextlib.closing(open_file(self.database)) as log:
            for name in names:
                change = Change(f"subtree {name}.example", "block", "fraud")
                log.commit("operator", [change], actor="test", reason="")

    def sign(self, name):
        """A fresh checkpoint in a file of its own, as an auditor keeps it."""
        path = self.path / name
        path.write_text(self.out("log", "--sign"))
        return path

    def rewrite(self, first):
        """Change batch `first`, and make every hash from there on again."""
        with contextlib.closing(open_file(self.database)) as log, log.store.writing():
            previous = None
            for row in list(log.store.batches(first - 1)):
                who = (row.actor, row.source, "another")
                previous = previous or row.prev_hash
                new = chain.sealed(row.serial, row.time, who, row[5:7], previous)
                log.store._db.execute("DELETE FROM batch WHERE serial = ?", (row.serial,))
                log.store.add_batch(new)
                previous = new.hash


@pytest.fixture
def folder(tmp_path):
    made = Folder(tmp_path)
    made.commit("a", "b")
    return made


def test_sign(folder):
    """
    A note on standard output, the same each time; as JSON with its parts; a new key is told.
    """
    code, text, told = folder.run("log", "--sign")
    assert (code, "give" in told, "log.pub" in told) == (0, True, True)
    assert text.split("\n")[1] == "2"
    assert folder.run("log", "--sign") == (0, text, "")
    said = json.loads(folder.out("log", "--sign", "--json"))
    assert list(said) == ["origin", "serial", "hash", "note", "key"]
    assert (said["serial"], said["note"]) == (2, text)
    assert f"{said['key']}\n" == (folder.state / "log.pub").read_text()
    assert said["hash"] == json.loads(folder.out("log", "--json").splitlines()[-1])["hash"]


def test_nothing_to_sign(tmp_path):
    """
    No log, or an empty one: no key is made for it.
    """
    empty = Folder(tmp_path)
    assert empty.run("log", "--sign")[0] == 1
    empty.commit()
    code, _, said = empty.run("log", "--sign")
    assert (code, "has no batch" in said) == (1, True)
    assert not (empty.state / "log.key").exists()


def test_a_log_that_fits(folder):
    """
    Files of one or several checkpoints, or a folder of them.
    """
    first = folder.sign("1.txt")
    folder.commit("c")
    second = folder.sign("2.txt")
    folder.commit("d")
    both = folder.path / "both.txt"
    both.write_text(first.read_text() + second.read_text())
    ok = (
        "ok: 4 batches, each follows from the one before; checkpoints fit up to serial 3, "
        "the log goes to 4\n"
    )
    for files in ([first, second], [both], [folder.state / "checkpoints"]):
        options = [word for path in files for word in ("--checkpoint", path)]
        assert folder.out("log", "--verify", *options) == ok
    said = json.loads(folder.out("log", "--verify", "--checkpoint", both, "--json"))
    assert said == {
        "ok": True,
        "damage": None,
        "checkpoints": {"read": 2, "fits": 3, "differs": None, "what": None, "left_out": []},
    }


@pytest.mark.parametrize(
    ("first", "said", "parts"),
    [
        (4, "between the last checkpoint that fits, serial 2, and the first that does not, "
            "serial 4", (2, 4)),
        (1, "at or before the first checkpoint, serial 2", (0, 2)),
        (5, None, (4, None)),
    ],
)  # fmt: skip
def test_a_log_rewritten_with_all_its_hashes(folder, first, said, parts):
    """
    `--verify` alone sees nothing; with checkpoints the exit code is 1, and the place is named.
    """
    one = folder.sign("1.txt")
    folder.commit("c", "d")
    two = folder.sign("2.txt")
    folder.commit("e")
    folder.rewrite(first)
    assert folder.out("log", "--verify").startswith("ok: 5 batches")
    options = ("log", "--verify", "--checkpoint", one, "--checkpoint", two)
    code, out, _ = folder.run(*options)
    assert code == (0 if said is None else 1)
    assert (said or "ok: ") in out
    code, out, _ = folder.run(*options, "--json")
    found = json.loads(out)
    assert found["ok"] is (code == 0) is (said is None)
    assert (found["checkpoints"]["fits"], found["checkpoints"]["differs"]) == parts


def test_a_log_that_is_broken_or_cut_off(folder):
    """
    A broken chain names its batch as without checkpoints; a missing tail its first batch.
    """
    folder.commit("c")
    signed = folder.sign("1.txt")
    good = shutil.copy(folder.database, folder.path / "good.db")
    with contextlib.closing(sqlite3.connect(folder.database)) as db, db:
        db.execute("UPDATE claim SET category = 'x' WHERE from_serial = 2")
    code, out, _ = folder.run("log", "--verify", "--checkpoint", signed)
    assert (code, out) == (1, "batch 2: its claims do not fit its digest\n")
    shutil.copy(good, folder.database)
    with contextlib.closing(sqlite3.connect(folder.database)) as db, db:
        for table, column in (("batch", "serial"), ("claim", "from_serial"), ("effect", "serial")):
            db.execute(f"DELETE FROM {table} WHERE {column} = 3")
    code, out, _ = folder.run("log", "--verify", "--checkpoint", signed)
    assert (code, out.partition(":")[0]) == (1, "batch 3 is missing")
    code, _, told = folder.run("log", "--sign")
    assert (code, "does not follow" in told) == (1, True)


def test_an_auditor_needs_no_server_and_no_state(folder, tmp_path):
    """
    A backup, the public key and a checkpoint from elsewhere are enough, and nothing is written.
    """
    signed = folder.sign("1.txt")
    away = tmp_path / "away"
    away.mkdir()
    backup.backup(SqliteLocation(folder.database), away / "b.db")
    shutil.copy(folder.state / "log.pub", away / "key.pub")
    auditor = Folder(away)
    auditor.config.write_text('[store]\nurl = "sqlite:///b.db"\n')
    before = sorted(away.rglob("*"))
    options = ("log", "--verify", "--checkpoint", signed, "--key", away / "key.pub")
    assert auditor.out(*options).startswith("ok: 2 batches")
    assert sorted(away.rglob("*")) == before
    code, _, said = auditor.run("log", "--verify", "--checkpoint", signed)
    assert (code, "log.pub: No such file" in said) == (2, True)


def test_after_a_restore(folder):
    """
    What the restore left behind is told, and excused by what was signed since.
    """
    folder.sign("1.txt")
    folder.out("backup", folder.path / "b.db")
    folder.commit("c")
    gone = folder.sign("2.txt")
    folder.out("restore", folder.path / "b.db")
    code, out, _ = folder.run("log", "--verify", "--checkpoint", gone)
    assert (code, "batch 4, a restore, leaves out" in out) == (1, True)
    after = folder.sign("3.txt")
    out = folder.out("log", "--verify", "--checkpoint", gone, "--checkpoint", after)
    left, ok, _ = out.split("\n")
    assert left == "the checkpoint at serial 3 is of a log that the restore 4 replaced"
    assert ok.startswith("ok: 3 batches")


def test_a_restore_goes_on_above_what_was_signed(folder):
    """
    Also where the log itself is gone: two histories never have one serial.
    """
    folder.out("backup", folder.path / "b.db")
    folder.commit("c", "d")
    folder.sign("1.txt")
    folder.database.unlink()
    assert "goes on at serial 5\n" in folder.out("restore", folder.path / "b.db")


def test_what_cannot_be_judged(folder, tmp_path):
    """
    Not a checkpoint, not our key, forged: exit code 2, and file and line.
    """
    signed = folder.sign("1.txt")
    (tmp_path / "strange").mkdir()
    strange = Folder(tmp_path / "strange")
    strange.commit("x")
    foreign = strange.sign("1.txt")
    forged = folder.path / "forged.txt"
    forged.write_text(signed.read_text().replace("\n2\n", "\n3\n"))
    rubbish = folder.path / "rubbish.txt"
    rubbish.write_text("\x1b[2Jrubbish\n")
    public = folder.state / "log.pub"
    for path, key, told in (
        (foreign, public, "1.txt, line 1: 'urlguard.invalid/log/"),
        (signed, strange.state / "log.pub", "must be signed by urlguard.invalid/log/"),
        (forged, public, "forged.txt, line 1: the signature is wrong"),
        (rubbish, public, r"line 1: has the control character '\x1b'"),
        (signed, rubbish, r"line 1: has the control character '\x1b'"),
    ):
        code, out, err = folder.run("log", "--verify", "--checkpoint", path, "--key", key)
        assert (code, out, told in err) == (2, "", True), err
        assert "\x1b" not in err
    both = ("--key", public, "--key", strange.state / "log.pub")
    assert folder.out("log", "--verify", "--checkpoint", signed, *both).startswith("ok")


@pytest.mark.parametrize(
    "options",
    [
        ("--checkpoint", "urlguard.toml"),
        ("--verify", "--key", "urlguard.toml"),
        ("--verify", "--checkpoint", "nowhere.txt"),
        ("--verify", "--sign"),
        ("--scheduled", "--sign"),
    ],
)
def test_options_that_do_not_go_together(folder, options, monkeypatch):
    """
    A wrong call is told as one.
    """
    monkeypatch.chdir(folder.path)
    code, _, said = folder.run("log", *options)
    assert (code, said.startswith("Usage: ")) == (2, True)


def test_checkpoints_are_kept(folder):
    """
    What was printed is also in the state folder, where a restore and the next signing look.
    """
    signed = folder.sign("1.txt")
    (path,) = checkpoint.kept(folder.state)
    assert path.read_text() == signed.read_text()
