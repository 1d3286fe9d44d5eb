"""The frontend: whom a query is from, which answers are stored, and how they are accounted for."""

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
from urlguard.worker import packet_cache as module
from urlguard.worker.frontend import Frontend

WHOLE = Config(
    acl=config.Acl(allow=networks("127.0.0.0/8", "198.51.100.0/24")),
    server=config.Server(
        proxy_from=networks("127.0.0.3/32"), ecs_from=networks("127.0.0.4/32", "127.0.0.3/32")
    ),
    segment=(Segment(name="school", networks=networks("198.51.100.0/24")),),
)


@pytest.fixture
async def frontend():
    """Make a frontend that nothing stands behind."""

    def make_edge(**keys):
        loop = asyncio.get_running_loop()
        return Frontend(Chain([], loop), Clients(WHOLE), loop, **keys)

    return make_edge


def asked(frontend, message, host="127.0.0.1"):
    """A query as the listener has it before the chain."""
    x = Exchange(parse_query(message.to_wire()), frontend.clients.find(host), (host, 5353))
    if x.query.options:
        frontend.read_options(x)
    return x


def given(x, ruling=None, source="guard"):
    """An answer to be stored or accounted for."""
    return Answer(answer.error(x, 0), source, ruling)


# ---- who asks


async def test_a_front_ends_header_is_taken_off(frontend):
    """
    The client is the one in the table; LOCAL is the front end without its being one.
    """
    one = frontend()
    front = one.clients.find("127.0.0.3")
    data, who = one.unwrap(proxied("198.51.100.7") + b"query", front)
    assert (data, who) == (b"query", one.clients.known["198.51.100.7"])
    assert who.segment.name == "school"
    data, who = one.unwrap(proxied("198.51.100.7", command=0) + b"query", front)
    assert (data, who.host, who.front, who.allowed) == (b"query", "127.0.0.3", None, True)
    with pytest.raises(WireError) as caught:
        one.unwrap(b"query", front)
    assert caught.value.rcode is None


async def test_a_subnet_in_the_place_of_a_client(frontend):
    """
    Only a front end's is believed; a subnet of 0 bits names nobody.
    """
    one = frontend()
    subnet = make("example.org", options=[dns.edns.ECSOption("198.51.100.0", 24)])
    assert asked(one, subnet, "127.0.0.4").client.segment.name == "school"
    assert asked(one, subnet, "127.0.0.1").client.host == "127.0.0.1"
    assert asked(one, subnet, "127.0.0.3").client.host == "127.0.0.3"  # its kind is the header
    nobody = make("example.org", options=[dns.edns.ECSOption("0.0.0.0", 0)])
    assert asked(one, nobody, "127.0.0.4").client.host == "127.0.0.4"


async def test_cookies_prove_an_address(frontend):
    """
    By the clock given; a second cookie option in one query is not answered.
    """
    now = [1_700_000_000.0]
    one = frontend(cookies=Cookies(bytes(16)), clock=lambda: now[0])
    cookie = dns.edns.CookieOption(b"12345678", b"")
    x = asked(one, make(options=[cookie, cookie]))
    assert (x.proven, len(x.reply_options)) == (False, 4 + 24)
    ours = dns.edns.GenericOption(10, x.reply_options[4:])
    assert asked(one, make(options=[ours])).proven
    assert not asked(one, make(options=[ours]), "127.0.0.2").proven
    now[0] += 7200
    assert not asked(one, make(options=[ours])).proven


# ---- what is stored


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
async def test_only_plain_datagrams_of_allowed_clients_are_stored(frontend, host, message, kept):
    """
    Under all octets after the ID, in the table of the client's segment.
    """
    one = frontend()
    x = asked(one, message, host)
    one.packets.store(x, given(x, BLOCK), answer.error(x, 0))
    assert len(one.packets) == int(kept)
    one.clients.find(host).grant.left = 1
    found = one.packets.lookup(b"id" + x.query.data[2:], host)
    assert found == (answer.error(x, 0)[2:] if kept else None)


async def test_with_a_tap_nothing_is_stored(frontend):
    """
    Each query is to be seen by the collector.
    """
    one = frontend(tap=object())
    x = asked(one, make("evil.example"))
    one.packets.store(x, given(x, BLOCK), answer.error(x, 0))
    assert len(one.packets) == 0


async def test_another_chain_begins_with_an_empty_packet_cache(frontend):
    """
    Neither those of before, nor any that a client of before could still bring in.
    """
    one = frontend()
    x = asked(one, make("evil.example"))
    one.packets.store(x, given(x, BLOCK), answer.error(x, 0))
    before = one.clients.known["127.0.0.1"]
    assert one.packets.lookup(x.query.data, "127.0.0.1")
    one.replace(one.chain, Clients(WHOLE))
    assert (len(one.packets), before.grant.answers) == (0, {})
    one.clients.find("127.0.0.1")
    assert one.packets.lookup(x.query.data, "127.0.0.1") is None
    one.packets.store(asked(one, make("evil.example")), given(x, BLOCK), answer.error(x, 0))
    assert (len(one.packets), before.grant.answers) == (1, {})


# ---- accounting


async def test_hits_are_block_and_review(frontend):
    """
    An operator's allow is nobody's business, nor is a name without a rule.
    """
    one = frontend(hits=(hits := Hits()))
    allow = Ruling("allow", "", ("operator",), 1, "domain", "good.example")
    for ruling in (BLOCK, REVIEW, allow, None):
        x = asked(one, make("Some.example", "AAAA"), "198.51.100.7")
        one.packets.account(x, given(x, ruling))
    assert hits.noted == [
        ("198.51.100.7", "some.example", 28, r.action, r.category, rule, r.sources, "school")
        for r, rule in [(BLOCK, "subtree evil.example"), (REVIEW, "subtree grey.example")]
    ]


async def test_kinds_of_answers_are_bounded(frontend, monkeypatch):
    """
    Categories come from feeds, in any number: beyond the limit they are counted together.
    """
    monkeypatch.setattr(module, "MAX_KINDS", 10)
    one = frontend()
    for number in range(100):
        x = asked(one, make())
        one.packets.account(x, given(x, BLOCK._replace(category=f"c{number}")))
    assert len(one.packets._kinds) <= 11
    assert sum(stat.count for stat in one.packets._kinds.values()) == 100


# ---- rules in shadow


async def test_shadows_are_counted_each_time(frontend):
    """
    By source, beside what decides, in the hit log too; an answer with one is never stored.
    """
    hits = Hits()
    one = frontend(hits=hits)
    shadow = Ruling("shadow", "fraud", ("feed:b", "feed:c"), 3, "subtree", "evil.example")
    for shadows in ([shadow], [shadow, shadow._replace(sources=("operator",))], None):
        x = asked(one, make("evil.example"))
        x.shadows = shadows
        found = given(x, BLOCK)
        one.packets.store(x, found, found.octets(x))
        assert len(one.packets) == (not shadows)
        one.packets.account(x, found)
    assert one.packets.shadowed == {"feed:b": 2, "feed:c": 2, "operator": 1}
    logged = [(hit[3], hit[6]) for hit in hits.noted]
    block, both = ("block", ("feed:x",)), ("shadow", ("feed:b", "feed:c"))
    assert logged == [block, both, block, both, ("shadow", ("operator",)), block]
