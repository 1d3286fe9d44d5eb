"""
Copies of the policy log, and putting one back.

A backup is one file that holds the log of one moment, copied while others write.  It gets its name
only once its chain has been verified, so every backup can be restored.

How a restore works.  Every row is replaced in one transaction of the log itself.  A kill or a full
disk in the middle leaves the old log or the new one, and a command that writes at the same time
waits and then writes to the new one.  An empty batch follows, whose serial is above every serial
that was ever given here: workers, zones and people never see one serial for two batches.  Only a
log that is unusable is replaced as a whole: nobody can be writing to it.

Knows the log; knows nothing of servers, snapshots and zones.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from urlguard.errors import PolicyError
from urlguard.policy.chain import Damage
from urlguard.policy.location import open_file
from urlguard.policy.log import PolicyLog
from urlguard.policy.store import LogLocation, UnusableLogError

# What is being done, how much of it is done, and how much there is; 0: nobody knows.
Step = Callable[[str, int, int], None]

# Batches that a damaged log may have had beyond what is still known of it.
MARGIN = 100_000


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


def backup(
    location: LogLocation, target: Path, *, force: bool = False, step: Step = _silent
) -> Saved:
    """
    Copy the log into the file `target`, mode 0600, synced, its chain verified.

    Args:
        location: where the log is; others may go on writing to it.
        target: appears only when it is whole.
        force: replace a file that is there.
        step: told of progress.

    Raises:
        PolicyError: `target` is there, the log cannot be read or is damaged (the message names the
            batch), or the copy cannot be written; nothing is left behind.
    """
    if not location.exists():
        raise PolicyError(f"policy log {location}: not there; there is nothing to back up")
    if target.is_dir():
        raise PolicyError(f"backup {target}: is a folder; must be a file")
    if location.owns(target):
        raise PolicyError(f"backup {target}: is the policy log itself; must be another file")
    if target.exists() and not force:
        raise _there(target)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # mode 0600
        os.close(handle)
        part = Path(name)
        try:
            saved = _copy(location, part, step)
            _publish(part, target, force=force)
        finally:
            part.unlink(missing_ok=True)
        return saved
    except OSError as exc:
        raise PolicyError(f"backup {target}: {exc}") from exc


def _copy(location: LogLocation, part: Path, step: Step) -> Saved:
    with contextlib.closing(location.open()) as store:
        store.copy_to(part, lambda done, total: step("copying", done, total))
    with contextlib.closing(open_file(part, read_only=True)) as copy:
        return _verified(copy, str(location), step)


def _verified(log: PolicyLog, name: str, step: Step) -> Saved:
    """What `log` holds; raises PolicyError with `name` if its chain does not hold."""
    try:
        head, batches = log.store.head(), log.store.count_batches()
        done = 0

        def count(_: int) -> None:
            nonlocal done
            done += 1
            if done % 16 == 0:
                step("verifying", done, batches)

        damage = log.verify(count)
    except PolicyError as exc:
        damage = Damage(1, f"it cannot be read: {exc}")
    if damage is not None:
        raise PolicyError(f"policy log {name}: damaged, batch {damage.serial}: {damage.what}")
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
    location: LogLocation,
    source: Path,
    *,
    above: int,
    actor: str,
    step: Step = _silent,
) -> Restored:
    """
    Put the backup `source` in the place of the log, of which a copy is kept under a dated name.

    No server may be running; the caller makes sure of that.

    Args:
        location: where the log is; there need not be one.
        source: a backup, or any other log in a file; only read.
        above: the highest serial that is known to have been given, from elsewhere than the log.
        actor: who does it, for the audit.
        step: told of progress.

    Raises:
        PolicyError: `source` is no log or damaged (the message names the batch), or the disk is
            full; the log is as it was.
    """
    if not source.is_file():
        raise PolicyError(f"backup {source}: not there; must be a file that `backup` made")
    if location.owns(source):
        raise PolicyError(f"backup {source}: is the policy log itself; must be another file")
    opened = open_file(source, read_only=True)
    with contextlib.closing(opened), opened.store.reading():
        saved = _verified(opened, str(source), step)
        try:
            return _in_place(location, source, saved, above, actor, step)
        except UnusableLogError:
            return _rebuilt(location, source, saved, above, actor, step)
        except OSError as exc:
            raise PolicyError(f"policy log {location}: {exc}; it is as it was") from exc


def _in_place(
    location: LogLocation, source: Path, saved: Saved, above: int, actor: str, step: Step
) -> Restored:
    log = PolicyLog(location.open())
    with contextlib.closing(log):
        old = log.store.head()
        kept = _keep(log, location.replaced_path(), step) if old else None
        reason = _reason(source, saved, f"batch {old.serial}" if old else "nothing")
        floor = max(above, old.serial if old else 0)
        try:
            with log.store.restoring(source, old, _restoring(step)):
                serial = _go_on(log, saved, floor, actor, reason)
        except BaseException:
            if kept is not None:
                kept.unlink(missing_ok=True)
            raise
    return Restored(saved.batches, serial, kept)


def _rebuilt(
    location: LogLocation, source: Path, saved: Saved, above: int, actor: str, step: Step
) -> Restored:
    """Restore over a log that is unusable: into a new one, which then takes its place."""
    reason = _reason(source, saved, "a log that could not be read")
    with location.rebuilding() as new:
        log = PolicyLog(new.store)
        floor = max(above, new.last_serial) + MARGIN
        with log.store.restoring(source, None, _restoring(step)):
            serial = _go_on(log, saved, floor, actor, reason)
    return Restored(saved.batches, serial, new.kept)


def _restoring(step: Step) -> Callable[[str], None]:
    return lambda table: step(f"restoring {table}", 0, 0)


def _go_on(log: PolicyLog, saved: Saved, floor: int, actor: str, reason: str) -> int:
    """Add the restore's own batch to the backup's rows, if they are those that were verified."""
    head = log.store.head()
    found = Saved(log.store.count_batches(), head.serial if head else 0, head.hash if head else "")
    if found != saved:
        raise PolicyError("backup: changed since it was verified; try again")
    return log.restored(floor, actor=actor, reason=reason)


def _keep(log: PolicyLog, kept: Path, step: Step) -> Path:
    """Copy the log that is about to be replaced."""
    handle = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.close(handle)
    try:
        log.store.copy_to(kept, lambda done, total: step("keeping the old log", done, total))
    except BaseException:
        kept.unlink(missing_ok=True)
        raise
    _sync(kept.parent)
    return kept


def _reason(source: Path, saved: Saved, replaced: str) -> str:
    name = "".join(c if c.isprintable() else "?" for c in source.name)[:200]
    return f"restored {name}, made at batch {saved.serial}, in place of {replaced}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
