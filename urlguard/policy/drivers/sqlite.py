"""
The policy log's tables in SQLite, WAL mode.

Claims are clustered by source and rule: a feed's rules lie side by side in the order that a refresh
brings them in, so a million of them are one sequential write and one sequential read, and no second
index is needed.  A key's claims are found by one look-up for each source, of which there are few.

Every commit is synced (``synchronous=FULL``): what a command has confirmed survives a power cut.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from urlguard.errors import InputError, PolicyError
from urlguard.policy.model import BatchRow, ClaimRow, EffectRow
from urlguard.rules import from_planned

SCHEMA_VERSION = 1
_MAX_WAL = 16 << 20  # octets of the write-ahead log that are kept between batches

_SCHEMA = """
CREATE TABLE batch (
    serial INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,                -- milliseconds since 1970, UTC
    actor TEXT NOT NULL,
    source TEXT NOT NULL,
    reason TEXT NOT NULL,
    payload_sha256 TEXT NOT NULL,
    effect_sha256 TEXT NOT NULL,
    prev_hash TEXT NOT NULL,
    hash TEXT NOT NULL
);
CREATE TABLE claim (
    rule TEXT NOT NULL,
    source TEXT NOT NULL,
    category TEXT NOT NULL,
    action TEXT NOT NULL,
    evidence TEXT NOT NULL,
    from_serial INTEGER NOT NULL,
    to_serial INTEGER,                    -- NULL while the claim stands
    expires_at INTEGER,                   -- seconds since 1970, UTC
    PRIMARY KEY (source, rule, from_serial)
) WITHOUT ROWID;
CREATE INDEX claim_expiring ON claim (expires_at)
    WHERE expires_at IS NOT NULL AND to_serial IS NULL;
CREATE INDEX claim_excepting ON claim (rule) WHERE action = 'except' AND to_serial IS NULL;
CREATE INDEX IF NOT EXISTS claim_planned ON claim (rule)
    WHERE rule >= 'planned ' AND rule < 'planned!' AND to_serial IS NULL;
CREATE TABLE effect (
    serial INTEGER NOT NULL,
    key TEXT NOT NULL,
    before TEXT,
    after TEXT,
    PRIMARY KEY (serial, key)
) WITHOUT ROWID;
CREATE TABLE source (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE feed (
    name TEXT PRIMARY KEY,
    status TEXT NOT NULL                  -- JSON; operational, not policy
) WITHOUT ROWID;
CREATE TABLE held (
    feed TEXT NOT NULL,
    rule TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (feed, rule)
) WITHOUT ROWID;
"""


_PLANNED_INDEX = next(s for s in _SCHEMA.split(";\n") if "claim_planned" in s)
_TABLES = ("batch", "claim", "effect", "source", "feed", "held")
_MANY = 500  # values in one statement; older SQLites take 999
_COPY_PAGES = 256  # between two calls for the progress of a copy: 1 MiB


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _uri(path: Path, *, read_only: bool) -> str:
    """The address of a database's file for SQLite."""
    if not read_only:
        mode = "mode=rwc"
    elif _beside(path, "-wal").exists():
        mode = "mode=ro"
    else:
        # Without a write-ahead log nobody is writing, and SQLite need not make its files.
        mode = "immutable=1"
    return f"{path.absolute().as_uri()}?{mode}"


class Store:
    """One connection; use it from one thread at a time."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """
        Open the log, and unless `read_only` make it, for its owner alone, if it is not there.

        Raises:
            PolicyError: it cannot be opened, is no UrlGuard log, or was written by a newer version.
        """
        self.path = path
        self._lock = threading.RLock()
        try:
            if not read_only:
                path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
                # SQLite gives the files beside it the same mode.
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            self._db = sqlite3.connect(
                _uri(path, read_only=read_only),
                timeout=60,
                uri=True,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._prepare(read_only)
            except BaseException:
                self._db.close()
                raise
        except (sqlite3.Error, OSError) as exc:
            raise PolicyError(f"policy log {path}: {exc}") from exc

    def _prepare(self, read_only: bool) -> None:
        db = self._db
        db.execute("PRAGMA busy_timeout = 60000")
        if not read_only:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute(f"PRAGMA journal_size_limit = {_MAX_WAL}")
        db.execute("PRAGMA cache_size = -65536")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0 and not read_only:
            with self.writing():
                # Another process may have made the tables while this one waited for the lock.
                if db.execute("PRAGMA user_version").fetchone() == (0,):
                    for statement in _SCHEMA.split(";\n"):
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            version = SCHEMA_VERSION
        if version != SCHEMA_VERSION:
            raise PolicyError(
                f"policy log {self.path}: schema {version}; this version reads {SCHEMA_VERSION}"
            )
        if not read_only:
            # A log of before there were planned rules has not got it; the tables are the same.
            db.execute(_PLANNED_INDEX)

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A write transaction: all of it or nothing.  Nests: an inner one joins the outer."""
        with self._lock:
            if self._within():
                yield
                return
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except BaseException as exc:
                # SQLite has rolled back by itself after some errors, such as a full disk.
                if self._within():
                    self._db.execute("ROLLBACK")
                if isinstance(exc, sqlite3.Error):
                    raise PolicyError(f"policy log {self.path}: {exc}") from exc
                raise
            finally:
                self._shrink()

    def _shrink(self) -> None:
        """Give the disk back what a large batch, also one that failed, left in the journal."""
        with contextlib.suppress(OSError, sqlite3.Error):
            if _beside(self.path, "-wal").stat().st_size > _MAX_WAL:
                self._db.execute("PRAGMA busy_timeout = 0")  # who still reads may go on
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA busy_timeout = 60000")

    def _within(self) -> bool:
        return self._db.in_transaction

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """
        A read transaction: everything read within it is of one serial.

        Raises:
            PolicyError: the file is damaged.
        """
        with self._lock:
            if self._within():
                yield
                return
            try:
                self._db.execute("BEGIN")
                try:
                    yield
                finally:
                    self._db.execute("COMMIT")
            except sqlite3.Error as exc:
                raise PolicyError(f"policy log {self.path}: {exc}") from exc

    @contextlib.contextmanager
    def any_text(self) -> Iterator[None]:
        """Read text that is no UTF-8, too, its octets as surrogates."""
        self._db.text_factory = lambda octets: octets.decode(errors="surrogateescape")
        try:
            yield
        finally:
            self._db.text_factory = str

    def problem(self) -> str | None:
        """What SQLite finds wrong with the file and its indexes, if anything."""
        row = self._one("PRAGMA integrity_check(1)")
        return None if row is None or row[0] == "ok" else str(row[0])

    def changed_by_others(self) -> int:
        """A number that changes when another connection has committed."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        return int(version)

    # Batches

    def head(self) -> BatchRow | None:
        """The last batch."""
        row = self._one("SELECT * FROM batch ORDER BY serial DESC LIMIT 1")
        return BatchRow(*row) if row else None

    def count_batches(self) -> int:
        """How many batches there are; fewer than the last serial where a log was restored."""
        row = self._one("SELECT count(*) FROM batch")
        return int(row[0]) if row else 0

    def batches(self, after: int = 0, limit: int = -1) -> Iterator[BatchRow]:
        """Batches with a serial above `after`, oldest first."""
        sql = "SELECT * FROM batch WHERE serial > ? ORDER BY serial LIMIT ?"
        return map(BatchRow._make, self._all(sql, after, limit))

    def last_upto(self, serial: int) -> BatchRow | None:
        """The last batch that has this serial or a lower one."""
        sql = "SELECT * FROM batch WHERE serial <= ? ORDER BY serial DESC LIMIT 1"
        row = self._one(sql, serial)
        return BatchRow(*row) if row else None

    def add_batch(self, row: BatchRow) -> None:
        """Append a batch."""
        self._db.execute("INSERT INTO batch VALUES (?,?,?,?,?,?,?,?,?)", row)

    # Claims

    def sources(self) -> list[str]:
        """Every source that ever claimed anything."""
        return [name for (name,) in self._all("SELECT name FROM source")]

    def add_source(self, name: str) -> None:
        """Remember a source's name."""
        self._db.execute("INSERT OR IGNORE INTO source VALUES (?)", (name,))

    def standing(self, source: str, rule: str) -> ClaimRow | None:
        """The claim of `source` about `rule` that stands."""
        row = self._one(
            "SELECT rule, source, category, action, evidence, from_serial, to_serial, expires_at"
            " FROM claim WHERE source = ? AND rule = ? AND to_serial IS NULL",
            source,
            rule,
        )
        return ClaimRow(*row) if row else None

    def standing_of(self, source: str) -> Iterator[tuple[str, str, str, int]]:
        """All claims of `source` that stand, by rule: rule, action, category, from_serial."""
        return self._all(
            "SELECT rule, action, category, from_serial FROM claim"
            " WHERE source = ? AND to_serial IS NULL ORDER BY rule",
            source,
        )

    def standing_after(self, source: str, rule: str, limit: int) -> list[ClaimRow]:
        """The first `limit` standing claims of `source` whose rules come after `rule`, by rule."""
        rows = self._all(
            "SELECT rule, source, category, action, evidence, from_serial, to_serial, expires_at"
            " FROM claim WHERE source = ? AND rule > ? AND to_serial IS NULL"
            " ORDER BY rule LIMIT ?",
            source,
            rule,
            limit,
        )
        return list(map(ClaimRow._make, rows))

    def said(self, source: str, action: str) -> Iterator[tuple[str, str | None]]:
        """
        What `source` says about its rules, for comparing with what it will say.

        Returns:
            Each rule with its category where it claims `action`, "" where it claims an exception,
            and None where it claims anything else.
        """
        return self._all(
            "SELECT rule, CASE action WHEN ? THEN category WHEN 'except' THEN '' END"
            " FROM claim WHERE source = ? AND to_serial IS NULL",
            action,
            source,
        )

    def history(self, rule: str) -> list[ClaimRow]:
        """Every claim there ever was about `rule`, oldest first."""
        rows: list[tuple[Any, ...]] = []
        for source in self.sources():
            rows += self._all(
                "SELECT rule, source, category, action, evidence, from_serial, to_serial,"
                " expires_at FROM claim WHERE source = ? AND rule = ?",
                source,
                rule,
            )
        return sorted(map(ClaimRow._make, rows), key=lambda r: r.from_serial)

    def claims_about(self, rules: Sequence[str]) -> Iterator[ClaimRow]:
        """Every claim there ever was about any of `rules`; one look-up for each source and rule."""
        fields = ", ".join(ClaimRow._fields)
        for source in self.sources():
            for start in range(0, len(rules), _MANY):
                some = rules[start : start + _MANY]
                marks = ",".join("?" * len(some))
                sql = f"SELECT {fields} FROM claim WHERE source = ? AND rule IN ({marks})"  # noqa: S608
                yield from map(ClaimRow._make, self._all(sql, source, *some))

    def ever(self, start: str) -> list[str]:
        """
        The rules about which anything was ever claimed, of those whose keys begin with `start`.

        Args:
            start: a kind and a space.
        """
        end = start[:-1] + chr(ord(start[-1]) + 1)
        found: set[str] = set()
        for source in self.sources():
            rows = self._all(
                "SELECT DISTINCT rule FROM claim WHERE source = ? AND rule >= ? AND rule < ?",
                source,
                start,
                end,
            )
            found.update(rule for (rule,) in rows)
        return sorted(found)

    def excepted(self) -> list[str]:
        """The rules about which an exception of a feed stands."""
        sql = "SELECT DISTINCT rule FROM claim WHERE action = 'except' AND to_serial IS NULL"
        return [rule for (rule,) in self._all(sql)]

    def expired(self, now: int, limit: int) -> list[tuple[str, str]]:
        """Source and rule of standing claims whose time has come, at most `limit`."""
        return list(
            self._all(
                "SELECT source, rule FROM claim WHERE expires_at <= ? AND to_serial IS NULL"
                " AND expires_at IS NOT NULL LIMIT ?",
                now,
                limit,
            )
        )

    def planned(self, upto: int | None = None, limit: int = -1) -> list[ClaimRow]:
        """
        Claims that are to begin later, in the order of their time.

        Args:
            upto: only those that begin at this time, in seconds since 1970, or before.
            limit: at most so many.
        """
        end = "planned!" if upto is None else f"planned {upto + 1:016}"
        rows = self._all(
            "SELECT rule, source, category, action, evidence, from_serial, to_serial, expires_at"
            " FROM claim WHERE rule >= 'planned ' AND rule < 'planned!' AND to_serial IS NULL"
            " AND rule < ? ORDER BY rule, source LIMIT ?",
            end,
            limit,
        )
        return list(map(ClaimRow._make, rows))

    def planned_in(self, source: str, serial: int) -> list[ClaimRow]:
        """The claims for later that a batch of `source` made."""
        rows = self._all(
            "SELECT rule, source, category, action, evidence, from_serial, to_serial, expires_at"
            " FROM claim WHERE source = ? AND rule >= 'planned ' AND rule < 'planned!'"
            " AND from_serial = ? ORDER BY rule",
            source,
            serial,
        )
        return list(map(ClaimRow._make, rows))

    def next_expiry(self) -> int | None:
        """When the next standing claim expires or a planned one begins, in seconds since 1970."""
        row = self._one(
            "SELECT min(expires_at) FROM claim WHERE expires_at IS NOT NULL AND to_serial IS NULL"
        )
        times = [] if row is None or row[0] is None else [int(row[0])]
        for claim in self.planned(limit=1):
            # What is no time there was not written by us, and never comes.
            with contextlib.suppress(InputError):
                times.append(from_planned(claim.rule)[0])
        return min(times, default=None)

    def count(self, source: str) -> int:
        """How many claims of `source` stand."""
        row = self._one("SELECT count(*) FROM claim WHERE source = ? AND to_serial IS NULL", source)
        return int(row[0]) if row else 0

    def add_claims(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Add claims, the fields of `ClaimRow`; fastest in the order of source and rule."""
        self._db.executemany("INSERT INTO claim VALUES (?,?,?,?,?,?,?,?)", rows)

    def end_claims(self, serial: int, claims: Iterable[tuple[str, str]]) -> None:
        """End the standing claims with these sources and rules."""
        self._db.executemany(
            "UPDATE claim SET to_serial = ? WHERE source = ? AND rule = ? AND to_serial IS NULL",
            ((serial, source, rule) for source, rule in claims),
        )

    def starts_and_ends(self) -> Iterator[tuple[int, str, str, str, str, str, str, int | None]]:
        """
        What each batch's payload was made of, in the payload's order.

        Rows: serial, rule, source, ``+`` or ``-``, category, action, evidence, expires_at.
        """
        return self._all(
            "SELECT from_serial AS s, rule AS r, source AS o, '+' AS sign, category, action,"
            " evidence, expires_at FROM claim"
            " UNION ALL SELECT to_serial, rule, source, '-', '', '', '', NULL FROM claim"
            " WHERE to_serial IS NOT NULL ORDER BY s, r, o, sign"
        )

    # Effects

    def add_effects(self, rows: Iterable[EffectRow]) -> None:
        """Add effects; fastest in the order of keys."""
        self._db.executemany("INSERT INTO effect VALUES (?,?,?,?)", rows)

    def effects(self, after: int = 0, upto: int | None = None) -> Iterator[EffectRow]:
        """Effects of batches above `after` up to `upto`, by serial and key."""
        sql = "SELECT * FROM effect WHERE serial > ? AND serial <= ? ORDER BY serial, key"
        return map(EffectRow._make, self._all(sql, after, upto or (1 << 62)))

    def changes(self, after: int) -> Iterator[tuple[str, str | None, int]]:
        """Each key that batches above `after` touched: the key, what stands there, the batch."""
        # With one max() SQLite takes the other columns from the row that holds it.
        sql = "SELECT key, after, max(serial) FROM effect WHERE serial > ? GROUP BY key"
        return self._all(sql, after)

    def effects_of(self, serial: int, limit: int) -> tuple[int, list[EffectRow]]:
        """How many effects a batch had, and the first `limit` of them."""
        row = self._one("SELECT count(*) FROM effect WHERE serial = ?", serial)
        sql = "SELECT * FROM effect WHERE serial = ? ORDER BY key LIMIT ?"
        shown = [EffectRow(*r) for r in self._all(sql, serial, limit)]
        return (int(row[0]) if row else 0), shown

    def decided(self, after: int, limit: int) -> Iterator[tuple[str, str | None]]:
        """
        Of the keys that people's batches above `after` touched, what stands there now.

        Args:
            after: a serial.
            limit: of keys.
        """
        rows = self._all(
            "SELECT key, after, max(serial) FROM effect WHERE serial > ?1 AND key IN"
            " (SELECT key FROM batch JOIN effect USING (serial) WHERE batch.serial > ?1"
            " AND batch.source NOT GLOB 'feed:*') GROUP BY key LIMIT ?2",
            after,
            limit,
        )
        return ((key, after_) for key, after_, _ in rows)

    def count_effects(self, after: int, kind: str = "") -> int:
        """How many effects batches above `after` had, on rules of one kind or of all."""
        sql = "SELECT count(*) FROM effect WHERE serial > ? AND key GLOB ?"
        row = self._one(sql, after, f"{kind} *" if kind else "*")
        return int(row[0]) if row else 0

    def last_effect_serial(self, kinds: Collection[str] = ()) -> int:
        """
        The serial of the last batch that changed anything for the world; 0 if none did.

        With `kinds`, only rules of these kinds count.
        """
        which = " OR ".join("key GLOB ?" for _ in kinds) or "1"
        row = self._one(
            f"SELECT serial FROM effect WHERE {which} ORDER BY serial DESC LIMIT 1",  # noqa: S608
            *(f"{kind} *" for kind in kinds),
        )
        return int(row[0]) if row else 0

    # The whole

    def copy_to(self, path: Path, progress: Callable[[int, int], None] | None = None) -> None:
        """
        Copy the log as it is at this moment into the file at `path`; others may go on writing.

        Args:
            path: an empty file; it is whole in itself afterwards, and synced.
            progress: called with the pages that were copied and how many there are.

        Raises:
            PolicyError: the log cannot be read, or the copy cannot be written.
        """

        def step(_: int, left: int, pages: int) -> None:
            if progress:
                progress(pages - left, pages)

        with self.reading(), contextlib.closing(sqlite3.connect(path)) as copy:
            self.head()  # a transaction sees the moment of its first read
            # Whoever wants a copy that was cut off? So nothing is synced before the end.
            copy.execute("PRAGMA synchronous = OFF")
            self._db.backup(copy, pages=_COPY_PAGES, progress=step)
            # One file without others beside it, to be carried away.
            copy.execute("PRAGMA journal_mode = DELETE")
        with path.open("rb") as file:
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def beside(self, path: Path) -> Iterator[None]:
        """Have the log at `path` at hand for `take_over`; it is only read."""
        try:
            self._db.execute("ATTACH ? AS other", (_uri(path, read_only=True),))
        except sqlite3.Error as exc:
            raise PolicyError(f"policy log {path}: {exc}") from exc
        try:
            yield
        finally:
            with contextlib.suppress(sqlite3.Error):  # `close` lets go of it anyway
                self._db.execute("DETACH other")

    def take_over(self, step: Callable[[str], None]) -> None:
        """
        Put every row of the log that is `beside` in the place of this one's, within `writing`.

        `step` is called with the name of each table.
        """
        for table in _TABLES:
            step(table)
            self._db.execute(f"DELETE FROM main.{table}")  # noqa: S608
            self._db.execute(f"INSERT INTO main.{table} SELECT * FROM other.{table}")  # noqa: S608

    # Feeds

    def feed_status(self) -> dict[str, str]:
        """The status of each feed that was ever refreshed, as JSON."""
        return dict(self._all("SELECT name, status FROM feed"))

    def set_feed_status(self, name: str, status: str) -> None:
        """Replace a feed's status."""
        self._db.execute("INSERT OR REPLACE INTO feed VALUES (?, ?)", (name, status))

    def held(self, feed: str) -> list[tuple[str, str]]:
        """The rules of a feed that are held back, with the reason."""
        return list(self._all("SELECT rule, reason FROM held WHERE feed = ?", feed))

    def set_held(self, feed: str, rows: Iterable[tuple[str, str]]) -> None:
        """Replace the rules of a feed that are held back."""
        self._db.execute("DELETE FROM held WHERE feed = ?", (feed,))
        self._db.executemany(
            "INSERT INTO held VALUES (?, ?, ?)", ((feed, rule, reason) for rule, reason in rows)
        )

    def _one(self, sql: str, *arguments: Any) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._db.execute(sql, arguments).fetchone()
        return row

    def _all(self, sql: str, *arguments: Any) -> Iterator[tuple[Any, ...]]:
        return iter(self._db.execute(sql, arguments))
