"""The overlay: changes by exact key."""

import math
import time

from urlguard.blocklist.overlay import MAX_PATTERNS, Overlay
from urlguard.verdict import Ruling


def ruling(key, action="block"):
    """A ruling at a key."""
    kind, _, value = key.partition(" ")
    return Ruling(action, "fraud", ("operator",), 9, kind, value)


def change(key, action="block"):
    """A change to this action, or a tombstone."""
    return key, action and ruling(key, action)


def test_changes_are_kept_by_kind_and_value():
    """
    Kinds at one value are apart, and a tombstone is kept, as it hides the snapshot's rule.
    """
    overlay = Overlay(3)
    overlay.apply(
        [
            change("subtree evil.example"),
            change("domain evil.example", None),
            change("url evil.example/", "review"),
            change("pattern *paypa1*"),
        ],
        5,
    )
    assert overlay.serial == 5
    assert len(overlay) == 3
    assert overlay.names["evil.example"] == {
        "subtree": ruling("subtree evil.example"),
        "domain": None,
    }
    assert overlay.urls["evil.example/"].action == "review"
    assert [p.text for p in overlay.pattern_set.matching(".paypa1.example.")] == ["*paypa1*"]


def test_the_last_change_at_a_key_counts():
    """
    A later change replaces the one before; a pattern that is withdrawn matches no more.
    """
    overlay = Overlay(0)
    overlay.apply([change("pattern *paypa1*"), change("subtree evil.example")], 1)
    overlay.apply([change("pattern *paypa1*", None), change("subtree evil.example", "allow")], 2)
    assert overlay.pattern_set.matching(".paypa1.example.") == []
    assert overlay.patterns == {"*paypa1*": None}
    assert overlay.names["evil.example"]["subtree"].action == "allow"
    assert overlay.serial == 2


def test_a_batch_without_effects_moves_the_serial():
    """
    The overlay says everything up to its serial, also where that is nothing.
    """
    overlay = Overlay(3)
    overlay.apply([], 8)
    assert (overlay.serial, len(overlay)) == (8, 0)


def test_the_most_patterns_there_may_be():
    """
    A full set of patterns is rebuilt fast enough for a worker's loop, and all of them match.
    """
    overlay = Overlay(0)
    overlay.apply((change(f"pattern *word{i:04}*") for i in range(MAX_PATTERNS - 1)), 1)
    took = []
    for serial in range(2, 5):
        started = time.process_time()
        overlay.apply([change("pattern *word9999*")], serial)
        took.append(time.process_time() - started)
    assert min(took) < 0.1  # 2 ms on a quiet machine
    for i in (0, 500, MAX_PATTERNS - 2, 9999):
        (found,) = overlay.pattern_set.matching(f".my-word{i:04}.example.")
        assert found.text == f"*word{i:04}*"


def test_a_pause_is_no_rule():
    """
    It is kept beside the rules: on, off, and nothing said are three things.
    """
    overlay = Overlay(3)
    assert overlay.paused_until is None
    overlay.apply([change("pause filtering", "allow")], 4)
    assert (overlay.paused_until, len(overlay), overlay.names) == (math.inf, 0, {})
    overlay.apply([change("pause filtering", None)], 5)
    assert overlay.paused_until == 0


def test_a_pause_carries_its_end():
    """
    The last word counts, with its own end or without one.
    """
    overlay, key = Overlay(3), "pause filtering"
    off = Ruling("allow", "until 1795480000", ("operator",), 9, "pause", "filtering")
    overlay.apply([(key, off)], 4)
    assert overlay.paused_until == 1795480000
    overlay.apply([(key, off._replace(category=""))], 5)
    assert overlay.paused_until == math.inf


def test_rules_in_shadow_lie_apart():
    """
    They go into an overlay of their own, which is there from the first change on, and end there.
    """
    overlay = Overlay(3)
    aside = Ruling("shadow", "fraud", ("feed:a",), 4, "subtree", "evil.example")
    overlay.apply([("subtree evil.example", None)], 4)
    assert overlay.shadow is None
    overlay.apply([("shadow subtree evil.example", aside), ("shadow pattern *evil*", aside)], 5)
    assert overlay.names == {"evil.example": {"subtree": None}}
    assert overlay.patterns == {}
    assert overlay.shadow.names == {"evil.example": {"subtree": aside}}
    assert overlay.shadow.patterns.keys() == {"*evil*"}
    assert len(overlay) == 3
    overlay.apply([("shadow subtree evil.example", None)], 6)
    assert overlay.shadow.names == {"evil.example": {"subtree": None}}
