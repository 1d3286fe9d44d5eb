"""
A small folder of training data: names and URLs that can be told apart, from sources of all sorts.

Four in five of the fraud carry a lure and a cheap suffix; the harmless have neither.  There are
sources that may train and such that may not, months on all sides of the split, two DGA families,
shared hosting and popular names.
"""

import csv
import gzip
import random
from pathlib import Path

HEADER = ("label", "category", "source", "first_seen")
LURES = ["login", "secure", "verify", "wallet", "bonus", "account"]
WORDS = [
    "garden",
    "music",
    "school",
    "river",
    "kitchen",
    "bicycle",
    "library",
    "museum",
    "harbour",
    "meadow",
]
BAD_SOURCES = ("openphish", "scamsniffer", "gsb-inversion")
GOOD_SOURCES = ("smallweb", "umbrella", "dnsmasq-china-list", "deepurlbench-benign")
MONTHS = ("2022-11", "2023-06", "2024-02", "2025-01", "2025-05", "2025-07", "2025-08", "2025-10")


def _word(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghijklmnoprstuvz", k=rng.randint(5, 9)))


def _fraud(rng: random.Random) -> str:
    if rng.random() < 0.2:
        return f"{_word(rng)}{rng.choice(WORDS)}.com"
    end = rng.choice(["top", "xyz", "click", "pages.dev"])
    return f"{rng.choice(LURES)}-{_word(rng)}{rng.randint(0, 99)}.{end}"


def _harmless(rng: random.Random) -> str:
    end = rng.choice(["com", "org", "de", "com.cn", "gov.uk", "edu", "github.io"])
    return f"{_word(rng)}{rng.choice(WORDS)}.{end}"


def names(count: int, seed: int = 1) -> list[tuple[str, int, str, str, str]]:
    """Rows of names, without a name twice."""
    rng = random.Random(seed)
    found: dict[str, tuple[str, int, str, str, str]] = {}
    while len(found) < count:
        day = f"{rng.choice(MONTHS)}-{rng.randint(1, 28):02}"
        if rng.random() < 0.04:
            name, family = f"{_word(rng)}{_word(rng)}.biz", rng.choice(["conficker", "matsnu"])
            row = (name, 1, "dga", f"dga-{family}", "2025-09-28")
        elif rng.random() < 0.5:
            row = (_fraud(rng), 1, "phishing", rng.choice(BAD_SOURCES), day)
        else:
            row = (_harmless(rng), 0, "web", rng.choice(GOOD_SOURCES), "2026-01-01")
        found[row[0]] = row
    return list(found.values())


def urls(count: int, seed: int = 2) -> list[tuple[str, int, str, str, str]]:
    """Rows of URLs, without a scheme."""
    rng = random.Random(seed)
    made = []
    for name, label, category, source, day in names(count, seed):
        path = f"{rng.choice(LURES)}.php?id={rng.randint(1, 999)}" if label else rng.choice(WORDS)
        made.append((f"{name}/{path}", label, category, source, day))
    return made


def write(folder: Path, count: int = 1600) -> Path:
    """Write the files that ``urlguard train`` reads; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    table(folder / "train_domains.csv.gz", "domain", names(count))
    table(folder / "train_urls.csv.gz", "url", urls(count))
    rng = random.Random(3)
    with gzip.open(folder / "popular_fqdns.csv.gz", "wt", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["rank", "fqdn"])
        writer.writerows((rank, _harmless(rng)) for rank in range(1, 101))
    return folder


def table(path: Path, column: str, rows: list[tuple[str, int, str, str, str]]) -> Path:
    """Write one CSV file, gzip if its name says so."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([column, *HEADER])
        writer.writerows(rows)
    return path
