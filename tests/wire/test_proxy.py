"""Whom a front end speaks for: PROXY version 2 and the client subnet option."""

import socket
import struct

import dns.edns
import pytest
from hypothesis import given
from hypothesis import strategies as st

from urlguard.errors import WireError
from urlguard.wire import proxy

INET = socket.inet_aton("192.0.2.7") + socket.inet_aton("198.51.100.1") + b"\x12\x34\0\x35"
INET6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7") + bytes(16) + b"\x12\x34\0\x35"


def header(after, *, command=0x21, family=0x12, length=None):
    """A header of version 2 with what stands after its fixed part."""
    size = len(after) if length is None else length
    return proxy.SIGNATURE + struct.pack("!BBH", command, family, size) + after


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (header(INET), ("192.0.2.7", 0x1234, 28)),
        (header(INET, family=0x11), ("192.0.2.7", 0x1234, 28)),
        (header(INET6, family=0x22), ("2001:db8::7", 0x1234, 52)),
        (header(INET6, family=0x21), ("2001:db8::7", 0x1234, 52)),
        (header(INET + b"\x04\0\x05hello"), ("192.0.2.7", 0x1234, 36)),  # a TLV
        (header(INET + bytes(524)), ("192.0.2.7", 0x1234, 552)),
        (header(b"", command=0x20, family=0), ("", 0, 16)),  # LOCAL
        (header(INET, command=0x20), ("", 0, 28)),
        (header(b"", family=0), ("", 0, 16)),  # UNSPEC
        (header(b"abc", family=0), ("", 0, 19)),
    ],
)
def test_headers(data, expected):
    """
    Address, port, and where the DNS message begins; TLVs are passed over.
    """
    assert proxy.read(data + b"rest") == expected
    assert proxy.size(data + b"rest") == expected[2] == len(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 octets; must have 16"),
        (b"PROXY UDP4 192.0.2.7 198.51.100.1 4660 53\r\n", "no signature"),
        (b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0", "no signature"),
        (header(INET)[:15], "15 octets; must have 16"),
        (header(INET)[:-1], "27 octets; must have 28"),
        (header(INET, command=0x11), "version and command 0x11"),
        (header(INET, command=0x22), "version and command 0x22"),
        (header(INET, family=0x10), "transport 0"),
        (header(INET, family=0x13), "transport 3"),
        (header(INET, family=0x32), "family 3"),
        (header(INET[:-1]), "addresses of 11 octets; must have 12"),
        (header(INET, family=0x22), "addresses of 12 octets; must have 36"),
        (header(INET + bytes(525)), "537 octets; must be at most 536"),
        (header(b"", length=65535), "65535 octets; must be at most 536"),
    ],
)
def test_broken_headers(data, words):
    """
    What is no header of version 2 raises an error that says why, and gets no answer.
    """
    with pytest.raises(WireError, match=words) as caught:
        proxy.read(data)
    assert caught.value.rcode is None


def test_a_stream_learns_how_much_to_wait_for():
    """
    Octet by octet, `size` asks for no more than the header has, and notices the wrong one at once.
    """
    whole = header(INET6, family=0x21) + b"more"
    read = b""
    while len(read) < proxy.size(read):
        read = whole[: proxy.size(read)]
    assert proxy.read(read)[0] == "2001:db8::7"
    for end in range(1, 53):
        assert proxy.size(whole[:end]) in (16, 52)
    for wrong in (b"P", b"\r\n\r\n\0\r\nQUIX", b"\0"):
        with pytest.raises(WireError):
            proxy.size(wrong)


@given(st.binary(max_size=60), st.booleans())
def test_any_octets_are_read_or_an_error(data, signed):
    """
    No datagram makes the reader raise anything but WireError, or point outside itself.
    """
    data = proxy.SIGNATURE + data if signed else data
    try:
        host, port, end = proxy.read(data)
    except WireError:
        return
    assert 16 <= end <= len(data)
    assert 0 <= port <= 65535
    assert host == "" or socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)


@pytest.mark.parametrize(
    ("address", "source", "expected"),
    [
        ("192.0.2.7", 32, ("192.0.2.7", 32)),
        ("192.0.2.0", 24, ("192.0.2.0", 24)),
        ("192.0.3.0", 23, ("192.0.2.0", 23)),
        ("2001:db8::7", 128, ("2001:db8::7", 128)),
        ("2001:db8:1::", 56, ("2001:db8:1::", 56)),
        ("192.0.2.7", 0, None),
        ("2001:db8::7", 0, None),
    ],
)
def test_subnets(address, source, expected):
    """
    The network that another implementation writes is the one read; the echo is what it reads.
    """
    option = dns.edns.ECSOption(address, source).to_wire()
    assert proxy.subnet(option) == expected
    echo = proxy.subnet_echo(option, 20)
    assert echo[:4] == struct.pack("!HH", 8, len(option))
    read = dns.edns.option_from_wire(8, echo, 4, len(option))
    assert (read.srclen, read.scopelen) == (source, 20)
    assert read.to_wire()[4:] == option[4:]


def test_nobody_may_be_named():
    """
    A subnet of no family and no bits, as ``dig +subnet=0`` sends it, names nobody.
    """
    assert proxy.subnet(bytes(4)) is None


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("", "0 octets; must have 4"),
        ("000118", "3 octets; must have 4"),
        ("00011801c00002", "scope 1; must be 0"),
        ("00031800c00002", "family 3"),
        ("00001800c00002", "family 0"),
        ("00002000", "family 0"),
        ("00012100c000020101", "prefix 33; must be at most 32"),
        ("00028100" + "00" * 17, "prefix 129; must be at most 128"),
        ("00011800c000", "address of 2 octets; must have 3"),
        ("00011800c0000201", "address of 4 octets; must have 3"),
        ("00010000c0", "address of 1 octets; must have 0"),
        ("00011700c00003", "bits set after the prefix of 23"),
        ("0002090020ff", "bits set after the prefix of 9"),
    ],
)
def test_broken_subnets(option, words):
    """
    A malformed client subnet option is FORMERR, and the error says what is wrong with it.
    """
    with pytest.raises(WireError, match=words) as caught:
        proxy.subnet(bytes.fromhex(option))
    assert caught.value.rcode == 1


@given(st.binary(max_size=24))
def test_any_subnet_is_read_or_an_error(option):
    """
    No option makes the reader raise anything but WireError.
    """
    try:
        found = proxy.subnet(option)
    except WireError:
        return
    if found is not None:
        assert dns.edns.ECSOption(*found).to_wire() == option
