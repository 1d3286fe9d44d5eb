"""
Readers for the formats of which each line stands alone: domains, urls, hosts, adblock, dnsmasq.

How it works: nearly every line of a large list has one plain shape (``||evil.example^``).  A
regular expression, matched once, swallows the whole run of such lines; the run is then taken apart
with a few string operations.  That costs well below a microsecond a line.  The first line of
another shape ends the run and is read with care by `line`, which is the reference: for a plain
line it gives what `fast` gives.
"""

import re

from urlguard.config import Feed
from urlguard.errors import InputError
from urlguard.feeds.parsed import (
    NAME,
    IgnoredError,
    Parsed,
    is_address,
    loose_key,
    name_key,
    url_key,
    without_comment,
)

# Names that every hosts file maps to the machine itself.
LOCAL_NAMES = frozenset(
    (
        "localhost",
        "localhost.localdomain",
        "localhost4",
        "localhost4.localdomain4",
        "localhost6",
        "localhost6.localdomain6",
        "local",
        "broadcasthost",
        "ip6-localhost",
        "ip6-loopback",
        "ip6-localnet",
        "ip6-mcastprefix",
        "ip6-allnodes",
        "ip6-allrouters",
        "ip6-allhosts",
    )
)


class _Lines:
    """What the readers of this module share."""

    comments: tuple[str, ...] = ("#", "!", ";", "//")
    run = re.compile(f"(?:{NAME}\n)*")

    def __init__(self, feed: Feed, out: Parsed) -> None:
        self.out = out
        self.rules = out.rules

    def fast(self, chunk: str, start: int) -> int:
        """The run of plain lines from `start` on; see `Reader`."""
        match = self.run.match(chunk, start)
        assert match is not None, "an empty run matches too"
        end = match.end()
        if end > start:
            self.rules.update(dict.fromkeys(self.keys(chunk[start : end - 1]), ""))
        return end

    def keys(self, lines: str) -> list[str]:
        """The rule keys of a run of lines, without its last line end."""
        raise NotImplementedError

    def finish(self) -> None:
        """Nothing is left over; see `Reader`."""


class Domains(_Lines):
    """A name a line, a subtree each; ``*.name`` is below, a URL stays a URL."""

    run = re.compile(rf"(?:(?:\*\.)?{NAME}\n)*")

    def keys(self, lines: str) -> list[str]:
        if "*" not in lines:
            return ("subtree " + lines.replace("\n", "\nsubtree ")).split("\n")
        return [
            "below " + line[2:] if line[0] == "*" else "subtree " + line
            for line in lines.split("\n")
        ]

    def line(self, text: str) -> bool:
        text = without_comment(text)
        if "/" not in text:  # no name has a "#", but a URL may
            text = text.partition("#")[0]
        self.rules[loose_key(text)] = ""
        return True


class Urls(_Lines):
    """A URL a line; a bare name is the URL ``name/``."""

    # Only paths that canonical form leaves alone: no dot segment, no double slash, no escape.
    run = re.compile(rf"(?:https?://{NAME}(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*+)*+/?\n)*")

    def keys(self, lines: str) -> list[str]:
        rest = [line.partition("://")[2] for line in lines.split("\n")]
        return ["url " + text if "/" in text else f"url {text}/" for text in rest]

    def line(self, text: str) -> bool:
        text = without_comment(text)
        if is_address(text):
            raise IgnoredError("IP address")
        self.rules[url_key(text if "/" in text else text + "/")] = ""
        return True


class Hosts(_Lines):
    """An address and names a line, each the exact name; whatever the address is, it is a sink."""

    comments: tuple[str, ...] = ("#", "!", ";")
    run = re.compile(
        r"(?:(?:0\.0\.0\.0|127\.0\.0\.1|::1?)[ \t]++"
        rf"(?!localhost[46]?\.localdomain[46]?\n){NAME}\n)*"
    )

    def keys(self, lines: str) -> list[str]:
        return ["domain " + name for name in lines.split()[1::2]]

    def line(self, text: str) -> bool:
        return hosts_line(text.partition("#")[0], self.rules)


def hosts_line(text: str, rules: dict[str, str]) -> bool:
    """
    Read one line of a hosts file into `rules`: all of its names, or none if one is bad.

    Raises:
        IgnoredError, InputError: see `Reader.line`.
    """
    address, *found = text.split()
    if not is_address(address.partition("%")[0]) or "/" in address:
        raise InputError("no address in the first column; must be an address and names")
    if not found:
        raise InputError("an address without a name")
    keys = []
    reason = "localhost name"
    for name in found:
        if name.lower().rstrip(".") in LOCAL_NAMES:
            continue
        try:
            keys.append(name_key("domain", name))
        except IgnoredError as exc:  # StevenBlack's list has "0.0.0.0 0.0.0.0"
            reason = str(exc)
    if not keys:
        raise IgnoredError(reason)
    rules.update(dict.fromkeys(keys, ""))
    return True


class AdBlock(_Lines):
    """
    AdBlock's filters, as far as DNS can follow them, with the hosts and plain lines of AdGuard's.

    Only what blocks a whole name, or one URL, is taken.  A filter that a browser would apply to
    scripts or images alone, or on certain pages, must not take the name away from everybody.
    """

    comments: tuple[str, ...] = ("!", "# ", "[Adblock", "[AdBlock", "[AdGuard", "[uBlock")
    run = re.compile(rf"(?:\|\|{NAME}\^\n)*")

    # Modifiers with which the rule still stops a visit to the whole name.
    whole = frozenset(("all", "document", "doc", "important"))
    known = frozenset(
        (
            *("3p", "1p", "app", "badfilter", "client", "csp", "ctag", "denyallow", "dnsrewrite"),
            *("dnstype", "domain", "elemhide", "font", "frame", "from", "generichide", "ghide"),
            *("image", "match-case", "media", "method", "network", "object", "other", "ping"),
            *("popup", "redirect", "removeparam", "replace", "rewrite", "script", "strict1p"),
            *("strict3p", "stylesheet", "subdocument", "third-party", "to", "webrtc"),
            *("websocket", "xhr", "xmlhttprequest"),
        )
    )

    _cosmetic = re.compile(r"#[@?$%]{0,3}#|\$@?\$")
    _modifiers = re.compile(r"\$(~?[a-z0-9_-]+(?:[=,][^$]*)?)\Z")
    _regex = re.compile(r"/.*/(?:\$[^/]*)?\Z")
    _host = re.compile(r"(\*\.)?([^/^|*:?\s]*)(.*)\Z")
    _plain = re.compile(r"(?:\*\.)?[^/^|*:?$=&\s]+\.[^/^|*:?$=&.\s]+\.?\Z")

    def keys(self, lines: str) -> list[str]:
        return ["subtree " + name for name in lines[2:-1].split("^\n||")]

    def line(self, text: str) -> bool:
        text = text.strip()
        if self._cosmetic.search(text):
            raise IgnoredError("cosmetic rule")
        text = without_comment(text)
        if text[:1] in ("", "#"):
            return False
        body = text.removeprefix("@@")
        exception = body != text
        if self._regex.match(body):
            raise IgnoredError("regular expression")
        if match := self._modifiers.search(body):
            self._check(match[1])
            body = body[: match.start()]
        if " " in body or "\t" in body:
            if exception:
                raise InputError("blank in a filter")
            return hosts_line(body, self.rules)
        key = self._key(body)
        if exception:
            self.out.exceptions.add(key)
        else:
            self.rules[key] = ""
        return True

    def _check(self, modifiers: str) -> None:
        for modifier in modifiers.split(","):
            if modifier not in self.whole:
                # Not the text itself: a hostile list could make the counts grow without limit.
                name = modifier.partition("=")[0].removeprefix("~")
                raise IgnoredError(f"modifier ${name if name in self.known else '(unknown)'}")

    def _key(self, body: str) -> str:
        if body.startswith("||"):
            return self._anchored(body[2:])
        if body.startswith("|"):
            body = body[1:].removesuffix("|")
            if "://" not in body:
                return name_key("domain", self._literal(body.removesuffix("^")))
        elif self._plain.match(body):
            return loose_key(body)
        if "://" not in body or body.startswith(":"):
            raise IgnoredError("part of a URL")
        return self._url(body)

    def _anchored(self, body: str) -> str:
        """The key of what stands behind ``||``."""
        match = self._host.match(body)
        if match is None:
            raise InputError("blank in a filter")
        star, host, tail = match.groups()
        if is_address(body.rstrip("^|")):
            raise IgnoredError("IP address")
        if tail in ("", "^", "|", "^|", "^*"):
            return name_key("below" if star else "subtree", host)
        if tail[0] == "/" and not star:
            return self._url(host + tail)
        if tail[0] == ":":
            raise IgnoredError("port")
        raise IgnoredError("wildcard" if "*" in tail or star else "part of a URL")

    def _url(self, text: str) -> str:
        """The key of a URL, or of ``host/path``; a browser's wildcards in it are not ours."""
        text = self._literal(text.rstrip("^|"))
        return url_key(text if "/" in text.partition("://")[2] or "://" not in text else text + "/")

    def _literal(self, text: str) -> str:
        if re.search(r"[*^|]", text):
            raise IgnoredError("wildcard")
        return text


class Dnsmasq(_Lines):
    """``address=/name/``, ``local=/name/`` and ``server=/name/``: a subtree each."""

    comments: tuple[str, ...] = ("#",)
    run = re.compile(
        rf"(?:(?:address=/{NAME}/(?:0\.0\.0\.0|127\.0\.0\.1|::1?|#)?|(?:local|server)=/{NAME}/)\n)*"
    )

    _option = re.compile(r"(?:--)?(address|local|server)=/(.*)/([^/]*)\Z")
    _other = re.compile(r"(?:--)?[a-z][a-z0-9-]*(?:=.*)?\Z")

    def keys(self, lines: str) -> list[str]:
        # "address=", name, "0.0.0.0\naddress=", name, ...
        return ["subtree " + name for name in lines.split("/")[1::2]]

    def line(self, text: str) -> bool:
        text = without_comment(text)
        match = self._option.match(text)
        if match is None:
            if self._other.match(text) and not text.lstrip("-").startswith(("address", "local=/")):
                raise IgnoredError("other option")
            raise InputError("must be address=/name/..., local=/name/ or server=/name/")
        option, found, target = match.groups()
        if option != "address" and target:
            raise IgnoredError("forwarded name")  # to an upstream, or with "#" to the usual ones
        if target not in ("", "#") and not is_address(target):
            raise InputError("the target is no address; must be an address, # or nothing")
        wrong: InputError | None = None
        for name in found.split("/"):
            try:
                if name == "#":
                    raise InputError("# stands for every name; a list may not block them all")
                self.rules[loose_key(name)] = ""
            except InputError as exc:
                wrong = wrong or exc
        if wrong:
            raise wrong
        return True
