"""
The interface of plugins: protocols, base classes, and the `Exchange` and `Answer` they work on.

A plugin that answers from what it knows is a plain function of the query (`Plugin`).  One that may
have to wait (`Waiting`) stands behind the plain ones and may ask the plugins behind it.
Third-party plugins need this module alone; UrlGuard's own plugins use nothing else either.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, Self, runtime_checkable

from urlguard.config import Config
from urlguard.plugins.clients import Client, Clients
from urlguard.verdict import Ruling
from urlguard.wire.query import TCP, UDP, Query, Transport
from urlguard.wire.reply import Reply, render

if TYPE_CHECKING:
    from urlguard.classify.policy import ActiveModels
    from urlguard.engine import ActiveEngine


NOBODY: Final = ("", 0)  # the peer of a query that no client sent


class Exchange:
    """
    One query on its way to its answer: the query as it was read, and notes for those after.

    Of the listener: ``peer``, what its socket needs to send the answer, beginning with the address
    as text; ``transport``; ``when``, the time of arrival by the performance counter, in seconds.
    Of the frontend: ``client``, what policy knows of the client, None for a query that no client
    sent; ``proven``, the client's address is no forgery (a connection, or a valid cookie);
    ``reply_options``, whole EDNS options that the answer must carry, as octets.
    Of plugins: ``ruling``, a rule that let the query pass; ``shadows``, rules that are only
    counted; ``key``, the cache's.  Of the chain: ``done``, who wants the answer.
    """

    __slots__ = (
        "client",
        "done",
        "key",
        "peer",
        "proven",
        "query",
        "reply_options",
        "ruling",
        "shadows",
        "transport",
        "when",
    )

    done: "Done"
    key: Any
    ruling: Ruling | None
    shadows: list[Ruling] | None
    when: float

    def __init__(
        self,
        query: Query,
        client: Client | None = None,
        peer: tuple[Any, ...] = NOBODY,
        transport: Transport = UDP,
    ) -> None:
        self.query = query
        self.client = client
        self.peer = peer
        self.transport = transport
        self.proven = transport != UDP
        self.reply_options = b""
        self.ruling = self.shadows = self.key = None

    def anonymous(self) -> "Exchange":
        """The same question, asked for no client: how a plugin asks the plugins behind it."""
        other = Exchange(self.query, None, NOBODY, TCP)  # an answer of any size is welcome
        other.key = self.key
        return other

    @property
    def host(self) -> str:
        """The client's address as text; empty for a query that no client sent."""
        return "" if self.client is None else self.client.host

    def __repr__(self) -> str:
        return f"<Exchange {self.query!r} with {self.peer[0]}>"


class Answer:
    """
    An answer on its way to the client: a whole message, or an upstream's reply still to be dressed.

    ``wire`` is the message, of any size: the listener cuts it to what the client takes; empty
    octets mean that the query gets no answer at all.  It is None while ``reply`` stands for it;
    then ``age`` (seconds since the reply came), ``ede`` (an extended error to add) and ``flat_ttl``
    (the TTL of all its records, in seconds) say how it is given.

    ``source`` is the name of the plugin that gave it.  ``ruling`` is the rule that decided or that
    let the query pass for review.  ``storable`` is set by the chain: the packet cache may give the
    same answer to the same datagram until the policy changes; if ``fleeting``, for a second; if
    ``once``, never: it is for this client alone.  ``depends_on`` has the names, beside the one
    asked for, whose rules it depends on.
    """

    __slots__ = (
        "age",
        "depends_on",
        "ede",
        "flat_ttl",
        "fleeting",
        "once",
        "reply",
        "ruling",
        "source",
        "storable",
        "wire",
    )

    def __init__(
        self,
        wire: bytes | None,
        source: str,
        ruling: Ruling | None = None,
        reply: Reply | None = None,
    ) -> None:
        self.wire = wire
        self.source = source
        self.ruling = ruling
        self.reply = reply
        self.age = 0
        self.ede: int | None = None
        self.flat_ttl: int | None = None
        self.storable = False
        self.fleeting = False
        self.once = False
        self.depends_on: tuple[str, ...] = (
            () if reply is None else reply.targets + reply.additional_owners
        )

    def octets(self, x: Exchange) -> bytes:
        """The whole message for the client of `x`."""
        if self.wire is not None:
            return self.wire
        assert self.reply is not None
        return render(self.reply, x, self.age, self.ede, self.flat_ttl)

    def __repr__(self) -> str:
        return f"<Answer from {self.source}>"


Done = Callable[[Exchange, Answer | None], None]


@dataclass(frozen=True)
class Parts:
    """
    What a plugin may use: the configuration, the cells with the engine and the models, the event
    loop, the clients.

    Time is ``loop.time()``, in seconds: tests put a clock of their own there.
    """

    config: Config
    active: "ActiveEngine"
    loop: asyncio.AbstractEventLoop
    clients: Clients
    models: "ActiveModels | None" = None


class Plugin(Protocol):
    """
    A local plugin: it answers at once or not at all.

    A plugin may also have ``cacheable = True``: its answer to a query, and what it does to answers
    that pass back through it, depends only on the datagram's octets, on the client's segment and
    being allowed, and on the policy, and it need not see each query.  Without it, no answer from it
    or from below it is ever given without asking it.

    A plugin may have ``on_queries(batch)`` beside `on_query`: a list of exchanges in, the answers
    in the same order out, None for each that the next plugin is to be asked about.  It is called
    where several queries are at hand, for plugins to which many cost less than one by one.

    A plugin may have ``counters``, a Counter that shows up among the metrics; ``close()``, called
    when the worker ends or a new configuration takes its place; and ``adopt(old)``, called on the
    plugin of the new configuration with the one of the same name that it replaces.
    """

    name: str

    @classmethod
    def from_config(cls, table: Any, parts: Parts) -> Self:
        """
        The plugin for one worker.

        Args:
            table: for a plugin with a section of its own in `config.sections`, the dataclass of
                that section; else an instance of the class attribute ``options``, a frozen
                dataclass, read from ``[plugin.NAME]``; without it the plain dict.

        Raises:
            ConfigError: the table is wrong.
        """
        ...

    def on_query(self, x: Exchange) -> Answer | None:
        """The answer, or None to ask the next plugin."""
        ...

    def on_answer(self, x: Exchange, a: Answer) -> Answer:
        """The answer to pass on, given one from below on its way back."""
        ...


@runtime_checkable
class Waiting(Protocol):
    """
    A plugin that may have to wait for its answer.

    It may have ``on_query`` too, for what it knows at once.  One that is not the last of the chain
    has ``below``, which the chain sets: ``below(x, done)`` asks the plugins that stand behind it.
    """

    name: str

    def ask(self, x: Exchange, done: Done) -> None:
        """
        Find the answer and call ``done(x, answer)`` once, at once or later.

        None in place of an answer: the client gets none.
        """
        ...


class Local:
    """A base for plugins that let answers pass as they are; the chain then skips that call."""

    name: ClassVar[str]
    cacheable: ClassVar[bool] = False
    options: ClassVar[type | None] = None  # the frozen dataclass of its options

    def on_query(self, x: Exchange) -> Answer | None:
        """Ask the next plugin."""
        return None

    def on_answer(self, x: Exchange, a: Answer) -> Answer:
        """Let it pass."""
        return a


class Resolving:
    """
    A base for last plugins that are written as a coroutine: it costs a task for each query.

    ``failed``, which the chain sets, is the answer for a query whose coroutine raised.
    """

    name: ClassVar[str]
    failed: Callable[[Exchange, str, BaseException], Answer]

    def __init__(self) -> None:
        self._tasks: set[asyncio.Future[Answer]] = set()

    def resolve(self, x: Exchange) -> Awaitable[Answer]:
        """The answer to come."""
        raise NotImplementedError

    def ask(self, x: Exchange, done: Done) -> None:
        """Run the coroutine and pass on its answer; see `Waiting`."""
        task = asyncio.ensure_future(self.resolve(x))
        self._tasks.add(task)

        def finished(task: "asyncio.Future[Answer]") -> None:
            self._tasks.discard(task)
            if task.cancelled():
                done(x, None)
                return
            exc = task.exception()
            done(x, task.result() if exc is None else self.failed(x, self.name, exc))

        task.add_done_callback(finished)

    def close(self) -> None:
        """Cancel the queries under way."""
        for task in list(self._tasks):
            task.cancel()
