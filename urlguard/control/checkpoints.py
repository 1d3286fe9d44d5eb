"""
Signed checkpoints of the log while the server runs.

At most one per minute, if the log has grown, and one at the stop.  A thread of its own opens the
log for reading each time, so neither the event loop nor the log's thread waits for the disk, the
key or the import of the cryptographic library.

Knows when to sign; the format is in `urlguard.policy.checkpoint`.
"""

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor

from urlguard import events
from urlguard.config import Config
from urlguard.errors import PolicyError
from urlguard.policy.chain import InconsistentError
from urlguard.policy.location import open_log

EVERY_S = 60.0
LAST_S = 2.0  # timeout of the checkpoint at the stop
LOG_EVERY_S = 3600.0


class Checkpoints:
    """Signs the log of `config` while it grows."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._signed: tuple[int, str] | None = None  # serial and hash
        self._trouble = ""  # the event that was logged last
        self._log_throttle = events.Throttle(LOG_EVERY_S)

    async def run(self) -> None:
        """Sign until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(EVERY_S)
            await loop.run_in_executor(self._thread, self.sign)

    async def finish(self) -> None:
        """Sign once more and end the thread."""
        last = asyncio.get_running_loop().run_in_executor(self._thread, self.sign)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(last), LAST_S)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def sign(self) -> None:
        """Sign if the log has grown; errors are logged, and the next call tries again."""
        try:
            self._sign()
        except Exception as exc:
            self._log_failure(exc)
        else:
            if self._trouble:
                self._trouble = ""
                events.info("checkpoint.resumed")

    def _sign(self) -> None:
        with contextlib.closing(open_log(self._config, read_only=True)) as log:
            head = log.store.head()
            if head is None or (head.serial, head.hash) == self._signed:
                return
            # Imported here: a server whose log does not grow never loads OpenSSL.
            from urlguard.policy import checkpoint

            done = checkpoint.sign(log, self._config.state_dir)
        if done is None:
            return
        self._signed = (done.checkpoint.serial, done.checkpoint.hash)
        if done.made_key:
            events.info(
                "checkpoint.key",
                file=str(self._config.state_dir / checkpoint.PUBLIC),
                public=str(done.public),
            )

    def _log_failure(self, exc: Exception) -> None:
        """Log once per outage, and again each hour."""
        refused = isinstance(exc, InconsistentError)
        name = "refused" if refused else "failed"
        if name != self._trouble:
            self._trouble = name
            self._log_throttle.reset()
        if not self._log_throttle.due():
            return
        if refused:
            events.error("checkpoint.refused", error=str(exc))
        else:
            error = str(exc) if isinstance(exc, PolicyError) else repr(exc)
            events.warning("checkpoint.failed", error=error)
