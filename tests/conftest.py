"""What all tests share: golden files, and a real server."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Tests start some thousand processes, and each would compile the package anew without its bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

from tests.running import server, upstream  # noqa: E402, F401 - fixtures

# How long an example takes says how busy the machine is; no test of ours claims anything of it.
settings.register_profile("urlguard", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("urlguard")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--update-golden``."""
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite golden files with what the code gives now; read the diff in review",
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Compare text with a golden file, or rewrite the file under ``--update-golden``."""

    def check(path: Path, text: str) -> None:
        if request.config.getoption("--update-golden"):
            path.write_text(text, "utf-8")
        assert text == path.read_text("utf-8"), f"{path.name} differs; --update-golden rewrites it"

    return check
