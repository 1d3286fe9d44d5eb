"""The files that SQLite keeps beside a log's own, by name.  Does not load SQLite."""

from pathlib import Path
from typing import Final

ENDINGS: Final = ("-wal", "-shm", "-journal")


def beside(path: Path, ending: str) -> Path:
    """The path of the file beside `path` whose name has `ending`."""
    return path.with_name(path.name + ending)
