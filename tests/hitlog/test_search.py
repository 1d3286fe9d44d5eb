"""Reading the hit log around a moment."""

import gzip
import json

import pytest

from urlguard.config import Hits
from urlguard.hitlog import search
from urlguard.hitlog.files import HitFiles

NOON = 1_700_049_600  # 2023-11-15T12:00:00Z
DAY = 86_400


def row(second, name="evil.example", rule="subtree evil.example", count=1, action="block"):
    """A row as a worker sends it."""
    return [second, "00", name, 1, action, "fraud", rule, ["feed:a"], "", count]


def written(folder, rows, now, **options):
    """The rows as the server writes them."""
    files = HitFiles(folder, Hits(**options), clock=lambda: now)
    files.write(rows)
    files.close()


def seconds(folder, moment=NOON, name="evil.example"):
    """The times that are found, from the moment."""
    found, whole = search.around(folder, name, moment)
    assert whole
    return [(seen.time - moment, count) for seen, count in found]


def test_rows_that_the_server_wrote(tmp_path):
    """
    Of the very name and within the hour, newest first; clients are added up and not told.
    """
    rows = [row(NOON + at) for at in (-3601, -3600, -10, 0)]
    rows += [row(NOON - 10, count=4), row(NOON, "www.evil.example"), row(NOON, "vil.example")]
    rows += [row(NOON + 3600), row(NOON + 3601)]
    written(tmp_path, rows, NOON)
    assert seconds(tmp_path) == [(3600, 1), (0, 1), (-10, 5), (-3600, 1)]
    ((seen, _), *_) = search.around(tmp_path, "evil.example", NOON)[0]
    assert seen[1:] == ("block", "subtree evil.example", "fraud", ("feed:a",))


def test_two_days_and_several_files(tmp_path):
    """
    Around midnight both days are read, compressed or not, and every file of a day.
    """
    midnight = NOON + DAY // 2
    filler = [row(midnight + 5, f"n{n}.example") for n in range(20_000)]
    written(tmp_path, [row(midnight - 5)], midnight - 5)
    written(tmp_path, [row(midnight + 1), *filler, row(midnight + 9)], midnight, max_mb=1)
    assert len(list(tmp_path.glob("2023-11-16*"))) > 2
    before = tmp_path / "2023-11-15.jsonl"
    (tmp_path / "2023-11-15.jsonl.gz").write_bytes(gzip.compress(before.read_bytes()))
    before.unlink()
    assert seconds(tmp_path, midnight) == [(9, 1), (1, 1), (-5, 1)]


def test_a_large_file_is_entered_in_the_middle(tmp_path):
    """
    Of a day's file only what lies around the moment is read.
    """
    start = NOON - DAY // 2
    rows = [row(start + n // 4, f"n{n}.example") for n in range(4 * DAY - 8)]
    rows[2 * DAY] = row(NOON)
    written(tmp_path, rows, NOON)
    (path,) = tmp_path.glob("*.jsonl")
    assert seconds(tmp_path) == [(0, 1)]
    pieces = list(search._pieces(path, NOON - search.AROUND_S, NOON + search.AROUND_S))
    assert sum(map(len, pieces)) < path.stat().st_size / 6


def test_there_is_a_limit(tmp_path, monkeypatch):
    """
    Of octets, and of hits: the nearest are given; then it is not whole.
    """
    written(tmp_path, [row(NOON - at) for at in range(100)], NOON)
    found, whole = search.around(tmp_path, "evil.example", NOON)
    assert (len(found), whole) == (search.MAX_HITS, False)
    assert {seen.time for seen, _ in found} == set(range(NOON - 49, NOON + 1))
    monkeypatch.setattr(search, "MAX_OCTETS", 100)
    assert not search.around(tmp_path, "evil.example", NOON)[1]


@pytest.mark.parametrize(
    "spoilt",
    [
        b"",
        b"\n\n",
        b'{"time":"2023-11-15T12:00:00Z","name":"evil.example",',
        b'{"name":"evil.example","count":1}\n',
        b'{"time":"2023-11-15T99:00:00Z","name":"evil.example","count":1}\n',
        b'[1,"name":"evil.example",]\n' * 3,
        b"\xff" * 5000,
    ],
)
def test_what_is_no_row(tmp_path, spoilt):
    """
    Is passed over, and rows behind it are found.
    """
    written(tmp_path, [row(NOON)], NOON)
    (path,) = tmp_path.glob("*.jsonl")
    path.write_bytes(spoilt + b"\n" + path.read_bytes())
    assert seconds(tmp_path) == [(0, 1)]
    (tmp_path / "2023-11-15.1.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "2023-11-15.2.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 99)[:-4])
    assert seconds(tmp_path) == [(0, 1)]


def test_without_a_hit_log(tmp_path):
    """
    Nothing is found, and that is all.
    """
    assert search.around(tmp_path / "none", "evil.example", NOON) == ([], True)
    assert json.dumps(search.around(tmp_path, "evil.example", 0.0)) == "[[], true]"
