"""What every driver of the policy log must do; see `urlguard.policy.store`."""

import contextlib
import multiprocessing
import threading
import time

import pytest

from urlguard.errors import PolicyError
from urlguard.policy import location as locations
from urlguard.policy.log import PolicyLog
from urlguard.policy.model import Change
from urlguard.policy.store import UnusableLogError
from urlguard.rules import OPERATOR
from urlguard.verdict import decode

EVIL = "subtree evil.example"
NAMES = [f"domain n{i}.example" for i in range(5)]


@pytest.fixture
def store(location):
    """An empty store of each driver."""
    with contextlib.closing(location.open()) as store:
        yield store


def commit(store, source, *rules, action="block", expires_at=None):
    """One batch."""
    changes = [Change(rule, action, "fraud", "", expires_at) for rule in rules]
    return PolicyLog(store).commit(source, changes, actor="test", reason="")


def rows(store):
    """All that is hashed."""
    with store.reading():
        return [*store.batches()], [*store.starts_and_ends()], [*store.effects()]


def test_an_empty_log_has_nothing(location, store):
    """
    No head, no source, no time to wait for.
    """
    assert location.exists()
    assert (store.head(), store.count_batches(), store.sources()) == (None, 0, [])
    assert (store.next_expiry(), store.last_effect_serial()) == (None, 0)
    assert rows(store) == ([], [], [])


def test_what_was_committed_is_read_by_others_and_after_a_restart(location, store):
    """
    A batch is durable and whole once `writing` has ended.
    """
    commit(store, "feed:a", *NAMES)
    with contextlib.closing(location.open(read_only=True)) as reader:
        assert rows(reader) == rows(store)
        assert reader.head().serial == 1
        assert [rule for rule, *_ in reader.active_of("feed:a")] == NAMES
        assert reader.count("feed:a") == 5
        assert reader.active("feed:a", NAMES[0]).category == "fraud"
        assert reader.active("feed:b", NAMES[0]) is None
        assert [c.rule for c in reader.active_after("feed:a", NAMES[1], 2)] == NAMES[2:4]
        assert PolicyLog(reader).verify() is None


def test_history_keeps_claims_that_ended(store):
    """
    Each claim with the serials between which it was active, oldest first, of all sources.
    """
    commit(store, "feed:a", EVIL)
    commit(store, OPERATOR, EVIL, action="allow")
    commit(store, "feed:a", EVIL, action=None)
    spans = [(c.source, c.from_serial, c.to_serial) for c in store.history(EVIL)]
    assert spans == [("feed:a", 1, 3), (OPERATOR, 2, None)]
    found = list(store.claims_about([*NAMES, EVIL]))
    assert sorted(found) == sorted(store.history(EVIL))
    assert (store.rules_ever("subtree "), store.rules_ever("domain ")) == ([EVIL], [])
    assert [store.last_upto(n).serial for n in (1, 2, 9)] == [1, 2, 3]
    assert store.last_upto(0) is None


def test_categories_are_what_a_refresh_compares(store):
    """
    The category where the action is the same, "" for an exception, None for anything else.
    """
    commit(store, "feed:a", NAMES[0])
    commit(store, "feed:a", NAMES[1], action="except")
    commit(store, "feed:a", NAMES[2], action="review")
    assert dict(store.categories("feed:a", "block")) == {
        NAMES[0]: "fraud",
        NAMES[1]: "",
        NAMES[2]: None,
    }
    assert store.exceptions() == [NAMES[1]]


def test_effects_are_read_by_serial_and_by_key(store):
    """
    All of them in order, the last at each key, and how many there are.
    """
    commit(store, "feed:a", EVIL, *NAMES)
    commit(store, OPERATOR, EVIL, action="allow")
    assert [(row.serial, row.key) for row in store.effects()] == [
        *((1, key) for key in sorted([EVIL, *NAMES])),
        (2, EVIL),
    ]
    assert [row.serial for row in store.effects(1)] == [2]
    assert [row.serial for row in store.effects(0, 1)] == [1] * 6
    now = {key: (decode(after, key).action, serial) for key, after, serial in store.changes(0)}
    assert (now[EVIL], now[NAMES[0]]) == (("allow", 2), ("block", 1))
    assert [key for key, _ in store.decided(0, 10)] == [EVIL]
    assert (store.count_effects(0), store.count_effects(0, "domain")) == (7, 5)
    assert (store.last_effect_serial(), store.last_effect_serial(["domain"])) == (2, 1)
    count, shown = store.effects_of(1, 2)
    assert (count, [row.key for row in shown]) == (6, NAMES[:2])


def test_claims_expire_and_begin(store):
    """
    The store finds what is due; the log ends it and begins what was to begin.
    """
    now = int(time.time())
    commit(store, OPERATOR, NAMES[0], expires_at=now + 50)
    commit(store, "feed:a", NAMES[1], expires_at=now + 10)
    assert store.next_expiry() == now + 10
    assert store.expired(now + 9, 10) == []
    assert store.expired(now + 10, 10) == [("feed:a", NAMES[1])]
    assert len(store.expired(now + 99, 1)) == 1
    assert len(PolicyLog(store).expire(now + 99)) == 2
    assert store.next_expiry() is None
    assert PolicyLog(store).ruling(NAMES[0]) is None


class StopError(Exception):
    """Of these tests."""


@pytest.mark.parametrize("nested", [False, True])
def test_an_error_takes_the_whole_transaction_back(store, nested):
    """
    Whatever was written in it, also by inner ones; the next transaction works.
    """
    commit(store, "feed:a", EVIL)
    before = rows(store)

    def fail():
        with store.writing():
            store.set_quarantined("a", [(EVIL, "popular")])
            if nested:
                commit(store, "feed:b", *NAMES)
            raise StopError

    with pytest.raises(StopError):
        fail()
    assert (rows(store), store.quarantined("a")) == (before, [])
    assert commit(store, "feed:b", *NAMES).serial == 2


def write(url, source, count):
    """Commit so many batches, from another process."""
    with contextlib.closing(locations.open_url(url)) as log:
        for i in range(count):
            log.commit(source, [Change(f"domain {i}.example", "block")], actor="t", reason="")


def test_writers_in_several_processes_make_one_chain(location):
    """
    They take turns, also while the log is made.
    """
    spawn = multiprocessing.get_context("spawn")
    sources = ["feed:a", "feed:b", OPERATOR]
    writers = [spawn.Process(target=write, args=(location.url, s, 8)) for s in sources]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    with contextlib.closing(location.open(read_only=True)) as store:
        assert [store.count(source) for source in sources] == [8, 8, 8]
        assert [row.serial for row in store.batches()] == list(range(1, 25))
        assert PolicyLog(store).verify() is None


def test_a_reader_does_not_wait_for_a_writer(location, store):
    """
    It sees the log of before; within one transaction it goes on to do so.
    """
    commit(store, "feed:a", EVIL)
    with contextlib.closing(location.open(read_only=True)) as reader, reader.reading():
        assert reader.head().serial == 1
        with store.writing():
            commit(store, "feed:a", *NAMES)
            assert reader.head().serial == 1
        assert reader.head().serial == 1
        assert len(list(reader.effects())) == 1


def test_the_change_token_changes_with_others_commits_alone(location, store):
    """
    So who polls it reads the log only if there is something new.
    """
    commit(store, "feed:a", EVIL)
    token = store.change_token()
    commit(store, "feed:a", *NAMES)
    assert store.change_token() == token
    with contextlib.closing(location.open()) as other:
        commit(other, OPERATOR, EVIL)
    assert store.change_token() != token


def test_a_log_that_is_only_read_refuses_writes(location, store):
    """
    And is not made where there is none.
    """
    commit(store, "feed:a", EVIL)
    with contextlib.closing(location.open(read_only=True)) as reader:
        with pytest.raises(PolicyError):
            commit(reader, "feed:a", *NAMES)
        assert reader.head().serial == 1


def test_nothing_is_made_by_reading(location):
    """
    Where there is no log, that is an error, and there is none afterwards.
    """
    assert (location.exists(), location.identity()) == (False, None)
    with pytest.raises(PolicyError, match="not there"):
        location.open(read_only=True)
    assert not location.exists()


def test_errors_are_of_one_class_also_in_iterators(location, store):
    """
    A closed store stands for one that has gone: nothing but PolicyError comes out of it.
    """
    many = [f"domain n{i:04}.example" for i in range(3000)]  # a driver may read some ahead
    commit(store, "feed:a", *many)
    reader = location.open(read_only=True)
    begun = reader.active_of("feed:a")
    assert next(begun)[0] == many[0]
    reader.close()
    for read in (lambda: list(begun), reader.head, reader.sources, reader.change_token):
        with pytest.raises(PolicyError):
            read()
    with pytest.raises(PolicyError), reader.reading():
        raise AssertionError
    with pytest.raises(PolicyError), reader.writing():
        raise AssertionError


def test_feeds_have_a_status_and_quarantined_rules(store):
    """
    Each replaces what was there before.
    """
    with store.writing():
        store.set_feed_status("a", "{}")
        store.set_feed_status("a", '{"rules": 1}')
        store.set_quarantined("a", [(EVIL, "popular"), (NAMES[0], "suffix")])
        store.set_quarantined("b", [(EVIL, "popular")])
        store.set_quarantined("b", [])
    assert store.feed_status() == {"a": '{"rules": 1}'}
    assert sorted(store.quarantined("a")) == [(NAMES[0], "suffix"), (EVIL, "popular")]
    assert store.quarantined("b") == []


def test_a_copy_is_a_log_and_can_be_restored(location, store, tmp_path):
    """
    Of one moment; restoring it replaces all rows, or none if the log has moved on.
    """
    commit(store, "feed:a", EVIL)
    saved = tmp_path / "saved.db"
    saved.touch()
    store.copy_to(saved)
    before = rows(store)
    commit(store, "feed:a", *NAMES)
    with contextlib.closing(locations.open_file(saved, read_only=True)) as copy:
        assert rows(copy.store) == before
    old = store.head()
    late = store.restoring(saved, before[0][-1], lambda table: None)
    with pytest.raises(PolicyError, match="meanwhile"), late:
        raise AssertionError
    with pytest.raises(StopError), store.restoring(saved, old, lambda table: None):
        raise StopError
    assert store.head() == old
    with store.restoring(saved, old, lambda table: None):
        pass
    assert rows(store) == before


def test_an_unusable_log_is_replaced_as_a_whole(location):
    """
    The new one takes its place at the end of the block, and the old one is kept.
    """
    with contextlib.closing(location.open()) as store:
        commit(store, "feed:a", EVIL)

    def fail():
        with location.rebuilding() as new:
            commit(new.store, "feed:b", EVIL)
            raise StopError

    with pytest.raises(StopError):
        fail()
    assert location.replaced() == []
    identity = location.identity()
    with location.rebuilding() as new:
        assert new.last_serial == 1
        commit(new.store, OPERATOR, EVIL)
    assert location.replaced() == [new.kept]
    assert location.identity() != identity
    with contextlib.closing(location.open(read_only=True)) as store:
        assert store.sources() == [OPERATOR]


def test_a_replaced_log_is_noticed_by_who_has_it_open(location, store):
    """
    What they commit would be lost; from another thread they may ask, too.
    """
    store.check_identity()
    with location.rebuilding():
        pass
    with pytest.raises(PolicyError, match="restart"):
        store.check_identity()
    found = []

    def look():
        try:
            store.check_identity()
        except PolicyError as exc:
            found.append(exc)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert len(found) == 1


@pytest.mark.parametrize("read_only", [False, True])
def test_damage_is_an_unusable_log(location, read_only):
    """
    No retry cures it, and a restore may replace it.
    """
    with contextlib.closing(location.open()) as store:
        commit(store, "feed:a", *NAMES)
    location.path.write_bytes(b"no log at all" * 1000)
    with pytest.raises(UnusableLogError, match="policy log"):
        location.open(read_only=read_only)


@pytest.mark.parametrize(
    ("url", "found"),
    [("postgresql://db.example/x", "postgresql://"), ("x.db", "no scheme"), ("", "no scheme")],
)
def test_another_scheme_is_refused_by_its_name(url, found):
    """
    The error says what this build has, and not the rest of the URL, which may hold a password.
    """
    with pytest.raises(PolicyError) as caught:
        locations.at(url)
    assert found in str(caught.value)
    assert "sqlite://" in str(caught.value)
    assert "db.example" not in str(caught.value)
