"""
A store of cases used from an event loop: opened when it can be, called on threads of its own.

What a person waits for and what comes in bulk have a thread each, so that an analyst's claim stands
behind one batch of a crawler's and not behind all of them.  Knows no SQL and no HTTP.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from urlguard.cases.model import StoreError
from urlguard.cases.store import Store

T = TypeVar("T")


class StoreThreads:
    """
    The store and its threads.

    Args:
        open_store: opens it; called on a thread, again whenever it has failed before.
    """

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._closed = False
        self._people = ThreadPoolExecutor(1, "cases")
        self._bulk = ThreadPoolExecutor(1, "cases-bulk")

    async def __call__(self, work: Callable[[Store], T], *, bulk: bool = False) -> T:
        """
        What `work` makes of the store; it may run to its end though nobody waits any more.

        Raises:
            StoreError: the store cannot be opened or used.
        """
        threads = self._bulk if bulk else self._people
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(threads, lambda: work(self.opened()))
        except RuntimeError as exc:
            if self._closed:
                raise StoreError("cases: the server ends") from exc
            raise

    def opened(self) -> Store:
        """
        The store; on a thread, since it waits for the disk.

        Raises:
            StoreError: it cannot be opened.
        """
        with self._lock:
            if self._closed:
                raise StoreError("cases: the server ends")
            if self._store is None:
                self._store = self._open_store()
            return self._store

    def close(self) -> None:
        """Let what is under way end, and close the store; on a thread."""
        self._people.shutdown(wait=True, cancel_futures=True)
        self._bulk.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            self._closed = True
            if self._store is not None:
                self._store.close()
                self._store = None
