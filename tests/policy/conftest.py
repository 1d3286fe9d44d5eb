"""A policy log in a file of its own, and short ways to write to it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.logs import SqliteLocation, open_file
from urlguard.policy.log import PolicyLog
from urlguard.policy.model import Batch, Change
from urlguard.policy.store import LogLocation

Say = Callable[..., Batch | None]

# The location of a log in a folder, by driver; a new driver is one line here.
DRIVERS: dict[str, Callable[[Path], LogLocation]] = {
    "sqlite": lambda folder: SqliteLocation(folder / "policy.db"),
}


@pytest.fixture(params=sorted(DRIVERS))
def location(request: pytest.FixtureRequest, tmp_path: Path) -> LogLocation:
    """Where there is no log yet, for each driver."""
    return DRIVERS[request.param](tmp_path)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Where the log's file is."""
    return tmp_path / "policy.db"


@pytest.fixture
def log(database: Path) -> Iterator[PolicyLog]:
    """An empty log."""
    log = open_file(database)
    yield log
    log.close()


@pytest.fixture
def say(log: PolicyLog) -> Say:
    """``say(source, "block subtree evil.example", …)`` commits one batch; ``end`` withdraws."""

    def commit(source: str, *claims: str, category: str = "fraud") -> Batch | None:
        changes = []
        for claim in claims:
            action, rule = claim.split(" ", 1)
            changes.append(
                Change(rule, None) if action == "end" else Change(rule, action, category)
            )
        return log.commit(source, changes, actor="test", reason="")

    return commit
