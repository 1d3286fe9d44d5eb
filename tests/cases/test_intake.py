"""Candidates: taken in once, judged at least once, refused where there is no room."""

import pytest

from tests.cases.conftest import NOW, candidate
from urlguard.cases.model import (
    AGAIN_S,
    MAX_CONTEXT,
    MAX_FAILURES,
    MAX_TAKES,
    Added,
    Candidate,
    FullError,
    Judged,
    Quota,
    QuotaError,
)
from urlguard.errors import InputError

DAY = 86_400


def test_a_batch_is_there_afterwards(harness):
    """
    What was added waits, with all that was said of it, also for whoever opens the store anew.
    """
    rows = [candidate(f"a{n}.example", "/x", context="seen") for n in range(50)]
    assert harness.store.add("crawler", rows, NOW) == Added(50, 0)
    harness.store.close()
    harness.store = harness.open()
    assert harness.store.backlog() == 50
    item = harness.store.item("http://a7.example/x")
    assert (item.state, item.name, item.added_at) == ("waiting", "a7.example", NOW)
    (report,) = item.reports
    assert report == ("crawler", NOW, NOW, "HTTP://A7.EXAMPLE/X", "seen")
    assert harness.store.item("http://a51.example/x") is None


def test_an_item_is_kept_once(harness):
    """
    Twice in a batch, again by the same source, again by another: one item, the rest duplicates.
    """
    one = candidate("a.example")
    assert harness.store.add("x", [one, one, candidate("b.example"), one], NOW) == Added(2, 2)
    assert harness.store.add("x", [one], NOW) == Added(0, 1)
    assert harness.store.add("y", [one, candidate("c.example")], NOW) == Added(1, 1)
    assert harness.store.backlog() == 3
    assert [r.source for r in harness.store.item("a.example").reports] == ["x", "y"]
    x, y = harness.store.sources()
    assert (x.accepted, x.duplicate, x.waiting) == (2, 3, 2)
    assert (y.accepted, y.duplicate, y.waiting) == (1, 1, 1)


def test_what_is_news_is_judged_again(harness):
    """
    Another source is news, and so is the same after a day, and queries; the same at once is not.
    """
    harness.bring("a.example", source="x")
    one = [candidate("a.example")]
    harness.store.add("x", one, NOW + 5)
    assert harness.store.backlog() == 0
    harness.store.add("y", one, NOW + 5)
    assert harness.store.backlog() == 1
    harness.judge(NOW + 6)
    assert harness.only().sources == ("x", "y")
    harness.store.add("y", one, NOW + 7)
    assert harness.store.backlog() == 0
    for source in ("x", "y"):
        harness.store.add(source, one, NOW + 7 + AGAIN_S)
        assert harness.store.backlog() == 1
        assert harness.judge(NOW + 7 + AGAIN_S) == 1
    harness.store.add("x", [candidate("a.example", queries=40)], NOW + 8 + AGAIN_S)
    harness.store.add("x", [candidate("a.example", queries=2)], NOW + 8 + AGAIN_S)
    harness.judge(NOW + 9 + AGAIN_S)
    assert (harness.only().queries, harness.only().items) == (42, 1)
    assert harness.store.item("a.example").queries == 42


def test_queries_raise_the_priority_and_count_once(harness):
    """
    Each report's queries are added up, however often the item is judged.
    """
    harness.bring("a.example", queries=10)
    before = harness.only()
    harness.store.add("resolver", [candidate("a.example", queries=100)], NOW)
    harness.judge()
    harness.store.add("z", [candidate("a.example")], NOW)
    harness.judge()
    assert (before.queries, harness.only().queries) == (10, 110)
    assert harness.only().priority > before.priority + 3


def test_queries_of_one_item_twice_in_a_batch(harness):
    """
    Both count, whether the item is new or not.
    """
    rows = [candidate("a.example", queries=5), candidate("a.example", queries=7)]
    assert harness.store.add("resolver", rows, NOW) == Added(1, 1)
    assert harness.store.item("a.example").queries == 12
    assert harness.store.add("resolver", rows, NOW) == Added(0, 2)
    harness.judge()
    assert (harness.only().queries, harness.store.backlog()) == (24, 0)


def test_odd_text_is_taken(harness):
    """
    Halves of surrogate pairs, zeros, a context without end, times of another age.
    """
    odd = Candidate("a.example", "a.example", "a.example", "x\ud800\0", -5, "c" * 9999, 2**70)
    late = Candidate("b.example", "b.example", "b.example", "b", NOW * 2, "\udfff", 0)
    assert harness.store.add("x", [odd, late], NOW) == Added(2, 0)
    assert harness.store.add("y", [odd, late], NOW) == Added(0, 2)
    item = harness.store.item("a.example")
    assert (item.seen_at, len(item.reports[0].context)) == (0, MAX_CONTEXT)
    assert item.reports[0].raw == "x?\0"
    assert harness.store.item("b.example").seen_at == NOW  # nobody has seen it tomorrow
    harness.judge()
    assert len(harness.store.cases().items) == 2


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 101])
def test_a_source_has_a_name(harness, name):
    """
    One that a list can show.
    """
    with pytest.raises(InputError, match="source"):
        harness.store.add(name, [candidate("a.example")], NOW)


def test_invalid_ones_are_only_counted(harness):
    """
    A batch of nothing but junk leaves a trace of its source.
    """
    assert harness.store.add("x", [], NOW, invalid=7) == Added(0, 0)
    source = harness.store.source("x")
    assert (source.invalid, source.accepted, source.first_at) == (7, 0, NOW)
    assert harness.store.source("y") is None


def test_full(limited):
    """
    No source may fill it, all together may; what was judged makes room.
    """
    rows = [candidate(f"a{n}.example") for n in range(30)]
    limited.add("x", rows[:6], NOW)
    with pytest.raises(FullError, match=r"of this source.*at most 5") as caught:
        limited.add("x", rows[6:7], NOW)
    assert caught.value.wait_s == 7.0
    limited.add("y", rows[10:14], NOW)
    with pytest.raises(FullError, match="10 candidates wait; at most 10"):
        limited.add("z", rows[20:21], NOW)
    assert limited.source("z") is None  # nothing of what was refused is left
    assert limited.add("z", [], NOW, invalid=1) == Added(0, 0)  # asks for no room
    works = limited.take(3, 60, NOW)
    limited.judged([Judged(w.id, True, None, "block", "blocklist", "", None) for w in works], NOW)
    assert limited.add("z", rows[20:21], NOW) == Added(1, 0)


def test_quota(harness):
    """
    A bucket: full at first, may be overdrawn by one batch, and fills with time.
    """
    quota = Quota(per_hour=3600, burst=100)
    rows = [candidate(f"a{n}.example") for n in range(400)]
    harness.store.add("x", rows[:90], NOW, quota=quota)
    harness.store.add("x", rows[90:140], NOW, quota=quota)  # 10 are left: 40 too many
    with pytest.raises(QuotaError, match="again in 41 s") as caught:
        harness.store.add("x", rows[140:141], NOW, quota=quota)
    assert caught.value.wait_s == 41
    with pytest.raises(QuotaError):
        harness.store.add("x", rows[140:141], NOW + 40, quota=quota)
    assert harness.store.add("x", rows[140:141], NOW + 41, quota=quota).accepted == 1
    assert harness.store.add("y", rows[200:300], NOW, quota=quota).accepted == 100
    # However long it waits, no more than the burst is saved up.
    harness.store.add("y", rows[300:399], NOW + 30 * DAY, quota=quota)
    harness.store.add("y", rows[300:302], NOW + 30 * DAY, quota=quota)
    with pytest.raises(QuotaError):
        harness.store.add("y", rows[300:301], NOW + 30 * DAY, quota=quota)


def test_take_in_order_and_urgent_first(harness):
    """
    First come, first served; a person's report overtakes a crawler's.
    """
    harness.store.add("crawler", [candidate(f"a{n}.example") for n in range(5)], NOW)
    harness.store.add("analyst", [candidate("urgent.example")], NOW + 1, urgent=True)
    taken = [w.item for w in harness.store.take(3, 60, NOW + 2)]
    assert taken == ["urgent.example", "a0.example", "a1.example"]
    rest = [w.item for w in harness.store.take(9, 60, NOW + 2)]
    assert rest == ["a2.example", "a3.example", "a4.example"]
    assert harness.store.take(9, 60, NOW + 2) == []


def test_a_lease_lapses(harness):
    """
    What was taken and never heard of again is taken again; the first result counts.
    """
    harness.store.add("x", [candidate("a.example")], NOW)
    (first,) = harness.store.take(5, 60, NOW)
    assert harness.store.take(5, 60, NOW + 59) == []
    (second,) = harness.store.take(5, 60, NOW + 60)
    assert first == second
    found = Judged(first.id, False, 0.9, "none", "none", "name-1", None)
    assert harness.store.judged([found, found._replace(score=0.1)], NOW + 61) == 1
    assert harness.store.judged([found._replace(score=0.1)], NOW + 62) == 0
    assert harness.only().score == 0.9
    assert harness.store.backlog() == 0


def test_dead_letters(harness):
    """
    After some failures an item is left alone, with its error; somebody may have it tried again.
    """
    harness.store.add("x", [candidate("a.example"), candidate("b.example")], NOW)
    bad, good = harness.store.take(5, 60, NOW)
    harness.store.judged([Judged(good.id, False, 0.5, "none", "none", "", None)], NOW)
    at = NOW
    for attempt in range(1, MAX_FAILURES + 1):
        assert harness.store.failed([bad.id], f"broken {attempt}", at) == (attempt == MAX_FAILURES)
        assert harness.store.take(5, 60, at + 1) == []  # not at once
        at += DAY
        assert len(harness.store.take(5, 60, at)) == (attempt < MAX_FAILURES)
    (item,) = harness.store.dead()
    assert (item.item, item.state, item.error) == ("a.example", "dead", f"broken {MAX_FAILURES}")
    assert (harness.store.backlog(), harness.store.source("x").dead) == (0, 1)
    harness.store.add("y", [candidate("a.example")], at)  # does not wake it
    assert harness.store.backlog() == 0
    assert harness.store.retry([item.id, 999], at) == 1
    assert harness.store.dead() == []
    assert harness.judge(at + DAY) == 1
    assert harness.store.source("x").dead == 0


def test_an_item_that_nobody_ever_judges_is_dead_at_last(harness):
    """
    Each lease lapses: whoever took it was killed by it, perhaps.
    """
    harness.store.add("x", [candidate("a.example")], NOW)
    for n in range(MAX_TAKES):
        assert len(harness.store.take(5, 60, NOW + 60 * n)) == 1
    assert harness.store.take(5, 60, NOW + 60 * MAX_TAKES) == []
    assert "taken" in harness.store.dead()[0].error
    assert harness.store.backlog() == 0


def test_counts_of_a_source(harness):
    """
    What became of a crawler's candidates adds up.
    """
    harness.store.add("x", [candidate(f"a{n}.example") for n in range(4)], NOW, invalid=1)
    works = harness.store.take(3, 60, NOW)
    results = [Judged(w.id, n == 0, 0.5, "none", "none", "", None) for n, w in enumerate(works[:2])]
    harness.store.judged(results, NOW)
    source = harness.store.source("x")
    assert (source.accepted, source.invalid, source.waiting) == (4, 1, 2)
    assert (source.known, source.opened, source.dead) == (1, 1, 0)
    assert source.reputation == 0.5


def test_one_that_does_not_fit_takes_no_others_with_it(harness):
    """
    Half of a surrogate pair in the middle of a batch: those before and behind it wait as well.
    """
    rows = [candidate(f"n{n}.example") for n in range(9)]
    rows[4] = rows[4]._replace(context="\ud800")
    assert harness.store.add("x", rows, NOW) == (9, 0)
    assert harness.store.backlog() == 9
    assert harness.judge() == 9
