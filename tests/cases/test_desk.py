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


def decided(desk, ids, who, choice, serial=7, now=NOW):
    """A decision that went through."""
    made = desk.store.begin(ids, who, choice, now)
    return desk.store.finish(made.number, serial, now)


def case(desk, number):
    """A case now."""
    return desk.store.case(number).case


def test_claims_by_priority_and_to_one_only(desk):
    """
    The most urgent first; nobody is handed what another has, until the lease lapses.
    """
    desk.bring("a.example")
    desk.bring("b.example", queries=1000)
    desk.bring("c.example", queries=10)
    first = desk.store.claim("ann", 2, 600, NOW)
    assert [c.name for c in first] == ["b.example", "c.example"]
    assert {(c.state, c.holder, c.lease_until) for c in first} == {("leased", "ann", NOW + 600)}
    assert [c.name for c in desk.store.claim("bob", 5, 600, NOW + 1)] == ["a.example"]
    assert desk.store.claim("cyd", 5, 600, NOW + 599) == []
    again = desk.store.claim("cyd", 5, 600, NOW + 600)
    assert [c.name for c in again] == ["b.example", "c.example"]
    assert again[0].priority > again[1].priority


def test_release_and_tidy(desk):
    """
    Given back by the holder alone; time gives back the rest.
    """
    desk.bring("a.example", "b.example")
    mine = [c.id for c in desk.store.claim("ann", 2, 600, NOW)]
    assert desk.store.release("bob", mine, NOW) == 0
    assert desk.store.release("ann", mine[:1], NOW) == 1
    assert case(desk, mine[0]).state == State.OPEN
    assert desk.store.tidy(NOW + 599) == (0, 0, 0)
    assert desk.store.tidy(NOW + 600) == (1, 0, 0)
    assert case(desk, mine[1]).holder is None


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
def test_decisions(desk, choice, state, recheck):
    """
    Each act has its state, and the day on which somebody looks again.
    """
    desk.bring("a.example")
    (mine,) = desk.store.claim("ann", 1, 600, NOW)
    made = desk.store.begin([mine.id], "ann", choice, NOW)
    assert (made.step, made.evidence(mine.id)) == (Step.BEGUN, f"case:{mine.id}:{made.number}")
    assert case(desk, mine.id).state == State.DECIDING
    assert desk.store.unfinished() == [made]
    done = desk.store.finish(made.number, 7, NOW)
    assert (done.step, done.serial, done.choice) == (Step.DONE, 7, choice)
    now = case(desk, mine.id)
    assert (now.state, now.action, now.holder) == (state, choice.act, None)
    assert now.recheck_at == (None if recheck is None else NOW + recheck)
    assert desk.store.unfinished() == []
    assert desk.store.finish(made.number, 7, NOW + 9) == done  # a second time changes nothing
    with pytest.raises(ConflictError, match="is done"):
        desk.store.finish(made.number, 8, NOW)
    if recheck:
        assert desk.store.tidy(NOW + recheck - 1).due == 0
        assert desk.store.tidy(NOW + recheck).due == 1
        assert desk.store.tidy(NOW + recheck).due == 0
        assert case(desk, mine.id).state == State.OPEN


def test_who_may_decide(desk):
    """
    The holder, or anybody what is open; nobody what is decided, under way or another's.
    """
    desk.bring("a.example", "b.example")
    a, b = (c.id for c in desk.store.claim("ann", 2, 600, NOW))
    with pytest.raises(ConflictError, match=rf"case {a}: 'ann' has it until {NOW + 600}"):
        desk.store.begin([a], "bob", BLOCK, NOW)
    made = desk.store.begin([a], "bob", BLOCK, NOW + 600)  # lapsed
    with pytest.raises(ConflictError, match="is deciding"):
        desk.store.begin([a], "bob", BLOCK, NOW + 600)
    desk.store.finish(made.number, 7, NOW)
    with pytest.raises(ConflictError, match="is decided"):
        desk.store.begin([a], "ann", BLOCK, NOW + 600)
    with pytest.raises(MissingError, match="case 99"):
        desk.store.begin([b, 99], "ann", BLOCK, NOW)
    assert case(desk, b).state == State.OPEN
    for choice in (Choice("hide"), Choice("block", scope="all")):
        with pytest.raises(InputError):
            desk.store.begin([b], "ann", choice, NOW)
    for ids in ([], range(MAX_PAGE + 1)):
        with pytest.raises(InputError):
            desk.store.begin(ids, "ann", BLOCK, NOW)
    for step in (desk.store.finish, desk.store.abort):
        with pytest.raises(MissingError, match="decision 99"):
            step(99, "7", NOW)


def test_all_or_none(desk):
    """
    A campaign of which one case is another's is not decided in part.
    """
    desk.bring("a.example", "b.example", "c.example")
    other = desk.store.claim("bob", 1, 600, NOW)[0].id
    ids = [c.id for c in desk.store.cases().items]
    with pytest.raises(ConflictError):
        desk.store.begin(ids, "ann", BLOCK, NOW)
    assert [c.state for c in desk.store.cases().items].count("open") == 2
    desk.store.release("bob", [other], NOW)
    made = decided(desk, [*ids, ids[0]], "ann", BLOCK)
    assert made.cases == tuple(sorted(ids))
    assert {c.state for c in desk.store.cases().items} == {"decided"}


def test_a_key_decides_once(desk):
    """
    A request that is sent again, as after a lost answer, finds what it did.
    """
    desk.bring("a.example", "b.example")
    a, b = sorted(c.id for c in desk.store.cases().items)
    made = desk.store.begin([a], "ann", BLOCK, NOW, key="k")
    assert desk.store.begin([a], "ann", BLOCK, NOW + 1, key="k") == made
    done = desk.store.finish(made.number, 7, NOW)
    assert desk.store.begin([a], "ann", BLOCK, NOW + 1, key="k") == done
    with pytest.raises(ConflictError, match="key 'k'"):
        desk.store.begin([b], "ann", BLOCK, NOW, key="k")
    with pytest.raises(ConflictError, match="key 'k'"):
        desk.store.begin([a], "ann", DISMISS, NOW, key="k")
    assert desk.store.begin([b], "bob", BLOCK, NOW, key="k").number != made.number


def test_abort(desk):
    """
    What the log refused is as it was: the holder has it still, and the request may be made again.
    """
    desk.bring("a.example")
    (mine,) = desk.store.claim("ann", 1, 600, NOW)
    made = desk.store.begin([mine.id], "ann", BLOCK, NOW, key="k")
    gone = desk.store.abort(made.number, "the disk is full", NOW)
    assert (gone.step, gone.remark) == (Step.ABORTED, "the disk is full")
    now = case(desk, mine.id)
    assert (now.state, now.holder, now.action) == ("leased", "ann", None)
    with pytest.raises(ConflictError, match="is aborted"):
        desk.store.finish(made.number, 7, NOW)
    assert desk.store.begin([mine.id], "ann", BLOCK, NOW, key="k").number != made.number


def test_a_second_person(desk):
    """
    A held decision waits for another than the one who made it.
    """
    desk.bring("a.example", "b.example")
    a, b = (c.id for c in desk.store.claim("ann", 2, 600, NOW))
    made = desk.store.begin([a], "ann", BLOCK, NOW)
    assert desk.store.hold(made.number, "a bank", NOW).step == Step.PENDING_APPROVAL
    assert case(desk, a).state == State.PENDING_APPROVAL
    assert desk.store.unfinished() == []
    assert [d.number for d in desk.store.decisions(Step.PENDING_APPROVAL)] == [made.number]
    desk.store.tidy(NOW + DAY)
    assert case(desk, a).state == State.PENDING_APPROVAL  # no lease lapses here
    for forbidden in (
        lambda: desk.store.approve(made.number, "ann", NOW),
        lambda: desk.store.finish(made.number, 7, NOW),
        lambda: desk.store.begin([a], "bob", BLOCK, NOW),
    ):
        with pytest.raises(ConflictError):
            forbidden()
    again = desk.store.approve(made.number, "bob", NOW)
    assert (again.step, again.approver, again.who) == (Step.BEGUN, "bob", "ann")
    desk.store.finish(made.number, 7, NOW)
    assert case(desk, a).state == State.DECIDED
    other = desk.store.begin([b], "ann", BLOCK, NOW + DAY)
    desk.store.hold(other.number, "popular", NOW)
    assert desk.store.reject(other.number, "bob", "it is the real one", NOW).step == Step.ABORTED
    assert (case(desk, b).state, case(desk, b).holder) == ("open", None)


def test_undo(desk):
    """
    In two steps as well; what was decided later must be undone first.
    """
    desk.bring("a.example")
    number = desk.only().id
    made = decided(desk, [number], "ann", BLOCK)
    begun = desk.store.undo(made.number, "bob", "an appeal", NOW + 1)
    assert (begun.step, begun.remark) == (Step.UNDOING, "bob: an appeal")
    assert desk.store.unfinished() == [begun]
    assert desk.store.abort(made.number, "the log is busy", NOW + 2).step == Step.DONE
    assert (case(desk, number).state, case(desk, number).action) == ("decided", "block")
    desk.store.undo(made.number, "bob", "an appeal", NOW + 3)
    gone = desk.store.finish(made.number, 9, NOW + 3)
    assert (gone.step, gone.serial, gone.undo_serial) == (Step.UNDONE, 7, 9)
    assert desk.store.finish(made.number, 9, NOW + 3) == gone
    now = case(desk, number)
    assert (now.state, now.action, now.recheck_at) == ("open", None, None)
    with pytest.raises(ConflictError, match="is undone"):
        desk.store.undo(made.number, "bob", "", NOW)
    second = decided(desk, [number], "ann", WATCH, None)
    desk.store.tidy(NOW + DAY * 30)
    third = decided(desk, [number], "ann", BLOCK)
    with pytest.raises(ConflictError, match="later decision"):
        desk.store.undo(second.number, "bob", "", NOW)
    desk.store.undo(third.number, "bob", "", NOW)
    with pytest.raises(ConflictError, match="is undoing"):
        desk.store.undo(third.number, "bob", "", NOW)


def test_the_story_of_a_case(desk):
    """
    Items, notes, decisions and what became of them, in order.
    """
    desk.bring("www.a.example", "b.a.example")
    number = desk.only().id
    desk.store.note(number, "ann", "looks like\na shop\ud800", NOW)
    made = decided(desk, [number], "ann", BLOCK, now=NOW + 1)
    desk.store.undo(made.number, "bob", "an appeal", NOW + 2)
    desk.store.finish(made.number, 8, NOW + 2)
    file = desk.store.case(number)
    assert [i.item for i in file.items] == ["www.a.example", "b.a.example"]
    assert [(e.at - NOW, e.who, e.what, e.text) for e in file.events] == [
        (0, "ann", "note", "looks like\na shop?"),
        (1, "ann", "decided", "block: a copy of a bank"),
        (2, "ann", "undone", "bob: an appeal"),
    ]
    assert [d.step for d in file.decisions] == [Step.UNDONE]
    assert desk.store.case(99) is None
    with pytest.raises(MissingError):
        desk.store.note(99, "ann", "", NOW)


def test_reputation(desk):
    """
    Right by a block, wrong by an allowance or dismissal; the last decision counts, an undone none,
    and nobody's own report counts for himself.
    """

    def figures():
        return {s.name: (s.right, s.wrong) for s in desk.store.sources()}

    for source in ("x", "y", "ann"):
        desk.store.add(source, [candidate("a.example")], NOW)
    desk.judge()
    number = desk.only().id
    made = decided(desk, [number], "ann", DISMISS)
    assert figures() == {"x": (0, 1), "y": (0, 1), "ann": (0, 0)}
    assert desk.store.source("x").reputation == pytest.approx(2 / 5)
    desk.store.undo(made.number, "bob", "", NOW)
    desk.store.finish(made.number, 8, NOW)
    assert figures() == {"x": (0, 0), "y": (0, 0), "ann": (0, 0)}
    decided(desk, [number], "ann", Choice("allow", expires_at=NOW + 1))
    assert figures() == {"x": (0, 1), "y": (0, 1), "ann": (0, 0)}
    desk.store.tidy(NOW + 1)
    decided(desk, [number], "bob", BLOCK)
    assert figures() == {"x": (1, 0), "y": (1, 0), "ann": (1, 0)}
    desk.store.tidy(NOW + DAY * 365)
    decided(desk, [number], "bob", WATCH)
    assert figures() == {"x": (0, 0), "y": (0, 0), "ann": (0, 0)}


def test_a_good_source_counts_more(desk):
    """
    Of two cases alike, the one of the better source comes first; two sources beat one.
    """
    for n in range(6):
        for source, choice in (("good", BLOCK), ("bad", DISMISS)):
            desk.bring(f"{source}{n}.example", source=source)
            decided(desk, [desk.store.cases(state="open").items[0].id], "ann", choice)
    desk.bring("of-bad.example", source="bad")
    desk.bring("of-good.example", source="good")
    desk.bring("of-both.example", source="bad")
    desk.bring("of-both.example", source="good")
    found = desk.store.claim("ann", 9, 60, NOW)
    assert [c.name for c in found] == ["of-both.example", "of-good.example", "of-bad.example"]


def test_a_verdict_older_than_the_decision_does_not_count(desk):
    """
    An item that was being judged while its case was decided is judged again, not a new reason to
    open the case.
    """
    desk.bring("a.example")
    number = desk.only().id
    desk.store.add("x", [candidate("www.a.example")], NOW + 10)
    (work,) = desk.store.take(5, 60, NOW + 10)
    made = desk.store.begin([number], "ann", BLOCK, NOW + 11)
    stale = Judged(work.id, False, 0.5, "none", "none", "", None)
    assert desk.store.judged([stale], NOW + 11) == 0
    (work,) = desk.store.take(5, 60, NOW + 12)
    desk.store.finish(made.number, 7, NOW + 13)
    assert desk.store.judged([stale], NOW + 13) == 0
    assert case(desk, number).state == State.DECIDED
    assert desk.store.take(5, 60, NOW + 15) == [work]
    assert desk.store.judged([stale._replace(known=True)], NOW + 15) == 1
    assert (case(desk, number).state, case(desk, number).items) == ("decided", 2)


def test_undo_falls_back_on_what_was_decided_before(desk):
    """
    Of block, watch and undoing the watch, the block is left; it can be undone, and counts again.
    """
    desk.bring("a.example")
    number = desk.only().id
    block = decided(desk, [number], "ann", BLOCK)
    assert desk.store.source("crawler").right == 1
    desk.store.tidy(NOW + DAY * 400)
    watch = decided(desk, [number], "ann", WATCH, None)
    assert (case(desk, number).action, desk.store.source("crawler").right) == ("watch", 0)
    desk.store.undo(watch.number, "ann", "", NOW)
    desk.store.finish(watch.number, None, NOW)
    assert (case(desk, number).state, case(desk, number).action) == ("open", "block")
    assert desk.store.source("crawler").right == 1
    desk.store.undo(block.number, "ann", "", NOW)
    desk.store.finish(block.number, 9, NOW)
    assert (case(desk, number).state, case(desk, number).action) == ("open", None)
    assert desk.store.source("crawler").right == 0


def test_a_block_is_undone_though_its_case_was_dismissed_since(desk):
    """
    A decision without rules does not keep the rules of an earlier one in force.
    """
    desk.bring("a.example")
    number = desk.only().id
    block = decided(desk, [number], "ann", BLOCK)
    desk.store.tidy(NOW + DAY * 400)
    dismiss = decided(desk, [number], "ann", Choice("dismiss"), None)
    desk.store.undo(block.number, "ann", "", NOW)
    desk.store.finish(block.number, 9, NOW)
    now = case(desk, number)
    assert (now.state, now.action) == ("open", "dismiss")
    assert desk.store.decision(dismiss.number).step == Step.DONE


def test_what_is_held_beyond_its_time(desk):
    """
    It cannot be agreed to any more, only rejected.
    """
    desk.bring("a.example")
    number = desk.only().id
    held = desk.store.begin([number], "ann", BLOCK._replace(expires_at=NOW + 5), NOW)
    desk.store.hold(held.number, "popular", NOW)
    with pytest.raises(ConflictError, match="time is over"):
        desk.store.approve(held.number, "bob", NOW + 5)
    assert desk.store.reject(held.number, "bob", "", NOW + 5).step == Step.ABORTED
    assert case(desk, number).state == "open"


def test_the_item_of_a_claimed_case_stays(desk):
    """
    Who has it decides what he has seen; its score and rank follow what comes meanwhile.
    """
    desk.bring("shop.example", path="/plain")
    desk.judge(score=0.5)
    (mine,) = desk.store.claim("ann", 1, 60, NOW)
    desk.store.add("crawler", [candidate("shop.example", "/worse")], NOW)
    desk.judge(score=0.9)
    now = case(desk, mine.id)
    assert (now.item, now.score, now.items) == (mine.item, 0.9, 2)
    desk.store.release("ann", [mine.id], NOW)
    desk.store.add("crawler", [candidate("shop.example", "/worst")], NOW)
    desk.judge(score=0.95)
    assert case(desk, mine.id).item.endswith("/worst")


def test_a_clock_that_was_ahead(desk):
    """
    What it has dated a year from now waits no longer than anything may: leases, items and quotas.
    """
    ahead, quota = NOW + 365 * DAY, Quota(3600, 100)
    rows = [candidate(f"n{n}.example") for n in range(101)]
    desk.store.add("crawler", rows[:50], ahead, quota=quota)
    desk.judge(now=ahead)
    desk.store.claim("ann", 50, 600, ahead)
    desk.store.add("crawler", rows[50:], ahead, quota=quota)
    assert desk.store.take(100, 60, NOW) == []
    assert desk.store.tidy(NOW) == (50, 0, 51)
    assert len(desk.store.claim("bob", 100, 600, NOW)) == 50
    assert desk.judge(now=NOW) == 51
    assert desk.store.add("crawler", [candidate("later.example")], NOW, quota=quota).accepted == 1
