"""Which rule values cover a name: whole labels only."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from urlguard.blocklist.suffixes import Suffixes, backwards
from urlguard.blocklist.table import Table, TableBuilder


def suffixes(folder, values):
    """The name rules with these values."""
    builder = TableBuilder()
    for value in values:
        builder.add(backwards(value), "subtree", '["block","",["feed:a"],1]')
    builder.write(folder, "names")
    return Suffixes(Table.open(folder, "names"))


@pytest.mark.parametrize(
    ("value", "name", "covered"),
    [
        ("evil.example", "evil.example", True),
        ("evil.example", "www.evil.example", True),
        ("evil.example", "a.b.c.evil.example", True),
        ("evil.example", "notevil.example", False),
        ("evil.example", "evil.example.net", False),
        ("evil.example", "example", False),
        ("evil.example", "evil-example", False),
        ("evil.example", "evilxexample", False),
        ("evil.example", ".evil.example", True),
        ("evil.example", "evil.example.", False),  # names come without their dot
        ("evil.example", "", False),
        ("example", "evil.example", True),
        ("il.example", "evil.example", False),
        ("evil.example", "Evil.Example", False),  # names come in lower case
        ("_a.evil.example", "_a.evil.example", True),
    ],
)
def test_rules_cover_whole_labels(tmp_path, value, name, covered):
    """
    A value covers itself and what is below it, and never part of a label.
    """
    found = suffixes(tmp_path, [value])
    assert list(found.covering(name)) == ([value] if covered else [])
    assert bool(found.keys(name)) is covered


labels = st.sampled_from(["a", "b", "aa", "ab", "a-b", "_a", "example"])
hosts = st.lists(labels, min_size=1, max_size=5).map(".".join)


@settings(max_examples=80)
@given(st.sets(hosts, max_size=20), st.lists(hosts, min_size=1, max_size=20))
def test_covering_is_what_a_naive_matcher_says(tmp_path_factory, values, names):
    """
    For any rules and names: equal, or the name ends in a dot and the rule.
    """
    found = suffixes(tmp_path_factory.mktemp("s"), values)
    assert len(found) == len(values)
    assert {value for value, _ in found.items()} == values
    for name in names:
        wanted = {v for v in values if name == v or name.endswith("." + v)}
        assert set(found.covering(name)) == wanted
        assert bool(found.keys(name)) is bool(wanted)
        assert bool(found.get(name)) is (name in values)
