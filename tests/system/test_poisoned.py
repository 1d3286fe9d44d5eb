"""
A poisoned list: names that everybody needs, among ten thousand good lines.

The good lines must be in force, the poison held and shown, and nobody cut off.
"""

import json
import subprocess

import pytest

from tests.running import UPSTREAM_ADDRESS
from tests.system.test_api import Api
from urlguard import wellknown

GOOD = [f"fraud-{i}.example" for i in range(10_000)]
POISON = {
    "google.com": "protected name",
    "www.google.com": "protected name",
    "gov.cn": "protected name",
    "moe.gov.cn": "government, gov.cn",
    "icbc.com.cn": "bank",
    "www.chase.com": "bank",
    "co.uk": "public suffix",
    "com.cn": "public suffix",
    "windowsupdate.com": "infrastructure",
}
# Whoever lives below or beside the poison.
NEIGHBOURS = ("www.google.com", "mail.google.com", "www.gov.cn", "www.moe.gov.cn", "icbc.com.cn")
NEIGHBOURS += ("mybank.icbc.com.cn", "www.bbc.co.uk", "example.com", "shop.com.cn")


def poisoned():
    """The list, the poison at the beginning, in the middle and at the end."""
    poison = list(POISON)
    lines = [*poison[:3], *GOOD[:5000], *poison[3:7], *GOOD[5000:], *poison[7:]]
    return "".join(f"{line}\n" for line in lines)


def dig(server, name):
    """What dig shows of a name's addresses."""
    command = ["dig", "@127.0.0.1", "-p", str(server.port), name, "A", "+short", "+tries=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.split()


@pytest.mark.slow
def test_a_poisoned_list_cuts_nobody_off(server):
    """
    The good lines block, the poison is held and shown, and who lives beside it is answered.
    """
    running = server(feed=poisoned()).start()
    for name in (GOOD[0], GOOD[4999], GOOD[-1], f"www.{GOOD[7]}"):
        assert dig(running, name) == ["127.0.0.1"], name
    for name in NEIGHBOURS:
        assert dig(running, name) == [UPSTREAM_ADDRESS], name
    (row,) = map(json.loads, running.run("feed", "list", "--json").stdout.splitlines())
    assert (row["rules"], row["quarantined"]) == (len(GOOD), len(POISON))
    assert dict(row["quarantined_rules"]) == {
        f"subtree {name}": why for name, why in POISON.items()
    }
    shown = running.run("feed", "list", "--all").stdout
    for name, reason in POISON.items():
        assert f"subtree {name}: {reason}" in shown
    status, page = Api(running).ask("GET", "/v1/feeds")
    (feed,) = page["items"]
    assert (status, feed["name"], feed["rules"], feed["quarantined"]) == (
        200,
        "list",
        10_000,
        len(POISON),
    )
    assert {one["rule"]: one["reason"] for one in feed["quarantined_rules"]} == dict(
        row["quarantined_rules"]
    )


@pytest.mark.slow
def test_a_good_list_that_is_poisoned_later(server):
    """
    A refresh that brings the poison takes the news and leaves the poison.
    """
    running = server(feed="".join(f"{line}\n" for line in GOOD)).start()
    assert dig(running, GOOD[0]) == ["127.0.0.1"]
    (running.folder / "list.txt").write_text(poisoned() + "news.example\n")
    running.run("feed", "refresh", "list")
    assert dig(running, "news.example") == ["127.0.0.1"]
    for name in NEIGHBOURS:
        assert dig(running, name) == [UPSTREAM_ADDRESS], name


@pytest.mark.parametrize("name", POISON)
def test_the_poison_is_known(name):
    """
    Each of them is held by name, however a list spells the rule.
    """
    for kind in ("subtree", "below"):
        assert wellknown.quarantine_reason(kind, name), kind
