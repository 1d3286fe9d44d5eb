"""Decoding A-labels, skeletons, scripts and their mixing."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from urlguard.classify import confusables
from urlguard.classify.confusables import decode, mixed, scripts, skeleton
from urlguard.data import build


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("xn--fiqs8s", "中国"),
        ("xn--mnchen-3ya", "münchen"),
        ("xn--80ak6aa92e", "аррӏе"),
        # No A-labels, or none that a registry gives.
        ("paypal", None),
        ("xn--", None),
        ("xn--abc-", None),
        ("xn--a\xe9", None),
        ("xn--99999999999", None),
        ("xn--" + "a" * 60, None),
        ("xn--" + "9" * 59, None),
    ],
)
def test_decode(label, text):
    """
    A-labels become what they stand for; anything else is None.
    """
    assert decode(label) == text


@given(st.text(alphabet="abcxyz019-", max_size=62))
@example("0")
def test_decode_never_raises_and_round_trips(rest):
    """
    Whatever stands after the prefix, the answer is None or text that is encoded as it was.
    """
    text = decode("xn--" + rest)
    if text is not None:
        assert not text.isascii()
        assert text.encode("punycode").decode() == rest
        assert isinstance(mixed(text), bool)
        assert isinstance(skeleton(text), str)


@pytest.mark.parametrize(
    ("text", "looks"),
    [
        ("раураӏ", "paypal"),
        ("аррӏе", "apple"),
        ("gооglе", "google"),
        ("myεthєrwallеt", "myetherwallet"),
        ("mícrosóft", "microsoft"),
        ("ｐａｙｐａｌ", "paypal"),
        ("PayPal", "paypal"),
        ("paypa1-rn", "paypa1-rn"),
        # Nothing in Chinese, Japanese or Korean looks like a letter.
        ("中国工商银行", "中国工商银行"),
        ("口一二工", "口一二工"),
        ("ロニエ", "ロニエ"),
        ("한국은행", "한국은행"),
        ("工商银行app", "工商银行app"),
    ],
)
def test_skeleton(text, looks):
    """
    What looks like ASCII becomes ASCII; ASCII and East Asian scripts stay.
    """
    assert skeleton(text) == looks
    assert skeleton(skeleton(text)) == skeleton(text)


def test_the_table_leads_to_ascii_once():
    """
    Each sign stands once, is not ASCII, and looks like letters or digits of a host name.
    """
    lines = confusables._FILE.read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    signs = [sign for _, row in rows for sign in row]
    assert len(signs) == len(set(signs)) > 300
    assert not any(sign.isascii() for sign in signs)
    assert all(shape.isascii() and shape.isalnum() and shape == shape.lower() for shape, _ in rows)
    # Folding must not take a sign out of the table's reach.
    assert all(confusables.folded(sign) == sign for sign in signs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("paypal-1", {"latin"}),
        ("12-3", set()),
        ("中国银行", {"han"}),
        ("々〆中", {"han"}),
        ("ラーメン屋", {"han", "kana"}),
        ("ﾗｰﾒﾝ", {"kana"}),
        ("한국ab", {"hangul", "latin"}),
        ("аpple", {"cyrillic", "latin"}),
        ("ελ", {"greek"}),
        ("سلام", {"arabic"}),
        ("ไทย", {"thai"}),
        ("हिन्दी", {"devanagari"}),
        ("ｐａｙ", {"latin"}),
        ("\u0378", {"other"}),
    ],
)
def test_scripts(text, expected):
    """
    Letters have a script, digits and hyphens have none; forms of a letter have the letter's.
    """
    assert scripts(text) == expected


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("аpple", True),
        ("gοogle", True),
        ("中国а", True),
        ("ひ한", True),
        ("paypal", False),
        ("apple中国", False),
        ("qq中国123", False),
        ("三菱ufjひらカタ", False),
        ("삼성a", False),
        ("ไทยabc", False),
        ("россия24", False),
        ("ελλάδα", False),
        ("münchen", False),
    ],
)
def test_mixed(text, answer):
    """
    Mixing is what no writing system does, by UTS 39; Chinese, Japanese, Korean with Latin is not.
    """
    assert mixed(text) is answer


# Top-level domains and common words of Chinese names.
CHINESE = [
    "中国",
    "公司",
    "网络",
    "中文网",
    "在线",
    "我爱你",
    "商城",
    "集团",
    "香港",
    "台湾",
    "政务",
    "公益",
]


@given(st.lists(st.sampled_from([*CHINESE, "vip", "24", "-", "qq", "4s店", "北京"]), min_size=1))
def test_chinese_names_are_left_alone(parts):
    """
    Chinese labels, with Latin letters and digits between, neither mix nor look like others.
    """
    text = "".join(parts)
    assert not mixed(text)
    assert scripts(text) <= {"han", "latin"}
    assert skeleton(text) == text


def test_the_table_is_made_from_pairs(tmp_path, monkeypatch):
    """
    Small signs that look like ASCII are taken, whichever way the pair stands; others are not.
    """
    pairs = {
        "а": [{"c": "a", "n": "LATIN SMALL LETTER A"}],  # Cyrillic
        "o": [{"c": "о", "n": "CYRILLIC SMALL LETTER O"}],  # the pair turned round: not read
        "о": [{"c": "o", "n": "LATIN SMALL LETTER O"}],
        "В": [{"c": "B", "n": "LATIN CAPITAL LETTER B"}],  # a capital
        "ǌ": [{"c": "nj", "n": "two letters"}],  # folding does it
        "口": [{"c": "o", "n": "an ideograph"}],
        "ɑ": [{"c": "ａ", "n": "FULLWIDTH LATIN SMALL LETTER A"}],
        "Ꮯ": [{"c": "C", "n": "LATIN CAPITAL LETTER C"}],
        "☉": [{"c": "o", "n": "no letter"}],
    }
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(pairs), "utf-8")
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build, "SMALL_CAPITALS", {"ʙ": "b"})
    monkeypatch.setattr(build, "ALIKE", {"к": "k"})
    assert build.main(["confusables", str(path)]) == 0
    lines = (tmp_path / "confusables.txt").read_text("utf-8").splitlines()
    rows = [line for line in lines if not line.startswith("#")]
    assert rows == ["a\tɑа", "b\tʙ", "k\tк", "o\tо"]
