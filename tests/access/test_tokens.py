"""Tokens: their text, who has them, what of them is in the file, and what a crash leaves."""

import os
import re
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.speed import slowness
from urlguard.access import tokens as module
from urlguard.access.roles import Role
from urlguard.access.tokens import AccessError, Holder, TokenNameError, Tokens, well_formed
from urlguard.errors import InputError

DAY = 86_400


class Clock:
    """A time that a test sets, in seconds since 1970."""

    def __init__(self, now=20_000 * DAY):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def opened(tmp_path, clock):
    """Opens the same file as often as a test likes, and closes it in the end."""
    found = []

    def run():
        found.append(Tokens(tmp_path / "access.db", now=clock))
        return found[-1]

    yield run
    for one in found:
        one.close()


@pytest.fixture
def tokens(opened):
    return opened()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# -- the text --------------------------------------------------------------------------------------

MADE = module._made()


def test_a_token_looks_as_documented():
    """
    The pattern that the documentation gives to searches for leaked secrets finds it in a text.
    """
    assert re.findall(r"\bug_[0-9A-Za-z]{49}\b", f'token={MADE}, "{MADE}"\'') == [MADE, MADE]
    assert len({module._made() for _ in range(1000)}) == 1000


def test_all_random_bits_are_in_the_text(monkeypatch):
    """
    The smallest and the largest number have the same length, and each bit makes another token.
    """
    seen = set()
    numbers = [0, 2**256 - 1, *(1 << bit for bit in range(256))]
    for number in numbers:
        monkeypatch.setattr(module.secrets, "token_bytes", lambda n, x=number: x.to_bytes(n))
        text = module._made()
        assert well_formed(text)
        assert len(text) == 52
        seen.add(text)
    assert len(seen) == len(numbers)


@given(st.text())
def test_no_text_is_a_token_by_chance(text):
    """
    Any text may be asked about, also one with lone surrogates.
    """
    assert not well_formed(text)
    assert not well_formed(MADE + text) or not text
    assert not well_formed(text + MADE) or not text


@given(st.integers(0, 51), st.characters())
def test_a_mistyped_character_is_noticed(at, character):
    """
    The checksum finds every single wrong character, of whatever kind.
    """
    text = MADE[:at] + character + MADE[at + 1 :]
    assert well_formed(text) is (text == MADE)


@given(st.integers(0, 50))
def test_swapped_characters_are_noticed(at):
    """
    And two neighbours that changed places.
    """
    text = MADE[:at] + MADE[at + 1] + MADE[at] + MADE[at + 2 :]
    assert well_formed(text) is (text == MADE)


@given(st.text(max_size=60) | st.from_regex(module._SHAPE, fullmatch=True))
def test_asking_about_any_text_is_safe(text):
    """
    Nobody holds what was never made, well-formed or not.
    """
    assert ASKED.check(text) is None


@pytest.fixture(scope="module", autouse=True)
def _asked(tmp_path_factory):
    global ASKED
    ASKED = Tokens(tmp_path_factory.mktemp("asked") / "access.db")
    ASKED.create("somebody", Role.ADMIN, "test")
    yield
    ASKED.close()


# -- who has it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
def test_a_token_tells_its_holder(tokens, role):
    """
    Name, role and number, and only for the very token.
    """
    text = tokens.create("alice", role, "root")
    assert tokens.check(text) == Holder("alice", role, 1)
    assert tokens.check(text.lower()) is None
    assert tokens.check(f" {text}") is None
    assert tokens.check(f"{text}\n") is None
    assert tokens.check(module._made()) is None


def test_the_file_does_not_hold_the_token(tokens, tmp_path):
    """
    Neither the database nor what SQLite keeps beside it has the text, whole or in part.
    """
    text = tokens.create("alice", Role.ADMIN, "root")
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"alice" in held
    assert text[3:20].encode() not in held
    assert not any(text in str(entry) for entry in tokens.list())


def test_a_revoked_token_is_worthless_at_once(tokens, opened):
    """
    For who revoked it and for everybody else who has the file open; others stay.
    """
    other = opened()
    text, stays = (tokens.create(name, Role.ANALYST, "root") for name in ("alice", "bob"))
    assert other.check(text)
    entry = tokens.revoke("ALICE", "carol")
    assert (entry.name, entry.revoked_by, entry.state(0)) == ("alice", "carol", "revoked")
    for one in (tokens, other):
        assert one.check(text) is None
        assert one.check(stays) == Holder("bob", Role.ANALYST, 2)


def test_a_revoke_is_seen_by_another_process(tmp_path):
    """
    A process that has accepted a token refuses it with the next request after the revoke.
    """
    path = tmp_path / "access.db"
    tokens = Tokens(path)
    text = tokens.create("alice", Role.ADMIN, "root")
    code = (
        "import sys, pathlib\n"
        "from urlguard.access.tokens import Tokens\n"
        "tokens = Tokens(pathlib.Path(sys.argv[1]))\n"
        "for line in sys.stdin: print(tokens.check(line.strip()), flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as other:

        def asked(token):
            other.stdin.write(f"{token}\n")
            return other.stdout.readline().strip()

        assert "alice" in asked(text)
        new = tokens.create("bob", Role.ADMIN, "root")
        assert "bob" in asked(new)
        tokens.revoke("alice", "root")
        assert asked(text) == "None"
        assert "bob" in asked(new)
        other.stdin.close()
        assert other.wait(10) == 0
    tokens.close()


def test_a_token_expires(tokens, clock):
    """
    At the very second; its name stays taken until somebody revokes it.
    """
    end = clock.now + 100
    text = tokens.create("alice", Role.ANALYST, "root", end)
    clock.now = end - 0.001
    assert tokens.check(text)
    assert tokens.list()[0].state(clock.now) == "active"
    clock.now = end
    assert tokens.check(text) is None
    assert tokens.list()[0].state(clock.now) == "expired"
    with pytest.raises(AccessError, match="there is one, of role analyst"):
        tokens.create("alice", Role.ANALYST, "root")
    with pytest.raises(AccessError, match="must be to come"):
        tokens.create("bob", Role.ANALYST, "root", end)


def test_a_name_is_given_once(tokens):
    """
    A taken name is refused; a revoked one too, unless it is the same holder; nothing is changed.
    """
    first = tokens.create("alice", Role.ANALYST, "root")
    for again in (False, True):
        with pytest.raises(AccessError, match="there is one"):
            tokens.create("Alice", Role.ANALYST, "root", again=again)
    tokens.revoke("alice", "root")
    with pytest.raises(AccessError, match="was revoked 2024-10-04T00:00:00Z, and stands in"):
        tokens.create("Alice", Role.ANALYST, "root")
    assert len(tokens.list()) == 1
    second = tokens.create("alice", Role.AUDITOR, "root", again=True)
    assert tokens.check(first) is None
    assert tokens.check(second) == Holder("alice", Role.AUDITOR, 2)
    assert [entry.state(0) for entry in tokens.list()] == ["revoked", "active"]


def test_only_what_stands_can_be_revoked(tokens):
    """
    An unknown name and one that was revoked already are told apart.
    """
    with pytest.raises(AccessError, match="token alice: there is none"):
        tokens.revoke("alice", "root")
    tokens.create("alice", Role.ANALYST, "root")
    tokens.revoke("alice", "root")
    with pytest.raises(AccessError, match="token alice: was revoked 2024-10-04T"):
        tokens.revoke("alice", "root")
    with pytest.raises(AccessError, match=r"token \\x1b\[2J\\udcff: there is none"):
        tokens.revoke("\x1b[2J\udcff", "root")


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "-a", ".a", "a\n", "a\0", "é", "аlice", "a" * 65, "a/b", "\udcff"]
)
def test_names_that_none_may_have(tokens, name):
    """
    ASCII alone: a Cyrillic "а" would be somebody else under the same name in the audit.
    """
    with pytest.raises(TokenNameError, match="must be 1 to 64 ASCII letters") as caught:
        tokens.create(name, Role.ANALYST, "root")
    assert str(caught.value).isprintable()
    assert isinstance(caught.value, InputError)  # a wrong call, for the command's exit code
    assert tokens.list() == []


@pytest.mark.parametrize("name", ["a", "zhang.wei@example.com", "crawler-2", "9_+x", "a" * 64])
def test_names_that_one_may_have(tokens, name):
    """
    People's addresses and programs' names.
    """
    assert tokens.check(tokens.create(name, Role.ANALYST, "root")).name == name


def test_admin_is_an_admin(tokens):
    """
    The name of the first start's token is for no other role.
    """
    for name in ("admin", "Admin"):
        with pytest.raises(TokenNameError, match="is for the role admin, not reporter"):
            tokens.create(name, Role.REPORTER, "root")
    assert tokens.create("admin", Role.ADMIN, "root")


def test_who_made_it_cannot_drive_a_terminal(tokens):
    """
    A user's name comes from the environment.
    """
    tokens.create("alice", Role.ANALYST, "\x1b[2J\udcff" + "x" * 1000)
    made_by = tokens.list()[0].created_by
    assert made_by.startswith(r"\x1b[2J\udcffxxx")
    assert len(made_by) < 250


# -- the day of the last use -----------------------------------------------------------------------


def test_the_last_day_is_kept(opened, clock):
    """
    It is written once a day, also for who reads the file from elsewhere.
    """
    tokens, other = opened(), opened()
    text = tokens.create("alice", Role.ANALYST, "root")
    unused = tokens.create("bob", Role.ANALYST, "root")
    assert [entry.used_on for entry in tokens.list()] == [None, None]
    for days, said in ((0, "2024-10-04"), (0.9, "2024-10-04"), (1, "2024-10-05")):
        clock.now = (20_000 + days) * DAY
        assert tokens.check(text)
        written(tokens)
        assert [str(entry.used_on) for entry in other.list()] == [said, "None"]
    assert other.check(unused)
    other.close()  # writes what it has not written yet
    assert str(tokens.list()[1].used_on) == "2024-10-05"


def written(tokens):
    """Wait until the thread has done what was asked of it."""
    tokens._background.submit(lambda: None).result()


def test_one_write_a_day(tokens, tmp_path, clock):
    """
    Many uses on one day change the file once, and an older day never replaces a newer one.
    """
    text = tokens.create("alice", Role.ANALYST, "root")
    watching = sqlite3.connect(tmp_path / "access.db")

    def version():
        return watching.execute("PRAGMA data_version").fetchone()[0]

    before = version()
    for _ in range(3):
        assert tokens.check(text)
        written(tokens)
    once = version()
    assert once != before
    for _ in range(50):
        assert tokens.check(text)
        written(tokens)
    assert version() == once
    clock.now -= 3 * DAY  # a clock that was wrong, and is put right
    assert tokens.check(text)
    written(tokens)
    assert version() == once
    watching.close()


@pytest.mark.timing
def test_a_day_that_cannot_be_written_harms_nobody(tokens, tmp_path, clock, monkeypatch):
    """
    The token is valid all the same, at once, and the day is written with the next.
    """
    monkeypatch.setattr(module, "BUSY_S", 0.05)
    alice, bob = (tokens.create(name, Role.ANALYST, "root") for name in ("alice", "bob"))
    blocking = sqlite3.connect(tmp_path / "access.db", isolation_level=None)
    blocking.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    assert tokens.check(alice)
    assert time.monotonic() - started < 0.04
    written(tokens)
    blocking.execute("ROLLBACK")
    blocking.close()
    assert tokens.list()[0].used_on is None
    assert tokens.check(bob)
    written(tokens)
    assert None not in [entry.used_on for entry in tokens.list()]


# -- the file --------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_files_are_for_their_owner_alone(tmp_path, umask):
    """
    Whatever the umask: the database, what SQLite keeps beside it, and the first admin's token.
    """
    folder = tmp_path / "var"
    folder.mkdir()
    before = os.umask(umask)
    try:
        tokens = Tokens(folder / "access.db")
        made = tokens.first_admin(folder / "admin.token")
        assert sorted(path.name for path in folder.iterdir()) == [
            "access.db", "access.db-shm", "access.db-wal", "admin.token",
        ]  # fmt: skip
        assert {mode(path) for path in folder.iterdir()} == {0o600}
        assert tokens.check(made.read_text().strip())
        tokens.close()
    finally:
        os.umask(before)


def test_the_folder_is_made(tmp_path):
    """
    A command may be what first needs it; others cannot look into it.
    """
    before = os.umask(0)
    try:
        Tokens(tmp_path / "a" / "var" / "access.db").close()
    finally:
        os.umask(before)
    assert mode(tmp_path / "a" / "var") == 0o750


def test_a_file_that_others_may_write_is_made_private(tmp_path):
    """
    Such as one that was copied back: who may write it could make himself admin.
    """
    path = tmp_path / "access.db"
    Tokens(path).close()
    path.chmod(0o666)
    Tokens(path).close()
    assert mode(path) == 0o600


@pytest.mark.parametrize("content", [b"no database at all, but some text" * 99, "newer", "folder"])
def test_what_is_no_file_of_ours(tmp_path, content):
    """
    Is refused with its name, and stays as it is.
    """
    path = tmp_path / "access.db"
    if content == "folder":
        path.mkdir()
    elif content == "newer":
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version = 2")
        db.close()
    else:
        path.write_bytes(content)
    with pytest.raises(AccessError, match=r"tokens .*access\.db: "):
        Tokens(path)
    if isinstance(content, bytes):
        assert path.read_bytes() == content


def test_while_the_file_cannot_be_read_the_last_good_state_holds(tmp_path, clock, capfd):
    """
    It is told once, and what lies there later is taken over.
    """
    path = tmp_path / "access.db"
    tokens = Tokens(path, now=clock)
    text = tokens.create("alice", Role.ANALYST, "root")
    assert tokens.check(text)
    away = tmp_path / "away.db"
    path.rename(away)
    tokens._file_due = 0.0  # instead of waiting for a second
    for _ in range(3):
        assert tokens.check(text) == Holder("alice", Role.ANALYST, 1)
        tokens._file_due = 0.0
    with pytest.raises(AccessError, match="unable to open"):
        tokens.revoke("alice", "root")
    said = capfd.readouterr().err
    assert said.count("access.unreadable") == 1
    another = Tokens(path, now=clock)
    new = another.create("bob", Role.ADMIN, "root")
    tokens._file_due = 0.0
    assert tokens.check(text) is None
    assert tokens.check(new) == Holder("bob", Role.ADMIN, 1)
    another.close()
    tokens.close()


@pytest.mark.timing
def test_a_writer_does_not_hold_up_who_asks(tokens, opened, tmp_path):
    """
    While another process writes, tokens are checked as they were before.
    """
    text = tokens.create("alice", Role.ANALYST, "root")
    fresh = opened()
    other = sqlite3.connect(tmp_path / "access.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("UPDATE token SET revoked_at = 1, revoked_by = 'x'")
    started = time.monotonic()
    assert fresh.check(text)
    assert tokens.check(text)
    assert time.monotonic() - started < 1.0
    other.execute("COMMIT")
    other.close()
    assert fresh.check(text) is None


def test_many_threads_may_ask(tokens):
    """
    While tokens come and go, the one that stays is accepted by every thread.
    """
    stays = tokens.create("alice", Role.ANALYST, "root")
    wrong, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            if tokens.check(stays) is None:
                wrong.append(1)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(15):
            text = tokens.create(f"n{number}", Role.CRAWLER, "root")
            assert tokens.check(text)
            tokens.revoke(f"n{number}", "root")
            assert tokens.check(text) is None
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.timing
def test_asking_costs_microseconds(tokens):
    """
    A valid token in 20 µs of processor time, with a thousand tokens in the file.
    """
    with tokens._writing() as db:
        for number in range(1000):
            tokens._insert(db, module._made(), f"n{number}", Role.CRAWLER, "test", None, False)
    text = tokens.create("alice", Role.ANALYST, "root")
    assert tokens.check(text)
    costs = []
    for _ in range(20):
        started = time.thread_time()
        for _ in range(500):
            tokens.check(text)
        costs.append((time.thread_time() - started) / 500)
    assert min(costs) < 20e-6 * slowness()


def test_a_file_that_another_process_is_making(tmp_path):
    """
    Before it is in WAL mode SQLite does not wait for a writer there, but refuses at once.
    """
    path = tmp_path / "access.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))
    timer.start()
    tokens = Tokens(path)
    timer.join()
    assert tokens.check(tokens.create("alice", Role.ANALYST, "root"))
    tokens.close()
    other.close()


def test_a_file_that_stays_locked(tmp_path, monkeypatch):
    """
    Is not waited for without an end.
    """
    monkeypatch.setattr(module, "BUSY_S", 0.1)
    other = sqlite3.connect(tmp_path / "access.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(AccessError, match="database is locked"):
        Tokens(tmp_path / "access.db")
    other.close()


# -- several at once -------------------------------------------------------------------------------

RACE = """
import pathlib, sys
from urlguard.access.roles import Role
from urlguard.access.tokens import AccessError, Tokens
folder = pathlib.Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    tokens = Tokens(folder / "access.db")
    if sys.argv[2] == "create":
        print(tokens.create("alice", Role.ANALYST, "test"))
    else:
        print(tokens.first_admin(folder / "admin.token"))
except AccessError as exc:
    print("refused:", exc)
"""


def race(folder, what, count=6):
    """What so many processes say that do the same at the same time, on a new file."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, folder, what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for one in running:
        assert one.stdout.readline() == "ready\n"
    for one in running:
        one.stdin.write("\n")
        one.stdin.flush()
    return [one.communicate(timeout=60)[0].strip() for one in running]


def test_two_processes_make_the_same_name(tmp_path):
    """
    One gets a token, which is valid; the others are told that the name is taken, not that the file
    is locked.
    """
    for turn in range(3):
        folder = tmp_path / str(turn)
        folder.mkdir()
        said = race(folder, "create")
        (made,) = (text for text in said if text.startswith("ug_"))
        assert all("there is one, of role analyst" in text for text in said if text != made), said
        tokens = Tokens(folder / "access.db")
        assert tokens.check(made)
        assert len(tokens.list()) == 1
        tokens.close()


def test_two_first_starts(tmp_path):
    """
    One of them makes the admin, and its token is the one in the file.
    """
    for turn in range(3):
        folder = tmp_path / str(turn)
        folder.mkdir()
        said = race(folder, "first_admin")
        assert sorted(said) == [str(folder / "admin.token")] + ["None"] * 5
        tokens = Tokens(folder / "access.db")
        assert tokens.check((folder / "admin.token").read_text().strip())
        assert len(tokens.list()) == 1
        tokens.close()


# -- the first admin -------------------------------------------------------------------------------


def test_the_first_admin(tokens, tmp_path):
    """
    Once: the file has one line, the token; a second call touches nothing.
    """
    file = tmp_path / "admin.token"
    assert tokens.first_admin(file) == file
    text = file.read_text()
    assert text.endswith("\n")
    assert tokens.check(text.strip()) == Holder("admin", Role.ADMIN, 1)
    assert tokens.first_admin(file) is None
    assert file.read_text() == text
    assert not (tmp_path / "admin.token.partial").exists()


def test_no_first_admin_where_there_was_one(tokens, tmp_path):
    """
    Neither after the file was taken away, nor after he was revoked, nor where a command made one.
    """
    file = tmp_path / "admin.token"
    tokens.create("root", Role.ADMIN, "command")
    assert tokens.first_admin(file) is None
    tokens.revoke("root", "command")
    assert tokens.first_admin(file) is None
    assert not file.exists()


def test_others_do_not_stand_in_for_the_first_admin(tokens, tmp_path):
    """
    A token of another role that was made before the first start is no admin.
    """
    tokens.create("crawler", Role.CRAWLER, "command")
    assert tokens.first_admin(tmp_path / "admin.token")


def test_what_lies_in_the_place_of_the_file(tokens, tmp_path):
    """
    An old token and a link are replaced, where the link leads is not written; a folder is refused,
    and then nobody is admin.
    """
    file, elsewhere = tmp_path / "admin.token", tmp_path / "elsewhere"
    file.mkdir()
    with pytest.raises(AccessError, match=r"admin\.token"):
        tokens.first_admin(file)
    assert tokens.list() == []
    assert not (tmp_path / "admin.token.partial").exists()
    file.rmdir()
    elsewhere.write_text("mine")
    file.symlink_to(elsewhere)
    assert tokens.first_admin(file) == file
    assert not file.is_symlink()
    assert elsewhere.read_text() == "mine"


KILLED = """
import os, pathlib, signal, sqlite3, sys
from urlguard.access import tokens

left = int(sys.argv[2])

def step():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def stepping(real):
    def run(*arguments, **keys):
        step()
        done = real(*arguments, **keys)
        step()
        return done
    return run

class Connection(sqlite3.Connection):
    execute = stepping(sqlite3.Connection.execute)

connect = sqlite3.connect
sqlite3.connect = lambda *a, **k: connect(*a, **k, factory=Connection)
for name in ("open", "fsync", "fchmod"):
    setattr(os, name, stepping(getattr(os, name)))
pathlib.Path.replace = stepping(pathlib.Path.replace)
tokens.first_start(pathlib.Path(sys.argv[1]))
print("to the end", left)
"""


def test_a_crash_at_any_moment_leaves_no_admin_whom_nobody_knows(tmp_path):
    """
    Killed before and after every call to the file system and the database: an admin who is valid
    then has the token in the file, and the next start makes one unless there is.
    """
    outcomes = set()
    for step in range(1, 200):
        folder = tmp_path / str(step)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", KILLED, folder, str(step)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        file = folder / "admin.token"
        tokens = Tokens(folder / "access.db")
        valid = [entry for entry in tokens.list() if entry.state(0) == "active"]
        holder = tokens.check(file.read_text().strip()) if file.exists() else None
        assert bool(valid) is (holder is not None), step
        outcomes.add((file.exists(), bool(valid)))
        assert (tokens.first_admin(file) is None) is bool(valid)
        assert tokens.check(file.read_text().strip()) == Holder("admin", Role.ADMIN, 1)
        assert len(tokens.list()) == 1
        assert mode(file) == 0o600
        tokens.close()
        assert [path.name for path in sorted(folder.iterdir())] == ["access.db", "admin.token"]
        if done.returncode == 0:
            assert done.stdout.startswith("to the end")
            break
        assert done.returncode == -9, done.stderr
    assert outcomes == {(False, False), (True, False), (True, True)}
    assert step > 20


def test_a_full_disk_at_the_first_start(tmp_path, monkeypatch, capfd):
    """
    An event, no admin and nothing that looks like a token; the next start makes one.
    """

    def full(file):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        module.first_start(tmp_path)
    assert "access.first_admin_failed" in (said := capfd.readouterr().err)
    assert "No space left on device" in said
    assert [path.name for path in tmp_path.iterdir()] == ["access.db"]
    module.first_start(tmp_path)
    said = capfd.readouterr().err
    assert "access.first_admin" in said
    assert str(tmp_path / "admin.token") in said
    token = Path(tmp_path / "admin.token").read_text().strip()
    assert token not in said
    module.first_start(tmp_path)
    assert capfd.readouterr().err == ""
