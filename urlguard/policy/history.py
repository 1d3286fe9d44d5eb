"""
The state of the policy log at any of its serials.

A claim is an interval of serials, so what stood at a key is found among the key's claims and
weighed again by `precedence`, as `commit` did it then.  Effects would say the same, but they are
clustered by serial: one key's could be found only by asking for it in every batch.  Claims are
clustered by source and rule, so a key costs one look-up for each source, however long the log is.
Knows keys; which keys cover a name, and which of them decides, others say.
"""

from collections.abc import Iterable, Iterator

from urlguard.policy.model import BatchRow, ClaimRow
from urlguard.policy.precedence import ActiveClaim, effective
from urlguard.policy.store import LogStore
from urlguard.verdict import Ruling


def last_before(store: LogStore, moment_ms: int) -> BatchRow | None:
    """
    The last batch at or before a time; None if the log begins later.

    Found by halving, since batches lie by serial.  Where the clock was set back serials and times
    disagree; then it is a batch with no later time that one with a later time follows.

    Args:
        store: the log's.
        moment_ms: milliseconds since 1970, UTC.
    """
    head = store.head()
    if head is None or head.time <= moment_ms:
        return head
    found = None
    low, high = 0, head.serial  # the batch sought is at `low` or above it, and before `high`
    while high - low > 1:
        middle = (low + high) // 2
        batch = store.last_upto(middle)
        if batch is None or batch.time <= moment_ms:
            low, found = middle, batch or found
        else:
            high = batch.serial
    return found


class History:
    """All that was ever claimed about some keys."""

    def __init__(self, claims: Iterable[ClaimRow]) -> None:
        self._claims: dict[str, list[ClaimRow]] = {}
        for claim in claims:
            self._claims.setdefault(claim.rule, []).append(claim)

    def standing(self, serial: int) -> Iterator[ClaimRow]:
        """The claims that stood once batch `serial` was made."""
        for claims in self._claims.values():
            for claim in claims:
                if _stood(claim, serial):
                    yield claim

    def rulings(self, serial: int) -> Iterator[tuple[str, Ruling]]:
        """
        What stood at each key then, exceptions worked out, where anything did.

        The keys must be all that cover something, since an exception looks at those above it.
        """
        stood: dict[str, list[ActiveClaim]] = {}
        for c in self.standing(serial):
            said = ActiveClaim(c.source, c.action, c.category, c.from_serial)
            stood.setdefault(c.rule, []).append(said)
        for key in stood:
            ruling = effective(key, lambda at: stood.get(at, []))
            if ruling is not None:
                yield key, ruling

    def turns(self) -> list[int]:
        """The batches that began or ended a claim, newest first."""
        found = set()
        for claims in self._claims.values():
            for claim in claims:
                found.add(claim.from_serial)
                if claim.to_serial is not None:
                    found.add(claim.to_serial)
        return sorted(found, reverse=True)


def _stood(claim: ClaimRow, serial: int) -> bool:
    # A batch that replaces a claim ends the old one and begins the new one.
    return claim.from_serial <= serial and (claim.to_serial is None or serial < claim.to_serial)
