"""What was released on appeal: who may take that back, and how."""

from tests.api.court import BLOCK
from urlguard.access.roles import Role


async def released(court):
    """A case that the approver blocked and the admin released; the plea, and what was done."""
    (case,) = (await court.bring("http://shop.example/")).values()
    await court.ask(Role.APPROVER, "POST", f"/v1/cases/{case}/decide", BLOCK)
    plea = await court.plead("shop.example")
    status, done = await court.judge(Role.ADMIN, plea["id"])
    assert status == 200
    assert await court.says("shop.example") == ["allow"]
    return plea, done


async def test_who_blocked_it_does_not_block_it_again_by_undoing(court):
    """
    Neither by undoing the release nor by withdrawing its rule: another person may.
    """
    plea, done = await released(court)
    undo = f"/v1/decisions/{done['decisions'][0]}/undo"
    status, problem = await court.ask(Role.APPROVER, "POST", undo, {})
    assert (status, "blocked it" in problem["detail"]) == (409, True)
    _, page = await court.ask(Role.APPROVER, "GET", "/v1/rules?source=operator")
    (rule,) = page["items"]
    for role in (Role.APPROVER, Role.ADMIN):
        status, problem = await court.ask(role, "DELETE", f"/v1/rules/{rule['id']}")
        assert (status, undo in problem["detail"]) == (409, True)
    assert await court.says("shop.example") == ["allow"]
    _, seen = await court.ask(None, "GET", f"/v1/appeals/{plea['id']}")
    assert seen["state"] == "upheld"
    assert (await court.ask(Role.ADMIN, "POST", undo, {"reason": "fooled"}))[0] == 200
    assert await court.says("shop.example") == ["block"]
    _, seen = await court.ask(None, "GET", f"/v1/appeals/{plea['id']}")
    assert seen["state"] == "received"


async def test_what_was_released_is_not_blocked_again_by_one_person(court):
    """
    Not at the same name, where the release comes first; below it, a second person must agree.
    """
    await released(court)
    for rule in ("shop.example", "http://shop.example/"):
        status, _ = await court.ask(Role.APPROVER, "POST", "/v1/rules", {"rule": rule})
        assert status == (409 if "/" not in rule else 200)
    status, made = await court.ask(Role.APPROVER, "POST", "/v1/rules", {"rule": "www.shop.example"})
    assert (status, made["decision"]["pending_approval"]) == (200, True)
    assert "released on appeal" in made["decision"]["approval_reason"]
    assert await court.says("www.shop.example") == ["allow"]
