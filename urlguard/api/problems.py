"""
Errors over HTTP: problem documents (RFC 9457), ``application/problem+json``.

Every answer with a status from 400 on is one.  ``type`` leads to the paragraph of ``/docs`` that
explains the sort of problem; `KINDS` is the list of them all.  ``errors`` says which field is wrong
and why, in the field's own spelling: ``items[3]``, ``messages[0].text``.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, NamedTuple

import msgspec

CONTENT_TYPE: Final = "application/problem+json"


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with one field of a request."""

    field: Annotated[
        str,
        msgspec.Meta(
            description="Where: a field, parameter or header, such as `items[3]`;"
            " empty for the whole"
        ),
    ]
    error: Annotated[str, msgspec.Meta(description="Why, in words.")]


class Document(msgspec.Struct, frozen=True, rename={"kind": "type"}):
    """A problem document (RFC 9457)."""

    kind: Annotated[
        str, msgspec.Meta(description="A reference to what explains this sort of problem.")
    ]
    title: Annotated[str, msgspec.Meta(description="The sort of problem, in words.")]
    status: Annotated[int, msgspec.Meta(ge=400, le=599, description="The HTTP status.")]
    detail: Annotated[str, msgspec.Meta(description="What happened this time.")]
    errors: Annotated[
        list[FieldError], msgspec.Meta(description="The fields that are wrong; often empty.")
    ] = []


class Kind(NamedTuple):
    """One sort of problem."""

    status: int
    title: str
    words: str  # for the documentation


KINDS: Final[dict[str, Kind]] = {
    "malformed": Kind(400, "Malformed request", "It is no HTTP, no JSON, or lacks a header."),
    "unauthenticated": Kind(
        401,
        "A token is needed",
        "Send `Authorization: Bearer TOKEN`; `urlguard token create` makes one. A token that was"
        " revoked or has expired counts as none.",
    ),
    "forbidden": Kind(
        403, "Not permitted", "The token is good, and its role may not do this; or only others may."
    ),
    "not-found": Kind(404, "Not found", "There is nothing at this path."),
    "method": Kind(405, "Method not allowed", "`Allow` names the methods that the path knows."),
    "conflict": Kind(
        409,
        "Conflict",
        "It does not go with what stands now, or a request with the same `Idempotency-Key` is"
        " still under way: then send it again after `Retry-After` seconds.",
    ),
    "length": Kind(413, "Too large", "Send less at once; `detail` names the limit."),
    "media-type": Kind(
        415, "Unsupported media type", "The operation names the content types that it takes."
    ),
    "host": Kind(
        421,
        "Unknown host",
        "The `Host` header is neither an IP address, `localhost`, nor among `[api] hosts`.",
    ),
    "invalid": Kind(
        422, "Invalid request", "It reads well, but a field is not as it must be: see `errors`."
    ),
    "key-reused": Kind(
        422,
        "Idempotency key used before",
        "The same `Idempotency-Key` came with another body or to another path.",
    ),
    "done-before": Kind(
        409,
        "Done before",
        "A request with the same `Idempotency-Key` was done, and its answer is not kept: it holds a"
        " secret that is told once, or it was too large. Look at what it has changed.",
    ),
    "rate": Kind(429, "Too many requests", "Wait for `Retry-After` seconds."),
    "internal": Kind(500, "Internal error", "The server's log has more, under `api.failed`."),
    "unavailable": Kind(
        503, "Not available now", "The server is busy or starting. Wait for `Retry-After` seconds."
    ),
}


class Problem(Exception):  # noqa: N818 - the name that the RFC gives it
    """
    Raised by whatever handles a request; the frame turns it into the answer.

    Args:
        kind: a key of `KINDS`, which gives the status.
        detail: what happened, for the client; nothing that only operators should know.
        errors: pairs of field and words.
        headers: more headers.
        retry_after_s: seconds; sent as ``Retry-After``, rounded up, at least 1.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        errors: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(max(1, -int(-retry_after_s // 1)))

    @property
    def status(self) -> int:
        """The HTTP status."""
        return KINDS[self.kind].status

    @property
    def document(self) -> Document:
        """The body of the answer."""
        kind = KINDS[self.kind]
        errors = [FieldError(field, error) for field, error in self.errors]
        return Document(f"/docs#problem-{self.kind}", kind.title, kind.status, self.detail, errors)
