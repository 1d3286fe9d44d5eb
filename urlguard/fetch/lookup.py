"""
Look-ups at the upstreams: addresses and TXT records.

Asks ``[forward] upstreams`` and never UrlGuard's own workers, which answer with the sinkhole for
blocked names, whose owners may want to prove control.  Knows no HTTP, and checks no addresses.

How it works.  The upstreams are asked in their order, each once over UDP, and over TCP if the
answer is truncated; over TLS (RFC 7858) if configured.  The first answer counts, also that there
are no records.  Datagrams that do not match the query (RFC 5452 section 9) are ignored.
"""

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dns.asyncbackend
import dns.asyncquery
import dns.exception
import dns.message
import dns.rcode
import dns.rdata
import dns.rdatatype

from urlguard.config import Upstream
from urlguard.fetch import trust
from urlguard.fetch.bounds import LOOKUP_S, MAX_ADDRESSES, MAX_TXT, TRY_S, FetchError

_PAYLOAD = 1232  # octets over UDP: not broken up on the way, as DNS Flag Day 2020 has it


def preload() -> None:
    """Import what dnspython would import later, when the process can open no files."""
    dns.asyncbackend.get_backend("asyncio")
    dns.rdata.load_all_types()  # type: ignore[no-untyped-call]


class Lookup:
    """
    Asks the upstreams.

    Args:
        upstreams: in the order in which they are asked.
        ca_file: trusted authorities for TLS; None: the system's.

    Raises:
        ConfigError: `ca_file` cannot be read.
    """

    def __init__(self, upstreams: Sequence[Upstream], ca_file: Path | None = None) -> None:
        self._upstreams = upstreams
        self._context: ssl.SSLContext | None = None
        if any(one.tls_name for one in upstreams):
            self._context = trust.context(ca_file)
            self._context.set_alpn_protocols(["dot"])

    async def addresses(self, name: str) -> list[str]:
        """
        All addresses of a name, IPv4 first; CNAMEs are followed.

        Args:
            name: canonical, see `names.canonical`.

        Raises:
            FetchError: there are none or too many, or no upstream has answered.
        """
        kinds = (dns.rdatatype.A, dns.rdatatype.AAAA)
        answers = await asyncio.gather(
            *(self.of_kind(name, kind) for kind in kinds), return_exceptions=True
        )
        found: list[str] = []
        problem: BaseException | None = None
        for answer in answers:
            if isinstance(answer, BaseException):
                problem = answer
            else:
                found += answer
        if not found and problem is not None:
            raise problem
        if not 0 < len(found) <= MAX_ADDRESSES:
            raise FetchError(f"{name}: {len(found)} addresses; must have 1 to {MAX_ADDRESSES}")
        return found

    async def of_kind(self, name: str, kind: dns.rdatatype.RdataType) -> list[str]:
        """
        The addresses in a name's A or AAAA records, maybe none; CNAMEs are followed.

        Raises:
            FetchError: no upstream has answered.
        """
        return [record.address for record in await self._records(name, kind)]

    async def txt(self, name: str) -> list[str]:
        """
        The TXT records of a name, none if it does not exist; CNAMEs are followed.

        The strings of a record are concatenated (RFC 7208 section 3.3); octets that are not UTF-8
        become U+FFFD.

        Raises:
            FetchError: there are too many, or no upstream has answered.
        """
        records = await self._records(name, dns.rdatatype.TXT)
        if len(records) > MAX_TXT:
            raise FetchError(f"{name}: {len(records)} TXT records, limit is {MAX_TXT}")
        return [b"".join(record.strings).decode(errors="replace") for record in records]

    async def _records(self, name: str, kind: dns.rdatatype.RdataType) -> list[Any]:
        """The records of one type, none if there are none; each upstream is asked in turn."""
        query = dns.message.make_query(name, kind, use_edns=0, payload=_PAYLOAD)
        problem = "no upstream to ask; must have one in [forward] upstreams"
        try:
            async with asyncio.timeout(LOOKUP_S):
                for upstream in self._upstreams:
                    try:
                        reply = await self._ask(upstream, query)
                    except dns.exception.Timeout:
                        problem = f"{upstream}: no answer within {TRY_S:g} s"
                        continue
                    except (dns.exception.DNSException, OSError, EOFError, ValueError) as exc:
                        problem = f"{upstream}: {str(exc) or type(exc).__name__}"
                        continue
                    rcode = reply.rcode()
                    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                        problem = f"{upstream}: answered {dns.rcode.to_text(rcode)}"
                        continue
                    try:
                        return list(reply.resolve_chaining().answer or ())
                    except dns.exception.DNSException as exc:
                        problem = f"{upstream}: {str(exc) or type(exc).__name__}"
        except TimeoutError:
            problem = f"no answer within {LOOKUP_S:g} s; last: {problem}"
        raise FetchError(f"{name} {dns.rdatatype.to_text(kind)}: {problem}")

    async def _ask(
        self, upstream: Upstream, query: dns.message.Message
    ) -> dns.message.QueryMessage:
        host, port = upstream.address
        reply: dns.message.Message
        if upstream.tls_name is not None:
            reply = await dns.asyncquery.tls(
                query,
                host,
                timeout=TRY_S,
                port=port,
                ssl_context=self._context,
                server_hostname=upstream.tls_name,
            )
        else:
            reply, _ = await dns.asyncquery.udp_with_fallback(
                query, host, timeout=TRY_S, port=port, ignore_unexpected=True, ignore_errors=True
            )
        assert isinstance(reply, dns.message.QueryMessage)  # it answers a query
        return reply
