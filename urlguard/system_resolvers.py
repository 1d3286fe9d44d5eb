"""The resolvers in resolv.conf: the default upstreams."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from urlguard.config import Endpoint, Upstream, endpoint

RESOLV_CONF: Final = Path("/etc/resolv.conf")


def system_resolvers(listen: Sequence[Endpoint], path: Path = RESOLV_CONF) -> list[Upstream]:
    """
    The ``nameserver`` lines of resolv.conf, without our own addresses, which would be a loop.

    Args:
        listen: our own addresses; a wildcard matches all addresses of this machine.
    """
    found = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = endpoint(words[1] if ":" not in words[1] else f"[{words[1]}]", 53)
        except ValueError:
            continue
        own = any(address.reaches(one) for one in listen)
        if not own and Upstream(address) not in found:
            found.append(Upstream(address))
    return found
