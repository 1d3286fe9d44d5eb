"""What listeners and plugins count, under the names of the metrics."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from urlguard.engine import ActiveEngine
from urlguard.hitlog.buffer import HitBuffer
from urlguard.metrics import Figures
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
    "urlguard_upstream_answers_total": "answered",
    "urlguard_upstream_timeouts_total": "timeouts",
    "urlguard_upstream_errors_total": "errors",
}


def listeners(found: Iterable[Listener], connections: Connections, figures: Figures) -> None:
    """Queries by transport, queries without a proper answer, and connections."""
    for one in found:
        counters = one.counters
        figures.count("urlguard_queries_total", counters["queries"], one.transport)
        figures.count("urlguard_truncated_total", counters["truncated"])
        figures.count("urlguard_tcp_connections_total", counters["connections"], "opened")
        for why in _UNANSWERED:
            figures.count("urlguard_unanswered_total", counters[why], why)
        for event in _CLOSED:
            figures.count("urlguard_tcp_connections_total", counters[event], event)
    figures.gauge("urlguard_tcp_open", len(connections))


def chain(found: Chain, figures: Figures) -> None:
    """What the plugins of a chain count."""
    figures.count("urlguard_plugin_failures_total", found.failures)
    for plugin in found.plugins:
        match plugin:
            case Cache():
                _cache(plugin, figures)
            case Forward():
                _forward(plugin, figures)
            case Limit():
                figures.counts("urlguard_limited_total", plugin.counters)
            case _:
                counters: dict[str, int] = getattr(plugin, "counters", {})
                for event, count in counters.items():
                    figures.count("urlguard_plugin_events_total", count, plugin.name, event)


def canary(found: Chain, active: ActiveEngine, figures: Figures) -> None:
    """Whether the canary name gets the block answer here, from a guard with a policy."""
    guards = [plugin for plugin in found.plugins if isinstance(plugin, Guard)]
    armed = active.engine.serial > 0 and any(map(_blocks_canary, guards))
    figures.gauge("urlguard_canary_blocked", 1 if armed else 0)


def _blocks_canary(guard: Guard) -> bool:
    name = b"".join(bytes((len(p),)) + p.encode() for p in guard.canary.split("."))
    x = Exchange(parse_query(bytes(4) + b"\0\1" + bytes(6) + name + b"\0\0\1\0\1"))
    try:
        found = guard.on_query(x)
    except Exception:  # as the chain would say SERVFAIL
        return False
    return found is not None and found.ruling is not None


def classifier(found: Chain, figures: Figures) -> None:
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
                figures.gauge("urlguard_classifier_model", 1, role, model.ident)
        figures.counts("urlguard_classifier_names_total", classifier.counters)
        figures.counts("urlguard_classifier_shadow_total", classifier.shadowed)
        figures.gauge("urlguard_classifier_known", len(classifier))
        figures.gauge("urlguard_classifier_suspects", len(classifier.suspects))


def _cache(cache: Cache, figures: Figures) -> None:
    counters = cache.counters
    figures.gauge("urlguard_cache_entries", len(cache))
    figures.gauge("urlguard_cache_bytes", cache.bytes)
    for result, counted in (("hit", "hits"), ("miss", "misses"), ("stale", "stale")):
        figures.count("urlguard_cache_lookups_total", counters[counted], result)
    figures.count("urlguard_cache_evicted_total", counters["evicted"])
    for event in ("shared", "prefetched", "failures", "over_misses", "flushed"):
        figures.count("urlguard_plugin_events_total", counters[event], "cache", event)


def _forward(forward: Forward, figures: Figures) -> None:
    figures.gauge("urlguard_forward_in_flight", forward.in_flight)
    for event, count in forward.counters.items():
        if event.startswith("wrong_") or event in ("malformed", "headless"):
            figures.count("urlguard_forward_ignored_total", count, event)
        else:
            figures.count("urlguard_plugin_events_total", count, "forward", event)
    for state in forward.upstreams_state():
        where: Any = state["upstream"]
        for metric, key in _UPSTREAM.items():
            figures.count(metric, state.get(key, 0), where)
        figures.gauge("urlguard_upstream_up", 1 if state["up"] else 0, where)
        if state.get("srtt_ms") is not None:
            figures.gauge("urlguard_upstream_rtt_seconds", state["srtt_ms"] / 1000, where)


def dnstap(tap: "DnsTap", figures: Figures) -> None:
    """Frames on their way to the collector."""
    for result in ("queued", "sent", "dropped"):
        figures.count("urlguard_dnstap_frames_total", tap.counters[result], result)
    figures.gauge("urlguard_dnstap_connected", 1 if tap.connected else 0)


def hits(buffer: HitBuffer, figures: Figures) -> None:
    """Hits that were lost on their way to the control process."""
    figures.count("urlguard_hits_dropped_total", buffer.counters["dropped"])
