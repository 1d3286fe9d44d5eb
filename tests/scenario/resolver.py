"""
A resolver worker and its control process in one, on simulated time.

Everything that decides is the real thing: configuration, command line, policy log, feeds, engine,
chain of plugins, listeners, hit log.  What is left out is processes, and the channel between them:
what the control process would do when its time has come, timers of the loop do here.
"""

import asyncio
import contextlib
import json
import os
import shlex
import socket
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from tests.clock import SimulatedLoop, counted
from tests.scenario.upstream import Upstream, seeded
from tests.scenario.vocabulary import ScenarioError
from urlguard import cli, config, events
from urlguard.blocklist import snapshot
from urlguard.compile import compile_here
from urlguard.engine import ActiveEngine, Engine
from urlguard.errors import UrlGuardError
from urlguard.feeds import schedule
from urlguard.feeds.refresh import refresh
from urlguard.hitlog import files as hitlog
from urlguard.hitlog.buffer import HitBuffer, Pseudonyms
from urlguard.plugins import Answer, Chain, Exchange, Parts
from urlguard.plugins.cache import Cache
from urlguard.plugins.clients import Clients
from urlguard.plugins.forward import qname_case
from urlguard.policy.location import log_location, open_log
from urlguard.verdict import decode
from urlguard.wire.cookie import Cookies
from urlguard.worker.cookie_secret import cookie_secrets
from urlguard.worker.frontend import Frontend
from urlguard.worker.listeners.connections import Connections
from urlguard.worker.listeners.tcp import TcpListener
from urlguard.worker.listeners.udp import UdpListener
from urlguard.worker.packet_cache import PacketCache

_START = 10_000.0  # of the loop's time: an ordinary number, and exact with fractions of a second
_DRAIN_S = 5.0  # after a reload, for queries under way in the old chain
_TIDY_S = 900.0  # after midnight, to look after the hit log's files


class _Packets(PacketCache):
    """A packet cache that remembers which plugin gave the last answer of the chain."""

    source = ""

    def account(self, x: Exchange, found: Answer) -> None:
        self.source = found.source
        super().account(x, found)


class Resolver:
    """
    One resolver with its upstreams.

    Args:
        loop: on which it all happens.
        epoch: what its time is less than seconds since 1970.
        folder: for all files; empty.
        text: the configuration, with ``@NAME`` for upstreams.
        upstreams: their tables.
        files: what lies beside the configuration.
    """

    def __init__(
        self,
        loop: SimulatedLoop,
        epoch: float,
        folder: Path,
        text: str,
        upstreams: dict[str, dict[str, Any]],
        files: dict[str, str],
    ) -> None:
        self.folder = folder
        self.loop = loop
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.keys: dict[str, str] = {}  # keys of the hit log, by day
        self._epoch = epoch
        self._dated: dict[Path, int] = {}
        self.upstreams: dict[str, Upstream] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._path = folder / "urlguard.toml"
        self._ends = contextlib.ExitStack()
        self._ends.callback(loop.close)
        # Closed connections tell their protocols in the loop's next rounds.
        self._ends.callback(lambda: loop.run_until(loop.now + 1))
        self.write(files)
        self._text = text
        self._tables = upstreams

    def open(self) -> None:
        """
        Begin to answer.

        Raises:
            ScenarioError: the configuration is wrong, or what is said of an upstream.
        """
        for name, table in self._tables.items():
            self.upstreams[name] = Upstream(self.loop, name)
            self._ends.callback(self.upstreams[name].close)
            self.upstreams[name].change(table)
        self.config = self._configured(self._text)
        self.log = open_log(self.config)
        self._ends.callback(self.log.close)
        self._sent = 0
        for feed in self.config.feed:
            self._refresh(feed)
        if self.config.feed:
            compile_here(log_location(self.config), self._snapshots)
        self.active = ActiveEngine(self._opened())
        self._sent = self.active.engine.serial
        self._serve()
        self.push()
        for feed in self.config.feed:
            self._time_feed(feed)

    @property
    def now(self) -> float:
        """Seconds since 1970."""
        return self.loop.now + self._epoch

    @property
    def began(self) -> float:
        """The loop's time at the beginning."""
        return _START

    # ---- what an operator does

    def run(self, line: str) -> None:
        """
        A command, as after ``urlguard`` in a shell.

        Raises:
            ScenarioError: it failed.
        """
        done = CliRunner().invoke(cli.main, [*shlex.split(line), "--config", str(self._path)])
        if done.exit_code:
            raise ScenarioError(f"urlguard {line}: exit {done.exit_code}: {done.output.strip()}")
        self.push()

    def write(self, files: dict[str, str]) -> None:
        """Write files beside the configuration."""
        for name, text in files.items():
            (self.folder / name).write_text(text, "utf-8")

    def flush(self, names: list[str], *, everything: bool) -> int:
        """What the worker does on ``urlguard cache flush``; how many answers went."""
        cache = self.plugin("cache")
        assert isinstance(cache, Cache)
        removed: int = self.loop.finish(cache.flush(names, everything))
        self.frontend.packets.clear()
        return removed

    def compile(self) -> None:
        """A snapshot of the newest policy, swapped in."""
        compile_here(log_location(self.config), self._snapshots)
        self.active.swap(self._opened())
        self._sent = self.active.engine.serial

    def reload(self, text: str | None) -> None:
        """Read the configuration again, as a worker does after SIGHUP."""
        if text is not None:
            self.config = self._configured(text)
        chain, clients = self._chain()
        old = self.frontend.chain
        chain.adopt(old)
        self.frontend.replace(chain, clients)
        self._equip()
        retired = contextlib.ExitStack()
        retired.callback(old.close)
        self._ends.callback(retired.close)
        self.loop.call_later(_DRAIN_S, retired.close)

    def push(self) -> None:
        """Take over what has been committed, as control would tell the worker."""
        serial = self.log.serial
        if serial > self._sent:
            changes = [(key, decode(after, key)) for key, after, _ in self._changes()]
            self.active.engine.overlay.apply(changes, serial)
            self._sent = serial
            self.active.changed()
        due = self.log.store.next_expiry()
        if due is not None:
            self._at("expiry", max(due, self.now), self._expire)

    # ---- what scenarios look at

    def plugin(self, name: str) -> Any:
        """
        A plugin of the chain.

        Raises:
            ScenarioError: there is none of that name.
        """
        for plugin in self.frontend.chain.plugins:
            if plugin.name == name:
                return plugin
        raise ScenarioError(f"no plugin {name!r} in the chain")

    def counter(self, text: str) -> int:
        """A counter, written ``PLUGIN.COUNTER``."""
        name, _, counter = text.partition(".")
        if name == "udp":
            return self.udp.counters[counter]
        if name == "tcp":
            return self.tcp.counters[counter]
        if name == "shadow":
            return self.frontend.packets.shadowed[counter]
        found: int = self.plugin(name).counters[counter]
        return found

    def write_hits(self) -> list[list[Any]]:
        """Bring the hits of the worker to the files; the rows that were brought."""
        if self.frontend.hits is None:
            return []
        rows = [r for line in self.frontend.hits.lines() for r in json.loads(line)["rows"]]
        self._files.write(rows)
        return rows

    @property
    def hits_folder(self) -> Path:
        """Where the hit log lies."""
        return hitlog.folder_of(self.config.state_dir)

    def close(self) -> None:
        """End it."""
        self._ends.close()

    # ---- how it is put together

    def _configured(self, text: str) -> config.Config:
        for name, upstream in self.upstreams.items():
            text = text.replace(f'"@{name}"', f'"127.0.0.1:{upstream.port}"')
        self._path.write_text(text)
        try:
            return config.load(self._path)
        except UrlGuardError as exc:
            raise ScenarioError(f"config: {exc}") from exc

    def _serve(self) -> None:
        chain, clients = self._chain()
        clock = self._wall
        ends = self._ends.callback
        self._key = hitlog.DayKey(self.hits_folder, clock)
        self._files = hitlog.HitFiles(self.hits_folder, self.config.hits, clock)
        self.pseudonyms = Pseudonyms(clock)
        self.frontend = Frontend(chain, clients, self.loop, clock=clock)
        self.frontend.packets = _Packets(clients, self.loop)
        ends(self._files.close)
        ends(lambda: self.frontend.packets.close())
        ends(lambda: self.frontend.chain.close())
        ends(lambda: [timer.cancel() for timer in self._timers.values()])
        self._midnight()
        self._equip()
        self.active.subscribe(self.frontend.packets.changed)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ends(udp.close)
        udp.bind(("127.0.0.1", 0))
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        ends(tcp.close)
        tcp.bind(("127.0.0.1", 0))
        self.udp = UdpListener(udp, self.frontend, self.loop)
        self.tcp = TcpListener(tcp, self.frontend, self.loop, Connections())
        self.tcp.configure(self.config.server)
        ends(self.udp.close)
        ends(self.tcp.close)
        self.udp_address = udp.getsockname()
        self.tcp_address = tcp.getsockname()
        for listener in (self.udp, self.tcp):
            self.loop.finish(listener.start())

    def _chain(self) -> tuple[Chain, Clients]:
        clients = Clients(self.config)
        parts = Parts(self.config, self.active, self.loop, clients)
        return Chain.build(self.config, parts), clients

    def _equip(self) -> None:
        frontend = self.frontend
        cookies, hits = None, frontend.hits
        if self.config.server.cookies:
            cookies = Cookies(*cookie_secrets(self.config.state_dir, self.now))
            self._date(self.config.state_dir / "cookie.secret")
        if self.config.hits.enabled and hits is None:
            hits = HitBuffer(self.pseudonyms, self._wall)
        frontend.equip(cookies, hits, None)

    def _date(self, path: Path) -> None:
        """Have a file that was written just now be of the simulated time."""
        if path.stat().st_mtime_ns > self._dated.get(path, 0):
            os.utime(path, (self.now, self.now))
            self._dated[path] = path.stat().st_mtime_ns

    def _opened(self) -> Engine:
        newest = next(iter(snapshot.newest(self._snapshots)), None)
        return Engine(snapshot.open_folder(newest) if newest else snapshot.nothing())

    @property
    def _snapshots(self) -> Path:
        return self.config.state_dir / "snapshots"

    def _changes(self) -> list[tuple[str, str | None, int]]:
        with self.log.store.reading():
            return list(self.log.store.changes(self._sent))

    # ---- what happens by itself

    def _wall(self) -> float:
        return self.now

    def _at(self, name: str, when: float, work: Any, *arguments: Any) -> None:
        """Have work done at a time in seconds since 1970, in place of the same planned before."""
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = self.loop.call_at(when - self._epoch, work, *arguments)

    def _expire(self) -> None:
        self.log.expire()
        self.push()

    def _refresh(self, feed: config.Feed) -> None:
        with contextlib.suppress(UrlGuardError):
            refresh(self.log, feed, self.config.state_dir)

    def refresh(self, feed: config.Feed) -> None:
        """Bring a feed up to date, now and whenever it is due."""
        self._refresh(feed)
        self.push()
        self._time_feed(feed)

    def _time_feed(self, feed: config.Feed) -> None:
        if feed.refresh_s:
            wait = schedule.due_in_s(self.log, feed, self.now)
            self._at(f"feed {feed.name}", self.now + max(wait, 1.0), self.refresh, feed)

    def _midnight(self) -> None:
        """Another key for another day."""
        if self._key.due:
            self.write_hits()
            self._key.rotate()
            message = self._key.message
            assert message is not None
            self.keys[message["day"]] = message["key"]
            self.pseudonyms.take(message)
        days = self.now // 86_400
        self._at("midnight", (days + 1) * 86_400, self._midnight)
        self._at("tidy", days * 86_400 + _TIDY_S, self._tidy)

    def _tidy(self) -> None:
        self.write_hits()
        self._files.tidy()


@contextlib.contextmanager
def resolver(
    folder: Path,
    text: str,
    starts: datetime,
    upstreams: dict[str, dict[str, Any]],
    files: dict[str, str],
    seed: str,
) -> Iterator[Resolver]:
    """
    A resolver, and the simulated time that it lives in.

    Args:
        folder: for all files; empty.
        text: the configuration, with ``@NAME`` for upstreams.
        starts: when the scenario begins, UTC.
        upstreams: their tables.
        files: what lies beside the configuration.
        seed: of chance, so that each run is the same.
    """
    loop = SimulatedLoop(_START)
    epoch = starts.timestamp() - _START
    chance = SimpleNamespace(urandom=seeded(seed))
    heard: list[tuple[str, dict[str, Any]]] = []
    real = time.time

    def wall() -> float:
        # A module that is imported meanwhile may keep this as its default clock.
        return real() if loop.is_closed() else loop.now + epoch

    with pytest.MonkeyPatch.context() as patch, counted():
        patch.setattr(time, "time", wall)
        patch.setattr(qname_case, "os", chance)
        patch.setattr(events, "_write", lambda level, event, keys: heard.append((event, keys)))
        made = Resolver(loop, epoch, folder, text, upstreams, files)
        made.events = heard
        try:
            made.open()
            yield made
        finally:
            made.close()
