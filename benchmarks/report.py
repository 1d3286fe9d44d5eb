"""
What did the latest recorded runs measure?

    python -m benchmarks.report            print the tables, in Markdown
    python -m benchmarks.report --write    put them into docs/benchmarks.md

Reads ``benchmarks/record`` and measures nothing.
"""

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import results

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- tables: made by `python -m benchmarks.report --write` -->", "<!-- end -->"

LOADS = ("repeated", "blocked", "mix", "new")


def resolvers(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each server: µs of CPU a query by load, then the rest."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["server"], {})[row["case"]] = row
    head = ["CPU µs a query", *LOADS, "start, s", "PSS, MiB", "PSS loaded", "RSS loaded"]
    cpu, rates = [head], [["queries a second", *LOADS, "lost, at most"]]
    for server, cases in found.items():
        start = cases.get("start", {})
        title = " ".join([server, start.get("version", "").strip("-")]).strip()
        last = next((cases[name] for name in reversed(LOADS) if name in cases), {})
        memory = [_number(start, "pss_mib", 0), _number(last, "pss_mib", 0)]
        line = [title, *(_number(cases.get(name), "cpu_us", 1) for name in LOADS)]
        cpu.append([*line, _number(start, "seconds", 1), *memory, _number(last, "rss_mib", 0)])
        lost = max((float(row["loss_pct"]) for name, row in cases.items() if name in LOADS))
        rate = (_number(cases.get(name), "per_s", 0) for name in LOADS)
        rates.append([title, *rate, f"{lost:.2f} %"])
    others = [float(row["others_pct"]) for row in rows if row.get("others_pct")]
    quiet = f"Other programs took up to {max(others, default=0):.0f} % of the CPUs meanwhile."
    return f"{_table(cpu)}\n\n{_table(rates)}\n\n{quiet}"


def policy(rows: Iterable[Mapping[str, Any]]) -> str:
    """A line for each measure."""
    lines = [["measure", "rules", "median", "range or p99", "times", "others, %"]]
    for row in rows:
        if row.get("disk_mib"):
            median, more = f"{float(row['disk_mib']):.1f} MiB", ""
        elif row.get("per_s"):
            median, more = f"{int(row['per_s']):,} a second", ""
        else:
            median = _time(row["seconds"])
            more = f"{_time(row['seconds_low'])} to {_time(row['seconds_high'])}"
            if row.get("seconds_p99"):
                more = f"p99 {_time(row['seconds_p99'])}"
        lines.append([row["case"], f"{int(row['rules']):,}", median, more])
        lines[-1] += [str(row["rounds"]), _number(row, "others_pct", 0)]
    return _table(lines)


def under_load(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each case, with what clients noticed and whether that is good enough."""
    lines = [["case", "a second", "unanswered", "median", "p99", "p99.9", "longest", "passed"]]
    for row in rows:
        times = [_brief(row, key) for key in ("", "_p99", "_p999", "_high")]
        lost = _number(row, "loss_pct", 3)
        lost += " %" if lost != "–" else ""
        lines.append([row["case"], _number(row, "per_s", 0), lost, *times])
        lines[-1].append(row.get("passed") or "–")
    others = [float(row["others_pct"]) for row in rows if row.get("others_pct")]
    if not others:
        return _table(lines)
    quiet = f"Other programs took up to {max(others):.0f} % of the CPUs meanwhile."
    return f"{_table(lines)}\n\n{quiet}"


def classify(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each classifier: what it finds, and how many times that ours finds."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    cases: dict[str, None] = {}
    for row in rows:
        case = row["case"].partition(": ")[2]
        found.setdefault(row["server"], {})[case] = row
        cases[case] = None
    lines = [["classifier", *(_headed(case) for case in cases), "s"]]
    for name, here in found.items():
        cells = [_figure(case, here.get(case)) for case in cases]
        lines.append([name, *cells, _number(next(iter(here.values())), "seconds", 0)])
    words = "In brackets 95 % over draws of owners, who are the same for all classifiers."
    return f"{_table(lines)}\n\n{words}"


def scoring(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each figure of `benchmarks.scoring`, in words."""
    lines = [["what", "figure"]]
    for row in rows:
        if row.get("rss_mib"):
            lines.append(["memory of both models", f"{_number(row, 'rss_mib', 1)} MiB resident"])
            lines.append(["of it the process's own", f"{_number(row, 'value', 1)} MiB"])
        elif row.get("per_s"):
            lines.append([row["case"], f"{_number(row, 'per_s', 0)} names a second"])
        else:
            what, _, _ = row["case"].partition(",")
            lines.append([f"{what}, one thread", f"{_number(row, 'value', 1)} µs a name"])
    others = [float(row["others_pct"]) for row in rows if row.get("others_pct")]
    if not others:
        return _table(lines)
    quiet = f"Other programs took up to {max(others):.0f} % of the CPUs meanwhile."
    return f"{_table(lines)}\n\n{quiet}"


def _headed(case: str) -> str:
    """A case, shortened to stand at a column's head."""
    rate, by, _ = case.partition(", ")
    return f"UrlGuard ÷ it, {rate.rpartition('FPR ')[2]}" if by else rate


def _figure(case: str, row: Mapping[str, Any] | None) -> str:
    if row is None or row["value"] in ("", "nan"):
        return "–"
    value = float(row["value"])
    per_cent = case.startswith("TPR") and ", " not in case
    digits = 4 if case == "ROC-AUC" else 2

    def shown(number: float) -> str:
        return f"{number:.2%}".replace("%", " %") if per_cent else f"{number:.{digits}f}"

    if not row.get("value_low"):
        return f"{value:.4f}"
    return f"{shown(value)} [{shown(float(row['value_low']))}, {shown(float(row['value_high']))}]"


def verdict(rows: Iterable[Mapping[str, Any]]) -> None:
    """End the program with an error if a row with a target missed it."""
    missed = [row["case"] for row in rows if row.get("passed") == "no"]
    if missed:
        raise SystemExit(f"missed the target: {'; '.join(missed)}")


def _brief(row: Mapping[str, Any], kind: str) -> str:
    """A time that may be a part of a millisecond."""
    if row.get(f"seconds{kind}") in (None, ""):
        return "–"
    ms = float(row[f"seconds{kind}"]) * 1000
    return f"{ms:,.1f} ms" if ms < 100 else f"{ms:,.0f} ms"


def _time(seconds: Any) -> str:
    value = float(seconds)
    return f"{value:.1f} s" if value >= 10 else f"{value * 1000:,.0f} ms"


def _number(row: Mapping[str, Any] | None, key: str, digits: int) -> str:
    if not row or row.get(key) in (None, ""):
        return "–"
    return f"{float(row[key]):,.{digits}f}"


def _table(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned in plain text as well."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
        return f"| {' | '.join(padded)} |"

    ruler = [f"{'-' * widths[0]}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return "\n".join([line(lines[0]), line(ruler), *map(line, lines[1:])])


def tables(record: Path = results.RECORD) -> str:
    """Everything that the latest runs measured, each with where and when."""
    parts = []
    shown = [("resolvers", resolvers), ("policy", policy)]
    shown += [(name, under_load) for name in ("changes", "failover", "flood")]
    shown += [(name, under_load) for name in ("api", "candidates", "racing", "messages")]
    for benchmark, show in shown:
        rows = results.latest(benchmark, record)
        if not rows:
            parts.append(f"No run of `benchmarks.{benchmark}` is recorded.")
            continue
        about = rows[0]
        most = max(int(row["rules"] or 0) for row in rows)
        rules = f", {most:,} rules" if most else ""
        rounds = max(int(row["rounds"] or 1) for row in rows)
        times = f", medians of {rounds} rounds" if benchmark == "resolvers" else ""
        parts.append(
            f"`benchmarks.{benchmark}`, {about['time']}, commit {about['commit']}, {about['cpu']},"
            f" {about['cores']} cores, Python {about['python']}{rules}{times}:"
        )
        parts.append(show(rows))
    if rows := results.latest("scoring", record):
        about = rows[0]
        parts.append(
            f"`benchmarks.scoring`, {about['time']}, commit {about['commit']}, {about['cpu']}, "
            f"{about['cores']} cores, Python {about['python']}:"
        )
        parts.append(scoring(rows))
    else:
        parts.append("No run of `benchmarks.scoring` is recorded.")
    for kind in ("name", "url"):
        rows = results.latest("classify", record, f"{kind}: ")
        if not rows:
            parts.append(f"No run of `benchmarks.classify` for {kind}s is recorded.")
            continue
        about = rows[0]
        parts.append(
            f"`benchmarks.classify --kind {kind}`, {about['time']}, commit {about['commit']}, "
            f"{int(about['rules']):,} rows trained on, {int(about['queries']):,} rows tested:"
        )
        parts.append(classify(rows))
    return "\n\n".join(parts)


def main() -> None:
    """Print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report")
    parser.add_argument("--write", action="store_true", help="put them into docs/benchmarks.md")
    if not parser.parse_args().write:
        print(tables())
        return
    text = PAGE.read_text(encoding="utf-8")
    between = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.S)
    if not between.search(text):
        raise SystemExit(f"docs/{PAGE.name}: no place for the tables; must have {BEGIN}")
    made = f"{BEGIN}\n\n{tables()}\n\n{END}"
    PAGE.write_text(between.sub(lambda _: made, text), encoding="utf-8")


if __name__ == "__main__":
    main()
