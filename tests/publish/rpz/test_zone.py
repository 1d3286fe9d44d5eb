"""Flattening: what each owner of the zone carries."""

import contextlib
import random
from pathlib import Path

import pytest

from tests import oracle
from tests.logs import SqliteLocation, open_file
from urlguard.policy import backup
from urlguard.policy.model import Change
from urlguard.publish.rpz.store import TooMuchError, ZoneStore, packed, unpacked
from urlguard.publish.rpz.zone import collect, flat, why_not

DOES = {0: "", 1: "block", 2: "pass"}


def committed(log, *claims):
    """Commit claims written ``source: action key``."""
    for text in claims:
        source, _, rest = text.partition(": ")
        action, _, key = rest.partition(" ")
        change = Change(key, None if action == "remove" else action, "x")
        log.commit(source, [change], actor="test", reason="test")


def owners(log):
    """The zone as owner → what it does."""
    found = {}
    for node in flat(collect(log.rulings())):
        name = node.name[-2::-1]
        found[name], found[f"*.{name}"] = DOES[node.exact], DOES[node.wild]
    return {owner: does for owner, does in found.items() if does}


@pytest.fixture
def log(tmp_path):
    """An empty policy log."""
    log = open_file(tmp_path / "policy.db")
    yield log
    log.close()


@pytest.mark.parametrize(
    ("claims", "zone"),
    [
        (["feed:a: block domain x.test"], {"x.test": "block"}),
        (["feed:a: block below x.test"], {"*.x.test": "block"}),
        (["feed:a: block subtree x.test"], {"x.test": "block", "*.x.test": "block"}),
        (["feed:a: allow subtree x.test"], {"x.test": "pass", "*.x.test": "pass"}),
        # Nothing is blocked around it, so there is nothing to say.
        (["feed:a: review subtree x.test"], {}),
        (["feed:a: except subtree x.test"], {}),
        # The operator's wide rule beats a feed's exact one.
        (
            ["operator: allow subtree x.test", "feed:a: block domain a.x.test"],
            dict.fromkeys(("x.test", "*.x.test", "a.x.test", "*.a.x.test"), "pass"),
        ),
        # A review or an exception below a block lets the name through.
        (
            ["feed:a: block subtree x.test", "feed:b: review domain a.x.test"],
            {
                **dict.fromkeys(("x.test", "*.x.test", "*.a.x.test"), "block"),
                "a.x.test": "pass",
            },
        ),
        (
            ["feed:a: block subtree x.test", "feed:a: except below x.test"],
            {"x.test": "block"},
        ),
        # Another feed's exception changes nothing, but its node restates what it inherits.
        (
            ["feed:a: block subtree x.test", "feed:b: except subtree a.x.test"],
            dict.fromkeys(("x.test", "*.x.test", "a.x.test", "*.a.x.test"), "block"),
        ),
        # Each node down to the exception restates: it exists now, and hides the wildcard above.
        (
            ["feed:a: block subtree x.test", "operator: allow domain a.b.x.test"],
            {
                **dict.fromkeys(("x.test", "*.x.test", "b.x.test", "*.b.x.test"), "block"),
                "a.b.x.test": "pass",
                "*.a.b.x.test": "block",
            },
        ),
        # Names that only look like parents are none.
        (
            ["feed:a: block subtree x.test", "feed:a: block domain y-x.test"],
            {"x.test": "block", "*.x.test": "block", "y-x.test": "block"},
        ),
    ],
    ids=lambda value: " + ".join(value) if isinstance(value, list) else "",
)
def test_owners_carry_what_the_engine_would_decide(log, claims, zone):
    """
    Tiers, actions and kinds become owners; what exists below a wildcard restates it.
    """
    committed(log, *claims)
    assert owners(log) == zone


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("domain", "x.test", None),
        ("domain", "_dmarc.x.test", None),
        ("pattern", "*paypal*", "pattern"),
        ("url", "x.test/a", "URL"),
        ("pause", "filtering", "this server"),
        ("domain", "32.1.2.0.192.rpz-ip", "trigger"),
        ("subtree", "Evil.test", "canonical"),
        ("subtree", "x..test", "canonical"),
        # 255 octets: both names' labels with a length octet each, and the root.
        ("domain", ".".join(["a" * 61] * 3 + ["b" * 58]), None),
        ("domain", ".".join(["a" * 61] * 3 + ["b" * 59]), "256 octets"),
        ("subtree", ".".join(["a" * 61] * 3 + ["b" * 57]), "256 octets"),
    ],
)
def test_what_a_zone_cannot_say_has_a_reason(kind, value, reason):
    """
    A rule is in the zone, or the reason why not is told.
    """
    found = why_not(kind, value, "rpz.test")
    assert (found is None) if reason is None else (reason in (found or ""))


@pytest.mark.parametrize("seed", range(12))
def test_following_the_log_gives_what_building_gives(tmp_path, log, seed):
    """
    After each batch the followed zone is the one built anew, and the journal leads to it.
    """
    rng = random.Random(seed)
    standing = {}
    versions = {0: {}}
    with ZoneStore(tmp_path / "zone.db") as store:
        for _ in range(25):
            source = rng.choice(oracle.SOURCES)
            changes = oracle.random_changes(rng, source, standing, rng.choice((1, 2, 8)))
            for key, action in changes:
                standing[source, key] = action
            standing = {k: a for k, a in standing.items() if a}
            log.commit(source, [Change(k, a) for k, a in changes], actor="t", reason="t")
            if rng.random() < 0.3:
                continue  # take this batch over together with the next
            state = store.follow(log)
            built = {
                node.name: packed(node) for node in flat(collect(log.rulings())) if packed(node)
            }
            assert dict(store.nodes()) == built
            versions[state.serial] = built
            for serial, zone in versions.items():
                if serial == 0 or not store.leads_from(serial):
                    continue
                then = dict(zone)
                for name, before, now in store.changes(serial):
                    assert then.pop(name, 0) == before
                    if now:
                        then[name] = now
                assert then == built


def test_serial_is_of_the_last_batch_that_changed_the_zone(tmp_path, log):
    """
    A pattern, a second source for a standing rule and a review alone leave the serial as it is.
    """
    with ZoneStore(tmp_path / "zone.db") as store:
        committed(log, "feed:a: block subtree x.test", "feed:a: block pattern *paypal*")
        assert store.follow(log).serial == 1
        committed(log, "feed:b: block subtree x.test", "feed:a: review subtree y.test")
        assert store.follow(log)[:2] == (1, 4)
        committed(log, "feed:a: block subtree y.test")
        assert store.follow(log)[:2] == (5, 5)


def test_another_look_is_another_version(tmp_path, log):
    """
    Blocks written in another way get a new serial where a batch gives one, and no IXFR before it.
    """
    with ZoneStore(tmp_path / "zone.db") as store:
        committed(log, "feed:a: block subtree x.test")
        store.follow(log)
        assert store.look("a")[0].serial == 1
        assert store.look("b") == (store.state(), False)
        assert not store.leads_from(1)
        committed(log, "feed:a: block pattern *paypal*")
        store.follow(log)
        state, seen = store.look("c")
        assert (state.serial, seen) == (2, True)
        assert store.leads_from(2)


def test_a_damaged_zone_file_is_made_again(tmp_path, log):
    """
    The zone is derived: what cannot be read is replaced.
    """
    committed(log, "feed:a: block subtree x.test")
    (tmp_path / "zone.db").write_bytes(b"no database" * 1000)
    with ZoneStore(tmp_path / "zone.db") as store:
        store.follow(log)
        assert [(n, unpacked(r)) for n, r in store.nodes()] == [("tset.x.", (1, 1))]


def test_a_restored_log_gives_the_zone_a_higher_serial(tmp_path, log):
    """
    Secondaries have seen more than the backup knows; they must take its zone for news all the same.
    """
    committed(log, "operator: block subtree a.test")
    saved = tmp_path / "saved.db"
    place = SqliteLocation(Path(log.store.location))
    backup.backup(place, saved)
    for i in range(5):
        committed(log, f"operator: block subtree b{i}.test")
    with ZoneStore(tmp_path / "rpz.db") as store:
        store.build(log)
        was = store.state().serial
        log.close()
        restored = backup.restore(place, saved, above=was, actor="test").serial
        again = open_file(place.path)
        with contextlib.closing(again):
            with pytest.raises(TooMuchError):
                store.follow(again)
            store.build(again)
            assert (was, restored, store.state().serial) == (6, 7, 7)
            assert [name for name, _ in store.nodes()] == ["tset.a."]
            committed(again, "operator: block subtree c.test")
            assert store.follow(again).serial == 8
            assert store.leads_from(7)
