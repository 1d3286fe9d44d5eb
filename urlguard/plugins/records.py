"""
Answers from dnslib's records, and records from answers: for plugins off the packet path.

Building an answer here costs some 50 µs.  A plugin that answers many queries a second puts octets
together with `wire.answer`.  dnslib is imported by the first call, so that a worker without such a
plugin does not load it.  Knows no policy and no sockets.
"""

from collections.abc import Iterable
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from urlguard.plugins.base import Answer, Exchange
from urlguard.wire import answer
from urlguard.wire.query import OPT

if TYPE_CHECKING:
    from dnslib import RR

_ede = Struct("!HHH").pack
_EDE_OPTION = 15
_FAR = 0x4000  # a compression pointer has 14 bits


class Records(NamedTuple):
    """The records of an answer by section, without the OPT record."""

    answer: list["RR"]
    authority: list["RR"]
    additional: list["RR"]


def answer_with(
    x: Exchange,
    records: Iterable["RR"],
    source: str,
    *,
    rcode: int = 0,
    authority: Iterable["RR"] = (),
    additional: Iterable["RR"] = (),
    ede: int | None = None,
) -> Answer:
    """
    The answer to a query with these records.

    ID, flags and question are the client's, the question in the client's own spelling (0x20); names
    are compressed (RFC 1035 section 4.1.4).  The OPT record is there if and only if the client sent
    one, with the options that every answer must carry.  The answer may have any size: the listener
    truncates it where the client takes less.

    Args:
        source: the plugin's name.
        rcode: up to 4095; above 15 the client must have sent an OPT record.
        ede: an extended error code (RFC 8914), for clients with EDNS.
    """
    from dnslib.label import DNSBuffer

    q = x.query
    sections = [list(records), list(authority), list(additional)]
    answers, authorities, additionals = map(len, sections)
    buffer = DNSBuffer()
    buffer.append(answer.head(q, rcode & 15, answers, authorities, additionals + q.has_opt))
    buffer.names = _names(bytes(q.data[12 : q.question_end - 4]))
    for section in sections:
        for record in section:
            record.pack(buffer)
    if q.has_opt:
        extra = b"" if ede is None else _ede(_EDE_OPTION, 2, ede)
        buffer.append(answer.opt_record(x, extra, rcode >> 4))
    return Answer(bytes(buffer.data), source)


def records_of(x: Exchange, a: Answer) -> Records:
    """
    The records of an answer, with the TTLs that the client of `x` would see.

    Raises:
        ValueError: dnslib cannot read the message; octets from upstreams can be anything.
    """
    from dnslib import DNSError, DNSRecord
    from dnslib.bimap import BimapError
    from dnslib.buffer import BufferError as OctetsError
    from dnslib.label import DNSLabelError

    try:
        message = DNSRecord.parse(a.octets(x))
    except (DNSError, OctetsError, DNSLabelError, BimapError) as exc:
        raise ValueError(f"unreadable answer from {a.source}: {exc}") from exc
    return Records(message.rr, message.auth, [r for r in message.ar if r.rtype != OPT])


class _Names(dict[tuple[bytes, ...], int]):
    """Where names stand in a message, as far as a compression pointer reaches."""

    def __setitem__(self, name: tuple[bytes, ...], offset: int) -> None:
        if offset < _FAR:
            super().__setitem__(name, offset)


def _names(question: bytes) -> _Names:
    """The question's name and its parents, in lower case, whatever the client's spelling."""
    labels: list[tuple[int, bytes]] = []
    at = 0
    while length := question[at]:
        labels.append((12 + at, question[at + 1 : at + 1 + length].lower()))
        at += 1 + length
    found = _Names()
    for i, (offset, _) in enumerate(labels):
        found[tuple(label for _, label in labels[i:])] = offset
    return found
