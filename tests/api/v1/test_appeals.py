"""Appeals over HTTP, with an incident number and without an account."""

import json
import time

import pytest

from tests.api.appeals_backend import BLOCK, DAY
from urlguard.access.roles import Role
from urlguard.cases import incidents


async def test_from_the_block_to_the_release(api):
    """
    Blocked by an analyst's decision about a case, appealed, upheld by an approver: it resolves, the
    case is decided otherwise, and all of it is on the record.
    """
    (case,) = (await api.bring("http://www.shop.example/a")).values()
    await api.ask(Role.ANALYST, "POST", f"/v1/cases/{case}/decide", BLOCK)
    assert await api.says("www.shop.example", "shop.example") == ["block", "block"]
    plea = await api.plead("www.shop.example", text="We sell shoes.\nSince 1990.")
    assert plea["state"] == "received"
    status, page = await api.ask(Role.AUDITOR, "GET", "/v1/appeals?state=received")
    assert [(a["id"], a["owner"]) for a in page["items"]] == [(plea["id"], "shop.example")]
    status, done = await api.judge(
        Role.APPROVER, plea["id"], reason="a shop indeed", answer="Sorry for that."
    )
    assert (status, done["state"], done["rules"]) == (200, "upheld", ["subtree shop.example"])
    assert await api.says("www.shop.example", "shop.example") == ["allow", "allow"]
    claim = api.log.store.active("analyst:my-approver", "subtree shop.example")
    assert claim.evidence == f"appeal:{done['number']}:{done['decisions'][0]}"
    assert claim.from_serial == done["serial"]
    assert claim.expires_at == pytest.approx(time.time() + 365 * DAY, abs=60)
    assert api.log.store.active("analyst:my-analyst", "subtree shop.example").action == "block"
    (batch,) = api.log.store.batches(done["serial"] - 1, 1)
    assert (batch.actor, batch.reason) == ("my-approver", "appeal 1: a shop indeed")
    _, seen = await api.ask(None, "GET", f"/v1/appeals/{plea['id']}")
    assert (seen["state"], seen["answer"]) == ("upheld", "Sorry for that.")
    _, whole = await api.ask(Role.ANALYST, "GET", f"/v1/cases/{case}")
    assert (whole["state"], whole["action"]) == ("decided", "allow")
    assert [e["text"] for e in whole["events"] if e["type"] == "appeal"] == [
        "appeal 1 came",
        "appeal 1 upheld: a shop indeed",
    ]
    _, file = await api.ask(Role.ANALYST, "GET", f"/v1/appeals/{plea['id']}/file")
    assert (file["contact"], file["case"], file["decided_by"]) == (
        "me@shop.example",
        case,
        "my-approver",
    )
    assert [e["type"] for e in file["events"]] == ["received", "upheld"]
    assert api.log.verify() is None


async def test_nobody_learns_what_is_blocked(api):
    """
    Of blocked and unblocked items all answers have the same status and the same shape.
    """
    api.say("feed:x", "subtree blocked.example")
    answers = []
    for item in ("blocked.example", "harmless.example"):
        number = await api.number(item)
        told = []
        for body in (
            {"incident": number, "item": item, "contact": "a@b.example"},
            {"incident": number, "item": f"www.{item}", "contact": "a@b.example"},
            {"incident": await api.number("third.example"), "item": item, "contact": "abc"},
            {"incident": "UG-0000-0000-000", "item": item, "contact": "abc"},
            {"incident": number[:-1] + "!", "item": item, "contact": "abc"},
        ):
            status, found = await api.ask(None, "POST", "/v1/appeals", body)
            told.append((status, shape(found, item)))
            if status == 200:
                path = f"/v1/appeals/{found['id']}"
                for method, at in (("GET", path), ("POST", f"{path}/check")):
                    status, found = await api.ask(None, method, at)
                    told.append((status, shape(found, item)))
        answers.append(told)
    assert answers[0] == answers[1]
    assert {status for status, _ in answers[0]} == {200, 422}


def shape(found, item):
    """A document without what is of this one item or this one moment."""
    if isinstance(found, dict):
        return {
            key: type(value).__name__
            if key in ("id", "received_at", "txt_value", "file_text")
            else shape(value, item)
            for key, value in found.items()
        }
    if isinstance(found, list):
        return [shape(one, item) for one in found]
    return found.replace(item, "ITEM") if isinstance(found, str) else found


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"incident": "UG-0000"}, 422, "incident"),
        ({"incident": ""}, 422, "incident"),
        ({"incident": "x" * 41}, 422, "incident"),
        ({"incident": "\ud7ff" * 14}, 422, "incident"),
        ({"item": "other.example"}, 422, "incident"),
        ({"item": "nodot"}, 422, "item"),
        ({"item": ""}, 422, "item"),
        ({"item": "http://" + "a" * 8192}, 422, "item"),
        ({"item": "javascript:alert(1)"}, 422, "item"),
        ({"contact": "ab"}, 422, "contact"),
        ({"contact": "a\r\nBcc: all@b.example"}, 422, "contact"),
        ({"contact": "x" * 201}, 422, "contact"),
        ({"text": "x" * 4001}, 422, "text"),
        ({"text": "\u0000"}, 422, "text"),
        ({"rule": "x"}, 422, "rule"),
        ({"text": "<script>alert(1)</script> ' OR 1=1 --\n\t汉字"}, 200, None),
        ({"item": "HTTP://user:pw@WWW.shop.example:80/%2e%2e/x#y"}, 200, None),
    ],
)
async def test_what_is_taken(api, change, status, field):
    """
    What does not fit is told by its field, and nothing of it is kept.
    """
    body = {
        "incident": await api.number("shop.example"),
        "item": "shop.example",
        "contact": "me@shop.example",
        **change,
    }
    got, found = await api.ask(None, "POST", "/v1/appeals", body)
    assert got == status, found
    if field is not None:
        assert found["errors"][0]["field"] == field
    _, page = await api.ask(Role.ADMIN, "GET", "/v1/appeals")
    assert len(page["items"]) == (status == 200)


async def test_an_old_number(api, monkeypatch):
    """
    After 90 days a number is none any more.
    """
    key = incidents.key(api.folder)
    old = incidents.mint(key, "shop.example", time.time() - 92 * DAY)
    body = {"incident": old, "item": "shop.example", "contact": "abc"}
    status, found = await api.ask(None, "POST", "/v1/appeals", body)
    assert (status, found["errors"][0]["field"]) == (422, "incident")


async def test_what_the_public_sees(api):
    """
    Never a rule, a source, a score, a contact or who decided; and nothing under another id.
    """
    api.say("feed:secret-list", "subtree shop.example")
    plea = await api.plead("shop.example", contact="+86 10 5555 0100")
    await api.judge(Role.APPROVER, plea["id"], "reject", reason="inner words", answer="No.")
    _, seen = await api.ask(None, "GET", f"/v1/appeals/{plea['id']}")
    assert set(seen) == {"id", "state", "received_at", "decided_at", "answer", "proof"}
    text = json.dumps(seen)
    for hidden in ("secret-list", "inner words", "5555", "my-approver", "subtree"):
        assert hidden not in text
    assert (await api.ask(None, "GET", "/v1/appeals/other"))[0] == 404
    assert (await api.ask(None, "POST", "/v1/appeals/1/check"))[0] == 404
    assert (await api.ask(None, "GET", f"/v1/appeals/{plea['id']}/file"))[0] == 401


async def test_contacts_are_not_for_auditors(api):
    """
    Who checks decisions needs no telephone number; whoever answers does.
    """
    plea = await api.plead("shop.example")
    for role in Role:
        status, file = await api.ask(role, "GET", f"/v1/appeals/{plea['id']}/file")
        if role in (Role.REPORTER, Role.CRAWLER):
            assert status == 403
        else:
            assert (file["contact"] is None) == (role is Role.AUDITOR)


async def test_pages(api):
    """
    Every appeal once, the proven ones first, whatever the size of a page.
    """
    made = [await api.plead(f"n{n}.example") for n in range(9)]
    for n in (7, 3):
        api.places.records[f"n{n}.example"] = [made[n]["proof"]["txt_value"]]
        await api.ask(None, "POST", f"/v1/appeals/{made[n]['id']}/check")
    seen, cursor = [], ""
    while True:
        _, page = await api.ask(Role.AUDITOR, "GET", f"/v1/appeals?limit=2{cursor}")
        seen += [a["owner"] for a in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert seen == [f"n{n}.example" for n in (3, 7, 0, 1, 2, 4, 5, 6, 8)]
