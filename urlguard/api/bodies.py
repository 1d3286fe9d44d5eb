"""
Reading requests: the body within its limits, and JSON and parameters into the types of the table.

What does not fit is told with the field's path.  A body is bounded in size before it is read and in
the time that it may take; compressed bodies are refused, since nobody knows how large they become.
One that is streamed may take as long as it likes, but must come with some speed.

Long bodies are read in slices, so that the event loop is free in between.  A thread would not help:
JSON is read under Python's lock.
"""

import asyncio
import functools
import re
import time
import typing
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, TypeVar

import msgspec
from aiohttp import web

from urlguard.api.problems import Problem
from urlguard.api.routes import Route

BODY_S: Final = 30.0  # for a whole body that is read at once
CHUNK_S: Final = 10.0  # for the next piece of one that is streamed
PACE_S: Final = 10.0  # waiting for such a body, in which it must come by `PACE`
PACE: Final = 10_240  # octets
SLICE: Final = 65_536  # octets of JSON that are read in one turn of the loop; up to 0.3 ms
_SLICE_ROWS: Final = 1_000
_AT_ONCE: Final = 131_072  # octets; a shorter body is one slice
_MOST_ROWS: Final = 50_000

_PLACE = re.compile(r"(.*) - at `([^`]*)`", re.S)
_INDEX = re.compile(r"\[(\d+)\]")
_NAMED = re.compile(r"Object (contains unknown|missing required) field `(.*)`", re.S)

T = TypeVar("T")


def media_type(request: web.BaseRequest, route: Route) -> str:
    """
    The content type of the body, checked.

    Raises:
        Problem: the route takes no such body.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem("media-type", "compressed bodies are not taken; send it as it is")
    given = request.headers.get("Content-Type", "")
    media, _, rest = given.partition(";")
    media, rest = media.strip().lower(), rest.replace(" ", "").replace('"', "").lower()
    if media not in route.takes or rest not in ("", "charset=utf-8"):
        found = repr(given[:100]) if given else "no content type"
        raise Problem("media-type", f"{found}; must be {' or '.join(route.takes)}, in UTF-8")
    return media


async def whole(request: web.BaseRequest, limit: int) -> bytes:
    """
    The body.

    Args:
        request: whose.
        limit: octets that it may have.

    Raises:
        Problem: it is larger, does not come in time, or ends before its end.
    """
    if request.content_length is not None and request.content_length > limit:
        raise _too_large(limit)
    await proceed(request)
    found = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            while piece := await _next(request):
                found += piece
                if len(found) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise Problem(
            "malformed", f"the body did not come within {BODY_S:g} s", headers=CLOSE
        ) from None
    except (web.RequestPayloadError, ValueError) as exc:
        raise Problem(
            "malformed", "the body breaks off or is badly chunked", headers=CLOSE
        ) from exc
    return bytes(found)


async def pieces(request: web.BaseRequest) -> AsyncIterator[bytes]:
    """
    The body piece by piece, as it comes.

    Only the time in which the server waits for the client counts: what is done with a piece may
    take as long as it takes.

    Raises:
        Problem: the next piece does not come in time, they come too slowly, or the body ends before
            its end.
    """
    await proceed(request)
    waited, came = 0.0, 0
    try:
        while True:
            began = time.monotonic()
            async with asyncio.timeout(CHUNK_S):
                piece = await _next(request)
            if not piece:
                return
            waited += time.monotonic() - began
            came += len(piece)
            if waited >= PACE_S:
                if came < PACE:
                    words = f"only {came} octets came in {waited:.0f} s; must be {PACE}"
                    raise Problem("malformed", words, headers=CLOSE)
                waited, came = 0.0, 0
            yield piece
    except TimeoutError:
        raise Problem("malformed", f"nothing came for {CHUNK_S:g} s", headers=CLOSE) from None
    except web.RequestPayloadError as exc:
        raise Problem(
            "malformed", "the body breaks off or is badly chunked", headers=CLOSE
        ) from exc


CLOSE: Final = {"Connection": "close"}


async def _next(request: web.BaseRequest) -> bytes:
    """
    What has come of the body; nothing at its end.

    Raises:
        ConnectionResetError: the client is gone.
    """
    try:
        return await request.content.readany()
    except RuntimeError as exc:  # so aiohttp says it
        if request.protocol.connected:
            raise
        raise ConnectionResetError("the client went away in the middle of a body") from exc


def _too_large(limit: int) -> Problem:
    return Problem("length", f"the body has more than {limit} octets")


async def proceed(request: web.BaseRequest) -> None:
    """Tell a client that waits for it that the body is wanted (RFC 9110, ``100-continue``)."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # it is no part of the answer


def decoded(data: bytes, type_: type[T], slice_: tuple[str, int] = ("", 0)) -> T:
    """
    JSON as a type.

    Args:
        data: the JSON.
        type_: what it must be.
        slice_: of a slice of a list, the list's name and where the slice begins, for problems.

    Raises:
        Problem: it is no JSON in UTF-8, or does not fit; says which field.
    """
    try:
        return msgspec.json.decode(data, type=type_)
    except msgspec.ValidationError as exc:
        raise _invalid(exc, *slice_) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Problem("malformed", f"the body is no JSON in UTF-8: {_words(exc)}") from None


async def read(data: bytes, route: Route) -> Any:
    """
    JSON as the body of a route; ``route.sliced`` names the list that may make it long.

    What remains in one piece is the search for the list's items, which of 2 MiB takes 0.4 to 0.9
    ms, and 2 ms where all of it is written as ``\\uXXXX``; all at once it would be 1 to 4 ms.

    Raises:
        Problem: see `decoded`.
    """
    if not route.sliced or not _worth_slicing(data):
        return decoded(data, route.body)
    outline, item = _outline(route.body, route.sliced)  # type: ignore[arg-type] # a class has a hash
    found = decoded(data, outline)
    fields = {name: getattr(found, name) for name in outline.__struct_fields__}
    fields[route.sliced] = await rows(fields[route.sliced], item, route.sliced)
    return route.body(**fields)


async def listed(data: bytes, item: type[T]) -> list[T]:
    """
    A JSON array of a type.

    Raises:
        Problem: see `decoded`.
    """
    if not _worth_slicing(data):
        return decoded(data, list[item])  # type: ignore[valid-type]
    return await rows(decoded(data, list[msgspec.Raw]), item)


async def rows(parts: list[msgspec.Raw], item: type[T], name: str = "") -> list[T]:
    """The items of a list, read slice by slice; `name` is the list's, for problems."""
    found: list[T] = []
    while len(found) < len(parts):
        at = end = len(found)
        size = 0
        while end < len(parts) and size < SLICE and end - at < _SLICE_ROWS:
            size += len(parts[end])
            end += 1
        data = b"[%b]" % b",".join(parts[at:end])
        found += decoded(data, list[item], (name, at))  # type: ignore[valid-type]
        await asyncio.sleep(0)
    return found


def _worth_slicing(data: bytes) -> bool:
    # To find the items costs some octets and 30 ns each: of a hostile million it would take longer
    # than to read until the first one that does not fit.
    return len(data) > _AT_ONCE and data.count(b",") < _MOST_ROWS


@functools.cache
def _outline(type_: type[Any], name: str) -> tuple[type[Any], Any]:
    """A body's type with one of its lists unread, and the type of the items."""
    list_type = typing.get_type_hints(type_, include_extras=True)[name]
    (item,) = typing.get_args(list_type.__origin__)
    unread = Annotated[list[msgspec.Raw], *list_type.__metadata__]
    made = msgspec.defstruct(type_.__name__, [(name, unread)], bases=(type_,), kw_only=True)
    return made, item


def params(request: web.BaseRequest, in_path: dict[str, str], route: Route) -> Any:
    """
    What stands in path and query, as the route's type.

    Raises:
        Problem: a parameter is unknown, there twice, or does not fit.
    """
    found: dict[str, str] = dict(in_path)
    for name, value in request.query.items():
        if name in found:
            raise _wrong(name, "is there twice")
        found[name] = value
    try:
        params = msgspec.convert(found, type=route.params, strict=False)
    except msgspec.ValidationError as exc:
        raise _invalid(exc) from None
    for name, value in found.items():
        # The library reads this word as nothing, where text is not what is wanted.
        if value.lower() == "null" and getattr(params, name, value) is None:
            raise _wrong(name, "expected a value, got null; leave it out")
    return params


def _wrong(field: str, error: str) -> Problem:
    return Problem("invalid", f"{field or 'the request'}: {error}"[:500], errors=[(field, error)])


def _invalid(exc: msgspec.ValidationError, name: str = "", start: int = 0) -> Problem:
    path, words = place(str(exc))
    if (name or start) and (match := _INDEX.match(path)):
        path = f"{name}[{start + int(match[1])}]{path[match.end() :]}"
    return _wrong(path, words)


def place(text: str) -> tuple[str, str]:
    """The field and the words of a message of msgspec's."""
    path = "$"
    if match := _PLACE.fullmatch(text):
        text, path = match[1], match[2]
    path = path.removeprefix("$").removeprefix(".")
    if match := _NAMED.fullmatch(text):
        text = "unknown field" if match[1].startswith("contains") else "missing"
        path = f"{path}.{match[2]}" if path else match[2]
    text = text.replace("`", "")
    return path[:200], text[:1].lower() + text[1:300]


def _words(exc: Exception) -> str:
    if isinstance(exc, RecursionError):
        return "too deep"
    return str(exc)[:200].replace("JSON is malformed: ", "").replace("`", "")
