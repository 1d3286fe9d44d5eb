"""
The file of cases in SQLite: opening it, its tables, transactions.

WAL, and every commit is synced (``synchronous=FULL``): what was acknowledged survives a power cut,
at the price of one sync a batch.  Two connections, one that writes and one that reads, so that a
list does not wait for a batch; between processes SQLite's own locks do the rest.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from urlguard.cases.store import Limits, StoreError

SCHEMA_VERSION: Final = 4
APPLICATION: Final = 0x55474353  # "UGCS", in the file's head: whose file it is
BUSY_S: Final = 10.0  # to wait for another writer
_OLDEST: Final = (3, 35, 0)  # of SQLite: RETURNING
# A batch touches pages all over the index of items.  The log takes many batches before they are
# written into their places, each page once.
_CHECKPOINT_PAGES: Final = 16_384
_WAL_KEPT: Final = 16 << 20  # octets, between batches
_CACHE_KIB: Final = 65_536

_SCHEMA: Final = """
CREATE TABLE tally (                               -- one row
    waiting INTEGER NOT NULL                       -- how many are in the queue
);
INSERT INTO tally VALUES (0);
CREATE TABLE sources (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    accepted INTEGER NOT NULL DEFAULT 0,
    duplicate INTEGER NOT NULL DEFAULT 0,
    invalid INTEGER NOT NULL DEFAULT 0,
    waiting INTEGER NOT NULL DEFAULT 0,            -- of those that it was the first to bring
    known INTEGER NOT NULL DEFAULT 0,
    opened INTEGER NOT NULL DEFAULT 0,
    dead INTEGER NOT NULL DEFAULT 0,
    right INTEGER NOT NULL DEFAULT 0,
    wrong INTEGER NOT NULL DEFAULT 0,
    level REAL,                                    -- of its quota's bucket
    level_at REAL
);
CREATE TABLE items (
    id INTEGER PRIMARY KEY,
    item TEXT NOT NULL,
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    raw TEXT,                                      -- NULL: as the item
    seen_at INTEGER NOT NULL,
    context TEXT NOT NULL,
    queries INTEGER NOT NULL,
    source INTEGER NOT NULL,                       -- the first
    added_at INTEGER NOT NULL,
    counted INTEGER NOT NULL DEFAULT 0,            -- queries that its case knows of
    case_id INTEGER,
    score REAL,
    action TEXT,
    reason TEXT,
    model TEXT,
    error TEXT                                     -- it is dead
);
CREATE UNIQUE INDEX items_item ON items (item);
CREATE INDEX items_case ON items (case_id, score DESC) WHERE case_id IS NOT NULL;
CREATE INDEX items_dead ON items (id) WHERE error IS NOT NULL;
CREATE TABLE reports (                             -- all but the first report of an item
    item INTEGER NOT NULL,
    source INTEGER NOT NULL,
    at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    raw TEXT NOT NULL,
    context TEXT NOT NULL,
    queries INTEGER NOT NULL,
    PRIMARY KEY (item, source)
) WITHOUT ROWID;
CREATE TABLE queue (
    item INTEGER PRIMARY KEY,
    source INTEGER NOT NULL,
    bulk INTEGER NOT NULL,                         -- 0: urgent
    due REAL NOT NULL,
    taken_at REAL,
    takes INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX queue_due ON queue (bulk, due, item);
CREATE TABLE cases (
    id INTEGER PRIMARY KEY,
    owner TEXT NOT NULL UNIQUE,
    item TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    decision TEXT,
    number INTEGER,                                -- of the decision
    score REAL,
    place REAL NOT NULL,                           -- minus the priority: the first comes first
    pattern TEXT,
    address TEXT,                                  -- to which its name leads
    queries INTEGER NOT NULL,
    items INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    decided_at INTEGER,
    recheck_at INTEGER,
    holder TEXT,
    lease_until INTEGER
);
CREATE INDEX cases_queue ON cases (state, place, id);
CREATE INDEX cases_place ON cases (place, id);
CREATE INDEX cases_newest ON cases (state, id);
CREATE INDEX cases_pattern ON cases (pattern, place, id) WHERE pattern IS NOT NULL;
CREATE INDEX cases_lease ON cases (lease_until) WHERE state = 'claimed';
CREATE INDEX cases_recheck ON cases (recheck_at) WHERE recheck_at IS NOT NULL;
CREATE TABLE case_sources (
    source INTEGER NOT NULL,
    case_id INTEGER NOT NULL,
    place REAL NOT NULL,                           -- the case's
    PRIMARY KEY (source, case_id)
) WITHOUT ROWID;
CREATE INDEX case_sources_place ON case_sources (source, place, case_id);
CREATE INDEX case_sources_case ON case_sources (case_id);
CREATE TABLE decisions (
    number INTEGER PRIMARY KEY,
    step TEXT NOT NULL,
    who TEXT NOT NULL,
    act TEXT NOT NULL,
    category TEXT NOT NULL,
    reason TEXT NOT NULL,
    scope TEXT NOT NULL,
    expires_at INTEGER,
    key TEXT,
    begun_at INTEGER NOT NULL,
    done_at INTEGER,
    serial INTEGER,
    undo_serial INTEGER,
    approver TEXT,
    remark TEXT NOT NULL DEFAULT '',
    source TEXT NOT NULL DEFAULT '',
    UNIQUE (who, key)
);
CREATE INDEX decisions_step ON decisions (step, number);
CREATE TABLE decided (
    number INTEGER NOT NULL,
    case_id INTEGER NOT NULL,
    before TEXT NOT NULL,                          -- the case's state
    credit TEXT,                                   -- sources that were right or wrong, JSON
    rules TEXT NOT NULL DEFAULT '[]',              -- keys of claims, JSON; case 0: of none
    PRIMARY KEY (number, case_id)
) WITHOUT ROWID;
CREATE INDEX decided_case ON decided (case_id, number);
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    case_id INTEGER NOT NULL,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX events_case ON events (case_id, id);
"""
_SCHEMA_2: Final = """
CREATE TABLE submissions (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    item INTEGER NOT NULL,
    source TEXT NOT NULL,
    public INTEGER NOT NULL,
    network TEXT,                                  -- of a public one, under the day's pseudonym
    comment TEXT NOT NULL,
    evidence TEXT NOT NULL,                        -- JSON
    tlp TEXT NOT NULL,
    submitted_at INTEGER NOT NULL,
    decision TEXT,                                 -- that its submitter was told of
    made INTEGER,                                  -- its number; NULL: a rule stood before
    decided_at INTEGER
);
CREATE INDEX submissions_item ON submissions (item);
CREATE INDEX submissions_source ON submissions (source, number);
CREATE INDEX submissions_made ON submissions (made) WHERE made IS NOT NULL;
CREATE TABLE webhooks (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    url TEXT NOT NULL,
    events TEXT NOT NULL,                          -- JSON
    secret TEXT NOT NULL,                          -- as it is: messages are signed with it
    who TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    delivered INTEGER NOT NULL DEFAULT 0,
    given_up INTEGER NOT NULL DEFAULT 0,
    last_at INTEGER,                               -- of what was delivered
    error TEXT                                     -- of the last try; NULL: it did well
);
CREATE TABLE outbox (
    number INTEGER PRIMARY KEY,
    webhook INTEGER NOT NULL,
    id TEXT NOT NULL,
    body BLOB NOT NULL,
    at INTEGER NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL
);
CREATE INDEX outbox_due ON outbox (webhook, due, number);
"""
_SCHEMA_3: Final = """
ALTER TABLE cases ADD COLUMN address_until INTEGER;
CREATE INDEX cases_address ON cases (address, place, id) WHERE address IS NOT NULL;
CREATE INDEX cases_unaddressed ON cases (place, id)
    WHERE address_until IS NULL AND state IN ('open', 'claimed');
CREATE INDEX cases_address_until ON cases (address_until) WHERE address_until IS NOT NULL;
"""
_SCHEMA_4: Final = """
ALTER TABLE decisions ADD COLUMN appeal INTEGER NOT NULL DEFAULT 0;
CREATE INDEX decisions_appeal ON decisions (appeal, number) WHERE appeal > 0;
CREATE TABLE appeals (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,                       -- that nobody guesses
    item TEXT NOT NULL,
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    day INTEGER NOT NULL,                          -- of the incident, since 1970
    contact TEXT NOT NULL,
    text TEXT NOT NULL,
    token TEXT NOT NULL,                           -- that a proof shows
    state TEXT NOT NULL,
    unproven INTEGER NOT NULL DEFAULT 1,           -- proven ones come first
    added_at INTEGER NOT NULL,
    proof TEXT,
    proof_at INTEGER,
    decided_at INTEGER,
    who TEXT,
    reason TEXT NOT NULL DEFAULT '',
    answer TEXT NOT NULL DEFAULT '',
    serial INTEGER
);
CREATE INDEX appeals_queue ON appeals (state, unproven, number);
CREATE INDEX appeals_all ON appeals (unproven, number);
CREATE INDEX appeals_owner ON appeals (owner, number);
CREATE TABLE appeal_events (
    id INTEGER PRIMARY KEY,
    appeal INTEGER NOT NULL,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX appeal_events_appeal ON appeal_events (appeal, id);
"""
_SCHEMAS: Final = (_SCHEMA, _SCHEMA_2, _SCHEMA_3, _SCHEMA_4)  # what each version adds
# An `Item` without its reports.
ITEM: Final = (
    "SELECT id, item, name, CASE WHEN error IS NOT NULL THEN 'dead' WHEN EXISTS"
    " (SELECT 1 FROM queue WHERE queue.item = items.id) THEN 'waiting' ELSE 'judged' END,"
    " case_id, score, action, reason, model, queries, seen_at, added_at, error FROM items"
)


class Connection:
    """The file, and transactions on it."""

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        """
        Open the store, and make it, for its owner alone, if it is not there.

        Args:
            path: of the file; two more stand beside it while it is in use.
            limits: what it holds at most.

        Raises:
            StoreError: it cannot be opened, is no store of cases, or is of a newer version.
        """
        self.path = path
        self.limits = limits or Limits()
        self._write_lock = threading.RLock()
        self._read_lock = threading.RLock()
        if sqlite3.sqlite_version_info < _OLDEST:
            raise StoreError(f"SQLite {sqlite3.sqlite_version}; must be 3.35 or newer")
        with contextlib.ExitStack() as opened:
            try:
                path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
                # SQLite gives the files beside it the same mode.
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                self._db = self._connect()
                opened.callback(self._db.close)
                self._prepare()
                self._reader = self._connect()
                opened.callback(self._reader.close)
                self._reader.execute("PRAGMA query_only = 1")
            except (sqlite3.Error, OSError) as exc:
                raise StoreError(f"cases {path}: {exc}") from exc
            opened.pop_all()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(
            self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        return db

    def _prepare(self) -> None:
        db = self._db
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (owner,) = db.execute("PRAGMA application_id").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if (owner or version or tables) and owner != APPLICATION:
            raise StoreError(f"cases {self.path}: is another program's database")
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"cases {self.path}: schema {version}; this version reads {SCHEMA_VERSION}"
            )
        if version:
            db.execute("SELECT waiting FROM tally").fetchone()  # before anything is changed
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        db.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT}")
        if version < SCHEMA_VERSION:
            with self.writing():
                # Another process may have made the tables while this one waited for the lock.
                (version,) = db.execute("PRAGMA user_version").fetchone()
                for schema in _SCHEMAS[version:]:
                    for statement in schema.split(";\n"):
                        db.execute(statement)
                db.execute(f"PRAGMA application_id = {APPLICATION}")
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        """Close the connections."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._db.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """
        A write transaction: all of it or nothing, and on disk at its end.

        Raises:
            StoreError: it cannot be written.
        """
        with self._write_lock:
            db = self._db
            try:
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            except BaseException as exc:
                # SQLite has rolled back by itself after some errors, such as a full disk.
                with contextlib.suppress(sqlite3.Error):
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                if isinstance(exc, sqlite3.Error):
                    raise StoreError(f"cases {self.path}: {exc}") from exc
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """
        A read transaction: all that is read within it is of one moment.

        Raises:
            StoreError: it cannot be read.
        """
        with self._read_lock:
            db = self._reader
            try:
                db.execute("BEGIN")
                try:
                    yield db
                finally:
                    if db.in_transaction:
                        db.execute("COMMIT")
            except sqlite3.Error as exc:
                raise StoreError(f"cases {self.path}: {exc}") from exc

    def plan(self, sql: str, values: Mapping[str, Any] | None = None) -> list[str]:
        """How SQLite would go about a query, for tests of the indexes."""
        with self.reading() as db:
            return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values or {})]


def add_events(
    db: sqlite3.Connection, cases: Iterable[int], now: int, who: str, what: str, text: str
) -> None:
    """Write down what happens to cases."""
    db.executemany(
        "INSERT INTO events (case_id, at, who, what, text) VALUES (?,?,?,?,?)",
        [(case, now, who, what, text) for case in cases],
    )


def clean(text: str, limit: int) -> str:
    """Text as it may be stored: halves of surrogate pairs are no UTF-8; shortened."""
    text = text[:limit]
    return text if text.isascii() else text.encode(errors="replace").decode()


def numbers(values: Sequence[int] | set[int]) -> str:
    """Numbers for ``json_each``, which takes any count of them in one parameter."""
    return f"[{','.join(map(str, values))}]"


def count_waiting(db: sqlite3.Connection, waiting: dict[int, int]) -> None:
    """So many more items of each source wait in the queue; also less than none."""
    db.execute("UPDATE tally SET waiting = waiting + ?", (sum(waiting.values()),))
    db.executemany(
        "UPDATE sources SET waiting = waiting + ? WHERE id = ?",
        [(count, source) for source, count in waiting.items()],
    )
