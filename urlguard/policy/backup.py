"""
Copies of the policy log, and putting one back.

A backup is SQLite's online copy: of one moment, while others write, whole in one file.  It counts
only once its chain has been verified, so a backup that is there can be restored.

How a restore works.  Every row is replaced in one transaction of the log itself.  So whatever
happens in the middle, a kill or a full disk, leaves the old log or the new one, and a command that
writes at the same time waits and then writes to the new one.  Then an empty batch follows, whose
serial is above every one that was ever given here: workers, zones and people who saw the log that
is gone never see one number for two things.  A log that SQLite cannot use any more is the one case
where files are swapped: nobody can be writing to it.

Knows the log; knows nothing of servers, snapshots and zones.
"""

import contextlib
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from urlguard.errors import PolicyError
from urlguard.policy.chain import Damage
from urlguard.policy.log import PolicyLog

# What is being done, how much of it is done, and how much there is; 0: nobody knows.
Step = Callable[[str, int, int], None]

# Batches that a damaged log may have had beyond what is still known of it.
MARGIN = 100_000

_ENDINGS = ("-wal", "-shm", "-journal")


class Saved(NamedTuple):
    """What a backup holds."""

    batches: int
    serial: int
    hash: str


class Restored(NamedTuple):
    """What a restore did."""

    batches: int  # of the backup
    serial: int  # of the batch that says so
    kept: Path | None  # where the replaced log is; None if there was none


def _silent(words: str, done: int, total: int) -> None:
    """No progress shown."""


def backup(database: Path, target: Path, *, force: bool = False, step: Step = _silent) -> Saved:
    """
    Copy the log into the file `target`, mode 0600, synced, its chain verified.

    Args:
        database: the log; others may go on writing to it.
        target: appears only when it is whole.
        force: replace a file that is there.
        step: told of progress.

    Raises:
        PolicyError: `target` is there, the log cannot be read or is damaged (the message names the
            batch), or the copy cannot be written; nothing is left behind.
    """
    if not database.exists():
        raise PolicyError(f"policy log {database}: not there; there is nothing to back up")
    if target.is_dir():
        raise PolicyError(f"backup {target}: is a folder; must be a file")
    own = [database.with_name(database.name + ending) for ending in ("", *_ENDINGS)]
    if target.resolve() in [path.resolve() for path in own]:
        raise PolicyError(f"backup {target}: is the policy log itself; must be another file")
    if target.exists() and not force:
        raise _there(target)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # mode 0600
        os.close(handle)
        part = Path(name)
        try:
            saved = _copy(database, part, step)
            _publish(part, target, force=force)
        finally:
            for ending in ("", *_ENDINGS):
                Path(name + ending).unlink(missing_ok=True)
        return saved
    except (OSError, sqlite3.Error) as exc:
        raise PolicyError(f"backup {target}: {exc}") from exc


def _copy(database: Path, part: Path, step: Step) -> Saved:
    log = PolicyLog(database)
    with contextlib.closing(log):
        log.store.copy_to(part, lambda done, pages: step("copying", done, pages))
    copy = PolicyLog(part, read_only=True)
    with contextlib.closing(copy):
        return _verified(copy, database, step)


def _verified(log: PolicyLog, path: Path, step: Step) -> Saved:
    """What `log` holds; raises PolicyError with the name `path` if its chain does not hold."""
    try:
        head, batches = log.store.head(), log.store.count_batches()
        done = 0

        def count(_: int) -> None:
            nonlocal done
            done += 1
            if done % 16 == 0:
                step("verifying", done, batches)

        damage = log.verify(count)
    except sqlite3.Error as exc:
        damage = Damage(1, f"it cannot be read: {exc}")
    if damage is not None:
        raise PolicyError(f"policy log {path}: damaged, batch {damage.serial}: {damage.what}")
    return Saved(batches, head.serial if head else 0, head.hash if head else "")


def _publish(part: Path, target: Path, *, force: bool) -> None:
    """Give a finished copy its name."""
    if force:
        part.replace(target)
    else:
        try:
            target.hardlink_to(part)  # unlike a rename, never over a file that came meanwhile
        except FileExistsError:
            raise _there(target) from None
        except OSError:  # no such links on this file system
            if target.exists():
                raise _there(target) from None
            part.replace(target)
    _sync(target.parent)


def _there(target: Path) -> PolicyError:
    return PolicyError(f"backup {target}: is there already; --force replaces it")


def restore(
    database: Path,
    source: Path,
    *,
    above: int,
    actor: str,
    step: Step = _silent,
) -> Restored:
    """
    Put the backup `source` in the place of the log, which is kept beside it under a dated name.

    No server may be running; see there for how it is kept from starting.

    Args:
        database: the log; need not exist.
        source: a backup, or any other policy log; only read.
        above: the highest serial that is known to have been given, from elsewhere than the log.
        actor: who does it, for the audit.
        step: told of progress.

    Raises:
        PolicyError: `source` is no log or damaged (the message names the batch), or the disk is
            full; the log is as it was.
    """
    if not source.is_file():
        raise PolicyError(f"backup {source}: not there; must be a file that `backup` made")
    if database.exists() and source.samefile(database):
        raise PolicyError(f"backup {source}: is the policy log itself; must be another file")
    opened = PolicyLog(source, read_only=True)
    with contextlib.closing(opened), opened.store.reading():
        saved = _verified(opened, source, step)
        try:
            try:
                return _in_place(database, source, saved, above, actor, step)
            except (PolicyError, sqlite3.DatabaseError) as exc:
                if not _unusable(exc):
                    raise
                return _by_swap(database, source, saved, above, actor, step)
        except (OSError, sqlite3.Error) as exc:
            raise PolicyError(f"policy log {database}: {exc}; it is as it was") from exc


def _in_place(
    database: Path, source: Path, saved: Saved, above: int, actor: str, step: Step
) -> Restored:
    log = PolicyLog(database)
    with contextlib.closing(log):
        old = log.store.head()
        kept = _keep(log, database, step) if old else None
        reason = _reason(source, saved, f"batch {old.serial}" if old else "nothing")
        floor = max(above, old.serial if old else 0)
        try:
            with log.store.beside(source), log.store.writing():
                if log.store.head() != old:
                    raise PolicyError(f"policy log {database}: changed meanwhile; try again")
                _fill(log, saved, step)
                serial = log.restored(floor, actor=actor, reason=reason)
        except BaseException:
            if kept is not None:
                kept.unlink(missing_ok=True)
            raise
    return Restored(saved.batches, serial, kept)


def _fill(log: PolicyLog, saved: Saved, step: Step) -> None:
    log.store.take_over(lambda table: step(f"restoring {table}", 0, 0))
    head = log.store.head()
    found = Saved(log.store.count_batches(), head.serial if head else 0, head.hash if head else "")
    if found != saved:
        raise PolicyError("backup: changed since it was verified; try again")


def _keep(log: PolicyLog, database: Path, step: Step) -> Path:
    """Copy the log that is about to be replaced."""
    kept = _dated(database)
    handle = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.close(handle)
    try:
        log.store.copy_to(kept, lambda done, pages: step("keeping the old log", done, pages))
    except BaseException:
        kept.unlink(missing_ok=True)
        raise
    _sync(kept.parent)
    return kept


def _unusable(exc: Exception) -> bool:
    """True if the log is broken, or of a version that this one cannot read."""
    cause = exc.__cause__ or exc
    if isinstance(cause, PolicyError):
        return "; this version reads " in str(cause)
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _by_swap(
    database: Path, source: Path, saved: Saved, above: int, actor: str, step: Step
) -> Restored:
    """Restore over a log that cannot be used: into a new file, which then takes its place."""
    fresh = database.with_name(database.name + ".restoring")
    _remove(fresh)
    try:
        floor = max(above, _last_known(database)) + MARGIN
        log = PolicyLog(fresh)
        reason = _reason(source, saved, "a log that could not be read")
        with contextlib.closing(log), log.store.beside(source), log.store.writing():
            _fill(log, saved, step)
            serial = log.restored(floor, actor=actor, reason=reason)
        _sync(fresh)
        kept = _dated(database)
        # A write-ahead log that stayed would be taken for the new file's.
        for ending in _ENDINGS:
            left = database.with_name(database.name + ending)
            if left.exists():
                left.rename(kept.with_name(kept.name + ending))
        try:
            kept.hardlink_to(database)
        except OSError:  # no such links on this file system
            shutil.copyfile(database, kept)
        _sync(kept)
        _sync(kept.parent)
        fresh.replace(database)
        _sync(database.parent)
    finally:
        _remove(fresh)
    return Restored(saved.batches, serial, kept)


def _last_known(database: Path) -> int:
    """The last serial of a broken log, 0 if it cannot be said."""
    with (
        contextlib.suppress(sqlite3.Error, TypeError, ValueError),
        contextlib.closing(
            sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
        ) as db,
    ):
        return int(db.execute("SELECT max(serial) FROM batch").fetchone()[0])
    return 0


def _reason(source: Path, saved: Saved, replaced: str) -> str:
    name = "".join(c if c.isprintable() else "?" for c in source.name)[:200]
    return f"restored {name}, made at batch {saved.serial}, in place of {replaced}"


def _dated(database: Path) -> Path:
    """A free name beside the log, with the time in it."""
    stem = f"{database.name}.replaced-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    path, number = database.with_name(stem), 1
    while path.exists():
        number += 1
        path = database.with_name(f"{stem}-{number}")
    return path


def _remove(path: Path) -> None:
    for ending in ("", *_ENDINGS):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
