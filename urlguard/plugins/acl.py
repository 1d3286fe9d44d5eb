"""
acl: refuse clients outside the operator's networks.

Runs first, so that a refused client costs no further work.  The networks were looked up when the
client was first seen; this plugin reads the result.  Knows no names and no policy.
"""

from typing import Self

from urlguard import config
from urlguard.plugins.base import Answer, Exchange, Local, Parts
from urlguard.wire import answer
from urlguard.wire.query import REFUSED


class Acl(Local):
    """
    Refuse or drop queries of clients that are not in ``[acl] allow``.

    Args:
        options: ``[acl]``.
    """

    name = "acl"
    cacheable = True
    every_query = True

    def __init__(self, options: config.Acl) -> None:
        self._drop = options.otherwise == "drop"

    @classmethod
    def from_config(cls, table: config.Acl, parts: Parts) -> Self:
        """The plugin for ``[acl]``."""
        return cls(table)

    def on_query(self, x: Exchange) -> Answer | None:
        """
        REFUSED with EDE 18 (Prohibited), RFC 8914, or no answer for a client that is not allowed.

        A query of nobody in particular is not allowed either: without a client nothing is known.
        """
        who = x.client
        if who is not None and who.allowed:
            return None
        if self._drop:
            found = Answer(b"", "acl")
        else:
            found = Answer(answer.error(x, REFUSED, answer.EDE_PROHIBITED), "acl")
        found.once = True
        return found
