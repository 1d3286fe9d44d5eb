"""What a worker makes of the control process's messages."""

import asyncio
import contextlib

import pytest

from urlguard.processes import channel
from urlguard.rules import PAUSE
from urlguard.verdict import Ruling, encode
from urlguard.worker.policy_sync import PolicySync

BLOCK = encode(Ruling("block", "phishing", ("operator",), 1, "domain", "evil.example"))


class Control:
    """A control process that sends what the test gives it."""

    def __init__(self):
        self.received = []
        self._writer = None
        self.connected = asyncio.Event()

    async def serve(self, reader, writer):
        self._writer = writer
        self.connected.set()
        with contextlib.suppress(ConnectionError):
            while (message := await channel.read(reader)) is not None:
                self.received.append(message)
        writer.close()

    def send(self, **message):
        self._writer.write(channel.encode(message))

    def hang_up(self):
        self.connected.clear()
        self._writer.close()

    async def heard(self, **wanted):
        """Wait until the worker said this."""
        async with asyncio.timeout(5):
            while not any(wanted.items() <= message.items() for message in self.received):
                await asyncio.sleep(0.01)


@pytest.fixture
async def pair(tmp_path):
    """A worker's policy, connected to a control process."""
    control = Control()
    path = channel.socket_path(tmp_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    server = await asyncio.start_unix_server(control.serve, path)
    sync = PolicySync(tmp_path, 3)
    running = asyncio.ensure_future(sync.run())
    async with asyncio.timeout(5):
        await control.connected.wait()
    yield sync, control
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    server.close()
    await server.wait_closed()


async def test_a_change_is_in_force_when_it_is_confirmed(pair):
    """
    A large one comes in parts, and acts as a whole; subscribers hear of it once.
    """
    sync, control = pair
    await control.heard(op="hello", worker=3, serial=0)
    changes = []
    sync.active.subscribe(lambda names: changes.append(sync.active.engine.serial))
    control.send(op="change", changes=[["domain evil.example", BLOCK]])
    control.send(op="change", changes=[["domain bad.example", BLOCK]], serial=7)
    await control.heard(serial=7)
    assert sync.active.engine.decide("evil.example").action == "block"
    assert sync.active.engine.decide("bad.example").action == "block"
    assert changes == [7]
    control.send(op="change", changes=[["domain evil.example", None]], serial=8)
    await control.heard(serial=8)
    assert sync.active.engine.decide("evil.example") is None


async def test_filtering_can_be_paused_and_resumed(pair):
    """
    A pause travels as any other change of policy.
    """
    sync, control = pair
    for serial, (word, paused) in enumerate([(BLOCK, True), (None, False)], 5):
        control.send(op="change", changes=[[PAUSE, word]], serial=serial)
        await control.heard(serial=serial)
        assert sync.active.engine.paused is paused


async def test_it_is_ready_when_it_is_as_far_as_it_should_be(pair):
    """
    Not before the serial that the control process named.
    """
    sync, control = pair
    control.send(op="wait")
    control.send(op="ready", serial=4)
    control.send(op="change", changes=[], serial=3)
    await control.heard(serial=3)
    assert sync.must_wait
    assert not sync.ready.is_set()
    assert sync.has_policy
    control.send(op="change", changes=[], serial=4)
    await asyncio.wait_for(sync.ready.wait(), 5)


async def test_an_urgent_decision_is_in_force_at_once(pair):
    """
    Before all that stands between it and the worker's policy.
    """
    sync, control = pair
    control.send(op="urgent", changes=[["domain evil.example", BLOCK]], serial=900)
    await control.heard(urgent=900)
    assert sync.active.engine.decide("evil.example").action == "block"
    assert sync.active.engine.serial == 0


async def test_other_matters_go_to_who_registered(pair):
    """
    An operation that nobody deals with is passed over.
    """
    sync, control = pair
    got = []

    async def handler(message, writer):
        got.append(message)
        writer.write(channel.encode({"id": message["id"], "done": True}))

    sync.handlers["flush"] = handler
    control.send(op="nonsense", id=1)
    control.send(op="flush", id=2)
    await control.heard(id=2, done=True)
    assert [message["id"] for message in got] == [2]


async def test_a_lost_connection_costs_nothing(pair):
    """
    The policy stays, and the worker comes back by itself and says how far it is.
    """
    sync, control = pair
    control.send(op="change", changes=[["domain evil.example", BLOCK]], serial=7)
    await control.heard(serial=7)
    control.received.clear()
    control.hang_up()
    await control.heard(op="hello", serial=7)
    assert sync.active.engine.decide("evil.example").action == "block"


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ([["domain a.example", BLOCK]], ["a.example"]),
        ([["below b.example", BLOCK]], ["b.example"]),
        ([["subtree a.example", None], ["below b.example", BLOCK]], None),
        ([["url a.example/x", BLOCK]], []),
        ([["pattern *pay*", BLOCK]], None),
        ([[PAUSE, BLOCK]], None),
        ([[f"domain {i}.example", BLOCK] for i in range(20)], None),
    ],
)
async def test_subscribers_hear_which_names_were_spoken_about(pair, changes, names):
    """
    One by one; None where any name may be judged differently.
    """
    sync, control = pair
    await control.heard(op="hello", worker=3, serial=0)
    heard = []
    sync.active.subscribe(heard.append)
    control.send(op="change", changes=changes, serial=7)
    await control.heard(serial=7)
    assert heard == [names]
