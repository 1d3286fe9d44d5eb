"""HTTPS, from one certificate of the configuration."""

import asyncio
import datetime
import ipaddress
import json
import ssl

import aiohttp
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.api.backend import Fixed, closed, connect, serving, until
from urlguard.api import connections, server
from urlguard.api.server import ApiServer
from urlguard.api.services import Services
from urlguard.config import Api, Endpoint


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "cert.pem", folder / "key.pem"


async def exchange(pair):
    """What a client sees."""
    trusted = ssl.create_default_context(cafile=str(pair[0]))
    async with (
        serving(Fixed(), tls_cert=pair[0], tls_key=pair[1]) as base,
        aiohttp.ClientSession() as http,
    ):
        for _ in range(3):
            async with http.get(f"{base}/openapi.json", ssl=trusted) as answer:
                assert answer.status == 200
                assert answer.headers["Strict-Transport-Security"].startswith("max-age=")
                assert len(await answer.read()) > 10_000


async def test_https(pair):
    """
    A client that trusts the certificate is served.
    """
    await exchange(pair)


def test_https_on_uvloop(pair):
    """
    And so on the loop that the server runs on.
    """
    uvloop.run(exchange(pair))


async def test_no_plain_http_beside_it(pair):
    """
    Who speaks no TLS is closed without a word in clear.
    """
    async with serving(Fixed(), tls_cert=pair[0], tls_key=pair[1]) as base:
        reader, writer = await connect(base)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(3):
            assert b"HTTP" not in await reader.read()
        writer.close()


async def test_handshakes_are_bounded(pair, monkeypatch):
    """
    Connections without a handshake count as waiting ones, in number and in time.
    """
    monkeypatch.setattr(connections, "IDLE_S", 0.5)
    async with serving(Fixed(), tls_cert=pair[0], tls_key=pair[1], connections=2) as base:
        held = [await connect(base) for _ in range(3)]
        assert await closed(held[0][0], 0.3)
        assert await closed(held[1][0], 2.0)
        assert await closed(held[2][0], 2.0)
        for _, writer in held:
            writer.close()


async def test_a_certificate_that_comes_later(pair, tmp_path, monkeypatch, capsys):
    """
    While it cannot be read, that is said once, and it is tried again.
    """
    monkeypatch.setattr(server, "RETRY_S", 0.02)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    options = Api(listen=Endpoint("127.0.0.1", 0), tls_cert=cert, tls_key=key)
    api = ApiServer(options, Services(source=Fixed()))
    task = asyncio.create_task(api.run())
    await asyncio.sleep(0.1)
    assert api.address is None
    key.write_bytes(pair[1].read_bytes())
    cert.write_text("no certificate")
    await asyncio.sleep(0.1)
    cert.write_bytes(pair[0].read_bytes())
    await until(lambda: api.address)
    task.cancel()
    await asyncio.wait([task])
    said = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert said == ["api.unavailable", "api.listening"]
