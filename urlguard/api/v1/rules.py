"""
``/v1/rules``: what people and lists say, and the operator's and the analysts' own rules.

A rule here is one source's claim: two sources that say the same are two, and each withdraws its
own.  What an admin says through the API is the operator's, as on the command line; what others say
is ``analyst:NAME``, after their token.
"""

import asyncio
import base64
import binascii
import contextlib
import re
import time
from collections.abc import Sequence
from typing import Annotated, Final, Literal, cast

import msgspec

from urlguard import rules
from urlguard.access.roles import Role
from urlguard.access.tokens import Holder
from urlguard.api import paging
from urlguard.api.problems import Problem
from urlguard.api.routes import READERS, STAFF, Call, Nothing, Route
from urlguard.api.schemas import Category, Kind, Moment, Page, Remark, Time, moment, utc
from urlguard.api.services import Decided, Services
from urlguard.api.v1.casework import casework, decider, person, source_of, told
from urlguard.api.v1.decisions import DecideAnswer, outcome
from urlguard.api.v1.log import reader
from urlguard.cases import priority
from urlguard.errors import InputError, PolicyError
from urlguard.policy.log import PolicyLog
from urlguard.policy.model import Change, ClaimRow
from urlguard.rules import PAUSE, SCHEDULED, Rule
from urlguard.verdict import FEED

_RELEASE: Final = re.compile(r"appeal:(\d+):(\d+)")  # evidence of what an appeal was upheld with

Said = Literal["block", "review", "allow", "except", "shadow"]
RuleText = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=rules.MAX_VALUE,
        description="As for `urlguard block`: a name (it and all below it), `*.name` (all below"
        " it), a URL, or a pattern.",
    ),
]
Ident = Annotated[
    str,
    msgspec.Meta(
        min_length=1, max_length=6000, pattern=r"^[A-Za-z0-9_-]*$", description="A rule's `id`."
    ),
]


class RuleParams(Page, kw_only=True):
    """Which rules."""

    source: Annotated[
        str | None,
        msgspec.Meta(
            description="Only those of one source, such as `feed:NAME`; if left out, those of all"
            " people."
        ),
    ] = None
    rule: Annotated[
        Annotated[str, msgspec.Meta(min_length=1, max_length=rules.MAX_VALUE)] | None,
        msgspec.Meta(description="Only this one, written as for `urlguard block`; of all sources."),
    ] = None


class StandingRule(msgspec.Struct):
    """A rule that one source states now."""

    id: str
    kind: Kind
    value: Annotated[str, msgspec.Meta(description="What it covers, in canonical form.")]
    action: Said
    category: str
    source: str
    evidence: Annotated[
        str, msgspec.Meta(description="What the rule rests on: a person's reason, or a case.")
    ]
    serial: Annotated[int, msgspec.Meta(description="The batch that made it.")]
    begins_at: Annotated[
        Time | None, msgspec.Meta(description="If it is scheduled; null if it is in force.")
    ]
    expires_at: Time | None


class RulePage(msgspec.Struct):
    """Rules, by source and rule."""

    items: list[StandingRule]
    next: paging.Next


class RuleRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A rule to make, or to change: of one source, a rule stands once."""

    rule: RuleText
    action: Annotated[
        Literal["block", "review", "allow", "shadow"],
        msgspec.Meta(description="`shadow`: counted as if it blocked, and never enforced."),
    ] = "block"
    category: Annotated[
        Category | None,
        msgspec.Meta(description="`fraud` if left out, for what is blocked or in shadow."),
    ] = None
    reason: Remark = ""
    begins_at: Moment = None
    expires_at: Moment = None


class RuleAnswer(msgspec.Struct):
    """What came of it."""

    id: str
    serial: Annotated[int, msgspec.Meta(description="Of the policy log, with the change in it.")]
    changed: Annotated[bool, msgspec.Meta(description="False if it stood so already.")]
    in_force: Annotated[int, msgspec.Meta(description="Workers that have confirmed it.")]
    workers: Annotated[int, msgspec.Meta(description="Workers that there are.")]
    expires_at: Annotated[Time | None, msgspec.Meta(description="When it ends by itself.")] = None
    decision: Annotated[
        DecideAnswer | None,
        msgspec.Meta(description="If it waits for a second person: what `/v1/decisions` has."),
    ] = None


class OneRule(msgspec.Struct, forbid_unknown_fields=True):
    """A rule, and why it goes."""

    id: Ident
    reason: Remark = ""


async def rules_list(call: Call[Nothing, RuleParams]) -> RulePage:
    """A page of rules."""
    asked = call.params
    after = paging.decode(asked.cursor, tuple[str, str]) or ("", "")
    key = None if asked.rule is None else (await _parsed(asked.rule)).key
    rows = await reader(call.services).read(lambda log: _claims(log, asked, key, after))
    items = [_standing(row) for row in rows[: asked.limit]]
    more = len(rows) > asked.limit
    last = rows[len(items) - 1] if more else None
    return RulePage(items, paging.encode(last.source, last.rule) if last else None)


def _claims(
    log: PolicyLog, asked: RuleParams, key: str | None, after: tuple[str, str]
) -> list[ClaimRow]:
    """The claims after a source and rule; one more than asked for if there are more."""
    store = log.store
    if key is not None:
        found = [c for c in store.history(key) if c.to_serial is None]
        found += [c for c in store.scheduled() if _scheduled(c.rule)[1] == key]
        if asked.source is not None:
            found = [c for c in found if c.source == asked.source]
        found.sort(key=lambda c: (c.source, c.rule))
        return [c for c in found if (c.source, c.rule) > after][: asked.limit + 1]
    sources = [s for s in store.sources() if not s.startswith(FEED)]
    rows: list[ClaimRow] = []
    for source in sorted(sources) if asked.source is None else [asked.source]:
        if source >= after[0]:
            start = after[1] if source == after[0] else ""
            # One for the pause, which is no rule.
            more = store.active_after(source, start, asked.limit + 2 - len(rows))
            rows += [c for c in more if c.rule != PAUSE]
            if len(rows) > asked.limit:
                break
    return rows[: asked.limit + 1]


def _standing(row: ClaimRow) -> StandingRule:
    begins_at, key = _scheduled(row.rule)
    rule = Rule.from_key(key)
    return StandingRule(
        id=_ident(row.source, row.rule),
        kind=cast(Kind, rule.kind),
        value=rule.value,
        action=cast(Said, row.action),
        category=row.category,
        source=row.source,
        evidence=row.evidence,
        serial=row.from_serial,
        begins_at=utc(begins_at),
        expires_at=utc(row.expires_at),
    )


def _scheduled(key: str) -> tuple[int | None, str]:
    """When a rule begins, if it is scheduled, and its own key."""
    if key.startswith(SCHEDULED):
        with contextlib.suppress(InputError):
            return rules.from_scheduled(key)
    return None, key


def _ident(source: str, key: str) -> str:
    packed = f"{source}\n{key}".encode()
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode("ascii")


def _named(ident: str) -> tuple[str, str]:
    """
    The source and the key that an id means.

    Raises:
        Problem: it means none.
    """
    try:
        packed = base64.b64decode(ident + "=" * (-len(ident) % 4), b"-_", validate=True)
        source, _, key = packed.decode().partition("\n")
    except (binascii.Error, ValueError):
        source, key = "", ""
    if not source or not key or key == PAUSE:
        raise Problem("not-found", "there is no rule with this id")
    return source, key


async def rules_create(call: Call[RuleRequest, Nothing]) -> RuleAnswer:
    """Make a rule, in force on every worker when this answers."""
    asked = call.body
    rule = await _parsed(asked.rule)
    begins = moment(asked.begins_at, "begins_at")
    ends = moment(asked.expires_at, "expires_at", begins)
    key = rule.key if begins is None else rules.scheduled(begins, rule.key)
    category = asked.category
    if category is None:
        category = "fraud" if asked.action in ("block", "shadow") else ""
    if ends is None and asked.action != "shadow" and call.holder.role is not Role.ADMIN:
        ends = _end(asked.action, category, int(time.time()) if begins is None else begins)
    source = source_of(call.holder)
    change = Change(key, asked.action, category, asked.reason, ends)
    if why := await _why_wait(call.services, source, change):
        # Under the key of a request that was held before, it may have been approved since.
        again = call.request.headers.get("Idempotency-Key")
        who = person(call.holder)
        held = decider(call.services).hold(change, who, asked.reason, "; ".join(why), again)
        found = outcome(await told(held))
        return RuleAnswer(
            _ident(source, key), found.serial, not found.pending_approval, 0, 0, utc(ends), found
        )
    done = await commit(call.services, source, [change], call.holder, asked.reason)
    return RuleAnswer(_ident(source, key), *done, utc(ends))


async def _why_wait(services: Services, source: str, change: Change) -> Sequence[str]:
    """
    Why a rule must wait for a second person; empty if it need not.

    Raises:
        Problem: it would have no effect, for somebody else's word comes before it.
    """
    cases = casework(services)
    if change.action == "block":
        await told(cases.refuse_overruled(source, [change.rule]))
    return await told(cases.needs_approval([change]))


def _end(action: str, category: str, start: int) -> int:
    """When a rule ends that names no end: with the day on which people would look again."""
    due = priority.recheck_at(action, category, None, start) or start
    return -(-due // priority.DAY_S) * priority.DAY_S


async def rules_delete(call: Call[Nothing, OneRule]) -> RuleAnswer:
    """Withdraw a rule, also a scheduled one."""
    source, key = _named(call.params.id)
    if source.startswith(FEED):
        raise Problem("forbidden", "a list's rule ends with the list; allow the name instead")
    if source != source_of(call.holder) and call.holder.role is Role.ANALYST:
        raise Problem("forbidden", f"{source} said so; an approver or an admin may withdraw it")
    claim = await reader(call.services).read(lambda log: log.store.active(source, key))
    if claim is None:
        raise Problem("not-found", "there is no rule with this id")
    if match := _RELEASE.fullmatch(claim.evidence):
        # There it is seen to that nobody undoes it who is behind the block.
        raise Problem(
            "conflict",
            f"made for appeal {match[1]}: undo decision {match[2]} instead"
            f" (POST /v1/decisions/{match[2]}/undo)",
        )
    reason = call.params.reason
    done = await commit(call.services, source, [Change(key, None)], call.holder, reason)
    return RuleAnswer(call.params.id, *done)


async def commit(
    services: Services, source: str, changes: list[Change], holder: Holder, reason: str
) -> Decided:
    """
    Commit a batch for the holder of a token; in force on every worker on return.

    Raises:
        Problem: it could not be done, and nothing has changed.
    """
    if services.deciding is None:
        raise Problem("unavailable", "nothing can be decided yet", retry_after_s=1)
    try:
        return await services.deciding(source, changes, actor=holder.name, reason=reason)
    except PolicyError as exc:
        raise Problem("unavailable", str(exc), retry_after_s=5) from exc


async def _parsed(text: str) -> Rule:
    # In a thread: the first pattern has a library loaded.
    try:
        return await asyncio.to_thread(rules.parse, text)
    except InputError as exc:
        raise Problem("invalid", f"rule: {exc}", errors=[("rule", str(exc))]) from None


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/rules",
        roles=READERS,
        tag="Rules",
        summary="Rules that stand",
        words="One entry for each source that states a rule.",
        params=RuleParams,
        answer=RulePage,
        handler=rules_list,
    ),
    Route(
        method="POST",
        path="/v1/rules",
        roles=STAFF,
        tag="Rules",
        summary="Make or change a rule",
        words="In force on every worker when the answer comes, if `in_force` is `workers`. A rule"
        " that would block a popular, bank's or government's name, or much of what is asked for,"
        " waits for a second person: then `decision` says so; so does one that lets through all"
        " below a public suffix, or much of what is blocked now. A block that somebody else's"
        " allowance comes before is refused. A rule of an analyst's or approver's that names no end"
        " gets one, see `expires_at`.",
        body=RuleRequest,
        answer=RuleAnswer,
        handler=rules_create,
    ),
    Route(
        method="DELETE",
        path="/v1/rules/{id}",
        roles=STAFF,
        tag="Rules",
        summary="Withdraw a rule",
        words="Analysts withdraw their own, approvers and admins anybody's. What others say about"
        " the same name goes on.",
        params=OneRule,
        answer=RuleAnswer,
        errors=("not-found", "conflict"),
        handler=rules_delete,
    ),
)
