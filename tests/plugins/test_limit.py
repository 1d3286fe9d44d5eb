"""Limits: clients, networks, carrier NAT, forged addresses, same answers."""

import ipaddress
import os
from pathlib import Path

import dns.flags
import dns.message
import pytest

from urlguard import config
from urlguard.plugins import clients as clients_module
from urlguard.plugins import limit
from urlguard.plugins.base import Answer
from urlguard.plugins.clients import PLENTY, Clients
from urlguard.plugins.limit import Limit, Tally
from urlguard.wire import answer
from urlguard.wire.reply import failure


class Clock:
    """A loop whose time the test sets."""

    now = 1000.0

    def time(self):
        return self.now


def networks(*texts):
    """Networks from text, as the configuration has them."""
    return tuple(ipaddress.ip_network(t) for t in texts)


class Server:
    """A limit plugin with its clients and clock; every query that passes is answered."""

    def __init__(self, query, **keys):
        options = config.Limit(**{"identical_qps": 0, **keys})
        self.clock = Clock()
        self.clients = Clients(config.Config(limit=options))
        self.plugin = Limit(options, self.clock)
        self.query = query
        self.counters = self.plugin.counters

    def ask(self, host="192.0.2.1", name="example.org", *, tcp=False, cookie=False, rcode=0, own=0):
        """What a client gets: ``answer``, ``tc``, ``nothing`` or ``refused``."""
        x = self.query(name, tcp=tcp)
        x.client = self.clients.find(host)
        x.proven = tcp or cookie
        found = self.plugin.on_query(x)
        if found is None:
            if own:
                made = Answer(answer.negative(x, 30, rcode), "guard")
            else:
                made = Answer(None, "forward", reply=failure(rcode))
            found = self.plugin.on_answer(x, made)
            if found is made:
                return "answer"
        assert found.source == "limit"
        assert found.once
        if not found.wire:
            return "nothing"
        got = dns.message.from_wire(found.wire)
        assert got.answer == []
        if got.flags & dns.flags.TC:
            assert got.rcode() == 0
            return "tc"
        assert got.rcode() == 5
        assert [int(o.code) for o in got.options] == [18]
        return "refused"

    def many(self, count, *args, **traits):
        """What so many queries at this moment got, by outcome."""
        outcomes = {}
        for _ in range(count):
            word = self.ask(*args, **traits)
            outcomes[word] = outcomes.get(word, 0) + 1
        return outcomes


@pytest.fixture
def server(query):
    """Make a server with some options."""

    def make(**keys):
        return Server(query, **keys)

    return make


def test_a_client_gets_its_rate_and_its_burst(server):
    """
    The burst at once, the rate from then on, the burst again after a pause; the rest gets TC.
    """
    s = server(client_qps=10, burst_s=2, prefix_qps=0)
    assert s.many(30) == {"answer": 20, "tc": 10}
    for _ in range(5):
        s.clock.now += 1
        assert s.many(30) == {"answer": 10, "tc": 20}
    s.clock.now += 3600
    assert s.many(30) == {"answer": 20, "tc": 10}
    assert s.counters["over_client"] == s.counters["truncated"] == 10 + 100 + 10
    assert s.counters["dropped"] == 0


def test_what_is_over_may_be_dropped(server):
    """
    With ``over = "drop"`` the rest gets nothing at all.
    """
    s = server(client_qps=10, burst_s=1, prefix_qps=0, over="drop")
    assert s.many(30) == {"answer": 10, "nothing": 20}
    assert s.counters["dropped"] == 20


def test_clients_do_not_pay_for_each_other(server):
    """
    One client over its limit leaves the others theirs.
    """
    s = server(client_qps=10, burst_s=1, prefix_qps=0)
    s.many(30)
    assert s.many(10, "192.0.2.2") == {"answer": 10}
    assert s.many(10, "2001:db8::1") == {"answer": 10}


def test_the_listener_counts_down_what_is_granted(server):
    """
    A client is granted many queries at once, and never more than its limit in all.
    """
    s = server(client_qps=1000, burst_s=1, prefix_qps=0)
    who = s.clients.find("192.0.2.1")
    answered = 0
    while s.ask() == "answer":
        answered += 1 + who.grant.left
        assert who.grant.left <= limit.GRANT - 1
        who.grant.left = 0  # the packet cache has used them
    assert answered == 1000


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        (["192.0.2.1", "192.0.2.2", "192.0.2.255"], "192.0.3.1"),
        (["2001:db8::1", "2001:db8:0:ff::1"], "2001:db8:0:100::1"),
    ],
)
def test_a_network_has_a_limit_of_its_own(server, inside, outside):
    """
    Addresses of one /24, or one subscriber's /56, share what the network may ask for.
    """
    s = server(client_qps=0, prefix_qps=30, burst_s=1)
    outcomes = [s.ask(inside[i % len(inside)]) for i in range(40)]
    assert outcomes.count("answer") in range(30 - len(inside) * s.plugin._grant, 31)
    assert s.ask(outside) == "answer"
    assert s.counters["over_prefix"] == outcomes.count("tc") > 0


def test_a_client_over_its_networks_limit_keeps_its_own(server):
    """
    What the network refuses is not taken from the client's bucket.
    """
    s = server(client_qps=100, prefix_qps=10, burst_s=1)
    s.many(50)
    assert s.clients.find("192.0.2.1").bucket.left == 90


def test_proven_clients_do_not_suffer_from_their_network(server):
    """
    Over TCP, or with a valid cookie, only the client's own limit counts.
    """
    s = server(client_qps=20, prefix_qps=10, burst_s=1)
    assert s.many(30, "192.0.2.9") == {"answer": 10, "tc": 20}
    assert s.ask("192.0.2.1") == "tc"
    assert s.many(10, "192.0.2.1", cookie=True) == {"answer": 10}
    assert s.many(10, "192.0.2.1", tcp=True) == {"answer": 10}
    assert s.ask("192.0.2.1", cookie=True) == "tc"  # its own is used up


def test_tcp_may_overdraw(server):
    """
    Over TCP a client gets one burst more; then REFUSED, so that its stub asks another server.
    """
    s = server(client_qps=10, burst_s=2, prefix_qps=0)
    assert s.many(60, tcp=True) == {"answer": 40, "refused": 20}
    assert (s.counters["overdrawn"], s.counters["refused"]) == (20, 20)


def test_a_flood_in_its_name_leaves_a_client_its_tcp(server):
    """
    While somebody forges its address without end, a client still gets its whole rate over TCP.
    """
    s = server(client_qps=10, burst_s=2, prefix_qps=15)
    got = 0
    for tick in range(2000):  # 20 s: the flood 1000 a second, the client 10
        s.clock.now += 0.01
        s.many(10)
        if tick % 10 == 0:
            got += s.ask(tcp=True) == "answer"
    assert got >= 198


@pytest.mark.parametrize(
    ("host", "queries"),
    [
        ("198.51.100.1", 1000),  # behind it are many
        ("198.51.100.2", 1000),
        ("198.51.101.1", 10),
        ("127.0.0.1", 2000),  # without limits
    ],
)
def test_carrier_nat(server, host, queries):
    """
    An address of a shared network has a hundred times the limits, an exempt one none.
    """
    s = server(
        client_qps=10, burst_s=1, prefix_qps=0, shared=networks("198.51.100.0/24"), client_misses=0
    )
    assert s.many(2000, host).get("answer") == queries


def test_no_limits(server):
    """
    With all limits at 0, and without a client, everything passes.
    """
    s = server(client_qps=0, prefix_qps=0)
    assert s.many(5000) == {"answer": 5000}
    assert s.clients.find("192.0.2.1").grant.left > PLENTY - 6000
    assert s.plugin.on_query(s.query()) is None


def test_plenty_may_run_out(server):
    """
    An exempt client that has asked a thousand million times goes on.
    """
    s = server()
    s.clients.find("127.0.0.1").grant.left = 1
    assert s.many(3, "127.0.0.1") == {"answer": 3}


def test_small_limits_give_small_grants(server):
    """
    A grant is a fraction of a burst, and of the rate of same answers.
    """
    assert server().plugin._grant == 32
    assert server(identical_qps=40).plugin._grant == 10
    assert server(client_qps=8, burst_s=1).plugin._grant == 2
    assert server(client_qps=1, burst_s=0.1).plugin._grant == 1


# -- same answers ----------------------------------------------------------------------------------


def test_same_answers_are_limited(server):
    """
    Beyond the rate every second same answer becomes TC, the others none; each second anew.
    """
    s = server(identical_qps=100)
    s.many(200)  # the first second: it is noticed, within a grant or so
    s.clock.now += 1
    for _ in range(3):
        assert s.many(300) == {"answer": 100, "tc": 100, "nothing": 100}
        s.clock.now += 1
    assert s.counters["over_identical"] >= 600


def test_the_first_second_is_not_free(server):
    """
    A flood is noticed in its first second, when it has the rate and a little more.
    """
    s = server(identical_qps=100)
    outcomes = s.many(1000)
    assert 100 <= outcomes["answer"] <= 100 + 5 * s.plugin._grant


def test_same_answers_may_all_be_dropped(server):
    """
    With ``over = "drop"`` no same answer beyond the rate is sent at all.
    """
    s = server(identical_qps=100, over="drop")
    s.many(300)
    s.clock.now += 1
    assert s.many(300) == {"answer": 100, "nothing": 200}


def test_different_answers_pass(server):
    """
    A busy client that asks for many names is watched, and gets all its answers.
    """
    s = server(identical_qps=100)
    for second in range(3):
        for i in range(500):
            assert s.ask(name=f"n{second}x{i}.example.org") == "answer"
        s.clock.now += 1
    assert s.plugin._watched


@pytest.mark.parametrize("own", [False, True])
def test_random_names_below_a_zone_are_the_same(server, own):
    """
    NXDOMAIN is the same for all names right below one zone, ours and upstream's alike.
    """
    s = server(identical_qps=100)
    outcomes = [s.ask(name=f"r{i}.victim.example", rcode=3, own=own) for i in range(1000)]
    assert outcomes.count("answer") <= 100 + 5 * s.plugin._grant
    assert s.ask(name="r.other.example", rcode=3, own=own) == "answer"


def test_errors_are_the_same(server):
    """
    SERVFAIL is SERVFAIL, whatever was asked.
    """
    s = server(identical_qps=100)
    outcomes = [s.ask(name=f"r{i}.v{i}.example", rcode=2) for i in range(1000)]
    assert outcomes.count("answer") <= 100 + 5 * s.plugin._grant


def test_a_flood_spread_over_a_network_is_one_flood(server):
    """
    The same answer to all addresses of a /24 counts together, though each asks for little.
    """
    s = server(identical_qps=100)
    got = []
    for _ in range(10):
        s.clock.now += 1
        outcomes = [s.ask(f"192.0.2.{i % 256}", "big.example") for i in range(1024)]
        got.append(outcomes.count("answer"))
    assert got[-1] == 100
    assert s.ask("192.0.3.1", "big.example") == "answer"


def test_proven_clients_are_not_limited_in_same_answers(server):
    """
    Nobody forges a query over TCP or with a valid cookie, so that none of these is part of a flood.
    """
    s = server(identical_qps=100)
    s.many(300)
    s.clock.now += 1
    assert s.many(300, cookie=True) == {"answer": 300}
    assert s.many(300, tcp=True) == {"answer": 300}


def test_exempt_clients_are_never_watched(server):
    """
    An exempt client may ask the same without end, also where its network is watched.
    """
    s = server(identical_qps=100, exempt=networks("192.0.2.7/32"))
    assert s.many(1000, "192.0.2.7") == {"answer": 1000}
    assert not s.plugin._watched
    for _ in range(5):
        s.clock.now += 1
        for i in range(1024):
            s.ask(f"192.0.2.{8 + i % 200}", "big.example")
    assert s.many(1000, "192.0.2.7", "big.example") == {"answer": 1000}


def test_shared_addresses_may_get_more_of_the_same(server):
    """
    Behind carrier NAT many people ask for the same name: a hundred times the rate.
    """
    s = server(identical_qps=10, shared=networks("192.0.2.0/24"))
    assert s.many(1000) == {"answer": 1000}
    assert not s.plugin._watched
    s.many(2000)
    assert s.counters["over_identical"] > 0


def test_watching_ends(server):
    """
    Some seconds after a client is back within the rate it gets grants again.
    """
    s = server(identical_qps=100)
    s.many(300)
    who = s.clients.find("192.0.2.1")
    assert who.grant.left == 0
    s.clock.now += limit.WATCH_S + 0.1
    assert s.ask() == "answer"
    assert who.grant.left == s.plugin._grant - 1


def test_answers_that_were_dropped_stay_dropped(server):
    """
    What another plugin leaves unanswered is not counted and not changed.
    """
    s = server(identical_qps=1)
    s.many(10)
    x = s.query()
    x.client = s.clients.find("192.0.2.1")
    for _ in range(10):
        silent = Answer(b"", "other")
        assert s.plugin.on_answer(x, silent) is silent


# -- memory ----------------------------------------------------------------------------------------


def test_tables_are_bounded(server, monkeypatch):
    """
    Neither ever new clients nor ever new names make a table grow beyond its size.
    """
    monkeypatch.setattr(limit, "MAX_WATCHED", 50)
    monkeypatch.setattr(limit, "MAX_COUNTED", 100)
    monkeypatch.setattr(clients_module, "MAX_CLIENTS", 200)
    s = server(identical_qps=4)
    for i in range(800):
        s.clock.now += 0.003
        host = str(ipaddress.ip_address(0x0A000000 + i * 256))
        s.many(16, host, f"n{i}.example")
        assert len(s.plugin._watched) <= 50
        assert len(s.plugin._asked) <= 100
        assert len(s.plugin._answered) <= 100
        assert len(s.clients.known) <= 200
    assert s.counters["over_identical"] > 0


def test_a_full_tally_still_counts_what_it_knows():
    """
    What is in the table goes on counting; the next second begins with room for others.
    """
    tally = Tally()
    for i in range(limit.MAX_COUNTED + 10):
        tally.add(1.0, i)
    assert tally.add(1.9, 0) == 2
    assert tally.add(1.9, -1) == 1
    assert tally.add(1.9, -1) == 1
    assert tally.add(2.0, -1) == 1
    assert tally.add(2.0, -1) == 2


def resident():
    """Octets of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


@pytest.mark.slow
def test_a_million_addresses_stay_within_bounds(server):
    """
    A million forged addresses in a minute leave no more behind than the tables may hold.
    """
    s = server(identical_qps=100)
    x = s.query()

    def forge(first, last):
        for i in range(first, last):
            s.clock.now += 0.00006
            x.client = s.clients.find(f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}")
            s.plugin.on_query(x)

    forge(0, 200_000)  # all tables are full by then
    before = resident()
    forge(200_000, 1_000_000)
    assert resident() - before < 32 << 20
    assert len(s.clients.known) <= clients_module.MAX_CLIENTS
    assert len(s.plugin._watched) <= limit.MAX_WATCHED
    assert len(s.plugin._asked) <= limit.MAX_COUNTED
