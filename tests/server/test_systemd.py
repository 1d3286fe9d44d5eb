"""The notify protocol, the hardened unit, and port 53 without root."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from tests.running import wait_until
from urlguard import config
from urlguard.errors import ConfigError
from urlguard.server import systemd


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A service manager's socket, and the value of NOTIFY_SOCKET for it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@urlguard-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if name[0] == "@" else name)
        sock.settimeout(5)
        yield sock, name


def test_messages_arrive_as_sd_notify_sends_them(manager):
    """
    Each message is one datagram of lines, on a socket with a path or an abstract name.
    """
    sock, name = manager
    notifier = systemd.Notifier({"NOTIFY_SOCKET": name})
    notifier.ready("answers DNS")
    assert sock.recv(4096) == b"READY=1\nSTATUS=answers DNS"
    notifier.heartbeat()
    assert sock.recv(4096) == b"WATCHDOG=1"
    notifier.stopping()
    assert sock.recv(4096) == b"STOPPING=1\nSTATUS=stopping"


def test_a_reload_carries_its_time(manager):
    """
    RELOADING=1 comes with CLOCK_MONOTONIC in microseconds, not before the signal was sent.
    """
    sock, name = manager
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    systemd.Notifier({"NOTIFY_SOCKET": name}).reloading()
    first, second, _ = sock.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) < before + 5_000_000


def test_a_status_stays_one_short_line(manager):
    """
    What an error says cannot add lines of its own to a message.
    """
    sock, name = manager
    systemd.Notifier({"NOTIFY_SOCKET": name}).status("bad\nMAINPID=1 " + "x" * 1000)
    (line,) = sock.recv(4096).decode().split("\n")
    assert line.startswith("STATUS=bad MAINPID=1")
    assert len(line) < 320


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "/nowhere/notify"}])
def test_without_a_manager_messages_go_nowhere(environment):
    """
    Without a socket, or with one that nobody reads, the server goes on.
    """
    systemd.Notifier(environment).ready("answers DNS")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),  # meant for another process
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_counts_if_it_is_meant_for_us(environment, seconds):
    """
    WATCHDOG_USEC is used if it is a time and WATCHDOG_PID does not name somebody else.
    """
    assert systemd.Notifier(environment).watchdog_s == seconds


# -- the unit --------------------------------------------------------------------------------------


def unit(path="/etc/urlguard/urlguard.toml", user="urlguard", **table):
    """The unit of a configuration, as a dict from key to its values."""
    table.setdefault("state_dir", "/var/lib/urlguard")
    found = {}
    for line in systemd.unit(config.parse(table, Path(path)), user).splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_runs_this_installation_on_this_file():
    """
    It starts this interpreter on the configuration's file, as the user that was asked for, and a
    reload checks the file before anything is told.
    """
    found = unit(user="resolver")
    (serve,) = found["ExecStart"]
    assert serve == (f"{sys.executable} -m urlguard serve --config /etc/urlguard/urlguard.toml")
    assert "check-config --config /etc/urlguard/urlguard.toml" in found["ExecReload"][0]
    assert found["ExecReload"][1] == "/bin/kill -HUP $MAINPID"
    assert found["User"] == ["resolver"]


@pytest.mark.parametrize(
    ("state_dir", "line"),
    [
        ("/var/lib/urlguard", ("StateDirectory", "urlguard")),
        ("/var/lib/dns/guard", ("StateDirectory", "dns/guard")),
        ("/srv/guard", ("ReadWritePaths", "/srv/guard")),
        ("/srv/my guard", ("ReadWritePaths", '"/srv/my guard"')),
        ("/var/lib/my guard", ("ReadWritePaths", '"/var/lib/my guard"')),
        ("/srv/50%", ("ReadWritePaths", "/srv/50%%")),
    ],
)
def test_only_the_state_is_writable(state_dir, line):
    """
    systemd makes a state folder below /var/lib; any other is left writable where it is.
    """
    found = unit(state_dir=state_dir)
    key, value = line
    assert found[key] == [value]
    assert not {"StateDirectory", "ReadWritePaths"} - {key} & found.keys()
    assert found["ProtectSystem"] == ["strict"]


def test_a_log_elsewhere_is_writable_too():
    """
    The folder of a database outside state_dir is among the writable ones.
    """
    found = unit(store={"url": "sqlite:////srv/log/policy.db"})
    assert found["ReadWritePaths"] == ["/srv/log"]
    assert found["StateDirectory"] == ["urlguard"]


@pytest.mark.parametrize(
    ("path", "home", "temporary"),
    [
        ("/etc/urlguard/urlguard.toml", "yes", "yes"),
        ("/home/dns/urlguard.toml", "read-only", "yes"),
        ("/var/tmp/urlguard.toml", "yes", "no"),
    ],
)
def test_what_it_reads_is_not_hidden_from_it(monkeypatch, path, home, temporary):
    """
    Home and temporary folders are hidden, unless something that is needed lies there.
    """
    monkeypatch.setattr(sys, "executable", "/opt/urlguard/bin/python")
    monkeypatch.setattr(sys, "prefix", "/opt/urlguard")
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    found = unit(path)
    assert (found["ProtectHome"], found["PrivateTmp"]) == ([home], [temporary])


def test_strange_paths_stay_one_word():
    """
    A path with blanks, quotes and specifiers is one argument for systemd.
    """
    (serve,) = unit('/etc/a "b" $c %d.toml')["ExecStart"]
    assert serve.endswith(r'--config "/etc/a \"b\" $$c %%d.toml"')


@pytest.mark.parametrize("user", ["", "two words", "x\nExecStart=/bin/sh", "1000", "%i"])
def test_a_user_that_is_none_is_refused(user):
    """
    A name that could not stand in a unit is refused and shown.
    """
    with pytest.raises(ConfigError, match=re.escape(repr(user))):
        unit(user=user)


def test_a_unit_needs_a_file():
    """
    The built-in configuration has no file that a unit could name.
    """
    with pytest.raises(ConfigError, match="must name a configuration"):
        systemd.unit(config.Config())


def test_a_path_with_a_line_break_is_refused():
    """
    No path can add a line to the unit.
    """
    with pytest.raises(ConfigError, match="printable"):
        unit("/etc/x\nUser=root/urlguard.toml")


def test_there_are_files_enough_for_the_connections():
    """
    The limit of open files covers every TCP connection and every source port.
    """
    (few,) = unit()["LimitNOFILE"]
    (many,) = unit(server={"tcp_connections": 100_000})["LimitNOFILE"]
    assert int(few) == 65_536
    assert int(many) >= 200_000


needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs the Debian package systemd"
)


@pytest.fixture
def written(tmp_path):
    """A unit in a file."""
    path = tmp_path / "urlguard.service"
    table = {"state_dir": "/var/lib/urlguard"}
    path.write_text(systemd.unit(config.parse(table, Path("/etc/urlguard/urlguard.toml"))))
    return path


@pytest.mark.peer
@needs_analyze
def test_systemd_finds_nothing_wrong_with_the_unit(written):
    """
    `systemd-analyze verify` knows every key and value.
    """
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(written)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    # It looks at the machine's own units as well; those are not ours to mend.
    assert "urlguard" not in done.stderr.replace(str(Path(sys.prefix)), ""), done.stderr


@pytest.mark.peer
@needs_analyze
def test_the_unit_is_hardly_exposed(written):
    """
    `systemd-analyze security` gives an exposure of 1.5 or less, where 10 is no protection at all.
    """
    # Of an installation that does not lie in somebody's home.
    hidden = re.sub("(?m)^ProtectHome=.*", "ProtectHome=yes", written.read_text())
    written.write_text(re.sub("(?m)^PrivateTmp=.*", "PrivateTmp=yes", hidden))
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(written)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= 1.5, done.stdout


# -- the sandbox -----------------------------------------------------------------------------------

LIBRARIES = """
import ctypes, sys
import ahocorasick, aiohttp, lightgbm, marisa_trie, numpy, uvloop, sqlite3, ssl

libc = ctypes.CDLL(None, use_errno=True)
import mmap
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
except PermissionError:
    pass
else:
    sys.exit("memory may be written and executed")

x = numpy.random.default_rng(1).random((200, 4))
data = lightgbm.Dataset(x, label=x[:, 0] > 0.5)
model = lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 2}, data, 3)
print(len(model.predict(x)))
automaton = ahocorasick.Automaton()
automaton.add_word("a", 1)
automaton.make_automaton()
print(list(automaton.iter("a")), "ab" in marisa_trie.Trie(["ab"]))
print(sqlite3.connect(":memory:").execute("select 1").fetchone())

async def main():
    print(type(__import__("asyncio").get_running_loop()).__module__)
uvloop.run(main())
"""

CONFINED = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1
if libc.prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0):
    sys.exit(77)
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""


def test_the_libraries_need_no_memory_that_is_written_and_executed():
    """
    Under MemoryDenyWriteExecute all compiled libraries load and work, the classifier's too.
    """
    done = subprocess.run(
        [sys.executable, "-c", CONFINED, LIBRARIES], capture_output=True, text=True, timeout=120
    )
    if done.returncode == 77:
        pytest.skip("the kernel knows no PR_SET_MDWE; it came with 6.3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "uvloop"


BIND = """
import os, sys
from urlguard.config import endpoint
from urlguard.errors import ConfigError
from urlguard.server.sockets import open_sockets
assert os.getuid() != 0
try:
    open_sockets(endpoint("127.0.0.53:53"), 1)
except ConfigError as exc:
    sys.exit(str(exc))
print("bound", flush=True)
# A child inherits it too: a control process that starts later may bind ports of its own.
os.execv("/bin/grep", ["grep", "CapEff", "/proc/self/status"])
"""


@pytest.mark.skipif(
    shutil.which("setpriv") is None or os.getuid() != 0,
    reason="needs setpriv, and root to give up",
)
@pytest.mark.parametrize("capability", [True, False], ids=["with", "without"])
def test_port_53_needs_one_capability_and_no_root(capability):
    """
    A user with the unit's one ambient capability binds port 53, also in its children; without it
    the error says what is needed.
    """
    kept = ["+net_bind_service" if capability else "-all"]
    done = subprocess.run(
        [
            *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"),
            *("--bounding-set=-all,+net_bind_service", f"--inh-caps=-all,{kept[0]}"),
            *(f"--ambient-caps=-all,{kept[0]}", sys.executable, "-c", BIND),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if capability:
        net_bind_service = 1 << 10
        assert done.stdout.split() == ["bound", "CapEff:", f"{net_bind_service:016x}"], done.stderr
    else:
        assert done.returncode == 1
        assert "CAP_NET_BIND_SERVICE" in done.stderr


# -- a real systemd, in namespaces of its own ------------------------------------------------------

TARGETS = ["sysinit", "basic", "shutdown", "umount", "network-online", "nss-lookup", "alone"]

# Becomes process 1 of a machine of its own, with nothing on it but our unit.
MACHINE = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 none /media
number=0
for folder in $NEEDED; do   # hidden from other users by the folders above them
  number=$((number + 1)); mkdir /media/$number; mount --bind "$folder" /media/$number
done
mount -t tmpfs -o mode=755 none /root
mount -t tmpfs -o mode=755 none /home
number=0
for folder in $NEEDED; do
  number=$((number + 1)); mkdir -p "$folder"; mount --bind /media/$number "$folder"
done
for folder in /run /var/lib /etc/systemd /lib/systemd/system /mnt; do
  mount -t tmpfs -o mode=755 none $folder
done
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t proc none /proc
mkdir -p /run/lock /etc/systemd/system
cp -r "$GIVEN"/units/. /etc/systemd/system
cp "$GIVEN"/urlguard.toml "$GIVEN"/list.txt /mnt
chmod -R a+rX /mnt
"$PYTHON" -c "
import fcntl, socket, struct
up = struct.pack('16sh', b'lo', 0x41)
fcntl.ioctl(socket.socket(), 0x8914, up)"
export container=other
exec /lib/systemd/systemd --system --unit=alone.target --log-target=console
"""


class Machine:
    """A systemd of its own, and its unit `urlguard`."""

    def __init__(self, pid):
        self.pid = pid

    def run(self, *command):
        return subprocess.run(
            ["nsenter", "-t", str(self.pid), "-a", *command],
            capture_output=True,
            text=True,
            timeout=90,
        )

    def shows(self, key):
        return self.run("systemctl", "show", "urlguard", "-P", key).stdout.strip()

    def log(self):
        return self.run("cat", "/run/urlguard.log").stdout

    def ask(self, name):
        """The code of the answer, and its addresses."""
        text = (
            "import dns.message, dns.query, dns.rcode\n"
            f"answer = dns.query.udp(dns.message.make_query('{name}', 'A'), '127.0.0.1', 5)\n"
            "print(dns.rcode.to_text(answer.rcode()), *(r for s in answer.answer for r in s))"
        )
        return self.run(sys.executable, "-c", text).stdout.strip()


def cgroups():
    """Where the unified hierarchy is mounted, or None."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" and "rw" in options.split(","):
            return Path(where)
    return None


@pytest.fixture
def machine(tmp_path):
    """A machine that runs the unit as the user ``daemon``, with nothing else."""
    hierarchy = cgroups()
    systemd_itself = Path("/lib/systemd/systemd")
    if os.getuid() != 0 or hierarchy is None or not systemd_itself.exists():
        pytest.skip("needs root, cgroup2, and the Debian package systemd")
    tried = subprocess.run(["unshare", "-p", "-f", "-m", "-n", "-u", "-i", "-C", "true"])
    if tried.returncode != 0:
        pytest.skip("needs a kernel that lets it make namespaces")
    units = tmp_path / "units"
    (units / "urlguard.service.d").mkdir(parents=True)
    for name in TARGETS:
        (units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    file = tmp_path / "urlguard.toml"
    file.write_text(
        'state_dir = "/var/lib/urlguard"\n[server]\nlisten = ["127.0.0.1:53"]\n'
        '[forward]\nupstreams = ["127.0.0.1:54"]\n[rpz]\nlisten = ["127.0.0.1:853"]\n'
        '[[feed]]\nname = "list"\npath = "list.txt"\n'
    )
    (tmp_path / "list.txt").write_text("evil.example\n")
    made = config.parse(tomllib.loads(file.read_text()), Path("/mnt/urlguard.toml"))
    (units / "urlguard.service").write_text(systemd.unit(made, "daemon"))
    root = Path(__file__).parents[2]
    (units / "urlguard.service.d" / "test.conf").write_text(
        f"[Service]\nEnvironment=PYTHONPATH={root}\n"
        "StandardOutput=append:/run/urlguard.log\nStandardError=append:/run/urlguard.log\n"
    )
    needed = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), root}
    hidden = [str(p) for p in needed if p.is_relative_to("/root") or p.is_relative_to("/home")]
    group = hierarchy / f"urlguard-test-{os.getpid()}"
    group.mkdir()
    enter = f"echo $$ > {group}/cgroup.procs; exec "
    with (tmp_path / "systemd.log").open("w") as log:
        outside = subprocess.Popen(
            ["sh", "-c", enter + 'unshare -p -f -m -n -u -i -C --kill-child sh -c "$MACHINE"'],
            env={
                **os.environ,
                "MACHINE": MACHINE,
                "NEEDED": " ".join(hidden),
                "GIVEN": str(tmp_path),
                "PYTHON": sys.executable,
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
        wait_until(lambda: outside.poll() is not None or children.read_text().strip())
        assert outside.poll() is None, (tmp_path / "systemd.log").read_text()
        made = Machine(int(children.read_text()))
        wait_until(lambda: made.run("systemctl", "is-active", "alone.target").returncode == 0, 20)
        yield made
    finally:
        outside.kill()  # and with process 1 goes all that it started
        outside.wait(10)
        for folder in [*sorted(group.rglob("*/"), reverse=True), group]:
            if folder.is_dir():
                wait_until(lambda folder=folder: removed(folder))


def removed(folder):
    """Remove a control group as soon as its last process is gone."""
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


@pytest.mark.peer
@pytest.mark.slow
def test_the_unit_works_under_systemd(machine):
    """
    Under a real systemd with every restriction of the unit: port 53 without root, the list is read
    and compiled, a reload takes effect, a bad one fails and changes nothing, a killed worker comes
    back, a stopped supervisor is replaced by the watchdog, the stop is clean.
    """
    started = machine.run("systemctl", "start", "urlguard")
    assert started.returncode == 0, started.stderr + machine.log()
    assert machine.shows("StatusText") == "answers DNS on 127.0.0.1:53 with 2 workers"
    assert machine.ask("evil.example") == "NOERROR 127.0.0.1"
    main = machine.shows("MainPID")
    status = machine.run("cat", f"/proc/{main}/status").stdout
    assert re.search(r"Uid:\s+[1-9]", status)
    assert re.search(r"CapEff:\s+0+400\n", status)

    machine.run("sh", "-c", """echo '[guard]\nanswer = "nxdomain"' >> /mnt/urlguard.toml""")
    assert machine.run("systemctl", "reload", "urlguard").returncode == 0, machine.log()
    assert machine.ask("evil.example") == "NXDOMAIN", machine.log()
    assert '"workers": "2 of 2"' in machine.log()

    machine.run("sh", "-c", "echo nonsense >> /mnt/urlguard.toml")
    assert machine.run("systemctl", "reload", "urlguard").returncode != 0
    assert machine.shows("ActiveState") == "active"
    assert machine.ask("evil.example") == "NXDOMAIN"
    machine.run("sed", "-i", "/^nonsense/d", "/mnt/urlguard.toml")

    # A process may be started again within the restrictions as well.
    machine.run("pkill", "-KILL", "-f", "urlguard.control.control")
    wait_until(lambda: '"process.died"' in machine.log())
    machine.run("kill", "-STOP", main)
    wait_until(lambda: machine.shows("MainPID") not in (main, "0"), systemd.WATCHDOG_S + 15)
    wait_until(lambda: machine.ask("evil.example") == "NXDOMAIN", 15)
    assert machine.shows("MainPID") not in (main, "0")
    assert machine.run("systemctl", "stop", "urlguard").returncode == 0
    assert machine.shows("Result") == "success"

    # What a restriction forbids shows up as an error of Python's.
    assert "Traceback" not in machine.log(), machine.log()
    assert "PermissionError" not in machine.log(), machine.log()
    assert "not permitted" not in machine.log(), machine.log()
