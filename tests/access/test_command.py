"""The command line for tokens, in processes of its own."""

import json
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from urlguard.access.roles import Role
from urlguard.access.tokens import Holder, Tokens

TOKEN = r"ug_[0-9A-Za-z]{49}\n"
PAGE = Path(__file__).parents[2] / "docs" / "access.md"


class Here:
    """A folder with a configuration, and the command."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "urlguard.toml").write_text('state_dir = "var"\n')

    def run(self, *arguments, stdout=subprocess.PIPE, **env):
        return subprocess.run(
            [sys.executable, "-m", "urlguard", "token", *arguments],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=self.folder,
            env=os.environ | {"NO_COLOR": "1"} | env,
            timeout=60,
        )

    def out(self, *arguments, **env):
        """What a command that succeeds prints."""
        done = self.run(*arguments, **env)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def refused(self, *arguments):
        """The exit code and the one line of a command that does not."""
        done = self.run(*arguments)
        assert done.stdout == ""
        *_, line = done.stderr.splitlines()
        return done.returncode, line

    def holder(self, text):
        """Who holds a token, for a process of its own."""
        tokens = Tokens(self.folder / "var" / "access.db")
        try:
            return tokens.check(text.strip())
        finally:
            tokens.close()

    def rows(self):
        return [json.loads(line) for line in self.out("list", "--json").splitlines()]


@pytest.fixture
def here(tmp_path):
    return Here(tmp_path)


def test_a_token_from_its_making_to_its_end(here):
    """
    `create` prints it and nothing else, `list` never does, `revoke` ends it.
    """
    assert here.out("list") == "No tokens.\n"
    assert here.out("list", "--json") == ""
    assert not (here.folder / "var").exists()  # looking makes nothing
    text = here.out("create", "alice", "--role", "analyst", LOGNAME="carol")
    assert re.fullmatch(TOKEN, text)
    assert stat.S_IMODE((here.folder / "var" / "access.db").stat().st_mode) == 0o600
    assert here.holder(text) == Holder("alice", Role.ANALYST, 1)
    shown = here.out("list") + here.out("list", "--json")
    assert re.search(r"^alice +analyst +active +made \S+Z by carol +last used ", shown, re.M)
    assert "ug_" not in shown
    assert here.out("revoke", "alice", LOGNAME="dave") == "revoked alice (analyst)\n"
    assert here.holder(text) is None
    (row,) = here.rows()
    assert (row["state"], row["revoked_by"]) == ("revoked", "dave")
    assert "revoked" in here.out("list")


def test_the_object_of_the_list(here):
    """
    Its keys are those that the documentation names.
    """
    text = here.out("create", "alice", "--role", "crawler", "--expires", "90d")
    assert here.holder(text)
    (row,) = here.rows()
    paragraph = next(p for p in PAGE.read_text().split("\n\n") if "`--json`" in p)
    assert set(row) == set(re.findall(r"`(\w+)`", paragraph)) - {"list"}
    assert row["expires_at"] == pytest.approx(time.time() + 90 * 86_400, abs=60)
    assert row["created_at"] == pytest.approx(time.time(), abs=60)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", row["used_on"])
    assert (row["name"], row["role"], row["state"]) == ("alice", "crawler", "active")
    assert (row["number"], row["revoked_at"], row["revoked_by"]) == (1, None, None)
    assert "expires 20" in here.out("list")


def test_exit_codes(here):
    """
    1: not with these tokens. 2: no such name, role or time. One line, and nothing is made.
    """
    assert here.refused("revoke", "alice")[0] == 1
    for arguments in (("create", "alice"), ("create", "alice", "--role", "king")):
        assert here.refused(*arguments)[0] == 2
    for arguments in (
        ("create", "two words", "--role", "admin"),
        ("create", "admin", "--role", "reporter"),
        ("create", "alice", "--role", "admin", "--expires", "soon"),
        ("create", "alice", "--role", "admin", "--expires", "2020-01-01"),
        ("revoke",),
    ):
        code, line = here.refused(*arguments)
        assert (code, line.lower().startswith("error: ")) == (2, True), arguments
    assert here.out("list") == "No tokens.\n"
    here.out("create", "alice", "--role", "analyst")
    code, line = here.refused("create", "ALICE", "--role", "analyst")
    assert (code, "there is one, of role analyst" in line) == (1, True)
    here.out("revoke", "alice")
    assert here.refused("revoke", "alice")[0] == 1
    code, line = here.refused("create", "alice", "--role", "analyst")
    assert (code, "--again" in line) == (1, True)
    assert re.fullmatch(TOKEN, here.out("create", "alice", "--role", "analyst", "--again"))
    assert [row["state"] for row in here.rows()] == ["revoked", "active"]


def test_a_token_that_could_not_be_printed_is_worthless(here):
    """
    Nobody has it, so nobody shall.
    """
    with open("/dev/full", "w") as full:
        done = here.run("create", "alice", "--role", "admin", stdout=full)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr
    assert [row["state"] for row in here.rows()] == ["revoked"]


def test_the_last_admin(here):
    """
    May go, with a word about how to come back; other roles are not counted as one.
    """
    here.out("create", "a", "--role", "admin")
    here.out("create", "b", "--role", "admin")
    here.out("create", "c", "--role", "auditor")
    here.out("revoke", "a")
    here.out("revoke", "c")
    done = here.run("revoke", "b")
    assert done.returncode == 0
    assert "no admin is left" in done.stderr
    assert re.fullmatch(TOKEN, here.out("create", "d", "--role", "admin"))


def test_the_documented_roles():
    """
    The page's table has exactly the roles there are, in their order.
    """
    assert re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.M) == [str(role) for role in Role]
