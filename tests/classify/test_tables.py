"""The file of tables: what is written is read, and what is damaged is refused."""

import pytest

from urlguard.classify.tables import MAGIC, Tables, TablesError


def made():
    return Tables(
        {
            "weights": [-127, 0, 3, 127],
            "common": [1, 2],
            "keys": [0, 0xFFFFFFFF, 5, 6],
            "word_odds": [-8, 9],
        },
        ["login", "中"],
        frozenset(("weebly.com",)),
    )


def test_what_is_written_is_read(tmp_path):
    made().write(tmp_path / "t")
    again = Tables.open(tmp_path / "t")
    assert list(again.weights) == [-127, 0, 3, 127]
    assert list(again.common) == [1, 2]
    assert list(again.keys) == [0, 0xFFFFFFFF, 5, 6]
    assert list(again.word_odds) == [-8, 9]
    assert again.words == ["login", "中"]
    assert list(again.cut("xloginx")) == [(5, 0)]
    again.write(tmp_path / "u")
    assert (tmp_path / "u").read_bytes() == (tmp_path / "t").read_bytes()


def test_hosting_is_known_by_suffix_and_by_table():
    known = made()
    assert known.hosting("a.weebly.com")
    assert known.hosting("a.pages.dev")
    assert not known.hosting("weebly.com")
    assert not known.hosting("a.example.co.uk")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:11],
        lambda data: b"x" * len(data),
        lambda data: data[:-200],
        lambda data: MAGIC + (1 << 31).to_bytes(4) + data[12:],
        lambda data: data.replace(b'"weights"', b'"wEights"'),
        lambda data: data.replace(b'"words": [', b'"words": {'),
        lambda data: data.replace(b'["login", ', b"[          "),
    ],
)
def test_what_is_damaged_is_refused(tmp_path, damage):
    path = tmp_path / "t"
    made().write(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TablesError):
        Tables.open(path)


def test_sizes_are_powers_of_two():
    with pytest.raises(TablesError, match="power of two"):
        Tables({"weights": [0] * 3, "common": [0], "keys": [0], "word_odds": []}, [], frozenset())
