"""The chain: order, the way back, plugins of outsiders, and plugins that fail."""

import asyncio
import dataclasses

import dns.message
import pytest

from urlguard import events, plugins
from urlguard.config import Config, read_table
from urlguard.errors import ConfigError
from urlguard.plugins import Answer, Chain, Local, Parts, Resolving
from urlguard.plugins.clients import Clients
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

    def on_query(self, x):
        self.seen.append(x.query.name)
        if x.query.name == self.options.special:
            return Answer(answer.error(x, 3), self.name)
        return None

    def on_answer(self, x, a):
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

    def on_query(self, x):
        raise RuntimeError("oh no")


class Last(Resolving):
    """A last plugin made of a coroutine."""

    name = "last"

    def __init__(self, fail=None):
        super().__init__()
        self.fail = fail

    async def resolve(self, x):
        await asyncio.sleep(0)
        if self.fail:
            raise self.fail
        return Answer(answer.error(x, 0), self.name)


class Middle:
    """Waits, and asks what stands behind it on nobody's behalf."""

    name = "middle"
    cacheable = True

    def __init__(self):
        self.known = {}
        self.below = None

    def on_query(self, x):
        found = self.known.get(x.query.name)
        return None if found is None else Answer(answer.error(x, found), self.name)

    def ask(self, x, done):
        def came(q2, found):
            self.known[x.query.name] = found.wire[3] & 15
            done(x, Answer(answer.error(x, found.wire[3] & 15), found.source))

        self.below(x.anonymous(), came)


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


async def build(active, *names, **tables):
    """A chain of the named plugins."""
    config = Config(plugins=names, plugin=tables)
    clients = Clients(config)
    chain = Chain.build(config, Parts(config, active, asyncio.get_running_loop(), clients))
    chain.find = clients.find
    return chain


def rcode(found):
    """The rcode of an answer."""
    return dns.message.from_wire(found.wire).rcode()


async def resolved(chain, x):
    """What `Chain.resolve` hands to its caller."""
    future = asyncio.get_running_loop().create_future()
    chain.resolve(x, lambda x, found: future.set_result(found))
    return await asyncio.wait_for(future, 5)


async def test_outsiders_stand_where_the_configuration_puts_them(active, query, outside):
    """
    A plugin from an entry point reads its own table, and sees queries and answers below it.
    """
    chain = await build(active, "acl", "counting", "guard", counting={"special": "mine.example"})
    try:
        counting = chain.plugins[1]
        who, stranger = chain.find("127.0.0.1"), chain.find("203.0.113.1")
        assert rcode(chain.local(query("mine.example", who=who))) == 3
        assert chain.local(query("evil.example", who=who)).source == "guard"
        assert rcode(chain.local(query("evil.example", who=stranger))) == 5
        assert counting.seen == ["mine.example", "evil.example", "guard"]
    finally:
        chain.close()
    assert counting.closed


async def test_only_answers_above_which_all_is_cacheable_are_ready(active, query, outside):
    """
    A plugin that wants to see each query keeps answers from it and below from being ready.
    """
    chain = await build(active, "acl", "guard", "counting")
    who, stranger = chain.find("127.0.0.1"), chain.find("203.0.113.1")
    assert chain.local(query("evil.example", who=who)).storable
    assert not chain.local(query("special.example", who=who)).storable
    chain = await build(active, "acl", "counting", "guard")
    assert not chain.local(query("evil.example", who=who)).storable
    assert not chain.local(query("evil.example", who=stranger)).storable  # of this client alone


@pytest.mark.parametrize(
    ("names", "tables", "words"),
    [
        (
            ("acl", "gaurd"),
            {},
            "unknown plugin 'gaurd'; known: acl, limit, guard, special, cache, rebind, forward, "
            "broken",
        ),
        (("counting",), {"counting": {"specail": "x"}}, "did you mean 'special'"),
        (("refusing",), {}, "plugin 'refusing': KeyError"),
        (("acl",), {"counting": {}}, "[plugin.counting]: 'counting' is not among plugins"),
        (("forward", "acl"), {}, "'forward' waits and is not last"),
        (("acl", "cache"), {}, "'cache' is last; it needs one to ask"),
        (("cache", "forward", "acl"), {}, "'forward' waits and is not last"),
    ],
)
async def test_a_wrong_chain_is_a_configuration_error(active, outside, names, tables, words):
    """
    The operator is told which plugin is wrong, and what is known.
    """
    with pytest.raises(ConfigError) as caught:
        await build(active, *names, **tables)
    assert words in str(caught.value)


async def test_a_plugin_that_raises_costs_its_query_only(active, query, outside, monkeypatch):
    """
    The client gets SERVFAIL, the log one line and not one a query, and the next query is answered.
    """
    lines = []
    monkeypatch.setattr(events, "error", lambda event, **keys: lines.append((event, keys)))
    chain = await build(active, "guard", "broken")
    for _ in range(50):
        found = chain.local(query())
        assert rcode(found) == 2
        assert not found.storable
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
async def test_what_is_no_question_is_answered_before_plugins(active, query, qtype, qclass, code):
    """
    Other classes, transfers and meta types never reach a plugin, nor the upstream.
    """
    chain = await build(active, "guard")
    found = chain.local(query("evil.example", qtype, qclass=qclass))
    assert rcode(found) == code
    assert found.source == "chain"
    assert not found.storable


class Watchman(Local):
    """Wants to see every query, and cannot bear those of class CH."""

    name = "watchman"
    every_query = True

    def on_query(self, x):
        if x.query.qclass == 3:
            raise ValueError(x.query.name)
        return


async def test_a_plugin_that_raises_on_what_is_no_question_costs_it_alone(query):
    """
    One by one and in a batch: that query gets SERVFAIL, the others their answers.
    """
    chain = Chain([Watchman(), Batching()], asyncio.get_running_loop())
    assert rcode(chain.local(query("version.bind", "TXT", qclass="CH"))) == 2
    asked = [query("a.example"), query("version.bind", "TXT", qclass="CH"), query("b.example")]
    alone = [chain.local(x) for x in (asked[0], asked[2])]
    first, broken, last = chain.local_batch(asked)
    assert rcode(broken) == 2
    assert [rcode(first), rcode(last)] == [rcode(found) for found in alone]
    assert chain.failures == 2


async def test_the_last_plugin_may_be_a_coroutine(active, query, outside):
    """
    Its answer passes the plugins above.
    """
    loop = asyncio.get_running_loop()
    counting = Counting(Counting.Options())
    chain = Chain([counting, Last()], loop)
    x = query()
    assert chain.local(x) is None
    assert (await resolved(chain, x)).source == "last"
    assert counting.seen == ["example.org", "last"]


async def test_a_last_plugin_that_raises_means_servfail(active, query, monkeypatch):
    """
    Whether it raises at once or later, the client gets an answer, and the log a line.
    """
    lines = []
    monkeypatch.setattr(events, "error", lambda event, **keys: lines.append((event, keys)))
    loop = asyncio.get_running_loop()
    chain = Chain([Last(ValueError("later"))], loop)
    assert rcode(await resolved(chain, query())) == 2
    chain = Chain([Last()], loop)
    monkeypatch.setattr(Last, "resolve", lambda self, x: 1 / 0)
    assert rcode(await resolved(chain, query())) == 2
    assert [(e, k["plugin"]) for e, k in lines] == [("plugin.failed", "last")] * 2


async def test_a_coroutine_that_is_closed_gives_no_answer(active, query):
    """
    Whoever waits hears that nothing will come.
    """
    last = Last()
    chain = Chain([last], asyncio.get_running_loop())
    waiting = asyncio.ensure_future(resolved(chain, query()))
    await asyncio.sleep(0)
    chain.close()
    assert await waiting is None


async def test_what_stands_behind_a_waiting_plugin_is_a_chain_of_its_own(active, query):
    """
    It is asked when that plugin asks; each answer passes back through those above its giver, once.
    """
    above, behind = Counting(Counting.Options()), Counting(Counting.Options())
    chain = Chain([above, Middle(), behind, Last()], asyncio.get_running_loop())
    assert chain.local(x := query()) is None
    assert above.seen == ["example.org"]
    assert behind.seen == []
    assert (await resolved(chain, x)).source == "last"
    assert behind.seen == ["example.org", "last"]
    assert above.seen == ["example.org", "last"]
    assert chain.local(query()).source == "middle"
    assert above.seen == ["example.org", "last", "example.org", "middle"]
    assert behind.seen == ["example.org", "last"]


async def test_plugins_behind_answer_what_they_know(active, query):
    """
    A plain plugin that knows the answer spares the last one its question.
    """
    behind = Counting(Counting.Options())
    chain = Chain([Middle(), behind, Last(RuntimeError("asked"))], asyncio.get_running_loop())
    found = await resolved(chain, query("special.example"))
    assert (rcode(found), found.source) == (3, "counting")


async def test_a_plugin_behind_that_raises_costs_its_query_only(active, query, monkeypatch):
    """
    The chain behind has the same manners as the one before.
    """
    monkeypatch.setattr(events, "error", lambda event, **keys: None)
    chain = Chain([Middle(), Broken(), Last()], asyncio.get_running_loop())
    assert rcode(await resolved(chain, query())) == 2


async def test_answers_of_a_waiting_plugin_are_ready_if_all_above_permit(active, query):
    """
    What it knows at once counts as an answer of its place in the chain.
    """
    middle = Middle()
    middle.known["example.org"] = 0
    loop = asyncio.get_running_loop()
    assert Chain([middle, Last()], loop).local(query()).storable
    counting = Counting(Counting.Options())
    assert not Chain([counting, middle, Last()], loop).local(query()).storable


@pytest.mark.parametrize(("once", "fleeting"), [(False, False), (False, True), (True, False)])
async def test_what_is_made_of_an_answer_holds_no_longer_than_it(active, query, once, fleeting):
    """
    An answer for this client alone is not ready, and what replaces a fleeting one is fleeting.
    """

    class Replacing(Local):
        name, cacheable = "replacing", True

        def on_answer(self, x, a):
            return Answer(answer.error(x, 3), self.name)

    class Knowing(Local):
        name, cacheable = "knowing", True

        def on_query(self, x):
            found = Answer(answer.error(x, 0), self.name)
            found.once, found.fleeting = once, fleeting
            return found

    loop = asyncio.get_running_loop()
    plain = Chain([Knowing()], loop).local(query())
    assert (plain.storable, plain.fleeting) == (not once, fleeting)
    replaced = Chain([Replacing(), Knowing()], loop).local(query())
    assert (rcode(replaced), replaced.fleeting) == (3, fleeting)
    assert replaced.storable is not once


async def test_a_new_chain_adopts_what_the_old_one_learnt(active, query):
    """
    Each plugin is given the one of its name, if it is of the same kind.
    """

    class Learning(Local):
        name = "learning"
        before = None

        def adopt(self, old):
            self.before = old

    class Other(Learning):
        pass

    loop = asyncio.get_running_loop()
    old, new, other = Learning(), Learning(), Other()
    Chain([new], loop).adopt(Chain([Broken(), old], loop))
    assert new.before is old
    Chain([other], loop).adopt(Chain([old], loop))
    assert other.before is None


async def test_a_chain_without_a_last_plugin_says_servfail(active, query):
    """
    A chain whose end nobody answers still answers.
    """
    chain = await build(active, "guard")
    assert rcode(chain.local(query("example.org"))) == 2


def test_the_table_and_its_pages_agree():
    """
    Every built-in plugin answers to its own name in the table.
    """
    assert {name: made.name for name, made in plugins.BUILTIN.items()} == {
        name: name for name in plugins.BUILTIN
    }


# ---- several queries at once


class Batching(Local):
    """Answers names that begin with ``batch``, and remembers how it was asked."""

    name = "batching"

    def __init__(self, fail=None):
        self.batches, self.single, self.fail = [], [], fail

    def on_query(self, x):
        self.single.append(x.query.name)
        return self._answer(x)

    def on_queries(self, batch):
        self.batches.append([x.query.name for x in batch])
        if self.fail is not None:
            return self.fail(batch)
        return [self._answer(x) for x in batch]

    def _answer(self, x):
        if x.query.name.startswith("batch"):
            return Answer(answer.error(x, 3), self.name)
        return None


class Picky(Local):
    """Raises on one name, answers those that begin with ``picky``."""

    name = "picky"

    def __init__(self):
        self.seen = []

    def on_query(self, x):
        self.seen.append(x.query.name)
        if x.query.name == "bad.example":
            raise RuntimeError("oh no")
        if x.query.name.startswith("picky"):
            return Answer(answer.error(x, 5), self.name)
        return None


NAMES = ("a.example", "batch-1.example", "picky-1.example", "batch-2.example", "picky-2.example")


def sources(chain, batch):
    """Who answered each query of a batch, and with which ID."""
    found = chain.local_batch(batch)
    for x, one in zip(batch, found, strict=True):
        assert one is None or one.wire[:2] == x.query.data[:2]
    return [one and one.source for one in found]


async def test_a_batch_is_answered_as_one_query_after_the_other(query):
    """
    In the order of the queries, each by the first plugin that has an answer.
    """
    batch = [query(name) for name in NAMES]
    chain = Chain([Batching(), Picky(), Last()], asyncio.get_running_loop())
    assert sources(chain, batch) == [None, "batching", "picky", "batching", "picky"]
    assert sources(chain, batch) == [one and one.source for one in map(chain.local, batch)]
    assert chain.local_batch([]) == []


async def test_a_plugin_with_a_batch_hook_sees_the_batch(query):
    """
    All that nobody before it answered, in one call; others are asked one by one, in order.
    """
    first, batching, last = Picky(), Batching(), Picky()
    chain = Chain([first, batching, last, Last()], asyncio.get_running_loop())
    chain.local_batch([query(name) for name in NAMES])
    assert chain.batches
    assert first.seen == list(NAMES)
    assert (batching.batches, batching.single) == ([[NAMES[0], NAMES[1], NAMES[3]]], [])
    assert last.seen == [NAMES[0]]
    assert not Chain([first, last, Last()], asyncio.get_running_loop()).batches


async def test_a_plugin_that_raises_costs_the_one_query(query):
    """
    SERVFAIL for that one; the others get their answers, and later plugins do not see it.
    """
    last = Batching()
    chain = Chain([Picky(), last, Last()], asyncio.get_running_loop())
    batch = [query(name) for name in ("batch.example", "bad.example", "a.example")]
    found = chain.local_batch(batch)
    assert found[1].wire[3] & 15 == 2
    assert found[1].once
    assert [one and one.source for one in found] == ["batching", "picky", None]
    assert last.batches == [["batch.example", "a.example"]]
    assert chain.failures == 1


@pytest.mark.parametrize("fail", [lambda batch: 1 // 0, lambda batch: [None]])
async def test_a_batch_hook_that_fails_is_asked_one_by_one(query, fail):
    """
    If it raises, or gives another number of answers: no query is lost.
    """
    batching = Batching(fail)
    chain = Chain([batching, Last()], asyncio.get_running_loop())
    batch = [query(name) for name in ("a.example", "batch.example")]
    assert sources(chain, batch) == [None, "batching"]
    assert batching.single == ["a.example", "batch.example"]
    assert chain.failures == 0


async def test_a_batch_passes_back_through_the_plugins_above(query):
    """
    And what is no question to plugins is answered as always.
    """
    above = Counting(Counting.Options())
    chain = Chain([above, Batching()], asyncio.get_running_loop())
    batch = [query("batch.example"), query("a.example", qclass="CH"), query("a.example")]
    found = chain.local_batch(batch)
    assert [one.source for one in found] == ["batching", "chain", "chain"]
    assert [one.wire[3] & 15 for one in found] == [3, 5, 2]
    assert above.seen == ["batch.example", "a.example", "batching"]
