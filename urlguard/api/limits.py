"""
How often anybody may do what needs no token, by network and all together.

Kept in memory: after a restart everybody begins anew.  Knows no routes.
"""

from collections.abc import Callable
from typing import Final

from urlguard.access.attempts import network
from urlguard.access.buckets import Buckets, Rate
from urlguard.api.problems import Problem

# At once, and a second after that: of one network, and of all together.
APPEAL: Final = (Rate(10, 1 / 60), Rate(100, 2))  # a mistyped number counts as well
SEE: Final = (Rate(60, 1), Rate(500, 50))  # the state of one's own appeal
PROVE: Final = (Rate(10, 1 / 30), Rate(50, 1))  # look-ups and requests to strangers
PROVE_ONE: Final = (Rate(3, 1 / 60), Rate(50, 1))  # of one appeal


class Limits:
    """
    The limits of one server.

    Args:
        clock: the time in seconds, that never goes back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._appeal = Buckets(clock, *APPEAL)
        self._see = Buckets(clock, *SEE)
        self._prove = Buckets(clock, *PROVE)
        self._prove_one = Buckets(clock, *PROVE_ONE)

    def appeal(self, address: str) -> None:
        """Another appeal from an address; raises `Problem` if it must wait."""
        _held(self._appeal.take(network(address)))

    def see(self, address: str) -> None:
        """Another look at an appeal; raises `Problem` if it must wait."""
        _held(self._see.take(network(address)))

    def prove(self, address: str, ident: str) -> None:
        """Another look at the proof of an appeal; raises `Problem` if it must wait."""
        _held(self._prove.take(network(address)))
        _held(self._prove_one.take(ident))


def _held(wait_s: float) -> None:
    if wait_s > 0:
        raise Problem("rate", "too many requests; wait", retry_after_s=wait_s)
