"""
What would change if rules were enforced: those of a list, or those that somebody thinks of.

Reads the policy and the hit log on disk, and is given a sample of the live queries; changes
nothing.  Whether the change would have to wait for a second person, `weight` says.

How it works.  Each rule is held against what is in force at its own name: blocked there already,
or new.  Of a list with more than `MAX_LOOKED` rules every nth is looked at, and the figures say so;
but each of its rules is looked at for names that it should not touch.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from urlguard.config import Config
from urlguard.engine import Engine
from urlguard.feeds import schedule
from urlguard.hitlog import counts as hits
from urlguard.hitlog.counts import Hits
from urlguard.impact import approval
from urlguard.impact.sample import Sampled
from urlguard.local_policy import open_engine
from urlguard.policy.location import log_exists, reading_log
from urlguard.policy.log import PolicyLog
from urlguard.rules import SHADOW, Rule
from urlguard.verdict import FEED

MAX_LOOKED: Final = 50_000  # rules that are held against the policy
MAX_TOUCHED: Final = 1_000  # rules with a reason that are told
TOP: Final = 20  # rules that are told with the queries that they would block


class Preview(NamedTuple):
    """What would change."""

    feed: str | None  # the list's name; None for rules that nobody has said yet
    action: str  # what the rules do now: ``shadow``, ``review``, ``block`` or ``none``
    rules: int
    new: int  # of them, those whose own name is not blocked yet
    exact: bool  # False: ``new`` was worked out from some of the rules
    sample: Sampled | None  # None: no server was there to ask
    touched: list[tuple[str, str]]  # rules that cover a name they should not, and which
    held: list[tuple[str, str]]  # rules of the list that are held back whatever it does
    reasons: list[str]  # why a second person would be needed
    since: int | None = None  # seconds since 1970: when the oldest rule in shadow began
    hits: Hits | None = None  # what the rules in shadow would have blocked since then

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
                "judged": approval.is_judged(live),
                "rules": [
                    {"rule": key, "queries": one.queries, "clients": one.clients}
                    for key, one in itertools.islice(live.rules.items(), TOP)
                ],
            }
        shadow = None
        if self.since is not None and self.hits is not None:
            shadow = {"since": self.since, **self.hits._asdict()}
        return {
            "feed": self.feed,
            "action": self.action,
            "rules": self.rules,
            "new": self.new,
            "covered": self.rules - self.new,
            "exact": self.exact,
            "sample": sample,
            "touched": _reasons(self.touched),
            "held": _reasons(self.held),
            "reasons": self.reasons,
            "shadow": shadow,
        }


def of_rules(config: Config, rules: Sequence[Rule], sample: Sampled | None) -> Preview:
    """
    What would change if people blocked these.

    Args:
        config: which server.
        rules: at least one.
        sample: counted for them.

    Raises:
        PolicyError: the log cannot be read.
    """
    new, exact = _new(open_engine(config), rules)
    touched = _touched(rules)
    reasons = _why(touched, sample)
    return Preview(None, "none", len(rules), new, exact, sample, touched, [], reasons)


def of_feed(config: Config, name: str, sample: Sampled | None) -> Preview:
    """
    What would change if a configured list were enforced.

    Args:
        config: which server.
        name: the list's.
        sample: counted for what it has in shadow.

    Raises:
        InputError: there is no such list.
        PolicyError: the log cannot be read.
    """
    feed = schedule.named(config, name)
    source = FEED + name
    rules, held, since = [], [], None
    if log_exists(config):
        with reading_log(config) as log:
            claims = list(log.store.active_of(source))
            held = log.store.quarantined(name)
            begun = min((serial for _, action, _, serial in claims if action == SHADOW), default=0)
            since = _time(log, begun)
        rules = [Rule.from_key(key) for key, action, *_ in claims if action != "except"]
    new, exact = _new(open_engine(config), rules)
    touched = _touched(rules)
    seen = None if since is None else hits.of(config.state_dir / "hits", source, since)
    return Preview(
        feed=name,
        action=SHADOW if feed.shadow else feed.action,
        rules=len(rules),
        new=new,
        exact=exact,
        sample=sample,
        touched=touched[:MAX_TOUCHED],
        held=held,
        reasons=_why(touched, sample),
        since=since,
        hits=seen,
    )


def _time(log: PolicyLog, serial: int) -> int | None:
    """When a batch was made; None if it is none."""
    batch = next(log.store.batches(serial - 1, 1), None) if serial else None
    return batch.time // 1000 if batch else None


def _new(engine: Engine, rules: Sequence[Rule]) -> tuple[int, bool]:
    """How many of the rules are about a name that is not blocked, and whether all were asked."""
    every = -(-len(rules) // MAX_LOOKED) or 1
    looked = rules[::every]
    new = sum(not _blocked(engine, rule) for rule in looked)
    return (new if every == 1 else round(new * len(rules) / len(looked))), every == 1


def _blocked(engine: Engine, rule: Rule) -> bool:
    """Whether what a rule is about is blocked already, by whatever rule."""
    if rule.kind in ("pattern", "url"):
        there = engine.at(rule)
    else:
        # Below a name no rule for the name alone counts.
        there = engine.decide(f"x.{rule.value}" if rule.kind == "below" else rule.value)
    return there is not None and there.action == "block"


def _touched(rules: Iterable[Rule]) -> list[tuple[str, str]]:
    return [(rule.key, reason) for rule in rules for reason in approval.touched(rule)]


def _why(touched: Sequence[tuple[str, str]], sample: Sampled | None) -> list[str]:
    found = [f"{key}: {reason}" for key, reason in touched[:MAX_TOUCHED]]
    if sample is not None and (reason := approval.share_reason(sample)):
        found.append(reason)
    return found


def _reasons(rows: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"rule": key, "reason": reason} for key, reason in rows]
