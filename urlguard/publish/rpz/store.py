"""
The zone's nodes in a SQLite file of their own, kept in step with the policy log.

How it works.  Everything here is derived and may be deleted: the next start builds it again.  So
the file stays on the machine that serves the zone, wherever the policy log is.  A
million rules would cost the control process hundreds of megabytes as objects; as rows they cost
disk only, a transfer reads them as it sends, and WAL gives each transfer the zone of one serial
however slowly it goes, while newer policy is written.

`follow` takes over the log's effects batch by batch.  A rule that changes at a node can change the
records of that node, of the nodes between it and its parents (which exist only because of it), and,
unless it is a ``domain`` rule, of all nodes below it and of those between (they inherit).  So these
are worked out again, and what differs is journalled under the batch's serial: that is what IXFR
reads, and a batch with no difference leaves the zone's serial alone.  Where a change would touch
too much, the whole zone is built again in another process, and secondaries get it by AXFR.

    node       one row a node: its rules, its records
    change     the journal: serial, node, records before and after
    version    the serials from which the journal leads to now
"""

import contextlib
import threading
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, Self

from urlguard import names, sqlite_file
from urlguard.blocklist.suffixes import backwards
from urlguard.errors import PolicyError
from urlguard.policy.log import PolicyLog
from urlguard.policy.model import EffectRow
from urlguard.publish.rpz import zone
from urlguard.publish.rpz.zone import KINDS, NO_COVER, NO_RULES, Cover, Node, Rules
from urlguard.verdict import decode

FORMAT = 1
MAX_EFFECTS = 50_000  # more since the last look: build again
MAX_NODES = 50_000  # more below rules that changed in one batch: build again
MAX_CHANGES = 200_000  # rows of the journal; the oldest versions go when there are more

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE node (
    name TEXT PRIMARY KEY,                -- backwards, with a final dot
    rules INTEGER NOT NULL,               -- 0: it stands only between a rule and a wildcard
    records INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE version (serial INTEGER PRIMARY KEY);
CREATE TABLE change (
    serial INTEGER NOT NULL,
    name TEXT NOT NULL,
    before INTEGER NOT NULL,
    after INTEGER NOT NULL,
    PRIMARY KEY (serial, name)
) WITHOUT ROWID;
"""


class TooMuchError(Exception):
    """The change is too large to follow; `build` the zone again."""


class State(NamedTuple):
    """How far the zone is."""

    serial: int = 0  # of the last batch that changed the zone
    at: int = 0  # of the last batch that was looked at
    hash: str = ""  # of that batch: another one means another log
    look: str = ""  # how blocks were written when `serial` was published


class ZoneStore:
    """One connection; use it from one thread at a time."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """
        Open the file, and make it if it is missing or unusable: nothing in it is lost for good.

        With `read_only`, what is read is the zone as it is now, until `close`.

        Raises:
            PolicyError: it cannot be opened or made.
        """
        self.path = path
        self._lock = threading.RLock()
        try:
            if read_only:
                self._db = sqlite_file.connect(path, 5, "mode=ro")
                self._db.execute("BEGIN")
                self.state()  # a transaction sees the moment of its first read
                return
            try:
                self._open()
            except sqlite_file.DatabaseError as exc:
                if isinstance(exc, sqlite_file.OperationalError):
                    raise  # locked, or the disk is full: that does not go away with the file
                self.close()
                for ending in ("", "-wal", "-shm"):
                    path.with_name(path.name + ending).unlink(missing_ok=True)
                self._open()
        except (sqlite_file.Error, OSError) as exc:
            raise PolicyError(f"zone {path}: {exc}") from exc

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite_file.connect(self.path, 60)
        db = self._db
        db.execute("PRAGMA journal_mode = WAL")
        # A power cut may take the last update; it is made again from the log, with the same serial.
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA cache_size = -8192")
        db.execute("PRAGMA journal_size_limit = 16777216")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == FORMAT:
            return
        with self.writing():
            for (table,) in db.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table'"
            ).fetchall():
                db.execute(f'DROP TABLE "{table}"')
            for statement in _SCHEMA.split(";\n"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {FORMAT}")

    def close(self) -> None:
        """Close the connection."""
        if hasattr(self, "_db"):
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A write transaction: all of it or nothing."""
        with self._lock:
            try:
                with sqlite_file.transaction(self._db):
                    yield
            except sqlite_file.Error as exc:
                raise PolicyError(f"zone {self.path}: {exc}") from exc

    # Reading

    def state(self) -> State:
        """How far the zone is."""
        found = dict(self._db.execute("SELECT key, value FROM meta").fetchall())
        return State(**{k: v for k, v in found.items() if k in State._fields})

    def count(self) -> int:
        """How many nodes have a record."""
        (number,) = self._db.execute("SELECT count(*) FROM node WHERE records").fetchone()
        return int(number)

    def larger_than(self, number: int) -> bool:
        """True if more than `number` nodes have a record; does not count all of them."""
        sql = "SELECT 1 FROM node WHERE records LIMIT 1 OFFSET ?"
        return self._db.execute(sql, (number,)).fetchone() is not None

    def nodes(self) -> Iterator[tuple[str, int]]:
        """Every node with its records, sorted."""
        return iter(self._db.execute("SELECT name, records FROM node WHERE records ORDER BY name"))

    def leads_from(self, serial: int) -> bool:
        """True if the journal knows what changed since `serial`."""
        sql = "SELECT 1 FROM version WHERE serial = ?"
        return self._db.execute(sql, (serial,)).fetchone() is not None

    def count_changes(self, since: int) -> int:
        """How many rows of the journal are newer than `since`."""
        sql = "SELECT count(*) FROM change WHERE serial > ?"
        return int(self._db.execute(sql, (since,)).fetchone()[0])

    def changes(self, since: int) -> Iterator[tuple[str, int, int]]:
        """Each node whose records differ from those at `since`: before, now; sorted."""
        rows = self._db.execute(
            "SELECT name, before, after FROM change WHERE serial > ? ORDER BY name, serial",
            (since,),
        )
        for name, group in groupby(rows, key=itemgetter(0)):
            steps = list(group)
            before, now = steps[0][1], steps[-1][2]
            if before != now:
                yield name, before, now

    # Writing

    def build(self, log: PolicyLog) -> None:
        """Make the zone from the log's rulings; takes long, so do it in a process of its own."""
        with log.store.reading(), self.writing():
            before = self.state()
            head = log.store.head()
            serial = log.store.last_effect_serial(KINDS)
            if self._same_log(log, before):
                serial = max(serial, before.serial)
            elif head:
                # A restored log: its last batch is above every serial that was published here, the
                # last that changed a name may not be.
                serial = max(serial, head.serial)
            self._db.execute("DELETE FROM node")
            self._db.executemany("INSERT INTO node VALUES (?,?,?)", _rows(log))
            self._db.execute("DELETE FROM change")
            self._db.execute("DELETE FROM version")
            if serial > before.serial:
                # Otherwise somebody may have other content under this number.
                self._db.execute("INSERT INTO version VALUES (?)", (serial,))
            at, digest = (head.serial, head.hash) if head else (0, "")
            self._set(before._replace(serial=serial, at=at, hash=digest))

    def follow(self, log: PolicyLog) -> State:
        """
        Take over what the log has that the zone has not.

        Raises:
            TooMuchError: it is too much for this, or the zone is of another log; nothing is done.
            PolicyError: the log or the zone cannot be read.
        """
        with log.store.reading():
            state = self.state()
            head = log.store.head()
            at, digest = (head.serial, head.hash) if head else (0, "")
            if (at, digest) == (state.at, state.hash):
                return state
            if not self._same_log(log, state):
                raise TooMuchError
            if log.store.count_effects(state.at) > MAX_EFFECTS:
                raise TooMuchError
            with self.writing():
                serial = state.serial
                effects = log.store.effects(state.at)
                for number, batch in groupby(effects, key=lambda row: row.serial):
                    if self._apply(number, batch):
                        self._db.execute("INSERT INTO version VALUES (?)", (number,))
                        serial = number
                self._prune()
                state = state._replace(serial=serial, at=at, hash=digest)
                self._set(state)
            return state

    def look(self, look: str) -> tuple[State, bool]:
        """
        Say how blocks are written from now on.

        Returns:
            The state, and False if content changed under a serial that was published: no batch has
            come since, so secondaries see it with the next one only.
        """
        with self.writing():
            state = self.state()
            if state.look == look:
                return state, True
            fresh = not state.look
            state = state._replace(look=look)
            if not fresh:
                self._db.execute("DELETE FROM change")
                self._db.execute("DELETE FROM version")
                fresh = state.at > state.serial
                state = state._replace(serial=state.at)
                if fresh:
                    self._db.execute("INSERT INTO version VALUES (?)", (state.serial,))
            self._set(state)
            return state, fresh

    def _same_log(self, log: PolicyLog, state: State) -> bool:
        """True if `log` has the batch that the zone has followed it to."""
        mine = next(log.store.batches(state.at - 1, 1), None)
        return not state.at or (
            mine is not None and (mine.serial, mine.hash) == (state.at, state.hash)
        )

    def _set(self, state: State) -> None:
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?,?)", state._asdict().items())

    def _prune(self) -> None:
        if self.count_changes(0) <= MAX_CHANGES:
            return
        sql = "SELECT serial FROM change ORDER BY serial DESC LIMIT 1 OFFSET ?"
        (oldest,) = self._db.execute(sql, (MAX_CHANGES // 2,)).fetchone()
        self._db.execute("DELETE FROM change WHERE serial <= ?", (oldest,))
        self._db.execute("DELETE FROM version WHERE serial < ?", (oldest,))

    def _apply(self, serial: int, effects: Iterable[EffectRow]) -> bool:
        """Take over one batch; returns whether it changed a record."""
        changed: dict[str, dict[str, int]] = {}
        for row in effects:
            kind, _, value = row.key.partition(" ")
            if kind in KINDS and not zone.why_not(kind, value):
                ruling = zone.code(decode(row.after, row.key))
                changed.setdefault(backwards(value), {})[kind] = ruling
        touched: set[str] = set()
        for name, rulings in changed.items():
            rules, records = self._row(name)
            now = rules._replace(**rulings)
            if now == rules:
                continue
            self._put(name, now, records)
            touched.update((name, *steps_up(name)))
            if now._replace(domain=0) != rules._replace(domain=0):
                self._touch_below(name, touched)
        if len(touched) > 4 * MAX_NODES:
            raise TooMuchError
        covers: dict[str, Cover] = {"": NO_COVER}
        different = []
        # From the bottom up: a node goes before it is asked who needs its parent.
        for name in sorted(touched, key=len, reverse=True):
            rules, records = self._row(name)
            now_there = 0
            if rules != NO_RULES or self._rules_below(name):
                above = self._cover(_parent(name), covers)
                now_there = packed(
                    Node(name, rules, zone.exact(above, rules), zone.descend(above, rules).wild)
                )
            if now_there != records:
                different.append((serial, name, records, now_there))
            if now_there or rules != NO_RULES:
                if now_there != records:
                    self._put(name, rules, now_there)
            else:
                self._db.execute("DELETE FROM node WHERE name = ?", (name,))
        self._db.executemany("INSERT INTO change VALUES (?,?,?,?)", different)
        return bool(different)

    def _touch_below(self, name: str, touched: set[str]) -> None:
        """Add the nodes below `name`, and those between, which may come into being."""
        rows = self._db.execute(
            "SELECT name FROM node WHERE name > ? AND name < ? LIMIT ?",
            (name, _end(name), MAX_NODES + 1),
        )
        for count, (below,) in enumerate(rows):
            if count >= MAX_NODES:
                raise TooMuchError
            touched.add(below)
            touched.update(zone.steps(name, below))

    def _cover(self, name: str, known: dict[str, Cover]) -> Cover:
        """What covers everything below the node `name`."""
        cover = known.get(name)
        if cover is None:
            above = self._cover(_parent(name), known)
            cover = known[name] = zone.descend(above, self._row(name)[0])
        return cover

    def _row(self, name: str) -> tuple[Rules, int]:
        row = self._db.execute("SELECT rules, records FROM node WHERE name = ?", (name,)).fetchone()
        return (_unpacked_rules(row[0]), row[1]) if row else (NO_RULES, 0)

    def _put(self, name: str, rules: Rules, records: int) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO node VALUES (?,?,?)", (name, _packed_rules(rules), records)
        )

    def _rules_below(self, name: str) -> bool:
        row: Any = self._db.execute(
            "SELECT 1 FROM node WHERE name > ? AND name < ? AND rules LIMIT 1", (name, _end(name))
        ).fetchone()
        return row is not None


def packed(node: Node) -> int:
    """A node's records as one number; 0: none."""
    return node.exact << 2 | node.wild


def unpacked(records: int) -> tuple[int, int]:
    """The records at a node, and at its ``*``."""
    return records >> 2, records & 3


def steps_up(name: str) -> Iterator[str]:
    """The nodes above `name`, all backwards, without the root."""
    return map(backwards, names.parents(name[-2::-1]))


def _parent(name: str) -> str:
    return name[: name.rfind(".", 0, -1) + 1]


def _end(name: str) -> str:
    """What sorts behind everything below `name`: the character after the dot is the slash."""
    return name[:-1] + "/"


def _packed_rules(rules: Rules) -> int:
    return rules.domain | rules.subtree << 5 | rules.below << 10


def _unpacked_rules(number: int) -> Rules:
    return Rules(number & 31, number >> 5 & 31, number >> 10)


def _rows(log: PolicyLog) -> Iterator[tuple[str, int, int]]:
    for node in zone.flat(zone.collect(log.rulings())):
        yield node.name, _packed_rules(node.rules), packed(node)
