"""One request to a stranger: what is never asked, and what a stranger cannot do."""

import asyncio
import contextlib
import gzip
import time

import pytest

from tests.fetch.world import CHUNKED, Site, answer, drip, on_loopback
from urlguard.fetch import http, trust
from urlguard.fetch.bounds import MAX_ANSWER, MAX_PROOF, MAX_SENT, Bounds, Fetched, FetchError

PROOF = b"urlguard-proof=abc\n"
PATH = "/.well-known/urlguard-proof.txt"


class World:
    """A client, and where names lead."""

    def __init__(self, authority, **bounds):
        self.leads = {}  # name to the addresses of each look-up; the last for good
        self.asked = []
        self.authority = authority
        given = {"public": on_loopback, "ca_file": authority.file, "total_s": 2.0, **bounds}
        self.client = http.Client(self.resolve, Bounds(**given))

    async def resolve(self, name):
        self.asked.append(name)
        found = self.leads.get(name, [["127.1.0.1"]])
        return found.pop(0) if len(found) > 1 else found[0]

    def site(self, behave, name="hook.example", **options):
        """A server with a certificate for a name."""
        return Site(behave, self.authority.server(name), **options)


@pytest.fixture
def world(authority):
    return World(authority)


async def post(world, site, url="https://hook.example:{}/a/secret?b=%2Fc", body=b"{}", **headers):
    """Send a webhook to a site; header names with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await world.client.post(url.format(site.port), body, named)


async def get(world, site, scheme="https"):
    """Read a proof file from a site."""
    bounds = Bounds(on_loopback, world.authority.file, site.port, site.port, 2.0)
    return await http.Client(world.resolve, bounds).get(f"{scheme}://shop.example{PATH}")


@contextlib.contextmanager
def fails(text, *, refused=False):
    """An error that says so, and the path of a webhook to nobody."""
    with pytest.raises(FetchError, match=text or None) as caught:
        yield
    assert caught.value.refused is refused
    assert "secret" not in str(caught.value)


async def test_a_webhook(world):
    """
    Body and headers arrive, by the name and with no more than they should say.
    """
    async with world.site(answer(b"thanks", "202 Accepted")) as site:
        found = await post(world, site, body=b"\0\xff{}", webhook_id="msg_1", Content_Type="a/b")
        assert found == Fetched(202, b"thanks", "https")
        assert found.ok
        assert site.hosts == ["hook.example"]
    ((head, body),) = site.requests
    assert body == b"\0\xff{}"
    first, *rest = head.rstrip().split("\r\n")
    assert first == "POST /a/secret?b=/c HTTP/1.1"
    assert {line.partition(":")[0] for line in rest} == {
        *("Host", "webhook-id", "Content-Type", "User-Agent", "Accept-Encoding", "Accept"),
        *("Content-Length", "Connection"),
    }
    assert {"Accept-Encoding: identity", "User-Agent: urlguard"} <= set(rest)
    assert f"Host: hook.example:{site.port}" in rest
    assert world.asked == ["hook.example"]


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_a_proof_file(world, scheme):
    """
    The octets of the file, over either scheme.
    """
    context = world.authority.server("shop.example") if scheme == "https" else None
    async with Site(answer(PROOF), context) as site:
        assert await get(world, site, scheme) == Fetched(200, PROOF, scheme)
    assert site.requests[0][0].startswith(f"GET {PATH} HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "url",
    [
        "http://hook.example/secret",
        "HTTP://hook.example/secret",
        "http://hook.example:443/secret",
        "http://hook.example:8080/secret",
        "ftp://hook.example/secret",
        "file:///etc/secret",
        "//hook.example/secret",
        "hook.example/secret",
        "",
        "https:///secret",
        "https://127.0.0.1/secret",
        "https://127.1/secret",
        "https://2130706433/secret",
        "https://0x7f000001/secret",
        "https://0x7f.1/secret",
        "https://8.8.8.8/secret",
        "https://[::1]/secret",
        "https://[::ffff:8.8.8.8]/secret",
        "https://[2606:4700::1111]/secret",
        "https://localhost/secret",
        "https://hook/secret",
        "https://user@hook.example/secret",
        "https://user:secret@hook.example/",
        "https://@hook.example/secret",
        "https://:@hook.example/secret",
        "https://hook.example:0/secret",
        "https://hook.example:25/secret",
        "https://hook.example:80/secret",
        "https://hook.example:1023/secret",
        "https://hook.example:65536/secret",
        "https://hook.example:x/secret",
        "https://hook.example\\@evil.example/secret",
        "https://hook.example\t/secret",
        "https://hook.example/secret\r\nX: y",
        "https://hook.example /secret",
        "https://hook%2eexample/secret",
        "https://hook..example/secret",
        "https://\uff48ook.example/secret",
        "https://hook.example/" + "s" * 2048,
    ],
)
async def test_urls_of_no_webhook(world, url):
    """
    What is no HTTPS URL of a name, to port 443 or a high one, is refused before it is looked up.
    """
    with fails("", refused=True):
        await world.client.post(url, b"", {})
    assert world.asked == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://hook.example", "https://hook.example"),
        ("https://hook.example:443/a", "https://hook.example/a"),
        ("https://hook.example:1024/a#b", "https://hook.example:1024/a"),
        ("HTTPS://HOOK.Example.:65535/A", "https://hook.example:65535/A"),
        ("https://hook.example/a@b?c@d", "https://hook.example/a@b?c@d"),
    ],
)
def test_urls_of_webhooks(url, shown):
    """
    The others are asked with a host in canonical form.
    """
    assert str(http.check_webhook(url)) == shown


@pytest.mark.parametrize(
    "url", ["https://shop.example:8443/", "http://shop.example:443/", "ftp://shop.example/"]
)
async def test_urls_of_no_proof(world, url):
    """
    A proof is read over HTTPS or HTTP at the usual port.
    """
    with fails("must be", refused=True):
        await world.client.get(url)
    assert world.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"content-length": "0"},
        {"Transfer-Encoding": "chunked"},
        {"Cookie": "a=b"},
        {"a b": "c"},
        {"": "c"},
        {"a": "b\r\nc: d"},
        {"a": "\u2603"},
        {"a": "b" * 5000},
    ],
)
async def test_headers_of_no_webhook(world, headers):
    """
    Headers that would change the message itself, or smuggle another in, are refused.
    """
    with fails("header", refused=True):
        await world.client.post("https://hook.example/", b"", headers)
    with fails("octets to send", refused=True):
        await world.client.post("https://hook.example/", bytes(MAX_SENT + 1), {})
    assert world.asked == []


@pytest.mark.parametrize(
    "addresses",
    [
        *(["10.0.0.1"], ["127.0.0.1"], ["169.254.169.254"], ["::1"], ["::ffff:127.1.0.1"]),
        *(["127.1.0.1", "127.0.0.1"], ["127.0.0.1", "127.1.0.1"], ["127.1.0.1", "fe80::1"]),
    ],
)
async def test_private_addresses(world, addresses):
    """
    A name with an address that is not public is refused, also if others of it are.
    """
    world.leads["hook.example"] = [addresses]
    async with world.site(answer()) as site:
        with fails("must lead to public addresses alone", refused=True):
            await post(world, site)
        assert site.connections == 0


async def test_the_rules_of_a_server(authority):
    """
    Without a test's bounds, loopback is not public.
    """

    async def resolve(_):
        return ["127.1.0.1"]

    with fails("leads to 127.1.0.1", refused=True):
        await http.Client(resolve).post("https://hook.example/", b"", {})


async def test_a_name_that_leads_elsewhere_later(world):
    """
    DNS rebinding: the name is looked up once, and the connection goes to what was checked.
    """
    world.leads["hook.example"] = [["127.1.0.1"], ["127.0.0.1"]]
    async with world.site(answer(b"outside")) as site:
        async with world.site(answer(b"inside"), host="127.0.0.1") as private:
            private.port = site.port
        found = await post(world, site)
        assert found.body == b"outside"
        assert world.asked == ["hook.example"]
        with fails("leads to 127.0.0.1", refused=True):
            await post(world, site)
    assert private.requests == []


async def test_one_of_two_addresses_is_dead(world):
    """
    The other one is used.
    """
    world.leads["hook.example"] = [["127.1.0.9", "127.1.0.1"]]
    async with world.site(answer()) as site:
        assert (await post(world, site)).ok


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "304 Same", "307 There", "308 There"])
async def test_redirects(world, status):
    """
    A redirect is told and not followed, whatever it leads to.
    """
    async with world.site(b"") as site:
        where = f"Location: https://hook.example:{site.port}/again"
        site.behave = answer(b"", status, where)
        with fails(f"status {status[:3]}; redirects are not followed"):
            await post(world, site)
        assert len(site.requests) == 1
    async with Site(answer(b"", status, "Location: http://shop.example/")) as site:
        with fails("redirects are not followed"):
            await get(world, site, "http")
        assert len(site.requests) == 1


@pytest.mark.parametrize("status", ["201 Made", "204 Nothing", "206 Part", "404 No", "500 Oh"])
async def test_other_statuses(world, status):
    """
    A webhook's status is told, whatever it is; a proof is there, or it is not.
    """
    async with world.site(answer(b"", status)) as site:
        assert (await post(world, site)).status == int(status[:3])
    async with Site(answer(PROOF if status[0] != "2" else b"", status)) as site:
        with fails(f"status {status[:3]}; must be 200"):
            await get(world, site, "http")


@pytest.mark.parametrize(
    ("behave", "wrong"),
    [
        (drip(b"", b""), "not done after"),
        (drip(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"), "not done after"),
        (drip(b"HTTP/1.1 200 OK\r\nA: ", b"b"), "not done after"),
        (drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "not done after"),
        (drip(answer(b"x" * 60)[:-50], b""), "not done after"),
        (drip(CHUNKED, b"1\r\nx\r\n"), "not done after"),
        (drip(CHUNKED + b"5;", b"x"), "not done after"),
        (drip(CHUNKED + b"0\r\n", b"A: b\r\n"), "not done after"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000 + b"\r\n\r\n", "more than 8190 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000 + b"\r\n", "headers"),
        (drip(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 1000, 0), "headers"),
        (answer(b"x" * 60)[:-1], "payload"),
        (CHUNKED + b"-1\r\n", "chunk"),
        (b"SSH-2.0-OpenSSH_9\r\n", "no answer in HTTP: 'Bad"),
        (b"", "disconnected"),
    ],
)
@pytest.mark.timing
async def test_servers_that_do_not_play(world, behave, wrong):
    """
    Slow, endless, broken: none holds a request for longer than its time, nor gets it to go on.
    """
    world.client = http.Client(
        world.resolve, Bounds(on_loopback, world.authority.file, total_s=0.5)
    )
    async with Site(behave) as site, world.site(behave) as secure:
        begun = time.monotonic()
        with fails(f"(?i){wrong}"):
            await http.Client(world.resolve, Bounds(on_loopback, None, site.port, total_s=0.5)).get(
                f"http://shop.example{PATH}"
            )
        with fails(f"(?i){wrong}"):
            await post(world, secure)
        assert time.monotonic() - begun < 3


async def test_a_silent_handshake(world):
    """
    A server that never says a word of TLS is given up too, and so is a look-up.
    """
    client = http.Client(world.resolve, Bounds(on_loopback, world.authority.file, total_s=0.2))
    async with Site(b"") as site:
        with fails("not done after 0.2 s"):
            await client.post(f"https://hook.example:{site.port}/", b"x" * 100_000, {})

    async def never(_):
        await asyncio.sleep(60)

    client = http.Client(never, Bounds(on_loopback, world.authority.file, total_s=0.2))
    with fails("not done after 0.2 s"):
        await client.post("https://hook.example/", b"", {})


@pytest.mark.parametrize("start", [CHUNKED, b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_a_body_without_end(world, start):
    """
    It is read up to the limit, and no further: a proof is refused, of an answer the rest is left.
    """
    block = b"1000\r\n" + b"x" * 4096 + b"\r\n" if start == CHUNKED else b"x" * 4096
    async with Site(drip(start, block, 0)) as site:
        with fails(f"more than {MAX_PROOF} octets"):
            await get(world, site, "http")
    async with world.site(drip(start, block, 0)) as site:
        assert await post(world, site) == Fetched(200, b"x" * MAX_ANSWER, "https")


@pytest.mark.parametrize(("size", "good"), [(0, True), (MAX_PROOF, True), (MAX_PROOF + 1, False)])
async def test_the_limit_of_a_proof(world, size, good):
    """
    A file of just that size is read, and one octet more is too many.
    """
    async with Site(answer(b"x" * size)) as site:
        if good:
            assert (await get(world, site, "http")).body == b"x" * size
        else:
            with fails("more than"):
                await get(world, site, "http")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "x"])
async def test_nothing_is_unpacked(world, encoding):
    """
    A compressed proof is none, and a webhook's compressed answer stays as it is.
    """
    bomb = gzip.compress(bytes(1 << 20))
    said = f"Content-Encoding: {encoding}"
    async with Site(answer(bomb, "200 OK", said)) as site:
        with fails("must be plain"):
            await get(world, site, "http")
    async with world.site(answer(bomb, "200 OK", said)) as site:
        assert (await post(world, site)).body == bomb[:MAX_ANSWER]


async def test_certificates(world, authority, tmp_path):
    """
    A certificate of another name, of another authority, or of another time is none.
    """
    async with Site(answer(), authority.server("other.example")) as site:
        with fails("certificate: Hostname mismatch"):
            await post(world, site)
    async with Site(answer(), authority.server("hook.example", expired=True)) as site:
        with fails("certificate: certificate has expired"):
            await post(world, site)
    (tmp_path / "other").mkdir()
    other = type(authority)(tmp_path / "other")
    async with Site(answer(), other.server("hook.example")) as site:
        with fails("certificate: unable to get local issuer"):
            await post(world, site)
        assert site.requests == []
    async with Site(answer()) as site:  # no TLS at all
        site.behave = answer()
        with fails(""):
            await post(world, site)


def test_authorities_in_a_folder(authority, monkeypatch, tmp_path):
    """
    The system's authorities are all read at once, also those in a folder that OpenSSL would look
    through later; a file that is none does not matter.
    """
    (tmp_path / "0123abcd.0").write_bytes(authority.file.read_bytes())
    (tmp_path / "0123abcd.1").write_text("none")
    (tmp_path / "0123abcd.2").symlink_to("nowhere")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    (found,) = trust.context(None).get_ca_certs()
    assert found["subject"] == ((("commonName", "Test CA"),),)


async def test_nothing_from_the_environment(world, monkeypatch, tmp_path):
    """
    Proxies and passwords that the environment names are not used.
    """
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.1.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.1.0.1:9")
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with world.site(answer()) as site:
        assert (await post(world, site)).ok
    assert "authorization" not in site.requests[0][0].lower()


async def test_nothing_is_kept(world):
    """
    Each request has a connection of its own, and a cookie is not sent back.
    """
    async with world.site(answer(b"", "200 OK", "Set-Cookie: a=b")) as site:
        await post(world, site)
        await post(world, site)
        assert site.connections == 2
    assert "cookie" not in site.requests[1][0].lower()
