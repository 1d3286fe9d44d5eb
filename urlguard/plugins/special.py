"""
special: answer special-use names, browser signals, ANY and class CH.

Runs above the cache: its answers are neither cached nor forwarded.  Names whose answer is
fixed by an RFC, signals by which operators tell browsers to keep to this resolver, queries for
ANY, and the server's own names in class CH.  Knows no sockets and no policy.

How it works
    Zones stand in a tree of labels, root first.  A name with a last label that begins no zone costs
    one dictionary look-up; any other walks down until a label is not there.  The deepest zone on
    the way decides.  Zones of ``[forward.zones]`` and ``[special] forwarded`` are in the tree too,
    as zones that are not answered, so that split horizon is the same look-up.

What a zone gets, by its kind:

    kind       the zone's own name               names below
    NXDOMAIN   NXDOMAIN                          NXDOMAIN
    EMPTY      SOA and NS, else NODATA           NXDOMAIN
    NODATA     NODATA                            NODATA
    LOCALHOST  A, AAAA, else NODATA              the same
    POINTER    PTR localhost, else as EMPTY      NXDOMAIN
    SIGNAL     NXDOMAIN                          NXDOMAIN

NXDOMAIN says that there is nothing below a name either (RFC 8020), so a name above a forwarded zone
gets NODATA in its place.  A question for the DS record of an EMPTY zone is forwarded: that record
belongs to the zone above, and a client that validates must be able to learn that there is none
(RFC 8375 section 4).
"""

from collections import Counter
from collections.abc import Iterable
from struct import Struct
from typing import Final, Self

from urlguard import config
from urlguard.plugins.base import Answer, Exchange, Local, Parts
from urlguard.special_zones import SIGNALS, ZONES, Kind
from urlguard.wire import answer
from urlguard.wire.query import AAAA, ANY, IN, NXDOMAIN, OPT, REFUSED, SOA, A

NS, PTR, HINFO, TXT, DS = 2, 12, 13, 16, 43
CH: Final = 3

TTL_S: Final = 10_800  # of what RFCs fix; RFC 6303 section 3
SIGNAL_TTL_S: Final = 300  # of a signal: an operator may think again
ANY_TTL_S: Final = 3600  # RFC 8482 section 4.2


_ADDRESSES: Final = {A: b"\x7f\0\0\1", AAAA: b"\0" * 15 + b"\1"}
_LOCALHOST: Final = b"\x09localhost\0"
_NOBODY: Final = b"\x06nobody\x07invalid\0"
_QNAME: Final = b"\xc0\x0c"
_HINFO: Final = b"\x07RFC8482\0"  # CPU and an empty OS

_record = Struct("!HHIH").pack
_pointer = Struct("!H").pack
_numbers = Struct("!IIIII").pack


class _Node:
    """A label in the tree: the zone that begins here, if any, and the labels below."""

    __slots__ = ("below", "kind", "length")

    def __init__(self) -> None:
        self.below: dict[str, _Node] = {}
        self.kind: Kind | None = None
        self.length = 0  # octets of the zone's name on the wire


class Special(Local):
    """
    Answer names and types that must not, or need not, be forwarded.

    ``counters``: ``local``, ``signal``, ``any``, ``chaos``: answers given, by why.

    Args:
        options: ``[special]``.
        server: ``[server]``, for the names in class CH.
        forwarded: zones of ``[forward.zones]``.
    """

    name = "special"
    cacheable = True
    every_query = True

    def __init__(
        self, options: config.Special, server: config.Server, forwarded: Iterable[str] = ()
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._tree: dict[str, _Node] = {}
        split = {*forwarded, *options.forwarded}
        if options.local:
            for zones, kind, _ in ZONES:
                for zone in zones:
                    # Who forwards all of in-addr.arpa somewhere means the private part of it too.
                    # Only resolver.arpa is never anybody else's (RFC 9462 section 6.4).
                    if kind is Kind.NODATA or not _within(zone, split):
                        self._add(zone, kind)
        for signal in options.bypass:
            for zone in SIGNALS[signal]:
                self._add(zone, Kind.SIGNAL)
        for zone in split:
            self._add(zone, Kind.FORWARDED)
        self._chaos = {
            **dict.fromkeys(("version.bind", "version.server"), server.version),
            **dict.fromkeys(("id.server", "hostname.bind"), server.identity),
        }

    @classmethod
    def from_config(cls, table: config.Special, parts: Parts) -> Self:
        """The plugin for ``[special]``."""
        return cls(table, parts.config.server, parts.config.forward.zones)

    def on_query(self, x: Exchange) -> Answer | None:
        """The answer to a special name, to ANY, and to a query in class CH."""
        q = x.query
        if q.qclass != IN:
            return self._other_class(x) if q.qclass == CH else None
        name = q.name
        node = self._tree.get(name[name.rfind(".") + 1 :])
        if node is not None:
            found = self._find(x, node)
            if found is not None:
                return found
        if q.qtype == ANY:
            # RFC 8482 section 4.2: to everybody, whether the name exists or not.
            self.counters["any"] += 1
            return self._made(x, 0, _QNAME + _rr(HINFO, ANY_TTL_S, _HINFO), 1, 0)
        return None

    def _find(self, x: Exchange, node: _Node) -> Answer | None:
        """The answer if the name is in a zone of the tree, below the node of its last label."""
        labels = x.query.name.split(".")
        left = len(labels) - 1  # labels that are not in the tree
        zone = node if node.kind is not None else None
        nested = False
        while left:
            below = node.below.get(labels[left - 1])
            if below is None:
                break
            node = below
            left -= 1
            if node.kind is not None:
                nested = zone is not None
                zone = node
        if zone is None or zone.kind is Kind.FORWARDED:
            return None
        qtype = x.query.qtype
        if qtype == OPT or 249 <= qtype < ANY:
            return None  # no question about a name: the chain knows what to say
        own = not left and node is zone
        if own and qtype == DS and zone.kind in (Kind.EMPTY, Kind.POINTER) and not nested:
            return None
        return self._answer(x, zone, own, nxdomain=0 if not left and node.below else NXDOMAIN)

    def _answer(self, x: Exchange, zone: _Node, own: bool, nxdomain: int) -> Answer | None:
        """
        The answer to a name in a zone.

        Args:
            own: it is the zone's own name.
            nxdomain: the RCODE of names that do not exist; 0 where something lies below.
        """
        kind, qtype = zone.kind, x.query.qtype
        if kind is Kind.SIGNAL:
            # Who is not filtered need not keep to this resolver.
            segment = None if x.client is None else x.client.segment
            if segment is not None and not segment.filter:
                return None
            self.counters["signal"] += 1
            return self._negative(x, zone, nxdomain, SIGNAL_TTL_S)
        self.counters["local"] += 1
        if kind in (Kind.EMPTY, Kind.POINTER):
            if own and (record := self._apex(x, zone)) is not None:
                return self._made(x, 0, _QNAME + record, 1, 0)
            return self._negative(x, zone, 0 if own else nxdomain)
        if kind is Kind.LOCALHOST:
            address = _ADDRESSES.get(A if qtype == ANY else qtype)
            if address is not None:
                return Answer(answer.addresses(x, [address], TTL_S), "special")
        return self._negative(x, zone, nxdomain if kind is Kind.NXDOMAIN else 0)

    def _apex(self, x: Exchange, zone: _Node) -> bytes | None:
        """The record of the type asked that a zone's own name has; None if it has none."""
        qtype = x.query.qtype
        if qtype == SOA:
            return _rr(SOA, TTL_S, _soa(_QNAME, TTL_S))
        if qtype == NS:
            return _rr(NS, TTL_S, _QNAME)  # RFC 6303 section 3: the zone's own name
        if qtype in (PTR, ANY) and zone.kind is Kind.POINTER:
            return _rr(PTR, TTL_S, _LOCALHOST)
        if qtype == ANY:
            return _rr(SOA, TTL_S, _soa(_QNAME, TTL_S))
        return None

    def _negative(self, x: Exchange, zone: _Node, rcode: int, ttl: int = TTL_S) -> Answer:
        """NODATA or NXDOMAIN, with the SOA record at the zone's own name (RFC 2308 section 3)."""
        # The zone's name is the end of the question's.
        apex = _pointer(0xC000 | (x.query.question_end - 4 - zone.length))
        return self._made(x, rcode, apex + _rr(SOA, ttl, _soa(apex, ttl)), 0, 1)

    def _made(
        self, x: Exchange, rcode: int, records: bytes, answers: int, authorities: int
    ) -> Answer:
        q = x.query
        made = answer.head(q, rcode, answers, authorities, 1 if q.has_opt else 0) + records
        if q.has_opt:
            made += answer.opt_record(x)
        return Answer(made, "special")

    def _other_class(self, x: Exchange) -> Answer:
        """The server's names for itself in class CH (RFC 4892); REFUSED for any other."""
        self.counters["chaos"] += 1
        said = self._chaos.get(x.query.name)
        if not said:
            return Answer(answer.error(x, REFUSED), "special")
        if x.query.qtype not in (TXT, ANY):
            return Answer(answer.error(x, 0), "special")
        text = said.encode("ascii")
        rdata = bytes([len(text)]) + text
        return self._made(x, 0, _QNAME + _record(TXT, CH, 0, len(rdata)) + rdata, 1, 0)

    def _add(self, zone: str, kind: Kind) -> None:
        node = self._node(zone)
        node.kind = kind
        node.length = len(zone) + 2

    def _node(self, zone: str) -> _Node:
        """The node of a zone's name, made if it is not there."""
        below = self._tree
        for label in reversed(zone.split(".")):
            node = below.setdefault(label, _Node())
            below = node.below
        return node


def _within(zone: str, others: Iterable[str]) -> bool:
    """True if `zone` is one of the others or lies below one."""
    return any(zone == other or zone.endswith(f".{other}") for other in others)


def _rr(rtype: int, ttl: int, rdata: bytes) -> bytes:
    """A record of class IN, without its owner."""
    return _record(rtype, IN, ttl, len(rdata)) + rdata


def _soa(apex: bytes, ttl: int) -> bytes:
    """The RDATA that RFC 6303 section 3 asks for; `apex` is the zone's name."""
    return apex + _NOBODY + _numbers(1, 3600, 1200, 604_800, ttl)
