"""Compiling the log into a snapshot: what stands, whole, or not at all."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.logs import SqliteLocation, open_file
from tests.policy.conftest import database, log, say  # noqa: F401 - fixtures
from urlguard import compile as compiling
from urlguard.blocklist import snapshot
from urlguard.errors import PolicyError, SnapshotError
from urlguard.policy.model import Change
from urlguard.verdict import decode


def contents(opened):
    """Every key of a snapshot with what stands there."""
    found = {}
    for value, cell in opened.names.items():
        found |= {f"{kind} {value}": parts for kind, parts in cell.items()}
    found |= {f"url {value}": opened.url(value) for value, _ in opened.urls.items()}
    return found | {f"pattern {text}": opened.pattern(text) for text in opened.patterns.texts}


@pytest.fixture
def folder(tmp_path):
    """Where snapshots go."""
    return tmp_path / "snapshots"


@pytest.fixture
def filled(say, database):
    """A log with rules of all kinds from three sources, and an exception."""
    say(
        "feed:a", "block subtree evil.example", "block domain evil.example", "block below b.example"
    )
    say("feed:b", "review subtree evil.example", "except subtree www.evil.example")
    say("feed:b", "block url page.example/login", "block pattern pay-*-verify.example")
    say("operator", "allow subtree b.example", "review url page.example/", "block pattern *paypa1*")
    say("feed:a", "block domain gone.example")
    say("feed:a", "end domain gone.example")
    return database


def test_a_snapshot_is_what_stands(log, filled, folder):
    """
    Every key at which something stands is in the snapshot with exactly that ruling, no other key
    is, and the snapshot's serial is the log's.
    """
    path = compiling.compile_here(SqliteLocation(filled), folder)
    opened = snapshot.open_folder(path)
    assert (opened.serial, path.name) == (6, "0000000006-1")
    got = contents(opened)
    with log.store.reading():
        wanted = dict(log.rulings())
    assert got.keys() == wanted.keys()
    assert len(opened) == 9 - 2  # three kinds at evil.example are one value
    for key, text in wanted.items():
        assert log.ruling(key) == decode(text, key)
        if isinstance(got[key], list):
            assert got[key] == json.loads(text)
        else:
            assert got[key] == decode(text, key)


@pytest.mark.parametrize("other", ["feed:z", "operator", "analyst:zoe", "feed:0"])
def test_each_claim_keeps_its_source(say, database, folder, other):
    """
    In a snapshot, too, a rule says who made it, whichever source comes last.
    """
    say("feed:a", "block subtree evil.example")
    say(other, "allow subtree good.example")
    opened = snapshot.open_folder(compiling.compile_here(SqliteLocation(database), folder))
    assert opened.names.get("evil.example")["subtree"] == ["block", "fraud", ["feed:a"], 1]
    assert opened.names.get("good.example")["subtree"] == ["allow", "fraud", [other], 2]


def test_the_newest_serial_is_compiled_once(filled, folder, say):
    """
    A compile without news gives the snapshot that is there; a damaged one is made anew beside it.
    """
    first = compiling.compile_here(SqliteLocation(filled), folder)
    assert compiling.compile_here(SqliteLocation(filled), folder) == first
    (first / "names.trie").write_bytes(b"")
    second = compiling.compile_here(SqliteLocation(filled), folder)
    assert second.name == "0000000006-2"
    say("operator", "block domain x.example")
    assert compiling.compile_here(SqliteLocation(filled), folder).name == "0000000007-1"


def test_old_snapshots_are_pruned(filled, folder, say):
    """
    The newest two stay: the one in use by a worker that is behind, and the new one.
    """
    for i in range(5):
        say("operator", f"block domain n{i}.example")
        compiling.compile_here(SqliteLocation(filled), folder)
    assert [p.name for p in snapshot.newest(folder)] == ["0000000011-1", "0000000010-1"]
    assert sorted(p.name for p in folder.iterdir()) == [".lock", "0000000010-1", "0000000011-1"]


def test_an_empty_log_compiles(database, folder):
    """
    No rules are a policy too.
    """
    opened = snapshot.open_folder(compiling.compile_here(SqliteLocation(database), folder))
    assert (opened.serial, len(opened)) == (0, 0)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A log whose compile takes a while."""
    path = tmp_path_factory.mktemp("large") / "policy.db"
    log = open_file(path)
    rules = [Change(f"subtree host{i * 7919}.evil.example", "block", "x") for i in range(40_000)]
    rules += [Change(f"pattern *literal{i}*", "block", "x") for i in range(2000)]
    log.commit("feed:a", rules, actor="test", reason="")
    log.close()
    return path


def begin(database, folder, **how):
    """A compile in another process, which has got the log's URL."""
    run = subprocess.Popen(compiling.command(folder), stdin=subprocess.PIPE, text=True, **how)
    run.stdin.write(SqliteLocation(database).url)
    run.stdin.close()
    run.stdin = None
    return run


def test_compiles_at_the_same_time_take_turns(large, folder):
    """
    Several processes compile the same serial; all name one good snapshot.
    """
    runs = [begin(large, folder, stdout=subprocess.PIPE) for _ in range(4)]
    outputs = {run.communicate(timeout=60)[0].strip() for run in runs}
    assert outputs == {str(folder / "0000000001-1")}
    assert len(snapshot.open_folder(snapshot.newest(folder)[0])) == 42_000
    assert not list(folder.glob(".writing-*"))


def test_a_killed_compile_leaves_nothing_that_is_opened(large, folder):
    """
    Killed at any moment, a compile leaves no snapshot or a whole one, and the next one clears up.
    """
    rng = random.Random(7)
    unfinished = 0
    for turn in range(14):
        run = begin(large, folder, stdout=subprocess.DEVNULL)
        if turn % 4 == 0:
            time.sleep(rng.uniform(0.1, 0.7))
        else:  # while it writes
            while run.poll() is None and not list(folder.glob(".writing-*")):
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.1))
        run.send_signal(signal.SIGKILL)
        run.wait()
        unfinished += bool(list(folder.glob(".writing-*")))
        for path in snapshot.newest(folder):
            assert len(snapshot.open_folder(path)) == 42_000
            shutil.rmtree(path)
    assert unfinished, "no compile was caught while it wrote; the test has lost its point"
    path = compiling.compile_apart(SqliteLocation(large), folder)
    assert len(snapshot.open_folder(path)) == 42_000
    assert sorted(p.name for p in folder.iterdir()) == [".lock", path.name]


@pytest.fixture
def worded(log, database):
    """A log of which patterns are the largest part."""
    changes = [Change(f"pattern *literal{i}*", "block", "x") for i in range(500)]
    log.commit("feed:a", changes, actor="test", reason="")
    return database


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize(("which", "file"), [("large", "names.trie"), ("worded", "patterns.ac")])
def test_a_full_disk_leaves_nothing_half_written(request, folder, which, file, share):
    """
    When a file cannot grow any more the compile fails with a message, and the folder is as before.
    """
    database = request.getfixturevalue(which)
    before = compiling.compile_here(SqliteLocation(database), folder)
    limit = max(0, int((before / file).stat().st_size * share) - 1)
    before = before.rename(before.with_name("0000000000-1"))
    script = (
        "import resource, signal, sys\n"
        "from urlguard import compile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))\n"
        "sys.exit(compile.main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(database), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
    assert sorted(p.name for p in folder.iterdir()) == [".lock", before.name]


def test_a_failed_compile_says_why(tmp_path, folder):
    """
    The reason reaches whoever asked for the compile.
    """
    database = tmp_path / "policy.db"
    database.write_bytes(b"not a database, whatever its name says" * 100)
    with pytest.raises(PolicyError, match="not a database"):
        compiling.compile_apart(SqliteLocation(database), folder)
    blocked = tmp_path / "file"
    blocked.touch()
    database.unlink()
    with pytest.raises(PolicyError, match="file"):
        compiling.compile_apart(SqliteLocation(database), blocked)


def test_rubbish_in_the_folder_is_no_snapshot(folder, filled):
    """
    Only folders with a proper name count.
    """
    folder.mkdir()
    for name in ("0000000009", "9-1", "x0000000009-1", "0000000009-1.tmp", ".writing-0000000009-1"):
        (folder / name).mkdir()
    assert snapshot.newest(folder) == []
    (folder / "0000000009-1").mkdir()
    with pytest.raises(SnapshotError, match="no usable manifest"):
        snapshot.open_folder(folder / "0000000009-1")
