"""
Ctrl-C at a terminal, at any moment of a start, and what the banner says there and in a pipe.

The interrupt is a real one: the key is typed, and the terminal sends SIGINT to whatever runs in its
foreground.
"""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.running import descendants

SCRIPT = Path(sys.executable).with_name("urlguard")
NAMES = 300_000  # the first import takes some seconds


class Terminal:
    """``urlguard serve`` as the foreground program of a terminal of its own."""

    def __init__(self, config: Path) -> None:
        self.fd, inner = pty.openpty()
        self.process = subprocess.Popen(
            [SCRIPT, "serve", "--config", config],
            cwd=config.parent,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        )
        os.close(inner)
        self.text = ""

    def read(self, seconds: float, until: str | None = None) -> str:
        """Everything on the screen after so long, or once `until` stands there."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and (until is None or until not in self.text):
            if not select.select([self.fd], [], [], left)[0]:
                break
            try:
                self.text += os.read(self.fd, 65_536).decode()
            except OSError:  # nobody holds the other side
                break
        return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", self.text.replace("\r\n", "\n"))

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self.fd, keys)

    def close(self) -> None:
        """End what still runs."""
        with contextlib.suppress(ProcessLookupError):
            for pid in descendants(self.process.pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        os.close(self.fd)


@pytest.fixture
def terminal(tmp_path):
    """Starts servers at terminals, with a list of so many names."""
    opened = []

    def start(names):
        lines = (f"bad-{n}.example\n" for n in range(names))
        (tmp_path / "list.txt").write_text("".join(lines))
        config = tmp_path / "urlguard.toml"
        config.write_text(
            '[server]\nlisten = ["127.0.0.1:0"]\nworkers = 2\n[classify]\nmode = "off"\n'
            '[api]\nlisten = "127.0.0.1:0"\n'
            '[[feed]]\nname = "list"\npath = "list.txt"\nformat = "domains"\n'
        )
        opened.append(Terminal(config))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def gone(pids):
    """Whether none of the processes runs any more; zombies do not count."""
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                return False
    return True


def wait_for_imports(process):
    """
    Wait until the interpreter is up and imports our modules.

    Before that, some 20 ms, SIGINT is Python's own to handle, and it shows a traceback.
    """
    end = time.monotonic() + 20
    with contextlib.suppress(OSError):
        while ".cpython-3" not in Path(f"/proc/{process.pid}/maps").read_text():
            assert time.monotonic() < end
            if process.poll() is not None:
                return


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0])
def test_ctrl_c_during_the_first_start(terminal, delay):
    """
    Ctrl-C at any moment ends every process, without a traceback from any, with the exit code of an
    orderly stop or of an interrupt.
    """
    server = terminal(NAMES)
    wait_for_imports(server.process)
    server.read(delay)
    started = descendants(server.process.pid)
    server.type(b"\x03")
    code = server.process.wait(20)
    shown = server.read(1)
    assert code in (0, 128 + signal.SIGINT, -signal.SIGINT), shown
    assert "Traceback" not in shown
    assert "Exception" not in shown
    assert "KeyboardInterrupt" not in shown
    if code == 0:
        assert shown.splitlines()[-1] == "UrlGuard has stopped."
    end = time.monotonic() + 5
    while not gone(started):
        assert time.monotonic() < end, started
        time.sleep(0.05)


def test_the_banner_and_the_end_at_a_terminal(terminal):
    """
    The banner names the query to try, the token's file and how to stop; after Ctrl-C, typed twice,
    one line says that the server has stopped, and the exit code is 0.
    """
    server = terminal(10)
    shown = server.read(60, until="Stop")
    assert re.search(r"answers DNS on 127\.0\.0\.1:\d+ \(UDP and TCP\)\.", shown)
    assert re.search(r"^Try +dig @127\.0\.0\.1 -p \d+ bad-\d+\.example$", shown, re.M)
    assert re.search(r"^Token +in var/admin\.token$", shown, re.M)
    shown = server.read(0.2)
    assert re.search(rf"^Stop +Ctrl-C, or kill {server.process.pid}$", shown, re.M)
    server.type(b"\x03")
    server.type(b"\x03")
    assert server.process.wait(20) == 0
    assert server.read(1).splitlines()[-1] == "UrlGuard has stopped."


@pytest.mark.parametrize("arguments", [["serve"], ["check", "example.org"], ["--version"]])
def test_an_interrupt_while_it_imports(tmp_path, arguments):
    """
    SIGINT while a command is imported leaves no traceback.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "urlguard", *arguments],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "URLGUARD_CONFIG": ""},
    )
    wait_for_imports(process)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert "Traceback" not in errors
