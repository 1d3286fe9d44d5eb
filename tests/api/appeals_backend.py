"""A server that takes appeals: short ways to appeal, to prove and to decide."""

import asyncio
import dataclasses
import time

import pytest

from tests.api.backend import Backend, client, serving
from urlguard.access.buckets import Bucket, Rate
from urlguard.access.roles import Role
from urlguard.api.limits import Limit, Limits
from urlguard.errors import UrlGuardError
from urlguard.policy.model import Change

FREE = Rate(1e9, 1e9)
BLOCK = {"action": "block", "category": "phishing"}
FEED = "feed:list"
DAY = 86_400


class Free(Limits):
    """No limits."""

    def __init__(self):
        super().__init__(time.monotonic)
        for name in ("_appeal", "_see", "_prove", "_proofs"):
            setattr(self, name, Limit(time.monotonic, FREE, FREE))
        self._appeals = Bucket(time.monotonic, FREE)


class File:
    """A proof file."""

    def __init__(self, body):
        self.body = body


class Places:
    """What stands at the places of proofs."""

    def __init__(self):
        self.records = {}
        self.files = {}
        self.asked = []
        self.wait_s = 0.0

    async def txt(self, name):
        self.asked.append(name)
        await asyncio.sleep(self.wait_s)
        if isinstance(found := self.records.get(name, []), Exception):
            raise found
        return found

    async def proof_file(self, name):
        if name not in self.files:
            raise UrlGuardError("404")
        return File(self.files[name])


class AppealsBackend(Backend):
    """The server's surroundings, and short ways to appeal."""

    def __init__(self, folder):
        super().__init__(folder)
        self.places = Places()
        self.often = Free()
        self.tokens.create("second", Role.APPROVER, "test")
        self.second = self.tokens.create("third", Role.APPROVER, "test")

    def services(self):
        return dataclasses.replace(super().services(), proving=self.places, limits=self.often)

    async def ask(self, role, method, path, body=None):
        """Status and document of a request in a role; None: without a token."""
        headers = {} if role is None else self.head(role)
        if role == "third":
            headers = {"Authorization": f"Bearer {self.second}"}
        more = {"json": body} if body is not None else {}
        async with (
            client() as http,
            http.request(method, self.base + path, headers=headers, **more) as answer,
        ):
            return answer.status, await answer.json(content_type=None)

    def head(self, role, **more):
        return {} if role == "third" else super().head(role, **more)

    async def number(self, item):
        """An incident number from the help harness."""
        status, found = await self.ask(Role.ANALYST, "POST", "/v1/incidents", {"item": item})
        assert status == 200
        return found["incident"]

    async def plead(self, item, **more):
        """An appeal that was taken."""
        body = {"incident": await self.number(item), "item": item, "contact": "me@shop.example"}
        status, found = await self.ask(None, "POST", "/v1/appeals", {**body, **more})
        assert status == 200, found
        return found

    async def judge(self, role, ident, what="uphold", **body):
        return await self.ask(role, "POST", f"/v1/appeals/{ident}/{what}", body)

    async def says(self, *items):
        """What checks say of items."""
        body = {"items": list(items)}
        _, found = await self.ask(Role.ANALYST, "POST", "/v1/check", body)
        return [one["action"] for one in found["results"]]

    def say(self, source, *keys, action="block", actor=None, **more):
        """Have the log say something."""
        changes = [Change(key, action, "phishing" if action == "block" else "") for key in keys]
        return self.log.commit(
            source, changes, actor=actor or source.rpartition(":")[2], reason="because"
        )


@pytest.fixture
async def api(tmp_path):
    """A running server."""
    made = AppealsBackend(tmp_path)
    async with serving(made.services()) as made.base:
        yield made
    made.close()
