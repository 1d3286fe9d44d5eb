"""
acl: answer only the clients that the operator named.

Stands first, before any work is spent on a client that is refused.  Knows addresses; knows no names
and no policy.
"""

import ipaddress
from collections.abc import Iterable
from typing import Self

from urlguard import config
from urlguard.plugins.base import Answer, Local, Parts
from urlguard.wire import answer
from urlguard.wire.query import REFUSED, Query

MAX_REMEMBERED = 65_536  # client addresses; then all are forgotten and worked out again


class Acl(Local):
    """
    Refuse who is not in ``[acl] allow``.

    ``allowed`` holds the addresses, as text, of clients lately found to be allowed.  The listener
    gives ready answers to these only, so that it never has to ask.
    """

    name = "acl"
    cacheable = True
    every_query = True

    def __init__(self, networks: Iterable[config.Network]) -> None:
        # Networks by version and prefix length: a lookup costs one set lookup for each length in
        # use, however many networks an operator lists.
        self._networks: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
        for network in networks:
            shift = network.max_prefixlen - network.prefixlen
            by_shift = self._networks[network.version]
            by_shift.setdefault(shift, set()).add(int(network.network_address) >> shift)
        self.allowed: set[str] = set()
        self._refused: set[str] = set()

    @classmethod
    def from_config(cls, table: config.Acl, parts: Parts) -> Self:
        """The plugin for ``[acl]``."""
        return cls(table.allow)

    def on_query(self, q: Query) -> Answer | None:
        """REFUSED with EDE 18 (Prohibited), RFC 8914, for a client that is not allowed."""
        host = q.client[0]
        if host in self.allowed:
            return None
        if host not in self._refused:
            if len(self.allowed) + len(self._refused) >= MAX_REMEMBERED:
                self.allowed.clear()
                self._refused.clear()
            if self.allows(host):
                self.allowed.add(host)
                return None
            self._refused.add(host)
        return Answer(answer.error(q, REFUSED, answer.EDE_PROHIBITED), "acl")

    def allows(self, host: str) -> bool:
        """
        True if the address lies in one of the networks.

        An IPv4 client of an IPv6 socket (``::ffff:192.0.2.1``) counts as IPv4; a scope (``%eth0``)
        does not matter.  What is no address is not allowed.
        """
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        number = int(address)
        return any(
            number >> shift in known for shift, known in self._networks[address.version].items()
        )
