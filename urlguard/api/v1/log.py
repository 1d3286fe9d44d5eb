"""``GET /v1/log`` and ``GET /v1/stats``: what changed, and how much there is of everything."""

import time
from typing import Annotated, Final

import msgspec

from urlguard import __version__
from urlguard.api import paging
from urlguard.api.log_reader import LogReader
from urlguard.api.problems import Problem
from urlguard.api.routes import READERS, Call, Nothing, Route
from urlguard.api.schemas import Page, Time, utc
from urlguard.api.services import Family, Services
from urlguard.policy.model import BatchRow


class LogParams(Page, kw_only=True):
    """Which batches."""

    since: Annotated[
        int, msgspec.Meta(ge=0, le=1 << 53, description="Only batches after this serial.")
    ] = 0


class Batch(msgspec.Struct):
    """
    One batch of the policy log.

    `urlguard log --json` writes the same with `time` in milliseconds, which `hash` covers.
    """

    serial: int
    committed_at: Time
    actor: Annotated[str, msgspec.Meta(description="Who was behind it.")]
    source: Annotated[
        str, msgspec.Meta(description="Whose claims it changed: `operator`, `analyst:NAME`, …")
    ]
    reason: str
    payload_sha256: Annotated[str, msgspec.Meta(description="Over the claims.")]
    effect_sha256: Annotated[str, msgspec.Meta(description="Over what follows from them.")]
    prev_hash: str
    hash: Annotated[str, msgspec.Meta(description="Over all of these, and the hash before.")]


class LogPage(msgspec.Struct):
    """Batches, oldest first."""

    items: list[Batch]
    next: paging.Next


class FeedStats(msgspec.Struct):
    """One list."""

    name: str
    rules: Annotated[int, msgspec.Meta(description="Of its last good version.")]
    quarantined: Annotated[int, msgspec.Meta(description="Of them, quarantined.")]
    failing: Annotated[bool, msgspec.Meta(description="Whether the last refresh failed.")]
    age_s: Annotated[float | None, msgspec.Meta(description="Since the last good refresh.")]


class Stats(msgspec.Struct):
    """The server in figures; counts begin at 0 when a process starts."""

    measured_at: Time
    version: str
    ready: Annotated[bool, msgspec.Meta(description="As `/readyz` says.")]
    paused: bool
    serial: Annotated[int, msgspec.Meta(description="The last batch of the policy log.")]
    workers: Annotated[int, msgspec.Meta(description="Workers that answer.")]
    queries: int
    hits: Annotated[dict[str, int], msgspec.Meta(description="By action: block, review.")]
    categories: Annotated[
        dict[str, int], msgspec.Meta(description="Blocked queries by the rule's category.")
    ]
    sources: Annotated[dict[str, int], msgspec.Meta(description="Blocked queries by who said so.")]
    feeds: list[FeedStats]


async def log(call: Call[Nothing, LogParams]) -> LogPage:
    """Batches of the log."""
    asked = call.params
    cursor = paging.decode(asked.cursor, tuple[int])
    after = asked.since if cursor is None else cursor[0]
    rows = await reader(call.services).read(
        lambda found: list(found.store.batches(after, asked.limit + 1))
    )
    items = [_batch(row) for row in rows[: asked.limit]]
    more = len(rows) > asked.limit
    return LogPage(items, paging.encode(items[-1].serial) if more else None)


def _batch(row: BatchRow) -> Batch:
    fields = row._asdict()
    return Batch(committed_at=utc(fields.pop("time") // 1000), **fields)


async def stats(call: Call[Nothing, Nothing]) -> Stats:
    """The server in figures."""
    source = call.services.source
    families = {family.name: family for family in await source.families()}
    readiness = await source.readiness()
    blocked = ("action", "block")
    return Stats(
        measured_at=utc(time.time()),
        version=__version__,
        ready=bool(readiness["ready"]),
        paused=bool(readiness.get("paused")),
        serial=int(readiness.get("serial", 0)),
        workers=sum(_by(families, "urlguard_worker_up", "worker").values()),
        queries=sum(_by(families, "urlguard_queries_total", "worker").values()),
        hits=_by(families, "urlguard_hits_total", "action"),
        categories=_by(families, "urlguard_category_hits_total", "category", blocked),
        sources=_by(families, "urlguard_hits_total", "rule_source", blocked),
        feeds=_feeds(families),
    )


def reader(services: Services) -> LogReader:
    """
    The log's reader.

    Raises:
        Problem: it is not there yet.
    """
    if services.log is None:
        raise Problem("unavailable", "the policy log is not there yet", retry_after_s=1)
    return services.log


def _by(
    families: dict[str, Family], name: str, label: str, only: tuple[str, str] | None = None
) -> dict[str, int]:
    """A family's values, added up by one label; of all samples or those with a label `only`."""
    found: dict[str, int] = {}
    if family := families.get(name):
        for values, value in family.samples:
            labels = dict(zip(family.labels, values, strict=True))
            if only is None or labels.get(only[0]) == only[1]:
                found[labels[label]] = found.get(labels[label], 0) + int(value)
    return found


def _feeds(families: dict[str, Family]) -> list[FeedStats]:
    rules = _by(families, "urlguard_feed_rules", "feed")
    quarantined = _by(families, "urlguard_feed_quarantined_rules", "feed")
    failing = _by(families, "urlguard_feed_failing", "feed")
    ages = families.get("urlguard_feed_age_seconds")
    age = {values[0]: float(value) for values, value in ages.samples} if ages else {}
    return [
        FeedStats(name, count, quarantined.get(name, 0), bool(failing.get(name)), age.get(name))
        for name, count in sorted(rules.items())
    ]


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/log",
        roles=READERS,
        tag="The record",
        summary="Who changed what, and when",
        words="Batches of the policy log, oldest first. Each has a hash over itself and the one"
        " before; `urlguard log --verify` looks whether they hold.",
        params=LogParams,
        answer=LogPage,
        handler=log,
    ),
    Route(
        method="GET",
        path="/v1/stats",
        roles=READERS,
        tag="The record",
        summary="The server in figures",
        answer=Stats,
        handler=stats,
    ),
)
