"""
``scripts/environment``: it makes the virtual environment, and mends one that something has spoilt.

Each test has a small project of its own: one locked package, from a folder of wheels, and a package
to install by a backend that can be made to hang.  So no registry is asked, and pip is a real one.
"""

import base64
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.running import descendants

ROOT = Path(__file__).parents[1]

PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "small"
version = "1"
"""

# What a build backend is asked for (PEP 660); `hang` is there while pip shall be killed.
BACKEND = """\
import pathlib, time, zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    while pathlib.Path("hang").exists():
        time.sleep(0.05)
    info = "small-1.dist-info"
    with zipfile.ZipFile(pathlib.Path(folder, "small-1-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("small.pth", str(pathlib.Path.cwd()))
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: small\\nVersion: 1\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\n")
        wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\\nsmall = small:main\\n")
        names = "small.pth", f"{info}/METADATA", f"{info}/WHEEL", f"{info}/entry_points.txt"
        wheel.writestr(f"{info}/RECORD", "".join(f"{n},,\\n" for n in (*names, f"{info}/RECORD")))
    return "small-1-py3-none-any.whl"
"""


class Project:
    """A folder with ``scripts/environment`` in it."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.folder = folder
        self.wheels = wheels
        (folder / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "environment", folder / "scripts")
        (folder / "pyproject.toml").write_text(PYPROJECT)
        (folder / "backend.py").write_text(BACKEND)
        (folder / "setup.py").write_text("")
        (folder / "small.py").write_text(
            "def main():\n    import thing\n    print(thing.VERSION)\n"
        )
        self.lock("requirements.txt", "thing", 1)
        self.lock("requirements-dev.txt", "thing", 1)

    def lock(self, file: str, name: str, version: int) -> None:
        """Make a wheel and lock it."""
        wheel = self.wheels / f"{name}-{version}-py3-none-any.whl"
        files = {
            f"{name}.py": f"VERSION = {version}\n",
            f"{name}-{version}.dist-info/METADATA": (
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            ),
            f"{name}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n",
        }
        record = ""
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, text in files.items():
                archive.writestr(zipfile.ZipInfo(path), text)
                sha = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode()
                record += f"{path},sha256={sha.rstrip('=')},{len(text)}\n"
            record += f"{name}-{version}.dist-info/RECORD,,\n"
            archive.writestr(zipfile.ZipInfo(f"{name}-{version}.dist-info/RECORD"), record)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        (self.folder / file).write_text(f"{name}=={version} \\\n    --hash=sha256:{digest}\n")

    def environment(self, **more: str) -> dict[str, str]:
        """The variables for a call; None takes one away."""
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "VIRTUAL_ENV"))}
        pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_NO_CACHE_DIR": "1"}
        return {
            **{k: v for k, v in ours.items() if k not in ("VENV", "PYTHON", "PYTHONPATH")},
            **pip,
            "PIP_FIND_LINKS": str(self.wheels),
            "PYTHON": getattr(sys, "_base_executable", sys.executable),
            **more,
        }

    def start(self, kind: str = "run", **more: str) -> "subprocess.Popen[str]":
        """Begin to set it up."""
        return subprocess.Popen(
            ["sh", self.folder / "scripts" / "environment", kind],
            cwd="/",
            env=self.environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def set_up(self, kind: str = "run", code: int = 0, **more: str) -> str:
        """Set it up, and return what was printed."""
        process = self.start(kind, **more)
        out, _ = process.communicate(timeout=600)
        assert process.returncode == code, out
        return out

    def works(self, version: int = 1) -> bool:
        """Whether the installed command runs, with the locked package."""
        done = subprocess.run(
            [self.folder / ".venv/bin/small"], cwd="/", capture_output=True, text=True, check=False
        )
        return done.stdout == f"{version}\n"

    def packages(self) -> Path:
        """The environment's folder of packages."""
        (found,) = (self.folder / ".venv/lib").glob("python3*/site-packages")
        return found


@pytest.fixture
def project(tmp_path):
    """A project that was never set up."""
    (tmp_path / "wheels").mkdir()
    return Project(tmp_path / "project", tmp_path / "wheels")


@pytest.mark.slow
def test_the_first_time_and_the_second(project):
    """
    The first call makes the environment and says what it does, package by package; the second finds
    nothing to do and says nothing.
    """
    out = project.set_up()
    assert "Making .venv with Python 3." in out
    assert "  1 of 1  thing-1-py3-none-any.whl" in out
    assert "  unpacking 1 packages" in out
    assert project.works()
    assert project.set_up() == ""
    # What tests need comes on top, and what is newly locked in place of the old.
    assert "installed" in project.set_up("dev") or project.works()
    assert project.set_up() == project.set_up("dev") == ""
    project.lock("requirements.txt", "thing", 2)
    assert "thing-2-py3" in project.set_up()
    assert project.works(2)


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["pip", "all"])
def test_kill_9_in_the_middle(project, whom):
    """
    After a kill -9 of pip, or of everything, the next call begins anew: a package that was left
    half written looks whole to pip.
    """
    (project.folder / "hang").touch()
    process = project.start()
    # As long as it takes on a busy machine; it hangs from then on.
    while not [line for line in descendants(process.pid).values() if "editable" in line]:
        assert process.poll() is None
        time.sleep(0.05)
    for pid, line in sorted(descendants(process.pid).items()):
        if whom == "all" or "-m pip" in line:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    out, _ = process.communicate(timeout=30)
    assert process.returncode != 0
    if whom == "pip":
        assert "error: installing failed" in out
    (project.folder / "hang").unlink()
    (project.packages() / "thing.py").unlink(missing_ok=True)
    assert ".venv: its set-up was interrupted; making it anew" in project.set_up()
    assert project.works()


@pytest.mark.slow
def test_half_an_environment_without_pip(project):
    """
    An environment that has no pip is made anew.
    """
    python = project.environment()["PYTHON"]
    subprocess.run([python, "-m", "venv", "--without-pip", project.folder / ".venv"], check=True)
    assert ".venv: it has no pip; making it anew" in project.set_up()
    assert project.works()


@pytest.mark.slow
def test_a_python_that_has_gone_and_a_moved_folder(project):
    """
    The environment is made anew if its Python is gone, and if its folder was moved: its scripts
    name the folder.
    """
    project.set_up()
    python = project.folder / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/nowhere/python3.11")
    assert ".venv: its Python does not run; making it anew" in project.set_up()
    assert project.works()
    before = project.folder
    project.folder = project.folder.rename(project.folder.with_name("elsewhere"))
    assert f".venv: it was made for {before}; making it anew" in project.set_up()
    assert project.works()


@pytest.mark.slow
def test_a_wrong_hash(project):
    """
    A package whose file is not the locked one is not installed; once it is, the next call mends.
    """
    text = (project.folder / "requirements.txt").read_text()
    (project.folder / "requirements.txt").write_text(text[:-5] + "0000\n")
    out = project.set_up(code=1)
    assert "error: installing failed; see above" in out
    assert not (project.packages() / "thing.py").exists()
    (project.folder / "requirements.txt").write_text(text)
    project.set_up()
    assert project.works()


@pytest.mark.slow
def test_two_at_once(project):
    """
    Of two calls at once the second waits, and finds nothing to do.
    """
    calls = [project.start(), project.start()]
    outs = sorted(call.communicate(timeout=600)[0] for call in calls)
    assert [call.returncode for call in calls] == [0, 0]
    assert outs[0] == ""
    assert project.works()


# -- what the machine must have --------------------------------------------------------------------


def script(path, text):
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_an_old_python(project, tmp_path):
    """
    A Python that is too old is named with its version, and the packages to install; nothing is
    made.
    """
    old = script(tmp_path / "python3.9", '[ "$1" = --version ] && echo Python 3.9.18')
    out = project.set_up(code=1, PYTHON=old)
    assert f"error: {old}: found Python 3.9.18; UrlGuard needs Python 3.11 or newer" in out
    assert "apt install python3 python3-venv" in out
    assert "dnf install python3.12" in out
    assert not (project.folder / ".venv").exists()


def test_no_python(project, tmp_path):
    """
    Without any Python the message is the same.
    """
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "dirname", "cat", "pwd", "cksum", "ls", "head"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    out = project.set_up(code=1, PYTHON="", PATH=str(tmp_path / "bin"))
    assert "error: python3: found none; UrlGuard needs Python 3.11 or newer" in out


def test_a_newer_python_beside_the_old_one(project, tmp_path):
    """
    If `python3` is too old, a newer one with its version in its name is taken.
    """
    (tmp_path / "bin").mkdir()
    script(tmp_path / "bin" / "python3", "exit 1")
    # Far enough to be chosen: it has no ensurepip.
    script(tmp_path / "bin" / "python3.13", 'case "$2" in *ensurepip*) exit 1;; esac; echo 3.13')
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    out = project.set_up(code=1, PYTHON="", PATH=path)
    assert "error: python3.13: Python 3.13 has no venv or ensurepip" in out


def test_no_ensurepip(project, tmp_path):
    """
    Debian packs what makes environments apart; the message names the package before anything
    fails.
    """
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "ensurepip.py").write_text("raise ImportError\n")
    out = project.set_up(code=1, PYTHONPATH=str(tmp_path / "stub"))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"Python {version} has no venv or ensurepip" in out
    assert f"apt install python3-venv    (or python{version}-venv)" in out
    assert not (project.folder / ".venv").exists()


def test_no_dig(project, tmp_path):
    """
    Without dig a note names its package; the set-up goes on.
    """
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "dirname", "cat", "pwd", "cksum", "ls", "head"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    # Something that is no environment ends the call soon after.
    (project.folder / ".venv").mkdir()
    (project.folder / ".venv" / "mine").touch()
    out = project.set_up(code=1, PATH=str(tmp_path / "bin"))
    assert "note: no dig on this machine" in out
    assert "bind9-dnsutils" in out
    assert "dnf install bind-utils" in out


def test_a_folder_that_is_no_environment(project):
    """
    A folder of somebody's own is not deleted.
    """
    (project.folder / ".venv").mkdir()
    (project.folder / ".venv" / "mine").touch()
    out = project.set_up(code=1)
    assert "error: .venv: is no virtual environment" in out
    assert (project.folder / ".venv" / "mine").exists()
