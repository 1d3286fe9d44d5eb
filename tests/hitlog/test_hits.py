"""The hit log: pseudonyms, days, files, and what happens when the disk does not play along."""

import asyncio
import datetime
import gzip
import json
import stat
import threading
import time

import dns.message
import dns.query
import pytest

from tests.running import wait_until
from urlguard.config import Hits
from urlguard.hitlog import buffer as hits
from urlguard.hitlog import files
from urlguard.hitlog.buffer import HitBuffer, Pseudonyms, day_of
from urlguard.hitlog.day_key import DayKey
from urlguard.hitlog.files import HitFiles, HitLog

NOON = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.UTC).timestamp()
DAY = 86_400
CLIENT = "192.0.2.41"
EVIL = ("evil.example", 1, "block", "phishing", "subtree evil.example", ("feed:a",), "homes")


class Clock:
    """A time that a test sets."""

    def __init__(self, now=NOON):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    """It is noon on a Monday in November."""
    return Clock()


class Both:
    """A worker's half and control's half, joined by JSON as the channel does."""

    def __init__(self, folder, clock, **options):
        self.folder = folder
        self.clock = clock
        self.pseudonyms = Pseudonyms(clock)
        self.buffer = HitBuffer(self.pseudonyms, clock)
        self.key = DayKey(folder, clock)
        self.steady = Clock(0.0)
        self.files = HitFiles(folder, Hits(**options), clock, self.steady)
        self.turn()

    def turn(self):
        """What control does at its start and at midnight."""
        self.key.rotate()
        self.pseudonyms.take(json.loads(json.dumps(self.key.message)))

    def flush(self):
        """What a worker does each second; control writes it."""
        for line in self.buffer.lines():
            self.files.write(json.loads(line)["rows"])

    def rows(self):
        """All rows in all files, by file."""
        return {
            path.name: [json.loads(line) for line in read(path).splitlines()]
            for path in sorted(self.folder.glob("*.jsonl*"))
        }


def read(path):
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


@pytest.fixture
def make():
    """Makes halves, and closes their files after the test."""
    made = []

    def one(*arguments, **options):
        made.append(Both(*arguments, **options))
        return made[-1]

    yield one
    for both in made:
        both.files.close()


@pytest.fixture
def both(make, tmp_path, clock):
    """The two halves on a fresh folder."""
    return make(tmp_path / "hits", clock)


def test_a_hit_becomes_a_row(both):
    """
    A row says when, under which pseudonym, what was asked and which rule decided.
    """
    both.buffer.add(CLIENT, *EVIL)
    both.flush()
    ((row,),) = both.rows().values()
    assert len(row.pop("client")) == 16
    assert row == {
        "time": "2026-11-23T12:00:00Z",
        "segment": "homes",
        "name": "evil.example",
        "qtype": "A",
        "action": "block",
        "category": "phishing",
        "rule": "subtree evil.example",
        "sources": ["feed:a"],
        "count": 1,
    }


def test_equal_hits_of_a_second_are_counted_together(both):
    """
    A client that asks again and again within a second is one row with a count.
    """
    for _ in range(5):
        both.buffer.add(CLIENT, *EVIL)
    both.clock.now += 1
    both.buffer.add(CLIENT, *EVIL)
    both.flush()
    ((first, second),) = both.rows().values()
    assert (first["count"], second["count"]) == (5, 1)


@pytest.mark.parametrize("client", ["192.0.2.41", "2001:db8::41", "fe80::41%eth0"])
def test_no_address_reaches_the_disk_or_leaves_the_worker(both, client):
    """
    Neither the messages to control nor any file holds the address, in whatever spelling.
    """
    both.buffer.add(client, *EVIL)
    lines = list(both.buffer.lines())
    for line in lines:
        both.files.write(json.loads(line)["rows"])
    seen = b"".join(lines) + b"".join(read(p) for p in both.folder.iterdir())
    assert b"evil.example" in seen
    for trace in (client, client.replace(".", ""), client.encode().hex()):
        assert trace.encode() not in seen


def test_a_client_is_one_pseudonym_a_day_on_every_worker(both):
    """
    Workers with the same key give a client the same pseudonym; another client gets another.
    """
    other = Pseudonyms(both.clock)
    other.take(both.key.message)
    today = day_of(NOON)
    mine = both.pseudonyms.of(CLIENT, today)
    assert mine == other.of(CLIENT, today)
    assert mine != both.pseudonyms.of("192.0.2.42", today)
    assert both.pseudonyms.address(CLIENT) == other.address(CLIENT)


@pytest.mark.parametrize(
    ("client", "net"), [("192.0.2.41", range(240, 256)), ("2001:db8::1", range(253, 254))]
)
def test_pseudonyms_in_the_shape_of_addresses_are_nobodys(both, client, net):
    """
    They have the family of the client and lie where no subscriber can be.
    """
    address = both.pseudonyms.address(client)
    assert len(address) == (16 if ":" in client else 4)
    assert address[0] in net
    assert Pseudonyms(both.clock).address(client) == b""


def test_pseudonyms_change_with_the_day(both):
    """
    The next day the same client is somebody else, and the old key is gone from file and memory.
    """
    old_key = both.key.message["key"]
    both.buffer.add(CLIENT, *EVIL)
    both.flush()
    both.clock.now += DAY
    assert both.key.due
    both.turn()
    both.buffer.add(CLIENT, *EVIL)
    both.flush()
    first, second = (rows[0]["client"] for rows in both.rows().values())
    assert first != second
    assert old_key not in (both.folder / "key").read_text()
    assert both.pseudonyms.of(CLIENT, "2026-11-23") is None
    assert not both.key.due


def test_hits_around_midnight_keep_to_their_own_day(both):
    """
    A hit of yesterday that leaves after midnight has yesterday's pseudonym in yesterday's file; one
    of today waits for today's key.
    """
    both.clock.now = NOON + DAY / 2 - 1
    expected = both.pseudonyms.of(CLIENT, "2026-11-23")
    both.buffer.add(CLIENT, *EVIL)
    both.clock.now += 2
    both.buffer.add(CLIENT, *EVIL)
    both.flush()
    assert len(both.buffer) == 1
    assert list(both.rows()) == ["2026-11-23.jsonl"]
    both.turn()
    both.flush()
    first, second = (rows[0] for rows in both.rows().values())
    assert (first["client"], first["time"]) == (expected, "2026-11-23T23:59:59Z")
    assert second["client"] not in (None, expected)
    assert second["time"] == "2026-11-24T00:00:01Z"


def test_a_late_hit_gets_the_old_key_even_if_the_new_one_has_come(both):
    """
    The old key lives in the worker until the hits of its day have left, and no longer.
    """
    both.clock.now = NOON + DAY / 2 - 1
    expected = both.pseudonyms.of(CLIENT, "2026-11-23")
    both.buffer.add(CLIENT, *EVIL)
    both.clock.now += 2
    both.turn()
    both.flush()
    assert both.rows()["2026-11-23.jsonl"][0]["client"] == expected
    assert both.pseudonyms.of(CLIENT, "2026-11-23") is None


def test_a_hit_whose_key_is_gone_has_no_client(both):
    """
    A hit that was held up for days is written without pseudonym rather than with a wrong one.
    """
    both.buffer.add(CLIENT, *EVIL)
    for _ in range(2):
        both.clock.now += DAY
        both.turn()
    (line,) = both.buffer.lines()
    assert json.loads(line)["rows"][0][1] is None


def test_the_clock_may_be_set_back(both):
    """
    A day that comes again gets a key again, and hits go on.
    """
    both.clock.now -= DAY
    assert both.key.due
    both.turn()
    both.buffer.add(CLIENT, *EVIL)
    both.flush()
    both.buffer.add(CLIENT, *EVIL)
    both.flush()
    (rows,) = both.rows().values()
    assert all(row["client"] for row in rows)
    assert both.pseudonyms.address(CLIENT)


def test_a_restart_keeps_the_days_pseudonyms(both):
    """
    The key of the day is read again; the file is for the server's user alone.
    """
    again = DayKey(both.folder, both.clock)
    again.rotate()
    assert again.message == both.key.message
    assert stat.S_IMODE((both.folder / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE(both.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"day": "2026-11-23", "key": "00"}'])
def test_a_damaged_key_is_replaced(both, damage):
    """
    A key file that was not written to its end leads to a new key, not to a stop.
    """
    (both.folder / "key").write_bytes(damage)
    again = DayKey(both.folder, both.clock)
    again.rotate()
    assert len(bytes.fromhex(again.message["key"])) == 32
    assert json.loads((both.folder / "key").read_bytes())["key"] == again.message["key"]


def test_the_old_key_is_overwritten_before_it_is_removed(both):
    """
    What lay in the file is zeros by the time the name goes.
    """
    with (both.folder / "key").open("rb") as held:
        both.key.destroy()
        assert set(held.read()) == {0}
    assert not (both.folder / "key").exists()


@pytest.mark.parametrize(
    "message", [{}, {"day": "2026-11-23", "key": "00"}, {"day": "soon", "key": "00" * 32}]
)
def test_a_wrong_key_message_is_refused(clock, message):
    """
    A worker takes a key of full length for a real day, and nothing else.
    """
    with pytest.raises((KeyError, ValueError)):
        Pseudonyms(clock).take(message)


def test_the_buffer_is_bounded(both, monkeypatch):
    """
    Beyond its room a worker drops new hits and counts them; hits that it has still count up.
    """
    monkeypatch.setattr(both.buffer, "_room", 3)
    for number in range(5):
        both.buffer.add(CLIENT, f"n{number}.example", *EVIL[1:])
    both.buffer.add(CLIENT, "n0.example", *EVIL[1:])
    assert len(both.buffer) == 3
    assert both.buffer.counters["dropped"] == 2


def test_hits_that_wait_for_a_key_take_room(both, monkeypatch):
    """
    What waits counts against the bound, and leaves room again once it has gone.
    """
    monkeypatch.setattr(hits, "MAX_HITS", 3)
    both.clock.now += DAY
    for number in range(3):
        both.buffer.add(CLIENT, f"n{number}.example", *EVIL[1:])
    both.flush()
    both.buffer.add(CLIENT, *EVIL)
    assert both.buffer.counters["dropped"] == 1
    both.turn()
    both.flush()
    both.buffer.add(CLIENT, *EVIL)
    assert len(both.buffer) == 1


def test_messages_are_small(both):
    """
    Many hits leave as several messages, so that making one does not hold up the loop.
    """
    for number in range(450):
        both.buffer.add(f"192.0.2.{number % 250}", f"n{number}.example", *EVIL[1:])
    lines = list(both.buffer.lines())
    assert [len(json.loads(line)["rows"]) for line in lines] == [100, 100, 100, 100, 50]
    assert max(map(len, lines)) < 30_000


def test_a_client_has_so_many_rows_a_second(both):
    """
    Names that one client makes up are dropped and counted beyond 20 a second, also after a flush;
    its older hits count up, other clients and the next second are not touched.
    """
    for number in range(30):
        both.buffer.add(CLIENT, f"n{number}.example", *EVIL[1:])
    both.buffer.add(CLIENT, "n0.example", *EVIL[1:])
    assert (len(both.buffer), both.buffer.counters["dropped"]) == (20, 10)
    both.flush()
    both.buffer.add(CLIENT, *EVIL)
    assert (len(both.buffer), both.buffer.counters["dropped"]) == (0, 11)
    both.buffer.add("192.0.2.42", *EVIL)
    both.clock.now += 1
    both.buffer.add(CLIENT, *EVIL)
    assert (len(both.buffer), both.buffer.counters["dropped"]) == (2, 11)
    assert both.rows()["2026-11-23.jsonl"][0]["count"] == 2


def test_noting_a_hit_is_cheap(both):
    """
    A hit costs the packet path a few microseconds at the very most.
    """
    started = time.process_time()
    for number in range(5_000):
        both.buffer.add(f"192.0.2.{number % 250}", *EVIL)
    assert (time.process_time() - started) / 5_000 < 20e-6  # about 0.7 µs on an idle machine


# -- files -----------------------------------------------------------------------------------------


def fill(both, count):
    """Note and write hits one by one."""
    for number in range(count):
        both.buffer.add(CLIENT, f"n{number}.example", *EVIL[1:])
    both.flush()


def test_a_full_file_is_followed_by_the_next(make, tmp_path, clock):
    """
    A file ends at its limit, no row is cut or lost, and a restart goes on in the last one.
    """
    both = make(tmp_path / "hits", clock)
    both.files.limit = 1000
    fill(both, 20)
    names = list(both.rows())
    assert "2026-11-23.jsonl" in names
    assert "2026-11-23.1.jsonl" in names
    assert sum(map(len, both.rows().values())) == 20
    assert all(p.stat().st_size <= 1400 for p in both.folder.glob("*.jsonl"))
    count = len(names)
    again = make(tmp_path / "hits", clock)
    again.files.limit = 1000
    fill(again, 1)
    assert len(again.rows()) in (count, count + 1)
    assert sum(map(len, again.rows().values())) == 21


def test_a_row_that_a_crash_cut_is_left_behind(both):
    """
    After half a row the next begins on a line of its own.
    """
    fill(both, 1)
    both.files.close()
    path = both.folder / "2026-11-23.jsonl"
    with path.open("ab") as file:
        file.write(b'{"time": "2026-')
    fill(both, 1)
    lines = path.read_bytes().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[0])["name"] == json.loads(lines[2])["name"] == "n0.example"


def test_thirty_days(make, tmp_path, clock):
    """
    Day after day: finished days are compressed, those beyond `keep_days` deleted, today's grows.
    """
    both = make(tmp_path / "hits", clock, keep_days=7)
    for _ in range(30):
        fill(both, 3)
        both.files.tidy()
        both.clock.now += DAY
        both.turn()
    fill(both, 3)
    both.files.tidy()
    names = sorted(both.rows())
    today = datetime.datetime.fromtimestamp(both.clock.now, datetime.UTC).date()
    days = [today - datetime.timedelta(n) for n in range(7, -1, -1)]
    assert names == [f"{d}.jsonl.gz" for d in days[:-1]] + [f"{today}.jsonl"]
    assert all(len(rows) == 3 for rows in both.rows().values())
    assert len({rows[0]["client"] for rows in both.rows().values()}) == 8


def test_yesterday_is_not_compressed_while_hits_may_still_come(both):
    """
    Shortly after midnight yesterday's file is still open to what is on its way.
    """
    fill(both, 1)
    both.clock.now = NOON + DAY / 2 + 60
    both.files.tidy()
    assert list(both.rows()) == ["2026-11-23.jsonl"]
    both.clock.now += 2 * files.GRACE_S
    both.steady.now += 2 * files.GRACE_S
    both.files.tidy()
    assert list(both.rows()) == ["2026-11-23.jsonl.gz"]


def test_a_hit_that_is_too_late_is_counted(both):
    """
    What comes after its day was closed is dropped, and counted.
    """
    both.buffer.add(CLIENT, *EVIL)
    both.clock.now += DAY
    both.flush()
    assert both.rows() == {}
    assert both.files.counters["dropped"] == 1


def test_compressing_is_done_again_after_a_crash(both):
    """
    Half a compressed file is thrown away; the whole one takes the place of the plain one.
    """
    fill(both, 2)
    both.files.close()
    (both.folder / "2026-11-23.jsonl.gz.part").write_bytes(b"half")
    both.clock.now += DAY
    both.files.tidy()
    assert list(both.rows()) == ["2026-11-23.jsonl.gz"]
    assert not list(both.folder.glob("*.part"))
    assert len(both.rows()["2026-11-23.jsonl.gz"]) == 2


def test_files_of_others_are_left_alone(both):
    """
    Deleting goes by the names that the log itself gives.
    """
    others = ["notes.txt", "2020-01-01.jsonl.bak", "key", "2020-01-01.json"]
    for name in others:
        (both.folder / name).write_text("mine")
    both.files.tidy()
    assert all((both.folder / name).exists() for name in others)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("\xe4\xff.evil.example", r"\228\255.evil.example"),
        ("\x00\x1f \x7f\x9b.evil.example", r"\000\031\032\127\155.evil.example"),
        (r"a\046b.evil.example", r"a\046b.evil.example"),
        ("_dns.xn--bcher-kva.example", "_dns.xn--bcher-kva.example"),
    ],
)
def test_names_are_written_as_people_write_them(both, name, written):
    """
    Octets that cannot be printed become \\DDD, one form for all; the file is printable ASCII.
    """
    both.buffer.add(CLIENT, name, *EVIL[1:])
    both.flush()
    assert both.rows()["2026-11-23.jsonl"][0]["name"] == written
    data = (both.folder / "2026-11-23.jsonl").read_bytes()
    assert b"\\u" not in data
    assert all(0x20 <= octet < 0x7F for octet in data.rstrip(b"\n"))


def sizes(folder):
    """The octets of all files of the log together."""
    return sum(path.stat().st_size for path in folder.glob("*.jsonl*"))


def events_of(capsys):
    """The names of the events so far."""
    return [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]


def test_the_oldest_days_make_room(both, capsys):
    """
    When all files together have their limit, the oldest finished ones go, and no row is lost.
    """
    for _ in range(3):
        fill(both, 10)
        both.clock.now += DAY
        both.turn()
    both.files.total_limit = sizes(both.folder) + 100
    fill(both, 5)
    assert list(both.rows()) == [f"2026-11-{day}.jsonl" for day in (24, 25, 26)]
    assert sizes(both.folder) <= both.files.total_limit
    assert both.files.counters["dropped"] == 0
    assert events_of(capsys) == []


def test_of_one_day_the_first_file_goes_first(make, tmp_path, clock):
    """
    Files go by day and number, not by the spelling of the number, compressed or not.
    """
    both = make(tmp_path / "hits", clock)
    both.folder.mkdir(exist_ok=True)
    for name in ("2026-11-21.jsonl.gz", "2026-11-21.2.jsonl", "2026-11-21.10.jsonl"):
        (both.folder / name).write_bytes(bytes(1000))
    both.files.total_limit = 2000
    fill(both, 1)
    left = sorted(path.name for path in both.folder.glob("*.jsonl*"))
    assert left == ["2026-11-21.10.jsonl", "2026-11-23.jsonl"]


def test_a_log_that_was_too_large_at_the_start_is_cut(both):
    """
    Tidying keeps to the limit too, also when no hit comes.
    """
    fill(both, 10)
    both.clock.now += DAY
    both.turn()
    fill(both, 10)
    both.files.total_limit = (
        sizes(both.folder) - 1 - ((both.folder / "2026-11-23.jsonl").stat().st_size)
    )
    both.files.tidy()
    assert list(both.rows()) == ["2026-11-24.jsonl"]


def test_when_todays_files_are_all_there_is_rows_are_dropped(both, capsys):
    """
    Today's files stay; rows beyond the limit are counted, said once, until there is room again.
    """
    both.files.limit = 1000
    both.files.total_limit = 3000
    for _ in range(10):
        fill(both, 5)
        both.clock.now += 1
    counters = both.files.counters
    assert sizes(both.folder) <= 3000
    assert counters["dropped"] > 0
    assert counters["written"] + counters["dropped"] == 50
    assert sum(map(len, both.rows().values())) == counters["written"]
    assert events_of(capsys) == ["hits.full"]
    dropped = counters["dropped"]
    both.clock.now += DAY
    both.turn()
    fill(both, 1)
    assert counters["dropped"] == dropped
    assert "2026-11-24.jsonl" in both.rows()
    assert events_of(capsys) == ["hits.resumed"]


def test_room_that_somebody_makes_is_seen(both, capsys):
    """
    After `hits.full` an operator may delete one of today's files, and hits go on.
    """
    both.files.limit = 1000
    both.files.total_limit = 3000
    fill(both, 20)
    (both.folder / "2026-11-23.jsonl").unlink()
    both.clock.now += 1
    fill(both, 1)
    assert events_of(capsys) == ["hits.full", "hits.resumed"]


def test_a_short_row_that_would_still_fit_does_not_end_it(both, capsys):
    """
    Once full, it stays so until there is room worth the name: rows of all lengths do not make an
    event each.
    """
    long = ".".join(["x" * 60] * 4)
    for number in range(60):
        both.buffer.add(f"192.0.2.{number}", long, *EVIL[1:])
    both.flush()
    size = sizes(both.folder)
    both.files.total_limit = size + 300
    both.files.tidy()
    for name in (long, "a.example", long, "a.example"):
        both.clock.now += 1
        both.buffer.add(CLIENT, name, *EVIL[1:])
        both.flush()
    assert events_of(capsys) == ["hits.full"]
    assert sizes(both.folder) == size


def test_the_limit_comes_from_the_configuration(tmp_path, clock):
    """
    ``total_mb`` is in MiB.
    """
    assert HitFiles(tmp_path, Hits(total_mb=3), clock).total_limit == 3 << 20


@pytest.mark.parametrize("how", ["deleted", "renamed", "replaced", "folder"])
def test_a_file_that_goes_is_begun_again(both, how):
    """
    Rows never go on into a file that has lost its name.
    """
    fill(both, 2)
    path = both.folder / "2026-11-23.jsonl"
    match how:
        case "deleted":
            path.unlink()
        case "renamed":
            path.rename(both.folder / "old")
        case "replaced":
            path.rename(both.folder / "old")
            path.touch()
        case "folder":
            both.folder.rename(both.folder.with_name("old"))
    both.clock.now += 1
    fill(both, 3)
    assert [len(rows) for rows in both.rows().values()] == [3]
    assert both.files.counters == {"written": 5, "dropped": 0}


def test_a_file_that_was_cut_goes_on(both):
    """
    A file that somebody emptied in place goes on where it ends now, also when the disk is full.
    """
    fill(both, 4)
    path = both.folder / "2026-11-23.jsonl"
    path.write_bytes(b"")
    both.files._file = FullDisk(both.files._file, 100)
    both.clock.now += 1
    fill(both, 1)
    assert path.read_bytes() == b""
    both.clock.now += 1
    fill(both, 2)
    assert {name: len(rows) for name, rows in both.rows().items()} == {"2026-11-23.jsonl": 2}


@pytest.mark.parametrize("leap", [400 * DAY, 3 * DAY, -400 * DAY])
def test_a_leap_of_the_clock_does_not_take_the_open_file(both, leap):
    """
    Neither deleted nor compressed is what is written to; after the clock is right, it goes on.
    """
    fill(both, 1)
    both.clock.now += leap
    both.files.total_limit = 1
    both.files.tidy()
    both.files.total_limit = 1 << 20
    both.clock.now += 1 - leap
    fill(both, 1)
    assert {name: len(rows) for name, rows in both.rows().items()} == {"2026-11-23.jsonl": 2}


def test_a_day_that_comes_again_while_it_is_compressed_loses_nothing(both, monkeypatch):
    """
    Rows that come for a file in the moment it is compressed go to the next one.
    """
    fill(both, 1)
    both.files.close()
    compress = files._compress
    started, go_on = threading.Event(), threading.Event()

    def slow(path):
        started.set()
        assert go_on.wait(5)
        compress(path)

    monkeypatch.setattr(files, "_compress", slow)
    both.clock.now += DAY
    thread = threading.Thread(target=both.files.tidy)
    thread.start()
    try:
        assert started.wait(5)
        both.clock.now += 1 - DAY
        fill(both, 2)
    finally:
        go_on.set()
        thread.join(5)
    assert {name: len(rows) for name, rows in both.rows().items()} == {
        "2026-11-23.1.jsonl": 2,
        "2026-11-23.jsonl.gz": 1,
    }


def test_a_file_deleted_for_room_while_it_is_compressed(both, monkeypatch):
    """
    Tidying takes it as done: no error, nothing half made left.
    """
    fill(both, 1)
    both.files.close()
    compress = files._compress

    def late(path):
        path.unlink()
        compress(path)

    monkeypatch.setattr(files, "_compress", late)
    both.clock.now += DAY
    both.files.tidy()
    assert [path.name for path in both.folder.iterdir()] == ["key"]


class FullDisk:
    """A file that takes so many octets."""

    def __init__(self, file, room):
        self.file = file
        self.room = room

    def write(self, data):
        if not self.room:
            raise OSError(28, "No space left on device")
        part = bytes(data)[: self.room]
        self.room -= len(part)
        return self.file.write(part)

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_full_disk_costs_hits_and_nothing_else(both, monkeypatch, capsys):
    """
    Hits that find no room are counted, one event says so, no half a row stays; then it goes on.
    """
    fill(both, 1)
    full = FullDisk(both.files._file, 100)
    both.files._file = full
    opened = both.files._open
    monkeypatch.setattr(
        both.files, "_open", lambda day: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    fill(both, 3)
    fill(both, 2)
    monkeypatch.setattr(both.files, "_open", opened)
    fill(both, 1)
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [e["event"] for e in said] == ["hits.dropped", "hits.resumed"]
    assert both.files.counters == {"written": 2, "dropped": 5}
    assert len(both.rows()["2026-11-23.jsonl"]) == 2


@pytest.mark.parametrize(
    "row", [[], [1, 2], ["x"] * 10, [10**30, *["x"] * 9], [NOON, "a", "b", "c", *["x"] * 5, {}]]
)
def test_nonsense_from_a_worker_is_dropped(both, row):
    """
    A row of the wrong shape costs itself alone.
    """
    both.buffer.add(CLIENT, *EVIL)
    (line,) = both.buffer.lines()
    both.files.write([row, *json.loads(line)["rows"]])
    assert both.files.counters == {"written": 1, "dropped": 1}


async def test_at_work(tmp_path, clock):
    """
    The key is told at once and at midnight, rows are written without being asked for.
    """
    told = []
    log = HitLog(tmp_path, Hits(), keyed=False, changed=told.append, clock=clock)
    task = asyncio.create_task(log.run())
    await until(lambda: told)
    pseudonyms = Pseudonyms(clock)
    pseudonyms.take(told[0])
    buffer = HitBuffer(pseudonyms, clock)
    buffer.add(CLIENT, *EVIL)
    for line in buffer.lines():
        log.take(json.loads(line))
    await until(lambda: log.written == 1)
    clock.now += DAY
    await until(lambda: len(told) == 2)
    assert log.key_message == told[1] != told[0]
    task.cancel()
    await asyncio.wait([task])


async def test_switched_off_there_is_no_key(make, tmp_path, clock):
    """
    Without hit log and dnstap no key is made, one that lies there is destroyed, old files go.
    """
    folder = tmp_path / "hits"
    before = make(folder, clock)
    fill(before, 1)
    clock.now += 40 * DAY
    told = []
    log = HitLog(tmp_path, Hits(enabled=False), keyed=False, changed=told.append, clock=clock)
    task = asyncio.create_task(log.run())
    await until(lambda: not list(folder.iterdir()))
    log.take({"rows": [[1]]})
    assert not told
    assert log.key_message is None
    assert log.dropped == log.written == 0
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("message", [{"rows": 1}, {"rows": [1]}, {"rows": {}}])
def test_rows_must_be_rows(tmp_path, message):
    """
    What is no list of lists is refused as a bad message.
    """
    log = HitLog(tmp_path, Hits(), keyed=False, changed=print)
    with pytest.raises(ValueError, match="rows"):
        log.take(message)


@pytest.mark.slow
def test_a_real_server_stores_no_address(server, tmp_path):
    """
    Of a client that met a block there is a pseudonym, the same after a restart, and its address is
    nowhere in `state_dir` or the events.
    """
    client = "127.0.0.153"
    one = server(more='[api]\nlisten = "127.0.0.1:0"')
    folder = tmp_path / "var" / "hits"
    for count in (1, 2):
        one.start()
        for transport in (dns.query.udp, dns.query.tcp):
            question = dns.message.make_query("evil.example", "A")
            transport(question, "127.0.0.1", port=one.port, source=client, timeout=5)
        wait_until(
            lambda: sum(map(total, folder.glob("*.jsonl"))) == 2 * count  # noqa: B023
        )
        one.stop()
    rows = [
        row
        for path in folder.glob("*.jsonl")
        for row in map(json.loads, path.read_text().splitlines())
    ]
    assert len({(row["client"], row["name"]) for row in rows}) == len(
        {row["time"][:10] for row in rows}
    )
    stored = [path for path in (tmp_path / "var").rglob("*") if path.is_file()]
    assert folder / "key" in stored
    for path in [*stored, one.log]:
        assert client.encode() not in path.read_bytes()


def total(path):
    """The hits in a file."""
    return sum(json.loads(line)["count"] for line in path.read_text().splitlines())


async def until(condition, seconds=5.0):
    """Wait for something that must happen soon."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)
