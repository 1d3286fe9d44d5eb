"""Many analysts at one queue of a real server; the long version is `benchmarks.racing`."""

import asyncio

import pytest

from benchmarks import racing
from tests.system.test_api import Api


@pytest.mark.slow
def test_no_case_is_decided_twice(server):
    """
    Fifty analysts race for 300 cases, by claims, in bulk, and for each other's.
    """
    running = server(workers=2, classify=True)
    state = running.folder / "var"
    racing.fill(state, 300)
    running.start()
    api = Api(running)
    race = racing.Race(api.base, racing.tokens(state, 50), 300)
    asyncio.run(race.run())
    assert race.judge(state) > 20
    assert race.said[409] > 0
    assert running.run("log", "--verify").returncode == 0
