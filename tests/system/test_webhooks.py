"""Webhooks of a real server: from a decision to the fetching process."""

from tests.running import wait_until
from tests.system.test_api import Api

HOOK = {"url": "https://hook.example.org/", "events": ["submission.decided"]}


def test_a_decision_reaches_the_fetching_process(server):
    """
    It is looked up, and not sent to an address that is not public; the message waits.
    """
    running = server().start()
    api = Api(running)
    status, made = api.ask("POST", "/v1/webhooks", HOOK)
    assert status == 200
    status, sent = api.ask("POST", "/v1/submissions", {"url": "http://newshop.example/login"})
    assert (status, sent["state"]) == (200, "queued")

    def state():
        return api.ask("GET", f"/v1/submissions/{sent['id']}")[1]

    wait_until(lambda: state()["state"] == "open", 30)
    status, _ = api.ask("POST", f"/v1/cases/{state()['case']}/decide", {"action": "block"})
    assert status == 200
    assert running.blocks("newshop.example")
    assert (state()["state"], state()["action"]) == ("decided", "block")

    def hook():
        return api.ask("GET", "/v1/webhooks")[1]["items"][0]

    wait_until(lambda: hook()["error"] is not None, 30)
    assert (hook()["id"], hook()["waiting"], hook()["delivered"]) == (made["id"], 1, 0)
    assert "192.0.2.77" in hook()["error"]
    assert '"webhook.failed"' in running.log.read_text()
