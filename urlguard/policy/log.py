"""
The policy log: the one place where a rule changes.

Whoever wants a change commits a batch of claims; whoever needs rules reads what follows from them,
the effects.  A batch gets one serial and one hash, which covers the one before it: the payload is
the batch's sorted claim lines, derived again from the claims when the chain is verified, so one
changed byte in any row is found.  Knows nothing of feeds, packets or processes.

    payload line    sign TAB rule TAB source TAB category TAB action TAB evidence TAB expires
    hash            SHA-256 over prev_hash, serial, time, actor, source, reason and both digests,
                    each on its own line
"""

import hashlib
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from urlguard import names, rules
from urlguard.errors import PolicyError
from urlguard.policy.drivers.sqlite import BatchRow, ClaimRow, EffectRow, Store
from urlguard.policy.precedence import Standing, effective, plain, same_world
from urlguard.rules import ACTIONS
from urlguard.verdict import FEED, Ruling, encode

GENESIS = "0" * 64
EXPIRY_BATCH = 10_000  # claims that one expiry batch ends, so that none takes long
_BULK = 100_000  # keys from which reading a whole source beats looking keys up

# No control characters, and no half of a surrogate pair, which no UTF-8 has.
_TEXT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]*")
_MAX_TEXT = 2048


class Change(NamedTuple):
    """A claim that a source wants to make; action None withdraws what it says about the rule."""

    rule: str  # a rule key
    action: str | None
    category: str = ""
    evidence: str = ""
    expires_at: int | None = None  # seconds since 1970, UTC


class Batch(NamedTuple):
    """What a commit did."""

    serial: int
    claims: int  # made or ended
    effects: list[EffectRow]


class Damage(NamedTuple):
    """What `PolicyLog.verify` found first."""

    serial: int
    what: str


class PolicyLog:
    """The log in one store."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open or make the log at `path`; raises PolicyError if that cannot be."""
        self.store = Store(path, read_only=read_only)

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    @property
    def serial(self) -> int:
        """The serial of the last batch, 0 before the first."""
        head = self.store.head()
        return head.serial if head else 0

    def made(self, serial: int, history: str) -> bool:
        """True if this log's batch `serial` has the hash `history`; 0 is before the first."""
        if serial == 0:
            return history == GENESIS
        batch = next(self.store.batches(serial - 1, 1), None)
        return batch is not None and (batch.serial, batch.hash) == (serial, history)

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
            alone: dict[tuple[Any, ...], str | None] = {}  # by action and category
            encoded: dict[tuple[Any, ...], str | None] = {}
            for key in sorted(depending.union(touched)) if depending else touched:
                new = started.get(key)
                if (
                    new
                    and new.action != "except"
                    and not (key in others or key in standing or key in depending)
                ):
                    # Nobody said anything about it: all that a list of millions mostly is.
                    text = alone.get(new[1:3])
                    if text is None:
                        (claim,) = _own_after(source, new, serial)
                        text = alone[new[1:3]] = encode(plain(key, [claim]))
                    effects.append(EffectRow(serial, key, None, text))
                    continue
                if key in depending:
                    was, now = before[key], effective(key, self._claims_at)
                else:
                    rest = others.get(key, ())
                    was, now = (
                        plain(key, [*rest, *own])
                        for own in (
                            _own_before(standing.get(key)),
                            _own_after(source, new, serial),
                        )
                    )
                if not same_world(was, now):
                    texts = (_encoded(was, encoded), _encoded(now, encoded))
                    effects.append(EffectRow(serial, key, *texts))
            store.add_effects(effects)
            step("sealing")
            digests = (
                _sha256(_payload(source, starts, ends)),
                _sha256(map(_effect_line, effects)),
            )
            row = _row(
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
        """End claims whose time has come, at most `EXPIRY_BATCH`, one batch for each source."""
        batches: list[Batch] = []
        moment = int(time.time() if now is None else now)
        if not self.store.expired(moment, 1):
            return batches
        # Read again within the transaction: another process may have prolonged a claim meanwhile.
        with self.store.writing():
            due = self.store.expired(moment, EXPIRY_BATCH)
            for source, group in groupby(sorted(due), key=itemgetter(0)):
                changes = [Change(rule, None) for _, rule in group]
                batch = self.commit(source, changes, actor="urlguard", reason="expired")
                if batch:
                    batches.append(batch)
        return batches

    def ruling(self, key: str) -> Ruling | None:
        """What stands at `key`."""
        with self.store.reading():
            return effective(key, self._claims_at)

    def rulings(self) -> Iterator[tuple[str, str]]:
        """
        Every key at which something stands, with the encoded ruling, in the order of keys.

        Streams: call it inside ``store.reading()``, so that all of it is of one serial.
        """
        keys = _exception_keys(self.store.excepted())
        streams = [self._standing_of(source) for source in self.store.sources()]
        encoded: dict[tuple[Any, ...], str | None] = {}
        for key, group in groupby(merge(*streams, key=itemgetter(0)), key=itemgetter(0)):
            if key in keys:
                ruling = effective(key, self._claims_at)
            else:
                ruling = plain(key, [claim for _, claim in group])
            if ruling is not None:
                yield key, _encoded(ruling, encoded) or ""

    def _standing_of(self, source: str) -> Iterator[tuple[str, Standing]]:
        for rule, action, category, serial in self.store.standing_of(source):
            yield rule, Standing(source, action, category, serial)

    def verify(self, progress: Callable[[int], None] | None = None) -> Damage | None:
        """
        Derive every batch's hash again from the claims and effects.

        Returns:
            The first batch that does not fit, or None if the whole log does.
        """
        reached = [0]
        try:
            try:
                with self.store.reading():
                    damage = self._verify(progress, reached)
            except (sqlite3.Error, PolicyError):
                # Perhaps text that is no UTF-8: whoever changed it need not have kept to that.
                # Reading such text takes three times as long, so not at first.
                with self.store.any_text(), self.store.reading():
                    damage = self._verify(progress, reached)
            if damage is None and (problem := self.store.problem()):
                return Damage(reached[0], f"the file itself is damaged: {problem}")
            return damage
        except (sqlite3.Error, PolicyError) as exc:
            return Damage(reached[0] + 1, f"it cannot be read: {exc}")

    def _verify(self, progress: Callable[[int], None] | None, reached: list[int]) -> Damage | None:
        claims = _Grouped(self.store.starts_and_ends())
        effects = _Grouped(self.store.effects())
        listed = set(self.store.sources())
        previous = GENESIS
        expected = 0
        for row in self.store.batches():
            if expected and row.serial != expected:
                return Damage(expected, "the batch is missing")
            for rows, what in ((claims, "claims"), (effects, "effects")):
                if (early := rows.before(row.serial)) is not None:
                    return Damage(early, f"{what} without a batch")
            payload = _sha256(_claim_line_found(r) for r in claims.take(row.serial))
            effect = _sha256(_effect_line_found(r) for r in effects.take(row.serial))
            if payload != row.payload_sha256:
                return Damage(row.serial, "its claims do not fit its digest")
            if effect != row.effect_sha256:
                return Damage(row.serial, "its effects do not fit their digest")
            if row.prev_hash != previous:
                return Damage(row.serial, "it does not follow from the batch before it")
            if _row(row.serial, row.time, row[2:5], row[5:7], previous).hash != row.hash:
                return Damage(row.serial, "its own fields do not fit its hash")
            # A source that is not listed says nothing to anybody, whatever its claims are.
            if row.source not in listed:
                return Damage(row.serial, "its source is not listed")
            previous, expected = row.hash, row.serial + 1
            reached[0] = row.serial
            if progress:
                progress(row.serial)
        for rows, what in ((claims, "claims"), (effects, "effects")):
            if rows.left is not None:
                serial = rows.left[0]
                # Text, which SQLite lets into a column of numbers, sorts behind all of them.
                late = serial if isinstance(serial, int) else expected
                return Damage(late, f"{what} without a batch")
        return None

    def _standing(self, source: str, changes: list[Change]) -> dict[str, ClaimRow]:
        """What `source` says now about the rules that it wants to change."""
        if source not in self.store.sources():
            return {}
        rows = (self.store.standing(source, change.rule) for change in changes)
        return {row.rule: row for row in rows if row}

    def _claims_at(self, key: str) -> list[Standing]:
        rows = (self.store.standing(source, key) for source in self.store.sources())
        return [_as_standing(row) for row in rows if row]

    def _others(self, source: str, keys: list[str]) -> dict[str, list[Standing]]:
        """What all other sources say about `keys`."""
        found: dict[str, list[Standing]] = {}
        names = [name for name in self.store.sources() if name != source]
        if len(keys) < _BULK:
            for key in keys:
                rows = (self.store.standing(name, key) for name in names)
                if claims := [_as_standing(row) for row in rows if row]:
                    found[key] = claims
            return found
        wanted = set(keys)
        for name in names:
            for rule, action, category, serial in self.store.standing_of(name):
                if rule in wanted:
                    found.setdefault(rule, []).append(Standing(name, action, category, serial))
        return found

    def _depending(self, touched: list[str], starts: list[Change]) -> set[str]:
        """The keys whose ruling depends on exceptions and may change with `touched`."""
        rules = set(self.store.excepted())
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


class _Grouped:
    """Rows in the order of their serial (column 0), taken serial by serial."""

    def __init__(self, rows: Iterator[tuple[Any, ...]]) -> None:
        self._rows = rows
        self.left = next(rows, None)

    def before(self, serial: int) -> int | None:
        """The serial of the next row, if it is below `serial`."""
        if self.left is not None and isinstance(self.left[0], int) and self.left[0] < serial:
            return self.left[0]
        return None

    def take(self, serial: int) -> Iterator[tuple[Any, ...]]:
        """The rows of `serial`."""
        while self.left is not None and self.left[0] == serial:
            yield self.left
            self.left = next(self._rows, None)


def _check(source: str, actor: str, reason: str, changes: list[Change]) -> None:
    for name, text in (("source", source), ("actor", actor), ("reason", reason)):
        if len(text) > _MAX_TEXT or not _TEXT.fullmatch(text):
            raise PolicyError(
                f"{name}: {text[:40]!r}; must be at most {_MAX_TEXT} characters, none of control"
            )
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


def _line(sign: object, *fields: object) -> str:
    return "\t".join([str(sign), *("" if f is None else str(f) for f in fields)])


def _payload(source: str, starts: list[Change], ends: list[str]) -> Iterator[str]:
    """The payload's lines by rule and sign, as `Store.starts_and_ends` gives them again."""
    if not ends:  # sorted already, and this is how a list of millions comes in
        for rule, action, category, evidence, expires in starts:
            # What `_line` says, in a third of its time.
            until = "" if expires is None else expires
            yield f"+\t{rule}\t{source}\t{category}\t{action}\t{evidence}\t{until}"
        return
    plus = (
        (s.rule, "+", _line("+", s.rule, source, s.category, s.action, s.evidence, s.expires_at))
        for s in starts
    )
    minus = ((rule, "-", _line("-", rule, source, "", "", "", None)) for rule in ends)
    for _, _, line in sorted([*plus, *minus]):
        yield line


def _effect_line(row: EffectRow) -> str:
    _, key, before, after = row
    return f"{key}\t{'' if before is None else before}\t{'' if after is None else after}"


# What stands in the store was perhaps not written by `commit`: a field with a tab or a line end in
# it, or an empty text where NULL belongs, could make other rows give the same lines.
_FORGED = "\x00"


def _claim_line_found(row: tuple[Any, ...]) -> str:
    _, rule, source, sign, *said, expires = row
    line = _line(sign, rule, source, *said, expires)
    good = expires is None or type(expires) is int
    return line if good and line.count("\t") == 6 and "\n" not in line else _FORGED


def _effect_line_found(row: tuple[Any, ...]) -> str:
    line = _effect_line(EffectRow(*row))
    good = row[2] != "" and row[3] != ""
    return line if good and line.count("\t") == 2 and "\n" not in line else _FORGED


def _sha256(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    chunk: list[str] = []
    for line in lines:
        chunk.append(line)
        if len(chunk) == 4096:
            digest.update(("\n".join(chunk) + "\n").encode(errors="surrogateescape"))
            chunk.clear()
    if chunk:
        digest.update(("\n".join(chunk) + "\n").encode(errors="surrogateescape"))
    return digest.hexdigest()


def _row(
    serial: int,
    when: int,
    who: tuple[str, ...],
    digests: tuple[str, ...],
    previous: str,
) -> BatchRow:
    actor, source, reason = who
    payload, effects = digests
    fields = (previous, str(serial), str(when), *who, *digests)
    own = hashlib.sha256("\n".join(fields).encode(errors="surrogateescape")).hexdigest()
    return BatchRow(serial, when, actor, source, reason, payload, effects, previous, own)
