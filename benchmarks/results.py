"""
Where measured figures are kept: ``record/ARCHITECTURE-CPU/DATE.csv``.

Each file begins with its header.  A run of a benchmark appends its rows, all with the same
``time``; a column that a row has no figure for stays empty.  Nothing in them names the machine
beyond its architecture, its CPU model and its count of cores.
"""

import csv
import datetime
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RECORD = HERE / "record"

COLUMNS = (
    *("time", "commit", "cpu", "cores", "python", "benchmark"),
    *("server", "version", "case", "rules"),
    *("rounds", "queries"),  # how often it was measured; queries answered in all rounds
    *("cpu_us", "cpu_us_low", "cpu_us_high"),  # for a query: median, lowest, highest round
    *("per_s", "loss_pct"),
    "others_pct",  # of all CPU time, taken by programs that were none of ours; the worst round
    *("rss_mib", "pss_mib", "disk_mib"),
    *("seconds", "seconds_low", "seconds_high", "seconds_p99", "seconds_p999"),
    "passed",  # yes or no, for a row with a target
    *("value", "value_low", "value_high"),  # any other figure that the case names, and its interval
)

Row = dict[str, str]


def cpu_model() -> str:
    """The CPU's name, as the kernel or lscpu has it."""
    for command in (["cat", "/proc/cpuinfo"], ["lscpu"]):
        try:
            text = subprocess.run(command, capture_output=True, text=True).stdout
        except OSError:
            continue
        if found := re.search(r"^model name\s*:\s*(.+?)\s*$", text, re.M | re.I):
            return found[1]
    return "unknown CPU"


def slug(text: str) -> str:
    """Lower case, with single hyphens for all that is neither letter nor digit."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def commit() -> str:
    """The commit that was measured; ``+`` behind it if the package differs from it."""
    try:
        run = subprocess.run
        head = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
        short = run(head, capture_output=True, text=True).stdout.strip()
        state = ["git", "-C", str(HERE), "status", "--porcelain", "--", ":/urlguard"]
        changed = run(state, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
    return short + ("+" if changed else "")


def write(benchmark: str, rows: Iterable[Mapping[str, Any]], record: Path = RECORD) -> Path:
    """Append the rows of one run to today's file and return its path."""
    now = datetime.datetime.now(datetime.UTC)
    about = {
        "time": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "benchmark": benchmark,
    }
    folder = record / f"{platform.machine()}-{slug(cpu_model())}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{now:%Y-%m-%d}.csv"
    fresh = not path.exists()
    if not fresh:
        _widen(path)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerows({**about, **row} for row in rows)
    print(f"recorded in benchmarks/{path.relative_to(HERE)}", file=sys.stderr)
    return path


def _widen(path: Path) -> None:
    """Give a file from before a column was added all of them, so that its rows stay readable."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) == COLUMNS:
            return
        rows = list(reader)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def latest(benchmark: str, record: Path = RECORD, case: str = "") -> list[Row]:
    """
    The rows of the newest recorded run on any machine; none if there was none.

    Args:
        benchmark: its name.
        record: the folder of records.
        case: only runs and rows whose case begins so.
    """
    newest: list[Row] = []
    for path in record.glob("*/*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                row
                for row in csv.DictReader(file)
                if row["benchmark"] == benchmark and row["case"].startswith(case)
            ]
        last = max((row["time"] for row in rows), default="")
        if not newest or last > newest[0]["time"]:
            newest = [row for row in rows if row["time"] == last]
    return newest
