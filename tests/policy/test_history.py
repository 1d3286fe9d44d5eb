"""What the log said at its earlier serials."""

import random
from types import SimpleNamespace

import pytest

from tests.oracle import SOURCES, random_changes
from urlguard.policy.history import History, last_before
from urlguard.policy.model import Change
from urlguard.verdict import decode

EVIL = "subtree evil.example"


@pytest.fixture
def clock(monkeypatch):
    """The time that batches get, in seconds."""
    found = SimpleNamespace(now=1000.0)
    found.time = lambda: found.now
    monkeypatch.setattr("urlguard.policy.log.time", found)
    return found


def stood(log, serial, *keys):
    """Source and action of the claims that stood."""
    found = History(log.store.claims_about(keys)).standing(serial)
    return sorted((claim.source, claim.action) for claim in found)


def test_a_claim_stands_from_its_batch_to_before_the_one_that_ends_it(say, log):
    """
    One that is replaced is followed by its successor at once.
    """
    say("operator", f"block {EVIL}")
    say("operator", f"allow {EVIL}")
    say("feed:a", f"block {EVIL}", "block subtree other.example")
    say("operator", f"end {EVIL}")
    wanted = [
        [],
        [("operator", "block")],
        [("operator", "allow")],
        [("feed:a", "block"), ("operator", "allow")],
        [("feed:a", "block")],
    ]
    assert [stood(log, serial, EVIL) for serial in range(5)] == wanted
    history = History(log.store.claims_about([EVIL]))
    assert history.turns() == [4, 3, 2, 1]


@pytest.mark.parametrize("seed", range(12))
def test_rulings_are_those_of_the_time(log, seed):
    """
    Whatever was claimed, exceptions included: what stood after each batch is found at its serial.
    """
    rng = random.Random(seed)
    standing, then = {}, {0: {}}
    for _ in range(40):
        source = rng.choice(SOURCES)
        changes = random_changes(rng, source, standing, rng.randint(1, 6))
        made = [Change(key, action, "fraud") for key, action in changes]
        log.commit(source, made, actor="test", reason="")
        for key, action in changes:
            standing[source, key] = action
            if action is None:
                del standing[source, key]
        with log.store.reading():
            then[log.serial] = {key: decode(text, key) for key, text in log.rulings()}
    keys = [key for kind in ("domain ", "subtree ", "below ") for key in log.store.rules_ever(kind)]
    history = History(log.store.claims_about(keys))
    for serial, rulings in then.items():
        assert dict(history.rulings(serial)) == rulings


def test_many_keys_are_asked_for_in_parts(say, log):
    """
    Also more than a statement may have.
    """
    keys = [f"domain n{n}.example" for n in range(1234)]
    say("feed:a", *(f"block {key}" for key in keys))
    say("feed:b", *(f"block {key}" for key in keys[:700]))
    assert len(list(log.store.claims_about(keys))) == 1934
    assert list(log.store.claims_about([])) == []


def test_which_rules_there_ever_were(say, log):
    """
    Each once, whoever said it, and also if it ended.
    """
    say("operator", "block pattern *paypal*", "block subtree pattern.example")
    say("analyst:b", "block pattern *paypal*", "block pattern keyword:bank")
    say("operator", "end pattern *paypal*")
    assert log.store.rules_ever("pattern ") == ["pattern *paypal*", "pattern keyword:bank"]


@pytest.mark.parametrize(
    ("moment", "serial"),
    [
        (999_999, None),
        (1_000_000, 1),
        (1_000_001, 1),
        (1_009_999, 1),
        (1_010_000, 2),
        (1_010_001, 3),
        (1_020_000, 103),
        (1_029_999, 103),
        (1_030_000, 104),
        (9_999_999, 104),
    ],
)
def test_the_last_batch_at_a_time(say, log, clock, moment, serial):
    """
    The one that was made by then; also across the gap that a restore leaves.
    """
    for now in (1000.0, 1010.0, 1010.001):
        clock.now = now
        say("operator", f"block subtree n{int(now * 1000)}.example")
    clock.now = 1020.0
    log.restored(102, actor="test", reason="")
    clock.now = 1030.0
    say("operator", "block subtree last.example")
    found = last_before(log.store, moment)
    assert (found and found.serial) == serial


@pytest.mark.parametrize("seed", range(20))
def test_halving_finds_what_looking_at_all_finds(log, clock, seed):
    """
    For any gaps in time and in serials.
    """
    rng = random.Random(seed)
    for n in range(rng.randint(0, 30)):
        clock.now += rng.choice((0, 0, 0.001, 1, 50))
        if rng.random() < 0.2:
            log.restored(log.serial + rng.randint(0, 500), actor="test", reason="")
        else:
            log.commit("operator", [Change(f"domain n{n}.example", "block")], actor="t", reason="")
    batches = list(log.store.batches())
    for moment in {b.time + d for b in batches for d in (-1, 0, 1)}:
        wanted = max((b for b in batches if b.time <= moment), default=None)
        assert last_before(log.store, moment) == wanted


def test_an_empty_log_has_no_batch(log):
    """
    None is found, whatever the time.
    """
    assert last_before(log.store, 1 << 50) is None


def test_a_clock_that_was_set_back(say, log, clock):
    """
    Some batch at or before the time is found, and the last one for now.
    """
    for now in (1000, 2000, 500, 1500):
        clock.now = float(now)
        say("operator", f"block subtree n{now}.example")
    assert last_before(log.store, 3_000_000).serial == 4
    assert last_before(log.store, 1_600_000).time <= 1_600_000


def test_looking_never_scans(say, log):
    """
    However many rules there are: SQLite finds claims and batches by their keys.
    """
    say("feed:a", f"block {EVIL}")
    asked = []
    log.store._db.set_trace_callback(asked.append)
    list(log.store.claims_about([EVIL, "domain evil.example"]))
    log.store.rules_ever("pattern ")
    log.store.last_upto(3)
    log.store._db.set_trace_callback(None)
    asked = [sql for sql in asked if "FROM source" not in sql]
    assert len(asked) == 3
    for sql in asked:
        steps = [row[3] for row in log.store._db.execute(f"EXPLAIN QUERY PLAN {sql}")]
        assert all(step.startswith("SEARCH") for step in steps), steps
