"""What the cache remembers, for how long, what it gives when upstreams fail, and what it costs."""

import asyncio
import gc
import itertools
import tracemalloc
from pathlib import Path

import dns.message
import pytest

from tests.plugins.scripted import Below, Clock, as_answer, made, rrset
from urlguard import config
from urlguard.plugins import Answer, Exchange
from urlguard.plugins.base import NOBODY, Parts
from urlguard.plugins.cache import MAX_WAITING, Cache
from urlguard.plugins.clients import Bucket, Client
from urlguard.wire import answer
from urlguard.wire.reply import failure, nodata, read_reply

NAME = "www.example.org"
SOA = "example.org. {} SOA ns.example.org. root.example.org. 1 2 3 4 {}"
ADDRESS = f"{NAME}. 60 A 192.0.2.7"


class Asking:
    """Asks a cache, and keeps what it is answered."""

    def __init__(self, cache, clock):
        self.cache, self.clock = cache, clock
        self.got = []

    def ask(self, x):
        """The answer, read, if it comes at once; else it will come to ``got``."""
        found = self.cache.on_query(x)
        if found is None:
            before = len(self.got)
            self.cache.ask(x, self.done)
            return self.got[-1] if len(self.got) > before else None
        self.done(x, found)
        return self.got[-1]

    def done(self, x, found):
        self.got.append(None if found is None else read(x, found))


def read(x, found):
    """An answer as the client reads it."""
    got = dns.message.from_wire(found.octets(x))
    assert got.id == x.query.id
    assert got.question[0].to_text().split()[0].rstrip(".") == asked_name(x)
    got.source = found.source
    got.codes = [int(o.code) for o in got.options if o.otype == 15]
    return got


def asked_name(x):
    """The name as the client spelled it."""
    return dns.message.from_wire(x.query.data).question[0].name.to_text().rstrip(".")


def ttls(got):
    """The TTLs of all records."""
    return [r.ttl for section in (got.answer, got.authority, got.additional) for r in section]


@pytest.fixture
def setup(clock):
    """Make a cache, what stands behind it, and a client."""

    def make(says=None, **options):
        cache = Cache(config.Cache(**options), clock)
        cache.below = below = Below(says)
        return cache, below, Asking(cache, clock)

    return make


def says(*lines, **keys):
    """An upstream that always says the same."""
    return lambda x: made(x, *lines, **keys)


# ---- what holds


def test_an_answer_is_given_again_with_ttls_counted_down(setup, clock, query):
    """
    One question upstream serves until its records' time is over, to the second.
    """
    cache, below, client = setup(says(ADDRESS), prefetch=False)
    assert ttls(client.ask(query(NAME))) == [60]
    for after, ttl in [(0, 60), (0.9, 60), (0.2, 59), (58.8, 1)]:
        clock.pass_s(after)
        assert ttls(client.ask(query(NAME))) == [ttl]
    assert len(below.asked) == 1
    clock.pass_s(0.2)
    assert ttls(client.ask(query(NAME))) == [60]
    assert len(below.asked) == 2
    assert (cache.counters["hits"], cache.counters["misses"]) == (4, 2)


def test_hits_are_answers_for_a_moment(setup, query):
    """
    What the cache gives may be given again for a second, and no longer: its TTLs go down.
    """
    cache, _, client = setup(says(ADDRESS))
    client.ask(query(NAME))
    found = cache.on_query(query(NAME))
    assert (found.source, found.fleeting, found.once) == ("cache", True, False)


def test_each_client_gets_its_own_answer(setup, query):
    """
    ID, spelling and OPT record are the client's, whoever asked first.
    """
    _, below, client = setup(says(ADDRESS))
    for name, edns in itertools.product([NAME, NAME.upper(), "wWw.eXample.Org"], [True, False]):
        got = client.ask(query(name, edns=edns))
        assert got.edns == (0 if edns else -1)
        assert got.answer[0][0].address == "192.0.2.7"
    assert len(below.asked) == 1


def test_do_cd_and_type_are_remembered_apart(setup, query):
    """
    Who wants signatures, or no validation, is not given what was said to others.
    """
    _, below, client = setup(says(ADDRESS, f"{NAME}. 60 AAAA 2001:db8::7"))
    kinds = [
        {},
        {"do": True},
        {"cd": True},
        {"do": True, "cd": True},
        {"qtype": "AAAA"},
    ]
    for _ in range(2):
        for traits in kinds:
            client.ask(query(NAME, **traits))
    assert len(below.asked) == len(kinds)
    assert [(x.query.do, x.query.cd) for x in below.asked[:4]] == [(0, 0), (1, 0), (0, 1), (1, 1)]


@pytest.mark.parametrize("rcode", [0, 3])
def test_that_there_is_nothing_is_remembered_too(setup, clock, query, rcode):
    """
    For as long as the SOA record says (RFC 2308 5).
    """
    _, below, client = setup(says(authority=(SOA.format(900, 40),), rcode=rcode), prefetch=False)
    for after, ttl in [(0, 40), (39.5, 1)]:
        clock.pass_s(after)
        got = client.ask(query(NAME))
        assert (got.rcode(), ttls(got)) == (rcode, [ttl])
    assert len(below.asked) == 1
    clock.pass_s(0.6)
    client.ask(query(NAME))
    assert len(below.asked) == 2


@pytest.mark.parametrize(
    "kept_not",
    [
        says(rcode=3),
        says(rcode=0, authority=("example.org. 300 NS ns.example.org.",)),
        says(f"{NAME}. 0 A 192.0.2.7"),
        says(ADDRESS, f"{NAME}. 0 A 192.0.2.8"),
        says(authority=(SOA.format(900, 0),)),
        says(rcode=5),
        says(rcode=4),
    ],
)
def test_what_holds_for_no_time_is_not_kept(setup, query, kept_not):
    """
    Nothing without a SOA record, records with TTL 0, and errors other than SERVFAIL.
    """
    cache, below, client = setup(kept_not)
    for _ in range(3):
        assert client.ask(query(NAME)) is not None
    assert len(below.asked) == 3
    assert (len(cache), cache.bytes) == (0, 0)


@pytest.mark.parametrize(
    ("options", "lines", "authority", "ttl"),
    [
        ({"max_ttl_s": 30}, [ADDRESS], (), 30),
        ({"max_negative_ttl_s": 20}, [], (SOA.format(900, 300),), 20),
        ({"max_negative_ttl_s": 20}, [ADDRESS], (), 60),
        ({"max_ttl_s": 30}, [], (SOA.format(900, 300),), 300),
    ],
)
def test_time_is_bounded(setup, clock, query, options, lines, authority, ttl):
    """
    Longer TTLs count as the most, for us and for clients.
    """
    _, below, client = setup(says(*lines, authority=authority), prefetch=False, **options)
    assert ttls(client.ask(query(NAME))) == [ttl]
    clock.pass_s(ttl - 0.5)
    assert ttls(client.ask(query(NAME))) == [1]
    clock.pass_s(0.6)
    client.ask(query(NAME))
    assert len(below.asked) == 2


def test_short_times_can_be_made_longer(setup, clock, query):
    """
    For clients too, or they would ask again all the time.
    """
    _, below, client = setup(says(f"{NAME}. 2 A 192.0.2.7"), min_ttl_s=10)
    assert ttls(client.ask(query(NAME))) == [10]
    clock.pass_s(5)
    assert ttls(client.ask(query(NAME))) == [5]
    assert len(below.asked) == 1


# ---- failures


def test_a_failure_is_remembered_for_a_second(setup, clock, query):
    """
    A broken zone is asked once a second, whoever asks, and the reason is passed on.
    """
    cache, below, client = setup(lambda x: failure(2, 22))
    for _ in range(5):
        got = client.ask(query(NAME))
        assert (got.rcode(), got.codes) == (2, [22])
    assert len(below.asked) == 1
    assert cache.on_query(query(NAME)).once
    clock.pass_s(1.1)
    client.ask(query(NAME))
    assert len(below.asked) == 2


def test_a_failure_gives_way_to_the_first_answer(setup, clock, query):
    """
    And is never given after its second.
    """
    _, below, client = setup(lambda x: failure(2, 22))
    client.ask(query(NAME))
    clock.pass_s(1.1)
    below.says = None
    assert client.ask(query(NAME)) is None
    clock.pass_s(5)
    assert len(client.got) == 1
    below.answer(ADDRESS)
    assert ttls(client.got[-1]) == [60]


def test_what_stands_behind_may_answer_by_itself(setup, query):
    """
    A whole message from below is an error with its rcode to each client, and is not kept.
    """
    cache, _, client = setup(lambda x: Answer(answer.error(x, 2), "rebind"))
    for name in (NAME, NAME.upper()):
        got = client.ask(query(name))
        assert (got.rcode(), got.source) == (2, "rebind")
    assert len(cache) == 0


def test_who_gives_up_gives_no_answer(setup, query):
    """
    All who wait hear it, and the next question is asked anew.
    """
    _, below, client = setup()
    client.ask(query(NAME))
    client.ask(query(NAME))
    x, done = below.open.pop()
    done(x, None)
    assert client.got == [None, None]
    assert client.ask(query(NAME)) is None
    assert len(below.asked) == 2


# ---- one question for all


def test_identical_questions_are_asked_once(setup, query):
    """
    All who ask while an answer is under way get it, each in its own ID, spelling and kind.
    """
    cache, below, client = setup()
    asked = [query(n, edns=e) for n in (NAME, NAME.upper(), "WWW.example.org") for e in (0, 1)]
    for x in asked:
        assert client.ask(x) is None
    assert client.ask(query(NAME, do=True)) is None
    assert len(below.asked) == 2
    below.answer(ADDRESS)
    assert [got.id for got in client.got] == [x.query.id for x in asked]
    assert [got.edns for got in client.got] == [-1, 0] * 3
    assert cache.counters["shared"] == 5


def test_the_question_asked_upstream_is_nobodys(setup, query):
    """
    Neither the client nor its options stand in it, and its ruling stays with the client.
    """
    _, below, client = setup()
    x = query(NAME)
    x.client, x.ruling, x.reply_options = Client("192.0.2.1", None), object(), b"\0\x0a\0\0"
    client.ask(x)
    [asked] = below.asked
    assert asked is not x
    assert asked.query is x.query
    assert (asked.client, asked.ruling, asked.reply_options) == (None, None, b"")
    assert (asked.peer, asked.shadows, asked.key) == (NOBODY, None, x.key)


def test_who_waits_for_one_answer_is_bounded(setup, query):
    """
    More get SERVFAIL; those who wait get their answer.
    """
    _, below, client = setup()
    x = query(NAME)
    for _ in range(MAX_WAITING):
        client.ask(x)
    assert client.ask(x).rcode() == 2
    below.answer(ADDRESS)
    assert len(client.got) == MAX_WAITING + 1
    assert len(below.asked) == 1


# ---- after their time


def test_what_expired_is_given_if_upstreams_fail(setup, clock, query):
    """
    With TTL 30 and EDE 3 (RFC 8767, RFC 8914), and one question a second goes on trying.
    """
    cache, below, client = setup(says(ADDRESS))
    client.ask(query(NAME))
    clock.pass_s(61)
    below.says = lambda x: failure(2, 22)
    for _ in range(5):
        got = client.ask(query(NAME))
        assert (got.rcode(), ttls(got), got.codes) == (0, [30], [3])
    assert len(below.asked) == 2
    clock.pass_s(1.1)
    client.ask(query(NAME))
    assert len(below.asked) == 3
    assert cache.counters["stale"] == 6
    below.says = says(f"{NAME}. 60 A 192.0.2.8")
    clock.pass_s(1.1)
    got = client.ask(query(NAME))
    assert (got.codes, ttls(got), got.answer[0][0].address) == ([], [60], "192.0.2.8")


@pytest.mark.parametrize("rcode", [2, 5])
def test_any_failure_of_upstreams_counts(setup, clock, query, rcode):
    """
    REFUSED is no better an answer than SERVFAIL.
    """
    _, below, client = setup(says(ADDRESS))
    client.ask(query(NAME))
    clock.pass_s(61)
    below.says = says(rcode=rcode)
    assert client.ask(query(NAME)).codes == [3]


def test_that_a_name_did_not_exist_has_a_code_of_its_own(setup, clock, query):
    """
    EDE 19 for NXDOMAIN after its time.
    """
    _, below, client = setup(says(rcode=3, authority=(SOA.format(60, 60),)))
    client.ask(query(NAME))
    clock.pass_s(61)
    below.says = lambda x: failure(2, 22)
    got = client.ask(query(NAME))
    assert (got.rcode(), got.codes, ttls(got)) == (3, [19], [30])


def test_what_is_given_after_its_time_is_never_ready(setup, clock, query):
    """
    Upstreams may be back with the next query.
    """
    cache, below, client = setup(says(ADDRESS))
    client.ask(query(NAME))
    clock.pass_s(61)
    below.says = lambda x: failure(2, 22)
    seen = []
    x = query(NAME)
    assert cache.on_query(x) is None
    cache.ask(x, lambda x, found: seen.append(found))
    assert cache.on_query(x) is None
    cache.ask(x, lambda x, found: seen.append(found))
    assert [found.once for found in seen] == [True, True]


def test_clients_do_not_wait_long_for_upstreams_if_there_is_something(setup, clock, query):
    """
    After stale_wait_ms all who wait get what there was; the answer still renews the entry.
    """
    cache, below, client = setup(says(ADDRESS), stale_wait_ms=500)
    client.ask(query(NAME))
    clock.pass_s(61)
    below.says = None
    assert client.ask(query(NAME)) is None
    clock.pass_s(0.4)
    assert client.ask(query(NAME)) is None
    assert len(client.got) == 1
    clock.pass_s(0.1)
    assert [got.codes for got in client.got[1:]] == [[3], [3]]
    assert client.ask(query(NAME)).codes == [3]  # at once: upstreams are known to be slow
    assert len(below.asked) == 2
    below.answer(f"{NAME}. 60 A 192.0.2.8")
    assert len(client.got) == 4
    assert client.ask(query(NAME)).answer[0][0].address == "192.0.2.8"
    assert clock.timers == 0
    assert cache.counters["stale"] == 3


def test_while_a_question_stays_open_later_ones_do_not_wait_anew(setup, clock, query):
    """
    One that joins an old question waits its own time and no longer.
    """
    _, below, client = setup(says(ADDRESS), stale_wait_ms=500)
    client.ask(query(NAME))
    clock.pass_s(61)
    below.says = None
    client.ask(query(NAME))
    clock.pass_s(5)
    assert len(client.got) == 2
    assert client.ask(query(NAME)) is None
    clock.pass_s(0.6)
    assert client.got[-1].codes == [3]
    assert len(below.asked) == 2


def test_in_time_answers_are_the_new_ones(setup, clock, query):
    """
    Who waits less than stale_wait_ms gets the answer, and no timer stays behind.
    """
    _, below, client = setup(says(ADDRESS), stale_wait_ms=500)
    client.ask(query(NAME))
    clock.pass_s(61)
    below.says = None
    client.ask(query(NAME))
    clock.pass_s(0.4)
    below.answer(f"{NAME}. 60 A 192.0.2.8")
    assert client.got[-1].codes == []
    assert clock.timers == 0


def test_nothing_is_given_after_the_last_of_its_time(setup, clock, query):
    """
    stale_s ends it: then a failure is a failure.
    """
    _, below, client = setup(says(ADDRESS), stale_s=100)
    client.ask(query(NAME))
    below.says = lambda x: failure(2, 22)
    clock.pass_s(159)
    assert client.ask(query(NAME)).codes == [3]
    clock.pass_s(1.1)
    got = client.ask(query(NAME))
    assert (got.rcode(), got.codes) == (2, [22])


def test_nothing_stale_is_given_if_the_operator_wants_none(setup, clock, query):
    """
    stale_s = 0.
    """
    _, below, client = setup(says(ADDRESS), stale_s=0)
    client.ask(query(NAME))
    below.says = lambda x: failure(2, 22)
    clock.pass_s(61)
    assert client.ask(query(NAME)).rcode() == 2


# ---- prefetch


def test_names_in_demand_are_renewed_before_they_expire(setup, clock, query):
    """
    In the last tenth of its time a hit asks upstream, once, and nobody waits for it.
    """
    cache, below, client = setup(says(ADDRESS))
    client.ask(query(NAME))
    clock.pass_s(50)
    client.ask(query(NAME))
    assert len(below.asked) == 1
    below.says = None
    clock.pass_s(5)
    for _ in range(3):
        assert ttls(client.ask(query(NAME))) == [5]
    assert len(below.asked) == 2
    below.answer(f"{NAME}. 60 A 192.0.2.8")
    assert ttls(client.ask(query(NAME))) == [60]
    assert cache.counters["prefetched"] == 1


def test_a_name_asked_for_once_is_not_renewed(setup, clock, query):
    """
    One hit is no demand; short TTLs are not worth it; and the operator may want none at all.
    """
    _, below, client = setup(says(ADDRESS))
    client.ask(query(NAME))
    clock.pass_s(59)
    client.ask(query(NAME))
    assert len(below.asked) == 1
    for options, ttl in [({}, 4), ({"prefetch": False}, 60)]:
        _, below, client = setup(says(f"{NAME}. {ttl} A 192.0.2.7"), **options)
        client.ask(query(NAME))
        clock.pass_s(ttl * 0.95)
        for _ in range(3):
            client.ask(query(NAME))
        assert len(below.asked) == 1


def test_a_renewal_that_fails_costs_nothing_and_is_tried_once_a_second(setup, clock, query):
    """
    The entry is still good; upstreams that fail at once are not asked with every query.
    """
    _, below, client = setup(says(ADDRESS))
    client.ask(query(NAME))
    client.ask(query(NAME))
    below.says = lambda x: failure(2, 22)
    clock.pass_s(55)
    for _ in range(20):
        got = client.ask(query(NAME))
        assert (got.rcode(), ttls(got), got.codes) == (0, [5], [])
    assert len(below.asked) == 2
    clock.pass_s(1.1)
    client.ask(query(NAME))
    assert len(below.asked) == 3


def test_who_asks_while_a_renewal_is_under_way_waits_for_it(setup, clock, query):
    """
    Once the entry has expired; should the renewal fail there is what was.
    """
    _, below, client = setup(says(ADDRESS))
    client.ask(query(NAME))
    client.ask(query(NAME))
    below.says = None
    clock.pass_s(59)
    client.ask(query(NAME))
    clock.pass_s(1.5)
    assert client.ask(query(NAME)) is None
    assert len(below.asked) == 2
    below.fail()
    assert client.got[-1].codes == [3]


# ---- flush


async def test_flushing_a_name_forgets_it_and_all_below(setup, query):
    """
    Of all types and kinds; names that only end alike stay.
    """
    cache, below, client = setup(lambda x: made(x, f"{x.query.name}. 60 A 192.0.2.7"))
    names = ["example.org", "www.example.org", "a.b.example.org", "myexample.org", "org"]
    for name in names:
        client.ask(query(name))
        client.ask(query(name, do=True))
    assert await cache.flush(["example.org"]) == 6
    assert cache.counters["flushed"] == 6
    asked = len(below.asked)
    for name in ("myexample.org", "org"):
        client.ask(query(name))
    assert len(below.asked) == asked
    client.ask(query("a.b.example.org"))
    assert len(below.asked) == asked + 1


async def test_flushing_everything_leaves_nothing(setup, query):
    """
    Not even in the books; and the loop goes on meanwhile.
    """
    cache, _, client = setup(lambda x: made(x, f"{x.query.name}. 60 A 192.0.2.7"))
    for number in range(2500):
        client.ask(query(f"n{number}.example"))
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.ensure_future(tick())
    assert await cache.flush([], everything=True) == 2500
    ticking.cancel()
    assert (len(cache), cache.bytes) == (0, 0)
    assert ticks >= 2


async def test_what_was_under_way_at_a_flush_is_not_kept(setup, query):
    """
    Its answer may be the one that the operator wants forgotten; who waits gets it.
    """
    cache, below, client = setup()
    client.ask(query(NAME))
    client.ask(query("other.example"))
    await cache.flush(["example.org"])
    below.answer(ADDRESS)
    below.answer("other.example. 60 A 192.0.2.7")
    assert len(client.got) == 2
    assert client.ask(query("other.example")) is not None
    assert client.ask(query(NAME)) is None


async def test_who_asks_after_a_flush_is_asked_for_anew(setup, query):
    """
    It does not get the answer to a question of before.
    """
    cache, below, client = setup()
    client.ask(query(NAME))
    await cache.flush([NAME])
    later = query(NAME)
    client.ask(later)
    assert len(below.asked) == 2
    below.answer(ADDRESS)
    assert len(client.got) == 1
    below.answer(f"{NAME}. 60 A 192.0.2.8")
    assert [g.answer[0][0].address for g in client.got] == ["192.0.2.7", "192.0.2.8"]
    assert client.ask(query(NAME)).answer[0][0].address == "192.0.2.8"


# ---- limits


def test_a_client_over_its_share_of_misses_is_sent_to_tcp_or_refused(setup, clock, query):
    """
    TC where its address may be forged, REFUSED with EDE 18 where it is not; hits cost nothing.
    """
    cache, below, client = setup(lambda x: made(x, f"{x.query.name}. 60 A 192.0.2.7"))
    who = Client("192.0.2.1", None)
    who.misses = Bucket(1.0, 3.0)
    who.misses.since = clock.time()
    for number in range(3):
        assert client.ask(query(f"n{number}.example", who=who)).answer
    over = client.ask(query("n3.example", who=who))
    assert (over.flags & 0x0200, over.answer) == (0x0200, [])
    over = client.ask(query("n3.example", who=who, tcp=True))
    assert (over.rcode(), over.codes) == (5, [18])
    assert client.ask(query("n0.example", who=who)).answer
    assert len(below.asked) == 3
    assert cache.counters["over_misses"] == 2
    assert client.ask(query("n3.example", who=Client("192.0.2.2", None))).answer
    clock.pass_s(1)
    assert client.ask(query("n5.example", who=who)).answer


def test_a_client_over_its_share_gets_what_there_was(setup, clock, query):
    """
    An expired entry is better than no answer.
    """
    _, _, client = setup(says(ADDRESS))
    client.ask(query(NAME))
    clock.pass_s(61)
    who = Client("192.0.2.1", None)
    who.misses = Bucket(1.0, 0.0)
    assert client.ask(query(NAME, who=who)).codes == [3]


def test_memory_is_bounded_and_what_is_used_stays(setup, query):
    """
    The oldest go first, but not those that were asked for again meanwhile.
    """
    big = "x" * 200
    text = " ".join([f'"{big}"'] * 20)
    cache, below, client = setup(
        lambda x: made(x, f"{x.query.name}. 600 TXT {text}"), max_mb=1, prefetch=False
    )
    hot = [f"hot{i}.example" for i in range(5)]
    for name in hot:
        client.ask(query(name, "TXT"))
    for number in range(600):
        client.ask(query(f"n{number}.example", "TXT"))
        for name in hot:
            client.ask(query(name, "TXT"))
        assert cache.bytes <= 1 << 20
    assert cache.counters["evicted"] > 300
    assert len(below.asked) == 605
    before = len(below.asked)
    client.ask(query("n599.example", "TXT"))
    assert len(below.asked) == before
    client.ask(query("n0.example", "TXT"))
    assert len(below.asked) == before + 1


def test_a_full_cache_makes_room_at_once(setup, query):
    """
    Also if everything in it was used: looking for room is bounded.
    """
    cache, _, client = setup(lambda x: made(x, f"{x.query.name}. 600 A 192.0.2.7"), max_mb=1)
    names = [f"n{i}.example" for i in range(1200)]
    for name in names:
        client.ask(query(name))
        client.ask(query(name))
        assert cache.bytes <= 1 << 20
    assert 300 < len(cache) < 1200


def test_the_books_are_right(setup, clock, query):
    """
    What entries are said to cost is the sum over those that are there.
    """
    cache, _, client = setup(lambda x: made(x, f"{x.query.name}. 60 A 192.0.2.7"))
    for round_ in range(3):
        for number in range(50):
            client.ask(query(f"n{number * (round_ + 1)}.example"))
        clock.pass_s(61)
    assert cache.bytes == sum(r.size for r in cache._entries.values()) > 0


RRSIG = "A 13 3 60 20300101000000 20200101000000 12345 example.org. " + "A" * 86 + "=="


def _short(number):
    name = f"host{number}.customer{number % 97}.example"
    return name, [f"{name}. 300 A 192.0.2.{number % 256}"]


def _chain(number):
    names = [f"www.site{number}.example", f"site{number}.cdn.test", f"e{number}.a.edge.test"]
    lines = [f"{a}. 300 CNAME {b}." for a, b in itertools.pairwise(names)]
    return names[0], [*lines, f"{names[-1]}. 20 A " + " | ".join(f"192.0.2.{i}" for i in range(4))]


def _signed(number):
    name = f"host{number}.signed.example"
    return name, [f"{name}. 300 A 192.0.2.{number % 256}", f"{name}. 300 RRSIG {RRSIG}"]


def _large(number):
    name = f"host{number}.large.example"
    return name, [f"{name}. 300 AAAA " + " | ".join(f"2001:db8::{i:x}" for i in range(30))]


def _nothing(number):
    return f"host{number}.nothing.example", []


@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize("kind", [_short, _chain, _signed, _large, _nothing])
def test_the_estimate_of_memory_is_near_the_truth(clock, query, kind, judged):
    """
    What the allocator counts is at most a quarter more than the estimate, and at least half of it.
    """
    cache = Cache(config.Cache(prefetch=False), clock)
    messages = []
    for number in range(1000):
        name, lines = kind(number)
        x = query(name, "AAAA" if kind is _large else "A")
        message = dns.message.from_wire(x.query.data)
        reply = dns.message.make_response(message, recursion_available=True)
        made_lines = [rrset(line) for line in lines]
        reply.answer = made_lines
        if not lines:
            reply.authority = [rrset(f"{name}. 300 SOA a.nic.example. b.nic.example. 1 2 3 4 300")]
        messages.append((x.query.data, reply.to_wire()))
    decided = {}
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        _fill(cache, messages, judged, decided)
        gc.collect()
        real = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(cache) == 1000
    assert 0.5 * cache.bytes <= real <= 1.25 * cache.bytes, (real / 1000, cache.bytes / 1000)


def _fill(cache, messages, judged, decided):
    """Let a cache ask and be asked as in service: parsed anew, and given a second later."""
    from urlguard.plugins.guard import _ReplyRulings
    from urlguard.wire.query import parse_query

    for asked, reply in messages:
        x = Exchange(parse_query(asked))
        assert cache.on_query(x) is None
        cache.below = lambda up, done, reply=reply: done(
            up, as_answer(read_reply(reply, up.query.question_end, up.query.qtype))
        )
        cache.ask(x, lambda x, found: None)
        cache._loop.pass_s(0)
        x = Exchange(parse_query(asked))
        found = cache.on_query(x)
        found.age = 1
        found.octets(x)
        if judged and (found.reply.targets or found.reply.additional_owners):
            found.reply.judged = _ReplyRulings(cache, (), (), (), (), None)


# ---- a new configuration


def test_a_new_cache_takes_over_what_the_old_one_knew(setup, clock, query):
    """
    Entries, books and counters; a smaller one keeps what it has room for.
    """
    old, _, client = setup(lambda x: made(x, f"{x.query.name}. 600 A 192.0.2.7"), max_mb=2)
    for number in range(1500):
        client.ask(query(f"n{number}.example"))
    new, below, client = setup(max_mb=1)
    new.adopt(old)
    assert (len(old), old.bytes) == (0, 0)
    assert new.bytes <= 1 << 20
    assert 300 < len(new) < 1500
    assert client.ask(query("n1499.example")) is not None
    assert below.asked == []
    assert new.counters["misses"] == 1500


def test_a_closed_cache_keeps_nothing_more(setup, query):
    """
    What was under way is still answered.
    """
    cache, below, client = setup()
    client.ask(query(NAME))
    cache.close()
    below.answer(ADDRESS)
    assert ttls(client.got[-1]) == [60]
    assert len(cache) == 0


def test_nodata_of_a_plugin_behind_is_kept_as_long_as_it_says(setup, clock, query):
    """
    A reply that a plugin made is as good as an upstream's.
    """
    _, below, client = setup(lambda x: nodata(5, 15))
    for _ in range(3):
        got = client.ask(query(NAME))
        assert (got.rcode(), got.codes, ttls(got)) == (0, [15], [5])
    assert len(below.asked) == 1
    clock.pass_s(5.1)
    client.ask(query(NAME))
    assert len(below.asked) == 2


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"cache": {"max_ttl_s": 5}}, True),
        ({"forward": {"timeout_ms": 100}}, True),
        ({"forward": {"trust_ad": True}}, False),
        ({"forward": {"zones": {"corp.example": ["192.0.2.1"]}}}, False),
        ({"rebind": {"mode": "off"}}, False),
        ({"plugins": ["acl", "guard", "cache", "forward"]}, False),
    ],
)
def test_a_reload_keeps_what_would_come_about_in_the_same_way(change, kept):
    """
    What was let through by other settings is not given on.
    """

    def made(text):
        whole = config.parse(text, Path("/etc/urlguard.toml"))
        return Cache.from_config(whole.cache, Parts(whole, None, Clock(), None))

    old, new = made({}), made(change)
    old._entries["key"] = "reply"
    new.adopt(old)
    assert bool(len(new)) is kept
