"""
A sample of the live queries, and how many of it a change would concern.

Part of the worker: the frontend adds queries, the control process asks for counts.  Names and
pseudonyms stay here; only counts leave.  Knows names and rules; knows neither packets nor sockets.

How it works
    Every query of allowed clients over UDP, from the packet cache or not, is taken with the same
    chance, one in ``gap``, by itself: how many queries lie between two of the sample is drawn
    anew each time (geometrically), whatever batches they are read in.  The first of each batch
    would not do: a query in a quiet moment, or the one that opens a page and brings twenty others,
    would be there more often than its share.  `left` is counted down by whole batches, and no batch
    is read beyond it, so its last query is the sampled one, and all others cost nothing.
    The gap follows the load, so that the ring holds about a quarter of an hour, and a busy server
    takes no more queries a second than a quiet one.  Each entry weighs the gap that it was drawn
    with: it stands for so many.
    A client is a hash under a key of this process.  A client that several workers answer is counted
    by each, so the sum over workers is a bound from above.
"""

import asyncio
import hashlib
import math
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from urlguard import names
from urlguard.blocklist.patterns import PatternSet
from urlguard.engine import ActiveEngine, Engine
from urlguard.impact.sample import MAX_RULES, Count
from urlguard.processes import channel
from urlguard.processes.channel import Message
from urlguard.rules import OPERATOR, Rule
from urlguard.verdict import Ruling

SIZE: Final = 16_384  # entries
SPAN_S: Final = 900.0  # what they should reach back, where there are so many queries
MAX_GAP: Final = float(1 << 20)  # queries between two entries, more than any worker needs
PACE: Final = 16  # entries between two looks at the load
MAX_ROWS: Final = 200  # rules of a source that are listed singly, those with most queries
MAX_VALUE: Final = 255  # characters of a rule that a name can be covered by
PIECE: Final = 100  # entries that are looked at between two looks at the sockets: below 1 ms


class Entry(NamedTuple):
    """One query of the sample."""

    name: str  # as in `Query.name`
    client: bytes
    weight: float  # how many queries it stands for


class Sample:
    """
    The sample of one worker.

    ``left``: queries until the next one that belongs to it, that one included; at least 1 while
    anybody reads.  The packet cache counts it down; `draw` is due at 0.  ``gap``: how many queries
    the next entry stands for.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.left = 1
        self._clock = clock
        self.gap = 1.0
        self._draws = 0
        self._since = clock()
        self._key = secrets.token_bytes(32)
        self._entries: deque[Entry] = deque(maxlen=SIZE)

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[Entry]:
        """All entries, the oldest first."""
        return list(self._entries)

    def add(self, name: str, host: str, weight: float) -> None:
        """Take a query: its name, its client's address, and the `gap` that it was drawn with."""
        client = hashlib.blake2b(host.encode(), digest_size=8, key=self._key).digest()
        self._entries.append(Entry(name, client, weight))

    def draw(self) -> None:
        """Draw which query is the next."""
        self._draws += 1
        if self._draws >= PACE:
            now = self._clock()
            wanted = PACE * SPAN_S / SIZE
            # Upwards in steps: the first queries after a quiet time say little.
            faster = wanted / max(now - self._since, wanted / 2)
            self.gap = min(max(1.0, self.gap * faster), MAX_GAP)
            self._draws, self._since = 0, now
        if self.gap <= 1.0:
            self.left = 1
        else:
            # Foreseeing it would gain nothing, so it need not be a secret.
            drawn = math.log(1.0 - random.random()) / math.log1p(-1.0 / self.gap)  # noqa: S311
            self.left = 1 + int(drawn)


class Added:
    """Rules that might be added, as `Engine.among` wants them: those that cover a name."""

    def __init__(self, keys: Iterable[str], source: str, action: str = "block") -> None:
        self._at: dict[str, list[Ruling]] = {}
        self._patterns: dict[str, Ruling] = {}
        for key in keys:
            rule = Rule.from_key(key)
            ruling = Ruling(action, "", (source,), 0, *rule)
            if len(rule.value) > MAX_VALUE or rule.kind == "url":
                continue  # no query is ever blocked by it
            if rule.kind == "pattern":
                self._patterns[rule.value] = ruling
            else:
                self._at.setdefault(rule.value, []).append(ruling)
        self._set = PatternSet(list(self._patterns))

    def covering(self, name: str) -> list[Ruling]:
        """Those that cover `name`."""
        found = [r for r in self._at.get(name, ()) if r.kind != "below"]
        for parent in names.parents(name):
            found += [r for r in self._at.get(parent, ()) if r.kind != "domain"]
        found += [self._patterns[p.text] for p in self._set.matching(f".{name}.")]
        return found


class InShadow:
    """The rules in shadow of one source, as if they were in force."""

    def __init__(self, shadow: Engine, source: str) -> None:
        self._shadow = shadow
        self._source = source

    def covering(self, name: str) -> list[Ruling]:
        """Those that cover `name`."""
        mine = (r for r in self._shadow.covering(name) if self._source in r.sources)
        return [r._replace(action="block", sources=(self._source,)) for r in mine]


class SampleQueries:
    """
    Answers the control process's queries about a worker's sample.

    Each in a task of its own: a decision on the same connection must not wait for counting.
    """

    def __init__(self, sample: Sample, active: ActiveEngine) -> None:
        self._sample = sample
        self._active = active
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, message: Message, writer: asyncio.StreamWriter) -> None:
        """Reply to a message, later."""
        task = asyncio.create_task(self._reply(message, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reply(self, message: Message, writer: asyncio.StreamWriter) -> None:
        found = await answer(message, self._sample, self._active.engine)
        if not writer.is_closing():
            writer.write(channel.encode({"id": message["id"], **found}))


async def answer(message: Message, sample: Sample, engine: Engine) -> Message:
    """
    The reply to ``{"op": "sample", "rules": [key, …], "source": …, "action": …}``, without its
    ``id``.

    ``rules`` null: those that ``source`` has in shadow.  ``action``: what they do, "block" if left
    out, or "allow".  The reply has `Count`: ``total``, of the sample; ``newly``, of what would be
    blocked and is not, or the other way; and ``rules``, of that, by key.
    """
    source = str(message.get("source") or OPERATOR)
    action = str(message.get("action") or "block")
    keys = message.get("rules")
    rules: Added | InShadow
    if keys is not None:
        rules = Added([str(key) for key in keys[:MAX_RULES]], source, action)
    else:
        shadow = engine.shadow()
        rules = Added((), source) if shadow is None else InShadow(shadow, source)
    total, newly = _Tally(), _Tally()
    each: dict[str, _Tally] = {}
    entries = sample.entries()
    for at in range(0, len(entries), PIECE):
        await asyncio.sleep(0)  # queries are answered between the pieces
        for entry in entries[at : at + PIECE]:
            total.add(entry)
            ruling = _change(entry.name, rules, engine, action == "block")
            if ruling is not None:
                newly.add(entry)
                each.setdefault(f"{ruling.kind} {ruling.value}", _Tally()).add(entry)
    most = sorted(each.items(), key=lambda one: -one[1].weight)
    limit = MAX_ROWS if keys is None else MAX_RULES
    rows = {key: tally.count for key, tally in most[:limit]}
    return {"total": total.count, "newly": newly.count, "rules": rows}


def _change(name: str, rules: Added | InShadow, engine: Engine, blocks: bool) -> Ruling | None:
    """The rule that would block a name which is not blocked now; or not `blocks`, the other way."""
    added = rules.covering(name)
    if not added:
        return None
    now = engine.decide(name)
    if (now is not None and now.action == "block") == blocks:
        return None
    then = engine.among(name, added)
    return then if then in added else None


class _Tally:
    """A `Count` that grows."""

    def __init__(self) -> None:
        self.queries = 0
        self.weight = 0.0
        self._clients: set[bytes] = set()

    def add(self, entry: Entry) -> None:
        self.queries += 1
        self.weight += entry.weight
        self._clients.add(entry.client)

    @property
    def count(self) -> Count:
        return Count(self.queries, self.weight, len(self._clients))
