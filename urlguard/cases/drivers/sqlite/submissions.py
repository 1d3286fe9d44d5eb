"""
Submissions in SQLite, and telling their senders what was decided.

How it works.  What was decided is written beside a submission in the transaction that decides its
case, and so are the messages to webhooks; who asks later need not know what became of the case
since.  A submitted item is always judged, also if it was before: so triage settles a submission
that a rule covers, or that joins a case which is decided already and stays so.

Strangers are told of decisions that were made after they submitted, and of no others: so all items
look the same to them until people decide anew.  Which are later, is said by the moment beside a
public submission's decision: that of the decision itself.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from urlguard import times
from urlguard.cases import webhooks
from urlguard.cases.drivers.sqlite.connection import clean, count_waiting, numbers
from urlguard.cases.drivers.sqlite.intake import Intake
from urlguard.cases.model import BY_RULE, MAX_PAGE, Candidate, Decision, Quota, State
from urlguard.cases.submissions import (
    MAX_COMMENT,
    MAX_EVIDENCE,
    MAX_KIND,
    MAX_PIECE,
    Evidence,
    Standing,
    Submission,
)

_STANDING: Final = (
    "SELECT s.number, s.id, i.item, s.source, s.public, s.network, s.comment, s.evidence, s.tlp,"
    " s.submitted_at, s.action, s.decision, s.decided_at, i.case_id, i.error,"
    " EXISTS (SELECT 1 FROM queue q WHERE q.item = i.id)"
    " FROM submissions s JOIN items i ON i.id = s.item"
)


class Submissions(Intake):
    """The part of the store that keeps submissions."""

    def submit(
        self, submission: Submission, candidate: Candidate, now: int, quota: Quota | None = None
    ) -> None:
        """See `SubmissionStore.submit`."""
        said = submission
        evidence = [
            (clean(piece.kind, MAX_KIND), clean(piece.text, MAX_PIECE))
            for piece in said.evidence[:MAX_EVIDENCE]
        ]
        with self.writing() as db:
            self._add(db, said.source, [candidate], now, urgent=True, quota=quota)
            db.execute(
                "INSERT INTO submissions (id, item, source, public, network, comment, evidence,"
                " tlp, submitted_at, action, decided_at)"
                " SELECT ?, id, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM items WHERE item = ?",
                (
                    *(said.id, said.source, said.public, said.network),
                    *(clean(said.comment, MAX_COMMENT), json.dumps(evidence), said.tlp, now),
                    *(said.action, None if said.action is None else now),
                    candidate.item,
                ),
            )
            self._judge_again(db, candidate.item, now)

    def _judge_again(self, db: sqlite3.Connection, item: str, now: int) -> None:
        """Have an item judged, before what crawlers bring, unless it is dead."""
        number, source, waits = db.execute(
            "SELECT i.id, i.source, EXISTS (SELECT 1 FROM queue q WHERE q.item = i.id)"
            " FROM items i WHERE i.item = ?",
            (item,),
        ).fetchone()
        if waits:
            db.execute("UPDATE queue SET bulk = 0 WHERE item = ?", (number,))
            return
        asked = db.execute(
            "INSERT INTO queue (item, source, bulk, due) SELECT id, source, 0, ? FROM items"
            " WHERE id = ? AND error IS NULL RETURNING item",
            (now, number),
        ).fetchone()
        if asked is not None:
            count_waiting(db, {source: 1})

    def submission(self, id: str) -> Standing | None:  # noqa: A002 - as everywhere
        """See `SubmissionStore.submission`."""
        with self.reading() as db:
            row = db.execute(f"{_STANDING} WHERE s.id = ?", (clean(id, 200),)).fetchone()
        return None if row is None else _standing(row)[1]

    def submissions(
        self, source: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[tuple[int, Standing]]:
        """See `SubmissionStore.submissions`."""
        only = "" if source is None else " AND s.source = :source"
        with self.reading() as db:
            rows = db.execute(
                f"{_STANDING} WHERE s.number < :before{only} ORDER BY s.number DESC LIMIT :limit",
                {
                    "source": source,
                    "before": 2**62 if before is None else before,
                    "limit": min(max(limit, 1), MAX_PAGE),
                },
            ).fetchall()
        return [_standing(row) for row in rows]


def _standing(row: tuple[Any, ...]) -> tuple[int, Standing]:
    number, *head, evidence, tlp, at, action, decision, decided_at = row[:13]
    case, error, waits = row[13:]
    if decision is not None:
        how = "decided"
    elif action is not None:
        how = "known"
    elif error is not None:
        how = "failed"
    else:
        how = "queued" if waits or case is None else "open"
    told = Standing(
        *(head[0], head[1], head[2], bool(head[3]), head[4], head[5]),
        tuple(Evidence(*piece) for piece in json.loads(evidence)),
        *(tlp, at, how, action, decided_at, case),
        by_people=decision is not None and (not head[3] or decided_at >= at),
    )
    return number, told


def settle(db: sqlite3.Connection, made: Decision, now: int) -> None:
    """A decision stands: the submissions of its cases are decided, and webhooks told."""
    if not made.cases:
        return
    rows = db.execute(
        # Items first: a case has more of them than there are submissions, but an index has both.
        "SELECT s.number FROM items i CROSS JOIN submissions s ON s.item = i.id"
        " WHERE i.case_id IN (SELECT value FROM json_each(?))",
        (numbers(list(made.cases)),),
    ).fetchall()
    _tell(db, [(row[0], made.choice.act, made.number) for row in rows], now)


def unsettle(db: sqlite3.Connection, number: int, now: int) -> None:
    """A decision is undone: what it has decided is open again, and webhooks are told."""
    rows = db.execute(
        "UPDATE submissions SET action = NULL, decision = NULL, decided_at = NULL"
        " WHERE decision = ? RETURNING number",
        (number,),
    ).fetchall()
    _post(db, [row[0] for row in rows], webhooks.UNDONE, now)


def settle_judged(db: sqlite3.Connection, items: Iterable[int], now: int) -> None:
    """
    Items were judged: submissions of such whose case is decided, and stays so, are decided too.

    So are those that a rule covers which came between the submission and its being judged.
    """
    rows = db.execute(
        "SELECT s.number, i.action, i.reason, c.state, c.action, c.decision,"
        # What was decided in the same second may have been there before.
        " CASE WHEN s.public AND c.decided_at <= s.submitted_at"
        " THEN min(c.decided_at, s.submitted_at - 1) END"
        " FROM submissions s JOIN items i ON i.id = s.item JOIN cases c ON c.id = i.case_id"
        " WHERE s.item IN (SELECT value FROM json_each(?)) AND s.action IS NULL",
        (numbers(list(items)),),
    ).fetchall()
    for submission, verdict, reason, state, action, decision, at in rows:
        if verdict in ("block", "allow") and reason in BY_RULE:
            _tell(db, [(submission, verdict, None)], now)
        elif state in (State.DECIDED, State.DISMISSED):
            _tell(db, [(submission, action, decision)], now, at)


def _tell(
    db: sqlite3.Connection,
    decided: Sequence[tuple[int, str, int | None]],
    now: int,
    at: int | None = None,
) -> None:
    """Write down what was decided of submissions, `at` or now, and tell where that is news."""
    news = []
    for submission, act, decision in decided:
        (before,) = db.execute(
            "SELECT action FROM submissions WHERE number = ?", (submission,)
        ).fetchone()
        db.execute(
            "UPDATE submissions SET action = ?, decision = ?, decided_at = ? WHERE number = ?",
            (act, decision, now if at is None else at, submission),
        )
        if act != before:
            news.append(submission)
    _post(db, news, webhooks.DECIDED, now)


def _post(db: sqlite3.Connection, rows: list[int], event: str, now: int) -> None:
    """Write a message about each submission for each webhook that wants to know."""
    if not rows:
        return
    there = db.execute(
        "SELECT w.number, w.events, (SELECT count(*) FROM outbox o WHERE o.webhook = w.number)"
        " FROM webhooks w"
    ).fetchall()
    wanted = [(number, count) for number, events, count in there if event in json.loads(events)]
    if not wanted:
        return
    those = "WHERE s.number IN (SELECT value FROM json_each(?)) ORDER BY s.number"
    bodies = [
        json.dumps(
            {"type": event, "timestamp": times.moment(now), "data": _data(_standing(row)[1])}
        )
        for row in db.execute(f"{_STANDING} {those}", (numbers(rows),))
    ]
    for webhook, count in wanted:
        room = max(0, webhooks.MAX_OUTBOX - count)
        db.executemany(
            "INSERT INTO outbox (webhook, id, body, at, due) VALUES (?,?,?,?,?)",
            [(webhook, webhooks.new_id("msg_"), body.encode(), now, now) for body in bodies[:room]],
        )
        if (lost := len(bodies) - room) > 0:
            db.execute(
                "UPDATE webhooks SET given_up = given_up + ? WHERE number = ?", (lost, webhook)
            )


def _data(told: Standing) -> dict[str, Any]:
    return {
        "id": told.id,
        "item": told.item,
        "source": told.source,
        "tlp": told.tlp,
        "submitted_at": times.moment(told.submitted_at),
        "state": told.state,
        "action": told.action,
        "decided_at": None if told.decided_at is None else times.moment(told.decided_at),
        "case": told.case,
    }
