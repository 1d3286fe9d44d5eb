"""``GET /healthz`` and ``GET /readyz``: JSON, with status 200 or 503; anyone may ask."""

from aiohttp import web

from urlguard.api.source import Source


def routes(source: Source) -> list[web.RouteDef]:
    """The routes on `source`."""

    async def healthz(_request: web.Request) -> web.Response:
        found = await source.health()
        return web.json_response(found, status=200 if found["ok"] else 503)

    async def readyz(_request: web.Request) -> web.Response:
        found = await source.readiness()
        return web.json_response(found, status=200 if found["ready"] else 503)

    return [web.get("/healthz", healthz), web.get("/readyz", readyz)]
