"""
The vocabulary of a scenario: durations, records, questions; and the error for a wrong one.
"""

import re
from typing import NamedTuple

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype

_UNITS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class ScenarioError(Exception):
    """The scenario says what no scenario may say."""


def duration(text: str, where: str) -> float:
    """Seconds in a text such as ``1h30m``, ``29s`` or ``1800ms``."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[dhms])", text.replace(" ", ""))
    if not parts or "".join(n + u for n, u in parts) != text.replace(" ", ""):
        raise ScenarioError(f"{where} = {text!r}; must be a duration such as 1h30m, 29s or 1800ms")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


Record = tuple[dns.name.Name, int, dns.rdata.Rdata]


def record(text: str, where: str) -> Record:
    """A record written as owner, TTL, type and data."""
    parts = text.split(None, 3)
    if len(parts) < 4 or not parts[0].endswith(".") or not parts[1].isdigit():
        raise ScenarioError(
            f"{where}: record {text!r}; must be an owner with a final dot, a TTL, a type, data"
        )
    owner, ttl, rtype, data = parts
    return dns.name.from_text(owner), int(ttl), rdata(rtype, data, f"{where}: record {text!r}")


def records(text: str, where: str) -> list[Record]:
    """Records, one a line; ``;`` begins a comment."""
    lines = [line.partition(" ;")[0].strip() for line in text.splitlines()]
    return [record(line, where) for line in lines if line and not line.startswith(";")]


def rdata(rtype: str, data: str, where: str) -> dns.rdata.Rdata:
    """A record's data, names in it with a final dot."""
    try:
        return dns.rdata.from_text("IN", rtype, data, relativize=False)
    except (dns.exception.DNSException, ValueError) as exc:
        raise ScenarioError(f"{where}: {exc}") from exc


class Expected(NamedTuple):
    """A record that an answer must have; ``ttl`` None: any."""

    owner: str
    ttl: int | None
    rtype: str
    data: str

    def __str__(self) -> str:
        return f"{self.owner} {'any' if self.ttl is None else self.ttl} {self.rtype} {self.data}"


def expected(text: str, qname: str, where: str) -> Expected:
    """
    A record as an expectation writes it: ``[owner] [ttl] TYPE data``.

    Without an owner it is the name that was asked, without a TTL any will do.
    """
    parts = text.split()
    owner = parts.pop(0) if parts and parts[0].endswith(".") and len(parts) > 1 else f"{qname}."
    ttl = int(parts.pop(0)) if parts and parts[0].isdigit() else None
    if len(parts) < 2:
        raise ScenarioError(f"{where}: {text!r}; must be [owner] [ttl] TYPE data")
    rtype, data = parts[0], " ".join(parts[1:])
    return Expected(owner.lower(), ttl, rtype, comparable(rdata(rtype, data, f"{where}: {text!r}")))


def comparable(found: dns.rdata.Rdata) -> str:
    """A record's data, names in it in lower case: servers may spell them as the question did."""
    text: str = found.to_text()
    return text if found.rdtype == dns.rdatatype.TXT else text.lower()


class Ask(NamedTuple):
    """A query, as a scenario writes it."""

    name: str
    rtype: str
    rclass: str = "IN"
    tcp: bool = False
    keepopen: bool = False
    do: bool = False
    cd: bool = False
    ad: bool = False
    rd: bool = True
    edns: int | None = 0  # its version; None: no OPT record
    bufsize: int = 1232
    cookie: str | None = None  # hexadecimal; empty: the client's own
    subnet: str | None = None
    opcode: int = 0
    qr: bool = False
    qdcount: int = 1
    option: str | None = None  # CODE:hexadecimal

    @property
    def odd(self) -> bool:
        """True if the answer need not look as an answer to a good query."""
        return bool(self.qr or self.qdcount != 1 or self.opcode or self.edns)


SWITCHES = {
    "+tcp": {"tcp": True},
    "+keepopen": {"tcp": True, "keepopen": True},
    "+do": {"do": True},
    "+cd": {"cd": True},
    "+ad": {"ad": True},
    "+norec": {"rd": False},
    "+noedns": {"edns": None},
    "+cookie": {"cookie": ""},
    "+qr": {"qr": True},
}
VALUES = {
    "+bufsize": ("bufsize", int),
    "+edns": ("edns", int),
    "+opcode": ("opcode", int),
    "+qdcount": ("qdcount", int),
    "+cookie": ("cookie", str),
    "+subnet": ("subnet", str),
    "+option": ("option", str),
}


def ask(text: str, where: str) -> Ask:
    """A query written much as for ``dig``: name, type, class if it is not IN, and +words."""
    plain = [word for word in text.split() if not word.startswith("+")]
    if len(plain) not in (2, 3):
        raise ScenarioError(f"{where}: ask = {text!r}; must be a name, a type and +words")
    found = Ask(plain[0].rstrip(".") or ".", *plain[1:])
    for word in (word for word in text.split() if word.startswith("+")):
        key, equals, value = word.partition("=")
        if not equals and word in SWITCHES:
            found = found._replace(**SWITCHES[word])
        elif equals and key in VALUES:
            name, kind = VALUES[key]
            try:
                found = found._replace(**{name: kind(value)})
            except ValueError:
                raise ScenarioError(f"{where}: ask: {word!r}; must have a number") from None
        else:
            known = ", ".join([*SWITCHES, *(f"{k}=" for k in VALUES)])
            raise ScenarioError(f"{where}: ask: unknown word {word!r}; known: {known}")
    return found
