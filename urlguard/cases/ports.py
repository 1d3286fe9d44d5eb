"""
What cases need from their surroundings, as protocols: verdicts, the policy log, webhook delivery.

The control process fulfils them; tests use small fakes.  Knows neither how a verdict comes about,
nor how a batch reaches the workers, nor HTTP.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from urlguard.errors import UrlGuardError
from urlguard.policy.log import PolicyLog
from urlguard.policy.model import Change

T = TypeVar("T")


class BusyError(UrlGuardError):
    """Too many verdicts are being waited for; ``retry_after_s`` says when to ask again."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"too many checks are waiting; try again in {retry_after_s:g} s")
        self.retry_after_s = retry_after_s


class Verdicts(Protocol):
    """Gives verdicts on names and URLs."""

    async def check(self, items: Sequence[str], *, score: bool = False) -> Sequence[bytes]:
        """
        Check items.

        Args:
            items: names and URLs.
            score: run the model on every item, also where a rule decides.

        Returns:
            The object of ``urlguard check --json`` for each item, in order, as JSON.

        Raises:
            BusyError: too much is waiting; no item is to blame.
            UrlGuardError: there are no verdicts now, or an item cannot be checked.
        """


class Committed(Protocol):
    """The result of a commit."""

    @property
    def serial(self) -> int:
        """The serial of the log with the batch in it."""


class Policy(Protocol):
    """Reads the policy log, commits to it, and measures the impact of changes."""

    async def commit(
        self, source: str, changes: Sequence[Change], *, actor: str, reason: str
    ) -> Committed:
        """
        Commit a batch; on return it is in force on every worker that answers.

        Raises:
            PolicyError: nothing has changed.
        """

    async def read(self, work: Callable[[PolicyLog], T]) -> T:
        """
        The result of `work`, which reads the log at one serial.

        Raises:
            PolicyError: the log cannot be read.
        """

    async def needs_approval(self, changes: Sequence[Change]) -> Sequence[str]:
        """Reasons why a second person must approve changes; empty if nobody must."""


class Delivery(Protocol):
    """Sends webhook messages."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """
        Send one message.

        Returns:
            The HTTP status of the answer.

        Raises:
            UrlGuardError: there was no answer.
        """

    def sign(self, secrets: Sequence[str], message: str, at: int, body: bytes) -> Mapping[str, str]:
        """
        The headers that sign a message.

        Args:
            secrets: of the webhook; one signature each.
            message: the message's ID.
            at: seconds since 1970 (UTC).
            body: octets to sign.
        """
