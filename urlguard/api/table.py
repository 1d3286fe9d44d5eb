"""
The table of all routes.

Each part keeps its rows beside its handlers; here they come together, in the order of ``/docs``.
"""

from pathlib import Path
from typing import Final

from urlguard.api import documents, health, metrics, root
from urlguard.api.routes import Route
from urlguard.api.v1 import (
    appeals,
    candidates,
    cases,
    checks,
    decisions,
    feeds,
    log,
    preview,
    rules,
    sources,
    submissions,
    webhooks,
    why,
)

ROUTES: Final[tuple[Route, ...]] = (
    *checks.ROUTES,
    *candidates.ROUTES,
    *sources.ROUTES,
    *submissions.ROUTES,
    *webhooks.ROUTES,
    *cases.ROUTES,
    *decisions.ROUTES,
    *appeals.ROUTES,
    *rules.ROUTES,
    *preview.ROUTES,
    *feeds.ROUTES,
    *why.ROUTES,
    *log.ROUTES,
    *health.ROUTES,
    *root.ROUTES,
    *documents.ROUTES,
)


def routes(metrics_token_file: Path | None) -> tuple[Route, ...]:
    """All routes; that of the metrics knows where its token lies."""
    return (*ROUTES, metrics.route(metrics_token_file))
