"""The mmapped table: exact keys, exact cells."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from urlguard.blocklist.table import EMPTY, Table, TableBuilder

RULING = '["block","fraud",["feed:a"],1]'
PARSED = ["block", "fraud", ["feed:a"], 1]


def table(folder, rows):
    """A table with these rows: key, kind, ruling."""
    builder = TableBuilder()
    for row in rows:
        builder.add(*row)
    builder.write(folder, "t")
    return Table.open(folder, "t")


def test_several_kinds_share_a_key(tmp_path):
    """
    A cell holds the ruling of each kind at its key, and cells of equal content are stored once.
    """
    rows = [(f"k{i}", kind, RULING) for i in range(1000) for kind in ("domain", "subtree")]
    found = table(tmp_path, [*rows, ("x", "below", RULING)])
    assert len(found) == 1001
    assert found.get("k7") == {"domain": PARSED, "subtree": PARSED}
    assert found.get("x") == {"below": PARSED}
    assert (tmp_path / "t.cells").stat().st_size < 200


@pytest.mark.parametrize("key", ["", "k", "k10", "K1", "k1 ", "\x00", "ключ", "k1" * 5000])
def test_a_key_that_is_not_there_has_an_empty_cell(tmp_path, key):
    """
    Not a prefix, not a longer key, not another case: only the key itself.
    """
    assert table(tmp_path, [("k1", "url", RULING)]).get(key) is EMPTY


def test_an_empty_table(tmp_path):
    """
    No rows make files that open, and are like the table without files.
    """
    for empty in (table(tmp_path, []), Table()):
        assert (len(empty), empty.get("a"), list(empty.items())) == (0, EMPTY, [])
        assert list(empty.prefixes("abc")) == []


keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(max_examples=60)
@given(st.dictionaries(keys, st.sampled_from(["block", "review"]), max_size=40), keys)
def test_a_table_is_a_dictionary(tmp_path_factory, rows, other):
    """
    Whatever the keys are, the table says what a dictionary says, and its prefixes are prefixes.
    """
    found = table(tmp_path_factory.mktemp("t"), [(k, "url", f'["{v}"]') for k, v in rows.items()])
    assert {key: cell["url"][0] for key, cell in found.items()} == rows
    for key in [*rows, other]:
        assert found.get(key).get("url") == ([rows[key]] if key in rows else None)
        assert sorted(k for k, _ in found.prefixes(key)) == sorted(
            k for k in rows if key.startswith(k)
        )
