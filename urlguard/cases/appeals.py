"""
Appeals: what somebody says who is blocked, the proof that a domain is his, and what became of it.

Plain data and the rules about it; knows no store, no HTTP, no policy.  An appeal needs no account.
It is known outside by an unguessable id, which is all that it takes to see its state, and inside by
a number.

    received   waits for an approver; a proof moves it up in their queue and does nothing else,
               since a fraudster is in control of his own domain too
    upheld     released; until that is undone, and the appeal waits again
    rejected
"""

import secrets
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

MAX_TEXT: Final = 4000  # characters of what somebody says
MAX_CONTACT: Final = 200
MAX_ANSWER: Final = 2000
MAX_OPEN: Final = 10_000  # that wait, of all owners
MAX_OPEN_EACH: Final = 3  # of one owner
MAX_EACH: Final = 10  # of one owner within `TERM_S`, whatever became of them
TERM_S: Final = 90 * 86_400
FULL_S: Final = 3600.0  # after which to try again if too many wait

# Where a proof is looked for, as in `urlguard.fetch.proof`.
TXT_LABEL: Final = "_urlguard"
FILE_PATH: Final = "/.well-known/urlguard-proof.txt"
_PROOF: Final = "urlguard-proof="
_MAX_LINES: Final = 100  # of a file that are looked at


class AppealState(StrEnum):
    """Of an appeal."""

    RECEIVED = "received"
    UPHELD = "upheld"
    REJECTED = "rejected"


class Plea(NamedTuple):
    """What somebody brings."""

    item: str  # canonical, as a candidate's
    name: str  # its host: a name or an address
    owner: str  # whose it is, see `incidents.owner`
    day: int  # of the incident, in days since 1970
    contact: str
    text: str


class AppealEvent(NamedTuple):
    """What happened to an appeal."""

    at: int
    who: str  # empty: whoever appeals, or the server
    what: str  # received, proof, upheld, rejected, reopened
    text: str


class Appeal(NamedTuple):
    """An appeal as it is kept."""

    number: int
    ident: str
    plea: Plea
    token: str  # that a proof shows
    state: str  # an `AppealState`
    added_at: int
    proof: str | None  # txt, file
    proof_at: int | None
    decided_at: int | None
    who: str | None  # who decided it
    reason: str  # for the record
    answer: str  # for whoever appeals
    serial: int | None  # of the batch that released it, if it took one
    events: tuple[AppealEvent, ...] = ()

    @property
    def public_state(self) -> str:
        """Its state for whoever appeals: a proof that was seen is one."""
        if self.state == AppealState.RECEIVED and self.proof is not None:
            return "proof_seen"
        return self.state

    @property
    def value(self) -> str:
        """What a proof has to say, in a TXT record or on a line of the file."""
        return _PROOF + self.token


def ident() -> str:
    """An id, or a proof's token, that nobody guesses: 128 bits."""
    return secrets.token_urlsafe(16)


def is_address(owner: str) -> bool:
    """Whether an owner is an address: no name ends in a number (RFC 3696 section 2)."""
    return ":" in owner or owner.rpartition(".")[2].isdigit()


def domain(plea: Plea) -> str | None:
    """The name at which a proof is looked for; None of an address, where it would prove little."""
    return None if is_address(plea.owner) else plea.owner


def in_records(appeal: Appeal, records: Iterable[str]) -> bool:
    """Whether one of the TXT records is the proof."""
    return any(record.strip() == appeal.value for record in records)


def in_file(appeal: Appeal, body: bytes) -> bool:
    """Whether one of the first lines of a file is the proof."""
    lines = body.split(b"\n", _MAX_LINES)[:_MAX_LINES]
    wanted = appeal.value.encode("ascii")
    return any(line.strip() == wanted for line in lines)


class AppealStore(Protocol):
    """The part of `urlguard.cases.store.Store` that keeps appeals; all else is said there."""

    def add_appeal(self, plea: Plea, now: int) -> Appeal:
        """
        Keep an appeal; the case of its owner, if there is one, is told.

        Raises:
            FullError: too many wait, of all owners.
            ConflictError: too many of this owner wait, or came within `TERM_S`.
        """

    def appeal(self, ident: str) -> Appeal | None:
        """An appeal with its events."""

    def appeal_number(self, number: int) -> Appeal | None:
        """An appeal by its number in the record."""

    def appeals(
        self, state: str | None = None, after: tuple[int, int] = (0, 0), limit: int = 100
    ) -> list[Appeal]:
        """
        Appeals without their events, the proven ones first, then the oldest.

        Args:
            state: only in this `AppealState`.
            after: `place` of the last one of the page before.
            limit: at most so many.
        """

    def appeals_of(self, owner: str, limit: int = 100) -> list[Appeal]:
        """The appeals of an owner without their events, the newest first."""

    def prove(self, number: int, how: str, now: int) -> Appeal:
        """
        A proof was seen, the first one counts.

        Raises:
            MissingError: there is no such appeal.
        """

    def close_appeal(
        self,
        number: int,
        state: str,
        who: str,
        reason: str,
        answer: str,
        serial: int | None,
        now: int,
    ) -> Appeal:
        """
        An appeal is decided, once and for all; the case of its owner is told.

        Args:
            number: of an appeal that waits.
            state: upheld or rejected.
            who: who decides it.
            reason: for the record.
            answer: for whoever appeals.
            serial: of the policy log's batch that released it, if it took one.
            now: the time.

        Raises:
            MissingError: there is no such appeal.
            ConflictError: it is decided; or it is to be rejected and what was released for it
                stands, or is on its way.
        """

    def releases(self, number: int) -> list[int]:
        """The decisions that were made for an appeal, whatever became of them, in order."""

    def case_of(self, owner: str) -> tuple[int, str, str | None] | None:
        """Number, state and decision of the case of an owner."""


def place(appeal: Appeal) -> tuple[int, int]:
    """Where an appeal stands in the queue."""
    return (int(appeal.proof is None), appeal.number)
