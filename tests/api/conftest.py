"""A client, and a server with real surroundings."""

import pytest

from tests.api.appeals_backend import api
from tests.api.backend import Backend, client, serving

__all__ = ["api"]


@pytest.fixture
async def http():
    """A client without a proxy."""
    async with client() as session:
        yield session


@pytest.fixture
async def backend(tmp_path):
    """A running server, and what is behind it."""
    made = Backend(tmp_path)
    async with serving(made.services()) as made.base:
        yield made
    made.close()
