"""
Where names lead: the public addresses of many names at once.

Asks by `lookup`, and connects to nothing.  Knows neither who wants to know nor what for.
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

    IPv6 is asked for only where there is no public IPv4 address: one question is enough for nearly
    every name.

    Args:
        lookup: who is asked.
        names: canonical; all are asked at once, for `bounds.LOOKUP_S` seconds.
        public: says of an address whether it counts.

    Returns:
        At most `bounds.MAX_ADDRESSES` by name.  A name that does not exist, or has none, has an
        empty list; one is not there if nobody could say in time.
    """
    tasks = {asyncio.create_task(_one(lookup, name, public)): name for name in names}
    done, late = await asyncio.wait(tasks, timeout=LOOKUP_S) if tasks else (set(), set())
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    # Whatever a stranger's answer or an odd name has broken concerns that name alone.
    return {tasks[task]: task.result() for task in done if task.exception() is None}


async def _one(lookup: Lookup, name: str, public: Callable[[str], bool]) -> list[str]:
    for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
        if found := _lowest(await lookup.of_kind(name, kind), public):
            return found
    return []


def _lowest(found: Iterable[str], public: Callable[[str], bool]) -> list[str]:
    values = {ipaddress.ip_address(text) for text in found if public(text)}
    return [str(value) for value in sorted(values, key=int)[:MAX_ADDRESSES]]
