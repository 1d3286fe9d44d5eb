"""
DNS answers that this server makes itself.

Every answer built here keeps these rules:

* ID, opcode, RD, CD and the question are the client's, the question in the client's own spelling.
* RA is set and AA clear, for we forward.  AD is clear: the records are not signed.
* The OPT record is ours and comes last; it is there exactly if the client sent one (RFC 6891
  section 7).  DO is echoed.  An EDE option (RFC 8914) carries a code and no text of ours: a rule's
  wording is nothing that a client's log should show.

Knows no policy and no sockets.
"""

from collections.abc import Sequence
from struct import Struct

from urlguard.errors import WireError
from urlguard.wire import query as wire
from urlguard.wire.query import OPT, SOA, UDP_SIZE, Asked, Query

# Extended DNS error codes, RFC 8914 section 4.
EDE_FORGED, EDE_BLOCKED, EDE_CENSORED, EDE_PROHIBITED = 4, 15, 16, 18
EDE_NO_REACHABLE, EDE_NETWORK = 22, 23

_EDE_OPTION = 15
_BASE = wire.QR | wire.RA
_ECHO = wire.OPCODE | wire.RD | wire.CD
_MAX_LOOK = 16  # records of a refused message that are looked at
_QNAME = b"\xc0\x0c"  # a pointer to offset 12, the offset of the question's name

_header = Struct("!HHHHHH").pack
_record = Struct("!HHIH").pack
_opt = Struct("!BHHBBHH").pack
_ede = Struct("!HHH").pack

# MNAME and RNAME of the SOA in negative answers lead nowhere on purpose (RFC 2606).
_NAMES = b"\x09localhost\0\x06nobody\x07invalid\0"


def error(asked: Asked, rcode: int, ede: int | None = None) -> bytes:
    """An answer without records; `ede` is an extended error code (RFC 8914)."""
    return _message(asked, rcode, b"", 0, 0, ede)


def error_raw(data: bytes, rcode: int) -> bytes:
    """
    The answer to a message that `parse_query` refused with `rcode`.

    Args:
        data: at least 12 octets.

    The question is repeated where it could be read, and an OPT record that could be read is
    answered with ours (RFC 6891 section 6.1.1): a client that gets none takes it that we know no
    EDNS.  BADVERS needs it for its upper bits.
    """
    ident, flags, questions, *_ = wire.header(data)
    question = b""
    opt = b""
    if questions == 1:
        try:
            end = wire.skip_name(data, 12) + 4
            if end <= len(data) and end <= 12 + 255 + 4:
                if not flags & wire.OPCODE:
                    question = data[12:end]
                opt = _opt_in_return(data, end, rcode)
        except WireError:
            pass
    if rcode > 15 and not opt:
        opt = _opt(0, OPT, UDP_SIZE, rcode >> 4, 0, 0, 0)
    head = _header(ident, _BASE | flags & _ECHO | rcode & 15, len(question) > 0, 0, 0, len(opt) > 0)
    return head + question + opt


def _opt_in_return(data: bytes, at: int, rcode: int) -> bytes:
    """Our OPT record if there is one in `data`, whose records begin at `at`."""
    _, _, _, answers, authorities, additionals = wire.header(data)
    for _ in range(min(answers + authorities + additionals, _MAX_LOOK)):
        rtype, _, ttl, _, at = wire.read_record(data, at)
        if rtype == OPT:
            return _opt(0, OPT, UDP_SIZE, rcode >> 4, 0, ttl & 0x8000, 0)
    return b""


def addresses(asked: Asked, rdatas: Sequence[bytes], ttl: int, ede: int | None = None) -> bytes:
    """
    An answer with an A record for each 4 octets and an AAAA record for each 16.

    Args:
        ttl: in seconds.
    """
    records = b"".join(
        [
            _QNAME + _record(wire.A if len(r) == 4 else wire.AAAA, wire.IN, ttl, len(r)) + r
            for r in rdatas
        ]
    )
    return _message(asked, 0, records, len(rdatas), 0, ede)


def negative(asked: Asked, ttl: int, rcode: int = 0, ede: int | None = None) -> bytes:
    """
    NODATA, or with `rcode` 3 NXDOMAIN, to be remembered for `ttl` seconds (RFC 2308 section 5).
    """
    return _message(asked, rcode, soa_record(ttl), 0, 1, ede)


def soa(asked: Asked, ttl: int, ede: int | None = None) -> bytes:
    """The answer to a SOA query: the record that `negative` puts into the authority section."""
    return _message(asked, 0, soa_record(ttl), 1, 0, ede)


def soa_record(ttl: int) -> bytes:
    """The SOA record of the question's own name, made up; its minimum is `ttl`, in seconds."""
    rdata = _NAMES + Struct("!IIIII").pack(1, 3600, 600, 86_400, ttl)
    return _QNAME + _record(SOA, wire.IN, ttl, len(rdata)) + rdata


def truncated(asked: Asked, rcode: int = 0) -> bytes:
    """
    An answer without records that sends the client to TCP.

    It has no part of the answer either, which no client could use (RFC 2181 section 9).
    """
    return _message(asked, rcode, b"", 0, 0, None, wire.TC)


def head(q: Query, bits: int, answers: int, authorities: int, additionals: int) -> bytes:
    """
    Header and question of an answer to `q`; `bits` are the RCODE and flags beside QR and RA.
    """
    bits |= _BASE | q.flags & _ECHO
    return _header(q.id, bits, 1, answers, authorities, additionals) + q.data[12 : q.question_end]


def opt_record(asked: Asked, extra: bytes = b"", upper: int = 0) -> bytes:
    """Our OPT record for an answer: options `extra`, then those that every answer must carry."""
    extra += asked.reply_options
    return _opt(0, OPT, UDP_SIZE, upper, 0, 0x8000 if asked.query.do else 0, len(extra)) + extra


def _message(
    asked: Asked,
    rcode: int,
    records: bytes,
    answers: int,
    authorities: int,
    ede: int | None,
    bits: int = 0,
) -> bytes:
    """The whole answer; `records` are those of the answer and authority sections."""
    q = asked.query
    bits |= rcode & 15
    if not q.has_opt:
        return head(q, bits, answers, authorities, 0) + records
    if asked.reply_options:
        extra = b"" if ede is None else _ede(_EDE_OPTION, 2, ede)
        opt = opt_record(asked, extra, rcode >> 4)
    else:
        found = _OPTS.get((rcode >> 4, q.do, ede))
        opt = _make_opt(rcode >> 4, q.do, ede) if found is None else found
    return head(q, bits, answers, authorities, 1) + records + opt


def _make_opt(upper: int, do: bool, ede: int | None) -> bytes:
    """Our OPT record, and remember it: there are only a few."""
    extra = b"" if ede is None else _ede(_EDE_OPTION, 2, ede)
    opt = _opt(0, OPT, UDP_SIZE, upper, 0, 0x8000 if do else 0, len(extra)) + extra
    if len(_OPTS) < 1000:
        _OPTS[upper, do, ede] = opt
    return opt


_OPTS: dict[tuple[int, bool, int | None], bytes] = {}
