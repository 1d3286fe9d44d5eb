"""The exchange: what of a query on its way belongs to its client alone."""

from urlguard.plugins.base import NOBODY, Exchange
from urlguard.plugins.clients import Client
from urlguard.wire.query import parse_query

DATA = bytes.fromhex("123401000001000000000000") + b"\x01a\x07example\0\0\1\0\1"


def test_asked_for_no_client():
    """
    An anonymous exchange has the same question and the cache's key, and nothing of the client.
    """
    x = Exchange(parse_query(DATA), Client("192.0.2.1", None), ("192.0.2.1", 5353))
    x.key, x.reply_options, x.ruling, x.shadows = "key", b"\0\x0a\0\0", object(), [object()]
    other = x.anonymous()
    assert (other.query, other.key) == (x.query, "key")
    assert (other.client, other.peer, other.host) == (None, NOBODY, "")
    assert (other.reply_options, other.ruling, other.shadows) == (b"", None, None)
    assert other.transport == "tcp"  # an answer of any size is welcome
    assert other.proven
