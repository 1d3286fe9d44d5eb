"""
The clients: the policy of each address, worked out once and kept.

Networks of all sections that name any (who is allowed, segments, limits, front ends) are looked up
here and nowhere else, by longest prefix; the packet path finds a known client in one dictionary
look-up.  Knows addresses; knows no names, no rules and no packets.
"""

import ipaddress
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Final, Generic, NamedTuple, TypeVar

from urlguard.config import Config, Limit, Network, Segment

T = TypeVar("T")

MAX_CLIENTS: Final = 65_536  # remembered; then the oldest is forgotten, to be worked out again
MAX_PREFIXES: Final = 65_536  # the same for networks with limits
PLENTY: Final = 1 << 30  # queries that a client without limits may ask before anybody looks

NO_ANSWERS: Final[Mapping[bytes, Any]] = {}

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


class Grant:
    """
    What the packet cache may do for a client without asking a plugin.

    ``left``: queries that the client may ask before its limits are looked at again; the packet
    cache and the ``limit`` plugin count it down.  ``answers``: the stored answers of its segment,
    by the query's octets after the ID; the packet cache puts its table here with the first answer
    that it stores for the client, and never does for one that may have none.
    """

    __slots__ = ("answers", "left")

    def __init__(self, left: int) -> None:
        self.left = left
        self.answers: Mapping[bytes, Any] = NO_ANSWERS


class Client:
    """
    The policy of one client address.

    ``host``: the address as text.  ``address``: the same, IPv4 also where an IPv6 socket saw it, or
    None if it is not one.  ``allowed``: it is in ``[acl] allow``.  ``segment``: the segment that it
    is in, if any.  ``front``: ``proxy`` or ``ecs`` for a front end that speaks for others.

    ``bucket``, ``prefix`` and ``misses`` are its limits, None for none.  ``grant`` belongs to the
    packet cache.
    """

    __slots__ = (
        "address",
        "allowed",
        "bucket",
        "front",
        "grant",
        "host",
        "misses",
        "prefix",
        "segment",
    )

    def __init__(self, host: str, address: Address | None) -> None:
        self.host = host
        self.address = address
        self.allowed = False
        self.segment: Segment | None = None
        self.front: str | None = None
        self.grant = Grant(PLENTY)
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
        self.known: OrderedDict[str, Client] = OrderedDict()
        self._acl = "acl" in config.plugins
        # Clients that are not allowed get no answer at all, whatever they send.
        self.silent = self._acl and config.acl.otherwise == "drop"
        self.limited = "limit" in config.plugins
        self._limit: Limit | None = config.limit if self.limited else None
        self._allowed = Networks((n, True) for n in config.acl.allow)
        self._segments = Networks((n, s) for s in config.segment for n in s.networks)
        self._exempt = Networks((n, True) for n in config.limit.exempt)
        self._shared = Networks((n, True) for n in config.limit.shared)
        fronts = [(n, "proxy") for n in config.server.proxy_from]
        self._fronts = Networks([*fronts, *((n, "ecs") for n in config.server.ecs_from)])
        named = [*config.acl.allow, *(n for s in config.segment for n in s.networks)]
        # The longest prefix that decides about anything, by version.
        self.longest = {
            version: max((n.prefixlen for n in named if n.version == version), default=0)
            for version in (4, 6)
        }
        self._prefixes: OrderedDict[tuple[int, int], _Limits] = OrderedDict()

    def find(self, host: str) -> Client:
        """The client at an address, as text; of an IPv6 zone (``%eth0``) nothing is kept."""
        client = self.known.get(host)
        if client is None:
            if len(self.known) >= MAX_CLIENTS:
                self.known.popitem(last=False)
            client = self.known[host] = self._made(host)
        return client

    def _made(self, host: str) -> Client:
        address = parse(host)
        client = Client(host, address)
        client.front = self._fronts.find(address)
        client.allowed = not self._acl or self._allowed.find(address) is not None
        client.segment = self._segments.find(address)
        self._give_limits(client)
        return client

    def _give_limits(self, client: Client) -> None:
        limit, address = self._limit, client.address
        if limit is None or address is None or self._exempt.find(address) or client.front:
            return
        factor = limit.shared_factor if self._shared.find(address) else 1
        limits = self._of_prefix(limit, address, factor)
        client.prefix = limits.prefix
        if address.version == 6:
            # One subscriber has the whole network, and an address for each query if it likes.
            client.bucket, client.misses = limits.client, limits.misses
        else:
            client.bucket = _bucket(limit.client_qps * factor, limit.burst_s)
            client.misses = _bucket(limit.client_misses * factor, limit.burst_s)
        client.grant.left = 0

    def _of_prefix(self, limit: Limit, address: Address, factor: int) -> "_Limits":
        """What the addresses of one network have in common."""
        length = limit.prefix_ipv4 if address.version == 4 else limit.prefix_ipv6
        key = (address.version, int(address) >> (address.max_prefixlen - length))
        found = self._prefixes.get(key)
        if found is None:
            if len(self._prefixes) >= MAX_PREFIXES:
                self._prefixes.popitem(last=False)
            whole = factor if address.version == 6 else 0  # an IPv4 client is an address
            found = self._prefixes[key] = _Limits(
                _bucket(limit.prefix_qps, limit.burst_s),
                _bucket(limit.client_qps * whole, limit.burst_s),
                _bucket(limit.client_misses * whole, limit.burst_s),
            )
        else:
            self._prefixes.move_to_end(key)
        return found


class _Limits(NamedTuple):
    """The limits of a network, and those of one client that has all of it."""

    prefix: Bucket | None
    client: Bucket | None
    misses: Bucket | None


def _bucket(rate: float, burst_s: float) -> Bucket | None:
    """A bucket for a rate; none for a rate of 0, which means any."""
    return Bucket(rate, max(1.0, rate * burst_s)) if rate else None


def parse(host: str) -> Address | None:
    """
    An address from text; None if it is not one.

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
