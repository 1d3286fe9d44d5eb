"""
limit: limit the query rate of each client and each network.

Runs after the acl and above every plugin that does real work.  Knows the wire format of answers
and each client's token buckets; knows no names, no rules and no sockets.

How it works
    Asking a bucket costs more than an answer from the packet cache.  So a client is *granted* some
    queries at once, in ``Client.grant``, and the packet cache counts these down itself; only when
    they are used up does a query come here.

    The source address of a UDP datagram may be forged.  A query over a limit gets TC: a real client
    retries over TCP and is answered; the victim of a forged address gets a packet no larger than
    the query.  Queries over TCP, or with a valid cookie, have a verified address
    (``Exchange.proven``).  Only the client's own limit applies to them, and over TCP a client may
    be overdrawn by a whole burst, so that a flood of forged datagrams in its name does not lock it
    out.

    Response-rate limiting is for floods below these limits that make the same answer, a large one
    perhaps, go to one victim.  Same answers are counted only for clients that are *watched*: those
    that ask for more in all than same answers are allowed, and networks in which one name turns up
    that often among the queries that bring grants.  Who is watched gets no grants, so each query
    comes here and each answer passes back through here.  Everybody else costs one comparison.
"""

import asyncio
from collections import Counter
from typing import Final, Self

from urlguard import config
from urlguard.plugins.base import Answer, Exchange, Local, Parts
from urlguard.plugins.clients import PLENTY, Bucket, Client, Networks
from urlguard.wire import answer
from urlguard.wire.query import NXDOMAIN, REFUSED, UDP

GRANT: Final = 32  # queries granted at once, at most
WATCH_S: Final = 3.0  # a client or network is watched for, after it was last above the rate
MAX_WATCHED: Final = 4096  # clients and networks; more are not watched
MAX_COUNTED: Final = 8192  # things counted in one second; more are not counted

Network = tuple[int, int]  # IP version and the bits of the prefix


class Tally:
    """
    How often each thing happened in the running second; bounded.

    When it is full, what is not in it yet is not counted.  What floods is there early in each
    second, since it is what comes most often.
    """

    def __init__(self) -> None:
        self._second = -1
        self._counts: dict[object, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, now: float, thing: object, count: int = 1) -> int:
        """How often it happened in this second, now included; `now` in seconds."""
        second = int(now)
        counts = self._counts
        if second != self._second:
            self._second = second
            counts = self._counts = {}
        seen = counts.get(thing, 0) + count
        if seen != count or len(counts) < MAX_COUNTED:
            counts[thing] = seen
        return seen


class Limit(Local):
    """
    Limits on clients, on networks and on same answers.

    ``counters``: ``over_client``, ``over_prefix``, ``over_identical``: queries over each limit;
    ``truncated``, ``dropped``, ``refused``: what they got; ``overdrawn``: queries over TCP answered
    although the client's limit was used up.

    Args:
        options: ``[limit]``.
        loop: whose time counts.
    """

    name = "limit"
    cacheable = True
    every_query = True

    def __init__(self, options: config.Limit, loop: asyncio.AbstractEventLoop) -> None:
        self.counters: Counter[str] = Counter()
        self._loop = loop
        self._truncate = options.over == "truncate"
        self._identical = options.identical_qps
        self._factor = options.shared_factor
        self._shared = Networks((n, True) for n in options.shared)
        self._exempt = Networks((n, True) for n in options.exempt)
        self._shifts = {4: 32 - options.prefix_ipv4, 6: 128 - options.prefix_ipv6}
        # A grant must be small beside a burst, and beside the rate that it helps to measure.
        rates = (options.client_qps, options.prefix_qps)
        sizes = [int(rate * options.burst_s / 4) for rate in rates if rate]
        if self._identical:
            sizes.append(self._identical // 4)
        self._grant = max(1, min([GRANT, *sizes]))
        self._asked = Tally()
        self._answered = Tally()
        self._watched: dict[str | Network, float] = {}  # until when

    @classmethod
    def from_config(cls, table: config.Limit, parts: Parts) -> Self:
        """The plugin for ``[limit]``."""
        return cls(table, parts.loop)

    # ---- queries

    def on_query(self, x: Exchange) -> Answer | None:
        """None within the limits; else TC, nothing at all, or over TCP REFUSED with EDE 18."""
        who: Client | None = x.client
        if who is None:
            return None
        grant = who.grant
        if grant.left > 0:
            grant.left -= 1
            return None
        if not self._limited(who):
            grant.left = PLENTY
            return None
        now = self._loop.time()
        want = self._grant
        if self._identical and not x.proven and self._watch(x, who, now):
            want = 1
        return self._ask_buckets(x, who, now, want)

    def _limited(self, who: Client) -> bool:
        if who.bucket is not None or who.prefix is not None:
            return True
        if not self._identical or who.address is None or who.front is not None:
            return False
        return self._exempt.find(who.address) is None

    def _ask_buckets(self, x: Exchange, who: Client, now: float, want: int) -> Answer | None:
        bucket, prefix = who.bucket, who.prefix
        if bucket is not None:
            want = min(want, _there(bucket, now))
            if want < 1:
                if x.transport != UDP and bucket.left > -bucket.burst:
                    bucket.left -= 1
                    self.counters["overdrawn"] += 1
                    return None
                return self._over(x, "over_client")
        if prefix is not None:
            within = min(want, _there(prefix, now))
            if within < 1 and not x.proven:
                return self._over(x, "over_prefix")
            # A network that others have used up does not concern who is proven to be itself.
            want = max(1, within)
            prefix.left = max(0.0, prefix.left - want)
        if bucket is not None:
            bucket.left -= want
        who.grant.left = want - 1
        return None

    def _over(self, x: Exchange, what: str) -> Answer:
        self.counters[what] += 1
        if x.transport != UDP:
            # Its address is proven, and so it is what asks too much.  REFUSED makes a stub resolver
            # turn to its other servers at once.
            self.counters["refused"] += 1
            return _once(answer.error(x, REFUSED, answer.EDE_PROHIBITED))
        return self._curbed(x, truncate=self._truncate)

    def _curbed(self, x: Exchange, *, truncate: bool) -> Answer:
        self.counters["truncated" if truncate else "dropped"] += 1
        return _once(answer.truncated(x) if truncate else b"")

    # ---- same answers

    def on_answer(self, x: Exchange, a: Answer) -> Answer:
        """Of too many same answers to a network that is watched: every second one TC, or none."""
        if not self._watched or x.proven:
            return a
        who: Client | None = x.client
        # Who has more left than any grant gives has no limits.
        if who is None or who.grant.left > GRANT or who.address is None or a.wire == b"":
            return a
        now = self._loop.time()
        network = self._network(who)
        if self._watched.get(who.host, 0.0) <= now and self._watched.get(network, 0.0) <= now:
            return a
        count = self._answered.add(now, (network, *_sameness(x, a)))
        over = count - self._allowed(who)
        if over <= 0:
            return a
        self.counters["over_identical"] += 1
        # A forger's victim gets half as many packets as were sent in its name; an honest client
        # that asks twice gets to TCP.
        return self._curbed(x, truncate=self._truncate and over % 2 == 0)

    def _watch(self, x: Exchange, who: Client, now: float) -> bool:
        """Count a query that would bring a grant; True if its client is watched from now on."""
        network = self._network(who)
        watched = self._watched
        seen = bool(watched) and (
            watched.get(who.host, 0.0) > now or watched.get(network, 0.0) > now
        )
        count = 1 if seen else self._grant
        own = self._asked.add(now, who.host, count)
        same = self._asked.add(now, (network, x.query.name), count)
        if max(own, same) > self._identical:
            allowed = self._allowed(who)
            if own > allowed:
                seen |= self._begin(who.host, now)
            if same > allowed:
                seen |= self._begin(network, now)
        return seen

    def _begin(self, whom: str | Network, now: float) -> bool:
        watched = self._watched
        if whom not in watched and len(watched) >= MAX_WATCHED:
            self._watched = watched = {w: until for w, until in watched.items() if until > now}
            if len(watched) >= MAX_WATCHED:
                return False
        watched[whom] = now + WATCH_S
        return True

    def _network(self, who: Client) -> Network:
        address = who.address
        assert address is not None
        return address.version, int(address) >> self._shifts[address.version]

    def _allowed(self, who: Client) -> int:
        """Same answers a second for the client's network."""
        return self._identical * (self._factor if self._shared.find(who.address) else 1)


def _there(bucket: Bucket, now: float) -> int:
    """Whole queries that a bucket holds at `now`, in seconds of the loop's time."""
    bucket.take(now, 0)
    return int(bucket.left)


def _sameness(x: Exchange, a: Answer) -> tuple[str, int]:
    """
    What makes an answer the same as others: a name and a kind.

    NXDOMAIN: the zone, so that random names below it are one.  Any other error: the error alone.
    Else the name that was asked for, whatever the type.
    """
    if a.reply is not None:
        rcode = a.reply.rcode
    else:
        assert a.wire is not None
        rcode = a.wire[3] & 15
    if rcode == NXDOMAIN:
        return x.query.name.partition(".")[2], rcode
    return "" if rcode else x.query.name, rcode


def _once(wire: bytes) -> Answer:
    found = Answer(wire, "limit")
    found.once = True  # it concerns this client at this moment
    return found
