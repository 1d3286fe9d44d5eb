"""
The sockets that clients talk to, one listener for each.

`Listener` is what a worker and its metrics know of any of them; a new transport needs no more.
"""

from collections import Counter
from typing import Protocol

from urlguard.config import Server
from urlguard.wire.query import Transport


class Listener(Protocol):
    """
    One listening socket of a worker.

    ``counters`` holds, since the start, ``queries``, what each listener counts beside them, and
    nothing under the name of another listener's counter that means something else.
    """

    @property
    def transport(self) -> Transport:
        """How its queries come, as the metrics name it."""
        ...

    @property
    def counters(self) -> Counter[str]:
        """What happened since the start, by event."""
        ...

    async def start(self) -> None:
        """Begin to take queries."""
        ...

    def configure(self, server: Server) -> None:
        """Keep to other limits from now on, after a reload."""
        ...

    async def drain(self, deadline_s: float) -> bool:
        """
        Take no more queries and wait for those under way, for `deadline_s` seconds at most.

        Returns:
            True if all of them were answered.
        """
        ...

    def close(self) -> None:
        """Close the socket and all that came of it, at once."""
        ...
