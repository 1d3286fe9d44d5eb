"""A real ``urlguard serve`` with its processes, and a small upstream behind it."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest
from dnslib import QTYPE, RR, A, DNSRecord

UPSTREAM_ADDRESS = "192.0.2.77"

# Bounds against a hang, not claims: a busy machine may need tens of seconds for what takes one.
HANG_S = 180.0
ANSWER_S = 30.0


class Upstream:
    """Answers every A query with one address."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop:
            if not select.select([self.sock], [], [], 0.1)[0]:
                continue
            data, client = self.sock.recvfrom(4096)
            query = DNSRecord.parse(data)
            self.asked.append(str(query.q.qname).rstrip("."))
            reply = query.reply()
            if query.q.qtype == QTYPE.A:
                reply.add_answer(RR(query.q.qname, QTYPE.A, rdata=A(UPSTREAM_ADDRESS), ttl=60))
            self.sock.sendto(reply.pack(), client)

    def close(self) -> None:
        self._stop = True
        self._thread.join()
        self.sock.close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """An upstream that knows one answer."""
    server = Upstream()
    yield server
    server.close()


class Server:
    """A running ``urlguard serve`` on a folder of its own."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder = folder
        self.config = folder / "urlguard.toml"
        self.config.write_text(text)
        self.process: subprocess.Popen[str] | None = None
        self.port = 0
        self.log = folder / "serve.log"

    def start(self, wait_s: float = HANG_S) -> "Server":
        """Start it and wait until it answers."""
        self.begin()
        return self.ready(wait_s)

    def begin(self) -> None:
        """Start it and do not wait."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "urlguard", "serve", "--config", str(self.config)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def ready(self, wait_s: float = HANG_S) -> "Server":
        """Wait until it answers."""
        assert self.process is not None
        assert self.process.stdout is not None
        readable = select.select([self.process.stdout], [], [], wait_s)[0]
        line = self.process.stdout.readline() if readable else ""
        assert "answers DNS" in line, (line, self.log.read_text())
        self.port = int(re.findall(r":(\d+)", line)[0])
        return self

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on the same configuration."""
        return subprocess.run(
            [sys.executable, "-m", "urlguard", *arguments, "--config", str(self.config)],
            capture_output=True,
            text=True,
            check=check,
            timeout=HANG_S,
        )

    def ask(self, name: str, qtype: str = "A", tcp: bool = False) -> dns.message.Message:
        """Ask it one question, with EDNS."""
        query = dns.message.make_query(name, qtype, use_edns=0)
        send = dns.query.tcp if tcp else dns.query.udp
        return send(query, "127.0.0.1", port=self.port, timeout=ANSWER_S)

    def addresses(self, name: str) -> list[str]:
        """The A records that it answers with."""
        return [str(r) for rrset in self.ask(name).answer for r in rrset if rrset.rdtype == 1]

    def blocks(self, name: str) -> bool:
        """True if the name gets the sinkhole address."""
        return self.addresses(name) == ["127.0.0.1"]

    def status(self) -> dict[str, object]:
        """What ``urlguard status --json`` says."""
        found: dict[str, object] = json.loads(self.run("status", "--json", check=False).stdout)
        return found

    def processes(self) -> dict[int, str]:
        """All processes of the server with their command lines."""
        assert self.process is not None
        return descendants(self.process.pid)

    def pids(self, module: str) -> list[int]:
        """The processes that run one module."""
        return [pid for pid, line in self.processes().items() if module in line]

    def kill_all(self) -> None:
        """kill -9 to every process at once, as a crash of the machine would."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.forget()

    def forget(self) -> None:
        """Take leave of a killed server."""
        assert self.process is not None
        self.process.wait(HANG_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None

    def stop(self) -> int:
        """End it as an operator would; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(HANG_S)
        self.forget()
        return code


def descendants(root: int) -> dict[int, str]:
    """A process and all that it started, with their command lines."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    lines = {}
    for pid in found:
        with contextlib.suppress(OSError):
            raw = Path(f"/proc/{pid}/cmdline").read_bytes()
            lines[pid] = raw.replace(b"\0", b" ").decode()
    return lines


MakeServer = Callable[..., Server]


@pytest.fixture
def server(tmp_path: Path, upstream: Upstream) -> Iterator[MakeServer]:
    """Makes servers; those still running are ended after the test."""
    made: list[Server] = []

    def make(
        feed: str | None = "evil.example\nfraud.example\n",
        more: str = "",
        *,
        workers: int = 1,
        classify: bool = False,
    ) -> Server:
        # Each worker and each model costs a second or more of processor time at every start.
        text = (
            f'[server]\nlisten = ["127.0.0.1:0"]\nworkers = {workers}\n'
            f'[forward]\nupstreams = ["127.0.0.1:{upstream.port}"]\ntimeout_ms = 500\n{more}\n'
        )
        if not classify and "[classify]" not in more:
            text += '[classify]\nmode = "off"\n'
        if "[api]" not in more:
            text += '[api]\nlisten = "127.0.0.1:0"\n'
        if feed is not None:
            (tmp_path / "list.txt").write_text(feed)
            text += '[[feed]]\nname = "list"\npath = "list.txt"\nformat = "domains"\n'
        made.append(Server(tmp_path, text))
        return made[-1]

    yield make
    for one in made:
        if one.process is not None:
            one.kill_all()


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something that must happen soon."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.05)
