"""
What is counted: the table of metrics, histograms, and one process's figures as plain JSON.

A worker keeps its figures where they arise, in Counters and `Histogram`s.  Only when the control
process asks does `Stats.gather` call those who know them, and puts what they say into one message.
So counting costs the packet path an addition, and nothing else happens between two questions.

`METRICS` is the only place where a metric is named: figures under another name, or with other
labels, are refused, and the page on monitoring is compared with it by a test.  Label values come
from the configuration (plugins, upstreams, feeds), never from queries, and each metric has at most
`MAX_SERIES`; what is beyond is added up as ``other``.
"""

import resource
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from urlguard.processes import channel

MAX_SERIES: Final = 200  # of one metric in one worker
MAX_LABEL: Final = 330  # characters: "tls://" with the longest address, port and name fit
OTHER: Final = "other"

# Seconds.  The lower half is for answers that are given at once, the upper for forwarded ones.
BOUNDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
_LAST: Final = len(BOUNDS)


class Metric(NamedTuple):
    """
    A metric: ``kind`` is counter, gauge or histogram; ``words`` say what is counted.

    Of a ``worker``, it is told by each worker and gets the label ``worker`` before its own.
    """

    kind: str
    words: str
    labels: tuple[str, ...] = ()
    worker: bool = True


def _control(kind: str, words: str, *labels: str) -> Metric:
    return Metric(kind, words, labels, worker=False)


METRICS: Final[dict[str, Metric]] = {
    # Queries and answers
    "urlguard_queries_total": Metric("counter", "queries read", ("transport",)),
    "urlguard_answers_total": Metric(
        "counter",
        "answers sent, by source (a plugin or packet_cache) and verdict",
        ("source", "verdict"),
    ),
    "urlguard_hits_total": Metric(
        "counter",
        "block and review verdicts, by who said so: operator, analyst:NAME, feed:NAME, classifier",
        ("action", "rule_source"),
    ),
    "urlguard_category_hits_total": Metric(
        "counter", "the same, by the rule's category", ("action", "category")
    ),
    "urlguard_segment_hits_total": Metric(
        "counter", "the same, by the client's segment", ("action", "segment")
    ),
    "urlguard_shadow_hits_total": Metric(
        "counter",
        "queries that rules in shadow would have blocked, by who says so",
        ("rule_source",),
    ),
    "urlguard_sampled_queries": Metric(
        "gauge", "queries in the sample by which a change is weighed, one of each worker"
    ),
    "urlguard_answer_seconds": Metric(
        "histogram", "from query to answer, by path: inline or forwarded", ("path",)
    ),
    "urlguard_unanswered_total": Metric(
        "counter", "queries without a proper answer, and answers that could not be sent", ("why",)
    ),
    "urlguard_truncated_total": Metric("counter", "answers cut to TC, which send clients to TCP"),
    "urlguard_tcp_connections_total": Metric(
        "counter", "TCP connections, by what became of them", ("event",)
    ),
    "urlguard_tcp_open": Metric("gauge", "TCP connections open now"),
    "urlguard_limited_total": Metric("counter", "queries over a limit, by which", ("limit",)),
    "urlguard_plugin_events_total": Metric(
        "counter", "what plugins count beyond the rest; see their pages", ("plugin", "event")
    ),
    "urlguard_plugin_failures_total": Metric(
        "counter", "queries that got SERVFAIL because a plugin raised"
    ),
    "urlguard_packet_cache_entries": Metric("gauge", "answers in the packet cache"),
    # Upstreams
    "urlguard_upstream_queries_total": Metric("counter", "queries sent", ("upstream",)),
    "urlguard_upstream_answers_total": Metric("counter", "replies accepted", ("upstream",)),
    "urlguard_upstream_timeouts_total": Metric("counter", "queries without a reply", ("upstream",)),
    "urlguard_upstream_errors_total": Metric(
        "counter", "failed connections and unusable replies", ("upstream",)
    ),
    "urlguard_upstream_rtt_seconds": Metric("gauge", "smoothed time to a reply", ("upstream",)),
    "urlguard_upstream_up": Metric("gauge", "1 while it is asked, 0 while it rests", ("upstream",)),
    "urlguard_forward_in_flight": Metric("gauge", "forwarded queries under way"),
    "urlguard_forward_ignored_total": Metric(
        "counter", "datagrams that were no reply to a query under way, by what was wrong", ("why",)
    ),
    # Cache
    "urlguard_cache_entries": Metric("gauge", "answers kept"),
    "urlguard_cache_bytes": Metric("gauge", "memory that they take, in octets"),
    "urlguard_cache_lookups_total": Metric("counter", "look-ups: hit, miss or stale", ("result",)),
    "urlguard_cache_evicted_total": Metric("counter", "answers dropped for lack of room"),
    # Policy in the worker
    "urlguard_policy_serial": Metric("gauge", "the batch whose policy is in force"),
    "urlguard_snapshot_serial": Metric("gauge", "the batch of the snapshot in use"),
    "urlguard_snapshot_age_seconds": Metric("gauge", "since the snapshot in use was taken up"),
    "urlguard_swaps_total": Metric("counter", "snapshots taken up"),
    "urlguard_swap_seconds": Metric("gauge", "what the last swap took, opening included"),
    "urlguard_canary_blocked": Metric("gauge", "1 if the canary name is answered as blocked"),
    # The classifier
    "urlguard_classifier_model": Metric(
        "gauge", "1 for the model in use (champion), and the shadow", ("role", "model")
    ),
    "urlguard_classifier_names_total": Metric(
        "counter", "names that the model was asked about for the first time", ("verdict",)
    ),
    "urlguard_classifier_shadow_total": Metric(
        "counter", "of them, those that the shadow scored too, by who would block", ("result",)
    ),
    "urlguard_classifier_known": Metric("gauge", "names whose judgement is remembered"),
    "urlguard_classifier_suspects": Metric("gauge", "suspects kept for `urlguard suspects`"),
    # The worker's way out
    "urlguard_hits_dropped_total": Metric("counter", "hits that did not reach the hit log"),
    "urlguard_dnstap_frames_total": Metric(
        "counter", "dnstap frames: queued, sent or dropped", ("result",)
    ),
    "urlguard_dnstap_connected": Metric("gauge", "1 while the collector is connected"),
    # The process
    "urlguard_worker_cpu_seconds_total": Metric("counter", "processor time used"),
    "urlguard_worker_resident_bytes": Metric("gauge", "memory in use, shared pages included"),
    "urlguard_worker_start_time_seconds": Metric("gauge", "start, in seconds since 1970"),
    # The control process
    "urlguard_worker_up": _control("gauge", "1 if the worker answered within a second", "worker"),
    "urlguard_build_info": _control("gauge", "always 1; the version is a label", "version"),
    "urlguard_filtering_paused": _control("gauge", "1 while `urlguard pause` is in force"),
    "urlguard_log_answers": _control("gauge", "1 if the policy log could be read in time"),
    "urlguard_log_serial": _control("gauge", "the last batch of the policy log"),
    "urlguard_newest_snapshot_serial": _control("gauge", "the batch of the newest snapshot"),
    "urlguard_overlay_keys": _control("gauge", "rule changes since the newest snapshot"),
    "urlguard_compile_seconds": _control("gauge", "what the last compile took"),
    "urlguard_compile_failures_total": _control("counter", "compiles that failed"),
    "urlguard_feed_rules": _control("gauge", "rules of the feed's last good list", "feed"),
    "urlguard_feed_held": _control("gauge", "of them, held back", "feed"),
    "urlguard_feed_age_seconds": _control("gauge", "since the last good refresh", "feed"),
    "urlguard_feed_failing": _control("gauge", "1 if the last refresh failed", "feed"),
    "urlguard_candidates_waiting": _control("gauge", "candidates that wait to be judged"),
    "urlguard_decisions_pending_approval": _control(
        "gauge", "decisions that wait for a second person"
    ),
    "urlguard_hit_log_rows_total": _control("counter", "rows written to the hit log"),
    "urlguard_hit_log_dropped_total": _control("counter", "hits that could not be written"),
}


class Histogram:
    """
    How often something took how long, in fixed classes with the upper bounds `BOUNDS` (seconds).
    """

    __slots__ = ("_counts", "total")

    def __init__(self) -> None:
        self._counts = [0] * (_LAST + 1)  # not cumulative; the last class has no bound
        self.total = 0.0  # seconds

    def observe(self, seconds: float, n: int = 1) -> None:
        """Count `n` events that took `seconds` each."""
        self._counts[bisect_left(BOUNDS, seconds)] += n
        self.total += seconds * n

    def cumulative(self) -> list[int]:
        """The events up to each bound, and at last all of them."""
        found, so_far = [], 0
        for count in self._counts:
            so_far += count
            found.append(so_far)
        return found


Label = str | int


class Figures:
    """What a collector writes into: checked against `METRICS`, bounded in number."""

    def __init__(self) -> None:
        self._values: dict[str, dict[tuple[str, ...], float]] = {}
        self._histograms: dict[str, dict[tuple[str, ...], Histogram]] = {}

    def count(self, name: str, value: float, *labels: Label) -> None:
        """
        Add to a counter: what it counted since the process began.

        Raises:
            ValueError: there is no such counter in `METRICS`, or it has other labels.
        """
        self._add("counter", name, value, labels)

    def counts(self, name: str, counter: Mapping[str, float], *labels: Label) -> None:
        """Add each key of `counter`, which becomes the last label."""
        for key, value in counter.items():
            self.count(name, value, *labels, key)

    def gauge(self, name: str, value: float, *labels: Label) -> None:
        """Set a gauge; a second value under the same labels is added."""
        self._add("gauge", name, value, labels)

    def histogram(self, name: str, value: Histogram, *labels: Label) -> None:
        """Add a histogram; it must not change before it is written."""
        key = self._key("histogram", name, labels, self._histograms.setdefault(name, {}))
        if key is not None:
            self._histograms[name][key] = value

    def _add(self, kind: str, name: str, value: float, labels: tuple[Label, ...]) -> None:
        series = self._values.setdefault(name, {})
        key = self._key(kind, name, labels, series)
        if key is not None:
            series[key] = series.get(key, 0) + value

    def _key(
        self, kind: str, name: str, labels: tuple[Label, ...], series: Mapping[Any, Any]
    ) -> tuple[str, ...] | None:
        metric = METRICS.get(name)
        if metric is None or metric.kind != kind or len(metric.labels) != len(labels):
            raise ValueError(f"metric {name!r}: no {kind} with {len(labels)} labels in METRICS")
        key = tuple(_clean(label) for label in labels)
        if key in series or len(series) < MAX_SERIES - 1:
            return key
        # Gauges of different things cannot be added up; counters can.
        return (OTHER,) * len(key) if kind == "counter" else None

    def as_json(self) -> dict[str, dict[str, list[list[Any]]]]:
        """
        ``{"counters": {name: [[labels, value], …]}, "gauges": …, "histograms": …}``.

        A histogram's value is ``[cumulative counts, total seconds]``.
        """
        found: dict[str, dict[str, list[list[Any]]]] = {
            "counters": {},
            "gauges": {},
            "histograms": {
                name: [[list(k), [h.cumulative(), h.total]] for k, h in series.items()]
                for name, series in self._histograms.items()
            },
        }
        for name, series in self._values.items():
            found[METRICS[name].kind + "s"][name] = [[list(k), v] for k, v in series.items()]
        return found


def _clean(label: Label) -> str:
    text = str(label)[:MAX_LABEL]
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1][:MAX_LABEL]


Collector = Callable[[Figures], None]


class Stats:
    """One worker's figures, from those who know them."""

    def __init__(self, collectors: Iterable[Collector] = ()) -> None:
        self._collectors = [process_figures, *collectors]

    def add(self, collector: Collector) -> None:
        """Have `collector` called at every `gather`; it must not wait and not raise."""
        self._collectors.append(collector)

    def clear(self) -> None:
        """Forget all collectors but the process's own: a reload makes new plugins."""
        del self._collectors[1:]

    def gather(self) -> dict[str, dict[str, list[list[Any]]]]:
        """All figures now; see `Figures.as_json`."""
        figures = Figures()
        for collect in self._collectors:
            collect(figures)
        return figures.as_json()

    def reply(self, ident: object) -> bytes:
        """
        The line that answers ``{"op": "stats", "id": ident}``.

        Longer than the channel permits it cannot be; then the metrics with most series are left
        out.
        """
        found = self.gather()
        while len(line := channel.encode({"id": ident, "stats": found})) > channel.MAX_LINE // 2:
            kind, name = max(
                ((kind, name) for kind, names in found.items() for name in names),
                key=lambda at: len(found[at[0]][at[1]]),
            )
            del found[kind][name]
        return line


_STARTED = time.time()
_PAGE = resource.getpagesize()


def process_figures(figures: Figures) -> None:
    """Processor time, memory and start of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    figures.count("urlguard_worker_cpu_seconds_total", used.ru_utime + used.ru_stime)
    figures.gauge("urlguard_worker_start_time_seconds", _STARTED)
    try:
        resident = int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        resident = used.ru_maxrss * 1024  # not Linux: the most it ever was
    figures.gauge("urlguard_worker_resident_bytes", resident)
