"""Who may use which route: every route of the table with every role, and with no good token."""

import base64
import ipaddress

import pytest

from tests.api.backend import Backend, client, serving
from urlguard.access.roles import Role
from urlguard.api.table import ROUTES

# What a request of each operation looks like; anything that is decoded will do.
BODIES = {
    "check": {"items": ["evil.example"]},
    "check_messages": {"messages": [{"id": 1, "text": "hello"}]},
    "rules_create": {"rule": "evil.example"},
    "preview_rules": {"rules": ["evil.example"]},
    "candidates": {"url": "evil.example"},
    "candidates_retry": {"ids": [1]},
    "submit": {"url": "evil.example"},
    "webhooks_create": {"url": "https://hook.example/", "events": ["submission.decided"]},
    "cases_lease": {"count": 1},
    "cases_return": {"ids": [1]},
    "cases_decide": {"ids": [1], "action": "watch"},
    "case_decide": {"action": "watch"},
    "case_note": {"text": "seen before"},
    "decision_approve": {},
    "decision_reject": {},
    "decision_undo": {},
    "incidents_create": {"item": "evil.example"},
    "appeals_create": {"incident": "UG-0", "item": "evil.example", "contact": "a@b.example"},
    "appeal_uphold": {},
    "appeal_reject": {},
}
QUERIES = {
    "why": "?item=evil.example",
    "preview_feed": "?feed=starter",
    "candidate": "?item=evil.example",
}
GUARDED = [route for route in ROUTES if route.roles is not None]
OPEN = [route for route in ROUTES if route.roles is None]


def named(route):
    return f"{route.method} {route.path}"


async def ask(http, backend, route, headers, ident="any"):
    """The status of a request that is right but for who sends it."""
    # Rules have ids of their own; what else is asked for by its id is number 1.
    found = ident if route.path.startswith("/v1/rules") else "1"
    path = route.path.replace("{id}", found) + QUERIES.get(route.name, "")
    body = BODIES.get(route.name)
    more = {"json": body} if body is not None else {}
    async with http.request(route.method, backend.base + path, headers=headers, **more) as answer:
        if answer.status >= 400:
            assert answer.content_type == "application/problem+json"
            assert (await answer.json())["status"] == answer.status
        return answer.status


def test_every_route_that_takes_a_body_has_one_here():
    """
    A new route is part of these tests only with a body that it takes.
    """
    assert {r.name for r in ROUTES if r.has_body} <= BODIES.keys()


def test_what_needs_no_token():
    """
    Nothing but health, the description and one's own appeal is open.
    """
    assert {named(r) for r in OPEN} == {
        "GET /healthz",
        "GET /readyz",
        "GET /openapi.json",
        "GET /",
        "GET /docs",
        "POST /v1/appeals",
        "GET /v1/appeals/{id}",
        "POST /v1/appeals/{id}/check",
    }


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("route", GUARDED, ids=named)
async def test_roles(http, backend, route, role):
    """
    A role that the table does not name gets 403; another anything but 401 and 403.
    """
    source = "operator" if role is Role.ADMIN else f"analyst:my-{role}"
    own = base64.urlsafe_b64encode(f"{source}\nsubtree a.example".encode()).decode().strip("=")
    status = await ask(http, backend, route, backend.head(role), own)
    if role in route.roles:
        assert status in (200, 404)
    else:
        assert status == 403


@pytest.mark.parametrize("route", GUARDED, ids=named)
async def test_without_a_good_token(http, backend, route):
    """
    None, a broken one, one that nobody has, one that was revoked, one that has expired: 401.
    """
    good = backend.token[Role.ADMIN]
    backend.tokens.revoke("my-admin", "test")
    for headers in (
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {good}"},
        {"Authorization": "Bearer " + backend.token[Role.AUDITOR][:-1] + "!"},
        {"Authorization": f"Bearer {good}"},
        {"Authorization": "Bearer " + "x" * 600},
    ):
        assert await ask(http, backend, route, headers) == 401


async def test_who_guesses_has_to_wait(http, backend):
    """
    After some bad tokens an address gets 429 with Retry-After; a good token is served meanwhile.
    """
    route = GUARDED[0]
    bad = {"Authorization": "Bearer ug_nothing"}
    statuses = [await ask(http, backend, route, bad) for _ in range(20)]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    async with http.post(f"{backend.base}{route.path}", headers=bad) as answer:
        assert int(answer.headers["Retry-After"]) >= 1
    assert await ask(http, backend, route, backend.head(Role.ANALYST)) == 200


async def test_good_tokens_make_up_for_bad_ones(http, backend):
    """
    Where more tokens are good than bad, as behind a NAT, a bad one is told so and not made to wait.
    """
    route = GUARDED[0]
    for _ in range(12):
        assert await ask(http, backend, route, backend.head()) == 200
        assert await ask(http, backend, route, {"Authorization": "Bearer ug_nothing"}) == 401


async def test_guessing_behind_a_proxy(http, tmp_path):
    """
    A proxy's X-Forwarded-For counts, its last address; anybody else's does not.
    """
    backend = Backend(tmp_path)
    bad = {"Authorization": "Bearer ug_nothing"}
    loopback = (ipaddress.ip_network("127.0.0.0/8"),)
    async with serving(backend.services(), proxy_from=loopback) as backend.base:
        for _ in range(10):
            last = await ask(
                http, backend, GUARDED[0], {**bad, "X-Forwarded-For": "198.51.100.1, 192.0.2.1"}
            )
        assert last == 429
        other = {**bad, "X-Forwarded-For": "192.0.2.1, 198.51.100.7"}
        assert await ask(http, backend, GUARDED[0], other) == 401
    backend.attempts.__init__(lambda: 0.0)
    async with serving(backend.services()) as backend.base, client() as again:
        for at in range(10):
            last = await ask(
                again, backend, GUARDED[0], {**bad, "X-Forwarded-For": f"192.0.2.{at}"}
            )
        assert last == 429
    backend.close()


async def test_a_damaged_file_of_tokens(http, backend, capsys):
    """
    Nobody is let in without the file, and an event says why.
    """
    broken = Backend.__new__(Backend)
    broken.__dict__.update(backend.__dict__)
    broken.folder = backend.folder / "other"
    broken.folder.mkdir()
    (broken.folder / "access.db").write_bytes(b"no database at all" * 100)
    async with serving(broken.services()) as broken.base:
        assert await ask(http, broken, GUARDED[0], backend.head()) == 503
    assert '"api.tokens"' in capsys.readouterr().err
