"""
Addresses of cases in SQLite: whose names are to be looked up, what came of it, what it connects.

How it works.  ``address_until`` says until when a case need not be looked up; without it, it waits,
and those that wait are an index of their own by priority, so that it costs the same to find the
next ones among a million.  Before it is read, whose time is over gets a place in it.
"""

from collections.abc import Mapping
from typing import Final

from urlguard.cases.addresses import AGAIN_S, MAX_SHARED, PREFIX, RETRY_S
from urlguard.cases.drivers.sqlite.connection import Connection

_MAX_DUE: Final = 1000  # that are put among the waiting at once: a short transaction

# Whether more than `MAX_SHARED` cases have an address; stops counting there.
_CROWDED: Final = (
    f"EXISTS (SELECT 1 FROM cases o WHERE o.address = {{}} LIMIT 1 OFFSET {MAX_SHARED})"  # noqa: S608
)
# The campaign that the address of case `c` makes, or NULL.
CAMPAIGN: Final = (
    "CASE WHEN c.address IS NOT NULL AND EXISTS (SELECT 1 FROM cases o"  # noqa: S608
    " WHERE o.address = c.address AND o.id <> c.id)"
    f" AND NOT {_CROWDED.format('c.address')} THEN '{PREFIX}' || c.address END"
)
# Whether case `c` is of the campaign that ``:campaign`` names, without its prefix.
OF_CAMPAIGN: Final = f"c.address = :campaign AND NOT {_CROWDED.format(':campaign')}"

DUE: Final = "SELECT id FROM cases WHERE address_until <= :now ORDER BY address_until LIMIT :count"
WAITING: Final = (
    # By itself SQLite would find the states by another index, and sort all that is open.
    "SELECT id, name FROM cases INDEXED BY cases_unaddressed WHERE address_until IS NULL"
    " AND state IN ('open', 'leased') ORDER BY place, id LIMIT :count"
)


class Addresses(Connection):
    """The part of the store that keeps addresses."""

    def unaddressed(self, count: int, now: int) -> list[tuple[int, str]]:
        """See `AddressStore.unaddressed`."""
        with self.reading() as db:
            due = db.execute(DUE, {"now": now, "count": 1}).fetchone()
        if due is not None:
            with self.writing() as db:
                db.execute(
                    f"UPDATE cases SET address_until = NULL WHERE id IN ({DUE})",  # noqa: S608
                    {"now": now, "count": _MAX_DUE},
                )
        with self.reading() as db:
            rows = db.execute(WAITING, {"count": count}).fetchall()
        return [(int(number), str(name)) for number, name in rows]

    def addressed(self, found: Mapping[int, str | None], now: int) -> None:
        """See `AddressStore.addressed`."""
        told = [
            (one or None, now + AGAIN_S, case) for case, one in found.items() if one is not None
        ]
        untold = [(now + RETRY_S, case) for case, one in found.items() if one is None]
        with self.writing() as db:
            db.executemany("UPDATE cases SET address = ?, address_until = ? WHERE id = ?", told)
            db.executemany("UPDATE cases SET address_until = ? WHERE id = ?", untold)
