"""Answers of our own: each builder read back with dnspython."""

import itertools

import dns.edns
import dns.flags
import dns.message
import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from urlguard.plugins import Exchange
from urlguard.wire import answer
from urlguard.wire.query import Query, parse_query

NAME = "wWw.ExAmple.ORG"
LOWER = NAME.lower() + "."
SPELLED = b"\3wWw\7ExAmple\3ORG\0"


def query(qtype: str = "A", *, edns: bool = True, do: bool = False, flags: int = 0) -> Query:
    """A parsed query with the given traits."""
    made = dns.message.make_query(NAME, qtype, use_edns=0 if edns else False)
    made.flags = flags
    if edns:
        made.use_edns(0, dns.flags.DO if do else 0, 1400)
    return parse_query(made.to_wire())


def ede(message: dns.message.Message) -> list[int]:
    """The info-codes of the extended errors; fails if one has text."""
    found = [o for o in message.options if isinstance(o, dns.edns.EDEOption)]
    assert not any(o.text for o in found)
    return [int(o.code) for o in found]


BUILDERS = {
    "error": lambda q, code: answer.error(Exchange(q), 5, code),
    "addresses": lambda q, code: answer.addresses(Exchange(q), [b"\x7f\0\0\1"], 30, code),
    "negative": lambda q, code: answer.negative(Exchange(q), 30, 3, code),
    "soa": lambda q, code: answer.soa(Exchange(q), 30, code),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
@pytest.mark.parametrize(
    ("edns", "do", "rd", "cd"),
    [t for t in itertools.product([False, True], repeat=4) if t[0] or not t[1]],
)
def test_every_answer_echoes_what_the_client_sent(build, edns, do, rd, cd):
    """
    ID, spelling, RD, CD and DO come back; RA is set, AA and AD never are; OPT only if asked.
    """
    asked = (dns.flags.RD if rd else 0) | (dns.flags.CD if cd else 0)
    q = query(edns=edns, do=do, flags=asked | dns.flags.AD)
    wire = build(q, 15)
    got = dns.message.from_wire(wire)
    assert got.id == q.id
    assert wire[12:29] == SPELLED
    assert got.flags & ~0xF == dns.flags.QR | dns.flags.RA | asked
    assert got.edns == (0 if edns else -1)
    assert ede(got) == ([15] if edns else [])
    if edns:
        assert (got.payload, bool(got.ednsflags & dns.flags.DO)) == (1232, do)


def test_without_a_code_there_is_no_extended_error():
    """
    EDE stands only where a reason was given.
    """
    assert ede(dns.message.from_wire(answer.error(Exchange(query()), 2))) == []


def test_addresses_are_of_their_family_with_the_ttl_given():
    """
    Four octets make an A record, sixteen an AAAA record, owned by the question's name.
    """
    q = query()
    got = dns.message.from_wire(
        answer.addresses(Exchange(q), [bytes(4), b"\x20\1\x0d\xb8" + bytes(12)], 77)
    )
    assert [r.to_text() for r in got.answer] == [
        f"{NAME}. 77 IN A 0.0.0.0",
        f"{NAME}. 77 IN AAAA 2001:db8::",
    ]


@pytest.mark.parametrize("rcode", [0, 3])
def test_negative_answers_can_be_remembered_for_their_ttl(rcode):
    """
    The SOA in the authority section belongs to the name; TTL and minimum agree (RFC 2308).
    """
    got = dns.message.from_wire(answer.negative(Exchange(query()), 45, rcode))
    assert (got.rcode(), got.answer, len(got.authority)) == (rcode, [], 1)
    soa = got.authority[0]
    assert (soa.name, soa.ttl) == (dns.name.from_text(NAME), 45)
    assert soa[0].minimum == 45
    assert (str(soa[0].mname), str(soa[0].rname)) == ("localhost.", "nobody.invalid.")


def test_the_root_can_be_answered_too():
    """
    A pointer to the root's one octet is a name like any other.
    """
    q = parse_query(dns.message.make_query(".", "NS").to_wire())
    got = dns.message.from_wire(answer.negative(Exchange(q), 5))
    assert got.authority[0].name == dns.name.root


def test_soa_queries_find_it_in_the_answer():
    """
    The record that negative answers carry is what a SOA query gets.
    """
    got = dns.message.from_wire(answer.soa(Exchange(query("SOA")), 9))
    negative = dns.message.from_wire(answer.negative(Exchange(query()), 9))
    assert got.answer == negative.authority
    assert got.authority == []


def test_truncated_answers_are_empty_and_say_so():
    """
    TC, the question and our OPT record, and the rcode that the whole answer had.
    """
    got = dns.message.from_wire(answer.truncated(Exchange(query()), 3))
    assert got.flags & dns.flags.TC
    assert (got.rcode(), got.answer, got.authority, got.edns) == (3, [], [], 0)


@pytest.mark.parametrize(
    ("wire", "rcode", "question"),
    [
        (b"\0\7\1\x10\0\1\0\0\0\0\0\0\4mail\0\0\1\0\1", 1, True),
        (b"\0\7\1\x10\0\1\0\0\0\0\0\0\4mai", 1, False),
        (b"\0\7\1\x10\0\1\0\0\0\0\0\0\4mail\0\0\1", 1, False),
        (b"\0\7\1\x10\0\2\0\0\0\0\0\0\4mail\0\0\1\0\1\1a\0\0\1\0\1", 1, False),
        (b"\0\7\x11\x10\0\1\0\0\0\0\0\0\4mail\0\0\1\0\1", 4, False),
        (b"\0\7\1\x10\0\1\0\0\0\0\0\1\4mail\0\0\1\0\1\0\0\x29\4\xd0\0\1\0\0\0\0", 16, True),
    ],
)
def test_broken_queries_are_answered_with_what_could_be_read(wire, rcode, question):
    """
    ID, opcode, RD and CD come back, the question if it could be read, OPT only for BADVERS.
    """
    raw = answer.error_raw(wire, rcode)
    got = dns.message.from_wire(raw)
    assert (got.id, got.rcode(), got.opcode()) == (7, rcode, wire[2] >> 3 & 15)
    assert got.flags & dns.flags.QR
    assert raw[2] & 1
    assert raw[3] & 0x10
    assert bool(got.question) is question
    assert got.edns == (0 if rcode == 16 else -1)


@given(st.binary(min_size=12, max_size=400))
def test_error_answers_can_be_made_for_any_message(data):
    """
    Whatever the parser refused with an rcode can be answered, in no more octets plus one OPT.
    """
    assert len(answer.error_raw(data, 1)) <= len(data)
    assert len(answer.error_raw(data, 16)) <= len(data) + 11
