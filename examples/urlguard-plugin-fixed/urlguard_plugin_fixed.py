"""
fixed: answer configured names with fixed records, and ask nobody.

For names that only the resolver's own clients have: a router, a status page, a test.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Self

from dnslib import RR, DNSError

from urlguard.config import key, table
from urlguard.errors import ConfigError
from urlguard.plugins import Answer, Exchange, Local, Parts
from urlguard.plugins.records import answer_with
from urlguard.wire import answer
from urlguard.wire.query import ANY


@dataclass(frozen=True)
class Options:
    """``[plugin.fixed]``: names with fixed records."""

    ttl_s: int = key(60, "of the answers, also of those without a record", low=0, high=86_400)
    records: dict[str, tuple[str, ...]] = table('records by name, such as "A 192.0.2.7"')


class Fixed(Local):
    """
    Answer names of ``[plugin.fixed.records]``.

    ``counters``: ``answered``, and ``empty`` for types that a name has no record of.
    """

    name = "fixed"
    options = Options
    cacheable = True  # the answer depends on nothing but the query

    def __init__(self, options: Options) -> None:
        self.counters: Counter[str] = Counter()
        self._ttl = options.ttl_s
        self._records: dict[str, list[RR]] = {}
        problems = []
        for name, lines in options.records.items():
            try:
                zone = "\n".join(f"{name}. {self._ttl} IN {line}" for line in lines)
                self._records[name] = RR.fromZone(zone)
            except (DNSError, ValueError, IndexError, KeyError) as exc:
                problems.append(f"[plugin.fixed.records] {name!r}: {exc}; must be TYPE and data")
        if problems:
            raise ConfigError(problems)

    @classmethod
    def from_config(cls, options: Options, parts: Parts) -> Self:
        """The plugin for ``[plugin.fixed]``."""
        return cls(options)

    def on_query(self, x: Exchange) -> Answer | None:
        """The name's records of the type asked; NODATA if it has none; None for other names."""
        records = self._records.get(x.query.name)
        if records is None:
            return None
        fitting = [r for r in records if x.query.qtype in (r.rtype, ANY)]
        if not fitting:
            self.counters["empty"] += 1
            return Answer(answer.negative(x, self._ttl), self.name)
        self.counters["answered"] += 1
        return answer_with(x, fitting, self.name)
