"""Reloading, and children that fall silent: with small children of our own, and for real."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.running import descendants, wait_until
from urlguard import config
from urlguard.errors import ConfigError
from urlguard.server import reload

FILE = Path("/etc/urlguard/urlguard.toml")


def read(**table):
    """A configuration with these tables."""
    return config.parse(table, FILE)


def lines(old, new):
    """The differences of two configurations as text."""
    return [str(d) for d in reload.differences(read(**old), read(**new))]


FEED = {"name": "list", "path": "list.txt"}
LONG = [f"10.0.{n}.0/24" for n in range(40)]


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({}, {}, []),
        ({}, {"guard": {"answer": "sinkhole"}}, []),  # the default, now said aloud
        ({}, {"guard": {"answer": "nxdomain"}}, ['guard.answer: "sinkhole" -> "nxdomain"']),
        ({}, {"cache": {"max_mb": 128}}, ["cache.max_mb: 64 -> 128"]),
        ({}, {"rebind": {"mode": "off"}}, ['rebind.mode: "block" -> "off"']),
        ({}, {"server": {"cookies": False}}, ["server.cookies: true -> false"]),
        ({}, {"limit": {"burst_s": 3}}, ["limit.burst_s: 2.0 -> 3.0"]),
        (
            {},
            {"server": {"listen": ["127.0.0.1:53"]}},
            ['server.listen: ["127.0.0.1:5300"] -> ["127.0.0.1:53"]'],
        ),
        (
            {},
            {"guard": {"sinkhole_ipv4": "192.0.2.1"}},
            ['guard.sinkhole_ipv4: "127.0.0.1" -> "192.0.2.1"'],
        ),
        (
            {"forward": {"ca_file": "/etc/old.pem"}},
            {},
            ['forward.ca_file: "/etc/old.pem" -> none'],
        ),
        ({}, {"plugins": ["acl", "forward"]}, None),
        (
            {"acl": {"allow": LONG}},
            {"acl": {"allow": ["192.0.2.0/24", *LONG[2:]]}},
            ['acl.allow: 40 items -> 39 items: -"10.0.0.0/24", -"10.0.1.0/24", +"192.0.2.0/24"'],
        ),
        (
            {"acl": {"allow": LONG}},
            {"acl": {"allow": LONG[::-1]}},
            ["acl.allow: 40 items -> 40 items: in another order"],
        ),
        (
            {"forward": {"zones": {"corp.example": ["192.0.2.1"], "old.example": ["192.0.2.1"]}}},
            {"forward": {"zones": {"corp.example": ["192.0.2.2"], "lan": ["192.0.2.3"]}}},
            [
                'forward.zones."corp.example": ["192.0.2.1"] -> ["192.0.2.2"]',
                'forward.zones."old.example": removed',
                'forward.zones.lan: added ["192.0.2.3"]',
            ],
        ),
        ({}, {"feed": [FEED]}, ["feed.list: added"]),
        ({"feed": [FEED]}, {}, ["feed.list: removed"]),
        (
            {"feed": [FEED, {"name": "b", "path": "b"}]},
            {"feed": [{"name": "b", "path": "b"}, {**FEED, "action": "review"}]},
            ['feed.list.action: "block" -> "review"'],
        ),
        (
            {"segment": [{"name": "kids", "networks": ["192.0.2.0/28"]}]},
            {"segment": [{"name": "kids", "networks": ["192.0.2.0/28"], "answer": "nodata"}]},
            ['segment.kids.answer: none -> "nodata"'],
        ),
        (
            {"rpz": {"tsig": [{"name": "a.b", "secret_file": "/etc/a"}]}},
            {"rpz": {"tsig": [{"name": "a.b", "secret_file": "/etc/b"}]}},
            ['rpz.tsig."a.b".secret_file: "/etc/a" -> "/etc/b"'],
        ),
        (
            {"plugin": {"mine": {"level": 1, "on": True}}},
            {"plugin": {"mine": {"level": True, "new": [1, "a"]}, "other": {}}},
            [
                "plugin.mine.level: 1 -> true",
                "plugin.mine.on: removed",
                'plugin.mine.new: added [1, "a"]',
                "plugin.other: added",
            ],
        ),
        (
            {"feed": [{"name": "f", "url": "https://me:old@lists.example/a"}]},
            {"feed": [{"name": "f", "url": "https://me:new@lists.example/b"}]},
            ['feed.f.url: "https://me:***@lists.example/a" -> "https://me:***@lists.example/b"'],
        ),
    ],
)
def test_differences_name_the_key_and_both_values(old, new, found):
    """
    Each changed key is told once by its dotted name; tables in lists are found by their names.
    """
    told = lines(old, new)
    assert told == found if found is not None else len(told) == 1
    assert lines(new, new) == []


def test_a_huge_change_stays_short():
    """
    What is told of a list is bounded, however many of its items changed.
    """
    many = [f"10.{n // 256}.{n % 256}.0/24" for n in range(5000)]
    (told,) = lines({"acl": {"allow": many}}, {"acl": {"allow": ["192.0.2.0/24"]}})
    assert "5000 items -> 1 items" in told
    assert "and 4981 more" in told
    assert len(told) < 1000
    (told,) = lines({}, {"plugin": {"mine": {"text": "x" * 10_000}}})
    assert len(told) < 300


def test_keys_for_the_next_start_stay_as_they_are():
    """
    What the running server holds on to is kept, and told apart from what takes effect.
    """
    old = read()
    new = read(
        state_dir="/srv/other",
        store={"url": "sqlite:////srv/policy.db"},
        server={"listen": ["127.0.0.1:53"], "workers": 7, "tcp_idle_s": 3.0},
    )
    assert {d.key for d in reload.differences(old, new) if d.restart} == reload.RESTART.keys()
    kept = reload.in_force(old, new)
    assert [d.key for d in reload.differences(old, kept)] == ["server.tcp_idle_s"]
    assert kept.state_dir == old.state_dir


def test_examine_says_what_a_plugin_refuses():
    """
    A plugin that does not exist is found before any process is told.
    """
    with pytest.raises(ConfigError, match="unknown plugin 'nonsense'"):
        reload.examine(read(plugins=["nonsense", "forward"]))


def test_examine_reads_secrets_and_warns(tmp_path):
    """
    A key file that is not there is an error; what is hardly meant is a warning.
    """
    keys = {"listen": ["127.0.0.1:0"], "tsig": [{"name": "k", "secret_file": str(tmp_path / "k")}]}
    with pytest.raises(ConfigError, match=r"\[\[rpz\.tsig\]\]"):
        reload.examine(read(plugins=["acl"], rpz=keys))
    assert "open resolver" in "".join(
        reload.examine(read(plugins=["acl"], acl={"allow": ["0.0.0.0/0"]}))
    )


# -- with children of our own ----------------------------------------------------------------------

# Says which answer mode it was given.  A mode steers what it does.
CHILD = """
    import asyncio, os, sys, time
    from urlguard import events
    from urlguard.processes import child as process

    async def work(startup, updates, stop):
        if startup.config.guard.answer == "refused":
            raise SystemExit(3)
        events.info("child.began", number=startup.number, answer=startup.config.guard.answer)
        asyncio.get_running_loop().call_later(
            float(os.environ.get("READY_AFTER", "0")), process.report_ready)
        later = asyncio.create_task(follow(startup.number, updates))
        await stop.wait()

    async def follow(number, updates):
        while True:
            answer = (await updates.get()).config.guard.answer
            events.info("child.told", number=number, answer=answer)
            if answer == "zero" and number == 0:
                updates.refuse("not\\nzero, please")
            elif answer == "refused" and number == 0:
                os._exit(4)
            elif answer == "nodata" and number == 0:
                pass  # never answers
            else:
                updates.accept()

    startup = process.read_startup()
    updates = process.Updates()
    print("x" * 100_000, flush=True)  # an outsider's plugin may print; nobody must choke on it
    process.main_loop(lambda stop: work(startup, updates, stop), updates)
"""
CONTROL = """
    from urlguard import events
    from urlguard.processes import child as process

    async def work(config, stop):
        events.info("control.began", answer=config.guard.answer)
        process.report_ready()
        await stop.wait()

    config = process.read_startup()
    process.main_loop(lambda stop: work(config, stop))
"""
PARENT = """
    import os
    from urlguard.server import supervisor
    if "ITS_TERMINAL" in os.environ:  # the first that a session's leader opens becomes its own
        os.setsid()
        os.open(os.environ["ITS_TERMINAL"], os.O_RDWR)
    supervisor.WORKER, supervisor.CONTROL = "its_child", "its_control"
    supervisor.HANG_S, supervisor.RELOAD_S = 2.0, 2.0
    from urlguard.cli import main
    main()
"""


class Small:
    """A real supervisor with small children."""

    def __init__(self, folder):
        self.folder = folder
        for name, text in (("its_child", CHILD), ("its_control", CONTROL), ("parent", PARENT)):
            (folder / f"{name}.py").write_text(textwrap.dedent(text))
        self.file = folder / "urlguard.toml"
        self.log = folder / "log"
        self.process = None

    def configure(self, answer="sinkhole", more=""):
        self.file.write_text(
            'plugins = ["acl", "guard"]\n'
            f'[server]\nlisten = ["127.0.0.1:0"]\n{more}\n[guard]\nanswer = "{answer}"\n'
        )

    def start(self, wait=True, environment=()):
        path = os.pathsep.join([str(self.folder), str(Path(__file__).parents[2])])
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, str(self.folder / "parent.py")),
                    *("serve", "--config", str(self.file)),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path, **dict(environment)},
            )
        if wait:
            assert select.select([self.process.stdout], [], [], 30)[0], self.log.read_text()
            assert b"answers DNS" in self.process.stdout.readline(), self.log.read_text()
        return self

    def hang_up(self):
        os.kill(self.process.pid, signal.SIGHUP)

    def events(self, name):
        found = []
        for line in self.log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if event["event"] == name:
                    found.append(event)
        return found

    def wait(self, name, count=1, seconds=15):
        wait_until(lambda: len(self.events(name)) >= count, seconds)
        return self.events(name)

    def pids(self, module):
        return sorted(p for p, line in descendants(self.process.pid).items() if module in line)

    def stop(self):
        self.process.terminate()
        code = self.process.wait(20)
        self.process.stdout.close()
        self.process = None
        return code


@pytest.fixture
def small(tmp_path):
    """A supervisor with small children; ended after the test."""
    made = Small(tmp_path)
    made.configure()
    yield made
    if made.process is not None:
        for pid in descendants(made.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        made.process.wait(10)
        made.process.stdout.close()


def test_workers_take_a_new_configuration_without_a_restart(small):
    """
    SIGHUP hands the new configuration to the same worker processes and says what changed; the
    control process is a new one, and the supervisor ends as always.
    """
    small.start()
    workers, (control,) = small.pids("its_child"), small.pids("its_control")
    small.configure("nxdomain", "workers = 5\ntcp_idle_s = 3.0")
    small.hang_up()
    (event,) = small.wait("config.reloaded")
    assert event["level"] == "info"
    assert event["changed"] == [
        "server.tcp_idle_s: 10.0 -> 3.0",
        'guard.answer: "sinkhole" -> "nxdomain"',
    ]
    assert event["at_restart"] == ["server.workers: 2 -> 5"]
    assert event["workers"] == "2 of 2"
    assert {e["answer"] for e in small.events("child.told")} == {"nxdomain"}
    assert [e["answer"] for e in small.wait("control.began", 2)] == ["sinkhole", "nxdomain"]
    assert small.pids("its_child") == workers
    assert control not in small.pids("its_control")
    assert not small.events("process.died")
    assert small.stop() == 0


def test_a_worker_that_dies_later_starts_on_the_new_configuration(small):
    """
    After a reload, a restart of a worker uses what was reloaded.
    """
    small.start()
    small.configure("nxdomain")
    small.hang_up()
    small.wait("config.reloaded")
    os.kill(small.pids("its_child")[0], signal.SIGKILL)
    assert small.wait("child.began", 3)[2]["answer"] == "nxdomain"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[guard]\nanswer = "maybe"\ncolour = 1\n', "unknown key 'colour'"),
        ('plugins = ["nonsense"]\n', "unknown plugin 'nonsense'"),
        ("[guard\n", "not TOML"),
        (None, "No such file"),
    ],
)
def test_a_bad_configuration_changes_nothing(small, text, problem):
    """
    Every problem is told in one event; nobody is told anything, and the next good one is used.
    """
    small.start()
    small.file.unlink() if text is None else small.file.write_text(text)
    small.hang_up()
    (event,) = small.wait("config.refused")
    assert event["level"] == "error"
    assert any(problem in p for p in event["problems"])
    if text and "maybe" in text:
        assert len(event["problems"]) == 2
    assert not small.events("child.told")
    assert len(small.events("control.began")) == 1
    small.configure("nxdomain")
    small.hang_up()
    assert small.wait("config.reloaded")[0]["workers"] == "2 of 2"


def test_nothing_changed_is_a_reload_all_the_same(small):
    """
    Certificates and key files may be new: everybody is told, and nothing is listed.
    """
    small.start()
    small.hang_up()
    (event,) = small.wait("config.reloaded")
    assert (event["changed"], event["at_restart"]) == ([], [])
    small.wait("child.told", 2)
    small.wait("control.began", 2)


def test_many_signals_end_in_the_newest_configuration(small):
    """
    Signals in quick succession, from before it is ready: none is lost, none ends the server, and
    what stood in the file last is what everybody has.
    """
    small.start(wait=False, environment={"READY_AFTER": "1"})
    wait_until(lambda: len(small.pids("its_child")) == 2)
    for answer in ("nxdomain", "nodata", "sinkhole", "nxdomain"):
        small.configure(answer)
        small.hang_up()
        time.sleep(0.05)
    assert select.select([small.process.stdout], [], [], 30)[0]
    for _ in range(20):
        small.hang_up()
    wait_until(lambda: {e["answer"] for e in small.events("child.told")[-2:]} == {"nxdomain"})
    small.configure("sinkhole")
    small.hang_up()
    small.hang_up()
    wait_until(lambda: small.events("control.began")[-1]["answer"] == "sinkhole", 20)
    wait_until(lambda: {e["answer"] for e in small.events("child.told")[-2:]} == {"sinkhole"}, 20)
    assert len(small.pids("its_child")) == 2
    assert not small.events("process.died")
    assert small.stop() == 0


@pytest.mark.parametrize(
    ("answer", "name", "says"),
    [
        ("zero", "config.not_taken", {"process": "worker 0", "error": "not zero, please"}),
        ("nodata", "config.late", {"process": "worker 0", "waited_s": 2.0}),
    ],
)
def test_a_worker_that_does_not_take_it_is_named(small, answer, name, says):
    """
    A worker that refuses, or says nothing in time, is named; the others go ahead.
    """
    small.start()
    small.configure(answer)
    small.hang_up()
    (event,) = small.wait(name)
    assert says.items() <= event.items()
    assert small.wait("config.reloaded")[0]["workers"] == "1 of 2"
    small.configure("nxdomain")
    small.hang_up()
    assert small.wait("config.reloaded", 2)[1]["workers"] == "2 of 2"


def test_a_worker_that_dies_of_it_comes_back_with_the_next_good_one(small):
    """
    A worker that cannot live on what passed all checks is started again until it can.
    """
    small.start()
    small.configure("refused")
    small.hang_up()
    small.wait("config.reloaded")
    small.wait("process.died")
    small.configure("nxdomain")
    small.hang_up()
    wait_until(lambda: {e["answer"] for e in small.events("child.began")[-1:]} == {"nxdomain"}, 30)


@pytest.mark.parametrize("module", ["its_child", "its_control"])
def test_a_child_that_falls_silent_is_replaced(small, module):
    """
    A stopped process is killed and started again, and the event names it.
    """
    small.start()
    victim = small.pids(module)[0]
    os.kill(victim, signal.SIGSTOP)
    (event,) = small.wait("process.hung")
    assert event["process"] in ("worker 0", "worker 1", "control")
    assert event["silent_s"] > event["limit_s"] == 2.0
    assert small.wait("process.died")[0]["exit"] == -9
    count = 2 if module == "its_child" else 1
    wait_until(lambda: len(set(small.pids(module)) - {victim}) == count)
    # The others were heard all the time.
    time.sleep(2.5)
    assert len(small.events("process.hung")) == 1


def test_children_are_not_blamed_for_the_supervisors_sleep(small):
    """
    A supervisor that was stopped itself, as with the whole machine, kills nobody.
    """
    small.start()
    before = small.pids("its_")
    os.kill(small.process.pid, signal.SIGSTOP)
    time.sleep(7)
    os.kill(small.process.pid, signal.SIGCONT)
    time.sleep(2)
    assert not small.events("process.hung")
    assert small.pids("its_") == before


def test_a_hang_up_of_the_whole_group_ends_nobody(small):
    """
    `pkill -HUP` that also meets the children is a reload.
    """
    small.start()
    before = small.pids("its_child")
    for pid in descendants(small.process.pid):
        os.kill(pid, signal.SIGHUP)
    small.wait("config.reloaded")
    assert small.pids("its_child") == before


def test_a_closed_terminal_ends_a_server_that_ran_in_it(small):
    """
    SIGHUP because the window was closed means the end, not a reload.
    """
    terminal, inner = pty.openpty()
    small.start(environment={"ITS_TERMINAL": os.ttyname(inner)})
    os.close(inner)
    os.close(terminal)
    assert small.process.wait(20) == 0
    assert not small.events("config.reloaded")


@pytest.fixture
def manager(tmp_path):
    """The socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(10)
        yield sock


def test_the_service_manager_hears_everything(small, manager):
    """
    Ready, reloading with its time, ready again, signs of life, stopping; a refusal in the status.
    """

    def until(*words):
        while True:
            text = manager.recv(4096).decode()
            if all(word in text for word in words):
                return text

    small.start(environment={"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "3000000"})
    assert re.search(r"STATUS=answers DNS on 127.0.0.1:\d+ with 2 workers", until("READY=1"))
    until("WATCHDOG=1")
    small.hang_up()
    until("RELOADING=1", "MONOTONIC_USEC=")
    until("READY=1", "answers DNS")
    small.file.write_text("nonsense = 1\n")
    small.hang_up()
    until("RELOADING=1")
    assert "unknown key 'nonsense'" in until("READY=1", "the one before")
    small.process.terminate()
    until("STOPPING=1")
    assert small.process.wait(20) == 0


def test_the_service_manager_hears_nothing_of_a_child_that_cannot_be_killed():
    """
    A child that is silent long after it was killed makes the supervisor fall silent too.
    """
    from urlguard.server import supervisor

    child = supervisor._Child("worker 0", "none", None, ())

    class Undead:
        returncode = None

        def __init__(self):
            self.signals = []

        def send_signal(self, number):
            self.signals.append(number)

    undead = child.process = Undead()
    child._last_heartbeat = 100.0
    limit = supervisor.START_S
    assert child.check_heartbeat(100.0 + limit)
    assert not undead.signals
    assert child.check_heartbeat(100.0 + limit + 1)
    assert undead.signals == [signal.SIGKILL]
    assert not child.check_heartbeat(100.0 + limit + 60)
    assert undead.signals == [signal.SIGKILL]


# -- for real --------------------------------------------------------------------------------------


def test_a_reload_changes_the_answers_of_the_running_workers(server):
    """
    After SIGHUP the same processes on the same port give the new answer; decisions stay.
    """
    running = server(workers=2).start()
    running.run("block", "kept.example")
    workers = running.pids("urlguard.worker.worker")
    assert running.blocks("evil.example")
    running.config.write_text(running.config.read_text() + '[guard]\nanswer = "nxdomain"\n')
    os.kill(running.process.pid, signal.SIGHUP)
    wait_until(lambda: '"config.reloaded"' in running.log.read_text())
    assert all(running.ask("evil.example").rcode() == 3 for _ in range(20))
    assert all(running.ask("kept.example").rcode() == 3 for _ in range(20))
    assert running.pids("urlguard.worker.worker") == workers
    wait_until(lambda: len(running.status().get("workers", {})) == 2)
    assert "in force on 2 of 2 workers" in running.run("block", "more.example").stdout
    assert running.ask("more.example").rcode() == 3
