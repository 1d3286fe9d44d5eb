"""
``/v1/candidates``: findings of crawlers, in bodies of any size, and their state.

How it works.  A body is cut into pieces of whole lines.  The judges read some pieces while the one
before them is being stored, in order and one transaction each; there are never more than a few in
memory.  The answer comes when the last one is on disk.  Where the store takes no more, the body
ends there: the problem says which lines are in.  To send all of it again does no harm, for what is
there already is a duplicate.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Final, Literal

import msgspec

from urlguard.access.roles import Role
from urlguard.api import bodies, paging
from urlguard.api.problems import Problem
from urlguard.api.routes import JSON, NDJSON, READERS, STAFF, Call, Nothing, Route
from urlguard.api.schemas import Action, Item, Page, Time, utc, with_utc
from urlguard.api.v1.cases import Number, Numbers, Text
from urlguard.api.v1.casework import casework, stored
from urlguard.cases import model, ndjson
from urlguard.cases.model import Quota
from urlguard.cases.ndjson import MAX_ERRORS, MAX_LINE, Intake
from urlguard.cases.ports import BusyError
from urlguard.cases.store import Store
from urlguard.errors import InputError, UrlGuardError

PIECE: Final = 262_144  # octets
AHEAD: Final = 3  # pieces that are read while another is stored
MAX_JSON: Final = 1 << 18  # octets of a body that is not in lines
PATIENCE_S: Final = 30.0  # with judges that have too much to do
_ROWS: Final = 1_000  # of a list that are handed on in one piece
_BUSY_S: Final = 1.0  # between two questions whether they still have


class Reported(msgspec.Struct):
    """A candidate; other fields than these may stand in it, and are not kept."""

    url: Annotated[Item, msgspec.Meta(description="A URL, name or address.")]
    seen_at: Annotated[
        Annotated[float, msgspec.Meta(ge=0)] | Annotated[str, msgspec.Meta(max_length=40)] | None,
        msgspec.Meta(description="Time since 1970-01-01, UTC, or RFC 3339 text; now if left out."),
    ] = None
    context: Annotated[
        Annotated[str, msgspec.Meta(max_length=16_000)] | None,
        msgspec.Meta(description=f"Where it was found; {model.MAX_CONTEXT:,} characters are kept."),
    ] = None


OneOrMany = Reported | list[Reported]


class LineError(msgspec.Struct):
    """What is wrong with one line."""

    line: Annotated[int, msgspec.Meta(description="From 1; in a list, the item's place.")]
    error: str


class CandidatesAnswer(msgspec.Struct):
    """What became of them; all of it is on disk."""

    accepted: Annotated[int, msgspec.Meta(description="New ones; they are judged soon.")]
    duplicate: Annotated[int, msgspec.Meta(description="Such as were there before.")]
    invalid: Annotated[int, msgspec.Meta(description="Lines that are no candidates.")]
    errors: Annotated[
        list[LineError],
        msgspec.Meta(description=f"Why they are none; the first {MAX_ERRORS:,} of them."),
    ]


class CandidateParams(msgspec.Struct, forbid_unknown_fields=True):
    """Which one."""

    item: Annotated[Text, msgspec.Meta(description="A URL, name or address, as found.")]


class Report(msgspec.Struct):
    """Who reported it."""

    source: str
    reported_at: Time
    seen_at: Time
    raw: Annotated[str, msgspec.Meta(description="As it came.")]
    context: str


class KnownCandidate(msgspec.Struct):
    """What became of a URL or name."""

    id: int
    item: str
    name: str
    state: Literal["waiting", "judged", "dead"]
    case: Annotated[int | None, msgspec.Meta(description="The case that it belongs to.")]
    score: float | None
    action: Annotated[Action | None, msgspec.Meta(description="The verdict when it was judged.")]
    reason: str | None
    model: str | None
    queries: int
    seen_at: Time
    added_at: Time
    error: Annotated[str | None, msgspec.Meta(description="Why it could not be judged.")]
    reports: Annotated[list[Report], msgspec.Meta(description="Empty in lists.")]


class CandidatePage(msgspec.Struct):
    """Candidates."""

    items: list[KnownCandidate]
    next: paging.Next


class RetryRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Which candidates are tried again."""

    ids: Numbers


class Retried(msgspec.Struct):
    """How many of them were dead, and wait now."""

    retried: int


class Cutter:
    """
    Cuts a body into pieces of whole lines, of about `PIECE` octets.

    Of a line that is too long anyway it keeps only as much as shows that.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self._passing = False  # over the rest of a line that is too long

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces that are whole now; to be used up before the next call."""
        if self._passing:
            end = data.find(b"\n")
            if end < 0:
                return
            self._passing, data = False, data[end:]
        held = self._held
        held += data
        end = held.rfind(b"\n") + 1
        if len(held) - end > MAX_LINE:
            del held[end + MAX_LINE + 1 :]
            self._passing = True
        while len(held) >= PIECE:
            end = held.rfind(b"\n", 0, PIECE) + 1 or held.find(b"\n") + 1
            if not end:
                return
            piece = bytes(held[:end])
            del held[:end]
            yield piece

    def rest(self) -> bytes:
        """What is left at the end."""
        return bytes(self._held)


class _Taking:
    """One body on its way into the store."""

    def __init__(self, call: Call[Any, Any]) -> None:
        self._call = call
        self._source = call.holder.name
        self._quota = _quota(call)
        self._lines = 0
        self._found = CandidatesAnswer(0, 0, 0, [])

    async def all(self, pieces: AsyncIterator[bytes]) -> CandidatesAnswer:
        """
        Take all pieces.

        Raises:
            Problem: those before it are taken; it says which lines that are.
        """
        reading: deque[asyncio.Task[Intake]] = deque()
        try:
            async for piece in pieces:
                reading.append(asyncio.create_task(self._read(piece)))
                if len(reading) > AHEAD:
                    await self._keep(await reading.popleft())
            while reading:
                await self._keep(await reading.popleft())
        except Problem as exc:
            raise self._so_far(exc) from exc.__cause__
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)
        return self._found

    async def _read(self, piece: bytes) -> Intake:
        """What the judges read in a piece; where they have too much to do, that takes longer."""
        services = self._call.services
        if services.judging is None:
            raise Problem("unavailable", "candidates cannot be read yet", retry_after_s=1)
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await services.judging.intake(piece)
            except UrlGuardError as exc:
                wait_s = getattr(exc, "retry_after_s", 1.0)
                if not isinstance(exc, BusyError) or time.monotonic() > until:
                    raise Problem("unavailable", str(exc), retry_after_s=wait_s) from exc
            await asyncio.sleep(min(wait_s, _BUSY_S))

    async def _keep(self, intake: Intake) -> None:
        def work(found: Store) -> model.Added:
            rows = list(intake.rows())
            now = int(time.time())
            return found.add(self._source, rows, now, invalid=intake.invalid, quota=self._quota)

        services, found = self._call.services, self._found
        added = await stored(services, work, bulk=True)
        casework(services).wake()
        found.accepted += added.accepted
        found.duplicate += added.duplicate
        found.invalid += intake.invalid
        room = MAX_ERRORS - len(found.errors)
        found.errors += [
            LineError(self._lines + number, words) for number, words in intake.errors[:room]
        ]
        self._lines += intake.lines

    def _so_far(self, problem: Problem) -> Problem:
        if not self._lines:
            return problem
        next_line = self._lines + 1
        problem.detail += (
            f"; lines 1 to {self._lines} are taken: send again from line {next_line}, or all"
        )
        problem.errors = [*problem.errors, (f"line {next_line}", "not taken, nor any after it")]
        return problem


def _quota(call: Call[Any, Any]) -> Quota | None:
    options = call.services.cases
    if call.holder.role is not Role.CRAWLER or not options.crawler_per_hour:
        return None
    return Quota(options.crawler_per_hour, options.crawler_burst)


async def _pieces(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    cutter = Cutter()
    async for chunk in chunks:
        for piece in cutter.feed(chunk):
            yield piece
    if piece := cutter.rest():
        yield piece


async def _as_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A body of plain JSON as lines."""
    data = bytearray()
    async for chunk in chunks:
        data += chunk
        if len(data) > MAX_JSON:
            raise Problem("length", f"the body has more than {MAX_JSON} octets; send lines instead")
    if data.lstrip().startswith(b"["):
        found = await bodies.listed(bytes(data), Reported)
    else:
        # The type is a union, which is no class; so whatever else it is, is told as it should be.
        found = [bodies.decoded(bytes(data), OneOrMany)]  # type: ignore[arg-type]
    encode = msgspec.json.Encoder().encode_lines
    # Nothing is taken before all of it was read, and it is taken piece by piece.
    for at in range(0, len(found), _ROWS):
        yield encode(found[at : at + _ROWS])


async def candidates(call: Call[OneOrMany, Nothing]) -> CandidatesAnswer:
    """Take candidates in."""
    if call.chunks is None:
        raise RuntimeError("the route streams")
    casework(call.services)
    lines = bodies.media_type(call.request, call.route) == NDJSON
    return await _Taking(call).all((_pieces if lines else _as_lines)(call.chunks))


def shown(item: model.Item) -> KnownCandidate:
    """An item as it is told."""
    fields = with_utc(item._asdict())
    fields["reports"] = [
        Report(r.source, utc(r.at), utc(r.seen_at), r.raw, r.context) for r in item.reports
    ]
    return KnownCandidate(**fields)


async def candidate(call: Call[Nothing, CandidateParams]) -> KnownCandidate:
    """One candidate."""
    try:
        item = ndjson.candidate(call.params.item, 0).item
    except InputError as exc:
        raise Problem("invalid", str(exc), errors=[("item", str(exc))]) from None
    found = await stored(call.services, lambda s: s.item(item))
    if found is None:
        raise Problem("not-found", "nobody has reported this item")
    return shown(found)


async def candidates_dead(call: Call[Nothing, Page]) -> CandidatePage:
    """Those that could not be judged."""
    after = paging.decode(call.params.cursor, tuple[Number])
    limit = call.params.limit
    start = 0 if after is None else after[0]
    found = await stored(call.services, lambda s: s.dead(start, limit + 1))
    following = paging.encode(found[limit - 1].id) if len(found) > limit else None
    return CandidatePage([shown(item) for item in found[:limit]], following)


async def candidates_retry(call: Call[RetryRequest, Nothing]) -> Retried:
    """Try them again."""
    ids = call.body.ids
    count = await stored(call.services, lambda s: s.retry(ids, int(time.time())))
    casework(call.services).wake()
    return Retried(count)


_TAG: Final = "Candidates"

ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/candidates",
        roles=frozenset({Role.CRAWLER, Role.ANALYST, Role.ADMIN}),
        tag=_TAG,
        summary="Hand in candidates",
        words="As lines of JSON, of any size, or as one object or a list of up to 256 KiB. What was"
        " acknowledged is on disk. A line that is none costs only itself. 429 where too many wait,"
        " or the source is over its quota: `detail` says which lines are taken. All of it may be"
        " sent again: what is there already is a duplicate.",
        streams=True,
        takes=(JSON, NDJSON),
        body=OneOrMany,  # type: ignore[arg-type]
        answer=CandidatesAnswer,
        handler=candidates,
    ),
    Route(
        method="GET",
        path="/v1/candidates",
        roles=READERS,
        tag=_TAG,
        summary="What became of one candidate",
        params=CandidateParams,
        answer=KnownCandidate,
        errors=("not-found",),
        handler=candidate,
    ),
    Route(
        method="GET",
        path="/v1/candidates/dead",
        roles=READERS,
        tag=_TAG,
        summary="Candidates that could not be judged",
        params=Page,
        answer=CandidatePage,
        handler=candidates_dead,
    ),
    Route(
        method="POST",
        path="/v1/candidates/retry",
        roles=STAFF,
        tag=_TAG,
        summary="Have such candidates judged again",
        body=RetryRequest,
        answer=Retried,
        handler=candidates_retry,
    ),
)
