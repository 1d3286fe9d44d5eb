"""One refresh of one feed: what reaches the policy log, and what does not."""

import dataclasses
import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.logs import open_file
from urlguard import wellknown
from urlguard.config import Config, Feed
from urlguard.errors import FeedError, PolicyError
from urlguard.feeds import schedule
from urlguard.feeds.refresh import MAX_SHOWN, refresh
from urlguard.feeds.status import Status, settings_of


class Play:
    """A feed with a file that changes, and the log that it is refreshed into."""

    def __init__(self, folder):
        self.state = folder / "var"
        self.path = folder / "list"
        self.log = open_file(folder / "policy.db")
        self.feed = Feed(name="a", path=self.path, format="domains", category="fraud")

    def set(self, **keys):
        self.feed = dataclasses.replace(self.feed, **keys)

    def refresh(self, *lines, **arguments):
        """Write the list, if there is one, and refresh; returns how many claims changed."""
        if lines:
            self.path.write_text("\n".join(lines) + "\n")
        batch = refresh(self.log, self.feed, self.state, **arguments)
        return batch.claims if batch else None

    def standing(self, source="feed:a"):
        return {rule: action for rule, action, _, _ in self.log.store.active_of(source)}

    @property
    def status(self):
        return Status.read(self.log, self.feed.name)


@pytest.fixture
def play(tmp_path):
    play = Play(tmp_path)
    yield play
    play.log.close()


def hosts(first, last):
    """Lines of a list of any size."""
    return [f"h{i}.example" for i in range(first, last)]


def test_only_the_difference_is_committed(play):
    """
    A refresh commits what came and what went; what stays is not touched.
    """
    assert play.refresh("one.example", "two.example", "three.example") == 3
    batch = play.log.serial
    assert play.refresh("three.example", "four.example", "two.example") == 2
    assert play.standing().keys() == {f"subtree {n}.example" for n in ("two", "three", "four")}
    keys = [(row.key, row.after is not None) for row in play.log.store.effects(batch)]
    assert keys == [("subtree four.example", True), ("subtree one.example", False)]
    (claim,) = play.log.store.history("subtree two.example")
    assert (claim.from_serial, claim.to_serial) == (1, None)
    assert play.log.verify() is None


@pytest.mark.parametrize(
    "lines",
    [
        ["one.example", "two.example"],
        ["two.example", "one.example"],
        ["# a comment", "ONE.example.", "", "two.example", "two.example"],
    ],
    ids=["the same file", "another order", "the same rules written otherwise"],
)
def test_a_list_that_says_the_same_makes_no_batch(play, lines):
    """
    Without a difference there is no batch and no serial, but the feed counts as checked.
    """
    play.refresh("one.example", "two.example")
    before = play.status
    assert play.refresh(*lines) is None
    assert play.log.serial == 1
    assert play.status.checked_at > before.checked_at
    assert play.status.changed_at == before.changed_at
    assert play.status.rules == 2


def test_the_batch_says_where_it_is_from(play):
    """
    Source, actor, number of rules and the list's digest are there for the audit.
    """
    play.refresh("one.example", actor="eve")
    (batch,) = play.log.store.batches()
    assert (batch.source, batch.actor) == ("feed:a", "eve")
    assert batch.reason.startswith("refresh: 1 rules, sha256 ")


@pytest.mark.parametrize(
    ("before", "after", "limits", "said"),
    [
        (1000, 499, {}, "499 rules after 1000; may shrink by 50%"),
        (1000, 1, {}, "1 rules after 1000; may shrink by 50%"),
        (1000, 899, {"max_shrink": 0.1}, "may shrink by 10%"),
        (200, 801, {}, "801 rules after 200; may grow 4-fold"),
        (20, 101, {}, "101 rules after 20; may grow 4-fold"),
        (1000, 1501, {"max_growth": 1.5}, "may grow 1.5-fold"),
    ],
)
def test_absurd_changes_are_refused(play, before, after, limits, said):
    """
    A feed that shrinks or grows beyond its limits changes nothing; --force takes it all the same.
    """
    play.set(**limits)
    play.refresh(*hosts(0, before))
    for _ in range(2):  # the refused list is not remembered as seen
        with pytest.raises(FeedError, match=said):
            play.refresh(*hosts(0, after))
        assert len(play.standing()) == before
        assert said in play.status.error
    assert play.log.serial == 1
    assert play.refresh(force=True) == abs(after - before)
    assert play.status.error is None
    assert len(play.standing()) == after


@pytest.mark.parametrize(
    ("before", "after", "limits"),
    [
        (1000, 500, {}),
        (1000, 0, {"max_shrink": 1.0}),
        (99, 1, {}),
        (1, 100, {}),
        (0, 5000, {}),
        (1000, 4000, {}),
        (20, 80, {}),
    ],
)
def test_changes_within_the_limits_are_taken(play, before, after, limits):
    """
    At the limit itself, for small feeds, and for a first refresh there is no objection.
    """
    play.set(**limits)
    play.refresh("# a list", *hosts(0, before))
    play.refresh("# a list", *hosts(0, after))
    assert len(play.standing()) == after


def test_exceptions_count_as_rules_for_the_limits(play):
    """
    A list that is mostly exceptions does not look as if it had shrunk.
    """
    play.set(format="adblock")
    lines = [f"@@||ok{i}.example^" for i in range(500)] + ["||evil.example^"]
    play.refresh(*lines)
    assert play.refresh(*lines, "||more.example^") == 1


def test_a_mostly_bad_list_keeps_the_last_good_one(play):
    """
    Too many bad lines, a page of HTML, a vanished file: what the feed said last stays in force.
    """
    play.refresh("one.example", "two.example")
    for content, said in [
        ("not a name!\n" * 9 + "one.example\n", "9 of 10 lines are bad"),
        ("<!DOCTYPE html>\n<p>Sign in</p>\n", "HTML"),
        (None, "No such file"),
    ]:
        if content is None:
            play.path.unlink()
        else:
            play.path.write_text(content)
        with pytest.raises(FeedError, match=said):
            play.refresh()
        assert said in play.status.error
        assert play.standing().keys() == {"subtree one.example", "subtree two.example"}
        assert gzip.decompress((play.state / "feeds" / "a.gz").read_bytes()).count(b"\n") == 2
    assert play.log.serial == 1
    assert play.refresh("one.example", "two.example") is None
    assert play.status.error is None


def test_some_bad_lines_are_shown(play):
    """
    A few bad lines are counted and kept with their place, and the rest is used.
    """
    assert play.refresh("one.example", "b@d", "two.example", "three.example", "four.example") == 4
    assert (play.status.bad, play.status.lines) == (1, 5)
    assert "line 2: 'b@d'" in play.status.problems[0]


def test_names_that_must_not_be_blocked_are_quarantined(play):
    """
    Popular names and public suffixes of a feed make no rule, and are listed with the reason.
    """
    popular = next(n for n in wellknown.popular() if n not in wellknown.protected())
    lines = [
        "evil.example",
        popular,
        f"www.{popular}",
        "co.uk",
        "any.ck",
        f"evil.{popular}",
        f"{popular}/",
    ]
    play.refresh(*lines)
    wanted = {"subtree evil.example", f"subtree evil.{popular}"}
    assert play.standing().keys() == wanted
    held = dict(play.log.store.quarantined("a"))
    values = (popular, f"www.{popular}", "co.uk", "any.ck")
    assert held.keys() == {f"url {popular}/", *(f"subtree {value}" for value in values)}
    assert held["subtree co.uk"] == "public suffix"
    assert "popular name, rank" in held[f"subtree {popular}"]
    assert play.status.quarantined == 5
    # A page on a popular site is free.
    play.refresh(f"{popular}/login", "evil.example")
    assert f"url {popular}/login" in play.standing()
    assert play.log.store.quarantined("a") == []


@pytest.mark.parametrize("keys", [{"allow_popular": True}, {"action": "allow"}])
def test_who_may_name_popular_names(play, keys):
    """
    Nothing is held back of a feed that is trusted with it, or that does not block.
    """
    popular = next(iter(wellknown.popular()))
    play.set(**keys)
    play.refresh(popular)
    assert f"subtree {popular}" in play.standing()


def test_the_list_of_quarantined_rules_is_bounded(play):
    """
    A list of nothing but popular names keeps some of them to look at, and counts all.
    """
    popular = list(wellknown.popular())[: MAX_SHOWN + 200]
    play.refresh("evil.example", *popular)
    assert play.status.quarantined == len(popular)
    assert len(play.log.store.quarantined("a")) == MAX_SHOWN


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"category": "phishing"}, ("block", "phishing")),
        ({"action": "review"}, ("review", "fraud")),
        ({"action": "allow", "category": "ours"}, ("allow", "ours")),
    ],
)
def test_changed_settings_read_the_same_list_anew(play, keys, wanted):
    """
    The same octets mean other rules under other settings.
    """
    play.refresh("one.example", "two.example")
    play.set(**keys)
    assert play.refresh() == 2
    ruling = play.log.ruling("subtree one.example")
    assert (ruling.action, ruling.category) == wanted
    assert play.refresh() is None


def test_a_new_action_and_a_dropped_rule_at_once(play):
    """
    A rule that the list no longer has goes, also if the feed's action is another meanwhile.
    """
    play.refresh("one.example", "two.example")
    play.set(action="review")
    assert play.refresh("one.example") == 2
    assert play.standing() == {"subtree one.example": "review"}


def test_a_lines_category_beats_its_feeds(play):
    """
    The category column counts where it says something.
    """
    play.set(format="csv", column="domain", category_column="kind")
    play.refresh("domain,kind", "one.example,Phishing", "two.example,")
    categories = {r: c for r, _, c, _ in play.log.store.active_of("feed:a")}
    assert categories == {"subtree one.example": "phishing", "subtree two.example": "fraud"}
    assert play.refresh("domain,kind", "one.example,", "two.example,") == 1


def test_exceptions_become_claims(play):
    """
    AdBlock's @@ is a claim of its own kind; it turns into a rule and back as the list does.
    """
    play.set(format="adblock")
    play.refresh(
        "||evil.example^", "@@||good.evil.example^", "||both.example^", "@@||both.example^"
    )
    assert play.standing() == {
        "subtree evil.example": "block",
        "subtree good.evil.example": "except",
        "subtree both.example": "except",
    }
    assert play.log.ruling("subtree good.evil.example").action == "except"
    assert play.refresh("||evil.example^", "||good.evil.example^", "@@||both.example^") == 1
    assert play.standing()["subtree good.evil.example"] == "block"
    assert play.refresh("||evil.example^") == 2
    assert play.standing() == {"subtree evil.example": "block"}
    assert play.log.verify() is None


def test_the_copy_is_written_after_the_commit(play):
    """
    If the commit fails, the next refresh sees the list as news; so it does if the copy is lost.
    """
    # A full disk, as SQLite reports it, in the middle of the batch.
    play.log.store._db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(PolicyError, match="full"):
        play.refresh(*hosts(0, 5000))
    assert not (play.state / "feeds" / "a.gz").exists()
    assert play.standing() == {}
    play.log.store._db.execute("PRAGMA max_page_count = 1000000")
    assert play.refresh() == 5000
    assert (play.state / "feeds" / "a.gz").exists()
    (play.state / "feeds" / "a.gz").unlink()
    assert play.refresh() is None
    assert (play.state / "feeds" / "a.gz").exists()


def test_an_older_log_is_brought_up_to_date(play, tmp_path):
    """
    A log restored from a backup is behind the last good copy; the next refresh closes the gap.
    """
    play.refresh("one.example")
    play.log.close()
    backup = (tmp_path / "policy.db").read_bytes()
    play.log = open_file(tmp_path / "policy.db")
    assert play.refresh("one.example", "two.example") == 1
    play.log.close()
    (tmp_path / "policy.db").write_bytes(backup)
    play.log = open_file(tmp_path / "policy.db")
    assert play.refresh() == 1
    assert "subtree two.example" in play.standing()


def test_a_feed_that_left_the_configuration_is_ended(play):
    """
    Its claims end in one batch, other sources' stay; and if it comes back, so do its rules.
    """
    play.refresh("one.example", "two.example")
    others = Config(feed=(Feed(name="other", path=play.path),))
    schedule.end_unconfigured(play.log, others)
    assert play.standing() == {}
    assert play.log.serial == 2
    assert play.log.ruling("subtree one.example") is None
    schedule.end_unconfigured(play.log, others)
    assert play.log.serial == 2  # once is enough
    assert play.refresh() == 2
    schedule.end_unconfigured(play.log, Config(feed=(play.feed,)))
    assert len(play.standing()) == 2


def test_a_refresh_process(play, tmp_path):
    """
    The process that the server starts takes its configuration from a pipe, commits, says what it
    did in one line, and ends with 1 where the feed is refused.
    """
    play.path.write_text("one.example\n")
    config = Config(state_dir=tmp_path, feed=(play.feed,))

    def run():
        return subprocess.run(
            [sys.executable, "-m", "urlguard.feeds.refresh", "a"],
            input=schedule.handed_over(config),
            capture_output=True,
            check=False,
        )

    done = run()
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stderr)
    assert (line["event"], line["feed"], line["serial"], line["changed"]) == (
        "feed.refreshed", "a", 1, 1,
    )  # fmt: skip
    assert play.standing().keys() == {"subtree one.example"}
    play.path.write_text("<html>\n")
    done = run()
    assert done.returncode == 1
    line = json.loads(done.stderr)
    assert (line["level"], line["event"], line["using"]) == ("warning", "feed.refused", "last_good")


def test_progress_is_told(play):
    """
    Each long step has a name, and reading says how far it is.
    """
    said = []
    play.refresh(*hosts(0, 3000), step=lambda words, done, total: said.append((words, done, total)))
    steps = list(dict.fromkeys(words for words, _, _ in said))
    assert steps == ["fetching", "reading", "comparing", "weighing", "writing claims",
                     "writing effects", "sealing"]  # fmt: skip
    size = play.path.stat().st_size
    assert ("reading", size, size) in said


def test_status_survives_keys_of_another_version(play):
    """
    A status that an older or newer version wrote is read as far as it is known.
    """
    play.log.store.set_feed_status("a", json.dumps({"rules": 7, "unheard_of": 1}))
    assert play.status == Status(rules=7)
    assert Status.read(play.log, "never") == Status()
    assert play.status.checked_at < time.time()


# ---- in shadow


def test_a_list_in_shadow_claims_nothing_else(play):
    """
    Its rules are claimed in shadow; let loose, the same octets block, and back again.
    """
    play.set(shadow=True)
    assert play.refresh("one.example", "two.example", "google.com") == 2
    assert set(play.standing().values()) == {"shadow"}
    assert play.refresh() is None
    assert dict(play.log.store.quarantined("a")) == {"subtree google.com": "protected name"}
    play.set(shadow=False)
    assert play.refresh() == 2
    assert set(play.standing().values()) == {"block"}
    play.set(shadow=True)
    assert play.refresh() == 2
    assert set(play.standing().values()) == {"shadow"}
    assert play.refresh("one.example") == 1
    assert play.log.verify() is None


def test_exceptions_of_a_list_in_shadow_are_kept_out_of_the_way(play):
    """
    In the log they would meet rules that decide: what they spare is left out instead.
    """
    play.set(shadow=True, format="adblock")
    play.refresh(
        "||evil.example^", "||ok.evil.example^", "||a.ok.evil.example^", "@@||ok.evil.example^"
    )
    assert play.standing() == {"subtree evil.example": "shadow"}
    play.set(shadow=False)
    play.refresh()
    assert play.standing()["subtree ok.evil.example"] == "except"


def test_settings_of_before_there_was_a_shadow_stay(play):
    """
    An upgrade does not read every list anew.
    """
    assert settings_of(Feed(name="a", path=Path("/a"))) == "ddfdad2c9735cf20"
