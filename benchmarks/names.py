"""
What do the vocabulary's functions cost: canonical names, owners, canonical URLs, the feeds' gate?

    python -m benchmarks.names

Prints µs per name or URL, the best of five passes in one thread, beside tldextract as the naive
rival, and ms to load.  Uses the project's collected data if they lie beside the repository, else
the packaged lists.  Each pass counts its results, and the counts must equal those of an independent
computation, so that nothing is fast by doing nothing.
"""

import csv
import gzip
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from urlguard import names, urls, wellknown
from urlguard.errors import InputError

SHARED = Path(__file__).parents[2] / "shared" / "data"
COUNT = 200_000


def main() -> None:
    """Measure and print; fails if a count is off."""
    if SHARED.is_dir():
        # Every fifth of the sorted list, so that all of the alphabet is there.
        hosts = list(column(SHARED / "blocklist_1m.csv.gz", 5))[:COUNT]
        links = list(column(SHARED / "train_urls.csv.gz", 10))
        data = "collected data"
    else:
        hosts = list(column(wellknown.starter_path(), 1))
        links = [f"{host}/login/index.php?id={n}" for n, host in enumerate(hosts)]
        data = "shipped lists"
    print(f"{len(hosts)} names, {len(links)} URLs, from {data}; Python {sys.version.split()[0]}")

    imports = "import tldextract; tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)('a.b')"
    ours = "from urlguard import names; names.registrable('a.b')"
    bare = process_ms("pass")
    print(f"{process_ms(ours) - bare:8.1f} ms  to import names and load its suffix list")
    print(f"{process_ms(imports) - bare:8.1f} ms  to import tldextract and load its suffix list")

    canonical = [host for host in hosts if ok(names.canonical, host)]
    shouted = [f" {host.upper()}. " for host in canonical]
    report("canonical, already so", canonical, lambda n: names.canonical(n) is n, len(canonical))
    report("canonical, upper case", shouted, lambda n: names.canonical(n) != n, len(shouted))

    import tldextract

    rival = tldextract.TLDExtract(
        suffix_list_urls=(), cache_dir=None, include_psl_private_domains=True
    )
    owners = sum(bool(rival(name).top_domain_under_public_suffix) for name in canonical)
    # Where tldextract finds no suffix at all, the default rule finds an owner.
    unlisted = sum("." in name and not rival(name).suffix for name in canonical)
    report("registrable", canonical, lambda n: names.registrable(n) is not None, owners + unlisted)
    report("tldextract", canonical, lambda n: bool(rival(n).top_domain_under_public_suffix), owners)

    # Real lists bring hardly anything to hold, so add what must be.
    offered = canonical + sorted(wellknown.protected())
    held = len(wellknown.protected()) + sum(n in wellknown.quarantine_values() for n in canonical)
    report(
        "quarantine_reason, subtree",
        offered,
        lambda n: wellknown.quarantine_reason("subtree", n) is not None,
        held,
    )

    good = [link for link in links if ok(urls.parse, link)]
    # Every collected URL has a path and none a scheme: its expression begins with its host.
    report("urls.parse", good, lambda u: urls.parse(u).path[0] == "/", len(good))
    report(
        "urls.parse and expressions",
        good,
        lambda u: urls.expressions(urls.parse(u))[-1][-1] == "/",
        len(good),
    )
    print(f"{len(links) - len(good)} of {len(links)} URLs and ", end="")
    print(f"{len(hosts) - len(canonical)} of {len(hosts)} names were refused")


def column(path: Path, step: int) -> Iterable[str]:
    """The first column of every `step`-th row."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from (row[0] for row in itertools.islice(csv.reader(file), 1, None, step))


def ok(function: Callable[[str], object], text: str) -> bool:
    """True if `function` takes the text."""
    try:
        function(text)
    except InputError:
        return False
    return True


def report(title: str, items: list[str], hit: Callable[[str], bool], expected: int) -> None:
    """Print µs for one item, after checking that `hit` was true for as many as expected."""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        count = sum(map(hit, items))
        best = min(best, time.perf_counter() - start)
        if count != expected:
            raise SystemExit(f"{title}: {count} hits of {len(items)}; must be {expected}")
    print(f"{best / len(items) * 1e6:8.2f} µs  {title} ({count} of {len(items)})")


def process_ms(code: str) -> float:
    """Milliseconds of a fresh interpreter that runs `code`, the best of three."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        best = min(best, time.perf_counter() - start)
    return best * 1e3


if __name__ == "__main__":
    main()
