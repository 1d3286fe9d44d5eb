"""
``GET /``: where the API's parts are, in the reader's language.

No token, no script, nothing that depends on the policy.
"""

import base64
import hashlib
import html
from functools import cache
from typing import Final

from urlguard import i18n
from urlguard.api.routes import PUBLIC, Call, Encoded, Nothing, Route
from urlguard.i18n import gettext_noop

_STYLE: Final = (
    ":root{color-scheme:light dark}"
    "body{font:16px/1.6 system-ui,sans-serif;max-width:40rem;margin:0 auto;padding:1rem}"
    "code{font-family:ui-monospace,monospace;font-size:.9em}"
)
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)

_TOKEN: Final = gettext_noop(
    "Most operations need a token; the first start writes one to admin.token."
)
_LINKS: Final = (
    ("/docs", gettext_noop("every operation of the API, on one page")),
    ("/openapi.json", gettext_noop("the same for programs, as an OpenAPI document")),
    ("/healthz", gettext_noop("whether the server answers queries")),
    ("/readyz", gettext_noop("whether every worker enforces the current policy")),
)


@cache
def page(language: str) -> str:
    """The page in one of `i18n.LANGUAGES`."""
    gettext = i18n.translations(language).gettext
    links = "".join(
        f'<li><a href="{path}"><code>{path}</code></a>: {html.escape(gettext(words))}</li>'
        for path, words in _LINKS
    )
    return (
        f'<!doctype html><html lang="{language}"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>UrlGuard API</title><style>{_STYLE}</style><h1>UrlGuard API</h1>"
        f"<p>{html.escape(gettext(_TOKEN))}</p><ul>{links}</ul></html>\n"
    )


async def root(call: Call[Nothing, Nothing]) -> Encoded:
    """The page, by ``Accept-Language``."""
    language = i18n.negotiate(call.request.headers.get("Accept-Language"))
    return Encoded(page(language).encode())


ROUTES: Final = (
    Route(
        method="GET",
        path="/",
        roles=PUBLIC,
        tag="This description",
        summary="Where the API's parts are",
        words="A page in English or Chinese, by `Accept-Language`.",
        answer=str,
        media="text/html; charset=utf-8",
        headers=(("Content-Security-Policy", POLICY), ("Vary", "Accept-Language")),
        handler=root,
    ),
)
