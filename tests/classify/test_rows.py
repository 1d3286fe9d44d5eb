"""Labelled rows: owners, parts and folds."""

import gzip

import pytest

np = pytest.importorskip("numpy")
from urlguard.classify.training import rows  # noqa: E402 - what the import above may skip

SHARED = frozenset(("weebly.com",))


def labelled(*lines, kind="name"):
    """Rows from (text, label, source, first_seen)."""
    text, label, source, day = map(list, zip(*lines, strict=True))
    owners = [rows.owner(rows.host(one), SHARED) for one in text]
    return rows.Rows(
        kind,
        text,
        np.array(label, np.int8),
        ["-"] * len(text),
        source,
        day,
        owners,
        SHARED,
        {},
    )


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("a.b.example.co.uk", "example.co.uk"),
        ("x.a.weebly.com", "a.weebly.com"),
        ("weebly.com", "weebly.com"),
        ("a.pages.dev", "a.pages.dev"),
        ("com", "com"),
    ],
)
def test_owners(name, owner):
    assert rows.owner(name, SHARED) == owner


def many(count=400):
    found = []
    for n in range(count):
        month = f"2025-{n % 12 + 1:02}-03"
        found.append((f"bad{n}.example", 1, "openphish", month))
        found.append((f"m.bad{n}.example", 1, "openphish", "2025-12-30"))
        found.append((f"good{n}.example", 0, "smallweb", "2026-01-01"))
        found.append((f"limited{n}.example", 0, "cloudflare-radar", "2026-01-01"))
        found.append((f"a.good{n}.example", 0, "cloudflare-radar", "2026-01-01"))
        found.append((f"hidden{n}.example", 1, "gsb-inversion", month))
    return labelled(*found)


def test_parts_share_no_owner_and_fraud_of_the_test_is_newer():
    found = many()
    parts = rows.split(found)
    owners = [{found.owner[n] for n in part} for part in parts]
    assert all(owners)
    assert not owners[0] & (owners[1] | owners[2])
    assert not owners[1] & owners[2]
    first = {n: found.first_seen[n - n % 6] for n in range(len(found))}
    for part, since, until in (
        (parts.train, "", rows.CALIBRATE_FROM),
        (parts.calibrate, rows.CALIBRATE_FROM, rows.TEST_FROM),
        (parts.test, rows.TEST_FROM, "9"),
    ):
        days = {first[n] for n in part if found.label[n]}
        assert days
        assert all(since <= day < until for day in days)


def test_noncommercial_rows_never_train_and_are_measured_on():
    found = many()
    parts = rows.split(found)
    limited = set(np.flatnonzero(found.noncommercial).tolist())
    assert not limited & set(parts.train.tolist())
    assert limited & set(parts.calibrate.tolist())
    assert {found.label[n] for n in limited & set(parts.test.tolist())} == {0, 1}
    beside = rows.split(found, limited=True)
    assert limited & set(beside.train.tolist())


def test_a_month_of_fraud_is_in_one_fold():
    found = many()
    chosen = np.arange(len(found))
    fold = rows.folds(found, chosen)
    assert set(fold.tolist()) == set(range(rows.FOLDS))
    by_month, by_owner = {}, {}
    for n in chosen:
        by_owner.setdefault(found.owner[n], set()).add(fold[n])
        if found.label[n]:
            by_month.setdefault(found.first_seen[n - n % 6], set()).add(fold[n])
    assert all(len(kept) == 1 for kept in by_month.values())
    assert all(len(kept) == 1 for kept in by_owner.values())


def test_bad_files_are_told_with_their_place(tmp_path):
    with pytest.raises(rows.DataError, match=r"train_domains\.csv\.gz: No such file"):
        rows.load(tmp_path, "name")
    path = tmp_path / "train_domains.csv.gz"
    path.write_bytes(gzip.compress(b"name,label\n"))
    with pytest.raises(rows.DataError, match="no column 'domain'"):
        rows.load(tmp_path, "name")
    head = b"domain,label,category,source,first_seen\n"
    path.write_bytes(gzip.compress(head + b"a.example,2,x,y,2025-01-01\n"))
    with pytest.raises(rows.DataError, match="line 2: label '2'; must be 0 or 1"):
        rows.load(tmp_path, "name")
