"""
One refresh of one feed: what it says now becomes one batch with the difference.

    downloader → formats → quarantine → limits → the policy log

A feed that cannot be had, is mostly bad, or grew or shrank absurdly changes nothing: its last good
rules stay in force.  Rules that would block a public suffix, an infrastructure name or one of the
most popular names are quarantined: they are shown, and an operator can still make them by hand.  A
list in shadow goes the same way, and its rules are only counted.

The control process runs this as ``python -m urlguard.feeds.refresh NAME``, so that a million lines
never hold up a loop; the command ``urlguard feed refresh`` runs it directly.
"""

import contextlib
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from urlguard import events, names, wellknown
from urlguard.config import Config, Feed
from urlguard.errors import FeedError, UrlGuardError
from urlguard.feeds import downloader, formats
from urlguard.feeds.parsed import Parsed
from urlguard.feeds.status import Status, settings_of
from urlguard.policy.location import open_log
from urlguard.policy.log import PolicyLog
from urlguard.policy.model import Batch, Change
from urlguard.processes import lifetime
from urlguard.rules import SHADOW
from urlguard.verdict import FEED

MIN_JUDGED = 100  # rules; a smaller feed may change as it likes
MAX_SHOWN = 1000  # quarantined rules kept for `feed list`, so that a bad list stays bounded
_SHOWN_PROBLEMS = 25

_EXCEPT = ""  # in place of a category, which is never empty

Step = Callable[[str, int, int], None]  # words, done, total (0: unknown)


def refresh(
    log: PolicyLog,
    feed: Feed,
    state_dir: Path,
    *,
    step: Step | None = None,
    force: bool = False,
    actor: str = "urlguard",
) -> Batch | None:
    """
    Bring one feed up to date.

    Args:
        log: where the difference goes.
        feed: its configuration.
        state_dir: below it the last good copy is kept.
        step: told how far the refresh is, for a progress bar.
        force: accept a feed that grew or shrank beyond its limits.
        actor: for the audit.

    Returns:
        The batch, or None if the feed says what it said before.

    Raises:
        FeedError: it could not be used; nothing has changed, and its status says why.
        PolicyError: the log could not be written; nothing has changed.
    """
    status = Status.read(log, feed.name)
    status.checked_at = time.time()
    try:
        batch = _refresh(log, feed, state_dir, status, step or _silent, force, actor)
    except UrlGuardError as exc:
        status.error = str(exc)
        with contextlib.suppress(UrlGuardError):  # the disk may be full
            status.write(log, feed.name)
        raise
    status.error = None
    status.write(log, feed.name)
    return batch


def _refresh(
    log: PolicyLog,
    feed: Feed,
    state_dir: Path,
    status: Status,
    step: Step,
    force: bool,
    actor: str,
) -> Batch | None:
    step("fetching", 0, 0)
    folder = state_dir / "feeds"
    settings = settings_of(feed)
    known = (
        downloader.load_last_good(folder, feed) if downloader.load_cached(folder, feed) else None
    )
    cached = known.cached if known else None
    fetched = downloader.fetch(feed, cached, lambda done, total: step("fetching", done, total))
    data = fetched.data
    if known is not None and fetched.unchanged:
        downloader.save_last_good(folder, feed, fetched)  # renews its ETag and times
        # The same bytes mean other rules under other settings, and to a log that was restored, or
        # whose claims were ended when the feed left the configuration, they are news.
        if (status.settings, status.sha256) == (settings, known.cached.sha256):
            return None
        data = known.data
    step("reading", 0, len(data))
    parsed = formats.parse(data, feed, lambda done, total: step("reading", done, total))
    quarantined = _quarantine(parsed, feed)
    step("comparing", 0, 0)
    origin = FEED + feed.name
    if feed.shadow:
        _take_exceptions_out(parsed)
    # What stands counts exceptions too, and one claim where a key is both.
    rules = len(parsed.rules) + sum(rule not in parsed.rules for rule in parsed.exceptions)
    changes, standing = _difference(log, origin, parsed, feed)
    if not force:
        _judge_size(feed, rules, standing)
    reason = f"refresh: {rules} rules, sha256 {fetched.sha256[:16]}"

    def keep(batch: Batch | None) -> None:
        log.store.set_quarantined(feed.name, quarantined[:MAX_SHOWN])
        status.format = parsed.format
        status.rules = rules
        status.lines, status.bad, status.quarantined = parsed.lines, parsed.bad, len(quarantined)
        status.problems = [str(p) for p in parsed.problems[:_SHOWN_PROBLEMS]]
        status.ignored = parsed.ignored
        status.settings, status.sha256 = settings, fetched.sha256
        if batch:
            status.changed_at, status.serial = time.time(), batch.serial
        status.write(log, feed.name)

    batch = log.commit(
        origin,
        changes,
        actor=actor,
        reason=reason,
        progress=lambda words: step(words, 0, 0),
        within=keep,
    )
    # After the commit: a copy without its batch would make the next refresh think it is done.
    downloader.save_last_good(folder, feed, fetched)
    return batch


def _quarantine(parsed: Parsed, feed: Feed) -> list[tuple[str, str]]:
    """Take out the rules that a feed must not make; returns them with the reason."""
    if feed.allow_popular or feed.action != "block":
        return []
    quarantined = []
    values = wellknown.quarantine_values()
    beneath = names.wildcard_suffixes() | wellknown.governing_suffixes()
    for key in parsed.rules:
        kind, _, value = key.partition(" ")
        if kind == "url":
            # Only the whole site: a page on a popular site is what URL rules are for.
            value = value[:-1] if value.endswith("/") and value.count("/") == 1 else ""
            kind = "subtree"
        candidate = value in values or value.removeprefix("www.").partition(".")[2] in beneath
        if candidate and (reason := wellknown.quarantine_reason(kind, value)):
            quarantined.append((key, reason))
    for key, _ in quarantined:
        del parsed.rules[key]
    return sorted(quarantined)


def _take_exceptions_out(parsed: Parsed) -> None:
    """
    Leave out the rules at and below exceptions, and the exceptions.

    In the log an exception cancels rules that decide; those in shadow never do.  A wider rule of
    the list therefore also counts names that its exception would let through.
    """
    spared = {key.partition(" ")[2] for key in parsed.exceptions}
    parsed.exceptions.clear()
    if not spared:
        return
    for key in list(parsed.rules):
        value = key.partition(" ")[2]
        if value in spared or not spared.isdisjoint(names.parents(value)):
            del parsed.rules[key]


def _difference(
    log: PolicyLog, origin: str, parsed: Parsed, feed: Feed
) -> tuple[list[Change], int]:
    """
    The changes that bring the log to what the feed says, and how many rules stand now.

    Uses up `parsed.rules`.
    """
    new = parsed.rules
    for rule in [rule for rule, category in new.items() if not category]:
        new[rule] = feed.category
    for rule in parsed.exceptions:
        new[rule] = _EXCEPT  # at the same key a feed's exception is stronger than its rule
    changes = []
    standing = 0
    # Of millions of rules nearly all are as they were: one look-up each, and what is left is new.
    take = new.pop
    for rule, was in log.store.categories(origin, _action(feed)):
        standing += 1
        now = take(rule, None)
        if now is None or now != was:
            changes.append(_change(feed, rule, now))
    changes += (_change(feed, rule, category) for rule, category in new.items())
    return changes, standing


def _change(feed: Feed, rule: str, category: str | None) -> Change:
    if category is None:
        return Change(rule, None)
    if category == _EXCEPT:
        return Change(rule, "except")
    return Change(rule, _action(feed), category)


def _action(feed: Feed) -> str:
    """What the feed's claims ask for."""
    return SHADOW if feed.shadow else feed.action


def _judge_size(feed: Feed, rules: int, standing: int) -> None:
    """Refuse what a working feed would not do from one refresh to the next."""
    if max(rules, standing) < MIN_JUDGED or not standing:
        return
    kept = 1 - feed.max_shrink
    if rules < standing * kept:
        raise FeedError(
            f"feed {feed.name}: {rules} rules after {standing}; may shrink by "
            f"{feed.max_shrink:.0%} in one refresh (max_shrink), or use --force"
        )
    if rules > standing * feed.max_growth and rules > MIN_JUDGED:
        raise FeedError(
            f"feed {feed.name}: {rules} rules after {standing}; may grow "
            f"{feed.max_growth:g}-fold in one refresh (max_growth), or use --force"
        )


def _silent(words: str, done: int, total: int) -> None:
    pass


def main() -> int:
    """Entry point of the refresh process."""
    from urlguard.feeds import schedule

    lifetime.die_with_parent()
    os.nice(5)
    gc.disable()  # millions of small objects, none in a cycle, and the process ends soon
    name = sys.argv[1]
    config: Config = schedule.handed_config()
    events.bind(role="refresh", feed=name)
    feed = schedule.named(config, name)
    log = open_log(config)
    started = time.monotonic()
    try:
        batch = refresh(log, feed, config.state_dir)
    except UrlGuardError as exc:
        events.warning("feed.refused", error=str(exc), using="last_good")
        return 1
    finally:
        log.close()
    events.info(
        "feed.refreshed",
        serial=batch.serial if batch else None,
        changed=batch.claims if batch else 0,
        seconds=round(time.monotonic() - started, 2),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
