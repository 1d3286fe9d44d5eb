"""
What all listeners of a worker share: the chain, the clients, ready answers, and the books.

A listener hands a datagram or message in and gets a query; it hands an answer in and it is booked:
counted, noted in the hit log, shown to dnstap.  A reload puts another chain and other clients here.
Knows options and headers at the edge of the network (cookies, client subnets, PROXY); knows neither
sockets nor rules.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from urlguard.errors import WireError
from urlguard.metrics import Figures, Histogram
from urlguard.plugins import Answer, Chain, Exchange
from urlguard.plugins.clients import PLENTY, Client, Clients
from urlguard.verdict import Ruling
from urlguard.wire import answer, proxy
from urlguard.wire.cookie import Cookies
from urlguard.wire.query import options, parse_query
from urlguard.worker.packet_cache import Ready, ReadyAnswers, Stat
from urlguard.worker.query_sample import Sample

if TYPE_CHECKING:
    from urlguard.hitlog.buffer import HitBuffer
    from urlguard.worker.dnstap import DnsTap

COOKIE: Final = 10  # EDNS option codes
CLIENT_SUBNET: Final = 8

MAX_DEPENDS: Final = 512  # characters of the names, beside its own, that a ready answer depends on
MAX_KINDS: Final = 2000  # kinds of answers that are counted apart

Kind = tuple[str, str, str, str, str]  # source, action, the rule's source and category, segment
_OTHER: Final[Kind] = ("other", "other", "other", "other", "other")


class Edge:
    """
    The shared state of one worker's listeners.

    ``at_once`` and ``waited`` hold how long answers took, in seconds: those given from within the
    batch that read the query, at the mean of the batch, and those that were waited for.
    ``sample`` holds some of the queries.

    Args:
        clock: seconds since 1970, for cookies.
    """

    def __init__(
        self,
        chain: Chain,
        clients: Clients,
        loop: asyncio.AbstractEventLoop,
        *,
        cookies: Cookies | None = None,
        hits: "HitBuffer | None" = None,
        tap: "DnsTap | None" = None,
        sample: Sample | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.chain = chain
        self.clients = clients
        self.loop = loop
        self.ready = ReadyAnswers(clients.ready, loop)
        self.sample = Sample() if sample is None else sample
        self.cookies = cookies
        self.hits = hits
        self.tap = tap
        self.at_once = Histogram()
        self.waited = Histogram()
        self._clock = clock
        self.shadowed: Counter[str] = Counter()  # what rules in shadow cover, by source
        self._kinds: dict[Kind, Stat] = {}

    def replace(self, chain: Chain, clients: Clients) -> None:
        """Use another chain and other clients from the next query on."""
        self.ready.close()
        self.chain = chain
        self.clients = clients
        self.ready = ReadyAnswers(clients.ready, self.loop)

    # ---- queries

    def unwrap(self, data: bytes, front: Client) -> tuple[bytes, Client]:
        """
        A datagram from a front end without its PROXY header, and the client that it names.

        Raises:
            WireError: there is no such header, and so nobody to answer.
        """
        host, _port, start = proxy.read(data)
        # LOCAL: the front end asks for itself, to see whether we are there.
        return data[start:], self.clients.find(host) if host else self.without_front(front)

    def without_front(self, front: Client) -> Client:
        """A front end that speaks for itself."""
        own = Client(front.host, front.address)
        own.allowed = front.allowed
        own.segment = front.segment
        return own

    def read_options(self, x: Exchange) -> None:
        """
        Act on a query's EDNS options; unknown ones are ignored (RFC 6891 section 6.1.2).

        Raises:
            WireError: a cookie or a client subnet is malformed.
        """
        q, who = x.query, x.client
        assert who is not None
        at = q.options_at
        seen = set()  # of several options of a kind the first counts, and is answered
        for code, content in options(q.data, at, at + q.options):
            if code in seen:
                continue
            seen.add(code)
            if code == COOKIE and self.cookies is not None:
                packed = b"" if who.address is None else who.address.packed
                option, valid = self.cookies.answer(content, packed, int(self._clock()))
                x.reply_options += option
                x.proven = x.proven or valid
            elif code == CLIENT_SUBNET and who.front == "ecs":
                found = proxy.subnet(content)
                if found is not None:
                    host, source = found
                    x.client = self.clients.find(host)
                    # The answer is for that subnet and no other, or, where its parts are treated
                    # apart, for that address alone: a front end may cache it.
                    version, width = (6, 128) if ":" in host else (4, 32)
                    fine = source >= self.clients.longest[version]
                    x.reply_options += proxy.subnet_echo(content, source if fine else width)

    def complaint(self, data: bytes, rcode: int | None, who: Client) -> bytes:
        """
        The answer to a query that could not be read; empty if there must be none.

        Errors count towards a client's limits like all answers: a forger could have them sent to
        somebody else.
        """
        if rcode is None or (self.clients.silent and not who.allowed):
            return b""
        if who.left > 0:
            who.left -= 1
        elif who.bucket is not None and not who.bucket.take(self.loop.time()):
            return b""
        return answer.error_raw(data, rcode)

    def note(self, data: bytes, host: str) -> None:
        """Put a datagram from the socket's peer `host` into the sample, if it is a proper query."""
        weight = self.sample.gap
        try:
            who = self.clients.find(host)
            if who.front == "proxy":
                data, who = self.unwrap(data, who)
            x = Exchange(parse_query(data), who)
            if x.query.options:
                self.read_options(x)
        except WireError:
            return
        finally:
            self.sample.turn()  # whatever happens: without it no batch would be read any more
        # What is refused says nothing about those whom a rule would concern.
        who = x.client or who
        if who.allowed:
            self.sample.add(x.query.name, who.host, weight)

    # ---- answers

    def keep(self, x: Exchange, found: Answer, wire: bytes) -> None:
        """Keep a ready answer, if the datagram and its client permit it."""
        q, who = x.query, x.client
        assert who is not None
        # Only a question with at most a bare OPT record: a client's cookie would make each of its
        # queries a new entry, and padding would make entries as large as somebody likes.
        depends_on = found.depends_on
        if (
            who.allowed
            and who.front is None
            and self.tap is None
            and q.plain
            and not x.shadows  # which are counted anew each time
            and (not depends_on or sum(map(len, depends_on)) <= MAX_DEPENDS)
        ):
            hit = self._hit(x, found.ruling)
            stat = self.stat("ready", found.ruling, who)
            self.ready.put(
                who.ready,
                q.data[2:],
                Ready(wire[2:], stat, hit, (q.name, *depends_on)),
                found.fleeting,
            )
            if who.left <= 0 and not self.clients.limited:
                who.left = PLENTY  # used up, and there is no plugin to grant more

    def book(self, x: Exchange, found: Answer) -> None:
        """Count an answer, and note a hit."""
        ruling, who = found.ruling, x.client
        assert who is not None
        self.stat(found.source, ruling, who).count += 1
        if ruling is not None and self.hits is not None:
            hit = self._hit(x, ruling)
            if hit is not None:
                self.hits.add(who.host, *hit)
        if x.shadows:
            self._book_shadows(x, who)

    def _book_shadows(self, x: Exchange, who: Client) -> None:
        """Count what rules in shadow would have blocked, once for each source."""
        for ruling in x.shadows or ():
            self.shadowed.update(ruling.sources)
            hit = self._hit(x, ruling)
            if hit is not None and self.hits is not None:
                self.hits.add(who.host, *hit)

    def stat(self, source: str, ruling: Ruling | None, who: Client) -> Stat:
        """Where answers of one kind are counted; of too many kinds, the rest together."""
        segment = who.segment.name if who.segment else ""
        if ruling is None:
            kind: Kind = (source, "none", "", "", segment)
        else:
            kind = (source, ruling.action, ruling.sources[0], ruling.category, segment)
        stat = self._kinds.get(kind)
        if stat is None:
            if len(self._kinds) >= MAX_KINDS:
                kind = _OTHER
            stat = self._kinds.setdefault(kind, Stat())
        return stat

    def _hit(self, x: Exchange, ruling: Ruling | None) -> tuple[Any, ...] | None:
        """What the hit log wants to know beside the client."""
        if ruling is None or self.hits is None or ruling.action == "allow":
            return None
        q, who = x.query, x.client
        segment = who.segment.name if who is not None and who.segment else ""
        rule = f"{ruling.kind} {ruling.value}"
        category, sources = ruling.category, ruling.sources
        return q.name, q.qtype, ruling.action, category, rule, sources, segment

    def figures(self, figures: Figures) -> None:
        """What the books say, for the metrics."""
        for (source, action, origin, category, segment), stat in self._kinds.items():
            figures.count("urlguard_answers_total", stat.count, source, action)
            if action not in ("none", "allow"):
                figures.count("urlguard_hits_total", stat.count, action, origin)
                figures.count("urlguard_category_hits_total", stat.count, action, category)
                figures.count("urlguard_segment_hits_total", stat.count, action, segment)
        figures.counts("urlguard_shadow_hits_total", self.shadowed)
        figures.gauge("urlguard_sampled_queries", len(self.sample))
        figures.histogram("urlguard_answer_seconds", self.at_once, "at_once")
        figures.histogram("urlguard_answer_seconds", self.waited, "waited")
        figures.gauge("urlguard_ready_answers", len(self.ready))
