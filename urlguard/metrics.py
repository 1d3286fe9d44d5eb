"""
Metrics: the table of their names, histograms, and one process's values as JSON.

A worker counts in its parts, in Counters and `Histogram`s.  Only when the control process asks does
`Collectors.collect` call a function of each part, which writes its values into a `MetricsWriter`.
So counting costs the packet path an addition, and nothing happens between two requests.

`METRICS` is the only place that names metrics; other names or labels are refused, and a test
compares the page on monitoring with it.  Names follow Prometheus: base units (seconds, bytes),
``_total`` for counters, ``_info`` for constants with labels.  Label values come from the
configuration (plugins, upstreams, feeds), never from queries.  A metric has at most `MAX_SERIES`;
further ones are added up as ``other``.
"""

import json
import resource
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

MAX_SERIES: Final = 200  # of one metric in one worker
MAX_LABEL: Final = 330  # characters: "tls://" with the longest address, port and name fit
OTHER: Final = "other"

# Seconds.  The lower half is for inline answers, the upper for forwarded ones.
BOUNDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
_LAST: Final = len(BOUNDS)


class Metric(NamedTuple):
    """
    A metric: ``kind`` is counter, gauge or histogram; ``help`` describes it.

    If ``worker`` is True each worker has values, with the label ``worker`` before the others.
    """

    kind: str
    help: str
    labels: tuple[str, ...] = ()
    worker: bool = True


def _control(kind: str, help: str, *labels: str) -> Metric:  # noqa: A002, the field's name
    return Metric(kind, help, labels, worker=False)


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
        "block and review verdicts, by rule source: operator, analyst:NAME, feed:NAME, classifier",
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
        "queries that rules in shadow would have blocked, by rule source",
        ("rule_source",),
    ),
    "urlguard_sampled_queries": Metric(
        "gauge", "queries in the worker's sample, on which impact is measured"
    ),
    "urlguard_answer_duration_seconds": Metric(
        "histogram", "time from query to answer, by path: inline or forwarded", ("path",)
    ),
    "urlguard_unanswered_total": Metric(
        "counter",
        "queries without a proper answer, and answers that could not be sent",
        ("reason",),
    ),
    "urlguard_truncated_answers_total": Metric(
        "counter", "truncated answers (TC), after which clients retry over TCP"
    ),
    "urlguard_tcp_connections_total": Metric(
        "counter", "TCP connections opened and closed, by event", ("event",)
    ),
    "urlguard_tcp_connections_open": Metric("gauge", "TCP connections open now"),
    "urlguard_limited_queries_total": Metric(
        "counter", "queries over a limit, by limit", ("limit",)
    ),
    "urlguard_plugin_events_total": Metric(
        "counter", "events that plugins count; see their pages", ("plugin", "event")
    ),
    "urlguard_plugin_failures_total": Metric(
        "counter", "queries that got SERVFAIL because a plugin failed"
    ),
    "urlguard_packet_cache_entries": Metric("gauge", "answers in the packet cache"),
    # Upstreams
    "urlguard_upstream_queries_total": Metric("counter", "queries sent", ("upstream",)),
    "urlguard_upstream_responses_total": Metric("counter", "replies accepted", ("upstream",)),
    "urlguard_upstream_timeouts_total": Metric("counter", "queries without a reply", ("upstream",)),
    "urlguard_upstream_errors_total": Metric(
        "counter", "failed connections and unusable replies", ("upstream",)
    ),
    "urlguard_upstream_rtt_seconds": Metric("gauge", "smoothed round-trip time", ("upstream",)),
    "urlguard_upstream_up": Metric(
        "gauge",
        "1 while the upstream is in use, 0 while it is skipped after failures",
        ("upstream",),
    ),
    "urlguard_forward_queries_in_flight": Metric(
        "gauge", "forwarded queries that wait for a reply"
    ),
    "urlguard_forward_ignored_datagrams_total": Metric(
        "counter", "datagrams that match no forwarded query, by reason", ("reason",)
    ),
    # Cache
    "urlguard_cache_entries": Metric("gauge", "answers in the cache"),
    "urlguard_cache_bytes": Metric("gauge", "memory of the answers in the cache"),
    "urlguard_cache_lookups_total": Metric(
        "counter", "look-ups, by result: hit, miss or stale", ("result",)
    ),
    "urlguard_cache_evictions_total": Metric("counter", "answers dropped to make room"),
    # Policy in the worker
    "urlguard_policy_serial": Metric("gauge", "serial of the policy in force"),
    "urlguard_snapshot_serial": Metric("gauge", "serial of the snapshot in use"),
    "urlguard_snapshot_age_seconds": Metric(
        "gauge", "time since the worker opened the snapshot in use"
    ),
    "urlguard_snapshot_swaps_total": Metric("counter", "snapshots opened and put in use"),
    "urlguard_snapshot_swap_duration_seconds": Metric(
        "gauge", "duration of the last swap, opening included"
    ),
    "urlguard_canary_blocked": Metric("gauge", "1 if the canary name is answered as blocked"),
    # The classifier
    "urlguard_classifier_model_info": Metric(
        "gauge", "1 for the model in use (champion) and for the shadow", ("role", "model")
    ),
    "urlguard_classifier_names_total": Metric(
        "counter", "names that the model has scored or skipped, by verdict", ("verdict",)
    ),
    "urlguard_classifier_shadow_names_total": Metric(
        "counter", "names that both models have scored, by who would block", ("result",)
    ),
    "urlguard_classifier_remembered_names": Metric("gauge", "names whose verdict is cached"),
    "urlguard_classifier_suspects": Metric("gauge", "suspects for `urlguard suspects`"),
    # Hits and dnstap
    "urlguard_hits_dropped_total": Metric(
        "counter", "hits dropped before they reached the control process"
    ),
    "urlguard_dnstap_frames_total": Metric(
        "counter", "dnstap frames, by result: queued, sent or dropped", ("result",)
    ),
    "urlguard_dnstap_connected": Metric("gauge", "1 while the collector is connected"),
    # The process
    "urlguard_worker_cpu_seconds_total": Metric("counter", "CPU time used"),
    "urlguard_worker_resident_memory_bytes": Metric(
        "gauge", "resident memory, shared pages included"
    ),
    "urlguard_worker_start_time_seconds": Metric("gauge", "start time, in seconds since 1970"),
    # The control process
    "urlguard_worker_up": _control("gauge", "1 if the worker answered within a second", "worker"),
    "urlguard_build_info": _control("gauge", "always 1; the version is a label", "version"),
    "urlguard_filtering_paused": _control("gauge", "1 while `urlguard pause` is in force"),
    "urlguard_policy_log_up": _control("gauge", "1 if the policy log can be read within a second"),
    "urlguard_policy_log_serial": _control("gauge", "serial of the policy log"),
    "urlguard_newest_snapshot_serial": _control("gauge", "serial of the newest snapshot"),
    "urlguard_overlay_keys": _control("gauge", "rules changed since the newest snapshot"),
    "urlguard_compile_duration_seconds": _control("gauge", "duration of the last compile"),
    "urlguard_compile_failures_total": _control("counter", "compiles that failed"),
    "urlguard_feed_rules": _control("gauge", "rules of the feed's last good version", "feed"),
    "urlguard_feed_quarantined_rules": _control("gauge", "quarantined rules among them", "feed"),
    "urlguard_feed_age_seconds": _control("gauge", "time since the last good refresh", "feed"),
    "urlguard_feed_failing": _control("gauge", "1 if the last refresh failed", "feed"),
    "urlguard_candidates_pending": _control("gauge", "candidates that wait for a verdict"),
    "urlguard_decisions_pending_approval": _control(
        "gauge", "decisions that wait for a second person"
    ),
    "urlguard_hit_log_rows_total": _control("counter", "rows written to the hit log"),
    "urlguard_hit_log_dropped_rows_total": _control(
        "counter", "rows that could not be written to the hit log"
    ),
}


class Histogram:
    """
    A histogram of durations with the upper bounds `BOUNDS` (seconds).
    """

    __slots__ = ("_counts", "total")

    def __init__(self) -> None:
        self._counts = [0] * (_LAST + 1)  # not cumulative; the last bucket has no bound
        self.total = 0.0  # seconds

    def observe(self, seconds: float, n: int = 1) -> None:
        """Count `n` events of `seconds` each."""
        self._counts[bisect_left(BOUNDS, seconds)] += n
        self.total += seconds * n

    def cumulative(self) -> list[int]:
        """The number of events up to each bound, and then of all."""
        found, so_far = [], 0
        for count in self._counts:
            so_far += count
            found.append(so_far)
        return found


Label = str | int


class MetricsWriter:
    """Takes the values of collectors: checked against `METRICS`, bounded in number."""

    def __init__(self) -> None:
        self._values: dict[str, dict[tuple[str, ...], float]] = {}
        self._histograms: dict[str, dict[tuple[str, ...], Histogram]] = {}

    def count(self, name: str, value: float, *labels: Label) -> None:
        """
        Add to a counter its value since the process started.

        Raises:
            ValueError: there is no such counter in `METRICS`, or it has other labels.
        """
        self._add("counter", name, value, labels)

    def count_each(self, name: str, counter: Mapping[str, float], *labels: Label) -> None:
        """Add to a counter for each key of `counter`; the key is the last label."""
        for key, value in counter.items():
            self.count(name, value, *labels, key)

    def gauge(self, name: str, value: float, *labels: Label) -> None:
        """Set a gauge; a second value under the same labels is added."""
        self._add("gauge", name, value, labels)

    def histogram(self, name: str, value: Histogram, *labels: Label) -> None:
        """Set a histogram; it must not change before `as_json`."""
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
        # Counters can be added up, gauges cannot.
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


Collector = Callable[[MetricsWriter], None]


class Collectors:
    """One worker's collectors: functions that write the values of a part."""

    def __init__(self, collectors: Iterable[Collector] = ()) -> None:
        self._collectors = [process_metrics, *collectors]

    def add(self, collector: Collector) -> None:
        """Add a collector; it must not wait and not raise."""
        self._collectors.append(collector)

    def clear(self) -> None:
        """Remove all collectors but the process's own: a reload makes new plugins."""
        del self._collectors[1:]

    def collect(self, max_octets: int) -> dict[str, dict[str, list[list[Any]]]]:
        """
        All values now; see `MetricsWriter.as_json`.

        If they have more than `max_octets` as JSON, the metrics with most series are left out.
        """
        out = MetricsWriter()
        for collector in self._collectors:
            collector(out)
        found = out.as_json()
        while len(json.dumps(found)) > max_octets:
            kind, name = max(
                ((kind, name) for kind, names in found.items() for name in names),
                key=lambda at: len(found[at[0]][at[1]]),
            )
            del found[kind][name]
        return found


_STARTED = time.time()
_PAGE = resource.getpagesize()


def process_metrics(out: MetricsWriter) -> None:
    """CPU time, memory and start time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    out.count("urlguard_worker_cpu_seconds_total", used.ru_utime + used.ru_stime)
    out.gauge("urlguard_worker_start_time_seconds", _STARTED)
    try:
        resident = int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        resident = used.ru_maxrss * 1024  # not Linux: the most it ever was
    out.gauge("urlguard_worker_resident_memory_bytes", resident)
