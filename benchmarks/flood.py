"""
What do honest clients notice of a random-subdomain flood at half of what the server can take?

    python -m benchmarks.flood [--seconds S] [--rate N] [--cache-mb N] [--workers N] [--only CASE]…
                               [--no-record]

Capacity is what one dnsperf gets answered at full speed of random names that do not exist, each of
which is asked upstream.  Half as many a second are asked by 250 addresses, without looking at the
answers, below a zone that answers NXDOMAIN (worst for CPU and cache) or one that never answers
(worst for the slots of queries under way).  Beside them 40 other addresses ask honestly: nine of
ten questions for popular names, which the cache has, one for a name that nobody asked for before.

    calm       honest clients only
    nxdomain   and the flood below the zone that answers
    silent     and the flood below the zone that does not
    …, limits  the same, and ``[limit]`` holds for loopback too; 250 addresses keep below it
    few        with limits, the flood from 8 addresses, which do not

Passes if in each case at least 99.9 % of the honest questions get the right answer, and if of the
popular names at least 99.9 % are still in the cache after the flood, although what the flood
left there was more than the cache holds.
"""

import argparse
import contextlib
import re
import signal
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import clients, lists, load, peers, report, results, stub
from benchmarks.load import BenchmarkError
from urlguard import __version__

NXDOMAIN, SILENT = "flood.nxdomain.example", "flood.silent.example"
POPULAR, LISTED = 1000, 2000
HONEST, FLOODING, FEW = 40, 250, 8  # addresses
LEAST = 0.999  # of the honest questions answered, and of the popular names kept
WARM_S = 3.0  # from the flood's begin until it counts
CAPACITY_S = 4.0


class Case(NamedTuple):
    """One flood: its zone if any, whether limits hold for it, and from how many addresses."""

    name: str
    zone: str
    limits: bool
    addresses: int


CASES = (
    Case("calm", "", False, 0),
    Case("nxdomain", NXDOMAIN, False, FLOODING),
    Case("silent", SILENT, False, FLOODING),
    Case("nxdomain, limits", NXDOMAIN, True, FLOODING),
    Case("silent, limits", SILENT, True, FLOODING),
    Case("few", NXDOMAIN, True, FEW),
)


class Honest(NamedTuple):
    """What the honest clients ask for."""

    popular: list[str]
    fresh: Iterator[str]
    rate: float


def metrics(port: int) -> dict[str, float]:
    """The figures at an API port, those of one name added up over workers and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        text = reply.read(1 << 22).decode()
    found: dict[str, float] = {}
    for name, value in re.findall(r"^(\w+)(?:\{.*\})? ([-+.\deE]+)$", text, re.M):
        found[name] = found.get(name, 0.0) + float(value)
    return found


def asked_upstream(port: int) -> int:
    """How many questions outside of the flood's zones the upstream has had."""
    found = load.ask(port, stub.COUNT, 2.0)
    if found is None:
        raise BenchmarkError("the upstream does not answer")
    return int.from_bytes(socket.inet_aton(found))


def capacity(server: peers.Server, folder: Path, seconds: float = CAPACITY_S) -> float:
    """Answers a second to random names that do not exist, at full speed."""
    path = lists.write_queries(
        (f"c{number:x}.capacity.{NXDOMAIN}" for number in range(int(60_000 * seconds))),
        folder / "capacity.txt",
    )
    run = load.dnsperf(server.pid, server.port, path, seconds, once=True)
    if set(run.rcodes) != {"NXDOMAIN"}:
        raise BenchmarkError(f"capacity: {run.rcodes}; must be NXDOMAIN only")
    return run.qps


def kept(port: int, upstream: int, popular: list[str]) -> float:
    """The share of popular names that the server knows without asking."""
    before = asked_upstream(upstream)
    for name in popular:
        if (found := load.ask(port, name, 3.0)) != stub.ADDRESS:
            raise BenchmarkError(f"{name} got {found}; must get {stub.ADDRESS}")
    return 1 - (asked_upstream(upstream) - before) / len(popular)


def run(
    case: Case, pool: Any, port: int, honest: Honest, flood_rate: float, seconds: float
) -> tuple[load.Figures, float]:
    """Honest questions of the time that counts, and floods a second that were really sent."""
    begin = time.monotonic() + clients.SOON_S
    whole = WARM_S + seconds
    sources = clients.addresses(40, HONEST)
    fresh = [next(honest.fresh) for _ in range(int(whole * honest.rate / 10) + 1)]
    parts = [
        pool.submit(clients.ask, port, names, honest.rate * share, begin, whole, sources)
        for names, share in ((honest.popular, 0.9), (fresh, 0.1))
    ]
    sent = 0.0
    if case.zone:
        # Its questions end last, so that the honest ones have it beside them to the end.
        sources = clients.addresses(50, case.addresses)
        args = (case.zone, flood_rate, begin, whole + 0.5, sources)
        sent = pool.submit(clients.flood, port, *args).result() / (whole + 0.5)
        if sent < 0.8 * flood_rate:
            print(f"only {sent:.0f} of {flood_rate:.0f} a second were sent", file=sys.stderr)
    series = load.joined(part.result() for part in parts)
    return series.figures(begin + WARM_S), sent


def measure(options: argparse.Namespace, folder: Path, pool: Any) -> list[dict[str, Any]]:
    """All cases; one server without limits for loopback and one with them."""
    rules = lists.read(lists.default_path(), LISTED).rows
    names = lists.Names(rules, peers.LONGEST)
    honest = Honest(names.common(POPULAR), names.fresh(1 << 24), options.rate)
    chosen = [case for case in CASES if not options.only or case.name in options.only]
    rows: list[dict[str, Any]] = []
    flood_rate = 0.0
    with contextlib.ExitStack() as stack:
        upstream = peers.free_port()
        zones = ("--nxdomain", NXDOMAIN, "--silent", SILENT)
        stack.enter_context(peers.python_stub(folder, upstream, *zones))
        for limits in (False, True):
            cases = [case for case in chosen if case.limits == limits]
            if not cases and flood_rate:
                continue
            home = folder / f"limits-{limits}"
            home.mkdir()
            api = peers.free_port()
            more: dict[str, dict[str, Any]] = {
                "api": {"listen": f"127.0.0.1:{api}"},
                "cache": {"max_mb": options.cache_mb},
                # The prober that looks whether names are kept is no subscriber.
                "limit": {"exempt": ["127.0.0.1/32"] if limits else ["127.0.0.0/8"]},
            }
            with peers.urlguard(
                home, rules, upstream, workers=options.workers, more=more
            ) as server:
                if not flood_rate:
                    full = capacity(server, folder)
                    flood_rate = full / 2
                    print(f"capacity {full:.0f} a second", file=sys.stderr)
                    row = {"case": "capacity", "per_s": round(full), "rounds": 1}
                    rows.append({**about(len(rules)), **row})
                for case in cases:
                    kept(server.port, upstream, honest.popular)
                    before, foreign = metrics(api), load.Foreign()
                    figures, sent = run(
                        case, pool, server.port, honest, flood_rate, options.seconds
                    )
                    after, others = metrics(api), foreign.share()
                    still = kept(server.port, upstream, honest.popular)
                    right = figures.said[stub.ADDRESS] / figures.asked
                    row = figures.row(case.name, loss_pct=round(100 * (1 - right), 4))
                    rss, pss = load.memory_mib(server.pid)
                    row |= {"rss_mib": round(rss, 1), "pss_mib": round(pss, 1)}
                    row["others_pct"] = round(others * 100, 1)
                    row["passed"] = "yes" if right >= LEAST and still >= LEAST else "no"
                    rows.append({**about(len(rules)), **row})
                    tell(case, figures, sent, still, before, after)
                # Names of the silent zone may be under way for a while.
                time.sleep(0.5)
    return rows


def about(rules: int) -> dict[str, Any]:
    """What all rows have."""
    return {"server": "UrlGuard", "version": __version__, "rules": rules}


def tell(
    case: Case,
    figures: load.Figures,
    sent: float,
    still: float,
    before: dict[str, float],
    after: dict[str, float],
) -> None:
    """What else is worth knowing of a case."""

    def more(name: str) -> int:
        return int(after.get(name, 0) - before.get(name, 0))

    cache = after.get("urlguard_cache_bytes", 0) / 2**20
    print(
        f"{case.name}: flood {sent:.0f} a second; {dict(figures.said)};"
        f" {still:.1%} of the popular names kept; cache {cache:.1f} MiB,"
        f" {more('urlguard_cache_evictions_total')} evicted,"
        f" {more('urlguard_limited_queries_total')} limited",
        file=sys.stderr,
    )


def main() -> None:
    """Measure, print, record; ends with an error if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each case; default 15")
    parser.add_argument("--rate", type=int, default=1000, help="honest queries a second")
    parser.add_argument("--cache-mb", type=int, default=16, help="of the cache; default 16")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", action="append", choices=[case.name for case in CASES])
    parser.add_argument("--record", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    load.need_dnsperf()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with tempfile.TemporaryDirectory() as folder, clients.crowd(3) as pool:
            rows = measure(options, Path(folder).resolve(), pool)
    except BenchmarkError as exc:
        raise SystemExit(f"failed: {exc}") from None
    if options.record:
        results.write("flood", rows)
    print(report.under_load(rows))
    report.verdict(rows)


if __name__ == "__main__":
    main()
