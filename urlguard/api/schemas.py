"""
The types of requests and answers that several routes share; JSON Schemas are made from them.

Unknown fields of a request are errors: a misspelt ``exipres_at`` must not be taken for none.
"""

import time
from typing import Annotated, Any, Final, Literal, overload

import msgspec

from urlguard import times
from urlguard.api import paging
from urlguard.api.problems import Problem
from urlguard.errors import InputError

Action = Literal["block", "review", "allow", "none"]

Kind = Literal["domain", "subtree", "below", "pattern", "url"]

# How the API writes times, see `utc`.
Time = Annotated[
    str,
    msgspec.Meta(
        description="RFC 3339, in UTC and whole seconds: `2030-01-31T12:00:00Z`.",
        extra_json_schema={"format": "date-time"},
    ),
]
_LAST: Final = 253_402_300_799  # the last second that RFC 3339 can write

Moment = Annotated[
    Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
    | Annotated[str, msgspec.Meta(min_length=2, max_length=40)]
    | None,
    msgspec.Meta(
        description="A time such as `2030-01-31T12:00Z`, a duration from now such as `12h` or `7d`,"
        " or seconds since 1970-01-01 (UTC). Must be in the future."
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


@overload
def utc(seconds: float) -> str: ...
@overload
def utc(seconds: float | None) -> str | None: ...
def utc(seconds: float | None) -> str | None:
    """A time in seconds since 1970 as the API writes it; None stays None."""
    return None if seconds is None else times.moment(int(min(seconds, _LAST)))


def with_utc(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of a row, those that end in ``_at`` as the API writes times."""
    return {name: utc(value) if name.endswith("_at") else value for name, value in fields.items()}


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
