"""
How many items does ``POST /v1/check`` answer a second, and how long does one item wait?

    python -m benchmarks.api [--no-record]

Against a real ``urlguard serve`` with two workers, the starter list and the models that come with
it, over HTTP on loopback; the client runs on the same cores.  ``names`` and ``URLs`` are requests
of 10,000 items, two at a time, none of them twice.  ``one`` is a request with one name every 10 ms
on a connection that stays open, with nothing beside it; ``one, busy`` the same while bulk requests
go on.

Passes if at least 20,000 names and as many URLs are answered a second, and 99 of 100 single ones
within 10 ms with nothing beside them.  As many answers must come as there were items, with scores
where a model has a say.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import checks, peers, report, results, scoring
from benchmarks.load import BenchmarkError
from urlguard import __version__

ITEMS, AT_ONCE, ROUNDS = 10_000, 2, 3
EVERY_S, SINGLE_S = 0.01, 5.0
LEAST_PER_S, MOST_MS = 20_000, 10.0

CONFIG = """\
state_dir = "var"
[server]
listen = ["127.0.0.1:{dns}"]
[forward]
upstreams = ["127.0.0.1:9"]
[api]
listen = "127.0.0.1:{api}"
{more}
"""


class Served:
    """A running server: where it answers, and who may ask it."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.folder = folder
        self.dns, self.api = peers.free_port(), peers.free_port()
        self.config = folder / "urlguard.toml"
        self.config.write_text(CONFIG.format(dns=self.dns, api=self.api, more=more), "utf-8")
        self.base = f"http://127.0.0.1:{self.api}"

    def command(self, *arguments: str) -> list[str]:
        """A command with this server's configuration."""
        return peers.command(*arguments, "--config", str(self.config))

    def token(self, name: str, role: str) -> dict[str, str]:
        """The headers of a new token."""
        made = subprocess.check_output(
            self.command("token", "create", name, "--role", role), text=True
        )
        return {"Authorization": f"Bearer {made.strip()}"}

    @contextlib.contextmanager
    def running(self) -> Any:
        """Start it, wait until names and the API are answered, and end it."""
        log = self.folder / "serve.log"
        with peers.process(self.command("serve"), log) as child:
            deadline = time.monotonic() + 120
            while '"api.listening"' not in log.read_text("utf-8"):
                if child.poll() is not None or time.monotonic() > deadline:
                    raise BenchmarkError(f"the server did not start: {log.read_text('utf-8')}")
                time.sleep(0.1)
            yield child


@contextlib.asynccontextmanager
async def client(headers: dict[str, str], base: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of one server, without a proxy."""
    async with aiohttp.ClientSession(base, headers=headers) as session:
        yield session


async def check(session: aiohttp.ClientSession, items: Sequence[str]) -> bytes:
    """The answer to one request."""
    async with session.post("/v1/check", json={"items": items}) as answer:
        body = await answer.read()
        if answer.status == 503:
            raise BenchmarkError(f"busy: {body!r}")
        if answer.status != 200:
            raise BenchmarkError(f"{answer.status}: {body[:200]!r}")
        return body


async def bulk(session: aiohttp.ClientSession, things: Sequence[str]) -> float:
    """Items a second."""
    requests = iter(checks.cut(things, ITEMS))
    answered = 0

    async def one() -> None:
        nonlocal answered
        for items in requests:
            body = await check(session, items)
            # Taken apart outside the time that counts would be better still; it costs a tenth.
            answered += body.count(b'"input"')

    before = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(AT_ONCE)))
    took = time.perf_counter() - before
    if answered != len(things):
        raise BenchmarkError(f"{answered} answers to {len(things)} items")
    return len(things) / took


async def single(session: aiohttp.ClientSession, until: asyncio.Event) -> list[float]:
    """Seconds for requests with one name, one every `EVERY_S`."""
    taken: list[float] = []
    number = 0
    while not until.is_set():
        number += 1
        before = time.perf_counter()
        await check(session, [f"single-{number}.example.net"])
        taken.append(time.perf_counter() - before)
        await asyncio.sleep(max(0.0, EVERY_S - taken[-1]))
    return taken


async def for_a_while(session: aiohttp.ClientSession) -> list[float]:
    """`single` for `SINGLE_S`."""
    until = asyncio.Event()
    asyncio.get_running_loop().call_later(SINGLE_S, until.set)
    return await single(session, until)


async def measure() -> list[dict[str, Any]]:
    """All cases."""
    names = scoring.names()
    urls = [f"http://{name}/account/login.php?id={n}" for n, name in enumerate(names)]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        served = Served(Path(folder))
        with served.running():
            headers = served.token("bench", "admin")
            async with client(headers, served.base) as session:
                body = json.loads(await check(session, names[:1000]))
                if len({one["score"] for one in body["results"]}) < 100:
                    raise BenchmarkError("hardly any scores; is there no model?")
                for case, things in (("names", names), ("URLs", urls)):
                    speeds = [await bulk(session, things) for _ in range(ROUNDS)]
                    speed = statistics.median(speeds)
                    rows.append(_speed(case, speed, len(things)))
                rows.append(_times("one", await for_a_while(session), MOST_MS))
                until = asyncio.Event()
                beside = asyncio.create_task(single(session, until))
                for _ in range(ROUNDS):
                    await bulk(session, names)
                until.set()
                rows.append(_times("one, busy", await beside, None))
    load = f"load average {os.getloadavg()[0]:.1f}"
    print(f"({load} at the end, the benchmark's own included)")
    return [{"server": "UrlGuard", "version": __version__, **row} for row in rows]


def _speed(case: str, speed: float, count: int) -> dict[str, Any]:
    good = speed >= LEAST_PER_S
    print(f"{case}: {speed:,.0f} a second; target {LEAST_PER_S:,}: {'met' if good else 'missed'}")
    return {
        "case": case,
        "rounds": ROUNDS,
        "queries": count,
        "per_s": round(speed),
        "passed": "yes" if good else "no",
    }


def _times(case: str, taken: list[float], most: float | None) -> dict[str, Any]:
    ordered = sorted(taken)
    median = statistics.median(ordered) * 1000
    late = ordered[int(len(ordered) * 0.99)] * 1000
    row: dict[str, Any] = {
        "case": case,
        "queries": len(taken),
        "seconds": round(median / 1000, 6),
        "seconds_p99": round(late / 1000, 6),
    }
    words = ""
    if most is not None:
        row["passed"] = "yes" if late <= most else "no"
        words = f"; target {most:g} ms: {'met' if late <= most else 'missed'}"
    print(f"{case}: median {median:.1f} ms, 99 of 100 within {late:.1f} ms{words}")
    return row


def main() -> None:
    """Measure, print, record; ends with an error if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.api")
    parser.add_argument("--no-record", action="store_true", help="only print")
    options = parser.parse_args()
    rows = asyncio.run(measure())
    if not options.no_record:
        results.write("api", rows)
    report.verdict(rows)


if __name__ == "__main__":
    main()
