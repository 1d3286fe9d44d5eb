"""
Reading a DNS query: the header, the one question, and EDNS.

Works on one message without I/O and knows no policy.  Rules and strategy:

* Nothing is read past the message's end.  A single octet is read by indexing and a label by
  slicing, which raise or come out short at the end of ``bytes`` rather than read on; every
  ``unpack_from`` follows a comparison with the length.
* An error carries the reply to send: ``WireError.rcode``, or None for what must not be answered.
  A response is never answered, so that two servers cannot keep each other busy.
* Nearly every query is a question alone, or a question and an OPT record.  Both are read straight
  from their place; any other shape is walked record by record, as strictly.
* Records that a query has no use for (BIND tolerates them too) are walked over and ignored.
"""

from struct import Struct
from typing import Final, Literal, Protocol

from urlguard.errors import WireError

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
A, SOA, AAAA, OPT, ANY = 1, 6, 28, 41, 255
IN = 1

UDP_SIZE = 1232  # octets; what we advertise and the most we send over UDP (DNS flag day 2020)
MAX_POINTERS: Final = 64  # to follow for one name; a longer chain is there to keep us busy
MIN_UDP_SIZE = 512  # RFC 1035 section 4.2.1, and the floor of RFC 6891 section 6.2.3

QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
OPCODE = 0x7800

header = Struct("!HHHHHH").unpack_from
_question = Struct("!HH").unpack_from
_opt = Struct("!BHHBBHH").unpack_from  # owner, type, size, upper rcode, version, flags, length
_record = Struct("!HHIH").unpack_from  # type, class, TTL, length

_BARE_OPT: Final = 11  # octets of an OPT record without options
_DO = 0x8000  # in the OPT record's flags
_ASK = Struct("!HHHHHH").pack
_ASK_OPT = (
    b"\0" + Struct("!HHIH").pack(OPT, UDP_SIZE, 0, 0),
    b"\0" + Struct("!HHIH").pack(OPT, UDP_SIZE, _DO, 0),
)


Transport = Literal["udp", "tcp"]
UDP: Final = "udp"
TCP: Final = "tcp"


class Query:
    """
    One query as it was read; immutable by convention, and shared between exchanges.

    ``name`` is the question's name as text: lower case (RFC 4343), without the trailing dot, one
    character an octet, empty for the root.  A dot or backslash inside a label is written ``\\046``
    or ``\\092``, so that no such name can equal one that people write in a rule.  The client's own
    spelling, which answers repeat (0x20), stays in ``data[12:question_end - 4]``.

    ``question_end`` is an offset in octets from the message's start.  ``udp_size`` is the OPT
    record's, 512 without one.  ``options`` is the length in octets of the OPT record's options,
    which begin at ``options_at``.
    """

    __slots__ = (
        "data",
        "do",
        "flags",
        "has_opt",
        "id",
        "name",
        "options",
        "options_at",
        "qclass",
        "qtype",
        "question_end",
        "udp_size",
    )

    data: bytes
    id: int
    flags: int
    question_end: int
    name: str
    qtype: int
    qclass: int
    has_opt: bool
    udp_size: int
    do: bool
    options: int
    options_at: int

    @property
    def plain(self) -> bool:
        """True if there is nothing but a question, and at most an OPT record without options."""
        return len(self.data) == self.question_end + (_BARE_OPT if self.has_opt else 0)

    @property
    def cd(self) -> bool:
        """True if the client does its own DNSSEC checking."""
        return self.flags & CD != 0

    @property
    def question(self) -> bytes:
        """The question's octets as the client spelled them: name, type, class."""
        return self.data[12 : self.question_end]

    @property
    def udp_limit(self) -> int:
        """The largest UDP answer, in octets: what the client takes, and never above 1232."""
        return min(max(self.udp_size, MIN_UDP_SIZE), UDP_SIZE)

    def __repr__(self) -> str:
        return f"<Query {self.name!r} type={self.qtype} id={self.id}>"


class Asked(Protocol):
    """What an answer is made for: a query, and the EDNS options that the answer must carry."""

    @property
    def query(self) -> Query:
        """The query to answer."""
        ...

    @property
    def reply_options(self) -> bytes:
        """Whole EDNS options, as octets: a cookie, a client subnet."""
        ...


def parse_query(data: bytes) -> Query:
    """
    Read the header, the one question and the OPT record of a DNS query.

    Args:
        data: one UDP datagram, or one TCP message without its length prefix.

    Raises:
        WireError: it is shorter than a header or is a response (``rcode`` None: drop it); its
            opcode is not QUERY (NOTIMP); QDCOUNT is not 1 (RFC 9619), a label is longer than 63
            octets or a compression pointer, the name is longer than 255 (RFC 1035 section 2.3.4),
            a record ends after the message, or there are two OPT records (FORMERR); its EDNS
            version is not 0 (BADVERS, RFC 6891 section 6.1.3).
    """
    size = len(data)
    if size < 12:
        raise WireError(f"header: {size} octets; must have 12", None)
    q = Query()
    q.id, flags, questions, answers, authorities, additionals = header(data)
    if flags & 0xF800:  # QR, opcode
        if flags & QR:
            raise WireError("header: QR is set; must be a query", None)
        raise WireError(f"header: opcode {flags >> 11 & 15}; must be 0 (QUERY)", NOTIMP)
    if questions != 1:
        raise WireError(f"header: QDCOUNT {questions}; must be 1 (RFC 9619)", FORMERR)

    labels = []
    at = 12
    try:
        while length := data[at]:
            if length > 63:
                _bad_label(length, at)
            start = at + 1
            at = start + length
            labels.append(data[start:at])
            if at > 266:  # here, so that 64 KiB of one-octet labels cost no more than a name
                raise WireError("qname: longer than 255 octets (RFC 1035 2.3.4)", FORMERR)
    except IndexError:
        raise WireError(
            f"qname: no end in {size} octets; must end with a root label", FORMERR
        ) from None
    end = at + 5
    if size < end:
        raise WireError(f"question: {size - 12} octets; must have {end - 12}", FORMERR)
    q.data = data
    q.flags = flags
    q.question_end = end
    q.name = _text(labels)
    q.qtype, q.qclass = _question(data, at + 1)
    if additionals == 1 and not answers and not authorities and data[end : end + 3] == b"\0\0\x29":
        _read_opt(q, end, size)
    else:
        q.has_opt = q.do = False
        q.udp_size = MIN_UDP_SIZE
        q.options = 0
        if additionals or answers or authorities:
            _walk(q, size, answers + authorities, additionals)
    return q


def skip_name(data: bytes, at: int) -> int:
    """
    The offset after the name at `at`, which may end in a compression pointer.

    Raises:
        WireError: it ends after the message, has a label of an unknown kind, is longer than 255
            octets or its pointer does not point backwards (RFC 1035 section 4.1.4), or points into
            the header, which is another one in each answer.
    """
    start = at
    try:
        while length := data[at]:
            if length > 63:
                if length < 0xC0 or not 12 <= ((length & 0x3F) << 8 | data[at + 1]) < start:
                    _bad_label(length, at)
                return at + 2
            at += length + 1
            if at - start > 254:
                raise WireError(f"name at offset {start}: longer than 255 octets", FORMERR)
    except IndexError:
        raise WireError(f"name at offset {start}: ends after the message", FORMERR) from None
    return at + 1


def read_record(data: bytes, at: int) -> tuple[int, int, int, int, int]:
    """
    The record at offset `at`: type, class, TTL, offset of its RDATA, offset after it.

    Raises:
        WireError: it ends after the message.
    """
    at = skip_name(data, at)
    if len(data) < at + 10:
        raise WireError(f"record at offset {at}: ends after the message", FORMERR)
    rtype, rclass, ttl, length = _record(data, at)
    end = at + 10 + length
    if len(data) < end:
        raise WireError(f"record at offset {at}: RDLENGTH {length} ends after the message", FORMERR)
    return rtype, rclass, ttl, at + 10, end


def options(data: bytes, at: int, end: int) -> list[tuple[int, bytes]]:
    """
    The EDNS options between two offsets: codes and contents (RFC 6891 section 6.1.2).

    Raises:
        WireError: one ends after `end`.
    """
    found = []
    while at < end:
        if end - at < 4:
            raise WireError(f"EDNS option at offset {at}: ends after the OPT record", FORMERR)
        code, length = _question(data, at)
        at += 4 + length
        if at > end:
            raise WireError(f"EDNS option {code}: {length} octets end after the record", FORMERR)
        found.append((code, data[at - length : at]))
    return found


def read_name(data: bytes, at: int) -> str:
    """
    The name at `at`, following compression pointers, in the form of `Query.name`.

    Raises:
        WireError: as `skip_name`, anywhere on the way, or there are more than 64 pointers.
    """
    labels: list[bytes] = []
    size = pointers = 0
    limit = at  # each pointer must lead further back, so there is an end
    try:
        while length := data[at]:
            if length > 63:
                to = (length & 0x3F) << 8 | data[at + 1]
                pointers += 1
                if length < 0xC0 or not 12 <= to < limit or pointers > MAX_POINTERS:
                    _bad_label(length, at)
                at = limit = to
                continue
            size += length + 1
            if size > 254 or at + 1 + length > len(data):
                raise WireError(f"name at offset {at}: too long, or ends after it", FORMERR)
            labels.append(data[at + 1 : at + 1 + length])
            at += length + 1
    except IndexError:
        raise WireError(f"name at offset {at}: ends after the message", FORMERR) from None
    return _text(labels)


def _text(labels: list[bytes]) -> str:
    name = b".".join(labels).lower()
    if b"\\" in name or (labels and name.count(b".") >= len(labels)):
        name = b".".join(
            [part.replace(b"\\", b"\\092").replace(b".", b"\\046") for part in labels]
        ).lower()
    return name.decode("latin-1")


def ask(question: bytes, ident: int, *, do: bool, cd: bool, ad: bool, edns: bool = True) -> bytes:
    """
    A query for an upstream: RD is set, and no option of any client goes along.

    Client subnets (RFC 7871) stay private, and a cookie is for one hop only (RFC 7873).

    Args:
        question: name, type and class as octets.
        ad: ask whether the answer is authentic (RFC 6840 section 5.7).
        edns: False for an upstream that does not know EDNS.
    """
    flags = RD | (CD if cd else 0) | (AD if ad else 0)
    if edns:
        return _ASK(ident, flags, 1, 0, 0, 1) + question + _ASK_OPT[do]
    return _ASK(ident, flags, 1, 0, 0, 0) + question


def _read_opt(q: Query, at: int, size: int) -> None:
    """Take over the OPT record whose root owner is at offset `at`."""
    if size < at + 11:
        raise WireError(f"OPT record: {size - at} octets; must have 11", FORMERR)
    _, _, q.udp_size, _, version, flags, length = _opt(data := q.data, at)
    if length:
        end = at + 11 + length
        if size < end:
            raise WireError(f"OPT record: RDLENGTH {length} ends after the message", FORMERR)
        if not version:  # another version's options may look different
            options(data, at + 11, end)
    if version:
        raise WireError(f"OPT record: EDNS version {version}; must be 0", BADVERS)
    q.has_opt = True
    q.do = flags >= _DO
    q.options = length
    q.options_at = at + 11


def _walk(q: Query, size: int, others: int, additionals: int) -> None:
    """Find the OPT record among other records, reading each to its end."""
    data, at = q.data, q.question_end
    for number in range(others + additionals):
        start = at
        rtype, _, _, _, at = read_record(data, at)
        if rtype == OPT:
            if number < others or data[start] or q.has_opt:
                raise WireError(
                    "OPT record: not the only one, at the root, among additional records "
                    "(RFC 6891 6.1.1)",
                    FORMERR,
                )
            _read_opt(q, start, size)


def _bad_label(length: int, at: int) -> None:
    if length >= 0xC0:
        raise WireError(f"name: compression pointer at offset {at}; not allowed here", FORMERR)
    raise WireError(
        f"name: label length {length} at offset {at}, limit is 63 (RFC 1035 2.3.4)", FORMERR
    )
