"""
What does a query cost UrlGuard, beside Unbound and dnsdist with the same list in the same run?

    python -m benchmarks.resolvers [--list FILE] [--names N] [--seconds S] [--repeat N]
                                   [--only NAME]… [--no-record]

Loads every server with dnsperf in turn, round after round, and prints CPU for each query (user and
system time of all processes of a server), queries per second, loss, memory and the time from start
to the first right answer.  A bare loop in C that looks nothing up is the floor; it needs a C
compiler and is left out without one.

The loads:

    repeated  500 blocked names over and over
    blocked   names that are blocked and were never asked for before
    mix       19 of 20 are one of 1000 popular names, which a server may have in its cache; every
              twentieth is as in ``blocked``
    new       names that are on no list and were never asked for before: all must be forwarded

Blocked names get NXDOMAIN and the upstream always gives an address, so dnsperf's count of response
codes tells for every single answer of a run whether it was right.  The benchmark fails if one is
not, if a server answers a sample of names wrongly, or if more than 1 % of the queries are lost.
"""

import argparse
import contextlib
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import lists, load, peers, report, results, stub
from benchmarks.load import BenchmarkError, Run
from benchmarks.peers import Server

REPEATED, COMMON, SAMPLE = 500, 1000, 200
MAX_LOSS = 0.01

# Names for one second of a load whose names must all be new: more than any server here answers.
RATES = {"blocked": 180_000, "mix": 180_000, "new": 80_000}
LOADS = ("repeated", *RATES)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resolvers")
    parser.add_argument("--list", type=Path, default=lists.default_path(), metavar="FILE")
    parser.add_argument("--names", type=int, metavar="N", help="take the list's first N only")
    parser.add_argument("--seconds", type=float, default=5.0, help="for one load; default 5")
    parser.add_argument("--repeat", type=int, default=3, help="rounds; default 3")
    choices = [*peers.SERVERS, "bare", *LOADS]
    parser.add_argument("--only", action="append", choices=choices, help="a server or a load")
    parser.add_argument("--record", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def main() -> None:
    """Measure, print, record; ends with an error if any server's answers were wrong."""
    options = arguments()
    version = load.need_dnsperf()
    # A terminated benchmark must leave no server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rules = lists.read(options.list, options.names).rows
    print(f"{len(rules)} names of {options.list.name}; dnsperf {version}", file=sys.stderr)
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            rows = measure(options, rules, Path(folder).resolve(), stack)
    except BenchmarkError as exc:
        raise SystemExit(f"failed: {exc}") from None
    print(report.resolvers(rows))
    if options.record:
        results.write("resolvers", rows)


def measure(
    options: argparse.Namespace, rules: dict[str, str], folder: Path, stack: contextlib.ExitStack
) -> list[dict[str, Any]]:
    """Start all, load all, and give a row for each server's start and each of its loads."""
    wanted = set(options.only or ())
    loads = [name for name in LOADS if name in wanted] or list(LOADS)
    servers = list(start(wanted - set(LOADS), rules, folder, stack))
    if not servers:
        raise BenchmarkError("none of the chosen servers can be started here")
    rows = [start_row(server) for server in servers]
    names = lists.Names(rules, peers.LONGEST)
    for server in servers:
        check_sample(server, names)
    runs: dict[tuple[str, str], list[Run]] = {}
    memory: dict[tuple[str, str], tuple[float, float]] = {}
    for round_ in range(1, options.repeat + 1):
        for name in loads:
            path = write_names(name, names, options.seconds, folder)
            for server in servers:
                if not (server.forwards if name == "new" else server.blocks or is_echo(server)):
                    continue
                if server.name == "bare forward" and name != "new":
                    continue
                # Whoever was loaded before still ends what it had begun.
                time.sleep(0.2)
                run = load.dnsperf(
                    server.pid, server.port, path, options.seconds, once=name != "repeated"
                )
                check_run(server, name, run)
                runs.setdefault((server.name, name), []).append(run)
                memory[server.name, name] = load.memory_mib(server.pid)
                print(
                    f"round {round_}  {name:8} {server.name:13} {run.cpu_us:6.2f} µs"
                    f" {run.qps:8.0f} a second, {run.lost} of {run.sent} lost,"
                    f" others took {run.others:.0%} of the CPUs",
                    file=sys.stderr,
                )
    by_name = {server.name: server for server in servers}
    for (server_name, name), all_ in runs.items():
        rows.append(load_row(by_name[server_name], name, all_, memory[server_name, name]))
    for server in servers:
        check_sample(server, names)
    return rows


def start(
    wanted: set[str], rules: dict[str, str], folder: Path, stack: contextlib.ExitStack
) -> Iterator[Server]:
    """Start the upstream and the wanted servers, one after the other."""
    binary = peers.responder(folder)
    if binary is None:
        print("no C compiler: no floor, and an upstream in Python", file=sys.stderr)
    port = stack.enter_context(peers.upstream(folder, binary))
    if binary is not None and (not wanted or "bare" in wanted):
        for mode in ("echo", "forward"):
            yield stack.enter_context(peers.bare(folder, binary, mode, port))
    for name, open_server in peers.SERVERS.items():
        if wanted and name not in wanted:
            continue
        if not peers.installed(name):
            print(f"{name} is not installed; left out", file=sys.stderr)
            continue
        home = folder / name
        home.mkdir()
        server = stack.enter_context(open_server(home, rules, port))
        left_out = f", {server.left_out} names too long for it" if server.left_out else ""
        print(
            f"{server.name} {server.version}: ready after {server.ready_s:.1f} s{left_out}",
            file=sys.stderr,
        )
        yield server


def is_echo(server: Server) -> bool:
    """True for the floor of everything that is answered without asking upstream."""
    return not (server.blocks or server.forwards)


def write_names(name: str, names: lists.Names, seconds: float, folder: Path) -> Path:
    """The names of a load for one round; every server gets the same."""
    count = int(RATES.get(name, 0) * seconds)
    match name:
        case "repeated":
            asked = names.repeated(REPEATED)
        case "blocked":
            asked = names.blocked(count)
        case "mix":
            asked = names.mixed(count, COMMON)
        case _:
            asked = names.fresh(count)
    return lists.write_queries(asked, folder / f"{name}.txt")


def check_sample(server: Server, names: lists.Names) -> None:
    """Fail unless the server blocks a sample of listed names and lets others through."""
    if not server.blocks:
        return
    expected = dict.fromkeys(names.blocked(SAMPLE), "NXDOMAIN")
    expected |= dict.fromkeys(names.fresh(SAMPLE), stub.ADDRESS)
    expected |= dict.fromkeys(names.common(SAMPLE), stub.ADDRESS)
    for name, right in expected.items():
        if (found := load.ask(server.port, name)) != right:
            raise BenchmarkError(f"{server.name}: {name} got {found}; must get {right}")


def check_run(server: Server, name: str, run: Run) -> None:
    """Fail unless every answer of the run had the right response code."""
    blocked = run.rcodes.get("NXDOMAIN", 0)
    right = blocked + run.rcodes.get("NOERROR", 0) == run.completed
    if not server.blocks or name == "new":
        right &= blocked == 0
    elif name == "mix":
        # Answers to the last queries may be missing, in whatever order they were to come.
        right &= abs(blocked - run.completed / 20) <= load.OUTSTANDING + run.lost
    else:
        right &= blocked == run.completed
    if not right:
        raise BenchmarkError(f"{server.name}, {name}: {run.rcodes} of {run.completed} answers")
    if run.lost > run.sent * MAX_LOSS:
        raise BenchmarkError(f"{server.name}, {name}: {run.lost} of {run.sent} queries lost")


def start_row(server: Server) -> dict[str, Any]:
    """What a server took to start."""
    rss, pss = load.memory_mib(server.pid)
    return {
        "server": server.name,
        "version": server.version,
        "case": "start",
        "rules": server.rules,
        "rounds": 1,
        "rss_mib": round(rss, 1),
        "pss_mib": round(pss, 1),
        "seconds": round(server.ready_s, 3),
    }


def load_row(
    server: Server, name: str, runs: list[Run], memory: tuple[float, float]
) -> dict[str, Any]:
    """The medians of a load's rounds; the memory after the last one."""
    cpu = [run.cpu_us for run in runs]
    sent, lost = sum(run.sent for run in runs), sum(run.lost for run in runs)
    return {
        "server": server.name,
        "version": server.version,
        "case": name,
        "rules": server.rules,
        "rounds": len(runs),
        "queries": sum(run.completed for run in runs),
        "cpu_us": round(statistics.median(cpu), 3),
        "cpu_us_low": round(min(cpu), 3),
        "cpu_us_high": round(max(cpu), 3),
        "per_s": round(statistics.median(run.qps for run in runs)),
        "loss_pct": round(lost / sent * 100, 4),
        "others_pct": round(max(run.others for run in runs) * 100, 1),
        "rss_mib": round(memory[0], 1),
        "pss_mib": round(memory[1], 1),
    }


if __name__ == "__main__":
    main()
