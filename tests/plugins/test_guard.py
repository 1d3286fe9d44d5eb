"""What a blocked name gets, and an answer that leads to one."""

import ipaddress

import dns.message
import dns.rdatatype
import pytest

from tests.plugins.scripted import FakeActiveEngine, as_answer, made, ruling
from urlguard import config
from urlguard.blocklist import snapshot
from urlguard.blocklist.overlay import Overlay
from urlguard.engine import Engine
from urlguard.plugins import Answer, Parts
from urlguard.plugins.clients import Client
from urlguard.plugins.guard import Guard
from urlguard.verdict import Ruling
from urlguard.wire.answer import error

TYPES = [
    "A",
    "AAAA",
    "ANY",
    "SOA",
    "HTTPS",
    "SVCB",
    "MX",
    "TXT",
    "NS",
    "CNAME",
    "DS",
    "DNSKEY",
    "SRV",
    "CAA",
    "PTR",
    "TYPE65280",
]
GIVEN = {"sinkhole": ("192.0.2.80", "2001:db8::80"), "zero": ("0.0.0.0", "::")}


def guard(active, answer="sinkhole", segments=(), **keys):
    """A guard with the given mode."""
    options = config.Guard(
        answer=answer,
        sinkhole_ipv4=ipaddress.IPv4Address("192.0.2.80"),
        sinkhole_ipv6=ipaddress.IPv6Address("2001:db8::80"),
        block_ttl_s=42,
        **keys,
    )
    return Guard(active, options, {"feed:court"}, segments)


def client(segment=None):
    """A client, of a segment or of none."""
    who = Client("192.0.2.99", ipaddress.IPv4Address("192.0.2.99"))
    who.segment = segment
    return who


def expected(mode, qtype):
    """Rcode, answer records, whether a SOA stands in authority, EDE code: the page's table."""
    if mode in GIVEN:
        ipv4, ipv6 = GIVEN[mode]
        if qtype in ("A", "ANY"):
            return 0, [("A", ipv4)], False, 4
        if qtype == "AAAA":
            return 0, [("AAAA", ipv6)], False, 4
        if qtype == "SOA":
            return 0, [("SOA", None)], False, 4
        return 0, [], True, 15
    return {"nodata": (0, [], True, 15), "nxdomain": (3, [], True, 15)}.get(
        mode, (5, [], False, 15)
    )


@pytest.mark.parametrize("mode", ["sinkhole", "zero", "nodata", "nxdomain", "refused"])
@pytest.mark.parametrize("qtype", TYPES)
@pytest.mark.parametrize("edns", [True, False])
def test_blocked_names_are_answered_for_every_type(active, query, mode, qtype, edns):
    """
    No type of a blocked name goes upstream, and each gets the records and reason of its mode.
    """
    for name, regulator in (("evil.example", False), ("ordered.example", True)):
        answer = guard(active, mode).on_query(query(name, qtype, edns=edns))
        got = dns.message.from_wire(answer.wire)
        rcode, records, soa, ede = expected(mode, qtype)
        assert got.rcode() == rcode
        assert [dns.rdatatype.to_text(r.rdtype) for r in got.answer] == [t for t, _ in records]
        for rrset, (_, text) in zip(got.answer, records, strict=True):
            assert text is None or rrset[0].to_text() == text
        assert [r.rdtype for r in got.authority] == [dns.rdatatype.SOA] * soa
        assert all(r.ttl == 42 for r in got.answer + got.authority)
        assert all(r.name == got.question[0].name for r in got.answer + got.authority)
        codes = [(o.code, o.text) for o in got.options]
        assert codes == ([(16 if regulator else ede, None)] if edns else [])
        assert got.edns == (0 if edns else -1)
        assert (answer.source, answer.ruling) == ("guard", active.rulings[name])
        assert b"phishing" not in answer.wire


@pytest.mark.parametrize(
    "name", ["grey.example", "good.example", "excused.example", "example.org", "."]
)
def test_only_block_rulings_are_answered(active, query, name):
    """
    Review, allow and no ruling at all let the query pass.
    """
    assert guard(active, "sinkhole").on_query(query(name)) is None


def test_spelling_makes_no_difference(active, query):
    """
    A name is judged in lower case and answered as it was spelled.
    """
    answer = guard(active, "sinkhole").on_query(query("eViL.eXaMpLe"))
    assert b"\4eViL\7eXaMpLe" in answer.wire


def test_the_engine_in_use_is_read_for_each_query(active, query):
    """
    A swapped engine judges the very next query.
    """
    plugin = guard(active, "sinkhole")
    assert plugin.on_query(query("evil.example")) is not None
    active.engine = FakeActiveEngine().engine
    assert plugin.on_query(query("evil.example")) is None


def test_regulators_are_the_feeds_that_say_so(active, query):
    """
    EDE 16 follows ``regulator = true`` in the feed's section.
    """
    feeds = (config.Feed(name="court", regulator=True), config.Feed(name="x"))
    whole = config.Config(feed=feeds)
    plugin = Guard.from_config(whole.guard, Parts(whole, active, None, None))
    for name, code in (("ordered.example", 16), ("evil.example", 4)):
        got = dns.message.from_wire(plugin.on_query(query(name)).wire)
        assert [o.code for o in got.options] == [code]


# ---- where an upstream's answer leads


def judged(plugin, x, *lines, **keys):
    """What becomes of an upstream's answer to `q`: the answer, and what the client reads."""
    asked = plugin.on_query(x)
    assert asked is None
    found = plugin.on_answer(x, as_answer(made(x, *lines, **keys)))
    return found, dns.message.from_wire(found.octets(x))


def texts(got):
    """The data of the answer section."""
    return [r.to_text() for rrset in got.answer for r in rrset]


WWW = "www.example.org"
LEADING = {
    "cname": ("A", [f"{WWW}. 60 CNAME evil.example.", "evil.example. 60 A 192.0.2.7"]),
    "depth": (
        "A",
        [
            f"{WWW}. 60 CNAME a1.example.",
            *[f"a{i}.example. 60 CNAME a{i + 1}.example." for i in range(1, 8)],
            "a8.example. 60 CNAME evil.example.",
            "evil.example. 60 CNAME end.example.",
            "end.example. 60 A 192.0.2.7",
        ],
    ),
    "without address": ("A", [f"{WWW}. 60 CNAME evil.example."]),
    "spelling": ("A", [f"{WWW}. 60 CNAME EVIL.Example."]),
    "dname": (
        "A",
        ["example.org. 60 DNAME evil.example.", f"{WWW}. 60 CNAME www.evil.example."],
    ),
    "owner": ("A", ["evil.example. 60 A 192.0.2.7"]),
    "https": ("HTTPS", [f"{WWW}. 60 HTTPS 1 evil.example. alpn=h2 ipv4hint=192.0.2.7"]),
    "alias": ("HTTPS", [f"{WWW}. 60 HTTPS 0 evil.example."]),
    "svcb": ("SVCB", [f"{WWW}. 60 SVCB 1 evil.example. port=443"]),
    "any": ("ANY", [f"{WWW}. 60 CNAME evil.example."]),
    "asked as": ("CNAME", [f"{WWW}. 60 CNAME evil.example."]),
}


@pytest.mark.parametrize(("qtype", "lines"), LEADING.values(), ids=LEADING)
@pytest.mark.parametrize("mode", ["sinkhole", "nxdomain", "refused"])
def test_an_answer_that_leads_to_a_blocked_name_is_blocked(active, query, qtype, lines, mode):
    """
    By whatever record and at whatever depth; the client gets what the name itself would have got.
    """
    plugin = guard(active, mode)
    found, got = judged(plugin, query(WWW, qtype), *lines)
    rcode, records, _, ede = expected(mode, qtype)
    assert (found.source, found.ruling) == ("guard", active.rulings["evil.example"])
    assert (got.rcode(), texts(got)) == (rcode, [text for _, text in records])
    assert [int(o.code) for o in got.options] == [ede]
    assert b"evil" not in found.octets(query(WWW, qtype))
    assert all(r.name.to_text() == f"{WWW}." for r in got.answer + got.authority)
    assert plugin.counters["answers_blocked"] == 1


def test_answers_that_lead_nowhere_bad_pass_as_they_are(active, query):
    """
    The same answer, not a copy; so do answers of our own, and those that lead nowhere.
    """
    plugin = guard(active)
    x = query(WWW)
    lines = [f"{WWW}. 60 CNAME other.example.", "other.example. 60 A 192.0.2.7"]
    for found in (as_answer(made(x, *lines)), Answer(error(x, 3), "special")):
        before = found.reply
        assert plugin.on_answer(x, found) is found
        assert (found.reply, found.ruling) == (before, None)
    assert not plugin.counters


def test_a_name_that_is_only_mentioned_goes_without_its_addresses(active, query):
    """
    Additional records of a blocked name are left out with the section; the answer stays.
    """
    plugin = guard(active)
    lines = [f"{WWW}. 60 MX 10 mail.example.", f"{WWW}. 60 MX 20 evil.example."]
    more = ("mail.example. 60 A 192.0.2.7", "evil.example. 60 A 192.0.2.8")
    found, got = judged(plugin, query(WWW, "MX"), *lines, additional=more)
    assert len(texts(got)) == 2
    assert got.additional == []
    assert (found.source, found.ruling) == ("forward", None)
    assert plugin.counters["additional_removed"] == 1
    _, got = judged(plugin, query(WWW, "MX"), *lines, additional=more[:1])
    assert len(got.additional) == 1
    assert plugin.counters["additional_removed"] == 1


def test_a_remembered_answer_is_judged_again_after_each_change(active, query):
    """
    One reply, from a cache: allowed, blocked after a change of policy, and allowed after another.
    """
    plugin = guard(active)
    x = query(WWW)
    lines = [f"{WWW}. 60 CNAME new.example.", "new.example. 60 A 192.0.2.7"]
    reply = made(x, *lines)
    for rule, address in [(None, "192.0.2.7"), (ruling(), "192.0.2.80")] * 2:
        active.change(new_example=rule)
        for _ in range(2):
            found = plugin.on_answer(x, as_answer(reply))
            assert texts(dns.message.from_wire(found.octets(x)))[-1] == address


def test_a_remembered_answer_is_judged_once_for_each_policy(active, query):
    """
    The engine is not asked about its names with each hit.
    """
    plugin = guard(active)
    x = query(WWW)
    reply = made(x, f"{WWW}. 60 CNAME a.example.", "a.example. 60 A 192.0.2.7")
    for _ in range(5):
        plugin.on_answer(x, as_answer(reply))
    assert active.asked.count("a.example") == 1
    active.change()
    plugin.on_answer(x, as_answer(reply))
    assert active.asked.count("a.example") == 2


def test_review_goes_along_with_the_answer(active, query):
    """
    Of the name asked, or of one that the answer leads to: the log wants to know, the client not.
    """
    plugin = guard(active)
    found, got = judged(plugin, query("grey.example"), "grey.example. 60 A 192.0.2.7")
    assert (found.ruling, texts(got)) == (active.rulings["grey.example"], ["192.0.2.7"])
    lines = [f"{WWW}. 60 CNAME grey.example.", "grey.example. 60 A 192.0.2.7"]
    found, got = judged(plugin, query(WWW), *lines)
    assert (found.ruling, len(texts(got))) == (active.rulings["grey.example"], 2)


def test_review_of_the_name_asked_does_not_shield_where_it_leads(active, query):
    """
    A block at the end of the way is stronger.
    """
    found, _ = judged(guard(active), query("grey.example"), "grey.example. 60 CNAME evil.example.")
    assert found.ruling.action == "block"


@pytest.mark.parametrize(("name", "blocked"), [("excused.example", False), ("good.example", True)])
def test_people_who_let_a_name_through_mean_all_of_it(active, query, name, blocked):
    """
    An operator's allow covers where the name leads; a feed's allow covers the name alone.
    """
    found, _ = judged(guard(active), query(name), f"{name}. 60 CNAME evil.example.")
    assert (found.source == "guard") is blocked


def test_an_operators_allow_at_the_target_is_an_allow(active, query):
    """
    Names on the way are judged as if they had been asked for.
    """
    found, _ = judged(guard(active), query(WWW), f"{WWW}. 60 CNAME excused.example.")
    assert found.source == "forward"


def test_a_regulators_order_is_named_as_such_behind_an_alias_too(active, query):
    """
    EDE 16 also where the answer led to the name.
    """
    _, got = judged(guard(active), query(WWW), f"{WWW}. 60 CNAME ordered.example.")
    assert [int(o.code) for o in got.options] == [16]


# ---- segments

OPEN = config.Segment(name="open", filter=False)
STRICT = config.Segment(
    name="strict",
    answer="sinkhole",
    sinkhole_ipv4=ipaddress.IPv4Address("192.0.2.81"),
    block_ttl_s=7,
)
ONLY_ADS = config.Segment(name="only-ads", categories=("ads",), answer="nxdomain")
NO_ADS = config.Segment(name="no-ads", pass_categories=("ads",), answer="refused")
SEGMENTS = (OPEN, STRICT, ONLY_ADS, NO_ADS)


@pytest.mark.parametrize(
    ("segment", "phishing", "ads"),
    [
        (None, ["192.0.2.80"], ["192.0.2.80"]),
        (OPEN, None, None),
        (STRICT, ["192.0.2.81"], ["192.0.2.81"]),
        (ONLY_ADS, None, 3),
        (NO_ADS, 5, None),
    ],
)
@pytest.mark.parametrize("alias", [False, True])
def test_a_segment_has_a_policy_of_its_own(active, query, segment, phishing, ads, alias):
    """
    Which categories are blocked, and what the client gets, for names and for where answers lead.
    """
    plugin = guard(active, segments=SEGMENTS)
    for name, outcome in (("evil.example", phishing), ("ads.example", ads)):
        if alias:
            found, got = judged(plugin, query(WWW, who=client(segment)), f"{WWW}. 60 CNAME {name}.")
            found = None if found.source == "forward" else found
        else:
            x = query(name, who=client(segment))
            found = plugin.on_query(x)
            got = None if found is None else dns.message.from_wire(found.octets(x))
        if outcome is None:
            assert found is None
        elif isinstance(outcome, int):
            assert (got.rcode(), texts(got)) == (outcome, [])
        else:
            assert texts(got) == outcome
            assert got.answer[0].ttl == (7 if segment is STRICT else 42)


def test_what_a_segment_does_not_set_is_as_for_everybody(active, query):
    """
    The IPv6 sinkhole of a segment that only has one for IPv4; the answer of one that names none.
    """
    plugin = guard(active, segments=SEGMENTS)
    found = plugin.on_query(query("evil.example", "AAAA", who=client(STRICT)))
    assert texts(dns.message.from_wire(found.wire)) == ["2001:db8::80"]
    plain = config.Segment(name="plain")
    found = guard(active, segments=(plain,)).on_query(query("evil.example", who=client(plain)))
    assert texts(dns.message.from_wire(found.wire)) == ["192.0.2.80"]


def test_one_remembered_reply_serves_segments_apart(active, query):
    """
    What was worked out for one client says nothing about the next one's segment.
    """
    plugin = guard(active, segments=SEGMENTS)
    reply = made(query(WWW), f"{WWW}. 60 CNAME evil.example.", "evil.example. 60 A 192.0.2.7")
    for segment, source in [(OPEN, "forward"), (STRICT, "guard"), (None, "guard")] * 2:
        x = query(WWW, who=client(segment))
        assert plugin.on_answer(x, as_answer(reply)).source == source
    both = made(query(WWW), f"{WWW}. 60 CNAME ads.example.", "ads.example. 60 CNAME evil.example.")
    found = plugin.on_answer(query(WWW, who=client(NO_ADS)), as_answer(both))
    assert found.ruling.category == "phishing"


def test_additional_records_stay_for_those_whom_it_does_not_concern(active, query):
    """
    Leaving them out for one segment leaves the remembered reply whole.
    """
    plugin = guard(active, segments=SEGMENTS)
    more = ("evil.example. 60 A 192.0.2.8",)
    reply = made(query(WWW, "MX"), f"{WWW}. 60 MX 20 evil.example.", additional=more)
    for segment, count in [(None, 0), (OPEN, 1), (None, 0), (ONLY_ADS, 1)]:
        x = query(WWW, "MX", who=client(segment))
        found = plugin.on_answer(x, as_answer(reply))
        assert len(dns.message.from_wire(found.octets(x)).additional) == count


# ---- pause and canary


def test_while_filtering_is_paused_nothing_is_blocked_but_the_canary(active, query):
    """
    Neither names nor what answers lead to; monitoring still sees that the server answers.
    """
    plugin = guard(active, segments=SEGMENTS)
    alias = made(query(WWW), f"{WWW}. 60 CNAME evil.example.", "evil.example. 60 A 192.0.2.7")
    for paused in (False, True, False):
        active.engine.paused = paused
        active.change()
        assert (plugin.on_query(query("evil.example")) is None) is paused
        x = query(WWW)
        assert (plugin.on_answer(x, as_answer(alias)).source == "forward") is paused
        assert plugin.on_query(query("canary.urlguard.test")).source == "guard"


@pytest.mark.parametrize("segment", [None, *SEGMENTS])
def test_the_canary_is_blocked_for_everybody(active, query, segment):
    """
    Whatever the segment lets pass, with no rule behind it and a category of its own.
    """
    plugin = guard(active, segments=SEGMENTS)
    found = plugin.on_query(query("Canary.UrlGuard.test", who=client(segment)))
    assert (found.ruling.action, found.ruling.category) == ("block", "canary")
    assert active.asked == ["canary.urlguard.test"]  # the engine must be able to answer at all


def test_the_canarys_name_is_the_configurations(active, query):
    """
    Without a name there is none.
    """
    plugin = guard(active, canary="test.isp.example")
    assert plugin.on_query(query("test.isp.example")) is not None
    assert plugin.on_query(query("canary.urlguard.test")) is None


def test_a_closed_guard_no_longer_listens(active):
    """
    A reload leaves nothing behind in the worker's cell.
    """
    plugin = guard(active)
    assert len(active.callbacks) == 1
    plugin.close()
    assert active.callbacks == []


# ---- rules in shadow


def in_shadow(*keys, source="feed:new"):
    """An engine's rules in shadow, as it gives them."""
    found = Engine(snapshot.nothing(), Overlay(0))
    rulings = [(k, Ruling("shadow", "fraud", (source,), 1, *k.split(" "))) for k in keys]
    found.overlay.apply(rulings, 1)
    return lambda: found


def noted(x):
    """The rules that were noted for whoever books the answer."""
    return [r.value for r in x.shadows or ()]


def test_a_shadow_is_noted_and_changes_nothing(active, query):
    """
    Where nothing else decides, where a rule blocks, reviews or allows: noted, and answered alike.
    """
    names = ("far.example", "evil.example", "grey.example", "good.example")
    plain = guard(active)
    without = [plain.on_query(query(name)) for name in names]
    active.engine.shadow = in_shadow(*(f"subtree {name}" for name in names))
    plugin = guard(active)
    for name, before in zip(names, without, strict=True):
        x = query(name)
        after = plugin.on_query(x)
        assert (after and after.wire[2:]) == (before and before.wire[2:])  # but for the ID
        assert noted(x) == [name]
    assert noted(query("other.example")) == []


def test_shadows_come_and_go_with_the_policy(active, query):
    """
    They are looked up anew after each change.
    """
    plugin = guard(active)
    active.engine.shadow = in_shadow("subtree far.example")
    for changed in (True, False):
        for callback in active.callbacks:
            callback(None)
        x = query("www.far.example")
        plugin.on_query(x)
        assert bool(x.shadows) is changed
        active.engine.shadow = lambda: None


def test_a_shadow_over_what_an_answer_leads_to(active, query):
    """
    A CNAME to a shadowed name would be blocked, so it is noted; once for one rule.
    """
    active.engine.shadow = in_shadow("subtree cloaked.example", "subtree far.example")
    plugin = guard(active)
    x = query("www.far.example")
    plugin.on_query(x)
    reply = made(
        x,
        "www.far.example. 60 CNAME x.cloaked.example.",
        "x.cloaked.example. 60 CNAME y.far.example.",
        "y.far.example. 60 A 192.0.2.1",
    )
    before = as_answer(reply)
    assert plugin.on_answer(x, before) is before
    assert sorted(noted(x)) == ["cloaked.example", "far.example"]


def test_a_shadow_counts_where_it_would_be_in_force(active, query):
    """
    Clients whose segment is not filtered, or not in this category, would notice nothing.
    """
    segments = (
        config.Segment(name="free", filter=False),
        config.Segment(name="only", categories=("ads",)),
        config.Segment(name="never", pass_categories=("fraud",)),
        config.Segment(name="same", answer="nxdomain"),
    )
    active.engine.shadow = in_shadow("subtree far.example")
    plugin = guard(active, segments=segments)
    for segment, counts in zip((None, *segments), (1, 0, 0, 0, 1), strict=True):
        x = query("far.example")
        x.client = client(segment)
        plugin.on_query(x)
        assert len(x.shadows or ()) == counts, segment
