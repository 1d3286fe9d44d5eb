"""
What a plugin is: the protocols, the answer that passes between plugins, and what they are made of.

A plugin that answers from what it knows is a plain function of the query (`Plugin`).  Only the last
one of the chain may wait (`Waiting`).  Outsiders write against this module alone; UrlGuard's own
plugins use nothing else either.
"""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

from urlguard.config import Config
from urlguard.verdict import Ruling
from urlguard.wire.query import Query

if TYPE_CHECKING:
    from urlguard.engine import Live


class Answer:
    """
    An answer on its way to the client.

    ``wire`` is the whole message, of any size: the listener cuts it to what the client takes.
    ``source`` is the name of the plugin that gave it.  ``ruling`` is what it was given for, if a
    rule.  ``ready`` is set by the chain: the same datagram may get the same answer, without asking
    again, until the policy changes.
    """

    __slots__ = ("ready", "ruling", "source", "wire")

    def __init__(self, wire: bytes, source: str, ruling: Ruling | None = None) -> None:
        self.wire = wire
        self.source = source
        self.ruling = ruling
        self.ready = False

    def __repr__(self) -> str:
        return f"<Answer from {self.source}, {len(self.wire)} octets>"


@dataclass(frozen=True)
class Parts:
    """What a plugin may use: the whole configuration, the cell with the engine, the event loop."""

    config: Config
    live: "Live"
    loop: asyncio.AbstractEventLoop


class Plugin(Protocol):
    """
    A local plugin: it answers at once or not at all.

    A plugin may also have ``cacheable = True``: its answer to a query, and what it does to answers
    that pass back through it, depends only on the datagram's octets, on the client being allowed
    and on the policy, and it need not see each query.  Without it, no answer from it or from below
    it is ever given without asking it.  A ``close()`` is called when the worker ends.
    """

    name: str

    @classmethod
    def from_config(cls, table: Any, parts: Parts) -> Self:
        """
        The plugin for one worker.

        Args:
            table: for UrlGuard's own, the dataclass of its section; for outsiders, the plain dict
                of ``[plugin.NAME]``, which `config.read_table` turns into a dataclass.

        Raises:
            ConfigError: the table is wrong.
        """
        ...

    def on_query(self, q: Query) -> Answer | None:
        """The answer, or None to ask the next plugin."""
        ...

    def on_answer(self, q: Query, a: Answer) -> Answer:
        """What becomes of an answer from below on its way back."""
        ...


@runtime_checkable
class Waiting(Protocol):
    """The last plugin, the only one that may wait."""

    name: str

    def resolve(self, q: Query) -> "asyncio.Future[Answer]":
        """The answer to come.  A coroutine fits with ``asyncio.ensure_future(coroutine)``."""
        ...


class Local:
    """A base for plugins that let answers pass as they are; the chain then skips that call."""

    name: ClassVar[str]
    cacheable: ClassVar[bool] = False

    def on_query(self, q: Query) -> Answer | None:
        """Ask the next plugin."""
        return None

    def on_answer(self, q: Query, a: Answer) -> Answer:
        """Let it pass."""
        return a
