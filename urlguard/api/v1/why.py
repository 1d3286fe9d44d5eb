"""
``GET /v1/why``: what was said of a name or URL at any moment, by which rule, and who decided it.

The policy log answers for rules, see `past`.  Which model was in use it does not know: of now the
judges are asked, and for an earlier moment the hit log may have a row that names the model.
"""

import asyncio
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, NamedTuple, cast

import msgspec

from urlguard import verdict as verdicts
from urlguard.api.problems import Problem
from urlguard.api.routes import READERS, Call, Nothing, Route
from urlguard.api.schemas import Action, Kind, Rule, Time, Verdict, utc
from urlguard.api.services import Services
from urlguard.api.v1.log import reader
from urlguard.api.v1.past import Past, Turn
from urlguard.api.v1.rules import Said
from urlguard.errors import InputError, PolicyError, UrlGuardError
from urlguard.hitlog import search as hits
from urlguard.policy.history import last_before
from urlguard.policy.log import PolicyLog
from urlguard.policy.model import BatchRow, ClaimRow
from urlguard.urls import MAX_URL

MAX_CHANGES: Final = 100
_MODEL: Final = "model "  # what the rule of a model's hit begins with

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGO: Final = re.compile(r"([0-9]{1,9})([smhdw])")
_SECONDS: Final = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?")
# In a URL a plus sign means a space, and people forget that.
_OFFSET: Final = re.compile(r" (?=[0-9]{2}:?[0-9]{2}\Z)")
_CASE: Final = re.compile(r"case:([0-9]{1,15}):[0-9]{1,15}")

_EMPTY: Final = "The log has nothing from then: its first batch came later."
_UNKNOWN: Final = "No rule covered it. Which model judged it then, if any, is not in the log."
_POPULAR: Final = (
    "No rule covered it. That it is popular is said by this version's table; whether a model judged"
    " it then is not in the log."
)
_SEEN: Final = (
    "No rule covered it. The hit log has that this model acted on it shortly before; scores are"
    " not kept."
)


class WhyParams(msgspec.Struct, forbid_unknown_fields=True):
    """What, and when."""

    item: Annotated[
        str,
        msgspec.Meta(
            min_length=1, max_length=MAX_URL, description="A name, a URL or an address, as found."
        ),
    ]
    at: Annotated[
        Annotated[str, msgspec.Meta(min_length=1, max_length=40)] | None,
        msgspec.Meta(
            description="Time since 1970-01-01, UTC; or a time such as `2030-01-31T12:00Z`; or"
            " a duration before now such as `12h`, `7d`. Now if left out; must not be to come."
        ),
    ] = None
    serial: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1 << 53)] | None,
        msgspec.Meta(
            description="Once this batch of the policy log was made; instead of `at`, where"
            " several batches lie within one second."
        ),
    ] = None


class Claim(msgspec.Struct):
    """What one source said about one rule that covers the item."""

    kind: Kind
    value: Annotated[str, msgspec.Meta(description="What the rule covers, in canonical form.")]
    action: Said
    category: str
    source: Annotated[
        str, msgspec.Meta(description="Who says so: `operator`, `analyst:NAME`, `feed:NAME`.")
    ]
    evidence: str
    case: Annotated[int | None, msgspec.Meta(description="The case in which it was decided.")]
    serial: Annotated[int, msgspec.Meta(description="The batch that made it.")]
    made_at: Annotated[Time, msgspec.Meta(description="When that was.")]
    actor: Annotated[str, msgspec.Meta(description="Who was behind the batch.")]
    reason: Annotated[str, msgspec.Meta(description="Why, by the batch.")]
    ended_serial: Annotated[
        int | None, msgspec.Meta(description="The batch that ended it; null while it stands.")
    ]
    ended_at: Annotated[Time | None, msgspec.Meta(description="When that was.")]
    expires_at: Time | None
    decisive: Annotated[bool, msgspec.Meta(description="Whether the verdict is what it says.")]


class Saying(msgspec.Struct):
    """What rules and popularity said of the item; no model was asked."""

    action: Action
    reason: str
    rule: Rule | None


class Changed(msgspec.Struct):
    """A batch after which something else was said of the item."""

    serial: int
    committed_at: Time
    actor: Annotated[str, msgspec.Meta(description="Who was behind the batch.")]
    source: Annotated[str, msgspec.Meta(description="Whose claims it changed.")]
    reason: Annotated[str, msgspec.Meta(description="Why, by the batch.")]
    before: Saying
    after: Saying


class Hit(msgspec.Struct):
    """What clients met who asked for the name, in one second."""

    seen_at: Time
    action: Annotated[str, msgspec.Meta(description="`block` or `review`.")]
    rule: Annotated[str, msgspec.Meta(description="The rule's key; `model NAME` for a model.")]
    category: str
    sources: list[str]
    count: int


class WhyAnswer(msgspec.Struct):
    """The verdict at a moment, and where it came from."""

    input: str
    canonical: str
    kind: Annotated[str, msgspec.Meta(description="`name`, `url` or `ip`.")]
    name: str | None
    at: Annotated[Time, msgspec.Meta(description="The moment.")]
    serial: Annotated[
        int, msgspec.Meta(description="The last batch then; 0 if the log begins later.")
    ]
    paused: Annotated[bool, msgspec.Meta(description="Filtering was paused: nothing was blocked.")]
    verdict: Verdict
    note: Annotated[
        str | None, msgspec.Meta(description="What cannot be said of that moment, and why.")
    ]
    case: Annotated[int | None, msgspec.Meta(description="The case in which it was decided.")]
    claims: Annotated[
        list[Claim],
        msgspec.Meta(description="All that stood and covered the item; what decided comes first."),
    ]
    changes: Annotated[
        list[Changed],
        msgspec.Meta(
            description=f"When rules changed the verdict, up to today, newest first; at most"
            f" {MAX_CHANGES}."
        ),
    ]
    more_changes: Annotated[bool, msgspec.Meta(description="Whether there may be older ones.")]
    hits: Annotated[
        list[Hit],
        msgspec.Meta(
            description=f"Of the name, within an hour before and after; newest first, at most"
            f" {hits.MAX_HITS}."
        ),
    ]
    more_hits: Annotated[bool, msgspec.Meta(description="Whether there may be others.")]


class _Found(NamedTuple):
    """What the log has."""

    item: Past
    serial: int
    at: float  # seconds since 1970
    paused: bool
    verdict: Verdict
    claims: list[Claim]
    changes: list[Changed]
    more_changes: bool


async def why(call: Call[Nothing, WhyParams]) -> WhyAnswer:
    """The verdict at a moment."""
    asked = call.params
    if asked.at is not None and asked.serial is not None:
        words = "there is `at` as well; may be only one of them"
        raise Problem("invalid", f"serial: {words}", errors=[("serial", words)])
    now = time.time()
    at = now if asked.at is None else _moment(asked.at, now)
    found = await reader(call.services).read(lambda log: _find(log, asked, at))
    seen, all_seen = await _seen(call.services.state_dir, found)
    verdict, note = found.verdict, None
    if verdict.rule is None and found.item.kind != "ip":
        if asked.at is None and asked.serial is None:
            verdict = await _judged(call.services, asked.item, verdict)
        else:
            verdict, note = _then(found, seen)
    return WhyAnswer(
        input=asked.item,
        canonical=found.item.canonical,
        kind=found.item.kind,
        name=found.item.name,
        at=utc(found.at),
        serial=found.serial,
        paused=found.paused,
        verdict=verdict,
        note=note,
        case=next((c.case for c in found.claims if c.decisive and c.case is not None), None),
        claims=found.claims,
        changes=found.changes,
        more_changes=found.more_changes,
        hits=seen,
        more_hits=not all_seen,
    )


def _moment(text: str, now: float) -> float:
    """
    A time that has been, in seconds since 1970.

    Raises:
        Problem: it is none.
    """
    if match := _AGO.fullmatch(text):
        at = now - int(match[1]) * _UNITS[match[2]]
    elif _SECONDS.fullmatch(text):
        at = float(text)
    else:
        try:
            when = datetime.fromisoformat(_OFFSET.sub("+", text))
        except ValueError:
            raise _wrong(
                "at",
                f"{text!r}: must be seconds since 1970, a time such as 2030-01-31T12:00Z, or a"
                " duration before now such as 30m, 12h, 7d",
            ) from None
        at = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    if at > now:
        raise _wrong("at", f"{text!r}: is to come; must have been")
    if at < 0:
        raise _wrong("at", f"{text!r}: is before 1970; must be later")
    return at


def _wrong(field: str, words: str) -> Problem:
    return Problem("invalid", f"{field}: {words}", errors=[(field, words)])


def _find(log: PolicyLog, asked: WhyParams, at: float) -> _Found:
    """
    What the log has about an item; on the log's thread.

    Raises:
        Problem: the item is none, or there is no such batch.
    """
    try:
        item = Past(log, asked.item)
    except InputError as exc:
        raise _wrong("item", str(exc)) from None
    if asked.serial is None:
        batch = last_before(log.store, int(at * 1000))
    else:
        batch = log.store.last_upto(asked.serial)
        if batch is None or asked.serial > log.serial:
            raise _wrong("serial", f"{asked.serial}: the log goes up to {log.serial}")
        at = batch.time / 1000
    serial = batch.serial if batch else 0
    claims, (turns, whole) = item.claims(serial), item.turns(MAX_CHANGES)
    batches: dict[int, BatchRow] = {}
    for number in {
        *(c.from_serial for c, _ in claims),
        *(c.to_serial for c, _ in claims if c.to_serial is not None),
        *(turn.serial for turn in turns),
    }:
        row = log.store.last_upto(number)
        if row is None or row.serial != number:
            raise PolicyError(f"policy log: batch {number} is missing")
        batches[number] = row
    return _Found(
        item,
        serial,
        at,
        item.paused(serial, at),
        msgspec.convert(item.object(serial), Verdict),
        [_claim(claim, decisive, batches) for claim, decisive in claims],
        [_changed(turn, batches[turn.serial]) for turn in turns],
        not whole,
    )


def _claim(claim: ClaimRow, decisive: bool, batches: dict[int, BatchRow]) -> Claim:
    made, ended = batches[claim.from_serial], claim.to_serial
    kind, _, value = claim.rule.partition(" ")
    case = _CASE.fullmatch(claim.evidence)
    return Claim(
        kind=cast(Kind, kind),
        value=value,
        action=cast(Said, claim.action),
        category=claim.category,
        source=claim.source,
        evidence=claim.evidence,
        case=int(case[1]) if case else None,
        serial=made.serial,
        made_at=utc(made.time // 1000),
        actor=made.actor,
        reason=made.reason,
        ended_serial=ended,
        ended_at=None if ended is None else utc(batches[ended].time // 1000),
        expires_at=utc(claim.expires_at),
        decisive=decisive,
    )


def _changed(turn: Turn, batch: BatchRow) -> Changed:
    return Changed(
        serial=batch.serial,
        committed_at=utc(batch.time // 1000),
        actor=batch.actor,
        source=batch.source,
        reason=batch.reason,
        before=_saying(turn.before),
        after=_saying(turn.after),
    )


def _saying(verdict: verdicts.Verdict) -> Saying:
    rule = None if verdict.rule is None else msgspec.convert(verdict.rule.as_json(), Rule)
    return Saying(cast(Action, verdict.action), verdict.reason, rule)


async def _judged(services: Services, item: str, verdict: Verdict) -> Verdict:
    """
    The verdict now, with the model's reasons, on an item that no rule covers.

    Raises:
        Problem: the judges cannot be asked.
    """
    if services.judging is None:
        raise Problem("unavailable", "verdicts cannot be given yet", retry_after_s=1)
    try:
        (found,) = await services.judging.check([item], why=True)
    except UrlGuardError as exc:
        retry = getattr(exc, "retry_after_s", 1.0)
        raise Problem("unavailable", str(exc), retry_after_s=retry) from exc
    judged = msgspec.json.decode(found, type=Verdict)
    # A rule that has come since is not among the claims.
    return judged if judged.rule is None else verdict


async def _seen(state_dir: Path | None, found: _Found) -> tuple[list[Hit], bool]:
    """The hits of the name around the moment, and whether these are all."""
    if state_dir is None or found.item.name is None:
        return [], True
    # Not on the log's thread: files may be large, and others wait for the log.
    seen, whole = await asyncio.to_thread(
        hits.around, state_dir / "hits", found.item.name, found.at
    )
    return [
        Hit(utc(one.time), one.action, one.rule, one.category, list(one.sources), count)
        for one, count in seen
    ], whole


def _then(found: _Found, seen: list[Hit]) -> tuple[Verdict, str]:
    """The verdict at an earlier moment on an item that no rule covered, and what to know of it."""
    verdict = found.verdict
    if found.item.kind == "name":
        # Hits are of names; what a model of URLs said of one met nobody.
        for hit in seen:
            if hit.seen_at <= utc(found.at) and hit.rule.startswith(_MODEL) and not found.paused:
                acted = msgspec.structs.replace(
                    verdict,
                    action=cast(Action, hit.action),
                    reason="classifier",
                    model=hit.rule.removeprefix(_MODEL),
                )
                return acted, _SEEN
    if not found.serial:
        return verdict, _EMPTY
    return verdict, _POPULAR if verdict.reason == "popular" else _UNKNOWN


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/why",
        roles=READERS,
        tag="The record",
        summary="Why something is blocked, or was at any moment",
        words="The verdict at that moment, every rule that covered the item then, with who said it,"
        " when and on what evidence, and each batch that changed the verdict.",
        params=WhyParams,
        answer=WhyAnswer,
        handler=why,
    ),
)
