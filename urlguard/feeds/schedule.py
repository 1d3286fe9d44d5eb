"""
Which feeds there are, when each is due, and how a refresh process is told about them.
"""

import dataclasses
import pickle
import sys
from typing import Any

from urlguard import wellknown
from urlguard.config import Config, Feed
from urlguard.errors import InputError
from urlguard.feeds.status import Status, settings_of
from urlguard.policy.location import log_exists, reading_log
from urlguard.policy.log import PolicyLog
from urlguard.policy.model import Change
from urlguard.verdict import FEED

RETRY_S = 300  # after a failed refresh, if that is sooner than the next one
STARTER = "starter"


def feeds(config: Config) -> tuple[Feed, ...]:
    """The configured feeds; without any, the starter list that comes with UrlGuard."""
    if config.feed:
        return config.feed
    return (
        Feed(
            name=STARTER,
            path=wellknown.starter_path(),
            format="csv",
            column="domain",
            category_column="category",
            refresh_s=86_400,
        ),
    )


def named(config: Config, name: str) -> Feed:
    """
    The feed called `name`.

    Raises:
        InputError: there is none; the message names those that there are.
    """
    for feed in feeds(config):
        if feed.name == name:
            return feed
    known = ", ".join(feed.name for feed in feeds(config))
    raise InputError(f"feed {name!r}: not configured; known: {known}")


def imported(log: PolicyLog, feed: Feed) -> bool:
    """True if `feed` was ever refreshed with success."""
    return bool(Status.read(log, feed.name).settings)


def due_in_s(log: PolicyLog, feed: Feed, now: float) -> float:
    """Seconds until `feed` is due; 0 or less if it is."""
    status = Status.read(log, feed.name)
    if status.settings and status.settings != settings_of(feed):
        return 0.0
    if status.checked_at > now:  # the clock was set back
        return 0.0
    wait = min(feed.refresh_s, RETRY_S) if status.error else feed.refresh_s
    return status.checked_at + wait - now


def overview(config: Config) -> list[dict[str, Any]]:
    """
    Each feed with its status and quarantined rules; creates no files.

    Raises:
        PolicyError: the log cannot be read.
    """
    if not log_exists(config):
        return [_row(feed, Status(), []) for feed in feeds(config)]
    with reading_log(config) as log:
        return [
            _row(feed, Status.read(log, feed.name), log.store.quarantined(feed.name))
            for feed in feeds(config)
        ]


def _row(feed: Feed, status: Status, quarantined: list[tuple[str, str]]) -> dict[str, Any]:
    where = feed.url or str(feed.path)
    about = {"name": feed.name, "from": where, "shadow": feed.shadow}
    return {**about, **dataclasses.asdict(status), "quarantined_rules": quarantined}


def end_unconfigured(log: PolicyLog, config: Config) -> None:
    """Withdraw what feeds say that are no longer configured."""
    known = {feed.name for feed in feeds(config)}
    for source in log.store.sources():
        name = source.removeprefix(FEED)
        if name == source or name in known:
            continue
        rules = [rule for rule, *_ in log.store.active_of(source)]
        if not rules and Status.read(log, name) == Status():
            continue
        with log.store.writing():
            log.commit(
                source,
                (Change(rule, None) for rule in rules),
                actor="urlguard",
                reason="the feed is no longer configured",
            )
            log.store.set_quarantined(name, ())
            # Nothing is remembered: should the feed come back, the same list is news again.
            Status().write(log, name)


def handed_over(config: Config) -> bytes:
    """What a refresh process reads from its standard input."""
    return pickle.dumps(config)


def handed_config() -> Config:
    """The configuration that the parent handed over: our own pickle, through a private pipe."""
    config: Config = pickle.load(sys.stdin.buffer)  # noqa: S301
    return config
