"""
Commands of the policy log: list, verify, sign, compile, RPZ, backup and restore.
"""

import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from urlguard import config as configuration
from urlguard.cli.base import user, warn, with_config
from urlguard.errors import PolicyError, UrlGuardError

if TYPE_CHECKING:
    from urlguard.policy.store import LogLocation


@click.command("compile")
@with_config
def compile_(config: configuration.Config) -> None:
    """Compile the policy into a snapshot, which a running server swaps in."""
    from urlguard.compile import compile_apart
    from urlguard.policy.location import log_location
    from urlguard.processes import channel

    path = compile_apart(log_location(config), config.state_dir / "snapshots")
    channel.ask(config.state_dir, {"op": "sync"})
    click.echo(path)


@click.command()
@click.option(
    "--since",
    type=click.IntRange(0, 1 << 62),
    default=0,
    metavar="N",
    help="Only batches after serial N.",
)
@click.option("--verify", is_flag=True, help="Check the whole chain; exit code 1 if it is broken.")
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    metavar="FILE",
    help="With --verify: the log must be the one that these checkpoints, a file or a folder of "
    "files, were signed for; may be repeated.",
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="With --checkpoint: the public key that signed them; default: log.pub in state_dir; "
    "may be repeated.",
)
@click.option("--sign", is_flag=True, help="Print a signed checkpoint of the log's current state.")
@click.option("--scheduled", is_flag=True, help="Show the rules that begin later instead.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@with_config
def log(
    config: configuration.Config,
    since: int,
    verify: bool,
    checkpoints: tuple[Path, ...],
    keys: tuple[Path, ...],
    sign: bool,
    scheduled: bool,
    as_json: bool,
) -> None:
    """List the batches of the policy log, or verify that they were not changed since."""
    from urlguard.cli import client, terminal
    from urlguard.policy.location import log_location, reading_log

    if verify + sign + scheduled > 1:
        raise click.UsageError("--verify, --sign and --scheduled: one at a time")
    if (checkpoints and not verify) or (keys and not checkpoints):
        raise click.UsageError("--checkpoint belongs to --verify, and --key to --checkpoint")
    location = log_location(config)
    if not location.exists():
        raise PolicyError(f"policy log {location}: not there; `urlguard serve` makes it")
    if scheduled:
        for entry in client.scheduled_rules(config):
            click.echo(json.dumps(entry.as_json()) if as_json else terminal.scheduled_line(entry))
        return
    if sign:
        _sign(config, as_json=as_json)
        return
    if checkpoints:
        _audit(config, checkpoints, keys, as_json=as_json)
        return
    with reading_log(config) as policy:
        if not verify:
            for batch in policy.store.batches(since):
                if as_json:
                    click.echo(json.dumps(batch._asdict()))
                    continue
                effects = policy.store.effects_of(batch.serial, 3)
                later = client.read_scheduled(policy.store.scheduled_in(batch.source, batch.serial))
                click.echo(terminal.batch_line(batch, *effects, later))
            return
        damage, batches = policy.verify(), policy.store.count_batches()
    if as_json:
        click.echo(json.dumps({"ok": damage is None, "damage": damage and damage._asdict()}))
    elif damage is None:
        click.echo(f"ok: {batches} batches, each follows from the one before")
    else:
        click.secho(f"batch {damage.serial}: {damage.what}", fg="red")
    if damage is not None:
        sys.exit(1)


def _sign(config: configuration.Config, *, as_json: bool) -> None:
    """Print a checkpoint of the log's head, as a signed note."""
    from urlguard.policy import checkpoint
    from urlguard.policy.location import log_location, open_log

    with contextlib.closing(open_log(config, read_only=True)) as policy:
        done = checkpoint.sign(policy, config.state_dir)
    if done is None:
        where = log_location(config)
        raise PolicyError(f"policy log {where}: has no batch; there is nothing to sign")
    if done.made_key:
        public = config.state_dir / checkpoint.PUBLIC
        click.echo(f"a key was created; give {public} to the auditors of the log", err=True)
    if as_json:
        shown = {**done.checkpoint._asdict(), "note": done.note, "key": str(done.public)}
        click.echo(json.dumps(shown))
    else:
        click.echo(done.note, nl=False)


def _audit(
    config: configuration.Config,
    files: tuple[Path, ...],
    keys: tuple[Path, ...],
    *,
    as_json: bool,
) -> None:
    """Say whether the log is the one that the checkpoints in `files` were signed for."""
    from urlguard.policy import checkpoint
    from urlguard.policy.location import reading_log

    known = [
        key
        for path in keys or (config.state_dir / checkpoint.PUBLIC,)
        for key in checkpoint.public_keys(path)
    ]
    signed = checkpoint.read(files, known)
    with reading_log(config) as policy:
        found = checkpoint.audit(policy, signed)
        batches, serial = policy.store.count_batches(), policy.serial
    if as_json:
        checked = {
            "read": len(signed),
            "fits": found.fits,
            "differs": found.differs,
            "what": found.what or None,
            "left_out": [{"serial": at, "restore": by} for at, by in found.left_out],
        }
        damage = found.damage and found.damage._asdict()
        click.echo(json.dumps({"ok": found.ok, "damage": damage, "checkpoints": checked}))
    else:
        for at, by in found.left_out:
            click.echo(f"the checkpoint at serial {at} is of a log that the restore {by} replaced")
        if found.damage is not None:
            click.secho(f"batch {found.damage.serial}: {found.damage.what}", fg="red")
        if found.differs is not None:
            click.secho(found.what, fg="red")
        if found.ok:
            click.echo(
                f"ok: {batches} batches, each follows from the one before; checkpoints fit up to "
                f"serial {found.fits}, the log goes to {serial}"
            )
    if not found.ok:
        sys.exit(1)


@click.command("rpz")
@click.option("--zone", is_flag=True, help="Write the zone as a zone file to standard output.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@with_config
def rpz_(config: configuration.Config, zone: bool, as_json: bool) -> None:
    """Show the policy as a response policy zone, and the rules that a zone cannot say."""
    from urlguard.publish.rpz import primary

    if zone:
        primary.write_zone(config, sys.stdout)
        return
    left_out = primary.unsayable(config)
    if as_json:
        click.echo(json.dumps(dict(primary.overview(config))))
        for key, reason in left_out:
            click.echo(json.dumps({"rule": key, "reason": reason}))
        return
    for words, value in primary.overview(config):
        click.echo(f"{words:22} {value}")
    for key, reason in left_out:
        click.echo(f"    {key}: {reason}")


# -- backup and restore ----------------------------------------------------------------------------


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@with_config
def backup(config: configuration.Config, file: Path, force: bool) -> None:
    """
    Copy the policy log into FILE, also while the server runs, and verify the copy's chain.

    FILE is readable for you alone, and appears only when it is whole.
    """
    from urlguard.cli import terminal
    from urlguard.policy import backup as copies
    from urlguard.policy.location import log_location

    with terminal.progress("backup") as step:
        saved = copies.backup(log_location(config), file, force=force, step=step)
    click.echo(f"{file}: {saved.batches} batches, up to serial {saved.serial}; the chain holds")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--above",
    type=click.IntRange(0, (1 << 31) - 1),
    default=0,
    metavar="N",
    help="Go on above serial N, if other resolvers have seen more than this folder knows.",
)
@with_config
def restore(config: configuration.Config, file: Path, above: int) -> None:
    """
    Put the backup FILE in the place of the policy log; no server may be running.

    FILE's chain is verified first. The log that is replaced is kept beside the new one.
    """
    from urlguard.cli import client, terminal
    from urlguard.policy import backup as copies
    from urlguard.policy.location import log_location

    location = log_location(config)
    with _no_server(config):
        known = max(above, _published(config, location))
        with terminal.progress("restore") as step:
            done = copies.restore(location, file, above=known, actor=user(), step=step)
        click.echo(
            f"restored {terminal.printable(str(file))}: {done.batches} batches; "
            f"the log goes on at serial {done.serial}"
        )
        if done.kept:
            click.echo(f"the log before is kept in {done.kept}")
        try:
            client.in_force(config)
        except UrlGuardError as exc:  # the next start does it
            warn(f"not compiled: {exc}")


@contextlib.contextmanager
def _no_server(config: configuration.Config) -> Iterator[None]:
    """Keep servers from `state_dir` for as long as this lasts, with the lock that they take."""
    config.state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
    lock = os.open(config.state_dir / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
            raise PolicyError(
                f"state_dir {config.state_dir}: a server is running on it, process {owner}; "
                "stop it first"
            ) from None
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(lock)


def _published(config: configuration.Config, location: "LogLocation") -> int:
    """The highest serial that anything in `state_dir` tells of, the log itself left out."""
    from urlguard.blocklist import snapshot
    from urlguard.policy import checkpoint
    from urlguard.policy.location import open_file
    from urlguard.publish.rpz.primary import zone_file
    from urlguard.publish.rpz.store import ZoneStore

    serials = [snapshot.serial_of(path) for path in snapshot.newest(config.state_dir / "snapshots")]
    serials += [checkpoint.serial_of(path) for path in checkpoint.kept(config.state_dir)]
    if zone_file(config).exists():
        with contextlib.suppress(UrlGuardError), ZoneStore(zone_file(config), read_only=True) as s:
            serials += [s.state().serial, s.state().at]
    for path in location.replaced():
        with (
            contextlib.suppress(UrlGuardError),
            contextlib.closing(open_file(path, read_only=True)) as old,
            old.store.reading(),
        ):
            serials.append(old.serial)
    return max(serials, default=0)
