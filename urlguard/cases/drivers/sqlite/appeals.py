"""
Appeals in SQLite, and what happened to each.

The queue is an index that is walked, proven ones first.  What is decided is closed in one
transaction with a look at the decisions that were made for it: so nobody rejects what is released.
"""

import sqlite3
from typing import Any, Final

from urlguard.cases import appeals
from urlguard.cases.appeals import (
    MAX_ANSWER,
    MAX_CONTACT,
    MAX_EACH,
    MAX_OPEN,
    MAX_OPEN_EACH,
    TERM_S,
    Appeal,
    AppealEvent,
    AppealState,
    Plea,
)
from urlguard.cases.drivers.sqlite.connection import Connection, add_events, clean
from urlguard.cases.model import MAX_PAGE, MAX_RAW, MAX_TEXT, ConflictError, FullError, MissingError

_APPEAL: Final = (
    "SELECT number, id, item, name, owner, day, contact, text, token, state, added_at, proof,"
    " proof_at, decided_at, who, reason, answer, serial FROM appeals "
)


class Appeals(Connection):
    """The part of the store that keeps appeals."""

    def add_appeal(self, plea: Plea, now: int) -> Appeal:
        """See `AppealStore.add_appeal`."""
        with self.writing() as db:
            _room(db, plea.owner, now)
            (number,) = db.execute(
                "INSERT INTO appeals (id, item, name, owner, day, contact, text, token, state,"
                " added_at) VALUES (?,?,?,?,?,?,?,?,'received',?) RETURNING number",
                (
                    appeals.ident(),
                    *(clean(text, MAX_RAW) for text in (plea.item, plea.name, plea.owner)),
                    plea.day,
                    clean(plea.contact, MAX_CONTACT),
                    clean(plea.text, appeals.MAX_TEXT),
                    appeals.ident(),
                    now,
                ),
            ).fetchone()
            _happened(db, number, now, "", "received", "")
            _tell_case(db, plea.owner, now, "", f"appeal {number} came")
            return _one(db, number)

    def appeal(self, ident: str) -> Appeal | None:
        """See `AppealStore.appeal`."""
        with self.reading() as db:
            row = db.execute(f"{_APPEAL}WHERE id = ?", (clean(ident, MAX_PAGE),)).fetchone()
            return None if row is None else _with_events(db, _appeal(row))

    def appeal_number(self, number: int) -> Appeal | None:
        """See `AppealStore.appeal_number`."""
        with self.reading() as db:
            row = db.execute(f"{_APPEAL}WHERE number = ?", (number,)).fetchone()
            return None if row is None else _appeal(row)

    def appeals(
        self, state: str | None = None, after: tuple[int, int] = (0, 0), limit: int = MAX_PAGE
    ) -> list[Appeal]:
        """See `AppealStore.appeals`."""
        sql, values = queue_query(state, after)
        with self.reading() as db:
            rows = db.execute(sql, {**values, "limit": min(max(limit, 1), MAX_PAGE + 1)})
            return [_appeal(row) for row in rows.fetchall()]

    def appeals_of(self, owner: str, limit: int = MAX_PAGE) -> list[Appeal]:
        """See `AppealStore.appeals_of`."""
        with self.reading() as db:
            rows = db.execute(
                f"{_APPEAL}WHERE owner = ? ORDER BY number DESC LIMIT ?", (owner, limit)
            )
            return [_appeal(row) for row in rows.fetchall()]

    def prove(self, number: int, how: str, now: int) -> Appeal:
        """See `AppealStore.prove`."""
        with self.writing() as db:
            there = _one(db, number)
            if there.proof is not None:
                return there
            db.execute(
                "UPDATE appeals SET proof = ?, proof_at = ?, unproven = 0 WHERE number = ?",
                (how, now, number),
            )
            _happened(db, number, now, "", "proof", how)
            return _one(db, number)

    def close_appeal(
        self,
        number: int,
        state: str,
        who: str,
        reason: str,
        answer: str,
        serial: int | None,
        now: int,
    ) -> Appeal:
        """See `AppealStore.close_appeal`."""
        with self.writing() as db:
            there = _one(db, number)
            if there.state != AppealState.RECEIVED:
                raise ConflictError(f"appeal {number}: is {there.state}, by {there.who!a}")
            if state != AppealState.UPHELD:
                _refuse_released(db, number)
            db.execute(
                "UPDATE appeals SET state = ?, who = ?, reason = ?, answer = ?, serial = ?,"
                " decided_at = ? WHERE number = ?",
                (
                    *(state, who, clean(reason, MAX_TEXT), clean(answer, MAX_ANSWER)),
                    *(serial, now, number),
                ),
            )
            words = clean(reason, MAX_TEXT)
            _happened(db, number, now, who, state, words)
            _tell_case(db, there.plea.owner, now, who, f"appeal {number} {state}: {words}")
            return _one(db, number)

    def releases(self, number: int) -> list[int]:
        """See `AppealStore.releases`."""
        with self.reading() as db:
            rows = db.execute(
                "SELECT number FROM decisions WHERE appeal = ? ORDER BY number", (number,)
            )
            return [made for (made,) in rows.fetchall()]

    def case_of(self, owner: str) -> tuple[int, str, str | None] | None:
        """See `AppealStore.case_of`."""
        with self.reading() as db:
            found: tuple[int, str, str | None] | None = db.execute(
                "SELECT id, state, action FROM cases WHERE owner = ?", (owner,)
            ).fetchone()
            return found


def queue_query(state: str | None, after: tuple[int, int]) -> tuple[str, dict[str, Any]]:
    """The statement for a page of appeals, which lacks only its ``limit``, and its values."""
    only = "" if state is None else "state = :state AND "
    sql = (
        f"{_APPEAL}WHERE {only}(unproven, number) > (:unproven, :number)"
        " ORDER BY unproven, number LIMIT :limit"
    )
    return sql, {"state": state, "unproven": after[0], "number": after[1]}


def reopen(db: sqlite3.Connection, number: int, now: int, who: str) -> None:
    """What released an upheld appeal was undone: it waits again."""
    done = db.execute(
        "UPDATE appeals SET state = 'received', decided_at = NULL, who = NULL, answer = '',"
        " serial = NULL WHERE number = ? AND state = 'upheld' RETURNING number",
        (number,),
    ).fetchall()
    if done:
        _happened(db, number, now, who, "reopened", "what had released it was undone")


def _room(db: sqlite3.Connection, owner: str, now: int) -> None:
    """Raise unless there is room for another appeal of an owner."""
    (waiting,) = db.execute("SELECT count(*) FROM appeals WHERE state = 'received'").fetchone()
    if waiting >= MAX_OPEN:
        raise FullError(f"{waiting} appeals wait, limit is {MAX_OPEN}", appeals.FULL_S)
    mine, lately = db.execute(
        "SELECT coalesce(sum(state = 'received'), 0), coalesce(sum(added_at > ?), 0)"
        " FROM appeals WHERE owner = ?",
        (now - TERM_S, owner),
    ).fetchone()
    if mine >= MAX_OPEN_EACH:
        raise ConflictError(f"{mine} appeals of {owner} wait already; they will be answered")
    if lately >= MAX_EACH:
        days = TERM_S // 86_400
        raise ConflictError(f"{lately} appeals of {owner} in {days} days, limit is {MAX_EACH}")


def _refuse_released(db: sqlite3.Connection, number: int) -> None:
    """Raise if something that was released for an appeal stands, or is on its way."""
    row = db.execute(
        "SELECT number FROM decisions WHERE appeal = ? AND step NOT IN ('aborted', 'undone')",
        (number,),
    ).fetchone()
    if row is not None:
        raise ConflictError(
            f"appeal {number}: decision {row[0]} has released it; uphold it, or undo that first"
        )


def _happened(
    db: sqlite3.Connection, number: int, now: int, who: str, what: str, text: str
) -> None:
    db.execute(
        "INSERT INTO appeal_events (appeal, at, who, what, text) VALUES (?,?,?,?,?)",
        (number, now, who, what, text),
    )


def _tell_case(db: sqlite3.Connection, owner: str, now: int, who: str, text: str) -> None:
    rows = db.execute("SELECT id FROM cases WHERE owner = ?", (owner,)).fetchall()
    add_events(db, [case for (case,) in rows], now, who, "appeal", clean(text, MAX_TEXT))


def _one(db: sqlite3.Connection, number: int) -> Appeal:
    row = db.execute(f"{_APPEAL}WHERE number = ?", (number,)).fetchone()
    if row is None:
        raise MissingError(f"appeal {number}: there is none")
    return _with_events(db, _appeal(row))


def _appeal(row: tuple[Any, ...]) -> Appeal:
    return Appeal._make((*row[:2], Plea._make(row[2:8]), *row[8:], ()))


def _with_events(db: sqlite3.Connection, appeal: Appeal) -> Appeal:
    rows = db.execute(
        "SELECT at, who, what, text FROM appeal_events WHERE appeal = ? ORDER BY id",
        (appeal.number,),
    )
    return appeal._replace(events=tuple(AppealEvent._make(row) for row in rows.fetchall()))
