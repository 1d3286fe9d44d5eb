"""
Cases in SQLite: reading them, one and many.

How it works.  Each order of a list is an index that is walked from where the last page ended, so a
page costs the same in the middle of a million cases as at the beginning.  The place of a case by
priority also stands beside each of its sources, which makes a source's list a walk as well.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from urlguard.cases.addresses import PREFIX
from urlguard.cases.drivers.sqlite import addresses
from urlguard.cases.drivers.sqlite.connection import (
    ITEM,
    Connection,
    add_events,
    clean,
    numbers,
)
from urlguard.cases.model import (
    MAX_ITEMS,
    MAX_PAGE,
    MAX_TEXT,
    Case,
    Choice,
    Decision,
    Event,
    File,
    Item,
    MissingError,
    Page,
)
from urlguard.errors import InputError

_MAX_EVENTS: Final = 1000  # that `case` shows, the newest
_PRIORITY, _NEWEST, _OWNER = "priority", "newest", "owner"
_CASE: Final = (
    "SELECT c.id, c.item, c.name, c.owner, c.state, c.action, c.score, c.place,"  # noqa: S608
    " c.queries, c.items, CASE WHEN c.pattern IS NOT NULL AND EXISTS (SELECT 1 FROM cases o"
    f" WHERE o.pattern = c.pattern AND o.id <> c.id) THEN c.pattern ELSE {addresses.CAMPAIGN} END,"
    " c.created_at, c.updated_at, c.holder, c.lease_expires_at, c.recheck_at FROM "
)
_DECISION: Final = (
    "SELECT number, step, who, act, category, reason, scope, expires_at, key, begun_at, done_at,"
    " serial, undo_serial, approver, remark, source, appeal FROM decisions "
)


class Lists(Connection):
    """The part of the store that reads cases."""

    def cases(
        self,
        *,
        state: str | None = None,
        source: str | None = None,
        campaign: str | None = None,
        query: str | None = None,
        order: str = "priority",
        after: str | None = None,
        limit: int = 50,
    ) -> Page:
        """See `Store.cases`."""
        limit = min(max(limit, 1), MAX_PAGE)
        with self.reading() as db:
            if query is not None:
                query, order = _owner_of(db, query.strip().lower()), _OWNER
            sql, values = page_query(
                state=state,
                source=None if source is None else _source_number(db, source),
                campaign=campaign,
                query=query,
                order=order,
                after=None if after is None else _cursor(after, order),
            )
            rows = db.execute(sql, {**values, "limit": limit + 1}).fetchall()
            found = shown(db, rows[:limit])
        if len(rows) <= limit or not found:
            return Page(found, None)
        last = found[-1]
        place = last.owner if order == _OWNER else last.id if order == _NEWEST else -last.priority
        return Page(found, str(place) if order != _PRIORITY else f"{place!r}:{last.id}")

    def case(self, number: int) -> File | None:
        """See `Store.case`."""
        with self.reading() as db:
            found = by_number(db, [number])
            if not found:
                return None
            items = db.execute(
                f"{ITEM} WHERE case_id = ? ORDER BY score DESC LIMIT ?", (number, MAX_ITEMS)
            ).fetchall()
            taken = db.execute("SELECT number FROM decided WHERE case_id = ?", (number,))
            events = db.execute(
                "SELECT at, who, what, text FROM events WHERE case_id = ? ORDER BY id DESC LIMIT ?",
                (number, _MAX_EVENTS),
            ).fetchall()
            return File(
                found[0],
                [Item(*row) for row in items],
                decisions(db, [n for (n,) in taken.fetchall()]),
                [Event._make(row) for row in reversed(events)],
            )

    def note(self, case: int, who: str, text: str, now: int) -> None:
        """See `Store.note`."""
        with self.writing() as db:
            if db.execute("SELECT 1 FROM cases WHERE id = ?", (case,)).fetchone() is None:
                raise MissingError(f"case {case}: there is none")
            add_events(db, [case], now, who, "note", clean(text, MAX_TEXT))

    def decision(self, number: int) -> Decision | None:
        """See `Store.decision`."""
        with self.reading() as db:
            return next(iter(decisions(db, [number])), None)

    def decisions(
        self, step: str | None = None, after: int = 0, limit: int = MAX_PAGE
    ) -> list[Decision]:
        """See `Store.decisions`."""
        only = "" if step is None else "step = :step AND "
        with self.reading() as db:
            rows = db.execute(
                f"SELECT number FROM decisions WHERE {only}number > :after"  # noqa: S608
                " ORDER BY number LIMIT :limit",
                {"step": step, "after": after, "limit": limit},
            )
            return decisions(db, [number for (number,) in rows.fetchall()])

    def unfinished(self) -> list[Decision]:
        """See `Store.unfinished`."""
        with self.reading() as db:
            rows = db.execute(
                "SELECT number FROM decisions WHERE step IN ('begun', 'undoing') ORDER BY number"
            )
            return decisions(db, [number for (number,) in rows.fetchall()])


def page_query(
    *,
    state: str | None = None,
    source: int | None = None,
    campaign: str | None = None,
    query: str | None = None,
    order: str = _PRIORITY,
    after: tuple[Any, ...] | None = None,
) -> tuple[str, dict[str, Any]]:
    """
    The statement for a page, which lacks only its ``limit``, and its values.

    Raises:
        InputError: there is no such order.
    """
    table, place, number = "cases c", "c.place", "c.id"
    conditions: list[str] = []
    values: dict[str, Any] = {}
    if source is not None:
        # CROSS JOIN: the order of the tables as written, so that the source's index is walked.
        table = "case_sources s CROSS JOIN cases c ON c.id = s.case_id"
        place, number = "s.place", "s.case_id"
        conditions.append("s.source = :source")
        values["source"] = source
    if state is not None:
        conditions.append("c.state = :state")
        values["state"] = state
    if campaign is not None:
        address = campaign.removeprefix(PREFIX)
        conditions.append("c.pattern = :campaign" if address == campaign else addresses.OF_CAMPAIGN)
        values["campaign"] = address
    if order == _PRIORITY:
        sort = f"{place}, {number}"
        beyond = f"({place}, {number}) > (:place, :number)"
    elif order == _NEWEST:
        sort, beyond = f"{number} DESC", f"{number} < :place"
    elif order == _OWNER and query is not None:
        sort, beyond = "c.owner", "c.owner > :place"
        # The last character there is: no text that begins with the query sorts behind it.
        conditions.append("c.owner >= :query AND c.owner < :query || char(1114111)")
        values["query"] = query
    else:
        raise InputError(f"order {order!a}: must be priority or newest")
    if after is not None:
        conditions.append(beyond)
        values.update(zip(("place", "number"), after, strict=False))
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"{_CASE}{table}{where} ORDER BY {sort} LIMIT :limit", values


def _cursor(text: str, order: str) -> tuple[Any, ...]:
    """
    The place after which a page begins.

    Raises:
        InputError: it is none.
    """
    try:
        if order == _OWNER:
            return (text,)
        if order == _NEWEST:
            return (_number(text),)
        place, _, number = text.partition(":")
        return (float(place), _number(number))
    except ValueError as exc:
        raise InputError(f"cursor {text[:80]!a}: is none of this list") from exc


def _number(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**62:
        raise ValueError(text)
    return number


def _owner_of(db: sqlite3.Connection, query: str) -> str:
    """The owner of an item that is called so, or else the query."""
    row = db.execute("SELECT owner FROM items WHERE item = ?", (clean(query, 8192),)).fetchone()
    return str(row[0]) if row else clean(query, 8192)


def _source_number(db: sqlite3.Connection, name: str) -> int:
    """A source's number; 0, which none has, if it is not known."""
    row = db.execute("SELECT id FROM sources WHERE name = ?", (clean(name, 8192),)).fetchone()
    return int(row[0]) if row else 0


def by_number(db: sqlite3.Connection, ids: Sequence[int]) -> list[Case]:
    """The cases with these numbers, as far as there are such, in this order."""
    sql = f"{_CASE}cases c WHERE c.id IN (SELECT value FROM json_each(?))"  # noqa: S608
    found = {case.id: case for case in shown(db, db.execute(sql, (numbers(ids),)).fetchall())}
    return [found[number] for number in ids if number in found]


def shown(db: sqlite3.Connection, rows: Iterable[Sequence[Any]]) -> list[Case]:
    """Cases with the names of their sources."""
    rows = list(rows)
    sources: dict[int, list[str]] = {row[0]: [] for row in rows}
    for number, name in db.execute(
        "SELECT c.case_id, s.name FROM case_sources c JOIN sources s ON s.id = c.source"
        " WHERE c.case_id IN (SELECT value FROM json_each(?)) ORDER BY s.name",
        (numbers(list(sources)),),
    ):
        sources[number].append(name)
    return [
        Case._make((*row[:7], -row[7], *row[8:10], tuple(sources[row[0]]), *row[10:]))
        for row in rows
    ]


def decisions(db: sqlite3.Connection, ids: Sequence[int]) -> list[Decision]:
    """Decisions with the numbers of their cases, in order."""
    asked = numbers(ids)
    those = "WHERE number IN (SELECT value FROM json_each(?))"
    cases: dict[int, list[int]] = {number: [] for number in ids}
    rules: dict[int, list[tuple[int, str]]] = {number: [] for number in ids}
    for number, case, keys in db.execute(
        f"SELECT number, case_id, rules FROM decided {those} ORDER BY case_id",  # noqa: S608
        (asked,),
    ):
        if case:
            cases[number].append(case)
        rules[number] += ((case, key) for key in json.loads(keys))
    rows = db.execute(f"{_DECISION}{those} ORDER BY number", (asked,))
    return [
        Decision._make(
            (
                *(*row[:3], Choice(*row[3:8]), tuple(cases[row[0]]), *row[8:-1]),
                *(tuple(rules[row[0]]), row[-1]),
            )
        )
        for row in rows.fetchall()
    ]
