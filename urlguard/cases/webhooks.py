"""
Webhooks: who is told of what, and the messages that wait to be sent.

Knows no SQL, no HTTP, and has no clock.  A message is written down in the transaction that makes
the news, so none is forgotten whatever dies; `outbox` sends it.
"""

import secrets
from typing import Final, NamedTuple, Protocol

DECIDED: Final = "submission.decided"
UNDONE: Final = "submission.undone"
EVENTS: Final = (DECIDED, UNDONE)
MAX_WEBHOOKS: Final = 20
MAX_OUTBOX: Final = 100_000  # messages of one webhook that wait; more are given up at once


class Webhook(NamedTuple):
    """Somebody who is told, and how that goes."""

    number: int
    id: str
    url: str
    events: tuple[str, ...]
    secret: str
    created_by: str
    created_at: int
    delivered: int
    given_up: int
    last_delivered_at: int | None
    error: str | None
    waiting: int


class Letter(NamedTuple):
    """A message that waits for its webhook."""

    number: int
    webhook: int
    id: str  # the same each time that it is sent
    body: bytes
    at: int
    tries: int


def new_id(prefix: str) -> str:
    """An ID, such as ``msg_``; without a dot, as the signature wants it."""
    return prefix + secrets.token_urlsafe(12)


class WebhookStore(Protocol):
    """The part of `urlguard.cases.store.Store` that keeps webhooks; all else is said there."""

    def add_webhook(
        self, url: str, events: tuple[str, ...], secret: str, who: str, now: int
    ) -> Webhook:
        """
        Set one up.

        Raises:
            ConflictError: there are `MAX_WEBHOOKS` already.
        """

    def webhooks(self) -> list[Webhook]:
        """All, the oldest first."""

    def remove_webhook(self, id: str) -> bool:  # noqa: A002 - as everywhere
        """Take one away, with what waits for it; False if there is none."""

    def letters(self, now: float, limit: int) -> dict[int, list[Letter]]:
        """Messages that are due, the oldest first, by the numbers of their webhooks."""

    def delivered(self, number: int, now: int) -> None:
        """A message has arrived."""

    def undelivered(self, number: int, error: str, due: float | None) -> None:
        """A message has not arrived: it is due again then, or given up."""
