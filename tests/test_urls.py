"""URLs: canonical form, expressions, rule values."""

import ipaddress
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from urlguard import urls
from urlguard.errors import InputError

# Published with the Safe Browsing documentation, "URLs and Hashing", except where noted.
PUBLISHED = [
    ("http://host/%25%32%35", "http://host/%25"),
    ("http://host/%25%32%35%25%32%35", "http://host/%25%25"),
    ("http://host/%2525252525252525", "http://host/%25"),
    ("http://host/asdf%25%32%35asd", "http://host/asdf%25asd"),
    ("http://host/%%%25%32%35asd%%", "http://host/%25%25%25asd%25%25"),
    ("http://www.google.com/", "http://www.google.com/"),
    (
        "http://%31%36%38%2e%31%38%38%2e%39%39%2e%32%36/%2E%73%65%63%75%72%65/"
        "%77%77%77%2E%65%62%61%79%2E%63%6F%6D/",
        "http://168.188.99.26/.secure/www.ebay.com/",
    ),
    (
        "http://195.127.0.11/uploads/%20%20%20%20/.verify/.eBaysecure=updateuserdataxplimnbqmn-"
        "xplmvalidateinfoswqpcmlx=hgplmcx/",
        "http://195.127.0.11/uploads/%20%20%20%20/.verify/.eBaysecure=updateuserdataxplimnbqmn-"
        "xplmvalidateinfoswqpcmlx=hgplmcx/",
    ),
    (
        "http://host%23.com/%257Ea%2521b%2540c%2523d%2524e%25f%255E00%252611%252A"
        "22%252833%252944_55%252B",
        "http://host%23.com/~a!b@c%23d$e%25f^00&11*22(33)44_55+",
    ),
    ("http://3279880203/blah", "http://195.127.0.11/blah"),
    ("http://www.google.com/blah/..", "http://www.google.com/"),
    ("www.google.com/", "http://www.google.com/"),
    ("www.google.com", "http://www.google.com/"),
    ("http://www.evil.com/blah#frag", "http://www.evil.com/blah"),
    ("http://www.GOOgle.com/", "http://www.google.com/"),
    ("http://www.google.com.../", "http://www.google.com/"),
    ("http://www.google.com/foo\tbar\rbaz\n2", "http://www.google.com/foobarbaz2"),
    ("http://www.google.com/q?", "http://www.google.com/q?"),
    ("http://www.google.com/q?r?", "http://www.google.com/q?r?"),
    ("http://www.google.com/q?r?s", "http://www.google.com/q?r?s"),
    ("http://evil.com/foo#bar#baz", "http://evil.com/foo"),
    ("http://evil.com/foo;", "http://evil.com/foo;"),
    ("http://evil.com/foo?bar;", "http://evil.com/foo?bar;"),
    ("http://\x01\udc80.com/", "http://%01%80.com/"),  # published as bytes
    ("http://notrailingslash.com", "http://notrailingslash.com/"),
    ("http://www.gotaport.com:1234/", "http://www.gotaport.com/"),
    ("  http://www.google.com/  ", "http://www.google.com/"),
    ("http:// leadingspace.com/", "http://%20leadingspace.com/"),
    ("http://%20leadingspace.com/", "http://%20leadingspace.com/"),
    ("%20leadingspace.com/", "http://%20leadingspace.com/"),
    ("https://www.securesite.com/", "https://www.securesite.com/"),
    ("http://host.com/ab%23cd", "http://host.com/ab%23cd"),
    ("http://host.com//twoslashes?more//slashes", "http://host.com/twoslashes?more//slashes"),
    ("http://[2001:0db8:0000::1]/", "http://[2001:db8::1]/"),
    ("http://[::ffff:1.2.3.4]/", "http://1.2.3.4/"),
    ("http://[64:ff9b::1.2.3.4]/", "http://1.2.3.4/"),
]


@pytest.mark.parametrize(("text", "canonical"), PUBLISHED)
def test_published_vectors(text, canonical):
    """
    Canonicalisation agrees with the examples published with Safe Browsing.
    """
    assert urls.parse(text).canonical == canonical


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        # Where the authority ends is decided before escapes are resolved, as in a browser.
        ("http://good.example%2F@evil.example/", "http://evil.example/"),
        ("http://good.example@evil.example/", "http://evil.example/"),
        ("http://user:p@ss@evil.example:8080/", "http://evil.example/"),
        ("http://evil.example\\@good.example/", "http://evil.example/@good.example/"),
        ("http://evil.example?@good.example/", "http://evil.example/?@good.example/"),
        ("http://evil.example#@good.example/", "http://evil.example/"),
        ("http:\\\\evil.example\\a\\b?c\\d", "http://evil.example/a/b?c\\d"),
        ("http:evil.example", "http://evil.example/"),
        ("https:///evil.example", "https://evil.example/"),
        ("HTTPS://evil.example", "https://evil.example/"),
        ("//evil.example/x", "http://evil.example/x"),
        ("ftp://evil.example/x", "ftp://evil.example/x"),
        ("evil.example:8080/x", "http://evil.example/x"),
        ("evil.example:", "http://evil.example/"),
        ("ht\ntp://evil.exa\tmple/", "http://evil.example/"),
        ("\u3000evil.example/\u00a0", "http://evil.example/"),
        # Hosts.
        ("http://..evil...example../", "http://evil.example/"),
        ("http://%65vil%2eexample/", "http://evil.example/"),
        ("http://%2565vil.example/", "http://evil.example/"),
        ("http://ｅｖｉｌ。example/", "http://evil.example/"),
        ("http://例え.テスト/例", "http://xn--r8jz45g.xn--zckzah/%E4%BE%8B"),
        ("http://%E4%BE%8B.example/", "http://xn--fsq.example/"),
        ("http://a／b.example/", "http://a%EF%BC%8Fb.example/"),  # maps to "/": not taken
        ("http://a％41.example/", "http://a%EF%BC%8541.example/"),  # maps to "%"
        ("http://evil.example%3A80/", "http://evil.example%3A80/"),
        ("http://evil%2Fx.example/", "http://evil%2Fx.example/"),
        ("http://%5B::1%5D/", None),  # "::1%5D" after the first colon is not a port
        # Addresses.
        ("http://0x7f.1/", "http://127.0.0.1/"),
        ("http://0300.0000000002.0.0x1/", "http://192.2.0.1/"),
        ("http://0xC0000201", "http://192.0.2.1/"),
        ("http://192.0.513/", "http://192.0.2.1/"),
        ("http://192.0.2.1./", "http://192.0.2.1/"),
        ("http://１９２.0.2.1/", "http://192.0.2.1/"),
        ("http://0/", "http://0.0.0.0/"),
        ("http://4294967296/", "http://4294967296/"),  # one too many: no address
        ("http://192.0.2.256/", "http://192.0.2.256/"),
        ("http://08.0.2.1/", "http://08.0.2.1/"),
        ("http://1.2.3.4.5/", "http://1.2.3.4.5/"),
        ("http://[2001:DB8::1]:443/x", "http://[2001:db8::1]/x"),
        ("2001:db8::1", "http://[2001:db8::1]/"),
        # Paths and queries.
        ("evil.example/./a/../../b/.", "http://evil.example/b/"),
        ("evil.example/a//../b", "http://evil.example/a/b"),
        ("evil.example/a/%2e%2e/b", "http://evil.example/b"),
        ("evil.example//a///b", "http://evil.example/a/b"),
        ("evil.example/a?b/../c//d", "http://evil.example/a?b/../c//d"),
        ("evil.example/a%3Fb", "http://evil.example/a?b"),
        ("evil.example/a%5Cb", "http://evil.example/a%5Cb"),
        ("evil.example?x=1", "http://evil.example/?x=1"),
        ("evil.example/%ff%FE", "http://evil.example/%FF%FE"),
        ("evil.example/%2%35", "http://evil.example/%25"),
        ("evil.example/%2541%2", "http://evil.example/A%252"),
        ("evil.example/?q=a b%09", "http://evil.example/?q=a%20b%09"),
        ("evil.example/http://x.example", "http://evil.example/http:/x.example"),
    ],
)
def test_hostile_and_odd_urls(text, canonical):
    """
    Tricks with delimiters, escapes, dots and number systems lead to where a browser would go.
    """
    if canonical is None:
        with pytest.raises(InputError):
            urls.parse(text)
    else:
        assert urls.parse(text).canonical == canonical


@pytest.mark.parametrize(
    ("text", "host", "is_ip", "name"),
    [
        ("http://Evil.example./x", "evil.example", False, "evil.example"),
        ("http://localhost/", "localhost", False, "localhost"),
        ("http://192.0.2.1/", "192.0.2.1", True, None),
        ("http://[2001:db8::1]/", "2001:db8::1", True, None),
        ("http://" + "a" * 70 + ".example/", "a" * 70 + ".example", False, None),
        ("http://" + "a." * 130 + "example/", "a." * 130 + "example", False, None),
        ("http://a b.example/", "a%20b.example", False, None),
        ("http://a*b.example/", "a*b.example", False, None),
        ("http://1.2.3.4.5/", "1.2.3.4.5", False, None),
        ("http://a.1.0x7f/", "a.1.0x7f", False, None),
        ("http://☃.example/", "%E2%98%83.example", False, None),
    ],
)
def test_a_host_is_a_name_an_address_or_neither(text, host, is_ip, name):
    """
    An impossible name stays as written, escaped, and is no name.
    """
    url = urls.parse(text)
    assert (url.host, url.is_ip, url.name) == (host, is_ip, name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no host"),
        ("http://", "no host"),
        ("http:///", "no host"),
        ("file:///etc/passwd", "no host"),
        ("/path", "no host"),
        ("?q", "no host"),
        ("http://.../", "no host"),
        ("http://user@/", "no host"),
        ("http://:80/", "no host"),
        ("mailto:a@evil.example", "scheme has no host"),
        ("javascript:alert(1)", "scheme has no host"),
        ("http://evil.example:http/", "port 'http'"),
        ("http://evil.example:65536/", "port '65536'"),
        ("http://a:b:c/", "port 'b:c'"),
        ("http://[::1/", "never ends"),
        ("http://[::1]x/", "never ends"),
        ("http://[fe80::1%25eth0]/", "not an IPv6 address"),
        ("http://[evil:example]/", "not an IPv6 address"),
        ("http://evil.example/\ud800", "half a surrogate"),
        ("http://evil.example/" + "a" * 8192, "limit is 8192"),
        ("http://evil.example/" + "例" * 1000, "characters once escaped, limit is 8192"),
    ],
)
def test_what_has_no_host_is_refused_with_the_reason(text, words):
    """
    Text without a usable authority raises InputError, whose message is short ASCII and says why.
    """
    with pytest.raises(InputError, match=words) as caught:
        urls.parse(text)
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 300


# Pieces that mean something to the parser, so that random text meets its corners.
WORDS = """
    % %2 %25 %2F %5C %3F %23 %40 %3A %2e %FF %00 / // \\ ? # @ : [ ] . .. ./ ../ http:// http:
    https:// x:// a A 0 1 0x 017 256 ::1 80 evil.example xn--a - _ 例 。 ％ ／ ß ☃ \u200b
"""
PIECES = st.sampled_from([*WORDS.split(), " ", "\t", "\n", "\x00", "\u00ad", "\udc80", "\ud800"])
TEXTS = st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=12).map("".join))


@given(TEXTS)
@example("http://%5B::1]/")
@example("http://a/%2%35%32F..")
@example("evil.example/%3F\\%5C/../x")
def test_any_text_has_a_stable_form_or_is_an_input_error(text):
    """
    No text raises anything but InputError, and a canonical form is its own canonical form.
    """
    try:
        url = urls.parse(text)
    except InputError:
        return
    assert urls.parse(url.canonical) == url
    assert url.canonical.isascii()
    assert url.canonical.isprintable()
    assert " " not in url.canonical
    if url.is_ip:
        assert str(ipaddress.ip_address(url.host)) == url.host
    found = urls.expressions(url)
    assert 1 <= len(found) <= 30
    assert len(set(found)) == len(found)
    assert found[0] == url.expression
    # Above a host that is no name there may be something else, such as 1.2 above a.1.2.
    for expression in found if url.name else found[:1]:
        assert urls.parse(expression).expression == expression


def naive_unescape(data):
    """Unescape again and again until nothing changes."""
    from urllib.parse import unquote_to_bytes

    while (once := unquote_to_bytes(data)) != data:
        data = once
    return data


@given(st.lists(st.sampled_from([b"%", b"2", b"5", b"%25", b"4", b"1", b"F", b"z"]), max_size=40))
def test_unescaping_in_one_pass_is_unescaping_until_stable(parts):
    """
    The stack's result is that of unescaping over and over.
    """
    data = b"".join(parts)
    assert urls._unescape(data) == naive_unescape(data)


@pytest.mark.parametrize(
    "tail",
    [
        "%" + "25" * 4080,
        "%25" * 2700,
        "%%32%35" * 1150,
        "/.." * 2700,
        "/" * 8100,
        "?" * 8100,
    ],
)
def test_hostile_urls_cost_little(tail):
    """
    No text of the permitted length takes long; the naive loop needs thousands of passes.
    """
    start = time.process_time()
    urls.parse("http://evil.example/" + tail)
    assert time.process_time() - start < 0.1


def lines(text):
    return tuple(text.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "http://a.b.example/1/2.html?param=1",
            lines(
                """
                a.b.example/1/2.html?param=1  a.b.example/1/2.html  a.b.example/1/  a.b.example/
                b.example/1/2.html?param=1    b.example/1/2.html    b.example/1/    b.example/
                """
            ),
        ),
        (
            "http://a.b.c.d.e.f.g/1.html",  # b.c.d.e.f.g is left out: only the last five labels
            lines(
                """
                a.b.c.d.e.f.g/1.html  a.b.c.d.e.f.g/
                c.d.e.f.g/1.html      c.d.e.f.g/
                d.e.f.g/1.html        d.e.f.g/
                e.f.g/1.html          e.f.g/
                f.g/1.html            f.g/
                """
            ),
        ),
        ("http://192.0.2.1/1/", lines("192.0.2.1/1/ 192.0.2.1/")),
        ("http://[2001:db8::1]/1", lines("[2001:db8::1]/1 [2001:db8::1]/")),
        ("http://localhost/", lines("localhost/")),
        ("http://evil.example", lines("evil.example/")),
        ("http://evil.example/?q", lines("evil.example/?q evil.example/")),
        ("http://evil.example/q?", lines("evil.example/q? evil.example/q evil.example/")),
        (
            "http://evil.example/1/2/3/4/5?q",  # four prefixes, from the root
            lines(
                """
                evil.example/1/2/3/4/5?q  evil.example/1/2/3/4/5
                evil.example/1/2/3/  evil.example/1/2/  evil.example/1/  evil.example/
                """
            ),
        ),
        (
            "http://evil.example/1/2/3/",
            lines("evil.example/1/2/3/ evil.example/1/2/ evil.example/1/ evil.example/"),
        ),
    ],
)
def test_expressions_are_the_published_ones_most_specific_first(text, expected):
    """
    Hosts by the last five labels, paths by the first four prefixes, longest first.
    """
    assert urls.expressions(urls.parse(text)) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("https://user@Evil.example:8443/Login/?a=1#top", "evil.example/Login/?a=1"),
        ("evil.example/", "evil.example/"),
        ("http://evil.example", "evil.example/"),
        ("http://[2001:db8::1]/x", "[2001:db8::1]/x"),
        ("http://0x7f.1/x", "127.0.0.1/x"),
        ("http://a b.example/x", None),
        ("http://" + "a" * 64 + ".example/x", None),
        ("http:///", None),
    ],
)
def test_the_value_of_a_rule_is_the_expression_without_scheme(text, value):
    """
    A URL rule is what a lookup of that very URL asks for first, and needs a usable host.
    """
    if value is None:
        with pytest.raises(InputError):
            urls.rule_value(text)
    else:
        assert urls.rule_value(text) == value
        assert urls.rule_value(value) == value
        assert urls.expressions(urls.parse(text))[0] == value


@pytest.mark.parametrize(
    ("text", "is_url"),
    [
        ("http://evil.example", True),
        ("HXXP://evil.example", True),
        ("http:evil.example", True),
        ("evil.example/y", True),
        (" evil.example/ ", True),
        ("evil.example?x", True),
        ("evil.example:8080", True),
        ("192.0.2.1:80", True),
        ("evil.example", False),
        ("evil.example.", False),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
        ("::1", False),
        ("例え.テスト", False),
        ("a@evil.example", False),
        ("", False),
    ],
)
def test_a_scheme_a_path_or_a_port_makes_a_url(text, is_url):
    """
    A bare name or address is not taken for a URL, anything more is.
    """
    assert urls.looks_like_url(text) is is_url
