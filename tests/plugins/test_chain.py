"""The chain: order, the way back, plugins of outsiders, and plugins that fail."""

import asyncio
import dataclasses

import dns.message
import pytest

from urlguard import events, plugins
from urlguard.config import Config, read_table
from urlguard.errors import ConfigError
from urlguard.plugins import Answer, Chain, Local, Parts
from urlguard.wire import answer


class Counting(Local):
    """An example of an outsider's plugin: it counts queries and answers one name itself."""

    name = "counting"

    @dataclasses.dataclass(frozen=True)
    class Options:
        """``[plugin.counting]``."""

        special: str = "special.example"

    def __init__(self, options):
        self.options = options
        self.seen = []
        self.closed = False

    @classmethod
    def from_config(cls, table, parts):
        return cls(read_table(cls.Options, table, "plugin.counting", parts.config.path))

    def on_query(self, q):
        self.seen.append(q.name)
        if q.name == self.options.special:
            return Answer(answer.error(q, 3), self.name)
        return None

    def on_answer(self, q, a):
        self.seen.append(a.source)
        return a

    def close(self):
        self.closed = True


class Broken(Local):
    """Raises, as outsiders' code may."""

    name = "broken"
    cacheable = True

    @classmethod
    def from_config(cls, table, parts):
        return cls()

    def on_query(self, q):
        raise RuntimeError("oh no")


class Last:
    """A last plugin made of a coroutine."""

    name = "last"

    def __init__(self, fail=None):
        self.fail = fail

    def resolve(self, q):
        return asyncio.ensure_future(self._resolve(q))

    async def _resolve(self, q):
        await asyncio.sleep(0)
        if self.fail:
            raise self.fail
        return Answer(answer.error(q, 0), self.name)


@pytest.fixture
def outside(monkeypatch):
    """Register the example plugins as an installed package would."""

    class EntryPoint:
        def __init__(self, name, made):
            self.name, self.load = name, lambda: made

    class Refusing:
        @classmethod
        def from_config(cls, table, parts):
            raise KeyError("missing")

    found = {"counting": Counting, "broken": Broken, "refusing": Refusing}
    monkeypatch.setattr(
        plugins.metadata,
        "entry_points",
        lambda group: [EntryPoint(*i) for i in found.items()] if group == plugins.GROUP else [],
    )


async def build(live, *names, **tables):
    """A chain of the named plugins."""
    config = Config(plugins=names, plugin=tables)
    return Chain.build(config, Parts(config, live, asyncio.get_running_loop()))


def rcode(found):
    """The rcode of an answer."""
    return dns.message.from_wire(found.wire).rcode()


async def resolved(chain, q):
    """What `Chain.resolve` hands to its caller."""
    future = asyncio.get_running_loop().create_future()
    chain.resolve(q, lambda q, found: future.set_result(found))
    return await asyncio.wait_for(future, 5)


async def test_outsiders_stand_where_the_configuration_puts_them(live, query, outside):
    """
    A plugin from an entry point reads its own table, and sees queries and answers below it.
    """
    chain = await build(live, "acl", "counting", "guard", counting={"special": "mine.example"})
    try:
        counting = chain.plugins[1]
        assert rcode(chain.local(query("mine.example"))) == 3
        assert chain.local(query("evil.example")).source == "guard"
        assert rcode(chain.local(query("evil.example", client="203.0.113.1"))) == 5
        assert counting.seen == ["mine.example", "evil.example", "guard"]
    finally:
        chain.close()
    assert counting.closed


async def test_only_answers_above_which_all_is_cacheable_are_ready(live, query, outside):
    """
    A plugin that wants to see each query keeps answers from it and below from being ready.
    """
    chain = await build(live, "acl", "guard", "counting")
    assert chain.local(query("evil.example")).ready
    assert not chain.local(query("special.example")).ready
    chain = await build(live, "acl", "counting", "guard")
    assert not chain.local(query("evil.example")).ready
    assert chain.local(query("evil.example", client="203.0.113.1")).ready


async def test_clients_allowed_are_the_acls(live, query):
    """
    Without an acl everybody is allowed; with one, those whom it let pass.
    """
    assert "203.0.113.1" in (await build(live, "guard")).allowed
    chain = await build(live, "acl", "guard")
    assert "127.0.0.1" not in chain.allowed
    chain.local(query("evil.example"))
    assert "127.0.0.1" in chain.allowed


@pytest.mark.parametrize(
    ("names", "tables", "words"),
    [
        (("acl", "gaurd"), {}, "unknown plugin 'gaurd'; known: acl, guard, forward, broken"),
        (("counting",), {"counting": {"specail": "x"}}, "did you mean 'special'"),
        (("refusing",), {}, "plugin 'refusing': KeyError"),
        (("acl",), {"counting": {}}, "[plugin.counting]: 'counting' is not among plugins"),
        (("forward", "acl"), {}, "'forward' waits and is not last"),
    ],
)
async def test_a_wrong_chain_is_a_configuration_error(live, outside, names, tables, words):
    """
    The operator is told which plugin is wrong, and what is known.
    """
    with pytest.raises(ConfigError) as caught:
        await build(live, *names, **tables)
    assert words in str(caught.value)


async def test_a_plugin_that_raises_costs_its_query_only(live, query, outside, monkeypatch):
    """
    The client gets SERVFAIL, the log one line and not one a query, and the next query is answered.
    """
    lines = []
    monkeypatch.setattr(events, "error", lambda event, **keys: lines.append((event, keys)))
    chain = await build(live, "guard", "broken")
    for _ in range(50):
        found = chain.local(query())
        assert rcode(found) == 2
        assert not found.ready
    assert chain.local(query("evil.example")).source == "guard"
    assert [(e, k["plugin"], k["error"]) for e, k in lines] == [
        ("plugin.failed", "broken", "RuntimeError: oh no")
    ]
    assert chain.failures == 50


@pytest.mark.parametrize(
    ("qtype", "qclass", "code"),
    [
        ("A", "CH", 5),
        ("TXT", "CH", 5),
        ("A", "ANY", 5),
        ("AXFR", "IN", 5),
        ("IXFR", "IN", 5),
        ("MAILA", "IN", 4),
        ("MAILB", "IN", 4),
        ("TKEY", "IN", 4),
        ("TSIG", "IN", 1),
        ("OPT", "IN", 1),
    ],
)
async def test_what_is_no_question_is_answered_before_any_plugin(live, query, qtype, qclass, code):
    """
    Other classes, transfers and meta types never reach a plugin, nor the upstream.
    """
    chain = await build(live, "guard")
    found = chain.local(query("evil.example", qtype, qclass=qclass))
    assert rcode(found) == code
    assert found.source == "chain"
    assert not found.ready


async def test_the_last_plugin_may_be_a_coroutine(live, query, outside):
    """
    A future of any kind fits, and its answer passes the plugins above.
    """
    loop = asyncio.get_running_loop()
    counting = Counting(Counting.Options())
    chain = Chain([counting, Last()], loop)
    q = query()
    assert chain.local(q) is None
    assert (await resolved(chain, q)).source == "last"
    assert counting.seen == ["example.org", "last"]


async def test_a_last_plugin_that_raises_means_servfail(live, query, monkeypatch):
    """
    Whether it raises at once or later, the client gets an answer.
    """
    monkeypatch.setattr(events, "error", lambda event, **keys: None)
    loop = asyncio.get_running_loop()
    chain = Chain([Last(ValueError("later"))], loop)
    assert rcode(await resolved(chain, query())) == 2
    chain = Chain([Last()], loop)
    monkeypatch.setattr(Last, "resolve", lambda self, q: 1 / 0)
    assert rcode(await resolved(chain, query())) == 2


async def test_a_chain_without_a_last_plugin_says_servfail(live, query):
    """
    A chain whose end nobody answers still answers.
    """
    chain = await build(live, "acl", "guard")
    assert rcode(chain.local(query("example.org"))) == 2


def test_the_table_and_its_pages_agree():
    """
    Every built-in plugin answers to its own name in the table.
    """
    assert {name: made.name for name, made in plugins.BUILTIN.items()} == {
        name: name for name in plugins.BUILTIN
    }
