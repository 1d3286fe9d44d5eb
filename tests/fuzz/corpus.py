"""
Real-shaped messages to begin with: what clients, front ends and upstreams send, right and wrong.

Everything is put together from octets, so that nothing here reads or writes the wire format the way
the code under test does.
"""

import struct
from collections.abc import Iterator
from typing import Final

A, NS, CNAME, SOA, PTR, HINFO, MX, TXT, AAAA = 1, 2, 5, 6, 12, 13, 15, 16, 28
DNAME, OPT, DS, RRSIG, NSEC, DNSKEY, SVCB, HTTPS, ANY = 39, 41, 43, 46, 47, 48, 64, 65, 255
IN, CH, ANY_CLASS = 1, 3, 255
QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x400, 0x200, 0x100, 0x80, 0x20, 0x10
HERE: Final = b"\xc0\x0c"  # a pointer to the question's name

HONEST: Final = bytes([192, 0, 2, 77])  # what the true upstream says
FORGED: Final = bytes([203, 0, 113, 66])  # what a hostile one says of names that are not asked for

BLOCKED: Final = "evil.example"
VICTIM: Final = "victim.example"

PROXY: Final = b"\r\n\r\n\0\r\nQUIT\n"


def name(text: str) -> bytes:
    """A name without compression; of the root for an empty text."""
    labels = text.split(".") if text else []
    return b"".join(bytes([len(part)]) + part.encode("latin-1") for part in labels) + b"\0"


def head(
    ident: int = 0, flags: int = RD, questions: int = 1, an: int = 0, ns: int = 0, ar: int = 0
) -> bytes:
    """A header."""
    return struct.pack("!HHHHHH", ident, flags, questions, an, ns, ar)


def question(text: str, qtype: int = A, qclass: int = IN) -> bytes:
    """A question."""
    return name(text) + struct.pack("!HH", qtype, qclass)


def record(owner: bytes, rtype: int, rdata: bytes, ttl: int = 300, rclass: int = IN) -> bytes:
    """A record."""
    return owner + struct.pack("!HHIH", rtype, rclass, ttl, len(rdata)) + rdata


def opt(options: bytes = b"", size: int = 1232, do: bool = False, version: int = 0) -> bytes:
    """An OPT record."""
    flags = version << 16 | (0x8000 if do else 0)
    return record(b"\0", OPT, options, ttl=flags, rclass=size)


def option(code: int, content: bytes) -> bytes:
    """An EDNS option."""
    return struct.pack("!HH", code, len(content)) + content


def proxied(data: bytes, source: bytes = b"\xc0\0\2\x09", command: int = 0x21) -> bytes:
    """A datagram behind a PROXY header of version 2, from port 4000."""
    family = 0x12 if len(source) == 4 else 0x22
    addresses = source + source + struct.pack("!HH", 4000, 53)
    return PROXY + bytes([command, family]) + struct.pack("!H", len(addresses)) + addresses + data


COOKIE: Final = option(10, b"clientck")
SUBNET: Final = option(8, b"\0\1\x18\0\xc0\0\2")


def queries() -> list[bytes]:
    """What a resolver gets to see on port 53, without IDs of their own."""
    names = [
        *("honest.example", "www.honest.example", BLOCKED, "www." + BLOCKED, "HoNeSt.ExAmPlE"),
        *("a.b.c.d.e.f.g.h.i.j.k.l.m.example", "xn--bcher-kva.example", "_dns.resolver.arpa"),
        *("localhost", "a.onion", "1.0.0.127.in-addr.arpa", "use-application-dns.net", "", "com"),
        "x" * 63 + "." + "y" * 63 + "." + "z" * 63 + "." + "w" * 61,  # 255 octets
        ".".join(["o"] * 127),
        "odd\x00\xff\\label.example",
    ]
    found = [head() + question(text) for text in names]
    every = [A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, DS, SVCB, HTTPS, ANY, OPT, 249, 251, 252, 0]
    found += [head() + question("honest.example", qtype) for qtype in [*every, 65535]]
    found += [head() + question(BLOCKED, qtype) for qtype in (AAAA, HTTPS, SOA, TXT, ANY)]
    found += [
        head() + question("version.bind", TXT, CH),
        head() + question("id.server", TXT, CH),
        head() + question("honest.example", A, ANY_CLASS),
        head(flags=RD | CD) + question("honest.example"),
        head(flags=AD) + question("honest.example"),
        head(flags=0x7F | RD) + question("honest.example"),  # all that is reserved
    ]

    def edns(options: bytes = b"", text: str = "honest.example", **keys: int) -> bytes:
        return head(ar=1) + question(text) + opt(options, **keys)  # type: ignore[arg-type]

    found += [
        edns(),
        edns(do=True),
        edns(size=0),
        edns(size=512),
        edns(size=65535),
        edns(version=1),
        edns(text=BLOCKED),
        edns(COOKIE),
        edns(option(10, b"clientck" + b"\1\0\0\0\x60\0\0\0" + b"serverck")),
        edns(option(10, b"short")),
        edns(SUBNET),
        edns(option(8, b"\0\2\x38\0" + bytes.fromhex("20010db8000100"))),
        edns(option(8, b"\0\1\0\0")),
        edns(SUBNET * 40),
        edns(SUBNET * 80, size=512),
        edns(COOKIE * 3 + SUBNET),
        edns(option(12, bytes(400))),  # padding
        edns(option(3, b"")),  # NSID
        edns(option(65001, b"unknown") + option(11, b"\0\x64")),
        edns(option(15, b"\0\x0f")),
        edns(COOKIE + SUBNET + option(12, bytes(60)), text=BLOCKED, do=True),
    ]
    found += [
        head(flags=opcode << 11 | RD) + question("honest.example", SOA) for opcode in range(1, 8)
    ]
    plain = question("honest.example")
    found += [
        head(flags=QR | RD) + plain,
        head(questions=0),
        head(questions=0, ar=1) + opt(COOKIE),
        head(questions=2) + plain + question("www.honest.example"),
        head(questions=2) + plain + HERE + b"\0\1\0\1",
        head() + HERE + b"\0\1\0\1",
        head() + b"\3www\xc0\x0c\0\1\0\1",
        head() + b"\x40bad\0\0\1\0\1",
        head(ar=2) + plain + opt() + opt(),
        head(ar=2) + plain + record(name("key.example"), 250, b"\0" * 16, 0, ANY_CLASS) + opt(),
        head(an=1) + plain + record(HERE, A, HONEST),
        head(an=1, ns=1, ar=1)
        + question("honest.example", 251)
        + record(HERE, SOA, bytes(22))
        + record(HERE, NS, name("ns.example"))
        + opt(),
        head() + plain + b"trailing octets",
        head(ar=1) + plain,
        head(ar=1) + plain + record(b"\0", OPT, option(10, b"clientck"), 0, 1232)[:-4],
        b"",
        b"\0",
        head()[:11],
        head(flags=0),
        b"GET / HTTP/1.1\r\nHost: dns.example\r\n\r\n",
        b"\x16\x03\x01\2\0\1\0\1\xfc\x03\x03" + bytes(64),  # TLS
    ]
    honest = head(ar=1) + plain + opt()
    found += [
        proxied(honest),
        proxied(honest, bytes.fromhex("20010db8") + bytes(11) + b"\1"),
        proxied(honest, command=0x20),
        proxied(honest, command=0x2F),
        proxied(b""),
        proxied(proxied(honest)),
        PROXY + b"\x21\x12\xff\xff" + honest,
        b"PROXY TCP4 192.0.2.9 192.0.2.1 4000 53\r\n" + honest,
    ]
    return found


def _soa(owner: bytes = HERE, ttl: int = 300, minimum: int = 60) -> bytes:
    numbers = struct.pack("!IIIII", 7, 3600, 600, 86_400, minimum)
    return record(owner, SOA, name("ns.example") + name("host.example") + numbers, ttl)


def _svcb(rtype: int, priority: int, target: bytes, *parameters: tuple[int, bytes]) -> bytes:
    rdata = struct.pack("!H", priority) + target
    for key, value in parameters:
        rdata += struct.pack("!HH", key, len(value)) + value
    return record(HERE, rtype, rdata)


def replies(asked: bytes, ident: int = 0) -> Iterator[tuple[str, bytes]]:
    """
    What an upstream may say to a question: a kind and the message, all below 4096 octets.

    Args:
        asked: the question's octets as it was spelled: name, type and class.
    """
    qtype = int.from_bytes(asked[-4:-2])
    pointed = len(asked) + 12  # where the answer section begins

    def made(
        *parts: bytes, flags: int = RD | RA, an: int = 0, ns: int = 0, ar: int = 0, rcode: int = 0
    ) -> bytes:
        return head(ident, QR | flags | rcode, 1, an, ns, ar) + asked + b"".join(parts)

    def here(address: bytes) -> bytes:
        return record(HERE, A, address) if qtype != AAAA else record(HERE, AAAA, address * 4)

    def chain(length: int) -> bytes:
        found, owner = b"", HERE
        for number in range(length):
            target = name(f"c{number}.chain.example")
            found += record(owner, CNAME, target)
            owner = target
        return found + record(owner, A, HONEST)

    own = here(HONEST)
    forged = record(name(VICTIM), A, FORGED)
    yield "address", made(own, an=1)
    yield "addresses", made(*[record(HERE, A, bytes([192, 0, 2, i])) for i in range(60)], an=60)
    yield "edns", made(own, opt(), an=1, ar=1)
    yield (
        "signed",
        made(
            own,
            record(HERE, RRSIG, b"\0\1\x0d\2" + bytes(14) + name("example") + b"s" * 64),
            opt(do=True),
            flags=RD | RA | AD,
            an=2,
            ar=1,
        ),
    )
    yield "chain", made(chain(8), an=9)
    yield (
        "loop",
        made(record(HERE, CNAME, name("l.example")), record(name("l.example"), CNAME, HERE), an=2),
    )
    yield "itself", made(record(HERE, CNAME, HERE), an=1)
    yield (
        "dname",
        made(
            record(name("example"), DNAME, name("other.example")),
            record(HERE, CNAME, name("www.other.example")),
            record(name("www.other.example"), A, HONEST),
            an=3,
        ),
    )
    yield (
        "cloaked",
        made(record(HERE, CNAME, name(BLOCKED)), record(name(BLOCKED), A, FORGED), an=2),
    )
    yield (
        "https",
        made(_svcb(HTTPS, 1, b"\0", (1, b"\2h2"), (4, HONEST * 2), (6, bytes(16))), an=1),
    )
    yield "alias", made(_svcb(HTTPS, 0, name("svc.example")), an=1)
    yield "svcb", made(_svcb(SVCB, 1, name(BLOCKED), (3, b"\x20\xfb")), an=1)
    yield "hints", made(_svcb(HTTPS, 1, b"\0", (4, HONEST + b"\1"), (6, b"short")), an=1)
    yield "nxdomain", made(_soa(name("example")), ns=1, rcode=3)
    yield "nodata", made(_soa(name("example")), opt(), ns=1, ar=1)
    yield "nothing", made()
    yield "bare nxdomain", made(rcode=3)
    yield (
        "referral",
        made(
            record(HERE, NS, name("ns1.example")),
            record(HERE, NS, name("ns2.example")),
            record(name("ns1.example"), A, HONEST),
            forged,
            ns=2,
            ar=2,
        ),
    )
    yield "servfail", made(opt(option(15, b"\0\6bogus")), ar=1, rcode=2)
    yield "refused", made(rcode=5)
    yield "formerr", made(rcode=1)
    yield "notimp", made(opt(), ar=1, rcode=4)
    yield "odd rcode", made(rcode=11)
    yield "badvers", made(record(b"\0", OPT, b"", 1 << 24, 1232), ar=1)
    yield (
        "ede",
        made(own, opt(option(15, b"\0\3") + option(15, b"\0\x16" + b"x" * 900)), an=1, ar=1),
    )
    yield "cookie", made(own, opt(COOKIE + SUBNET), an=1, ar=1)
    yield "truncated", made(flags=RD | RA | TC)
    yield "private", made(record(HERE, A, b"\xc0\xa8\1\1"), an=1)
    yield "poison", made(own, record(name("example"), NS, name(VICTIM)), forged, an=1, ns=1, ar=1)
    yield "poisoned answer", made(own, forged, an=2)
    yield "two opts", made(own, opt(), opt(), an=1, ar=2)
    yield "opt in answer", made(opt(), own, an=2)
    yield "opt first", made(own, opt(), forged, an=1, ar=2)
    yield "odd ttl", made(record(HERE, A, HONEST, 0xFFFFFFFF), own, an=2)
    yield "ttl 0", made(record(HERE, A, HONEST, 0), an=1)
    yield "mx", made(record(HERE, MX, b"\0\x0a" + name("mx.example")), an=1)
    yield "txt", made(record(HERE, TXT, b"\xff" + b"t" * 255), an=1)
    yield "long address", made(record(HERE, A, HONEST + b"\0"), an=1)
    yield "short soa", made(record(HERE, SOA, b"\0\0"), ns=1)
    yield "pointer to itself", made(record(struct.pack("!H", 0xC000 | pointed), A, HONEST), an=1)
    yield "pointer forward", made(record(b"\xc3\xff", A, HONEST), an=1)
    yield "pointer to the header", made(record(b"\xc0\0", A, HONEST), an=1)
    yield (
        "pointers in a ring",
        made(record(HERE, CNAME, struct.pack("!H", 0xC000 | pointed + 14) + HERE), an=1),
    )
    yield (
        "pointer into text",
        made(
            record(HERE, TXT, b"\6" + name("deep")),
            record(struct.pack("!H", 0xC000 | pointed + 13), A, HONEST),
            an=2,
        ),
    )
    yield "stairs", made(*_stairs(pointed, 1500, 60), an=61)
    yield "root alias", made(record(HERE, CNAME, b"\0"), an=1)
    yield "uncompressed", made(record(asked[:-4], A, HONEST), an=1)
    yield "other spelling", made(record(asked[:-4].swapcase(), A, HONEST), an=1)
    yield (
        "many names",
        made(*[_svcb(HTTPS, 1, b"\1" + bytes([i]) + b"\0") for i in range(200)], an=200),
    )
    yield "counts lie", made(own, an=200, ns=7, ar=9)
    yield "more than counted", made(own, own, forged, an=1)
    yield "no question", head(ident, QR | RD | RA, 0, 1) + record(name(VICTIM), A, FORGED)
    yield (
        "another question",
        head(ident, QR | RD | RA, 1, 1) + question(VICTIM) + record(HERE, A, FORGED),
    )
    yield "two questions", head(ident, QR | RD | RA, 2, 1) + asked + asked + own
    yield "a query", head(ident, RD, 1, 1) + asked + own
    yield "header alone", head(ident, QR | RA | 1, 0)


def _stairs(start: int, steps: int, records: int) -> list[bytes]:
    """
    A record full of pointers, each to the one before it, and addresses owned by the last of them.

    Args:
        start: the offset at which the first record will stand.
    """
    first = start + 12  # behind owner, type, class, TTL and length
    pointers = [0xC00C] + [0xC000 | first + 2 * i for i in range(steps - 1)]
    rdata = b"".join(struct.pack("!H", to) for to in pointers)
    last = struct.pack("!H", 0xC000 | first + 2 * (steps - 1))
    return [record(HERE, TXT, rdata), *[record(last, A, HONEST)] * records]


def large(asked: bytes, ident: int, kind: str) -> bytes:
    """
    Replies for TCP: ``many`` has 4,000 addresses, ``full`` nearly 64 KiB of text.

    ``deep`` has 4,000 addresses whose owner is found at the end of a long chain of pointers.
    """
    start = 12 + len(asked)
    if kind == "many":
        records = [record(HERE, A, struct.pack("!HH", 0xC633, i)) for i in range(4000)]
    elif kind == "full":
        texts = (b"\xff" + bytes([97 + i]) * 255 for i in range(16))
        records = [record(HERE, TXT, text * 15) for text in texts]
    else:
        records = _stairs(start, 7000, 3000)
    return head(ident, QR | RD | RA, 1, len(records)) + asked + b"".join(records)
