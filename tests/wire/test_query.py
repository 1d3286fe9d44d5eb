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
from urlguard.wire import query as wire
from urlguard.wire.query import RD, Query, parse_query

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
    q = parse_query(made.to_wire())
    assert (q.id, q.name, q.qtype, q.qclass) == (made.id, "www.example.org", qtype, 1)
    assert (bool(q.flags & RD), q.cd, q.has_opt, q.do) == (rd, True, edns, do)
    assert (q.udp_size, q.udp_limit) == ((4000, 1232) if edns else (512, 512))


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
    began = time.process_time()
    for _ in range(200):
        with pytest.raises(WireError, match="255"):
            parse_query(wire)
    assert time.process_time() - began < 0.2  # walking all of them takes over a second


@pytest.mark.parametrize(
    ("do", "cd", "ad"), [(False, False, False), (True, False, True), (False, True, False)]
)
def test_upstream_queries_carry_no_client_options(do, cd, ad):
    """
    Upstream sees the question, RD, CD, AD and DO, and neither cookie nor subnet.
    """
    made = dns.message.make_query("MiXed.example.org", "AAAA")
    made.flags |= dns.flags.CD
    made.use_edns(0, dns.flags.DO, 4096, options=[dns.edns.ECSOption("192.0.2.0")])
    q = parse_query(made.to_wire())
    sent_wire = wire.ask(q.question, 0xABCD, do=do, cd=cd, ad=ad)
    sent = dns.message.from_wire(sent_wire)
    assert sent.id == 0xABCD
    flags = (dns.flags.CD if cd else 0) | (dns.flags.AD if ad else 0)
    assert sent.flags == dns.flags.RD | flags
    assert sent_wire[12:-15] == b"\5MiXed\7example\3org\0"
    assert (sent.edns, sent.payload, sent.options) == (0, 1232, ())
    assert bool(sent.ednsflags & dns.flags.DO) is do


def test_an_upstream_that_knows_no_edns_is_asked_without():
    """
    The query then ends with its question.
    """
    q = parse_query(ask(b"example"))
    sent = dns.message.from_wire(wire.ask(q.question, 7, do=False, cd=False, ad=False, edns=False))
    assert (sent.id, sent.edns, sent.flags) == (7, -1, dns.flags.RD)


# ---- names in records


@pytest.mark.parametrize(
    ("octets", "at", "name"),
    [
        (b"\3www\7Example\0", 12, "www.example"),
        (b"\0", 12, ""),
        (b"\7example\0\3www\xc0\x0c", 21, "www.example"),
        (b"\7example\0\xc0\x0c\1a\xc0\x15", 23, "a.example"),  # a pointer to a pointer
        (b"\3a.b\7example\0", 12, r"a\046b.example"),
    ],
)
def test_names_in_records_are_read_through_their_pointers(octets, at, name):
    """
    A compressed name is the same text as the whole one, whatever points where.
    """
    data = bytes(12) + octets
    assert wire.read_name(data, at) == name
    assert wire.skip_name(data, at) == len(data)


@pytest.mark.parametrize(
    ("octets", "at"),
    [
        (b"\xc0\x0c", 12),  # itself
        (b"\1a\xc0\x0c", 12),  # a loop through its own label
        (b"\xc0\x0f\0\0", 12),  # forwards
        (b"\1a\x40\0", 12),  # a label type that nobody uses
        (b"\7exam", 12),  # ends after the message
        (b"\1a", 12),
        (b"\1a\xc0", 12),
        (b"\x3f" + b"x" * 63 + (b"\x3f" + b"y" * 63) * 3 + b"\0", 12),  # 257 octets
        (b"\0\xc0\x05", 13),  # into the header, which is another one in each message
    ],
)
def test_broken_names_in_records_are_refused(octets, at):
    """
    No pointer leads forwards, to itself or into the header, and no name ends after the message.
    """
    with pytest.raises(WireError):
        wire.read_name(bytes(12) + octets, at)


def test_a_chain_of_pointers_ends():
    """
    A name is read through 64 pointers and no more: a reply full of longer chains takes seconds.
    """
    data = bytearray(12) + b"\1a\0\0"
    for at in range(16, 0x3FFE, 2):
        data += (0xC000 | at - 2 if at > 16 else 0xC00C).to_bytes(2, "big")
    assert wire.read_name(bytes(data), 16 + 2 * 63) == "a"
    for at in (16 + 2 * 64, len(data) - 2):
        with pytest.raises(WireError, match="pointer"):
            wire.read_name(bytes(data), at)


@given(st.binary(max_size=120), st.integers(0, 140))
def test_any_name_is_read_or_refused(octets, at):
    """
    No octets make reading a name raise anything but WireError, and what is read is bounded.
    """
    try:
        name = wire.read_name(bytes(12) + octets, at)
    except WireError:
        return
    assert len(name) <= 4 * 255


@pytest.mark.parametrize(
    ("made", "plain"),
    [
        (ask(b"a"), True),
        (ask(b"a") + b"x", False),
        (ask(b"a", head=b"\0\1\1\0\0\1\0\0\0\0\0\1") + b"\0\0\x29\4\xd0" + bytes(6), True),
        (
            ask(b"a", head=b"\0\1\1\0\0\1\0\0\0\0\0\1") + b"\0\0\x29\4\xd0\0\0\0\0\0\4\0\x0c\0\0",
            False,
        ),
    ],
)
def test_plain_queries_have_a_question_and_at_most_a_bare_opt_record(made, plain):
    """
    Only of such may the octets be the key of an answer.
    """
    assert parse_query(made).plain is plain
