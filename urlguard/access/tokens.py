"""
Tokens: who may call the API, and in which role.

A token is shown once, when it is made; what stays is its SHA-256 in ``access.db``.  Knows no HTTP,
and not what a role may do; that a caller has tried too often is for `urlguard.access.attempts`.

How it works
    A token is ``ug_``, 256 random bits as 43 digits of base 62, and six more digits, the CRC-32 of
    all before them.  By prefix and checksum a search for leaked secrets recognises one, and a
    mistyped one is refused without a look at the file.  The checksum is no secret.

    Hashes of passwords are slow so that whoever has stolen them cannot try the likely ones.  Here
    none is likelier than another of 2^256, so one round of SHA-256 does, and costs 0.3 µs.  The
    hash is looked up in a dictionary; what the time of a look-up could tell is about the hash of
    what the caller sent, which leads nobody closer to a token.

    `Tokens.check` keeps the valid hashes in memory and reads SQLite's ``data_version`` each time,
    some 3 µs.  It changes when anybody has committed, and only then the file is read.  So a token
    that a command in another process revoked is refused from the next request on, and one that was
    just made is accepted.  While the file cannot be read, the last good state holds.

    The day of a token's last use is written from a thread, once a day.

    The file stays on this machine even where the policy log is a database server: a resolver must
    know its tokens while nothing else answers, and `check` may not wait for a network.

    Rows are never deleted.  A name that was revoked stands in the audit for whoever had it, so it
    is not given out again unless the caller says that it is the same holder.
"""

import contextlib
import os
import re
import secrets
import string
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

from urlguard import events, sqlite_file
from urlguard.access.roles import Role
from urlguard.errors import InputError, UrlGuardError
from urlguard.sqlite_file import Connection

SCHEMA_VERSION: Final = 1
PREFIX: Final = "ug_"
OCTETS: Final = 32  # of randomness
FIRST_ADMIN: Final = "admin"  # the name of the first start's token
DATABASE: Final = "access.db"  # in the folder for the server's state,
ADMIN_FILE: Final = "admin.token"  # and where the first admin's token lies there
MAX_NAME: Final = 64  # characters

BUSY_S: Final = 10.0  # to wait for another process that writes
GLANCE_S: Final = 0.05  # the same, for who only asks: a writer is in the way for moments, if ever
FILE_S: Final = 1.0  # between two looks whether the file is still the same
LOG_EVERY_S: Final = 60.0

_DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_BODY: Final = 43  # 62^43 > 2^256
_CHECK: Final = 6  # 62^6 > 2^32
_SHAPE: Final = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_BODY + _CHECK}}}")
_NAME: Final = re.compile(rf"[0-9A-Za-z][0-9A-Za-z._@+-]{{0,{MAX_NAME - 1}}}")
_MAX_BY: Final = 200  # characters
_DAY_S: Final = 86_400
_DAY_0: Final = date(1970, 1, 1)
_NEVER: Final = float("inf")

_SCHEMA: Final = (
    """
CREATE TABLE token (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL COLLATE NOCASE,    -- Alice and alice would be mistaken for each other
    role TEXT NOT NULL,
    sha256 BLOB NOT NULL UNIQUE,          -- of the token's text
    created_at INTEGER NOT NULL,          -- seconds since 1970, UTC, like all times here
    created_by TEXT NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,                   -- NULL until somebody revokes it
    revoked_by TEXT,
    used_day INTEGER                      -- the last, in days since 1970
)
""",
    "CREATE UNIQUE INDEX token_name ON token (name) WHERE revoked_at IS NULL",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_COLUMNS: Final = (
    "number, name, role, created_at, created_by, expires_at, revoked_at, revoked_by, used_day"
)


class AccessError(UrlGuardError):
    """Tokens cannot be read or changed as asked; nothing has changed."""


class TokenNameError(AccessError, InputError):
    """A name that no token may have."""


class Holder(NamedTuple):
    """Whose token it is."""

    name: str
    role: Role
    number: int  # of the token; a name that was given out again has another


class Entry(NamedTuple):
    """One token, as a list shows it: all but the token."""

    number: int
    name: str
    role: Role
    created_at: int  # seconds since 1970
    created_by: str
    expires_at: int | None
    revoked_at: int | None
    revoked_by: str | None
    used_on: date | None  # the last day, UTC

    def state(self, now: float) -> str:
        """``active``, ``expired`` or ``revoked``, at a time in seconds since 1970."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"

    def as_json(self, now: float) -> dict[str, Any]:
        """The object of ``urlguard token list --json``."""
        used_on = self.used_on and self.used_on.isoformat()
        return {**self._asdict(), "used_on": used_on, "state": self.state(now)}


def _made() -> str:
    """A new token."""
    text = PREFIX + _in_base_62(int.from_bytes(secrets.token_bytes(OCTETS)), _BODY)
    return text + _checksum(text)


def _checksum(text: str) -> str:
    return _in_base_62(zlib.crc32(text.encode("ascii")), _CHECK)


def _in_base_62(number: int, digits: int) -> str:
    found = ""
    for _ in range(digits):
        number, digit = divmod(number, 62)
        found = _DIGITS[digit] + found
    return found


def well_formed(token: str) -> bool:
    """True if `token` looks like one of ours and its checksum is right; any text is safe."""
    return (
        _SHAPE.fullmatch(token) is not None
        and _checksum(token[:-_CHECK]) == token[-_CHECK:]  # no secret: anybody can work it out
    )


class Tokens:
    """
    The tokens in a file.

    `check` may be called from several threads, and on an event loop: it waits for no writer.  All
    other methods wait for the disk and for other writers, up to `BUSY_S`.

    Args:
        path: the file, made for its owner alone if it is not there.
        now: the time in seconds since 1970.

    Raises:
        AccessError: the file cannot be opened, is no file of ours, or was written by a newer
            version.
    """

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        self.path = path
        self._now = now
        self._lock = threading.Lock()  # of all that `check` reads
        self._known: dict[bytes, tuple[Holder, float]] = {}  # by hash; with the end of its time
        self._days: dict[int, int] = {}  # of the last use, by number
        self._unwritten: dict[int, int] = {}  # the same, of those that the file does not know
        self._version: int | None = None  # the file's, when it was read
        self._file: tuple[int, int] | None = None  # device and inode of what is open
        self._file_due = 0.0
        self._log_throttle = events.Throttle(LOG_EVERY_S)
        self._background = ThreadPoolExecutor(1, "token-days")
        with self._told():
            _make_private(path)
            self._prepare()
            self._reader = self._connected(GLANCE_S)

    def close(self) -> None:
        """Write the days that are not written yet, and close the file."""
        self._background.shutdown(wait=True)
        self._write_days()
        self._reader.close()

    # Asking

    def check(self, token: str) -> Holder | None:
        """Whose token it is; None if it is none, was revoked or has expired.  Any text is safe."""
        if not well_formed(token):
            return None
        digest = sha256(token.encode("ascii")).digest()
        with self._lock:
            self._look()
            found = self._known.get(digest)
            if found is None:
                return None
            holder, until = found
            now = self._now()
            if now >= until:
                return None
            today = int(now // _DAY_S)
            if self._days.get(holder.number, 0) < today:
                self._days[holder.number] = self._unwritten[holder.number] = today
                self._background.submit(self._write_days)
        return holder

    def list(self) -> list[Entry]:
        """
        All tokens there ever were, in the order in which they were made.

        Raises:
            AccessError: the file cannot be read.
        """
        with self._told(), contextlib.closing(self._connected(BUSY_S)) as db:
            return [_entry(*row) for row in db.execute(f"SELECT {_COLUMNS} FROM token")]  # noqa: S608

    # Changing

    def create(
        self, name: str, role: Role, by: str, expires_at: int | None = None, *, again: bool = False
    ) -> str:
        """
        Make a token.

        Args:
            name: the holder's, as it will stand in the audit; upper and lower case are the same.
            role: the holder's.
            by: who makes it, for the audit.
            expires_at: the end of its time, in seconds since 1970; None: until it is revoked.
            again: the holder is the one that the name stood for before it was revoked.

        Returns:
            The token, which nobody can show again.

        Raises:
            TokenNameError: no such name may be.
            AccessError: the name is taken or was, or the file cannot be written.
        """
        text = _made()
        with self._writing() as db:
            self._insert(db, text, name, role, by, expires_at, again)
        return text

    def revoke(self, name: str, by: str) -> Entry:
        """
        End a token's time now, for all processes.

        Returns:
            What is known of it, from now on.

        Raises:
            AccessError: nobody of this name has a token, or the file cannot be written.
        """
        with self._writing() as db:
            found = db.execute(
                "UPDATE token SET revoked_at = ?, revoked_by = ?"  # noqa: S608
                f" WHERE name = ? AND revoked_at IS NULL RETURNING {_COLUMNS}",
                (int(self._now()), _shown(by), _shown(name)),
            ).fetchone()
            if found is None:
                ended = self._ended(db, _shown(name))
                was = f"was revoked {ended}" if ended else "there is none"
                raise AccessError(f"token {_shown(name)}: {was}; `urlguard token list` shows all")
            return _entry(*found)

    def first_admin(self, file: Path) -> Path | None:
        """
        Make the first admin's token and leave it in `file`, unless there ever was an admin.

        The file is on the disk, whole and for its owner alone, before the token becomes valid.  If
        this ends in between, the file holds a token that is none, and the next call makes another.
        So no token is valid that nobody knows, and none is lost.

        Returns:
            `file`; None if there is or was an admin, and then nothing is touched.

        Raises:
            AccessError: it cannot be written.
        """
        with self._told(), contextlib.closing(self._connected(BUSY_S)) as db:
            if _has_admin(db):
                return None
        with self._writing() as db:
            if _has_admin(db):  # of another process, while this one waited
                return None
            text = _made()
            self._insert(db, text, FIRST_ADMIN, Role.ADMIN, "first start", None, False)
            _write_private(file, f"{text}\n")
        return file

    def _insert(
        self,
        db: Connection,
        text: str,
        name: str,
        role: Role,
        by: str,
        expires_at: int | None,
        again: bool,
    ) -> None:
        _must_be_name(name, role)
        now = int(self._now())
        if expires_at is not None and expires_at <= now:
            raise AccessError(f"token {name}: expires {_moment(expires_at)}; must be to come")
        taken = db.execute(
            "SELECT role FROM token WHERE name = ? AND revoked_at IS NULL", (name,)
        ).fetchone()
        if taken:
            raise AccessError(
                f"token {name}: there is one, of role {taken[0]}; revoke it first, or choose "
                "another name"
            )
        if not again and (ended := self._ended(db, name)):
            raise AccessError(
                f"token {name}: was revoked {ended}, and stands in the audit for who had it; "
                "choose another name, or --again for the same holder"
            )
        db.execute(
            "INSERT INTO token (name, role, sha256, created_at, created_by, expires_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (name, str(role), sha256(text.encode("ascii")).digest(), now, _shown(by), expires_at),
        )

    def _ended(self, db: Connection, name: str) -> str | None:
        """When the last token of this name was revoked, in words."""
        (when,) = db.execute("SELECT max(revoked_at) FROM token WHERE name = ?", (name,)).fetchone()
        return None if when is None else _moment(when)

    # The file

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What the system says against it becomes an error of ours."""
        try:
            yield
        except (sqlite_file.Error, OSError) as exc:
            raise AccessError(f"tokens {self.path}: {exc}") from exc

    def _connected(self, wait_s: float) -> Connection:
        """A connection to the file, which must be there, that waits so long for other writers."""
        db = sqlite_file.connect(self.path, wait_s, "mode=rw")
        try:
            db.execute("PRAGMA synchronous = FULL")  # what was confirmed survives a power cut
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self) -> None:
        with contextlib.closing(self._connected(BUSY_S)) as db:
            until = time.monotonic() + BUSY_S
            while True:
                try:
                    db.execute("PRAGMA journal_mode = WAL")
                    break
                except sqlite_file.OperationalError:
                    # Another process does the same just now, for which SQLite does not wait.
                    if time.monotonic() >= until:
                        raise
                    time.sleep(0.01)
            if _schema(db) == 0:
                with sqlite_file.transaction(db):
                    # Another process may have made the table while this one waited for the lock.
                    for statement in _SCHEMA if _schema(db) == 0 else ():
                        db.execute(statement)
            if _schema(db) != SCHEMA_VERSION:
                raise AccessError(
                    f"tokens {self.path}: schema {_schema(db)}; this version reads {SCHEMA_VERSION}"
                )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A write transaction on a connection of its own: all of it or nothing."""
        with (
            self._told(),
            contextlib.closing(self._connected(BUSY_S)) as db,
            sqlite_file.transaction(db),
        ):
            yield db

    def _look(self) -> None:
        """Read the tokens again if anybody has changed them; the last good ones stay otherwise."""
        try:
            if time.monotonic() >= self._file_due:
                self._follow_file()
            (version,) = self._reader.execute("PRAGMA data_version").fetchone()
            if version == self._version:
                return
            known, days = {}, {}
            for digest, name, role, number, expires_at, day in self._reader.execute(
                "SELECT sha256, name, role, number, expires_at, used_day FROM token"
                " WHERE revoked_at IS NULL"
            ):
                until = _NEVER if expires_at is None else expires_at
                known[digest] = (Holder(name, Role(role), number), until)
                days[number] = max(day or 0, self._unwritten.get(number, 0))
            self._known, self._days, self._version = known, days, version
        except (sqlite_file.Error, OSError, ValueError) as exc:
            if self._log_throttle.due():
                events.error("access.unreadable", error=str(exc), using="last_good")

    def _follow_file(self) -> None:
        """Open the file again if another lies in its place."""
        self._file_due = time.monotonic() + FILE_S
        found = self.path.stat()
        file = (found.st_dev, found.st_ino)
        if self._file is not None and file != self._file:
            reader = self._connected(GLANCE_S)
            self._reader.close()
            self._reader, self._version = reader, None
        self._file = file

    def _write_days(self) -> None:
        with self._lock:
            days = dict(self._unwritten)
        if not days:
            return
        # A day that could not be written waits for the next; the list then says a day too early.
        with contextlib.suppress(AccessError):
            with self._writing() as db:
                db.executemany(
                    "UPDATE token SET used_day = ?1 WHERE number = ?2"
                    " AND (used_day IS NULL OR used_day < ?1)",
                    [(day, number) for number, day in days.items()],
                )
            with self._lock:
                for number, day in days.items():
                    if self._unwritten.get(number) == day:
                        del self._unwritten[number]


def first_start(state_dir: Path) -> None:
    """
    Have the first admin's token made in `state_dir` if there never was one, and say where it lies.

    What goes wrong is an event: the resolver needs no token.
    """
    try:
        with contextlib.closing(Tokens(state_dir / DATABASE)) as tokens:
            made = tokens.first_admin(state_dir / ADMIN_FILE)
    except AccessError as exc:
        events.error("access.first_admin_failed", error=str(exc))
        return
    if made is not None:
        events.info("access.first_admin", file=str(made))


def _schema(db: Connection) -> int:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


def _has_admin(db: Connection) -> bool:
    """True if there is an admin's token or ever was one."""
    sql = "SELECT 1 FROM token WHERE role = ? LIMIT 1"
    return db.execute(sql, (str(Role.ADMIN),)).fetchone() is not None


def _entry(*row: Any) -> Entry:
    """The entry of a row's `_COLUMNS`."""
    entry = Entry._make(row)
    used_on = None if row[-1] is None else _DAY_0 + timedelta(days=row[-1])
    return entry._replace(role=Role(entry.role), used_on=used_on)


def _must_be_name(name: str, role: Role) -> None:
    if not _NAME.fullmatch(name):
        raise TokenNameError(
            f"token name {_shown(name)!r}: must be 1 to {MAX_NAME} ASCII letters, digits and "
            ". _ @ + -, the first a letter or digit"
        )
    if name.lower() == FIRST_ADMIN and role is not Role.ADMIN:
        raise TokenNameError(f"token name {name!r}: is for the role {Role.ADMIN}, not {role}")


def _shown(text: str) -> str:
    """Text for the audit, without what could drive a terminal or not be written."""
    text = text[:_MAX_BY]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _moment(when: int) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _make_private(path: Path) -> None:
    """Make the file if it is not there; it is for its owner alone, and so is what SQLite adds."""
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Whatever the umask; and whoever copied it back may have let others write, who could have
        # made themselves admin.
        if os.fstat(file).st_mode & 0o777 != 0o600:
            os.fchmod(file, 0o600)
    finally:
        os.close(file)


def _write_private(path: Path, text: str) -> None:
    """Put a file in place, whole and synced, for its owner alone."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)  # of a process that was killed
    file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(file, "w", encoding="ascii") as out:
            os.fchmod(file, 0o600)  # whatever the umask
            out.write(text)
            out.flush()
            os.fsync(file)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
