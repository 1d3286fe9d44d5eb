"""Checks across keys, and warnings about configurations that are valid but probably a mistake."""

import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from urlguard.config.reader import Reader
from urlguard.config.sections import Config
from urlguard.config.values import Network, upstream


def warnings(config: Config) -> list[str]:
    """Warnings about settings that are valid but probably a mistake, one text each."""
    found = []
    beyond = [str(network) for network in config.acl.allow if not network.is_loopback]
    sinkholes = (config.guard.sinkhole_ipv4, config.guard.sinkhole_ipv6)
    if beyond and config.guard.answer == "sinkhole" and any(a.is_loopback for a in sinkholes):
        found.append(
            f"[acl] allow = {', '.join(beyond)}: clients on other machines get a loopback address "
            "as sinkhole, which is their own machine; set [guard] sinkhole_ipv4 and sinkhole_ipv6"
        )
    found += _places(config.plugins)
    for feed in config.feed:
        if feed.path is not None and not feed.path.exists():
            found.append(f"[[feed]] {feed.name}: path {feed.path}: not there")
    if any(network.prefixlen == 0 for network in config.acl.allow):
        found.append("[acl] allow: the whole Internet may ask; this is an open resolver")
    for key in ("proxy_from", "ecs_from"):
        for network in getattr(config.server, key):
            if network.prefixlen == 0:
                found.append(
                    f"[server] {key}: {network}: every client counts as a front end, has no limits "
                    "and may send queries as any client; list the front ends only"
                )
    if (problem := models_folder(config)) is not None:
        found.append(problem)
    if config.api.metrics_token_file is not None:
        found += _secret("[api] metrics_token_file", config.api.metrics_token_file)
    if config.api.tls_key is not None:
        found += _secret("[api] tls_key", config.api.tls_key)
    if not config.api.listen.loopback and config.api.tls_cert is None:
        found.append(
            f"[api] listen = {config.api.listen}: other machines reach it, and tokens travel "
            "unencrypted; set tls_cert and tls_key, or put a TLS proxy in front of it"
        )
    for network in config.api.proxy_from:
        if network.prefixlen == 0:
            found.append(
                f"[api] proxy_from: {network}: every client counts as a proxy and chooses the "
                "address that limits apply to; list the proxies only"
            )
    return found


def models_folder(config: Config) -> str | None:
    """The problem with the configured folder of models, or None."""
    folder = config.classify.models
    if folder is None:
        return None
    try:
        if stat.S_ISDIR(folder.stat().st_mode):
            return None
        state = "is no folder"
    except OSError as exc:
        state = "not there" if isinstance(exc, FileNotFoundError) else str(exc.strerror)
    return (
        f"[classify] models: must be a folder of models, without which none runs; {folder}: {state}"
    )


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
    _segments(config, reader)
    _feeds(config, reader)
    low, high = config.cache.min_ttl_s, config.cache.max_ttl_s
    if low > high:
        reader.problem("[cache] ", f"min_ttl_s = {low}: must not be above max_ttl_s = {high}")
    url = config.store.url
    if url and not url.startswith("sqlite:///"):
        reader.problem("[store] ", f"url = {url!r}: this version knows sqlite:///PATH only")
    elif url and (not url.removeprefix("sqlite:///") or "\0" in url):
        reader.problem("[store] ", f"url = {url!r}: names no file; must be sqlite:///PATH")
    if config.classify.shadow is not None and config.classify.shadow == config.classify.model:
        reader.problem(
            "[classify] ",
            f"shadow = {config.classify.shadow!r}: must not be model, beside which it runs",
        )
    if (config.api.tls_cert is None) != (config.api.tls_key is None):
        reader.problem("[api] ", "must have both tls_cert and tls_key, or neither")
    if config.bus.url != "memory:":
        reader.problem("[bus] ", f'url = {config.bus.url!r}: this version knows "memory:" only')
    _order(config.plugins, reader)
    for key in config.rpz.tsig:
        if not key.name or key.secret_file is None:
            reader.problem("[[rpz.tsig]] ", "must have name and secret_file")
    public = [str(n) for n in config.rpz.allow if not n.is_loopback]
    if config.rpz.listen and public and not config.rpz.tsig:
        reader.problem("[rpz] ", f"allow = {public}: beyond loopback a [[rpz.tsig]] key is needed")


def _order(plugins: tuple[str, ...], reader: Reader) -> None:
    """Report orders of the chain in which a plugin would have no effect."""
    if plugins[-1:] != ("forward",) and "forward" in plugins:
        reader.problem("", "plugins: forward must be last; nothing after it would be asked")
    if len(set(plugins)) != len(plugins):
        reader.problem("", "plugins: a name is listed twice")
    if plugins[-1:] == ("cache",):
        reader.problem("", "plugins: cache is last; must be above a plugin that answers")
    if _above(plugins, "cache", "guard"):
        reader.problem("", "plugins: guard must be above cache; cached answers would bypass it")
    if _above(plugins, "rebind", "cache"):
        reader.problem(
            "",
            "plugins: rebind must be below cache; it checks answers before they are cached",
        )


def _places(plugins: tuple[str, ...]) -> Iterator[str]:
    """Warnings about plugins that are missing, or whose place weakens them."""
    if "acl" not in plugins:
        yield "plugins: acl is missing; every client that reaches the server is answered"
    if "guard" not in plugins:
        yield "plugins: guard is missing; nothing is blocked"
    if _above(plugins, "limit", "acl"):
        yield "plugins: limit is above acl; clients that are not allowed use up the limits"
    if _above(plugins, "special", "guard"):
        yield "plugins: special is above guard; rules have no effect on the names it answers"


def _above(plugins: tuple[str, ...], upper: str, lower: str) -> bool:
    """True if both are in the chain, `upper` before `lower`."""
    return upper in plugins and lower in plugins and plugins.index(upper) < plugins.index(lower)


def _secret(key: str, path: Path) -> Iterator[str]:
    """Warn of a file with a secret that is missing, or that others can read."""
    try:
        mode = path.stat().st_mode
    except OSError as exc:
        why = "not there" if isinstance(exc, FileNotFoundError) else exc.strerror or exc
        yield f"{key}: {path}: {why}"
    else:
        if mode & (stat.S_IRGRP | stat.S_IROTH):
            readers = "everybody" if mode & stat.S_IROTH else "its group"
            yield f"{key}: {path}: {readers} can read it; chmod 600"


def _segments(config: Config, reader: Reader) -> None:
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
            reader.problem(where, "networks is missing; no client would be in it")
        for network in segment.networks:
            if network in taken:
                reader.problem(where, f"networks: {network} is in segment {taken[network]!r} too")
            taken[network] = segment.name
        both = [c for c in segment.categories if c in segment.pass_categories]
        if both:
            reader.problem(
                where, f"{', '.join(both)}: must not be in both categories and pass_categories"
            )


def _feeds(config: Config, reader: Reader) -> None:
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
        if feed.shadow and feed.action != "block":
            reader.problem(where, f"action = {feed.action!r}: must be block under shadow = true")


def _upstreams(where: str, texts: Iterable[str], config: Config, reader: Reader) -> None:
    for text in texts:
        try:
            found = upstream(text)
        except ValueError as exc:
            reader.problem(where, f"{text!r}: {exc}")
            continue
        if any(found.address.reaches(own) for own in config.server.listen):
            reader.problem(where, f"{text!r}: is this server's own address")


def _zone(where: str, zone: str, reader: Reader) -> None:
    if not re.fullmatch(r"(?!.*\.\.)[a-z0-9_-][a-z0-9_.-]{0,252}", zone) or zone.endswith("."):
        reader.problem(where, "must be a name in lower case, without the final dot")
