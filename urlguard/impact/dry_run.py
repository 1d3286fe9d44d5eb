"""
Dry run: what would change if the rules of a feed, or proposed rules, were enforced.

Reads the policy and the hit log on disk, and takes a sample of the live queries; changes nothing.
`approval` says whether the change would need a second person.

How it works.  A rule is new if its own name is not blocked yet.  Of a feed with more than
`MAX_COMPARED` rules every nth is compared, and ``exact`` is False; but all rules are checked for
protected names.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from urlguard.config import Config
from urlguard.engine import Engine
from urlguard.feeds import schedule
from urlguard.hitlog import counts as hits
from urlguard.hitlog.counts import ShadowCount
from urlguard.impact import approval
from urlguard.impact.sample import Sampled
from urlguard.local_policy import open_engine
from urlguard.policy.location import log_exists, reading_log
from urlguard.policy.log import PolicyLog
from urlguard.rules import SHADOW, Rule
from urlguard.times import moment
from urlguard.verdict import FEED

MAX_COMPARED: Final = 50_000  # rules that are compared with the policy
MAX_PROTECTED: Final = 1_000  # rules over protected names that are listed
TOP: Final = 20  # rules that are listed with their sampled queries


class DryRun(NamedTuple):
    """What would change."""

    feed: str | None  # its name; None for proposed rules
    action: str  # what the rules do now: ``shadow``, ``review``, ``block`` or ``none``
    rules: int
    new: int  # of them, those whose own name is not blocked yet
    exact: bool  # False: ``new`` is an estimate from some of the rules
    sample: Sampled | None  # None: no server is running
    protected: list[tuple[str, str]]  # rules that cover a protected name, and the reason
    quarantined: list[tuple[str, str]]  # rules of the feed that are quarantined, and the reason
    needs_approval: list[str]  # why the change would need a second person
    since: int | None = None  # seconds since 1970: start of the oldest rule in shadow
    hits: ShadowCount | None = None  # what the rules in shadow would have blocked since then

    def as_json(self) -> dict[str, Any]:
        """The object of ``urlguard feed preview --json`` and of ``/v1/preview``."""
        sample, live = None, self.sample
        if live is not None:
            sample = {
                "queries": live.total.queries,
                "clients": live.total.clients,
                "newly_blocked": live.newly.queries,
                "newly_blocked_clients": live.newly.clients,
                "share": live.share,
                "sufficient": approval.is_sufficient(live),
                "rules": [
                    {"rule": key, "queries": one.queries, "clients": one.clients}
                    for key, one in itertools.islice(live.rules.items(), TOP)
                ],
            }
        shadow = None
        if self.since is not None and self.hits is not None:
            shadow = {"started_at": moment(int(self.since)), **self.hits._asdict()}
        return {
            "feed": self.feed,
            "action": self.action,
            "rules": self.rules,
            "new": self.new,
            "covered": self.rules - self.new,
            "exact": self.exact,
            "sample": sample,
            "protected": _reasons(self.protected),
            "quarantined": _reasons(self.quarantined),
            "needs_approval": self.needs_approval,
            "shadow": shadow,
        }


def of_rules(config: Config, rules: Sequence[Rule], sample: Sampled | None) -> DryRun:
    """
    What would change if these rules were blocked.

    Args:
        config: of the server.
        rules: at least one.
        sample: of the live queries, counted for the rules.

    Raises:
        PolicyError: the log cannot be read.
    """
    new, exact = _new(open_engine(config), rules)
    protected = _protected(rules)
    reasons = _why(protected, sample)
    return DryRun(None, "none", len(rules), new, exact, sample, protected, [], reasons)


def of_feed(config: Config, name: str, sample: Sampled | None) -> DryRun:
    """
    What would change if a configured feed were enforced.

    Args:
        config: of the server.
        name: of the feed.
        sample: of the live queries, counted for the feed's rules in shadow.

    Raises:
        InputError: there is no such feed.
        PolicyError: the log cannot be read.
    """
    feed = schedule.named(config, name)
    source = FEED + name
    rules, quarantined, since = [], [], None
    if log_exists(config):
        with reading_log(config) as log:
            claims = list(log.store.active_of(source))
            quarantined = log.store.quarantined(name)
            begun = min((serial for _, action, _, serial in claims if action == SHADOW), default=0)
            since = _time(log, begun)
        rules = [Rule.from_key(key) for key, action, *_ in claims if action != "except"]
    new, exact = _new(open_engine(config), rules)
    protected = _protected(rules)
    seen = None if since is None else hits.of(config.state_dir / "hits", source, since)
    return DryRun(
        feed=name,
        action=SHADOW if feed.shadow else feed.action,
        rules=len(rules),
        new=new,
        exact=exact,
        sample=sample,
        protected=protected[:MAX_PROTECTED],
        quarantined=quarantined,
        needs_approval=_why(protected, sample),
        since=since,
        hits=seen,
    )


def _time(log: PolicyLog, serial: int) -> int | None:
    """The time of a batch in seconds since 1970; None if there is no such batch."""
    batch = next(log.store.batches(serial - 1, 1), None) if serial else None
    return batch.time // 1000 if batch else None


def _new(engine: Engine, rules: Sequence[Rule]) -> tuple[int, bool]:
    """How many rules are new, and whether all were compared."""
    every = -(-len(rules) // MAX_COMPARED) or 1
    compared = rules[::every]
    new = sum(not _blocked(engine, rule) for rule in compared)
    return (new if every == 1 else round(new * len(rules) / len(compared))), every == 1


def _blocked(engine: Engine, rule: Rule) -> bool:
    """Whether the rule's own name is blocked already, by any rule."""
    if rule.kind in ("pattern", "url"):
        there = engine.at(rule)
    else:
        # Below a name no rule for the name alone counts.
        there = engine.decide(f"x.{rule.value}" if rule.kind == "below" else rule.value)
    return there is not None and there.action == "block"


def _protected(rules: Iterable[Rule]) -> list[tuple[str, str]]:
    return [(rule.key, reason) for rule in rules for reason in approval.protected_names(rule)]


def _why(protected: Sequence[tuple[str, str]], sample: Sampled | None) -> list[str]:
    found = [f"{key}: {reason}" for key, reason in protected[:MAX_PROTECTED]]
    if sample is not None and (reason := approval.share_reason(sample)):
        found.append(reason)
    return found


def _reasons(rows: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"rule": key, "reason": reason} for key, reason in rows]
