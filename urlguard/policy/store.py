"""
What a driver of the policy log does: the rows, transactions on them, and copies of the whole.

`LogStore` is an open log, `LogLocation` the place where one is or will be.  Both are written so
that a database server can implement them as well as a file: nothing here names a path of the log,
a lock or a statement.  ``tests/policy`` runs one suite over every driver.

A driver stores and finds rows; it does not weigh claims, make hashes or know what a rule means.
Two exceptions are kept here for speed, as ranges of keys: rules that begin later, and kinds.

Rules for all methods.

- They raise `PolicyError` and nothing else, also while an iterator that they returned is read.
  `UnusableLogError` is its case that no retry can cure.
- Serials count batches from 1; batch times are in milliseconds since 1970, other times in seconds,
  UTC.
- An iterator is read within the transaction in which it was asked for, before the next write.
- A store is used from one thread at a time, except `check_identity`.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from urlguard.errors import PolicyError
from urlguard.policy.model import BatchRow, ClaimRow, EffectRow

# How much is done, and how much there is, in units of the driver's own.
Progress = Callable[[int, int], None]


class UnusableLogError(PolicyError):
    """The log is damaged, is none, or has a schema that this version cannot read."""


class LogStore(Protocol):
    """An open policy log."""

    location: str  # for messages: a path, or an address without its password

    def close(self) -> None:
        """Let go of the log."""

    # Transactions

    def writing(self) -> AbstractContextManager[None]:
        """
        A write transaction: all of it or nothing, and durable once the block has ended.

        An inner one joins the outer one.  Other writers wait until it ends; readers do not.

        Raises:
            PolicyError: it cannot be written, or another writer held the log for too long; nothing
                of it is applied then.
        """

    def reading(self) -> AbstractContextManager[None]:
        """A read transaction: all that is read within it is of one serial.  Joins a write."""

    def lenient_text(self) -> AbstractContextManager[None]:
        """Read text that is no UTF-8 too, its octets as surrogates, while the block lasts."""

    # The log as a whole

    def change_token(self) -> Hashable:
        """A value that differs from the one before if anybody else committed in between."""

    def check_identity(self) -> None:
        """
        Make sure that this is still the log which one who opens the location now would get.

        Quick; may be called from any thread.

        Raises:
            PolicyError: somebody removed or replaced it: what is committed here would be lost.
        """

    def storage_problem(self) -> str | None:
        """The first damage that the database finds in its own files and indexes, if any."""

    # Batches

    def head(self) -> BatchRow | None:
        """The last batch."""

    def count_batches(self) -> int:
        """How many batches there are; fewer than the last serial where a log was restored."""

    def batches(self, after: int = 0, limit: int = -1) -> Iterator[BatchRow]:
        """Batches with a serial above `after`, oldest first, at most `limit` unless negative."""

    def last_upto(self, serial: int) -> BatchRow | None:
        """The last batch that has this serial or a lower one."""

    def add_batch(self, row: BatchRow) -> None:
        """Append a batch; within `writing`, as all methods that change rows."""

    # Claims

    def sources(self) -> list[str]:
        """Every source that ever claimed anything."""

    def add_source(self, name: str) -> None:
        """Remember a source's name; one that is known stays."""

    def active(self, source: str, rule: str) -> ClaimRow | None:
        """The active claim of `source` about `rule`."""

    def active_of(self, source: str) -> Iterator[tuple[str, str, str, int]]:
        """All active claims of `source`, by rule: rule, action, category, from_serial."""

    def active_after(self, source: str, rule: str, limit: int) -> list[ClaimRow]:
        """The first `limit` active claims of `source` whose rules come after `rule`, by rule."""

    def categories(self, source: str, action: str) -> Iterator[tuple[str, str | None]]:
        """
        The active claims of `source`, in the form in which a refresh compares them.

        Returns:
            Each rule with its category where the source claims `action`, "" where it claims an
            exception, and None where it claims anything else.
        """

    def history(self, rule: str) -> list[ClaimRow]:
        """Every claim there ever was about `rule`, oldest first."""

    def claims_about(self, rules: Sequence[str]) -> Iterator[ClaimRow]:
        """Every claim there ever was about any of `rules`, in no particular order."""

    def rules_ever(self, start: str) -> list[str]:
        """
        The rules about which anything was ever claimed, of those whose keys begin with `start`.

        Args:
            start: a kind and a space.
        """

    def exceptions(self) -> list[str]:
        """The rules about which an exception of a feed is active."""

    def expired(self, now: int, limit: int) -> list[tuple[str, str]]:
        """Source and rule of active claims whose time has come, at most `limit`."""

    def scheduled(self, upto: int | None = None, limit: int = -1) -> list[ClaimRow]:
        """
        Claims that are to begin later, in the order of their time.

        Args:
            upto: only those that begin at this time, in seconds since 1970, or before.
            limit: at most so many, unless negative.
        """

    def scheduled_in(self, source: str, serial: int) -> list[ClaimRow]:
        """The claims for later that a batch of `source` made."""

    def next_expiry(self) -> int | None:
        """When the next active claim expires or a scheduled one begins, in seconds since 1970."""

    def count(self, source: str) -> int:
        """How many active claims `source` has."""

    def add_claims(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Add claims, the fields of `ClaimRow`; fastest in the order of source and rule."""

    def end_claims(self, serial: int, claims: Iterable[tuple[str, str]]) -> None:
        """End the active claims with these sources and rules."""

    def starts_and_ends(self) -> Iterator[tuple[int, str, str, str, str, str, str, int | None]]:
        """
        The rows that each batch's payload was made of, in the payload's order.

        Rows: serial, rule, source, ``+`` or ``-``, category, action, evidence, expires_at.
        """

    # Effects

    def add_effects(self, rows: Iterable[EffectRow]) -> None:
        """Add effects; fastest in the order of keys."""

    def effects(self, after: int = 0, upto: int | None = None) -> Iterator[EffectRow]:
        """Effects of batches above `after` up to `upto`, by serial and key."""

    def changes(self, after: int) -> Iterator[tuple[str, str | None, int]]:
        """Each key that batches above `after` changed: key, encoded ruling now, last serial."""

    def effects_of(self, serial: int, limit: int) -> tuple[int, list[EffectRow]]:
        """How many effects a batch had, and the first `limit` of them by key."""

    def decided(self, after: int, limit: int) -> Iterator[tuple[str, str | None]]:
        """The keys that people's batches above `after` changed, with the encoded ruling now."""

    def count_effects(self, after: int, kind: str = "") -> int:
        """How many effects batches above `after` had, on rules of one kind or of all."""

    def last_effect_serial(self, kinds: Collection[str] = ()) -> int:
        """
        The serial of the last batch that had an effect; 0 if none had.

        With `kinds`, only effects on rules of these kinds count.
        """

    # Feeds: their state, which is no policy and is not hashed

    def feed_status(self) -> dict[str, str]:
        """The status of each feed that was ever refreshed, as JSON."""

    def set_feed_status(self, name: str, status: str) -> None:
        """Replace a feed's status."""

    def quarantined(self, feed: str) -> list[tuple[str, str]]:
        """The quarantined rules of a feed, with the reason."""

    def set_quarantined(self, feed: str, rows: Iterable[tuple[str, str]]) -> None:
        """Replace the quarantined rules of a feed."""

    # Copies

    def copy_to(self, target: Path, progress: Progress | None = None) -> None:
        """
        Write the log as it is at this moment into a file; others may go on writing.

        The file is a policy log of the SQLite driver, whatever this driver is, so that every
        backup can be opened, verified and restored anywhere.

        Args:
            target: an empty file; it is whole in itself afterwards, and synced.
            progress: called now and then.
        """

    def restoring(
        self, backup: Path, head: BatchRow | None, step: Callable[[str], None]
    ) -> AbstractContextManager[None]:
        """
        A write transaction that begins by putting a backup's rows in the place of all rows here.

        Args:
            backup: a file that `copy_to` wrote.
            head: the last batch of this log as the caller knows it.
            step: called with the name of each table.

        Raises:
            PolicyError: the log has another last batch by now, or as `writing`.
        """


class Rebuild(NamedTuple):
    """A new log that is about to take the place of an unusable one."""

    store: LogStore  # empty
    last_serial: int  # of the unusable log; 0 if it cannot be told
    kept: Path  # where the unusable log will be


class LogLocation(Protocol):
    """The place of a policy log, whether or not there is one."""

    url: str  # opens the same location in another process; may hold a password

    def exists(self) -> bool:
        """True if there is a log."""

    def identity(self) -> Hashable | None:
        """A value that differs if the log was replaced and must be opened anew; None: no log."""

    def open(self, *, read_only: bool = False) -> LogStore:
        """
        Open the log, and unless `read_only` make it if there is none.

        Raises:
            PolicyError: it cannot be opened, or with `read_only` there is none.
            UnusableLogError: it is damaged, is none, or has another version's schema.
        """

    def folders(self) -> list[Path]:
        """The folders in which processes that write the log write files."""

    def owns(self, path: Path) -> bool:
        """True if `path` is one of the log's own files, which a backup must not replace."""

    def replaced_path(self) -> Path:
        """A free name for the copy of a log that is about to be replaced; has the time in it."""

    def replaced(self) -> list[Path]:
        """The copies that were kept under such names."""

    def rebuilding(self) -> AbstractContextManager[Rebuild]:
        """
        Replace a log that is unusable: the new one takes its place if the block ends well.

        Raises:
            PolicyError: the new log cannot be written; the old one is where it was.
        """

    def __str__(self) -> str:
        """The location for messages: a path, or an address without its password."""
