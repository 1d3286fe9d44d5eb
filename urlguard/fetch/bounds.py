"""
What a request may do, what comes out of it, and how it fails.  Imports neither HTTP nor DNS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from urlguard.errors import UrlGuardError
from urlguard.fetch.addresses import is_public

MAX_SENT: Final = 256 << 10  # octets of a webhook
MAX_PROOF: Final = 64 << 10  # octets of a proof file; a longer one is none
MAX_ANSWER: Final = 4 << 10  # octets of a webhook's answer that are read; the rest is left unread
MAX_URL: Final = 2048  # characters
MAX_ADDRESSES: Final = 32  # of one name
MAX_TXT: Final = 100  # records of one name
LOOKUP_S: Final = 5.0  # for one look-up, with all upstreams that are tried
TRY_S: Final = 2.0  # for one upstream, once over UDP and once over TCP
LOW_PORTS: Final = 1024  # a webhook goes to 443 or a port from here; lower ones have protocols


@dataclass(frozen=True)
class Bounds:
    """
    The rules of a request.

    A server always has the defaults; its configuration cannot change them.  Tests, whose servers
    are on loopback, pass others.
    """

    public: Callable[[str], bool] = is_public
    ca_file: Path | None = None  # trusted authorities; None: the system's
    http_port: int = 80  # of proof files
    https_port: int = 443
    total_s: float = 10.0  # for one request, from the look-up of the name to the last octet


RULES: Final = Bounds()


class Fetched(NamedTuple):
    """
    An answer.

    ``status`` is never a redirect's, and 200 for a proof file.  ``body`` is as received: for a
    webhook at most the first `MAX_ANSWER` octets.  ``scheme`` is ``https`` or ``http``.
    """

    status: int
    body: bytes
    scheme: str

    @property
    def ok(self) -> bool:
        """True if the server has accepted the request (2xx)."""
        return 200 <= self.status < 300


class FetchError(UrlGuardError):
    """
    A request failed.

    ``refused`` is True if it violated the rules and would again; nothing, or at most a DNS query,
    was sent.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
