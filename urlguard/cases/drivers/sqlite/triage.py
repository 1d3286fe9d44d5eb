"""
Triage in SQLite: what it takes from the queue, what it hands back, and what time does to cases.

How it works.  A set of results is worked on as a whole: all items and their owners' cases are read,
grow in memory as `growth` says, and are written back with a statement for each table.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from urlguard.cases import priority
from urlguard.cases.drivers.sqlite.connection import (
    ITEM,
    Connection,
    add_events,
    clean,
    count_waiting,
    numbers,
)
from urlguard.cases.drivers.sqlite.submissions import settle_judged
from urlguard.cases.growth import Evidence, Standing, grow, rank
from urlguard.cases.model import (
    MAX_CONTEXT,
    MAX_FAILURES,
    MAX_LEASE_S,
    MAX_TAKES,
    MAX_WAIT_S,
    Item,
    Judged,
    State,
    Tidied,
    Work,
)

BACKOFF_S: Final = 15.0  # after the first failure; twice as long after each more
STALE_S: Final = 1.0  # until an item is judged again whose case was decided meanwhile


class TriageQueue(Connection):
    """The part of the store that triage uses."""

    def take(self, count: int, lease_s: float, now: float) -> list[Work]:
        """See `Store.take`."""
        with self.writing() as db:
            rows: list[tuple[Any, ...]] = []
            for bulk in (0, 1):
                rows += db.execute(
                    "SELECT i.id, i.item, i.name, i.owner, q.takes FROM queue q"
                    " CROSS JOIN items i ON i.id = q.item WHERE q.bulk = ? AND q.due <= ?"
                    " ORDER BY q.due, q.item LIMIT ?",
                    (bulk, now, count - len(rows)),
                ).fetchall()
            db.executemany(
                "UPDATE queue SET due = ?, taken_at = ?, takes = takes + 1 WHERE item = ?",
                ((now + lease_s, now, row[0]) for row in rows),
            )
            lost = [row[0] for row in rows if row[4] >= MAX_TAKES]
            self._bury(db, lost, f"was taken {MAX_TAKES} times, and nothing came of it")
        return [Work._make(row[:4]) for row in rows if row[4] < MAX_TAKES]

    def failed(self, ids: Sequence[int], error: str, now: float) -> int:
        """See `Store.failed`."""
        with self.writing() as db:
            rows = db.execute(
                "UPDATE queue SET failures = failures + 1, due = ? + ? * (1 << min(failures, 10))"
                " WHERE item IN (SELECT value FROM json_each(?)) RETURNING item, failures",
                (now, BACKOFF_S, numbers(ids)),
            ).fetchall()
            lost = [item for item, failures in rows if failures >= MAX_FAILURES]
            self._bury(db, lost, error)
        return len(lost)

    def _bury(self, db: sqlite3.Connection, ids: list[int], error: str) -> None:
        if not ids:
            return
        db.execute(
            "UPDATE items SET error = ? WHERE id IN (SELECT value FROM json_each(?))",
            (clean(error, MAX_CONTEXT), numbers(ids)),
        )
        for source, count in self._leave(db, ids).items():
            db.execute("UPDATE sources SET dead = dead + ? WHERE id = ?", (count, source))

    def _leave(self, db: sqlite3.Connection, ids: Iterable[int]) -> dict[int, int]:
        """Items leave the queue; how many of each source."""
        counts: dict[int, int] = {}
        rows = db.execute(
            "DELETE FROM queue WHERE item IN (SELECT value FROM json_each(?)) RETURNING source",
            (numbers(set(ids)),),
        )
        for (source,) in rows.fetchall():
            counts[source] = counts.get(source, 0) + 1
        count_waiting(db, {source: -count for source, count in counts.items()})
        return counts

    def dead(self, after: int = 0, limit: int = 100) -> list[Item]:
        """See `Store.dead`."""
        with self.reading() as db:
            sql = f"{ITEM} WHERE error IS NOT NULL AND id > ? ORDER BY id LIMIT ?"
            return [Item(*row) for row in db.execute(sql, (after, limit))]

    def retry(self, ids: Sequence[int], now: int) -> int:
        """See `Store.retry`."""
        with self.writing() as db:
            rows = db.execute(
                "UPDATE items SET error = NULL WHERE id IN (SELECT value FROM json_each(?))"
                " AND error IS NOT NULL RETURNING id, source",
                (numbers(ids),),
            ).fetchall()
            db.executemany(
                "INSERT INTO queue (item, source, bulk, due) VALUES (?,?,0,?)",
                [(item, source, now) for item, source in rows],
            )
            for _, source in rows:
                count_waiting(db, {source: 1})
                db.execute("UPDATE sources SET dead = dead - 1 WHERE id = ?", (source,))
        return len(rows)

    def judged(self, results: Sequence[Judged], now: int) -> int:
        """See `Store.judged`."""
        with self.writing() as db:
            return self._judged(db, {found.id: found for found in reversed(results)}, now)

    def _judged(self, db: sqlite3.Connection, found: dict[int, Judged], now: int) -> int:
        rows = db.execute(
            "SELECT i.id, i.item, i.name, i.owner, i.source, i.seen_at, i.queries - i.counted,"
            " i.case_id, q.taken_at FROM queue q CROSS JOIN items i ON i.id = q.item"
            " WHERE q.item IN (SELECT value FROM json_each(?)) ORDER BY i.id",
            (numbers(list(found)),),
        ).fetchall()
        more = _reports(db, [row[0] for row in rows])
        cases = _standing(db, {row[3] for row in rows})
        (last,) = db.execute("SELECT coalesce(max(id), 0) FROM cases").fetchone()
        before = {case.id: (case.state, case.items) for case in cases.values()}
        touched: dict[int, Standing] = {}
        settled: list[tuple[Any, ...]] = []
        stale = []
        outcome: dict[tuple[int, bool], int] = {}
        for number, item, name, owner, source, seen_at, queries, joined, taken_at in rows:
            said = found[number]
            case = cases.get(owner)
            if case is None:
                last += 1
                case = cases[owner] = Standing(last, owner, item, name, now)
            elif case.state == State.DECIDING or (
                case.decided_at is not None and case.decided_at >= int(taken_at or 0)
            ):
                # What was found may be older than the decision, and no longer so.
                stale.append((now + STALE_S, number))
                continue
            sources = (source,)
            if number in more:
                others, seen = more[number]
                sources, seen_at = (source, *others), max(seen_at, seen)
            grow(
                case,
                Evidence(
                    item,
                    name,
                    sources,
                    joined is None,
                    queries,
                    seen_at,
                    said.known,
                    said.score,
                    said.pattern,
                ),
            )
            touched[case.id] = case
            settled.append(
                (case.id, queries, said.score, said.action, said.reason, said.model, number)
            )
            if joined is None:
                key = (source, said.known)
                outcome[key] = outcome.get(key, 0) + 1
        db.executemany("UPDATE queue SET due = ?, taken_at = NULL, takes = 0 WHERE item = ?", stale)
        db.executemany(
            "UPDATE items SET case_id = ?, counted = counted + ?, score = ?, action = ?,"
            " reason = ?, model = ? WHERE id = ?",
            settled,
        )
        self._leave(db, [row[-1] for row in settled])
        for (source, known), count in outcome.items():
            column = "known" if known else "opened"
            db.execute(
                f"UPDATE sources SET {column} = {column} + ? WHERE id = ?",  # noqa: S608
                (count, source),
            )
        self._store(db, list(touched.values()), before, now)
        settle_judged(db, [row[-1] for row in settled], now)
        return len(settled)

    def _store(
        self,
        db: sqlite3.Connection,
        cases: list[Standing],
        before: dict[int, tuple[str, int]],
        now: int,
    ) -> None:
        """Write cases that have grown."""
        trust = _reputations(db, cases)
        places = {case.id: -rank(case, trust) for case in cases}
        new = [case for case in cases if case.id not in before]
        old = [case for case in cases if case.id in before]
        db.executemany(
            "INSERT INTO cases (id, owner, item, name, state, score, place, pattern, queries,"
            " items, seen_at, created_at, updated_at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
            [
                (
                    *(c.id, c.owner, c.item, c.name, c.state, c.score, places[c.id], c.pattern),
                    *(c.queries, c.items, c.seen_at, c.created_at, now),
                )
                for c in new
            ],
        )
        db.executemany(
            "UPDATE cases SET item = ?, name = ?, state = ?, score = ?, place = ?, pattern = ?,"
            " queries = ?, items = ?, seen_at = ?, updated_at = ? WHERE id = ?",
            [
                (
                    *(c.item, c.name, c.state, c.score, places[c.id], c.pattern),
                    *(c.queries, c.items, c.seen_at, now, c.id),
                )
                for c in old
            ],
        )
        db.executemany(
            "UPDATE case_sources SET place = ? WHERE case_id = ?",
            [(places[c.id], c.id) for c in old],
        )
        db.executemany(
            "INSERT INTO case_sources (source, case_id, place) VALUES (?,?,?)",
            [(source, c.id, places[c.id]) for c in cases for source in c.added],
        )
        for case in old:
            if case.reopened:
                # A recheck that was planned is overtaken.
                db.execute("UPDATE cases SET recheck_at = NULL WHERE id = ?", (case.id,))
                add_events(db, [case.id], now, "", "reopened", case.reopened)

    def tidy(self, now: int) -> Tidied:
        """See `Store.tidy`."""
        with self.reading() as db:
            wanted = db.execute(
                "SELECT EXISTS (SELECT 1 FROM cases WHERE state = 'leased'"
                " AND (lease_expires_at <= ?1 OR lease_expires_at > ?2))"
                " OR EXISTS (SELECT 1 FROM cases WHERE recheck_at <= ?1)"
                " OR EXISTS (SELECT 1 FROM queue WHERE bulk IN (0, 1) AND due > ?3)",
                (now, now + MAX_LEASE_S, now + MAX_WAIT_S),
            ).fetchone()
        if wanted == (0,):
            return Tidied(0, 0)
        with self.writing() as db:
            lapsed = lapse(db, now)
            due = db.execute(
                "UPDATE cases SET recheck_at = NULL, updated_at = ?1,"
                " state = CASE WHEN state IN ('decided', 'dismissed') THEN 'open' ELSE state END"
                " WHERE recheck_at <= ?1 RETURNING id",
                (now,),
            ).fetchall()
            ids = [case for (case,) in due]
            add_events(db, ids, now, "", "reopened", "it is time to look again")
            freed = db.execute(
                "UPDATE queue SET due = ? WHERE bulk IN (0, 1) AND due > ?", (now, now + MAX_WAIT_S)
            ).rowcount
        return Tidied(lapsed, len(ids), freed)


def lapse(db: sqlite3.Connection, now: int) -> int:
    """Open the cases whose lease has lapsed; returns how many."""
    return db.execute(
        "UPDATE cases SET state = 'open', holder = NULL, lease_expires_at = NULL"
        " WHERE state = 'leased' AND (lease_expires_at <= ? OR lease_expires_at > ?)",
        (now, now + MAX_LEASE_S),
    ).rowcount


def _reports(db: sqlite3.Connection, ids: list[int]) -> dict[int, tuple[tuple[int, ...], int]]:
    """For items with more than one report: the other sources, and when they saw it last."""
    found: dict[int, tuple[tuple[int, ...], int]] = {}
    rows = db.execute(
        "SELECT item, source, seen_at FROM reports WHERE item IN (SELECT value FROM json_each(?))",
        (numbers(ids),),
    )
    for item, source, seen_at in rows:
        others, last = found.get(item, ((), 0))
        found[item] = (*others, source), max(last, seen_at)
    return found


def _standing(db: sqlite3.Connection, owners: set[str]) -> dict[str, Standing]:
    """The cases there are of some owners."""
    fields = (
        "id, owner, item, name, created_at, state, action, score, pattern, queries, items,"
        " seen_at, decided_at"
    )
    cases = {}
    # Owners go through a table and not through JSON, which their text would have to be made into.
    db.execute("CREATE TEMP TABLE IF NOT EXISTS wanted (owner TEXT PRIMARY KEY) WITHOUT ROWID")
    db.execute("DELETE FROM wanted")
    db.executemany("INSERT INTO wanted VALUES (?)", ((owner,) for owner in owners))
    sql = f"SELECT {fields} FROM wanted CROSS JOIN cases USING (owner)"  # noqa: S608
    for row in db.execute(sql):
        cases[row[1]] = Standing(*row)
    by_number = {case.id: case for case in cases.values()}
    rows = db.execute(
        "SELECT case_id, source FROM case_sources"
        " WHERE case_id IN (SELECT value FROM json_each(?))",
        (numbers(set(by_number)),),
    )
    for number, source in rows:
        by_number[number].sources.add(source)
    return cases


def _reputations(db: sqlite3.Connection, cases: Iterable[Standing]) -> dict[int, float]:
    """The reputation of every source of some cases."""
    ids = set().union(*(case.sources for case in cases))
    rows = db.execute(
        "SELECT id, right, wrong FROM sources WHERE id IN (SELECT value FROM json_each(?))",
        (numbers(ids),),
    )
    return {source: priority.reputation(right, wrong) for source, right, wrong in rows}
