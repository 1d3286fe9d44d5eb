"""
``train`` and ``evaluate``: train models on labelled rows, and measure a model on labelled rows.
"""

import datetime
import importlib.util
import json
import os
import re
import shlex
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from urlguard import config as configuration
from urlguard.cli.base import warn, with_config
from urlguard.errors import InputError, ModelError, UrlGuardError

if TYPE_CHECKING:
    from urlguard.classify.training.dataset import Rows
    from urlguard.classify.training.files import Line
    from urlguard.classify.training.job import Result
    from urlguard.classify.training.results import Measured, Scored

Say = Callable[[str], None]

_CHUNK = 10_000  # items that are scored between two lines of progress
_version = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(\.[2-9])?").fullmatch


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="FOLDER",
    help="With train_domains.csv.gz, train_urls.csv.gz and popular_fqdns.csv.gz.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("models"),
    show_default=True,
    metavar="FOLDER",
    help="Folder for the models.",
)
@click.option(
    "--kind",
    type=click.Choice(["name", "url", "both"]),
    default="both",
    show_default=True,
    help="Kind of model.",
)
@click.option("--version", metavar="DATE", help="End of the model's name; default: today in UTC.")
@click.option("--force", is_flag=True, help="Replace an existing model of that name.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write a report with tables and plots.",
)
@click.option(
    "--scores",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Also save the scores of the test rows, for the benchmark of other classifiers.",
)
@with_config
def train(
    config: configuration.Config,
    data: Path,
    out: Path,
    kind: str,
    version: str | None,
    force: bool,
    report: Path | None,
    scores: Path | None,
) -> None:
    """
    Train the models from labelled names and URLs, measure them, and write them with their cards.

    The same rows, version and libraries give the same models.  Takes up to 45 minutes and 12 GiB on
    two cores for a million names and half a million URLs; needs the extra "train".
    """
    _need("sklearn", "scipy", "numpy", "lightgbm", *(["matplotlib"] if report else []))
    version = version or f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    if not _version(version):
        raise InputError(
            f"--version {version!r}: must be a date, such as 2026-11-24, or a later one of that "
            "day, such as 2026-11-24.2"
        )
    kinds = ("name", "url") if kind == "both" else (kind,)
    _writable("--report", report)
    from urlguard.classify.training import files, job

    for one in kinds:
        if not force and (there := job.existing(out, f"{one}-{version}")):
            raise InputError(
                f"--version {version}: {there[0]} already exists; must be another version, such "
                f"as {version[:10]}.2, or be replaced by --force"
            )
    out.mkdir(parents=True, exist_ok=True)
    if scores is not None:
        scores.mkdir(parents=True, exist_ok=True)
        for one in kinds:
            _writable("--scores", scores / f"{one}-{version}.npz")
    # SIGTERM raises SystemExit, so that unfinished files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    runs = []
    with _steps() as say:
        say("checking the data")
        files.check(data, say)
        for one in kinds:
            with job.workplace(out, say) as folder:
                task = job.Task(
                    one,
                    data,
                    folder,
                    version,
                    _command(data, one, version),
                    scores and scores / f"{one}-{version}.npz",
                )
                result = job.run(task, lambda words, one=one: say(f"{one}: {words}"))  # type: ignore[misc]
                job.publish(task.folder, out, task.name, force=force)
            runs.append(result)
    for result in runs:
        _show_made(result, out)
    if report is not None:
        from urlguard.classify.evaluation import report as pages

        pages.write(report, [result.run for result in runs])
        click.echo(f"report in {report}")


def _command(data: Path, kind: str, version: str) -> str:
    """The command that reproduces the model, without absolute paths."""
    folder = shlex.quote(_printable(data.name if data.is_absolute() else str(data)))
    return f"urlguard train --data {folder} --kind {kind} --version {version}"


def _show_made(result: "Result", out: Path) -> None:
    from urlguard.classify.training import job

    name, trial = result.card["name"], result.card["metrics"]["trial"]
    size = sum((out / f"{name}{suffix}").stat().st_size for suffix in job.SUFFIXES)
    click.echo(f"{name}: in {out}, {size / 2**20:.1f} MiB; its card: {out / f'{name}.md'}")
    for words, key in (("all test rows", "all"), ("sources that may train", "commercial")):
        _show_ranking(words, trial[key])
    for key in ("block_at", "review_at"):
        _show_pair(key, trial[key])
    for target in result.targets:
        state = "met" if target.met else "MISSED"
        click.echo(f"  {state:7} {target.what} {target.must}: {target.measured}")


@click.command()
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE…",
)
@click.option("--model", metavar="NAME", help="Such as name-2026-11-24; default: the newest.")
@click.option(
    "--models",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Folder of models; default: as configured.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write a report with tables and plots.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each model.")
@with_config
def evaluate(
    config: configuration.Config,
    paths: tuple[Path, ...],
    model: str | None,
    models: Path | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """
    Measure a model on labelled names or URLs of your own.

    FILE is CSV, plain or gzip, with the columns domain or url, and label (1 fraud, 0 harmless);
    category, source and first_seen if you have them.  A name or URL may have one label only.  Rows
    from the model's training data raise its results; its card does not list them, so exclude them
    yourself.
    """
    _need("numpy", *(["matplotlib"] if report else []))
    _writable("--report", report)
    from urlguard.classify import model as opening
    from urlguard.classify.training import files, results

    folder = opening.folder(models or config.classify.models)
    by_kind: dict[str, list[Path]] = {}
    for path in paths:
        by_kind.setdefault(files.kind_of(path), []).append(path)
    if model is not None and (wrong := [k for k in by_kind if not model.startswith(f"{k}-")]):
        raise InputError(f"--model {model} with a file of {wrong[0]}s; must be of the same kind")
    runs = []
    with _steps() as say:
        for kind, here in by_kind.items():
            opened = opening.Model.open(folder, kind, model)
            if opened.card.prior is None:
                raise ModelError(
                    f"{folder / opened.name}.json: no 'prior'; a card must have it to be measured"
                )
            labels = files.Labels()
            lines = [line for path in here for line in files.read(path, labels)]
            say(f"{len(lines):,} {kind}s to {opened.name}")
            scored = _scored(opened, folder, lines, say)
            say("measuring")
            runs.append((opened.ident, scored, results.measure(scored)))
    for ident, scored, found in runs:
        if as_json:
            click.echo(json.dumps({"model": ident, **results.plain(found)}))
        else:
            _show_measured(ident, scored, found)
        _warn_of_owners(scored.rows)
    warn("rows of owners in the model's training data cannot be recognised, and raise its results")
    if report is None:
        return
    from urlguard.classify.evaluation import report as pages

    about = [("rows", ", ".join(path.name for path in paths)), ("trained on", _UNKNOWN)]
    try:
        made = [results.run(scored, found, ident, about) for ident, scored, found in runs]
    except ValueError as exc:
        raise InputError(str(exc)) from exc
    pages.write(report, made)


_UNKNOWN = "possibly on some of these rows or their owners; a card does not list them"


def _scored(opened: Any, folder: Path, lines: Sequence["Line"], say: Say) -> "Scored":
    import numpy as np

    from urlguard import urls
    from urlguard.classify.tables import Tables
    from urlguard.classify.training import dataset, results

    kind, card = opened.kind, opened.card
    tables = Tables.open(folder / f"{opened.name}.tables")
    text, label, category, source, first_seen = map(list, zip(*lines, strict=True))
    hosts = [dataset.host(one) for one in text]
    scores: list[float] = []
    for start in range(0, len(text), _CHUNK):
        part = text[start : start + _CHUNK]
        items = part if kind == "name" else [urls.parse(f"http://{one}") for one in part]
        scores += opened.scores(items)
        if start:
            say(f"{start:,} of {len(text):,} scored")
    labelled = dataset.Rows(
        kind,
        text,
        np.array(label, dtype=np.int8),
        category,
        source,
        first_seen,
        [dataset.owner(name, tables.shared) for name in hosts],
        tables.shared,
        {},
    )
    return results.Scored(
        labelled,
        np.arange(len(text)),
        np.array(scores),
        np.array([tables.hosting(name) for name in hosts], dtype=np.bool_),
        {"own": card.own._asdict(), "hosting": card.hosting._asdict()},
        card.prior,
    )


def _warn_of_owners(rows: "Rows") -> None:
    """Warn of owners with rows of both labels: no model can be right on all of these."""
    labels: dict[str, int] = defaultdict(int)  # a bit for each
    for who, label in zip(rows.owner, rows.label.tolist(), strict=True):
        labels[who] |= 1 << label
    both = {who for who, found in labels.items() if found == 3}
    if both:
        count = sum(who in both for who in rows.owner)
        warn(
            f"{len(both):,} owners (registrable domains, or customers of shared hosting) have rows "
            f"of both labels, {count:,} rows in all; one of the labels may be wrong"
        )


def _show_measured(ident: str, scored: "Scored", found: "Measured") -> None:
    from urlguard.classify.training import results

    plain = results.plain(found)
    click.echo(ident)
    _show_ranking("all rows", plain["all"])
    if found.commercial is not found.everything:
        _show_ranking("sources that may train", plain["commercial"])
    for key in ("block_at", "review_at"):
        _show_pair(key, plain[key])
    if found.error is not None:
        error = f"{found.error:.4f} at a prior of {scored.prior:.0%}"
        click.echo(f"  expected calibration error {error}")
    for title, lines in (
        ("harmless slices, blocked", found.slices),
        ("fraud by source, blocked", found.sources),
    ):
        if lines:
            click.echo(f"  {title}:")
        width = max((len(line.name) for line in lines), default=0)
        for line in lines:
            # A source is untrusted text from a file.
            click.echo(f"    {_printable(line.name):{width}}  {results.percent(line.block)}")


def _show_ranking(words: str, found: dict[str, Any]) -> None:
    line = f"  {words}: {found['fraud']:,} fraud, {found['harmless']:,} harmless"
    if found["auc"] is not None:
        line += f"; ROC-AUC {found['auc']:.4f}"
    click.echo(line)
    for point in found["tpr"]:
        drawn = f", {point['drawn_low']:.2%} to {point['drawn_high']:.2%} over draws of owners"
        click.echo(f"    TPR at FPR {point['fpr'] * 100:g} %: {point['value']:.2%}{drawn}")


def _show_pair(threshold: str, found: dict[str, Any]) -> None:
    parts = []
    for words, key in (("recall", "recall"), ("false positives", "false_positives")):
        share = found[key]
        if share["rows"]:
            parts.append(f"{words} {share['value']:.4%} ({share['hits']:,} of {share['rows']:,})")
    click.echo(f"  at {threshold}: {', '.join(parts)}")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _need(*modules: str) -> None:
    """
    Check the optional dependencies before any work.

    Raises:
        UrlGuardError: names those that are missing, and the extra to install.
    """
    if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
        raise UrlGuardError(
            f"{', '.join(missing)} is not installed; install the extra: "
            "pip install 'urlguard[train]'"
        )


def _writable(option: str, path: Path | None) -> None:
    """Refuse a path that cannot be written; creates no file."""
    if path is None:
        return
    if not path.absolute().parent.is_dir():
        raise InputError(f"{option} {path}: its folder does not exist")
    fresh = not os.path.lexists(path)
    try:
        # Opens the file, since permission bits do not apply to root or to read-only mounts.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        os.close(os.open(path, flags, 0o666))
    except OSError as exc:
        raise InputError(
            f"{option} {path}: {exc.strerror}; must be a file that can be written"
        ) from exc
    if fresh:
        path.unlink()


@contextmanager
def _steps() -> Iterator[Say]:
    """
    Shows progress on stderr: at a terminal one line that changes, otherwise one line per step.
    """
    began = time.monotonic()

    def at() -> str:
        seconds = int(time.monotonic() - began)
        return f"{seconds // 60:2}:{seconds % 60:02}"

    if not sys.stderr.isatty():
        yield lambda words: click.echo(f"{at()}  {words}", err=True)
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def say(words: str) -> None:
            bar.update(task, description=words)

        yield say
