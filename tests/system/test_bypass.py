"""
No way around a block: a real BIND serves zones that lead to listed names in every way there is.

The addresses of listed names are of two networks that nothing else uses, so that an answer leaks if
their octets stand anywhere in it, whatever record they are in.  Each test first asks BIND itself:
there, nearly every form gives the addresses away.
"""

import asyncio
import csv
import functools
import gzip
import random
import re
import struct
from collections import Counter
from itertools import product

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest

from tests.bind import Authority
from tests.client import Ask, ask_all, read
from tests.running import Server
from urlguard import wellknown

pytestmark = [pytest.mark.peer, pytest.mark.slow]

IPV4, IPV6 = "198.18.77.{}", "2001:db8:bad::{:x}"  # of listed names; benchmarking, documentation
LEAK = re.compile(rb"\xc6\x12\x4d|\x20\x01\x0d\xb8\x0b\xad", re.DOTALL)
FINE = "192.0.2.99"  # of a name that nothing is wrong with

QTYPES = (
    *("A", "AAAA", "HTTPS", "SVCB", "ANY", "CNAME", "MX", "TXT", "NS", "SOA", "SRV", "PTR"),
    *("NAPTR", "CAA", "DS", "DNSKEY", "TLSA", "DNAME", "RRSIG", "NSEC"),
)
FORM_TYPES = ("A", "AAAA", "HTTPS", "SVCB", "ANY", "CNAME")
DEPTH = 8

# What the cloaking zone has for a listed name: {i} its number, {name} itself, {addresses} hints.
RECORDS = """
www.dc{i} CNAME www.dn{i}
dn{i} DNAME {name}.
*.wild{i} CNAME {name}.
sub{i} CNAME www.{name}.
deep{i} CNAME deep.below.{name}.
mixed{i} CNAME {upper}.
in{i} CNAME cname.{name}.
open{i} A {ipv4}
open{i} AAAA {ipv6}
https{i} HTTPS 1 {name}. alpn=h2 {hints}
alias{i} HTTPS 0 {name}.
both{i} HTTPS 1 fine alpn=h3
both{i} HTTPS 2 {name}. port=8443 {hints}
below{i} HTTPS 1 cdn.{name}. {hints}
past{i} HTTPS 0 c3.{i}
via{i} HTTPS 0 via2{i}
via2{i} HTTPS 0 via3{i}
via3{i} HTTPS 1 {name}. {hints}
to{i} CNAME https{i}
_8443._https.svcb{i} SVCB 1 {name}. alpn=h2 {hints}
svcbalias{i} SVCB 0 {name}.
svcb{i} SVCB 3 www.{name}. {hints}
mx{i} MX 10 {name}.
mx{i} MX 20 fine
_sip._tcp.srv{i} SRV 0 0 443 {name}.
naptr{i} NAPTR 10 10 "a" "" "" {name}.
naptrs{i} NAPTR 10 10 "s" "" "" _sip._tcp.srv{i}
afsdb{i} AFSDB 1 {name}.
kx{i} KX 10 {name}.
rt{i} RT 10 {name}.
ptr{i} PTR {name}.
"""
# Names to ask for, and the type that the zone has there if it is none of FORM_TYPES.
FORMS = (
    *(("www.dc{i}", ""), ("www.dn{i}", ""), ("a.b.c.dn{i}", ""), ("dn{i}", "DNAME")),
    *(("any.thing.wild{i}", ""), ("sub{i}", ""), ("deep{i}", ""), ("mixed{i}", "")),
    *(("in{i}", ""), ("https{i}", ""), ("alias{i}", ""), ("both{i}", ""), ("below{i}", "")),
    *(
        ("past{i}", ""),
        ("via{i}", ""),
        ("to{i}", ""),
        ("_8443._https.svcb{i}", ""),
        ("svcbalias{i}", ""),
    ),
    *(("svcb{i}", ""), ("mx{i}", "MX"), ("_sip._tcp.srv{i}", "SRV"), ("naptr{i}", "NAPTR")),
    *(("naptrs{i}", "NAPTR"), ("afsdb{i}", "AFSDB"), ("kx{i}", "KX"), ("rt{i}", "RT")),
    *(("ptr{i}", "PTR"), *((f"c{n}.{{i}}", "") for n in range(1, DEPTH + 1))),
    *((f"h{n}.{{i}}", "") for n in range(1, DEPTH + 1)),
)
# Of these, only hints and additional records would give an address away, or nothing at all.
HARMLESS = {"dn{i}", "ptr{i}"}


def listed_names(count):
    """Names of the starter list at random, none above another."""
    with gzip.open(wellknown.starter_path(), "rt") as file:
        names = [row["domain"] for row in csv.DictReader(file)]
    # Room for what the zones put before and behind a name.
    names = [n for n in names if len(n) < 120 and not n.startswith("www.")]
    chosen = random.Random(31).sample(names, count)
    return [n for n in chosen if not any(n != o and n.endswith("." + o) for o in chosen)]


def cloaking(folder, listed, options=""):
    """A BIND that knows the listed names' addresses, and the zones that lead to them."""
    root = [
        "$TTL 300\n@ SOA ns.cloak.example. x. 1 60 60 60 60\n@ NS ns.cloak.example.\n"
        "ns.cloak.example. A 192.0.2.53"
    ]
    cloak = [
        "$TTL 300\n@ SOA ns x 1 60 60 60 60\n@ NS ns\nns A 192.0.2.53\n"
        f"fine A {FINE}\nalso CNAME fine"
    ]
    servers = ["$TTL 300\n@ SOA ns.cloak.example. x. 1 60 60 60 60\n@ NS ns.cloak.example."]
    for i, name in enumerate(listed):
        ipv4, ipv6 = IPV4.format(i % 250 + 1), IPV6.format(i + 1)
        hints = f"ipv4hint={ipv4} ipv6hint={ipv6}"
        for owner in (name, f"www.{name}", f"cdn.{name}", f"deep.below.{name}", f"a.b.c.{name}"):
            root.append(f"{owner}. A {ipv4}\n{owner}. AAAA {ipv6}")
        root += [f"{name}. HTTPS 1 . alpn=h2 {hints}", f"{name}. SVCB 1 . {hints}"]
        root += [f"{name}. MX 10 www.{name}.", f"cname.{name}. CNAME open{i}.cloak.example."]
        values = {"i": i, "name": name, "ipv4": ipv4, "ipv6": ipv6, "hints": hints}
        cloak.append(RECORDS.format(**values, upper=name.upper()))
        for n in range(1, DEPTH + 1):
            cloak.append(f"c{n}.{i} CNAME {f'c{n - 1}.{i}' if n > 1 else name + '.'}")
            cloak.append(f"h{n}.{i} CNAME {f'h{n - 1}.{i}' if n > 1 else f'https{i}'}")
        if i < 10:
            servers.append(f"@ NS {name}.")
    zones = {"": root, "cloak.example": cloak, "servers.example": servers}
    texts = {zone: "\n".join(lines) + "\n" for zone, lines in zones.items()}
    return Authority(folder, texts, options=f"minimal-responses no; {options}")


def guarded(folder, upstream, listed, more="", workers=1):
    """An UrlGuard that has the names on a list and asks the server at a port."""
    (folder / "list.txt").write_text("".join(f"{name}\n" for name in listed))
    return Server(
        folder,
        f'[server]\nlisten = ["127.0.0.1:0"]\nworkers = {workers}\n[classify]\nmode = "off"\n'
        f'[forward]\nupstreams = ["127.0.0.1:{upstream}"]\n'
        '[[feed]]\nname = "list"\npath = "list.txt"\nformat = "domains"\nallow_popular = true\n'
        f"max_bad = 0\n{more}",
    )


def forms(numbers):
    """Every cloaking form of some listed names: the template, the name to ask for, its types."""
    for i in numbers:
        for form, own in FORMS:
            for qtype in (*FORM_TYPES, *([own] if own else [])):
                yield form, f"{form.format(i=i)}.cloak.example", qtype


def spelled(name, choose):
    """The name in random upper and lower case."""
    return "".join(choose.choice((c.upper(), c.lower())) for c in name)


def manners(questions, choose):
    """Each question over UDP and TCP, with DO and without EDNS, in any spelling."""
    return [
        Ask(spelled(name, choose), qtype, do=do, size=1232 if do else None, tcp=tcp)
        for (name, qtype), tcp, do in product(questions, (False, True), (False, True))
    ]


def leaks(asks, answers):
    """
    The questions whose answers have an address of a listed name in them.

    Every question must have been answered, with itself above the answer; every answer must be a
    message that can be read to its end, and say the same when its records are looked at one by one.
    """
    found = []
    for one, wire in zip(asks, answers, strict=True):
        assert wire is not None, f"no answer to {one}"
        question = one.question()
        assert wire[12 : 12 + len(question)] == question, one
        assert wire[3] & 15 in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN), (one, wire[3] & 15)
        leaking = LEAK.search(wire, 2) is not None
        # How the question is spelled and how long the answer holds makes no other message of it.
        assert by_record(apart(wire, len(question))) <= leaking, one
        if leaking:
            found.append(one)
    return found


def apart(wire, size):
    """An answer without ID, TTLs, and the case of letters in the question of `size` octets."""
    octets = bytearray(wire)
    octets[:2] = b"\0\0"
    octets[12 : 12 + size] = octets[12 : 12 + size].lower()
    at = 12 + size
    for _ in range(sum(struct.unpack_from("!HHH", wire, 6))):
        while (length := wire[at]) not in (0, *range(192, 256)):
            at += 1 + length
        at += 2 if wire[at] else 1
        if wire[at : at + 2] != b"\0\x29":  # OPT has flags there
            octets[at + 4 : at + 8] = bytes(4)
        at += 10 + int.from_bytes(wire[at + 8 : at + 10], "big")
    assert at == len(wire)
    return bytes(octets)


@functools.cache
def by_record(wire):
    """Whether an address of a listed name stands in a record of a message."""
    texts = [r.to_text() for section in read(wire).sections[1:] for r in section]
    return any("198.18.77." in text or "2001:db8:bad:" in text for text in texts)


async def test_every_type_of_every_listed_name_at_both_ends_of_a_chain(tmp_path):
    """
    200 listed names x 20 types, asked for themselves and behind eight CNAMEs: no address of theirs
    in any answer; and what is not listed gets through.
    """
    listed = listed_names(200)
    choose = random.Random(1)
    with cloaking(tmp_path / "bind", listed) as bind:
        running = guarded(tmp_path, bind.port, listed)
        try:
            running.start()
            asks = []
            for i, name in enumerate(listed):
                for number, qtype in enumerate(QTYPES):
                    manner = i + number
                    for asked in (name, f"c{DEPTH}.{i}.cloak.example"):
                        do, tcp = bool(manner & 1), bool(manner & 2)
                        size = 1232 if do else None
                        asks.append(Ask(spelled(asked, choose), qtype, do=do, size=size, tcp=tcp))
            assert len(leaks(asks, await ask_all(bind.address, asks))) > len(asks) / 10
            for _ in range(2):  # the second time from the cache
                assert leaks(asks, await ask_all(("127.0.0.1", running.port), asks)) == []
            reply = running.ask("also.cloak.example")
            assert [r.to_text() for rrset in reply.answer for r in rrset][-1] == FINE
        finally:
            running.kill_all()


@pytest.mark.parametrize("compression", ["yes", "no"])
async def test_no_form_of_cloaking_leads_to_a_listed_name(tmp_path, compression):
    """
    CNAME chains up to 8, DNAME, wildcards, SVCB and HTTPS in both modes with hints, additional
    records of MX, SRV, NS, NAPTR and others; over UDP and TCP, with DO and without, twice each.
    """
    listed = listed_names(32 if compression == "yes" else 12)
    choose = random.Random(2)
    with cloaking(tmp_path / "bind", listed, f"message-compression {compression};") as bind:
        running = guarded(tmp_path, bind.port, listed)
        try:
            running.start()
            every = list(forms(range(len(listed))))
            questions = [(name, qtype) for _, name, qtype in every]
            questions += [("servers.example", qtype) for qtype in QTYPES]
            questions += [("none.servers.example", qtype) for qtype in QTYPES]
            asks = manners(questions, choose)
            direct = leaks(asks, await ask_all(bind.address, asks))
            of_form = {name.lower(): form for form, name, _ in every}
            harmful = Counter(of_form.get(one.name.lower()) for one in direct)
            assert {form for form, _ in FORMS} - set(harmful) == HARMLESS
            assert harmful[None] > 4, "the name servers' addresses"
            for _ in range(2):
                answers = await ask_all(("127.0.0.1", running.port), asks)
                assert leaks(asks, answers) == []
            # Not because everything is refused: the address of a name behind a chain is ours.
            for one, wire in zip(asks, answers, strict=True):
                if one.qtype == "A" and one.name.lower()[:1] in ("c", "d") and "." in one.name:
                    form = of_form[one.name.lower()]
                    if form not in HARMLESS:
                        assert wire.find(b"\x7f\0\0\1", 12) > 0, one
        finally:
            running.kill_all()


async def test_what_the_cache_has_is_judged_again_at_once(tmp_path):
    """
    Names that are cached, then blocked, unblocked and blocked again: each command counts for the
    very next answer, on both workers.
    """
    listed = listed_names(8)
    choose = random.Random(3)
    with cloaking(tmp_path / "bind", listed) as bind:
        running = guarded(tmp_path, bind.port, ["other.example"], workers=2)
        try:
            running.start()
            every = [(f, n, t) for f, n, t in forms(range(len(listed))) if f not in HARMLESS]
            questions = [(name, qtype) for _, name, qtype in every]
            questions += [(name, qtype) for name in listed for qtype in FORM_TYPES]
            asks = manners(questions, choose)
            address = ("127.0.0.1", running.port)
            open_before = len(leaks(asks, await ask_all(address, asks)))
            assert open_before > len(asks) / 4
            for _ in range(2):
                running.run("block", *listed)
                assert leaks(asks, await ask_all(address, asks)) == []
                running.run("remove", *listed)
                assert len(leaks(asks, await ask_all(address, asks))) == open_before
        finally:
            running.kill_all()


def hostile_replies(question, listed):
    """Answers to a question that no honest server gives, each with a listed name's addresses."""
    ipv4, ipv6 = IPV4.format(1), IPV6.format(1)
    https = f"{listed}. 60 IN HTTPS 1 . ipv4hint={ipv4} ipv6hint={ipv6}"
    fine = f"{question}. 60 IN A {FINE}"
    return {
        "owner": ((f"{listed}. 60 IN A {ipv4}",), (), ()),
        "beside": ((fine, f"{listed}. 60 IN A {ipv4}"), (), ()),
        "hint": ((fine, https), (), ()),
        "authority": ((fine,), (f"{listed}. 60 IN A {ipv4}",), ()),
        "authority6": ((fine,), (f"{listed}. 60 IN AAAA {ipv6}",), ()),
        "authorityhint": ((fine,), (https,), ()),
        "additional": ((fine,), (), (f"sub.{listed}. 60 IN A {ipv4}",)),
        "additionalhint": ((fine,), (), (https,)),
        "nothing": ((), (), (https,)),
    }


class Hostile(asyncio.DatagramProtocol):
    """An upstream that answers with what the question's first label asks for."""

    def __init__(self, listed):
        self.listed = listed

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, client):
        query = dns.message.from_wire(data)
        name = query.question[0].name
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA
        replies = hostile_replies(name.to_text(omit_final_dot=True), self.listed)
        for section, lines in zip(
            reply.sections[1:], replies[name.labels[0].decode().lower()], strict=True
        ):
            section += [
                dns.rrset.from_text(*line.split(maxsplit=4)[:4], line.split(maxsplit=4)[4])
                for line in lines
            ]
        self.transport.sendto(reply.to_wire(), client)


async def test_records_where_no_honest_server_puts_them_do_not_leak(tmp_path):
    """
    A hostile upstream's addresses and hints of a listed name, in any section, under any owner.
    """
    listed = "evil.example"
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: Hostile(listed), local_addr=("127.0.0.1", 0)
    )
    running = guarded(tmp_path, transport.get_extra_info("sockname")[1], [listed])
    try:
        await asyncio.to_thread(running.start)
        asks = [Ask(f"{form}.cloak.example", "A", size=1232) for form in hostile_replies("", "x")]
        for _ in range(2):
            assert leaks(asks, await ask_all(("127.0.0.1", running.port), asks)) == []
    finally:
        running.kill_all()
        transport.close()


PRIVATE = """$TTL 300
@ SOA ns x 1 60 60 60 60
@ NS ns
ns A 192.0.2.53
fine A 192.0.2.99
fine AAAA 2001:db8::99
fine HTTPS 1 . alpn=h2 ipv4hint=192.0.2.99 ipv6hint=2001:db8::99
a A 192.168.1.1
mixed A 192.0.2.99
mixed A 10.1.2.3
link A 169.254.169.254
loop A 127.0.0.1
this A 0.0.0.0
ula AAAA fd00::1
local AAAA fe80::1
mapped AAAA ::ffff:10.0.0.1
nat64 AAAA 64:ff9b::192.168.1.1
sixto4 AAAA 2002:c0a8:101::1
hint4 HTTPS 1 . ipv4hint=192.0.2.99,192.168.1.1
hint6 HTTPS 1 . alpn=h2 ipv6hint=fd00::1
hint64 HTTPS 1 . alpn=h2 ipv6hint=64:ff9b::c0a8:101
_dns.svcb SVCB 1 . ipv4hint=172.16.3.4
chain CNAME chain2
chain2 CNAME a
_x._tcp.srv SRV 0 0 80 a
dn DNAME {zone}.
"""
PRIVATE_ASKS = (
    *(("a", "A"), ("mixed", "A"), ("link", "A"), ("loop", "A"), ("this", "A"), ("ula", "AAAA")),
    *(("local", "AAAA"), ("mapped", "AAAA"), ("nat64", "AAAA"), ("sixto4", "AAAA")),
    *(("hint4", "HTTPS"), ("hint6", "HTTPS"), ("hint64", "HTTPS"), ("_dns.svcb", "SVCB")),
    *(("chain", "A"), ("a.dn", "A"), ("nat64.dn", "AAAA"), ("_x._tcp.srv", "SRV")),
)
FINE_ASKS = (("fine", "A"), ("fine", "AAAA"), ("fine", "HTTPS"), ("fine.dn", "A"))


async def test_public_names_do_not_lead_into_private_networks(tmp_path):
    """
    Private addresses in A, AAAA (also mapped, NAT64 and 6to4), hints, behind chains and beside
    public ones become NODATA with EDE 15; the same zone under an exempt name, and what is public,
    comes through as BIND gave it.
    """
    zones = {z: PRIVATE.format(zone=z) for z in ("attack.example", "home.example")}
    asks = {
        zone: [
            Ask(f"{name}.{zone}", qtype, size=1232, tcp=tcp)
            for (name, qtype), tcp in product(PRIVATE_ASKS + FINE_ASKS, (False, True))
        ]
        for zone in zones
    }
    with Authority(tmp_path / "bind", zones) as bind:
        more = '[rebind]\nexempt = ["home.example"]\n'
        running = guarded(tmp_path, bind.port, ["other.example"], more)
        try:
            running.start()
            address = ("127.0.0.1", running.port)
            for _ in range(2):
                for one, wire in zip(
                    asks["attack.example"],
                    await ask_all(address, asks["attack.example"]),
                    strict=True,
                ):
                    reply = read(wire)
                    assert reply.rcode() == dns.rcode.NOERROR, one
                    if one.name.startswith("fine"):
                        assert len(reply.answer) > 0, one
                        continue
                    assert reply.answer == reply.additional == [], one
                    codes = [o.code for o in reply.options if isinstance(o, dns.edns.EDEOption)]
                    assert codes == [15], one
                for one, ours, theirs in zip(
                    asks["home.example"],
                    await ask_all(address, asks["home.example"]),
                    await ask_all(bind.address, asks["home.example"]),
                    strict=True,
                ):
                    assert read(ours).answer == read(theirs).answer != [], one
        finally:
            running.kill_all()
