"""
What a route is, and what its handler gets and gives.

All routes stand in one table, `urlguard.api.table.ROUTES`.  Who may use a route, what it takes and
gives, and which problems it may tell is said there and nowhere else: the frame enforces it, the
OpenAPI document and ``/docs`` are made from it, and the tests run through it.

A handler is an async function of a `Call`.  It returns its answer as the type that the table names,
or as `Encoded` where the JSON is there already, and raises `Problem` where it cannot.  Before it is
called, the token was checked, the role is one of the route's, and parameters and body have the
types of the table; so a handler knows nothing of HTTP unless it wants to.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar
from urllib.parse import unquote

import msgspec
from aiohttp import web

from urlguard.access.roles import Role
from urlguard.access.tokens import Holder
from urlguard.api.services import Services

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"

PUBLIC: Final = None
EVERYONE: Final = frozenset(Role)  # with a token
STAFF: Final = frozenset({Role.ANALYST, Role.APPROVER, Role.ADMIN})
READERS: Final = STAFF | {Role.AUDITOR}

MAX_BODY: Final = 65_536  # octets, where a route says nothing else


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """No body, or no parameters."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An answer whose octets are there already."""

    body: bytes


Body = TypeVar("Body")
Params = TypeVar("Params")


@dataclass(slots=True)
class Call(Generic[Body, Params]):
    """One request, as a handler gets it."""

    route: "Route"
    services: Services
    request: web.BaseRequest
    address: str  # of the client, behind trusted proxies
    caller: Holder | None  # None on public routes alone
    params: Params  # what stands in the path and in the query
    body: Body
    routes: "tuple[Route, ...]"  # all that the server has
    chunks: AsyncIterator[bytes] | None = None  # the body of a route with ``streams``

    @property
    def holder(self) -> Holder:
        """Who asks; on routes that need a token."""
        if self.caller is None:
            raise RuntimeError(f"{self.route.path} is public and asks for its caller")
        return self.caller


Handler = Callable[[Call[Any, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """
    One operation.

    ``path`` may have fields in braces, each for one part between slashes; they are fields of
    ``params`` too, and the other fields of ``params`` are what the query may have.

    ``limit`` is asked before the body is read, so that who may not go on need not be listened to.
    """

    method: str
    path: str
    roles: frozenset[Role] | None  # who may; PUBLIC: anybody, without a token
    summary: str  # half a sentence
    words: str = ""  # what there is more to say; Markdown
    tag: str  # the heading that it stands under in /docs
    handler: Handler
    params: type[Any] = Nothing
    body: type[Any] = Nothing
    answer: type[Any] = dict
    errors: tuple[str, ...] = ()  # kinds of problems beyond those that all routes of its sort have
    max_body: int = MAX_BODY
    sliced: str = ""  # a list in the body that may be long; it is read slice by slice
    media: str = JSON  # what the answer is
    headers: tuple[tuple[str, str], ...] = ()  # of the answer
    streams: bool = False  # the handler reads the body itself, of any size
    takes: tuple[str, ...] = (JSON,)  # content types of the body
    reads: bool = False  # a POST that changes nothing: it may be cut short, and done again
    limit: "Callable[[Call[Any, Any]], None] | None" = None  # raises if it is too often
    secret: bool = False  # the answer is told once, and not kept for an idempotency key
    anonymous: bool = False  # also served without a token where `[cases] public` says so
    health: bool = False  # answered however many others are served, and to any Host
    also: tuple[int, ...] = ()  # other statuses that come with ``answer``
    pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.streams and self.reads:
            # Whether it is the same request is known when its body is used up.
            raise ValueError(f"{self.path}: a streamed body cannot be worked on again")
        parts = (
            f"(?P<{part[1:-1]}>[^/]+)" if part.startswith("{") else re.escape(part)
            for part in self.path.split("/")
        )
        object.__setattr__(self, "pattern", re.compile("/".join(parts)))

    @property
    def name(self) -> str:
        """The operation's name, from its handler's."""
        return self.handler.__name__.strip("_")

    @property
    def in_path(self) -> tuple[str, ...]:
        """The fields of ``params`` that stand in the path."""
        return tuple(self.pattern.groupindex)

    @property
    def has_body(self) -> bool:
        """Whether a request has a body."""
        return self.streams or self.body is not Nothing

    @property
    def problems(self) -> tuple[str, ...]:
        """The kinds of problems that it may answer with, in the order of their statuses."""
        found = ["malformed", "internal"]
        if not self.health:
            found += ["host", "unavailable"]
        if self.roles is not None:
            found += ["unauthenticated", "rate"]
            if self.roles != EVERYONE:
                found.append("forbidden")
        if self.params is not Nothing or self.has_body:
            found.append("invalid")
        if self.has_body:
            found += ["length", "media-type"]
        if self.method == "POST":
            found += ["key-reused", "conflict"]
            if not self.reads:
                found.append("done-before")
        return tuple(sorted({*found, *self.errors}))


class Router:
    """Finds the route of a request."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self.routes = routes
        self._plain: dict[str, dict[str, Route]] = {}
        self._patterns: dict[str, tuple[re.Pattern[str], dict[str, Route]]] = {}
        for route in routes:
            if route.in_path:
                methods = self._patterns.setdefault(route.path, (route.pattern, {}))[1]
            else:
                methods = self._plain.setdefault(route.path, {})
            methods[route.method] = route

    def find(self, path: str) -> tuple[dict[str, Route], dict[str, str]]:
        """
        The routes at a path by method, and the fields in it; nothing at an unknown path.

        Args:
            path: as it was sent, with its percent signs.
        """
        if methods := self._plain.get(path):
            return methods, {}
        for pattern, methods in self._patterns.values():
            if match := pattern.fullmatch(path):
                try:
                    found = {k: unquote(v, errors="strict") for k, v in match.groupdict().items()}
                except UnicodeDecodeError:
                    return {}, {}
                return methods, found
        return {}, {}
