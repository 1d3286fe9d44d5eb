"""Submissions and webhooks in a store: what is told, to whom, and what a crash leaves."""

import json

import pytest

from tests.cases.conftest import NOW, candidate
from urlguard.cases import webhooks
from urlguard.cases.model import Choice, ConflictError, Judged, Quota, QuotaError
from urlguard.cases.submissions import DAY_S, PUBLIC, Evidence, Pseudonyms, Submission, new_id

HOOK = ("https://hook.example/", webhooks.EVENTS, "whsec_x", "admin")


def submission(source="li.na", **more):
    """What somebody sends."""
    said = Submission(
        new_id(),
        source,
        source == PUBLIC,
        None,
        "seen in an SMS",
        (Evidence("sms", "hi"),),
        "amber",
    )
    return said._replace(**more)


def submit(harness, name, now=NOW, **more):
    """Keep one; its ID."""
    said = submission(**more)
    harness.store.submit(said, candidate(name), now)
    return said.id


def decide(harness, case, act="block", now=NOW + 10):
    """Decide a case; the decision."""
    made = harness.store.begin([case], "ana", Choice(act, "phishing"), now)
    return harness.store.finish(made.number, 7, now)


def state(harness, ident):
    """State and decision."""
    found = harness.store.submission(ident)
    return found.state, found.action


def letters(harness, now=NOW + 1000):
    """The messages that are due, read."""
    due = harness.store.letters(now, 100)
    return [json.loads(letter.body) for number in sorted(due) for letter in due[number]]


def test_from_the_first_word_to_the_last(harness):
    """
    Queued, open, decided, and open again when the decision is undone.
    """
    ident = submit(harness, "evil.example")
    assert state(harness, ident) == ("queued", None)
    harness.judge()
    assert state(harness, ident) == ("open", None)
    made = decide(harness, harness.only().id)
    found = harness.store.submission(ident)
    assert (found.state, found.action, found.decided_at) == ("decided", "block", NOW + 10)
    assert found.by_people
    assert (found.item, found.source, found.evidence) == (
        *("evil.example", "li.na"),
        (Evidence("sms", "hi"),),
    )
    undone = harness.store.undo(made.number, "ana", "mistake", NOW + 20)
    harness.store.finish(undone.number, 8, NOW + 20)
    assert state(harness, ident) == ("open", None)
    assert harness.store.submission("nobody's") is None
    assert harness.store.submission("\ud800") is None


def test_an_aborted_decision_tells_nobody(harness):
    """
    Until the log has it, nothing is decided.
    """
    harness.store.add_webhook(*HOOK, NOW)
    ident = submit(harness, "evil.example")
    harness.judge()
    made = harness.store.begin([harness.only().id], "ana", Choice("block"), NOW + 10)
    assert state(harness, ident) == ("open", None)
    harness.store.abort(made.number, "the disk is full", NOW + 10)
    assert state(harness, ident) == ("open", None)
    assert letters(harness) == []


def test_a_rule_that_stands(harness):
    """
    It is known at once, or else when it was judged; and by the way no work for people.
    """
    told = submit(harness, "evil.example", action="block")
    assert state(harness, told) == ("known", "block")
    untold = submit(harness, "evil.example")
    works = harness.store.take(10, 60, NOW)
    rows = [Judged(w.id, True, None, "block", "blocklist", "", None) for w in works]
    harness.store.judged(rows, NOW + 1)
    assert state(harness, untold) == ("known", "block")
    assert not harness.store.submission(untold).by_people
    assert harness.only().state == "known"


def test_what_a_model_says_is_no_decision(harness):
    """
    Also if it would block.
    """
    ident = submit(harness, "evil.example")
    works = harness.store.take(10, 60, NOW)
    harness.store.judged([Judged(works[0].id, False, 0.99, "block", "classifier", "n", None)], NOW)
    assert state(harness, ident) == ("open", None)


@pytest.mark.parametrize("act", ["allow", "dismiss", "watch", "block"])
def test_a_case_that_is_decided_already(harness, act):
    """
    A later submission that opens nothing again is decided as its case is, and its sender told.
    """
    harness.bring("evil.example", source="li.na")
    decide(harness, harness.only().id, act)
    harness.store.add_webhook(*HOOK, NOW)
    ident = submit(harness, "evil.example", now=NOW + 20)
    assert state(harness, ident) == ("queued", None)
    harness.judge(now=NOW + 20, known=act == "block")
    assert state(harness, ident)[1] == act
    (message,) = letters(harness)
    assert (message["data"]["id"], message["data"]["action"]) == (ident, act)


@pytest.mark.parametrize("act", ["allow", "dismiss", "watch", "block"])
@pytest.mark.parametrize("later_s", [10, 20, 4000])
def test_what_strangers_are_not_told(harness, act, later_s):
    """
    What was decided before a stranger submits, or in the same second, is for the staff alone;
    what people decide afterwards is told.
    """
    submit(harness, "evil.example", source=PUBLIC)
    harness.judge()
    made = decide(harness, harness.only().id, act)
    now = NOW + later_s
    ident = submit(harness, "evil.example", now=now, source=PUBLIC)
    for at in (now, now + 5):  # in the same second it may be too old
        harness.judge(now=at, known=act in ("allow", "block"))
    found = harness.store.submission(ident)
    assert (found.action, found.by_people) == (act, False)
    undone = harness.store.undo(made.number, "ana", "mistake", now + 9)
    harness.store.finish(undone.number, 8, now + 9)
    assert not harness.store.submission(ident).by_people
    decide(harness, harness.only().id, act, now + 9)
    assert harness.store.submission(ident).by_people


def test_a_strangers_item_that_is_new_to_its_case(harness):
    """
    Decided before it was judged, but after it came: that is told.
    """
    submit(harness, "evil.example", source=PUBLIC)
    harness.judge()
    ident = submit(harness, "www.evil.example", source=PUBLIC)
    decide(harness, harness.only().id, "dismiss")
    harness.judge(now=NOW + 30)
    assert harness.store.submission(ident).by_people


def test_it_is_judged_before_what_crawlers_bring(harness):
    """
    Also if a crawler has brought it before.
    """
    harness.store.add("crawler", [candidate(f"n{n}.example") for n in range(5)], NOW)
    submit(harness, "n4.example")
    assert harness.store.take(1, 60, NOW)[0].item == "n4.example"
    assert harness.store.backlog() == 5
    harness.judge()
    submit(harness, "n2.example", source="crawler")  # the same source, the same day
    assert harness.store.backlog() == 2  # with the one that was taken


def test_quotas(harness):
    """
    Over its quota a source keeps nothing: neither the submission nor the candidate.
    """
    quota = Quota(3600, 1)
    harness.store.submit(submission(), candidate("a.example"), NOW, quota)
    said = submission()
    with pytest.raises(QuotaError):
        harness.store.submit(said, candidate("b.example"), NOW, quota)
    assert harness.store.submission(said.id) is None
    assert harness.store.item("b.example") is None


def test_lists(harness):
    """
    The newest first, of one source or of all.
    """
    ids = [submit(harness, f"n{n}.example", source="ab"[n % 2]) for n in range(6)]
    page = harness.store.submissions(limit=4)
    assert [one.id for _, one in page] == ids[:1:-1]
    assert [one.id for _, one in harness.store.submissions(before=page[-1][0])] == ids[1::-1]
    assert [one.id for _, one in harness.store.submissions("a")] == ids[4::-2]


def test_what_is_too_long(harness):
    """
    Texts are cut, and halves of surrogate pairs are replaced.
    """
    ident = submit(harness, "a.example", comment="\ud800" + "x" * 5000)
    assert len(harness.store.submission(ident).comment) == 2000


# -- webhooks --------------------------------------------------------------------------------------


def test_each_webhook_gets_what_it_wants(harness):
    """
    A message for each submission, in the transaction that decides; another decision is news again.
    """
    store = harness.store
    both = store.add_webhook(*HOOK, NOW)
    store.add_webhook("https://b.example/", (webhooks.UNDONE,), "whsec_y", "admin", NOW)
    ids = [submit(harness, "evil.example", source=source) for source in ("a", PUBLIC)]
    harness.judge()
    made = decide(harness, harness.only().id)
    store.finish(made.number, 7, NOW + 11)  # a second time
    due = store.letters(NOW + 10, 100)
    assert list(due) == [both.number]
    bodies = [json.loads(letter.body) for letter in due[both.number]]
    assert [body["data"]["id"] for body in bodies] == ids
    assert bodies[0] == {
        "type": "submission.decided",
        "timestamp": "2026-09-21T14:13:30Z",
        "data": {
            "id": ids[0],
            "item": "evil.example",
            "source": "a",
            "tlp": "amber",
            "submitted_at": "2026-09-21T14:13:20Z",
            "state": "decided",
            "action": "block",
            "decided_at": "2026-09-21T14:13:30Z",
            "case": 1,
        },
    }
    undone = store.undo(made.number, "ana", "mistake", NOW + 20)
    store.finish(undone.number, 8, NOW + 20)
    decide(harness, harness.only().id, "allow", NOW + 30)
    said = [(m["type"], m["data"]["action"]) for m in letters(harness)]
    assert said.count(("submission.decided", "allow")) == 2
    assert said.count(("submission.undone", None)) == 4


def test_deliveries(harness):
    """
    What has arrived is gone; what has not is due later; what is given up is counted.
    """
    store = harness.store
    hook = store.add_webhook(*HOOK, NOW)
    for n in range(3):
        submit(harness, f"n{n}.example")
    harness.judge()
    for case in store.cases().items:
        decide(harness, case.id)
    first, second, third = store.letters(NOW + 10, 100)[hook.number]
    store.delivered(first.number, NOW + 11)
    store.undelivered(second.number, "status 500", NOW + 100)
    store.undelivered(third.number, "status 410", None)
    store.delivered(first.number, NOW + 12)  # a second time
    assert store.letters(NOW + 99, 100) == {}
    (again,) = store.letters(NOW + 100, 100)[hook.number]
    assert (again.id, again.tries) == (second.id, 1)
    (told,) = store.webhooks()
    assert (told.delivered, told.given_up, told.waiting, told.last_delivered_at) == (
        1,
        1,
        1,
        NOW + 11,
    )
    assert told.error == "status 410"
    assert store.remove_webhook(hook.id)
    assert not store.remove_webhook(hook.id)
    assert store.letters(NOW + 999, 100) == {}


def test_not_too_many(harness, monkeypatch):
    """
    Webhooks are few, and what waits for one has an end.
    """
    for _ in range(webhooks.MAX_WEBHOOKS):
        harness.store.add_webhook(*HOOK, NOW)
    with pytest.raises(ConflictError, match="20 webhooks"):
        harness.store.add_webhook(*HOOK, NOW)
    monkeypatch.setattr(webhooks, "MAX_OUTBOX", 1)
    submit(harness, "a.example")
    submit(harness, "a.example")
    harness.judge()
    decide(harness, harness.only().id)
    assert {(one.waiting, one.given_up) for one in harness.store.webhooks()} == {(1, 1)}


# -- the file --------------------------------------------------------------------------------------


def test_a_decision_about_many_items_finds_its_submissions(harness):
    """
    By an index of each table, however many items a case has.
    """
    submit(harness, "a.evil.example")
    plan = harness.store.plan(
        "SELECT s.number FROM items i CROSS JOIN submissions s ON s.item = i.id"
        " WHERE i.case_id IN (SELECT value FROM json_each('[1]'))"
    )
    assert not [line for line in plan if line.startswith(("SCAN i", "SCAN s"))]


def test_no_address_on_disk(harness):
    """
    A public sender's network is there under a name of the day.
    """
    names = Pseudonyms()
    today = names.of("192.0.2.77", NOW)
    assert names.of("192.0.2.77", NOW + 60) == today != names.of("192.0.2.78", NOW)
    assert names.of("192.0.2.77", NOW + DAY_S) != today
    assert Pseudonyms().of("192.0.2.77", NOW) != today
    submit(harness, "a.example", source=PUBLIC, network=today)
    harness.store.close()
    for path in harness.folder.iterdir():
        assert b"192.0.2.77" not in path.read_bytes()
    harness.store = harness.open()
