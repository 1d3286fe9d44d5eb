"""
The verdict on a name or URL, and the ruling behind it.

A `Ruling` is the result of all claims at one rule key: the policy log derives it, snapshots and
overlays store it.  A `Verdict` is the engine's result for one input.  Knows no packets, files or
databases.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from urlguard.rules import SHADOWED

FEED = "feed:"  # the prefix of a feed's name among sources
CLASSIFIER = "classifier"  # the source of a model's ruling


class Ruling(NamedTuple):
    """
    The rule in force at a rule key.

    Attributes:
        action: block, review, allow, or except: see ``resolved``.
        sources: sorted: ``operator``, ``analyst:NAME``, ``feed:NAME``.  A model's ruling, which has
            no key, has ``classifier``, kind ``model`` and the model's name as its value.
        serial: the batch that put it into force.
        kind, value: the rule that decided.
        resolved: a ruling at the key of a feed's exception.  It takes all claims of feeds at its
            value into account, so it may be a wider rule of another feed, or action ``except`` if
            no feed's rule is left.
    """

    action: str
    category: str
    sources: tuple[str, ...]
    serial: int
    kind: str
    value: str
    resolved: bool = False

    @property
    def operator(self) -> bool:
        """True for a decision by a person, which takes precedence over every feed."""
        return not self.sources[0].startswith(FEED) and self.sources[0] != CLASSIFIER

    def as_json(self) -> dict[str, Any]:
        """The ``rule`` object of ``urlguard check --json``."""
        return {
            "value": self.value,
            "kind": self.kind,
            "category": self.category,
            "sources": list(self.sources),
            "serial": self.serial,
        }


def encode(ruling: Ruling | None) -> str | None:
    """The compact text of a ruling at its key, for logs and snapshots; None stays None."""
    if ruling is None:
        return None
    parts: list[Any] = [ruling.action, ruling.category, list(ruling.sources), ruling.serial]
    if ruling.resolved:
        parts += [ruling.kind, ruling.value]
    return json.dumps(parts, separators=(",", ":"))


def decode(text: str | None, key: str) -> Ruling | None:
    """The ruling that `encode` wrote for `key`."""
    if text is None:
        return None
    # The key of a rule in shadow has a prefix before the rule's own key.
    kind, _, value = key.removeprefix(SHADOWED).partition(" ")
    return from_parts(json.loads(text), kind, value)


def from_parts(parts: Sequence[Any], kind: str, value: str) -> Ruling:
    """A ruling at `kind` and `value` from the decoded list that `encode` wrote."""
    action, category, sources, serial = parts[:4]
    if len(parts) > 4:
        return Ruling(action, category, tuple(sources), serial, parts[4], parts[5], True)
    return Ruling(action, category, tuple(sources), serial, kind, value)


class Verdict(NamedTuple):
    """
    The engine's result for one name or URL.

    ``action`` is block, review, allow or none; ``reason`` is blocklist, pattern, classifier,
    allowlist, popular or none; ``score`` is the model's, 0 to 1, or None if no model ran.
    """

    action: str
    reason: str
    rule: Ruling | None = None
    score: float | None = None
    model: str | None = None
    why: Sequence[dict[str, Any]] = ()


NOTHING = Verdict("none", "none")
