"""
Requests to all workers, and the sum of their replies.

Knows the channel's operations; decides nothing.  A worker that does not reply in time is left out;
each result has the number of replies.
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

FLUSH_S: Final = 2.0  # timeout for emptying caches
SUSPECTS_S: Final = 2.0  # timeout for suspects
SAMPLE_S: Final = 2.0  # timeout for counting on samples
MAX_FLUSHED: Final = 1000  # names in one request


class WorkerQueries:
    """
    Asks all workers.

    Args:
        workers: those that are connected.
        count: how many there should be.
    """

    def __init__(self, workers: Workers, count: int) -> None:
        self._workers = workers
        self._count = count
        self._sampling = asyncio.Lock()

    async def suspects(self, count: int) -> Message:
        """The `count` most suspicious names that are not blocked."""
        replies = await self._workers.ask({"op": "suspects", "count": count}, SUSPECTS_S)
        found = [Suspect(*row) for reply in replies.values() for row in reply["names"]]
        return {"names": merged(found)[:count], "workers": self._count, "asked": len(replies)}

    async def flush(self, asked: object, everything: bool) -> Message:
        """
        Delete cached answers in every worker: for names and all below them, or all.

        Raises:
            ValueError: `asked` is no list of names, too long, or empty without `everything`.
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
        The impact of rules on the live queries, counted on all workers' samples.

        Args:
            rules: keys, of which the first `sample.MAX_RULES` count; None: those in shadow.
            source: of the rules.
            action: "block", or "allow" to count queries that would no longer be blocked.
        """
        asked = None if rules is None else list(rules[: sample.MAX_RULES])
        question = {"op": "sample", "rules": asked, "source": source, "action": action}
        async with self._sampling:  # a worker counts one request at a time
            replies = await self._workers.ask(question, SAMPLE_S)
        return sample.merged(list(replies.values()))
