"""Queries: what is read, what is refused and with which rcode, and that nothing else happens."""

import time
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.rdatatype
import pytest
from dnslib import DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from urlguard.errors import WireError
from urlguard.wire.query import Query, forwarded, parse_query

PACKETS = Path(__file__).parents[1] / "data" / "packets"

# What each regression packet gets: an rcode, or None where no reply may be sent.
EXPECTED = {
    "short_header": None,
    "response_bit": None,
    "opcode_status": 4,
    "opcode_update": 4,
    "no_question": 1,
    "two_questions": 1,
    "label_of_64": 1,
    "pointer_in_question": 1,
    "pointer_to_itself": 1,
    "name_of_256": 1,
    "name_without_end": 1,
    "label_past_end": 1,
    "question_without_class": 1,
    "two_opts": 1,
    "opt_not_at_root": 1,
    "opt_in_answer": 1,
    "opt_cut_off": 1,
    "opt_rdlength_past_end": 1,
    "opt_option_past_end": 1,
    "additional_missing": 1,
    "answer_missing": 1,
    "record_owner_points_forward": 1,
    "edns_version_1": 16,
    "edns_version_1_odd_options": 16,
}


def ask(*labels: bytes, qtype: int = 1, head: bytes = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0") -> bytes:
    """A query for a name of these raw labels."""
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return head + name + qtype.to_bytes(2, "big") + b"\0\1"


@pytest.mark.parametrize("path", sorted(PACKETS.glob("*.bin")), ids=lambda p: p.stem)
def test_broken_packets_get_the_rcode_of_their_fault(path):
    """
    Each thing that can be wrong with a query has its own reply, or none at all.
    """
    with pytest.raises(WireError) as caught:
        parse_query(path.read_bytes())
    assert caught.value.rcode == EXPECTED[path.stem]


def test_every_regression_packet_is_there():
    """
    The table above and the folder of packets name the same faults.
    """
    assert {p.stem for p in PACKETS.glob("*.bin")} == set(EXPECTED)


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ((), ""),
        ((b"example",), "example"),
        ((b"WwW", b"eXample", b"ORG"), "www.example.org"),
        ((b"a.b", b"example"), r"a\046b.example"),  # a dot inside a label is no label boundary
        ((b"a\\b", b"example"), r"a\092b.example"),
        ((b"a\\.b", b"example"), r"a\092\046b.example"),
        ((b".",), r"\046"),
        ((b"\xe9\xc9", b"example"), "\xe9\xc9.example"),  # only ASCII has case (RFC 4343)
        ((b"a\0b", b"example"), "a\0b.example"),
        ((b"_dns", b"x--y"), "_dns.x--y"),
        ((b"x" * 63,) * 3 + (b"y" * 61,), ".".join(["x" * 63] * 3 + ["y" * 61])),
    ],
)
def test_names_are_lower_case_text_that_keeps_label_boundaries(labels, name):
    """
    A name is lower-case text, and a dot or backslash within a label cannot pass for syntax.
    """
    q = parse_query(ask(*labels))
    assert q.name == name
    assert q.data[12 : q.question_end - 4] == ask(*labels)[12:-4]
    assert q.question == ask(*labels)[12:]


@pytest.mark.parametrize("qtype", [0, 1, 6, 28, 65, 255, 257, 65535])
@pytest.mark.parametrize(("edns", "do"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("rd", [False, True])
def test_queries_read_as_dnspython_wrote_them(qtype, edns, do, rd):
    """
    Header, question and OPT record say what the client meant.
    """
    made = dns.message.make_query("wWw.Example.ORG", qtype, use_edns=0 if edns else False)
    if edns:
        made.use_edns(0, dns.flags.DO if do else 0, 4000)
    made.flags = (dns.flags.RD if rd else 0) | dns.flags.CD
    q = parse_query(made.to_wire(), ("192.0.2.1", 53), tcp=True)
    assert (q.id, q.name, q.qtype, q.qclass) == (made.id, "www.example.org", qtype, 1)
    assert (q.rd, q.cd, q.has_opt, q.do) == (rd, True, edns, do)
    assert (q.udp_size, q.udp_limit) == ((4000, 1232) if edns else (512, 512))
    assert (q.client, q.tcp) == (("192.0.2.1", 53), True)


@pytest.mark.parametrize(
    ("size", "limit"), [(0, 512), (511, 512), (512, 512), (1000, 1000), (65535, 1232)]
)
def test_udp_limit_is_the_clients_within_bounds(size, limit):
    """
    Less than 512 octets counts as 512 (RFC 6891 6.2.3), and we never send more than 1232.
    """
    opt = b"\0\0\x29" + size.to_bytes(2, "big") + bytes(6)
    q = parse_query(ask(b"a", head=b"\0\1\1\0\0\1\0\0\0\0\0\1") + opt)
    assert q.udp_limit == limit


def test_opt_is_found_among_other_records():
    """
    Records that we have no use for are walked over, before the OPT record and after it.
    """
    record = b"\xc0\x0c\0\x10\0\1\0\0\0\0\0\2\1x"
    opt = b"\0\0\x29\x10\0\0\0\x80\0\0\x0c" + b"\0\x0a\0\x08abcdefgh"
    wire = ask(b"a", b"example", head=b"\0\1\1\0\0\1\0\1\0\1\0\3") + record * 3 + opt + record
    q = parse_query(wire)
    assert (q.has_opt, q.do, q.udp_size, q.options) == (True, True, 4096, 12)


def test_trailing_octets_are_ignored():
    """
    What follows the last record is no reason to refuse a client its answer.
    """
    assert parse_query(ask(b"example") + b"\xff" * 9).name == "example"


@given(st.binary(max_size=600))
def test_any_datagram_parses_or_raises_wire_error(datagram):
    """
    No datagram makes the parser raise anything but WireError.
    """
    try:
        q = parse_query(datagram)
    except WireError:
        return
    assert 17 <= q.question_end <= len(datagram)


@given(st.binary(max_size=80), st.integers(0, 2), st.integers(0, 3))
def test_any_octets_after_a_header_parse_or_raise_wire_error(rest, answers, additionals):
    """
    The same, past the header that random octets seldom get right.
    """
    head = b"\0\1\1\0\0\1" + bytes([0, answers, 0, 0, 0, additionals])
    try:
        q = parse_query(head + rest)
    except WireError as exc:
        rcode = exc.rcode
    else:
        assert isinstance(q, Query)
        return
    assert rcode in (1, 16)


@given(
    st.lists(
        st.text("abcXYZ019-_", min_size=1, max_size=20).map(str.encode), min_size=1, max_size=8
    ),
    st.integers(0, 65535),
)
def test_names_agree_with_dnslib(labels, qtype):
    """
    An independent parser reads the same name and type.
    """
    wire = ask(*labels, qtype=qtype)
    theirs = DNSRecord.parse(wire).q
    q = parse_query(wire)
    assert (q.name, q.qtype) == (str(theirs.qname).rstrip(".").lower(), theirs.qtype)


def test_a_long_run_of_labels_costs_no_more_than_a_name():
    """
    64 KiB of one-octet labels are given up after 255 octets.
    """
    wire = ask(b"a")[:12] + b"\1a" * 32_000
    began = time.perf_counter()
    for _ in range(200):
        with pytest.raises(WireError, match="255"):
            parse_query(wire)
    assert time.perf_counter() - began < 0.2  # walking all of them takes over a second


@pytest.mark.parametrize("do", [False, True])
def test_upstream_queries_carry_no_client_options(do):
    """
    Upstream sees the question, CD and DO, and neither cookie nor subnet.
    """
    made = dns.message.make_query("MiXed.example.org", "AAAA")
    made.flags |= dns.flags.CD
    made.use_edns(0, dns.flags.DO if do else 0, 4096, options=[dns.edns.ECSOption("192.0.2.0")])
    wire = forwarded(parse_query(made.to_wire()), 0xABCD)
    sent = dns.message.from_wire(wire)
    assert sent.id == 0xABCD
    assert sent.flags == dns.flags.RD | dns.flags.CD
    assert wire[12:-15] == b"\5MiXed\7example\3org\0"
    assert (sent.edns, sent.payload, sent.options) == (0, 1232, ())
    assert bool(sent.ednsflags & dns.flags.DO) is do


def test_upstream_queries_have_edns_only_if_the_client_has():
    """
    A client without EDNS gets an answer made for one without.
    """
    sent = dns.message.from_wire(forwarded(parse_query(ask(b"example")), 7))
    assert (sent.edns, sent.flags) == (-1, dns.flags.RD)
