"""Value types of the configuration: networks, endpoints and upstreams."""

import contextlib
import ipaddress
import re
import socket
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

    def reaches(self, own: "Endpoint") -> bool:
        """
        True if a packet that this machine sends to the address arrives at its own socket at `own`.

        A wildcard matches each address that the machine has at this moment; an IPv6 wildcard only
        IPv6 addresses.  Nothing is sent.
        """
        address = ipaddress.ip_address(self.host)
        bound = ipaddress.ip_address(own.host)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if self.port != own.port or address.version != bound.version:
            return False
        if address.is_unspecified:  # the kernel treats it as loopback
            address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
        if bound.is_unspecified:
            return address.is_loopback or _is_ours(str(address))
        return address == bound


def _is_ours(host: str) -> bool:
    """True if the machine has the address."""
    # To its own addresses the kernel sends from the same address.  Binding is no test: with
    # net.ipv4.ip_nonlocal_bind, as used with keepalived, any address can be bound.
    numeric = socket.AI_NUMERICHOST  # a scope that is not there must not be looked up by name
    with contextlib.suppress(OSError):
        family, kind, _, _, where = socket.getaddrinfo(
            host, 9, type=socket.SOCK_DGRAM, flags=numeric
        )[0]
        with socket.socket(family, kind) as probe:
            probe.connect(where)  # UDP: chooses the route, sends nothing
            source = str(probe.getsockname()[0])
            return source.partition("%")[0] == host.partition("%")[0]
    return False


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
    A recursor: its address, and for DNS over TLS (RFC 7858) the name in its certificate.

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
