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
LOOKUP_S: Final = 5.0  # for one question to the upstreams, with all that are tried
TRY_S: Final = 2.0  # for one upstream, once over UDP and once over TCP
LOW_PORTS: Final = 1024  # a webhook goes to 443 or to one from here: those below have their owners


@dataclass(frozen=True)
class Bounds:
    """
    The rules of a request.

    The defaults are the only ones that a server has: nothing in its configuration changes them.
    Tests, whose servers stand on loopback, pass others.
    """

    public: Callable[[str], bool] = is_public
    ca_file: Path | None = None  # authorities that are believed; None: the system's
    http_port: int = 80  # of proof files
    https_port: int = 443
    total_s: float = 10.0  # for one request, from the look-up of the name to the last octet


RULES: Final = Bounds()


class Fetched(NamedTuple):
    """
    An answer.

    ``status`` is never one of a redirect, and 200 for a proof file.  ``body`` is as it came over
    the wire: a webhook's at most the first `MAX_ANSWER` octets.  ``scheme`` is ``https`` or
    ``http``.
    """

    status: int
    body: bytes
    scheme: str

    @property
    def ok(self) -> bool:
        """True if the other side says that it has taken it."""
        return 200 <= self.status < 300


class FetchError(UrlGuardError):
    """
    There is no answer.

    ``refused`` is True if the request was against the rules and would be so again: nothing, or at
    most a question to the DNS, has left this machine.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
