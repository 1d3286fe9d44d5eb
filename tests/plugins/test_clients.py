"""Who asks: networks by longest prefix, what a client is, and that nothing grows without bound."""

import ipaddress
import random
import time

import pytest

from urlguard import config
from urlguard.config import Config, Segment
from urlguard.plugins import clients as module
from urlguard.plugins.clients import PLENTY, Bucket, Clients, Networks, parse


def networks(*texts):
    """Networks from texts."""
    return tuple(ipaddress.ip_network(text) for text in texts)


# ---- networks


@pytest.mark.parametrize(
    ("address", "value"),
    [
        ("10.0.0.1", "ten"),
        ("10.1.0.1", "office"),
        ("10.1.2.3", "lab"),
        ("10.1.2.4", "host"),
        ("192.0.2.1", "any"),
        ("2001:db8::1", "doc"),
        ("2001:db8:1::1", "site"),
        ("2001:db9::1", None),
        ("::ffff:10.1.2.3", None),
    ],
)
def test_the_longest_network_that_holds_an_address_decides(address, value):
    """
    In whatever order they were given; IPv4 and IPv6 apart.
    """
    items = [
        ("0.0.0.0/0", "any"),
        ("10.1.2.4/32", "host"),
        ("10.0.0.0/8", "ten"),
        ("10.1.2.0/24", "lab"),
        ("10.1.0.0/16", "office"),
        ("2001:db8::/32", "doc"),
        ("2001:db8:1::/48", "site"),
    ]
    for _ in range(3):
        random.shuffle(items)
        found = Networks((ipaddress.ip_network(text), value) for text, value in items)
        assert found.find(ipaddress.ip_address(address)) == value


def test_nothing_is_found_for_no_address():
    """
    What is no address is in no network.
    """
    assert Networks([(ipaddress.ip_network("0.0.0.0/0"), 1)]).find(None) is None
    assert Networks().find(ipaddress.ip_address("192.0.2.1")) is None


def test_networks_agree_with_a_plain_search():
    """
    Ten thousand addresses among a hundred nested networks: the same as looking at each.
    """
    generator = random.Random(3)
    known = {
        ipaddress.ip_network((generator.getrandbits(16) << 16, generator.randint(1, 32)), False): i
        for i in range(100)
    }
    found = Networks(known.items())
    for _ in range(10_000):
        base = generator.choice(list(known))
        address = ipaddress.IPv4Address(
            int(base.network_address) ^ generator.getrandbits(generator.randint(0, 20))
        )
        holding = [n for n in known if address in n]
        wanted = known[max(holding, key=lambda n: n.prefixlen)] if holding else None
        assert found.find(address) == wanted


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("/run/socket", None),
        ("", None),
    ],
)
def test_an_address_is_what_it_stands_for(text, address):
    """
    IPv4 where an IPv6 socket saw it, and without its scope.
    """
    assert parse(text) == (None if address is None else ipaddress.ip_address(address))


# ---- clients

WHOLE = Config(
    acl=config.Acl(allow=networks("10.0.0.0/8", "127.0.0.0/8", "2001:db8::/32")),
    segment=(
        Segment(name="school", networks=networks("10.1.0.0/16", "2001:db8:1::/48")),
        Segment(name="lab", networks=networks("10.1.2.0/24")),
        Segment(name="outside", networks=networks("203.0.113.0/24")),
    ),
    server=config.Server(
        proxy_from=networks("10.9.0.1/32"), ecs_from=networks("10.9.0.2/32", "10.9.0.1/32")
    ),
    limit=config.Limit(
        client_qps=10,
        prefix_qps=50,
        client_misses=5,
        burst_s=2,
        shared=networks("10.5.0.0/16"),
        shared_factor=100,
    ),
)


@pytest.mark.parametrize(
    ("host", "allowed", "segment", "front"),
    [
        ("10.0.0.1", True, None, None),
        ("::ffff:10.0.0.1", True, None, None),
        ("10.1.0.1", True, "school", None),
        ("10.1.2.3", True, "lab", None),
        ("2001:db8:1::5", True, "school", None),
        ("203.0.113.5", False, "outside", None),
        ("192.0.2.1", False, None, None),
        ("10.9.0.1", True, None, "proxy"),
        ("10.9.0.2", True, None, "ecs"),
        ("nonsense", False, None, None),
    ],
)
def test_a_client_is_what_the_configuration_says_of_its_address(host, allowed, segment, front):
    """
    Allowed or not, its segment by longest prefix, and whether it speaks for others.
    """
    who = Clients(WHOLE).find(host)
    assert (who.allowed, who.front) == (allowed, front)
    assert (who.segment and who.segment.name) == segment


def test_without_an_acl_everybody_is_allowed():
    """
    A chain without the plugin has nobody to refuse.
    """
    assert Clients(Config(plugins=("guard", "forward"))).find("203.0.113.5").allowed
    assert not Clients(Config(plugins=("acl", "forward"))).find("203.0.113.5").allowed


def test_a_known_client_is_found_again():
    """
    The same object, at the cost of one dictionary look-up.
    """
    table = Clients(WHOLE)
    who = table.find("10.0.0.1")
    assert table.known["10.0.0.1"] is who
    table._made = None
    assert table.find("10.0.0.1") is who
    began = time.process_time()
    for _ in range(10_000):
        table.find("10.0.0.1")
    assert time.process_time() - began < 0.1


def test_clients_are_bounded(monkeypatch):
    """
    A flood of addresses makes us forget, not grow; those who come again are worked out again.
    """
    monkeypatch.setattr(module, "MAX_CLIENTS", 100)
    monkeypatch.setattr(module, "MAX_PREFIXES", 100)
    table = Clients(WHOLE)
    for number in range(1000):
        who = table.find(f"10.{number % 200}.{number // 200}.7")
        assert who.allowed
        assert len(table.known) <= 100
        assert len(table._prefixes) <= 100
    assert table.find("10.1.2.3").segment.name == "lab"


# ---- limits


def test_limits_follow_the_configuration():
    """
    Rate and burst for each client, times the factor where many share an address.
    """
    table = Clients(WHOLE)
    plain, shared = table.find("10.0.0.1"), table.find("10.5.0.1")
    assert (plain.bucket.rate, plain.bucket.burst, plain.grant.left) == (10, 20, 0)
    assert (plain.misses.rate, plain.misses.burst) == (5, 10)
    assert (shared.bucket.rate, shared.bucket.burst) == (1000, 2000)
    assert (shared.misses.rate, shared.misses.burst) == (500, 1000)
    assert plain.bucket is not table.find("10.0.0.2").bucket


def test_a_network_shares_one_bucket():
    """
    IPv4 by /24 and IPv6 by /56, as configured; the factor for NAT does not apply.
    """
    table = Clients(WHOLE)
    one = table.find("10.0.0.1")
    assert one.prefix is table.find("10.0.0.250").prefix
    assert one.prefix is table.find("::ffff:10.0.0.9").prefix
    assert one.prefix is not table.find("10.0.1.1").prefix
    assert one.prefix.rate == 50
    six = table.find("2001:db8:0:100::1")
    assert six.prefix is table.find("2001:db8:0:1ff::1").prefix
    assert six.prefix is not table.find("2001:db8:0:200::1").prefix
    # One subscriber has the whole network: its own limits are the network's too.
    assert six.bucket is table.find("2001:db8:0:100::2").bucket
    assert six.misses is table.find("2001:db8:0:1ff::2").misses
    assert one.bucket is not table.find("10.0.0.250").bucket


def test_addresses_that_come_and_go_do_not_renew_a_networks_limits(monkeypatch):
    """
    The oldest client makes room for the newest; what its network has used up stays used up.
    """
    monkeypatch.setattr(module, "MAX_CLIENTS", 10)
    table = Clients(WHOLE)
    first = table.find("2001:db8:0:100::1")
    assert first.prefix.take(0.0, first.prefix.burst)
    for number in range(50):
        last = table.find(f"2001:db8:0:100::{number + 2:x}")
    assert "2001:db8:0:100::1" not in table.known
    assert last.prefix is first.prefix
    assert not last.prefix.take(0.0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.9.0.1", "10.9.0.2", "nonsense"])
def test_some_have_no_limits(host):
    """
    The exempt, front ends (whose clients have their own), and what has no address.
    """
    who = Clients(WHOLE).find(host)
    assert (who.bucket, who.prefix, who.misses, who.grant.left) == (None, None, None, PLENTY)


def test_without_the_plugin_nobody_has_limits():
    """
    Nor with limits of 0.
    """
    assert Clients(Config(plugins=("acl", "forward"))).find("192.0.2.1").grant.left == PLENTY
    none = config.Limit(client_qps=0, prefix_qps=0, client_misses=0)
    who = Clients(Config(limit=none)).find("192.0.2.1")
    assert (who.bucket, who.prefix, who.misses) == (None, None, None)


def test_a_bucket_gives_its_burst_and_then_its_rate():
    """
    Time fills it, up to the burst and no further.
    """
    bucket = Bucket(2.0, 4.0)
    bucket.since = 100.0
    assert [bucket.take(100.0) for _ in range(5)] == [True] * 4 + [False]
    assert not bucket.take(100.4)
    assert bucket.take(100.6)
    assert not bucket.take(100.7)
    assert [bucket.take(1000.0) for _ in range(5)] == [True] * 4 + [False]
    assert not bucket.take(1000.9, 3)
    assert bucket.take(1001.6, 3)
