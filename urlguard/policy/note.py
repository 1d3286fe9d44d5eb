"""
Signed notes: a checkpoint of the policy log as text, the keys that sign it, and reading it again.

The formats are C2SP's ``signed-note`` and ``tlog-checkpoint``, so that tools and witnesses of
transparency logs can keep our checkpoints and check who signed them:

    urlguard.invalid/log/8c1d2f0a9b3e4d57          the origin, which is also the key's name
    4711                                           the size: here the serial of the last batch
    3q2+7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=   the hash, in base64
                                                   an empty line ends the text that is signed
    — urlguard.invalid/log/8c1d2f0a9b3e4d57 …      base64 of key ID (4 octets) and signature (64)

**Where it differs from a Merkle tree's checkpoint.**  The hash is the one of the last batch in the
log's hash chain, see `chain`, and no root of an RFC 6962 tree: it speaks for every batch up to it,
but whoever wants to check that needs the log itself, since a chain has no short proofs.  And the
size is a serial: after a restore, which leaves serials out, it is more than the number of batches.

A key is Ed25519 (RFC 8032).  Its name is made of the key itself, so nobody has to think of one and
no two logs have the same.  ``.invalid`` (RFC 2606) says that it leads nowhere.

Knows texts and keys; knows nothing of the log, and of files only what they hold.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from urlguard.errors import InputError

ED25519: Final = b"\x01"  # the signature type, in key IDs and public keys
MAX_SIGNATURES: Final = 64  # of one note; readers must accept 16
MAX_OCTETS: Final = 64 << 20  # of one file: some 250,000 checkpoints

_DASH = "\u2014 "
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
_SHOWN = 60  # characters of a text from outside in a message


class Checkpoint(NamedTuple):
    """What is signed: this log had this batch, and everything before it, as they were then."""

    origin: str
    serial: int
    hash: str  # of the batch, hexadecimal digits as in the log


class PublicKey(NamedTuple):
    """A key that may have signed."""

    name: str
    octets: bytes  # 32, as in RFC 8032

    @property
    def id(self) -> bytes:
        """The key ID: 4 octets that tell keys apart and prove nothing."""
        text = self.name.encode() + b"\n" + ED25519 + self.octets
        return hashlib.sha256(text).digest()[:4]

    def __str__(self) -> str:
        """As one line, the ``vkey`` form: name, key ID, type and key."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(ED25519 + self.octets).decode()}"


class Note(NamedTuple):
    """A note as it was read; nobody has checked its signatures yet."""

    where: str  # file and line, for messages
    text: str  # what is signed
    checkpoint: Checkpoint
    signatures: tuple[tuple[str, bytes], ...]  # of whom, key ID and signature


def public_key(key: Ed25519PrivateKey) -> PublicKey:
    """The public key of `key`, with its name."""
    octets = key.public_key().public_bytes_raw()
    return PublicKey(f"urlguard.invalid/log/{hashlib.sha256(octets).hexdigest()[:16]}", octets)


def signed(key: Ed25519PrivateKey, serial: int, digest: str) -> str:
    """
    A checkpoint as a note.

    Args:
        key: signs; its name becomes the origin.
        serial: of the last batch, 1 or more.
        digest: the batch's hash, hexadecimal digits.
    """
    public = public_key(key)
    text = f"{public.name}\n{serial}\n{base64.b64encode(bytes.fromhex(digest)).decode()}\n"
    signature = base64.b64encode(public.id + key.sign(text.encode())).decode()
    return f"{text}\n{_DASH}{public.name} {signature}\n"


def parse_keys(data: bytes, where: str) -> list[PublicKey]:
    """
    The public keys in a file, one on each line; empty lines count for nothing.

    Raises:
        InputError: a line is no Ed25519 key in ``vkey`` form, or there is none; `where` is named.
    """
    keys = []
    for number, line in enumerate(_text(data, where).split("\n"), 1):
        if line:
            keys.append(_key(line, f"{where}, line {number}"))
    if not keys:
        raise InputError(f"{where}: holds no public key")
    return keys


def _key(line: str, where: str) -> PublicKey:
    name, _, rest = line.partition("+")
    number, _, encoded = rest.partition("+")
    octets = _base64(encoded)
    if not _is_name(name) or octets is None or len(octets) != 33 or octets[:1] != ED25519:
        raise InputError(f"{where}: {line[:_SHOWN]!r}; must be NAME+ID+KEY, the key Ed25519")
    key = PublicKey(name, octets[1:])
    if number.lower() != key.id.hex():
        raise InputError(f"{where}: key ID {number[:_SHOWN]!r}; must be {key.id.hex()}")
    return key


def parse(data: bytes, where: str) -> list[Note]:
    """
    The notes in a file, one after the other; there may be empty lines between them.

    Raises:
        InputError: it is none, is cut off, or holds something else as well; the line is named.
    """
    lines = _text(data, where).split("\n")
    if lines.pop():
        raise InputError(f"{where}, line {len(lines) + 1}: is cut off; must end with a line end")
    notes, at = [], 0
    while at < len(lines):
        if not lines[at]:
            at += 1
            continue
        note, at = _note(lines, at, where)
        notes.append(note)
    if not notes:
        raise InputError(f"{where}: holds no checkpoint")
    return notes


def _note(lines: list[str], start: int, where: str) -> tuple[Note, int]:
    """The note that begins on line `start`, from 0, and the line after it."""
    here = f"{where}, line {start + 1}"
    at = start
    while at < len(lines) and lines[at]:
        at += 1
    body, first = lines[start:at], at + 1
    at = first
    while at < len(lines) and lines[at].startswith(_DASH):
        at += 1
    if not first < at <= first + MAX_SIGNATURES:
        raise InputError(
            f"{here}: {max(at - first, 0)} signatures; must be 1 to {MAX_SIGNATURES}, "
            "after an empty line"
        )
    checkpoint = _checkpoint(body, where, start)
    signatures = tuple(_signature(lines[i], f"{where}, line {i + 1}") for i in range(first, at))
    return Note(here, "\n".join(body) + "\n", checkpoint, signatures), at


def _checkpoint(body: list[str], where: str, start: int) -> Checkpoint:
    if len(body) < 3:
        raise InputError(
            f"{where}, line {start + 1}: {len(body)} lines; must be origin, size, hash"
        )
    origin, size, encoded = body[:3]
    digest = _base64(encoded)
    if not _is_name(origin):
        raise InputError(f"{where}, line {start + 1}: origin {origin[:_SHOWN]!r}; must be a name")
    if not _SIZE.fullmatch(size) or not int(size):
        raise InputError(
            f"{where}, line {start + 2}: size {size[:_SHOWN]!r}; must be a serial, 1 or more"
        )
    if digest is None or len(digest) != 32:
        raise InputError(
            f"{where}, line {start + 3}: hash {encoded[:_SHOWN]!r}; must be base64 of 32 octets"
        )
    return Checkpoint(origin, int(size), digest.hex())


def _signature(line: str, where: str) -> tuple[str, bytes]:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    octets = _base64(encoded)
    # Others' signatures may be of any length: they are passed over, not judged.
    if not _is_name(name) or octets is None or len(octets) <= 4:
        raise InputError(f"{where}: {line[:_SHOWN]!r}; must be a name and a signature in base64")
    return name, octets


def opened(note: Note, keys: Iterable[PublicKey]) -> Checkpoint:
    """
    The checkpoint in `note`, if one of `keys` signed it.

    Signatures of other keys say nothing, whether for it or against it.  A log's checkpoints are
    signed by the key that their origin names.

    Raises:
        InputError: none of them signed it, or a signature that says so is wrong.
    """
    known = {(key.name, key.id): key for key in keys}
    origin = note.checkpoint.origin
    genuine = False
    for name, octets in note.signatures:
        key = known.get((name, octets[:4]))
        if key is None or name != origin:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key.octets).verify(octets[4:], note.text.encode())
        except InvalidSignature:
            raise InputError(
                f"{note.where}: the signature is wrong; the checkpoint was changed, or forged"
            ) from None
        genuine = True
    if not genuine:
        raise InputError(
            f"{note.where}: {origin[:_SHOWN]!r} with key ID {', '.join(_ids(note)) or 'none'}; "
            f"must be signed by {' or '.join(f'{n} {i.hex()}' for n, i in known)}"
        )
    return note.checkpoint


def _ids(note: Note) -> Iterator[str]:
    return (octets[:4].hex() for name, octets in note.signatures[:4])


def _text(data: bytes, where: str) -> str:
    if len(data) > MAX_OCTETS:
        raise InputError(f"{where}: more than {MAX_OCTETS >> 20} MiB")
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise InputError(f"{where}, line {line}: is not UTF-8") from None
    if found := _CONTROL.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise InputError(f"{where}, line {line}: has the control character {found[0]!r}")
    return text


def _is_name(text: str) -> bool:
    """True for a key name: neither empty, nor with a space or a plus in it."""
    return bool(text) and "+" not in text and not any(c.isspace() for c in text)


def _base64(text: str) -> bytes | None:
    """What `text` encodes by RFC 4648 section 4; None if it is not the one text for that."""
    try:
        octets = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        return None
    return octets if base64.b64encode(octets).decode() == text else None
