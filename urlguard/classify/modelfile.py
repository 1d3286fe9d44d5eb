"""
Reading a model's files: whole, once, bounded, and only if they are files.

A folder of models belongs to people, who copy, replace and damage what is in it while servers run.
So nothing is mapped, what is read is what is hashed, and neither a pipe nor an endless device can
hold a worker up.
"""

import os
import stat
from pathlib import Path
from typing import Final

from urlguard.errors import ModelError

MAX_CARD: Final = 4 << 20  # octets
MAX_PART: Final = 256 << 20  # of trees or tables


def contents(path: Path, limit: int) -> bytes:
    """
    What is in a file.

    Raises:
        ModelError: it cannot be read, is no regular file, or has more than `limit` octets.
    """
    try:
        # A pipe without a writer would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise ModelError(f"{path}: is no regular file")
            if about.st_size > limit:
                raise ModelError(f"{path}: {about.st_size:,} octets; may have {limit:,}")
            return file.read(limit)
    except OSError as exc:
        raise ModelError(f"{path}: {exc.strerror or exc}") from exc
