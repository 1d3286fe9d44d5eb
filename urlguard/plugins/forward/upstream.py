"""
One upstream as experience shows it, and the group of those that may answer a question.

Knows what came of queries; sends none and sees no packet.

How it works
    *Speed*: each reply's time goes into a moving average and its deviation, as TCP does it (RFC
    6298).  From both comes the time after which a reply is late, and another upstream is asked.
    *Health*: a late reply counts against an upstream only if nothing at all came from it since the
    query was sent, for a slow name is not its fault.  Each failure in a row makes it less likely to
    be asked.  After five in a row, one of them a question that any recursor answers at once, it is
    down; so it is after three refusals by its network.  One reply makes it up again.
    *Choice*: the lowest score: the average, and something for each failure in a row.
"""

import ssl
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from urlguard import config, events
from urlguard.plugins.base import Done, Exchange
from urlguard.wire.reply import Reply

SILENT: Final = 5  # late replies in a row until an upstream is down
REFUSING: Final = 3  # refusals in a row
FLATTENS_S: Final = 3600.0  # an upstream that loses the spelling is not tried again for so long
PLAIN_S: Final = 600.0  # nor one that does not know EDNS

_UNKNOWN_S: Final = 0.05  # as fast as an upstream counts before its first reply
_FIRST_RTO_S: Final = 0.4
_LEAST_RTO_S: Final = 0.1  # recursors need longer for names that they do not know
_PER_FAILURE_S: Final = 0.2  # what one failure in a row counts for in the score
_PER_REFUSAL_S: Final = 0.05  # and one SERVFAIL or REFUSED in a row
_MOST: Final = 20  # of either that count
_DOWN: Final = 1e6
_EVENT_S: Final = 10.0  # between two events about refused certificates


class Flight:
    """
    One question on its way.

    ``done`` is None once it was answered.  ``tried`` has the bits of upstreams that were asked,
    ``pending`` counts attempts that may still bring a reply.
    """

    __slots__ = (
        "again",
        "domain",
        "done",
        "ends",
        "exchange",
        "group",
        "last",
        "network",
        "over_tcp",
        "pending",
        "plain",
        "question",
        "started",
        "tried",
        "trying",
    )

    def __init__(
        self,
        x: Exchange,
        done: Done | None,
        question: bytes,
        domain: str,
        group: "Group",
        now: float,
    ) -> None:
        self.exchange = x
        self.done = done
        self.question = question  # as it is spelled on the wire
        self.domain = domain
        self.group = group
        self.started = now
        self.ends = now
        self.tried = 0
        self.pending = 0
        self.last: Reply | None = None  # a refusal, given if nobody knows better
        self.network = False  # the latest attempt failed at the network, not in silence
        self.again = False  # one upstream was asked twice
        self.over_tcp = False
        self.plain = False  # it was asked without EDNS
        self.trying = False  # it is one of the few of a group that is down


class Attempt:
    """
    A flight's query to one upstream.

    ``channel`` is the socket or connection where it is open, None once it is not.  ``aside``: over
    TCP to an upstream that is asked over UDP, which says nothing of its health.
    """

    __slots__ = (
        "aside",
        "channel",
        "deadline",
        "edns",
        "flight",
        "ident",
        "late",
        "odd",
        "probe",
        "question",
        "retried",
        "sent",
        "strays",
        "stream",
        "upstream",
        "wire",
    )

    def __init__(self, flight: Flight, upstream: "Upstream", now: float) -> None:
        self.flight = flight
        self.upstream = upstream
        self.channel: Any = None
        self.ident = 0
        self.sent = now
        self.deadline = 0.0
        self.question = flight.question
        self.edns = True
        self.late = False
        self.odd = False  # a reply came that was right but for its spelling
        self.strays = 0  # what the channel had counted before
        self.probe = False
        self.aside = False
        self.retried = False
        self.stream = False
        self.wire = b""  # kept for streams, which may have to send it again

    def drop(self) -> None:
        """Wait for it no longer."""
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.forget(self)


class Upstream:
    """
    One upstream.

    Args:
        number: of its own, from 0.
        where: address and name.
        context: for TLS.
    """

    def __init__(
        self, number: int, where: config.Upstream, context: ssl.SSLContext | None = None
    ) -> None:
        self.bit = 1 << number
        self.where = where
        self.context = context if where.tls_name is not None else None
        self.srtt: float | None = None  # seconds; None before the first reply
        self.var = 0.0
        self.score = _UNKNOWN_S
        self.heard = float("-inf")  # loop time of the latest reply
        self.failures = 0  # in a row
        self.refused = False  # the latest failure was not silence
        self.probe_failed = False
        self.refusals = 0  # SERVFAIL and REFUSED in a row
        self.down = False
        self.quiet = False  # another instance speaks for it
        self.flat_until = float("-inf")
        self.plain_until = float("-inf")
        self.counters: Counter[str] = Counter()
        self.groups: list[Group] = []
        self.ports: Any = None
        self.stream: Any = None
        self._spoken = float("-inf")

    def rto(self) -> float:
        """Seconds after which a reply is late."""
        if self.srtt is None:
            return _FIRST_RTO_S
        return max(_LEAST_RTO_S, self.srtt + 4 * self.var)

    def replied(self, attempt: Attempt, now: float) -> None:
        """A reply came."""
        rtt = now - attempt.sent
        if attempt.aside:
            pass
        elif self.srtt is None:
            self.srtt, self.var = rtt, rtt / 2
        else:
            off = rtt - self.srtt
            self.srtt += off / 8
            self.var += (abs(off) - self.var) / 4
        self.heard = now
        self.failures = 0
        self.probe_failed = False
        if self.down:
            self._turn(False, "")
        self._weigh()

    def answered(self, well: bool) -> None:
        """The reply was an answer, or SERVFAIL or REFUSED."""
        if well:
            if not self.refusals:
                return
            self.refusals = 0
        else:
            self.refusals += 1
        self._weigh()

    def silent(self, attempt: Attempt) -> bool:
        """No reply in time; True if nothing else came either, so that it counts."""
        if attempt.aside or self.heard >= attempt.sent:
            return False
        self.failures += 1
        self.refused = False
        if attempt.probe:
            self.probe_failed = True
        if self.failures >= SILENT and self.probe_failed:
            self._turn(True, "silent")
        self._weigh()
        return True

    def unreachable(self, reason: str) -> None:
        """The network or the upstream's host refused."""
        self.failures += 1
        self.refused = True
        if self.failures >= REFUSING:
            self._turn(True, reason)
        self._weigh()

    def untrusted(self, reason: str, now: float) -> None:
        """Its certificate does not prove that it is who it should be."""
        self.counters["untrusted"] += 1
        if now - self._spoken >= _EVENT_S and not self.quiet:
            self._spoken = now
            events.error("upstream.refused", upstream=str(self.where), reason=reason)

    def adopt(self, old: "Upstream") -> None:
        """Take over what another instance learnt of the same upstream, and speak for it."""
        self.srtt, self.var, self.heard = old.srtt, old.var, old.heard
        self.failures, self.refused, self.probe_failed = old.failures, old.refused, old.probe_failed
        self.refusals, self.down = old.refusals, old.down
        self.flat_until, self.plain_until = old.flat_until, old.plain_until
        self._spoken = float("-inf")  # its certificates may be others now
        old.quiet = True
        for group in self.groups:
            group.count()
        self._weigh()

    def state(self) -> dict[str, Any]:
        """What metrics show: ``upstream``, ``up``, ``srtt_ms`` or None, and all counters."""
        return {
            "upstream": str(self.where),
            "up": not self.down,
            "srtt_ms": None if self.srtt is None else round(self.srtt * 1000, 3),
            **self.counters,
        }

    def _weigh(self) -> None:
        score = _UNKNOWN_S if self.srtt is None else self.srtt
        if self.failures:
            score += _PER_FAILURE_S * min(self.failures, _MOST)
        if self.refusals:
            score += _PER_REFUSAL_S * min(self.refusals, _MOST)
        self.score = score + _DOWN if self.down else score

    def _turn(self, down: bool, reason: str) -> None:
        if down == self.down:
            return
        self.down = down
        for group in self.groups:
            group.count()
        if self.quiet:
            return
        if down:
            events.warning("upstream.down", upstream=str(self.where), reason=reason)
        else:
            events.info("upstream.up", upstream=str(self.where))


class Group:
    """
    The upstreams that may answer: of a zone, or of everything else.

    ``up`` counts those that are not down.  ``trying`` counts flights while none is up.
    """

    def __init__(self, upstreams: Iterable[Upstream]) -> None:
        self.upstreams = list(upstreams)
        self.up = len(self.upstreams)
        self.trying = 0
        for upstream in self.upstreams:
            upstream.groups.append(self)

    def count(self) -> None:
        """Count who is up."""
        self.up = sum(not upstream.down for upstream in self.upstreams)

    def pick(self, tried: int) -> Upstream | None:
        """The best upstream not yet tried; one that is down only while all are."""
        best = None
        for upstream in self.upstreams:
            if not upstream.bit & tried and (best is None or upstream.score < best.score):
                best = upstream
        if best is not None and best.down and self.up:
            return None
        return best

    def best(self) -> Upstream:
        """The best upstream, tried or not."""
        return min(self.upstreams, key=lambda upstream: upstream.score)

    def any(self, chance: int) -> Upstream | None:
        """One by chance, so that measures stay fresh; None if it is down."""
        found = self.upstreams[chance % len(self.upstreams)]
        return None if found.down else found

    @property
    def refused(self) -> bool:
        """True if the network refused all of them lately; False if any is silent."""
        return all(upstream.refused for upstream in self.upstreams)
