"""
Metadata of one configuration key: limits, choices and description; its type is the field's.

Used by the sections of `config.sections` and by the options of plugins, so that checks and the
reference table are the same for both.
"""

from dataclasses import field
from typing import Any


def key(
    default: Any,
    words: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    pattern: str | None = None,
) -> Any:
    """
    A field of a frozen dataclass that is read from one key of a TOML table.

    Args:
        default: the value without the key; immutable.
        words: its description in the reference table.
        low: the least number allowed, with `high` the greatest.
        choices: the only texts allowed.
        pattern: a regular expression that the whole text must match.
    """
    meta = {"words": words, "low": low, "high": high, "choices": choices, "pattern": pattern}
    if isinstance(default, list | dict):
        raise TypeError("defaults are immutable")
    return field(default=default, metadata=meta)


def table(words: str) -> Any:
    """A field for a table whose keys people choose: ``dict[str, …]``, empty by default."""
    return field(
        default_factory=dict,
        metadata={"words": words, "low": None, "high": None, "choices": None, "pattern": None},
    )
