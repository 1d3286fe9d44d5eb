"""
Commands for operators: state, pause and resume, cache, suspects, systemd unit, completion.
"""

import json
import sys
from typing import TYPE_CHECKING

import click

from urlguard import config as configuration
from urlguard.cli.base import user, warn, with_config
from urlguard.errors import InputError, PolicyError

if TYPE_CHECKING:
    from urlguard.cli.client import Pause


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@with_config
def status(config: configuration.Config, as_json: bool) -> None:
    """Show whether the server runs, each worker's policy serial, and a pause of filtering."""
    from urlguard.processes import channel

    reply = channel.ask(config.state_dir, {"op": "status"}, timeout_s=10)
    if reply is not None and "lost" in reply:
        reply = None
    pause = _paused(config)
    if as_json:
        found = reply or {"ready": False, "workers": {}}
        click.echo(json.dumps({**found, "paused": pause and pause._asdict()}))
    elif reply is None:
        click.echo(f"No server is running on {config.state_dir}.")
    else:
        workers = ", ".join(f"worker {n} at {s}" for n, s in sorted(reply["workers"].items()))
        click.echo(f"Running; the log is at serial {reply['serial']}; {workers or 'no workers'}.")
    if pause and not as_json:
        from urlguard.cli import terminal

        click.secho(f"Filtering is PAUSED {terminal.printable(pause.words)}.", fg="red")
    if reply is None:
        sys.exit(1)


def _paused(config: configuration.Config) -> "Pause | None":
    from urlguard.cli import client

    try:
        return client.paused(config)
    except PolicyError as exc:  # the server may still run without problems
        warn(str(exc))
        return None


@click.command()
@click.option("--for", "duration", metavar="D", help="Resume after 30m, 12h, …, or at a time.")
@click.option("--reason", default="", help="Reason for the audit log.")
@with_config
def pause(config: configuration.Config, duration: str | None, reason: str) -> None:
    """
    Pause all filtering, on every worker when the command returns.

    Rules stay as they are and can be changed meanwhile; `urlguard resume` ends the pause.
    """
    from urlguard import times
    from urlguard.cli import client

    until = times.expiry(duration, "for")
    done = client.pause(config, until, actor=user(), reason=reason)
    when = f"until {times.moment(until)}" if until else "until `urlguard resume`"
    click.echo(f"filtering is PAUSED {when}: {done.words}")
    if not done.everywhere:
        warn("a worker has not confirmed it yet; see `urlguard status`")
        sys.exit(1)


@click.command()
@click.option("--reason", default="", help="Reason for the audit log.")
@with_config
def resume(config: configuration.Config, reason: str) -> None:
    """Resume filtering, on every worker when the command returns."""
    from urlguard.cli import client

    done = client.resume(config, actor=user(), reason=reason)
    click.echo(f"filtering is on: {done.words}")
    if not done.everywhere:
        warn("a worker has not confirmed it yet; see `urlguard status`")
        sys.exit(1)


@click.group()
def cache() -> None:
    """Manage the cache of upstream answers."""


@cache.command("flush")
@click.argument("values", nargs=-1, metavar="NAME…")
@click.option("--all", "everything", is_flag=True, help="Remove every answer.")
@with_config
def cache_flush(config: configuration.Config, values: tuple[str, ...], everything: bool) -> None:
    """Remove the answers for NAMEs and their subdomains from every worker's cache."""
    from urlguard import names
    from urlguard.processes import channel

    if everything == bool(values):
        raise click.UsageError("give names to remove, or --all")
    wanted = [names.canonical(value) for value in values]
    message = {"op": "flush", "names": wanted, "all": everything}
    reply = channel.ask(config.state_dir, message, timeout_s=10)
    if reply is None or "lost" in reply:
        raise PolicyError(
            f"no server is running on {config.state_dir}; only a running server has a cache"
        )
    if "error" in reply:
        raise PolicyError(str(reply["error"]))
    click.echo(
        f"removed: {reply['removed']} answers, on {reply['flushed']} of {reply['workers']} workers"
    )
    if reply["flushed"] < reply["workers"]:
        warn("a worker did not answer; see `urlguard status`")
        sys.exit(1)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option(
    "-n",
    "count",
    type=click.IntRange(1, 500),
    default=50,
    show_default=True,
    help="Maximum number of names.",
)
@with_config
def suspects(config: configuration.Config, as_json: bool, count: int) -> None:
    """
    List suspects: names that the model scores high and no rule blocks, the highest score first.

    "Would block" marks names above the block threshold that were answered because the model only
    reviews, the segment does not block fraud, or filtering was paused.  The server keeps suspects
    in memory, without clients; a restart clears them.
    """
    from urlguard import times
    from urlguard.classify.suspects import Suspect
    from urlguard.cli import terminal
    from urlguard.processes import channel

    reply = channel.ask(config.state_dir, {"op": "suspects", "count": count}, timeout_s=10)
    if reply is None or "lost" in reply:
        raise PolicyError(f"no server is running on {config.state_dir}; suspects are in its memory")
    if "error" in reply:
        raise PolicyError(str(reply["error"]))
    found = [Suspect(*row) for row in reply["names"]]
    for suspect in found:
        if as_json:
            click.echo(json.dumps(suspect._asdict()))
            continue
        name = terminal.printable(suspect.name)
        when = times.moment(suspect.last)
        would = "  would block" if suspect.action == "block" else ""
        click.echo(f"{suspect.score:.6f}  {name}  asked {suspect.asked} times, last {when}{would}")
    if not found and not as_json:
        click.echo("No suspects.")
    if reply["asked"] < reply["workers"]:
        warn("a worker did not answer; see `urlguard status`")
        sys.exit(1)


@click.command()
@click.option("--user", "name", default="urlguard", show_default=True, help="User of the service.")
@with_config
def systemd(config: configuration.Config, name: str) -> None:
    """Print a hardened systemd unit for this installation and configuration."""
    from urlguard.server import systemd as units

    click.echo(units.unit(config, user=name), nl=False)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """
    Print a shell completion script; use it by: eval "$(urlguard completion bash)".
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise InputError(f"shell {shell}: no completion for it")
    click.echo(kind(ctx.find_root().command, {}, "urlguard", "_URLGUARD_COMPLETE").source())
