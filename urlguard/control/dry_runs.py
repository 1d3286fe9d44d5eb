"""
Dry runs for the API: the policy on disk, read in a thread, and the workers' samples.

One at a time: a large feed takes seconds.  Knows neither HTTP nor how impact is computed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from urlguard.config import Config
from urlguard.feeds import schedule
from urlguard.impact import dry_run
from urlguard.impact.sample import Sampled
from urlguard.rules import Rule
from urlguard.verdict import FEED

# Counts rules on the workers' samples; None: those that the source has in shadow.
Sampling = Callable[[Sequence[str] | None, str], Awaitable[Sampled]]


class DryRuns:
    """
    Makes dry runs.

    Args:
        config: of the server.
        sampling: counts rules on the workers' samples.
    """

    def __init__(self, config: Config, sampling: Sampling) -> None:
        self._config = config
        self._sampling = sampling
        self._lock = asyncio.Lock()

    async def of_feed(self, name: str) -> dict[str, Any]:
        """See `api.services.Previewing`."""
        schedule.named(self._config, name)
        async with self._lock:
            sample = await self._sampling(None, FEED + name)
            found = await asyncio.to_thread(dry_run.of_feed, self._config, name, sample)
            return await asyncio.to_thread(found.as_json)

    async def of_rules(self, rules: Sequence[Rule], source: str) -> dict[str, Any]:
        """See `api.services.Previewing`."""
        async with self._lock:
            sample = await self._sampling([rule.key for rule in rules], source)
            found = await asyncio.to_thread(dry_run.of_rules, self._config, rules, sample)
            return found.as_json()

    async def feeds(self) -> list[dict[str, Any]]:
        """See `api.services.Previewing`."""
        return await asyncio.to_thread(schedule.overview, self._config)
