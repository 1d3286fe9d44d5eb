"""
How many candidates a second does ``POST /v1/candidates`` take, and is any lost when it is killed?

    python -m benchmarks.candidates [--count N] [--bulk N] [--kills N] [--no-record]

A real ``urlguard serve`` with two workers, the starter list and the models that come with it, over
HTTP on loopback; clients, dnsperf and an upstream run on the same cores.  dnsperf gets a core when
it wants one, if that is permitted, so that what it measures is the server's time and not its own.

    bulk       BULK candidates (400,000) in two streams, while the server judges what has come
    resolver   dnsperf at 2,000 queries a second: ``idle``, and ``bulk`` while that goes on
    killed     COUNT candidates (1,000,000) in requests of 5,000, while somebody decides cases and
               the control process is killed (kill -9) at random moments, KILLS times (10)

Passes if at least 20,000 candidates a second are acknowledged in bulk; if 99 of 100 queries wait at
most 1 ms longer meanwhile than before; and if at the end every acknowledged candidate is in the
store, and no case has two decisions.
"""

import argparse
import collections
import contextlib
import http.client
import json
import os
import random
import signal
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import load, peers, report, results
from benchmarks.api import Served
from benchmarks.load import BenchmarkError
from urlguard import __version__
from urlguard.cases.casework import DATABASE

PART = 5_000  # candidates of a request that may be killed
STREAMS = 2
STREAM = 100_000  # candidates of one body in bulk
RATE, CALM_S = 2_000, 5.0
LEAST_PER_S, MOST_LATER_S = 20_000, 0.001
CLAIM = 20
ACTS = ("watch", "dismiss")

Row = dict[str, Any]


def url(number: int) -> str:
    """A candidate; each seventh is of the same owner as the one before."""
    owner = number - (number % 7 == 0)
    return f"http://login-{owner}.candidate-{owner * 7919 % 1_000_003}.example/account/{number}"


def lines(start: int, count: int) -> bytes:
    """So many candidates as lines of JSON."""
    return b"".join(
        b'{"url":"%b","seen_at":1750000000,"context":"spam trap 7"}\n' % url(n).encode()
        for n in range(start, start + count)
    )


class Client:
    """One connection that is made again whenever it breaks."""

    def __init__(self, port: int, headers: dict[str, str]) -> None:
        self._port = port
        self._headers = headers
        self._connection: http.client.HTTPConnection | None = None

    def post(self, path: str, body: bytes, media: str, **more: str) -> tuple[int, Any]:
        """
        Status and document.

        Raises:
            OSError, http.client.HTTPException: there is none; it may have been done all the same.
        """
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        headers = {**self._headers, "Content-Type": media, **more}
        try:
            self._connection.request("POST", path, body, headers)
            answer = self._connection.getresponse()
            return answer.status, json.loads(answer.read())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def surely(self, path: str, body: bytes, media: str, **more: str) -> tuple[int, Any]:
        """The same, sent again until there is an answer that says more than to wait."""
        until = time.monotonic() + 300
        while time.monotonic() < until:
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                status, found = self.post(path, body, media, **more)
                if status not in (429, 503):
                    return status, found
            time.sleep(0.1)
        raise BenchmarkError(f"{path}: no answer for 300 s")


class Crash:
    """
    Candidates and decisions while the control process is killed.

    Args:
        port: of the API.
        headers: of an admin.
        pid: of the server.
        count: of candidates.
        seed: for the moments.
    """

    def __init__(self, port: int, headers: dict[str, str], pid: int, count: int, seed: int) -> None:
        self._port = port
        self._headers = headers
        self._pid = pid
        self._dice = random.Random(seed)
        self._next = iter(range(0, count, PART))
        self._count = count
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._failed: list[BaseException] = []
        self.acknowledged: set[int] = set()  # first candidates of requests
        self.decided: collections.Counter[int] = collections.Counter()
        self.kills = 0

    def run(self, kills: int) -> float:
        """Bring all, and kill so often meanwhile; returns the seconds it took."""
        before = time.monotonic()
        bringing = [threading.Thread(target=self._guarded, args=(self._bring,)) for _ in range(2)]
        deciding = threading.Thread(target=self._guarded, args=(self._decide,))
        for thread in (*bringing, deciding):
            thread.start()
        for number in range(kills):
            self._kill(number / kills)
        for thread in bringing:
            thread.join()
        took = time.monotonic() - before
        self._over.set()
        deciding.join()
        if self._failed:
            raise self._failed[0]
        return took

    def _guarded(self, work: Any) -> None:
        try:
            with contextlib.closing(Client(self._port, self._headers)) as client:
                work(client)
        except BaseException as exc:
            self._failed.append(exc)
            self._over.set()

    def _bring(self, client: Client) -> None:
        while not self._failed:
            with self._lock:
                start = next(self._next, None)
            if start is None:
                return
            count = min(PART, self._count - start)
            status, found = client.surely(
                "/v1/candidates", lines(start, count), "application/x-ndjson"
            )
            if status != 200 or found["accepted"] + found["duplicate"] != count:
                raise BenchmarkError(f"{status}: {found}")
            with self._lock:
                self.acknowledged.add(start)

    def _kill(self, share: float) -> None:
        """Kill the control process at a random moment after that share was acknowledged."""
        while len(self.acknowledged) * PART < share * self._count and not self._failed:
            time.sleep(0.01)
        time.sleep(self._dice.uniform(0.0, 1.5))
        pids = [pid for pid in load.family(self._pid) if _runs(pid, "urlguard.control.control")]
        if pids and not self._failed:
            os.kill(pids[0], signal.SIGKILL)
            self.kills += 1

    def _decide(self, client: Client) -> None:
        """Claim cases and decide them, each once by the word of the server."""
        while not self._over.is_set():
            body = json.dumps({"count": CLAIM, "lease_s": 30}).encode()
            _, found = client.surely("/v1/cases/lease", body, "application/json")
            for case in found.get("items", []):
                self._one(client, case["id"])
            if not found.get("items"):
                time.sleep(0.2)

    def _one(self, client: Client, case: int) -> None:
        body = json.dumps({"action": self._dice.choice(ACTS)}).encode()
        key = {"Idempotency-Key": f"case-{case}-{self._dice.random()}"}
        status, found = client.surely(f"/v1/cases/{case}/decide", body, "application/json", **key)
        if status == 200:
            self.decided[case] += 1
        elif status != 409:  # the lease has lapsed, or a decision is being recovered
            raise BenchmarkError(f"{status}: {found}")

    def judge(self, state: Path) -> None:
        """
        Look at what is on disk.

        Raises:
            BenchmarkError: something acknowledged is missing, or a case was decided twice.
        """
        db = sqlite3.connect(f"file:{state / DATABASE}?mode=ro", uri=True)
        with contextlib.closing(db):
            (broken,) = db.execute("PRAGMA quick_check").fetchone()
            if broken != "ok":
                raise BenchmarkError(f"{DATABASE}: {broken}")
            there = {item for (item,) in db.execute("SELECT item FROM items")}
            lost = [
                number
                for start in self.acknowledged
                for number in range(start, min(start + PART, self._count))
                if url(number) not in there
            ]
            if lost:
                raise BenchmarkError(f"{len(lost)} acknowledged candidates are lost: {lost[:5]}")
            # Each is in the queue, or was judged; none is between the two.
            (astray,) = db.execute(
                "SELECT count(*) FROM items WHERE case_id IS NULL AND error IS NULL"
                " AND id NOT IN (SELECT item FROM queue)"
            ).fetchone()
            if astray:
                raise BenchmarkError(f"{astray} candidates neither wait nor are judged")
            made = collections.Counter(
                case
                for (case,) in db.execute(
                    "SELECT case_id FROM decided JOIN decisions USING (number) WHERE step = 'done'"
                )
            )
        twice = [case for case, count in (*made.items(), *self.decided.items()) if count > 1]
        if twice:
            raise BenchmarkError(f"decided twice: {twice[:10]}")
        if missing := self.decided.keys() - made.keys():
            raise BenchmarkError(f"decisions are lost, of cases {sorted(missing)[:10]}")


def _runs(pid: int, module: str) -> bool:
    try:
        return module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def bulk(port: int, headers: dict[str, str], bodies: Sequence[bytes]) -> float:
    """Candidates a second, in `STREAMS` streams."""
    waiting, lock = iter(bodies), threading.Lock()
    taken: list[int] = []
    problems: list[str] = []

    def stream() -> None:
        os.nice(19)  # this thread alone: crawlers run elsewhere, and are not to hold dnsperf up
        with contextlib.closing(Client(port, headers)) as client:
            while True:
                with lock:
                    body = next(waiting, None)
                if body is None:
                    return
                status, found = client.post("/v1/candidates", body, "application/x-ndjson")
                if status != 200:
                    problems.append(f"{status}: {found}")
                    return
                taken.append(found["accepted"])

    threads = [threading.Thread(target=stream) for _ in range(STREAMS)]
    before = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - before
    if problems or sum(taken) != sum(body.count(b"\n") for body in bodies):
        raise BenchmarkError(f"{sum(taken)} taken; {problems[:1]}")
    return sum(taken) / took


@contextlib.contextmanager
def server(folder: Path) -> Iterator[tuple[Served, int]]:
    """A server with an upstream, and its process."""
    with peers.upstream(folder, peers.responder(folder)) as upstream:
        # As many judges' candidates wait as the benchmark brings.
        served = Served(folder, "[cases]\nbacklog = 10_000_000")
        text = served.config.read_text("utf-8").replace("127.0.0.1:9", f"127.0.0.1:{upstream}")
        served.config.write_text(text, "utf-8")
        with served.running() as child:
            yield served, child.pid


def measure_bulk(count: int) -> list[Row]:
    """Speed, and what the resolver's clients notice of it; idle and busy in turns."""
    bodies = [lines(10_000_000 + at, STREAM) for at in range(0, count, STREAM)]
    rounds = [bodies[at : at + STREAMS] for at in range(0, len(bodies), STREAMS)]
    speeds, idle, busy, others = [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = folder / "names"
        names.write_text("".join(f"popular{n}.example.org A\n" for n in range(500)), "utf-8")
        with server(folder) as (served, _):
            headers = served.token("bench", "admin")
            bulk(served.api, headers, [lines(9_000_000, 1000)])  # judges are at work now
            for number, part in enumerate(rounds):
                drained(folder / "var")
                output = folder / f"dnsperf-{number}"
                with load.steady(served.dns, names, RATE, output, first=True) as steady:
                    time.sleep(CALM_S + 1)
                    foreign, middle = load.Foreign(), time.monotonic()
                    speeds.append(bulk(served.api, headers, part))
                    end = time.monotonic()
                    others.append(foreign.share())
                    series = steady.stop()
                idle.append(series.figures(middle - CALM_S, middle))
                busy.append(series.figures(middle, end))
    speed = statistics.median(speeds)
    later = statistics.median(b.p99 - i.p99 for i, b in zip(idle, busy, strict=True))
    lost = sum(found.lost for found in busy)
    good, quick = speed >= LEAST_PER_S, later <= MOST_LATER_S and not lost
    print(f"bulk: {speed:,.0f} a second; target {LEAST_PER_S:,}: {'met' if good else 'missed'}")
    for case, found in (("idle", load.typical(idle)), ("bulk", load.typical(busy))):
        print(
            f"resolver, {case}: median {found.p50 * 1000:.2f} ms, 99 of 100 within"
            f" {found.p99 * 1000:.2f} ms, {found.lost} lost"
        )
    print(f"resolver: {later * 1000:+.2f} ms; target +1 ms: {'met' if quick else 'missed'}")
    print(f"others had {', '.join(f'{share:.0%}' for share in others)} of the machine")
    return [
        {
            "case": "bulk",
            "rounds": len(rounds),
            "queries": count,
            "per_s": round(speed),
            "others_pct": round(100 * max(others), 1),
            "passed": "yes" if good else "no",
        },
        load.typical(idle).row("resolver, idle", rounds=len(rounds)),
        load.typical(busy).row(
            "resolver, bulk", rounds=len(rounds), passed="yes" if quick else "no"
        ),
    ]


def drained(state: Path) -> None:
    """Wait until the server has judged all that has come."""
    db = sqlite3.connect(f"file:{state / DATABASE}?mode=ro", uri=True)
    with contextlib.closing(db):
        while db.execute("SELECT waiting FROM tally").fetchone() != (0,):
            time.sleep(0.2)


def measure_kills(count: int, kills: int, seed: int) -> list[Row]:
    """What is left after all the kills."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with server(folder) as (served, pid):
            crash = Crash(served.api, served.token("bench", "admin"), pid, count, seed)
            took = crash.run(kills)
            crash.judge(folder / "var")
    print(
        f"killed {crash.kills} times: {count:,} candidates acknowledged and none lost,"
        f" {len(crash.decided):,} cases decided and none twice, in {took:.0f} s"
    )
    return [
        {
            "case": f"killed {crash.kills} times",
            "rounds": 1,
            "queries": count,
            "per_s": round(count / took),
            "seconds": round(took, 1),
            "passed": "yes",
        }
    ]


def main() -> None:
    """Measure, print, record; ends with an error if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.candidates")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--bulk", type=int, default=400_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-record", action="store_true", help="only print")
    options = parser.parse_args()
    load.need_dnsperf()
    rows: list[Row] = []
    if options.bulk:
        rows += measure_bulk(options.bulk)
    if options.count:
        rows += measure_kills(options.count, options.kills, options.seed)
    print(f"(load average {os.getloadavg()[0]:.1f} at the end, the benchmark's own included)")
    rows = [{"server": "UrlGuard", "version": __version__, **row} for row in rows]
    if not options.no_record:
        results.write("candidates", rows)
    report.verdict(rows)


if __name__ == "__main__":
    main()
