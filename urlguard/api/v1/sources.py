"""``/v1/sources``: who brings candidates, and what became of them."""

from typing import Annotated, Final

import msgspec

from urlguard.access.roles import Role
from urlguard.api import paging
from urlguard.api.problems import Problem
from urlguard.api.routes import READERS, Call, Nothing, Route
from urlguard.api.schemas import Page, Time, with_utc
from urlguard.api.v1.casework import stored
from urlguard.cases import model

_OWN: Final = frozenset({Role.CRAWLER, Role.REPORTER})  # who see themselves alone


class Source(msgspec.Struct):
    """What became of a source's candidates."""

    name: Annotated[str, msgspec.Meta(description="Of its token; `(public)` is everybody else.")]
    first_at: Time
    last_at: Time
    accepted: Annotated[int, msgspec.Meta(description="It was the first to bring them.")]
    duplicate: int
    invalid: int
    waiting: Annotated[int, msgspec.Meta(description="To be judged.")]
    known: Annotated[int, msgspec.Meta(description="A rule covered them.")]
    opened: Annotated[int, msgspec.Meta(description="They were for people to look at.")]
    dead: Annotated[int, msgspec.Meta(description="They could not be judged.")]
    right: Annotated[int, msgspec.Meta(description="Cases that people blocked.")]
    wrong: Annotated[int, msgspec.Meta(description="Cases that people allowed or dismissed.")]
    reputation: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="Orders the queue, and does nothing else.")
    ]


class SourcePage(msgspec.Struct):
    """Sources, by name."""

    items: list[Source]
    next: paging.Next


class OneSource(msgspec.Struct, forbid_unknown_fields=True):
    """Which source."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=model.MAX_SOURCE)]


async def sources(call: Call[Nothing, Page]) -> SourcePage:
    """A page of sources."""
    after = paging.decode(call.params.cursor, tuple[str])
    found = await stored(call.services, lambda s: s.sources())
    if call.holder.role in _OWN:
        found = [one for one in found if one.name == call.holder.name]
    # There are about as many as tokens, so they are all read each time.
    rest = [one for one in found if after is None or one.name > after[0]]
    page = rest[: call.params.limit]
    following = paging.encode(page[-1].name) if len(rest) > len(page) else None
    return SourcePage([Source(**with_utc(one._asdict())) for one in page], following)


async def source(call: Call[Nothing, OneSource]) -> Source:
    """One source."""
    name = call.params.name
    found = None
    if call.holder.role not in _OWN or name == call.holder.name:
        found = await stored(call.services, lambda s: s.source(name))
    if found is None:
        raise Problem("not-found", "there is no such source, or it is not yours")
    return Source(**with_utc(found._asdict()))


_TAG: Final = "Candidates"

ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/sources",
        roles=READERS | _OWN,
        tag=_TAG,
        summary="Who brings candidates",
        words="Crawlers and reporters see themselves alone.",
        params=Page,
        answer=SourcePage,
        handler=sources,
    ),
    Route(
        method="GET",
        path="/v1/sources/{name}",
        roles=READERS | _OWN,
        tag=_TAG,
        summary="What became of a source's candidates",
        params=OneSource,
        answer=Source,
        errors=("not-found",),
        handler=source,
    ),
)
