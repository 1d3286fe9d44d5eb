"""``/v1/cases``: the queue of what people have to decide, and their decisions."""

import time
from typing import Annotated, Any, Final, Literal, NoReturn

import msgspec

from urlguard.api import paging
from urlguard.api.problems import Problem
from urlguard.api.routes import READERS, STAFF, Call, Nothing, Route
from urlguard.api.schemas import Action, Category, Moment, Page, Remark, Time, moment, utc, with_utc
from urlguard.api.v1.casework import decider, person, stored, told
from urlguard.api.v1.decisions import DecideAnswer, MadeDecision, made, outcome
from urlguard.cases import model, store
from urlguard.cases.model import MAX_LEASE_S, MAX_PAGE, Choice, State

LEASE_S: Final = 900
_MAX_BODY: Final = 1 << 20

CaseState = Literal[
    "known", "open", "leased", "deciding", "pending_approval", "decided", "dismissed"
]
Act = Literal["block", "allow", "watch", "dismiss"]
Number = Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]
Numbers = Annotated[list[Number], msgspec.Meta(min_length=1, max_length=MAX_PAGE)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=8192)]


class CaseParams(Page, kw_only=True):
    """Which cases."""

    state: Annotated[CaseState | None, msgspec.Meta(description="Only in this state.")] = None
    source: Annotated[
        Annotated[str, msgspec.Meta(max_length=200)] | None,
        msgspec.Meta(description="Only what this source has reported."),
    ] = None
    campaign: Annotated[
        Annotated[str, msgspec.Meta(max_length=300)] | None,
        msgspec.Meta(description="Only of this campaign."),
    ] = None
    q: Annotated[
        Text | None,
        msgspec.Meta(
            description="Only owners that begin with this text, or the case of this very item."
        ),
    ] = None
    order: Annotated[
        Literal["priority", "newest"], msgspec.Meta(description="The first on top.")
    ] = "priority"


class Case(msgspec.Struct):
    """What was reported of one owner, and what people decided."""

    id: int
    item: Annotated[str, msgspec.Meta(description="The worst of what was reported.")]
    name: str
    owner: Annotated[str, msgspec.Meta(description="Whose it is: one case an owner.")]
    state: CaseState
    action: Annotated[Act | None, msgspec.Meta(description="The one that stands.")]
    score: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=1)] | None,
        msgspec.Meta(description="The worst that a model gave."),
    ]
    priority: Annotated[
        float,
        msgspec.Meta(description="Expected victims, as a logarithm to base 2; only to compare."),
    ]
    queries: Annotated[int, msgspec.Meta(description="That the resolvers saw of it.")]
    items: Annotated[int, msgspec.Meta(description="So many URLs and names were reported.")]
    sources: list[str]
    campaign: Annotated[str | None, msgspec.Meta(description="Shared with other cases.")]
    created_at: Time
    updated_at: Time
    holder: Annotated[str | None, msgspec.Meta(description="Who has leased it.")]
    lease_expires_at: Time | None
    recheck_at: Annotated[Time | None, msgspec.Meta(description="When people look again.")]


class CasePage(msgspec.Struct):
    """Cases."""

    items: list[Case]
    next: paging.Next


class CaseItem(msgspec.Struct):
    """A URL or name that was reported."""

    item: str
    name: str
    state: Literal["waiting", "judged", "dead"]
    score: float | None
    action: Annotated[Action | None, msgspec.Meta(description="The verdict when it was judged.")]
    reason: str | None
    model: str | None
    queries: int
    seen_at: Time
    added_at: Time
    error: str | None


class CaseEvent(msgspec.Struct):
    """What happened to a case."""

    occurred_at: Time
    actor: Annotated[str, msgspec.Meta(description="Empty: the server by itself.")]
    type: Annotated[str, msgspec.Meta(description="Such as `opened`, `note` or `decided`.")]
    text: str


class WholeCase(Case):
    """A case, and all that is known of it."""

    reported: Annotated[list[CaseItem], msgspec.Meta(description="The worst 100.")]
    decisions: list[MadeDecision]
    events: list[CaseEvent]


class OneCase(msgspec.Struct, forbid_unknown_fields=True):
    """Which case."""

    id: Number


class LeaseRequest(msgspec.Struct, forbid_unknown_fields=True):
    """How many cases one takes, and for how long."""

    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)]
    lease_s: Annotated[
        int,
        msgspec.Meta(
            ge=1, le=MAX_LEASE_S, description="Until others may have them again, in seconds."
        ),
    ] = LEASE_S


class LeasedCases(msgspec.Struct):
    """The cases, the most urgent first; fewer than asked for, or none, if there are no more."""

    items: list[Case]


class ReturnRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Which cases one gives back."""

    ids: Numbers


class ReturnedCases(msgspec.Struct):
    """How many of them one had."""

    returned: int


class NoteRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What one has to say of a case."""

    text: Annotated[Remark, msgspec.Meta(min_length=1)]


class Noted(msgspec.Struct):
    """It is written down."""

    id: int


class DecideRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A decision."""

    action: Act
    category: Annotated[
        Category | None, msgspec.Meta(description="Of a block; `fraud` if left out.")
    ] = None
    reason: Remark = ""
    scope: Annotated[
        Literal["domain", "url"],
        msgspec.Meta(
            description="`domain`: the owner's name and all below it. `url`: `items` alone."
        ),
    ] = "domain"
    expires_at: Moment = None


class DecideOneRequest(DecideRequest, kw_only=True):
    """A decision about one case."""

    items: Annotated[
        list[Text],
        msgspec.Meta(
            max_length=100,
            description="With scope `url`: the URLs and names of the case that are meant; the"
            " case's own `item` if left out.",
        ),
    ] = []


class DecideManyRequest(DecideRequest, kw_only=True):
    """One decision about several cases: all of them or none."""

    ids: Annotated[
        list[Number], msgspec.Meta(max_length=MAX_PAGE, description="Or else `campaign`.")
    ] = []
    campaign: Annotated[
        Annotated[str, msgspec.Meta(min_length=1, max_length=300)] | None,
        msgspec.Meta(
            description="All its cases that are open, or leased by oneself; 1,000 at most."
        ),
    ] = None


def shown(case: model.Case) -> Case:
    """A case as it is told."""
    return Case(**_fields(case))


def _fields(case: model.Case) -> dict[str, Any]:
    return with_utc(case._asdict() | {"sources": list(case.sources)})


async def cases_list(call: Call[Nothing, CaseParams]) -> CasePage:
    """A page of cases."""
    asked = call.params
    if asked.q is not None and asked.order == "newest":
        _invalid("order", "must be priority with q: owners come by name")
    after = paging.decode(asked.cursor, tuple[str])
    page = await stored(
        call.services,
        lambda found: found.cases(
            state=asked.state,
            source=asked.source,
            campaign=asked.campaign,
            query=asked.q,
            order=asked.order,
            after=None if after is None else after[0],
            limit=asked.limit,
        ),
    )
    following = None if page.next is None else paging.encode(page.next)
    return CasePage([shown(case) for case in page.items], following)


async def case(call: Call[Nothing, OneCase]) -> WholeCase:
    """One case."""
    number = call.params.id
    file = await stored(call.services, lambda found: found.case(number))
    if file is None:
        raise Problem("not-found", f"case {number}: there is none")
    reported = [
        CaseItem(
            *(i.item, i.name, i.state, i.score, i.action, i.reason, i.model),  # type: ignore[arg-type]
            *(i.queries, utc(i.seen_at), utc(i.added_at), i.error),
        )
        for i in file.items
    ]
    return WholeCase(
        **_fields(file.case),
        reported=reported,
        decisions=[made(one) for one in file.decisions],
        events=[CaseEvent(utc(e.at), e.who, e.what, e.text) for e in file.events],
    )


async def cases_lease(call: Call[LeaseRequest, Nothing]) -> LeasedCases:
    """Take cases."""
    asked, who = call.body, call.holder.name
    found = await stored(call.services, lambda s: s.lease(who, asked.count, asked.lease_s, _now()))
    return LeasedCases([shown(case) for case in found])


async def cases_return(call: Call[ReturnRequest, Nothing]) -> ReturnedCases:
    """Give cases back."""
    ids, who = call.body.ids, call.holder.name
    return ReturnedCases(await stored(call.services, lambda s: s.give_back(who, ids, _now())))


async def case_note(call: Call[NoteRequest, OneCase]) -> Noted:
    """Write something down."""
    number, who, text = call.params.id, call.holder.name, call.body.text
    await stored(call.services, lambda s: s.note(number, who, text, _now()))
    return Noted(number)


async def case_decide(call: Call[DecideOneRequest, OneCase]) -> DecideAnswer:
    """Decide one case."""
    asked = call.body
    if asked.items and asked.scope != "url":
        _invalid("items", "only with scope url")
    return await _decide(call, [call.params.id], asked, asked.items)


async def cases_decide(call: Call[DecideManyRequest, Nothing]) -> DecideAnswer:
    """Decide several cases at once."""
    asked, who = call.body, call.holder.name
    if bool(asked.ids) == (asked.campaign is not None):
        _invalid("ids", "either these, or campaign")
    ids = asked.ids
    if asked.campaign is not None:
        ids = await stored(call.services, lambda s: _of_campaign(s, asked.campaign, who))
        if not ids:
            raise Problem("conflict", "no case of this campaign is open")
    return await _decide(call, ids, asked, [])


def _of_campaign(found: store.Store, campaign: str | None, who: str) -> list[int]:
    ids: list[int] = []
    for state in (State.OPEN, State.LEASED):
        page = found.cases(state=state, campaign=campaign, limit=MAX_PAGE)
        ids += [c.id for c in page.items if state == State.OPEN or c.holder == who]
    return ids[:MAX_PAGE]


async def _decide(
    call: Call[Any, Any], ids: list[int], asked: DecideRequest, items: list[str]
) -> DecideAnswer:
    if asked.category is not None and asked.action != "block":
        _invalid("category", "only of a block")
    expires_at = moment(asked.expires_at, "expires_at")
    choice = Choice(asked.action, asked.category or "", asked.reason, asked.scope, expires_at)
    key = call.request.headers.get("Idempotency-Key")
    who = person(call.holder)
    done = await told(decider(call.services).decide(ids, who, choice, only=items, key=key))
    return outcome(done)


def _invalid(field: str, words: str) -> NoReturn:
    raise Problem("invalid", f"{field}: {words}", errors=[(field, words)])


def _now() -> int:
    return int(time.time())


_TAG: Final = "Cases"

ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/cases",
        roles=READERS,
        tag=_TAG,
        summary="Cases, the most urgent first",
        params=CaseParams,
        answer=CasePage,
        handler=cases_list,
    ),
    Route(
        method="GET",
        path="/v1/cases/{id}",
        roles=READERS,
        tag=_TAG,
        summary="One case, and all that is known of it",
        params=OneCase,
        answer=WholeCase,
        errors=("not-found",),
        handler=case,
    ),
    Route(
        method="POST",
        path="/v1/cases/lease",
        roles=STAFF,
        tag=_TAG,
        summary="Take cases to decide",
        words="The most urgent open ones. Nobody else is handed them, or may decide them, until"
        " `lease_expires_at`.",
        body=LeaseRequest,
        answer=LeasedCases,
        handler=cases_lease,
    ),
    Route(
        method="POST",
        path="/v1/cases/return",
        roles=STAFF,
        tag=_TAG,
        summary="Give cases back",
        body=ReturnRequest,
        answer=ReturnedCases,
        handler=cases_return,
    ),
    Route(
        method="POST",
        path="/v1/cases/decide",
        roles=STAFF,
        tag=_TAG,
        summary="Decide several cases at once",
        words="By number, or all of a campaign. All or none; one batch of the policy log, and one"
        " decision that can be undone as a whole.",
        body=DecideManyRequest,
        answer=DecideAnswer,
        errors=("not-found",),
        handler=cases_decide,
    ),
    Route(
        method="POST",
        path="/v1/cases/{id}/decide",
        roles=STAFF,
        tag=_TAG,
        summary="Decide a case",
        words="An open case, or one that the caller has leased. A block or an allowance is in force"
        " on every worker when the answer comes, unless `pending_approval` is true: then a second"
        " person must approve it first.",
        params=OneCase,
        body=DecideOneRequest,
        max_body=_MAX_BODY,
        answer=DecideAnswer,
        errors=("not-found",),
        handler=case_decide,
    ),
    Route(
        method="POST",
        path="/v1/cases/{id}/notes",
        roles=STAFF,
        tag=_TAG,
        summary="Write down something about a case",
        params=OneCase,
        body=NoteRequest,
        answer=Noted,
        errors=("not-found",),
        handler=case_note,
    ),
)
