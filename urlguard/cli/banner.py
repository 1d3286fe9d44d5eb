"""
What ``serve`` prints once it answers: where, what to try, the API, its token, how to stop.

At a terminal in colour; elsewhere one plain line each, ``LABEL: VALUE`` after the first, for
scripts to read.  Knows the configuration; opens nothing but the policy, for the name to try.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.text import Text

from urlguard import __version__
from urlguard.access.tokens import ADMIN_FILE, DATABASE
from urlguard.cli.base import warn
from urlguard.config import Config, Endpoint
from urlguard.errors import UrlGuardError

if TYPE_CHECKING:
    from urlguard.engine import Engine


class Line(NamedTuple):
    """One line of the banner."""

    label: str
    value: str


def show(config: Config, addresses: Sequence[Endpoint]) -> None:
    """
    Print the banner to stdout.

    Args:
        config: the configuration in force.
        addresses: where the server answers DNS, with the ports that it really has.
    """
    where = ", ".join(str(address) for address in addresses)
    first = f"UrlGuard {__version__} answers DNS on {where} (UDP and TCP)."
    lines = list(_lines(config, addresses[0]))
    if not sys.stdout.isatty():
        print("\n".join([first, *(f"{line.label + ':':7}{line.value}" for line in lines)]))
        sys.stdout.flush()
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(first, "bold green"))
    for line in lines:
        console.print(Text.assemble((f"{line.label:6} ", "bold cyan"), line.value))


def _lines(config: Config, address: Endpoint) -> Iterator[Line]:
    """Everything after the first line."""
    with suppress(UrlGuardError):  # without a readable policy the server runs all the same
        # Compiled tables and matchers: only `serve` shows a banner, and only once it answers.
        from urlguard.local_policy import open_engine

        engine = open_engine(config)
        if engine.paused:
            warn("filtering is PAUSED: nothing is blocked; see `urlguard status`")
        elif example := blocked_name(engine):
            yield Line("Try", f"dig @{address.host} -p {address.port} {example}")
    if config.api.listen.port:
        scheme = "https" if config.api.tls_cert else "http"
        url = f"{scheme}://{config.api.listen}"
        yield Line("API", url)
        yield Line("Docs", f"{url}/docs")
    file = config.state_dir / ADMIN_FILE
    # The control process makes both at the first start, about now.
    if file.exists() or not (config.state_dir / DATABASE).exists():
        yield Line("Token", f"in {_relative(str(file))}")
    else:
        yield Line("Token", "urlguard token create NAME --role ROLE")
    yield Line("Stop", f"Ctrl-C, or kill {os.getpid()}")


def _relative(path: str) -> str:
    """A path as somebody at the terminal would type it; whole for scripts."""
    here = os.path.relpath(path) if sys.stdout.isatty() else path
    return path if here.startswith("..") else here


def blocked_name(engine: "Engine") -> str | None:
    """A name that is blocked now, the shortest readable one of the first thousand; None if none."""
    some = (name for name, _ in islice(engine.snapshot.names.items(), 1000))
    readable = sorted(some, key=lambda name: (name.startswith("xn--"), len(name)))
    for name in readable:
        if (ruling := engine.decide(name)) and ruling.action == "block":
            return name
    return None
