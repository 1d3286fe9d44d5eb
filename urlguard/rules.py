"""
Rules: kind, value, key, and the syntax in which people write them.

A rule's *key* is its identity everywhere in UrlGuard: the kind, one space, and the canonical value
(``subtree evil.example``).  Policy log, overlay, snapshot and RPZ all use keys.

    domain   evil.example            the name itself
    subtree  evil.example            the name and everything below it
    below    evil.example            everything below the name, not the name
    pattern  pay-*-verify.example    see `blocklist.patterns` for the syntax
    url      evil.example/a/b        a Safe Browsing expression; never blocks its host

Three kinds of keys are not rules; neither users nor feeds can write them:

    pause    filtering               an operator's allow at this key pauses filtering
    scheduled 0000001893456000 subtree evil.example
                                     the rule begins at that time (seconds since 1970)
    shadow   subtree evil.example    claims on the rule with action ``shadow``: matches are counted
                                     and have no effect on decisions
"""

import re
from typing import NamedTuple, Self

from urlguard import names, pattern_syntax, urls
from urlguard.errors import InputError

KINDS = ("domain", "subtree", "below", "pattern", "url")

OPERATOR = "operator"  # the source of decisions on the command line

PAUSE = "pause filtering"
SCHEDULED = "scheduled "  # prefix of the key of a rule that begins later
SHADOWED = "shadow "  # prefix of the key of a rule in shadow
_SCHEDULED = re.compile(r"scheduled (\d{16}) (.+)", re.S)

# Actions of a claim.  ``except`` is a feed's exception (AdBlock @@, rpz-passthru): it cancels only
# that feed's own rules.  ``shadow`` counts the queries that a block would affect, without effect.
SHADOW = "shadow"
ACTIONS = ("block", "review", "allow", "except", SHADOW)

MAX_VALUE = 2048  # characters; longer rules are refused, to bound a hostile feed


class Rule(NamedTuple):
    """One rule: the names or URLs it covers, without any claims on it."""

    kind: str
    value: str

    @property
    def key(self) -> str:
        """The rule's identity: kind, space, value."""
        return f"{self.kind} {self.value}"

    @classmethod
    def from_key(cls, key: str) -> Self:
        """The rule that a key names."""
        kind, _, value = key.partition(" ")
        return cls(kind, value)


def scheduled(begins_at: int, key: str) -> str:
    """
    The key of a rule that begins later.

    Args:
        begins_at: seconds since 1970, UTC; keys sort by it.
        key: of the rule.
    """
    return f"{SCHEDULED}{begins_at:016} {key}"


def from_scheduled(key: str) -> tuple[int, str]:
    """
    When a scheduled rule begins, in seconds since 1970, and its own key.

    Raises:
        InputError: the key is not of a scheduled rule.
    """
    match = _SCHEDULED.fullmatch(key)
    if match is None:
        raise InputError(f"rule {key[:60]!r}: must be 'scheduled', 16 digits and a rule's key")
    return int(match[1]), match[2]


def check_key(key: str) -> None:
    """
    Refuse a key that no rule has: an unknown kind, or a value that is not canonical.

    Raises:
        InputError: the message says which.
    """
    if key == PAUSE:
        return
    if key.startswith(SCHEDULED):
        key = from_scheduled(key)[1]
    kind, _, value = key.partition(" ")
    if kind not in KINDS:
        raise InputError(f"rule {key[:60]!r}: kind must be one of {', '.join(KINDS)}")
    canonical = {"url": urls.rule_value, "pattern": pattern_syntax.canonical}.get(
        kind, names.canonical
    )
    if canonical(value) != value:
        raise InputError(f"rule {key[:60]!r}: the value must be canonical: {canonical(value)!r}")


def parse(text: str) -> Rule:
    """
    Parse a rule in user syntax, as in ``urlguard block TEXT``.

    A plain name is a subtree, ``*.name`` covers the names below it, anything with a scheme or a
    path is a URL, and anything with another ``*``, ``keyword:`` or a leading ``/`` is a pattern.

    Raises:
        InputError: it is none of these; the message says why.
    """
    text = text.strip()
    if not text:
        raise InputError("rule: empty; must be a name, *.name, a URL or a pattern")
    if len(text) > MAX_VALUE:
        raise InputError(f"rule: {len(text)} characters, limit is {MAX_VALUE}")
    if text.startswith("*.") and "*" not in text[2:] and "/" not in text:
        return Rule("below", names.canonical(text[2:]))
    if "*" in text or text.startswith(("/", pattern_syntax.KEYWORD)):
        return Rule("pattern", pattern_syntax.canonical(text))
    if "://" in text or "/" in text:
        return Rule("url", urls.rule_value(text))
    return Rule("subtree", names.canonical(text))
