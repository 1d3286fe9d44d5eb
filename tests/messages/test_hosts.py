"""Which pieces of a message are host names."""

import dataclasses

import pytest

from urlguard.messages import hosts
from urlguard.messages.hosts import Written
from urlguard.messages.normalize import COMMA, LOOSE, SPELLED, TIGHT


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("demo.com", "demo.com"),
        ("a.demo.co.uk", "a.demo.co.uk"),
        ("demo.c0m", "demo.com"),
        ("demo.t0p", "demo.top"),
        ("demo.v1p", "demo.vip"),
        ("bücher.de", "xn--bcher-kva.de"),
        ("示例.网址", "xn--fsq092h.xn--ses554g"),
        ("аррӏе.com", "xn--80ak6aa92e.com"),  # one script: an IDN
        ("аррӏе-id.com", "apple-id.com"),  # two: what it looks like
        ("demo.соm", "demo.com"),
        # No owner, no listed ending, no host.
        ("com", None),
        ("demo.example", None),
        ("demo.local", None),
        ("1.2.3", None),
        ("1.c0m", None),
        ("demo-.com", None),
        ("demo.-com", None),
        ("a" * 64 + ".com", None),
    ],
)
def test_names(host, name):
    """
    A name stands below a public suffix; look-alike letters are what they resemble.
    """
    assert hosts.name(host) == name


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("demo.example", "demo.example"),
        ("a.demo.internal", "a.demo.internal"),
        ("localhost", None),
        ("v1.2", None),
        ("a..b", None),
    ],
)
def test_names_behind_a_scheme(host, name):
    """
    There the ending need not be on the list, but must be letters, behind another label.
    """
    assert hosts.unlisted(host) == name


def written(name, doubt="", **changes):
    made = Written(name, doubt, path=False, titled=False, sentence=False)
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize(
    ("name", "believed"),
    [
        ("demo.com", True),
        ("demo.top", True),
        ("163.com", True),
        ("8858.top", True),
        ("www.read.me", True),
        ("demo-user.github.io", True),
        # Languages.
        ("home.then.me", False),
        ("ok.so", False),
        ("mr.li", False),
        ("a.in", False),
        ("8.vip", False),
        ("500.in", False),
        ("500m.tv", False),
        ("asp.net", False),
        # Files.
        ("main.py", False),
        ("report.zip", False),
        ("main.cc", False),
        ("demo.cc", True),
        ("snake_case.com", False),
        # Suffixes that nobody owns.
        ("s3.amazonaws.com", False),
    ],
)
def test_bare_names(name, believed):
    """
    Without a scheme, what may be a word, an abbreviation or a file is no name.
    """
    assert written(name).plausible() is believed


@pytest.mark.parametrize(
    ("name", "changes", "believed"),
    [
        ("read.me", {"path": True}, False),
        ("demo.py", {"path": True}, True),
        ("t.me", {"path": True}, True),
        ("t.me", {}, False),
        ("wonderful.so", {"sentence": True}, False),
        ("wonderful.so", {"path": True, "sentence": True}, True),
        ("demo.is", {"sentence": True}, False),
        ("demo.is", {}, True),
        ("demo.info", {"titled": True}, False),
        ("demo.com", {"titled": True}, True),
        ("demo.info", {"called": True}, False),
        ("demo-1.info", {"called": True}, True),
        ("demo.com", {"called": True}, True),
    ],
)
def test_what_stands_about_a_name(name, changes, believed):
    """
    A path speaks for a name; a capital, a sentence that goes on, or a call speak against it.
    """
    assert written(name, **changes).plausible() is believed


@pytest.mark.parametrize(
    ("name", "sure"),
    [
        ("demo.com", {SPELLED, TIGHT, LOOSE}),
        ("demo-1.com", {SPELLED, TIGHT, LOOSE, COMMA}),
        ("demo.top", {SPELLED}),
        ("a.demo.top", {SPELLED, TIGHT}),
        ("demo-1.top", {SPELLED, TIGHT, LOOSE, COMMA}),
        ("demo.nl", set()),
        ("hello.com", set()),
        ("1688.com", {SPELLED, TIGHT, LOOSE, COMMA}),
        ("8.vip", set()),
    ],
)
def test_names_with_a_dot_in_doubt(name, sure):
    """
    The less a dot looks like one, the more a name must look like a name.
    """
    assert {
        sign for sign in (SPELLED, TIGHT, LOOSE, COMMA) if written(name, sign).plausible()
    } == sure
