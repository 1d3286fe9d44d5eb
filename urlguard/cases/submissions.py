"""
Submissions: one URL that somebody sends with a word and evidence, and what became of it.

A submission points to an item of the store, which is judged and decided like any other; beside it
stands what its sender said, and what he was told.  Knows no SQL, no HTTP, and has no clock.
"""

import hashlib
import secrets
from collections.abc import Hashable
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:  # whose `Store` is this one's too
    from urlguard.cases.model import Candidate, Quota

PUBLIC: Final = "(public)"  # the source of all that the public sends; no token can have this name
MAX_COMMENT: Final = 2000  # characters
MAX_EVIDENCE: Final = 20  # pieces
MAX_PIECE: Final = 4000  # characters of one
MAX_KIND: Final = 64
DAY_S: Final = 86_400


class Evidence(NamedTuple):
    """A piece of evidence: what sort it is, and the text itself."""

    kind: str
    text: str


class Submission(NamedTuple):
    """What somebody sends beside the URL."""

    id: str  # nobody can guess it
    source: str  # the name of a token, or `PUBLIC`
    public: bool
    network: str | None  # of a public one, see `Pseudonyms`
    comment: str
    evidence: tuple[Evidence, ...]
    tlp: str  # with whom it may be shared, as in the Traffic Light Protocol
    action: str | None = None  # its sender is told at once: a rule stands


class Standing(NamedTuple):
    """
    A submission, and how it stands.

    ``state`` is ``known`` if a rule stood when it came, ``queued`` until it is judged, ``open``
    until people have decided, ``decided`` then, and ``failed`` if it cannot be judged.
    """

    id: str
    item: str
    source: str
    public: bool
    network: str | None
    comment: str
    evidence: tuple[Evidence, ...]
    tlp: str
    submitted_at: int
    state: str
    action: str | None
    decided_at: int | None
    case: int | None
    by_people: bool  # the decision is of people; a stranger's is later than the submission


class Pseudonyms:
    """
    Names for the networks of public senders, the same for a day, which nobody can lead back.

    The key is in memory alone and new each day; so is the name after a restart.
    """

    def __init__(self) -> None:
        self._day = -1
        self._key = b""

    def of(self, network: Hashable, now: float) -> str:
        """The day's name of a network."""
        day = int(now // DAY_S)
        if day != self._day:
            self._day, self._key = day, secrets.token_bytes(32)
        text = repr(network).encode()
        return hashlib.blake2b(text, key=self._key, digest_size=8).hexdigest()


def new_id() -> str:
    """An ID that nobody can guess, since whoever has it may ask what became of the submission."""
    return secrets.token_urlsafe(18)


class SubmissionStore(Protocol):
    """The part of `urlguard.cases.store.Store` that keeps submissions; all else is said there."""

    def submit(
        self,
        submission: Submission,
        candidate: "Candidate",
        now: int,
        quota: "Quota | None" = None,
    ) -> None:
        """
        Keep a submission, and its URL as an urgent candidate, in one transaction.

        Raises:
            FullError: too many candidates wait.
            QuotaError: the source is over its quota.
        """

    def submission(self, id: str) -> Standing | None:  # noqa: A002 - as everywhere
        """How a submission stands."""

    def submissions(
        self, source: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[tuple[int, Standing]]:
        """Submissions with their numbers, the newest first; of one source, or all."""
