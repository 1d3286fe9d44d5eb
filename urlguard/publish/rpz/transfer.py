"""
The DNS messages of a zone primary: requests in, SOA and transfers out.  No sockets, no policy.

AXFR is RFC 5936, IXFR RFC 1995, signatures are RFC 8945.  Messages of a transfer stay below 16 KiB,
so that a compression pointer reaches everything in them; each repeats the question, so that the
zone's name is always at offset 12 and an owner ends with a pointer to it.  Every message is signed.
"""

import base64
import binascii
import hashlib
import json
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from urlguard import names
from urlguard.config import Config, TsigKey
from urlguard.errors import ConfigError, InputError
from urlguard.publish.rpz.store import ZoneStore, unpacked
from urlguard.publish.rpz.zone import BLOCK, MAX_WIRE, NONE, PASS, owner

if TYPE_CHECKING:
    import dns.tsig

NS, CNAME, SOA, AAAA, A, IXFR, AXFR, TSIG = 2, 5, 6, 28, 1, 251, 252, 250
NOERROR, FORMERR, SERVFAIL, NOTIMP, REFUSED, NOTAUTH = 0, 1, 2, 4, 5, 9
BADSIG, BADKEY, BADTIME = 16, 17, 18
_IN, _ANY = 1, 255

REFRESH_S, RETRY_S, EXPIRE_S = 60, 30, 604_800
FUDGE_S = 300  # RFC 8945 section 10
MAX_BODY = 15_000  # octets of a transfer's message without its signature
MAX_UDP = 512  # octets of a reply over UDP to a request without EDNS, RFC 1035 section 4.2.1

_APEX = b"\xc0\x0c"  # a pointer to the question's name

# An owner without the zone's name, and what follows it in each record of the set.
Item = tuple[bytes, tuple[bytes, ...]]
Keys = Mapping[str, "dns.tsig.Key"]

_LENGTH = [bytes((n,)) for n in range(64)]
_STAR = b"\x01*"


def wire_name(text: str) -> bytes:
    """A canonical name without compression (RFC 1035 section 3.1); "" is the root."""
    if not text:
        return b"\0"
    return b"".join([_LENGTH[len(label)] + label for label in text.encode().split(b".")]) + b"\0"


class Look:
    """How the zone's records are written."""

    def __init__(self, config: Config) -> None:
        """
        What ``[rpz]`` and ``[guard]`` say.

        Raises:
            ConfigError: the zone's name is not one.
        """
        try:
            self.zone = names.canonical(config.rpz.zone)
        except InputError as exc:
            raise ConfigError([f"[rpz] zone = {config.rpz.zone!r}: {exc}"]) from exc
        guard = config.guard
        self.ttl = guard.block_ttl_s
        zero = guard.answer == "zero"
        self._texts: dict[int, tuple[tuple[str, str], ...]] = {
            NONE: (),
            PASS: (("CNAME", "rpz-passthru."),),
        }
        tails = {
            NONE: (),
            PASS: (self._tail(CNAME, wire_name("rpz-passthru")),),
        }
        if zero or guard.answer == "sinkhole":
            ipv4 = guard.sinkhole_ipv4.packed if not zero else bytes(4)
            ipv6 = guard.sinkhole_ipv6.packed if not zero else bytes(16)
            tails[BLOCK] = (self._tail(A, ipv4), self._tail(AAAA, ipv6))
            addresses = ("0.0.0.0", "::") if zero else (guard.sinkhole_ipv4, guard.sinkhole_ipv6)  # noqa: S104
            self._texts[BLOCK] = (("A", str(addresses[0])), ("AAAA", str(addresses[1])))
        else:
            # There is no action for REFUSED; NXDOMAIN is the other answer that gives nothing.
            target = "*." if guard.answer == "nodata" else "."
            tails[BLOCK] = (self._tail(CNAME, _STAR + b"\0" if target == "*." else b"\0"),)
            self._texts[BLOCK] = (("CNAME", target),)
        self.tails: dict[int, tuple[bytes, ...]] = tails
        self._apex_wire = len(self.zone) + 2
        # The longest owner, as text and relative to the zone, that leaves room for the zone's name.
        self.max_owner = MAX_WIRE - self._apex_wire - 1

    @property
    def digest(self) -> str:
        """Changes when content changes without any rule having changed."""
        text = json.dumps([self.zone, self.ttl, self._texts[BLOCK]])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def soa(self, serial: int) -> Item:
        """The zone's SOA; the serial is taken modulo 2^32 (RFC 1982)."""
        # The retry time is short because a secondary that lags enforces old policy.
        numbers = struct.pack("!IIIII", serial & 0xFFFFFFFF, REFRESH_S, RETRY_S, EXPIRE_S, self.ttl)
        data = wire_name("localhost") + wire_name("hostmaster.localhost") + numbers
        return b"", (self._tail(SOA, data),)

    def ns(self) -> Item:
        """The NS record that every zone needs; nobody asks the zone's own name servers."""
        return b"", (self._tail(NS, wire_name("localhost")),)

    def items(self, name: str, records: int) -> Iterator[Item]:
        """The records at a node (backwards) and at its ``*``, where they fit a name."""
        value = name[-2::-1]
        at, below = unpacked(records)
        room = self.max_owner - len(value)
        if room < 0:
            return
        labels = wire_name(value)[:-1]
        if at:
            yield labels, self.tails[at]
        if below and room >= 2:
            yield _STAR + labels, self.tails[below]

    def lines(self, name: str, records: int) -> Iterator[str]:
        """As `items`, as lines of a zone file, relative to the zone."""
        value = name[-2::-1]
        for wild, what in zip((False, True), unpacked(records), strict=True):
            text = owner(value, wild)
            if len(text) <= self.max_owner:
                for kind, data in self._texts[what]:
                    yield f"{text} {kind} {data}\n"

    def head(self, serial: int) -> str:
        """How the zone file begins."""
        return (
            f"$ORIGIN {self.zone}.\n$TTL {self.ttl}\n"
            f"@ SOA localhost. hostmaster.localhost. {serial & 0xFFFFFFFF} "
            f"{REFRESH_S} {RETRY_S} {EXPIRE_S} {self.ttl}\n@ NS localhost.\n"
        )

    def _tail(self, kind: int, data: bytes) -> bytes:
        return struct.pack("!HHIH", kind, _IN, self.ttl, len(data)) + data


def zone_items(look: Look, store: ZoneStore, serial: int) -> Iterator[Item]:
    """The whole zone (RFC 5936 section 2.2)."""
    soa = look.soa(serial)
    yield soa
    yield look.ns()
    for name, records in store.nodes():
        yield from look.items(name, records)
    yield soa


def change_items(look: Look, store: ZoneStore, since: int, serial: int) -> Iterator[Item]:
    """
    What changed since a version: one sequence of deletions and additions (RFC 1995 section 4).

    The versions between are left out, as section 5 permits: what came and went is never sent.
    """
    new = look.soa(serial)
    yield new
    yield look.soa(since)
    for name, before, now in store.changes(since):
        yield from look.items(name, _only(before, now))
    yield new
    for name, before, now in store.changes(since):
        yield from look.items(name, _only(now, before))
    yield new


def _only(records: int, other: int) -> int:
    """The parts of `records` that are not so in `other`."""
    exact, wild = unpacked(records)
    exact_there, wild_there = unpacked(other)
    return (exact if exact != exact_there else NONE) << 2 | (wild if wild != wild_there else NONE)


def bodies(question: bytes, items: Iterable[Item]) -> Iterator[tuple[int, bytes]]:
    """
    Records packed into messages.

    Args:
        question: the question section; it begins with the zone's name.
        items: the records in their order.

    Returns:
        Each message's number of records and its octets behind the header.
    """
    body, count = bytearray(question), 0
    longest = 2 * MAX_WIRE
    for name, tails in items:
        if len(body) + len(name) + sum(map(len, tails)) + longest > MAX_BODY:
            yield count, bytes(body)
            body, count = bytearray(question), 0
        place = 12 + len(body)
        body += name + _APEX + tails[0]
        for tail in tails[1:]:
            body += (0xC000 | place).to_bytes(2, "big") + tail
        count += len(tails)
    yield count, bytes(body)


class Request(NamedTuple):
    """A request that may be answered; `serial` is what the secondary has, for IXFR."""

    number: int  # the message's id
    recursion: bool  # RD, which a reply repeats
    zone: str
    kind: int
    question: bytes
    serial: int | None
    max_udp: int
    signer: "Signer | None"

    def reply(self, rcode: int, items: Iterable[Item] = ()) -> bytes:
        """The one message that answers."""
        ((count, body),) = bodies(self.question, items)
        return self._message(rcode, count, body, multi=False)

    def replies(self, items: Iterable[Item]) -> Iterator[bytes]:
        """The messages of a transfer."""
        for count, body in bodies(self.question, items):
            yield self._message(NOERROR, count, body, multi=True)

    def truncated(self) -> bytes:
        """An empty answer over UDP: ask again over TCP."""
        return self._message(NOERROR, 0, self.question, multi=False, flags=0x0200)

    def _message(self, rcode: int, count: int, body: bytes, multi: bool, flags: int = 0) -> bytes:
        authoritative = 0x0400 if rcode == NOERROR else 0
        flags |= 0x8000 | authoritative | self.recursion << 8 | rcode
        wire = struct.pack("!HHHHHH", self.number, flags, 1, count, 0, 0) + body
        return self.signer.sign(wire, multi) if self.signer else wire


class RefusedError(Exception):
    """A request is not answered as asked; `reply` is what to send, or None."""

    def __init__(self, reply: bytes | None, why: str) -> None:
        super().__init__(why)
        self.reply = reply


class Signer:
    """Signs the messages that answer one request (RFC 8945 section 5.3)."""

    def __init__(self, key: "dns.tsig.Key", request: Any, *, error: int = 0) -> None:
        """`request`: the TSIG record of the request, whose MAC each answer's first MAC covers."""
        self._key = key
        self._request = request
        self._mac: bytes = request.mac
        self._context: Any = None
        self._error = error

    def sign(self, wire: bytes, multi: bool) -> bytes:
        """A message with its signature; `multi`: one of a transfer's."""
        import dns.tsig

        now = int(time.time())
        record, other = self._request, b""
        stamp = now
        if self._error == BADTIME:
            # The client's own time, so that it can check the MAC, and ours beside it (5.2.3).
            stamp, other = record.time_signed, now.to_bytes(6, "big")
        record = record.replace(
            mac=b"", fudge=FUDGE_S, error=self._error, other=other, time_signed=stamp
        )
        signed, self._context = dns.tsig.sign(  # type: ignore[no-untyped-call]
            wire, self._key, record, stamp, self._mac, self._context, multi
        )
        return _with_record(wire, self._key.name, signed)


def _with_record(wire: bytes, name: Any, record: Any) -> bytes:
    """A message without additional records, with one TSIG record."""
    data = record.to_wire()
    fixed = struct.pack("!HHIH", TSIG, _ANY, 0, len(data))
    ending: bytes = name.to_wire() + fixed + data
    return wire[:10] + b"\x00\x01" + wire[12:] + ending


def keys(configured: Iterable[TsigKey]) -> Keys:
    """
    The configured keys by name, lower case, without a trailing dot.

    Raises:
        ConfigError: a secret's file cannot be read, or holds no base64.
    """
    import dns.name
    import dns.tsig

    found = {}
    problems = []
    for key in configured:
        where = f"[[rpz.tsig]] {key.name}: secret_file"
        try:
            text = key.secret_file.read_text("ascii") if key.secret_file else ""
            secret = base64.b64decode("".join(text.split()), validate=True)
            if not secret:
                raise ValueError("empty")
            name = key.name.lower().rstrip(".")
            found[name] = dns.tsig.Key(dns.name.from_text(name), secret, f"{key.algorithm}.")
        except OSError as exc:
            problems.append(f"{where}: {exc.strerror or exc}; must be a readable file")
        except (binascii.Error, ValueError) as exc:
            problems.append(f"{where}: {exc}; must hold one secret in base64")
    if problems:
        raise ConfigError(problems)
    return found


def read(wire: bytes, known: Keys) -> Request:
    """
    Read and authenticate one request.

    Args:
        wire: a message, without a length prefix.
        known: see `keys`; if there are any, a valid signature is needed.

    Raises:
        RefusedError: with the reply to send instead, signed where RFC 8945 wants it.
    """
    import dns.exception
    import dns.message
    import dns.rdatatype

    if len(wire) < 12 or wire[2] & 0x80:
        raise RefusedError(None, "not a request")  # never answer an answer
    number, flags = struct.unpack_from("!HH", wire)

    def plain(rcode: int, question: bytes = b"") -> bytes:
        kept = 0x8000 | flags & 0x7900 | rcode  # opcode and RD
        return struct.pack("!HHHHHH", number, kept, bool(question), 0, 0, 0) + question

    if flags & 0x7800:
        raise RefusedError(plain(NOTIMP), "not a query")
    try:
        message = dns.message.from_wire(wire, keyring=lambda *_: False)
        # Malformed fields surface as various errors; all of them are the client's.
    except (dns.exception.DNSException, ValueError, struct.error, IndexError) as exc:
        raise RefusedError(plain(FORMERR), f"malformed: {type(exc).__name__}") from exc
    if len(message.question) != 1:
        raise RefusedError(plain(FORMERR), f"{len(message.question)} questions, must be 1")
    asked = message.question[0]
    question = (asked.name.to_wire() or b"") + struct.pack("!HH", asked.rdtype, asked.rdclass)
    signer = None
    if message.tsig is not None:
        signer = _authenticated(wire, message.tsig, known, plain(NOTAUTH, question))
    elif known:
        raise RefusedError(plain(REFUSED, question), "not signed")
    serial = None
    if asked.rdtype == dns.rdatatype.IXFR:
        soas = [s for s in message.authority if s.rdtype == dns.rdatatype.SOA]
        if not soas:
            raise RefusedError(plain(FORMERR, question), "IXFR without the secondary's SOA")
        serial = int(soas[0][0].serial)
    request = Request(
        number,
        bool(flags & 0x0100),
        asked.name.to_text(omit_final_dot=True).lower(),
        int(asked.rdtype),
        question,
        serial,
        max(MAX_UDP, min(message.payload, 1232)) if message.edns >= 0 else MAX_UDP,
        signer,
    )
    if asked.rdclass != _IN:
        raise RefusedError(request.reply(REFUSED), "class is not IN")
    return request


def _authenticated(wire: bytes, signature: Any, known: Keys, notauth: bytes) -> Signer:
    """What signs the answers, if the request's own signature is good (RFC 8945 section 5.2)."""
    import dns.exception
    import dns.message
    import dns.tsig

    record = signature[0]
    name = signature.name.to_text(omit_final_dot=True).lower()
    key = known.get(name)

    def unsigned(error: int) -> bytes:
        told = record.replace(mac=b"", error=error, other=b"", fudge=FUDGE_S)
        return _with_record(notauth, signature.name, told)

    if key is None or key.algorithm != record.algorithm:
        raise RefusedError(unsigned(BADKEY), f"TSIG key {names.shown(name)} not known")
    try:
        dns.message.from_wire(wire, keyring=key)
    except dns.tsig.BadTime as exc:
        reply = Signer(key, record, error=BADTIME).sign(notauth, multi=False)
        raise RefusedError(reply, f"TSIG key {names.shown(name)}: clocks differ") from exc
    except (dns.exception.DNSException, NotImplementedError) as exc:
        raise RefusedError(unsigned(BADSIG), f"TSIG key {names.shown(name)}: bad MAC") from exc
    return Signer(key, record)
