"""The API of a real server: from the first token to a rule in force on every worker."""

import json
import os
import signal
import urllib.error
import urllib.request

import pytest

from tests.running import wait_until

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Api:
    """A client of a running server."""

    def __init__(self, server):
        self.server = server
        self.token = ""
        wait_until(lambda: self._listening() and (server.folder / "var/admin.token").exists())
        self.base = f"http://{self._listening()}"
        self.token = (server.folder / "var/admin.token").read_text().strip()

    def _listening(self):
        """Where it listens now, from its log."""
        found = [
            json.loads(line)["address"]
            for line in self.server.log.read_text().splitlines()
            if '"api.listening"' in line
        ]
        return found[-1] if found else None

    def ask(self, method, path, body=None, token=None, **headers):
        """Status and document."""
        request = urllib.request.Request(self.base + path, method=method)
        request.add_header("Authorization", f"Bearer {token or self.token}")
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with DIRECT.open(request, data, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, json.load(exc)


def test_a_rule_is_in_force_when_the_api_answers(server):
    """
    Blocked and released on every worker with the answer; the log tells by whom, and verifies.
    """
    running = server(more="[guard]\nblock_ttl_s = 0", workers=2, classify=True).start()
    api = Api(running)
    assert not running.blocks("new.example")
    for n in range(5):
        name = f"fraud{n}.example"
        status, made = api.ask("POST", "/v1/rules", {"rule": name, "reason": "ticket 3"})
        assert (status, made["in_force"], made["workers"]) == (200, 2, 2)
        assert all(running.blocks(f"www.{name}") for _ in range(8))  # whichever worker it is
    status, _ = api.ask("DELETE", f"/v1/rules/{made['id']}?reason=mistake")
    assert status == 200
    assert not any(running.blocks(f"www.{name}") for _ in range(8))
    status, page = api.ask("GET", "/v1/log?limit=1000")
    last = page["items"][-1]
    assert (last["actor"], last["source"], last["reason"]) == ("admin", "operator", "mistake")
    assert last["serial"] == made["serial"] + 1
    assert running.run("log", "--verify").returncode == 0
    status, figures = api.ask("GET", "/v1/stats")
    assert (status, figures["workers"], figures["serial"]) == (200, 2, last["serial"])


def test_tokens_made_and_revoked_beside_it(server):
    """
    A command's token is good with the next request, and bad with the next after its end.
    """
    running = server(workers=2, classify=True).start()
    api = Api(running)
    token = running.run("token", "create", "li.na", "--role", "auditor").stdout.strip()
    assert api.ask("GET", "/v1/log", token=token)[0] == 200
    assert api.ask("POST", "/v1/rules", {"rule": "a.example"}, token=token)[0] == 403
    running.run("token", "revoke", "li.na")
    assert api.ask("GET", "/v1/log", token=token)[0] == 401


@pytest.mark.slow
def test_a_killed_control_process(server):
    """
    Names are answered meanwhile; afterwards what was answered under a key is answered again.
    """
    running = server(workers=2, classify=True).start()
    api = Api(running)
    rule = {"rule": "evil2.example"}
    first = api.ask("POST", "/v1/rules", rule, Idempotency_Key="k")
    assert first[1]["changed"] is True
    before = running.log.read_text().count('"api.listening"')
    (pid,) = running.pids("urlguard.control.control")
    os.kill(pid, signal.SIGKILL)
    assert running.blocks("evil2.example")
    wait_until(lambda: running.log.read_text().count('"api.listening"') > before, 30)
    again = Api(running)
    assert again.ask("POST", "/v1/rules", rule, Idempotency_Key="k") == first
    assert again.ask("POST", "/v1/rules", rule)[1]["changed"] is False
