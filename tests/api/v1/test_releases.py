"""What was released on appeal: who may take that back, and how."""

from tests.api.appeals_backend import BLOCK
from urlguard.access.roles import Role


async def released(api):
    """A case that the approver blocked and the admin released; the plea, and what was done."""
    (case,) = (await api.bring("http://shop.example/")).values()
    await api.ask(Role.APPROVER, "POST", f"/v1/cases/{case}/decide", BLOCK)
    plea = await api.plead("shop.example")
    status, done = await api.judge(Role.ADMIN, plea["id"])
    assert status == 200
    assert await api.says("shop.example") == ["allow"]
    return plea, done


async def test_who_blocked_it_does_not_block_it_again_by_undoing(api):
    """
    Neither by undoing the release nor by withdrawing its rule: another person may.
    """
    plea, done = await released(api)
    undo = f"/v1/decisions/{done['decisions'][0]}/undo"
    status, problem = await api.ask(Role.APPROVER, "POST", undo, {})
    assert (status, "blocked it" in problem["detail"]) == (409, True)
    _, page = await api.ask(Role.APPROVER, "GET", "/v1/rules?source=operator")
    (rule,) = page["items"]
    for role in (Role.APPROVER, Role.ADMIN):
        status, problem = await api.ask(role, "DELETE", f"/v1/rules/{rule['id']}")
        assert (status, undo in problem["detail"]) == (409, True)
    assert await api.says("shop.example") == ["allow"]
    _, seen = await api.ask(None, "GET", f"/v1/appeals/{plea['id']}")
    assert seen["state"] == "upheld"
    assert (await api.ask(Role.ADMIN, "POST", undo, {"reason": "fooled"}))[0] == 200
    assert await api.says("shop.example") == ["block"]
    _, seen = await api.ask(None, "GET", f"/v1/appeals/{plea['id']}")
    assert seen["state"] == "received"


async def test_what_was_released_is_not_blocked_again_by_one_person(api):
    """
    Not at the same name, where the release comes first; below it, a second person must agree.
    """
    await released(api)
    for rule in ("shop.example", "http://shop.example/"):
        status, _ = await api.ask(Role.APPROVER, "POST", "/v1/rules", {"rule": rule})
        assert status == (409 if "/" not in rule else 200)
    status, made = await api.ask(Role.APPROVER, "POST", "/v1/rules", {"rule": "www.shop.example"})
    assert (status, made["decision"]["pending_approval"]) == (200, True)
    assert "released on appeal" in made["decision"]["approval_reason"]
    assert await api.says("www.shop.example") == ["allow"]
