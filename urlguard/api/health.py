"""``GET /healthz`` and ``GET /readyz``: JSON, with status 200 or 503; anyone may ask."""

from typing import Any, Final

from urlguard.api.routes import PUBLIC, Call, Nothing, Route


async def healthz(call: Call[Nothing, Nothing]) -> tuple[int, dict[str, Any]]:
    """Whether anything answers."""
    found = await call.services.source.health()
    return (200 if found["ok"] else 503), found


async def readyz(call: Call[Nothing, Nothing]) -> tuple[int, dict[str, Any]]:
    """Whether all is as it should be."""
    found = await call.services.source.readiness()
    return (200 if found["ready"] else 503), found


ROUTES: Final = (
    Route(
        method="GET",
        path="/healthz",
        roles=PUBLIC,
        tag="Health",
        summary="Whether the control process and a worker answer",
        answer=dict[str, Any],
        also=(503,),
        handler=healthz,
        health=True,
    ),
    Route(
        method="GET",
        path="/readyz",
        roles=PUBLIC,
        tag="Health",
        summary="Whether every worker enforces the policy",
        words="If not, `why` says what is missing.",
        answer=dict[str, Any],
        also=(503,),
        handler=readyz,
        health=True,
    ),
)
