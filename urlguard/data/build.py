"""
Make the shipped lists and their README from the project's collected data.

    python -m urlguard.data.build ../shared/data
    python -m urlguard.data.build brands ../shared/data
    python -m urlguard.data.build confusables confusables.json

The second counts which disguises of brands the names of popular sites contain, and rewrites the end
of ``brands.txt``.  The third makes ``confusables.txt`` from the file of that name in the package
confusable-homoglyphs 3.3.1, which carries Unicode's pairs.

Run by hand when the data change, never at run time.  The same data give the same bytes on the same
zlib.  Takes names only from sources whose licence permits anyone to redistribute them and is stated
for the data itself; the ranking of names that nobody but us licences orders them and adds none.
"""

import csv
import gzip
import io
import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from urlguard import names, wellknown
from urlguard.classify.brands import NOISE, Brands, Spelling, is_bounded, read
from urlguard.classify.confusables import folded
from urlguard.errors import InputError

HERE = Path(__file__).parent
STARTER_SIZE = 30_000

# Sources by their name in the data.  Left out: none stated, NC, SA and GPL, and lists of others in
# a collection that is itself under MIT, where the licence covers the collecting.
BAD_SOURCES = (
    "blocklistproject",
    "chongluadao",
    "discord-phishing-links",
    "durablenapkin",
    "gaso",
    "iam-py-test",
    "maltrail",
    "phishing.database-2023",
    "phishing.database-new",
    "polkadot",
    "urlhaus",
)
GOOD_SOURCES = (
    "ada-kasztp",
    "chinese-blogs",
    "dnsmasq-china-list",
    "dotgov",
    "jdm",
    "public-apis",
    "smallweb",
    "twofactorauth",
    "university-domains",
    "v2fly",
)

# Dates of import, not of first sight, by the data's README: such rows may be of any age.
UNDATED_SOURCES = ("blocklistproject", "maltrail")
IMPORT_DAYS = ("2023-01-12", "2025-06-14", "2025-12-22")


class Source(NamedTuple):
    """One row of the table of sources in the data's README."""

    name: str
    repository: str
    newest: str
    licence: str


def main(argv: list[str]) -> int:
    """Write the files beside this one; the argument is the folder of the data, or see above."""
    if len(argv) == 2 and argv[0] in ("brands", "confusables"):
        return build_brands(Path(argv[1])) if argv[0] == "brands" else build_signs(Path(argv[1]))
    if len(argv) != 1:
        print("usage: python -m urlguard.data.build FOLDER", file=sys.stderr)
        return 2
    folder = Path(argv[0])
    sources = {source.name: source for source in read_sources(folder / "README.md")}

    bad: list[dict[str, str]] = []
    good_owners: dict[str, str] = {}  # registrable -> the source that it was first seen in
    for row in rows(folder / "train_domains.csv.gz"):
        if row["label"] == "1" and row["source"] in BAD_SOURCES:
            bad.append(row)
        elif row["label"] == "0" and row["source"] in GOOD_SOURCES:
            add_owner(good_owners, row["domain"], row["source"])
    for row in rows(folder / "train_urls.csv.gz"):
        if row["label"] == "0" and row["source"] in GOOD_SOURCES:
            add_owner(good_owners, row["url"].partition("/")[0].partition("?")[0], row["source"])

    ranking = [row["domain"] for row in rows(folder / "popular_domains.csv.gz")]
    ranked = [name for name in ranking if name in good_owners]
    write(HERE / "popular.txt.gz", "".join(f"{name}\n" for name in ranked))

    # Nothing that the gate for feeds would hold back may come in through the starter list; the gate
    # reads the table just written, as nothing here asked it before.
    famous = set(ranking)
    usable = [row for row in bad if is_usable(row["domain"], famous)]
    usable.sort(key=lambda row: row["domain"])
    usable.sort(key=lambda row: (is_dated(row), row["first_seen"]), reverse=True)
    starter = sorted(usable[:STARTER_SIZE], key=lambda row: row["domain"])
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(("domain", "category"))
    table.writerows((row["domain"], row["category"]) for row in starter)
    write(HERE / "starter.txt.gz", out.getvalue())

    readme = describe(sources, starter, ranked, good_owners, len(ranking))
    (HERE / "README.md").write_text(readme, "utf-8")
    print(f"starter {len(starter)} of {len(usable)}, popular {len(ranked)} of {len(ranking)}")
    return 0


def build_brands(folder: Path) -> int:
    """
    Rewrite the noise at the end of ``brands.txt``.

    A variant that is a whole token in the names of two popular owners is dropped: it is a word, or
    a name of its own.  (With one owner it is as often a disguise that became popular.)  One in
    letters that only stands inside somebody's popular name needs borders from now on.
    """
    path = HERE / "brands.txt"
    text = path.read_text("utf-8").partition(f"\n{NOISE}\n")[0].rstrip("\n")
    listed, _ = read(text)
    brands = Brands(listed)
    popular = [row["domain"] for row in rows(folder / "popular_domains.csv.gz")]
    popular += [row["fqdn"] for row in rows(folder / "popular_fqdns.csv.gz")]
    whole: dict[str, set[str | None]] = {}  # variant -> the owners who have it as a token
    inside: set[str] = set()
    for name in popular:
        for hit in brands.find(name):
            variant = name[hit.start : hit.end]
            # What is found across hyphens or digits has no string of its own that could be dropped.
            across = hit.kind in (Spelling.HYPHEN, Spelling.DIGIT) and not variant.isdigit()
            if hit.kind == Spelling.EXACT or across or brands.own(name) == hit.brand:
                continue
            if is_bounded(name, hit.start, hit.end):
                whole.setdefault(variant, set()).add(names.registrable(name))
            elif variant.isalpha():
                inside.add(variant)
    dropped = {variant for variant, owners in whole.items() if len(owners) > 1}
    lines = [*(f"-{v}" for v in sorted(dropped)), *(f"~{v}" for v in sorted(inside - dropped))]
    path.write_text(f"{text}\n\n{NOISE}\n" + "".join(f"{line}\n" for line in lines), "utf-8")
    print(f"brands {len(brands)}, words {brands.words}, noise {len(lines)}")
    return 0


# Shapes that UTS 39 keeps apart from the letter which they are the small capital of, although
# Cyrillic letters look like them and, in a name, like that letter.
SMALL_CAPITALS = dict(zip("ʙɢʜɪᴊĸᴋʟʍᴍɴᴘʀꜱᴛᴠᴡʏᴢꞯ", "bghijkklmmnprstvwyzq", strict=True))
# Signs that those who register look-alikes use and for which UTS 39 has another prototype.
ALIKE = dict(zip("пгиωηκτχвнкмтӏєεβз", "nruwnktxbhkmtleeb3", strict=True))
SIGNS_HEAD = """\
# Signs that look like ASCII letters and digits: what they look like, a tab, the signs.
#
# From the pairs of Unicode's confusables.txt (UTS 39) as the Python package confusable-homoglyphs
# 3.3.1 carries them.  It states no version of Unicode; its table of scripts is that of version 15.
# Small capitals count as their letter, and a few Cyrillic and Greek letters were added, in
# urlguard/data/build.py.  Left out: what compatibility decomposition and lower case make ASCII, and
# East Asian scripts.
# The pairs are copyright Unicode, Inc.; for terms of use and licence see
# https://www.unicode.org/terms_of_use.html.  Changed as said above.
"""


def build_signs(path: Path) -> int:
    """Write ``confusables.txt`` from confusable-homoglyphs' ``confusables.json``."""
    pairs = json.loads(path.read_text("utf-8"))
    alike: dict[str, str] = {}
    for sign, others in pairs.items():
        # Capitals look like other letters than their small ones do, and no name has them.
        if len(sign) != 1 or sign.isascii() or folded(sign) != sign or is_east_asian(sign):
            continue
        if not sign.isalpha() and not sign.isdecimal():
            continue
        shapes = {SMALL_CAPITALS.get(shape, shape) for shape in (folded(o["c"]) for o in others)}
        plain = sorted(shape for shape in shapes if re.fullmatch("[a-z0-9]{1,3}", shape))
        if plain:
            # A letter before a digit: "o" for what is like "o" and "0".
            alike[sign] = max(plain, key=str.isalpha)
    alike |= SMALL_CAPITALS | ALIKE
    by_shape: dict[str, list[str]] = {}
    for sign, shape in sorted(alike.items()):
        by_shape.setdefault(shape, []).append(sign)
    lines = [f"{shape}\t{''.join(signs)}\n" for shape, signs in sorted(by_shape.items())]
    (HERE / "confusables.txt").write_text(SIGNS_HEAD + "".join(lines), "utf-8")
    print(f"confusables {len(alike)} signs for {len(by_shape)} shapes")
    return 0


def is_east_asian(sign: str) -> bool:
    """True for ideographs, kana, bopomofo and hangul, in which strokes are not letters."""
    name = unicodedata.name(sign, "")
    return name.startswith(("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC"))


def rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a gzip CSV."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def read_sources(path: Path) -> Iterator[Source]:
    """The table of sources in the data's README."""
    for line in path.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8 and cells[1] in ("bad", "good"):
            yield Source(cells[0], cells[2], cells[3], cells[4])


def owner_of(domain: str) -> str | None:
    """The registrable domain of a name as the data write it."""
    try:
        return names.registrable(names.canonical(domain))
    except InputError:
        return None


def add_owner(owners: dict[str, str], host: str, source: str) -> None:
    """Note the owner of a host, unless an earlier source had it."""
    owner = owner_of(host)
    if owner is not None:
        owners.setdefault(owner, source)


def is_dated(row: dict[str, str]) -> bool:
    """True if the day of a row is the day on which its list got it."""
    return row["source"] not in UNDATED_SOURCES and row["first_seen"] not in IMPORT_DAYS


def is_usable(domain: str, famous: set[str]) -> bool:
    """True for a canonical name with an owner who is not in the ranking and not held back."""
    owner = owner_of(domain)
    return (
        owner is not None
        and names.canonical(domain) == domain
        and owner not in famous
        and wellknown.quarantine_reason("subtree", domain, len(famous)) is None
    )


def write(path: Path, text: str) -> None:
    """Write gzip without time and file name, so that the same text gives the same bytes."""
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def describe(
    sources: dict[str, Source],
    starter: list[dict[str, str]],
    ranked: list[str],
    good_owners: dict[str, str],
    ranking: int,
) -> str:
    """The README of this folder."""
    seen = [row["first_seen"] for row in starter]
    by_category = Counter(row["category"] for row in starter)
    categories = ", ".join(f"{name} {count}" for name, count in by_category.most_common())
    by_bad = Counter(row["source"] for row in starter)
    by_good = Counter(good_owners[name] for name in ranked)
    used = [sources[name].newest for name in (*by_bad, *by_good)]
    copied = max(date for text in used for date in re.findall(r"\d{4}-\d\d-\d\d", text))
    return f"""\
# Shipped data

Made by `python -m urlguard.data.build ../shared/data`, except `protected.txt`, which is written by
hand.  `urlguard/wellknown.py` reads the files.  A test holds the counts below against them.  What
the classifier knows beforehand, `brands.txt` and `confusables.txt`, is described at the end.

| file | entries | what it is |
| --- | --- | --- |
| `starter.txt.gz` | {len(starter)} | fraud names for a first start, CSV `domain,category`, sorted |
| `popular.txt.gz` | {len(ranked)} | popular registrable domains, the most popular first |
| `protected.txt` | {len(wellknown.protected())} | names that no feed may block |

The newest of the sources was copied on {copied}.  Each source's copyright stays with the authors of
its repository, where the text of its licence stands.

## starter.txt.gz

Categories: {categories}.
First seen from {min(seen)} to {max(seen)}: the newest {len(starter)} names of the sources below,
rows that carry only a day of import last.  Names whose owner is in the popularity ranking, public
suffixes, and everything that a feed may not block are left out.  It is a sample to start with and
ages like any list: configure feeds.

{licences(by_bad, sources)}
## popular.txt.gz

The names come from the sources below, matched by registrable domain; a ranking of {ranking}
domains, from Cisco Umbrella and Cloudflare Radar as public repositories carry them, only orders
them, and its positions are not shipped.  So ranks are positions in this list, and well-known names
are missing from it; the best-known ones stand in `protected.txt`.

{licences(by_good, sources)}
## protected.txt

Written for UrlGuard, under its licence.

## brands.txt

Written for UrlGuard, under its licence; its head explains the format.  The section of noise at its
end is made by `python -m urlguard.data.build brands ../shared/data`: strings that the ranking above
contains in two owners' names or inside a longer word.  `urlguard/classify/brands.py` reads it.

## confusables.txt

Made by `python -m urlguard.data.build confusables FILE` from `confusables.json` of the Python
package confusable-homoglyphs 3.3.1 (MIT), which carries Unicode's data; its head names Unicode's
terms.  `urlguard/classify/confusables.py` reads it.
"""


def licences(counts: "Counter[str]", sources: dict[str, Source]) -> str:
    """A table of the sources that names were taken from."""
    lines = ["| source | repository | names | newest copy | licence |", "| --- " * 5 + "|"]
    for name, count in counts.most_common():
        source = sources[name]
        lines.append(
            f"| {name} | {source.repository} | {count} | {source.newest} | {source.licence} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
