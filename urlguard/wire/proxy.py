"""
The client behind a front end: the PROXY header, version 2, and the client subnet option.

A load balancer that takes queries in and passes them on has its own address on them.  It names the
client in a header before the DNS message (HAProxy's "The PROXY protocol", section 2.2), or in an
EDNS option (RFC 7871).  Both say whatever the sender likes: the caller believes them from
configured front ends only.  Version 1 of the header, which is text, is not accepted.  Knows no
sockets and no policy.
"""

import socket
from struct import Struct
from typing import Final

from urlguard.errors import WireError
from urlguard.wire.query import FORMERR

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
FIXED: Final = 16  # octets of a header before its addresses
MAX_LENGTH: Final = 536  # octets after those: addresses and TLVs; senders keep to this
MAX_HEADER: Final = FIXED + MAX_LENGTH

SUBNET_OPTION: Final = 8  # RFC 7871 section 6

_LOCAL, _PROXY = 0, 1  # commands
_UNSPEC, _INET, _INET6 = 0, 1, 2  # families
_STREAM, _DGRAM = 1, 2

_fixed = Struct("!12sBBH").unpack_from
_port = Struct("!H").unpack_from
_subnet = Struct("!HBB").unpack_from
_option = Struct("!HHHBB").pack


def size(data: bytes) -> int:
    """
    How many octets must be there before `read` can be asked, as far as `data` shows.

    For a stream: as long as ``len(data) < size(data)``, wait for more.

    Raises:
        WireError: this is no such header, or one that is too long (``rcode`` None: hang up).
    """
    if not SIGNATURE.startswith(data[:12]) and not data.startswith(SIGNATURE):
        raise WireError("PROXY header: no signature of version 2", None)
    if len(data) < FIXED:
        return FIXED
    _, _, _, length = _fixed(data)
    if length > MAX_LENGTH:
        raise WireError(f"PROXY header: {length} octets; must be at most {MAX_LENGTH}", None)
    return FIXED + int(length)


def read(data: bytes) -> tuple[str, int, int]:
    """
    The client's address as text, its port, and the offset at which what it sent begins.

    An empty address and port 0: the front end asks on its own behalf (LOCAL, a health check), or
    for somebody whose address it does not know.

    Args:
        data: a datagram, or the first octets that came over a connection.

    Raises:
        WireError: there is no complete header of version 2, or its command, family or length is
            none that we know (``rcode`` None: there is no client to answer).
    """
    end = size(data)
    if len(data) < end:
        raise WireError(f"PROXY header: {len(data)} octets; must have {end}", None)
    _, version, family, _ = _fixed(data)
    if version >> 4 != 2 or version & 15 > _PROXY:
        raise WireError(f"PROXY header: version and command {version:#04x}; must be 0x20-21", None)
    if version & 15 == _LOCAL or family >> 4 == _UNSPEC:
        return "", 0, end
    transport = family & 15
    if transport not in (_STREAM, _DGRAM):
        raise WireError(f"PROXY header: transport {transport}; must be 1 or 2", None)
    # Source address, destination address, source port, destination port; then TLVs, unread.
    if family >> 4 == _INET:
        kind, width = socket.AF_INET, 4
    elif family >> 4 == _INET6:
        kind, width = socket.AF_INET6, 16
    else:
        raise WireError(f"PROXY header: family {family >> 4}; must be 0, 1 or 2", None)
    if end < FIXED + 2 * width + 4:
        raise WireError(
            f"PROXY header: addresses of {end - FIXED} octets; must have {2 * width + 4}", None
        )
    host = socket.inet_ntop(kind, data[FIXED : FIXED + width])
    (port,) = _port(data, FIXED + 2 * width)
    return host, port, end


def subnet(content: bytes) -> tuple[str, int] | None:
    """
    The network in a query's client subnet option: its address as text and its prefix length.

    None for a prefix length of 0, which asks that no client be named.

    Args:
        content: the option's octets, without code and length.

    Raises:
        WireError: it is too short, of an unknown family, its scope is not 0, its prefix is longer
            than an address, or the address has not exactly that many bits (FORMERR, RFC 7871
            section 7.1.2 and section 6).
    """
    if len(content) < 4:
        raise WireError(f"client subnet: {len(content)} octets; must have 4 (RFC 7871 6)", FORMERR)
    family, source, scope = _subnet(content)
    address = content[4:]
    if scope:
        raise WireError(f"client subnet: scope {scope}; must be 0 (RFC 7871 6)", FORMERR)
    if family == 0 and source == 0 and not address:
        return None  # what dig +subnet=0 sends
    if family not in (1, 2):
        raise WireError(f"client subnet: family {family}; must be 1 or 2 (RFC 7871 6)", FORMERR)
    width = 4 if family == 1 else 16
    if source > 8 * width:
        raise WireError(f"client subnet: prefix {source}; must be at most {8 * width}", FORMERR)
    if len(address) != (source + 7) // 8:
        raise WireError(
            f"client subnet: address of {len(address)} octets; "
            f"must have {(source + 7) // 8} for a prefix of {source} (RFC 7871 6)",
            FORMERR,
        )
    if source % 8 and address[-1] & (0xFF >> source % 8):
        raise WireError(
            f"client subnet: bits set after the prefix of {source} (RFC 7871 6)", FORMERR
        )
    if not source:
        return None
    kind = socket.AF_INET if family == 1 else socket.AF_INET6
    return socket.inet_ntop(kind, address.ljust(width, b"\0")), source


def subnet_echo(content: bytes, scope: int) -> bytes:
    """
    The client subnet option for the answer: the query's with a scope (RFC 7871 section 7.2.1).

    Args:
        content: the octets of the query's option, which `subnet` has accepted.
        scope: bits of the address that the answer is good for.
    """
    family, source, _ = _subnet(content)
    return _option(SUBNET_OPTION, len(content), family, source, scope) + content[4:]
