"""
Lists in pages: ``{"items": [...], "next": cursor or null}``.

A cursor is where the next page begins, packed so that clients do not take it apart: the values that
the list is sorted by, as of the last item given.  So a list that changes meanwhile neither skips
nor repeats what stayed.  It is no secret and not signed: it says nothing that the client could not
ask for.
"""

import base64
import binascii
from typing import Annotated, Any, Final, TypeVar

import msgspec

from urlguard.api.problems import Problem

DEFAULT: Final = 100
MOST: Final = 1000

T = TypeVar("T")

Limit = Annotated[
    int, msgspec.Meta(ge=1, le=MOST, description=f"Items a page; {DEFAULT} if left out.")
]
Cursor = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=4096,
        pattern=r"^[A-Za-z0-9_-]*$",
        description="`next` of the page before; leave it out for the first page.",
    ),
]
Next = Annotated[
    str | None,
    msgspec.Meta(description="The cursor of the next page; null on the last one."),
]


def encode(*values: Any) -> str:
    """The cursor after an item with these values."""
    return base64.urlsafe_b64encode(msgspec.json.encode(values)).rstrip(b"=").decode("ascii")


def decode(text: str | None, type_: type[T]) -> T | None:
    """
    The values in a cursor; None for the first page.

    Args:
        text: as the client sent it.
        type_: a tuple type, such as ``tuple[str, int]``.

    Raises:
        Problem: it is none that `encode` made of such values.
    """
    if text is None:
        return None
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        return msgspec.json.decode(packed, type=type_)
    except (binascii.Error, msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        raise Problem(
            "invalid",
            "the cursor is none of this list's",
            errors=[("cursor", "must be `next` of a page of this list")],
        ) from None
