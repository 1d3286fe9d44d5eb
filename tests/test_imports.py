"""
What a process imports: each module costs every worker memory and start-up time.

Fresh interpreters, as the supervisor starts them; imports that wait for their first use do not
count, unless the process uses them at its start.
"""

import json
import subprocess
import sys

import pytest

# A worker answers packets with code of its own; these serve downloads, the API and tests.
HTTP = {"aiohttp", "yarl", "multidict", "prometheus_client", "msgspec"}
# tldextract itself is never imported: `names` reads the list that lies in it.
TLDEXTRACT = {"tldextract", "requests", "requests_file", "urllib3", "certifi", "filelock"}
DNS = {"dnslib", "dns"}
HEAVY = {"numpy", "scipy", "lightgbm", "sklearn", "matplotlib", "cryptography", "rich"}


def imported(program):
    """The packages outside the standard library that a program has imported at its end."""
    code = f"{program}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout)} - sys.stdlib_module_names


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("urlguard.names", TLDEXTRACT | DNS | HTTP | HEAVY | {"idna", "click"}),
        ("urlguard.worker.worker", TLDEXTRACT | DNS | HTTP | HEAVY | {"idna", "click"}),
        ("urlguard.control.control", TLDEXTRACT | {"aiohttp", "dnslib", "idna", "click"} | HEAVY),
        ("urlguard.server.supervisor", TLDEXTRACT | DNS | HTTP | HEAVY | {"idna", "click"}),
        ("urlguard.cli", TLDEXTRACT | DNS | HTTP | HEAVY | {"idna"}),
    ],
)
def test_a_process_imports_only_what_it_needs(module, never):
    """
    The program of each process leaves to others what only they need.
    """
    assert imported(f"import {module}") & never == set()


def test_a_registrable_domain_needs_no_network_library():
    """
    The public suffix list is read from tldextract's file; nothing of tldextract is imported.
    """
    found = imported(
        "from urlguard import names; assert names.registrable('a.b.co.uk') == 'b.co.uk'"
    )
    # Beside them, what the installation's .pth files bring.
    assert found <= {"urlguard", "__main__", "_distutils_hack", "sitecustomize"}
