"""
The policy log on a thread of its own, for an event loop that must not wait for the disk.

Knows the log and a thread; knows nothing of what is read or written.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from urlguard.policy.log import PolicyLog

T = TypeVar("T")


class LogThread:
    """
    Runs functions on the log's only thread, one at a time.

    Args:
        log: is used by these functions alone from now on.
    """

    def __init__(self, log: PolicyLog) -> None:
        self.log = log
        self._executor = ThreadPoolExecutor(1, "policy-log")

    async def run(self, work: Callable[[], T]) -> T:
        """
        The result of `work`, which may read and write.

        Raises:
            PolicyError: the log cannot be read or written.
        """
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def read(self, work: Callable[[PolicyLog], T]) -> T:
        """
        The result of `work`, which reads the log at one serial.

        Raises:
            PolicyError: the log cannot be read.
        """

        def transaction() -> T:
            with self.log.store.reading():
                return work(self.log)

        return await self.run(transaction)

    def close(self) -> None:
        """Wait for what runs, and close the log."""
        self._executor.shutdown(wait=True)
        self.log.close()
