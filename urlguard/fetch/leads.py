"""
The public addresses of many names at once.

Asks the upstreams, see `lookup`, and connects to nothing.  Knows nothing of cases.
"""

import asyncio
import ipaddress
from collections.abc import Callable, Iterable, Sequence

import dns.rdatatype

from urlguard.fetch.bounds import LOOKUP_S, MAX_ADDRESSES
from urlguard.fetch.lookup import Lookup


async def addresses(
    lookup: Lookup, names: Sequence[str], public: Callable[[str], bool]
) -> dict[str, list[str]]:
    """
    The public addresses of names, the lowest first.

    AAAA is asked for only if there is no public IPv4 address, so one query is enough for nearly
    every name.

    Args:
        lookup: asks the upstreams.
        names: canonical; all are asked at once, for `bounds.LOOKUP_S` seconds.
        public: whether an address counts.

    Returns:
        At most `bounds.MAX_ADDRESSES` by name: an empty list if a name does not exist or has none;
        no entry if no upstream answered in time.
    """
    tasks = {asyncio.create_task(_one(lookup, name, public)): name for name in names}
    done, late = await asyncio.wait(tasks, timeout=LOOKUP_S) if tasks else (set(), set())
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    # An error that a server's answer or an odd name has caused concerns that name alone.
    return {tasks[task]: task.result() for task in done if task.exception() is None}


async def _one(lookup: Lookup, name: str, public: Callable[[str], bool]) -> list[str]:
    for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
        if found := _lowest(await lookup.of_kind(name, kind), public):
            return found
    return []


def _lowest(found: Iterable[str], public: Callable[[str], bool]) -> list[str]:
    values = {ipaddress.ip_address(text) for text in found if public(text)}
    return [str(value) for value in sorted(values, key=int)[:MAX_ADDRESSES]]
