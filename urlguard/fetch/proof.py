"""Proofs of control over a domain: a TXT record or a file."""

from typing import Final

from urlguard import names
from urlguard.errors import InputError
from urlguard.fetch.bounds import Fetched, FetchError
from urlguard.fetch.http import Client
from urlguard.fetch.lookup import Lookup

LABEL: Final = "_urlguard"  # an underscored name, RFC 8552
PATH: Final = "/.well-known/urlguard-proof.txt"  # RFC 8615


async def txt(lookup: Lookup, name: str) -> list[str]:
    """
    The TXT records at ``_urlguard.NAME``.

    Raises:
        FetchError: see `Lookup.txt`; or `name` is no domain.
    """
    return await lookup.txt(_domain(f"{LABEL}.{_domain(name)}"))


async def file(client: Client, name: str) -> Fetched:
    """
    The proof file of a domain, over HTTPS or else HTTP: either shows control of its web server.

    Raises:
        FetchError: there is no file; or `name` is no domain.
    """
    name = _domain(name)
    try:
        return await client.get(f"https://{name}{PATH}")
    except FetchError as exc:
        first = exc
    try:
        return await client.get(f"http://{name}{PATH}")
    except FetchError as exc:
        raise FetchError(f"{first}; {exc}", refused=first.refused and exc.refused) from exc


def _domain(text: str) -> str:
    try:
        name = names.canonical(text)
    except InputError as exc:
        raise FetchError(str(exc), refused=True) from exc
    if "." not in name:
        raise FetchError(f"name {names.shown(name)}: a single label; must have a dot", refused=True)
    return name
