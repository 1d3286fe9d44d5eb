"""Queries, and an engine that rules as it is told."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import dns.flags
import dns.message
import pytest

from urlguard.verdict import Ruling
from urlguard.wire.query import Query, parse_query


class FakeLive:
    """A stand-in for the worker's cell: rulings by name, and the callbacks that subscribed."""

    def __init__(self, rulings: dict[str, Any] | None = None) -> None:
        self.rulings = rulings or {}
        self.engine = SimpleNamespace(decide=lambda name: self.rulings.get(name))
        self.callbacks: list[Callable[[], None]] = []

    def subscribe(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)


def ruling(action: str = "block", *sources: str) -> Ruling:
    """A ruling with the given action and sources."""
    return Ruling(action, "phishing", sources or ("feed:x",), 7, "subtree", "evil.example")


@pytest.fixture
def live():
    """An engine that blocks evil.example, reviews grey.example and allows good.example."""
    return FakeLive(
        {
            "evil.example": ruling(),
            "grey.example": ruling("review"),
            "good.example": ruling("allow"),
            "ordered.example": ruling("block", "feed:court", "feed:x"),
        }
    )


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
    ) -> Query:
        made = dns.message.make_query(name, qtype, qclass, use_edns=0 if edns else False)
        made.flags = dns.flags.RD
        return parse_query(made.to_wire(), (client, 5353), tcp)

    return make
