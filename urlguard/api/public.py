"""
What anybody may do without a token, and how often.

Knows limits and pseudonyms; addresses come in and are never kept.  It exists only where
``[cases] public`` is on.
"""

import time
from collections.abc import Callable
from typing import Final

from urlguard.access.attempts import network
from urlguard.access.buckets import Rate
from urlguard.api.limits import Limit
from urlguard.cases.submissions import Pseudonyms
from urlguard.config import Cases

AT_ONCE: Final = 5  # submissions of one network, after a time without any
LOOKS: Final = Rate(20, 0.2)  # at what became of one, by one network
LOOKS_TOGETHER: Final = Rate(1000, 50)
_WORDS: Final = "too many requests without a token"


class Public:
    """
    Strangers' limits.

    Args:
        options: ``[cases]``.
        clock: the time in seconds, that never goes back.
    """

    def __init__(self, options: Cases, clock: Callable[[], float] = time.monotonic) -> None:
        each = options.public_per_address
        self._sent = Limit(
            clock,
            Rate(min(each, AT_ONCE), each / 3600),
            Rate(options.public_burst, options.public_per_hour / 3600),
            _WORDS,
        )
        self._looks = Limit(clock, LOOKS, LOOKS_TOGETHER, _WORDS)
        self._pseudonyms = Pseudonyms()

    def submits(self, address: str) -> None:
        """
        Somebody submits something.

        Raises:
            Problem: not now.
        """
        self._sent.by_address(address)

    def pseudonym(self, address: str) -> str:
        """That of an address's network."""
        return self._pseudonyms.of(network(address), time.time())

    def looks(self, address: str) -> None:
        """
        Somebody looks at what became of it.

        Raises:
            Problem: not now.
        """
        self._looks.by_address(address)
