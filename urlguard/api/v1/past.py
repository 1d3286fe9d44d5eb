"""
The verdict on a name or URL at any time that the policy log covers.

Where `check` has the policy in force, this has that of an earlier serial, as far as it concerns one
item: the claims about all keys that cover it, and an `Engine` over what stood at them.  So the
weighing is the engine's own, and its object is the one of ``urlguard check``.

No model is asked: the log does not know which one was in use.  The popularity table is this
version's.  Knows nothing of HTTP.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from urlguard import check, names, urls
from urlguard.blocklist import snapshot
from urlguard.blocklist.overlay import Overlay
from urlguard.blocklist.patterns import Pattern
from urlguard.engine import Engine
from urlguard.errors import InputError
from urlguard.policy.history import History
from urlguard.policy.log import PolicyLog
from urlguard.policy.model import ClaimRow
from urlguard.rules import PAUSE
from urlguard.verdict import FEED, NOTHING, Verdict

MAX_TURNS: Final = 500  # batches that a list of changes looks at; each is weighed anew
_PATTERN: Final = "pattern "


class Turn(NamedTuple):
    """A batch after which something else was said of the item."""

    serial: int
    before: Verdict
    after: Verdict


class Past:
    """
    What was said of one item.

    ``kind``, ``canonical`` and ``name`` are those of the object of ``urlguard check``.

    Args:
        log: within ``store.reading()``, so that all of it is of one serial.
        text: a name, a URL or an address, as somebody typed or found it.

    Raises:
        InputError: it is none of these.
    """

    def __init__(self, log: PolicyLog, text: str) -> None:
        self._text = text
        self._without = snapshot.nothing()
        found = check.inspect(Engine(self._without), text)
        if found["error"] is not None:
            raise InputError(found["error"])
        self.kind: str = found["kind"]
        self.canonical: str = found["canonical"]
        self.name: str | None = found["name"]
        # The canonical form of a canonical form is itself.
        self._url = urls.parse(self.canonical) if self.kind == "url" else None
        self._history = History(log.store.claims_about(list(self._keys(log))))
        self._pauses = History(log.store.claims_about([PAUSE]))

    def engine(self, serial: int) -> Engine:
        """What the engine knew about the item, and no more, once batch `serial` was made."""
        overlay = Overlay(serial)
        overlay.apply([*self._history.rulings(serial), *self._pauses.rulings(serial)], serial)
        return Engine(self._without, overlay)

    def object(self, serial: int) -> dict[str, object]:
        """The object of ``urlguard check`` then, by rules and popularity alone."""
        return check.inspect(self.engine(serial), self._text)

    def verdict(self, serial: int) -> Verdict:
        """What the engine said then."""
        if self._url is not None:
            return self.engine(serial).url_verdict(self._url)
        return NOTHING if self.name is None else self.engine(serial).verdict(self.name)

    def paused(self, serial: int, moment: float) -> bool:
        """True if filtering was paused at a time, in seconds since 1970, of that serial."""
        until = self.engine(serial).overlay.paused_until
        return until is not None and moment < until

    def claims(self, serial: int) -> list[tuple[ClaimRow, bool]]:
        """
        The claims that stood then, and whether the verdict was what they say.

        Those that decided come first, then people's before lists', then the longest.
        """
        rule = self.verdict(serial).rule
        decided = (
            None
            if rule is None
            else (f"{rule.kind} {rule.value}", rule.action, frozenset(rule.sources))
        )
        found = [
            (
                c,
                decided is not None
                and (c.rule, c.action) == decided[:2]
                and c.source in decided[2],
            )
            for c in self._history.standing(serial)
        ]
        return sorted(
            found,
            key=lambda cd: (not cd[1], cd[0].source.startswith(FEED), -len(cd[0].rule), cd[0]),
        )

    def turns(self, most: int) -> tuple[list[Turn], bool]:
        """
        The batches after which something else was said, newest first, and whether that is all.

        Args:
            most: so many at most; and of batches about the item the newest `MAX_TURNS` are looked
                at, since a list may have named and dropped it a thousand times.
        """
        serials = self._history.turns()
        found: list[Turn] = []
        after = self.verdict(serials[0]) if serials else NOTHING
        for serial, earlier in zip(serials[:MAX_TURNS], [*serials[1:], 0], strict=False):
            before = self.verdict(earlier)
            if _decision(before) != _decision(after):
                if len(found) == most:
                    return found, False
                found.append(Turn(serial, before, after))
            after = before
        return found, len(serials) <= MAX_TURNS

    def _keys(self, log: PolicyLog) -> Iterator[str]:
        """The keys that cover the item, as the engine asks for them."""
        if self._url is not None:
            for expression in urls.expressions(self._url):
                yield f"url {expression}"
        if self.name is not None:
            yield f"domain {self.name}"
            yield f"subtree {self.name}"
            for parent in names.parents(self.name):
                yield f"subtree {parent}"
                yield f"below {parent}"
        for key in log.store.rules_ever(_PATTERN):
            if self._fits(Pattern(key.removeprefix(_PATTERN))):
                yield key

    def _fits(self, pattern: Pattern) -> bool:
        if pattern.on_url:
            subject = "" if self._url is None else self._url.expression
        else:
            subject = "" if self.name is None else f".{self.name}."
        # The literal first, as the automaton does: hardly any pattern gets beyond it.
        return pattern.literal in subject and pattern.matches(subject)


def _decision(verdict: Verdict) -> tuple[object, ...]:
    """What two verdicts must share to be the same for the world: all but sources and serial."""
    rule = verdict.rule
    said = rule and (rule.kind, rule.value, rule.category, rule.operator)
    return verdict.action, verdict.reason, said
