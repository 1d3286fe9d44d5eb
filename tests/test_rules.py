"""Rules: their kinds, their keys, and how people write them."""

import re

import pytest

from urlguard import rules
from urlguard.errors import InputError
from urlguard.rules import PAUSE, Rule


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


def test_a_planned_key_holds_time_and_rule():
    """
    Keys of earlier times sort before those of later ones, and say what they hold.
    """
    key = rules.scheduled(1_893_456_000, "subtree evil.example")
    assert key == "scheduled 0000001893456000 subtree evil.example"
    assert rules.from_scheduled(key) == (1_893_456_000, "subtree evil.example")
    assert rules.scheduled(9, "url x.example/") < rules.scheduled(10, "domain a.example")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("pause other", "kind must be one of"),
        ("pause", "kind must be one of"),
        ("scheduled 1 subtree evil.example", "16 digits"),
        ("scheduled 0000001893456000 nonsense x", "kind must be one of"),
        ("scheduled 0000001893456000 subtree EVIL.example", "must be canonical"),
        (f"scheduled 0000001893456000 {PAUSE}", "kind must be one of"),
    ],
)
def test_what_is_no_key_of_the_log(key, said):
    """
    The pause has one value, and only a proper rule can be scheduled.
    """
    rules.check_key(PAUSE)
    rules.check_key("scheduled 0000001893456000 subtree evil.example")
    with pytest.raises(InputError, match=said):
        rules.check_key(key)


@pytest.mark.parametrize("text", [PAUSE, "scheduled 0000001893456000 subtree evil.example"])
def test_nobody_can_type_what_only_the_log_says(text):
    """
    Nobody can write the key of a pause or of a scheduled rule as a rule.
    """
    with pytest.raises(InputError):
        rules.parse(text)
