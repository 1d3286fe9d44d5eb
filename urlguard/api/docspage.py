"""
``/docs``: the OpenAPI document as one page, for people.

Made here and complete in itself: no script, nothing fetched from anywhere, and a content security
policy that forbids both.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from urlguard.api.problems import KINDS

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --strong: #0a6; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 small { font-weight: normal; opacity: .6; }
h2 { border-bottom: 1px solid var(--line); margin-top: 2.5rem; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .6rem 0; }
summary { cursor: pointer; padding: .5rem .7rem; }
details > div { padding: 0 .9rem .6rem; }
.method { display: inline-block; min-width: 4.5rem; font-weight: bold; color: var(--strong); }
.roles { opacity: .7; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0;
  border-top: 1px solid var(--line); }
"""
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)


def page(document: dict[str, Any]) -> str:
    """The page for an OpenAPI document."""
    info = document["info"]
    return "".join(
        [
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_e(info['title'])} API</title><style>{_STYLE}</style></head><body>",
            f"<h1>{_e(info['title'])} API <small>{_e(info['version'])}</small></h1>",
            _prose(info["description"]),
            '<p>The same for programs: <a href="/openapi.json">openapi.json</a></p>',
            *_operations(document),
            "<h2>Types</h2>",
            *_types(document),
            "<h2>Problems</h2>",
            *_problems(),
            "</body></html>\n",
        ]
    )


def _operations(document: dict[str, Any]) -> Iterator[str]:
    for tag in document["tags"]:
        yield f"<h2>{_e(tag['name'])}</h2>"
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    yield from _operation(method.upper(), path, operation)


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f'<details id="{_e(operation["operationId"])}"><summary>'
    yield f'<span class="method">{method}</span> <code>{_e(path)}</code> '
    yield f"{_e(operation['summary'])}</summary><div>{_prose(operation['description'])}"
    if operation["parameters"]:
        yield "<table><tr><th>parameter</th><th>in</th><th>type</th><th></th></tr>"
        for one in operation["parameters"]:
            words = one["description"] + (" Required." if one["required"] else "")
            yield f"<tr><td><code>{_e(one['name'])}</code></td><td>{_e(one['in'])}</td>"
            yield f"<td>{_kind(one['schema'])}</td><td>{_inline(words)}</td></tr>"
        yield "</table>"
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body: <code>{_e(media)}</code>, {_kind(content.get('schema', {}))}</p>"
    yield "<table><tr><th>status</th><th>answer</th><th></th></tr>"
    for status, answer in operation["responses"].items():
        kinds = " or ".join(_kind(c["schema"]) for c in answer["content"].values())
        yield f"<tr><td>{_e(status)}</td><td>{kinds}</td><td>{_inline(answer['description'])}</td>"
        yield "</tr>"
    yield "</table></div></details>"


def _types(document: dict[str, Any]) -> Iterator[str]:
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield f'<details id="type-{_e(name)}"><summary><code>{_e(name)}</code> '
        yield f"{_inline(schema.get('description', ''))}</summary><div><table>"
        yield "<tr><th>field</th><th>type</th><th></th></tr>"
        needed = schema.get("required", ())
        for field, one in schema.get("properties", {}).items():
            words = one.get("description", "")
            if field not in needed and one.get("default") is not None:
                words += f" `{json.dumps(one['default'])}` if left out."
            elif field not in needed:
                words += " Optional."
            yield f"<tr><td><code>{_e(field)}</code></td><td>{_kind(one)}</td>"
            yield f"<td>{_inline(words.strip())}</td></tr>"
        yield "</table></div></details>"


def _problems() -> Iterator[str]:
    yield "<table><tr><th>type</th><th>status</th><th>title</th><th></th></tr>"
    for name, kind in KINDS.items():
        yield f'<tr id="problem-{_e(name)}"><td><code>#problem-{_e(name)}</code></td>'
        yield f"<td>{kind.status}</td><td>{_e(kind.title)}</td><td>{_inline(kind.words)}</td></tr>"
    yield "</table>"


def _kind(schema: dict[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#type-{_e(name)}">{_e(name)}</a>'
    if "enum" in schema:
        return " | ".join(f"<code>{_e(json.dumps(value))}</code>" for value in schema["enum"])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_kind(one) for one in schema[key])
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}{_limits(schema)}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_kind(schema['additionalProperties'])}"
    return f"{_e(str(kind))}{_limits(schema)}"


def _limits(schema: dict[str, Any]) -> str:
    for low, high in (
        ("minimum", "maximum"),
        ("minLength", "maxLength"),
        ("minItems", "maxItems"),
    ):
        if high in schema:
            return f" ({schema.get(low, 0):,} to {schema[high]:,})"
    return ""


def _prose(text: str) -> str:
    return "".join(f"<p>{_inline(part)}</p>" for part in text.split("\n\n") if part.strip())


def _inline(text: str) -> str:
    """Text with `code` in it."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _e(text))


def _e(text: str) -> str:
    return html.escape(text)
