"""Idempotency keys: what is sent again is done once."""

import asyncio
import dataclasses
import json
import sqlite3

import aiohttp
import pytest

from tests.api.backend import connect, serving, until
from urlguard.access.roles import Role
from urlguard.api import idempotency, pipeline
from urlguard.api.idempotency import Answers, Kept, checked, digest
from urlguard.api.problems import Problem
from urlguard.api.table import ROUTES

RULE = {"rule": "evil.example", "reason": "ticket 3"}


async def post(http, backend, body=RULE, key="k1", role=Role.ANALYST, path="/v1/rules"):
    """Status, document, and whether it is an answer of before."""
    headers = backend.head(role, **({} if key is None else {"Idempotency-Key": key}))
    async with http.post(backend.base + path, json=body, headers=headers) as answer:
        replayed = answer.headers.get("Idempotency-Replayed") == "true"
        return answer.status, await answer.json(content_type=None), replayed


async def test_the_same_again(http, backend):
    """
    The first answer is given again, though the rule stands by now; also with quotes around the key.
    """
    status, first, replayed = await post(http, backend)
    assert (status, first["changed"], replayed) == (200, True, False)
    assert await post(http, backend) == (200, first, True)
    assert await post(http, backend, key='"k1"') == (200, first, True)
    status, other, replayed = await post(http, backend, key="k2")
    assert (other["changed"], replayed) == (False, False)
    assert backend.log.serial == 1


async def test_another_request_under_the_key(http, backend):
    """
    Another body, or another path, is refused; another caller has keys of his own.
    """
    await post(http, backend)
    status, document, _ = await post(http, backend, {"rule": "other.example"})
    assert (status, document["type"]) == (422, "/docs#problem-key-reused")
    status, document, _ = await post(http, backend, {"items": []}, path="/v1/check")
    assert status == 422
    status, document, replayed = await post(http, backend, role=Role.APPROVER)
    assert (status, document["changed"], replayed) == (200, True, False)


async def test_it_outlives_a_restart(http, backend):
    """
    An answer is on disk before it is given.
    """
    _, first, _ = await post(http, backend)
    async with serving(backend.services()) as backend.base:
        assert await post(http, backend) == (200, first, True)


async def test_after_an_error_the_key_is_free(http, backend):
    """
    What failed was not done, so it may be tried again, also with another body.
    """
    assert (await post(http, backend, {"rule": "no name"}))[0] == 422
    backend.error = RuntimeError("disk on fire")
    assert (await post(http, backend))[0] == 500
    backend.error = None
    assert (await post(http, backend))[1]["changed"] is True


async def test_two_at_once(http, backend):
    """
    While the first is under way, a second under the same key is told to wait.
    """
    backend.wait_s = 0.3
    first = asyncio.create_task(post(http, backend))
    await backend.begun.wait()
    status, document, _ = await post(http, backend)
    assert (status, document["type"]) == (409, "/docs#problem-conflict")
    assert (await first)[0] == 200
    assert (await post(http, backend))[2] is True


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256, "\x7f", '"'])
async def test_keys_that_do_not_fit(http, backend, key):
    """
    1 to 255 printable characters.
    """
    with pytest.raises(Problem) as caught:
        checked(key)
    assert caught.value.kind == "malformed"


async def test_two_keys(http, backend):
    """
    One is allowed.
    """
    headers = [*backend.head().items(), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    async with http.post(f"{backend.base}/v1/rules", json=RULE, headers=headers) as answer:
        assert answer.status == 400


async def test_a_client_that_goes_away(http, backend):
    """
    What was begun is done and remembered, though nobody waits for the answer.
    """
    backend.wait_s = 0.3
    _, writer = await connect(backend.base)
    body = b'{"rule":"evil.example"}'
    token = backend.token[Role.ANALYST].encode()
    writer.write(
        b"POST /v1/rules HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer " + token + b"\r\nIdempotency-Key: gone\r\n"
        b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
    )
    await writer.drain()
    await backend.begun.wait()
    writer.close()
    await until(lambda: backend.log.serial == 1)
    headers = {**backend.head(Role.ANALYST), "Idempotency-Key": "gone"}
    headers["Content-Type"] = "application/json"

    async def again():
        async with http.post(f"{backend.base}/v1/rules", data=body, headers=headers) as answer:
            return answer.status, answer.headers.get("Idempotency-Replayed")

    async with asyncio.timeout(5):
        while (found := await again()) == (409, None):
            await asyncio.sleep(0.02)
    assert found == (200, "true")


async def test_a_large_answer_is_worked_out_again(http, backend):
    """
    An answer that is too large to keep is given anew; another body is refused all the same.
    """
    items = {"items": [f"n{n}.example.net" for n in range(1000)]}
    first = await post(http, backend, items, path="/v1/check")
    assert len(str(first[1])) > pipeline._READ_AGAIN
    assert await post(http, backend, items, path="/v1/check") == first
    assert len(backend.judging.asked) == 2
    assert (await post(http, backend, {"items": []}, path="/v1/check"))[0] == 422


async def test_a_large_answer_of_a_change_is_kept(http, backend):
    """
    What was done is not done again, however much there is to say about it.
    """
    await backend.bring(*(f"http://n{n}.example/" + "x" * 1500 for n in range(200)))
    claim = {"count": 100}
    first = await post(http, backend, claim, path="/v1/cases/lease")
    assert first[0] == 200
    assert len(json.dumps(first[1])) > 2 * pipeline._READ_AGAIN
    assert await post(http, backend, claim, path="/v1/cases/lease") == (200, first[1], True)
    assert (await post(http, backend, {"count": 99}, path="/v1/cases/lease"))[0] == 422
    claimed = await backend.casework.store(lambda store: store.cases(limit=1000))
    assert sum(case.state == "leased" for case in claimed.items) == 100


async def test_an_answer_beyond_all_limits(http, backend, monkeypatch):
    """
    Too large to be kept, it is still known that the request was done.
    """
    monkeypatch.setattr(idempotency, "MAX_BODY", 10)
    assert (await post(http, backend))[0] == 200
    status, document, _ = await post(http, backend)
    assert (status, document["type"]) == (409, "/docs#problem-done-before")
    assert (await post(http, backend, {"rule": "other.example"}))[0] == 422
    assert backend.log.serial == 1


async def test_a_secret_is_told_once(http, backend):
    """
    A webhook's secret lies in no answer that is kept, and one request makes one webhook.
    """
    hook = {"url": "https://hook.example/", "events": ["submission.decided"]}
    status, made, _ = await post(http, backend, hook, role=Role.ADMIN, path="/v1/webhooks")
    assert status == 200
    status, document, _ = await post(http, backend, hook, role=Role.ADMIN, path="/v1/webhooks")
    assert (status, document["type"]) == (409, "/docs#problem-done-before")
    assert made["secret"] not in json.dumps(document)
    other = {**hook, "url": "https://other.example/"}
    status, document, _ = await post(http, backend, other, role=Role.ADMIN, path="/v1/webhooks")
    assert (status, document["type"]) == (422, "/docs#problem-key-reused")
    assert len(await backend.casework.store(lambda store: store.webhooks())) == 1
    with sqlite3.connect(backend.folder / "api.db") as db:
        assert db.execute("SELECT count(*), count(body) FROM answer").fetchall() == [(1, 0)]
    db.close()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_answers_with_secrets_say_so(route):
    """
    The table names every POST whose answer has a secret in it.
    """
    has_secret = "secret" in getattr(route.answer, "__struct_fields__", ())
    assert route.secret == (route.method == "POST" and has_secret)


async def test_a_damaged_file(http, backend, capsys):
    """
    Where it cannot be known whether it was done, it is not done; without a key it is.
    """
    await post(http, backend)
    async with serving(backend.services()) as backend.base:
        for path in backend.folder.glob("api.db*"):
            path.unlink()
        (backend.folder / "api.db").write_bytes(b"no database" * 1000)
        status, document, _ = await post(http, backend)
        assert (status, document["type"]) == (503, "/docs#problem-unavailable")
        assert (await post(http, backend, key=None))[0] == 200
    assert '"api.idempotency"' in capsys.readouterr().err


async def test_what_is_kept_is_bounded(tmp_path, monkeypatch):
    """
    After a day an answer is forgotten; of too many the oldest go, each caller's and all together.
    """
    monkeypatch.setattr(idempotency, "_TIDY_S", 0.0)
    monkeypatch.setattr(idempotency, "MAX_EACH", 3)
    monkeypatch.setattr(idempotency, "MAX_KEPT", 4)
    now = 1_000_000.0
    answers = Answers(tmp_path / "api.db", lambda: now)
    for n in range(5):
        now += 1
        await answers.keep("a", f"k{n}", Kept(b"", 200, b"x"))
    kept = [bool(await answers.find("a", f"k{n}")) for n in range(5)]
    assert kept == [False, False, True, True, True]
    for n in range(2):
        now += 1
        await answers.keep("b", f"k{n}", Kept(b"", 200, b"x"))
    assert await answers.find("a", "k2") is None
    assert await answers.find("b", "k1")
    now += idempotency.KEPT_S
    assert await answers.find("b", "k1") is None
    await answers.keep("c", "k", Kept(b"", 200, b"x"))
    await answers.close()
    with sqlite3.connect(tmp_path / "api.db") as db:
        assert db.execute("SELECT caller FROM answer").fetchall() == [("c",)]
    db.close()
    assert (tmp_path / "api.db").stat().st_mode & 0o777 == 0o600


async def test_the_octets_that_are_kept_are_bounded(tmp_path, monkeypatch):
    """
    Of too many the oldest lose their bodies, each caller's and all together; none is forgotten.
    """
    monkeypatch.setattr(idempotency, "_TIDY_S", 0.0)
    monkeypatch.setattr(idempotency, "MAX_EACH_OCTETS", 2000)
    monkeypatch.setattr(idempotency, "MAX_OCTETS", 3000)
    now = 1_000_000.0
    answers = Answers(tmp_path / "api.db", lambda: now)
    body = b"x" * 900  # too short to be packed
    for caller, count in (("a", 3), ("b", 2)):
        for n in range(count):
            now += 1
            await answers.keep(caller, f"k{n}", Kept(b"d", 200, body))
    kept = {
        f"{caller}{n}": await answers.find(caller, f"k{n}")
        for caller, count in (("a", 3), ("b", 2))
        for n in range(count)
    }
    await answers.close()
    assert [name for name, found in kept.items() if found.body == body] == ["a2", "b0", "b1"]
    assert [kept[name] for name in ("a0", "a1")] == [Kept(b"d", 200, None)] * 2


async def test_much_at_once_is_tidied_up_at_once(tmp_path, monkeypatch):
    """
    The bound on octets does not wait for its minute.
    """
    monkeypatch.setattr(idempotency, "_TIDY_OCTETS", 2000)
    monkeypatch.setattr(idempotency, "MAX_EACH_OCTETS", 2000)
    now = 1_000_000.0
    answers = Answers(tmp_path / "api.db", lambda: now)
    for n in range(9):
        now += 1
        await answers.keep("a", f"k{n}", Kept(b"d", 200, b"x" * 900))
    left = [n for n in range(9) if (await answers.find("a", f"k{n}")).body]
    await answers.close()
    assert len(left) <= 4
    assert left[-1] == 8


async def test_bodies_lie_packed(tmp_path):
    """
    A large body takes little room and comes back as it was; what is damaged is not kept.
    """
    answers = Answers(tmp_path / "api.db")
    body = json.dumps([{"item": f"http://n{n}.example/"} for n in range(50_000)]).encode()
    await answers.keep("a", "k", Kept(b"d", 201, body))
    assert await answers.find("a", "k") == Kept(b"d", 201, body)
    with sqlite3.connect(tmp_path / "api.db") as db:
        assert db.execute("SELECT length(body) FROM answer").fetchone()[0] < len(body) / 4
        db.execute("UPDATE answer SET body = x'00'")
    db.close()
    assert await answers.find("a", "k") == Kept(b"d", 201, None)
    await answers.close()


async def test_a_file_of_before(tmp_path):
    """
    Answers that an older version has kept unpacked are given again.
    """
    with sqlite3.connect(tmp_path / "api.db") as db:
        db.execute(
            "CREATE TABLE answer (caller TEXT NOT NULL, key TEXT NOT NULL, digest BLOB NOT NULL,"
            " status INTEGER NOT NULL, body BLOB, at INTEGER NOT NULL,"
            " PRIMARY KEY (caller, key)) WITHOUT ROWID"
        )
        db.execute("INSERT INTO answer VALUES ('a', 'k', x'64', 200, x'7b7d', 1000)")
    db.close()
    answers = Answers(tmp_path / "api.db", lambda: 2000.0)
    assert await answers.find("a", "k") == Kept(b"d", 200, b"{}")
    await answers.keep("a", "k2", Kept(b"d", 200, b"[]"))
    assert await answers.find("a", "k2") == Kept(b"d", 200, b"[]")
    await answers.close()


def test_what_tells_requests_apart():
    """
    Method, path with its query, and body.
    """
    found = [
        digest("POST", "/a", b"x"),
        digest("PUT", "/a", b"x"),
        digest("POST", "/a?b", b"x"),
        digest("POST", "/a", b"y"),
        digest("POST", "/a\nx", b""),
    ]
    assert len(set(found)) == 5


async def test_no_keys_without_a_folder(backend):
    """
    A server that keeps nothing takes keys and does each request.
    """
    services = dataclasses.replace(backend.services(), state_dir=None)
    async with serving(services) as backend.base, aiohttp.ClientSession() as http:
        assert [(await post(http, backend))[2] for _ in range(2)] == [False, False]
