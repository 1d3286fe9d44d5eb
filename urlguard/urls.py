"""
URLs: the canonical form and the expressions of Google's Safe Browsing, for rules and for lookups.

Part of the vocabulary at the bottom, beside `names`.  Follows "URLs and Hashing" of the Safe
Browsing documentation (v4, with the IPv6 rules of v5); where that is silent about hostile input,
the URL Standard of WHATWG says what a browser would do.  Knows no rules, no packets and no network:
nothing here resolves or fetches.

How it works.  The authority is found in the text as written, as a browser finds it, and only then
unescaped: in ``http://good.example%2F@evil.example/`` the host is evil.example.  Path and query are
unescaped together before they are told apart, so that the canonical form of a canonical form is
itself.  Unescaping works on bytes and in one pass with a stack: the rewriting ``%XX`` → byte has no
overlaps, so its end does not depend on the order, and nested escapes (``%252525…``) stay linear.

Three things differ from the published rules, to keep the form stable or close to browsers: in a
host that is not a name, the delimiters ``/ ? @ : [ ] \\`` stay escaped too; ``\\`` in a path reads
as ``/``, and ``%5C`` in a path stays escaped; an authority ends at ``\\`` as well.
"""

import ipaddress
import re
from typing import NamedTuple

from urlguard import names
from urlguard.errors import InputError

MAX_URL = 8192  # characters, of the text and of its canonical form

# Controls and every kind of space: what surrounds a pasted URL.
_EDGES = "".join(map(chr, range(0x21))) + "\x7f\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff"
_EDGES += "".join(map(chr, range(0x2000, 0x200B)))

_drop_breaks = {0x09: None, 0x0A: None, 0x0D: None}
_scheme = re.compile(r"(https?):[/\\]*|([a-z][a-z0-9+.-]*)://|[/\\]{2}", re.I | re.A).match
_hostless = re.compile(
    r"(?:about|blob|cid|data|javascript|magnet|mailto|sms|tel|urn|vbscript):", re.I | re.A
).match
_authority_end = re.compile(r"[/\\?]").search
_is_plain = re.compile(r"[!-~]*").fullmatch
_has_escape = re.compile(rb"%[0-9A-Fa-f]{2}").search
_unescape_once = re.compile(rb"%([0-9A-Fa-f]{2})").sub
_escape = re.compile(rb"[\x00-\x20\x7f-\xff#%]").sub
_escape_path = re.compile(rb"[\x00-\x20\x7f-\xff#%\\]").sub
_escape_host = re.compile(rb"[\x00-\x20\x7f-\xff#%/?@:\[\]\\]").sub
_dots = re.compile(rb"\.{2,}").sub
_slashes = re.compile(r"/{2,}").sub
_dot_segment = re.compile(r"/\.\.?(?:/|\Z)").search
_is_host_text = re.compile(r"[a-z0-9_.-]+").fullmatch
_port = re.compile(r"[0-9]{0,5}").fullmatch

_HEX = frozenset(b"0123456789abcdefABCDEF")


class Url(NamedTuple):
    """
    A URL in canonical form, and its parts.

    ``host`` is a canonical name, an IPv4 address in dotted form, an IPv6 address without brackets,
    or, where it can be none of them, its bytes with escapes.  ``name`` is the host if it can be a
    host name, else None.  ``path`` begins with a slash.  ``query`` is None without a ``?`` and
    empty after a bare one.
    """

    canonical: str
    scheme: str
    host: str
    is_ip: bool
    name: str | None
    path: str
    query: str | None

    @property
    def expression(self) -> str:
        """The canonical form without its scheme: the most specific of its `expressions`."""
        return self.canonical[len(self.scheme) + 3 :]


def parse(text: str) -> Url:
    """
    The canonical form of a URL; ``http`` is assumed if the text has no scheme.

    User information, port and fragment are dropped.  Escapes that are not UTF-8 stay what they are.
    The form is stable: parsing it again changes nothing.

    Raises:
        InputError: no host, a port or IPv6 address that is none, a scheme without hosts such as
            ``mailto:``, or more than 8192 characters before or after.  Nothing else is raised.
    """
    if len(text) > MAX_URL:
        raise InputError(f"url: {len(text)} characters, limit is {MAX_URL}")
    rest = text.strip(_EDGES).translate(_drop_breaks).partition("#")[0]
    scheme = "http"
    if found := _scheme(rest):
        scheme = (found[1] or found[2] or scheme).lower()
        rest = rest[found.end() :]
    elif _hostless(rest):
        raise InputError(f"url {names.shown(text)}: its scheme has no host; must be a web address")
    end = _authority_end(rest)
    authority, tail = (rest[: end.start()], rest[end.start() :]) if end else (rest, "/")
    host, is_ip, name = _host(authority.rpartition("@")[2], text)
    path, query = _path_and_query(tail, text)
    url = f"{scheme}://[{host}]{path}" if ":" in host else f"{scheme}://{host}{path}"
    if query is not None:
        url += "?" + query
    if len(url) > MAX_URL:
        raise InputError(f"url: {len(url)} characters once escaped, limit is {MAX_URL}")
    return Url(url, scheme, host, is_ip, name, path, query)


def _bytes(part: str, text: str) -> bytes:
    """The bytes of a part of `text`; bytes smuggled in as surrogates come out again (PEP 383)."""
    try:
        return part.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as exc:
        raise InputError(f"url {names.shown(text)}: half a surrogate; must be Unicode") from exc


def _unescape(data: bytes) -> bytes:
    """Resolve ``%XX`` until none is left, in time linear in `data`."""
    if b"%" not in data:
        return data
    data = _unescape_once(lambda m: bytes((int(m[1], 16),)), data)
    if not _has_escape(data):
        return data
    out = bytearray()
    for byte in data:
        out.append(byte)
        # A byte just decoded may itself be the last of an escape, so look again; each pass makes
        # `out` shorter, so there are at most half as many turns as bytes.
        while len(out) > 2 and out[-3] == 0x25 and out[-1] in _HEX and out[-2] in _HEX:
            out[-3:] = bytes((int(out[-2:], 16),))
    return bytes(out)


def _hex(found: "re.Match[bytes]") -> bytes:
    return b"%%%02X" % found[0][0]


def _host(authority: str, text: str) -> tuple[str, bool, str | None]:
    """Host, whether it is an address, and the name, from an authority without user information."""
    colons = authority.count(":")
    if colons:
        if authority.startswith("["):
            inner, bracket, port = authority[1:].partition("]")
            if not bracket or not (port == "" or port[0] == ":"):
                raise InputError(
                    f"url {names.shown(text)}: host in brackets never ends; must be [IPv6]"
                )
            address, port = _ipv6(inner), port[1:]
            if address is None:
                raise InputError(f"url {names.shown(text)}: host {inner!a} is not an IPv6 address")
        else:
            # Without brackets, as people write it; a second colon leaves no other reading.
            address = _ipv6(authority) if colons > 1 else None
            authority, _, port = authority.partition(":") if address is None else ("", "", "")
        if not _port(port) or (port and int(port) > 65535):
            raise InputError(
                f"url {names.shown(text)}: port {names.shown(port)}; must be 0 to 65535"
            )
        if address is not None:
            return address, True, None
    if _is_host_text(authority) and ".." not in authority:
        data, host = b"", authority.strip(".")
    else:
        # Lower case first: it makes and breaks no escapes, and a decoded byte is lowered below.
        data = _dots(b".", _unescape(_bytes(authority, text)).lower().strip(b"."))
        host = _host_text(data)
    if not host and not data:
        raise InputError(f"url {names.shown(text)}: no host; must be like http://name.example/path")
    if host:
        if host[-1] in "0123456789abcdefx" and (ipv4 := _ipv4(host)) is not None:
            return ipv4, True, None
        try:
            name = names.canonical(host)
            return name, False, name
        except InputError:
            pass
    return _escape_host(_hex, data or host.encode()).decode(), False, None


def _host_text(data: bytes) -> str:
    """A host's bytes as ASCII text that might be a name or an IPv4 address, else ``""``."""
    try:
        host = data.decode()
        if not host.isascii():
            host = _dots(b".", names.to_ascii(host).encode()).decode().strip(".")
    except (UnicodeDecodeError, InputError):
        return ""
    # Mapping can make any ASCII character, even "%", out of its full-width form; such a host is not
    # a name, and taking the mapped text would make another host of it the next time.
    return host if _is_host_text(host) else ""


def _ipv4(host: str) -> str | None:
    """
    The dotted form of an IPv4 address in any notation that ``inet_aton`` reads, else None.

    One to four numbers, decimal, octal (``0``) or hexadecimal (``0x``); the last fills the bytes
    that are left.
    """
    parts = host.split(".")
    if len(parts) > 4 or not parts[-1][:1].isdigit():
        return None
    values = []
    for part in parts:
        digits, base = part, 10
        if part.startswith("0x"):
            digits, base = part[2:] or "0", 16
        elif part.startswith("0") and len(part) > 1:
            digits, base = part[1:], 8
        # Eleven octal digits hold 32 bits; int() would accept signs, and be slow for a long host.
        digits = digits.lstrip("0") or digits[:1]
        if len(digits) > 11 or not digits.isalnum():
            return None
        try:
            values.append(int(digits, base))
        except ValueError:
            return None
    last = values.pop()
    if any(value > 255 for value in values) or last >= 256 ** (4 - len(values)):
        return None
    number = last
    for place, value in enumerate(values):
        number |= value << 8 * (3 - place)
    return str(ipaddress.IPv4Address(number))


def _ipv6(inner: str) -> str | None:
    """
    The canonical text of an IPv6 address (RFC 5952), or None if it is not one.

    An IPv4-mapped address (RFC 4291 section 2.5.5.2) and one below the well-known prefix of NAT64
    (RFC 6052 section 2.1) become the IPv4 address inside, as Safe Browsing says.
    """
    if "%" in inner:  # a zone: says nothing outside the machine
        return None
    try:
        address = ipaddress.IPv6Address(inner)
    except ValueError:
        return None
    if int(address) >> 32 in (0xFFFF, 0x64FF9B << 64):
        return str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address.compressed


def _path_and_query(tail: str, text: str) -> tuple[str, str | None]:
    """The canonical path and query, from what follows the authority."""
    path, mark, query = tail.partition("?")
    if "\\" in path:
        path = path.replace("\\", "/")
    if "%" in tail or not _is_plain(tail):
        data = _unescape(_bytes(f"{path}{mark}{query}", text))
        raw_path, raw_mark, raw_query = data.partition(b"?")
        path = _escape_path(_hex, raw_path).decode()
        mark = raw_mark.decode()
        query = _escape(_hex, raw_query).decode()
    if _dot_segment(path):
        path = _resolve(path)
    if "//" in path:
        path = _slashes("/", path)
    return path or "/", query if mark else None


def _resolve(path: str) -> str:
    """A path without ``.`` and ``..`` segments (RFC 3986 section 5.2.4)."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def expressions(url: Url) -> tuple[str, ...]:
    """
    The expressions under which a rule may cover the URL, the most specific first; at most 30.

    Up to five hosts: the host, and up to four made of its last five labels by dropping the leading
    one, never a top-level domain alone; for an address only itself.  For each, up to six paths:
    with query, without, and up to four prefixes that end in a slash, down to ``/``.
    """
    host = url.host
    hosts = [f"[{host}]" if ":" in host else host]
    if not url.is_ip:
        parts = host.split(".")
        # The last five labels and their suffixes, at most four besides the host itself.
        hosts += [".".join(parts[i:]) for i in range(max(1, len(parts) - 5), len(parts) - 1)]
    path = url.path
    paths = [path] if url.query is None else [f"{path}?{url.query}", path]
    prefixes = ["/"]
    end = path.find("/", 1)
    while end > 0 and len(prefixes) < 4:
        prefixes.append(path[: end + 1])
        end = path.find("/", end + 1)
    prefixes.reverse()
    paths += prefixes if prefixes[0] != path else prefixes[1:]
    return tuple([h + p for h in hosts for p in paths])


def rule_value(text: str) -> str:
    """
    The value of the URL rule that a person or feed means: canonical ``host/path[?query]``.

    Scheme, user information, port and fragment are dropped; the path ``/`` is kept.

    Raises:
        InputError: as `parse`, and where the host is neither a possible name nor an IP address.
    """
    url = parse(text)
    if url.name is None and not url.is_ip:
        raise InputError(f"url {names.shown(text)}: host is neither a host name nor an IP address")
    return url.expression


_urlish = re.compile(
    r"[a-z][a-z0-9+.-]*://|https?:|.*[/\\?#]|[^:]*:[0-9]{1,5}\Z", re.I | re.A | re.S
).match


def looks_like_url(text: str) -> bool:
    """
    True if text means a URL, not a bare name or address: it has a scheme, a path, query or port.

    Says nothing of whether `parse` will accept it.
    """
    return _urlish(text.strip(_EDGES)) is not None
