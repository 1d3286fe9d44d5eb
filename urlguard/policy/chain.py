"""
The hash chain over the policy log: how a batch's hash is made, and how it is checked again.

A batch's hash covers the one before it.  The payload is the batch's sorted claim lines, derived
again from the claims when the chain is verified, so one changed byte in any row is found.

    payload line    sign TAB rule TAB source TAB category TAB action TAB evidence TAB expires
    hash            SHA-256 over prev_hash, serial, time, actor, source, reason and both digests,
                    each on its own line

Serials follow one on the other, save that the batch of a restore may leave some out: they were
given to batches of the log that it replaced.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from urlguard.errors import PolicyError
from urlguard.policy.model import BatchRow, EffectRow
from urlguard.policy.store import LogStore

if TYPE_CHECKING:
    from urlguard.policy.model import Change

GENESIS = "0" * 64
RESTORE = "restore"  # the source of the batch that a restored log goes on with


class InconsistentError(PolicyError):
    """The log does not follow from what was signed last: nothing is signed."""


class Damage(NamedTuple):
    """What `verify` found first."""

    serial: int
    what: str


def verify(store: LogStore, progress: Callable[[int], None] | None = None) -> Damage | None:
    """
    Derive every batch's hash again from the claims and effects.

    Returns:
        The first batch that does not fit, or None if the whole log does.
    """
    reached = [0]
    try:
        try:
            with store.reading():
                damage = _verify(store, progress, reached)
        except PolicyError:
            # Perhaps text that is no UTF-8: whoever changed it need not have kept to that.
            # Reading such text takes three times as long, so not at first.
            with store.lenient_text(), store.reading():
                damage = _verify(store, progress, reached)
        if damage is None and (problem := store.storage_problem()):
            return Damage(reached[0], f"the file itself is damaged: {problem}")
        return damage
    except PolicyError as exc:
        return Damage(reached[0] + 1, f"it cannot be read: {exc}")


def _verify(
    store: LogStore, progress: Callable[[int], None] | None, reached: list[int]
) -> Damage | None:
    claims = _Grouped(store.starts_and_ends())
    effects = _Grouped(store.effects())
    listed = set(store.sources())
    previous = GENESIS
    expected = 0
    for row in store.batches():
        skipped = row.source == RESTORE and row.serial > expected
        if expected and row.serial != expected and not skipped:
            return Damage(expected, "the batch is missing")
        for rows, what in ((claims, "claims"), (effects, "effects")):
            if (early := rows.before(row.serial)) is not None:
                return Damage(early, f"{what} without a batch")
        said = sha256(_claim_line_found(r) for r in claims.take(row.serial))
        changed = sha256(_effect_line_found(r) for r in effects.take(row.serial))
        if said != row.payload_sha256:
            return Damage(row.serial, "its claims do not fit its digest")
        if changed != row.effect_sha256:
            return Damage(row.serial, "its effects do not fit their digest")
        if row.prev_hash != previous:
            return Damage(row.serial, "it does not follow from the batch before it")
        if not seal_holds(row):
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
            # SQLite lets text into a column of numbers; it sorts behind all of them.
            late = serial if isinstance(serial, int) else expected
            return Damage(late, f"{what} without a batch")
    return None


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


def _line(sign: object, *fields: object) -> str:
    return "\t".join([str(sign), *("" if f is None else str(f) for f in fields)])


def payload(source: str, starts: "list[Change]", ends: list[str]) -> Iterator[str]:
    """The payload's lines by rule and sign, as `LogStore.starts_and_ends` gives them again."""
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


def effect_line(row: EffectRow) -> str:
    """An effect's line, of which the effect digest is made."""
    _, key, before, after = row
    return f"{key}\t{'' if before is None else before}\t{'' if after is None else after}"


# What stands in the store was perhaps not written by `commit`: a field with a tab or a line end in
# it, an empty text where NULL belongs, or octets, which SQLite lets into a column of texts, could
# make other rows give the same lines.
_FORGED = "\x00"


def _claim_line_found(row: tuple[Any, ...]) -> str:
    _, rule, source, sign, *said, expires = row
    line = _line(sign, rule, source, *said, expires)
    good = (expires is None or type(expires) is int) and bytes not in map(type, row)
    return line if good and line.count("\t") == 6 and "\n" not in line else _FORGED


def _effect_line_found(row: tuple[Any, ...]) -> str:
    line = effect_line(EffectRow(*row))
    good = row[2] != "" and row[3] != "" and bytes not in map(type, row)
    return line if good and line.count("\t") == 2 and "\n" not in line else _FORGED


def sha256(lines: Iterable[str]) -> str:
    """The digest of lines, each with its line end, in hexadecimal digits."""
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


def seal_holds(row: BatchRow) -> bool:
    """True if a batch's hash is that of its own fields."""
    if not all(isinstance(text, str) for text in row[2:]):  # octets, as above
        return False
    return sealed(row.serial, row.time, row[2:5], row[5:7], row.prev_hash).hash == row.hash


def sealed(
    serial: int,
    when: int,
    who: tuple[str, ...],
    digests: tuple[str, ...],
    previous: str,
) -> BatchRow:
    """
    The row of a batch, with its hash.

    Args:
        serial: of the batch.
        when: in milliseconds since 1970.
        who: actor, source and reason.
        digests: of the payload and of the effects.
        previous: the hash of the batch before, `GENESIS` for the first.
    """
    actor, source, reason = who
    claims, effects = digests
    fields = (previous, str(serial), str(when), *who, *digests)
    own = hashlib.sha256("\n".join(fields).encode(errors="surrogateescape")).hexdigest()
    return BatchRow(serial, when, actor, source, reason, claims, effects, previous, own)
