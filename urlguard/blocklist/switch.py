"""
How long filtering stays switched off.

The end travels in the category of the switch's ruling, so that it reaches whoever has the ruling:
filtering goes on by the clock, also where nobody is left to say so.
"""

import math
import re
from typing import Final

ON: Final = 0.0  # an end that has always passed: filtering is on

_UNTIL = re.compile(r"until ([0-9]{1,15})")  # as many digits as a float holds


def category(until: int | None) -> str:
    """
    The category of a ruling that switches filtering off.

    Args:
        until: when it goes on by itself, in seconds since 1970; None: never.
    """
    return "" if until is None else f"until {until}"


def end(text: str) -> float:
    """
    When filtering goes on by itself, in seconds since 1970, by a ruling's category.

    Infinite if the category names no end, as in rulings from before there was one in it.
    """
    match = _UNTIL.fullmatch(text)
    return float(match[1]) if match else math.inf
