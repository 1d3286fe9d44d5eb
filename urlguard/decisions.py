"""
Bringing a decision into force: through the running server, or straight into the policy log.
"""

import re
import time
from datetime import UTC, datetime
from typing import NamedTuple

from urlguard.check import open_engine
from urlguard.config import Config
from urlguard.errors import InputError, PolicyError
from urlguard.policy.compile import compile_apart
from urlguard.policy.drivers.sqlite import ClaimRow
from urlguard.policy.log import Change, PolicyLog
from urlguard.rules import Rule
from urlguard.server import channel

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Done(NamedTuple):
    """What came of it."""

    changed: bool
    words: str
    everywhere: bool = True  # False if a worker of the running server has not confirmed it


def apply(config: Config, source: str, changes: list[Change], *, actor: str, reason: str) -> Done:
    """
    Make changes, in force on every worker on return if a server is running.

    Raises:
        PolicyError: they could not be made; nothing has changed.
    """
    message = {
        "op": "apply",
        "source": source,
        "changes": changes,
        "actor": actor,
        "reason": reason,
    }
    reply = channel.ask(config.state_dir, message)
    if reply is None or "lost" in reply:
        log = PolicyLog(config.database)
        try:
            batch = log.commit(source, changes, actor=actor, reason=reason)
            when = "at the next start" if reply is None else "in a moment"
            words = f"serial {log.serial}, in force {when}"
        finally:
            log.close()
        return Done(batch is not None, words)
    if "error" in reply:
        raise PolicyError(reply["error"])
    words = (
        f"serial {reply['serial']}, in force on {reply['in_force']} of {reply['workers']} workers"
    )
    if not reply["changed"]:
        words = f"so already; {words}"
    return Done(bool(reply["changed"]), words, reply["in_force"] >= reply["workers"])


def in_force(config: Config) -> None:
    """Have what is in the log enforced: by the running server, or in a snapshot for the next."""
    reply = channel.ask(config.state_dir, {"op": "sync"})
    if reply is None or "lost" in reply:
        compile_apart(config.database, config.state_dir / "snapshots")


def stands(config: Config, key: str, source: str) -> bool:
    """True if `source` says something about `key` now."""
    return any(claim.source == source for claim in _standing(config, key))


def others(config: Config, key: str, source: str) -> list[str]:
    """The other sources whose claims about `key` stand, each with what it says."""
    found = _standing(config, key)
    return [f"{claim.source} ({claim.action})" for claim in found if claim.source != source]


def deciding(config: Config, rule: Rule) -> str | None:
    """What decides about a rule's own name now, if that is another rule; with who says it."""
    if rule.kind not in ("domain", "subtree"):
        return None
    ruling = open_engine(config).decide(rule.value)
    if ruling is None or (ruling.kind, ruling.value) == rule:
        return None
    return f"{', '.join(ruling.sources)} ({ruling.action} {ruling.kind} {ruling.value})"


def _standing(config: Config, key: str) -> list[ClaimRow]:
    """The claims about `key` that stand, from the log's file."""
    if not config.database.exists():
        return []
    log = PolicyLog(config.database, read_only=True)
    try:
        with log.store.reading():
            return [claim for claim in log.store.history(key) if claim.to_serial is None]
    finally:
        log.close()


def expiry(text: str | None) -> int | None:
    """
    When something expires, in seconds since 1970.

    Raises:
        InputError: neither a duration such as ``12h`` nor a time, or one in the past.
    """
    if text is None:
        return None
    if match := re.fullmatch(r"(\d{1,9})([smhdw])", text):
        when = int(time.time()) + int(match[1]) * _UNITS[match[2]]
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise InputError(
                f"expires {text!r}: must be a duration such as 30m, 12h, 7d, or a time such as "
                "2030-01-31T12:00Z"
            ) from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        when = int(moment.timestamp())
    if when <= time.time():
        raise InputError(f"expires {text!r}: lies in the past")
    return when
