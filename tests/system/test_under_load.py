"""
What clients notice of changes, failures and floods; the long versions are in ``benchmarks``.

The load is small here, so that a crowded machine does not matter; the times that are allowed are
wide for the same reason.
"""

import re
import time

import pytest

from benchmarks import clients, failover, load, peers, stub
from urlguard.processes import channel

PATIENCE_S = 5.0  # of clients
SLOW_S = 1.0  # p99 on a machine that has other things to do


@pytest.fixture(scope="module")
def crowd():
    """Processes for clients."""
    with clients.crowd(3) as pool:
        yield pool


def popular(count=50):
    return [f"popular{n}.example.org" for n in range(count)]


def fresh(word, count):
    return [f"{word}{n}.example.net" for n in range(count)]


def asking(crowd, port, names, rate, seconds, network=60):
    """Have 8 clients ask; gives when they begin, and what their answers will come in."""
    begin = time.monotonic() + 0.3
    sources = clients.addresses(network, 8)
    args = (port, names, rate, begin, seconds, sources, PATIENCE_S)
    return begin, crowd.submit(clients.ask, *args)


@pytest.fixture
def upstreams(tmp_path):
    """Three upstreams whose answers hold for a second."""
    made = failover.Upstreams(tmp_path, ttl_s=1)
    made.start()
    yield made
    made.kill()


def started(server, ports, more="", feed="evil.example\nfraud.example\n", workers=2):
    """A server that asks these upstreams."""
    made = server(feed, more, workers=workers, classify=True)
    text = made.config.read_text()
    listed = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
    text = re.sub(r"^upstreams = .*$", f"upstreams = [{listed}]", text, flags=re.M)
    made.config.write_text(text)
    return made.start()


@pytest.mark.slow
def test_changes_under_load_lose_no_query(server, crowd, tmp_path, upstreams):
    """
    While single rules, a list and a snapshot change, every query is answered, and none wrongly.
    """
    feed = "".join(f"listed{n}.example\n" for n in range(3000))
    made = started(server, upstreams.ports, feed=feed)
    names = [*popular(), "listed0.example", "listed1.example"]
    begin, asked = asking(crowd, made.port, names, 300, 10)
    time.sleep(begin + 0.5 - time.monotonic())

    message = {"op": "apply", "source": "operator", "actor": "test", "reason": ""}
    until = time.monotonic() + 2
    decided = 0
    while time.monotonic() < until:
        change = [f"subtree one{decided}.example", "block", "fraud"]
        reply = channel.ask(tmp_path / "var", {**message, "changes": [change]})
        assert reply is not None
        assert reply["in_force"] == 2, reply
        decided += 1
        time.sleep(0.005)
    (tmp_path / "list.txt").write_text(
        "".join(f"listed{n}.example\nnew{n}.example\n" for n in range(2000))
    )
    made.run("feed", "refresh", "list")
    made.run("compile")

    figures = asked.result().figures()
    assert made.blocks("new1999.example")
    assert not made.blocks("listed2999.example")
    assert made.blocks(f"one{decided - 1}.example")
    assert decided > 20
    # Both listed names stay listed; the sinkhole is their answer throughout.
    assert set(figures.said) == {stub.ADDRESS, "127.0.0.1"}
    assert figures.lost == 0
    assert figures.p99 < SLOW_S


@pytest.mark.timing
@pytest.mark.slow
def test_upstreams_die_and_return(server, crowd, upstreams):
    """
    One upstream killed: no SERVFAIL.  All killed: stale answers and SERVFAIL.  Back: soon well.
    """
    made = started(server, upstreams.ports, "[cache]\nstale_wait_ms = 300")
    known = popular()
    begin, asked = asking(crowd, made.port, [*known, *fresh("one", 600)], 200, 4)
    time.sleep(begin + 1 - time.monotonic())
    upstreams.kill(upstreams.busiest(0.3))
    figures = asked.result().figures()
    assert failover.all_good(figures), figures
    assert figures.p99 < SLOW_S

    for name in known:  # on each worker, as far as chance will have it
        for _ in range(16):
            assert load.ask(made.port, name, PATIENCE_S) == stub.ADDRESS
    upstreams.kill()
    time.sleep(1.5)
    begin, asked = asking(crowd, made.port, fresh("dead", 200), 100, 2)
    for name in known[:10]:
        said = failover.probe(made.port, name)
        assert said.rcode == "NOERROR", said
        assert said.records == 1, said
        assert failover.STALE in said.errors, said
    for name in fresh("probe", 10):
        said = failover.probe(made.port, name)
        assert said.rcode == "SERVFAIL", said
        assert said.errors & {failover.NO_REACHABLE, failover.NETWORK}, said
    assert set(asked.result().said) == {"SERVFAIL"}

    took = failover.recovery(made.port, upstreams.return_())
    assert took <= failover.MOST_BACK_S + SLOW_S


@pytest.mark.parametrize(
    ("way", "zone"), [("nxdomain", "nx.flood.test"), ("silent", "no.flood.test")]
)
@pytest.mark.slow
def test_a_flood_of_random_names_harms_no_one_else(server, crowd, tmp_path, way, zone):
    """
    Beside a flood of random names below one zone, whether it answers or not, others get answers.
    """
    port = peers.free_port()
    known = popular(20)
    # Small: the flood alone would fill it several times.
    more = "max_in_flight = 200\n[cache]\nmax_mb = 1"
    with peers.python_stub(tmp_path, port, f"--{way}", zone):
        made = started(server, [port], more, workers=1)
        begin, cached = asking(crowd, made.port, known, 100, 5)
        _, new = asking(crowd, made.port, fresh("new", 200), 20, 5)
        sources = clients.addresses(70, 50)
        flood = crowd.submit(clients.flood, made.port, zone, 1000, begin, 5.0, sources)
        figures = load.joined([cached.result(), new.result()]).figures()
        assert flood.result() > 2000
        right = figures.said[stub.ADDRESS] / figures.asked
        assert right >= 0.999, figures
        assert figures.p99 < SLOW_S
        before = load.ask(port, stub.COUNT)
        for name in known:
            assert load.ask(made.port, name, PATIENCE_S) == stub.ADDRESS
        if way == "nxdomain":
            # The flood went through the cache; names in use outlived it.
            assert load.ask(port, stub.COUNT) == before


def test_a_steady_load_tells_lost_and_wrong_answers(crowd):
    """
    The measure itself: what is not answered counts as lost, and what is answered is told.
    """
    with load.udp(peers.free_port()) as nobody:
        silent = nobody.getpeername()[1]
    begin = time.monotonic()
    asked = crowd.submit(clients.ask, silent, ["a.example"], 50, begin, 0.2, ["127.0.0.1"], 0.2)
    figures = asked.result().figures()
    assert figures.asked == figures.lost == 10
    assert set(figures.said) == {"nothing"}
