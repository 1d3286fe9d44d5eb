"""What the resolver suspects becomes a case, with what the resolvers saw of it."""

import time

from tests.classify import toy
from tests.system.test_api import Api
from tests.system.test_models import features, metrics, wait_until

__all__ = ["features"]


def test_a_suspect_becomes_a_case(server, tmp_path, features, monkeypatch):
    """
    Names between the thresholds come to the analysts by themselves, and rise with their queries.
    """
    toy.write(tmp_path / "models")
    running = server(more='[classify]\nmodels = "models"\n', workers=2).start()
    api = Api(running)
    for _ in range(5):
        assert not running.blocks(toy.GREY)

    def found():
        status, page = api.ask("GET", "/v1/cases?source=resolver")
        return page["items"] if status == 200 else []

    wait_until(found, 40)
    (case,) = found()
    assert case["name"] == toy.GREY
    assert (case["state"], case["sources"]) == ("open", ["resolver"])
    assert 0.2 < case["score"] < 0.9
    # Ready answers are given without asking the guard, so not each query is seen.
    assert 1 <= case["queries"] <= 5
    before = case["queries"], case["priority"]
    deadline = time.monotonic() + 40
    while found()[0]["queries"] == before[0]:
        running.blocks(toy.GREY)
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert found()[0]["priority"] >= before[1]
    figures = metrics(running)
    assert "urlguard_decisions_pending_approval 0.0" in figures
    assert any(name.startswith("urlguard_candidates_pending ") for name in figures)
    # Blocked, it is sinkholed everywhere and reported no more.
    status, done = api.ask("POST", f"/v1/cases/{case['id']}/decide", {"action": "block"})
    assert (status, done["pending_approval"]) == (200, False)
    assert all(running.blocks(toy.GREY) for _ in range(10))
