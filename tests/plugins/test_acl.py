"""Who may ask."""

import ipaddress

import dns.message
import pytest

from urlguard.config import Acl as Options
from urlguard.config import Config
from urlguard.plugins.acl import Acl
from urlguard.plugins.clients import Clients

NETWORKS = ["127.0.0.0/8", "192.0.2.0/25", "198.51.100.7/32", "2001:db8:1::/48", "::1/128"]


def networks(*texts):
    """Networks from text, as the configuration has them."""
    return tuple(ipaddress.ip_network(t) for t in texts)


@pytest.fixture
def clients():
    """Clients of a server that allows the networks above."""
    return Clients(Config(acl=Options(allow=networks(*NETWORKS))))


def asked(query, clients, host, **traits):
    """A query of the client at an address."""
    x = query(client=host, **traits)
    x.client = clients.find(host)
    return x


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
def test_only_clients_in_a_network_are_answered(clients, query, host, allowed):
    """
    A client outside all networks gets REFUSED with EDE 18, the first time and every time.
    """
    plugin = Acl(Options())
    for _ in range(2):
        answer = plugin.on_query(asked(query, clients, host))
        assert (answer is None) is allowed
    if answer is not None:
        got = dns.message.from_wire(answer.wire)
        assert got.rcode() == 5
        assert [o.code for o in got.options] == [18]
        assert answer.source == "acl"
        assert answer.once


def test_refusals_have_no_opt_unless_asked(clients, query):
    """
    A client without EDNS is refused without it.
    """
    answer = Acl(Options()).on_query(asked(query, clients, "203.0.113.1", edns=False))
    assert dns.message.from_wire(answer.wire).edns == -1


def test_strangers_may_be_met_with_silence(clients, query):
    """
    With ``otherwise = "drop"`` a client outside gets no answer at all, and others get theirs.
    """
    plugin = Acl(Options(otherwise="drop"))
    assert plugin.on_query(asked(query, clients, "203.0.113.1")).wire == b""
    assert plugin.on_query(asked(query, clients, "127.0.0.1")) is None


def test_a_query_of_nobody_is_refused(query):
    """
    Where no client is known, nobody is allowed.
    """
    x = query()
    assert x.client is None
    assert dns.message.from_wire(Acl(Options()).on_query(x).wire).rcode() == 5
