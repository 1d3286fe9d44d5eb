"""Every driver of the store, and short ways to fill one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from urlguard.cases.drivers.sqlite import open_store
from urlguard.cases.model import Candidate, Judged, Limits
from urlguard.cases.store import Store

NOW = 1_790_000_000

# What opens a store in a folder; a new driver is one line here, and the tests are the same.
DRIVERS: dict[str, Callable[..., Store]] = {
    "sqlite": lambda folder, limits=None: open_store(folder / "cases.db", limits),
}


def candidate(name: str, path: str = "", *, queries: int = 0, context: str = "") -> Candidate:
    """A candidate as intake makes it: a name, or with `path` a URL of it."""
    owner = ".".join(name.split(".")[-2:])
    item = f"http://{name}{path}" if path else name
    return Candidate(item, name, owner, item.upper(), NOW, context, queries)


class StoreHarness:
    """A store, and what tests do with it again and again."""

    def __init__(self, open_store: Callable[..., Store], folder: Path) -> None:
        self.open = lambda limits=None: open_store(folder, limits)
        self.folder = folder
        self.store = self.open()

    def bring(self, *names: str, source: str = "crawler", now: int = NOW, **keys) -> None:
        """Add names and have them judged: harmless by name, so that all are open."""
        self.store.add(source, [candidate(name, **keys) for name in names], now)
        self.judge(now=now)

    def judge(self, now: int = NOW, score: float | None = 0.5, known: bool = False) -> int:
        """Judge all that waits."""
        count = 0
        while works := self.store.take(100, 60, now):
            results = [
                Judged(w.id, known, score, "block" if known else "none", "none", "name-1", None)
                for w in works
            ]
            count += self.store.judged(results, now)
        return count

    def only(self):
        """The one case there is."""
        (case,) = self.store.cases().items
        return case


@pytest.fixture(params=sorted(DRIVERS))
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreHarness]:
    """An empty store of each driver."""
    made = StoreHarness(DRIVERS[request.param], tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def limited(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of the first driver with room for ten candidates."""
    store = DRIVERS["sqlite"](tmp_path, Limits(backlog=10, share=0.5, wait_s=7.0))
    yield store
    store.close()
