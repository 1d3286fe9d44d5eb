"""
What do clients notice of a change of policy while the server is under half of the load it can take?

    python -m benchmarks.changes [--list FILE] [--names N] [--workers N] [--repeat N]
                                 [--seconds S] [--rate N] [--no-record]

Finds the peak of a mix (popular names, which the cache has; every twentieth blocked and never asked
before; every fiftieth new to everybody, so asked upstream) with one dnsperf at full speed, then
loads with half of it and compares:

    quiet          nothing else happens: before and after the others
    swap           ``urlguard compile`` of the whole policy, and the workers take the snapshot up
    refresh        a refresh of the list in which 5,000 names went and 5,000 are new, the changes in
                   force, and the compile and swap that follow by themselves
    100 a second   decisions one by one through the control socket, for a minute

and, within the first two, the second around the swap alone.  dnsperf tells the latency of each
query.  Passes if no query is lost and p99.9 is at most 20 ms above that of quiet times, if all
answers are of the right kind, if all changes are in force at the end, and if at least 95 decisions
a second were made.  On a machine with few cores dnsperf, the upstream, the compile and the workers
take turns; leave --workers below the number of cores.
"""

import argparse
import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import lists, load, peers, report, results, stub
from benchmarks.load import BenchmarkError, Figures, Series
from benchmarks.policy import Ports
from urlguard import __version__
from urlguard.names import parents
from urlguard.processes import channel

COMMON = 1000
CHANGED, SAMPLE = 5_000, 32  # names gone and names new in a refresh; of each, looked at
PEAK_S = 4.0
RATE, LEAST_RATE, FOR_S = 100, 95, 60.0  # decisions a second, at least, and for how long
MORE_S = 0.020  # that p99.9 may be above that of quiet times
AROUND_S = 0.5  # before and after a swap
SETTLE_S = 1.0  # after the load has begun, and after a change is in force
PATIENCE_S = 90.0
MOST_RATE = 60_000  # names written for the peak


class Span(NamedTuple):
    """When something happened; of several workers' swaps, all."""

    since: float
    until: float
    swaps: tuple[float, ...] = ()


class Bench:
    """One server under load, and what is done to it."""

    def __init__(
        self, server: peers.Server, folder: Path, rules: dict[str, str], refreshes: int = 1
    ) -> None:
        self.server = server
        self.rules = dict(rules)
        # What refreshes will drop is no part of the load, so that its answers stay the same.
        whole = lists.Names(rules, peers.LONGEST).repeated(len(rules) // 4)
        alone = (name for name in whole if not any(up in rules for up in parents(name)))
        self._droppable = list(itertools.islice(alone, CHANGED * refreshes))
        dropped = set(self._droppable)
        kept = {name: category for name, category in rules.items() if name not in dropped}
        self.names = lists.Names(kept, peers.LONGEST)
        self.home = folder / "home"
        self.folder = folder
        self._log = self.home / "urlguard.log"
        self._decided = 0
        self._round = 0
        self.others = 0.0  # of all CPU time in the latest run, taken by programs not ours

    # ---- the load

    def mix(self, count: int) -> Path:
        """Names for so many questions."""
        common = itertools.cycle(self.names.common(COMMON))
        blocked = self.names.blocked(count // 20 + 1)
        fresh = self.names.fresh(count // 50 + 1)

        def asked() -> Iterator[str]:
            for number in range(count):
                if number % 20 == 10:
                    yield next(blocked)
                elif number % 50 == 5:
                    yield next(fresh)
                else:
                    yield next(common)

        return lists.write_queries(asked(), self.folder / "mix.txt")

    def peak(self) -> float:
        """Answers a second at full speed."""
        path = self.mix(int(PEAK_S * MOST_RATE))
        run = load.dnsperf(self.server.pid, self.server.port, path, PEAK_S, once=True)
        if set(run.rcodes) - {"NOERROR", "NXDOMAIN"}:
            raise BenchmarkError(f"peak: {run.rcodes}; must be NOERROR and NXDOMAIN only")
        return run.qps

    def loaded(self, rate: int, seconds: float, work: Any) -> tuple[Series, Span]:
        """All questions of a run in which `work` was done, and when it was."""
        path = self.mix(int(rate * (seconds + 2 * SETTLE_S)))
        output = self.folder / "dnsperf.txt"
        with load.steady(self.server.port, path, rate, output) as running:
            time.sleep(2 * SETTLE_S)
            since, foreign = time.monotonic(), load.Foreign()
            swaps = work()
            until, self.others = time.monotonic(), foreign.share()
            time.sleep(SETTLE_S)
            series = running.stop()
        return series, Span(since, until + SETTLE_S / 2, tuple(swaps))

    # ---- what is done

    def quiet(self, seconds: float) -> list[float]:
        """Nothing."""
        time.sleep(seconds)
        return []

    def swap(self) -> list[float]:
        """Compile and wait until all workers have taken the snapshot up."""
        self.decide("swap")
        seen = self._log.stat().st_size
        self._call("compile")
        return self._swapped(seen)

    def refresh(self) -> list[float]:
        """Refresh with another list, wait until it is in force, and for compile and swap."""
        self._round += 1
        gone, self._droppable = self._droppable[:CHANGED], self._droppable[CHANGED:]
        new = [f"new{index}.refresh{self._round}.example" for index in range(len(gone))]
        for name in gone:
            del self.rules[name]
        self.rules |= dict.fromkeys(new, "phishing")
        lists.write_csv(self.rules.items(), self.home / "list.csv")
        seen = self._log.stat().st_size
        self._call("feed", "refresh", "list")
        swaps = self._swapped(seen)
        step = max(1, len(gone) // SAMPLE)
        self._all_say([*new[::step], new[-1]], "NXDOMAIN")
        self._all_say([*gone[::step], gone[-1]], stub.ADDRESS)
        return swaps

    def decisions(self, seconds: float, took: list[float]) -> list[float]:
        """`RATE` decisions a second, one by one; `took` gets the time of each."""
        begun = time.monotonic()
        first = self._decided
        while (now := time.monotonic()) < begun + seconds:
            due = begun + (self._decided - first) / RATE
            if due > now:
                time.sleep(due - now)
            started = time.monotonic()
            self.decide("one")
            took.append(time.monotonic() - started)
        last = self._decided
        named = [f"one{n}.decided.example" for n in range(first, last, max(1, RATE))]
        self._all_say([*named, f"one{last - 1}.decided.example"], "NXDOMAIN")
        return []

    def decide(self, word: str) -> None:
        """One decision, in force on every worker on return."""
        value = f"{word}{self._decided}.decided.example"
        self._decided += 1
        change = [f"subtree {value}", "block", "fraud"]
        message = {"op": "apply", "source": "operator", "changes": [change]}
        reply = channel.ask(self.home / "var", {**message, "actor": "benchmark", "reason": ""})
        if reply is None or reply.get("in_force") != reply.get("workers", 0):
            raise BenchmarkError(f"a decision is not in force: {reply}")

    def _call(self, *arguments: str) -> None:
        call = peers.command(*arguments, "--config", str(self.home / "urlguard.toml"))
        done = subprocess.run(call, capture_output=True, text=True, timeout=PATIENCE_S)
        if done.returncode != 0:
            raise BenchmarkError(f"urlguard {arguments[0]}: {done.stderr.strip()[-300:]}")

    def _swapped(self, seen: int) -> list[float]:
        """Wait until every worker has told of a swap in the log behind octet `seen`."""
        until = time.monotonic() + PATIENCE_S
        found: list[float] = []
        workers: set[bytes] = set()
        wanted = int(_workers(self.home))
        while len(workers) < wanted:
            if time.monotonic() > until:
                raise BenchmarkError(f"no swap on {wanted} workers after {PATIENCE_S:.0f} s")
            time.sleep(0.01)
            with self._log.open("rb") as file:
                file.seek(seen)
                text = file.read()
            for line in text.splitlines():
                number = re.search(rb'worker"?[=:] ?(\d+)', line)
                if b"snapshot.swapped" in line and number and number[1] not in workers:
                    workers.add(number[1])
                    found.append(time.monotonic())
        return found

    def _all_say(self, names: list[str], wanted: str) -> None:
        with contextlib.ExitStack() as stack:
            ports = Ports(self.server.port, stack)
            until = time.monotonic() + PATIENCE_S
            for name in names:
                while not ports.all_say(name, wanted):
                    if time.monotonic() > until:
                        raise BenchmarkError(f"{name} is not {wanted}")
                    time.sleep(0.01)


def _workers(home: Path) -> str:
    found = re.search(r"^workers = (\d+)$", (home / "urlguard.toml").read_text(), re.M)
    assert found is not None
    return found[1]


def check(case: str, figures: Figures) -> None:
    """Fail unless what was answered was what had to be."""
    blocked = figures.said["NXDOMAIN"] / figures.asked
    strange = set(figures.said) - {"NXDOMAIN", "NOERROR", "nothing"}
    if strange or abs(blocked - 0.05) > 0.01:
        raise BenchmarkError(f"{case}: {dict(figures.said)}; one in 20 must be NXDOMAIN")


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """All cases, round by round, on one server."""
    rules = lists.read(options.list, options.names).rows
    print(f"{len(rules):,} names", file=sys.stderr)
    found: dict[str, list[Figures]] = {}
    others: dict[str, float] = {}
    rates: list[float] = []
    took: list[float] = []
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(peers.upstream(folder, peers.responder(folder)))
        (folder / "home").mkdir()
        server = stack.enter_context(
            peers.urlguard(folder / "home", rules, upstream, workers=options.workers)
        )
        bench = Bench(server, folder, rules, options.repeat)
        peak = bench.peak()
        rate = options.rate or int(peak / 2)
        print(f"peak {peak:.0f} a second; load {rate}", file=sys.stderr)

        def note(case: str, series: Series, since: float, until: float) -> None:
            figures = series.figures(since, until)
            found.setdefault(case, []).append(figures)
            others[case] = max(others.get(case, 0.0), bench.others)
            print(
                f"{case}: {until - since:.1f} s, {figures.asked} asked, {figures.lost} lost,"
                f" p99 {figures.p99 * 1000:.2f}, p99.9 {figures.p999 * 1000:.2f},"
                f" longest {figures.most * 1000:.1f} ms; others took {bench.others:.0%}",
                file=sys.stderr,
            )
            check(case, figures)

        def around(case: str, series: Series, span: Span) -> None:
            for at in span.swaps[-1:]:
                note(f"{case}, its second", series, at - AROUND_S, at + AROUND_S)

        minute = options.minute
        for _ in range(options.repeat):
            series, span = bench.loaded(rate, options.seconds, lambda: bench.quiet(options.seconds))
            note("quiet", series, span.since, span.until)
            series, span = bench.loaded(rate, 15, bench.swap)
            note("swap", series, span.since, span.until)
            around("swap", series, span)
            series, span = bench.loaded(rate, 25, bench.refresh)
            note("refresh", series, span.since, span.until)
            around("refresh", series, span)
            before = len(took)
            series, span = bench.loaded(rate, minute, lambda: bench.decisions(minute, took))
            rates.append((len(took) - before) / minute)
            note("100 a second", series, span.since, span.until)
            series, span = bench.loaded(rate, options.seconds, lambda: bench.quiet(options.seconds))
            note("quiet", series, span.since, span.until)
    about = {"server": "UrlGuard", "version": __version__, "rules": len(rules)}
    rows: list[dict[str, Any]] = [{**about, "case": "peak", "per_s": round(peak), "rounds": 1}]
    limit = load.typical(found["quiet"]).p999 + MORE_S
    for case, rounds in found.items():
        figures = load.typical(rounds)
        good = figures.lost == 0 and figures.p999 <= limit
        row = {**about, **figures.row(case), "rounds": len(rounds)}
        row["others_pct"] = round(others[case] * 100, 1)
        row["passed"] = "" if case == "quiet" else "yes" if good else "no"
        rows.append(row)
    ordered = sorted(took)
    rows.append(
        {
            **about,
            "case": "decision",
            "rounds": len(rates),
            "per_s": round(min(rates)),
            "seconds": round(load.quantile(ordered, 0.5), 6),
            "seconds_p99": round(load.quantile(ordered, 0.99), 6),
            "seconds_high": round(ordered[-1], 6),
            "passed": "yes" if min(rates) >= LEAST_RATE else "no",
        }
    )
    return rows


def main() -> None:
    """Measure, print, record; ends with an error if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.changes")
    parser.add_argument("--list", type=Path, default=lists.default_path(), metavar="FILE")
    parser.add_argument("--names", type=int, metavar="N", help="take the list's first N only")
    cores = max(1, (os.cpu_count() or 2) - 1)
    parser.add_argument("--workers", type=int, default=cores, help="default: one core less")
    parser.add_argument("--repeat", type=int, default=1, help="rounds; default 1")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each quiet time")
    parser.add_argument("--minute", type=float, default=FOR_S, help="seconds of decisions")
    parser.add_argument("--rate", type=int, help="queries a second; default: half of the peak")
    parser.add_argument("--record", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    load.need_dnsperf()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(options, Path(folder).resolve())
    except BenchmarkError as exc:
        raise SystemExit(f"failed: {exc}") from None
    if options.record:
        results.write("changes", rows)
    print(report.under_load(rows))
    report.verdict(rows)


if __name__ == "__main__":
    main()
