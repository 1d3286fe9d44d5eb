"""
The policy engine: from a name or URL to a ruling or verdict.  No I/O, no packets.

How it works.  `Engine` is one snapshot with one overlay.  `decide` is the packet path: it returns
the rule that decides about a host name.  One call into the trie finds the rules at the name and its
parents; most names have none, and a single pass of the pattern automaton follows.  Only where rules
were found are the tiers compared:

    operator's and analysts' rules  →  feeds  →  patterns  →  popularity  →  classifier

Within a tier the most specific rule wins (the URL, the exact name, then the longest subtree or
below), and at equal specificity allow beats block beats review.  A feed's exception that cancels
all feed rules for the name ends the feeds' tier: patterns are next.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from operator import itemgetter

from urlguard import urls, wellknown
from urlguard.blocklist.overlay import Overlay
from urlguard.blocklist.patterns import Pattern
from urlguard.blocklist.snapshot import Snapshot, nothing
from urlguard.blocklist.table import EMPTY
from urlguard.names import parents
from urlguard.rules import Rule
from urlguard.verdict import NOTHING, Ruling, Verdict, from_parts

# Rules in shadow are compared only with each other.
_STRENGTH = {"review": 0, "block": 1, "allow": 2, "except": 2, "shadow": 0}

# How specific a kind is before length counts: an exact name beats any subtree, a URL beats both.
_DEPTH = {"below": 0, "subtree": 0, "domain": 1, "url": 2, "pattern": 0}

_REASON = {"block": "blocklist", "review": "blocklist", "allow": "allowlist"}

_UNCHANGED: Mapping[str, Ruling | None] = {}

# Greater decides.  Operator before feed, depth, length, see `_rank`, strength of the action.
Rank = tuple[bool, int, int, int, int]
Candidate = tuple[Rank, Ruling]


class Engine:
    """One policy; the overlay may grow while the engine is active."""

    def __init__(self, snapshot: Snapshot, overlay: Overlay | None = None) -> None:
        self.snapshot = snapshot
        # An overlay without rules is falsy, but may have a pause.
        self.overlay = Overlay(snapshot.serial) if overlay is None else overlay
        self._keys = snapshot.names.keys
        self._cell = snapshot.names.cell
        self._patterned = len(snapshot.patterns) > 0

    def shadow(self) -> "Engine | None":
        """The rules in shadow, as an engine of their own; None while there are none."""
        snapshot, overlay = self.snapshot.shadow, self.overlay.shadow
        if snapshot is None and overlay is None:
            return None
        return Engine(snapshot or nothing(), overlay)

    @property
    def serial(self) -> int:
        """The batch whose policy is in force."""
        return self.overlay.serial

    @property
    def paused(self) -> bool:
        """
        True while the operator has paused filtering; a pause with an end ends by the clock.

        Rulings stay the same during a pause: callers that act on them check this first.
        """
        until = self.overlay.paused_until
        if until is None:
            until = self.snapshot.paused_until
        # Reads the clock during a pause only: this property is read for each blocked name.
        return until > 0 and time.time() < until

    def decide(self, name: str) -> Ruling | None:
        """
        The rule that decides about a host name; None if there is none.

        Args:
            name: lower case, without a trailing dot; a queried name may hold any character.

        Returns:
            A ruling with action block, review or allow.
        """
        keys = self._keys(name)
        changed = self.overlay.names
        if len(keys) == 1 and not changed:
            # Most listed names: one subtree rule, and nothing to compare it with.
            ((key, number),) = keys
            cell = self._cell(number)
            parts = cell.get("subtree")
            if parts is not None and len(cell) == 1 and parts[0] != "except":
                return from_parts(parts, "subtree", key[-2::-1])
        if (
            keys or (changed and (name in changed or any(map(changed.__contains__, parents(name)))))
        ) and (ruling := _winner(self._covering(name, keys))):
            return ruling
        if self._patterned or self.overlay.patterns:
            return _winner(self._patterns(f".{name}.", on_url=False))
        return None

    def covering(self, name: str) -> list[Ruling]:
        """All rulings in force that cover a host name, including those that do not decide."""
        found = list(self._covering(name, self._keys(name)))
        found += self._patterns(f".{name}.", on_url=False)
        return [ruling for _, ruling in found if ruling.action != "except"]

    def at(self, rule: Rule) -> Ruling | None:
        """The ruling in force at the key of a pattern or URL rule; None if there is none."""
        pattern = rule.kind == "pattern"
        changed = self.overlay.patterns if pattern else self.overlay.urls
        if rule.value in changed:
            return changed[rule.value]
        return (self.snapshot.pattern if pattern else self.snapshot.url)(rule.value)

    def among(self, name: str, added: Collection[Ruling]) -> Ruling | None:
        """
        The ruling that would decide about `name` if rules that cover it were added.

        Args:
            name: as for `decide`.
            added: their rulings; each replaces the one in force at its key, except that a feed's
                does not replace a person's.
        """
        at = {(ruling.kind, ruling.value): ruling.operator for ruling in added}

        def stays(ruling: Ruling) -> bool:
            new = at.get((ruling.kind, ruling.value))
            return new is None or ruling.operator > new

        in_force = {
            False: self._covering(name, self._keys(name)),
            True: self._patterns(f".{name}.", on_url=False),
        }
        for patterns, found in in_force.items():
            tier = [candidate for candidate in found if stays(candidate[1])]
            for ruling in added:
                if (ruling.kind == "pattern") is patterns:
                    length = Pattern(ruling.value).specificity if patterns else len(ruling.value)
                    tier.append((_rank(ruling, ruling.kind, length), ruling))
            if winner := _winner(tier):
                return winner
        return None

    def verdict(self, name: str) -> Verdict:
        """The verdict on a canonical host name."""
        ruling = self.decide(name)
        return _popular(name) if ruling is None else _by(ruling)

    def url_verdict(self, url: urls.Url) -> Verdict:
        """The verdict on a URL, by the rules and patterns for URLs and for its host."""
        name = url.name
        rules = list(self._expressions(url))
        if name is not None:
            rules += self._covering(name, self._keys(name))
        if ruling := _winner(rules):
            return _by(ruling)
        patterns = list(self._patterns(url.canonical.partition("://")[2], on_url=True))
        if name is not None:
            patterns += self._patterns(f".{name}.", on_url=False)
        if ruling := _winner(patterns):
            return _by(ruling)
        return NOTHING if name is None else _popular(name)

    def _covering(self, name: str, keys: Iterable[tuple[str, int]]) -> Iterator[Candidate]:
        """
        The name rules that cover `name`, the overlay's in the snapshot's place key by key.

        `keys` are those that the snapshot's table has for the name.
        """
        found = self.snapshot.names.cells(keys)
        changed = self.overlay.names
        for value in (name, *parents(name)) if changed else found:
            cell, changes = found.get(value, EMPTY), changed.get(value, _UNCHANGED)
            exact = value == name
            for kind in ("domain", "subtree") if exact else ("subtree", "below"):
                if kind in changes:
                    ruling = changes[kind]
                else:
                    parts = cell.get(kind)
                    ruling = None if parts is None else from_parts(parts, kind, value)
                if ruling is not None:
                    yield _rank(ruling, kind, len(value)), ruling

    def _expressions(self, url: urls.Url) -> Iterator[Candidate]:
        """The URL rules that cover `url`."""
        changed, snapshot = self.overlay.urls, self.snapshot
        if not changed and not len(snapshot.urls):
            return
        for expression in urls.expressions(url):
            ruling = changed[expression] if expression in changed else snapshot.url(expression)
            if ruling is not None:
                yield _rank(ruling, "url", len(expression)), ruling

    def _patterns(self, subject: str, on_url: bool) -> Iterator[Candidate]:
        """The patterns that fit `subject`; see `PatternSet.matching`."""
        changed, snapshot = self.overlay.patterns, self.snapshot
        for pattern in snapshot.patterns.matching(subject, on_url):
            if pattern.text not in changed and (ruling := snapshot.pattern(pattern.text)):
                yield _rank(ruling, "pattern", pattern.specificity), ruling
        for pattern in self.overlay.pattern_set.matching(subject, on_url):
            if ruling := changed[pattern.text]:
                yield _rank(ruling, "pattern", pattern.specificity), ruling


def _rank(ruling: Ruling, kind: str, length: int) -> Rank:
    """
    The precedence of the ruling at a key of `kind`; the greatest decides.

    A resolved ruling already combines the feeds' claims at its value and above, so it precedes the
    others there; one for ``below`` includes the ``subtree`` at the same value, not the reverse.
    """
    resolved = ruling.resolved + (ruling.resolved and kind == "below")
    return ruling.operator, _DEPTH[kind], length, resolved, _STRENGTH[ruling.action]


def _winner(candidates: Iterable[Candidate]) -> Ruling | None:
    best = max(candidates, default=None, key=itemgetter(0))
    return None if best is None or best[1].action == "except" else best[1]


def _by(ruling: Ruling) -> Verdict:
    reason = "pattern" if ruling.kind == "pattern" else _REASON[ruling.action]
    return Verdict(ruling.action, reason, ruling)


def _popular(name: str) -> Verdict:
    """Allow for a popular name, which the classifier then does not score."""
    return Verdict("allow", "popular") if wellknown.popular_rank(name) else NOTHING


Changed = Callable[[Collection[str] | None], None]


class ActiveEngine:
    """
    The engine in force, and the callbacks for its changes.

    Read `engine` once per query and keep it: the whole query is then decided by one snapshot, even
    if a swap happens meanwhile.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._subscribers: list[Changed] = []

    def subscribe(self, callback: "Changed") -> None:
        """
        Call `callback` after every change of policy: a swap, or new rules in the overlay.

        Its argument is the names with changed rules: the verdict may have changed for these and for
        names below them.  None: for any name.
        """
        self._subscribers.append(callback)

    def unsubscribe(self, callback: "Changed") -> None:
        """Remove a callback; an unknown one is ignored."""
        if callback in self._subscribers:
            self._subscribers.remove(callback)

    def swap(self, engine: Engine) -> None:
        """Put another engine into use."""
        self.engine = engine
        self.changed()

    def changed(self, names: Collection[str] | None = None) -> None:
        """Tell subscribers that the policy in force has changed; see `subscribe`."""
        for callback in self._subscribers:
            callback(names)
