"""What listeners and plugins count, under the names of the metrics."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from urlguard.engine import ActiveEngine
from urlguard.hitlog.buffer import HitBuffer
from urlguard.metrics import MetricsWriter
from urlguard.plugins import Chain, Exchange
from urlguard.plugins.cache import Cache
from urlguard.plugins.forward import Forward
from urlguard.plugins.guard import Guard
from urlguard.plugins.limit import Limit
from urlguard.wire.query import parse_query
from urlguard.worker.listeners import Listener
from urlguard.worker.listeners.connections import Connections

if TYPE_CHECKING:
    from urlguard.worker.dnstap import DnsTap

_UNANSWERED = ("dropped", "malformed", "send_failed", "read_failed")
_CLOSED = ("closed_idle", "closed_full", "closed_client", "closed_slow")
_UPSTREAM = {
    "urlguard_upstream_queries_total": "sent",
    "urlguard_upstream_responses_total": "answered",
    "urlguard_upstream_timeouts_total": "timeouts",
    "urlguard_upstream_errors_total": "errors",
}


def listeners(found: Iterable[Listener], connections: Connections, out: MetricsWriter) -> None:
    """Queries by transport, queries without a proper answer, and connections."""
    for one in found:
        counters = one.counters
        out.count("urlguard_queries_total", counters["queries"], one.transport)
        out.count("urlguard_truncated_answers_total", counters["truncated"])
        out.count("urlguard_tcp_connections_total", counters["connections"], "opened")
        for why in _UNANSWERED:
            out.count("urlguard_unanswered_total", counters[why], why)
        for event in _CLOSED:
            out.count("urlguard_tcp_connections_total", counters[event], event)
    out.gauge("urlguard_tcp_connections_open", len(connections))


def chain(found: Chain, out: MetricsWriter) -> None:
    """What the plugins of a chain count."""
    out.count("urlguard_plugin_failures_total", found.failures)
    for plugin in found.plugins:
        match plugin:
            case Cache():
                _cache(plugin, out)
            case Forward():
                _forward(plugin, out)
            case Limit():
                out.count_each("urlguard_limited_queries_total", plugin.counters)
            case _:
                counters: dict[str, int] = getattr(plugin, "counters", {})
                for event, count in counters.items():
                    out.count("urlguard_plugin_events_total", count, plugin.name, event)


def canary(found: Chain, active: ActiveEngine, out: MetricsWriter) -> None:
    """Whether the canary name gets the block answer here, from a guard with a policy."""
    guards = [plugin for plugin in found.plugins if isinstance(plugin, Guard)]
    armed = active.engine.serial > 0 and any(map(_blocks_canary, guards))
    out.gauge("urlguard_canary_blocked", 1 if armed else 0)


def _blocks_canary(guard: Guard) -> bool:
    name = b"".join(bytes((len(p),)) + p.encode() for p in guard.canary.split("."))
    x = Exchange(parse_query(bytes(4) + b"\0\1" + bytes(6) + name + b"\0\0\1\0\1"))
    try:
        found = guard.on_query(x)
    except Exception:  # as the chain would say SERVFAIL
        return False
    return found is not None and found.ruling is not None


def classifier(found: Chain, out: MetricsWriter) -> None:
    """Which models run, and what they say."""
    for plugin in found.plugins:
        classifier = plugin.classifier if isinstance(plugin, Guard) else None
        if classifier is None:
            continue
        for role, model in (
            ("champion", classifier.models.name),
            ("shadow", classifier.models.shadow),
        ):
            if model is not None:
                out.gauge("urlguard_classifier_model_info", 1, role, model.ident)
        out.count_each("urlguard_classifier_names_total", classifier.counters)
        out.count_each("urlguard_classifier_shadow_names_total", classifier.shadowed)
        out.gauge("urlguard_classifier_remembered_names", len(classifier))
        out.gauge("urlguard_classifier_suspects", len(classifier.suspects))


def _cache(cache: Cache, out: MetricsWriter) -> None:
    counters = cache.counters
    out.gauge("urlguard_cache_entries", len(cache))
    out.gauge("urlguard_cache_bytes", cache.bytes)
    for result, counted in (("hit", "hits"), ("miss", "misses"), ("stale", "stale")):
        out.count("urlguard_cache_lookups_total", counters[counted], result)
    out.count("urlguard_cache_evictions_total", counters["evicted"])
    for event in ("shared", "prefetched", "failures", "over_misses", "flushed"):
        out.count("urlguard_plugin_events_total", counters[event], "cache", event)


def _forward(forward: Forward, out: MetricsWriter) -> None:
    out.gauge("urlguard_forward_queries_in_flight", forward.in_flight)
    for event, count in forward.counters.items():
        if event.startswith("wrong_") or event in ("malformed", "headless"):
            out.count("urlguard_forward_ignored_datagrams_total", count, event)
        else:
            out.count("urlguard_plugin_events_total", count, "forward", event)
    for state in forward.upstreams_state():
        where: Any = state["upstream"]
        for metric, key in _UPSTREAM.items():
            out.count(metric, state.get(key, 0), where)
        out.gauge("urlguard_upstream_up", 1 if state["up"] else 0, where)
        if state.get("srtt_ms") is not None:
            out.gauge("urlguard_upstream_rtt_seconds", state["srtt_ms"] / 1000, where)


def dnstap(tap: "DnsTap", out: MetricsWriter) -> None:
    """Frames on their way to the collector."""
    for result in ("queued", "sent", "dropped"):
        out.count("urlguard_dnstap_frames_total", tap.counters[result], result)
    out.gauge("urlguard_dnstap_connected", 1 if tap.connected else 0)


def hits(buffer: HitBuffer, out: MetricsWriter) -> None:
    """Hits that were lost on their way to the control process."""
    out.count("urlguard_hits_dropped_total", buffer.counters["dropped"])
