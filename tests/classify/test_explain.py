"""Explanations: what is told adds up, every feature has words, the nearest name is bounded."""

import hashlib
import json
import random
import re
import time
import types
from string import Formatter
from zlib import crc32

import lightgbm
import numpy
import pytest

from tests.classify import toy
from urlguard import check, config, i18n, urls
from urlguard.blocklist import snapshot
from urlguard.classify import describe, explain, feature_messages, features, strings
from urlguard.classify.booster import Booster
from urlguard.classify.feature_list import BY_KIND
from urlguard.classify.model import Model, reading
from urlguard.classify.tables import Tables
from urlguard.engine import Engine

WORDS = ["account", "bonus", "garden", "login", "secure", "update", "water"]
ODDS = [4, 8, -8, 12, 10, 2, -6]

ENGLISH, CHINESE = map(i18n.translations, ("en", "zh"))


FRAUD = "secure-login12.paypal.bonus77.top"
ITEMS = [
    FRAUD,
    "1cbc-anquan.vip",
    "paypa1-login.com",
    "garden-water.org",
    "www.paypal.com",
    "m.facebook.com.account-verify.weebly.com",
    "xn--80ak6aa92e.com",
    "shop.customer-7.pages.dev",
    "a1b2c3d4e5f6.xyz",
    "x" * 63 + ".top",
    "7.cn",
    "localhost",
]
PATHS = [
    "/",
    "/login/update.php?id=7",
    "/~a/PayPal/verify%40/x.html",
    "/bonus-2024/a//b?u=http://x",
]
URLS = [
    *[f"http://{name}{path}" for name, path in zip(ITEMS, PATHS * 3, strict=True)],
    *("http://192.0.2.7/paypal", "http://[2001:db8::1]/", "http://a_b.x-.7/"),
]


def tables():
    """Small tables that know something about nearly everything."""
    rng = random.Random(4)
    found = Tables(
        {
            "weights": [rng.randint(-127, 127) for _ in range(4096)],
            "common": [rng.randint(0, 127) for _ in range(4096)],
            "keys": [0] * 4096,
            "word_odds": ODDS,
        },
        WORDS,
        frozenset(("weebly.com",)),
    )
    for name in ITEMS:
        cut = strings.pieces(name, found.shared)
        for at, key in enumerate(strings.keys(cut.suffix, cut.label.encode(), cut.before.encode())):
            # As `tables.entry` puts them: part of the hash, odds, evidence.
            found.keys[key & 4095] = (key >> 16) << 16 | (at * 3 % 25 + 116) << 8 | (1 + at % 12)
    return found


def names(count):
    """Names with all that the features look at, and whether they are fraud, mostly by words."""
    rng = random.Random(8)
    for _ in range(count):
        parts = rng.choices([*WORDS, "paypal", "icbc", "qxz", "a7", "mo"], k=rng.randint(1, 3))
        label = rng.choice(["-", ""]).join(parts) + rng.choice(["", "", str(rng.randint(0, 999))])
        suffix = rng.choice(["top", "com", "org", "weebly.com", "co.uk", "pages.dev"])
        before = rng.choice(["", "", "login.", "paypal.com.", "m7."])
        fraud = any(w in label for w in ("login", "bonus", "paypal")) ^ (rng.random() < 0.1)
        yield f"{before}{label}.{suffix}", fraud


@pytest.fixture(scope="module", params=BY_KIND)
def model(request, tmp_path_factory):
    """A real booster over the real features, of each kind; ``folder`` has its files."""
    kind = request.param
    folder = tmp_path_factory.mktemp("models")
    fitted = tables()
    fitted.write(folder / f"{kind}-1.tables")
    extract = features.Extractor(fitted)
    rng = random.Random(3)
    rows, labels = [], []
    for name, fraud in names(1500):
        path = rng.choice(PATHS)
        url = urls.parse(f"http://{name}{path}")
        rows.append(extract.name(name) if kind == "name" else extract.url(url))
        labels.append(fraud ^ (kind == "url" and "login" in path))
    data = lightgbm.Dataset(numpy.array(rows, dtype=float), numpy.array(labels, dtype=float))
    parameters = {"objective": "binary", "verbosity": -1, "num_threads": 1, "seed": 1}
    trees = lightgbm.train({**parameters, "feature_fraction": 0.3}, data, 60).model_to_string()
    (folder / f"{kind}-1.txt").write_bytes(trees.encode())
    threshold = {"block_at": 0.9, "review_at": 0.5}
    card = {
        "format": 1,
        "kind": kind,
        "name": f"{kind}-1",
        "features": [feature.name for feature in BY_KIND[kind]],
        "features_digest": features.digest(kind),
        "booster_sha256": hashlib.sha256(trees.encode()).hexdigest(),
        "tables_sha256": hashlib.sha256((folder / f"{kind}-1.tables").read_bytes()).hexdigest(),
        "calibration": [[-30.0, 0.0], [0.0, 0.5], [30.0, 1.0]],
        "thresholds": {"own": threshold, "hosting": threshold},
    }
    (folder / f"{kind}-1.json").write_text(json.dumps(card))
    made = Model.open(folder, kind, reader=reading)
    made.folder = folder
    return made


def items(model):
    """What a model of this kind is asked about."""
    return ITEMS if model.kind == "name" else [urls.parse(text) for text in URLS]


def raw(model, item):
    """The raw margin that is to be explained."""
    return model.margin(model.row(item))


def found_in(entries, feature):
    """The entry that tells a feature."""
    (found,) = (e for e in entries if feature in e["feature"].split(explain.JOIN))
    return found


# -- the sums --------------------------------------------------------------------------------------


def test_contributions_are_those_of_the_package():
    """
    LightGBM's own pred_contrib to the last bit, and a row of another length is refused.
    """
    rows = [toy.Extractor.name(None, name) for name in toy.names(50, seed=6)]
    booster = Booster(toy.trees())
    package = lightgbm.Booster(model_str=toy.trees().decode())
    theirs = package.predict(numpy.array(rows), pred_contrib=True).tolist()
    assert [booster.contributions(row) for row in rows] == theirs
    assert len(theirs[0]) == 5
    for row, parts in zip(rows, theirs, strict=True):
        assert sum(parts) == pytest.approx(booster.raw(row), abs=1e-9)
    with pytest.raises(ValueError, match="rows must have 4 numbers"):
        booster.contributions(rows[0][:3])


def test_what_is_listed_adds_up(model):
    """
    The entries are the raw margin to 1e-6, and the card makes the score of it, to its last digit.
    """
    for item in items(model):
        entries = explain.why(model, item)
        total = sum(entry["contribution"] for entry in entries)
        assert abs(total - raw(model, item)) <= 0.6e-6
        assert model.probability(total) == pytest.approx(model.score(item), abs=1.5e-6)


def test_check_carries_them(model):
    """
    ``--why`` fills `why` of each item that was scored, and of no other; the score stays.  What no
    model judges, such as reserved names, says so behind its reasons.
    """
    engine = Engine(snapshot.nothing())
    made = config.Config(classify=config.Classify(models=model.folder))
    classifier = check.Classifier(made)
    texts = [item if isinstance(item, str) else item.canonical for item in items(model)]
    plain, explained = (
        check.inspect_all(engine, texts, check.Classifier(made, score=True, why=why))
        for why in (False, True)
    )
    for item, without, found in zip(items(model), plain, explained, strict=True):
        assert without["why"] == []
        assert {**found, "why": []} == without
        *reasons, last = found["why"]
        ineligible = last["feature"] == check.NOT_JUDGED
        assert (reasons if ineligible else found["why"]) == explain.why(model, item)
        assert ineligible is (classifier.ineligible(model.kind, item) is not None)
    assert check.inspect(engine, "192.0.2.1", check.Classifier(made, why=True))["why"] == []


def test_all_contributions_add_up(model):
    """
    Every feature by its name, with its value; with base the margin.
    """
    for item in items(model):
        found = explain.contributions(model, item)
        assert list(found) == [*model.card.features, explain.BASE]
        assert [value for value, _ in found.values()][:-1] == list(map(float, model.row(item)))
        assert sum(part for _, part in found.values()) == pytest.approx(raw(model, item), abs=1e-6)


def test_entries_say_what_the_features_add(model):
    """
    A group's entry is its features' sum; others and base are the rest; the strongest come first.
    """
    for item in items(model):
        *told, others, base = explain.why(model, item)
        parts = explain.contributions(model, item)
        assert 1 <= len(told) <= explain.MOST
        sizes = [abs(entry["contribution"]) for entry in told]
        assert sizes == sorted(sizes, reverse=True)
        seen = [one for entry in told for one in entry["feature"].split(explain.JOIN)]
        assert len(seen) == len(set(seen)) == len(model.card.features) - others["value"]
        for entry in told:
            group = entry["feature"].split(explain.JOIN)
            assert entry["contribution"] == pytest.approx(sum(parts[n][1] for n in group), abs=1e-6)
            values = [parts[name][0] for name in group]
            assert entry["value"] == (values if len(values) > 1 else values[0])
        assert (others["feature"], base["feature"]) == (explain.OTHERS, explain.BASE)
        assert base["contribution"] == pytest.approx(parts[explain.BASE][1], abs=1e-6)
        # What is not told is weaker than what is, but for brands, which are always told.
        brands = [e for e in told if set(e["feature"].split(explain.JOIN)) & set(explain._BRAND)]
        weakest = min([abs(e["contribution"]) for e in told if e not in brands], default=0)
        rest = explain._groups([f for f in model.card.features if f not in seen])
        for group in rest.values():
            assert abs(sum(parts[name][1] for name in group)) <= weakest + 1e-6


def test_the_same_each_time_and_fit_for_json(model):
    """
    Asking twice gives the same, and an encoder needs nothing special; six digits at most.
    """
    for item in items(model):
        once = explain.why(model, item)
        assert json.loads(json.dumps(once)) == once == explain.why(model, item)
        for entry in once:
            assert set(entry) == {"feature", "value", "contribution", "words"}
            assert entry["contribution"] == round(entry["contribution"], 6)
            assert set(entry["words"]) == {"en", "zh"}


# -- the words -------------------------------------------------------------------------------------


def test_every_feature_has_words_in_both_languages():
    """
    The features and the messages are the same; messages use known parts only.
    """
    assert {feature.name for feature in BY_KIND["url"]} == describe.DESCRIBED
    known = set(_all_parts()) | {"n", "p", "times", "lean", "known"}
    messages = list(feature_messages.MEMORY.values())
    for full, none in feature_messages.FEATURES.values():
        messages += [full, none] if none else [full]
    for message in messages:
        plural = (message,) if isinstance(message, str) else message
        for text in plural:
            assert {field for _, field, _, _ in Formatter().parse(text) if field} <= known
            assert not re.search("[一-鿿]", text)
        assert re.search(
            "[一-鿿]", CHINESE.ngettext(*plural, 2) if plural[1:] else CHINESE.gettext(*plural)
        )


def _all_parts():
    """The placeholders of all parts that any item has."""
    fitted = features.Extractor(tables())
    found = {}
    model = types.SimpleNamespace(row=fitted.url, hosting=fitted.tables.hosting)
    for text in [*URLS, "http://xn--pypal-4ve.com/paypal/login"]:
        found |= explain._parts(model, urls.parse(text))[0].worded(i18n.translations("en"))
    return found


def test_every_phrase_says_its_value(model):
    """
    Whatever the values, a phrase is whole, and differs from the one for another value.
    """
    parts = dict.fromkeys(_all_parts(), "…")
    for name in describe.DESCRIBED:
        for language in i18n.LANGUAGES:
            said = []
            for value in (0.0, 1.0, 5.0):
                values = {name: value}
                if name.endswith("_evidence"):
                    values[name.replace("_evidence", "_odds")] = 2.5
                text = describe.describe(i18n.translations(language), name, values, parts)
                assert text
                assert "{" not in text
                said.append(text)
            if name.endswith("_odds") and f"{name[:-5]}_evidence" in describe.DESCRIBED:
                continue  # without evidence there is nothing to say
            assert said[0] != said[1], name
    assert describe.describe(ENGLISH, "digits", {"digits": 1.0}, {}) == "1 digit in the label"
    assert describe.describe(ENGLISH, "digits", {"digits": 3.0}, {}) == "3 digits in the label"
    assert describe.describe(CHINESE, "digits", {"digits": 3.0}, {}) == "域名主体含3个数字"
    assert (
        describe.describe(ENGLISH, "vowel_share", {"vowel_share": -1.0}, {})
        == "the label has no letters"
    )
    assert describe.describe(ENGLISH, "unheard", {"unheard": 2.5}, {}) == "unheard: 2.5"


def test_commonness_is_a_count():
    """
    Steps are those of the tables' training.
    """
    fit_tables = pytest.importorskip("urlguard.classify.training.fit_tables")
    assert describe.COMMON_STEPS == fit_tables.COMMON_STEPS
    steps = round(numpy.log2(1 + 1000) * fit_tables.COMMON_STEPS)
    said = describe.describe(ENGLISH, "common_least", {"common_least": steps}, {})
    (count,) = re.findall(r"some ([\d,]+) harmless", said)
    assert 900 < int(count.replace(",", "")) < 1100


@pytest.mark.parametrize("odds", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("language", i18n.LANGUAGES)
def test_odds_lean_both_ways_alike(odds, language):
    """
    For and against are told by the same measure.
    """
    pairs = {"en": ("for", "against"), "zh": ("诈骗", "正常")}[language]
    translations = i18n.translations(language)
    up, down = describe.lean(translations, odds), describe.lean(translations, -odds)
    assert up.replace(*pairs).replace("+", "-") == down
    assert up != describe.lean(translations, 0.25)


def test_evidence_is_a_count():
    """
    Steps are powers of two, as the tables have them, and the last has no end.
    """
    assert describe.known(ENGLISH, 2.5, 0) == "none remembered"
    assert (
        describe.known(ENGLISH, 2.5, 4) == "some 15 known, which speaks strongly for fraud (+2.50)"
    )
    assert describe.known(CHINESE, -1, 12) == "已知数千个，偏向正常（-1.00）"


def test_words_say_the_direction(model):
    """
    What raises says so, what lowers too, in both languages.
    """
    both = set()
    for item in items(model):
        for entry in explain.why(model, item):
            if entry["feature"] in (explain.OTHERS, explain.BASE) or not entry["contribution"]:
                continue
            up = entry["contribution"] > 0
            assert entry["words"]["en"].endswith("raises suspicion" if up else "lowers suspicion")
            assert entry["words"]["zh"].endswith("可疑度升高" if up else "可疑度降低")
            both.add(up)
    assert both == {True, False}


@pytest.mark.parametrize(
    ("name", "feature", "said"),
    [
        ("paypa1-login.com", "brand", "PayPal (paypal.com), written with signs that look like"),
        (FRAUD, "brand_before", "PayPal (paypal.com) stands before the domain, written plainly"),
        ("m.facebook.com.garden.org", "brand_before", "Facebook (facebook.com) stands before"),
        ("pay-pal.org", "brand", "written with hyphens inside “pay-pal”"),
    ],
)
def test_the_brand_is_named(model, name, feature, said):
    """
    Who is imitated, how and where, is always told.
    """
    item = name if model.kind == "name" else urls.parse(f"http://{name}/")
    words = found_in(explain.why(model, item), feature)["words"]
    assert said in words["en"]
    assert "品牌名" in words["zh"]
    assert "written" not in words["zh"]


def test_the_brand_in_a_path_is_named(model):
    """
    A path's brand is told for URLs.
    """
    if model.kind == "url":
        entry = found_in(explain.why(model, urls.parse("http://x.org/paypal/")), "brand_path")
        assert "PayPal (paypal.com) stands in the path, written plainly" in entry["words"]["en"]


def test_the_words_and_grams_that_count_are_quoted():
    """
    The word and the n-gram that features found are shown; the tables are looked up as they do.
    """
    fitted = features.Extractor(tables())
    row = dict(zip([f.name for f in BY_KIND["name"]], fitted.name("secure-login.org"), strict=True))
    model = types.SimpleNamespace(row=fitted.name, hosting=fitted.tables.hosting)
    parts, _ = explain._parts(model, "secure-login.org")
    assert parts.quoted["word_worst"] == "login"
    assert parts.worded(ENGLISH)["word_worst"] == " “login”"
    assert parts.worded(CHINESE)["word_worst"] == "“login”"
    assert row["word_worst"] == ODDS[WORDS.index("login")] * 0.25
    worst = parts.quoted["gram_worst"]
    assert worst in "secure-login"
    weights = fitted.tables.weights
    marked = [text for text in (worst, f"^{worst}", f"{worst}$") if text in "^secure-login$"]
    assert row["gram_worst"] in [weights[crc32(text.encode()) & 4095] / 32 for text in marked]


def test_a_model_over_other_features_is_explained_too(tmp_path):
    """
    Without words for its features and without tables, names and values remain.
    """
    toy.write(tmp_path)
    found = explain.why(Model.open(tmp_path, "name", reader=toy.read), toy.BAD)
    lure = found_in(found, "lure")
    assert lure["words"]["en"] == "lure: 2; raises suspicion"
    assert lure["value"] == 2.0
    assert found[-2]["feature"] == explain.OTHERS


# -- the nearest known name ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "known", "how"),
    [
        ("a.b.evil-shop.top", "b.evil-shop.top", "above"),
        ("www.evil-shop.top", "evil-shop.top", "above"),
        ("evil-shop.top", "evil-shop.xyz", "suffix"),
        ("bonus77.top", "bonus78.top", "series"),
        ("bonus07.top", "bonus11.top", "series"),
        ("bonus01.top", "bonus00.top", "series"),
        ("a1b22.top", "a3b22.top", "series"),
        ("m12.evil.pages.dev", "m13.evil.pages.dev", "series"),
        ("evil.pages.dev", "evil.netlify.app", "suffix"),
        ("paypal-secure.top", "paypal-secur.top", "edit"),
        ("paypal-secure.top", "paypal-esc.top", None),
        ("paypal-secure.top", "papyal-secure.top", "edit"),
        ("paypal-secure.top", "paypal-securf.top", "edit"),
        ("paypalsecure.top", "paypal-secure.top", "edit"),
        ("paypalsecure.top", "paypalsecure8.top", "edit"),
        ("top", "com", None),
        ("evil.top", "evil.top", None),
    ],
)
def test_the_nearest_listed_name(name, known, how):
    """
    The domain above, another suffix or number, or one sign: found by asking.
    """
    assert explain.nearest(name, {known}.__contains__) == (None if how is None else (known, how))


def test_the_nearer_comes_first():
    """
    Of several, the next number comes before a far one, and a number before another sign.
    """
    known = {"bonus60.top", "bonus79.top", "xonus77.top"}
    assert explain.nearest("bonus77.top", known.__contains__) == ("bonus79.top", "series")


@pytest.mark.parametrize("name", [*ITEMS, "1" * 63 + ".top", "a1" * 31 + ".xyz", "-.top", "_._.cn"])
def test_the_search_is_bounded(name):
    """
    However long the name, a bounded number of questions, none twice, in a few milliseconds.
    """
    asked = []
    start = time.process_time()
    assert explain.nearest(name, lambda near: bool(asked.append(near))) is None
    assert time.process_time() - start < 0.1  # usually 1 ms; the machine may be busy
    assert len(asked) == len(set(asked)) <= explain.MOST_ASKED
    assert name not in asked


def test_the_nearest_name_is_an_entry_that_adds_nothing(model):
    """
    It comes last; the sum stays; without a list, or an owner's name, there is none.
    """
    name = "http://bonus77.top/" if model.kind == "url" else "bonus77.top"
    item = urls.parse(name) if model.kind == "url" else name
    without = explain.why(model, item)
    found = explain.why(model, item, {"bonus76.top"}.__contains__)
    assert found[:-1] == without
    assert found[-1]["feature"] == explain.NEAREST
    assert (found[-1]["value"], found[-1]["contribution"]) == ("bonus76.top", 0.0)
    assert found[-1]["words"]["en"].startswith("bonus76.top is listed as fraud: the same series")
    assert explain.why(model, item, lambda _: False) == without
    if model.kind == "url":
        address = urls.parse("http://192.0.2.7/")
        assert explain.why(model, address, lambda _: True)[-1]["feature"] == explain.BASE
