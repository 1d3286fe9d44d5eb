"""The hostile mutations: valid, different, the same again, and with the fraud still in them."""

import random
from difflib import SequenceMatcher

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urlguard import names
from urlguard.classify.confusables import decode, skeleton
from urlguard.classify.evaluation.mutations import MUTATIONS, URL_MUTATIONS, brand_in_path

NAMES = [
    "paypal-login.xyz",
    "a.b.icbc-95588.com.cn",
    "x.pages.dev",
    "q.top",
    "1.co.uk",
    "xn--fiqs8s.com",
    "www.xn--mnchen-3ya.de",
    "-odd-.top",
    "a_b.top",
    f"{'l' * 63}.com",
    ".".join(["a" * 60] * 3 + ["paypal" * 10, "top"])[-253:],
]


@pytest.mark.parametrize("kind", sorted(MUTATIONS))
@pytest.mark.parametrize("name", NAMES)
def test_a_mutation_is_another_valid_name(kind, name):
    """
    The result is canonical, owned by somebody, not the input, and the same for the same seed.
    """
    assert names.canonical(name) == name
    for seed in range(100):
        mutant = MUTATIONS[kind](name, random.Random(seed))
        assert mutant != name
        assert names.canonical(mutant) == mutant
        assert names.registrable(mutant) is not None
        assert all(0 < len(label) <= names.MAX_LABEL for label in mutant.split("."))
        assert mutant == MUTATIONS[kind](name, random.Random(seed))


LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)


@given(
    st.lists(LABEL, min_size=1, max_size=4),
    st.sampled_from(["com", "co.uk", "pages.dev", "xyz"]),
    st.sampled_from(sorted(MUTATIONS)),
    st.integers(0, 1000),
)
@pytest.mark.slow
def test_any_name_can_be_mutated(labels, suffix, kind, seed):
    """
    No owned name, however odd or long, raises or comes out invalid or unchanged.
    """
    name = ".".join([*labels, suffix])
    if len(name) > names.MAX_NAME or names.registrable(name) is None:
        return
    mutant = MUTATIONS[kind](name, random.Random(seed))
    assert mutant != name
    assert names.canonical(mutant) == mutant


@pytest.mark.parametrize(
    ("kind", "same_owner"),
    [
        ("subdomain_padding", True),
        ("random_prefix", True),
        ("homoglyph", False),
        ("hyphen", False),
        ("digit", False),
        ("tld_swap", False),
        ("word_insertion", False),
    ],
)
def test_what_costs_a_registration(kind, same_owner):
    """
    Labels in front keep the registered name; the others need a new one.
    """
    for seed in range(100):
        mutant = MUTATIONS[kind]("www.paypal-login.xyz", random.Random(seed))
        assert (names.registrable(mutant) == "paypal-login.xyz") is same_owner


def test_the_fraud_stays_readable():
    """
    Whatever is done, what a victim reads is there still.
    """
    for seed in range(200):
        rng = random.Random(seed)
        name = "paypal-login.xyz"
        assert MUTATIONS["tld_swap"](name, rng).startswith("paypal-login.")
        assert "paypal-login" in MUTATIONS["word_insertion"](name, rng)
        assert "paypal-login" in MUTATIONS["benign_word_stuffing"](name, rng)
        assert MUTATIONS["hyphen"](name, rng).replace("-", "") == "paypallogin.xyz"
        plain = "".join(c for c in MUTATIONS["digit"](name, rng) if not c.isdigit())
        assert plain == name
        mutant = MUTATIONS["homoglyph"](name, rng).removesuffix(".xyz")
        seen = skeleton(decode(mutant) or mutant)
        assert SequenceMatcher(None, seen, "paypal-login").ratio() > 0.7


def test_mutations_vary():
    """
    Each mutation has many results: an adversary does not try one thing only.
    """
    for kind, mutation in MUTATIONS.items():
        results = {mutation("paypal-login.xyz", random.Random(seed)) for seed in range(200)}
        assert len(results) >= 8, kind


@pytest.mark.parametrize("url", ["evil.top", "evil.top/", "evil.top/a/b.php?c=d", "evil.top?q=/x"])
def test_mutations_of_urls_leave_path_and_query(url):
    """
    On URLs the host changes and the rest stays; `brand_in_path` does the opposite.
    """
    assert set(URL_MUTATIONS) == {*MUTATIONS, "brand_in_path"}
    rest = url.removeprefix("evil.top")
    for kind in MUTATIONS:
        mutant = URL_MUTATIONS[kind](url, random.Random(3))
        assert mutant.endswith(rest)
        host = mutant.removesuffix(rest)
        assert host != "evil.top"
        assert names.canonical(host) == host
    mutant = brand_in_path(url, random.Random(3))
    assert mutant.startswith("evil.top/")
    assert mutant != url
    assert mutant.endswith(rest.removeprefix("/"))
