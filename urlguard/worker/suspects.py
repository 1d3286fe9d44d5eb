"""
A worker's suspects, reported to the control process: for a command, or for the cases.

Queries are answered between the pieces of a list.  A suspect counts as reported once the control
process has acknowledged it, so it may be reported twice, and its queries counted twice, but is
never lost.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from urlguard.classify.suspects import Suspect, SuspectMemory
from urlguard.processes.channel import Message

ROWS: Final = 50  # suspects that are looked at between two looks at the sockets
MAX_UNREPORTED: Final = 200  # suspects in one report

_as_json = json.JSONEncoder(separators=(",", ":")).encode


class Suspects:
    """
    Answers the control process.

    Args:
        memories: the suspects of each classifier policy in use, read anew each time.
        decide: whether a rule covers a name, read anew between two pieces.
    """

    def __init__(
        self,
        memories: Callable[[], list[SuspectMemory]],
        decide: Callable[[], Callable[[str], object]],
    ) -> None:
        self._memories = memories
        self._decide = decide

    async def top(self, message: Message, writer: asyncio.StreamWriter) -> None:
        """The most suspicious, for ``urlguard suspects``."""
        found = [one for memory in self._memories() for one in memory.top(int(message["count"]))]
        await self._write(message, writer, found, list)

    async def unreported(self, message: Message, writer: asyncio.StreamWriter) -> None:
        """Those that clients asked for since they were reported, each with the queries since."""
        new = {one: n for some in self._memories() for one, n in some.unreported(MAX_UNREPORTED)}
        open_ = await self._write(message, writer, list(new), lambda one: [*one, new[one]])
        for one in new.keys() - set(open_):
            self._mark(one.name, one.asked)

    async def acknowledged(self, message: Message, writer: asyncio.StreamWriter) -> None:
        """The control process has these."""
        for name, asked in message["names"]:
            self._mark(str(name), int(asked))

    def _mark(self, name: str, asked: int) -> None:
        for memory in self._memories():
            memory.acknowledge(name, asked)

    async def _write(
        self,
        message: Message,
        writer: asyncio.StreamWriter,
        found: Sequence[Suspect],
        row: Callable[[Suspect], Iterable[Any]],
    ) -> list[Suspect]:
        """Write those that no rule covers by now; returns them."""
        rows: list[str] = []
        open_: list[Suspect] = []
        for at in range(0, len(found), ROWS):
            await asyncio.sleep(0)
            decide = self._decide()
            piece = [one for one in found[at : at + ROWS] if decide(one.name) is None]
            open_ += piece
            rows += (_as_json(row(one)) for one in piece)
        # In one piece, for others write here too.
        head = f'{{"id":{json.dumps(message["id"])},"names":['
        writer.write(f"{head}{','.join(rows)}]}}\n".encode())
        return open_
