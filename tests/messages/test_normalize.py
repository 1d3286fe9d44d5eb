"""Signs in plain form, and their places."""

import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from urlguard.messages import normalize
from urlguard.messages.normalize import DOUBTFUL, PICTURE, normalized


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Demo.COM", "demo.com"),
        ("ｄｅｍｏ．ｃｏｍ／ａ？ｂ＝１", "demo.com/a?b=1"),
        ("ⓓⓔⓜⓞ①⓪", "demo10"),
        ("⑴⒜", "1a"),
        ("❶❷➂➎", "1235"),
        ("🅳🅔🄼🅾", "demo"),
        ("𝐝𝘦𝓶𝔬", "demo"),
        ("ᴅᴇᴍᴏꜱɪ", "demosi"),
        ("d̶e̶m̶o̶", "demo"),
        ("1️⃣8️⃣", "18"),
        ("de\u200bm\u00ado\ufeff", "demo"),
        ("a‐b–c−d", "a-b-c-d"),
        ("a⁄b∶c", "a/b:c"),
        ("a•b・c⋅d丶e", "a·b·c·d·e"),
        ("a☆b👉c→d™", f"a{PICTURE}b{PICTURE}c{PICTURE}d{PICTURE}"),
        # What ends a URL where its ASCII form would not stays what it is.
        ("a。b，c！d（e）", "a。b，c！d（e）"),
        ("ﬁ", "fi"),
        ("İ", "i"),
        ("\ud800\ue000", "\ufffd\ufffd"),
        ("", ""),
    ],
)
def test_signs_in_plain_form(text, plain):
    """
    Whatever looks like a letter, a digit or a sign of URLs is that; unseen signs go.
    """
    assert normalized(text).text == plain


def test_places_are_of_the_message():
    """
    Signs that go or become several leave the places of the others right.
    """
    found = normalized("a\u200bb⒑c")
    assert found.text == "ab10.c"
    assert list(found.starts) == [0, 2, 3, 3, 3, 4]
    assert list(found.ends) == [1, 3, 4, 4, 4, 5]


def test_edits():
    """
    A new part stands for the whole of the old one; without edits the text is the same.
    """
    first = normalized("xxABCyy")
    assert first.edited([]) is first
    second = first.edited([(0, 2, ""), (3, 5, "--"), (6, 7, "!")])
    assert (second.cased, second.text) == ("A--y!", "a--y!")
    assert list(second.starts) == [2, 3, 3, 5, 6]
    assert list(second.ends) == [3, 5, 5, 6, 7]
    third = second.edited([(1, 3, ".")])
    assert (third.text, third.starts[1], third.ends[1]) == ("a.y!", 3, 5)


def test_every_sign_keeps_both_cases_side_by_side():
    """
    Of all signs there are, none becomes one of the parts' own signs, and lower case is as long.
    """
    for code in range(sys.maxunicode + 1):
        found = normalized(chr(code))
        assert len(found.text) == len(found.cased), hex(code)
        assert not set(found.text) & set(DOUBTFUL), hex(code)


def test_unseen_signs_are_unseen():
    """
    Each range that is left out holds marks, fillers and selectors, and no letters of any script.
    """
    for code in normalize._UNSEEN:
        assert unicodedata.category(chr(code)) in ("Mn", "Me", "Lo", "Cf", "Cn"), hex(code)
        assert not unicodedata.name(chr(code), "").endswith("LETTER"), hex(code)


@given(st.text(max_size=60))
@example("İ\u0307ß\ud800")
def test_places_rise(text):
    """
    For any text, places stand in it and in order, and ASCII is only put in lower case.
    """
    found = normalized(text)
    assert len(found.text) == len(found.cased) == len(found.starts) == len(found.ends)
    assert list(found.starts) == sorted(found.starts)
    assert all(0 <= a < b <= len(text) for a, b in zip(found.starts, found.ends, strict=True))
    if text.isascii():
        assert found.text == text.lower()


def test_the_table_of_signs_stays_small(monkeypatch):
    """
    A message of ever new signs does not fill the memory.
    """
    monkeypatch.setattr(normalize, "_MAX_TABLE", 3)
    table = normalize._Folds()
    assert [table[sign] for sign in "ａｂｃｄｅ"] == list("abcde")
    assert len(table) == 3
