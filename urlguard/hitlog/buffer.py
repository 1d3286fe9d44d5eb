"""
The worker's part of the hit log: a buffer of hits, and the pseudonyms of clients.

`HitBuffer.add` keeps a blocked, review or shadow hit in memory.  Once a second the buffer is sent
to the control process, which writes it.  A client's address leaves this process only as a
pseudonym: a keyed hash (BLAKE2b) under a key that the control process makes for one day in UTC and
destroys after it.  All workers have the same key, so a client has one pseudonym per day.  Once the
key is destroyed, pseudonyms cannot be mapped to addresses, not even by trying all of them.

The hit's own time decides on its day: a hit of yesterday never gets today's pseudonym, which would
link the two.
"""

import asyncio
import datetime
import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from urlguard.processes import channel
from urlguard.processes.channel import Message

MAX_HITS: Final = 10_000  # different hits in the buffer; more are dropped and counted
MAX_OF_CLIENT: Final = 20  # rows per client and second; more are dropped and counted
MAX_UNREAD: Final = 1 << 20  # octets that control has not read, above which nothing is sent
FLUSH_S: Final = 1.0
CHUNK: Final = 100  # hits in one message, which takes 0.5 ms to encode
KEY_OCTETS: Final = 32


def day_of(seconds: float) -> str:
    """The day of a time in UTC, such as ``2026-11-23``."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()


class Pseudonyms:
    """
    Pseudonyms of client addresses, by the day's key.

    Args:
        clock: seconds since 1970, UTC.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.today = ""  # the day of the newest key; empty without any
        self._clock = clock
        self._keys: dict[str, bytes] = {}
        self._day_ends = 0.0
        self._day = ""

    def take(self, message: Message) -> None:
        """
        Use the key in a message ``{"op": "hitkey", "day": …, "key": hex}`` as today's.

        Raises:
            ValueError, KeyError, TypeError: the message has no valid key.
        """
        day, key = str(message["day"]), bytes.fromhex(message["key"])
        datetime.date.fromisoformat(day)
        if len(key) != KEY_OCTETS:
            raise ValueError(f"hit key: {len(key)} octets; must have {KEY_OCTETS}")
        # The key before stays for hits that are still in the buffer.
        before = {self.today: self._keys[self.today]} if self.today in self._keys else {}
        self._keys = {**before, day: key}
        self.today = day

    def forget_before(self) -> None:
        """Delete every key but today's."""
        if len(self._keys) > 1:
            self._keys = {self.today: self._keys[self.today]}

    def of(self, client: str, day: str) -> str | None:
        """The client's pseudonym on a day, 16 hexadecimal digits; None without that day's key."""
        key = self._keys.get(day)
        if key is None:
            return None
        return hashlib.blake2b(client.encode(), digest_size=8, key=key).hexdigest()

    def address(self, client: str) -> bytes:
        """
        Today's pseudonym as an address of the client's version; empty without today's key.

        An IPv4 address becomes one in 240.0.0.0/4, which is reserved (RFC 1112 section 4), an IPv6
        address one in fd00::/8 (RFC 4193), so no pseudonym is a subscriber's address.
        """
        now = self._clock()
        if not self._day_ends - 86_400 <= now < self._day_ends:
            self._day = day_of(now)
            self._day_ends = (now // 86_400 + 1) * 86_400
        key = self._keys.get(self._day)
        if key is None:
            return b""
        digest = hashlib.blake2b(client.encode(), digest_size=16, key=key).digest()
        if ":" in client:
            return b"\xfd" + digest[1:]
        return bytes((0xF0 | digest[0] & 0x0F,)) + digest[1:4]


class HitBuffer:
    """
    One worker's hits until they are sent to the control process.

    ``counters`` since the start: ``noted`` and ``dropped`` hits.  Hits are dropped if the buffer is
    full or the client has `MAX_OF_CLIENT` rows in this second; made-up names would fill the disk.

    Args:
        pseudonyms: has the keys; hits stay here until there is one for their day.
        clock: seconds since 1970, UTC.
    """

    def __init__(self, pseudonyms: Pseudonyms, clock: Callable[[], float] = time.time) -> None:
        self.counters: Counter[str] = Counter()
        self._pseudonyms = pseudonyms
        self._clock = clock
        self._hits: dict[tuple[Any, ...], int] = {}
        self._leaving: deque[tuple[tuple[Any, ...], int]] = deque()  # in the order of time
        self._room = MAX_HITS
        self._second = 0
        self._of_client: dict[str, int] = {}  # rows of each in that second

    def __len__(self) -> int:
        return len(self._hits) + len(self._leaving)

    def add(
        self,
        client: str,
        name: str,
        qtype: int,
        action: str,
        category: str,
        rule: str,
        sources: tuple[str, ...],
        segment: str,
    ) -> None:
        """
        Add a hit.

        Args:
            client: the address, as the socket gives it.
            name: of the query, as in `Query.name`.
            qtype: of the query.
            action: block, review or shadow.
            category: of the rule.
            rule: its key, such as ``subtree evil.example``.
            sources: whose claims the rule has.
            segment: the client's; empty for none.
        """
        hits = self._hits
        second = int(self._clock())
        hit = (second, client, name, qtype, action, category, rule, sources, segment)
        if hit in hits:
            hits[hit] += 1
            return
        if second != self._second:
            self._second = second
            self._of_client.clear()
        rows = self._of_client.get(client, 0)
        if rows < MAX_OF_CLIENT and len(hits) < self._room:
            self._of_client[client] = rows + 1
            hits[hit] = 1
        else:
            self.counters["dropped"] += 1

    async def run(self, writer: asyncio.StreamWriter) -> None:
        """Send hits to the control process once a second, until cancelled."""
        while not writer.is_closing():
            await asyncio.sleep(FLUSH_S)
            for line in self.lines():
                writer.write(line)
                if writer.transport.get_write_buffer_size() > MAX_UNREAD:
                    break
                await asyncio.sleep(0)

    def lines(self) -> Iterator[bytes]:
        """
        Messages ``{"op": "hits", "rows": […]}`` with the hits so far, each encoded when taken.

        A row is: second since 1970, pseudonym (null if the key of its day is gone), the arguments
        of `add`, and the number of equal hits in that second.  Hits of messages that are not taken,
        and hits without a key yet, stay.
        """
        leaving, hits = self._leaving, self._hits
        leaving.extend(hits.items())
        hits.clear()
        today, of = self._pseudonyms.today, self._pseudonyms.of
        day, ends = "", 0
        while leaving:
            rows: list[tuple[Any, ...]] = []
            while leaving and len(rows) < CHUNK:
                (second, client, *rest), count = leaving[0]
                if not ends - 86_400 <= second < ends:
                    day, ends = day_of(second), (second // 86_400 + 1) * 86_400
                pseudonym = of(client, day)
                if pseudonym is None and day > today:
                    break
                leaving.popleft()
                rows.append((second, pseudonym, *rest, count))
            self._room = MAX_HITS - len(leaving)
            if not rows:
                break
            self.counters["noted"] += len(rows)
            yield channel.encode({"op": "hits", "rows": rows})
        else:
            if not hits:  # some may have been added meanwhile
                self._pseudonyms.forget_before()
        self._room = MAX_HITS - len(leaving)
