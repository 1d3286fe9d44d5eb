"""Upstream replies: what is read of them, and that each client's answer is its own."""

import itertools
import struct
import time

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from urlguard.errors import WireError
from urlguard.plugins import Exchange
from urlguard.wire import reply as replies
from urlguard.wire.query import Query, parse_query
from urlguard.wire.reply import Reply, failure, nodata, read_reply, render

NAME = "wWw.ExAmple.ORG"
LOWER = NAME.lower() + "."
SPELLED = b"\3wWw\7ExAmple\3ORG\0"
SOA = "example.org. {} IN SOA ns.example.org. root.example.org. 1 2 3 4 {}"

ADDRESS = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\7"  # of the name asked, 60 s


def query(
    qtype: str = "A", *, edns: bool = True, do: bool = False, flags: int = 0, name: str = NAME
) -> Query:
    """A parsed query with the given traits."""
    made = dns.message.make_query(name, qtype, use_edns=0 if edns else False)
    made.flags = flags
    if edns:
        made.use_edns(0, dns.flags.DO if do else 0, 1400)
    return parse_query(made.to_wire())


def rrset(text: str) -> dns.rrset.RRset:
    """One record from a line."""
    name, ttl, cls, rtype, data = text.split(" ", 4)
    return dns.rrset.from_text(name, int(ttl), cls, rtype, data)


def message(
    q: Query,
    *answer: str,
    authority: tuple[str, ...] = (),
    additional: tuple[str, ...] = (),
    rcode: int = 0,
    flags: int = 0,
    **edns: object,
) -> bytes:
    """An upstream's reply to `q` that spells the name in its own way."""
    made = dns.message.Message(0xBEEF)
    made.flags = dns.flags.QR | dns.flags.RA | flags
    made.question = [dns.rrset.RRset(dns.name.from_text(q.name), 1, q.qtype)]
    made.use_edns(**edns) if edns else made.use_edns(False)
    made.set_rcode(rcode)
    made.answer = [rrset(text) for text in answer]
    made.authority = [rrset(text) for text in authority]
    made.additional = [rrset(text) for text in additional]
    return made.to_wire(max_size=65535)


def read(q: Query, *answer: str, **keys: object) -> Reply:
    """The same, read."""
    return read_reply(message(q, *answer, **keys), q.question_end, q.qtype)  # type: ignore[arg-type]


def handmade(q: Query, *sections: tuple[bytes, ...]) -> bytes:
    """A message of whole records as octets: answer, authority, additional."""
    counts = [len(s) for s in sections] + [0] * (3 - len(sections))
    head = b"\xbe\xef\x81\x80\0\1" + b"".join(n.to_bytes(2, "big") for n in counts)
    return head + q.question + b"".join(itertools.chain(*sections))


def ttls(wire: bytes) -> list[int]:
    """The TTLs of all records but OPT."""
    got = dns.message.from_wire(wire)
    return [r.ttl for section in (got.answer, got.authority, got.additional) for r in section]


# ---- the client's own answer


def test_a_reply_becomes_ours():
    """
    ID, spelling and flags are the client's, AA is gone, the records are as they were.
    """
    q = query(flags=dns.flags.RD | dns.flags.CD)
    wire = message(
        q,
        f"{LOWER} 60 IN CNAME a.{LOWER}",
        f"a.{LOWER} 60 IN A 192.0.2.7",
        flags=dns.flags.AA | dns.flags.AD,
        edns=0,
        payload=4096,
    )
    ours = render(read_reply(wire, q.question_end, q.qtype), Exchange(q))
    got = dns.message.from_wire(ours)
    assert got.id == q.id
    assert ours[12:29] == SPELLED
    assert got.flags == dns.flags.QR | dns.flags.RA | dns.flags.RD | dns.flags.CD
    assert got.answer == dns.message.from_wire(wire).answer
    assert (got.edns, got.payload) == (0, 1232)


def test_one_reply_serves_clients_of_every_kind():
    """
    Each gets its ID, spelling, OPT record and DO; the records lie in the reply once.
    """
    first = query()
    reply = read(first, f"{LOWER} 60 IN CNAME a.{LOWER}", f"a.{LOWER} 60 IN A 192.0.2.7", edns=0)
    for name, edns, do in itertools.product([NAME, LOWER, NAME.upper()], [0, 1], [0, 1]):
        q = query(name=name, edns=bool(edns), do=bool(do), flags=dns.flags.RD)
        ours = render(reply, Exchange(q))
        got = dns.message.from_wire(ours)
        assert got.id == q.id
        assert ours[12 : q.question_end] == q.question
        assert got.edns == (0 if edns else -1)
        assert bool(got.ednsflags & dns.flags.DO) is bool(edns and do)
        assert [r.to_text() for r in got.answer] == [
            f"{name.rstrip('.')}. 60 IN CNAME a.{name.rstrip('.')}.",
            f"a.{name.rstrip('.')}. 60 IN A 192.0.2.7",
        ]


@pytest.mark.parametrize("theirs", [False, True])
@pytest.mark.parametrize("edns", [False, True])
def test_opt_is_there_exactly_if_the_client_sent_one(theirs, edns):
    """
    Whether the upstream sent an OPT record decides nothing.
    """
    q = query(edns=edns, do=edns)
    reply = read(q, f"{LOWER} 60 IN A 192.0.2.7", **({"edns": 0} if theirs else {}))
    got = dns.message.from_wire(render(reply, Exchange(q)))
    assert got.edns == (0 if edns else -1)
    assert bool(got.ednsflags & dns.flags.DO) is edns
    assert len(got.answer) == 1


@pytest.mark.parametrize("upstream", [False, True])
@pytest.mark.parametrize(
    ("edns", "do", "ad", "understands"),
    [
        (False, False, False, False),
        (False, False, True, True),
        (True, False, False, False),
        (True, True, False, True),
        (True, False, True, True),
    ],
)
def test_ad_goes_to_those_who_show_that_they_know_it(upstream, edns, do, ad, understands):
    """
    AD is set if the upstream vouches and the client sent AD or DO (RFC 6840 5.7, 5.8).
    """
    q = query(edns=edns, do=do, flags=dns.flags.AD if ad else 0)
    reply = read(q, f"{LOWER} 60 IN A 192.0.2.7", flags=dns.flags.AD if upstream else 0)
    assert bool(dns.message.from_wire(render(reply, Exchange(q))).flags & dns.flags.AD) is (
        upstream and understands
    )


def test_extended_errors_are_kept_and_other_options_are_not():
    """
    Why an upstream failed concerns the client; its cookie or subnet does not.
    """
    q = query()
    options = [
        dns.edns.CookieOption(b"12345678", b""),
        dns.edns.EDEOption(9, "no DNSKEY"),
        dns.edns.ECSOption("192.0.2.0"),
        dns.edns.EDEOption(22),
    ]
    reply = read(q, rcode=2, edns=0, options=options)
    got = dns.message.from_wire(render(reply, Exchange(q)))
    assert [(o.code, o.text) for o in got.options] == [(9, "no DNSKEY"), (22, None)]
    assert got.rcode() == 2
    added = dns.message.from_wire(render(reply, Exchange(q), ede=3))
    assert [o.code for o in added.options] == [9, 22, 3]
    bare = query(edns=False)
    assert dns.message.from_wire(render(reply, Exchange(bare), ede=3)).options == ()


def test_an_upstreams_words_are_bounded():
    """
    EDE texts of any length do not make every answer as long.
    """
    options = [dns.edns.EDEOption(9, "x" * 200) for _ in range(20)]
    reply = read(query(), rcode=2, edns=0, options=options)
    assert len(reply.ede) <= replies.MAX_EDE
    got = dns.message.from_wire(render(reply, Exchange(query())))
    assert 1 <= len(got.options) <= 3


def test_options_that_the_client_is_owed_stand_beside_the_upstreams():
    """
    A cookie goes into the same OPT record as the extended error.
    """
    q = query()
    x = Exchange(q)
    cookie = dns.edns.CookieOption(b"12345678", b"abcdefgh").to_wire()
    x.reply_options = b"\0\x0a\0\x10" + cookie
    got = dns.message.from_wire(render(read(q, rcode=2, edns=0), x, ede=22))
    assert [int(o.otype) for o in got.options] == [15, 10]


def test_an_extended_rcode_is_servfail_to_the_client():
    """
    BADVERS or BADCOOKIE is about our own hop, and a client could not act on it.
    """
    with pytest.raises(WireError) as caught:
        read(query(), rcode=23, edns=0)
    assert caught.value.rcode == 2


def test_records_after_opt_are_dropped():
    """
    An OPT record that does not stand last takes the additional records after it along.
    """
    q = query()
    opt = b"\0\0\x29\4\xd0\0\0\0\0\0\0"
    wire = handmade(q, (ADDRESS,), (), (ADDRESS, opt, ADDRESS))
    got = dns.message.from_wire(render(read_reply(wire, q.question_end, q.qtype), Exchange(q)))
    assert (len(got.answer), len(got.additional), got.edns) == (1, 1, 0)


# ---- TTLs


def test_ttls_count_down_together_and_end_at_zero():
    """
    Each record loses the seconds that have passed, in all sections; none goes below zero.
    """
    q = query()
    reply = read(
        q,
        f"{LOWER} 60 IN A 192.0.2.7",
        authority=("example.org. 300 IN NS ns.example.org.",),
        additional=("ns.example.org. 20 IN A 192.0.2.53",),
    )
    assert reply.ttl == 20
    for age, expected in [(0, [60, 300, 20]), (7, [53, 293, 13]), (7, [53, 293, 13])]:
        assert ttls(render(reply, Exchange(q), age)) == expected
    assert ttls(render(reply, Exchange(q), 100)) == [0, 200, 0]
    assert ttls(render(reply, Exchange(q))) == [60, 300, 20]


def test_all_ttls_can_be_set():
    """
    Records that are given after their time have one short TTL (RFC 8767 4).
    """
    q = query()
    reply = read(q, f"{LOWER} 600 IN A 192.0.2.7", f"{LOWER} 0 IN AAAA 2001:db8::7")
    assert ttls(render(reply, Exchange(q), 50, flat_ttl=30)) == [30, 30]
    assert ttls(render(reply, Exchange(q))) == [600, 0]


def test_long_ttls_are_lowered_for_good():
    """
    What exceeds the most is the most, for us and for clients; the rest stays.
    """
    q = query()
    reply = read(q, f"{LOWER} 600 IN A 192.0.2.7", f"{LOWER} 50 IN AAAA 2001:db8::7")
    reply.cap(100)
    assert reply.ttl == 50
    assert ttls(render(reply, Exchange(q))) == [100, 50]
    assert ttls(render(reply, Exchange(q), 10)) == [90, 40]
    reply.cap(20)
    assert reply.ttl == 20
    assert ttls(render(reply, Exchange(q))) == [20, 20]


def test_a_ttl_with_the_highest_bit_set_is_zero():
    """
    To us and to clients (RFC 2181 8): neither counts it as 68 years.
    """
    q = query()
    odd = ADDRESS[:6] + b"\x80\0\0\1" + ADDRESS[10:-1] + b"\x08"
    reply = read_reply(handmade(q, (ADDRESS, odd)), q.question_end, q.qtype)
    assert reply.ttl == 0
    for age in (0, 5):
        raw = render(reply, Exchange(q), age)
        assert raw[q.question_end + 16 + 6 :].startswith(bytes(4))
    reply.cap(30)
    assert [reply.body[at + 3] for at in reply.ttls] == [30, 0]


@pytest.mark.parametrize(
    ("soa_ttl", "minimum", "expected"), [(900, 300, 300), (60, 300, 60), (900, 0, 0)]
)
@pytest.mark.parametrize("rcode", [0, 3])
def test_negative_answers_hold_as_long_as_the_soa_says(soa_ttl, minimum, expected, rcode):
    """
    The lesser of the SOA's TTL and minimum, which clients see as the SOA's TTL (RFC 2308 5).
    """
    q = query()
    reply = read(q, rcode=rcode, authority=(SOA.format(soa_ttl, minimum),))
    assert (reply.negative, reply.ttl, reply.rcode) == (True, expected, rcode)
    got = dns.message.from_wire(render(reply, Exchange(q)))
    assert got.authority[0].ttl == expected
    assert got.authority[0][0].minimum == minimum
    assert ttls(render(reply, Exchange(q), 10)) == [max(0, expected - 10)]


def test_a_cname_to_nothing_is_negative_and_holds_as_its_shortest_record():
    """
    The alias's own TTL counts as well as the SOA record's.
    """
    q = query()
    alias = f"{LOWER} 40 IN CNAME gone.example.org."
    for rcode in (0, 3):
        reply = read(q, alias, rcode=rcode, authority=(SOA.format(900, 300),))
        assert (reply.negative, reply.ttl) == (True, 40)
    reply = read(query("CNAME"), alias)
    assert (reply.negative, reply.ttl) == (False, 40)
    assert not read(query("ANY"), alias).negative


@pytest.mark.parametrize("authority", [(), ("example.org. 300 IN NS ns.example.org.",)])
@pytest.mark.parametrize("rcode", [0, 3])
def test_without_a_soa_nobody_said_for_how_long_there_is_nothing(authority, rcode):
    """
    Such an answer holds for no time at all (RFC 2308 5).
    """
    reply = read(query(), rcode=rcode, authority=authority)
    assert (reply.negative, reply.ttl) == (True, 0)


# ---- where it leads


def chain(*names: str) -> list[str]:
    """A chain of aliases from the name asked."""
    return [f"{a} 60 IN CNAME {b}" for a, b in itertools.pairwise((LOWER, *names))]


@pytest.mark.parametrize(
    ("qtype", "answer", "targets"),
    [
        ("A", [f"{LOWER} 60 IN A 192.0.2.7"], set()),
        (
            "A",
            [
                *chain("a.example.", "b.test.", "C.Evil.example."),
                "C.Evil.example. 9 IN A 192.0.2.7",
            ],
            {"a.example", "b.test", "c.evil.example"},
        ),
        ("A", ["elsewhere.example. 60 IN A 192.0.2.7"], {"elsewhere.example"}),
        ("AAAA", ["elsewhere.example. 60 IN AAAA 2001:db8::1"], {"elsewhere.example"}),
        (
            "A",
            [
                "example.org. 60 IN DNAME evil.example.",
                f"{LOWER} 60 IN CNAME www.evil.example.",
            ],
            {"evil.example", "www.evil.example"},
        ),
        ("HTTPS", [f"{LOWER} 60 IN HTTPS 1 svc.example. alpn=h2"], {"svc.example"}),
        ("HTTPS", [f"{LOWER} 60 IN HTTPS 0 alias.example."], {"alias.example"}),  # AliasMode
        ("SVCB", [f"{LOWER} 60 IN SVCB 16 foo.example. port=443"], {"foo.example"}),
        ("HTTPS", [f"{LOWER} 60 IN HTTPS 1 . alpn=h2"], set()),  # "." is the owner itself
        ("ANY", chain("any.example."), {"any.example"}),
        ("TXT", [f'{LOWER} 60 IN TXT "evil.example"'], set()),
        ("MX", [f"{LOWER} 60 IN MX 10 mail.example."], set()),
    ],
)
def test_names_that_an_answer_leads_to_are_noted(qtype, answer, targets):
    """
    Targets of CNAME, DNAME, SVCB and HTTPS, and who else's addresses are given.
    """
    reply = read(query(qtype), *answer)
    assert set(reply.targets) - {NAME.lower()} == targets
    assert reply.additional_owners == ()


def test_targets_are_found_behind_compression_pointers():
    """
    Octets that only point at labels elsewhere are read as the name they stand for.
    """
    q = query()
    end = q.question_end
    first = b"\xc0\x0c\0\5\0\1\0\0\0\x3c\0\x07\4evil\xc0\x10"  # evil.example.org, by pointer
    second = b"\xc0" + bytes([end + 12]) + b"\0\5\0\1\0\0\0\x3c\0\x04\1x\xc0" + bytes([end + 12])
    svcb = b"\xc0\x0c\0\x41\0\1\0\0\0\x3c\0\4\0\0\xc0" + bytes([end + 12])
    reply = read_reply(handmade(q, (first, second, svcb)), q.question_end, q.qtype)
    assert reply.targets == ("evil.example.org", "x.evil.example.org")


def test_pointers_into_the_header_are_refused():
    """
    The header differs from client to client, and so would the name that was judged.
    """
    q = query()
    record = b"\xc0\x0c\0\5\0\1\0\0\0\x3c\0\2\xc0\5"
    with pytest.raises(WireError):
        read_reply(handmade(q, (record,)), q.question_end, q.qtype)


def test_addresses_are_noted_wherever_they_stand():
    """
    Of records in all sections, and of SVCB hints.
    """
    reply = read(
        query("HTTPS"),
        f"{LOWER} 60 IN HTTPS 1 . alpn=h2 ipv4hint=10.0.0.1,10.0.0.2 ipv6hint=2001:db8::1",
        additional=("x.example. 60 IN A 10.0.0.3", "x.example. 60 IN AAAA 2001:db8::2"),
    )
    assert set(reply.addresses) == {
        b"\x0a\0\0\1",
        b"\x0a\0\0\2",
        b"\x0a\0\0\3",
        b"\x20\1\x0d\xb8" + bytes(11) + b"\1",
        b"\x20\1\x0d\xb8" + bytes(11) + b"\2",
    }


def test_who_is_only_mentioned_stands_beside():
    """
    Owners and targets in the additional section are noted apart, and can be left out.
    """
    q = query("HTTPS")
    reply = read(
        q,
        f"{LOWER} 60 IN HTTPS 1 svc.example.",
        authority=("example.org. 50 IN NS ns.example.org.",),
        additional=("svc.example. 5 IN A 192.0.2.7", "svc.example. 5 IN HTTPS 1 deep.example."),
        flags=dns.flags.AD,
        edns=0,
        options=[dns.edns.EDEOption(9)],
    )
    assert reply.targets == ("svc.example",)
    assert set(reply.additional_owners) == {"svc.example", "deep.example"}
    bare = reply.without_additional()
    assert (bare.targets, bare.additional_owners, bare.ad) == (("svc.example",), (), True)
    got = dns.message.from_wire(render(bare, Exchange(q), 10))
    assert (len(got.answer), len(got.authority), len(got.additional)) == (1, 1, 0)
    assert ttls(render(bare, Exchange(q), 10)) == [50, 40]
    assert [o.code for o in got.options] == [9]


# ---- refused


@pytest.mark.parametrize("cut", [1, 5, 11, 20, 24])
def test_a_reply_cut_short_is_an_error(cut):
    """
    A record that ends after the message is never passed on, and means SERVFAIL.
    """
    q = query()
    wire = message(q, f"{LOWER} 60 IN A 192.0.2.7", edns=0)
    with pytest.raises(WireError) as caught:
        read_reply(wire[:-cut], q.question_end, q.qtype)
    assert caught.value.rcode == 2


def test_a_reply_to_another_question_is_an_error():
    """
    A question of another length would shift every pointer.
    """
    with pytest.raises(WireError):
        read_reply(message(query()), query(name="a.much.longer.example").question_end, 1)


@pytest.mark.parametrize(
    "record",
    [
        b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\3\xc0\0\2",  # A of 3 octets
        b"\xc0\x0c\0\x1c\0\1\0\0\0\x3c\0\4\xc0\0\2\1",  # AAAA of 4
        b"\xc0\x0c\0\x41\0\1\0\0\0\x3c\0\2\0\1",  # HTTPS without a target
        b"\xc0\x0c\0\x41\0\1\0\0\0\x3c\0\5\0\1\0\0\1",  # half a parameter
        b"\xc0\x0c\0\x41\0\1\0\0\0\x3c\0\7\0\1\0\0\4\0\4",  # a hint that ends after the record
        b"\xc0\x0c\0\x41\0\1\0\0\0\x3c\0\x0a\0\1\0\0\4\0\3abc",  # a hint of 3 octets
        b"\xc0\x0c\0\5\0\1\0\0\0\x3c\0\2\xc0\x7f",  # CNAME to what comes later
        b"\xc0\x0c\0\5\0\1\0\0\0\x3c\0\4\1a\0\0",  # a record that ends elsewhere
        b"\0\0\x29\4\xd0\0\0\0\0\0\0",  # OPT among answers
    ],
)
def test_broken_records_are_refused_and_not_passed_on(record):
    """
    Nobody should have to find out what a client makes of them.
    """
    q = query()
    with pytest.raises(WireError) as caught:
        read_reply(handmade(q, (record,)), q.question_end, q.qtype)
    assert caught.value.rcode == 2


def test_a_short_soa_is_refused():
    """
    Its minimum would be read from elsewhere.
    """
    q = query()
    soa = b"\xc0\x0c\0\6\0\1\0\0\0\x3c\0\4\0\0\0\1"
    with pytest.raises(WireError, match="SOA"):
        read_reply(handmade(q, (), (soa,)), q.question_end, q.qtype)


def test_what_leads_to_too_many_names_is_refused():
    """
    Each would have to be judged.
    """
    q = query()
    records = tuple(b"\xc0\x0c\0\5\0\1\0\0\0\x3c\0\6\4" + b"%04d" % i + b"\0" for i in range(300))
    records = tuple(r[:11] + b"\6" + r[12:] for r in records)
    read_reply(handmade(q, records[: replies.MAX_NAMES]), q.question_end, q.qtype)
    with pytest.raises(WireError, match="names"):
        read_reply(handmade(q, records), q.question_end, q.qtype)


def test_the_largest_reply_is_read_in_a_moment():
    """
    As many of the smallest records as are read, each with a name to follow, cost a blink at most.
    """
    q = query()
    record = b"\xc0\x0c\0\5\0\1\0\0\0\x3c\0\2\xc0\x0c"
    wire = handmade(q, (record,) * 4000)
    began = time.process_time()
    read_reply(wire, q.question_end, q.qtype)
    assert time.process_time() - began < 0.2
    with pytest.raises(WireError, match="too many"):
        read_reply(handmade(q, (record,) * 4600), q.question_end, q.qtype)


# ---- replies of our own


def test_replies_of_our_own_are_rendered_like_others():
    """
    A failure has no records; NODATA has a SOA record to be remembered by.
    """
    got = dns.message.from_wire(render(failure(2, 22), Exchange(query())))
    assert (got.rcode(), [o.code for o in got.options]) == (2, [22])
    assert got.answer + got.authority == []
    assert dns.message.from_wire(render(failure(2), Exchange(query()))).options == ()
    made = nodata(30, 15)
    got = dns.message.from_wire(render(made, Exchange(query()), 10))
    assert (got.rcode(), got.answer, got.authority[0].ttl) == (0, [], 20)
    assert got.authority[0].name == dns.name.from_text(NAME)
    assert (made.ttl, made.negative) == (30, True)


# ---- anything


def usable(wire: bytes, q: Query) -> None:
    """Fails if a client could not walk through an answer of ours."""
    assert wire[:2] == q.data[:2]
    assert wire[12 : q.question_end] == q.question
    again = read_reply(wire, q.question_end, q.qtype)
    assert again.rcode == wire[3] & 15


@given(st.data())
def test_any_reply_becomes_an_answer_or_raises_wire_error(data):
    """
    No octets after the question raise anything but WireError, and what is rendered reads again.
    """
    q = query(edns=data.draw(st.booleans()))
    counts = bytes(itertools.chain.from_iterable((0, data.draw(st.integers(0, 2))) for _ in "123"))
    wire = q.data[:2] + b"\x81\x80\0\1" + counts + q.question + data.draw(st.binary(max_size=80))
    try:
        reply = read_reply(wire, q.question_end, q.qtype)
    except WireError:
        return
    usable(render(reply, Exchange(q)), q)
    usable(render(reply, Exchange(q), 10), q)
    usable(render(reply.without_additional(), Exchange(q)), q)
    reply.cap(5)
    usable(render(reply, Exchange(q), flat_ttl=30, ede=3), q)


RDATA = {
    1: st.binary(min_size=4, max_size=4),
    28: st.binary(min_size=16, max_size=16),
    5: st.just(b"\1a\xc0\x0c"),
    39: st.just(b"\xc0\x10"),
    6: st.binary(min_size=20, max_size=20).map(lambda octets: b"\xc0\x0c\0" + octets),
    65: st.sampled_from([b"\0\1\0", b"\0\0\1b\xc0\x0c", b"\0\1\0\0\4\0\4abcd", b"\0\1\0\0\1\0\1"]),
    41: st.sampled_from([b"", b"\0\x0f\0\2\0\5", b"\0\x0f\0\1x", b"\0\x0a\0"]),
    16: st.binary(max_size=20),
}
RECORD = (
    st.sampled_from(sorted(RDATA))
    .flatmap(
        lambda rtype: st.tuples(
            st.sampled_from([b"\0", b"\xc0\x0c", b"\3foo\xc0\x10", b"\3FOO\0", b"\xc0\x05"]),
            st.just(rtype),
            st.integers(0, 0xFFFFFFFF),
            RDATA[rtype],
        )
    )
    .map(
        lambda r: (
            r[0]
            + r[1].to_bytes(2, "big")
            + b"\0\1"
            + r[2].to_bytes(4, "big")
            + len(r[3]).to_bytes(2, "big")
            + r[3]
        )
    )
)


@given(st.lists(RECORD, max_size=4), st.lists(RECORD, max_size=3), st.lists(RECORD, max_size=3))
def test_any_records_are_rendered_as_they_were_or_refused(answer, authority, additional):
    """
    Records that nearly make sense: what is passed on has the same counts, and reads the same.
    """
    q = query()
    wire = handmade(q, tuple(answer), tuple(authority), tuple(additional))
    try:
        reply = read_reply(wire, q.question_end, q.qtype)
    except WireError:
        return
    assert reply.counts[:2] == (len(answer), len(authority))
    ours = render(reply, Exchange(q))
    usable(ours, q)
    again = read_reply(ours, q.question_end, q.qtype)
    for same in (
        "rcode",
        "counts",
        "ttl",
        "negative",
        "targets",
        "additional_owners",
        "addresses",
        "cut",
    ):
        assert getattr(again, same) == getattr(reply, same)


@pytest.mark.parametrize("qtype", [1, 28])
@given(data=st.data())
def test_the_short_way_reads_what_the_long_way_does(qtype, data):
    """
    Replies of addresses alone are read straight from their places, to the same result as others.
    """
    q = parse_query(dns.message.make_query("www.example", qtype).to_wire())
    width = 4 if qtype == 1 else 16
    ttls = data.draw(st.lists(st.integers(0, 0xFFFFFFFF), min_size=1, max_size=5))
    owner = data.draw(st.sampled_from([b"\xc0\x0c", b"\xc0\x0c", b"\xc0\x10"]))
    records = b"".join(
        owner + struct.pack("!HHIH", qtype, 1, ttl, width) + bytes([i]) * width
        for i, ttl in enumerate(ttls)
    )
    opt = data.draw(
        st.sampled_from([b"", b"\0\0\x29\4\xd0\0\0\0\0\0\0", b"\0\0\x29\4\xd0\1\0\0\0\0\0"])
    )
    head = q.data[:2] + b"\x81\xa0\0\1" + struct.pack("!HHH", len(ttls), 0, bool(opt))
    wire = head + q.question + records + opt + data.draw(st.sampled_from([b"", b"x"]))

    def read():
        try:
            found = replies.read_reply(wire, q.question_end, qtype)
        except WireError as exc:
            return str(exc)
        names = ("rcode", "body", "counts", "ttls", "ttl", "ad", "negative", "cut", "ede")
        return [getattr(found, n) for n in (*names, "targets", "additional_owners", "addresses")]

    short = read()
    before = replies._addresses
    replies._addresses = lambda *_: None
    try:
        assert read() == short
    finally:
        replies._addresses = before


def test_odd_times_cost_no_more_than_others():
    """
    Records whose TTL has its highest bit set are mended in one go, not each with a copy.
    """
    q = query()
    record = b"\xc0\x0c\0\1\0\1\xff\xff\xff\xff\0\4\xc0\0\2\7"
    began = time.process_time()
    found = read_reply(handmade(q, (record,) * 4000), q.question_end, q.qtype)
    assert time.process_time() - began < 0.1
    assert found.ttl == 0
    assert found.body.count(b"\xff\xff\xff\xff") == 0
