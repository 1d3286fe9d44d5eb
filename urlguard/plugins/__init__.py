"""
The chain of plugins that every query goes through.

`BUILTIN` is the ordered table of UrlGuard's own; packages outside register theirs under the
entry-point group ``urlguard.plugins`` and are made by the same ``from_config`` call.  Which of them
run, and in which order, is the configuration's ``plugins``.  This is where packets and verdicts
meet; it knows nothing of listening sockets.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, Final, cast

from urlguard import events
from urlguard.config import Config, read_table
from urlguard.errors import ConfigError
from urlguard.plugins.acl import Acl
from urlguard.plugins.base import Answer, Done, Exchange, Local, Parts, Plugin, Resolving, Waiting
from urlguard.plugins.cache import Cache
from urlguard.plugins.forward import Forward
from urlguard.plugins.guard import Guard
from urlguard.plugins.limit import Limit
from urlguard.plugins.rebind import Rebind
from urlguard.plugins.special import Special
from urlguard.wire import answer
from urlguard.wire.query import FORMERR, IN, NOTIMP, REFUSED, SERVFAIL

__all__ = [
    "BUILTIN",
    "GROUP",
    "Answer",
    "Chain",
    "Done",
    "Exchange",
    "Local",
    "Parts",
    "Plugin",
    "Resolving",
    "Waiting",
]

GROUP: Final = "urlguard.plugins"

# First to last.  A plugin may depend on those below it, never on those above.
BUILTIN: Final[dict[str, Any]] = {
    "acl": Acl,  # before any work is spent on a client we refuse
    "limit": Limit,  # nor on one that asks too much
    "guard": Guard,  # above whatever knows upstream answers: a new policy acts on the next query,
    # and what the cache remembers is judged again each time
    "special": Special,  # below guard: a rule about a local name decides about it
    "cache": Cache,  # upstream answers; block answers are never in it
    "rebind": Rebind,  # looks at an upstream's answer once, before it is remembered
    "forward": Forward,  # last: the only plugin that asks others
}

# Plugins whose options other parts read too, so that they stand in `config.sections`.
_SECTIONS: Final = {f.name for f in dataclasses.fields(Config)}

_LOG_EVERY_S = 10.0

# Query types that are no question to a forwarder: OPT, TKEY, TSIG, IXFR, AXFR, MAILB, MAILA.
_NO_QUESTION: Final = {
    41: FORMERR,
    249: NOTIMP,
    250: FORMERR,
    251: REFUSED,
    252: REFUSED,
    253: NOTIMP,
    254: NOTIMP,
}


class Chain:
    """
    Plugins in order; built once for each worker and configuration.

    The plain plugins are asked one after the other; the first that may wait comes last, and what
    stands behind it is a chain of its own, which that plugin asks when it needs to.  ``failures``
    counts queries that got SERVFAIL because a plugin raised.  ``batches`` is True if a plugin has
    ``on_queries``, so that `local_batch` is worth more than `local` for each query.
    """

    def __init__(self, plugins: Sequence[Any], loop: asyncio.AbstractEventLoop) -> None:
        self.plugins = list(plugins)
        self.failures = 0
        self._loop = loop
        self._log_throttle = events.Throttle(_LOG_EVERY_S)
        self._last: Waiting | None = None
        self._rest: Chain | None = None
        first = next((i for i, p in enumerate(plugins) if isinstance(p, Waiting)), len(plugins))
        self._local: list[Plugin] = list(plugins[:first])
        asked: list[Any] = list(self._local)
        if first < len(plugins):
            last: Any = plugins[first]
            self._last = last
            if first + 1 < len(plugins):
                if not hasattr(last, "below"):
                    raise ConfigError(
                        [
                            f"plugins: {last.name!r} waits and is not last; what follows is never "
                            "asked"
                        ]
                    )
                self._rest = Chain(plugins[first + 1 :], loop)
                last.below = self._rest.ask
            elif hasattr(last, "below"):
                raise ConfigError([f"plugins: {last.name!r} is last; it needs one to ask"])
            if isinstance(last, Resolving):
                last.failed = self._failed
            if hasattr(last, "on_query"):
                asked.append(last)
        # A client that is not allowed is refused whatever the question is.
        self._every = [p for p in asked if getattr(p, "every_query", False)]
        # Those that never answer, or let all answers pass, are left out: asking them would cost
        # more than most answers.  The number is the plugin's place in the chain.
        self._queries: list[tuple[int, Callable[[Exchange], Answer | None]]] = [
            (i, p.on_query) for i, p in enumerate(asked) if not _silent(p)
        ]
        self._many = [getattr(p, "on_queries", None) for p in asked]
        self.batches = any(self._many)
        self._names = [p.name for p in asked]
        self._answers = [None if _passes(p) else p.on_answer for p in self._local]
        self._busy_above = [
            any(a is not None for a in self._answers[:i]) for i in range(len(self._local) + 1)
        ]
        self._storable = 0
        while (
            self._storable < len(asked)
            and getattr(asked[self._storable], "cacheable", False) is True
        ):
            self._storable += 1

    @classmethod
    def build(cls, config: Config, parts: Parts) -> "Chain":
        """
        The chain that the configuration asks for.

        Raises:
            ConfigError: a plugin is unknown, cannot be imported or refuses its table.
        """
        outside = {e.name: e for e in metadata.entry_points(group=GROUP)}
        plugins: list[Any] = []
        problems: list[str] = []
        for name in config.plugins:
            try:
                if name in BUILTIN or name in outside:
                    plugin = BUILTIN.get(name) or outside[name].load()
                    plugins.append(plugin.from_config(_options(plugin, name, config), parts))
                else:
                    known = ", ".join([*BUILTIN, *sorted(set(outside) - set(BUILTIN))])
                    problems.append(f"plugins: unknown plugin {name!r}; known: {known}")
            except ConfigError as exc:
                problems += exc.problems
            except Exception as exc:  # an outsider's code: say whose, and stop with the rest
                problems.append(f"plugin {name!r}: {type(exc).__name__}: {exc}")
        for name in config.plugin:
            if name not in config.plugins:
                problems.append(f"[plugin.{name}]: {name!r} is not among plugins; add it or remove")
        try:
            if not problems:
                return cls(plugins, parts.loop)
        except ConfigError as exc:
            problems += exc.problems
        for plugin in plugins:
            _close(plugin)
        raise ConfigError(problems)

    def local(self, x: Exchange) -> Answer | None:
        """
        The answer of the plugins that do not wait, or None if the last one must be asked.

        Other classes than IN, zone transfers and types that cannot be asked for are answered here:
        only plugins with ``every_query`` (the acl) see them, and they are never forwarded.

        Never raises: where a plugin does, the answer is SERVFAIL.
        """
        q = x.query
        if q.qclass != IN or q.qtype in _NO_QUESTION:
            return self._no_question(x)
        index = 0
        try:
            for index, ask in self._queries:
                found = ask(x)
                if found is not None:
                    return self._given(x, found, index)
        except Exception as exc:
            return self._failed(x, self._names[index], exc)
        if self._last is None:
            return Answer(answer.error(x, SERVFAIL), "chain")
        return None

    def _no_question(self, x: Exchange) -> Answer:
        """The answer to what no forwarder is asked for."""
        for plugin in self._every:
            try:
                refused: Answer | None = plugin.on_query(x)
            except Exception as exc:
                return self._failed(x, plugin.name, exc)
            if refused is not None:
                return refused
        return Answer(answer.error(x, _NO_QUESTION.get(x.query.qtype, REFUSED)), "chain")

    def local_batch(self, batch: Sequence[Exchange]) -> list[Answer | None]:
        """
        What `local` gives for each of several queries, in their order.

        Each plugin is asked about all of them before the next one is.  One with ``on_queries`` gets
        those that no plugin before it answered in one call; if that raises, or gives another number
        of answers, it is asked about them one by one, as every other plugin is.

        Never raises: a query on which a plugin raises gets SERVFAIL, and the others their answers.
        """
        answers: list[Answer | None] = [None] * len(batch)
        left: list[int] = []
        for at, x in enumerate(batch):
            if x.query.qclass != IN or x.query.qtype in _NO_QUESTION:
                answers[at] = self._no_question(x)
            else:
                left.append(at)
        for index, ask in self._queries:
            if not left:
                return answers
            found = self._ask_many(index, [batch[at] for at in left])
            rest: list[int] = []
            for n, at in enumerate(left):
                x = batch[at]
                try:
                    one = ask(x) if found is None else found[n]
                    if one is None:
                        rest.append(at)
                    else:
                        answers[at] = self._given(x, one, index)
                except Exception as exc:
                    answers[at] = self._failed(x, self._names[index], exc)
            left = rest
        if self._last is None:
            for at in left:
                answers[at] = Answer(answer.error(batch[at], SERVFAIL), "chain")
        return answers

    def _ask_many(self, index: int, batch: list[Exchange]) -> Sequence[Answer | None] | None:
        """What a plugin's ``on_queries`` gives; None if it must be asked one by one."""
        many = self._many[index]
        if many is None:
            return None
        try:
            found: Sequence[Answer | None] = many(batch)
            if len(found) == len(batch):
                return found
            error = f"on_queries gave {len(found)} answers to {len(batch)} queries"
        except Exception as exc:
            error = f"{type(exc).__name__}: {exc}"
        name = self._names[index]
        if self._log_throttle.due((name, "on_queries")):
            events.error("plugin.failed", plugin=name, error=error, answer="asked one by one")
        return None

    def _given(self, x: Exchange, found: Answer, index: int) -> Answer:
        """The answer of the plugin at `index`, as it leaves the chain."""
        if self._busy_above[index]:
            found = self._back(x, found, index)
        found.storable = index < self._storable and not found.once
        return found

    def resolve(self, x: Exchange, done: Done) -> None:
        """
        Ask the plugin that may wait, after `local` gave None; `done` is called once.

        It gets the answer, or None if the query gets no answer.
        """
        last = self._last
        if last is None:
            raise RuntimeError("a chain without a waiting plugin answers by itself")
        x.done = done
        try:
            last.ask(x, self._resolved)
        except Exception as exc:
            done(x, self._failed(x, last.name, exc))

    def ask(self, x: Exchange, done: Done) -> None:
        """Both in one: how a plugin asks the chain behind it."""
        found = self.local(x)
        if found is not None:
            done(x, found)
        else:
            self.resolve(x, done)

    def adopt(self, old: "Chain") -> None:
        """Let each plugin take over the state of the one with its name in the old chain."""
        before: dict[str, Any] = {p.name: p for p in old.plugins}
        for plugin in self.plugins:
            adopt = getattr(plugin, "adopt", None)
            one = before.get(plugin.name)
            if adopt is not None and type(one) is type(plugin):
                adopt(one)

    def close(self) -> None:
        """Close the plugins that hold something open."""
        for plugin in self.plugins:
            _close(plugin)

    def _resolved(self, x: Exchange, found: Answer | None) -> None:
        count = len(self._local)
        if found is not None and self._busy_above[count]:
            found = self._back(x, found, count)
        x.done(x, found)

    def _back(self, x: Exchange, found: Answer, index: int) -> Answer:
        """Pass an answer up through the plugins above position `index`."""
        given = found
        while index:
            index -= 1
            seen = self._answers[index]
            if seen is not None:
                try:
                    found = seen(x, found)
                except Exception as exc:
                    return self._failed(x, self._local[index].name, exc)
        if found is not given:
            # What was made of an answer holds no longer than the answer.
            found.fleeting |= given.fleeting
            found.depends_on = found.depends_on or given.depends_on
            found.once |= given.once
        return found

    def _failed(self, x: Exchange, name: str, exc: BaseException) -> Answer:
        self.failures += 1
        # One line for each plugin in 10 s: a flood of bad queries must not become one of lines.
        if self._log_throttle.due(name):
            events.error(
                "plugin.failed",
                plugin=name,
                error=f"{type(exc).__name__}: {exc}",
                qname=x.query.name,
                failures=self.failures,
                answer="servfail",
            )
        failed = Answer(answer.error(x, SERVFAIL), name)
        failed.once = True
        return failed


def _options(plugin: Any, name: str, config: Config) -> Any:
    """
    The options that `from_config` gets: the plugin's section, or its table ``[plugin.NAME]``.

    Raises:
        ConfigError: the table is not as the plugin's ``options`` want it.
    """
    if name in BUILTIN and name in _SECTIONS:
        return getattr(config, name)
    given = config.plugin.get(name, {})
    options = getattr(plugin, "options", None)
    if options is None:
        return given
    return read_table(options, given, f"plugin.{name}", config.path)


def _silent(plugin: Plugin) -> bool:
    return getattr(type(plugin), "on_query", None) is Local.on_query


def _passes(plugin: Plugin) -> bool:
    return getattr(type(plugin), "on_answer", None) is Local.on_answer


def _close(plugin: object) -> None:
    close = getattr(plugin, "close", None)
    if close is not None:
        cast(Callable[[], None], close)()
