"""
Where the names of open cases lead, looked up for the queue of cases.

Runs in the control process; the questions are asked by the fetching process, see `fetcher`.  Each
`PAUSE_S` the most urgent cases that wait for it are looked up together, so the upstreams are asked
for at most `PER_MINUTE` names a minute, however many are reported: the others wait.  What an
address that cases share means is said in `urlguard.cases.addresses`.

Nothing but control's own queue depends on it: if nothing can be asked, cases stay as they are.
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
from urlguard.special_zones import ZONES

PER_MINUTE: Final = 600  # names
BATCH: Final = 50  # of them, looked up together
PAUSE_S: Final = 60 * BATCH / PER_MINUTE
AGAIN_S: Final = 60.0  # after nothing could be asked
LOG_EVERY_S: Final = 600.0


class CaseAddresses:
    """
    The loop.

    Args:
        config: whether names are looked up, and zones whose names are nobody's business.
        fetcher: asks.
        casework: the queue.
        bounds: say which addresses are public; a server has no others than the default.
    """

    def __init__(
        self, config: Config, fetcher: FetchPool, casework: Casework, *, bounds: Bounds = RULES
    ) -> None:
        self._wanted = config.cases.look_up_addresses
        self._fetcher = fetcher
        self._casework = casework
        self._public = bounds.public
        # What the resolver would not forward to these upstreams either.
        self._private = frozenset(config.forward.zones).union(*(zones for zones, _, _ in ZONES))
        self._log_throttle = events.Throttle(LOG_EVERY_S)

    async def run(self) -> None:
        """Look up until cancelled; not at all if it is not wanted."""
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
        Look up the most urgent cases that wait for it; returns how many.

        Raises:
            StoreError: the queue cannot be read or written.
            FetchError, BusyError: nothing could be asked; the same cases come again.
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
        """The address of a name that nobody need be asked for; "" if it has none, else None."""
        with contextlib.suppress(ValueError):
            address = str(ipaddress.ip_address(name))
            return address if self._public(address) else ""
        private = name in self._private or not self._private.isdisjoint(names.parents(name))
        return "" if private else None
