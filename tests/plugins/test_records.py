"""Answers from dnslib's records and back: names, EDNS, spelling, sizes."""

import struct
import subprocess
import sys

import dns.flags
import dns.message
import dns.rdatatype
import pytest
from dnslib import AAAA, CNAME, MX, QTYPE, RR, TXT, A, DNSRecord

from urlguard.plugins import Answer
from urlguard.plugins.records import answer_with, records_of
from urlguard.wire import answer

MANY = [RR(f"n{i}.mail.example", QTYPE.MX, 1, 60, MX(f"mx{i}.mail.example")) for i in range(2000)]


def test_records_come_back_as_they_went_in(query):
    """
    Section by section, with TTLs; the OPT record is not among them.
    """
    x = query("www.example", "A")
    answers = [
        RR("www.example", QTYPE.CNAME, 1, 60, CNAME("web.example")),
        RR("web.example", QTYPE.A, 1, 30, A("192.0.2.7")),
    ]
    beside = [RR("web.example", QTYPE.AAAA, 1, 20, AAAA("2001:db8::7"))]
    soa = RR.fromZone("example. 10 IN SOA ns.example. nobody.invalid. 1 2 3 4 5")
    found = answer_with(x, answers, "test", authority=soa, additional=beside)
    assert found.source == "test"
    assert records_of(x, found) == (answers, soa, beside)
    # Another reader sees the same.
    read = dns.message.from_wire(found.wire)
    assert [s.to_text() for s in read.answer] == [
        "www.example. 60 IN CNAME web.example.",
        "web.example. 30 IN A 192.0.2.7",
    ]


@pytest.mark.parametrize("edns", [True, False])
def test_edns_is_answered_if_the_client_speaks_it(query, edns):
    """
    OPT, DO and an extended error go to clients with EDNS and to no others; so does what every
    answer must carry.
    """
    x = query("www.example", edns=edns, do=edns)
    x.reply_options = struct.pack("!HH", 10, 8) + bytes(8) if edns else b""
    read = dns.message.from_wire(answer_with(x, [], "test", rcode=3, ede=15).wire)
    assert (read.rcode(), read.edns, bool(read.ednsflags & dns.flags.DO)) == (
        3,
        0 if edns else -1,
        edns,
    )
    assert [int(o.otype) for o in read.options] == ([15, 10] if edns else [])


def test_the_question_keeps_its_spelling(query):
    """
    Records point to the client's own spelling, as 0x20 wants it, and to its parents.
    """
    x = query("wWw.ExAmPlE.oRg", "TXT", edns=False)
    owners = ("www.example.org", "example.org")
    records = [RR(owner, QTYPE.TXT, 1, 60, TXT("hello")) for owner in owners]
    wire = answer_with(x, records, "test").wire
    assert b"wWw" in wire
    assert b"www" not in wire
    # Header, question, and two records of 2 octets of name, 10 of head and 6 of data.
    assert len(wire) == 12 + 17 + 4 + 2 * (2 + 10 + 6)
    assert dns.message.from_wire(wire).answer[1].name.to_text() == "ExAmPlE.oRg."


def test_no_pointer_leads_beyond_its_14_bits(query):
    """
    Messages longer than 16 KiB are read back name by name.
    """
    x = query("mail.example", "MX")
    found = answer_with(x, MANY, "test")
    assert len(found.wire) > 0x4000
    read = {str(r.name): str(r[0].exchange) for r in dns.message.from_wire(found.wire).answer}
    assert read == {f"n{i}.mail.example.": f"mx{i}.mail.example." for i in range(2000)}
    assert records_of(x, found).answer == MANY


def test_what_dnslib_cannot_read_is_a_value_error(query):
    """
    An upstream's octets can be anything.
    """
    x = query("www.example", "A")
    with pytest.raises(ValueError, match="unreadable answer from forward"):
        records_of(x, Answer(answer.error(x, 0)[:20], "forward"))


def test_the_root_can_be_asked_for(query):
    """
    A question without labels has nothing to point to.
    """
    x = query(".", "TXT", edns=False)
    wire = answer_with(x, [RR(".", QTYPE.TXT, 1, 60, TXT("root"))], "test").wire
    assert str(DNSRecord.parse(wire).rr[0].rdata) == '"root"'


def test_dnslib_is_loaded_by_the_first_use_alone():
    """
    Importing the helper, or all plugins, costs a worker nothing of dnslib.
    """
    code = (
        "import sys, urlguard.plugins, urlguard.plugins.records; assert 'dnslib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
