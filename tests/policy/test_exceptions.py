"""Feeds' exceptions: they cancel their own feed's rules and nobody else's."""

import itertools

import pytest

from urlguard.verdict import decode

X, BELOW, DOMAIN = "subtree x.example", "below x.example", "domain x.example"
UP = "subtree example"


def actions(log, *keys):
    """The actions in force at keys."""
    return [r and r.action for r in map(log.ruling, keys)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_of_claims_does_not_matter(say, log, order):
    """
    A feed's rule above its exception, and another feed's: cancelled and kept in any order.
    """
    claims = [("feed:a", f"block {UP}"), ("feed:a", f"except {X}"), ("feed:b", f"review {UP}")]
    for i in order:
        say(*claims[i])
    assert actions(log, UP, X, BELOW) == ["block", "review", None]
    ruling = log.ruling(X)
    assert (ruling.kind, ruling.value, ruling.sources) == ("subtree", "example", ("feed:b",))
    assert ruling.resolved
    assert log.verify() is None


@pytest.mark.parametrize(
    ("claims", "wanted"),
    [
        ([("feed:a", f"except {X}")], ["except", None, None]),
        ([("feed:a", f"block {UP}"), ("feed:a", f"except {X}")], ["except", None, None]),
        ([("feed:b", f"block {UP}"), ("feed:a", f"except {X}")], ["block", None, None]),
        ([("feed:a", f"block {X}"), ("feed:b", f"except {X}")], ["block", None, None]),
        # A rule at the exception's own key is cancelled if it is the same feed's.
        ([("feed:a", f"except {X}"), ("feed:a", f"block {BELOW}")], ["except", "except", None]),
        ([("feed:a", f"except {X}"), ("feed:b", f"block {BELOW}")], ["except", "block", None]),
        # A more specific rule is not.
        ([("feed:a", f"except {X}"), ("feed:a", f"block {DOMAIN}")], ["except", None, "block"]),
        ([("feed:a", f"except {DOMAIN}"), ("feed:a", f"block {X}")], ["block", None, "except"]),
        # People are above all of it.
        ([("feed:a", f"except {X}"), ("operator", f"block {X}")], ["block", None, None]),
        ([("feed:a", f"except {X}"), ("operator", f"block {UP}")], ["except", None, None]),
    ],
)
def test_what_stands_at_an_exceptions_key(say, log, claims, wanted):
    """
    The strongest rule of the feeds that are left over the key, or ``except`` if none is.
    """
    for source, claim in claims:
        say(source, claim)
    assert actions(log, X, BELOW, DOMAIN) == wanted
    for source, claim in reversed(claims):
        say(source, "end " + claim.split(" ", 1)[1])
    assert actions(log, X, BELOW, DOMAIN, UP) == [None] * 4
    assert log.verify() is None


def test_a_rule_above_an_exception_has_effects_at_both_keys(say):
    """
    Who reads effects only must learn that the ruling at the exception's key changed with it.
    """
    say("feed:a", f"except {X}")
    batch = say("feed:b", f"block {UP}")
    assert [row.key for row in batch.effects] == [UP, X]
    batch = say("feed:a", f"block {UP}")
    assert batch.effects == []
    batch = say("feed:b", f"end {UP}")  # feed a's rule is left, and cancelled at x
    got = {row.key: decode(row.after, row.key).action for row in batch.effects}
    assert got == {X: "except"}
    batch = say("feed:a", f"end {X}")
    assert [(row.key, row.after) for row in batch.effects] == [(X, None)]


def test_effects_are_what_the_rulings_say(say, log):
    """
    Replaying all effects gives the keys and actions that `rulings` gives.
    """
    steps = [
        ("feed:a", f"block {UP}", f"except {X}", f"block {BELOW}"),
        ("feed:b", f"review {X}", f"except {UP}"),
        ("operator", f"allow {DOMAIN}"),
        ("feed:a", f"end {X}", f"except {BELOW}"),
        ("feed:b", f"end {X}"),
        ("operator", f"end {DOMAIN}"),
        ("feed:c", "block subtree a.x.example", f"block {DOMAIN}"),
        ("feed:c", f"except {DOMAIN}"),
    ]
    for step in steps:
        say(*step)
        replayed = {key: after for key, after, _ in log.store.changes(0) if after is not None}
        with log.store.reading():
            stands = dict(log.rulings())
        assert replayed.keys() == stands.keys()
        for key, text in stands.items():
            was, now = decode(replayed[key], key), decode(text, key)
            assert was._replace(sources=(), serial=0) == now._replace(sources=(), serial=0)
            assert now == log.ruling(key)
