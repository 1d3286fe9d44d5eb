"""
Webhooks in SQLite, and the messages that wait for them.

Messages are written by `submissions`, in the transactions that make the news.
"""

import json
from typing import Any, Final

from urlguard.cases import webhooks
from urlguard.cases.drivers.sqlite.connection import Connection, clean
from urlguard.cases.model import MAX_TEXT, MAX_WAIT_S, ConflictError
from urlguard.cases.webhooks import Letter, Webhook

_WEBHOOK: Final = (
    "SELECT number, id, url, events, secret, who, created_at, delivered, given_up, last_at, error,"
    " (SELECT count(*) FROM outbox o WHERE o.webhook = webhooks.number) FROM webhooks"
)


class Webhooks(Connection):
    """The part of the store that keeps webhooks."""

    def add_webhook(
        self, url: str, events: tuple[str, ...], secret: str, who: str, now: int
    ) -> Webhook:
        """See `WebhookStore.add_webhook`."""
        with self.writing() as db:
            (count,) = db.execute("SELECT count(*) FROM webhooks").fetchone()
            if count >= webhooks.MAX_WEBHOOKS:
                raise ConflictError(f"{count} webhooks; at most {webhooks.MAX_WEBHOOKS}")
            (number,) = db.execute(
                "INSERT INTO webhooks (id, url, events, secret, who, created_at)"
                " VALUES (?,?,?,?,?,?) RETURNING number",
                (webhooks.new_id("wh_"), url, json.dumps(events), secret, who, now),
            ).fetchone()
            return _webhook(db.execute(f"{_WEBHOOK} WHERE number = ?", (number,)).fetchone())

    def webhooks(self) -> list[Webhook]:
        """See `WebhookStore.webhooks`."""
        with self.reading() as db:
            return [_webhook(row) for row in db.execute(f"{_WEBHOOK} ORDER BY number")]

    def remove_webhook(self, id: str) -> bool:  # noqa: A002 - as everywhere
        """See `WebhookStore.remove_webhook`."""
        with self.writing() as db:
            row = db.execute(
                "DELETE FROM webhooks WHERE id = ? RETURNING number", (clean(id, 200),)
            ).fetchone()
            if row is not None:
                db.execute("DELETE FROM outbox WHERE webhook = ?", row)
        return row is not None

    def letters(self, now: float, limit: int) -> dict[int, list[Letter]]:
        """See `WebhookStore.letters`."""
        with self.reading() as db:
            found: dict[int, list[Letter]] = {}
            for (webhook,) in db.execute("SELECT number FROM webhooks").fetchall():
                rows = db.execute(
                    "SELECT number, webhook, id, body, at, tries FROM outbox"
                    " WHERE webhook = ? AND (due <= ? OR due > ?) ORDER BY due, number LIMIT ?",
                    (webhook, now, now + MAX_WAIT_S, limit),
                ).fetchall()
                if rows:
                    found[webhook] = [Letter._make(row) for row in rows]
            return found

    def delivered(self, number: int, now: int) -> None:
        """See `WebhookStore.delivered`."""
        with self.writing() as db:
            row = db.execute(
                "DELETE FROM outbox WHERE number = ? RETURNING webhook", (number,)
            ).fetchone()
            if row is not None:
                db.execute(
                    "UPDATE webhooks SET delivered = delivered + 1, last_at = ?, error = NULL"
                    " WHERE number = ?",
                    (now, *row),
                )

    def undelivered(self, number: int, error: str, due: float | None) -> None:
        """See `WebhookStore.undelivered`."""
        with self.writing() as db:
            if due is None:
                sql, values = "DELETE FROM outbox WHERE number = ?", (number,)
            else:
                sql = "UPDATE outbox SET tries = tries + 1, due = ? WHERE number = ?"
                values = (due, number)  # type: ignore[assignment]
            row = db.execute(f"{sql} RETURNING webhook", values).fetchone()
            if row is not None:
                db.execute(
                    "UPDATE webhooks SET error = ?, given_up = given_up + ? WHERE number = ?",
                    (clean(error, MAX_TEXT), int(due is None), *row),
                )


def _webhook(row: tuple[Any, ...]) -> Webhook:
    return Webhook._make((*row[:3], tuple(json.loads(row[3])), *row[4:]))
