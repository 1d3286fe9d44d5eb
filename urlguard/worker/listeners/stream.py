"""
DNS messages on a stream: two octets of length, then one message, and so on (RFC 7766 section 8).

For every transport that is a connection, whatever carries its octets.  Knows octets; knows neither
sockets nor what a message says.
"""

from typing import Final

MAX_MESSAGE: Final = 0xFFFF  # octets: no longer one has a length of two octets

_PREFIX: Final = 2


def frame(message: bytes) -> bytes:
    """
    A message with its length before it.

    Raises:
        ValueError: it is longer than 65,535 octets.
    """
    size = len(message)
    if size > MAX_MESSAGE:
        raise ValueError(f"message: {size} octets; must be at most {MAX_MESSAGE} on a stream")
    return size.to_bytes(_PREFIX, "big") + message


class MessageReader:
    """
    The messages in what comes over a stream, in whatever pieces it comes.

    It holds what was fed and not taken out.  Whoever feeds it bounds that by taking messages out
    before it reads more: one message never needs more than 65,537 octets.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0  # where the next message's length stands; what is before it was taken out

    def __len__(self) -> int:
        """Octets that were fed and not taken out."""
        return len(self._buffer) - self._at

    def feed(self, octets: bytes) -> None:
        """Add the next octets of the stream."""
        self._compact()
        self._buffer += octets

    @property
    def whole(self) -> bool:
        """True if `next` has a message to give."""
        buffer, at = self._buffer, self._at
        left = len(buffer) - at
        return left >= _PREFIX and left >= _PREFIX + (buffer[at] << 8 | buffer[at + 1])

    def next(self) -> bytes | None:
        """
        Take out the next message, without its length; None while it is not there to its end.

        A length of zero gives an empty message: what that deserves is the caller's to say.
        """
        buffer, at = self._buffer, self._at
        start = at + _PREFIX
        if len(buffer) >= start:
            end = start + (buffer[at] << 8 | buffer[at + 1])
            if len(buffer) >= end:
                self._at = end
                return bytes(buffer[start:end])
        self._compact()
        return None

    def peek(self, count: int) -> bytes:
        """The next octets, `count` at most, for what stands before the first message."""
        return bytes(self._buffer[self._at : self._at + count])

    def skip(self, count: int) -> None:
        """Pass over `count` octets, which `peek` has shown."""
        self._at += count

    def clear(self) -> None:
        """Forget everything that was fed."""
        self._buffer.clear()
        self._at = 0

    def _compact(self) -> None:
        """Free what was taken out: once for all messages that came together."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
