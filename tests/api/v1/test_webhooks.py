"""Webhooks over HTTP: set up, shown without their secrets, and taken away."""

import json
from types import SimpleNamespace

import pytest

from tests.api.backend import Backend, serving, until
from tests.api.v1.test_submissions import decide, send
from urlguard.access.roles import Role
from urlguard.cases import outbox
from urlguard.fetch import signing

HOOK = {"url": "https://hook.example/a?b=c", "events": ["submission.decided"]}


async def ask(http, backend, method, path="", body=None):
    """Status and document."""
    url = f"{backend.base}/v1/webhooks{path}"
    async with http.request(method, url, json=body, headers=backend.head()) as answer:
        return answer.status, await answer.json(content_type=None)


async def test_one_is_set_up_and_taken_away(http, backend):
    """
    Its secret is told once.
    """
    status, made = await ask(http, backend, "POST", body=HOOK)
    assert status == 200
    assert signing.sign([made["secret"]], "id", 0, b"")
    assert (made["url"], made["created_by"], made["waiting"]) == (HOOK["url"], "my-admin", 0)
    status, page = await ask(http, backend, "GET")
    assert [one["id"] for one in page["items"]] == [made["id"]]
    assert "secret" not in page["items"][0]
    assert (await ask(http, backend, "DELETE", f"/{made['id']}"))[0] == 200
    assert (await ask(http, backend, "DELETE", f"/{made['id']}"))[0] == 404
    assert (await ask(http, backend, "GET"))[1]["items"] == []


async def test_with_a_secret_of_ones_own(http, backend):
    """
    It is taken if it is one.
    """
    secret = signing.new_secret()
    status, made = await ask(http, backend, "POST", body={**HOOK, "secret": secret})
    assert (status, made["secret"]) == (200, secret)
    for bad in ("whsec_", "whsec_c2hvcnQ=", "secret", "whsec_!!!"):
        status, found = await ask(http, backend, "POST", body={**HOOK, "secret": bad})
        assert (status, found["errors"][0]["field"]) == (422, "secret")


@pytest.mark.parametrize(
    "url",
    [
        "http://hook.example/",
        "https://me:pw@hook.example/",
        "https://192.0.2.1/",
        "https://hook.example:22/",
        "https://",
        "hook.example",
        "ftp://hook.example/",
        "https://hööк.example/",
    ],
)
async def test_urls_that_are_not_taken(http, backend, url):
    """
    Messages go over HTTPS, to what is written and nothing else.
    """
    status, found = await ask(http, backend, "POST", body={**HOOK, "url": url})
    assert (status, found["errors"][0]["field"]) == (422, "url")


async def test_too_many(http, backend):
    """
    There are at most twenty.
    """
    for _ in range(20):
        assert (await ask(http, backend, "POST", body=HOOK))[0] == 200
    assert (await ask(http, backend, "POST", body=HOOK))[0] == 409


async def test_a_decision_is_told(http, tmp_path, monkeypatch):
    """
    From the submission to the receiver, with a signature that it can verify.
    """
    monkeypatch.setattr(outbox, "IDLE_S", 0.02)
    got = []

    async def post(url, body, headers):
        got.append((url, body, headers))
        return 204

    backend = Backend(tmp_path)
    services = backend.services()
    services.casework._outbox = outbox.Outbox(
        services.casework._threads, SimpleNamespace(post=post, sign=signing.sign)
    )
    async with serving(services) as backend.base:
        _, made = await ask(http, backend, "POST", body=HOOK)
        _, sent, _ = await send(http, backend, {"url": "evil.example"}, Role.REPORTER)
        cases = await backend.bring()
        await decide(http, backend, cases["evil.example"])
        await until(lambda: got)
        url, body, headers = got[0]
        assert url == HOOK["url"]
        found = json.loads(body)
        assert found["type"] == "submission.decided"
        assert (found["data"]["id"], found["data"]["action"]) == (sent["id"], "block")
        moment = int(headers["webhook-timestamp"])
        assert signing.verify([made["secret"]], headers, body, moment)
    backend.close()
