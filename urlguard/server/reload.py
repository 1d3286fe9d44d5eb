"""
Reloading a configuration: is it valid, what differs, which keys take effect.

Knows configurations and the parts that read them; knows nothing of processes.
"""

import asyncio
import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from urlguard import config as configuration
from urlguard.blocklist import snapshot
from urlguard.config import Config
from urlguard.engine import ActiveEngine, Engine
from urlguard.plugins import Chain
from urlguard.plugins.base import Parts
from urlguard.plugins.clients import Clients

# Keys that need a restart, and why.
RESTART: Final = {
    "state_dir": "locked, and full of open files",
    "server.listen": "the sockets stay open for as long as the server runs",
    "server.workers": "each has sockets of its own, among which the kernel spreads the clients",
    "store.url": "the policy log of one history must not become that of another under way",
}

_MAX_TEXT = 120  # characters of one value; of a longer list, changes are shown
_MAX_ITEMS = 20  # of those
_TABLE = "{}"


class Difference(NamedTuple):
    """
    One key that differs.

    ``old`` and ``new`` are the values as text: ``{}`` for a whole table, None if there is none.
    ``restart`` is True if the key takes effect at the next start only.
    """

    key: str
    old: str | None
    new: str | None
    restart: bool

    def __str__(self) -> str:
        if self.old is None:
            return f"{self.key}: added {'' if self.new == _TABLE else self.new}".rstrip()
        if self.new is None:
            return f"{self.key}: removed"
        return f"{self.key}: {self.old} -> {self.new}"


def examine(config: Config) -> list[str]:
    """
    Have the plugins and the RPZ primary read the configuration, as the processes would.

    Files named in it (certificates, keys, secrets) are read as well.

    Returns:
        Warnings: settings that are valid and probably not meant.

    Raises:
        ConfigError: with every problem that they have found.
    """
    if config.rpz.listen:
        # Its DNS library takes a while to import; most servers do without.
        from urlguard.publish.rpz import transfer

        transfer.Look(config)
        transfer.keys(config.rpz.tsig)
    loop = asyncio.new_event_loop()
    try:
        Chain.build(
            config, Parts(config, ActiveEngine(Engine(snapshot.nothing())), loop, Clients(config))
        ).close()
    finally:
        loop.close()
    return configuration.warnings(config)


def in_force(old: Config, new: Config) -> Config:
    """The new configuration, with the running server's values of the keys in `RESTART`."""
    kept = new
    for key in RESTART:
        kept = _with(kept, key.split("."), _get(old, key.split(".")))
    return kept


def differences(old: Config, new: Config) -> list[Difference]:
    """
    The keys that differ between two configurations.

    Keys are dotted names as in the file.  Feeds, segments and keys are matched by their names, so
    their order does not count.  Passwords in addresses are left out.

    Returns:
        One entry per key, in the order of the sections; one for a table that was added or removed.
    """
    return list(_tables("", old, new))


def _tables(where: str, old: Any, new: Any) -> Iterator[Difference]:
    for field in dataclasses.fields(old):
        if isinstance(old, Config) and field.name == "path":
            continue
        key = f"{where}.{field.name}" if where else field.name
        yield from _values(key, getattr(old, field.name), getattr(new, field.name))


def _values(key: str, old: Any, new: Any) -> Iterator[Difference]:
    if old == new and type(old) is type(new):
        return
    if dataclasses.is_dataclass(old) and type(old) is type(new):
        yield from _tables(key, old, new)
    elif isinstance(old, dict) and isinstance(new, dict):
        yield from _named(key, old, new)
    elif _is_tables(old) and _is_tables(new):
        yield from _named(key, _by_name(old), _by_name(new))
    elif isinstance(old, tuple) and isinstance(new, tuple):
        yield _changed(key, *_lists(old, new))
    else:
        yield _changed(key, _cut(_text(old)), _cut(_text(new)))


def _named(key: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[Difference]:
    for name in [*old, *(n for n in new if n not in old)]:
        dotted = f"{key}.{_quoted(name)}"
        if name in old and name in new:
            yield from _values(dotted, old[name], new[name])
        elif name in old:
            yield _changed(dotted, _brief(old[name]), None)
        else:
            yield _changed(dotted, None, _brief(new[name]))


def _changed(key: str, old: str | None, new: str | None) -> Difference:
    return Difference(key, old, new, key in RESTART)


def _is_tables(value: Any) -> bool:
    """Whether it is a list of tables with names, or an empty list, which may be one."""
    return isinstance(value, tuple) and all(
        dataclasses.is_dataclass(item) and hasattr(item, "name") for item in value
    )


def _by_name(tables: tuple[Any, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for table in tables:
        name = table.name
        while name in found:  # permitted for keys: the same name under two algorithms
            name += "+"
        found[name] = table
    return found


def _lists(old: tuple[Any, ...], new: tuple[Any, ...]) -> tuple[str, str]:
    """Two lists as text: whole, or if they are long their sizes and the changes."""
    before, after = _text(old), _text(new)
    if max(len(before), len(after)) <= _MAX_TEXT:
        return before, after
    were, are = set(old), set(new)
    moves = [f"-{_cut(_text(i))}" for i in old if i not in are]
    moves += [f"+{_cut(_text(i))}" for i in new if i not in were]
    more = f" and {len(moves) - _MAX_ITEMS} more" if len(moves) > _MAX_ITEMS else ""
    changes = ", ".join(moves[:_MAX_ITEMS]) + more if moves else "in another order"
    return f"{len(old)} items", f"{len(new)} items: {changes}"


def _brief(value: Any) -> str:
    """A value that was added or removed; ``{}`` for a whole table."""
    return _TABLE if dataclasses.is_dataclass(value) else _cut(_text(value))


def _text(value: Any) -> str:
    """A value as it would stand in the file."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        return _TABLE
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):  # an Endpoint has them
        return f"[{', '.join(_text(v) for v in value)}]"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(_without_password(str(value)), ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


def _without_password(text: str) -> str:
    return re.sub(r"(?<=://)([^/@\s:]*):[^/@\s]*@", r"\1:***@", text)


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _get(table: Any, path: list[str]) -> Any:
    for name in path:
        table = getattr(table, name)
    return table


def _with(table: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    if rest:
        value = _with(getattr(table, name), rest, value)
    return dataclasses.replace(table, **{name: value})
