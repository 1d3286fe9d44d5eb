"""Public names that lead into private networks."""

import ipaddress
import itertools

import dns.message
import dns.rrset
import pytest

from urlguard import config
from urlguard.plugins import rebind
from urlguard.plugins.base import Answer
from urlguard.plugins.rebind import Rebind
from urlguard.wire import answer
from urlguard.wire.reply import read_reply


def upstream(x, *records):
    """An upstream's answer with records as text, ``[owner] TYPE RDATA``, in the answer section."""
    message = dns.message.make_response(dns.message.from_wire(x.query.data))
    for record in records:
        rtype, rdata = record.split(" ", 1)
        name = message.question[0].name
        message.answer.append(dns.rrset.from_text(name, 300, "IN", rtype, rdata))
    reply = read_reply(message.to_wire(), x.query.question_end, x.query.qtype)
    return Answer(None, "forward", reply=reply)


def given(plugin, x, *records):
    """The message that the client gets, and whether it is another than upstream's."""
    found = upstream(x, *records)
    passed = plugin.on_answer(x, found)
    return dns.message.from_wire(passed.octets(x)), passed is not found


@pytest.fixture
def plugin():
    """The plugin as it is without configuration, with one zone of ``[forward.zones]``."""
    return Rebind(config.Rebind(), ["corp.example"])


@pytest.mark.parametrize(
    ("address", "blocked"),
    [
        ("192.168.1.1", True),
        ("10.0.0.0", True),
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("9.255.255.255", False),
        ("172.16.0.1", True),
        ("172.31.255.255", True),
        ("172.32.0.0", False),
        ("172.15.255.255", False),
        ("127.0.0.1", True),
        ("127.0.0.2", False),  # mail servers' block lists answer from there
        ("169.254.169.254", True),
        ("0.0.0.0", True),
        ("198.51.100.1", False),
        ("255.255.255.255", False),
        ("::", True),
        ("::1", True),
        ("::2", True),  # IPv4-compatible: 0.0.0.2
        ("fd12:3456::1", True),
        ("fc00::", True),
        ("fe80::1", True),
        ("febf::1", True),
        ("fec0::1", False),
        ("2001:db8::1", False),
        ("::ffff:192.168.1.1", True),
        ("::ffff:198.51.100.1", False),
        ("::192.168.1.1", True),
        ("::198.51.100.1", False),
        ("64:ff9b::192.168.1.1", True),
        ("64:ff9b::198.51.100.1", False),
        ("64:ff9c::192.168.1.1", False),
        ("2002:c0a8:101::1", True),  # 6to4 of 192.168.1.1
        ("2002:c633:6401::1", False),
    ],
)
def test_private_addresses_of_every_form(plugin, query, address, blocked):
    """
    A private address, or an IPv6 address with one inside, becomes NODATA with EDE 15.
    """
    rtype = "A" if "." in address and ":" not in address else "AAAA"
    got, changed = given(plugin, query("evil.example", rtype), f"{rtype} {address}")
    assert changed is blocked
    assert plugin.counters["blocked"] == blocked
    if blocked:
        assert (got.rcode(), got.answer) == (0, [])
        assert [int(o.code) for o in got.options] == [15]
        assert got.authority[0].ttl == 60


def test_one_private_address_among_many_is_enough(plugin, query):
    """
    A public address beside it does not make a private one harmless: browsers try both.
    """
    x = query("evil.example")
    for records in itertools.permutations(["A 198.51.100.1", "A 192.168.1.1", "A 198.51.100.2"]):
        assert given(plugin, x, *records)[1]


def test_service_hints_count(plugin, query):
    """
    An address hint of an HTTPS record leads there as well.
    """
    x = query("evil.example", "HTTPS")
    assert given(plugin, x, "HTTPS 1 . ipv4hint=198.51.100.1,10.1.1.1")[1]
    assert given(plugin, x, "HTTPS 1 . ipv6hint=fd00::1")[1]
    assert not given(plugin, x, "HTTPS 1 . ipv4hint=198.51.100.1 ipv6hint=2001:db8::1")[1]


@pytest.mark.parametrize(
    ("name", "may"),
    [
        ("plex.direct", True),
        ("a.b.PLEX.direct", True),
        ("notplex.direct", False),
        ("corp.example", True),
        ("intranet.corp.example", True),
        ("mycorp.example", False),
        ("direct", False),
    ],
)
def test_exempt_zones_may(plugin, query, name, may):
    """
    Zones in ``exempt`` and those forwarded elsewhere may lead inside, and no others.
    """
    assert given(plugin, query(name), "A 192.168.1.1")[1] is not may


def test_it_can_be_turned_off(query):
    """
    With ``mode = "off"`` every answer passes.
    """
    off = Rebind(config.Rebind(mode="off"))
    assert not given(off, query("evil.example"), "A 192.168.1.1")[1]


def test_the_networks_are_the_operators(query):
    """
    What counts as private is the configuration's, and nothing beside it.
    """
    networks = tuple(ipaddress.ip_network(n) for n in ("100.64.0.0/10", "2001:db8::/33"))
    own = Rebind(config.Rebind(networks=networks))
    x, q6 = query("evil.example"), query("evil.example", "AAAA")
    assert given(own, x, "A 100.127.0.1")[1]
    assert not given(own, x, "A 192.168.1.1")[1]
    assert given(own, q6, "AAAA 2001:db8:7fff::1")[1]
    assert not given(own, q6, "AAAA 2001:db8:8000::1")[1]
    assert given(own, q6, "AAAA ::ffff:100.64.0.1")[1]
    assert not given(Rebind(config.Rebind(networks=())), x, "A 192.168.1.1")[1]


def test_answers_of_our_own_pass(plugin, query):
    """
    A sinkhole is where the operator wants people to go; only upstreams' replies are looked at.
    """
    x = query("evil.example")
    own = Answer(answer.addresses(x, [b"\x7f\0\0\1"], 30), "guard")
    assert plugin.on_answer(x, own) is own


def test_a_broken_hint_does_not_raise(plugin, query):
    """
    The odd end of a hint is no address, and the whole ones before it count.
    """
    x = query("evil.example")
    found = upstream(x, "A 198.51.100.1")
    found.reply.addresses = (b"\xc0\xa8\1", b"\xc0\xa8")
    assert plugin.on_answer(x, found) is found
    found.reply.addresses = (b"\xc0\xa8\1", b"\xc0\xa8\1\1")
    assert plugin.on_answer(x, found) is not found


def test_a_reply_of_thousands_of_addresses_is_cut_short(plugin, query, monkeypatch):
    """
    However many near-private addresses a reply has, only so many are looked up.
    """
    looked = []
    monkeypatch.setattr(plugin, "private", lambda octets: bool(looked.append(octets)))
    x = query("evil.example")
    found = upstream(x, "A 198.51.100.1")
    found.reply.addresses = tuple(b"\x7f\0" + i.to_bytes(2) for i in range(2, 4000))
    assert plugin.on_answer(x, found) is not found
    assert len(looked) == rebind.MAX_LOOKUPS
    looked.clear()
    found.reply.addresses = tuple(b"\xc6\x33" + i.to_bytes(2) for i in range(4000))
    assert plugin.on_answer(x, found) is found
    assert looked == []
