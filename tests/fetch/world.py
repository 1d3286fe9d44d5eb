"""Strangers on loopback: web servers that behave or do not, and an upstream that knows them."""

import asyncio
import contextlib
import ipaddress
import struct

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def on_loopback(address):
    """What tests take for public: strangers on this machine.  A child imports it by its name."""
    return ipaddress.ip_address(address) in ipaddress.ip_network("127.1.0.0/16")


def answer(body=b"", status="200 OK", *headers):
    """A whole answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Site:
    """
    A web server that does with each request what it was told to.

    Args:
        behave: octets to answer with, or a coroutine function over reader and writer that is called
            once the request's header and body have been read.
    """

    def __init__(self, behave, context=None, host="127.1.0.1"):
        self.behave = behave
        self.context = context
        self.host = host
        self.requests = []
        self.hosts = []  # by SNI
        self.port = 0

    async def __aenter__(self):
        if self.context is not None:
            self.context.sni_callback = lambda _, name, __: self.hosts.append(name)
        self.connections = 0
        self._server = await asyncio.start_server(
            self._serve, self.host, self.port, ssl=self.context
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()

    async def _serve(self, reader, writer):
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = 0
            for line in head.decode().split("\r\n"):
                if line.lower().startswith("content-length:"):
                    length = int(line.split(":")[1])
            self.requests.append((head.decode(), await reader.readexactly(length)))
            if isinstance(self.behave, bytes):
                writer.write(self.behave)
                await writer.drain()
            else:
                await self.behave(reader, writer)
        writer.close()


def drip(start, drop, pause_s=0.02):
    """Octets that never end, a few at a time; a pause of 0 sends as fast as they are taken."""

    async def behave(_, writer):
        writer.write(start)
        while True:
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return behave


class Names(asyncio.DatagramProtocol):
    """
    An upstream over UDP and TCP.

    Args:
        records: texts by name and type, as in a zone file; a list of lists gives one after the
            other, and the last for good.
    """

    def __init__(self, records, context=None):
        self.records = records
        self.context = context
        self.asked = []
        self.rcode = dns.rcode.NOERROR
        self.silent = False

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        self._server = await asyncio.start_server(self._stream, "127.0.0.1", 0, ssl=self.context)
        self.port = self._server.sockets[0].getsockname()[1]
        self._udp, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=("127.0.0.1", self.port)
        )
        return self

    async def __aexit__(self, *_):
        self._udp.close()
        self._server.close()

    def datagram_received(self, data, client):
        if self.silent:
            return
        reply = self._reply(data, "udp")
        wire = reply.to_wire(max_size=65535)
        if len(wire) > 1232:
            reply.answer.clear()
            reply.flags |= dns.flags.TC
            wire = reply.to_wire()
        self._udp.sendto(wire, client)

    async def _stream(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            (size,) = struct.unpack(">H", await reader.readexactly(2))
            wire = self._reply(await reader.readexactly(size), "tcp").to_wire(max_size=65535)
            writer.write(struct.pack(">H", len(wire)) + wire)
            await writer.drain()
        writer.close()

    def _reply(self, data, way):
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text(True).lower(), question.rdtype
        self.asked.append((name, kind.name, way))
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA
        reply.set_rcode(self.rcode)
        if self.rcode != dns.rcode.NOERROR:
            return reply
        while (alias := self.records.get((name, "CNAME"))) is not None:
            reply.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "CNAME", f"{alias}."))
            name = alias
        found = self.records.get((name, kind.name), [])
        if found and isinstance(found[0], list):
            found = found.pop(0) if len(found) > 1 else found[0]
        if found:
            reply.answer.append(dns.rrset.from_text_list(f"{name}.", 60, "IN", kind, found))
        elif not any(one == name for one, _ in self.records):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply
