"""
What names and URLs of one campaign have in common, as a short text: equal texts, one campaign.

Pure functions over text.  A pattern alone means little; a case is shown as part of a campaign only
once another case has the same one.
"""

import re
from typing import Final

from urlguard import names

_digits = re.compile(r"[0-9]+").sub
_letters = re.compile(r"[a-z]")
_LEAST_LETTERS: Final = 3  # "0.top" would be every name of digits
_LEAST_SEGMENTS: Final = 3  # of a path; shorter ones are anybody's
_LEAST_PATH: Final = 16  # characters
_LONGEST: Final = 200


def pattern(item: str, owner: str) -> str | None:
    """
    The pattern of an item, None if it has none worth comparing.

    Names that are numbered, ``icbc-95588.top`` and ``icbc-95533.top``, give ``icbc-0.top``: digits
    are one zero in the owner's own label, what stands to the right of it stays.  Otherwise a long
    path gives ``*/track/0/pay.php?id``, as kits leave the same one on each host: digits likewise,
    and of the query only the names of its parameters.

    Args:
        item: a canonical name or URL.
        owner: whose it is.
    """
    label, dot, rest = owner.partition(".")
    series = _digits("0", label)
    if (
        dot
        and series != label
        and not label.startswith("xn--")
        and len(_letters.findall(series)) >= _LEAST_LETTERS
        and not names.is_public_suffix(owner)
    ):
        return f"{series}.{rest}"[:_LONGEST]
    _, found, after = item.partition("://")
    path, _, query = after.partition("?")
    path = path[path.find("/") :] if "/" in path else ""
    if not found or path.count("/") < _LEAST_SEGMENTS or len(path) < _LEAST_PATH:
        return None
    series = "*" + _digits("0", path.lower())
    if query:
        series += "?" + ",".join(sorted({part.partition("=")[0] for part in query.split("&")}))
    return series[:_LONGEST]
