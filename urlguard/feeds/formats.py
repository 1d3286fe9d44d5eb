"""
formats: the bytes of a list in, rule keys out.

Is between `downloader`, which brings the bytes, and the refresh, which compares the rules with
the policy log.  Here is what all formats share: text encoding, line ends, chunks, the count of bad
lines and when they are too many.  A bad line never takes the others with it; it is counted,
reported with its position and skipped.

How it works: the list is decoded and read in chunks of whole lines.  In a chunk a reader's `fast`
swallows runs of plain lines in bulk, and its `line` reads the first line that is not plain; so
lines are read strictly in order, and the two paths need not be reconciled.
"""

import re
from collections.abc import Callable, Iterator

from urlguard import names
from urlguard.config import Feed
from urlguard.errors import FeedError, InputError
from urlguard.feeds import csvfile, lines, rpzfile
from urlguard.feeds.detect import SAMPLE, detect
from urlguard.feeds.parsed import MAX_LINE, IgnoredError, Parsed, Problem, Reader

__all__ = ["Parsed", "Problem", "parse"]

_CHUNK = 128 * 1024  # octets; larger ones gain nothing and leave the processor's cache
_SAMPLE_BYTES = 1 << 20
_PROGRESS_CALLS = 100

_html = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head|body)\b", re.I)
_surrogate = re.compile(r"[\ud800-\udfff]")
_control = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

Progress = Callable[[int, int], None]


def parse(data: bytes, feed: Feed, progress: Progress | None = None) -> Parsed:
    """
    Read a list.

    Args:
        data: the whole list, decompressed.
        feed: says the format (or ``auto``) and the limits ``max_rules`` and ``max_bad``.
        progress: called with octets done and octets in all, about a hundred times.

    Returns:
        The rules, what was wrong and what was ignored.  An empty list gives no rules; whether that
        is too few, the refresh decides.

    Raises:
        FeedError: an HTML page, an unknown format, columns that are not there, too many rules or
            too large a share of bad lines.  Nothing else.
    """
    where = f"feed {feed.name}"
    if _html.match(data[:1024]):
        raise FeedError(f"{where}: looks like an HTML page; must be a list")
    data = _utf8(data)
    sample = list(_sample(data))
    form = detect(sample, where) if feed.format == "auto" else feed.format
    out = Parsed(form)
    reader = _reader(form, feed, out, sample)
    total = len(data)
    step = total // _PROGRESS_CALLS + 1
    due = step
    for start, end in _chunks(data):
        _read_chunk(data[start:end], reader, out)
        if len(out.rules) + len(out.exceptions) > feed.max_rules:
            raise FeedError(
                f"{where}: more than {feed.max_rules} rules by line {out.lines}; "
                "max_rules would have to be raised"
            )
        if progress is not None and end >= due:
            progress(end, total)
            due = end + step
    try:
        reader.finish()
    except InputError as exc:
        out.problem(out.lines, "", str(exc))
    if out.bad > feed.max_bad * (out.bad + out.good):
        first = "; ".join(map(str, out.problems[:3]))
        raise FeedError(
            f"{where}: {out.bad} of {out.bad + out.good} lines are bad as {form}, "
            f"max_bad = {feed.max_bad:g}; {first}"
        )
    return out


def _reader(form: str, feed: Feed, out: Parsed, sample: list[str]) -> Reader:
    if form == "csv":
        return csvfile.Csv(feed, out, sample)
    readers: dict[str, Callable[[Feed, Parsed], Reader]] = {
        "domains": lines.Domains,
        "hosts": lines.Hosts,
        "adblock": lines.AdBlock,
        "dnsmasq": lines.Dnsmasq,
        "urls": lines.Urls,
        "rpz": rpzfile.Rpz,
    }
    return readers[form](feed, out)


def _utf8(data: bytes) -> bytes:
    """`data` without a byte order mark, as UTF-8, with line feeds as line ends."""
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    elif data.startswith((b"\xff\xfe", b"\xfe\xff")):
        # What does not decode becomes U+FFFD, which no name may have: a bad line, not a crash.
        data = data.decode("utf-16", "replace").encode("utf-8", "replace")
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data


def _chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Stretches of whole lines; one longer than `_CHUNK` is a single line."""
    start = 0
    while start < len(data):
        end = len(data)
        if end - start > _CHUNK:
            end = data.rfind(b"\n", start, start + _CHUNK) + 1
            end = end or data.find(b"\n", start + _CHUNK) + 1 or len(data)
        yield start, end
        start = end


def _decode(data: bytes) -> str:
    # Octets that are not UTF-8 become lone surrogates, and the lines that have them bad ones.
    return data.decode("utf-8", "surrogateescape")


def _sample(data: bytes) -> Iterator[str]:
    """The first lines, down to `SAMPLE` that are not comments."""
    said = 0
    for raw in data[:_SAMPLE_BYTES].split(b"\n"):
        if said > SAMPLE:
            return
        line = _decode(raw[:MAX_LINE])
        said += bool(line.strip()) and not line.startswith(("#", "!", ";"))
        yield line


def _read_chunk(data: bytes, reader: Reader, out: Parsed) -> None:
    """Read a stretch of whole lines."""
    if len(data) > _CHUNK:
        if data.endswith(b"\n"):
            data = data[:-1]
        out.lines += 1
        _long(out, _decode(data[:100]), len(data))
        return
    chunk = _decode(data)
    if not chunk.endswith("\n"):
        chunk += "\n"
    at = 0
    while at < len(chunk):
        end = reader.fast(chunk, at)
        if end > at:
            read = chunk.count("\n", at, end)
            out.lines += read
            out.good += read
        if end == len(chunk):
            return
        at = chunk.index("\n", end) + 1
        out.lines += 1
        _read_line(chunk[end : at - 1], reader, out)


def _read_line(text: str, reader: Reader, out: Parsed) -> None:
    """Read one line with care."""
    text = text.rstrip(" \t")
    if not text or text.isspace() or text.lstrip().startswith(reader.comments):
        return
    if len(text) > MAX_LINE:
        _long(out, text, len(text))
        return
    try:
        if _control.search(text):
            raise InputError("has a control character; must be text")
        if not text.isascii() and _surrogate.search(text):
            raise InputError("not UTF-8")
        out.good += reader.line(text)
    except IgnoredError as exc:
        out.ignore(str(exc))
    except InputError as exc:
        text = text.strip()
        shown = names.shown(text)  # stands in front of the message anyway
        what = str(exc).removeprefix(f"name {shown}: ").removeprefix(f"url {shown}: ")
        out.problem(out.lines, text, what)


def _long(out: Parsed, text: str, length: int) -> None:
    out.problem(out.lines, text, f"{length} characters in a line, limit is {MAX_LINE}")
