"""
Start each server that is measured: one worker, the same list, NXDOMAIN for its names, one upstream.

Every server runs as a normal user's process on a free port of 127.0.0.1, with its files in a
temporary folder, and is ended by its process number.  Each has a cache for what it forwards if it
is able to have one.  What else is set, and why, stands beside the settings.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import lists, load, stub
from urlguard import __version__

READY_S = 600.0  # nobody takes longer to start, or something is wrong
ZONE = "rpz"
LONGEST = 253 - len(f"*..{ZONE}")  # characters of a name that fits into the zone with a star

UNBOUND = """\
server:
    directory: "{folder}"
    chroot: ""
    username: ""
    pidfile: ""
    use-syslog: no
    verbosity: 0
    interface: 127.0.0.1@{port}
    do-ip6: no
    num-threads: 1
    # RPZ needs respip; no DNSSEC, for nobody else here validates
    module-config: "respip iterator"
    do-not-query-localhost: no
    # room for the queries that are under way, and no logging of what is not expected
    outgoing-range: 4096
    num-queries-per-thread: 4096
    msg-cache-size: 64m
    rrset-cache-size: 128m
remote-control:
    control-enable: no
rpz:
    name: "{zone}."
    zonefile: "{folder}/{zone}.zone"
forward-zone:
    name: "."
    forward-addr: 127.0.0.1@{upstream}
"""

DNSDIST = """\
setLocal("127.0.0.1:{port}")
setSecurityPollSuffix("") -- else it asks its makers' servers
newServer({{address="127.0.0.1:{upstream}", mustResolve=false}})
setMaxUDPOutstanding(65535)
getPool(""):setCache(newPacketCache(200000))
local blocked = newSuffixMatchNode()
for line in io.lines("{folder}/names.txt") do
  blocked:add(newDNSName(line))
end
addAction(SuffixMatchNodeRule(blocked, true), RCodeAction(DNSRCode.NXDOMAIN))
"""


class Server(NamedTuple):
    """A running server."""

    name: str
    version: str
    pid: int
    port: int
    ready_s: float  # from its start to its first right answer
    rules: int
    left_out: int  # names of the list that it could not take
    forwards: bool
    blocks: bool


def free_port() -> int:
    """A port of 127.0.0.1 that is free for UDP and TCP now."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            udp.bind(("127.0.0.1", 0))
            with contextlib.suppress(OSError):
                tcp.bind(udp.getsockname())
                return int(tcp.getsockname()[1])


@contextlib.contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child process that is gone when the block is left; both its outputs go to `log`."""
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_for(
    child: subprocess.Popen[bytes], log: Path, port: int, name: str, wanted: Iterable[str]
) -> float:
    """
    Seconds until `name` gets one of the wanted answers.

    Raises:
        load.BenchmarkError: the process ended, or took too long.
    """
    started = time.perf_counter()
    while (found := load.ask(port, name, 0.2)) not in wanted:
        waited = time.perf_counter() - started
        if child.poll() is not None or waited > READY_S:
            tail = log.read_text(errors="replace").strip()[-500:]
            raise load.BenchmarkError(
                f"{log.stem}: no answer after {waited:.0f} s ({found}): {tail}"
            )
        time.sleep(0.005)
    return time.perf_counter() - started


# -- the floor and the upstream --------------------------------------------------------------------


def responder(folder: Path) -> Path | None:
    """The compiled responder; None if there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    source = Path(__file__).with_name("responder.c")
    subprocess.run([compiler, "-O2", "-o", str(folder / "responder"), str(source)], check=True)
    return folder / "responder"


@contextlib.contextmanager
def upstream(folder: Path, binary: Path | None) -> Iterator[int]:
    """Start the upstream and give its port."""
    port, log = free_port(), folder / "upstream.log"
    if binary is None:
        with python_stub(folder, port):
            yield port
        return
    with process([str(binary), "stub", str(port)], log) as child:
        wait_for(child, log, port, "ready.example", [stub.ADDRESS])
        yield port


@contextlib.contextmanager
def python_stub(folder: Path, port: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start the upstream in Python, with options of its own; it may be killed by whoever asked."""
    log = folder / f"stub-{port}.log"
    command = [sys.executable, str(Path(stub.__file__)), str(port), *options]
    with process(command, log) as child:
        wait_for(child, log, port, "ready.example", [stub.ADDRESS])
        yield child


@contextlib.contextmanager
def bare(folder: Path, binary: Path, mode: str, upstream_port: int) -> Iterator[Server]:
    """The floor: ``echo`` or ``forward`` of the responder, which looks nothing up."""
    port, log = free_port(), folder / f"{mode}.log"
    more = [str(upstream_port)] if mode == "forward" else []
    with process([str(binary), mode, str(port), *more], log) as child:
        # An echo has the question's flags and no answer.
        ready = wait_for(child, log, port, "ready.example", [stub.ADDRESS, "NODATA"])
        forwards = mode == "forward"
        yield Server(f"bare {mode}", "-", child.pid, port, ready, 0, 0, forwards, False)


# -- the servers -----------------------------------------------------------------------------------


def urlguard_config(
    folder: Path,
    feeds: dict[str, Path],
    upstream_port: int | Sequence[int],
    *,
    port: int,
    workers: int = 1,
    answer: str = "nxdomain",
    more: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """
    Write a configuration; lists are refreshed by hand only.

    `more` has further keys by section: strings, numbers, truth values and lists of them.
    """
    ports = [upstream_port] if isinstance(upstream_port, int) else upstream_port
    sections: dict[str, dict[str, Any]] = {
        "server": {"listen": [f"127.0.0.1:{port}"], "workers": workers},
        "forward": {"upstreams": [f"127.0.0.1:{one}" for one in ports]},
        "guard": {"answer": answer},
    }
    for section, keys in (more or {}).items():
        sections.setdefault(section, {}).update(keys)
    lines = ['state_dir = "var"']
    for section, keys in sections.items():
        # JSON's strings, numbers, truth values and lists are TOML's as well.
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    for name, path in feeds.items():
        lines += ["[[feed]]", f'name = "{name}"', f"path = {json.dumps(str(path))}"]
        lines += ['format = "csv"', 'column = "domain"', 'category_column = "category"']
        lines += ["refresh_s = 0"]
    path = folder / "urlguard.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def command(*arguments: str) -> list[str]:
    """A call of the ``urlguard`` command that belongs to this interpreter."""
    return [str(Path(sys.executable).with_name("urlguard")), *arguments]


@contextlib.contextmanager
def urlguard(
    folder: Path,
    rules: dict[str, str],
    upstream_port: int | Sequence[int],
    *,
    workers: int = 1,
    more: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[Server]:
    """UrlGuard: supervisor, control process and workers; ready from an empty state folder."""
    lists.write_csv(rules.items(), folder / "list.csv")
    port, log = free_port(), folder / "urlguard.log"
    feeds = {"list": folder / "list.csv"}
    config = urlguard_config(folder, feeds, upstream_port, port=port, workers=workers, more=more)
    with process(command("serve", "--config", str(config)), log) as child:
        ready = wait_for(child, log, port, _some(rules), ["NXDOMAIN"])
        yield Server("UrlGuard", __version__, child.pid, port, ready, len(rules), 0, True, True)


@contextlib.contextmanager
def unbound(folder: Path, rules: dict[str, str], upstream_port: int) -> Iterator[Server]:
    """Unbound, one thread; the list is a response policy zone of two records a name."""
    taken = [name for name in rules if len(name) <= LONGEST]
    with (folder / f"{ZONE}.zone").open("w", encoding="utf-8") as file:
        file.write(f"$ORIGIN {ZONE}.\n$TTL 60\n")
        file.write("@ SOA localhost. nobody.invalid. 1 3600 600 86400 60\n@ NS localhost.\n")
        file.writelines(f"{name} CNAME .\n*.{name} CNAME .\n" for name in taken)
    port, log = free_port(), folder / "unbound.log"
    config = folder / "unbound.conf"
    config.write_text(UNBOUND.format(folder=folder, port=port, upstream=upstream_port, zone=ZONE))
    with process([_binary("unbound"), "-d", "-p", "-c", str(config)], log) as child:
        ready = wait_for(child, log, port, _some(rules), ["NXDOMAIN"])
        out = len(rules) - len(taken)
        version = _version([_binary("unbound"), "-V"])
        yield Server("Unbound", version, child.pid, port, ready, len(taken), out, True, True)


@contextlib.contextmanager
def dnsdist(folder: Path, rules: dict[str, str], upstream_port: int) -> Iterator[Server]:
    """dnsdist, one listening thread; the list is a suffix table."""
    (folder / "names.txt").write_text("\n".join(rules) + "\n", encoding="utf-8")
    port, log = free_port(), folder / "dnsdist.log"
    config = folder / "dnsdist.conf"
    config.write_text(DNSDIST.format(folder=folder, port=port, upstream=upstream_port))
    call = [_binary("dnsdist"), "--supervised", "--disable-syslog", "-C", str(config)]
    with process(call, log) as child:
        ready = wait_for(child, log, port, _some(rules), ["NXDOMAIN"])
        version = _version([_binary("dnsdist"), "--version"])
        yield Server("dnsdist", version, child.pid, port, ready, len(rules), 0, True, True)


SERVERS: dict[str, Callable[..., contextlib.AbstractContextManager[Server]]] = {
    "urlguard": urlguard,
    "unbound": unbound,
    "dnsdist": dnsdist,
}


def installed(name: str) -> bool:
    """True if the server can be started here."""
    return name == "urlguard" or bool(_binary(name))


def _binary(name: str) -> str:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    return shutil.which(name, path=path) or ""


def _version(call: list[str]) -> str:
    done = subprocess.run(call, capture_output=True, text=True)
    found = re.search(r"\d+\.\d+[\w.]*", done.stdout + done.stderr)
    return found[0] if found else "unknown"


def _some(rules: dict[str, str]) -> str:
    """The last name of the list that every server takes: what comes last is there last."""
    return next(lists.Names(dict(list(rules.items())[-100:]), LONGEST).blocked(1))
