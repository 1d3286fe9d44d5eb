"""
How many messages per second do `find` alone and the verdict pool process?

    python -m benchmarks.messages [--no-record]

Uses the tables of ``tests/messages``, scam and harmless in turn, so that about half of the messages
contain something.  ``find`` is messages per second of CPU time, in one thread; ``plain`` is the
same for the harmless ones alone, and ``longest`` for a message of maximum length made of ambiguous
dots.  ``verdicts`` is the API's work without HTTP: requests of 1,000 messages, two at a time,
through `urlguard.control.verdict_pool.VerdictPool` with two processes and the packaged models, by
the clock.  Each round has other names, so that no verdict is cached.  ``cpu_us`` is the CPU time
per message of pool and caller together; ``others_pct`` is the share of other programs.

Passes if the pool answers 10,000 messages per second and `find` 8,000.  The items found must be
those of the tables in 98 of 100 messages, and none in the harmless ones.
"""

import argparse
import itertools
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import uvloop

from benchmarks import checks, load, report, results
from benchmarks.load import BenchmarkError
from urlguard import __version__
from urlguard.messages import MAX_TEXT, find

TABLES = Path(__file__).parents[1] / "tests" / "messages"
ROUNDS, PASSES, COPIES = 5, 5, 30
LEAST_PER_S, LEAST_ALONE, LEAST_FOUND = 10_000, 8_000, 0.98

_shown = re.compile(r"demo|shili|ceshi", re.I)


def rows(name: str) -> list[list[str]]:
    """The rows of a table, in columns."""
    return [line.split("\t") for line in (TABLES / name).read_text("utf-8").split("\n") if line]


def verify(scam: Sequence[Sequence[str]], harmless: Sequence[Sequence[str]]) -> None:
    """
    Look at what is found before it is measured.

    Raises:
        BenchmarkError: less than the share of `LEAST_FOUND`, or anything in a harmless message.
    """
    right = sum(" ".join(one.item for one in find(text)) == items for text, items in scam)
    if right < LEAST_FOUND * len(scam):
        raise BenchmarkError(
            f"{right} of {len(scam)} scam messages read; must be {LEAST_FOUND:.0%}"
        )
    if wrong := sum(bool(find(row[0])) for row in harmless):
        raise BenchmarkError(f"something found in {wrong} harmless messages; must be 0")


def alone(texts: Sequence[str]) -> float:
    """Messages a second of one thread, the median of the rounds."""
    speeds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(PASSES):
            for text in texts:
                find(text)
        speeds.append(PASSES * len(texts) / (time.process_time() - started))
    return median(speeds)


async def measured(texts: Sequence[str], holding: int) -> tuple[float, float, float]:
    """
    Messages a second through the verdict pool, the median of the rounds; µs of the processor for
    one, and the percentage of it that other programs took.

    Raises:
        BenchmarkError: messages are missing, or fewer than expected hold something.
    """
    copies = itertools.count()
    speeds, spent, others = [], 0.0, 0.0
    async with checks.verdict_pool() as working:
        for _ in range(checks.ROUNDS):
            numbers = itertools.islice(copies, COPIES)
            sent = [_shown.sub(rf"\g<0>{n}", text) for n in numbers for text in texts]
            answered = 0

            async def ask(request: Sequence[str]) -> Sequence[object]:
                nonlocal answered
                found = await working.messages(request)
                answered += sum(not one.endswith(b'"found": []}') for one in found)
                return found

            requests = checks.cut(sent, checks.TEXTS)
            foreign, before = load.Foreign(), load.cpu_s(os.getpid())
            speeds.append(await checks.each_second(ask, requests, len(sent)))
            spent += load.cpu_s(os.getpid()) - before
            others = max(others, foreign.share())
            if answered < LEAST_FOUND * holding * COPIES:
                raise BenchmarkError(f"{answered} messages held something; must be {holding}")
    return median(speeds), spent / (len(speeds) * len(sent)) * 1e6, others * 100


def main() -> None:
    """Measure, print, record; ends with an error if a target was missed."""
    parser = argparse.ArgumentParser(description="How many messages a second.")
    parser.add_argument("--no-record", action="store_true", help="only print")
    options = parser.parse_args()
    scam, harmless = rows("scam.tsv"), rows("harmless.tsv")
    verify(scam, harmless)
    plain = [row[0] for row in harmless]
    pairs = itertools.zip_longest((row[0] for row in scam), plain)
    mixed = [text for pair in pairs for text in pair if text is not None]
    pool = uvloop.run(measured(mixed, len(scam)))
    cases = [
        ("find", alone(mixed), len(mixed), LEAST_ALONE),
        ("plain", alone(plain), len(plain), 0),
        ("longest", alone(["a点" * (MAX_TEXT // 2)]), 1, 0),
        ("verdicts", pool[0], len(mixed) * COPIES, LEAST_PER_S),
    ]
    found = []
    for case, speed, count, least in cases:
        met = {"passed": "yes" if speed >= least else "no"} if least else {}
        target = f"; target {least:,}: {'met' if speed >= least else 'missed'}" if least else ""
        print(f"{case}: {speed:,.0f} messages a second{target}")
        row = {"server": "UrlGuard", "version": __version__, "case": case, "rounds": ROUNDS}
        found.append({**row, "queries": count, "per_s": round(speed), **met})
    found[-1] |= {"cpu_us": round(pool[1], 1), "others_pct": round(pool[2], 1)}
    print(f"verdicts: {pool[1]:.0f} µs of CPU for each; others took {pool[2]:.0f} % of it")
    if not options.no_record:
        results.write("messages", found)
    report.verdict(found)


if __name__ == "__main__":
    main()
