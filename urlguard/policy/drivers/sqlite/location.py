"""
The place of a policy log that is a SQLite file: finding it, opening it, replacing it.

Does not load SQLite before a log is opened.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Final

from urlguard.errors import PolicyError
from urlguard.policy.drivers.sqlite.files import ENDINGS, beside
from urlguard.policy.store import LogStore, Rebuild

_SCHEME: Final = "sqlite:///"


class SqliteLocation:
    """A policy log's file; see `urlguard.policy.store.LogLocation`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"{_SCHEME}{path.absolute()}"

    @classmethod
    def of_url(cls, url: str) -> "SqliteLocation":
        """The location of ``sqlite:///PATH``; a relative path counts from the working folder."""
        path = url.removeprefix(_SCHEME)
        if not path or "\0" in path or Path(path).is_dir():
            raise PolicyError(f"[store] url: {path!r} is no file; must be sqlite:///PATH")
        return cls(Path(path))

    def __str__(self) -> str:
        return str(self.path)

    def exists(self) -> bool:
        """True if the file is there."""
        return self.path.exists()

    def identity(self) -> Hashable | None:
        """
        Device and inode; None if there is no file.

        Without a write-ahead log beside it nobody was writing, and a reader opens it as a file that
        does not change; so then its time counts too.
        """
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise PolicyError(f"policy log {self.path}: {exc.strerror}") from exc
        written = beside(self.path, "-wal").exists()
        return found.st_dev, found.st_ino, written, 0 if written else found.st_mtime_ns

    def open(self, *, read_only: bool = False) -> LogStore:
        """Open the file, and unless `read_only` make it, for its owner alone."""
        from urlguard.policy.drivers.sqlite.store import SqliteStore

        return SqliteStore(self.path, read_only=read_only)

    def folders(self) -> list[Path]:
        """The file's folder."""
        return [self.path.parent]

    def owns(self, path: Path) -> bool:
        """True if `path` is the file, or one that SQLite has beside it."""
        own = [self.path, *(beside(self.path, ending) for ending in ENDINGS)]
        return path.resolve() in [one.resolve() for one in own]

    def replaced_path(self) -> Path:
        """A free name beside the file, with the time in it."""
        stem = f"{self.path.name}.replaced-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        path, number = self.path.with_name(stem), 1
        while path.exists():
            number += 1
            path = self.path.with_name(f"{stem}-{number}")
        return path

    def replaced(self) -> list[Path]:
        """The files beside it that restores kept."""
        found = self.path.parent.glob(f"{self.path.name}.replaced-*")
        return [path for path in found if not path.name.endswith(ENDINGS)]

    @contextlib.contextmanager
    def rebuilding(self) -> Iterator[Rebuild]:
        """A new file that takes the old one's place: nobody can be writing to a broken one."""
        from urlguard.policy.drivers.sqlite.copies import last_serial

        fresh = SqliteLocation(self.path.with_name(f"{self.path.name}.restoring"))
        try:
            fresh.remove()
            kept = self.replaced_path()
            with contextlib.closing(fresh.open()) as store:
                yield Rebuild(store, last_serial(self.path), kept)
            sync(fresh.path)
            # A write-ahead log that stayed would be taken for the new file's.
            for ending in ENDINGS:
                left = beside(self.path, ending)
                if left.exists():
                    left.rename(beside(kept, ending))
            try:
                kept.hardlink_to(self.path)
            except OSError:  # no such links on this file system
                shutil.copyfile(self.path, kept)
            sync(kept)
            sync(kept.parent)
            fresh.path.replace(self.path)
            sync(self.path.parent)
        except OSError as exc:
            raise PolicyError(f"policy log {self.path}: {exc}; it is as it was") from exc
        finally:
            fresh.remove()

    def remove(self) -> None:
        """Delete the file, and those that SQLite has beside it."""
        for path in (self.path, *(beside(self.path, ending) for ending in ENDINGS)):
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file or folder on disk; raises OSError if that fails."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
