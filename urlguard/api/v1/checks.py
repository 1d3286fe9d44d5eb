"""
``POST /v1/check`` and ``POST /v1/messages/check``: verdicts on names, URLs and messages.

The work is done by judges, in processes of their own.  Their objects are JSON already, and are put
together here without being read again.
"""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from urlguard.api.problems import Problem
from urlguard.api.routes import EVERYONE, Call, Encoded, Nothing, Route
from urlguard.api.schemas import Item, Verdict
from urlguard.api.services import Judging, Services
from urlguard.errors import UrlGuardError

MAX_ITEMS: Final = 10_000
MAX_WHY: Final = 100  # explanations cost milliseconds each
MAX_MESSAGES: Final = 1_000
_MAX_BODY: Final = 2 << 20  # see `bodies.read` for what reading it costs the loop
_MANY: Final = 1_000  # parts; to do something with each takes a tenth of a millisecond
_IN_THREAD: Final = 1 << 20  # octets; more is put together without Python's lock

T = TypeVar("T")


class CheckRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Names and URLs to check."""

    items: Annotated[list[Item], msgspec.Meta(max_length=MAX_ITEMS)]
    why: Annotated[
        bool, msgspec.Meta(description=f"Explain the scores; at most {MAX_WHY} items then.")
    ] = False
    score: Annotated[
        bool, msgspec.Meta(description="Run the model on every item, decided or not.")
    ] = False


class CheckAnswer(msgspec.Struct):
    """The verdicts, in the order of the items."""

    results: list[Verdict]


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """One message."""

    id: Annotated[
        Annotated[str, msgspec.Meta(max_length=256)]
        | Annotated[int, msgspec.Meta(ge=-(1 << 53), le=1 << 53)],
        msgspec.Meta(description="The sender's own, given back as it is."),
    ]
    text: Annotated[str, msgspec.Meta(max_length=65_536)]


class MessagesRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Messages to look through."""

    messages: Annotated[list[Message], msgspec.Meta(max_length=MAX_MESSAGES)]


class Mention(msgspec.Struct):
    """A URL or name in a message."""

    start: Annotated[
        int, msgspec.Meta(description="Where it begins in the text, in Unicode code points from 0.")
    ]
    end: Annotated[int, msgspec.Meta(description="Where it ends; the first one behind it.")]
    text: Annotated[str, msgspec.Meta(description="As it is written there.")]
    item: Annotated[str, msgspec.Meta(description="What is meant.")]
    verdict: Verdict


class MessageResult(msgspec.Struct):
    """What was found in one message."""

    id: str | int
    action: Annotated[
        Literal["block", "review", "none"],
        msgspec.Meta(description="The strictest of what was found: block, then review."),
    ]
    found: list[Mention]


class MessagesAnswer(msgspec.Struct):
    """What was found, in the order of the messages."""

    results: list[MessageResult]


async def check(call: Call[CheckRequest, Nothing]) -> Encoded:
    """The verdicts."""
    asked = call.body
    if asked.why and len(asked.items) > MAX_WHY:
        words = f"{len(asked.items)}; with why at most {MAX_WHY}"
        raise Problem("invalid", f"items: {words}", errors=[("items", words)])
    judging = _judging(call.services)
    found: list[bytes] = []
    if asked.items:
        found = await _asked(judging.check(asked.items, why=asked.why, score=asked.score))
    return await _joined(found, b",")


async def check_messages(call: Call[MessagesRequest, Nothing]) -> Encoded:
    """What the messages hold."""
    judging = _judging(call.services)
    asked = call.body.messages
    found: Sequence[bytes] = ()
    if asked:
        found = await _asked(judging.messages([message.text for message in asked]))
    parts: list[bytes] = []
    for message, result in zip(asked, found, strict=True):
        parts += (b',{"id":' if parts else b'{"id":', _encode(message.id), b",", result)
    return await _joined(parts)


async def _joined(parts: list[bytes], between: bytes = b"") -> Encoded:
    """An answer out of its parts, of which none is left; each octet is copied once."""
    if not parts:
        return Encoded(b'{"results":[]}')
    parts[0] = b'{"results":[' + parts[0]
    parts[-1] += b"]}"
    if len(parts) < _MANY and sum(map(len, parts)) <= _IN_THREAD:
        return Encoded(between.join(parts))
    whole = await asyncio.to_thread(between.join, parts)
    while parts:  # to let go of megabytes takes long too
        del parts[-_MANY:]
        await asyncio.sleep(0)
    return Encoded(whole)


_encode: Final = msgspec.json.Encoder().encode


def _judging(services: Services) -> Judging:
    if services.judging is None:
        raise Problem("unavailable", "verdicts cannot be given yet", retry_after_s=1)
    return services.judging


async def _asked(work: Any) -> Any:
    """What the judges say; that they cannot just now is no fault of the request's."""
    try:
        return await work
    except UrlGuardError as exc:
        retry = getattr(exc, "retry_after_s", 1.0)
        raise Problem("unavailable", str(exc), retry_after_s=retry) from exc


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/check",
        roles=EVERYONE,
        tag="Checking",
        summary="Check names and URLs",
        words=f"Up to {MAX_ITEMS:,} names, URLs or addresses, as people write them. An item that is"
        " none of these has the kind `invalid`; the others are answered all the same.",
        body=CheckRequest,
        answer=CheckAnswer,
        handler=check,
        max_body=_MAX_BODY,
        sliced="items",
        reads=True,
    ),
    Route(
        method="POST",
        path="/v1/messages/check",
        roles=EVERYONE,
        tag="Checking",
        summary="Find and check what messages lead to",
        words=f"Up to {MAX_MESSAGES:,} messages. Finds every URL and name in them, also disguised"
        " ones, and says what is thought of each.",
        body=MessagesRequest,
        answer=MessagesAnswer,
        handler=check_messages,
        max_body=_MAX_BODY,
        sliced="messages",
        reads=True,
    ),
)
