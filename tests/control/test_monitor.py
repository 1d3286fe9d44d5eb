"""What is counted, how it is asked for, and how the control process answers for all workers."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.logs import open_file
from tests.speed import slowness
from tests.test_docs import code, table
from urlguard import config, metrics, rules
from urlguard.control import monitor
from urlguard.control.monitor import ControlState, Monitor
from urlguard.control.workers import WorkerConnection, Workers
from urlguard.metrics import BOUNDS, METRICS, OTHER, Collectors, Histogram, MetricsWriter
from urlguard.policy.model import Change
from urlguard.processes import channel
from urlguard.processes import child as process
from urlguard.rules import PAUSE

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring.md"


# -- histograms and values ------------------------------------------------------------------------


def test_a_histogram_counts_up_to_each_bound():
    """
    A time belongs to the first bound that is not below it; the last count is of all.
    """
    found = Histogram()
    for seconds in (0.0, 0.0001, 0.00011, 2.5, 2.6, 1e9):
        found.observe(seconds)
    found.observe(0.03, 10)
    counts = dict(zip((*BOUNDS, "all"), found.cumulative(), strict=True))
    assert (counts[0.0001], counts[0.00025], counts[0.025]) == (2, 3, 3)
    assert (counts[0.05], counts[2.5], counts["all"]) == (13, 14, 16)
    assert found.total == pytest.approx(1e9 + 0.3 + 5.1002, abs=0.01)


def test_observing_is_cheap():
    """
    A time costs the packet path a few tenths of a microsecond.
    """
    found = Histogram()
    observe = found.observe
    best = min(_timed(lambda: observe(0.0004)) for _ in range(5))
    assert best < 2e-6 * slowness()  # 0.2 µs on an idle machine


def _timed(call, times=10_000):
    started = time.thread_time()
    for _ in range(times):
        call()
    return (time.thread_time() - started) / times


@pytest.mark.parametrize(
    "wrong",
    [
        lambda f: f.count("urlguard_unheard_of_total", 1),
        lambda f: f.count("urlguard_queries_total", 1),
        lambda f: f.count("urlguard_queries_total", 1, "udp", "x"),
        lambda f: f.gauge("urlguard_queries_total", 1, "udp"),
        lambda f: f.histogram("urlguard_queries_total", Histogram(), "udp"),
        lambda f: f.count("urlguard_answer_duration_seconds", 1, "inline"),
    ],
)
def test_metrics_outside_the_table_are_refused(wrong):
    """
    A name that the table does not have, another kind or other labels are a mistake.
    """
    with pytest.raises(ValueError, match="METRICS"):
        wrong(MetricsWriter())


def test_metrics_are_plain_json():
    """
    Counters add up under their labels, a gauge is a number, a histogram counts and total.
    """
    out, took = MetricsWriter(), Histogram()
    took.observe(0.2)
    out.count_each("urlguard_queries_total", {"udp": 3, "tcp": 1})
    out.count("urlguard_queries_total", 2, "udp")
    out.gauge("urlguard_policy_serial", 412)
    out.histogram("urlguard_answer_duration_seconds", took, "forwarded")
    found = json.loads(json.dumps(out.as_json()))
    assert found == {
        "counters": {"urlguard_queries_total": [[["udp"], 5], [["tcp"], 1]]},
        "gauges": {"urlguard_policy_serial": [[[], 412]]},
        "histograms": {
            "urlguard_answer_duration_seconds": [
                [["forwarded"], [[0] * 10 + [1] * 5, pytest.approx(0.2)]]
            ]
        },
    }


def test_series_are_bounded():
    """
    What is too many is added up as other: nothing is lost from the sum, and no label grows.
    """
    out = MetricsWriter()
    for number in range(1000):
        out.count("urlguard_hits_total", 1, "block", f"feed:{number}")
        out.gauge("urlguard_upstream_up", 1, f"{number}")
    found = out.as_json()
    series = {tuple(k): v for k, v in found["counters"]["urlguard_hits_total"]}
    assert len(series) == metrics.MAX_SERIES
    assert sum(series.values()) == 1000
    assert series[OTHER, OTHER] == 1000 - metrics.MAX_SERIES + 1
    assert len(found["gauges"]["urlguard_upstream_up"]) < metrics.MAX_SERIES


@pytest.mark.parametrize("label", ['a"b\\c', "tab\there", "\u202eevil", "x" * 5000, 7, ""])
def test_labels_are_short_and_plain(label):
    """
    A label is printable ASCII of bounded length, whatever it was.
    """
    out = MetricsWriter()
    out.count("urlguard_queries_total", 1, label)
    ((((found,), _),),) = out.as_json()["counters"].values()
    assert found.isascii()
    assert len(found) <= metrics.MAX_LABEL
    assert not re.search(r"[\x00-\x1f]", found)


def test_a_reply_fits_into_a_line():
    """
    However much there is to say, it is one line that the channel takes, with the question's id.
    """
    mine = Collectors()
    for name, metric in METRICS.items():
        if metric.kind == "counter" and metric.labels and metric.worker:
            mine.add(
                lambda f, n=name, m=metric: (
                    [f.count(n, 1, *[f"{i}" * 300] * len(m.labels)) for i in range(500)] and None
                )
            )
    found = mine.collect(channel.MAX_LINE // 2)
    assert found["counters"]
    line = channel.encode({"id": 17, "metrics": found})
    assert len(line) <= channel.MAX_LINE // 2
    assert json.loads(line)["id"] == 17


def test_a_process_tells_about_itself():
    """
    Without any collector there are processor time, memory and start; a reload forgets the rest.
    """
    mine = Collectors([lambda out: out.gauge("urlguard_policy_serial", 1)])
    mine.clear()
    found = mine.collect(channel.MAX_LINE)
    ((_, memory),) = found["gauges"]["urlguard_worker_resident_memory_bytes"]
    assert 1 << 20 < memory < 1 << 36
    assert found["counters"].keys() == {"urlguard_worker_cpu_seconds_total"}
    assert "urlguard_policy_serial" not in found["gauges"]


def test_names_are_as_prometheus_wants_them():
    """
    Counters end in _total, times in _seconds, and no label has a name that is reserved.
    """
    for name, metric in METRICS.items():
        assert re.fullmatch(r"urlguard_[a-z_]+", name)
        assert (metric.kind == "counter") == name.endswith("_total")
        assert not {"le", "quantile", "job", "instance"} & set(metric.labels)
        assert metric.worker is False or "worker" not in metric.labels


def test_the_page_has_the_table():
    """
    The table of metrics on the page is the one that the code uses.
    """
    rows = table(MONITORING, "metric", "type", "labels", "meaning")
    assert [(code(r[0])[0], r[1], r[2], r[3]) for r in rows] == [
        (
            name,
            metric.kind,
            ", ".join(["worker"] * metric.worker + list(metric.labels)),
            metric.help,
        )
        for name, metric in METRICS.items()
    ]


def test_the_page_names_no_other_metric():
    """
    Queries and alerts on the page are about metrics that exist.
    """
    named = set(re.findall(r"\burlguard_[a-z_]+\b", MONITORING.read_text()))
    named = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}
    assert named <= METRICS.keys()


# -- asking the workers ----------------------------------------------------------------------------


class Wire:
    """The writer's side of a connection; it remembers what was written."""

    def __init__(self, unread=0, closing=False):
        self.sent = []
        self.transport = self
        self._unread = unread
        self._closing = closing

    def write(self, data):
        self.sent.append(json.loads(data))

    def is_closing(self):
        return self._closing

    def get_write_buffer_size(self):
        return self._unread


async def test_asking_all_collects_who_answers():
    """
    Replies are told apart by id, a silent worker does not hold up the others for long, a late
    reply disturbs nobody.
    """
    workers = Workers()
    one, two = (WorkerConnection(n, 0, "", Wire()) for n in (0, 1))
    for worker in (two, one):
        workers.add(worker)
    asking = asyncio.create_task(workers.ask({"op": "metrics"}, 0.1))
    await asyncio.sleep(0)
    (question,) = one._writer.sent
    assert question["op"] == "metrics"
    one.replied({"id": question["id"], "metrics": {}})
    one.replied({"id": 999, "metrics": {}})
    assert (await asking).keys() == {0}
    two.replied({"id": question["id"], "metrics": {}})
    assert [w.number for w in workers] == [0, 1]


@pytest.mark.parametrize("wire", [Wire(unread=1 << 30), Wire(closing=True)])
async def test_who_does_not_read_is_not_asked(wire):
    """
    Questions do not pile up for a worker that hangs.
    """
    workers = Workers()
    workers.add(WorkerConnection(0, 0, "", wire))
    assert await workers.ask({"op": "metrics"}, 5.0) == {}
    assert not wire.sent


# -- what the routes are told ----------------------------------------------------------------------


class Control:
    """What an observer needs of the control process."""

    def __init__(self, folder, count=2):
        self.config = config.Config(state_dir=folder, server=config.Server(workers=count))
        self.log = open_file(folder / "policy.db")
        self.log.commit("operator", [Change("subtree evil.example", "block")], actor="t", reason="")
        self.workers = Workers()
        self.facts = ControlState(ready=True, snapshot_serial=1)
        self.slow = 0.0
        self.asked = 0
        self.observer = Monitor(
            self.config, self.workers, self.log, self.in_log, lambda: self.facts
        )

    async def in_log(self, work):
        self.asked += 1
        await asyncio.sleep(self.slow)
        return work()

    def connect(self, number, *, answers=True, serial=1):
        """A worker that answers at once, or never."""
        worker = WorkerConnection(number, serial, "s", Wire())
        worker.ready_sent = True
        out = MetricsWriter()
        out.count("urlguard_queries_total", 5 + number, "udp")

        def write(data):
            message = json.loads(data)
            if answers and message["op"] == "metrics":
                worker.replied({"id": message["id"], "metrics": out.as_json()})

        worker._writer.write = write
        self.workers.add(worker)
        return worker


@pytest.fixture
def control(tmp_path, monkeypatch):
    """A control process of sorts, with nothing connected; answers are not kept."""
    monkeypatch.setattr(monitor, "FRESH_S", 0.0)
    monkeypatch.setattr(monitor, "ANSWER_S", 0.2)
    made = Control(tmp_path)
    yield made
    made.log.close()


async def values(observer):
    """All samples: name and labels → value."""
    return {
        (family.name, *labels): value
        for family in await observer.families()
        for labels, value in family.samples
    }


async def test_metrics_of_workers_bear_their_number(control):
    """
    Each worker's out stand apart, and one that does not answer is down.
    """
    control.connect(0)
    control.connect(1, answers=False)
    found = await values(control.observer)
    assert found["urlguard_queries_total", "0", "udp"] == 5
    assert ("urlguard_queries_total", "1", "udp") not in found
    assert found["urlguard_worker_up", "0"] == 1
    assert found["urlguard_worker_up", "1"] == 0
    assert found["urlguard_policy_log_serial",] == 1
    assert found["urlguard_filtering_paused",] == 0


async def test_a_pause_is_shown(control):
    """
    What `urlguard pause` commits shows in metrics and readiness, which is not less ready for it.
    """
    control.connect(0)
    control.connect(1)
    control.log.commit("operator", [Change(PAUSE, "allow")], actor="t", reason="")
    assert (await values(control.observer))["urlguard_filtering_paused",] == 1
    found = await control.observer.readiness()
    assert (found["paused"], found["ready"]) == (True, True)
    control.log.commit("operator", [Change(PAUSE, None)], actor="t", reason="")
    assert (await values(control.observer))["urlguard_filtering_paused",] == 0


async def test_a_pause_whose_end_has_come_is_over(control):
    """
    Also while the log cannot be told: the workers filter again.
    """
    for until, paused in ((time.time() + 60, True), (time.time() - 1, False)):
        change = Change(PAUSE, "allow", f"until {int(until)}", "", int(until))
        control.log.commit("operator", [change], actor="t", reason="")
        assert (await values(control.observer))["urlguard_filtering_paused",] == paused
        assert (await control.observer.readiness())["paused"] is paused


@pytest.mark.parametrize("scheduled", [False, True])
async def test_what_is_overdue_in_the_log_is_not_ready(control, scheduled):
    """
    An end or a beginning that is not in the log by 15 s after its time, as on a full disk.
    """
    control.connect(0)
    control.connect(1)
    for late, ready in ((-60, True), (5, True), (20, False)):
        when, key = int(time.time()) - late, f"subtree x{late}.example"
        key, until = (rules.scheduled(when, key), None) if scheduled else (key, when)
        control.log.commit("operator", [Change(key, "block", "", "", until)], actor="t", reason="")
        found = await control.observer.readiness()
        assert found["ready"] is ready
        assert len(found["why"]) == (not ready)
    assert found["why"][0].startswith(
        "policy log cannot be written: what ended is still in force, and what was to begin is not; "
        "overdue for 2"
    )
    control.log.expire()
    assert (await control.observer.readiness())["ready"]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda c: setattr(c.facts, "ready", False), "being prepared"),
        (lambda c: setattr(c.facts, "snapshot_serial", 0), "no policy"),
        (lambda c: c.workers.remove(next(iter(c.workers))), "worker 0 is not connected"),
        (lambda c: setattr(c, "slow", 5), "the policy log does not answer"),
        (
            lambda c: setattr(next(iter(c.workers)), "ready_sent", False),
            "waits for the first policy",
        ),
        (
            lambda c: setattr(next(iter(c.workers)), "behind_since", time.monotonic() - 999),
            "worker 0 is at serial 1",
        ),
    ],
)
async def test_readiness_says_why_not(control, spoil, why):
    """
    Ready is who has everything; else the reason is told in words.
    """
    control.connect(0)
    control.connect(1)
    found = await control.observer.readiness()
    assert (found["ready"], found["why"], found["workers"]) == (True, [], {"0": 1, "1": 1})
    spoil(control)
    found = await control.observer.readiness()
    assert not found["ready"]
    assert any(why in reason for reason in found["why"]), found
    await control.observer.close()


async def test_a_worker_is_behind_only_for_so_long(control):
    """
    How long a worker is behind counts from the batch that it lacks, and ends when it has it.
    """
    worker = control.connect(0)
    control.workers.measure(2)
    since = worker.behind_since
    assert since is not None
    control.workers.measure(3)
    assert worker.behind_since == since
    worker.acked = 3
    await control.workers.moved(worker)
    assert worker.behind_since is None


async def test_health_needs_one_worker(control):
    """
    Healthy is who answers at all, with whatever policy.
    """
    assert (await control.observer.health())["ok"] is False
    control.connect(1)
    assert await control.observer.health() == {"ok": True, "workers": 2, "answering": 1}


async def test_a_log_that_hangs_is_asked_once(control):
    """
    While a reading is under way no second one begins, and what was known before is told.
    """
    control.connect(0)
    await control.observer.families()
    control.slow, asked = 0.5, control.asked
    for _ in range(2):
        found = await values(control.observer)
        assert (found["urlguard_policy_log_up",], found["urlguard_policy_log_serial",]) == (0, 1)
    assert control.asked == asked + 1
    await asyncio.sleep(0.2)
    assert (await values(control.observer))["urlguard_policy_log_up",] == 1
    await control.observer.close()


async def test_many_who_ask_share_an_answer(control, monkeypatch):
    """
    Workers and log are asked once a second, however many ask.
    """
    monkeypatch.setattr(monitor, "FRESH_S", 60.0)
    control.connect(0)
    await asyncio.gather(*(control.observer.health() for _ in range(50)))
    await control.observer.readiness()
    assert control.asked == 1


# -- the control process, run as the supervisor does -----------------------------------------------


@contextlib.asynccontextmanager
async def control_process(folder, **sections):
    """The process with a small list, and the events that it wrote so far."""
    (folder / "list.txt").write_text("evil.example\n")
    feed = config.Feed(name="list", path=folder / "list.txt", format="domains")
    settings = config.Config(
        state_dir=folder / "var",
        server=config.Server(workers=1),
        feed=(feed,),
        api=sections.pop("api", config.Api(listen=config.Endpoint("127.0.0.1", 0))),
        **sections,
    )
    settings.state_dir.mkdir()
    log = folder / "control.err"
    with log.open("w") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "urlguard.control.control"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        child.stdin.write(process.startup_message(settings))
        child.stdin.flush()

        def events(name):
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            return [line for line in lines if line.get("event") == name]

        yield settings, events
    finally:
        child.terminate()
        await asyncio.to_thread(child.wait, 10)
        child.stdin.close()
    assert child.returncode == 0, log.read_text()


class FakeWorker:
    """A worker without DNS: it says that it has whatever it is told."""

    def __init__(self, settings):
        self.settings = settings
        self.got = []
        self.serial = 0

    async def __aenter__(self):
        path = channel.socket_path(self.settings.state_dir)
        await until(path.exists)
        sock = channel.connect(path, 5)
        sock.setblocking(False)
        self.reader, self.writer = await asyncio.open_unix_connection(
            sock=sock, limit=channel.MAX_LINE
        )
        self.send({"op": "hello", "worker": 0, "serial": 0, "snapshot": ""})
        self.task = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        self.writer.close()
        await asyncio.wait([self.task])

    def send(self, message):
        self.writer.write(channel.encode(message))

    async def _listen(self):
        while (message := await channel.read(self.reader)) is not None:
            self.got.append(message)
            match message["op"]:
                case "metrics":
                    out = MetricsWriter()
                    out.count("urlguard_queries_total", 42, "udp")
                    took = Histogram()
                    took.observe(0.0002, 3)
                    out.histogram("urlguard_answer_duration_seconds", took, "inline")
                    self.send({"id": message["id"], "metrics": out.as_json()})
                case "flush":
                    self.send({"id": message["id"], "removed": 7})
                case "snapshot":
                    self.serial = int(re.findall(r"\d+", Path(message["path"]).name)[0])
                    self.send({"serial": self.serial})
                case "change" if "serial" in message:
                    self.serial = message["serial"]
                    self.send({"serial": self.serial})


async def until(condition, seconds=30.0):
    """Wait for something that must happen soon."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def test_the_control_process_serves_metrics_health_hits_and_flushes(tmp_path):
    """
    With a worker connected: metrics parse and hold its out, it is healthy and ready, it has the
    day's key, its hits are on the disk, and a flush reaches it.
    """
    async with (
        control_process(tmp_path) as (settings, events),
        FakeWorker(settings) as worker,
        aiohttp.ClientSession() as http,
    ):
        await until(lambda: events("api.listening"))
        base = f"http://{events('api.listening')[0]['address']}"
        await until(lambda: any(m["op"] == "ready" for m in worker.got))

        async with http.get(f"{base}/metrics") as answer:
            assert answer.status == 200
            families = {f.name: f for f in text_string_to_metric_families(await answer.text())}
        (sample,) = families["urlguard_queries"].samples
        assert (sample.labels, sample.value) == ({"worker": "0", "transport": "udp"}, 42)
        counts = [s.value for s in families["urlguard_answer_duration_seconds"].samples]
        assert counts == [0, *[3] * len(BOUNDS), 3, pytest.approx(0.0006)]
        (rules,) = families["urlguard_feed_rules"].samples
        assert (rules.labels, rules.value) == ({"feed": "list"}, 1)

        async with http.get(f"{base}/healthz") as answer:
            assert (answer.status, (await answer.json())["answering"]) == (200, 1)
        await asyncio.sleep(1.1)
        async with http.get(f"{base}/readyz") as answer:
            found = await answer.json()
            assert (answer.status, found["ready"], found["why"]) == (200, True, [])
            assert found["paused"] is False

        await until(lambda: any(m["op"] == "hitkey" for m in worker.got))
        row = [time.time(), "0" * 16, "evil.example", 1, "block", "fraud", "subtree evil.example"]
        worker.send({"op": "hits", "rows": [[*row, ["feed:list"], "", 3]]})
        folder = settings.state_dir / "hits"
        await until(lambda: list(folder.glob("*.jsonl")))
        (written,) = folder.glob("*.jsonl")
        assert json.loads(written.read_text())["count"] == 3

        ask = {"op": "flush", "names": ["EVIL.example."], "all": False}
        reply = await asyncio.to_thread(channel.ask, settings.state_dir, ask)
        assert reply == {"removed": 7, "workers": 1, "flushed": 1}
        (flush,) = (m for m in worker.got if m["op"] == "flush")
        assert (flush["names"], flush["all"]) == (["evil.example"], False)
        for wrong in ({"names": []}, {"names": ["a b"]}, {"names": "x"}, {"names": ["x"] * 2000}):
            reply = await asyncio.to_thread(
                channel.ask, settings.state_dir, {"op": "flush", **wrong}
            )
            assert "error" in reply


async def test_a_taken_address_stops_nothing(tmp_path):
    """
    Policy reaches the worker all the same, and HTTP begins when the address becomes free.
    """
    taken = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    address = config.Endpoint(*taken.sockets[0].getsockname())
    async with (
        control_process(tmp_path, api=config.Api(listen=address)) as (settings, events),
        FakeWorker(settings) as worker,
    ):
        await until(lambda: any(m["op"] == "ready" for m in worker.got))
        await until(lambda: events("api.unavailable"))
        assert not events("api.listening")
        taken.close()
        await taken.wait_closed()
        await until(lambda: events("api.listening"))
        assert len(events("api.unavailable")) == 1
