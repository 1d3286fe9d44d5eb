"""Floods of appeals, and what they cost others."""

import ipaddress
import time

import pytest

from tests.api.appeals_backend import AppealsBackend
from tests.api.backend import client, serving
from urlguard.access.roles import Role
from urlguard.api import limits as bounds
from urlguard.api.limits import Limits


async def test_a_flood_from_one_address(tmp_path):
    """
    After some appeals, good or bad, a network has to wait; others do not.
    """
    api = AppealsBackend(tmp_path)
    api.often = Limits(time.monotonic)
    loopback = (ipaddress.ip_network("127.0.0.0/8"),)
    async with serving(api.services(), proxy_from=loopback) as api.base, client() as http:
        bad = {"incident": "UG-0000-0000-000", "item": "shop.example", "contact": "abc"}

        async def post(address, path="/v1/appeals", method="POST"):
            body = {"json": bad} if path == "/v1/appeals" else {}
            async with http.request(
                method, api.base + path, headers={"X-Forwarded-For": address}, **body
            ) as answer:
                return answer.status, answer.headers.get("Retry-After")

        got = [await post("2001:db8::%x" % n) for n in range(14)]  # noqa: UP031 - short
        assert [status for status, _ in got] == [422] * 10 + [429] * 4
        assert int(got[-1][1]) > 30
        assert (await post("192.0.2.1"))[0] == 422
        checks = [(await post("192.0.2.9", "/v1/appeals/x/check"))[0] for _ in range(12)]
        assert checks == [404] * 10 + [429] * 2
        looks = [(await post("192.0.2.8", "/v1/appeals/x", "GET"))[0] for _ in range(70)]
        assert looks.count(429) >= 5
        staff = await api.ask(Role.APPROVER, "GET", "/v1/appeals")
        assert staff[0] == 200
    api.close()


@pytest.fixture
async def limited(tmp_path):
    """A api with limits on a clock that stands still, and a way to ask from any address."""
    made = AppealsBackend(tmp_path)
    now = [1000.0]
    loopback = (ipaddress.ip_network("127.0.0.0/8"),)

    async def post(n, path, body=None):
        headers = {"X-Forwarded-For": f"2001:db8:0:{n:x}::1"}
        async with http.post(made.base + path, json=body, headers=headers) as answer:
            return answer.status

    async with serving(made.services(), proxy_from=loopback) as made.base:
        plea = await made.plead("shop.example")
        number = await made.number("other.example")
    made.often = Limits(lambda: now[0])
    async with serving(made.services(), proxy_from=loopback) as made.base, client() as http:
        yield post, plea["id"], number
    made.close()


async def test_numbers_that_are_wrong_cost_nobody_else(limited):
    """
    However many strangers try numbers, whoever has one appeals; too many at once have to wait.
    """
    post, _, number = limited
    bad = {"incident": "UG-0000-0000-000", "item": "other.example", "contact": "abc"}
    tried = [await post(n, "/v1/appeals", bad) for n in range(int(bounds.TRIES.burst) - 1)]
    assert set(tried) == {422}
    assert len(tried) > 3 * bounds.APPEAL[1].burst
    assert await post(5000, "/v1/appeals", {**bad, "incident": number}) == 200
    assert await post(5001, "/v1/appeals", bad) == 429


async def test_appeals_that_there_are_not_cost_nobody_else(limited):
    """
    However many IDs strangers make up, whoever has appealed has his proof looked at.
    """
    post, ident, _ = limited
    tried = [await post(n // 10, f"/v1/appeals/x{n}/check") for n in range(200)]
    assert set(tried) == {404}
    assert len(tried) > 3 * bounds.PROVE[1].burst
    looked = [await post(5000, f"/v1/appeals/{ident}/check") for _ in range(4)]
    assert looked == [200] * 3 + [429]  # of one appeal


async def test_good_appeals_are_bounded_together(limited, monkeypatch):
    """
    What is an appeal counts for all.
    """
    post, _, number = limited
    monkeypatch.setattr("urlguard.cases.drivers.sqlite.appeals.MAX_OPEN", 0)
    good = {"incident": number, "item": "other.example", "contact": "abc"}
    for n in range(int(bounds.APPEAL[1].burst)):
        assert await post(n, "/v1/appeals", good) == 429  # too many wait
    monkeypatch.undo()
    assert await post(5000, "/v1/appeals", good) == 429


async def test_a_flood_about_one_owner(api):
    """
    Three open appeals of an owner, and ten in 90 days; whoever else appeals is not concerned.
    """
    kept = [await api.plead(f"w{n}.shop.example") for n in range(3)]
    body = {
        "incident": await api.number("shop.example"),
        "item": "shop.example",
        "contact": "abc",
    }
    assert (await api.ask(None, "POST", "/v1/appeals", body))[0] == 409
    await api.plead("other.example")
    for _ in range(7):
        await api.judge(Role.APPROVER, kept.pop()["id"], "reject")
        kept.append(await api.plead("shop.example"))
    await api.judge(Role.APPROVER, kept.pop()["id"], "reject")
    status, problem = await api.ask(None, "POST", "/v1/appeals", body)
    assert (status, "limit is 10" in problem["detail"]) == (409, True)


async def test_too_many_wait(api, monkeypatch):
    """
    At the limit of all that wait the next is told to come back.
    """
    monkeypatch.setattr("urlguard.cases.drivers.sqlite.appeals.MAX_OPEN", 2)
    await api.plead("a.example")
    await api.plead("b.example")
    body = {"incident": await api.number("c.example"), "item": "c.example", "contact": "abc"}
    assert (await api.ask(None, "POST", "/v1/appeals", body))[0] == 429


def test_limits_are_as_the_page_says():
    """
    The limits that docs/appeals.md promises.
    """
    assert bounds.APPEAL[0].burst == 10
    assert bounds.APPEAL[0].per_s == pytest.approx(1 / 60)
