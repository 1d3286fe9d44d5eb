"""
The upstream for machines without a C compiler: answers every A question with one address.

    python -m benchmarks.stub PORT

Takes about as long for an answer as the servers that are measured, so that their queries per second
are its own; their CPU per query is not touched by that.
"""

import socket
import sys

ADDRESS = "192.0.2.80"  # the same as in responder.c

_RECORD = b"\xc0\x0c\0\1\0\1\0\0\x0e\x10\0\4" + socket.inet_aton(ADDRESS)
_OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"


def answer(query: bytes) -> bytes:
    """The answer to a query with one question; raises IndexError if it is shorter than one."""
    at = 12
    while query[at]:
        at += query[at] + 1
    at += 5
    is_a = query[at - 4 : at - 2] == b"\0\1"
    has_opt = query[10:12] != b"\0\0"
    head = query[:2] + bytes([0x80 | query[2] & 1, 0x80, 0, 1, 0, is_a, 0, 0, 0, has_opt])
    return head + query[12:at] + _RECORD * is_a + _OPT * has_opt


def main() -> None:
    """Answer until killed."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.bind(("127.0.0.1", int(sys.argv[1])))
    while True:
        query, client = sock.recvfrom(2048)
        try:
            sock.sendto(answer(query), client)
        except (IndexError, OSError):
            continue


if __name__ == "__main__":
    main()
