"""
JSON lines over the control process's Unix socket.

Workers and commands talk to the control process this way.  The socket is in ``state_dir`` with mode
0600: a user who can connect could edit the policy log as well.  A line is one message; many changes
are split into several, so that parsing one does not block a worker's loop.
"""

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import Any

from urlguard.errors import PolicyError

MAX_LINE = 1 << 20  # octets
CHUNK = 250  # rule changes in one message: about 20 KB, 0.1 ms to read

Message = dict[str, Any]


def socket_path(state_dir: Path) -> Path:
    """The path of the control process's socket."""
    return state_dir / "control.sock"


class ShortPath:
    """
    A short name for a path while it is in use.

    A Unix socket's address has room for 107 octets only; ``/proc/self/fd/N/name`` reaches any
    folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> str:
        self._folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._folder}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        os.close(self._folder)


def listen(path: Path) -> socket.socket:
    """Bind the control socket, in place of one that a killed process left."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.unlink(missing_ok=True)
    old = os.umask(0o177)
    try:
        with ShortPath(path) as short:
            server.bind(short)
    finally:
        os.umask(old)
    server.listen(64)
    server.setblocking(False)
    return server


def connect(path: Path, timeout_s: float) -> socket.socket:
    """
    Connect to the control process.

    Raises:
        OSError: no process is listening.
    """
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(timeout_s)
    try:
        with ShortPath(path) as short:
            client.connect(short)
    except OSError:
        client.close()
        raise
    return client


def encode(message: Message) -> bytes:
    """One message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


async def read(reader: asyncio.StreamReader) -> Message | None:
    """
    The next message; None when the other side is gone.

    Raises:
        ValueError: the line is too long or no JSON object.
    """
    try:
        line = await reader.readline()
    except ConnectionError:
        return None
    if not line.endswith(b"\n"):
        return None
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("must be an object")
    return message


def ask(state_dir: Path, message: Message, timeout_s: float = 90.0) -> Message | None:
    """
    Send a request to the running control process and wait for its reply.

    Args:
        state_dir: which server.
        message: the request.
        timeout_s: a commit may have to wait for the import of a large list.

    Returns:
        The reply, ``{"lost": True}`` if the server closed the connection without one, or None if
        no server is running on this ``state_dir``.

    Raises:
        PolicyError: a server is running, and this user may not connect or it does not answer.
    """
    path = socket_path(state_dir)
    data = b""
    try:
        with connect(path, timeout_s) as client:
            client.sendall(encode(message))
            while not data.endswith(b"\n"):
                part = client.recv(65536)
                if not part:
                    return {"lost": True}
                data += part
    except PermissionError as exc:
        raise PolicyError(
            f"{path}: a server is running; only its user and root may talk to it"
        ) from exc
    except TimeoutError as exc:
        raise PolicyError(
            f"{path}: no answer within {timeout_s:g} s; what was asked for may still be done"
        ) from exc
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        return None
    except ConnectionError:
        return {"lost": True}
    except OSError:
        return None
    reply: Message = json.loads(data)
    return reply
