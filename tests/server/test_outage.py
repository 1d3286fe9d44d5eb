"""What the control plane needs is taken away under load; the resolver does not notice."""

import contextlib
import os
import signal
import subprocess
import threading
import time

import pytest

from tests.server.conftest import Server, wait_until
from tests.server.test_api import Api

pytestmark = pytest.mark.slow
SLOW_S = 1.0  # a query that takes longer was noticed; on a machine whose cores are all busy


class Load:
    """Asks for listed, unlisted and new names all the time, and keeps what went wrong."""

    def __init__(self, running):
        self.running = running
        self.asked = 0
        self.longest = 0.0
        self.wrong = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(2)]

    def _run(self, number):
        count = 0
        while not self._stop.is_set():
            count += 1
            for name, expected in (
                ("evil.example", "127.0.0.1"),
                (f"new{number}-{count}.example", "192.0.2.77"),
                ("www.fraud.example", "127.0.0.1"),
                ("good.example", "192.0.2.77"),
            ):
                started = time.monotonic()
                try:
                    found = self.running.addresses(name)
                except Exception as exc:
                    found = [repr(exc)]
                took = time.monotonic() - started
                self.asked += 1
                self.longest = max(self.longest, took)
                if found != [expected]:
                    self.wrong.append((name, found, round(took, 3)))
            time.sleep(0.005)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def unnoticed(self):
        """Nothing wrong, and nothing slow."""
        assert self.asked > 50
        assert not self.wrong
        assert self.longest < SLOW_S


def blocks(api, name):
    """Whether a rule could be made."""
    with contextlib.suppress(OSError):
        status, found = api.ask("POST", "/v1/rules", {"rule": name})
        return status == 200 and found["in_force"] == found["workers"]
    return False


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MiB that can be filled up."""
    folder = tmp_path / "var"
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=False
        ).returncode
    ):
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_the_disk_is_full(tmp_path, upstream, small_disk):
    """
    Decisions are refused and say so, names are answered as before; with room again all goes on.
    """
    (tmp_path / "list.txt").write_text("evil.example\nfraud.example\n")
    running = Server(
        tmp_path,
        f'[server]\nlisten = ["127.0.0.1:0"]\n'
        f'[forward]\nupstreams = ["127.0.0.1:{upstream.port}"]\ntimeout_ms = 500\n'
        '[guard]\nblock_ttl_s = 0\n[api]\nlisten = "127.0.0.1:0"\n'
        '[[feed]]\nname = "list"\npath = "list.txt"\nformat = "domains"\n',
    ).start()
    try:
        api = Api(running)
        assert blocks(api, "before.example")
        ballast = small_disk / "ballast"
        with Load(running) as load:
            with ballast.open("wb", buffering=0) as out, contextlib.suppress(OSError):
                while True:
                    out.write(b"x" * 65_536)
            # What is left of the write-ahead log may take some; then it is over.
            refused = None
            for number in range(500):
                status, found = api.ask("POST", "/v1/rules", {"rule": f"full{number}.example"})
                if status != 200:
                    refused = status, found["detail"]
                    break
            assert refused is not None
            assert refused[0] == 503
            assert "full" in refused[1]
            status, found = api.ask("GET", "/healthz")
            assert (status, found["ok"]) == (200, True)
            time.sleep(1.0)
            ballast.unlink()
            wait_until(lambda: blocks(api, "after.example"), 20)
        load.unnoticed()
        assert all(running.blocks(f"www.{n}.example") for n in ("before", "after"))
        assert running.run("log", "--verify").returncode == 0
    finally:
        running.kill_all()


def test_the_control_process_and_its_databases_are_away(server):
    """
    Killed, hung, with its files gone: nobody who asks for names notices, and then it catches up.
    """
    running = server(more="[guard]\nblock_ttl_s = 0").start()
    api = Api(running)
    state = running.folder / "var"
    assert blocks(api, "before.example")
    with Load(running) as load:
        (pid,) = running.pids("urlguard.server.control")
        os.kill(pid, signal.SIGSTOP)
        time.sleep(2.0)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        kept = {}
        for path in sorted(state.glob("*.db*")):
            kept[path] = path.with_name(f"away-{path.name}")
            with contextlib.suppress(FileNotFoundError):
                path.rename(kept[path])
        time.sleep(3.0)
        assert running.blocks("www.before.example")
        for pid in running.pids("urlguard.server.control"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for path, away in kept.items():
            for more in (
                path,
                path.with_name(f"{path.name}-wal"),
                path.with_name(f"{path.name}-shm"),
            ):
                if more not in kept:
                    more.unlink(missing_ok=True)
            if away.exists():
                away.rename(path)
        before = running.log.read_text().count('"api.listening"')
        wait_until(lambda: running.log.read_text().count('"api.listening"') > before - 1, 30)
        wait_until(lambda: blocks(Api(running), "after.example"), 40)
    load.unnoticed()
    assert all(running.blocks(f"www.{n}.example") for n in ("before", "after"))
    assert running.run("log", "--verify").returncode == 0
