"""What a blocked name gets."""

import ipaddress

import dns.message
import dns.rdatatype
import pytest

from urlguard import config
from urlguard.plugins import Parts
from urlguard.plugins.guard import Guard

TYPES = [
    "A",
    "AAAA",
    "ANY",
    "SOA",
    "HTTPS",
    "SVCB",
    "MX",
    "TXT",
    "NS",
    "CNAME",
    "DS",
    "DNSKEY",
    "SRV",
    "CAA",
    "PTR",
    "TYPE65280",
]
GIVEN = {"sinkhole": ("192.0.2.80", "2001:db8::80"), "zero": ("0.0.0.0", "::")}


def guard(live, answer, **keys):
    """A guard with the given mode."""
    options = config.Guard(
        answer=answer,
        sinkhole_ipv4=ipaddress.IPv4Address("192.0.2.80"),
        sinkhole_ipv6=ipaddress.IPv6Address("2001:db8::80"),
        block_ttl_s=42,
        **keys,
    )
    return Guard(live, options, {"feed:court"})


def expected(mode, qtype):
    """Rcode, answer records, whether a SOA stands in authority, EDE code: the page's table."""
    if mode in GIVEN:
        ipv4, ipv6 = GIVEN[mode]
        if qtype in ("A", "ANY"):
            return 0, [("A", ipv4)], False, 4
        if qtype == "AAAA":
            return 0, [("AAAA", ipv6)], False, 4
        if qtype == "SOA":
            return 0, [("SOA", None)], False, 4
        return 0, [], True, 15
    return {"nodata": (0, [], True, 15), "nxdomain": (3, [], True, 15)}.get(
        mode, (5, [], False, 15)
    )


@pytest.mark.parametrize("mode", ["sinkhole", "zero", "nodata", "nxdomain", "refused"])
@pytest.mark.parametrize("qtype", TYPES)
@pytest.mark.parametrize("edns", [True, False])
def test_blocked_names_are_answered_for_every_type(live, query, mode, qtype, edns):
    """
    No type of a blocked name goes upstream, and each gets the records and reason of its mode.
    """
    for name, regulator in (("evil.example", False), ("ordered.example", True)):
        answer = guard(live, mode).on_query(query(name, qtype, edns=edns))
        got = dns.message.from_wire(answer.wire)
        rcode, records, soa, ede = expected(mode, qtype)
        assert got.rcode() == rcode
        assert [dns.rdatatype.to_text(r.rdtype) for r in got.answer] == [t for t, _ in records]
        for rrset, (_, text) in zip(got.answer, records, strict=True):
            assert text is None or rrset[0].to_text() == text
        assert [r.rdtype for r in got.authority] == [dns.rdatatype.SOA] * soa
        assert all(r.ttl == 42 for r in got.answer + got.authority)
        assert all(r.name == got.question[0].name for r in got.answer + got.authority)
        codes = [(o.code, o.text) for o in got.options]
        assert codes == ([(16 if regulator else ede, None)] if edns else [])
        assert got.edns == (0 if edns else -1)
        assert (answer.source, answer.ruling) == ("guard", live.rulings[name])
        assert b"phishing" not in answer.wire


@pytest.mark.parametrize("name", ["grey.example", "good.example", "example.org", "."])
def test_only_block_rulings_are_answered(live, query, name):
    """
    Review, allow and no ruling at all let the query pass.
    """
    assert guard(live, "sinkhole").on_query(query(name)) is None


def test_spelling_makes_no_difference(live, query):
    """
    A name is judged in lower case and answered as it was spelled.
    """
    answer = guard(live, "sinkhole").on_query(query("eViL.eXaMpLe"))
    assert b"\4eViL\7eXaMpLe" in answer.wire


def test_the_engine_in_use_is_read_for_each_query(live, query):
    """
    A swapped engine judges the very next query.
    """
    plugin = guard(live, "sinkhole")
    assert plugin.on_query(query("evil.example")) is not None
    live.engine = type("Engine", (), {"decide": staticmethod(lambda name: None)})
    assert plugin.on_query(query("evil.example")) is None


def test_regulators_are_the_feeds_that_say_so(live, query):
    """
    EDE 16 follows ``regulator = true`` in the feed's section.
    """
    feeds = (config.Feed(name="court", regulator=True), config.Feed(name="x"))
    whole = config.Config(feed=feeds)
    plugin = Guard.from_config(whole.guard, Parts(whole, live, None))
    for name, code in (("ordered.example", 16), ("evil.example", 4)):
        got = dns.message.from_wire(plugin.on_query(query(name)).wire)
        assert [o.code for o in got.options] == [code]
