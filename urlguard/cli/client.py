"""
Bringing a decision into force: through the running server, or straight into the policy log.
"""

import contextlib
import fcntl
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from urlguard.blocklist.pause import pause_category, pause_end
from urlguard.compile import compile_apart
from urlguard.config import Config
from urlguard.errors import InputError, PolicyError
from urlguard.local_policy import open_engine
from urlguard.policy.location import log_exists, log_location, open_log, reading_log
from urlguard.policy.log import PolicyLog
from urlguard.policy.model import Change, ClaimRow
from urlguard.processes import channel
from urlguard.rules import OPERATOR, PAUSE, Rule, from_scheduled
from urlguard.times import moment

BACK_S: Final = 5.0  # to wait for a control process that is being started again
_AGAIN_S: Final = 0.2


class Done(NamedTuple):
    """What came of it."""

    changed: bool
    words: str
    everywhere: bool = True  # False if a worker of the running server has not confirmed it
    serial: int = 0  # of the log, now


def apply(config: Config, source: str, changes: list[Change], *, actor: str, reason: str) -> Done:
    """
    Make changes, in force on every worker on return if a server is running.

    A control process that is being started again, as by a reload, is waited for `BACK_S`; what it
    does not take is written into the log, where it finds it: ``everywhere`` is False then.

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
    reply, running = _ask(config.state_dir, message)
    if reply is None:
        with contextlib.closing(open_log(config)) as log:
            batch = log.commit(source, changes, actor=actor, reason=reason)
            when = "in a moment" if running else "at the next start"
            serial = log.serial
        words = f"serial {serial}, in force {when}"
        return Done(batch is not None, words, not running, serial)
    if "error" in reply:
        raise PolicyError(reply["error"])
    words = (
        f"serial {reply['serial']}, in force on {reply['in_force']} of {reply['workers']} workers"
    )
    if not reply["changed"]:
        words = f"so already; {words}"
    everywhere = reply["in_force"] >= reply["workers"]
    return Done(bool(reply["changed"]), words, everywhere, reply["serial"])


def _ask(state_dir: Path, message: channel.Message) -> tuple[channel.Message | None, bool]:
    """The control process's reply, None if there is none; and whether a server is running."""
    until = time.monotonic() + BACK_S
    while True:
        # A retry is safe: to apply a change again that is already in the log has no effect.
        reply = channel.ask(state_dir, message)
        if reply is not None and "lost" not in reply:
            return reply, True
        running = _held(state_dir)
        if not running or time.monotonic() >= until:
            return None, running
        time.sleep(_AGAIN_S)


def _held(state_dir: Path) -> bool:
    """True if a server holds `state_dir`, whether or not its control process is there."""
    try:
        with (state_dir / "serve.lock").open("rb") as lock:
            # Shared, and let go at once by closing: commands do not get in each other's way.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no server was ever here, or it is another user's, who owns the log as well
        return False
    return False


def in_force(config: Config) -> None:
    """Have what is in the log enforced: by the running server, or in a snapshot for the next."""
    reply = channel.ask(config.state_dir, {"op": "sync"})
    if reply is None or "lost" in reply:
        compile_apart(log_location(config), config.state_dir / "snapshots")


def claims(config: Config, key: str, source: str) -> bool:
    """True if `source` has an active claim about `key`."""
    return any(claim.source == source for claim in _active_claims(config, key))


def others(config: Config, key: str, source: str) -> list[str]:
    """The other sources with an active claim about `key`, each with its action."""
    found = _active_claims(config, key)
    return [f"{claim.source} ({claim.action})" for claim in found if claim.source != source]


def deciding(config: Config, rule: Rule) -> str | None:
    """What decides about a rule's own name now, if that is another rule; with who says it."""
    if rule.kind not in ("domain", "subtree"):
        return None
    ruling = open_engine(config).decide(rule.value)
    if ruling is None or (ruling.kind, ruling.value) == rule:
        return None
    return f"{', '.join(ruling.sources)} ({ruling.action} {ruling.kind} {ruling.value})"


def _active_claims(config: Config, key: str) -> list[ClaimRow]:
    """The active claims about `key`, read from the log."""
    with _reading(config) as log:
        found = log.store.history(key) if log else []
        return [claim for claim in found if claim.to_serial is None]


@contextlib.contextmanager
def _reading(config: Config) -> Iterator[PolicyLog | None]:
    """The log within one read transaction; None if there is none yet."""
    if not log_exists(config):
        yield None
        return
    with reading_log(config) as log:
        yield log


class Pause(NamedTuple):
    """A pause of all filtering."""

    until: int | None  # seconds since 1970; None: until somebody resumes
    reason: str
    serial: int  # of the batch with the pause
    actor: str
    since: int  # seconds since 1970: when that was

    @property
    def words(self) -> str:
        """For people."""
        until = f"until {moment(self.until)}" if self.until else "until `urlguard resume`"
        reason = f", {self.reason}" if self.reason else ""
        return f"{until} (batch {self.serial}, by {self.actor} at {moment(self.since)}{reason})"


def pause(config: Config, until: int | None, *, actor: str, reason: str) -> Done:
    """
    Pause filtering on every worker, as a decision like any other: see `apply`.

    Args:
        config: which server.
        until: when it goes on by itself, in seconds since 1970; None: by `resume` only.
        actor: who, for the audit.
        reason: why, for the audit.
    """
    change = Change(PAUSE, "allow", pause_category(until), reason, until)
    return apply(config, OPERATOR, [change], actor=actor, reason=reason)


def resume(config: Config, *, actor: str, reason: str) -> Done:
    """Resume filtering; ``changed`` is False if it was not paused."""
    return apply(config, OPERATOR, [Change(PAUSE, None)], actor=actor, reason=reason)


def paused(config: Config) -> Pause | None:
    """
    The pause that is in force in the log; None while filtering is on.

    A pause is over at its end, even if the log does not yet record that it has ended.
    """
    with _reading(config) as log:
        claim = log and log.store.active(OPERATOR, PAUSE)
        if not log or not claim or pause_end(claim.category) <= time.time():
            return None
        batch = next(log.store.batches(claim.from_serial - 1, 1))
    until, evidence = claim.expires_at, claim.evidence
    return Pause(until, evidence, batch.serial, batch.actor, batch.time // 1000)


class ScheduledRule(NamedTuple):
    """A rule that begins later."""

    key: str  # under which it waits
    rule: Rule
    action: str
    category: str
    source: str
    begins: int  # seconds since 1970
    ends: int | None
    reason: str
    serial: int  # of the batch that scheduled it

    def as_json(self) -> dict[str, Any]:
        """The object of ``urlguard log --scheduled --json``."""
        return {
            "begins_at": self.begins,
            "expires_at": self.ends,
            "action": self.action,
            "kind": self.rule.kind,
            "value": self.rule.value,
            "category": self.category,
            "source": self.source,
            "reason": self.reason,
            "serial": self.serial,
        }

    @property
    def words(self) -> str:
        """When, for people."""
        return f"from {moment(self.begins)}" + (f" until {moment(self.ends)}" if self.ends else "")


def scheduled_rules(config: Config) -> list[ScheduledRule]:
    """All rules that begin later, the next one first."""
    with _reading(config) as log:
        return read_scheduled(log.store.scheduled()) if log else []


def read_scheduled(claims: Iterable[ClaimRow]) -> list[ScheduledRule]:
    """The rules of scheduled claims; a claim that this version cannot read is left out."""
    found = []
    for c in claims:
        with contextlib.suppress(InputError):
            begins, key = from_scheduled(c.rule)
            row = (
                c.action,
                c.category,
                c.source,
                begins,
                c.expires_at,
                c.evidence,
                c.from_serial,
            )
            found.append(ScheduledRule(c.rule, Rule.from_key(key), *row))
    return found
