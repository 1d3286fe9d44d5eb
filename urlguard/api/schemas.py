"""
The types of requests and answers that several routes share; JSON Schemas are made from them.

Unknown fields of a request are errors: a misspelt ``exipres_at`` must not be taken for none.
"""

import time
from typing import Annotated, Any, Literal

import msgspec

from urlguard import times
from urlguard.api import paging
from urlguard.api.problems import Problem
from urlguard.errors import InputError

Action = Literal["block", "review", "allow", "none"]

Kind = Literal["domain", "subtree", "below", "pattern", "url"]

Seconds = Annotated[
    int, msgspec.Meta(ge=0, le=1 << 53, description="Seconds since 1970-01-01, UTC.")
]
Moment = Annotated[
    Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
    | Annotated[str, msgspec.Meta(min_length=2, max_length=40)]
    | None,
    msgspec.Meta(
        description="Seconds since 1970-01-01, UTC; or a time such as `2030-01-31T12:00Z`; or a"
        " duration from now such as `12h`, `7d`. Must be to come."
    ),
]
Category = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$",
        description="What kind of fraud, such as `phishing`.",
    ),
]
Remark = Annotated[
    str,
    msgspec.Meta(
        max_length=2000,
        pattern=r"^[^\u0000-\u001f\u007f]*$",
        description="For the record; no control characters.",
    ),
]
Item = Annotated[
    str, msgspec.Meta(max_length=65_536, description="A name, a URL or an address, as found.")
]


class Rule(msgspec.Struct):
    """The rule that decided."""

    value: Annotated[str, msgspec.Meta(description="What it covers, in canonical form.")]
    kind: Kind
    category: Annotated[str, msgspec.Meta(description="Such as `phishing`; may be empty.")]
    sources: Annotated[
        list[str],
        msgspec.Meta(description="Who says so: `operator`, `analyst:NAME`, `feed:NAME`; sorted."),
    ]
    serial: Annotated[int, msgspec.Meta(description="The batch that brought it into force.")]


class Words(msgspec.Struct):
    """A sentence in two languages."""

    en: str
    zh: str


class Reason(msgspec.Struct):
    """One of the classifier's reasons."""

    feature: str
    value: Any
    contribution: Annotated[float, msgspec.Meta(description="In log-odds.")]
    words: Words


class Verdict(msgspec.Struct):
    """What UrlGuard thinks of one item; the object of `urlguard check --json`."""

    input: Annotated[str, msgspec.Meta(description="The text as given.")]
    kind: Literal["name", "url", "ip", "invalid"]
    canonical: Annotated[
        str | None, msgspec.Meta(description="In canonical form; null if invalid.")
    ]
    name: Annotated[str | None, msgspec.Meta(description="The host name, if there is one.")]
    registrable: Annotated[
        str | None, msgspec.Meta(description="The domain that somebody registered.")
    ]
    action: Action
    reason: Literal["blocklist", "pattern", "allowlist", "popular", "classifier", "none"]
    score: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=1)] | None,
        msgspec.Meta(description="How probably it is fraud; null where no model ran."),
    ]
    rule: Rule | None
    model: Annotated[str | None, msgspec.Meta(description="The model that ran.")]
    why: Annotated[list[Reason], msgspec.Meta(description="Reasons, if they were asked for.")]
    error: Annotated[
        str | None, msgspec.Meta(description="What is wrong with an item of kind `invalid`.")
    ]


class Page(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Parameters of every list."""

    limit: paging.Limit = paging.DEFAULT
    cursor: paging.Cursor | None = None


def moment(value: int | str | None, field: str, after: int | None = None) -> int | None:
    """
    A `Moment` in seconds since 1970.

    Args:
        value: as it was sent.
        field: its name, for the error.
        after: a time that it must be later than, and durations count from; None: now.

    Raises:
        Problem: it is no time to come.
    """
    try:
        if isinstance(value, str):
            return times.expiry(value, field, after=after)
        if value is not None and value <= (after or time.time()):
            raise InputError("must be later" if after else "must be to come")
    except InputError as exc:
        words = str(exc).removeprefix(f"{field} ")
        raise Problem("invalid", f"{field}: {words}", errors=[(field, words)]) from None
    return value
