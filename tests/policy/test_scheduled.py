"""Rules that begin later, and pausing all filtering: keys that are in the log alone."""

import pytest

from urlguard import rules
from urlguard.errors import InputError, PolicyError
from urlguard.policy.model import Change
from urlguard.rules import PAUSE
from urlguard.verdict import decode

EVIL = "subtree evil.example"
T = 2_000_000_000  # a time to come


def schedule(log, begins, action="block", *, rule=EVIL, source="operator", until=None):
    """Commit one scheduled rule."""
    change = Change(rules.scheduled(begins, rule), action, "fraud", "ticket 1", until)
    return log.commit(source, [change], actor="test", reason="")


def in_force(log):
    """The actions in force, by key."""
    with log.store.reading():
        return {key: decode(text, key).action for key, text in log.rulings()}


def test_a_planned_rule_is_a_claim_without_an_effect(log):
    """
    Until its time comes nothing is different for anybody, in the overlay or in a snapshot.
    """
    batch = schedule(log, T)
    assert (batch.claims, batch.effects) == (1, [])
    assert in_force(log) == {}
    assert log.store.next_expiry() == T
    assert log.expire(T - 1) == []
    assert log.verify() is None


def test_it_begins_in_a_batch_of_its_own(log):
    """
    At its time the schedule ends and the rule begins, with all its fields, as one batch.
    """
    schedule(log, T, until=T + 60)
    (batch,) = log.expire(T)
    assert [effect.key for effect in batch.effects] == [EVIL]
    row = list(log.store.batches())[-1]
    assert (row.source, row.actor, row.reason) == ("operator", "urlguard", "begun")
    claim = log.store.active("operator", EVIL)
    assert claim[2:5] == ("fraud", "block", "ticket 1")
    assert claim.expires_at == T + 60 == log.store.next_expiry()
    assert log.store.scheduled() == []
    (batch,) = log.expire(T + 60)
    assert in_force(log) == {}
    assert log.expire(T + 120) == []
    assert log.verify() is None


def test_one_sweep_ends_and_begins(log):
    """
    Where one rule's time is over as another's comes, both happen in one look, the end first.
    """
    log.commit("operator", [Change(EVIL, "allow", "", "", T)], actor="t", reason="")
    schedule(log, T)
    batches = log.expire(T)
    assert [b.serial for b in batches] == [3, 4]
    assert in_force(log) == {EVIL: "block"}


def test_a_plan_that_was_slept_through_does_not_begin(log):
    """
    If nobody ran from its beginning to its end, it ends without having begun.
    """
    schedule(log, T, until=T + 60)
    (batch,) = log.expire(T + 100)
    assert batch.effects == []
    assert log.store.active("operator", EVIL) is None


def test_of_several_that_are_due_the_last_counts(log):
    """
    As if each had begun in its time.
    """
    schedule(log, T + 5, "allow")
    schedule(log, T)
    assert log.store.next_expiry() == T
    log.expire(T + 10)
    assert in_force(log) == {EVIL: "allow"}
    assert log.store.scheduled() == []


def test_plans_of_one_rule_stand_beside_each_other_and_the_rule(log):
    """
    A second schedule replaces neither the first nor the decision in force.
    """
    log.commit("operator", [Change(EVIL, "allow")], actor="t", reason="")
    schedule(log, T)
    schedule(log, T + 5, "allow")
    assert [c.rule for c in log.store.scheduled()] == [
        f"scheduled {T:016} {EVIL}",
        f"scheduled {T + 5:016} {EVIL}",
    ]
    assert in_force(log) == {EVIL: "allow"}
    log.commit("operator", [Change(rules.scheduled(T, EVIL), None)], actor="t", reason="")
    assert log.store.next_expiry() == T + 5


def test_a_sweep_of_plans_is_bounded(log, monkeypatch):
    """
    Many at once begin in several sweeps, the earliest first.
    """
    monkeypatch.setattr("urlguard.policy.log.EXPIRY_BATCH", 2)
    for i in range(3):
        schedule(log, T + i, rule=f"subtree n{i}.example")
    log.expire(T + 10)
    assert sorted(in_force(log)) == ["subtree n0.example", "subtree n1.example"]
    log.expire(T + 10)
    assert len(in_force(log)) == 3


def test_a_changed_plan_is_found(log):
    """
    The chain covers the time and the rule of a schedule: they are its key.
    """
    schedule(log, T)
    log.store._db.execute("UPDATE claim SET rule = ?", (rules.scheduled(T + 1, EVIL),))
    assert log.verify().serial == 1


@pytest.mark.parametrize(
    "rule", [f"scheduled 1 {EVIL}", "scheduled nonsense", f"scheduled {T:016} nonsense x"]
)
def test_a_plan_that_nobody_could_have_made_never_begins(log, rule):
    """
    It cannot be committed; written into the file by somebody, it does not keep others from
    beginning, and nothing comes of it.
    """
    with pytest.raises(InputError):
        log.commit("operator", [Change(rule, "block")], actor="t", reason="")
    log.store.add_source("operator")
    log.store.add_claims([(rule, "operator", "", "block", "", 1, None, None)])
    schedule(log, 5, rule="subtree good.example")
    assert log.store.next_expiry() == 5
    log.expire(10)
    assert in_force(log) == {"subtree good.example": "block"}


@pytest.mark.parametrize(
    ("source", "rule", "action"),
    [
        ("feed:a", f"scheduled {T:016} {EVIL}", "block"),
        ("feed:a", PAUSE, "allow"),
        ("analyst:eve", PAUSE, "allow"),
        ("operator", PAUSE, "block"),
        ("operator", "pause other", "allow"),
        ("operator", f"scheduled {T:016} {EVIL}", "except"),
        ("operator", f"scheduled {T:016} {PAUSE}", "allow"),
    ],
)
def test_who_may_say_what(log, source, rule, action):
    """
    Feeds neither schedule nor pause; only the operator pauses; nothing else can be said there.
    """
    with pytest.raises((PolicyError, InputError)):
        log.commit(source, [Change("a b", None), Change(rule, action)], actor="t", reason="")
    assert log.serial == 0


def test_a_pause_is_a_decision_with_an_effect(log):
    """
    A pause reaches workers as any ruling does, expires as any claim, and touches no rule.
    """
    log.commit("feed:a", [Change(EVIL, "block", "fraud")], actor="t", reason="")
    change = Change(PAUSE, "allow", "", "ticket 1", T)
    batch = log.commit("operator", [change], actor="t", reason="")
    assert [(e.key, e.before) for e in batch.effects] == [(PAUSE, None)]
    assert in_force(log) == {EVIL: "block", PAUSE: "allow"}
    assert [key for key, _ in log.store.decided(0, 10)] == [PAUSE]
    (batch,) = log.expire(T)
    assert [(e.key, e.after) for e in batch.effects] == [(PAUSE, None)]
    assert in_force(log) == {EVIL: "block"}
    assert log.verify() is None
