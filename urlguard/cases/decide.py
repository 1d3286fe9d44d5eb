"""
Decisions on their way: from people through the store of cases into the policy log, and back out.

Knows what rules follow from a decision, when a second person is needed, and in which order store
and log are written (see `store`); knows no HTTP, no tokens and no sockets.  How a batch gets into
force, how the log is read, and why a change must wait, callables say.

How it works.  The rules that a decision makes are worked out from what its maker saw and are
written down with it before the log is asked, so whoever undoes or recovers it later need not work
out anything again.  A claim carries the decision's number as evidence; only claims that still do
are withdrawn by undoing, and what the same source said before them stands again.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from urlguard.cases import claims, recovery
from urlguard.cases.model import Act, Choice, ConflictError, Decision, MissingError, Step
from urlguard.cases.ports import Policy
from urlguard.cases.threads import StoreThreads
from urlguard.errors import InputError, PolicyError
from urlguard.policy.model import Change

CATEGORY = "fraud"  # of a block that names none


class Person(NamedTuple):
    """Who decides, and under which source the log's claims are made."""

    name: str
    source: str


class Outcome(NamedTuple):
    """What became of a decision."""

    decision: Decision
    serial: int  # of its batch; the log's where it made none
    pending_approval: bool


class Decider:
    """
    Makes decisions and undoes them.

    Args:
        store: of the cases.
        policy: the policy log and the workers.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        store: StoreThreads,
        policy: Policy,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock
        self._under_way: set[int] = set()

    async def decide(
        self,
        cases: Sequence[int],
        who: Person,
        choice: Choice,
        *,
        only: Sequence[str] = (),
        key: str | None = None,
    ) -> Outcome:
        """
        Decide cases, all or none; what is blocked or allowed is in force on return.

        Args:
            cases: open ones, or such that `who` has leased.
            who: who decides.
            choice: what.
            only: with scope "url", the items of the one case that are meant; the case's if empty.
            key: see `Store.begin`.

        Raises:
            InputError: the decision is none, or `only` holds what the case does not.
            StoreError: see `Store.begin`.
            PolicyError: the log did not take it; all is as before.
        """
        choice = _completed(choice)
        made_of = await self._store(lambda store: _rules(store, cases, choice, only))
        return await self._begin(cases, who, choice, made_of, key)

    async def hold(
        self, change: Change, who: Person, reason: str, why: str, key: str | None = None
    ) -> Outcome:
        """
        Have a rule that is of no case wait for a second person; like `decide`.

        One that waits already, of the same person and for the same rule, is that one.
        """
        choice = Choice(change.action or "", change.category, reason, "rule", change.expires_at)
        for made in await self._store(lambda store: store.decisions(Step.PENDING_APPROVAL)):
            same = (made.who, made.source, made.rules) == (
                who.name,
                who.source,
                ((0, change.rule),),
            )
            if same and made.choice.act == choice.act:
                return await self._told(made)
        return await self._begin([], who, choice, {0: [change.rule]}, key, why=why)

    async def unblock(
        self,
        appeal: int,
        keys: Sequence[str],
        who: Person,
        reason: str,
        expires_at: int,
        case: int | None = None,
    ) -> Outcome:
        """
        Allow what an appeal is upheld for, in one batch; like `decide`.

        Args:
            appeal: its number, which the claims carry as evidence.
            keys: of the rules to make.
            who: who upholds it.
            reason: why.
            expires_at: when the rules end.
            case: a decided one that this decides otherwise, if there is one.
        """
        choice = Choice(Act.ALLOW, "", reason, "domain" if case else "rule", expires_at)
        cases = [] if case is None else [case]
        return await self._begin(cases, who, choice, {case or 0: keys}, None, appeal)

    async def _begin(
        self,
        cases: Sequence[int],
        who: Person,
        choice: Choice,
        made_of: Mapping[int, Sequence[str]],
        key: str | None,
        appeal: int = 0,
        why: str = "",
    ) -> Outcome:
        now = int(self._clock())
        if choice.act == Act.BLOCK:
            await self.refuse_overruled(who.source, [k for keys in made_of.values() for k in keys])
        made = await self._store(
            lambda store: store.begin(
                cases,
                who.name,
                choice,
                now,
                key,
                source=who.source,
                rules=made_of,
                appeal=appeal,
            )
        )
        if made.step != Step.BEGUN:
            return await self._told(made)  # the same request once more
        with self._at_work(made.number):
            if why := why or await self._why_wait(made):
                made = await self._store(lambda store: store.hold(made.number, why, now))
                return await self._told(made)
            return await self._carry_out(made, who.name)

    @contextlib.contextmanager
    def _at_work(self, number: int) -> Iterator[None]:
        """
        A decision is in hand, so that nobody takes it for one that was left on its way.

        Raises:
            ConflictError: it is already.
        """
        if number in self._under_way:
            raise ConflictError(f"decision {number}: is on its way; ask again")
        self._under_way.add(number)
        try:
            yield
        finally:
            self._under_way.discard(number)

    async def _why_wait(self, made: Decision) -> str:
        # What an appeal is upheld for a second person has decided already.
        return "" if made.appeal else "; ".join(await self.needs_approval(claims.claims_of(made)))

    async def refuse_overruled(self, source: str, keys: Sequence[str]) -> None:
        """
        Make sure that nobody else's word keeps what `source` would block from being blocked.

        Raises:
            ConflictError: somebody's does; it says whose, and since when.
            PolicyError: the log cannot be read.
        """
        if found := await self._policy.read(lambda log: claims.overruled(log, source, keys)):
            raise ConflictError("; ".join(found))

    async def needs_approval(self, changes: Sequence[Change]) -> Sequence[str]:
        """
        Reasons why a second person must approve changes; empty if nobody must.

        Raises:
            PolicyError: the log cannot be read.
        """
        blocks = [change.rule for change in changes if change.action == Act.BLOCK]
        unblocked: list[str] = []
        if blocks:
            unblocked = await self._policy.read(lambda log: claims.unblocked(log, blocks))
        return [*unblocked, *await self._policy.needs_approval(changes)]

    async def approve(self, number: int, who: Person) -> Outcome:
        """
        A second person agrees to a held decision: it is carried out.

        Raises:
            StoreError: see `Store.approve`.
            PolicyError: the log did not take it; its cases are open.
        """
        now = int(self._clock())
        with self._at_work(number):
            held = await self._store(lambda store: store.decision(number))
            if held is not None and held.choice.act == Act.BLOCK:
                await self.refuse_overruled(held.source, [key for _, key in held.rules])
            made = await self._store(lambda store: store.approve(number, who.name, now))
            return await self._carry_out(made, f"{made.who}, {who.name}")

    async def reject(self, number: int, who: Person, reason: str) -> Outcome:
        """A held decision is taken back; raises as `Store.reject`."""
        now = int(self._clock())
        made = await self._store(lambda store: store.reject(number, who.name, reason, now))
        return await self._told(made)

    async def undo(self, number: int, who: Person, reason: str) -> Outcome:
        """
        Undo a decision: its claims end, and what its source said before them stands again.

        Raises:
            StoreError: see `Store.undo`.
            PolicyError: the log did not take it; the decision stands.
        """
        now = int(self._clock())
        with self._at_work(number):
            made = await self._store(lambda store: store.undo(number, who.name, reason, now))
            changes = await self._policy.read(lambda log: claims.reversal(log, made, now))
            return await self._carry_out(made, who.name, changes, f"undone: {reason}")

    async def _carry_out(
        self,
        made: Decision,
        actor: str,
        changes: Sequence[Change] | None = None,
        reason: str | None = None,
    ) -> Outcome:
        """Have the log take a decision that has begun, or its undoing, and finish it."""
        if changes is None:
            changes = claims.claims_of(made)
        serial = None
        if changes:
            try:
                words = made.choice.reason if reason is None else reason
                done = await self._policy.commit(made.source, changes, actor=actor, reason=words)
                serial = done.serial
            except PolicyError as exc:
                words = str(exc)
                await self._store(lambda store: store.abort(made.number, words, int(self._clock())))
                raise
        made = await self._store(
            lambda store: store.finish(made.number, serial, int(self._clock()))
        )
        return await self._told(made)

    async def _told(self, made: Decision) -> Outcome:
        serial = made.serial if made.step == Step.DONE else made.undo_serial
        if serial is None:
            serial = await self._policy.read(lambda log: log.serial)
        return Outcome(made, serial, made.step == Step.PENDING_APPROVAL)

    async def recover(self, grace_s: float = 0.0) -> recovery.Recovered:
        """
        Bring to their end what a crash or a full disk has left between store and log.

        Args:
            grace_s: decisions younger than this may be in hands that have not said so yet.

        Raises:
            StoreError: the store cannot be used.
            PolicyError: the log cannot be read.
        """
        now = int(self._clock())
        left = await self._store(lambda store: store.unfinished())
        young = {m.number for m in left if m.approver is None and m.begun_at > now - grace_s}
        in_hand = self._under_way | (young if grace_s else set())
        left = [made for made in left if made.number not in in_hand]
        if not left:
            return recovery.Recovered(0, 0)
        found = await self._policy.read(lambda log: claims.standing(log, left))
        return await self._store(
            lambda store: recovery.recover(
                store, left, lambda made, case: found.get((made.number, case)), now
            )
        )


def _rules(
    store: Any, cases: Sequence[int], choice: Choice, only: Sequence[str]
) -> dict[int, list[str]]:
    """The keys of each case; raises as `Decider.decide` says."""
    if only and len(set(cases)) != 1:
        raise InputError(f"items: {len(set(cases))} cases; items are those of one")
    found = {}
    for number in set(cases):
        file = store.case(number)
        if file is None:
            raise MissingError(f"case {number}: there is none")
        strange = set(only).difference(item.item for item in file.items)
        if strange:
            raise InputError(f"items: {min(strange)[:200]!r} is not of case {number}")
        found[number] = claims.rules_of(file.case, choice, only)
    return found


def _completed(choice: Choice) -> Choice:
    """With the category that is meant where none is given; only a rule needs one."""
    if choice.act == Act.BLOCK:
        return choice._replace(category=choice.category or CATEGORY)
    if choice.act == Act.ALLOW:
        return choice._replace(category="")
    return choice
