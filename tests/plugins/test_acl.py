"""Who may ask."""

import ipaddress

import dns.message
import pytest

from urlguard.plugins import acl
from urlguard.plugins.acl import Acl

NETWORKS = ["127.0.0.0/8", "192.0.2.0/25", "198.51.100.7/32", "2001:db8:1::/48", "::1/128"]


@pytest.fixture
def plugin():
    """An acl for the networks above."""
    return Acl([ipaddress.ip_network(n) for n in NETWORKS])


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.255.255.255", True),
        ("192.0.2.127", True),
        ("192.0.2.128", False),
        ("198.51.100.7", True),
        ("198.51.100.8", False),
        ("::1", True),
        ("::2", False),
        ("2001:db8:1:ffff::1", True),
        ("2001:db8:2::", False),
        ("::ffff:192.0.2.1", True),  # IPv4, seen through an IPv6 socket
        ("::ffff:192.0.2.200", False),
        ("2001:db8:1::1%eth0", True),
        ("", False),
        ("nobody", False),
    ],
)
def test_only_clients_in_a_network_are_answered(plugin, query, host, allowed):
    """
    A client outside all networks gets REFUSED with EDE 18, the first time and every time.
    """
    for _ in range(2):
        answer = plugin.on_query(query(client=host))
        assert (answer is None) is allowed
        assert (host in plugin.allowed) is allowed
    if answer is not None:
        got = dns.message.from_wire(answer.wire)
        assert got.rcode() == 5
        assert [o.code for o in got.options] == [18]
        assert answer.source == "acl"


def test_refusals_have_no_opt_unless_asked(plugin, query):
    """
    A client without EDNS is refused without it.
    """
    answer = plugin.on_query(query(client="203.0.113.1", edns=False))
    assert dns.message.from_wire(answer.wire).edns == -1


@pytest.mark.parametrize("everything", ["0.0.0.0/0", "::/0"])
def test_a_network_may_be_everything(everything, query):
    """
    A prefix length of zero covers its family and not the other.
    """
    plugin = Acl([ipaddress.ip_network(everything)])
    assert plugin.allows("203.0.113.9") is (everything == "0.0.0.0/0")
    assert plugin.allows("2001:db8::9") is (everything == "::/0")


def test_memory_is_bounded(plugin, query, monkeypatch):
    """
    Clients with ever new addresses cannot make the tables grow; who is allowed stays so.
    """
    monkeypatch.setattr(acl, "MAX_REMEMBERED", 10)
    table = plugin.allowed
    for i in range(100):
        assert plugin.on_query(query(client=f"127.0.0.{i}")) is None
        assert plugin.on_query(query(client=f"203.0.113.{i}")) is not None
        assert len(plugin.allowed) + len(plugin._refused) <= 10
    assert plugin.allowed is table  # the listener holds on to it
