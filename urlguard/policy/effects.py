"""
What a batch changes for the world: its effects, from the claims before it and the changes it makes.

Pure: no store, no clock.  An effect says what is in force at a rule key before and after a batch,
and is left out where nobody outside could tell the two apart.  A claim in shadow has its effect
under a key of its own, because each source that counts a rule is reported, also where the rule
itself does not change.

Where feeds make exceptions, the ruling at a key also depends on the keys above it.  So the keys
with an exception below a changed key are worked out again as well.
"""

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final, NamedTuple

from urlguard import names
from urlguard.policy.model import Change, EffectRow
from urlguard.policy.precedence import (
    ActiveClaim,
    ClaimsAt,
    effective,
    plain,
    same_world,
    shadowed,
)
from urlguard.rules import SCHEDULED, SHADOW, SHADOWED
from urlguard.verdict import FEED, Ruling, encode

_NONE: Final[Sequence[ActiveClaim]] = ()


@dataclass(frozen=True)
class Changes:
    """The claims that a batch makes and ends."""

    serial: int
    source: str
    starts: Mapping[str, Change]  # by rule
    ends: Collection[str]  # rules; one that is also in `starts` is replaced

    @functools.cached_property
    def rules(self) -> list[str]:
        """The rules that the batch says something about, sorted."""
        return sorted(self.starts.keys() | set(self.ends))


class Before(NamedTuple):
    """The active claims before a batch."""

    own: Mapping[str, ActiveClaim]  # of the batch's source, at the batch's rules
    others: Mapping[str, Sequence[ActiveClaim]]  # of all other sources, at the batch's rules
    at: ClaimsAt  # of all sources at any key; called only where exceptions are involved
    exceptions: Collection[str]  # the rules about which a feed's exception is active


def effects(changes: Changes, before: Before) -> list[EffectRow]:
    """The effects of a batch, in the order of their keys."""
    source, serial, starts = changes.source, changes.serial, changes.starts
    own, others = before.own, before.others
    rules = changes.rules
    dependent = _dependent(rules, starts.values(), before.exceptions)
    keys = sorted(dependent.union(rules)) if dependent else rules
    if not source.startswith(FEED):
        keys = [
            key for key in keys if not key.startswith(SCHEDULED)
        ]  # not in force before its time
    weighed = _Weighed(changes, before)
    alone: dict[tuple[str | None, str], str | None] = {}  # encoded, by action and category
    rows = []
    for key in keys:
        new = starts.get(key)
        if new and new.action != "except" and not (key in others or key in own or key in dependent):
            # Nobody claimed anything about it: nearly all rules of a list of millions.
            text = alone.get(new[1:3])
            if text is None:
                claims = [ActiveClaim(source, new.action or "", new.category, serial)]
                text = alone[new[1:3]] = encode(shadowed(key, claims) or plain(key, claims))
            at = SHADOWED + key if new.action == SHADOW else key
            rows.append(EffectRow(serial, at, None, text))
        else:
            rows += weighed.at(key, exceptions=key in dependent)
    rows.sort(key=itemgetter(1))  # sorted already unless some are in shadow
    return rows


class _Weighed:
    """The effects at single keys, where several claims meet."""

    def __init__(self, changes: Changes, before: Before) -> None:
        self._source, self._serial = changes.source, changes.serial
        self._starts, self._ends = changes.starts, changes.ends
        self._own, self._others, self._at = before.own, before.others, before.at
        self._encode = Encoder()
        self._found: dict[str, list[ActiveClaim]] = {}

    def at(self, key: str, *, exceptions: bool) -> list[EffectRow]:
        """The effects at one key; with `exceptions` the keys above it are looked at too."""
        rest = self._others.get(key, _NONE)
        own = self._own.get(key)
        then = [*rest, own] if own else rest
        now = self._after(key, rest)
        if exceptions:
            was, is_now = effective(key, self._then_at), effective(key, self._now_at)
        else:
            was, is_now = plain(key, then), plain(key, now)
        rows = []
        encode = self._encode
        if not same_world(was, is_now):
            rows.append(EffectRow(self._serial, key, encode(was), encode(is_now)))
        was, is_now = shadowed(key, then), shadowed(key, now)
        if was != is_now:  # each source is counted, so another one is an effect
            rows.append(EffectRow(self._serial, SHADOWED + key, encode(was), encode(is_now)))
        return rows

    def _then_at(self, key: str) -> list[ActiveClaim]:
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = list(self._at(key))
        return found

    def _now_at(self, key: str) -> Sequence[ActiveClaim]:
        then = self._then_at(key)
        if key not in self._starts and key not in self._ends:
            return then
        return self._after(key, [claim for claim in then if claim.source != self._source])

    def _after(self, key: str, rest: Sequence[ActiveClaim]) -> Sequence[ActiveClaim]:
        """The claims of other sources at a changed key, and the one that the batch makes."""
        new = self._starts.get(key)
        if new is None or new.action is None:
            return rest
        return [*rest, ActiveClaim(self._source, new.action, new.category, self._serial)]


class Encoder:
    """`encode`, remembering: a million names of one feed have one text."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], str | None] = {}

    def __call__(self, ruling: Ruling | None) -> str | None:
        """The encoded ruling; None for none."""
        if ruling is None or ruling.resolved:
            return encode(ruling)
        text = self._known.get(ruling[:4])
        if text is None:
            text = self._known[ruling[:4]] = encode(ruling)
        return text


def exception_keys(exceptions: Iterable[str]) -> set[str]:
    """The keys whose ruling depends on other keys, see `precedence.effective`."""
    keys = set(exceptions)
    for rule in list(keys):
        kind, _, value = rule.partition(" ")
        if kind == "subtree":
            keys.add(f"below {value}")
    return keys


def _dependent(
    rules: Iterable[str], starts: Iterable[Change], exceptions: Collection[str]
) -> set[str]:
    """The keys whose ruling depends on exceptions and may change with `rules`."""
    excepted = {*exceptions, *(change.rule for change in starts if change.action == "except")}
    if not excepted:
        return set()
    values = {key.partition(" ")[2] for key in rules}
    return {
        key
        for key in exception_keys(excepted)
        if any(at in values for at in _upwards(key.partition(" ")[2]))
    }


def _upwards(value: str) -> Iterator[str]:
    yield value
    yield from names.parents(value)
