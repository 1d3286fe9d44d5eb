"""Labelled rows: owners, parts and folds."""

import gzip

import pytest

np = pytest.importorskip("numpy")
from urlguard.classify.training import dataset  # noqa: E402 - what the import above may skip

SHARED = frozenset(("weebly.com",))


def labelled(*lines, kind="name"):
    """Rows from (text, label, source, first_seen)."""
    text, label, source, day = map(list, zip(*lines, strict=True))
    owners = [dataset.owner(dataset.host(one), SHARED) for one in text]
    return dataset.Rows(
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
    assert dataset.owner(name, SHARED) == owner


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
    parts = dataset.split(found)
    owners = [{found.owner[n] for n in part} for part in parts[:3]]
    assert all(owners)
    assert not owners[0] & (owners[1] | owners[2])
    assert not owners[1] & owners[2]
    first = {n: found.first_seen[n - n % 6] for n in range(len(found))}
    for part, since, until in (
        (parts.train, "", dataset.CALIBRATE_FROM),
        (parts.calibrate, dataset.CALIBRATE_FROM, dataset.TEST_FROM),
        (parts.test, dataset.TEST_FROM, "9"),
    ):
        days = {first[n] for n in part if found.label[n]}
        assert days
        assert all(since <= day < until for day in days)


def test_noncommercial_rows_never_train_and_are_measured_on():
    found = many()
    parts = dataset.split(found)
    limited = set(np.flatnonzero(found.noncommercial).tolist())
    assert not limited & set(parts.train.tolist())
    assert limited & set(parts.calibrate.tolist())
    assert {found.label[n] for n in limited & set(parts.test.tolist())} == {0, 1}
    beside = dataset.split(found, limited=True)
    assert limited & set(beside.train.tolist())


def test_fraud_of_a_day_of_import_tests_nothing_that_must_be_newer():
    """
    The day bounds from above: before the training ends it proves enough, later nothing.
    """
    old, late = sorted(dataset.IMPORT_DAYS)[0], sorted(dataset.IMPORT_DAYS)[-1]
    assert old < dataset.CALIBRATE_FROM < dataset.TEST_FROM < late
    found = labelled(
        ("old.example", 1, "vn-badsite", old),
        ("late.example", 1, "phishing.database-new", late),
        ("bulk.example", 1, "maltrail", "2025-12-31"),
        # Seen by another list before, on a day that is one.
        ("m.late2.example", 1, "openphish", "2025-10-01"),
        ("late2.example", 1, "phishing.database-new", late),
        ("m.early.example", 1, "openphish", "2025-02-01"),
        ("early.example", 1, "phishing.database-new", late),
        ("new.example", 1, "openphish", "2025-10-01"),
    )
    parts = {
        name: [found.text[n] for n in part] for name, part in dataset.split(found)._asdict().items()
    }
    assert parts == {
        "train": ["old.example", "m.early.example", "early.example"],
        "calibrate": [],
        "test": ["new.example"],
        "undated": ["late.example", "bulk.example", "m.late2.example", "late2.example"],
    }


def test_families_are_held_out_whole():
    """
    Half of them from the trial, and each from one fold, whatever the day of the collection.
    """
    found = labelled(
        *((f"x{n}.example", 1, f"dga-f{n % 40}", "2025-09-28") for n in range(400)),
        *((f"y{n}.example", 1, "openphish", f"2024-{n % 12 + 1:02}-01") for n in range(400)),
    )
    parts = dataset.split(found)
    trains, held = (
        {found.source[n] for n in part if found.source[n].startswith("dga")}
        for part in (parts.train, parts.undated)
    )
    assert len(trains | held) == 40
    assert not trains & held
    assert 12 < len(held) < 28
    fold = dataset.folds(found, np.arange(len(found)))
    of = {}
    for source, number in zip(found.source, fold.tolist(), strict=True):
        if source.startswith("dga"):
            of.setdefault(source, set()).add(number)
    assert all(len(kept) == 1 for kept in of.values())
    assert len(set.union(*of.values())) == dataset.FOLDS


def test_an_owner_with_both_labels_is_in_one_part():
    found = labelled(
        ("a.mixed.example", 1, "openphish", "2025-10-01"),
        ("b.mixed.example", 0, "smallweb", "2026-01-01"),
        ("c.mixed.example", 0, "cloudflare-radar", "2026-01-01"),
    )
    assert [part.tolist() for part in dataset.split(found)] == [[], [], [0], []]
    assert len(set(dataset.folds(found, np.arange(3)).tolist())) == 1


def test_shared_hosting_is_told_by_fraud_of_several_customers():
    fraud = [f"{who}.{domain}" for domain in ("host.example", "a.co.uk") for who in "xyz"]
    fraud += ["x.few.example", "y.few.example", "a.pages.dev", "b.pages.dev", "c.pages.dev"]
    assert dataset.shared_hosting(fraud) == {"host.example", "a.co.uk"}


def test_a_month_of_fraud_is_in_one_fold():
    found = many()
    chosen = np.arange(len(found))
    fold = dataset.folds(found, chosen)
    assert set(fold.tolist()) == set(range(dataset.FOLDS))
    by_month, by_owner = {}, {}
    for n in chosen:
        by_owner.setdefault(found.owner[n], set()).add(fold[n])
        if found.label[n]:
            by_month.setdefault(found.first_seen[n - n % 6], set()).add(fold[n])
    assert all(len(kept) == 1 for kept in by_month.values())
    assert all(len(kept) == 1 for kept in by_owner.values())


def test_bad_files_are_told_with_their_place(tmp_path):
    with pytest.raises(dataset.DataError, match=r"train_domains\.csv\.gz: No such file"):
        dataset.load(tmp_path, "name")
    path = tmp_path / "train_domains.csv.gz"
    path.write_bytes(gzip.compress(b"name,label\n"))
    with pytest.raises(dataset.DataError, match="no column 'domain'"):
        dataset.load(tmp_path, "name")
    head = b"domain,label,category,source,first_seen\n"
    path.write_bytes(gzip.compress(head + b"a.example,2,x,y,2025-01-01\n"))
    with pytest.raises(dataset.DataError, match="line 2: label '2'; must be 0 or 1"):
        dataset.load(tmp_path, "name")
