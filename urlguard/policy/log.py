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

from urlguard import rules
from urlguard.errors import InputError, PolicyError
from urlguard.policy import chain
from urlguard.policy.chain import GENESIS, RESTORE, Damage
from urlguard.policy.effects import Before, Changes, Encoder, effects, exception_keys
from urlguard.policy.model import Batch, BatchRow, Change, ClaimRow
from urlguard.policy.precedence import ActiveClaim, effective, plain, shadowed
from urlguard.policy.store import LogStore
from urlguard.rules import ACTIONS, OPERATOR, PAUSE, SCHEDULED, SHADOW, SHADOWED
from urlguard.verdict import FEED, Ruling

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
            changes: at most one for each rule; unchanged ones are left out.
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
        phase = progress or (lambda name: None)
        store = self.store
        with store.writing():
            phase("comparing")
            own = self._own(source, wanted)
            starts, ends = _difference(wanted, own)
            batch = None
            if starts or ends:
                head = store.head()
                serial = head.serial + 1 if head else 1
                made = Changes(serial, source, {c.rule: c for c in starts}, set(ends))
                phase("weighing")
                rows = effects(made, self._before(source, made.rules, own))
                phase("writing claims")
                store.add_source(source)
                store.end_claims(serial, ((source, rule) for rule in ends))
                store.add_claims(
                    (c.rule, source, c.category, c.action, c.evidence, serial, None, c.expires_at)
                    for c in starts
                )
                phase("writing effects")
                store.add_effects(rows)
                phase("sealing")
                payload = chain.sha256(chain.payload(source, starts, ends))
                digests = payload, chain.sha256(map(chain.effect_line, rows))
                self._seal(head, serial, (actor, source, reason), digests)
                batch = Batch(serial, len(made.rules), rows)
            if within:
                within(batch)
        return batch

    def _seal(
        self, head: BatchRow | None, serial: int, who: tuple[str, ...], digests: tuple[str, ...]
    ) -> None:
        """Add the row of a batch; see `chain.sealed`."""
        previous = head.hash if head else GENESIS
        self.store.add_batch(chain.sealed(serial, int(time.time() * 1000), who, digests, previous))

    def expire(self, now: float | None = None) -> list[Batch]:
        """
        End claims whose time is over, and begin scheduled ones whose time has come.

        At most `EXPIRY_BATCH` of each; one batch for each source and of each sort.
        """
        moment = int(time.time() if now is None else now)
        if not self.store.expired(moment, 1) and not self.store.scheduled(moment, 1):
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
        """What each source's scheduled claims, whose time has come, make it say."""
        begun: dict[str, dict[str, Change]] = {}
        for claim in self.store.scheduled(moment, EXPIRY_BATCH):
            changes = begun.setdefault(claim.source, {})
            changes[claim.rule] = Change(claim.rule, None)
            with contextlib.suppress(InputError):  # not written by us: it only ends
                _, rule = rules.from_scheduled(claim.rule)
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
            nothing = chain.sha256([])
            self._seal(head, serial, (actor, RESTORE, reason), (nothing, nothing))
        return serial

    def ruling(self, key: str) -> Ruling | None:
        """The ruling at `key`."""
        with self.store.reading():
            return effective(key, self._claims_at)

    def rulings(self) -> Iterator[tuple[str, str]]:
        """
        Every key at which something stands, with the encoded ruling, in the order of rules.

        Streams: call it inside ``store.reading()``, so that all of it is of one serial.
        """
        keys = exception_keys(self.store.exceptions())
        streams = [self._active_of(source) for source in self.store.sources()]
        encoded = Encoder()
        for key, group in groupby(merge(*streams, key=itemgetter(0)), key=itemgetter(0)):
            claims = [claim for _, claim in group]
            ruling = effective(key, self._claims_at) if key in keys else plain(key, claims)
            if ruling is not None:
                yield key, encoded(ruling) or ""
            if aside := shadowed(key, claims):
                yield SHADOWED + key, encoded(aside) or ""

    def _active_of(self, source: str) -> Iterator[tuple[str, ActiveClaim]]:
        feed = source.startswith(FEED)
        for rule, action, category, serial in self.store.active_of(source):
            if feed or not rule.startswith(SCHEDULED):
                yield rule, ActiveClaim(source, action, category, serial)

    def verify(self, progress: Callable[[int], None] | None = None) -> Damage | None:
        """The first batch that does not fit its hash, or None; see `chain.verify`."""
        return chain.verify(self.store, progress)

    def _own(self, source: str, changes: list[Change]) -> dict[str, ClaimRow]:
        """The active claims of `source` about the rules that it wants to change."""
        if source not in self.store.sources():
            return {}
        rows = (self.store.active(source, change.rule) for change in changes)
        return {row.rule: row for row in rows if row}

    def _before(self, source: str, rules: list[str], own: dict[str, ClaimRow]) -> Before:
        """The active claims that decide about the effects of changes to `rules`."""
        return Before(
            own={rule: _as_active(row) for rule, row in own.items()},
            others=self._others(source, rules),
            at=self._claims_at,
            exceptions=self.store.exceptions(),
        )

    def _claims_at(self, key: str) -> list[ActiveClaim]:
        rows = (self.store.active(source, key) for source in self.store.sources())
        return [_as_active(row) for row in rows if row]

    def _others(self, source: str, keys: list[str]) -> dict[str, list[ActiveClaim]]:
        """What all other sources say about `keys`."""
        found: dict[str, list[ActiveClaim]] = {}
        names = [name for name in self.store.sources() if name != source]
        if len(keys) < _BULK:
            for key in keys:
                rows = (self.store.active(name, key) for name in names)
                if claims := [_as_active(row) for row in rows if row]:
                    found[key] = claims
            return found
        wanted = set(keys)
        for name in names:
            for rule, action, category, serial in self.store.active_of(name):
                if rule in wanted:
                    found.setdefault(rule, []).append(ActiveClaim(name, action, category, serial))
        return found


def _difference(wanted: list[Change], own: dict[str, ClaimRow]) -> tuple[list[Change], list[str]]:
    """What of `wanted` is not so already: claims to make, and rules whose claim ends."""
    starts, ends = [], []
    for change in wanted:
        now = own.get(change.rule)
        if now is not None:
            if change[1:] == (now.action, now.category, now.evidence, now.expires_at):
                continue
            ends.append(change.rule)
        if change.action is not None:
            starts.append(change)
    return starts, ends


def _as_active(row: ClaimRow) -> ActiveClaim:
    return ActiveClaim(row.source, row.action, row.category, row.from_serial)


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
    for start in (SCHEDULED, PAUSE.partition(" ")[0] + " "):
        at = bisect_left(changes, start, key=itemgetter(0))
        for change in islice(changes, at, None):
            if not change.rule.startswith(start):
                break
            if source.startswith(FEED) or (start != SCHEDULED and source != OPERATOR):
                raise PolicyError(f"claim {change.rule[:60]!r}: {source} may not say that")
            if change.rule == PAUSE:
                may: tuple[str | None, ...] = ("allow", None)
            else:
                may = ("block", "review", "allow", SHADOW, None)
            if change.action not in may:
                raise PolicyError(
                    f"claim {change.rule[:60]!r}: action {change.action!r}; must be "
                    f"{' or '.join(a for a in may if a)}"
                )
