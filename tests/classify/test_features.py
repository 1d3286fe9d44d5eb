"""Features: one definition, whole numbers or rounded, for whatever name comes in."""

import math
import random
import re
import subprocess
import sys
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urlguard import names, urls
from urlguard.classify import feature_list, features, strings
from urlguard.classify.feature_list import NAME, URL
from urlguard.classify.features import Extractor
from urlguard.classify.tables import ODDS_UNIT, WEIGHT_UNIT, Tables

WORDS = ("login", "pay", "secure", "shop")


def tables(shared=("weebly.com",)):
    """Tables in which every n-gram weighs a step, and four words are known."""
    return Tables(
        {"weights": [1] * 64, "common": [6] * 64, "keys": [0] * 64, "word_odds": [4, 8, -2, 0]},
        WORDS,
        frozenset(shared),
    )


@pytest.fixture(scope="module")
def extract():
    return Extractor(tables())


def named(extract, name):
    return dict(zip([feature.name for feature in NAME], extract.name(name), strict=True))


def of_url(extract, text):
    row = extract.url(urls.parse(text))
    return dict(zip([feature.name for feature in URL], row, strict=True))


def test_names_are_told_apart_and_say_what_they_catch():
    known = [feature.name for feature in URL]
    assert len(set(known)) == len(known)
    assert URL[: len(NAME)] == NAME
    assert all(len(feature.catches) > 10 for feature in URL)


@pytest.mark.parametrize(
    ("name", "suffix", "label", "before", "hosting"),
    [
        ("example.com", "com", "example", "", False),
        ("www.example.com", "com", "example", "", False),
        ("www.com", "com", "www", "", False),
        ("a.b.example.co.uk", "co.uk", "example", "a.b", False),
        ("shop-1.pages.dev", "pages.dev", "shop-1", "", True),
        ("a.shop.weebly.com", "weebly.com", "shop", "a", True),
        ("weebly.com", "com", "weebly", "", False),
        ("com", "", "com", "", False),
        ("localhost", "", "localhost", "", False),
    ],
)
def test_a_name_is_cut_where_its_owner_begins(name, suffix, label, before, hosting):
    cut = strings.pieces(name, frozenset(("weebly.com",)))
    assert cut[1:] == (suffix, label, before, hosting)


def test_signs_are_counted(extract):
    found = named(extract, "m.pay--login-2024abc.example1.xyz")
    assert found["label_length"] == 8
    assert found["digits"] == 1
    assert found["digit_last"] == 1
    assert found["before_labels"] == 2
    assert found["before_digit_longest"] == 4
    assert found["before_hyphens"] == 3
    assert found["before_words"] == 2
    assert found["before_word_worst"] == 8 * ODDS_UNIT


def test_words_cut_a_label_up(extract):
    found = named(extract, "securepayxx.com")
    assert found["words"] == 2
    assert found["words_share"] == round(9 / 11, 3)
    assert found["word_worst"] == 8 * ODDS_UNIT
    assert found["word_best"] == -2 * ODDS_UNIT
    assert found["unknown_longest"] == 2


def test_every_gram_of_a_label_is_weighed(extract):
    found = named(extract, "abcdef.com")
    # ^abcdef$ has 6 trigrams, 5, 4 and 3 longer ones; two for the suffix, one for nothing before.
    assert found["grams_label"] == 18 * WEIGHT_UNIT
    assert found["grams_suffix"] == 2 * WEIGHT_UNIT
    assert found["grams"] == 21 * WEIGHT_UNIT
    assert found["common"] == 6


@pytest.mark.parametrize("size", [1, 2, 3, 10, 63, 100, 125, 126, 127, 200, 700])
def test_every_gram_is_hashed_whatever_the_length(size):
    rng = random.Random(size)
    text = "".join(rng.choices("abcxyz019-", k=size))

    def grams(longest, start=0):
        data = f"^{text}$".encode()
        found = (
            data[at : at + n] for n in range(3, longest + 1) for at in range(len(data) + 1 - n)
        )
        return [crc32(gram, start) for gram in found]

    assert strings.label_grams(text.encode()) == grams(6)
    assert strings.before_grams(text.encode()) == grams(5, strings._BEFORE)
    assert strings.tail_grams(text, strings.IN_PATH) == grams(5, strings.IN_PATH)


def test_nothing_before_the_domain_is_told_from_something():
    assert strings.before_grams(b"") == [crc32(b"^$", strings._BEFORE)]
    assert strings.suffix_grams("") == (crc32(b"", 7), crc32(b"", 8))
    assert strings.suffix_grams("co.uk") == (crc32(b"co.uk", 7), crc32(b"uk", 8))


@pytest.mark.parametrize(
    ("label", "shape", "runs", "series"),
    [
        (b"abc", b"aaa", b"a", b"abc"),
        (b"ab12-c3", b"aa00-a0", b"a0-a0", b"ab0-c0"),
        (b"2024", b"0000", b"0", b"0"),
        (b"a--_b", b"a--_a", b"a--_a", b"a--_b"),
    ],
)
def test_keys_are_made_of_shapes_runs_and_series(label, shape, runs, series):
    made = strings.keys("co.uk", label, b"m7.x")
    assert made[0] == crc32(b"a" + shape + b"|co.uk")
    assert made[1] == crc32(b"b" + series)
    assert made[7] == crc32(b"h" + runs + label[:3] + b"|co.uk")
    assert made[8] == crc32(b"im0.x")
    assert made[9] == crc32(b"j" + shape + b"|a0.a|co.uk")
    assert made[10:12] == [crc32(b"k|co.uk"), crc32(b"luk")]
    assert strings.keys("top", label, b"")[8:10] == [
        crc32(b"i"),
        crc32(b"j" + shape + b"||top"),
    ]


def test_pinyin_is_initials_and_the_longest_finals():
    initials = (*"bpmfdtnlgkhrjqxyw", "z", "zh", "c", "ch", "s", "sh")
    finals = {
        *("a", "ai", "an", "ang", "ao", "e", "ei", "en", "eng", "o", "ong", "ou"),
        *("i", "ia", "ian", "iang", "iao", "ie", "in", "ing", "iong", "iu"),
        *("u", "ua", "uai", "uan", "uang", "ue", "ui", "un", "uo"),
    }
    alone = {"a", "ai", "an", "ang", "ao", "e", "en", "er", "o", "ou"}
    syllables = {first + last for first in initials for last in finals}.union(alone)
    longest = sorted(syllables, key=lambda one: (-len(one), one))
    plain = re.compile(f"(?:{'|'.join(longest)})+".encode()).findall
    rng = random.Random(5)
    random_text = (
        "".join(rng.choices("aeiounghzcsrbly", k=rng.randint(1, 12))) for _ in range(5000)
    )
    pairs = (first + last for first in longest[::7] for last in longest[::5])
    for text in (*longest, *pairs, *random_text):
        assert features._pinyin(text.encode()) == plain(text.encode()), text


def test_shares_are_rounded_parts_at_every_length(extract):
    for whole in (1, 7, 62, 63, 64, 200):
        for part in range(whole + 1):
            assert features._share(part, whole) == round(part / whole, 3)
    digits = named(extract, "12-34.com")
    assert (digits["digit_share"], digits["vowel_share"]) == (0.8, -1)


@pytest.mark.parametrize(
    ("label", "longest"), [("abc", 1), ("aab", 2), ("abbbcc", 3), ("a--1", 2), ("xx7777xx", 4)]
)
def test_the_longest_repetition_is_counted(extract, label, longest):
    assert named(extract, f"{label}.com")["repeat_longest"] == longest


@pytest.mark.parametrize(
    ("name", "kind", "own"),
    [
        ("paypal-help.top", 1, 0),
        ("paypa1.com", 3, 0),
        ("www.paypal.com", 1, 1),
        ("garden.example", 0, 0),
    ],
)
def test_brands_are_found_where_they_stand(extract, name, kind, own):
    found = named(extract, name)
    assert found["brand"] == kind
    assert found["brand_own"] == own


def test_a_brand_before_the_domain_is_another_thing(extract):
    found = named(extract, "paypal.com.account.top")
    assert (found["brand"], found["brand_before"]) == (0, 1)


def test_foreign_labels_are_decoded(extract):
    found = named(extract, names.canonical("раураӏ.com"))
    assert found["foreign_labels"] == 1
    assert found["foreign_alike"] == 6
    assert found["foreign_brand"] == 1
    chinese = named(extract, names.canonical("中国银行.cn"))
    assert chinese["foreign_labels"] == 1
    assert chinese["foreign_mixed"] == 0


def test_memory_answers_only_for_its_own_key():
    entries = [0] * 64
    key = strings.keys("top", b"abc12", b"")[0]
    entries[key & 63] = key >> 16 << 16 | (128 + 8) << 8 | 5
    extract = Extractor(
        Tables(
            {"weights": [0] * 2, "common": [0] * 2, "keys": entries, "word_odds": []},
            (),
            frozenset(),
        )
    )
    found = named(extract, "xyz99.top")  # of the same shape, so of the same key
    assert (found["shape_odds"], found["shape_evidence"]) == (8 * ODDS_UNIT, 5)
    assert named(extract, "xyz999.top")["shape_evidence"] == 0


def test_one_place_for_all_keys_answers_for_its_own_alone():
    key = strings.keys("top", b"abc12", b"")[0]
    table = [key >> 16 << 16 | (128 - 3) << 8 | 7]
    extract = Extractor(
        Tables(
            {"weights": [0] * 2, "common": [0] * 2, "keys": table, "word_odds": []}, (), frozenset()
        )
    )
    found = named(extract, "abc12.top")
    assert (found["shape_odds"], found["shape_evidence"]) == (-3 * ODDS_UNIT, 7)
    others = [feature.name for feature in feature_list._MEMORY[2:]]
    assert [found[name] for name in others] == [0] * 24


def test_urls_are_read_beyond_the_host(extract):
    found = of_url(extract, "http://a.example/x/Login.php?u=me%40b.example&next=http://c.example")
    assert found["path_depth"] == 2
    assert found["path_uppercase"] == 1
    assert found["query_parameters"] == 2
    assert found["query_mail"] == 1
    assert found["query_address"] == 1
    assert found["words_path"] == 1
    assert found["bare"] == 0
    assert of_url(extract, "http://192.0.2.1/")["address"] == 1


@pytest.mark.parametrize(
    "host", ["a" * 520, "%00" * 600, "\U0001f600" * 300, "-" * 2000, "a." * 1000]
)
def test_hosts_that_are_no_names_are_bounded(extract, host):
    row = extract.url(urls.parse(f"http://{host}/"))
    assert all(math.isfinite(value) for value in row)


_labels = st.text("abcxyz019-_", min_size=1, max_size=63)


@given(st.lists(_labels, min_size=1, max_size=4).map(".".join))
def test_any_name_gives_finite_numbers(name):
    try:
        name = names.canonical(name)
    except ValueError:
        return
    extract = Extractor(tables())
    for row in (extract.name(name), extract.url(urls.parse(f"{name}/%ff?{name}"))):
        assert all(math.isfinite(value) for value in row)
        assert all(value == round(value, 5) for value in map(float, row))


def test_many_at_once_are_each_as_alone():
    """
    Names with and without everything that a group of features looks for; and none at all.
    """
    extract = Extractor(tables())
    many = [*features._PROBES, "localhost", "x" * 63 + ".top", "a-1.b-2.shop--7.weebly.com"]
    assert extract.of_names(many) == list(map(extract.name, many))
    ends = ["/", "/wp-content/login.php?user=a@b.c&id=7", "/a//b~%41?u=http://x"]
    made = [urls.parse(f"http://{name}{end}") for name in many for end in ends]
    made.append(urls.parse("http://192.0.2.7/paypal"))
    assert extract.of_urls(made) == list(map(extract.url, made))
    assert extract.of_names([]) == extract.of_urls([]) == []


@given(st.text(max_size=60))
def test_any_url_gives_finite_numbers(tail):
    try:
        url = urls.parse(f"http://a.example/{tail}")
    except ValueError:
        return
    assert all(math.isfinite(value) for value in Extractor(tables()).url(url))


def test_the_digest_is_the_same_in_every_process():
    code = "from urlguard.classify import features as f; print(f.digest('name'), f.digest('url'))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {f"{features.digest('name')} {features.digest('url')}\n"}
    assert features.digest("name") != features.digest("url")


def test_the_digest_notices_another_definition(monkeypatch):
    before = features.digest("name")
    features.digest.cache_clear()
    monkeypatch.setattr(strings, "_BEFORE", 1)
    after = features.digest("name")
    features.digest.cache_clear()
    assert after != before
