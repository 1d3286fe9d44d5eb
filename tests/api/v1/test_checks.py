"""Verdicts over HTTP: names and URLs, and messages."""

import json

import msgspec
import pytest

from urlguard.access.roles import Role
from urlguard.api.v1.checks import CheckAnswer, MessagesAnswer
from urlguard.cases.ports import BusyError
from urlguard.errors import UrlGuardError
from urlguard.policy.model import Change


@pytest.fixture
def blocked(backend):
    """A name and what is below it are blocked."""
    change = Change("subtree evil.example", "block", "phishing")
    backend.log.commit("operator", [change], actor="test", reason="")


async def post(http, backend, path, body, **headers):
    """Status, text and headers."""
    headers = backend.head(Role.REPORTER, **headers)
    async with http.post(backend.base + path, json=body, headers=headers) as answer:
        return answer.status, await answer.text(), answer.headers


async def test_the_objects_of_check(http, backend, blocked):
    """
    Each item has the object of `urlguard check --json`, in order, also what is none.
    """
    items = ["login.evil.example", "https://good.example/a", "192.0.2.1", "", "no name", "中文.com"]
    status, text, _ = await post(http, backend, "/v1/check", {"items": items})
    assert status == 200
    found = json.loads(text)["results"]
    assert found == [json.loads(one) for one in await backend.judging.check(items)]
    assert [one["input"] for one in found] == items
    assert (found[0]["action"], found[0]["rule"]["sources"]) == ("block", ["operator"])
    assert [one["kind"] for one in found[1:5]] == ["url", "ip", "invalid", "invalid"]


async def test_answers_are_what_the_description_says(http, backend, blocked):
    """
    Verdicts with reasons, scores and rules have the types of the document.
    """
    items = ["a.evil.example", "paypa1-login.top", "https://secure-bank.top/x.php", "?"]
    status, text, _ = await post(
        http, backend, "/v1/check", {"items": items, "why": True, "score": True}
    )
    assert status == 200
    found = msgspec.json.decode(text, type=CheckAnswer).results
    assert found[1].score is not None
    assert found[1].why
    messages = {"messages": [{"id": 7, "text": "go to a.evil.example now"}]}
    status, text, _ = await post(http, backend, "/v1/messages/check", messages)
    assert msgspec.json.decode(text, type=MessagesAnswer).results[0].found[0].start == 6


async def test_nothing_to_check(http, backend):
    """
    Empty lists are answered with empty lists, and nobody is asked.
    """
    for path, key in (("/v1/check", "items"), ("/v1/messages/check", "messages")):
        status, text, _ = await post(http, backend, path, {key: []})
        assert (status, json.loads(text)) == (200, {"results": []})
    assert not backend.judging.asked


async def test_messages(http, backend, blocked):
    """
    Each message is told apart by its id, with the strictest of what was found in it.
    """
    messages = [
        {"id": "a", "text": "see x.evil.example or good.example"},
        {"id": 2, "text": "nothing here"},
        {"id": "a", "text": "good.example"},
        {"id": 9007199254740992, "text": 'say "action": "block" good.example'},
    ]
    status, text, _ = await post(http, backend, "/v1/messages/check", {"messages": messages})
    assert status == 200
    results = json.loads(text)["results"]
    assert [r["id"] for r in results] == [m["id"] for m in messages]
    assert [r["action"] for r in results] == ["block", "none", "none", "none"]
    first = results[0]["found"][0]
    assert messages[0]["text"][first["start"] : first["end"]] == first["text"] == "x.evil.example"
    assert first["verdict"]["rule"]["value"] == "evil.example"


@pytest.mark.parametrize(("error", "retry"), [(BusyError(2.5), "3"), (UrlGuardError("gone"), "1")])
async def test_judges_that_cannot(http, backend, error, retry):
    """
    That no verdict can be given just now is 503 with Retry-After, and no error of ours.
    """
    backend.judging.error = error
    status, text, headers = await post(http, backend, "/v1/check", {"items": ["a.example"]})
    assert (status, headers["Retry-After"]) == (503, retry)
    assert json.loads(text)["type"] == "/docs#problem-unavailable"


async def test_ten_thousand_at_once(http, backend):
    """
    The most that may be asked is answered.
    """
    items = [f"n{n}.example.net" for n in range(10_000)]
    status, text, _ = await post(http, backend, "/v1/check", {"items": items})
    assert status == 200
    assert [r["input"] for r in json.loads(text)["results"]] == items
