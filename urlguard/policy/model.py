"""
The rows of the policy log, and what is asked of it.
"""

from typing import NamedTuple


class BatchRow(NamedTuple):
    """One row of ``batch``."""

    serial: int
    time: int
    actor: str
    source: str
    reason: str
    payload_sha256: str
    effect_sha256: str
    prev_hash: str
    hash: str


class ClaimRow(NamedTuple):
    """One row of ``claim``."""

    rule: str
    source: str
    category: str
    action: str
    evidence: str
    from_serial: int
    to_serial: int | None
    expires_at: int | None


class EffectRow(NamedTuple):
    """One row of ``effect``."""

    serial: int
    key: str
    before: str | None
    after: str | None


class Change(NamedTuple):
    """A claim that a source wants to make; action None withdraws what it says about the rule."""

    rule: str  # a rule key
    action: str | None
    category: str = ""
    evidence: str = ""
    expires_at: int | None = None  # seconds since 1970, UTC


class Batch(NamedTuple):
    """What a commit did."""

    serial: int
    claims: int  # made or ended
    effects: list[EffectRow]
