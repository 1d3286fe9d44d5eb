"""``GET /v1/feeds``: the lists, how they are, and which of their rules are quarantined."""

from typing import Annotated, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec

from urlguard.api.problems import Problem
from urlguard.api.routes import READERS, Call, Nothing, Route
from urlguard.api.schemas import Time, utc
from urlguard.api.v1.preview import RuleReason, previewing
from urlguard.errors import PolicyError

MAX_SHOWN: Final = 1000  # of one list


def without_secrets(where: str) -> str:
    """A list's file or address, without what may be a password or a key."""
    parts = urlsplit(where)
    if not parts.scheme:
        return where
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "…" if parts.query else "", ""))


class Feed(msgspec.Struct):
    """One list; the object of `urlguard feed list --json`, in part."""

    name: str
    source: Annotated[str, msgspec.Meta(description="Its file, or its address without keys.")]
    shadow: Annotated[bool, msgspec.Meta(description="Whether it is only counted.")]
    rules: Annotated[int, msgspec.Meta(description="Of its last good version.")]
    serial: Annotated[int, msgspec.Meta(description="The last batch that it made.")]
    checked_at: Annotated[Time | None, msgspec.Meta(description="The last attempt.")]
    changed_at: Annotated[Time | None, msgspec.Meta(description="The last batch.")]
    error: Annotated[str | None, msgspec.Meta(description="Why the last attempt failed.")]
    bad_lines: int
    quarantined: Annotated[int, msgspec.Meta(description="Rules that are not in force.")]
    quarantined_rules: Annotated[
        list[RuleReason], msgspec.Meta(description="Of them, at most 1000, with the reason.")
    ]


class FeedList(msgspec.Struct):
    """All lists, in the order of the configuration."""

    items: list[Feed]


async def feeds(call: Call[Nothing, Nothing]) -> FeedList:
    """All lists."""
    try:
        rows = await previewing(call.services).feeds()
    except PolicyError as exc:
        raise Problem("unavailable", str(exc), retry_after_s=5) from exc
    return FeedList(
        [
            Feed(
                name=row["name"],
                source=without_secrets(row["from"]),
                shadow=row["shadow"],
                rules=row["rules"],
                serial=row["serial"],
                checked_at=utc(row["checked_at"] or None),
                changed_at=utc(row["changed_at"] or None),
                error=row["error"],
                bad_lines=row["bad"],
                quarantined=row["quarantined"],
                quarantined_rules=[
                    RuleReason(*pair) for pair in row["quarantined_rules"][:MAX_SHOWN]
                ],
            )
            for row in rows
        ]
    )


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/feeds",
        roles=READERS,
        tag="Rules",
        summary="The lists",
        words="A quarantined rule covers a public suffix, or a popular, protected, bank's or"
        " government's name: it is not in force, and a person may still make the rule.",
        answer=FeedList,
        handler=feeds,
    ),
)
