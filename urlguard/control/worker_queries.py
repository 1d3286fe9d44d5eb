"""
What the control process asks all workers, and what their answers come to together.

Knows the channel's operations; decides nothing.  A worker that does not answer in time is left out,
and each answer says how many have.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from urlguard import names
from urlguard.classify.suspects import Suspect, merged
from urlguard.control.workers import Workers
from urlguard.impact import approval, sample
from urlguard.impact.sample import Sampled
from urlguard.policy.model import Change
from urlguard.processes.channel import Message
from urlguard.rules import OPERATOR

FLUSH_S: Final = 2.0  # for the workers to empty their caches
SUSPECTS_S: Final = 2.0  # to tell their suspects
SAMPLE_S: Final = 2.0  # to look through their samples
MAX_FLUSHED: Final = 1000  # names in one request


class WorkerQueries:
    """
    Asks.

    Args:
        workers: those that are connected.
        count: how many there should be.
    """

    def __init__(self, workers: Workers, count: int) -> None:
        self._workers = workers
        self._count = count
        self._sampling = asyncio.Lock()

    async def suspects(self, count: int) -> Message:
        """What the model suspects and nobody blocked, the `count` most suspicious."""
        replies = await self._workers.ask({"op": "suspects", "count": count}, SUSPECTS_S)
        found = [Suspect(*row) for reply in replies.values() for row in reply["names"]]
        return {"names": merged(found)[:count], "workers": self._count, "asked": len(replies)}

    async def flush(self, asked: object, everything: bool) -> Message:
        """
        Have every worker forget cached answers: for names and all below them, or all.

        Raises:
            ValueError: `asked` is no list of names, too long, or empty though not all is meant.
        """
        if not isinstance(asked, list) or len(asked) > MAX_FLUSHED:
            raise ValueError(f"flush: names must be a list of at most {MAX_FLUSHED}")
        wanted = [names.canonical(str(name)) for name in asked]
        if not wanted and not everything:
            raise ValueError("flush: no names; must have some, or be for all")
        question = {"op": "flush", "names": wanted, "all": everything}
        replies = await self._workers.ask(question, FLUSH_S)
        return {
            "removed": sum(int(reply["removed"]) for reply in replies.values()),
            "workers": self._count,
            "flushed": len(replies),
        }

    async def needs_approval(self, changes: Sequence[Change]) -> list[str]:
        """Reasons why a second person must approve changes that a person makes."""
        found = []
        for rules, action in (
            (approval.blocked_rules(changes), "block"),
            (approval.allowed_rules(changes), "allow"),
        ):
            keys = [rule.key for rule in rules]
            found.append(await self.sample(keys, action=action) if keys else None)
        return await asyncio.to_thread(approval.reasons_for_approval, changes, *found)

    async def sample(
        self, rules: Sequence[str] | None, source: str = OPERATOR, action: str = "block"
    ) -> Sampled:
        """
        How much of the live queries rules would newly block, by all workers together.

        Args:
            rules: keys, of which the first `sample.MAX_RULES` count; None: those in shadow.
            source: who says so, or would; whose shadow it is.
            action: "allow" for rules of which it is asked how much they would let through.
        """
        asked = None if rules is None else list(rules[: sample.MAX_RULES])
        question = {"op": "sample", "rules": asked, "source": source, "action": action}
        async with self._sampling:  # a worker looks through its sample once at a time
            replies = await self._workers.ask(question, SAMPLE_S)
        return sample.merged(list(replies.values()))
