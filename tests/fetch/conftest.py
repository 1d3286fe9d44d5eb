"""An authority for the strangers' certificates."""

import pytest

from tests.plugins.forward_upstreams import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """Signs certificates; the test is skipped where there is no openssl."""
    return Authority(tmp_path_factory.mktemp("authority"))
