"""``/v1/webhooks``: whom the server tells when submissions are decided."""

import time
from typing import Annotated, Any, Final, Literal

import msgspec

from urlguard.access.roles import Role
from urlguard.api.problems import Problem
from urlguard.api.routes import Call, Nothing, Route
from urlguard.api.schemas import Time, with_utc
from urlguard.api.v1.casework import stored
from urlguard.cases import webhooks
from urlguard.cases.webhooks import MAX_WEBHOOKS
from urlguard.errors import InputError
from urlguard.fetch import signing
from urlguard.fetch.bounds import FetchError
from urlguard.fetch.http import check_webhook

Event = Literal["submission.decided", "submission.undone"]


class WebhookRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Whom to tell of what."""

    url: Annotated[
        str,
        msgspec.Meta(
            max_length=2048,
            description="https://, a host name with a dot; port 443, or any from 1024.",
        ),
    ]
    events: Annotated[list[Event], msgspec.Meta(min_length=1, max_length=10)]
    secret: Annotated[
        Annotated[str, msgspec.Meta(max_length=200)] | None,
        msgspec.Meta(description="`whsec_` and 24 to 64 octets in base64; a new one if left out."),
    ] = None


class Hook(msgspec.Struct, kw_only=True):
    """Somebody who is told, and how that goes."""

    id: str
    url: str
    events: list[str]
    created_by: str
    created_at: Time
    delivered: Annotated[int, msgspec.Meta(description="Messages that have arrived.")]
    waiting: Annotated[int, msgspec.Meta(description="Messages to be sent.")]
    given_up: Annotated[int, msgspec.Meta(description="Messages that did not arrive in a day.")]
    last_delivered_at: Annotated[Time | None, msgspec.Meta(description="When one arrived.")]
    error: Annotated[str | None, msgspec.Meta(description="Of the last try; null: it did well.")]


class NewHook(Hook, kw_only=True):
    """It is set up."""

    secret: Annotated[
        str, msgspec.Meta(description="What messages are signed with; it is told this once.")
    ]


class Hooks(msgspec.Struct):
    """All webhooks, the oldest first."""

    items: list[Hook]


class OneHook(msgspec.Struct, forbid_unknown_fields=True):
    """Which webhook."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class Removed(msgspec.Struct):
    """It is gone, with what was waiting for it."""

    id: str


async def webhooks_create(call: Call[WebhookRequest, Nothing]) -> NewHook:
    """Set a webhook up."""
    asked, who = call.body, call.holder.name
    url = asked.url
    try:
        check_webhook(url)
    except FetchError as exc:
        raise Problem("invalid", str(exc), errors=[("url", str(exc))]) from None
    secret = signing.new_secret() if asked.secret is None else asked.secret
    try:
        signing.sign([secret], "test", 0, b"")
    except InputError as exc:
        raise Problem("invalid", str(exc), errors=[("secret", str(exc))]) from None
    events = tuple(dict.fromkeys(asked.events))
    made = await stored(
        call.services, lambda s: s.add_webhook(url, events, secret, who, int(time.time()))
    )
    return NewHook(**_fields(made), secret=secret)


def _fields(made: webhooks.Webhook) -> dict[str, Any]:
    fields: dict[str, Any] = made._asdict()
    del fields["number"], fields["secret"]
    return with_utc(fields) | {"events": list(made.events)}


async def webhooks_list(call: Call[Nothing, Nothing]) -> Hooks:
    """All webhooks."""
    found = await stored(call.services, lambda s: s.webhooks())
    return Hooks([Hook(**_fields(one)) for one in found])


async def webhook_delete(call: Call[Nothing, OneHook]) -> Removed:
    """Take a webhook away."""
    ident = call.params.id
    if not await stored(call.services, lambda s: s.remove_webhook(ident)):
        raise Problem("not-found", "there is no such webhook")
    return Removed(ident)


_TAG: Final = "Webhooks"
_ADMIN: Final = frozenset({Role.ADMIN})

ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/webhooks",
        roles=_ADMIN,
        tag=_TAG,
        summary="Set a webhook up",
        words="Messages are signed as in Standard Webhooks, and sent at least once: a receiver"
        f" knows one that it has already by `webhook-id`. At most {MAX_WEBHOOKS}.",
        body=WebhookRequest,
        answer=NewHook,
        handler=webhooks_create,
        secret=True,
    ),
    Route(
        method="GET",
        path="/v1/webhooks",
        roles=_ADMIN,
        tag=_TAG,
        summary="Webhooks",
        answer=Hooks,
        handler=webhooks_list,
    ),
    Route(
        method="DELETE",
        path="/v1/webhooks/{id}",
        roles=_ADMIN,
        tag=_TAG,
        summary="Take a webhook away",
        params=OneHook,
        answer=Removed,
        errors=("not-found",),
        handler=webhook_delete,
    ),
)
