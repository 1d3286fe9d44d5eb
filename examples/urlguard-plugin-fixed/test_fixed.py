"""The plugin by itself: a query in, an answer out, no server."""

import pytest
from dnslib import DNSRecord
from urlguard_plugin_fixed import Fixed, Options

from urlguard.errors import ConfigError
from urlguard.plugins import Exchange
from urlguard.plugins.records import records_of
from urlguard.wire.query import parse_query


def ask(plugin, name, qtype):
    """The plugin's records for a query; None if it asks the next plugin."""
    x = Exchange(parse_query(DNSRecord.question(name, qtype).pack()))
    found = plugin.on_query(x)
    return None if found is None else [str(r.rdata) for r in records_of(x, found).answer]


def test_configured_names_are_answered():
    """
    With the records of the type asked, without any for another type; other names pass.
    """
    plugin = Fixed(Options(records={"status.example": ("A 192.0.2.7", 'TXT "all is well"')}))
    assert ask(plugin, "status.example", "A") == ["192.0.2.7"]
    assert ask(plugin, "Status.Example", "TXT") == ['"all is well"']
    assert ask(plugin, "status.example", "MX") == []
    assert ask(plugin, "other.example", "A") is None
    assert plugin.counters == {"answered": 2, "empty": 1}


def test_a_bad_record_is_a_configuration_error():
    """
    The operator learns which name is wrong.
    """
    with pytest.raises(ConfigError, match=r"status\.example"):
        Fixed(Options(records={"status.example": ("A nonsense",)}))
