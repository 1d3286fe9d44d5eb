"""
Terminal output: verdicts, feeds, previews, batches and progress bars.
"""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from urlguard.cli.client import ScheduledRule
from urlguard.policy.model import BatchRow, EffectRow
from urlguard.rules import PAUSE, SHADOWED
from urlguard.verdict import decode

_STYLES = {"block": "bold red", "review": "bold yellow", "allow": "bold green", "none": "dim"}
_WORDS = {
    "block": "BLOCK",
    "review": "REVIEW",
    "allow": "ALLOW",
    "none": "no rule",
}
_COVERS = {
    "domain": "exactly this name",
    "subtree": "the name and all below it",
    "below": "all below the name",
    "pattern": "a pattern",
    "url": "a URL",
}

_SHOWN_SCHEDULED = 10

_out = Console(highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """Untrusted text with control and other unprintable characters escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def show_verdict(verdict: dict[str, Any], scheduled: Sequence[str] = ()) -> None:
    """Print one verdict; `scheduled` describes rules that will cover the input later."""
    shown = printable(verdict["input"])
    if verdict["kind"] == "invalid":
        _out.print(Text.assemble((shown, "bold"), "  ", ("invalid", "bold yellow")))
        _out.print(Text(f"    {verdict['error']}"))
        return
    action = verdict["action"]
    canonical = verdict["canonical"]
    _out.print(Text.assemble((canonical, "bold"), "  ", (_WORDS[action], _STYLES[action])))
    if verdict["input"].strip() != canonical:
        _out.print(Text(f"    input     {shown}"))
    if rule := verdict["rule"]:
        _out.print(Text(f"    rule      {rule['value']} ({_COVERS[rule['kind']]})"))
        if rule["category"]:
            _out.print(Text(f"    category  {printable(rule['category'])}"))
        sources = printable(", ".join(rule["sources"]))
        _out.print(Text(f"    sources   {sources}, batch {rule['serial']}"))
    elif verdict["reason"] == "popular":
        _out.print(Text(f"    because   {verdict['registrable']} is a well-known name"))
    for description in scheduled:
        _out.print(Text(f"    scheduled {printable(description)}"))
    if verdict["score"] is not None:
        _out.print(Text(f"    score     {verdict['score']:.4f} ({verdict['model']})"))
    for reason in verdict["why"]:
        for language, words in reason["words"].items():
            # The second language is below the first, without the number.
            added = f"{reason['contribution']:+8.3f}" if language == "en" else " " * 8
            _out.print(Text(f"    {added}  {printable(words)}"))


def show_feeds(rows: list[dict[str, Any]], show_all: bool) -> None:
    """Print all feeds, then errors, quarantined rules and bad lines."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (
        "feed",
        "rules",
        "format",
        "checked",
        "changed",
        "bad lines",
        "quarantined",
        "state",
    ):
        table.add_column(column, justify="right" if column in _NUMBERS else "left")
    for row in rows:
        state = Text("shadow", "cyan") if row["shadow"] else Text("ok", "green")
        if row["error"]:
            state = Text("failed", "bold red")
        if not row["checked_at"]:
            state = Text("never refreshed", "yellow")
        table.add_row(
            Text(row["name"], "bold"),
            f"{row['rules']:,}",
            row["format"] or "–",
            _ago(row["checked_at"]),
            _ago(row["changed_at"]),
            f"{row['bad']:,}",
            f"{row['quarantined']:,}",
            state,
        )
    _out.print(table)
    for row in rows:
        if row["error"]:
            _out.print(Text.assemble("\n", (row["error"], "red")))
        _some(
            row["name"],
            "quarantined",
            [f"{r}: {why}" for r, why in row["quarantined_rules"]],
            row["quarantined"],
            show_all,
        )
        _some(row["name"], "bad lines", row["problems"], row["bad"], show_all)
        ignored = ", ".join(f"{n:,} {why}" for why, n in row["ignored"].items())
        if ignored and show_all:
            _out.print(Text(f"\n{row['name']}: ignored lines: {ignored}"))


def show_preview(found: dict[str, Any]) -> None:
    """Print the effects that enforcing rules would have; see `impact.dry_run.DryRun`."""
    about = "" if found["exact"] else "about "
    new, covered = f"{about}{found['new']:,}", f"{about}{found['covered']:,}"
    lines = [f"rules     {found['rules']:,}: {new} new, {covered} blocked already"]
    if found["action"] == "block":
        lines.append("in force  nothing would change")
    if (sample := found["sample"]) is None:
        lines.append("live      unknown: no server is running")
    else:
        few = "" if sample["sufficient"] else "; too few to count"
        lines.append(
            f"live      would newly block {sample['share']:.2%} of queries: "
            f"{sample['newly_blocked']:,} of {sample['queries']:,} sampled, by up to "
            f"{sample['newly_blocked_clients']:,} of {sample['clients']:,} clients{few}"
        )
        lines += [f"          {r['queries']:8,}  {r['rule']}" for r in sample["rules"]]
    if shadow := found["shadow"]:
        least = "" if shadow["complete"] else "at least "
        lines.append(
            f"counted   {least}{shadow['queries']:,} queries of {shadow['clients']:,} clients "
            f"since {shadow['started_at']}"
        )
    quarantined = [f"{row['rule']}: {row['reason']}" for row in found["quarantined"]]
    approval = found["needs_approval"]
    for what, rows in (("quarantined", quarantined), ("needs approval", approval)):
        if rows:
            lines.append(f"{what}")
            lines += [f"    {row}" for row in rows[:_SHOWN_REASONS]]
        if len(rows) > _SHOWN_REASONS:
            lines.append(f"    … and {len(rows) - _SHOWN_REASONS:,} more; --json shows all")
    for line in lines:
        _out.print(Text(printable(line)))


_SHOWN_REASONS = 20
_NUMBERS = ("rules", "bad lines", "quarantined")


def _some(name: str, what: str, lines: list[str], total: int, show_all: bool) -> None:
    if not lines:
        return
    shown = lines if show_all else lines[:5]
    _out.print(Text(f"\n{name}: {what}", "bold"))
    for line in shown:
        _out.print(Text(f"    {line}"))
    if total > len(shown):
        hint = "" if show_all else "; --all shows more"
        _out.print(Text(f"    … and {total - len(shown):,} more{hint}", "dim"))


def batch_line(
    batch: BatchRow, effects: int, shown: list[EffectRow], scheduled: Sequence[ScheduledRule] = ()
) -> str:
    """One batch: its source, author and reason, then its first effects and scheduled rules."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(batch.time / 1000))
    reason = f"  {batch.reason}" if batch.reason else ""
    lines = [f"{batch.serial:8}  {when}Z  {batch.source} by {batch.actor}{reason}"]
    for effect in shown:
        now = decode(effect.after, effect.key)
        if effect.key == PAUSE:
            lines.append(f"{'':10}{'PAUSED' if now else 'resumed':8} filtering")
        else:
            key = effect.key.removeprefix(SHADOWED)
            gone = "no rule" if key == effect.key else "counted no more"
            lines.append(f"{'':10}{now.action if now else gone:8} {key}")
    if effects > len(shown):
        lines.append(f"{'':10}and {effects - len(shown):,} more")
    for entry in scheduled[:_SHOWN_SCHEDULED]:
        lines.append(f"{'':10}scheduled {entry.action} {entry.rule.key} {entry.words}")
    if len(scheduled) > _SHOWN_SCHEDULED:
        lines.append(f"{'':10}and {len(scheduled) - _SHOWN_SCHEDULED:,} more scheduled")
    return "\n".join(map(printable, lines))


def scheduled_line(entry: ScheduledRule) -> str:
    """One line for a rule that begins later."""
    reason = f"  {entry.reason}" if entry.reason else ""
    words = f"{entry.words}  {entry.action} {entry.rule.key}"
    return printable(f"{words}  {entry.source}, batch {entry.serial}{reason}")


class Step:
    """A progress bar's handle; see `feeds.refresh.Step`."""

    def __init__(self, name: str, bar: Progress | None) -> None:
        self._name = name
        self._bar = bar
        self._task = bar.add_task(name, total=None) if bar else None

    def __call__(self, words: str, done: int, total: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                description=f"{self._name}: {words}",
                completed=done,
                total=total or None,
            )

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._bar is not None:
            self._bar.stop()


@contextlib.contextmanager
def progress(name: str) -> Iterator[Step]:
    """A progress bar on stderr if that is a terminal, nothing otherwise."""
    if not sys.stderr.isatty():
        yield Step(name, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Step(name, bar)


def _ago(when: float) -> str:
    if not when:
        return "never"
    seconds = max(0, int(time.time() - when))
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
