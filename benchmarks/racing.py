"""
Is any case decided twice when fifty analysts race for the same queue, and how fast are they?

    python -m benchmarks.racing [--cases N] [--analysts N] [--no-record]

A real ``urlguard serve`` with two workers and N cases (5,000) in its queue.  Each analyst has a
token of its own, claims ten cases at a time and decides them one by one, some in bulk: a fifth
blocks, which waits for every worker, the others watch or dismiss.  Now and then one reaches for a
case that is somebody else's, sends a request twice under one idempotency key, or twice without.

Passes if at the end every case is decided, each has exactly one decision that stands, every block
is in the policy log once and under the name of who decided, and nobody was told anything but 200
or 409.
"""

import argparse
import asyncio
import collections
import random
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import report, results
from benchmarks.api import Served, client
from benchmarks.load import BenchmarkError
from urlguard import __version__
from urlguard.access.roles import Role
from urlguard.access.tokens import DATABASE, Tokens
from urlguard.cases import ndjson
from urlguard.cases.casework import DATABASE as CASES
from urlguard.cases.drivers.sqlite import open_store
from urlguard.cases.model import Judged
from urlguard.policy.location import open_file

CLAIM, BLOCKS, STRAY = 10, 0.2, 0.1
ACTS = ("watch", "dismiss")


def fill(state: Path, count: int) -> None:
    """A queue of so many open cases, before the server starts."""
    now = int(time.time())
    store = open_store(state / CASES)
    rows = [ndjson.candidate(f"http://racing-{n}-{n % 7}.example/", now) for n in range(count)]
    store.add("crawler", rows, now)
    while works := store.take(1000, 60, now):
        store.judged([Judged(w.id, False, 0.5, "none", "none", "name-1", None) for w in works], now)
    store.close()


class Race:
    """Analysts at one queue."""

    def __init__(self, base: str, headers: list[dict[str, str]], cases: int, seed: int = 1) -> None:
        self.base = base
        self.headers = headers
        self.cases = cases
        self.seed = seed
        self.said: collections.Counter[int] = collections.Counter()
        self.decided: dict[int, tuple[int, str]] = {}  # case: analyst, act
        self.twice: list[int] = []

    async def run(self) -> float:
        """Race until nothing is left; returns the seconds it took."""
        before = time.perf_counter()
        await asyncio.gather(*(self._analyst(n) for n in range(len(self.headers))))
        return time.perf_counter() - before

    async def _analyst(self, number: int) -> None:
        dice = random.Random(self.seed * 1000 + number)
        async with client(self.headers[number], self.base) as session:
            while True:
                _, found = await self._post(session, "/v1/cases/lease", {"count": CLAIM})
                mine = [case["id"] for case in found["items"]]
                if not mine:
                    return
                if dice.random() < 0.2:
                    await self._decide(session, number, mine[:3], dice)
                    mine = mine[3:]
                for case in mine:
                    if dice.random() < STRAY:
                        await self._decide(session, number, [dice.randint(1, self.cases)], dice)
                    await self._decide(session, number, [case], dice)

    async def _decide(
        self,
        session: aiohttp.ClientSession,
        number: int,
        cases: list[int],
        dice: random.Random,
    ) -> None:
        act = "block" if dice.random() < BLOCKS else dice.choice(ACTS)
        body: dict[str, Any] = {"action": act, "reason": f"analyst {number}"}
        path = f"/v1/cases/{cases[0]}/decide"
        if len(cases) > 1:
            path, body = "/v1/cases/decide", {**body, "ids": cases}
        key = {"Idempotency-Key": f"{number}-{dice.random()}"} if dice.random() < 0.3 else {}
        tries = 2 if dice.random() < STRAY else 1
        answers = await asyncio.gather(
            *(self._post(session, path, body, key) for _ in range(tries))
        )
        done = {found["decision_id"] for status, found in answers if status == 200}
        if len(done) > 1:
            self.twice += cases
        for case in cases if done else ():
            if case in self.decided:
                self.twice.append(case)
            self.decided[case] = number, act

    async def _post(
        self, session: aiohttp.ClientSession, path: str, body: Any, headers: Any = None
    ) -> tuple[int, Any]:
        async with session.post(path, json=body, headers=headers) as answer:
            found = await answer.json(content_type=None)
            self.said[answer.status] += 1
            if answer.status not in (200, 409):
                raise BenchmarkError(f"{path}: {answer.status} {found}")
            return answer.status, found

    def judge(self, state: Path) -> int:
        """
        Look at what stands at the end; returns the number of blocks.

        Raises:
            BenchmarkError: a case was decided twice, or not at all, or is not in the log as it was.
        """
        if self.twice:
            raise BenchmarkError(f"decided twice: {self.twice[:10]}")
        db = sqlite3.connect(f"file:{state / CASES}?mode=ro", uri=True)
        made = collections.Counter(
            case
            for (case,) in db.execute(
                "SELECT case_id FROM decided JOIN decisions USING (number) WHERE step = 'done'"
            )
        )
        left = db.execute("SELECT count(*) FROM cases WHERE state NOT IN ('decided', 'dismissed')")
        if left.fetchone() != (0,):
            raise BenchmarkError("not every case is decided")
        owners = dict(db.execute("SELECT id, owner FROM cases").fetchall())
        if len(made) != self.cases or max(made.values()) > 1 or made.keys() != self.decided.keys():
            raise BenchmarkError(f"{len(made)} of {self.cases} decided, {made.most_common(3)}")
        db.close()
        log = open_file(state / "policy.db", read_only=True)
        blocks = 0
        for case, (number, act) in self.decided.items():
            claims = log.store.history(f"subtree {owners[case]}")
            wanted = [f"analyst:analyst-{number}"] if act == "block" else []
            if [claim.source for claim in claims] != wanted:
                raise BenchmarkError(f"case {case}: {act} by {number}, the log has {claims}")
            blocks += bool(wanted)
        log.close()
        return blocks


def tokens(state: Path, count: int) -> list[dict[str, str]]:
    """Headers of so many analysts."""
    with_them = Tokens(state / DATABASE)
    made = [with_them.create(f"analyst-{n}", Role.ANALYST, "bench") for n in range(count)]
    with_them.close()
    return [{"Authorization": f"Bearer {token}"} for token in made]


def main() -> None:
    """Race, look, print, record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.racing")
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--analysts", type=int, default=50)
    parser.add_argument("--no-record", action="store_true", help="only print")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Some send two requests at once: more connections than the default's 64.
        served = Served(Path(folder), f"connections = {4 * options.analysts}")
        state = Path(folder) / "var"
        fill(state, options.cases)
        with served.running():
            race = Race(served.base, tokens(state, options.analysts), options.cases)
            took = asyncio.run(race.run())
            blocks = race.judge(state)
    print(
        f"{options.analysts} analysts, {options.cases:,} cases: none decided twice, {blocks:,} "
        f"blocked, {race.said[409]:,} times told 409; {options.cases / took:,.0f} decisions a "
        f"second in {took:.0f} s"
    )
    row = {
        "server": "UrlGuard",
        "version": __version__,
        "case": f"{options.analysts} analysts, {options.cases} cases",
        "queries": sum(race.said.values()),
        "per_s": round(options.cases / took),
        "seconds": round(took, 1),
        "passed": "yes",
    }
    if not options.no_record:
        results.write("racing", [row])
    report.verdict([row])


if __name__ == "__main__":
    main()
