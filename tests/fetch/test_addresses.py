"""Which addresses may be fetched from."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from urlguard.fetch.addresses import is_public

PUBLIC = """
1.1.1.1 8.8.8.8 9.9.9.9 11.0.0.0 100.63.255.255 100.128.0.0 128.0.0.1 168.63.129.17 169.253.255.255
172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0
223.255.255.255 2001:200:: 2001:4860:4860::8888 2606:4700:4700::1111 2a00:1450:4001::1 2003::1
64:ff9b::808:808
"""

NOT_PUBLIC = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.0 100.100.100.200 100.127.255.255 127.0.0.1
127.255.255.254 168.63.129.16 169.254.169.254 172.16.0.0 172.31.255.255 192.0.0.1 192.0.0.9
192.0.0.10 192.0.0.192 192.0.2.1 192.31.196.1 192.52.193.1 192.88.99.1 192.168.0.1 192.175.48.1
198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.7 224.0.0.1 239.255.255.255 240.0.0.1
255.255.255.255
:: ::1 ::7f00:1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:8.8.8.8 64:ff9b::7f00:1 64:ff9b::a00:1
64:ff9b::a9fe:a9fe 64:ff9b::c0a8:1 64:ff9b:1::808:808 100::1 2001::1 2001:0:4136:e378::1 2001:2::1
2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1:: 2002:808:808:: 2620:4f:8000::1 3fff::1 3fff:fff::1
4000::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1 ff0e::1
"""

NONE = ["", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "1.1.1.1:80", "[::1]"]
NONE += ["1.1.1.1/32", " 1.1.1.1", "2606:4700::1111%eth0"]


@pytest.mark.parametrize("address", PUBLIC.split())
def test_public(address):
    """
    Addresses that anybody can reach, up to the very edges of what they cannot.
    """
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_not_public(address):
    """
    Private, shared, local, reserved and documentation addresses, multicast, and addresses within
    which others are hidden: mapped, NAT64, 6to4, Teredo.
    """
    assert not is_public(address)


@pytest.mark.parametrize("text", NONE)
def test_no_address(text):
    """
    What is no address in its usual form is not public, whatever a C library would make of it.
    """
    assert not is_public(text)


@given(st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address))
def test_never_more_than_the_library_allows(address):
    """
    What the standard library calls private is never public here, nor its NAT64 form.
    """
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert not is_public(str(address))
    through_nat64 = ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) | int(address))
    assert is_public(str(through_nat64)) == is_public(str(address))
    assert not is_public(f"::ffff:{address}")


@given(st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address))
def test_ipv6_outside_of_global_unicast(address):
    """
    Outside of 2000::/3, and of NAT64's prefix, nothing is public.
    """
    if address.packed[0] >> 5 != 1 and not str(address).startswith("64:ff9b:"):
        assert not is_public(str(address))
