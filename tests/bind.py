"""A real BIND as secondary of a response policy zone; its root answers every name."""

import asyncio
import contextlib
import shutil
import socket
import subprocess
from pathlib import Path

import dns.asyncquery
import dns.flags
import dns.message
import dns.opcode
import pytest

ANSWER = "192.0.2.1"  # of every name that is not blocked


def need(program):
    """Skip the test where `program` is missing."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def free_port():
    """A port that is free for UDP and TCP at the moment."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        udp.bind(tcp.getsockname())
        return tcp.getsockname()[1]


class Bind:
    """One ``named``, with its folder and port."""

    def __init__(self, folder: Path, primary_port: int, *, zone="rpz.test", key=None) -> None:
        """`key`: (name, secret in base64) that it signs with."""
        self.folder, self.zone, self.port = folder, zone, free_port()
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
        signed = f' key "{key[0]}"' if key else ""
        (folder / "root.db").write_text(
            f"$TTL 5\n@ SOA localhost. x. 1 60 60 60 5\n@ NS localhost.\n* A {ANSWER}\n"
        )
        (folder / "named.conf").write_text(
            (f'key "{key[0]}" {{ algorithm hmac-sha256; secret "{key[1]}"; }};\n' if key else "")
            + f"""
options {{
    directory "{folder}"; pid-file none; session-keyfile none;
    listen-on port {self.port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
    recursion yes; allow-query {{ 127.0.0.0/8; }}; dnssec-validation no; empty-zones-enable no;
    notify no; allow-transfer {{ none; }}; minimal-responses yes;
    response-policy {{ zone "{zone}" min-update-interval 0; }} qname-wait-recurse no;
}};
controls {{ }};
zone "{zone}" {{
    type secondary; file "rpz.db"; masterfile-format text;
    primaries {{ 127.0.0.1 port {primary_port}{signed}; }};
    min-refresh-time 1; min-retry-time 1; max-retry-time 2;
}};
zone "." {{ type primary; file "root.db"; }};
"""
        )
        self._process = None

    def log(self):
        """What it logged so far."""
        return (self.folder / "log").read_text("utf-8", "replace")

    async def __aenter__(self):
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["named", "-g", "-n", "1", "-c", str(self.folder / "named.conf")], stderr=log
            )
        return self

    async def __aexit__(self, *_):
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, 10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    async def saw(self, text, timeout_s=20.0):
        """Wait until it has logged `text`."""
        async with asyncio.timeout(timeout_s):
            while text not in self.log():
                assert self._process.poll() is None, self.log()[-2000:]
                await asyncio.sleep(0.05)

    async def ask(self, name, kind="A"):
        """Its answer to one query."""
        query = dns.message.make_query(name, kind)
        return await dns.asyncquery.udp(query, "127.0.0.1", port=self.port, timeout=5)

    async def notify(self):
        """Tell it that the zone has changed (RFC 1996)."""
        message = dns.message.make_query(self.zone, "SOA")
        message.set_opcode(dns.opcode.NOTIFY)
        message.flags = dns.flags.AA | dns.opcode.to_flags(dns.opcode.NOTIFY)
        await dns.asyncquery.udp(message, "127.0.0.1", port=self.port, timeout=5)

    async def has_serial(self, serial, timeout_s=30.0):
        """Notify until it serves and enforces the zone of `serial`."""
        async with asyncio.timeout(timeout_s):
            while True:
                with contextlib.suppress(dns.exception.Timeout):
                    await self.notify()
                await asyncio.sleep(0.1)
                log = self.log()
                # The policy is in force once its summary is built, a moment after the transfer.
                at = log.rfind(f"transferred serial {serial}")
                if at >= 0 and f"rpz: {self.zone}: reload done" in log[at:]:
                    return
