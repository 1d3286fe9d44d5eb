"""The command line: every command as people call it, in a process of its own."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import click
import dns.message
import dns.query
import dns.rcode
import pytest
from click.testing import CliRunner

from tests.logs import open_file
from urlguard import __version__
from urlguard.classify import model
from urlguard.cli import main
from urlguard.policy.model import Change
from urlguard.publish.rpz.store import State, ZoneStore

SCRIPT = Path(sys.executable).with_name("urlguard")


class Here:
    """A folder with a configuration, a list, and the command."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "list.txt").write_text("evil.example\nbad.example\n")
        self.config = folder / "urlguard.toml"
        self.config.write_text('state_dir = "var"\n[[feed]]\nname = "a"\npath = "list.txt"\n')
        self.database = folder / "var" / "policy.db"

    def run(self, *arguments, cwd=None, **env):
        return subprocess.run(
            [SCRIPT, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd or self.folder,
            env=os.environ | {"NO_COLOR": "1"} | env,
            timeout=60,
        )

    def out(self, *arguments):
        """What a command that succeeds prints."""
        done = self.run(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    def verdict(self, item):
        return json.loads(self.out("check", "--json", item))


@pytest.fixture
def here(tmp_path):
    return Here(tmp_path)


def commands(group, path=()):
    """Every command with the words that call it."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(main))


def test_the_commands_that_people_rely_on():
    """
    The commands of this version; one that is gone breaks somebody's script.
    """
    assert {" ".join(words) for words in COMMANDS} >= {
        "serve", "check-config", "check", "block", "allow", "remove", "feed list", "feed refresh",
        "compile", "log", "status", "completion", "pause", "resume", "backup", "restore",
        "cache flush", "systemd", "rpz", "train", "evaluate", "token create", "token list",
        "token revoke",
    }  # fmt: skip


@pytest.mark.parametrize("words", [(), ("feed",), ("cache",), ("token",), *COMMANDS], ids=" ".join)
def test_every_command_explains_itself(words):
    """
    ``--help`` and ``-h`` say what it does; an option that it does not know is a wrong call.
    """
    runner = CliRunner()
    for option in ("--help", "-h"):
        result = runner.invoke(main, [*words, option])
        assert result.exit_code == 0
        assert result.output.startswith("Usage: ")
        body = result.output.split("\n\n", 1)[1].strip()
        assert body
        assert "  --help" in result.output or "-h, --help" in result.output
    result = runner.invoke(main, [*words, "--nonsense"])
    assert result.exit_code == 2
    assert "--nonsense" in result.output


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_takes_a_configuration_after_its_name(words):
    """
    ``--config FILE``, except where there is nothing to configure.
    """
    options = {o for p in COMMANDS[words].params for o in getattr(p, "opts", ())}
    assert ("--config" in options) is (words != ("completion",))


def test_the_version(here):
    """
    The one version that stands in the package.
    """
    assert __version__ in here.out("--version")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["check-config"], 0),
        (["check", "evil.example"], 0),
        (["status"], 1),
        (["log"], 1),  # nothing is there yet
        (["block", "two words"], 2),
        (["block", "192.0.2.1"], 2),
        (["block", "com"], 2),
        (["block", "evil.example", "--expires", "soon"], 2),
        (["remove", "evil.example"], 1),
        (["feed", "refresh", "nobody"], 2),
        ([], 2),
        (["nonsense"], 2),
        (["block"], 2),
        (["log", "--since", "x"], 2),
        (["completion", "tcsh"], 2),
        (["pause", "--for", "soon"], 2),
        (["resume"], 0),
        (["block", "x.example", "--from", "2020-01-01"], 2),
        (["block", "x.example", "--from", "2100-01-02", "--expires", "2100-01-01"], 2),
        (["backup", "b.db"], 1),
        (["restore", "b.db"], 1),
        (["cache", "flush", "x.example"], 1),
        (["cache", "flush"], 2),
        (["cache", "flush", "--all", "x.example"], 2),
        (["cache", "flush", "two words"], 2),
        (["check", "x.example", "--config", "missing.toml"], 2),
        (["check", "x.example", "--config", "."], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_exit_codes(here, arguments, code):
    """
    0: done. 1: it could not be done, or the answer is no. 2: the call or the configuration is
    wrong.  Never a traceback.
    """
    done = here.run(*arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if code == 1 and arguments[0] not in ("status", "remove"):
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1


def test_a_wrong_configuration_is_told_at_once(here):
    """
    Every problem on its own line, exit code 2, and nothing is made or changed.
    """
    here.config.write_text("x = 1\n[server]\nworkers = 0\n[guard]\nanswer = 'x'\n")
    for command in ("check-config", "serve", "compile"):
        done = here.run(command)
        assert done.returncode == 2
        lines = done.stderr.splitlines()
        assert len(lines) == 3
        assert all(line.startswith("error: urlguard.toml: ") for line in lines)
    assert not (here.folder / "var").exists()


def test_check_config_shows_what_is_probably_not_meant(here):
    """
    Warnings go to stderr and do not fail the check.
    """
    here.config.write_text('[acl]\nallow = ["0.0.0.0/0"]\n')
    done = here.run("check-config")
    assert done.returncode == 0
    assert "open resolver" in done.stderr
    assert f"{here.config}: ok; state in {here.folder / 'var'}" in done.stdout


# -- models in a configuration ---------------------------------------------------------------------


class Models:
    """A folder with copies of the models that came with this version, under names of our own."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def add(self, name, **changes):
        """One more, its card changed; returns where the card is."""
        kind = name.partition("-")[0]
        shipped = model.names(model.folder(), kind)[0]
        for suffix in (".txt", ".tables"):
            (self.folder / f"{name}{suffix}").symlink_to(model.folder() / f"{shipped}{suffix}")
        card = json.loads((model.folder() / f"{shipped}.json").read_text())
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps({**card, "name": name, **changes}))
        return path


@pytest.fixture
def models(here):
    """A folder with a model of each kind."""
    found = Models(here.folder / "models")
    found.add("name-2026-01-01")
    found.add("url-2026-01-01")
    return found


def checked(here, text):
    """What ``check-config`` says of a ``[classify]`` section: exit code, lines on stderr."""
    here.config.write_text(f"[classify]\nmodels = 'models'\n{text}")
    done = here.run("check-config")
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()


OTHER = {
    "own": {"block_at": 0.99, "review_at": 0.5},
    "hosting": {"block_at": 0.99, "review_at": 0.5},
}


def test_models_that_are_as_configured(here, models):
    """
    Nothing is said of a model and another beside it.
    """
    models.add("name-2026-02-01", thresholds=OTHER)
    for text in (
        "",
        "model = 'name-2026-01-01'",
        "model = 'name-2026-01-01'\nshadow = 'name-2026-02-01'",
        "shadow = 'name-2026-02-01'",
    ):
        assert checked(here, text) == (0, [])


@pytest.mark.parametrize("key", ["model", "shadow"])
def test_a_model_that_is_named_must_be_there_and_whole(here, models, key):
    """
    File, key, what was found and what is allowed; exit code 2.
    """
    code, (line,) = checked(here, f"{key} = 'name-2026-01-02'")
    assert code == 2
    assert line.startswith(f"error: urlguard.toml: [classify] {key} = 'name-2026-01-02': ")
    assert "name-2026-01-02.json: No such file" in line
    assert line.endswith("; must be one of name-2026-01-01")
    models.add("name-2026-01-02", features_digest="0" * 64, thresholds=OTHER)
    code, (line,) = checked(here, f"{key} = 'name-2026-01-02'")
    assert code == 2
    assert f"{key} = 'name-2026-01-02': model name-2026-01-02: made for features 0000" in line
    assert "; this version computes " in line


def test_a_model_that_is_not_named_may_be_another(here, models):
    """
    A newer one that cannot be used is told with what is used; that is no error.
    """
    card = models.add("name-2026-02-01", booster_sha256="0" * 64)
    code, (line,) = checked(here, "")
    assert code == 0
    assert line.startswith("warning: [classify] models: ")
    assert f"must be {'0' * 64}, as its card says; name-2026-01-01 is used instead" in line
    card.write_text("{")
    (models.folder / "url-2026-01-01.json").unlink()
    code, lines = checked(here, "")
    assert code == 0
    assert ["name-2026-02-01.json: not a card" in lines[0], "no card url-*.json" in lines[1]] == [
        True,
        True,
    ]
    assert len(lines) == 2
    # Where no model runs, none is opened.
    assert checked(here, "mode = 'off'") == (0, [])
    assert checked(here, "mode = 'off'\nmodel = 'name-2020-01-01'") == (0, [])
    segment = "[[segment]]\nname = 'a'\nnetworks = ['10.0.0.0/8']\nclassify = 'review'"
    assert checked(here, f"mode = 'off'\nmodel = 'name-2020-01-01'\n{segment}")[0] == 2


def test_a_shadow_must_have_another_model_beside_it(here, models):
    """
    The only model has nothing to be compared with, and one that judges alike is no comparison.
    """
    code, (line,) = checked(here, "shadow = 'name-2026-01-01'")
    assert code == 2
    assert "[classify] shadow = 'name-2026-01-01': no other model in " in line
    assert line.endswith("must run beside one")
    models.add("name-2026-02-01", made="2026-02-01")
    code, (line,) = checked(here, "shadow = 'name-2026-02-01'")
    assert code == 0
    assert "shadow = 'name-2026-02-01': gives the same scores as name-2026-01-01" in line
    names = "model = 'name-2026-01-01'\nshadow = 'name-2026-01-01'"
    code, (line,) = checked(here, names)
    assert code == 2
    assert "must not be model, beside which it runs" in line


def test_a_folder_of_models_that_is_not_there(here):
    """
    One line, as an error: rules would decide alone, and nobody meant that.
    """
    code, (line,) = checked(here, "")
    assert code == 2
    assert line.startswith("error: urlguard.toml: [classify] models: must be a folder of models")
    assert line.endswith(f"{here.folder / 'models'}: not there")
    (here.folder / "models").mkdir()
    code, lines = checked(here, "")
    assert code == 0
    assert len(lines) == 2
    assert all("should have one, none is used" in line for line in lines)


def test_paths_are_relative_to_the_configuration(here, tmp_path):
    """
    From another folder, the same state and the same lists are used.
    """
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for way in (["--config", "../urlguard.toml"], ["--config", str(here.config)]):
        done = here.run("feed", "refresh", *way, cwd=elsewhere)
        assert done.returncode == 0, done.stderr
    done = here.run("check", "--json", "evil.example", cwd=elsewhere, URLGUARD_CONFIG=here.config)
    assert json.loads(done.stdout)["action"] == "block"
    assert list(elsewhere.iterdir()) == []
    assert here.database.is_file()


# -- decisions -------------------------------------------------------------------------------------


def test_decisions_without_a_server(here):
    """
    block, allow and remove change the log, `check` sees it at once, and `remove` says what remains.
    """
    here.out("feed", "refresh")
    assert here.verdict("www.evil.example")["rule"]["sources"] == ["feed:a"]
    out = here.out("allow", "evil.example", "--reason", "ticket 7")
    assert out == (
        "allowed subtree evil.example: serial 2, in force at the next start; "
        "other sources: feed:a (block)\n"
    )
    assert here.verdict("www.evil.example")["action"] == "allow"
    out = here.out("remove", "evil.example")
    assert out.startswith("withdrawn subtree evil.example: serial 3")
    assert out.endswith("; other sources: feed:a (block)\n")
    assert here.verdict("www.evil.example")["action"] == "block"
    done = here.run("remove", "evil.example")
    assert done.returncode == 1
    assert done.stdout == (
        "evil.example: the operator has no decision on this subtree; "
        "other sources: feed:a (block)\n"
    )


@pytest.mark.parametrize(
    ("value", "blocked", "free"),
    [
        ("x.example", ["x.example", "www.x.example", "http://x.example/p"], ["xx.example"]),
        ("*.x.example", ["www.x.example"], ["x.example"]),
        ("http://x.example/p", ["x.example/p"], ["x.example", "x.example/q"]),
        ("x.example/", ["http://x.example/any", "www.x.example/"], ["x.example"]),
        ("pay-*-verify.example", ["pay-me-verify.example"], ["pay-verify.example"]),
        ("keyword:paypa1", ["my-paypa1.example"], ["mypaypa1.example"]),
        ("/login*.php", ["x.example/login2.php"], ["x.example"]),
    ],
)
def test_what_a_value_blocks(here, value, blocked, free):
    """
    The kinds of rules as one types them.
    """
    here.out("block", value, "--category", "phishing")
    output = here.out("check", "--json", *blocked, *free)
    actions = [json.loads(line)["action"] for line in output.splitlines()]
    assert actions == ["block"] * len(blocked) + ["none"] * len(free)
    assert json.loads(output.splitlines()[0])["rule"]["category"] == "phishing"


def test_several_values_are_one_batch(here):
    """
    All or nothing, one serial, and the same value twice counts once.
    """
    out = here.out("block", "x.example", "y.example", "X.example.")
    assert out.count("serial 1") == 2
    done = here.run("block", "z.example", "two words")
    assert done.returncode == 2
    assert here.verdict("z.example")["action"] == "none"


def test_removing_several_tells_them_apart(here):
    """
    Of values that are removed at once, those that nobody had decided on are said to be so.
    """
    here.out("block", "x.example")
    out = here.out("remove", "x.example", "y.example").splitlines()
    assert out[0].startswith("withdrawn subtree x.example")
    assert out[1] == "y.example: the operator has no decision on this subtree"


def test_popular_names_need_force(here):
    """
    A slip of the finger must not take a well-known site away.
    """
    done = here.run("block", "co.uk")
    assert (done.returncode, "--force" in done.stderr) == (2, True)
    assert not here.database.exists()
    here.out("block", "co.uk", "--force")
    assert here.verdict("x.co.uk")["action"] == "block"


def test_expiry_is_kept(here):
    """
    --expires is in the log, and a past one is refused.
    """
    here.out("block", "x.example", "--expires", "2100-01-31")
    with contextlib.closing(sqlite3.connect(here.database)) as db:
        assert db.execute("SELECT expires_at FROM claim").fetchall() == [(4105036800,)]
    done = here.run("block", "y.example", "--expires", "2020-01-01")
    assert "is in the past" in done.stderr


def test_texts_that_are_not_utf_8(here):
    """
    Octets that are no text are refused as a value and as a reason.
    """
    octets = os.fsdecode(b"\xff")
    calls = ((["block", f"{octets}.example"], 2), (["block", "x.example", "--reason", octets], 1))
    for arguments, code in calls:
        done = here.run(*arguments)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False)


# -- feeds and the log -----------------------------------------------------------------------------


def test_feeds(here):
    """
    A refresh says what changed, compiles, and `feed list` shows it; a failed one fails the command.
    """
    assert here.out("feed", "refresh") == "a: 2 changes, serial 1\n"
    assert here.out("feed", "refresh", "a") == "a: unchanged\n"
    assert len(list((here.folder / "var" / "snapshots").glob("0*"))) == 1
    (row,) = map(json.loads, here.out("feed", "list", "--json").splitlines())
    assert (row["name"], row["rules"], row["error"]) == ("a", 2, None)
    (here.folder / "list.txt").write_text("<html>\n")
    done = here.run("feed", "refresh")
    assert done.returncode == 1
    assert done.stderr.startswith("error: feed a: looks like an HTML page")
    out = here.out("feed", "list", "--all")
    assert "failed" in out
    assert "HTML page" in out
    assert here.verdict("evil.example")["action"] == "block"


def test_force_takes_a_list_that_shrank(here):
    """
    --force is there for the day when a list really is a tenth of what it was.
    """
    path = here.folder / "list.txt"
    path.write_text("".join(f"h{i}.example\n" for i in range(500)))
    here.out("feed", "refresh")
    path.write_text("h1.example\n")
    assert "--force" in here.run("feed", "refresh").stderr
    assert here.out("feed", "refresh", "--force") == "a: 499 changes, serial 2\n"


def test_what_was_held_back_is_shown(here):
    """
    `feed list` names held rules and bad lines.
    """
    lines = "evil.example\nco.uk\nb@d\none.example\ntwo.example\nthree.example\n"
    (here.folder / "list.txt").write_text(lines)
    here.out("feed", "refresh")
    out = here.out("feed", "list")
    assert "subtree co.uk: public suffix" in out
    assert "line 3: 'b@d'" in out


def test_compile(here):
    """
    Prints the snapshot's folder.
    """
    here.out("block", "x.example")
    path = Path(here.out("compile").strip())
    assert path.name == "0000000001-1"
    assert (path / "manifest.json").is_file()


def test_the_log(here):
    """
    Batches with who and why, as lines or JSON, after a serial.
    """
    here.out("block", "x.example", "--reason", "ticket 7")
    here.out("allow", "y.example")
    assert "operator by " in here.out("log")
    assert "ticket 7" in here.out("log")
    (batch,) = map(json.loads, here.out("log", "--json", "--since", "1").splitlines())
    assert (batch["serial"], batch["source"]) == (2, "operator")


def test_log_verify(here):
    """
    Exit code 0 and the number of batches, or 1 and the first batch that does not fit.
    """
    for i in range(3):
        here.out("block", f"x{i}.example")
    assert here.out("log", "--verify") == "ok: 3 batches, each follows from the one before\n"
    assert json.loads(here.out("log", "--verify", "--json")) == {"ok": True, "damage": None}
    with contextlib.closing(sqlite3.connect(here.database)) as db, db:
        db.execute("UPDATE claim SET category = 'frauD' WHERE from_serial = 2")
    done = here.run("log", "--verify")
    assert (done.returncode, done.stdout) == (1, "batch 2: its claims do not fit its digest\n")
    done = here.run("log", "--verify", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["damage"]["serial"] == 2


def test_a_damaged_log_is_told_in_one_line(here):
    """
    A file that SQLite cannot read is an error with its name, whatever the command.
    """
    here.out("block", "x.example")
    data = here.database.read_bytes()
    here.database.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))
    for command in (["log", "--verify"], ["log"], ["check", "x.example"], ["compile"],
                    ["block", "y.example"], ["feed", "list"]):  # fmt: skip
        done = here.run(*command)
        assert (done.returncode, "Traceback" in done.stderr) == (1, False), (command, done.stderr)
        assert "policy.db" in done.stderr


def test_reading_commands_create_nothing(here):
    """
    Looking around before the first start leaves no files behind.
    """
    before = sorted(p.name for p in here.folder.rglob("*"))
    for command in (["check", "x.example"], ["feed", "list"], ["status"], ["log"],
                    ["check-config"]):  # fmt: skip
        here.run(*command)
    assert sorted(p.name for p in here.folder.rglob("*")) == before


def test_text_from_outside_cannot_drive_the_terminal(here):
    """
    Escape sequences in an item or a reason are shown, not sent.
    """
    here.out("block", "x.example", "--reason", "a\x9b2Jb")
    for arguments in (["check", "a\x1b[2Jb.example"], ["check", "http://a\x9b2J/"], ["log"]):
        done = here.run(*arguments)
        assert done.stdout
        assert "\x1b" not in done.stdout + done.stderr
        assert "\x9b" not in done.stdout + done.stderr


# -- completion ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(here, shell):
    """
    A script that the shell itself finds well-formed, where it is installed.
    """
    script = here.out("completion", shell)
    assert "_URLGUARD_COMPLETE" in script
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=script, text=True, check=False)
        assert checked.returncode == 0


def test_completion_completes(here):
    """
    What the script asks for gives the commands' names.
    """
    done = here.run(_URLGUARD_COMPLETE="bash_complete", COMP_WORDS="urlguard che", COMP_CWORD="1")
    assert {line.partition(",")[2] for line in done.stdout.split()} == {"check", "check-config"}


def test_the_log_of_another_program_is_left_alone(here):
    """
    A newer schema is refused with both versions, and not touched.
    """
    log = open_file(here.folder / "policy.db")
    log.commit("operator", [Change("domain x.example", "block")], actor="t", reason="")
    log.close()
    here.config.write_text('[store]\nurl = "sqlite:///policy.db"\n')
    with contextlib.closing(sqlite3.connect(here.folder / "policy.db")) as db:
        db.execute("PRAGMA user_version = 9")
    done = here.run("block", "y.example")
    assert done.returncode == 1
    assert "schema 9; this version reads 2" in done.stderr


def test_rpz_shows_the_zone_and_what_it_leaves_out(here):
    """
    `rpz` lists the rules that a zone cannot say; `rpz --zone` writes a zone file of the others.
    """
    here.out("block", "x.example", "pay-*-verify.example")
    text = here.out("rpz")
    assert "left out: patterns     1" in text
    assert "pattern pay-*-verify.example: " in text
    zone = here.out("rpz", "--zone")
    assert "x.example" in zone
    assert "pay-" not in zone


# -- pause, scheduled rules, backup ----------------------------------------------------------------


def test_pause_and_resume_without_a_server(here):
    """
    Both change the log, `status` and `check` tell of the pause, and `log` shows it.
    """
    here.out("block", "x.example")
    out = here.out("pause", "--for", "2100-01-31", "--reason", "ticket 9")
    assert out == (
        "filtering is PAUSED until 2100-01-31T00:00:00Z: serial 2, in force at the next start\n"
    )
    done = here.run("status")
    assert done.returncode == 1  # no server
    assert "Filtering is PAUSED until 2100-01-31T00:00:00Z (batch 2, by " in done.stdout
    paused = json.loads(here.run("status", "--json").stdout)["paused"]
    assert (paused["until"], paused["reason"], paused["serial"]) == (4105036800, "ticket 9", 2)
    done = here.run("check", "--json", "x.example")
    assert "PAUSED" in done.stderr
    assert json.loads(done.stdout)["action"] == "block"
    assert "PAUSED   filtering" in here.out("log")
    assert here.out("resume").startswith("filtering is on: serial 3")
    assert "PAUSED" not in here.run("status").stdout
    assert json.loads(here.run("status", "--json").stdout)["paused"] is None
    assert here.verdict("x.example")["action"] == "block"
    assert here.out("log", "--verify").startswith("ok: 3 batches")


def test_status_tells_of_a_pause_through_a_damaged_log(here):
    """
    A log that cannot be read is a warning there, not the end.
    """
    here.out("pause")
    here.database.write_bytes(b"no database" * 1000)
    done = here.run("status", "--json")
    assert json.loads(done.stdout)["paused"] is None
    assert "warning: policy log" in done.stderr


def test_a_rule_that_begins_later(here):
    """
    Said when it is scheduled, shown by `check` and `log`, and withdrawn by `remove`.
    """
    args = ("x.example", "--from", "2100-01-01", "--expires", "7d", "--reason", "ticket 9")
    when = "from 2100-01-01T00:00:00Z until 2100-01-08T00:00:00Z"
    assert here.out("block", *args) == f"scheduled to block subtree x.example {when}: serial 1\n"
    assert here.verdict("x.example")["action"] == "none"
    shown = here.out("check", "www.x.example", "y.example")
    assert shown == (
        "www.x.example  no rule\n"
        f"    scheduled block subtree x.example {when} (operator)\n"
        "y.example  no rule\n"
    )
    assert f"scheduled block subtree x.example {when}" in here.out("log")
    line = f"{when}  block subtree x.example  operator, batch 1  ticket 9\n"
    assert here.out("log", "--scheduled") == line
    (entry,) = map(json.loads, here.out("log", "--scheduled", "--json").splitlines())
    assert (entry["begins_at"], entry["expires_at"], entry["value"]) == (
        4102444800, 4103049600, "x.example",
    )  # fmt: skip
    assert here.out("allow", "x.example").endswith(f"; scheduled: block {when} (operator)\n")
    assert here.out("remove", "x.example", "z.example").splitlines() == [
        "withdrawn subtree x.example: serial 3, in force at the next start",
        f"withdrawn: scheduled to block subtree x.example {when}: serial 3",
        "z.example: the operator has no decision on this subtree",
    ]
    assert here.out("log", "--scheduled") == ""
    assert here.out("log", "--verify").startswith("ok: 3 batches")


def test_planning_twice_the_same_is_said_to_be_so(here):
    """
    The same rule at the same time is one entry; at another time it is another.
    """
    here.out("block", "x.example", "--from", "2100-01-01")
    assert "so already; serial 1" in here.out("block", "x.example", "--from", "2100-01-01")
    here.out("block", "x.example", "--from", "2100-01-02")
    assert here.out("log", "--scheduled").count("\n") == 2


def test_backup_and_restore(here):
    """
    What was decided after the backup is gone, the old log is kept, and the chain goes on.
    """
    here.out("block", "x.example")
    assert here.out("backup", "b.db") == "b.db: 1 batches, up to serial 1; the chain holds\n"
    here.out("block", "y.example")
    here.out("compile")
    done = here.run("backup", "b.db")
    assert (done.returncode, "--force" in done.stderr) == (1, True)
    lines = here.out("restore", "b.db").splitlines()
    assert lines[0] == "restored b.db: 1 batches; the log goes on at serial 3"
    kept = Path(lines[1].removeprefix("the log before is kept in "))
    assert kept.parent == here.database.parent
    assert here.verdict("x.example")["action"] == "block"
    assert here.verdict("y.example")["action"] == "none"
    assert here.out("log", "--verify") == "ok: 2 batches, each follows from the one before\n"
    # Compiled anew: the snapshot of the other history is gone.
    assert [p.name for p in (here.folder / "var" / "snapshots").glob("0*")] == ["0000000003-1"]
    here.out("restore", str(kept))
    assert here.verdict("y.example")["action"] == "block"


@pytest.mark.parametrize("what", ["snapshot", "zone", "kept log", "option"])
def test_restore_goes_on_above_all_that_was_published(here, what):
    """
    Also where the log is gone: snapshots, the zone for others, and logs kept before know serials.
    """
    here.out("block", "x.example")
    here.out("backup", "b.db")
    more = []
    if what == "snapshot":
        for i in range(4):
            here.out("block", f"y{i}.example")
        here.out("compile")
    elif what == "zone":
        with ZoneStore(here.folder / "var" / "rpz.db") as zone, zone.writing():
            zone._set(State(serial=4, at=5))
    elif what == "kept log":
        for i in range(4):
            here.out("block", f"y{i}.example")
        shutil.copy(here.database, here.database.with_name("policy.db.replaced-x"))
    else:
        more = ["--above", "5"]
    here.database.unlink()
    assert "goes on at serial 6\n" in here.out("restore", "b.db", *more)


def test_restore_refuses_a_damaged_backup(here):
    """
    The batch is named, and nothing has changed.
    """
    here.out("block", "x.example")
    here.out("backup", "b.db")
    with contextlib.closing(sqlite3.connect(here.folder / "b.db")) as db, db:
        db.execute("UPDATE claim SET category = 'frauD'")
    done = here.run("restore", "b.db")
    assert done.returncode == 1
    assert "damaged, batch 1: its claims do not fit its digest" in done.stderr
    assert here.out("log").count("\n") == 2


def test_restore_refuses_while_a_server_runs(here):
    """
    Whoever holds the lock of the state folder is named.
    """
    here.out("block", "x.example")
    here.out("backup", "b.db")
    with (here.folder / "var" / "serve.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711\n")
        lock.flush()
        done = here.run("restore", "b.db")
    assert done.returncode == 1
    assert "a server is running on it, process 4711; stop it first" in done.stderr
    assert here.out("restore", "b.db")


def test_the_command_starts_fast():
    """
    The command line imports what a command needs when it needs it: nothing large before.
    """
    program = "import sys, urlguard.cli; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & {
        "rich", "sqlite3", "aiohttp", "dns", "uvloop", "marisa_trie", "ahocorasick", "lightgbm",
        "urlguard.engine", "urlguard.policy.log", "urlguard.server.supervisor",
    }  # fmt: skip


# -- beside a server -------------------------------------------------------------------------------


@pytest.fixture
def serving(here):
    """The folder with a server at work in it, and the server's port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with here.config.open("a") as config:
        config.write(f'[server]\nlisten = ["127.0.0.1:{port}"]\n[api]\nlisten = "127.0.0.1:0"\n')
        config.write('[forward]\nupstreams = ["127.0.0.1:1"]\ntimeout_ms = 50\n')
    with (here.folder / "serve.err").open("w") as errors:
        process = subprocess.Popen(
            [SCRIPT, "serve"], cwd=here.folder, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            assert "answers DNS" in process.stdout.readline(), errors.name
            yield here, port
        finally:
            process.terminate()
            process.communicate(timeout=15)


@pytest.mark.slow
def test_plans_begin_and_pauses_end_by_the_clock(serving):
    """
    A scheduled rule is in force within a second of its time, on every worker; a pause that has an
    end ends; a restore is refused meanwhile, and a backup is not.
    """
    here, port = serving

    def rcode(name):
        query = dns.message.make_query(name, "A")
        return dns.query.udp(query, "127.0.0.1", port=port, timeout=5).rcode()

    assert rcode("x.example") == dns.rcode.SERVFAIL  # nobody is behind it
    out = here.out("block", "x.example", "--from", "2s")
    begins = datetime.fromisoformat(re.search(r"from (\S+):", out)[1].rstrip("Z") + "+00:00")
    assert here.out("backup", "b.db").endswith("the chain holds\n")
    assert "a server is running" in here.run("restore", "b.db").stderr
    assert rcode("x.example") == dns.rcode.SERVFAIL
    time.sleep(max(0.0, begins.timestamp() + 1 - time.time()))
    # Twenty sources of queries meet every worker.
    assert {rcode("x.example") for _ in range(20)} == {dns.rcode.NOERROR}
    out = here.out("pause", "--for", "3s")
    assert "in force on 2 of 2 workers" in out
    assert {rcode("x.example") for _ in range(20)} == {dns.rcode.SERVFAIL}
    assert json.loads(here.out("status", "--json"))["paused"]["until"]
    time.sleep(4)
    assert json.loads(here.out("status", "--json"))["paused"] is None
    assert {rcode("x.example") for _ in range(20)} == {dns.rcode.NOERROR}
    reasons = [line.split()[-1] for line in here.out("log").splitlines() if "by urlguard" in line]
    assert reasons[-2:] == ["begun", "expired"]
