"""
``serve`` and ``check-config``.
"""

import asyncio
import sys
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

import click

from urlguard import __version__, events
from urlguard import config as configuration
from urlguard.cli.base import warn, with_config
from urlguard.errors import UrlGuardError

if TYPE_CHECKING:
    from urlguard.engine import Engine


@click.command()
@with_config
def serve(config: configuration.Config) -> None:
    """Start the resolver, and run until Ctrl-C or SIGTERM."""
    from urlguard.server.supervisor import Supervisor

    _examine(config)
    supervisor = Supervisor(config)
    supervisor.open()
    addresses = ", ".join(str(a) for a in supervisor.addresses)
    if not any((config.state_dir / "snapshots").glob("[0-9]*")):
        click.echo(f"First start: importing the lists into {config.state_dir} …", err=True)

    def ready() -> None:
        from urlguard.check import open_engine

        click.echo(f"UrlGuard {__version__} answers DNS on {addresses} (UDP and TCP).")
        sys.stdout.flush()
        with suppress(UrlGuardError):  # a courtesy: the server runs, whatever comes of it
            engine = open_engine(config)
            if engine.paused:
                warn("filtering is PAUSED: nothing is blocked; see `urlguard status`")
            elif example := _example(engine):
                where = supervisor.addresses[0]
                click.echo(f"Try:  dig @{where.host} -p {where.port} {example}")
        sys.stdout.flush()

    try:
        events.in_background()
        asyncio.run(supervisor.run(ready))
    finally:
        supervisor.close()


def _examine(config: configuration.Config) -> None:
    """Print warnings, and have everybody read the configuration who will have to."""
    from urlguard.server.reload import examine

    for warning in examine(config):
        warn(warning)


def _example(engine: "Engine") -> str | None:
    """A name that is blocked now."""
    some = (name for name, _ in islice(engine.snapshot.names.items(), 1000))
    readable = sorted(some, key=lambda name: (name.startswith("xn--"), len(name)))
    for name in readable:
        if (ruling := engine.decide(name)) and ruling.action == "block":
            return name
    return None


@click.command("check-config")
@with_config
def check_config(config: configuration.Config) -> None:
    """Read the configuration and say everything that is wrong with it."""
    _examine(config)
    click.echo(f"{config.path or 'built-in defaults'}: ok; state in {config.state_dir}")
