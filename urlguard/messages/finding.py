"""
Finds URLs and host names in SMS and chat messages, also defanged and obfuscated ones.

`find` is the package's only entry point; the API's check of messages calls it.  Knows where a URL
in a text begins and ends, and how to tell it from a mail address or a file name.  Makes no network
requests and gives no verdict.

How it works.  The message is normalized (`normalize`) and refanged (`defanging`); both keep each
character's position in the message.  One regular expression then finds
runs of labels, with scheme and user information if they stand there, and `hosts` says whether a run
is a name.  Where a dot is in doubt, the parts on both sides are tried by themselves first.  Names
in scripts that are written without spaces are looked for from their endings backwards.  A message
without anything like a dot is left after one search, which most are.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Final, NamedTuple

from urlguard import names, urls
from urlguard.errors import InputError
from urlguard.messages import defanging, hosts
from urlguard.messages.defanging import HOST
from urlguard.messages.normalize import DOUBTFUL, LOOSE, MIDDLE_DOTS, Normalized, normalized

MAX_TEXT: Final = 65_536  # characters that are read; what follows is not
MAX_FOUND: Final = 100  # places that are reported for a message

# Nothing is found in a message without one of these: dots of all kinds, what stands for them, and
# schemes, behind which a number is an address.
_dotted = re.compile(
    rf"[.点點。{MIDDLE_DOTS}\u2024\uff0e\ufe52\uff61\u2488-\u249b]|[,，、](?:com|cn|xyz|cc)"
    r"|dot|d0t|dian|www|[:：][/／]{2}",
    re.I,
).search

_doubtful = f"[{''.join(DOUBTFUL)}]"
_dots = f"[.{''.join(DOUBTFUL)}]"
_user = r"(?:[^\s/?#\\@<>\"\u3000-\u9fff]{0,255}+@){0,3}+"
_candidate = re.compile(
    rf"(?P<scheme>(?:https?|ftp)://)(?P<user>{_user})"
    rf"(?P<host>[{HOST}]{{1,63}}+(?:{_dots}[{HOST}]{{1,63}}+){{1,126}}+|\[[0-9a-f:.]{{2,45}}\]"
    rf"|(?:[0-9]{{8,10}}|0x[0-9a-f]{{7,8}})(?![{HOST}]))"
    rf"|(?<![{HOST}])[{HOST}]{{1,63}}+(?:{_dots}[{HOST}]{{1,63}}+){{1,126}}+"
)
_chars = rf"!-;=?-\[\]_a-z~{HOST[8:]}"  # what a URL is made of behind its host; no <>"`{{|}}^
_port = re.compile(r":[0-9]{1,5}(?![0-9])")
_tail = re.compile(rf"[/?#\\][{_chars}\\]{{0,{urls.MAX_URL}}}")  # a longer one makes no URL
_loose_tail = re.compile(rf"[ ]{{0,2}}/[ ]{{0,2}}[{_chars}]{{0,{urls.MAX_URL}}}")
_another = re.compile(r"(?<=[a-z0-9;,:|])https?://")
_split = re.compile(_dots).split
_address = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}").fullmatch
_sentence = re.compile(r"\.[A-Z][a-z]{1,20}\Z").search
_next_word = re.compile(r"[ ]+[a-z]").match
_called = re.compile(r"\([a-z0-9_.,:=>'\" -]{0,40}\)").match  # as in df.info()
_prefix = re.compile(r"/[0-9]{1,2}(?![0-9a-z/.])").match  # of a network, as in 192.0.2.0/24

_MAX_CUTS: Final = 4  # words that are stuck to the end of a name, as in www.example.com.So.Go
_LOCAL: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._%+-'")
_CLOSING: Final = {")": "(", "]": "[", "'": "'", "*": "*"}


class Found(NamedTuple):
    """
    A URL or name in a message.

    Attributes:
        start: where it begins, in characters of the message.
        end: where it ends.
        text: what stands there, as written.
        item: what it means: a canonical name (`names.canonical`) or URL (`urls.parse`).
    """

    start: int
    end: int
    text: str
    item: str


def find(text: str) -> list[Found]:
    """
    The URLs and names in a message, in order and without overlaps.

    A bare name must stand below a public suffix, and behind a scheme any name of two labels will
    do; an IP address must have a scheme, a path or a port.  Mail addresses, names of files,
    versions, prices and dates are not reported.  `hosts.name` decides between an IDN and a
    look-alike of another name.

    Args:
        text: any text; `MAX_TEXT` characters of it are read.

    Returns:
        At most `MAX_FOUND`.  Never raises; the time is linear in the text.
    """
    message = text[:MAX_TEXT]
    if not _dotted(message):
        return []
    plain = normalized(message)
    found = _in(defanging.refanged(plain), message)
    if (edited := defanging.as_instructed(plain)) is not None:
        # Before the edit, a part of an address may look like one.  An edit that joined several
        # names was not meant.
        instructed = _in(edited, message)
        found = instructed if len(instructed) >= len(found) else found
    return found


def _in(normal: Normalized, message: str) -> list[Found]:
    found: list[Found] = []
    if not message.isascii():
        found += _Wide(normal, message).found()
    found += _Plain(normal, message).found()
    found.sort()
    kept: list[Found] = []
    for one in found:
        if not kept or one.start >= kept[-1].end:
            kept.append(one)
    return kept[:MAX_FOUND]


class _Search:
    """What both searches share: the normalized text and the message."""

    def __init__(self, normal: Normalized, message: str) -> None:
        self.normal = normal
        self.text = normal.text
        self.message = message

    def report(self, start: int, end: int, item: str) -> Found:
        """A match in the normalized text, at its position in the message."""
        first, last = self.normal.starts[start], self.normal.ends[end - 1]
        return Found(first, last, self.message[first:last], item)

    def tail(self, end: int, loose: bool) -> tuple[int, str]:
        """Where port, path and query that begin at `end` end, and what they are."""
        start = end
        if port := _port.match(self.text, end):
            end = port.end()
        if path := (_loose_tail if loose else _tail).match(self.text, end):
            end = path.end()
            if more := _another.search(self.text, path.start(), end):
                end = more.start()
            end = self._trimmed(path.start(), end)
            # "….com/x.Pay now": the next sentence, without a space before it.
            if (more := _sentence(self.normal.cased, start, end)) and _next_word(self.text, end):
                end = more.start()
        return end, self.normal.cased[start:end]

    def _trimmed(self, start: int, end: int) -> int:
        """The end without the punctuation that belongs to the sentence."""
        text = self.text
        opened: dict[str, int] = {}
        while end > start:
            char = text[end - 1]
            if char in _CLOSING:
                if char not in opened:
                    opened[char] = text.count(_CLOSING[char], start, end) - (
                        text.count(char, start, end) if char in ")]" else 0
                    )
                if char in ")]" and opened[char] >= 0:
                    break
                opened[char] += 1
            elif char not in ".,;:!?\\":
                break
            end -= 1
        return end

    def url(self, scheme: str, host: str, tail: str) -> str | None:
        """The canonical URL of the parts, or None if they make none."""
        try:
            return urls.parse(f"{scheme or 'http://'}{host}{''.join(tail.split())}").canonical
        except InputError:
            return None


class _Plain(_Search):
    """Runs of labels in scripts whose words are seen."""

    def found(self) -> list[Found]:
        found: list[Found] = []
        at = 0
        while len(found) < MAX_FOUND and (run := _candidate.search(self.text, at)):
            at = run.end()
            for one, end in self._run(run):
                found.append(one)
                at = max(at, end)
        return found

    def _run(self, run: "re.Match[str]") -> Iterator[tuple[Found, int]]:
        """The names and URLs in a run of labels, each with its end in the normalized text."""
        scheme = run["scheme"] or ""
        host = run["host"] or run[0]
        end = run.end()
        start = end - len(host)
        begin = run.start()
        if not scheme and self.text.startswith("@", end) and self._labels(end + 1):
            return  # before the @ of a mail address
        parts = _split(host)
        if len(parts) == host.count(".") + 1:
            if one := self._name(begin, start, end, scheme):
                yield one
            return
        alone = list(self._by_themselves(begin, start, host, scheme))
        if alone:
            yield from alone
        elif one := self._together(begin, start, host, scheme):
            yield one

    def _labels(self, at: int) -> bool:
        return _candidate.match(self.text, at) is not None

    def _by_themselves(
        self, begin: int, start: int, host: str, scheme: str
    ) -> Iterator[tuple[Found, int]]:
        """The parts between doubtful dots that are names without their neighbours."""
        at = start
        for part in re.split(_doubtful, host):
            end = at + len(part)
            if "." in part and part.rpartition(".")[2] in hosts.FIRM | hosts.SOFT:
                first = at == start
                if one := self._name(begin if first else at, at, end, scheme if first else ""):
                    yield one
            at = end + 1

    def _together(self, begin: int, start: int, host: str, scheme: str) -> tuple[Found, int] | None:
        """A run as one name, without labels at its end that are none of it."""
        end = start + len(host)
        for _ in range(_MAX_CUTS):
            if one := self._name(begin, start, end, scheme):
                return one
            doubtful = max(self.text.rfind(char, start, end) for char in DOUBTFUL)
            if doubtful <= start:
                break
            end = doubtful
        return None

    def _name(
        self, begin: int, start: int, end: int, scheme: str, cuts: int = 0
    ) -> tuple[Found, int] | None:
        """The name between `start` and `end` with all that belongs to it, if it is one."""
        text = self.text
        while start < end and text[start] in "-_":
            start += 1
        while end > start and text[end - 1] in "-_":
            end -= 1
        piece = text[start:end]
        if not scheme:
            begin = start
            if start and text[start - 1] in "@/\\" and not self._may_follow(start, end):
                return None
        doubt = next((char for char in DOUBTFUL if char in piece), "")
        host = ".".join(_split(piece)) if doubt else piece
        if _address(host) or host[:1] == "[":
            return None if doubt else self._ip(begin, end, host, scheme)
        name = hosts.name(host)
        if name is None:
            if doubt:
                return None
            if scheme and (numbers := self._ip(begin, end, host, scheme)):
                return numbers
            if shorter := self._cut(begin, start, end, scheme, cuts):
                return shorter
            if cuts or not scheme or (name := hosts.unlisted(host)) is None:
                return None
        stop, tail = self.tail(end, doubt == LOOSE)
        if not scheme:
            last = self.normal.cased[end - len(host.rpartition(".")[2]) : end]
            titled = len(last) > 1 and last[0].isupper() and last[1:].islower()
            sentence = _next_word(text, end) is not None
            called = _called(text, end) is not None
            written = hosts.Written(name, doubt, len(tail) > 1, titled, sentence, called)
            if not written.plausible():
                return self._cut(begin, start, end, scheme, cuts) if titled else None
            if text[start - 1 : start] == "@" and self._mail(start):
                begin = self._local(start)
        item = self.url(scheme, name, tail) if scheme or tail else name
        if item is None:
            stop, item = end, self.url(scheme, name, "") if scheme else name
        return (self.report(begin, stop, item or name), stop)

    def _cut(
        self, begin: int, start: int, end: int, scheme: str, cuts: int
    ) -> tuple[Found, int] | None:
        """
        The name without its last label, where a sentence went on without a space.

        So it is if that begins with a capital, or if scheme or www leave no doubt of the name.
        """
        dot = self.text.rfind(".", start, end)
        if cuts == _MAX_CUTS or dot <= start or self.text.find(".", start, dot) < 0:
            return None
        if not (scheme or self.text.startswith("www.", start)):
            following = self.normal.cased[dot + 1 : end]
            if not (following[:1].isupper() and following[1:].islower()):
                return None
        elif scheme and self.text[end : end + 1] in ("/", ":", "?", "#"):
            return None  # which stands behind a host, not behind a word
        return self._name(begin, start, dot, scheme, cuts + 1)

    def _ip(self, begin: int, end: int, host: str, scheme: str) -> tuple[Found, int] | None:
        """An address, if anything says that it is one of the Web."""
        stop, tail = self.tail(end, loose=False)
        if not scheme and (len(tail) < 2 or _prefix(self.text, end)):
            return None
        try:
            url = urls.parse(f"{scheme or 'http://'}{host}{tail}")
        except InputError:
            return None
        return (self.report(begin, stop, url.canonical), stop) if url.is_ip else None

    def _may_follow(self, start: int, end: int) -> bool:
        """Whether a bare name may begin behind an ``@`` or a slash."""
        text = self.text
        char = text[start - 1]
        before = text[start - 2 : start - 1]
        if char == "@":
            # Where a path follows, what stands before is user information and no mailbox.
            return not self._mail(start) or bool(
                re.match(r"(?::[0-9]+)?/[^\s]", text[end : end + 8])
            )
        if before in (":", "/", "") or text.startswith("www.", start):
            return True
        return char == "/" and (
            before not in _LOCAL or text[start:end].rpartition(".")[2] in hosts.FIRM | hosts.SOFT
        )

    def _mail(self, start: int) -> bool:
        return start > 1 and self.text[start - 2] in _LOCAL

    def _local(self, start: int) -> int:
        """Where the user information before the ``@`` at ``start - 1`` begins."""
        start -= 1
        floor = max(0, start - 64)
        while start > floor and self.text[start - 1] in _LOCAL:
            start -= 1
        return start


@cache
def _endings() -> "re.Pattern[str]":
    """Suffixes behind a character of a script without spaces."""
    foreign = {
        label
        for suffix in names.listed_suffixes()
        if suffix.startswith("xn--") and "." not in suffix
        for label in [suffix[4:].encode().decode("punycode")]
    }
    plain = "|".join(sorted(hosts.FIRM - {"net"} | {"top", "vip"}, key=len, reverse=True))
    other = "|".join(map(re.escape, sorted(foreign, key=len, reverse=True)))
    return re.compile(
        rf"(?<=\w)\.(?:(?<=[^\x00-\u058f].)(?:{plain})(?![a-z0-9.-])|(?:{other})(?!\w))"
    )


# Words before an address, without a space between.
_introduction = re.compile(
    r"(?:.*(?:请|登录|登陆|登入|访问|打开|点击|进入|浏览|搜索|网址|网站|官网|链接|复制|输入|为|是|在))"
)
_MAX_LABEL: Final = 15  # characters; longer runs of Chinese are sentences


class _Wide(_Search):
    """Names in scripts without spaces between words, as ``示例.网址``, from their endings."""

    def found(self) -> list[Found]:
        found: list[Found] = []
        at = 0
        while len(found) < MAX_FOUND and (ending := _endings().search(self.text, at)):
            at = ending.end()
            if one := self._name(ending.start(), ending.end(), at):
                found.append(one)
        return found

    def _name(self, dot: int, end: int, floor: int) -> Found | None:
        """The name with its last dot at `dot`."""
        text = self.text
        start, least = dot, max(0, dot - 64)
        while start > least and (text[start - 1].isalnum() or text[start - 1] in "-."):
            start -= 1
        host = text[start:end].lstrip("-.")
        start = end - len(host)
        scheme = next((s for s in ("https://", "http://") if text.endswith(s, 0, start)), "")
        if not scheme and not host.startswith("www."):
            if before := _introduction.match(host[: dot - start]):
                start += before.end()
                host = host[before.end() :]
            if not 0 < dot - start <= _MAX_LABEL:
                return None
        name = hosts.name(host)
        if name is None:
            return None
        stop, tail = self.tail(end, loose=False)
        item = self.url(scheme, name, tail) if scheme or tail else name
        return self.report(start - len(scheme), stop, item) if item else None
