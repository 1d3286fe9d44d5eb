"""Popularity, names that no feed may block, the starter list, and the README that counts them."""

import csv
import gzip
import re
from pathlib import Path

import pytest

from urlguard import names, wellknown
from urlguard.data import build

DATA = Path(build.__file__).parent


def starter_rows():
    with gzip.open(wellknown.starter_path(), "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_readme_counts_what_is_shipped():
    """
    The README's counts are those of the files.
    """
    text = (DATA / "README.md").read_text("utf-8")
    stated = {m[1]: int(m[2]) for m in re.finditer(r"^\| `(\S+)` \| (\d+) \|", text, re.M)}
    assert stated == {
        "starter.txt.gz": len(starter_rows()),
        "popular.txt.gz": len(wellknown.popular()),
        "protected.txt": len(wellknown.protected()),
    }
    # The tables of sources add up to the same.
    tables = re.split(r"^## ", text, flags=re.M)
    for title in ("starter.txt.gz", "popular.txt.gz"):
        (section,) = (t for t in tables if t.startswith(title))
        counts = re.findall(r"^\| [\w.-]+ \| [^|]+ \| (\d+) \|", section, re.M)
        assert sum(map(int, counts)) == stated[title]


def test_readme_names_only_free_licences():
    """
    Every source in the README is one that the build lists, and none is NC, GPL or unstated.
    """
    text = (DATA / "README.md").read_text("utf-8")
    found = re.findall(r"^\| ([\w.-]+) \| \S[^|]+ \| \d+ \| [^|]+ \| ([^|]+) \|$", text, re.M)
    assert len(found) > 10
    allowed = {*build.BAD_SOURCES, *build.GOOD_SOURCES}
    for source, licence in found:
        assert source in allowed
        assert re.fullmatch(r"(MIT|BSD-3-Clause|Apache-2.0|CC0|Unlicense|WTFPL|[ /])+", licence)


@pytest.mark.parametrize("name", ["starter.txt.gz", "popular.txt.gz"])
def test_shipped_lists_carry_no_time(name):
    """
    The gzip header holds neither time nor file name, so that a rebuild gives the same bytes.
    """
    header = (DATA / name).read_bytes()[:8]
    assert header[3] == 0
    assert header[4:8] == b"\0\0\0\0"


def test_starter_list_is_canonical_sorted_and_harmless():
    """
    Each starter row is a canonical name once, with a category, and none would be held back.
    """
    rows = starter_rows()
    found = [row["domain"] for row in rows]
    assert found == sorted(set(found))
    assert len(found) >= 10_000
    for row in rows:
        assert names.canonical(row["domain"]) == row["domain"]
        assert re.fullmatch(r"[a-z]+", row["category"])
        assert wellknown.popular_rank(row["domain"]) is None
        assert wellknown.quarantine_reason("subtree", row["domain"], 10**9) is None


def test_popular_names_are_owners_in_order():
    """
    The popular are canonical registrable domains, ranked from 1 without gaps.
    """
    popular = wellknown.popular()
    assert list(popular.values()) == list(range(1, len(popular) + 1))
    assert len(popular) > 1000
    assert all(names.registrable(names.canonical(name)) == name for name in popular)
    first = next(iter(popular))
    assert wellknown.popular_rank(first) == 1
    assert wellknown.popular_rank(f"a.b.{first}") == 1
    assert wellknown.popular_rank("evil.example") is None
    assert wellknown.popular_rank("example") is None


def test_protected_names_are_canonical_and_stand_once():
    """
    A slip of the pen in the hand-written list, such as a space or a doubled name, is found.
    """
    lines = (DATA / "protected.txt").read_text("utf-8").splitlines()
    found = [line for line in lines if line and not line.startswith("#")]
    assert len(found) == len(set(found)) == len(wellknown.protected())
    assert all(names.canonical(name) == name for name in found)
    assert set(wellknown._protected().values()) == {"bank", "infrastructure", "protected name"}


def ranked(rank):
    """A popular name that is not protected, of about this rank."""
    for name, place in wellknown.popular().items():
        if place >= rank and name not in wellknown.protected():
            return name, place
    raise AssertionError


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        # Public suffixes: listed, by wildcard, by the default rule.
        ("subtree", "com", "public suffix"),
        ("subtree", "co.uk", "public suffix"),
        ("below", "duckdns.org", "public suffix"),
        ("domain", "anything.ck", "public suffix"),
        ("domain", "localhost", "public suffix"),
        ("domain", "www.ck", None),
        # Protected names, and www before them.
        ("domain", "in-addr.arpa", "infrastructure"),
        ("subtree", "root-servers.net", "infrastructure"),
        ("subtree", "amazonaws.com", "infrastructure"),
        ("below", "icbc.com.cn", "bank"),
        ("domain", "www.icbc.com.cn", "bank"),
        ("subtree", "www.icbc.com.cn", "bank"),
        ("subtree", "taobao.com", "protected name"),
        # A government's bodies, and www before them; what is below them is free.
        ("subtree", "council.gov.cn", "government, gov.cn"),
        ("domain", "www.council.go.jp", "government, go.jp"),
        ("subtree", "town.gc.ca", "government, gc.ca"),
        ("subtree", "hacked.council.gov.cn", None),
        ("subtree", "gov.cn.evil.example", None),
        # What is below a protected name is free.
        ("subtree", "evil.amazonaws.com", None),
        ("domain", "icbc.com.cn.evil.example", None),
        ("subtree", "a.evil.example", None),
        # What is above one is free only for a rule about the name itself.
        ("subtree", "cdn.adguard-dns.com", None),
        ("domain", "msftncsi.com", "infrastructure"),
        ("subtree", "l.google.com", "infrastructure, below it: gmail-smtp-in.l.google.com"),
        ("below", "l.google.com", "infrastructure, below it: gmail-smtp-in.l.google.com"),
        ("domain", "l.google.com", None),
        # Patterns and URLs are not host rules.
        ("url", "google.com", None),
        ("pattern", "google.com", None),
    ],
)
def test_rules_of_feeds_are_held_back(kind, value, reason):
    """
    Suffixes and protected names are held; customers below them are not.
    """
    assert wellknown.quarantine_reason(kind, value) == reason
    endless = names.is_public_suffix(value) or (reason or "").startswith("government")
    if reason and not endless:
        assert value in wellknown.quarantine_values()


def test_popular_names_are_held_up_to_a_rank():
    """
    A popular owner and its www are held up to `top`, and free beyond it and below it.
    """
    name, rank = ranked(500)
    for value in (name, f"www.{name}"):
        assert wellknown.quarantine_reason("domain", value) == f"popular name, rank {rank}"
        assert wellknown.quarantine_reason("subtree", value, rank) == f"popular name, rank {rank}"
        assert value in wellknown.quarantine_values(rank)
        assert wellknown.quarantine_reason("subtree", value, rank - 1) is None
        assert value not in wellknown.quarantine_values(rank - 1)
    assert wellknown.quarantine_reason("subtree", f"evil.{name}") is None


def test_the_quick_answer_is_the_naive_one():
    """
    Over all that is shipped, a value is held exactly if a naive reading of the rules says so.
    """
    well = {*wellknown.protected(), *wellknown.popular()}
    well |= {f"www.{name}" for name in well}
    above = {parent for name in well for parent in names.parents(name)}
    values = {*well, *above, *(f"x.{name}" for name in well), *names.listed_suffixes()}
    values |= {row["domain"] for row in starter_rows()[::50]}
    for value in values:
        suffix = names.is_public_suffix(value)
        governed = wellknown.quarantine_reason("domain", value) or ""
        exact = suffix or value in well or governed.startswith("government")
        assert (wellknown.quarantine_reason("domain", value) is not None) is exact, value
        covering = exact or value in above
        assert (wellknown.quarantine_reason("subtree", value) is not None) is covering, value
        assert (wellknown.quarantine_reason("below", value) is not None) is covering, value
        known = value in wellknown.quarantine_values() or governed.startswith("government")
        assert not covering or known or suffix, value


def test_build_is_deterministic_on_small_data(tmp_path, monkeypatch):
    """
    From the same rows come the same bytes; licences, popularity and age decide what is taken.
    """
    tables = {
        "train_domains.csv.gz": (
            "domain,label,category,source,first_seen\n"
            "old.test,1,phishing,gaso,2025-01-01\n"
            "new.test,1,scam,gaso,2025-02-01\n"
            "undated.test,1,malware,maltrail,2025-12-31\n"
            "gpl.test,1,scam,scamsniffer,2025-02-01\n"
            "famous.test,1,scam,gaso,2025-02-01\n"
            "com,1,scam,gaso,2025-02-01\n"
            "www.good.test,0,popular,v2fly,2026-01-01\n"
            "nc.test,0,popular,disconnect,2026-01-01\n"
        ),
        "train_urls.csv.gz": (
            "url,label,category,source,first_seen\ntop.test/x?y,0,popular,jdm,2026-01-01\n"
        ),
        "popular_domains.csv.gz": (
            "rank,domain,umbrella_rank,cloudflare_bucket\n"
            "1,nc.test,1,1\n2,top.test,2,2\n3,famous.test,3,3\n4,good.test,4,4\n"
        ),
    }
    for name, text in tables.items():
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    (tmp_path / "README.md").write_text(
        "".join(
            f"| {name} | {side} | someone/{name} | 2026-01-0{day} | MIT | x | 1 | 1 |\n"
            for day, (name, side) in enumerate(
                [("gaso", "bad"), ("maltrail", "bad"), ("v2fly", "good"), ("jdm", "good")], 1
            )
        )
    )
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(build, "HERE", out)
    monkeypatch.setattr(build, "STARTER_SIZE", 2)
    assert build.main([str(tmp_path)]) == 0
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert build.main([str(tmp_path)]) == 0
    assert first == {path.name: path.read_bytes() for path in out.iterdir()}
    assert gzip.decompress(first["popular.txt.gz"]) == b"top.test\ngood.test\n"
    assert gzip.decompress(first["starter.txt.gz"]) == (
        b"domain,category\nnew.test,scam\nold.test,phishing\n"
    )
    assert "copied on 2026-01-04" in first["README.md"].decode()
