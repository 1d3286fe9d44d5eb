"""
Signatures of webhooks as in Standard Webhooks 1.0.0 (https://www.standardwebhooks.com), symmetric.

Pure functions over texts and octets: no clock, no network, no store of secrets.

A secret is ``whsec_`` and 24 to 64 random octets in base64.  The signature covers the message's ID,
the time in seconds, and the body as sent, joined by dots; so the ID has no dot.  While a secret is
being replaced a message is signed with both, and the receiver accepts either.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets as randomness
from collections.abc import Mapping, Sequence
from typing import Final

from urlguard.errors import InputError

PREFIX: Final = "whsec_"
ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
SECRET_OCTETS: Final = 32  # of a new one
LEAST, MOST = 24, 64  # octets that the specification allows
TOLERANCE_S: Final = 300  # between a message's time and its receiver's, either way

_VERSION: Final = "v1"
_is_id = re.compile(r"[!-\-/-~]{1,255}").fullmatch  # printable, and no dot


def new_secret() -> str:
    """A new random secret."""
    return PREFIX + base64.b64encode(randomness.token_bytes(SECRET_OCTETS)).decode()


def sign(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """
    The three headers of a message.

    Args:
        secrets: one, or the new one and the old one.
        message_id: the same at each attempt, so that a receiver can recognize a repetition.
        timestamp: seconds since 1970, of this attempt.
        body: the octets that are sent.

    Raises:
        InputError: a secret or the ID is invalid.
    """
    if not secrets:
        raise InputError("webhook: no secret; must have at least one")
    if not _is_id(message_id):
        raise InputError(
            f"{ID} {message_id[:40]!a}: must be 1 to 255 printable characters without a dot"
        )
    found = [_signature(_key(secret), message_id, timestamp, body) for secret in secrets]
    return {ID: message_id, TIMESTAMP: str(timestamp), SIGNATURE: " ".join(found)}


def verify(secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """
    True if a message is signed with one of the secrets, at most `TOLERANCE_S` ago.

    Args:
        headers: the three of `sign`, in lower case; others are ignored.
        now: seconds since 1970.

    Raises:
        InputError: a secret is invalid.
    """
    keys = [_key(secret) for secret in secrets]
    message_id, timestamp = headers.get(ID, ""), headers.get(TIMESTAMP, "")
    if not _is_id(message_id) or not re.fullmatch(r"[0-9]{1,12}", timestamp, re.A):
        return False
    if abs(now - int(timestamp)) > TOLERANCE_S:
        return False
    expected = [_signature(key, message_id, int(timestamp), body).encode() for key in keys]
    given = headers.get(SIGNATURE, "").encode().split(b" ")
    # All pairs, always: the time that it takes must not depend on the result.
    hits = [hmac.compare_digest(one, other) for one in given for other in expected]
    return any(hits)


def _signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return f"{_VERSION},{base64.b64encode(digest).decode()}"


def _key(secret: str) -> bytes:
    """The octets of a secret; errors do not contain it."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"webhook secret: not base64; must be {PREFIX} and base64") from None
    if not secret.startswith(PREFIX):
        raise InputError(f"webhook secret: no {PREFIX} before it; must be {PREFIX} and base64")
    if not LEAST <= len(key) <= MOST:
        raise InputError(f"webhook secret: {len(key)} octets; must have {LEAST} to {MOST}")
    return key
