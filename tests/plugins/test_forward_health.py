"""Which upstream is asked: the fastest that is up; and what happens while some or all are not."""

import asyncio
import json

import pytest
import uvloop

from tests.plugins.forward_upstreams import (
    Recursor,
    ask,
    asking,
    codes,
    fast,
    good,
    is_probe,
    refusing,
    reply,
    silent,
    start,
    texts,
    until,
)

__all__ = ["start"]

# The hook that is to replace this fixture is newer than the oldest pytest-asyncio that we permit.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the:pytest.PytestDeprecationWarning")


@pytest.fixture(
    scope="module",
    params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy],
    ids=["asyncio", "uvloop"],
)
def event_loop_policy(request):
    """The loop of the standard library, and the workers': they differ in streams and errors."""
    return request.param()


def events_in(capsys):
    """The events written so far, as (level, event, upstream)."""
    lines = capsys.readouterr().err.splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [(e["level"], e["event"], e["upstream"]) for e in found]


def up(forward):
    """Who is up."""
    return [state["up"] for state in forward.upstreams_state()]


def mute(recursor):
    """Make it silent: it takes queries and says nothing."""
    recursor.behave = silent


async def load(forward, query, seconds, rate=400, outcomes=None):
    """Ask at a steady rate; each answer's RCODE and how long it took."""
    loop = asyncio.get_running_loop()
    outcomes = [] if outcomes is None else outcomes
    pending = set()
    begun = loop.time()
    number = 0

    async def one(n):
        start = loop.time()
        got = await ask(forward, query(f"www.site{n}.example"))
        outcomes.append((start - begun, got.rcode(), loop.time() - start))

    while loop.time() < begun + seconds:
        while number < (loop.time() - begun) * rate:
            task = loop.create_task(one(number))
            pending.add(task)
            task.add_done_callback(pending.discard)
            number += 1
        await asyncio.sleep(0.005)
    await asyncio.gather(*pending)
    return outcomes


async def test_the_fastest_upstream_is_preferred_and_the_others_stay_measured(start, query):
    """
    Nearly all queries go to the fastest; a few go elsewhere, so that a change is noticed.
    """
    slow, quick = Recursor(fast), Recursor(fast)
    slow.delay, quick.delay = 0.06, 0.005
    forward, _ = await start(slow, quick, timeout_ms=1000)
    for _ in range(30):
        await asyncio.gather(*[ask(forward, query()) for _ in range(20)])
    assert len(quick.seen) > 0.8 * 600
    assert len(slow.seen) >= 1
    slow.delay, quick.delay = 0.001, 0.09
    slow.seen.clear()
    for _ in range(40):
        await asyncio.gather(*[ask(forward, query()) for _ in range(20)])
    assert len(slow.seen) > 300
    states = forward.upstreams_state()
    assert all(state["srtt_ms"] > 0 for state in states)


@pytest.mark.parametrize("kill", [Recursor.stop, mute], ids=["gone", "silent"])
@pytest.mark.timing
async def test_one_of_three_killed_under_load_costs_no_answer(start, query, kill, capsys):
    """
    No SERVFAIL, nobody waits for long, and the dead one is asked no more until it is back.
    """
    three = [Recursor(fast) for _ in range(3)]
    favourite = three[1]
    three[0].delay = three[2].delay = 0.005  # one is asked most, also on a busy machine
    forward, _ = await start(*three, timeout_ms=2000)
    await load(forward, query, 0.3)
    name = str(favourite.where)
    outcomes = []
    running = asyncio.ensure_future(load(forward, query, 5.0, outcomes=outcomes))
    await asyncio.sleep(0.3)
    kill(favourite)
    # What failed once is asked seldom, so that it may take some seconds to be sure.
    await until(lambda: not all(up(forward)), 4.5)
    favourite.seen.clear()
    await running
    assert len(outcomes) > 400
    assert {rcode for _, rcode, _ in outcomes} == {0}
    assert max(took for _, _, took in outcomes) < 1.0
    assert len(favourite.seen) <= 2
    assert events_in(capsys) == [("warning", "upstream.down", name)]

    favourite.behave = fast
    if kill is not mute:
        await favourite.start()
    assert await until(lambda: all(up(forward)), 3.0) < 2.0
    assert events_in(capsys) == [("info", "upstream.up", name)]


@pytest.mark.parametrize("kill", [Recursor.stop, mute], ids=["gone", "silent"])
@pytest.mark.timing
async def test_all_killed_fail_fast_and_recover_within_two_seconds(start, query, kill, capsys):
    """
    SERVFAIL says why and comes soon; when the upstreams are back, so are the answers.
    """
    three = [Recursor(fast) for _ in range(3)]
    forward, _ = await start(*three, timeout_ms=2000)
    await load(forward, query, 0.2)
    for one in three:
        kill(one)
    killed = asyncio.ensure_future(load(forward, query, 1.0, rate=100))
    await until(lambda: not any(up(forward)), 3.0)
    await killed

    outcomes = await load(forward, query, 1.0, rate=200)
    assert {rcode for _, rcode, _ in outcomes} == {2}
    assert max(took for _, _, took in outcomes) < 0.8
    got = await ask(forward, query())
    assert codes(got) == [23 if kill is not mute else 22]
    assert forward.in_flight == 0

    loop = asyncio.get_running_loop()
    for one in three:
        one.behave = fast
        if kill is not mute:
            await one.start()
    begun = loop.time()
    while (await ask(forward, query())).rcode() != 0:
        assert loop.time() < begun + 2.0
        await asyncio.sleep(0.02)
    await until(lambda: all(up(forward)), 2.0)
    seen = events_in(capsys)
    assert sorted(event for _, event, _ in seen) == ["upstream.down"] * 3 + ["upstream.up"] * 3
    assert forward.in_flight == 0


async def test_slow_names_do_not_make_an_upstream_look_dead(start, query, capsys):
    """
    Who is silent about names of dead servers, and answers others, stays up.
    """
    dead = lambda data: [] if b"dead" in data.lower() else fast(data)  # noqa: E731
    forward, _ = await start(dead, timeout_ms=400)
    for _ in range(8):
        await asyncio.gather(*[ask(forward, query(f"n{n}.dead{n}.example")) for n in range(5)])
    assert up(forward) == [True]
    assert texts(await ask(forward, query())) == ["192.0.2.7"]
    assert events_in(capsys) == []


async def test_who_answers_servfail_all_the_time_is_not_preferred(start, query):
    """
    An upstream that is there and cannot resolve is asked rarely, although it is quick.
    """
    broken, works = Recursor(refusing(2)), Recursor(good)
    works.delay = 0.01
    forward, _ = await start(broken, works, timeout_ms=1000)
    for _ in range(100):
        assert (await ask(forward, query())).rcode() == 0
    assert len(broken.seen) < 30


async def test_an_upstream_that_is_down_is_probed_about_once_a_second(start, query):
    """
    Probes are few, and clients' queries do not go to it while others are up.
    """
    gone, works = Recursor(silent), Recursor(good)
    forward, _ = await start(gone, works, timeout_ms=300)
    for _ in range(200):
        await ask(forward, query())
        if not all(up(forward)):
            break
        await asyncio.sleep(0.02)
    await until(lambda: not all(up(forward)), 8)
    gone.seen.clear()
    before = gone.probes
    for _ in range(100):
        await ask(forward, query())
        await asyncio.sleep(0.02)
    assert gone.seen == []
    assert 1 <= gone.probes - before <= 4


async def test_a_probe_is_no_answer_to_anybody(start, query):
    """
    A reply to a probe ends no flight and is counted with nobody's answers.
    """
    forward, (upstream,) = await start(
        lambda data: [reply(data)] if is_probe(data) else [], timeout_ms=300
    )
    answers = await asyncio.gather(*[asking(forward, query(f"s{n}.example")) for n in range(10)])
    assert [a.reply.rcode for a in answers] == [2] * 10
    assert upstream.probes >= 1
    assert forward.counters["answered"] == 0
    assert up(forward) == [True]
