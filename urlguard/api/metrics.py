"""
``GET /metrics``: the Prometheus text format, for this machine or whoever has the token.

Names of feeds, upstreams and segments stand in it, so it is not for everyone.
"""

import asyncio
import hmac
import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from urlguard import events
from urlguard.api.problems import Problem
from urlguard.api.routes import PUBLIC, Call, Encoded, Nothing, Route
from urlguard.api.services import Family

MIN_TOKEN = 16  # characters; a shorter one could be guessed
MAX_TOKEN = 4096


class Token:
    """
    The bearer token in a file, read again whenever the file changes.

    A file that cannot be read, or holds no token of `MIN_TOKEN` to `MAX_TOKEN` printable
    characters, lets nobody in, and an event says so once for each state of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] | str | None = None
        self._token = b""

    def fits(self, given: str) -> bool:
        """Whether `given` is the token; takes as long whatever it holds.  Reads the disk."""
        self._look()
        # Of equal length, so that the comparison does not tell the token's.
        mine = hmac.digest(b"urlguard", self._token, "sha256")
        theirs = hmac.digest(b"urlguard", given.encode(errors="replace"), "sha256")
        return hmac.compare_digest(mine, theirs) and bool(self._token)

    def _look(self) -> None:
        try:
            with self._path.open("rb") as file:
                stat = os.fstat(file.fileno())
                seen = (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)
                if seen == self._seen:
                    return
                self._seen = seen
                token = file.read(MAX_TOKEN + 2).strip()
        except OSError as exc:
            self._refuse(exc.strerror or str(exc))
            return
        if not (MIN_TOKEN <= len(token) <= MAX_TOKEN) or not all(32 < c < 127 for c in token):
            self._refuse(
                f"{len(token)} characters; must hold {MIN_TOKEN} to {MAX_TOKEN} printable ones"
                " without spaces"
            )
            self._seen = seen
            return
        self._token = token

    def _refuse(self, error: str) -> None:
        if self._seen != error:
            self._seen = error
            events.warning("api.token", file=str(self._path), error=error, using="loopback only")
        self._token = b""


def route(token_file: Path | None) -> Route:
    """The route; without `token_file` for loopback clients only."""
    token = None if token_file is None else Token(token_file)

    async def metrics(call: Call[Nothing, Nothing]) -> Encoded:
        if not local(call.request):
            await _let_in(call.request, token)
        return Encoded(await asyncio.to_thread(text, await call.services.source.families()))

    return Route(
        method="GET",
        path="/metrics",
        roles=PUBLIC,
        tag="Health",
        summary="Metrics in Prometheus's text format",
        words="For clients on this machine, or with the token in `[api] metrics_token_file`; the"
        " tokens of the API do not open it.",
        answer=str,
        media=CONTENT_TYPE_LATEST,
        errors=("unauthenticated", "forbidden"),
        handler=metrics,
    )


async def _let_in(request: web.BaseRequest, token: Token | None) -> None:
    """
    Look at the token of somebody elsewhere.

    Raises:
        Problem: it is wrong, or nobody elsewhere may ask.
    """
    if token is None:
        raise Problem("forbidden", "loopback clients only; [api] metrics_token_file is not set")
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    # In a thread: the file may lie on a disk that hangs.
    if scheme.lower() != "bearer" or not await asyncio.to_thread(token.fits, given.strip()):
        raise Problem(
            "unauthenticated",
            "needs the bearer token of [api] metrics_token_file",
            headers={"WWW-Authenticate": 'Bearer realm="urlguard"'},
        )


def local(request: web.BaseRequest) -> bool:
    """
    Whether the client is on this machine.

    A reverse proxy on this machine speaks for others, so what bears its mark does not count.
    """
    if any(name in request.headers for name in ("Forwarded", "X-Forwarded-For", "X-Real-IP")):
        return False
    try:
        address = ipaddress.ip_address((request.remote or "").partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback


def text(families: Iterable[Family]) -> bytes:
    """The families in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fixed(families))
    return generate_latest(registry)


class _Fixed:
    """A collector of what was gathered before."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        for family in self._families:
            yield _family(family)


def _family(family: Family) -> Metric:
    name, words, labels = family.name, family.words, family.labels
    if family.kind == "counter":
        counter = CounterMetricFamily(name, words, labels=labels)
        for values, number in family.samples:
            counter.add_metric(values, number)
        return counter
    if family.kind == "gauge":
        gauge = GaugeMetricFamily(name, words, labels=labels)
        for values, number in family.samples:
            gauge.add_metric(values, number)
        return gauge
    histogram = HistogramMetricFamily(name, words, labels=labels)
    edges = [*map(str, family.bounds), "+Inf"]
    for values, (counts, total) in family.samples:
        buckets = list(zip(edges, counts, strict=True))
        histogram.add_metric(values, buckets=buckets, sum_value=total)
    return histogram
