"""Dry runs: what is new, and what was counted in shadow."""

import gzip
import json

import pytest

from tests.logs import log_file
from urlguard.config import Config, Feed
from urlguard.feeds.refresh import refresh
from urlguard.hitlog import counts
from urlguard.hitlog.counts import ShadowCount
from urlguard.impact import dry_run
from urlguard.policy.location import open_log
from urlguard.policy.model import Change
from urlguard.rules import Rule

DAY = 86_400
SINCE = 1_900_000_000  # 2030-03-17T17:46:40Z


def row(time, client="c1", action="shadow", sources=("feed:a",), count=1, **more):
    """A line of the hit log."""
    found = {"time": time, "client": client, "action": action, "sources": sources, "count": count}
    return json.dumps({**found, **more}, separators=(",", ":")) + "\n"


def test_hits_of_a_shadow(tmp_path):
    """
    Those of its source since it began, from plain and compressed files; clients are of a day.
    """
    lines = [
        row("2030-03-17T17:46:39Z"),  # a second too early
        row("2030-03-17T17:46:40Z", count=3),
        row("2030-03-17T18:00:00Z", sources=["feed:a", "feed:b"]),
        row("2030-03-17T18:00:00Z", "c2", sources=["feed:b"]),
        row("2030-03-17T18:00:00Z", "c3", action="block"),
        row("2030-03-17T18:00:00Z", "c4", action="block", name='"action":"shadow"'),
        '{"time":"2030-03-17T18:00:00Z","action":"shadow","sou',
    ]
    (tmp_path / "2030-03-17.jsonl").write_text("".join(lines))
    later = gzip.compress(row("2030-03-18T00:00:00Z", count=2).encode())
    (tmp_path / "2030-03-18.1.jsonl.gz").write_bytes(later)
    (tmp_path / "2030-03-16.jsonl").write_text(row("2030-03-16T00:00:00Z"))
    (tmp_path / "key").write_text("secret")
    assert counts.of(tmp_path, "feed:a", SINCE) == ShadowCount(6, 2, True)
    assert counts.of(tmp_path, "feed:b", SINCE) == ShadowCount(2, 2, True)
    assert counts.of(tmp_path / "none", "feed:a", SINCE) == ShadowCount(0, 0, True)


def test_reading_is_bounded(tmp_path, monkeypatch):
    """
    What was not read is said; the newest is read first.
    """
    monkeypatch.setattr(counts, "MAX_OCTETS", 100)
    (tmp_path / "2030-03-18.jsonl").write_text(row("2030-03-18T00:00:00Z") * 5)
    (tmp_path / "2030-03-17.jsonl").write_text(row("2030-03-17T20:00:00Z") * 5)
    assert counts.of(tmp_path, "feed:a", SINCE) == ShadowCount(5, 1, False)


@pytest.fixture
def config(tmp_path):
    """A configuration with a list in shadow."""
    path = tmp_path / "list.txt"
    path.write_text("")
    return Config(
        state_dir=tmp_path, feed=(Feed(name="a", path=path, format="domains", shadow=True),)
    )


def said(config, source, *claims):
    """Commit claims, each an action and a key."""
    log = open_log(config)
    changes = [Change(key, action, "x") for action, _, key in (c.partition(" ") for c in claims)]
    log.commit(source, changes, actor="test", reason="")
    log.close()


def test_what_is_new(config):
    """
    A rule is new unless its own name, or what is below it, or its very key is blocked already.
    """
    said(
        config,
        "operator",
        "block subtree evil.example",
        "block domain exact.example",
        "review subtree grey.example",
        "block pattern pay-*-verify",
        "block url site.example/a",
        "allow domain good.evil.example",
    )
    for key, new in (
        ("subtree evil.example", False),
        ("domain www.evil.example", False),
        ("below evil.example", False),
        ("domain good.evil.example", True),
        ("subtree exact.example", False),
        ("below exact.example", True),
        ("subtree grey.example", True),
        ("pattern pay-*-verify", False),
        ("pattern pay-*-other", True),
        ("url site.example/a", False),
        ("url site.example/b", True),
    ):
        assert dry_run.of_rules(config, [Rule.from_key(key)], None).new == new, key


def test_a_large_list_is_looked_at_in_part(config, monkeypatch):
    """
    The figures say that they were worked out; every rule is looked at for what it touches.
    """
    monkeypatch.setattr(dry_run, "MAX_COMPARED", 100)
    lines = [f"n{i}.evil.example" if i % 2 else f"n{i}.far.example" for i in range(1000)]
    lines.insert(501, "x.council.gov.cn")
    config.feed[0].path.write_text("\n".join(lines))
    said(config, "operator", "block subtree evil.example")
    log = open_log(config)
    refresh(log, config.feed[0], config.state_dir)
    log.close()
    found = dry_run.of_feed(config, "a", None)
    assert (found.rules, found.exact) == (1001, False)
    assert 300 < found.new < 700
    assert found.protected == [("subtree x.council.gov.cn", "government, gov.cn")]
    assert found.as_json()["covered"] == found.rules - found.new


def test_before_there_is_a_log(config):
    """
    There is nothing to say yet, and no file is made.
    """
    found = dry_run.of_feed(config, "a", None)
    assert (found.rules, found.since, found.hits) == (0, None, None)
    assert not log_file(config).exists()
