"""
The production recipe: what `docs/production.md` and `docs/sizing.md` tell people to set up, set up.

The configurations are cut out of the page.  The Internet is a BIND with a signed root of its own;
ports, paths and the list are replaced, nothing else.
"""

import contextlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.bind import Authority, Daemon, free_port, need
from tests.running import Server, wait_until
from urlguard import config
from urlguard.plugins.clients import Clients
from urlguard.plugins.forward.udp import spare
from urlguard.server import sockets, systemd
from urlguard.worker.listeners import tcp
from urlguard.worker.packet_cache import MAX_ENTRIES

DOCS = Path(__file__).parents[2] / "docs"
PAGE = Path("/etc/urlguard/urlguard.toml")
PRODUCTION = (DOCS / "production.md").read_text("utf-8")
SIZING = (DOCS / "sizing.md").read_text("utf-8")
NIGHT = (DOCS / "operations.md").read_text("utf-8").partition("## When a block is reported")[2]

SINKHOLE = "192.0.2.80"
ADDRESS = "192.0.2.10"  # of every name of the zones below
LISTED = "evil.example\nlogin.signed.example\n"

RECORDS = f"""$TTL 60
@ SOA ns.example. x.example. 1 3600 600 86400 60
@ NS ns.example.
@ A {ADDRESS}
www A {ADDRESS}
login A {ADDRESS}
shop CNAME login
short 1 A {ADDRESS}
"""


def saved(path, page=PRODUCTION):
    """What the page says to save in a file."""
    found = re.findall(rf"`{re.escape(path)}`[^`]*:\n\n```\w+\n(.*?)^```", page, re.M | re.S)
    assert len(found) == 1, f"{path}: {len(found)} blocks on the page"
    return found[0]


UNBOUND = saved("/etc/unbound/unbound.conf.d/behind-urlguard.conf")
TOML = re.compile(r"```toml\n(.*?)^```", re.M | re.S)
(URLGUARD,) = TOML.findall(PRODUCTION)


def with_(text, **changes):
    """A configuration with other values; each key must stand there once."""
    for key, value in changes.items():
        text, count = re.subn(rf"(?m)^(\s*){key}(\s*[=:]).*?$", rf"\g<1>{key}\g<2> {value}", text)
        assert count == 1, f"{key} stands there {count} times"
    return text


# -- a small Internet ------------------------------------------------------------------------------


class Internet:
    """Signed zones, a BIND that serves them and the page's Unbound before it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        signed, signed_ds = self._sign("signed.example", RECORDS)
        bogus, bogus_ds = self._sign("bogus.example", RECORDS)
        # Somebody changed the addresses and could not sign them.
        bogus.write_text(bogus.read_text().replace(ADDRESS, "192.0.2.66"))
        root, self.anchor = self._sign(
            ".",
            "$TTL 60\n@ SOA ns.example. x.example. 1 3600 600 86400 60\n@ NS ns.example.\n"
            f"ns.example. A 127.0.0.1\nevil.example. A {ADDRESS}\n"
            + "".join(f"{z}.example. NS ns.example.\n" for z in ("signed", "bogus", "plain"))
            + signed_ds
            + bogus_ds,
        )
        zones = {"": root, "signed.example": signed, "bogus.example": bogus}
        zones["plain.example"] = RECORDS
        self.bind = Authority(folder / "bind", zones)
        stubs = "".join(
            f'stub-zone:\n    name: "{zone or "."}"\n    stub-addr: 127.0.0.1@{self.bind.port}\n'
            for zone in zones
        )
        port = free_port()
        self.conf = folder / "unbound.conf"
        self.conf.write_text(
            with_(UNBOUND, interface=f"127.0.0.1@{port}")
            + f"""
server:
    directory: "{folder}"
    username: ""
    chroot: ""
    pidfile: ""
    use-syslog: no
    do-daemonize: no
    do-not-query-localhost: no
    trust-anchor: "{self.anchor.strip()}"
remote-control:
    control-enable: no
{stubs}"""
        )
        command = [need("unbound"), "-d", "-c", str(self.conf)]
        self.unbound = Daemon(command, port, folder / "unbound.log")

    def _sign(self, zone, text):
        """Sign a zone's text: the file, and the DS record of its key."""
        folder = self.folder / f"keys-{zone}"
        folder.mkdir(parents=True)
        run = {"cwd": folder, "capture_output": True, "text": True, "check": True, "timeout": 60}
        keygen = [need("dnssec-keygen"), "-q", "-a", "ECDSAP256SHA256", "-f", "KSK", zone]
        key = subprocess.run(keygen, **run).stdout.strip()
        (folder / "zone").write_text(text + (folder / f"{key}.key").read_text())
        signing = [need("dnssec-signzone"), "-z", "-o", zone, "-f", "signed", "zone", key]
        subprocess.run(signing, **run)
        ds = subprocess.run([need("dnssec-dsfromkey"), "-2", f"{key}.key"], **run).stdout
        return folder / "signed", ds


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Internet]:
    made = Internet(folder)
    with made.bind, made.unbound:
        yield made


@pytest.fixture(scope="module")
def internet(tmp_path_factory) -> Iterator[Internet]:
    """Shared by the tests that leave it as it is."""
    with running(tmp_path_factory.mktemp("internet")) as made:
        yield made


def urlguard(folder: Path, behind: Internet, **changes: str) -> Server:
    """The page's UrlGuard before that Unbound, not started yet; its list is a file."""
    folder.mkdir(exist_ok=True)
    (folder / "list.txt").write_text(LISTED)
    text = with_(
        re.sub("(?m)^url = .*", 'path = "list.txt"', URLGUARD),
        state_dir='"state"',
        listen='["127.0.0.1:0"]',
        upstreams=f'["127.0.0.1:{behind.unbound.port}"]',
        **changes,
    )
    return Server(folder, text + '\n[api]\nlisten = "127.0.0.1:0"\n')


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    try:
        yield server.start()
    finally:
        if server.process is not None:
            server.kill_all()


@pytest.fixture(scope="module")
def guarded(internet, tmp_path_factory) -> Iterator[Server]:
    """The whole recipe, after the first week: the list blocks."""
    with serving(urlguard(tmp_path_factory.mktemp("guarded"), internet, shadow="false")) as server:
        yield server


def ask(server, name, qtype="A", *, ad=False, cd=False, do=False, tcp=False):
    """One question with EDNS, over UDP unless it is asked for otherwise."""
    query = dns.message.make_query(name, qtype, use_edns=0, want_dnssec=do)
    query.flags |= (dns.flags.AD if ad else 0) | (dns.flags.CD if cd else 0)
    send = dns.query.tcp if tcp else dns.query.udp
    return send(query, "127.0.0.1", port=server.port, timeout=8)


def records(message, rdtype):
    return [str(r) for rrset in message.answer if rrset.rdtype == rdtype for r in rrset]


def addresses(message):
    return records(message, 1)


def errors(message):
    """The extended errors of an answer."""
    return [int(o.code) for o in message.options if isinstance(o, dns.edns.EDEOption)]


def authentic(message):
    return bool(message.flags & dns.flags.AD)


peer = pytest.mark.peer

# -- Unbound's part --------------------------------------------------------------------------------


@peer
def test_unbound_takes_the_page_as_it_is(tmp_path):
    """
    unbound-checkconf finds nothing wrong with the configuration, no letter of it changed.
    """
    (tmp_path / "page.conf").write_text(UNBOUND)
    done = subprocess.run(
        [need("unbound-checkconf"), str(tmp_path / "page.conf")], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_unbound_is_asked_by_this_machine_alone():
    """
    It listens on loopback, where UrlGuard's `upstreams` and `trust_ad` expect it.
    """
    (interface,) = re.findall(r"interface: (\S+)", UNBOUND)
    forward = tomllib.loads(URLGUARD)["forward"]
    assert forward["upstreams"] == [interface.replace("@", ":")]
    assert config.endpoint(forward["upstreams"][0]).loopback
    assert forward["trust_ad"] is True


@peer
def test_a_source_port_can_keep_unbound_from_its_own(internet, tmp_path):
    """
    Unbound ends where a UDP socket on all addresses holds its port: why the page has it restarted.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("0.0.0.0", 0))
        port = held.getsockname()[1]
        text = re.sub(r"interface: .*", f"interface: 127.0.0.1@{port}", internet.conf.read_text())
        (tmp_path / "unbound.conf").write_text(text)
        done = subprocess.run(
            [need("unbound"), "-d", "-c", str(tmp_path / "unbound.conf")],
            capture_output=True,
            text=True,
            timeout=20,
        )
    assert done.returncode == 1
    assert "address already in use" in done.stderr


# -- what subscribers get --------------------------------------------------------------------------


@peer
@pytest.mark.parametrize("qtype", ["A", "AAAA"])
@pytest.mark.parametrize("flags", [{}, {"ad": True}, {"do": True}, {"do": True, "cd": True}])
@pytest.mark.parametrize("name", ["evil.example", "login.signed.example", "shop.signed.example"])
def test_a_blocked_name_is_sinkholed(guarded, name, flags, qtype):
    """
    A listed name, in a signed zone or not, or an alias of one, gets the sinkhole without AD.
    """
    got = ask(guarded, name, qtype, **flags)
    assert [str(r) for rrset in got.answer for r in rrset] == [
        SINKHOLE if qtype == "A" else "2001:db8::80"
    ]
    assert errors(got) == [4]
    assert not authentic(got)


@peer
@pytest.mark.parametrize("tcp_too", [False, True])
@pytest.mark.parametrize(
    ("flags", "ad", "signatures"),
    [({}, False, 0), ({"ad": True}, True, 0), ({"do": True}, True, 1)],
)
def test_a_signed_name_is_authentic_for_who_wants_to_know(guarded, flags, ad, signatures, tcp_too):
    """
    AD is set for clients that set AD or DO; DO brings the signatures; also from the cache.
    """
    for _ in range(2):
        got = ask(guarded, "www.signed.example", tcp=tcp_too, **flags)
        assert addresses(got) == [ADDRESS]
        assert authentic(got) is ad
        assert len(records(got, 46)) == signatures


@peer
def test_what_is_not_there_is_authentic_too(guarded):
    """
    NXDOMAIN in a signed zone has AD, and its proof for a client with DO.
    """
    got = ask(guarded, "nowhere.signed.example", do=True)
    assert got.rcode() == dns.rcode.NXDOMAIN
    assert authentic(got)
    assert {46, 47} <= {rrset.rdtype for rrset in got.authority}


@peer
def test_an_unsigned_name_is_not_authentic(guarded):
    """
    A name in a zone without signatures resolves, and never has AD.
    """
    got = ask(guarded, "www.plain.example", do=True)
    assert addresses(got) == [ADDRESS]
    assert not authentic(got)


@peer
def test_a_bogus_name_fails_and_says_why(guarded):
    """
    A wrong signature is SERVFAIL with the extended error 6 that Unbound gave; with CD the client
    gets the records, without AD.
    """
    for _ in range(2):
        got = ask(guarded, "www.bogus.example", ad=True)
        assert got.rcode() == dns.rcode.SERVFAIL
        assert 6 in errors(got)
        assert not got.answer
    unchecked = ask(guarded, "www.bogus.example", cd=True)
    assert addresses(unchecked) == ["192.0.2.66"]
    assert not authentic(unchecked)


@peer
@pytest.mark.parametrize("answer", ["sinkhole", "nxdomain"])
def test_a_stub_that_validates_takes_the_block_for_a_forgery(internet, tmp_path, answer):
    """
    delv validates an ordinary name through UrlGuard, and fails on a blocked one in a signed zone,
    whatever the block answer is.
    """
    tag, algorithm, kind, digest = re.search(
        r"DS (\d+) (\d+) (\d+) ([0-9A-F ]+)", internet.anchor
    ).groups()
    anchors = tmp_path / "anchors"
    anchors.write_text(
        f'trust-anchors {{ . static-ds {tag} {algorithm} {kind} "{digest.strip()}"; }};'
    )
    made = urlguard(tmp_path / "guard", internet, shadow="false", answer=f'"{answer}"')
    with serving(made) as server:

        def delv(name):
            at = ["@127.0.0.1", "-p", str(server.port), "-a", str(anchors)]
            done = subprocess.run(
                [need("delv"), *at, name, "A"], capture_output=True, text=True, timeout=60
            )
            return done.stdout + done.stderr

        fine = delv("www.signed.example")
        assert "fully validated" in fine
        assert ADDRESS in fine
        blocked = delv("login.signed.example")
        assert "resolution failed" in blocked
        assert SINKHOLE not in blocked
        # Nobody has to believe anybody in a zone that is not signed.
        unsigned = delv("www.plain.example")
        assert ADDRESS in unsigned


@peer
def test_the_canary_is_blocked(guarded):
    """
    The two questions that the page ends the set-up with are answered as it says.
    """
    assert addresses(ask(guarded, "canary.urlguard.test")) == [SINKHOLE]


# -- when something fails --------------------------------------------------------------------------


@peer
@pytest.mark.slow
def test_without_unbound_what_is_remembered_is_answered(tmp_path):
    """
    Authorities gone, then Unbound gone: an expired name is answered with the extended error 3, a
    blocked one as always, an unknown one fails; when they are back it resolves.
    """
    with (
        running(tmp_path / "net") as net,
        serving(urlguard(tmp_path / "guard", net, shadow="false", workers="1")) as server,
    ):
        assert addresses(ask(server, "short.signed.example")) == [ADDRESS]
        time.sleep(2.2)
        net.bind.close()
        stale = ask(server, "short.signed.example")
        assert (addresses(stale), 3 in errors(stale)) == ([ADDRESS], True)
        net.unbound.close()
        stale = ask(server, "short.signed.example")
        assert (addresses(stale), 3 in errors(stale)) == ([ADDRESS], True)
        assert addresses(ask(server, "evil.example")) == [SINKHOLE]
        failed = ask(server, "www.plain.example")
        assert failed.rcode() == dns.rcode.SERVFAIL
        assert set(errors(failed)) & {22, 23}
        net.bind.start()
        net.unbound.start()
        wait_until(lambda: addresses(ask(server, "www.plain.example")) == [ADDRESS], 10)


@peer
@pytest.mark.slow
def test_a_name_that_becomes_bogus_goes_on_with_its_last_good_answer(tmp_path):
    """
    The validated answer is given after its time with the extended error 3; with CD there is none
    to be had but the new one.
    """
    with running(tmp_path / "net") as net:
        made = urlguard(tmp_path / "guard", net, workers="1")
        with serving(made) as server:
            assert addresses(ask(server, "short.signed.example", ad=True)) == [ADDRESS]
            net.bind.close()
            zone = net.folder / "keys-signed.example" / "signed"
            zone.write_text(zone.read_text().replace(ADDRESS, "192.0.2.66"))
            net.bind.start()
            time.sleep(2.2)
            got = ask(server, "short.signed.example", ad=True)
            assert (addresses(got), 3 in errors(got)) == ([ADDRESS], True)
            assert addresses(ask(server, "short.signed.example", cd=True)) == ["192.0.2.66"]


@peer
@pytest.mark.slow
def test_the_first_week_shows_and_does_not_block(internet, tmp_path):
    """
    As the page begins, a listed name resolves and the hit log has it where the page looks; let
    loose by a reload it is sinkholed.
    """
    with serving(urlguard(tmp_path / "guard", internet)) as server:
        assert addresses(ask(server, "evil.example")) == [ADDRESS]
        assert addresses(ask(server, "login.signed.example")) == [ADDRESS]
        (command,) = re.findall(r"^ +(zcat -f /var/lib/urlguard/hits.*)$", PRODUCTION, re.M)
        command = command.replace("/var/lib/urlguard", str(server.folder / "state"))

        def looked():
            return subprocess.run(
                command, shell=True, capture_output=True, text=True, timeout=30
            ).stdout

        wait_until(lambda: '"name":"login.signed.example"' in looked(), 15)
        assert '"name":"evil.example"' in looked()
        server.config.write_text(with_(server.config.read_text(), shadow="false"))
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: addresses(ask(server, "evil.example")) == [SINKHOLE], 30)


# -- a wrong block at night ------------------------------------------------------------------------


def night_commands(name):
    """The commands of the chapter for whoever is on duty, in order."""
    spans = re.findall(r"`((?:urlguard|dig) [^`]*)`", " ".join(NIGHT.split()))
    # A command by itself only names what was shown before.
    return [
        shlex.split(s.replace("NAME", name))
        for s in spans
        if "NAME" in s or s.split()[1] in ("log", "status", "pause", "resume")
    ]


@peer
@pytest.mark.slow
def test_a_wrong_block_at_night(internet, tmp_path):
    """
    The chapter's commands, in their order on a real server: each works, the name is blocked before
    the exception and resolves after it, a pause lets everything through until it ends.
    """
    name, other = "login.signed.example", "evil.example"
    done = []
    with serving(urlguard(tmp_path / "guard", internet, shadow="false")) as server:
        for command in night_commands(name):
            program, *arguments = command
            if program == "dig":
                output = subprocess.run(
                    [need("dig"), "@127.0.0.1", "-p", str(server.port), *arguments[1:]],
                    capture_output=True,
                    text=True,
                    timeout=30,
                ).stdout
                assert SINKHOLE in output
                assert "EDE: 4" in output
                done.append("dig")
                continue
            before = addresses(ask(server, name))
            ran = server.run(*arguments, check=False)
            after = addresses(ask(server, name))
            verb, output = arguments[0], ran.stdout
            done.append(verb)
            if verb == "check" and "allow" not in done:
                assert ran.returncode in (0, 1), ran.stderr
                assert "BLOCK" in output
                assert "feed:partner" in output
            elif verb == "check":
                assert "ALLOW" in output
            elif verb == "remove":  # it is the list's and not ours: that is said
                assert (before, after) == ([SINKHOLE], [SINKHOLE])
                assert "partner" in output + ran.stderr
            elif verb == "allow":
                assert ran.returncode == 0, ran.stderr
                assert (before, after) == ([SINKHOLE], [ADDRESS])
                assert addresses(ask(server, other)) == [SINKHOLE]
            elif verb == "pause":
                assert ran.returncode == 0, ran.stderr
                assert addresses(ask(server, other)) == [ADDRESS]
                assert "PAUSED" in server.run("status").stdout
            elif verb == "resume":
                assert ran.returncode == 0, ran.stderr
                assert addresses(ask(server, other)) == [SINKHOLE]
            else:
                assert ran.returncode == 0, ran.stderr
                assert output
        # Step 5: one list is stopped as a whole.
        assert "shadow = true" in NIGHT
        server.config.write_text(with_(server.config.read_text(), shadow="true"))
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: addresses(ask(server, other)) == [ADDRESS], 30)
        log = server.run("log").stdout
        assert log.count("ticket 4") >= 2  # the exception and the pause
        assert server.run("log", "--verify").stdout.startswith("ok")
    assert {"check", "dig", "log", "status", "remove", "allow", "pause", "resume"} <= set(done)
    assert done.index("allow") < done.index("pause") < done.index("resume")


# -- around them -----------------------------------------------------------------------------------

QUICKSTART = (DOCS / "quickstart.md").read_text("utf-8")
QUICK = TOML.findall(QUICKSTART)[0]


@pytest.mark.parametrize("text", [URLGUARD, QUICK], ids=["production", "quickstart"])
def test_the_machine_itself_may_ask(text):
    """
    ``dig`` to a listening address from the machine leaves from that address, which is allowed.
    """
    made = config.parse(tomllib.loads(text), PAGE)
    clients = Clients(made)
    assert all(clients.find(where.host).allowed for where in made.server.listen)


def test_quickstart_takes_the_unit_that_is_kept_hardened():
    """
    The quickstart and the recipe print the unit, and show none of their own.
    """
    for page in (QUICKSTART, PRODUCTION):
        assert "urlguard systemd > /etc/systemd/system/urlguard.service" in page
        assert "ExecStart" not in page


@peer
def test_systemd_takes_the_additions(tmp_path):
    """
    With the page's drop-ins systemd finds both units right, and they say what the page says.
    """
    for name in ("unbound.service", "urlguard.service"):
        (tmp_path / f"{name}.d").mkdir()
    packaged = Path("/lib/systemd/system/unbound.service")
    if not packaged.exists():
        pytest.skip("unbound's unit is not installed")
    (tmp_path / "unbound.service").write_text(packaged.read_text())
    made = config.parse(tomllib.loads(URLGUARD), PAGE)
    (tmp_path / "urlguard.service").write_text(systemd.unit(made))
    for path in re.findall(r"`/etc/systemd/system/(\w+\.service\.d/\S+\.conf)`", PRODUCTION):
        (tmp_path / path).write_text(saved(f"/etc/systemd/system/{path}"))
    assert len(list(tmp_path.glob("*.d/*.conf"))) == 2
    units = [str(tmp_path / "unbound.service"), str(tmp_path / "urlguard.service")]
    done = subprocess.run(
        [need("systemd-analyze"), "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        timeout=60,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:/lib/systemd/system", "PATH": "/usr/bin:/bin"},
    )
    said = done.stderr.replace(str(Path(sys.prefix)), "")
    assert not [line for line in said.splitlines() if "urlguard" in line or "unbound" in line], said


@peer
def test_the_firewall_takes_the_rules(tmp_path):
    """
    nft finds nothing wrong with the page's rules.
    """
    nft = need("nft")
    unshare = shutil.which("unshare")
    inside = [unshare, "-rn"] if unshare else []
    if subprocess.run([*inside, nft, "list", "tables"], capture_output=True).returncode:
        pytest.skip("nftables is not permitted here")
    (tmp_path / "rules").write_text(saved("/etc/nftables.conf"))
    done = subprocess.run(
        [*inside, nft, "-c", "-f", str(tmp_path / "rules")], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


# -- sizing ----------------------------------------------------------------------------------------


def number(pattern, page=SIZING):
    """The figure that a pattern finds on the page, once."""
    (found,) = re.findall(pattern, " ".join(page.split()))
    return int(found.replace(",", ""))


def test_descriptors_are_reckoned_as_the_page_does():
    """
    The formula of the page is what the server reckons with, and so is its example.
    """
    assert "tcp_connections + upstreams × (ports × 1.25 + 4) + 512" in SIZING
    made = config.parse({"forward": {"upstreams": ["127.0.0.1:5353"]}}, PAGE)
    assert sockets.descriptors(made) == number(r"\+ 512 = ([\d,]+\d)")
    zones = {"a.example": ["192.0.2.2", "192.0.2.3", "192.0.2.4"], "b.example": ["192.0.2.2"]}
    forward = {"upstreams": ["192.0.2.1"], "zones": zones, "ports": 400}
    more = config.parse({"forward": forward, "server": {"tcp_connections": 7}}, PAGE)
    assert sockets.descriptors(more) == 7 + 4 * (400 * 1.25 + 4) + 512
    few = config.parse({"forward": {"ports": 16}}, PAGE)
    assert sockets.descriptors(few) == 1024 + 3 * (16 + 16 + 4) + 512


def test_source_ports_are_reckoned_as_the_page_does():
    """
    A quarter more are open while ports are re-drawn, of all those from 16384 up.
    """
    assert spare(256) == 256 // 4
    assert number(r"well below ([\d,]+\d)") == 65_536 - 16_384
    assert number(r"three upstreams and 256 ports it is ([\d,]+\d)") == 16 * 3 * (256 + spare(256))


def test_bounds_of_memory_are_those_of_the_page():
    """
    Ready answers and unread answers are bounded by the figures of the page.
    """
    assert number(r"up to ([\d,]+) in each worker") == MAX_ENTRIES
    assert number(r"reading pauses at (\d+) KiB") << 10 == tcp._WRITE_LIMIT
    assert number(r"of them, or (\d+) open queries") == tcp.MAX_PIPELINED


def test_the_receive_buffer_is_the_one_asked_for(monkeypatch):
    """
    What the page permits to the kernel is what the server asks it for.
    """
    asked = []

    class Recording(socket.socket):
        def setsockopt(self, level, option, *value):
            if option == socket.SO_RCVBUF:
                asked.extend(value)
            return super().setsockopt(level, option, *value)

    monkeypatch.setattr(sockets.socket, "socket", Recording)
    for _, sock in sockets.open_sockets(config.endpoint("127.0.0.1:0"), 1)[0]:
        sock.close()
    assert asked == [number(r"-w net\.core\.rmem_max=(\d+)")]


def test_the_answer_of_readyz_is_where_the_page_asks():
    """
    The page's address of /readyz is where the API listens unless told otherwise.
    """
    listen = config.parse(tomllib.loads(URLGUARD), PAGE).api.listen
    assert f"http://{listen}/readyz" in PRODUCTION
