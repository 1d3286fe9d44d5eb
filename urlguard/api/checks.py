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
from urlguard.api.schemas import Action, Item, Verdict
from urlguard.api.source import Judging, Services
from urlguard.errors import UrlGuardError

MAX_ITEMS: Final = 10_000
MAX_WHY: Final = 100  # explanations cost milliseconds each
MAX_MESSAGES: Final = 1_000
_MAX_BODY: Final = 8 << 20
_IN_THREAD: Final = 1_000  # objects from which putting them together is no business of the loop's

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


class _Acts(msgspec.Struct):
    """Of a verdict, what it comes to."""

    action: Action


async def check(call: Call[CheckRequest, Nothing]) -> Encoded:
    """The verdicts."""
    asked = call.body
    if asked.why and len(asked.items) > MAX_WHY:
        words = f"{len(asked.items)}; with why at most {MAX_WHY}"
        raise Problem("invalid", f"items: {words}", errors=[("items", words)])
    judging = _judging(call.services)
    if not asked.items:
        return _joined([])
    found = await _asked(judging.check(asked.items, why=asked.why, score=asked.score))
    if len(found) < _IN_THREAD:
        return _joined(found)
    return await asyncio.to_thread(_joined, found)


async def check_messages(call: Call[MessagesRequest, Nothing]) -> Encoded:
    """What the messages hold."""
    judging = _judging(call.services)
    asked = call.body.messages
    found: Sequence[Sequence[tuple[Any, ...]]] = []
    if asked:
        found = await _asked(judging.messages([message.text for message in asked]))
    results = [
        _result(message.id, mentions) for message, mentions in zip(asked, found, strict=True)
    ]
    return _joined(results)


def _joined(results: Sequence[bytes]) -> Encoded:
    """The objects of an answer in one; copied once, and beyond a MiB without Python's lock."""
    if not results:
        return Encoded(b'{"results":[]}')
    parts = list(results)
    parts[0] = b'{"results":[' + parts[0]
    parts[-1] += b"]}"
    return Encoded(b",".join(parts))


def _result(ident: str | int, mentions: Sequence[tuple[Any, ...]]) -> bytes:
    actions = {_ACTION.decode(verdict).action for *_, verdict in mentions}
    found = [
        {"start": start, "end": end, "text": text, "item": item, "verdict": msgspec.Raw(verdict)}
        for start, end, text, item, verdict in mentions
    ]
    action = next((a for a in ("block", "review") if a in actions), "none")
    return msgspec.json.encode({"id": ident, "action": action, "found": found})


_ACTION: Final = msgspec.json.Decoder(_Acts)


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
        reads=True,
    ),
)
