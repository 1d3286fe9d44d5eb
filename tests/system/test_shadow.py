"""Safe to switch on: a list in shadow on a real server, and what would change."""

import json

import pytest

from tests.running import UPSTREAM_ADDRESS, wait_until
from tests.system.test_api import Api

NEW = "far.example\nwww.evil.example\ngoogle.com\n"


@pytest.fixture
def running(server, tmp_path):
    """A server with a list in force and another in shadow."""
    (tmp_path / "new.txt").write_text(NEW)
    more = '[[feed]]\nname = "new"\npath = "new.txt"\nformat = "domains"\nshadow = true\n'
    return server(more=more, workers=2).start()


def preview(running, *options):
    return json.loads(running.run("feed", "preview", "new", "--json", *options).stdout)


@pytest.mark.slow
def test_a_list_in_shadow_is_counted_until_it_is_let_loose(running):
    """
    Nothing it says is enforced; queries, clients and the share are there to see, then it blocks.
    """
    for _ in range(6):
        assert running.addresses("www.far.example") == [UPSTREAM_ADDRESS]
        assert running.blocks("www.evil.example")  # by the other list
    for _ in range(6):
        assert running.addresses("harmless.example") == [UPSTREAM_ADDRESS]
    wait_until(lambda: preview(running)["shadow"]["queries"] == 12)
    found = preview(running)
    assert (found["action"], found["rules"], found["new"], found["covered"]) == ("shadow", 2, 1, 1)
    assert found["exact"]
    assert found["quarantined"] == [{"rule": "subtree google.com", "reason": "protected name"}]
    assert found["shadow"]["clients"] == 1
    assert found["shadow"]["complete"]
    live = found["sample"]
    assert (live["queries"], live["newly_blocked"], live["sufficient"]) == (18, 6, False)
    assert live["share"] == pytest.approx(1 / 3)
    assert [(one["rule"], one["queries"]) for one in live["rules"]] == [("subtree far.example", 6)]
    assert Api(running).ask("GET", "/v1/preview?feed=new") == (200, found)
    words = running.run("feed", "preview", "new").stdout
    assert "rules     2: 1 new, 1 blocked already" in words
    assert "6 of 18 sampled" in words
    assert "counted   12 queries of 1 clients since" in words

    running.config.write_text(running.config.read_text().replace("shadow = true", ""))
    running.run("feed", "refresh", "new")
    assert running.blocks("www.far.example")
    assert running.addresses("google.com") == [UPSTREAM_ADDRESS]
    assert running.run("log", "--verify").returncode == 0


@pytest.mark.slow
def test_a_rule_in_shadow(running):
    """
    Made, counted and withdrawn like any other, and it blocks nobody.
    """
    out = running.run("block", "--shadow", "mine.example", "google.com").stdout
    assert "shadowed subtree mine.example" in out
    assert "in force on 2 of 2 workers" in out
    for _ in range(4):
        assert running.addresses("a.mine.example") == [UPSTREAM_ADDRESS]
    assert "shadow   subtree mine.example" in running.run("log").stdout
    running.run("compile")
    assert running.addresses("a.mine.example") == [UPSTREAM_ADDRESS]
    figures = running.run("remove", "mine.example").stdout
    assert "withdrawn subtree mine.example" in figures


@pytest.mark.slow
def test_what_rules_would_change(running):
    """
    Rules that nobody has said yet are held against the policy and the live queries.
    """
    for _ in range(5):
        assert running.addresses("busy.example") == [UPSTREAM_ADDRESS]
    asked = {"rules": ["busy.example", "evil.example", "icbc.com.cn", "*.busy.example"]}
    status, found = Api(running).ask("POST", "/v1/preview", asked)
    assert status == 200
    assert (found["rules"], found["new"], found["feed"]) == (4, 3, None)
    assert found["sample"]["newly_blocked"] == 5
    assert found["needs_approval"] == ["subtree icbc.com.cn: bank"]
    assert running.addresses("busy.example") == [UPSTREAM_ADDRESS]


def test_without_a_server(running):
    """
    The list is looked at all the same; what nobody knows is null.
    """
    running.stop()
    found = preview(running)
    assert (found["rules"], found["new"], found["sample"]) == (2, 1, None)
    assert "no server is running" in running.run("feed", "preview", "new").stdout
    failed = running.run("feed", "preview", "other", check=False)
    assert failed.returncode == 2
    assert "feed 'other': not configured; known: new, list" in failed.stderr
