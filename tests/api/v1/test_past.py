"""What was said of one item at earlier serials, against what the engine said at the time."""

import contextlib
import random

import pytest

from tests.logs import open_file
from tests.oracle import SOURCES, as_claims, decide, random_changes, random_name
from urlguard import urls
from urlguard.api.v1.past import Past
from urlguard.blocklist import snapshot
from urlguard.blocklist.overlay import Overlay
from urlguard.engine import Engine
from urlguard.errors import InputError
from urlguard.policy.model import Change
from urlguard.rules import PAUSE
from urlguard.verdict import decode

PEOPLE = ("operator", "analyst:ada")
PATTERNS = ("*.a.b.*", "a.test", "keyword:aaaa", "*/evil/*.php", "*.test/evil/*", "b.example")
URLS = ("a.test/evil/", "b.a.test/", "a.test/evil/x.php", "c.example/evil/x.php?q=1", "test.test/")
ITEMS = (
    "http://a.test/evil/x.php",
    "https://b.a.test/evil/x.php?q=1",
    "http://c.example/evil/x.php?q=1",
    "http://a.b.a.test/",
    "a-aaaa.test",
    "http://192.0.2.1/evil/x.php",
    "192.0.2.1",
    "google.com",
)


@pytest.fixture
def log(tmp_path):
    """An empty log."""
    with contextlib.closing(open_file(tmp_path / "policy.db")) as log:
        yield log


def say(log, source, *claims):
    """Commit one batch of ``ACTION KIND VALUE``; ``end`` withdraws."""
    parts = [claim.split(" ", 1) for claim in claims]
    changes = [Change(key, None if action == "end" else action, "fraud") for action, key in parts]
    return log.commit(source, changes, actor="test", reason="")


def compiled(log):
    """The engine over all that stands."""
    overlay = Overlay(log.serial)
    with log.store.reading():
        overlay.apply([(key, decode(text, key)) for key, text in log.rulings()], log.serial)
    return Engine(snapshot.nothing(), overlay)


def growing(log):
    """The engine that workers have: all effects since the beginning."""
    overlay = Overlay(0)
    changes = [(key, decode(after, key)) for key, after, _ in log.store.changes(0)]
    overlay.apply(changes, log.serial)
    return Engine(snapshot.nothing(), overlay)


def said(engine, item):
    """What an engine says of an item."""
    with contextlib.suppress(InputError):
        if item == "192.0.2.1":
            return engine.verdict("")
        if "/" in item:
            return engine.url_verdict(urls.parse(item))
    return engine.verdict(item)


def more(rng, source, standing):
    """Now and then a pattern and a URL in a batch."""
    changes = {}
    own = [key for s, key in standing if s == source and key.startswith(("pattern", "url"))]
    if source in PEOPLE and rng.random() < 0.4:
        changes[f"pattern {rng.choice(PATTERNS)}"] = rng.choice(("block", "allow", "review"))
    if rng.random() < 0.4:
        changes[f"url {rng.choice(URLS)}"] = rng.choice(("block", "allow"))
    if own and rng.random() < 0.3:
        changes[rng.choice(own)] = None
    return changes


@pytest.mark.parametrize("seed", range(10))
def test_the_past_is_what_the_engine_said(log, seed):
    """
    After each of many random batches the engine is asked; later the log gives the same verdicts.

    Rules of all kinds, of people and lists, with exceptions.  A compiled engine agrees in every
    field; a growing one, which is not told of a second source, in what it means for the backend.
    """
    rng = random.Random(seed)
    items = [random_name(rng) for _ in range(25)]
    items += ITEMS
    standing, then = {}, {}
    for _ in range(30):
        source = rng.choice(SOURCES)
        changes = dict(random_changes(rng, source, standing, rng.randint(1, 5)))
        changes.update(more(rng, source, standing))
        made = [Change(key, action, "fraud") for key, action in changes.items()]
        log.commit(source, made, actor="test", reason="")
        for key, action in changes.items():
            standing[source, key] = action
            if action is None:
                del standing[source, key]
        names = {s: a for s, a in standing.items() if not s[1].startswith(("pattern", "url"))}
        engine, workers = compiled(log), growing(log)
        for item in items:
            verdict = then[log.serial, item] = said(engine, item)
            rough = said(workers, item)
            assert rough[:2] == verdict[:2]
            assert (rough.rule and rough.rule[4:6]) == (verdict.rule and verdict.rule[4:6])
            if "/" not in item and verdict.reason != "pattern" and verdict.rule is not None:
                assert verdict.action == decide(as_claims(names), item)
    with log.store.reading():
        past = {item: Past(log, item) for item in items}
        for (serial, item), verdict in then.items():
            assert past[item].verdict(serial) == verdict, (serial, item)
            rule, claims = verdict.rule, past[item].claims(serial)
            decisive = [c for c, d in claims if d]
            assert {c.source for c in decisive} == set(rule.sources if rule else ())
            assert all(c.from_serial <= serial for c, _ in claims)
        for item in items:
            turns, whole = past[item].turns(1000)
            assert whole
            seen = past[item].verdict(0)
            for turn in reversed(turns):
                assert turn.before[:2] == seen[:2]
                assert past[item].verdict(turn.serial) == turn.after
                seen = turn.after
            assert seen[:2] == past[item].verdict(log.serial)[:2]


def test_what_an_exception_leaves(log):
    """
    A list's exception cancels its own rule, not another list's; the claims show both.
    """
    say(log, "feed:a", "block subtree example")
    say(log, "feed:a", "block subtree example", "except subtree x.example")
    say(log, "feed:b", "review subtree example")
    past = Past(log, "www.x.example")
    assert [past.verdict(serial).action for serial in range(4)] == [
        "none",
        "block",
        "none",
        "review",
    ]
    found = [(c.source, c.action, decisive) for c, decisive in past.claims(3)]
    assert found == [
        ("feed:b", "review", True),
        ("feed:a", "except", False),
        ("feed:a", "block", False),
    ]


def test_pauses(log):
    """
    By the batch that stood and by the clock: a pause ends by itself.
    """
    say(log, "operator", "block subtree evil.example")
    change = Change(PAUSE, "allow", "until 5000", "", 5000)
    log.commit("operator", [change], actor="test", reason="")
    log.commit("operator", [Change(PAUSE, None)], actor="test", reason="")
    past = Past(log, "evil.example")
    found = [past.paused(serial, at) for serial in range(4) for at in (4999.9, 5000.0)]
    assert found == [False, False, False, False, True, False, False, False]
    assert past.verdict(2).action == "block"
    assert PAUSE not in [c.rule for c, _ in past.claims(2)]


def test_turns_are_bounded(log):
    """
    The newest are given, and that there are more.
    """
    for n in range(10):
        say(log, "operator", f"{'block' if n % 2 else 'allow'} subtree evil.example")
    past = Past(log, "evil.example")
    turns, whole = past.turns(4)
    assert ([t.serial for t in turns], whole) == ([10, 9, 8, 7], False)
    turns, whole = past.turns(10)
    assert ([t.serial for t in turns], whole) == (list(range(10, 0, -1)), True)


@pytest.mark.parametrize("text", ["", "no name", "x" * 70_000, "http://", "mailto:a@b.example"])
def test_what_is_no_item(log, text):
    """
    The error is that of `urlguard check`.
    """
    with pytest.raises(InputError):
        Past(log, text)
