"""
The configuration's sections: one frozen dataclass each.

Every key's type, default, limits and description stand here and nowhere else; the reference table
in ``docs/configuration.md`` is made from them.  Knows nothing of the parts that it configures.
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
    workers: int = key(2, "resolver processes; one a core", low=1, high=256)
    tcp_idle_s: float = key(10.0, "an idle TCP connection is closed after", low=0.1, high=600)
    tcp_connections: int = key(1024, "TCP connections a worker keeps open", low=1, high=100_000)
    tcp_per_client: int = key(
        128,
        "of them, from one client address; a carrier's NAT is one; not for front ends",
        low=1,
        high=100_000,
    )
    cookies: bool = key(True, "answer DNS cookies (RFC 7873), which spare clients the limits")
    proxy_from: tuple[Network, ...] = key(
        (), "front ends whose PROXY v2 header is believed, and expected on each query"
    )
    ecs_from: tuple[Network, ...] = key(
        (), "front ends whose client subnet option (RFC 7871) is believed"
    )
    version: str = key("", "answer to version.bind; empty: refused", pattern=r"[ -~]{0,255}")
    identity: str = key("", "answer to id.server; empty: refused", pattern=r"[ -~]{0,255}")


@dataclass(frozen=True)
class Acl:
    """``[acl]``: who may ask."""

    allow: tuple[Network, ...] = key(
        (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")),
        "networks that are answered; everyone else is refused",
    )
    otherwise: str = key(
        "refuse",
        "what everyone else gets: an answer, or nothing at all",
        choices=("refuse", "drop"),
    )


@dataclass(frozen=True)
class Limit:
    """``[limit]``: how much one client, or one network, may ask for."""

    client_qps: int = key(
        1000,
        "queries a second from one IPv4 address or IPv6 network, on average; 0: any",
        low=0,
        high=10_000_000,
    )
    prefix_qps: int = key(
        20_000, "from one network of prefix_ipv4 or prefix_ipv6; 0: any", low=0, high=10_000_000
    )
    client_misses: int = key(
        200,
        "of these, those that must be asked upstream; 0: any",
        low=0,
        high=10_000_000,
    )
    identical_qps: int = key(
        100, "same answers a second to one network over UDP (RRL); 0: any", low=0, high=10_000_000
    )
    burst_s: float = key(2.0, "seconds of each rate that may be used at once", low=0.1, high=60)
    over: str = key(
        "truncate",
        "what is over a limit gets: TC, which honest clients follow to TCP, or nothing",
        choices=("truncate", "drop"),
    )
    prefix_ipv4: int = key(24, "length of an IPv4 network for prefix_qps", low=8, high=32)
    prefix_ipv6: int = key(56, "length of an IPv6 network; one subscriber's", low=16, high=128)
    shared: tuple[Network, ...] = key(
        (), "addresses with many subscribers behind each: carrier NAT"
    )
    shared_factor: int = key(
        100, "times the limits that an address in shared has", low=1, high=100_000
    )
    exempt: tuple[Network, ...] = key(
        (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")),
        "networks without limits",
    )


@dataclass(frozen=True)
class Special:
    """``[special]``: names that are answered here and never forwarded."""

    local: bool = key(True, "localhost, invalid, onion, private reverse zones: RFC 6761, RFC 6303")
    bypass: tuple[str, ...] = key(
        ("firefox", "private_relay", "chrome_prefetch"),
        "signals answered so that browsers keep to this resolver",
        choices=("firefox", "private_relay", "chrome_prefetch"),
    )
    forwarded: tuple[str, ...] = key((), "special zones to forward after all")


@dataclass(frozen=True)
class Rebind:
    """``[rebind]``: public names that lead into private networks."""

    mode: str = key("block", "what such an answer becomes", choices=("block", "off"))
    networks: tuple[Network, ...] = key(
        tuple(
            ipaddress.ip_network(n)
            for n in (
                *("0.0.0.0/8", "10.0.0.0/8", "127.0.0.1/32", "169.254.0.0/16", "172.16.0.0/12"),
                *("192.168.0.0/16", "::/128", "::1/128", "fc00::/7", "fe80::/10"),
            )
        ),
        "what counts as private; also inside NAT64 and mapped addresses",
    )
    exempt: tuple[str, ...] = key(
        ("plex.direct",), "zones that may; those in forward.zones always may"
    )


@dataclass(frozen=True)
class Cache:
    """``[cache]``: answers of upstreams, kept for as long as they hold."""

    max_mb: int = key(64, "memory of each worker for it, in MiB", low=1, high=65_536)
    min_ttl_s: int = key(0, "shorter TTLs count as this", low=0, high=3600)
    max_ttl_s: int = key(86_400, "longer TTLs count as this", low=1, high=604_800)
    max_negative_ttl_s: int = key(3600, "for NXDOMAIN and NODATA (RFC 2308)", low=1, high=86_400)
    stale_s: int = key(
        86_400,
        "how long an expired answer may serve if upstreams fail; 0: never",
        low=0,
        high=604_800,
    )
    stale_wait_ms: int = key(
        1800, "wait for upstreams before an expired answer is given", low=0, high=30_000
    )
    prefetch: bool = key(True, "ask again for names in demand shortly before they expire")


@dataclass(frozen=True)
class Forward:
    """``[forward]``: who answers what is not blocked."""

    upstreams: tuple[str, ...] = key(
        (), 'recursors, "address" or "address:port"; default: the system\'s resolvers'
    )
    timeout_ms: int = key(2000, "wait for one upstream before the next", low=10, high=60_000)
    max_in_flight: int = key(
        10_000, "forwarded queries under way in a worker; more get SERVFAIL", low=1, high=1_000_000
    )
    zone_share: float = key(
        0.05, "share of them that the names of one domain may take", low=0.001, high=1
    )
    ports: int = key(256, "source ports open to each upstream", low=16, high=4096)
    randomize_case: bool = key(True, "ask in random upper and lower case (0x20)")
    trust_ad: bool = key(
        False, "pass on AD: the upstreams validate, and nobody is between them and us"
    )
    ca_file: Path | None = key(None, "CA certificates for tls://; default: the system's")
    zones: dict[str, tuple[str, ...]] = table(
        "upstreams for a zone and all below it: split horizon"
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
        "what a blocked name gets",
        choices=("sinkhole", "nxdomain", "nodata", "zero", "refused"),
    )
    sinkhole_ipv4: ipaddress.IPv4Address = key(
        ipaddress.IPv4Address("127.0.0.1"), "A record of a sinkhole answer: the landing page"
    )
    sinkhole_ipv6: ipaddress.IPv6Address = key(
        ipaddress.IPv6Address("::1"), "AAAA record of a sinkhole answer"
    )
    block_ttl_s: int = key(
        30, "TTL of a block answer: an unblock is seen after", low=0, high=86_400
    )
    canary: str = key(
        "canary.urlguard.test", "a name that is always answered as blocked, for monitoring"
    )


@dataclass(frozen=True)
class Classify:
    """``[classify]``: the lexical classifier."""

    mode: str = key(
        "block", "what the model may do; review never blocks", choices=("block", "review", "off")
    )
    models: Path | None = key(None, "the folder of models; default: those that came with UrlGuard")
    model: str | None = key(
        None,
        "the model for names to use; default: the newest that is not the shadow",
        pattern=r"name-[0-9A-Za-z][0-9A-Za-z._-]{0,63}",
    )
    shadow: str | None = key(
        None,
        "a second model for names, scored beside the first and only counted",
        pattern=r"name-[0-9A-Za-z][0-9A-Za-z._-]{0,63}",
    )
    shadow_share: float = key(1.0, "share of newly seen names that it scores", low=0, high=1)


@dataclass(frozen=True)
class Segment:
    """``[[segment]]``: another policy for some client networks; the longest prefix decides."""

    name: str = key("", "unique; shown in the hit log", pattern=r"[A-Za-z0-9._-]{1,64}")
    networks: tuple[Network, ...] = key((), "of its clients")
    filter: bool = key(True, "false: nothing is blocked for them")
    categories: tuple[str, ...] = key((), "only these are blocked; empty: all")
    pass_categories: tuple[str, ...] = key((), "these are not blocked")
    answer: str | None = key(
        None,
        "what a blocked name gets; default: as in guard",
        choices=("sinkhole", "nxdomain", "nodata", "zero", "refused"),
    )
    sinkhole_ipv4: ipaddress.IPv4Address | None = key(None, "default: as in guard")
    sinkhole_ipv6: ipaddress.IPv6Address | None = key(None, "default: as in guard")
    block_ttl_s: int | None = key(None, "default: as in guard", low=0, high=86_400)
    classify: str | None = key(
        None, "what the model may do for them", choices=("block", "review", "off")
    )


@dataclass(frozen=True)
class Feed:
    """``[[feed]]``: one list, and how far to trust it."""

    name: str = key("", "unique; shown as feed:NAME in verdicts", pattern=r"[A-Za-z0-9._-]{1,64}")
    path: Path | None = key(None, "a file, plain or gzip")
    url: str | None = key(None, "or an address, https:// to a public host unless allowed below")
    format: str = key(
        "auto",
        "how its lines read",
        choices=("auto", "domains", "hosts", "adblock", "dnsmasq", "rpz", "csv", "urls"),
    )
    column: str | None = key(None, "csv: the column that holds the name or URL")
    category_column: str | None = key(None, "csv: the column that holds each line's category")
    category: str = key("fraud", "for lines that name none", pattern=r"[a-z0-9][a-z0-9_.-]{0,63}")
    action: str = key("block", "what its rules do", choices=("block", "review", "allow"))
    shadow: bool = key(False, "count what its rules would block, and block nothing")
    regulator: bool = key(False, "a regulator's order: answers carry EDE 16 (Censored)")
    refresh_s: int = key(3600, "seconds between refreshes; 0: only by hand", low=0, high=31_536_000)
    timeout_s: float = key(60.0, "for a whole download", low=0.1, high=86_400)
    max_bytes: int = key(1 << 30, "of the list, uncompressed", low=1, high=1 << 36)
    max_rules: int = key(20_000_000, "rules that a refresh may bring", low=1, high=1 << 32)
    max_bad: float = key(0.25, "share of bad lines above which it is refused", low=0, high=1)
    max_shrink: float = key(0.5, "share of rules that one refresh may drop", low=0, high=1)
    max_growth: float = key(4.0, "factor that one refresh may grow by", low=1, high=1e9)
    allow_http: bool = key(False, "permit an unencrypted http:// address")
    allow_private: bool = key(False, "permit a private or loopback address")
    allow_popular: bool = key(
        False, "let it block public suffixes, infrastructure and popular names"
    )


@dataclass(frozen=True)
class Api:
    """``[api]``: the HTTP API, metrics and health (console: not in this version)."""

    listen: Endpoint = key(Endpoint("127.0.0.1", 8530), "address of the API, metrics and health")
    hosts: tuple[str, ...] = key(
        (),
        "names under which it is reached; IP addresses and localhost always are",
        pattern=r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*",
    )
    tls_cert: Path | None = key(None, "certificate chain, PEM; with it, HTTPS and no HTTP")
    tls_key: Path | None = key(None, "the certificate's key, PEM, without a passphrase")
    proxy_from: tuple[Network, ...] = key(
        (), "reverse proxies whose X-Forwarded-For is believed; it counts for limits on guessing"
    )
    connections: int = key(64, "connections served at once", low=1, high=10_000)
    metrics_token_file: Path | None = key(
        None, "a file with the bearer token for /metrics; without it, loopback only"
    )


@dataclass(frozen=True)
class Cases:
    """``[cases]``: candidates and submissions: how many, from whom, and what is asked of them."""

    backlog: int = key(
        2_000_000, "candidates that wait to be judged; more are refused", low=100, high=100_000_000
    )
    crawler_per_hour: int = key(
        0, "candidates of one crawler, on average; 0: any number", low=0, high=1_000_000_000
    )
    crawler_burst: int = key(
        100_000, "of these, at once after a time without any", low=1, high=1_000_000_000
    )
    reporter_per_hour: int = key(
        600, "submissions of one reporter, on average; 0: any number", low=0, high=1_000_000
    )
    reporter_burst: int = key(
        100, "of these, at once after a time without any", low=1, high=1_000_000
    )
    public: bool = key(False, "let anybody submit URLs, without a token")
    public_per_hour: int = key(
        300, "submissions of the public, all together, on average", low=1, high=1_000_000
    )
    public_burst: int = key(100, "of these, at once after a time without any", low=1, high=100_000)
    public_per_address: int = key(
        10, "of these, from one IPv4 address or IPv6 /64 an hour", low=1, high=10_000
    )
    look_up_addresses: bool = key(
        True, "ask upstreams where open cases' names lead; whoever serves a name may see it"
    )


@dataclass(frozen=True)
class Hits:
    """``[hits]``: the hit log: who was kept from what, under a pseudonym."""

    enabled: bool = key(True, "write blocked and review hits to state_dir/hits")
    keep_days: int = key(30, "files are deleted after", low=1, high=3650)
    max_mb: int = key(256, "of one file; then the next is begun", low=1, high=65_536)
    total_mb: int = key(
        4096,
        "of all files; the oldest days go first; hits are dropped if today's alone reach it",
        low=1,
        high=67_108_864,
    )


@dataclass(frozen=True)
class Dnstap:
    """``[dnstap]``: queries and answers as dnstap frames to a collector."""

    socket: Path | None = key(None, "the collector's Unix socket; default: off")
    identity: str = key("", "of this server in each frame", pattern=r"[ -~]{0,255}")
    addresses: str = key(
        "pseudonym",
        "of clients: by the day's key as in the hit log, cut to a network, or none",
        choices=("pseudonym", "network", "none"),
    )


@dataclass(frozen=True)
class Landing:
    """``[landing]``: the page that a blocked visitor sees (not in this version)."""

    listen: Endpoint = key(Endpoint("127.0.0.1", 8580), "address of the landing page")


@dataclass(frozen=True)
class Store:
    """``[store]``: where the policy log lives."""

    url: str = key("", "default: policy.db in state_dir; postgresql:// comes with the fleet")


@dataclass(frozen=True)
class Bus:
    """``[bus]``: how changes travel."""

    url: str = key("memory:", "memory: one machine; nats:// comes with the fleet")


@dataclass(frozen=True)
class TsigKey:
    """``[[rpz.tsig]]``: a key that secondaries sign with (RFC 8945)."""

    name: str = key("", "the key's name, as the secondary has it", pattern=r"[A-Za-z0-9._-]{1,253}")
    algorithm: str = key(
        "hmac-sha256", "of the key", choices=("hmac-sha256", "hmac-sha384", "hmac-sha512")
    )
    secret_file: Path | None = key(None, "a file with the secret in base64")


@dataclass(frozen=True)
class Rpz:
    """``[rpz]``: the policy as a response policy zone for other resolvers."""

    listen: tuple[Endpoint, ...] = key((), "addresses for SOA, AXFR and IXFR; empty: off")
    zone: str = key("rpz.urlguard.invalid", "the zone's name")
    allow: tuple[Network, ...] = key(
        (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")),
        "networks that may transfer; with keys below a valid signature is needed too",
    )
    tsig: tuple[TsigKey, ...] = key((), "keys; without one, only loopback may transfer")


@dataclass(frozen=True)
class Config:
    """A whole configuration, checked."""

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
