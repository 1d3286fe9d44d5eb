"""Rulings, and the compact text that logs and snapshots keep of them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urlguard.verdict import Ruling, decode, encode, from_parts

EVIL = Ruling("block", "fraud", ("feed:a", "feed:b"), 7, "subtree", "evil.example")


@pytest.mark.parametrize(
    ("key", "ruling", "text"),
    [
        ("subtree evil.example", EVIL, '["block","fraud",["feed:a","feed:b"],7]'),
        (
            "below www.evil.example",
            EVIL._replace(resolved=True),
            '["block","fraud",["feed:a","feed:b"],7,"subtree","evil.example"]',
        ),
        ("subtree evil.example", None, None),
    ],
)
def test_the_compact_text(key, ruling, text):
    """
    A plain ruling leaves kind and value to its key; a resolved one says which rule decided.
    """
    assert encode(ruling) == text
    assert decode(text, key) == ruling


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    st.builds(
        Ruling,
        st.sampled_from(["block", "review", "allow", "except"]),
        texts,
        st.lists(texts, min_size=1, max_size=3).map(tuple),
        st.integers(1, 1 << 40),
        st.sampled_from(["domain", "subtree", "below", "url", "pattern"]),
        texts,
        st.booleans(),
    )
)
def test_encoding_loses_nothing(ruling):
    """
    Whatever stands in a ruling comes back, from the text at its key and from the parts in a cell.
    """
    text = encode(ruling)
    assert text.isascii()
    assert "\n" not in text
    assert "\t" not in text
    assert decode(text, f"{ruling.kind} {ruling.value}") == ruling
    assert from_parts(json.loads(text), ruling.kind, ruling.value) == ruling


@pytest.mark.parametrize(
    ("sources", "operator"),
    [
        (("operator",), True),
        (("analyst:eve", "operator"), True),
        (("analyst:eve",), True),
        (("feed:a",), False),
        (("feed:a", "feed:b"), False),
    ],
)
def test_people_and_feeds(sources, operator):
    """
    A ruling of people outranks feeds; sources of the two never mix, as one tier decided.
    """
    assert EVIL._replace(sources=sources).operator is operator


def test_the_rule_object():
    """
    The five keys of ``rule`` in the object of `urlguard check`.
    """
    assert EVIL.as_json() == {
        "value": "evil.example",
        "kind": "subtree",
        "category": "fraud",
        "sources": ["feed:a", "feed:b"],
        "serial": 7,
    }
