"""
rebind: keep public names from leading into private networks.

A page whose name suddenly resolves to 192.168.1.1 talks to the visitor's own router, and the
browser takes it for the same site (DNS rebinding).  Runs below the cache, so that each upstream
reply is looked at once, before it is stored.  Knows addresses; knows no rules and no sockets.

How it works
    The first two octets of an address find, in a table, whether any network could hold it.  Nearly
    every public address is done with then.  The rest are looked up by longest prefix; addresses
    that carry an IPv4 address inside an IPv6 one are looked up as that too.
"""

import ipaddress
from collections import Counter
from collections.abc import Iterable
from typing import Final, Self

from urlguard import config
from urlguard.config import Network
from urlguard.plugins.base import Answer, Exchange, Local, Parts
from urlguard.plugins.clients import Networks
from urlguard.wire import reply as replies
from urlguard.wire.answer import EDE_BLOCKED

TTL_S: Final = 60  # of the answer in its place: whoever repairs the zone need not wait for long

# Look-ups for one reply.  More addresses than this, all close to private ones, are nothing that an
# honest zone has; a long reply must not hold up everybody else's.
MAX_LOOKUPS: Final = 256

_EMBEDDED: Final = {
    # IPv6 networks and the offset of the IPv4 address in their addresses.
    ipaddress.ip_network("::ffff:0:0/96"): 12,  # IPv4-mapped, RFC 4291 section 2.5.5.2
    ipaddress.ip_network("::/96"): 12,  # IPv4-compatible, RFC 4291 section 2.5.5.1
    ipaddress.ip_network("64:ff9b::/96"): 12,  # NAT64, RFC 6052 section 2.1
    ipaddress.ip_network("2002::/16"): 2,  # 6to4, RFC 3056 section 2
}


class Rebind(Local):
    """
    NODATA in place of an answer with a private address.

    ``counters``: ``blocked``.

    Args:
        options: ``[rebind]``.
        exempt: further zones that may lead there: those of ``[forward.zones]``.
    """

    name = "rebind"
    cacheable = True

    def __init__(self, options: config.Rebind, exempt: Iterable[str] = ()) -> None:
        self.counters: Counter[str] = Counter()
        self._off = options.mode == "off"
        zones = {*options.exempt, *exempt}
        self._exempt = frozenset(zones)
        self._below = tuple(f".{zone}" for zone in zones)
        self._networks = Networks((network, True) for network in options.networks)
        self._embedded = Networks(_EMBEDDED.items())
        self._near = {
            4: _near(n for n in options.networks if n.version == 4),
            16: _near([*(n for n in options.networks if n.version == 6), *_EMBEDDED]),
        }

    @classmethod
    def from_config(cls, table: config.Rebind, parts: Parts) -> Self:
        """The plugin for ``[rebind]``."""
        return cls(table, parts.config.forward.zones)

    def on_answer(self, x: Exchange, a: Answer) -> Answer:
        """NODATA with EDE 15 (Blocked) if an address or SVCB hint in the reply is private."""
        reply = a.reply
        if reply is None or not reply.addresses or self._off:
            return a
        if not self._leads_inside(reply.addresses) or self._may(x.query.name):
            return a
        self.counters["blocked"] += 1
        return Answer(None, "rebind", reply=replies.nodata(TTL_S, EDE_BLOCKED))

    def _may(self, name: str) -> bool:
        return name in self._exempt or name.endswith(self._below)

    def _leads_inside(self, addresses: Iterable[bytes]) -> bool:
        lookups = 0
        for octets in addresses:
            near = self._near.get(len(octets))
            if near is None:
                continue  # the end of a broken SVCB hint: no client finds an address in it either
            if near[octets[0] << 8 | octets[1]]:
                lookups += 1
                if lookups > MAX_LOOKUPS or self.private(octets):
                    return True
        return False

    def private(self, octets: bytes) -> bool:
        """
        True if an address, of 4 or 16 octets, or the IPv4 address inside it, is in a network.
        """
        if len(octets) == 4:
            return self._networks.find(ipaddress.IPv4Address(octets)) is not None
        address = ipaddress.IPv6Address(octets)
        if self._networks.find(address):
            return True
        at = self._embedded.find(address)
        return at is not None and self.private(octets[at : at + 4])


def _near(networks: Iterable[Network]) -> bytes:
    """For each value of an address's first two octets, 1 if a network has such addresses."""
    table = bytearray(1 << 16)
    for network in networks:
        first = int.from_bytes(network[0].packed[:2])
        last = int.from_bytes(network[-1].packed[:2])
        table[first : last + 1] = b"\1" * (last + 1 - first)
    return bytes(table)
