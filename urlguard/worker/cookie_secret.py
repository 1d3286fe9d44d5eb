"""
The secret behind DNS cookies: one for all workers, kept over restarts, changed now and then.

A client's cookie stays valid while the secret that made it is the current one or the one before.
"""

import contextlib
import os
import time
from pathlib import Path
from typing import Final

OCTETS: Final = 16
CHANGE_S: Final = 30 * 86_400  # RFC 9018 section 5 has a month or so in mind


def cookie_secrets(state_dir: Path, now: float | None = None) -> tuple[bytes, bytes | None]:
    """
    The current secret and the one before, from ``cookie.secret`` in `state_dir`.

    Made if it is not there, changed if it is old.  If nothing can be written each worker has one of
    its own, and cookies that one made are worth nothing to another: clients get new ones.
    """
    path = state_dir / "cookie.secret"
    now = time.time() if now is None else now
    with contextlib.suppress(OSError):
        before = path.read_bytes()
        if len(before) in (OCTETS, 2 * OCTETS):
            if now - path.stat().st_mtime < CHANGE_S:
                return before[:OCTETS], before[OCTETS:] or None
            return _written(path, os.urandom(OCTETS) + before[:OCTETS], replace=True)
        path.unlink()
    return _written(path, os.urandom(OCTETS), replace=False)


def _written(path: Path, content: bytes, *, replace: bool) -> tuple[bytes, bytes | None]:
    """Put `content` there at once; if another worker was quicker, its secret is everybody's."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "wb") as out:
                out.write(content)
            if replace:
                partial.replace(path)
            else:
                with contextlib.suppress(FileExistsError):
                    path.hardlink_to(partial)
            content = path.read_bytes()
        finally:
            partial.unlink(missing_ok=True)
    return content[:OCTETS], content[OCTETS:] or None
