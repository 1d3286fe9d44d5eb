"""
How long until a change of policy is in force, and what does the policy cost to start and to keep?

    python -m benchmarks.policy [--list FILE] [--names N] [--all] [--repeat N] [--tries N]
                                [--no-record]

Runs real processes: ``urlguard serve`` with two workers, the commands that people type, and an
upstream on loopback.  What it prints:

    start        from an empty state folder to the first block answer: import, compile, serve
    restart      from ``urlguard serve`` to the first block answer, with a snapshot at hand
    snapshot     octets of the newest snapshot's files
    log          octets of the policy log
    refresh      from ``urlguard feed refresh`` to 5,000 new names blocked and 5,000 dropped ones
                 free, by a sample of 64 of each, on every worker
    block        from the start of ``urlguard block NAME`` to a block answer from every worker
    block, after the same, counted from the command's return; 0 if it was in force before
    command      from the start of ``urlguard block NAME`` to its return
    check        names a second of ``urlguard check --json -``, its start included

Workers share a port and the kernel picks one by the client's address, so every question is asked
from 32 source ports at once; a change is in force once all 32 say so.  That all of two workers are
among them is as good as certain: 1 in 2^31 against.

With ``--all`` the second list, of two million names, is served as well, and it is that one which is
refreshed.  Each measure checks what came out, and the benchmark fails if it is wrong.
"""

import argparse
import contextlib
import itertools
import json
import math
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import lists, load, peers, report, results, stub
from benchmarks.load import BenchmarkError
from urlguard import __version__, wellknown
from urlguard.blocklist import snapshot
from urlguard.names import parents

WORKERS, PORTS = 2, 32
SINKHOLE = "127.0.0.1"
CHANGED, SAMPLE = 5_000, 64  # names new and names dropped by a refresh; of each, looked at
CHECKED = 200_000
PATIENCE_S = 60.0  # for a change to be in force
PAUSE_S = 0.002  # between two rounds of questions


class Ports:
    """The same question from many source ports, so that every worker gets it."""

    def __init__(self, port: int, stack: contextlib.ExitStack) -> None:
        self._sockets = []
        for _ in range(PORTS):
            sock = stack.enter_context(load.udp(port))
            sock.settimeout(2)
            self._sockets.append(sock)
        self._ident = 0

    def all_say(self, name: str, wanted: str) -> bool:
        """True if the name gets the wanted answer on every port."""
        self._ident = self._ident + 1 & 0xFFFF
        question = load.query(name, self._ident)
        for sock in self._sockets:
            sock.send(question)
        found = []
        for sock in self._sockets:
            while True:
                reply = sock.recv(4096)
                if reply[:2] == question[:2]:
                    break
            found.append(load.meaning(reply))
        return all(one == wanted for one in found)


class Server:
    """UrlGuard in a folder of its own, which can be started again."""

    def __init__(self, folder: Path, feeds: dict[str, Path], upstream: int, probe: str) -> None:
        self.port = peers.free_port()
        self.folder = folder
        self.probe = probe
        self.config = peers.urlguard_config(
            folder, feeds, upstream, port=self.port, workers=WORKERS, answer="sinkhole"
        )

    @property
    def state(self) -> Path:
        """Its state folder."""
        return self.folder / "var"

    def snapshot(self) -> Path:
        """The newest snapshot's folder."""
        return snapshot.newest(self.state / "snapshots")[0]

    def settle(self) -> None:
        """Have a snapshot made of all that the log has, so that no compile is under way."""
        deadline = time.monotonic() + PATIENCE_S
        serial = json.loads(subprocess.check_output(self.call("status", "--json")))["serial"]
        subprocess.run(self.call("compile"), check=True, stdout=subprocess.DEVNULL)
        while int(self.snapshot().name.partition("-")[0]) < serial:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"no snapshot of serial {serial}")
            time.sleep(0.1)

    @contextlib.contextmanager
    def running(self) -> Iterator[float]:
        """Start it, give the seconds that took, and stop it."""
        log = self.folder / "serve.log"
        with peers.process(self.call("serve"), log) as child:
            yield peers.wait_for(child, log, self.port, self.probe, [SINKHOLE])

    def call(self, *arguments: str) -> list[str]:
        """A command with this server's configuration."""
        return peers.command(*arguments, "--config", str(self.config))


class Table:
    """The rows of the run."""

    def __init__(self, rules: int) -> None:
        self.rules = rules
        self.rows: list[dict[str, Any]] = []
        self._foreign, self._since, self._others = load.Foreign(), time.monotonic(), 0.0

    def times(self, case: str, seconds: list[float], *, p99: bool = False) -> None:
        """Median and range of some times."""
        ordered = sorted(seconds)
        more = {"seconds_p99": round(quantile(ordered, 0.99), 4)} if p99 else {}
        self.add(
            case,
            rounds=len(seconds),
            seconds=round(statistics.median(seconds), 4),
            seconds_low=round(ordered[0], 4),
            seconds_high=round(ordered[-1], 4),
            **more,
        )

    def add(self, case: str, **figures: Any) -> None:
        """One row, with what other programs took of the CPUs meanwhile."""
        if "disk_mib" not in figures:
            if time.monotonic() - self._since > 1:  # else it is of the row before's measurement
                self._others, self._foreign = self._foreign.share(), load.Foreign()
                self._since = time.monotonic()
            figures["others_pct"] = round(self._others * 100, 1)
        row = {"server": "UrlGuard", "version": __version__, "case": case, "rules": self.rules}
        self.rows.append({**row, "rounds": 1, **figures})
        shown = "  ".join(f"{key} {value}" for key, value in figures.items())
        print(f"{case:13} {shown}", file=sys.stderr)


def main() -> None:
    """Measure, print, record; ends with an error if anything that came out was wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.policy")
    parser.add_argument("--list", type=Path, default=lists.default_path(), metavar="FILE")
    parser.add_argument("--names", type=int, metavar="N", help="take each list's first N only")
    parser.add_argument("--all", action="store_true", help="serve the second list as well")
    parser.add_argument("--repeat", type=int, default=3, help="of all but block; default 3")
    parser.add_argument("--tries", type=int, default=100, help="of block; default 100")
    parser.add_argument("--record", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    if options.all and not lists.REST.exists():
        raise SystemExit(f"--all needs {lists.REST.name} of the collected data")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(options, Path(folder).resolve())
    except (BenchmarkError, TimeoutError) as exc:
        raise SystemExit(f"failed: {exc}") from None
    if options.record:
        results.write("policy", rows)
    print(report.policy(rows))


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """All measures, one after the other, on one policy."""
    sources = [options.list, lists.REST] if options.all else [options.list]
    feeds: dict[str, Path] = {}
    rules: dict[str, str] = {}
    for number, source in enumerate(sources):
        last = lists.read(source, options.names).rows
        feeds[f"list{number}"] = folder / f"list{number}.csv"
        lists.write_csv(last.items(), feeds[f"list{number}"])
        rules |= last
    print(f"{len(rules):,} names of {' and '.join(s.name for s in sources)}", file=sys.stderr)
    names = lists.Names(rules, peers.LONGEST)
    probe = next(names.blocked(1))
    table = Table(len(rules))
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(peers.upstream(folder, peers.responder(folder)))

        starts = []
        for round_ in range(options.repeat):
            home = folder / f"home{round_}"
            home.mkdir()
            server = Server(home, feeds, upstream, probe)
            with server.running() as seconds:
                starts.append(seconds)
        table.times("start", starts)

        restarts = []
        for _ in range(options.repeat):
            with server.running() as seconds:
                restarts.append(seconds)
        table.times("restart", restarts)

        table.add("snapshot", disk_mib=mib(server.snapshot(), "*"))
        table.add("log", disk_mib=mib(server.state, "policy.db*"))

        stack.enter_context(server.running())
        ports = Ports(server.port, stack)
        block(server, ports, table, options.tries)
        check(server, names, table, options.repeat)
        feed, path = list(feeds.items())[-1]
        others = {name: "" for name in rules if name not in last}
        refresh(server, ports, Feed(feed, path, last, others), table, options.repeat)
    return table.rows


def block(server: Server, ports: Ports, table: Table, tries: int) -> None:
    """From ``urlguard block`` to the first block answer of the slowest worker."""
    effects, afters, commands = [], [], []
    for number in range(tries):
        name = f"try{number}.benchmark.example"
        if not ports.all_say(name, stub.ADDRESS):
            raise BenchmarkError(f"{name}: blocked before anybody said so")
        started = time.perf_counter()
        child = subprocess.Popen(server.call("block", name), stdout=subprocess.DEVNULL)
        effect = returned = 0.0
        while not (effect and returned):
            if not effect and ports.all_say(name, SINKHOLE):
                effect = time.perf_counter() - started
            if not returned and child.poll() is not None:
                returned = time.perf_counter() - started
            if time.perf_counter() - started > PATIENCE_S:
                child.kill()
                raise BenchmarkError(f"{name}: not in force after {PATIENCE_S:.0f} s")
            time.sleep(PAUSE_S)
        if child.returncode != 0:
            raise BenchmarkError(f"urlguard block {name}: exit code {child.returncode}")
        effects.append(effect)
        afters.append(max(0.0, effect - returned))
        commands.append(returned)
    table.times("block", effects, p99=True)
    table.times("block, after", afters, p99=True)
    table.times("command", commands, p99=True)


def check(server: Server, names: lists.Names, table: Table, repeat: int) -> None:
    """Names a second of ``urlguard check``, half of them listed."""
    asked = [*names.blocked(CHECKED // 2), *names.fresh(CHECKED // 2)]
    data = "\n".join(asked).encode() + b"\n"
    rates = []
    for _ in range(repeat):
        started = time.perf_counter()
        done = subprocess.run(server.call("check", "--json", "-"), input=data, capture_output=True)
        rates.append(len(asked) / (time.perf_counter() - started))
        found = [json.loads(line) for line in done.stdout.splitlines()]
        blocked = [one["input"] for one in found if one["action"] == "block"]
        if len(found) != len(asked) or blocked != asked[: CHECKED // 2]:
            raise BenchmarkError(f"check: {len(blocked)} of {len(found)} blocked; not as listed")
    table.add("check", rounds=repeat, per_s=round(statistics.median(rates)))


class Feed(NamedTuple):
    """A list that is served, and what the other lists have."""

    name: str
    path: Path
    rows: dict[str, str]
    others: dict[str, str]


def refresh(server: Server, ports: Ports, feed: Feed, table: Table, repeat: int) -> None:
    """From ``urlguard feed refresh`` to the new list in force on every worker."""
    changed = min(CHANGED, len(feed.rows) // 10)
    rows = dict(feed.rows)
    # Only names that nothing else blocks are free once the feed drops them.
    pool = (
        name
        for name in random.Random(1).sample(list(rows), len(rows))
        if wellknown.quarantine_reason("subtree", name) is None
        and not any(up in rows or up in feed.others for up in parents(name))
        and name not in feed.others
    )
    times = []
    for number in range(repeat):
        server.settle()
        gone = list(itertools.islice(pool, changed))
        new = [f"new{index}.refresh{number}.example" for index in range(changed)]
        for name in gone:
            del rows[name]
        rows |= dict.fromkeys(new, "phishing")
        lists.write_csv(rows.items(), feed.path)
        # First, last and some between: batches arrive in pieces.
        step = max(1, changed // SAMPLE)
        expected = dict.fromkeys([*new[::step], new[-1]], SINKHOLE)
        expected |= dict.fromkeys([*gone[::step], gone[-1]], stub.ADDRESS)
        started = time.perf_counter()
        child = subprocess.Popen(
            server.call("feed", "refresh", feed.name), stdout=subprocess.DEVNULL
        )
        for name, right in expected.items():
            while not ports.all_say(name, right):
                if time.perf_counter() - started > PATIENCE_S:
                    child.kill()
                    raise BenchmarkError(f"refresh: {name} is not {right} in {PATIENCE_S:.0f} s")
                time.sleep(5 * PAUSE_S)
        times.append(time.perf_counter() - started)
        if child.wait(PATIENCE_S) != 0:
            raise BenchmarkError(f"urlguard feed refresh: exit code {child.returncode}")
    table.rules = len(feed.rows)
    table.times("refresh", times)


def quantile(ordered: list[float], share: float) -> float:
    """The smallest of the ordered values that at least this share of them does not exceed."""
    return ordered[math.ceil(share * len(ordered)) - 1]


def mib(folder: Path, pattern: str) -> float:
    """MiB of the folder's files of such names."""
    return round(sum(path.stat().st_size for path in folder.glob(pattern)) / 2**20, 2)


if __name__ == "__main__":
    main()
