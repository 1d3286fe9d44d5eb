"""
The chain of plugins that every query goes through.

`BUILTIN` is the ordered table of UrlGuard's own; packages outside register theirs under the
entry-point group ``urlguard.plugins`` and are made by the same ``from_config`` call.  Which of them
run, and in which order, is the configuration's ``plugins``.  This is where packets and verdicts
meet; it knows nothing of listening sockets.
"""

import asyncio
import time
from collections.abc import Callable, Container, Sequence
from importlib import metadata
from typing import Any, Final, cast

from urlguard import events
from urlguard.config import Config
from urlguard.errors import ConfigError
from urlguard.plugins.acl import Acl
from urlguard.plugins.base import Answer, Local, Parts, Plugin, Waiting
from urlguard.plugins.forward import Forward
from urlguard.plugins.guard import Guard
from urlguard.wire import answer
from urlguard.wire.query import FORMERR, IN, NOTIMP, REFUSED, SERVFAIL, Query

__all__ = ["BUILTIN", "GROUP", "Answer", "Chain", "Local", "Parts", "Plugin", "Waiting"]

GROUP: Final = "urlguard.plugins"

# First to last.  A plugin may depend on those below it, never on those above.
BUILTIN: Final[dict[str, Any]] = {
    "acl": Acl,  # before any work is spent on a client we refuse
    "guard": Guard,  # above whatever knows upstream answers: a new policy acts on the next query
    "forward": Forward,  # last: the only plugin that waits
}

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


class Everyone:
    """Holds every client: what a chain without an acl allows."""

    def __contains__(self, host: object) -> bool:
        return True


class Chain:
    """
    Plugins in order; built once for each worker.

    ``allowed`` holds the clients that ready answers may be given to.  ``failures`` counts queries
    that got SERVFAIL because a plugin raised.
    """

    def __init__(self, plugins: Sequence[Any], loop: asyncio.AbstractEventLoop) -> None:
        self.plugins = list(plugins)
        self.failures = 0
        self._loop = loop
        self._logged: dict[str, float] = {}
        self._last: Waiting | None = None
        local = self.plugins
        if local and isinstance(local[-1], Waiting):
            self._last = local[-1]
            local = local[:-1]
        for plugin in local:
            if isinstance(plugin, Waiting):
                raise ConfigError(
                    [f"plugins: {plugin.name!r} waits and is not last; what follows is never asked"]
                )
        self._local: list[Plugin] = local
        # Who may not ask at all is told so whatever the question is.
        self._every = [p.on_query for p in local if getattr(p, "every_query", False)]
        self._queries = [p.on_query for p in self._local]
        # Asking every plugin about every answer would cost more than most answers: those that
        # let all pass are left out.
        self._answers = [None if _passes(p) else p.on_answer for p in self._local]
        self._busy_above = [
            any(a is not None for a in self._answers[:i]) for i in range(len(self._local) + 1)
        ]
        self._ready = 0
        while self._ready < len(local) and getattr(local[self._ready], "cacheable", False) is True:
            self._ready += 1
        self.allowed: Container[str] = next(
            (p.allowed for p in local if hasattr(p, "allowed")), Everyone()
        )

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
                if name in BUILTIN:
                    plugins.append(BUILTIN[name].from_config(getattr(config, name), parts))
                elif name in outside:
                    made = outside[name].load().from_config(config.plugin.get(name, {}), parts)
                    plugins.append(made)
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

    def local(self, q: Query) -> Answer | None:
        """
        The answer of the plugins that do not wait, or None if the last one must be asked.

        Other classes than IN, zone transfers and types that cannot be asked for are answered here:
        only plugins with ``every_query`` (the acl) get to see them, and nobody upstream.

        Never raises: where a plugin does, the answer is SERVFAIL.
        """
        if q.qclass != IN or q.qtype in _NO_QUESTION:
            for ask in self._every:
                refused: Answer | None = ask(q)
                if refused is not None:
                    return refused
            return Answer(answer.error(q, _NO_QUESTION.get(q.qtype, REFUSED)), "chain")
        index = 0
        try:
            for ask in self._queries:
                found = ask(q)
                if found is not None:
                    if self._busy_above[index]:
                        found = self._back(q, found, index)
                    found.ready = index < self._ready
                    return found
                index += 1
        except Exception as exc:
            return self._failed(q, self._local[index].name, exc)
        if self._last is None:
            return Answer(answer.error(q, SERVFAIL), "chain")
        return None

    def resolve(self, q: Query, done: Callable[[Query, Answer | None], None]) -> None:
        """
        Ask the last plugin, after `local` gave None, and call `done` once with what comes of it.

        `done` gets None if the plugin gave up on the query (its future was cancelled).
        """
        last = self._last
        assert last is not None
        try:
            future = last.resolve(q)
        except Exception as exc:
            done(q, self._failed(q, last.name, exc))
            return
        if future.done():
            self._resolved(q, done, future)
        else:
            future.add_done_callback(lambda future: self._resolved(q, done, future))

    def close(self) -> None:
        """Close the plugins that hold something open."""
        for plugin in self.plugins:
            _close(plugin)

    def _resolved(
        self,
        q: Query,
        done: Callable[[Query, Answer | None], None],
        future: "asyncio.Future[Answer]",
    ) -> None:
        if future.cancelled():
            done(q, None)
            return
        assert self._last is not None
        exc = future.exception()
        if exc is not None:
            done(q, self._failed(q, self._last.name, exc))
            return
        found = future.result()
        count = len(self._local)
        if self._busy_above[count]:
            found = self._back(q, found, count)
        done(q, found)

    def _back(self, q: Query, found: Answer, index: int) -> Answer:
        """Pass an answer up through the plugins above position `index`."""
        while index:
            index -= 1
            seen = self._answers[index]
            if seen is not None:
                try:
                    found = seen(q, found)
                except Exception as exc:
                    return self._failed(q, self._local[index].name, exc)
        return found

    def _failed(self, q: Query, name: str, exc: BaseException) -> Answer:
        self.failures += 1
        # One line for each plugin in 10 s: a flood of bad queries must not become one of lines.
        now = time.monotonic()
        if now - self._logged.get(name, -_LOG_EVERY_S) >= _LOG_EVERY_S:
            self._logged[name] = now
            events.error(
                "plugin.failed",
                plugin=name,
                error=f"{type(exc).__name__}: {exc}",
                qname=q.name,
                failures=self.failures,
                answer="servfail",
            )
        return Answer(answer.error(q, SERVFAIL), name)


def _passes(plugin: Plugin) -> bool:
    return getattr(type(plugin), "on_answer", None) is Local.on_answer


def _close(plugin: object) -> None:
    close = getattr(plugin, "close", None)
    if close is not None:
        cast(Callable[[], None], close)()
