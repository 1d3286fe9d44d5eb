"""
Binds the listening addresses: one socket per transport and worker.

Knows sockets; knows neither queries nor processes.
"""

import contextlib
import errno
import socket
from typing import Final

from urlguard.config import Config, Endpoint
from urlguard.errors import ConfigError
from urlguard.plugins.forward import Forward
from urlguard.wire.query import TCP, UDP, Transport

_OTHER_DESCRIPTORS = 512


_KINDS: Final[dict[Transport, int]] = {UDP: socket.SOCK_DGRAM, TCP: socket.SOCK_STREAM}

Bound = tuple[Transport, socket.socket]


def open_sockets(where: Endpoint, count: int, *, exclusive: bool = True) -> list[list[Bound]]:
    """
    Bind a socket of each transport for each of `count` workers to one address.

    The kernel spreads clients over sockets bound with SO_REUSEPORT.  With port 0 it chooses a port,
    the same for all of them.  The TCP sockets listen once a `TcpListener` starts.

    Args:
        exclusive: fail if another process of ours is bound there, which SO_REUSEPORT would permit.

    Raises:
        ConfigError: the address cannot be bound; with the reason and a remedy.
    """
    attempts = 10 if where.port == 0 else 1
    while True:
        attempts -= 1
        workers: list[list[Bound]] = []
        port = where.port
        opened: list[socket.socket] = []
        try:
            if exclusive and port:
                for kind in _KINDS.values():
                    _bind(where, port, kind, shared=False).close()
            for _ in range(count):
                workers.append([])
                for transport, kind in _KINDS.items():
                    sock = _bind(where, port, kind)
                    opened.append(sock)
                    port = sock.getsockname()[1]
                    workers[-1].append((transport, sock))
        except OSError as exc:
            for sock in opened:
                sock.close()
            if attempts and exc.errno == errno.EADDRINUSE:
                continue  # the port that the kernel chose for UDP is taken for TCP
            raise ConfigError([f'[server] listen = "{where}": {_why(exc)}']) from exc
        return workers


def descriptors(config: Config) -> int:
    """
    Open files that a worker may need at once.

    Each TCP connection is one, and each source port towards an upstream; the rest are snapshots,
    listeners and connections to upstreams.
    """
    own = Forward.descriptors(config.forward)
    return config.server.tcp_connections + own + _OTHER_DESCRIPTORS


def _bind(where: Endpoint, port: int, kind: int, *, shared: bool = True) -> socket.socket:
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    sock = socket.socket(family, kind)
    try:
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if kind == socket.SOCK_STREAM:
            # Connections in TIME_WAIT must not keep a restarted server out.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # What a client that does not read can make the kernel keep; else it is megabytes.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
        elif shared:
            with contextlib.suppress(OSError):  # bursts; the kernel gives what it permits
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        if family == socket.AF_INET6:
            # 0.0.0.0 is asked for by name; ::ffff:192.0.2.1 shall not be a second spelling of it.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((where.host, port))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _why(exc: OSError) -> str:
    words: dict[int | None, str] = {
        errno.EADDRINUSE: "address already in use; stop what listens there, or choose another port",
        errno.EACCES: "permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        errno.EPERM: "permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE",
        errno.EADDRNOTAVAIL: "not an address of this machine; must be one, or a wildcard",
        errno.EAFNOSUPPORT: "this machine has no support for the address family",
    }
    return words.get(exc.errno, exc.strerror or str(exc))
