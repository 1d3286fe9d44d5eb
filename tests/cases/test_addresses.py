"""Addresses of cases: whose names are looked up, and which cases one address connects."""

import time

import pytest

from tests.cases.conftest import NOW, candidate
from urlguard.cases import addresses
from urlguard.cases.addresses import AGAIN_S, MAX_SHARED, RETRY_S
from urlguard.cases.drivers.sqlite.addresses import DUE, WAITING
from urlguard.cases.drivers.sqlite.lists import page_query
from urlguard.cases.model import Choice, Judged


def waiting(harness, now=NOW, count=100):
    """Names that are to be looked up."""
    return [name for _, name in harness.store.unaddressed(count, now)]


def found(harness, now=NOW, **by_name):
    """Hand in addresses, by the names' first labels."""
    ids = {case.name.partition(".")[0]: case.id for case in harness.store.cases(limit=1000).items}
    harness.store.addressed({ids[name]: address for name, address in by_name.items()}, now)


def campaigns(harness):
    """What lists show, by the names' first labels."""
    cases = harness.store.cases(limit=1000).items
    return {case.name.partition(".")[0]: case.campaign for case in cases}


def names_of(harness, campaign, **filters):
    """The names of a campaign, as lists have them."""
    page = harness.store.cases(campaign=campaign, limit=1000, **filters)
    return [case.name for case in page.items]


def test_the_most_urgent_are_looked_up_first(harness):
    """
    Open and claimed cases wait by priority, until somebody says what came of them.
    """
    rows = [candidate(f"n{n}.example", queries=10**n) for n in range(5)]
    harness.store.add("x", rows, NOW)
    harness.judge()
    assert waiting(harness) == [f"n{n}.example" for n in (4, 3, 2, 1, 0)]
    assert waiting(harness, count=2) == ["n4.example", "n3.example"]
    harness.store.lease("ann", 2, 600, NOW)
    assert waiting(harness, count=2) == ["n4.example", "n3.example"]
    found(harness, n4="192.0.2.1", n3="", n2=None)
    assert waiting(harness) == ["n1.example", "n0.example"]
    ids = [case.id for case in harness.store.cases().items if case.name == "n1.example"]
    harness.store.begin(ids, "bob", Choice("dismiss"), NOW)
    assert waiting(harness) == ["n0.example"]


def test_what_a_rule_covers_is_not_looked_up(harness):
    """
    Nobody has to look at it, so nobody asks where it leads.
    """
    harness.store.add("x", [candidate("a.example")], NOW)
    harness.judge(known=True)
    assert waiting(harness) == []


@pytest.mark.parametrize(
    ("address", "after_s"), [("192.0.2.1", AGAIN_S), ("", AGAIN_S), (None, RETRY_S)]
)
def test_look_ups_are_repeated(harness, address, after_s):
    """
    After a day, also of a name that had no address; after an hour if nobody could say.
    """
    harness.bring("a.example", "b.example")
    found(harness, a=address, b="192.0.2.2")
    assert waiting(harness, NOW + after_s - 1) == []
    assert waiting(harness, NOW + after_s)[0] == "a.example"
    assert waiting(harness, NOW + after_s)[0] == "a.example"
    found(harness, NOW + after_s, a=address)
    assert "a.example" not in waiting(harness, NOW + 2 * after_s - 1)


def test_many_are_due_at_once(harness, monkeypatch):
    """
    They get their places in some steps, and none is forgotten.
    """
    monkeypatch.setattr("urlguard.cases.drivers.sqlite.addresses._MAX_DUE", 3)
    harness.bring(*(f"n{n}.example" for n in range(10)))
    found(harness, **{f"n{n}": "" for n in range(10)})
    counts = [len(waiting(harness, NOW + AGAIN_S)) for _ in range(5)]
    assert counts == [3, 6, 9, 10, 10]


def test_an_address_is_shared(harness):
    """
    An address that another case has is shown as a campaign, whatever the case's state, and lists
    its cases by priority; what nobody says, or what is no longer so, connects nothing.
    """
    harness.bring("a.example", "c.example", "d.example", "e.example")
    harness.bring("b.example", queries=100)
    shared = "address:192.0.2.7"
    found(harness, a="192.0.2.7", b="192.0.2.7", c="192.0.2.8", d="", e="")
    assert campaigns(harness) == {"a": shared, "b": shared, "c": None, "d": None, "e": None}
    assert names_of(harness, shared) == ["b.example", "a.example"]
    assert names_of(harness, shared, order="newest") == ["b.example", "a.example"]
    assert names_of(harness, "192.0.2.7") == names_of(harness, "address:") == []
    assert names_of(harness, "address:192.0.2.77") == []
    ids = [case.id for case in harness.store.cases(campaign=shared).items]
    made = harness.store.begin(ids[:1], "ann", Choice("block"), NOW)
    harness.store.finish(made.number, 7, NOW)
    assert campaigns(harness)["a"] == shared
    assert names_of(harness, shared, state="open") == ["a.example"]
    assert harness.store.case(ids[1]).case.campaign == shared
    # Nobody could say: what was known stays.  It has moved: no longer together.
    found(harness, b=None)
    assert campaigns(harness)["b"] == shared
    found(harness, a="2001:db8::1")
    assert campaigns(harness) == dict.fromkeys("abcde")


def test_a_pattern_comes_first(harness):
    """
    A case that shares both is shown with the pattern, and listed under either.
    """
    harness.store.add("x", [candidate(f"icbc-{n}.example") for n in (1, 2)], NOW)
    for work in harness.store.take(10, 60, NOW):
        result = Judged(work.id, False, 0.5, "none", "none", "", "icbc-0.example")
        harness.store.judged([result], NOW)
    harness.bring("other.example")
    found(harness, **{"icbc-1": "192.0.2.7", "other": "192.0.2.7"})
    assert campaigns(harness) == {
        "icbc-1": "icbc-0.example",
        "icbc-2": "icbc-0.example",
        "other": "address:192.0.2.7",
    }
    assert set(names_of(harness, "address:192.0.2.7")) == {"icbc-1.example", "other.example"}


def test_a_shared_host_connects_nobody(harness):
    """
    What too many have in common is neither shown nor listed, so that it cannot be decided on.
    """
    names = [f"n{n}" for n in range(MAX_SHARED + 1)]
    harness.bring(*(f"{name}.example" for name in names))
    found(harness, **dict.fromkeys(names[:-1], "192.0.2.7"))
    assert len(names_of(harness, "address:192.0.2.7")) == MAX_SHARED
    assert list(campaigns(harness).values()).count("address:192.0.2.7") == MAX_SHARED
    found(harness, **{names[-1]: "192.0.2.7"})
    assert names_of(harness, "address:192.0.2.7") == []
    assert set(campaigns(harness).values()) == {None}


def test_growing_keeps_the_address(harness):
    """
    Another report of a case changes neither its address nor when it is looked up again.
    """
    harness.bring("a.example", "b.example")
    found(harness, a="192.0.2.7", b="192.0.2.7")
    harness.bring("www.a.example", "a.example", source="other", now=NOW + 9)
    assert campaigns(harness)["b"] == "address:192.0.2.7"
    assert len(names_of(harness, "address:192.0.2.7")) == 2
    assert waiting(harness, NOW + 9) == []


def test_plans(harness):
    """
    Every question about addresses is answered by an index alone, and none is sorted.
    """
    harness.bring("a.example")
    for sql, index in ((DUE, "cases_address_until"), (WAITING, "cases_unaddressed")):
        (step,) = harness.store.plan(sql, {"now": NOW, "count": 5})
        assert step.startswith(("SEARCH cases", "SCAN cases"))
        assert f"INDEX {index}" in step
    sql, values = page_query(campaign="address:192.0.2.7", state="open", after=(1.5, 7))
    plan = harness.store.plan(sql, {**values, "limit": 50})
    assert not [step for step in plan if "TEMP B-TREE" in step]
    assert any(s.startswith("SEARCH c USING INDEX cases_address (address=?") for s in plan)
    others = [s for s in plan if s.startswith(("SEARCH o", "SCAN o"))]
    # One for patterns, three for addresses.
    assert len(others) == 4
    assert all("COVERING INDEX cases_" in s for s in others)
    assert sum("cases_address (address=?" in s for s in others) == 3


def test_ten_thousand_cases(harness):
    """
    Looking up, and showing what is shared, costs milliseconds among thousands of cases.
    """
    count, group = 10_000, addresses.MAX_SHARED
    names = [f"n{n}.example" for n in range(count)]
    harness.store.add("x", [candidate(name) for name in names], NOW)
    harness.judge()
    begun = time.process_time()
    done = 0
    while rows := harness.store.unaddressed(1000, NOW):
        # The first half on hosts that too many share, then groups as large as they may be.
        those = {
            case: f"192.0.2.{(done + n) // group if done + n > count // 2 else 0}"
            for n, (case, _) in enumerate(rows)
        }
        harness.store.addressed(those, NOW)
        done += len(rows)
    assert done == count
    assert time.process_time() - begun < 5
    begun = time.process_time()
    page = harness.store.cases(limit=1000)
    assert {case.campaign for case in page.items} == {None}
    assert len(harness.store.cases(campaign="address:192.0.2.30", limit=1000).items) == group
    page = harness.store.cases(limit=1000, order="newest")
    assert len({case.campaign for case in page.items}) == 5
    assert time.process_time() - begun < 1
    begun = time.process_time()
    assert len(harness.store.unaddressed(50, NOW + AGAIN_S)) == 50
    assert time.process_time() - begun < 0.5
