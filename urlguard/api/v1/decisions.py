"""``/v1/decisions``: what was decided, what waits for a second person, and taking it back."""

from typing import Annotated, Any, Final, Literal, cast

import msgspec

from urlguard.access.roles import Role
from urlguard.api import paging
from urlguard.api.problems import Problem
from urlguard.api.routes import READERS, STAFF, Call, Nothing, Route
from urlguard.api.schemas import Page, Remark, Time, utc
from urlguard.api.v1.casework import casework, decider, person, stored, told
from urlguard.cases import model
from urlguard.cases.decide import Outcome

Step = Literal["begun", "pending_approval", "done", "aborted", "undoing", "undone"]
SECOND: Final = frozenset({Role.APPROVER, Role.ADMIN})


class MadeDecision(msgspec.Struct):
    """A decision as it is kept."""

    id: int
    step: Annotated[
        Step,
        msgspec.Meta(
            description="`pending_approval`: waits for a second person; `done`: in force;"
            " `aborted`: taken back, or refused by the log."
        ),
    ]
    decided_by: str
    action: Literal["block", "allow", "review", "watch", "dismiss"]
    category: str
    reason: str
    scope: Annotated[
        str, msgspec.Meta(description="`domain`, `url`, or `rule` where it is of no case.")
    ]
    expires_at: Time | None
    cases: list[int]
    rules: Annotated[list[str], msgspec.Meta(description="That it makes, as kind and value.")]
    begun_at: Time
    done_at: Time | None
    serial: Annotated[int | None, msgspec.Meta(description="Of the policy log's batch.")]
    undo_serial: Annotated[int | None, msgspec.Meta(description="Of the one that undid it.")]
    approved_by: str | None
    remark: Annotated[str, msgspec.Meta(description="Why it is held, was refused or is undone.")]


class DecisionPage(msgspec.Struct):
    """Decisions, the oldest first."""

    items: list[MadeDecision]
    next: paging.Next


class DecideAnswer(msgspec.Struct):
    """What became of a decision."""

    serial: Annotated[
        int, msgspec.Meta(description="Of its batch in the policy log, or of the log's last one.")
    ]
    decision_id: Annotated[int, msgspec.Meta(description="Its number, see `/v1/decisions/{id}`.")]
    pending_approval: Annotated[
        bool, msgspec.Meta(description="True if it waits for a second person; `why` says why.")
    ]
    approval_reason: str = ""


class DecisionParams(Page, kw_only=True):
    """Which decisions."""

    step: Annotated[Step | None, msgspec.Meta(description="Only those that have come so far.")] = (
        None
    )


class OneDecision(msgspec.Struct, forbid_unknown_fields=True):
    """Which decision."""

    id: Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]


class Second(msgspec.Struct, forbid_unknown_fields=True):
    """A second person's word."""

    reason: Remark = ""


def made(one: model.Decision) -> MadeDecision:
    """A decision as it is told."""
    choice = one.choice
    return MadeDecision(
        id=one.number,
        step=cast(Step, one.step),
        decided_by=one.who,
        action=cast(Any, choice.act),
        category=choice.category,
        reason=choice.reason,
        scope=choice.scope,
        expires_at=utc(choice.expires_at),
        cases=list(one.cases),
        rules=[key for _, key in one.rules],
        begun_at=utc(one.begun_at),
        done_at=utc(one.done_at),
        serial=one.serial,
        undo_serial=one.undo_serial,
        approved_by=one.approver,
        remark=one.remark,
    )


def outcome(done: Outcome) -> DecideAnswer:
    """The answer to whoever decided."""
    why = done.decision.remark if done.pending_approval else ""
    return DecideAnswer(done.serial, done.decision.number, done.pending_approval, why)


async def decisions_list(call: Call[Nothing, DecisionParams]) -> DecisionPage:
    """A page of decisions."""
    asked = call.params
    after = paging.decode(asked.cursor, tuple[int]) or (0,)
    found = await stored(
        call.services, lambda s: s.decisions(asked.step, after[0], asked.limit + 1)
    )
    items = [made(one) for one in found[: asked.limit]]
    more = len(found) > asked.limit
    return DecisionPage(items, paging.encode(items[-1].id) if more else None)


async def decision(call: Call[Nothing, OneDecision]) -> MadeDecision:
    """One decision."""
    number = call.params.id
    found = await stored(call.services, lambda s: s.decision(number))
    if found is None:
        raise Problem("not-found", f"decision {number}: there is none")
    return made(found)


async def decision_approve(call: Call[Second, OneDecision]) -> DecideAnswer:
    """Agree to a held decision."""
    return outcome(await told(decider(call.services).approve(call.params.id, person(call.holder))))


async def decision_reject(call: Call[Second, OneDecision]) -> DecideAnswer:
    """Take a held decision back: the second person, or who made it."""
    number, who = call.params.id, call.holder
    if who.role not in SECOND:
        await _own(call, number, "reject")
    return outcome(await told(decider(call.services).reject(number, person(who), call.body.reason)))


async def decision_undo(call: Call[Second, OneDecision]) -> DecideAnswer:
    """Undo a decision that stands."""
    number, who, reason = call.params.id, call.holder, call.body.reason
    if who.role not in SECOND:
        await _own(call, number, "undo")
    found = await stored(call.services, lambda s: s.decision(number))
    if found is not None and found.appeal:
        appeal_service = casework(call.services).appeal_service
        return outcome(await told(appeal_service.undo(number, found.appeal, person(who), reason)))
    return outcome(await told(decider(call.services).undo(number, person(who), reason)))


async def _own(call: Call[Second, OneDecision], number: int, what: str) -> None:
    found = await stored(call.services, lambda s: s.decision(number))
    if found is not None and found.who != call.holder.name:
        raise Problem("forbidden", f"{found.who} made it; an approver or an admin may {what} it")


_TAG: Final = "Decisions"

ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/decisions",
        roles=READERS,
        tag=_TAG,
        summary="What was decided",
        words="With `step=pending_approval`: what waits for a second person.",
        params=DecisionParams,
        answer=DecisionPage,
        handler=decisions_list,
    ),
    Route(
        method="GET",
        path="/v1/decisions/{id}",
        roles=READERS,
        tag=_TAG,
        summary="One decision",
        params=OneDecision,
        answer=MadeDecision,
        errors=("not-found",),
        handler=decision,
    ),
    Route(
        method="POST",
        path="/v1/decisions/{id}/approve",
        roles=SECOND,
        tag=_TAG,
        summary="Agree to a held decision",
        words="Anybody of these roles but who made it. It is in force when the answer comes.",
        params=OneDecision,
        body=Second,
        answer=DecideAnswer,
        errors=("not-found",),
        handler=decision_approve,
    ),
    Route(
        method="POST",
        path="/v1/decisions/{id}/reject",
        roles=STAFF,
        tag=_TAG,
        summary="Take a held decision back",
        words="Its cases are open again. Analysts take back their own.",
        params=OneDecision,
        body=Second,
        answer=DecideAnswer,
        errors=("not-found",),
        handler=decision_reject,
    ),
    Route(
        method="POST",
        path="/v1/decisions/{id}/undo",
        roles=STAFF,
        tag=_TAG,
        summary="Undo a decision",
        words="All of it: its rules end, what its maker's rules said before stands again, and its"
        " cases are open. Analysts undo their own. What an appeal was upheld with, nobody undoes"
        " who is behind the block; the appeal then waits again.",
        params=OneDecision,
        body=Second,
        answer=DecideAnswer,
        errors=("not-found",),
        handler=decision_undo,
    ),
)
