"""
What the benchmarks feed to servers: the list of names to block, and the names that are asked for.

All of it is the same on each run: whatever is random comes from a generator with a fixed seed.
"""

import csv
import gzip
import itertools
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from urlguard import names, wellknown
from urlguard.errors import InputError

SHARED = Path(__file__).parents[2] / "shared" / "data"
MILLION = SHARED / "blocklist_1m.csv.gz"
REST = SHARED / "blocklist_rest.csv.gz"

_SEED = 20_260_101
_NAME_COLUMNS = ("domain", "name", "host")


class Blocklist(NamedTuple):
    """Canonical names in the file's order, each with its category."""

    title: str
    rows: dict[str, str]


def default_path() -> Path:
    """The collected list of a million names if it lies beside the repository, else the starter."""
    return MILLION if MILLION.exists() else wellknown.starter_path()


def read(path: Path, count: int | None = None) -> Blocklist:
    """
    The first `count` names of a CSV list, plain or gzip, with the name in its first column.

    What is no host name is left out.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    rows: dict[str, str] = {}
    with opened(path, "rt", encoding="utf-8", newline="") as file:
        for row in itertools.islice(csv.reader(file), count and count + 1):
            if not row or row[0] in _NAME_COLUMNS or row[0].startswith("#"):
                continue
            try:
                rows[names.canonical(row[0])] = row[1] if len(row) > 1 else "fraud"
            except InputError:
                continue
    if not rows:
        raise SystemExit(f"{path.name}: no names in its first column")
    return Blocklist(path.name, rows)


def write_csv(rows: Iterable[tuple[str, str]], path: Path) -> None:
    """A list as UrlGuard's feeds read it."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["domain", "category"])
        writer.writerows(rows)


def write_queries(asked: Iterable[str], path: Path) -> Path:
    """Names as dnsperf reads them."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{name} A\n" for name in asked)
    return path


def covered(name: str, rules: dict[str, str]) -> bool:
    """True if the name or one of its parents is listed."""
    return name in rules or any(parent in rules for parent in names.parents(name))


class Names:
    """
    Names to ask for, none of them twice unless said so.

    Args:
        rules: the list.
        usable: the longest name that every server could take into its list.
    """

    def __init__(self, rules: dict[str, str], usable: int) -> None:
        # A feed may not block protected and popular names; peers know nothing of that.
        self._listed = [
            name
            for name in rules
            if len(name) <= usable and wellknown.quarantine_reason("subtree", name) is None
        ]
        self._random = random.Random(_SEED)
        self._random.shuffle(self._listed)
        popular = sorted(wellknown.popular())
        self._popular = [name for name in popular if not covered(name, rules)]
        self._random.shuffle(self._popular)
        self._tops = [top for top in ("com", "net", "org", "info") if top not in rules]
        self._blocked = self._blocked_names(usable)
        self._fresh = self._fresh_names()

    def _blocked_names(self, usable: int) -> Iterator[str]:
        yield from self._listed
        for pass_ in itertools.count(2):  # the list is used up: names below its names
            for name in self._listed:
                if len(name) + 8 <= usable:
                    yield f"w{pass_}.{name}"

    def _fresh_names(self) -> Iterator[str]:
        letters = "abcdefghijklmnopqrstuvwxyz0123456789"
        for number in itertools.count():
            word = "".join(self._random.choices(letters, k=7)) + f"{number:x}"
            # One half below popular names, as most new names are; one half new domains.
            yield f"{word}.{self._random.choice(self._popular if number % 2 else self._tops)}"

    def blocked(self, count: int) -> Iterator[str]:
        """Names that must be blocked: those of the list, then names below them."""
        return itertools.islice(self._blocked, count)

    def repeated(self, count: int) -> list[str]:
        """Names of the list; the same for each call."""
        return self._listed[-count:]

    def fresh(self, count: int) -> Iterator[str]:
        """Names that no list has and nobody asked for before."""
        return itertools.islice(self._fresh, count)

    def common(self, count: int) -> list[str]:
        """Popular names that are not blocked; the same for each call."""
        return self._popular[:count]

    def mixed(self, count: int, common: int) -> Iterator[str]:
        """Every twentieth a blocked name never asked before, the others `common` popular ones."""
        allowed = itertools.cycle(self.common(common))
        for number in range(count):
            yield next(self._blocked) if number % 20 == 10 else next(allowed)
