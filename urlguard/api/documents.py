"""``GET /openapi.json`` and ``GET /docs``: the API's description, for programs and for people."""

import asyncio
from functools import cache
from typing import Any, Final

import msgspec

from urlguard.api import docspage
from urlguard.api.openapi import document
from urlguard.api.routes import PUBLIC, Call, Encoded, Nothing, Route


@cache
def _encoded(routes: tuple[Route, ...]) -> Encoded:
    return Encoded(msgspec.json.format(msgspec.json.encode(document(routes)), indent=1))


@cache
def _page(routes: tuple[Route, ...]) -> Encoded:
    return Encoded(docspage.page(document(routes)).encode())


async def openapi(call: Call[Nothing, Nothing]) -> Encoded:
    """The OpenAPI document."""
    return await asyncio.to_thread(_encoded, call.routes)


async def docs(call: Call[Nothing, Nothing]) -> Encoded:
    """The same, as a page."""
    return await asyncio.to_thread(_page, call.routes)


ROUTES: Final = (
    Route(
        method="GET",
        path="/openapi.json",
        roles=PUBLIC,
        tag="This description",
        summary="The OpenAPI 3.1 document",
        answer=dict[str, Any],
        handler=openapi,
    ),
    Route(
        method="GET",
        path="/docs",
        roles=PUBLIC,
        tag="This description",
        summary="The same as a page",
        answer=str,
        media="text/html; charset=utf-8",
        headers=(("Content-Security-Policy", docspage.POLICY),),
        handler=docs,
    ),
)
