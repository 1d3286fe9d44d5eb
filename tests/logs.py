"""Policy logs for tests: opened by their file, and where a configuration's file is."""

from pathlib import Path

from urlguard.config import Config
from urlguard.policy.drivers.sqlite.location import SqliteLocation
from urlguard.policy.location import log_location, open_file

__all__ = ["SqliteLocation", "log_file", "open_file"]


def log_file(config: Config) -> Path:
    """The file of the configured log."""
    location = log_location(config)
    assert isinstance(location, SqliteLocation)
    return location.path
