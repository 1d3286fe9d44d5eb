"""A client, and a server with real surroundings."""

import pytest

from tests.api.court import court
from tests.api.world import World, client, serving

__all__ = ["court"]


@pytest.fixture
async def http():
    """A client without a proxy."""
    async with client() as session:
        yield session


@pytest.fixture
async def world(tmp_path):
    """A running server, and what is behind it."""
    made = World(tmp_path)
    async with serving(made.services()) as made.base:
        yield made
    made.close()
