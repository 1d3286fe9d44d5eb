"""
``token create``, ``token list`` and ``token revoke``.

They write the file of tokens by themselves, whether or not a server runs: it sees each change.
"""

import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING

import click

from urlguard import config as configuration
from urlguard.access.roles import Role
from urlguard.cli.base import user, warn, with_config

if TYPE_CHECKING:
    from urlguard.access.tokens import Entry


@click.group()
def token() -> None:
    """Create, list and revoke API tokens."""


@token.command("create")
@click.argument("name")
@click.option("--role", required=True, type=click.Choice([str(role) for role in Role]))
@click.option("--expires", metavar="D", help="90d, 12h, or a time such as 2030-01-31T12:00Z.")
@click.option("--again", is_flag=True, help="Allow the NAME of a revoked token again.")
@with_config
def token_create(
    config: configuration.Config, name: str, role: str, expires: str | None, again: bool
) -> None:
    """
    Create a token for NAME and print it once; only its hash is stored.

    A running server accepts it at once.  The audit log shows NAME as the actor.
    """
    from urlguard import times
    from urlguard.access.tokens import DATABASE, Tokens

    until = times.expiry(expires)
    with contextlib.closing(Tokens(config.state_dir / DATABASE)) as tokens:
        text = tokens.create(name, Role(role), user(), until, again=again)
        try:
            click.echo(text)
        except OSError:
            tokens.revoke(name, user())  # nobody has it
            raise
    if sys.stdout.isatty():
        click.echo("Keep it now: it is not shown again.", err=True)


@token.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@with_config
def token_list(config: configuration.Config, as_json: bool) -> None:
    """List all tokens, revoked ones too: role, state, creator, last day of use."""
    from urlguard.access.tokens import DATABASE, Tokens

    found: list[Entry] = []
    if (config.state_dir / DATABASE).exists():
        with contextlib.closing(Tokens(config.state_dir / DATABASE)) as tokens:
            found = tokens.list()
    now = time.time()
    for entry in found:
        click.echo(json.dumps(entry.as_json(now)) if as_json else _line(entry, now))
    if not found and not as_json:
        click.echo("No tokens.")


@token.command("revoke")
@click.argument("name")
@with_config
def token_revoke(config: configuration.Config, name: str) -> None:
    """Revoke NAME's token; a running server rejects it from the next request on."""
    from urlguard.access.tokens import DATABASE, AccessError, Tokens

    path = config.state_dir / DATABASE
    if not path.exists():
        raise AccessError(f"tokens {path}: not there; `urlguard serve` makes the first")
    with contextlib.closing(Tokens(path)) as tokens:
        entry = tokens.revoke(name, user())
        left = tokens.list()
    click.echo(f"revoked {entry.name} ({entry.role})")
    now = time.time()
    admins = [e for e in left if e.role is Role.ADMIN and e.state(now) == "active"]
    if entry.role is Role.ADMIN and not admins:
        warn("no admin is left; `urlguard token create NAME --role admin` makes one")


def _line(entry: "Entry", now: float) -> str:
    """A token for people: one line."""
    from urlguard.times import moment

    words = [
        f"{entry.name:24} {entry.role:9} {entry.state(now):8}",
        f"made {moment(entry.created_at)} by {entry.created_by}",
    ]
    if entry.expires_at is not None:
        words.append(f"expires {moment(entry.expires_at)}")
    if entry.revoked_at is not None:
        words.append(f"revoked {moment(entry.revoked_at)} by {entry.revoked_by}")
    words.append(f"last used {entry.used_on or 'never'}")
    return "  ".join(words)
