"""Log lines: events with keys."""

import io
import json
import re
import subprocess
import sys

import pytest

from urlguard import events


@pytest.fixture(autouse=True)
def unbound(monkeypatch):
    """No keys of this process from other tests."""
    monkeypatch.setattr(events, "_common", {})


@pytest.mark.parametrize("level", ["info", "warning", "error"])
def test_a_line_is_a_json_object(capsys, level):
    """
    Where nobody looks on, one object a line, with time, level and event first.
    """
    getattr(events, level)("snapshot.swapped", serial=412, path="a b\n", what=None)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    line = json.loads(err)
    assert list(line) == ["time", "level", "event", "serial", "path", "what"]
    assert (line["level"], line["event"], line["path"]) == (level, "snapshot.swapped", "a b\n")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])


def test_keys_of_a_process_are_on_every_line(capsys):
    """
    What was bound once stands before the line's own keys, which win.
    """
    events.bind(role="worker", worker=2)
    events.info("a", worker=3)
    line = json.loads(capsys.readouterr().err)
    assert list(line)[3:] == ["role", "worker"]
    assert line["worker"] == 3


def test_anything_can_be_a_value(capsys, tmp_path):
    """
    Paths, exceptions and text from outside: a log line never raises.
    """
    events.error("x", path=tmp_path, error=ValueError("bad"), text="\udcff\x1b[31m", data=b"\xff")
    line = json.loads(capsys.readouterr().err)
    assert line["path"] == str(tmp_path)
    assert line["error"] == "bad"


def test_a_throttle_passes_one_line_per_key_and_interval():
    """
    Each key has its own interval; a reset makes the next line due, and memory is bounded.
    """
    now = 0.0
    throttle = events.Throttle(60.0, lambda: now)
    assert [throttle.due(), throttle.due(), throttle.due("a"), throttle.due("a")] == [1, 0, 1, 0]
    now = 59.9
    assert not throttle.due()
    now = 60.0
    assert [throttle.due(), throttle.due()] == [True, False]
    throttle.reset()
    assert [throttle.due(), throttle.due()] == [True, False]
    for key in range(10 * events.MAX_KEYS):
        assert throttle.due(key)
        assert len(throttle._logged) <= events.MAX_KEYS


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_at_a_terminal_lines_are_readable(monkeypatch):
    """
    Time, level, event, then key=value; what could be mistaken for something else is quoted.
    """
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    events.warning("feed.stale", feed="a", why="two words", odd='q"', control="\x1b[2J", n=1)
    line = stream.getvalue()
    plain = re.sub(r"\x1b\[\d+m", "", line)
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3}Z warning feed\.stale feed=a ", plain)
    assert 'why="two words" odd="q\\"" control="\\u001b[2J" n=1' in plain
    assert "\x1b[2J" not in line


class Broken(io.StringIO):
    """A stream that nobody reads any more."""

    def write(self, text):
        raise BrokenPipeError


def test_a_stream_that_is_gone_stops_nobody(monkeypatch):
    """
    A full disk or a closed pipe behind stderr must not stop the resolver.
    """
    monkeypatch.setattr("sys.stderr", Broken())
    events.info("x")


def test_a_reader_that_stops_costs_lines_and_no_time(tmp_path):
    """
    A process whose stderr is full goes on; what could not be written is counted when it can be.
    """
    code = (
        "import sys, time\n"
        "from urlguard import events\n"
        "events.in_background()\n"
        "began = time.monotonic()\n"
        "for i in range(5000): events.info('x.y', number=i, text='z' * 200)\n"
        "print(time.monotonic() - began, flush=True)\n"
        "sys.stdin.read(1)\n"
        "time.sleep(0.3)\n"
        "events.info('x.last')\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert float(child.stdout.readline()) < 2  # nobody has read a line of the megabyte yet
    _, told = child.communicate("x", timeout=20)
    lines = [json.loads(line) for line in told.splitlines()]
    lost = sum(line["lines"] for line in lines if line["event"] == "events.lost")
    assert lost > 0
    assert lost + sum(line["event"] == "x.y" for line in lines) == 5000
    assert lines[-1]["event"] == "x.last"
