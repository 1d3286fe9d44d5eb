"""
Times and durations in user syntax: RFC 3339 in UTC, and durations such as ``12h``.
"""

import re
import time
from datetime import UTC, datetime

from urlguard.errors import InputError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def moment(when: int) -> str:
    """Format a time in seconds since 1970 as RFC 3339 in UTC, which the options accept too."""
    try:
        return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"second {when}"  # a duration of millions of weeks


def expiry(text: str | None, what: str = "expires", *, after: int | None = None) -> int | None:
    """
    Parse the time of a beginning or an end; seconds since 1970.

    Args:
        text: the user's input; None stays None.
        what: the option's name, for the error message.
        after: a duration counts from here, and a time must be later; None: from now.

    Raises:
        InputError: neither a duration such as ``12h`` nor a time, or a time in the past.
    """
    if text is None:
        return None
    start = int(time.time()) if after is None else after
    if match := re.fullmatch(r"(\d{1,9})([smhdw])", text):
        when = start + int(match[1]) * _UNITS[match[2]]
    else:
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            raise InputError(
                f"{what} {text!r}: must be a duration such as 30m, 12h, 7d, or a time such as "
                "2030-01-31T12:00Z"
            ) from None
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        when = int(at.timestamp())
    if after is not None and when <= after:
        raise InputError(f"{what} {text!r}: must be later than {moment(after)}, when it begins")
    if when <= time.time():
        raise InputError(f"{what} {text!r}: is in the past")
    return when
