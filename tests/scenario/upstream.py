"""
A recursor on loopback that answers as the scenario says, over UDP and TCP, on the scenario's loop.

Knows records and how servers go wrong; knows nothing of what asks it.
"""

import asyncio
import contextlib
import dataclasses
import random
import socket
from dataclasses import dataclass, field
from typing import Any

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.CNAME
import dns.rrset

from tests.scenario.vocabulary import ScenarioError, duration, record, records

_CHAIN = 32  # aliases followed
_FORGED = "203.0.113.66"  # the address in forged replies
_FORGERIES = ("id", "question", "case", "port")

Key = tuple[dns.name.Name, int]


@dataclass
class Saying:
    """What is said to one question, in place of what the records say."""

    to: str = ""
    rcode: str = "NOERROR"
    answer: list[str] = field(default_factory=list)
    authority: list[str] = field(default_factory=list)
    additional: list[str] = field(default_factory=list)
    ede: int | None = None
    delay: str | None = None
    dead: bool = False


@dataclass
class Manner:
    """How an upstream is at the moment: the keys of ``[upstream.NAME]``."""

    records: str = ""
    say: list[dict[str, Any]] = field(default_factory=list)
    delay: str = "0s"
    dead: bool = False
    closed: bool = False
    rcode: str = ""  # of every answer; empty: as the records are
    ad: bool = False
    truncate: bool = False
    no_edns: bool = False
    bare: bool = False
    flatten: bool = False
    bogus: list[str] = field(default_factory=list)
    forge: list[str] = field(default_factory=list)


class Upstream:
    """
    One upstream of a scenario.

    ``asked`` counts the queries that came, but for those by which somebody looks whether it is
    there (``. NS``); ``last`` is the last one and ``last_tcp`` how it came.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self.name = name
        self.asked = 0
        self.last: dns.message.Message | None = None
        self.last_tcp = False
        self._loop = loop
        self._udp: socket.socket | None = None
        self._tcp: socket.socket | None = None
        self._held: tuple[socket.socket, ...] = ()  # while the network refuses
        self._connections: set[_Connection] = set()
        self._elsewhere = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._zone: dict[Key, tuple[int, list[dns.rdata.Rdata]]] = {}
        self._names: set[dns.name.Name] = set()
        self._said: dict[str, Saying] = {}
        self.manner = Manner()
        self.port = self._open(0)

    def change(self, table: dict[str, Any]) -> None:
        """
        Be as the keys in `table` say from now on, else as before.

        Raises:
            ScenarioError: a key or a value is none.
        """
        where = f"upstream {self.name!r}"
        known = {f.name: f for f in dataclasses.fields(Manner)}
        for key, value in table.items():
            if key not in known:
                raise ScenarioError(f"{where}: unknown key {key!r}; known: {', '.join(known)}")
            now = getattr(Manner(), key)
            if type(value) is not type(now):
                raise ScenarioError(f"{where}: {key} = {value!r}; must be a {type(now).__name__}")
        self.manner = manner = dataclasses.replace(self.manner, **table)
        if bad := set(manner.forge) - set(_FORGERIES):
            raise ScenarioError(f"{where}: forge = {sorted(bad)}; known: {', '.join(_FORGERIES)}")
        self._zone, self._names, self._said = {}, set(), {}
        for owner, ttl, rdata in records(manner.records, where):
            known_ttl, rdatas = self._zone.setdefault((owner, rdata.rdtype), (ttl, []))
            if known_ttl != ttl:
                raise ScenarioError(
                    f"{where}: {owner}: two TTLs in one RRset, {known_ttl} and {ttl}"
                )
            rdatas.append(rdata)
            while owner not in self._names and len(owner) > 1:
                self._names.add(owner)
                owner = owner.parent()
        for said in manner.say:
            if strange := set(said) - {f.name for f in dataclasses.fields(Saying)}:
                raise ScenarioError(f"{where}: say: unknown keys {sorted(strange)}")
            saying = Saying(**said)
            name, _, rtype = saying.to.partition(" ")
            if not rtype or not name:
                raise ScenarioError(f"{where}: say: to = {saying.to!r}; must be a name and a type")
            self._said[f"{name.rstrip('.').lower()} {rtype}"] = saying
        if manner.closed and self._udp is not None:
            self._refuse()
        elif self._udp is None and not manner.closed:
            self._open(self.port)

    def close(self) -> None:
        """Close the sockets."""
        self._leave()
        self._elsewhere.close()

    # ---- sockets

    def _open(self, port: int) -> int:
        """Listen, on any port if `port` is 0; the port."""
        self._leave()
        while True:
            udp, tcp = _pair()
            try:
                udp.bind(("127.0.0.1", port))
                tcp.bind(udp.getsockname())
                break
            except OSError:  # the number is free for UDP alone: another one
                udp.close()
                tcp.close()
                if port:
                    raise
        tcp.listen(64)
        self._loop.add_reader(udp, self._readable)
        self._loop.add_reader(tcp, self._acceptable)
        self._udp, self._tcp = udp, tcp
        return int(udp.getsockname()[1])

    def _refuse(self) -> None:
        """
        Have the network refuse what is sent here.

        Nobody else may get the port meanwhile.  So it stays ours: a socket that talks to another
        address takes nothing from strangers, and one that does not listen no connections.
        """
        self._leave()
        self._held = udp, tcp = _pair()
        udp.bind(("127.0.0.1", self.port))
        udp.connect(("127.0.0.1", 9))
        tcp.bind(("127.0.0.1", self.port))

    def _leave(self) -> None:
        for sock in (self._udp, self._tcp):
            if sock is not None:
                self._loop.remove_reader(sock)
                sock.close()
        self._udp = self._tcp = None
        for sock in self._held:
            sock.close()
        self._held = ()
        for connection in list(self._connections):
            connection.close()

    def _readable(self) -> None:
        while self._udp is not None:
            try:
                data, client = self._udp.recvfrom(4096)
            except BlockingIOError:
                return
            except OSError:  # what ICMP says of a reply that nobody waited for
                continue
            self._take(data, client, None)

    def _acceptable(self) -> None:
        assert self._tcp is not None
        with contextlib.suppress(BlockingIOError):
            sock, _ = self._tcp.accept()
            self._connections.add(_Connection(self, sock))

    def _take(self, data: bytes, client: Any, connection: "_Connection | None") -> None:
        try:
            query = dns.message.from_wire(data)
        except dns.exception.DNSException:
            return
        if query.flags & dns.flags.QR:
            return
        question = query.question[0]
        if len(question.name) > 1:
            self.asked += 1
            self.last, self.last_tcp = query, connection is not None
        said = self._said.get(_key(question))
        if self.manner.dead or (said is not None and said.dead):
            return
        reply = self._reply(query, said, connection is not None)
        forged = [] if connection else [self._forgery(kind, query) for kind in self.manner.forge]
        delay = duration((said and said.delay) or self.manner.delay, "delay")

        def send() -> None:
            if connection is not None:
                connection.send(reply)
            elif self._udp is not None:
                for kind, wire in zip(self.manner.forge, forged, strict=True):
                    sock = self._elsewhere if kind == "port" else self._udp
                    sock.sendto(wire, client)
                self._udp.sendto(reply, client)

        if delay:
            self._loop.call_later(delay, send)
        else:
            send()

    # ---- answers

    def _reply(self, query: dns.message.Message, said: Saying | None, tcp: bool) -> bytes:
        manner = self.manner
        if manner.no_edns and query.edns >= 0:
            reply = dns.message.make_response(query)
            reply.use_edns(False)
            reply.set_rcode(dns.rcode.FORMERR)
            if manner.bare:
                reply.question = []
            return reply.to_wire()
        reply = dns.message.make_response(query, recursion_available=True)
        question = query.question[0]
        ede: int | None = None
        if manner.rcode:
            reply.set_rcode(dns.rcode.from_text(manner.rcode))
        elif str(question.name).rstrip(".").lower() in manner.bogus and not _has(query, "CD"):
            reply.set_rcode(dns.rcode.SERVFAIL)
            ede = dns.edns.EDECode.DNSSEC_BOGUS
        elif said is not None:
            reply.set_rcode(dns.rcode.from_text(said.rcode))
            for section in ("answer", "authority", "additional"):
                for text in getattr(said, section):
                    owner, ttl, rdata = record(text, f"say to {said.to!r}")
                    _add(getattr(reply, section), owner, ttl, [rdata])
            ede = said.ede
        elif manner.truncate and not tcp:
            reply.flags |= dns.flags.TC
        else:
            self._look_up(reply, question, dnssec=bool(query.ednsflags & dns.flags.DO))
        if manner.ad and not _has(query, "CD"):
            reply.flags |= dns.flags.AD
        if query.edns >= 0:
            options = [] if ede is None else [dns.edns.EDEOption(ede)]
            reply.use_edns(0, query.ednsflags & dns.flags.DO, 1232, options=options)
        wire = reply.to_wire(max_size=65535)
        if not tcp and len(wire) > (query.payload if query.edns >= 0 else 512):
            reply.answer, reply.authority, reply.additional = [], [], []
            reply.flags |= dns.flags.TC
            wire = reply.to_wire()
        if manner.flatten:
            end = 12 + sum(len(label) + 1 for label in question.name.labels)
            wire = wire[:12] + wire[12:end].lower() + wire[end:]
        return wire

    def _look_up(
        self, reply: dns.message.Message, question: dns.rrset.RRset, *, dnssec: bool
    ) -> None:
        """Answer from the records as a recursor does: aliases followed, and a SOA for nothing."""
        name, rtype = question.name, question.rdtype
        for _ in range(_CHAIN):
            if self._put(reply.answer, name, rtype, dnssec):
                return
            alias = self._alias(reply.answer, name, dnssec)
            if alias is None:
                break
            name = alias
        if not self._exists(name):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        zone = name
        while not self._put(reply.authority, zone, dns.rdatatype.SOA, dnssec):
            if len(zone) <= 1:
                return
            zone = zone.parent()

    def _exists(self, name: dns.name.Name) -> bool:
        return name in self._names or self._wildcard(name) is not None

    def _wildcard(self, name: dns.name.Name) -> dns.name.Name | None:
        """The wildcard that stands for a name that is not there (RFC 4592 section 3.3.1)."""
        closest = name
        while closest not in self._names:
            if len(closest) <= 1:
                return None
            closest = closest.parent()
        star = dns.name.Name([b"*", *closest.labels])
        return star if closest != name and star in self._names else None

    def _put(
        self, section: list[dns.rrset.RRset], name: dns.name.Name, rtype: int, dnssec: bool
    ) -> bool:
        """Put an RRset into a section, with its signature if wanted; False if there is none."""
        at = self._wildcard(name) or name
        found = self._zone.get((at, rtype))
        if found is None:
            return False
        _add(section, name, *found)
        signed = self._zone.get((at, dns.rdatatype.RRSIG))
        if dnssec and signed is not None:
            own = [r for r in signed[1] if r.type_covered == rtype]
            if own:
                _add(section, name, signed[0], own)
        return True

    def _alias(
        self, section: list[dns.rrset.RRset], name: dns.name.Name, dnssec: bool
    ) -> dns.name.Name | None:
        """Where a CNAME, or a DNAME above, leads; the records go into the section."""
        if self._put(section, name, dns.rdatatype.CNAME, dnssec):
            at = self._wildcard(name) or name
            target: dns.name.Name = self._zone[at, dns.rdatatype.CNAME][1][0].target
            return target
        above = name
        while len(above) > 1:
            above = above.parent()
            if self._put(section, above, dns.rdatatype.DNAME, dnssec):
                ttl, (dname, *_) = self._zone[above, dns.rdatatype.DNAME]
                made: dns.name.Name = name.relativize(above).concatenate(dname.target)
                rdata = dns.rdtypes.ANY.CNAME.CNAME(dns.rdataclass.IN, dns.rdatatype.CNAME, made)
                _add(section, name, ttl, [rdata])
                return made
        return None

    def _forgery(self, kind: str, query: dns.message.Message) -> bytes:
        """What a stranger would send who has guessed all but one thing."""
        forged = dns.message.make_response(query, recursion_available=True)
        question = query.question[0]
        _add(
            forged.answer,
            question.name,
            86_400,
            [dns.rdata.from_text("IN", "A", _FORGED)],
        )
        if kind == "id":
            forged.id ^= 0x5555
        wire = forged.to_wire()
        end = 12 + sum(len(label) + 1 for label in question.name.labels)
        if kind == "question":  # of another name, as long
            wire = wire[:13] + bytes([wire[13] ^ 1]) + wire[14:]
        elif kind == "case":
            other = bytes(b ^ 0x20 if chr(b).isalpha() else b for b in wire[12:end])
            wire = wire[:12] + other + wire[end:]
        return wire


class _Connection:
    """A TCP connection from who asks."""

    def __init__(self, upstream: Upstream, sock: socket.socket) -> None:
        self._upstream = upstream
        self._sock = sock
        self._buffer = b""
        sock.setblocking(False)
        upstream._loop.add_reader(sock, self._readable)

    def send(self, wire: bytes) -> None:
        if self._sock.fileno() >= 0:
            with contextlib.suppress(OSError):
                self._sock.send(len(wire).to_bytes(2, "big") + wire)

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._upstream._loop.remove_reader(self._sock)
            self._sock.close()
        self._upstream._connections.discard(self)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._buffer += data
        while len(self._buffer) >= 2:
            end = 2 + int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < end:
                return
            message, self._buffer = self._buffer[2:end], self._buffer[end:]
            self._upstream._take(message, None, self)


def _pair() -> tuple[socket.socket, socket.socket]:
    """A socket for datagrams and one for streams, not yet bound."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    udp.setblocking(False)
    tcp.setblocking(False)
    return udp, tcp


def _add(
    section: list[dns.rrset.RRset], owner: dns.name.Name, ttl: int, rdatas: list[dns.rdata.Rdata]
) -> None:
    section.append(dns.rrset.from_rdata_list(owner, ttl, rdatas))


def _has(query: dns.message.Message, flag: str) -> bool:
    return bool(query.flags & dns.flags.Flag[flag])


def _key(question: dns.rrset.RRset) -> str:
    name = str(question.name).rstrip(".").lower()
    return f"{name} {dns.rdatatype.to_text(question.rdtype)}"


def seeded(seed: str) -> Any:
    """
    A stand-in for `os.urandom` that gives the same octets in each run of a scenario.

    One upstream query in 64 goes to any upstream by chance, if the upper six bits of a number are
    zero; here they never are, so that a scenario can say who is asked.
    """
    source = random.Random(seed)

    def draw(count: int) -> bytes:
        octets = bytearray(source.randbytes(count))
        octets[7::8] = bytes(b | 0x80 for b in octets[7::8])
        return bytes(octets)

    return draw
