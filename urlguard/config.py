"""
The configuration file: TOML in, one frozen dataclass for each section out.

Every key's type, default, limits and description stand in the dataclasses below and nowhere else;
the reference table in ``docs/configuration.md`` is made from them.  Reading collects every problem
instead of stopping at the first, and an unknown key is an error that names the nearest known one.
Knows nothing of the parts that it configures.
"""

import dataclasses
import difflib
import ipaddress
import os
import re
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from urlguard.errors import ConfigError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Endpoint(NamedTuple):
    """An IP address and a port, written ``192.0.2.1:53`` or ``[2001:db8::1]:53``."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """True if only this machine can reach the address."""
        return ipaddress.ip_address(self.host).is_loopback


def endpoint(text: str, default_port: int | None = None) -> Endpoint:
    """
    Read an endpoint.

    Raises:
        ValueError: it is not an IP address with a port from 0 to 65535.
    """
    host, port = text, "" if default_port is None else str(default_port)
    if match := re.fullmatch(r"\[([^\]]*)\](?::(\d{1,5}))?", text):
        host, port = match[1], match[2] or port
    elif match := re.fullmatch(r"([^:]*):(\d{1,5})", text):
        host, port = match[1], match[2]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(
            'must be an IP address and a port, such as "127.0.0.1:5300" or "[::1]:5300"'
        ) from None
    if not port or int(port) > 65535:
        raise ValueError("must have a port from 0 to 65535")
    return Endpoint(str(address), int(port))


def _key(
    default: Any,
    words: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    pattern: str | None = None,
) -> Any:
    """One configuration key: its default, its description and what it may be."""
    meta = {"words": words, "low": low, "high": high, "choices": choices, "pattern": pattern}
    if isinstance(default, list | dict):
        raise TypeError("defaults are immutable")
    return field(default=default, metadata=meta)


@dataclass(frozen=True)
class Server:
    """``[server]``: where and how DNS is answered."""

    listen: tuple[Endpoint, ...] = _key(
        (Endpoint("127.0.0.1", 5300),), "addresses for UDP and TCP; use port 53 in production"
    )
    workers: int = _key(2, "resolver processes; one a core", low=1, high=256)
    tcp_idle_s: float = _key(10.0, "an idle TCP connection is closed after", low=0.1, high=600)
    tcp_connections: int = _key(1024, "TCP connections a worker keeps open", low=1, high=100_000)


@dataclass(frozen=True)
class Acl:
    """``[acl]``: who may ask."""

    allow: tuple[Network, ...] = _key(
        (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")),
        "networks that are answered; everyone else is refused",
    )


@dataclass(frozen=True)
class Forward:
    """``[forward]``: who answers what is not blocked."""

    upstreams: tuple[str, ...] = _key(
        (), 'recursors, "address" or "address:port"; default: the system\'s resolvers'
    )
    timeout_ms: int = _key(2000, "wait for one upstream before the next", low=10, high=60_000)
    max_in_flight: int = _key(
        10_000, "forwarded queries under way in a worker; more get SERVFAIL", low=1, high=1_000_000
    )

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The upstreams as addresses, port 53 where none is given."""
        return tuple(_upstream(text) for text in self.upstreams)


@dataclass(frozen=True)
class Guard:
    """``[guard]``: the answer for a blocked name."""

    answer: str = _key(
        "sinkhole",
        "what a blocked name gets",
        choices=("sinkhole", "nxdomain", "nodata", "zero", "refused"),
    )
    sinkhole_ipv4: ipaddress.IPv4Address = _key(
        ipaddress.IPv4Address("127.0.0.1"), "A record of a sinkhole answer: the landing page"
    )
    sinkhole_ipv6: ipaddress.IPv6Address = _key(
        ipaddress.IPv6Address("::1"), "AAAA record of a sinkhole answer"
    )
    block_ttl_s: int = _key(
        30, "TTL of a block answer: an unblock is seen after", low=0, high=86_400
    )


@dataclass(frozen=True)
class Classify:
    """``[classify]``: the lexical classifier."""

    mode: str = _key(
        "block", "what the model may do; review never blocks", choices=("block", "review", "off")
    )


@dataclass(frozen=True)
class Feed:
    """``[[feed]]``: one list, and how far to trust it."""

    name: str = _key("", "unique; shown as feed:NAME in verdicts", pattern=r"[A-Za-z0-9._-]{1,64}")
    path: Path | None = _key(None, "a file, plain or gzip")
    url: str | None = _key(None, "or an address, https:// to a public host unless allowed below")
    format: str = _key(
        "auto",
        "how its lines read",
        choices=("auto", "domains", "hosts", "adblock", "dnsmasq", "rpz", "csv", "urls"),
    )
    column: str | None = _key(None, "csv: the column that holds the name or URL")
    category_column: str | None = _key(None, "csv: the column that holds each line's category")
    category: str = _key("fraud", "for lines that name none", pattern=r"[a-z0-9][a-z0-9_.-]{0,63}")
    action: str = _key("block", "what its rules do", choices=("block", "review", "allow"))
    regulator: bool = _key(False, "a regulator's order: answers carry EDE 16 (Censored)")
    refresh_s: int = _key(
        3600, "seconds between refreshes; 0: only by hand", low=0, high=31_536_000
    )
    timeout_s: float = _key(60.0, "for a whole download", low=0.1, high=86_400)
    max_bytes: int = _key(1 << 30, "of the list, uncompressed", low=1, high=1 << 36)
    max_rules: int = _key(20_000_000, "rules that a refresh may bring", low=1, high=1 << 32)
    max_bad: float = _key(0.25, "share of bad lines above which it is refused", low=0, high=1)
    max_shrink: float = _key(0.5, "share of rules that one refresh may drop", low=0, high=1)
    max_growth: float = _key(4.0, "factor that one refresh may grow by", low=1, high=1e9)
    allow_http: bool = _key(False, "permit an unencrypted http:// address")
    allow_private: bool = _key(False, "permit a private or loopback address")
    allow_popular: bool = _key(
        False, "let it block public suffixes, infrastructure and popular names"
    )


@dataclass(frozen=True)
class Api:
    """``[api]``: the API and the console (not in this version)."""

    listen: Endpoint = _key(Endpoint("127.0.0.1", 8530), "address of API and console")


@dataclass(frozen=True)
class Landing:
    """``[landing]``: the page that a blocked visitor sees (not in this version)."""

    listen: Endpoint = _key(Endpoint("127.0.0.1", 8580), "address of the landing page")


@dataclass(frozen=True)
class Store:
    """``[store]``: where the policy log lives."""

    url: str = _key("", "default: policy.db in state_dir; postgresql:// comes with the fleet")


@dataclass(frozen=True)
class Bus:
    """``[bus]``: how changes travel."""

    url: str = _key("memory:", "memory: one machine; nats:// comes with the fleet")


@dataclass(frozen=True)
class TsigKey:
    """``[[rpz.tsig]]``: a key that secondaries sign with (RFC 8945)."""

    name: str = _key(
        "", "the key's name, as the secondary has it", pattern=r"[A-Za-z0-9._-]{1,253}"
    )
    algorithm: str = _key(
        "hmac-sha256", "of the key", choices=("hmac-sha256", "hmac-sha384", "hmac-sha512")
    )
    secret_file: Path | None = _key(None, "a file with the secret in base64")


@dataclass(frozen=True)
class Rpz:
    """``[rpz]``: the policy as a response policy zone for other resolvers."""

    listen: tuple[Endpoint, ...] = _key((), "addresses for SOA, AXFR and IXFR; empty: off")
    zone: str = _key("rpz.urlguard.invalid", "the zone's name")
    allow: tuple[Network, ...] = _key(
        (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")),
        "networks that may transfer; with keys below a valid signature is needed too",
    )
    tsig: tuple[TsigKey, ...] = _key((), "keys; without one, only loopback may transfer")


@dataclass(frozen=True)
class Config:
    """A whole configuration, checked."""

    state_dir: Path = _key(Path("var"), "policy log, snapshots, generated secrets")
    plugins: tuple[str, ...] = _key(
        ("acl", "guard", "forward"), "the chain, first to last; see docs/plugins"
    )
    server: Server = field(default_factory=Server)
    acl: Acl = field(default_factory=Acl)
    forward: Forward = field(default_factory=Forward)
    guard: Guard = field(default_factory=Guard)
    classify: Classify = field(default_factory=Classify)
    feed: tuple[Feed, ...] = ()
    api: Api = field(default_factory=Api)
    landing: Landing = field(default_factory=Landing)
    store: Store = field(default_factory=Store)
    bus: Bus = field(default_factory=Bus)
    rpz: Rpz = field(default_factory=Rpz)
    plugin: dict[str, dict[str, Any]] = field(default_factory=dict)
    path: Path | None = None  # the file it was read from

    @property
    def database(self) -> Path:
        """The SQLite file of the policy log."""
        if not self.store.url:
            return self.state_dir / "policy.db"
        base = self.path.parent if self.path else Path.cwd()
        return base / self.store.url.removeprefix("sqlite:///")


def load(path: Path | None = None) -> Config:
    """
    Read a configuration; without a path, ``URLGUARD_CONFIG``, ``urlguard.toml`` here, or defaults.

    Relative paths in the file are relative to the file's folder.

    Raises:
        ConfigError: with every problem found, each with the file, the key, what it is and what it
            may be.
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


def warnings(config: Config) -> list[str]:
    """What is permitted and probably not meant."""
    found = []
    beyond = [str(network) for network in config.acl.allow if not network.is_loopback]
    sinkholes = (config.guard.sinkhole_ipv4, config.guard.sinkhole_ipv6)
    if beyond and config.guard.answer == "sinkhole" and any(a.is_loopback for a in sinkholes):
        found.append(
            f"[acl] allow = {', '.join(beyond)}: clients on other machines get a loopback address "
            "as sinkhole, which is their own machine; set [guard] sinkhole_ipv4 and sinkhole_ipv6"
        )
    if "acl" not in config.plugins:
        found.append("plugins: acl is not among them; whoever reaches the server may ask")
    for feed in config.feed:
        if feed.path is not None and not feed.path.exists():
            found.append(f"[[feed]] {feed.name}: path {feed.path}: not there")
    if any(network.prefixlen == 0 for network in config.acl.allow):
        found.append("[acl] allow: the whole Internet may ask; this is an open resolver")
    return found


def parse(data: dict[str, Any], path: Path) -> Config:
    """The configuration in a TOML document; see `load`."""
    reader = _Reader(path)
    config = typing.cast(Config, reader.table(Config, data, ""))
    _across(config, reader)
    if reader.problems:
        raise ConfigError(reader.problems)
    return dataclasses.replace(config, path=path, state_dir=path.parent / config.state_dir)


def read_table(cls: type[Any], table: dict[str, Any], where: str, path: Path | None) -> Any:
    """
    Read one table into the frozen dataclass `cls`: how a plugin from outside reads its own.

    Raises:
        ConfigError: as `load`.
    """
    reader = _Reader(path or Path("(defaults)"))
    value = reader.table(cls, table, where)
    if reader.problems:
        raise ConfigError(reader.problems)
    return value


class _Reader:
    """Turns tables into dataclasses and keeps a list of what was wrong."""

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
                    values[key] = raw  # so that a bad name is not called a missing one as well
        return cls(**values)

    def value(self, hint: Any, f: "dataclasses.Field[Any]", raw: Any, label: str) -> Any:
        origin = typing.get_origin(hint)
        if dataclasses.is_dataclass(hint):
            if not isinstance(raw, dict):
                raise ValueError(f"must be a table, [{label}]")
            return self.table(typing.cast(type, hint), raw, label)
        if origin is dict:
            if not isinstance(raw, dict) or not all(isinstance(v, dict) for v in raw.values()):
                raise ValueError(f"must be tables, [{label}.NAME]")
            return raw
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

    def items(self, hint: Any, f: "dataclasses.Field[Any]", raw: list[Any], label: str) -> Any:
        """A list's values; says what is wrong with each that is."""
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


def _across(config: Config, reader: _Reader) -> None:
    """Checks that need more than one key."""
    if not config.server.listen:
        reader.problem("[server] ", "listen = []: must have at least one address")
    for text in config.forward.upstreams:
        try:
            upstream = _upstream(text)
        except ValueError as exc:
            reader.problem("[forward] ", f"upstreams: {text!r}: {exc}")
            continue
        if upstream.port == 0:
            reader.problem("[forward] ", f"upstreams: {text!r}: port 0; must be from 1 to 65535")
        if upstream in config.server.listen:
            reader.problem("[forward] ", f"upstreams: {text!r}: is this server's own address")
    seen: set[str] = set()
    for number, feed in enumerate(config.feed, 1):
        where = f"[[feed]] {feed.name or f'number {number}'}: "
        if not feed.name:
            reader.problem(where, "name is missing")
        if feed.name in seen:
            reader.problem(where, "name is used twice; each feed needs its own")
        seen.add(feed.name)
        if (feed.path is None) == (feed.url is None):
            reader.problem(where, "must have either path or url")
        if feed.url is not None and not re.match(r"https?://[^/\s]", feed.url):
            reader.problem(where, f"url = {feed.url!r}: must begin with https:// or http://")
        elif feed.url is not None and feed.url.startswith("http://") and not feed.allow_http:
            reader.problem(where, "url is http://; must be https:// unless allow_http = true")
    if config.store.url and not config.store.url.startswith("sqlite:///"):
        reader.problem(
            "[store] ", f"url = {config.store.url!r}: this version knows sqlite:///PATH only"
        )
    if config.bus.url != "memory:":
        reader.problem("[bus] ", f'url = {config.bus.url!r}: this version knows "memory:" only')
    if config.plugins[-1:] != ("forward",) and "forward" in config.plugins:
        reader.problem("", "plugins: forward must be last; nothing after it would be asked")
    if len(set(config.plugins)) != len(config.plugins):
        reader.problem("", "plugins: a name stands twice")
    for key in config.rpz.tsig:
        if not key.name or key.secret_file is None:
            reader.problem("[[rpz.tsig]] ", "must have name and secret_file")
    public = [str(n) for n in config.rpz.allow if not n.is_loopback]
    if config.rpz.listen and public and not config.rpz.tsig:
        reader.problem("[rpz] ", f"allow = {public}: beyond loopback a [[rpz.tsig]] key is needed")


def _upstream(text: str) -> Endpoint:
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"
    return endpoint(text, 53)


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
    except RuntimeError as exc:  # ~somebody who is not there
        raise ValueError(f"must be a path: {exc}") from None


def _toml(raw: Any) -> str:
    text = str(raw).lower() if isinstance(raw, bool) else repr(raw)
    return text if len(text) < 80 else text[:77] + "..."
