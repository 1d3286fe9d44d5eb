"""Log lines: events with keys."""

import io
import json
import re

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
