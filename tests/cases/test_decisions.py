"""Claims and decisions: one holder at a time, decided once, in two steps around a commit."""

import pytest

from tests.cases.conftest import NOW, candidate
from urlguard.cases import priority
from urlguard.cases.model import (
    MAX_PAGE,
    Choice,
    ConflictError,
    Judged,
    MissingError,
    Quota,
    State,
    Step,
)
from urlguard.errors import InputError

BLOCK = Choice("block", "phishing", "a copy of a bank")
DISMISS = Choice("dismiss")
WATCH = Choice("watch")
DAY = 86_400


def decided(harness, ids, who, choice, serial=7, now=NOW):
    """A decision that went through."""
    made = harness.store.begin(ids, who, choice, now)
    return harness.store.finish(made.number, serial, now)


def case(harness, number):
    """A case now."""
    return harness.store.case(number).case


def test_claims_by_priority_and_to_one_only(harness):
    """
    The most urgent first; nobody is handed what another has, until the lease lapses.
    """
    harness.bring("a.example")
    harness.bring("b.example", queries=1000)
    harness.bring("c.example", queries=10)
    first = harness.store.lease("ann", 2, 600, NOW)
    assert [c.name for c in first] == ["b.example", "c.example"]
    assert {(c.state, c.holder, c.lease_expires_at) for c in first} == {
        ("leased", "ann", NOW + 600)
    }
    assert [c.name for c in harness.store.lease("bob", 5, 600, NOW + 1)] == ["a.example"]
    assert harness.store.lease("cyd", 5, 600, NOW + 599) == []
    again = harness.store.lease("cyd", 5, 600, NOW + 600)
    assert [c.name for c in again] == ["b.example", "c.example"]
    assert again[0].priority > again[1].priority


def test_release_and_tidy(harness):
    """
    Given back by the holder alone; time gives back the rest.
    """
    harness.bring("a.example", "b.example")
    mine = [c.id for c in harness.store.lease("ann", 2, 600, NOW)]
    assert harness.store.give_back("bob", mine, NOW) == 0
    assert harness.store.give_back("ann", mine[:1], NOW) == 1
    assert case(harness, mine[0]).state == State.OPEN
    assert harness.store.tidy(NOW + 599) == (0, 0, 0)
    assert harness.store.tidy(NOW + 600) == (1, 0, 0)
    assert case(harness, mine[1]).holder is None


@pytest.mark.parametrize(
    ("choice", "state", "recheck"),
    [
        (BLOCK, "decided", priority.RECHECK_S["phishing"]),
        (Choice("block", "nobody's"), "decided", priority.RECHECK_OTHER_S),
        (Choice("block", expires_at=NOW + 5), "decided", 5),
        (Choice("allow"), "decided", priority.ALLOW_S),
        (WATCH, "decided", priority.WATCH_S),
        (Choice("watch", expires_at=NOW + 5), "decided", 5),
        (DISMISS, "dismissed", None),
    ],
)
def test_decisions(harness, choice, state, recheck):
    """
    Each act has its state, and the day on which somebody looks again.
    """
    harness.bring("a.example")
    (mine,) = harness.store.lease("ann", 1, 600, NOW)
    made = harness.store.begin([mine.id], "ann", choice, NOW)
    assert (made.step, made.evidence(mine.id)) == (Step.BEGUN, f"case:{mine.id}:{made.number}")
    assert case(harness, mine.id).state == State.DECIDING
    assert harness.store.unfinished() == [made]
    done = harness.store.finish(made.number, 7, NOW)
    assert (done.step, done.serial, done.choice) == (Step.DONE, 7, choice)
    now = case(harness, mine.id)
    assert (now.state, now.action, now.holder) == (state, choice.act, None)
    assert now.recheck_at == (None if recheck is None else NOW + recheck)
    assert harness.store.unfinished() == []
    assert harness.store.finish(made.number, 7, NOW + 9) == done  # a second time changes nothing
    with pytest.raises(ConflictError, match="is done"):
        harness.store.finish(made.number, 8, NOW)
    if recheck:
        assert harness.store.tidy(NOW + recheck - 1).due == 0
        assert harness.store.tidy(NOW + recheck).due == 1
        assert harness.store.tidy(NOW + recheck).due == 0
        assert case(harness, mine.id).state == State.OPEN


def test_who_may_decide(harness):
    """
    The holder, or anybody what is open; nobody what is decided, under way or another's.
    """
    harness.bring("a.example", "b.example")
    a, b = (c.id for c in harness.store.lease("ann", 2, 600, NOW))
    with pytest.raises(ConflictError, match=rf"case {a}: 'ann' has it until {NOW + 600}"):
        harness.store.begin([a], "bob", BLOCK, NOW)
    made = harness.store.begin([a], "bob", BLOCK, NOW + 600)  # lapsed
    with pytest.raises(ConflictError, match="is deciding"):
        harness.store.begin([a], "bob", BLOCK, NOW + 600)
    harness.store.finish(made.number, 7, NOW)
    with pytest.raises(ConflictError, match="is decided"):
        harness.store.begin([a], "ann", BLOCK, NOW + 600)
    with pytest.raises(MissingError, match="case 99"):
        harness.store.begin([b, 99], "ann", BLOCK, NOW)
    assert case(harness, b).state == State.OPEN
    for choice in (Choice("hide"), Choice("block", scope="all")):
        with pytest.raises(InputError):
            harness.store.begin([b], "ann", choice, NOW)
    for ids in ([], range(MAX_PAGE + 1)):
        with pytest.raises(InputError):
            harness.store.begin(ids, "ann", BLOCK, NOW)
    for step in (harness.store.finish, harness.store.abort):
        with pytest.raises(MissingError, match="decision 99"):
            step(99, "7", NOW)


def test_all_or_none(harness):
    """
    A campaign of which one case is another's is not decided in part.
    """
    harness.bring("a.example", "b.example", "c.example")
    other = harness.store.lease("bob", 1, 600, NOW)[0].id
    ids = [c.id for c in harness.store.cases().items]
    with pytest.raises(ConflictError):
        harness.store.begin(ids, "ann", BLOCK, NOW)
    assert [c.state for c in harness.store.cases().items].count("open") == 2
    harness.store.give_back("bob", [other], NOW)
    made = decided(harness, [*ids, ids[0]], "ann", BLOCK)
    assert made.cases == tuple(sorted(ids))
    assert {c.state for c in harness.store.cases().items} == {"decided"}


def test_a_key_decides_once(harness):
    """
    A request that is sent again, as after a lost answer, finds what it did.
    """
    harness.bring("a.example", "b.example")
    a, b = sorted(c.id for c in harness.store.cases().items)
    made = harness.store.begin([a], "ann", BLOCK, NOW, key="k")
    assert harness.store.begin([a], "ann", BLOCK, NOW + 1, key="k") == made
    done = harness.store.finish(made.number, 7, NOW)
    assert harness.store.begin([a], "ann", BLOCK, NOW + 1, key="k") == done
    with pytest.raises(ConflictError, match="key 'k'"):
        harness.store.begin([b], "ann", BLOCK, NOW, key="k")
    with pytest.raises(ConflictError, match="key 'k'"):
        harness.store.begin([a], "ann", DISMISS, NOW, key="k")
    assert harness.store.begin([b], "bob", BLOCK, NOW, key="k").number != made.number


def test_abort(harness):
    """
    What the log refused is as it was: the holder has it still, and the request may be made again.
    """
    harness.bring("a.example")
    (mine,) = harness.store.lease("ann", 1, 600, NOW)
    made = harness.store.begin([mine.id], "ann", BLOCK, NOW, key="k")
    gone = harness.store.abort(made.number, "the disk is full", NOW)
    assert (gone.step, gone.remark) == (Step.ABORTED, "the disk is full")
    now = case(harness, mine.id)
    assert (now.state, now.holder, now.action) == ("leased", "ann", None)
    with pytest.raises(ConflictError, match="is aborted"):
        harness.store.finish(made.number, 7, NOW)
    assert harness.store.begin([mine.id], "ann", BLOCK, NOW, key="k").number != made.number


def test_a_second_person(harness):
    """
    A held decision waits for another than the one who made it.
    """
    harness.bring("a.example", "b.example")
    a, b = (c.id for c in harness.store.lease("ann", 2, 600, NOW))
    made = harness.store.begin([a], "ann", BLOCK, NOW)
    assert harness.store.hold(made.number, "a bank", NOW).step == Step.PENDING_APPROVAL
    assert case(harness, a).state == State.PENDING_APPROVAL
    assert harness.store.unfinished() == []
    assert [d.number for d in harness.store.decisions(Step.PENDING_APPROVAL)] == [made.number]
    harness.store.tidy(NOW + DAY)
    assert case(harness, a).state == State.PENDING_APPROVAL  # no lease lapses here
    for forbidden in (
        lambda: harness.store.approve(made.number, "ann", NOW),
        lambda: harness.store.finish(made.number, 7, NOW),
        lambda: harness.store.begin([a], "bob", BLOCK, NOW),
    ):
        with pytest.raises(ConflictError):
            forbidden()
    again = harness.store.approve(made.number, "bob", NOW)
    assert (again.step, again.approver, again.who) == (Step.BEGUN, "bob", "ann")
    harness.store.finish(made.number, 7, NOW)
    assert case(harness, a).state == State.DECIDED
    other = harness.store.begin([b], "ann", BLOCK, NOW + DAY)
    harness.store.hold(other.number, "popular", NOW)
    assert harness.store.reject(other.number, "bob", "it is the real one", NOW).step == Step.ABORTED
    assert (case(harness, b).state, case(harness, b).holder) == ("open", None)


def test_undo(harness):
    """
    In two steps as well; what was decided later must be undone first.
    """
    harness.bring("a.example")
    number = harness.only().id
    made = decided(harness, [number], "ann", BLOCK)
    begun = harness.store.undo(made.number, "bob", "an appeal", NOW + 1)
    assert (begun.step, begun.remark) == (Step.UNDOING, "bob: an appeal")
    assert harness.store.unfinished() == [begun]
    assert harness.store.abort(made.number, "the log is busy", NOW + 2).step == Step.DONE
    assert (case(harness, number).state, case(harness, number).action) == ("decided", "block")
    harness.store.undo(made.number, "bob", "an appeal", NOW + 3)
    gone = harness.store.finish(made.number, 9, NOW + 3)
    assert (gone.step, gone.serial, gone.undo_serial) == (Step.UNDONE, 7, 9)
    assert harness.store.finish(made.number, 9, NOW + 3) == gone
    now = case(harness, number)
    assert (now.state, now.action, now.recheck_at) == ("open", None, None)
    with pytest.raises(ConflictError, match="is undone"):
        harness.store.undo(made.number, "bob", "", NOW)
    second = decided(harness, [number], "ann", WATCH, None)
    harness.store.tidy(NOW + DAY * 30)
    third = decided(harness, [number], "ann", BLOCK)
    with pytest.raises(ConflictError, match="later decision"):
        harness.store.undo(second.number, "bob", "", NOW)
    harness.store.undo(third.number, "bob", "", NOW)
    with pytest.raises(ConflictError, match="is undoing"):
        harness.store.undo(third.number, "bob", "", NOW)


def test_the_story_of_a_case(harness):
    """
    Items, notes, decisions and what became of them, in order.
    """
    harness.bring("www.a.example", "b.a.example")
    number = harness.only().id
    harness.store.note(number, "ann", "looks like\na shop\ud800", NOW)
    made = decided(harness, [number], "ann", BLOCK, now=NOW + 1)
    harness.store.undo(made.number, "bob", "an appeal", NOW + 2)
    harness.store.finish(made.number, 8, NOW + 2)
    file = harness.store.case(number)
    assert [i.item for i in file.items] == ["www.a.example", "b.a.example"]
    assert [(e.at - NOW, e.who, e.what, e.text) for e in file.events] == [
        (0, "ann", "note", "looks like\na shop?"),
        (1, "ann", "decided", "block: a copy of a bank"),
        (2, "ann", "undone", "bob: an appeal"),
    ]
    assert [d.step for d in file.decisions] == [Step.UNDONE]
    assert harness.store.case(99) is None
    with pytest.raises(MissingError):
        harness.store.note(99, "ann", "", NOW)


def test_reputation(harness):
    """
    Right by a block, wrong by an allowance or dismissal; the last decision counts, an undone none,
    and nobody's own report counts for himself.
    """

    def figures():
        return {s.name: (s.right, s.wrong) for s in harness.store.sources()}

    for source in ("x", "y", "ann"):
        harness.store.add(source, [candidate("a.example")], NOW)
    harness.judge()
    number = harness.only().id
    made = decided(harness, [number], "ann", DISMISS)
    assert figures() == {"x": (0, 1), "y": (0, 1), "ann": (0, 0)}
    assert harness.store.source("x").reputation == pytest.approx(2 / 5)
    harness.store.undo(made.number, "bob", "", NOW)
    harness.store.finish(made.number, 8, NOW)
    assert figures() == {"x": (0, 0), "y": (0, 0), "ann": (0, 0)}
    decided(harness, [number], "ann", Choice("allow", expires_at=NOW + 1))
    assert figures() == {"x": (0, 1), "y": (0, 1), "ann": (0, 0)}
    harness.store.tidy(NOW + 1)
    decided(harness, [number], "bob", BLOCK)
    assert figures() == {"x": (1, 0), "y": (1, 0), "ann": (1, 0)}
    harness.store.tidy(NOW + DAY * 365)
    decided(harness, [number], "bob", WATCH)
    assert figures() == {"x": (0, 0), "y": (0, 0), "ann": (0, 0)}


def test_a_good_source_counts_more(harness):
    """
    Of two cases alike, the one of the better source comes first; two sources beat one.
    """
    for n in range(6):
        for source, choice in (("good", BLOCK), ("bad", DISMISS)):
            harness.bring(f"{source}{n}.example", source=source)
            decided(harness, [harness.store.cases(state="open").items[0].id], "ann", choice)
    harness.bring("of-bad.example", source="bad")
    harness.bring("of-good.example", source="good")
    harness.bring("of-both.example", source="bad")
    harness.bring("of-both.example", source="good")
    found = harness.store.lease("ann", 9, 60, NOW)
    assert [c.name for c in found] == ["of-both.example", "of-good.example", "of-bad.example"]


def test_a_verdict_older_than_the_decision_does_not_count(harness):
    """
    An item that was being judged while its case was decided is judged again, not a new reason to
    open the case.
    """
    harness.bring("a.example")
    number = harness.only().id
    harness.store.add("x", [candidate("www.a.example")], NOW + 10)
    (work,) = harness.store.take(5, 60, NOW + 10)
    made = harness.store.begin([number], "ann", BLOCK, NOW + 11)
    stale = Judged(work.id, False, 0.5, "none", "none", "", None)
    assert harness.store.judged([stale], NOW + 11) == 0
    (work,) = harness.store.take(5, 60, NOW + 12)
    harness.store.finish(made.number, 7, NOW + 13)
    assert harness.store.judged([stale], NOW + 13) == 0
    assert case(harness, number).state == State.DECIDED
    assert harness.store.take(5, 60, NOW + 15) == [work]
    assert harness.store.judged([stale._replace(known=True)], NOW + 15) == 1
    assert (case(harness, number).state, case(harness, number).items) == ("decided", 2)


def test_undo_falls_back_on_what_was_decided_before(harness):
    """
    Of block, watch and undoing the watch, the block is left; it can be undone, and counts again.
    """
    harness.bring("a.example")
    number = harness.only().id
    block = decided(harness, [number], "ann", BLOCK)
    assert harness.store.source("crawler").right == 1
    harness.store.tidy(NOW + DAY * 400)
    watch = decided(harness, [number], "ann", WATCH, None)
    assert (case(harness, number).action, harness.store.source("crawler").right) == ("watch", 0)
    harness.store.undo(watch.number, "ann", "", NOW)
    harness.store.finish(watch.number, None, NOW)
    assert (case(harness, number).state, case(harness, number).action) == ("open", "block")
    assert harness.store.source("crawler").right == 1
    harness.store.undo(block.number, "ann", "", NOW)
    harness.store.finish(block.number, 9, NOW)
    assert (case(harness, number).state, case(harness, number).action) == ("open", None)
    assert harness.store.source("crawler").right == 0


def test_a_block_is_undone_though_its_case_was_dismissed_since(harness):
    """
    A decision without rules does not keep the rules of an earlier one in force.
    """
    harness.bring("a.example")
    number = harness.only().id
    block = decided(harness, [number], "ann", BLOCK)
    harness.store.tidy(NOW + DAY * 400)
    dismiss = decided(harness, [number], "ann", Choice("dismiss"), None)
    harness.store.undo(block.number, "ann", "", NOW)
    harness.store.finish(block.number, 9, NOW)
    now = case(harness, number)
    assert (now.state, now.action) == ("open", "dismiss")
    assert harness.store.decision(dismiss.number).step == Step.DONE


def test_what_is_held_beyond_its_time(harness):
    """
    It cannot be agreed to any more, only rejected.
    """
    harness.bring("a.example")
    number = harness.only().id
    held = harness.store.begin([number], "ann", BLOCK._replace(expires_at=NOW + 5), NOW)
    harness.store.hold(held.number, "popular", NOW)
    with pytest.raises(ConflictError, match="time is over"):
        harness.store.approve(held.number, "bob", NOW + 5)
    assert harness.store.reject(held.number, "bob", "", NOW + 5).step == Step.ABORTED
    assert case(harness, number).state == "open"


def test_the_item_of_a_claimed_case_stays(harness):
    """
    Who has it decides what he has seen; its score and rank follow what comes meanwhile.
    """
    harness.bring("shop.example", path="/plain")
    harness.judge(score=0.5)
    (mine,) = harness.store.lease("ann", 1, 60, NOW)
    harness.store.add("crawler", [candidate("shop.example", "/worse")], NOW)
    harness.judge(score=0.9)
    now = case(harness, mine.id)
    assert (now.item, now.score, now.items) == (mine.item, 0.9, 2)
    harness.store.give_back("ann", [mine.id], NOW)
    harness.store.add("crawler", [candidate("shop.example", "/worst")], NOW)
    harness.judge(score=0.95)
    assert case(harness, mine.id).item.endswith("/worst")


def test_a_clock_that_was_ahead(harness):
    """
    What it has dated a year from now waits no longer than anything may: leases, items and quotas.
    """
    ahead, quota = NOW + 365 * DAY, Quota(3600, 100)
    rows = [candidate(f"n{n}.example") for n in range(101)]
    harness.store.add("crawler", rows[:50], ahead, quota=quota)
    harness.judge(now=ahead)
    harness.store.lease("ann", 50, 600, ahead)
    harness.store.add("crawler", rows[50:], ahead, quota=quota)
    assert harness.store.take(100, 60, NOW) == []
    assert harness.store.tidy(NOW) == (50, 0, 51)
    assert len(harness.store.lease("bob", 100, 600, NOW)) == 50
    assert harness.judge(now=NOW) == 51
    assert (
        harness.store.add("crawler", [candidate("later.example")], NOW, quota=quota).accepted == 1
    )
