"""Names asked of upstreams on loopback, and where proofs are looked for."""

import asyncio
import time

import dns.rcode
import dns.rrset
import pytest

from tests.fetch.world import Names, Site, answer, on_loopback
from urlguard import config
from urlguard.errors import ConfigError
from urlguard.fetch import bounds, http, lookup, proof
from urlguard.fetch.bounds import Bounds, FetchError
from urlguard.fetch.lookup import Lookup

TEXT = "urlguard-proof=abc"
ZONE = {
    ("shop.example", "A"): ["192.0.2.1", "192.0.2.2"],
    ("shop.example", "AAAA"): ["2001:db8::1"],
    ("_urlguard.shop.example", "TXT"): [f'"{TEXT}"', '"two " "parts"', '"\\255"', '""'],
    ("old.example", "A"): ["192.0.2.3"],
    ("alias.example", "CNAME"): "old.example",
    ("_urlguard.alias.example", "CNAME"): "_urlguard.shop.example",
    ("empty.example", "TXT"): ['"x"'],
    ("many.example", "A"): [f"192.0.2.{n}" for n in range(33)],
    ("_urlguard.long.example", "TXT"): [f'"{n} {"x" * 250}"' for n in range(100)],
    ("_urlguard.longer.example", "TXT"): [f'"{n}"' for n in range(101)],
}


def asking(*names, tls=None, **options):
    """A look-up at these upstreams."""
    end = "" if tls is None else f"#{tls}"
    start = "" if tls is None else "tls://"
    texts = [f"{start}127.0.0.1:{one.port}{end}" for one in names]
    return Lookup([config.upstream(text) for text in texts], **options)


async def test_addresses():
    """
    IPv4 and IPv6, with and without one of them, behind an alias.
    """
    async with Names(ZONE) as names:
        found = asking(names)
        *older, newer = await found.addresses("shop.example")
        assert (set(older), newer) == ({"192.0.2.1", "192.0.2.2"}, "2001:db8::1")
        assert await found.addresses("alias.example") == ["192.0.2.3"]
        assert {kind for _, kind, _ in names.asked} == {"A", "AAAA"}
        for name, wrong in [("none", "0 addresses"), ("empty", "0 addr"), ("many", "33 addr")]:
            with pytest.raises(FetchError, match=wrong):
                await found.addresses(f"{name}.example")


async def test_txt():
    """
    The strings of a record are one text, octets that are no text are marked, and none is none.
    """
    async with Names(ZONE) as names:
        found = asking(names)
        expected = sorted([TEXT, "two parts", "\ufffd", ""])
        assert sorted(await proof.txt(found, "Shop.example.")) == expected
        assert names.asked == [("_urlguard.shop.example", "TXT", "udp")]
        assert sorted(await proof.txt(found, "alias.example")) == expected
        assert await proof.txt(found, "none.example") == []
        assert await proof.txt(found, "old.example") == []


async def test_long_answers():
    """
    What does not fit into a datagram comes over TCP; too many records are none.
    """
    async with Names(ZONE) as names:
        found = await asking(names).txt("_urlguard.long.example")
        assert {text.split()[0] for text in found} == {str(n) for n in range(100)}
        assert [way for _, _, way in names.asked] == ["udp", "tcp"]
        with pytest.raises(FetchError, match="101 TXT records, limit is 100"):
            await asking(names).txt("_urlguard.longer.example")


async def test_upstreams_in_turn(monkeypatch):
    """
    One that is silent or cannot tell is passed over; a name that does not exist ends the search.
    """
    monkeypatch.setattr(lookup, "TRY_S", 0.1)
    async with Names(ZONE) as first, Names(ZONE) as second, Names({}) as third:
        first.silent = True
        second.rcode = dns.rcode.SERVFAIL
        found = await asking(first, second, third).txt("_urlguard.shop.example")
        assert found == []
        with pytest.raises(FetchError, match=f"127.0.0.1:{second.port}: answered SERVFAIL"):
            await asking(first, second).txt("_urlguard.shop.example")
        with pytest.raises(FetchError, match=": no answer within"):
            await asking(second, first).addresses("shop.example")
        with pytest.raises(FetchError, match="no upstream to ask"):
            await asking().txt("_urlguard.shop.example")


@pytest.mark.timing
async def test_bounded_time(monkeypatch):
    """
    However many upstreams are silent, a look-up ends.
    """
    monkeypatch.setattr(lookup, "LOOKUP_S", 0.3)
    async with Names(ZONE) as names:
        names.silent = True
        begun = time.monotonic()
        with pytest.raises(FetchError, match=r"no answer within 0\.3 s"):
            await asking(*[names] * 5).txt("_urlguard.shop.example")
        assert time.monotonic() - begun < 2


class Liar(Names):
    """Sends forged replies before the true one: another ID, another question, no DNS."""

    def datagram_received(self, data, client):
        forged = self._reply(data, "udp")
        forged.answer[0] = dns.rrset.from_text("_urlguard.shop.example.", 60, "IN", "TXT", '"no"')
        forged.id ^= 1
        self._udp.sendto(forged.to_wire(), client)
        self._udp.sendto(b"junk", client)
        self._udp.sendto(data[:2] + b"\xff" * 40, client)
        super().datagram_received(data, client)


async def test_forged_replies():
    """
    A datagram that is no reply to this question is as if it had not come.
    """
    async with Liar(ZONE) as names:
        found = await asking(names).txt("_urlguard.shop.example")
        assert TEXT in found
        assert "no" not in found


async def test_over_tls(authority, tmp_path):
    """
    An upstream over TLS is asked over TLS, by the name that its certificate must bear.
    """
    async with Names(ZONE, authority.server("dns.example")) as names:
        found = asking(names, tls="dns.example", ca_file=authority.file)
        assert TEXT in await found.txt("_urlguard.shop.example")
        assert [way for _, _, way in names.asked] == ["tcp"]
        for wrong in (
            asking(names, tls="other.example", ca_file=authority.file),
            asking(names, tls="dns.example"),
        ):
            with pytest.raises(FetchError, match="certificate"):
                await wrong.txt("_urlguard.shop.example")
        assert len(names.asked) == 1
        with pytest.raises(ConfigError, match="must hold certificates"):
            asking(names, tls="dns.example", ca_file=tmp_path / "none.pem")


@pytest.mark.parametrize(
    "name", ["", "shop", "127.0.0.1", "a b.example", "shop.example/x", "[::1]", "x" * 250 + ".a"]
)
async def test_what_is_no_domain(name):
    """
    Only a domain can be proved; nothing else is asked for.
    """
    async with Names(ZONE) as names:
        found = asking(names)
        for work in (proof.txt(found, name), proof.file(http.Client(found.addresses), name)):
            with pytest.raises(FetchError, match="name") as caught:
                await work
            assert caught.value.refused
        assert names.asked == []


async def test_a_file_over_either_scheme(authority):
    """
    HTTPS first; HTTP if that gives no file for whatever reason; if neither does, both are told.
    """
    context = authority.server("shop.example")

    async def resolve(_):
        return ["127.1.0.1"]

    async def found(secure, plain):
        rules = Bounds(on_loopback, authority.file, plain.port, secure.port, 2.0)
        return await proof.file(http.Client(resolve, rules), "SHOP.example")

    async with Site(answer(b"s"), context) as secure, Site(answer(b"p")) as plain:
        assert await found(secure, plain) == bounds.Fetched(200, b"s", "https")
        assert plain.requests == []
        for wrong in (answer(b"", "404 No"), answer(b"", "301 No", "Location: /x"), b""):
            secure.behave = wrong
            assert await found(secure, plain) == bounds.Fetched(200, b"p", "http")
        plain.behave = answer(b"", "403 No")
        with pytest.raises(FetchError, match=r"https://shop.*disconnected; http://shop.*403"):
            await found(secure, plain)


async def test_cancelled():
    """
    Whoever gives up waiting leaves nothing behind.
    """
    async with Names(ZONE) as names:
        names.silent = True
        task = asyncio.create_task(asking(names).addresses("shop.example"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
