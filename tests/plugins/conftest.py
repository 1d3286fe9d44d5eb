"""Queries, and an engine that rules as it is told."""

from typing import Any

import dns.flags
import dns.message
import pytest

from tests.plugins.scripted import Clock, FakeActiveEngine, ruling
from urlguard.plugins import Exchange
from urlguard.wire.query import TCP, UDP, parse_query


@pytest.fixture
def active():
    """An engine that blocks evil.example, reviews grey.example and allows good.example."""
    return FakeActiveEngine(
        {
            "evil.example": ruling(),
            "grey.example": ruling("review"),
            "good.example": ruling("allow"),
            "ordered.example": ruling("block", "feed:court", "feed:x"),
            "excused.example": ruling("allow", "operator"),
            "ads.example": ruling("block", category="ads"),
        }
    )


@pytest.fixture
def clock():
    """An event loop's time that passes when it is told to."""
    return Clock()


@pytest.fixture
def query():
    """Make a query as a client would send it."""

    def make(
        name: str = "example.org",
        qtype: str | int = "A",
        *,
        edns: bool = True,
        client: str = "127.0.0.1",
        qclass: str = "IN",
        tcp: bool = False,
        do: bool = False,
        cd: bool = False,
        who: Any = None,
    ) -> Exchange:
        made = dns.message.make_query(name, qtype, qclass, use_edns=0 if edns else False)
        if do:
            made.want_dnssec(True)
        made.flags = dns.flags.RD | (dns.flags.CD if cd else 0)
        return Exchange(parse_query(made.to_wire()), who, (client, 5353), TCP if tcp else UDP)

    return make
