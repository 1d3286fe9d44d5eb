"""Where names lead, as an upstream on loopback has it."""

import pytest

from tests.fetch.test_lookup import asking
from tests.fetch.world import Names
from urlguard.fetch import bounds, leads
from urlguard.fetch.addresses import is_public

ZONE = {
    ("both.example", "A"): ["192.0.2.9", "192.0.2.10", "192.0.2.9"],
    ("both.example", "AAAA"): ["2001:db8::1"],
    ("alias.example", "CNAME"): "both.example",
    ("newer.example", "AAAA"): ["2001:db8::b", "2001:db8:0:0::A"],
    ("inside.example", "A"): ["10.0.0.1", "192.0.2.7"],
    ("only-inside.example", "A"): ["10.0.0.1"],
    ("only-inside.example", "AAAA"): ["2001:db8::7"],
    ("text.example", "TXT"): ['"x"'],
    ("many.example", "A"): [f"192.0.2.{n}" for n in range(250)],
}


def public(address):
    """What stands for public here: reserved for documentation."""
    return address.startswith(("192.0.2.", "2001:db8:"))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("both.example", ["192.0.2.9", "192.0.2.10"]),  # by number, not by text
        ("alias.example", ["192.0.2.9", "192.0.2.10"]),
        ("newer.example", ["2001:db8::a", "2001:db8::b"]),
        ("inside.example", ["192.0.2.7"]),
        ("only-inside.example", ["2001:db8::7"]),
        ("text.example", []),
        ("none.example", []),
        ("many.example", [f"192.0.2.{n}" for n in range(bounds.MAX_ADDRESSES)]),
        (f"{'x' * 64}.example", None),  # cannot even be asked
    ],
)
async def test_addresses(name, found):
    """
    Public ones in order, of IPv6 only where there is none of IPv4; an odd name harms no other.
    """
    async with Names(ZONE) as names:
        answers = await leads.addresses(asking(names), [name, "both.example"], public)
    assert answers.get(name) == found
    assert "both.example" in answers


async def test_what_is_not_public_is_none():
    """
    By the rules of a server, addresses of documents lead nowhere.
    """
    async with Names(ZONE) as names:
        found = await leads.addresses(asking(names), ["both.example"], is_public)
    assert found == {"both.example": []}
