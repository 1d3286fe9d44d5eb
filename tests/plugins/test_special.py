"""Names that are answered here: each kind of zone, the signals, ANY and class CH."""

import ipaddress
import shutil
import socket
import subprocess
import time
from types import SimpleNamespace

import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest

from urlguard import config
from urlguard.plugins.special import Special
from urlguard.special_zones import SIGNALS, ZONES, Kind

KINDS = {zone: kind for zones, kind, _ in ZONES for zone in zones}


def plugin(forwarded=(), server=None, **keys):
    """The plugin with some options and zones of ``[forward.zones]``."""
    return Special(config.Special(**keys), server or config.Server(), forwarded)


def ask(plug, query, name, qtype="A", **traits):
    """What it answers, read back; None if the query is passed on."""
    x = query(name, qtype, **traits)
    found = plug.on_query(x)
    if found is None:
        return None
    assert found.source == "special"
    got = dns.message.from_wire(found.wire)
    assert got.id == x.query.id
    assert got.flags & (dns.flags.QR | dns.flags.RA | dns.flags.AD) == dns.flags.QR | dns.flags.RA
    assert got.question[0].name == dns.name.from_text(name)
    assert (got.edns == 0) is x.query.has_opt
    return got


def outcome(got):
    """A short word for an answer: an RCODE, NODATA, the records of its answer, or None."""
    if got is None:
        return None
    if got.answer:
        return " ".join(str(r) for rrset in got.answer for r in rrset)
    return "NODATA" if got.rcode() == 0 else dns.rcode.to_text(got.rcode())


SOA = "{0}. nobody.invalid. 1 3600 1200 604800 10800"


@pytest.mark.parametrize("edns", [True, False])
@pytest.mark.parametrize("zone", KINDS)
def test_every_zone_is_answered_as_its_kind_says(query, zone, edns):
    """
    The table of kinds holds for each zone: its own name, and names below it.
    """
    kind = KINDS[zone]
    own, below = {
        Kind.LOCALHOST: ("127.0.0.1", "127.0.0.1"),
        Kind.NXDOMAIN: ("NXDOMAIN", "NXDOMAIN"),
        Kind.EMPTY: ("NODATA", "NXDOMAIN"),
        Kind.POINTER: ("NODATA", "NXDOMAIN"),
        Kind.NODATA: ("NODATA", "NODATA"),
    }[kind]
    plug = plugin()
    assert outcome(ask(plug, query, zone, edns=edns)) == own
    assert outcome(ask(plug, query, f"x.y.{zone}", edns=edns)) == below
    ours = {SOA.format(zone)} if kind in (Kind.EMPTY, Kind.POINTER) else {"NODATA", "NXDOMAIN"}
    assert outcome(ask(plug, query, zone, "SOA", edns=edns)) in ours


@pytest.mark.parametrize("zone", [z for z, k in KINDS.items() if k is not Kind.LOCALHOST])
def test_negative_answers_carry_the_soa_of_the_zone(query, zone):
    """
    The SOA record belongs to the zone's own name, whatever stands before it and however spelled.
    """
    for name in (zone, f"a.{zone}", f"a.bb.ccc.{zone}".title()):
        got = ask(plugin(), query, name, "MX")
        (record,) = got.authority
        assert record.name == dns.name.from_text(zone)
        assert record.rdtype == dns.rdatatype.SOA
        assert record[0].mname == record.name
        assert record.ttl == record[0].minimum == 10_800


@pytest.mark.parametrize(
    ("name", "qtype", "expected"),
    [
        ("localhost", "A", "127.0.0.1"),
        ("LocalHost", "AAAA", "::1"),
        ("www.localhost", "AAAA", "::1"),
        ("localhost", "ANY", "127.0.0.1"),
        ("localhost", "HTTPS", "NODATA"),
        ("localhost", "SOA", "NODATA"),
        ("1.0.0.127.in-addr.arpa", "PTR", "localhost."),
        ("2.0.0.127.in-addr.arpa", "PTR", "NXDOMAIN"),
        ("0.0.127.in-addr.arpa", "PTR", "NODATA"),  # 1.0.0.127 is below it
        ("127.in-addr.arpa", "NS", "127.in-addr.arpa."),
        (ipaddress.ip_address("::1").reverse_pointer, "PTR", "localhost."),
        (ipaddress.ip_address("::2").reverse_pointer, "PTR", None),
        ("1.1.168.192.in-addr.arpa", "PTR", "NXDOMAIN"),
        ("168.192.in-addr.arpa", "ANY", SOA.format("168.192.in-addr.arpa")),
        ("4.3.32.172.in-addr.arpa", "PTR", None),
        ("4.3.31.172.in-addr.arpa", "PTR", "NXDOMAIN"),
        ("1.128.100.in-addr.arpa", "PTR", None),
        ("8.8.8.8.in-addr.arpa", "PTR", None),
        ("in-addr.arpa", "SOA", None),
        ("10.in-addr.arpa.example", "PTR", None),
        ("a.d.f.ip6.arpa", "PTR", "NXDOMAIN"),
        ("a.c.f.ip6.arpa", "PTR", None),
        ("_dns.resolver.arpa", "SVCB", "NODATA"),
        ("resolver.arpa", "A", "NODATA"),
        ("ipv4only.arpa", "AAAA", None),  # RFC 8880: answered where DNS64 is done
        ("home.arpa", "DS", None),  # the zone above knows
        ("a.home.arpa", "DS", "NXDOMAIN"),
        ("10.in-addr.arpa", "DS", None),
        ("1.0.0.127.in-addr.arpa", "DS", "NODATA"),
        ("resolver.arpa", "DS", "NODATA"),
        ("arpa", "NS", None),
        ("example", "A", None),  # RFC 6761 section 6.5: nothing special here
        ("a.example", "A", None),
        ("mytest", "A", None),
        ("test.example", "A", None),
        ("com", "NS", None),
        (".", "NS", None),
        ("localhost.example", "A", None),
        (r"a\.localhost", "A", None),  # one label
        (r"a\.b.localhost", "A", "127.0.0.1"),
        ("local", "SOA", "NXDOMAIN"),  # or hosts would think that .local is served here
        ("printer.local", "A", "NXDOMAIN"),
        ("_ipp._tcp.local", "PTR", "NXDOMAIN"),
        ("duckduckgo.onion", "HTTPS", "NXDOMAIN"),
        ("localhost", 252, None),  # AXFR: the chain answers it
        ("localhost", "TKEY", None),
    ],
)
def test_names_and_types(query, name, qtype, expected):
    """
    Each special name gets what its RFC says; every other passes.
    """
    assert outcome(ask(plugin(), query, name, qtype)) == expected


def test_names_with_very_many_labels_pass(query):
    """
    A name of 127 labels is looked up as any other.
    """
    name = ".".join(["a"] * 124 + ["arpa"])
    assert ask(plugin(), query, name) is None
    assert outcome(ask(plugin(), query, ".".join(["a"] * 120 + ["test"]))) == "NXDOMAIN"


@pytest.mark.parametrize(
    ("zones", "name", "expected"),
    [
        (["10.in-addr.arpa"], "1.2.3.10.in-addr.arpa", None),  # at
        (["10.in-addr.arpa"], "10.in-addr.arpa", None),
        (["in-addr.arpa"], "1.2.3.10.in-addr.arpa", None),  # above
        (["in-addr.arpa"], "1.0.0.127.in-addr.arpa", None),
        (["in-addr.arpa"], "1.d.f.ip6.arpa", "NXDOMAIN"),
        (["arpa"], "a.home.arpa", None),
        (["arpa"], "_dns.resolver.arpa", "NODATA"),  # never anybody else's
        (["3.10.in-addr.arpa"], "1.2.3.10.in-addr.arpa", None),  # below
        (["3.10.in-addr.arpa"], "1.2.4.10.in-addr.arpa", "NXDOMAIN"),
        (["2.3.10.in-addr.arpa"], "3.10.in-addr.arpa", "NODATA"),  # something is below it
        (["2.3.10.in-addr.arpa"], "10.in-addr.arpa", "NODATA"),
        (["corp.local"], "host.corp.local", None),
        (["corp.local"], "printer.local", "NXDOMAIN"),
        (["corp.local"], "local", "NODATA"),
        (["test"], "a.test", None),
        (["other.example"], "a.test", "NXDOMAIN"),
        (["icloud.com"], "mask.icloud.com", "NXDOMAIN"),  # bypass says what becomes of it
        (["mask.icloud.com"], "mask.icloud.com", None),
    ],
)
@pytest.mark.parametrize("by", ["forward.zones", "special.forwarded"])
def test_split_horizon(query, zones, name, expected, by):
    """
    What is forwarded somewhere on purpose is not answered here; what lies beside it still is.
    """
    if by == "forward.zones":
        plug = plugin(forwarded=zones)
    else:
        plug = Special(config.Special(forwarded=tuple(zones)), config.Server())
    assert outcome(ask(plug, query, name)) == expected


def test_local_names_can_be_left_to_the_upstream(query):
    """
    With ``local = false`` only the signals are answered.
    """
    plug = plugin(local=False)
    assert ask(plug, query, "localhost") is None
    assert ask(plug, query, "1.10.in-addr.arpa", "PTR") is None
    assert outcome(ask(plug, query, "use-application-dns.net")) == "NXDOMAIN"


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("qtype", ["A", "AAAA", "HTTPS"])
def test_signals_are_answered_where_they_are_asked_for(query, signal, qtype):
    """
    NXDOMAIN, soon forgotten, for the names of the signals chosen; the others pass.
    """
    plug = plugin(bypass=(signal,))
    for other, names in SIGNALS.items():
        for name in names:
            got = ask(plug, query, name.title(), qtype)
            assert outcome(got) == ("NXDOMAIN" if other == signal else None)
            if got:
                assert got.authority[0].name == dns.name.from_text(name)
                assert got.authority[0][0].minimum == 300
    assert ask(plug, query, "icloud.com", qtype) is None
    assert ask(plug, query, "notuse-application-dns.net", qtype) is None


def test_unfiltered_clients_get_no_signals(query):
    """
    A segment with ``filter = false`` may use what other resolvers it likes.
    """
    for keep, expected in ((True, "NXDOMAIN"), (False, None)):
        x = query("mask.icloud.com")
        x.client = SimpleNamespace(segment=config.Segment(filter=keep))
        found = plugin().on_query(x)
        assert outcome(found and dns.message.from_wire(found.wire)) == expected


@pytest.mark.parametrize("name", ["example.org", "nothing.invalid.example", "."])
def test_any_is_answered_minimally(query, name):
    """
    A query for ANY gets one HINFO record (RFC 8482 section 4.2), and nobody upstream is asked.
    """
    got = ask(plugin(), query, name, "ANY")
    assert outcome(got) == '"RFC8482" ""'
    assert got.answer[0].ttl == 3600


@pytest.mark.parametrize(
    ("name", "qtype", "expected"),
    [
        ("version.bind", "TXT", '"what it is"'),
        ("VERSION.server", "ANY", '"what it is"'),
        ("id.server", "TXT", '"ns1"'),
        ("hostname.bind", "TXT", '"ns1"'),
        ("version.bind", "A", "NODATA"),
        ("authors.bind", "TXT", "REFUSED"),
        ("localhost", "TXT", "REFUSED"),
    ],
)
def test_class_ch(query, name, qtype, expected):
    """
    The server says in class CH what its configuration says, and nothing else.
    """
    told = plugin(server=config.Server(version="what it is", identity="ns1"))
    got = ask(told, query, name, qtype, qclass="CH")
    assert outcome(got) == expected
    if got.answer:
        assert (got.answer[0].ttl, got.answer[0].rdclass) == (0, dns.rdataclass.CH)
    assert outcome(ask(plugin(), query, name, qtype, qclass="CH")) == "REFUSED"


def test_other_classes_pass(query):
    """
    Hesiod and the like are the chain's to refuse.
    """
    assert ask(plugin(), query, "localhost", qclass="HS") is None


@pytest.mark.peer
def test_the_zones_are_those_of_unbound(query, tmp_path):
    """
    What Unbound serves locally by default, this does too, with the same RCODE.
    """
    if shutil.which("unbound") is None or shutil.which("unbound-control") is None:
        pytest.skip("unbound is not installed")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    conf = tmp_path / "unbound.conf"
    control = tmp_path / "control"
    conf.write_text(
        f"server:\n interface: 127.0.0.1@{port}\n username: ''\n chroot: ''\n pidfile: ''\n"
        f" directory: '{tmp_path}'\n use-syslog: no\n do-daemonize: no\n module-config: iterator\n"
        f"remote-control:\n control-enable: yes\n control-interface: {control}\n"
    )
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(["unbound", "-d", "-c", conf], stderr=log)
    try:
        until = time.monotonic() + 10
        zones = ""
        while not zones and time.monotonic() < until:
            time.sleep(0.05)
            listing = ["unbound-control", "-c", conf, "list_local_zones"]
            zones = subprocess.run(listing, capture_output=True, text=True, timeout=10).stdout
        assert zones, (tmp_path / "log").read_text()
        plug = plugin()
        for zone in [line.split()[0].removesuffix(".") for line in zones.splitlines()]:
            for qtype in ("A", "PTR"):
                name = f"a.{zone}"
                theirs = dns.query.udp(
                    dns.message.make_query(name, qtype), "127.0.0.1", 5, port=port
                )
                ours = ask(plug, query, name, qtype)
                assert ours is not None, zone
                assert outcome(ours) == outcome(theirs), (name, qtype)
    finally:
        process.terminate()
        process.wait(10)


class Counting(dict):
    """A dictionary that counts how often it is asked."""

    asked = 0

    def get(self, key, default=None):
        self.asked += 1
        return super().get(key, default)


def test_ordinary_names_cost_one_look_up(query):
    """
    A name whose last label begins no zone passes after one look-up; another, label by label.
    """
    plug = plugin()
    tree = plug._tree = Counting(plug._tree)
    for label, node in tree.items():
        node.below = Counting(node.below)
        tree[label] = node
    assert ask(plug, query, "www.example.org") is None
    assert (tree.asked, tree["com"].below.asked) == (1, 0)
    assert ask(plug, query, "a.b.c.d.example.com") is None
    assert (tree.asked, tree["com"].below.asked) == (2, 1)
