"""
What anybody may do without a token, and how often.

Knows limits and pseudonyms; addresses come in and are never kept.  It exists only where
``[cases] public`` is on.
"""

import time
from collections.abc import Callable
from typing import Final

from urlguard.access.attempts import network
from urlguard.access.buckets import Buckets, Rate
from urlguard.api.problems import Problem
from urlguard.cases.submissions import Pseudonyms
from urlguard.config import Cases

AT_ONCE: Final = 5  # submissions of one network, after a time without any
LOOKS: Final = Rate(20, 0.2)  # at what became of one, by one network
LOOKS_TOGETHER: Final = Rate(1000, 50)


class Public:
    """
    Strangers' limits.

    Args:
        options: ``[cases]``.
        clock: the time in seconds, that never goes back.
    """

    def __init__(self, options: Cases, clock: Callable[[], float] = time.monotonic) -> None:
        each = options.public_per_address
        self._sent = Buckets(
            clock,
            Rate(min(each, AT_ONCE), each / 3600),
            Rate(options.public_burst, options.public_per_hour / 3600),
        )
        self._looks = Buckets(clock, LOOKS, LOOKS_TOGETHER)
        self._pseudonyms = Pseudonyms()

    def submits(self, address: str) -> str:
        """
        Somebody submits something: his network's pseudonym.

        Raises:
            Problem: not now.
        """
        _wait(self._sent.take(network(address)))
        return self._pseudonyms.of(network(address), time.time())

    def looks(self, address: str) -> None:
        """
        Somebody looks at what became of it.

        Raises:
            Problem: not now.
        """
        _wait(self._looks.take(network(address)))


def _wait(seconds: float) -> None:
    if seconds > 0:
        raise Problem("rate", "too many requests without a token", retry_after_s=seconds)
