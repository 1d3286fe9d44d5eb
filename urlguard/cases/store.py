"""
What a store of cases holds and does: the words that drivers, triage and the API have in common.

Knows no SQL and has no clock: times are seconds since 1970 (UTC) that the caller gives.  What every
driver must do is said here, at `Store`, and tried by ``tests/cases`` on each of them.

How it works.  A *candidate* is a URL or name that somebody reports.  `Store.add` keeps it as an
item, once for all sources, and puts it in a queue; triage takes it from there, has it judged, and
hands in what came of it.  Then the item belongs to the *case* of its owner, which people decide:

    item    waiting → judged; dead after `MAX_FAILURES` failures, until somebody has it tried again
    case    known    a rule covers all that was reported of it
            open     to be looked at
            leased   somebody has it, until the lease lapses
            deciding a decision is on its way into the policy log
            pending_approval  the decision waits for a second person
            decided  block, allow or watch stands; watch and rechecks end by themselves
            dismissed

A decision is made in two steps around the policy log's commit: `Store.begin` before, `Store.finish`
or `Store.abort` after.  Whoever finds decisions in `Store.unfinished` at a start looks into the log
for claims with `Decision.evidence`, and so learns which of the two is due.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from urlguard.cases.addresses import AddressStore
from urlguard.cases.appeals import AppealStore
from urlguard.cases.model import (
    MAX_PAGE,
    Added,
    Candidate,
    Case,
    Choice,
    Decision,
    File,
    Item,
    Judged,
    Page,
    Quota,
    Source,
    Tidied,
    Work,
)
from urlguard.cases.submissions import SubmissionStore
from urlguard.cases.webhooks import WebhookStore


class Store(AddressStore, AppealStore, SubmissionStore, WebhookStore, Protocol):
    """
    Cases and candidates, safe to use from several threads and processes.

    What a method has returned from is on disk.  All of them raise `StoreError` if the store cannot
    be used; nothing is applied then.
    """

    def close(self) -> None:
        """Let go of the files."""

    # Candidates

    def add(
        self,
        source: str,
        rows: Sequence[Candidate],
        now: int,
        *,
        invalid: int = 0,
        urgent: bool = False,
        quota: Quota | None = None,
    ) -> Added:
        """
        Keep candidates, all in one transaction.

        An item that is there already is a duplicate.  Where it says something new (another source,
        the same one after `AGAIN_S`, or queries), it is recorded and the item judged again.

        Args:
            source: who reports them.
            rows: the candidates.
            now: the time.
            invalid: so many more were none; only counted.
            urgent: judged before all that are not.
            quota: how much this source may bring.

        Raises:
            FullError: too many wait, of this source or in all.
            QuotaError: the source is over its quota.
            StoreError: it could not be written; nothing of the batch was taken.
        """

    def backlog(self) -> int:
        """How many items wait to be judged."""

    def source(self, name: str) -> Source | None:
        """What became of a source's candidates; None if it never brought any."""

    def sources(self) -> list[Source]:
        """All sources, by name."""

    def item(self, item: str) -> Item | None:
        """What became of one canonical item."""

    # Triage

    def take(self, count: int, lease_s: float, now: float) -> list[Work]:
        """
        Items to judge, the urgent ones first, then in the order in which they came.

        Each may be handed out again once the lease has lapsed without `judged` or `failed`: at
        least once, not exactly once.
        """

    def judged(self, results: Sequence[Judged], now: int) -> int:
        """
        Hand in what came of taken items: they join their owners' cases.

        Of two results for one item the first counts.  A result older than a decision about the case
        is not used: the item waits again.

        Returns:
            how many were used.
        """

    def failed(self, ids: Sequence[int], error: str, now: float) -> int:
        """
        These items could not be judged: try later, and not at all after `MAX_FAILURES`.

        Returns:
            how many are dead.
        """

    def dead(self, after: int = 0, limit: int = 100) -> list[Item]:
        """Items that could not be judged, by number."""

    def retry(self, ids: Sequence[int], now: int) -> int:
        """Have dead items tried again; returns how many."""

    def tidy(self, now: int) -> Tidied:
        """
        Open cases whose lease has lapsed, and those that are due for another look.

        Leases and waiting times beyond what is possible end too: the clock was ahead once.
        """

    # Cases

    def cases(
        self,
        *,
        state: str | None = None,
        source: str | None = None,
        campaign: str | None = None,
        query: str | None = None,
        order: str = "priority",
        after: str | None = None,
        limit: int = 50,
    ) -> Page:
        """
        A page of cases.

        Args:
            state: only in this `State`.
            source: only what this source reported.
            campaign: only of this one; of an address, none if too many have it.
            query: only owners that begin with this text, or the case of this very item.
            order: "priority", the highest first, or "newest".
            after: ``next`` of the page before.
            limit: at most so many, up to `MAX_PAGE`.

        Raises:
            InputError: `after` is no cursor of this order, or `order` is none.
        """

    def case(self, number: int) -> File | None:
        """All that is known of a case."""

    def note(self, case: int, who: str, text: str, now: int) -> None:
        """Write down what somebody has to say of a case; raises `MissingError`."""

    def lease(self, who: str, count: int, lease_s: float, now: int) -> list[Case]:
        """
        Open cases for one person, the highest priority first.

        Nobody else is handed them, and nobody else may decide them, until the lease lapses.
        """

    def give_back(self, who: str, cases: Sequence[int], now: int) -> int:
        """Return leased cases; returns how many of them were `who`'s."""

    # Decisions

    def begin(
        self,
        cases: Sequence[int],
        who: str,
        choice: Choice,
        now: int,
        key: str | None = None,
        *,
        source: str = "",
        rules: Mapping[int, Sequence[str]] | None = None,
        appeal: int = 0,
    ) -> Decision:
        """
        Decide cases, all of them or none; they are *deciding* until `finish`, `abort` or `hold`.

        Args:
            cases: open ones, or such that `who` has leased; none for a rule that is of no case.
            who: who decides.
            choice: what.
            now: the time.
            key: of the request; the same one of the same person gives the decision there is.
            source: under which the log's claims will be made.
            rules: the keys of these claims by case; under 0 those that are of no case.
            appeal: the number of the one that this is for; then cases may be decided already.

        Raises:
            InputError: it is about nothing, or too much; or there is no such act or scope.
            MissingError: there is no such case.
            ConflictError: a case is somebody else's or decided already, or the key was used for
                something else.
        """

    def finish(self, number: int, serial: int | None, now: int) -> Decision:
        """
        The log has it in batch `serial`, or needs none: the decision, or its undoing, stands.

        A second time changes nothing.

        Raises:
            MissingError: there is no such decision.
            ConflictError: it waits for approval, was aborted or undone.
        """

    def abort(self, number: int, error: str, now: int) -> Decision:
        """The log did not take it: cases, or the decision that was to be undone, are as before."""

    def hold(self, number: int, reason: str, now: int) -> Decision:
        """A decision that has begun waits for a second person."""

    def approve(self, number: int, who: str, now: int) -> Decision:
        """
        A second person agrees: the decision has begun again, for `finish`.

        Raises:
            ConflictError: it does not wait for approval, `who` made it, or it has expired.
        """

    def reject(self, number: int, who: str, reason: str, now: int) -> Decision:
        """A second person, or the first one, takes a pending decision back: its cases are open."""

    def undo(self, number: int, who: str, reason: str, now: int) -> Decision:
        """
        Begin to undo a decision; once the log has withdrawn it, `finish`: its cases are open.

        What was decided of them before, and holds, is then what was decided last.

        Raises:
            ConflictError: it does not stand, or a later one that makes rules does.
        """

    def decision(self, number: int) -> Decision | None:
        """A decision."""

    def decisions(
        self, step: str | None = None, after: int = 0, limit: int = MAX_PAGE
    ) -> list[Decision]:
        """Decisions above a number, the oldest first; of one `Step`, or all."""

    def unfinished(self) -> list[Decision]:
        """Decisions that have begun, or are being undone, and of which the log may know."""
