"""
The end of a pause of all filtering.

A pause is an operator's claim with the key `rules.PAUSE`.  Its end is written in the ruling's
category, so it reaches every worker with the ruling, and a worker ends the pause by its own clock
even if no other process is running.
"""

import math
import re
from typing import Final

NOT_PAUSED: Final = 0.0  # an end that has always passed

_UNTIL = re.compile(r"until ([0-9]{1,15})")  # as many digits as a float holds


def pause_category(until: int | None) -> str:
    """
    The category of a pause's ruling.

    Args:
        until: end of the pause in seconds since 1970; None: it has no end.
    """
    return "" if until is None else f"until {until}"


def pause_end(category: str) -> float:
    """
    The end of a pause in seconds since 1970, read from its ruling's category.

    Infinite if the category names no end.
    """
    match = _UNTIL.fullmatch(category)
    return float(match[1]) if match else math.inf
