"""
Frames between a parent and a child that does jobs for it: jobs one way, answers the other.

A frame is a head of 9 octets, the length of the body, the job's number and the frame's kind in
network byte order, and then the body.  Kinds of answers are here; kinds of jobs are defined by the
child.  The child's first frame has number 0 and says whether it has started.
"""

import asyncio
import struct
from typing import Final

HEAD: Final = struct.Struct(">IIB")
READY, DONE, FAILED, REFUSED = 1, 2, 3, 4  # answers; a job that was refused must not be tried again


def pack(number: int, kind: int, body: bytes = b"") -> bytes:
    """A frame as octets."""
    return HEAD.pack(len(body), number, kind) + body


async def read(reader: asyncio.StreamReader, max_body: int) -> tuple[int, int, bytes]:
    """
    The next frame: number, kind and body.

    Raises:
        IncompleteReadError: the other side has closed the pipe.
        ValueError: the body is longer than `max_body` octets; the stream is out of step.
    """
    size, number, kind = HEAD.unpack(await reader.readexactly(HEAD.size))
    if size > max_body:
        raise ValueError(f"a frame of {size} octets, limit is {max_body}")
    return number, kind, await reader.readexactly(size)
