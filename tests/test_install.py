"""
A bare ``pip install`` of the source, without git and without anything beside it, is all it takes.

A full install from the package registry into a fresh environment, nothing borrowed from ours; skips
where the registry cannot be reached.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import venv
from pathlib import Path

import dns.message
import dns.query
import pytest

from urlguard import __version__

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow

# What pip says when nobody answers; a package that is missing from the registry is our mistake.
UNREACHABLE = re.compile(
    r"ConnectionError|ConnectTimeout|ReadTimeout|ProxyError|name resolution|unreachable|refused"
)


def copy_source(to: Path) -> None:
    """What a source archive has: the files that git knows or would add; else the whole folder."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        ignored = shutil.ignore_patterns(".*", "var", "build", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT, to, ignore=ignored)
        return
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The ``urlguard`` command of a fresh environment; the source is deleted once installed."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # all of pytest's processes share one environment
    folder = folder / "installed"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = folder / "result"
        if not result.exists():
            result.write_text(install(folder))
        problem = result.read_text()
    if lines := [line for line in problem.splitlines() if UNREACHABLE.search(line)]:
        pytest.skip(f"no package registry: {lines[-1].strip()}")
    assert not problem
    return folder / "env" / "bin" / "urlguard"


def install(folder: Path) -> str:
    """Install into `folder`; returns what went wrong, or nothing."""
    source = folder / "source"
    copy_source(source)
    venv.create(folder / "env", with_pip=True)
    pip = [folder / "env" / "bin" / "pip", "install", "--quiet", "--retries", "1", "--no-compile"]
    done = subprocess.run([*pip, str(source)], env=bare(), capture_output=True, text=True)
    shutil.rmtree(source)
    return done.stderr if done.returncode else ""


def bare() -> dict[str, str]:
    """The environment without what would lead back to our source."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "URLGUARD_CONFIG")}


def run(command: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """One call, from a folder of its own."""
    return subprocess.run(
        [command, *arguments], cwd=cwd, env=bare(), capture_output=True, text=True, check=False
    )


def test_version(installed, tmp_path):
    """
    The command is there and is of this version.
    """
    done = run(installed, "--version", cwd=tmp_path)
    assert done.stdout == f"urlguard, version {__version__}\n"


def test_the_models_came_along(installed, tmp_path):
    """
    The folder of models is within the installed package, with all that the source has.
    """
    program = "from urlguard.classify import model; print(model.folder())"
    done = run(installed.with_name("python"), "-c", program, cwd=tmp_path)
    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(installed.parents[1])
    theirs = {path.name for path in folder.iterdir()}
    assert theirs == {path.name for path in (ROOT / "models").iterdir()}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(installed, tmp_path, shell):
    """
    A completion script is printed, and what it calls completes commands.
    """
    script = run(installed, "completion", shell, cwd=tmp_path).stdout
    assert "_URLGUARD_COMPLETE" in script
    if shell == "bash":
        syntax = subprocess.run(["bash", "-n"], input=script, text=True, check=False)
        assert syntax.returncode == 0
        asked = {"COMP_WORDS": "urlguard feed ref", "COMP_CWORD": "2"}
        done = subprocess.run(
            [installed],
            cwd=tmp_path,
            env={**bare(), **asked, "_URLGUARD_COMPLETE": "bash_complete"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.split() == ["plain,refresh"]


def test_check_without_any_policy(installed, tmp_path):
    """
    `check` works before there is a policy, says so, and creates no file.
    """
    done = run(installed, "check", "--json", "evil.example", cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["action"] == "none"
    assert "no policy" in done.stderr
    assert not list(tmp_path.iterdir())


def test_serve_blocks_a_name_of_the_built_in_list(installed, tmp_path):
    """
    The built-in list came along: `serve` prints one of its names, which is blocked.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "urlguard.toml"
    config.write_text(f'[server]\nlisten = ["127.0.0.1:{port}"]\nworkers = 1\n')
    with (tmp_path / "errors").open("w") as errors:
        process = subprocess.Popen(
            [installed, "serve", "--config", config],
            cwd="/",
            env=bare(),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            first, second = process.stdout.readline(), process.stdout.readline()
            assert first, (tmp_path / "errors").read_text()
            name = second.split()[-1]
            query = dns.message.make_query(name, "A")
            reply = dns.query.udp(query, "127.0.0.1", timeout=5, port=port)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=15)
    assert second.startswith("Try:   dig @127.0.0.1 -p ")
    assert [str(r) for rrset in reply.answer for r in rrset] == ["127.0.0.1"]
    assert process.returncode == 0
    assert sys.prefix not in (tmp_path / "errors").read_text()
