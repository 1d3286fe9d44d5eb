"""
The rows of the policy log in SQLite; see `urlguard.policy.store.LogStore`, which says more.
"""

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final

from urlguard.errors import InputError
from urlguard.policy.drivers.sqlite.copies import Copies
from urlguard.policy.model import BatchRow, ClaimRow, EffectRow
from urlguard.rules import from_scheduled

_MANY: Final = 500  # values in one statement; older SQLites take 999
_CLAIM: Final = f"SELECT {', '.join(ClaimRow._fields)} FROM claim"  # noqa: S608
_ACTIVE: Final = f"{_CLAIM} WHERE source = ? AND rule = ? AND to_serial IS NULL"


class SqliteStore(Copies):
    """One connection; use it from one thread at a time."""

    # Batches

    def head(self) -> BatchRow | None:
        """The last batch."""
        row = self._one("SELECT * FROM batch ORDER BY serial DESC LIMIT 1")
        return BatchRow(*row) if row else None

    def count_batches(self) -> int:
        """How many batches there are; fewer than the last serial where a log was restored."""
        row = self._one("SELECT count(*) FROM batch")
        return int(row[0]) if row else 0

    def batches(self, after: int = 0, limit: int = -1) -> Iterator[BatchRow]:
        """Batches with a serial above `after`, oldest first."""
        sql = "SELECT * FROM batch WHERE serial > ? ORDER BY serial LIMIT ?"
        return map(BatchRow._make, self._each(sql, after, limit))

    def last_upto(self, serial: int) -> BatchRow | None:
        """The last batch that has this serial or a lower one."""
        sql = "SELECT * FROM batch WHERE serial <= ? ORDER BY serial DESC LIMIT 1"
        row = self._one(sql, serial)
        return BatchRow(*row) if row else None

    def add_batch(self, row: BatchRow) -> None:
        """Append a batch."""
        self._run("INSERT INTO batch VALUES (?,?,?,?,?,?,?,?,?)", *row)

    # Claims

    def sources(self) -> list[str]:
        """Every source that ever claimed anything."""
        return [name for (name,) in self._list("SELECT name FROM source")]

    def add_source(self, name: str) -> None:
        """Remember a source's name."""
        self._run("INSERT OR IGNORE INTO source VALUES (?)", name)

    def active(self, source: str, rule: str) -> ClaimRow | None:
        """The active claim of `source` about `rule`."""
        row = self._one(_ACTIVE, source, rule)
        return ClaimRow(*row) if row else None

    def active_of(self, source: str) -> Iterator[tuple[str, str, str, int]]:
        """All active claims of `source`, by rule: rule, action, category, from_serial."""
        return self._each(
            "SELECT rule, action, category, from_serial FROM claim"
            " WHERE source = ? AND to_serial IS NULL ORDER BY rule",
            source,
        )

    def active_after(self, source: str, rule: str, limit: int) -> list[ClaimRow]:
        """The first `limit` active claims of `source` whose rules come after `rule`, by rule."""
        rows = self._list(
            f"{_CLAIM} WHERE source = ? AND rule > ? AND to_serial IS NULL ORDER BY rule LIMIT ?",
            source,
            rule,
            limit,
        )
        return list(map(ClaimRow._make, rows))

    def categories(self, source: str, action: str) -> Iterator[tuple[str, str | None]]:
        """
        The active claims of `source`, in the form in which a refresh compares them.

        Returns:
            Each rule with its category where it claims `action`, "" where it claims an exception,
            and None where it claims anything else.
        """
        return self._each(
            "SELECT rule, CASE action WHEN ? THEN category WHEN 'except' THEN '' END"
            " FROM claim WHERE source = ? AND to_serial IS NULL",
            action,
            source,
        )

    def history(self, rule: str) -> list[ClaimRow]:
        """Every claim there ever was about `rule`, oldest first."""
        rows: list[tuple[Any, ...]] = []
        for source in self.sources():
            rows += self._list(
                f"{_CLAIM} WHERE source = ? AND rule = ?",
                source,
                rule,
            )
        return sorted(map(ClaimRow._make, rows), key=lambda r: r.from_serial)

    def claims_about(self, rules: Sequence[str]) -> Iterator[ClaimRow]:
        """Every claim there ever was about any of `rules`; one look-up for each source and rule."""
        for source in self.sources():
            for start in range(0, len(rules), _MANY):
                some = rules[start : start + _MANY]
                marks = ",".join("?" * len(some))
                sql = f"{_CLAIM} WHERE source = ? AND rule IN ({marks})"
                yield from map(ClaimRow._make, self._each(sql, source, *some))

    def rules_ever(self, start: str) -> list[str]:
        """
        The rules about which anything was ever claimed, of those whose keys begin with `start`.

        Args:
            start: a kind and a space.
        """
        end = start[:-1] + chr(ord(start[-1]) + 1)
        found: set[str] = set()
        for source in self.sources():
            rows = self._list(
                "SELECT DISTINCT rule FROM claim WHERE source = ? AND rule >= ? AND rule < ?",
                source,
                start,
                end,
            )
            found.update(rule for (rule,) in rows)
        return sorted(found)

    def exceptions(self) -> list[str]:
        """The rules about which an exception of a feed is active."""
        sql = "SELECT DISTINCT rule FROM claim WHERE action = 'except' AND to_serial IS NULL"
        return [rule for (rule,) in self._list(sql)]

    def expired(self, now: int, limit: int) -> list[tuple[str, str]]:
        """Source and rule of active claims whose time has come, at most `limit`."""
        return self._list(
            "SELECT source, rule FROM claim WHERE expires_at <= ? AND to_serial IS NULL"
            " AND expires_at IS NOT NULL LIMIT ?",
            now,
            limit,
        )

    def scheduled(self, upto: int | None = None, limit: int = -1) -> list[ClaimRow]:
        """
        Claims that are to begin later, in the order of their time.

        Args:
            upto: only those that begin at this time, in seconds since 1970, or before.
            limit: at most so many.
        """
        end = "scheduled!" if upto is None else f"scheduled {upto + 1:016}"
        rows = self._list(
            f"{_CLAIM} WHERE rule >= 'scheduled ' AND rule < 'scheduled!' AND to_serial IS NULL"
            " AND rule < ? ORDER BY rule, source LIMIT ?",
            end,
            limit,
        )
        return list(map(ClaimRow._make, rows))

    def scheduled_in(self, source: str, serial: int) -> list[ClaimRow]:
        """The claims for later that a batch of `source` made."""
        rows = self._list(
            f"{_CLAIM} WHERE source = ? AND rule >= 'scheduled ' AND rule < 'scheduled!'"
            " AND from_serial = ? ORDER BY rule",
            source,
            serial,
        )
        return list(map(ClaimRow._make, rows))

    def next_expiry(self) -> int | None:
        """When the next active claim expires or a scheduled one begins, in seconds since 1970."""
        row = self._one(
            "SELECT min(expires_at) FROM claim WHERE expires_at IS NOT NULL AND to_serial IS NULL"
        )
        times = [] if row is None or row[0] is None else [int(row[0])]
        for claim in self.scheduled(limit=1):
            # What is no time there was not written by us, and never comes.
            with contextlib.suppress(InputError):
                times.append(from_scheduled(claim.rule)[0])
        return min(times, default=None)

    def count(self, source: str) -> int:
        """How many active claims `source` has."""
        row = self._one("SELECT count(*) FROM claim WHERE source = ? AND to_serial IS NULL", source)
        return int(row[0]) if row else 0

    def add_claims(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Add claims, the fields of `ClaimRow`; fastest in the order of source and rule."""
        self._run_each("INSERT INTO claim VALUES (?,?,?,?,?,?,?,?)", rows)

    def end_claims(self, serial: int, claims: Iterable[tuple[str, str]]) -> None:
        """End the active claims with these sources and rules."""
        self._run_each(
            "UPDATE claim SET to_serial = ? WHERE source = ? AND rule = ? AND to_serial IS NULL",
            ((serial, source, rule) for source, rule in claims),
        )

    def starts_and_ends(self) -> Iterator[tuple[int, str, str, str, str, str, str, int | None]]:
        """
        What each batch's payload was made of, in the payload's order.

        Rows: serial, rule, source, ``+`` or ``-``, category, action, evidence, expires_at.
        """
        return self._each(
            "SELECT from_serial AS s, rule AS r, source AS o, '+' AS sign, category, action,"
            " evidence, expires_at FROM claim"
            " UNION ALL SELECT to_serial, rule, source, '-', '', '', '', NULL FROM claim"
            " WHERE to_serial IS NOT NULL ORDER BY s, r, o, sign"
        )

    # Effects

    def add_effects(self, rows: Iterable[EffectRow]) -> None:
        """Add effects; fastest in the order of keys."""
        self._run_each("INSERT INTO effect VALUES (?,?,?,?)", rows)

    def effects(self, after: int = 0, upto: int | None = None) -> Iterator[EffectRow]:
        """Effects of batches above `after` up to `upto`, by serial and key."""
        sql = "SELECT * FROM effect WHERE serial > ? AND serial <= ? ORDER BY serial, key"
        return map(EffectRow._make, self._each(sql, after, upto or (1 << 62)))

    def changes(self, after: int) -> Iterator[tuple[str, str | None, int]]:
        """Each key that batches above `after` changed: key, encoded ruling now, last serial."""
        # With one max() SQLite takes the other columns from the row that holds it.
        sql = "SELECT key, after, max(serial) FROM effect WHERE serial > ? GROUP BY key"
        return self._each(sql, after)

    def effects_of(self, serial: int, limit: int) -> tuple[int, list[EffectRow]]:
        """How many effects a batch had, and the first `limit` of them."""
        row = self._one("SELECT count(*) FROM effect WHERE serial = ?", serial)
        sql = "SELECT * FROM effect WHERE serial = ? ORDER BY key LIMIT ?"
        shown = [EffectRow(*r) for r in self._list(sql, serial, limit)]
        return (int(row[0]) if row else 0), shown

    def decided(self, after: int, limit: int) -> Iterator[tuple[str, str | None]]:
        """
        The keys that people's batches above `after` changed, with the encoded ruling now.

        Args:
            after: a serial.
            limit: of keys.
        """
        rows = self._each(
            "SELECT key, after, max(serial) FROM effect WHERE serial > ?1 AND key IN"
            " (SELECT key FROM batch JOIN effect USING (serial) WHERE batch.serial > ?1"
            " AND batch.source NOT GLOB 'feed:*') GROUP BY key LIMIT ?2",
            after,
            limit,
        )
        return ((key, after_) for key, after_, _ in rows)

    def count_effects(self, after: int, kind: str = "") -> int:
        """How many effects batches above `after` had, on rules of one kind or of all."""
        sql = "SELECT count(*) FROM effect WHERE serial > ? AND key GLOB ?"
        row = self._one(sql, after, f"{kind} *" if kind else "*")
        return int(row[0]) if row else 0

    def last_effect_serial(self, kinds: Collection[str] = ()) -> int:
        """
        The serial of the last batch that changed anything for the world; 0 if none did.

        With `kinds`, only rules of these kinds count.
        """
        which = " OR ".join("key GLOB ?" for _ in kinds) or "1"
        row = self._one(
            f"SELECT serial FROM effect WHERE {which} ORDER BY serial DESC LIMIT 1",  # noqa: S608
            *(f"{kind} *" for kind in kinds),
        )
        return int(row[0]) if row else 0

    # Feeds

    def feed_status(self) -> dict[str, str]:
        """The status of each feed that was ever refreshed, as JSON."""
        return dict(self._list("SELECT name, status FROM feed"))

    def set_feed_status(self, name: str, status: str) -> None:
        """Replace a feed's status."""
        self._run("INSERT OR REPLACE INTO feed VALUES (?, ?)", name, status)

    def quarantined(self, feed: str) -> list[tuple[str, str]]:
        """The quarantined rules of a feed, with the reason."""
        return self._list("SELECT rule, reason FROM quarantined WHERE feed = ?", feed)

    def set_quarantined(self, feed: str, rows: Iterable[tuple[str, str]]) -> None:
        """Replace the quarantined rules of a feed."""
        self._run("DELETE FROM quarantined WHERE feed = ?", feed)
        self._run_each(
            "INSERT INTO quarantined VALUES (?, ?, ?)",
            ((feed, rule, reason) for rule, reason in rows),
        )
