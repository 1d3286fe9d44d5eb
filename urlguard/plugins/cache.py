"""
cache: store upstream answers until their TTLs run out, and serve them expired if upstreams fail.

Runs below guard, so each answer is checked again by the policy of that moment; no block answer is
ever stored.  Knows replies and time; knows no rules and no sockets.

How it works
    An entry is an upstream's reply under the question, DO and CD.  A hit is two dictionary
    look-ups; the reply itself counts its TTLs down.
    Of identical questions only one is sent upstream: the others wait for its answer.
    An expired entry stays.  If upstreams fail, or take too long, it is served (RFC 8767) with an
    extended error that says so, while one question a second goes on trying.
    Memory is bounded by an estimate for each entry.  The oldest are evicted first, except those
    that were used since the last look at them.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Self

from urlguard import config
from urlguard.plugins.base import Answer, Done, Exchange, Parts
from urlguard.wire import answer
from urlguard.wire.query import CD, NOERROR, NXDOMAIN, REFUSED, SERVFAIL
from urlguard.wire.reply import EDE_STALE, EDE_STALE_NXDOMAIN, Reply

FAILURE_S: Final = 1.0  # a failure is stored for (RFC 9520 section 3.2: at least 1 s)
STALE_TTL_S: Final = 30  # of expired records (RFC 8767 section 4)
RETRY_S: Final = 1.0  # between tries to refresh an expired entry that is served
PREFETCH_SHARE: Final = 0.1  # of its TTL that is left when a name in demand is refreshed
PREFETCH_TTL_S: Final = 5  # shorter ones are not worth it
MAX_WAITING: Final = 2000  # that wait for one answer; more get SERVFAIL

# What an entry costs beyond its octets, and each record in it: found with tracemalloc, see
# tests/plugins/test_cache.py, which fails when the estimate is too low.
ENTRY_BYTES: Final = 900
RECORD_BYTES: Final = 16

Key = tuple[str, int, bool, int]


def _nobody(x: Exchange, done: Done) -> None:
    raise RuntimeError("cache: no plugin below")


class _Flight:
    """A question under way upstream, and the exchanges that wait for its answer."""

    __slots__ = ("forgotten", "timer", "waiting")

    def __init__(self) -> None:
        self.waiting: list[tuple[Exchange, Done]] = []
        self.timer: asyncio.TimerHandle | None = None
        self.forgotten = False  # flushed meanwhile: its answer is not stored


class Cache:
    """
    Answer from the cache; ask the plugins below for the rest.

    ``counters``, since the start: ``hits``, ``misses``, ``shared`` (waited for another's answer),
    ``stale`` (expired answers served), ``prefetched``, ``evicted``, ``failures`` (of
    upstreams), ``over_misses`` (clients over their share), ``flushed``.
    """

    name = "cache"
    cacheable = True

    def __init__(self, options: config.Cache, loop: asyncio.AbstractEventLoop) -> None:
        self.counters: Counter[str] = Counter()
        self.bytes = 0  # by estimate
        self.below: Callable[[Exchange, Done], None] = _nobody  # the chain puts its rest here
        self._options = options
        self._max_bytes = options.max_mb << 20
        self._loop = loop
        # A plain dictionary would pass over every entry removed from its front, again and again.
        self._entries: OrderedDict[Key, Reply] = OrderedDict()
        self._flights: dict[Key, _Flight] = {}
        self._closed = False
        self.origin: object = None  # what decides how answers from below come about

    @classmethod
    def from_config(cls, table: config.Cache, parts: Parts) -> Self:
        """The plugin for ``[cache]``."""
        made = cls(table, parts.loop)
        whole = parts.config
        made.origin = (whole.forward.zones, whole.forward.trust_ad, whole.rebind, whole.plugins)
        return made

    def __len__(self) -> int:
        return len(self._entries)

    def on_query(self, x: Exchange) -> Answer | None:
        """The stored answer, if it has not expired."""
        q = x.query
        key = x.key = (q.name, q.qtype, q.do, q.flags & CD)
        reply = self._entries.get(key)
        if reply is None:
            return None
        now = self._loop.time()
        left = reply.expires - now
        if left <= 0:
            return None
        self.counters["hits"] += 1
        reply.used += 1
        if left < reply.ttl * PREFETCH_SHARE and reply.used > 1 and reply.ttl >= PREFETCH_TTL_S:
            self._prefetch(x, key, reply, now)
        return self._given(reply, int(now - reply.stored))

    def ask(self, x: Exchange, done: Done) -> None:
        """Ask upstream, or wait for the answer to the same question; see the module."""
        key = x.key
        now = self._loop.time()
        old = self._stale(key, now)
        if old is not None and now < old.retry:
            done(x, self._given_stale(old))
            return
        flight = self._flights.get(key)
        if flight is not None:
            if len(flight.waiting) >= MAX_WAITING:
                done(x, Answer(answer.error(x, SERVFAIL), "cache"))
                return
            self.counters["shared"] += 1
            flight.waiting.append((x, done))
            if old is not None and flight.timer is None:
                self._wait(key, flight)
            return
        who = x.client
        if who is not None and who.misses is not None and not who.misses.take(now):
            self.counters["over_misses"] += 1
            done(x, self._over(x) if old is None else self._given_stale(old))
            return
        self.counters["misses"] += 1
        flight = self._flights[key] = _Flight()
        flight.waiting.append((x, done))
        if old is not None:
            self._wait(key, flight)
        self.below(x.anonymous(), partial(self._answered, flight))

    async def flush(self, names: Iterable[str], everything: bool = False) -> int:
        """
        Forget names and all below them, or everything; returns how many entries went.

        Answers under way are not stored either.  Yields to the event loop in between.
        """
        roots = tuple(names)
        below = tuple("." + name for name in roots)

        def covered(name: str) -> bool:
            return everything or name in roots or name.endswith(below)

        for key in [key for key in self._flights if covered(key[0])]:
            # Exchanges that wait get the answer that comes; later ones ask anew.
            self._flights.pop(key).forgotten = True
        removed = 0
        for number, key in enumerate(list(self._entries)):
            if number % 1000 == 999:
                await asyncio.sleep(0)
            if covered(key[0]):
                gone = self._entries.pop(key, None)
                if gone is not None:
                    self.bytes -= gone.size
                    removed += 1
        self.counters["flushed"] += removed
        return removed

    def adopt(self, old: "Cache") -> None:
        """
        Take over what the cache of the configuration before has in it.

        Nothing, if answers come about in another way now: what was let through then must not be
        given on.
        """
        self.counters = old.counters
        if self.origin != old.origin:
            return
        self._entries, old._entries = old._entries, OrderedDict()
        self.bytes, old.bytes = old.bytes, 0
        self._evict()

    def close(self) -> None:
        """Store nothing more."""
        self._closed = True

    # ---- answers

    def _given(self, reply: Reply, age: int) -> Answer:
        found = Answer(None, "cache", None, reply)
        found.age = age
        found.fleeting = True
        # A stored failure may end sooner than a second from now.
        found.once = reply.ttl == 0
        return found

    def _given_stale(self, reply: Reply) -> Answer:
        self.counters["stale"] += 1
        reply.used += 1
        found = Answer(None, "cache", None, reply)
        found.ede = EDE_STALE_NXDOMAIN if reply.rcode == NXDOMAIN else EDE_STALE
        found.flat_ttl = STALE_TTL_S
        found.once = True
        return found

    def _over(self, x: Exchange) -> Answer:
        """The answer to a client over its `client_misses`."""
        if x.proven:
            found = Answer(answer.error(x, REFUSED, answer.EDE_PROHIBITED), "cache")
        else:
            found = Answer(answer.truncated(x), "cache")
        return found

    def _stale(self, key: Key, now: float) -> Reply | None:
        """An expired entry that may still be served."""
        reply = self._entries.get(key)
        if reply is None or reply.ttl == 0 or now >= reply.expires + self._options.stale_s:
            return None
        return reply

    # ---- upstream queries

    def _prefetch(self, x: Exchange, key: Key, reply: Reply, now: float) -> None:
        if not self._options.prefetch or key in self._flights or self._closed:
            return
        if now >= reply.retry:  # else upstreams failed a moment ago
            self.counters["prefetched"] += 1
            flight = self._flights[key] = _Flight()
            self.below(x.anonymous(), partial(self._answered, flight))

    def _wait(self, key: Key, flight: _Flight) -> None:
        wait_s = self._options.stale_wait_ms / 1000
        flight.timer = self._loop.call_later(wait_s, self._too_slow, key, flight)

    def _too_slow(self, key: Key, flight: _Flight) -> None:
        """Upstreams take too long: serve the expired entry."""
        flight.timer = None
        now = self._loop.time()
        old = self._stale(key, now)
        if old is None or not flight.waiting:
            return
        old.retry = now + RETRY_S
        waiting, flight.waiting = flight.waiting, []
        for x, done in waiting:
            done(x, self._given_stale(old))

    def _answered(self, flight: _Flight, up: Exchange, found: Answer | None) -> None:
        """Store the answer from below, and pass it to all exchanges that wait."""
        key = up.key
        if not flight.forgotten:
            del self._flights[key]
        if flight.timer is not None:
            flight.timer.cancel()
        if found is None:
            for x, done in flight.waiting:
                done(x, None)
            return
        reply = found.reply
        now = self._loop.time()
        failed = reply is None or reply.rcode not in (NOERROR, NXDOMAIN)
        old = self._stale(key, now) if failed else None
        if failed:
            self.counters["failures"] += 1
        if old is not None:
            old.retry = now + RETRY_S
        elif reply is not None and not flight.forgotten and not self._closed:
            self._store(key, reply, now)
        for x, done in flight.waiting:
            if old is not None:
                done(x, self._given_stale(old))
            elif reply is not None:
                done(x, Answer(None, found.source, None, reply))
            else:
                assert found.wire is not None
                done(x, Answer(answer.error(x, found.wire[3] & 15), found.source))

    # ---- entries

    def _store(self, key: Key, reply: Reply, now: float) -> None:
        options = self._options
        if reply.rcode in (NOERROR, NXDOMAIN):
            most = options.max_negative_ttl_s if reply.negative else options.max_ttl_s
            reply.cap(most)
            if not reply.ttls or (reply.negative and not reply.ttl):
                return  # no SOA record, or one whose negative TTL is 0
            if reply.ttl < options.min_ttl_s:
                reply.lift(options.min_ttl_s)
            if not reply.ttl:
                return
            holds: float = reply.ttl
        elif reply.rcode == SERVFAIL:
            reply.ttl = 0  # marks a failure, which is never served once it has expired
            holds = FAILURE_S
        else:
            return
        reply.stored = now
        reply.expires = now + holds
        reply.used = 0
        size = ENTRY_BYTES + 2 * len(reply.body) + RECORD_BYTES * len(reply.ttls) + len(key[0])
        size += 48 * len(reply.addresses)
        if reply.additional_owners:
            size += 2 * len(reply.body)  # guard may keep one beside it that lacks them
        if reply.targets or reply.additional_owners:
            size += sum(len(name) + 64 for name in reply.targets + reply.additional_owners)
        reply.size = size
        entries = self._entries
        before = entries.pop(key, None)
        if before is not None:
            self.bytes -= before.size
        entries[key] = reply
        self.bytes += reply.size
        if self.bytes > self._max_bytes:
            self._evict()

    def _evict(self) -> None:
        """Evict the oldest until there is room; those in use get another round."""
        entries = self._entries
        spared = 0
        while self.bytes > self._max_bytes and entries:
            key, reply = entries.popitem(last=False)
            if reply.used and spared < 32:
                spared += 1
                reply.used = 0
                entries[key] = reply
                continue
            self.bytes -= reply.size
            self.counters["evicted"] += 1
