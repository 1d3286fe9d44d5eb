"""An API server in this process, on real tokens, a real policy log and real verdicts."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

import aiohttp

from urlguard import check, local_policy
from urlguard.access.attempts import Attempts
from urlguard.access.roles import Role
from urlguard.access.tokens import Tokens
from urlguard.api.auth import Keyring
from urlguard.api.log_reader import LogReader
from urlguard.api.server import ApiServer
from urlguard.api.services import Decided, Family, Services
from urlguard.cases import ndjson
from urlguard.cases.casework import Casework
from urlguard.cases.ports import BusyError
from urlguard.config import Api, Config, Endpoint
from urlguard.control.dry_runs import DryRuns
from urlguard.impact import approval
from urlguard.impact.sample import Sampled
from urlguard.policy.location import open_log
from urlguard.policy.log import PolicyLog
from urlguard.policy.model import Change

T = TypeVar("T")


class Fixed:
    """A source that says what a test wants."""

    def __init__(self):
        self.ok = True
        self.ready = True
        self.wait_s = 0.0
        self.health_s = 0.0
        self.error = None

    async def families(self):
        if self.error:
            raise self.error
        await asyncio.sleep(self.wait_s)
        return [
            Family("urlguard_a_total", "counter", "how often", ("x",), [(('q"\\\n',), 3)]),
            Family("urlguard_b", "gauge", "how much", (), [((), 1.5)]),
            Family(
                "urlguard_c", "histogram", "how long", ("x",), [(("y",), ([1, 2], 0.3))], (0.1,)
            ),
        ]

    async def health(self):
        await asyncio.sleep(self.health_s)
        return {"ok": self.ok}

    async def readiness(self):
        return {"ready": self.ready, "why": []}


class Here:
    """Verdicts as `urlguard check` gives them, worked out in this process."""

    def __init__(self, config):
        self.config = config
        self.error = None
        self.wait_s = 0.0
        self.busy = 0  # so often
        self.deaf = False  # to questions, not to candidates
        self.asked = []
        self.pieces = []  # octets of candidates

    async def check(self, items, *, why=False, score=False):
        self.asked.append(len(items))
        await asyncio.sleep(3600 if self.deaf else self.wait_s)
        if self.error:
            raise self.error
        engine = local_policy.open_engine(self.config)
        classifier = check.Classifier(self.config, score=score, why=why)
        found = check.inspect_all(engine, items, classifier)
        return [json.dumps(one).encode() for one in found]

    async def intake(self, data):
        self.pieces.append(len(data))
        await asyncio.sleep(self.wait_s)
        if self.busy:
            self.busy -= 1
            raise BusyError(2.5)
        if self.error:
            raise self.error
        reader = ndjson.Reader(time.time())
        reader.feed(data)
        return ndjson.decoded(reader.encoded())

    async def messages(self, texts):
        found = []
        for text in texts:
            words = [w for w in text.split() if "." in w]
            verdicts = await self.check(words)
            places = [text.index(w) for w in words]
            verdicts = [json.loads(verdict) for verdict in verdicts]
            acts = {verdict["action"] for verdict in verdicts}
            mentions = [
                {"start": at, "end": at + len(word), "text": word, "item": word, "verdict": verdict}
                for at, word, verdict in zip(places, words, verdicts, strict=True)
            ]
            act = next((a for a in ("block", "review") if a in acts), "none")
            found.append(json.dumps({"action": act, "found": mentions}).encode()[1:])
        return found


class Backend:
    """The server's surroundings; `base` is its address."""

    def __init__(self, folder, *, limits=None):
        self.folder = folder
        self.limits = limits
        self.config = Config(state_dir=folder)
        self.source = Fixed()
        self.judging = Here(self.config)
        self.log = open_log(self.config)
        self.tokens = Tokens(folder / "access.db")
        self.token = {role: self.tokens.create(f"my-{role}", role, "test") for role in Role}
        self.attempts = Attempts(time.monotonic)
        self.error = None  # what a commit raises
        self.wait_s = 0.0
        self.live = Sampled()  # what the workers count
        self.sampled = []  # what they were asked
        self.begun = asyncio.Event()
        self.base = ""

    async def commit(
        self, source: str, changes: Sequence[Change], *, actor: str, reason: str
    ) -> Decided:
        """As the control process commits, with two workers that confirm at once."""
        self.begun.set()
        await asyncio.sleep(self.wait_s)
        if self.error:
            raise self.error
        batch = self.log.commit(source, changes, actor=actor, reason=reason)
        return Decided(self.log.serial, batch is not None, 2, 2)

    async def read(self, work: Callable[[PolicyLog], T]) -> T:
        return work(self.log)

    async def needs_approval(self, changes: Sequence[Change]) -> Sequence[str]:
        """Reasons by names alone, since there are no live queries here."""
        return approval.reasons_for_approval(changes)

    async def sample(self, rules, source):
        """What the workers would count."""
        self.sampled.append((rules, source))
        return self.live

    async def bring(self, *items, source="crawler-1"):
        """Have candidates reported and judged; their cases by owner."""
        rows = [ndjson.candidate(item, int(time.time())) for item in items]
        await self.casework.store(lambda store: store.add(source, rows, int(time.time())))
        self.casework.wake()
        async with asyncio.timeout(10):
            while await self.casework.store(lambda store: store.backlog()):
                await asyncio.sleep(0.01)
        page = await self.casework.store(lambda store: store.cases(limit=1000))
        return {case.owner: case.id for case in page.items}

    def services(self):
        """What a server is given; cases of its own, which end with it."""
        self.casework = Casework(
            self.folder,
            verdicts=self.judging,
            policy=self,
            limits=self.limits,
        )
        return Services(
            source=self.source,
            judging=self.judging,
            deciding=self.commit,
            tokens=Keyring(self.folder / "access.db"),
            attempts=self.attempts,
            log=LogReader(self.config),
            casework=self.casework,
            previewing=DryRuns(self.config, self.sample),
            state_dir=self.folder,
        )

    def head(self, role=Role.ADMIN, **more):
        """The headers of a caller."""
        return {"Authorization": f"Bearer {self.token[role]}", **more}

    def close(self):
        self.log.close()
        self.tokens.close()


@contextlib.asynccontextmanager
async def serving(services, **options):
    """A server on a free port, and its address."""
    options.setdefault("listen", Endpoint("127.0.0.1", 0))
    if isinstance(services, Fixed):
        services = Services(source=services)
    api = ApiServer(Api(**options), services)
    tasks = [asyncio.create_task(api.run())]
    if services.casework is not None:
        tasks.append(asyncio.create_task(services.casework.run()))
    try:
        await until(lambda: api.address)
        await until(lambda: services.casework is None or services.casework.ready)
        scheme = "https" if options.get("tls_cert") else "http"
        yield f"{scheme}://{api.address}"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def until(condition, seconds=5.0):
    """Wait for something that must happen soon."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def seconds(text):
    """A time as the API writes it, in seconds since 1970."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z").timestamp()


def client():
    """A client without a proxy."""
    return aiohttp.ClientSession()


async def connect(base):
    """A plain connection."""
    host, _, port = base.partition("://")[2].rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def closed(reader, seconds=3.0):
    """Whether the other side closes the connection in time; reads what comes before."""
    try:
        async with asyncio.timeout(seconds):
            while await reader.read(65536):
                pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True
