"""
The open connections of a worker: how many there may be, and which one goes when there are too many.

One table for all its listeners whose transports are connections, so that a limit holds for them
together.  Knows clients and their addresses; knows neither sockets nor queries.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final, Protocol

from urlguard.config import Server
from urlguard.plugins.clients import Clients

DISALLOWED_SHARE: Final = 16  # of so many connections, one may be of a client that may not ask
_DISALLOWED: Final = "*"  # under which all of those are counted, beside their addresses
_LOOK_AT: Final = 64  # of those that were idle longest, when one has to go


class Connection(Protocol):
    """One open connection."""

    host: str  # the peer's address as text
    disallowed: bool  # of a client that is not allowed to ask
    waiting: int  # queries that are not answered yet

    def abort(self) -> None:
        """Close at once, and call `Connections.forget`."""
        ...


class Connections:
    """
    The connections of one worker, those active longest ago first.

    Args:
        limit: connections at most.
        per_client: of them, from one address.
    """

    def __init__(
        self, limit: int = Server.tcp_connections, per_client: int = Server.tcp_per_client
    ) -> None:
        self.limit = limit
        self.per_client = per_client
        self.by_client: Counter[str] = Counter()
        self._open: dict[Connection, None] = {}  # a dictionary for its order

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._open)

    def admit(self, connection: Connection, clients: Clients) -> tuple[bool, str | None]:
        """
        Count a new connection in, at the cost of the longest idle one if there are too many.

        Returns:
            Whether there is room for it, and the event to be counted if any connection had to go:
            ``closed_client`` (too many from one address, or its client may not ask) or
            ``closed_full``.
        """
        who = clients.find(connection.host)
        disallowed = not who.allowed and who.front is None
        if disallowed and (
            clients.silent or self.by_client[_DISALLOWED] >= max(1, self.limit // DISALLOWED_SHARE)
        ):
            # They get REFUSED, if anything: not at the cost of those who may ask.
            return False, "closed_client"
        # A front end speaks for many clients.
        if self.by_client[connection.host] >= self.per_client and who.front is None:
            return False, "closed_client"
        event = None
        if len(self._open) >= self.limit:
            event = "closed_full"
            # Looking at a few is enough: if so many of the oldest are busy, we are overloaded.
            for other, _ in zip(self._open, range(_LOOK_AT), strict=False):
                if not other.waiting:
                    other.abort()
                    break
            else:
                if not self._make_room(connection.host, clients):
                    return False, event
        self._open[connection] = None
        self.by_client[connection.host] += 1
        connection.disallowed = disallowed
        if disallowed:
            self.by_client[_DISALLOWED] += 1
        return True, event

    def _make_room(self, newcomer: str, clients: Clients) -> bool:
        """
        All are busy: one of the address with most of them goes, unless the newcomer has as many.
        """
        find = clients.find
        host, most = max(
            ((h, n) for h, n in self.by_client.items() if h != _DISALLOWED and not find(h).front),
            key=lambda item: item[1],
            default=("", 0),
        )
        if most <= self.by_client[newcomer] + 1:
            return False
        next(other for other in self._open if other.host == host).abort()
        return True

    def touch(self, connection: Connection) -> None:
        """Count a connection as the one active latest."""
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def forget(self, connection: Connection) -> None:
        """Count a connection out."""
        if connection in self._open:
            del self._open[connection]
            keys = (connection.host, _DISALLOWED) if connection.disallowed else (connection.host,)
            for key in keys:
                self.by_client[key] -= 1
                if not self.by_client[key]:
                    del self.by_client[key]
