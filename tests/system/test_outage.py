"""What the control plane needs is taken away under load; the resolver does not notice."""

import contextlib
import os
import signal
import subprocess
import threading
import time

import pytest

from tests.running import Server, wait_until
from tests.system.test_api import Api

pytestmark = pytest.mark.slow
SLOW_S = 1.0  # a query that takes longer was noticed; on a machine whose cores are all busy


class Load:
    """
    Asks for listed, unlisted and new names all the time, and keeps what went wrong.

    What is asked before `begins` shows how long it takes when nothing is wrong.
    """

    def __init__(self, running):
        self.running = running
        self.before = []  # seconds that each query took
        self.during = []
        self.wrong = []
        self._took = self.before
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
                self._took.append(took)
                if found != [expected]:
                    self.wrong.append((name, found, round(took, 3)))
            time.sleep(0.005)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        wait_until(lambda: len(self.before) > 100 or self.wrong)
        return self

    def begins(self):
        """From now on something is taken away."""
        self._took = self.during

    def __exit__(self, *exc):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def unnoticed(self):
        """Nothing wrong, and nothing slow; says how much slower, which depends on the machine."""
        for share in (0.5, 0.99):
            before, during = (
                sorted(took)[int(share * len(took))] * 1000 for took in (self.before, self.during)
            )
            print(f"{share:.0%}: {before:.2f} ms before, {during:.2f} ms: {during / before:.2f}")
        assert len(self.during) > 50
        assert not self.wrong
        assert max(self.during) < SLOW_S


def blocks(api, name):
    """Whether a rule could be made."""
    with contextlib.suppress(OSError):
        status, found = api.ask("POST", "/v1/rules", {"rule": name})
        return status == 200 and found["in_force"] == found["workers"]
    return False


def refused(attempt):
    """The problem of the first attempt that is refused: what is left of a log may take some."""
    for number in range(500):
        status, found = attempt(number)
        if status != 200:
            assert status == 503, found
            return found["detail"]
    raise AssertionError("nothing was refused")


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
        taken = []

        def bring(name):
            item = f"http://{name}.example/"
            status, found = api.ask("POST", "/v1/candidates", {"url": item})
            if status == 200:
                assert found["accepted"] == 1
                taken.append(item)
            return status, found

        def submit(name):
            return api.ask("POST", "/v1/submissions", {"url": f"http://{name}.example/"})

        def cases(state):
            return api.ask("GET", f"/v1/cases?state={state}")[1]["items"]

        assert bring("first")[0] == bring("second")[0] == 200
        wait_until(lambda: len(cases("open")) == 2, 60)
        _, claimed = api.ask("POST", "/v1/cases/lease", {"count": 1, "lease_s": 3600})
        (case,) = claimed["items"]
        name, path = case["name"], f"/v1/cases/{case['id']}"
        decision = {"action": "block", "category": "phishing"}
        ballast = small_disk / "ballast"
        with Load(running) as load:
            load.begins()
            with ballast.open("wb", buffering=0) as out, contextlib.suppress(OSError):
                while True:
                    out.write(b"x" * 65_536)
            rule = {"reason": "x"}
            said = refused(
                lambda n: api.ask("POST", "/v1/rules", rule | {"rule": f"full{n}.example"})
            )
            assert "full" in said
            assert "full" in refused(lambda n: bring(f"full{n}"))
            assert "full" in refused(lambda n: submit(f"said{n}"))
            serial = api.ask("GET", "/v1/stats")[1]["serial"]
            for method, what, body in (
                ("POST", f"{path}/decide", decision),
                ("POST", "/v1/cases/lease", {"count": 1}),
            ):
                status, found = api.ask(method, what, body)
                assert (status, what) == (503, what), found
            # Nothing of it was applied: neither in the log nor in the case.
            assert api.ask("GET", "/v1/stats")[1]["serial"] == serial
            assert not running.blocks(f"www.{name}")
            status, found = api.ask("GET", path)
            assert (status, found["state"], found["action"]) == (200, "leased", None)
            status, found = api.ask("GET", "/healthz")
            assert (status, found["ok"]) == (200, True)
            time.sleep(1.0)
            ballast.unlink()
            wait_until(lambda: blocks(api, "after.example"), 20)
            wait_until(lambda: bring("last")[0] == 200, 20)
            wait_until(lambda: submit("last-said")[0] == 200, 20)
            wait_until(lambda: api.ask("POST", f"{path}/decide", decision)[0] == 200, 20)
            assert running.blocks(f"www.{name}")
            assert api.ask("POST", "/v1/cases/lease", {"count": 1})[0] == 200
        load.unnoticed()
        assert all(running.blocks(f"www.{n}.example") for n in ("before", "after"))
        for item in taken:
            status, found = api.ask("GET", f"/v1/candidates?item={item}")
            assert (status, found["item"]) == (200, item)
        assert api.ask("GET", path)[1]["action"] == "block"
        assert running.run("log", "--verify").returncode == 0
    finally:
        running.kill_all()


def test_the_control_process_and_its_databases_are_away(server):
    """
    Killed, hung, with its files gone: nobody who asks for names notices, and then it catches up.
    """
    running = server(more="[guard]\nblock_ttl_s = 0", workers=2, classify=True).start()
    api = Api(running)
    state = running.folder / "var"
    assert blocks(api, "before.example")
    with Load(running) as load:
        load.begins()
        (pid,) = running.pids("urlguard.control.control")
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
        # It ends here, with its files away; the one after it has them.
        before = running.log.read_text().count('"api.listening"')
        for pid in running.pids("urlguard.control.control"):
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
        wait_until(lambda: running.log.read_text().count('"api.listening"') > before, 30)
        wait_until(lambda: blocks(Api(running), "after.example"), 40)
    load.unnoticed()
    assert all(running.blocks(f"www.{n}.example") for n in ("before", "after"))
    assert running.run("log", "--verify").returncode == 0
