"""Checks that need more than one key, and warnings about what is permitted and hardly meant."""

import ipaddress
import re
from collections.abc import Iterable

from urlguard.config.reader import Reader
from urlguard.config.sections import Config
from urlguard.config.values import Endpoint, Network, upstream


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


def across(config: Config, reader: Reader) -> None:
    """Checks that need more than one key."""
    if not config.server.listen:
        reader.problem("[server] ", "listen = []: must have at least one address")
    _upstreams("[forward] upstreams: ", config.forward.upstreams, config, reader)
    for zone, texts in config.forward.zones.items():
        where = f"[forward.zones] {zone!r}: "
        _zone(where, zone, reader)
        if not texts:
            reader.problem(where, "must have at least one upstream")
        _upstreams(where, texts, config, reader)
    for where, zones in (
        ("[special] forwarded: ", config.special.forwarded),
        ("[rebind] exempt: ", config.rebind.exempt),
        ("[guard] canary: ", (config.guard.canary,)),
    ):
        for zone in zones:
            _zone(f"{where}{zone!r}: ", zone, reader)
    named: set[str] = set()
    taken: dict[Network, str] = {}
    for number, segment in enumerate(config.segment, 1):
        where = f"[[segment]] {segment.name or f'number {number}'}: "
        if not segment.name:
            reader.problem(where, "name is missing")
        if segment.name in named:
            reader.problem(where, "name is used twice; each segment needs its own")
        named.add(segment.name)
        if not segment.networks:
            reader.problem(where, "networks is missing; nobody would be in it")
        for network in segment.networks:
            if network in taken:
                reader.problem(where, f"networks: {network} is in segment {taken[network]!r} too")
            taken[network] = segment.name
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


def _upstreams(where: str, texts: Iterable[str], config: Config, reader: Reader) -> None:
    for text in texts:
        try:
            found = upstream(text)
        except ValueError as exc:
            reader.problem(where, f"{text!r}: {exc}")
            continue
        if any(_is(found.address, own) for own in config.server.listen):
            reader.problem(where, f"{text!r}: is this server's own address")


def _is(address: Endpoint, own: Endpoint) -> bool:
    """True if what is sent to `address` arrives at `own`."""
    if address.port != own.port:
        return False
    anywhere = ipaddress.ip_address(own.host).is_unspecified
    return address.host == own.host or (
        anywhere and address.loopback and (":" in address.host) == (":" in own.host)
    )


def _zone(where: str, zone: str, reader: Reader) -> None:
    if not re.fullmatch(r"(?!.*\.\.)[a-z0-9_-][a-z0-9_.-]{0,252}", zone) or zone.endswith("."):
        reader.problem(where, "must be a name in lower case, without the final dot")
