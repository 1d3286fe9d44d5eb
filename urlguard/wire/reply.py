"""
An upstream's reply, read once and given to many clients.

`read_reply` checks every record of the message and keeps what answers are made from, without the
header, the question and the OPT record: those are the client's own in each answer.  It also notes
the names that an answer leads to and the addresses in it, so that policy need not read it again.
Knows no policy, no clock and no sockets.

How it works
    The *body* is the octets from the end of the question to the end of the last record.  A
    question of the same name has the same length in any spelling, so compression pointers into the
    question and within the body still fit when another client's question precedes it.
    TTLs are counted down in place, at offsets noted once.  The body of one second is kept: a name
    in demand is asked for many times within it.
"""

from struct import Struct
from typing import Any, Final

from urlguard.errors import WireError
from urlguard.wire import query as wire
from urlguard.wire.answer import head, opt_record, soa_record
from urlguard.wire.query import (
    AAAA,
    ANY,
    NXDOMAIN,
    OPT,
    SERVFAIL,
    SOA,
    A,
    Asked,
    read_name,
    read_record,
    skip_name,
)

CNAME: Final = 5
DNAME: Final = 39
SVCB: Final = 64
HTTPS: Final = 65

EDE_OPTION: Final = 15
EDE_STALE: Final = 3  # RFC 8914 section 4.4
EDE_STALE_NXDOMAIN: Final = 19  # section 4.20

MAX_RECORDS: Final = 4096  # of one reply; an honest one has a few dozen at most
MAX_NAMES: Final = 256  # that one reply leads to
MAX_PLACES: Final = 512  # in one reply at which such names stand; more cost too much time to read

_IPV4_HINT, _IPV6_HINT = 4, 6  # service parameters, RFC 9460 section 14.3.2

MAX_EDE: Final = 512  # octets of EDE options that are passed on

_ADDRESS: Final = frozenset({A, AAAA})
_LEADING: Final = frozenset({CNAME, DNAME, SVCB, HTTPS})

_ttl = Struct("!I")
_pair = Struct("!HH").unpack_from
_pointed = Struct("!HHHIH").unpack_from  # owner as a pointer, type, class, TTL, length
_option = Struct("!HH").pack
_ede = Struct("!HHH").pack


class Reply:
    """
    One upstream's reply to one question.

    ``rcode``: NOERROR, NXDOMAIN or another of four bits.  ``ad``: the upstream calls it authentic.
    ``ttl``: seconds that it holds, the least of its records; for NXDOMAIN and NODATA by the SOA
    record (RFC 2308 section 5), and 0 without one.  ``negative``: NXDOMAIN, or no record of the
    type asked.  ``ede``: the EDE options that came along, as octets.

    ``targets``: names that the answer section leads to: of CNAME, DNAME, SVCB and HTTPS records,
    and owners of addresses; lower case, as `Query.name`.  An authority section that leads anywhere
    counts too.  ``additional_owners``: names that the additional section leads to.
    ``addresses``: 4 or 16 octets each, of address records in all sections and of SVCB hints.

    ``stored``, ``expires``, ``used``, ``size`` and ``retry`` belong to the cache, ``judged`` to the
    guard.
    """

    __slots__ = (
        "_aged",
        "_aged_at",
        "ad",
        "additional_owners",
        "addresses",
        "body",
        "counts",
        "cut",
        "ede",
        "expires",
        "highest",
        "judged",
        "negative",
        "rcode",
        "retry",
        "size",
        "stored",
        "targets",
        "ttl",
        "ttls",
        "used",
    )

    def __init__(
        self, rcode: int, body: bytes, counts: tuple[int, int, int], ttls: tuple[int, ...], ttl: int
    ) -> None:
        self.rcode = rcode
        self.body = body
        self.counts = counts
        self.ttls = ttls  # offsets in `body`
        self.ttl = ttl
        self.ad = False
        self.highest = 0xFFFFFFFF  # no TTL is higher
        self.negative = True
        self.cut = len(body)  # where the additional section begins
        self.ede = b""
        self.targets: tuple[str, ...] = ()
        self.additional_owners: tuple[str, ...] = ()
        self.addresses: tuple[bytes, ...] = ()
        self._aged_at = 0
        self._aged = body
        self.stored = 0.0
        self.expires = 0.0
        self.retry = 0.0
        self.used = 0
        self.size = 0
        self.judged: Any = None

    def without_additional(self) -> "Reply":
        """The same without the additional section."""
        ttls = tuple(at for at in self.ttls if at < self.cut)
        bare = Reply(self.rcode, self.body[: self.cut], (*self.counts[:2], 0), ttls, self.ttl)
        bare.ad, bare.negative, bare.ede = self.ad, self.negative, self.ede
        bare.targets = self.targets
        return bare

    def aged(self, age: int) -> bytes:
        """The body, all TTLs `age` seconds lower."""
        if age != self._aged_at:
            body = bytearray(self.body)
            for at in self.ttls:
                (ttl,) = _ttl.unpack_from(body, at)
                _ttl.pack_into(body, at, ttl - age if ttl > age else 0)
            self._aged, self._aged_at = bytes(body), age
        return self._aged

    def flat(self, ttl: int) -> bytes:
        """The body, all TTLs set to `ttl` seconds: how expired records are given (RFC 8767 4)."""
        body = bytearray(self.body)
        for at in self.ttls:
            _ttl.pack_into(body, at, ttl)
        return bytes(body)

    def cap(self, most: int) -> None:
        """Lower every TTL above `most` seconds, before anyone was answered with it."""
        if self.highest <= most:
            return
        body = self.body
        high = [at for at in self.ttls if _ttl.unpack_from(body, at)[0] > most]
        if high:
            lowered = bytearray(body)
            for at in high:
                _ttl.pack_into(lowered, at, most)
            self.body = self._aged = bytes(lowered)
            self.ttl = min(self.ttl, most)

    def lift(self, least: int) -> None:
        """Raise every TTL below `least` seconds, before anyone was answered with it."""
        lifted = bytearray(self.body)
        for at in self.ttls:
            if _ttl.unpack_from(lifted, at)[0] < least:
                _ttl.pack_into(lifted, at, least)
        self.body = self._aged = bytes(lifted)
        self.ttl = max(self.ttl, least)


def failure(rcode: int, ede: int | None = None) -> Reply:
    """A reply of our own for a question that no upstream answered."""
    made = Reply(rcode, b"", (0, 0, 0), (), 0)
    if ede is not None:
        made.ede = _ede(EDE_OPTION, 2, ede)
    return made


def nodata(ttl: int, ede: int) -> Reply:
    """A reply of our own: the name has no such records, to be remembered for `ttl` seconds."""
    record = soa_record(ttl)
    made = Reply(0, record, (0, 1, 0), (6,), ttl)
    made.ede = _ede(EDE_OPTION, 2, ede)
    return made


def render(
    reply: Reply, asked: Asked, age: int = 0, ede: int | None = None, flat_ttl: int | None = None
) -> bytes:
    """
    The answer to a query: the client's ID, question, RD and CD, then the reply's records.

    AA is clear and RA set, for we forward.  AD is set if the reply has it and the client shows
    that it understands it, by AD or DO (RFC 6840 sections 5.7 and 5.8).

    Args:
        age: seconds since it came.
        ede: an extended error code to add (RFC 8914).
        flat_ttl: TTL of all records, in seconds, in place of their own.
    """
    q = asked.query
    body = reply.aged(age) if flat_ttl is None else reply.flat(flat_ttl)
    bits = reply.rcode
    if reply.ad and (q.do or q.flags & wire.AD):
        bits |= wire.AD
    answers, authorities, additionals = reply.counts
    if not q.has_opt:
        return head(q, bits, answers, authorities, additionals) + body
    extra = reply.ede
    if ede is not None:
        extra += _ede(EDE_OPTION, 2, ede)
    return head(q, bits, answers, authorities, additionals + 1) + body + opt_record(asked, extra)


def read_reply(data: bytes, question_end: int, qtype: int) -> Reply:
    """
    Read a reply to a question whose octets end at `question_end`.

    The caller has compared ID and question.

    Raises:
        WireError: a record ends after the message, a name is broken, the question has another
            length, there are too many records, or the error concerns our hop and not the question
            (an extended RCODE, RFC 6891 section 6.1.3); to clients all of it is SERVFAIL.
    """
    try:
        return _read(data, question_end, qtype)
    except WireError as exc:
        raise WireError(f"upstream: {exc}", SERVFAIL) from exc


def _read(data: bytes, question_end: int, qtype: int) -> Reply:
    _, flags, questions, answers, authorities, additionals = wire.header(data)
    if questions != 1 or len(data) < question_end:
        raise WireError("question: not the one that was asked", SERVFAIL)
    if answers + authorities + additionals > MAX_RECORDS:
        raise WireError(f"{answers + authorities + additionals} records; too many", SERVFAIL)
    if qtype in _ADDRESS and not authorities and answers and not flags & 15:
        reply = _addresses(data, question_end, qtype, answers, additionals)
        if reply is not None:
            reply.ad = flags & wire.AD != 0
            return reply
    found = _Reading(data, question_end, qtype)
    cut = found.authority(found.answer(question_end, answers), authorities)
    kept, at = found.additional(cut, additionals)
    if found.upper_rcode:
        raise WireError(f"extended RCODE {found.upper_rcode << 4 | flags & 15}", SERVFAIL)

    rcode = flags & 15
    negative = rcode == NXDOMAIN or (rcode == 0 and not found.answered)
    body = data[question_end:at]
    ttl = found.lowest
    if negative:
        ttl = 0  # without a SOA record there is no negative TTL (RFC 2308 section 5)
        if found.soa_at:
            ttl = min(found.lowest, found.soa_ttl)
            # What clients remember by is this record's TTL (RFC 2308 section 5).
            start = found.soa_at - question_end
            body = body[:start] + _ttl.pack(found.soa_ttl) + body[start + 4 :]
    if found.odd:
        zeroed = bytearray(body)
        for at in found.odd:
            start = at - question_end
            zeroed[start : start + 4] = bytes(4)
        body = bytes(zeroed)
    ttls = tuple([at - question_end for at in found.ttls])
    reply = Reply(rcode, body, (answers, authorities, kept), ttls, ttl if ttls else 0)
    reply.cut = cut - question_end
    reply.ad = flags & wire.AD != 0
    reply.negative = negative
    reply.ede = found.ede
    reply.targets = tuple(found.targets)
    reply.additional_owners = tuple(found.additional_owners)
    reply.addresses = tuple(found.addresses)
    return reply


def _addresses(
    data: bytes, question_end: int, qtype: int, answers: int, additionals: int
) -> Reply | None:
    """
    The commonest reply, read straight from its places: addresses of the very name that was asked
    for, and at most a bare OPT record.  None for any other, which the longer way reads as strictly.
    """
    width = 4 if qtype == A else 16
    step = 12 + width
    end = question_end + answers * step
    size = len(data)
    if size != end + 11 * additionals or additionals > 1:
        return None
    if additionals and (
        data[end : end + 3] != b"\0\0\x29" or data[end + 5] or data[-2:] != b"\0\0"
    ):
        return None
    lowest, highest = 0x7FFFFFFF, 0
    for at in range(question_end, end, step):
        owner, rtype, _, ttl, length = _pointed(data, at)
        if owner != 0xC00C or rtype != qtype or length != width or ttl > 0x7FFFFFFF:
            return None
        if ttl < lowest:
            lowest = ttl
        if ttl > highest:
            highest = ttl
    body = data[question_end:end]
    ttls = tuple(range(6, answers * step, step))
    reply = Reply(0, body, (answers, 0, 0), ttls, lowest)
    reply.highest = highest
    reply.negative = False
    reply.addresses = tuple([body[i : i + width] for i in range(12, answers * step, step)])
    return reply


class _Reading:
    """What has been seen of a message so far."""

    def __init__(self, data: bytes, question_end: int, qtype: int) -> None:
        self.data = data
        self.question_end = question_end
        self.qtype = qtype
        self.ttls: list[int] = []  # offsets in the message
        self.odd: list[int] = []  # of them, those that are no time
        self.lowest = 0x7FFFFFFF  # RFC 2181 section 8
        self.answered = False
        self.soa_at = 0  # where its TTL stands; 0: there is none
        self.soa_ttl = 0
        self.ede = b""
        self.upper_rcode = 0
        self.targets: dict[str, None] = {}
        self.additional_owners: dict[str, None] = {}
        self.addresses: list[bytes] = []
        self.places: set[tuple[int, int]] = set()  # of names that were read, and into which

    def answer(self, at: int, count: int) -> int:
        """Read the answer section; the offset after it."""
        data, qtype = self.data, self.qtype
        for _ in range(count):
            start = at
            rtype, _, ttl, rdata, at = read_record(data, at)
            self._ttl(ttl, rdata)
            if rtype == qtype or qtype == ANY:
                self.answered = True
            if rtype in _ADDRESS:
                self._address(start, rtype, rdata, at, self.targets)
            elif rtype in _LEADING:
                self._leads(start, rtype, rdata, at, self.targets)
            elif rtype == OPT:
                raise WireError("OPT record: outside the additional section", SERVFAIL)
        return at

    def authority(self, at: int, count: int) -> int:
        """Read the authority section; the offset after it."""
        data = self.data
        for _ in range(count):
            start = at
            rtype, _, ttl, rdata, at = read_record(data, at)
            self._ttl(ttl, rdata)
            if rtype == SOA:
                if at - rdata < 22:
                    raise WireError(f"SOA record: {at - rdata} octets", SERVFAIL)
                self.soa_at = rdata - 6
                self.soa_ttl = min(ttl, _ttl.unpack_from(data, at - 4)[0])
            elif rtype in _ADDRESS:
                # No honest server puts one here, but some client may believe it.
                self._address(start, rtype, rdata, at, self.targets)
            elif rtype in _LEADING:
                self._leads(start, rtype, rdata, at, self.targets)
            elif rtype == OPT:
                raise WireError("OPT record: outside the additional section", SERVFAIL)
        return at

    def additional(self, at: int, count: int) -> tuple[int, int]:
        """Read the additional section up to the OPT record: how many records, the offset after."""
        data = self.data
        for number in range(count):
            start = at
            rtype, _, ttl, rdata, at = read_record(data, at)
            if rtype == OPT:
                # What follows is dropped: moving it would break compression pointers into it, and
                # additional records are a courtesy.  Everyone puts OPT last anyway.
                self.upper_rcode = ttl >> 24
                if at > rdata:
                    self._edes(rdata, at)
                return number, start
            self._ttl(ttl, rdata)
            if rtype in _ADDRESS:
                self._address(start, rtype, rdata, at, self.additional_owners)
            elif rtype in (SVCB, HTTPS):
                self._leads(start, rtype, rdata, at, self.additional_owners)
        return count, at

    def _edes(self, at: int, end: int) -> None:
        """Keep the OPT record's extended errors, as long as there is room."""
        for code, content in wire.options(self.data, at, end):
            if code == EDE_OPTION and 2 <= len(content) <= MAX_EDE - 4 - len(self.ede):
                self.ede += _option(code, len(content)) + content

    def _ttl(self, ttl: int, rdata: int) -> None:
        # RFC 2181 section 8: the highest bit set means zero.
        if ttl > 0x7FFFFFFF:
            ttl = 0
            self.odd.append(rdata - 6)
        if ttl < self.lowest:
            self.lowest = ttl
        self.ttls.append(rdata - 6)

    def _address(self, owner: int, rtype: int, rdata: int, end: int, into: dict[str, None]) -> None:
        if end - rdata != (4 if rtype == A else 16):
            raise WireError(f"address of {end - rdata} octets", SERVFAIL)
        self.addresses.append(self.data[rdata:end])
        self._owner(owner, into)

    def _owner(self, at: int, into: dict[str, None]) -> None:
        if self.data[at] != 0xC0 or self.data[at + 1] != 12:  # not the name that was asked
            self._name(at, into)

    def _leads(self, owner: int, rtype: int, rdata: int, end: int, into: dict[str, None]) -> None:
        """Note where a CNAME, DNAME, SVCB or HTTPS record leads."""
        data = self.data
        if rtype in (CNAME, DNAME):
            self._name(rdata, into)
            if skip_name(data, rdata) != end:
                raise WireError("CNAME record: its name ends elsewhere", SERVFAIL)
            return
        if end - rdata < 3:
            raise WireError(f"SVCB record: {end - rdata} octets", SERVFAIL)
        if data[rdata + 2]:
            self._name(rdata + 2, into)
        else:  # the root stands for the owner itself (RFC 9460 section 2.5.2)
            self._owner(owner, into)
        at = skip_name(data, rdata + 2)
        while at + 4 <= end:
            key, length = _pair(data, at)
            at += 4
            step = 4 if key == _IPV4_HINT else 16 if key == _IPV6_HINT else 0
            if step and at + length <= end:
                if length % step:
                    raise WireError(f"SVCB record: address hint of {length} octets", SERVFAIL)
                self.addresses += [data[i : i + step] for i in range(at, at + length, step)]
            at += length
        if at != end:
            raise WireError("SVCB record: parameters end elsewhere", SERVFAIL)

    def _name(self, at: int, into: dict[str, None]) -> None:
        data = self.data
        # A thousand addresses mostly have one owner, and a pointer to it each.
        pointed = at + 1 < len(data) and data[at] >= 0xC0
        place = (data[at] & 0x3F) << 8 | data[at + 1] if pointed else at
        if (place, id(into)) in self.places:
            return
        self.places.add((place, id(into)))
        if len(self.places) > MAX_PLACES:
            raise WireError(f"leads to names at more than {MAX_PLACES} places", SERVFAIL)
        name = read_name(data, at)
        if name:  # no rule is about the root
            into[name] = None
            if len(into) > MAX_NAMES:
                raise WireError(f"leads to more than {MAX_NAMES} names", SERVFAIL)
