"""
The policy in force on disk, opened without a running server and without making a file.
"""

from collections.abc import Callable
from pathlib import Path

from urlguard import events
from urlguard.blocklist import snapshot
from urlguard.config import Config
from urlguard.engine import Engine
from urlguard.errors import SnapshotError
from urlguard.policy.location import log_exists, reading_log
from urlguard.verdict import decode


def open_engine(config: Config) -> Engine:
    """
    The policy in force on disk: the newest good snapshot and what the log has since.

    Creates no files.

    Raises:
        PolicyError: the log is damaged.
    """
    folder = config.state_dir / "snapshots"
    if not log_exists(config):
        return _newest(folder, lambda *_: True)
    with reading_log(config) as log:
        engine = _newest(folder, log.has_batch)
        changes = list(log.store.changes(engine.serial))
        engine.overlay.apply(((k, decode(after, k)) for k, after, _ in changes), log.serial)
    return engine


def _newest(folder: Path, usable: Callable[[int, str], bool]) -> Engine:
    for path in snapshot.newest(folder):
        try:
            if usable(snapshot.serial_of(path), snapshot.history_of(path)):
                return Engine(snapshot.open_folder(path))
        except SnapshotError as exc:
            events.error("snapshot.refused", error=str(exc), using="the one before")
    return Engine(snapshot.nothing())
