"""
Who asks: what policy knows of a client address, worked out once and remembered.

Networks of all sections that name any (who is allowed, segments, limits, front ends) are looked up
here and nowhere else, by longest prefix; the packet path finds a known client in one dictionary
look-up.  Knows addresses; knows no names, no rules and no packets.
"""

import ipaddress
from collections.abc import Iterable
from typing import Any, Final, Generic, TypeVar

from urlguard.config import Config, Limit, Network, Segment

T = TypeVar("T")

MAX_CLIENTS: Final = 65_536  # remembered; then all are forgotten and worked out again
PLENTY: Final = 1 << 30  # queries that a client without limits may ask before anybody looks

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Networks(Generic[T]):
    """
    Networks with a value each; a look-up finds the value of the longest that holds an address.

    It costs one dictionary look-up for each prefix length in use, however many networks there are.
    """

    def __init__(self, items: Iterable[tuple[Network, T]] = ()) -> None:
        by_shift: dict[int, dict[int, dict[int, T]]] = {4: {}, 6: {}}
        for network, value in items:
            shift = network.max_prefixlen - network.prefixlen
            known = by_shift[network.version].setdefault(shift, {})
            known.setdefault(int(network.network_address) >> shift, value)
        self._sorted = {v: sorted(found.items()) for v, found in by_shift.items()}

    def find(self, address: Address | None) -> T | None:
        """The value of the longest network that holds `address`; None if none does."""
        if address is None:
            return None
        number = int(address)
        for shift, known in self._sorted[address.version]:
            value = known.get(number >> shift)
            if value is not None:
                return value
        return None


class Bucket:
    """
    A rate and a burst: so many a second on average, and so many at once.

    ``left`` may be counted down directly while it is positive; `take` fills it again.
    """

    __slots__ = ("burst", "left", "rate", "since")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self.left = burst
        self.since = 0.0

    def take(self, now: float, count: float = 1.0) -> bool:
        """True if `count` may be used at `now`, in seconds of the loop's time."""
        left = min(self.burst, self.left + (now - self.since) * self.rate)
        self.since = now
        if left < count:
            self.left = left
            return False
        self.left = left - count
        return True


class Client:
    """
    A client address.

    ``host``: the address as text.  ``address``: the same, IPv4 also where an IPv6 socket saw it, or
    None for what is none.  ``allowed``: it is in ``[acl] allow``.  ``segment``: the segment that it
    is in, if any.  ``front``: ``proxy`` or ``ecs`` for a front end that speaks for others.

    ``ready``: the ready answers that it may be given; nothing is ever put in there for clients that
    may have none.  ``left``: queries it may ask before the limits are looked at again.  ``bucket``,
    ``prefix`` and ``misses`` are its limits, None for none.
    """

    __slots__ = (
        "address",
        "allowed",
        "bucket",
        "front",
        "host",
        "left",
        "misses",
        "prefix",
        "ready",
        "segment",
    )

    def __init__(self, host: str, address: Address | None) -> None:
        self.host = host
        self.address = address
        self.allowed = False
        self.segment: Segment | None = None
        self.front: str | None = None
        self.ready: dict[bytes, Any] = {}
        self.left = PLENTY
        self.bucket: Bucket | None = None
        self.prefix: Bucket | None = None
        self.misses: Bucket | None = None


class Clients:
    """
    The table of clients of one worker.

    Args:
        config: all sections that name networks.

    ``limited`` is False if no ``limit`` plugin is in the chain.
    """

    def __init__(self, config: Config) -> None:
        self.known: dict[str, Client] = {}
        self.ready: dict[str, dict[bytes, Any]] = {}  # ready answers, by the segment's name
        self._acl = "acl" in config.plugins
        self.limited = "limit" in config.plugins
        self._limit: Limit | None = config.limit if self.limited else None
        self._allowed = Networks((n, True) for n in config.acl.allow)
        self._segments = Networks((n, s) for s in config.segment for n in s.networks)
        self._exempt = Networks((n, True) for n in config.limit.exempt)
        self._shared = Networks((n, True) for n in config.limit.shared)
        fronts = [(n, "proxy") for n in config.server.proxy_from]
        self._fronts = Networks([*fronts, *((n, "ecs") for n in config.server.ecs_from)])
        self._prefixes: dict[tuple[int, int], Bucket] = {}

    def find(self, host: str) -> Client:
        """The client at an address, as text; of an IPv6 zone (``%eth0``) nothing is kept."""
        client = self.known.get(host)
        if client is None:
            if len(self.known) >= MAX_CLIENTS:
                self.forget()
            client = self.known[host] = self._made(host)
        return client

    def forget(self) -> None:
        """Begin anew.  Limits that were used up are so too: bounded memory comes first."""
        self.known.clear()
        self._prefixes.clear()

    def _made(self, host: str) -> Client:
        address = parse(host)
        client = Client(host, address)
        client.front = self._fronts.find(address)
        client.allowed = not self._acl or self._allowed.find(address) is not None
        client.segment = self._segments.find(address)
        self._give_limits(client)
        if client.allowed and client.front is None:
            name = client.segment.name if client.segment else ""
            client.ready = self.ready.setdefault(name, {})
        return client

    def _give_limits(self, client: Client) -> None:
        limit, address = self._limit, client.address
        if limit is None or address is None or self._exempt.find(address) or client.front:
            return
        factor = limit.shared_factor if self._shared.find(address) else 1
        if limit.client_qps:
            rate = limit.client_qps * factor
            client.bucket = Bucket(rate, max(1.0, rate * limit.burst_s))
        if limit.client_misses:
            rate = limit.client_misses * factor
            client.misses = Bucket(rate, max(1.0, rate * limit.burst_s))
        if limit.prefix_qps:
            client.prefix = self._prefix(limit, address)
        client.left = 0

    def _prefix(self, limit: Limit, address: Address) -> Bucket:
        length = limit.prefix_ipv4 if address.version == 4 else limit.prefix_ipv6
        key = (address.version, int(address) >> (address.max_prefixlen - length))
        bucket = self._prefixes.get(key)
        if bucket is None:
            rate = limit.prefix_qps
            bucket = self._prefixes[key] = Bucket(rate, max(1.0, rate * limit.burst_s))
        return bucket


def parse(host: str) -> Address | None:
    """
    An address in text; None for what is none.

    An IPv4 client of an IPv6 socket (``::ffff:192.0.2.1``) counts as IPv4; a scope (``%eth0``) does
    not matter.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address
