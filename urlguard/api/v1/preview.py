"""``/v1/preview``: what would change if rules were enforced, before they are."""

import asyncio
from typing import Annotated, Any, Final

import msgspec

from urlguard import rules
from urlguard.api.problems import Problem
from urlguard.api.routes import READERS, Call, Nothing, Route
from urlguard.api.schemas import Time
from urlguard.api.services import Previewing, Services
from urlguard.api.v1.casework import source_of
from urlguard.api.v1.rules import RuleText
from urlguard.errors import InputError, PolicyError

MAX_RULES: Final = 500  # as many as the workers count at a time

FeedName = Annotated[
    str,
    msgspec.Meta(
        min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]*$", description="A list's name."
    ),
]


class PreviewParams(msgspec.Struct, forbid_unknown_fields=True):
    """Which list."""

    feed: FeedName


class PreviewRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Rules that might be blocked."""

    rules: Annotated[list[RuleText], msgspec.Meta(min_length=1, max_length=MAX_RULES)]


class RuleReason(msgspec.Struct):
    """A rule, and what speaks against it."""

    rule: Annotated[str, msgspec.Meta(description="Its kind and value.")]
    reason: str


class RuleCount(msgspec.Struct):
    """A rule, and how many of the sampled queries it would block."""

    rule: str
    queries: int
    clients: int


class LiveSample(msgspec.Struct):
    """Of the live queries of the last minutes, those that would be blocked and are not."""

    queries: Annotated[int, msgspec.Meta(description="In the sample.")]
    clients: Annotated[
        int,
        msgspec.Meta(description="Behind them, at most: each worker counts a client that it has."),
    ]
    newly_blocked: Annotated[int, msgspec.Meta(description="Of the sampled queries.")]
    newly_blocked_clients: Annotated[int, msgspec.Meta(description="At most.")]
    share: Annotated[
        float, msgspec.Meta(ge=0, le=1, description="Of all live queries, 0 without a sample.")
    ]
    sufficient: Annotated[
        bool, msgspec.Meta(description="False: the sample is too small for its share to count.")
    ]
    rules: Annotated[
        list[RuleCount], msgspec.Meta(description="Those that would block most, at most 20.")
    ]


class ShadowHits(msgspec.Struct):
    """What rules in shadow would have blocked, by the hit log."""

    started_at: Time
    queries: int
    clients: Annotated[int, msgspec.Meta(description="By pseudonyms, which change each day.")]
    complete: Annotated[bool, msgspec.Meta(description="False if older ones were not read.")]


class PreviewAnswer(msgspec.Struct):
    """What would change."""

    feed: str | None
    action: Annotated[
        str,
        msgspec.Meta(
            description="What the rules do now: `shadow`, `review`, `allow`, `block`; `none` if"
            " nobody has said them."
        ),
    ]
    rules: int
    new: Annotated[int, msgspec.Meta(description="Of them, about names that are not blocked yet.")]
    covered: Annotated[int, msgspec.Meta(description="The others.")]
    exact: Annotated[
        bool, msgspec.Meta(description="False: both were worked out from some of the rules.")
    ]
    sample: LiveSample | None
    protected: Annotated[
        list[RuleReason],
        msgspec.Meta(
            description="Rules that cover a popular, protected, bank's or government's name."
        ),
    ]
    quarantined: Annotated[
        list[RuleReason], msgspec.Meta(description="Rules of the feed that are quarantined.")
    ]
    needs_approval: Annotated[
        list[str], msgspec.Meta(description="Why the change would need a second person.")
    ]
    shadow: ShadowHits | None


def previewing(services: Services) -> Previewing:
    """
    Who makes previews.

    Raises:
        Problem: nobody does yet.
    """
    if services.previewing is None:
        raise Problem("unavailable", "nothing can be previewed yet", retry_after_s=1)
    return services.previewing


async def preview_feed(call: Call[Nothing, PreviewParams]) -> PreviewAnswer:
    """Preview a configured list."""
    name = call.params.feed
    try:
        found = await previewing(call.services).of_feed(name)
    except InputError as exc:
        raise Problem("not-found", str(exc)) from None
    except PolicyError as exc:
        raise Problem("unavailable", str(exc), retry_after_s=5) from exc
    return _answer(found)


async def preview_rules(call: Call[PreviewRequest, Nothing]) -> PreviewAnswer:
    """Preview rules that nobody has said yet."""
    wanted = list(dict.fromkeys(await asyncio.to_thread(_parsed, call.body.rules)))
    try:
        found = await previewing(call.services).of_rules(wanted, source_of(call.holder))
    except PolicyError as exc:
        raise Problem("unavailable", str(exc), retry_after_s=5) from exc
    return _answer(found)


def _parsed(texts: list[str]) -> list[rules.Rule]:
    found = []
    for at, text in enumerate(texts):
        try:
            found.append(rules.parse(text))
        except InputError as exc:
            field = f"rules[{at}]"
            raise Problem("invalid", f"{field}: {exc}", errors=[(field, str(exc))]) from None
    return found


def _answer(found: dict[str, Any]) -> PreviewAnswer:
    return msgspec.convert(found, PreviewAnswer)


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/preview",
        roles=READERS,
        tag="Rules",
        summary="What would change if a list were enforced",
        words="For a list with `shadow = true`, before it is let loose: its rules against what is"
        " in force, against a sample of the live queries, and what was counted since it began.",
        params=PreviewParams,
        answer=PreviewAnswer,
        errors=("not-found",),
        handler=preview_feed,
    ),
    Route(
        method="POST",
        path="/v1/preview",
        roles=READERS,
        tag="Rules",
        summary="What would change if rules were made",
        words="Nothing is changed. `reasons` says why the rules would wait for a second person.",
        body=PreviewRequest,
        answer=PreviewAnswer,
        max_body=1 << 20,
        reads=True,
        handler=preview_rules,
    ),
)
