"""
The OpenAPI 3.1 document, made from the table of routes and the types in it.

msgspec makes the JSON Schemas (2020-12) from the same types by which requests are decoded, so the
document cannot say anything else than the server does.
"""

from collections import defaultdict
from functools import cache
from http import HTTPStatus
from typing import Any, Final

import msgspec

from urlguard import __version__
from urlguard.api.idempotency import KEY
from urlguard.api.problems import CONTENT_TYPE, KINDS, Document
from urlguard.api.routes import NDJSON, Nothing, Route

_REF: Final = "#/components/schemas/{name}"
_ABOUT: Final = """\
Check names and URLs, hand in candidates, decide.

Every request but those about health needs a token: `Authorization: Bearer TOKEN`. Errors are
problem documents (RFC 9457). Lists come in pages: `next` of one page is the `cursor` of the next.
Times are in seconds since 1970-01-01, UTC.

A POST may bear an `Idempotency-Key`: sent again with the same key within 24 hours, it is done once
and answered as before."""
_HEADERS: Final = {
    401: {"WWW-Authenticate": "Which scheme is wanted: Bearer."},
    409: {"Retry-After": "Seconds, where waiting helps."},
    429: {"Retry-After": "Seconds to wait."},
    503: {"Retry-After": "Seconds to wait."},
}


@cache
def document(routes: tuple[Route, ...]) -> dict[str, Any]:
    """The document of `routes`."""
    types = {Document: None}
    for route in routes:
        for found in (route.body, route.answer):
            if found is not Nothing:
                types.setdefault(found)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for route in routes:
        paths[route.path][route.method.lower()] = _operation(route, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "UrlGuard",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "paths": dict(paths),
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Made by `urlguard token create NAME --role ROLE`.",
                }
            },
        },
    }


def _operation(route: Route, schema_of: dict[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": route.name,
        "tags": [route.tag],
        "summary": route.summary,
        "description": _words(route),
        "security": _security(route),
        "parameters": list(_parameters(route)),
        "responses": _responses(route, schema_of),
    }
    if route.roles is not None:
        found["x-roles"] = sorted(route.roles)
    if route.has_body:
        found["requestBody"] = {
            "required": True,
            "content": {
                media: {} if media == NDJSON else {"schema": schema_of.get(route.body, {})}
                for media in route.takes
            },
        }
    return found


def _security(route: Route) -> list[dict[str, list[str]]]:
    if route.roles is None:
        return []
    return [{"token": []}, {}] if route.anonymous else [{"token": []}]


def _words(route: Route) -> str:
    if route.roles is None:
        who = "Needs no token of the API."
    else:
        who = f"Roles: {', '.join(sorted(route.roles))}."
    if route.anonymous:
        who += " Also without a token, where the server takes what the public submits."
    return f"{route.words}\n\n{who}".strip()


def _parameters(route: Route) -> Any:
    if route.params is not Nothing:
        _, parts = msgspec.json.schema_components([route.params], ref_template=_REF)
        schema = parts[route.params.__name__]
        for name, one in schema["properties"].items():
            inside = name in route.in_path
            words = one.pop("description", "")
            yield {
                "name": name,
                "in": "path" if inside else "query",
                "required": inside or name in schema.get("required", ()),
                "description": words,
                "schema": _sendable(one),
            }
    if route.method == "POST":
        yield {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "Any text that this request alone has.",
            "schema": {"type": "string", "pattern": KEY},
        }


def _sendable(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema without null, which nobody can send: what is left out is null."""
    schema = dict(schema)
    if schema.get("default", ...) is None:
        del schema["default"]
    if "anyOf" in schema:
        rest = [one for one in schema.pop("anyOf") if one != {"type": "null"}]
        schema |= rest[0] if len(rest) == 1 else {"anyOf": rest}
    schema.pop("description", None)
    return schema


def _responses(route: Route, schema_of: dict[Any, Any]) -> dict[str, Any]:
    media = route.media.partition(";")[0]
    content = {"schema": schema_of[route.answer]}
    found: dict[int, dict[str, Any]] = {
        status: {"description": HTTPStatus(status).phrase, "content": {media: content}}
        for status in (200, *route.also)
    }
    kinds: dict[int, list[str]] = defaultdict(list)
    for kind in route.problems:
        kinds[KINDS[kind].status].append(kind)
    for status, names in kinds.items():
        words = " ".join(f"{KINDS[name].title}: {KINDS[name].words}" for name in names)
        answer = found.setdefault(status, {"description": words, "content": {}})
        answer["content"][CONTENT_TYPE] = {"schema": schema_of[Document]}
        if status in _HEADERS:
            answer["headers"] = {
                name: {"description": text, "schema": {"type": "string"}}
                for name, text in _HEADERS[status].items()
            }
    return {str(status): found[status] for status in sorted(found)}
