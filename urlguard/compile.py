"""
From the policy log to a snapshot, in a process of its own at low priority.

The log is read in one transaction, so the snapshot is exactly the policy of its serial.  Run as
``python -m urlguard.compile FOLDER``, with the URL of the log on standard input, because a URL may
hold a password; it prints the new snapshot's folder.  A compile that is killed leaves a folder that
nobody will open, which the next one deletes.
"""

import contextlib
import fcntl
import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from urlguard.blocklist import snapshot
from urlguard.errors import PolicyError, UrlGuardError
from urlguard.policy.chain import GENESIS
from urlguard.policy.location import at
from urlguard.policy.log import PolicyLog
from urlguard.policy.store import LogLocation
from urlguard.processes import lifetime


def compile_here(location: LogLocation, folder: Path) -> Path:
    """
    Write a snapshot of the log's newest serial, in this process.

    Returns:
        The snapshot's folder; an existing one if the newest snapshot is of that serial already.

    Raises:
        PolicyError: the log cannot be read, or the snapshot cannot be written.
    """
    log = PolicyLog(location.open())
    try:
        with _alone(folder), log.store.reading():
            strange = foreign(log, folder)
            serial = log.serial
            own = [path for path in snapshot.newest(folder) if path.name not in strange]
            made = own and snapshot.serial_of(own[0]) == serial and _opens(own[0])
            if made:
                path = own[0]
            else:
                head = log.store.head()
                path = snapshot.write(folder, serial, log.rulings(), head.hash if head else GENESIS)
            # Not before there is one to take their place.
            for name in strange:
                shutil.rmtree(folder / name, ignore_errors=True)
            snapshot.prune(folder)
            return path
    except OSError as exc:
        raise PolicyError(f"snapshot in {folder}: {exc}") from exc
    finally:
        log.close()


def foreign(log: PolicyLog, folder: Path) -> set[str]:
    """
    The names of snapshots that are not of this log's history, as after the log was restored.

    They are never to be used: the next compile replaces them.
    """
    return {
        path.name
        for path in snapshot.newest(folder)
        if not log.has_batch(snapshot.serial_of(path), snapshot.history_of(path))
    }


def refuse_a_new_log(location: LogLocation, folder: Path) -> None:
    """
    Make sure that a log which once was there is still there.

    A new, empty one in its place would take back from every worker what people have decided.

    Raises:
        PolicyError: there is no log, but snapshots of one.
    """
    if not location.exists() and (left := snapshot.newest(folder)):
        raise PolicyError(
            f"policy log {location}: not there, but {left[0].name} was made of it; put it back, "
            f"restore a backup, or move {folder} away to begin a new one"
        )


def command(folder: Path) -> list[str]:
    """The command line of a compile in another process, which reads the log's URL first."""
    return [sys.executable, "-m", "urlguard.compile", str(folder)]


def compile_apart(location: LogLocation, folder: Path) -> Path:
    """As `compile_here`, in another process; waits for it."""
    done = subprocess.run(
        command(folder), input=location.url, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PolicyError(done.stderr.strip().splitlines()[-1] if done.stderr else "compile died")
    return Path(done.stdout.strip())


def _opens(path: Path) -> bool:
    try:
        snapshot.open_folder(path)
    except UrlGuardError:
        return False
    return True


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One compile at a time; the lock ends with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        snapshot.clear_unfinished(folder)
        yield


def main() -> int:
    """Entry point of the compile process."""
    lifetime.die_with_parent()
    url = sys.stdin.read()
    os.nice(10)
    gc.disable()  # millions of small objects, none in a cycle, and the process ends soon
    try:
        print(compile_here(at(url), Path(sys.argv[1])))
    except UrlGuardError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
