"""
Tell the format of a list from its first lines.

Each line votes for every format in which it makes sense; more than half of the lines must agree.
A format whose lines could be another's too (AdGuard's lists have plain names, hosts lines and
filters) only stands for election if some line can be nothing else.
"""

import re
from collections.abc import Sequence

from urlguard.errors import FeedError
from urlguard.feeds import csvfile
from urlguard.feeds.parsed import is_address, shown, without_comment

SAMPLE = 200  # lines that say something

_comment = re.compile(r"#(?![#@?$%])|!|;|//|\Z")
_adblock_header = re.compile(r"\[(?:adblock|adguard|ublock)", re.I)
_adblock = re.compile(r"\|\||@@|.*#[@?$%]{0,3}#")
_dnsmasq = re.compile(r"(?:--)?(?:address|local|server|ipset|nftset)=/")
_dnsmasq_other = re.compile(r"(?:--)?[a-z]+(?:-[a-z]+)*=|bogus-priv\Z|domain-needed\Z|no-resolv\Z")
_rpz_sure = re.compile(
    r"\$(?:ORIGIN|TTL)\s|(?:\S+)?\s+(?:[0-9]+[smhdw]?\s+|IN\s+){0,2}(?:SOA|CNAME)\s+\S", re.I
)
_rpz = re.compile(r"(?:\S+)?\s+(?:[0-9]+[smhdw]?\s+|IN\s+){0,2}(?:NS|A|AAAA|TXT|MX)\s+\S", re.I)
_url = re.compile(r"[a-z][a-z0-9+.-]*://\S+\Z", re.I)
_name = re.compile(r"(?:\*\.|\.)?[^\s/,;:|^$#=<>{}\"()]+\.[^\s/,;:|^$#=<>{}\"().]+\.?\Z")


def detect(lines: Sequence[str], where: str) -> str:
    """
    The format of a list.

    Args:
        lines: from the list's beginning, comments too, since some have their header there.
        where: begins the message of an error.

    Returns:
        A value of the configuration's ``format``; "domains" for a list without any lines.

    Raises:
        FeedError: no format fits more than half of the lines.
    """
    votes = dict.fromkeys(("rpz", "dnsmasq", "csv", "hosts", "adblock", "urls", "domains"), 0)
    sure = dict.fromkeys(votes, 0)
    csv_width, csv_mark = _csv_shape(lines)
    said: list[str] = []
    for raw in lines:
        line = raw.rstrip()
        if _adblock_header.match(line):
            sure["adblock"] += 1
            continue
        if _comment.match(line):
            continue
        if len(said) == SAMPLE:
            break
        said.append(line)
        _vote(line, votes, sure)
        # Quoted cells may hold the delimiter, so that more of them are no contradiction.
        if csv_width and line.count(csv_mark) + 1 >= csv_width:
            votes["csv"] += 1
    if not said:
        return "adblock" if sure["adblock"] else "domains"
    for name in ("adblock", "rpz", "dnsmasq"):
        if not sure[name]:
            votes[name] = 0
    # A tie between the last two is decided by what most lines are.
    votes["urls" if sure["urls"] < sure["domains"] else "domains"] = 0
    best = max(votes, key=votes.__getitem__)
    if votes[best] * 2 <= len(said):
        fits = f"{best} fits {votes[best]}" if votes[best] else "no format fits any"
        raise FeedError(
            f"{where}: format not recognised: of the first {len(said)} lines {fits}, more than "
            f"half is needed; the first is {shown(said[0])}"
        )
    return best


def _vote(line: str, votes: dict[str, int], sure: dict[str, int]) -> None:
    text = without_comment(line)
    words = text.split()
    name = _name.match(text) is not None and not is_address(text)
    hosts = len(words) > 1 and is_address(words[0].partition("%")[0])
    url = _url.match(text) is not None
    filtered = _adblock.match(line) is not None
    dnsmasq = _dnsmasq.match(text) is not None
    zone = _rpz_sure.match(line) is not None
    sure["adblock"] += filtered
    sure["dnsmasq"] += dnsmasq
    sure["rpz"] += zone
    sure["urls"] += url
    sure["domains"] += name
    votes["adblock"] += filtered or name or hosts
    votes["dnsmasq"] += dnsmasq or _dnsmasq_other.match(text) is not None
    votes["rpz"] += zone or _rpz.match(line) is not None
    votes["hosts"] += hosts
    votes["urls"] += url or name
    # An address in a list of names is no name, but nothing strange either.
    votes["domains"] += name or url or is_address(text)


def _csv_shape(lines: Sequence[str]) -> tuple[int, str]:
    """Number of cells and delimiter, if the list has a header that we know or rows of names."""
    commented = 0, ""
    for line in lines:
        if not line.strip():
            continue
        found = csvfile.header(line)
        mark = csvfile.delimiter(line)
        if found and len(found) > 1:
            if not line.startswith("#"):
                return len(found), mark
            commented = len(found), mark
        elif not line.startswith(("#", "!", ";")):
            if commented[0]:
                return commented
            # Without a header only names are taken for cells: the comma may be part of a URL.
            row = line.split(mark)
            plain = [cell for cell in row if csvfile.is_value(cell) and "://" not in cell]
            return (len(row), mark) if len(row) > 1 and plain and "://" not in row[0] else (0, "")
    return commented
