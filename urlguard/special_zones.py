"""
Special-use zones: the one list of names that the public DNS does not, or should not, answer.

`plugins.special` answers their names by `Kind`, the addresses of cases are never looked up in
`SPECIAL_USE`, and the classifier scores no name in `UNSCORED`.  Knows no configuration: the
operator's own zones are added where they are used.
"""

from enum import Enum, auto
from typing import Final


class Kind(Enum):
    """How the names of a zone are answered; `plugins.special` has the table."""

    NXDOMAIN = auto()  # no name exists
    EMPTY = auto()  # the zone's own name exists, with SOA and NS
    NODATA = auto()  # every name exists, without records
    LOCALHOST = auto()  # loopback addresses
    POINTER = auto()  # as EMPTY, with PTR localhost at the zone's own name
    SIGNAL = auto()  # as NXDOMAIN, for filtered clients only
    FORWARDED = auto()  # not answered here


def _reverse(*zones: str) -> tuple[str, ...]:
    return tuple(f"{zone}.in-addr.arpa" for zone in zones)


_ZEROS: Final = ".".join("0" * 31)

# Zones, how they are answered, and the document that says so.
ZONES: Final[tuple[tuple[tuple[str, ...], Kind, str], ...]] = (
    (("localhost",), Kind.LOCALHOST, "RFC 6761 section 6.3"),
    (("invalid",), Kind.NXDOMAIN, "RFC 6761 section 6.4"),
    (("test",), Kind.NXDOMAIN, "RFC 6761 section 6.2"),
    (("local",), Kind.NXDOMAIN, "RFC 6762 section 22.1"),
    (("onion",), Kind.NXDOMAIN, "RFC 7686 section 2"),
    (("alt",), Kind.NXDOMAIN, "RFC 9476 section 2"),
    (("home.arpa",), Kind.EMPTY, "RFC 8375 section 4"),
    (("service.arpa",), Kind.EMPTY, "RFC 9665"),
    (("resolver.arpa",), Kind.NODATA, "RFC 9462 section 6.4"),
    (_reverse("0", "127", "254.169", "255.255.255.255"), Kind.EMPTY, "RFC 6303 section 4.2"),
    (_reverse("1.0.0.127"), Kind.POINTER, "RFC 6761 section 6.3"),
    (_reverse("2.0.192", "100.51.198", "113.0.203"), Kind.EMPTY, "RFC 6303 section 4.2"),
    (_reverse("10", "168.192"), Kind.EMPTY, "RFC 6303 section 4.1"),
    (_reverse(*(f"{n}.172" for n in range(16, 32))), Kind.EMPTY, "RFC 6303 section 4.1"),
    (_reverse(*(f"{n}.100" for n in range(64, 128))), Kind.EMPTY, "RFC 7793"),
    ((f"0.{_ZEROS}.ip6.arpa",), Kind.EMPTY, "RFC 6303 section 4.3"),
    ((f"1.{_ZEROS}.ip6.arpa",), Kind.POINTER, "RFC 6303 section 4.3"),
    (("d.f.ip6.arpa",), Kind.EMPTY, "RFC 6303 section 4.4"),
    (tuple(f"{n}.e.f.ip6.arpa" for n in "89ab"), Kind.EMPTY, "RFC 6303 section 4.5"),
    (("8.b.d.0.1.0.0.2.ip6.arpa",), Kind.EMPTY, "RFC 6303 section 4.6"),
)

# Names of each choice of ``[special] bypass``.
SIGNALS: Final[dict[str, tuple[str, ...]]] = {
    # support.mozilla.org, "Canary domain - use-application-dns.net".
    "firefox": ("use-application-dns.net",),
    # developer.apple.com, "Prepare your network or web server for iCloud Private Relay".
    "private_relay": ("mask.icloud.com", "mask-h2.icloud.com"),
    # developer.chrome.com, "Private prefetch proxy in Chrome for network administrators".  The
    # first name makes Chrome ask before it shows a page that a proxy fetched, but any address in
    # the answer satisfies it, a sinkhole's too; so the proxy is made unreachable as well.
    "chrome_prefetch": ("dns-tunnel-check.googlezip.net", "tunnel.googlezip.net"),
}

SPECIAL_USE: Final = frozenset(zone for zones, _, _ in ZONES for zone in zones)

# Zones in which a model scores nothing: no site has a name there.  Beside the special-use zones all
# of arpa (RFC 3172), the domains reserved for documentation (RFC 6761 section 6.5), and the names
# whose answer is a signal to a browser.
UNSCORED: Final = frozenset(
    {
        "arpa",
        *SPECIAL_USE,
        *("example.com", "example.net", "example.org"),
        *(name for names in SIGNALS.values() for name in names),
    }
)
