"""
``feed list``, ``feed refresh`` and ``feed preview``.
"""

import json
import os
import sys

import click

from urlguard import config as configuration
from urlguard.cli.base import user, with_config
from urlguard.errors import UrlGuardError


@click.group()
def feed() -> None:
    """Show, preview and refresh feeds."""


@feed.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option(
    "--all", "show_all", is_flag=True, help="Show every quarantined rule and bad line kept."
)
@with_config
def feed_list(config: configuration.Config, as_json: bool, show_all: bool) -> None:
    """Show each feed: its rules, its last refresh, bad lines, and quarantined rules."""
    from urlguard.feeds import schedule

    rows = schedule.overview(config)
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    else:
        from urlguard.cli import terminal

        terminal.show_feeds(rows, show_all)


@feed.command("refresh")
@click.argument("names", nargs=-1, metavar="[NAME…]")
@click.option("--force", is_flag=True, help="Accept a list that grew or shrank beyond its limits.")
@with_config
def feed_refresh(config: configuration.Config, names: tuple[str, ...], force: bool) -> None:
    """Refresh all feeds, or those named, now."""
    import gc

    from urlguard.cli import client, terminal
    from urlguard.feeds import schedule
    from urlguard.feeds.refresh import refresh
    from urlguard.policy.location import open_log

    chosen = [schedule.named(config, name) for name in names] or list(schedule.feeds(config))
    log = open_log(config)
    os.nice(5)  # answering queries comes first
    gc.disable()  # millions of small objects, none in a cycle
    failed = False
    for one in chosen:
        with terminal.progress(one.name) as step:
            try:
                batch = refresh(log, one, config.state_dir, step=step, force=force, actor=user())
            except UrlGuardError as exc:
                failed = True
                step.close()
                click.secho(f"error: {exc}", fg="red", err=True)
                continue
        changed = f"{batch.claims} changes, serial {batch.serial}" if batch else "unchanged"
        click.echo(f"{one.name}: {changed}")
    log.close()
    client.in_force(config)
    if failed:
        sys.exit(1)


@feed.command("preview")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@with_config
def feed_preview(config: configuration.Config, name: str, as_json: bool) -> None:
    """Show what enforcing a feed, such as one in shadow, would change."""
    from urlguard.cli import terminal
    from urlguard.feeds import schedule
    from urlguard.impact import dry_run
    from urlguard.impact.sample import Sampled
    from urlguard.processes import channel
    from urlguard.verdict import FEED

    schedule.named(config, name)
    asked = {"op": "sample", "rules": None, "source": FEED + name}
    reply = channel.ask(config.state_dir, asked) or {}
    sample = Sampled.read(reply["sample"]) if "sample" in reply else None
    found = dry_run.of_feed(config, name, sample).as_json()
    if as_json:
        click.echo(json.dumps(found))
    else:
        terminal.show_preview(found)
