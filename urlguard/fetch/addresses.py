"""
Public IP addresses: the only ones to which requests to third-party servers go.

``is_global`` of the standard library follows IANA's registries of special-purpose addresses (RFC
6890, RFC 8190), with differences between versions.  It counts multicast as global, and addresses
that embed another one, which a translator unpacks on the way.  So networks are refused here by name
first, and the library decides on the rest.

Addresses of this machine need no rule: its public ones only reach what is public anyway.
"""

import ipaddress
from typing import Final

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_V4: Final = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this host, RFC 1122 section 3.2.1.3
        "10.0.0.0/8",  # private, RFC 1918
        "100.64.0.0/10",  # shared between a provider and its customers, RFC 6598
        "127.0.0.0/8",  # loopback, RFC 1122
        "168.63.129.16/32",  # public by the registry; to a machine in Azure, its host's services
        "169.254.0.0/16",  # link-local, RFC 3927, and where clouds hand out credentials
        "172.16.0.0/12",  # private, RFC 1918
        "192.0.0.0/24",  # IETF protocol assignments, RFC 6890
        "192.0.2.0/24",  # documentation, RFC 5737
        "192.31.196.0/24",  # AS112 by DNAME, RFC 7535: anybody may run one
        "192.52.193.0/24",  # AMT relays, RFC 7450
        "192.88.99.0/24",  # 6to4 relays, RFC 7526
        "192.168.0.0/16",  # private, RFC 1918
        "192.175.48.0/24",  # AS112, RFC 7534
        "198.18.0.0/15",  # benchmarks, RFC 2544
        "198.51.100.0/24",  # documentation, RFC 5737
        "203.0.113.0/24",  # documentation, RFC 5737
        "224.0.0.0/4",  # multicast, RFC 5771
        "240.0.0.0/4",  # reserved, RFC 1112 section 4, and broadcast, RFC 919
    )
)

# Of IPv6 only this is given to the public, RFC 4291 section 2.4 and IANA's registry of it.  So
# loopback, unique local, link-local, multicast, addresses that are IPv4 ones in disguise
# (::ffff:0:0/96, RFC 4291 section 2.5.5.2; ::/96) and NAT64 for local use (64:ff9b:1::/48, RFC
# 8215) are outside without being named.
_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_V6: Final = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # IETF protocol assignments, RFC 2928; Teredo, 2001::/32, RFC 4380, is in it
        "2001:db8::/32",  # documentation, RFC 3849
        "2002::/16",  # 6to4, RFC 3056: an IPv4 address, maybe a private one, follows the prefix
        "2620:4f:8000::/48",  # AS112, RFC 7534
        "3fff::/20",  # documentation, RFC 9637
    )
)

# A network with IPv6 alone reaches everybody else by this prefix, RFC 6052 section 2.1, so it
# cannot be refused outright: what counts is the address in its last four octets.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(text: str) -> bool:
    """
    True if an address is public.

    Args:
        text: an IPv4 or IPv6 address; False for anything else, and for one with a scope.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return _is_public_v4(address)
    if address.scope_id is not None:
        return False
    if address in _NAT64:
        return _is_public_v4(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _UNICAST and not _within(address, _V6) and address.is_global


def _is_public_v4(address: ipaddress.IPv4Address) -> bool:
    return not _within(address, _V4) and address.is_global


def _within(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, networks: tuple[Network, ...]
) -> bool:
    return any(address in network for network in networks)
