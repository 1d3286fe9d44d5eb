"""
Incident numbers: what somebody who met a block reads to the help desk, or gives with an appeal.

A number belongs to the owner of a blocked name and to a day.  It says nothing of rules or scores,
nor whether anything is blocked: whoever has the key can make one for any name.  Nothing is stored,
so a page that is shown a million times costs no room.  Knows a key and names; knows no cases.

How it works.  ``UG-7K3M-9QX2-4T1`` are 11 letters and digits of Crockford's base 32, in which none
looks like another: 2 for the day, modulo 1024; 8, 40 bits, of an HMAC over the owner and the day;
and a check character.  Who has no key can but guess, one in 10¹² for each try, and tries are
limited.  The check character is a sum over GF(32) in which each place has another weight, so it
finds any one wrong character and any two that changed places, before anybody is told that the
number is of something else.
"""

import contextlib
import hmac
import os
from pathlib import Path
from typing import Final

from urlguard import names, wellknown
from urlguard.cases.model import StoreError
from urlguard.errors import InputError

FILE: Final = "incident.key"
KEY_OCTETS: Final = 32
VALID_DAYS: Final = 90
DAY_S: Final = 86_400
MAX_TEXT: Final = 40  # characters, however somebody writes it

_PREFIX: Final = "UG"  # its U is no character of a number
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES: Final = {char: value for value, char in enumerate(_ALPHABET)} | {"O": 0, "I": 1, "L": 1}
_DAYS: Final = 1024  # two characters
_SIGNED: Final = 8  # characters of the HMAC
_LENGTH: Final = 2 + _SIGNED
_POLYNOMIAL: Final = 0b100101  # x⁵ + x² + 1, which is primitive: x has the order 31


def owner(name: str) -> str:
    """
    Whose a canonical name is, as far as appeals go.

    The registrable domain; a customer's own name below the suffix of a hosting company, and below
    any popular domain: of what a popular domain gives away, nobody answers for all.
    """
    domain = names.registrable(name)
    popular = domain is not None and wellknown.popular_rank(name) is not None
    return names.owner(name, frozenset((domain,)) if popular and domain else frozenset())


def key(state_dir: Path) -> bytes:
    """
    The key in `state_dir`, made for its owner alone if it is not there.  Reads the disk.

    Raises:
        StoreError: it cannot be read or made, or has another length.
    """
    path = state_dir / FILE
    try:
        if not path.exists():
            _make(path)
        found = path.read_bytes()
    except OSError as exc:
        raise StoreError(f"incident key {path}: {exc.strerror}") from exc
    if len(found) != KEY_OCTETS:
        raise StoreError(f"incident key {path}: {len(found)} octets; must have {KEY_OCTETS}")
    return found


def _make(path: Path) -> None:
    """Put a key there, whole or not at all; if another process was quicker, its key stays."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as out:
            out.write(os.urandom(KEY_OCTETS))
            out.flush()
            os.fsync(out.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(partial)
    finally:
        partial.unlink(missing_ok=True)


def mint(key: bytes, owner: str, now: float) -> str:
    """
    The number of an owner and the day of `now`.

    Args:
        key: see `incidents.key`.
        owner: see `incidents.owner`; or an address.
        now: seconds since 1970.
    """
    day = int(now) // DAY_S
    values = [*divmod(day % _DAYS, 32), *_signature(key, owner, day)]
    text = "".join(_ALPHABET[value] for value in [*values, _check(values)])
    return f"{_PREFIX}-{text[:4]}-{text[4:8]}-{text[8:]}"


def verify(key: bytes, text: str, owner: str, now: float) -> int | None:
    """
    The day of a number, in days since 1970, if it is of this owner and not too old; else None.

    Args:
        key: see `incidents.key`.
        text: in any case, with or without prefix, hyphens and spaces, with O for 0 and I or L
            for 1.
        owner: whose it should be.
        now: seconds since 1970.

    Raises:
        InputError: it is mistyped, whosever it is.
    """
    values = _read(text)
    today = int(now) // DAY_S
    # The latest such day up to tomorrow: another machine's clock may be a little ahead.
    day = today + 1 - (today + 1 - (values[0] * 32 + values[1])) % _DAYS
    signed = bytes(values[2:])
    if not hmac.compare_digest(signed, bytes(_signature(key, owner, day))):
        return None
    return day if day >= today - VALID_DAYS else None


def _read(text: str) -> list[int]:
    """The characters of a number but for the last, as values."""
    found = "".join(char for char in text[: MAX_TEXT + 1].upper() if char not in " -.\t")
    found = found.removeprefix(_PREFIX)
    if len(text) > MAX_TEXT or len(found) != _LENGTH + 1:
        raise InputError(f"incident: must be {_PREFIX}- and {_LENGTH + 1} letters and digits")
    if strange := sorted(set(found) - _VALUES.keys()):
        raise InputError(f"incident: {strange[0]!a} is in no incident number")
    values = [_VALUES[char] for char in found]
    if _check(values[:-1]) != values[-1]:
        raise InputError("incident: mistyped; a character is wrong, or two changed places")
    return values[:-1]


def _signature(key: bytes, owner: str, day: int) -> list[int]:
    signed = int.from_bytes(hmac.digest(key, f"{day} {owner}".encode(), "sha256")[:5], "big")
    return [signed >> 5 * at & 31 for at in range(_SIGNED)]


def _check(values: list[int]) -> int:
    total = 0
    for value in values:
        total ^= value
        total <<= 1
        if total & 32:
            total ^= _POLYNOMIAL
    return total
