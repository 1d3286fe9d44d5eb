"""Checkpoints while the server runs: when they are made, and what is said if they cannot be."""

import asyncio
import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from tests.logs import log_file, open_file
from tests.running import wait_until
from urlguard.config import Config
from urlguard.control import checkpoints
from urlguard.control.checkpoints import Checkpoints
from urlguard.policy import checkpoint
from urlguard.policy.model import Change


@pytest.fixture
def config(tmp_path):
    """A configuration on a folder with a log of one batch."""
    made = replace(Config(), state_dir=tmp_path)
    commit(log_file(made), "a")
    return made


def commit(path, *names):
    with contextlib.closing(open_file(path)) as log:
        for name in names:
            change = Change(f"subtree {name}.example", "block", "fraud")
            log.commit("operator", [change], actor="test", reason="")


def serials(folder):
    return [checkpoint.serial_of(path) for path in checkpoint.kept(folder)]


def said(capsys):
    """The events since the last look: name and level."""
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    return [(line["event"], line["level"]) for line in lines]


async def test_signs_while_the_log_grows(config, monkeypatch):
    """
    Once in each span, if there is something new, and off the event loop's thread.
    """
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.01)
    threads = []
    original = checkpoint.sign

    def sign(*arguments):
        threads.append(threading.current_thread())
        return original(*arguments)

    monkeypatch.setattr(checkpoint, "sign", sign)
    one = Checkpoints(config)
    task = asyncio.create_task(one.run())
    for serial in (1, 2):
        async with asyncio.timeout(10):
            while serials(config.state_dir)[:1] != [serial]:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert len(threads) == serial  # nothing new, nothing to do
        commit(log_file(config), f"n{serial}")
    task.cancel()
    await one.finish()
    assert serials(config.state_dir)[0] == 3
    assert threading.main_thread() not in threads


@pytest.mark.timing
async def test_a_thread_that_hangs_does_not_hold_up_the_stop(config, monkeypatch):
    """
    As with a disk that answers no more.
    """
    monkeypatch.setattr(checkpoints, "LAST_S", 0.1)
    go_on = threading.Event()
    one = Checkpoints(config)
    monkeypatch.setattr(one, "sign", lambda: go_on.wait(20))
    began = time.monotonic()
    await one.finish()
    assert time.monotonic() - began < 5
    go_on.set()


def test_a_new_key_is_told(config, capsys):
    """
    Once: somebody must carry its public half to the auditors.
    """
    one = Checkpoints(config)
    one.sign()
    commit(log_file(config), "b")
    one.sign()
    assert said(capsys) == [("checkpoint.key", "info")]
    assert serials(config.state_dir) == [2, 1]


def test_a_log_that_was_rewritten_is_told_and_not_signed(config, capsys):
    """
    Once an hour, as an error, until it is as it was.
    """
    commit(log_file(config), "b")
    one = Checkpoints(config)
    one.sign()
    said(capsys)
    good = config.state_dir / "good.db"
    with contextlib.closing(sqlite3.connect(log_file(config))) as db, db:
        db.execute("VACUUM INTO ?", (str(good),))
        db.execute("UPDATE batch SET hash = ? WHERE serial = 2", ("0" * 64,))
    for _ in range(3):
        one.sign()
    assert said(capsys) == [("checkpoint.refused", "error")]
    assert serials(config.state_dir) == [2]
    shutil.copy(good, log_file(config))
    commit(log_file(config), "c")
    one.sign()
    assert said(capsys) == [("checkpoint.resumed", "info")]
    assert serials(config.state_dir) == [3, 2]


def test_trouble_is_told_again_after_an_hour(config, capsys, monkeypatch):
    """
    And at once if it is another trouble.
    """
    one = Checkpoints(config)
    one.sign()
    (config.state_dir / "log.key").chmod(0o644)
    commit(log_file(config), "b")
    said(capsys)
    for _ in range(2):
        one.sign()
    assert said(capsys) == [("checkpoint.failed", "warning")]
    later = time.monotonic() + checkpoints.LOG_EVERY_S
    monkeypatch.setattr(one._log_throttle, "_clock", lambda: later)
    one.sign()
    assert said(capsys) == [("checkpoint.failed", "warning")]


FULL = """
import resource, sys
from dataclasses import replace
from pathlib import Path
from urlguard.config import Config
from urlguard.control.checkpoints import Checkpoints

one = Checkpoints(replace(Config(), state_dir=Path(sys.argv[1])))
for limit in (50, 50, 1 << 20):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    one.sign()
"""


def test_a_full_disk_is_told_once_and_leaves_nothing(config):
    """
    It goes on as soon as there is room.
    """
    done = subprocess.run(
        [sys.executable, "-c", FULL, config.state_dir],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert events == ["checkpoint.failed", "checkpoint.key", "checkpoint.resumed"]
    assert serials(config.state_dir) == [1]
    assert not list(config.state_dir.rglob(".*.part"))


@pytest.mark.slow
def test_a_server_signs_when_it_stops(server):
    """
    Everything that was committed is signed at the stop; a later server goes on from there, and
    a log that was rewritten meanwhile is found by it.
    """
    one = server().start()
    assert one.run("block", "x.example").returncode == 0
    head = json.loads(one.run("log", "--json").stdout.splitlines()[-1])
    assert one.stop() == 0
    state = one.folder / "var"
    (path,) = checkpoint.kept(state)
    keys = checkpoint.public_keys(state / "log.pub")
    (signed,) = checkpoint.read([path], keys)
    assert (signed.serial, signed.hash) == (head["serial"], head["hash"])
    audited = one.run("log", "--verify", "--checkpoint", str(path))
    assert audited.stdout.startswith("ok: ")
    with contextlib.closing(sqlite3.connect(state / "policy.db")) as db, db:
        db.execute("UPDATE batch SET hash = ? WHERE serial = ?", ("0" * 64, head["serial"]))
    one.start()
    one.stop()
    wait_until(lambda: '"checkpoint.refused"' in one.log.read_text())
    assert checkpoint.kept(state) == [path]
