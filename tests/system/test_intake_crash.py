"""
Candidates and decisions while the control process is killed again and again.

The long version is ``python -m benchmarks.candidates``.
"""

import contextlib

import pytest

from benchmarks import peers
from benchmarks.candidates import Client, Crash, lines, url
from tests.running import wait_until
from tests.system.test_api import Api


def prepared(server, more=""):
    """A running server, the port of its API and an admin's headers."""
    running = server(more=more, workers=2, classify=True).start()
    api = Api(running)
    port = int(api.base.rpartition(":")[2])
    return running, port, {"Authorization": f"Bearer {api.token}"}


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_and_nothing_decided_twice(server, tmp_path):
    """
    100,000 candidates in requests of 5,000, six kills: all are in the store, and each case has one
    decision at most.
    """
    port = peers.free_port()  # which stays when the process is started again
    more = f'[api]\nlisten = "127.0.0.1:{port}"\n'
    running, _, headers = prepared(server, more)
    crash = Crash(port, headers, running.process.pid, 100_000, seed=7)
    crash.run(6)
    assert crash.kills == 6
    assert len(crash.acknowledged) == 20
    crash.judge(running.folder / "var")
    assert crash.decided


def test_candidates_of_a_real_server(server):
    """
    Lines are read by judges, stored, judged, and become cases.
    """
    running, port, headers = prepared(server)
    media = "application/x-ndjson"
    body = lines(0, 2000) + b'{"url":"http://www.evil.example/"}\n{"url":1}\n'
    with contextlib.closing(Client(port, headers)) as client:
        status, found = client.post("/v1/candidates", body, media)
    assert (status, found["accepted"], found["invalid"]) == (200, 2001, 1)
    assert found["errors"] == [{"line": 2002, "error": "url: Expected `str`, got `int`"}]
    api = Api(running)

    def source():
        return api.ask("GET", "/v1/sources/admin")[1]

    wait_until(lambda: source()["waiting"] == 0, 30)
    assert source()["known"] == 1
    assert source()["opened"] == 2000
    status, one = api.ask("GET", f"/v1/candidates?item={url(5)}")
    assert (status, one["state"]) == (200, "judged")
