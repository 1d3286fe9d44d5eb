"""The edge: whom a query is from, what is kept of answers, and the books."""

import asyncio

import dns.edns
import dns.message
import pytest

from tests.worker.frontend import BLOCK, REVIEW, Hits, make, networks, proxied
from urlguard import config
from urlguard.config import Config, Segment
from urlguard.errors import WireError
from urlguard.plugins import Answer, Chain, Exchange
from urlguard.plugins.clients import Clients
from urlguard.verdict import Ruling
from urlguard.wire import answer
from urlguard.wire.cookie import Cookies
from urlguard.wire.query import parse_query
from urlguard.worker import frontend as module
from urlguard.worker.frontend import Edge

WHOLE = Config(
    acl=config.Acl(allow=networks("127.0.0.0/8", "198.51.100.0/24")),
    server=config.Server(
        proxy_from=networks("127.0.0.3/32"), ecs_from=networks("127.0.0.4/32", "127.0.0.3/32")
    ),
    segment=(Segment(name="school", networks=networks("198.51.100.0/24")),),
)


@pytest.fixture
async def edge():
    """Make an edge that nothing stands behind."""

    def make_edge(**keys):
        loop = asyncio.get_running_loop()
        return Edge(Chain([], loop), Clients(WHOLE), loop, **keys)

    return make_edge


def asked(edge, message, host="127.0.0.1"):
    """A query as the listener has it before the chain."""
    x = Exchange(parse_query(message.to_wire()), edge.clients.find(host), (host, 5353))
    if x.query.options:
        edge.read_options(x)
    return x


def given(x, ruling=None, source="guard"):
    """An answer to be kept or booked."""
    return Answer(answer.error(x, 0), source, ruling)


# ---- who asks


async def test_a_front_ends_header_is_taken_off(edge):
    """
    The client is the one in the table; LOCAL is the front end without its being one.
    """
    one = edge()
    front = one.clients.find("127.0.0.3")
    data, who = one.unwrap(proxied("198.51.100.7") + b"query", front)
    assert (data, who) == (b"query", one.clients.known["198.51.100.7"])
    assert who.segment.name == "school"
    data, who = one.unwrap(proxied("198.51.100.7", command=0) + b"query", front)
    assert (data, who.host, who.front, who.allowed) == (b"query", "127.0.0.3", None, True)
    with pytest.raises(WireError) as caught:
        one.unwrap(b"query", front)
    assert caught.value.rcode is None


async def test_a_subnet_in_the_place_of_a_client(edge):
    """
    Only a front end's is believed; a subnet of 0 bits names nobody.
    """
    one = edge()
    subnet = make("example.org", options=[dns.edns.ECSOption("198.51.100.0", 24)])
    assert asked(one, subnet, "127.0.0.4").who.segment.name == "school"
    assert asked(one, subnet, "127.0.0.1").who.host == "127.0.0.1"
    assert asked(one, subnet, "127.0.0.3").who.host == "127.0.0.3"  # its kind is the header
    nobody = make("example.org", options=[dns.edns.ECSOption("0.0.0.0", 0)])
    assert asked(one, nobody, "127.0.0.4").who.host == "127.0.0.4"


async def test_cookies_prove_an_address(edge):
    """
    By the clock given; a second cookie option in one query is not answered.
    """
    now = [1_700_000_000.0]
    one = edge(cookies=Cookies(bytes(16)), clock=lambda: now[0])
    cookie = dns.edns.CookieOption(b"12345678", b"")
    x = asked(one, make(options=[cookie, cookie]))
    assert (x.proven, len(x.reply_options)) == (False, 4 + 24)
    ours = dns.edns.GenericOption(10, x.reply_options[4:])
    assert asked(one, make(options=[ours])).proven
    assert not asked(one, make(options=[ours]), "127.0.0.2").proven
    now[0] += 7200
    assert not asked(one, make(options=[ours])).proven


# ---- what is kept


@pytest.mark.parametrize(
    ("host", "message", "kept"),
    [
        ("127.0.0.1", make("evil.example"), True),
        ("127.0.0.1", make("evil.example", edns=False), True),
        ("198.51.100.7", make("evil.example"), True),
        ("203.0.113.1", make("evil.example"), False),  # not allowed
        ("127.0.0.3", make("evil.example"), False),  # front ends: each query is somebody else's
        ("127.0.0.4", make("evil.example"), False),
        ("127.0.0.1", make("evil.example", options=[dns.edns.GenericOption(12, b"x")]), False),
    ],
)
async def test_only_plain_datagrams_of_allowed_clients_are_kept(edge, host, message, kept):
    """
    Under all octets after the ID, in the table of the client's segment.
    """
    one = edge()
    x = asked(one, message, host)
    one.keep(x, given(x, BLOCK), answer.error(x, 0))
    assert len(one.ready) == int(kept)
    if kept:
        [(key, ready)] = one.clients.known[host].ready.items()
        assert key == x.query.data[2:]
        assert ready.tail == answer.error(x, 0)[2:]


async def test_with_a_tap_nothing_is_kept(edge):
    """
    Each query is to be seen by the collector.
    """
    one = edge(tap=object())
    x = asked(one, make("evil.example"))
    one.keep(x, given(x, BLOCK), answer.error(x, 0))
    assert len(one.ready) == 0


async def test_another_chain_begins_without_ready_answers(edge):
    """
    Neither those of before, nor any that a client of before could still bring in.
    """
    one = edge()
    x = asked(one, make("evil.example"))
    one.keep(x, given(x, BLOCK), answer.error(x, 0))
    before = one.clients.known["127.0.0.1"]
    one.replace(one.chain, Clients(WHOLE))
    assert (len(one.ready), before.ready) == (0, {})
    assert one.clients.find("127.0.0.1").ready is not before.ready


# ---- the books


async def test_hits_are_block_and_review(edge):
    """
    An operator's allow is nobody's business, nor is a name without a rule.
    """
    one = edge(hits=(hits := Hits()))
    allow = Ruling("allow", "", ("operator",), 1, "domain", "good.example")
    for ruling in (BLOCK, REVIEW, allow, None):
        x = asked(one, make("Some.example", "AAAA"), "198.51.100.7")
        one.book(x, given(x, ruling))
    assert hits.noted == [
        ("198.51.100.7", "some.example", 28, r.action, r.category, rule, r.sources, "school")
        for r, rule in [(BLOCK, "subtree evil.example"), (REVIEW, "subtree grey.example")]
    ]


async def test_kinds_of_answers_are_bounded(edge, monkeypatch):
    """
    Categories come from feeds, in any number: beyond the limit they are counted together.
    """
    monkeypatch.setattr(module, "MAX_KINDS", 10)
    one = edge()
    for number in range(100):
        x = asked(one, make())
        one.book(x, given(x, BLOCK._replace(category=f"c{number}")))
    assert len(one._kinds) <= 11
    assert sum(stat.count for stat in one._kinds.values()) == 100


# ---- rules in shadow


async def test_shadows_are_counted_each_time(edge):
    """
    By source, beside what decides, in the hit log too; an answer with one is never ready.
    """
    hits = Hits()
    one = edge(hits=hits)
    shadow = Ruling("shadow", "fraud", ("feed:b", "feed:c"), 3, "subtree", "evil.example")
    for shadows in ([shadow], [shadow, shadow._replace(sources=("operator",))], None):
        x = asked(one, make("evil.example"))
        x.shadows = shadows
        found = given(x, BLOCK)
        one.keep(x, found, found.octets(x))
        assert len(one.ready) == (not shadows)
        one.book(x, found)
    assert one.shadowed == {"feed:b": 2, "feed:c": 2, "operator": 1}
    said = [(hit[3], hit[6]) for hit in hits.noted]
    block, both = ("block", ("feed:x",)), ("shadow", ("feed:b", "feed:c"))
    assert said == [block, both, block, both, ("shadow", ("operator",)), block]
