"""
Cases that one address has in common: which names are looked up, and when a shared address counts.

Knows no SQL and no DNS, and has no clock.  Names of a kit stand beside each other on a server of
its own long before anything else connects them; on a shared host or behind a CDN, though, an
address connects strangers.  So one that more than `MAX_SHARED` cases have says nothing, and is
neither shown nor listed: nobody shall decide a thousand cases at once because of it.
"""

from collections.abc import Mapping
from typing import Final, Protocol

PREFIX: Final = "address:"  # of a campaign that an address makes; patterns never begin so
MAX_SHARED: Final = 200  # cases of one address, in whatever state
AGAIN_S: Final = 86_400  # after which a name is looked up again,
RETRY_S: Final = 3600  # and after this if nobody could say


class AddressStore(Protocol):
    """The part of `urlguard.cases.store.Store` that keeps addresses; all else is said there."""

    def unaddressed(self, count: int, now: int) -> list[tuple[int, str]]:
        """
        Numbers and names of open and leased cases whose names shall be looked up, the highest
        priority first.

        The same ones come again until `addressed` says what came of them.
        """

    def addressed(self, found: Mapping[int, str | None], now: int) -> None:
        """
        Keep what came of look-ups.

        Args:
            found: by a case's number its address, in one spelling for each address; "" if it has
                none, None if nobody could say: then what is known stays, and it is looked up again
                after `RETRY_S`.
            now: the time.
        """
