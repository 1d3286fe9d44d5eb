"""
What do clients notice when upstreams die under load, and how soon is all well again?

    python -m benchmarks.failover [--rate N] [--seconds S] [--workers N] [--no-record]

Three upstreams as processes of their own; clients ask at a steady rate, one half for popular names
that the cache has, one half for names that nobody asked for before.  Then:

    calm         all three are there
    killed       the one that is asked most is killed (kill -9): its port refuses
    silent       the one that is asked most then is stopped (SIGSTOP): no answer and no refusal
    all killed   all are killed, and what was cached has expired: known names get stale answers, new
                 ones SERVFAIL
    all cut off  the same, but all are silent
    back         from the first upstream's return until a new name is answered, by the slowest of 32
                 source ports, so of every worker

Passes if with one of three dead no query is lost, none gets SERVFAIL and p99 is below 0.2 s; if
with none left every known name is answered, with extended error 3 (RFC 8767, RFC 8914) once it has
expired, and every new name gets SERVFAIL with 22 or 23; and if all is well again within 2 s.
"""

import argparse
import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dns.edns
import dns.exception
import dns.message
import dns.query
import dns.rcode

from benchmarks import clients, lists, load, peers, report, results, stub
from benchmarks.load import BenchmarkError, Figures
from urlguard import __version__

TTL_S = 4  # of the upstreams' answers
POPULAR = 200  # names
PROBES = 40  # single questions about extended errors
PORTS = 32  # source ports that must see an upstream return
MOST_P99_S, MOST_BACK_S = 0.2, 2.0
STALE, NO_REACHABLE, NETWORK = 3, 22, 23  # extended errors, RFC 8914
PATIENCE_S = 5.0  # of clients, as most stub resolvers have it
LISTED = 2000  # names of the list: this is not about policy


class Upstreams:
    """The three, on ports of their own."""

    def __init__(self, folder: Path, count: int = 3, ttl_s: int = TTL_S) -> None:
        self.ports = [peers.free_port() for _ in range(count)]
        self._folder = folder
        self._ttl = str(ttl_s)
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start those that do not run; all answer on return."""
        for port in self.ports:
            if port not in self._running:
                self._begin(port)
        self.wait(len(self.ports))

    def wait(self, count: int) -> None:
        """Wait until so many answer."""
        until = time.monotonic() + 10
        while sum(load.ask(p, "ready.example", 0.2) == stub.ADDRESS for p in self.ports) < count:
            if time.monotonic() > until:
                raise BenchmarkError(f"not {count} upstreams after 10 s")
            time.sleep(0.005)

    def return_(self) -> float:
        """Start all of them again and give the time at which the first one answered."""
        for port in self.ports:
            self._begin(port)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            for port in self.ports:
                if load.ask(port, "ready.example", 0.05) == stub.ADDRESS:
                    return time.monotonic()
        raise BenchmarkError("no upstream after 10 s")

    def _begin(self, port: int) -> None:
        call = [sys.executable, str(Path(stub.__file__)), str(port), "--ttl", self._ttl]
        with (self._folder / f"stub-{port}.log").open("ab") as log:
            self._running[port] = subprocess.Popen(call, stdout=log, stderr=log)

    def busiest(self, seconds: float = 0.5) -> int:
        """The port of the one that is asked most now."""
        before = {port: self._asked(port) for port in self._running}
        time.sleep(seconds)
        return max(before, key=lambda port: self._asked(port) - before[port])

    def _asked(self, port: int) -> int:
        found = load.ask(port, stub.COUNT, 0.5)
        return int.from_bytes(socket.inet_aton(found)) if found else 0

    def stop(self, *ports: int) -> None:
        """Let them be silent, all if none is named: their sockets stay, and nobody reads."""
        for port in ports or list(self._running):
            self._running[port].send_signal(signal.SIGSTOP)

    def resume(self) -> float:
        """Let those that were stopped go on; gives the time at which they did."""
        for child in self._running.values():
            child.send_signal(signal.SIGCONT)
        return time.monotonic()

    def kill(self, *ports: int) -> None:
        """kill -9, of all if none is named."""
        for port in ports or list(self._running):
            child = self._running.pop(port, None)
            if child is not None:
                child.kill()
                child.wait()


class Said(NamedTuple):
    """One answer: response code in words, addresses or none, extended errors."""

    rcode: str
    records: int
    errors: set[int]


def probe(port: int, name: str, patience_s: float = 5.0) -> Said:
    """Ask with EDNS, for the extended errors; an rcode of ``nothing`` if no answer comes."""
    query = dns.message.make_query(name, "A", use_edns=0)
    try:
        reply = dns.query.udp(query, "127.0.0.1", port=port, timeout=patience_s)
    except dns.exception.Timeout:
        return Said("nothing", 0, set())
    errors = {int(o.code) for o in reply.options if isinstance(o, dns.edns.EDEOption)}
    return Said(dns.rcode.to_text(reply.rcode()), len(reply.answer), errors)


def recovery(port: int, since: float, patience_s: float = 10.0) -> float:
    """
    Seconds from `since` until the slowest of `PORTS` source ports got a good answer.

    Each question is about a name of its own, for a failure is remembered for a second.
    """
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(load.udp(port)) for _ in range(PORTS)]
        for sock in waiting:
            sock.settimeout(0.5)
        number = 0
        while waiting:
            still = []
            for sock in waiting:
                number += 1
                query = load.query(f"again{number}.back.example", number & 0xFFFF)
                try:
                    sock.send(query)
                    reply = sock.recv(4096)
                except OSError:
                    reply = b""
                if reply[:2] != query[:2] or load.meaning(reply) != stub.ADDRESS:
                    still.append(sock)
            waiting = still
            if time.monotonic() - since > patience_s:
                raise BenchmarkError(f"{len(waiting)} of {PORTS} ports wait after {patience_s} s")
            time.sleep(0.005)
        return time.monotonic() - since


class Load(NamedTuple):
    """Who asks, and how much."""

    port: int
    popular: list[str]
    fresh: list[str]  # enough for all that is asked
    rate: float  # of each half


def asking(pool: Any, load_: Load, begin: float, seconds: float) -> tuple[Any, Any]:
    """Have both halves ask; gives what their series will come in."""
    count = int(load_.rate * seconds) + 1
    fresh = load_.fresh[:count]
    del load_.fresh[:count]
    if len(fresh) < count:
        raise BenchmarkError("not enough new names")
    sources = clients.addresses(30, 16)
    return (
        pool.submit(clients.ask, load_.port, load_.popular, load_.rate, begin, seconds, sources),
        pool.submit(
            clients.ask, load_.port, fresh, load_.rate, begin, seconds, sources, PATIENCE_S
        ),
    )


def observed(
    port: int, who: Load, names: lists.Names, ended: float, parts: tuple[Any, Any]
) -> Iterator[tuple[Figures, bool]]:
    """What happened to known names after they had expired, and to new ones; is it as it must be?"""
    expired = ended + TTL_S + 0.5
    time.sleep(expired - time.monotonic())
    # The first to ask may have to wait until it is plain that nobody answers.
    probe(port, who.popular[0])
    stale = [probe(port, name) for name in who.popular[:PROBES]]
    failed = [probe(port, name) for name in names.fresh(PROBES)]
    known, new = (part.result() for part in parts)
    good = all(one.records and STALE in one.errors for one in stale)
    yield known.figures(expired), good and all_good(known.figures(ended))
    figures = new.figures(ended + 0.1)
    good = all(one.rcode == "SERVFAIL" and one.errors & {NO_REACHABLE, NETWORK} for one in failed)
    yield figures, good and set(figures.said) == {"SERVFAIL"}
    for kind, probes in (("known", stale), ("new", failed)):
        print(f"{kind}: {Counter((p.rcode, *p.errors) for p in probes)}", file=sys.stderr)


def all_good(figures: Figures) -> bool:
    """True if every question got the upstream's address."""
    return figures.said == {stub.ADDRESS: figures.asked}


def measure(options: argparse.Namespace, folder: Path, pool: Any) -> list[dict[str, Any]]:
    """All cases, one after the other, on one server."""
    rules = lists.read(lists.default_path(), LISTED).rows
    names = lists.Names(rules, peers.LONGEST)
    seconds, rate = options.seconds, options.rate / 2
    enough = int(rate * (5 * seconds + 2 * TTL_S + 30)) + 10_000
    about = {"server": "UrlGuard", "version": __version__, "rules": len(rules)}
    foreign = load.Foreign()
    rows: list[dict[str, Any]] = []

    def row(figures: Figures, case: str, passed: bool | None) -> None:
        told = "" if passed is None else "yes" if passed else "no"
        rows.append({**about, **figures.row(case), "passed": told})
        print(f"{case}: {dict(figures.said)}", file=sys.stderr)

    upstreams = Upstreams(folder)
    with contextlib.ExitStack() as stack:
        stack.callback(upstreams.kill)
        upstreams.start()
        server = stack.enter_context(
            peers.urlguard(folder, rules, upstreams.ports, workers=options.workers)
        )
        who = Load(server.port, names.common(POPULAR), list(names.fresh(enough)), rate)

        begin = time.monotonic() + clients.SOON_S
        parts = asking(pool, who, begin, seconds)
        row(load.joined(part.result() for part in parts).figures(), "calm", None)

        for case, end in (("killed", upstreams.kill), ("silent", upstreams.stop)):
            begin = time.monotonic() + clients.SOON_S
            parts = asking(pool, who, begin, 2 + seconds)
            time.sleep(begin + 1 - time.monotonic())
            victim = upstreams.busiest()
            ended = time.monotonic()
            end(victim)
            figures = load.joined(part.result() for part in parts).figures(ended - 0.5)
            row(figures, case, all_good(figures) and figures.p99 < MOST_P99_S)
            upstreams.kill(victim)
            upstreams.start()
            time.sleep(1.5)  # until it is known to be back

        for case, end, back in (
            ("killed", upstreams.kill, upstreams.return_),
            ("cut off", upstreams.stop, upstreams.resume),
        ):
            begin = time.monotonic() + clients.SOON_S
            parts = asking(pool, who, begin, TTL_S + 3 + seconds)
            time.sleep(begin + 1 - time.monotonic())  # all popular names are cached
            end()
            outage = observed(server.port, who, names, time.monotonic(), parts)
            for kind, (figures, good) in zip(("known", "new"), outage, strict=True):
                row(figures, f"all {case}, {kind}", good)
            took = recovery(server.port, back())
            told = "yes" if took <= MOST_BACK_S else "no"
            figure = {"case": f"{case}, back", "rounds": 1, "seconds": round(took, 4)}
            rows.append({**about, **figure, "passed": told})
            print(f"back after {took:.2f} s", file=sys.stderr)
            upstreams.wait(len(upstreams.ports))
            time.sleep(1.5)
    for one in rows:
        one["others_pct"] = round(foreign.share() * 100, 1)
    return rows


def main() -> None:
    """Measure, print, record; ends with an error if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover")
    parser.add_argument("--rate", type=int, default=1000, help="queries a second; default 1000")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each case; default 8")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--record", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with tempfile.TemporaryDirectory() as folder, clients.crowd(2) as pool:
            rows = measure(options, Path(folder).resolve(), pool)
    except BenchmarkError as exc:
        raise SystemExit(f"failed: {exc}") from None
    if options.record:
        results.write("failover", rows)
    print(report.under_load(rows))
    report.verdict(rows)


if __name__ == "__main__":
    main()
