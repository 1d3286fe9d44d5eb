"""
What the HTTP routes ask for: the protocols that the control process fulfils, and metrics as data.

Routes know HTTP and these types; they know neither workers nor judges' processes, nor who commits.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from urlguard.access.attempts import Attempts
from urlguard.access.tokens import Holder
from urlguard.api.limits import Limits
from urlguard.api.log_reader import LogReader
from urlguard.api.public import Public
from urlguard.cases.appeal_service import Proving
from urlguard.cases.casework import Casework
from urlguard.cases.ndjson import Intake
from urlguard.config import Cases
from urlguard.policy.model import Change
from urlguard.rules import Rule


class Family(NamedTuple):
    """
    A metric with its values.

    ``kind`` is counter, gauge or histogram.  A sample is its label values, as many as ``labels``,
    and a number; for a histogram, ``(cumulative counts, total)``, a count for each of ``bounds``
    and one more for all.
    """

    name: str
    kind: str
    words: str
    labels: tuple[str, ...]
    samples: list[tuple[tuple[str, ...], Any]]
    bounds: tuple[float, ...] = ()


class Source(Protocol):
    """Who knows how the server is."""

    async def families(self) -> list[Family]:
        """All metrics now, within about a second."""
        ...

    async def health(self) -> dict[str, Any]:
        """Whether anything answers: ``ok`` (bool), and what a person wants to read beside it."""
        ...

    async def readiness(self) -> dict[str, Any]:
        """Whether all is as it should be: ``ready`` (bool), ``why`` not, and so on."""
        ...


class Judging(Protocol):
    """
    Who gives verdicts, away from the event loop.

    Any `UrlGuardError` means that it cannot just now; one with ``retry_after_s`` says when it may.
    """

    async def check(
        self, items: Sequence[str], *, why: bool = False, score: bool = False
    ) -> list[bytes]:
        """The object of ``urlguard check --json`` for each item, in order, as ASCII."""
        ...

    async def messages(self, texts: Sequence[str]) -> list[bytes]:
        """
        For each text the object of what it holds, as ASCII without its first brace.
        """
        ...

    async def intake(self, data: bytes) -> Intake:
        """Candidates out of whole lines of JSON."""
        ...


class Checking(Protocol):
    """Who knows tokens."""

    def check(self, token: str) -> Holder | None:
        """
        Whose token it is; in a thread.

        Raises:
            AccessError: that cannot be said now.
        """
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...


class Decided(NamedTuple):
    """What came of a change of the policy."""

    serial: int  # of the log, with the change in it
    changed: bool  # False if all of it stood already
    in_force: int  # workers that have confirmed it
    workers: int


class Deciding(Protocol):
    """Who commits to the policy log, and waits until the workers have it."""

    async def __call__(
        self, source: str, changes: Sequence[Change], *, actor: str, reason: str
    ) -> Decided:
        """
        Commit a batch.

        Raises:
            PolicyError: nothing was changed; the message says why.
        """
        ...


class Previewing(Protocol):
    """
    Who says what would change, and how the lists are.

    What each gives is described by the routes.  Any may raise PolicyError: not just now.
    """

    async def of_feed(self, name: str) -> dict[str, Any]:
        """
        If a list were enforced.

        Raises:
            InputError: there is none of this name.
        """
        ...

    async def of_rules(self, rules: Sequence[Rule], source: str) -> dict[str, Any]:
        """If `source` blocked these."""
        ...

    async def feeds(self) -> list[dict[str, Any]]:
        """All lists, as ``urlguard feed list --json`` shows them."""
        ...


@dataclass(frozen=True, kw_only=True)
class Services:
    """
    All that handlers may use.

    What is None is not there, and routes that need it say so with status 503.
    """

    source: Source
    judging: Judging | None = None
    deciding: Deciding | None = None
    tokens: Checking | None = None
    attempts: Attempts | None = None
    log: LogReader | None = None
    casework: Casework | None = None
    previewing: Previewing | None = None
    cases: Cases = field(default_factory=Cases)
    public: Public | None = None  # None: nothing is taken without a token
    state_dir: Path | None = None  # for what the API itself must remember
    proving: Proving | None = None
    limits: Limits = field(default_factory=lambda: Limits(time.monotonic))
