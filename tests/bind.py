"""
A real BIND: as secondary of a response policy zone, and as the server of zones that tests write.
"""

import asyncio
import contextlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Self

import dns.asyncquery
import dns.flags
import dns.message
import dns.opcode
import dns.query
import pytest

ANSWER = "192.0.2.1"  # of every name that is not blocked


def need(program):
    """The program's path; skips the test where it is missing."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def free_port():
    """A port that is free for UDP and TCP at the moment."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        udp.bind(tcp.getsockname())
        return tcp.getsockname()[1]


class Daemon:
    """A DNS server in the foreground, from ``start`` or ``with`` until ``close``."""

    def __init__(self, command: list[str], port: int, log: Path) -> None:
        self.port = port
        self._command, self._log = command, log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it answers."""
        return "127.0.0.1", self.port

    def log(self) -> str:
        """What it logged so far."""
        return self._log.read_text("utf-8", "replace")

    def start(self, wait_s: float = 30.0) -> Self:
        """Start it, and wait until it answers at all."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        until = time.monotonic() + wait_s
        query = dns.message.make_query("version.bind", "TXT", "CH")  # nobody else is asked for it
        while True:
            try:
                dns.query.udp(query, "127.0.0.1", timeout=0.3, port=self.port)
                return self
            except (dns.exception.Timeout, OSError):
                if self._process.poll() is not None or time.monotonic() > until:
                    self.close()
                    raise AssertionError(self.log()[-4000:]) from None

    def close(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


class Authority(Daemon):
    """
    A ``named`` that serves zones, and follows CNAMEs from one into another.

    Args:
        folder: its own.
        zones: names without the final dot ("" is the root), and their master files: text, or a
            path.
        options: statements for ``options``; what matters most is ``minimal-responses``.
        more: statements for single zones, by name.
        broken: zones that are not to load: BIND then answers SERVFAIL for them.
    """

    def __init__(
        self,
        folder: Path,
        zones: Mapping[str, str | Path],
        *,
        options: str = "minimal-responses no;",
        more: Mapping[str, str] | None = None,
        broken: Collection[str] = (),
    ) -> None:
        port = free_port()
        self._broken = {f"zone {zone}/IN" for zone in broken}
        folder.mkdir(exist_ok=True)
        statements = []
        for number, (zone, text) in enumerate(zones.items()):
            path = text if isinstance(text, Path) else folder / f"{number}.zone"
            if isinstance(text, str):
                path.write_text(text)
            extra = (more or {}).get(zone, "")
            statements.append(f'zone "{zone or "."}" {{ type primary; file "{path}"; {extra} }};')
        (folder / "named.conf").write_text(
            f"""
options {{
    directory "{folder}"; pid-file none; session-keyfile none;
    listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
    recursion yes; allow-query {{ 127.0.0.0/8; }}; dnssec-validation no; empty-zones-enable no;
    notify no; allow-transfer {{ none; }}; check-names primary ignore; check-integrity no;
    {options}
}};
controls {{ }};
"""
            + "\n".join(statements)
        )
        command = [need("named"), "-g", "-n", "1", "-c", str(folder / "named.conf")]
        super().__init__(command, port, folder / "log")

    def start(self, wait_s: float = 30.0) -> Self:
        """Start it, and wait until its zones are loaded."""
        super().start(wait_s)
        try:
            until = time.monotonic() + wait_s
            while "all zones loaded" not in self.log():
                assert time.monotonic() < until, self.log()[-4000:]
                time.sleep(0.05)
            failed = set(re.findall(r"(zone \S+): not loaded", self.log()))
            assert failed == self._broken, self.log()[-4000:]
        except BaseException:
            self.close()
            raise
        return self


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
