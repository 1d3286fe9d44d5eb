"""
Refreshes feeds: imports new ones, refreshes them when due, withdraws those no longer configured.

Each refresh is a process of its own, so that neither a large list nor a hostile one slows the
control process down.  Knows when a feed is due; knows nothing of workers.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final

from urlguard import events
from urlguard.config import Config, Feed
from urlguard.control.log_thread import LogThread
from urlguard.feeds import schedule
from urlguard.processes import child
from urlguard.verdict import FEED

REFRESH_S: Final = 1800.0  # for parsing and committing a list, beyond its download
RETRY_S: Final = 60.0  # after the schedule could not be read
CHECK_S: Final = 60.0  # between two looks at the schedule, at most


class FeedRefresher:
    """
    Keeps the feeds of a configuration in the log.

    Args:
        config: has the feeds.
        log: the policy log.
    """

    def __init__(self, config: Config, log: LogThread) -> None:
        self._config = config
        self._log = log.log
        self._in_log = log.run
        self.feeds = schedule.feeds(config)

    async def nothing_imported(self) -> bool:
        """True if no feed was ever imported."""
        sources = await self._in_log(self._log.store.sources)
        return not any(source.startswith(FEED) for source in sources)

    async def import_new(self) -> None:
        """Refresh the feeds that were never imported."""
        new = await self._in_log(
            lambda: [feed for feed in self.feeds if not schedule.imported(self._log, feed)]
        )
        await asyncio.gather(*map(self.refresh, new))

    async def withdraw_unconfigured(self) -> None:
        """Withdraw feeds that are no longer configured, once all configured ones are imported."""
        await self._in_log(self._withdraw_unconfigured)

    def _withdraw_unconfigured(self) -> None:
        # A feed that was only renamed stays in force until its new name has been imported.
        if all(schedule.imported(self._log, feed) for feed in self.feeds):
            schedule.end_unconfigured(self._log, self._config)

    async def keep_fresh(self, feed: Feed, changed: Callable[[], Awaitable[object]]) -> None:
        """Refresh a feed whenever it is due, until cancelled; `changed` is called after each."""
        while True:
            try:
                due = await self._in_log(lambda: schedule.due_in_s(self._log, feed, time.time()))
                if due > 0:
                    await asyncio.sleep(min(due, CHECK_S))
                    continue
                await self.refresh(feed)
                await changed()
            except Exception as exc:
                events.warning("feed.failed", feed=feed.name, error=str(exc), using="last_good")
                await asyncio.sleep(RETRY_S)

    async def refresh(self, feed: Feed) -> None:
        """Refresh a feed in another process, which commits to the log by itself."""
        code = await child.run_command(
            [sys.executable, "-m", "urlguard.feeds.refresh", feed.name],
            schedule.handed_over(self._config),
            feed.timeout_s + REFRESH_S,
        )
        if code != 0:
            events.warning("feed.failed", feed=feed.name, exit=code, using="last_good")
