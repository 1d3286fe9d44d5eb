"""How heavy a change is: what one person may do, and what waits for a second."""

import pytest

from urlguard import wellknown
from urlguard.impact.approval import (
    blocked_rules,
    protected_names,
    reasons_for_approval,
    share_reason,
)
from urlguard.impact.sample import Count, Sampled
from urlguard.policy.model import Change
from urlguard.rules import Rule, scheduled


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("subtree evil.example", None),
        ("subtree google.com", "protected name"),
        ("below google.com", "protected name"),
        ("subtree evil.sites.google.com", None),
        ("subtree com.cn", "public suffix"),
        ("domain icbc.com.cn", "bank"),
        ("domain www.icbc.com.cn", "bank"),
        ("subtree gov.cn", "protected name"),
        # Everything of a government waits, hacked hosts too.
        ("subtree council.gov.cn", "government, gov.cn"),
        ("domain shop.council.gov.cn", "government, gov.cn"),
        ("domain pages.town.go.jp", "government, go.jp"),
        ("domain a.b.nhs.uk", "government, nhs.uk"),
        ("subtree gov.cn.evil.example", None),
        # A page is what URL rules are for, a whole site is not.
        ("url google.com/", "protected name"),
        ("url google.com/forms/evil", None),
        ("url council.gov.cn/", "government, gov.cn"),
        ("pattern keyword:evilword", None),
        ("pattern pay-*-verify.example", None),
    ],
)
def test_names_that_a_rule_touches(rule, words):
    """
    Suffixes, popular and protected names, banks and governments are named, whatever the kind.
    """
    assert protected_names(Rule.from_key(rule)) == ([] if words is None else [words])


def test_a_pattern_is_tried_on_what_is_well_known():
    """
    A pattern says no name, so it is held against all that must not be blocked.
    """
    (words,) = protected_names(Rule("pattern", "*google*"))
    assert words.startswith("fits ")
    assert "google.com (" in words or " more" in words
    (words,) = protected_names(Rule("pattern", "icbc.com.cn"))
    assert "icbc.com.cn (bank)" in words


def test_only_what_blocks_is_weighed():
    """
    Allowing, reviewing, shadowing and withdrawing block nobody; a scheduled block does.
    """
    name = next(iter(wellknown.popular()))
    harmless = [Change(f"subtree {name}", action) for action in ("allow", "review", "shadow", None)]
    assert reasons_for_approval(harmless) == []
    later = Change(scheduled(2_000_000_000, "subtree icbc.com.cn"), "block")
    assert blocked_rules([later, later]) == [Rule("subtree", "icbc.com.cn")]
    assert reasons_for_approval([later]) == ["subtree icbc.com.cn: bank"]


def sampled(hits, of, clients=5, weight=1.0):
    """A sample with so many queries that would newly be blocked."""
    return Sampled(Count(of, of * weight, 900), Count(hits, hits * weight, clients))


@pytest.mark.parametrize(
    ("sample", "held"),
    [
        (sampled(11, 10_000), True),
        (sampled(10, 10_000), False),  # a thousandth, and not more
        (sampled(100, 16_000), True),
        (sampled(16, 16_000), False),
        (sampled(17, 16_000), True),
        # A small sample: the same share, and no fewer hits.
        (sampled(10, 1_000), True),
        (sampled(9, 1_000), False),
        (sampled(9, 8_000), False),
        # No sample at all.
        (sampled(50, 999), False),
        (Sampled(), False),
    ],
)
def test_the_share_that_one_person_may_block(sample, held):
    """
    More than a thousandth of the live queries waits, seen at least ten times in a sample.
    """
    assert (share_reason(sample) is not None) is held
    reasons = reasons_for_approval([Change("subtree evil.example", "block")], sample)
    assert len(reasons) == held


def test_the_share_is_of_live_queries():
    """
    Entries of workers under load stand for more queries than those of others.
    """
    heavy = Sampled(Count(12_000, 1_000_000.0, 50), Count(12, 900.0, 3))
    assert share_reason(heavy) is None
    heavy = heavy._replace(newly=Count(12, 1_500.0, 3))
    assert share_reason(heavy) == (
        "would block 0.15% of live queries (12 of 12,000), of up to 3 clients; "
        "one person may block 0.1%"
    )


def test_the_words_say_what_is_small():
    """
    Whoever reads them knows how sure they are.
    """
    assert "(20 of a small sample of 2,000)" in share_reason(sampled(20, 2_000))


def test_a_sample_survives_json():
    """
    What control tells a command is what it knows.
    """
    made = Sampled(Count(9, 9.5, 3), Count(2, 2.0, 1), {"subtree evil.example": Count(2, 2.0, 1)})
    assert (
        Sampled.read([list(made.total), list(made.newly), {"subtree evil.example": [2, 2.0, 1]}])
        == made
    )


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("below la", ["public suffix"]),
        ("subtree com", ["public suffix"]),
        ("subtree pages.dev", ["public suffix"]),
        ("domain com", []),
        ("subtree shop.la", []),
        ("url shop.la/", []),
    ],
)
def test_what_lets_others_names_through(key, words):
    """
    All below a public suffix is many owners'; a popular name by itself is one's.
    """
    for action in ("allow", "review"):
        found = reasons_for_approval([Change(key, action)])
        assert found == [f"{key}: {reason}" for reason in words]
    name = next(iter(wellknown.popular()))
    assert reasons_for_approval([Change(f"subtree {name}", "allow")]) == []


def test_what_lets_much_through_waits():
    """
    As what blocks much does, and the words say which of the two.
    """
    change = [Change("subtree shop.la", "allow")]
    (words,) = reasons_for_approval(change, None, sampled(100, 16_000))
    assert words.startswith("would let through 0.6")
    assert reasons_for_approval(change, None, sampled(16, 16_000)) == []


def test_an_address_is_nobodys():
    """
    All URLs of an address, of either version, may be blocked by one person.
    """
    assert (
        protected_names(Rule("url", "192.0.2.7/"))
        == protected_names(Rule("url", "[2001:db8::1]/"))
        == []
    )
