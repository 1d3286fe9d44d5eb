"""
Zones that are no business of any server on the Internet, and who says so.
"""

from enum import Enum, auto
from typing import Final


class Kind(Enum):
    """What becomes of the names of a zone; see the table above."""

    NXDOMAIN = auto()
    EMPTY = auto()
    NODATA = auto()
    LOCALHOST = auto()
    POINTER = auto()
    SIGNAL = auto()
    FORWARDED = auto()


def _reverse(*zones: str) -> tuple[str, ...]:
    return tuple(f"{zone}.in-addr.arpa" for zone in zones)


_ZEROS: Final = ".".join("0" * 31)

# Zones, what becomes of them and who says so.
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
