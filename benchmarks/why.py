"""
What does `GET /v1/why` about an earlier moment cost, with a million rules?

    python -m benchmarks.why

Fills a policy log with the list as one feed, then with 3,000 small batches of 41 other sources,
2,000 patterns among them, and calls ``GET /v1/why`` over loopback about 400 listed names and 400
URLs, in the past.  Prints ms per answer, the median and the 99th percentile, client and connection
included; each verdict must be the one that the batches made, so that nothing is fast by finding
nothing.  Takes a minute and 200 MB in the temporary folder.
"""

import asyncio
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final, cast

import aiohttp

from benchmarks import lists
from urlguard.access.attempts import Attempts
from urlguard.access.roles import Role
from urlguard.access.tokens import Tokens
from urlguard.api.auth import Keyring
from urlguard.api.log_reader import LogReader
from urlguard.api.server import ApiServer
from urlguard.api.services import Services
from urlguard.config import Api, Config, Endpoint
from urlguard.policy.location import open_log
from urlguard.policy.model import Change

BATCHES: Final = 3_000
PATTERNS: Final = 2_000
ASKED: Final = 400
_SOURCES: Final = (
    "operator",
    *(f"analyst:a{n}" for n in range(20)),
    *(f"feed:f{n}" for n in range(20)),
)


def main() -> None:
    """Measure and print; fails if a verdict is not the right one."""
    listed = lists.read(lists.default_path())
    with tempfile.TemporaryDirectory() as folder:
        config = Config(state_dir=Path(folder))
        names, serial = _fill(config, list(listed.rows))
        token = _token(config)
        print(f"{len(listed.rows)} rules of {listed.title}; Python {sys.version.split()[0]}")
        asyncio.run(_ask(config, token, names, serial))


def _fill(config: Config, names: list[str]) -> tuple[list[str], int]:
    """
    A log of a list and of small batches.

    Returns:
        The names that these were about, and the last serial at which all had said to block.
    """
    log = open_log(config)
    changes = [Change(f"subtree {name}", "block", "phishing") for name in names]
    log.commit("feed:list", changes, actor="benchmark", reason="")
    rng = random.Random(1)
    some = rng.sample(names, ASKED)
    serial = 0
    for n in range(BATCHES):
        if n == BATCHES // 2:
            serial = log.serial
        source = _SOURCES[n % len(_SOURCES)]
        action = "block" if n < BATCHES // 2 else "allow"
        change = Change(f"subtree {rng.choice(some)}", action, "phishing")
        log.commit(source, [change], actor="benchmark", reason="")
    patterns = [Change(f"pattern *pattern{n}*", "block") for n in range(PATTERNS)]
    log.commit("operator", patterns, actor="benchmark", reason="")
    log.close()
    return some, serial


def _token(config: Config) -> str:
    tokens = Tokens(config.state_dir / "access.db")
    text = tokens.create("benchmark", Role.ANALYST, "benchmark")
    tokens.close()
    return text


async def _ask(config: Config, token: str, names: list[str], serial: int) -> None:
    services = Services(
        source=cast(Any, None),  # nobody asks how the server is
        tokens=Keyring(config.state_dir / "access.db"),
        attempts=Attempts(time.monotonic),
        log=LogReader(config),
        state_dir=config.state_dir,
    )
    server = ApiServer(Api(listen=Endpoint("127.0.0.1", 0)), services)
    running = asyncio.create_task(server.run())
    while not server.address:
        await asyncio.sleep(0.01)
    head = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(f"http://{server.address}", headers=head) as session:
        for words, form in (("names", "login.{}"), ("URLs", "http://login.{}/a/b/c?d=e")):
            taken = []
            for name in names:
                start = time.perf_counter()
                asked = {"item": form.format(name), "serial": str(serial)}
                async with session.get("/v1/why", params=asked) as answer:
                    found = await answer.json()
                taken.append((time.perf_counter() - start) * 1000)
                assert answer.status == 200, found
                assert found["verdict"]["action"] == "block", found
                assert found["verdict"]["rule"]["value"] == name, found
            taken.sort()
            middle, late = statistics.median(taken), taken[len(taken) * 99 // 100]
            print(f"{middle:8.1f} ms  about {words}, median; {late:.1f} ms at the 99th percentile")
    running.cancel()
    await asyncio.wait([running])


if __name__ == "__main__":
    main()
