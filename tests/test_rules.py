"""Rules: their kinds, their keys, and how people write them."""

import re

import pytest

from urlguard import rules
from urlguard.errors import InputError
from urlguard.rules import Rule


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("evil.example", "subtree evil.example"),
        ("  EVIL.Example. ", "subtree evil.example"),
        ("bücher.example", "subtree xn--bcher-kva.example"),
        ("_dmarc.evil.example", "subtree _dmarc.evil.example"),
        ("com", "subtree com"),
        ("*.evil.example", "below evil.example"),
        ("*.EVIL.example", "below evil.example"),
        ("http://evil.example", "url evil.example/"),
        ("https://evil.example/", "url evil.example/"),
        ("https://user@Evil.example:8443/a/../b?c=d#e", "url evil.example/b?c=d"),
        ("evil.example/", "url evil.example/"),
        ("evil.example/Login", "url evil.example/Login"),
        ("http://192.0.2.1/x", "url 192.0.2.1/x"),
        ("http://[2001:db8::1]/", "url [2001:db8::1]/"),
        ("*paypa1*", "pattern *paypa1*"),
        ("pay-*-verify.example", "pattern pay-*-verify.example"),
        ("*.evil-*.example", "pattern *.evil-*.example"),
        ("keyword:paypal", "pattern keyword:paypal"),
        ("/wp-login.php", "pattern /wp-login.php"),
        ("*/secure/*.php", "pattern */secure/*.php"),
        ("*.evil.example/login", "pattern *.evil.example/login"),
    ],
)
def test_what_people_write(text, key):
    """
    A name is a subtree, ``*.name`` is below, a scheme or a path makes a URL, the rest are patterns.
    """
    rule = rules.parse(text)
    assert rule.key == key
    assert Rule.from_key(key) == rule
    assert rule.kind in rules.KINDS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "rule: empty"),
        ("   ", "rule: empty"),
        ("two words", "has ' '"),
        ("192.0.2.1", "is an IP address"),
        ("2001:db8::1", "is an IP address"),
        ("evil..example", "label 2 is empty"),
        ("*.", "empty"),
        ("*", "needs 4 characters"),
        ("*.x.*", "needs 4 characters"),
        ("*.192.0.2.1", "is an IP address"),
        ("keyword:ab", "needs 4 characters"),
        ("http://", "host"),
        ("http://im possible/", "neither a host name nor an IP address"),
        ("mailto:x@evil.example", "has ':'"),
        ("x" * 3000, "3000 characters, limit is 2048"),
    ],
)
def test_what_is_no_rule(text, said):
    """
    Refused with the reason.
    """
    with pytest.raises(InputError, match=re.escape(said)):
        rules.parse(text)


def test_a_key_is_kind_space_value():
    """
    The value may hold spaces' worth of anything; the first space ends the kind.
    """
    assert Rule.from_key("url evil.example/a b") == Rule("url", "evil.example/a b")
