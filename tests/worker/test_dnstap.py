"""dnstap: what a frame holds and must not hold, and the connection to the collector."""

import asyncio
import ipaddress
import json
import re
import struct
import subprocess
import time

import dns.edns
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import dns.tsig
import dns.tsigkeyring
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.system.test_peers import needs
from urlguard.config import Dnstap
from urlguard.wire.query import TCP, UDP
from urlguard.worker import dnstap
from urlguard.worker.dnstap import (
    ACCEPT,
    CONTENT_TYPE,
    FINISH,
    READY,
    START,
    STOP,
    DnsTap,
    control_frame,
    masked,
    read_control,
)

CLIENT = "192.0.2.41"
SECRETS = [
    dns.edns.CookieOption(b"cookie-1", b""),
    dns.edns.ECSOption("192.0.2.0", 24),
    dns.edns.GenericOption(65001, bytes.fromhex("00005e0053ff")),  # dnsmasq's: the device's MAC
    dns.edns.GenericOption(65073, b"subscriber-4711"),
]


def query(name="www.example.org", qtype="A", options=(), **how):
    """A query's octets."""
    how.setdefault("use_edns", 0)
    return dns.message.make_query(name, qtype, options=list(options), **how).to_wire()


def answer(options=(), extra=None):
    """An answer's octets: two records, names compressed, with EDNS."""
    asked = dns.message.make_query("www.example.org", "A", use_edns=0)
    found = dns.message.make_response(asked)
    found.answer.append(dns.rrset.from_text("www.example.org.", 60, "IN", "CNAME", "example.org."))
    found.answer.append(dns.rrset.from_text("example.org.", 60, "IN", "A", "192.0.2.80"))
    found.use_edns(0, options=list(options))
    if extra:
        found.additional.append(extra)
    return found.to_wire()


# -- reading back ----------------------------------------------------------------------------------


def fields(data):
    """A protobuf message's fields: from number to the list of its values."""
    found, at = {}, 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            octet = data[at]
            at += 1
            value |= (octet & 127) << shift
            shift += 7
            if octet < 128:
                return value

    while at < len(data):
        key = varint()
        match key & 7:
            case 0:
                value = varint()
            case 2:
                size = varint()
                value = data[at : at + size]
                assert len(value) == size
                at += size
            case 5:
                (value,) = struct.unpack_from("<I", data, at)
                at += 4
            case other:
                raise AssertionError(f"wire type {other}")
        found.setdefault(key >> 3, []).append(value)
    return found


def only(found):
    """Each field once."""
    assert all(len(values) == 1 for values in found.values())
    return {number: values[0] for number, values in found.items()}


def frames(tap):
    """What waits in a tap, decoded: the outer fields and the message's."""
    for raw in tap._frames:
        assert int.from_bytes(raw[:4], "big") == len(raw) - 4
        outer = only(fields(raw[4:]))
        yield outer, only(fields(outer.pop(14)))


def make_tap(socket="/nowhere", *, addresses="pseudonym", identity="", when=10**18 + 5):
    """A tap with a fixed clock and a simple pseudonym."""
    options = Dnstap(socket=socket, addresses=addresses, identity=identity)
    return DnsTap(options, lambda client: bytes((240, 1, 2, 3)), lambda: when)


# -- frames ----------------------------------------------------------------------------------------


def test_a_query_frame():
    """
    A query is a CLIENT_QUERY with family, transport, pseudonym, time and message.
    """
    tap = make_tap(identity="ns1")
    tap.query(CLIENT, query(), transport=UDP)
    ((outer, message),) = frames(tap)
    assert outer[1] == b"ns1"
    assert outer[2].startswith(b"urlguard ")
    assert outer[15] == 1
    assert message == {1: 5, 2: 1, 3: 1, 4: b"\xf0\1\2\3", 8: 10**9, 9: 5, 10: message[10]}
    assert dns.message.from_wire(message[10]).question[0].name.to_text() == "www.example.org."


def test_an_answer_frame():
    """
    An answer is a CLIENT_RESPONSE with both times, over TCP and from IPv6 too.
    """
    tap = make_tap()
    tap.answer("2001:db8::1", answer(), transport=TCP, asked_ns=7 * 10**9)
    ((_, message),) = frames(tap)
    assert (message[1], message[2], message[3]) == (6, 2, 2)
    assert (message[8], message[9], message[12], message[13]) == (7, 0, 10**9, 5)
    assert len(dns.message.from_wire(message[14]).answer) == 2


@pytest.mark.parametrize(
    ("addresses", "client", "shown"),
    [
        ("network", "192.0.2.41", "192.0.2.0"),
        ("network", "2001:db8:1:2::3", "2001:db8:1::"),
        ("network", "fe80::1%eth0", "fe80::"),
        ("none", "192.0.2.41", None),
        ("pseudonym", "192.0.2.41", "240.1.2.3"),
    ],
)
def test_the_address_is_as_configured_in_both_frames(addresses, client, shown):
    """
    Queries and answers show the same, and no frame shows the client's address or port.
    """
    tap = make_tap(addresses=addresses)
    tap.query(client, query(), transport=UDP)
    tap.answer(client, answer(), transport=UDP)
    packed = ipaddress.ip_address(client.partition("%")[0]).packed
    for _, message in frames(tap):
        found = message.get(4)
        assert found == (None if shown is None else ipaddress.ip_address(shown).packed)
        assert not {5, 6, 7} & message.keys()
    assert not any(packed in raw for raw in tap._frames)


def test_without_a_key_there_is_no_address():
    """
    Until control has told the day's key, frames go without an address.
    """
    tap = DnsTap(Dnstap(socket="/nowhere"), lambda client: b"")
    tap.query(CLIENT, query(), transport=UDP)
    ((_, message),) = frames(tap)
    assert 4 not in message


@pytest.mark.parametrize("option", SECRETS, ids=lambda o: int(o.otype))
@pytest.mark.parametrize("make", [query, answer])
def test_options_that_identify_become_padding(make, option):
    """
    What the option held is nowhere in the frame; the rest of the message is as it was.
    """
    wire = make(options=[option])
    shown = masked(wire, is_query=make is query)
    assert len(shown) == len(wire)
    assert option.to_wire() not in shown
    before, after = dns.message.from_wire(wire), dns.message.from_wire(shown)
    assert before.question == after.question
    assert before.answer == after.answer
    assert [int(o.otype) for o in after.options] == [12]


def test_extended_errors_are_kept():
    """
    Why an answer is as it is identifies nobody, and stays beside what is masked.
    """
    options = [SECRETS[0], dns.edns.EDEOption(15, "blocked"), SECRETS[1]]
    shown = dns.message.from_wire(masked(answer(options=options), is_query=False))
    assert [int(o.otype) for o in shown.options] == [12, 15, 12]
    assert shown.options[1] == options[1]


def test_an_opt_record_before_others_is_masked_too():
    """
    Wherever the OPT record stands, its options are masked, and names behind it still decompress.
    """
    extra = dns.rrset.from_text("extra.example.org.", 60, "IN", "A", "192.0.2.81")
    wire = answer(options=[SECRETS[0]], extra=extra)
    # dnspython writes OPT last; put it first among the additional records.
    opt_at = wire.index(b"\0\0\x29")
    extra_at = wire.index(b"\x05extra")
    assert extra_at < opt_at
    moved = wire[:extra_at] + wire[opt_at:] + wire[extra_at:opt_at]
    shown = masked(moved, is_query=False)
    assert b"cookie-1" not in shown
    assert len(dns.message.from_wire(shown).additional) == 1


def signed():
    """A query with TSIG."""
    asked = dns.message.make_query("www.example.org", "A")
    asked.use_tsig(dns.tsigkeyring.from_text({"subscriber-4711.": "c2VjcmV0c2VjcmV0"}))
    return asked.to_wire()


def with_record():
    """A query with a record that has no business there."""
    asked = dns.message.make_query("www.example.org", "A")
    asked.additional.append(dns.rrset.from_text("who.example.", 0, "IN", "TXT", "subscriber-4711"))
    return asked.to_wire()


LEFT_OUT = {
    "signed": signed(),
    "with another record": with_record(),
    "cut in the OPT record": query(options=SECRETS)[:-3],
    "an option beyond its record": query(options=[SECRETS[0]])[:-10] + b"\xff\xff" + b"cookie-1",
    "two questions": query()[:5] + b"\2" + query()[6:],
    "cut in the question": query(use_edns=-1)[:-2],
    "empty": b"",
    "cut in the header": query()[:11],
}


@pytest.mark.parametrize("wire", LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_cannot_be_masked_is_left_out(wire):
    """
    The frame tells that something was asked, and is counted, without the message.
    """
    tap = make_tap()
    tap.query(CLIENT, wire, transport=UDP)
    ((_, message),) = frames(tap)
    assert 10 not in message
    assert tap.counters["left_out"] == 1


def test_an_answer_without_a_question_is_shown():
    """
    FORMERR to what could not be read is a header alone.
    """
    assert masked(b"\0\1\x81\x81" + bytes(8), is_query=False) == b"\0\1\x81\x81" + bytes(8)


@given(st.binary(max_size=80), st.booleans())
def test_any_octets_are_masked_or_left_out(data, is_query):
    """
    Nothing makes masking raise, and what it shows is never longer than what came.
    """
    shown = masked(data, is_query=is_query)
    assert shown is None or len(shown) <= len(data)


@given(st.binary(max_size=60))
def test_no_option_gets_through(content):
    """
    However a query's options are made, none but extended errors and padding are shown.
    """
    wire = query()
    wire = wire[:-2] + len(content).to_bytes(2, "big") + content
    shown = masked(wire, is_query=True)
    if shown is not None:
        at = len(query())
        while at < len(shown):
            code, length = struct.unpack_from("!HH", shown, at)
            at += 4 + length
            assert code == 15 or (code == 12 and not any(shown[at - length : at]))


def test_the_buffer_is_bounded(monkeypatch):
    """
    Without a collector frames are dropped at the bound, and counted.
    """
    monkeypatch.setattr(dnstap, "MAX_BUFFER", 1000)
    tap = make_tap()
    for _ in range(50):
        tap.query(CLIENT, query(), transport=UDP)
        tap.answer(CLIENT, answer(), transport=UDP)
    assert sum(map(len, tap._frames)) < 1300
    assert tap.counters["dropped"] == 100 - tap.counters["queued"] > 80


# -- the connection --------------------------------------------------------------------------------


class Collector:
    """A collector on a Unix socket, in asyncio."""

    def __init__(self, path, *, accept=True, read=True):
        self.path = path
        self.accept = accept
        self.read = read
        self.said = []
        self.frames = []
        self.connections = 0
        self._writers = []

    async def __aenter__(self):
        self.server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *_):
        self.server.close()
        self.hang_up()
        await asyncio.sleep(0.02)

    def hang_up(self):
        """Close all connections."""
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader, writer):
        self.connections += 1
        self._writers.append(writer)
        try:
            kind, types = await read_control(reader)
            self.said.append((kind, types))
            if not self.accept:
                writer.write(control_frame(FINISH))
                return
            writer.write(control_frame(ACCEPT, CONTENT_TYPE))
            self.said.append(await read_control(reader))
            while self.read:
                size = int.from_bytes(await reader.readexactly(4), "big")
                if size:
                    self.frames.append(await reader.readexactly(size))
                    continue
                length = int.from_bytes(await reader.readexactly(4), "big")
                kind = int.from_bytes((await reader.readexactly(length))[:4], "big")
                self.said.append((kind, []))
                writer.write(control_frame(FINISH))
                return
            await asyncio.sleep(60)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short waits."""
    monkeypatch.setattr(dnstap, "RETRY_S", (0.02,))
    monkeypatch.setattr(dnstap, "FLUSH_S", 0.01)
    monkeypatch.setattr(dnstap, "FINISH_S", 0.3)


async def until(condition, seconds=5.0):
    """Wait for something that must happen soon."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_whole_conversation(tmp_path):
    """
    READY, ACCEPT, START, the frames in order, STOP, FINISH; what waited before is sent too.
    """
    async with Collector(tmp_path / "tap.sock") as collector:
        tap = make_tap(collector.path)
        tap.query(CLIENT, query("first.example"), transport=UDP)
        tap.start()
        await until(lambda: tap.connected)
        tap.query(CLIENT, query("second.example"), transport=UDP)
        await tap.close()
        assert collector.said == [(READY, [CONTENT_TYPE]), (START, [CONTENT_TYPE]), (STOP, [])]
        assert [b"first" in f for f in collector.frames] == [True, False]
        assert tap.counters["sent"] == 2


async def test_the_collector_may_come_later_and_go_and_come(tmp_path, capsys):
    """
    The tap connects when there is somebody, and again after a loss; one event for each.
    """
    path = tmp_path / "tap.sock"
    tap = make_tap(path)
    tap.start()
    await asyncio.sleep(0.1)
    for number in (1, 2):
        async with Collector(path) as collector:
            await until(lambda: tap.connected)
            tap.query(CLIENT, query(f"n{number}.example"), transport=UDP)
            await until(lambda: collector.frames)
            collector.hang_up()
            await until(lambda: not tap.connected)
        path.unlink(missing_ok=True)
    await tap.close()
    said = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert said == ["dnstap.lost", *["dnstap.connected", "dnstap.lost"] * 2]


async def test_a_collector_for_something_else_is_left(tmp_path, capsys):
    """
    One that does not accept our frames gets none.
    """
    async with Collector(tmp_path / "tap.sock", accept=False) as collector:
        tap = make_tap(collector.path)
        tap.query(CLIENT, query(), transport=UDP)
        tap.start()
        await until(lambda: collector.connections > 1)
        await tap.close()
        assert not collector.frames
        assert tap.counters["sent"] == 0
    assert "the collector sent frame 5" in capsys.readouterr().err


async def test_a_collector_that_does_not_read_costs_frames_only(tmp_path, monkeypatch):
    """
    The buffer fills, frames are dropped, memory stays bounded and nothing waits.
    """
    monkeypatch.setattr(dnstap, "MAX_BUFFER", 20_000)
    monkeypatch.setattr(dnstap, "MAX_UNREAD", 20_000)
    async with Collector(tmp_path / "tap.sock", read=False) as collector:
        tap = make_tap(collector.path)
        tap.start()
        await until(lambda: tap.connected)
        longest = 0.0
        async with asyncio.timeout(10):
            while not tap.counters["dropped"]:
                started = time.process_time()  # of the processor: others may need it too
                for _ in range(50):
                    tap.answer(CLIENT, answer(), transport=UDP)
                longest = max(longest, time.process_time() - started)
                await asyncio.sleep(0.001)
        assert longest < 0.2
        assert sum(map(len, tap._frames)) < 21_000
        await tap.close()


@pytest.mark.parametrize(
    "nonsense",
    [b"HTTP/1.0 400 no\r\n\r\n", control_frame(START), b"\0\0\0\0\xff\xff\xff\xff", b"\0" * 8],
)
async def test_nonsense_from_a_collector(tmp_path, nonsense):
    """
    What is no handshake ends the connection, and the tap tries again.
    """
    connections = 0

    async def serve(_reader, writer):
        nonlocal connections
        connections += 1
        writer.write(nonsense)
        await asyncio.sleep(0.05)
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "tap.sock")
    tap = make_tap(tmp_path / "tap.sock")
    tap.start()
    await until(lambda: connections > 1)
    assert not tap.connected
    await tap.close()
    server.close()
    await asyncio.sleep(0.06)


# -- other makers' readers -------------------------------------------------------------------------


@pytest.mark.peer
async def test_fstrm_capture_and_dnstap_read(tmp_path):
    """
    The reference collector takes the frames, and BIND's reader shows them: what, when, who not.
    """
    capture, reader = needs("fstrm_capture", "dnstap-read")
    path, saved = tmp_path / "tap.sock", tmp_path / "saved.fstrm"
    process = subprocess.Popen(
        [capture, "-t", CONTENT_TYPE.decode(), "-u", str(path), "-w", str(saved)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        await until(path.exists)
        tap = make_tap(path, identity="ns1.example")
        tap.start()
        await until(lambda: tap.connected)
        for _ in range(200):
            tap.query(CLIENT, query(options=SECRETS), transport=UDP)
            tap.answer(CLIENT, answer(options=SECRETS), transport=TCP, asked_ns=10**18)
        await tap.close()
        await asyncio.sleep(0.2)
    finally:
        process.terminate()
        process.communicate(timeout=10)
    text = subprocess.run([reader, "-y", str(saved)], capture_output=True, text=True, check=True)
    assert text.stdout.count("type: CLIENT_QUERY") == 200
    assert text.stdout.count("type: CLIENT_RESPONSE") == 200
    assert set(re.findall(r'query_address: "(.*)"', text.stdout)) == {"240.1.2.3"}
    assert set(re.findall(r'^identity: "?([^"\n]*)', text.stdout, re.M)) == {"ns1.example"}
    assert set(re.findall(r"socket_protocol: (.*)", text.stdout)) == {"UDP", "TCP"}
    raw = saved.read_bytes()
    for secret in (b"cookie-1", b"subscriber-4711", ipaddress.ip_address(CLIENT).packed):
        assert secret not in raw
    assert saved.stat().st_size > 400 * 60
