"""
The canonical form of a pattern, and what a pattern may be.
"""

import re

from urlguard.errors import InputError

KEYWORD = "keyword:"
MIN_LITERAL = 4  # characters; shorter ones would nominate their pattern on every other query
MAX_PATTERN = 255
MAX_STARS = 8  # keeps the regular expression's worst case small
_NAME_CHARS = re.compile(r"[a-z0-9._*-]+")
_URL_CHARS = re.compile(r"[!-)+-~*]+")


def canonical(text: str) -> str:
    """
    The canonical form of a pattern: lower case, runs of stars as one.

    Only the host of a URL pattern is lower-cased; paths keep their case.

    Raises:
        InputError: a character that cannot be there, no literal of at least 4 characters, more than
            8 stars, or more than 255 characters.
    """
    pattern = re.sub(r"\*+", "*", text.strip())
    host, slash, path = pattern.partition("/")
    pattern = host.lower() + slash + path
    body = pattern.removeprefix(KEYWORD)
    allowed = _URL_CHARS if slash else _NAME_CHARS
    if len(pattern) > MAX_PATTERN:
        raise InputError(f"pattern: {len(pattern)} characters, limit is {MAX_PATTERN}")
    if body != pattern and ("*" in body or slash or "." in body):
        raise InputError(f"pattern {text!r}: a keyword is one word, without '*', '.' and '/'")
    if not allowed.fullmatch(body):
        what = "printable ASCII" if slash else "letters, digits, '-', '_', '.' and '*'"
        raise InputError(f"pattern {text!r}: may have only {what}")
    if body.count("*") > MAX_STARS:
        raise InputError(f"pattern {text!r}: {body.count('*')} stars, limit is {MAX_STARS}")
    if len(_longest_literal(pattern)) < MIN_LITERAL:
        raise InputError(f"pattern {text!r}: needs {MIN_LITERAL} characters in a row without '*'")
    return pattern


def _longest_literal(text: str) -> str:
    """What the automaton looks for: the longest run without a star."""
    body = text.removeprefix(KEYWORD)
    return max(body.split("*"), key=len)
