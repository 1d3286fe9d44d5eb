"""
The upstream for machines without a C compiler, and for those benchmarks that need a worse one.

    python -m benchmarks.stub PORT [--ttl S] [--nxdomain ZONE] [--silent ZONE]

Answers every A question with one address, or below one zone with NXDOMAIN, or below another not at
all.  `COUNT` gets how many questions outside of these zones there were, as an address of four
octets.  Takes about as long for an answer as the servers that are measured, so that their queries
per second are its own; their CPU per query is not touched by that.
"""

import argparse
import socket

ADDRESS = "192.0.2.80"  # the same as in responder.c
COUNT = "count.stub.example"

_OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"


def wire(name: str) -> bytes:
    """A name as it stands in a message; nothing for no name."""
    parts = name.split(".") if name else []
    return b"".join(bytes([len(part)]) + part.encode() for part in parts) + b"\0" * bool(parts)


class Stub:
    """
    What the upstream says.

    Args:
        ttl: of every record, in seconds.
        nxdomain: a zone in which no name exists.
        silent: a zone that gets no answers.
    """

    def __init__(self, ttl: int = 3600, nxdomain: str = "", silent: str = "") -> None:
        self.asked = 0
        self._ttl = ttl.to_bytes(4)
        self._nxdomain, self._silent = wire(nxdomain), wire(silent)
        self._address = socket.inet_aton(ADDRESS)
        self._count = wire(COUNT)

    def answer(self, query: bytes) -> bytes:
        """
        The answer to a query with one question, empty for none.

        Raises:
            IndexError: it is shorter than a query.
        """
        at = 12
        while query[at]:
            at += query[at] + 1
        at += 5
        name = query[12 : at - 4].lower()
        if self._silent and name.endswith(self._silent):
            return b""
        has_opt = query[10:12] != b"\0\0"
        head = query[:2] + bytes([0x80 | query[2] & 1])
        if self._nxdomain and name.endswith(self._nxdomain):
            counts = bytes([0x83, 0, 1, 0, 0, 0, 1, 0, has_opt])
            return head + counts + query[12:at] + self._soa(at) + _OPT * has_opt
        address = self._address
        if name == self._count:
            address = self.asked.to_bytes(4)
        else:
            self.asked += 1
        is_a = query[at - 4 : at - 2] == b"\0\1"
        record = b"\xc0\x0c\0\1\0\1" + self._ttl + b"\0\4" + address
        counts = bytes([0x80, 0, 1, 0, is_a, 0, 0, 0, has_opt])
        return head + counts + query[12:at] + record * is_a + _OPT * has_opt

    def _soa(self, end: int) -> bytes:
        """The zone's SOA record, whose name is the end of the question's."""
        owner = (0xC000 | end - 4 - len(self._nxdomain)).to_bytes(2)
        numbers = b"".join(number.to_bytes(4) for number in (1, 3600, 600, 86_400)) + self._ttl
        return owner + b"\0\6\0\1" + self._ttl + b"\0\x16\0\0" + numbers


def main() -> None:
    """Answer until killed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stub")
    parser.add_argument("port", type=int)
    parser.add_argument("--ttl", type=int, default=3600)
    parser.add_argument("--nxdomain", default="", metavar="ZONE")
    parser.add_argument("--silent", default="", metavar="ZONE")
    options = parser.parse_args()
    stub = Stub(options.ttl, options.nxdomain, options.silent)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.bind(("127.0.0.1", options.port))
    while True:
        query, client = sock.recvfrom(2048)
        try:
            if said := stub.answer(query):
                sock.sendto(said, client)
        except (IndexError, OSError):
            continue


if __name__ == "__main__":
    main()
