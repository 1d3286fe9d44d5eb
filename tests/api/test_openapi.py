"""The description of the API: valid, whole, and what the server does."""

import asyncio
import html.parser
import json
import os
import re
import sys
import typing
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from urlguard.access.roles import Role
from urlguard.api import docspage
from urlguard.api.openapi import document
from urlguard.api.routes import EVERYONE, Call
from urlguard.api.table import ROUTES, routes

ALL = routes(None)


def named(route):
    return f"{route.method} {route.path}"


def test_it_is_valid():
    """
    The document is OpenAPI 3.1, and holds nothing that JSON cannot say.
    """
    found = document(ALL)
    OpenAPIV31SpecValidator(json.loads(json.dumps(found))).validate()
    assert found["openapi"].startswith("3.1.")


def test_it_has_every_route():
    """
    Each route is an operation with its parameters, roles and problems; names are there once.
    """
    paths = document(ALL)["paths"]
    assert {(m.upper(), p) for p, methods in paths.items() for m in methods} == {
        (route.method, route.path) for route in ALL
    }
    names = [o["operationId"] for methods in paths.values() for o in methods.values()]
    assert len(set(names)) == len(names)
    for route in ALL:
        operation = paths[route.path][route.method.lower()]
        stranger = [{}] if route.anonymous else []
        assert operation["security"] == ([{"token": []}, *stranger] if route.roles else [])
        inside = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
        assert inside == set(route.in_path)
        statuses = set(operation["responses"])
        assert {"200", "400", "500"} <= statuses
        assert ("401" in statuses) == (route.roles is not None or route.path == "/metrics")
        assert ("403" in statuses) == (
            route.path == "/metrics" or (route.roles is not None and route.roles != EVERYONE)
        )
        assert any(p["name"] == "Idempotency-Key" for p in operation["parameters"]) == (
            route.method == "POST"
        )


@pytest.mark.parametrize("route", ALL, ids=named)
def test_handlers_take_and_give_what_the_table_says(route):
    """
    The types in the table are those in the handler's signature.
    """
    hints = typing.get_type_hints(route.handler)
    assert typing.get_origin(hints["call"]) is Call
    assert typing.get_args(hints["call"]) == (route.body, route.params)
    assert hints["return"].__name__ in (
        *("Encoded", "tuple"),
        getattr(route.answer, "__name__", ""),
    )


async def test_it_is_served(http, backend):
    """
    /openapi.json is the document of all routes.
    """
    async with http.get(f"{backend.base}/openapi.json") as answer:
        assert answer.content_type == "application/json"
        assert await answer.json() == json.loads(json.dumps(document(ALL)))


class Links(html.parser.HTMLParser):
    """What a page fetches, leads to, and has as targets."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.tags = set()
        self.links = set()
        self.targets = set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        for name, value in attributes:
            assert name not in ("src", "style", "onclick")
            if name == "href":
                self.links.add(value)
            if name == "id":
                self.targets.add(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


async def test_docs_are_whole_in_themselves(http, backend):
    """
    The page has every operation and problem, leads nowhere outside, and fetches nothing.
    """
    async with http.get(f"{backend.base}/docs") as answer:
        assert answer.content_type == "text/html"
        assert answer.headers["Content-Security-Policy"] == docspage.POLICY
        page = await answer.text()
    found = Links()
    found.feed(page)
    assert not found.open
    assert not found.tags & {"script", "img", "link", "iframe", "form", "object"}
    assert "url(" not in page
    inside = {link[1:] for link in found.links if link.startswith("#")}
    assert inside <= found.targets
    assert found.links - {f"#{target}" for target in inside} == {"/openapi.json"}
    for route in ALL:
        assert route.path in page
        for kind in route.problems:
            assert f"problem-{kind}" in found.targets


def test_the_page_for_readers():
    """
    The table of docs/api.md has every operation with its roles.
    """
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")
    said = dict(re.findall(r"^\| `([A-Z]+ /\S*)` \| ([^|]+) \|", page, re.M))
    assert said.keys() == {named(route) for route in ALL}
    for route in ROUTES:
        if route.roles is None:
            wanted = "no token"
        elif route.roles == EVERYONE:
            wanted = "all"
        else:
            wanted = ", ".join(role for role in Role if role in route.roles)
        assert said[named(route)] == wanted


def test_docs_escape():
    """
    Text of the document is text on the page.
    """
    found = document(ALL)
    found = json.loads(json.dumps(found).replace("Check names", "<script>alert(1)</script>"))
    assert "<script>" not in docspage.page(found)
    assert "&lt;script&gt;" in docspage.page(found)
    assert re.search(r"<code>Authorization: Bearer TOKEN</code>", docspage.page(found))


@pytest.mark.slow
@pytest.mark.parametrize("role", [Role.ADMIN, Role.REPORTER])
async def test_schemathesis(backend, role, tmp_path):
    """
    Whatever fits or does not fit the document: no error of the server's, no undocumented answer.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{backend.base}/openapi.json"),
        *("--header", f"Authorization: Bearer {backend.token[role]}", "--seed", "1", "--no-color"),
        *("--max-examples", "30", "--checks", "all", "--request-timeout", "10"),
        # What a schema cannot say, such as that a name needs a dot, is 422 all the same.
        *("--exclude-checks", "positive_data_acceptance"),
        cwd=tmp_path,
        env={**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, output.decode()
    assert f"Tested: {len(ROUTES)}".encode() in output, output.decode()


def test_the_table_is_in_order():
    """
    What the table may not have: two handlers for one operation, a body on a GET.
    """
    assert len({(r.method, r.path) for r in ROUTES}) == len(ROUTES)
    for route in ROUTES:
        assert route.method != "GET" or not route.has_body
        assert route.method in ("GET", "POST", "DELETE", "PUT", "PATCH")
