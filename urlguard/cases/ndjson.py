"""
Candidates as crawlers send them, one JSON object a line, in the form in which a store keeps them.

Knows lines and the canonical forms; knows no store, no HTTP and no policy.  Whoever calls it has
time: a line costs some 20 µs, so it is work for a judge and not for an event loop.

How it works.  Each line is read by itself, so that a bad one costs only itself.  What stands in it
becomes what ``urlguard check`` would call its canonical form; a bare address becomes the URL of its
first page, since nothing else about it can be decided.  What nobody could ever decide about is no
candidate: a host that is neither a name with a dot nor an address.
"""

import datetime
import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from urlguard import names, urls
from urlguard.cases.model import MAX_CONTEXT, MAX_RAW, Candidate
from urlguard.errors import InputError

MAX_LINE: Final = 16_384  # octets
MAX_ERRORS: Final = 1_000  # lines of one intake that are told apart; more are only counted
PART: Final = 200  # candidates that are read from JSON in one go: some 0.2 ms

_LATEST: Final = 1e11  # seconds since 1970; what is above is in milliseconds
_BOM: Final = b"\xef\xbb\xbf"

Hosting = Callable[[str], bool]  # whether a name is somebody's place on shared hosting


class Intake(NamedTuple):
    """
    What a body, or a part of one, holds.

    The candidates stay JSON until somebody wants them, since reading many of them at once would
    hold up an event loop, also from another thread.
    """

    lines: int
    candidates: int
    invalid: int
    errors: list[tuple[int, str]]
    parts: list[bytes]

    def rows(self) -> Iterator[Candidate]:
        """The candidates, in order; for the thread that stores them."""
        for part in self.parts:
            yield from _PARTS.decode(part)


class _Line(msgspec.Struct):
    """A line; other fields than these may stand in it."""

    url: str
    seen_at: int | float | datetime.datetime | None = None
    context: str | None = None


_LINE: Final = msgspec.json.Decoder(_Line)
_PARTS: Final = msgspec.json.Decoder(list[Candidate])
_FIELD: Final = re.compile(r"(.*) - at `\$\.(\w+)`", re.S).fullmatch
_userinfo: Final = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:)?[/\\]*[^/\\?#]*@", re.I | re.A).match
_address_like: Final = re.compile(r"\[?[0-9a-fA-F:.]+\]?").fullmatch


class Reader:
    """
    Reads lines; blank ones are passed over.

    Args:
        now: seconds since 1970, for lines that do not say when, or say a time to come.
        hosting: below which registrable domains customers own the names; by the suffix list alone
            if None.
    """

    def __init__(self, now: float, hosting: Hosting | None = None) -> None:
        self.rows: list[Candidate] = []
        self.lines = 0
        self.invalid = 0
        self.errors: list[tuple[int, str]] = []  # line, from 1, and what is wrong with it
        self._now = int(now)
        self._hosting = hosting

    def feed(self, data: bytes) -> None:
        """Read whole lines of UTF-8; only the very last one may lack its end.  Never raises."""
        before = self.lines
        lines = data.removeprefix(_BOM).split(b"\n")
        if not lines[-1]:
            del lines[-1]
        self.lines += len(lines)
        for number, line in enumerate(lines, before + 1):
            try:
                if len(line) > MAX_LINE:
                    raise InputError(f"line: {len(line)} octets, limit is {MAX_LINE}")
                self.rows.append(_candidate(_LINE.decode(line), self._now, self._hosting))
            except (InputError, ValueError, OverflowError, RecursionError) as exc:
                # The decoder's own errors are ValueErrors, and so is what is no UTF-8.
                if not line.strip():
                    continue
                self.invalid += 1
                if len(self.errors) < MAX_ERRORS:
                    self.errors.append((number, _words(exc)))

    def encoded(self) -> bytes:
        """All that was read as lines of JSON, which `decoded` reads."""
        rows = self.rows
        head = json.dumps([self.lines, len(rows), self.invalid, self.errors])
        parts = [msgspec.json.encode(rows[at : at + PART]) for at in range(0, len(rows), PART)]
        return b"\n".join([head.encode(), *parts])


def decoded(data: bytes) -> Intake:
    """
    What `Reader.encoded` wrote.

    Raises:
        ValueError: it did not.
    """
    head, *parts = data.split(b"\n")
    lines, count, invalid, errors = json.loads(head)
    return Intake(lines, count, invalid, [(number, words) for number, words in errors], parts)


def joined(pieces: Sequence[Intake]) -> Intake:
    """Pieces of one body, in order, as a whole."""
    before = 0
    errors: list[tuple[int, str]] = []
    for piece in pieces:
        room = MAX_ERRORS - len(errors)
        errors += [(before + number, words) for number, words in piece.errors[:room]]
        before += piece.lines
    return Intake(
        before,
        sum(piece.candidates for piece in pieces),
        sum(piece.invalid for piece in pieces),
        errors,
        [part for piece in pieces for part in piece.parts],
    )


def candidate(
    text: str, seen_at: int, context: str = "", hosting: Hosting | None = None
) -> Candidate:
    """
    One candidate.

    Args:
        text: a URL, name or address as somebody typed or found it.
        seen_at: seconds since 1970.
        context: what was said about it; `MAX_CONTEXT` characters are kept.
        hosting: see `Reader`.

    Raises:
        InputError: it is none.
    """
    try:
        item = name = names.canonical(text)
    except InputError:
        url = _url(text.strip())
        item = url.canonical
        if url.name is None and not url.is_ip:
            raise InputError(
                f"url {names.shown(text)}: host is neither a host name nor an IP address"
            ) from None
        if url.is_ip:
            return Candidate(
                item, url.host, url.host, _kept(text, item), seen_at, context[:MAX_CONTEXT]
            )
        name = url.host
    if "." not in name:
        raise InputError(f"url {names.shown(text)}: host {names.shown(name)} has no dot")
    owner = _owner(name, hosting)
    return Candidate(item, name, owner, _kept(text, item), seen_at, context[:MAX_CONTEXT])


def _candidate(line: _Line, now: int, hosting: Hosting | None) -> Candidate:
    seen = line.seen_at
    if seen is None:
        moment = now
    else:
        if isinstance(seen, datetime.datetime):
            whole = seen if seen.tzinfo else seen.replace(tzinfo=datetime.UTC)
            seen = whole.timestamp()
        if not 0 <= seen < _LATEST:
            raise InputError(f"seen_at: {seen:.15g}; must be seconds since 1970, or RFC 3339 text")
        # A clock that runs ahead gains nothing by it.
        moment = min(int(seen), now)
    return candidate(line.url, moment, line.context or "", hosting)


def _url(text: str) -> urls.Url:
    """
    What is no name, as a URL.

    Raises:
        InputError: it is none either.
    """
    if _address_like(text):
        try:
            address = ipaddress.ip_address(text.strip("[]"))
        except ValueError:
            pass
        else:
            text = f"http://[{address}]/" if address.version == 6 else f"http://{address}/"
    if not urls.looks_like_url(text):
        names.canonical(text)  # says best what is wrong
    return urls.parse(text)


def _owner(name: str, hosting: Hosting | None) -> str:
    if hosting is not None and hosting(name):
        suffix, domain = names.split(name)
        if domain is not None and not names.is_private_suffix(suffix):
            return names.owner(name, frozenset((domain,)))
    return names.owner(name)


def _kept(text: str, item: str) -> str:
    """The text as it came, unless it may have a password in it."""
    if "@" in text and _userinfo(text):
        return item
    return text if len(text) <= MAX_RAW else text[:MAX_RAW]


def _words(problem: Exception) -> str:
    """What is wrong with a line, the field first if it is known."""
    if isinstance(problem, RecursionError):
        return "line: nested too deep"
    text = str(problem)
    if isinstance(problem, msgspec.ValidationError) and (found := _FIELD(text)):
        return f"{found[2]}: {found[1]}"
    return text if isinstance(problem, InputError) else f"line: {text}"
