"""
Candidates in SQLite: taking them in, and what became of them and their sources.

How it works.  A batch is inserted with one prepared statement that passes over what is there
already; new items are those with numbers above the highest before, so the statement need not tell
row by row.  Only the rows that are left are looked up.  The queue is a small table beside the
items: its rows come and go, the items' long ones are written once and changed once.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from urlguard.cases import priority, quotas
from urlguard.cases.drivers.sqlite.connection import (
    ITEM,
    Connection,
    clean,
    count_waiting,
    numbers,
)
from urlguard.cases.model import (
    AGAIN_S,
    MAX_CONTEXT,
    MAX_RAW,
    MAX_SOURCE,
    Added,
    Candidate,
    FullError,
    Item,
    Quota,
    Report,
    Source,
)
from urlguard.errors import InputError

_SOURCE: Final = (
    "SELECT name, first_at, last_at, accepted, duplicate, invalid, waiting, known, opened, dead,"
    " right, wrong FROM sources"
)


class Intake(Connection):
    """The part of the store that candidates pass through."""

    def add(
        self,
        source: str,
        rows: Sequence[Candidate],
        now: int,
        *,
        invalid: int = 0,
        urgent: bool = False,
        quota: Quota | None = None,
    ) -> Added:
        """See `Store.add`."""
        with self.writing() as db:
            return self._add(db, source, rows, now, invalid, urgent, quota)

    def _add(
        self,
        db: sqlite3.Connection,
        source: str,
        rows: Sequence[Candidate],
        now: int,
        invalid: int = 0,
        urgent: bool = False,
        quota: Quota | None = None,
    ) -> Added:
        """`add` within a transaction."""
        if not source.isprintable() or not 0 < len(source) <= MAX_SOURCE:
            raise InputError(f"source {source!a}: must have 1 to {MAX_SOURCE} printable characters")
        (number,) = db.execute(
            "INSERT INTO sources (name, first_at, last_at) VALUES (?,?,?)"
            " ON CONFLICT (name) DO UPDATE SET last_at = max(last_at, excluded.last_at)"
            " RETURNING id",
            (source, now, now),
        ).fetchone()
        self._admit(db, number, len(rows), now, quota)
        (fresh,) = db.execute("SELECT coalesce(max(id), 0) FROM items").fetchone()
        done = db.total_changes
        try:
            self._insert(db, number, rows, now)
        except (UnicodeEncodeError, OverflowError):
            # Halves of surrogate pairs, or a count beyond reason: rare, so looked at only now.
            # What was inserted before the one that does not fit is passed over now.
            rows = [
                Candidate._make(
                    min(v, 2**40) if isinstance(v, int) else clean(v, MAX_RAW) for v in row
                )
                for row in rows
            ]
            self._insert(db, number, rows, now)
        accepted = db.total_changes - done
        duplicate = len(rows) - accepted
        bulk = int(not urgent)
        if accepted:
            db.execute(
                "INSERT INTO queue (item, source, bulk, due) SELECT id, source, ?, ?"
                " FROM items WHERE id > ?",
                (bulk, now, fresh),
            )
            count_waiting(db, {number: accepted})
        if duplicate:
            self._again(db, number, _rest(db, rows, fresh), now, bulk)
        db.execute(
            "UPDATE sources SET accepted = accepted + ?, duplicate = duplicate + ?,"
            " invalid = invalid + ? WHERE id = ?",
            (accepted, duplicate, invalid, number),
        )
        return Added(accepted, duplicate)

    def _admit(
        self, db: sqlite3.Connection, source: int, count: int, now: int, quota: Quota | None
    ) -> None:
        """Raise unless there is room, and the source's quota leaves something."""
        if not count:
            return
        limits = self.limits
        (waiting,) = db.execute("SELECT waiting FROM tally").fetchone()
        mine, level, at = db.execute(
            "SELECT waiting, level, level_at FROM sources WHERE id = ?", (source,)
        ).fetchone()
        if waiting >= limits.backlog:
            raise FullError(f"{waiting} candidates wait; at most {limits.backlog}", limits.wait_s)
        most = int(limits.backlog * limits.share)
        if mine >= most:
            raise FullError(f"{mine} candidates of this source wait; at most {most}", limits.wait_s)
        if quota is not None:
            left = quotas.spend(quota, level, at, count, now)
            db.execute(
                "UPDATE sources SET level = ?, level_at = ? WHERE id = ?", (left, now, source)
            )

    def _insert(
        self, db: sqlite3.Connection, source: int, rows: Sequence[Candidate], now: int
    ) -> None:
        """Insert what is new."""
        db.executemany(
            "INSERT INTO items (item, name, owner, raw, seen_at, context, queries, source,"
            " added_at) VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT (item) DO NOTHING",
            (
                (
                    item,
                    name,
                    owner,
                    None if raw == item else raw[:MAX_RAW],
                    min(max(seen_at, 0), now),
                    context[:MAX_CONTEXT],
                    queries,
                    source,
                    now,
                )
                for item, name, owner, raw, seen_at, context, queries in rows
            ),
        )

    def _again(
        self,
        db: sqlite3.Connection,
        source: int,
        rows: Iterable[Candidate],
        now: int,
        bulk: int,
    ) -> None:
        """Record what duplicates say that is new, and have their items judged again."""
        db.execute(
            "CREATE TEMP TABLE IF NOT EXISTS again"
            " (item TEXT, seen_at INTEGER, raw TEXT, context TEXT, queries INTEGER)"
        )
        db.execute("DELETE FROM again")
        db.executemany(
            "INSERT INTO again VALUES (?,?,?,?,?)",
            (
                (
                    row.item,
                    min(max(row.seen_at, 0), now),
                    row.raw[:MAX_RAW],
                    row.context[:MAX_CONTEXT],
                    row.queries,
                )
                for row in rows
            ),
        )
        told = db.execute(
            "INSERT INTO reports (item, source, at, seen_at, raw, context, queries)"
            " SELECT i.id, ?1, ?2, a.seen_at, a.raw, a.context, a.queries"
            " FROM again a CROSS JOIN items i ON i.item = a.item"
            " WHERE i.source <> ?1 OR i.added_at <= ?3 OR a.queries > 0"
            " ON CONFLICT (item, source) DO UPDATE SET at = excluded.at,"
            " seen_at = max(seen_at, excluded.seen_at), raw = excluded.raw,"
            " context = excluded.context, queries = min(queries + excluded.queries, 1 << 60)"
            " WHERE at <= ?3 OR excluded.queries > 0"
            " RETURNING item",
            (source, now, now - AGAIN_S),
        ).fetchall()
        if not told:
            return
        db.execute(
            "UPDATE items SET queries = min(items.queries + a.queries, 1 << 60) FROM"
            " (SELECT item, sum(queries) AS queries FROM again WHERE queries > 0 GROUP BY item) a"
            " WHERE items.item = a.item"
        )
        asked = db.execute(
            "INSERT INTO queue (item, source, bulk, due) SELECT id, source, ?, ? FROM items"
            " WHERE id IN (SELECT value FROM json_each(?)) AND error IS NULL"
            " ON CONFLICT (item) DO NOTHING RETURNING source",
            (bulk, now, numbers({item for (item,) in told})),
        ).fetchall()
        counts: dict[int, int] = {}
        for (first,) in asked:
            counts[first] = counts.get(first, 0) + 1
        count_waiting(db, counts)

    def backlog(self) -> int:
        """See `Store.backlog`."""
        with self.reading() as db:
            return int(db.execute("SELECT waiting FROM tally").fetchone()[0])

    def source(self, name: str) -> Source | None:
        """See `Store.source`."""
        with self.reading() as db:
            row = db.execute(f"{_SOURCE} WHERE name = ?", (name,)).fetchone()
        return _source(row) if row else None

    def sources(self) -> list[Source]:
        """See `Store.sources`."""
        with self.reading() as db:
            return [_source(row) for row in db.execute(f"{_SOURCE} ORDER BY name")]

    def item(self, item: str) -> Item | None:
        """See `Store.item`."""
        with self.reading() as db:
            row = db.execute(f"{ITEM} WHERE item = ?", (item,)).fetchone()
            if row is None:
                return None
            reports = db.execute(
                "SELECT s.name, i.added_at, i.seen_at, coalesce(i.raw, i.item), i.context"
                " FROM items i JOIN sources s ON s.id = i.source WHERE i.id = ?1 UNION ALL"
                " SELECT s.name, r.at, r.seen_at, r.raw, r.context FROM reports r"
                " JOIN sources s ON s.id = r.source WHERE r.item = ?1 ORDER BY 2",
                (row[0],),
            )
            return Item._make((*row, tuple(map(Report._make, reports))))


def _rest(db: sqlite3.Connection, rows: Sequence[Candidate], fresh: int) -> Iterable[Candidate]:
    """The rows of a batch that were there before, in it or in the store."""
    new = {item for (item,) in db.execute("SELECT item FROM items WHERE id > ?", (fresh,))}
    for row in rows:
        if row.item in new:
            new.discard(row.item)
        else:
            yield row


def _source(row: tuple[Any, ...]) -> Source:
    return Source._make((*row, priority.reputation(row[-2], row[-1])))
