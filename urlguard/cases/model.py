"""
Rows, limits and errors that the stores of cases, triage and the API have in common.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from urlguard.errors import UrlGuardError

MAX_CONTEXT: Final = 2000  # characters; what is longer is cut off
MAX_RAW: Final = 8192
MAX_TEXT: Final = 2000  # of a note or a reason
MAX_SOURCE: Final = 100  # characters of a source's name
MAX_PAGE: Final = 1000  # items of a page, and cases of one lease or decision
MAX_ITEMS: Final = 100  # items that `Store.case` shows, the worst first
MAX_FAILURES: Final = 5  # then an item is dead
MAX_TAKES: Final = 50  # the same for one that nobody ever says a word about
MAX_LEASE_S: Final = 86_400  # of a leased case
# Nothing waits longer; what seems to was written by a clock that ran ahead, and waits no more.
MAX_WAIT_S: Final = 86_400
SCOPES: Final = ("domain", "url", "rule")  # the last for a rule that is of no case
# Reasons of verdicts that people, and not a model, stand behind.
BY_RULE: Final = frozenset({"blocklist", "allowlist", "pattern"})
AGAIN_S: Final = 86_400  # after which a source's report of the same item is news


class StoreError(UrlGuardError):
    """The store cannot be used or cannot write; nothing of what was asked is applied."""


class FullError(StoreError):
    """Too many candidates wait already; ``wait_s`` says when to try again."""

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class QuotaError(FullError):
    """A source is over its quota; ``wait_s`` says when to try again."""


class MissingError(StoreError):
    """There is no such case, decision or item."""


class ConflictError(StoreError):
    """The case is in a state in which, or in hands with which, this cannot be done."""


class State(StrEnum):
    """Of a case."""

    KNOWN = "known"
    OPEN = "open"
    LEASED = "leased"
    DECIDING = "deciding"
    PENDING_APPROVAL = "pending_approval"
    DECIDED = "decided"
    DISMISSED = "dismissed"


class Act(StrEnum):
    """What may be decided."""

    BLOCK = "block"
    ALLOW = "allow"
    REVIEW = "review"  # of rules without a case alone
    WATCH = "watch"
    DISMISS = "dismiss"


class Step(StrEnum):
    """How far a decision has come."""

    BEGUN = "begun"  # on its way into the log
    PENDING_APPROVAL = "pending_approval"  # waits for a second person
    DONE = "done"
    ABORTED = "aborted"  # the log refused it, or a second person did
    UNDOING = "undoing"  # on its way out of the log
    UNDONE = "undone"


class Candidate(NamedTuple):
    """A URL or name that somebody reports."""

    item: str  # canonical
    name: str  # its host: a name or an address
    owner: str  # whose it is: one case an owner
    raw: str  # as it came
    seen_at: int
    context: str
    queries: int = 0  # that the resolvers saw of it since they last reported it


class Added(NamedTuple):
    """What became of a batch."""

    accepted: int
    duplicate: int


class Quota(NamedTuple):
    """
    How much one source may bring: a token bucket.

    A batch is taken as long as anything is left, also if it is larger than what is left; the next
    one waits until the bucket has paid for it.
    """

    per_hour: int
    burst: int


@dataclass(frozen=True)
class Limits:
    """
    What the store holds at most.

    ``backlog`` items wait in all, and no source may fill more than ``share`` of that: there is room
    for a report by a person while a crawler is too fast.
    """

    backlog: int = 2_000_000
    share: float = 0.75
    wait_s: float = 10.0  # what callers are told when it is full


class Work(NamedTuple):
    """An item for triage."""

    id: int
    item: str
    name: str
    owner: str


class Judged(NamedTuple):
    """What came of an item."""

    id: int
    known: bool  # a rule covers it, so that nobody has to look
    score: float | None  # 0 to 1; None where no model runs
    action: str
    reason: str
    model: str
    pattern: str | None  # of its campaign, see `campaigns`


class Choice(NamedTuple):
    """What somebody decides."""

    act: str  # an `Act`
    category: str = ""
    reason: str = ""
    scope: str = "domain"  # one of `SCOPES`
    expires_at: int | None = None


class Decision(NamedTuple):
    """A decision about one case or several, as it is kept."""

    number: int
    step: str  # a `Step`
    who: str
    choice: Choice
    cases: tuple[int, ...]
    key: str | None
    begun_at: int
    done_at: int | None
    serial: int | None  # of the policy log's batch that made it
    undo_serial: int | None  # of the one that undid it
    approver: str | None
    remark: str  # why it is held, was refused or is undone
    source: str = ""  # under which the log's claims are made
    rules: tuple[tuple[int, str], ...] = ()  # case and key of each claim; case 0: of no case
    appeal: int = 0  # that it was made for; 0: none

    def evidence(self, case: int) -> str:
        """What the log's claim about a case of this decision carries as evidence."""
        if self.appeal:
            return f"appeal:{self.appeal}:{self.number}"
        return f"case:{case}:{self.number}" if case else f"decision:{self.number}"


class Case(NamedTuple):
    """A case as lists show it."""

    id: int
    item: str  # the worst of its items
    name: str
    owner: str
    state: str  # a `State`
    action: str | None  # the `Act` in force
    score: float | None
    priority: float  # see `priority.rank`
    queries: int
    items: int
    sources: tuple[str, ...]
    campaign: str | None  # shared with other cases
    created_at: int
    updated_at: int
    holder: str | None
    lease_expires_at: int | None
    recheck_at: int | None


class Item(NamedTuple):
    """A reported URL or name."""

    id: int
    item: str
    name: str
    state: str  # waiting, judged, dead
    case: int | None
    score: float | None
    action: str | None
    reason: str | None
    model: str | None
    queries: int
    seen_at: int
    added_at: int
    error: str | None
    reports: tuple["Report", ...] = ()


class Report(NamedTuple):
    """Who reported an item."""

    source: str
    at: int
    seen_at: int
    raw: str
    context: str


class Event(NamedTuple):
    """What happened to a case."""

    at: int
    who: str
    what: str  # note, opened, reopened, decided, pending_approval, aborted, undone, returned
    text: str


@dataclass(frozen=True)
class File:
    """All that is known of a case."""

    case: Case
    items: list[Item] = field(default_factory=list)  # the worst `MAX_ITEMS`
    decisions: list[Decision] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


class Page(NamedTuple):
    """A part of a list of cases, and where the next one begins; None at the end."""

    items: list[Case]
    next: str | None


class Source(NamedTuple):
    """
    What became of a source's candidates.

    ``right`` and ``wrong`` count decided cases that it reported; ``reputation`` is what follows.
    """

    name: str
    first_at: int
    last_at: int
    accepted: int
    duplicate: int
    invalid: int
    waiting: int
    known: int
    opened: int
    dead: int
    right: int
    wrong: int
    reputation: float


class Tidied(NamedTuple):
    """What time has done."""

    lapsed: int  # leases
    due: int  # cases to be looked at again
    freed: int = 0  # items that waited for a day which only a wrong clock knew
