"""
The rule changes since a snapshot: from exact key to ruling, or to None for a key that is gone.

The overlay overrides the snapshot key by key, *before* precedence is worked out over all levels, so
the two together say what the next compile will.  Rules in shadow are in an overlay of their own,
within it, which nobody who decides looks into.  One writer; readers see a change at once.
"""

from collections.abc import Iterable

from urlguard.blocklist.patterns import PatternSet
from urlguard.blocklist.pause import NOT_PAUSED, pause_end
from urlguard.rules import PAUSE, SHADOWED
from urlguard.verdict import Ruling

# Beyond this a compile is due: every worker keeps its own copy of the overlay.
MAX_KEYS = 50_000
MAX_PATTERNS = 1_000


class Overlay:
    """Changes on top of one snapshot."""

    def __init__(self, serial: int) -> None:
        """`serial`: the batch up to which the overlay says everything."""
        self.serial = serial
        # value → rule kind → ruling
        self.names: dict[str, dict[str, Ruling | None]] = {}
        self.urls: dict[str, Ruling | None] = {}
        self.patterns: dict[str, Ruling | None] = {}
        self.pattern_set = PatternSet(())
        # When filtering goes on, in seconds since 1970; None: what the snapshot says.
        self.paused_until: float | None = None
        self.shadow: Overlay | None = None  # changes of rules in shadow, if there were any

    def __len__(self) -> int:
        own = len(self.names) + len(self.urls) + len(self.patterns)
        return own if self.shadow is None else own + len(self.shadow)

    def apply(self, changes: Iterable[tuple[str, Ruling | None]], serial: int) -> None:
        """
        Take over changes, each a key and what stands there now.

        Pattern changes build a new small automaton: 0.7 ms for the most there may be.
        """
        patterns_changed = False
        aside = []
        for key, ruling in changes:
            kind, _, value = key.partition(" ")
            if kind == "pattern":
                self.patterns[value] = ruling
                patterns_changed = True
            elif kind == "url":
                self.urls[value] = ruling
            elif key == PAUSE:
                self.paused_until = NOT_PAUSED if ruling is None else pause_end(ruling.category)
            elif key.startswith(SHADOWED):
                aside.append((value, ruling))
            else:
                self.names.setdefault(value, {})[kind] = ruling
        if patterns_changed:
            self.pattern_set = PatternSet([t for t, r in self.patterns.items() if r is not None])
        if aside:
            if self.shadow is None:
                self.shadow = Overlay(serial)
            self.shadow.apply(aside, serial)
        self.serial = serial
