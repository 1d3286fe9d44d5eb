"""The end of a process between the log's commit and the store's word of it, with a real log."""

import os
import subprocess
import sys

import pytest

from tests.cases.conftest import NOW
from tests.logs import open_file
from urlguard.cases.model import Choice, State
from urlguard.cases.recovery import recover
from urlguard.policy.model import Change

# Decides case 1 as `act`, as the control process does, and ends without a word at the step `end`.
DECIDER = """
import os, sys
from pathlib import Path
from tests.cases.conftest import NOW
from tests.logs import open_file
from urlguard.cases.drivers.sqlite import SqliteStore
from urlguard.cases.model import Choice
from urlguard.policy.model import Change
folder, act, end = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
store, log = SqliteStore(folder / "cases.db"), open_file(folder / "policy.db")
def step(name):
    if name == end:
        os._exit(9)
def commit(action):
    if act in ("block", "allow"):
        evidence = made.evidence(1)
        change = Change("subtree a.example", action, "phishing" if action else "", evidence)
        return log.commit("analyst:ann", [change], actor="ann", reason="").serial
made = store.begin([1], "ann", Choice(act, "phishing"), NOW, key="k")
step("begun")
serial = commit(act)
step("committed")
store.finish(made.number, serial, NOW)
step("finished")
store.undo(made.number, "bob", "", NOW)
step("undoing")
serial = commit(None)
step("withdrawn")
"""


@pytest.mark.parametrize(
    ("act", "end", "state", "rule"),
    [
        ("block", "begun", "open", None),
        ("block", "committed", "decided", "block"),
        ("allow", "committed", "decided", "allow"),
        ("block", "finished", "decided", "block"),
        ("block", "undoing", "decided", "block"),
        ("block", "withdrawn", "open", None),
        ("dismiss", "begun", "dismissed", None),
        ("watch", "begun", "decided", None),
        ("dismiss", "undoing", "open", None),
    ],
)
def test_store_and_log_agree_after_a_crash(tmp_path, harness, act, end, state, rule):
    """
    Wherever the process ended: the case is as the log says, and a second look changes nothing.
    """
    harness.bring("a.example")
    command = [sys.executable, "-c", DECIDER, str(tmp_path), act, end]
    assert subprocess.run(command, check=False, env={**os.environ}).returncode == 9
    log = open_file(tmp_path / "policy.db")

    def standing(made, case):
        claim = log.store.active("analyst:ann", "subtree a.example")
        return claim.from_serial if claim and claim.evidence == made.evidence(case) else None

    done = recover(harness.store, harness.store.unfinished(), standing, NOW + 1)
    assert sum(done) == (end != "finished")
    assert recover(harness.store, harness.store.unfinished(), standing, NOW + 2) == (0, 0)
    case = harness.only()
    ruling = log.ruling("subtree a.example")
    assert (case.state, ruling and ruling.action) == (state, rule)
    assert harness.store.unfinished() == []
    if rule:
        assert harness.store.decision(1).serial == 1
    log.close()


def test_somebody_elses_claim_is_no_evidence(harness, tmp_path):
    """
    That the name is blocked proves nothing: the decision's own number does.
    """
    harness.bring("a.example")
    made = harness.store.begin([1], "ann", Choice("block"), NOW)
    log = open_file(tmp_path / "policy.db")
    log.commit(
        "analyst:ann", [Change("subtree a.example", "block", "", "case:1:77")], actor="x", reason=""
    )

    def standing(made, case):
        claim = log.store.active("analyst:ann", "subtree a.example")
        return claim.from_serial if claim.evidence == made.evidence(case) else None

    assert recover(harness.store, harness.store.unfinished(), standing, NOW) == (0, 1)
    assert harness.only().state == State.OPEN
    assert harness.store.decision(made.number).step == "aborted"
    log.close()
