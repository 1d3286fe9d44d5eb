"""
The lock files hold what pyproject.toml asks for, with hashes, and say nothing of where from.
"""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from scripts import lock

FILES = [lock.RUN, lock.DEV]
EVERY_PYTHON = ["3.11", "3.12", "3.13"]
RENEW = "; run `make lock`"


def entries(path):
    """The requirements of a lock file and the number of their hashes."""
    text = path.read_text("utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            requirement, *hashes = line.split(" --hash=")
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", h.strip()) for h in hashes), line
            yield Requirement(requirement.strip()), len(hashes)


def locked(path, python="3.11", machine="x86_64"):
    """The version of each package, for one Python on Linux."""
    there = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    found = {}
    for requirement, _ in entries(path):
        if requirement.marker is None or requirement.marker.evaluate(there):
            name = canonicalize_name(requirement.name)
            assert name not in found, f"{path.name}: {name} twice for Python {python}"
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            found[name] = Version(pin.version)
    return found


def wanted(*parts):
    """The requirements in pyproject.toml, without the package itself."""
    found = [Requirement(text) for part in parts for text in lock.wanted()[part]]
    return [requirement for requirement in found if requirement.name != "urlguard"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_is_of_this_pyproject(path):
    """
    A lock file names the digest of the requirements that it was made from.
    """
    assert f"# pyproject.toml: {lock.digest()}\n" in path.read_text("utf-8"), path.name + RENEW


@pytest.mark.parametrize("python", EVERY_PYTHON)
@pytest.mark.parametrize(
    ("path", "parts"), [(lock.RUN, ["build", "run"]), (lock.DEV, ["build", "run", "train", "dev"])]
)
def test_each_dependency_is_locked_within_its_bounds(path, parts, python):
    """
    Whatever pyproject.toml asks for has one version for each Python, and one that it permits.
    """
    found = locked(path, python)
    for requirement in wanted(*parts):
        name = canonicalize_name(requirement.name)
        assert name in found, f"{path.name}: no {name}{RENEW}"
        assert requirement.specifier.contains(found[name]), f"{path.name}: {requirement}{RENEW}"


@pytest.mark.parametrize("python", EVERY_PYTHON)
def test_both_files_agree(python):
    """
    Tests run on the very versions that people run.
    """
    assert locked(lock.RUN, python).items() <= locked(lock.DEV, python).items()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_entry_has_hashes(path):
    """
    Each package has the hash of one file at least: pip refuses others.
    """
    assert [str(requirement) for requirement, hashes in entries(path) if not hashes] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_place_is_named(path):
    """
    No registry, no address and no folder stands in a lock file: only names, versions and hashes.
    """
    for line in path.read_text("utf-8").splitlines():
        assert line.startswith(("#", "    --hash=sha256:")) or re.fullmatch(
            r"[a-z0-9-]+==[\w.]+( ; [\w.=<>!' ]+)? \\", line
        ), line


def test_private_parts_have_an_upper_bound():
    """
    aiohttp's connection has private methods that we override: a minor version may rename them.
    """
    (aiohttp,) = [r for r in wanted("run") if r.name == "aiohttp"]
    version = locked(lock.RUN)["aiohttp"]
    assert not aiohttp.specifier.contains(f"{version.major}.{version.minor + 1}.0")


def test_the_oldest_python_is_that_of_the_tools():
    """
    The versions are resolved from the oldest Python that pyproject.toml permits.
    """
    with (lock.ROOT / "pyproject.toml").open("rb") as file:
        found = tomllib.load(file)
    assert found["project"]["requires-python"] == f">={EVERY_PYTHON[0]}"
    assert found["tool"]["mypy"]["python_version"] == EVERY_PYTHON[0]
