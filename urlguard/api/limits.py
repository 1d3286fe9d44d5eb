"""
How often anybody may do what needs no token, by network and all together.

Kept in memory: after a restart everybody begins anew.  Knows no routes.

How it works.  What costs others something, such as a look at a stranger's proof, has a limit for
all together.  It is taken for what exists alone: else one who makes up IDs or incident numbers uses
up what others need.  Those who try are held up before that, each network for itself, and all
together only where finding out would be too much work.
"""

import contextlib
from collections.abc import Callable, Hashable, Iterator
from typing import Final

from urlguard.access.attempts import network
from urlguard.access.buckets import Bucket, Buckets, Rate
from urlguard.api.problems import Problem

# At once, and a second after that: of one network, and of all together.
APPEAL: Final = (Rate(10, 1 / 60), Rate(100, 2))  # of one network mistyped numbers count as well
SEE: Final = (Rate(60, 1), Rate(500, 50))  # the state of one's own appeal
PROVE: Final = (Rate(10, 1 / 30), Rate(50, 1))  # look-ups and requests to strangers
PROVE_ONE: Final = Rate(3, 1 / 60)  # of one appeal
TRIES: Final = Rate(500, 50)  # to find out whether there is what somebody names; some 0.1 ms each


class Limit:
    """
    A limit on one sort of request.

    Args:
        clock: the time in seconds, that never goes back.
        each: of one network, or whatever the key is.
        together: of all.
        words: for who must wait.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        each: Rate,
        together: Rate,
        words: str = "too many requests; wait",
    ) -> None:
        self._buckets = Buckets(clock, each, together)
        self._words = words

    def by_address(self, address: str) -> None:
        """Another one of an address's network; raises `Problem` if it must wait."""
        self.take(network(address))

    def take(self, key: Hashable) -> None:
        """Another one; raises `Problem` if it must wait."""
        _held(self._buckets.take(key), self._words)


class Limits:
    """
    The limits of one server.

    Args:
        clock: the time in seconds, that never goes back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._appeal = Limit(clock, APPEAL[0], TRIES)
        self._appeals = Bucket(clock, APPEAL[1])
        self._see = Limit(clock, *SEE)
        self._prove = Limit(clock, PROVE[0], TRIES)
        self._proofs = Limit(clock, PROVE_ONE, PROVE[1])

    def appeals(self, address: str) -> None:
        """Somebody is about to send an appeal; raises `Problem` if he must wait."""
        self._appeal.by_address(address)

    @contextlib.contextmanager
    def appeal(self) -> Iterator[None]:
        """
        Another appeal; raises `Problem` if it must wait.

        What turns out to be none, by a `Problem` that says so, costs nobody else anything.
        """
        _held(self._appeals.take())
        try:
            yield
        except Problem as exc:
            if exc.kind == "invalid":
                self._appeals.give_back()
            raise

    def see(self, address: str) -> None:
        """Another look at an appeal; raises `Problem` if it must wait."""
        self._see.by_address(address)

    def prove(self, address: str) -> None:
        """Somebody names an appeal to be proved; raises `Problem` if he must wait."""
        self._prove.by_address(address)

    def proof(self, ident: str) -> None:
        """Another look at the proof of an appeal that exists; raises `Problem` if it must wait."""
        self._proofs.take(ident)


def _held(wait_s: float, words: str = "too many requests; wait") -> None:
    if wait_s > 0:
        raise Problem("rate", words, retry_after_s=wait_s)
