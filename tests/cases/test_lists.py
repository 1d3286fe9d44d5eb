"""Lists of cases: filters, orders, pages; each a walk along an index."""

import pytest

from tests.cases.conftest import NOW, candidate
from urlguard.cases.drivers.sqlite.lists import page_query
from urlguard.cases.model import Choice, Judged
from urlguard.errors import InputError


def pages(harness, limit, **filters):
    """All pages together."""
    names, after = [], None
    while True:
        page = harness.store.cases(after=after, limit=limit, **filters)
        assert len(page.items) <= limit
        names += [case.name for case in page.items]
        if page.next is None:
            return names
        assert len(page.items) == limit
        after = page.next


@pytest.fixture
def filled(harness):
    """Twenty cases: even ones of another source too, some decided, some alike in priority."""
    rows = [candidate(f"n{n:02}.example", queries=n // 4) for n in range(20)]
    harness.store.add("crawler", rows, NOW)
    harness.judge()
    harness.bring(*(f"n{n:02}.example" for n in range(0, 20, 2)), source="other", now=NOW + 1)
    ids = [c.id for c in harness.store.cases(limit=100).items if c.name < "n05"]
    made = harness.store.begin(ids, "ann", Choice("dismiss"), NOW)
    harness.store.finish(made.number, None, NOW)
    return harness


@pytest.mark.parametrize("limit", [1, 7, 1000])
@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"state": "open"},
        {"state": "dismissed"},
        {"source": "other"},
        {"source": "other", "state": "open"},
        {"source": "nobody"},
        {"query": "n1"},
        {"query": " N1 ", "source": "other"},
        {"query": "n07.example"},
        {"campaign": "none"},
    ],
)
def test_pages_make_the_whole(filled, filters, limit):
    """
    Whatever the pages' size, each case that fits comes once, in order.
    """
    for order in ("priority", "newest"):
        every = filled.store.cases(limit=100, order=order).items
        key = (lambda c: (-c.priority, c.id)) if order == "priority" else (lambda c: -c.id)
        assert every == sorted(every, key=key)
        query = filters.get("query", "").strip().lower()
        fitting = [
            case
            for case in every
            if filters.get("state", case.state) == case.state
            and filters.get("source", "crawler") in case.sources
            and case.owner.startswith(query)
            and "campaign" not in filters
        ]
        if query:
            fitting.sort(key=lambda case: case.owner)
        names = [case.name for case in fitting]
        assert pages(filled, limit, order=order, **filters) == names


def test_a_sources_list_follows_the_priority(filled):
    """
    What becomes more urgent by one source's word moves up in the other's list too.
    """
    filled.bring("n08.example", source="third", queries=10**6)
    assert filled.store.cases().items[0].name == "n08.example"
    for source in ("crawler", "other", "third"):
        assert pages(filled, 3, source=source)[0] == "n08.example"


def test_query_finds_an_item(harness):
    """
    The URL that somebody complains of leads to the case.
    """
    harness.store.add("x", [candidate("www.a.example", "/login"), candidate("b.example")], NOW)
    harness.judge()
    (case,) = harness.store.cases(query="http://www.a.example/login").items
    assert case.owner == "a.example"
    for odd in ("%", "_", "'", "\ud800", "\0", "\U0010ffff", "x" * 99999):
        assert harness.store.cases(query=odd).items == []
    assert len(harness.store.cases(query="").items) == 2


@pytest.mark.parametrize(
    "cursor", ["", "x", "1", "1:x", "nan", "1:-5", f"1:{2**64}", "::", "1:1:1"]
)
def test_a_cursor_is_looked_at(harness, cursor):
    """
    What is no cursor is an error, whatever it is.
    """
    with pytest.raises(InputError, match="cursor"):
        harness.store.cases(after=cursor)


def test_an_order_is_looked_at(harness):
    """
    There are two.
    """
    with pytest.raises(InputError, match="order"):
        harness.store.cases(order="place; DROP TABLE cases")
    with pytest.raises(InputError, match="order"):
        harness.store.cases(order="owner")


def test_a_campaign_is_two_at_least(harness):
    """
    A pattern that nobody shares is none; once shared, both show it, and it can be listed.
    """

    def judge(score):
        for work in harness.store.take(10, 60, NOW):
            found = Judged(work.id, False, score, "none", "none", "", "icbc-0.example")
            harness.store.judged([found], NOW)

    harness.store.add("x", [candidate("icbc-1.example")], NOW)
    judge(0.5)
    assert harness.only().campaign is None
    harness.bring("other.example")
    harness.store.add("x", [candidate("icbc-2.example")], NOW)
    judge(0.9)
    found = harness.store.cases(campaign="icbc-0.example").items
    assert [(c.name, c.campaign) for c in found] == [
        ("icbc-2.example", "icbc-0.example"),
        ("icbc-1.example", "icbc-0.example"),
    ]


@pytest.mark.parametrize("after", [None, (1.5, 7)])
@pytest.mark.parametrize("order", ["priority", "newest"])
@pytest.mark.parametrize(
    "filters",
    [{}, {"state": "open"}, {"source": 1}, {"source": 1, "state": "open"}, {"campaign": "x"}],
)
def test_no_list_sorts_or_reads_all(harness, filters, order, after):
    """
    SQLite's own plan: along an index, from where the last page ended, without sorting.
    """
    for n in range(3):
        harness.bring(f"n{n}.example")
    sql, values = page_query(order=order, after=after, **filters)
    plan = harness.store.plan(sql, {**values, "limit": 50})
    if "campaign" in filters and order == "newest":
        assert any("USING INDEX cases_pattern" in step for step in plan)  # sorts one campaign
        return
    assert not [step for step in plan if "TEMP B-TREE" in step]
    scans = [step for step in plan if step.startswith("SCAN c")]
    assert not scans or (not filters and after is None)


def test_plan_of_claim_and_tidy(harness):
    """
    The same for what analysts' clients ask all the time.
    """
    for sql in (
        "SELECT id FROM cases WHERE state = 'open' ORDER BY place, id LIMIT 5",
        "SELECT 1 FROM cases WHERE state = 'leased' AND lease_expires_at <= 5",
        "SELECT 1 FROM cases WHERE recheck_at <= 5",
        "SELECT item FROM queue WHERE bulk = 1 AND due <= 5 ORDER BY due, item LIMIT 5",
        "SELECT id FROM items WHERE error IS NOT NULL AND id > 5 ORDER BY id LIMIT 5",
    ):
        (step,) = harness.store.plan(sql)
        assert "USING" in step
        assert "INDEX" in step or "PRIMARY KEY" in step
