"""
``/v1/submissions``: one URL with a word and evidence, from a reporter, or from anybody.

Whoever has a token learns at once if a rule stands, and later what was decided.  The public, where
it may submit at all, learns neither: it would be told which of its names are known.  It gets an ID
that nobody can guess, and with it whether people have looked.

Secrets: user information and fragments are no part of a canonical URL, and the text as it came is
not kept if it has a password in it.  Of a public sender's address only the day's pseudonym of its
network is kept.
"""

import time
from typing import Annotated, Any, Final, Literal

import msgspec

from urlguard.access.roles import Role
from urlguard.api import paging
from urlguard.api.problems import Problem
from urlguard.api.routes import READERS, STAFF, Call, Nothing, Route
from urlguard.api.schemas import Page, Time, Verdict, utc
from urlguard.api.services import Judging
from urlguard.api.v1.cases import Number
from urlguard.api.v1.casework import casework, stored
from urlguard.cases.model import BY_RULE, Candidate, Quota
from urlguard.cases.submissions import (
    MAX_COMMENT,
    MAX_EVIDENCE,
    MAX_KIND,
    MAX_PIECE,
    PUBLIC,
    Evidence,
    Standing,
    Submission,
    new_id,
)
from urlguard.errors import UrlGuardError

SENDERS: Final = STAFF | {Role.REPORTER}

Tlp = Literal["clear", "green", "amber", "amber+strict", "red"]
Piece = Annotated[str, msgspec.Meta(max_length=MAX_PIECE)]
State = Literal["received", "known", "queued", "open", "decided", "failed"]
Decision = Annotated[
    Literal["block", "allow", "watch", "dismiss"] | None,
    msgspec.Meta(description="What a rule says, or people have decided."),
]


class Exhibit(msgspec.Struct, forbid_unknown_fields=True):
    """A piece of evidence."""

    text: Piece
    kind: Annotated[
        str,
        msgspec.Meta(pattern=rf"^[a-z0-9_.-]{{1,{MAX_KIND}}}$", description="Such as `sms`."),
    ] = "text"


class SubmissionRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What somebody submits."""

    url: Annotated[
        str,
        msgspec.Meta(min_length=1, max_length=8192, description="A URL, name or address."),
    ]
    comment: Annotated[str, msgspec.Meta(max_length=MAX_COMMENT)] = ""
    evidence: Annotated[list[Piece | Exhibit], msgspec.Meta(max_length=MAX_EVIDENCE)] = []
    tlp: Annotated[
        Tlp, msgspec.Meta(description="With whom it may be shared (Traffic Light Protocol 2.0).")
    ] = "amber"


class Submitted(msgspec.Struct):
    """It is on disk; without a token, `id` and `state` are all there is."""

    id: Annotated[str, msgspec.Meta(description="Nobody can guess it.")]
    state: Annotated[
        State,
        msgspec.Meta(
            description="`known`: a rule stands. `queued`: to be judged. `open`: people have to"
            " look. `decided`: they have. `failed`: it could not be judged. `received`: all that"
            " the public is told until people have looked."
        ),
    ]
    item: Annotated[str | None, msgspec.Meta(description="In canonical form.")] = None
    action: Decision = None
    verdict: Annotated[Verdict | None, msgspec.Meta(description="Where a rule stands.")] = None


class SubmissionState(msgspec.Struct):
    """What became of a submission; without a token, `id` and `state` are all there is."""

    id: str
    state: State
    item: str | None = None
    action: Decision = None
    submitted_at: Time | None = None
    decided_at: Time | None = None
    comment: str | None = None
    evidence: list[Exhibit] = []
    tlp: Tlp | None = None
    source: Annotated[
        str | None, msgspec.Meta(description="Who sent it; `(public)`: somebody without a token.")
    ] = None
    network: Annotated[
        str | None,
        msgspec.Meta(description="A public sender's, as the day's pseudonym; for staff."),
    ] = None
    case: Annotated[int | None, msgspec.Meta(description="For staff.")] = None


class SubmissionPage(msgspec.Struct):
    """Submissions, the newest first."""

    items: list[SubmissionState]
    next: paging.Next


class OneSubmission(msgspec.Struct, forbid_unknown_fields=True):
    """Which submission."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


def _may_submit(call: Call[Any, Any]) -> None:
    """Hold up who sends too much without a token."""
    if call.caller is None and call.services.public is not None:
        call.services.public.submits(call.address)


async def submit(call: Call[SubmissionRequest, Nothing]) -> Submitted:
    """Take a submission."""
    asked, services, caller = call.body, call.services, call.caller
    casework(services)
    network = None
    if caller is None:
        if services.public is None:
            raise Problem("unauthenticated", "no token was sent")
        network = services.public.pseudonym(call.address)
    if services.judging is None:
        raise Problem("unavailable", "submissions cannot be read yet", retry_after_s=1)
    candidate = await _candidate(asked, services.judging)
    verdict = None if caller is None else await _known(candidate.item, services.judging)
    submission = Submission(
        new_id(),
        PUBLIC if caller is None else caller.name,
        caller is None,
        network,
        asked.comment,
        tuple(
            Evidence("text", one) if isinstance(one, str) else Evidence(one.kind, one.text)
            for one in asked.evidence
        ),
        asked.tlp,
        None if verdict is None else verdict.action,
    )
    now, quota = int(time.time()), _quota(call)

    def work(found: Any) -> Standing:
        found.submit(submission, candidate, now, quota)
        standing: Standing = found.submission(submission.id)
        return standing

    standing = await stored(services, work)
    casework(services).wake()
    if caller is None:
        return Submitted(submission.id, "received")
    told = _told(standing)
    return Submitted(told.id, told.state, told.item, told.action, verdict)


async def _candidate(asked: SubmissionRequest, judging: Judging) -> Candidate:
    """
    The URL as a candidate, read by whoever reads those of crawlers, so that its owner is the same.

    Raises:
        Problem: it is none.
    """
    line = {"url": asked.url, "context": asked.comment}
    intake = await judging.intake(msgspec.json.encode(line))
    found = next(iter(intake.rows()), None)
    if found is None:
        words = intake.errors[0][1].removeprefix("url ") if intake.errors else "is none"
        raise Problem("invalid", f"url: {words}", errors=[("url", words)])
    return found


async def _known(item: str, judging: Judging) -> Verdict | None:
    """The verdict if a rule stands; what judges cannot say now is said later."""
    try:
        (found,) = await judging.check([item])
    except UrlGuardError:
        return None
    verdict = msgspec.json.decode(found, type=Verdict)
    return verdict if verdict.action in ("block", "allow") and verdict.reason in BY_RULE else None


def _quota(call: Call[SubmissionRequest, Nothing]) -> Quota | None:
    options = call.services.cases
    if call.caller is None:
        return Quota(options.public_per_hour, options.public_burst)
    if call.caller.role is not Role.REPORTER or not options.reporter_per_hour:
        return None
    return Quota(options.reporter_per_hour, options.reporter_burst)


def _told(found: Standing, *, staff: bool = False) -> SubmissionState:
    """A submission as its sender sees it, or the staff."""
    return SubmissionState(
        found.id,
        found.state,  # type: ignore[arg-type]
        found.item,
        found.action,  # type: ignore[arg-type]
        utc(found.submitted_at),
        utc(found.decided_at),
        found.comment,
        [Exhibit(text, kind) for kind, text in found.evidence],
        found.tlp,  # type: ignore[arg-type]
        found.source,
        found.network if staff else None,
        found.case if staff else None,
    )


async def submission(call: Call[Nothing, OneSubmission]) -> SubmissionState:
    """One submission."""
    asked, caller = call.params.id, call.caller
    if caller is None and call.services.public is not None:
        call.services.public.looks(call.address)
    found = await stored(call.services, lambda s: s.submission(asked))
    if found is not None:
        if caller is not None and caller.role in READERS:
            return _told(found, staff=True)
        if caller is not None and found.source == caller.name:
            return _told(found)
        if found.public:
            # Not whether a rule stood, which he would learn by sending one name after the other.
            return SubmissionState(found.id, "decided" if found.by_people else "received")
    raise Problem("not-found", "there is no such submission, or it is not yours")


async def submissions(call: Call[Nothing, Page]) -> SubmissionPage:
    """A page of submissions."""
    caller, limit = call.holder, call.params.limit
    staff = caller.role in READERS
    after = paging.decode(call.params.cursor, tuple[Number])
    before = None if after is None else after[0]
    source = None if staff else caller.name
    found = await stored(call.services, lambda s: s.submissions(source, before, limit + 1))
    following = paging.encode(found[limit - 1][0]) if len(found) > limit else None
    return SubmissionPage([_told(one, staff=staff) for _, one in found[:limit]], following)


_TAG: Final = "Submissions"

ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/submissions",
        roles=SENDERS,
        anonymous=True,
        tag=_TAG,
        summary="Submit a URL",
        words="With a word and evidence. It is judged before what crawlers bring, and decided by"
        " people; a known one is answered at once. A password in the URL is not kept.",
        body=SubmissionRequest,
        max_body=1 << 19,
        answer=Submitted,
        handler=submit,
        limit=_may_submit,
    ),
    Route(
        method="GET",
        path="/v1/submissions",
        roles=READERS | {Role.REPORTER},
        tag=_TAG,
        summary="Submissions, the newest first",
        words="Reporters see their own.",
        params=Page,
        answer=SubmissionPage,
        handler=submissions,
    ),
    Route(
        method="GET",
        path="/v1/submissions/{id}",
        roles=READERS | {Role.REPORTER},
        anonymous=True,
        tag=_TAG,
        summary="What became of a submission",
        params=OneSubmission,
        answer=SubmissionState,
        errors=("not-found",),
        handler=submission,
    ),
)
