"""The packaged example of a plugin: its page, its own test, and a real server that runs it."""

import asyncio
import importlib
import re
import subprocess
import sys
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import pytest
import setuptools

from tests.running import MakeServer
from urlguard import plugins
from urlguard.config import Config
from urlguard.errors import ConfigError
from urlguard.plugins import Chain, Parts
from urlguard.plugins.clients import Clients

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "urlguard-plugin-fixed"
PAGE = ROOT / "docs" / "plugins" / "write-your-own.md"

CHAIN = 'plugins = ["acl", "limit", "guard", "fixed", "special", "cache", "rebind", "forward"]\n'
CONFIG = """
[plugin.fixed]
ttl_s = 5

[plugin.fixed.records]
"status.example" = ["A 192.0.2.7", "TXT \\"all is well\\""]
"big.example" = [{big}]
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder into which pip has installed the example."""
    if int(setuptools.__version__.partition(".")[0]) < 78:
        pytest.skip("building the example needs setuptools 78, as building UrlGuard does")
    folder = tmp_path_factory.mktemp("installed")
    source = tmp_path_factory.mktemp("source")
    for file in EXAMPLE.iterdir():
        if file.is_file():  # a build leaves its traces in the copy
            (source / file.name).write_bytes(file.read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    command = [*pip, "--no-build-isolation", "--target", str(folder), str(source)]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    return folder


def test_the_page_shows_the_example():
    """
    Each file of the example stands in the page as it is, so what is read there was run here.
    """
    blocks = re.findall(r"^```(?:python|text)\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    files = [EXAMPLE / n for n in ("pyproject.toml", "urlguard_plugin_fixed.py", "test_fixed.py")]
    for file in files:
        assert file.read_text() in blocks, file.name


def test_the_examples_own_test_passes(installed):
    """
    It needs UrlGuard and the plugin, no server and no network.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null"]
    done = subprocess.run(
        [*command, "--rootdir", str(EXAMPLE), str(EXAMPLE / "test_fixed.py")],
        env={"PYTHONPATH": f"{installed}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_server_runs_the_installed_example(installed, server: MakeServer, monkeypatch):
    """
    Its entry point is found, its options are read, and its records reach the client; an answer
    that is too large for UDP sends the client to TCP.
    """
    monkeypatch.setenv("PYTHONPATH", f"{installed}:{ROOT}")
    big = ", ".join(f"'TXT \"{i:0200}\"'" for i in range(10))
    running = server(more=CONFIG.format(big=big))
    running.config.write_text(CHAIN + running.config.read_text())
    running.start()
    assert running.addresses("status.example") == ["192.0.2.7"]
    found = running.ask("sTaTuS.example", "TXT")
    assert [rrset.to_text() for rrset in found.answer] == ['sTaTuS.example. 5 IN TXT "all is well"']
    assert found.answer[0].ttl == 5
    assert not running.ask("status.example", "MX").answer
    assert running.ask("big.example", "TXT").flags & dns.flags.TC
    assert len(running.ask("big.example", "TXT", tcp=True).answer[0]) == 10


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ttl = 5", "unknown key 'ttl'; did you mean 'ttl_s'?"),
        ("ttl_s = -1", "must be an integer from 0 to 86400"),
        ('records = { "a.example" = ["A x"] }', "[plugin.fixed.records] 'a.example'"),
    ],
)
def test_wrong_options_are_errors_of_the_configuration(
    installed, tmp_path, monkeypatch, line, words
):
    """
    `check-config` names the key, what it is and what it may be, as for the plugins of our own.
    """
    monkeypatch.setenv("PYTHONPATH", f"{installed}:{ROOT}")
    file = tmp_path / "urlguard.toml"
    file.write_text(f'plugins = ["acl", "guard", "fixed", "forward"]\n[plugin.fixed]\n{line}\n')
    command = [sys.executable, "-m", "urlguard", "check-config", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert words in done.stdout + done.stderr


def test_a_built_in_plugin_needs_no_section_of_the_configuration(active, monkeypatch):
    """
    Its class in the table is enough: its options are read from its own table, or are an error.
    """
    monkeypatch.syspath_prepend(EXAMPLE)
    fixed = importlib.import_module("urlguard_plugin_fixed").Fixed
    monkeypatch.setitem(plugins.BUILTIN, "fixed", fixed)

    def build(table):
        whole = Config(plugins=("acl", "fixed"), plugin={"fixed": table})
        loop = asyncio.new_event_loop()
        try:
            return Chain.build(whole, Parts(whole, active, loop, Clients(whole)))
        finally:
            loop.close()

    (_, made) = build({"records": {"status.example": ["A 192.0.2.7"]}}).plugins
    assert type(made) is fixed
    with pytest.raises(ConfigError, match="did you mean 'records'"):
        build({"record": {}})
