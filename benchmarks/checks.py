"""
How many checks a second does the verdict pool do, and does one wait while it is busy?

    python -m benchmarks.checks [--no-record]

Everything goes through `urlguard.control.verdict_pool.VerdictPool`, on uvloop as in the control
process, with two processes, the starter list as policy and the models that come with UrlGuard; HTTP
is not in it.

``names`` and ``URLs`` are requests of 10,000 items, two at a time, none of them twice; ``single``
is one item every 10 ms while such requests of names go on; ``idle`` is the same with nothing beside
it; ``messages`` are requests of 1,000 short texts with one URL each, and ``candidates`` is one body
of lines of JSON.  ``loop`` is the longest turn of the loop meanwhile, in processor time of its
thread, with what the clients of the benchmark do in it.

Passes if at least 20,000 names and as many URLs are answered a second, 99 of 100 single items
within 10 ms, and 30,000 candidates are read a second and process.  Without a model of its kind, a
case is missed.

Takes the project's collected names if they lie beside the repository, else the starter list.  As
many answers must come as there were items.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import report, results, scoring
from benchmarks.load import BenchmarkError
from urlguard import __version__, config
from urlguard import compile as compiling
from urlguard.control.verdict_pool import VerdictPool
from urlguard.feeds import refresh, schedule
from urlguard.policy.location import log_location, open_log

PROCESSES, AT_ONCE, ITEMS, TEXTS = 2, 2, 10_000, 1_000
ROUNDS = 3
EVERY_S = 0.01
LEAST_PER_S, MOST_MS, LEAST_LINES = 20_000, 10.0, 30_000

Row = dict[str, Any]


@contextlib.asynccontextmanager
async def verdict_pool() -> AsyncIterator[VerdictPool]:
    """A verdict pool at work, on a policy of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "urlguard.toml")
        path.write_text('state_dir = "var"\n', "utf-8")
        made = config.load(path)
        log = open_log(made)
        refresh.refresh(log, schedule.feeds(made)[0], made.state_dir)
        compiling.compile_apart(log_location(made), made.state_dir / "snapshots")
        working = VerdictPool(made, PROCESSES)
        task = asyncio.create_task(working.run())
        try:
            await asyncio.gather(*(working.check(["example.com"] * 1000) for _ in range(4)))
            yield working
        finally:
            task.cancel()
            await asyncio.wait([task])
            log.close()


async def each_second(
    ask: Callable[[Any], Awaitable[Sequence[Any]]], requests: Sequence[Any], count: int
) -> float:
    """Things a second, of requests that are sent so many at a time."""
    waiting = iter(requests)
    answered = 0

    async def client() -> None:
        nonlocal answered
        for request in waiting:
            found = await ask(request)
            answered += len(found)

    before = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    took = time.perf_counter() - before
    if answered != count:
        raise BenchmarkError(f"{answered} answers to {count} items")
    return count / took


async def single(working: VerdictPool, until: asyncio.Event) -> list[float]:
    """Milliseconds that single items took, in rising order."""
    taken = []
    while not until.is_set():
        before = time.perf_counter()
        await working.check([f"account-{len(taken)}-signin.com"])
        taken.append((time.perf_counter() - before) * 1000)
        await asyncio.sleep(EVERY_S)
    return sorted(taken)


async def longest_turn(until: asyncio.Event) -> float:
    """Milliseconds of processor time that the longest turn of the loop took."""
    longest = 0.0
    while not until.is_set():
        before = time.thread_time()
        await asyncio.sleep(0)
        longest = max(longest, time.thread_time() - before)
        await asyncio.sleep(0.001)
    return longest * 1000


def cut(things: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """In requests of a size."""
    return [things[at : at + size] for at in range(0, len(things), size)]


def _p(taken: Sequence[float], share: float) -> float:
    return taken[int(len(taken) * share)]


async def measure() -> list[Row]:
    """All cases; each figure is printed with its target as soon as it is known."""
    found = scoring.names()
    urls = [f"http://{name}/account/login.php?id={n}" for n, name in enumerate(found)]
    texts = [f"您的包裹地址有误,请登录www.{name}更新" for name in found[:20_000]]
    lines = b"".join(
        json.dumps({"url": url, "seen_at": 1_750_000_000, "context": "spam trap"}).encode() + b"\n"
        for url in urls
    )
    rows: list[Row] = []

    def told(case: str, speeds: Sequence[float], least: int, count: int, real: bool = True) -> None:
        speed = statistics.median(speeds)
        good = real and speed >= least
        passed = {"passed": "yes" if good else "no"} if least else {}
        target = f"; target {least:,}: {'met' if good else 'missed'}" if least else ""
        print(f"{case}: {speed:,.0f} a second{target}")
        rows.append({"case": case, "rounds": len(speeds), "queries": count, "per_s": round(speed)})
        rows[-1] |= passed

    async with verdict_pool() as working:
        for case, things in (("names", found), ("URLs", urls)):
            scores = {json.loads(one)["score"] for one in await working.check(things[:1000])}
            real = len(scores) >= 100
            if not real:
                print(f"{case}: {len(scores)} different scores of 1000; is there no model?")
            requests = cut(things, ITEMS)
            speeds = [
                await each_second(working.check, requests, len(things)) for _ in range(ROUNDS)
            ]
            told(case, speeds, LEAST_PER_S, len(things), real)
        until = asyncio.Event()
        asyncio.get_running_loop().call_later(5.0, until.set)
        idle = await single(working, until)
        until.clear()
        beside = asyncio.create_task(single(working, until))
        turns = asyncio.create_task(longest_turn(until))
        for _ in range(ROUNDS):
            await each_second(working.check, cut(found, ITEMS), len(found))
        until.set()
        for case, taken, most in (("idle", idle, 0.0), ("single", await beside, MOST_MS)):
            median, late = _p(taken, 0.5), _p(taken, 0.99)
            good = late <= most
            target = f"; target {most:g} ms: {'met' if good else 'missed'}" if most else ""
            print(f"{case}: median {median:.1f} ms, 99 of 100 within {late:.1f} ms{target}")
            rows.append({"case": case, "queries": len(taken), "seconds": round(median / 1000, 6)})
            rows[-1] |= {"seconds_p99": round(late / 1000, 6)}
            rows[-1] |= {"passed": "yes" if good else "no"} if most else {}
        longest = await turns
        print(f"loop: longest turn {longest:.1f} ms")
        rows.append({"case": "loop, ms", "value": round(longest, 2)})
        speeds = [
            await each_second(working.messages, cut(texts, TEXTS), len(texts))
            for _ in range(ROUNDS)
        ]
        told("messages", speeds, 0, len(texts))
        speeds = []
        for _ in range(ROUNDS):
            before = time.perf_counter()
            intake = await working.intake(lines)
            speeds.append(intake.candidates / (time.perf_counter() - before))
            if intake.candidates != len(urls) or intake.invalid:
                raise BenchmarkError(f"{intake.candidates} candidates in {len(urls)} lines")
        told("candidates", speeds, LEAST_LINES * PROCESSES, len(urls))
    return [{"server": "UrlGuard", "version": __version__, **row} for row in rows]


def main() -> None:
    """Measure, print, record; ends with an error if a target was missed."""
    parser = argparse.ArgumentParser(description="Speed of the verdict pool.")
    parser.add_argument("--no-record", action="store_true", help="only print")
    options = parser.parse_args()
    rows = uvloop.run(measure())
    if not options.no_record:
        results.write("checks", rows)
    report.verdict(rows)


if __name__ == "__main__":
    main()
