"""Which feeds there are, when they are due, and what `feed list` knows of them."""

import pytest

from tests.logs import open_file
from urlguard import wellknown
from urlguard.config import Config, Feed
from urlguard.errors import FeedError, InputError
from urlguard.feeds import schedule
from urlguard.feeds.refresh import refresh
from urlguard.feeds.status import Status


@pytest.fixture
def log(tmp_path):
    """An empty log."""
    log = open_file(tmp_path / "policy.db")
    yield log
    log.close()


def test_without_feeds_there_is_the_starter_list(tmp_path):
    """
    The built-in list is a feed like any other; a configured feed takes its place.
    """
    (starter,) = schedule.feeds(Config())
    assert (starter.name, starter.path) == ("starter", wellknown.starter_path())
    own = Feed(name="own", path=tmp_path)
    assert schedule.feeds(Config(feed=(own,))) == (own,)


def test_a_feed_by_its_name(tmp_path):
    """
    An unknown name is an error that says which there are.
    """
    config = Config(feed=(Feed(name="a"), Feed(name="b")))
    assert schedule.named(config, "b").name == "b"
    with pytest.raises(InputError, match=r"feed 'c': not configured; known: a, b"):
        schedule.named(config, "c")


@pytest.mark.parametrize(
    ("status", "refresh_s", "due"),
    [
        (None, 3600, -10_000),  # never refreshed: since 1970
        (Status(checked_at=10_000), 3600, 3600),
        (Status(checked_at=9_000), 3600, 2600),
        (Status(checked_at=6_400), 3600, 0),
        (Status(checked_at=5_000), 3600, -1400),
        (Status(checked_at=10_000, error="gone"), 3600, 300),  # sooner after a failure
        (Status(checked_at=10_000, error="gone"), 60, 60),
        (Status(checked_at=20_000), 3600, 0),  # the clock was set back
    ],
)
def test_when_a_feed_is_due(log, status, refresh_s, due):
    """
    Counted from the last attempt; after a failed one no longer than five minutes.
    """
    if status:
        status.write(log, "a")
    wait = schedule.due_in_s(log, Feed(name="a", refresh_s=refresh_s), 10_000.0)
    assert wait == due if due > 0 else wait <= 0


def test_the_overview_shows_every_feeds_status(tmp_path, log):
    """
    Rules, bad lines, held rules and the last error; also of a feed that was never refreshed.
    """
    good, bad, new = (Feed(name=n, path=tmp_path / n) for n in ("good", "bad", "new"))
    good.path.write_text("one.example\ntwo.example\nx!y\nthree.example\nco.uk\n")
    refresh(log, good, tmp_path)
    with pytest.raises(FeedError):
        refresh(log, bad, tmp_path)
    rows = schedule.overview(Config(state_dir=tmp_path, feed=(good, bad, new)))
    shown = {row["name"]: row for row in rows}
    assert list(shown) == ["good", "bad", "new"]
    assert shown["good"]["from"] == str(good.path)
    assert (shown["good"]["rules"], shown["good"]["bad"], shown["good"]["quarantined"]) == (3, 1, 1)
    assert shown["good"]["quarantined_rules"] == [("subtree co.uk", "public suffix")]
    assert shown["good"]["error"] is None
    assert "No such file" in shown["bad"]["error"]
    assert shown["new"]["checked_at"] == 0.0


def test_the_overview_creates_nothing(tmp_path):
    """
    Looking at feeds before the first start leaves no files behind.
    """
    config = Config(state_dir=tmp_path / "var", feed=(Feed(name="a", path=tmp_path),))
    (row,) = schedule.overview(config)
    assert (row["name"], row["rules"]) == ("a", 0)
    assert list(tmp_path.iterdir()) == []
