"""Host names: canonical form, IDNA, and owners by the public suffix list."""

import subprocess
import sys

import pytest
import tldextract
from hypothesis import given
from hypothesis import strategies as st

from urlguard import names
from urlguard.errors import InputError

LONGEST = ".".join(["a" * 63] * 3 + ["b" * 61])  # 253 characters


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("evil.example", "evil.example"),
        ("Evil.EXAMPLE", "evil.example"),
        ("evil.example.", "evil.example"),
        ("\t evil.example \r\n", "evil.example"),
        ("localhost", "localhost"),
        ("_dmarc.evil.example", "_dmarc.evil.example"),
        ("r3---sn-x.example", "r3---sn-x.example"),
        ("-odd-.example", "-odd-.example"),
        ("xn--a.example", "xn--a.example"),  # decodes to nothing valid
        ("1.2.3.4.example", "1.2.3.4.example"),
        ("0x7f.0xevil", "0x7f.0xevil"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
        (LONGEST, LONGEST),
        (LONGEST + ".", LONGEST),
        # Mapped by UTS 46.
        ("ｅｖｉｌ．ＥＸＡＭＰＬＥ", "evil.example"),
        ("evil。example", "evil.example"),
        ("evil｡example．", "evil.example"),
        ("\u212aelvin.example", "kelvin.example"),  # the Kelvin sign
        ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
        ("_x.例え.example", "_x.xn--r8jz45g.example"),
        ("faß.example", "xn--fa-hia.example"),  # transitional would say fass
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("e\u0301.example", "xn--9ca.example"),  # composed first
    ],
)
def test_a_name_has_one_canonical_form(text, name):
    """
    Case, dots, width and script of a name lead to one form, which is its own canonical form.
    """
    assert names.canonical(text) == name
    assert names.canonical(name) == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        (" . ", "empty"),
        ("192.0.2.1", "is an IP address"),
        ("192.0.2.1.", "is an IP address"),
        ("１９２.0.2.1", "is an IP address"),
        ("2001:db8::1", "is an IP address"),
        ("[2001:db8::1]", "is an IP address"),
        ("1.2.3.4.5", "last label '5' is a number"),
        ("evil.42", "last label '42' is a number"),
        ("42", "last label '42' is a number"),
        ("0x7f000001", "last label '0x7f000001' is a number"),  # 127.0.0.1 to a browser
        ("evil.0x", "last label '0x' is a number"),
        (".evil.example", "label 1 is empty"),
        ("evil..example", "label 2 is empty"),
        ("evil.example..", "label 3 is empty"),
        ("a" * 64 + ".example", "label length 64, limit is 63"),
        (LONGEST + "c", "254 characters, limit is 253"),
        ("a." * 1000 + "example", "limit is 253"),
        ("evil.example/x", "has '/'"),
        ("evil.example:80", "has ':'"),
        ("a@evil.example", "has '@'"),
        ("*.evil.example", "has '*'"),
        ("||evil.example^", "has '|'"),
        ("evil example", "has ' '"),
        ("evil\x00.example", r"has '\\x00'"),
        ("evil\n.example", r"has '\\n'"),
        ("℀.example", "has '/'"),  # the mapping makes "a/c" of one character
        ("\u00ad", "nothing is left"),
        ("☃.example", "not encodable under IDNA 2008"),
        ("a\ud800.example", "not encodable under IDNA 2008"),
        ("ab\u0300-.example", "not encodable under IDNA 2008"),
    ],
)
def test_what_is_no_name_is_refused_with_the_reason(text, words):
    """
    Text that cannot be a host name raises InputError, whose message is ASCII and says why.
    """
    with pytest.raises(InputError, match=words) as caught:
        names.canonical(text)
    message = str(caught.value)
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 300


@pytest.mark.parametrize(
    "char", [c for c in map(chr, range(128)) if not (c.isalnum() or c in "-_.")]
)
def test_no_other_ascii_character_passes(char):
    """
    In ASCII text, only letters, digits, ``-``, ``_`` and dots can stand inside a name.
    """
    with pytest.raises(InputError):
        names.canonical(f"a{char}b.example")


@given(st.text(max_size=300))
def test_any_text_is_a_stable_name_or_an_input_error(text):
    """
    Whatever the text, the answer is InputError or a form that is its own canonical form.
    """
    try:
        name = names.canonical(text)
    except InputError:
        return
    assert names.canonical(name) == name
    assert name.isascii()
    assert name == name.lower()
    assert 0 < len(name) <= 253
    assert all(0 < len(label) <= 63 for label in name.split("."))


@pytest.mark.parametrize(
    ("name", "suffix", "registrable"),
    [
        ("evil.example", "example", "evil.example"),  # unlisted: the default rule *
        ("a.b.evil.example", "example", "evil.example"),
        ("example", "example", None),
        ("com", "com", None),
        ("a.evil.com", "com", "evil.com"),
        ("co.uk", "co.uk", None),
        ("a.evil.co.uk", "co.uk", "evil.co.uk"),
        ("uk", "uk", None),
        # *.ck and !www.ck
        ("ck", "ck", None),
        ("evil.ck", "evil.ck", None),
        ("a.evil.ck", "evil.ck", "a.evil.ck"),
        ("b.a.evil.ck", "evil.ck", "a.evil.ck"),
        ("www.ck", "ck", "www.ck"),
        ("a.www.ck", "ck", "www.ck"),
        # *.kawasaki.jp and !city.kawasaki.jp; kawasaki.jp itself is below jp
        ("kawasaki.jp", "jp", "kawasaki.jp"),
        ("a.b.kawasaki.jp", "b.kawasaki.jp", "a.b.kawasaki.jp"),
        ("a.city.kawasaki.jp", "kawasaki.jp", "city.kawasaki.jp"),
        # private section
        ("github.io", "github.io", None),
        ("a.evil.github.io", "github.io", "evil.github.io"),
        # written in Chinese in the list
        ("evil.xn--55qx5d.cn", "xn--55qx5d.cn", "evil.xn--55qx5d.cn"),
        ("xn--fiqs8s", "xn--fiqs8s", None),
    ],
)
def test_owners_follow_the_public_suffix_list(name, suffix, registrable):
    """
    The longest rule wins, exceptions beat wildcards, and what no rule matches falls under ``*``.
    """
    assert names.suffix(name) == suffix
    assert names.registrable(name) == registrable
    assert names.is_public_suffix(name) is (registrable is None)


@pytest.fixture(scope="module")
def oracle():
    """tldextract itself, on the same list, without network and cache."""
    return tldextract.TLDExtract(
        suffix_list_urls=(), cache_dir=None, include_psl_private_domains=True
    )


def rules():
    """The list's rules as tldextract reads them, with A-labels by the idna package."""
    import idna

    oracle = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    oracle("a.example")
    for rule in oracle._get_tld_extractor().tlds(include_psl_private_domains=True):
        mark = rule[: 2 * rule.startswith("*.") + rule.startswith("!")]
        name = rule[len(mark) :]
        yield mark + (name if name.isascii() else idna.encode(name, uts46=True).decode())


def naive_suffix(name, listed):
    """The algorithm of publicsuffix.org, word by word."""
    labels = name.split(".")
    best = labels[-1:]
    for i in range(len(labels)):
        here = ".".join(labels[i:])
        if "!" + here in listed:
            return ".".join(labels[i + 1 :])
        star = ".".join(["*", *labels[i + 1 :]])
        if (here in listed or star in listed) and len(labels) - i > len(best):
            best = labels[i:]
    return ".".join(best)


def test_every_rule_of_the_list_acts_as_the_published_algorithm_says():
    """
    At, below and two below each rule of the list, the owner is that of the naive algorithm.
    """
    listed = set(rules())
    assert len(listed) > 9000
    for rule in listed:
        base = rule.lstrip("*!").lstrip(".")
        for name in (base, f"a.{base}", f"b.a.{base}", f"c.b.a.{base}"):
            suffix = naive_suffix(name, listed)
            owner = name[: -len(suffix) - 1].rpartition(".")[2] + "." + suffix
            assert names.split(name) == (suffix, None if name == suffix else owner), name


def test_owners_agree_with_tldextract(oracle):
    """
    Below every rule of the list, tldextract names the same suffix and registrable domain.

    It has no answer at the base of a wildcard, which is why names one label deeper are asked.
    """
    sample = [f"b.a.{rule.lstrip('*!').lstrip('.')}" for rule in rules()]
    assert len(sample) > 9000
    for name in sample:
        found = oracle(name)
        owner = found.top_domain_under_public_suffix or None
        assert names.split(name) == (found.suffix, owner), name


def test_listed_suffixes_are_public_suffixes():
    """
    The spelled-out suffixes are suffixes, and hold neither wildcards' bases nor exceptions.
    """
    listed = names.listed_suffixes()
    assert {"com", "co.uk", "github.io"} <= listed
    assert not {"www.ck", "kawasaki.jp", "ck"} & listed
    assert all(map(names.is_public_suffix, listed))


@pytest.mark.parametrize(
    ("name", "icann"),
    [
        *(("a.com", True), ("www.a.co.uk", True), ("a.github.io", True), ("a.b.ck", True)),
        *(("www.ck", True), ("a.xn--p1ai", True), ("com", False), ("co.uk", False)),
        *(("github.io", False), ("b.ck", False), ("a.lan", False), ("a.example", False)),
        *(("lan", False), ("", False), ("a.", False)),
    ],
)
def test_icann_names_have_an_owner_below_a_listed_top_level_domain(name, icann):
    """
    Private suffixes stand below ICANN's too; names of nobody and of local networks do not count.
    """
    assert names.is_icann(name) is icann


def test_every_top_level_domain_of_icann_s_section_counts():
    """
    By tldextract's own reading of the section: each has a rule at its own name.
    """
    oracle = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    oracle("a.example")
    listed = oracle._get_tld_extractor().tlds(include_psl_private_domains=False)
    endings = {rule.rpartition(".")[2] for rule in listed if rule.isascii()}
    assert len(endings) > 1000
    assert [e for e in endings if not names.is_icann(f"owner.b.{e}")] == []


def test_parents_are_the_names_above():
    """
    A name's parents come nearest first and leave out the name and the root.
    """
    assert list(names.parents("a.b.example")) == ["b.example", "example"]
    assert list(names.parents("example")) == []


def test_names_cost_nothing_at_import():
    """
    Neither idna nor tldextract is imported for ASCII names, not even for their owners.
    """
    code = (
        "import sys; from urlguard import names; names.registrable(names.canonical('A.example'));"
        "sys.exit(bool({'idna', 'tldextract'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
