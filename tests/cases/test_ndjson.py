"""Lines of candidates: what is one, what is wrong with the others, and whose each is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urlguard import check
from urlguard.blocklist import snapshot
from urlguard.cases import ndjson
from urlguard.cases.model import MAX_CONTEXT
from urlguard.engine import Engine

NOW = 1_800_000_000


def read(*lines, hosting=None):
    """A reader that was fed these lines, texts or objects."""
    reader = ndjson.Reader(NOW, hosting)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    reader.feed("\n".join(texts).encode(errors="surrogatepass"))
    return reader


@pytest.mark.parametrize(
    ("url", "item", "name", "owner"),
    [
        ("evil.example.com", "evil.example.com", "evil.example.com", "example.com"),
        (" EVIL.Example.Com. ", "evil.example.com", "evil.example.com", "example.com"),
        ("例子.中国", "xn--fsqu00a.xn--fiqs8s", "xn--fsqu00a.xn--fiqs8s", "xn--fsqu00a.xn--fiqs8s"),
        ("HTTP://a.b.co.uk/x/../y?q#f", "http://a.b.co.uk/y?q", "a.b.co.uk", "b.co.uk"),
        ("https://u:p@shop.pages.dev:8443", "https://shop.pages.dev/", *["shop.pages.dev"] * 2),
        ("http://a.shop.pages.dev/", "http://a.shop.pages.dev/", "a.shop.pages.dev", None),
        ("evil.top/login", "http://evil.top/login", "evil.top", "evil.top"),
        ("http://198.51.100.7:81/x", "http://198.51.100.7/x", "198.51.100.7", "198.51.100.7"),
        ("198.51.100.7", "http://198.51.100.7/", "198.51.100.7", "198.51.100.7"),
        ("2001:DB8::7", "http://[2001:db8::7]/", "2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]", "http://[2001:db8::7]/", "2001:db8::7", "2001:db8::7"),
        ("http://[2001:db8::7]/x", "http://[2001:db8::7]/x", "2001:db8::7", "2001:db8::7"),
        ("co.uk", "co.uk", "co.uk", "co.uk"),
    ],
)
def test_a_candidate(url, item, name, owner):
    """
    Canonical as for a check, with its host and whose that is.
    """
    reader = read({"url": url})
    assert reader.errors == []
    (row,) = reader.rows
    owner = owner or "shop.pages.dev"
    raw = item if "u:p@" in url else url  # passwords are not kept
    assert row == (item, name, owner, raw, NOW, "", 0)
    # What `check` says of the item speaks of the same one.
    said = check.inspect(Engine(snapshot.nothing()), item)
    assert (said["canonical"], said["error"]) == (item, None)


def test_on_shared_hosting_it_is_the_customers():
    """
    Where the model knows of shared hosting, each customer is an owner; the host itself stays one.
    """
    hosting = {
        "a.example.com",
        "b.a.example.com",
        "shop.pages.dev",
        "x.shop.pages.dev",
    }.__contains__
    urls = ["a.example.com", "http://b.a.example.com/", "example.com", "x.shop.pages.dev"]
    owners = [row.owner for row in read(*({"url": u} for u in urls), hosting=hosting).rows]
    assert owners == ["a.example.com", "a.example.com", "example.com", "shop.pages.dev"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("junk", "line: JSON is malformed"),
        ('{"url": "a.top"', "line: Input data was truncated"),
        ('{"url": "a.top"} x', "line: JSON is malformed"),
        ("[]", "line: Expected `object`"),
        ('"a.top"', "line: Expected `object`"),
        ({}, "line: Object missing required field `url`"),
        ({"url": None}, "url: Expected `str`"),
        ({"url": ["a.top"]}, "url: Expected `str`"),
        ({"url": ""}, "name: empty"),
        ({"url": "not a url"}, "name 'not a url': has ' '"),
        ({"url": "http://"}, "no host"),
        ({"url": "mailto:a@b.top"}, "has ':'"),
        ({"url": "localhost"}, "has no dot"),
        ({"url": "http://localhost/"}, "has no dot"),
        ({"url": "http://a b.top/"}, "neither a host name nor an IP address"),
        ({"url": "a" * 9000 + ".top/x"}, "limit is 8192"),
        ({"url": "a.top", "seen_at": -1}, "seen_at: -1; must be"),
        ({"url": "a.top", "seen_at": NOW * 1000}, "seconds since 1970"),
        ({"url": "a.top", "seen_at": "yesterday"}, "seen_at: Invalid RFC3339"),
        ({"url": "a.top", "seen_at": True}, "seen_at: Expected"),
        ('{"url": "a.top", "seen_at": 1e400}', "seen_at: "),
        ({"url": "a.top", "context": {"a": 1}}, "context: Expected `str"),
        ('{"url": "a.top", "x": ' + "[" * 9000 + "]" * 2000, "line: "),
        ('{"url": "\\ud800.top"}', "surrogate"),
        ('{"url": "a\\u0000.top"}', "name "),
        ({"url": "a.top", "context": "x" * ndjson.MAX_LINE}, "limit is 16384"),
    ],
)
def test_junk(line, words):
    """
    A bad line is an error that says what is wrong; the lines beside it count all the same.
    """
    reader = read({"url": "before.top"}, line, "", "  ", {"url": "after.top"})
    assert [row.item for row in reader.rows] == ["before.top", "after.top"]
    ((number, said),) = reader.errors
    assert (number, reader.invalid, reader.lines) == (2, 1, 5)
    assert words in said
    assert said.isprintable()


@pytest.mark.parametrize(
    ("seen", "at"),
    [
        (None, NOW),
        (5, 5),
        (5.9, 5),
        (0, 0),
        (NOW + 999, NOW),
        ("2026-01-02T03:04:05Z", 1767323045),
        ("2026-01-02T03:04:05.5+01:00", 1767319445),
        ("2026-01-02T03:04:05", 1767323045),
        ("2126-01-02T03:04:05Z", NOW),
    ],
)
def test_when_it_was_seen(seen, at):
    """
    Seconds or RFC 3339 text; a time to come is now.
    """
    (row,) = read({"url": "a.top", "seen_at": seen}).rows
    assert row.seen_at == at


def test_context_is_cut():
    """
    What is longer than the store takes is cut off; other fields are passed over.
    """
    (row,) = read({"url": "a.top", "context": "诈" * 2500, "tag": [1, {"a": None}]}).rows
    assert row.context == "诈" * MAX_CONTEXT


def test_there_and_back():
    """
    What a reader encodes is decoded as it was, and pieces of a body count their lines on.
    """
    first = read(*[{"url": f"a{n}.top", "context": "第"} for n in range(450)], "junk")
    second = read({"url": "b.top"}, "worse", "")
    pieces = [ndjson.decoded(reader.encoded()) for reader in (first, second)]
    whole = ndjson.joined(pieces)
    assert list(whole.rows()) == first.rows + second.rows
    assert len(whole.parts) == 4  # each is read by itself
    assert (whole.lines, whole.candidates, whole.invalid) == (453, 451, 2)
    assert [number for number, _ in whole.errors] == [451, 453]


def test_many_errors_are_counted():
    """
    Only so many are told apart.
    """
    reader = read(*["x"] * (ndjson.MAX_ERRORS + 5))
    whole = ndjson.joined([ndjson.decoded(reader.encoded())] * 2)
    assert (len(reader.errors), len(whole.errors)) == (ndjson.MAX_ERRORS, ndjson.MAX_ERRORS)
    assert whole.invalid == 2 * (ndjson.MAX_ERRORS + 5)


def test_a_mark_of_the_byte_order():
    """
    Some programs begin a file with one.
    """
    reader = ndjson.Reader(NOW)
    reader.feed(b'\xef\xbb\xbf{"url": "a.top"}\r\n')
    assert [row.item for row in reader.rows] == ["a.top"]


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.text(max_size=40).map(lambda text: json.dumps({"url": text, "seen_at": 7}).encode()),
        )
    )
)
def test_anything(lines):
    """
    Whatever comes: each line is a candidate, an error or blank, and nothing is raised.
    """
    reader = ndjson.Reader(NOW)
    reader.feed(b"\n".join(lines))
    assert len(reader.rows) + reader.invalid <= reader.lines
    assert len(reader.errors) == reader.invalid
    assert list(ndjson.decoded(reader.encoded()).rows()) == reader.rows


@pytest.mark.parametrize(
    ("text", "raw"),
    [
        ("HTTP://A.example/x@y", "HTTP://A.example/x@y"),
        ("http://me:pw@a.example/", "http://a.example/"),
        ("me:pw@a.example/x?y", "http://a.example/x?y"),
        ("\thttps:/\\me@a.example", "https://a.example/"),
        ("http://good.example%2F@192.0.2.1/", "http://192.0.2.1/"),
    ],
)
def test_passwords_are_not_kept(text, raw):
    """
    The text as it came stands beside the item unless it has user information.
    """
    assert ndjson.candidate(text, 0).raw == raw


@pytest.mark.parametrize(
    "line",
    [
        b'{"url": "http://\xff.example/"}',
        b'{"url": "http://a.example/", "context": "\xc3\x28"}',
        b'{"url": "http://a.example/", "seen_at": 1' + b"0" * 400 + b"}",
        b'{"url": "http://a.example/", "seen_at": -1' + b"0" * 400 + b"}",
        b'{"url": "http://a.example/", "seen_at": 1e400}',
        b'{"url": "http://a.example/", "seen_at": "9999-12-31T23:59:59-14:00"}',
        b'{"url": "http://a.example/", "seen_at": "0001-01-01T00:00:00+14:00"}',
    ],
)
def test_a_line_that_cannot_be_read_costs_only_itself(line):
    """
    Whatever is wrong with it, those around it are read.
    """
    good = b'{"url": "http://good.example/%d"}'
    reader = ndjson.Reader(NOW)
    reader.feed(b"\n".join([good % 1, line, good % 2]))
    assert [row.item[-1] for row in reader.rows if "good" in row.item] == ["1", "2"]
    assert len(reader.rows) + reader.invalid == 3
    assert all(number == 2 and words for number, words in reader.errors)
