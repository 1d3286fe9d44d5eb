"""
What comes out of reading a list, and the small tools that every reader of a format uses.

Knows what a rule key looks like; knows no format.
"""

import ipaddress
import re
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from urlguard import names, urls
from urlguard.errors import InputError
from urlguard.rules import MAX_VALUE

MAX_PROBLEMS = 25  # reported; the rest is only counted
MAX_LINE = 65_536  # octets; a longer line is a bad line and is not even decoded
_SHOWN = 60  # characters of a bad line that are shown

# A name that is canonical already, for the bulk paths.  Narrower than what `names.canonical` leaves
# unchanged; whatever does not match goes the slow way and loses nothing but time.  Labels of at
# most 63, at least two of them, the last one beginning with a letter; the limit of 253 is held
# against the rest of the line.  Every part is possessive, so a line is read only once.
LABEL = r"[a-z0-9_-]{1,63}+"
LAST = r"[a-z][a-z0-9_-]{0,62}+"
NAME = rf"(?!.{{254}})(?:{LABEL}\.)++{LAST}"

# Addresses come before names: "192.0.2.1" and "2001:db8::/32" are no bad names, just no names.
_ADDRESS = re.compile(r"\[?[0-9a-fA-F:.]*[0-9a-fA-F:]\]?(?:/[0-9]{1,3})?\Z")
_SINGLE = "a single label; a list may only name what is below a top-level domain"
_COMMENT = re.compile(r"(?:^|\s)#.*")


class Problem(NamedTuple):
    """A bad line: where it stands, what it holds (shortened, escaped) and what is wrong."""

    line: int
    text: str
    what: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}: {self.what}"


class IgnoredError(Exception):
    """A line is understood and of no use to us; the argument is the reason it is counted under."""


@dataclass
class Parsed:
    """
    A list, read.

    `rules` maps rule keys to categories, "" where the line names none; of several lines for one
    key the last counts.  `good` and `bad` count lines, `ignored` lines by reason; comments and
    blank lines are in `lines` only.  `bad_categories` counts good lines whose category was not
    usable and left blank.
    """

    format: str
    rules: dict[str, str] = field(default_factory=dict)
    exceptions: set[str] = field(default_factory=set)
    lines: int = 0
    good: int = 0
    bad: int = 0
    problems: list[Problem] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)
    bad_categories: int = 0

    def problem(self, number: int, text: str, what: str) -> None:
        """Count a bad line and report it, if not too many were reported before."""
        self.bad += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(number, shown(text), what))

    def ignore(self, reason: str) -> None:
        """Count a line that is of no use to us."""
        self.ignored[reason] = self.ignored.get(reason, 0) + 1


class Reader(Protocol):
    """
    Reads one format.  Both methods add to `Parsed`; together they must do what `line` alone does.
    """

    comments: tuple[str, ...]  # a line that begins so says nothing

    def fast(self, chunk: str, start: int) -> int:
        """Read the longest run of plain lines from `start` on in bulk; returns where it ends."""

    def line(self, text: str) -> bool:
        """
        Read one line, which is neither blank nor a comment.

        Returns:
            True if it said something, False if it is to be counted nowhere.

        Raises:
            InputError: it is a bad line.
            IgnoredError: it is understood, and of no use.
        """

    def finish(self) -> None:
        """
        The list is over.

        Raises:
            InputError: in the middle of something.
        """


def shown(text: str) -> str:
    """`text` quoted, escaped to ASCII and of bounded length, for a message."""
    return ascii(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")


def without_comment(text: str) -> str:
    """`text` without surrounding blanks and a comment; the ``#`` must follow a blank."""
    return (_COMMENT.sub("", text, count=1) if "#" in text else text).strip()


def is_address(text: str) -> bool:
    """True for an IP address or network, with or without brackets."""
    if not _ADDRESS.match(text):
        return False
    try:
        ipaddress.ip_network(text.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return False
    return True


def name_key(kind: str, text: str) -> str:
    """
    The rule key of a host name.

    Raises:
        IgnoredError: it is an address.
        InputError: it is no name, or a name of one label: no list may take a whole top-level
            domain away.
    """
    if is_address(text):
        raise IgnoredError("IP address")
    name = names.canonical(text)
    if "." not in name:
        raise InputError(_SINGLE)
    return f"{kind} {name}"


def url_key(text: str) -> str:
    """
    The rule key of a URL, or of ``host/path``; never shortened to the host.

    Raises:
        InputError: it is no URL that a browser would open, or too long for a rule.
    """
    value = urls.rule_value(text)
    if len(value) > MAX_VALUE:
        raise InputError(f"URL of {len(value)} characters, limit is {MAX_VALUE}")
    host = value.partition("/")[0]
    if "." not in host and host[0] != "[":
        raise InputError(_SINGLE)
    return f"url {value}"


def loose_key(text: str) -> str:
    """
    The rule key of a name or URL: ``*.x`` is below, a scheme or a path makes a URL, else subtree.

    Raises:
        IgnoredError, InputError: see `name_key` and `url_key`.
    """
    if is_address(text):
        raise IgnoredError("IP address")
    if "/" in text:
        return url_key(text)
    if text.startswith("*."):
        return name_key("below", text[2:])
    # The leading dot of proxy and dnsmasq lists: the name and what is below it.
    return name_key("subtree", text[1:] if text[:1] == "." and text[1:2] != "." else text)
