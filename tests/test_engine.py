"""The engine: which rule decides about a name or a URL."""

import contextlib
import math
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.logs import open_file
from urlguard import urls, wellknown
from urlguard.blocklist import snapshot
from urlguard.blocklist.overlay import Overlay
from urlguard.blocklist.pause import pause_category, pause_end
from urlguard.engine import ActiveEngine, Engine
from urlguard.policy.model import Change
from urlguard.rules import PAUSE
from urlguard.verdict import Ruling, decode


def engine(claims, compiled_after=None):
    """
    The engine for claims ``"SOURCE ACTION KIND VALUE"``, each a batch; action ``end`` withdraws.

    The first `compiled_after` are in the snapshot, all if None; the rest is in the overlay.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = open_file(Path(folder) / "policy.db")
        with contextlib.closing(log):
            opened, overlay = snapshot.nothing(), Overlay(0)
            for number, claim in enumerate([*claims, None]):
                if number == (len(claims) if compiled_after is None else compiled_after):
                    path = snapshot.write(Path(folder), log.serial, log.rulings())
                    opened = snapshot.open_folder(path)
                    overlay = Overlay(opened.serial)
                if claim is not None:
                    source, action, rule = claim.split(" ", 2)
                    change = Change(rule, None if action == "end" else action, "fraud")
                    log.commit(source, [change], actor="test", reason="")
            changes = log.store.changes(opened.serial)
            overlay.apply(((k, decode(after, k)) for k, after, _ in changes), log.serial)
    return Engine(opened, overlay)


BLOCK, REVIEW, ALLOW, NONE = "block", "review", "allow", None

PRECEDENCE = {
    "nothing is said": ([], NONE),
    "a feed blocks": (["feed:a block subtree evil.example"], BLOCK),
    "of the name alone": (["feed:a block domain www.evil.example"], BLOCK),
    "of another name alone": (["feed:a block domain evil.example"], NONE),
    "below the name's parent": (["feed:a block below evil.example"], BLOCK),
    "below the name itself": (["feed:a block below www.evil.example"], NONE),
    "operator beats feed": (
        ["feed:a block domain www.evil.example", "operator allow subtree example"],
        ALLOW,
    ),
    "analyst beats feed": (
        ["feed:a allow domain www.evil.example", "analyst:eve block subtree example"],
        BLOCK,
    ),
    "exact beats subtree": (
        ["feed:a block domain www.evil.example", "feed:b allow subtree www.evil.example"],
        BLOCK,
    ),
    "the longer subtree wins": (
        ["feed:a block subtree www.evil.example", "feed:b allow subtree evil.example"],
        BLOCK,
    ),
    "below and subtree are equal": (
        ["feed:a block below evil.example", "feed:b allow subtree evil.example"],
        ALLOW,
    ),
    "the longer below beats the shorter subtree": (
        ["feed:a review below evil.example", "feed:b allow subtree example"],
        REVIEW,
    ),
    "allow beats block": (
        ["feed:a block subtree evil.example", "feed:b allow subtree evil.example"],
        ALLOW,
    ),
    "block beats review": (
        ["feed:a review subtree evil.example", "feed:b block subtree evil.example"],
        BLOCK,
    ),
    "operator's wide rule beats a feed's exact one": (
        ["feed:a block domain www.evil.example", "operator review subtree example"],
        REVIEW,
    ),
    "operator's exact beats operator's wide": (
        ["operator block subtree example", "operator allow domain www.evil.example"],
        ALLOW,
    ),
    "feed beats pattern": (
        ["feed:a review subtree evil.example", "operator block pattern *evil*"],
        REVIEW,
    ),
    "a pattern alone": (["feed:a block pattern *evil*"], BLOCK),
    "the longer pattern wins": (
        ["feed:a block pattern *evil.example", "feed:b review pattern *evil*"],
        BLOCK,
    ),
    "operator's pattern beats a feed's longer one": (
        ["feed:a block pattern *evil.example", "operator allow pattern *evil*"],
        ALLOW,
    ),
    "an exception ends the feed's say": (
        ["feed:a block subtree example", "feed:a except subtree evil.example"],
        NONE,
    ),
    "another feed's stands": (
        ["feed:b block subtree example", "feed:a except subtree evil.example"],
        BLOCK,
    ),
    "another feed's below stands at an exception": (
        ["feed:a except subtree evil.example", "feed:b block below evil.example"],
        BLOCK,
    ),
    "its own below does not": (
        ["feed:a except subtree evil.example", "feed:a block below evil.example"],
        NONE,
    ),
    "an exception below leaves the subtree to others": (
        ["feed:a except below evil.example", "feed:b block subtree evil.example"],
        BLOCK,
    ),
    "after an exception patterns are asked": (
        ["feed:a except subtree evil.example", "feed:b block pattern *evil*"],
        BLOCK,
    ),
    "an exception does not touch people": (
        ["feed:a except domain www.evil.example", "operator block subtree example"],
        BLOCK,
    ),
    "withdrawn": (
        ["feed:a block subtree evil.example", "feed:a end subtree evil.example"],
        NONE,
    ),
    "a pattern withdrawn": (
        ["feed:a block pattern *evil*", "feed:a end pattern *evil*"],
        NONE,
    ),
    "an operator's word withdrawn": (
        [
            "feed:a block subtree evil.example",
            "operator allow subtree evil.example",
            "operator end subtree evil.example",
        ],
        BLOCK,
    ),
    "a URL rule never blocks its host": (
        ["operator block url www.evil.example/", "feed:a block url evil.example/login"],
        NONE,
    ),
    "a pattern for URLs never blocks a host": (["operator block pattern *evil*/login*"], NONE),
}


@pytest.mark.parametrize(("claims", "action"), PRECEDENCE.values(), ids=PRECEDENCE)
def test_precedence(claims, action):
    """
    What decides about www.evil.example, from a snapshot, from the overlay, and from any mixture.
    """
    for compiled_after in range(len(claims) + 1):
        ruling = engine(claims, compiled_after).decide("www.evil.example")
        assert (ruling and ruling.action) == action, compiled_after


@pytest.mark.parametrize(
    ("rule", "url", "hit"),
    [
        ("evil.example/", "http://evil.example/", True),
        ("evil.example/", "http://evil.example/any/page?at=all", True),
        ("evil.example/", "https://www.evil.example:8443/", True),
        ("evil.example/login", "http://evil.example/login", True),
        ("evil.example/login", "http://evil.example/login?next=x", True),
        ("evil.example/login", "http://evil.example/login/more", False),
        ("evil.example/login", "http://evil.example/", False),
        ("evil.example/a/", "http://evil.example/a/b", True),
        ("evil.example/a?b=c", "http://evil.example/a", False),
        ("evil.example/a?b=c", "http://evil.example/a?b=c", True),
        ("192.0.2.1/", "http://192.0.2.1/x", True),
        ("192.0.2.1/x", "http://192.0.2.1/y", False),
    ],
)
def test_url_rules_cover_urls_only(rule, url, hit):
    """
    A rule's path covers what Safe Browsing says it covers; the host itself stays free.
    """
    for compiled_after in (0, 1):
        judge = engine([f"feed:a block url {rule}"], compiled_after)
        parsed = urls.parse(url)
        verdict = judge.url_verdict(parsed)
        assert (verdict.action, verdict.reason) == (
            ("block", "blocklist") if hit else ("none", "none")
        )
        if parsed.name:
            assert judge.verdict(parsed.name).action == "none"


@pytest.mark.parametrize(
    ("claims", "url", "said"),
    [
        # The most specific kind first: URL, exact name, longest subtree.
        (["block url x.example/a", "allow domain x.example"], "x.example/a", "block blocklist"),
        (["allow url x.example/a", "block subtree x.example"], "x.example/a", "allow allowlist"),
        (["block url x.example/", "allow url x.example/a"], "x.example/a", "allow allowlist"),
        (["allow url x.example/", "block url x.example/a"], "x.example/a", "block blocklist"),
        (["block subtree x.example"], "x.example/a", "block blocklist"),
        (["review below example"], "x.example/a", "review blocklist"),
        # Patterns, for URLs and for their hosts.
        (["block pattern */login*"], "x.example/login.php", "block pattern"),
        (["block pattern *evil*"], "evil.example/", "block pattern"),
        (["allow pattern *evil.example", "block pattern */login*"], "evil.example/login",
         "allow pattern"),
        (["block pattern */login*", "allow subtree x.example"], "x.example/login",
         "allow allowlist"),
        ([], "192.0.2.1/", "none none"),
        (["block pattern */login*"], "192.0.2.1/login", "block pattern"),
        (["block pattern */login*"], "im%20possible/login", "block pattern"),
    ],
)  # fmt: skip
def test_urls_are_judged_by_all_rules(claims, url, said):
    """
    Rules for the URL and its host are one tier; patterns come after them.
    """
    verdict = engine([f"feed:{i} {c}" for i, c in enumerate(claims)]).url_verdict(urls.parse(url))
    assert f"{verdict.action} {verdict.reason}" == said


def test_popular_names_stand_below_rules():
    """
    A popular name is allowed for that reason, also in a URL, unless a rule or pattern says more.
    """
    name = next(iter(wellknown.popular()))
    free = engine([])
    assert free.decide(name) is None
    assert free.verdict(f"www.{name}")[:3] == ("allow", "popular", None)
    assert free.url_verdict(urls.parse(f"{name}/x"))[:2] == ("allow", "popular")
    blocking = engine([f"operator block subtree {name}"])
    assert blocking.verdict(name)[:2] == ("block", "blocklist")
    pattern = engine([f"feed:a review pattern *{name}*"])
    assert pattern.verdict(name)[:2] == ("review", "pattern")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a\x00b.example", "ÿ.example", "x" * 5000, "evil.example.", " evil.example"],
)
def test_any_characters_are_a_name(name):
    """
    What a query spells may be anything; the engine answers and never raises.
    """
    judge = engine(["feed:a block domain evil.example", "feed:a block pattern *evil.net*"])
    assert judge.decide(name) is None


def test_live_tells_of_changes():
    """
    A swap is one assignment, after which everybody who asked is called.
    """
    active = ActiveEngine(engine([]))
    seen = []
    active.subscribe(lambda names: seen.append(active.engine))
    other = engine(["feed:a block domain evil.example"])
    active.swap(other)
    active.changed()
    assert seen == [other, other]


# -- oracles ---------------------------------------------------------------------------------------

VALUES = ["example", "a.example", "b.a.example"]
NAMES = [*VALUES, "c.b.a.example", "y.example", "xa.example"]
RULES = [f"{kind} {value}" for kind in ("domain", "subtree", "below") for value in VALUES]
RULES += ["url a.example/", "url a.example/p", "url example/", "pattern *a.exam*", "pattern */ppp*"]
SOURCES = ["operator", "feed:a", "feed:b", "feed:c", "feed:a", "feed:b"]


@st.composite
def claim(draw):
    """One claim; only feeds make exceptions, and only for names."""
    source, rule = draw(st.sampled_from(SOURCES)), draw(st.sampled_from(RULES))
    actions = ["block", "review", "allow", "end"]
    if source.startswith("feed:") and rule.split()[0] in ("domain", "subtree", "below"):
        actions += ["except"] * 2
    return f"{source} {draw(st.sampled_from(actions))} {rule}"


STRENGTH = {"review": 0, "block": 1, "allow": 2}


def naive(claims, name):
    """The action for a name by the words of the design alone; None without a rule."""
    standing = {}
    for text in claims:
        source, action, rule = text.split(" ", 2)
        standing[source, rule] = action
    tiers = {"people": [], "feeds": []}
    for (source, rule), action in standing.items():
        kind, value = rule.split()
        covers = {
            "domain": name == value,
            "subtree": name == value or name.endswith("." + value),
            "below": name.endswith("." + value),
        }.get(kind)
        if covers and action != "end":
            tier = "feeds" if source.startswith("feed:") else "people"
            tiers[tier].append((source, (kind == "domain", len(value)), action))
    for tier in tiers.values():
        left = [
            (specific, STRENGTH[action], action)
            for source, specific, action in tier
            if action != "except"
            and not any(s == source and a == "except" and other >= specific for s, other, a in tier)
        ]
        if left:
            return max(left)[2]
    patterns = [
        (source[:5] != "feed:", STRENGTH[action], action)
        for (source, rule), action in standing.items()
        if rule == "pattern *a.exam*" and action != "end" and "a.exam" in name
    ]
    return max(patterns)[2] if patterns else None


@settings(max_examples=150)
@given(st.lists(claim(), max_size=14), st.integers(0, 14))
def test_the_engine_follows_the_words_of_the_design(claims, compiled_after):
    """
    For any history of claims, compiled at any moment, names are judged as a naive reading of the
    precedence rules judges them.
    """
    judge = engine(claims, min(compiled_after, len(claims)))
    for name in NAMES:
        ruling = judge.decide(name)
        assert (ruling and ruling.action) == naive(claims, name), name


def shown(ruling):
    """What of a ruling the world sees: all but who else says so, and since when."""
    return ruling and (ruling._replace(sources=(), serial=0), ruling.operator)


@settings(max_examples=100)
@given(st.lists(claim(), max_size=14), st.integers(0, 14))
def test_snapshot_and_overlay_say_what_the_next_compile_will(claims, compiled_after):
    """
    The rest of a history in the overlay, or all of it compiled: names and URLs are judged alike.
    """
    mixed, whole = engine(claims, min(compiled_after, len(claims))), engine(claims)
    for name in NAMES:
        assert shown(mixed.decide(name)) == shown(whole.decide(name)), name
    for text in ("a.example/", "a.example/p", "b.a.example/p?q", "x.example/pppp", "192.0.2.1/ppp"):
        url = urls.parse(text)
        one, other = mixed.url_verdict(url), whole.url_verdict(url)
        assert one[:2] == other[:2]
        assert shown(one.rule) == shown(other.rule)


PAUSED, RESUMED = "operator allow pause filtering", "operator end pause filtering"
RULE = "operator block subtree evil.example"


@pytest.mark.parametrize("compiled_after", [0, 1, 2, None])
@pytest.mark.parametrize(
    ("claims", "paused"),
    [
        ([RULE], False),
        ([RULE, PAUSED], True),
        ([PAUSED, RULE], True),
        ([RULE, PAUSED, RESUMED], False),
    ],
)
def test_a_pause_is_known_and_changes_no_verdict(claims, paused, compiled_after):
    """
    The overlay's word replaces the snapshot's; what rules say stays the same.
    """
    found = engine(claims, compiled_after)
    assert found.paused is paused
    assert found.decide("evil.example").action == "block"


@pytest.mark.parametrize("compiled", [True, False])
def test_a_pause_ends_by_the_clock(tmp_path, monkeypatch, compiled):
    """
    Nobody says anything after the pause: from its end on filtering is on, in the engine that was
    there and in one that is opened later, from a snapshot or from the log.
    """
    now = 1795480000.0
    monkeypatch.setattr(time, "time", lambda: now)
    log = open_file(tmp_path / "policy.db")
    change = Change(PAUSE, "allow", pause_category(1795480060), "", 1795480060)

    def opened():
        if compiled:
            return Engine(snapshot.open_folder(path))
        overlay = Overlay(0)
        overlay.apply(((k, decode(after, k)) for k, after, _ in log.store.changes(0)), log.serial)
        return Engine(snapshot.nothing(), overlay)

    with contextlib.closing(log):
        log.commit("operator", [change], actor="test", reason="")
        path = snapshot.write(tmp_path, log.serial, log.rulings())
        found = opened()
        assert found.paused
        now += 59.9
        assert found.paused
        now += 0.1
        assert not found.paused
        assert not opened().paused
        # The clock is set back: the log's word is all there is.
        now -= 1
        assert found.paused


def test_another_end_is_another_effect(tmp_path):
    """
    A pause that is prolonged, cut short or made endless reaches whoever follows the log.
    """
    log, ends = open_file(tmp_path / "policy.db"), []
    with contextlib.closing(log):
        for until in (2000, 3000, 1000, None):
            change = Change(PAUSE, "allow", pause_category(until), "", until)
            (effect,) = log.commit("operator", [change], actor="test", reason="").effects
            ends.append(pause_end(decode(effect.after, effect.key).category))
    assert ends == [2000, 3000, 1000, math.inf]


def test_the_clock_is_asked_during_a_pause_only(monkeypatch):
    """
    Each blocked name asks whether filtering is paused.
    """
    found = engine([RULE])
    monkeypatch.setattr(time, "time", lambda: pytest.fail("asked"))
    assert not found.paused


# ---- what would be, if more rules stood


@pytest.mark.parametrize(
    ("standing", "added", "wins"),
    [
        ([], ("subtree a.example", "feed:x"), True),
        # The most specific wins within a tier, people before lists, allow before block.
        ([("allow", "subtree www.a.example", "feed:y")], ("subtree a.example", "feed:x"), False),
        ([("allow", "subtree www.a.example", "feed:y")], ("subtree a.example", "operator"), True),
        ([("allow", "subtree a.example", "operator")], ("domain www.a.example", "feed:x"), False),
        ([("allow", "subtree a.example", "operator")], ("domain www.a.example", "operator"), True),
        ([("allow", "below a.example", "feed:y")], ("subtree a.example", "feed:x"), False),
        # At its own key a rule takes the place of what stands there, but a list's of no person's.
        ([("allow", "subtree a.example", "operator")], ("subtree a.example", "operator"), True),
        ([("allow", "subtree a.example", "feed:y")], ("subtree a.example", "operator"), True),
        ([("allow", "subtree a.example", "operator")], ("subtree a.example", "feed:x"), False),
        # Patterns are asked where no name rule decides.
        ([], ("pattern *.a.*", "operator"), True),
        ([("allow", "subtree a.example", "feed:y")], ("pattern *.a.*", "operator"), False),
        ([("allow", "pattern www.a.exam*", "operator")], ("pattern *.a.exa*", "operator"), False),
        ([("allow", "pattern *.a.exa*", "operator")], ("pattern www.a.exam*", "operator"), True),
    ],
)
def test_what_would_decide_among_more_rules(standing, added, wins):
    """
    A rule that nobody has said is weighed as if it stood.
    """
    engine = Engine(snapshot.nothing(), Overlay(0))
    engine.overlay.apply(
        [(k, Ruling(action, "x", (s,), 1, *k.split(" "))) for action, k, s in standing], 1
    )
    key, source = added
    new = Ruling("block", "x", (source,), 0, *key.split(" "))
    assert (engine.among("www.a.example", [new]) is new) is wins
    assert engine.among("www.a.example", []) == engine.decide("www.a.example")
