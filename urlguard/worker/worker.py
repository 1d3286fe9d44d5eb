"""
A resolver worker: one process, one event loop, its own sockets on every address.

Its policy comes from `PolicySync`; only a start waits for the control process, and not for long: a
decision that a command confirmed before a restart must be in force after it.  A reload puts a chain
for the new configuration in place of the old one, between two queries, and then looks for a new
model: that is opened in a thread, and the one in use goes on until it is there.  What every model
needs, the brands above all, is read before the first query, because it holds the interpreter's lock
for longer than a query should wait.
"""

import asyncio
import gc
import socket
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import Final

from urlguard import events
from urlguard.classify import model, policy
from urlguard.classify.model import Model
from urlguard.classify.policy import ActiveModels
from urlguard.classify.suspects import SuspectMemory
from urlguard.config import Config
from urlguard.errors import ConfigError
from urlguard.hitlog.buffer import HitBuffer, Pseudonyms
from urlguard.metrics import Collectors
from urlguard.plugins import Chain
from urlguard.plugins.base import Parts
from urlguard.plugins.cache import Cache
from urlguard.plugins.clients import Clients
from urlguard.plugins.guard import Guard
from urlguard.processes import channel, child
from urlguard.processes.channel import Message
from urlguard.wire.cookie import Cookies
from urlguard.wire.query import UDP, Transport
from urlguard.worker import collectors
from urlguard.worker.cookie_secret import cookie_secrets
from urlguard.worker.frontend import Frontend
from urlguard.worker.listeners import Listener
from urlguard.worker.listeners.connections import Connections
from urlguard.worker.listeners.tcp import TcpListener
from urlguard.worker.listeners.udp import UdpListener
from urlguard.worker.policy_sync import PolicySync
from urlguard.worker.query_sample import Sample, SampleQueries
from urlguard.worker.suspects import Suspects

WAIT_S = 3.0  # for the control process's policy, when there is a snapshot to begin with
FIRST_POLICY_S = 600.0  # when there is none, or it says so: the first import has to end
DRAIN_S = 5.0
MODELS_S = 5.0  # at the start, for models to be opened; later they come when they come
SWITCH_INTERVAL_S: Final = (
    0.0001  # between threads while one opens a model: queries hardly wait for it
)
USUAL_SWITCH_INTERVAL_S: Final = sys.getswitchinterval()  # before anybody changed it
COOKIES_S = 3600.0  # between two looks at the cookies' secret


@dataclass(frozen=True)
class Startup:
    """What a worker starts with: configuration, number, descriptors of its inherited sockets."""

    config: Config
    number: int
    sockets: tuple[tuple[Transport, int], ...]  # one of each transport for each address


class Worker:
    """A worker's state."""

    def __init__(self, startup: Startup, updates: child.Updates) -> None:
        self.config = startup.config
        self.number = startup.number
        self.sockets = startup.sockets
        self.updates = updates
        self.policy_sync = PolicySync(self.config.state_dir, self.number)
        self.models = ActiveModels()
        self._taking = asyncio.Lock()  # models, one change after the other
        self.pseudonyms = Pseudonyms()
        self.sample = Sample()
        self.collectors = Collectors()
        self.listeners: list[Listener] = []
        self.connections = Connections()
        self.frontend: Frontend | None = None
        self._replaced: list[Chain] = []  # queries under way still get their answers from these
        self._ending: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Answer queries until `stop` is set, then finish those under way."""
        self._register()
        syncing = asyncio.create_task(self.policy_sync.run())
        models = asyncio.create_task(self._take_models())
        await self._first_policy(stop)
        # A folder that does not answer must not keep DNS from answering.
        await asyncio.wait([models], timeout=MODELS_S)
        await self._open()
        # What is there now stays: the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        # Hardly anything on the packet path makes cycles, and walking a full cache in search of
        # them stops the loop for 10 to 20 ms: let it be rare.
        gc.set_threshold(20_000, 50, 1000)
        child.report_ready()
        background = [
            models,
            asyncio.create_task(self._reload_on_update()),
            asyncio.create_task(self._renew_cookies()),
        ]
        await stop.wait()
        for task in background:
            task.cancel()
        await asyncio.gather(*(listener.drain(DRAIN_S) for listener in self.listeners))
        syncing.cancel()
        await self._close()

    async def _first_policy(self, stop: asyncio.Event) -> None:
        """Wait until there is a policy to answer by; queries meanwhile wait in the sockets."""
        stopping = asyncio.create_task(stop.wait())
        ready = asyncio.create_task(self.policy_sync.ready.wait())
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait([ready, stopping], timeout=WAIT_S, return_when=first)
        if self.policy_sync.must_wait or not self.policy_sync.has_policy:
            await asyncio.wait([ready, stopping], timeout=FIRST_POLICY_S, return_when=first)
        ready.cancel()
        stopping.cancel()
        if not self.policy_sync.ready.is_set() and not stop.is_set():
            serial = self.policy_sync.active.engine.serial
            events.warning("worker.alone", serial=serial, using="last_good")

    # Listeners and chain

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        chain, clients = self._chain(self.config)
        frontend = self.frontend = Frontend(chain, clients, loop, sample=self.sample)
        self._equip(frontend)
        self.policy_sync.active.subscribe(frontend.packets.changed)
        for transport, descriptor in self.sockets:
            sock = socket.socket(fileno=descriptor)
            listener: Listener
            if transport == UDP:
                listener = UdpListener(sock, frontend, loop)
            else:
                listener = TcpListener(sock, frontend, loop, self.connections)
            listener.configure(self.config.server)
            self.listeners.append(listener)
        for listener in self.listeners:
            await listener.start()

    def _chain(self, config: Config) -> tuple[Chain, Clients]:
        clients = Clients(config)
        loop = asyncio.get_running_loop()
        parts = Parts(config, self.policy_sync.active, loop, clients, self.models)
        return Chain.build(config, parts), clients

    def _equip(self, frontend: Frontend) -> None:
        """Give the frontend what the configuration in force asks for."""
        config = self.config
        cookies = Cookies(*cookie_secrets(config.state_dir)) if config.server.cookies else None
        hits = (frontend.hits or HitBuffer(self.pseudonyms)) if config.hits.enabled else None
        if frontend.tap is not None:
            ending = asyncio.create_task(frontend.tap.close())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        tap = None
        if config.dnstap.socket is not None:
            from urlguard.worker.dnstap import DnsTap  # few have it

            tap = DnsTap(config.dnstap, self.pseudonyms.address)
            tap.start()
        frontend.equip(cookies, hits, tap)
        self.collectors.clear()
        self.collectors.add(frontend.metrics)
        self.collectors.add(self.policy_sync.metrics)
        self.collectors.add(partial(collectors.listeners, self.listeners, self.connections))
        self.collectors.add(partial(collectors.chain, frontend.chain))
        self.collectors.add(partial(collectors.canary, frontend.chain, self.policy_sync.active))
        self.collectors.add(partial(collectors.classifier, frontend.chain))
        if tap is not None:
            self.collectors.add(partial(collectors.dnstap, tap))
        if hits is not None:
            self.collectors.add(partial(collectors.hits, hits))

    async def _close(self) -> None:
        for chain in self._replaced:
            chain.close()
        if self.frontend is not None:
            self.frontend.packets.close()
            self.frontend.chain.close()
            if self.frontend.tap is not None:
                await self.frontend.tap.close()
        for listener in self.listeners:
            listener.close()

    async def _reload_on_update(self) -> None:
        while True:
            startup: Startup = await self.updates.get()
            try:
                self._reload(startup.config)
            except ConfigError as exc:
                self.updates.refuse(exc)
            else:
                self.updates.accept()
                await self._take_models()

    async def _take_models(self) -> None:
        """Use the newest model of the folder; one that is refused leaves the one in use."""
        # A reload may come while the start, or the reload before, still opens one: what either
        # finds must not be put in the other's place.
        async with self._taking:
            await self._take_newest()

    async def _take_newest(self) -> None:
        wanted = {self.config.classify.mode, *(s.classify for s in self.config.segment)}
        if wanted <= {"off", None}:
            return
        started = time.perf_counter()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        try:
            name, shadow = await asyncio.to_thread(self._find_models)
        finally:
            sys.setswitchinterval(USUAL_SWITCH_INTERVAL_S)
        models = self.models
        if name is None and self.number == 0:
            folder = str(model.folder(self.config.classify.models))
            events.warning("model.absent", folder=folder, using="rules alone")
        if name is models.name and shadow is models.shadow:
            return
        old: list[Model | None] = [models.name, models.shadow]
        models.take(name, shadow)
        # What was answered by the model before may be in memory.
        self.policy_sync.active.changed()
        events.info(
            "model.swapped",
            model=name and name.ident,
            shadow=shadow and shadow.ident,
            open_ms=round((time.perf_counter() - started) * 1000, 1),
        )
        await asyncio.to_thread(old.clear)  # freeing thousands of trees takes a millisecond

    def _find_models(self) -> tuple[Model | None, Model | None]:
        """The model for names and the shadow beside it; takes tens of milliseconds."""
        try:
            return self._found_models()
        except Exception as exc:  # whatever lies in the folder, DNS goes on
            problem = f"{type(exc).__name__}: {exc}"
            events.error("model.refused", error=problem, using="the one before")
            return self.models.name, self.models.shadow

    def _found_models(self) -> tuple[Model | None, Model | None]:
        options, now = self.config.classify, self.models
        folder = model.folder(options.models)
        policy.prepare()
        name, refused = model.find(
            folder, "name", named=options.model, besides=options.shadow, now=now.name
        )
        shadow = None
        if options.shadow is not None and name is not None:
            shadow, problems = model.find(folder, "name", named=options.shadow, now=now.shadow)
            refused += problems
        for problem in refused:
            using = "the one before" if name else "rules alone"
            events.error("model.refused", error=str(problem), using=using)
        return name, shadow

    async def _renew_cookies(self) -> None:
        """Take part in the change of the cookies' secret, whichever worker made it."""
        while True:
            await asyncio.sleep(COOKIES_S)
            if self.frontend is not None and self.frontend.cookies is not None:
                secrets = await asyncio.to_thread(cookie_secrets, self.config.state_dir)
                self.frontend.cookies = Cookies(*secrets)

    def _reload(self, config: Config) -> None:
        """Answer by another configuration from the next query on."""
        frontend = self.frontend
        assert frontend is not None
        chain, clients = self._chain(config)
        old = frontend.chain
        chain.adopt(old)
        # As long as a query may take that was asked a moment ago.
        timeout_s = max(DRAIN_S, 2.5 * self.config.forward.timeout_ms / 1000)
        self.config = config
        frontend.replace(chain, clients)
        self._equip(frontend)
        for listener in self.listeners:
            listener.configure(config.server)
        self._replaced.append(old)
        asyncio.get_running_loop().call_later(timeout_s, self._end, old)

    def _end(self, chain: Chain) -> None:
        if chain in self._replaced:
            self._replaced.remove(chain)
            chain.close()

    # What the control process asks for

    def _register(self) -> None:
        suspects = Suspects(self._suspect_memories, lambda: self.policy_sync.active.engine.decide)
        self.policy_sync.handlers.update(
            {
                "flush": self._flush,
                "metrics": self._metrics,
                "hitkey": self._hit_key,
                "suspects": suspects.top,
                "unreported": suspects.unreported,
                "acknowledged": suspects.acknowledged,
                "sample": SampleQueries(self.sample, self.policy_sync.active),
            }
        )
        self.policy_sync.background.append(self._send_hits)

    async def _flush(self, message: Message, writer: asyncio.StreamWriter) -> None:
        removed = 0
        for plugin in self.frontend.chain.plugins if self.frontend else ():
            if isinstance(plugin, Cache):
                names = [str(name) for name in message["names"]]
                removed += await plugin.flush(names, bool(message["all"]))
        if self.frontend is not None:
            self.frontend.packets.clear()
        writer.write(channel.encode({"id": message["id"], "removed": removed}))

    async def _metrics(self, message: Message, writer: asyncio.StreamWriter) -> None:
        found = self.collectors.collect(channel.MAX_LINE // 2)
        writer.write(channel.encode({"id": message["id"], "metrics": found}))

    def _suspect_memories(self) -> list[SuspectMemory]:
        plugins = self.frontend.chain.plugins if self.frontend else ()
        guards = [plugin for plugin in plugins if isinstance(plugin, Guard)]
        return [guard.classifier.suspects for guard in guards if guard.classifier is not None]

    async def _hit_key(self, message: Message, writer: asyncio.StreamWriter) -> None:
        self.pseudonyms.take(message)

    async def _send_hits(self, writer: asyncio.StreamWriter) -> None:
        while True:
            frontend = self.frontend
            if frontend is None or frontend.hits is None:
                await asyncio.sleep(1.0)
                continue
            await frontend.hits.run(writer)
            await asyncio.sleep(1.0)


def main() -> None:
    """Entry point of a worker process."""
    startup: Startup = child.read_startup()
    events.bind(role="worker", worker=startup.number)
    updates = child.Updates()
    child.main_loop(lambda stop: Worker(startup, updates).run(stop), updates)


if __name__ == "__main__":
    main()
