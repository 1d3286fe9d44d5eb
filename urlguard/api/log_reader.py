"""
Reading the policy log for the API, on a thread and a connection of its own.

A slow or damaged log, or a client that reads all of it, keeps neither the event loop waiting nor
those who commit.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from urlguard.api.problems import Problem
from urlguard.config import Config
from urlguard.errors import PolicyError
from urlguard.policy.location import reading_log
from urlguard.policy.log import PolicyLog

T = TypeVar("T")


class LogReader:
    """Reads the configured log."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._thread = ThreadPoolExecutor(1, "api-log")

    async def read(self, work: Callable[[PolicyLog], T]) -> T:
        """
        What `work` finds, all of it of one serial.

        Raises:
            Problem: the log cannot be read.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._read, work)
        except PolicyError as exc:
            raise Problem("unavailable", "the policy log cannot be read", retry_after_s=5) from exc

    def close(self) -> None:
        """Let go of the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, work: Callable[[PolicyLog], T]) -> T:
        # Opened anew each time: a restore puts another file in its place.
        with reading_log(self._config) as log:
            return work(log)
