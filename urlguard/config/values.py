"""Values of the configuration that are more than a number or a text: networks, endpoints."""

import ipaddress
import re
from typing import NamedTuple

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Endpoint(NamedTuple):
    """An IP address and a port, written ``192.0.2.1:53`` or ``[2001:db8::1]:53``."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """True if only this machine can reach the address."""
        return ipaddress.ip_address(self.host).is_loopback


def endpoint(text: str, default_port: int | None = None) -> Endpoint:
    """
    Read an endpoint.

    Raises:
        ValueError: it is not an IP address with a port from 0 to 65535.
    """
    host, port = text, "" if default_port is None else str(default_port)
    if match := re.fullmatch(r"\[([^\]]*)\](?::(\d{1,5}))?", text):
        host, port = match[1], match[2] or port
    elif match := re.fullmatch(r"([^:]*):(\d{1,5})", text):
        host, port = match[1], match[2]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(
            'must be an IP address and a port, such as "127.0.0.1:5300" or "[::1]:5300"'
        ) from None
    if not port or int(port) > 65535:
        raise ValueError("must have a port from 0 to 65535")
    return Endpoint(str(address), int(port))


class Upstream(NamedTuple):
    """
    A recursor: its address, and for DNS over TLS (RFC 7858) the name its certificate must bear.

    Written ``192.0.2.1``, ``192.0.2.1:5353``, ``[2001:db8::1]:53`` or
    ``tls://192.0.2.1:853#dns.example``.
    """

    address: Endpoint
    tls_name: str | None = None

    def __str__(self) -> str:
        return (
            str(self.address) if self.tls_name is None else f"tls://{self.address}#{self.tls_name}"
        )


def upstream(text: str) -> Upstream:
    """
    Read an upstream, port 53 or 853 where none is given.

    Raises:
        ValueError: it is not an address with a port, or lacks the name for its certificate.
    """
    rest, tls_name = text, None
    if text.startswith("tls://"):
        rest, _, tls_name = text.removeprefix("tls://").partition("#")
        if not re.fullmatch(r"[A-Za-z0-9_.:-]{1,253}", tls_name):
            raise ValueError(
                'must name the certificate\'s owner, such as "tls://192.0.2.1#dns.example"'
            )
    if rest.count(":") > 1 and not rest.startswith("["):
        rest = f"[{rest}]"
    address = endpoint(rest, 53 if tls_name is None else 853)
    if address.port == 0:
        raise ValueError("port 0; must be from 1 to 65535")
    return Upstream(address, tls_name)
