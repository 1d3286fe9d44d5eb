"""
Host names: their canonical form, their public suffix and their registrable domain.

Lists, rules, user input and the classifier pass each name through `canonical` first.  Names in DNS
queries do not: the wire format converts them to lower case itself and uses no IDNA.  Part of the
vocabulary; knows no rules, packets or network.

How it works.  One regular expression recognises a canonical name (0.3 µs), so that bulk imports
take the slow path only for other lines.  The registrable domain follows the
algorithm of publicsuffix.org over the list that tldextract ships, private section included.  This
module reads that file itself: importing tldextract takes about 100 ms and a look-up 2.5 µs; a
dictionary takes 10 ms to build on first use and 0.6 µs per name (``python -m benchmarks.names``).
Its look-up starts with the whole name and removes one label at a time.
"""

import importlib.util
import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path

from urlguard.errors import InputError

MAX_NAME = 253  # characters in text form: 255 octets on the wire, RFC 1035 section 2.3.4
MAX_LABEL = 63  # octets

# Text longer than this cannot become a name: no mapping of UTS 46 shortens it fourfold.
_MAX_TEXT = 1024

_is_canonical = re.compile(
    r"(?:[a-z0-9_-]{1,63}+\.)*(?!(?:[0-9]+|0x[0-9a-f]*)\Z)[a-z0-9_-]{1,63}+",
).fullmatch
_foreign = re.compile(r"[^a-z0-9_.-]").search


def canonical(text: str) -> str:
    """
    The canonical form of a host name: lower case, A-labels, no trailing dot.

    ASCII labels need only a valid length (RFC 1035 section 2.3.4) and may have letters, digits,
    ``-`` and ``_`` in any place: ``_dmarc``, ``r3---sn`` and undecodable ``xn--`` labels occur in
    real lists and real queries.  Text that is not ASCII is mapped by UTS 46 (non-transitional) and
    encoded by IDNA 2008 (RFC 5891).  Whitespace around the name and one trailing dot are dropped.
    A single label is accepted; callers that require a dot check for it.

    Raises:
        InputError: empty, an IP address, a last label that is a number, decimal (RFC 3696 section
            2) or hexadecimal (browsers parse the whole as an address), an empty or overlong label,
            more than 253 characters, or a character that no host name has.
    """
    if len(text) <= MAX_NAME and _is_canonical(text):
        return text
    return _canonical(text)


def _canonical(text: str) -> str:
    """`canonical` for text that is not canonical yet."""
    text = text.strip()
    if not text or text == ".":
        raise InputError("name: empty; must be a host name")
    if len(text) > _MAX_TEXT:
        raise InputError(f"name {shown(text)}: {len(text)} characters, limit is {MAX_NAME}")
    host = text.lower() if text.isascii() else to_ascii(text)
    host = host.removesuffix(".")
    if len(host) <= MAX_NAME and _is_canonical(host):
        return host
    raise InputError(f"name {shown(text)}: {_problem(host)}")


def _problem(host: str) -> str:
    """The reason why lower-case ASCII text is not a name; the most specific one first."""
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        pass
    else:
        return "is an IP address; must be a host name"
    if not host:
        return "nothing is left after mapping; must be a host name"
    if found := _foreign(host):
        return f"has {found[0]!a}; letters, digits, '-', '_' and dots are allowed"
    parts = host.split(".")
    if "" in parts:
        return f"label {parts.index('') + 1} is empty; must have 1 to {MAX_LABEL} characters"
    if (longest := max(map(len, parts))) > MAX_LABEL:
        return f"label length {longest}, limit is {MAX_LABEL} (RFC 1035 2.3.4)"
    if len(host) > MAX_NAME:
        return f"{len(host)} characters, limit is {MAX_NAME} (RFC 1035 2.3.4)"
    return f"last label {parts[-1]!r} is a number; must not be one (RFC 3696 2)"


def to_ascii(text: str) -> str:
    """
    Text mapped by UTS 46 (non-transitional), with every label that is not ASCII as an A-label.

    Full-width letters become plain ones and the dots ``。`` ``．`` ``｡`` become ``.``.  Labels that
    are ASCII after the mapping are not checked; `canonical` does that.

    Raises:
        InputError: a character is not allowed by UTS 46, or a label cannot be encoded under IDNA
            2008 (RFC 5891 section 4.2), such as one of emoji.
    """
    import idna  # takes milliseconds, and most processes never need it

    try:
        mapped = idna.uts46_remap(text, std3_rules=False, transitional=False)
        return ".".join(
            part if part.isascii() else idna.alabel(part).decode() for part in mapped.split(".")
        )
    except UnicodeError as exc:  # idna's own errors derive from it
        raise InputError(
            f"name {shown(text)}: not encodable under IDNA 2008: {ascii(str(exc))[1:-1]}"
        ) from exc


def shown(text: str) -> str:
    """Untrusted text made safe for an error message: quoted, ASCII, at most 80 characters."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")


def parents(name: str) -> Iterator[str]:
    """The names above `name`, the nearest first, without the root: ``b.c`` and ``c`` for a.b.c."""
    dot = name.find(".")
    while dot >= 0:
        name = name[dot + 1 :]
        yield name
        dot = name.find(".")


# -- the public suffix list ------------------------------------------------------------------------

# Flags of a name in the list; a name can have two of them.
_EXACT = 1  # the name is a public suffix
_WILDCARD = 2  # every name directly below it is one
_EXCEPTION = 4  # it is none, although a wildcard covers it
_PRIVATE = 8  # and the rule is in the private section

_rules: dict[str, int] = {}  # filled at first use
_tops: set[str] = set()  # the last labels of the rules in ICANN's section


def _load() -> dict[str, int]:
    """Read tldextract's bundled list without importing tldextract."""
    spec = importlib.util.find_spec("tldextract")
    if spec is None or spec.origin is None:
        raise ImportError("tldextract is not installed; its public suffix list is needed")
    rules: dict[str, int] = {}
    text = Path(spec.origin).with_name(".tld_set_snapshot").read_text("utf-8")
    icann = False
    for line in text.splitlines():
        if not line or line.startswith("//"):
            if line.endswith("ICANN DOMAINS==="):
                icann = "BEGIN" in line
            continue
        rule = line.split(None, 1)[0]
        kind = _EXACT
        if rule.startswith("*."):
            kind, rule = _WILDCARD, rule[2:]
        elif rule.startswith("!"):
            kind, rule = _EXCEPTION, rule[1:]
        if not rule.isascii():
            # The list's labels are already in mapped form, so Punycode is all that IDNA adds; a
            # test compares it with the idna package, whose import takes longer than this loop.
            rule = ".".join(
                part if part.isascii() else "xn--" + part.encode("punycode").decode()
                for part in rule.split(".")
            )
        rules[rule] = rules.get(rule, 0) | (kind if icann else kind | _PRIVATE)
        if icann:
            _tops.add(rule.rpartition(".")[2])
    _rules.update(rules)
    return _rules


def split(name: str) -> tuple[str, str | None]:
    """
    The public suffix of a canonical name, and its registrable domain (see `registrable`).

    A top-level domain that the list does not have counts as a suffix: its default rule ``*``.
    """
    get = (_rules or _load()).get
    below = child = None
    here = name
    while True:
        kind = get(here)
        if kind is not None:
            # The walk goes from the longest candidate to the shortest, so the first match is the
            # longest; an exception is longer than the wildcard it excepts from.
            if kind & _EXCEPTION:
                return here[here.index(".") + 1 :], here
            if kind & _WILDCARD and child is not None:
                return child, below
            if kind & _EXACT:
                return here, child
        dot = here.find(".")
        if dot < 0:
            return here, child
        below, child, here = child, here, here[dot + 1 :]


def registrable(name: str) -> str | None:
    """
    The registrable domain of a canonical name: its public suffix and one label more.

    Below a private suffix (``pages.dev``) it is the customer's own name.  None for a public suffix
    itself and for a single label.
    """
    return split(name)[1]


def owner(name: str, shared: frozenset[str] = frozenset()) -> str:
    """
    The owner of a canonical name: its registrable domain, or one label more on shared hosting.

    Args:
        name: a host name, not an address.
        shared: registrable domains of hosting services: each name below has another owner.

    Returns:
        The common parent of all names of this owner; a public suffix is returned as it is.
    """
    domain = split(name)[1]
    if domain is None or domain == name:
        return name
    if domain not in shared:
        return domain
    below = name[: -len(domain) - 1].rpartition(".")[2]
    return f"{below}.{domain}"


def suffix(name: str) -> str:
    """The public suffix of a canonical name, by both sections of the list."""
    return split(name)[0]


def is_public_suffix(name: str) -> bool:
    """True if the canonical name is a public suffix: ``com``, ``co.uk``, ``pages.dev``."""
    return split(name)[1] is None


def is_icann(name: str) -> bool:
    """
    True if the canonical name has a registrable domain under a top-level domain of ICANN's section.

    Names below private suffixes count as well.  Names below ``lan`` and similar do not: only the
    list's default rule makes these suffixes.
    """
    if not _rules:
        _load()
    # Some top-level domains have no rule of their own: for za the list has only co.za and others.
    return name[name.rfind(".") + 1 :] in _tops and registrable(name) is not None


def is_private_suffix(suffix: str) -> bool:
    """True if a public suffix is in the list's private section: customers own the names below."""
    get = (_rules or _load()).get
    kind = get(suffix) or get(suffix.partition(".")[2], 0)
    return bool(kind & _PRIVATE)


def listed_suffixes() -> frozenset[str]:
    """Every public suffix that the list names; those by wildcard cannot be enumerated."""
    return frozenset(name for name, kind in (_rules or _load()).items() if kind & _EXACT)


def wildcard_suffixes() -> frozenset[str]:
    """Names whose direct subnames are all public suffixes, except for exceptions: ``ck``."""
    return frozenset(name for name, kind in (_rules or _load()).items() if kind & _WILDCARD)
