"""Formats of lists: what each line means, in bulk and with care."""

import contextlib
import gzip
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from urlguard.config import Feed
from urlguard.errors import FeedError
from urlguard.feeds import csvfile, formats, lines, rpzfile
from urlguard.feeds.parsed import MAX_LINE, MAX_PROBLEMS, Parsed

DATA = Path(__file__).parents[1] / "data" / "feeds"
REAL = Path(__file__).parents[3] / "shared" / "data"
FORMATS = ("domains", "hosts", "adblock", "dnsmasq", "rpz", "csv", "urls")
READERS = (
    lines.Domains,
    lines.Hosts,
    lines.AdBlock,
    lines.Dnsmasq,
    lines.Urls,
    csvfile.Csv,
    rpzfile.Rpz,
)
LONG = ".".join(["a" * 61] * 4)  # 247 characters


def parse(text: str | bytes, form: str = "auto", **options: object) -> Parsed:
    data = text.encode() if isinstance(text, str) else text
    return formats.parse(data, Feed(name="t", format=form, **{"max_bad": 1.0, **options}))  # type: ignore[arg-type]


def said(out: Parsed) -> list[str]:
    """Rules and exceptions, readable; the order is that of the list."""
    rules = [f"{key} [{category}]" if category else key for key, category in out.rules.items()]
    return rules + [f"except {key}" for key in sorted(out.exceptions)]


@pytest.fixture
def carefully(monkeypatch):
    """A `parse` without the bulk paths: every line is read with care."""

    def run(text: str | bytes, form: str) -> Parsed:
        with monkeypatch.context() as patch:
            for reader in READERS:
                patch.setattr(reader, "fast", lambda self, chunk, start: start)
            return parse(text, form)

    return run


@pytest.mark.parametrize("form", FORMATS)
def test_the_edge_cases_read_as_their_golden_file_has(form, golden):
    """
    Every edge case gives the rules, problems and counts of the golden file.
    """
    out = parse((DATA / f"edge_cases.{form}").read_bytes(), form)
    seen = {
        "rules": said(out),
        "ignored": dict(sorted(out.ignored.items())),
        "problems": [str(p) for p in out.problems],
        "counts": {
            "lines": out.lines,
            "good": out.good,
            "bad": out.bad,
            "bad_categories": out.bad_categories,
        },
    }
    golden(
        DATA / f"edge_cases.{form}.golden", json.dumps(seen, indent=1, ensure_ascii=False) + "\n"
    )


@pytest.mark.parametrize("form", FORMATS)
def test_the_edge_cases_are_recognised(form):
    """
    Each format of the edge-case corpus is detected.
    """
    assert parse((DATA / f"edge_cases.{form}").read_bytes()).format == form


@pytest.mark.parametrize("form", FORMATS)
def test_bulk_and_careful_reading_agree_on_the_edge_cases(form, carefully):
    """
    The bulk paths change nothing, not even the order.
    """
    data = (DATA / f"edge_cases.{form}").read_bytes()
    assert parse(data, form) == carefully(data, form)


@pytest.mark.parametrize(
    ("form", "line", "expected"),
    [
        ("domains", "evil.example", ["subtree evil.example"]),
        ("domains", "*.evil.example", ["below evil.example"]),
        ("domains", "http://evil.example/", ["url evil.example/"]),
        ("hosts", "0.0.0.0 evil.example", ["domain evil.example"]),
        ("hosts", "127.0.0.1 localhost.localdomain", []),
        ("adblock", "||evil.example^", ["subtree evil.example"]),
        ("adblock", "||evil.example^$third-party", []),
        ("adblock", "@@||evil.example^", ["except subtree evil.example"]),
        ("adblock", "||evil.example/x", ["url evil.example/x"]),
        ("dnsmasq", "address=/evil.example/0.0.0.0", ["subtree evil.example"]),
        ("dnsmasq", "server=/evil.example/192.0.2.1", []),
        ("rpz", "evil.example CNAME .", ["domain evil.example"]),
        ("rpz", "*.evil.example CNAME .", ["below evil.example"]),
        ("rpz", "evil.example CNAME rpz-passthru.", ["except domain evil.example"]),
        ("rpz", "evil.rpz-nsdname CNAME .", []),
        ("csv", "domain,category\nevil.example,Scam", ["subtree evil.example [scam]"]),
        ("csv", "url\nhttp://evil.example/a", ["url evil.example/a"]),
        ("urls", "http://evil.example/a", ["url evil.example/a"]),
        ("urls", "evil.example", ["url evil.example/"]),
    ],
)
def test_a_line_is_the_rule_that_its_format_means(form, line, expected):
    """
    The format decides on the rule's kind; a URL is never shortened to its host.
    """
    assert said(parse(line, form)) == expected


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("a.example\nb.example\n", "domains"),
        ("a.example\n192.0.2.1\nhttp://b.example/x\nc.example", "domains"),
        ("http://a.example/\nb.example\nhttps://c.example/x", "urls"),
        ("http://a.example/x,y\nhttp://b.example/x,y", "urls"),  # the commas are theirs
        ("# hosts\n0.0.0.0 a.example\n:: b.example\n", "hosts"),
        ("0.0.0.0 a.example\n0.0.0.0 b.example\n||c.example^", "adblock"),  # AdGuard's mix
        ("! x\na.example\n@@||b.example^\n", "adblock"),
        ("[Adblock Plus]\n! nothing else\n", "adblock"),
        ("address=/a.example/\nserver=/b.example/\n", "dnsmasq"),
        ("domain,category\na.example,scam\n", "csv"),
        ("# id,url,threat\n1,http://a.example/,x\n", "csv"),
        ("1;a.example;scam\n2;b.example;scam\n", "csv"),  # no header
        ('"domain"\t"x"\n"a.example"\t"b"\n', "csv"),
        ("a.example CNAME .\n*.a.example CNAME .\n", "rpz"),
        ("@ 30 IN SOA a. b. 1 2 3 4 5\na.example A 192.0.2.1\nb.example A 192.0.2.1\n", "rpz"),
        ("", "domains"),
        ("# only\n\n# comments\n", "domains"),
    ],
)
def test_the_format_is_recognised(text, form):
    """
    ``auto`` finds the format that more than half of the lines fit, tricky mixes included.
    """
    assert parse(text).format == form


@pytest.mark.parametrize(
    "text", ['{"domains": ["a.example"]}', "hello world\nthis is prose\na.example", "\x00\x01\x02"]
)
def test_what_no_format_fits_is_refused(text):
    """
    A list of no known format is refused, and the message shows what was seen.
    """
    with pytest.raises(FeedError, match=r"feed t: format not recognised: of the first \d+ lines"):
        parse(text)


@pytest.mark.parametrize("form", ["auto", "domains"])
@pytest.mark.parametrize("page", ["<!DOCTYPE html><p>404", "\ufeff \n<HTML lang=en>", "<html>"])
def test_a_web_page_is_not_a_list(page, form):
    """
    An error page that came with status 200 is named as what it is.
    """
    with pytest.raises(FeedError, match="looks like an HTML page"):
        parse(page, form)


@pytest.mark.parametrize(
    "data",
    [
        b"a.example\nb.example",
        b"\xef\xbb\xbfa.example\r\nb.example\r\n",
        b"a.example\rb.example\r",
        b"a.example  \t\n\n  b.example\n\n",
        "\ufeffa.example\nb.example\n".encode("utf-16-le"),
        "\ufeffa.example\nb.example\n".encode("utf-16-be"),
    ],
)
def test_encodings_and_line_ends(data):
    """
    Byte order marks, UTF-16, all line ends and blanks around a line do not matter.
    """
    out = parse(data)
    assert said(out) == ["subtree a.example", "subtree b.example"]
    assert out.bad == 0


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"caf\xe9.example", "not UTF-8"),
        (b"nul\x00.example", "control character"),
        (b"x" * (MAX_LINE + 1), f"{MAX_LINE + 1} characters in a line, limit is {MAX_LINE}"),
        (b"x" * 1_000_000, f"1000000 characters in a line, limit is {MAX_LINE}"),
        (b"localhost", "a single label"),
        (("b." + LONG + ".example").encode(), "257 characters, limit is 253"),
        (b"a" * 64 + b".example", "label length 64, limit is 63"),
    ],
)
def test_a_bad_line_is_reported_and_the_rest_survives(line, what):
    """
    A bad line is counted and reported with its position, shortened; its neighbours are kept.
    """
    out = parse(b"a.example\n# note\n" + line + b"\nb.example\n", "domains")
    assert said(out) == ["subtree a.example", "subtree b.example"]
    assert (out.lines, out.good, out.bad) == (4, 2, 1)
    assert out.problems[0].line == 3
    assert what in out.problems[0].what
    assert len(out.problems[0].text) < 300
    assert str(out.problems[0]).isascii()


def test_only_the_first_problems_are_reported():
    """
    All bad lines are counted; the report stays short.
    """
    out = parse("bad\n" * 1000, "domains")
    assert (out.bad, len(out.problems)) == (1000, MAX_PROBLEMS)


@pytest.mark.parametrize(("bad", "refused"), [(1, False), (2, True)])
def test_too_many_bad_lines_refuse_the_list(bad, refused):
    """
    Above ``max_bad`` the list is refused, and the message has the first problems and both numbers.
    """
    text = "a.example\n" * 3 + "bad\n" * bad + "192.0.2.1\n" * 100
    if refused:
        with pytest.raises(FeedError, match=r"2 of 5 lines.*max_bad = 0\.25; line 4: 'bad': a si"):
            parse(text, "domains", max_bad=0.25)
    else:
        assert parse(text, "domains", max_bad=0.25).bad == 1


def test_too_many_rules_refuse_the_list():
    """
    ``max_rules`` bounds what a hostile list can make us hold.
    """
    text = "".join(f"a{i}.example\n" for i in range(11))
    assert len(parse(text, max_rules=11).rules) == 11
    with pytest.raises(FeedError, match="more than 10 rules"):
        parse(text, max_rules=10)


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("domain,url\na.example,http://a.example/x", {}, ["url a.example/x"]),
        ("domain,url\na.example,http://a.example/x", {"column": "Domain"}, ["subtree a.example"]),
        ("host;kind\na.example;scam", {"category_column": "kind"}, ["subtree a.example [scam]"]),
        ("a.example,x\nb.example,y", {}, ["subtree a.example", "subtree b.example"]),
        ('x,host,threat\n"1,2",a.example,y', {}, ["subtree a.example [y]"]),
        ("host,threat\na.example,a\na.example,b", {}, ["subtree a.example [b]"]),
        ("host,threat\nA.example,b\na.example,a", {}, ["subtree a.example [a]"]),
    ],
)
def test_csv_columns(text, options, expected):
    """
    Columns are found by name or by the configuration; of two lines for a rule the last counts.
    """
    assert said(parse(text, "csv", **options)) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"column": "site"}, "no header row with a column 'site'"),
        ({"category_column": "kind"}, "no column 'kind'; there are domain, x"),
    ],
)
def test_a_missing_csv_column_is_named(options, message):
    """
    A column that the configuration names and the list lacks is an error, not an empty list.
    """
    with pytest.raises(FeedError, match=message):
        parse("domain,x\na.example,y\n", "csv", **options)


@pytest.mark.parametrize(
    ("text", "category", "unusable"),
    [
        ("Phishing", "phishing", 0),
        (" Tech  Support Scam ", "tech_support_scam", 0),
        ("", "", 0),
        ("a" * 64, "a" * 64, 0),
        ("a" * 65, "", 1),
        ("what?!", "", 1),
        ("-", "", 1),
    ],
)
def test_categories_are_normalised(text, category, unusable):
    """
    A category is made lower case with underscores; one that cannot be is left blank and counted.
    """
    out = parse(f"domain,category\na.example,{text}\n", "csv")
    assert out.rules == {"subtree a.example": category}
    assert out.bad_categories == unusable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rpz.test. SOA a. b. 1 2 3 4 5\nx.example.rpz.test. CNAME .", ["domain x.example"]),
        ("$ORIGIN rpz.test.\nx.example CNAME .", ["domain x.example"]),
        ("$ORIGIN rpz.test.\nx.example.rpz.test. CNAME .", ["domain x.example"]),
        ("$ORIGIN test.\nrpz SOA a. b. 1 2 3 4 5\nx.example.rpz CNAME .", ["domain x.example"]),
        ("@ SOA a. b. 1 2 3 4 5\nx.example CNAME .", ["domain x.example"]),
        ("@ SOA a. b. 1 2 3 4 5\nx.example. CNAME .", []),  # in which zone?
        ("$ORIGIN rpz.test.\n@ A 192.0.2.1\nrpz.test. CNAME .\n* CNAME .", []),
        ("$ORIGIN rpz.test.\nx.example A 192.0.2.1\n$ORIGIN y.rpz.test.\n A 192.0.2.2\n",
         ["domain x.example"]),
    ],
)  # fmt: skip
def test_owners_are_taken_relative_to_the_zone(text, expected):
    """
    The zone is its SOA's owner, else the first $ORIGIN; the rule is what stands before it.
    """
    assert said(parse(text, "rpz")) == expected


@pytest.mark.parametrize(
    "text",
    [
        "x.example CNAME .\n A 192.0.2.1\n",
        "b.example A 192.0.2.1\nx.example CNAME .\n CNAME rpz-passthru.\n",
        "zone.test. SOA a. b. 1 2 3 4 5\nx.example.zone.test. CNAME .\n CNAME rpz-passthru.\n",
        "zone.test. SOA a. b. 1 2 3 4 5\nx.example.rpz-nsdname.zone.test. CNAME .\n",
        "x.example.rpz-nsdname CNAME .\nx.rpz-other CNAME .\n",
        "$ORIGIN zone.test.\nx.example CNAME .\n$ORIGIN y.zone.test.\n CNAME rpz-passthru.\n",
    ],
)
def test_bulk_and_care_agree_on_zones(text, carefully):
    """
    What a line takes from the lines above it is the same after a run that was read in bulk.
    """
    assert parse(text, "rpz") == carefully(text, "rpz")


def test_unclosed_parentheses_cost_the_record_not_the_list():
    """
    A record that never ends is given up after a while, and the lines below are read.
    """
    out = parse("a.example TXT (\n" + "junk\n" * 120 + "b.example CNAME .\n", "rpz")
    assert "domain b.example" in out.rules
    assert "parentheses" in out.problems[0].what


def test_progress_is_rare_and_ends_near_the_end():
    """
    Progress is told about a hundred times, whatever the size.
    """
    calls: list[tuple[int, int]] = []
    data = "".join(f"name-{i}.example\n" for i in range(1_000_000)).encode()
    formats.parse(data, Feed(name="t"), lambda done, total: calls.append((done, total)))
    assert 50 <= len(calls) <= 100
    assert calls == sorted(calls)
    assert calls[-1][0] > 0.97 * len(data) == 0.97 * calls[-1][1]


# -- bulk paths against care ----------------------------------------------------------------------

_label = st.one_of(
    st.text("ab-_", min_size=1, max_size=4),
    st.sampled_from(["xn--fiqs8s", "a" * 63, "a" * 64, "A", "1", "", "*", "例", "rpz-ip", "x-rpz"]),
)
_name = st.one_of(
    st.lists(_label, min_size=1, max_size=4).map(".".join),
    st.lists(_label, min_size=1, max_size=2).map(lambda found: ".".join([*found, "example"])),
    st.sampled_from([LONG + ".abcde", LONG + ".abcdef", "localhost.localdomain", "192.0.2.1"]),
)
_TEMPLATES = {
    "domains": ["{}", "*.{}", " {} ", "{} # c", "http://{}/a"],
    "hosts": ["0.0.0.0 {}", "127.0.0.1\t{}", "::  {}", "0.0.0.0 {} # c", "0.0.0.0 {} x.example"],
    "adblock": ["||{}^", "||{}", "@@||{}^", "||{}^$all", "||{}^$script", "{}", "0.0.0.0 {}"],
    "dnsmasq": ["address=/{}/0.0.0.0", "address=/{}/", "local=/{}/", "server=/{}/", "server=/{}/#"],
    "rpz": [
        "{} CNAME .",
        "*.{} CNAME .",
        "{}\t30 IN CNAME\t*.",
        "{}.zone.test. CNAME .",
        "{} CNAME rpz-passthru.",
        "zone.test. SOA a. b. 1 2 3 4 5",
        "$ORIGIN zone.test.",
        "$ORIGIN {}.zone.test.",
        " A 192.0.2.1",
        "{} A ( 192.0.2.1",
        ")",
    ],
    "csv": ["{},a", "{},b", "{},B c", "{},?", '"{}",a', "{}", "{},a,b", "#{},a"],
    "urls": ["http://{}", "https://{}/", "http://{}/a.b/c", "http://{}/A?b", "{}", "http://{}/.a/"],
}


@st.composite
def _lists(draw: st.DrawFn) -> tuple[str, str]:
    form = draw(st.sampled_from(FORMATS))
    line = st.tuples(st.sampled_from(_TEMPLATES[form]), _name).map(lambda p: p[0].format(p[1]))
    text = "\n".join(draw(st.lists(line, max_size=12)))
    return form, "domain,category\n" + text if form == "csv" else text


@given(_lists())
@settings(max_examples=600)
def test_bulk_and_care_agree(case):
    """
    For any list, the bulk paths give what reading line by line gives: rules, order and counts.
    """
    form, text = case
    with pytest.MonkeyPatch.context() as patch:
        for reader in READERS:
            patch.setattr(reader, "fast", lambda self, chunk, start: start)
        careful = parse(text, form)
    assert parse(text, form) == careful
    assert list(parse(text, form).rules) == list(careful.rules)


@given(st.sampled_from([*FORMATS, "auto"]), st.binary(max_size=400))
@settings(max_examples=400)
def test_any_octets_parse_or_raise_feed_error(form, data):
    """
    Nothing but FeedError comes out of a list, whatever it holds.
    """
    try:
        out = parse(data, form)
    except FeedError:
        return
    assert out.good + out.bad + sum(out.ignored.values()) <= out.lines + 1


@given(
    st.sampled_from([*FORMATS, "auto"]),
    st.text("a.*|@^$/#! \t\n,;\"'()\\:1-\u4e00\ud800\x00", max_size=80),
)
@settings(max_examples=600)
def test_any_text_parses_or_raises_feed_error(form, text):
    """
    Nothing but FeedError comes out of text made of the formats' own characters.
    """
    try:
        parse(text.encode("utf-8", "surrogatepass"), form)
    except FeedError:
        return


_plain = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.[a-z][a-z0-9_-]{0,62}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "kind", "template"),
    [
        ("csv", "subtree", None),
        ("domains", "subtree", "{}\n"),
        ("hosts", "domain", "0.0.0.0 {}\n"),
        ("adblock", "subtree", "||{}^\n"),
        ("dnsmasq", "subtree", "address=/{}/\n"),
        ("rpz", "domain", "{} CNAME .\n"),
    ],
)
def test_a_real_list_agrees_with_a_naive_reader(form, kind, template):
    """
    On a million real names, each format gives what three lines of Python give.
    """
    path = REAL / "blocklist_1m.csv.gz"
    if not path.exists():
        pytest.skip("no ../shared/data")
    raw = gzip.decompress(path.read_bytes()).decode()
    rows = [line.split(",") for line in raw.splitlines()[1:]]
    rows = [(name, category) for name, category in rows if _plain.fullmatch(name)]
    if template is None:
        text = "domain,category\n" + "".join(f"{n},{c}\n" for n, c in rows)
        expected = {f"{kind} {n}": c for n, c in rows}
    else:
        text = "".join(template.format(n) for n, _ in rows)
        expected = {f"{kind} {n}": "" for n, _ in rows}
    assert len(expected) > 900_000
    out = parse(text)
    assert out.format == form
    assert out.rules == expected
    assert (out.good, out.bad) == (len(rows), 0)


def test_a_line_of_digits_does_not_hang_the_zone_reader():
    """
    What looks like an endless TTL is read in linear time.
    """
    import time

    zone = "a.test " + "1" * 5000 + "x CNAME .\nb.test CNAME .\n" * 20
    started = time.process_time()
    with contextlib.suppress(FeedError):
        formats.parse(zone.encode(), Feed(name="x", path=Path("x"), format="rpz"))
    assert time.process_time() - started < 1
