"""
``/v1/appeals``: appeals against blocks, without an account; and ``/v1/incidents``.

What needs no token says the same of blocked and unblocked items: an appeal takes an incident
number, which anybody has who met a block, and its answers never depend on what is blocked until
somebody has decided.  Rules, sources and scores are for staff, contacts for those of them who
answer.  What the public and what staff see of an appeal are two routes, each with one answer and
one rule of who may.
"""

from typing import Annotated, Any, Final, Literal, cast

import msgspec

from urlguard import events
from urlguard.access.roles import Role
from urlguard.api import paging
from urlguard.api.problems import Problem
from urlguard.api.routes import PUBLIC, READERS, Call, Nothing, Route
from urlguard.api.schemas import Moment, Page, Remark, Time, moment, utc
from urlguard.api.services import Services
from urlguard.api.v1.casework import RETRY_S, casework, person, stored, told
from urlguard.api.v1.decisions import SECOND
from urlguard.cases import appeals, incidents
from urlguard.cases.appeal_service import AppealService, Decided
from urlguard.cases.appeals import FILE_PATH, MAX_ANSWER, MAX_CONTACT, MAX_TEXT, TXT_LABEL
from urlguard.cases.model import StoreError
from urlguard.cases.store import Store
from urlguard.urls import MAX_URL

_DAY_S: Final = 86_400
# No halves of surrogate pairs and no controls, but for line breaks and tabs.
_LINES: Final = r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]*$"

Thing = Annotated[
    str,
    msgspec.Meta(
        min_length=1, max_length=MAX_URL, description="A name, a URL or an address, as found."
    ),
]
PublicState = Literal["received", "proof_seen", "upheld", "rejected"]
State = Literal["received", "upheld", "rejected"]
Seen = Annotated[
    Literal["txt", "file"] | None, msgspec.Meta(description="Where a proof was seen, if one was.")
]
Found = Annotated[
    Literal["found", "none", "other", "failed"] | None,
    msgspec.Meta(
        description="`found`: the proof; `none`: nothing; `other`: something else; `failed`: it"
        " could not be asked; null: it was not looked at."
    ),
]
Answer = Annotated[
    str,
    msgspec.Meta(
        max_length=MAX_ANSWER, pattern=_LINES, description="For whoever appeals; he sees it."
    ),
]


class IncidentRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What somebody calls about."""

    item: Thing


class Incident(msgspec.Struct):
    """A number for an appeal."""

    incident: Annotated[str, msgspec.Meta(description="Such as `UG-7K3M-9QX2-4T1`.")]
    valid_s: Annotated[int, msgspec.Meta(description="From the day of the incident.")]


class AppealRequest(msgspec.Struct, forbid_unknown_fields=True):
    """An appeal."""

    incident: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=incidents.MAX_TEXT,
            description="The number that the block page or the help desk gave.",
        ),
    ]
    item: Thing
    contact: Annotated[
        str,
        msgspec.Meta(
            min_length=3,
            max_length=MAX_CONTACT,
            pattern=r"^[^\u0000-\u001f\u007f]*$",
            description="A mail address or telephone number; only for staff.",
        ),
    ]
    text: Annotated[
        str,
        msgspec.Meta(max_length=MAX_TEXT, pattern=_LINES, description="Why it should not be."),
    ] = ""


class Proof(msgspec.Struct):
    """How control of the domain is proved: one of the two is enough."""

    txt_name: Annotated[str, msgspec.Meta(description="The name of a TXT record.")]
    txt_value: Annotated[str, msgspec.Meta(description="Its text.")]
    file_url: Annotated[str, msgspec.Meta(description="A file; over HTTP if there is no HTTPS.")]
    file_text: Annotated[str, msgspec.Meta(description="A line of it.")]
    seen: Seen
    seen_at: Time | None


class PublicAppeal(msgspec.Struct):
    """What becomes of an appeal."""

    id: Annotated[str, msgspec.Meta(description="Keep it: it is all that shows the appeal.")]
    state: PublicState
    received_at: Time
    decided_at: Time | None
    answer: Annotated[str, msgspec.Meta(description="Of whoever decided it.")]
    proof: Annotated[
        Proof | None, msgspec.Meta(description="Null for an address, which nobody proves.")
    ]


class LookedAt(PublicAppeal):
    """An appeal, and what was at the places of the proof."""

    txt: Found = None
    file: Found = None


class OneAppeal(msgspec.Struct, forbid_unknown_fields=True):
    """Which appeal."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class AppealParams(Page, kw_only=True):
    """Which appeals."""

    state: Annotated[State | None, msgspec.Meta(description="Only in this state.")] = None


class AppealRow(msgspec.Struct):
    """An appeal as lists show it."""

    id: str
    number: Annotated[int, msgspec.Meta(description="Its number in the record.")]
    state: State
    item: str
    owner: Annotated[str, msgspec.Meta(description="Whose it is: a domain, or an address.")]
    proof: Seen
    proof_at: Time | None
    received_at: Time
    incident_at: Annotated[Time, msgspec.Meta(description="The incident number's day.")]
    decided_at: Time | None
    decided_by: Annotated[str | None, msgspec.Meta(description="Who decided it.")]
    serial: Annotated[
        int | None,
        msgspec.Meta(description="The batch that released it; null if nothing blocked it."),
    ]


class AppealPage(msgspec.Struct):
    """Appeals, the proven ones first, then the oldest."""

    items: list[AppealRow]
    next: paging.Next


class AppealEvent(msgspec.Struct):
    """One event in the history of an appeal."""

    occurred_at: Time
    actor: Annotated[str, msgspec.Meta(description="Empty: the appellant, or the server.")]
    type: Annotated[
        str, msgspec.Meta(description="`received`, `proof`, `upheld`, `rejected` or `reopened`.")
    ]
    text: str


class AppealFile(AppealRow):
    """An appeal, and all that is known of it."""

    contact: Annotated[str | None, msgspec.Meta(description="For who answers; null for auditors.")]
    text: str
    reason: str
    answer: str
    case: Annotated[int | None, msgspec.Meta(description="The case of the owner.")]
    decisions: Annotated[list[int], msgspec.Meta(description="That were made for it.")]
    earlier: Annotated[list[AppealRow], msgspec.Meta(description="Others of the owner.")]
    events: list[AppealEvent]


class UpholdRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Why it is upheld, and for how long."""

    reason: Remark = ""
    answer: Answer = ""
    expires_at: Moment = None
    anyway: Annotated[
        bool,
        msgspec.Meta(
            description="Allow all of the owner's also if nothing blocks it by itself: for a name"
            " that is blocked because of what its answers lead to."
        ),
    ] = False


class RejectRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Why it is rejected."""

    reason: Remark = ""
    answer: Answer = ""


class AppealDecided(msgspec.Struct):
    """What was done."""

    id: str
    number: int
    state: Literal["upheld", "rejected"]
    serial: Annotated[
        int | None,
        msgspec.Meta(description="The batch that released it; null if nothing blocked it."),
    ]
    rules: Annotated[list[str], msgspec.Meta(description="That allow it, as kind and value.")]
    decisions: list[int]


def _service(services: Services) -> AppealService:
    try:
        return casework(services).appeal_service
    except StoreError as exc:
        raise Problem("unavailable", str(exc), retry_after_s=RETRY_S) from exc


async def incidents_create(call: Call[IncidentRequest, Nothing]) -> Incident:
    """Give a number to somebody who calls."""
    return Incident(
        await told(_service(call.services).mint(call.body.item)), incidents.VALID_DAYS * _DAY_S
    )


# Without a token


def _may_appeal(call: Call[Any, Any]) -> None:
    """Hold up who sends too much."""
    call.services.limits.appeals(call.address)


async def appeals_create(call: Call[AppealRequest, Nothing]) -> PublicAppeal:
    """Take an appeal."""
    asked = call.body
    with call.services.limits.appeal():
        made = await told(
            _service(call.services).receive(asked.incident, asked.item, asked.contact, asked.text)
        )
    events.info("appeals.received", number=made.number)
    return _public(made)


async def appeal(call: Call[Nothing, OneAppeal]) -> PublicAppeal:
    """What becomes of it."""
    call.services.limits.see(call.address)
    return _public(await told(_service(call.services).find(call.params.id)))


async def appeal_check(call: Call[Nothing, OneAppeal]) -> LookedAt:
    """Look for the proof."""
    ident, services = call.params.id, call.services
    services.limits.prove(call.address)
    await told(_service(services).find(ident))
    services.limits.proof(ident)
    if services.proving is None:
        raise Problem("unavailable", "proofs cannot be looked at yet", retry_after_s=RETRY_S)
    looked = await told(_service(services).look(ident, services.proving))
    return LookedAt(
        **msgspec.structs.asdict(_public(looked.appeal)),
        txt=cast(Found, looked.txt),
        file=cast(Found, looked.file),
    )


def _public(one: appeals.Appeal) -> PublicAppeal:
    domain = appeals.domain(one.plea)
    proof = None
    if domain is not None:
        proof = Proof(
            txt_name=f"{TXT_LABEL}.{domain}",
            txt_value=one.value,
            file_url=f"https://{domain}{FILE_PATH}",
            file_text=one.value,
            seen=cast(Seen, one.proof),
            seen_at=utc(one.proof_at),
        )
    return PublicAppeal(
        id=one.ident,
        state=cast(PublicState, one.public_state),
        received_at=utc(one.added_at),
        decided_at=utc(one.decided_at),
        answer=one.answer,
        proof=proof,
    )


# With one


async def appeals_list(call: Call[Nothing, AppealParams]) -> AppealPage:
    """A page of appeals."""
    asked = call.params
    after = paging.decode(asked.cursor, tuple[int, int]) or (0, 0)
    found = await stored(
        call.services, lambda store: store.appeals(asked.state, after, asked.limit + 1)
    )
    shown = found[: asked.limit]
    following = paging.encode(*appeals.place(shown[-1])) if len(found) > asked.limit else None
    return AppealPage([_row(one) for one in shown], following)


async def appeal_file(call: Call[Nothing, OneAppeal]) -> AppealFile:
    """One appeal."""
    one = await told(_service(call.services).find(call.params.id))

    def work(
        store: Store,
    ) -> tuple[list[int], list[appeals.Appeal], tuple[int, str, str | None] | None]:
        owner = one.plea.owner
        return store.releases(one.number), store.appeals_of(owner), store.case_of(owner)

    decisions, others, case = await stored(call.services, work)
    return AppealFile(
        **msgspec.structs.asdict(_row(one)),
        contact=None if call.holder.role is Role.AUDITOR else one.plea.contact,
        text=one.plea.text,
        reason=one.reason,
        answer=one.answer,
        case=case[0] if case else None,
        decisions=decisions,
        earlier=[_row(other) for other in others if other.number < one.number],
        events=[AppealEvent(utc(e.at), e.who, e.what, e.text) for e in one.events],
    )


def _row(one: appeals.Appeal) -> AppealRow:
    return AppealRow(
        id=one.ident,
        number=one.number,
        state=cast(State, one.state),
        item=one.plea.item,
        owner=one.plea.owner,
        proof=cast(Seen, one.proof),
        proof_at=utc(one.proof_at),
        received_at=utc(one.added_at),
        incident_at=utc(one.plea.day * _DAY_S),
        decided_at=utc(one.decided_at),
        decided_by=one.who,
        serial=one.serial,
    )


async def appeal_uphold(call: Call[UpholdRequest, OneAppeal]) -> AppealDecided:
    """Uphold an appeal."""
    asked, ident = call.body, call.params.id
    until = moment(asked.expires_at, "expires_at")
    work, who = _service(call.services), person(call.holder)
    return _decided(
        await told(work.uphold(ident, who, asked.reason, asked.answer, until, anyway=asked.anyway))
    )


async def appeal_reject(call: Call[RejectRequest, OneAppeal]) -> AppealDecided:
    """Reject an appeal."""
    asked, ident = call.body, call.params.id
    work = _service(call.services)
    return _decided(await told(work.reject(ident, person(call.holder), asked.reason, asked.answer)))


def _decided(done: Decided) -> AppealDecided:
    one = done.appeal
    return AppealDecided(
        id=one.ident,
        number=one.number,
        state=cast(Literal["upheld", "rejected"], one.state),
        serial=one.serial,
        rules=sorted({key for made in done.decisions for _, key in made.rules}),
        decisions=[made.number for made in done.decisions],
    )


_TAG: Final = "Appeals"

ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/incidents",
        roles=READERS | {Role.REPORTER},
        tag=_TAG,
        summary="An incident number for somebody who calls",
        words="Also for what is not blocked: the number says nothing about that.",
        body=IncidentRequest,
        answer=Incident,
        handler=incidents_create,
    ),
    Route(
        method="POST",
        path="/v1/appeals",
        roles=PUBLIC,
        tag=_TAG,
        summary="Appeal against a block",
        words="With the incident number of the block page or the help desk. The answer is the same"
        " whether or not anything is blocked. It says how to prove that the domain is one's own:"
        " that has the appeal looked at sooner, and releases nothing.",
        body=AppealRequest,
        answer=PublicAppeal,
        errors=("rate",),
        handler=appeals_create,
        limit=_may_appeal,
    ),
    Route(
        method="GET",
        path="/v1/appeals/{id}",
        roles=PUBLIC,
        tag=_TAG,
        summary="What becomes of an appeal",
        params=OneAppeal,
        answer=PublicAppeal,
        errors=("not-found", "rate"),
        handler=appeal,
    ),
    Route(
        method="POST",
        path="/v1/appeals/{id}/check",
        roles=PUBLIC,
        tag=_TAG,
        summary="Have the proof looked at",
        params=OneAppeal,
        answer=LookedAt,
        errors=("not-found", "rate"),
        handler=appeal_check,
    ),
    Route(
        method="GET",
        path="/v1/appeals",
        roles=READERS,
        tag=_TAG,
        summary="Appeals, the proven ones first, then the oldest",
        params=AppealParams,
        answer=AppealPage,
        handler=appeals_list,
    ),
    Route(
        method="GET",
        path="/v1/appeals/{id}/file",
        roles=READERS,
        tag=_TAG,
        summary="One appeal, and all that is known of it",
        params=OneAppeal,
        answer=AppealFile,
        errors=("not-found",),
        handler=appeal_file,
    ),
    Route(
        method="POST",
        path="/v1/appeals/{id}/uphold",
        roles=SECOND,
        tag=_TAG,
        summary="Uphold an appeal: it is released everywhere",
        words="Anybody of these roles but who blocked it. Rules that allow it are in force on every"
        " worker when the answer comes, until `expires_at`, or for a year; `/v1/decisions` can undo"
        " them, and then the appeal waits again.",
        params=OneAppeal,
        body=UpholdRequest,
        answer=AppealDecided,
        errors=("not-found",),
        handler=appeal_uphold,
    ),
    Route(
        method="POST",
        path="/v1/appeals/{id}/reject",
        roles=SECOND,
        tag=_TAG,
        summary="Reject an appeal",
        words="Anybody of these roles but who blocked it.",
        params=OneAppeal,
        body=RejectRequest,
        answer=AppealDecided,
        errors=("not-found",),
        handler=appeal_reject,
    ),
)
