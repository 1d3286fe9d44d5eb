"""
Addresses of the names of open cases, looked up to find campaigns.

Runs in the control process; the fetch process sends the queries, see `fetch_pool`.  Every `PAUSE_S`
the most urgent cases without an address are looked up together, so the upstreams are asked for at
most `PER_MINUTE` names per minute.  `urlguard.cases.addresses` says what a shared address means.

If the upstreams cannot be asked, cases stay without addresses; nothing else depends on them.
"""

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import Mapping
from typing import Final

from urlguard import events, names
from urlguard.cases.casework import Casework
from urlguard.config import Config
from urlguard.control.fetch_pool import FetchPool
from urlguard.errors import UrlGuardError
from urlguard.fetch.bounds import RULES, Bounds
from urlguard.special_zones import SPECIAL_USE

PER_MINUTE: Final = 600  # names
BATCH: Final = 50  # of them, looked up together
PAUSE_S: Final = 60 * BATCH / PER_MINUTE
AGAIN_S: Final = 60.0  # after an error
LOG_EVERY_S: Final = 600.0


class CaseAddresses:
    """
    Looks up addresses.

    Args:
        config: whether names are looked up, and the zones that are private.
        fetcher: sends the queries.
        casework: has the cases.
        bounds: define which addresses are public; a server always has the default.
    """

    def __init__(
        self, config: Config, fetcher: FetchPool, casework: Casework, *, bounds: Bounds = RULES
    ) -> None:
        self._wanted = config.cases.look_up_addresses
        self._fetcher = fetcher
        self._casework = casework
        self._public = bounds.public
        # The resolver does not forward these names to the upstreams either.
        self._private = SPECIAL_USE.union(config.forward.zones)
        self._log_throttle = events.Throttle(LOG_EVERY_S)

    async def run(self) -> None:
        """Look up until cancelled; returns at once if it is disabled."""
        while self._wanted:
            await asyncio.sleep(PAUSE_S)
            if not self._casework.ready:
                continue
            try:
                await self.once()
            except UrlGuardError as exc:
                if self._log_throttle.due():
                    events.warning("cases.addresses", error=str(exc), again_s=AGAIN_S)
                await asyncio.sleep(AGAIN_S)

    async def once(self) -> int:
        """
        Look up the most urgent cases without an address; returns how many.

        Raises:
            StoreError: the cases cannot be read or written.
            FetchError, FetchBusyError: the look-up failed; the next call has the same cases.
        """
        cases = await self._casework.store(
            lambda store: store.unaddressed(BATCH, int(time.time())), bulk=True
        )
        if not cases:
            return 0
        known = {name: one for _, name in cases if (one := self._unasked(name)) is not None}
        asked = sorted({name for _, name in cases} - known.keys())
        answers: Mapping[str, list[str]] = await self._fetcher.addresses(asked) if asked else {}
        known |= {name: next(iter(those), "") for name, those in answers.items()}
        found = {case: known.get(name) for case, name in cases}
        await self._casework.store(
            lambda store: store.addressed(found, int(time.time())), bulk=True
        )
        return len(found)

    def _unasked(self, name: str) -> str | None:
        """The address of a name that is not looked up, "" if it has none; None: look it up."""
        with contextlib.suppress(ValueError):
            address = str(ipaddress.ip_address(name))
            return address if self._public(address) else ""
        private = name in self._private or not self._private.isdisjoint(names.parents(name))
        return "" if private else None
