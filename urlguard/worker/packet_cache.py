"""
The packet cache: answers given again to the same datagram without parsing it or asking a plugin.

One object for all UDP listeners of a worker.  It owns the tables of answers, the use of clients'
grants, and the counters of answers; a reload empties the tables and gives it other clients.  Knows
octets, clients and what answers depend on; knows neither sockets nor rules.

How it works
    The chain marks the answers that depend on nothing but the datagram's octets, the client's
    segment and the policy.  `store` keeps them under the octets after the query's ID, in a table
    for each segment.  `lookup` is one call for each datagram: it finds the client, charges its
    grant, finds the answer, counts it and notes the hit, with three dictionary look-ups and no
    parsing.  `account` does the last two for answers that the chain gave.  `sample` counts down to
    the next query of the sample, once for each batch.
    A change of policy takes out what it may concern on the same thread, so that no answer of an old
    policy can be stored after it.  What comes from the cache of upstream answers counts its TTLs
    down, so it stays for a second only.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Final

from urlguard.metrics import MetricsWriter
from urlguard.plugins import Answer, Exchange
from urlguard.plugins.clients import PLENTY, Client, Clients
from urlguard.verdict import Ruling
from urlguard.worker.query_sample import Sample

if TYPE_CHECKING:
    from urlguard.hitlog.buffer import HitBuffer

MAX_ENTRIES: Final = 8192  # answers in all; then all are forgotten, which takes 0.5 ms
FLEETING_S: Final = 1.0  # an answer from the cache is given again for
MAX_DEPENDS: Final = 512  # characters of the names, beside its own, that an answer depends on
MAX_KINDS: Final = 2000  # kinds of answers that are counted apart

SOURCE: Final = "packet_cache"  # of its answers, among the metrics

Kind = tuple[str, str, str, str, str]  # source, action, the rule's source and category, segment
_OTHER: Final[Kind] = ("other", "other", "other", "other", "other")


class KindCounter:
    """How many answers of one kind were given."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Entry:
    """
    A stored answer: all octets after the ID, its counter, and what the hit log wants of it.

    ``names``: those whose rules it depends on, each as ``.name`` and a line's end.
    """

    __slots__ = ("counter", "hit", "names", "tail")

    def __init__(
        self,
        tail: bytes,
        counter: KindCounter,
        hit: tuple[Any, ...] | None,
        names: Iterable[str],
    ) -> None:
        self.tail = tail
        self.counter = counter
        self.hit = hit
        self.names = "".join([f".{name}\n" for name in names])


class PacketCache:
    """
    The packet cache of one worker.

    ``hits`` is the hit log's buffer, None without a hit log.  ``enabled`` is False while the chain
    must see every query: then nothing is stored.  ``shadowed`` counts the queries that rules in
    shadow cover, by source.

    Args:
        clients: whose grants are used; `replace` puts others in their place.
        sample: of the live queries.
    """

    def __init__(
        self, clients: Clients, loop: asyncio.AbstractEventLoop, sample: Sample | None = None
    ) -> None:
        self.hits: HitBuffer | None = None
        self.enabled = True
        self.shadowed: Counter[str] = Counter()
        self.queries = Sample() if sample is None else sample
        self._loop = loop
        self._clients = clients
        self._known = clients.known.get
        self._tables: dict[str, dict[bytes, Entry]] = {}  # by the segment's name
        self._count = 0
        # By the table's identity, so that one stored again stands there once.
        self._fleeting: dict[tuple[int, bytes], dict[bytes, Entry]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._kinds: dict[Kind, KindCounter] = {}

    def __len__(self) -> int:
        return sum(map(len, self._tables.values()))

    # ---- for each datagram

    def lookup(self, data: bytes, host: str) -> bytes | None:
        """
        The octets after the ID of the answer to a datagram, counted and charged to the client.

        None if the chain must be asked: the client is unknown or its grant is used up, or there is
        no answer.

        Args:
            data: the datagram, of any length.
            host: the address that it came from, as text.
        """
        client = self._known(host)
        if client is None:
            return None
        grant = client.grant
        if grant.left <= 0:
            return None
        entry: Entry | None = grant.answers.get(data[2:])
        if entry is None:
            return None
        grant.left -= 1
        entry.counter.count += 1
        if entry.hit is not None and self.hits is not None:
            self.hits.add(client.host, *entry.hit)
        return entry.tail

    def sample(self, count: int) -> bool:
        """Count the queries of a batch; True if the last of them belongs to the sample."""
        queries = self.queries
        queries.left -= count
        return queries.left <= 0

    # ---- for each answer of the chain

    def store(self, x: Exchange, found: Answer, wire: bytes) -> None:
        """
        Keep an answer that the chain marked, if the datagram and its client permit it.

        Args:
            wire: the whole answer, as it is sent.
        """
        q, client = x.query, x.client
        assert client is not None
        # Only a question with at most a bare OPT record: a client's cookie would make each of its
        # queries a new entry, and padding would make entries as large as somebody likes.
        names = found.depends_on
        if (
            self.enabled
            and client.allowed
            and client.front is None
            and q.plain
            and not x.shadows  # which are counted anew each time
            and (not names or sum(map(len, names)) <= MAX_DEPENDS)
        ):
            hit = self._hit(x, client, found.ruling)
            counter = self._counter(SOURCE, found.ruling, client)
            entry = Entry(wire[2:], counter, hit, (q.name, *names))
            self._put(client, q.data[2:], entry, found.fleeting)

    def _put(self, client: Client, key: bytes, entry: Entry, fleeting: bool) -> None:
        """Keep an answer in the table of a client's segment."""
        name = client.segment.name if client.segment else ""
        table = self._tables.get(name)
        if table is None:
            table = self._tables[name] = {}
        grant = client.grant
        grant.answers = table
        if grant.left <= 0 and not self._clients.limited:
            grant.left = PLENTY  # used up, and there is no plugin to grant more
        if self._count >= MAX_ENTRIES:
            self.clear()
        if key not in table:
            self._count += 1
        table[key] = entry
        if fleeting:
            self._fleeting[id(table), key] = table
            if self._timer is None:
                self._timer = self._loop.call_later(FLEETING_S, self._tick)

    def account(self, x: Exchange, found: Answer) -> None:
        """Count an answer of the chain, and note its hit."""
        ruling, client = found.ruling, x.client
        assert client is not None
        self._counter(found.source, ruling, client).count += 1
        if ruling is not None and self.hits is not None:
            hit = self._hit(x, client, ruling)
            if hit is not None:
                self.hits.add(client.host, *hit)
        if x.shadows:
            self._account_shadows(x, client)

    def _account_shadows(self, x: Exchange, client: Client) -> None:
        """Count what rules in shadow would have blocked, once for each source."""
        for ruling in x.shadows or ():
            self.shadowed.update(ruling.sources)
            hit = self._hit(x, client, ruling)
            if hit is not None and self.hits is not None:
                self.hits.add(client.host, *hit)

    def _counter(self, source: str, ruling: Ruling | None, client: Client) -> KindCounter:
        """The counter of one kind of answers; of too many kinds, the rest have one together."""
        segment = client.segment.name if client.segment else ""
        if ruling is None:
            kind: Kind = (source, "none", "", "", segment)
        else:
            kind = (source, ruling.action, ruling.sources[0], ruling.category, segment)
        counter = self._kinds.get(kind)
        if counter is None:
            if len(self._kinds) >= MAX_KINDS:
                kind = _OTHER
            counter = self._kinds.setdefault(kind, KindCounter())
        return counter

    def _hit(self, x: Exchange, client: Client, ruling: Ruling | None) -> tuple[Any, ...] | None:
        """What the hit log wants to know beside the client."""
        if ruling is None or self.hits is None or ruling.action == "allow":
            return None
        q = x.query
        segment = client.segment.name if client.segment else ""
        rule = f"{ruling.kind} {ruling.value}"
        category, sources = ruling.category, ruling.sources
        return q.name, q.qtype, ruling.action, category, rule, sources, segment

    # ---- changes

    def replace(self, clients: Clients) -> None:
        """Use other clients from the next datagram on, and forget all answers."""
        self.close()
        self._clients = clients
        self._known = clients.known.get
        self._tables = {}  # clients of before still hold the old ones, which stay empty

    def clear(self) -> None:
        """Forget all answers."""
        for table in self._tables.values():
            table.clear()
        self._fleeting.clear()
        self._count = 0

    def changed(self, names: Collection[str] | None = None) -> None:
        """
        Forget what may be answered differently now: all, or what depends on `names` or names below.

        Looking through all of them takes half a millisecond and keeps nearly all, so that a
        decision now and then does not send every client through the chain.
        """
        if names is None:
            self.clear()
            return
        parts = [f".{name}\n" for name in names]
        for table in self._tables.values():
            for part in parts:
                for key in [key for key, entry in table.items() if part in entry.names]:
                    del table[key]
                    self._count -= 1

    def close(self) -> None:
        """Forget all answers, and stop the timer."""
        self.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        """A second is over: what came from the cache is a second older now."""
        self._timer = None
        for (_, key), table in self._fleeting.items():
            if table.pop(key, None) is not None:
                self._count -= 1
        self._fleeting.clear()

    # ---- metrics

    def metrics(self, out: MetricsWriter) -> None:
        """Write the counters of answers, and the number of entries."""
        for (source, action, origin, category, segment), counter in self._kinds.items():
            count = counter.count
            out.count("urlguard_answers_total", count, source, action)
            if action not in ("none", "allow"):
                out.count("urlguard_hits_total", count, action, origin)
                out.count("urlguard_category_hits_total", count, action, category)
                out.count("urlguard_segment_hits_total", count, action, segment)
        out.count_each("urlguard_shadow_hits_total", self.shadowed)
        out.gauge("urlguard_sampled_queries", len(self.queries))
        out.gauge("urlguard_packet_cache_entries", len(self))
