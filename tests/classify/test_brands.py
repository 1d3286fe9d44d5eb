"""Brands in names: spellings, borders, overlaps, own domains, and the file."""

import gzip
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urlguard import names, wellknown
from urlguard.classify import brands
from urlguard.classify.brands import Brand, BrandError, BrandMatch, Brands, Spelling, read
from urlguard.data import build

SHIPPED = Brands.load()


def found(text, known=SHIPPED):
    """What stands in a text: key, kind and the characters."""
    return [(known[h.brand].key, h.kind.name, text[h.start : h.end]) for h in known.find(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("paypal", [("paypal", "EXACT", "paypal")]),
        ("securepaypalhelp", [("paypal", "EXACT", "paypal")]),
        ("icbc-denglu", [("icbc", "EXACT", "icbc")]),
        ("bank95588", [("icbc", "EXACT", "95588")]),
        ("中国工商银行登录", [("icbc", "EXACT", "中国工商银行")]),
        ("paypa1", [("paypal", "HOMOGLYPH", "paypa1")]),
        ("paypai-id", [("paypal", "HOMOGLYPH", "paypai")]),
        ("rnicrosoft", [("microsoft", "HOMOGLYPH", "rnicrosoft")]),
        ("g00gle", [("google", "HOMOGLYPH", "g00gle")]),
        ("faceb00klogin", [("facebook", "HOMOGLYPH", "faceb00k")]),
        ("1cbc", [("icbc", "HOMOGLYPH", "1cbc")]),
        ("1oo86", [("10086", "HOMOGLYPH", "1oo86")]),
        ("955888", [("icbc", "DIGIT", "955888")]),
        ("pay9pal", [("paypal", "DIGIT", "pay9pal")]),
        ("pay-pal", [("paypal", "HYPHEN", "pay-pal")]),
        ("my-meta-mask-wallet", [("metamask", "HYPHEN", "meta-mask-wallet")]),
        ("payapl-id", [("paypal", "TYPO", "payapl")]),
        ("payypal.top", [("paypal", "TYPO", "payypal")]),
        ("mcrosoft", [("microsoft", "TYPO", "mcrosoft")]),
        ("microsift", [("microsoft", "KEYBOARD", "microsift")]),
        ("binance-metamask", [("binance", "EXACT", "binance"), ("metamask", "EXACT", "metamask")]),
    ],
)
def test_a_brand_is_found_in_each_spelling(text, expected):
    """
    Each kind of disguise is recognised, named and placed.
    """
    assert found(text) == expected


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        # A whole token, by the text's ends, hyphens, dots, slashes or digits.
        ("apple", ["apple"]),
        ("my-apple-shop", ["apple"]),
        ("x.apple.top", ["apple"]),
        ("apple2024", ["apple"]),
        # One side a border, the other a lure word.
        ("verifyapple", ["apple"]),
        ("applelogin", ["apple"]),
        ("dhlexpress", ["dhl"]),
        # Part of another word.
        ("pineapple", []),
        ("applesauce", []),
        ("airline", []),
        ("startups", []),
        ("supervisa", []),
        # Two lure words and no border.
        ("accountdhlweb", []),
        # Three characters beside digits are chance.
        ("ups24", []),
        # A number within a longer one is another number.
        ("1955881", []),
        ("4795588213", []),
    ],
)
def test_ordinary_words_need_borders(text, keys):
    """
    A word that others contain counts only as a whole token or beside a lure word.
    """
    assert [SHIPPED[hit.brand].key for hit in SHIPPED.find(text)] == keys


def test_of_overlapping_hits_the_plainest_and_longest_is_kept():
    """
    An exact token beats a disguise that covers more; of equals the longer one wins.
    """
    known = Brands(
        [
            Brand("examplepay", ("examplepay",), frozenset(), "bank", "Pay", ()),
            Brand("example", ("example",), frozenset(), "bank", "Example", ()),
        ]
    )
    assert found("examplepay", known) == [("examplepay", "EXACT", "examplepay")]
    assert found("examplepa1", known) == [("example", "EXACT", "example")]
    assert found("examp1epay", known) == [("examplepay", "HOMOGLYPH", "examp1epay")]


def test_noise_drops_a_variant_or_gives_it_borders():
    """
    What the file calls noise is not found, or only as a whole token.
    """
    brand = Brand("sparkasse", ("sparkasse",), frozenset(), "bank", "Sparkasse", ())
    plain = Brands([brand])
    noisy = Brands([brand], ["-sparkase", "~soarkasse"])
    assert found("sparkase", plain) == [("sparkasse", "TYPO", "sparkase")]
    assert found("sparkase", noisy) == []
    assert found("xsoarkassex", plain) == [("sparkasse", "KEYBOARD", "soarkasse")]
    assert found("xsoarkassex", noisy) == []
    assert found("x-soarkasse", noisy) == [("sparkasse", "KEYBOARD", "soarkasse")]
    assert noisy.words == plain.words - 1


@given(st.text(alphabet="abcdeilmnopqrsty0159-.", max_size=40))
def test_hits_are_in_order_within_the_text_and_apart(text):
    """
    Whatever the text: hits lie in it, follow one another, do not overlap, and are the same again.
    """
    hits = SHIPPED.find(text)
    assert hits == SHIPPED.find(text)
    ends = [0]
    for hit in hits:
        assert ends[-1] <= hit.start < hit.end <= len(text)
        ends.append(hit.end)


def test_every_token_and_every_variant_is_found_in_itself():
    """
    No token hides behind another brand; a variant alone gives its brand, or one spelt the same.
    """
    for index in range(len(SHIPPED)):
        for token in SHIPPED[index].tokens:
            assert SHIPPED.find(token) == [BrandMatch(index, Spelling.EXACT, 0, len(token))], token


@pytest.mark.parametrize(
    "alone",
    [
        "cloud",
        "mobile",
        "trade",
        "access",
        "skill",
        "panel",
        "phone",
        "esports",
        "discount",
        "packet",
    ],
)
def test_common_words_are_no_disguises(alone):
    """
    Words one letter away from a brand are not taken for it.
    """
    assert SHIPPED.find(alone) == []


def test_popular_names_hardly_ever_seem_disguised():
    """
    Of popular names that are no brand's own, at most 1 in 500 seems to have a brand in disguise.
    """
    popular = [name for name in wellknown.popular() if SHIPPED.own(name) is None]
    disguised = [n for n in popular if any(h.kind != Spelling.EXACT for h in SHIPPED.find(n))]
    assert len(popular) > 1000
    assert len(disguised) * 500 <= len(popular), disguised


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("icbc.com.cn", "icbc"),
        ("mybank.icbc.com.cn", "icbc"),
        ("paypal.com", "paypal"),
        ("www.tax.service.gov.uk", "govuk"),
        ("gov.uk", "govuk"),
        ("paypal.com.evil.example", None),
        ("notpaypal.com", None),
        ("paypal.top", None),
        ("gov.uk.evil.example", None),
        ("evil.blob.core.windows.net", None),
        ("com", None),
    ],
)
def test_own_domains(name, key):
    """
    A brand's own are its registrable domains and what is below, not what customers or others have.
    """
    index = SHIPPED.own(name)
    assert (SHIPPED[index].key if index is not None else None) == key


def test_the_file_is_sound():
    """
    At least 500 brands, categories in use, canonical own domains that are registrable or a state's.
    """
    assert len(SHIPPED) >= 500
    listed = [SHIPPED[index] for index in range(len(SHIPPED))]
    assert {brand.category for brand in listed} == brands.CATEGORIES
    suffixes = set()
    for brand in listed:
        assert len(set(brand.tokens)) == len(brand.tokens)
        assert brand.ordinary <= set(brand.tokens)
        for domain in brand.domains:
            assert names.canonical(domain) == domain
            if names.registrable(domain) != domain:
                suffixes.add(domain)
    assert suffixes == {
        *("gov.cn", "gov.hk", "gov.uk", "nhs.uk", "gov.br", "gov.sg", "gov.in"),
    }
    # What takes a token away would be no noise but a mistake.
    tokens = {token for brand in listed for token in brand.tokens}
    _, noise = read(brands._FILE.read_text("utf-8"))
    assert noise
    assert len(noise) == len(set(noise))
    assert all(line[0] in "-~" and line[1:] not in tokens for line in noise)


def test_noise_is_needed():
    """
    Every line of noise names a variant that would be there without it.
    """
    listed, noise = read(brands._FILE.read_text("utf-8"))
    spelt = {
        text for brand in listed for token in brand.tokens for text, _ in brands.variants(token)
    }
    assert {line[1:] for line in noise} <= spelt


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("icbc | bank | ICBC", "line 1: must be"),
        ("# head\n\nicbc | | ICBC | -", "line 3: must be"),
        ("ICBC | bank | ICBC | -", "token 'ICBC'"),
        ("ic-bc | bank | ICBC | -", "token 'ic-bc'"),
        ("icbc | banks | ICBC | -", "category 'banks'"),
    ],
)
def test_a_wrong_line_is_named(text, message):
    """
    A slip of the pen in the file is an error with the number of its line.
    """
    with pytest.raises(BrandError, match=message):
        read(text)


def test_nothing_stands_with_two_brands():
    """
    A token or a domain of two brands, and no brands at all, are errors.
    """
    one = Brand("one", ("one", "same"), frozenset(), "bank", "One", ("one.example",))
    with pytest.raises(BrandError, match="token 'same'"):
        Brands([one, one._replace(key="two", tokens=("two", "same"), domains=())])
    with pytest.raises(BrandError, match=r"domain 'one\.example'"):
        Brands([one, one._replace(key="two", tokens=("two",))])
    with pytest.raises(BrandError, match="no brands"):
        Brands([])


def test_variants_of_short_and_ordinary_tokens_are_not_words():
    """
    Letters are changed only in tokens of six letters and more that are no ordinary words.
    """
    assert all(any(c.isdigit() for c in text) for text, _ in brands.variants("steam"))
    assert all(any(c.isdigit() for c in text) for text, _ in brands.variants("booking", True))
    assert not list(brands.variants("dhl"))
    kinds = {kind for _, kind in brands.variants("sparkasse")}
    assert kinds == {Spelling.HOMOGLYPH, Spelling.TYPO, Spelling.KEYBOARD}
    rng = random.Random(1)
    spelt = {text for text, _ in brands.variants("sparkasse")}
    assert "sparkasse" not in spelt
    for _ in range(50):
        at = rng.randrange(1, 8)
        assert "sparkasse"[:at] + "sparkasse"[at + 1 :] in spelt


def test_noise_is_made_from_popular_names(tmp_path, monkeypatch):
    """
    What two popular owners have is dropped, what stands inside a word is bordered; the rest stays.
    """
    head = "# See the line # == noise below.\nexamplify | bank | Examplify | examplify.com\n"
    (tmp_path / "brands.txt").write_text(head + "\n# == noise\n-old\n")
    domains = [
        *("exmplify.com", "exmplify.de"),  # two owners: a word
        "exampliffy.net",  # one owner: perhaps a disguise
        "xexamplifux.org",  # inside
        "exampify.examplify.com",  # the brand's own
        *("exam-plify.com", "exam-plify.net", "exam1plify.com", "exam1plify.net"),  # no strings
    ]
    table = "rank,domain\n" + "".join(f"1,{name}\n" for name in domains)
    (tmp_path / "popular_domains.csv.gz").write_bytes(gzip.compress(table.encode()))
    (tmp_path / "popular_fqdns.csv.gz").write_bytes(gzip.compress(b"rank,fqdn\n1,a.exmplify.de\n"))
    monkeypatch.setattr(build, "HERE", tmp_path)
    for _ in range(2):
        assert build.main(["brands", str(tmp_path)]) == 0
        text = (tmp_path / "brands.txt").read_text()
        assert text == head + "\n# == noise\n-exmplify\n~examplifu\n"


@pytest.mark.parametrize(
    "name", ["paypal.com", "www.paypal.com", "a.service.gov.uk", "gov.uk", "paypal.example", "com"]
)
def test_the_owner_is_the_same_for_a_name_that_was_split(name):
    """
    Whoever has split a name already need not have it split again.
    """
    assert SHIPPED.owner(*names.split(name)) == SHIPPED.own(name)
    assert (SHIPPED.own(name) is None) is (name in ("paypal.example", "com"))
