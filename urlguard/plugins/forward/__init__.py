"""
forward: ask the upstream recursors and bring their answer back.

Runs last in the chain.  Callbacks of sockets and one timer do all of the work: no task and no
future is made for a query.  `upstream` knows who is fast and who is down, `udp` the source ports,
`stream` TCP and TLS, `qname_case` chance, `timer_wheel` time.

How it works
    A question is a *flight*: it may take several *attempts*, each a query to one upstream.  The
    best upstream is asked; one flight in 64 begins with any other, so that measures stay fresh.  If
    its reply is late by its own measure, the next one is asked, while the first may still answer:
    the first good reply counts.  SERVFAIL, REFUSED and the network's refusals move on at once.  An
    upstream is waited for as long as ``timeout_ms``, a flight twice as long at most.
    While all of its upstreams are down, a few flights at a time still try, for half a second; the
    others fail at once.  Whoever is down is asked for the root's name servers each second, and is
    up again with the first reply.
    A truncated reply is fetched over TCP, whoever asked, for many clients share it.  So is one
    whose spelling is not ours, or that does not come while datagrams arrive that fit nothing: then
    someone may be forging.
    All names of one registrable domain together may have only so many flights under way: a flood of
    random names below one domain must not take the slots of everybody.
"""

import asyncio
import errno
import ssl
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final, Self

from urlguard import config
from urlguard.errors import WireError
from urlguard.names import parents, registrable
from urlguard.plugins.base import Answer, Done, Exchange, Parts
from urlguard.plugins.forward.qname_case import Random
from urlguard.plugins.forward.stream import CONNECTIONS, Stream, tls_context
from urlguard.plugins.forward.timer_wheel import TimerWheel
from urlguard.plugins.forward.udp import Ports, spare
from urlguard.plugins.forward.upstream import PLAIN_S, Attempt, Flight, Group, Upstream
from urlguard.system_resolvers import system_resolvers
from urlguard.wire import answer
from urlguard.wire.query import FORMERR, NOTIMP, REFUSED, SERVFAIL, TC, parse_query
from urlguard.wire.query import ask as ask_wire
from urlguard.wire.reply import failure, read_reply

__all__ = ["Forward", "system_resolvers"]

PROBE_S: Final = 1.0  # between two questions to an upstream that fails
EXPLORE: Final = 64  # one flight in so many begins with any upstream
TRIES: Final = 16  # flights under way to a group that is down
DOWN_WAIT_S: Final = 0.5  # how long each of them may take
STRAYS: Final = 8  # datagrams that fit nothing, until a late flight takes TCP

_LABELS: Final = 6  # from the end: more have no part in who owns a name
# Errors of this machine, which are no upstream's fault.
_OURS: Final = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE)

# NS of the root: every recursor knows it, and nobody's zone can make it slow.
_PROBE = Exchange(parse_query(bytes(5) + b"\1" + bytes(6) + b"\0\0\2\0\1"))


class Forward:
    """
    Ask upstreams.

    ``in_flight`` is the number of flights under way.  ``counters`` holds, since the start:

    * ``sent``, ``over_tcp``, ``probes``: queries to upstreams;
    * ``answered``, ``failed``: flights that ended with an upstream's answer, or with our SERVFAIL;
    * ``refused_load``, ``refused_zone``: refused above ``max_in_flight`` or a domain's share;
    * ``late``, ``timeouts``, ``unreachable``, ``late_replies``: what upstreams did not do in time;
    * ``wrong_id``, ``wrong_port`` (nothing was open at the port), ``wrong_question``,
      ``wrong_case``, ``headless``, ``malformed``: datagrams that were no reply;
    * ``connections``, ``sent_again``, ``unasked``: of TCP and TLS.

    Args:
        zones: upstreams for a zone and all below it; names in lower case.
        context: for upstreams over TLS.
    """

    name = "forward"

    def __init__(
        self,
        upstreams: Iterable[config.Upstream],
        loop: asyncio.AbstractEventLoop,
        *,
        timeout_ms: int = 2000,
        max_in_flight: int = 10_000,
        zone_share: float = 0.05,
        ports: int = 256,
        randomize_case: bool = True,
        trust_ad: bool = False,
        zones: Mapping[str, Iterable[config.Upstream]] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.in_flight = 0
        self._loop = loop
        self._timeout_s = timeout_ms / 1000
        self._max_in_flight = max_in_flight
        self._per_domain = max(1, round(zone_share * max_in_flight))
        self._randomize = randomize_case
        self._trust_ad = trust_ad
        self._ports = ports
        self._context = context
        self._random = Random()
        self._wheel: TimerWheel[Attempt] = TimerWheel(loop, self._due)
        self._upstreams: dict[config.Upstream, Upstream] = {}
        self._probers: dict[int, asyncio.Handle] = {}
        self._domains: dict[str, int] = {}  # flights by registrable domain
        self._closed = False
        self._default = self._group(upstreams)
        self._zones = {zone: self._group(those) for zone, those in (zones or {}).items()}
        registrable("example.org")  # reads the list of public suffixes, once, before any query

    @classmethod
    def from_config(cls, table: config.Forward, parts: Parts) -> Self:
        """
        The plugin for ``[forward]``; without upstreams, the system's resolvers.

        Raises:
            ConfigError: ``ca_file`` cannot be read.
        """
        upstreams = table.endpoints or system_resolvers(parts.config.server.listen)
        zones = {
            zone: tuple(config.upstream(text) for text in texts)
            for zone, texts in table.zones.items()
        }
        everyone = [*upstreams, *(one for those in zones.values() for one in those)]
        return cls(
            upstreams,
            parts.loop,
            timeout_ms=table.timeout_ms,
            max_in_flight=table.max_in_flight,
            zone_share=table.zone_share,
            ports=table.ports,
            randomize_case=table.randomize_case,
            trust_ad=table.trust_ad,
            zones=zones,
            context=tls_context(table.ca_file) if any(u.tls_name for u in everyone) else None,
        )

    @staticmethod
    def descriptors(table: config.Forward) -> int:
        """How many descriptors the plugin of one worker may use at most."""
        everyone = {*table.upstreams, *(text for those in table.zones.values() for text in those)}
        count = max(len(everyone), 3)  # resolv.conf has three at most
        return count * (table.ports + spare(table.ports) + CONNECTIONS)

    def ask(self, x: Exchange, done: Done) -> None:
        """
        Find the answer; see `Waiting`.

        ``done`` gets a ``reply``, also where all upstreams failed: SERVFAIL with EDE 22 for silence
        or 23 for the network's refusal.  A flight that was refused for load gets a message of our
        own, which says nothing of the name and must not be kept.
        """
        q = x.query
        name = q.name
        if self.in_flight >= self._max_in_flight:
            self.counters["refused_load"] += 1
            done(x, Answer(answer.error(x, SERVFAIL), "forward"))
            return
        domain = _owner(name)
        domains = self._domains
        here = domains.get(domain, 0)
        if here >= self._per_domain:
            self.counters["refused_zone"] += 1
            done(x, Answer(answer.error(x, SERVFAIL), "forward"))
            return
        group = self._default if not self._zones else self._zone(name)
        question = q.data[12 : q.question_end]
        if self._randomize:
            question = self._random.spell(question)
        now = self._loop.time()
        flight = Flight(x, done, question, domain, group, now)
        self.in_flight += 1
        domains[domain] = here + 1
        if group.up:
            flight.ends = now + 2 * self._timeout_s
        elif self._closed or not group.upstreams or group.trying >= TRIES:
            flight.network = group.refused
            self._fail(flight)
            return
        else:
            group.trying += 1
            flight.trying = True
            flight.ends = now + min(self._timeout_s, DOWN_WAIT_S)
        number = self._random.number()
        if not number % EXPLORE and len(group.upstreams) > 1:
            any_one = group.any(number // EXPLORE)
            if any_one is not None and self._send(flight, any_one, now):
                return
        if not self._next(flight, now) and not flight.pending:
            self._fail(flight)

    def adopt(self, old: Any) -> None:
        """Take over what the plugin of the configuration before learnt of the same upstreams."""
        if not isinstance(old, Forward):
            return
        for where, upstream in self._upstreams.items():
            if where in old._upstreams:
                upstream.adopt(old._upstreams[where])
                if upstream.failures or upstream.down:
                    self._watch(upstream)
        for upstream in old._upstreams.values():
            upstream.quiet = True  # whoever is not asked any more is nobody's concern

    def upstreams_state(self) -> list[dict[str, Any]]:
        """What metrics show of each upstream; see `Upstream.state`."""
        return [upstream.state() for upstream in self._upstreams.values()]

    def close(self) -> None:
        """Close all sockets; queries under way get SERVFAIL."""
        self._closed = True
        self._wheel.close()
        for prober in self._probers.values():
            prober.cancel()
        self._probers.clear()
        ended: list[Attempt] = []
        for upstream in self._upstreams.values():
            ended += upstream.ports.close() + upstream.stream.close()
        for attempt in ended:
            attempt.channel = None
            if attempt.flight.done is not None:
                attempt.flight.network = True
                self._fail(attempt.flight)

    # ---- setting up

    def _group(self, those: Iterable[config.Upstream]) -> Group:
        found = []
        for where in those:
            upstream = self._upstreams.get(where)
            if upstream is None:
                upstream = Upstream(len(self._upstreams), where, self._context)
                upstream.ports = Ports(self, where.address, self._ports, self._loop, self._random)
                upstream.stream = Stream(self, upstream, self._loop, self._random, self._timeout_s)
                self._upstreams[where] = upstream
            if upstream not in found:
                found.append(upstream)
        return Group(found)

    def _zone(self, name: str) -> Group:
        """The group of the longest zone that holds `name`."""
        zones = self._zones
        if name in zones:
            return zones[name]
        for parent in parents(name):
            if parent in zones:
                return zones[parent]
        return self._default

    # ---- sending

    def _next(self, flight: Flight, now: float) -> bool:
        """Ask the best upstream not yet asked; False if there is none, or none can be reached."""
        while now < flight.ends and not self._closed:
            upstream = flight.group.pick(flight.tried)
            if upstream is None:
                return False
            if self._send(flight, upstream, now):
                return True
        return False

    def _send(
        self,
        flight: Flight,
        upstream: Upstream,
        now: float,
        *,
        edns: bool = True,
        tcp: bool = False,
        probe: bool = False,
    ) -> bool:
        """Make an attempt; False if nothing could be sent."""
        flight.tried |= upstream.bit
        attempt = Attempt(flight, upstream, now)
        attempt.probe = probe
        attempt.stream = stream = tcp or upstream.where.tls_name is not None
        attempt.aside = tcp and upstream.where.tls_name is None
        attempt.edns = edns = edns and upstream.plain_until <= now
        q = flight.exchange.query
        if self._randomize and upstream.flat_until > now and not tcp:
            attempt.question = q.data[12 : q.question_end]
        question, do, cd, ad = attempt.question, q.do, q.cd, self._trust_ad
        rto = upstream.rto()
        try:
            if stream:
                attempt.wire = ask_wire(question, 0, do=do, cd=cd, ad=ad, edns=edns)
                if not upstream.stream.ready:
                    rto *= 4  # for the handshakes
                upstream.stream.send(attempt)
            else:
                self._over_udp(attempt, do, cd, now)
        except OSError as exc:
            attempt.drop()
            self.counters["unreachable"] += 1
            upstream.counters["errors"] += 1
            if exc.errno not in _OURS:
                flight.network = True
                if not attempt.aside:
                    upstream.unreachable(exc.strerror or str(exc))
                    self._watch(upstream)
            return False
        flight.pending += 1
        self.counters["sent"] += 1
        upstream.counters["sent"] += 1
        attempt.deadline = min(now + self._timeout_s, flight.ends)
        if not flight.group.up:
            rto = DOWN_WAIT_S / 4
        # Not later than half of its time, so that there is some left for another.
        self._wheel.add(attempt, now + min(rto, (attempt.deadline - now) / 2))
        return True

    def _over_udp(self, attempt: Attempt, do: bool, cd: bool, now: float) -> None:
        """Send an attempt from a random port; OSError if that cannot be done."""
        ports, question = attempt.upstream.ports, attempt.question
        for more in (True, False):
            channel = ports.take(attempt, self._random.number(), now)
            wire = ask_wire(
                question, attempt.ident, do=do, cd=cd, ad=self._trust_ad, edns=attempt.edns
            )
            try:
                channel.send(wire)
            except ConnectionRefusedError as exc:
                # The kernel reports here what ICMP said to an earlier query of this socket, and
                # sent nothing.  Who refused it then may be back.
                attempt.drop()
                ports.refused(channel, exc.strerror or "refused")
                if not more:
                    raise
            else:
                return

    def _watch(self, upstream: Upstream) -> None:
        """Ask the upstream for what it must know, now and each second until it replies."""
        key = upstream.bit
        if key not in self._probers and not self._closed and not upstream.quiet:
            self._probers[key] = self._loop.call_soon(self._probe, upstream)

    def _probe(self, upstream: Upstream) -> None:
        del self._probers[upstream.bit]
        if self._closed or upstream.quiet or not (upstream.failures or upstream.down):
            return
        self._probers[upstream.bit] = self._loop.call_later(PROBE_S, self._probe, upstream)
        now = self._loop.time()
        # A flight that was answered from the start: its replies count for the upstream alone.
        flight = Flight(_PROBE, None, _PROBE.query.question, "", upstream.groups[0], now)
        flight.ends = now + self._timeout_s
        self.counters["probes"] += 1
        self._send(flight, upstream, now, probe=True)

    # ---- what comes of it

    def replied(self, attempt: Attempt, data: bytes) -> None:
        """A reply with the right ID and question; the attempt is not open any more."""
        flight, upstream = attempt.flight, attempt.upstream
        now = self._loop.time()
        flight.pending -= 1
        upstream.replied(attempt, now)
        upstream.counters["answered"] += 1
        if flight.done is None:
            if not attempt.probe:
                self.counters["late_replies"] += 1
            return
        if data[2] & TC >> 8:
            if not attempt.stream:
                self._again_over_tcp(flight, upstream, now)
                return
            # Cut although there is room for all of it: part of an answer is none.
            self.counters["malformed"] += 1
            upstream.counters["errors"] += 1
            upstream.answered(False)
            self._go_on(flight, now)
            return
        rcode = data[3] & 15
        if rcode in (FORMERR, NOTIMP) and attempt.edns and data[10:12] == b"\0\0":
            # It does not know EDNS (RFC 6891 section 7), or the question is bad after all.
            self._plainly(attempt, now)
            return
        q = flight.exchange.query
        try:
            reply = read_reply(data, q.question_end, q.qtype)
        except WireError:
            self.counters["malformed"] += 1
            upstream.counters["errors"] += 1
            upstream.answered(False)
            self._go_on(flight, now)
            return
        if not attempt.edns and rcode not in (FORMERR, NOTIMP):
            upstream.plain_until = now + PLAIN_S
        if not self._trust_ad:
            reply.ad = False
        if rcode in (SERVFAIL, REFUSED):
            upstream.answered(False)
            if flight.last is None:
                flight.last = reply
            self._go_on(flight, now)
            return
        upstream.answered(True)
        self.counters["answered"] += 1
        self._finish(flight, Answer(None, "forward", reply=reply))

    def broke(self, attempt: Attempt, reason: str) -> None:
        """The network failed; the attempt is not open any more."""
        flight = attempt.flight
        flight.pending -= 1
        flight.network = True
        self.counters["unreachable"] += 1
        attempt.upstream.counters["errors"] += 1
        if not attempt.aside and attempt.upstream.heard <= attempt.sent:
            attempt.upstream.unreachable(reason)
            self._watch(attempt.upstream)
        self._go_on(flight, self._loop.time())

    def misspelled(self, attempt: Attempt) -> None:
        """A reply that was right but for its spelling; the attempt is still open."""
        flight = attempt.flight
        if flight.done is not None and not flight.over_tcp:
            self._again_over_tcp(flight, attempt.upstream, self._loop.time())

    def headless(self, attempt: Attempt) -> None:
        """A FORMERR or NOTIMP of a bare header under the right ID; the attempt is still open."""
        if attempt.edns and attempt.flight.done is not None and not attempt.flight.plain:
            attempt.flight.plain = True
            self._send(attempt.flight, attempt.upstream, self._loop.time(), edns=False)

    def _again_over_tcp(self, flight: Flight, upstream: Upstream, now: float) -> None:
        """Ask the same upstream over TCP, once; then go on."""
        if not flight.over_tcp and now < flight.ends:
            flight.over_tcp = True
            self.counters["over_tcp"] += 1
            if self._send(flight, upstream, now, tcp=True):
                return
        self._go_on(flight, now)

    def _plainly(self, attempt: Attempt, now: float) -> None:
        """Ask the same upstream without EDNS, once; then go on."""
        flight = attempt.flight
        if not flight.plain:
            flight.plain = True
            if self._send(flight, attempt.upstream, now, edns=False, tcp=flight.over_tcp):
                return
        self._go_on(flight, now)

    def _due(self, attempt: Attempt, now: float) -> None:
        """An attempt is late, or its time is over."""
        if attempt.channel is None:
            return
        flight, upstream = attempt.flight, attempt.upstream
        if not attempt.late:
            attempt.late = True
            self.counters["late"] += 1
            upstream.counters["late"] += 1
            if upstream.silent(attempt):
                self._watch(upstream)
            if attempt.deadline > now:
                self._wheel.add(attempt, attempt.deadline)
                if flight.done is not None:
                    self._is_late(attempt, now)
                return
        strays = attempt.channel.strays - attempt.strays
        attempt.drop()
        self.counters["timeouts"] += 1
        upstream.counters["timeouts"] += 1
        flight.pending -= 1
        flight.network = False
        if flight.done is not None:
            if strays >= STRAYS and not attempt.stream:
                self._again_over_tcp(flight, upstream, now)
            else:
                self._go_on(flight, now)

    def _is_late(self, attempt: Attempt, now: float) -> None:
        """Ask somebody else beside, or once more, for one of the two datagrams may be lost."""
        flight = attempt.flight
        odd = attempt.odd or attempt.channel.strays - attempt.strays >= STRAYS
        if odd and not attempt.stream and not flight.over_tcp:
            self._again_over_tcp(flight, attempt.upstream, now)
            return
        if self._next(flight, now) or flight.again or attempt.stream or flight.last is not None:
            return
        flight.again = True
        self._send(flight, flight.group.best(), now)

    def _go_on(self, flight: Flight, now: float) -> None:
        """An attempt ended without an answer."""
        if flight.done is not None and not self._next(flight, now) and flight.pending <= 0:
            self._fail(flight)

    def _fail(self, flight: Flight) -> None:
        """No upstream gave an answer: give the refusal that one gave, or SERVFAIL."""
        if flight.last is not None:
            self.counters["answered"] += 1
            self._finish(flight, Answer(None, "forward", reply=flight.last))
            return
        self.counters["failed"] += 1
        ede = answer.EDE_NETWORK if flight.network else answer.EDE_NO_REACHABLE
        self._finish(flight, Answer(None, "forward", reply=failure(SERVFAIL, ede)))

    def _finish(self, flight: Flight, found: Answer) -> None:
        done, flight.done = flight.done, None
        assert done is not None
        self.in_flight -= 1
        if flight.trying:
            flight.group.trying -= 1
        domains, domain = self._domains, flight.domain
        left = domains[domain] - 1
        if left:
            domains[domain] = left
        else:
            del domains[domain]
        done(flight.exchange, found)


def _owner(name: str) -> str:
    """The registrable domain of a name in a query; the name itself if it has none."""
    if name.count(".") >= _LABELS:
        name = ".".join(name.rsplit(".", _LABELS)[1:])
    return registrable(name) or name
