"""
Decisions in SQLite: who has a case, what was decided, and how far that has come.

Every step is one write transaction that looks at the states before it changes them, and there is
one writer at a time: so no case is handed to two, and none is decided twice, whoever races.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from urlguard.cases import priority
from urlguard.cases.drivers.sqlite.appeals import reopen
from urlguard.cases.drivers.sqlite.connection import Connection, add_events, clean, numbers
from urlguard.cases.drivers.sqlite.lists import by_number, decisions
from urlguard.cases.drivers.sqlite.submissions import settle, unsettle
from urlguard.cases.drivers.sqlite.triage import lapse
from urlguard.cases.model import (
    MAX_PAGE,
    MAX_TEXT,
    SCOPES,
    Act,
    Case,
    Choice,
    ConflictError,
    Decision,
    MissingError,
    State,
    Step,
)
from urlguard.errors import InputError

_RIGHT: Final = {Act.BLOCK: 1, Act.ALLOW: 0, Act.DISMISS: 0}  # what sources said; watch leaves it


class Decisions(Connection):
    """The part of the store where people decide."""

    def lease(self, who: str, count: int, lease_s: float, now: int) -> list[Case]:
        """See `Store.lease`."""
        count = min(max(count, 0), MAX_PAGE)
        with self.writing() as db:
            lapse(db, now)
            rows = db.execute(
                "SELECT id FROM cases WHERE state = 'open' ORDER BY place, id LIMIT ?", (count,)
            )
            ids = [number for (number,) in rows.fetchall()]
            db.executemany(
                "UPDATE cases SET state = 'leased', holder = ?, lease_expires_at = ? WHERE id = ?",
                [(who, int(now + lease_s), number) for number in ids],
            )
            return by_number(db, ids)

    def give_back(self, who: str, cases: Sequence[int], now: int) -> int:
        """See `Store.give_back`."""
        with self.writing() as db:
            lapse(db, now)
            rows = db.execute(
                "UPDATE cases SET state = 'open', holder = NULL, lease_expires_at = NULL"
                " WHERE id IN (SELECT value FROM json_each(?)) AND state = 'leased'"
                " AND holder = ? RETURNING id",
                (numbers(cases), who),
            ).fetchall()
            add_events(db, [number for (number,) in rows], now, who, "returned", "")
        return len(rows)

    def begin(
        self,
        cases: Sequence[int],
        who: str,
        choice: Choice,
        now: int,
        key: str | None = None,
        *,
        source: str = "",
        rules: Mapping[int, Sequence[str]] | None = None,
        appeal: int = 0,
    ) -> Decision:
        """See `Store.begin`."""
        ids = sorted(set(cases))
        choice = _checked(choice)
        rules = rules or {}
        if len(ids) > MAX_PAGE or not (ids or rules.get(0)):
            raise InputError(f"{len(ids)} cases; a decision is about 1 to {MAX_PAGE}")
        with self.writing() as db:
            if key is not None and (there := _by_key(db, who, key)) is not None:
                by_hand = tuple((0, rule) for rule in rules.get(0, ()))
                same = there.cases == tuple(ids) and (ids or there.rules == by_hand)
                if not same or there.choice != choice:
                    raise ConflictError(f"key {key!a}: was used for another decision")
                return there
            lapse(db, now)
            found = {case.id: case for case in by_number(db, ids)}
            for number in ids:
                if number not in found:
                    raise MissingError(f"case {number}: there is none")
                _refuse(found[number], who, appeal)
            (number,) = db.execute(
                "INSERT INTO decisions (step, who, act, category, reason, scope, expires_at, key,"
                " begun_at, source, appeal) VALUES (?,?,?,?,?,?,?,?,?,?,?) RETURNING number",
                (Step.BEGUN, who, *choice, key, now, source, appeal),
            ).fetchone()
            before = {case: found[case].state for case in ids}
            if rules.get(0):
                before[0] = ""
            db.executemany(
                "INSERT INTO decided (number, case_id, before, rules) VALUES (?,?,?,?)",
                [
                    (number, case, state, json.dumps(list(rules.get(case, ()))))
                    for case, state in before.items()
                ],
            )
            _move(db, ids, State.DECIDING, now)
            return _one(db, number)

    def finish(self, number: int, serial: int | None, now: int) -> Decision:
        """See `Store.finish`."""
        with self.writing() as db:
            there = _one(db, number)
            if there.step == Step.BEGUN:
                self._done(db, there, now)
                return _set(db, number, step=Step.DONE, serial=serial, done_at=now)
            if there.step == Step.UNDOING:
                _discredit(db, there.cases, number)
                _fall_back(db, there, now)
                _move(db, there.cases, State.OPEN, now)
                add_events(db, there.cases, now, there.who, "undone", there.remark)
                reopen(db, there.appeal, now, there.remark.partition(":")[0])
                unsettle(db, number, now)
                return _set(db, number, step=Step.UNDONE, undo_serial=serial, done_at=now)
            if (there.step, there.serial) == (Step.DONE, serial) or (
                (there.step, there.undo_serial) == (Step.UNDONE, serial)
            ):
                return there
            raise ConflictError(f"decision {number}: is {there.step}")

    def _done(self, db: sqlite3.Connection, made: Decision, now: int) -> None:
        choice = made.choice
        state = State.DISMISSED if choice.act == Act.DISMISS else State.DECIDED
        due = priority.recheck_at(choice.act, choice.category, choice.expires_at, now)
        _move(db, made.cases, state, now)
        db.executemany(
            "UPDATE cases SET action = ?, decision = ?, decided_at = ?, recheck_at = ?,"
            " holder = NULL, lease_expires_at = NULL WHERE id = ?",
            [(choice.act, made.number, now, due, case) for case in made.cases],
        )
        _discredit(db, made.cases)
        _credit(db, made, made.cases)
        add_events(db, made.cases, now, made.who, "decided", f"{choice.act}: {choice.reason}")
        settle(db, made, now)

    def abort(self, number: int, error: str, now: int) -> Decision:
        """See `Store.abort`."""
        with self.writing() as db:
            there = _one(db, number)
            if there.step not in (Step.BEGUN, Step.UNDOING):
                raise ConflictError(f"decision {number}: is {there.step}")
            for case, state in db.execute(
                "SELECT case_id, before FROM decided WHERE number = ?", (number,)
            ).fetchall():
                _move(db, [case], state, now)
            add_events(db, there.cases, now, there.who, "aborted", clean(error, MAX_TEXT))
            step = Step.DONE if there.step == Step.UNDOING else Step.ABORTED
            # The key is free again: the same request may be made once the log takes it.
            key = there.key if step == Step.DONE else None
            return _set(db, number, step=step, remark=clean(error, MAX_TEXT), key=key)

    def hold(self, number: int, reason: str, now: int) -> Decision:
        """See `Store.hold`."""
        with self.writing() as db:
            there = _expect(db, number, Step.BEGUN)
            _move(db, there.cases, State.PENDING_APPROVAL, now)
            add_events(db, there.cases, now, there.who, "pending_approval", clean(reason, MAX_TEXT))
            return _set(db, number, step=Step.PENDING_APPROVAL, remark=clean(reason, MAX_TEXT))

    def approve(self, number: int, who: str, now: int) -> Decision:
        """See `Store.approve`."""
        with self.writing() as db:
            there = _expect(db, number, Step.PENDING_APPROVAL)
            if who == there.who:
                raise ConflictError(f"decision {number}: {who!a} made it; another must approve it")
            if there.choice.expires_at is not None and there.choice.expires_at <= now:
                raise ConflictError(f"decision {number}: its time is over; reject it")
            _move(db, there.cases, State.DECIDING, now)
            add_events(db, there.cases, now, who, "approved", "")
            return _set(db, number, step=Step.BEGUN, approver=who)

    def reject(self, number: int, who: str, reason: str, now: int) -> Decision:
        """See `Store.reject`."""
        with self.writing() as db:
            there = _expect(db, number, Step.PENDING_APPROVAL)
            _free(db, there.cases)
            _move(db, there.cases, State.OPEN, now)
            add_events(db, there.cases, now, who, "rejected", clean(reason, MAX_TEXT))
            return _set(db, number, step=Step.ABORTED, remark=clean(reason, MAX_TEXT), key=None)

    def undo(self, number: int, who: str, reason: str, now: int) -> Decision:
        """See `Store.undo`."""
        with self.writing() as db:
            lapse(db, now)
            there = _expect(db, number, Step.DONE)
            for case, state in db.execute(
                "SELECT c.id, c.state FROM decided d JOIN cases c ON c.id = d.case_id"
                " WHERE d.number = ?",
                (number,),
            ).fetchall():
                later = db.execute(
                    # One without rules has nothing that this one's would have been replaced by.
                    "SELECT number FROM decided JOIN decisions USING (number) WHERE case_id = ?"
                    " AND number > ? AND act IN ('block', 'allow')"
                    " AND step IN ('begun', 'pending_approval', 'done', 'undoing')"
                    " ORDER BY number LIMIT 1",
                    (case, number),
                ).fetchone()
                if later:
                    raise ConflictError(f"case {case}: a later decision, {later[0]}, stands")
                if state in (State.DECIDING, State.PENDING_APPROVAL, State.LEASED):
                    raise ConflictError(f"case {case}: is {state}")
                db.execute(
                    "UPDATE decided SET before = ? WHERE number = ? AND case_id = ?",
                    (state, number, case),
                )
            _move(db, there.cases, State.DECIDING, now)
            remark = f"{who}: {clean(reason, MAX_TEXT)}"
            return _set(db, number, step=Step.UNDOING, remark=remark)


def _checked(choice: Choice) -> Choice:
    """
    What somebody decides, with its texts as they may be stored.

    Raises:
        InputError: there is no such act or scope.
    """
    if choice.act not in set(Act):
        raise InputError(f"decision {choice.act!a}: must be {', '.join(Act)}")
    if choice.scope not in SCOPES:
        raise InputError(f"scope {choice.scope!a}: must be {', '.join(SCOPES)}")
    return choice._replace(
        category=clean(choice.category, MAX_TEXT), reason=clean(choice.reason, MAX_TEXT)
    )


def _refuse(case: Case, who: str, appeal: int) -> None:
    """Raise unless `who` may decide a case; an appeal's decision comes after another one."""
    if case.state == State.OPEN or (case.state == State.LEASED and case.holder == who):
        return
    if appeal and case.state == State.DECIDED:
        return
    if case.state == State.LEASED:
        raise ConflictError(f"case {case.id}: {case.holder!a} has it until {case.lease_expires_at}")
    raise ConflictError(f"case {case.id}: is {case.state}")


def _move(db: sqlite3.Connection, cases: Iterable[int], state: str, now: int) -> None:
    db.executemany(
        "UPDATE cases SET state = ?, updated_at = ? WHERE id = ?",
        [(state, now, case) for case in cases],
    )


def _free(db: sqlite3.Connection, cases: Iterable[int]) -> None:
    db.executemany(
        "UPDATE cases SET holder = NULL, lease_expires_at = NULL WHERE id = ?",
        [(case,) for case in cases],
    )


def _one(db: sqlite3.Connection, number: int) -> Decision:
    found = decisions(db, [number])
    if not found:
        raise MissingError(f"decision {number}: there is none")
    return found[0]


def _expect(db: sqlite3.Connection, number: int, step: Step) -> Decision:
    there = _one(db, number)
    if there.step != step:
        raise ConflictError(f"decision {number}: is {there.step}")
    return there


def _by_key(db: sqlite3.Connection, who: str, key: str) -> Decision | None:
    row = db.execute("SELECT number FROM decisions WHERE who = ? AND key = ?", (who, key))
    found = row.fetchone()
    return _one(db, found[0]) if found else None


def _set(db: sqlite3.Connection, number: int, **values: object) -> Decision:
    """Change a decision; `values` are columns."""
    columns = ", ".join(f"{column} = :{column}" for column in values)
    db.execute(
        f"UPDATE decisions SET {columns} WHERE number = :number",  # noqa: S608
        {**values, "number": number},
    )
    return _one(db, number)


def _fall_back(db: sqlite3.Connection, undone: Decision, now: int) -> None:
    """What was decided before an undone decision is what was decided last, if it still holds."""
    for case in undone.cases:
        row = db.execute(
            "SELECT number, act FROM decided JOIN decisions USING (number) WHERE case_id = ?"
            " AND number <> ? AND step = 'done' AND (expires_at IS NULL OR expires_at > ?)"
            " ORDER BY number DESC LIMIT 1",
            (case, undone.number, now),
        ).fetchone()
        number, act = row or (None, None)
        db.execute(
            "UPDATE cases SET action = ?, decision = ?, recheck_at = NULL, decided_at = ?"
            " WHERE id = ?",
            (act, number, now, case),
        )
        if number is not None:
            _discredit(db, [case])
            _credit(db, _one(db, number), [case])


def _credit(db: sqlite3.Connection, made: Decision, cases: Iterable[int]) -> None:
    """Count the reports of decided cases as right or wrong, for each of their sources."""
    right = _RIGHT.get(Act(made.choice.act))
    if right is None:
        return
    for case in cases:
        rows = db.execute(
            # Nobody is right because of agreeing with himself.
            "SELECT s.id FROM case_sources c JOIN sources s ON s.id = c.source"
            " WHERE c.case_id = ? AND s.name <> ?",
            (case, made.who),
        )
        ids = [source for (source,) in rows.fetchall()]
        _add(db, ids, right, 1)
        db.execute(
            "UPDATE decided SET credit = ? WHERE number = ? AND case_id = ?",
            (json.dumps([right, ids]), made.number, case),
        )


def _discredit(db: sqlite3.Connection, cases: Iterable[int], number: int | None = None) -> None:
    """Take back what cases' decisions counted for their sources: the last one counts alone."""
    for case in cases:
        rows = db.execute(
            "SELECT number, credit FROM decided WHERE case_id = ? AND credit IS NOT NULL", (case,)
        )
        for made, credit in rows.fetchall():
            if number in (None, made):
                right, ids = json.loads(credit)
                _add(db, ids, right, -1)
                db.execute(
                    "UPDATE decided SET credit = NULL WHERE number = ? AND case_id = ?",
                    (made, case),
                )


def _add(db: sqlite3.Connection, sources: Sequence[int], right: int, count: int) -> None:
    column = "right" if right else "wrong"
    db.executemany(
        f"UPDATE sources SET {column} = max({column} + ?, 0) WHERE id = ?",  # noqa: S608
        [(count, source) for source in sources],
    )
