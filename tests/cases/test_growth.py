"""What opens a case again, and what does not; how cases are ranked; what campaigns share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cases.conftest import NOW, candidate
from urlguard import names
from urlguard.cases import priority
from urlguard.cases.campaigns import pattern
from urlguard.cases.model import Choice

LATER = NOW + 1000


def settled(harness, choice):
    """A case of one item and one source, decided."""
    harness.bring("a.example", source="x")
    made = harness.store.begin([harness.only().id], "ann", choice, NOW + 1)
    harness.store.finish(made.number, 7, NOW + 1)


ALLOW, WATCH, DISMISS = Choice("allow"), Choice("watch"), Choice("dismiss")
BLOCK = Choice("block")


@pytest.mark.parametrize(
    ("choice", "name", "source", "score", "known", "why"),
    [
        (DISMISS, "www.a.example", "x", 0.55, False, None),
        (DISMISS, "www.a.example", "x", 0.65, False, "a worse item"),
        (DISMISS, "www.a.example", "x", None, False, None),
        (DISMISS, "www.a.example", "y", 0.1, False, "another source reports it"),
        (DISMISS, "a.example", "y", 0.5, False, "another source reports it"),
        (DISMISS, "a.example", "y", 0.9, True, None),
        (WATCH, "www.a.example", "x", 0.5, False, None),
        (WATCH, "www.a.example", "x", 0.9, False, "a worse item"),
        (ALLOW, "www.a.example", "x", 0.5, False, None),
        (ALLOW, "www.a.example", "y", 0.5, False, "another source reports it"),
        (BLOCK, "www.a.example", "x", 0.9, True, None),
        (BLOCK, "www.a.example", "x", 0.1, False, "an item that the block does not cover"),
    ],
)
def test_what_opens_a_case_again(harness, choice, name, source, score, known, why):
    """
    More than people knew, and nothing less.
    """
    settled(harness, choice)
    harness.store.add(source, [candidate(name)], LATER)
    assert harness.judge(LATER, score, known) == 1
    now = harness.only()
    assert now.state == ("open" if why else "dismissed" if choice is DISMISS else "decided")
    events = harness.store.case(now.id).events
    assert [e.text for e in events if e.what == "reopened"] == ([why] if why else [])
    assert now.action == choice.act  # what stands in the log stands


def test_known(harness):
    """
    A rule covers it: nobody's work, until something turns up that no rule covers.
    """
    harness.store.add("x", [candidate("a.example")], NOW)
    harness.judge(known=True)
    assert (harness.only().state, harness.store.source("x").known) == ("known", 1)
    assert harness.store.lease("ann", 9, 60, NOW) == []
    harness.bring("www.a.example", source="x")
    assert (harness.only().state, harness.only().items) == ("open", 2)
    assert (harness.store.source("x").known, harness.store.source("x").opened) == (1, 1)


def test_the_worst_item_stands_for_the_case(harness):
    """
    And its score counts, in whatever order they come.
    """
    for name, score in (("b.a.example", 0.2), ("c.a.example", 0.9), ("d.a.example", None)):
        harness.store.add("x", [candidate(name)], NOW)
        harness.judge(score=score)
    assert (harness.only().item, harness.only().score, harness.only().items) == (
        "c.a.example",
        0.9,
        3,
    )
    assert [i.item[0] for i in harness.store.case(harness.only().id).items] == ["c", "b", "d"]


def test_many_items_of_one_owner_at_once(harness):
    """
    One batch of results, one case.
    """
    harness.bring(*(f"n{n}.a.example" for n in range(90)), queries=2)
    assert (harness.only().items, harness.only().queries, harness.only().sources) == (
        90,
        180,
        ("crawler",),
    )


figures = st.tuples(
    st.integers(0, 10**9),
    st.floats(0.01, 1),
    st.lists(st.floats(0.05, 0.95), min_size=1, max_size=5),
    st.integers(NOW - 10**8, NOW),
)


@given(figures)
def test_rank_rises_with_all_that_makes_it_urgent(figures):
    """
    Twice the victims, or a week later: one more.
    """
    queries, score, trust, seen_at = figures
    here = priority.rank(queries, score, trust, seen_at)
    about = pytest.approx(here + 1, abs=0.11)
    assert priority.rank(2 * queries + 1, score, trust, seen_at) == about
    assert priority.rank(queries, score, trust + trust, seen_at) == about
    assert priority.rank(queries, score, trust, seen_at + priority.HALF_LIFE_S) == about
    assert priority.rank(queries, score / 2, trust, seen_at) <= here
    assert priority.rank(queries, None, trust, seen_at) == priority.rank(
        queries, priority.UNSCORED, trust, seen_at
    )


def test_rank_of_little():
    """
    One possible victim on the day from which ranks count: nothing; a query more: one.
    """
    assert priority.rank(0, 1.0, [0.5, 0.5], priority.EPOCH) == 0
    assert priority.rank(1, 1.0, [0.5, 0.5], priority.EPOCH) == 1
    assert priority.rank(0, 0.0, [], priority.EPOCH) < -15


def test_reputation_is_smoothed():
    """
    Between nothing and one, never either; one decision moves it a little.
    """
    assert priority.reputation(0, 0) == 0.5
    assert priority.reputation(1, 0) == pytest.approx(0.6)
    assert 0.99 < priority.reputation(1000, 0) < 1
    assert 0 < priority.reputation(0, 1000) < 0.01


@pytest.mark.parametrize(
    ("item", "owner", "wanted"),
    [
        ("icbc-95588.top", "icbc-95588.top", "icbc-0.top"),
        ("www.icbc-95533.top", "icbc-95533.top", "icbc-0.top"),
        ("http://m.icbc-1.top/a", "icbc-1.top", "icbc-0.top"),
        ("pay7a8.co.uk", "pay7a8.co.uk", "pay0a0.co.uk"),
        ("shop12.pages.dev", "shop12.pages.dev", "shop0.pages.dev"),
        ("123456.com", "123456.com", None),
        ("a1.com", "a1.com", None),
        ("example.com", "example.com", None),
        ("xn--fiq228c5hs3.cn", "xn--fiq228c5hs3.cn", None),
        ("localhost1", "localhost1", None),
        (
            "http://a.com/Track/5521/pay.php?id=7&x=1",
            "a.com",
            "*/track/0/pay.php?id,x",
        ),
        ("http://192.0.2.1/track/5521/pay.php", "192.0.2.1", "*/track/0/pay.php"),
        ("http://a.com/index.php?id=7", "a.com", None),
        ("http://a.com/1/2/3", "a.com", None),
        ("http://a.com", "a.com", None),
    ],
)
def test_pattern(item, owner, wanted):
    """
    Numbered names and long paths; nothing that half of the backend shares.
    """
    assert pattern(item, owner) == wanted


@given(st.text(), st.text())
def test_pattern_of_anything(item, owner):
    """
    Whatever it is given, it is short or none.
    """
    assert len(pattern(item, owner) or "") <= 200


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a.b.example.com", "example.com"),
        ("example.co.uk", "example.co.uk"),
        ("co.uk", "co.uk"),
        ("x.y.me.pages.dev", "me.pages.dev"),
        ("me.free-sites.example", "me.free-sites.example"),
        ("www.me.free-sites.example", "me.free-sites.example"),
        ("free-sites.example", "free-sites.example"),
    ],
)
def test_owner(name, wanted):
    """
    Who gets a case of his own.
    """
    assert names.owner(name, frozenset({"free-sites.example"})) == wanted
