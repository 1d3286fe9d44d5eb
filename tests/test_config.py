"""The configuration: what it may say, what it says wrong, and the pages made from it."""

import dataclasses
import ipaddress
import itertools
import re
import tomllib
import types
import typing
from pathlib import Path

import pytest

from urlguard import config
from urlguard.config import Config, Endpoint
from urlguard.errors import ConfigError
from urlguard.plugins import BUILTIN

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "urlguard.example.toml"
PAGE = ROOT / "docs" / "configuration.md"
MARK = "<!-- Made from urlguard/config/sections.py by `pytest --update-golden`. -->\n"


def sections():
    """Every table with its dataclass, in order: the top, then each section."""
    yield "", Config
    hints = typing.get_type_hints(Config)
    for name, hint in hints.items():
        inner = (typing.get_args(hint) or [None])[0] if typing.get_origin(hint) is tuple else hint
        if dataclasses.is_dataclass(inner):
            yield (f"[[{name}]]" if inner is not hint else f"[{name}]"), inner
    yield "[[rpz.tsig]]", config.TsigKey
    for name, plugin in BUILTIN.items():
        if name not in hints and plugin.options:
            yield f"[plugin.{name}]", plugin.options


def keys(cls):
    """The keys of one table: fields with a description."""
    return [f for f in dataclasses.fields(cls) if "words" in f.metadata and f.name != "tsig"]


SECTIONS = dict(sections())
KEYS = [(section, f) for section, cls in SECTIONS.items() for f in keys(cls)]


# -- the reference ---------------------------------------------------------------------------------


def reference():
    """The tables of docs/configuration.md, made from the dataclasses."""
    parts = []
    for section, cls in SECTIONS.items():
        words = "the top of the file" if cls is Config else cls.__doc__.split(": ", 1)[1]
        head = "Top level" if cls is Config else f"`{section}`"
        parts.append(f"## {head}\n\n{words[0].upper()}{words[1:].rstrip('.')}.\n")
        parts.append("| key | type | default | what it is |\n|---|---|---|---|")
        hints = typing.get_type_hints(cls)
        for f in keys(cls):
            meta = f.metadata
            limits = ""
            if meta["choices"]:
                limits = f"; one of {', '.join(f'`{c}`' for c in meta['choices'])}"
            elif meta["low"] is not None:
                limits = f"; {number(meta['low'])} to {number(meta['high'])}"
            elif meta["pattern"]:
                limits = f"; matches `{meta['pattern']}`"
            words = (meta["words"] + limits).replace("|", "\\|")
            parts.append(f"| `{f.name}` | {kind(hints[f.name])} | {toml(f.default)} | {words} |")
        parts.append("")
    return "\n".join(parts)


def number(value):
    """A limit as people read it."""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def kind(hint):
    """The type of a key in a word or two."""
    if typing.get_origin(hint) is tuple:
        return f"list of {kind(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is dict:
        return "table of lists"
    if isinstance(hint, types.UnionType) and type(None) in typing.get_args(hint):
        hint = typing.get_args(hint)[0]
    known = {
        str: "text", int: "integer", float: "number", bool: "boolean", Path: "path",
        Endpoint: "address:port", config.Network: "network", ipaddress.IPv4Address: "IPv4 address",
        ipaddress.IPv6Address: "IPv6 address",
    }  # fmt: skip
    return known[hint]


def toml(value):
    """A default as it would stand in the file."""
    if value is None or value is dataclasses.MISSING or value == ():
        return "–"
    if isinstance(value, tuple) and not isinstance(value, Endpoint):
        return "`[" + ", ".join(toml(v).strip("`") for v in value) + "]`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int | float):
        return f"`{value}`"
    return f'`"{value}"`' if str(value) else "–"


def test_the_reference_page_is_what_the_code_says(golden):
    """
    The tables in docs/configuration.md hold every key with its type, default and limits.
    """
    intro = PAGE.read_text("utf-8").partition(MARK)[0]
    golden(PAGE, intro + MARK + "\n" + reference())
    assert intro.startswith("# ")


def test_every_key_has_a_description():
    """
    No key is without words, and no field of a section is without a key.
    """
    assert all(f.metadata["words"] for _, f in KEYS)
    for section, cls in SECTIONS.items():
        if section:
            names = {f.name for f in dataclasses.fields(cls)} - {"tsig"}
            assert names == {f.name for f in keys(cls)}


# -- the annotated example -------------------------------------------------------------------------


def test_the_annotated_example_loads():
    """
    The example is a whole configuration, without warnings, and starts with the model in review
    and a list in shadow.
    """
    loaded = config.load(EXAMPLE)
    assert loaded.classify.mode == "review"
    assert loaded.forward.upstreams
    assert loaded.log_url == "sqlite:////var/lib/urlguard/policy.db"
    # Its lists are not on this machine.
    assert [w for w in config.warnings(loaded) if not w.endswith("not there")] == []
    assert any(feed.shadow for feed in loaded.feed)


# A plugin's own page has an example of its options.
ANNOTATED = [(section, f) for section, f in KEYS if not section.startswith("[plugin.")]


@pytest.mark.parametrize(("section", "f"), ANNOTATED, ids=[f"{s}{f.name}" for s, f in ANNOTATED])
def test_every_key_stands_in_the_annotated_example(section, f):
    """
    Each known key appears under its own section.
    """
    data = tomllib.loads(EXAMPLE.read_text("utf-8"))
    for part in re.findall(r"\w+", section):
        data = data[part] if isinstance(data, dict) else {k: v for t in data for k, v in t.items()}
    tables = data if isinstance(data, list) else [data]
    assert any(f.name in table for table in tables)


def test_every_key_of_the_example_has_a_comment():
    """
    A comment stands beside every key, or above the first of a group.
    """
    lines = EXAMPLE.read_text("utf-8").splitlines()
    for before, line in itertools.pairwise(lines):
        if re.match(r"\w+ = ", line):
            assert "#" in line or "#" in before, line


# -- reading ---------------------------------------------------------------------------------------


def parse(text, path=Path("/etc/urlguard/urlguard.toml")):
    """The configuration in a text."""
    return config.parse(tomllib.loads(text), path)


def problems(text):
    """What is wrong with a text."""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return caught.value.problems


DESIGN = """
state_dir = "var"
[server]
listen  = ["127.0.0.1:5300"]
workers = 2
[acl]
allow   = ["127.0.0.0/8", "::1/128"]
[forward]
upstreams = ["9.9.9.9", "192.0.2.1:5353"]
[guard]
answer = "sinkhole"
sinkhole_ipv4 = "127.0.0.1"
sinkhole_ipv6 = "::1"
block_ttl_s = 30
[classify]
mode = "block"
[[feed]]
name = "example"
path = "lists/fraud.txt.gz"
format = "auto"
category = "phishing"
refresh_s = 3600
[api]
listen = "127.0.0.1:8530"
[landing]
listen = "127.0.0.1:8580"
[store]
url = "sqlite:///var/policy.db"
[bus]
url = "memory:"
"""


def test_the_keys_that_stay_stable():
    """
    The configuration that people rely on loads, and is the default but for its feed and upstreams.
    """
    got = parse(DESIGN)
    assert got.feed[0].path == Path("/etc/urlguard/lists/fraud.txt.gz")
    assert got.state_dir == Path("/etc/urlguard/var")
    assert got.log_url == "sqlite:////etc/urlguard/var/policy.db"
    assert [u.address for u in got.forward.endpoints] == [
        Endpoint("9.9.9.9", 53),
        Endpoint("192.0.2.1", 5353),
    ]
    default = Config()
    for name in ("server", "acl", "guard", "classify", "api", "landing", "bus", "rpz", "plugins"):
        assert getattr(got, name) == getattr(default, name)


def test_an_upstream_over_tls_names_its_certificate():
    """
    The name after # is what the certificate must bear; the port is 853 where none is given.
    """
    (found,) = parse("[forward]\nupstreams = ['tls://9.9.9.9#dns.quad9.net']").forward.endpoints
    assert found == config.Upstream(Endpoint("9.9.9.9", 853), "dns.quad9.net")
    assert str(found) == "tls://9.9.9.9:853#dns.quad9.net"


def test_zones_have_upstreams_of_their_own():
    """
    A zone is a name in quotes, with a list of upstreams.
    """
    got = parse("[forward.zones]\n'corp.example' = ['192.0.2.20', '192.0.2.21:5353']")
    assert got.forward.zones == {"corp.example": ("192.0.2.20", "192.0.2.21:5353")}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[forward.zones]\n'Corp.Example' = ['192.0.2.1']", "must be a name in lower case"),
        ("[forward.zones]\n'corp.example' = []", "must have at least one upstream"),
        ("[forward.zones]\n'corp.example' = ['x']", "must be an IP address"),
        ("[forward.zones]\n'corp.example' = 5", "'corp.example': must be a list"),
        ("[forward]\nzones = 5", "must be a table, [forward.zones]"),
        ("[forward]\nupstreams = ['tls://9.9.9.9']", "must name the certificate's owner"),
        ("[forward]\nupstreams = ['127.0.0.1:5300']", "is this server's own address"),
        ("[[segment]]\nnetworks = ['10.0.0.0/8']", "[[segment]] number 1: name is missing"),
        ("[[segment]]\nname = 'a'", "[[segment]] a: networks is missing"),
        (
            "[[segment]]\nname = 'a'\nnetworks = ['10.0.0.0/8']\n"
            "[[segment]]\nname = 'b'\nnetworks = ['10.0.0.0/8']",
            "[[segment]] b: networks: 10.0.0.0/8 is in segment 'a' too",
        ),
        ("[rebind]\nexempt = ['x.']", "[rebind] exempt: 'x.': must be a name"),
        ("stat_dir = 1", "unknown key 'stat_dir'; did you mean 'state_dir'?"),
        ("[gard]", "unknown key 'gard'; did you mean 'guard'?"),
        ("[guard]\nanswers = 1", "[guard] unknown key 'answers'; did you mean 'answer'?"),
        ("[acl]\nqqqq = 1", "[acl] unknown key 'qqqq'; known: allow, otherwise"),
        ("[[feed]]\nname='a'\npath='x'\ncolum='a'", "[[feed]] a: unknown key 'colum'; did you"),
        (
            "[[rpz.tsig]]\nname='a'\nsecret_file='x'\nnme = 'a'",
            "[[rpz.tsig]] a: unknown key 'nme'; did you mean 'name'?",
        ),
        ("path = 'x'", "unknown key 'path'"),
        ("server = 5", "server = 5: must be a table, [server]"),
        ("feed = 5", "feed = 5: must be a list"),
        ("[feed]\nname = 'x'", "must be a list"),
        ("plugin = 5", "must be tables, [plugin.NAME]"),
        ("[server]\nworkers = 0", "[server] workers = 0: must be an integer from 1 to 256"),
        ("[server]\nworkers = 257", "must be an integer from 1 to 256"),
        ("[server]\nworkers = 2.0", "must be an integer"),
        ("[server]\nworkers = true", "workers = true: must be an integer"),
        ("[server]\nworkers = '2'", "must be an integer"),
        ("[server]\ntcp_idle_s = 'a'", "must be a number"),
        ("[server]\ntcp_idle_s = nan", "must be a number from 0.1 to 600"),
        ("[server]\nlisten = '127.0.0.1:53'", "must be a list"),
        ("[server]\nlisten = []", "listen = []: must have at least one address"),
        ("[server]\nlisten = ['localhost:53']", "must be an IP address and a port"),
        ("[server]\nlisten = ['127.0.0.1']", "must have a port from 0 to 65535"),
        ("[server]\nlisten = ['127.0.0.1:65536']", "must have a port from 0 to 65535"),
        ("[server]\nlisten = ['::1:53']", "must have a port from 0 to 65535"),
        ("[acl]\nallow = ['10.0.0.1/8']", 'must be a network such as "10.0.0.0/8"'),
        ("[acl]\nallow = [10]", "must be a string"),
        ("[forward]\nupstreams = ['dns.example']", "[forward] upstreams: 'dns.example'"),
        ("[guard]\nanswer = 'explode'", "must be one of sinkhole, nxdomain, nodata, zero, refused"),
        ("[guard]\nsinkhole_ipv4 = '::1'", "must be an IPv4 address"),
        ("[guard]\nsinkhole_ipv6 = '127.0.0.1'", "must be an IPv6 address"),
        ("[guard]\nsinkhole_ipv4 = 1", "must be a string"),
        ("[[feed]]\npath = 'x'", "[[feed]] number 1: name is missing"),
        ("[[feed]]\nname = 'a b'\npath = 'x'", "must match [A-Za-z0-9._-]{1,64}"),
        ("[[feed]]\nname = 'a'", "[[feed]] a: must have either path or url"),
        ("[[feed]]\nname = 'a'\npath = 'x'\nurl = 'https://x.example'", "either path or url"),
        ("[[feed]]\nname = 'a'\nurl = 'ftp://x.example'", "must begin with https:// or http://"),
        ("[[feed]]\nname = 'a'\nurl = 'http://x.example'", "must be https:// unless allow_http"),
        ("[[feed]]\nname = 'a'\npath = 'x'\nmax_bad = 2", "must be a number from 0 to 1"),
        ("[[feed]]\nname = 'a'\npath = 'x'\nregulator = 1", "must be true or false"),
        ("[[feed]]\nname='a'\npath='x'\n[[feed]]\nname='a'\npath='y'", "name is used twice"),
        ("[store]\nurl = 'postgresql://x'", "this version knows sqlite:///PATH only"),
        ("[store]\nurl = 'sqlite:///'", "names no file; must be sqlite:///PATH"),
        ('[store]\nurl = "sqlite:///a\\u0000b"', "names no file; must be sqlite:///PATH"),
        ("[bus]\nurl = 'nats://x'", 'this version knows "memory:" only'),
        ("[classify]\nmodel = '../name-1'", "must match"),
        ("[classify]\nmodel = 'url-2026-11-24'", "must match"),
        ("[classify]\nshadow_share = 1.5", "shadow_share"),
        ("[classify]\nmodel = 'name-1'\nshadow = 'name-1'", "shadow = 'name-1': must not be model"),
        ("plugins = ['forward', 'guard']", "forward must be last"),
        ("plugins = ['acl', 'acl', 'forward']", "a name is listed twice"),
        ("plugins = ['acl', 'cache', 'guard', 'forward']", "guard must be above cache"),
        ("plugins = ['guard', 'rebind', 'cache', 'forward']", "rebind must be below cache"),
        ("plugins = ['guard', 'cache', 'forward', 'rebind']", "forward must be last"),
        ("plugins = ['guard', 'cache']", "cache is last; must be above a plugin that answers"),
        (
            "[cache]\nmin_ttl_s = 300\nmax_ttl_s = 60",
            "min_ttl_s = 300: must not be above max_ttl_s",
        ),
        (
            "[[segment]]\nname = 'a'\nnetworks = ['10.0.0.0/8']\n"
            "categories = ['fraud', 'ads']\npass_categories = ['ads', 'fraud']",
            "[[segment]] a: fraud, ads: must not be in both categories and pass_categories",
        ),
        ("[rpz]\nlisten = ['127.0.0.1:53']\nallow = ['192.0.2.0/24']", "key is needed"),
        ("[[rpz.tsig]]\nname = 'a'", "must have name and secret_file"),
    ],
)
def test_what_is_wrong_is_said(text, said):
    """
    The file, the section, the key, what it is and what it may be, in one line.
    """
    (problem,) = problems(text)
    assert problem.startswith("urlguard.toml: ")
    assert said in problem
    assert "\n" not in problem


def test_everything_wrong_is_said_at_once():
    """
    Reading does not stop at the first problem.
    """
    text = "x = 1\n[server]\nworkers = 0\nlisten = []\n[guard]\nanswer = 'x'\n[[feed]]\npath = 'x'"
    said = problems(text)
    assert len(said) == 5
    for part in ("'x'", "workers", "listen", "answer", "name is missing"):
        assert any(part in problem for problem in said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"a = ", "not TOML"),
        (b"a = 1\na = 2", "not TOML"),
        (b"\xff", "not TOML"),
    ],
)
def test_what_is_no_configuration(tmp_path, content, said):
    """
    A file that is not there or not TOML is one problem, which names the file.
    """
    path = tmp_path / "urlguard.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        config.load(path)
    (problem,) = caught.value.problems
    assert str(path) in problem


def test_where_the_configuration_is_looked_for(tmp_path, monkeypatch):
    """
    The file named, else URLGUARD_CONFIG, else urlguard.toml here, else the defaults.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("URLGUARD_CONFIG", raising=False)
    assert config.load().path is None
    assert config.load().state_dir == tmp_path / "var"
    for name in ("urlguard.toml", "env.toml", "named.toml"):
        (tmp_path / name).write_text("")
    assert config.load().path == tmp_path / "urlguard.toml"
    monkeypatch.setenv("URLGUARD_CONFIG", "env.toml")
    assert config.load().path == tmp_path / "env.toml"
    assert config.load(Path("named.toml")).path == tmp_path / "named.toml"
    monkeypatch.setenv("URLGUARD_CONFIG", "missing.toml")
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        config.load()


@pytest.mark.parametrize(
    ("text", "attribute", "wanted"),
    [
        ("", "state_dir", "/etc/urlguard/var"),
        ("state_dir = 'a/b'", "state_dir", "/etc/urlguard/a/b"),
        ("state_dir = '/srv'", "state_dir", "/srv"),
        ("state_dir = '~/x'", "state_dir", str(Path.home() / "x")),
        ("", "log_url", "sqlite:////etc/urlguard/var/policy.db"),
        ("[store]\nurl = 'sqlite:///x.db'", "log_url", "sqlite:////etc/urlguard/x.db"),
        ("[store]\nurl = 'sqlite:////srv/x.db'", "log_url", "sqlite:////srv/x.db"),
    ],
)
def test_relative_paths_are_relative_to_the_file(text, attribute, wanted):
    """
    Wherever the command is called from.
    """
    assert str(getattr(parse(text), attribute)) == wanted


@pytest.mark.parametrize(
    ("text", "host", "port", "back"),
    [
        ("192.0.2.1:53", "192.0.2.1", 53, "192.0.2.1:53"),
        ("[2001:DB8::1]:53", "2001:db8::1", 53, "[2001:db8::1]:53"),
        ("127.0.0.1:0", "127.0.0.1", 0, "127.0.0.1:0"),
    ],
)
def test_endpoints(text, host, port, back):
    """
    An address and a port, written back as they are written.
    """
    found = config.endpoint(text)
    assert (found, str(found)) == (Endpoint(host, port), back)
    assert found.loopback is host.startswith("127.")


@pytest.mark.parametrize("text", ["192.0.2.1", "[2001:db8::1]", "2001:db8::1"])
def test_upstreams_need_no_port(text):
    """
    Port 53 where none is given, also for a bare IPv6 address.
    """
    (found,) = parse(f"[forward]\nupstreams = ['{text}']").forward.endpoints
    assert found.address.port == 53


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", []),
        ("[acl]\nallow = ['10.0.0.0/8']", ["loopback address as sinkhole"]),
        ("[acl]\nallow = ['10.0.0.0/8']\n[guard]\nanswer = 'nxdomain'", []),
        ("[acl]\nallow = ['0.0.0.0/0']\n[guard]\nanswer = 'zero'", ["open resolver"]),
        ("plugins = ['guard', 'forward']", ["acl is missing"]),
        ("plugins = ['acl', 'forward']", ["guard is missing; nothing is blocked"]),
        ("plugins = ['limit', 'acl', 'guard', 'forward']", ["limit is above acl"]),
        ("plugins = ['acl', 'special', 'guard', 'forward']", ["special is above guard"]),
        ("[server]\nproxy_from = ['0.0.0.0/0']", ["[server] proxy_from: 0.0.0.0/0: every"]),
        ("[server]\necs_from = ['192.0.2.1/32', '::/0']", ["[server] ecs_from: ::/0: every"]),
        ("[server]\nproxy_from = ['0.0.0.0/1']\necs_from = ['192.0.2.0/24']", []),
        ("[cache]\nmin_ttl_s = 60\nmax_ttl_s = 60", []),
        ("[classify]\nmodels = '/no/such'", ["[classify] models: must be a folder of models"]),
        ("[classify]\nmodels = '/no/such'", ["/no/such: not there"]),
        ("[classify]\nmodels = '/dev/null'", ["/dev/null: is no folder"]),
        ("[classify]\nmodels = '/'", []),
    ],
)
def test_what_is_permitted_and_probably_not_meant(text, said):
    """
    Warnings, which keep nobody from starting.
    """
    found = config.warnings(parse(text))
    assert len(found) == len(said)
    assert all(part in line for part, line in zip(said, found, strict=True))


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (0o600, None),
        (0o400, None),
        (0o640, "its group can read it; chmod 600"),
        (0o604, "everybody can read it; chmod 600"),
        (None, "not there"),
    ],
)
def test_who_may_read_the_token_of_the_metrics(tmp_path, mode, said):
    """
    A file with a secret is its owner's alone, and is there.
    """
    token = tmp_path / "token"
    if mode is not None:
        token.write_text("0123456789abcdef")
        token.chmod(mode)
    found = config.warnings(parse(f"[api]\nmetrics_token_file = {str(token)!r}"))
    wanted = [] if said is None else [f"[api] metrics_token_file: {token}: {said}"]
    assert found == wanted


# -- whether an upstream is ourselves --------------------------------------------------------------


def own_addresses():
    """IPv4 addresses of this machine beyond loopback, as the kernel lists them."""
    lines = Path("/proc/net/fib_trie").read_text().splitlines()
    for line, after in itertools.pairwise(lines):
        if "/32 host LOCAL" in after:
            address = ipaddress.ip_address(line.split()[-1])
            if not address.is_loopback:
                yield str(address)


@pytest.mark.parametrize(
    ("address", "own", "wanted"),
    [
        ("127.0.0.1:53", "127.0.0.1:53", True),
        ("127.0.0.1:53", "127.0.0.1:5300", False),
        ("127.0.0.1:53", "127.0.0.2:53", False),
        ("127.0.0.53:53", "0.0.0.0:53", True),
        ("127.0.0.53:53", "0.0.0.0:5300", False),
        ("[::ffff:127.0.0.1]:53", "127.0.0.1:53", True),
        ("0.0.0.0:53", "127.0.0.1:53", True),
        ("[::]:53", "[::1]:53", True),
        ("[::1]:53", "[::]:53", True),
        ("127.0.0.1:53", "[::]:53", False),
        ("[::1]:53", "0.0.0.0:53", False),
        ("192.0.2.253:53", "192.0.2.253:53", True),
        ("203.0.113.253:53", "0.0.0.0:53", False),
        ("[2001:db8::253]:53", "[::]:53", False),
        ("[fe80::1%none]:53", "[::]:53", False),
    ],
)
def test_what_arrives_at_ourselves(address, own, wanted):
    """
    The address that is listened on, or any of this machine where all are; on the same port.
    """
    assert config.endpoint(address).reaches(config.endpoint(own)) is wanted


def test_every_address_of_this_machine_is_ours():
    """
    On a wildcard an upstream that is any own address, not loopback alone, would be a loop.
    """
    addresses = sorted(set(own_addresses()))
    if not addresses:
        pytest.skip("this machine has loopback alone")
    for address in addresses:
        for text in (
            f"[forward]\nupstreams = ['{address}']",
            f"[forward.zones]\n'corp.example' = ['{address}']",
        ):
            (problem,) = problems(f"[server]\nlisten = ['0.0.0.0:53']\n{text}")
            assert f"'{address}': is this server's own address" in problem
            parse(f"[server]\nlisten = ['0.0.0.0:5300']\n{text}")
