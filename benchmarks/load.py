"""
What every server is measured with: its processes' CPU and memory, dnsperf, single questions.

CPU is user + system time from ``/proc/PID/stat`` of a server's process and all of its descendants,
so UrlGuard's supervisor and control process count as well as its worker.  On loopback the kernel
delivers a datagram in the sender's time: what it takes to bring an answer into dnsperf's socket is
the server's, what it takes to bring a query in is dnsperf's, for all servers alike.
"""

import bisect
import contextlib
import math
import os
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import threading
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

OUTSTANDING = 100  # queries under way at any time; dnsperf sends the next when one is answered
MOST_UNDER_WAY = 2000  # the same at a given rate
_TICKS = os.sysconf("SC_CLK_TCK")


class BenchmarkError(Exception):
    """A benchmark's own result is wrong, so its figures are worth nothing."""


# -- processes -------------------------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """The process and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = _stat(int(entry.name))
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def cpu_s(pid: int) -> float:
    """User + system seconds so far of the process and its descendants, ended ones included."""
    total = 0
    for one in family(pid):
        try:
            total += sum(map(int, _stat(one)[11:15]))
        except OSError:
            continue
    return total / _TICKS


class Foreign:
    """What processes that are not ours take of the machine's CPUs, from now on."""

    def __init__(self) -> None:
        self._busy, self._all = _machine()
        self._ours = cpu_s(os.getpid())

    def share(self) -> float:
        """Their share of all CPU time since then, from 0 to 1."""
        busy, all_ = _machine()
        ours = (cpu_s(os.getpid()) - self._ours) * _TICKS
        return max(0.0, (busy - self._busy - ours) / max(1, all_ - self._all))


def _machine() -> tuple[int, int]:
    """Ticks that the CPUs were busy, and all; what a hypervisor took away counts as busy."""
    ticks = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]))
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def memory_mib(pid: int) -> tuple[float, float]:
    """
    The sums of RSS and PSS over the process and its descendants, in MiB.

    PSS shares a page out among the processes that map it, so that its sum counts each page once.
    """
    rss = pss = 0
    for one in family(pid):
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        for key, kib in re.findall(r"^(Rss|Pss): +(\d+) kB", text, re.M):
            if key == "Rss":
                rss += int(kib)
            else:
                pss += int(kib)
    return rss / 1024, pss / 1024


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` from the third on: the second may contain anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()


# -- one question at a time ------------------------------------------------------------------------


def query(name: str, ident: int) -> bytes:
    """A query for A with recursion desired and without EDNS, as dnsperf sends."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack("!HHHHHH", ident, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"


def udp(port: int) -> socket.socket:
    """A socket that is connected to a port of 127.0.0.1, with a source port of its own."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", port))
    return sock


def ask(port: int, name: str, timeout_s: float = 1.0) -> str | None:
    """What 127.0.0.1:`port` says of the name: see `meaning`; None if it says nothing."""
    with udp(port) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.send(query(name, 4711))
            return meaning(sock.recv(4096))
        except OSError:
            return None


def meaning(reply: bytes) -> str:
    """The address in an answer with one A record, else the response code in words."""
    _, flags, _, answers, _, _ = struct.unpack_from("!HHHHHH", reply)
    if not flags & 0x8000:
        return "no response"
    if flags & 0x0200:
        return "truncated"
    if rcode := flags & 15:
        return {2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}.get(rcode, f"rcode {rcode}")
    at = 12
    while reply[at]:
        at += reply[at] + 1
    at += 5
    if not answers:
        return "NODATA"
    # A pointer to the question's name, type, class, TTL, length: 12 octets before the address.
    if reply[at] < 0xC0 or reply[at + 2 : at + 4] != b"\0\1":
        return "other records"
    return socket.inet_ntoa(reply[at + 12 : at + 16])


# -- many questions, each with its time ------------------------------------------------------------


class Figures(NamedTuple):
    """What came of the questions of some time; seconds from question to answer."""

    asked: int
    lost: int  # without any answer
    span_s: float  # that they were asked in
    p50: float
    p99: float
    p999: float
    most: float
    said: Counter[str]

    def row(self, case: str, **more: object) -> dict[str, object]:
        """The columns of `results` that they fill."""
        return {
            "case": case,
            "rounds": 1,
            "queries": self.asked - self.lost,
            "per_s": round(self.asked / self.span_s) if self.span_s else "",
            "loss_pct": round(100 * self.lost / max(1, self.asked), 4),
            "seconds": round(self.p50, 6),
            "seconds_p99": round(self.p99, 6),
            "seconds_p999": round(self.p999, 6),
            "seconds_high": round(self.most, 6),
            **more,
        }


class Series:
    """
    Questions in any order: when (`time.monotonic`), how long the answer took, what it said.

    The time of one without an answer is infinite.
    """

    def __init__(self) -> None:
        self.when = array("d")
        self.seconds = array("d")
        self.said: list[str] = []

    def add(self, when: float, seconds: float, said: str) -> None:
        """One question."""
        self.when.append(when)
        self.seconds.append(seconds)
        self.said.append(said)

    def lose(self, when: float) -> None:
        """One that was never answered."""
        self.add(when, math.inf, "nothing")

    def figures(self, since: float = -math.inf, until: float = math.inf) -> Figures:
        """
        Of the questions of that time.

        Raises:
            BenchmarkError: there were none.
        """
        chosen = [i for i, when in enumerate(self.when) if since <= when < until]
        if not chosen:
            raise BenchmarkError("no question was asked in the time that counts")
        answered = sorted(s for i in chosen if (s := self.seconds[i]) < math.inf) or [math.inf]
        times = [self.when[i] for i in chosen]
        return Figures(
            asked=len(chosen),
            lost=sum(self.seconds[i] == math.inf for i in chosen),
            span_s=max(times) - min(times),
            p50=quantile(answered, 0.5),
            p99=quantile(answered, 0.99),
            p999=quantile(answered, 0.999),
            most=answered[-1],
            said=Counter(self.said[i] for i in chosen),
        )


def joined(series: Iterable[Series]) -> Series:
    """All of their questions."""
    whole = Series()
    for one in series:
        whole.when.extend(one.when)
        whole.seconds.extend(one.seconds)
        whole.said += one.said
    return whole


def typical(rounds: list[Figures]) -> Figures:
    """Of several rounds: counts added up, medians of the quantiles, the longest of all."""
    return Figures(
        asked=sum(one.asked for one in rounds),
        lost=sum(one.lost for one in rounds),
        span_s=sum(one.span_s for one in rounds),
        p50=statistics.median(one.p50 for one in rounds),
        p99=statistics.median(one.p99 for one in rounds),
        p999=statistics.median(one.p999 for one in rounds),
        most=max(one.most for one in rounds),
        said=sum((one.said for one in rounds), Counter()),
    )


def quantile(ordered: list[float], share: float) -> float:
    """The smallest of the ordered values that at least this share of them does not exceed."""
    return ordered[math.ceil(share * len(ordered)) - 1]


# -- dnsperf ---------------------------------------------------------------------------------------


class Run(NamedTuple):
    """One run of dnsperf: its own counts, and the server's CPU meanwhile."""

    sent: int
    completed: int
    lost: int
    qps: float
    rcodes: dict[str, int]
    cpu_us: float  # for each answered query
    others: float  # share of the machine's CPUs that neither servers nor dnsperf used


def dnsperf(pid: int, port: int, names: Path, seconds: float, *, once: bool) -> Run:
    """
    Load the server for `seconds`, or if `once` until the names are used up, whichever is first.

    Raises:
        BenchmarkError: dnsperf failed, or gave no figures.
    """
    command = ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", str(names), "-t", "1"]
    command += ["-c", "1", "-T", "1", "-q", str(OUTSTANDING), "-l", str(seconds)]
    command += ["-n", "1"] if once else []
    foreign, before = Foreign(), cpu_s(pid)
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30)
    spent, others = cpu_s(pid) - before, foreign.share()
    if done.returncode != 0:
        raise BenchmarkError(f"dnsperf: exit code {done.returncode}: {done.stderr.strip()[-300:]}")

    def figure(label: str) -> float:
        found = re.search(rf"{label}:\s+([\d.]+)", done.stdout)
        if found is None:
            raise BenchmarkError(f"dnsperf: no {label!r} in its output")
        return float(found[1])

    completed = int(figure("Queries completed"))
    if not completed:
        raise BenchmarkError("dnsperf: not one query was answered")
    line = re.search(r"Response codes:(.*)", done.stdout)
    rcodes = re.findall(r"([A-Z]+) (\d+) \(", line[1] if line else "")
    return Run(
        sent=int(figure("Queries sent")),
        completed=completed,
        lost=int(figure("Queries lost")),
        qps=figure("Queries per second"),
        rcodes={code: int(count) for code, count in rcodes},
        cpu_us=spent / completed * 1e6,
        others=others,
    )


class Steady:
    """
    dnsperf at a given rate, with the time of every single query.

    dnsperf tells each query's latency, in the order of the answers, and no time of day.  So the
    size of its output is looked at 50 times a second, which tells when a line was written.
    """

    TIMEOUT_S = 2.0  # then a query is lost
    _LOOK_S = 0.02

    def __init__(
        self, port: int, names: Path, rate: int, output: Path, *, first: bool = False
    ) -> None:
        command = ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", str(names), "-v"]
        command += ["-t", str(int(self.TIMEOUT_S)), "-c", "8", "-T", "1", "-Q", str(rate)]
        command += ["-l", "100000"]  # until it is told to stop
        # A server that stalls is asked on, but dnsperf makes up for its own stalls in bursts, which
        # must not fill a socket.
        command += ["-q", str(MOST_UNDER_WAY), "-b", "4096"]
        self._output = output
        self._sizes: list[int] = []
        self._times: list[float] = []
        with output.open("wb") as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        if first:
            with contextlib.suppress(PermissionError):
                os.sched_setscheduler(self._process.pid, os.SCHED_RR, os.sched_param(1))
        self._looking = threading.Thread(target=self._look, daemon=True)
        self._looking.start()

    def _look(self) -> None:
        ended = False
        while not ended:
            ended = self._process.poll() is not None
            self._sizes.append(self._output.stat().st_size)
            self._times.append(time.monotonic())
            time.sleep(self._LOOK_S)

    def stop(self) -> Series:
        """
        Ask no more, wait for what is under way, and tell how it went.

        Raises:
            BenchmarkError: dnsperf ended before it was told to.
        """
        if self._process.poll() is not None:
            tail = self._output.read_text(errors="replace").strip()[-300:]
            raise BenchmarkError(f"dnsperf ended by itself: {tail}")
        self._process.send_signal(signal.SIGINT)
        self._process.wait(self.TIMEOUT_S + 30)
        self._looking.join()
        return self._read()

    def kill(self) -> None:
        """End it in any case."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._looking.join()

    def _read(self) -> Series:
        series = Series()
        at = 0
        said = {word: word for word in ("NOERROR", "NXDOMAIN", "SERVFAIL", "REFUSED")}
        with self._output.open("rb") as file:
            for line in file:
                at += len(line)
                if not line.startswith(b"> "):
                    continue
                parts = line.split()
                index = min(bisect.bisect_left(self._sizes, at), len(self._times) - 1)
                when = self._times[index]
                if parts[1] == b"I":
                    continue  # under way when it was told to stop
                if parts[1] == b"T":
                    series.lose(when - self.TIMEOUT_S)
                else:
                    word = parts[1].decode()
                    series.add(when, float(parts[-1]), said.get(word, word))
        return series


@contextlib.contextmanager
def steady(
    port: int, names: Path, rate: int, output: Path, *, first: bool = False
) -> Iterator[Steady]:
    """
    dnsperf at a rate, gone when the block is left.

    Args:
        port: of the server, on loopback.
        names: the file of questions.
        rate: queries a second.
        output: a file for what it prints.
        first: it never waits for a core, if that is permitted: with more to run than there are
            cores, its own waiting would be taken for the server's.
    """
    load = Steady(port, names, rate, output, first=first)
    try:
        yield load
    finally:
        load.kill()


def need_dnsperf() -> str:
    """Its version; ends the program with advice if it is not installed."""
    if shutil.which("dnsperf") is None:
        raise SystemExit("dnsperf is not installed; on Debian: apt-get install dnsperf")
    done = subprocess.run(["dnsperf", "-h"], capture_output=True, text=True)
    found = re.search(r"Version (\S+)", done.stdout + done.stderr)
    return found[1] if found else "unknown"
