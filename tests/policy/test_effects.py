"""Effects: what a batch changes for the world, worked out without a store."""

import random

import pytest

from tests import oracle
from urlguard.blocklist import snapshot
from urlguard.engine import Engine
from urlguard.policy.effects import Before, Changes, effects
from urlguard.policy.model import Change
from urlguard.policy.precedence import ActiveClaim
from urlguard.verdict import decode

EVIL = "subtree evil.example"


class World:
    """Claims in a dictionary, and an engine that knows nothing but the effects."""

    def __init__(self):
        self.claims = {}  # (source, rule) → ActiveClaim
        self.engine = Engine(snapshot.nothing())
        self.serial = 0

    def at(self, key):
        """All claims at a key."""
        return [claim for (_, rule), claim in self.claims.items() if rule == key]

    def commit(self, source, *changes):
        """One batch, as the log makes it; returns its effects."""
        self.serial += 1
        own = {rule: claim for (s, rule), claim in self.claims.items() if s == source}
        wanted = [Change(*change) for change in changes]
        new = {c.rule: c for c in wanted if c.action}
        rules = [c.rule for c in wanted]
        before = Before(
            own={rule: own[rule] for rule in rules if rule in own},
            others={r: [c for c in self.at(r) if c.source != source] for r in rules},
            at=self.at,
            exceptions={rule for (_, rule), c in self.claims.items() if c.action == "except"},
        )
        made = Changes(self.serial, source, new, {rule for rule in rules if rule in own})
        found = effects(made, before)
        for rule in rules:
            self.claims.pop((source, rule), None)
            if rule in new:
                claim = ActiveClaim(source, new[rule].action, new[rule].category, self.serial)
                self.claims[source, rule] = claim
        changed = [(row.key, decode(row.after, row.key)) for row in found]
        self.engine.overlay.apply(changed, self.serial)
        return found


def seen(rows):
    """Key, action before, action after."""
    found = []
    for row in rows:
        was, now = decode(row.before, row.key), decode(row.after, row.key)
        found.append((row.key, was and was.action, now and now.action))
    return found


@pytest.mark.parametrize("seed", range(30))
def test_effects_alone_tell_an_engine_what_precedence_means(seed):
    """
    After any row of batches an engine that got their effects decides as the oracle does.
    """
    rng = random.Random(seed)
    world, standing = World(), {}
    for _ in range(30):
        source = rng.choice(oracle.SOURCES)
        changes = oracle.random_changes(rng, source, standing, rng.randint(1, 12))
        changes = [
            (rule, action) for rule, action in changes if action or (source, rule) in standing
        ]
        for rule, action in changes:
            standing.pop((source, rule), None)
            if action:
                standing[source, rule] = action
        world.commit(source, *changes)
        claims = oracle.as_claims(standing)
        for _ in range(20):
            name = oracle.random_name(rng)
            ruling = world.engine.decide(name)
            found = None if ruling is None or ruling.action == "except" else ruling.action
            assert found == oracle.decide(claims, name), (name, claims)


@pytest.mark.parametrize("seed", range(10))
def test_each_effect_begins_where_the_one_before_ended(seed):
    """
    At every key the rulings of the effects are a chain, and none is an effect of nothing.
    """
    rng = random.Random(seed)
    world, standing, now = World(), {}, {}
    for _ in range(40):
        source = rng.choice(oracle.SOURCES)
        changes = dict(oracle.random_changes(rng, source, standing, rng.randint(1, 12)))
        known = {rule: a for rule, a in changes.items() if a or (source, rule) in standing}
        for rule, action in known.items():
            standing.pop((source, rule), None)
            if action:
                standing[source, rule] = action
        rows = world.commit(source, *sorted(known.items()))
        assert [row.key for row in rows] == sorted({row.key for row in rows})
        for row in rows:
            was, before = now.get(row.key), decode(row.before, row.key)
            assert (was and was.action) == (before and before.action)
            assert row.before != row.after
            now[row.key] = decode(row.after, row.key)


def test_a_claim_that_nobody_can_tell_apart_is_no_effect():
    """
    Another feed that says the same changes nothing; one that says more does.
    """
    world = World()
    assert seen(world.commit("feed:a", (EVIL, "review"))) == [(EVIL, None, "review")]
    assert seen(world.commit("feed:b", (EVIL, "review"))) == []
    assert seen(world.commit("feed:b", (EVIL, "block"))) == [(EVIL, "review", "block")]
    assert seen(world.commit("feed:b", (EVIL, None))) == [(EVIL, "block", "review")]


def test_an_exception_changes_keys_that_the_batch_does_not_name():
    """
    A rule above an exception is weighed at the exception's key again, of its own feed and others.
    """
    world = World()
    world.commit("feed:a", (EVIL, "block"))
    below = "subtree www.evil.example"
    assert (below, None, "except") in seen(world.commit("feed:a", (below, "except")))
    assert (below, "except", "block") in seen(world.commit("feed:b", (EVIL, "block")))


def test_a_rule_in_shadow_has_a_key_of_its_own():
    """
    It stands beside the rule that decides, and each source that counts it is an effect.
    """
    world = World()
    world.commit("feed:a", (EVIL, "block"))
    shadow = f"shadow {EVIL}"
    assert seen(world.commit("feed:b", (EVIL, "shadow"))) == [(shadow, None, "shadow")]
    assert seen(world.commit("feed:c", (EVIL, "shadow"))) == [(shadow, "shadow", "shadow")]
    assert seen(world.commit("feed:b", (EVIL, "block"))) == [(shadow, "shadow", "shadow")]


def test_the_store_is_asked_only_where_exceptions_are_involved():
    """
    `Before.at` costs look-ups; a batch without exceptions makes none.
    """

    def never(key):
        raise AssertionError(key)

    changes = Changes(1, "feed:a", {EVIL: Change(EVIL, "block", "x")}, ())
    (row,) = effects(changes, Before({}, {}, never, ()))
    assert (row.serial, row.key, row.before) == (1, EVIL, None)
