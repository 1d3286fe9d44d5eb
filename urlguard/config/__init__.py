"""
The configuration file: TOML in, one frozen dataclass for each section out.

Reading collects every problem instead of stopping at the first.
"""

import dataclasses
import os
import tomllib
import typing
from pathlib import Path
from typing import Any

from urlguard.config.checks import across, warnings
from urlguard.config.keys import key, table
from urlguard.config.reader import Reader, inner_none
from urlguard.config.sections import (
    Acl,
    Api,
    Bus,
    Cache,
    Cases,
    Classify,
    Config,
    Dnstap,
    Feed,
    Forward,
    Guard,
    Hits,
    Landing,
    Limit,
    Rebind,
    Rpz,
    Segment,
    Server,
    Special,
    Store,
    TsigKey,
)
from urlguard.config.values import Endpoint, Network, Upstream, endpoint, upstream
from urlguard.errors import ConfigError

__all__ = [
    "Acl",
    "Api",
    "Bus",
    "Cache",
    "Cases",
    "Classify",
    "Config",
    "Dnstap",
    "Endpoint",
    "Feed",
    "Forward",
    "Guard",
    "Hits",
    "Landing",
    "Limit",
    "Network",
    "Rebind",
    "Rpz",
    "Segment",
    "Server",
    "Special",
    "Store",
    "TsigKey",
    "Upstream",
    "endpoint",
    "inner_none",
    "key",
    "load",
    "parse",
    "read_table",
    "table",
    "upstream",
    "warnings",
]


def load(path: Path | None = None) -> Config:
    """
    Read a configuration; without a path, ``URLGUARD_CONFIG``, ``urlguard.toml`` here, or defaults.

    Relative paths in the file are relative to the file's folder.

    Raises:
        ConfigError: with every problem found; each names the file, the key, the value and
            the allowed values.
    """
    if path is None:
        named = os.environ.get("URLGUARD_CONFIG")
        path = Path(named) if named else Path("urlguard.toml")
        if not named and not path.is_file():
            return dataclasses.replace(Config(), state_dir=Path("var").absolute())
    try:
        data = tomllib.loads(path.read_bytes().decode())
    except OSError as exc:
        raise ConfigError([f"{path}: {exc.strerror or exc}; must be a readable file"]) from exc
    except (ValueError, RecursionError) as exc:  # of tomllib, of the text, of a number in it
        raise ConfigError([f"{path}: not TOML: {exc}"]) from exc
    return parse(data, path.absolute())


def parse(data: dict[str, Any], path: Path) -> Config:
    """The configuration in a TOML document; see `load`."""
    reader = Reader(path)
    config = typing.cast(Config, reader.table(Config, data, ""))
    across(config, reader)
    if reader.problems:
        raise ConfigError(reader.problems)
    return dataclasses.replace(config, path=path, state_dir=path.parent / config.state_dir)


def read_table(cls: type[Any], data: dict[str, Any], where: str, path: Path | None) -> Any:
    """
    Read one table into the frozen dataclass `cls`: how the chain reads ``[plugin.NAME]``.

    Raises:
        ConfigError: as `load`.
    """
    reader = Reader(path or Path("(defaults)"))
    value = reader.table(cls, data, where)
    if reader.problems:
        raise ConfigError(reader.problems)
    return value
