"""
Random rules and names: the engine, the naive oracle and a real BIND with our zone agree.

The rules collide on purpose: few labels, all kinds, all actions, people and several feeds.
"""

import asyncio
import contextlib
import dataclasses
import random

import pytest

from tests import bind, oracle
from tests.client import ask_many
from tests.logs import log_file, open_file
from urlguard.blocklist import snapshot
from urlguard.blocklist.overlay import Overlay
from urlguard.config import Config, Endpoint, Guard, Rpz
from urlguard.engine import Engine
from urlguard.policy.model import Change
from urlguard.publish.rpz.primary import Primary
from urlguard.verdict import decode

ROUNDS = 8
NAMES = 12_500  # a round: 100,000 in all


class Policy:
    """A log under random change, beside the plain record of what was said."""

    def __init__(self, path, seed):
        self.rng = random.Random(seed)
        self.log = open_file(path)
        self.standing = {}

    def change(self, batches, count):
        """Commit random batches."""
        for _ in range(batches):
            source = self.rng.choice(oracle.SOURCES)
            changes = oracle.random_changes(self.rng, source, self.standing, count)
            self.log.commit(
                source, [Change(k, a, "x") for k, a in changes], actor="test", reason="test"
            )
            for key, action in changes:
                if action is None:
                    self.standing.pop((source, key), None)
                else:
                    self.standing[source, key] = action

    def compiled(self, folder):
        """A snapshot of now."""
        with self.log.store.reading():
            return snapshot.open_folder(snapshot.write(folder, self.log.serial, self.log.rulings()))

    def engine(self, compiled):
        """A worker's engine: the snapshot with an overlay of what came since."""
        overlay = Overlay(compiled.serial)
        changes = self.log.store.changes(compiled.serial)
        overlay.apply([(key, decode(text, key)) for key, text, _ in changes], self.log.serial)
        return Engine(compiled, overlay)

    def names(self, count):
        """Random names, some with a label that no rule has."""
        depths = (0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 8)
        found: set[str] = set()
        while len(found) < count:
            name = oracle.random_name(self.rng, "abcz", depths)
            # A label that no rule has makes the name new and leaves what covers it as it was.
            found.add(name if name not in found else f"n{len(found)}.{name}")
        return list(found)

    def disagreements(self, engine, names):
        """Where engine and oracle differ: name, oracle's action, engine's; and the actions."""
        claims = oracle.as_claims(self.standing)
        wanted = {name: oracle.decide(claims, name) for name in set(names)}
        found = {}
        for name in names:
            ruling = engine.decide(name)
            found[name] = ruling.action if ruling else None
        return [(n, wanted[n], found[n]) for n in wanted if wanted[n] != found[n]], wanted


@pytest.mark.parametrize("seed", range(20))
def test_engine_agrees_with_oracle(tmp_path, seed):
    """
    Snapshot and overlay together decide as the claims say.
    """
    policy = Policy(tmp_path / "policy.db", seed)
    policy.change(batches=8, count=10)
    compiled = policy.compiled(tmp_path / "snapshots")
    policy.change(batches=6, count=4)
    different, _ = policy.disagreements(policy.engine(compiled), policy.names(2_000))
    assert different == [], oracle.as_claims(policy.standing)
    policy.log.close()


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.parametrize("answer", ["nxdomain", "sinkhole"])
async def test_bind_with_our_zone_agrees(tmp_path, answer):
    """
    100,000 names: BIND, fed by AXFR and then IXFR, blocks what engine and oracle block.
    """
    bind.need("named")
    config = dataclasses.replace(
        Config(),
        state_dir=tmp_path,
        rpz=Rpz(listen=(Endpoint("127.0.0.1", 0),), zone="rpz.test"),
        guard=Guard(answer=answer),
    )
    policy = Policy(log_file(config), answer)
    policy.change(batches=10, count=6)
    primary = Primary(config)
    await primary.start()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(primary.stop)
        named = await stack.enter_async_context(
            bind.Bind(tmp_path / "named", primary.endpoints[0].port)
        )
        for number in range(ROUNDS // 2):
            policy.change(batches=4, count=4)
            compiled = policy.compiled(tmp_path / "snapshots")
            policy.change(batches=4, count=3)
            primary.changed()
            async with asyncio.timeout(10):
                while primary.state is None or primary.state.at < policy.log.serial:
                    await asyncio.sleep(0.02)
            await named.has_serial(primary.state.serial)
            names = policy.names(NAMES)
            different, wanted = policy.disagreements(policy.engine(compiled), names)
            assert different == []
            asked = [(name, "A") for name in wanted]
            replies = await ask_many(("127.0.0.1", named.port), asked, window=200)
            answers = dict(zip(wanted, replies, strict=True))
            wrong = [
                (name, action)
                for name, action in wanted.items()
                if blocked(answers[name]) != (action == "block")
            ]
            assert wrong == [], (number, oracle.as_claims(policy.standing))
            actions = list(wanted.values())
            assert 0.02 < actions.count("block") / len(actions) < 0.98
        assert primary.transfers["ixfr"] >= ROUNDS // 2 - 1
    policy.log.close()


def blocked(reply):
    """True if a reply is not the upstream's."""
    assert reply is not None, "no answer"
    return not reply.endswith(bytes((192, 0, 2, 1)))
