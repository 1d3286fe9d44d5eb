"""
DNS cookies: a client that returns ours receives at the address that it sends from.

The COOKIE option of RFC 7873 with the server cookies of RFC 9018, which servers of any make that
share a secret accept from each other.  Knows no clock, no sockets and no policy.

How it works
    A server cookie is version, three reserved octets, a time, and the SipHash-2-4 of these, the
    client's cookie and its address under the secret.  Nothing is kept for a client.  The hash costs
    some 10 µs in Python, so each result is remembered for as long as it holds: a client sends the
    same cookie with each query for half an hour.
"""

import hmac
from struct import Struct
from typing import Final

from urlguard.errors import WireError
from urlguard.wire.query import FORMERR

OPTION: Final = 10  # RFC 7873 section 8
SECRET_SIZE: Final = 16  # octets: a SipHash key

VALID_S: Final = 3600  # a cookie holds for; RFC 9018 section 4.3
FUTURE_S: Final = 300  # clocks of servers that share a secret may differ by
RENEW_S: Final = 1800  # an older one is replaced
NEW_S: Final = 300  # a client without one gets the same again for

MAX_REMEMBERED: Final = 4096  # answers; then all are forgotten, which takes 0.3 ms

_VERSION: Final = b"\1\0\0\0"  # and reserved octets, RFC 9018 sections 4.1 and 4.2
_MASK: Final = 0xFFFFFFFFFFFFFFFF

_head = Struct("!HH").pack
_time = Struct("!I")
_words = Struct("<QQ").unpack

_Known = tuple[bytes, bool, int, int]  # the option, valid, from when until when: [from, until)


class Cookies:
    """
    Server cookies of one secret; those of the one before it are still accepted, and replaced.

    Args:
        secret: 16 octets, the same in all workers and all servers at one address.
        previous: the secret before it, until the next change.

    Raises:
        ValueError: a secret of another size.
    """

    def __init__(self, secret: bytes, previous: bytes | None = None) -> None:
        keys = (secret,) if previous is None else (secret, previous)
        for key in keys:
            if len(key) != SECRET_SIZE:
                raise ValueError(f"cookie secret: {len(key)} octets; must be {SECRET_SIZE}")
        self._keys = keys
        self._known: dict[tuple[bytes, bytes], _Known] = {}

    def answer(self, option: bytes, host_octets: bytes, now: int) -> tuple[bytes, bool]:
        """
        The COOKIE option for the answer, and whether the client has shown a valid server cookie.

        A server cookie that is not ours, too old, or of another kind is no error: the client gets
        a new one (RFC 7873 section 5.2.4, without BADCOOKIE).

        Args:
            option: the content of the client's option.
            host_octets: the client's address, 4 or 16 octets.
            now: seconds since 1970.

        Raises:
            WireError: the option is not 8, or 16 to 40, octets long (RFC 7873 section 5.2.2).
        """
        key = (option, host_octets)
        known = self._known.get(key)
        if known is None or not known[2] <= now < known[3]:
            known = self._work_out(option, host_octets, now)
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[key] = known
        return known[0], known[1]

    def _work_out(self, option: bytes, host: bytes, now: int) -> _Known:
        size = len(option)
        if size != 8 and not 16 <= size <= 40:
            raise WireError(
                f"COOKIE option: {size} octets; must be 8, or 16 to 40 (RFC 7873 5.2.2)", FORMERR
            )
        client = option[:8]
        until = now + NEW_S
        if size == 24 and option[8] == 1:
            # RFC 1982 arithmetic: the time has 32 bits, and wraps in 2106.
            age = (now - _time.unpack_from(option, 12)[0] + 0x80000000) & 0xFFFFFFFF
            age -= 0x80000000
            if -FUTURE_S <= age <= VALID_S:
                number = self._match(client, option[8:16], host, option[16:])
                if number == 0 and age < RENEW_S:
                    # Should a clock step back, a cookie of the future is looked at again.
                    return _option(option), True, now - age - FUTURE_S, now - age + RENEW_S
                if number is not None:
                    until = min(until, now - age + VALID_S + 1)
                    return self._new(client, host, now), True, now, until
            elif age < 0:
                until = min(until, now - age - FUTURE_S)  # then it is not too early any more
        return self._new(client, host, now), False, now, until

    def _match(self, client: bytes, head: bytes, host: bytes, shown: bytes) -> int | None:
        """Which of the secrets a cookie was made with."""
        for number, key in enumerate(self._keys):
            if hmac.compare_digest(siphash(key, client + head + host), shown):
                return number
        return None

    def _new(self, client: bytes, host: bytes, now: int) -> bytes:
        head = _VERSION + _time.pack(now & 0xFFFFFFFF)
        return _option(client + head + siphash(self._keys[0], client + head + host))


def _option(content: bytes) -> bytes:
    return _head(OPTION, len(content)) + content


def siphash(key: bytes, data: bytes) -> bytes:
    """
    SipHash-2-4 (Aumasson and Bernstein, 2012), 8 octets, least significant first.

    Args:
        key: 16 octets.
    """
    k0, k1 = _words(key)
    v0 = k0 ^ 0x736F6D6570736575
    v1 = k1 ^ 0x646F72616E646F6D
    v2 = k0 ^ 0x6C7967656E657261
    v3 = k1 ^ 0x7465646279746573
    size = len(data)
    padded = data + bytes(7 - size % 8) + bytes([size & 255])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v0, v1, v2, v3 = _rounds(2, v0, v1, v2, v3 ^ word)
        v0 ^= word
    v0, v1, v2, v3 = _rounds(4, v0, v1, v2 ^ 255, v3)
    return (v0 ^ v1 ^ v2 ^ v3).to_bytes(8, "little")


def _rounds(count: int, v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    mask = _MASK
    for _ in range(count):
        v0 = v0 + v1 & mask
        v1 = (v1 << 13 | v1 >> 51) & mask ^ v0
        v2 = v2 + v3 & mask
        v3 = (v3 << 16 | v3 >> 48) & mask ^ v2
        v2 = v2 + v1 & mask
        v1 = (v1 << 17 | v1 >> 47) & mask ^ v2
        v0 = (v0 << 32 | v0 >> 32) & mask
        v0 = v0 + v3 & mask
        v3 = (v3 << 21 | v3 >> 43) & mask ^ v0
        v2 = (v2 << 32 | v2 >> 32) & mask
    return v0, v1, v2, v3
