"""Cases over HTTP: claimed, looked at, decided, held, approved and undone."""

import asyncio
import time

import pytest

from urlguard.access.roles import Role
from urlguard.api.schemas import utc

BLOCK = {"action": "block", "category": "phishing", "reason": "ticket 7"}


@pytest.fixture
def ask(http, backend):
    """Status and document of a request in a role."""

    async def asked(role, method, path, body=None, **headers):
        more = {"json": body} if body is not None else {}
        async with http.request(
            method, backend.base + path, headers=backend.head(role, **headers), **more
        ) as answer:
            return answer.status, await answer.json(content_type=None)

    return asked


async def test_from_the_queue_to_a_rule(backend, ask):
    """
    An analyst takes the most urgent case, sees what was reported, and blocks it under his name.
    """
    await backend.bring(
        "http://login.evil.example/a", "http://login.evil.example/b", "mild.example"
    )
    status, page = await ask(Role.AUDITOR, "GET", "/v1/cases?state=open")
    assert status == 200
    assert {c["owner"] for c in page["items"]} == {"evil.example", "mild.example"}
    status, claimed = await ask(Role.ANALYST, "POST", "/v1/cases/lease", {"count": 1})
    (case,) = claimed["items"]
    assert case["state"] == "leased"
    assert case["lease_expires_at"] > utc(time.time() + 800)
    status, whole = await ask(Role.ANALYST, "GET", f"/v1/cases/{case['id']}")
    assert whole["holder"] == "my-analyst"
    assert whole["sources"] == ["crawler-1"]
    assert {i["item"] for i in whole["reported"]}
    status, done = await ask(Role.ANALYST, "POST", f"/v1/cases/{case['id']}/decide", BLOCK)
    assert (status, done["pending_approval"]) == (200, False)
    claim = backend.log.store.active("analyst:my-analyst", f"subtree {case['owner']}")
    assert (claim.action, claim.category, claim.from_serial) == (
        "block",
        "phishing",
        done["serial"],
    )
    assert claim.evidence == f"case:{case['id']}:{done['decision_id']}"
    status, whole = await ask(Role.ANALYST, "GET", f"/v1/cases/{case['id']}")
    assert (whole["state"], whole["action"]) == ("decided", "block")
    assert whole["recheck_at"] > utc(time.time() + 179 * 86_400)
    assert whole["decisions"][0]["serial"] == done["serial"]
    assert [e["type"] for e in whole["events"]][-1] == "decided"


@pytest.mark.parametrize(
    ("item", "more", "key"),
    [
        ("http://a.evil.example/x?y=1", {}, "subtree evil.example"),
        ("http://a.evil.example/x?y=1", {"scope": "url"}, "url a.evil.example/x?y=1"),
        ("a.evil.example", {"scope": "url"}, "domain a.evil.example"),
        ("http://192.0.2.7/x/y", {}, "url 192.0.2.7/"),
        ("http://[2001:db8::1]/x", {}, "url [2001:db8::1]/"),
        ("http://192.0.2.7/x/y", {"scope": "url"}, "url 192.0.2.7/x/y"),
        ("http://a.pages.dev/x", {}, "subtree a.pages.dev"),
    ],
)
async def test_what_a_decision_covers(backend, ask, item, more, key):
    """
    A domain is its owner's name and all below; of an address its URLs; a URL is that URL alone.
    """
    (case,) = (await backend.bring(item)).values()
    for act in ("block", "allow"):
        body = {"action": act, **more}
        status, done = await ask(Role.ANALYST, "POST", f"/v1/cases/{case}/decide", body)
        assert status == 200
        assert backend.log.store.active("analyst:my-analyst", key).action == act
        await ask(Role.ANALYST, "POST", f"/v1/decisions/{done['decision_id']}/undo", {})
        assert backend.log.store.active("analyst:my-analyst", key) is None


async def test_chosen_urls_of_a_case(backend, ask):
    """
    Of several URLs those that are named are meant; what is not of the case is refused.
    """
    urls = [f"http://shop.example/{n}" for n in range(3)]
    (case,) = (await backend.bring(*urls)).values()
    path = f"/v1/cases/{case}/decide"
    wrong = {"action": "block", "scope": "url", "items": ["http://other.example/"]}
    status, problem = await ask(Role.ANALYST, "POST", path, wrong)
    assert (status, problem["errors"][0]["field"]) == (422, "items")
    right = {"action": "block", "scope": "url", "items": urls[:2]}
    assert (await ask(Role.ANALYST, "POST", path, right))[0] == 200
    standing = [backend.log.store.active("analyst:my-analyst", f"url {u[7:]}") for u in urls]
    assert [bool(claim) for claim in standing] == [True, True, False]
    assert backend.log.store.active("analyst:my-analyst", "subtree shop.example") is None


async def test_a_well_known_name_waits_for_a_second_person(backend, ask):
    """
    Nothing is in force until somebody else agrees; who decided cannot, nor can an analyst.
    """
    cases = await backend.bring("http://www.google.com/", "http://x.gov.cn/")
    path = f"/v1/cases/{cases['google.com']}/decide"
    serial = backend.log.serial
    status, done = await ask(Role.APPROVER, "POST", path, BLOCK)
    assert (status, done["pending_approval"], done["serial"]) == (200, True, serial)
    assert "google.com" in done["approval_reason"]
    assert backend.log.serial == serial
    status, held = await ask(Role.AUDITOR, "GET", "/v1/decisions?step=pending_approval")
    assert [d["id"] for d in held["items"]] == [done["decision_id"]]
    word = f"/v1/decisions/{done['decision_id']}"
    assert (await ask(Role.ANALYST, "POST", f"{word}/approve", {}))[0] == 403
    status, problem = await ask(Role.APPROVER, "POST", f"{word}/approve", {})
    assert status == 409
    assert "another must approve" in problem["detail"]
    status, agreed = await ask(Role.ADMIN, "POST", f"{word}/approve", {})
    assert (status, agreed["pending_approval"]) == (200, False)
    assert agreed["serial"] > serial
    claim = backend.log.store.active("analyst:my-approver", "subtree google.com")
    assert claim.action == "block"
    (batch,) = backend.log.store.batches(serial, 10)
    assert batch.actor == "my-approver, my-admin"


async def test_a_held_decision_taken_back(backend, ask):
    """
    Rejected, its case is open again; an analyst rejects his own and nobody else's.
    """
    (case,) = (await backend.bring("http://www.google.com/")).values()
    path = f"/v1/cases/{case}/decide"
    _, done = await ask(Role.APPROVER, "POST", path, BLOCK)
    word = f"/v1/decisions/{done['decision_id']}/reject"
    assert (await ask(Role.ANALYST, "POST", word, {"reason": "no"}))[0] == 403
    assert (await ask(Role.ADMIN, "POST", word, {"reason": "no"}))[0] == 200
    _, whole = await ask(Role.ANALYST, "GET", f"/v1/cases/{case}")
    assert whole["state"] == "open"
    assert whole["decisions"][0]["step"] == "aborted"
    _, done = await ask(Role.ANALYST, "POST", path, BLOCK)
    own = f"/v1/decisions/{done['decision_id']}/reject"
    assert (await ask(Role.ANALYST, "POST", own, {}))[0] == 200


async def test_a_campaign_in_one_decision(backend, ask):
    """
    All its open cases in one batch, and undone as one; somebody else's case is left out.
    """
    await backend.bring(*(f"icbc-{n}.example" for n in range(100, 120)), "other.example")
    _, page = await ask(Role.ANALYST, "GET", "/v1/cases?campaign=icbc-0.example")
    assert len(page["items"]) == 20
    _, claimed = await ask(Role.APPROVER, "POST", "/v1/cases/lease", {"count": 1})
    theirs = claimed["items"][0]["owner"].startswith("icbc")
    body = {"campaign": "icbc-0.example", **BLOCK}
    before = backend.log.serial
    status, done = await ask(Role.ANALYST, "POST", "/v1/cases/decide", body)
    assert (status, done["serial"]) == (200, before + 1)
    _, made = await ask(Role.ANALYST, "GET", f"/v1/decisions/{done['decision_id']}")
    assert len(made["cases"]) == len(made["rules"]) == 20 - theirs
    undo = f"/v1/decisions/{done['decision_id']}/undo"
    assert (await ask(Role.ADMIN, "POST", undo, {"reason": "a mistake"}))[0] == 200
    assert backend.log.serial == before + 2
    assert list(backend.log.store.active_after("analyst:my-analyst", "", 100)) == []
    _, page = await ask(Role.ANALYST, "GET", "/v1/cases?campaign=icbc-0.example&state=open")
    assert len(page["items"]) == 20 - theirs
    assert (await ask(Role.ADMIN, "POST", undo, {}))[0] == 409


async def test_undoing_brings_back_what_was_said_before(backend, ask):
    """
    A rule that the decision replaced stands again, with its own category and reason.
    """
    (case,) = (await backend.bring("http://evil.example/")).values()
    rule = {"rule": "evil.example", "category": "scam", "reason": "old"}
    await ask(Role.ANALYST, "POST", "/v1/rules", rule)
    _, done = await ask(Role.ANALYST, "POST", f"/v1/cases/{case}/decide", {"action": "allow"})
    assert backend.log.store.active("analyst:my-analyst", "subtree evil.example").action == "allow"
    await ask(Role.ANALYST, "POST", f"/v1/decisions/{done['decision_id']}/undo", {})
    claim = backend.log.store.active("analyst:my-analyst", "subtree evil.example")
    assert (claim.action, claim.category, claim.evidence) == ("block", "scam", "old")


async def test_the_same_request_again(backend, ask):
    """
    Under one key a decision is made once, also where the first answer was lost before it was kept.
    """
    (case,) = (await backend.bring("http://evil.example/")).values()
    path = f"/v1/cases/{case}/decide"
    head = {"Idempotency-Key": "k1"}
    first = await ask(Role.ANALYST, "POST", path, BLOCK, **head)
    assert first[0] == 200
    (backend.folder / "api.db").unlink(missing_ok=True)
    again = await ask(Role.ANALYST, "POST", path, BLOCK, **head)
    assert again == first
    assert (await ask(Role.ANALYST, "POST", path, BLOCK))[0] == 409


async def test_what_cannot_be_decided(backend, ask):
    """
    A case in other hands, one that is not there, a field too many: told, and nothing is done.
    """
    (case,) = (await backend.bring("http://evil.example/")).values()
    await ask(Role.APPROVER, "POST", "/v1/cases/lease", {"count": 5})
    serial = backend.log.serial
    for path, body, expected in (
        (f"/v1/cases/{case}/decide", BLOCK, 409),
        ("/v1/cases/999/decide", BLOCK, 404),
        ("/v1/cases/999", None, 404),
        (f"/v1/cases/{case}/decide", {"action": "bless"}, 422),
        (f"/v1/cases/{case}/decide", {"action": "allow", "category": "x"}, 422),
        (f"/v1/cases/{case}/decide", {**BLOCK, "expires_at": 5}, 422),
        (f"/v1/cases/{case}/decide", {**BLOCK, "items": ["http://evil.example/"]}, 422),
        ("/v1/cases/decide", BLOCK, 422),
        ("/v1/cases/decide", {**BLOCK, "ids": [case], "campaign": "x"}, 422),
        ("/v1/cases/decide", {**BLOCK, "campaign": "none"}, 409),
    ):
        method = "GET" if body is None else "POST"
        assert (await ask(Role.ANALYST, method, path, body))[0] == expected, (path, body)
    assert backend.log.serial == serial


async def test_a_log_that_fails(backend, ask):
    """
    The case is as before, and the same request works once the log can be written.
    """
    from urlguard.errors import PolicyError

    (case,) = (await backend.bring("http://evil.example/")).values()
    backend.error = PolicyError("policy log: disk full")
    path = f"/v1/cases/{case}/decide"
    status, problem = await ask(Role.ANALYST, "POST", path, BLOCK)
    assert (status, problem["detail"]) == (503, "policy log: disk full")
    backend.error = None
    _, whole = await ask(Role.ANALYST, "GET", f"/v1/cases/{case}")
    assert whole["state"] == "open"
    assert (await ask(Role.ANALYST, "POST", path, BLOCK))[0] == 200


async def test_notes_and_giving_back(backend, ask):
    """
    What somebody writes stands in the case; what he gives back others may take.
    """
    (case,) = (await backend.bring("http://evil.example/")).values()
    await ask(Role.ANALYST, "POST", "/v1/cases/lease", {"count": 5})
    note = {"text": "the shop's owner called"}
    assert (await ask(Role.APPROVER, "POST", f"/v1/cases/{case}/notes", note))[0] == 200
    assert (await ask(Role.APPROVER, "POST", "/v1/cases/999/notes", note))[0] == 404
    assert (await ask(Role.APPROVER, "POST", "/v1/cases/return", {"ids": [case]}))[1] == {
        "returned": 0
    }
    assert (await ask(Role.ANALYST, "POST", "/v1/cases/return", {"ids": [case]}))[1] == {
        "returned": 1
    }
    _, whole = await ask(Role.AUDITOR, "GET", f"/v1/cases/{case}")
    assert ("my-approver", "note", note["text"]) in [
        (e["actor"], e["type"], e["text"]) for e in whole["events"]
    ]


async def test_pages(backend, ask):
    """
    Every case once, in the order of priority, whatever the size of a page.
    """
    await backend.bring(*(f"n{n}-{'abcdefghij'[n % 10]}x.example" for n in range(30)))
    seen, cursor = [], ""
    while True:
        _, page = await ask(Role.ANALYST, "GET", f"/v1/cases?limit=7{cursor}")
        seen += [c["id"] for c in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert len(seen) == len(set(seen)) == 30
    status, _ = await ask(Role.ANALYST, "GET", "/v1/cases?cursor=xxxx")
    assert status == 422
    status, page = await ask(Role.ANALYST, "GET", "/v1/cases?q=n1-")
    assert [c["owner"] for c in page["items"]] == ["n1-bx.example"]


async def test_racing_analysts(backend, ask):
    """
    Twenty requests about one case: one decides it, the others are told so.
    """
    (case,) = (await backend.bring("http://evil.example/")).values()
    path = f"/v1/cases/{case}/decide"
    done = await asyncio.gather(
        *(ask(Role.ANALYST, "POST", path, {"action": act}) for act in ("block", "allow") * 10)
    )
    assert sorted(status for status, _ in done) == [200] + [409] * 19


async def test_a_block_that_would_have_no_effect(backend, ask):
    """
    Somebody else allows it, and among people allow comes first: told, and nothing is pretended.
    """
    rule = {"rule": "flip.example", "action": "allow", "reason": "ticket 4"}
    _, allowed = await ask(Role.ANALYST, "POST", "/v1/rules", rule)
    await ask(Role.ANALYST, "POST", "/v1/rules", {"rule": "*.other.example", "action": "allow"})
    cases = await backend.bring("http://new.example/")
    serial = backend.log.serial
    status, problem = await ask(Role.APPROVER, "POST", "/v1/rules", {"rule": "flip.example"})
    assert status == 409
    assert "analyst:my-analyst allows it since batch 1 (ticket 4)" in problem["detail"]
    await ask(Role.ANALYST, "POST", "/v1/rules", {"rule": "new.example", "action": "allow"})
    path = f"/v1/cases/{cases['new.example']}/decide"
    status, problem = await ask(Role.APPROVER, "POST", path, BLOCK)
    assert (status, "allows it since" in problem["detail"]) == (409, True)
    _, whole = await ask(Role.ANALYST, "GET", f"/v1/cases/{cases['new.example']}")
    assert whole["state"] == "open"
    assert backend.log.serial == serial + 1
    # His own word he may change; and once the allowance ends, others may block.
    assert (await ask(Role.ANALYST, "POST", "/v1/rules", {"rule": "new.example"}))[0] == 200
    await ask(Role.ANALYST, "DELETE", f"/v1/rules/{allowed['id']}")
    assert (await ask(Role.APPROVER, "POST", "/v1/rules", {"rule": "flip.example"}))[0] == 200


async def test_an_allowance_that_came_while_a_block_was_held(backend, ask):
    """
    Nobody agrees to a block any more that would have no effect.
    """
    (case,) = (await backend.bring("http://www.google.com/")).values()
    _, held = await ask(Role.ANALYST, "POST", f"/v1/cases/{case}/decide", BLOCK)
    await ask(Role.ADMIN, "POST", "/v1/rules", {"rule": "google.com", "action": "allow"})
    path = f"/v1/decisions/{held['decision_id']}/approve"
    status, problem = await ask(Role.APPROVER, "POST", path, {})
    assert (status, "operator allows it" in problem["detail"]) == (409, True)
    _, made = await ask(Role.ANALYST, "GET", f"/v1/decisions/{held['decision_id']}")
    assert made["step"] == "pending_approval"


@pytest.mark.parametrize(
    ("rule", "action", "held"),
    [
        ("*.la", "allow", True),
        ("com", "allow", True),
        ("cn", "review", True),
        ("gov.cn", "allow", True),
        ("keyword:google", "allow", True),
        ("google.com", "allow", False),
        ("www.google.com", "review", False),
        ("shop.la", "allow", False),
        ("https://google.com/x", "allow", False),
    ],
)
async def test_an_allowance_of_others_names_waits(backend, ask, rule, action, held):
    """
    One person does not switch off all lists below a public suffix.
    """
    body = {"rule": rule, "action": action}
    status, made = await ask(Role.ANALYST, "POST", "/v1/rules", body)
    assert status == 200
    assert (made["decision"] is not None) is held
    assert (backend.log.serial == 0) is held
    if held:
        path = f"/v1/decisions/{made['decision']['decision_id']}/approve"
        assert (await ask(Role.APPROVER, "POST", path, {}))[0] == 200
        (claim,) = backend.log.store.active_after("analyst:my-analyst", "", 10)
        assert claim.action == action
