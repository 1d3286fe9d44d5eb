"""
Lists on their way into the log: brought in, kept fresh, and withdrawn when nobody wants them.

Each refresh is a process of its own, so that neither a large list nor a hostile one is felt by the
control process.  Knows when which list is due; knows nothing of workers.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from urlguard import events
from urlguard.config import Config, Feed
from urlguard.feeds import schedule
from urlguard.policy.log import PolicyLog
from urlguard.processes import child
from urlguard.verdict import FEED

REFRESH_S: Final = 1800.0  # for reading and committing a list, beyond its download
RETRY_S: Final = 60.0  # after a look that failed
LOOK_S: Final = 60.0  # between two looks at what is due, at most

T = TypeVar("T")


class InLog(Protocol):
    """Runs something on the log's one thread."""

    async def __call__(self, work: Callable[[], T]) -> T:
        """What `work` gives; raises PolicyError if the log cannot be read or written."""


class FeedRefresher:
    """
    Keeps the lists of a configuration in the log.

    Args:
        config: names the lists.
        log: where they go.
        in_log: runs something on its thread.
    """

    def __init__(self, config: Config, log: PolicyLog, in_log: InLog) -> None:
        self._config = config
        self._log = log
        self._in_log = in_log
        self.feeds = schedule.feeds(config)

    async def nothing_imported(self) -> bool:
        """True until a start has got as far as a first feed; killed before, it is as new."""
        sources = await self._in_log(self._log.store.sources)
        return not any(source.startswith(FEED) for source in sources)

    async def bring_in_new(self) -> None:
        """Refresh the lists that were never brought in."""
        new = await self._in_log(
            lambda: [feed for feed in self.feeds if not schedule.imported(self._log, feed)]
        )
        await asyncio.gather(*map(self.refresh, new))

    async def end_unconfigured(self) -> None:
        """Withdraw lists that are no longer configured, once all that are have been brought in."""
        await self._in_log(self._end_unconfigured)

    def _end_unconfigured(self) -> None:
        # A list that was only renamed protects until its new name has been brought in.
        if all(schedule.imported(self._log, feed) for feed in self.feeds):
            schedule.end_unconfigured(self._log, self._config)

    async def keep_fresh(self, feed: Feed, changed: Callable[[], Awaitable[object]]) -> None:
        """Refresh a list whenever it is due, until cancelled; `changed` is called after that."""
        while True:
            try:
                due = await self._in_log(lambda: schedule.due_in_s(self._log, feed, time.time()))
                if due > 0:
                    await asyncio.sleep(min(due, LOOK_S))
                    continue
                await self.refresh(feed)
                await changed()
            except Exception as exc:
                events.warning("feed.failed", feed=feed.name, error=str(exc), using="last_good")
                await asyncio.sleep(RETRY_S)

    async def refresh(self, feed: Feed) -> None:
        """Refresh one feed in another process; it commits to the log by itself."""
        code = await child.run_command(
            [sys.executable, "-m", "urlguard.feeds.refresh", feed.name],
            schedule.handed_over(self._config),
            feed.timeout_s + REFRESH_S,
        )
        if code != 0:
            events.warning("feed.failed", feed=feed.name, exit=code, using="last_good")
