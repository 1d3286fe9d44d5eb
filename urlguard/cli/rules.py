"""
``check``, ``block``, ``allow`` and ``remove``: verdicts, and the operator's decisions.
"""

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator

import click

from urlguard import config as configuration
from urlguard.cli.base import user, warn, with_config
from urlguard.errors import InputError

_MAX_SCHEDULED = 1000  # scheduled rules that `check` looks through


@click.command()
@click.argument("items", nargs=-1, required=True, metavar="ITEM… | -")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--score", is_flag=True, help="Run the model on every item, decided or not.")
@click.option("--why", is_flag=True, help="Explain the score; costs milliseconds per item.")
@with_config
def check(
    config: configuration.Config, items: tuple[str, ...], as_json: bool, score: bool, why: bool
) -> None:
    """
    Show the verdict about names and URLs.

    With - as the only ITEM, reads lines of UTF-8 text from standard input and answers each with one
    JSON object, in order, blank lines included.
    """
    from urlguard import check as checking
    from urlguard import local_policy

    engine = local_policy.open_engine(config)
    classifier = checking.Classifier(config, score=score, why=why)
    if not engine.serial:
        warn(
            f"no policy in {config.state_dir} yet; `urlguard serve` or `urlguard feed "
            "refresh` makes it"
        )
    if engine.paused:
        warn("filtering is PAUSED, whatever the rules say; see `urlguard status`")
    if "-" in items and len(items) > 1:
        raise click.UsageError("- means standard input, and must be the only ITEM")
    if items == ("-",):
        gc.disable()  # this path creates no cycles, and there may be millions of lines
        for output in checking.lines(engine, _standard_input(), classifier):
            sys.stdout.buffer.write(output)
            sys.stdout.buffer.flush()
        _warn_of(classifier.refused)
        return
    found = checking.inspect_all(engine, items, classifier)
    _warn_of(classifier.refused)
    if as_json:
        for verdict in found:
            click.echo(json.dumps(verdict))
    else:
        from urlguard.cli import terminal

        scheduled = _scheduled(config, items)
        for item, verdict in zip(items, found, strict=True):
            terminal.show_verdict(verdict, scheduled.get(item, ()))
    if any(verdict["kind"] == "invalid" for verdict in found):
        sys.exit(1)


def _warn_of(refused: list[str]) -> None:
    for why in refused:
        warn(f"{why}; the previous model, or none, was used")


def _standard_input() -> Iterator[bytes]:
    while chunk := os.read(0, 1 << 16):
        yield chunk


def _scheduled(config: configuration.Config, items: tuple[str, ...]) -> dict[str, list[str]]:
    """For each item, descriptions of the rules for it that begin later."""
    from urlguard import check as checking
    from urlguard.blocklist import snapshot
    from urlguard.cli import client
    from urlguard.engine import Engine
    from urlguard.verdict import Ruling

    found: dict[str, list[str]] = {}
    for entry in client.scheduled_rules(config)[:_MAX_SCHEDULED]:
        # An engine with this rule only decides which items it covers.
        engine = Engine(snapshot.nothing())
        ruling = Ruling("block", entry.category, (entry.source,), 0, *entry.rule)
        engine.overlay.apply([(entry.rule.key, ruling)], 0)
        for item in dict.fromkeys(items):
            if checking.inspect(engine, item)["rule"]:
                words = f"{entry.action} {entry.rule.key} {entry.words} ({entry.source})"
                found.setdefault(item, []).append(words)
    return found


def _decision(
    action: str,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The arguments and options that `block` and `allow` share."""

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        command = click.argument("values", nargs=-1, required=True, metavar="VALUE…")(command)
        command = click.option(
            "--category",
            default="fraud" if action == "block" else "",
            help="What kind of fraud it is, such as phishing; shown in verdicts.",
        )(command)
        command = click.option("--reason", default="", help="Reason for the audit log.")(command)
        command = click.option(
            "--from", "begins", metavar="T", help="Begin later: 2h, or a time as below."
        )(command)
        return click.option(
            "--expires",
            metavar="D",
            help="30m, 12h, 7d after it begins, or a time such as 2030-01-31T12:00Z.",
        )(command)

    return wrap


@click.command()
@_decision("block")
@click.option("--force", is_flag=True, help="Also block a public suffix, such as co.uk.")
@click.option("--shadow", is_flag=True, help="Count matches; block nothing.")
@with_config
def block(
    config: configuration.Config,
    values: tuple[str, ...],
    category: str,
    reason: str,
    begins: str | None,
    expires: str | None,
    force: bool,
    shadow: bool,
) -> None:
    """
    Block names, URLs or patterns; in force on every worker when the command returns.

    VALUE is a name (it and all below it), *.name (all below it), a URL (never its whole host), or a
    pattern such as 'pay-*-verify.example', 'keyword:paypal' or '/secure/login*.php'.
    """
    from urlguard import rules, wellknown

    for value in () if shadow else values:
        rule = rules.parse(value)
        reason_against = wellknown.quarantine_reason(rule.kind, rule.value)
        if reason_against and reason_against.startswith("public suffix") and not force:
            raise InputError(f"{value}: {reason_against}; --force blocks it anyway")
        if reason_against and not force:
            warn(f"{value}: {reason_against}")
    action = rules.SHADOW if shadow else "block"
    _decide(config, values, action, category, reason, begins, expires)


@click.command()
@_decision("allow")
@with_config
def allow(
    config: configuration.Config,
    values: tuple[str, ...],
    category: str,
    reason: str,
    begins: str | None,
    expires: str | None,
) -> None:
    """Allow names, URLs or patterns; overrules all lists and the model."""
    _decide(config, values, "allow", category, reason, begins, expires)


@click.command()
@click.argument("values", nargs=-1, required=True, metavar="VALUE…")
@click.option("--reason", default="", help="Reason for the audit log.")
@with_config
def remove(config: configuration.Config, values: tuple[str, ...], reason: str) -> None:
    """Withdraw the operator's decision, also a scheduled one; name the sources that remain."""
    from urlguard import rules
    from urlguard.cli import client
    from urlguard.policy.model import Change
    from urlguard.rules import OPERATOR

    parsed = list(dict.fromkeys(rules.parse(value) for value in values))
    later = [p for p in client.scheduled_rules(config) if p.source == OPERATOR and p.rule in parsed]
    decided = {rule for rule in parsed if client.claims(config, rule.key, OPERATOR)}
    changes = [Change(key, None) for key in [r.key for r in parsed] + [p.key for p in later]]
    done = client.apply(config, OPERATOR, changes, actor=user(), reason=reason)
    for rule in parsed:
        others = client.others(config, rule.key, OPERATOR)
        if decides := client.deciding(config, rule):
            others.append(decides)
        rest = f"; other sources: {', '.join(others)}" if others else ""
        mine = [entry for entry in later if entry.rule == rule and done.changed]
        if rule in decided and done.changed:
            click.echo(f"withdrawn {rule.kind} {rule.value}: {done.words}{rest}")
        elif not mine:
            click.echo(f"{rule.value}: the operator has no decision on this {rule.kind}{rest}")
        for entry in mine:
            click.echo(
                f"withdrawn: scheduled to {entry.action} {rule.kind} {rule.value} {entry.words}: "
                f"serial {done.serial}"
            )
    _finish(done.everywhere, done.changed)


def _decide(
    config: configuration.Config,
    values: tuple[str, ...],
    action: str,
    category: str,
    reason: str,
    begins: str | None,
    expires: str | None,
) -> None:
    """Make or change the operator's claims, through the server if one is running."""
    from urlguard import rules, times
    from urlguard.cli import client
    from urlguard.policy.model import Change
    from urlguard.rules import OPERATOR

    start = times.expiry(begins, "from")
    until = times.expiry(expires, after=start)
    parsed = list(dict.fromkeys(rules.parse(value) for value in values))
    keys = [rule.key if start is None else rules.scheduled(start, rule.key) for rule in parsed]
    changes = [Change(key, action, category, reason, until) for key in keys]
    done = client.apply(config, OPERATOR, changes, actor=user(), reason=reason)
    waiting = client.scheduled_rules(config)
    for rule, key in zip(parsed, keys, strict=True):
        others = client.others(config, rule.key, OPERATOR)
        rest = f"; other sources: {', '.join(others)}" if others else ""
        later = [p for p in waiting if p.rule == rule and p.key != key]
        if later:
            rest += f"; scheduled: {', '.join(f'{p.action} {p.words} ({p.source})' for p in later)}"
        if start is None:
            click.echo(f"{action}ed {rule.kind} {rule.value}: {done.words}{rest}")
            continue
        when = f"from {times.moment(start)}"
        when += f" until {times.moment(until)}" if until else ""
        words = f"serial {done.serial}" if done.changed else f"so already; serial {done.serial}"
        click.echo(f"scheduled to {action} {rule.kind} {rule.value} {when}: {words}{rest}")
    _finish(done.everywhere, True)


def _finish(everywhere: bool, changed: bool) -> None:
    if not everywhere:
        warn("a worker has not confirmed it yet; see `urlguard status`")
    if not everywhere or not changed:
        sys.exit(1)
