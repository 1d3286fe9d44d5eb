"""
Write the lock files: every package that UrlGuard needs, with its version and its hashes.

``requirements.txt`` is what `make run` installs, ``requirements-dev.txt`` adds what tests need.
Both hold for each Python that pyproject.toml permits and for every platform: uv resolves them
together, and where versions differ by Python it adds a marker.  They name no registry, so pip takes
the one that it is configured for.  `make lock` runs this file; it needs that registry.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUN = ROOT / "requirements.txt"
DEV = ROOT / "requirements-dev.txt"

# For tests and tools; the packages of other extras are left to whoever wants them.
EXTRAS = ("train", "dev")

_HEADER = """\
# {title}
# Made by `make lock`; do not edit.
# pyproject.toml: {digest}
"""


def wanted() -> dict[str, list[str]]:
    """What pyproject.toml asks for, by the part that does: ``build``, ``run`` and `EXTRAS`."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    project = found["project"]
    extras = {extra: project["optional-dependencies"][extra] for extra in EXTRAS}
    return {
        "python": [project["requires-python"]],
        "build": found["build-system"]["requires"],
        "run": project["dependencies"],
        **extras,
    }


def digest() -> str:
    """SHA-256 of `wanted`, in hexadecimal: a lock file with another one is stale."""
    return hashlib.sha256(json.dumps(wanted(), sort_keys=True).encode()).hexdigest()


def main() -> None:
    """Resolve anew and write both files; versions are the newest that pyproject.toml permits."""
    with tempfile.TemporaryDirectory() as folder:
        tools = Path(folder, "tools")
        venv.create(tools, with_pip=True)
        pip = [tools / "bin" / "python", "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--disable-pip-version-check", "uv"], check=True)
        # First all of it, then the part that runs in the very same versions.
        dev, run = Path(folder, "dev.txt"), Path(folder, "run.txt")
        _compile(tools, dev, "--extra", "dev")
        _compile(tools, run, "--constraint", str(dev))
        _write(DEV, dev, "What `make test` and `make lint` install.")
        _write(RUN, run, "What `make run` installs.")


def _compile(tools: Path, to: Path, *options: str) -> None:
    """Resolve pyproject.toml, and what builds the package, into one file."""
    lowest = wanted()["python"][0].removeprefix(">=")
    command = [
        *(tools / "bin" / "uv", "pip", "compile", "--quiet", "--no-config", "--universal"),
        *("--python-version", lowest, "--generate-hashes", "--no-header", "--no-annotate"),
        *("--no-emit-index-url", "--no-emit-find-links", "--output-file", to),
        *("pyproject.toml", "-", *options),
    ]
    build = "\n".join(wanted()["build"])
    # uv reads other variables than pip; one folder of wheels must not decide what is locked.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("UV_")}
    subprocess.run(command, cwd=ROOT, input=build, text=True, env=environment, check=True)


def _write(to: Path, resolved: Path, title: str) -> None:
    header = _HEADER.format(title=title, digest=digest())
    to.write_text(header + resolved.read_text("utf-8"), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
