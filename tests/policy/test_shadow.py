"""Rules in shadow: in the log like all others, and out of the way of all others."""

import random

import pytest

from tests import oracle
from tests.logs import open_file
from urlguard.blocklist import snapshot
from urlguard.blocklist.overlay import Overlay
from urlguard.engine import Engine
from urlguard.policy.model import Change
from urlguard.publish.rpz.zone import collect, flat
from urlguard.rules import SHADOW, SHADOWED
from urlguard.verdict import decode


def effects(log, serial):
    """What a batch changed: keys with what stands there now."""
    found = {}
    for row in log.store.effects(serial - 1, serial):
        after = decode(row.after, row.key)
        found[row.key] = after and (after.action, after.sources)
    return found


def test_a_claim_in_shadow_has_its_effect_apart(log, say):
    """
    Its effect stands under a key of its own; made a block, it moves to the rule's key.
    """
    say("feed:a", "shadow subtree evil.example")
    aside, key = "shadow subtree evil.example", "subtree evil.example"
    assert effects(log, 1) == {aside: ("shadow", ("feed:a",))}
    assert log.ruling(key) is None
    say("feed:a", "block subtree evil.example")
    assert effects(log, 2) == {aside: None, key: ("block", ("feed:a",))}
    say("feed:a", "shadow subtree evil.example")
    assert effects(log, 3) == {aside: ("shadow", ("feed:a",)), key: None}
    say("feed:a", "end subtree evil.example")
    assert effects(log, 4) == {aside: None}
    assert log.verify() is None


def test_each_source_is_counted(log, say):
    """
    A second source in shadow is news, unlike one of a rule that stands; nobody is hidden.
    """
    say("feed:a", "shadow subtree evil.example")
    say("operator", "block subtree evil.example")
    assert effects(log, 2) == {"subtree evil.example": ("block", ("operator",))}
    say("feed:b", "shadow subtree evil.example")
    assert effects(log, 3) == {SHADOWED + "subtree evil.example": ("shadow", ("feed:a", "feed:b"))}
    with log.store.reading():
        stands = {key: decode(text, key) for key, text in log.rulings()}
    assert {key: ruling.action for key, ruling in stands.items()} == {
        "subtree evil.example": "block",
        "shadow subtree evil.example": "shadow",
    }
    # The ruling names the rule, not the key that it stands at.
    assert stands["shadow subtree evil.example"][4:6] == ("subtree", "evil.example")


def test_a_rule_in_shadow_can_be_planned(log):
    """
    Like any other; it begins in shadow.
    """
    change = Change("scheduled 0000000000000100 subtree evil.example", SHADOW)
    log.commit("operator", [change], actor="test", reason="")
    assert effects(log, 1) == {}
    log.expire(now=100)
    assert effects(log, 2) == {SHADOWED + "subtree evil.example": ("shadow", ("operator",))}


def test_nobody_writes_its_key(log):
    """
    The key of its effect is no rule, and filtering cannot be paused in shadow.
    """
    for key, action in ((SHADOWED + "subtree evil.example", "block"), ("pause filtering", SHADOW)):
        with pytest.raises(Exception, match=r"kind must be|must be allow"):
            log.commit("operator", [Change(key, action)], actor="test", reason="")
    assert log.serial == 0


class Twins:
    """Two logs that are told the same, but that one hears of shadows too."""

    def __init__(self, folder, seed):
        self.rng = random.Random(seed)
        self.plain = open_file(folder / "plain.db")
        self.both = open_file(folder / "both.db")
        self.standing = {}
        self.shadows = {}

    def change(self):
        source = self.rng.choice(oracle.SOURCES)
        changes = oracle.random_changes(self.rng, source, self.standing, 12)
        for log in (self.plain, self.both):
            said = [Change(key, action, "x") for key, action in changes]
            log.commit(source, said, actor="test", reason="test")
        for key, action in changes:
            self.standing.pop((source, key), None)
            self.shadows.pop((source, key), None)
            if action is not None:
                self.standing[source, key] = action
        # In shadow: what somebody says nothing else about.
        for source in (*oracle.SOURCES, "feed:shadow", "analyst:shadow"):
            drawn = oracle.random_changes(self.rng, source, {}, 4)
            keys = {key for key, _ in drawn if (source, key) not in self.standing}
            said = [Change(key, SHADOW, "x") for key in keys]
            self.both.commit(source, said, actor="test", reason="test")
            self.shadows.update({(source, key): True for key in keys})

    def engines(self, compiled):
        """Each log's engine: a snapshot, with an overlay if `compiled` is an older one."""
        found = []
        for log, path in zip((self.plain, self.both), compiled, strict=True):
            one = snapshot.open_folder(path)
            engine = Engine(one, Overlay(one.serial))
            changes = [(k, decode(t, k)) for k, t, _ in log.store.changes(one.serial)]
            engine.overlay.apply(changes, log.serial)
            found.append(engine)
        return found

    def compile(self, folder):
        """A snapshot of each."""
        paths = []
        for log in (self.plain, self.both):
            with log.store.reading():
                paths.append(snapshot.write(folder, log.serial, log.rulings()))
        return paths

    def close(self):
        self.plain.close()
        self.both.close()


@pytest.mark.parametrize("seed", range(6))
def test_no_shadow_changes_an_answer(tmp_path, seed):
    """
    With shadows among the rules, at every specificity and of every source, each name is decided as
    without them, in snapshot and overlay and in the zone for others; and each is counted where it
    covers.
    """
    twins = Twins(tmp_path, seed)
    for _ in range(3):
        twins.change()
    old = twins.compile(tmp_path / "old")
    for _ in range(2):
        twins.change()
    new = twins.compile(tmp_path / "new")
    names = [oracle.random_name(twins.rng) for _ in range(400)]
    counted = 0
    for compiled in (old, new):
        plain, both = twins.engines(compiled)
        shadow = both.shadow()
        assert plain.shadow() is None
        for name in names:
            mine, theirs = plain.decide(name), both.decide(name)
            assert (mine and mine[:3]) == (theirs and theirs[:3]), name
            assert (mine and mine[4:]) == (theirs and theirs[4:]), name
            found = {(s, f"{r.kind} {r.value}") for r in shadow.covering(name) for s in r.sources}
            wanted = {(s, k) for s, k in twins.shadows if oracle.covers(*k.split(" "), name)}
            assert found == wanted, name
            counted += bool(wanted)
    assert counted > 100
    zones = [list(flat(collect(log.rulings()))) for log in (twins.plain, twins.both)]
    assert zones[0] == zones[1]
    assert twins.both.verify() is None
    twins.close()
