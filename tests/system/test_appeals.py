"""Appeals to a real server: unblocked on every worker, and proofs read over DNS and HTTP."""

import asyncio

import pytest

from tests.api.appeals_backend import api  # noqa: F401 - a fixture
from tests.control.test_fetch_pool import authority, running, said  # noqa: F401 - fixtures
from tests.fetch.world import Names, Site, answer
from tests.system.test_api import Api


@pytest.mark.slow
def test_released_on_every_worker_when_the_answer_comes(server):
    """
    A list blocks a shop: without an account it appeals, a second person upholds it, and the very
    next query resolves, whichever worker gets it; another start does not forget it.
    """
    running = server(workers=2).start()
    api = Api(running)  # noqa: F811 - no fixture
    second = running.run("token", "create", "second", "--role", "approver").stdout.strip()
    assert running.blocks("www.evil.example")
    _, found = api.ask("POST", "/v1/incidents", {"item": "www.evil.example"})
    body = {"incident": found["incident"], "item": "www.evil.example", "contact": "a@b.example"}
    status, plea = api.ask("POST", "/v1/appeals", body, token="none")
    assert (status, plea["state"]) == (200, "received")
    path = f"/v1/appeals/{plea['id']}"
    assert running.blocks("www.evil.example")
    status, done = api.ask("POST", f"{path}/uphold", {"reason": "a shop"}, token=second)
    assert (status, done["rules"]) == (200, ["subtree evil.example"])
    assert not any(running.blocks("www.evil.example") for _ in range(50))
    assert running.blocks("fraud.example")
    assert api.ask("GET", path, token="none")[1]["state"] == "upheld"
    assert running.stop() == 0
    running.start()
    assert not running.blocks("www.evil.example")
    assert "appeals.received" in running.log.read_text()


async def test_proofs_by_the_fetching_process(api, authority, said):  # noqa: F811
    """
    What stands in the DNS and on a web server is found by the process that a server has for it.
    """
    pleas = [await api.plead(name) for name in ("shop.example", "hook.example", "none.example")]
    by_record, by_file, by_none = pleas
    value = by_record["proof"]["txt_value"]
    zone = {
        ("_urlguard.shop.example", "TXT"): ['"v=spf1 -all"', f'"{value[:9]}" "{value[9:]}"'],
        ("shop.example", "A"): ["127.1.0.1"],
        ("hook.example", "A"): ["127.1.0.1"],
        ("none.example", "A"): ["127.0.0.1"],
    }
    text = f"# ours\r\n{by_file['proof']['file_text']}\r\n".encode()
    async with (
        Names(zone) as names,
        Site(answer(text)) as site,
        running(names, authority, https=1, http=site.port) as fetcher,
    ):
        api.places.txt, api.places.proof_file = fetcher.txt, fetcher.proof_file
        seen = []
        for plea in pleas:
            _, looked = await asyncio.wait_for(
                api.ask(None, "POST", f"/v1/appeals/{plea['id']}/check"), 60
            )
            seen.append((looked["txt"], looked["file"], looked["proof"]["seen"]))
    assert seen == [
        ("found", "other", "txt"),
        ("none", "found", "file"),
        ("none", "failed", None),  # an address inside is not asked for anything
    ]
    assert by_none["state"] == "received"
    assert said == []
