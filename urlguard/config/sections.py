"""
The configuration's sections: one frozen dataclass each.

Only this file gives each key's type, default, limits and description; the reference table in
``docs/configuration.md`` is generated from it.  Knows nothing of the parts that it configures.
"""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from urlguard.config.keys import key, table
from urlguard.config.values import Endpoint, Network, Upstream, upstream


@dataclass(frozen=True)
class Server:
    """``[server]``: where and how DNS is answered."""

    listen: tuple[Endpoint, ...] = key(
        (Endpoint("127.0.0.1", 5300),), "addresses for UDP and TCP; use port 53 in production"
    )
    workers: int = key(2, "resolver processes; one per core", low=1, high=256)
    tcp_idle_s: float = key(10.0, "idle TCP connections are closed after", low=0.1, high=600)
    tcp_connections: int = key(1024, "limit on open connections per worker", low=1, high=100_000)
    tcp_per_client: int = key(
        128,
        "of these, from one client address; carrier NAT is one address; front ends are exempt",
        low=1,
        high=100_000,
    )
    cookies: bool = key(
        True,
        "answer DNS cookies (RFC 7873); a valid one exempts from network limits",
    )
    proxy_from: tuple[Network, ...] = key(
        (), "front ends whose PROXY v2 header is trusted, and required on each query"
    )
    ecs_from: tuple[Network, ...] = key(
        (), "front ends whose client subnet option (RFC 7871) is trusted"
    )
    version: str = key("", "answer to version.bind; empty: refused", pattern=r"[ -~]{0,255}")
    identity: str = key("", "answer to id.server; empty: refused", pattern=r"[ -~]{0,255}")


@dataclass(frozen=True)
class Acl:
    """``[acl]``: networks that may send queries."""

    allow: tuple[Network, ...] = key(
        (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")),
        "networks that are answered",
    )
    otherwise: str = key(
        "refuse",
        "for all other clients: REFUSED, or no answer",
        choices=("refuse", "drop"),
    )


@dataclass(frozen=True)
class Limit:
    """``[limit]``: rate limits per client and per network."""

    client_qps: int = key(
        1000,
        "queries per second from one IPv4 address or IPv6 network, on average; 0: unlimited",
        low=0,
        high=10_000_000,
    )
    prefix_qps: int = key(
        20_000,
        "queries per second from one network; 0: unlimited",
        low=0,
        high=10_000_000,
    )
    client_misses: int = key(
        200,
        "forwarded queries per second and client; 0: unlimited",
        low=0,
        high=10_000_000,
    )
    identical_qps: int = key(
        100,
        "identical UDP answers per second to one network (RRL); 0: off",
        low=0,
        high=10_000_000,
    )
    burst_s: float = key(2.0, "burst: this many seconds of each rate at once", low=0.1, high=60)
    over: str = key(
        "truncate",
        "queries above a limit: answered with TC, so that real clients retry over TCP, or dropped",
        choices=("truncate", "drop"),
    )
    prefix_ipv4: int = key(24, "prefix length of an IPv4 network", low=8, high=32)
    prefix_ipv6: int = key(56, "prefix length of an IPv6 network: one subscriber", low=16, high=128)
    shared: tuple[Network, ...] = key(
        (), "networks of carrier NAT: many subscribers share one address"
    )
    shared_factor: int = key(
        100, "factor on the limits of an address in shared", low=1, high=100_000
    )
    exempt: tuple[Network, ...] = key(
        (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")),
        "networks without limits",
    )


@dataclass(frozen=True)
class Special:
    """``[special]``: names that are answered here and never forwarded."""

    local: bool = key(True, "answer special-use names and private reverse zones (RFC 6761, 6303)")
    bypass: tuple[str, ...] = key(
        ("firefox", "private_relay", "chrome_prefetch"),
        "signals answered so that browsers keep using this resolver",
        choices=("firefox", "private_relay", "chrome_prefetch"),
    )
    forwarded: tuple[str, ...] = key((), "special zones that are forwarded instead")


@dataclass(frozen=True)
class Rebind:
    """``[rebind]``: public names that resolve to private addresses."""

    mode: str = key("block", "whether such an answer is blocked", choices=("block", "off"))
    networks: tuple[Network, ...] = key(
        tuple(
            ipaddress.ip_network(n)
            for n in (
                *("0.0.0.0/8", "10.0.0.0/8", "127.0.0.1/32", "169.254.0.0/16", "172.16.0.0/12"),
                *("192.168.0.0/16", "::/128", "::1/128", "fc00::/7", "fe80::/10"),
            )
        ),
        "private networks; also inside NAT64 and mapped addresses",
    )
    exempt: tuple[str, ...] = key(
        ("plex.direct",),
        "zones that may be private; those in forward.zones always may",
    )


@dataclass(frozen=True)
class Cache:
    """``[cache]``: answers of upstreams, kept for their TTL."""

    max_mb: int = key(64, "memory per worker, in MiB", low=1, high=65_536)
    min_ttl_s: int = key(0, "lower bound of TTLs", low=0, high=3600)
    max_ttl_s: int = key(86_400, "upper bound of TTLs", low=1, high=604_800)
    max_negative_ttl_s: int = key(3600, "the same for NXDOMAIN and NODATA", low=1, high=86_400)
    stale_s: int = key(
        86_400,
        "seconds after expiry in which an answer is served if upstreams fail (RFC 8767); 0: off",
        low=0,
        high=604_800,
    )
    stale_wait_ms: int = key(
        1800, "wait for upstreams before an expired answer is served", low=0, high=30_000
    )
    prefetch: bool = key(True, "refresh names in demand shortly before they expire")


@dataclass(frozen=True)
class Forward:
    """``[forward]``: the upstream resolvers for names that are not blocked."""

    upstreams: tuple[str, ...] = key(
        (), 'recursors, "address" or "address:port"; default: the system\'s resolvers'
    )
    timeout_ms: int = key(2000, "wait for one upstream before the next", low=10, high=60_000)
    max_in_flight: int = key(
        10_000, "forwarded queries in flight per worker; more get SERVFAIL", low=1, high=1_000_000
    )
    zone_share: float = key(
        0.05, "share of max_in_flight that the names of one domain may use", low=0.001, high=1
    )
    ports: int = key(256, "open source ports per upstream", low=16, high=4096)
    randomize_case: bool = key(True, "ask in random upper and lower case (0x20)")
    trust_ad: bool = key(
        False, "pass on AD; only if the upstreams validate and the path to them is secure"
    )
    ca_file: Path | None = key(None, "CA certificates for tls://; default: the system's")
    zones: dict[str, tuple[str, ...]] = table(
        "upstreams for a zone and all names below it (split horizon)"
    )

    @property
    def endpoints(self) -> tuple["Upstream", ...]:
        """The upstreams, port 53 or 853 where none is given."""
        return tuple(upstream(text) for text in self.upstreams)


@dataclass(frozen=True)
class Guard:
    """``[guard]``: the answer for a blocked name."""

    answer: str = key(
        "sinkhole",
        "answer for a blocked name",
        choices=("sinkhole", "nxdomain", "nodata", "zero", "refused"),
    )
    sinkhole_ipv4: ipaddress.IPv4Address = key(
        ipaddress.IPv4Address("127.0.0.1"), "A record of a sinkhole answer: the landing page"
    )
    sinkhole_ipv6: ipaddress.IPv6Address = key(
        ipaddress.IPv6Address("::1"), "AAAA record of a sinkhole answer"
    )
    block_ttl_s: int = key(
        30, "TTL of a block answer: the time until clients see an unblock", low=0, high=86_400
    )
    canary: str = key("canary.urlguard.test", "a name that is always blocked, for monitoring")


@dataclass(frozen=True)
class Classify:
    """``[classify]``: the lexical classifier."""

    mode: str = key(
        "block", "effect of the model; review never blocks", choices=("block", "review", "off")
    )
    models: Path | None = key(None, "folder of models; default: those included in UrlGuard")
    model: str | None = key(
        None,
        "model for names; default: the newest that is not the shadow",
        pattern=r"name-[0-9A-Za-z][0-9A-Za-z._-]{0,63}",
    )
    shadow: str | None = key(
        None,
        "second model for names, whose scores are only counted",
        pattern=r"name-[0-9A-Za-z][0-9A-Za-z._-]{0,63}",
    )
    shadow_share: float = key(1.0, "share of new names that the shadow model scores", low=0, high=1)


@dataclass(frozen=True)
class Segment:
    """``[[segment]]``: another policy for some client networks; the longest prefix decides."""

    name: str = key("", "unique; shown in the hit log", pattern=r"[A-Za-z0-9._-]{1,64}")
    networks: tuple[Network, ...] = key((), "networks of its clients")
    filter: bool = key(True, "false: nothing is blocked for them")
    categories: tuple[str, ...] = key((), "only these are blocked; empty: all")
    pass_categories: tuple[str, ...] = key((), "these are not blocked")
    answer: str | None = key(
        None,
        "answer for a blocked name; default: as in guard",
        choices=("sinkhole", "nxdomain", "nodata", "zero", "refused"),
    )
    sinkhole_ipv4: ipaddress.IPv4Address | None = key(None, "default: as in guard")
    sinkhole_ipv6: ipaddress.IPv6Address | None = key(None, "default: as in guard")
    block_ttl_s: int | None = key(None, "default: as in guard", low=0, high=86_400)
    classify: str | None = key(
        None, "effect of the model for its clients", choices=("block", "review", "off")
    )


@dataclass(frozen=True)
class Feed:
    """``[[feed]]``: one list and the limits on its refreshes."""

    name: str = key("", "unique; shown as feed:NAME in verdicts", pattern=r"[A-Za-z0-9._-]{1,64}")
    path: Path | None = key(None, "a file, plain or gzip")
    url: str | None = key(None, "or a URL; https:// and a public host unless allowed below")
    format: str = key(
        "auto",
        "format of its lines",
        choices=("auto", "domains", "hosts", "adblock", "dnsmasq", "rpz", "csv", "urls"),
    )
    column: str | None = key(None, "csv: column of the name or URL")
    category_column: str | None = key(None, "csv: column of the category")
    category: str = key(
        "fraud", "default category of its lines", pattern=r"[a-z0-9][a-z0-9_.-]{0,63}"
    )
    action: str = key("block", "effect of its rules", choices=("block", "review", "allow"))
    shadow: bool = key(False, "only count what its rules would block")
    regulator: bool = key(False, "order of a regulator: answers carry EDE 16 (Censored)")
    refresh_s: int = key(3600, "seconds between refreshes; 0: on command", low=0, high=31_536_000)
    timeout_s: float = key(60.0, "limit on a whole download", low=0.1, high=86_400)
    max_bytes: int = key(1 << 30, "size limit of the list, uncompressed", low=1, high=1 << 36)
    max_rules: int = key(20_000_000, "limit on the rules of one refresh", low=1, high=1 << 32)
    max_bad: float = key(0.25, "share of bad lines above which a refresh is refused", low=0, high=1)
    max_shrink: float = key(0.5, "share of rules that one refresh may remove", low=0, high=1)
    max_growth: float = key(4.0, "factor by which one refresh may grow", low=1, high=1e9)
    allow_http: bool = key(False, "permit an unencrypted http:// address")
    allow_private: bool = key(False, "permit a private or loopback address")
    allow_popular: bool = key(
        False, "permit rules for public suffixes, infrastructure and popular names"
    )


@dataclass(frozen=True)
class Api:
    """``[api]``: the HTTP API, metrics and health (console: not in this version)."""

    listen: Endpoint = key(Endpoint("127.0.0.1", 8530), "address of the API, metrics and health")
    hosts: tuple[str, ...] = key(
        (),
        "host names of the API; IP addresses and localhost are always accepted",
        pattern=r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*",
    )
    tls_cert: Path | None = key(None, "certificate chain, PEM; with it HTTPS only")
    tls_key: Path | None = key(None, "the certificate's key, PEM, without a passphrase")
    proxy_from: tuple[Network, ...] = key(
        (), "reverse proxies whose X-Forwarded-For is trusted; limits apply to the address in it"
    )
    connections: int = key(64, "limit on open connections", low=1, high=10_000)
    metrics_token_file: Path | None = key(
        None, "file with the bearer token for /metrics; without it, loopback only"
    )


@dataclass(frozen=True)
class Cases:
    """``[cases]``: rate limits and look-ups for candidates and submissions."""

    backlog: int = key(
        2_000_000, "limit on candidates in the queue; more are refused", low=100, high=100_000_000
    )
    crawler_per_hour: int = key(
        0, "candidates per hour and crawler, on average; 0: unlimited", low=0, high=1_000_000_000
    )
    crawler_burst: int = key(
        100_000, "candidates that a crawler may send in one burst", low=1, high=1_000_000_000
    )
    reporter_per_hour: int = key(
        600, "submissions per hour and reporter, on average; 0: unlimited", low=0, high=1_000_000
    )
    reporter_burst: int = key(
        100, "submissions that a reporter may send in one burst", low=1, high=1_000_000
    )
    public: bool = key(False, "accept submissions without a token")
    public_per_hour: int = key(
        300, "submissions without a token per hour, in total, on average", low=1, high=1_000_000
    )
    public_burst: int = key(100, "such submissions in one burst", low=1, high=100_000)
    public_per_address: int = key(
        10, "such submissions per hour from one IPv4 address or IPv6 /64", low=1, high=10_000
    )
    look_up_addresses: bool = key(
        True,
        "resolve the names of open cases; operators of their name servers may see it",
    )


@dataclass(frozen=True)
class Hits:
    """``[hits]``: the hit log: blocked queries, with pseudonyms for clients."""

    enabled: bool = key(True, "write blocked and review hits to state_dir/hits")
    keep_days: int = key(30, "days until files are deleted", low=1, high=3650)
    max_mb: int = key(256, "size limit of one file, in MiB", low=1, high=65_536)
    total_mb: int = key(
        4096,
        "size limit of all files, in MiB; the oldest days are deleted first",
        low=1,
        high=67_108_864,
    )


@dataclass(frozen=True)
class Dnstap:
    """``[dnstap]``: queries and answers as dnstap frames to a collector."""

    socket: Path | None = key(None, "the collector's Unix socket; default: off")
    identity: str = key("", "identity of this server in each frame", pattern=r"[ -~]{0,255}")
    addresses: str = key(
        "pseudonym",
        "client addresses: pseudonyms as in the hit log, networks, or none",
        choices=("pseudonym", "network", "none"),
    )


@dataclass(frozen=True)
class Landing:
    """``[landing]``: the page that a blocked visitor sees (not in this version)."""

    listen: Endpoint = key(Endpoint("127.0.0.1", 8580), "address of the landing page")


@dataclass(frozen=True)
class Store:
    """``[store]``: the storage of the policy log."""

    url: str = key("", "default: policy.db in state_dir (postgresql:// not in this version)")


@dataclass(frozen=True)
class Bus:
    """``[bus]``: distribution of policy changes to other machines."""

    url: str = key("memory:", "memory: one machine (nats:// not in this version)")


@dataclass(frozen=True)
class TsigKey:
    """``[[rpz.tsig]]``: a TSIG key of secondaries (RFC 8945)."""

    name: str = key("", "name of the key, as at the secondary", pattern=r"[A-Za-z0-9._-]{1,253}")
    algorithm: str = key(
        "hmac-sha256", "algorithm of the key", choices=("hmac-sha256", "hmac-sha384", "hmac-sha512")
    )
    secret_file: Path | None = key(None, "file with the secret in base64")


@dataclass(frozen=True)
class Rpz:
    """``[rpz]``: the policy as a response policy zone for other resolvers."""

    listen: tuple[Endpoint, ...] = key((), "addresses for SOA, AXFR and IXFR; empty: off")
    zone: str = key("rpz.urlguard.invalid", "name of the zone")
    allow: tuple[Network, ...] = key(
        (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")),
        "networks that may transfer; with keys, a valid signature is required as well",
    )
    tsig: tuple[TsigKey, ...] = key((), "keys; without one, only loopback may transfer")


@dataclass(frozen=True)
class Config:
    """A whole configuration, validated."""

    state_dir: Path = key(Path("var"), "policy log, snapshots, generated secrets")
    plugins: tuple[str, ...] = key(
        ("acl", "limit", "guard", "special", "cache", "rebind", "forward"),
        "the chain, first to last; see docs/plugins",
    )
    server: Server = field(default_factory=Server)
    acl: Acl = field(default_factory=Acl)
    limit: Limit = field(default_factory=Limit)
    guard: Guard = field(default_factory=Guard)
    segment: tuple[Segment, ...] = ()
    special: Special = field(default_factory=Special)
    cache: Cache = field(default_factory=Cache)
    rebind: Rebind = field(default_factory=Rebind)
    forward: Forward = field(default_factory=Forward)
    classify: Classify = field(default_factory=Classify)
    feed: tuple[Feed, ...] = ()
    api: Api = field(default_factory=Api)
    cases: Cases = field(default_factory=Cases)
    hits: Hits = field(default_factory=Hits)
    dnstap: Dnstap = field(default_factory=Dnstap)
    landing: Landing = field(default_factory=Landing)
    store: Store = field(default_factory=Store)
    bus: Bus = field(default_factory=Bus)
    rpz: Rpz = field(default_factory=Rpz)
    plugin: dict[str, dict[str, Any]] = field(default_factory=dict)
    path: Path | None = None  # the file it was read from

    @property
    def log_url(self) -> str:
        """The URL of the policy log, a file's with its whole path; see `policy.location`."""
        url, scheme = self.store.url, "sqlite:///"
        if not url:
            return f"{scheme}{self.state_dir.absolute() / 'policy.db'}"
        if not url.startswith(scheme):
            return url
        base = self.path.parent if self.path else Path.cwd()
        return f"{scheme}{base.absolute() / url.removeprefix(scheme)}"
