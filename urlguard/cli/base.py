"""
What all commands share: error output, the configuration, the name of the user.
"""

import functools
import getpass
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from urlguard import config as configuration
from urlguard.errors import ConfigError, InputError, UrlGuardError


class Group(click.Group):
    """Prints our own errors as one line each, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an error or Ctrl-C ends the program with the exit code for it."""
        try:
            return super().invoke(ctx)
        except ConfigError as exc:
            for problem in exc.problems:
                click.secho(f"error: {problem}", fg="red", err=True)
            ctx.exit(2)
        except UrlGuardError as exc:
            click.secho(f"error: {exc}", fg="red", err=True)
            # An argument is no name, rule, time or feed: wrong usage.
            ctx.exit(2 if isinstance(exc, InputError) else 1)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(128 + signal.SIGINT)
        except OSError as exc:
            if not isinstance(exc, BrokenPipeError):
                click.secho(f"error: {exc}", fg="red", err=True)
            # The reader of our output has closed the pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            ctx.exit(1)


def with_config(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``--config``, and the configuration as its first argument."""

    @click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Configuration file; default: $URLGUARD_CONFIG, ./urlguard.toml, or built-in.",
    )
    @functools.wraps(command)  # with the options that it has already
    def run(config_path: Path | None, **arguments: Any) -> None:
        command(configuration.load(config_path), **arguments)

    return run


def warn(message: str) -> None:
    """Print a warning to stderr."""
    click.secho(f"warning: {message}", fg="yellow", err=True)


def user() -> str:
    """The name of the user who runs the command, for the audit log."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user number without a name, as in containers
        return f"uid:{os.getuid()}"
