"""Recursors on loopback, for what `forward` must put up with, and certificates for some of them."""

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
from dataclasses import dataclass

import dns.message
import dns.rrset
import pytest

from urlguard.config import Endpoint, Upstream
from urlguard.plugins.forward import Forward


def reply(data, address="192.0.2.7", rcode=0, flags=0, many=1, ad=False):
    """A reply to the query in `data`, in its own spelling."""
    asked = dns.message.from_wire(data)
    made = dns.message.make_response(asked, recursion_available=True)
    made.flags |= flags | (0x20 if ad else 0)
    made.set_rcode(rcode)
    if not rcode and not flags:
        texts = [address] if many == 1 else [f"192.0.2.{i}" for i in range(many)]
        made.answer.append(dns.rrset.from_text(asked.question[0].name, 60, "IN", "A", *texts))
    return made.to_wire(max_size=65535)


def fast(data):
    """One true reply, made without reading the query: 192.0.2.7."""
    end = data.index(b"\0", 12) + 5
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\7"
    return [data[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + data[12:end] + record]


def good(data):
    """One true reply."""
    return [reply(data)]


def silent(data):
    """Nothing."""
    return []


def refusing(rcode):
    """An upstream that says no."""
    return lambda data: [reply(data, rcode=rcode)]


def is_probe(data):
    """True for the question whether an upstream is there: NS of the root."""
    return data[12:15] == b"\0\0\2"


class Recursor(asyncio.DatagramProtocol):
    """
    A recursor over UDP and TCP, or TLS; `behave` gets the query and returns messages to send.

    ``seen`` has the queries over UDP, ``streamed`` those over TCP, neither with probes; ``ports``
    the source ports; ``delay`` is in seconds.
    """

    def __init__(self, behave=good, over_tcp=None):
        self.behave = behave
        self.over_tcp = over_tcp or behave
        self.seen = []
        self.streamed = []
        self.probes = 0
        self.ports = set()
        self.delay = 0.0
        self.connections = 0
        self.where = None
        self.transport = None
        self.server = None
        self.writers = set()

    async def start(self, host="127.0.0.1", tcp=False, context=None, port=0):
        """Listen; on the port of last time if there was one."""
        loop = asyncio.get_running_loop()
        for attempt in range(20):
            wanted = self.where.port if self.where else port
            self.transport, _ = await loop.create_datagram_endpoint(
                lambda: self, local_addr=(host, wanted)
            )
            self.where = Endpoint(*self.transport.get_extra_info("sockname")[:2])
            if not tcp and context is None:
                return self
            try:
                self.server = await asyncio.start_server(self.serve, *self.where, ssl=context)
            except OSError:  # another test's socket has that port
                assert attempt < 19
                self.transport.close()
                self.where = None
            else:
                return self
        return self

    def stop(self):
        """Be gone; the port refuses."""
        if self.transport is not None:
            self.transport.close()
        if self.server is not None:
            self.server.close()
        for writer in list(self.writers):
            writer.transport.abort()

    def hang_up(self):
        """Close all connections and go on listening."""
        for writer in list(self.writers):
            writer.close()

    def datagram_received(self, data, addr):
        """A query over UDP."""
        if is_probe(data):
            self.probes += 1
        else:
            self.seen.append(data)
            self.ports.add(addr[1])
        for wire in self.behave(data) or ():
            if self.delay:
                asyncio.get_running_loop().call_later(self.delay, self.transport.sendto, wire, addr)
            else:
                self.transport.sendto(wire, addr)

    async def serve(self, reader, writer):
        """Queries over one connection."""
        self.connections += 1
        self.writers.add(writer)
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                data = await reader.readexactly(size)
                if is_probe(data):
                    self.probes += 1
                else:
                    self.streamed.append(data)
                for wire in self.over_tcp(data) or ():
                    writer.write(len(wire).to_bytes(2, "big") + wire)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()


def nobody(host="127.0.0.1"):
    """An address where nobody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        return Endpoint(*sock.getsockname()[:2])


@pytest.fixture
async def start():
    """
    Start recursors and a forward that may ask them; all are stopped afterwards.

    A behaviour, a `Recursor`, or None for a port where nobody listens.
    """
    made = []

    async def run(*behaviours, host="127.0.0.1", **options):
        recursors, upstreams = [], []
        for behave in behaviours:
            if behave is None:
                upstreams.append(Upstream(nobody(host)))
                continue
            recursor = behave if isinstance(behave, Recursor) else Recursor(behave)
            if recursor.where is None:
                await recursor.start(host)
            made.append(recursor.stop)
            recursors.append(recursor)
            upstreams.append(Upstream(recursor.where))
        forward = Forward(
            upstreams, asyncio.get_running_loop(), **{"timeout_ms": 150, "ports": 16, **options}
        )
        made.append(forward.close)
        return forward, recursors

    yield run
    for stop in reversed(made):
        stop()
    await asyncio.sleep(0.01)


def asking(forward, x):
    """A future of the `Answer` to `q`."""
    future = asyncio.get_running_loop().create_future()

    def done(same, found):
        assert same is x
        future.set_result(found)  # raises if it is called twice

    forward.ask(x, done)
    return future


async def ask(forward, x, wait=8):
    """The answer as dnspython reads it."""
    found = await asyncio.wait_for(asking(forward, x), wait)
    return dns.message.from_wire(found.octets(x))


def texts(message):
    """The addresses in an answer."""
    return [r.to_text() for rrset in message.answer for r in rrset]


def codes(message):
    """The extended errors in an answer."""
    return [option.code for option in message.options]


async def until(condition, seconds=5.0):
    """Wait for a condition; the seconds that it took."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while not condition():
        assert loop.time() < begun + seconds, "it did not come true"
        await asyncio.sleep(0.005)
    return loop.time() - begun


@dataclass
class Authority:
    """A certificate authority in a folder, by the openssl command."""

    folder: object

    def __post_init__(self):
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        self.file = self.folder / "ca.pem"
        self.key = self.folder / "ca.key"
        self._run(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "30", "-subj", "/CN=Test CA", "-keyout", self.key),
            *("-out", self.file, "-addext", "basicConstraints=critical,CA:TRUE"),
            *("-addext", "keyUsage=critical,keyCertSign"),
        )

    def server(self, name, expired=False):
        """A server's context with a certificate for `name`."""
        stem = self.folder / f"{name}{'-old' * expired}"
        key, request, cert = (f"{stem}.{end}" for end in ("key", "csr", "pem"))
        self._run(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"),
            *("-keyout", key, "-out", request),
        )
        days = ["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"]
        self._sign(request, cert, name, days if expired else ["-days", "30"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        return context

    def _sign(self, request, cert, name, dates):
        # `openssl ca` and not `x509 -req`: the latter takes no dates before version 3.4.
        (self.folder / "index.txt").write_text("")
        (self.folder / "serial").write_text("01")
        settings = self.folder / "ca.cnf"
        settings.write_text(
            f"[ca]\ndefault_ca=us\n[us]\ndatabase={self.folder}/index.txt\n"
            f"serial={self.folder}/serial\nnew_certs_dir={self.folder}\ndefault_md=sha256\n"
            "policy=any\nx509_extensions=ext\n[any]\ncommonName=supplied\n"
            f"[ext]\nsubjectAltName=DNS:{name}\nbasicConstraints=CA:FALSE\n"
        )
        self._run(
            *("ca", "-batch", "-config", settings, "-cert", self.file, "-keyfile", self.key),
            *("-in", request, "-out", cert, "-notext", *dates),
        )

    @staticmethod
    def _run(*words):
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)
