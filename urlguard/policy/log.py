"""
The policy log: the one place where a rule changes.

Whoever wants a change commits a batch of claims to it; whoever needs rules reads what follows from
them, the effects.  A batch gets one serial and one hash, see `chain`.  A claim for a rule that
begins later stands under a key of its own, without an effect, until `PolicyLog.expire` puts the
rule in its place.  A claim in shadow has its effect under a key of its own too, so that nothing
that decides ever meets it.  Knows nothing of feeds, packets or processes.
"""

import contextlib
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from urlguard import names, rules
from urlguard.errors import InputError, PolicyError
from urlguard.policy import chain
from urlguard.policy.chain import GENESIS, RESTORE, Damage
from urlguard.policy.model import Batch, Change, ClaimRow, EffectRow
from urlguard.policy.precedence import Standing, effective, plain, same_world, shadowed
from urlguard.policy.store import LogStore
from urlguard.rules import ACTIONS, OPERATOR, PLANNED, SHADOW, SHADOWED, SWITCH
from urlguard.verdict import FEED, Ruling, encode

EXPIRY_BATCH = 10_000  # claims that one expiry batch ends, so that none takes long
_BULK = 100_000  # keys from which reading a whole source beats looking keys up

# No control characters, and no half of a surrogate pair, which no UTF-8 has.
_TEXT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]*")
_MAX_TEXT = 2048


class PolicyLog:
    """The log in one store."""

    def __init__(self, store: LogStore) -> None:
        """The log in `store`, which `close` closes; see `urlguard.policy.location.open_log`."""
        self.store = store

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    @property
    def serial(self) -> int:
        """The serial of the last batch, 0 before the first."""
        head = self.store.head()
        return head.serial if head else 0

    def has_batch(self, serial: int, digest: str) -> bool:
        """True if batch `serial` of this log has that hash; before the first, 0 and `GENESIS`."""
        if serial == 0:
            return digest == GENESIS
        batch = next(self.store.batches(serial - 1, 1), None)
        return batch is not None and (batch.serial, batch.hash) == (serial, digest)

    def commit(
        self,
        source: str,
        changes: Iterable[Change],
        *,
        actor: str,
        reason: str,
        progress: Callable[[str], None] | None = None,
        within: Callable[[Batch | None], None] | None = None,
    ) -> Batch | None:
        """
        Write one batch with what `source` says from now on.

        Args:
            source: ``operator``, ``analyst:NAME`` or ``feed:NAME``.
            changes: at most one for each rule; what already stands so is left out.
            actor: who is behind it, for the audit.
            reason: why, for the audit.
            progress: called with the name of each long step.
            within: called in the same transaction with what the commit will return.

        Returns:
            The batch, or None if nothing changes.

        Raises:
            PolicyError: a text is too long or holds control characters, a rule is there twice, or
                the store cannot be written; nothing is applied then.
        """
        wanted = sorted(changes, key=itemgetter(0))
        _check(source, actor, reason, wanted)
        step = progress or (lambda words: None)
        store = self.store
        with store.writing():
            step("comparing")
            standing = self._standing(source, wanted)
            starts, ends = _difference(wanted, standing)
            if not starts and not ends:
                if within:
                    within(None)
                return None
            head = store.head()
            serial = head.serial + 1 if head else 1
            started = {c.rule: c for c in starts}
            touched = sorted(started.keys() | set(ends))
            others = self._others(source, touched)
            depending = self._depending(touched, starts)
            before = {key: effective(key, self._claims_at) for key in depending}
            step("writing claims")
            store.add_source(source)
            store.end_claims(serial, ((source, rule) for rule in ends))
            store.add_claims(
                (c.rule, source, c.category, c.action, c.evidence, serial, None, c.expires_at)
                for c in starts
            )
            step("writing effects")
            effects = []
            weighed = sorted(depending.union(touched)) if depending else touched
            if not source.startswith(FEED):
                # A rule that begins later is none yet.
                weighed = [key for key in weighed if not key.startswith(PLANNED)]
            alone: dict[tuple[Any, ...], str | None] = {}  # by action and category
            encoded: dict[tuple[Any, ...], str | None] = {}
            for key in weighed:
                new = started.get(key)
                if (
                    new
                    and new.action != "except"
                    and not (key in others or key in standing or key in depending)
                ):
                    # Nobody said anything about it: all that a list of millions mostly is.
                    text = alone.get(new[1:3])
                    if text is None:
                        own = _own_after(source, new, serial)
                        text = alone[new[1:3]] = encode(shadowed(key, own) or plain(key, own))
                    at = SHADOWED + key if new.action == SHADOW else key
                    effects.append(EffectRow(serial, at, None, text))
                    continue
                rest = others.get(key, [])
                then = [*rest, *_own_before(standing.get(key))]
                own = [*rest, *_own_after(source, new, serial)]
                if key in depending:
                    was, now = before[key], effective(key, self._claims_at)
                else:
                    was, now = plain(key, then), plain(key, own)
                if not same_world(was, now):
                    texts = (_encoded(was, encoded), _encoded(now, encoded))
                    effects.append(EffectRow(serial, key, *texts))
                was, now = shadowed(key, then), shadowed(key, own)
                # Each source is counted, so another one is news.
                if was != now:
                    texts = (_encoded(was, encoded), _encoded(now, encoded))
                    effects.append(EffectRow(serial, SHADOWED + key, *texts))
            effects.sort(key=itemgetter(1))  # as they are read; sorted already without shadows
            store.add_effects(effects)
            step("sealing")
            digests = (
                chain.sha256(chain.payload(source, starts, ends)),
                chain.sha256(map(chain.effect_line, effects)),
            )
            row = chain.sealed(
                serial,
                int(time.time() * 1000),
                (actor, source, reason),
                digests,
                head.hash if head else GENESIS,
            )
            store.add_batch(row)
            batch = Batch(serial, len(touched), effects)
            if within:
                within(batch)
        return batch

    def expire(self, now: float | None = None) -> list[Batch]:
        """
        End claims whose time is over, and begin planned ones whose time has come.

        At most `EXPIRY_BATCH` of each; one batch for each source and of each sort.
        """
        moment = int(time.time() if now is None else now)
        if not self.store.expired(moment, 1) and not self.store.planned(moment, 1):
            return []
        batches: list[Batch | None] = []
        # Read again within the transaction: another process may have prolonged a claim meanwhile.
        with self.store.writing():
            due = self.store.expired(moment, EXPIRY_BATCH)
            for source, group in groupby(sorted(due), key=itemgetter(0)):
                over = [Change(rule, None) for _, rule in group]
                batches.append(self.commit(source, over, actor="urlguard", reason="expired"))
            for source, changes in self._beginning(moment).items():
                batches.append(self.commit(source, changes, actor="urlguard", reason="begun"))
        return [batch for batch in batches if batch]

    def _beginning(self, moment: int) -> dict[str, list[Change]]:
        """What each source's planned claims, whose time has come, make it say."""
        begun: dict[str, dict[str, Change]] = {}
        for claim in self.store.planned(moment, EXPIRY_BATCH):
            changes = begun.setdefault(claim.source, {})
            changes[claim.rule] = Change(claim.rule, None)
            with contextlib.suppress(InputError):  # not written by us: it only ends
                _, rule = rules.from_planned(claim.rule)
                # In the order of their times: of several for one rule the last one counts.
                said = (claim.action, claim.category, claim.evidence, claim.expires_at)
                changes[rule] = Change(rule, *said)
        return {source: list(changes.values()) for source, changes in begun.items()}

    def restored(self, above: int, *, actor: str, reason: str) -> int:
        """
        Go on after a restore: an empty batch, its serial higher than any that was given before.

        Args:
            above: the highest serial known; the log's own is looked at anyway.
            actor: who restored it, for the audit.
            reason: what was restored, for the audit.

        Returns:
            The batch's serial.
        """
        _check(RESTORE, actor, reason, [])
        with self.store.writing():
            head = self.store.head()
            serial = 1 + max(above, head.serial if head else 0)
            self.store.add_source(RESTORE)
            row = chain.sealed(
                serial,
                int(time.time() * 1000),
                (actor, RESTORE, reason),
                (chain.sha256([]), chain.sha256([])),
                head.hash if head else GENESIS,
            )
            self.store.add_batch(row)
        return serial

    def ruling(self, key: str) -> Ruling | None:
        """What stands at `key`."""
        with self.store.reading():
            return effective(key, self._claims_at)

    def rulings(self) -> Iterator[tuple[str, str]]:
        """
        Every key at which something stands, with the encoded ruling, in the order of rules.

        Streams: call it inside ``store.reading()``, so that all of it is of one serial.
        """
        keys = _exception_keys(self.store.exceptions())
        streams = [self._standing_of(source) for source in self.store.sources()]
        encoded: dict[tuple[Any, ...], str | None] = {}
        for key, group in groupby(merge(*streams, key=itemgetter(0)), key=itemgetter(0)):
            claims = [claim for _, claim in group]
            ruling = effective(key, self._claims_at) if key in keys else plain(key, claims)
            if ruling is not None:
                yield key, _encoded(ruling, encoded) or ""
            if aside := shadowed(key, claims):
                yield SHADOWED + key, _encoded(aside, encoded) or ""

    def _standing_of(self, source: str) -> Iterator[tuple[str, Standing]]:
        feed = source.startswith(FEED)
        for rule, action, category, serial in self.store.active_of(source):
            if feed or not rule.startswith(PLANNED):
                yield rule, Standing(source, action, category, serial)

    def verify(self, progress: Callable[[int], None] | None = None) -> Damage | None:
        """The first batch that does not fit its hash, or None; see `chain.verify`."""
        return chain.verify(self.store, progress)

    def _standing(self, source: str, changes: list[Change]) -> dict[str, ClaimRow]:
        """What `source` says now about the rules that it wants to change."""
        if source not in self.store.sources():
            return {}
        rows = (self.store.active(source, change.rule) for change in changes)
        return {row.rule: row for row in rows if row}

    def _claims_at(self, key: str) -> list[Standing]:
        rows = (self.store.active(source, key) for source in self.store.sources())
        return [_as_standing(row) for row in rows if row]

    def _others(self, source: str, keys: list[str]) -> dict[str, list[Standing]]:
        """What all other sources say about `keys`."""
        found: dict[str, list[Standing]] = {}
        names = [name for name in self.store.sources() if name != source]
        if len(keys) < _BULK:
            for key in keys:
                rows = (self.store.active(name, key) for name in names)
                if claims := [_as_standing(row) for row in rows if row]:
                    found[key] = claims
            return found
        wanted = set(keys)
        for name in names:
            for rule, action, category, serial in self.store.active_of(name):
                if rule in wanted:
                    found.setdefault(rule, []).append(Standing(name, action, category, serial))
        return found

    def _depending(self, touched: list[str], starts: list[Change]) -> set[str]:
        """The keys whose ruling depends on exceptions and may change with `touched`."""
        rules = set(self.store.exceptions())
        rules.update(change.rule for change in starts if change.action == "except")
        if not rules:
            return set()
        values = {key.partition(" ")[2] for key in touched}
        return {
            key
            for key in _exception_keys(rules)
            if any(at in values for at in _upwards(key.partition(" ")[2]))
        }


def _upwards(value: str) -> Iterator[str]:
    yield value
    yield from names.parents(value)


def _exception_keys(rules: Iterable[str]) -> set[str]:
    """The keys whose ruling depends on other keys: see `precedence.effective`."""
    keys = set(rules)
    for rule in list(keys):
        kind, _, value = rule.partition(" ")
        if kind == "subtree":
            keys.add(f"below {value}")
    return keys


def _difference(
    wanted: list[Change], standing: dict[str, ClaimRow]
) -> tuple[list[Change], list[str]]:
    """What of `wanted` is not so already: claims to make, and rules whose claim ends."""
    starts, ends = [], []
    for change in wanted:
        now = standing.get(change.rule)
        if now is not None:
            if change[1:] == (now.action, now.category, now.evidence, now.expires_at):
                continue
            ends.append(change.rule)
        if change.action is not None:
            starts.append(change)
    return starts, ends


def _as_standing(row: ClaimRow) -> Standing:
    return Standing(row.source, row.action, row.category, row.from_serial)


def _own_before(row: ClaimRow | None) -> list[Standing]:
    return [] if row is None else [_as_standing(row)]


def _own_after(source: str, change: Change | None, serial: int) -> list[Standing]:
    if change is None or change.action is None:
        return []
    return [Standing(source, change.action, change.category, serial)]


def _encoded(ruling: Ruling | None, known: dict[tuple[Any, ...], str | None]) -> str | None:
    """`encode`, remembering: a million names of one feed have one text."""
    if ruling is None or ruling.resolved:
        return encode(ruling)
    text = known.get(ruling[:4])
    if text is None:
        text = known[ruling[:4]] = encode(ruling)
    return text


def _check(source: str, actor: str, reason: str, changes: list[Change]) -> None:
    for name, text in (("source", source), ("actor", actor), ("reason", reason)):
        if len(text) > _MAX_TEXT or not _TEXT.fullmatch(text):
            raise PolicyError(
                f"{name}: {text[:40]!r}; must be at most {_MAX_TEXT} characters, none of control"
            )
    _check_own(source, changes)
    previous = None
    for change in changes:
        if change.rule == previous:
            raise PolicyError(f"batch: two changes for {change.rule!r}; one is allowed")
        previous = change.rule
        if change.action is not None and change.action not in ACTIONS:
            raise PolicyError(f"action: {change.action!r}; must be one of {', '.join(ACTIONS)}")
        until = change.expires_at
        if until is not None and not (type(until) is int and 0 < until < 1 << 62):
            raise PolicyError(f"expires_at: {until!r}; must be seconds since 1970, or none")
        for text in (change.rule, change.category, change.evidence):
            # isprintable is the quick answer, and nearly always the right one.
            if len(text) > _MAX_TEXT or not (text.isprintable() or _TEXT.fullmatch(text)):
                raise PolicyError(
                    f"claim {change.rule[:60]!r}: {text[:40]!r}; must be at most {_MAX_TEXT} "
                    "characters, none of control"
                )
        if change.action is not None and not source.startswith(FEED):
            rules.check_key(change.rule)  # a feed's reader made its keys itself


def _check_own(source: str, changes: list[Change]) -> None:
    """Refuse keys that stand in the log alone where they do not belong; `changes` are sorted."""
    for start in (PLANNED, SWITCH.partition(" ")[0] + " "):
        at = bisect_left(changes, start, key=itemgetter(0))
        for change in islice(changes, at, None):
            if not change.rule.startswith(start):
                break
            if source.startswith(FEED) or (start != PLANNED and source != OPERATOR):
                raise PolicyError(f"claim {change.rule[:60]!r}: {source} may not say that")
            if change.rule == SWITCH:
                may: tuple[str | None, ...] = ("allow", None)
            else:
                may = ("block", "review", "allow", SHADOW, None)
            if change.action not in may:
                raise PolicyError(
                    f"claim {change.rule[:60]!r}: action {change.action!r}; must be "
                    f"{' or '.join(a for a in may if a)}"
                )
