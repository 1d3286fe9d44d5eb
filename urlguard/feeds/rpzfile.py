"""
Reader for response policy zones as zone files (RFC 1035 section 5, draft-vixie-dnsop-dns-rpz).

An owner says itself whether it is the name (``domain``) or all below it (``*.name``: ``below``).
Owners are taken relative to the zone: the SOA's owner, or else the first ``$ORIGIN``.  ``CNAME .``,
``CNAME *.``, ``CNAME rpz-drop.`` and local data block; ``CNAME rpz-passthru.`` is an exception.
"""

import re

from urlguard.config import Feed
from urlguard.errors import InputError
from urlguard.feeds.parsed import LABEL, LAST, MAX_LINE, NAME, IgnoredError, Parsed, name_key

_CLASSES = frozenset(("IN", "CH", "HS", "CS", "ANY"))
_TTL = re.compile(r"(?:[0-9]++[smhdw]?+)++\Z", re.I)  # possessive: linear in any line
_TYPE = re.compile(r"[A-Z][A-Z0-9-]*\Z")
# Records that are about the zone or its signatures, at whatever owner.
_ZONE_TYPES = frozenset(
    (
        *("SOA", "NS", "DNAME", "RRSIG", "NSEC", "NSEC3", "NSEC3PARAM"),
        *("DNSKEY", "DS", "CDS", "CDNSKEY", "ZONEMD"),
    )
)
_TRIGGERS = frozenset(("rpz-ip", "rpz-client-ip", "rpz-nsip", "rpz-nsdname"))
_BLOCKING = frozenset((".", "*.", "rpz-drop."))
_UNQUOTED_END = re.compile(r'((?:[^";\\]|\\.|"(?:[^"\\]|\\.)*+")*+)')
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*+"')
_HELD_LINES = 100  # lines that one record in parentheses may take

_TAIL = r"[ \t]++(?:[0-9]++[ \t]++)?(?:IN[ \t]++)?(?:[0-9]++[ \t]++)?CNAME[ \t]++\*?\.\n"


class Rpz:
    """A record a line, or several in parentheses; see `Reader`."""

    comments: tuple[str, ...] = (";",)

    def __init__(self, feed: Feed, out: Parsed) -> None:
        self.out = out
        self.rules = out.rules
        self.origin: str | None = None  # lower case, without the last dot; "" is the root
        self.apex: str | None = None
        self.owner: str | None = None  # as last written, for lines that leave it out
        self.owner_origin: str | None = None  # the origin that it was written under
        self.held: list[str] = []  # the lines of a record whose parentheses are open
        self.depth = 0
        self._set_run()

    def _set_run(self) -> None:
        """The pattern of plain records; owners relative to the zone itself, or absolute."""
        # An owner whose last label is a trigger's would be read as a name otherwise.
        name = NAME.replace(LAST, rf"(?!rpz-){LAST}")
        relative = rf"(?:\*\.)?{name}{_TAIL}"
        self.runs: list[tuple[re.Pattern[str], int]] = []  # and what to cut off their owners
        if self.origin == self.apex:
            self.runs.append((re.compile(f"(?:{relative})*"), 0))
        if self.apex:
            suffix = re.escape(self.apex)
            absolute = rf"(?:\*\.)?(?!.{{254}})(?:{LABEL}\.)+?(?!rpz-){LAST}\.{suffix}\.{_TAIL}"
            self.runs.append((re.compile(f"(?:{absolute})*"), len(self.apex) + 2))

    def fast(self, chunk: str, start: int) -> int:
        """The run of plain records from `start` on; see `Reader`."""
        if self.depth:
            return start
        for run, cut in self.runs:
            match = run.match(chunk, start)
            assert match is not None, "an empty run matches too"
            end = match.end()
            if end == start:
                continue
            owners = [line.split(None, 1)[0] for line in chunk[start : end - 1].split("\n")]
            self.owner, self.owner_origin = owners[-1], self.origin
            if cut:
                owners = [owner[:-cut] for owner in owners]
            keys = ["below " + o[2:] if o[0] == "*" else "domain " + o for o in owners]
            self.rules.update(dict.fromkeys(keys, ""))
            return end
        return start

    def line(self, text: str) -> bool:
        """One line of the zone file; see `Reader`."""
        text = _without_comment(text)
        bare = _QUOTED.sub("", text) if '"' in text else text
        if "(" in bare or self.depth:
            self.depth += bare.count("(") - bare.count(")")
            self.held.append(text)
            if self.depth > 0:
                if len(self.held) > _HELD_LINES or sum(map(len, self.held)) > MAX_LINE:
                    self._drop()
                    raise InputError(f"parentheses open for more than {_HELD_LINES} lines")
                return False
            text = re.sub(r"[()]", " ", " ".join(self.held))
            self._drop()
        if not text.strip():
            return False
        if text.startswith("$"):
            return self._directive(text.split())
        return self._record(text)

    def finish(self) -> None:
        """Parentheses must be closed; see `Reader`."""
        if self.depth:
            raise InputError("the list ends within parentheses")

    def _drop(self) -> None:
        self.held.clear()
        self.depth = 0

    def _directive(self, words: list[str]) -> bool:
        word = words[0].upper()
        if word == "$ORIGIN" and len(words) == 2:
            self.origin = self._absolute(words[1].lower(), self.origin)
            if self.apex is None:
                self.apex = self.origin
            self._set_run()
            return False
        if word == "$TTL":
            return False
        raise InputError(f"{word[:20]} is not read from a list; $ORIGIN name and $TTL are")

    def _record(self, text: str) -> bool:
        words = text.split()
        if text[0] not in " \t":
            self.owner, self.owner_origin = words.pop(0).lower(), self.origin
        if self.owner is None:
            raise InputError("no owner, and no record above to take it from")
        while words and (words[0].upper() in _CLASSES or _TTL.match(words[0])):
            words.pop(0)
        if len(words) < 2:
            raise InputError("not a record; must be owner, TTL, class, type and data")
        kind, target = words[0].upper(), words[1].lower()
        if not _TYPE.match(kind):
            raise InputError(f"{kind[:20]!a} is no record type")
        if kind == "SOA":
            # "@" without $ORIGIN leaves the zone without a name, and relative owners are the rule.
            if self.owner != "@" or self.origin is not None:
                self.apex = self._absolute(self.owner, self.origin)
                if self.origin is None:
                    self.origin = self.apex
                self._set_run()
            raise IgnoredError("zone apex")
        if self.owner == "@" and self.apex is None:
            raise IgnoredError("zone apex")
        name = self._in_zone()
        if name == "":
            raise IgnoredError("zone apex")
        if kind in _ZONE_TYPES:
            raise IgnoredError("record of the zone itself")
        trigger = name.rpartition(".")[2]
        if trigger in _TRIGGERS:
            raise IgnoredError(f"{trigger} trigger")
        key = name_key("below", name[2:]) if name.startswith("*.") else name_key("domain", name)
        if kind == "CNAME" and target not in _BLOCKING:
            # The old way to say passthru is a CNAME to the name itself.
            if target in ("rpz-passthru.", f"{name}.", f"*.{name}."):
                self.out.exceptions.add(key)
                return True
            if target == "rpz-tcp-only.":
                raise IgnoredError("rpz-tcp-only action")
            if target.startswith("rpz-"):
                # Relative, it would mean a name in the zone: to block here would turn an
                # exception that lacks its dot into its opposite.
                raise InputError(f"action {target[:40]!a} unknown, or without its last dot")
        self.rules[key] = ""
        return True

    def _absolute(self, name: str, origin: str | None) -> str:
        """`name` completed, without the last dot."""
        if name == "@":
            return origin or ""
        if name.endswith("."):
            return name[:-1]
        return f"{name}.{origin}" if origin else name

    def _in_zone(self) -> str:
        """The owner relative to the zone; "" for the zone's own name."""
        owner = self.owner or ""
        if not owner.endswith(".") and owner != "@" and self.owner_origin == self.apex:
            return owner
        if self.apex is None:
            raise InputError("absolute owner, but no SOA or $ORIGIN says which zone it is in")
        full = self._absolute(owner, self.owner_origin)
        if full == self.apex:
            return ""
        if not self.apex:
            return full
        if full.endswith("." + self.apex):
            return full[: -len(self.apex) - 1]
        raise InputError(f"outside the zone {self.apex[:80]!a}")


def _without_comment(text: str) -> str:
    """`text` up to a ``;`` outside quotes; blanks in front stay, for they mean something."""
    if '"' not in text:
        return text.partition(";")[0].rstrip()
    match = _UNQUOTED_END.match(text)
    return (match[1] if match else text).rstrip()
