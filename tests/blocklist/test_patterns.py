"""Patterns: what they say, what they match, what they cost."""

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from urlguard.blocklist.patterns import PatternSet
from urlguard.errors import InputError, SnapshotError
from urlguard.pattern_syntax import MAX_PATTERN, canonical


def matches(pattern, subject):
    """Whether a pattern, as a person types it, matches a name or a URL without its scheme."""
    on_url = "/" in subject
    text = subject if on_url else f".{subject}."
    return bool(PatternSet([canonical(pattern)]).matching(text, on_url))


@pytest.mark.parametrize(
    ("pattern", "name", "hit"),
    [
        # A substring, anywhere.
        ("*paypal*", "paypal.example", True),
        ("*paypal*", "my-paypal-login.example", True),
        ("*paypal*", "a.xpaypalx.b.example", True),
        ("*paypal*", "pay.pal.example", False),
        ("*paypal*", "paypa.example", False),
        ("*pay.pal*", "xpay.paly.example", True),
        # Without a star at the start it begins at a label's start.
        ("paypal*", "paypal-login.example", True),
        ("paypal*", "www.paypal-login.example", True),
        ("paypal*", "my-paypal.example", False),
        # Without one at the end it ends with the name.
        ("*paypal.example", "mypaypal.example", True),
        ("*paypal.example", "paypal.example.test", False),
        ("*paypal.example", "a.paypal.example", True),
        # In the middle a star stands for anything but a dot.
        ("pay-*-verify.example", "pay-now-verify.example", True),
        ("pay-*-verify.example", "www.pay-now-verify.example", True),
        ("pay-*-verify.example", "pay--verify.example", True),
        ("pay-*-verify.example", "pay-verify.example", False),
        ("pay-*-verify.example", "pay-a.b-verify.example", False),
        ("pay-*-verify.example", "xpay-now-verify.example", False),
        ("pay-*-verify.example", "pay-now-verify.example.test", False),
        ("login*.*.example", "login7.bank.example", True),
        ("login*.*.example", "login7.a.bank.example", False),
        ("*bank*secure*", "my-bank-is-secure.example", True),
        ("*bank*secure*", "bank.secure.example", False),  # the star does not cross the dot
        ("*bank*secure*", "secure-bank.example", False),
        ("*aaaa*aaaa*", "aaaaaaa.example", False),
        ("*aaaa*aaaa*", "aaaaaaaa.example", True),
        # The earliest place for a literal is not the only one.
        ("*bank*.example", "bank.test.mybank1.example", True),
        ("*evil*login.example", "evil.evil-login.example", True),
        # A whole word.
        ("keyword:paypal", "paypal.example", True),
        ("keyword:paypal", "my-paypal-login.example", True),
        ("keyword:paypal", "my_paypal.example", True),
        ("keyword:paypal", "www.paypal", True),
        ("keyword:paypal", "mypaypal.example", False),
        ("keyword:paypal", "paypal2.example", False),
        ("keyword:paypal", "paypals.my-paypal.example", True),
        ("keyword:pay-pal", "the-pay-pal.example", True),
        # What means something to a regular expression means nothing here.
        ("*pay.pal*", "payxpal.example", False),
        ("*PayPal*", "paypal.example", True),
    ],
)
def test_patterns_for_names(pattern, name, hit):
    """
    Substring, wildcard and keyword patterns, and where labels hold them.
    """
    assert matches(pattern, name) is hit


@pytest.mark.parametrize(
    ("pattern", "url", "hit"),
    [
        # A path from its start to its end, on any host.
        ("/wp-login.php", "evil.example/wp-login.php", True),
        ("/wp-login.php", "evil.example/wp-login.php?a=b", True),
        ("/wp-login.php", "evil.example/wp-login.php/x", False),
        ("/wp-login.php", "evil.example/x/wp-login.php", False),
        ("/wp-content/*/login.php", "evil.example/wp-content/a/b/login.php", True),
        ("/wp-content/*/login.php", "evil.example/wp-content/login.php", False),
        ("/wp-content/*/login.php", "evil.example/wp-content/a/login.php?x#", True),
        ("/secure*", "evil.example/secure/anything?at=all", True),
        ("/secure*", "evil.example/insecure", False),
        # A free start.
        ("*/secure/*.php", "evil.example/a/b/secure/x.php", True),
        ("*/secure/*.php", "evil.example/secure/x.php", True),
        ("*/secure/*.php", "evil.example/insecure/x.php", False),
        ("*/secure/*.php", "evil.example/secure/x.phps", False),
        ("*/secure/*.php", "evil.example/secure/x.php?y", True),
        # Host and path.
        ("*.example/secure/*", "a.example/secure/1", True),
        ("*.example/secure/*", "a.b.example/secure/1", True),
        ("*.example/secure/*", "example/secure/1", False),
        ("*.example/secure/*", "a.example.test/secure/1", False),
        ("*.example/secure/*", "evil.test/x.example/secure/1", False),
        ("evil.example/secure/*", "www.evil.example/secure/1", True),
        ("evil.example/secure/*", "notevil.example/secure/1", False),
        ("evil.example/secure/*", "evil.example/x/secure/1", False),
        ("pay-*.example/login", "www.pay-1.example/login", True),
        ("pay-*.example/login", "a.test/pay-1.example/login", False),
        # With a query it is asked for.
        ("/login?next=*", "evil.example/login?next=x", True),
        ("/login?next=*", "evil.example/login", False),
        ("/login?next=a", "evil.example/login?next=ab", False),
        ("*/a+(b)[c]*", "evil.example/a+(b)[c]d", True),
        # Paths keep their case, hosts have none.
        ("/Login.php", "evil.example/login.php", False),
        ("EVIL.example/Login", "evil.example/Login", True),
    ],
)
def test_patterns_for_urls(pattern, url, hit):
    """
    Patterns with a slash see host and path of a URL, and a star may span slashes.
    """
    assert matches(pattern, url) is hit


def test_sorts_do_not_mix():
    """
    A pattern for URLs never fits a name, one for names never a URL's path.
    """
    both = PatternSet(["*login*", "*/login*"])
    assert [p.text for p in both.matching(".login.example.")] == ["*login*"]
    assert [p.text for p in both.matching("x.example/login", on_url=True)] == ["*/login*"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("  *PayPal* ", "*paypal*"),
        ("pay-**-***verify.example", "pay-*-*verify.example"),
        ("KEYWORD.example", "keyword.example"),
        ("keyword:paypal", "keyword:paypal"),
        ("EVIL.Example/Login*", "evil.example/Login*"),
        ("*/Secure/*.PHP", "*/Secure/*.PHP"),
    ],
)
def test_canonical_form(text, wanted):
    """
    Names in lower case, runs of stars as one; the form is stable.
    """
    assert canonical(text) == wanted
    assert canonical(wanted) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "may have only"),
        ("*", "needs 4 characters"),
        ("*abc*", "needs 4 characters"),
        ("abc*def", "needs 4 characters"),
        ("keyword:abc", "needs 4 characters"),
        ("keyword:", "may have only"),
        ("keyword:two words", "may have only"),
        ("keyword:a.bcde", "one word"),
        ("keyword:abcd*", "one word"),
        ("keyword:abcd/e", "one word"),
        ("*pay pal*", "may have only letters"),
        ("*päypal*", "may have only letters"),
        ("*pay\npal*", "may have only"),
        ("*payp+l*", "may have only letters"),
        ("/path with space", "printable ASCII"),
        ("*" + "ab*" * 9 + "abcd", "stars, limit is 8"),
        ("x" * (MAX_PATTERN + 1), "256 characters, limit is 255"),
    ],
)
def test_what_is_no_pattern(text, said):
    """
    Refused with the reason: it could match nothing, or nearly everything, or cost too much.
    """
    with pytest.raises(InputError, match=re.escape(said)):
        canonical(text)


# -- an oracle -------------------------------------------------------------------------------------


def naive(pattern, name):
    """Whether a canonical name pattern matches, by trying every way to split the name."""
    subject = f".{name}."
    if pattern.startswith("keyword:"):
        return pattern[8:] in re.split(r"[._-]", name)
    body = pattern
    starts = [i + 1 for i, c in enumerate(subject) if c == "."]
    if body.startswith("*"):
        starts, body = list(range(len(subject))), body[1:]
    free_end = body.endswith("*")
    body = body.removesuffix("*")

    def fits(rest, at):
        literal, star, after = rest.partition("*")
        if not subject.startswith(literal, at):
            return False
        at += len(literal)
        if not star:
            return free_end or subject[at:] == "."
        end = subject.find(".", at)
        return any(fits(after, i) for i in range(at, (len(subject) if end < 0 else end) + 1))

    return any(fits(body, start) for start in starts)


pieces = st.sampled_from(["aaaa", "aab", "ab", "a", "b", ".", "-"])
literal = st.lists(pieces, min_size=1, max_size=4).map("".join)
globs = st.builds(
    lambda parts, front, back: front + "*".join(parts) + back,
    st.lists(literal, min_size=1, max_size=4),
    st.sampled_from(["", "*"]),
    st.sampled_from(["", "*"]),
)
keywords = st.sampled_from(["keyword:aaaa", "keyword:aabb", "keyword:abab"])
hosts = st.lists(
    st.text("ab-", min_size=1, max_size=9), min_size=1, max_size=4
).map(".".join)  # fmt: skip


@settings(max_examples=600)
@given(st.lists(globs | keywords, min_size=1, max_size=6), st.lists(hosts, min_size=1, max_size=6))
@example(["*aaaa*ab*"], ["aaaaaab"])
@example(["*aaaab.aaaa"], ["aaaab.aaaab.aaaa"])
@example(["*aaaa*aaaa"], ["aaaaaaaa", "aaaa.aaaa"])
def test_matching_is_what_a_naive_matcher_says(texts, names):
    """
    One pass of the automaton and the patterns' own judgement find what trying everything finds.
    """
    good = []
    for text in texts:
        try:
            good.append(canonical(text))
        except InputError:
            continue
    patterns = PatternSet(list(dict.fromkeys(good)))
    for name in names:
        got = sorted(p.text for p in patterns.matching(f".{name}."))
        assert got == sorted(t for t in set(good) if naive(t, name)), name


# -- many and costly -------------------------------------------------------------------------------


def test_a_thousand_patterns_each_find_their_own():
    """
    Patterns that share literals, contain each other's literals or are alike all match.
    """
    texts = [f"*word{i:04}*" for i in range(400)]
    texts += [f"word{i:04}-*" for i in range(400)]
    texts += [f"keyword:word{i:04}" for i in range(200)]
    patterns = PatternSet(texts)
    assert len(patterns) == 1000
    for i in (0, 1, 199, 399):
        got = {p.text for p in patterns.matching(f".word{i:04}-x.example.")}
        assert got == {t for t in texts if f"word{i:04}" in t}
    assert patterns.matching(".harmless.example.") == []


WORST_NAMES = [
    "*" + "aaaa*" * 7,
    "*aaaa*a*a*a*a*a*a",
    "a*a*a*a*a*a*a*aaaab",
    "*a*a*a*a*a*a*a*aaaa",
    "*aaaa*b",
    "*a.aaaa*a.a*b",
    "*" + "aaaa" * 50 + "*" + "aaaab",
    "keyword:aaaa",
]
SUBJECT_NAMES = ["a" * 253, ".".join(["a" * 63] * 4)[:253], "a." * 126 + "a", "a-" * 126 + "a"]


@pytest.mark.parametrize("pattern", WORST_NAMES)
@pytest.mark.parametrize("name", SUBJECT_NAMES, ids=["one", "four", "many", "dashes"])
def test_the_worst_pattern_over_the_longest_name_is_cheap(pattern, name):
    """
    No pattern makes one name cost more than a bound: no backtracking without end.
    """
    patterns = PatternSet([canonical(pattern)])
    patterns.matching(f".{name}.")  # compiles the regular expression
    assert best_of(3, lambda: patterns.matching(f".{name}.")) < 0.05


WORST_URLS = [
    "*/" + "aaaa*" * 7,
    "*/a*a*a*a*a*a*aaaab",
    "*/aaaa*a*a*a*a*a*b",
    "/a*/a*/a*/a*/a*/a*/aaaab",
    "*a*a*a*a/aaaa*a*a*b",
    "*aaaa*/aaaa*b",
    "a*aaaa/a*b?*c",
    "*/aaaa?*a*a*a*a*b",
    "*/" + "a/" * 30 + "*b",
]
SUBJECT_URLS = [
    "a.example/" + "a" * 8180,
    "a.example/" + "a/" * 4090,
    "a" * 8000 + "/aaaa",
    "a" * 60 + ".example/" + "aaaa?" * 1600,
    "a.example/aaaa?" + "a" * 8100,
]


@pytest.mark.parametrize("pattern", WORST_URLS)
@pytest.mark.parametrize("url", SUBJECT_URLS, ids=["a", "slashes", "host", "queries", "query"])
def test_the_worst_pattern_over_the_longest_url_is_cheap(pattern, url):
    """
    The same for a URL of 8 KiB.
    """
    patterns = PatternSet([canonical(pattern)])
    patterns.matching(url, on_url=True)
    assert best_of(3, lambda: patterns.matching(url, on_url=True)) < 0.05


def best_of(times, work):
    """Seconds of the fastest run; the others met with something else on the machine."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [[], ["*paypa1*", "keyword:bank", "*/login?*&x=\\y"]])
def test_a_set_is_what_it_was_when_it_is_loaded(tmp_path, texts):
    """
    Saved and loaded, the same patterns match the same.
    """
    PatternSet(texts).save(tmp_path)
    loaded = PatternSet.load(tmp_path)
    assert list(loaded.texts) == texts
    assert len(loaded.matching(".my-paypa1.bank.example.")) == min(2, len(texts))


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\x00" * 4096])
def test_a_broken_automaton_is_refused(tmp_path, content):
    """
    A file that is none is an error of the snapshot.
    """
    PatternSet(["*paypa1*"]).save(tmp_path)
    (tmp_path / "patterns.ac").write_bytes(content)
    with pytest.raises(SnapshotError):
        PatternSet.load(tmp_path)
