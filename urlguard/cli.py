"""
The ``urlguard`` command.

Each command reads the configuration, calls one part and prints what came of it; whatever takes long
to import is imported by the command that needs it.  Exit codes: 0 done; 1 it could not be done, or
the answer is no; 2 the call or the configuration is wrong.
"""

import asyncio
import getpass
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import click

from urlguard import __version__
from urlguard import config as configuration
from urlguard.errors import ConfigError, InputError, UrlGuardError

OPERATOR = "operator"


class _Group(click.Group):
    """Prints our own errors as one line each, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as exc:
            for problem in exc.problems:
                click.secho(f"error: {problem}", fg="red", err=True)
            ctx.exit(2)
        except UrlGuardError as exc:
            click.secho(f"error: {exc}", fg="red", err=True)
            # What was typed is no name, rule, time or feed: the call is wrong.
            ctx.exit(2 if isinstance(exc, InputError) else 1)
        except OSError as exc:
            if not isinstance(exc, BrokenPipeError):
                click.secho(f"error: {exc}", fg="red", err=True)
            # The reader of our output has seen enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            ctx.exit(1)


def _with_config(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``--config``, and the configuration as its first argument."""

    @click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Configuration file; default: $URLGUARD_CONFIG, ./urlguard.toml, or built-in.",
    )
    def run(config_path: Path | None, **arguments: Any) -> None:
        command(configuration.load(config_path), **arguments)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__click_params__ = [  # type: ignore[attr-defined]
        *getattr(command, "__click_params__", []),
        *getattr(run, "__click_params__", []),
    ]
    return run


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="urlguard")
def main() -> None:
    """UrlGuard keeps people away from fraud sites: a DNS resolver with a policy."""


# -- the server ------------------------------------------------------------------------------------


@main.command()
@_with_config
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
        click.echo(f"UrlGuard {__version__} answers DNS on {addresses} (UDP and TCP).")
        if example := _example(config):
            where = supervisor.addresses[0]
            click.echo(f"Try:  dig @{where.host} -p {where.port} {example}")
        sys.stdout.flush()

    try:
        asyncio.run(supervisor.run(ready))
    finally:
        supervisor.close()


def _examine(config: configuration.Config) -> None:
    """Print warnings, and have every plugin read its table: a worker would only die of it."""
    from urlguard.blocklist import snapshot
    from urlguard.engine import Engine, Live
    from urlguard.plugins import Chain
    from urlguard.plugins.base import Parts

    for warning in configuration.warnings(config):
        click.secho(f"warning: {warning}", fg="yellow", err=True)
    if config.rpz.listen:
        from urlguard.share import transfer

        transfer.Look(config)
        transfer.keys(config.rpz.tsig)
    loop = asyncio.new_event_loop()
    try:
        Chain.build(config, Parts(config, Live(Engine(snapshot.nothing())), loop)).close()
    finally:
        loop.close()


def _example(config: configuration.Config) -> str | None:
    """A name that is blocked now."""
    from urlguard.check import open_engine

    engine = open_engine(config)
    some = (name for name, _ in islice(engine.snapshot.names.items(), 1000))
    readable = sorted(some, key=lambda name: (name.startswith("xn--"), len(name)))
    for name in readable:
        if (ruling := engine.decide(name)) and ruling.action == "block":
            return name
    return None


@main.command("check-config")
@_with_config
def check_config(config: configuration.Config) -> None:
    """Read the configuration and say everything that is wrong with it."""
    _examine(config)
    click.echo(f"{config.path or 'built-in defaults'}: ok; state in {config.state_dir}")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@_with_config
def status(config: configuration.Config, as_json: bool) -> None:
    """Say whether the server runs, and which batch each worker enforces."""
    from urlguard.server import channel

    reply = channel.ask(config.state_dir, {"op": "status"}, timeout_s=10)
    if reply is not None and "lost" in reply:
        reply = None
    if as_json:
        click.echo(json.dumps(reply or {"ready": False, "workers": {}}))
    elif reply is None:
        click.echo(f"No server is running on {config.state_dir}.")
    else:
        workers = ", ".join(f"worker {n} at {s}" for n, s in sorted(reply["workers"].items()))
        click.echo(f"Running; the log is at serial {reply['serial']}; {workers or 'no workers'}.")
    if reply is None:
        sys.exit(1)


# -- verdicts --------------------------------------------------------------------------------------


@main.command()
@click.argument("items", nargs=-1, required=True, metavar="ITEM… | -")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--score", is_flag=True, help="Run the model on every item, decided or not.")
@click.option("--why", is_flag=True, help="Explain; costs milliseconds an item.")
@_with_config
def check(
    config: configuration.Config, items: tuple[str, ...], as_json: bool, score: bool, why: bool
) -> None:
    """
    Say what UrlGuard thinks of names and URLs.

    With - as the only ITEM, reads lines of UTF-8 text from standard input and answers each with one
    JSON object, in order, blank lines included.
    """
    from urlguard import check as checking

    # No model ships with this version: --score and --why are taken, and change nothing yet.
    del score, why
    engine = checking.open_engine(config)
    if not engine.serial:
        click.secho(
            f"warning: no policy in {config.state_dir} yet; `urlguard serve` or `urlguard feed "
            "refresh` makes it",
            fg="yellow",
            err=True,
        )
    if "-" in items and len(items) > 1:
        raise click.UsageError("- stands for standard input, and must be the only ITEM")
    if items == ("-",):
        for output in checking.lines(engine, _standard_input()):
            sys.stdout.buffer.write(output)
            sys.stdout.buffer.flush()
        return
    found = [checking.inspect(engine, item) for item in items]
    if as_json:
        for verdict in found:
            click.echo(json.dumps(verdict))
    else:
        from urlguard import terminal

        for verdict in found:
            terminal.show_verdict(verdict)
    if any(verdict["kind"] == "invalid" for verdict in found):
        sys.exit(1)


def _standard_input() -> Iterator[bytes]:
    while chunk := os.read(0, 1 << 16):
        yield chunk


# -- decisions -------------------------------------------------------------------------------------


def _decision(
    action: str,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """What `block` and `allow` have in common."""

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        command = click.argument("values", nargs=-1, required=True, metavar="VALUE…")(command)
        command = click.option(
            "--category",
            default="fraud" if action == "block" else "",
            help="What kind of fraud it is, such as phishing; shown in verdicts.",
        )(command)
        command = click.option("--reason", default="", help="For the audit.")(command)
        return click.option(
            "--expires", metavar="D", help="30m, 12h, 7d, or a time such as 2030-01-31T12:00Z."
        )(command)

    return wrap


@main.command()
@_decision("block")
@click.option("--force", is_flag=True, help="Also block a public suffix, such as co.uk.")
@_with_config
def block(
    config: configuration.Config,
    values: tuple[str, ...],
    category: str,
    reason: str,
    expires: str | None,
    force: bool,
) -> None:
    """
    Block names, URLs or patterns, in force on every worker when the command returns.

    VALUE is a name (it and all below it), *.name (all below it), a URL (never its whole host), or a
    pattern such as 'pay-*-verify.example', 'keyword:paypal' or '/secure/login*.php'.
    """
    from urlguard import rules, wellknown

    for value in values:
        rule = rules.parse(value)
        held = wellknown.hold_reason(rule.kind, rule.value)
        if held and held.startswith("public suffix") and not force:
            raise InputError(f"{value}: {held}; --force blocks it all the same")
        if held and not force:
            click.secho(f"warning: {value}: {held}", fg="yellow", err=True)
    _decide(config, values, "block", category, reason, expires)


@main.command()
@_decision("allow")
@_with_config
def allow(
    config: configuration.Config,
    values: tuple[str, ...],
    category: str,
    reason: str,
    expires: str | None,
) -> None:
    """Allow names, URLs or patterns whatever the lists and the model say."""
    _decide(config, values, "allow", category, reason, expires)


@main.command()
@click.argument("values", nargs=-1, required=True, metavar="VALUE…")
@click.option("--reason", default="", help="For the audit.")
@_with_config
def remove(config: configuration.Config, values: tuple[str, ...], reason: str) -> None:
    """Withdraw the operator's decision, and name the sources that remain."""
    _decide(config, values, None, "", reason, None)


def _decide(
    config: configuration.Config,
    values: tuple[str, ...],
    action: str | None,
    category: str,
    reason: str,
    expires: str | None,
) -> None:
    """Make, change or withdraw the operator's claims, through the server if one is running."""
    from urlguard import decisions, rules
    from urlguard.policy.log import Change

    until = decisions.expiry(expires)
    parsed = list(dict.fromkeys(rules.parse(value) for value in values))
    changes = [Change(rule.key, action, category, reason, until) for rule in parsed]
    decided = {rule for rule in parsed if decisions.stands(config, rule.key, OPERATOR)}
    done = decisions.apply(config, OPERATOR, changes, actor=_user(), reason=reason)
    words = {"block": "blocked", "allow": "allowed", None: "withdrawn"}[action]
    for rule in parsed:
        others = decisions.others(config, rule.key, OPERATOR)
        if action is None and (decides := decisions.deciding(config, rule)):
            others.append(decides)
        rest = f"; still said by {', '.join(others)}" if others else ""
        if action is None and not (done.changed and rule in decided):
            click.echo(f"{rule.value}: the operator says nothing about this {rule.kind}{rest}")
        else:
            click.echo(f"{words} {rule.kind} {rule.value}: {done.words}{rest}")
    if not done.everywhere:
        message = "warning: a worker has not confirmed it yet; see `urlguard status`"
        click.secho(message, fg="yellow", err=True)
    if not done.everywhere or (action is None and not done.changed):
        sys.exit(1)


def _user() -> str:
    """Who runs the command, for the audit."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user number without a name, as in containers
        return f"uid:{os.getuid()}"


# -- feeds -----------------------------------------------------------------------------------------


@main.group()
def feed() -> None:
    """Show and refresh the lists."""


@feed.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--all", "show_all", is_flag=True, help="Show every held rule and bad line kept.")
@_with_config
def feed_list(config: configuration.Config, as_json: bool, show_all: bool) -> None:
    """Show each feed: its rules, its last refresh, bad lines, and rules that are held back."""
    from urlguard.feeds import schedule

    rows = schedule.overview(config)
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    else:
        from urlguard import terminal

        terminal.show_feeds(rows, show_all)


@feed.command("refresh")
@click.argument("names", nargs=-1, metavar="[NAME…]")
@click.option("--force", is_flag=True, help="Accept a list that grew or shrank beyond its limits.")
@_with_config
def feed_refresh(config: configuration.Config, names: tuple[str, ...], force: bool) -> None:
    """Refresh all feeds, or those named, now."""
    import gc

    from urlguard import decisions, terminal
    from urlguard.feeds import schedule
    from urlguard.feeds.refresh import refresh
    from urlguard.policy.log import PolicyLog

    chosen = [schedule.named(config, name) for name in names] or list(schedule.feeds(config))
    log = PolicyLog(config.database)
    gc.disable()  # millions of small objects, none in a cycle
    failed = False
    for one in chosen:
        with terminal.progress(one.name) as step:
            try:
                batch = refresh(log, one, config.state_dir, step=step, force=force, actor=_user())
            except UrlGuardError as exc:
                failed = True
                step.close()
                click.secho(f"error: {exc}", fg="red", err=True)
                continue
        changed = f"{batch.claims} changes, serial {batch.serial}" if batch else "unchanged"
        click.echo(f"{one.name}: {changed}")
    log.close()
    decisions.in_force(config)
    if failed:
        sys.exit(1)


# -- the log ---------------------------------------------------------------------------------------


@main.command("compile")
@_with_config
def compile_(config: configuration.Config) -> None:
    """Compile the policy into a snapshot, which a running server swaps in."""
    from urlguard.policy.compile import compile_apart
    from urlguard.server import channel

    path = compile_apart(config.database, config.state_dir / "snapshots")
    channel.ask(config.state_dir, {"op": "sync"})
    click.echo(path)


@main.command()
@click.option(
    "--since",
    type=click.IntRange(0, 1 << 62),
    default=0,
    metavar="N",
    help="Only batches after serial N.",
)
@click.option("--verify", is_flag=True, help="Check the whole chain; exit code 1 if it is broken.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@_with_config
def log(config: configuration.Config, since: int, verify: bool, as_json: bool) -> None:
    """Show who changed what and when, or verify that nobody changed it since."""
    from urlguard import terminal
    from urlguard.errors import PolicyError
    from urlguard.policy.log import PolicyLog

    if not config.database.exists():
        raise PolicyError(f"policy log {config.database}: not there; `urlguard serve` makes it")
    policy = PolicyLog(config.database, read_only=True)
    with closing(policy), policy.store.reading():
        if not verify:
            for batch in policy.store.batches(since):
                if as_json:
                    click.echo(json.dumps(batch._asdict()))
                else:
                    click.echo(
                        terminal.batch_line(batch, *policy.store.effects_of(batch.serial, 3))
                    )
            return
        damage, batches = policy.verify(), policy.serial
    if as_json:
        click.echo(json.dumps({"ok": damage is None, "damage": damage and damage._asdict()}))
    elif damage is None:
        click.echo(f"ok: {batches} batches, each follows from the one before")
    else:
        click.secho(f"batch {damage.serial}: {damage.what}", fg="red")
    if damage is not None:
        sys.exit(1)


@main.command("rpz")
@click.option("--zone", is_flag=True, help="Write the zone as a zone file to standard output.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@_with_config
def rpz_(config: configuration.Config, zone: bool, as_json: bool) -> None:
    """Show the policy as a response policy zone, and the rules that a zone cannot say."""
    from urlguard.share import rpz

    if zone:
        rpz.write_zone(config, sys.stdout)
        return
    left_out = rpz.unsayable(config)
    if as_json:
        click.echo(json.dumps(dict(rpz.overview(config))))
        for key, reason in left_out:
            click.echo(json.dumps({"rule": key, "reason": reason}))
        return
    for words, value in rpz.overview(config):
        click.echo(f"{words:22} {value}")
    for key, reason in left_out:
        click.echo(f"    {key}: {reason}")


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """
    Print a completion script: eval "$(urlguard completion bash)".
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise InputError(f"shell {shell}: no completion for it")
    click.echo(kind(main, {}, "urlguard", "_URLGUARD_COMPLETE").source())
