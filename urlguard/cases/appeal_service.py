"""
Appeals on their way: received, their proofs looked for, upheld or rejected by people.

Knows the store, the policy log and verdicts through `ports`; knows no HTTP and no tokens.

How it works.  Upholding is done in rounds: `Verdicts.check` says whether anything blocks the item,
its host or its owner; one batch overrules what does, see `unblocking`; then they are checked again,
since a rule may have come meanwhile.  Only when nothing blocks them any more is the appeal closed.
Each batch is a decision with the appeal's number.  If the process dies in between, the appeal is
still open and the decision is stored: upholding it again finds nothing left to do, and closes the
appeal with that decision's serial.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from urlguard.cases import appeals, incidents, priority, unblocking
from urlguard.cases.appeals import Appeal, AppealState, Plea
from urlguard.cases.decide import Decider, Outcome, Person
from urlguard.cases.model import Act, ConflictError, Decision, MissingError, State, Step, StoreError
from urlguard.cases.ndjson import candidate
from urlguard.cases.ports import Policy, Verdicts
from urlguard.cases.store import Store
from urlguard.cases.threads import StoreThreads
from urlguard.errors import InputError, UrlGuardError

MAX_ROUNDS: Final = 5
PROOF_S: Final = 25.0  # for both places of a proof

NONE, OTHER, FAILED, FOUND = "none", "other", "failed", "found"


class ProofFile(Protocol):
    """What a web server gave at the place of a proof."""

    @property
    def body(self) -> bytes:
        """Its octets, of bounded length."""


class Proving(Protocol):
    """Who looks for proofs, away from this process; any `UrlGuardError` means that none is seen."""

    async def txt(self, name: str) -> list[str]:
        """The TXT records at ``_urlguard.NAME``."""

    async def proof_file(self, name: str) -> ProofFile:
        """The proof file of a domain."""


class Looked(NamedTuple):
    """
    What was at the two places of a proof.

    "found"; "none" if nothing is there; "other" if something else is; "failed" if nobody could say;
    None if it was not looked at, as where a proof was seen before.
    """

    appeal: Appeal
    txt: str | None = None
    file: str | None = None


class Decided(NamedTuple):
    """An appeal that is closed, and what was done for it."""

    appeal: Appeal
    decisions: list[Decision]


class AppealService:
    """
    Takes appeals in and has them decided.

    Args:
        folder: where the key of incident numbers lies.
        store: of the cases.
        decider: makes decisions.
        policy: reads the policy log.
        verdicts: checks items.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        folder: Path,
        store: StoreThreads,
        decider: Decider,
        policy: Policy,
        verdicts: Verdicts,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._store = store
        self._decider = decider
        self._policy = policy
        self._verdicts = verdicts
        self._clock = clock
        self._under_way: set[int] = set()

    async def mint(self, text: str) -> str:
        """
        An incident number for a name or URL, whether or not it is blocked.

        Raises:
            InputError: it is neither.
            StoreError: there is no key.
        """

        def work() -> str:
            plea = _plea(text, self._clock())
            return incidents.mint(incidents.key(self._folder), plea.owner, self._clock())

        return await asyncio.to_thread(work)

    async def receive(self, incident: str, text: str, contact: str, words: str) -> Appeal:
        """
        Take an appeal in; nothing depends on whether anything is blocked.

        Args:
            incident: the number that whoever appeals was given.
            text: the name or URL.
            contact: where he can be reached.
            words: what he has to say.

        Raises:
            InputError: the number is mistyped, of something else or too old, or `text` is neither.
            StoreError: see `AppealStore.add_appeal`; or there is no key.
        """

        def work() -> Plea:
            now = self._clock()
            plea = _plea(text, now)
            key = incidents.key(self._folder)
            day = incidents.verify(key, incident, plea.owner, now)
            if day is None:
                raise InputError(
                    "incident: is not of this item, or has had its time; must be of the last"
                    f" {incidents.VALID_DAYS} days"
                )
            return plea._replace(day=day, contact=contact, text=words)

        plea = await asyncio.to_thread(work)
        return await self._store(lambda store: store.add_appeal(plea, int(self._clock())))

    async def find(self, ident: str) -> Appeal:
        """
        An appeal by its id.

        Raises:
            MissingError: there is none.
        """
        found = await self._store(lambda store: store.appeal(ident))
        if found is None:
            raise MissingError("appeal: there is none with this id")
        return found

    # Proofs

    async def look(self, ident: str, proving: Proving) -> Looked:
        """
        Look for a proof; one that was seen moves the appeal up, and that is all.

        Raises:
            MissingError: there is no such appeal.
            ConflictError: it is about an address.
        """
        appeal = await self.find(ident)
        domain = appeals.domain(appeal.plea)
        if domain is None:
            raise ConflictError("an address has no owner who could prove that it is his")
        if appeal.state != AppealState.RECEIVED or appeal.proof is not None:
            return Looked(appeal)
        txt, file = await asyncio.gather(
            _bounded(_txt(appeal, domain, proving)), _bounded(_file(appeal, domain, proving))
        )
        how = "txt" if txt == FOUND else "file" if file == FOUND else None
        if how is not None:
            number, now = appeal.number, int(self._clock())
            appeal = await self._store(lambda store: store.prove(number, how, now))
        return Looked(appeal, txt, file)

    # Deciding

    async def uphold(
        self,
        ident: str,
        who: Person,
        reason: str,
        answer: str,
        expires_at: int | None = None,
        *,
        anyway: bool = False,
    ) -> Decided:
        """
        Uphold an appeal: what it is about is let through on return, and stays so for a time.

        Args:
            ident: the appeal's.
            who: who decides; nobody who is behind the block.
            reason: for the record.
            answer: for whoever appeals.
            expires_at: when the allowance ends; as for cases if None.
            anyway: allow all of the owner's also if nothing blocks the item by itself: people's
                allowance of a name holds for what its answers lead to, and no verdict knows that.

        Raises:
            MissingError: there is no such appeal.
            ConflictError: `who` blocked it, it is decided otherwise, or it cannot be let through.
            StoreError, PolicyError: it could not be done, or not to its end; it may be tried again.
        """
        number = (await self.find(ident)).number
        with self._at_work(number):
            appeal = await self._open(ident, who, AppealState.UPHELD)
            if appeal.state == AppealState.UPHELD:
                return Decided(appeal, await self._releases(number))
            for made in await self._releases(number):
                if made.step in (Step.BEGUN, Step.UNDOING):
                    raise ConflictError(f"decision {made.number}: is on its way; ask again")
                anyway = anyway and made.step != Step.DONE  # then it was done before
            until = expires_at or int(self._clock()) + priority.ALLOW_S
            await self._unblock(appeal, who, f"appeal {number}: {reason}", until, anyway)
            done = [made for made in await self._releases(number) if made.step == Step.DONE]
            serial = max((made.serial for made in done if made.serial is not None), default=None)
            closed = await self._close(appeal, AppealState.UPHELD, who, reason, answer, serial)
            return Decided(closed, done)

    async def reject(self, ident: str, who: Person, reason: str, answer: str) -> Decided:
        """Reject an appeal; arguments and errors as of `uphold`."""
        number = (await self.find(ident)).number
        with self._at_work(number):
            appeal = await self._open(ident, who, AppealState.REJECTED)
            if appeal.state == AppealState.REJECTED:
                return Decided(appeal, [])
            await self._blocked(appeal.plea, who)
            closed = await self._close(appeal, AppealState.REJECTED, who, reason, answer, None)
            return Decided(closed, [])

    async def undo(self, decision: int, appeal: int, who: Person, reason: str) -> Outcome:
        """
        Undo what was decided for an appeal; it waits again.

        Args:
            decision: the one that is undone.
            appeal: its appeal's number.
            who: nobody who is behind the block that it overrules.
            reason: for the record.

        Raises:
            ConflictError: `who` is, or the decision does not stand.
            StoreError, PolicyError: see `Decider.undo`.
        """
        with self._at_work(appeal):
            found = await self._store(lambda store: store.appeal_number(appeal))
            if found is not None:
                await self._blocked(found.plea, who)
            return await self._decider.undo(decision, who, reason)

    @contextlib.contextmanager
    def _at_work(self, number: int) -> Iterator[None]:
        """An appeal is in one person's hands."""
        if number in self._under_way:
            raise ConflictError(f"appeal {number}: is being decided; ask again")
        self._under_way.add(number)
        try:
            yield
        finally:
            self._under_way.discard(number)

    async def _open(self, ident: str, who: Person, wanted: AppealState) -> Appeal:
        """An appeal that waits, or that `who` has decided as `wanted`: the same request again."""
        appeal = await self.find(ident)
        if appeal.state == AppealState.RECEIVED or (appeal.state, appeal.who) == (wanted, who.name):
            return appeal
        raise ConflictError(f"appeal {appeal.number}: is {appeal.state}, by {appeal.who!a}")

    async def _unblock(
        self, appeal: Appeal, who: Person, reason: str, until: int, anyway: bool
    ) -> None:
        for at in range(MAX_ROUNDS):
            blocked, keys = await self._blocked(appeal.plea, who)
            if anyway and at == 0:
                keys = sorted({*keys, unblocking.everything(appeal.plea)})
            elif not blocked:
                return
            case = await self._store(lambda store: store.case_of(appeal.plea.owner))
            overruled = case is not None and case[1:] == (State.DECIDED, Act.BLOCK)
            number = case[0] if case and overruled else None
            await self._decider.unblock(appeal.number, keys, who, reason, until, number)
        blocked, _ = await self._blocked(appeal.plea, who)
        if blocked:
            raise ConflictError(f"appeal {appeal.number}: {blocked[0]} is still blocked; try again")

    async def _blocked(self, plea: Plea, who: Person) -> tuple[list[str], list[str]]:
        """
        What of an appeal is blocked, and at which keys an allowance would let it through.

        Raises:
            ConflictError: `who` is behind a claim that blocks it.
        """
        said = await self._said(unblocking.items(plea))
        found = [one for one in said if one["action"] == "block"]
        decisive = [f"{r['kind']} {r['value']}" for one in found if (r := one["rule"]) is not None]

        makers, keys = await self._policy.read(
            lambda log: unblocking.overruling(log, plea, decisive)
        )
        if who.name.casefold() in makers:
            raise ConflictError(f"{who.name!a} blocked it; another person decides appeals about it")
        return [str(one["input"]) for one in found], keys

    async def _said(self, items: list[str]) -> list[dict[str, Any]]:
        try:
            return [json.loads(one) for one in await self._verdicts.check(items, score=True)]
        except StoreError:
            raise
        except UrlGuardError as exc:
            raise StoreError(f"verdicts: {exc}") from exc

    async def _releases(self, number: int) -> list[Decision]:
        def work(store: Store) -> list[Decision]:
            found = (store.decision(made) for made in store.releases(number))
            return [made for made in found if made is not None]

        return await self._store(work)

    async def _close(
        self,
        appeal: Appeal,
        state: str,
        who: Person,
        reason: str,
        answer: str,
        serial: int | None,
    ) -> Appeal:
        now = int(self._clock())
        return await self._store(
            lambda store: store.close_appeal(
                appeal.number, state, who.name, reason, answer, serial, now
            )
        )


def _plea(text: str, now: float) -> Plea:
    """
    What an appeal is about.

    Raises:
        InputError: it is neither a name with a dot nor a URL.
    """
    try:
        found = candidate(text, int(now))
    except InputError as exc:
        raise InputError(f"item: {exc}") from exc
    address = appeals.is_address(found.name)
    owner = found.name if address else incidents.owner(found.name)
    return Plea(found.item, found.name, owner, 0, "", "")


async def _bounded(look: Any) -> str:
    try:
        async with asyncio.timeout(PROOF_S):
            found: str = await look
            return found
    except (TimeoutError, UrlGuardError):
        return FAILED


async def _txt(appeal: Appeal, domain: str, proving: Proving) -> str:
    records = await proving.txt(domain)
    if appeals.in_records(appeal, records):
        return FOUND
    return OTHER if records else NONE


async def _file(appeal: Appeal, domain: str, proving: Proving) -> str:
    file = await proving.proof_file(domain)
    return FOUND if appeals.in_file(appeal, file.body) else OTHER
