"""
Reads TOML tables into dataclasses and collects every problem.

An unknown key is an error that names the nearest known one.
"""

import dataclasses
import difflib
import ipaddress
import re
import types
import typing
from pathlib import Path
from typing import Any

from urlguard.config.sections import Feed
from urlguard.config.values import Endpoint, Network, endpoint


class Reader:
    """Reads tables into dataclasses; `problems` collects one text for each mistake."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []

    def problem(self, where: str, text: str) -> None:
        self.problems.append(f"{self.path.name}: {where}{text}")

    def table(self, cls: type[Any], table: dict[str, Any], where: str) -> Any:
        fields = {f.name: f for f in dataclasses.fields(cls) if f.name != "path" or cls is Feed}
        types_ = typing.get_type_hints(cls)
        section = where if where.startswith("[") else f"[{where}] " if where else ""
        values: dict[str, Any] = {}
        for key, raw in table.items():
            if key not in fields:
                near = difflib.get_close_matches(key, fields, 1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(fields)}"
                self.problem(section, f"unknown key {key!r}{hint}")
                continue
            label = f"{where}.{key}" if where else key
            try:
                values[key] = self.value(types_[key], fields[key], raw, label)
            except ValueError as exc:
                self.problem(section, f"{key} = {_toml(raw)}: {exc}")
                if fields[key].metadata.get("pattern") and isinstance(raw, str):
                    values[key] = raw  # else a bad name would also be reported as missing
        return cls(**values)

    def value(self, hint: Any, f: "dataclasses.Field[Any]", raw: Any, label: str) -> Any:
        origin = typing.get_origin(hint)
        if dataclasses.is_dataclass(hint):
            if not isinstance(raw, dict):
                raise ValueError(f"must be a table, [{label}]")
            return self.table(typing.cast(type, hint), raw, label)
        if origin is dict:
            return self.mapping(typing.get_args(hint)[1], f, raw, label)
        if origin is tuple:
            if not isinstance(raw, list):
                raise ValueError("must be a list")
            return self.items(typing.get_args(hint)[0], f, raw, label)
        if origin is types.UnionType and inner_none(hint):
            hint = inner_none(hint)
        value = self.scalar(hint, raw)
        meta = f.metadata
        if meta.get("choices") and value not in meta["choices"]:
            raise ValueError(f"must be one of {', '.join(meta['choices'])}")
        if meta.get("pattern") and not re.fullmatch(meta["pattern"], value):
            raise ValueError(f"must match {meta['pattern']}")
        low, high = meta.get("low"), meta.get("high")
        if low is not None and not low <= value <= high:
            kind = "an integer" if hint is int else "a number"
            raise ValueError(f"must be {kind} from {low} to {high}")
        return value

    def mapping(self, hint: Any, f: "dataclasses.Field[Any]", raw: Any, label: str) -> Any:
        """A table with free keys."""
        if typing.get_origin(hint) is dict:  # a plugin's own table, which the plugin reads
            if not isinstance(raw, dict) or not all(isinstance(v, dict) for v in raw.values()):
                raise ValueError(f"must be tables, [{label}.NAME]")
            return raw
        if not isinstance(raw, dict):
            raise ValueError(f'must be a table, [{label}], with lines such as "name" = [...]')
        found = {}
        for name, value in raw.items():
            try:
                found[name] = self.value(hint, f, value, f"{label}.{name}")
            except ValueError as exc:
                raise ValueError(f"{name!r}: {exc}") from None
        return found

    def items(self, hint: Any, f: "dataclasses.Field[Any]", raw: list[Any], label: str) -> Any:
        """
        The values of a list.

        Raises:
            ValueError: names every wrong item.
        """
        found, wrong = [], []
        for number, item in enumerate(raw, 1):
            where = label
            if dataclasses.is_dataclass(hint) and isinstance(item, dict):
                where = f"[[{label}]] {item.get('name', f'number {number}')}: "
            try:
                found.append(self.value(hint, f, item, where))
            except ValueError as exc:
                wrong.append(f"{_toml(item)}: {exc}" if len(raw) > 1 else str(exc))
        if wrong:
            raise ValueError("; ".join(wrong))
        return tuple(found)

    def scalar(self, hint: Any, raw: Any) -> Any:
        if hint in (bool, str):
            if type(raw) is not hint:
                raise ValueError("must be true or false" if hint is bool else "must be a string")
            return raw
        if hint is int:
            if type(raw) is not int:
                raise ValueError("must be an integer")
            return raw
        if hint is float:
            if type(raw) not in (int, float):
                raise ValueError("must be a number")
            return _float(raw)
        if not isinstance(raw, str):
            raise ValueError("must be a string")
        if hint is Path:
            return self.path.parent / _path(raw)
        if hint is Endpoint:
            return endpoint(raw)
        if hint == Network:
            try:
                return ipaddress.ip_network(raw)
            except ValueError as exc:
                raise ValueError(f'must be a network such as "10.0.0.0/8": {exc}') from exc
        address = "an IPv4 address" if hint is ipaddress.IPv4Address else "an IPv6 address"
        try:
            return hint(raw)
        except ValueError:
            raise ValueError(f"must be {address}") from None


def inner_none(hint: Any) -> Any:
    """The type X of ``X | None``, or None for any other type."""
    args = typing.get_args(hint)
    rest = [a for a in args if a is not type(None)]
    return rest[0] if len(rest) == 1 and len(args) == 2 else None


def _float(raw: int | float) -> float:
    try:
        return float(raw)
    except OverflowError:
        raise ValueError("must be a number that fits") from None


def _path(text: str) -> Path:
    if "\0" in text:
        raise ValueError("must be a path, without NUL")
    try:
        return Path(text).expanduser()
    except RuntimeError as exc:  # "~user" of an unknown user
        raise ValueError(f"must be a path: {exc}") from None


def _toml(raw: Any) -> str:
    text = str(raw).lower() if isinstance(raw, bool) else repr(raw)
    return text if len(text) < 80 else text[:77] + "..."
