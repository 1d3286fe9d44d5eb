"""
A small Internet for tests: zones of every kind behind one BIND, signed and unsigned, sound and not.

`KINDS` are the names that each sound zone has, with the types that are there.
"""

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.bind import Authority, need
from tests.client import Ask

COUNT = 24  # names of each kind in a zone

LONG = ".".join(["l" * 63] * 3)  # 192 octets
ESCAPED = r"b\000\255\128"  # octets that are no letters
DOTTED = r"dot\.in\.it"

# A kind's records, where $ is a number, and names and types to ask for.
KINDS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "a": ("a$ A 192.0.2.1", (("a$", "A"),)),
    "aaaa": ("aaaa$ AAAA 2001:db8::$", (("aaaa$", "AAAA"),)),
    "both": ("both$ A 192.0.2.2\nboth$ AAAA 2001:db8::2", (("both$", "A"), ("both$", "AAAA"))),
    "mx": ("mx$ MX 10 a$\nmx$ MX 20 both$", (("mx$", "MX"),)),
    "txt": ('txt$ TXT "some text $" "more"', (("txt$", "TXT"),)),
    "srv": ("_sip._tcp.srv$ SRV 1 2 5060 a$", (("_sip._tcp.srv$", "SRV"),)),
    "ptr": ("ptr$ PTR a$", (("ptr$", "PTR"),)),
    "caa": ('caa$ CAA 0 issue "ca.example"', (("caa$", "CAA"),)),
    "naptr": ('naptr$ NAPTR 1 2 "s" "SIP+D2U" "" _sip._tcp.srv$', (("naptr$", "NAPTR"),)),
    "https": (
        "https$ HTTPS 1 . alpn=h2,h3 ipv4hint=192.0.2.5 ipv6hint=2001:db8::5",
        (("https$", "HTTPS"),),
    ),
    "svcb": ("_dns.svcb$ SVCB 1 a$ alpn=dot port=853", (("_dns.svcb$", "SVCB"),)),
    "tlsa": (f"_443._tcp.tlsa$ TLSA 3 1 1 {'ab' * 32}", (("_443._tcp.tlsa$", "TLSA"),)),
    "loc": ("loc$ LOC 51 30 12.748 N 0 7 39.612 W 0.00m", (("loc$", "LOC"),)),
    "sshfp": (f"sshfp$ SSHFP 4 2 {'cd' * 32}", (("sshfp$", "SSHFP"),)),
    "hinfo": ('hinfo$ HINFO "CPU" "OS"', (("hinfo$", "HINFO"),)),
    "rp": ("rp$ RP someone.else txt$", (("rp$", "RP"),)),
    "uri": ('uri$ URI 1 2 "https://a.example/$"', (("uri$", "URI"),)),
    "unknown": (r"unknown$ TYPE65280 \# 4 01020304", (("unknown$", "TYPE65280"),)),
    "many": (
        "\n".join(f"many$ A 192.0.2.{n}" for n in range(60)),
        (("many$", "A"),),
    ),
    "big": (
        "big$ TXT " + " ".join(f'"{str(n) * 240}"' for n in range(6)),
        (("big$", "TXT"),),
    ),
    "huge": (
        "huge$ TXT " + " ".join(f'"{str(n % 10) * 250}"' for n in range(20)),
        (("huge$", "TXT"),),
    ),
    "cname": ("cname$ CNAME a$", (("cname$", "A"), ("cname$", "CNAME"))),
    "chain": (
        "chain$ CNAME chain2-$\nchain2-$ CNAME chain3-$\nchain3-$ CNAME chain4-$\n"
        "chain4-$ CNAME both$",
        (("chain$", "A"), ("chain$", "AAAA"), ("chain$", "MX")),
    ),
    "dead": ("dead$ CNAME nowhere$", (("dead$", "A"), ("dead$", "CNAME"))),
    "out": ("out$ CNAME a$.plain.example.", (("out$", "A"), ("out$", "TXT"))),
    "inside": ("inside$ CNAME both$.signed.example.", (("inside$", "A"), ("inside$", "AAAA"))),
    "dname": (
        "dn$ DNAME to$\nx.to$ A 192.0.2.7",
        (("x.dn$", "A"), ("none.dn$", "A"), ("dn$", "DNAME"), ("x.dn$", "CNAME")),
    ),
    "wild": (
        "*.wild$ A 192.0.2.8\n*.wild$ TXT wild",
        (("x.wild$", "A"), ("a.b.wild$", "TXT"), ("y.wild$", "MX"), ("wild$", "A")),
    ),
    "wildname": ("*.wildname$ CNAME a$", (("x.wildname$", "A"), ("y.wildname$", "CNAME"))),
    "ent": ("deep.under.ent$ A 192.0.2.9", (("ent$", "A"), ("under.ent$", "TXT"))),
    "zero": ("zero$ 0 A 192.0.2.10", (("zero$", "A"),)),
    "short": ("short$ 2 A 192.0.2.11", (("short$", "A"),)),
    "none": ("", (("none$", "A"), ("x.none$", "AAAA"), ("none$", "HTTPS"))),
    "below": ("", (("below.a$", "A"), ("x.below.cname$", "A"))),
    "odd": (
        f"_under_score$ A 192.0.2.12\n{ESCAPED}$ A 192.0.2.13\n{DOTTED}$ A 192.0.2.14",
        (("_under_score$", "A"), (f"{ESCAPED}$", "A"), (f"{DOTTED}$", "A"), (r"no\000$", "A")),
    ),
    "label": ("", (("x" * 61 + "$", "A"), ("x" * 61 + "$.wild$", "A"))),
    "long": (f"*.{LONG} A 192.0.2.15", ((f"n$.{LONG}", "A"), (f"{'y' * 46}.{LONG}", "A"))),
    "apex": (
        "",
        tuple(
            ("@", t) for t in ("SOA", "NS", "MX", "TXT", "A", "DNSKEY", "DS", "CAA", "NSEC3PARAM")
        ),
    ),
}
TYPES = (
    *("A", "AAAA", "CNAME", "MX", "TXT", "NS", "SOA", "PTR", "SRV", "CAA", "NAPTR", "HTTPS"),
    *("SVCB", "DS", "DNSKEY", "TLSA", "LOC", "DNAME", "NSEC", "RRSIG", "SSHFP", "HINFO"),
    *("TYPE65280", "TYPE1234", "SPF", "CDS", "URI"),
)

APEX = """$TTL 3600
@ SOA ns hostmaster 1 3600 600 86400 300
@ NS ns
@ NS ns2
ns A 192.0.2.53
ns2 A 192.0.2.54
ns2 AAAA 2001:db8::53
@ MX 10 both0
@ TXT "v=spf1 -all"
@ CAA 0 issue "ca.example"
"""
SMALL = """$TTL 3600
@ SOA ns hostmaster 1 3600 600 86400 300
@ NS ns
ns A 192.0.2.53
*.w A 192.0.2.3
www A 192.0.2.1
www AAAA 2001:db8::1
www TXT "text"
cname CNAME www
"""
SOUND = ("plain.example", "signed.example", "hashed.example")
CHILDREN = ("child.signed.example", "open.signed.example")
BOGUS = ("bogus.example", "expired.example", "broken.example", "closed.example")
SMALL_ASKS = (
    *(("www", "A"), ("www", "AAAA"), ("www", "TXT"), ("cname", "A"), ("none", "A")),
    *(("www", "MX"), ("x.w", "A"), ("@", "SOA"), ("@", "NS"), ("@", "DNSKEY"), ("@", "DS")),
)
# Names that nobody should be asked about, and signals; some have addresses in our root.
SPECIAL = (
    *("localhost", "x.localhost", "invalid", "x.invalid", "test", "x.test", "onion", "x.onion"),
    *("local", "printer.local", "alt", "x.alt", "home.arpa", "router.home.arpa", "service.arpa"),
    *("resolver.arpa", "_dns.resolver.arpa", "1.0.0.127.in-addr.arpa", "127.in-addr.arpa"),
    *("1.1.168.192.in-addr.arpa", "168.192.in-addr.arpa", "5.16.172.in-addr.arpa"),
    *("10.in-addr.arpa", "64.100.in-addr.arpa", "254.169.in-addr.arpa", "2.0.192.in-addr.arpa"),
    *("d.f.ip6.arpa", "8.e.f.ip6.arpa", "8.b.d.0.1.0.0.2.ip6.arpa", "0.in-addr.arpa"),
    *("1" + ".0" * 31 + ".ip6.arpa", "0" + ".0" * 31 + ".ip6.arpa"),
)
SIGNALS = ("use-application-dns.net", "mask.icloud.com", "dns-tunnel-check.googlezip.net")
ORDINARY = ("1.2.0.8.in-addr.arpa", "net", "nothing.at.all", "")


def zone_text(kinds: bool = True) -> str:
    """The master file of a sound zone."""
    lines = [APEX]
    for text, _ in KINDS.values() if kinds else ():
        lines += [text.replace("$", str(n)) for n in range(COUNT)] if "$" in text else [text]
    return "\n".join(lines) + "\n"


def sign(folder: Path, zone: str, text: str, *more: str) -> tuple[Path, list[str]]:
    """The signed master file of a zone, and its DS records, by BIND's own tools."""
    keygen, signzone = need("dnssec-keygen"), need("dnssec-signzone")
    plain, signed = folder / f"{zone}.plain", folder / f"{zone}.signed"
    plain.write_text(text)
    command = [keygen, "-q", "-a", "ECDSAP256SHA256", "-f", "KSK", "-K", str(folder), zone]
    subprocess.run(command, check=True, capture_output=True)
    command = [signzone, "-S", "-z", "-P", "-K", str(folder), "-d", str(folder), "-o", zone, *more]
    done = subprocess.run(
        [*command, "-f", str(signed), str(plain)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return signed, (folder / f"dsset-{zone}.").read_text().splitlines()


def internet(folder: Path) -> tuple[Authority, list[str]]:
    """The BIND, to be started, and the DS records that a validator trusts."""
    folder.mkdir()
    zones: dict[str, str | Path] = {"plain.example": zone_text()}
    anchors = []
    zones["child.signed.example"], child = sign(folder, "child.signed.example", SMALL)
    zones["open.signed.example"] = SMALL
    glue = "{0} NS ns.{0}\nns.{0} A 192.0.2.53\n"
    parent = zone_text() + glue.format("child") + glue.format("open") + "\n".join(child) + "\n"
    for zone, text, more in (
        ("signed.example", parent, ()),
        ("hashed.example", zone_text(), ("-3", "-", "-H", "0")),
        ("bogus.example", SMALL, ()),
        ("expired.example", SMALL, ("-s", "20200101000000", "-e", "20200201000000")),
    ):
        zones[zone], records = sign(folder, zone, text, *more)
        anchors += records
    bogus = zones["bogus.example"]
    assert isinstance(bogus, Path)
    text = bogus.read_text()
    assert "192.0.2.1\n" in text
    bogus.write_text(text.replace("192.0.2.1\n", "192.0.2.66\n").replace('"text"', '"forged"'))
    zones["broken.example"] = "this is no zone\n"
    zones["closed.example"] = SMALL
    every = (*SOUND, *BOGUS)
    zones[""] = (
        "$TTL 3600\n@ SOA ns.example. x. 1 60 60 60 60\n@ NS ns.example.\n"
        "ns.example. A 192.0.2.53\n"
        + "".join(f"{z}. NS ns.example.\n" for z in every)
        + "".join(f"{name}. A 192.0.2.44\n" for name in (*SIGNALS, "1.2.0.8.in-addr.arpa"))
    )
    authority = Authority(
        folder / "bind",
        zones,
        options="minimal-responses yes; max-udp-size 4096;",
        more={"closed.example": "allow-query { none; };"},
        broken=["broken.example"],
    )
    return authority, anchors


def questions(choose: random.Random) -> Iterator[tuple[str, str]]:
    """Names and types, without end: nearly all of sound zones, some of each other kind."""
    kinds = list(KINDS.values())
    while True:
        dice = choose.random()
        if dice < 0.84:
            zone = choose.choice(SOUND)
            name, qtype = choose.choice(choose.choice(kinds)[1])
            name = name.replace("$", str(choose.randrange(COUNT)))
        elif dice < 0.88:
            zone = choose.choice(CHILDREN)
            name, qtype = choose.choice(SMALL_ASKS)
        elif dice < 0.92:
            zone = choose.choice(BOGUS)
            name, qtype = choose.choice(SMALL_ASKS)
        else:
            zone, qtype = "", "A"
            name = choose.choice((*SPECIAL, *SIGNALS, *ORDINARY))
            if name.endswith("arpa") and choose.random() < 0.5:
                qtype = "PTR"
        if choose.random() < 0.25:
            qtype = choose.choice(TYPES)
        if choose.random() < 0.02:
            qtype = "ANY"
        if zone:
            name = zone if name == "@" else f"{name}.{zone}"
        yield name, qtype


def asks(count: int, choose: random.Random) -> list[Ask]:
    """Questions in every manner in which clients ask them."""
    found = []
    source = questions(choose)
    while len(found) < count:
        name, qtype = next(source)
        if choose.random() < 0.3:
            name = "".join(choose.choice((c, c.upper())) for c in name)
        size = choose.choice((None, None, 512, 1232, 1232, 4096, 65535, 100))
        one = Ask(
            name or ".",
            qtype,
            rd=choose.random() > 0.04,
            ad=choose.random() < 0.2,
            cd=choose.random() < 0.15,
            do=size is not None and choose.random() < 0.5,
            size=size,
            tcp=choose.random() < 0.15,
        )
        if choose.random() < 0.03:
            one = choose.choice(ODD)(one)
        found.append(one)
    return found


def _option(code: int, content: bytes) -> bytes:
    return code.to_bytes(2, "big") + len(content).to_bytes(2, "big") + content


# What some clients say beside a question, and what is no ordinary question.
ODD = (
    lambda a: a._replace(size=1232, options=_option(65001, b"something")),
    lambda a: a._replace(size=1232, options=_option(8, b"\0\1\x18\0\xc6\x33\x64")),  # RFC 7871
    lambda a: a._replace(size=1232, options=_option(10, b"12345678")),  # RFC 7873
    lambda a: a._replace(size=1232, options=_option(3, b"")),  # NSID, RFC 5001
    lambda a: a._replace(size=1232, options=_option(12, bytes(20))),  # padding, RFC 7830
    lambda a: a._replace(size=1232, version=1),
    lambda a: a._replace(qclass="CH", qtype="TXT", name="version.bind"),
    lambda a: a._replace(qclass="CH"),
    lambda a: a._replace(qclass="HS"),
    lambda a: a._replace(qclass="ANY"),
    lambda a: a._replace(opcode=2),
    lambda a: a._replace(opcode=4),
    lambda a: a._replace(opcode=5),
    lambda a: a._replace(qtype="OPT"),
    lambda a: a._replace(qtype="AXFR"),
    lambda a: a._replace(qtype="IXFR"),
    lambda a: a._replace(qtype="TSIG"),
    lambda a: a._replace(qtype="TKEY"),
    lambda a: a._replace(qtype="MAILB"),
    lambda a: a._replace(qtype="TYPE0"),
)
