"""
Opening the policy log that the configuration names.

``[store] url`` says where it is; its scheme chooses the driver.  Everything that needs the log
opens it here, child processes too: they get the location's URL.  Drivers are loaded when a log is
opened, not before, so that a command without a log stays quick.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from urlguard.errors import PolicyError
from urlguard.policy.drivers.sqlite.location import SqliteLocation
from urlguard.policy.log import PolicyLog
from urlguard.policy.store import LogLocation

if TYPE_CHECKING:  # a child process that gets a URL has no use for it
    from urlguard.config import Config

# What makes a location of a URL, by scheme; a new driver is one line here.
DRIVERS: Final[dict[str, Callable[[str], LogLocation]]] = {"sqlite": SqliteLocation.of_url}


def at(url: str) -> LogLocation:
    """
    The location that a URL names.

    Raises:
        PolicyError: this build has no driver for its scheme.
    """
    scheme, mark, _ = url.partition("://")
    if not mark or scheme not in DRIVERS:
        known = ", ".join(f"{name}://" for name in sorted(DRIVERS))
        found = f"{scheme}://" if mark else "no scheme"
        raise PolicyError(f"[store] url: {found}; must begin with {known}")
    return DRIVERS[scheme](url)


def log_location(config: "Config") -> LogLocation:
    """Where the configured log is; raises PolicyError as `at` does."""
    return at(config.log_url)


def log_exists(config: "Config") -> bool:
    """True if the configured log was ever made."""
    return log_location(config).exists()


def open_log(config: "Config", *, read_only: bool = False) -> PolicyLog:
    """
    Open the configured log, and unless `read_only` make it if there is none.

    Raises:
        PolicyError: there is no driver for it, or as `LogLocation.open`.
    """
    return PolicyLog(log_location(config).open(read_only=read_only))


def open_url(url: str) -> PolicyLog:
    """Open the log that a URL names, as `open_log`; for processes that were given one."""
    return PolicyLog(at(url).open())


def open_file(path: Path, *, read_only: bool = False) -> PolicyLog:
    """Open a log by its file: a backup, or one that a restore replaced; as `open_log`."""
    return PolicyLog(SqliteLocation(path).open(read_only=read_only))


@contextlib.contextmanager
def reading_log(config: "Config") -> Iterator[PolicyLog]:
    """The configured log within one read transaction; raises PolicyError as `open_log` does."""
    with contextlib.closing(open_log(config, read_only=True)) as log, log.store.reading():
        yield log
