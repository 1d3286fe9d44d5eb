"""
``serve`` and ``check-config``.
"""

import asyncio
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from urlguard import config as configuration
from urlguard import events
from urlguard.cli.base import warn, with_config
from urlguard.config.checks import models_folder
from urlguard.errors import ConfigError, UrlGuardError

if TYPE_CHECKING:
    from urlguard.classify.model import Model


@click.command()
@with_config
def serve(config: configuration.Config) -> None:
    """
    Start the resolver and run it until Ctrl-C or SIGTERM.

    SIGHUP reloads the configuration.
    """
    from urlguard.cli import banner
    from urlguard.server.supervisor import Supervisor

    for warning in _examined(config):
        warn(warning)
    supervisor = Supervisor(config)
    supervisor.open()
    if not any((config.state_dir / "snapshots").glob("[0-9]*")):
        click.echo(f"First start: importing the lists into {config.state_dir} …", err=True)
    try:
        events.in_background()
        asyncio.run(supervisor.run(lambda: banner.show(config, supervisor.addresses)))
    finally:
        # All processes have ended; a second Ctrl-C has nothing left to stop.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        supervisor.close()
    with suppress(OSError):  # nobody reads our output any more
        # At a terminal over the ^C that it shows.
        click.echo(("\r" if sys.stdout.isatty() else "") + "UrlGuard has stopped.")


def _examined(config: configuration.Config) -> list[str]:
    """Warnings, after everybody has read the configuration who will have to."""
    from urlguard.server.reload import examine

    return examine(config)


@click.command("check-config")
@with_config
def check_config(config: configuration.Config) -> None:
    """
    Check the configuration and report every mistake in it.

    Opens the files that it names: certificates, keys, secrets and models.  Errors fail the check;
    warnings point out settings that are allowed and probably unintended.
    """
    found = _examined(config)
    wrong, odd = _models(config)
    for warning in [*(w for w in found if w not in wrong), *odd]:
        warn(warning)
    if wrong:
        where = config.path.name if config.path else "built-in defaults"
        raise ConfigError([f"{where}: {problem}" for problem in wrong])
    click.echo(f"{config.path or 'built-in defaults'}: ok; state in {config.state_dir}")


def _models(config: configuration.Config) -> tuple[list[str], list[str]]:
    """
    Errors and warnings about the models in the configuration.

    A server would continue with other models or none.  A configured model that cannot be used is an
    error; a problem with a model that UrlGuard chooses by itself is a warning.
    """
    from urlguard.classify import model

    options = config.classify
    if {options.mode, *(segment.classify for segment in config.segment)} <= {"off", None}:
        return [], []
    if (problem := models_folder(config)) is not None:
        return [problem], []
    folder = model.folder(options.models)
    wrong: list[str] = []
    odd: list[str] = []
    name, refused = model.find(folder, "name", named=options.model, besides=options.shadow)
    if options.model is not None and refused:
        wrong += _unusable("model", options.model, folder, refused)
    elif name is None and options.shadow in model.names(folder, "name"):
        wrong.append(
            f"[classify] shadow = {options.shadow!r}: no other model in {folder} can be used; "
            "must run beside one"
        )
    else:
        odd += _fallback("name", folder, name, refused)
    if options.shadow is not None and name is not None:
        shadow, refused = model.find(folder, "name", named=options.shadow)
        wrong += _unusable("shadow", options.shadow, folder, refused)
        if shadow is not None and _alike(shadow, name):
            odd.append(
                f"[classify] shadow = {options.shadow!r}: gives the same scores as {name.name}; "
                "should be another model"
            )
    odd += _fallback("url", folder, *model.find(folder, "url"))
    return wrong, odd


def _unusable(
    key: str, named: str, folder: Path, refused: Sequence[UrlGuardError]
) -> Iterator[str]:
    """Errors of a model that a key names."""
    from urlguard.classify import model

    there = model.names(folder, "name")
    some = f"; must be one of {', '.join(there[:5])}" if there and named not in there else ""
    for problem in refused:
        yield f"[classify] {key} = {named!r}: {problem}{some}"


def _fallback(
    kind: str, folder: Path, found: "Model | None", refused: Sequence[UrlGuardError]
) -> Iterator[str]:
    """Warnings about a kind whose model is not configured."""
    using = f"{found.name} is used instead" if found else "none is used"
    for problem in refused:
        yield f"[classify] models: {problem}; {using}"
    if found is None and not refused:
        yield f"[classify] models: {folder}: no card {kind}-*.json; should have one, none is used"


def _alike(one: "Model", other: "Model") -> bool:
    """True if two models give the same scores: their cards agree in all that determines them."""
    ours, theirs = (
        card._replace(name="", digest="", prior=None) for card in (one.card, other.card)
    )
    return ours == theirs
