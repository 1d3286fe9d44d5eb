"""
Who asks: the client's address, and the holder of the token that it sends.

What a token is, and how long an address must wait that guesses, is the business of
`urlguard.access`.
"""

import asyncio
import ipaddress
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from aiohttp import web

from urlguard import events
from urlguard.access.tokens import AccessError, Holder, Tokens
from urlguard.api.problems import Problem
from urlguard.api.services import Services
from urlguard.config.values import Network

MAX_TOKEN: Final = 512  # characters
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="urlguard"'}
_LOG_EVERY_S: Final = 60.0


class Keyring:
    """
    The tokens in a file that need not be there yet, or be readable.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._tokens: Tokens | None = None
        self._log_throttle = events.Throttle(_LOG_EVERY_S)

    def check(self, token: str) -> Holder | None:
        """
        Whose token it is, if it is one.  Reads the disk.

        Raises:
            AccessError: the file cannot be opened; an event says so once a minute.
        """
        return (self._tokens or self._opened()).check(token)

    def _opened(self) -> Tokens:
        with self._lock:
            if self._tokens is None:
                try:
                    self._tokens = Tokens(self._path)
                except AccessError as exc:
                    if self._log_throttle.due():
                        events.error("api.tokens", error=str(exc))
                    raise
            return self._tokens

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._tokens is not None:
                self._tokens.close()
                self._tokens = None


def client(request: web.BaseRequest, proxies: Sequence[Network]) -> str:
    """
    The client's address.

    Args:
        request: whose.
        proxies: whose ``X-Forwarded-For`` is believed.  Each proxy adds the address that it saw at
            the end, so the last one that is no proxy's is the client's; what stands before it
            anybody may have written.
    """
    seen = (request.remote or "").partition("%")[0]
    for text in reversed(",".join(request.headers.getall("X-Forwarded-For", ())).split(",")):
        if not _within(seen, proxies):
            break
        try:
            seen = str(ipaddress.ip_address(text.strip()))
        except ValueError:
            break
    return seen


def _within(text: str, networks: Sequence[Network]) -> bool:
    if not networks:
        return False
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return any(address in network for network in networks)


async def caller(request: web.BaseRequest, address: str, services: Services) -> Holder:
    """
    The holder of the request's token.

    Raises:
        Problem: there is no good one, or `address` has failed too often.
    """
    tokens, attempts = services.tokens, services.attempts
    if tokens is None or attempts is None:
        raise Problem("unavailable", "the tokens cannot be read yet", retry_after_s=1)
    given = request.headers.getall("Authorization", ())
    if not given:
        raise Problem("unauthenticated", "no token was sent", headers=_CHALLENGE)
    scheme, _, token = given[0].partition(" ")
    token = token.strip()
    if len(given) > 1 or scheme.lower() != "bearer" or not token:
        raise Problem(
            "unauthenticated",
            "the Authorization header holds no bearer token",
            headers=_CHALLENGE,
        )
    holder = None
    if len(token) <= MAX_TOKEN:
        # In a thread: it may have to read the disk.
        try:
            holder = await asyncio.to_thread(tokens.check, token)
        except AccessError as exc:
            raise Problem("unavailable", "the tokens cannot be read", retry_after_s=5) from exc
    if holder is not None:
        attempts.succeeded(address)
        return holder
    wait = attempts.wait(address)
    if wait > 0:
        raise Problem("rate", "too many bad tokens came from this address", retry_after_s=wait)
    attempts.failed(address)
    raise Problem(
        "unauthenticated",
        "the token is not known, was revoked, or has expired",
        headers={"WWW-Authenticate": 'Bearer realm="urlguard", error="invalid_token"'},
    )
