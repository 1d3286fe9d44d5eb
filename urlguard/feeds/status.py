"""
What is known of a feed's refreshes; kept beside the policy, not part of it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from urlguard.config import Feed
from urlguard.policy.log import PolicyLog
from urlguard.rules import SHADOW


@dataclass
class Status:
    """What is known of a feed's refreshes; kept beside the policy, not part of it."""

    checked_at: float = 0.0  # seconds since 1970: the last attempt
    changed_at: float = 0.0  # the last batch
    error: str | None = None  # why the last attempt failed
    format: str = ""
    rules: int = 0
    lines: int = 0
    bad: int = 0
    problems: list[str] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)
    quarantined: int = 0
    serial: int = 0  # of the last batch
    settings: str = ""  # digest of the settings that the rules were read under
    sha256: str = ""  # of the list that the last batch brought the log to

    @classmethod
    def read(cls, log: PolicyLog, name: str) -> "Status":
        """The status of a feed; a blank one if it was never refreshed."""
        text = log.store.feed_status().get(name)
        if text is None:
            return cls()
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in json.loads(text).items() if k in known})

    def write(self, log: PolicyLog, name: str) -> None:
        """Keep the status."""
        log.store.set_feed_status(name, json.dumps(dataclasses.asdict(self)))


def settings_of(feed: Feed) -> str:
    """A digest of the settings that decide what a list's bytes mean."""
    names = ("path", "url", "format", "column", "category_column", "category", "action")
    values: Iterable[Any] = (getattr(feed, name) for name in (*names, "allow_popular"))
    if feed.shadow:  # others keep the digest that they had before there were any
        values = (*values, SHADOW)
    return hashlib.sha256(repr([str(v) for v in values]).encode()).hexdigest()[:16]
