"""
The same answers as Unbound's: 10,000 questions through UrlGuard to a real Unbound, and to it alone.

The Unbound validates what a real BIND serves; `internet` says what that is.  Whatever differs in an
answer must have one of the reasons below, each with a condition on the question and on both
answers; ``pytest -rP`` shows how often each came up.
"""

import itertools
import random
import time
from collections import Counter
from typing import NamedTuple

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest

from tests.client import Ask, ask_all
from tests.running import Server
from tests.system.internet import SIGNALS, SPECIAL, asks, internet
from tests.unbound import Unbound

pytestmark = [pytest.mark.peer, pytest.mark.slow]

COUNT = 10_000
SEED = 11
BATCH = 500  # asked of both in turn, so that TTLs and caches are alike
TTL_S = 3  # by which TTLs may differ: both count down, in whole seconds, one after the other
SECTIONS = ("answer", "authority", "additional")

UNBOUND = """
    ede: yes
    max-udp-size: 4096
    minimal-responses: no
    access-control: 127.0.0.0/8 allow_snoop
"""


class Seen(NamedTuple):
    """An answer, taken apart: what is compared, by aspect, and what reasons look at."""

    message: dns.message.Message
    size: int
    aspects: dict[str, object]


def look(one: Ask, wire: bytes) -> Seen:
    """Take an answer apart."""
    # dnspython reads the sections of an UPDATE differently.
    message = dns.message.from_wire(wire[:2] + bytes([wire[2] & 0x87]) + wire[3:])
    assert message.id == int.from_bytes(wire[:2], "big")
    end = 12 + len(dns.name.from_text(one.name).to_wire()) + 4
    aspects: dict[str, object] = {
        "rcode": message.rcode(),
        "opcode": wire[2] >> 3 & 15,
        "question": wire[12:end] if message.question else b"",  # in the very spelling
        "edns": message.edns,
        "size": message.payload if message.edns >= 0 else 0,
        "do": message.ednsflags if message.edns >= 0 else 0,
        "ede": [o.code for o in message.options if isinstance(o, dns.edns.EDEOption)],
        "options": [o.otype for o in message.options if not isinstance(o, dns.edns.EDEOption)],
    }
    for flag in ("QR", "AA", "TC", "RD", "RA", "AD", "CD"):
        aspects[flag] = bool(message.flags & dns.flags.Flag[flag])
    aspects["Z"] = bool(message.flags & 0x40)
    for name, section in zip(SECTIONS, message.sections[1:], strict=True):
        aspects[name] = {
            (rrset.name.canonicalize(), dns.rdatatype.to_text(rrset.rdtype), rdata.to_digestable())
            for rrset in section
            for rdata in rrset
        }
    # A chain must come in its order.
    aspects["order"] = [(r.name.canonicalize(), r.rdtype) for r in message.answer]
    return Seen(message, len(wire), aspects)


def ttls(seen: Seen) -> dict[object, int]:
    """The TTL of each record."""
    return {
        (section, rrset.name.canonicalize(), rrset.rdtype, rrset.covers): rrset.ttl
        for section, rrsets in zip(SECTIONS, seen.message.sections[1:], strict=True)
        for rrset in rrsets
    }


def differences(ours: Seen, theirs: Seen, seconds: float) -> set[str]:
    """
    The aspects in which two answers differ.

    Args:
        seconds: since the first question.  No two TTLs of one record can be further apart.
    """
    found = {name for name, value in ours.aspects.items() if theirs.aspects[name] != value}
    other = ttls(theirs)
    for key, ttl in ttls(ours).items():
        apart = abs(ttl - other.get(key, ttl))
        if apart > TTL_S:
            found.add("ttl" if apart <= seconds + TTL_S else "ttl beyond")
    return found


RECORDS = {"answer", "authority", "additional", "order"}
TTL = {"ttl", "ttl beyond"}
META = {"OPT", "TSIG", "TKEY", "AXFR", "IXFR", "MAILB", "TYPE0"}


def _name(one: Ask) -> str:
    return str(one.name).lower().rstrip(".")


def is_special(one: Ask, ours: Seen, theirs: Seen) -> bool:
    """Only SOA and NS records, which are made up on both sides, may differ."""
    name = _name(one)
    mine, other = ours.aspects["answer"], theirs.aspects["answer"]
    return (
        any(name == zone or name.endswith("." + zone) for zone in SPECIAL)
        and ours.message.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
        and (one.qtype == "ANY" or all(key[1] in ("SOA", "NS") for key in mine ^ other))
    )


def is_minimal_any(one: Ask, ours: Seen, _theirs: Seen) -> bool:
    """One HINFO record, and nothing else."""
    answer = ours.message.answer
    return (
        one.qtype == "ANY"
        and ours.message.rcode() == 0
        and [r.to_text() for rrset in answer for r in rrset] == ['"RFC8482" ""']
        and not ours.message.authority
    )


def is_signal(one: Ask, ours: Seen, _theirs: Seen) -> bool:
    """NXDOMAIN for names by which browsers ask whether they may go elsewhere."""
    return _name(one) in SIGNALS and ours.message.rcode() == dns.rcode.NXDOMAIN


def is_over_limit(one: Ask, ours: Seen, theirs: Seen) -> bool:
    """TC without records; what TCP says is compared by itself."""
    limit = min(max(one.size or 512, 512), 1232)
    return (
        not one.tcp
        and bool(ours.aspects["TC"])
        and not any(ours.message.sections[1:])
        and (bool(theirs.aspects["TC"]) or theirs.size > limit)
    )


def is_cut_by_unbound(one: Ask, ours: Seen, theirs: Seen) -> bool:
    """Unbound leaves additional records out to stay below the limit, we send to TCP instead."""
    return (
        not one.tcp
        and bool(ours.aspects["TC"])
        and not theirs.aspects["TC"]
        and not any(ours.message.sections[1:])
    )


def is_no_question(one: Ask, ours: Seen, theirs: Seen) -> bool:
    """Refused by both, in other words."""
    return (
        (one.opcode != 0 or one.qtype in META)
        and ours.message.rcode() in (dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.REFUSED)
        and not ours.message.answer
        and not theirs.message.answer
    )


def is_other_class(one: Ask, ours: Seen, _theirs: Seen) -> bool:
    """REFUSED, without records."""
    return one.qclass != "IN" and ours.message.rcode() == dns.rcode.REFUSED


def is_cookie(one: Ask, ours: Seen, theirs: Seen) -> bool:
    """A server cookie for a client cookie (RFC 7873); this Unbound has none."""
    return (
        one.options[:2] == b"\0\x0a"
        and ours.aspects["options"] == [dns.edns.OptionType.COOKIE]
        and theirs.aspects["options"] == []
    )


def is_failure(_one: Ask, ours: Seen, theirs: Seen) -> bool:
    """SERVFAIL from both: Unbound names the first cause once, and a general one from its cache."""
    return ours.message.rcode() == theirs.message.rcode() == dns.rcode.SERVFAIL


def is_unrecursive(one: Ask, ours: Seen, _theirs: Seen) -> bool:
    """RD is copied from the query (RFC 1035 section 4.1.1); Unbound sets it."""
    return not one.rd and not ours.aspects["RD"]


def is_referral(one: Ask, ours: Seen, theirs: Seen) -> bool:
    """Unbound has nothing in its cache and names servers; with RD=1 both are asked again."""
    return (
        not one.rd
        and ours.message.rcode() != dns.rcode.REFUSED
        and not theirs.message.answer
        and {rrset.rdtype for rrset in theirs.message.authority}
        <= {dns.rdatatype.NS, dns.rdatatype.RRSIG, dns.rdatatype.DS, dns.rdatatype.NSEC}
    )


def is_made_cname(_one: Ask, ours: Seen, theirs: Seen) -> bool:
    """Unbound gives a CNAME made from a DNAME no TTL at first, and the DNAME's from its cache."""
    other = ttls(theirs)
    odd = {key for key, ttl in ttls(ours).items() if abs(ttl - other.get(key, ttl)) > TTL_S}
    return (
        any(rrset.rdtype == dns.rdatatype.DNAME for rrset in ours.message.answer)
        and all(key[0] == "answer" and key[2] == dns.rdatatype.CNAME for key in odd)
        and all(0 in (ttls(ours)[key], other[key]) for key in odd)
    )


def is_renewed(_one: Ask, _ours: Seen, _theirs: Seen) -> bool:
    """
    Unbound keeps records by themselves and in messages, and renews them when it sees them again.

    There can only be a few: see RARE.
    """
    return True


def is_unchecked(one: Ask, ours: Seen, theirs: Seen) -> bool:
    """CD: Unbound knows that records are authentic if it checked them before, for somebody else."""
    return one.cd and ours.message.rcode() == theirs.message.rcode() == dns.rcode.NOERROR


# Why answers may differ: the reason, what it explains, and when it holds.
REASONS = (
    ("ANY gets one HINFO record (RFC 8482)", {*RECORDS, "rcode", "AA", "AD", "TC", "ede", *TTL},
     is_minimal_any),
    ("special names: SOA and NS made up, no authority claimed", {*RECORDS, "rcode", "AA"},
     is_special),
    ("signals to browsers are answered here", {*RECORDS, "rcode", "AD"}, is_signal),
    ("over the UDP limit (1232): TC, no records; TCP says the same", {*RECORDS, "TC", "AD"},
     is_over_limit),
    ("additional records are not cut: TC; TCP says the same", {*RECORDS, "TC", "AD"},
     is_cut_by_unbound),
    ("no question to a resolver: refused in other words",
     {"rcode", "RA", "AD", "CD", "RD", "question", "edns", "size", "do", "authority", "ede"},
     is_no_question),
    ("other classes than IN are refused", {*RECORDS, "rcode", "RA", "AA", "AD", "TC", "ede"},
     is_other_class),
    ("a DNS cookie is answered", {"options"}, is_cookie),
    ("SERVFAIL: the cause in other words", {"ede"}, is_failure),
    ("RD=0: forwarded all the same; with RD=1 both say that", {*RECORDS, "rcode", "AD", "ede"},
     is_referral),
    ("Unbound's TTLs of CNAMEs made from DNAMEs", TTL, is_made_cname),
    ("TTLs of records that Unbound's two caches learnt at different times", {"ttl"}, is_renewed),
    ("CD: authentic only if Unbound checked it before", {"AD"}, is_unchecked),
    ("RD=0 stays 0", {"RD"}, is_unrecursive),
)  # fmt: skip

# Those that depend on who asked first.
CHANCE = {
    "Unbound's TTLs of CNAMEs made from DNAMEs",
    "SERVFAIL: the cause in other words",
    "CD: authentic only if Unbound checked it before",
    "TTLs of records that Unbound's two caches learnt at different times",
}
RARE = 0.01  # the largest share of answers that any of these may concern


def explain(one: Ask, ours: Seen, theirs: Seen, seconds: float) -> tuple[set[str], set[str]]:
    """The reasons of all that differs, and the aspects for which there is none."""
    left = differences(ours, theirs, seconds)
    reasons = set()
    for reason, may, holds in REASONS:
        if left & may and holds(one, ours, theirs):
            left -= may
            reasons.add(reason)
    return reasons, left


async def test_the_same_answers_as_unbound(tmp_path):
    """
    10,000 questions of all kinds: the same RCODE, records, flags and EDNS as Unbound gives by
    itself, but for what has a reason; every truncated answer is asked for again over TCP.
    """
    bind, anchors = internet(tmp_path / "net")
    (tmp_path / "list.txt").write_text("evil.listed.example\n")
    reasons: Counter[str] = Counter()
    unexplained = []
    same = compared = 0
    with bind, Unbound(tmp_path / "unbound", bind.port, anchors, UNBOUND) as unbound:
        running = Server(
            tmp_path,
            '[server]\nlisten = ["127.0.0.1:0"]\n'
            f'[forward]\nupstreams = ["127.0.0.1:{unbound.port}"]\ntrust_ad = true\n'
            '[[feed]]\nname = "list"\npath = "list.txt"\nformat = "domains"\n',
        )
        try:
            running.start()
            started = time.monotonic()
            waiting = asks(COUNT, random.Random(SEED))
            for turn in itertools.count():
                part, waiting = waiting[:BATCH], waiting[BATCH:]
                if not part:
                    break
                if turn % 2:  # whoever asks first makes Unbound find it out
                    ours = await ask_all(("127.0.0.1", running.port), part)
                    theirs = await ask_all(unbound.address, part)
                else:
                    theirs = await ask_all(unbound.address, part)
                    ours = await ask_all(("127.0.0.1", running.port), part)
                for one, mine, other in zip(part, ours, theirs, strict=True):
                    assert mine is not None, f"UrlGuard did not answer {one}"
                    assert other is not None, f"Unbound did not answer {one}"
                    left, right = look(one, mine), look(one, other)
                    why, none = explain(one, left, right, time.monotonic() - started)
                    compared += 1
                    same += not why and not none
                    reasons.update(why)
                    if none:
                        unexplained.append((none, one, left.message, right.message))
                    if (left.aspects["TC"] or right.aspects["TC"]) and not one.tcp:
                        waiting.append(one._replace(tcp=True))
                    elif not one.rd and is_referral(one, left, right):
                        waiting.append(one._replace(rd=True))
            seconds = time.monotonic() - started
        finally:
            running.kill_all()
    print(f"{compared} questions in {seconds:.0f} s: {same} the same")
    for reason, count in reasons.most_common():
        print(f"{count:6}  {reason}")
    kinds = Counter(", ".join(sorted(none)) for none, *_ in unexplained)
    shown = [
        f"{none} {one}\n{ours}\n-- Unbound\n{theirs}" for none, one, ours, theirs in unexplained
    ]
    assert not unexplained, f"{kinds}\n" + "\n\n".join(shown[:12])
    assert same > 0.8 * compared
    assert all(reasons[reason] < RARE * compared for reason in CHANCE)
    assert {reason for reason, *_ in REASONS} - set(reasons) <= CHANCE, "it never comes up"
