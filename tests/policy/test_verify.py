"""`verify` finds whatever was changed in the log's file behind its back."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.logs import open_file
from urlguard.errors import PolicyError
from urlguard.policy.model import BatchRow, Change, ClaimRow, EffectRow

X = "subtree x.example"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A log with a bit of everything: six batches, ended claims, exceptions, evidence, expiry."""
    path = tmp_path_factory.mktemp("verify") / "policy.db"
    log = open_file(path)
    batches = [
        ("feed:a", [Change(X, "block", "fraud"), Change("domain b.example", "block", "scam")]),
        ("operator", [Change(X, "allow", "", "ticket 1", 1)]),
        ("feed:b", [Change("domain b.example", "except"), Change("url x.example/p", "review")]),
        ("feed:a", [Change(X, "block", "phishing"), Change("domain b.example", None)]),
        ("operator", [Change(X, None), Change("domain c.example", "block", "", "call", 1 << 40)]),
        ("feed:a", [Change("domain b.example", "block", "scam")]),
    ]
    for source, changes in batches:
        log.commit(source, changes, actor="somebody", reason="a reason")
    assert log.verify() is None
    assert log.serial == 6
    log.close()
    return path


class Copy:
    """A copy of that log, to be damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self, table: str) -> list[tuple]:
        with contextlib.closing(sqlite3.connect(self.path)) as db:
            return db.execute(f"SELECT * FROM {table}").fetchall()

    def run(self, *statements: tuple[str, tuple]) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as db, db:
            for sql, arguments in statements:
                assert db.execute(sql, arguments).rowcount == 1, sql

    def verify(self):
        log = open_file(self.path, read_only=True)
        with contextlib.closing(log):
            return log.verify()


@pytest.fixture
def copy(written, tmp_path):
    return Copy(shutil.copy(written, tmp_path / "policy.db"))


TABLES = {"batch": BatchRow, "claim": ClaimRow, "effect": EffectRow}
KEYS = {
    "batch": ("serial",),
    "claim": ("source", "rule", "from_serial"),
    "effect": ("serial", "key"),
}
COLUMNS = [(table, column) for table, row in TABLES.items() for column in row._fields]


def where(table, row):
    """The condition that picks one row, and its arguments."""
    keys = KEYS[table]
    return " AND ".join(f"{k} = ?" for k in keys), tuple(getattr(row, k) for k in keys)


def others(column, value):
    """What an edit could make of a value: another byte at either end, nothing, another type."""
    if isinstance(value, int):
        return [value + 1, value + 1000] + ([None, ""] if column in NULLABLE else [])
    if value is None:
        return [2, ""] if column in ("to_serial", "expires_at") else ["", "null", "-"]
    edits = [value[:-1], value + " ", chr(ord(value[0]) ^ 1) + value[1:] if value else "x"]
    return [e for e in edits if e != value] + ([None, ""] if column in NULLABLE else [])


NULLABLE = ("to_serial", "expires_at", "before", "after")


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_an_edited_value_is_found(written, tmp_path, table, column):
    """
    Every value of every row of every table, edited in one place, is found, and the first batch
    that is not what it was is named.
    """
    for row in map(TABLES[table]._make, Copy(written).rows(table)):
        condition, arguments = where(table, row)
        for value in others(column, getattr(row, column)):
            copy = Copy(shutil.copy(written, tmp_path / "policy.db"))
            sql = f"UPDATE {table} SET {column} = ? WHERE {condition}"
            try:
                copy.run((sql, (value, *arguments)))
            except sqlite3.IntegrityError:
                continue  # the schema itself refuses it
            damage = copy.verify()
            assert damage is not None, (row, column, value)
            assert damage.serial == first_wrong(row, column, value), (row, column, value)


def first_wrong(row, column, value):
    """The first batch whose claims or effects are not what they were."""
    if column == "to_serial":  # a text is sorted behind the last batch
        return min(s for s in (row.to_serial, value, 7) if isinstance(s, int))
    return row.from_serial if isinstance(row, ClaimRow) else row.serial


@pytest.mark.parametrize("table", TABLES)
def test_a_deleted_row_is_found(written, tmp_path, table):
    """
    Every row is missed, save the last batch's with all that belongs to it.
    """
    for row in map(TABLES[table]._make, Copy(written).rows(table)):
        copy = Copy(shutil.copy(written, tmp_path / "policy.db"))
        condition, arguments = where(table, row)
        copy.run((f"DELETE FROM {table} WHERE {condition}", arguments))
        first = row.from_serial if table == "claim" else row.serial
        assert copy.verify().serial == first, row


@pytest.mark.parametrize(
    ("sql", "first"),
    [
        ("INSERT INTO claim VALUES ('domain z.example', 'feed:a', '', 'block', '', 3, NULL, 0)", 3),
        ("INSERT INTO claim VALUES ('domain z.example', 'feed:a', '', 'block', '', 9, NULL, 0)", 9),
        ("INSERT INTO claim VALUES ('domain z.example', 'feed:a', '', 'block', '', 0, 4, 0)", 0),
        ("INSERT INTO effect VALUES (2, 'domain z.example', NULL, '[\"block\",\"\",[],2]')", 2),
        ("INSERT INTO effect VALUES (9, 'domain z.example', NULL, NULL)", 9),
        ("INSERT INTO batch SELECT 7, time, actor, source, reason, payload_sha256, effect_sha256,"
         " prev_hash, hash FROM batch WHERE serial = 6", 7),
        ("INSERT INTO batch SELECT 8, time, actor, source, reason, payload_sha256, effect_sha256,"
         " hash, hash FROM batch WHERE serial = 6", 7),
    ],
)  # fmt: skip
def test_an_inserted_row_is_found(copy, sql, first):
    """
    A row that no commit wrote belongs to no batch, or does not fit the one it claims.
    """
    copy.run((sql, ()))
    assert copy.verify().serial == first


def test_a_batch_cut_out_and_linked_over_is_found(copy):
    """
    A batch taken out with its claims and effects, and the next one linked to the one before.
    """
    hashes = {row[0]: row[8] for row in copy.rows("batch")}
    with contextlib.closing(sqlite3.connect(copy.path)) as db, db:
        db.execute("DELETE FROM batch WHERE serial = 3")
        db.execute("DELETE FROM claim WHERE from_serial = 3")
        db.execute("DELETE FROM effect WHERE serial = 3")
        db.execute("UPDATE batch SET prev_hash = ? WHERE serial = 4", (hashes[2],))
    assert copy.verify().serial == 3


@pytest.mark.parametrize("first", [1, 2, 5])
def test_two_batches_swapped_are_found(copy, first):
    """
    The order of batches is part of the chain.
    """
    with contextlib.closing(sqlite3.connect(copy.path)) as db, db:
        a, b = first, first + 1
        for table, column in (("batch", "serial"), ("claim", "from_serial"), ("effect", "serial")):
            for old, new in ((a, 99), (b, a), (99, b)):
                db.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (new, old))
    assert copy.verify().serial == first


def test_a_claim_hidden_in_another_ones_text_is_found(copy):
    """
    Two rows made one, whose evidence holds the other's line, give the same payload text; but no
    commit writes a line end.
    """
    rows = [ClaimRow._make(r) for r in copy.rows("claim")]
    one, two = sorted((r for r in rows if r.from_serial == 3), key=lambda r: r.rule)
    hidden = f"{one.evidence}\t\n+\t{two.rule}\t{two.source}\t{two.category}\t{two.action}\t"
    condition, arguments = where("claim", two)
    copy.run((f"DELETE FROM claim WHERE {condition}", arguments))
    condition, arguments = where("claim", one)
    copy.run((f"UPDATE claim SET evidence = ? WHERE {condition}", (hidden, *arguments)))
    assert copy.verify().serial == 3


def test_a_source_taken_off_the_list_is_found(copy):
    """
    Claims of a source that is not listed would be overlooked, so that is damage as well.
    """
    copy.run(("DELETE FROM source WHERE name = 'feed:b'", ()))
    assert copy.verify().serial == 3


def test_the_last_hash_speaks_for_the_whole_log(written, copy):
    """
    Whoever rewrites a batch and every hash after it ends with another last hash.
    """
    log = open_file(written, read_only=True)
    with contextlib.closing(log):
        wanted = log.store.head().hash
    again = open_file(copy.path.with_name("again.db"))
    with contextlib.closing(again):
        change = Change(X, "allow")
        again.commit("operator", [change], actor="somebody", reason="a reason")
        assert again.verify() is None
        assert again.store.head().hash != wanted


@pytest.mark.parametrize("page", range(1, 9))
def test_garbage_in_the_file_is_damage_not_a_crash(copy, page):
    """
    A page overwritten with rubbish is found if it is read at all, and never a crash.
    """
    data = bytearray(copy.path.read_bytes())
    assert len(data) > 8 * 4096
    data[page * 4096 : page * 4096 + 4096] = b"\xa5" * 4096
    copy.path.write_bytes(data)
    with contextlib.suppress(PolicyError):
        copy.verify()  # a page of an index may not be read


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"no database at all, not even near" * 100, "not a database"), (b"", "schema 0")],
)
def test_what_is_no_log_is_refused(tmp_path, content, said):
    """
    A file that is no policy log cannot be opened for reading.
    """
    path = tmp_path / "policy.db"
    path.write_bytes(content)
    with pytest.raises(PolicyError, match=said):
        open_file(path, read_only=True)


def test_a_newer_schema_is_refused(copy):
    """
    A log that a newer version wrote is left alone.
    """
    with contextlib.closing(sqlite3.connect(copy.path)) as db:
        db.execute("PRAGMA user_version = 99")
    for read_only in (True, False):
        with pytest.raises(PolicyError, match="schema 99; this version reads 2"):
            open_file(copy.path, read_only=read_only)


def test_text_that_is_no_utf_8_is_found(copy):
    """
    A byte that makes a text unreadable is one edit like any other: its batch is named.
    """
    copy.run(("UPDATE claim SET evidence = CAST(x'ff' AS TEXT) WHERE evidence = 'ticket 1'", ()))
    assert copy.verify().serial == 2


def test_a_damaged_index_is_found(written, tmp_path):
    """
    An index that leads to other rows than the table has would keep an expired block for ever.
    """
    path = tmp_path / "policy.db"
    shutil.copy(written, path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        page_size = db.execute("PRAGMA page_size").fetchone()[0]
        (page,) = db.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'claim_expiring'"
        ).fetchone()
    data = bytearray(path.read_bytes())
    start = (page - 1) * page_size
    at = data.index(b"domain c.example", start, start + page_size)
    data[at + 7] ^= 1
    path.write_bytes(data)
    log = open_file(path, read_only=True)
    with contextlib.closing(log):
        damage = log.verify()
    assert damage is not None
    assert "the file itself is damaged" in damage.what
