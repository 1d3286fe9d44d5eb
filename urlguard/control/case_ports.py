"""
The control process behind the ports of `cases`: the policy log with its workers, and webhooks.

Knows the parts of the control process that do the work; knows nothing of cases.  Verdicts need no
adapter: `VerdictPool` is the port.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from urlguard.api.services import Decided
from urlguard.control.fetch_pool import FetchPool
from urlguard.control.log_thread import LogThread
from urlguard.control.policy_push import PolicyPush
from urlguard.control.worker_queries import WorkerQueries
from urlguard.fetch import signing
from urlguard.policy.log import PolicyLog
from urlguard.policy.model import Change

T = TypeVar("T")


class ControlPolicy:
    """`urlguard.cases.ports.Policy` on the log's thread and the connected workers."""

    def __init__(self, push: PolicyPush, log: LogThread, queries: WorkerQueries) -> None:
        self._push = push
        self._log = log
        self._queries = queries

    async def commit(
        self, source: str, changes: Sequence[Change], *, actor: str, reason: str
    ) -> Decided:
        """Commit a batch and push it to the workers; raises `PolicyError`."""
        done = await self._push.commit(source, changes, actor=actor, reason=reason)
        return Decided(done.batch, done.changed, done.synced.in_force, done.synced.workers)

    async def read(self, work: Callable[[PolicyLog], T]) -> T:
        """The result of `work` on the log's thread; raises `PolicyError`."""
        return await self._log.read(work)

    async def needs_approval(self, changes: Sequence[Change]) -> Sequence[str]:
        """Reasons for a second person's approval, by the workers' samples of live queries."""
        return await self._queries.needs_approval(changes)


class WebhookDelivery:
    """`urlguard.cases.ports.Delivery` by the fetch pool."""

    def __init__(self, fetches: FetchPool) -> None:
        self._fetches = fetches

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Send a message; returns the answer's status, raises `UrlGuardError` without one."""
        return (await self._fetches.post_webhook(url, body, headers)).status

    def sign(self, secrets: Sequence[str], message: str, at: int, body: bytes) -> Mapping[str, str]:
        """The headers of Standard Webhooks."""
        return signing.sign(secrets, message, at, body)
