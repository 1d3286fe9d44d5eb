"""Decisions without a running server: straight into the policy log."""

import contextlib
import fcntl
import json
import socket
import threading
import time

import pytest

from tests.logs import log_file
from urlguard import rules, times
from urlguard.cli import client
from urlguard.config import Config
from urlguard.errors import InputError, PolicyError
from urlguard.policy.location import open_log
from urlguard.policy.model import Change
from urlguard.processes import channel

EVIL = "subtree evil.example"


@pytest.fixture
def config(tmp_path):
    """A place without a server."""
    return Config(state_dir=tmp_path)


def apply(config, source, *changes):
    """Make changes as somebody."""
    return client.apply(config, source, list(changes), actor="eve", reason="because")


def test_without_a_server_the_log_is_written(config):
    """
    The decision is in the log when the call returns, with who and why.
    """
    done = apply(config, "operator", Change(EVIL, "block", "fraud"))
    assert done == (True, "serial 1, in force at the next start", True, 1)
    assert apply(config, "operator", Change(EVIL, "block", "fraud")).changed is False
    log = open_log(config, read_only=True)
    with contextlib.closing(log):
        (batch,) = log.store.batches()
        assert (batch.source, batch.actor, batch.reason) == ("operator", "eve", "because")
        assert log.ruling(EVIL).action == "block"


def test_a_socket_that_nobody_listens_on_is_no_server(config):
    """
    A server that was killed leaves its socket; decisions go to the log then.
    """
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(config.state_dir / "control.sock"))
    assert apply(config, "operator", Change(EVIL, "block")).changed


@pytest.fixture
def held(config):
    """A server holds the folder; its control process is not there."""
    with (config.state_dir / "serve.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def control(config, replies, after_s=0.0):
    """A control process that comes after a while and answers so; None hangs up. Gives requests."""
    asked = []
    listening = threading.Event()

    def serve():
        time.sleep(after_s)
        with channel.listen(channel.socket_path(config.state_dir)) as server:
            server.settimeout(10)
            listening.set()
            for reply in replies:
                connection, _ = server.accept()
                with connection:
                    asked.append(json.loads(connection.makefile("rb").readline()))
                    if reply is not None:
                        connection.sendall(channel.encode(reply))

    thread = threading.Thread(target=serve)
    thread.start()
    if not after_s:
        listening.wait()
    return thread, asked


IN_FORCE = {"serial": 7, "workers": 2, "in_force": 2, "changed": True}


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("replies", [[IN_FORCE], [None, IN_FORCE]])
def test_a_control_process_that_is_started_again_is_waited_for(config, replies):
    """
    During a reload nobody listens, or hangs up: the decision is asked for again, and reported as
    the workers confirm it.
    """
    thread, asked = control(config, replies, 0.5)
    done = apply(config, "operator", Change(EVIL, "block"))
    thread.join()
    assert done == (True, "serial 7, in force on 2 of 2 workers", True, 7)
    assert len(asked) == len(replies)
    assert not log_file(config).exists()


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("decide", ["apply", "pause"])
@pytest.mark.timing
def test_while_a_server_runs_nothing_waits_for_the_next_start(config, monkeypatch, decide):
    """
    A control process that stays away finds the decision in the log; nobody has confirmed it.
    """
    monkeypatch.setattr(client, "BACK_S", 0.5)
    began = time.monotonic()
    if decide == "apply":
        done = apply(config, "operator", Change(EVIL, "block"))
    else:
        done = client.pause(config, None, actor="eve", reason="")
    assert done == (True, "serial 1, in force in a moment", False, 1)
    assert 0.5 <= time.monotonic() - began < 3


def test_a_server_that_ended_over_a_decision_leaves_it_to_the_next_start(config):
    """
    It hung up and holds the folder no longer: nothing is waited for.
    """
    (config.state_dir / "serve.lock").touch()
    thread, _ = control(config, [None])
    done = apply(config, "operator", Change(EVIL, "block"))
    thread.join()
    assert done == (True, "serial 1, in force at the next start", True, 1)


def test_a_refused_change_changes_nothing(config):
    """
    One bad change refuses them all.
    """
    with pytest.raises(PolicyError, match="must be one of"):
        apply(config, "operator", Change(EVIL, "block"), Change("domain x.example", "destroy"))
    log = open_log(config, read_only=True)
    with contextlib.closing(log):
        assert log.serial == 0


def test_the_sources_that_remain(config):
    """
    Everybody else who says something about the rule now, with what it is.
    """
    apply(config, "operator", Change(EVIL, "block"))
    apply(config, "feed:a", Change(EVIL, "block"))
    apply(config, "feed:b", Change(EVIL, "except"))
    apply(config, "feed:c", Change(EVIL, "block"))
    apply(config, "feed:c", Change(EVIL, None))
    assert client.others(config, EVIL, "operator") == ["feed:a (block)", "feed:b (except)"]
    assert client.others(config, "subtree x.example", "operator") == []


def test_in_force_without_a_server_is_a_snapshot(config):
    """
    A refresh by hand leaves a compiled snapshot for the next start.
    """
    apply(config, "feed:a", Change(EVIL, "block"))
    client.in_force(config)
    (folder,) = (config.state_dir / "snapshots").glob("0*")
    assert folder.name == "0000000001-1"


DAY = 86_400


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("90s", 90), ("30m", 1800), ("12h", 43_200), ("7d", 7 * DAY), ("2w", 14 * DAY)],
)
def test_a_duration_counts_from_now(text, seconds):
    """
    A number and a unit.
    """
    assert abs(times.expiry(text) - time.time() - seconds) < 2


@pytest.mark.parametrize(
    ("text", "when"),
    [
        (None, None),
        ("2100-01-31T12:00Z", 4105080000),
        ("2100-01-31T12:00:00+00:00", 4105080000),
        ("2100-01-31T14:00+02:00", 4105080000),
        ("2100-01-31T12:00", 4105080000),  # without a zone: UTC
        ("2100-01-31", 4105036800),
    ],
)
def test_a_time_is_a_time(text, when):
    """
    ISO 8601, in UTC where no zone stands.
    """
    assert times.expiry(text) == when


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be a duration"),
        ("soon", "must be a duration"),
        ("12", "must be a duration"),
        ("12 h", "must be a duration"),
        ("1y", "must be a duration"),
        ("-1h", "must be a duration"),
        ("1.5h", "must be a duration"),
        ("9999999999s", "must be a duration"),
        ("2100-02-30", "must be a duration"),
        ("0s", "is in the past"),
        ("2020-01-01", "is in the past"),
        ("0001-01-01", "is in the past"),
    ],
)
def test_what_is_no_expiry(text, said):
    """
    Neither a duration nor a time, or one that has passed.
    """
    with pytest.raises(InputError, match=said):
        times.expiry(text)


def test_a_duration_after_the_beginning_counts_from_there():
    """
    A rule for a week that begins next month ends a week later; one that ends before it begins is
    refused.
    """
    assert times.expiry("7d", after=4105080000) == 4105080000 + 7 * DAY
    assert times.expiry("2100-02-28", after=4105080000) == 4107456000
    for text in ("0s", "2100-01-31T12:00Z", "2100-01-01"):
        with pytest.raises(InputError, match="must be later than 2100-01-31T12:00:00Z"):
            times.expiry(text, after=4105080000)


def test_pause_and_resume_are_decisions(config):
    """
    Who, when, why and until stand in the log; a second pause replaces the first.
    """
    assert client.paused(config) is None
    client.pause(config, None, actor="eve", reason="first")
    done = client.pause(config, 4105080000, actor="eve", reason="second")
    assert (done.changed, done.serial) == (True, 2)
    found = client.paused(config)
    assert (found.until, found.reason, found.serial, found.actor) == (
        4105080000,
        "second",
        2,
        "eve",
    )
    assert abs(found.since - time.time()) < 5
    assert found.words.startswith("until 2100-01-31T12:00:00Z (batch 2, by eve at 2")
    assert client.resume(config, actor="eve", reason="").changed
    assert client.paused(config) is None
    assert not client.resume(config, actor="eve", reason="").changed


def test_a_pause_is_over_at_its_end(config, monkeypatch):
    """
    Also in a log that nobody has told; one from before the end was in its ruling stands until then.
    """
    client.pause(config, 1795480000, actor="eve", reason="")
    monkeypatch.setattr(time, "time", lambda: 1795479999.5)
    assert client.paused(config).until == 1795480000
    monkeypatch.setattr(time, "time", lambda: 1795480000.0)
    assert client.paused(config) is None
    apply(config, "operator", Change(rules.PAUSE, "allow", "", "", 1795470000))
    assert client.paused(config).until == 1795470000


def test_plans_are_listed_by_their_time(config):
    """
    What, when, by whom and why, the next one first.
    """
    assert client.scheduled_rules(config) == []
    for begins, action in ((4105080000, "allow"), (4105036800, "block")):
        key = rules.scheduled(begins, EVIL)
        apply(config, "operator", Change(key, action, "fraud", "ticket", begins + DAY))
    first, second = client.scheduled_rules(config)
    assert (first.action, second.action) == ("block", "allow")
    assert (first.rule.key, first.source, first.reason, first.serial) == (
        EVIL, "operator", "ticket", 2,
    )  # fmt: skip
    assert first.words == "from 2100-01-31T00:00:00Z until 2100-02-01T00:00:00Z"
