"""Appeals in the store: kept, bounded, in order, decided once, and told to their owner's case."""

import pytest

from tests.cases.conftest import NOW
from urlguard.cases import appeals
from urlguard.cases.appeals import (
    MAX_EACH,
    MAX_OPEN_EACH,
    TERM_S,
    Plea,
    domain,
    in_file,
    in_records,
    is_address,
    place,
)
from urlguard.cases.drivers.sqlite.appeals import queue_query
from urlguard.cases.model import Choice, ConflictError, FullError, MissingError
from urlguard.fetch import proof


def plea(owner="shop.example", name=None):
    """What somebody brings."""
    return Plea(name or f"www.{owner}", name or f"www.{owner}", owner, 20_000, "a@b.example", "hi")


def closed(store, number, state="rejected", serial=None, now=NOW):
    return store.close_appeal(number, state, "bob", "why", "words", serial, now)


def test_kept_and_found(harness):
    """
    It is found by its id alone, and there again after the store was opened anew.
    """
    made = harness.store.add_appeal(plea(), NOW)
    assert (made.number, made.state, made.public_state) == (1, "received", "received")
    harness.store.close()
    harness.store = harness.open()
    assert harness.store.appeal(made.ident) == made
    assert harness.store.appeal(str(made.number)) is None
    assert harness.store.appeal("\ud800" * 3) is None
    assert len({appeals.ident() for _ in range(100)}) == 100


def test_bounds_of_an_owner(harness):
    """
    So many open, and so many within a time; time and others' appeals make room.
    """
    for _ in range(MAX_OPEN_EACH):
        harness.store.add_appeal(plea(), NOW)
    with pytest.raises(ConflictError, match="wait already"):
        harness.store.add_appeal(plea(), NOW)
    harness.store.add_appeal(plea("other.example"), NOW)
    for number in range(1, MAX_OPEN_EACH + 1):
        closed(harness.store, number)
    for _ in range(MAX_EACH - MAX_OPEN_EACH):
        closed(harness.store, harness.store.add_appeal(plea(), NOW).number)
    with pytest.raises(ConflictError, match=f"limit is {MAX_EACH}"):
        harness.store.add_appeal(plea(), NOW + TERM_S - 1)
    harness.store.add_appeal(plea(), NOW + TERM_S)


def test_bound_of_all(harness, monkeypatch):
    """
    When too many wait none is taken; one that is decided makes room.
    """
    monkeypatch.setattr("urlguard.cases.drivers.sqlite.appeals.MAX_OPEN", 2)
    harness.store.add_appeal(plea("a.example"), NOW)
    harness.store.add_appeal(plea("b.example"), NOW)
    with pytest.raises(FullError, match="limit is 2"):
        harness.store.add_appeal(plea("c.example"), NOW)
    closed(harness.store, 1)
    harness.store.add_appeal(plea("c.example"), NOW)


def test_the_queue(harness):
    """
    The proven ones first, then the oldest; a page goes on where the last one ended.
    """
    made = [harness.store.add_appeal(plea(f"n{n}.example"), NOW) for n in range(6)]
    harness.store.prove(made[4].number, "file", NOW + 1)
    closed(harness.store, made[1].number)
    order = [5, 1, 3, 4, 6]
    assert [a.number for a in harness.store.appeals("received")] == order
    assert [a.number for a in harness.store.appeals()] == [5, 1, 2, 3, 4, 6]
    first = harness.store.appeals("received", limit=2)
    rest = harness.store.appeals("received", place(first[-1]))
    assert [a.number for a in [*first, *rest]] == order
    assert [a.number for a in harness.store.appeals("rejected")] == [2]


@pytest.mark.parametrize("state", ["received", None])
def test_the_queue_is_walked(harness, state):
    """
    A page costs the same in the middle as at the beginning: nothing is sorted.
    """
    sql, values = queue_query(state, (0, 5))
    plan = harness.store.plan(sql, {**values, "limit": 10})
    assert all("USING INDEX appeals_" in line for line in plan), plan


def test_the_first_proof_counts(harness):
    """
    It is written down once, with its time, and changes no state.
    """
    made = harness.store.add_appeal(plea(), NOW)
    seen = harness.store.prove(made.number, "txt", NOW + 5)
    assert (seen.state, seen.public_state, seen.proof_at) == ("received", "proof_seen", NOW + 5)
    assert harness.store.prove(made.number, "file", NOW + 9) == seen
    with pytest.raises(MissingError):
        harness.store.prove(99, "txt", NOW)


def test_decided_once(harness):
    """
    Whoever is second is told so.
    """
    made = harness.store.add_appeal(plea(), NOW)
    done = closed(harness.store, made.number, "upheld", 7, NOW + 9)
    assert (done.who, done.serial, done.decided_at) == ("bob", 7, NOW + 9)
    with pytest.raises(ConflictError, match="is upheld, by 'bob'"):
        closed(harness.store, made.number)
    with pytest.raises(MissingError):
        closed(harness.store, 99)


def test_what_is_released_cannot_be_rejected(harness):
    """
    As long as a decision that was made for it stands, or is on its way.
    """
    made = harness.store.add_appeal(plea(), NOW)
    rules = {0: ["subtree shop.example"]}
    choice = Choice("allow", "", "appeal 1", "rule")
    done = harness.store.begin([], "bob", choice, NOW, rules=rules, appeal=made.number)
    assert done.evidence(0) == f"appeal:{made.number}:{done.number}"
    assert harness.store.releases(made.number) == [done.number]
    with pytest.raises(ConflictError, match="has released it"):
        closed(harness.store, made.number)
    harness.store.abort(done.number, "disk full", NOW)
    assert closed(harness.store, made.number).state == "rejected"


def test_a_decided_case_is_decided_otherwise(harness):
    """
    For an appeal alone; undoing that opens case and appeal again.
    """
    harness.bring("shop.example")
    case = harness.only().id
    first = harness.store.begin([case], "ann", Choice("block", "phishing"), NOW)
    harness.store.finish(first.number, 5, NOW)
    with pytest.raises(ConflictError, match="is decided"):
        harness.store.begin([case], "bob", Choice("allow"), NOW)
    made = harness.store.add_appeal(plea(), NOW)
    assert harness.store.case_of("shop.example") == (case, "decided", "block")
    done = harness.store.begin([case], "bob", Choice("allow"), NOW, appeal=made.number)
    harness.store.finish(done.number, 6, NOW)
    closed(harness.store, made.number, "upheld", 6)
    assert (harness.only().state, harness.only().action) == ("decided", "allow")
    with pytest.raises(ConflictError, match="later decision"):
        harness.store.undo(first.number, "ann", "", NOW)
    harness.store.undo(done.number, "eve", "we were fooled", NOW + 1)
    harness.store.finish(done.number, 7, NOW + 1)
    again = harness.store.appeal(made.ident)
    assert (harness.only().state, again.state, again.who) == ("open", "received", None)
    assert [(e.who, e.what) for e in again.events][-2:] == [("bob", "upheld"), ("eve", "reopened")]


def test_an_aborted_release_leaves_the_case(harness):
    """
    It is decided as before.
    """
    harness.bring("shop.example")
    case = harness.only().id
    first = harness.store.begin([case], "ann", Choice("block", "phishing"), NOW)
    harness.store.finish(first.number, 5, NOW)
    done = harness.store.begin([case], "bob", Choice("allow"), NOW, appeal=1)
    harness.store.abort(done.number, "disk full", NOW)
    assert (harness.only().state, harness.only().action) == ("decided", "block")


@pytest.mark.parametrize(
    ("owner", "wanted"),
    [
        ("shop.example", "shop.example"),
        ("192.0.2.7", None),
        ("2001:db8::1", None),
        ("x.123.example", "x.123.example"),
    ],
)
def test_where_a_proof_is_looked_for(owner, wanted):
    """
    At the owner's name; nowhere for an address.
    """
    assert domain(plea(owner, owner)) == wanted
    assert is_address(owner) == (wanted is None)


def test_places_are_those_that_are_fetched():
    """
    What whoever appeals is told is what the fetching process looks at.
    """
    assert (appeals.TXT_LABEL, appeals.FILE_PATH) == (proof.LABEL, proof.PATH)


def test_what_is_a_proof(harness):
    """
    The whole record, or a whole line among the first hundred.
    """
    made = harness.store.add_appeal(plea(), NOW)
    value = made.value
    assert in_records(made, ["v=spf1", f" {value}\n"])
    assert not in_records(made, [value[:-1], f"x{value}", ""])
    assert in_file(made, b"a\r\n" * 99 + value.encode())
    assert not in_file(made, b"a\r\n" * 100 + value.encode())
    assert not in_file(made, b"\x00" * 65536)
