"""
guard: answer queries for blocked names without asking upstream.

Stands above whatever remembers or fetches upstream answers, so that a new policy acts on the next
query.  Knows the engine and the wire format; knows nothing of sockets or feeds.

What a blocked name gets, by ``[guard] answer`` and the query's type:

    mode       A, ANY         AAAA           SOA      any other type
    sinkhole   sinkhole_ipv4  sinkhole_ipv6  the SOA  NODATA
    zero       0.0.0.0        ::             the SOA  NODATA
    nodata     NODATA for every type
    nxdomain   NXDOMAIN for every type
    refused    REFUSED for every type

Every type is answered here: an HTTPS or CNAME record from upstream would lead around the block.
"""

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Self

from urlguard import config
from urlguard.plugins.base import Answer, Local, Parts
from urlguard.verdict import FEED, Ruling
from urlguard.wire import answer
from urlguard.wire.query import AAAA, ANY, NXDOMAIN, REFUSED, SOA, A, Query

if TYPE_CHECKING:
    from urlguard.engine import Live


class Guard(Local):
    """
    Ask the engine about each name and answer for the blocked ones.

    Args:
        live: the cell with the engine in use.
        options: ``[guard]``.
        regulators: sources (``feed:NAME``) that carry a regulator's order.
    """

    name = "guard"
    cacheable = True

    def __init__(self, live: "Live", options: config.Guard, regulators: Collection[str]) -> None:
        self._live = live
        self._mode = options.answer
        self._ttl = options.block_ttl_s
        self._regulators = frozenset(regulators)
        self._forged: dict[int, list[bytes]] = {}
        if options.answer in ("sinkhole", "zero"):
            zero = options.answer == "zero"
            ipv4 = IPv4Address(0) if zero else options.sinkhole_ipv4
            ipv6 = IPv6Address(0) if zero else options.sinkhole_ipv6
            # One record is an answer to ANY (RFC 8482 section 4.1).
            self._forged = {A: [ipv4.packed], ANY: [ipv4.packed], AAAA: [ipv6.packed]}

    @classmethod
    def from_config(cls, table: config.Guard, parts: Parts) -> Self:
        """The plugin for ``[guard]``, with the regulators among the feeds."""
        regulators = [FEED + feed.name for feed in parts.config.feed if feed.regulator]
        return cls(parts.live, table, regulators)

    def on_query(self, q: Query) -> Answer | None:
        """The block answer if the engine's ruling on the name is to block."""
        ruling = self._live.engine.decide(q.name)
        if ruling is None or ruling.action != "block":
            return None
        return Answer(self._blocked(q, ruling), "guard", ruling)

    def _blocked(self, q: Query, ruling: Ruling) -> bytes:
        # EDE 15 (Blocked) goes with answers that give nothing; where we still give a record the
        # code is 4 (Forged Answer).  A regulator's order is 16 (Censored) either way (RFC 8914):
        # the client should know that it was not the operator's choice.
        censored = not self._regulators.isdisjoint(ruling.sources)
        forged = answer.EDE_CENSORED if censored else answer.EDE_FORGED
        blocked = answer.EDE_CENSORED if censored else answer.EDE_BLOCKED
        if self._forged:
            records = self._forged.get(q.qtype)
            if records:
                return answer.addresses(q, records, self._ttl, forged)
            if q.qtype == SOA:
                return answer.soa(q, self._ttl, forged)
        elif self._mode == "refused":
            return answer.error(q, REFUSED, blocked)
        rcode = NXDOMAIN if self._mode == "nxdomain" else 0
        return answer.negative(q, self._ttl, rcode, blocked)
