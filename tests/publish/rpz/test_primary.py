"""The primary: transfers, signatures, limits, and a real BIND as secondary."""

import asyncio
import base64
import contextlib
import dataclasses
import ipaddress
import socket
import struct
import time

import dns.asyncquery
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.tsig
import dns.tsigkeyring
import dns.versioned
import dns.xfr
import dns.zone
import pytest

from tests import bind
from urlguard.config import Config, Endpoint, Guard, Rpz, TsigKey
from urlguard.policy.location import open_log
from urlguard.policy.model import Change
from urlguard.publish.rpz import primary

ZONE = "rpz.test"
SECRET = base64.b64encode(b"sixteen octets!!" * 2).decode()
OTHER = base64.b64encode(b"another secret!!" * 2).decode()
KEY = dns.tsigkeyring.from_text({"k1": ("hmac-sha256", SECRET)})
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


class Server:
    """A primary at work, with its log."""

    def __init__(self, folder, *, signed=False, allow=LOOPBACK, guard=None) -> None:
        (folder / "k1.secret").write_text(SECRET + "\n")
        keys = (TsigKey("k1", "hmac-sha256", folder / "k1.secret"),) if signed else ()
        self.config = dataclasses.replace(
            Config(),
            state_dir=folder,
            rpz=Rpz((Endpoint("127.0.0.1", 0),), ZONE, allow, keys),
            guard=guard or Guard(answer="nxdomain"),
        )
        self.log = open_log(self.config)

    def commit(self, *keys, action="block", source="operator"):
        """Commit rules; returns the serial."""
        changes = [Change(key, action, "x") for key in keys]
        return self.log.commit(source, changes, actor="t", reason="t").serial

    async def __aenter__(self):
        self.primary = primary.Primary(self.config)
        await self.primary.start()
        await self.caught_up()
        self.port = self.primary.endpoints[0].port
        return self

    async def __aexit__(self, *_):
        await self.primary.stop()
        self.log.close()

    async def caught_up(self):
        """Wait until the zone is of the log's last batch."""
        self.primary.changed()
        async with asyncio.timeout(30):
            while self.primary.state is None or self.primary.state.at < self.log.serial:
                await asyncio.sleep(0.01)

    async def ask(self, query, udp=False):
        """One reply."""
        do = dns.asyncquery.udp if udp else dns.asyncquery.tcp
        return await do(query, "127.0.0.1", port=self.port, timeout=5)

    async def transfer(self, zone=None, **options):
        """Transfer, by IXFR if `zone` has content; returns the zone."""
        zone = zone or dns.versioned.Zone(ZONE)
        query, _ = dns.xfr.make_query(zone, **options)
        await dns.asyncquery.inbound_xfr(
            "127.0.0.1", zone, query, port=self.port, timeout=10, lifetime=20
        )
        return zone


def content(zone):
    """Owner → rdata, without the apex."""
    return {
        name.to_text(): sorted(r.to_text() for r in rdataset)
        for name, rdataset in zone.iterate_rdatasets()
        if name != dns.name.empty
    }


def serial(zone):
    """The zone's SOA serial."""
    return zone.find_rdataset("@", "SOA")[0].serial


@pytest.fixture
def server(tmp_path):
    """Makes servers."""
    return lambda **options: Server(tmp_path, **options)


@pytest.mark.parametrize(
    ("answer", "records"),
    [
        ("nxdomain", ["."]),
        ("nodata", ["*."]),
        ("refused", ["."]),
        ("sinkhole", ["192.0.2.7", "2001:db8::7"]),
        ("zero", ["0.0.0.0", "::"]),
    ],
)
async def test_blocks_are_written_as_the_guard_answers(server, answer, records):
    """
    Each way to answer a blocked name has its records; what is allowed passes through.
    """
    guard = Guard(
        answer=answer,
        sinkhole_ipv4=ipaddress.IPv4Address("192.0.2.7"),
        sinkhole_ipv6=ipaddress.IPv6Address("2001:db8::7"),
    )
    async with server(guard=guard) as s:
        s.commit("subtree x.test")
        s.commit("domain ok.x.test", action="allow")
        await s.caught_up()
        zone = await s.transfer()
        found = {}
        for name, rdataset in zone.iterate_rdatasets():
            if name != dns.name.empty:
                found.setdefault(name.to_text(), []).extend(r.to_text() for r in rdataset)
        assert found.pop("ok.x.test") == ["rpz-passthru."]
        assert found == dict.fromkeys(("x.test", "*.x.test", "*.ok.x.test"), records)
        assert zone.find_rdataset("@", "NS")[0].to_text() == "localhost."
        assert zone.find_rdataset("x.test", "CNAME" if len(records) == 1 else "A").ttl == 30


async def test_ixfr_brings_what_axfr_brings(server):
    """
    Additions, removals and restated nodes all arrive by IXFR, in less than a kilobyte.
    """
    async with server() as s:
        s.commit("subtree x.test", "subtree y.test")
        await s.caught_up()
        zone = await s.transfer()
        for keys, action in [
            (["domain a.b.x.test"], "allow"),
            (["subtree y.test"], None),
            (["domain a.b.x.test", "subtree z.test"], "review"),  # the zone stays as it is
            (["below x.test"], "allow"),
        ]:
            now = s.commit(*keys, action=action)
            await s.caught_up()
            await s.transfer(zone)
            whole = await s.transfer()
            assert content(zone) == content(whole)
            assert serial(zone) == serial(whole) == s.primary.state.serial <= now
        assert s.primary.transfers == {"axfr": 5, "ixfr": 3, "soa": 1}


async def test_one_change_is_small(server):
    """
    IXFR for one name stays below 1 KB, and a serial that nobody published gets AXFR.
    """
    async with server() as s:
        first = s.commit(*(f"subtree n{i}.test" for i in range(3000)))
        await s.caught_up()
        s.commit("subtree x.test")
        await s.caught_up()
        for since, least, most in ((first, 1, 1000), (first + 77, 1, 100), ((1 << 31) - 7, 1, 100)):
            wire = await raw(s.port, ixfr(since).to_wire())
            assert least <= len(wire) <= most, since
        assert len(await raw(s.port, ixfr(0).to_wire())) > 100_000  # 6,000 records


def ixfr(since):
    """An IXFR query."""
    query = dns.message.make_query(ZONE, "IXFR")
    text = f"a. b. {since} 0 0 0 0"
    query.authority.append(dns.rrset.from_text(f"{ZONE}.", 0, "IN", "SOA", text))
    return query


async def raw(port, message):
    """All octets of the reply to a message over TCP, until the server has no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(struct.pack("!H", len(message)) + message)
    writer.write_eof()
    data = await reader.read(-1)
    writer.close()
    await writer.wait_closed()
    return data


async def test_serial_wraps(server):
    """
    Serials are modulo 2^32 (RFC 1982): the secondary's 2^32 - 1 comes before our 0.
    """
    async with server() as s:
        look, kind = s.primary.look, dns.rdatatype.SOA
        assert look.soa((1 << 32) + 5)[1][0][-20:-16] == (5).to_bytes(4, "big")
        assert kind == primary.SOA


@pytest.mark.parametrize("udp", [True, False], ids=["udp", "tcp"])
async def test_soa_and_refusals(server, udp):
    """
    SOA is answered; other names, types and opcodes are refused by the right code.
    """
    async with server() as s:
        s.commit("subtree x.test")
        await s.caught_up()
        for name, kind, rcode in [
            (ZONE, "SOA", "NOERROR"),
            (ZONE.upper(), "SOA", "NOERROR"),
            (ZONE, "NS", "REFUSED"),
            (f"x.test.{ZONE}", "A", "REFUSED"),
            ("other.test", "SOA", "REFUSED"),
            ("other.test", "AXFR", "REFUSED"),
        ]:
            reply = await s.ask(dns.message.make_query(name, kind), udp)
            assert dns.rcode.to_text(reply.rcode()) == rcode, (name, kind)
            if rcode == "NOERROR":
                assert reply.answer[0][0].serial == 1
        chaos = dns.message.make_query(ZONE, "SOA", "CH")
        assert (await s.ask(chaos, udp)).rcode() == dns.rcode.REFUSED
        update = dns.message.make_query(ZONE, "SOA")
        update.set_opcode(5)
        assert (await s.ask(update, udp)).rcode() == dns.rcode.NOTIMP


async def test_transfers_over_udp(server):
    """
    IXFR over UDP is answered with the SOA, which means TCP; AXFR has no form there.
    """
    async with server() as s:
        s.commit("subtree x.test")
        await s.caught_up()
        reply = await s.ask(ixfr(0), udp=True)
        assert [r.rdtype for r in reply.answer] == [dns.rdatatype.SOA]
        reply = await s.ask(dns.message.make_query(ZONE, "AXFR"), udp=True)
        assert reply.rcode() == dns.rcode.FORMERR


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        (b"", None),
        (b"\0\1\0\0", None),
        (b"\0\1\x80\0" + bytes(8), None),  # an answer is never answered
        (b"\0\1\0\0" + bytes(8), 1),  # no question
        (b"\0\1\0\0\0\1" + bytes(6) + b"\x05abc", 1),  # cut off
        (b"\0\1\0\0\0\1" + bytes(6) + b"\xc0\x0c\0\6\0\1", 1),  # a pointer to itself
        (b"\0\1\0\0\0\2" + bytes(6) + b"\1a\0\0\6\0\1" * 2, 1),
        (b"\0\1\x28\0\0\1" + bytes(6) + b"\1a\0\0\6\0\1", 4),  # UPDATE
        (b"\0\1\0\0\0\1\0\0\0\0\0\1\1a\0\0\6\0\1" + b"\0\0\xfa\0\xff\0\0\0\0\0\0", 1),
    ],
)
async def test_what_is_malformed_gets_its_code(server, data, rcode):
    """
    No message breaks the primary; answers and fragments of headers get no reply.
    """
    async with server() as s:
        reply = s.primary.answer(data, "127.0.0.1", udp=True)
        assert (None if reply is None else reply[3] & 15) == rcode


async def test_only_the_allowed_may_ask(server):
    """
    Other addresses get REFUSED, whatever they say.
    """
    async with server(allow=(ipaddress.ip_network("192.0.2.0/24"),)) as s:
        reply = await s.ask(dns.message.make_query(ZONE, "SOA"), udp=True)
        assert reply.rcode() == dns.rcode.REFUSED
        with pytest.raises(dns.xfr.TransferError):
            await s.transfer()


# Signatures


async def test_signed_transfer_of_many_messages(server):
    """
    Every message of a transfer carries a good signature, over UDP as over TCP.
    """
    async with server(signed=True) as s:
        s.commit(*(f"subtree n{i}.test" for i in range(5000)))
        await s.caught_up()
        zone = await s.transfer(keyring=KEY)
        assert len(content(zone)) == 10_000
        s.commit("subtree x.test")
        await s.caught_up()
        await s.transfer(zone, keyring=KEY)
        assert "x.test" in content(zone)
        query = dns.message.make_query(ZONE, "SOA")
        query.use_tsig(KEY)
        assert (await s.ask(query, udp=True)).had_tsig


def signed(name="k1", secret=SECRET, algorithm="hmac-sha256"):
    """A signed SOA query."""
    query = dns.message.make_query(ZONE, "SOA")
    query.use_tsig(dns.tsigkeyring.from_text({name: (algorithm, secret)}))
    return query


@pytest.mark.parametrize(
    ("query", "error"),
    [
        (signed(name="k2"), dns.rcode.BADKEY),
        (signed(algorithm="hmac-sha512"), dns.rcode.BADKEY),
        (signed(secret=OTHER), dns.rcode.BADSIG),
    ],
    ids=["name", "algorithm", "secret"],
)
async def test_bad_signatures_get_notauth(server, query, error):
    """
    An unknown key or a wrong MAC gets NOTAUTH, with the TSIG error and no MAC (RFC 8945 5.2).
    """
    async with server(signed=True) as s:
        reply = s.primary.answer(query.to_wire(), "127.0.0.1", udp=False)
        message = dns.message.from_wire(reply, keyring=lambda *_: False)
        assert message.rcode() == dns.rcode.NOTAUTH
        assert message.tsig[0].error == error
        assert message.tsig[0].mac == b""


async def test_wrong_clock_gets_badtime_signed(server, monkeypatch):
    """
    A request of an hour ago gets BADTIME with our time, in a signed reply (RFC 8945 5.2.3).
    """
    async with server(signed=True) as s:
        now = time.time()
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: now - 3600)
            query = signed()
            wire = query.to_wire()
        reply = s.primary.answer(wire, "127.0.0.1", udp=False)
        message = dns.message.from_wire(reply, keyring=lambda *_: False)
        record = message.tsig[0]
        assert (message.rcode(), record.error) == (dns.rcode.NOTAUTH, dns.rcode.BADTIME)
        assert abs(int.from_bytes(record.other, "big") - now) < 5
        assert len(record.mac) == 32


async def test_unsigned_is_refused_where_there_are_keys(server):
    """
    With keys configured, a request without signature gets REFUSED.
    """
    async with server(signed=True) as s:
        reply = await s.ask(dns.message.make_query(ZONE, "SOA"), udp=True)
        assert reply.rcode() == dns.rcode.REFUSED


# Limits


async def test_a_secondary_that_takes_nothing_is_let_go(server, monkeypatch):
    """
    One that stops reading loses its connection; others are served meanwhile, and nobody waits.
    """
    monkeypatch.setattr(primary, "CHUNK_S", 0.3)
    monkeypatch.setattr(primary, "CHUNK", 4_000_000)
    async with server() as s:
        s.commit(*(f"subtree n{i}.{'long' * 10}.test" for i in range(45_000)))
        await s.caught_up()
        stuck = socket.create_connection(("127.0.0.1", s.port))
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        query = dns.message.make_query(ZONE, "AXFR").to_wire()
        stuck.sendall(struct.pack("!H", len(query)) + query)
        async with asyncio.timeout(10):
            while not s.primary._connections:
                await asyncio.sleep(0.01)
            reply = await s.ask(dns.message.make_query(ZONE, "SOA"))
            assert reply.rcode() == 0
            while s.primary._connections:
                await asyncio.sleep(0.05)
        stuck.close()
        assert s.primary._slots._value == primary.MAX_TRANSFERS


async def test_no_more_transfers_than_slots(server, monkeypatch):
    """
    A transfer beyond the limit gets SERVFAIL after a while, and the secondary tries again.
    """
    monkeypatch.setattr(primary, "SLOT_S", 0.05)
    async with server() as s:
        s.commit("subtree x.test")
        await s.caught_up()
        for _ in range(primary.MAX_TRANSFERS):
            await s.primary._slots.acquire()
        reply = await raw(s.port, dns.message.make_query(ZONE, "AXFR").to_wire())
        assert reply[5] & 15 == dns.rcode.SERVFAIL
        s.primary._slots.release()
        assert content(await s.transfer())


async def test_cut_off_transfer_leaves_nothing(server):
    """
    A connection that dies in the middle frees its slot, and the next transfer is whole.
    """
    async with server() as s:
        s.commit(*(f"subtree n{i}.test" for i in range(5_000)))
        await s.caught_up()
        for _ in range(6):
            _, writer = await asyncio.open_connection("127.0.0.1", s.port)
            query = dns.message.make_query(ZONE, "AXFR").to_wire()
            writer.write(struct.pack("!H", len(query)) + query)
            await writer.drain()
            writer.transport.abort()
        zone = await s.transfer()
        assert len(content(zone)) == 10_000


async def test_too_much_at_once_is_built_again(server, monkeypatch):
    """
    A batch too large to follow is built in another process; the secondary gets it by AXFR.
    """
    async with server() as s:
        s.commit("subtree x.test")
        await s.caught_up()
        zone = await s.transfer()
        monkeypatch.setattr("urlguard.publish.rpz.store.MAX_EFFECTS", 10)
        s.commit(*(f"subtree n{i}.test" for i in range(100)))
        await s.caught_up()
        await s.transfer(zone)
        assert len(content(zone)) == 202
        assert s.primary.transfers == {"axfr": 2}
        s.commit("subtree y.test")
        await s.caught_up()
        await s.transfer(zone)
        assert s.primary.transfers == {"axfr": 2, "ixfr": 1}


async def test_restart_goes_on_with_ixfr(server):
    """
    The journal survives: after a restart a secondary still gets only what changed.
    """
    async with server() as s:
        s.commit("subtree x.test")
        await s.caught_up()
        zone = await s.transfer()
    s = server()
    s.commit("subtree y.test")
    async with s:
        await s.transfer(zone)
        assert s.primary.transfers == {"ixfr": 1}
        assert "y.test" in content(zone)


async def test_another_log_is_noticed(server, tmp_path):
    """
    Where the log was replaced, the zone is built again from it.
    """
    async with server() as s:
        s.commit("subtree x.test")
        await s.caught_up()
    for path in tmp_path.glob("policy.db*"):
        path.unlink()
    s = server()
    s.commit("subtree y.test")
    async with s:
        assert set(content(await s.transfer())) == {"y.test", "*.y.test"}


# Without a server


def test_what_is_left_out_is_listed(server, tmp_path):
    """
    Overview, zone file and list of unsayable rules need no server.
    """
    s = server()
    long = ".".join(["a" * 61] * 3 + ["b" * 60])
    s.commit("subtree x.test", "pattern *paypal*", "url y.test/a", f"domain {long}")
    s.log.close()
    listed = dict(primary.unsayable(s.config))
    assert set(listed) == {"pattern *paypal*", "url y.test/a", f"domain {long}"}
    rows = dict(primary.overview(s.config))
    assert rows["records that block"] == "2"
    assert [rows[f"left out: {what}"] for what in ("patterns", "URL rules", "names")] == ["1"] * 3
    with (tmp_path / "zone").open("w+") as file:
        assert primary.write_zone(s.config, file) == 2
        file.seek(0)
        zone = dns.zone.from_file(file, check_origin=True)
    assert (zone.origin.to_text(), serial(zone)) == ("rpz.test.", 1)
    assert set(content(zone)) == {"x.test", "*.x.test"}


# A real secondary


@pytest.mark.peer
async def test_bind_transfers_with_tsig(server, tmp_path):
    """
    BIND gets the zone by signed AXFR, then a change by IXFR, and enforces both; a blocked name
    passes again once the rule is gone.
    """
    bind.need("named")
    async with contextlib.AsyncExitStack() as stack:
        s = await stack.enter_async_context(server(signed=True))
        s.commit("subtree x.test")
        s.commit("domain ok.x.test", action="allow")
        await s.caught_up()
        named = await stack.enter_async_context(
            bind.Bind(tmp_path / "named", s.port, key=("k1", SECRET))
        )
        await named.has_serial(2)
        for name, blocked in [
            ("x.test", True),
            ("a.b.x.test", True),
            ("ok.x.test", False),
            ("below.ok.x.test", True),
            ("y.test", False),
        ]:
            reply = await named.ask(name)
            assert (reply.rcode() == dns.rcode.NXDOMAIN) is blocked, name
        s.commit("subtree y.test")
        s.commit("subtree x.test", action=None)
        await s.caught_up()
        await named.has_serial(4)
        assert (await named.ask("a.y.test")).rcode() == dns.rcode.NXDOMAIN
        assert (await named.ask("a.x.test")).rcode() == dns.rcode.NOERROR
        assert s.primary.transfers == {"axfr": 1, "ixfr": 1}


@pytest.mark.peer
async def test_bind_with_a_wrong_secret_gets_nothing(server, tmp_path):
    """
    A secondary whose secret is wrong learns so, and gets no zone.
    """
    bind.need("named")
    async with contextlib.AsyncExitStack() as stack:
        s = await stack.enter_async_context(server(signed=True))
        s.commit("subtree x.test")
        await s.caught_up()
        named = await stack.enter_async_context(
            bind.Bind(tmp_path / "named", s.port, key=("k1", OTHER))
        )
        await named.saw("tsig indicates error")
        assert not s.primary.transfers
