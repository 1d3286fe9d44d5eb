"""
Signed checkpoints of the policy log, and what they say about a log that lies here now.

Who can write the log's file can also write a whole new chain, in which every hash fits.  A
checkpoint that was signed and carried away before does not fit it any more.

How it works.  `sign` signs the head of the chain, in the format of `note`, and keeps that as a
small file under ``checkpoints`` in `state_dir`.  It signs nothing that does not follow from what it
signed last: it finds that batch again and follows the chain from there to the head.  Only a restore
may leave signed batches behind, since it says so in a batch of its own.  `audit` verifies the whole
chain, then looks each checkpoint's batch up.

The private key is ``log.key`` in `state_dir`, mode 0600, made when it is first needed and never
written over; ``log.pub`` beside it is what auditors need.  A key that is gone while its public
half is there is not made anew in silence: somebody has to say that a new one begins.

A file counts once it has its name, and gets it once it is synced, so a kill or a power cut leaves
a whole checkpoint or none.  The last hundred are kept, and one for each day before.

Knows the log, its chain and files; knows nothing of servers and of when to sign.
"""

import contextlib
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from urlguard.errors import InputError, PolicyError
from urlguard.policy import chain, note
from urlguard.policy.chain import RESTORE, Damage, InconsistentError
from urlguard.policy.log import PolicyLog
from urlguard.policy.model import BatchRow
from urlguard.policy.note import Checkpoint, PublicKey

FOLDER: Final = "checkpoints"
KEY: Final = "log.key"
PUBLIC: Final = "log.pub"
RECENT: Final = 100  # checkpoints that are all kept; of those before, the last of each day
DAYS: Final = 900  # so many of them: with the recent ones, a thousand files

_NAME = re.compile(r"(\d{10,19})-(\d{8})T\d{6}Z\.txt")
_UNFINISHED_S = 60.0  # a file without its name that is older was left behind by a kill


class Signed(NamedTuple):
    """What `sign` did."""

    checkpoint: Checkpoint
    note: str
    path: Path
    public: PublicKey
    made_key: bool  # the key is new: its public half must get to the auditors


class Audit(NamedTuple):
    """What checkpoints say about a log."""

    damage: Damage | None  # what `verify` found in the chain itself
    fits: int  # the serial of the last checkpoint that fits before anything else; 0: none does
    differs: int | None  # the serial of the first that does not
    what: str  # why it does not
    # Checkpoints whose batches a restore left behind: their serials, and that of the restore.
    left_out: tuple[tuple[int, int], ...]

    @property
    def ok(self) -> bool:
        """True if nothing speaks against the log."""
        return self.damage is None and self.differs is None


# -- keys ------------------------------------------------------------------------------------------


def private_key(state_dir: Path) -> tuple[Ed25519PrivateKey, bool]:
    """
    The log's key, made if there is none, with its public half beside it; and whether it is new.

    Raises:
        PolicyError: others than its owner may read it, it is no Ed25519 key, only one half of the
            pair is there or they are not of one pair, or nothing can be written.
    """
    path, public = state_dir / KEY, state_dir / PUBLIC
    try:
        # In this order: another process makes the key before its public half.
        known = public.exists()
        made = not path.exists()
        if made:
            if known:
                raise PolicyError(
                    f"key {path}: not there, but {PUBLIC} is; put it back, or move {PUBLIC} away "
                    "to begin with a new key"
                )
            state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
            pem = Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            made = _place(path, pem, 0o600, replace=False)
        key = _read_key(path)
        vkey = str(note.public_key(key))
        if not public.exists():
            _place(public, f"{vkey}\n".encode(), 0o644, replace=False)
        if vkey not in map(str, note.parse_keys(public.read_bytes(), f"public key {public}")):
            raise PolicyError(f"public key {public}: is not of {path}; must hold {vkey}")
    except OSError as exc:
        raise PolicyError(f"key {path}: {exc.strerror or exc}") from exc
    except InputError as exc:
        raise PolicyError(str(exc)) from exc
    return key, made


def _read_key(path: Path) -> Ed25519PrivateKey:
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise PolicyError(f"key {path}: is no file")
        if found.st_mode & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            raise PolicyError(f"key {path}: mode {mode:04o}; must be 0600, for its owner alone")
        data = file.read(1 << 16)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise PolicyError(f"key {path}: must be an Ed25519 key in PEM, PKCS #8, not encrypted")
    return key


def public_keys(path: Path) -> list[PublicKey]:
    """The keys in the file at `path`; raises InputError if it cannot be read or holds others."""
    try:
        return note.parse_keys(path.read_bytes(), f"public key {path}")
    except OSError as exc:
        raise InputError(f"public key {path}: {exc.strerror or exc}") from exc


# -- signing ---------------------------------------------------------------------------------------


def kept(state_dir: Path) -> list[Path]:
    """The checkpoints in `state_dir`, the newest first."""
    try:
        found = [p for p in (state_dir / FOLDER).iterdir() if _NAME.fullmatch(p.name)]
    except OSError:
        return []
    return sorted(found, key=lambda path: (serial_of(path), path.name), reverse=True)


def serial_of(path: Path) -> int:
    """The serial that a kept checkpoint is of, by its name."""
    return int(path.name.partition("-")[0])


def sign(log: PolicyLog, state_dir: Path, now: float | None = None) -> Signed | None:
    """
    Sign the log's head and keep the checkpoint; one that is there already stays.

    Args:
        log: only read.
        state_dir: holds the key and the checkpoints.
        now: seconds since 1970.

    Returns:
        The checkpoint, or None if the log has no batch yet.

    Raises:
        InconsistentError: the log does not follow from the last checkpoint here.
        PolicyError: the log cannot be read, the key is not usable, or nothing can be written.
    """
    folder = state_dir / FOLDER
    try:
        with log.store.reading():
            head = log.store.head()
            if head is None:
                return None
            key, made = private_key(state_dir)
            public = note.public_key(key)
            last = _last(state_dir, public)
            if last is not None:
                _follow(log, *last)
        if not re.fullmatch(r"[0-9a-f]{64}", head.hash):
            where = f"policy log {log.store.location}: batch {head.serial}"
            raise InconsistentError(f"{where} has no hash")
        text = note.signed(key, head.serial, head.hash)
        checkpoint = Checkpoint(public.name, head.serial, head.hash)
        if last is not None and last[0] == checkpoint:
            return Signed(checkpoint, text, last[1], public, made)
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        path = folder / f"{head.serial:010}-{stamp}.txt"
        _place(path, text.encode(), 0o644, replace=True)
        _tidy(state_dir)
    except OSError as exc:
        raise PolicyError(f"checkpoints {folder}: {exc.strerror or exc}") from exc
    return Signed(checkpoint, text, path, public, made)


def _last(state_dir: Path, public: PublicKey) -> tuple[Checkpoint, Path] | None:
    """The newest kept checkpoint that `public` signed, and where it is."""
    for path in kept(state_dir):
        with contextlib.suppress(OSError, InputError):  # damaged, or of the key before
            (found,) = note.parse(path.read_bytes(), str(path))[:1]
            return note.opened(found, [public]), path
    return None


def _follow(log: PolicyLog, last: Checkpoint, path: Path) -> None:
    """Raise InconsistentError unless the log's head follows from `last`, which lies at `path`."""
    before: BatchRow | None = None
    for row in log.store.batches(last.serial - 1):
        if before is None:
            # Behind a restore nothing is left of the batch; the restore itself is on record.
            left_out = row.serial > last.serial and row.source == RESTORE
            good = (row.serial, row.hash) == (last.serial, last.hash) or left_out
        else:
            good = row.prev_hash == before.hash
        if not good or not chain.seal_holds(row):
            where = f"batch {row.serial}"
            break
        before = row
    else:
        if before is not None:
            return
        where = "its end, which is too early,"
    raise InconsistentError(
        f"policy log {log.store.location}: {where} does not follow from the checkpoint {path}, "
        f"which was signed at serial {last.serial}; `urlguard log --verify --checkpoint` tells more"
    )


def _tidy(state_dir: Path) -> None:
    """Delete checkpoints that are not needed, and files that a kill left without a name."""
    older = kept(state_dir)[RECENT:]
    days: dict[str, Path] = {}
    for path in older:
        if match := _NAME.fullmatch(path.name):
            days.setdefault(match[2], path)
    needed = list(days.values())[:DAYS]
    for path in {*older}.difference(needed):
        path.unlink(missing_ok=True)
    for path in [*(state_dir / FOLDER).glob(".*.part"), *state_dir.glob(".log.*.part")]:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _UNFINISHED_S:
                path.unlink()


def _place(path: Path, data: bytes, mode: int, *, replace: bool) -> bool:
    """
    Put a file there, whole and synced.

    Returns:
        False if one was there already and `replace` is false: that one stays.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with open(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fchmod(handle, mode)
            os.fsync(handle)
        if replace:
            part.replace(path)
        else:
            try:
                path.hardlink_to(part)  # unlike a rename, never over a file that came meanwhile
            except FileExistsError:
                return False
            except OSError:  # no such links on this file system
                if path.exists():
                    return False
                part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


# -- auditing --------------------------------------------------------------------------------------


def read(paths: Iterable[Path], keys: list[PublicKey]) -> list[Checkpoint]:
    """
    The checkpoints in files, or in folders of files, each signed by one of `keys`.

    Raises:
        InputError: a file cannot be read, is none of checkpoints, or holds one that none of `keys`
            signed; file and line are named.
    """
    found = []
    for given in paths:
        try:
            files = sorted(given.glob("*.txt")) if given.is_dir() else [given]
            if not files:
                raise InputError(f"checkpoints {given}: has no file *.txt")
            for path in files:
                with path.open("rb") as file:
                    data = file.read(note.MAX_OCTETS + 1)
                notes = note.parse(data, f"checkpoint {path}")
                found += [note.opened(one, keys) for one in notes]
        except OSError as exc:
            raise InputError(f"checkpoint {given}: {exc.strerror or exc}") from exc
    return found


def audit(
    log: PolicyLog,
    checkpoints: Iterable[Checkpoint],
    progress: Callable[[int], None] | None = None,
) -> Audit:
    """
    Verify the log's chain, and whether it is the one that was signed.

    A checkpoint whose batch a restore left behind is excused only if a later one fits: then whoever
    holds the key has seen the restored log.  Otherwise a forged restore would excuse everything.
    What lies behind the first damage of the chain is not judged.
    """
    with log.store.reading():
        damage = log.verify(progress)
        try:
            return _audit(log, sorted(checkpoints, key=lambda c: (c.serial, c.hash)), damage)
        except PolicyError as exc:
            return Audit(damage or Damage(1, f"it cannot be read: {exc}"), 0, None, "", ())


def _audit(log: PolicyLog, checkpoints: list[Checkpoint], damage: Damage | None) -> Audit:
    end = log.serial
    fitting: list[int] = []
    wrong: list[tuple[int, str]] = []
    left_out: dict[int, BatchRow] = {}  # by serial, with the restore
    for one in checkpoints:
        if damage is not None and one.serial >= damage.serial:
            continue
        batch = next(log.store.batches(one.serial - 1, 1), None)
        if batch is None:
            gone = f"batch {end + 1} is missing: the log ends at serial {end}, and a checkpoint was"
            wrong.append((one.serial, f"{gone} signed at serial {one.serial}"))
        elif batch.serial > one.serial:  # the chain holds, so that is a restore
            left_out[one.serial] = batch
        elif batch.hash == one.hash:
            fitting.append(one.serial)
        else:
            wrong.append((one.serial, ""))
    newest = max(fitting, default=0)
    for serial, batch in left_out.items():
        if newest < batch.serial:
            what = (
                f"batch {batch.serial}, a restore, leaves out what a checkpoint was signed for at "
                f"serial {serial}, and no later checkpoint speaks for it"
            )
            wrong.append((serial, what))
    excused = tuple((s, b.serial) for s, b in left_out.items() if newest >= b.serial)
    if not wrong:
        return Audit(damage, newest, None, "", excused)
    differs, what = min(wrong)
    fits = max((s for s in fitting if s < differs), default=0)
    if not what and differs in fitting:
        what = f"two checkpoints at serial {differs} differ: their key signed two histories"
    return Audit(damage, fits, differs, what or _between(fits, differs), excused)


def _between(fits: int, differs: int) -> str:
    if not fits:
        return (
            f"the first bad batch is at or before the first checkpoint, serial {differs}, which "
            "does not fit: the log was rewritten, or is another one"
        )
    if differs == fits + 1:
        return f"batch {differs} is the first bad one: the checkpoint before it fits, its own not"
    return (
        f"the first bad batch is between the last checkpoint that fits, serial {fits}, and the "
        f"first that does not, serial {differs}"
    )
