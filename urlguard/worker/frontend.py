"""
What all listeners of a worker share: the chain, the clients, the packet cache, dnstap.

A listener makes an `Exchange` of each query, has its options read here, and asks the chain.  A
reload puts another chain and other clients here.  Knows what comes before and beside a question
(PROXY headers, cookies, client subnets); knows neither sockets nor rules.
"""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from urlguard.errors import WireError
from urlguard.metrics import Histogram, MetricsWriter
from urlguard.plugins import Chain, Exchange
from urlguard.plugins.clients import Client, Clients
from urlguard.wire import answer, proxy
from urlguard.wire.cookie import Cookies
from urlguard.wire.query import options, parse_query
from urlguard.worker.packet_cache import PacketCache
from urlguard.worker.query_sample import Sample

if TYPE_CHECKING:
    from urlguard.hitlog.buffer import HitBuffer
    from urlguard.worker.dnstap import DnsTap

COOKIE: Final = 10  # EDNS option codes
CLIENT_SUBNET: Final = 8


class Frontend:
    """
    The shared state of one worker's listeners.

    ``inline`` and ``forwarded`` are histograms of how long answers took: those given within the
    batch that read the query, at the mean of the batch, and those that an upstream gave.

    Args:
        sample: of the live queries.
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
        self.packets = PacketCache(clients, loop, sample)
        self.inline = Histogram()
        self.forwarded = Histogram()
        self._clock = clock
        self.equip(cookies, hits, tap)

    def replace(self, chain: Chain, clients: Clients) -> None:
        """Use another chain and other clients from the next query on."""
        self.chain = chain
        self.clients = clients
        self.packets.replace(clients)

    def equip(
        self, cookies: Cookies | None, hits: "HitBuffer | None", tap: "DnsTap | None"
    ) -> None:
        """Use these from the next query on; None for a feature that is off."""
        self.cookies = cookies
        self.hits = self.packets.hits = hits
        self.tap = tap
        self.packets.enabled = tap is None  # which is to see each query

    def unwrap(self, data: bytes, front: Client) -> tuple[bytes, Client]:
        """
        A datagram from a front end without its PROXY header, and the client that it names.

        Raises:
            WireError: there is no such header, and so no client to answer.
        """
        host, _port, start = proxy.read(data)
        # LOCAL: the front end asks for itself, to see whether we are there.
        return data[start:], self.clients.find(host) if host else self.without_front(front)

    def without_front(self, front: Client) -> Client:
        """The client that a front end is when it asks on its own behalf."""
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

    def error_answer(self, data: bytes, rcode: int | None, who: Client) -> bytes:
        """
        The answer to a query that could not be read; empty if there must be none.

        Errors count towards a client's limits like all answers: a forger could have them sent to
        somebody else.
        """
        if rcode is None or (self.clients.silent and not who.allowed):
            return b""
        if who.grant.left > 0:
            who.grant.left -= 1
        elif who.bucket is not None and not who.bucket.take(self.loop.time()):
            return b""
        return answer.error_raw(data, rcode)

    def sample(self, data: bytes, host: str) -> None:
        """Put a datagram from the socket's peer `host` into the sample, if it is a proper query."""
        queries = self.packets.queries
        weight = queries.gap
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
            queries.draw()  # in any case: without it the read loop would read no more batches
        # A rule would not concern clients that are refused.
        who = x.client or who
        if who.allowed:
            queries.add(x.query.name, who.host, weight)

    def metrics(self, out: MetricsWriter) -> None:
        """Write the counters of answers and how long they took."""
        self.packets.metrics(out)
        out.histogram("urlguard_answer_duration_seconds", self.inline, "inline")
        out.histogram("urlguard_answer_duration_seconds", self.forwarded, "forwarded")
